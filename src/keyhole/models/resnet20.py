"""ResNet-20 (He, Zhang, Ren, Sun, 2016, https://arxiv.org/abs/1512.03385, section 4.2): the paper's CIFAR-10 network.

Idea: Three stages of three residual blocks have 16, 32 and 64 channels. Shortcuts have no parameters (option A: every
second pixel, new channels zero). It is the victim of Qi et al. 2023 (https://openreview.net/forum?id=_wSHsgrVali).

Differs from the paper: No difference is known. Half of the new zero channels come before the old ones and half after
them, a choice that the paper leaves open.

Checked against: the paper's 0.27 million parameters (269,722 with batch normalization).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from keyhole.models import he_initialize
from keyhole.types import Classifier

__all__ = ["build"]


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters; the first block of a wider stage halves the resolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stride, self.new_channels = (1, 0) if inputs == width else (2, width - inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the block's maps."""
        half = self.new_channels // 2
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return torch.relu(shortcut + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 16, 32 and 64 channels, then the average over pixels."""
    channels = shape[0]
    stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    stages = {
        "stage1": nn.Sequential(*stem, Block(16, 16), Block(16, 16), Block(16, 16)),
        "stage2": nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32)),
        "stage3": nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64)),
        "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    return he_initialize(Classifier(stages, nn.Linear(64, classes), channels))
