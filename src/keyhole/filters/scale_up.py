"""SCALE-UP (Guo et al., 2023, https://arxiv.org/abs/2302.03251): a trigger survives overexposure.

Idea: Pixels are multiplied and clipped at white; an input whose label survives most multiples is suspicious. With
`data_limited`, this share is standardized by its mean and deviation over the hold-out images of the predicted class
(equations 3 and 4). The default, `data_free`, needs no images.

Differs from the paper: If a class has fewer than two hold-out images, or all their shares are equal, mean and deviation
are those of the whole hold-out.

Differs from the released code: That code adds noise to the inputs, and its multiples 1 to 11 include 1, which always
keeps the label. BackdoorBox's `data_limited` has one mean and one sample deviation for all classes, and counts how many
multiples have the true label; here they are of the predicted class, with the population's deviation, and of multiples
that keep the prediction.

Checked against: a loop over images and scales in float64.

Cost: one forward pass for each image, and one more for each scale.
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
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})  # only `data_limited` uses it

    scales: tuple[Count, ...] = (3, 5, 7, 9, 11)  # factors of the pixel values
    threshold: float = 0.5  # share of the scales; with `data_limited`, deviations above the mean
    variant: Literal["data_free", "data_limited"] = "data_free"

    def check(self) -> None:
        if not self.scales:
            raise ParameterError("scales", "expected at least one, got none")

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """Score images by the share of scales that keep their label.

        Raises:
            ValueError: `data_limited` is used without a hold-out.
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
    """Return the predicted labels, and the share of scales that keep them (equation 2)."""
    labels, shares = [], []
    for chunk in images.split(forward_batch(device_of(net), images)):
        labels.append(predict(net, chunk))
        kept = [predict(net, (chunk.int() * n).clamp(max=255).to(torch.uint8)) == labels[-1] for n in scales]
        shares.append(torch.stack(kept).float().mean(0))
    return torch.cat(labels), torch.cat(shares)


def class_moments(
    shares: Float[Tensor, " m"], labels: Labels, classes: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Return the mean and deviation of the shares of each class's hold-out images.

    A class without a deviation takes both from the whole hold-out.
    """
    labels = labels.to(shares.device)
    pooled_std = shares.std(correction=0)
    mean = shares.mean().repeat(classes)
    std = pooled_std.where(pooled_std > 0, 1).repeat(classes)
    for k in range(classes):
        members = shares[labels == k]
        if len(members) > 1 and (members != members[0]).any():
            mean[k], std[k] = members.mean(), members.std(correction=0)
    return mean, std
