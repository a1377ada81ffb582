"""STRIP on training rows (Gao et al., 2019, https://arxiv.org/abs/1902.06531; Qi et al., 2023): entropy under overlays.

Idea: A row with a trigger keeps its prediction whatever image is laid over it, so a low entropy of the predictions over
hold-out overlays is suspicious. The score is the threshold minus the row's entropy, in bits; about `fpr` of the clean
rows are flagged by construction.

Differs from the paper: As in Qi et al. 2023, it screens the training set, not inputs at test time, and 10 % of clean
images lie beyond the threshold (paper: 1 %). The paper gives no weights for its linear blend of two images: see
`variant`.

Differs from the released code: `variant="qi"` adds the images after normalization, without averaging, as Qi et al.'s
cleanser does; `authors` adds them before it and does not clip, as the notebook of Gao et al. does; `toolbox` adds and
clips, as Qi et al.'s toolbox does for inputs; `half` mixes half and half, which is ours. The images that set the
threshold are not among the overlays. All rows share the same overlays. At most half of the hold-out serves as overlays,
so that a small one still has images for the threshold. Networks run in bfloat16 where the hardware multiplies in it.

Checked against: a float64 loop over rows and overlays with scipy.stats.entropy.

Cost: `overlays` forward passes for each row.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator

from keyhole.detectors import Detector
from keyhole.learning import training
from keyhole.learning.overlays import Mixing, mean_entropy
from keyhole.parameters import Fraction, HoldoutCount
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["STRIP"]


@dataclass(frozen=True, kw_only=True)
class STRIP(Detector):
    looks_at = "outputs"
    long: ClassVar[bool] = True
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    overlays: HoldoutCount = 100  # hold-out images laid over each row; at most half of the hold-out
    fpr: Fraction = 0.1  # share of clean images flagged, set on the rest of the hold-out
    variant: Mixing = "qi"  # how two images are mixed
    precision: Literal["auto", "float32"] = "auto"  # auto: bfloat16 where the hardware multiplies in it

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows whose entropy lies below the `fpr` quantile of clean images.

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
        bar = mean_entropy(net, calibration, overlays, self.variant, half).quantile(self.fpr)
        scores = bar.to(evidence.images.device) - mean_entropy(net, evidence.images, overlays, self.variant, half)
        return Suspicion(scores, scores > 0)
