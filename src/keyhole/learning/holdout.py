"""What methods that learn from the hold-out share: its division, accuracy, fine-tuning, pruning levels."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn

from keyhole.learning.recipes import Recipe
from keyhole.learning.training import fit, predict
from keyhole.types import Evidence, Images, Labels

__all__ = ["PAD", "accuracy", "deepest_level", "fine_tune", "neurons", "split_holdout"]

PAD = 4  # pixels around an image, for random crops


def split_holdout(
    evidence: Evidence, judges: float, rng: Generator
) -> tuple[Int64[Tensor, " learn"], Int64[Tensor, " judge"]]:
    """Draw hold-out rows to learn from, and a share of them that judges.

    Raises:
        ValueError: the hold-out is too small to be split.
    """
    n = len(evidence.holdout_images)
    count = round(judges * n)
    if not 0 < count < n:
        raise ValueError(f"expected some of the {n} hold-out images on each side of validation={judges:g}")
    order = torch.randperm(n, generator=rng).to(evidence.holdout_images.device)
    return order[count:], order[:count]


def accuracy(net: nn.Module, images: Images, labels: Labels) -> float:
    """Return the share of the images that get their label, in eval mode."""
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

    No mirrored images: whether one keeps its label is not part of the evidence.
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
    """Return the batch normalizations of a network by name.

    Each of their channels is a neuron (Wu & Wang 2021, section 4).

    Raises:
        ValueError: there are none, or they have no scale.
    """
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms or not all(module.affine for module in norms.values()):
        raise ValueError("expected a network with scaled batch normalization, whose channels can be masked")
    return norms


def deepest_level(levels: Sequence[Tensor], judge: Callable[[Tensor], float], least: float) -> Tensor | None:
    """The last of ever deeper pruning levels before accuracy first falls below `least`; None where the first does."""
    kept = None
    for level in levels:
        if judge(level) < least - 1e-9:
            break
        kept = level
    return kept
