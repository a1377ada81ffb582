"""WaNet (Nguyen and Tran, 2021, https://arxiv.org/abs/2102.10369): a smooth warp, by an attacker who controls training.

Idea: the warp of `wanet_static`, applied to other rows in every batch. Twice as many cover rows as payload rows get the
same warp with added noise, drawn for each row, and keep their label ("noise mode"), so that only the smooth warp is the
trigger.

Differs from the released code: payload never comes from the target class; the grid decides the recipe, and its
augmentation comes before the warp (code: 1,000 epochs, with random crops and rotations of up to 10 degrees after the
warp).

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
