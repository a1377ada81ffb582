"""Data sets that are known by name and can be downloaded."""

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
    """A data set known by its name: `<name>.npz` where there is one, else what `fetch` finds or downloads."""

    sizes: ClassVar[tuple[int, ...] | None] = None  # training rows per class of what `fetch` gives
    image: ClassVar[Shape | None] = None  # channels, height, width of what `fetch` gives
    layout: ClassVar[str]  # what `fetch` finds under the root without downloading, for the error message

    @abstractmethod
    def fetch(self, root: Path) -> Arrays:
        """The data set in its publisher's files under `root`, downloaded where they are not there."""

    def archive(self, root: Path) -> Path | None:
        """The .npz that goes before the publisher's files, where there is one."""
        path = root / f"{self.name}.npz"
        return path if path.is_file() else None

    def files(self, root: Path) -> tuple[str, ...]:
        """Return the .npz, also where there is none: put there, it is read."""
        return (str(root / f"{self.name}.npz"),)

    def read(self, root: Path) -> Arrays:
        if archive := self.archive(root):
            return read_npz(archive)
        try:
            return self.fetch(root)
        except Exception as error:  # network, archive, checksum and decoder fail in a dozen ways, with one remedy
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
