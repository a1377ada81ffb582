"""Frequency, subspace reconstruction and the trivial baselines against SciPy, scikit-learn and loops in float64."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.special import log_softmax, softmax
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from tests.golden.planted import lookup_net, numbered_images
from torch import Tensor, nn

from keyhole import rng
from keyhole.detectors import frequency, knn_to_clean, mahalanobis
from keyhole.detectors._clean_distance import halve_classes
from keyhole.detectors.feature_norm import FeatureNorm
from keyhole.detectors.frequency import Frequency
from keyhole.detectors.knn_to_clean import KNNToClean
from keyhole.detectors.lowest_loss import LowestLoss
from keyhole.detectors.mahalanobis import Mahalanobis
from keyhole.detectors.max_softmax import MaxSoftmax
from keyhole.detectors.subspace_reconstruction import SubspaceReconstruction
from keyhole.types import Classifier, Evidence

WITH_HOLDOUT = (KNNToClean, Mahalanobis, SubspaceReconstruction)
WITH_BUDGET = (LowestLoss, MaxSoftmax, FeatureNorm)


def evidence_of(x: np.ndarray, labels: np.ndarray, clean: np.ndarray, clean_labels: np.ndarray) -> Evidence:
    """Training rows come first in the network's table."""
    images = numbered_images(0, len(x) + len(clean))
    latents = torch.from_numpy(np.concatenate([x, clean])).float()
    return Evidence(
        lookup_net(latents),
        images[: len(x)],
        torch.from_numpy(labels),
        {"penultimate": latents[: len(x)]},
        images[len(x) :],
        torch.from_numpy(clean_labels),
    )


def draw(labels: np.ndarray, seed: int, d: int = 12) -> np.ndarray:
    """Classes on five centers with a common, uneven and turned variation."""
    common, g = np.random.default_rng(0), np.random.default_rng(seed)
    turn, centers = np.linalg.qr(common.normal(size=(d, d)))[0], 5 + 3 * common.normal(size=(5, d))
    x = centers[labels] + (np.geomspace(4, 0.05, d) * g.normal(size=(len(labels), d))) @ turn
    return x.astype(np.float32)


