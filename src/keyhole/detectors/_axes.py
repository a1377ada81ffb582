"""Along which axes the latents of a class vary, and to which of two centers a row is nearer."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["axes_of_variation", "nearness", "principal_axes"]


def principal_axes(x: Float[Tensor, "c d"], count: int) -> Float[Tensor, "d r"]:
    """Return at most `count` principal axes, largest variance first; fewer (or none) where the rank is lower.

    From the d x d scatter matrix: several times faster than an SVD of the rows, with the same ranking.
    """
    centered = x - x.mean(0)
    return axes_of_variation(centered.mT @ centered, float(x.square().sum()))[:, :count]


def axes_of_variation(scatter: Float[Tensor, "d d"], size: float) -> Float[Tensor, "d r"]:
    """Return the eigenvectors of a scatter matrix with more than rounding noise, largest eigenvalue first.

    `size` is the sum of squares before centering: constant features leave a little of it.
    """
    values, vectors = torch.linalg.eigh(scatter)
    floor = max(1e-10 * float(values.max()), 1e-20 * size) if len(values) else 0.0
    return vectors[:, values > floor].flip(1)


def nearness(
    x: Float[Tensor, "c d"], ordinary: Float[Tensor, " d"], suspect: Float[Tensor, " d"]
) -> Float[Tensor, " c"]:
    """Return the squared distance to the ordinary center minus that to the suspect one."""
    return 2 * (x - (ordinary + suspect) / 2) @ (suspect - ordinary)
