"""Tiny-ImageNet (Le and Yang, 2015, http://cs231n.stanford.edu/tiny-imagenet-200.zip): 200 ImageNet classes, 64x64.

Read: 500 training images per class. The 10,000 official validation images are the test set, since the official test set
has no labels. Classes are numbered in the sorted order of their WordNet ids. The archive is checked against the md5 sum
that public loaders quote; the publisher gives none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keyhole.data import Arrays, Shape
from keyhole.data._images import class_files, decode, expect_rows, list_rows
from keyhole.data._public import PublicDataset

__all__ = ["TinyImageNet"]

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TRAIN_ROWS = (100_000,)
TEST_ROWS = (10_000,)
SIZE = (64, 64)  # pixels


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(PublicDataset):
    flips: ClassVar[bool] = True
    sizes: ClassVar[tuple[int, ...] | None] = (500,) * 200
    image: ClassVar[Shape | None] = (3, *SIZE)
    layout: ClassVar[str] = "the official tiny-imagenet-200.zip, or the same unpacked"

    def fetch(self, root: Path) -> Arrays:
        import numpy as np
        from torchvision.datasets import utils

        folder = root / "tiny-imagenet-200"
        if not folder.is_dir():
            utils.download_and_extract_archive(URL, str(root), md5=MD5)
        classes = class_files(folder / "train")
        numbers = {name: number for number, name in enumerate(classes)}
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        test = [line.split("\t")[:2] for line in lines]
        train, labels = list_rows(classes)
        expect_rows(len(train), TRAIN_ROWS, "training images")
        expect_rows(len(test), TEST_ROWS, "validation images")
        return Arrays(
            decode(train, SIZE),
            labels,
            decode([folder / "val" / "images" / name for name, _ in test], SIZE),
            np.array([numbers[wordnet_id] for _, wordnet_id in test]),
        )
