"""SCAn (Tang et al., 2021, https://arxiv.org/abs/1908.00686): one class mean or two.

Idea: A row is its class mean plus a variation that all classes share. A class is contaminated if two means explain it
much better than one, compared with the other classes; its component with fewer clean rows is the payload. A row's score
is twice its log-likelihood ratio between the two components.

Differs from the released code: The mean under "one component" is the posterior mean of the EM step; the released code
omits a factor and shrinks with the class size. The anomaly index is one-sided, so an unusually tight class is no alarm.
The threshold is e^2. `variant="released"` gives the released code's version of all three, as Qi et al. 2023 run it,
with threshold e. In both variants, the first split is at the mean along the first principal axis, not random, and EM
stops at a relative change.

Checked against: a NumPy version with explicit inverses and loops.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._axes import axes_of_variation, nearness, principal_axes
from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.learning import training
from keyhole.parameters import Level
from keyhole.types import Evidence, Labels, Suspicion, Told

__all__ = ["Scan"]

# variant -> anomaly index above which a class is contaminated
THRESHOLD = {"paper": math.e**2, "released": math.e}


@dataclass(frozen=True, kw_only=True)
class Scan(Detector):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    level: Level = "penultimate"
    variant: Literal["paper", "released"] = "paper"

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows by the two components of their class; flag one component of each anomalous class.

        Raises:
            ValueError: there is no hold-out.
        """
        evidence.require_holdout()
        latents = level_latents(evidence, self.level)
        clean = training.latents(evidence.frozen(), evidence.holdout_images, (self.level,))[self.level]
        clean, clean_labels = clean.to(latents).double(), evidence.holdout_labels.to(latents.device)
        whitening, ratio = global_model(clean, clean_labels)
        origin = (latents.double().sum(0) + clean.sum(0)) / (len(latents) + len(clean))

        scores = torch.zeros(len(latents), device=latents.device)
        suspects, flagged = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores, dtype=torch.bool)
        members, statistics = [], []
        for label, rows, x in latents_by_class(latents, evidence.labels):
            y = (torch.cat([x, clean[clean_labels == label]]) - origin) @ whitening
            statistic, ratios, suspect = untangle(y, len(x), ratio, self.variant)
            scores[rows], suspects[rows] = ratios.float(), suspect
            members.append(rows)
            statistics.append(statistic)

        index = anomaly_index(torch.tensor(statistics, dtype=torch.float64), self.variant)
        for rows, value in zip(members, index.tolist(), strict=True):
            flagged[rows] = suspects[rows] & (value > THRESHOLD[self.variant])
        return Suspicion(scores, flagged)


def untangle(
    y: Float[Tensor, "c r"], inspected: int, ratio: Float[Tensor, " r"], variant: str
) -> tuple[float, Float[Tensor, " q"], Bool[Tensor, " q"]]:
    """Split a whitened class in two components.

    Args:
        y: the inspected rows of the class, followed by its clean rows.
        inspected: number of inspected rows.

    Returns:
        The statistic J_k of the class; for each inspected row, its score and whether its component is suspect.
    """
    second = split(y)
    if second.all() or not second.any():
        return 0.0, torch.zeros_like(y[:inspected].sum(1)), torch.zeros_like(second[:inspected])
    clean_first, clean_second = int((~second[inspected:]).sum()), int(second[inspected:].sum())
    if clean_first == clean_second:  # the clean rows do not decide, so the smaller component is suspect
        suspect = second if 2 * int(second.sum()) <= len(y) else ~second
    else:
        suspect = second if clean_second < clean_first else ~second
    ordinary_mean, suspect_mean = y[~suspect].mean(0), y[suspect].mean(0)
    component_mean = torch.where(suspect[:, None], suspect_mean, ordinary_mean)
    reduction = (y - single_mean(y, ratio, variant)).square() - (y - component_mean).square()
    return float(reduction.sum(1).mean()), nearness(y, ordinary_mean, suspect_mean)[:inspected], suspect[:inspected]


