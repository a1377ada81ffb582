"""Train a victim, by the recipe or by an attacker who controls training."""

from typing import Any, cast

from torch import Generator, Tensor

from keyhole.attacks import Attack
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import fit
from keyhole.running.devices import on_device
from keyhole.types import Classifier, Images, Labels, Poisoned

__all__ = ["train_victim"]


def train_victim(
    attack: Attack,
    net: Classifier,
    images: Images,
    labels: Labels,
    poisoned: Poisoned,
    recipe: Recipe,
    rng: Generator,
) -> dict[str, Tensor]:
    """Train `net` in place on the poisoned set, or let an attacker who controls training do so.

    Args:
        images: the images of the clean training set.
        labels: their labels.

    Returns:
        Tensors that the attacker learned with the victim; `Attack.equipped` gives them back to the attack.
    """
    if attack.controls == "training":
        return cast(Any, attack).train(net, on_device(images), on_device(labels), poisoned, recipe, rng)
    fit(net, *poisoned.apply(images, labels), recipe, rng)
    return {}
