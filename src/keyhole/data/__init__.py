"""Data sets. One data set a file.

A data set hands over NumPy arrays as its files hold them; `keyhole.running.splits.load` brings them into one form and
checks them. The configuration asks for class sizes before any job runs, so nothing here imports torch before images
are read.
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
    """Data that cannot be had, or are not what they should be."""


@dataclass(frozen=True)
class Arrays:
    """A data set as its files hold it: images NHWC, NHW (gray) or NCHW."""

    x_train: UInt8[np.ndarray, "n ..."]
    y_train: Int[np.ndarray, " n"]
    x_test: UInt8[np.ndarray, "m ..."]
    y_test: Int[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True)
class Dataset(Checked, ABC):
    """Write `read`; write `counts` where class sizes can be had without reading images."""

    flips: ClassVar[bool] = False  # a mirrored image keeps its label, so training may mirror

    subset: Natural = 0  # training rows kept, of every class its share, the same in every run; 0 keeps all

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def read(self, root: Path) -> Arrays:
        """The whole data set; `root` is the folder that holds the named data sets."""

    def files(self, root: Path) -> tuple[str, ...]:
        """Return the user's own files and folders that `read` reads, whether they exist or not; an edit reads them
        again. Not those that are downloaded.
        """
        return ()

    def counts(self, root: Path) -> tuple[int, ...] | None:
        """Training rows per class, without importing torch; None where only the images would tell."""
        return None

    def shape(self, root: Path) -> Shape | None:
        """Channels, height and width of the images, without importing torch; None where only the images would tell."""
        return None

    def image_shape(self, data_dir: str | Path | None = None) -> Shape | None:
        """Channels, height and width of the images as `load` gives them; None where unknown."""
        return self.shape(data_root(data_dir))

    def class_sizes(self, data_dir: str | Path | None = None) -> tuple[int, ...] | None:
        """Training rows per class as `load` gives them, before a hold-out is cut; None where unknown.

        Raises:
            ValueError: `subset` asks for more rows than there are, or leaves a class without any.
        """
        counts = self.counts(data_root(data_dir))
        return None if counts is None else self.kept(counts)

    def kept(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Rows per class that `subset` keeps of so many."""
        if self.subset > sum(counts):
            raise ValueError(f"{self.name}: expected subset up to {sum(counts)} training rows, got {self.subset}")
        kept = apportion(counts, self.subset or sum(counts))
        if not all(kept):
            raise ValueError(
                f"{self.name}: expected subset to keep rows of all {len(counts)} classes (sizes {min(counts)} to "
                f"{max(counts)}), got {self.subset}, which leaves class {kept.index(0)} without any"
            )
        return kept


def data_root(data_dir: str | Path | None = None) -> Path:
    """The folder of the named data sets: `data_dir`, else the environment's KEYHOLE_DATA, else `data`."""
    return Path(data_dir or os.environ.get("KEYHOLE_DATA") or "data").expanduser()


def apportion(counts: Sequence[int], size: int) -> tuple[int, ...]:
    """`size` seats in proportion to `counts` by largest remainders (Hamilton's method); ties go to the lower class."""
    total = sum(counts)
    seats = [count * size // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -(counts[label] * size % total))
    for label in by_remainder[: size - sum(seats)]:
        seats[label] += 1
    return tuple(seats)


def label_counts(labels: Int[np.ndarray, " n"], where: str) -> tuple[int, ...]:
    """Rows per class.

    Raises:
        DataError: labels are not the integers 0..k-1, each at least once, k at least 2.
    """
    import numpy as np

    labels = np.asarray(labels)
    expect_integers(labels, where)
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < 2 or not np.array_equal(found, np.arange(len(found))):
        raise DataError(f"{where}: expected labels 0..k-1 without gaps (k at least 2), got {brief(found.tolist())}")
    return tuple(counts.tolist())


def expect_integers(labels: np.ndarray, where: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: expected labels as integers of shape (n,), got {labels.dtype} {labels.shape}")


def reason(error: Exception) -> str:
    """An error in one line, for the message that replaces it."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def brief(items: Sequence[object]) -> str:
    """The first few of many, for a message."""
    shown = ", ".join(map(str, items[:12]))
    return f"{shown}, … ({len(items)})" if len(items) > 12 else shown


def to_chw(shape: Sequence[int], where: str) -> Shape:
    """Channels, height and width of images stored in an array of this shape.

    Three axes are NHW; of four, the last holds channels if it has 1 or 3 entries (NHWC), else the second (NCHW).

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
