"""Data sets, one in each file.

A data set returns NumPy arrays as its files hold them; `keyhole.running.splits.load` checks them and turns them into
tensors of one form. Planning asks for class sizes before any job runs, so nothing in this folder imports torch before
images are read.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from keyhole.parameters import Checked, Natural

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int, UInt8

__all__ = ["FORM", "Arrays", "DataError", "Dataset", "Shape", "to_chw"]
__all__ += ["apportion", "brief", "data_root", "expect_integers", "label_counts", "reason"]

FORM = "x_train, y_train, x_test, y_test; images uint8 NHWC, labels int64"

Shape = tuple[int, int, int]  # channels, height, width


class DataError(ValueError):
    """Data that are missing, or have the wrong type, shape or labels."""


@dataclass(frozen=True)
class Arrays:
    """A data set as its files hold it: images are NHWC, NHW (gray) or NCHW."""

    x_train: UInt8[np.ndarray, "n ..."]
    y_train: Int[np.ndarray, " n"]
    x_test: UInt8[np.ndarray, "m ..."]
    y_test: Int[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True)
class Dataset(Checked, ABC):
    """Base of all data sets.

    A subclass defines `read`, and `counts` and `shape` if they can be known without reading images.
    """

    flips: ClassVar[bool] = False  # whether a mirrored image keeps its label, so that training may mirror images

    subset: Natural = 0  # training rows to keep, the same fraction of each class, the same in every run; 0 keeps all

    @property
    def name(self) -> str:
        """The name of its file, without `.py`."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def read(self, root: Path) -> Arrays:
        """Read the whole data set; `root` is the folder that contains the named data sets."""

    def files(self, root: Path) -> tuple[str, ...]:
        """Return the user's own files and folders that `read` reads, whether they exist or not.

        A change of one of them reads the data set again. Files that are downloaded are not among them.
        """
        return ()

    def counts(self, root: Path) -> tuple[int, ...] | None:
        """Return the training rows per class without importing torch; None if only the images tell."""
        return None

    def shape(self, root: Path) -> Shape | None:
        """Return channels, height and width of the images without importing torch; None if only the images tell."""
        return None

    def image_shape(self, data_dir: str | Path | None = None) -> Shape | None:
        """Return channels, height and width of the images as `load` returns them; None if unknown."""
        return self.shape(data_root(data_dir))

    def class_sizes(self, data_dir: str | Path | None = None) -> tuple[int, ...] | None:
        """Return the training rows per class as `load` returns them, before a hold-out is cut; None if unknown.

        Raises:
            ValueError: `subset` is larger than the training set, or leaves a class without rows.
        """
        counts = self.counts(data_root(data_dir))
        return None if counts is None else self.subset_sizes(counts)

    def subset_sizes(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return the rows per class that `subset` keeps.

        Args:
            counts: the rows per class of the whole training set.

        Raises:
            ValueError: `subset` is larger than the training set, or leaves a class without rows.
        """
        if self.subset > sum(counts):
            raise ValueError(f"{self.name}: expected subset up to {sum(counts)} training rows, got {self.subset}")
        sizes = apportion(counts, self.subset or sum(counts))
        if not all(sizes):
            raise ValueError(
                f"{self.name}: expected subset to keep rows of all {len(counts)} classes (sizes {min(counts)} to "
                f"{max(counts)}), got {self.subset}, which leaves class {sizes.index(0)} without any"
            )
        return sizes


def data_root(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the named data sets: `data_dir`, else the environment variable KEYHOLE_DATA, else `data`."""
    return Path(data_dir or os.environ.get("KEYHOLE_DATA") or "data").expanduser()


def apportion(counts: Sequence[int], size: int) -> tuple[int, ...]:
    """Split `size` rows among classes in proportion to `counts`.

    Uses largest remainders (Hamilton's method); a tie goes to the lower class.
    """
    total = sum(counts)
    shares = [count * size // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -(counts[label] * size % total))
    for label in by_remainder[: size - sum(shares)]:
        shares[label] += 1
    return tuple(shares)


def label_counts(labels: Int[np.ndarray, " n"], where: str) -> tuple[int, ...]:
    """Count the rows of each class.

    Args:
        labels: one label per row.
        where: the start of an error message.

    Raises:
        DataError: the labels are not the integers 0..k-1, each at least once, with k at least 2.
    """
    import numpy as np

    labels = np.asarray(labels)
    expect_integers(labels, where)
    values, counts = np.unique(labels, return_counts=True)
    if len(values) < 2 or not np.array_equal(values, np.arange(len(values))):
        raise DataError(f"{where}: expected labels 0..k-1 without gaps (k at least 2), got {brief(values.tolist())}")
    return tuple(counts.tolist())


def expect_integers(labels: np.ndarray, where: str) -> None:
    """Check that labels are integers in one axis.

    Raises:
        DataError: they are not.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: expected labels as integers of shape (n,), got {labels.dtype} {labels.shape}")


def reason(error: Exception) -> str:
    """Return an error as one line, to be quoted in another error message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def brief(items: Sequence[object]) -> str:
    """Return the first items as text, for an error message."""
    shown = ", ".join(map(str, items[:12]))
    return f"{shown}, … ({len(items)})" if len(items) > 12 else shown


def to_chw(shape: Sequence[int], where: str) -> Shape:
    """Return channels, height and width of images that are stored in an array of this shape.

    Three axes are NHW. Four axes are NHWC if the last has 1 or 3 entries, else NCHW.

    Raises:
        DataError: the array has another form.
    """
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[3], shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[1], shape[2], shape[3]
    raise DataError(f"{where}: expected images NHWC, NHW or NCHW with 1 or 3 channels, got shape {tuple(shape)}")
