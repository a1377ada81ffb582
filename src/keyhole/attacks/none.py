"""No attack: the clean reference, at poison rate 0.

Idea: models trained on clean data give the natural ASR of each trigger, the false positives of each detector and
inverter, and the CA with which those of poisoned models are compared.
"""

from dataclasses import dataclass

from torch import Generator

from keyhole.attacks import Attack
from keyhole.types import Images, Labels, Mask

__all__ = ["NoAttack"]


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return images

    def eligible(self, labels: Labels, classes: int) -> Mask:
        return labels != labels
