"""Class-conditional Mahalanobis distance (Lee et al., 2018, https://arxiv.org/abs/1807.03888): a trivial baseline.

Idea: Rows far from the clean mean of their label, in units of the variation that all clean classes share, are
suspicious. Xian et al. 2023 report that this whitening shows poison which is hidden in raw latents.

Differs from the paper: Means and covariance come from half of the hold-out; the threshold is a quantile of the other
half's distances. The distance is to the mean of the row's label. The covariance is shrunk (Ledoit and Wolf, 2004)
within the directions in which the hold-out varies; all other directions get the smallest variance that results. A label
without hold-out rows takes the median of its training rows as its mean.

Checked against: sklearn.covariance.LedoitWolf.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._axes import axes_of_variation
from keyhole.detectors._clean_distance import Centered, Distance, score_by_clean_distance
from keyhole.parameters import Fraction, Level
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["Mahalanobis"]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Detector):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    level: Level = "penultimate"
    fpr: Fraction = 0.05  # share of clean rows flagged, set on the hold-out

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows by their distance from the clean mean of their label.

        Raises:
            ValueError: no class has two hold-out images.
        """

        def fit(centered: dict[int, Centered]) -> Distance:
            metric = shrunk_precision(torch.cat(list(centered.values())))
            return lambda _label, x: ((x @ metric) * x).sum(1).clamp(min=0).sqrt()

        return score_by_clean_distance(evidence, self.level, self.fpr, fit, rng)


def shrunk_precision(x: Float[Tensor, "m d"]) -> Float[Tensor, "d d"]:
    """Return the inverse of the Ledoit-Wolf covariance of centered rows; zeros if the rows do not vary at all."""
    basis = axes_of_variation(x.mT @ x, float(x.square().sum()))
    if basis.shape[1] == 0:
        return torch.zeros_like(x.mT @ x)
    m, r = len(x), basis.shape[1]
    variances = (x @ basis).square().mean(0)  # the covariance in this basis is diagonal
    target = variances.mean()
    # Ledoit and Wolf 2004, lemmas 3.2 to 3.4: spread of the variances, and error of the sample covariance
    spread = (variances - target).square().sum() / r
    error = (x.square().sum(1).square().mean() - variances.square().sum()) / (m * r)
    weight = 1.0 if error >= spread else float(error / spread)
    shrunk = (1 - weight) * variances + weight * target
    floor = max(weight * float(target), 1e-10 * float(variances.max()))
    outside = torch.eye(len(basis), dtype=x.dtype, device=x.device) - basis @ basis.mT
    return (basis / shrunk) @ basis.mT + outside / floor
