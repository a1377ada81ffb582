"""Counts, shares and means of arrays with undefined values, and an interval for proportions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["NAN", "average", "count_non_finite", "share", "wilson"]

NAN = float("nan")


def average(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else NAN


def share(hits: Bool[np.ndarray, " n"]) -> float:
    """Return the share of hits; NaN if there are no rows."""
    return float(hits.mean()) if hits.size else NAN


def count_non_finite(scores: Float[np.ndarray, " n"]) -> int:
    """Return how many scores are NaN or infinite."""
    return int((~np.isfinite(scores)).sum())


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the two ends of Wilson's (1927) interval for a proportion; NaN without trials."""
    if n == 0:
        return NAN, NAN
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)
