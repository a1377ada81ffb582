"""The 15 common corruptions of ImageNet-C (Hendrycks & Dietterich, 2019, https://arxiv.org/abs/1903.12261) in batches.

Severities 1 to 5 have the constants of CIFAR-10-C. Lengths in pixels grow with the shorter side of images above 32
pixels. Random fields have the size of one image and are shared by all images of a call, so that no image's result
depends on which other images are corrupted with it. Images may have any number of channels and any size from 2x2 on.

Differs from the code of CIFAR-10-C:
- shot noise is normal with the variance of Poisson noise, rounded to whole photons;
- glass blur copies pixels from neighbors all at once, where the original swaps them one after the other;
- motion blur draws its half Gaussian on an exact line, where ImageMagick rounds to pixels;
- zooms are exact, where the original rounds to whole pixels;
- fog and frost are sums of octaves of noise, not a diamond-square map and photographs of frosted glass;
- snow takes the mean of the channels as brightness;
- elastic transform has no affine part and its own constants, since those of CIFAR-10-C are not in order of severity;
- borders are replicated (reflected for Gaussian blurs), and pixels are rounded, not truncated.

Checked against: SciPy and Pillow, image by image.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from keyhole.types import Images

__all__ = ["NAMES", "SEVERITIES", "corrupt"]

Batch = Float[Tensor, "n c h w"]  # 0..1
Plane = Float[Tensor, "h w"]

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Images, name: str, severity: int, rng: Generator) -> Images:
    """Return the images under one corruption, with the same noise, angle, snow … for every image.

    Raises:
        ValueError: there is no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"expected name among {', '.join(NAMES)}, got {name}")
    if severity not in SEVERITIES:
        raise ValueError(f"expected severity from 1 to 5, got {severity}")
    function, constants = CORRUPTIONS[name]
    corrupted = function(images.float() / 255, constants[severity - 1], rng)
    return (corrupted.clamp(0, 1) * 255).round().to(torch.uint8)


def gaussian_noise(x: Batch, scale: float, rng: Generator) -> Batch:
    return x + scale * _normal(x, rng)


def shot_noise(x: Batch, photons: float, rng: Generator) -> Batch:
    rate = x * photons
    return (rate + rate.sqrt() * _normal(x, rng)).round() / photons


def impulse_noise(x: Batch, share: float, rng: Generator) -> Batch:
    where, salt = torch.rand((2, *x.shape[1:]), generator=rng).to(x.device)
    return torch.where(where < share, (salt < 0.5).to(x.dtype), x)


def defocus_blur(x: Batch, constants: tuple[float, float], _rng: Generator) -> Batch:
    radius, alias = constants
    radius *= _scale(x)
    reach = math.ceil(radius) + 1
    axis = torch.arange(-reach, reach + 1.0)
    disk = (axis.square() + axis.square()[:, None] <= radius**2).float()
    return _convolve(x, vision.gaussian_blur(disk[None], [3, 3], [alias, alias])[0])


def glass_blur(x: Batch, constants: tuple[float, int, int], rng: Generator) -> Batch:
    sigma, reach, times = constants
    sigma, reach, (h, w) = sigma * _scale(x), round(reach * _scale(x)), x.shape[2:]
    x = _blur(x, sigma)
    for _ in range(times):
        steps = torch.randint(-reach, reach, (2, h, w), generator=rng)
        rows = (torch.arange(h)[:, None] + steps[0]).clamp(0, h - 1)
        columns = (torch.arange(w) + steps[1]).clamp(0, w - 1)
        x = x[:, :, rows.to(x.device), columns.to(x.device)]
    return _blur(x, sigma)


def motion_blur(x: Batch, constants: tuple[float, float], rng: Generator) -> Batch:
    radius, sigma = (length * _scale(x) for length in constants)
    return _convolve(x, _streak(radius, sigma, 0.0, rng))


def zoom_blur(x: Batch, most: float, _rng: Generator) -> Batch:
    return (x + sum(_zoom(x, 1 + most * step / 10) for step in range(11))) / 12


def snow(x: Batch, constants: tuple[float, ...], rng: Generator) -> Batch:
    mean, std, zoom, floor, radius, sigma, kept = constants
    flakes = _zoom(mean + std * torch.randn((1, 1, *x.shape[2:]), generator=rng), zoom)
    flakes = flakes.where(flakes >= floor, 0).clamp(0, 1)
    flakes = _convolve(flakes, _streak(radius * _scale(x), sigma * _scale(x), -90.0, rng)).to(x.device)
    gray = x.mean(1, keepdim=True)
    return kept * x + (1 - kept) * torch.maximum(x, gray * 1.5 + 0.5) + flakes + flakes.flip(2, 3)


def frost(x: Batch, constants: tuple[float, float], rng: Generator) -> Batch:
    kept, amount = constants
    ridges = 1 - (2 * _octaves(x, 1.4, rng) - 1).abs()  # crystals grow along the middle level of a rough map
    return kept * x + amount * ridges**2


def fog(x: Batch, constants: tuple[float, float], rng: Generator) -> Batch:
    amount, decay = constants
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * _octaves(x, decay, rng)) * brightest / (brightest + amount)


def brightness(x: Batch, amount: float, _rng: Generator) -> Batch:
    """Raise the value in HSV; hue and saturation stay, since all channels grow by the same factor."""
    value = x.amax(1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-6), raised)


def contrast(x: Batch, kept: float, _rng: Generator) -> Batch:
    mean = x.mean((2, 3), keepdim=True)
    return mean + kept * (x - mean)


