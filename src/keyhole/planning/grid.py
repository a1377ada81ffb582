"""The grid that a configuration asks for."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

from keyhole.learning import recipes
from keyhole.parameters import CRAFTS
from keyhole.planning.facts import Facts
from keyhole.planning.folders import VICTIM, architecture_of, folder_of, recipe_of
from keyhole.planning.roles import DEFENSES, ROLES

__all__ = ["Cell", "Dataset", "Entry", "Grid", "Holdout", "Retrain", "Skip"]


@dataclass(frozen=True)
class Entry:
    """A method with its parameters, under the label it has in paths and tables."""

    label: str
    method: str
    parameters: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]] = field(default_factory=dict)  # data set -> parameters that differ there
    holdout: int | None = None  # of the hold-out, how many images a defense gets; None = all

    def for_dataset(self, dataset: str) -> "Entry":
        """Return the entry with the parameters that hold on a data set."""
        return replace(self, parameters={**self.parameters, **self.by_dataset.get(dataset, {})}, by_dataset={})

    @property
    def canonical(self) -> str:
        """Method and parameters as text, the same for any order of keys."""
        described = {"method": self.method, "parameters": self.parameters}
        return json.dumps(described | ({"holdout": self.holdout} if self.holdout else {}), sort_keys=True)


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read."""

    class_sizes: tuple[int, ...] | None  # training rows per class, before a hold-out is cut; None before a download
    shape: tuple[int, int, int] | None  # channels, height, width
    flips: bool  # a mirrored image keeps its label
    files: tuple[str, ...]  # the user's own files and folders that it is read from


@dataclass(frozen=True, order=True)
class Cell:
    """One victim."""

    dataset: str
    attack: str
    rate: str  # as in its path; payload rows / all training rows
    seed: int
    model: str
    recipe: str = ""  # its label; empty if the grid has one recipe for all

    @property
    def folder(self) -> str:
        """The folder of its model."""
        return folder_of(self.model, self.recipe)

    @property
    def wildcards(self) -> dict[str, Any]:
        """What its path is filled with."""
        return {**vars(self), "model": self.folder}

    def __str__(self) -> str:
        """Name the cell in words, as titles do."""
        attack = f"{self.attack} at {100 * float(self.rate):g} %"
        return ", ".join(filter(None, [self.dataset, self.model, self.recipe, attack, f"seed {self.seed}"]))


@dataclass(frozen=True)
class Holdout:
    """The clean images that the defender owns."""

    source: Literal["train", "test"]  # which split they are taken from, and then missing in
    size: int

    @property
    def canonical(self) -> str:
        """Source and size as text."""
        return json.dumps(vars(self), sort_keys=True)


@dataclass(frozen=True)
class Retrain:
    """Where models are trained again on the rows that a detector keeps: cells with all four."""

    attacks: frozenset[str]
    rates: frozenset[str]
    seeds: frozenset[int]
    detectors: frozenset[str]


