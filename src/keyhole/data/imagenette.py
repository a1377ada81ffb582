"""Imagenette (Howard, 2019, https://github.com/fastai/imagenette): ten ImageNet classes that are easy to tell apart.

Read: 9,469 training and 3,925 test images (the second split, of December 2019) of the version whose shorter side has
160 pixels, which torchvision downloads. The photographs have different shapes: the largest square in the middle of each
is resized bilinearly to 64x64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keyhole.data import Arrays, Shape
from keyhole.data._images import Box, class_files, decode, expect_rows, list_rows
from keyhole.data._public import PublicDataset

__all__ = ["Imagenette"]

TRAIN_ROWS = (9469,)
TEST_ROWS = (3925,)
SIZE = (64, 64)  # pixels


@dataclass(frozen=True, kw_only=True)
class Imagenette(PublicDataset):
    flips: ClassVar[bool] = True
    image: ClassVar[Shape | None] = (3, *SIZE)
    layout: ClassVar[str] = "the official imagenette2-160.tgz, or the same unpacked"

    def fetch(self, root: Path) -> Arrays:
        from torchvision import datasets

        datasets.Imagenette(str(root), size="160px", download=not folder_of(root).is_dir())
        train, train_labels = list_rows(class_files(folder_of(root) / "train"))
        test, test_labels = list_rows(class_files(folder_of(root) / "val"))
        expect_rows(len(train), TRAIN_ROWS, "training images")
        expect_rows(len(test), TEST_ROWS, "validation images")
        train_images = decode(train, SIZE, boxes=middle_squares(train))
        return Arrays(train_images, train_labels, decode(test, SIZE, boxes=middle_squares(test)), test_labels)

    def counts(self, root: Path) -> tuple[int, ...] | None:
        train = folder_of(root) / "train"
        if self.archive(root) or not train.is_dir():
            return super().counts(root)
        return tuple(len(files) for files in class_files(train).values())


def folder_of(root: Path) -> Path:
    """Return the folder into which the archive is unpacked."""
    return root / "imagenette2-160"


def middle_squares(files: Sequence[Path]) -> list[Box]:
    """Return the largest square in the middle of each image."""
    from PIL import Image

    boxes = []
    for file in files:
        with Image.open(file) as image:  # reads the header only
            width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        boxes.append((left, top, left + side, top + side))
    return boxes
