"""Lowest loss: a trivial baseline (its use against backdoors: Li et al., 2021, https://arxiv.org/abs/2110.11571).

A trigger is learned early and completely, so the rows whose given label costs the victim least are suspicious.
Differs from Li et al.: the finished victim's loss, not that of an early epoch; nothing is unlearned. The score is the
log-odds of the given label, which ranks as -loss does but does not end at 0.
Checked against: scipy.special.log_softmax.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._latents import highest
from keyhole.detectors.spectral_signatures import class_budget
from keyhole.learning import training
from keyhole.parameters import RateGuess
from keyhole.types import Evidence, Labels, Suspicion

__all__ = ["LowestLoss"]


def log_odds(logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
    """log p / (1 - p) of each row's label: p itself rounds to 1 for most rows of a trained network."""
    logits, column = logits.double(), labels[:, None]
    return (logits.gather(1, column)[:, 0] - logits.scatter(1, column, -torch.inf).logsumexp(1)).float()


@dataclass(frozen=True, kw_only=True)
class LowestLoss(Detector):
    looks_at = "outputs"

    assumed_rate: RateGuess = 0.01  # payload rows / all training rows; 1.5 times as many are flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """The most certain rows of the whole training set are flagged."""
        scores = log_odds(training.logits(copy.deepcopy(evidence.net), evidence.images), evidence.labels)
        return Suspicion(scores, highest(scores, class_budget(self.assumed_rate, len(scores), len(scores))))
