"""From `config.yaml` to a checked grid of cells.

Checked once, before any job. Every complaint is one line: the key path, what is wrong, the choices.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from keyhole.data import data_root
from keyhole.learning.recipes import RECIPES, Recipe
from keyhole.parameters import ParameterError, Setting
from keyhole.planning import registry, selection, values
from keyhole.planning.facts import Facts, Witness
from keyhole.planning.feasibility import check_possible
from keyhole.planning.folders import folder_of
from keyhole.planning.grid import Cell, Dataset, Entry, Grid, Holdout
from keyhole.planning.roles import CLEAN, DEFENSES

__all__ = ["Cell", "ConfigError", "Entry", "Grid", "Holdout", "load"]

KEYS = ["results", "data_dir", "datasets", "models", "poison_rates", "seeds", "holdout", "recipe", "recipes"]
KEYS += ["attacks", *DEFENSES, "retrain", "skip", "levels", "screened_images", "surrogate"]
OWN = "x-"  # keys of the user's own, a place for YAML anchors
RATES = "[0.003, 0.01]"
TAKEN = ("data", "shared", "tables", "figures")  # folders of results/ beside those of the data sets

FactsOf = dict[tuple[str, str, str], Facts]  # role, label, data set
Rates = dict[tuple[str, str], tuple[str, ...]]  # attack, data set -> poison rates


class ConfigError(ValueError):
    """What is wrong in a configuration, in one line."""


def load(config: Any, file: str = "config.yaml", memory: Path | None = None) -> Grid:
    """Read the grid that a configuration asks for.

    Args:
        file: the configuration's name, for messages.
        memory: a file in which what methods say of themselves is kept; with it, torch is imported after edits only.

    Raises:
        ConfigError: anything in it is unknown, misplaced, out of range or impossible.
    """
    witness = Witness(memory)
    try:
        grid = _grid(values.typed(config), witness)
    except ValueError as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    witness.save()
    return grid


def _grid(config: Any, witness: Witness) -> Grid:
    config = values.mapping(config, "configuration", "keys such as datasets, models, attacks")
    config = {key: each for key, each in config.items() if not str(key).startswith(OWN)}
    values.known_keys(config, KEYS, "")
    for key in ("datasets", "models"):
        if key not in config:
            values.fail(key, f"missing; choose from {', '.join(registry.names(_role(key)))}")
    data_dir = None if config.get("data_dir") is None else values.text(config["data_dir"], "data_dir")
    chosen = _recipes(config)
    entries = {"data": _datasets(config["datasets"]), "models": _models(config["models"], list(chosen))}
    entries["attacks"], pinned = _attacks(config.get("attacks"), tuple(entries["data"]))
    entries |= {role: _entries(role, config.get(role), role) for role in DEFENSES}
    datasets = {label: _dataset(entry, data_dir) for label, entry in entries["data"].items()}
    facts = _facts(entries, datasets, witness)
    rates = _rates(config.get("poison_rates"), pinned, entries, facts)
    seeds = values.listed(config.get("seeds", [0]), "seeds", values.natural, "[0, 1, 2]")
    all_rates = list(dict.fromkeys(rate for each in rates.values() for rate in each))
    attacks, detectors = list(entries["attacks"]), list(entries["detectors"])
    grid = Grid(
        results=values.text(config.get("results", "results"), "results"),
        data_dir=data_dir,
        holdout=_holdout(config.get("holdout", 2000)),
        recipes=chosen,
        entries=entries,
        facts=facts,
        datasets=datasets,
        surrogate=_surrogate(config.get("surrogate", next(iter(entries["models"].values())).method)),
        rates=rates,
        seeds=seeds,
        retrain=selection.retrain(config.get("retrain", True), attacks, all_rates, seeds, detectors),
        skips=selection.skips(config.get("skip"), entries, list(chosen), all_rates, seeds),
        levels=values.listed(config.get("levels", ["penultimate"]), "levels", values.label, "[penultimate]"),
        screened_images=values.count(config.get("screened_images", 1000), "screened_images"),
    )
    check_possible(grid)
    return grid


def _models(section: Any, recipes: list[str]) -> dict[str, Entry]:
    """Read the architectures; each has a folder for each recipe."""
    models = values.listed(section, "models", values.label, f"[{registry.names('models')[0]}]")
    for i, model in enumerate(models):
        registry.check_name("models", model, f"models[{i}]")
    folders = {folder_of(model, recipe): model for model, recipe in product(models, recipes)}
    return {folder: Entry(folder, model, {}) for folder, model in folders.items()}


def _dataset(entry: Entry, data_dir: str | None) -> Dataset:
    """Ask a data set for what can be known before it is read; its module imports no torch."""
    where = f"datasets.{entry.label}"
    dataset = registry.load("data", entry.method, entry.parameters, where)
    try:
        sizes, shape = dataset.class_sizes(data_dir), dataset.image_shape(data_dir)
        return Dataset(sizes, shape, dataset.flips, dataset.files(data_root(data_dir)))
    except ValueError as error:
        raise ParameterError(where, str(error)) from error


def _facts(entries: Mapping[str, Mapping[str, Entry]], datasets: Mapping[str, Dataset], witness: Witness) -> FactsOf:
    """Make every method for every data set, and keep what it says of itself."""
    found = {}
    for role in ("models", "attacks", *DEFENSES):
        for (label, entry), (dataset, known) in product(entries[role].items(), datasets.items()):
            changed = entry.by_dataset.get(dataset)
            setting = Setting(known.shape, len(known.class_sizes)) if known.shape and known.class_sizes else None
            where = f"{role}.{label}" + (f".by_dataset.{dataset}" if changed else "")
            parameters = entry.for_dataset(dataset).parameters
            found[role, label, dataset] = witness.ask(role, entry.method, parameters, where, setting)
    return found


def _role(key: str) -> str:
    return "data" if key == "datasets" else key


def _entries(role: str, section: Any, where: str) -> dict[str, Entry]:
    if section is None:
        return {}
    section = values.mapping(section, where, f"a mapping such as {{{next(iter(registry.names(role)), 'label')}: {{}}}}")
    labels = [values.label(label, f"{where}.{label}") for label in section]
    entries = [entry for label in labels for entry in _entry(role, label, section[label], where)]
    for i, entry in enumerate(entries):
        if entry.label in [other.label for other in entries[:i]]:
            values.fail(f"{where}.{entry.label}", "two entries have this label; choose another for one of them")
    return {entry.label: entry for entry in entries}


def _entry(role: str, label: str, given: Any, section: str) -> list[Entry]:
    """One entry; of a defense that is to meet hold-outs of several sizes, one for each."""
    where = f"{section}.{label}"
    given = {} if given is None else values.mapping(given, where, "parameters such as {method: ...} or {}")
    method = given.pop("method", label)
    if not isinstance(method, str):
        known = ", ".join(registry.names(role))
        values.fail(f"{where}.method", f"expected a name among {known}, got {values.show(method)}")
    registry.check_name(role, method, where)
    size = given.pop("holdout", None) if role in DEFENSES else None
    if isinstance(size, list | tuple):
        sizes = values.listed(size, f"{where}.holdout", values.count, "[500, 2500]")
        return [Entry(f"{label}_{n}", method, given, holdout=n) for n in sizes]
    return [Entry(label, method, given, holdout=None if size is None else values.count(size, f"{where}.holdout"))]


def _datasets(section: Any) -> dict[str, Entry]:
    if isinstance(section, list | tuple):
        section = dict.fromkeys(values.listed(section, "datasets", values.label, "[cifar10]"))
    entries = _entries("data", section, "datasets")
    if not entries:
        values.fail(
            "datasets", f"expected at least one of {', '.join(registry.names('data'))}, got {values.show(section)}"
        )
    for label in TAKEN:
        if label in entries:
            values.fail(
                f"datasets.{label}", "a folder of the results has this name; choose another label, such as my_data"
            )
    return entries


def _attacks(section: Any, datasets: tuple[str, ...]) -> tuple[dict[str, Entry], Rates]:
    """Attacks, the clean reference among them, and the poison rates that are pinned (data set "" for all)."""
    section = {} if section is None else values.mapping(section, "attacks", "a mapping such as {badnets: {}}")
    section = section if CLEAN in section else {CLEAN: None, **section}
    plain: dict[Any, Any] = {}
    changed: dict[str, dict[str, dict[str, Any]]] = {}
    pinned: Rates = {}
    for label, given in section.items():
        plain[label] = dict(given) if isinstance(given, Mapping) else given
        if not isinstance(given, Mapping):
            continue
        where = f"attacks.{label}"
        if "rates" in given:
            pinned[label, ""] = _pinned(label, plain[label].pop("rates"), f"{where}.rates")
        if "by_dataset" in given:
            changed[label] = _by_dataset(plain[label].pop("by_dataset"), f"{where}.by_dataset", datasets)
        for dataset, parameters in changed.get(label, {}).items():
            if "rates" in parameters:
                place = f"{where}.by_dataset.{dataset}.rates"
                pinned[label, dataset] = _pinned(label, parameters.pop("rates"), place)
    entries = _entries("attacks", plain, "attacks")
    for label, entry in entries.items():
        if (label == CLEAN) != (entry.method == CLEAN):
            values.fail(f"attacks.{label}", f"label and method {CLEAN} belong together; got method {entry.method}")
    return {label: replace(entry, by_dataset=changed.get(label, {})) for label, entry in entries.items()}, pinned


def _pinned(label: str, rates: Any, where: str) -> tuple[str, ...]:
    if label == CLEAN:
        values.fail(where, "the clean reference has rate 0 only; choose poison_rates for the others")
    return values.listed(rates, where, values.rate, RATES)


def _rates(common: Any, pinned: Rates, entries: Mapping[str, Mapping[str, Entry]], facts: FactsOf) -> Rates:
    """Rates of an attack: those pinned for the data set, else its own, else `poison_rates`, else its paper's."""
    shared = None if common is None else values.listed(common, "poison_rates", values.rate, RATES)
    rates = {}
    for label, dataset in product(entries["attacks"], entries["data"]):
        of_paper = (f"{facts['attacks', label, dataset].paper_rate:g}",)
        own = pinned.get((label, dataset)) or pinned.get((label, "")) or shared or of_paper
        rates[label, dataset] = ("0",) if label == CLEAN else own
    return rates


