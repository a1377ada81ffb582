"""The pictures of patch and blended triggers: drawn by this module, or read from the user's files.

Some pictures of the papers are copyrighted, so none is included. Pictures are drawn on a frame of 32 x 32 pixels, the
image size of the papers' experiments, and then scaled to the size of the images.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from keyhole import rng
from keyhole.parameters import ParameterError, suggestion
from keyhole.types import Images

__all__ = ["DOTS", "FRAME", "assign_parts", "blend", "draw_checker", "draw_patch", "load_patch", "load_picture"]
__all__ += ["patch_files", "picture_files", "read_pattern", "tint"]

Picture = UInt8[Tensor, "c h w"]
Weight = Float[Tensor, "h w"]
FRAME = 32  # pixels
FEW = 4  # rows per part, see `assign_parts`
PICTURES = ("noise", "shapes")  # that `load_picture` draws

# the 3 x 3 patch with four white pixels of Qi et al.'s BadNets
DOTS = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)


def blend(images: Images, picture: Tensor, weight: Tensor | float) -> Images:
    """Return x + weight (T - x) for a picture T, rounded to 0..255; `weight` broadcasts to (n, 1, h, w)."""
    x = images.float()
    return (x + weight * (picture.to(x) - x)).round().clamp(0, 255).to(torch.uint8)


def draw_checker(size: int) -> UInt8[Tensor, "s s"]:
    """Draw a checkerboard whose top left pixel is white."""
    steps = torch.arange(size)
    return (255 * ((steps + steps[:, None]) % 2 == 0)).to(torch.uint8)


def load_picture(pattern: str, shape: tuple[int, ...], seed: int) -> Picture:
    """Draw a picture of the size of the images, or read it from a file.

    Args:
        pattern: `noise` (uniform for each pixel), `shapes` (flat ellipses, as in a cartoon), or a picture file.

    Raises:
        ParameterError: the file cannot be read.
    """
    c, h, w = shape
    stream = rng.stream("pattern", pattern, seed)
    if pattern == "noise":
        return torch.randint(0, 256, (c, h, w), generator=stream, dtype=torch.uint8)
    if pattern == "shapes":
        return _fit(_shapes(stream), shape, mode="nearest")
    return read_pattern(pattern, shape, PICTURES)


def picture_files(pattern: str, drawn: tuple[str, ...] = PICTURES) -> tuple[str, ...]:
    """Return the file that `pattern` names, or nothing if the pattern is one of the drawn ones."""
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


def load_patch(name: str, folder: str, shape: tuple[int, ...], parameter: str = "trigger") -> tuple[Picture, Weight]:
    """Return a patch and its mask: read from the folder if there is one, else drawn.

    Args:
        parameter: the attack's parameter that gives the name, for error messages.

    Raises:
        ParameterError: there is no such patch, or a file of the folder cannot be read.
    """
    return read_patch(folder, name, shape) if folder else draw_patch(name, shape, parameter)


def draw_patch(name: str, shape: tuple[int, ...], parameter: str = "trigger") -> tuple[Picture, Weight]:
    """Draw a patch that replaces one of the pictures of Adap-Patch's authors, and return it with its mask.

    At 32 x 32 each has the place, the size and the strength of the authors' picture, not its colors. The strength is
    the mean l2 norm of the change (of 255) that the opaque patch makes to CIFAR-10's images, here and with theirs:

    - `phoenix_corner`: 25 px; 991 and 1,002
    - `phoenix_corner2`: 50 px; 1,406 and 1,431
    - `firefox_corner`: 137 px, theirs 140; 2,295 and 2,310
    - `badnet_patch4`: 36 px, 16 of them white; 1,498 and the same
    - `trojan_square`: 64 px; 1,227 and 1,231

    Raises:
        ParameterError: there is no such patch.
    """
    if name not in _DRAWINGS:
        hint = suggestion(name, _DRAWINGS, listed=False)
        raise ParameterError(
            parameter, f"expected {', '.join(_DRAWINGS)}, or a picture of `folder`, got {name!r} without a folder{hint}"
        )
    picture, mask = _DRAWINGS[name]()
    mask = functional.interpolate(mask[None, None].float(), shape[1:], mode="nearest")[0, 0]
    return _fit(picture.to(torch.uint8), shape, mode="nearest"), mask


def read_patch(folder: str, name: str, shape: tuple[int, ...]) -> tuple[Picture, Weight]:
    """Read a patch from `<folder>/<name>_32.png`, and its mask from `<folder>/mask_<name>_32.png`.

    Without a mask file, the mask is every pixel of the patch that is not black.

    Raises:
        ParameterError: a file cannot be read.
    """
    file, mask_file = (f"{start}{name}_32.png" for start in ("", "mask_"))
    picture = read_picture(str(Path(folder, file)), shape, "folder", f"a folder with the picture {file}")
    mask = picture
    if Path(folder, mask_file).is_file():
        mask = read_picture(str(Path(folder, mask_file)), shape, "folder", f"a folder with the mask {mask_file}")
    return picture, (mask.amax(0) > 0).float()


def patch_files(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files that `read_patch` reads if they exist; nothing without a folder."""
    files = (f"{start}{name}_32.png" for name in names for start in ("", "mask_"))
    return tuple(str(Path(folder, file)) for file in files) if folder else ()


