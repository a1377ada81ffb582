"""The four arrays of an .npz: x_train, y_train, x_test, y_test."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from keyhole.data import FORM, Arrays, DataError, brief, label_counts, reason

if TYPE_CHECKING:
    import numpy as np

__all__ = ["npz_counts", "read_npz"]


def read_npz(path: Path) -> Arrays:
    """The four arrays of a user's own .npz.

    Raises:
        DataError: there is no such file, it is damaged, or an array is missing.
    """
    return Arrays(*(_member(path, key) for key in ("x_train", "y_train", "x_test", "y_test")))


def npz_counts(path: Path) -> tuple[int, ...]:
    """Training rows per class, reading no image."""
    return label_counts(_member(path, "y_train"), str(path))


def _member(path: Path, key: str) -> np.ndarray:
    import numpy as np

    if not path.is_file():
        raise DataError(f"no file {path}; expected an .npz with {FORM}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is damaged or no .npz; expected an .npz with {FORM}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if key not in archive.files:
                raise KeyError(f"no {key} among {brief(archive.files)}")
            return archive[key]
    except Exception as error:  # zip, zlib and NumPy each have their own; all mean the same file to replace
        raise DataError(f"cannot read {path} ({reason(error)}); expected an .npz with {FORM}") from None
