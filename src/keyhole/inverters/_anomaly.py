"""Which class's trigger is outlyingly small: Neural Cleanse's anomaly index."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["anomaly_index"]


def anomaly_index(sizes: Float[Tensor, " k"], pixels: int) -> Float[Tensor, " k"]:
    """Return (median - size) / (1.4826 MAD) (Wang et al. 2019, section IV-C), signed: large where a size is low.

    The MAD is at least a thousandth of `pixels`, so that equal sizes do not make every other size an outlier.
    """
    below = sizes.quantile(0.5) - sizes
    return below / (1.4826 * below.abs().quantile(0.5).clamp(min=pixels / 1000))
