"""The common part of detectors that score a row by its distance from the clean rows of its label."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.learning import training
from keyhole.types import Evidence, Labels, Suspicion

__all__ = ["Centered", "Distance", "halve_classes", "score_by_clean_distance"]

Centered = Float[Tensor, "c d"]  # latents of one label minus the clean mean of that label, float64
Distance = Callable[[int, Centered], Float[Tensor, " c"]]  # from a label and its centered rows


def score_by_clean_distance(
    evidence: Evidence, level: str, fpr: float, fit: Callable[[dict[int, Centered]], Distance], rng: Generator
) -> Suspicion:
    """Score training rows by their distance from the clean rows of their label.

    The first half of the hold-out gives the mean of each class; its centered rows, by label, go to `fit`, which returns
    the distance. The threshold is a quantile of the second half's distances, since those of the first half are too
    small. A label without hold-out rows takes the median of its training rows as its mean.

    Args:
        fpr: share of clean rows above the threshold.

    Raises:
        ValueError: no class has two hold-out images.
    """
    latents = level_latents(evidence, level)
    clean_labels = evidence.holdout_labels.to(latents.device)
    first, second = halve_classes(clean_labels, rng)
    if len(second) == 0:
        raise ValueError(
            "expected at least two hold-out images of one class (config key `holdout`), "
            f"got {len(first)} images, each of a different class"
        )
    clean = training.latents(evidence.frozen(), evidence.holdout_images, (level,))[level].to(latents)
    means, centered = {}, {}
    for label, _, x in latents_by_class(clean[first], clean_labels[first]):
        means[label], centered[label] = x.mean(0), x - x.mean(0)
    distance = fit(centered)

    def distances(x: Float[Tensor, "n d"], labels: Labels) -> Float[Tensor, " n"]:
        result = torch.zeros(len(x), device=x.device)
        for label, rows, members in latents_by_class(x, labels):
            mean = means[label] if label in means else members.median(0).values
            result[rows] = distance(label, members - mean).float()
        return result

    scores = distances(latents, evidence.labels)
    return Suspicion(scores, scores > distances(clean[second], clean_labels[second]).quantile(1 - fpr))


def halve_classes(labels: Labels, rng: Generator) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """Split each class in two at random; of an odd number of rows the first half gets one more."""
    order = torch.randperm(len(labels), generator=rng).to(labels.device)
    order = order[labels[order].argsort(stable=True)]
    ranks = torch.arange(len(labels), device=labels.device)
    first = (ranks - torch.searchsorted(labels[order], labels[order])) % 2 == 0
    return order[first], order[~first]
