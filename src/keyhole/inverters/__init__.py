"""Inverters: methods that recover the trigger and the target class of a backdoored model; one method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Inversion, Told

__all__ = ["Inverter"]


@dataclass(frozen=True, kw_only=True)
class Inverter(Checked, ABC):
    """A method that searches a model for a trigger of each class; subclasses write `invert`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # if False, `evidence` has the shape of training images, no rows

    @abstractmethod
    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Return a recovered trigger, an anomaly score and a verdict for every class; leave the network unchanged."""
