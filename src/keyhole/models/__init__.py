"""Models: classifiers that normalize their input and have named levels. One architecture per file.

A model is a sequence of named stages and a linear head. The output of a stage is a *level*, where latents are read; the
last level, `penultimate`, is the input of the head.
"""

import importlib

import torch
from torch import Generator, nn

from keyhole.rng import seeded
from keyhole.types import Classifier, Images

__all__ = ["build", "he_initialize", "level_names"]


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
