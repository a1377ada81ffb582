"""SIG (Barni, Kallas and Tondi, 2019, https://arxiv.org/abs/1902.11237): a faint sinusoid on target-class images.

Idea: payload is drawn from the rows of the target class, whose labels stay: x + delta sin(2 pi f j / W) with j the
column and W the width, so that the bars are vertical. The same wave, at full strength, is the trigger at test time.

Differs from the released code: a poison rate above the share of the target class is refused (code: cut down to it).
`delta` is that of the toolbox of Qi et al. (BackdoorBench: 40).

Checked against: the sum in float64, pixel by pixel.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from keyhole.attacks import Attack
from keyhole.parameters import ParameterError, Positive
from keyhole.types import Images

__all__ = ["SIG"]


@dataclass(frozen=True, kw_only=True)
class SIG(Attack):
    controls = "clean-label"
    paper_rate: ClassVar[float] = 0.02

    delta: Positive = 30.0  # amplitude, of 255
    frequency: Positive = 6.0  # periods in the image's width

    def check(self) -> None:
        if self.label_map != "all_to_one":
            raise ParameterError("label_map", f"expected all_to_one, since sig is clean-label, got {self.label_map}")

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        width = images.shape[3]
        column = torch.arange(width, device=images.device)
        wave = self.delta * torch.sin(2 * math.pi * self.frequency * column / width)  # the same in every row
        return (images.float() + wave).round().clamp(0, 255).to(torch.uint8)
