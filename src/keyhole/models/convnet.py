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
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from keyhole.types import Classifier, Images

__all__ = ["ConvNet", "Plan", "build"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a network of this kind."""

    patch: int = 4  # pixels of a side of the stem's filters
    stride: int = 2  # of the stem
    padding: int = 1  # around the image, for the stem
    filters: int = 24  # at most, since a patch of one channel has only 16 dimensions
    widths: tuple[int, int, int] = (32, 64, 64)
    last: int = 2  # larger last maps are pooled to this side
    scaled: bool = True  # batch normalization learns a scale
    momentum: float = 0.1  # of the statistics of batch normalization


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 48, 32, 64 and 64 channels, then the last map, flattened."""
    return ConvNet(classes, shape, Plan())


class ConvNet(Classifier):
    """A classifier whose first filters are computed from data and then frozen."""

    def __init__(self, classes: int, shape: tuple[int, int, int], plan: Plan) -> None:
        self.plan = plan
        channels, *sides = shape
        filters = min(plan.filters, channels * plan.patch**2)
        conv = nn.Conv2d(channels, 2 * filters, plan.patch, stride=plan.stride, padding=plan.padding)
        conv.weight.requires_grad_(False)
        nn.init.zeros_(cast(Tensor, conv.bias))
        maps = [(side + 2 * plan.padding - plan.patch) // plan.stride + 1 for side in sides]
        last = [min(plan.last, math.ceil(side / 2 ** len(plan.widths))) for side in maps]
        stages = {
            "stem": nn.Sequential(conv, nn.GELU()),
            "group1": _group(2 * filters, plan.widths[0], plan),
            "group2": _group(plan.widths[0], plan.widths[1], plan),
            "group3": _group(plan.widths[1], plan.widths[2], plan),
            "penultimate": nn.Sequential(nn.AdaptiveMaxPool2d((last[0], last[1])), nn.Flatten()),
        }
        super().__init__(stages, nn.Linear(plan.widths[2] * math.prod(last), classes), channels)

    @torch.no_grad()
    def fit_statistics(self, images: Images) -> None:
        """Set the mean and std of channels, and the whitening filters and their negatives."""
        super().fit_statistics(images)
        conv = cast(nn.Conv2d, self.get_submodule("stages.stem.0"))
        filters = whitening(self._patch_moment(images))[: len(conv.weight) // 2]
        conv.weight.copy_(torch.cat([filters, -filters]).view_as(conv.weight))

    def _patch_moment(self, images: Images) -> Float[Tensor, "d d"]:
        """Return the second moment of the patches that the stem reads from normalized images."""
        size = self.mean.numel() * self.plan.patch**2
        total, count = torch.zeros(size, size, dtype=torch.float64, device=self.mean.device), 0
        for chunk in images.to(self.mean.device).split(500):  # all patches of 5,000 images of 64x64 would fill 1 GB
            patches = (
                functional.unfold(self.normalize(chunk), self.plan.patch, stride=2)
                .transpose(1, 2)
                .flatten(0, 1)
                .double()
            )
            total, count = total + patches.T @ patches, count + len(patches)
        return total / count


def whitening(moment: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return filters that decorrelate patches, one per row, in order of falling variance.

    The constant keeps directions with hardly any variance from being scaled up to the size of the others.
    """
    variance, directions = torch.linalg.eigh(moment)
    return (directions / torch.sqrt(variance + 5e-4)).T.flip(0)


def _group(inputs: int, width: int, plan: Plan) -> nn.Sequential:
    first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    second = nn.Conv2d(width, width, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(
            conv.weight.data[: conv.in_channels]
        )  # pass the input channels on; additional channels start at random
    norms = [nn.BatchNorm2d(width, momentum=plan.momentum) for _ in range(2)]
    for norm in norms:
        norm.weight.requires_grad_(plan.scaled)
    pool = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(first, pool, norms[0], nn.GELU(), second, norms[1], nn.GELU())
