"""Attackers who control training: they draw payload and cover rows in every batch, after augmentation.

The training loop is plain training plus a list of `Part`s. A part may add a penalty to the victim's loss, and may train
something of its own after each step of the victim. A wrapper uses the parts of its base and adds its own, so a
regularizer works with any attack. The poison rate is the share of payload among the training rows that the victim sees.

Before such a training there is no poisoned set. Some defenses need one, so after training the rows that the poison rate
selects get the *final* trigger (`TrainingControl.materialize`). Results of detectors and of separability on this set
carry the flag `materialized`.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.attacks import Attack
from keyhole.attacks._wrapper import Wrapper
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import Loop
from keyhole.rng import forked
from keyhole.types import Classifier, Cover, Images, Labels, Poisoned, Rows

__all__ = [
    "CrossTrigger",
    "LearnedTrigger",
    "Part",
    "PoisonedBatch",
    "TrainingControl",
    "TrainingRun",
    "TrainingWrapper",
]
__all__ += ["draw_batch_rows", "poison_batch"]


@dataclass(frozen=True)
class PoisonedBatch:
    """A training batch with payload and cover rows."""

    images: Tensor  # (b, c, h, w), 0..255: uint8, or float while a trigger is learned
    labels: Int64[Tensor, " b"]  # the labels that the victim is trained on
    is_payload: Bool[Tensor, " b"]
    is_cover: Bool[Tensor, " b"]

    def clean_rows(self, label: int) -> Bool[Tensor, " b"]:
        """Return which rows have this label and no trigger."""
        return (self.labels == label) & ~self.is_payload & ~self.is_cover

    def payload_rows(self, label: int) -> Bool[Tensor, " b"]:
        """Return which rows are payload with this label."""
        return (self.labels == label) & self.is_payload


@dataclass(frozen=True)
class TrainingRun:
    """One training of a victim, as its parts see it."""

    net: Classifier
    images: Images  # the clean training set
    labels: Labels
    rate: float  # payload rows / all rows
    steps: int  # number of batches in the whole training
    rng: Generator  # used by the attacker only, so that all victims of a seed get the same batches

    @property
    def classes(self) -> int:
        return self.net.head.out_features


class Part:
    """One thing that the attacker does besides plain training; override the methods that it needs."""

    def penalty(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> Tensor | float:
        """Return a term to add to the victim's cross-entropy on this batch.

        Args:
            levels: the victim's activations on the batch, by level (`Classifier.levels`).
        """
        return 0.0

    def learn(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> None:
        """Take a training step of this part, after the victim's step on the batch."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the learned tensors that the final trigger needs."""
        return {}


class LearnedTrigger(Part):
    """A trigger that is learned while the victim is trained; each batch gets the trigger in its current state."""

    @abstractmethod
    def plant(self, x: Images, y: Labels, rows: Rows, cover: Cover) -> Tensor:
        """Return the batch as float images of 0..255, with the triggers of payload and cover rows.

        Args:
            x: the clean, augmented batch, with labels `y`.
            rows: row numbers of the payload.
            cover: row numbers of the cover.
        """


