"""How far the payload is from the clean rows of the target label, at each level of a network.

"Inseparable" is a statement about one metric in one space. So every metric is computed in three spaces, and compared
with two marks of its own scale. Its *null* is the metric between two groups of clean rows: what no separation looks
like. Its *ceiling* is the metric between payload and clean rows of another class. Metrics compare two groups of equally
many rows; only folds, permutations and projections are random. All arithmetic is in float64; torch is not imported.

Checked against: double loops, scikit-learn, SciPy, Gaussians a known distance apart.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from keyhole.scoring.statistics import NAN, average
from keyhole.scoring.two_sample import METRICS, SCALE_FREE, Groups, auroc, plain_silhouette, shrunk_covariance, spread

__all__ = ["COLUMNS", "TRANSFORMS", "by_level", "separability"]

FEWEST, MOST = 5, 500  # rows of a group
PLAIN_ROWS = 1500  # the most for `silhouette_plain`, whose time grows with the square of the rows

COLUMNS = [f"{name}{mark}" for name in (*METRICS, "distance_auroc") for mark in ("", "_null", "_ceiling")]
COLUMNS += ["silhouette_plain", "effective_rank", "spread_ratio"]


def by_level(
    latents: Mapping[str, Float[np.ndarray, "n d"]],
    labels: Int[np.ndarray, " n"],
    is_payload: Bool[np.ndarray, " n"],
    is_cover: Bool[np.ndarray, " n"],
    targets: Sequence[int],
    rng_seed: int,
) -> list[dict[str, Any]]:
    """Return the rows of `separability` at each level, with the mean over target labels if there are several.

    Args:
        labels: the training labels as received.
        targets: the labels that payload has; the ceiling compares with the class after each.
    """
    rows = []
    for level, x in latents.items():
        by_target = []
        for target in targets:
            other = (labels == (target + 1) % (labels.max() + 1)) & ~is_payload & ~is_cover
            in_class = labels == target
            by_target.append(separability(x[in_class], is_payload[in_class], x[other], rng_seed))
        for of_space in zip(*by_target, strict=True):
            names = [name for name in of_space[0] if name != "transform"]
            means = {
                name: average([row[name] for row in of_space]) for name in names
            }  # over labels with enough payload
            rows.append({"level": level, "transform": of_space[0]["transform"], **means})
    return rows


def separability(
    latents: Float[np.ndarray, "n d"],
    is_payload: Bool[np.ndarray, " n"],
    other: Float[np.ndarray, "m d"],
    rng_seed: int,
) -> list[dict[str, Any]]:
    """Return one row of columns for each of `TRANSFORMS`; metrics are NaN with fewer than five rows in a group.

    For each metric x of `METRICS`, column `x` compares payload with clean rows, `x_null` these clean rows with other
    clean rows, and `x_ceiling` the same payload with `other`. Each group has `group_rows` rows. The spaces are fitted
    to `fit_rows` clean rows that are in none of these groups. `distance_auroc` uses every row that the space was not
    fitted to. `silhouette_plain` uses all rows, as Qi et al. 2023 do (150 payload rows hardly count beside 5,000 clean
    ones), or 1,500 with the same share of payload. `effective_rank` is that of all clean rows, `spread_ratio` is their
    variance over that of `other`. If a latent of either class is not finite, all metrics are NaN.

    Args:
        latents: all rows with the target label as received; rows that are not payload, cover included, count as clean.
        other: clean rows of another class.
    """
    broken = int((~np.isfinite(latents).all(1)).sum() + (~np.isfinite(other).all(1)).sum())
    rng = np.random.default_rng(rng_seed)
    payload, clean, others = (
        rng.permutation(rows) for rows in (np.flatnonzero(is_payload), np.flatnonzero(~is_payload), len(other))
    )
    third = len(clean) // 3
    size = min(len(payload), third, MOST)
    held_out, fitted = np.split(clean, [max(2 * size, third)])
    share = min(1.0, PLAIN_ROWS / max(1, len(latents)))
    facts = {"group_rows": size, "fit_rows": len(fitted), "non_finite_latents": broken}

    rows: list[dict[str, Any]] = []
    for name, fit in TRANSFORMS.items():
        row = {"transform": name, **dict.fromkeys(COLUMNS, NAN), **facts}
        rows.append(row)
        if broken or len(clean) < 2:
            continue
        move = fit(latents[fitted].astype(np.float64))
        x, y = move(latents.astype(np.float64)), move(other.astype(np.float64))
        row["effective_rank"] = effective_rank(x[clean])
        row["spread_ratio"] = spread_ratio(x[clean], y)
        if size < FEWEST:
            continue
        everyone = (x[kind[: max(FEWEST, round(share * len(kind)))]] for kind in (payload, clean))
        row["silhouette_plain"] = plain_silhouette(*everyone)
        chosen, first, second = x[payload[:size]], x[held_out[:size]], x[held_out[size : 2 * size]]
        pairs = {"": Groups(chosen, first, rng_seed), "_null": Groups(first, second, rng_seed)}
        far = np.linalg.norm(x, axis=1)
        row["distance_auroc"] = auroc(far[payload], far[held_out])
        row["distance_auroc_null"] = auroc(far[held_out[::2]], far[held_out[1::2]])
        if len(other) >= size:
            pairs["_ceiling"] = Groups(chosen, y[others[:size]], rng_seed)
            row["distance_auroc_ceiling"] = auroc(np.linalg.norm(y, axis=1), far[held_out])
        for mark, groups in pairs.items():
            for metric, value in METRICS.items():
                same_as_raw = name == "standardized" and metric in SCALE_FREE
                row[metric + mark] = rows[0][metric + mark] if same_as_raw else value(groups)
    return rows


# Spaces, fitted to clean rows of the target class. All move the mean of these rows to the origin, which changes no
# metric.


def raw(clean: Float[np.ndarray, "c d"]) -> Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]:
    """Leave the latents as they are, except for their mean."""
    center = clean.mean(0)
    return lambda x: x - center


def standardized(clean: Float[np.ndarray, "c d"]) -> Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]:
    """Divide each feature by its standard deviation in `clean`; a constant feature is not divided."""
    center, scale = clean.mean(0), spread(clean)
    return lambda x: (x - center) / scale


def whitened(clean: Float[np.ndarray, "c d"]) -> Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]:
    """Turn distances into Mahalanobis distances, with the covariance of `clean` shrunk (Ledoit and Wolf 2004).

    The features are standardized first: channels differ in scale, and shrinking toward their mean variance would drown
    the ones with little variance. Directions with less variance than the shrinkage adds stay partly hidden: it adds 1 %
    of the mean variance for 64 features and 3,334 rows, 3 % for 256 features, 6 % for 512.
    """
    from scipy.linalg import cholesky, solve_triangular

    scaled = standardized(clean)
    factor = cholesky(shrunk_covariance(scaled(clean)), lower=True)
    return lambda x: solve_triangular(factor, scaled(x).T, lower=True).T


TRANSFORMS = {"raw": raw, "standardized": standardized, "whitened": whitened}


def effective_rank(x: Float[np.ndarray, "n d"]) -> float:
    """Return the participation ratio of the covariance's eigenvalues, (sum)^2 / sum of squares, from 1 to d."""
    covariance = np.cov(x, rowvar=False).reshape(x.shape[1], -1)
    total = (covariance**2).sum()
    return float(np.trace(covariance) ** 2 / total) if total > 0 else NAN


def spread_ratio(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Return the total variance of `x` over that of `y`.

    It is far below 1 where training contracted a class to hide something in it.
    """
    total = y.var(0).sum() if len(y) > 1 else 0.0
    return float(x.var(0).sum() / total) if total > 0 else NAN
