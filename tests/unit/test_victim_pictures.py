"""Every picture of a victim is written, shows something, and comes out the same twice."""

import numpy as np
import pytest
from matplotlib.image import imread

from keyhole.reporting import canvas
from keyhole.reporting import victim_pictures as pictures
from keyhole.reporting.canvas import save
from keyhole.scoring.latent_maps import LatentMaps


def kinds(clean, cover, payload):
    return np.array(["clean"] * clean + ["cover"] * cover + ["payload"] * payload)


def is_drawn(path):
    """Whether a picture is more than one color."""
    pixels = imread(path)
    return pixels[..., :3].std() > 0.01


def test_latents_that_cannot_be_mapped_are_said_so(tmp_path):
    maps = LatentMaps({"PCA": np.full((60, 2), np.nan)}, kinds(60, 0, 0))
    save(pictures.plot_latents(maps, "broken"), tmp_path / "latents.png")
    assert is_drawn(tmp_path / "latents.png")


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_figures_have_the_same_bytes_twice(suffix, tmp_path):
    rng = np.random.default_rng(0)
    maps = LatentMaps({"t-SNE": rng.normal(size=(30, 2)), "PCA": rng.normal(size=(30, 2))}, kinds(10, 10, 10))
    for name in ("a", "b"):
        save(pictures.plot_latents(maps, "digits, badnets", 0.25), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_preview_shows_images_and_differences(channels, tmp_path):
    clean = np.random.default_rng(0).integers(0, 256, (6, channels, 12, 12)).astype(np.uint8)
    planted = clean.copy()
    planted[..., -3:, -3:] = 255
    save(pictures.plot_preview(clean, planted, planted, "title"), tmp_path / "preview.png")
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
    save(pictures.plot_triggers(found, targets, "title"), tmp_path / "triggers.png")
    assert is_drawn(tmp_path / "triggers.png")


def test_an_inverter_without_triggers_gets_a_picture_that_says_so(tmp_path):
    save(pictures.plot_triggers({"anomaly": np.zeros(3)}, [1], "title"), tmp_path / "triggers.png")
    assert is_drawn(tmp_path / "triggers.png")


def test_inversions_have_a_row_for_each_inverter_that_recovered_a_trigger():
    clean = np.random.default_rng(0).integers(0, 256, (4, 3, 12, 12)).astype(np.uint8)
    found = {
        "stamped": np.repeat(clean, 3, axis=0),
        "anomaly": np.array([0.0, 2.0]),
        "flagged": np.array([False, True]),
    }
    inversions = {"neural_cleanse": found, "mm_bd": {"anomaly": np.zeros(2)}, "failed": {}}
    figure = pictures.plot_inversions(clean, clean, inversions, "title")
    rows = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert rows == ["clean", "true trigger", "neural_cleanse\nclass 1, flagged"]


def test_of_many_classes_the_target_is_always_shown():
    anomaly = np.linspace(3, 0, 43)
    shown = pictures._classes_shown(anomaly, [40])
    assert len(shown) == pictures.MOST_CLASSES
    assert shown[:3] == [0, 1, 2]
    assert 40 in shown
    assert pictures._classes_shown(anomaly[:10], [4]) == list(range(10))


def test_all_pictures_of_a_victim_are_drawn_at_once(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8)
    outputs = {"preview": tmp_path / "preview.png", "latents": tmp_path / "latents.png"}
    outputs |= {"triggers": [tmp_path / "triggers.png"], "inversions": [tmp_path / "inversions.png"]}
    cards = [{"target_classes": [1]}, {"level": "stem", "transform": "raw", "silhouette": 0.5}]
    shown = dict.fromkeys(("clean", "planted", "triggered", "holdout", "stamped"), images)
    maps = LatentMaps({"PCA": np.random.default_rng(0).normal(size=(9, 2))}, kinds(3, 3, 3))
    pictures.draw(outputs, "title", "stem", cards, shown, lambda: maps, {"failed": {}})
    assert all(is_drawn(path) for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_a_picture_that_cannot_be_drawn_says_why_and_costs_only_itself(tmp_path, caplog):
    outputs = {"preview": tmp_path / "preview.png", "latents": tmp_path / "latents.png"}
    outputs |= {"triggers": [], "inversions": []}
    images = np.zeros((4, 1, 8, 8), np.uint8)
    shown = dict.fromkeys(("clean", "planted", "triggered", "holdout", "stamped"), images)

    def maps():
        raise ValueError("svd did not converge: $x^2$")

    pictures.draw(outputs, "title", "stem", [{"target_classes": [1]}], shown, maps, {})
    assert is_drawn(tmp_path / "latents.png")
    assert (tmp_path / "preview.png").exists()
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


def test_a_full_disk_is_not_a_picture(tmp_path):
    def plot():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        canvas.draw(plot, to=[tmp_path / "a.png"])
