"""Trainers: defenses that replace the training on the received set; one method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, nn

from keyhole.learning.recipes import Recipe
from keyhole.parameters import Checked
from keyhole.types import Images, Labels, Told

__all__ = ["Trainer"]


@dataclass(frozen=True, kw_only=True)
class Trainer(Checked, ABC):
    """A method that trains a model on a set that may be poisoned; subclasses write `train`."""

    told: ClassVar[frozenset[Told]] = frozenset()

    @abstractmethod
    def train(self, net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> nn.Module:
        """Train a network on the received set and return it in eval mode.

        Training starts from the weights of `net`, which may be changed in place; `recipe` is the victim's.
        """
