"""Sections of a configuration that select cells of its grid: `retrain` and `skip`."""

from collections.abc import Iterable, Mapping
from typing import Any

from keyhole.planning import values
from keyhole.planning.grid import Entry, Retrain, Skip

__all__ = ["retrain", "skips"]


def retrain(value: Any, attacks: list[str], rates: list[str], seeds: tuple[int, ...], detectors: list[str]) -> Retrain:
    """Read where models are trained again: everywhere, nowhere, or for the cells that are named."""
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


def skips(
    value: Any,
    entries: Mapping[str, Mapping[str, Entry]],
    recipes: list[str],
    rates: list[str],
    seeds: tuple[int, ...],
) -> tuple[Skip, ...]:
    """Read which cells are left out."""
    if value is None or value == []:
        return ()
    checks = {
        "attack": values.one_of(entries["attacks"], "attack"),
        "dataset": values.one_of(entries["data"], "data set"),
        "poison_rate": values.grid_rate(rates),
        "model": values.one_of(dict.fromkeys(entry.method for entry in entries["models"].values()), "model"),
        "seed": values.one_of(seeds, "seed"),
    }
    if any(recipes):
        checks["recipe"] = values.one_of(recipes, "recipe")

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
