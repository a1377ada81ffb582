"""The base of public data sets: read a local copy, or download it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keyhole.data import FORM, Arrays, DataError, Dataset, Shape, reason
from keyhole.data._archive import npz_counts, npz_shape, read_npz

__all__ = ["PublicDataset"]


@dataclass(frozen=True, kw_only=True)
class PublicDataset(Dataset):
    """A public data set, read from `<name>.npz` if there is one, else from files that `fetch` finds or downloads."""

    sizes: ClassVar[tuple[int, ...] | None] = None  # training rows per class that `fetch` returns
    image: ClassVar[Shape | None] = None  # channels, height and width of the images that `fetch` returns
    layout: ClassVar[str]  # files under the root from which `fetch` reads without a download, for the error message

    @abstractmethod
    def fetch(self, root: Path) -> Arrays:
        """Read the publisher's files under `root`; download them first if they are missing."""

    def archive(self, root: Path) -> Path | None:
        """Return the .npz file that is used in place of the publisher's files; None if there is none."""
        path = root / f"{self.name}.npz"
        return path if path.is_file() else None

    def files(self, root: Path) -> tuple[str, ...]:
        """Return the path of the .npz file even if there is none, since a new one changes what is read."""
        return (str(root / f"{self.name}.npz"),)

    def read(self, root: Path) -> Arrays:
        if archive := self.archive(root):
            return read_npz(archive)
        try:
            return self.fetch(root)
        except Exception as error:  # downloading, unpacking and decoding raise many errors; the remedy is the same
            raise DataError(
                f"{self.name}: neither found nor downloaded ({reason(error)}); put {self.name}.npz ({FORM}) into "
                f"{root}, or {self.layout}; data_dir or KEYHOLE_DATA names another folder"
            ) from None

    def counts(self, root: Path) -> tuple[int, ...] | None:
        archive = self.archive(root)
        return npz_counts(archive) if archive else self.sizes

    def shape(self, root: Path) -> Shape | None:
        archive = self.archive(root)
        return npz_shape(archive) if archive else self.image
