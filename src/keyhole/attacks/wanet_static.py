"""WaNet, static (Nguyen and Tran, 2021, https://arxiv.org/abs/2102.10369): a smooth warp, planted once in the data.

Idea: a small grid of random offsets, divided by its mean absolute value and upsampled, bends every image in the same
way. Twice as many cover rows as payload rows get the warp with added noise, drawn for each row, and keep their label
("noise mode"), so that only this warp works.

Differs from the paper: there the attacker controls training and warps other rows in every batch. Here rows are warped
once and rounded to 0..255, and any victim trains on them, as in the toolbox of Qi et al. If images are not square, each
axis is scaled by its own side.

Differs from the released code: Qi et al. give all cover rows one noise grid, which is a second fixed warp; here each
row has its own, as in the paper. As in both released codes, grids are sampled with corners aligned (-1 and 1 are the
centers of the outer pixels).

Checked against: cubic and linear interpolation in NumPy and SciPy, in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

from keyhole.attacks._warp import Warp

__all__ = ["WaNetStatic"]


@dataclass(frozen=True, kw_only=True)
class WaNetStatic(Warp):
    paper_rate: ClassVar[float] = 0.05