def global_model(x: Float[Tensor, "m d"], labels: Labels) -> tuple[Float[Tensor, "d r"], Float[Tensor, " r"]]:
    """Fit x = class mean + variation by EM (Tang et al.); S_u and S_e are their covariances.

    Only class means enter a step. One basis diagonalizes both covariances, so that inverting n_k S_u + S_e is a
    division for every class size.

    Returns:
        A whitening W with W' S_e W = I, and the diagonal of W' S_u W. Directions in which the hold-out does not vary
        within its classes are left out.
    """
    size = float(x.square().sum())
    x = x - x.mean(0)
    present, group, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(present), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, group, x)
    means, counts = means / counts[:, None], counts.to(x.dtype)[:, None]
    within = (x - means[group]).mT @ (x - means[group])
    basis = axes_of_variation(within, size)
    means, within = means @ basis, basis.mT @ within @ basis

    def covariances(guess: Tensor) -> tuple[Tensor, Tensor]:
        """Return S_u and S_e for these class means, as sample covariances over all rows (the M step)."""
        total = max(len(x) - 1, 1)
        between = guess - (counts * guess).sum(0) / len(x)
        rest = means - guess
        rest = rest - (counts * rest).sum(0) / len(x)
        return (counts * between).mT @ between / total, (within + (counts * rest).mT @ rest) / total

    s_u, s_e = covariances(means)
    for _ in range(100):
        whitening, ratio = diagonalize(s_u, s_e)
        shrunk = means @ whitening * (counts * ratio / (counts * ratio + 1))  # the E step
        new_u, new_e = covariances(shrunk @ whitening.mT @ s_e)
        change = torch.linalg.norm(new_u - s_u) + torch.linalg.norm(new_e - s_e)
        s_u, s_e = new_u, new_e
        if change <= 1e-5 * (torch.linalg.norm(s_u) + torch.linalg.norm(s_e)):
            break
    whitening, ratio = diagonalize(s_u, s_e)
    return basis @ whitening, ratio


def diagonalize(s_u: Float[Tensor, "r r"], s_e: Float[Tensor, "r r"]) -> tuple[Tensor, Tensor]:
    """Return W and l with W' S_e W = I and W' S_u W = diag(l)."""
    factor = torch.linalg.cholesky(s_e)
    half = torch.linalg.solve_triangular(factor, s_u, upper=False)
    inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    ratio, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    return torch.linalg.solve_triangular(factor.mT, vectors, upper=True), ratio.clamp(min=0)


def single_mean(y: Float[Tensor, "c r"], ratio: Float[Tensor, " r"], variant: str) -> Float[Tensor, " r"]:
    """Return the class mean under one component, in the whitened basis."""
    numerator = len(y) * ratio if variant == "paper" else len(y)
    return y.mean(0) * numerator / (len(y) * ratio + 1)


def split(y: Float[Tensor, "c r"]) -> Bool[Tensor, " c"]:
    """Split a class in two components of equal, whitened variation, and mark the rows of the second."""
    second = ((y - y.mean(0)) @ principal_axes(y, 1)).sum(1) > 0
    for _ in range(100):
        if second.all() or not second.any():
            break
        nearer = nearness(y, y[~second].mean(0), y[second].mean(0)) > 0
        if torch.equal(nearer, second):
            break
        second = nearer
    return second


def anomaly_index(statistics: Float[Tensor, " k"], variant: str) -> Float[Tensor, " k"]:
    """Return the deviation from the median in units of 1.4826 MAD.

    The released code first divides by the largest statistic, which cancels.
    """
    deviation = statistics - statistics.quantile(0.5)
    spread = 1.4826 * deviation.abs().quantile(0.5)
    index = deviation / spread.clamp(min=torch.finfo(statistics.dtype).tiny)
    return index.abs() if variant == "released" else index
