"""Subspace reconstruction, one of three detectors that Xia et al. 2022 (ML-MMDR) evade.

Clean latents of a class lie near a subspace; rows that it reconstructs badly are suspicious:
score(x) = |(I - V V') (x - m)|^2 with mean m and principal axes V of the clean latents of the row's label.
The reading is ours: Xia et al. name the method but publish neither its formula nor its hyper-parameters. V explains
`explained` of the variance; m and V come from half of the hold-out, and the threshold is a quantile of the scores of
the other half, since the rows that V was fitted to are reconstructed too well.
A label with fewer than `min_rows` rows in the first half takes V from the variation of all classes around their means;
one with none takes the median of its training rows as m.
Checked against: sklearn.decomposition.PCA.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._axes import principal_axes
from keyhole.detectors._clean_distance import Centered, Distance, score_by_clean_distance
from keyhole.parameters import Count, Fraction, Level
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["SubspaceReconstruction"]


@dataclass(frozen=True, kw_only=True)
class SubspaceReconstruction(Detector):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    level: Level = "penultimate"
    explained: Fraction = 0.95  # of a class's variance, inside the subspace
    fpr: Fraction = 0.05  # share of clean rows flagged, set on the hold-out
    min_rows: Count = 30  # clean rows of a class to have axes of its own

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """See the module.

        Raises:
            ValueError: the hold-out has no class with two images.
        """

        def fit(centered: dict[int, Centered]) -> Distance:
            enough = {label: x for label, x in centered.items() if len(x) >= self.min_rows}
            axes = {label: leading_axes(x, self.explained) for label, x in enough.items()}
            shared = leading_axes(torch.cat(list(centered.values())), self.explained)

            def residual(label: int, x: Centered) -> Float[Tensor, " c"]:
                v = axes.get(label, shared)
                return (x - x @ v @ v.mT).square().sum(1)

            return residual

        return score_by_clean_distance(evidence, self.level, self.fpr, fit, rng)


def leading_axes(centered: Float[Tensor, "c d"], explained: float) -> Float[Tensor, "d r"]:
    """The fewest principal axes that hold the share `explained` of the variance."""
    axes = principal_axes(centered, centered.shape[1])
    variances = (centered @ axes).square().sum(0)
    before = variances.cumsum(0) - variances
    return axes[:, before < explained * variances.sum()]
