"""Every metric against a loop, SciPy or scikit-learn; then planted payload, clean rows called payload, and no rows."""

import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import davies_bouldin_score, roc_auc_score, silhouette_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from keyhole.scoring import separability as spaces
from keyhole.scoring import two_sample as module
from keyhole.scoring.separability import TRANSFORMS, separability
from keyhole.scoring.two_sample import METRICS, Groups

RANDOM = {"lda_auroc", "svm_auroc", "mmd_p"}  # the order of rows decides on folds and divisions


def clouds(size=23, d=7, gap=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, size, d)) * rng.uniform(0.5, 2, d)
    x[:, 0] += gap
    return Groups(x + 5, y + 5, seed)


def target_class(payload, clean, gap=0.0, d=8, seed=0):
    """Latents as received, who is payload, and another class."""
    rng = np.random.default_rng(seed)
    latents, is_payload = rng.normal(size=(payload + clean, d)), rng.permutation(payload + clean) < payload
    latents[is_payload, 0] += gap
    return latents.astype(np.float32), is_payload, (rng.normal(size=(200, d)) + 10).astype(np.float32)


def is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)


# Metrics against independent versions


@pytest.mark.parametrize("gap", [0.0, 1.0, 20.0])
def test_silhouette_and_davies_bouldin_are_those_of_scikit_learn(gap):
    groups = clouds(gap=gap)
    rows, kind = np.concatenate([groups.x, groups.y]), np.repeat([0, 1], 23)
    assert METRICS["silhouette"](groups) == pytest.approx(silhouette_score(rows, kind))
    assert METRICS["davies_bouldin"](groups) == pytest.approx(davies_bouldin_score(rows, kind))
    unequal = module.plain_silhouette(groups.x[:4], groups.y)
    assert unequal == pytest.approx(silhouette_score(np.concatenate([groups.x[:4], groups.y]), [0] * 4 + [1] * 23))


def test_silhouette_of_four_rows():
    # 0 and 1 against 10 and 11: a = 1 for all; b is 10.5 for the outer rows, 9.5 for the inner ones
    groups = Groups(np.array([[0.0], [1.0]]), np.array([[10.0], [11.0]]))
    assert METRICS["silhouette"](groups) == pytest.approx(((1 - 1 / 10.5) + (1 - 1 / 9.5)) / 2)
    assert module.plain_silhouette(groups.x, groups.y) == METRICS["silhouette"](groups)
    assert math.isnan(module.plain_silhouette(groups.x[:1], groups.y))


@pytest.mark.parametrize("size", [5, 11, 23])
def test_knn_purity_counts_neighbors(size):
    groups = clouds(size)
    rows, k, hits = np.concatenate([groups.x, groups.y]), min(10, size - 1), 0
    for i in range(2 * size):
        order = sorted((j for j in range(2 * size) if j != i), key=lambda j: np.linalg.norm(rows[i] - rows[j]))
        hits += sum((j < size) == (i < size) for j in order[:k])
    assert METRICS["knn_purity"](groups) == pytest.approx(hits / (2 * size * k))
    assert METRICS["knn_purity"](clouds(size, gap=100.0)) == 1


def test_neighbors_at_equal_distance_share_the_places():
    same = np.ones((6, 2))
    assert METRICS["knn_purity"](Groups(same, same.copy())) == pytest.approx(5 / 11)


def loop_mmd(x, y):
    rows = np.concatenate([x, y])
    pairs = list(itertools.combinations(range(len(rows)), 2))
    m = np.median([np.linalg.norm(rows[i] - rows[j]) ** 2 for i, j in pairs])

    def k(u, v):
        return math.exp(-(np.linalg.norm(u - v) ** 2) / (2 * m))

    within = sum(k(a[i], a[j]) for a in (x, y) for i in range(len(a)) for j in range(len(a)) if i != j)
    across = sum(k(u, v) for u in x for v in y)
    return within / (len(x) * (len(x) - 1)) - 2 * across / len(x) ** 2


@pytest.mark.parametrize("gap", [0.0, 3.0])
def test_mmd_is_that_of_a_loop(gap):
    groups = clouds(12, gap=gap)
    assert METRICS["mmd"](groups) == pytest.approx(loop_mmd(groups.x, groups.y), abs=1e-12)


