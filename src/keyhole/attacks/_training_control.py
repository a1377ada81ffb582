"""Attackers who run the training themselves: payload and cover are drawn anew in every batch, after augmentation.

What such an attacker does beside plain training is a list of `Part`s: each may add a penalty to the victim's loss and
learn beside the victim. A wrapper's parts are its base's and its own, so that a regularizer works with any attack. The
poison rate is the payload's share of the training rows that the victim sees.

No poisoned set exists before such a training. For defenses that look at one, the rows of the rate get the *final*
trigger afterwards (`TrainingControl.materialize`); detectors' and separability's rows are then flagged `materialized`.
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
from keyhole.models import Classifier
from keyhole.rng import forked
from keyhole.types import Cover, Images, Labels, Poisoned, Rows

__all__ = ["CrossTrigger", "LearnedTrigger", "Mixed", "Part", "Setting", "TrainingControl", "TrainingWrapper"]
__all__ += ["draw", "mix"]


@dataclass(frozen=True)
class Mixed:
    """A batch with its poison."""

    images: Tensor  # (b, c, h, w), 0..255: uint8, or float where a trigger is being learned
    labels: Int64[Tensor, " b"]  # to train on
    is_payload: Bool[Tensor, " b"]
    is_cover: Bool[Tensor, " b"]

    def clean_rows(self, label: int) -> Bool[Tensor, " b"]:
        """Rows of a class without any trigger."""
        return (self.labels == label) & ~self.is_payload & ~self.is_cover

    def payload_rows(self, label: int) -> Bool[Tensor, " b"]:
        """Payload that is trained to answer with a class."""
        return (self.labels == label) & self.is_payload


@dataclass(frozen=True)
class Setting:
    """What the parts of a training work with."""

    net: Classifier
    images: Images  # the clean training set
    labels: Labels
    rate: float  # payload rows / all rows
    steps: int  # batches of the whole training
    rng: Generator  # a stream of the attacker's own: all victims of a seed share their batches

    @property
    def classes(self) -> int:
        return self.net.head.out_features


class Part:
    """Something that adds to the victim's loss, or learns beside the victim; override what it does."""

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        """Return what is added to the victim's cross-entropy.

        Args:
            levels: the victim's activations on the batch (`Classifier.levels`).
        """
        return 0.0

    def learn(self, levels: dict[str, Tensor], mixed: Mixed) -> None:
        """Take a step of its own, after the victim's step on the batch."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what the final trigger needs."""
        return {}


class LearnedTrigger(Part):
    """A trigger that learns beside the victim, and is planted as it is so far."""

    @abstractmethod
    def plant(self, x: Images, y: Labels, rows: Rows, cover: Cover) -> Tensor:
        """Return a batch, float images of 0..255, with the triggers of payload rows and cover rows."""


class TrainingControl(Attack):
    """Override `parts`, or nothing: the attack's own trigger is then planted anew in every batch."""

    controls = "training"
    paper_rate: ClassVar[float] = 0.1

    def parts(self, setting: Setting) -> list[Part]:
        """Return what is done beside plain training, in the order in which it is done."""
        return []

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        """Return the cover rows of a clean batch with what they get."""
        return self.plant_cover(x[cover], rng)

    def poison_rows(self, images: Images, labels: Labels, rows: Rows, cover: Cover, rng: Generator) -> Poisoned:
        """Return rows and labels as they will be; the images wait for the trigger that training ends with."""
        return self.assemble(images[rows], images[cover], labels, rows, cover)

    def materialize(self, images: Images, labels: Labels, poisoned: Poisoned, rng: Generator) -> Poisoned:
        """Give the rows of `poisoned` the final trigger, on a clean training set; for an attack that has learned it."""
        rows, cover = poisoned.index[~poisoned.is_cover], poisoned.index[poisoned.is_cover]
        return super().poison_rows(images, labels, rows, cover, rng)

    def train(  # type: ignore[override]  # of the base class, which takes any network
        self, net: Classifier, images: Images, labels: Labels, poisoned: Poisoned, recipe: Recipe, rng: Generator
    ) -> dict[str, Tensor]:
        """Train `net` in place on batches that are poisoned anew; of `poisoned` only the share of payload is used.

        Args:
            images, labels: the clean training set.

        Returns:
            Tensors learned with the victim, to be given back through `equipped`.
        """
        own = forked(rng)
        loop = Loop(net, images, labels, recipe, rng)
        rate = float((~poisoned.is_cover).sum()) / len(labels)
        setting = Setting(net, images, labels, rate, loop.steps, own)
        parts = self.parts(setting)
        for x, y in loop:
            mixed = mix(self, parts, setting, x, y)
            with loop.half():
                levels = net.levels(mixed.images)
                outputs = net.head(levels["penultimate"])
            loss = functional.cross_entropy(outputs.float(), mixed.labels)
            loop.descend(loss + sum(part.penalty(levels, mixed) for part in parts))
            for part in parts:
                part.learn(levels, mixed)
        return {name: tensor for part in parts for name, tensor in part.tensors().items()}