def planted(payload: int = 20) -> tuple[Evidence, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The first rows of class 1 are moved along the axis of least variation."""
    labels, clean_labels = np.arange(600) % 5, np.arange(500) % 5
    x, clean = draw(labels, 1), draw(clean_labels, 2)
    rows = np.flatnonzero(labels == 1)[:payload]
    x[rows] += 2 * np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0][-1].astype(np.float32)
    truth = np.isin(np.arange(len(x)), rows)
    return evidence_of(x, labels, clean, clean_labels), x.astype(float), labels, clean.astype(float), truth


def split(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Every other row of each class, in a random order."""
    order = torch.randperm(len(labels), generator=rng.stream(name)).numpy()
    first, second = [], []
    for k in np.unique(labels):
        own = [i for i in order if labels[i] == k]
        first += own[0::2]
        second += own[1::2]
    return np.array(first), np.array(second)


def test_halves_of_every_class():
    labels = torch.tensor([3, 0, 0, 3, 0, 7, 0, 0])
    first, second = halve_classes(labels, rng.stream("halves"))
    assert sorted(torch.cat([first, second]).tolist()) == list(range(8))
    assert labels[first].bincount(minlength=8).tolist() == [3, 0, 0, 1, 0, 0, 0, 1]
    assert labels[second].bincount(minlength=8).tolist() == [2, 0, 0, 1, 0, 0, 0, 0]
    expected = split(labels.numpy(), "halves")
    assert (set(first.tolist()), set(second.tolist())) == tuple(set(part.tolist()) for part in expected)
    for part in halve_classes(labels[:0], rng.stream("none")):
        assert len(part) == 0


# Methods with a hold-out ----------------------------------------------------------------------------------------------


def test_knn_to_clean_equals_nearest_neighbors():
    evidence, x, labels, clean, _ = planted()
    clean_labels = evidence.holdout_labels.numpy()
    found = KNNToClean(neighbors=7, fpr=0.1).detect(evidence, rng.stream("knn"))
    expected, apart = np.zeros(len(x)), []
    for k in range(5):
        tree = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(clean[clean_labels == k])
        expected[labels == k] = tree.kneighbors(x[labels == k])[0][:, -1]
        apart.append(tree.kneighbors()[0][:, -1])  # of the fitted rows, themselves left out
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert (found.flagged.numpy() == (expected > np.quantile(np.concatenate(apart), 0.9))).all()


def test_knn_to_clean_takes_the_farthest_of_a_small_class_and_all_classes_for_an_unknown_one():
    clean, clean_labels = np.array([[0.0], [1], [5], [9]]), np.array([0, 0, 0, 1])
    evidence = evidence_of(np.array([[2.0], [2], [2]]), np.array([0, 1, 2]), clean, clean_labels)
    assert KNNToClean(neighbors=10).detect(evidence, rng.stream()).scores.tolist() == [3, 7, 7]
    assert KNNToClean(neighbors=2).detect(evidence, rng.stream()).scores.tolist() == [2, 7, 2]


def test_distances_in_parts_are_the_same():
    x, clean = torch.rand(5000, 3).double(), torch.rand(20, 3).double()
    whole = torch.cdist(x, clean).sort(dim=1).values[:, 4]
    torch.testing.assert_close(knn_to_clean.distance(x, clean, 5), whole)


def test_mahalanobis_equals_ledoit_wolf():
    evidence, x, labels, clean, truth = planted()
    clean_labels = evidence.holdout_labels.numpy()
    found = Mahalanobis(fpr=0.1).detect(evidence, rng.stream("mahalanobis"))
    fit, rest = split(clean_labels, "mahalanobis")
    means = np.stack([clean[fit][clean_labels[fit] == k].mean(0) for k in range(5)])
    model = LedoitWolf(assume_centered=True).fit(clean[fit] - means[clean_labels[fit]])

    def distance(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(model.mahalanobis(rows - means[y]))

    expected = distance(x, labels)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    bar = np.quantile(distance(clean[rest], clean_labels[rest]), 0.9)
    assert (found.flagged.numpy() == (expected > bar)).all()
    assert roc_auc_score(truth, expected) > 0.99


def test_shrinkage_of_few_rows_and_directions_without_variation():
    x = torch.randn(15, 6, generator=rng.stream("few")).double()
    expected = LedoitWolf(assume_centered=True).fit(x.numpy()).precision_
    np.testing.assert_allclose(mahalanobis.shrunk_precision(x), expected, rtol=1e-6, atol=1e-9)
    wide = mahalanobis.shrunk_precision(torch.nn.functional.pad(x, (0, 2)))
    np.testing.assert_allclose(wide[:6, :6], expected, rtol=1e-6, atol=1e-9)
    weight, target = LedoitWolf(assume_centered=True).fit(x.numpy()).shrinkage_, float(x.square().mean())
    np.testing.assert_allclose(wide[6:, 6:], np.eye(2) / (weight * target), rtol=1e-6)
    assert mahalanobis.shrunk_precision(torch.zeros(4, 3).double()).tolist() == torch.zeros(3, 3).tolist()


@pytest.mark.parametrize("explained", [0.0, 0.6, 0.95, 1.0])
def test_subspace_reconstruction_equals_pca(explained):
    evidence, x, labels, clean, truth = planted()
    clean_labels = evidence.holdout_labels.numpy()
    method = SubspaceReconstruction(explained=explained, fpr=0.1)
    found = method.detect(evidence, rng.stream("subspace"))
    fit, rest = split(clean_labels, "subspace")
    expected, errors = np.zeros(len(x)), []
    for k in range(5):
        own = clean[fit][clean_labels[fit] == k]
        ratios = PCA().fit(own).explained_variance_ratio_
        count = 12 if explained == 1 else next(r for r in range(13) if ratios[:r].sum() >= explained)
        pca = PCA(count).fit(own)

        def error(rows: np.ndarray, pca: PCA = pca, own: np.ndarray = own, count: int = count) -> np.ndarray:
            back = pca.inverse_transform(pca.transform(rows)) if count else own.mean(0)
            return ((rows - back) ** 2).sum(1)

        expected[labels == k] = error(x[labels == k])
        errors.append(error(clean[rest][clean_labels[rest] == k]))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-8)
    if explained < 1:
        assert (found.flagged.numpy() == (expected > np.quantile(np.concatenate(errors), 0.9))).all()
    if explained == 0.95:
        assert roc_auc_score(truth, expected) > 0.95


def test_a_class_with_few_clean_rows_takes_the_axes_of_all_and_an_unknown_one_its_own_median():
    clean_labels = np.concatenate([np.zeros(200, int), np.ones(8, int)])
    labels = np.repeat([0, 1, 2], 50)
    x, clean = draw(labels, 3), draw(clean_labels, 4)
    evidence = evidence_of(x, labels, clean, clean_labels)
    found = SubspaceReconstruction().detect(evidence, rng.stream("few")).scores
    fit, _ = split(clean_labels, "few")
    groups = {k: clean[fit][clean_labels[fit] == k].astype(float) for k in (0, 1)}
    centers = {k: own.mean(0) for k, own in groups.items()} | {2: np.sort(x[labels == 2], axis=0)[24]}  # the lower one
    axes = {0: groups[0] - centers[0]}
    axes[1] = axes[2] = np.concatenate([groups[k] - centers[k] for k in (0, 1)])
    for k in range(3):
        values, vectors = np.linalg.eigh(axes[k].T @ axes[k])
        values, vectors = values[::-1], vectors[:, ::-1]
        v = vectors[:, : next(r for r in range(13) if values[:r].sum() >= 0.95 * values.sum())]
        centered = x[labels == k] - centers[k]
        expected = ((centered - centered @ v @ v.T) ** 2).sum(1)
        np.testing.assert_allclose(found[labels == k], expected, rtol=1e-3, atol=1e-7)
    distances = Mahalanobis().detect(evidence, rng.stream("few")).scores
    assert distances.isfinite().all()
    assert 0.5 < distances[labels == 2].median() / distances[labels == 0].median() < 2


@pytest.mark.parametrize("method", WITH_HOLDOUT)
def test_the_threshold_is_not_set_on_the_rows_that_were_fitted(method):
    """With hardly more clean rows than features, fitted rows look much closer than new ones."""
    labels, clean_labels = np.zeros(3000, int), np.zeros(160, int)
    g = np.random.default_rng(5)
    x, clean = g.normal(size=(3000, 40)), g.normal(size=(160, 40))
    flagged = method().detect(evidence_of(x, labels, clean, clean_labels), rng.stream("fpr")).flagged
    assert 0.01 < flagged.float().mean() < 0.12


@pytest.mark.parametrize("method", WITH_HOLDOUT)
def test_a_holdout_without_two_images_of_a_class_is_refused(method):
    evidence = evidence_of(draw(np.arange(10) % 5, 1), np.arange(10) % 5, draw(np.arange(5), 2), np.arange(5))
    with pytest.raises(
        ValueError, match=r"two hold-out images of one class .* got 5 images, each of a different class"
    ):
        method().detect(evidence, rng.stream())


@pytest.mark.parametrize("method", WITH_HOLDOUT)
def test_a_feature_that_clean_rows_never_use_is_the_most_suspicious(method):
    """A neuron that only the trigger switches on has no variance among clean rows."""
    labels, clean_labels = np.arange(300) % 3, np.arange(240) % 3
    g = np.random.default_rng(6)
    x, clean = (np.pad(g.normal(size=(n, 5)), ((0, 0), (0, 1))) for n in (300, 240))
    x[:10, 5] = 8
    scores = method().detect(evidence_of(x, labels, clean, clean_labels), rng.stream("dead")).scores
    assert scores[:10].min() > scores[10:].max()


# Methods with a budget ------------------------------------------------------------------------------------------------


def test_scores_of_the_budget_methods():
    evidence, x, labels, _, _ = planted()
    logits = x[:, :5]
    loss = -log_softmax(logits, axis=1)[np.arange(len(x)), labels]
    lowest = LowestLoss().detect(evidence, rng.stream()).scores.double().numpy()
    np.testing.assert_allclose(-np.log1p(np.exp(-lowest)), -loss, rtol=1e-4, atol=1e-9)
    top = MaxSoftmax().detect(evidence, rng.stream()).scores.double().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-top)), softmax(logits, axis=1).max(1), rtol=1e-5)
    norm = FeatureNorm().detect(evidence, rng.stream()).scores
    np.testing.assert_allclose(norm, np.linalg.norm(x, axis=1), rtol=1e-5)


