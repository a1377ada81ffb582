"""Distance to clean neighbors (Sun et al., 2022, https://arxiv.org/abs/2204.06507): a trivial baseline.

Idea: Rows far from the clean latents of their label are suspicious. The score is the distance to the k-th nearest
hold-out row with the same label.

Differs from the paper: The paper's score is for out-of-distribution inputs. Latents are not normalized, and neighbors
must have the row's label. A label with fewer than k hold-out rows takes the farthest of them, one with none the k-th
nearest of all labels. The threshold is a quantile of the distances between hold-out rows, each to the other rows of its
label.

Checked against: sklearn.neighbors.NearestNeighbors.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.learning import training
from keyhole.parameters import Count, Fraction, Level
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["KNNToClean"]


@dataclass(frozen=True, kw_only=True)
class KNNToClean(Detector):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    level: Level = "penultimate"
    neighbors: Count = 10  # k
    fpr: Fraction = 0.05  # share of clean rows flagged, set on the hold-out

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows by their distance to the k-th nearest clean row of their label.

        Raises:
            ValueError: no class has two hold-out images.
        """
        count = len(evidence.holdout_labels)
        if len(evidence.holdout_labels.unique()) == count:
            raise ValueError(
                "expected at least two hold-out images of one class (config key `holdout`), "
                f"got {count} images, each of a different class"
            )
        latents = level_latents(evidence, self.level)
        clean = training.latents(evidence.frozen(), evidence.holdout_images, (self.level,))[self.level]
        clean, clean_labels = clean.to(latents).double(), evidence.holdout_labels.to(latents.device)
        scores = torch.zeros(len(latents), device=latents.device)
        for label, rows, x in latents_by_class(latents, evidence.labels):
            same = clean[clean_labels == label]
            scores[rows] = distance(x, same if len(same) else clean, self.neighbors).float()
        groups = [x for _, _, x in latents_by_class(clean, clean_labels) if len(x) > 1]
        clean_scores = [distance(x, x, self.neighbors, left_out=1) for x in groups]
        return Suspicion(scores, scores > torch.cat(clean_scores).quantile(1 - self.fpr))


def distance(
    x: Float[Tensor, "c d"], clean: Float[Tensor, "m d"], neighbors: int, left_out: int = 0
) -> Float[Tensor, " c"]:
    """Return the distance from each row to its k-th nearest clean row, the `left_out` nearest not counted."""
    k = min(neighbors + left_out, len(clean))
    # in parts, since the distances of one class's rows to the whole hold-out may fill a gigabyte
    return torch.cat([torch.cdist(part, clean).kthvalue(k, dim=1).values for part in x.split(4096)])
