"""VGG-11 with batch normalization (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556): column A.

Idea: The network of column A in the paper's table 1 has five stages of 3x3 convolutions, with max-pooling before each
but the first. The level of a stage is its last ReLU, before pooling: on 32x32 images 256x8x8 (stage3), 512x4x4
(stage4), 512x2x2 (stage5).

Differs from the paper: Convolutions are followed by batch normalization. One linear layer on the average over pixels
replaces three layers. Initialization is He's. Pooling rounds up, so that 16x16 images keep a pixel and no border is cut
off; triggers are often there.

Checked against: the convolutional part of torchvision.models.vgg11_bn (shapes, and outputs with copied weights).
"""

from collections.abc import Sequence

from torch import nn

from keyhole.models import he_initialize
from keyhole.types import Classifier

__all__ = ["build"]


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 64, 128, 256, 512 and 512 channels, then the average over pixels."""
    return vgg(classes, shape, convolutions=(1, 1, 2, 2, 2))


def vgg(classes: int, shape: tuple[int, int, int], convolutions: Sequence[int]) -> Classifier:
    """Build a network with the given numbers of convolutions in its five stages (the paper's table 1)."""
    channels = inputs = shape[0]
    stages = {}
    for number, (width, count) in enumerate(zip((64, 128, 256, 512, 512), convolutions, strict=True), start=1):
        layers: list[nn.Module] = [_pool()] if number > 1 else []
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
        stages[f"stage{number}"] = nn.Sequential(*layers)
    stages["penultimate"] = nn.Sequential(_pool(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return he_initialize(Classifier(stages, nn.Linear(inputs, classes), channels))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)