class CrossTrigger(TrainingControl):
    """Cover rows get the trigger that belongs to another image."""

    @abstractmethod
    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        """Return images with the triggers of as many others."""

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        """Give each image the trigger of the one before it; a single image has no other and is left unchanged."""
        return self.cross(images, images.roll(1, 0), rng) if len(images) > 1 else images.clone()

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        """Take as donors the rows behind the cover rows, of whatever kind."""
        return self.cross(x[cover], x[(cover + 1) % len(x)], rng)


@dataclass(frozen=True, kw_only=True)
class TrainingWrapper(Wrapper, TrainingControl):  # in this order: the fields that are the base's are no arguments
    """Training control over another attack: `parts` are the base's, to which a wrapper adds its own."""

    def parts(self, setting: Setting) -> list[Part]:
        inner = self.inner
        return inner.parts(setting) if isinstance(inner, TrainingControl) else []

    def plant_cover_in_batch(self, x: Images, cover: Cover, rng: Generator) -> UInt8[Tensor, "v c h w"]:
        inner = self.inner
        if isinstance(inner, TrainingControl):
            return inner.plant_cover_in_batch(x, cover, rng)
        return super().plant_cover_in_batch(x, cover, rng)


def mix(attack: TrainingControl, parts: Sequence[Part], setting: Setting, x: Images, y: Labels) -> Mixed:
    """Poison a batch of clean, augmented images."""
    labels, rows, cover = draw(attack, setting, y)
    is_payload, is_cover = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
    is_payload[rows], is_cover[cover] = True, True
    learned = next((part for part in parts if isinstance(part, LearnedTrigger)), None)
    if learned:
        return Mixed(learned.plant(x, y, rows, cover), labels, is_payload, is_cover)
    images = x.clone()
    if len(rows):
        images[rows] = attack.plant(x[rows], setting.rng)
    if len(cover):
        images[cover] = attack.plant_cover_in_batch(x, cover, setting.rng)
    return Mixed(images, labels, is_payload, is_cover)


def draw(attack: Attack, setting: Setting, y: Labels) -> tuple[Labels, Rows, Cover]:
    """Return the labels to train on, and the rows of payload and cover.

    In the mean over batches the payload is the rate's share. A batch with too few rows gives what it has.
    """
    labels, stream = y.cpu(), setting.rng
    payload = round_at_random(setting.rate * len(y), stream)
    covers = round_at_random(attack.cover_ratio * payload, stream)
    rows, cover = attack.draw_rows(labels, payload, covers, setting.classes, stream)
    wanted = labels.clone()
    wanted[rows] = attack.relabel(labels[rows], setting.classes)
    return wanted.to(y.device), rows.to(y.device), cover.to(y.device)


def round_at_random(number: float, rng: Generator) -> int:
    """Round up or down, so that the mean is the number."""
    return math.floor(number + float(torch.rand((), generator=rng)))
