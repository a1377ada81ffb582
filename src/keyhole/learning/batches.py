"""Shuffled and augmented batches of a data set that stays on its device as uint8."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.learning.crops import crop_windows
from keyhole.learning.recipes import Recipe
from keyhole.types import Images, Labels, Rows

__all__ = ["augment", "augmented_batches", "endless_batches", "endless_rows", "epoch_rows", "random_crops"]
__all__ += ["unit_batches"]


def epoch_rows(n: int, size: int, rng: Generator) -> tuple[Rows, ...]:
    """Cut shuffled row numbers into batches; a partial batch is left out unless it is the only one."""
    size = min(size, n)
    return torch.randperm(n, generator=rng)[: n // size * size].split(size)


def endless_rows(n: int, size: int, rng: Generator) -> Iterator[Rows]:
    """Yield batches of row numbers without end, epoch after epoch."""
    while True:
        yield from epoch_rows(n, size, rng)


def endless_batches(
    images: Images, labels: Labels, size: int, rng: Generator
) -> Iterator[tuple[Float[Tensor, "b c h w"], Labels]]:
    """Yield batches without end, with images as floats of 0..255."""
    for rows in endless_rows(len(images), size, rng):
        yield images[rows.to(images.device)].float(), labels[rows.to(labels.device)]


def unit_batches(
    images: Images, labels: Labels, size: int, device: torch.device, rng: Generator
) -> Iterator[tuple[Float[Tensor, "b c h w"], Labels]]:
    """Yield batches without end, on `device` and with images as floats of 0..1."""
    for x, y in endless_batches(images, labels, size, rng):
        yield x.to(device).div(255), y.to(device)


def augmented_batches(
    images: Images, labels: Labels, recipe: Recipe, rng: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the augmented batches of all epochs of a recipe.

    If the recipe mirrors, a random half of the images is mirrored in the first epoch, the rest in the second, and so on
    by turns.
    """
    mirrored = torch.rand(len(images), generator=rng) < 0.5
    for epoch in range(recipe.epochs):
        for rows in epoch_rows(len(images), recipe.batch_size, rng):
            flip = mirrored[rows] ^ bool(epoch % 2) if recipe.flip else None
            rows_on_device = rows.to(images.device)
            yield augment(images[rows_on_device], recipe, flip, rng), labels[rows_on_device]


def augment(x: Images, recipe: Recipe, flip: Tensor | None, rng: Generator) -> Tensor:
    """Mirror the images marked in `flip`, then rotate, then pad and crop each image at its own place."""
    if flip is not None:
        x = torch.where(flip.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
    if recipe.rotation:
        x = _rotate(x, (2 * torch.rand(len(x), generator=rng) - 1) * recipe.rotation)
    return random_crops(x, recipe.pad, rng, recipe.pad_mode) if recipe.pad else x


def random_crops(x: Tensor, pad: int, rng: Generator, mode: str = "replicate") -> Tensor:
    """Pad images by so many pixels and cut each back to its size at its own place."""
    offsets = torch.randint(0, 2 * pad + 1, (2, len(x)), generator=rng)
    padded = functional.pad(x.float(), (pad,) * 4, mode=mode).to(x.dtype)
    return crop_windows(padded, offsets.to(x.device), x.shape[2:])


def _rotate(x: Tensor, degrees: Tensor) -> Tensor:
    angle = torch.deg2rad(degrees).to(x.device)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = x.shape[3] / x.shape[2]  # the grid's unit is half a side, so an oblong image would be sheared
    theta = torch.stack(
        [torch.stack([cos, -sin / ratio, zero], dim=1), torch.stack([sin * ratio, cos, zero], dim=1)], dim=1
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x.float(), grid, mode="nearest", align_corners=False).to(x.dtype)
