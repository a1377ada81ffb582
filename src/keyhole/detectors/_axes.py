"""Principal axes of a class's latents, and which of two centers a row is nearer to."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["axes_of_variation", "nearness", "principal_axes"]


def principal_axes(x: Float[Tensor, "c d"], count: int) -> Float[Tensor, "d r"]:
    """Return at most `count` principal axes, largest variance first; fewer (or none) where the rank is lower.

    They come from the d x d scatter matrix, which is several times faster than an SVD of the rows and gives the same
    ranking.
    """
    centered = x - x.mean(0)
    return axes_of_variation(centered.mT @ centered, float(x.square().sum()))[:, :count]


def axes_of_variation(scatter: Float[Tensor, "d d"], size: float) -> Float[Tensor, "d r"]:
    """Return the eigenvectors whose eigenvalues exceed rounding noise, largest eigenvalue first.

    `size` is the sum of squares before centering: after centering, constant features leave rounding noise in proportion
    to it.
    """
    values, vectors = torch.linalg.eigh(scatter)
    floor = max(1e-10 * float(values.max()), 1e-20 * size) if len(values) else 0.0
    return vectors[:, values > floor].flip(1)


def nearness(
    x: Float[Tensor, "c d"], ordinary: Float[Tensor, " d"], suspect: Float[Tensor, " d"]
) -> Float[Tensor, " c"]:
    """Return the squared distance to the ordinary center minus that to the suspect one."""
    return 2 * (x - (ordinary + suspect) / 2) @ (suspect - ordinary)
