"""A folder of the user's own images, with one folder for each class.

Read: `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png`; other image formats too. Classes are numbered
in the sorted order of their names. Without `train` and `test`, the test set is drawn with a fixed random stream, the
same fraction of each class. Images are resized bilinearly to `size`, whatever their aspect ratio; the alpha channel is
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keyhole.data import Arrays, DataError, Dataset, Shape, apportion
from keyhole.data._images import Files, class_files, decode, list_rows
from keyhole.parameters import Count, Fraction

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64, UInt8

__all__ = ["Folder"]


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    path: str  # of the folder, relative to the folder in which the benchmark is run
    size: Count | tuple[Count, Count]  # pixels: the side of a square, or (height, width)
    colors: Literal["rgb", "gray"] = "rgb"
    test_fraction: Fraction = 0.2  # of all rows; without effect if `train` and `test` exist
    flips: bool = False  # type: ignore[misc]  # only the user knows whether a mirrored image keeps its label

    def read(self, root: Path) -> Arrays:
        train, test = self._files()
        if test is None:
            return self._draw_test_set(train)
        return Arrays(*self._decode(train), *self._decode(test))

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
        """Return class -> files for training and for testing; the second is None if the test set must be drawn."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; expected one with train/<class>/ and test/<class>/, or with <class>/")
        if not (folder / "train").is_dir() and not (folder / "test").is_dir():
            return self._classes(folder), None
        train, test = self._classes(folder / "train"), self._classes(folder / "test")
        if train.keys() != test.keys():
            unpaired = ", ".join(sorted(train.keys() ^ test.keys()))
            raise DataError(f"{folder}: expected the same classes in train and test, got {unpaired} in only one")
        return train, test

    def _classes(self, folder: Path) -> Files:
        classes = class_files(folder) if folder.is_dir() else {}
        empty = [name for name, files in classes.items() if not files]
        if len(classes) < 2 or empty:
            got = f"{len(classes)} folders" + (f", without images: {', '.join(empty)}" if empty else "")
            raise DataError(f"{folder}: expected two or more class folders with images in each, got {got}")
        return classes

    def _test_rows(self, rows: int) -> int:
        count = round(self.test_fraction * rows)
        if not 0 < count < rows:
            raise DataError(
                f"{self.path}: expected test_fraction to leave training and test rows, got {self.test_fraction:g} "
                f"of {rows} images"
            )
        return count

    def _decode(self, classes: Files) -> tuple[UInt8[np.ndarray, "n h w *c"], Int64[np.ndarray, " n"]]:
        files, labels = list_rows(classes)
        return decode(files, self._size(), "L" if self.colors == "gray" else "RGB"), labels

    def _draw_test_set(self, classes: Files) -> Arrays:
        import numpy as np
        import torch

        from keyhole import rng

        images, labels = self._decode(classes)
        is_test = np.zeros(len(labels), bool)
        sizes = apportion([len(files) for files in classes.values()], self._test_rows(len(labels)))
        rows = rng.stratified(torch.from_numpy(labels), sizes, rng.stream("folder", "test"))
        is_test[rows.numpy()] = True
        return Arrays(images[~is_test], labels[~is_test], images[is_test], labels[is_test])
