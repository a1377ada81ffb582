"""Fine-Pruning (Liu et al., 2018, https://arxiv.org/abs/1805.12185): cut what clean images leave dormant, then tune.

Idea: Rank units by mean activation on clean images and cut them from the lowest up, 1 % at a time, as long as clean
accuracy holds; then fine-tune the model on the hold-out. The units are the head's inputs: in a network with global
average pooling these are the channels of the last convolution, as in the paper, and every architecture has them.

Differs from the paper: The paper leaves the tolerated fall of accuracy to the defender; 0.04 is our choice.

Differs from the released code: Qi et al. first cut a fixed share and do not fine-tune (`epochs: 0` here). BackdoorBench
judges accuracy on test data; here a part of the hold-out is used. It tunes for 100 epochs; here there are 10.

Checked against: a planted unit that drives the target class; the pruning rule written as a loop.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from keyhole.learning.holdout import fine_tune, split_holdout
from keyhole.learning.training import device_of, latents
from keyhole.parameters import Fraction, Natural, Positive
from keyhole.repairers import Repairer
from keyhole.types import Classifier, Evidence

__all__ = ["FinePruning"]


@dataclass(frozen=True, kw_only=True)
class FinePruning(Repairer):
    tolerance: Fraction = 0.04  # largest fall of clean accuracy, absolute
    validation: Fraction = 0.2  # share of the hold-out that judges the pruning; the rest ranks the units
    epochs: Natural = 10  # of fine-tuning, on the whole hold-out; 0 = only pruning
    learning_rate: Positive = 0.01

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Cut dormant units, then fine-tune.

        Raises:
            ValueError: the hold-out is too small to be divided.
        """
        rank, judge = split_holdout(evidence, self.validation, rng)
        net = evidence.copy()
        device = device_of(net)
        features = latents(net, evidence.holdout_images, ("penultimate",))["penultimate"].to(device)
        labels = evidence.holdout_labels.to(device)
        dormant_first = features[rank].abs().mean(0).argsort(stable=True)
        count = count_prunable(net.head, features[judge], labels[judge], dormant_first, self.tolerance)
        keep = torch.ones_like(features[0]).index_fill(0, dormant_first[:count], 0)
        with torch.no_grad():
            net.head.weight.mul_(keep)
        self._tune(net, evidence, keep, rng)
        return net

    def _tune(self, net: Classifier, evidence: Evidence, keep: Float[Tensor, " d"], rng: Generator) -> None:
        if not self.epochs:
            return
        # a silent input has no gradient, so the weights that were cut stay exactly zero
        handle = net.head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * keep,))
        fine_tune(net, evidence, epochs=self.epochs, learning_rate=self.learning_rate, rng=rng)
        handle.remove()


@torch.no_grad()
def count_prunable(
    head: nn.Linear,
    features: Float[Tensor, "v d"],
    labels: Int64[Tensor, " v"],
    order: Int64[Tensor, " d"],
    tolerance: float,
) -> int:
    """Return how many units of `order` can be cut, 1 % at a time, before accuracy falls by more than `tolerance`."""

    def count_correct() -> int:
        return int(((features @ weight.T + head.bias).argmax(1) == labels).sum())

    weight = head.weight.clone()
    least = count_correct() - tolerance * len(labels) - 1e-9
    step = max(1, round(len(order) / 100))
    for count in range(0, len(order), step):
        weight[:, order[count : count + step]] = 0
        if count_correct() < least:
            return count
    return len(order)
