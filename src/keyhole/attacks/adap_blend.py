"""Adap-Blend (Qi et al., 2023, https://openreview.net/forum?id=_wSHsgrVali): blending that leaves no latent cluster.

Idea: each planted row gets a random half of the 4 x 4 pieces of a picture, at a low opacity. There are as many cover
rows, which keep their label, as payload rows. At test time the whole picture is blended in, at a higher opacity.

Differs from the released code: this module draws the picture (the authors' picture can be given as a file); opacities
are those of the paper (0.15 and 0.2; the command line of the code leaves 0.2 for both); rows of the target class are
not drawn (see `Attack`).

Checked against: a loop over rows and pieces in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, load_picture, picture_files
from keyhole.parameters import Count, Fraction, Natural, Share
from keyhole.types import Images

__all__ = ["AdapBlend"]


@dataclass(frozen=True, kw_only=True)
class AdapBlend(Attack):
    paper_asr: ClassVar[float | None] = 0.765  # Table 1: CIFAR-10, ResNet-20, 150 payload and 150 cover rows

    alpha: Fraction = 0.2  # opacity at test time
    train_alpha: Fraction = 0.15  # opacity in the training set
    pieces: Count = 4  # per side of the image
    kept: Fraction = 0.5  # share of the pieces that a row gets
    conservatism: Share = 0.5  # eta: cover rows / (payload + cover rows)
    pattern: str = "noise"  # noise, shapes, or a picture file
    pattern_seed: Natural = 0

    def files(self) -> tuple[str, ...]:
        return picture_files(self.pattern)

    @property
    def cover_ratio(self) -> float:
        return self.conservatism / (1 - self.conservatism)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return blend(images, load_picture(self.pattern, tuple(images.shape[1:]), self.pattern_seed), self.alpha)

    def plant(self, images: Images, rng: Generator) -> Images:
        n, c, h, w = images.shape
        total = self.pieces**2
        rank = torch.rand(n, total, generator=rng).argsort(1).argsort(1)
        kept = (rank < round(self.kept * total)).view(n, 1, self.pieces, self.pieces)
        mask = kept[:, :, torch.arange(h) * self.pieces // h][..., torch.arange(w) * self.pieces // w]
        picture = load_picture(self.pattern, (c, h, w), self.pattern_seed)
        return blend(images, picture, self.train_alpha * mask.to(images.device))