class TrainingControl(Attack):
    """An attack that runs the training; override `parts` to do more than plant the trigger.

    Without parts, each batch gets the trigger of `plant` and `plant_cover` in rows that are drawn for this batch.
    """

    controls = "training"
    paper_rate: ClassVar[float] = 0.1

    def parts(self, run: TrainingRun) -> list[Part]:
        """Return what the attacker does besides plain training; the parts act in this order."""
        return []

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        """Return the images of the cover rows with their trigger; `x` is the whole clean batch."""
        return self.plant_cover(x[cover], rng)

    def poison_rows(self, images: Images, labels: Labels, rows: Rows, cover: Cover, rng: Generator) -> Poisoned:
        """Return the rows and labels of the poisoned set; the images stay clean until `materialize`."""
        return self.assemble(images[rows], images[cover], labels, rows, cover)

    def materialize(self, images: Images, labels: Labels, poisoned: Poisoned, rng: Generator) -> Poisoned:
        """Return the poisoned set with the final trigger, after training.

        Args:
            images: the clean training set, with `labels`.
            poisoned: what `poison` returned: rows and labels, without the trigger.
        """
        rows, cover = poisoned.index[~poisoned.is_cover], poisoned.index[poisoned.is_cover]
        return super().poison_rows(images, labels, rows, cover, rng)

    def train(
        self, net: Classifier, images: Images, labels: Labels, poisoned: Poisoned, recipe: Recipe, rng: Generator
    ) -> dict[str, Tensor]:
        """Train `net` in place, and poison every batch on the way.

        Args:
            images: the clean training set, with `labels`.
            poisoned: only its share of payload rows is used, as the poison rate.

        Returns:
            The learned tensors that `equipped` later gives back to the attack.
        """
        attacker_rng = forked(rng)
        loop = Loop(net, images, labels, recipe, rng)
        rate = float((~poisoned.is_cover).sum()) / len(labels)
        run = TrainingRun(net, images, labels, rate, loop.steps, attacker_rng)
        parts = self.parts(run)
        for x, y in loop:
            batch = poison_batch(self, parts, run, x, y)
            with loop.half():
                levels = net.levels(batch.images)
                outputs = net.head(levels["penultimate"])
            loss = functional.cross_entropy(outputs.float(), batch.labels)
            loop.descend(loss + sum(part.penalty(levels, batch) for part in parts))
            for part in parts:
                part.learn(levels, batch)
        return {name: tensor for part in parts for name, tensor in part.tensors().items()}


class CrossTrigger(TrainingControl):
    """Training control in which each cover row gets the trigger of another image."""

    @abstractmethod
    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        """Return the images, each with the trigger that belongs to its donor."""

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        """Give each image the trigger of the image before it; a single image has no donor and stays unchanged."""
        return self.cross(images, images.roll(1, 0), rng) if len(images) > 1 else images.clone()

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        """Use as donor of a cover row the next row of the batch, whether clean, payload or cover."""
        return self.cross(x[cover], x[(cover + 1) % len(x)], rng)


@dataclass(frozen=True, kw_only=True)
class TrainingWrapper(Wrapper, TrainingControl):  # in this order, so that the base decides the fields
    """Training control that wraps another attack; a subclass adds its own parts to those of the base."""

    def parts(self, run: TrainingRun) -> list[Part]:
        inner = self.inner
        return inner.parts(run) if isinstance(inner, TrainingControl) else []

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        inner = self.inner
        if isinstance(inner, TrainingControl):
            return inner.plant_cover_in_batch(x, cover, rng)
        return super().plant_cover_in_batch(x, cover, rng)


def poison_batch(
    attack: TrainingControl, parts: Sequence[Part], run: TrainingRun, x: Images, y: Labels
) -> PoisonedBatch:
    """Return a clean, augmented batch with its payload and cover rows poisoned."""
    labels, rows, cover = draw_batch_rows(attack, run, y)
    is_payload, is_cover = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
    is_payload[rows], is_cover[cover] = True, True
    learned = next((part for part in parts if isinstance(part, LearnedTrigger)), None)
    if learned:
        return PoisonedBatch(learned.plant(x, y, rows, cover), labels, is_payload, is_cover)
    images = x.clone()
    if len(rows):
        images[rows] = attack.plant(x[rows], run.rng)
    if len(cover):
        images[cover] = attack.plant_cover_in_batch(x, cover, run.rng)
    return PoisonedBatch(images, labels, is_payload, is_cover)


def draw_batch_rows(attack: Attack, run: TrainingRun, y: Labels) -> tuple[Labels, Rows, Cover]:
    """Return the labels to train on, and the row numbers of payload and cover.

    Averaged over batches, the share of payload is the poison rate. A batch with too few eligible rows gets fewer.
    """
    labels, stream = y.cpu(), run.rng
    payload = round_at_random(run.rate * len(y), stream)
    covers = round_at_random(attack.cover_ratio * payload, stream)
    rows, cover = attack.draw_rows(labels, payload, covers, run.classes, stream)
    new_labels = labels.clone()
    new_labels[rows] = attack.relabel(labels[rows], run.classes)
    return new_labels.to(y.device), rows.to(y.device), cover.to(y.device)


def round_at_random(number: float, rng: Generator) -> int:
    """Round up or down at random, so that the mean of many results is the number."""
    return math.floor(number + float(torch.rand((), generator=rng)))
