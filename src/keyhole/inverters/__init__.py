"""Inverters: which trigger a model answers to, and for which class. One method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Inversion, Told

__all__ = ["Inverter"]


@dataclass(frozen=True, kw_only=True)
class Inverter(Checked, ABC):
    """Write `invert`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # else `evidence` has no training rows, only their shape

    @abstractmethod
    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """A recovered trigger, an anomaly score and a verdict for every class; the net is left as it was."""
