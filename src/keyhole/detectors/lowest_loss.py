"""Lowest loss: a trivial baseline (its use against backdoors: Li et al., 2021, https://arxiv.org/abs/2110.11571).

A trigger is learned early and completely, so the rows whose given label costs the victim least are suspicious.
Differs from Li et al.: the finished victim's loss, not that of an early epoch; nothing is unlearned. The score is the
log-odds of the given label, which ranks as -loss does but does not end at 0.
Checked against: scipy.special.log_softmax.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._budget import class_budget, highest
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
        """The most certain rows of the whole training set are flagged."""
        scores = log_odds(training.logits(evidence.frozen(), evidence.images), evidence.labels)
        return Suspicion(scores, highest(scores, class_budget(self.assumed_rate, len(scores), len(scores))))