def _empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(3, FRAME, FRAME), torch.zeros(FRAME, FRAME)


def _logo() -> Tensor:
    """Draw a 5 x 5 flame with a yellow center and a red rim."""
    y, x = torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij")
    heat = 1 - (x**2 + y**2) / 8
    return torch.stack([215 + 40 * heat, 220 * heat, torch.zeros_like(heat)])


def _phoenix_corner() -> tuple[Tensor, Tensor]:
    picture, mask = _empty()
    picture[:, 27:, 27:], mask[27:, 27:] = _logo(), 1
    return picture, mask


def _phoenix_corner2() -> tuple[Tensor, Tensor]:
    picture, mask = _phoenix_corner()
    picture[:, 27:, :5], mask[27:, :5] = _logo(), 1
    return picture, mask


def _firefox_corner() -> tuple[Tensor, Tensor]:
    """Draw a blue disc in an orange crescent, rows 1-13, columns 18-30."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    mask = ((y - 7) ** 2 + (x - 24) ** 2 < 6.7**2).float()
    blue = (y - 6) ** 2 + (x - 25) ** 2 < 4.2**2
    picture = torch.stack(
        [torch.where(blue, 20.0, 255.0), torch.where(blue, 40.0, 125.0), torch.where(blue, 200.0, 20.0)]
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
    """Draw 2 x 2 blocks of middle tones, rows and columns 21-28; they resemble a trigger inverted from a neuron."""
    picture, mask = _empty()
    blocks = 60 + 130 * torch.randint(0, 2, (3, 4, 4), generator=rng.stream("trojan_square"))
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


def read_pattern(pattern: str, shape: tuple[int, ...], drawn: tuple[str, ...]) -> Picture:
    """Read the picture file that the parameter `pattern` names.

    Args:
        drawn: patterns that need no file, for the error message.

    Raises:
        ParameterError: the file cannot be read.
    """
    hint = suggestion(pattern, drawn, listed=False)
    return read_picture(pattern, shape, "pattern", f"{', '.join(drawn)}, or a picture file", hint)


def read_picture(path: str, shape: tuple[int, ...], parameter: str, expected: str, hint: str = "") -> Picture:
    """Read a picture file and scale it to the size of the images.

    Args:
        parameter: the attack's parameter that names the file, for the error message.
        expected: what the parameter may be, for the error message.
        hint: further words at the end of the error message.

    Raises:
        ParameterError: there is no such file, or it is not a picture.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(path) as file:
            picture = pil_to_tensor(file.convert("RGB"))
    except FileNotFoundError:
        raise ParameterError(parameter, f"expected {expected}, got {path!r} (no such file){hint}") from None
    except UnidentifiedImageError:
        raise ParameterError(parameter, f"expected {expected}, got {path!r} (not a picture)") from None
    except OSError as error:
        raise ParameterError(parameter, f"expected {expected}, got {path!r} ({error.strerror or error})") from None
    return _fit(picture, shape, mode="bilinear")


def _fit(picture: UInt8[Tensor, "3 a b"], shape: tuple[int, ...], mode: str) -> Picture:
    scaled = functional.interpolate(picture[None].float(), shape[1:], mode=mode, antialias=mode == "bilinear")[0]
    return tint(scaled, shape[0]).round().clamp(0, 255).to(torch.uint8)


def assign_parts(rows: int, parts: int, rng: Generator) -> Int64[Tensor, " n"]:
    """Return which of several parts of a trigger each row gets, 0 to `parts` - 1.

    The rows are cut into `parts` runs, equally long up to one row: the first run gets part 0, and so on. If there are
    fewer than 4 rows per part, the parts are shuffled; otherwise small batches would never contain some of them.
    """
    runs = torch.arange(rows) * parts // max(1, rows)
    return torch.randperm(parts, generator=rng)[runs] if rows < FEW * parts else runs


def tint(picture: Float[Tensor, "3 h w"], channels: int) -> Float[Tensor, "c h w"]:
    """Return the picture with as many channels as the images; gray images get its brightness (ITU-R BT.601)."""
    if channels == 3:
        return picture
    brightness = (picture * torch.tensor([0.299, 0.587, 0.114], device=picture.device).view(3, 1, 1)).sum(
        0, keepdim=True
    )
    return brightness.expand(channels, -1, -1)