def test_certain_rows_are_still_ranked():
    """In float32, the softmax of both rows is 1 and their loss 0."""
    x = np.array([[40.0, 0, 0, 0, 0], [60, 0, 0, 0, 0], [0, 9, 0, 0, 0]])
    evidence = evidence_of(x, np.array([0, 0, 0]), x, np.array([0, 0, 1]))
    for method in (LowestLoss, MaxSoftmax):
        scores = method().detect(evidence, rng.stream()).scores
        assert scores[1] > scores[0] > scores[2]
    assert LowestLoss().detect(evidence, rng.stream()).scores[2] < 0 < scores[2]


@pytest.mark.parametrize("method", WITH_BUDGET)
@pytest.mark.parametrize(("rate", "count"), [(0.01, 9), (0.0, 9), (0.02, 18), (0.9, 300)])
def test_the_highest_rows_are_flagged(method, rate, count):
    """1.5 * rate of 600 rows; rate 0, the truth about a clean set, is read as 0.01; never more than half."""
    suspicion = method(assumed_rate=rate).detect(planted()[0], rng.stream())
    assert suspicion.flagged.sum() == count
    assert suspicion.scores[suspicion.flagged].min() >= suspicion.scores[~suspicion.flagged].max()


# Frequency ------------------------------------------------------------------------------------------------------------


