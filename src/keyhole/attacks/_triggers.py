"""Pictures that triggers are made of, all drawn here or read from a user's file; no copyrighted picture.

Drawn on a 32 x 32 frame, the size of the papers' experiments, and scaled to the images at hand.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from keyhole import rng
from keyhole.types import Images

__all__ = ["DOTS", "blend", "checker", "drawn_patch", "full_image", "in_parts", "patch", "patch_files"]
__all__ += ["picture_files", "read_picture", "tint"]

Picture = UInt8[Tensor, "c h w"]
Weight = Float[Tensor, "h w"]
FRAME = 32  # pixels
FEW = 4  # rows to a piece

# the four white pixels of BadNets' 3 x 3 patch
DOTS = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)


def blend(images: Images, picture: Tensor, weight: Tensor | float) -> Images:
    """X + weight (T - x), rounded to 0..255; `weight` broadcasts to (n, 1, h, w)."""
    x = images.float()
    return (x + weight * (picture.to(x) - x)).round().clamp(0, 255).to(torch.uint8)


def checker(size: int) -> UInt8[Tensor, "s s"]:
    """White and black in turn, white in the corners of an odd size."""
    steps = torch.arange(size)
    return (255 * ((steps + steps[:, None]) % 2 == 0)).to(torch.uint8)


def full_image(pattern: str, shape: tuple[int, ...], seed: int) -> Picture:
    """`noise` (uniform, per pixel), `shapes` (flat ellipses, as in a cartoon), or a picture file."""
    c, h, w = shape
    stream = rng.stream("pattern", pattern, seed)
    if pattern == "noise":
        return torch.randint(0, 256, (c, h, w), generator=stream, dtype=torch.uint8)
    if pattern == "shapes":
        return _fit(_shapes(stream), shape, mode="nearest")
    return read_picture(pattern, shape)


def picture_files(pattern: str, drawn: tuple[str, ...] = ("noise", "shapes")) -> tuple[str, ...]:
    """Return the file that a pattern names; none for one that is drawn."""
    return () if pattern in drawn else (pattern,)


def _shapes(stream: torch.Generator) -> UInt8[Tensor, "3 32 32"]:
    colors = torch.randint(0, 256, (9, 3, 1, 1), generator=stream)
    picture = colors[0].expand(3, FRAME, FRAME).clone()
    y, x = torch.meshgrid(torch.arange(FRAME), torch.arange(FRAME), indexing="ij")
    for color in colors[1:]:
        center = torch.randint(2, FRAME - 2, (2,), generator=stream)
        radius = torch.randint(3, 10, (2,), generator=stream)
        inside = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        picture = torch.where(inside, color, picture)
    return picture.to(torch.uint8)


def patch(name: str, folder: str, shape: tuple[int, ...]) -> tuple[Picture, Weight]:
    """Return a patch and its mask, from a folder where one is given, else drawn."""
    return file_patch(folder, name, shape) if folder else drawn_patch(name, shape)


def drawn_patch(name: str, shape: tuple[int, ...]) -> tuple[Picture, Weight]:
    """A stand-in for one of Adap-Patch's pictures, and its mask: same place and same number of pixels at 32 x 32.

    `phoenix_corner` (25 px), `phoenix_corner2` (50 px), `firefox_corner` (about 140 px), `badnet_patch4` (36 px, 16 of
    them white), `trojan_square` (64 px).

    Raises:
        ValueError: there is no such picture.
    """
    if name not in _DRAWINGS:
        raise ValueError(f"expected a trigger among {', '.join(_DRAWINGS)}, got {name!r}")
    picture, mask = _DRAWINGS[name]()
    mask = functional.interpolate(mask[None, None].float(), shape[1:], mode="nearest")[0, 0]
    return _fit(picture.to(torch.uint8), shape, mode="nearest"), mask


def file_patch(folder: str, name: str, shape: tuple[int, ...]) -> tuple[Picture, Weight]:
    """A patch from `<folder>/<name>_32.png`; its mask from `mask_<name>_32.png`, else every pixel that is not black."""
    picture = read_picture(str(Path(folder, f"{name}_32.png")), shape)
    mask_file = Path(folder, f"mask_{name}_32.png")
    mask = read_picture(str(mask_file), shape) if mask_file.is_file() else picture
    return picture, (mask.amax(0) > 0).float()


def patch_files(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files that `file_patch` reads or would read; none without a folder."""
    files = (f"{start}{name}_32.png" for name in names for start in ("", "mask_"))
    return tuple(str(Path(folder, file)) for file in files) if folder else ()


