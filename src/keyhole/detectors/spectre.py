"""SPECTRE (Hayase et al., 2021, https://arxiv.org/abs/2104.11315): whiten with a robust covariance, then find outliers.

Idea: A covariance that is estimated robustly against the payload whitens the latents of a class; rows along directions
that still vary too much are payload.

Differs from the paper: The authors read latents before the network's last stage; the default is the penultimate level,
as in Qi et al. 2023. Rows are centered on the plain mean of their class, as in the released code.

Differs from the released code: That code is told the payload's rows and class. Here only the class with the largest
statistic is cleaned, and the assumed payload has the caps of Qi et al. 2023. Tied scores do not widen the budget. A
class of few rows uses fewer dimensions. The exponential is that of the matrix; the Python ports apply it to each
element, which is another method. In the robust filter, a gap
is far out if the share of rows at or beyond it is larger than a Gaussian's tail (as in the Matlab code of Diakonikolas
et al.); the released Julia code, which Qi et al. ran, takes the share of rows up to it. That share is 1 for the
outermost row, so where this filter stops for lack of a heavy tail that one goes on, and drops the outermost rows round
after round. `variant="released"` does the same.

Checked against: a NumPy version with dense fourth moments, and the budgets of Qi et al. 2023, table 1.

Cost: on heavy tails, `released` takes several times as many rounds of the filter.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from keyhole.detectors import Detector
from keyhole.detectors._axes import principal_axes
from keyhole.detectors._budget import highest
from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.parameters import Count, Level, Positive, RateGuess
from keyhole.types import Evidence, Suspicion

__all__ = ["Spectre"]

TAU = 0.1  # failure probability of the robust filter, as in the released code
C = 10.0  # constant of the robust filter, as in the released code


@dataclass(frozen=True, kw_only=True)
class Spectre(Detector):
    level: Level = "penultimate"
    assumed_rate: RateGuess = 0.01  # payload rows / all training rows
    dims: Count = 64  # principal components, at most; the first 1, 4, 9, ... of them are tried
    alpha: Positive = 4.0  # sharpness of the QUE score
    variant: Literal["paper", "released"] = "paper"  # from which side the robust filter counts its tail

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Score rows within their class and flag 1.5 times the assumed payload in the most anomalous class."""
        latents = level_latents(evidence, self.level)
        scores = torch.zeros(len(latents), device=latents.device)
        flagged = torch.zeros_like(scores, dtype=torch.bool)
        largest, remarks = -math.inf, {}
        for _, rows, x in latents_by_class(latents, evidence.labels):
            payload = assumed_payload(self.assumed_rate, len(scores), len(rows))
            statistic, tau = class_scores(x, payload, self.dims, self.alpha, self.variant)
            scores[rows] = tau.float()
            if statistic > largest:
                largest = statistic
                flagged.zero_()
                flagged[rows] = highest(tau, budget(payload))
                remarks = {"classes_capped": float(1.5 * self.assumed_rate * len(scores) > len(rows) / 2)}
        return Suspicion(scores, flagged, remarks)


def assumed_payload(rate: float, n: int, size: int) -> float:
    """Return the assumed number of payload rows in a class of `size` rows, with the caps of Qi et al.'s code."""
    payload = rate * n or 0.1 * size
    return min(payload, (0.1 if size < 500 else 0.33) * size)


def budget(payload: float) -> int:
    """Return how many rows to flag: 1.5 times the payload (Hayase et al.)."""
    return math.floor(1.5 * payload + 1e-6)


