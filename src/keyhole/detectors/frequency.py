"""Frequency detector (Zeng et al., 2021, https://arxiv.org/abs/2104.03413): triggers leave traces in the spectrum.

Idea: A network learns to tell the cosine transform of clean images from that of the same images with made-up triggers:
a white block, a block of random colors, Gaussian noise, a shadow, another image laid over. It never uses the victim. A
row's score is the network's log-odds of a trigger.

Differs from the paper: The network is trained on the hold-out instead of 50,000 clean images. Each coefficient is
standardized by its mean and deviation over clean images. For speed, the network has half the paper's channels
(`width=32` is the paper's) and a pool in place of the second convolution; its size was chosen on CIFAR-10 test images
with made-up triggers. It is trained with AdamW instead of Adadelta and has no dropout. Block sizes scale with the
image.

Differs from the released code: Images are rounded to integers, not truncated. A shadow is one quadrilateral.

Checked against: scipy.fft.dctn, and triggers written out by hand.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from keyhole.detectors import Detector
from keyhole.learning import training
from keyhole.learning.recipes import Recipe
from keyhole.parameters import Count
from keyhole.rng import seeded
from keyhole.types import Evidence, Images, Suspicion, Told

__all__ = ["Frequency"]


@dataclass(frozen=True, kw_only=True)
class Frequency(Detector):
    looks_at = "images"
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    copies: Count = 3  # copies of each hold-out image, each with its own trigger
    epochs: Count = 2  # one epoch passes all copies
    width: Count = 16  # channels of the first convolution

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows for which a trigger is more probable than none.

        Raises:
            ValueError: there is no hold-out.
        """
        evidence.require_holdout()
        clean = evidence.holdout_images
        with seeded(rng):
            net = SpectrumNet(clean, self.width)
        net = net.to(training.device_of(evidence.net)).to(memory_format=torch.channels_last)
        repeated = clean.repeat(self.copies, 1, 1, 1)
        both = torch.cat([repeated, plant_triggers(repeated, rng)])
        labels = torch.arange(len(both), device=clean.device) // len(repeated)
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=128,
            optimizer="adamw",
            learning_rate=5e-3,
            weight_decay=0.05,
            schedule="linear",
            warmup=0.15,
            flip=False,  # mirroring an image changes its coefficients
            precision="float32",  # in bfloat16 the high frequencies are lost beside the mean brightness
        )
        training.fit(net, both, labels, recipe, rng)
        outputs = training.logits(net, evidence.images)
        scores = outputs[:, 1] - outputs[:, 0]
        return Suspicion(scores, scores > 0)


class SpectrumNet(nn.Module):
    """A classifier of images by their spectrum: the logits of clean and triggered."""

    rows: Tensor
    columns: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, clean: Images, width: int) -> None:
        super().__init__()
        _, c, h, w = clean.shape
        self.register_buffer("rows", cosines(h))
        self.register_buffer("columns", cosines(w))
        spectra = self.spectra(clean.cpu())
        self.register_buffer("mean", spectra.mean(0))
        self.register_buffer("std", spectra.std(0, correction=0).clamp(min=1.0))  # at least one gray level
        layers: list[nn.Module] = []
        channels = c
        for depth, convolutions in enumerate((1, 2, 2)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width << depth, 3, padding=1), nn.ELU(), nn.BatchNorm2d(width << depth)]
                channels = width << depth
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels * math.ceil(h / 8) * math.ceil(w / 8), 2)

    def spectra(self, images: Images) -> Float[Tensor, "n c h w"]:
        """Return the cosine transform (type II, orthonormal) of each channel."""
        return self.rows @ images.float() @ self.columns.mT

    def forward(self, images: Images) -> Float[Tensor, "n 2"]:
        return self.head(self.body((self.spectra(images) - self.mean) / self.std))


def cosines(size: int) -> Float[Tensor, "s s"]:
    """Return the matrix of the orthonormal type-II discrete cosine transform."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = math.sqrt(2 / size) * torch.cos(torch.pi / size * (k + 0.5) * k[:, None])
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def plant_triggers(images: Images, rng: Generator) -> Images:
    """Plant one of the five made-up triggers, drawn at random, in each image."""
    kind = torch.randint(5, (len(images),), generator=rng).to(images.device)
    out = images.clone()
    for number, change in enumerate((white_block, color_block, noise, shadow, overlay)):
        chosen = images[kind == number]
        changed = change(chosen.float(), images, rng)
        out[kind == number] = changed.round().clamp(0, 255).to(torch.uint8)
    return out


def white_block(x: Tensor, _images: Images, rng: Generator) -> Tensor:
    """Paint a block white."""
    return torch.where(block(x, rng), 255.0, x)


def color_block(x: Tensor, _images: Images, rng: Generator) -> Tensor:
    """Fill a block with random colors."""
    return torch.where(block(x, rng), 255 * torch.rand(x.shape, generator=rng).to(x.device), x)


def noise(x: Tensor, _images: Images, rng: Generator) -> Tensor:
    """Brighten by 25 and add Gaussian noise with a variance of 10 to 70."""
    std = (10 + 60 * torch.rand(len(x), 1, 1, 1, generator=rng)).sqrt()
    return x + (25 + std * torch.randn(x.shape, generator=rng)).to(x.device)


def shadow(x: Tensor, _images: Images, rng: Generator) -> Tensor:
    """Halve the brightness between two random lines through the lower half of the image."""
    n, _, h, w = x.shape
    ends = torch.rand(n, 2, 2, generator=rng).sort(2).values.to(x.device) * w  # at top and bottom, left and right
    down = torch.linspace(0, 1, h - h // 2, device=x.device).view(-1, 1)
    edges = ends[:, :1] + down * (ends[:, 1:] - ends[:, :1])
    columns = torch.arange(w, device=x.device) + 0.5
    dark = (columns > edges[:, :, :1]) & (columns < edges[:, :, 1:])
    upper, lower = x.split((h // 2, h - h // 2), dim=2)
    return torch.cat([upper, torch.where(dark[:, None], lower / 2, lower)], dim=2)


def overlay(x: Tensor, images: Images, rng: Generator) -> Tensor:
    """Add another image at 30 % of its brightness."""
    return x + 0.3 * images[torch.randint(len(images), (len(x),), generator=rng).to(images.device)].float()


def block(x: Tensor, rng: Generator) -> Tensor:
    """Draw the mask of a block for each image.

    In an image of 32 x 32 pixels its sides are 2 to 7 pixels long, and it lies 0 to 5 pixels from both borders of a
    corner.
    """
    n, _, h, w = x.shape
    margin, lines = torch.randint(6, (n, 1), generator=rng), []
    for side in (h, w):
        size = torch.randint(2, 8, (n, 1), generator=rng)
        start = (margin * side / 32).round()
        stop = start + (size * side / 32).round().clamp(min=1)
        place = torch.arange(side)
        line = (place >= start) & (place < stop)
        lines.append(torch.where(torch.rand(n, 1, generator=rng) < 0.5, line, line.flip(1)))
    return (lines[0][:, None, :, None] & lines[1][:, None, None, :]).to(x.device)
