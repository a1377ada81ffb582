"""SCALE-UP (Guo et al., 2023, https://arxiv.org/abs/2302.03251): a trigger outlives overexposure.

Pixels are multiplied and clipped at white; an input whose label survives most multiples is suspicious. The paper's
`data_limited` setting standardizes this share by its mean and deviation over the hold-out images of the class that is
predicted (equations 3 and 4); `data_free`, the default, needs no images at all.
Differs from the paper: where a class has fewer than two hold-out images, or its shares are all alike, mean and
deviation are those of the whole hold-out. Differs from the released code, which adds noise to the inputs and counts
the multiples 1 to 11, so that the first always agrees.
Cost: one forward pass and one a scale.
Checked against: a loop over images and scales in float64.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from keyhole.filters import Filter
from keyhole.learning.training import device_of, forward_batch, predict
from keyhole.parameters import Count, ParameterError
from keyhole.types import Evidence, Images, Labels, Suspicion, Told

__all__ = ["ScaleUp"]


@dataclass(frozen=True, kw_only=True)
class ScaleUp(Filter):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})  # used by `data_limited` alone

    scales: tuple[Count, ...] = (3, 5, 7, 9, 11)  # factors of the pixel values
    threshold: float = 0.5  # share of the scales; deviations above the class's mean in `data_limited`
    variant: Literal["data_free", "data_limited"] = "data_free"

    def check(self) -> None:
        if not self.scales:
            raise ParameterError("scales", "expected at least one, got none")

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """See the base class.

        Raises:
            ValueError: `data_limited` has no hold-out.
        """
        net = evidence.frozen()
        labels, scores = consistency(net, images, self.scales)
        if self.variant == "data_limited":
            evidence.require_holdout()
            _, clean = consistency(net, evidence.holdout_images, self.scales)
            mean, std = class_moments(clean, evidence.holdout_labels, 1 + int(labels.max()) if len(labels) else 1)
            scores = (scores - mean.to(scores)[labels]) / std.to(scores)[labels]
        return Suspicion(scores, scores > self.threshold)


def consistency(net: nn.Module, images: Images, scales: tuple[int, ...]) -> tuple[Labels, Float[Tensor, " n"]]:
    """The predicted labels, and the share of scales that keep them (equation 2)."""
    labels, shares = [], []
    for chunk in images.split(forward_batch(device_of(net))):
        labels.append(predict(net, chunk))
        kept = [predict(net, (chunk.int() * n).clamp(max=255).to(torch.uint8)) == labels[-1] for n in scales]
        shares.append(torch.stack(kept).float().mean(0))
    return torch.cat(labels), torch.cat(shares)


def class_moments(
    shares: Float[Tensor, " m"], labels: Labels, classes: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Mean and deviation over each class's hold-out images; over all of them where the class tells no deviation."""
    labels = labels.to(shares.device)
    pooled_std = shares.std(correction=0)
    mean = shares.mean().repeat(classes)
    std = pooled_std.where(pooled_std > 0, 1).repeat(classes)
    for k in range(classes):
        own = shares[labels == k]
        if len(own) > 1 and (own != own[0]).any():
            mean[k], std[k] = own.mean(), own.std(correction=0)
    return mean, std
