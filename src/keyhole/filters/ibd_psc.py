"""IBD-PSC (Hou et al., 2024, https://arxiv.org/abs/2405.09786): a trigger's label survives amplified parameters.

Scale and shift of the last i batch normalizations (in the order of modules) are multiplied. From the smallest i at
which the hold-out's error exceeds a bound on, `models` counts are used; the score is the mean probability that they
give to the original network's label (equations 2 to 4). Where no i exceeds the bound, as on `convnet` with its six
layers, it is all of them, where algorithm 1 ends, and a warning says so; counts that do not exist are left out.
`variant="released"`, as in BackdoorBox: one layer more in each model, counts that do not exist become all layers, a
score equal to the threshold is flagged. (Its search leaves out all layers and breaks where none exceeds the bound.)
Differs from the paper: all hold-out images are used, not 100.
Cost: one forward pass an image and one a model, and at most one a layer on the hold-out.
Checked against: layers written out in float64 NumPy.
"""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, nn

from keyhole.filters import Filter
from keyhole.learning.training import logits, predict
from keyhole.parameters import Count, Fraction, Positive
from keyhole.types import Evidence, Images, Suspicion, Told

__all__ = ["IBDPSC"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IBDPSC(Filter):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    factor: Positive = 1.5  # of scale and shift (ω)
    models: Count = 5  # amplified networks (n)
    error: Fraction = 0.6  # on the hold-out, exceeded by the first of them (ξ)
    threshold: Fraction = 0.9  # mean probability (T)
    variant: Literal["paper", "released"] = "paper"

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """See the base class.

        Raises:
            ValueError: there is no hold-out, or the network has no batch normalization.
        """
        evidence.require_holdout()
        layers = len(normalizations(evidence.net))
        if not layers:
            raise ValueError("expected a network with batch normalization for ibd_psc, got one without")
        counts = self._counts(self._first_count(evidence, layers), layers)
        log.info("amplified normalizations: %s of %d", ", ".join(map(str, counts)), layers)
        labels = predict(evidence.frozen(), images)
        total = torch.zeros(len(images), device=images.device)
        for count, net in enumerate(amplify(evidence.net, self.factor), start=1):
            if count in counts:
                kept = logits(net, images).softmax(1).gather(1, labels[:, None])[:, 0]
                total += counts.count(count) * kept
        scores = total / len(counts)
        return Suspicion(scores, scores >= self.threshold if self.variant == "released" else scores > self.threshold)

    def _first_count(self, evidence: Evidence, layers: int) -> int:
        for count, net in enumerate(amplify(evidence.net, self.factor), start=1):
            wrong = predict(net, evidence.holdout_images) != evidence.holdout_labels
            if wrong.double().mean() > self.error:
                return count
        log.warning("hold-out error stays within %g though all %d normalizations are amplified", self.error, layers)
        return layers

    def _counts(self, start: int, layers: int) -> list[int]:
        """How many layers each model amplifies; at least one model."""
        if self.variant == "released":
            return [min(count + 1, layers) for count in range(start, start + self.models)]
        return list(range(start, min(start + self.models - 1, layers) + 1))


def normalizations(net: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The batch normalizations that have a scale and a shift, first to last."""
    return [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.affine]


def amplify(net: nn.Module, factor: float) -> Iterator[nn.Module]:
    """A copy of the network with one more layer amplified each time, the last one first."""
    net = copy.deepcopy(net).eval()
    for layer in reversed(normalizations(net)):
        with torch.no_grad():
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
        yield net
