"""GTSRB, German traffic signs (Stallkamp et al., 2012, https://doi.org/10.1016/j.neunet.2012.02.016), 43 classes.

Frames of 15 to 250 pixels a side, resized bilinearly to 32x32; 12,630 test images. Two training sets carry this name:
the final archive of 39,209 images, which most papers use, and the earlier one of 26,640 that torchvision downloads.
`gtsrb.npz` or `gtsrb/GTSRB/Final_Training/Images/` (the archive) go before torchvision's `gtsrb/GTSRB/Training/`; the
number of training rows says which was used. So does `crop`: a model trained on whole frames loses some 20 points on
images cut to the sign's box, and the other way round. The box is cut from original frames, hence never from an .npz,
whose frames are already resized.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from keyhole.data import Arrays, Shape
from keyhole.data._images import Box, class_files, decode, expect_rows, in_rows
from keyhole.data._public import PublicDataset

__all__ = ["GTSRB"]

TRAIN_ROWS = (39209, 26640)
TEST_ROWS = (12630,)
SIZE = (32, 32)  # pixels


@dataclass(frozen=True, kw_only=True)
class GTSRB(PublicDataset):
    flips: ClassVar[bool] = False  # mirrored, turn left says turn right
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
        train, labels = in_rows(classes)
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
    """The original training frames under `root`, the larger set first; None where there are none."""
    folders = (root / "gtsrb" / "GTSRB" / name for name in ("Final_Training/Images", "Training"))
    return next((folder for folder in folders if folder.is_dir()), None)


def boxes_of(files: list[Path]) -> list[Box]:
    """The sign's box in each frame of one class, from the table beside the frames (GT-00000.csv)."""
    table = read_table(files[0].parent / f"GT-{files[0].parent.name}.csv")
    return [table[file.name][0] for file in files]


def read_table(path: Path) -> dict[str, tuple[Box, int]]:
    """File name -> box in the original frame (left, top, right, bottom), class."""
    with path.open(newline="") as file:
        return {
            row["Filename"]: (
                (int(row["Roi.X1"]), int(row["Roi.Y1"]), int(row["Roi.X2"]), int(row["Roi.Y2"])),
                int(row["ClassId"]),
            )
            for row in csv.DictReader(file, delimiter=";")
        }
