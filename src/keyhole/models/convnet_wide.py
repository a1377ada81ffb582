"""ConvNet, wide (this benchmark's, after Jordan, 2024, https://arxiv.org/abs/2404.00498): CA above .9 on one CPU core.

Idea: The network of `convnet` with a stem of stride 1 and wide groups, whose convolutions are large enough for the
units of a processor that multiply matrices in bfloat16.

Differs from the paper: Widths, patches and statistics are those of its code at 94 %. Pooling rounds up, the head has a
bias and small weights instead of logits divided by 256, and batch normalization has the usual epsilon.

Checked against: the parameter count; `convnet`, whose code it is.
"""

import torch

from keyhole.models.convnet import ConvNet, Plan
from keyhole.types import Classifier

__all__ = ["build"]

PLAN = Plan(patch=2, stride=1, padding=0, filters=12, widths=(64, 256, 256), last=1, scaled=False, momentum=0.4)


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 24, 64, 256 and 256 channels, then the largest value of each channel."""
    net = ConvNet(classes, shape, PLAN)
    with torch.no_grad():
        net.head.weight.div_(net.head.weight.std() * net.head.in_features)
    return net
