"""Feature norm: a trivial baseline that flags the longest latents.

Idea: A trigger drives some features far up, so the rows whose latents have the largest norm are suspicious.

Checked against: numpy.linalg.norm.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._budget import capped, class_budget, highest
from keyhole.detectors._latents import level_latents
from keyhole.parameters import Level, RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["FeatureNorm"]


@dataclass(frozen=True, kw_only=True)
class FeatureNorm(Detector):
    level: Level = "penultimate"
    assumed_rate: RateGuess = 0.01  # payload rows / all training rows; 1.5 times as many are flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows of the whole training set with the longest latents."""
        scores = level_latents(evidence, self.level).norm(dim=1)
        n = len(scores)
        flagged = highest(scores, class_budget(self.assumed_rate, n, n))
        return Suspicion(scores, flagged, capped(self.assumed_rate, n, [n]))
