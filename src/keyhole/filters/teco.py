"""TeCo (Liu et al., 2023, https://arxiv.org/abs/2303.18191): clean labels break under all corruptions alike.

Idea: For each of 15 common corruptions, take the first of five severities at which the label changes (6 if none does).
The score is the standard deviation over the corruptions, since a trigger survives some corruptions and is destroyed by
others.

Differs from the paper: The corruptions are those of `_corruptions`, with random fields shared by all images, so that no
score depends on which other images are screened. The threshold is a quantile of the scores of hold-out images, since
the paper gives only AUROC and the best F1 over all thresholds.

Differs from the released code: That code corrupts the result of the previous severities and corruptions (it overwrites
its images), where the paper's algorithm corrupts the input; `variant="released"` does the same.

Checked against: a loop over images, corruptions and severities with NumPy's standard deviation.

Cost: 76 forward passes and 75 corruptions for each image, including the `calibration` hold-out images.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.filters import Filter
from keyhole.filters._corruptions import NAMES, SEVERITIES, corrupt
from keyhole.learning.training import device_of, forward_batch, predict
from keyhole.parameters import Count, Fraction
from keyhole.types import Evidence, Images, Suspicion, Told

__all__ = ["TeCo"]


@dataclass(frozen=True, kw_only=True)
class TeCo(Filter):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    fpr: Fraction = 0.05  # share of clean images flagged, set on the hold-out
    calibration: Count = 200  # hold-out images that set the threshold, at most
    variant: Literal["paper", "released"] = "paper"

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """Score images by how much the severity that changes their label differs between corruptions.

        Raises:
            ValueError: there is no hold-out.
        """
        evidence.require_holdout()
        holdout = evidence.holdout_images
        chosen = torch.randperm(len(holdout), generator=rng)[: self.calibration].to(holdout.device)
        seeds = torch.randint(2**62, (len(NAMES), len(SEVERITIES)), generator=rng)
        net = evidence.frozen()
        clean, scores = (
            breaking_points(net, x, seeds, self.variant == "released").std(1, correction=0)
            for x in (holdout[chosen], images)
        )
        return Suspicion(scores, scores > clean.quantile(1 - self.fpr).to(scores.device))


def breaking_points(
    net: nn.Module, images: Images, seeds: Int64[Tensor, "k s"], compound: bool
) -> Float[Tensor, "n k"]:
    """Return, for each corruption, the first severity that changes the label (algorithm 1), or 6 if none does.

    Args:
        seeds: a seed for each corruption and severity, the same for every image.
        compound: corrupt the result of the previous corruption instead of the image itself.
    """
    points = []
    device = device_of(net)
    for chunk in tqdm(images.split(forward_batch(device, images)), desc="teco", disable=None):
        x = chunk.to(device)
        labels = predict(net, x)
        first = torch.full((len(x), len(NAMES)), len(SEVERITIES) + 1.0, device=device)
        for k, name in enumerate(NAMES):
            broken = torch.zeros_like(labels, dtype=torch.bool)
            for severity in SEVERITIES:
                corrupted = corrupt(x, name, severity, Generator().manual_seed(int(seeds[k, severity - 1])))
                changed = predict(net, corrupted) != labels
                first[changed & ~broken, k] = severity
                broken |= changed
                if compound:
                    x = corrupted
        points.append(first.to(images.device))
    return torch.cat(points)
