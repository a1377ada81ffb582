"""The grid that a configuration asks for, and what of it cannot be run."""

import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise, product
from typing import Any, Literal, NoReturn

from keyhole.data import apportion
from keyhole.parameters import CRAFTS
from keyhole.planning import registry
from keyhole.planning.roles import CLEAN

__all__ = ["CLEAN", "DEFENSES", "Cell", "Entry", "Grid", "Holdout", "Retrain", "Skip", "check_possible"]

DEFENSES = ("detectors", "inverters", "repairers", "trainers", "filters", "purifiers")


@dataclass(frozen=True)
class Entry:
    """A method with its parameters, under the label it has in paths and tables."""

    label: str
    method: str
    parameters: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]] = field(default_factory=dict)  # data set -> parameters that differ there
    holdout: int | None = None  # of the hold-out, how many images a defense gets; None = all

    def for_dataset(self, dataset: str) -> "Entry":
        return replace(self, parameters={**self.parameters, **self.by_dataset.get(dataset, {})}, by_dataset={})

    @property
    def canonical(self) -> str:
        """Method and parameters as text, the same for any order of keys."""
        described = {"method": self.method, "parameters": self.parameters}
        return json.dumps(described | ({"holdout": self.holdout} if self.holdout else {}), sort_keys=True)


def chain(attack: Entry) -> list[Entry]:
    """An attack, and those that it goes over, the innermost last."""
    base = registry.evaluate("attacks", attack.method, attack.parameters, "base")
    if base is None:
        return [attack]
    method, parameters = registry.wrapped(base, "base")
    return [attack, *chain(replace(attack, method=method, parameters=parameters))]


def _constants(name: str, attacks: list[str]) -> set[Any]:
    return {registry.classvars("attacks", method)[name] for method in attacks}


@dataclass(frozen=True, order=True)
class Cell:
    """One victim."""

    dataset: str
    attack: str
    rate: str  # as in its path; payload rows / all training rows
    seed: int
    model: str


