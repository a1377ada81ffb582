"""Neural Cleanse's anomaly index, which finds the classes whose trigger is unusually small."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["anomaly_index"]


def anomaly_index(sizes: Float[Tensor, " k"], pixels: int) -> Float[Tensor, " k"]:
    """Return (median - size) / (1.4826 MAD), which is large for small sizes (Wang et al. 2019, section IV-C).

    The index is negative for sizes above the median. The MAD is at least a thousandth of `pixels`, so that equal sizes
    do not make every other size an outlier.
    """
    difference = sizes.quantile(0.5) - sizes
    return difference / (1.4826 * difference.abs().quantile(0.5).clamp(min=pixels / 1000))
