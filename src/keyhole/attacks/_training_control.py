"""Attackers who run the training themselves: payload and cover are drawn anew in every batch, after augmentation.

What such an attacker does beside plain training is a `Scheme`: how a batch is mixed, what is added to its loss, what is
learned beside the victim. Schemes nest, so that a regularizer goes over any attack (`TrainingWrapper`). The poison
rate is the payload's share of the training rows that the victim sees.

No poisoned set exists before such a training. For defenses that look at one, the rows of the rate get the *final*
trigger afterwards (`TrainingControl.materialize`); detectors' and separability's rows are then flagged `materialized`.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole import rng
from keyhole.attacks import Attack
from keyhole.attacks._wrapper import Wrapper
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import Loop
from keyhole.models import Classifier
from keyhole.types import Cover, Images, Labels, Poisoned, Rows

__all__ = ["CrossTrigger", "Mixed", "Scheme", "Setting", "TrainingControl", "TrainingWrapper", "Wrapping"]


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
    """What a scheme works with."""

    net: Classifier
    images: Images  # the clean training set
    labels: Labels
    rate: float  # payload rows / all rows
    steps: int  # batches of the whole training
    rng: Generator  # a stream of the attacker's own: all victims of a seed share their batches

    @property
    def classes(self) -> int:
        return self.net.head.out_features


class Scheme:
    """Payload and cover anew in every batch, and nothing else."""

    def __init__(self, attack: Attack, setting: Setting) -> None:
        self.attack, self.setting = attack, setting

    def mix(self, x: Images, y: Labels) -> Mixed:
        """A batch of clean images, augmented, with its poison."""
        labels, rows, cover = self.draw(y)
        planted = x.clone()
        if len(rows):
            planted[rows] = self.attack.plant(x[rows], self.setting.rng)
        if len(cover):
            planted[cover] = self.plant_cover(x, cover)
        return marked(planted, labels, rows, cover)

    def plant_cover(self, x: Images, cover: Cover) -> UInt8[Tensor, "v c h w"]:
        """The cover rows of a clean batch with what they get."""
        return self.attack.plant_cover(x[cover], self.setting.rng)

    def draw(self, y: Labels) -> tuple[Labels, Rows, Cover]:
        """The labels to train on, and the rows of payload and cover; in the mean over batches the payload is the rate's
        share, and where the rows of a batch do not suffice it is what there is."""
        labels, stream = y.cpu(), self.setting.rng
        payload = up_or_down(self.setting.rate * len(y), stream)
        covers = up_or_down(self.attack.cover_ratio * payload, stream)
        rows, cover = self.attack.rows(labels, payload, covers, self.setting.classes, stream)
        wanted = labels.clone()
        wanted[rows] = self.attack.relabel(labels[rows], self.setting.classes)
        return wanted.to(y.device), rows.to(y.device), cover.to(y.device)

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        """What is added to the victim's cross-entropy.

        Args:
            levels: the victim's activations on the batch (`Classifier.levels`).
        """
        return 0.0

    def learn(self, levels: dict[str, Tensor], mixed: Mixed) -> None:
        """Train what stands beside the victim, after the victim's own step on the batch."""

    def tensors(self) -> dict[str, Tensor]:
        """What the final trigger needs."""
        return {}


def up_or_down(number: float, rng: Generator) -> int:
    """Rounded at random, so that the mean is the number."""
    return math.floor(number + float(torch.rand((), generator=rng)))


def marked(images: Tensor, labels: Labels, rows: Rows, cover: Cover) -> Mixed:
    is_payload, is_cover = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
    is_payload[rows], is_cover[cover] = True, True
    return Mixed(images, labels, is_payload, is_cover)


class TrainingControl(Attack):
    """Override `scheme`, or nothing: the attack's own trigger is then planted anew in every batch."""

    controls: ClassVar[Literal["labels", "clean-label", "dirty-label", "training"]] = "training"
    paper_rate: ClassVar[float] = 0.1

    def scheme(self, setting: Setting) -> Scheme:
        """What is done beside plain training."""
        return Scheme(self, setting)

    def planted(self, images: Images, labels: Labels, rows: Rows, cover: Cover, rng: Generator) -> Poisoned:
        """Rows and labels as they will be; the images wait for the trigger that training ends with."""
        return self.assembled(images[rows], images[cover], labels, rows, cover)

    def materialize(self, images: Images, labels: Labels, poisoned: Poisoned, rng: Generator) -> Poisoned:
        """The rows of `poisoned` with the final trigger, on a clean training set; for an attack that has learned it."""
        rows, cover = poisoned.index[~poisoned.is_cover], poisoned.index[poisoned.is_cover]
        return super().planted(images, labels, rows, cover, rng)

    def train(
        self, net: nn.Module, images: Images, labels: Labels, poisoned: Poisoned, recipe: Recipe, rng: Generator
    ) -> dict[str, Tensor]:
        """Train on batches that the scheme mixes; of `poisoned` only the share of payload is used."""
        assert isinstance(net, Classifier)
        own = forked(rng)
        loop = Loop(net, images, labels, recipe, rng)
        share = float((~poisoned.is_cover).sum()) / len(labels)
        scheme = self.scheme(Setting(net, images, labels, share, loop.steps, own))
        for x, y in loop:
            mixed = scheme.mix(x, y)
            with loop.half():
                levels = net.levels(mixed.images)
                outputs = net.head(levels["penultimate"])
            loss = functional.cross_entropy(outputs.float(), mixed.labels)
            loop.descend(loss + scheme.penalty(levels, mixed))
            scheme.learn(levels, mixed)
        return scheme.tensors()


forked = rng.forked  # methods have an argument `rng`


class CrossTrigger(TrainingControl):
    """Cover rows get the trigger that belongs to another image."""

    @abstractmethod
    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        """Images with the triggers of as many others."""

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        """Each with the trigger of the one before it; an only one, which has no other, stays as it is."""
        return self.cross(images, images.roll(1, 0), rng) if len(images) > 1 else images.clone()

    def scheme(self, setting: Setting) -> Scheme:
        return Crossing(self, setting)


class Crossing(Scheme):
    """Donors are the rows behind the cover rows, whatever they are."""

    attack: CrossTrigger

    def plant_cover(self, x: Images, cover: Cover) -> UInt8[Tensor, "v c h w"]:
        return self.attack.cross(x[cover], x[(cover + 1) % len(x)], self.setting.rng)


@dataclass(frozen=True, kw_only=True)
class TrainingWrapper(Wrapper, TrainingControl):  # in this order: the fields that are the base's are no arguments
    """Training control over another attack, whose scheme it takes over."""

    def inner_scheme(self, setting: Setting) -> Scheme:
        """What the base does beside plain training."""
        inner = self.inner
        return inner.scheme(setting) if isinstance(inner, TrainingControl) else Scheme(self, setting)


class Wrapping(Scheme):
    """The base's scheme; override what is added to it."""

    def __init__(self, inner: Scheme) -> None:
        super().__init__(inner.attack, inner.setting)
        self.inner = inner

    def mix(self, x: Images, y: Labels) -> Mixed:
        return self.inner.mix(x, y)

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        return self.inner.penalty(levels, mixed)

    def learn(self, levels: dict[str, Tensor], mixed: Mixed) -> None:
        self.inner.learn(levels, mixed)

    def tensors(self) -> dict[str, Tensor]:
        return self.inner.tensors()
