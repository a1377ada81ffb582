"""From `config.yaml` to a validated grid of cells.

Checked once, before any job and without torch. Every complaint is one line: the key path, what is wrong, the choices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from keyhole.learning.recipes import RECIPES
from keyhole.planning import registry, values
from keyhole.planning.grid import CLEAN, DEFENSES, Cell, Entry, Grid, Holdout, Retrain, Skip, check_possible

__all__ = ["Cell", "ConfigError", "Entry", "Grid", "Holdout", "load"]

KEYS = ["results", "data_dir", "datasets", "models", "poison_rates", "seeds", "holdout", "recipe", "attacks"]
KEYS += [*DEFENSES, "retrain", "skip", "levels", "screened_images", "surrogate"]
RATES = "[0.003, 0.01]"
TAKEN = ("data", "shared", "tables", "figures")  # folders of results/ beside those of the data sets


class ConfigError(ValueError):
    """What is wrong in a configuration, in one line."""


def load(config: Any, file: str = "config.yaml") -> Grid:
    """The grid that a configuration asks for.

    Raises:
        ConfigError: anything in it is unknown, misplaced, out of range or impossible.
    """
    try:
        return _grid(values.typed(config))
    except ValueError as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error


def _grid(config: Any) -> Grid:
    config = values.mapping(config, "configuration", "keys such as datasets, models, attacks")
    values.known_keys(config, KEYS, "")
    for key in ("datasets", "models"):
        if key not in config:
            values.fail(key, f"missing; choose from {', '.join(registry.names(_role(key)))}")
    datasets = _datasets(config["datasets"])
    attacks, rates = _attacks(config, tuple(datasets))
    models = values.listed(config["models"], "models", values.label, f"[{registry.names('models')[0]}]")
    for i, model in enumerate(models):
        registry.check("models", model, {}, f"models[{i}]")
    entries = {
        "data": datasets,
        "models": {model: Entry(model, model, {}) for model in models},
        "attacks": attacks,
        **{role: _entries(role, config.get(role), role) for role in DEFENSES},
    }
    seeds = values.listed(config.get("seeds", [0]), "seeds", values.natural, "[0, 1, 2]")
    all_rates = list(dict.fromkeys(rate for each in rates.values() for rate in each))
    grid = Grid(
        results=values.text(config.get("results", "results"), "results"),
        data_dir=None if config.get("data_dir") is None else values.text(config["data_dir"], "data_dir"),
        holdout=_holdout(config.get("holdout", 2000)),
        recipe=_recipe(config.get("recipe", "fast")),
        entries=entries,
        surrogate=_surrogate(config.get("surrogate", models[0])),
        rates=rates,
        seeds=seeds,
        retrain=_retrain(config.get("retrain", True), list(attacks), all_rates, seeds, list(entries["detectors"])),
        skips=_skips(config.get("skip"), entries, all_rates, seeds),
        levels=values.listed(config.get("levels", ["penultimate"]), "levels", values.label, "[penultimate]"),
        screened_images=values.count(config.get("screened_images", 1000), "screened_images"),
    )
    check_possible(grid)
    return grid


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
        values.fail(
            f"{where}.method", f"expected a name among {', '.join(registry.names(role))}, got {values.show(method)}"
        )
    size = given.pop("holdout", None) if role in DEFENSES else None
    registry.check(role, method, given, where)
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


Rates = dict[tuple[str, str], tuple[str, ...]]  # attack, data set -> poison rates


def _attacks(config: Mapping[str, Any], datasets: tuple[str, ...]) -> tuple[dict[str, Entry], Rates]:
    """Attacks, the clean reference among them, and the poison rates of each.

    An attack's rates are those `by_dataset`, else its own `rates`, else `poison_rates`, else its
    paper's.
    """
    section = config.get("attacks")
    section = {} if section is None else values.mapping(section, "attacks", "a mapping such as {badnets: {}}")
    section = section if CLEAN in section else {CLEAN: None, **section}
    given = {label: dict(entry) if isinstance(entry, Mapping) else entry for label, entry in section.items()}
    pinned = {
        (label, ""): entry.pop("rates")
        for label, entry in given.items()
        if isinstance(entry, dict) and "rates" in entry
    }
    elsewhere = {
        label: _by_dataset(entry.pop("by_dataset"), f"attacks.{label}.by_dataset", datasets)
        for label, entry in given.items()
        if isinstance(entry, dict) and "by_dataset" in entry
    }
    entries = _entries("attacks", given, "attacks")
    for label, changed in elsewhere.items():
        for dataset, parameters in changed.items():
            if "rates" in parameters:
                pinned[label, dataset] = parameters.pop("rates")
            registry.check_fields(
                registry.parameters("attacks", entries[label].method),
                parameters,
                f"attacks.{label}.by_dataset.{dataset}",
            )
        entries[label] = replace(entries[label], by_dataset=changed)
    for label, entry in entries.items():
        if (label == CLEAN) != (entry.method == CLEAN):
            values.fail(f"attacks.{label}", f"label and method {CLEAN} belong together; got method {entry.method}")
    rates = {}
    common = config.get("poison_rates")
    shared = None if common is None else values.listed(common, "poison_rates", values.rate, RATES)
    for (label, dataset), value in pinned.items():
        where = f"attacks.{label}.by_dataset.{dataset}.rates" if dataset else f"attacks.{label}.rates"
        if label == CLEAN:
            values.fail(where, "the clean reference has rate 0 only; choose poison_rates for the others")
        rates[label, dataset] = values.listed(value, where, values.rate, RATES)
    for label, dataset in product(entries, datasets):
        own = rates.get((label, dataset)) or rates.get((label, "")) or shared or _paper_rate(entries[label])
        rates[label, dataset] = ("0",) if label == CLEAN else own
    return entries, {key: value for key, value in rates.items() if key[1]}


def _by_dataset(value: Any, where: str, datasets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What an attack changes on some data sets."""
    section = values.mapping(value, where, "data sets with parameters, such as {gtsrb: {target_class: 2}}")
    known = values.one_of(datasets, "data set")
    return {
        known(dataset, f"{where}.{dataset}"): values.mapping(
            given, f"{where}.{dataset}", "parameters such as {rates: [0.01]}"
        )
        for dataset, given in section.items()
    }


