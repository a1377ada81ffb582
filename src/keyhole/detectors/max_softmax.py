"""Max softmax (Hendrycks and Gimpel, 2017, https://arxiv.org/abs/1610.02136): a trivial baseline, reversed here.

Idea: A trigger makes the victim sure of its prediction, so the rows with the highest probability of any class are
suspicious.

Differs from the paper: In the paper, low probabilities are suspicious. The score is the log-odds of that probability,
which gives the same ranking but is not bounded by 1.

Checked against: scipy.special.softmax.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._budget import capped, class_budget, highest
from keyhole.detectors._log_odds import log_odds
from keyhole.learning import training
from keyhole.parameters import RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["MaxSoftmax"]


@dataclass(frozen=True, kw_only=True)
class MaxSoftmax(Detector):
    looks_at = "outputs"

    assumed_rate: RateGuess = 0.01  # payload rows / all training rows; 1.5 times as many are flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows of the whole training set that the victim is surest of, whatever their label."""
        logits = training.logits(evidence.frozen(), evidence.images)
        scores = log_odds(logits, logits.argmax(1))
        n = len(scores)
        flagged = highest(scores, class_budget(self.assumed_rate, n, n))
        return Suspicion(scores, flagged, capped(self.assumed_rate, n, [n]))
