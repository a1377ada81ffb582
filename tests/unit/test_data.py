"""Data sets: what is read, what is refused, and with which words; how rows are dealt out."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from keyhole import data, rng
from keyhole.data import DataError, gtsrb
from keyhole.data.folder import Folder
from keyhole.data.npz import Npz
from keyhole.planning import registry
from keyhole.running.splits import Splits, draw_holdout, load

NAMES = registry.names("data")
NAMED = tuple(name for name in NAMES if name not in ("digits", "npz", "folder"))


def rows_as_sets(*images: torch.Tensor) -> list[set[bytes]]:
    return [{image.numpy().tobytes() for image in part} for part in images]


def some_images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def save_npz(path: Path, **changes: np.ndarray) -> Path:
    """Twelve training and six test images of three classes, 4x5 pixels."""
    images, labels = some_images(18, 4, 5, 3), np.arange(18) % 3
    arrays = {"x_train": images[:12], "y_train": labels[:12], "x_test": images[12:], "y_test": labels[12:]}
    np.savez(path, **(arrays | changes))
    return path


def save_classes(folder: Path, sizes: dict[str, int], width: int = 6, height: int = 4) -> None:
    """Plain images; red says the class in sorted order, green the row."""
    for number, name in enumerate(sorted(sizes)):
        (folder / name).mkdir(parents=True)
        for row in range(sizes[name]):
            Image.new("RGB", (width, height), (10 * number, row, 200)).save(folder / name / f"{row:02}.png")


@pytest.fixture
def splits() -> Splits:
    """Every image says its own row, classes of 60, 30 and 10 training rows."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([60, 30, 10]))
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    return Splits(images, labels, images[:50] + 100, labels[:50])


# Named data sets


