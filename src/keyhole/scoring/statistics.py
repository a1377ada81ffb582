"""A mean that leaves out undefined values, and an interval for proportions."""

from collections.abc import Sequence

import numpy as np

__all__ = ["NAN", "average", "wilson"]

NAN = float("nan")


def average(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else NAN


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the two ends of Wilson's (1927) interval for a proportion; NaN without trials."""
    if n == 0:
        return NAN, NAN
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)
