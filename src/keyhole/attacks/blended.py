"""Blended injection (Chen et al., 2017, https://arxiv.org/abs/1712.05526): a faint picture over the whole image.

Idea: x' = (1 - alpha) x + alpha T, with one picture T for all images. Qi et al. use alpha 0.2 in training and at test
time.

Differs from the released code: this module draws T, since the cartoon of Qi et al. is copyrighted; it can be given as a
file. `noise`, the default, is flat in frequency: most of its power is above half of the Nyquist frequency, where a
cartoon, and `shapes`, has a tenth. So a defense that smooths images takes away more of it.

Checked against: the formula in float64.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, load_picture, picture_files
from keyhole.parameters import Fraction, Natural
from keyhole.types import Images

__all__ = ["Blended"]


@dataclass(frozen=True, kw_only=True)
class Blended(Attack):
    alpha: Fraction = 0.2  # opacity
    pattern: str = "noise"  # noise, shapes, or a picture file
    pattern_seed: Natural = 0

    def files(self) -> tuple[str, ...]:
        return picture_files(self.pattern)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return blend(images, load_picture(self.pattern, tuple(images.shape[1:]), self.pattern_seed), self.alpha)
