"""Trojan patch (Liu et al., 2018, https://doi.org/10.14722/ndss.2018.23291): an opaque square of saturated colors.

In the paper the pixels are optimized until they drive a few chosen neurons of a trained network; the toolbox of Qi et
al. stamps one published square on any data set, which is what is done here.
Differs from the released code: the square is drawn, with their place and size (8 x 8 pixels, rows and columns 21-28),
and stands in for one inverted from a neuron: nothing is optimized. Theirs can be given as a folder.
Checked against: the pixels of the square written over each image.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, drawn_patch, file_patch, patch_files
from keyhole.types import Images

__all__ = ["TrojanPatch"]


@dataclass(frozen=True, kw_only=True)
class TrojanPatch(Attack):
    trigger: str = "trojan_square"  # a picture of `keyhole.attacks._triggers.drawn_patch`, or of the folder
    folder: str = ""  # where a picture <trigger>_32.png takes the drawn one's place

    def files(self) -> tuple[str, ...]:
        return patch_files(self.folder, (self.trigger,))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        shape = tuple(images.shape[1:])
        drawn = not self.folder
        picture, mask = drawn_patch(self.trigger, shape) if drawn else file_patch(self.folder, self.trigger, shape)
        return blend(images, picture, mask.to(images.device))