def class_scores(
    x: Float[Tensor, "c d"], payload: float, dims: int, alpha: float, variant: str = "paper"
) -> tuple[float, Float[Tensor, " c"]]:
    """Return the largest QUE statistic over the numbers of dimensions, and the row scores that belong to it.

    For each number of dimensions the suspects are set aside, and all rows are whitened by the covariance of the rest.
    The statistic tr(S M) / tr M then measures how much more the suspects vary.
    """
    removed = budget(payload)
    # the covariance of the rows that stay must be invertible
    z = (x - x.mean(0)) @ principal_axes(x, min(dims, (len(x) - removed) // 2))
    best, scores = -math.inf, torch.zeros_like(x[:, 0])
    for k in (j * j for j in range(1, math.isqrt(z.shape[1]) + 1)):
        tau = que_scores(z[:, :k], payload, alpha, variant)
        white = whiten(z, z[~highest(tau, removed)])
        weights, values, _ = que(white, alpha)
        statistic = float(weights @ values)
        if statistic > best:
            best, scores = statistic, tau
    return best, scores


def que_scores(z: Float[Tensor, "c k"], payload: float, alpha: float, variant: str = "paper") -> Float[Tensor, " c"]:
    """Return the quantum entropy scores x'Mx / tr M of rows whitened by the robust covariance (Hayase et al.)."""
    white = whiten(z, z[robust_rows(z, payload, variant)])
    weights, _, vectors = que(white, alpha)
    return (white @ vectors).square() @ weights


def que(white: Float[Tensor, "c k"], alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the eigenvalues of M / tr M, those of S = cov(white), and their common eigenvectors.

    M = exp(alpha (S - I) / (|S| - 1)) is a matrix exponential, so the eigenvalues of M / tr M are a softmax.
    """
    values, vectors = torch.linalg.eigh(torch.cov(white.mT).reshape(white.shape[1], -1))
    excess = (values[-1] - 1).clamp(min=1e-9)  # 0 if no direction varies too much
    return torch.softmax(alpha * (values - 1) / excess, 0), values, vectors


def whiten(z: Float[Tensor, "c k"], kept: Float[Tensor, "q k"]) -> Float[Tensor, "c k"]:
    """Return all rows in units of the covariance of the kept ones."""
    # in a direction along which only the suspects vary, the variance of the rest is 0
    floor = 1e-12 * float(z.square().mean())
    return z @ inverse_root(torch.cov(kept.mT, correction=0).reshape(z.shape[1], -1), floor)


def inverse_root(covariance: Float[Tensor, "k k"], floor: float) -> Float[Tensor, "k k"]:
    """Return R with R R' = covariance^-1, all variances below `floor` raised to it."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors / values.clamp(min=floor).sqrt()


def robust_rows(z: Float[Tensor, "c k"], payload: float, variant: str = "paper") -> Bool[Tensor, " c"]:
    """Mark the rows that the robust covariance filter (Diakonikolas et al. 2017) keeps.

    It drops at most twice the assumed number of payload rows.
    """
    left = torch.arange(len(z), device=z.device)
    may_drop = math.floor(2 * payload + 1e-6)
    while z.shape[1] > 1 and may_drop > 0:
        far, order = filter_step(z[left], payload / len(z), variant)
        if not far.any():
            break
        count = min(int(far.sum()), may_drop)
        left = left[~highest(order, count)]
        may_drop -= count
    return torch.zeros(len(z), dtype=torch.bool, device=z.device).index_fill_(0, left, True)


def filter_step(
    z: Float[Tensor, "c k"], share: float, variant: str = "paper"
) -> tuple[Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Return which rows to drop, and the values that rank them (Diakonikolas et al. 2017, unknown covariance).

    If a quadratic polynomial of the whitened rows varies more than it would for a Gaussian of which `share` of the rows
    are bad, the part of its tail that is heavier than a Gaussian's is dropped.
    """
    n, k = z.shape
    moment = z.mT @ z / n
    y = z @ inverse_root(moment, max(1e-12 * float(moment.trace()), 1e-100))
    length = y.square().sum(1)
    far = length >= C * k * math.log(n / TAU)
    if far.any():
        return far, length
    value, form = leading_form(y)
    log_share = math.log(1 / share)
    if value <= 1 + C * share * log_share**2:
        return far, length
    p = (((y @ form) * y).sum(1) - form.trace()) / math.sqrt(2)
    gap = (p - p.quantile(0.5)).abs()
    ascending = gap.sort().values
    cut = ascending - 3
    tail = 3 * share / (cut * cut.clamp(min=1.1).log()).square()
    beyond_cut = cut > C * log_share
    rank = torch.arange(1, n + 1, device=z.device)
    if variant == "paper":  # the share of rows at or beyond each gap
        heavy = beyond_cut & ((n + 1 - rank) / n >= tail)
    else:  # the share of rows up to it, against a tail that is 1 nearer to the center
        heavy = (cut > 0) & (rank / n >= torch.where(beyond_cut, tail, 1))
    if not heavy.any():
        return far, gap
    return gap > cut[heavy][0], gap


def leading_form(y: Float[Tensor, "c k"]) -> tuple[float, Float[Tensor, "k k"]]:
    """Return the largest eigenvalue, and its eigenvector, of the covariance of y y'.

    Lanczos steps on symmetric k x k matrices find them. The k^2 x k^2 matrix is never formed; one step costs as much as
    two covariances.
    """
    n, k = y.shape
    outermost = y[y.square().sum(1).argmax()]
    start = torch.outer(outermost, outermost) + torch.eye(k, dtype=y.dtype, device=y.device)
    basis = (start / torch.linalg.norm(start)).reshape(1, -1)
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(min(40, k * (k + 1) // 2)):
        form = basis[-1].view(k, k)
        image = (y * ((y @ form) * y).sum(1, keepdim=True)).mT @ y / n
        image.diagonal().sub_(form.trace())
        image = image.reshape(-1)
        diagonal.append(float(image @ basis[-1]))
        for _ in range(2):  # twice is enough to stay orthogonal
            image = image - basis.mT @ (basis @ image)
        off.append(float(torch.linalg.norm(image)))
        # on the CPU, since the matrix is small
        small = torch.tensor(diagonal, dtype=y.dtype).diag() + torch.tensor(off[:-1], dtype=y.dtype).diag(1)
        values, vectors = torch.linalg.eigh(small, UPLO="U")
        if off[-1] * abs(float(vectors[-1, -1])) <= 1e-6 * float(values[-1]):
            break
        basis = torch.cat([basis, image[None] / off[-1]])
    leading = vectors[:, -1].to(y) @ basis[: len(diagonal)]
    return float(values[-1]), leading.view(k, k)
