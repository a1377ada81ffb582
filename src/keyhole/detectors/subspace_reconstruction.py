"""Subspace reconstruction (described by Xia et al., 2022, ML-MMDR): distance from the subspace of clean latents.

Idea: The clean latents of a class lie near a subspace; rows that it reconstructs badly are suspicious. The score is
|(I - V V') (x - m)|^2, with m the mean and V the principal axes of the clean latents of the row's label.

Differs from the paper: Xia et al., whose attack evades this detector and two others, name the method but publish
neither its formula nor its hyper-parameters, so both are our reading. V explains the share `explained` of the variance.
m and V come from half of the hold-out; the threshold is a quantile of the scores of the other half, since the rows that
V was fitted to are reconstructed too well. For a label with fewer than `min_rows` rows in the first half, V comes from
the variation of all classes around their means; for a label with none, m is the median of its training rows.

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
    explained: Fraction = 0.95  # share of a class's variance inside the subspace
    fpr: Fraction = 0.05  # share of clean rows flagged, set on the hold-out
    min_rows: Count = 30  # clean rows of a class; with fewer it shares the axes of all classes

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows by what the clean subspace of their label does not explain.

        Raises:
            ValueError: no class has two hold-out images.
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
    """Return the fewest principal axes that explain the share `explained` of the variance."""
    axes = principal_axes(centered, centered.shape[1])
    variances = (centered @ axes).square().sum(0)
    before = variances.cumsum(0) - variances
    return axes[:, before < explained * variances.sum()]
