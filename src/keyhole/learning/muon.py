"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): all directions of a step count alike.

The update of a convolution is its momentum, read as a matrix of one row per output channel, with singular values pushed
towards 1. Before each step its weights get the length that their number of output channels gives them, so they need no
decay. All other weights move by SGD with Nesterov momentum.

Differs from the released code (https://github.com/KellerJordan/cifar10-airbench): Matrices are in float32.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Muon", "orthogonal"]

STEPS = (3.4445, -4.7750, 2.0315)  # coefficients of the odd polynomial that pushes singular values towards 1
ITERATIONS = 3
MOMENTUM, OTHERS_MOMENTUM = 0.6, 0.85
# rates of SGD on the mean loss of a batch, where Muon's is 0.12: those of the released code, whose loss is a sum over
# 250 images and whose logits are divided by 256
HEAD_RATE, SHIFT_RATE, USUAL = 0.67 * 250 / 256**2, 0.053 * 250, 0.12


class Muon(torch.optim.Optimizer):
    """Muon on convolutions, SGD on the head and on shifts; one schedule multiplies the rates of all."""

    def __init__(self, net: nn.Module, rate: float, weight_decay: float) -> None:
        trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
        head = [p for name, p in trained.items() if name.startswith("head.")]
        others = [p for name, p in trained.items() if not name.startswith("head.")]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim == 4], "lr": rate, "muon": True},
            {"params": head, "lr": HEAD_RATE * rate / USUAL, "muon": False},
            {"params": [p for p in others if p.ndim != 4], "lr": SHIFT_RATE * rate / USUAL, "muon": False},
        ]
        for group in groups:
            group["pull"] = weight_decay / group["lr"]  # to zero, for each unit of the rate
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, _closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            momentum = MOMENTUM if group["muon"] else OTHERS_MOMENTUM
            for p in (p for p in group["params"] if p.grad is not None):
                gradient = p.grad if group["muon"] else p.grad + group["pull"] * p
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                direction = gradient.add(velocity.mul_(momentum).add_(gradient), alpha=momentum)
                if group["muon"]:
                    p.mul_(math.sqrt(len(p)) / p.norm())
                    direction = orthogonal(direction.flatten(1)).view_as(p)
                p.add_(direction, alpha=-group["lr"])


def orthogonal(matrix: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """Return a matrix of the same singular vectors, with singular values near 1, by Newton and Schulz's iteration."""
    a, b, c = STEPS
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if len(x) <= x.shape[1] else x.T
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if len(x) <= x.shape[1] else wide.T
