"""Repairers: a model without the backdoor, from the victim and some clean images. One method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, nn

from keyhole.parameters import Checked
from keyhole.types import Evidence, Told

__all__ = ["Repairer"]


@dataclass(frozen=True, kw_only=True)
class Repairer(Checked, ABC):
    """Write `repair`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # else `evidence` has no training rows, only their shape

    @abstractmethod
    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """A repaired copy, of the same architecture; the victim `evidence.net` is left as it was."""
