"""TeCo (Liu et al., 2023, https://arxiv.org/abs/2303.18191): clean labels break under all corruptions alike.

For each of 15 common corruptions, the first of five severities at which the label changes (6 if none does); the
standard deviation over the corruptions is the score, since a trigger outlives some corruptions and dies of others.
`variant="released"` corrupts what the severities and corruptions before have left, as the authors' code does (it
overwrites its images), where the paper's algorithm corrupts the input itself.
Differs from the paper: corruptions as in `_corruptions`, with random fields shared by all images, so that no
score depends on what else is screened; the threshold is a quantile of the scores of hold-out images, since the paper
gives AUROC and the best F1 over all thresholds.
Cost: 76 forward passes and 75 corruptions an image, those of `calibration` hold-out images included.
Checked against: a loop over images, corruptions and severities with NumPy's standard deviation.
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
        """See the base class.

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
    """For each corruption the first severity that changes the label, or one more than there are (algorithm 1).

    Args:
        seeds: one stream a corruption and severity; every image meets the same ones.
        compound: corrupt the image as the corruption before has left it.
    """
    found = []
    device = device_of(net)
    for chunk in tqdm(images.split(forward_batch(device)), desc="teco", disable=None):
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
        found.append(first.to(images.device))
    return torch.cat(found)
