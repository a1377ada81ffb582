"""Search for triggers that send images to a class through a few masked features: used by FeatureRE and UNICORN."""

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
from keyhole.types import Classifier, Evidence, Images

__all__ = [
    "Bounds",
    "Measurements",
    "Progress",
    "Task",
    "adam",
    "build_adder",
    "build_tasks",
    "descend",
    "distance",
    "draw_features",
    "feature_deviation",
    "mix_features",
    "penalize_excess",
    "squash",
    "stamp_trigger",
]

adam = partial(torch.optim.Adam, betas=(0.5, 0.9))


class Bounds(NamedTuple):
    """Bounds on a trigger, or the weights of the penalties for breaking them."""

    success: float = 1.0
    change: float = 1.0
    spread: float = 1.0
    size: float = 1.0


class Measurements(NamedTuple):
    """Measurements of a batch of images with the trigger."""

    cosine: Tensor  # between the batch's mean features and those of the class's clean images
    error: Tensor  # cross-entropy with the target class
    success: Tensor  # share of the images that reach the target class
    change: Tensor  # how far the trigger changes the images
    spread: Tensor  # standard deviation of the masked features
    size: Tensor  # sum of the feature mask


class Task(NamedTuple):
    """A target class, and the hold-out images of all other classes that a trigger has to send to it."""

    net: Classifier
    target: int
    images: Images  # of the other classes
    maps: Float[Tensor, "m d h w"]  # features of the whole hold-out, without a trigger
    in_class: Bool[Tensor, " m"]  # which of these images belong to the target class

    def epochs(self, count: int, samples: int, batch: int, rng: Generator) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """Return an iterator over epochs: the number of each epoch and its batches of images in 0..1."""
        n, rows = len(self.images), torch.arange(len(self.images))
        draws = (x for x, _ in unit_batches(self.images, rows, batch, self.maps.device, rng))
        return ((number, islice(draws, max(1, min(samples or n, n) // batch))) for number in range(count))

    def error(self, outputs: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        return functional.cross_entropy(outputs, torch.full_like(outputs[:, 0], self.target, dtype=torch.int64))

    def measure(self, maps: Tensor, others: Tensor, mask: Float[Tensor, "d h w"], change: Tensor) -> Measurements:
        outputs = self.net.classify(mix_features(maps, others, mask))
        success = (outputs.argmax(1) == self.target).to(outputs).mean()
        cosine = functional.cosine_similarity(maps.mean(0).flatten(), self.maps[self.in_class].mean(0).flatten(), dim=0)
        return Measurements(cosine, self.error(outputs), success, change, feature_deviation(maps, mask), mask.sum())

    def mask_loss(self, maps: Tensor, others: Tensor, raw: Float[Tensor, "d h w"], size: float) -> Float[Tensor, ""]:
        mask = squash(raw)
        return self.error(self.net.classify(mix_features(maps, others, mask))) + penalize_excess(mask.sum(), size, 1.0)


class Progress:
    """The search for one class: the weights of its penalties, its lowest mixed value and the trigger of that value."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.weights, self.value = bounds, Bounds(), float("inf")
        self.best: Any = None

    def objective(self, now: Measurements, factor: float, floor: float = 0.0) -> Float[Tensor, ""]:
        """Return the cosine where it is above `floor`, plus a penalty for each bound that is broken."""
        bounds, weights = self.bounds, self.weights
        for_misses = now.error * (1 + weights.success) * (now.success < bounds.success)
        for_spread = penalize_excess(now.spread, bounds.spread, 10 * (1 + weights.spread))
        for_change = penalize_excess(now.change, bounds.change, 10 * (1 + weights.change))
        return factor * now.cosine * (now.cosine > floor) + for_misses + for_spread + for_change

    def end_epoch(self, batches: list[Measurements], candidate: Any, other: float = 0.0) -> None:
        """Update the weights after an epoch, and keep a copy of the candidate if its mixed value is the lowest.

        `other` is the excess over a further bound of the method.
        """
        means = [float(torch.stack(values).detach().mean()) for values in zip(*batches, strict=True)]
        cosine, _, success, *limited = means
        excess = [max(value - bound, 0) / bound for value, bound in zip(limited, self.bounds[1:], strict=True)]
        self.weights = Bounds(max(self.bounds.success - success, 0) / self.bounds.success, *excess)
        value = cosine - success + sum(excess) + other  # the mixed value
        if value < self.value or self.best is None:
            self.value, self.best = value, copy.deepcopy(candidate)


@torch.no_grad()
def build_tasks(evidence: Evidence) -> list[Task]:
    """Build a task for every class.

    Raises:
        ValueError: the hold-out has no images of some class, or images of only one class.
    """
    evidence.require_holdout()
    net = evidence.frozen()
    images, labels, device = evidence.holdout_images, evidence.holdout_labels, device_of(net)
    maps = torch.cat([net.feature_maps(x.to(device)) for x in images.split(forward_batch(device, images))])
    counts = torch.bincount(labels, minlength=net.head.out_features)
    if not counts.all() or len(labels) - int(counts.max()) < 2:
        raise ValueError(
            f"expected hold-out images of each of {len(counts)} classes, got {counts.tolist()} images by class"
        )
    return [Task(net, k, images[labels != k], maps, (labels == k).to(device)) for k in range(len(counts))]


def build_adder(channels: int, width: int) -> generators.UNet:
    """Build a U-Net whose output is added to images, and which returns zeros until it is trained."""
    net = generators.UNet(channels, channels, width)
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(cast(Tensor, net.last.bias))
    return net


def squash(raw: Tensor) -> Tensor:
    """Map free variables to a mask in 0..1."""
    return (1 + raw.tanh()) / 2


def mix_features(
    maps: Float[Tensor, "n d h w"], others: Float[Tensor, "n d h w"], mask: Tensor
) -> Float[Tensor, "n d h w"]:
    """Combine features of images with the trigger, inside the mask, and of clean images, outside the mask."""
    return mask * maps + (1 - mask) * others


def draw_features(maps: Float[Tensor, "m d h w"], count: int, rng: Generator) -> Float[Tensor, "n d h w"]:
    """Draw the features of `count` clean images at random, with replacement."""
    return maps[torch.randint(len(maps), (count,), generator=rng).to(maps.device)]


def feature_deviation(maps: Float[Tensor, "n d h w"], mask: Float[Tensor, "d h w"]) -> Float[Tensor, ""]:
    """Return the standard deviation of the masked features over the images, averaged over the mask."""
    return (maps * mask).std(0).sum() / mask.sum()


def distance(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], std: Tensor) -> Float[Tensor, ""]:
    """Return the mean squared difference of images of 0..1, in units of the network's normalized input."""
    return ((x - y) / std).square().mean()


def penalize_excess(value: Float[Tensor, ""], bound: float, factor: float) -> Float[Tensor, ""]:
    """Return `factor` x value if the value exceeds its bound, else 0."""
    return factor * value * (value > bound)


def descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """Step down the loss with the tensors of the optimizer only; all others get no gradient."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


def stamp_trigger(triggers: list[Any], device: torch.device, images: Images, target: int) -> Images:
    """Put the trigger of a class on images; triggers are functions of images of 0..1."""
    return networks.apply_to_images(triggers[target], images.to(device)).to(images.device)
