"""Lowest loss (used against backdoors by Li et al., 2021, https://arxiv.org/abs/2110.11571): a trivial baseline.

Idea: A trigger is learned early and completely, so the rows whose given label has the lowest loss are suspicious.

Differs from the paper: The loss is that of the finished victim, not that of an early epoch, and nothing is unlearned.
The score is the log-odds of the given label, which gives the same ranking as -loss but is not bounded by 0.

Checked against: scipy.special.log_softmax.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._budget import capped, class_budget, highest
from keyhole.detectors._log_odds import log_odds
from keyhole.learning import training
from keyhole.parameters import RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["LowestLoss"]


@dataclass(frozen=True, kw_only=True)
class LowestLoss(Detector):
    looks_at = "outputs"

    assumed_rate: RateGuess = 0.01  # payload rows / all training rows; 1.5 times as many are flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows of the whole training set with the lowest loss."""
        scores = log_odds(training.logits(evidence.frozen(), evidence.images), evidence.labels)
        n = len(scores)
        flagged = highest(scores, class_budget(self.assumed_rate, n, n))
        return Suspicion(scores, flagged, capped(self.assumed_rate, n, [n]))
