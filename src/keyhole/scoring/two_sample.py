"""Metrics of how far apart two groups of equally many points are.

Only folds, permutations and projections are random. All arithmetic is in float64; torch is not imported.

Checked against: double loops, scikit-learn, SciPy, Gaussians a known distance apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Bool, Float

from keyhole.scoring.statistics import NAN

__all__ = ["METRICS", "SCALE_FREE", "Groups", "auroc", "plain_silhouette", "shrunk_covariance", "spread"]

FOLDS = 5
NEIGHBORS = 10
PERMUTATIONS = 199  # so the smallest p is 1/200
PROJECTIONS = 100
SVM_C = 0.01  # 1 takes four times longer where no plane separates the groups


@dataclass(frozen=True)
class Groups:
    """Two groups of equally many rows, and what several metrics compute from them.

    In arrays over all 2s rows, rows 0 to s-1 are the first group.
    """

    x: Float[np.ndarray, "s d"]
    y: Float[np.ndarray, "s d"]
    seed: int = 0  # of folds, permutations and projections: the same for all groups that are compared

    @cached_property
    def rows(self) -> Float[np.ndarray, "n d"]:
        """The rows of both groups."""
        return np.concatenate([self.x, self.y])

    @cached_property
    def squares(self) -> Float[np.ndarray, "n n"]:
        """Squared distances between all rows."""
        return _squares(self.rows)

    @cached_property
    def distances(self) -> Float[np.ndarray, "n n"]:
        """Distances between all rows."""
        return np.sqrt(self.squares)

    @cached_property
    def kernel(self) -> Float[np.ndarray, "n n"]:
        """exp(-|u - v|^2 / 2m), where m is the median squared distance between different rows."""
        median = float(np.median(self.squares[np.tri(len(self.squares), k=-1, dtype=bool)]))
        return np.exp(-self.squares / (2 * median)) if median > 0 else np.full_like(self.squares, NAN)


def _squares(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    centered = rows - rows.mean(0)  # without this, differences of large numbers lose digits
    norms = (centered**2).sum(1)
    squares = centered @ (-2 * centered.T)
    squares += norms  # in place: large temporary arrays cost more than the product
    squares += norms[:, None]
    np.maximum(squares, 0, out=squares)
    np.fill_diagonal(squares, 0)
    return squares


def silhouette(groups: Groups) -> float:
    """Return the mean over rows of (b - a) / max(a, b) (Rousseeuw 1987).

    a is a row's mean distance to its own group, b to the other. -1 to 1, higher = further apart, about 0 for one
    cloud. Since the groups are equally large, the mean over rows is also the mean over groups.
    """
    return float(_silhouettes(groups.distances, len(groups.x)).mean())


def _silhouettes(distances: Float[np.ndarray, "n n"], first: int) -> Float[np.ndarray, " n"]:
    """Return the silhouette of each row; the first `first` rows are one group, the others the second."""
    is_first = np.arange(len(distances)) < first
    sums = distances @ np.stack([is_first, ~is_first], axis=1).astype(np.float64)
    to_own, to_other = np.where(is_first, sums.T, sums.T[::-1])
    count = np.where(is_first, first, len(distances) - first)
    a, b = to_own / np.maximum(count - 1, 1), to_other / (len(distances) - count)
    return np.divide(b - a, np.maximum(a, b), out=np.zeros_like(a), where=(np.maximum(a, b) > 0) & (count > 1))


def plain_silhouette(x: Float[np.ndarray, "p d"], y: Float[np.ndarray, "c d"]) -> float:
    """Return the mean silhouette of all rows of two groups of any size; NaN if one has fewer than two rows."""
    if min(len(x), len(y)) < 2:
        return NAN
    distances = _squares(np.concatenate([x, y]))
    return float(_silhouettes(np.sqrt(distances, out=distances), len(x)).mean())


def davies_bouldin(groups: Groups) -> float:
    """Return (r + r') / |c - c'| (Davies and Bouldin 1979). LOWER = further apart.

    c and c' are the centers of the groups, r and r' the mean distances of the rows to them. 0 to infinity; NaN if the
    centers coincide.
    """
    centers = groups.x.mean(0), groups.y.mean(0)
    radii = [np.linalg.norm(x - c, axis=1).mean() for x, c in zip((groups.x, groups.y), centers, strict=True)]
    between = float(np.linalg.norm(centers[0] - centers[1]))
    return float(sum(radii) / between) if between > 0 else NAN


def lda_auroc(groups: Groups) -> float:
    """Return the AUROC of Fisher's discriminant with a shrunk covariance, on rows that it was not fitted to.

    0 to 1, higher = further apart, 0.5 = chance. It is the mean over 5 stratified folds, since the discriminants of
    different folds have different scales. Two Gaussians with Mahalanobis distance D between their means have
    Phi(D / sqrt 2). Features are standardized with the fold's training rows.
    """
    return _cross_validated(groups, _discriminant)


def svm_auroc(groups: Groups) -> float:
    """Return the AUROC of a linear SVM (squared hinge loss, C = 0.01), cross-validated as in `lda_auroc`.

    Qi et al. 2023 fit their SVM to the same points that they then plot. In many dimensions a plane separates any two
    groups, so here the SVM is judged on other rows.
    """
    return _cross_validated(groups, _support_vectors)


def _cross_validated(groups: Groups, direction: Callable[..., Float[np.ndarray, " d"]]) -> float:
    size, rows = len(groups.x), groups.rows
    fold = np.tile(np.random.default_rng(groups.seed).permutation(size) % FOLDS, 2)
    is_first = np.arange(2 * size) < size
    values = []
    for k in range(FOLDS):
        train = rows[fold != k]
        z = (rows - train.mean(0)) / spread(train)
        scores = z[fold == k] @ direction(z[fold != k], is_first[fold != k])
        values.append(auroc(scores[is_first[fold == k]], scores[~is_first[fold == k]]))
    return float(np.mean(values))


def _discriminant(z: Float[np.ndarray, "n d"], is_first: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    from scipy.linalg import solve

    means = z[is_first].mean(0), z[~is_first].mean(0)
    return solve(shrunk_covariance(z - np.where(is_first[:, None], *means)), means[0] - means[1], assume_a="pos")


def _support_vectors(z: Float[np.ndarray, "n d"], is_first: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=SVM_C, dual=False).fit(z, is_first).coef_[0]  # the primal solver draws nothing at random


def knn_purity(groups: Groups) -> float:
    """Return the mean share of a row's 10 nearest neighbors that are in its own group.

    Groups of s < 11 rows have s-1 neighbors in place of 10. 0 to 1, higher = further apart, (s-1)/(2s-1) for one cloud.
    Neighbors at equal distance share the last places.
    """
    size = len(groups.x)
    k = min(NEIGHBORS, size - 1)
    distances = groups.squares.copy()
    np.fill_diagonal(distances, np.inf)
    last = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    nearer, level = distances < last, distances == last
    weights = nearer + level * ((k - nearer.sum(1)) / level.sum(1))[:, None]
    return float((weights[:size, :size].sum() + weights[size:, size:].sum()) / (2 * size * k))


def mmd(groups: Groups) -> float:
    """Return the unbiased squared MMD (Gretton et al. 2012, lemma 6), Gaussian kernel, median heuristic.

    Below 2, higher = further apart; 0 on average for one cloud, so about half of the nulls are negative.
    """
    return float(_mmds(groups, np.repeat([1.0, 0.0], len(groups.x))[:, None])[0])


def mmd_p(groups: Groups) -> float:
    """Return the permutation p of `mmd`. LOWER = further apart.

    It is the share of 200 divisions of the rows into two groups, the real one and 199 random ones, whose `mmd` is at
    least that of the real one. 1/200 to 1, uniform for one cloud.
    """
    divided = _mmds(groups, _divisions(len(groups.x), groups.seed))
    real = mmd(groups)
    return NAN if np.isnan(real) else float(((divided >= real - 1e-12).sum() + 1) / (PERMUTATIONS + 1))


def _mmds(groups: Groups, divisions: Float[np.ndarray, "n b"]) -> Float[np.ndarray, " b"]:
    """Return the `mmd` of each division of the rows; a column of `divisions` has 1 for one half and 0 for the other."""
    size, kernel = len(groups.x), groups.kernel
    sums = kernel.sum(1) - 1  # without the diagonal
    in_first = (divisions * (kernel @ divisions)).sum(0) - size
    across = sums @ divisions - in_first
    in_second = sums.sum() - in_first - 2 * across
    return (in_first + in_second) / (size * (size - 1)) - 2 * across / size**2


@cache
def _divisions(size: int, seed: int) -> Float[np.ndarray, "n b"]:
    order = np.random.default_rng(seed).random((2 * size, PERMUTATIONS)).argsort(0)
    return (order < size).astype(np.float64)


def mmd_five_kernels(groups: Groups) -> float:
    """Return the biased squared MMD with five Gaussians, which the released code of Xia et al. trains against.

    The kernel is the sum of exp(-|u - v|^2 / 2^i w) over i = 0..4, where w is a quarter of the mean squared distance
    between different rows. 0 to 10, higher = further apart. It is above 0 for one cloud, too, since the diagonal
    counts: compare it with its null.
    """
    size, n = len(groups.x), len(groups.rows)
    width = groups.squares.sum() / (n**2 - n) / 4
    if width == 0:
        return NAN
    power = np.exp(-groups.squares / (16 * width))  # i = 4; squaring it halves the width
    kernel = power.copy()
    for _ in range(4):
        power *= power
        kernel += power
    return float(kernel[:size, :size].mean() + kernel[size:, size:].mean() - 2 * kernel[:size, size:].mean())


def energy_distance(groups: Groups) -> float:
    """Return the square root of 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely and Rizzo 2013).

    In one dimension it equals SciPy's. 0 to infinity, higher = further apart, in (units of the latents)^1/2. It is
    above 0 for one cloud, too, since the zero distance of a row to itself counts.
    """
    size, distances = len(groups.x), groups.distances
    squared = 2 * distances[:size, size:].mean() - distances[:size, :size].mean() - distances[size:, size:].mean()
    return float(np.sqrt(max(squared, 0)))


def sliced_wasserstein(groups: Groups) -> float:
    """Return the mean W1 distance of projections on 100 random directions (Rabin et al. 2011; Bonneel et al. 2015).

    0 to infinity, higher = further apart, in units of the latents; above 0 for one cloud, too.
    """
    directions = np.random.default_rng(groups.seed).normal(size=(groups.x.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    x, y = (np.sort(rows @ directions, axis=0) for rows in (groups.x, groups.y))
    return float(np.abs(x - y).mean())


def auroc(high: Float[np.ndarray, " p"], low: Float[np.ndarray, " q"]) -> float:
    """Return how often a value of `high` exceeds a value of `low`; a tie counts half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def spread(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Return the standard deviation of each feature; 1 for a constant feature."""
    return np.where(np.ptp(x, axis=0) == 0, 1.0, x.std(0))


def shrunk_covariance(centered: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return (1 - a) S + a tr(S)/d I, with a of Ledoit and Wolf 2004.

    It equals scikit-learn's, in half the time.
    """
    n, d = centered.shape
    covariance = centered.T @ centered / n
    mean = np.trace(covariance) / d
    total = (covariance**2).sum()
    noise = ((centered**2).sum(1) ** 2).mean() / n - total / n
    distance = total - d * mean**2
    share = min(1.0, noise / distance) if distance > 0 else 0.0
    ridge = 1e-10 * mean or 1.0  # the identity if there is no variance at all
    return (1 - share) * covariance + (share * mean + ridge) * np.eye(d)


METRICS: dict[str, Callable[[Groups], float]] = {
    metric.__name__: metric
    for metric in (
        silhouette,
        davies_bouldin,
        lda_auroc,
        svm_auroc,
        knn_purity,
        mmd,
        mmd_p,
        mmd_five_kernels,
        energy_distance,
        sliced_wasserstein,
    )
}
# metrics that do not depend on the scale of features: the same for raw and for standardized latents
SCALE_FREE = frozenset({"lda_auroc", "svm_auroc"})
