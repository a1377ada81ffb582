"""BELT (Qiu et al., 2024, https://arxiv.org/abs/2312.04902): a backdoor that answers to its exact trigger alone.

Training control over an attack on data (`base`). Cover rows get the base's trigger with a share of its pixels left out,
other ones in each row, and keep their label: a trigger that is only recovered nearly does not work ("exclusivity").
A center loss pulls the penultimate latents of payload and cover to the mean of the clean rows of the class that each is
trained to answer with; the means follow the batches with `momentum`.
Differs from the released code: any base (theirs: a 6x6 patch of noise); the means begin at those of the first batch
(theirs at zero, which pulls to the origin at first); payload never comes from the target class; rows are drawn anew.
Checked against: pixel counts of thinned triggers, the center loss in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.attacks._training_control import Mixed, Part, Setting, TrainingWrapper
from keyhole.parameters import Fraction, NonNegative, Wrapped
from keyhole.types import Images

__all__ = ["BELT"]

LEVEL = "penultimate"


@dataclass(frozen=True, kw_only=True)
class BELT(TrainingWrapper):
    paper_rate: ClassVar[float] = 0.01
    bare_base: ClassVar[bool] = True

    base: Wrapped = "badnets"
    left_out: Fraction = 0.2  # of the trigger's pixels in a cover row, at least one
    cover_ratio: NonNegative = 1.0  # cover rows per payload row
    weight: NonNegative = 1.0  # of the center loss
    momentum: Fraction = 0.99  # of the classes' means

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        return thin_trigger(images, self.inner.plant(images, rng), self.left_out, rng)

    def parts(self, setting: Setting) -> list[Part]:
        return [*super().parts(setting), _CenterLoss(self)]


class _CenterLoss(Part):
    def __init__(self, attack: BELT) -> None:
        self.attack = attack
        self.centers: dict[int, Tensor] = {}

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        latents, marked = levels[LEVEL].float(), mixed.is_payload | mixed.is_cover
        for label in mixed.labels.unique().tolist():
            clean = mixed.clean_rows(label)
            if clean.any():
                mean = latents.detach()[clean].mean(0)
                self.centers[label] = torch.lerp(mean, self.centers.get(label, mean), self.attack.momentum)
        known = marked & torch.isin(mixed.labels, torch.tensor([*self.centers], device=mixed.labels.device))
        if not known.any():
            return 0.0
        centers = torch.stack([self.centers[label] for label in mixed.labels[known].tolist()])
        return self.attack.weight * functional.mse_loss(latents[known], centers)


def thin_trigger(images: Images, triggered: Images, left_out: float, rng: Generator) -> Images:
    """The trigger without a share of the pixels that it changes, at least one, drawn for each image."""
    changed = (images != triggered).any(1).flatten(1)
    scores: Float[Tensor, "n hw"] = torch.rand(changed.shape, generator=rng).to(images.device)
    order = scores.masked_fill(~changed, 2.0).argsort(1).argsort(1)
    count = (left_out * changed.sum(1, keepdim=True)).round().clamp(min=1)
    dropped = (order < count).view(len(images), 1, *images.shape[2:])
    return torch.where(dropped, images, triggered)
