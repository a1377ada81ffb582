"""Filters: methods that decide which inputs are suspicious at test time. One method per file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Images, Suspicion, Told

__all__ = ["Filter"]


@dataclass(frozen=True, kw_only=True)
class Filter(Checked, ABC):
    """A method that scores and flags inputs; a subclass writes `screen`."""

    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    reads_training_set: ClassVar[bool] = False  # if False, `evidence` has the shape of training rows but no rows

    @abstractmethod
    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """Return a score and a decision for every incoming image; thresholds come from the hold-out."""
