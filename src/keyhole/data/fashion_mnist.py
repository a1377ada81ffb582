"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747): 70,000 gray images of clothes.

28x28, 10 classes.

Read: the official split of 60,000 and 10,000, from the four published idx files in `fashion_mnist/` (plain or .gz; the
Debian package `dataset-fashion-mnist` has them). If there is no such folder, torchvision downloads them.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from keyhole.data import Arrays, Shape
from keyhole.data._public import PublicDataset

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

__all__ = ["FashionMNIST"]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(PublicDataset):
    flips: ClassVar[bool] = True
    sizes: ClassVar[tuple[int, ...] | None] = (6000,) * 10
    image: ClassVar[Shape | None] = (1, 28, 28)
    layout: ClassVar[str] = "the four official idx files, plain or .gz, into its folder fashion_mnist/"

    def fetch(self, root: Path) -> Arrays:
        folder = root / "fashion_mnist"
        if folder.is_dir():
            return Arrays(*(read_idx(folder / name) for name in FILES))
        from torchvision import datasets

        train, test = (datasets.FashionMNIST(str(root), train=part, download=True) for part in (True, False))
        return Arrays(train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy())


def read_idx(path: Path) -> UInt8[np.ndarray, " *shape"]:
    """Read the array of an idx file of bytes, or of the file with `.gz` appended to its name.

    Format: two zeros, the type (8 = unsigned byte), the number of axes; the lengths of the axes as big-endian int32;
    then the values.

    Raises:
        ValueError: the file has another type, or is shorter or longer than its header says.
    """
    import numpy as np

    packed = path.with_name(f"{path.name}.gz")
    content = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
    if content[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path}: expected an idx file of unsigned bytes, got one that begins with {content[:3].hex()}"
        )
    axes = content[3]
    shape = tuple(np.frombuffer(content, ">i4", axes, offset=4).tolist())
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
