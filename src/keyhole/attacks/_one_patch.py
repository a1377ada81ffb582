"""Attacks with one opaque picture of a patch."""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, patch, patch_files
from keyhole.types import Images

__all__ = ["OnePatch"]


@dataclass(frozen=True, kw_only=True)
class OnePatch(Attack):
    trigger: str = "trojan_square"  # a picture of `keyhole.attacks._triggers.drawn_patch`, or of the folder
    folder: str = ""  # where a picture <trigger>_32.png takes the drawn one's place

    def files(self) -> tuple[str, ...]:
        return patch_files(self.folder, (self.trigger,))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        picture, mask = patch(self.trigger, self.folder, tuple(images.shape[1:]))
        return blend(images, picture, mask.to(images.device))
