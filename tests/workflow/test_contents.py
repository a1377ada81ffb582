"""A change in the contents of the user's own files reruns the jobs that read them; a new file time does not."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

GRID = {
    "datasets": {
        "arrays": {"method": "npz", "path": "mine.npz"},
        "pictures": {"method": "folder", "path": "mine", "size": 16},
    },
    "holdout": 10,
    "attacks": {"picture": {"method": "blended", "pattern": "trigger.png"}, "plain": {"method": "badnets"}},
    "detectors": {},
    "filters": {},
}


def pixels(*key):
    return np.random.default_rng(key).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def write_arrays(path, brightness=0):
    labels = np.arange(100) % 4
    images = np.stack([pixels(row) for row in range(100)]) // 2 + brightness
    np.savez(path, x_train=images[:80], y_train=labels[:80], x_test=images[80:], y_test=labels[80:])


@pytest.fixture(scope="module")
def poisoned(copied, tmp_path_factory):
    """A grid on the user's own files, run up to the poisoned sets."""
    tree = copied(tmp_path_factory.mktemp("poisoned"))
    tree.write(**GRID)
    write_arrays(tree.root / "mine.npz")
    Image.fromarray(pixels(1000)).save(tree.root / "trigger.png")
    for row in range(60):
        (tree.root / f"mine/{row % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(row)).save(tree.root / f"mine/{row % 3}/{row}.png")
    tree.snakemake("--until", "poison")
    return tree


@pytest.fixture
def mine(poisoned, tmp_path):
    """A copy in which every file has a new time, and a function that returns the jobs that it would run again."""
    root = tmp_path / "mine"
    shutil.copytree(poisoned.root, root, copy_function=shutil.copyfile)
    tree = type(poisoned)(root)
    return root, lambda: tree.would_run("--until", "poison")


ALL = {"fetch": 1, "hold_out": 1, "poison": 3}  # of one data set: the clean reference and two attacks


def test_equal_copies_and_touched_files_rerun_nothing(mine):
    root, would_run = mine
    for file in (root / "mine.npz", root / "trigger.png", *(root / "mine").rglob("*.png")):
        os.utime(file)
    assert would_run() == {}


def test_an_archive_repaired_in_place_is_read_again(mine):
    root, would_run = mine
    write_arrays(root / "mine.npz", brightness=20)
    assert would_run() == ALL


def test_a_picture_added_to_a_class_is_read(mine):
    root, would_run = mine
    Image.fromarray(pixels(2000)).save(root / "mine/1/new.png")
    assert would_run() == ALL


def test_a_changed_trigger_poisons_again_with_it_only(mine):
    root, would_run = mine
    Image.fromarray(pixels(1001)).save(root / "trigger.png")
    assert would_run() == {"poison": 2}  # on both data sets


def test_a_trigger_that_is_gone_leaves_the_results(mine):
    root, would_run = mine
    (root / "trigger.png").unlink()
    assert would_run() == {}


def test_a_data_folder_that_was_moved_reruns_nothing(mine):
    root, would_run = mine
    config = (root / "config.yaml").read_text()
    (root / "config.yaml").write_text(config.replace("{", '{"data_dir": "elsewhere", ', 1))
    assert would_run() == {}