def test_mmd_p_is_the_share_of_all_divisions():
    groups = clouds(5, d=2, gap=1.0, seed=3)
    rows, everyone = np.concatenate([groups.x, groups.y]), set(range(10))
    real = loop_mmd(groups.x, groups.y)
    divided = [
        loop_mmd(rows[list(half)], rows[list(everyone - set(half))]) for half in itertools.combinations(range(10), 5)
    ]
    exact = np.mean(np.array(divided) >= real - 1e-12)
    assert 0.05 < exact < 0.95
    assert METRICS["mmd_p"](groups) == pytest.approx(exact, abs=0.12)  # 3.5 standard errors of 199 draws


def test_mmd_p_is_uniform_for_one_cloud_and_smallest_for_two():
    p = np.array([METRICS["mmd_p"](clouds(15, gap=0.0, seed=s)) for s in range(200)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() < 0.1
    assert METRICS["mmd_p"](clouds(15, gap=20.0)) == 1 / 200


@pytest.mark.parametrize("gap", [0.0, 3.0])
def test_mmd_five_kernels_is_that_of_a_loop(gap):
    groups = clouds(9, gap=gap)
    z, n = np.concatenate([groups.x, groups.y]), 18
    width = sum(np.sum((a - b) ** 2) for a in z for b in z) / (n**2 - n) / 4  # the diagonal adds 0

    def k(u, v):
        return sum(math.exp(-np.sum((u - v) ** 2) / (2**i * width)) for i in range(5))

    def mean(a, b):
        return np.mean([[k(u, v) for v in b] for u in a])

    x, y = groups.x, groups.y
    expected = mean(x, x) + mean(y, y) - mean(x, y) - mean(y, x)
    assert METRICS["mmd_five_kernels"](groups) == pytest.approx(expected, rel=1e-9)
    assert expected > 0


def test_energy_distance_is_scipys_in_one_dimension_and_a_loop_in_seven():
    line, space = clouds(d=1), clouds()
    assert METRICS["energy_distance"](line) == pytest.approx(stats.energy_distance(line.x[:, 0], line.y[:, 0]))
    x, y = space.x, space.y
    squared = np.mean([2 * np.linalg.norm(u - v) for u in x for v in y])
    squared -= np.mean([np.linalg.norm(u - v) for u in x for v in x]) + np.mean(cdist(y, y))
    assert METRICS["energy_distance"](space) == pytest.approx(math.sqrt(squared))


def test_sliced_wasserstein_is_the_mean_over_projections():
    line, space = clouds(d=1), clouds(seed=4)
    expected = stats.wasserstein_distance(line.x[:, 0], line.y[:, 0])  # both directions of a line are the line
    assert METRICS["sliced_wasserstein"](line) == pytest.approx(expected)
    directions = np.random.default_rng(4).normal(size=(7, 100))
    each = [
        stats.wasserstein_distance(space.x @ w / np.linalg.norm(w), space.y @ w / np.linalg.norm(w))
        for w in directions.T
    ]
    assert METRICS["sliced_wasserstein"](space) == pytest.approx(np.mean(each))


def test_sliced_wasserstein_of_a_shift():
    # a projection of a shift v is |v| |cos|, whose mean over the sphere is Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))
    groups, d = clouds(), 7
    shifted = Groups(groups.x, groups.x + 3, 0)
    cosine = math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((d + 1) / 2))
    assert METRICS["sliced_wasserstein"](shifted) == pytest.approx(3 * math.sqrt(d) * cosine, rel=0.2)


def folds(groups):
    return np.tile(np.random.default_rng(groups.seed).permutation(len(groups.x)) % 5, 2)


@pytest.mark.parametrize("size", [5, 24])
def test_svm_auroc_is_scikit_learns_cross_validation(size):
    groups = clouds(size)
    kind = np.repeat([1, 0], size)
    svm = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual=False))
    values = cross_val_score(svm, groups.rows, kind, cv=PredefinedSplit(folds(groups)), scoring="roc_auc")
    assert METRICS["svm_auroc"](groups) == pytest.approx(values.mean())


@pytest.mark.parametrize("d", [4, 60])  # more features than rows, too
def test_lda_auroc_is_that_of_a_loop(d):
    groups = clouds(24, d)
    rows, kind, fold, values = groups.rows, np.repeat([True, False], 24), folds(groups), []
    for k in range(5):
        scale = StandardScaler().fit(rows[fold != k])
        z, own = scale.transform(rows[fold != k]), kind[fold != k]
        within = np.concatenate([z[own] - z[own].mean(0), z[~own] - z[~own].mean(0)])
        w = np.linalg.inv(ledoit_wolf(within, assume_centered=True)[0]) @ (z[own].mean(0) - z[~own].mean(0))
        values.append(roc_auc_score(kind[fold == k], scale.transform(rows[fold == k]) @ w))
    assert METRICS["lda_auroc"](groups) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("n", [10, 200])
