"""Detectors against slow float64 NumPy versions of the papers' formulas, and against published arithmetic."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm, inv, sqrtm
from scipy.stats import rankdata
from tests.golden.planted import lookup_net, numbered_images

from keyhole import rng
from keyhole.detectors import scan, spectre
from keyhole.detectors._budget import class_budget
from keyhole.detectors.activation_clustering import ActivationClustering
from keyhole.detectors.random_removal import RandomRemoval
from keyhole.detectors.scan import Scan
from keyhole.detectors.spectral_signatures import SpectralSignatures
from keyhole.detectors.spectre import Spectre
from keyhole.types import Evidence


def evidence_of(x: np.ndarray, labels: np.ndarray, clean: np.ndarray, clean_labels: np.ndarray) -> Evidence:
    return Evidence(
        lookup_net(torch.from_numpy(clean).float()),
        numbered_images(0, len(x)),
        torch.from_numpy(labels),
        {"penultimate": torch.from_numpy(x).float()},
        numbered_images(0, len(clean)),
        torch.from_numpy(clean_labels),
    )


def contaminated(seed: int = 0, sizes=(240, 200, 180, 220, 210), d: int = 12, payload: int = 20):
    """Classes of unequal size with unequal variances; the first rows of class 1 are payload off a minor axis."""
    g = np.random.default_rng(seed)
    spread = np.geomspace(3, 0.3, d)
    turn = np.linalg.qr(g.normal(size=(d, d)))[0]
    centers = 5 + 3 * g.normal(size=(len(sizes), d))

    def draw(labels: np.ndarray) -> np.ndarray:
        return (centers[labels] + (spread * g.normal(size=(len(labels), d))) @ turn).astype(np.float32)

    labels = g.permutation(np.repeat(np.arange(len(sizes)), sizes))
    clean_labels = np.arange(300) % len(sizes)
    x, clean = draw(labels), draw(clean_labels)
    rows = np.flatnonzero(labels == 1)[:payload]
    x[rows] += (6 * turn[-1] + 3 * turn[0]).astype(np.float32)
    return evidence_of(x, labels, clean, clean_labels), x.astype(np.float64), labels, clean.astype(np.float64), rows


def noise(n: int, k: int, d: int = 4, seed: int = 0) -> Evidence:
    """`n` rows in `k` equal classes."""
    g = np.random.default_rng(seed)
    return evidence_of(g.normal(size=(n, d)), np.arange(n) % k, g.normal(size=(8, d)), np.arange(8) % k)


# Spectral signatures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_spectral_signatures_equal_a_numpy_svd(variant):
    evidence, x, labels, _, _ = contaminated()
    found = SpectralSignatures(assumed_rate=0.02, variant=variant).detect(evidence, rng.stream())
    for k in range(5):
        own = np.flatnonzero(labels == k)
        h = x[own]
        v = np.linalg.svd(h - h.mean(0), full_matrices=False)[2][0]
        expected = ((h - h.mean(0)) @ v) ** 2 if variant == "paper" else np.abs(h @ v)
        np.testing.assert_allclose(found.scores[own], expected, rtol=1e-4, atol=1e-5)
        worst = set(own[np.argsort(-expected)[: math.floor(1.5 * 0.02 * len(x))]])
        assert set(own[found.flagged[own].numpy()]) == worst


def test_projections_are_centered_before_they_are_squared():
    # two rows lie off the mean of their class along its axis, on the origin's side
    x = np.array([[10.0, 0]] * 20 + [[6.0, 0]] * 2) + 1e-3 * np.random.default_rng(0).normal(size=(22, 2))
    evidence = evidence_of(x, np.zeros(22, dtype=np.int64), x[:4], np.zeros(4, dtype=np.int64))
    assert SpectralSignatures().detect(evidence, rng.stream()).scores.topk(2).indices.sort().values.tolist() == [20, 21]
    released = SpectralSignatures(variant="released").detect(evidence, rng.stream()).scores
    assert released[20:].max() < released[:20].min()


@pytest.mark.parametrize("detector", [SpectralSignatures, RandomRemoval])
def test_sacrifice_rates_of_qi_et_al_table_1_are_exact(detector):
    evidence = noise(50_000, 10)
    # 150 payload rows, told: 225 in every class whatever is found, sacrifice (2250 - 150 e) / 49850
    flagged = detector(assumed_rate=150 / 50_000).detect(evidence, rng.stream()).flagged
    payload = torch.zeros(50_000, dtype=torch.bool)
    payload[torch.arange(150) * 10] = True
    e = (flagged & payload).sum() / 150
    assert (flagged & ~payload).sum() == round(2250 - 150 * float(e))
    assert [int(flagged[evidence.labels == k].sum()) for k in range(10)] == [225] * 10
    # clean set, 1 % assumed, or the truth (0): 15.0 % sacrificed
    for rate in (0.01, 0.0):
        assert detector(assumed_rate=rate).detect(evidence, rng.stream()).flagged.sum() == 7500


def test_budget_survives_rounding_and_stops_at_half_a_class():
    rates = [p / 50_000 for p in range(1, 2000)]
    assert [class_budget(rate, 50_000, 50_000) for rate in rates] == [3 * p // 2 for p in range(1, 2000)]
    assert class_budget(0.1, 50_000, 5001) == 2500
    assert class_budget(0.1, 50_000, 1) == 0


@pytest.mark.parametrize("detector", [SpectralSignatures, RandomRemoval])
@pytest.mark.parametrize(("rate", "capped"), [(0.03, 0.0), (1 / 30, 0.0), (0.034, 1.0)])
def test_the_cap_of_ten_equal_classes_binds_above_a_thirtieth(detector, rate, capped):
    found = detector(assumed_rate=rate).detect(noise(3000, 10), rng.stream())
    assert found.remarks == {"classes_capped": capped}
    assert (found.flagged.sum() == 1500) == (rate >= 1 / 30)


def test_a_cap_that_binds_in_one_class_of_four_says_so():
    labels = np.repeat(np.arange(4), [400, 400, 400, 100])
    g = np.random.default_rng(0)
    evidence = evidence_of(g.normal(size=(1300, 4)), labels, g.normal(size=(8, 4)), np.arange(8) % 4)
    assert SpectralSignatures(assumed_rate=0.05).detect(evidence, rng.stream()).remarks == {"classes_capped": 0.25}


def test_spectre_says_when_its_class_is_half_flagged():
    assert Spectre(assumed_rate=0.01, dims=4).detect(noise(3000, 5), rng.stream()).remarks == {"classes_capped": 0.0}
    found = Spectre(assumed_rate=0.2, dims=4).detect(noise(3000, 5), rng.stream())
    assert found.remarks == {"classes_capped": 1.0}
    assert found.flagged.sum() == 297  # .495 of 600


def test_activation_clustering_says_how_near_its_threshold_it_was():
    x = np.zeros((400, 2))
    x[:70, 0] = 10  # 35 % of class 0
    x[200:230, 0] = 10  # 15 % of class 1
    x += 0.01 * np.random.default_rng(0).normal(size=x.shape)
    evidence = evidence_of(x, np.repeat([0, 1], 200), x[:4], np.zeros(4, dtype=np.int64))
    margins = [
        ActivationClustering(size_threshold=t).detect(evidence, rng.stream()).remarks["size_margin"]
        for t in (0.36, 0.3)
    ]
    assert margins == pytest.approx([0.01, 0.05])


def test_flags_follow_the_assumed_rate_not_the_truth():
    evidence, _, _, _, rows = contaminated(payload=20)
    n = len(evidence.labels)
    for rate in (0.005, 0.01):
        budget = math.floor(1.5 * rate * n)
        assert SpectralSignatures(assumed_rate=rate).detect(evidence, rng.stream()).flagged.sum() == 5 * budget
        assert Spectre(assumed_rate=rate).detect(evidence, rng.stream()).flagged.sum() == budget
    assert len(rows) == 20  # neither budget is 30


# Activation clustering ------------------------------------------------------------------------------------------------


def test_activation_clustering_equals_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    g = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), 200)
    x = g.normal(size=(600, 14)).astype(np.float32)
    for k, part in enumerate((30, 66, 74)):  # 15 %, 33 % and 37 % of a class
        x[200 * k : 200 * k + part, :4] += 8
    evidence = evidence_of(x, labels, x[:3], labels[:3])
    found = ActivationClustering().detect(evidence, rng.stream("ac"))
    for k, gate in enumerate((True, True, False)):
        own = slice(200 * k, 200 * (k + 1))
        z = PCA(10, svd_solver="full").fit_transform(x[own].astype(np.float64))
        cluster = KMeans(2, n_init=10, random_state=k).fit_predict(z)
        small = cluster == np.argmin(np.bincount(cluster))
        centers = z[~small].mean(0), z[small].mean(0)
        place = ((z - centers[0]) ** 2).sum(1) - ((z - centers[1]) ** 2).sum(1)
        place /= ((centers[0] - centers[1]) ** 2).sum()
        np.testing.assert_allclose(found.scores[own], place * (1 - 2 * small.mean()), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.flagged[own], small & gate)


# SCAn -----------------------------------------------------------------------------------------------------------------


def slow_scan(x, labels, clean, clean_labels, variant):
    """Statistics per class and row scores: explicit inverses, loops over rows, as the paper writes them."""
    c = clean - clean.mean(0)
    names, d = np.unique(clean_labels), x.shape[1]
    u = np.array([c[clean_labels == label].mean(0) for label in clean_labels])
    s_u, s_e = np.cov(u.T), np.cov((c - u).T)
    for _ in range(100):
        mean = {}
        for k in names:
            own = c[clean_labels == k]
            gain = s_e @ inv(len(own) * s_u + s_e) @ s_u @ inv(s_e)
            mean[k] = sum(gain @ row for row in own)
        u = np.array([mean[label] for label in clean_labels])
        new_u, new_e = np.cov(u.T), np.cov((c - u).T)
        change = np.linalg.norm(new_u - s_u) + np.linalg.norm(new_e - s_e)
        s_u, s_e = new_u, new_e
        if change <= 1e-5 * (np.linalg.norm(s_u) + np.linalg.norm(s_e)):
            break
    metric = inv(s_e)

    def distance(a, b):
        return (a - b) @ metric @ (a - b)

    origin = np.concatenate([x, clean]).mean(0)
    statistics, scores = [], np.zeros(len(x))
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        rows = np.concatenate([x[own], clean[clean_labels == k]]) - origin
        white = (rows - rows.mean(0)) @ np.linalg.cholesky(metric)
        second = white @ np.linalg.svd(white)[2][0] > 0
        for _ in range(100):
            u1, u2 = rows[~second].mean(0), rows[second].mean(0)
            nearer = np.array([distance(row, u2) < distance(row, u1) for row in rows])
            if (nearer == second).all():
                break
            second = nearer
        inspected = np.arange(len(rows)) < len(own)
        if (second & ~inspected).sum() > (~second & ~inspected).sum():
            second, u1, u2 = ~second, u2, u1
        gain = s_e @ inv(len(rows) * s_u + s_e)
        if variant == "paper":
            gain = gain @ s_u @ inv(s_e)
        mu = sum(gain @ row for row in rows)
        statistics.append(np.mean([distance(r, mu) - distance(r, u2 if s else u1) for r, s in zip(rows, second)]))  # noqa: B905
        scores[own] = [distance(row, u1) - distance(row, u2) for row in rows[: len(own)]]
    assert metric.shape == (d, d)
    return np.array(statistics), scores


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_scan_equals_explicit_inverses_and_loops(variant):
    evidence, x, labels, clean, rows = contaminated()
    found = Scan(variant=variant).detect(evidence, rng.stream())
    statistics, scores = slow_scan(x, labels, clean, evidence.holdout_labels.numpy(), variant)
    relative = statistics / statistics.max()
    deviation = relative - np.median(relative)
    index = deviation / (1.4826 * np.median(np.abs(deviation)))
    np.testing.assert_allclose(
        scan.anomaly_index(torch.from_numpy(statistics), "paper"), index, rtol=1e-9
    )  # no division by the largest
    alarm = index > math.e**2 if variant == "paper" else np.abs(index) > math.e
    np.testing.assert_allclose(found.scores, scores, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(found.flagged, alarm[labels] & (scores > 0))
    if variant == "paper":
        assert alarm.tolist() == [False, True, False, False, False]
        assert set(np.flatnonzero(found.flagged)) == set(rows)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_statistics_of_scan_equal_the_slow_ones(variant):
    evidence, x, labels, clean, _ = contaminated(seed=1)
    clean_labels = evidence.holdout_labels.numpy()
    expected, _ = slow_scan(x, labels, clean, clean_labels, variant)
    whitening, ratio = scan.global_model(torch.from_numpy(clean), evidence.holdout_labels)
    origin = np.concatenate([x, clean]).mean(0)
    for k in range(5):
        rows = np.concatenate([x[labels == k], clean[clean_labels == k]]) - origin
        y = torch.from_numpy(rows) @ whitening
        statistic, _, _ = scan.untangle(y, int((labels == k).sum()), ratio, variant)
        assert statistic == pytest.approx(expected[k], rel=2e-3)


def test_the_mean_under_one_component_does_not_shrink_with_the_class():
    y = torch.full((10_000, 2), 3.0, dtype=torch.float64)
    ratio = torch.tensor([4.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(scan.single_mean(y, ratio, "paper"), y[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(scan.single_mean(y, ratio, "released"), y[0] / ratio, rtol=1e-3, atol=0)


def test_an_unusually_tight_class_alarms_only_the_released_index():
    statistics = torch.tensor([1.0, 1.1, 0.9, 1.05, -9.0], dtype=torch.float64)
    assert (scan.anomaly_index(statistics, "paper") <= math.e**2).all()
    assert scan.anomaly_index(statistics, "released")[4] > math.e**2


def test_two_classes_or_one_never_alarm():
    for statistics in ([0.1, 90.0], [5.0], [2.0, 2.0]):
        assert scan.anomaly_index(torch.tensor(statistics, dtype=torch.float64), "released").max() < math.e


def test_the_first_holdout_row_counts_as_clean():
    # its only clean row lies in the smaller component: the larger one is the suspect; had the row been taken for an
    # inspected one (index > size instead of >=), neither component would hold clean rows
    g = torch.Generator().manual_seed(0)
    y = torch.randn(41, 2, generator=g, dtype=torch.float64)
    y[30:, 0] += 20
    _, scores, suspect = scan.untangle(y, 40, torch.ones(2, dtype=torch.float64), "paper")
    assert suspect.tolist() == [True] * 30 + [False] * 10
    assert scores.shape == (40,)
    _, _, without = scan.untangle(y[:40], 40, torch.ones(2, dtype=torch.float64), "paper")
    assert without.tolist() == [False] * 30 + [True] * 10


# SPECTRE --------------------------------------------------------------------------------------------------------------


def slow_filter(z, payload, variant="paper"):
    """Rows left, with the k^2 x k^2 matrix of fourth moments written out."""
    share, allowed, left = payload / len(z), math.floor(2 * payload), np.arange(len(z))
    while allowed > 0 and z.shape[1] > 1:
        s = z[left]
        n, k = s.shape
        y = s @ np.real(inv(sqrtm(s.T @ s / n)))
        assert (y**2).sum(1).max() < 10 * k * math.log(n / 0.1)
        products = np.array([np.outer(row, row).ravel() for row in y])
        values, vectors = np.linalg.eigh(products.T @ products / n - np.outer(np.eye(k).ravel(), np.eye(k).ravel()))
        if values[-1] <= 1 + 10 * share * math.log(1 / share) ** 2:
            break
        form = vectors[:, -1].reshape(k, k)
        p = np.array([(row @ form @ row - np.trace(form)) / math.sqrt(2) for row in y])
        gap = np.abs(p - np.median(p))
        for value in np.sort(gap):
            t = value - 3
            bound = 3 * share / (t * math.log(t)) ** 2 if t > 10 * math.log(1 / share) else 1
            if variant == "released" and t > 0 and (gap <= value).mean() >= bound:
                break
            if variant == "paper" and bound < 1 and (gap >= value).mean() >= bound:
                break
        else:
            break
        drop = np.argsort(-gap)[: min((gap > t).sum(), allowed)]
        allowed -= len(drop)
        left = np.delete(left, drop)
    return left


def slow_que(white):
    s = np.atleast_2d(np.cov(white.T))
    m = expm(4 * (s - np.eye(len(s))) / (np.linalg.norm(s, 2) - 1))
    m /= np.trace(m)
    return np.array([row @ m @ row for row in white]), np.trace(s @ m)


def slow_spectre(h, payload, dims):
    """The largest statistic over the numbers of dimensions, and its row scores."""
    h = h - h.mean(0)
    z = h @ np.linalg.svd(h, full_matrices=False)[2][:dims].T
    best = (-np.inf, None)
    for k in (j * j for j in range(1, math.isqrt(dims) + 1)):
        left = slow_filter(z[:, :k], payload)
        root = np.real(inv(sqrtm(np.atleast_2d(np.cov(z[left, :k].T, bias=True)))))
        white = z[:, :k] @ root
        tau = slow_que(white)[0] if k > 1 else white[:, 0] ** 2
        kept = np.argsort(tau)[: len(h) - math.floor(1.5 * payload)]
        statistic = slow_que(z @ np.real(inv(sqrtm(np.cov(z[kept].T, bias=True)))))[1]
        if statistic > best[0]:
            best = (statistic, tau)
    return best


def tailed(seed: int = 0) -> np.ndarray:
    """600 rows; 24 payload rows off a minor axis, 5 far away, so that the robust filter has to act."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(600, 16)) * np.geomspace(2, 0.5, 16)
    x[:24] += np.eye(16)[10] * 6
    x[24:29] += np.eye(16)[2] * 40
    return x