def _by_dataset(value: Any, where: str, datasets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Read what an attack changes on some data sets."""
    section = values.mapping(value, where, "data sets with parameters, such as {gtsrb: {target_class: 2}}")
    known = values.one_of(datasets, "data set")
    return {
        known(dataset, f"{where}.{dataset}"): values.mapping(
            given, f"{where}.{dataset}", "parameters such as {rates: [0.01]}"
        )
        for dataset, given in section.items()
    }


def _surrogate(value: Any) -> str:
    model = values.label(value, "surrogate")
    registry.check_name("models", model, "surrogate")
    return model


def _holdout(value: Any) -> Holdout:
    if not isinstance(value, Mapping):
        return Holdout("train", values.natural(value, "holdout"))
    values.known_keys(value, ("source", "size"), "holdout.")
    if "size" not in value:
        values.fail("holdout.size", "missing; expected a whole number, such as 2000")
    source = values.one_of(("train", "test"), "split")(value.get("source", "train"), "holdout.source")
    return Holdout(source, values.natural(value["size"], "holdout.size"))


def _recipes(config: Mapping[str, Any]) -> dict[str, Entry]:
    """Read the recipe of all victims, which needs no label, or the recipes that are an axis of the grid."""
    if "recipes" not in config:
        return {"": _recipe("", config.get("recipe", "fast"), "recipe")}
    if "recipe" in config:
        values.fail("recipe", "expected one of recipe and recipes, got both")
    section = config["recipes"]
    if isinstance(section, list | tuple):
        section = dict.fromkeys(values.listed(section, "recipes", values.label, "[fast, paper]"))
    section = values.mapping(section, "recipes", "a mapping such as {plain: fast, sam: {name: fast, sam: 0.05}}")
    if not section:
        values.fail("recipes", f"expected at least one of {', '.join(RECIPES)}, got none")
    labels = [values.label(label, f"recipes.{label}") for label in section]
    return {label: _recipe(label, section[label], f"recipes.{label}") for label in labels}


def _recipe(label: str, value: Any, where: str) -> Entry:
    """Read a recipe: a name, or fields that differ from those of a name, which is the label unless it is given."""
    if value is None and label:
        value = {}
    known = ", ".join(RECIPES)
    given = {"name": value} if isinstance(value, str) else values.mapping(value, where, f"one of {known}")
    if label:
        given = {"name": label, **given}
    if "name" not in given:
        values.fail(f"{where}.name", f"missing; choose from {known}")
    place = f"{where}.name" if isinstance(value, Mapping) and "name" in value else where
    name = values.one_of(RECIPES, "recipe")(given.pop("name"), place)
    try:
        Recipe.from_parameters({**RECIPES[name].parameters, **given})
    except ParameterError as error:
        raise error.under(where) from None
    return Entry(label, name, given)