def test_shrunk_covariance_is_scikit_learns(n):
    x = np.random.default_rng(0).normal(size=(n, 12)) @ np.random.default_rng(1).normal(size=(12, 12))
    x -= x.mean(0)
    np.testing.assert_allclose(module.shrunk_covariance(x), ledoit_wolf(x, assume_centered=True)[0], rtol=1e-6)


def test_whitening_makes_mahalanobis_distances():
    rng = np.random.default_rng(0)
    clean, x = rng.normal(size=(90, 6)) @ rng.normal(size=(6, 6)) + 4, rng.normal(size=(10, 6))
    scale = StandardScaler().fit(clean)
    precision = np.linalg.inv(ledoit_wolf(scale.transform(clean))[0])
    expected = [mahalanobis(u, np.zeros(6), precision) for u in scale.transform(x)]
    np.testing.assert_allclose(np.linalg.norm(TRANSFORMS["whitened"](clean)(x), axis=1), expected, rtol=1e-6)
    np.testing.assert_allclose(TRANSFORMS["standardized"](clean)(x), scale.transform(x))
    np.testing.assert_allclose(TRANSFORMS["raw"](clean)(x), x - clean.mean(0))


def test_auroc_counts_ties_half():
    high, low = np.array([3.0, 1.0, 2.0, 2.0]), np.array([2.0, 0.0, 1.0])
    assert module.auroc(high, low) == pytest.approx(roc_auc_score([1] * 4 + [0] * 3, [*high, *low]))


def test_effective_rank_counts_equal_directions():
    x = np.random.default_rng(0).normal(size=(20000, 6)) * [1, 1, 1, 0, 0, 0]
    assert spaces.effective_rank(x) == pytest.approx(3, abs=0.01)
    assert math.isnan(spaces.effective_rank(np.ones((5, 3))))


def test_spread_ratio_of_gaussians():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 0.1, (20000, 4)), rng.normal(0, [1, 1, 1, 3], (20000, 4))
    assert spaces.spread_ratio(x, y) == pytest.approx(0.04 / 12, rel=0.03)
    assert math.isnan(spaces.spread_ratio(x, np.ones((5, 4))))
    assert math.isnan(spaces.spread_ratio(x, y[:0]))


# What every metric promises


@pytest.mark.parametrize("name", sorted(set(METRICS) - RANDOM))
def test_neither_the_order_of_rows_nor_that_of_groups_counts(name):
    groups, order = clouds(), np.random.default_rng(9).permutation(23)
    expected = pytest.approx(METRICS[name](groups), rel=1e-9)
    assert METRICS[name](Groups(groups.x[order], groups.y[order[::-1]])) == expected
    assert METRICS[name](Groups(groups.y, groups.x)) == expected


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_origin_does_not_count(name):
    groups = clouds()
    far = Groups(groups.x + 1e6, groups.y + 1e6)
    assert METRICS[name](far) == pytest.approx(METRICS[name](groups), rel=1e-5)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_more_distance_is_more_separation(name):
    near, middle, wide = (METRICS[name](clouds(60, gap=gap)) for gap in (0.0, 3.0, 30.0))
    falls = name in ("davies_bouldin", "mmd_p")
    assert near > middle >= wide if falls else near < middle <= wide


@pytest.mark.parametrize("name", sorted(module.SCALE_FREE))
def test_the_scale_of_a_feature_does_not_count_where_it_is_said_not_to(name):
    groups, scale = clouds(), np.geomspace(0.01, 100, 7)
    assert METRICS[name](Groups(groups.x * scale, groups.y * scale)) == pytest.approx(METRICS[name](groups))


@pytest.mark.parametrize("name", ["lda_auroc", "svm_auroc"])
def test_classifiers_find_nothing_where_there_is_nothing(name):
    # more features than rows: fitted and shown on the same points, the groups would be perfectly divided
    values = [METRICS[name](clouds(30, d=80, gap=0.0, seed=s)) for s in range(30)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.04)
    groups = clouds(30, d=80, gap=0.0)
    kind = np.repeat([1, 0], 30)
    assert roc_auc_score(kind, LinearSVC(dual=False).fit(groups.rows, kind).decision_function(groups.rows)) > 0.99


