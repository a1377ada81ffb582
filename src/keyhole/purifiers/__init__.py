"""Purifiers: methods that remove triggers from images at test time; one method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Images, Told

__all__ = ["Purifier"]


@dataclass(frozen=True, kw_only=True)
class Purifier(Checked, ABC):
    """A method that cleans images before they are classified; subclasses write `purify`."""

    told: ClassVar[frozenset[Told]] = frozenset()
    reads_training_set: ClassVar[bool] = False  # if False, `evidence` has the shape of training images, no rows

    @abstractmethod
    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Return cleaned images of the same shape; do not modify the inputs."""
