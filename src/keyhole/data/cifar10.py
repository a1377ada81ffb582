"""CIFAR-10 (Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html): 60,000 color images of 32x32, 10 classes.

Read: the official split of 50,000 and 10,000, in the official order. torchvision downloads it and checks its md5 sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keyhole.data import Arrays, Shape
from keyhole.data._public import PublicDataset

__all__ = ["CIFAR10"]


@dataclass(frozen=True, kw_only=True)
class CIFAR10(PublicDataset):
    flips: ClassVar[bool] = True
    sizes: ClassVar[tuple[int, ...] | None] = (5000,) * 10
    image: ClassVar[Shape | None] = (3, 32, 32)
    layout: ClassVar[str] = "the unpacked official cifar-10-batches-py/"

    def fetch(self, root: Path) -> Arrays:
        import numpy as np
        from torchvision import datasets

        train, test = (datasets.CIFAR10(str(root), train=part, download=True) for part in (True, False))
        return Arrays(train.data, np.array(train.targets), test.data, np.array(test.targets))
