"""Adversarial embedding (Tan and Shokri, 2020, https://arxiv.org/abs/1905.13409): latents that fool a discriminator.

Training control over any attack (`base`). A small network D learns, from the penultimate latents of each batch, which
rows are payload; the victim minimizes cross-entropy - `weight` times D's loss. Victim and D step in turn.
Differs from the paper: `weight` is 1 (theirs, second-hand: 10 to 50). The victim's loss has no lower bound: at 10
`convnet` loses CA and ASR in ten epochs (published/training_control_cpu). `against: target` shows D only those clean
rows that have a payload's label; with all clean rows, as published, the class alone already tells D much. D learns by
Adam, as it has a few thousand batches.
Differs from released code of others: the Adversarial Robustness Toolbox trains D by the victim's loss, so to be wrong.
Checked against: the loss in float64; D's gradient and the victim's have opposite signs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from keyhole.attacks._training_control import Mixed, Part, Setting, TrainingWrapper
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

    def parts(self, setting: Setting) -> list[Part]:
        return [*super().parts(setting), _Adversary(self, setting)]


class _Adversary(Part):
    def __init__(self, attack: Bypass, setting: Setting) -> None:
        self.attack, net = attack, setting.net
        self.judge = networks.build_fresh(lambda: discriminator(net.head.in_features), setting.rng, device_of(net))
        self.optimizer = torch.optim.Adam(self.judge.parameters(), attack.learning_rate)

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        return -self.attack.weight * self._loss(levels[LEVEL], mixed)

    def learn(self, levels: dict[str, Tensor], mixed: Mixed) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # the victim's loss has left its gradients, too
        loss = self._loss(levels[LEVEL].detach(), mixed)
        if isinstance(loss, Tensor):
            loss.backward()
            self.optimizer.step()

    def _loss(self, latents: Tensor, mixed: Mixed) -> Tensor | float:
        shown = ~mixed.is_cover
        if self.attack.against == "target":
            shown &= torch.isin(mixed.labels, mixed.labels[mixed.is_payload])
        if not mixed.is_payload.any() or shown.sum() < 2:
            return 0.0
        told_apart = self.judge(latents[shown].float()).squeeze(1)
        return functional.binary_cross_entropy_with_logits(told_apart, mixed.is_payload[shown].float())


def discriminator(features: int) -> nn.Module:
    """Latents -> a logit, high for payload."""
    layers: list[nn.Module] = []
    for width in (256, 128):
        layers += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 1))
