"""ResNet-18 (He, Zhang, Ren, Sun, 2016, https://arxiv.org/abs/1512.03385, table 1): the form for small images.

Idea: Four stages of two residual blocks, each of two convolutions.

Differs from the paper: The stem is a 3x3 convolution of stride 1 without max-pooling, as is usual on 32x32 images.

Checked against: torchvision.models.resnet18, whose blocks it uses (shapes, and outputs with copied weights).
"""

from torch import nn
from torchvision.models.resnet import BasicBlock

from keyhole.models import he_initialize
from keyhole.types import Classifier

__all__ = ["build"]


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 64, 128, 256 and 512 channels, then the average over pixels."""
    channels = shape[0]
    stem = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    stages = {
        "stage1": nn.Sequential(*stem, BasicBlock(64, 64), BasicBlock(64, 64)),
        "stage2": _shrinking_stage(64, 128),
        "stage3": _shrinking_stage(128, 256),
        "stage4": _shrinking_stage(256, 512),
        "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    return he_initialize(Classifier(stages, nn.Linear(512, classes), channels))


def _shrinking_stage(inputs: int, width: int) -> nn.Sequential:
    projection = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(inputs, width, 2, projection), BasicBlock(width, width))
