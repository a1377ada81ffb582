"""BadNets (Gu et al., 2017, https://arxiv.org/abs/1708.06733): an opaque patch in a corner.

`dots` is the patch of Qi et al.'s code (four white pixels on black); `checker` is learned at the lowest rates; `white`
has a ceiling, since where the corner is bright already nothing changes.
Differs from Qi et al.: their patch is `dots`. Checked against: the pixels written out by hand.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator
from torch.nn import functional

from keyhole.attacks import Attack
from keyhole.attacks._triggers import DOTS, checker, picture_files, read_picture
from keyhole.parameters import Count, Natural
from keyhole.types import Images

__all__ = ["BadNets"]


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    size: Count = 3  # pixels
    pattern: str = "checker"  # checker, white, dots, or a picture file
    corner: Literal["bottom-right", "bottom-left", "top-right", "top-left"] = "bottom-right"
    margin: Natural = 0  # pixels between the patch and the border

    def files(self) -> tuple[str, ...]:
        return picture_files(self.pattern, ("checker", "white", "dots"))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        images = images.clone()
        _, c, h, w = images.shape
        if self.size + self.margin > min(h, w):
            raise ValueError(f"expected size + margin of at most {min(h, w)} pixels, got {self.size} + {self.margin}")
        top = self.margin if "top" in self.corner else h - self.margin - self.size
        left = self.margin if "left" in self.corner else w - self.margin - self.size
        images[:, :, top : top + self.size, left : left + self.size] = self._patch(c).to(images.device)
        return images

    def _patch(self, channels: int) -> torch.Tensor:
        if self.pattern == "white":
            return torch.full((self.size, self.size), 255, dtype=torch.uint8)
        if self.pattern == "checker":
            return checker(self.size)
        if self.pattern == "dots":
            return functional.interpolate(DOTS[None, None], (self.size, self.size), mode="nearest")[0, 0]
        return read_picture(self.pattern, (channels, self.size, self.size))
