"""What a table says across seeds and between defenses; a seed's victim is the unit."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NAN = float("nan")


class Interval(NamedTuple):
    """A mean ± half width over n values."""

    mean: float
    half_width: float
    n: int


class Difference(NamedTuple):
    """First minus second over n pairs."""

    median: float
    mean: float
    half_width: float  # of the mean's t interval
    p: float  # Wilcoxon signed-rank, two-sided
    n: int


def average(values: Sequence[float]) -> float:
    """The mean of the values that are defined; NaN among none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else NAN


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t interval of a mean; one value has no half width, and a NaN among the values gives NaN."""
    from scipy.stats import t

    x = np.array(list(values), dtype=float)
    mean = float(x.mean()) if len(x) else NAN
    half_width = float(t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else NAN
    return Interval(mean, half_width, len(x))


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) interval of a proportion, low and high; NaN of no trials."""
    if n == 0:
        return NAN, NAN
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)


def paired_difference(first: Iterable[float], second: Iterable[float], level: float = 0.95) -> Difference:
    """Two defenses on the same victims, pair by pair; with fewer than six pairs p cannot fall below .05.

    Raises:
        ValueError: the two have different lengths.
    """
    difference = np.array([a - b for a, b in zip(first, second, strict=True)], dtype=float)
    mean, half_width, n = mean_interval(difference, level)
    median = float(np.median(difference)) if n else NAN
    return Difference(median, mean, half_width, _wilcoxon(difference), n)


def _wilcoxon(difference: Float[np.ndarray, " n"]) -> float:
    if not len(difference) or np.isnan(difference).any():
        return NAN
    if not difference.any():
        return 1.0  # SciPy has no ranks left; nothing speaks against "no difference"
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference).pvalue)


def holm(p_values: Iterable[float]) -> Float[np.ndarray, " n"]:
    """Holm's (1979) adjusted p values, in the order given; a NaN stays NaN and is not counted as a test."""
    p = np.array(list(p_values), dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sort last
    steps = p[order] * np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return p