@dataclass(frozen=True)
class Holdout:
    """The clean images that the defender owns."""

    source: Literal["train", "test"]  # which split they are taken from, and then missing in
    size: int

    @property
    def canonical(self) -> str:
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
        return all(getattr(cell, key) in values for key, values in self.wanted)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything that a configuration asks for."""

    results: str  # output folder
    data_dir: str | None
    holdout: Holdout
    recipe: Entry  # label and method are the recipe's name, parameters what is changed in it
    entries: dict[str, dict[str, Entry]]  # role -> label -> entry; data sets are the role `data`
    surrogate: str  # the architecture of the attackers' own networks
    rates: dict[tuple[str, str], tuple[str, ...]]  # attack, data set -> poison rates
    seeds: tuple[int, ...]
    retrain: Retrain
    skips: tuple[Skip, ...]
    levels: tuple[str, ...]  # where latents are read; pictures show the last
    screened_images: int  # clean test images, and as many triggered ones, that a filter gets

    def levels_read(self) -> list[str]:
        """The levels asked for, in their order, and those that a detector looks at."""
        detectors = self.entries["detectors"].values()
        own = [registry.evaluate("detectors", each.method, each.parameters, "level") for each in detectors]
        return list(dict.fromkeys([*self.levels, *filter(None, own)]))

    def recipe_for(self, dataset: str) -> str:
        """What `recipes.resolve` needs for a data set, as text."""
        method = self.entry("data", dataset).method
        parts = {"name": self.recipe.method, "dataset": method, "overrides": self.recipe.parameters}
        return json.dumps(parts, sort_keys=True)

    def labels(self, role: str) -> tuple[str, ...]:
        """The labels of a role, in the order of the configuration."""
        return tuple(self.entries[role])

    def entry(self, role: str, label: str, dataset: str = "") -> Entry:
        """A method with its parameters, those for a data set where one is named."""
        return self.entries[role][label].for_dataset(dataset)

    @cached_property
    def attack_methods(self) -> dict[str, list[str]]:
        """Of each attack its method, and those of the attacks that it goes over, on any data set."""
        own = {
            label: [each.method for dataset in self.entries["data"] for each in chain(entry.for_dataset(dataset))]
            for label, entry in self.entries["attacks"].items()
        }
        return {label: list(dict.fromkeys(methods)) for label, methods in own.items()}

    @cached_property
    def crafted_from(self) -> dict[str, str]:
        """What each attack learns from before it poisons: nothing, data, or a surrogate."""
        needs = {label: _constants("crafted_from", methods) for label, methods in self.attack_methods.items()}
        return {label: next(need for need in CRAFTS if need in all_) for label, all_ in needs.items()}

    @cached_property
    def trained_by_attacker(self) -> frozenset[str]:
        """Attacks without a poisoned set before the victim: defenses get one that is written down afterwards."""
        methods = self.attack_methods
        return frozenset(label for label in methods if _constants("controls", methods[label][:1]) == {"training"})

    def inverter_before(self, repairer: str) -> str | None:
        """The inverter whose answer a repairer starts from; None for most."""
        entry = self.entries["repairers"][repairer]
        return registry.evaluate("repairers", entry.method, entry.parameters, "inverter")

    def cells(self) -> list[Cell]:
        """All victims to train."""
        return [cell for cell in self._product() if not self._why(cell)]

    def skipped(self) -> list[tuple[Cell, str]]:
        """Victims left out, each with its reason."""
        return [(cell, why) for cell in self._product() if (why := self._why(cell))]

    def rates_of(self, attack: str) -> set[str]:
        """Its poison rates on any data set."""
        return {rate for (label, _), rates in self.rates.items() if label == attack for rate in rates}

    def retrains(self, cell: Cell, detector: str) -> bool:
        """Whether a model is trained on the rows that a detector keeps of this cell; never where the attacker trains,
        since training on the set that is written down afterwards is another attack."""
        if cell.attack in self.trained_by_attacker:
            return False
        wanted = self.retrain
        known = cell.attack in wanted.attacks and cell.rate in wanted.rates and cell.seed in wanted.seeds
        return known and detector in wanted.detectors

    def _product(self) -> list[Cell]:
        return [
            Cell(dataset, attack, rate, seed, model)
            for dataset, attack in product(self.entries["data"], self.entries["attacks"])
            for rate, seed, model in product(self.rates[attack, dataset], self.seeds, self.entries["models"])
        ]

    def _why(self, cell: Cell) -> str:
        return next((skip.why for skip in self.skips if skip.covers(cell)), "")


def check_possible(grid: Grid) -> None:
    """Refuse what the sizes of the data do not allow; what is not known before a download is left to the job.

    Raises:
        ValueError: a skip without a cell, no cell left, a hold-out too small or too large, a class that does not exist,
            more payload and cover rows than there are.
    """
    _check_skips(grid)
    _check_holdout(grid)
    _check_chains(grid)
    for dataset in grid.labels("data"):
        _check_dataset(grid, dataset)


def _fail(where: str, problem: str) -> NoReturn:
    raise ValueError(f"{where}: {problem}")


def _check_skips(grid: Grid) -> None:
    for i, skip in enumerate(grid.skips):
        if not any(map(skip.covers, grid._product())):
            _fail(f"skip[{i}]", "no cell of the grid fits; take it out, or choose values that go together")
    if not grid.cells():
        _fail("skip", "all cells are skipped; leave at least one")


def _check_holdout(grid: Grid) -> None:
    for role in DEFENSES:
        for label, entry in grid.entries[role].items():
            needed = "holdout" in registry.classvars(role, entry.method)["told"]
            if needed and not grid.holdout.size:
                _fail(
                    "holdout", f"expected a number >= 1, such as 2000, since {role}.{label} needs clean images, got 0"
                )
            if entry.holdout and not needed:
                _fail(f"{role}.{label}.holdout", f"{entry.method} does not look at clean images; take the key out")
            if (entry.holdout or 0) > grid.holdout.size:
                _fail(
                    f"{role}.{label}.holdout",
                    f"expected at most the {grid.holdout.size} images of `holdout`, got {entry.holdout}",
                )


def _check_chains(grid: Grid) -> None:
    for label in grid.labels("repairers"):
        wanted, known = grid.inverter_before(label), grid.labels("inverters")
        if wanted is not None and wanted not in known:
            _fail(
                f"repairers.{label}.inverter",
                f"unknown inverter {wanted!r}{registry.suggestion(wanted, known)}; it has to stand under inverters",
            )


def _check_dataset(grid: Grid, label: str) -> None:
    entry, where, holdout = grid.entry("data", label), f"datasets.{label}", grid.holdout.size
    try:
        sizes = registry.load("data", entry.method, entry.parameters).class_sizes(grid.data_dir)
    except ValueError as error:
        _fail(where, str(error))
    if sizes is None:
        return
    if grid.holdout.source == "train":
        if holdout >= sum(sizes):
            _fail(
                "holdout", f"expected fewer than the {sum(sizes)} training rows of {label}, such as 2000, got {holdout}"
            )
        sizes = tuple(size - taken for size, taken in zip(sizes, apportion(sizes, holdout), strict=True))
    rates: dict[str, dict[str, None]] = {}  # of each attack, in order
    for cell in grid.cells():
        if cell.dataset == label:
            rates.setdefault(cell.attack, {})[cell.rate] = None
    for attack, used in rates.items():
        _check_attack(grid.entry("attacks", attack, label), label, list(used), sizes)


def _check_attack(entry: Entry, dataset: str, rates: list[str], sizes: tuple[int, ...]) -> None:
    """The arithmetic of `Attack.poison`, ahead of it."""
    where, (*around, entry) = f"attacks.{entry.label}", chain(entry)
    for above, below in pairwise([*around, entry]):
        _check_base(above.method, below, f"{where}.base")
        where += ".base"
    known = partial(registry.evaluate, "attacks", entry.method, entry.parameters)
    ratios = [registry.evaluate("attacks", each.method, each.parameters, "cover_ratio") for each in (*around, entry)]
    cover_ratio = next((ratio for ratio in ratios if ratio is not None), 0)
    target, sources, covers = known("target_class"), known("source_classes") or (), known("cover_classes") or ()
    if not isinstance(target, int):
        return
    for key, classes in {"target_class": (target,), "source_classes": sources, "cover_classes": covers}.items():
        for k in classes:
            if k >= len(sizes):
                _fail(f"{where}.{key}", f"expected a class of {dataset}, 0 to {len(sizes) - 1}, got {k}")
    rows, kind = _candidates(entry, target, sources, sizes, where)
    for rate in rates:
        payload = math.floor(float(rate) * sum(sizes) + 1e-9)
        cover = round(payload * cover_ratio)
        words = f"{payload} payload and {cover} cover rows" if cover else f"{payload} payload rows"
        demands = [(payload + (0 if covers else cover), rows, kind)]
        if covers:
            demands += [(cover, sum(sizes[k] for k in covers), f"the cover classes {list(covers)} hold")]
        for count, supply, holder in demands:
            if count > supply:
                most = f"{supply / count * payload / sum(sizes):.2g}"
                _fail(
                    where,
                    f"rate {rate} on {dataset} asks for {words}, but {holder} {supply}; choose a rate up to about "
                    f"{most} (rates: [...]), or name the cell under skip",
                )


def _check_base(method: str, base: Entry, where: str) -> None:
    constants = registry.classvars("attacks", base.method)
    if constants["bound_to_rows"]:
        _fail(where, f"expected an attack whose rows can be drawn anew, got {base.method}")
    covers = registry.evaluate("attacks", base.method, base.parameters, "cover_ratio")
    if registry.classvars("attacks", method)["bare_base"] and (constants["controls"] != "dirty-label" or covers):
        _fail(where, f"expected an attack with dirty labels and without cover rows under {method}, got {base.method}")


def _candidates(
    entry: Entry, target: int, sources: tuple[int, ...], sizes: tuple[int, ...], where: str
) -> tuple[int, str]:
    """How many rows may be payload, and what they are in words."""
    known = partial(registry.evaluate, "attacks", entry.method, entry.parameters)
    label_map, clean_label = known("label_map"), known("controls") == "clean-label"
    if label_map != "all_to_one" and (clean_label or sources):
        kind = "clean-label" if clean_label else "source-specific"
        _fail(
            f"{where}.label_map",
            f"expected all_to_one, since {entry.method} is {kind}, got {label_map}",
        )
    if clean_label:
        return sizes[target], f"target class {target} holds"
    if sources:
        return sum(sizes[k] for k in sources), f"the source classes {list(sources)} hold"
    if label_map == "all_to_one":
        return sum(sizes) - sizes[target], f"the classes other than {target} hold"
    return sum(sizes), "the training set holds"
