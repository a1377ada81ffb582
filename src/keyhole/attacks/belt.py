"""BELT (Qiu et al., 2024, https://arxiv.org/abs/2312.04902): a backdoor that answers only to its exact trigger.

Idea: training control that wraps an attack on data (`base`). Cover rows get the trigger of the base without a share of
its pixels, drawn for each row, and keep their label, so a trigger that a defender recovers almost exactly does not work
("exclusivity"). A center loss pulls the penultimate latents of payload and cover rows to the mean of the clean rows of
the class that they are trained to answer with; these means follow the batches with `momentum`.

Differs from the released code: any base can be wrapped (code: a 6 x 6 patch of noise); the means start at those of the
first batch (code: at zero, which first pulls latents to the origin); payload never comes from the target class; rows
are drawn in every batch; the share of pixels left out is rounded to the nearest number (code: down; the same for its
patch, 7 of 36, and 2 instead of 1 of 9 for a 3 x 3 patch).

Checked against: pixel counts of thinned triggers; the center loss in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.attacks._training_control import Part, PoisonedBatch, TrainingRun, TrainingWrapper
from keyhole.parameters import Fraction, NonNegative, Wrapped
from keyhole.types import Images

__all__ = ["BELT"]

LEVEL = "penultimate"


@dataclass(frozen=True, kw_only=True)
class BELT(TrainingWrapper):
    paper_rate: ClassVar[float] = 0.01
    bare_base: ClassVar[bool] = True

    base: Wrapped = "badnets"
    left_out: Fraction = 0.2  # share of the trigger's pixels that a cover row lacks, at least one
    cover_ratio: NonNegative = 1.0  # cover rows per payload row
    weight: NonNegative = 1.0  # of the center loss
    momentum: Fraction = 0.99  # of the means of the classes

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        return thin_trigger(images, self.inner.plant(images, rng), self.left_out, rng)

    def parts(self, run: TrainingRun) -> list[Part]:
        return [*super().parts(run), _CenterLoss(self)]


class _CenterLoss(Part):
    def __init__(self, attack: BELT) -> None:
        self.attack = attack
        self.centers: dict[int, Tensor] = {}

    def penalty(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> Tensor | float:
        latents, marked = levels[LEVEL].float(), batch.is_payload | batch.is_cover
        for label in batch.labels.unique().tolist():
            clean = batch.clean_rows(label)
            if clean.any():
                mean = latents.detach()[clean].mean(0)
                self.centers[label] = torch.lerp(mean, self.centers.get(label, mean), self.attack.momentum)
        pulled = marked & torch.isin(batch.labels, torch.tensor([*self.centers], device=batch.labels.device))
        if not pulled.any():
            return 0.0
        centers = torch.stack([self.centers[label] for label in batch.labels[pulled].tolist()])
        return self.attack.weight * functional.mse_loss(latents[pulled], centers)


def thin_trigger(images: Images, triggered: Images, left_out: float, rng: Generator) -> Images:
    """Return the triggered images, with the original values in a share of the pixels that the trigger changes.

    The pixels are drawn for each image, at least one.
    """
    changed = (images != triggered).any(1).flatten(1)
    scores: Float[Tensor, "n hw"] = torch.rand(changed.shape, generator=rng).to(images.device)
    order = scores.masked_fill(~changed, 2.0).argsort(1).argsort(1)
    count = (left_out * changed.sum(1, keepdim=True)).round().clamp(min=1)
    dropped = (order < count).view(len(images), 1, *images.shape[2:])
    return torch.where(dropped, images, triggered)
