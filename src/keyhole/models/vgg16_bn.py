"""VGG-16 with batch normalization (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556): column D.

Idea: The network of column D in the paper's table 1 has thirteen 3x3 convolutions in five stages.

Differs from the paper: The differences are those of `vgg11_bn`.

Checked against: the convolutional part of torchvision.models.vgg16_bn (shapes, and outputs with copied weights).
"""

from keyhole.models.vgg11_bn import vgg
from keyhole.types import Classifier

__all__ = ["build"]


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 64, 128, 256, 512 and 512 channels, then the average over pixels."""
    return vgg(classes, shape, convolutions=(2, 2, 3, 3, 3))
