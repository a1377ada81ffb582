"""An .npz file of the user's own data.

Read: the arrays x_train, y_train, x_test, y_test. Images are uint8, 0..255, gray or RGB; labels are integers 0..k-1.
Three axes are NHW. Four axes are NHWC if the last has 1 or 3 entries, else NCHW.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keyhole.data import Arrays, Dataset, Shape
from keyhole.data._archive import npz_counts, npz_shape, read_npz

__all__ = ["Npz"]


@dataclass(frozen=True, kw_only=True)
class Npz(Dataset):
    path: str  # of the .npz, relative to the folder in which the benchmark is run
    flips: bool = False  # type: ignore[misc]  # only the user knows whether a mirrored image keeps its label

    def read(self, root: Path) -> Arrays:
        return read_npz(Path(self.path).expanduser())

    def files(self, root: Path) -> tuple[str, ...]:
        return (self.path,)

    def counts(self, root: Path) -> tuple[int, ...]:
        return npz_counts(Path(self.path).expanduser())

    def shape(self, root: Path) -> Shape:
        return npz_shape(Path(self.path).expanduser())
