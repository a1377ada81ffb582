"""The trigger of WaNet: a smooth warp, the same for all images; for each cover row, noise is added to the warp."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.attacks import Attack
from keyhole.parameters import Count, Natural, NonNegative, Positive
from keyhole.rng import stream
from keyhole.types import Images

__all__ = ["Warp"]

CHUNK = 2048  # images warped at a time, as floats


@dataclass(frozen=True, kw_only=True)
class Warp(Attack):
    cells: Count = 4  # k: number of random offsets per side
    strength: Positive = 0.5  # s: mean offset before upsampling, in half pixels
    cover_ratio: NonNegative = 2.0  # cover rows per payload row
    field_seed: Natural = 0  # of the warp, which is the same at training and test time

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        grid = self._grid(*images.shape[2:]).to(images.device)
        return torch.cat([_sample(x, grid.expand(len(x), -1, -1, -1)) for x in images.split(CHUNK)])

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        h, w = images.shape[2:]
        grid, side = self._grid(h, w), torch.tensor([w, h])
        warped = []
        for x in images.split(CHUNK):
            noise = 2 * torch.rand(len(x), h, w, 2, generator=rng) - 1
            warped.append(_sample(x, (grid + noise / side).clamp(-1, 1).to(x.device)))
        return torch.cat(warped)

    def _grid(self, h: int, w: int) -> Float[Tensor, "1 h w 2"]:
        """Return where each pixel of the warped image is read, as (x, y) from -1 to 1."""
        offsets = 2 * torch.rand(1, 2, self.cells, self.cells, generator=stream("wanet", self.field_seed)) - 1
        offsets = functional.interpolate(offsets / offsets.abs().mean(), (h, w), mode="bicubic", align_corners=True)
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        moved = torch.stack([x, y], 2) + self.strength * offsets.permute(0, 2, 3, 1) / torch.tensor([w, h])
        return moved.clamp(-1, 1)


def _sample(images: Images, grid: Float[Tensor, "n h w 2"]) -> Images:
    warped = functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=True)
    return warped.round().clamp(0, 255).to(torch.uint8)
