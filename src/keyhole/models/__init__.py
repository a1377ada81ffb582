"""Models: classifiers that normalize their input and have named levels. One architecture per file.

A model is a sequence of named stages and a linear head. The output of a stage is a *level*, where latents are read; the
last level, `penultimate`, is the input of the head.
"""

import importlib
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from keyhole.rng import seeded
from keyhole.types import Images

__all__ = ["Classifier", "build", "he_initialize", "level_names"]


class Classifier(nn.Module):
    """A network from images of 0..255 to logits; images are uint8, or float where a defense needs gradients."""

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Mapping[str, nn.Module], head: nn.Linear, channels: int) -> None:
        """Join `stages`, in order, and `head`; the last stage is called `penultimate` and returns (n, d)."""
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((channels, 1, 1), 0.25))
        self.stages = nn.ModuleDict(stages)
        self.head = head

    @property
    def level_names(self) -> tuple[str, ...]:
        """The names of the levels, first to last."""
        return tuple(self.stages)

    def normalize(self, images: Tensor) -> Float[Tensor, "n c h w"]:
        """Scale images of 0..255 to 0..1, then standardize each channel."""
        x = images.to(self.mean.dtype).div(255).sub(self.mean).div(self.std)
        return x.contiguous(memory_format=torch.channels_last)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations at each level, (n, c, h, w) or (n, d), by name and first to last."""
        x, activations = self.normalize(images), {}
        for name, stage in self.stages.items():
            x = activations[name] = stage(x)
        return activations

    def forward(self, images: Tensor) -> Float[Tensor, "n k"]:
        """Return the logits of images of 0..255."""
        return self.classify(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the last level before `penultimate`, which pools and flattens it, as (n, d, h, w)."""
        x = self.normalize(images)
        for stage in list(self.stages.values())[:-1]:
            x = stage(x)
        return x

    def classify(self, maps: Tensor) -> Float[Tensor, "n k"]:
        """Return the logits that the rest of the network gives for feature maps."""
        return self.head(list(self.stages.values())[-1](maps))

    def fit_statistics(self, images: Images) -> None:
        """Set what an architecture derives from data before training: by default the mean and std of channels."""
        pixels = images.float().div(255)
        self.mean.copy_(pixels.mean((0, 2, 3)).view_as(self.mean))
        self.std.copy_(pixels.std((0, 2, 3)).clamp(min=1e-3).view_as(self.std))


def he_initialize(net: Classifier) -> Classifier:
    """Draw the convolutions of `net` as in He et al. 2015, eq. 14 (https://arxiv.org/abs/1502.01852); return `net`."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def build(name: str, classes: int, images: Images, rng: Generator) -> Classifier:
    """Build a new network `keyhole.models.<name>`.

    Args:
        images: the clean training images. Their shape gives the size of the network. About 5,000 of them give the
            normalization, which all victims of a data set thus share; they are evenly spaced, since some data sets are
            sorted by class.
        rng: the only source of the weights. Torch's layers draw from the global generator, which is seeded from `rng`
            and then restored.
    """
    module = importlib.import_module(f"keyhole.models.{name}")
    with seeded(rng):
        net = module.build(classes, tuple(images.shape[1:]))
    net.fit_statistics(images[:: -(-len(images) // 5000)])
    return net.to(memory_format=torch.channels_last)


def level_names(name: str, classes: int, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Return the level names of a network `keyhole.models.<name>` without drawing its weights."""
    module = importlib.import_module(f"keyhole.models.{name}")
    with torch.device("meta"):  # tensors without values, which take no time and no memory
        return module.build(classes, shape).level_names
