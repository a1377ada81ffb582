"""STRIP (Gao et al., 2019, https://arxiv.org/abs/1902.06531): a trigger decides the label whatever is laid over it.

Idea: Each input is mixed with clean images. An input whose predictions stay the same, so that their entropy is low, is
suspicious.

Differs from the paper: The threshold is an empirical quantile, as in Qi et al.'s code, not a quantile of a fitted
normal distribution, and at 5 % of clean images; the paper sets 1 %. All inputs share the same overlays, so that no
score depends on which other inputs are screened. The images that set the threshold are not among the overlays. The
paper gives no weights for its linear blend of two images: see `variant`.

Differs from the released code: `variant="authors"` adds the images without clipping or halving, as the authors'
notebook does, whose network reads images of 0..1 without normalization; here the sum then passes through the network's
normalization. `toolbox` adds and clips, as the toolbox of Qi et al. does for inputs; `qi` adds after normalization, as
their cleanser and BackdoorBench do; `half` mixes half and half, which is ours.

Checked against: a loop over images and overlays with scipy.stats.entropy.

Cost: `overlays` forward passes for each image.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from keyhole.filters import Filter
from keyhole.learning.overlays import Mixing, mean_entropy
from keyhole.parameters import Fraction, HoldoutCount
from keyhole.types import Evidence, Images, Suspicion

__all__ = ["STRIP"]


@dataclass(frozen=True, kw_only=True)
class STRIP(Filter):
    overlays: HoldoutCount = 100  # hold-out images laid over each input
    fpr: Fraction = 0.05  # share of clean images flagged, set on the rest of the hold-out
    variant: Mixing = "authors"  # how two images are mixed

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """Score images by the negative mean entropy of their predictions under overlays.

        Raises:
            ValueError: the overlays leave no hold-out images to set the threshold on.
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
