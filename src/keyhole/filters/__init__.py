"""Filters: which inputs are suspicious at test time. One method a file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Images, Suspicion, Told

__all__ = ["Filter"]


@dataclass(frozen=True, kw_only=True)
class Filter(Checked, ABC):
    """Write `screen`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # else `evidence` has no training rows, only their shape

    @abstractmethod
    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """A score and a decision for every incoming image; thresholds come from the hold-out."""
