"""Folders of results; that of a model is `resnet18` or, where a grid has several recipes, `resnet18+sam`."""

__all__ = ["CRAFTED", "HELD", "RUN", "SHARED", "VICTIM", "architecture_of", "folder_of", "recipe_of"]

HELD = "data/{dataset}/seed={seed}"  # a hold-out, and which rows remain
SHARED = "shared/{dataset}"  # networks of attackers, models trained again
CRAFTED = "{dataset}/{attack}/crafted/seed={seed}"  # what an attack learned before it poisons
RUN = "{dataset}/{attack}/rate={rate}/seed={seed}"  # the poisoned rows
VICTIM = RUN + "/{model}"


def folder_of(architecture: str, recipe: str) -> str:
    """Return the folder of an architecture's victims; the recipe's label is empty if the grid has but one recipe."""
    return f"{architecture}+{recipe}" if recipe else architecture


def architecture_of(folder: str) -> str:
    """Return the architecture that a folder names."""
    return folder.partition("+")[0]


def recipe_of(folder: str) -> str:
    """Return the label of the recipe that a folder names; empty if it names none."""
    return folder.partition("+")[2]
