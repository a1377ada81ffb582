"""Spectral Signatures (Tran, Li and Madry, 2018, https://arxiv.org/abs/1811.00636): outliers along a principal axis.

Idea: Payload rows shift the mean of their class, so they lie far out along its first principal axis. The score is the
squared projection on that axis; the highest scores of every class are flagged.

Differs from the paper: The assumed number of payload rows is that of the whole training set, and 1.5 times as many rows
are flagged in every class, at most half of it, as in Qi et al. 2023 (the paper: 1.5 times the payload of the class). So
for k equal classes the cap binds from a rate of 1 / (3 k) on, and TPR and FPR are then near one half by construction;
the flag `budget_capped` marks such rows.

Differs from the released code: That code scores |h v| with h not centered; `variant="released"` does the same.

Checked against: a NumPy SVD, and the sacrifice rates of Qi et al. 2023, table 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.detectors._axes import principal_axes
from keyhole.detectors._budget import capped, class_budget, highest
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
        latents = level_latents(evidence, self.level)
        scores = torch.zeros(len(latents), device=latents.device)
        flagged = torch.zeros_like(scores, dtype=torch.bool)
        for _, rows, x in latents_by_class(latents, evidence.labels):
            axis = principal_axes(x, 1)
            # Tran et al., algorithm 1; without variance there is no axis, and the sum over axes gives 0
            tau = ((x - x.mean(0)) @ axis).square().sum(1) if self.variant == "paper" else (x @ axis).abs().sum(1)
            scores[rows] = tau.float()
            flagged[rows] = highest(tau, class_budget(self.assumed_rate, len(scores), len(rows)))
        sizes = evidence.labels.unique(return_counts=True)[1].tolist()
        return Suspicion(scores, flagged, capped(self.assumed_rate, len(scores), sizes))
