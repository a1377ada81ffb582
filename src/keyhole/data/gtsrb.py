"""GTSRB (Stallkamp et al., 2012, https://doi.org/10.1016/j.neunet.2012.02.016): German traffic signs, 43 classes.

Read: color frames of 15 to 250 pixels a side, resized bilinearly to 32x32; 12,630 test images. Two training sets have
this name: the final archive of 39,209 images, which most papers use, and an earlier one of 26,640 images, which
torchvision downloads. `gtsrb.npz` and `gtsrb/GTSRB/Final_Training/Images/` (the final archive) are preferred to
torchvision's `gtsrb/GTSRB/Training/`; the number of training rows says which one was read.

`crop: box` cuts images to the sign's box. It needs the original frames, so it never reads an .npz, whose frames are
already resized. Training and test images must be cut alike: a model trained on whole frames loses accuracy on boxes,
and the other way round.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from keyhole.data import Arrays, Shape
from keyhole.data._images import Box, class_files, decode, expect_rows, list_rows
from keyhole.data._public import PublicDataset

__all__ = ["GTSRB"]

TRAIN_ROWS = (39209, 26640)
TEST_ROWS = (12630,)
SIZE = (32, 32)  # pixels


@dataclass(frozen=True, kw_only=True)
class GTSRB(PublicDataset):
    flips: ClassVar[bool] = False  # mirroring turns "turn left" into "turn right"
    image: ClassVar[Shape | None] = (3, *SIZE)
    layout: ClassVar[str] = (
        "the official gtsrb/GTSRB/Final_Training/Images/ (or Training/), gtsrb/GTSRB/Final_Test/Images/ and "
        "gtsrb/GT-final_test.csv (crop: box needs these, an .npz holds no original frames)"
    )

    crop: Literal["frame", "box"] = "frame"  # the whole frame, or the sign's box

    def archive(self, root: Path) -> Path | None:
        return super().archive(root) if self.crop == "frame" else None

    def files(self, root: Path) -> tuple[str, ...]:
        return super().files(root) if self.crop == "frame" else ()

    def fetch(self, root: Path) -> Arrays:
        import numpy as np
        from torchvision import datasets

        if not training_folder(root):
            datasets.GTSRB(str(root), split="train", download=True)
        datasets.GTSRB(str(root), split="test", download=True)
        classes = class_files(training_folder(root) or root)
        train, labels = list_rows(classes)
        test = read_table(root / "gtsrb" / "GT-final_test.csv")
        folder = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
        expect_rows(len(train), TRAIN_ROWS, "training images")
        expect_rows(len(test), TEST_ROWS, "test images")
        train_boxes = test_boxes = None
        if self.crop == "box":
            train_boxes = [box for files in classes.values() for box in boxes_of(files)]
            test_boxes = [box for box, _ in test.values()]
        return Arrays(
            decode(train, SIZE, boxes=train_boxes),
            labels,
            decode([folder / name for name in test], SIZE, boxes=test_boxes),
            np.array([label for _, label in test.values()]),
        )

    def counts(self, root: Path) -> tuple[int, ...] | None:
        folder = training_folder(root)
        if self.archive(root) or not folder:
            return super().counts(root)
        return tuple(len(files) for files in class_files(folder).values())


def training_folder(root: Path) -> Path | None:
    """Return the folder of original training frames, that of the larger set if both exist; None if neither does."""
    folders = (root / "gtsrb" / "GTSRB" / name for name in ("Final_Training/Images", "Training"))
    return next((folder for folder in folders if folder.is_dir()), None)


def boxes_of(files: list[Path]) -> list[Box]:
    """Return the sign's box in each frame of one class, from the table beside the frames (such as GT-00000.csv)."""
    table = read_table(files[0].parent / f"GT-{files[0].parent.name}.csv")
    return [table[file.name][0] for file in files]


def read_table(path: Path) -> dict[str, tuple[Box, int]]:
    """Return file name -> the sign's box in the original frame and the class."""
    with path.open(newline="") as file:
        return {
            row["Filename"]: (
                (int(row["Roi.X1"]), int(row["Roi.Y1"]), int(row["Roi.X2"]), int(row["Roi.Y2"])),
                int(row["ClassId"]),
            )
            for row in csv.DictReader(file, delimiter=";")
        }
