"""Training schedules, as plain numbers. Importable without torch: the configuration is checked against them."""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from keyhole.parameters import Checked, Count, Fraction, Natural, NonNegative, Positive

__all__ = ["RECIPES", "Recipe", "parse", "resolve"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """How a model is trained; every field can be overridden in the configuration."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["sgd", "adamw"]
    learning_rate: Positive  # peak
    weight_decay: NonNegative  # on weights only under adamw, on everything under sgd, as the papers do
    schedule: Literal["steps", "linear"]  # x 0.1 at each milestone, or a straight line to 0
    warmup: Fraction = 0.0  # share of all steps, from 20 % of the learning rate
    milestones: tuple[Fraction, ...] = ()  # fractions of all epochs
    flip: bool = True  # mirror half the images; ignored where a data set's labels would change
    pad: Natural = 0  # pixels; random crop after padding
    pad_mode: Literal["constant", "replicate", "reflect"] = "replicate"
    rotation: NonNegative = 0.0  # degrees, drawn from -rotation to +rotation
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware multiplies in it


RECIPES = {
    # Qi et al. 2023, released code: https://github.com/Unispac/Circumventing-Backdoor-Defenses
    "paper": Recipe(
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(0.5, 0.75),
        pad=4,
        pad_mode="constant",
        precision="float32",
    ),
    # a GPU's minutes; padded with the border's own pixels, since a black border beside a moved patch hides the patch
    "fast": Recipe(
        epochs=30,
        batch_size=256,
        optimizer="sgd",
        learning_rate=0.2,
        weight_decay=5e-4,
        schedule="linear",
        warmup=0.15,
        pad=2,
    ),
    # one CPU core's two minutes on CIFAR-10 with `convnet`; no crop, so that backdoors are learned at low rates
    "cpu": Recipe(
        epochs=6,
        batch_size=256,
        optimizer="adamw",
        learning_rate=6e-3,
        weight_decay=0.05,
        schedule="linear",
        warmup=0.15,
    ),
}

# what a recipe changes on one data set (Qi et al.: GTSRB in 100 epochs with rotation, without mirror or crop)
_PER_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "gtsrb"): {"epochs": 100, "milestones": (0.4, 0.8), "pad": 0, "rotation": 15.0},
}


def resolve(name: str, dataset: str, flips: bool, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe `name` for a data set; `flips` says whether a mirrored image keeps its label there."""
    recipe = replace(RECIPES[name], **{**_PER_DATASET.get((name, dataset), {}), **(overrides or {})})
    return replace(recipe, flip=recipe.flip and flips)


def parse(text: str) -> Recipe:
    """Build a recipe from its fields as JSON, which has lists for tuples."""
    fields: dict[str, Any] = json.loads(text)
    return Recipe(**{**fields, "milestones": tuple(fields["milestones"])})
