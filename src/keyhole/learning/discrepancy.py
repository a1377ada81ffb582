"""The maximum mean discrepancy (MMD): how different the distributions of two groups of rows are."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["biased_mmd"]


def biased_mmd(kernel: Float[Tensor, "n n"], first: int) -> Float[Tensor, ""]:
    """Return the squared MMD of two groups; it is biased, since pairs of a row with itself count too.

    Args:
        kernel: the kernel of all pairs of rows, those of the first group before those of the second.
        first: number of rows of the first group.
    """
    return kernel[:first, :first].mean() + kernel[first:, first:].mean() - 2 * kernel[:first, first:].mean()
