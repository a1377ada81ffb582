"""Turn data sets into checked tensors, and draw the defender's hold-out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor

from keyhole import rng as streams
from keyhole.data import DataError, Dataset, apportion, data_root, expect_integers, label_counts, to_chw
from keyhole.types import Images, Labels

__all__ = ["Splits", "draw_holdout", "load"]


@dataclass(frozen=True)
class Splits:
    """A data set as tensors; training and test images have one shape, labels are 0..k-1."""

    train_images: Images
    train_labels: Labels
    test_images: UInt8[Tensor, "t c h w"]
    test_labels: Int64[Tensor, " t"]


def load(dataset: Dataset, data_dir: str | Path | None = None) -> Splits:
    """Read a data set, check it, and draw its `subset`.

    Raises:
        DataError: the data are missing, or have the wrong type, shape or labels.
        ValueError: `subset` is larger than the training set, or leaves a class without rows.
    """
    arrays = dataset.read(data_root(data_dir))
    images, labels = _tensors(arrays.x_train, arrays.y_train, f"{dataset.name}, training set")
    test_images, test_labels = _tensors(arrays.x_test, arrays.y_test, f"{dataset.name}, test set")
    counts = label_counts(arrays.y_train, f"{dataset.name}, training set")
    if images.shape[1:] != test_images.shape[1:]:
        shapes = f"{tuple(images.shape[1:])} and {tuple(test_images.shape[1:])}"
        raise DataError(f"{dataset.name}: expected training and test images of one shape, got {shapes} (c, h, w)")
    if test_labels.min() < 0 or test_labels.max() >= len(counts):
        extent = f"{int(test_labels.min())}..{int(test_labels.max())}"
        raise DataError(f"{dataset.name}: expected test labels within 0..{len(counts) - 1}, got {extent}")
    sizes = dataset.subset_sizes(counts)
    if sum(sizes) < len(labels):
        rows = streams.stratified(labels, sizes, streams.stream("subset", dataset.name)).sort().values
        images, labels = images[rows], labels[rows]
    return Splits(images, labels, test_images, test_labels)


def draw_holdout(
    labels: Labels, source: Literal["train", "test"], size: int, rng: Generator
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " r"]]:
    """Draw `size` clean images for the defender, the same fraction of each class.

    They are taken from the training set before it is poisoned or, as in Qi et al.'s code, from the test set, which is
    scored without them.

    Differs from Qi et al.'s code: it draws the images regardless of their class.

    Args:
        labels: of the whole split.
        source: which split it is.

    Returns:
        The rows of the hold-out in random order, and the rows that remain in theirs.

    Raises:
        ValueError: no rows would be left to train or score on.
    """
    if not 0 <= size < len(labels):
        raise ValueError(f"expected holdout within 0..{len(labels) - 1} ({len(labels)} {source} rows), got {size}")
    drawn = streams.stratified(labels, apportion(torch.bincount(labels).tolist(), size), rng)
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[drawn] = False
    remaining = torch.bincount(labels[stays], minlength=int(labels.max()) + 1)
    if source == "train" and not remaining.all():
        raise ValueError(
            f"expected holdout to leave training rows of every class, got {size} of {len(labels)} rows, which leaves "
            f"class {int(remaining.argmin())} without any"
        )
    return drawn, torch.nonzero(stays).squeeze(1)


def _tensors(images: np.ndarray, labels: np.ndarray, where: str) -> tuple[Images, Labels]:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise DataError(f"{where}: expected images as uint8 (0..255), got {images.dtype}")
    expect_integers(labels, where)
    if len(images) != len(labels) or not len(labels):
        raise DataError(f"{where}: expected as many images as labels, got {len(images)} and {len(labels)}")
    images = np.require(_to_nchw(images, where), requirements=["C", "W"])
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _to_nchw(images: np.ndarray, where: str) -> np.ndarray:
    shape = to_chw(images.shape, where)
    if images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    return images.reshape(-1, *shape)
