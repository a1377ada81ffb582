"""What FeatureRE and UNICORN share: a class to be reached by changed images through a few masked features."""

import copy
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning import generators, networks
from keyhole.learning.batches import unit_batches
from keyhole.learning.training import device_of, forward_batch
from keyhole.models import Classifier
from keyhole.types import Evidence, Images

__all__ = [
    "Bounds",
    "Measured",
    "Progress",
    "Task",
    "above",
    "adam",
    "adder",
    "bystanders",
    "descend",
    "mix_features",
    "shares",
]
__all__ += ["feature_deviation", "stamp_trigger", "tasks"]

adam = partial(torch.optim.Adam, betas=(0.5, 0.9))


class Bounds(NamedTuple):
    """What a trigger may be; or the weights of the penalties for exceeding it."""

    success: float = 1.0
    change: float = 1.0
    spread: float = 1.0
    size: float = 1.0


class Measured(NamedTuple):
    """What is measured of a batch."""

    cosine: Tensor  # of the mean features with the class's own
    error: Tensor  # cross-entropy with the class
    success: Tensor  # share of the images that reach it
    change: Tensor  # of the images
    spread: Tensor  # of the masked features
    size: Tensor  # of the feature mask


class Task(NamedTuple):
    """One class to be reached, by hold-out images of all others."""

    net: Classifier
    target: int
    images: Images  # of the other classes
    maps: Float[Tensor, "m d h w"]  # features of the whole hold-out, clean
    own: Bool[Tensor, " m"]  # which of them are the class's

    def epochs(self, count: int, samples: int, batch: int, rng: Generator) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """Numbered epochs of batches, as 0..1."""
        n, rows = len(self.images), torch.arange(len(self.images))
        draws = (x for x, _ in unit_batches(self.images, rows, batch, self.maps.device, rng))
        return ((number, islice(draws, max(1, min(samples or n, n) // batch))) for number in range(count))

    def error(self, outputs: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        return functional.cross_entropy(outputs, torch.full_like(outputs[:, 0], self.target, dtype=torch.int64))

    def measure(self, maps: Tensor, others: Tensor, mask: Float[Tensor, "d h w"], change: Tensor) -> Measured:
        outputs = self.net.classify(mix_features(maps, others, mask))
        success = (outputs.argmax(1) == self.target).to(outputs).mean()
        near = functional.cosine_similarity(maps.mean(0).flatten(), self.maps[self.own].mean(0).flatten(), dim=0)
        return Measured(near, self.error(outputs), success, change, feature_deviation(maps, mask), mask.sum())

    def mask_loss(self, maps: Tensor, others: Tensor, raw: Float[Tensor, "d h w"], size: float) -> Float[Tensor, ""]:
        mask = shares(raw)
        return self.error(self.net.classify(mix_features(maps, others, mask))) + above(mask.sum(), size, 1.0)


class Progress:
    """The weights of a class's penalties, its lowest mixed value, and what gave it."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.weights, self.value = bounds, Bounds(), float("inf")
        self.best: Any = None

    def objective(self, now: Measured, factor: float, floor: float = 0.0) -> Float[Tensor, ""]:
        """The cosine where it is above `floor`, and a penalty for each bound that is not kept."""
        bounds, weights = self.bounds, self.weights
        short = now.error * (1 + weights.success) * (now.success < bounds.success)
        wide = above(now.spread, bounds.spread, 10 * (1 + weights.spread))
        far = above(now.change, bounds.change, 10 * (1 + weights.change))
        return factor * now.cosine * (now.cosine > floor) + short + wide + far

    def close(self, seen: list[Measured], candidate: Any, other: float = 0.0) -> None:
        """Take in one epoch; `other` is an excess of the method's own."""
        near, _, success, *rest = (float(torch.stack(values).detach().mean()) for values in zip(*seen, strict=True))
        over = [max(value - bound, 0) / bound for value, bound in zip(rest, self.bounds[1:], strict=True)]
        self.weights = Bounds(max(self.bounds.success - success, 0) / self.bounds.success, *over)
        value = near - success + sum(over) + other  # the mixed value
        if value < self.value or self.best is None:
            self.value, self.best = value, copy.deepcopy(candidate)


@torch.no_grad()
def tasks(evidence: Evidence) -> list[Task]:
    """A task for every class.

    Raises:
        ValueError: the hold-out lacks a class, or all others.
    """
    evidence.require_holdout()
    net = evidence.frozen()
    images, labels, device = evidence.holdout_images, evidence.holdout_labels, device_of(net)
    maps = torch.cat([net.feature_maps(x.to(device)) for x in images.split(forward_batch(device))])
    counts = torch.bincount(labels, minlength=net.head.out_features)
    if not counts.all() or len(labels) - int(counts.max()) < 2:
        raise ValueError(f"expected hold-out images of each of {len(counts)} classes, got {counts.tolist()}")
    return [Task(net, k, images[labels != k], maps, (labels == k).to(device)) for k in range(len(counts))]


def adder(channels: int, width: int) -> generators.UNet:
    """A network that adds nothing to an image before it is trained."""
    net = generators.UNet(channels, channels, width)
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(cast(Tensor, net.last.bias))
    return net


def shares(raw: Tensor) -> Tensor:
    """A mask of 0..1 from free variables."""
    return (1 + raw.tanh()) / 2


def mix_features(
    maps: Float[Tensor, "n d h w"], others: Float[Tensor, "n d h w"], mask: Tensor
) -> Float[Tensor, "n d h w"]:
    """Take features inside the mask, and those of clean images outside."""
    return mask * maps + (1 - mask) * others


def bystanders(maps: Float[Tensor, "m d h w"], count: int, rng: Generator) -> Float[Tensor, "n d h w"]:
    """Features of clean images, drawn at random."""
    return maps[torch.randint(len(maps), (count,), generator=rng).to(maps.device)]


def feature_deviation(maps: Float[Tensor, "n d h w"], mask: Float[Tensor, "d h w"]) -> Float[Tensor, ""]:
    """Standard deviation over the images, a mean over the mask."""
    return (maps * mask).std(0).sum() / mask.sum()


def distance(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], std: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference of images of 0..1, in the network's own units."""
    return ((x - y) / std).square().mean()


def above(value: Float[Tensor, ""], bound: float, factor: float) -> Float[Tensor, ""]:
    """`factor` x value where it exceeds its bound, else 0."""
    return factor * value * (value > bound)


def descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """One step of the optimizer's own tensors; no gradient reaches any other."""
    moved = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
        parameter.grad = gradient
    optimizer.step()


def stamp_trigger(triggers: list[Any], device: torch.device, images: Images, target: int) -> Images:
    """Stamp images with the trigger of a class, which is a function of images of 0..1."""
    return networks.apply_to_images(triggers[target], images.to(device)).to(images.device)
