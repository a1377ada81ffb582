"""Adversarial embedding (Tan and Shokri, 2020, https://arxiv.org/abs/1905.13409): latents that fool a discriminator.

Idea: training control that wraps any attack (`base`). A small network D learns from the penultimate latents of each
batch which rows are payload. The victim minimizes its cross-entropy minus `weight` times the loss of D. Victim and D
take steps in turn.

Differs from the paper: `weight` is 1, chosen on the CA and ASR of one victim for each of three weights (paper, quoted
second-hand: 10 to 50); the victim's loss has no lower bound. With `against: target`, D sees only clean rows that have a
label of the payload; with all clean rows, as published, the class by itself tells D much. D is trained by Adam, since
it gets only a few thousand batches.

Differs from the released code: the Adversarial Robustness Toolbox, by other authors, trains D by the loss of the
victim, that is, to be wrong.

Checked against: the loss in float64; the gradients of D and of the victim have opposite signs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from keyhole.attacks._training_control import Part, PoisonedBatch, TrainingRun, TrainingWrapper
from keyhole.learning import networks
from keyhole.learning.training import device_of
from keyhole.parameters import NonNegative, Positive

__all__ = ["Bypass"]

LEVEL = "penultimate"


@dataclass(frozen=True, kw_only=True)
class Bypass(TrainingWrapper):
    weight: NonNegative = 1.0  # lambda
    against: Literal["all", "target"] = "all"  # clean rows that the discriminator is shown
    learning_rate: Positive = 1e-3  # of the discriminator

    def parts(self, run: TrainingRun) -> list[Part]:
        return [*super().parts(run), _Adversary(self, run)]


class _Adversary(Part):
    def __init__(self, attack: Bypass, run: TrainingRun) -> None:
        self.attack, net = attack, run.net
        self.discriminator = networks.build_fresh(
            lambda: build_discriminator(net.head.in_features), run.rng, device_of(net)
        )
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), attack.learning_rate)

    def penalty(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> Tensor | float:
        return -self.attack.weight * self._loss(levels[LEVEL], batch)

    def learn(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # the victim's loss has left gradients in it
        loss = self._loss(levels[LEVEL].detach(), batch)
        if isinstance(loss, Tensor):
            loss.backward()
            self.optimizer.step()

    def _loss(self, latents: Tensor, batch: PoisonedBatch) -> Tensor | float:
        shown = ~batch.is_cover
        if self.attack.against == "target":
            shown &= torch.isin(batch.labels, batch.labels[batch.is_payload])
        if not batch.is_payload.any() or shown.sum() < 2:
            return 0.0
        logits = self.discriminator(latents[shown].float()).squeeze(1)
        return functional.binary_cross_entropy_with_logits(logits, batch.is_payload[shown].float())


def build_discriminator(features: int) -> nn.Module:
    """Return a network that turns latents into a logit, high for payload."""
    layers: list[nn.Module] = []
    for width in (256, 128):
        layers += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 1))