def _paper_rate(entry: Entry) -> tuple[str, ...]:
    return (f"{registry.classvars('attacks', entry.method)['paper_rate']:g}",)


def _surrogate(value: Any) -> str:
    model = values.label(value, "surrogate")
    registry.check("models", model, {}, "surrogate")
    return model


def _holdout(value: Any) -> Holdout:
    if not isinstance(value, Mapping):
        return Holdout("train", values.natural(value, "holdout"))
    values.known_keys(value, ("source", "size"), "holdout.")
    if "size" not in value:
        values.fail("holdout.size", "missing; expected a whole number, such as 2000")
    source = values.one_of(("train", "test"), "split")(value.get("source", "train"), "holdout.source")
    return Holdout(source, values.natural(value["size"], "holdout.size"))


def _recipe(value: Any) -> Entry:
    known = ", ".join(RECIPES)
    given = {"name": value} if isinstance(value, str) else values.mapping(value, "recipe", f"one of {known}")
    if "name" not in given:
        values.fail("recipe.name", f"missing; choose from {known}")
    name = values.one_of(RECIPES, "recipe")(given.pop("name"), "recipe" if isinstance(value, str) else "recipe.name")
    fields = registry.dataclass_parameters(registry.PACKAGE / "learning" / "recipes.py", "Recipe")
    registry.check_fields(fields, given, "recipe")
    return Entry(name, name, given)


def _retrain(value: Any, attacks: list[str], rates: list[str], seeds: tuple[int, ...], detectors: list[str]) -> Retrain:
    everything = {"attacks": attacks, "poison_rates": rates, "seeds": seeds, "detectors": detectors}
    chosen: dict[str, Iterable[Any]] = dict(everything)
    if isinstance(value, bool):
        chosen = chosen if value else dict.fromkeys(everything, ())
    else:
        given = values.mapping(value, "retrain", "true, false, or a mapping such as {seeds: [0]}")
        values.known_keys(given, everything, "retrain.")
        checks = {
            "attacks": values.one_of(attacks, "attack"),
            "poison_rates": values.grid_rate(rates),
            "seeds": values.one_of(seeds, "seed"),
            "detectors": values.one_of(detectors, "detector"),
        }
        for key, each in given.items():
            chosen[key] = values.listed(
                each, f"retrain.{key}", checks[key], f"[{', '.join(map(str, everything[key]))}]"
            )
    return Retrain(*(frozenset(chosen[key]) for key in everything))


def _skips(
    value: Any,
    entries: Mapping[str, Mapping[str, Entry]],
    rates: list[str],
    seeds: tuple[int, ...],
) -> tuple[Skip, ...]:
    if value is None or value == []:
        return ()
    checks = {
        "attack": values.one_of(entries["attacks"], "attack"),
        "dataset": values.one_of(entries["data"], "data set"),
        "poison_rate": values.grid_rate(rates),
        "model": values.one_of(entries["models"], "model"),
        "seed": values.one_of(seeds, "seed"),
    }

    def chosen(key: str, given: Any, where: str) -> tuple[Any, ...]:
        """One value, or a list of them."""
        several = isinstance(given, list | tuple)
        return (
            values.listed(given, where, checks[key], "[badnets, blended]") if several else (checks[key](given, where),)
        )

    def skip(given: Any, where: str) -> Skip:
        given = values.mapping(given, where, 'a mapping such as {attack: ..., why: "..."}')
        values.known_keys(given, (*checks, "why"), f"{where}.")
        why = given.pop("why", None)
        if not isinstance(why, str) or not why.strip():
            values.fail(f"{where}.why", f'expected the reason in words, such as "too few rows", got {values.show(why)}')
        if not given:
            values.fail(where, f"expected at least one of {', '.join(checks)} beside why")
        fields = {"poison_rate": "rate"}
        wanted = {fields.get(key, key): chosen(key, each, f"{where}.{key}") for key, each in given.items()}
        return Skip(tuple(wanted.items()), why)

    return values.listed(value, "skip", skip, '[{attack: ..., why: "..."}]')
