"""Purifiers: inputs without their trigger, at test time. One method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Images, Told

__all__ = ["Purifier"]


@dataclass(frozen=True, kw_only=True)
class Purifier(Checked, ABC):
    """Write `purify`."""

    told: ClassVar[frozenset[Told]] = frozenset()
    reads_training_set: ClassVar[bool] = False  # else `evidence` has no training rows, only their shape

    @abstractmethod
    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Cleaned images of the same shape; the inputs are not modified."""
