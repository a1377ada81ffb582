"""Beatrix (Ma et al., 2023, https://arxiv.org/abs/2209.11715): Gram matrices outside the range of clean images.

Idea: For powers p = 1 to 8 of the channels' activation maps F, each entry of (F^p F^p')^(1/p) is compared with the
median +- 10 MAD of clean images with the row's label; the score is the sum of the relative excesses. A class is
infected if a kernel test (MMD) separates its rows above the threshold from those below much better than in the other
classes.

Differs from the paper: The paper calls its kernel test regularized; this one is the plain weighted MMD of the released
code. Rows are flagged in every class, as BackdoorBench does (chosen on victims of BadNets and Blended);
`flag_in="infected"` flags rows only in infected classes.

Differs from the released code: Classes are given by labels, not by predictions. Only an unusually high test statistic
is an alarm. The divisor of an excess is at least a hundredth of the power's mean bound; in the released code it is at
least 1e-6, whatever the scale. Channels that do not vary are left out. The mean over the c (c + 1) / 2 entries is
divided by that number (there by c^2 / 2, which scales scores and threshold alike). Every fifth clean image is in the
same fold (there folds are fifths in a row), so thresholds differ for the same images and not on average, since
their order is random.

Checked against: a float64 NumPy version that loops over rows, entries and powers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.learning.discrepancy import biased_mmd
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Count, Fraction, Level, Positive
from keyhole.types import Classifier, Evidence, Images, Rows, Suspicion, Told

__all__ = ["Beatrix"]

FOLDS = 5  # parts of a class's clean images for the cross-validation of its threshold
TESTED = 1000  # rows of each group in the kernel test, at most
INFECTED = math.e**2  # anomaly index above which a class is infected
FLOOR = 1e-2  # least divisor of an excess, as a fraction of the power's mean bound

Bounds = list[tuple[Tensor, Tensor]]  # for each power, the lowest and the highest clean value of every entry


@dataclass(frozen=True, kw_only=True)
class Beatrix(Detector):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    map_level: Level = ""  # where maps are read; empty: the input of the last stage of maps, as in the released code
    clean_per_class: Count = 30  # hold-out images of each class, at most
    powers: Count = 8  # the powers are 1 to this number
    mads: Positive = 10.0  # half width of the clean range, in median absolute deviations
    fpr: Fraction = 0.05  # share of clean images above the threshold, by cross-validation on them
    flag_in: Literal["all", "infected"] = "all"  # classes in which rows are flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows by their deviation from the clean range of their label.

        Rows of a class with fewer than two clean images score 0.

        Raises:
            ValueError: there is no hold-out, the network has no such level, or its activations are not finite.
        """
        evidence.require_holdout()
        net = evidence.frozen()
        level = self.map_level or default_map_level(net, evidence.holdout_images[:1])
        device, images, labels = device_of(net), evidence.images, evidence.labels
        channels = find_varying_channels(net, level, evidence.holdout_images, images)
        drawn = torch.randperm(len(evidence.holdout_labels), generator=rng).to(evidence.holdout_labels.device)
        shuffle = torch.randperm(len(labels), generator=rng).to(labels.device)

        scores = torch.zeros(len(labels), device=device)
        above = torch.zeros(len(labels), dtype=torch.bool, device=device)
        members, statistics = [], []
        for label in labels.unique():
            clean = drawn[evidence.holdout_labels[drawn] == label.to(drawn.device)][: self.clean_per_class]
            rows = shuffle[labels[shuffle] == label]
            if len(clean) < 2 or len(channels) == 0:
                continue
            reference = torch.cat([f for _, f in read_maps(net, level, evidence.holdout_images, clean, channels)])
            limits, threshold = self.bounds(reference), self.threshold(reference)
            pooled = []
            for part, features in read_maps(net, level, images, rows, channels):
                scores[part.to(device)] = self.deviation(features, limits)
                pooled.append(features.mean(2))
            rows = rows.to(device)
            above[rows] = scores[rows] > threshold
            members.append(rows)
            statistics.append(weighted_mmd(torch.cat(pooled), above[rows]))

        index = anomaly_index(torch.tensor(statistics, dtype=torch.float64))
        flagged = above.clone()
        for rows, value in zip(members, index.tolist(), strict=True):
            flagged[rows] &= self.flag_in == "all" or value > INFECTED
        return Suspicion(scores.to(images.device), flagged.to(images.device))

    def bounds(self, features: Float[Tensor, "m c s"]) -> Bounds:
        """Return median +- `mads` times the median absolute deviation of every entry, for each power."""
        bounds = []
        for p in range(1, self.powers + 1):
            entries = gram(features, p)
            center = entries.median(0).values
            width = self.mads * (entries - center).abs().median(0).values
            bounds.append((center - width, center + width))
        return bounds

    def deviation(self, features: Float[Tensor, "m c s"], limits: Bounds) -> Float[Tensor, " m"]:
        """Return the relative excess over the clean range (equation 8), averaged over entries and powers."""
        total = features.new_zeros(len(features))
        for p, (low, high) in enumerate(limits, start=1):
            entries = gram(features, p)
            floor = (FLOOR * torch.maximum(low.abs(), high.abs()).mean()).clamp(min=torch.finfo(low.dtype).tiny)
            below = (low - entries).relu_() @ low.abs().clamp(min=floor).reciprocal()
            total += below + (entries - high).relu_() @ high.abs().clamp(min=floor).reciprocal()
        return total / (limits[0][0].numel() * self.powers)

    def threshold(self, features: Float[Tensor, "m c s"]) -> float:
        """Return the deviation that `fpr` of the clean images exceed, each under bounds from the other folds."""
        folds = torch.arange(len(features), device=features.device) % min(FOLDS, len(features))
        deviations = [self.deviation(features[folds == k], self.bounds(features[folds != k])) for k in folds.unique()]
        ranked = torch.cat(deviations).sort().values
        return float(ranked[min(int((1 - self.fpr) * len(ranked)), len(ranked) - 1)])


