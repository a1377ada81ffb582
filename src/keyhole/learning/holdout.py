"""Shared steps of methods that learn from the hold-out: split it, fine-tune on it, judge pruning by it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn

from keyhole.learning.recipes import Recipe
from keyhole.learning.training import fit, predict
from keyhole.types import Evidence, Images, Labels

__all__ = ["PAD", "accuracy", "deepest_level", "fine_tune", "neurons", "split_holdout"]

PAD = 4  # pixels around an image before a random crop


def split_holdout(
    evidence: Evidence, judges: float, rng: Generator
) -> tuple[Int64[Tensor, " learn"], Int64[Tensor, " judge"]]:
    """Split the hold-out at random in rows to learn from and rows that judge, the share `judges` of all.

    Raises:
        ValueError: one of the parts would be empty.
    """
    n = len(evidence.holdout_images)
    count = round(judges * n)
    if not 0 < count < n:
        raise ValueError(f"expected validation to split the {n} hold-out images in two parts, got {judges:g}")
    order = torch.randperm(n, generator=rng).to(evidence.holdout_images.device)
    return order[count:], order[:count]


def accuracy(net: nn.Module, images: Images, labels: Labels) -> float:
    """Return the share of images that the network, in eval mode, gives their label."""
    return float((predict(net, images) == labels).float().mean())


def fine_tune(
    net: nn.Module,
    evidence: Evidence,
    *,
    epochs: int,
    learning_rate: float,
    batch: int = 128,
    pad: int = PAD,
    rng: Generator,
) -> None:
    """Train `net` in place on the hold-out: SGD with momentum, a fixed learning rate, random crops.

    Images are not mirrored, since the evidence does not say whether a mirrored image keeps its label.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch,
        optimizer="sgd",
        learning_rate=learning_rate,
        weight_decay=0.0,
        schedule="steps",
        flip=False,
        pad=pad,
    )
    fit(net, evidence.holdout_images, evidence.holdout_labels, recipe, rng)


def neurons(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return the batch normalizations by name; each of their channels is a neuron (Wu & Wang 2021, section 4).

    Raises:
        ValueError: there are none, or some have no scale.
    """
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms or not all(module.affine for module in norms.values()):
        raise ValueError("expected a network whose batch normalizations have a scale, got one without")
    return norms


def deepest_level(levels: Sequence[Tensor], judge: Callable[[Tensor], float], least: float) -> Tensor | None:
    """Return the last of ever deeper pruning levels before accuracy falls below `least`; None if the first does."""
    deepest = None
    for level in levels:
        if judge(level) < least - 1e-9:
            break
        deepest = level
    return deepest
