"""CLP, Channel Lipschitzness-based Pruning (Zheng et al., 2022, https://arxiv.org/abs/2208.03111): cut without data.

Idea: A small trigger must move some channel far, so channels that can amplify much are suspected. The Lipschitz
constant of a channel is bounded (UCLC) by the largest singular value of its kernel times the slope of its batch
normalization. In every layer, the channels above mean + u standard deviations are cut (scale and bias zero). This can
only happen in layers of more than u^2 + 1 channels. Convolutions without batch normalization stay unchanged.

Differs from the released code (https://github.com/rkteddy/channel-Lipschitzness-based-pruning): The slope includes
batch normalization's epsilon. As in the code, a batch normalization belongs to the convolution defined last before it.
In a pre-activation network, where it may read the sum with a shortcut, that is one of the summands (a projection if
there is one).

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

    u: Positive = 3.0  # standard deviations above the layer's mean from which a channel is cut

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Cut the channels with unusually large Lipschitz bounds.

        Raises:
            ValueError: the network has no batch normalization with a scale after a convolution.
        """
        net = evidence.copy().eval()
        with torch.no_grad():
            for conv, norm in find_pairs(net):
                cut = find_outliers(lipschitz_bound(conv.weight, slope(norm)), self.u)
                norm.weight[cut] = 0
                norm.bias[cut] = 0
        return net


def find_pairs(net: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """List each batch normalization after the convolution defined last before it, if their channels agree.

    Raises:
        ValueError: the network has no such pair.
    """
    pairs, conv = [], None
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d) and module.affine and conv and conv.out_channels == module.num_features:
            pairs.append((conv, module))
    if not pairs:
        raise ValueError("expected a network with scaled batch normalization after convolutions, got one without")
    return pairs


def slope(norm: nn.BatchNorm2d) -> Float[Tensor, " c"]:
    """Return the factor by which batch normalization multiplies each channel in eval mode."""
    assert norm.running_var is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def lipschitz_bound(kernel: Float[Tensor, "c i h w"], slope: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Return UCLC: the spectral norm of each channel's inputs x pixels matrix, times its slope."""
    return torch.linalg.matrix_norm(kernel.flatten(2), ord=2) * slope.abs()


def find_outliers(bounds: Float[Tensor, " c"], u: float) -> Bool[Tensor, " c"]:
    """Mark the channels above mean + u standard deviations of their layer."""
    return bounds > bounds.mean() + u * bounds.std()
