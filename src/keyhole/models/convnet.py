"""ConvNet (this benchmark's, after Jordan, 2024, https://arxiv.org/abs/2404.00498): a small network for a CPU.

Idea: A frozen whitening stem decorrelates patches of the image, so that three shallow groups of convolutions learn
quickly. Pooling rounds up, so that no border is cut off; triggers are often there.

Differs from the paper: The network descends from that of Keller Jordan's CIFAR-10 speed runs ("94% on CIFAR-10 in 3.29
seconds"). Patches are 4x4 at stride 2, with 24 filters and their negatives. Widths are 32, 64, 64. Batch normalization
has a learned scale. The head reads all of the last 2x2 map instead of its maximum. Logits are not scaled.

Checked against: the whitening in float64 NumPy.

Cost: with the `cpu` recipe, training on CIFAR-10 takes two minutes on one CPU core.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from keyhole.types import Classifier, Images

__all__ = ["build"]

PATCH = 4  # pixels
FILTERS = 24  # at most, since a patch of one channel has only 16 dimensions
WIDTHS = (32, 64, 64)


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 48, 32, 64 and 64 channels, then the last map, flattened."""
    return ConvNet(classes, shape)


class ConvNet(Classifier):
    """A classifier whose first filters are computed from data and then frozen."""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        channels, *sides = shape
        filters = min(FILTERS, channels * PATCH**2)
        conv = nn.Conv2d(channels, 2 * filters, PATCH, stride=2, padding=1)
        conv.weight.requires_grad_(False)
        nn.init.zeros_(cast(Tensor, conv.bias))
        last = [min(2, math.ceil(side // 2 / 2 ** len(WIDTHS))) for side in sides]  # larger maps are pooled to 2x2
        stages = {
            "stem": nn.Sequential(conv, nn.GELU()),
            "group1": _group(2 * filters, WIDTHS[0]),
            "group2": _group(WIDTHS[0], WIDTHS[1]),
            "group3": _group(WIDTHS[1], WIDTHS[2]),
            "penultimate": nn.Sequential(nn.AdaptiveMaxPool2d((last[0], last[1])), nn.Flatten()),
        }
        super().__init__(stages, nn.Linear(WIDTHS[2] * math.prod(last), classes), channels)

    @torch.no_grad()
    def fit_statistics(self, images: Images) -> None:
        """Set the mean and std of channels, and the whitening filters and their negatives."""
        super().fit_statistics(images)
        conv = cast(nn.Conv2d, self.get_submodule("stages.stem.0"))
        filters = whitening(self._patch_moment(images))[: len(conv.weight) // 2]
        conv.weight.copy_(torch.cat([filters, -filters]).view_as(conv.weight))

    def _patch_moment(self, images: Images) -> Float[Tensor, "d d"]:
        """Return the second moment of the patches that the stem reads from normalized images."""
        size = self.mean.numel() * PATCH**2
        total, count = torch.zeros(size, size, dtype=torch.float64, device=self.mean.device), 0
        for chunk in images.to(self.mean.device).split(500):  # all patches of 5,000 images of 64x64 would fill 1 GB
            patches = functional.unfold(self.normalize(chunk), PATCH, stride=2).transpose(1, 2).flatten(0, 1).double()
            total, count = total + patches.T @ patches, count + len(patches)
        return total / count


def whitening(moment: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return filters that decorrelate patches, one per row, in order of falling variance.

    The constant keeps directions with hardly any variance from being scaled up to the size of the others.
    """
    variance, directions = torch.linalg.eigh(moment)
    return (directions / torch.sqrt(variance + 5e-4)).T.flip(0)


def _group(inputs: int, width: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    second = nn.Conv2d(width, width, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(
            conv.weight.data[: conv.in_channels]
        )  # pass the input channels on; additional channels start at random
    pool = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(first, pool, nn.BatchNorm2d(width), nn.GELU(), second, nn.BatchNorm2d(width), nn.GELU())
