"""Read the training set's latents, whole or class by class."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from keyhole.types import Evidence, Labels, Rows

__all__ = ["latents_by_class", "level_latents"]


def level_latents(evidence: Evidence, level: str) -> Float[Tensor, "n d"]:
    """Return the training set's latents at `level`.

    Raises:
        ValueError: the evidence has no such level, or the latents are not finite.
    """
    if level not in evidence.latents:
        raise ValueError(f"expected level among {', '.join(evidence.latents)}, got {level}")
    x = evidence.latents[level]
    if not x.isfinite().all():
        bad = int((~x.isfinite()).any(1).sum())
        raise ValueError(f"expected finite latents at level {level}, got NaN or infinity in {bad} of {len(x)} rows")
    return x


def latents_by_class(latents: Float[Tensor, "n d"], labels: Labels) -> Iterator[tuple[int, Rows, Float[Tensor, "c d"]]]:
    """Yield each label that occurs, its rows, and their latents.

    The latents are float64, since a covariance loses half the digits.
    """
    labels = labels.to(latents.device)
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).squeeze(1)
        yield label, rows, latents[rows].double()