def gram(features: Float[Tensor, "n c s"], p: int) -> Float[Tensor, "n e"]:
    """Return the upper triangle of (F^p F^p')^(1/p), with the signs kept; a map has s pixels.

    Each channel is first divided by its maximum, since the eighth power of 255, squared, is infinite in float32.
    """
    scale = features.abs().amax(2, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
    powers = (features / scale) ** p
    product = powers @ powers.mT
    c = features.shape[1]
    upper = torch.ones(c, c, dtype=torch.bool, device=features.device).triu().flatten().nonzero().squeeze(1)
    entries, sizes = (x.flatten(1).index_select(1, upper) for x in (product, scale @ scale.mT))
    return entries.sign() * entries.abs() ** (1 / p) * sizes


def default_map_level(net: Classifier, image: Images) -> str:
    """Return the second to last level that is a map, or the last level of a network without maps."""
    with torch.no_grad():
        activations = net.levels(image.to(device_of(net)))
    names = [name for name, x in activations.items() if x.ndim == 4] or list(activations)[-1:]
    return names[-2:][0]


@torch.no_grad()
def read_maps(
    net: Classifier, level: str, images: Images, rows: Rows, channels: Int64[Tensor, " v"] | None = None
) -> Iterator[tuple[Rows, Float[Tensor, "b c s"]]]:
    """Yield batches of the rows with their activation maps; a flat vector is a map of one pixel."""
    device = device_of(net)
    for part in rows.split(forward_batch(device, images)):
        activations = net.levels(images[part].to(device))
        if level not in activations:
            raise ValueError(f"expected map_level among {', '.join(activations)}, got {level}")
        x = activations[level]
        x = x.flatten(2) if x.ndim == 4 else x.unsqueeze(2)
        if not x.isfinite().all():
            raise ValueError(f"expected finite activations at level {level}, got NaN or infinity")
        x = x if channels is None else x[:, channels]
        # smaller parts, since the Gram matrix of each power would take 1 GB for 4,096 rows of 256 channels
        yield from zip(*(t.split(max(1, 2**24 // x.shape[1] ** 2)) for t in (part, x)), strict=True)


def find_varying_channels(
    net: Classifier, level: str, holdout: UInt8[Tensor, "m c h w"], images: Images
) -> Int64[Tensor, " v"]:
    """Return the channels that vary over the hold-out and the training set.

    The training set is read only if some channel is constant on the hold-out.
    """
    lows, highs = [], []
    for batch in (holdout, images):
        for _, x in read_maps(net, level, batch, torch.arange(len(batch), device=batch.device)):
            lows.append(x.amin((0, 2)))
            highs.append(x.amax((0, 2)))
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        varies = high - low > 1e-6 * torch.maximum(low.abs(), high.abs())
        if varies.all():
            break
    return varies.nonzero().squeeze(1)


def weighted_mmd(x: Float[Tensor, "q c"], second: Bool[Tensor, " q"]) -> float:
    """Return nm / (n + m) times the biased squared MMD of two groups of n and m rows.

    The kernel is the sum of two Gaussians whose widths follow the median distance.
    """
    groups = x[~second][:TESTED].double(), x[second][:TESTED].double()
    n, m = len(groups[0]), len(groups[1])
    if n == 0 or m == 0:
        return 0.0
    distance = torch.cdist(torch.cat(groups), torch.cat(groups)).square()
    width = distance.median().clamp(min=torch.finfo(distance.dtype).tiny)
    kernel = torch.exp(-2 * distance / width) + torch.exp(-distance / width)
    return float(n * m / (n + m) * biased_mmd(kernel, n))


def anomaly_index(statistics: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Return each class's deviation from the median class in units of 1.4826 MAD."""
    deviation = statistics - statistics.quantile(0.5) if len(statistics) else statistics
    spread = 1.4826 * deviation.abs().quantile(0.5) if len(statistics) else 1.0
    return deviation / (spread + 1e-6)