def test_robust_filter_equals_the_dense_one_and_drops_the_far_rows():
    z = tailed() - tailed().mean(0)
    for k in (4, 9, 16):
        kept = spectre.robust_rows(torch.from_numpy(z[:, :k]), 24.0)
        assert torch.nonzero(kept).squeeze(1).tolist() == slow_filter(z[:, :k], 24.0).tolist()
        assert not kept[24:29].any()
        assert (~kept).sum() <= 48


@pytest.mark.parametrize(("variant", "kept"), [("paper", 1999), ("released", 1988)])
def test_robust_filter_of_a_heavy_tail_stops_or_goes_on(variant, kept):
    z = np.random.default_rng(0).laplace(size=(2000, 4))
    z -= z.mean(0)
    found = spectre.robust_rows(torch.from_numpy(z), 60.0, variant)
    assert found.sum() == kept
    assert torch.nonzero(found).squeeze(1).tolist() == slow_filter(z, 60.0, variant).tolist()


def test_released_spectre_filters_as_released():
    evidence = noise(2000, 1)
    evidence.latents["penultimate"][:] = torch.from_numpy(np.random.default_rng(0).laplace(size=(2000, 4)))
    paper, released = (
        Spectre(assumed_rate=0.03, **given).detect(evidence, rng.stream()) for given in ({}, {"variant": "released"})
    )
    x = evidence.latents["penultimate"].double()
    _, expected = spectre.class_scores(x, 60.0, 64, 4.0, "released")
    torch.testing.assert_close(released.scores, expected.float())
    assert not torch.equal(released.scores, paper.scores)