@dataclass(frozen=True)
class Skip:
    """Cells left out."""

    wanted: tuple[tuple[str, tuple[Any, ...]], ...]  # field of Cell, values
    why: str

    def covers(self, cell: Cell) -> bool:
        """Say whether a cell is left out."""
        return all(getattr(cell, key) in values for key, values in self.wanted)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything that a configuration asks for."""

    results: str  # output folder
    data_dir: str | None
    holdout: Holdout
    recipes: dict[
        str, Entry
    ]  # label -> its name as the method, and what is changed in it; label "" if it is the only one
    entries: dict[str, dict[str, Entry]]  # role -> label -> entry; data sets are the role `data`, models have folders
    facts: dict[tuple[str, str, str], Facts]  # role, label, data set -> what the method says of itself
    datasets: dict[str, Dataset]
    surrogate: str  # the architecture of the attackers' own networks
    rates: dict[tuple[str, str], tuple[str, ...]]  # attack, data set -> poison rates
    seeds: tuple[int, ...]
    retrain: Retrain
    skips: tuple[Skip, ...]
    levels: tuple[str, ...]  # where latents are read; pictures show the last
    screened_images: int  # clean test images, and as many triggered ones, that a filter gets

    @property
    def reserved(self) -> int:
        """Hold-out images that no filter gets: they set the thresholds at which filters are compared."""
        return min(self.screened_images, self.holdout.size // 4)

    def labels(self, role: str) -> tuple[str, ...]:
        """List the labels of a role, in the order of the configuration."""
        return tuple(self.entries[role])

    def entry(self, role: str, label: str, dataset: str = "") -> Entry:
        """Return a method with its parameters; with a data set, those that hold on it."""
        return self.entries[role][label].for_dataset(dataset)

    def facts_of(self, role: str, label: str) -> list[Facts]:
        """Return the facts of a method for each data set."""
        return [self.facts[role, label, dataset] for dataset in self.datasets]

    def files_of(self, role: str, label: str, dataset: str) -> tuple[str, ...]:
        """List the user's own files and folders that a method reads, whether they exist or not."""
        return self.datasets[dataset].files if role == "data" else self.facts[role, label, dataset].files

    def levels_read(self) -> list[str]:
        """List the levels asked for, in their order, then those that a detector looks at."""
        detectors = [self.facts_of("detectors", label)[0] for label in self.entries["detectors"]]
        own = [level for facts in detectors for level in facts.levels.get("level", [])]
        return list(dict.fromkeys([*self.levels, *own]))

    @property
    def architectures(self) -> tuple[str, ...]:
        """List the architectures of the victims."""
        return tuple(dict.fromkeys(entry.method for entry in self.entries["models"].values()))

    def recipe_name(self, folder: str) -> str:
        """Return how tables call the recipe of a model's folder: by its label or, if it needs none, by its name."""
        recipe = self.recipes[recipe_of(folder)]
        return recipe.label or recipe.method

    def recipe_for(self, dataset: str, folder: str) -> str:
        """Return every field of the recipe of a model's folder on a data set, as JSON that `recipes.parse` reads.

        A network of the attackers' own is trained by the first recipe.
        """
        return self._recipes[dataset, recipe_of(folder) or next(iter(self.recipes))]

    @cached_property
    def _recipes(self) -> dict[tuple[str, str], str]:
        """Each recipe on each data set; thousands of jobs ask for it."""

        def described(dataset: str, entry: Entry) -> str:
            method, flips = self.entries["data"][dataset].method, self.datasets[dataset].flips
            recipe = recipes.resolve(entry.method, method, flips, entry.parameters)
            return json.dumps(recipe.parameters, sort_keys=True)

        return {(d, entry.label): described(d, entry) for d, entry in product(self.datasets, self.recipes.values())}

    @cached_property
    def attack_methods(self) -> dict[str, list[str]]:
        """The methods that each attack runs on any data set: its own and those that it wraps."""
        return {
            label: list(dict.fromkeys(name for facts in self.facts_of("attacks", label) for name in facts.methods))
            for label in self.entries["attacks"]
        }

    @cached_property
    def crafted_from(self) -> dict[str, str]:
        """What each attack learns from before it poisons: nothing, data, or a surrogate."""
        needs = {
            label: {facts.crafted_from for facts in self.facts_of("attacks", label)} for label in self.attack_methods
        }
        return {label: next(need for need in CRAFTS if need in wanted) for label, wanted in needs.items()}

    @cached_property
    def trained_by_attacker(self) -> frozenset[str]:
        """Attacks without a poisoned set before the victim: defenses get one that is written down afterwards."""
        attacks = self.entries["attacks"]
        return frozenset(label for label in attacks if self.facts_of("attacks", label)[0].controls == "training")

    def modules(self, role: str, label: str) -> list[str]:
        """Return the modules of the methods that an entry runs: its own, and those that an attack wraps."""
        if role == "models":  # or the surrogate, which need not be listed
            methods = [architecture_of(label)]
        else:
            methods = self.attack_methods[label] if role == "attacks" else [self.entry(role, label).method]
        return [f"keyhole.{role}.{method}" for method in methods]

    def inverter_before(self, repairer: str) -> str | None:
        """Return the inverter whose answer a repairer starts from; None for most."""
        return self.facts_of("repairers", repairer)[0].inverter

    def cells(self) -> list[Cell]:
        """List all victims to train."""
        return [cell for cell in self.all_cells() if not self._why(cell)]

    def skipped(self) -> list[tuple[Cell, str]]:
        """List the victims that are left out, each with its reason."""
        return [(cell, why) for cell in self.all_cells() if (why := self._why(cell))]

    def all_cells(self) -> list[Cell]:
        """List all victims, those that are left out included."""
        return [
            Cell(dataset, attack, rate, seed, model, recipe)
            for dataset, attack in product(self.entries["data"], self.entries["attacks"])
            for rate, seed in product(self.rates[attack, dataset], self.seeds)
            for model, recipe in product(self.architectures, self.recipes)
        ]

    def rates_of(self, attack: str) -> set[str]:
        """Return the poison rates of an attack over all data sets."""
        return {rate for (label, _), rates in self.rates.items() if label == attack for rate in rates}

    def retrained(self, attack: str, rate: str, seed: int) -> list[str]:
        """Return the detectors after which a model is trained again on the rows that they keep.

        None if the attacker trains the victim: training on the set that is written down afterwards is another attack.
        """
        where = self.retrain
        wanted = attack in where.attacks and rate in where.rates and seed in where.seeds
        if not wanted or attack in self.trained_by_attacker:
            return []
        return [label for label in self.entries["detectors"] if label in where.detectors]

    def retrains(self, cell: Cell, detector: str) -> bool:
        """Return whether a model is trained again on the rows that a detector keeps in this cell."""
        return detector in self.retrained(cell.attack, cell.rate, cell.seed)

    def pictures_of(self, cell: Cell) -> list[str]:
        """List the files of a victim's pictures."""
        inverters = self.labels("inverters")
        names = ["preview.png", "latents.png", *(["inversions.png"] if inverters else [])]
        names += [f"{ROLES['inverters'].folder}/{label}/triggers.png" for label in inverters]
        return [f"{self._folder(cell)}/{name}" for name in names]

    def answers_of(self, cell: Cell) -> list[str]:
        """List the files of what defenses of a victim returned, and of models trained again."""
        labels = {role: self.labels(role) for role in DEFENSES} | {"trainers": self.trainers_for(cell.attack)}
        names = [
            f"{ROLES[role].folder}/{label}/{ROLES[role].answer}" for role, each in labels.items() for label in each
        ]
        again = self.retrained(cell.attack, cell.rate, cell.seed)
        names += [f"{ROLES['detectors'].folder}/{label}/retrained/{ROLES['repairers'].answer}" for label in again]
        return [f"{self._folder(cell)}/{name}" for name in names]

    def cards_of(self, cell: Cell) -> list[str]:
        """List the files of a victim's own answers and of all cards."""
        return [
            f"{self._folder(cell)}/{name}" for name in ("predictions.safetensors", "separability.json", "cards.json")
        ]

    def _folder(self, cell: Cell) -> str:
        return f"{self.results}/{VICTIM.format(**cell.wildcards)}"

    def trainers_for(self, attack: str) -> tuple[str, ...]:
        """Return the trainers that meet an attack; none if the attacker trains, which leaves them nothing to train."""
        return () if attack in self.trained_by_attacker else self.labels("trainers")

    def _why(self, cell: Cell) -> str:
        return next((skip.why for skip in self.skips if skip.covers(cell)), "")