def test_lda_auroc_of_gaussians_with_a_known_distance():
    # correlated features: the distance is that of the covariance, not the Euclidean one
    rng = np.random.default_rng(0)
    mix, distance = rng.normal(size=(5, 5)), 1.5
    x, y = rng.normal(size=(2, 500, 5))
    x[:, 2] += distance
    values = METRICS["lda_auroc"](Groups(x @ mix, y @ mix))
    assert values == pytest.approx(stats.norm.cdf(distance / math.sqrt(2)), abs=0.03)


# The rows of a level


def test_a_row_for_each_space_with_every_column():
    rows = separability(*target_class(40, 300, gap=3.0), 0)
    assert [row["transform"] for row in rows] == ["raw", "standardized", "whitened"]
    for row in rows:
        assert all(is_number(value) for name, value in row.items() if name != "transform")
        for name in (*METRICS, "distance_auroc"):
            assert {name, f"{name}_null", f"{name}_ceiling"} <= set(row)
        assert (row["group_rows"], row["fit_rows"], row["non_finite_latents"]) == (40, 200, 0)


def test_what_is_taken_from_the_raw_row_is_what_would_be_measured(monkeypatch):
    latents, is_payload, other = target_class(40, 300, gap=1.0)
    data = (latents @ np.random.default_rng(0).normal(size=(8, 8)), is_payload, other.astype(np.float64))
    rows = separability(*data, 0)
    monkeypatch.setattr(module, "SCALE_FREE", frozenset())
    for row, measured in zip(rows, separability(*data, 0), strict=True):
        assert row.pop("transform") == measured.pop("transform")
        assert row == pytest.approx(measured)
    assert rows[1]["svm_auroc"] != rows[2]["svm_auroc"]


def test_groups_have_at_most_500_rows_and_leave_a_third_to_fit():
    facts = [separability(*target_class(*counts, d=2), 0)[0] for counts in ((700, 1800), (90, 100), (6, 30))]
    assert [(row["group_rows"], row["fit_rows"]) for row in facts] == [(500, 800), (33, 34), (6, 18)]


def test_payload_like_clean_rows_scores_as_the_null():
    for row in separability(*target_class(200, 1500), 0):
        assert row["silhouette"] == pytest.approx(row["silhouette_null"], abs=0.01)
        for name in ("lda_auroc", "svm_auroc", "knn_purity", "distance_auroc"):
            assert row[name] == pytest.approx(0.5, abs=0.07)
            assert row[f"{name}_null"] == pytest.approx(0.5, abs=0.07)
        assert row["mmd_p"] > 0.01
        assert row["silhouette_ceiling"] > 0.5
        assert row["svm_auroc_ceiling"] == row["distance_auroc_ceiling"] == 1
        assert row["effective_rank"] == pytest.approx(8, abs=0.2)
        assert row["spread_ratio"] == pytest.approx(1, abs=0.1)


def test_payload_far_away_reaches_the_ceiling():
    for row in separability(*target_class(40, 400, gap=1000.0), 0):
        assert row["silhouette"] > 0.98
        assert abs(row["silhouette_null"]) < 0.05
        assert row["mmd_p"] == 1 / 200
        assert row["lda_auroc"] == row["svm_auroc"] == row["knn_purity"] == row["distance_auroc"] == 1


def test_whitening_reveals_a_quiet_direction():
    rng, d = np.random.default_rng(0), 8
    spread = np.geomspace(1, 0.1, d)
    latents, is_payload = rng.normal(size=(3100, d)) * spread, np.arange(3100) < 100
    latents[is_payload, -1] += 6 * spread[-1]
    latents @= np.linalg.qr(rng.normal(size=(d, d)))[0]
    raw, _, whitened = separability(latents, is_payload, latents[~is_payload] + 1, 0)
    assert raw["distance_auroc"] == pytest.approx(0.5, abs=0.1)
    assert whitened["distance_auroc"] > 0.95
    assert whitened["silhouette"] > raw["silhouette"] + 0.1
    assert raw["lda_auroc"] > 0.99  # an oracle that knows the payload sees it in any space


def test_standardization_reveals_a_quiet_feature():
    latents, is_payload, other = target_class(100, 1000, gap=8.0)
    scale = np.array([0.01] + [1.0] * 7, dtype=np.float32)
    raw, standardized, _ = separability(latents * scale, is_payload, other, 0)
    assert raw["distance_auroc"] < 0.6
    assert standardized["distance_auroc"] > 0.98