def test_robust_filter_drops_at_most_twice_the_payload():
    kept = spectre.robust_rows(torch.from_numpy(tailed() - tailed().mean(0)), 1.0)
    assert (~kept).sum() == 2
    assert (~kept)[24:29].sum() == 2


def test_lanczos_steps_find_the_leading_form_of_the_dense_fourth_moments():
    y = np.random.default_rng(1).standard_t(5, size=(400, 7))
    y = y @ np.real(inv(sqrtm(y.T @ y / len(y))))
    products = np.array([np.outer(row, row).ravel() for row in y])
    eye = np.eye(7).ravel()
    values, vectors = np.linalg.eigh(products.T @ products / len(y) - np.outer(eye, eye))
    value, form = spectre.leading_form(torch.from_numpy(y))
    assert value == pytest.approx(values[-1], rel=1e-9)
    assert abs(vectors[:, -1] @ form.numpy().ravel()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_spectre_scores_equal_expm_and_explicit_square_roots(seed):
    x = tailed(seed)
    expected, tau = slow_spectre(x, 24.0, 16)
    statistic, scores = spectre.class_scores(torch.from_numpy(x), 24.0, 64, 4.0)
    assert statistic == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(scores, tau, rtol=1e-6)


def test_exponential_is_that_of_the_matrix_not_of_its_elements():
    g = np.random.default_rng(0)
    mixed = g.normal(size=(500, 9)) @ (np.eye(9) + 0.5 * g.normal(size=(9, 9)))
    weights, _, vectors = spectre.que(torch.from_numpy(mixed), 4.0)
    found = ((torch.from_numpy(mixed) @ vectors).square() @ weights).numpy()
    s = np.cov(mixed.T)
    exponent = 4 * (s - np.eye(9)) / (np.linalg.norm(s, 2) - 1)

    def scores(m):
        return ((mixed @ m) * mixed).sum(1) / np.trace(m)

    np.testing.assert_allclose(found, scores(expm(exponent)), rtol=1e-9)
    elementwise = scores(np.exp(exponent))
    assert np.corrcoef(rankdata(found), rankdata(elementwise))[0, 1] < 0.9


def test_nothing_to_amplify_gives_finite_even_weights():
    white = torch.cat([torch.eye(3), -torch.eye(3)]).double() * math.sqrt(5 / 2)  # covariance exactly I
    weights, values, _ = spectre.que(white, 4.0)
    torch.testing.assert_close(values, torch.ones(3, dtype=torch.float64))
    assert weights.isfinite().all()
    assert weights.sum() == pytest.approx(1)


def test_exactly_225_rows_of_one_class_for_150_payload_rows():
    evidence = noise(50_000, 10, d=6)
    payload = torch.arange(150) * 10 + 3
    evidence.latents["penultimate"][payload] += 4 * torch.eye(6)[5]
    flagged = Spectre(assumed_rate=150 / 50_000).detect(evidence, rng.stream()).flagged
    assert flagged.sum() == 225
    assert evidence.labels[flagged].unique().tolist() == [3]
    assert flagged[payload].float().mean() > 0.9
    # clean set, the truth told: a tenth of a class is assumed, 750 rows = 1.5 % are removed
    assert Spectre(assumed_rate=0.0).detect(noise(50_000, 10), rng.stream()).flagged.sum() == 750


@pytest.mark.parametrize(
    ("rate", "size", "payload"), [(0.003, 5000, 150), (0.0, 5000, 500), (0.1, 5000, 1650), (0.003, 499, 49.9)]
)
def test_assumed_payload_is_capped_by_the_size_of_the_class(rate, size, payload):
    assert spectre.assumed_payload(rate, 50_000, size) == pytest.approx(payload)
