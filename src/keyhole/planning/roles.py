"""The kinds of methods, each under all the names that it has."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CLEAN", "DEFENSES", "RETRAINING", "ROLES", "SEPARABILITY", "UNDEFENDED", "Role", "Stage"]

CLEAN = "none"  # the label of the clean reference, an attack of rate 0

Stage = Literal["attack", "separability", "detection", "inversion", "repair", "screening"]


@dataclass(frozen=True)
class Role:
    """A kind of method."""

    key: str  # its section of a configuration, and the folder of its methods: `detectors`
    noun: str  # in messages, in the column `role` of cards, as a wildcard of paths: `detector`
    folder: str = ""  # of its results beside the victim: `detect`
    answer: str = ""  # the file in that folder that is scored
    stage: Stage | None = None  # which flags its cards may raise
    table: str = ""  # where its cards are shown


_ALL = (
    Role("data", "dataset"),
    Role("models", "model"),
    Role("attacks", "attack", stage="attack", table="attacks"),
    Role("detectors", "detector", "detect", "suspicion.safetensors", "detection", "detection"),
    Role("inverters", "inverter", "invert", "inversion.safetensors", "inversion", "inversion"),
    Role("repairers", "repairer", "repair", "predictions.safetensors", "repair", "repair"),
    Role("trainers", "trainer", "train", "predictions.safetensors", "repair", "repair"),
    Role("filters", "filter", "filter", "suspicion.safetensors", "screening", "test_time"),
    Role("purifiers", "purifier", "purify", "predictions.safetensors", "repair", "test_time"),
)
ROLES = {role.key: role for role in _ALL}
DEFENSES = tuple(role.key for role in _ALL if role.folder)

# what else the column `role` holds: a victim's latents, a model trained on the rows that a detector keeps, and, in
# tables only, a victim as it is
SEPARABILITY = Role("", "separability", stage="separability", table="separability")
RETRAINING = Role("retrained", "retraining", stage="repair", table="repair")
UNDEFENDED = Role("", "none")
