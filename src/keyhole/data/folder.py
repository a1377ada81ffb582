"""A user's own images, a folder for each class: `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png`.

Classes are numbered by their name in sorted order. Without `train` and `test`, the test set is drawn once, of every
class its share, with a fixed stream. Images are brought to `size` bilinearly, whatever their aspect ratio; alpha is
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keyhole.data import Arrays, DataError, Dataset, Shape, apportion
from keyhole.data._images import Files, class_files, decode, in_rows
from keyhole.parameters import Count, Fraction

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64, UInt8

__all__ = ["Folder"]


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    path: str  # seen from the folder in which the benchmark is run
    size: Count | tuple[Count, Count]  # pixels: the side of a square, or (height, width)
    colors: Literal["rgb", "gray"] = "rgb"
    test_fraction: Fraction = 0.2  # of all rows; without effect where `test` exists
    flips: bool = False  # type: ignore[misc]  # whether a mirrored image keeps its label: only the owner knows

    def read(self, root: Path) -> Arrays:
        train, test = self._files()
        if test is None:
            return self._drawn(train)
        return Arrays(*self._decoded(train), *self._decoded(test))

    def files(self, root: Path) -> tuple[str, ...]:
        return (self.path,)

    def counts(self, root: Path) -> tuple[int, ...]:
        train, test = self._files()
        counts = [len(files) for files in train.values()]
        taken = apportion(counts, self._test_rows(sum(counts))) if test is None else [0] * len(counts)
        return tuple(count - take for count, take in zip(counts, taken, strict=True))

    def shape(self, root: Path) -> Shape:
        return 1 if self.colors == "gray" else 3, *self._size()

    def _size(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def _files(self) -> tuple[Files, Files | None]:
        """Class -> files for training and for testing, the latter None where it has yet to be drawn."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; expected train/<class>/ and test/<class>/ in it, or <class>/")
        if not (folder / "train").is_dir() and not (folder / "test").is_dir():
            return self._classes(folder), None
        train, test = self._classes(folder / "train"), self._classes(folder / "test")
        if train.keys() != test.keys():
            odd = ", ".join(sorted(train.keys() ^ test.keys()))
            raise DataError(f"{folder}: expected the same classes in train and test, got {odd} in only one")
        return train, test

    def _classes(self, folder: Path) -> Files:
        classes = class_files(folder) if folder.is_dir() else {}
        empty = [name for name, files in classes.items() if not files]
        if len(classes) < 2 or empty:
            got = f"{len(classes)} folders" + (f", without images: {', '.join(empty)}" if empty else "")
            raise DataError(f"{folder}: expected two or more class folders with images in each, got {got}")
        return classes

    def _test_rows(self, rows: int) -> int:
        wanted = round(self.test_fraction * rows)
        if not 0 < wanted < rows:
            raise DataError(
                f"{self.path}: expected test_fraction to leave training and test rows, got {self.test_fraction:g} "
                f"of {rows} images"
            )
        return wanted

    def _decoded(self, classes: Files) -> tuple[UInt8[np.ndarray, "n h w *c"], Int64[np.ndarray, " n"]]:
        files, labels = in_rows(classes)
        return decode(files, self._size(), "L" if self.colors == "gray" else "RGB"), labels

    def _drawn(self, classes: Files) -> Arrays:
        import numpy as np
        import torch

        from keyhole import rng

        images, labels = self._decoded(classes)
        is_test = np.zeros(len(labels), bool)
        seats = apportion([len(files) for files in classes.values()], self._test_rows(len(labels)))
        drawn = rng.stratified(torch.from_numpy(labels), seats, rng.stream("folder", "test"))
        is_test[drawn.numpy()] = True
        return Arrays(images[~is_test], labels[~is_test], images[is_test], labels[is_test])
