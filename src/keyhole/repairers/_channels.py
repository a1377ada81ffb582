"""Masks in 0..1 over the channels of all batch normalizations, and pruning of the channels with low masks."""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from keyhole.learning.holdout import accuracy, deepest_level, neurons
from keyhole.types import Evidence, Labels, Rows

__all__ = ["full_mask", "loss_with", "prune", "prune_by_threshold", "scale_channels"]

THRESHOLDS = [step / 20 for step in range(19)]  # 0, 0.05 .. 0.9, as in the released code of ANP


def full_mask(net: nn.Module) -> Float[Tensor, " d"]:
    """Return a mask of ones for the channels of all batch normalizations, one layer after another."""
    return torch.cat([torch.ones_like(norm.weight) for norm in neurons(net).values()]).detach()


def scale_channels(
    net: nn.Module, scale: Float[Tensor, " d"], bias: Float[Tensor, " d"] | None = None
) -> Mapping[str, Float[Tensor, " c"]]:
    """Multiply the scales of all batch normalizations, and their biases if factors are given, channel by channel.

    Return the products by parameter name.
    """
    weights, norms = {}, neurons(net)
    sizes = [norm.num_features for norm in norms.values()]
    for (name, norm), factor in zip(norms.items(), scale.split(sizes), strict=True):
        weights[f"{name}.weight"] = factor * norm.weight
    if bias is not None:
        for (name, norm), factor in zip(norms.items(), bias.split(sizes), strict=True):
            weights[f"{name}.bias"] = factor * norm.bias
    return weights


def loss_with(
    net: nn.Module, x: Float[Tensor, "b c h w"], y: Labels, weights: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the network with some of its weights replaced."""
    return functional.cross_entropy(functional_call(net, dict(weights), (x,)), y)


@torch.no_grad()
def prune(net: nn.Module, silent: Bool[Tensor, " d"]) -> nn.Module:
    """Return a copy, in eval mode, in which scale and bias of the `silent` channels are zero."""
    net = copy.deepcopy(net).eval()
    norms = neurons(net).values()
    for norm, cut in zip(norms, silent.split([norm.num_features for norm in norms]), strict=True):
        norm.weight[cut] = 0
        norm.bias[cut] = 0
    return net


def prune_by_threshold(evidence: Evidence, mask: Float[Tensor, " d"], judge: Rows, tolerance: float) -> nn.Module:
    """Return the victim without its channels of lowest mask.

    Cut as many as possible while the accuracy on the hold-out rows `judge` falls by `tolerance` at most.
    """

    def accuracy_without(silent: Tensor) -> float:
        return accuracy(prune(evidence.net, silent), images, labels)

    images, labels = evidence.holdout_images[judge], evidence.holdout_labels[judge]
    nothing = torch.zeros_like(mask, dtype=torch.bool)
    levels = [mask <= threshold for threshold in THRESHOLDS]
    silent = deepest_level(levels, accuracy_without, accuracy_without(nothing) - tolerance)
    return prune(evidence.net, nothing if silent is None else silent)
