"""Spectral Signatures (Tran, Li and Madry, 2018, https://arxiv.org/abs/1811.00636).

Payload rows shift the mean of their class, so they stand out along its first principal axis.
Differs from the paper: at most half of a class is flagged (Qi et al. 2023), and the number of payload rows is a guess
that holds for the whole training set, not per class.
Differs from the released code: that one scores |h v| with h not centered; `variant="released"` does.
Checked against: a NumPy SVD, and the sacrifice rates of Qi et al. 2023, table 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._axes import principal_axes
from keyhole.detectors._budget import class_budget, highest
from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.parameters import Level, RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["SpectralSignatures"]


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(Detector):
    level: Level = "penultimate"
    assumed_rate: RateGuess = 0.01  # payload rows / all training rows
    variant: Literal["paper", "released"] = "paper"

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Squared projections on the first principal axis of each class; the highest of *every* class are flagged."""
        latents = level_latents(evidence, self.level)
        scores = torch.zeros(len(latents), device=latents.device)
        flagged = torch.zeros_like(scores, dtype=torch.bool)
        for _, rows, x in latents_by_class(latents, evidence.labels):
            axis = principal_axes(x, 1)
            # Tran et al., algorithm 1; the sum over axes is 0 for a class without variance
            tau = ((x - x.mean(0)) @ axis).square().sum(1) if self.variant == "paper" else (x @ axis).abs().sum(1)
            scores[rows] = tau.float()
            flagged[rows] = highest(tau, class_budget(self.assumed_rate, len(scores), len(rows)))
        return Suspicion(scores, flagged)
