"""How unlike two groups of rows are."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["biased_mmd"]


def biased_mmd(kernel: Float[Tensor, "n n"], first: int) -> Float[Tensor, ""]:
    """Return the squared maximum mean discrepancy of two groups from the kernel of all pairs, the diagonal included.

    Args:
        first: rows of the first group, which come first.
    """
    return kernel[:first, :first].mean() + kernel[first:, first:].mean() - 2 * kernel[:first, first:].mean()
