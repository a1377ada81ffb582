"""STRIP as a cleanser (Gao et al., 2019, https://arxiv.org/abs/1902.06531; over training rows: Qi et al., 2023).

A row with a trigger keeps its prediction whatever is laid over it: low entropy over hold-out overlays is suspicious.
Mixes half and half, as the paper does; `variant="released"` adds the images after normalization, without averaging, as
Qi et al.'s cleanser does.
Differs from Qi et al.'s code: the images that set the threshold are not among the overlays; all rows share them; at
most half of the hold-out is laid over, so that a small one still has images for the threshold; passes in bfloat16
where the hardware multiplies in it, which moves an entropy by 0.003 bits on average (CIFAR-10, convnet).
About `fpr` of the clean rows is flagged by construction. A score is the threshold minus the row's entropy, in bits.
Cost: `overlays` forward passes a row.
Checked against: a float64 loop over rows and overlays with scipy.stats.entropy.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.learning import training
from keyhole.learning.overlays import mean_entropy
from keyhole.parameters import Fraction, HoldoutCount
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["STRIP"]

MIXING = {"paper": "paper", "released": "normalized"}


@dataclass(frozen=True, kw_only=True)
class STRIP(Detector):
    looks_at = "outputs"
    long: ClassVar[bool] = True
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    overlays: HoldoutCount = 100  # hold-out images laid over each row, at most half of them
    fpr: Fraction = 0.1  # share of clean images below the threshold, set on the rest of the hold-out
    variant: Literal["paper", "released"] = "paper"
    precision: Literal["auto", "float32"] = "auto"  # auto: bfloat16 where the hardware multiplies in it

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """The entropy of every row under the same overlays; flagged below the quantile of clean images.

        Raises:
            ValueError: there are fewer than two hold-out images.
        """
        evidence.require_holdout(2)
        holdout = evidence.holdout_images
        order = torch.randperm(len(holdout), generator=rng).to(holdout.device)
        count = min(self.overlays, len(holdout) // 2)
        overlays, calibration = holdout[order[:count]], holdout[order[count:]]
        net = evidence.frozen()
        half = self.precision == "auto" and training.multiplies_in_bfloat16(training.device_of(net))
        mixing = MIXING[self.variant]
        bar = mean_entropy(net, calibration, overlays, mixing, half).quantile(self.fpr)
        scores = bar.to(evidence.images.device) - mean_entropy(net, evidence.images, overlays, mixing, half)
        return Suspicion(scores, scores > 0)
