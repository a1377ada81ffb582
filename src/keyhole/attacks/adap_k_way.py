"""Adap-K-Way (Qi et al., 2023, https://openreview.net/forum?id=_wSHsgrVali): single pixels, all of them at test time.

Idea: each planted row has one of four pixels overwritten: in ascending row order, the first quarter of the payload has
the first pixel, and so on (of fewer than 16 rows, which quarter gets which pixel is drawn). There are as many cover
rows, treated alike, which keep their label. At test time all four pixels are set. The authors print no result for this
attack.

Differs from the released code: rows of the target class are not drawn (see `Attack`). On images that are not 32 x 32,
the pixels keep their relative place and remain single pixels; in gray images they have the brightness of their color.

Checked against: a loop over rows.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from keyhole.attacks import Attack
from keyhole.attacks._triggers import FRAME, assign_parts, tint
from keyhole.parameters import Natural, ParameterError, Share
from keyhole.types import Images

__all__ = ["AdapKWay"]


@dataclass(frozen=True, kw_only=True)
class AdapKWay(Attack):
    pixels: tuple[tuple[Natural, Natural], ...] = (
        (16, 11),
        (27, 5),
        (7, 30),
        (22, 22),
    )  # row, column of 32 x 32
    colors: tuple[tuple[Natural, Natural, Natural], ...] = ((92, 0, 24), (88, 112, 110), (0, 32, 46), (11, 49, 95))
    conservatism: Share = 0.5  # eta: cover rows / (payload + cover rows)

    def check(self) -> None:
        if not self.pixels or len(self.pixels) != len(self.colors):
            got = f"{len(self.colors)} for {len(self.pixels)} pixels"
            raise ParameterError("colors", f"expected one color for each of pixels, at least one, got {got}")
        if max(map(max, self.pixels)) >= FRAME:
            raise ParameterError("pixels", f"expected rows and columns from 0 to {FRAME - 1}, got {self.pixels}")
        if max(map(max, self.colors)) > 255:
            raise ParameterError("colors", f"expected values from 0 to 255, got {self.colors}")

    @property
    def cover_ratio(self) -> float:
        return self.conservatism / (1 - self.conservatism)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        images = images.clone()
        rows, columns, colors = self._scale_pixels(images)
        images[:, :, rows, columns] = colors.mT
        return images

    def plant(self, images: Images, rng: Generator) -> Images:
        images = images.clone()
        rows, columns, colors = self._scale_pixels(images)
        n = torch.arange(len(images), device=images.device)
        quarter = assign_parts(len(images), len(self.pixels), rng).to(images.device)
        images[n, :, rows[quarter], columns[quarter]] = colors[quarter]
        return images

    def _scale_pixels(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows (k), columns (k) and colors (k x c) of the pixels in images of this size."""
        _, c, h, w = images.shape
        places = torch.tensor(self.pixels) * torch.tensor([h, w]) // FRAME
        colors = tint(torch.tensor(self.colors, dtype=torch.float32).T[:, None], c)[:, 0].T
        rows, columns = places.to(images.device).unbind(1)
        return rows, columns, colors.round().to(images)
