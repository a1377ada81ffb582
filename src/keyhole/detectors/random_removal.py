"""Random removal: a control, not a defense.

Idea: Flag random rows, as many of each class as Spectral Signatures would. This shows the effect of the budget without
any detection.

Checked against: the budget of `spectral_signatures`.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._budget import capped, class_budget, highest
from keyhole.parameters import RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["RandomRemoval"]


@dataclass(frozen=True, kw_only=True)
class RandomRemoval(Detector):
    looks_at = "nothing"

    assumed_rate: RateGuess = 0.01  # payload rows / all training rows

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Draw uniform scores and flag the highest of every class."""
        labels = evidence.labels
        scores = torch.rand(len(labels), generator=rng).to(labels.device)
        flagged = torch.zeros_like(labels, dtype=torch.bool)
        for label in labels.unique():
            rows = torch.nonzero(labels == label).squeeze(1)
            flagged[rows] = highest(scores[rows], class_budget(self.assumed_rate, len(labels), len(rows)))
        sizes = labels.unique(return_counts=True)[1].tolist()
        return Suspicion(scores, flagged, capped(self.assumed_rate, len(labels), sizes))
