"""Sampling and maps by their numbers; every picture is written, shows something, and comes out the same twice."""

import numpy as np
import pytest
from matplotlib.image import imread

from keyhole.reporting import pictures


def kinds(clean, cover, payload):
    return np.array(["clean"] * clean + ["cover"] * cover + ["payload"] * payload)


def counts(drawn):
    return {kind: int((drawn == kind).sum()) for kind in pictures.KINDS}


def is_drawn(path):
    """Whether a picture is more than one color."""
    pixels = imread(path)
    return pixels[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ((5000, 400, 150), (150, 150, 150)),
        ((5000, 20, 150), (150, 20, 150)),  # all there is of a kind
        ((5000, 0, 3000), (1000, 0, 1000)),
        ((5000, 0, 0), (1000, 0, 0)),  # a clean model
    ],
)
def test_kinds_are_drawn_equally(sizes, drawn):
    all_kinds = kinds(*sizes)
    rows = pictures.sample_kinds(all_kinds, 0)
    assert counts(all_kinds[rows]) == dict(zip(pictures.KINDS, drawn, strict=True))
    assert len(set(rows)) == len(rows)


def test_other_seeds_draw_other_rows():
    all_kinds = kinds(500, 0, 50)
    first, again, other = (pictures.sample_kinds(all_kinds, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["t-SNE", "PCA"])
def test_maps_keep_two_blobs_apart_and_repeat(method):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(60, 80)).astype(np.float32)
    latents[30:] += 5
    points = pictures.latent_map(latents, method, 3)
    assert points.shape == (60, 2)
    middle, others = points[:30].mean(0), points[30:].mean(0)
    assert np.linalg.norm(middle - others) > 2 * np.linalg.norm(points[:30] - middle, axis=1).mean()
    assert np.array_equal(points, pictures.latent_map(latents, method, 3))


@pytest.mark.parametrize("method", ["t-SNE", "PCA"])
@pytest.mark.parametrize(("rows", "broken"), [(60, True), (3, False)])
def test_latents_that_cannot_be_mapped_are_said_so(method, rows, broken, tmp_path):
    latents = np.zeros((rows, 8), np.float32)
    if broken:
        latents[0, 0] = np.nan
    points = pictures.latent_map(latents, method, 0)
    assert np.isnan(points).all()
    pictures.plot_latents({method: points}, kinds(rows, 0, 0), tmp_path / "latents.png", "broken")
    assert is_drawn(tmp_path / "latents.png")


def test_a_single_feature_can_be_mapped():
    points = pictures.latent_map(np.arange(10, dtype=np.float32)[:, None], "PCA", 0)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_figures_have_the_same_bytes_twice(suffix, tmp_path):
    rng = np.random.default_rng(0)
    maps = {"t-SNE": rng.normal(size=(30, 2)), "PCA": rng.normal(size=(30, 2))}
    for name in ("a", "b"):
        pictures.plot_latents(maps, kinds(10, 10, 10), tmp_path / f"{name}.{suffix}", "digits, badnets", 0.25)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_preview_shows_images_and_differences(channels, tmp_path):
    clean = np.random.default_rng(0).integers(0, 256, (6, channels, 12, 12)).astype(np.uint8)
    planted = clean.copy()
    planted[..., -3:, -3:] = 255
    pictures.plot_preview(clean, planted, planted, tmp_path / "preview.png", "title")
    assert is_drawn(tmp_path / "preview.png")


def test_differences_are_amplified_without_wrapping_around():
    dark, bright = np.full((1, 1, 1, 2), 0, np.uint8), np.array([10, 200], np.uint8).reshape(1, 1, 1, 2)
    assert pictures._difference(dark, bright).ravel().tolist() == [50, 255]
    assert pictures._difference(bright, dark).ravel().tolist() == [50, 255]


@pytest.mark.parametrize(("classes", "targets"), [(10, [3]), (43, [40]), (2, [])])
def test_recovered_triggers_are_drawn(classes, targets, tmp_path):
    rng = np.random.default_rng(0)
    found = {
        "triggers": rng.integers(0, 256, (classes, 3, 8, 8)).astype(np.uint8),
        "masks": rng.random((classes, 8, 8)),
    }
    found |= {"anomaly": np.linspace(3, 0, classes), "flagged": np.linspace(3, 0, classes) > 2.5}
    pictures.plot_triggers(found, targets, tmp_path / "triggers.png", "title")
    assert is_drawn(tmp_path / "triggers.png")


def test_an_inverter_without_triggers_gets_a_picture_that_says_so(tmp_path):
    pictures.plot_triggers({"anomaly": np.zeros(3)}, [1], tmp_path / "triggers.png", "title")
    assert is_drawn(tmp_path / "triggers.png")


def test_inversions_have_a_row_for_each_inverter_that_recovered_a_trigger(tmp_path, monkeypatch):
    clean = np.random.default_rng(0).integers(0, 256, (4, 3, 12, 12)).astype(np.uint8)
    found = {
        "stamped": np.repeat(clean, 3, axis=0),
        "anomaly": np.array([0.0, 2.0]),
        "flagged": np.array([False, True]),
    }
    inversions = {"neural_cleanse": found, "mm_bd": {"anomaly": np.zeros(2)}, "failed": {}}
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure))
    pictures.plot_inversions(clean, clean, inversions, tmp_path / "inversions.png", "title")
    rows = [panel.get_ylabel() for panel in drawn[0].axes if panel.get_ylabel()]
    assert rows == ["clean", "true trigger", "neural_cleanse\nclass 1, flagged"]


def test_of_many_classes_the_target_is_always_shown():
    anomaly = np.linspace(3, 0, 43)
    shown = pictures._classes_shown(anomaly, [40])
    assert len(shown) == pictures.MOST_CLASSES
    assert shown[:3] == [0, 1, 2]
    assert 40 in shown
    assert pictures._classes_shown(anomaly[:10], [4]) == list(range(10))
