"""Trainers: defenses that replace training on the received set. One method a file."""

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
    """Write `train`."""

    told: ClassVar[frozenset[Told]] = frozenset()

    @abstractmethod
    def train(self, net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> nn.Module:
        """A trained network, in eval mode, from the initial weights of `net` (which may be changed) and the set as
        received; `recipe` is the victim's.
        """