def test_importing_a_data_set_and_asking_for_class_sizes_does_not_import_torch(tmp_path):
    save_npz(tmp_path / "gtsrb.npz")
    code = f"""
import sys
from keyhole.planning import registry
for name in {NAMED}:
    registry.load("data", name).class_sizes({str(tmp_path)!r})
registry.load("data", "digits").class_sizes()
registry.load("data", "npz", {{"path": {str(tmp_path / "gtsrb.npz")!r}}}).class_sizes()
import keyhole.data.folder
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_are_split_as_announced():
    digits = registry.load("data", "digits")
    splits = load(digits)
    assert splits.train_images.shape == (1437, 1, 16, 16)
    assert splits.test_images.shape == (360, 1, 16, 16)
    assert tuple(torch.bincount(splits.train_labels).tolist()) == digits.class_sizes()
    assert torch.bincount(splits.test_labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert splits.train_images.max() == 255
    again = load(digits)
    assert torch.equal(splits.test_images, again.test_images)


@pytest.mark.parametrize(
    ("name", "flips"),
    [("digits", False), ("gtsrb", False), ("cifar10", True), ("fashion_mnist", True), ("tiny_imagenet", True)],
)
def test_only_data_sets_whose_mirror_image_keeps_its_label_are_flipped(name, flips):
    assert registry.load("data", name).flips is flips


def test_owners_say_whether_their_images_may_be_flipped():
    assert not Npz(path="x").flips
    assert Npz(path="x", flips=True).flips


@pytest.mark.parametrize("name", NAMED)
def test_offline_says_what_to_put_where(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=rf"put {name}\.npz \(x_train, y_train, x_test, y_test") as failure:
        load(registry.load("data", name), str(tmp_path))
    assert str(tmp_path) in str(failure.value)
    assert failure.value.__suppress_context__


@pytest.mark.parametrize("name", NAMED)
def test_an_npz_of_that_name_goes_before_a_download(name, tmp_path):
    save_npz(tmp_path / f"{name}.npz")
    dataset = registry.load("data", name)
    assert dataset.class_sizes(tmp_path) == (4, 4, 4)
    assert load(dataset, str(tmp_path)).train_images.shape == (12, 3, 4, 5)


def test_class_sizes_are_known_without_files_where_they_are_fixed(tmp_path):
    sizes = {name: registry.load("data", name).class_sizes(tmp_path) for name in NAMED}
    assert sizes["cifar10"] == (5000,) * 10
    assert sizes["cifar100"] == (500,) * 100
    assert sizes["tiny_imagenet"] == (500,) * 200
    assert sizes["gtsrb"] is None


def test_the_data_folder_is_the_configured_one_then_the_environment_then_data(monkeypatch):
    monkeypatch.setenv("KEYHOLE_DATA", "/elsewhere")
    assert data.data_root("here") == Path("here")
    assert data.data_root(None) == Path("/elsewhere")
    monkeypatch.delenv("KEYHOLE_DATA")
    assert data.data_root(None) == Path("data")


def test_fashion_mnist_reads_plain_and_packed_idx_files(tmp_path):
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    images, labels = some_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        header = b"\0\0\x08\x03" + np.array(images.shape, ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x14" + labels.tobytes())
    splits = load(registry.load("data", "fashion_mnist"), tmp_path)
    np.testing.assert_array_equal(splits.train_images[:, 0], images)
    assert splits.test_labels.tolist() == labels.tolist()
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x14" + labels.tobytes()[:-3])
    with pytest.raises(DataError, match="four official idx files"):
        load(registry.load("data", "fashion_mnist"), tmp_path)


def save_gtsrb(root: Path, training: str) -> None:
    """Two classes of two frames with a white sign on black, and as many test frames, laid out as published."""
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    frame = np.zeros((50, 40, 3), np.uint8)
    frame[10:42, 4:36] = 255
    base = root / "gtsrb" / "GTSRB"
    for label in range(2):
        folder = base / training / f"{label:05}"
        folder.mkdir(parents=True)
        rows = [f"{row:05}.ppm;40;50;4;10;36;42;{label}\n" for row in range(2)]
        (folder / f"GT-{label:05}.csv").write_text(header + "".join(rows))
        for row in range(2):
            Image.fromarray(frame).save(folder / f"{row:05}.ppm")
    (base / "Final_Test" / "Images").mkdir(parents=True)
    for row in range(2):
        Image.fromarray(frame).save(base / "Final_Test" / "Images" / f"{row:05}.ppm")
    table = header + "".join(f"{row:05}.ppm;40;50;4;10;36;42;{1 - row}\n" for row in range(2))
    (root / "gtsrb" / "GT-final_test.csv").write_text(table)


@pytest.mark.parametrize("training", ["Training", "Final_Training/Images"])
def test_gtsrb_cuts_the_sign_from_original_frames(tmp_path, monkeypatch, training):
    monkeypatch.setattr(gtsrb, "TRAIN_ROWS", (4,))
    monkeypatch.setattr(gtsrb, "TEST_ROWS", (2,))
    save_gtsrb(tmp_path, training)
    frame, box = (registry.load("data", "gtsrb", {"crop": crop}) for crop in ("frame", "box"))
    assert frame.class_sizes(tmp_path) == (2, 2)
    assert load(frame, tmp_path).train_images.min() == 0
    cut = load(box, tmp_path)
    assert cut.train_images.shape == (4, 3, 32, 32)
    assert cut.train_images.min() == 255
    assert cut.test_images.min() == 255
    assert cut.test_labels.tolist() == [1, 0]


def test_gtsrb_refuses_half_unpacked_frames(tmp_path):
    save_gtsrb(tmp_path, "Training")
    with pytest.raises(DataError, match="expected 39209 or 26640 training images, got 4"):
        load(registry.load("data", "gtsrb"), tmp_path)


def test_gtsrb_never_cuts_the_box_from_resized_frames(tmp_path, monkeypatch):
    save_npz(tmp_path / "gtsrb.npz")
    monkeypatch.setattr(torchvision.datasets, "GTSRB", lambda *args, **kwargs: 1 / 0)
    box = registry.load("data", "gtsrb", {"crop": "box"})
    assert box.class_sizes(tmp_path) is None
    with pytest.raises(DataError, match=r"crop: box needs these, an \.npz holds no original frames"):
        load(box, tmp_path)


def test_tiny_imagenet_tests_on_the_validation_images(tmp_path, monkeypatch):
    from keyhole.data import tiny_imagenet

    monkeypatch.setattr(tiny_imagenet, "TRAIN_ROWS", (5,))
    monkeypatch.setattr(tiny_imagenet, "TEST_ROWS", (2,))
    base = tmp_path / "tiny-imagenet-200"
    save_classes(base / "train" / "n2", {"images": 2})
    save_classes(base / "train" / "n1", {"images": 3})
    save_classes(base / "val", {"images": 2})
    (base / "val" / "val_annotations.txt").write_text("00.png\tn2\t0\t0\t1\t1\n01.png\tn1\t0\t0\t1\t1\n")
    splits = load(registry.load("data", "tiny_imagenet"), tmp_path)
    assert splits.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert splits.test_labels.tolist() == [1, 0]
    assert splits.test_images[:, 1, 0, 0].tolist() == [0, 1]


def test_imagenette_takes_the_square_in_the_middle(tmp_path, monkeypatch):
    from keyhole.data import imagenette

    monkeypatch.setattr(imagenette, "TRAIN_ROWS", (2,))
    monkeypatch.setattr(imagenette, "TEST_ROWS", (2,))
    pixels = np.zeros((80, 200, 3), np.uint8)
    pixels[:, 60:140] = 255
    for part in ("train", "val"):
        for wordnet_id in ("n01440764", "n02102040"):
            folder = tmp_path / "imagenette2-160" / part / wordnet_id
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "a.JPEG", quality=100)
    dataset = registry.load("data", "imagenette")
    assert dataset.class_sizes(tmp_path) == (1, 1)
    assert load(dataset, tmp_path).train_images.min() > 200


# A user's own .npz


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((4, 5, 3), (3, 4, 5)), ((4, 5, 1), (1, 4, 5)), ((4, 5), (1, 4, 5)), ((3, 4, 5), (3, 4, 5))],
    ids=["NHWC", "NHW1", "NHW", "NCHW"],
)
def test_npz_round_trip(tmp_path, stored, expected):
    images = some_images(18, *stored)
    path = save_npz(tmp_path / "own.npz", x_train=images[:12], x_test=images[12:])
    splits = load(Npz(path=str(path)))
    assert splits.train_images.shape == (12, *expected)
    assert splits.train_images.is_contiguous()
    back = splits.test_images.permute(0, 2, 3, 1) if stored[-1] in (1, 3) else splits.test_images
    np.testing.assert_array_equal(back.reshape(6, *stored), images[12:])
    assert splits.train_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((12, 4, 5, 3), np.float32)}, "expected images as uint8 .*, got float32"),
        ({"x_train": np.zeros((12, 4, 5, 2), np.uint8)}, r"got shape \(12, 4, 5, 2\)"),
        ({"x_test": np.zeros((6, 5, 5, 3), np.uint8)}, "training and test images of one shape"),
        ({"y_train": np.arange(11) % 3}, "got 12 and 11"),
        ({"y_train": np.arange(12) % 3 * 2}, "expected labels 0..k-1 without gaps .*, got 0, 2, 4"),
        ({"y_train": np.arange(12) % 3 + 1}, "got 1, 2, 3"),
        ({"y_train": np.arange(12) % 3 / 1.0}, "expected labels as integers .*, got float64"),
        ({"y_train": np.zeros((12, 3), int)}, r"got int64 \(12, 3\)"),
        ({"y_test": np.arange(6)}, r"expected test labels within 0\.\.2, got 0\.\.5"),
        ({"y_test": np.array([{}] * 6)}, "cannot read .*own.npz"),
    ],
)
def test_npz_with_the_wrong_content_is_refused(tmp_path, changes, message):
    path = save_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError, match=message):
        load(Npz(path=str(path)))


def test_npz_without_an_array_names_it(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=some_images(2, 4, 4), y_train=np.arange(2))
    with pytest.raises(DataError, match="no x_test among x_train, y_train"):
        load(Npz(path=str(tmp_path / "own.npz")))


def test_a_missing_and_a_damaged_npz_are_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"no file .*own\.npz; expected an \.npz with x_train"):
        load(Npz(path=str(tmp_path / "own.npz")))
    path = save_npz(tmp_path / "cifar10.npz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cifar10\.npz is damaged or no \.npz"):
        load(registry.load("data", "cifar10"), tmp_path)
    content = bytearray(save_npz(path).read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*cifar10\.npz \(BadZipFile"):
        load(registry.load("data", "cifar10"), tmp_path)


# A user's own folder


def test_folder_with_train_and_test(tmp_path):
    save_classes(tmp_path / "train", {"b": 3, "a": 2})
    save_classes(tmp_path / "test", {"b": 1, "a": 1})
    dataset = Folder(path=str(tmp_path), size=(4, 6))
    splits = load(dataset)
    assert dataset.class_sizes() == (2, 3)
    assert splits.train_images.shape == (5, 3, 4, 6)
    assert splits.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert splits.train_images[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 10]
    assert splits.train_images[:, 1, 0, 0].tolist() == [0, 1, 0, 1, 2]
    assert splits.test_labels.tolist() == [0, 1]


def test_folder_without_a_test_set_draws_one(tmp_path):
    save_classes(tmp_path, {"a": 10, "b": 20})
    dataset = Folder(path=str(tmp_path), size=8, test_fraction=0.3)
    splits = load(dataset)
    assert dataset.class_sizes() == (7, 14) == tuple(torch.bincount(splits.train_labels).tolist())
    assert splits.test_labels.tolist() == [0] * 3 + [1] * 6
    assert splits.test_images.shape == (9, 3, 8, 8)
    train, test = rows_as_sets(splits.train_images, splits.test_images)
    assert not train & test
    assert len(train | test) == 30


def test_folder_in_gray(tmp_path):
    save_classes(tmp_path, {"a": 5, "b": 5})
    assert load(Folder(path=str(tmp_path), size=8, colors="gray")).train_images.shape == (8, 1, 8, 8)


def test_folder_refuses_what_it_would_misread(tmp_path):
    own = Folder(path=str(tmp_path / "own"), size=8)
    with pytest.raises(DataError, match="no folder"):
        load(own)
    save_classes(tmp_path / "own" / "train", {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"own/test: expected two or more class folders .*, got 0 folders"):
        own.class_sizes()
    save_classes(tmp_path / "own" / "test", {"a": 1, "c": 1})
    with pytest.raises(DataError, match="the same classes in train and test, got b, c in only one"):
        own.class_sizes()
    shutil.move(tmp_path / "own" / "test" / "c", tmp_path / "own" / "test" / "b")
    assert own.class_sizes() == (2, 2)
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "own" / "test" / "b" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: expected 8 bits per channel"):
        load(own)
    (tmp_path / "own" / "test" / "b" / "deep.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"deep\.png is damaged or no image"):
        load(own)


# Subset and hold-out


def test_a_subset_is_proportional_reproducible_and_as_announced():
    half = registry.load("data", "digits", {"subset": 700})
    splits, again, whole = load(half), load(half), load(registry.load("data", "digits"))
    sizes = torch.bincount(splits.train_labels)
    assert tuple(sizes.tolist()) == half.class_sizes()
    assert (sizes - torch.bincount(whole.train_labels) * 700 / 1437).abs().max() < 1
    assert torch.equal(splits.train_images, again.train_images)
    assert torch.equal(splits.test_images, whole.test_images)
    small, large = rows_as_sets(splits.train_images, whole.train_images)
    assert small < large


def test_a_subset_that_cannot_be_is_refused_before_any_image_is_read():
    with pytest.raises(ValueError, match="expected subset up to 1437 training rows, got 2000"):
        registry.load("data", "digits", {"subset": 2000}).class_sizes()
    with pytest.raises(ValueError, match=r"got 5, which leaves class \d without any"):
        registry.load("data", "digits", {"subset": 5}).class_sizes()


def test_apportion_by_hand():
    assert data.apportion([60, 30, 10], 10) == (6, 3, 1)
    assert data.apportion([5, 3, 1], 4) == (2, 1, 1)  # quotas 2.22, 1.33, 0.44: the last seat goes to 0.44
    assert data.apportion([1, 1, 1], 2) == (1, 1, 0)
    assert data.apportion([4, 2], 6) == (4, 2)
    assert data.apportion([4, 2], 0) == (0, 0)


def test_a_holdout_leaves_the_other_rows_and_keeps_proportions(splits):
    for source, labels, counts in (
        ("train", splits.train_labels, [12, 6, 2]),
        ("test", splits.test_labels, None),
    ):
        drawn, rest = draw_holdout(labels, source, 20, rng.stream("holdout", 0))
        assert sorted([*drawn.tolist(), *rest.tolist()]) == list(range(len(labels)))
        assert len(drawn) == 20
        assert rest.tolist() == sorted(rest.tolist())
        if counts:
            assert torch.bincount(labels[drawn]).tolist() == counts


def test_a_holdout_is_in_random_order_and_depends_on_the_stream_alone(splits):
    labels = splits.train_labels
    first, again, other = (draw_holdout(labels, "train", 50, rng.stream("holdout", seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    assert len(labels[first][:20].unique()) > 1


def test_no_holdout_is_an_empty_one(splits):
    drawn, rest = draw_holdout(splits.train_labels, "train", 0, rng.stream("holdout", 0))
    assert splits.train_images[drawn].shape == (0, 1, 1, 1)
    assert len(rest) == len(splits.train_labels)


@pytest.mark.parametrize(
    ("source", "size", "message"),
    [
        ("train", 100, r"expected holdout within 0\.\.99 \(100 train rows\), got 100"),
        ("test", 50, r"expected holdout within 0\.\.49 \(50 test rows\), got 50"),
        ("train", 97, "got 97 of 100 rows, which leaves class 2 without any"),
        ("train", -1, "got -1"),
    ],
)
def test_a_holdout_that_leaves_nothing_is_refused(splits, source, size, message):
    with pytest.raises(ValueError, match=message):
        draw_holdout(getattr(splits, f"{source}_labels"), source, size, rng.stream("holdout", 0))


# Real data, where there are any


def real(name: str) -> Splits:
    folder = os.environ.get("KEYHOLE_DATA")
    if not folder or not (Path(folder) / f"{name}.npz").is_file():
        pytest.skip(f"no {name}.npz in the folder that KEYHOLE_DATA names")
    dataset = registry.load("data", name)
    splits = load(dataset)
    assert tuple(torch.bincount(splits.train_labels).tolist()) == dataset.class_sizes()
    return splits


def test_real_cifar10_is_the_official_one():
    splits = real("cifar10")
    assert splits.train_images.shape == (50000, 3, 32, 32)
    assert torch.bincount(splits.train_labels).tolist() == [5000] * 10
    assert torch.bincount(splits.test_labels).tolist() == [1000] * 10
    means = [splits.train_images[:, channel].double().mean().item() / 255 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


def test_real_gtsrb_is_one_of_the_two_known_ones():
    splits = real("gtsrb")
    sizes = torch.bincount(splits.train_labels)
    assert splits.train_images.shape[1:] == (3, 32, 32)
    assert (len(splits.train_labels), sizes[2].item()) in ((39209, 2250), (26640, 1500))
    assert splits.test_images.shape == (12630, 3, 32, 32)
    assert len(sizes) == 43


def test_real_tiny_imagenet_has_balanced_classes():
    splits = real("tiny_imagenet")
    sizes = torch.bincount(splits.train_labels)
    assert splits.train_images.shape[1:] == (3, 64, 64)
    assert len(sizes) == 200
    assert len(sizes.unique()) == 1
    assert torch.bincount(splits.test_labels).tolist() == [50] * 200
