"""Detectors: methods that decide which rows of the training set are suspicious. One method per file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator

from keyhole.parameters import Checked
from keyhole.types import Evidence, Suspicion, Told

__all__ = ["Detector"]


@dataclass(frozen=True, kw_only=True)
class Detector(Checked, ABC):
    """A method that scores and flags training rows; a subclass writes `detect`."""

    told: ClassVar[frozenset[Told]] = frozenset()
    looks_at: ClassVar[Literal["latents", "outputs", "images", "training", "nothing"]] = "latents"  # besides labels
    long: ClassVar[bool] = False  # trains, or screens every row many times, so it gets a job of its own

    @abstractmethod
    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Return a score and a decision for every training row."""
