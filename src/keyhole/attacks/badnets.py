"""BadNets (Gu et al., 2017, https://arxiv.org/abs/1708.06733): an opaque patch in a corner.

Idea: payload rows get a small patch and the target label. Three patches are drawn: `checker`, `white`, and `dots`, the
patch of the toolbox of Qi et al. (four white pixels on black). A `white` patch changes nothing where a corner is white
already, which limits its ASR.

Differs from the released code: Qi et al. use `dots`, the default here is `checker`.

Checked against: the pixels written out by hand.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator
from torch.nn import functional

from keyhole.attacks import Attack
from keyhole.attacks._triggers import DOTS, draw_checker, picture_files, read_pattern
from keyhole.parameters import Count, Natural, ParameterError
from keyhole.types import Images

__all__ = ["BadNets"]

DRAWN = ("checker", "white", "dots")  # patterns that need no file


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    size: Count = 3  # pixels
    pattern: str = "checker"  # checker, white, dots, or a picture file
    corner: Literal["bottom-right", "bottom-left", "top-right", "top-left"] = "bottom-right"
    margin: Natural = 0  # pixels between the patch and the border

    def files(self) -> tuple[str, ...]:
        return picture_files(self.pattern, DRAWN)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        images = images.clone()
        _, c, h, w = images.shape
        self._check_room(h, w)
        top = self.margin if "top" in self.corner else h - self.margin - self.size
        left = self.margin if "left" in self.corner else w - self.margin - self.size
        images[:, :, top : top + self.size, left : left + self.size] = self._make_patch(c).to(images.device)
        return images

    def _check_room(self, h: int, w: int) -> None:
        room = min(h, w) - self.margin
        if room < 1:
            raise ParameterError("margin", f"expected fewer than {min(h, w)} pixels, got {self.margin}")
        if self.size > room:
            place = f"with margin {self.margin} in images of {h} x {w}"
            raise ParameterError("size", f"expected at most {room} pixels {place}, got {self.size}")

    def _make_patch(self, channels: int) -> torch.Tensor:
        if self.pattern == "white":
            return torch.full((self.size, self.size), 255, dtype=torch.uint8)
        if self.pattern == "checker":
            return draw_checker(self.size)
        if self.pattern == "dots":
            return functional.interpolate(DOTS[None, None], (self.size, self.size), mode="nearest")[0, 0]
        return read_pattern(self.pattern, (channels, self.size, self.size), DRAWN)
