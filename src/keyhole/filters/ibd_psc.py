"""IBD-PSC (Hou et al., 2024, https://arxiv.org/abs/2405.09786): a trigger's label survives amplified parameters.

Idea: The scale and shift of the last i batch normalizations are multiplied by a factor. From the smallest i on at which
the error on the hold-out exceeds a bound, `models` networks are used, each with one more normalization amplified. The
score is the mean probability that they give to the original network's label (equations 2 to 4).

Differs from the paper: All hold-out images are used, not 100. If no i exceeds the bound, i is the number of
normalizations, where algorithm 1 ends, and a warning says so. If there are too few normalizations for `models`
networks, fewer networks are used.

Differs from the released code: In BackdoorBox each model amplifies one normalization more, a count above the number of
normalizations becomes that number, and a score equal to the threshold is flagged; `variant="released"` does the same.
BackdoorBox's search never amplifies all normalizations, and it fails if no i exceeds the bound.

Checked against: layers written out in float64 NumPy.

Cost: one forward pass for each image, one more for each model, and on the hold-out at most one for each normalization.
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

    factor: Positive = 1.5  # multiplies scale and shift (ω)
    models: Count = 5  # amplified networks (n)
    error: Fraction = 0.6  # on the hold-out; the first amplified network exceeds it (ξ)
    threshold: Fraction = 0.9  # mean probability above which an input is flagged (T)
    variant: Literal["paper", "released"] = "paper"

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """Score images by the mean probability that amplified networks give to their label.

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
                probability = logits(net, images).softmax(1).gather(1, labels[:, None])[:, 0]
                total += counts.count(count) * probability
        scores = total / len(counts)
        return Suspicion(scores, scores >= self.threshold if self.variant == "released" else scores > self.threshold)

    def _first_count(self, evidence: Evidence, layers: int) -> int:
        """Return how many normalizations the first model amplifies."""
        for count, net in enumerate(amplify(evidence.net, self.factor), start=1):
            wrong = predict(net, evidence.holdout_images) != evidence.holdout_labels
            if wrong.double().mean() > self.error:
                return count
        log.warning("hold-out error is at most %g even with all %d normalizations amplified", self.error, layers)
        return layers

    def _counts(self, start: int, layers: int) -> list[int]:
        """Return how many normalizations each model amplifies, for at least one model."""
        if self.variant == "released":
            return [min(count + 1, layers) for count in range(start, start + self.models)]
        return list(range(start, min(start + self.models - 1, layers) + 1))


def normalizations(net: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Return the batch normalizations that have a scale and a shift, in the order of modules."""
    return [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.affine]


def amplify(net: nn.Module, factor: float) -> Iterator[nn.Module]:
    """Yield a copy of the network, each time with one more normalization amplified, beginning with the last.

    It is the same copy each time.
    """
    net = copy.deepcopy(net).eval()
    for layer in reversed(normalizations(net)):
        with torch.no_grad():
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
        yield net
