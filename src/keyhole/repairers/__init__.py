"""Repairers: methods that remove the backdoor from a model with the help of clean images; one method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, nn

from keyhole.parameters import Checked
from keyhole.types import Evidence, Told

__all__ = ["Repairer"]


@dataclass(frozen=True, kw_only=True)
class Repairer(Checked, ABC):
    """A method that repairs a model; subclasses write `repair`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # if False, `evidence` has the shape of training images, no rows

    @abstractmethod
    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Return a repaired copy of the victim `evidence.net`, of the same architecture; leave the victim unchanged."""
