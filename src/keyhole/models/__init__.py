"""Models: one architecture a file, normalization inside, named levels.

A model is a sequence of named stages and a linear head. The output of each stage is a *level* at which latents are
read; the last level, `penultimate`, is the head's input.
"""

import importlib
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from keyhole.rng import seeded
from keyhole.types import Images

__all__ = ["Classifier", "build", "he_initialized", "level_names"]


class Classifier(nn.Module):
    """Images of 0..255 (uint8, or float where a defense wants gradients) -> logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Mapping[str, nn.Module], head: nn.Linear, channels: int) -> None:
        """`stages` in order; the last is called `penultimate` and returns (n, d)."""
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((channels, 1, 1), 0.25))
        self.stages = nn.ModuleDict(stages)
        self.head = head

    @property
    def level_names(self) -> tuple[str, ...]:
        return tuple(self.stages)

    def normalize(self, images: Tensor) -> Float[Tensor, "n c h w"]:
        x = images.to(self.mean.dtype).div(255).sub(self.mean).div(self.std)
        return x.contiguous(memory_format=torch.channels_last)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Level name -> activations, (n, c, h, w) or (n, d), in the order of the data's way."""
        x, activations = self.normalize(images), {}
        for name, stage in self.stages.items():
            x = activations[name] = stage(x)
        return activations

    def forward(self, images: Tensor) -> Float[Tensor, "n k"]:
        return self.classify(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> Tensor:
        """The last level before `penultimate` pools and flattens it, (n, d, h, w)."""
        x = self.normalize(images)
        for stage in list(self.stages.values())[:-1]:
            x = stage(x)
        return x

    def classify(self, maps: Tensor) -> Float[Tensor, "n k"]:
        """Logits from feature maps: the rest of the network."""
        return self.head(list(self.stages.values())[-1](maps))

    def fit_statistics(self, images: Images) -> None:
        """Set what an architecture derives from data before training; channel mean and std by default."""
        pixels = images.float().div(255)
        self.mean.copy_(pixels.mean((0, 2, 3)).view_as(self.mean))
        self.std.copy_(pixels.std((0, 2, 3)).clamp(min=1e-3).view_as(self.std))


def he_initialized(net: Classifier) -> Classifier:
    """`net` with its convolutions drawn as in He et al. 2015, eq. 14 (https://arxiv.org/abs/1502.01852)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def build(name: str, classes: int, images: Images, rng: Generator) -> Classifier:
    """A fresh network `keyhole.models.<name>` for images like these.

    `images` are the clean training images: their shape sizes the network, about 5,000 of them give the
    normalization (evenly spaced, as some data sets come sorted by class), so that all victims of a data set share it.
    Weights come from `rng` alone: torch's layers initialize from the global generator, which is set inside a fork and
    restored.
    """
    module = importlib.import_module(f"keyhole.models.{name}")
    with seeded(rng):
        net = module.build(classes, tuple(images.shape[1:]))
    net.fit_statistics(images[:: -(-len(images) // 5000)])
    return net.to(memory_format=torch.channels_last)


def level_names(name: str, classes: int, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The levels of a network `keyhole.models.<name>`, without drawing its weights."""
    module = importlib.import_module(f"keyhole.models.{name}")
    with torch.device("meta"):  # shapes without numbers: no time, no memory
        return module.build(classes, shape).level_names