def photos(n: int, seed: int, shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    """Smooth pictures with a little noise."""
    stream = rng.stream("photos", seed)
    coarse = torch.rand(n, shape[0], 3, 3, generator=stream) * 200
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic", align_corners=True)
    return (smooth + 3 * torch.randn(smooth.shape, generator=stream)).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (2, 1, 6)])
def test_spectra_equal_scipy(shape):
    images = torch.randint(256, (4, *shape), generator=rng.stream("dct")).to(torch.uint8)
    net = frequency.SpectrumNet(images, 2)
    expected = dctn(images.double().numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(net.spectra(images), expected, atol=2e-3)
    np.testing.assert_allclose(net.mean, expected.mean(0), atol=2e-3)
    assert net.eval()(images).shape == (4, 2)


def rectangles(changed: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the changed pixels, which must be a full rectangle."""
    found = []
    for mask in changed:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        found.append((int(rows[0]), int(columns[0]), int(height), int(width)))
    return found


@pytest.mark.parametrize("side", [32, 64])
def test_blocks_stand_near_a_corner(side):
    x = torch.full((400, 3, side, side), 7.0)
    for change in (frequency.white_block, frequency.color_block):
        out = change(x, x.to(torch.uint8), rng.stream("block"))
        assert (out == 255).any() if change is frequency.white_block else out.max() <= 255
        found = rectangles((out != x).any(1).numpy())
        scale = side // 32
        heights, widths = {h for *_, h, _ in found}, {w for *_, w in found}
        assert heights == widths == {scale * size for size in range(2, 8)}
        margins = {(min(t, side - t - h), min(left, side - left - w)) for t, left, h, w in found}
        assert margins == {(scale * m, scale * m) for m in range(6)}
        assert len({(t < side / 2, left < side / 2) for t, left, _, _ in found}) == 4


def test_noise_shadow_and_overlay():
    x = torch.full((300, 3, 20, 24), 100.0)
    images = photos(50, 1, (3, 20, 24))
    noisy = frequency.noise(x, images, rng.stream("noise")) - 100
    assert abs(noisy.mean() - 25) < 0.1
    variances = noisy.flatten(1).var(1)
    assert 8 < variances.min() < 16
    assert 60 < variances.max() < 80
    dark = frequency.shadow(x, images, rng.stream("shadow"))
    assert (dark[:, :, :10] == 100).all()
    assert set(dark.unique().tolist()) == {50.0, 100.0}
    runs = (dark[:, 0, 10:] == 50).numpy()
    assert (np.abs(np.diff(runs.astype(int), axis=2)).sum(2) <= 2).all()  # one stretch in every line
    assert 0.2 < runs.mean() < 0.5  # two uniform lines are a third of the width apart
    over = frequency.overlay(x, images, rng.stream("overlay"))
    partners = ((over - 100) / 0.3).round().to(torch.uint8)
    assert all((partner == images).flatten(1).all(1).any() for partner in partners)


def test_triggered_images_are_whole_numbers_and_the_originals_stay():
    images = photos(500, 2)
    before = images.clone()
    out = frequency.plant_triggers(images, rng.stream("triggers"))
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(out, frequency.plant_triggers(images, rng.stream("triggers")))
    assert (out != images).flatten(1).any(1).float().mean() > 0.97


class Mute(Classifier):
    """A victim that must not be asked."""

    def __init__(self) -> None:
        super().__init__({"penultimate": nn.Flatten()}, nn.Linear(1, 1), 3)

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the victim was asked")


def test_frequency_finds_a_patch_and_noise_without_asking_the_victim():
    images, labels = photos(400, 3), torch.zeros(400, dtype=torch.int64)
    images[:20, :, 1:4, 1:4] = torch.tensor([[0, 255, 0], [255, 0, 255], [0, 255, 0]], dtype=torch.uint8)
    grain = torch.randint(-30, 31, images.shape[1:], generator=rng.stream("grain"))
    images[20:40] = (images[20:40] + grain).clamp(0, 255).to(torch.uint8)
    evidence = Evidence(Mute(), images, labels, {}, photos(300, 4), labels[:300])
    suspicion = Frequency(width=8).detect(evidence, rng.stream("frequency"))
    truth = torch.arange(400) < 40
    assert roc_auc_score(truth, suspicion.scores) > 0.95
    assert suspicion.flagged[truth].float().mean() > 0.9
    assert suspicion.flagged[~truth].float().mean() < 0.15
    assert torch.equal(suspicion.flagged, suspicion.scores > 0)