def _empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(3, FRAME, FRAME), torch.zeros(FRAME, FRAME)


def _logo() -> Tensor:
    """A 5 x 5 flame: yellow heart, red rim."""
    y, x = torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij")
    heat = 1 - (x**2 + y**2) / 8
    return torch.stack([120 + 135 * heat, 220 * heat, torch.full_like(heat, 20)])


def _phoenix_corner() -> tuple[Tensor, Tensor]:
    picture, mask = _empty()
    picture[:, 27:, 27:], mask[27:, 27:] = _logo(), 1
    return picture, mask


def _phoenix_corner2() -> tuple[Tensor, Tensor]:
    picture, mask = _phoenix_corner()
    picture[:, 27:, :5], mask[27:, :5] = _logo(), 1
    return picture, mask


def _firefox_corner() -> tuple[Tensor, Tensor]:
    """A blue disc in an orange crescent, rows 1-13, columns 18-30."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    mask = ((y - 7) ** 2 + (x - 24) ** 2 < 6.7**2).float()
    blue = (y - 6) ** 2 + (x - 25) ** 2 < 4.2**2
    picture = torch.stack(
        [torch.where(blue, 60.0, 240.0), torch.where(blue, 70.0, 130.0), torch.where(blue, 190.0, 30)]
    )
    return picture * mask, mask


def _badnet_patch4() -> tuple[Tensor, Tensor]:
    picture, mask = _empty()
    for rows, columns, dots in (
        (slice(0, 3), slice(0, 3), DOTS.flip(0, 1)),
        (slice(0, 3), slice(29, 32), DOTS.flip(0)),
        (slice(29, 32), slice(0, 3), DOTS.flip(1)),
        (slice(29, 32), slice(29, 32), DOTS),
    ):
        picture[:, rows, columns], mask[rows, columns] = dots.float(), 1
    return picture, mask


def _trojan_square() -> tuple[Tensor, Tensor]:
    """Saturated colors in 2 x 2 blocks, as inverted from a neuron, rows and columns 21-28."""
    picture, mask = _empty()
    blocks = 255 * torch.randint(0, 2, (3, 4, 4), generator=rng.stream("trojan_square"))
    picture[:, 21:29, 21:29] = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    mask[21:29, 21:29] = 1
    return picture, mask


_DRAWINGS = {
    "phoenix_corner": _phoenix_corner,
    "phoenix_corner2": _phoenix_corner2,
    "firefox_corner": _firefox_corner,
    "badnet_patch4": _badnet_patch4,
    "trojan_square": _trojan_square,
}


def read_picture(path: str, shape: tuple[int, ...]) -> Picture:
    """A picture file, scaled to the images.

    Raises:
        ValueError: there is no such file, or it is no picture.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(path) as file:
            picture = pil_to_tensor(file.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"expected a picture file, got {path!r}: {error}") from None
    return _fit(picture, shape, mode="bilinear")


def _fit(picture: UInt8[Tensor, "3 a b"], shape: tuple[int, ...], mode: str) -> Picture:
    scaled = functional.interpolate(picture[None].float(), shape[1:], mode=mode, antialias=mode == "bilinear")[0]
    return tint(scaled, shape[0]).round().clamp(0, 255).to(torch.uint8)


def in_parts(rows: int, pieces: int, rng: Generator) -> Int64[Tensor, " n"]:
    """Which of several pieces each row gets: the first part of the rows the first piece, and so on. Of few rows, which
    part gets which is drawn: in small batches some pieces would otherwise never be seen.
    """
    parts = torch.arange(rows) * pieces // max(1, rows)
    return torch.randperm(pieces, generator=rng)[parts] if rows < FEW * pieces else parts


def tint(picture: Float[Tensor, "3 h w"], channels: int) -> Float[Tensor, "c h w"]:
    """Colors for three channels; for one, their brightness (ITU-R BT.601)."""
    if channels == 3:
        return picture
    brightness = (picture * torch.tensor([0.299, 0.587, 0.114], device=picture.device).view(3, 1, 1)).sum(
        0, keepdim=True
    )
    return brightness.expand(channels, -1, -1)
