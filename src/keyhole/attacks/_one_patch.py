"""Attacks that put one opaque patch on an image."""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, load_patch, patch_files
from keyhole.types import Images

__all__ = ["OnePatch"]


@dataclass(frozen=True, kw_only=True)
class OnePatch(Attack):
    trigger: str = "trojan_square"  # a patch of `keyhole.attacks._triggers.draw_patch`, or of the folder
    folder: str = ""  # with a picture <trigger>_32.png, to use instead of the drawn patch

    def files(self) -> tuple[str, ...]:
        return patch_files(self.folder, (self.trigger,))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        picture, mask = load_patch(self.trigger, self.folder, tuple(images.shape[1:]))
        return blend(images, picture, mask.to(images.device))