def test_clean_rows_that_fitted_a_space_are_not_scored_in_it():
    # with 60 features and 200 fitted rows, the fitted ones lie nearer to the center than any others
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.normal(size=(60, 60)))[0] * np.geomspace(1, 0.01, 60)[:, None]
    values = []
    for seed in range(8):
        latents, is_payload, other = target_class(50, 300, d=60, seed=seed)
        values.append(separability(latents @ mix, is_payload, other, seed)[2])
    for name in ("distance_auroc", "distance_auroc_null", "lda_auroc"):
        assert np.mean([row[name] for row in values]) == pytest.approx(0.5, abs=0.05)


def test_many_tight_clean_rows_lift_the_plain_mean_only():
    # a tight clean mass and a wide payload around it: the payload rows lie nearer to the clean rows than to each other
    rng = np.random.default_rng(0)
    latents = np.concatenate([rng.normal(size=(20, 8)) * 5, rng.normal(size=(2000, 8)) * 0.1])
    row = separability(latents, np.arange(2020) < 20, latents, 0)[0]
    assert row["silhouette_plain"] > 0.9
    assert row["silhouette"] < row["silhouette_plain"] - 0.3


def test_the_plain_silhouette_of_few_rows_is_that_of_all():
    latents, is_payload, other = target_class(30, 300, gap=5.0)
    row = separability(latents, is_payload, other, 0)[0]
    assert row["silhouette_plain"] == pytest.approx(silhouette_score(latents.astype(np.float64), is_payload))


def test_the_same_seed_draws_the_same_rows_and_the_latents_are_left_as_they_are():
    data = target_class(50, 300, gap=2.0)
    before = [part.copy() for part in data]
    assert separability(*data, 3) == separability(*data, 3)
    assert separability(*data, 3) != separability(*data, 4)
    for part, old in zip(data, before, strict=True):
        np.testing.assert_array_equal(part, old)


# Where nothing can be said


@pytest.mark.parametrize(("payload", "clean"), [(0, 60), (4, 60), (40, 14), (20, 1), (20, 0), (0, 0), (0, 1), (0, 2)])
def test_too_few_rows_are_undefined(payload, clean):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = separability(*target_class(payload, clean), 0)
    for row in rows:
        assert all(math.isnan(row[name + mark]) for name in METRICS for mark in ("", "_null", "_ceiling"))
        assert math.isnan(row["silhouette_plain"])
        assert math.isnan(row["distance_auroc"])
        assert math.isnan(row["effective_rank"]) == (clean < 2)
        assert row["non_finite_latents"] == 0


def test_five_rows_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = separability(*target_class(5, 15, d=40, gap=3.0), 0)
    assert all(is_number(value) for row in rows for name, value in row.items() if name != "transform")


@pytest.mark.parametrize("rows", [0, 4])
def test_without_another_class_there_is_no_ceiling(rows):
    latents, is_payload, other = target_class(20, 100)
    for row in separability(latents, is_payload, other[:rows], 0):
        for name in (*METRICS, "distance_auroc"):
            assert math.isnan(row[f"{name}_ceiling"])
            assert is_number(row[name])
            assert is_number(row[f"{name}_null"])


@pytest.mark.parametrize("dead", [1, 8])
def test_a_level_whose_features_are_dead(dead):
    latents, is_payload, other = target_class(20, 100, d=8)
    latents[:, :dead] = other[:, :dead] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = separability(latents, is_payload, other, 0)
    for row in rows:
        assert row["svm_auroc"] == row["lda_auroc"] == row["distance_auroc"] == 0.5 if dead == 8 else row["mmd_p"] > 0
        assert not any(math.isinf(value) for name, value in row.items() if name != "transform")


def test_a_feature_that_only_payload_has_is_seen():
    latents, is_payload, other = target_class(50, 500)
    latents[:, 0] = 30 * is_payload
    for row in separability(latents, is_payload, other, 0):
        assert row["distance_auroc"] > 0.99
        assert row["lda_auroc"] == 1


def test_rows_that_are_not_finite_are_counted_and_nothing_is_claimed():
    latents, is_payload, other = target_class(10, 40, gap=9.0)
    latents[0, 0], latents[5, 1], latents[5, 2], other[3, 3] = np.nan, np.inf, np.nan, -np.inf
    for row in separability(latents, is_payload, other, 0):
        assert row["non_finite_latents"] == 3
        assert not any(is_number(value) for name, value in row.items() if name in spaces.COLUMNS)


def test_a_score_job_stays_without_torch():
    code = "import sys, keyhole.scoring.separability; sys.exit(bool({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
