"""MobileNet-V2 (Sandler, Howard, Zhu, Zhmoginov, Chen, 2018, https://arxiv.org/abs/1801.04381): inverted residuals.

Idea: The network is that of the paper's table 2. A block expands the channels by a 1x1 convolution, convolves each
channel separately, and projects by a 1x1 convolution without a ReLU.

Differs from the paper: The stem and the 24-channel blocks have stride 1, as is common on 32x32 images, so that these
end at 4x4. There is no dropout (torchvision: 0.2), since it would draw from torch's global generator.

Checked against: torchvision.models.mobilenet_v2, whose blocks it uses (shapes, and outputs with copied weights).
"""

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from keyhole.models import he_initialize
from keyhole.types import Classifier

__all__ = ["build"]


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with a level per resolution, of 24, 32, 96 and 1280 channels, then the average over pixels."""
    channels = shape[0]
    stages = {
        "stage1": nn.Sequential(
            _convolution(channels, 32, kernel_size=3), *_blocks(32, 16, 1, 1, expansion=1), *_blocks(16, 24, 2, 1)
        ),
        "stage2": nn.Sequential(*_blocks(24, 32, 3, 2)),
        "stage3": nn.Sequential(*_blocks(32, 64, 4, 2), *_blocks(64, 96, 3, 1)),
        "stage4": nn.Sequential(
            *_blocks(96, 160, 3, 2), *_blocks(160, 320, 1, 1), _convolution(320, 1280, kernel_size=1)
        ),
        "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    return he_initialize(Classifier(stages, nn.Linear(1280, classes), channels))


def _blocks(inputs: int, width: int, count: int, stride: int, expansion: int = 6) -> list[InvertedResidual]:
    first = InvertedResidual(inputs, width, stride, expansion)
    return [first, *(InvertedResidual(width, width, 1, expansion) for _ in range(count - 1))]


def _convolution(inputs: int, width: int, kernel_size: int) -> Conv2dNormActivation:
    return Conv2dNormActivation(inputs, width, kernel_size, activation_layer=nn.ReLU6)
