"""CLP, Channel Lipschitzness-based Pruning (Zheng et al., 2022, https://arxiv.org/abs/2208.03111): cut without data.

A small trigger must move some channel far, so channels that can amplify much are suspected: each one's Lipschitz
constant is bounded (UCLC) by the largest singular value of its kernel times its batch normalization's slope. In every
layer, channels above mean + u standard deviations are cut: scale and bias zero. A layer needs more than u^2 + 1
channels for that to be possible. A convolution without batch normalization is left alone.
Differs from the released code (https://github.com/rkteddy/channel-Lipschitzness-based-pruning): the slope includes
batch normalization's epsilon. As there, a batch normalization belongs to the convolution defined last before it; in a
pre-activation network, where it may read the sum with a shortcut, that is one of the summands (a projection if any).
Checked against: singular values in float64 NumPy; a planted channel that drives the target class.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from keyhole.parameters import Positive
from keyhole.repairers import Repairer
from keyhole.types import Evidence, Told

__all__ = ["CLP"]


@dataclass(frozen=True, kw_only=True)
class CLP(Repairer):
    told: ClassVar[frozenset[Told]] = frozenset()

    u: Positive = 3.0  # standard deviations above the layer's mean

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: the network has no batch normalization with a scale after a convolution.
        """
        net = evidence.copy().eval()
        with torch.no_grad():
            for conv, norm in pairs(net):
                gone = outlying(lipschitz_bound(conv.weight, slope(norm)), self.u)
                norm.weight[gone] = 0
                norm.bias[gone] = 0
        return net


def pairs(net: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each batch normalization and the convolution defined last before it, where their channels agree.

    Raises:
        ValueError: there are none.
    """
    found, conv = [], None
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d) and module.affine and conv and conv.out_channels == module.num_features:
            found.append((conv, module))
    if not found:
        raise ValueError("expected a network with scaled batch normalization after convolutions, whose channels can go")
    return found


def slope(norm: nn.BatchNorm2d) -> Float[Tensor, " c"]:
    """How much each channel is amplified in eval mode."""
    assert norm.running_var is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def lipschitz_bound(kernel: Float[Tensor, "c i h w"], slope: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """UCLC: the spectral norm of each channel's inputs x pixels matrix, times the slope behind it."""
    return torch.linalg.matrix_norm(kernel.flatten(2), ord=2) * slope.abs()


def outlying(bounds: Float[Tensor, " c"], u: float) -> Bool[Tensor, " c"]:
    """Channels above mean + u standard deviations of their layer."""
    return bounds > bounds.mean() + u * bounds.std()
