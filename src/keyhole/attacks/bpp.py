"""BppAttack (Wang et al., 2022, https://arxiv.org/abs/2205.13383): a smaller number of colors is the trigger.

Idea: x' = round(x (d - 1)) / (d - 1) with d colors per channel, x in 0..1. Cover rows ("negatives") get the
*difference* that this makes to another image and keep their label, so the victim learns to look for coarse colors and
not for any faint noise. The attacker controls training and draws rows in every batch.

Differs from the paper: Floyd-Steinberg dithering, which the paper describes, is off by default, as in the released
code.

Differs from the released code: payload never comes from the target class; the other image of a negative is from the
same batch (code: any training image); the grid decides the recipe (code: 1,000 epochs).

Checked against: the formula in float64, and a pixel loop of the dithering.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Generator

from keyhole.attacks._training_control import CrossTrigger
from keyhole.parameters import NonNegative
from keyhole.types import Images

__all__ = ["Bpp"]


@dataclass(frozen=True, kw_only=True)
class Bpp(CrossTrigger):
    paper_rate: ClassVar[float] = 0.2

    colors: Annotated[int, Interval(ge=2, le=255)] = 8  # per channel
    dithering: bool = False
    cover_ratio: NonNegative = 1.0  # cover rows per payload row

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return (dither if self.dithering else quantize)(images, self.colors)

    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        return (images + (self.apply_trigger(donors, rng).float() - donors)).clamp(0, 255).to(torch.uint8)


def quantize(images: Images, colors: int) -> Images:
    """Replace each value by the nearest of equally spaced ones, `colors` per channel."""
    return _nearest(images.float(), 255 / (colors - 1)).round().to(torch.uint8)


def _nearest(x: torch.Tensor, step: float) -> torch.Tensor:
    return (x / step + 0.5).floor() * step  # rounds halves up; torch.round would round them to even


def dither(images: Images, colors: int) -> Images:
    """Quantize pixel by pixel from the top left, and add each error to the next pixels (Floyd and Steinberg, 1976)."""
    step = 255 / (colors - 1)
    h, w = images.shape[2:]
    x = torch.nn.functional.pad(images.float(), (1, 1, 0, 1))
    for row in range(h):
        for column in range(1, w + 1):
            old = x[:, :, row, column].clone()
            new = _nearest(old, step).clamp(0, 255)
            x[:, :, row, column], error = new, (old - new) / 16
            x[:, :, row, column + 1] += 7 * error
            x[:, :, row + 1, column - 1] += 3 * error
            x[:, :, row + 1, column] += 5 * error
            x[:, :, row + 1, column + 1] += error
    return x[:, :, :h, 1 : w + 1].round().to(torch.uint8)
