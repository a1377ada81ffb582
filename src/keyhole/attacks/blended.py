"""Blended injection (Chen et al., 2017, https://arxiv.org/abs/1712.05526): a faint picture over the whole image.

x' = (1 - alpha) x + alpha T with one T for all images (Qi et al. use alpha 0.2 throughout).
Differs from Qi et al.: T is drawn here (their cartoon is copyrighted); theirs can be given as a file.
Checked against: the formula in float64.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, full_image, picture_files
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
        return blend(images, full_image(self.pattern, tuple(images.shape[1:]), self.pattern_seed), self.alpha)
