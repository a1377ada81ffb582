"""Adap-Blend (Qi et al., 2023, https://openreview.net/forum?id=_wSHsgrVali): blending that leaves no latent cluster.

Each planted row gets a random half of the picture's 4 x 4 pieces at a low opacity; as many cover rows as payload rows
keep their true label. At test time the whole picture comes at a higher opacity.
Differs from the released code: T is drawn here (theirs can be given as a file), opacities are the paper's (0.15 and
0.2; the code's command line leaves 0.2 for both), rows of the target class are not drawn (see `Attack`).
Checked against: a loop over rows and pieces in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from keyhole.attacks import Attack
from keyhole.attacks._triggers import blend, full_image, picture_files
from keyhole.parameters import Count, Fraction, Natural, Share
from keyhole.types import Images

__all__ = ["AdapBlend"]


@dataclass(frozen=True, kw_only=True)
class AdapBlend(Attack):
    paper_asr: ClassVar[float | None] = 0.765  # Table 1: CIFAR-10, ResNet-20, 150 payload and 150 cover rows

    alpha: Fraction = 0.2  # opacity at test time
    train_alpha: Fraction = 0.15  # opacity in the training set
    pieces: Count = 4  # per side
    kept: Fraction = 0.5  # share of the pieces planted in a row
    conservatism: Share = 0.5  # eta: cover rows / (payload + cover rows)
    pattern: str = "noise"  # noise, shapes, or a picture file
    pattern_seed: Natural = 0

    def files(self) -> tuple[str, ...]:
        return picture_files(self.pattern)

    @property
    def cover_ratio(self) -> float:
        return self.conservatism / (1 - self.conservatism)

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return blend(images, full_image(self.pattern, tuple(images.shape[1:]), self.pattern_seed), self.alpha)

    def plant(self, images: Images, rng: Generator) -> Images:
        n, c, h, w = images.shape
        total = self.pieces**2
        rank = torch.rand(n, total, generator=rng).argsort(1).argsort(1)
        kept = (rank < round(self.kept * total)).view(n, 1, self.pieces, self.pieces)
        mask = kept[:, :, torch.arange(h) * self.pieces // h][..., torch.arange(w) * self.pieces // w]
        picture = full_image(self.pattern, (c, h, w), self.pattern_seed)
        return blend(images, picture, self.train_alpha * mask.to(images.device))