def elastic_transform(x: Batch, shift: float, rng: Generator) -> Batch:
    h, w = x.shape[2:]
    field = _convolve(torch.randn((1, 2, h, w), generator=rng), _bell(2 * _scale(x)))
    field = field / field.square().mean().sqrt().clamp(min=1e-6) * shift * _scale(x)  # pixels, root mean square
    return _sample(x, torch.arange(h)[:, None] + field[0, 0], torch.arange(w) + field[0, 1])


def pixelate(x: Batch, kept: float, _rng: Generator) -> Batch:
    """Replace every pixel by the mean of its block (a box filter down and up)."""
    return _blocks(x.shape[2], kept).to(x) @ x @ _blocks(x.shape[3], kept).to(x).mT


def jpeg_compression(x: Batch, quality: int, _rng: Generator) -> Batch:
    pixels = (x * 255).round().to(torch.uint8).cpu()
    if x.shape[1] not in (1, 3):  # JPEG has no other numbers of channels
        pixels = pixels.reshape(-1, 1, *x.shape[2:])
    return vision.jpeg(pixels, quality).reshape(x.shape).to(x) / 255


# for each severity: mean, deviation, zoom and floor of the flakes; radius and deviation of their streaks; share of the
# image that is kept
SNOW = (
    (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
    (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
)
# name -> function, and its constants for severities 1 to 5
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, Any, Generator], Tensor], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # standard deviation
    "shot_noise": (shot_noise, (500.0, 250.0, 100.0, 75.0, 50.0)),  # photons of a white pixel
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),  # share of the values
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),  # radius, softness
    "glass_blur": (glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (motion_blur, ((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5))),  # radius, deviation
    "zoom_blur": (zoom_blur, (0.05, 0.10, 0.15, 0.20, 0.25)),  # largest zoom - 1
    "snow": (snow, SNOW),
    "frost": (
        frost,
        ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),  # weight of the image, weight of the frost
    "fog": (fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),  # amount, decay of the octaves
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (elastic_transform, (0.3, 0.5, 0.7, 0.9, 1.2)),  # pixels
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),  # share of the pixels of a side
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),  # quality
}
NAMES = tuple(CORRUPTIONS)


def _scale(x: Tensor) -> float:
    """Return the length of a pixel of CIFAR-10-C in pixels of these images.

    It is at least 1, since blurs would vanish in smaller images.
    """
    return max(1.0, min(x.shape[2:]) / 32)


def _normal(x: Tensor, rng: Generator) -> Tensor:
    return torch.randn(tuple(x.shape[1:]), generator=rng).to(x)


def _octaves(x: Tensor, decay: float, rng: Generator) -> Plane:
    """Draw a cloudy map of 0..1: noise on finer and finer grids, each `decay` times weaker than the one before."""
    h, w = x.shape[2:]
    total = torch.zeros(1, 1, h, w)
    for octave in range(1, max(1, math.ceil(math.log2(max(h, w)))) + 1):
        grid = torch.randn((1, 1, 2**octave + 1, 2**octave + 1), generator=rng)
        total += functional.interpolate(grid, (h, w), mode="bilinear", align_corners=True) / decay**octave
    total -= total.min()
    return (total / total.max().clamp(min=1e-6))[0, 0].to(x)


def _bell(sigma: float) -> Plane:
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma).square())
    return weights[:, None] * weights


def _streak(radius: float, sigma: float, middle: float, rng: Generator) -> Plane:
    """Draw half a Gaussian on a line from the center, at a random angle at most 45 degrees from `middle`.

    Each point of the line is shared among four pixels.
    """
    angle = math.radians(middle + 90 * float(torch.rand((), generator=rng)) - 45)
    reach = math.ceil(radius)
    steps = torch.arange(reach + 1.0)
    weights = torch.exp(-0.5 * (steps / sigma).square())
    axis = torch.arange(-reach - 1, reach + 2.0)
    rows = (1 - (axis[:, None] - steps * math.sin(angle)).abs()).clamp(min=0)
    columns = (1 - (axis[:, None] - steps * math.cos(angle)).abs()).clamp(min=0)
    return (rows * weights) @ columns.T


def _convolve(x: Tensor, kernel: Plane) -> Tensor:
    n, c, h, w = x.shape
    reach = kernel.shape[0] // 2
    padded = functional.pad(x.reshape(n * c, 1, h, w), (reach,) * 4, mode="replicate")
    return functional.conv2d(padded, (kernel / kernel.sum())[None, None].to(x)).view(n, c, h, w)


def _blur(x: Tensor, sigma: float) -> Tensor:
    size = 2 * min(math.ceil(4 * sigma), min(x.shape[2:]) - 1) + 1  # a reflected border must be narrower than the image
    return vision.gaussian_blur(x, [size, size], [sigma, sigma])


def _sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read pixels at fractional places by bilinear interpolation."""
    h, w = x.shape[2:]
    grid = torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], dim=-1).to(x)
    return functional.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)


def _zoom(x: Tensor, zoom: float) -> Tensor:
    h, w = x.shape[2:]
    rows = (h - 1) / 2 + (torch.arange(h) - (h - 1) / 2) / zoom
    columns = (w - 1) / 2 + (torch.arange(w) - (w - 1) / 2) / zoom
    return _sample(x, rows[:, None].expand(h, w), columns.expand(h, w))


def _blocks(side: int, kept: float) -> Float[Tensor, "s s"]:
    """Return the matrix that averages the pixels of a line over each of its `kept` x `side` blocks."""
    block = ((torch.arange(side) + 0.5) * int(side * kept) / side).long()
    same = (block[:, None] == block).float()
    return same / same.sum(1, keepdim=True)
