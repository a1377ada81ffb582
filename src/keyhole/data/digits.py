"""Digits (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49): 1,797 handwritten digits, gray, 8x8, 10 classes.

Read: scikit-learn's copy of these UCI data, so nothing is downloaded. Its 17 gray levels are scaled to 0..255, and
images are enlarged bilinearly to 16x16. The copy has no split: 360 test rows are drawn with a fixed random stream, the
same fraction of each class. Both parts keep scikit-learn's order.

Cost: a grid takes minutes on a laptop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keyhole.data import Arrays, Dataset, Shape, apportion

__all__ = ["Digits"]

ALL = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)  # rows per class, train and test together
TEST = 360
SIDE = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    flips: ClassVar[bool] = False  # a mirrored 2 is not a 2

    def read(self, root: Path) -> Arrays:
        import torch
        from sklearn.datasets import load_digits

        from keyhole import rng

        digits = load_digits()
        levels = torch.from_numpy(digits.images)[:, None] * (255 / 16)
        images = (
            torch.nn.functional.interpolate(levels, size=(SIDE, SIDE), mode="bilinear").round().byte()[:, 0].numpy()
        )
        is_test = torch.zeros(len(images), dtype=torch.bool)
        labels = torch.from_numpy(digits.target).long()
        is_test[rng.stratified(labels, apportion(ALL, TEST), rng.stream("digits", "test"))] = True
        train, test = ~is_test.numpy(), is_test.numpy()
        return Arrays(images[train], digits.target[train], images[test], digits.target[test])

    def counts(self, root: Path) -> tuple[int, ...]:
        return tuple(count - test for count, test in zip(ALL, apportion(ALL, TEST), strict=True))

    def shape(self, root: Path) -> Shape:
        return 1, SIDE, SIDE
