"""Perfect removal: a control, not a defense.

Idea: Flag exactly the payload, whose rows it is told. This shows what a retrained model keeps after the best possible
detector.

Checked against: its definition.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.parameters import PayloadGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["PerfectRemoval"]


@dataclass(frozen=True, kw_only=True)
class PerfectRemoval(Detector):
    looks_at = "nothing"

    assumed_payload: PayloadGuess  # row numbers of the training set; in a configuration, the word `oracle`

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score the payload 1 and all other rows 0.

        Raises:
            ValueError: a row number lies outside the training set.
        """
        n = len(evidence.labels)
        outside = [row for row in self.assumed_payload if not 0 <= row < n]
        if outside:
            raise ValueError(f"expected assumed_payload within 0..{n - 1}, got {outside[:5]}")
        flagged = torch.zeros_like(evidence.labels, dtype=torch.bool)
        flagged[list(self.assumed_payload)] = True
        return Suspicion(flagged.float(), flagged)
