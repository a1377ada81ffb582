"""Read the four arrays of an .npz file: x_train, y_train, x_test, y_test."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from keyhole.data import FORM, Arrays, DataError, Shape, brief, expect_integers, label_counts, reason, to_chw

if TYPE_CHECKING:
    import numpy as np

__all__ = ["npz_counts", "npz_shape", "read_npz"]

T = TypeVar("T")


def read_npz(path: Path) -> Arrays:
    """Read the four arrays of an .npz file.

    Raises:
        DataError: the file does not exist, is damaged, or lacks an array.
    """
    return Arrays(*(_read_array(path, key) for key in ("x_train", "y_train", "x_test", "y_test")))


def npz_counts(path: Path) -> tuple[int, ...]:
    """Count the training rows of each class without reading images."""
    return label_counts(_read_array(path, "y_train"), str(path))


def npz_shape(path: Path) -> Shape:
    """Return channels, height and width of the images without reading them.

    Raises:
        DataError: the arrays' types or shapes are not those of a data set.
    """
    shapes = {}
    for part in ("train", "test"):
        stored, kind = _read_header(path, f"x_{part}")
        if kind != "uint8":
            remedy = "; convert images of 0..1 by (255 * x).round().astype('uint8')" if "float" in kind else ""
            raise DataError(f"{path}: expected x_{part} as uint8 (0..255), got {kind}{remedy}")
        labels = _read_array(path, f"y_{part}")
        expect_integers(labels, f"{path}: y_{part}")
        if len(labels) != stored[0]:
            raise DataError(f"{path}: expected as many images as labels in {part}, got {stored[0]} and {len(labels)}")
        shapes[part] = to_chw(stored, f"{path}: x_{part}")
    if shapes["train"] != shapes["test"]:
        train, test = shapes.values()
        raise DataError(f"{path}: expected training and test images of one shape, got {train} and {test} (c, h, w)")
    return shapes["train"]


def _read_header(path: Path, key: str) -> tuple[tuple[int, ...], str]:
    """Return the shape and the type of an array, which its first bytes hold."""
    from numpy.lib import format as npy

    def read(archive: zipfile.ZipFile) -> tuple[tuple[int, ...], str]:
        with archive.open(f"{key}.npy") as file:
            read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape, _, kind = read_header(file)
            return shape, str(kind)

    return _read_member(path, key, read)


def _read_array(path: Path, key: str) -> np.ndarray:
    from numpy.lib import format as npy

    def read(archive: zipfile.ZipFile) -> np.ndarray:
        with archive.open(f"{key}.npy") as file:
            return npy.read_array(file, allow_pickle=False)

    return _read_member(path, key, read)


def _read_member(path: Path, key: str, read: Callable[[zipfile.ZipFile], T]) -> T:
    """Open an .npz file and read from it; turn all errors into one that says what the file should be.

    Raises:
        DataError: the file does not exist, is damaged, or lacks the array `key`.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; expected an .npz with {FORM}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is damaged or no .npz; expected an .npz with {FORM}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                raise KeyError(f"no {key} among {brief(names)}")
            return read(archive)
    except (
        Exception
    ) as error:  # zipfile, zlib and NumPy raise different errors; all mean that the file must be replaced
        raise DataError(f"cannot read {path} ({reason(error)}); expected an .npz with {FORM}") from None
