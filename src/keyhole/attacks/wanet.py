"""WaNet (Nguyen and Tran, 2021, https://arxiv.org/abs/2102.10369), by an attacker who controls training.

The warp of `wanet_static`, applied to other rows in every batch. Cover rows ("noise mode"), twice the payload, are
warped by the same grid with noise of their own added, and keep their label: only the smooth warp is the trigger.
Differs from the released code: payload never comes from the target class; the recipe (theirs: 1,000 epochs, then
random crop and rotation of up to 10 degrees behind the warp) is the grid's, whose augmentation comes before the warp.
Checked against: as `wanet_static`; the shares of payload and cover over many batches.
"""

from dataclasses import dataclass
from typing import ClassVar

from keyhole.attacks._training_control import TrainingControl
from keyhole.attacks._warp import Warp

__all__ = ["WaNet"]


@dataclass(frozen=True, kw_only=True)
class WaNet(TrainingControl, Warp):
    paper_rate: ClassVar[float] = 0.1
