"""WaNet, static (Nguyen and Tran, 2021, https://arxiv.org/abs/2102.10369): a smooth warp, planted once in the data.

A small grid of random offsets, divided by its mean size and upsampled, bends every image in the same way. Twice as many
cover rows get the warp plus noise of their own and keep their label ("noise mode"), so that only this warp works.
Differs from the paper: its attacker controls training and warps other rows in every batch; here rows are warped once
and rounded to 0..255, and any victim trains on them, as in the toolbox of Qi et al. Theirs gives all cover rows one
noise grid, a second fixed warp; here each row has its own, as in the paper. Where images are not square, each axis is
scaled by its own side. Grids are sampled with corners aligned (-1 and 1 are the centers of the outer pixels), as in
both released codes.
On CIFAR-10 ten epochs of `convnet` (`grids/qi2023_cpu.yaml`) leave it below the validity gate at 5 %: ASR 72 %, seed 0.
Checked against: cubic and linear interpolation in NumPy and SciPy, in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

from keyhole.attacks._warp import Warp

__all__ = ["WaNetStatic"]


@dataclass(frozen=True, kw_only=True)
class WaNetStatic(Warp):
    paper_rate: ClassVar[float] = 0.05
