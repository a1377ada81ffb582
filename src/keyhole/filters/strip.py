"""STRIP (Gao et al., 2019, https://arxiv.org/abs/1902.06531): a trigger wins over whatever is laid over it.

Each input is mixed with clean images; predictions that stay put (low entropy) are suspicious.
`variant="released"` adds the images and clips, as the authors' code does, where the paper mixes half and half.
Differs from the paper: the threshold is an empirical quantile, as in Qi et al.'s code, not one of a fitted normal
distribution; all inputs share the same overlays, so that no score depends on what else is screened; and the images
that set the threshold are not among the overlays.
Cost: `overlays` forward passes an image.
Checked against: a loop over images and overlays with scipy.stats.entropy.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator

from keyhole.filters import Filter
from keyhole.learning.overlays import mean_entropy
from keyhole.parameters import Fraction, HoldoutCount
from keyhole.types import Evidence, Images, Suspicion

__all__ = ["STRIP"]


@dataclass(frozen=True, kw_only=True)
class STRIP(Filter):
    overlays: HoldoutCount = 100  # hold-out images laid over each input
    fpr: Fraction = 0.05  # share of clean images flagged, set on the rest of the hold-out
    variant: Literal["paper", "released"] = "paper"

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """See the base class.

        Raises:
            ValueError: the hold-out has no images left to set the threshold on.
        """
        holdout = evidence.holdout_images
        if len(holdout) <= self.overlays:
            raise ValueError(f"expected more than overlays={self.overlays} hold-out images, got {len(holdout)}")
        order = torch.randperm(len(holdout), generator=rng).to(holdout.device)
        overlays, calibration = holdout[order[: self.overlays]], holdout[order[self.overlays :]]
        net = evidence.frozen()
        bar = mean_entropy(net, calibration, overlays, self.variant).quantile(self.fpr)
        entropy = mean_entropy(net, images, overlays, self.variant)
        return Suspicion(-entropy, entropy < bar.to(entropy.device))
