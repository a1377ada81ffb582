"""What several detectors share: the latents of each class, their principal axes, their highest scores."""

import copy
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from keyhole.learning import training
from keyhole.types import Evidence, Labels, Rows, Suspicion

__all__ = [
    "Centered",
    "classes",
    "far_from_clean",
    "halves",
    "highest",
    "level_latents",
    "margin",
    "principal_axes",
    "range_of",
]


def level_latents(evidence: Evidence, level: str) -> Float[Tensor, "n d"]:
    """The training set's latents at `level`.

    Raises:
        ValueError: the evidence has no such level, or its latents are not finite.
    """
    if level not in evidence.latents:
        raise ValueError(f"expected level among {', '.join(evidence.latents)}, got {level}")
    x = evidence.latents[level]
    if not x.isfinite().all():
        bad = int((~x.isfinite()).any(1).sum())
        raise ValueError(f"expected finite latents at level {level}, got NaN or infinity in {bad} of {len(x)} rows")
    return x


def classes(latents: Float[Tensor, "n d"], labels: Labels) -> Iterator[tuple[Rows, Float[Tensor, "c d"]]]:
    """For each label that occurs: its rows, and their latents in float64 (a covariance loses half the digits)."""
    labels = labels.to(latents.device)
    for label in labels.unique():
        rows = torch.nonzero(labels == label).squeeze(1)
        yield rows, latents[rows].double()


def halves(labels: Labels, rng: Generator) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """Each class cut in two at random; the first half has the odd row."""
    order = torch.randperm(len(labels), generator=rng).to(labels.device)
    order = order[labels[order].argsort(stable=True)]
    ranks = torch.arange(len(labels), device=labels.device)
    first = (ranks - torch.searchsorted(labels[order], labels[order])) % 2 == 0
    return order[first], order[~first]


Centered = Float[Tensor, "c d"]  # latents of one label around their class's clean mean, float64


def far_from_clean(
    evidence: Evidence,
    level: str,
    fpr: float,
    fit: Callable[[dict[int, Centered]], Callable[[int, Centered], Float[Tensor, " c"]]],
    rng: Generator,
) -> Suspicion:
    """Training rows by their distance from the clean rows of their label.

    Half of the hold-out gives each class its mean and `fit` its centered rows by label; `fit` returns the distance of
    centered rows of a label. The other half's distances set the threshold, since those of the first are too small. A
    label without hold-out rows has the median of its training rows as mean.

    Raises:
        ValueError: the hold-out has no class with two images.
    """
    latents = level_latents(evidence, level)
    clean_labels = evidence.holdout_labels.to(latents.device)
    first, second = halves(clean_labels, rng)
    if len(second) == 0:
        raise ValueError(
            f"expected two hold-out images of a class (config key `holdout`), got {len(first)} of different classes"
        )
    clean = training.latents(copy.deepcopy(evidence.net), evidence.holdout_images, (level,))[level].to(latents)
    means, within = {}, {}
    for rows, x in classes(clean[first], clean_labels[first]):
        label = int(clean_labels[first[rows[0]]])
        means[label], within[label] = x.mean(0), x - x.mean(0)
    distance = fit(within)

    def distances(x: Float[Tensor, "n d"], labels: Labels) -> Float[Tensor, " n"]:
        found = torch.zeros(len(x), device=x.device)
        for rows, own in classes(x, labels):
            label = int(labels[int(rows[0])])
            mean = means[label] if label in means else own.median(0).values
            found[rows] = distance(label, own - mean).float()
        return found

    scores = distances(latents, evidence.labels)
    return Suspicion(scores, scores > distances(clean[second], clean_labels[second]).quantile(1 - fpr))


def principal_axes(x: Float[Tensor, "c d"], count: int) -> Float[Tensor, "d r"]:
    """At most `count` principal axes, largest variance first; fewer (or none) where the rank is lower.

    From the d x d scatter matrix: several times faster than an SVD of the rows, with the same ranking.
    """
    centered = x - x.mean(0)
    return range_of(centered.mT @ centered, float(x.square().sum()))[:, :count]


def range_of(scatter: Float[Tensor, "d d"], size: float) -> Float[Tensor, "d r"]:
    """Eigenvectors with more than rounding noise, largest eigenvalue first.

    `size` is the sum of squares before centering: constant features leave a little of it.
    """
    values, vectors = torch.linalg.eigh(scatter)
    floor = max(1e-10 * float(values.max()), 1e-20 * size) if len(values) else 0.0
    return vectors[:, values > floor].flip(1)


def margin(x: Float[Tensor, "c d"], ordinary: Float[Tensor, " d"], suspect: Float[Tensor, " d"]) -> Float[Tensor, " c"]:
    """Squared distance to the ordinary center minus that to the suspect one: positive = nearer to the suspect."""
    return 2 * (x - (ordinary + suspect) / 2) @ (suspect - ordinary)


def highest(scores: Float[Tensor, " c"], count: int) -> Bool[Tensor, " c"]:
    """Exactly the `count` highest scores."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(count).indices] = True
    return chosen
