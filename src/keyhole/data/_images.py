"""Read image files in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keyhole.data import DataError, reason

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64, UInt8

__all__ = ["Box", "Files", "class_files", "decode", "expect_rows", "list_rows"]

Files = Mapping[str, list[Path]]  # class name -> its image files
Box = tuple[int, int, int, int]  # pixels: left, top, right, bottom; the last two are exclusive

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def class_files(folder: Path) -> Files:
    """Return class name -> image files at any depth, classes and files sorted by name."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {
        entry.name: sorted(file for file in entry.rglob("[!.]*") if file.suffix.lower() in SUFFIXES)
        for entry in classes
    }


def list_rows(classes: Files) -> tuple[list[Path], Int64[np.ndarray, " n"]]:
    """Return all files in the order of the classes, and their labels."""
    import numpy as np

    sizes = [len(files) for files in classes.values()]
    return [file for files in classes.values() for file in files], np.repeat(np.arange(len(sizes)), sizes)


def decode(
    files: Sequence[Path],
    size: tuple[int, int],
    mode: Literal["RGB", "L"] = "RGB",
    boxes: Sequence[Box] | None = None,
) -> UInt8[np.ndarray, "n h w *c"]:
    """Read image files, cut each to its box, and resize them with Pillow's bilinear filter.

    Args:
        files: the image files.
        size: height and width of the result, pixels.
        mode: color or gray.
        boxes: the part of each image to use; None uses whole images.

    Raises:
        DataError: a file is damaged, or has more than 8 bits per channel, which Pillow would clip.
    """
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    height, width = size
    pixels = np.empty((len(files), height, width, 3) if mode == "RGB" else (len(files), height, width), np.uint8)
    for row, file in enumerate(tqdm(files, desc=f"read {files[0].parent}" if files else None, disable=None)):
        try:
            with Image.open(file) as image:
                deep = image.mode if image.mode.startswith(("I", "F")) else None
                box = boxes[row] if boxes else None
                pixels[row] = np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR, box))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise DataError(f"{file} is damaged or no image ({reason(error)})") from None
        if deep:
            raise DataError(f"{file}: expected 8 bits per channel, got Pillow's mode {deep}")
    return pixels


def expect_rows(found: int, expected: Sequence[int], what: str) -> None:
    """Check the number of rows, since an archive that was only half unpacked has its folder too.

    Args:
        found: the number of rows.
        expected: the numbers that are right.
        what: what the rows are, for the message.

    Raises:
        DataError: the number is not one of these.
    """
    if found not in expected:
        numbers = " or ".join(map(str, expected))
        raise DataError(f"expected {numbers} {what}, got {found}; remove the folder to have it unpacked again")
