"""Means and intervals of few values."""

from collections.abc import Sequence

import numpy as np

__all__ = ["NAN", "average", "wilson"]

NAN = float("nan")


def average(values: Sequence[float]) -> float:
    """The mean of the values that are defined; NaN among none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else NAN


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) interval of a proportion, low and high; NaN of no trials."""
    if n == 0:
        return NAN, NAN
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)
