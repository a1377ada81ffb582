"""What of a grid cannot be run, from the sizes of its data and what its methods say of themselves.

What is not known before a download is left to the job.
"""

import math
from typing import NoReturn

from keyhole.data import apportion
from keyhole.parameters import suggestion
from keyhole.planning.facts import Facts
from keyhole.planning.grid import Grid
from keyhole.planning.roles import CLEAN, DEFENSES

__all__ = ["check_possible"]


def check_possible(grid: Grid) -> None:
    """Refuse what cannot be run.

    Raises:
        ValueError: a skip without a cell, no cell left, a recipe that an attacker cannot follow, a hold-out too small
            or too large, a level or a class that does not exist, more payload and cover rows than there are, or no
            payload row.
    """
    _check_skips(grid)
    _check_recipe(grid)
    _check_holdout(grid)
    _check_inverters(grid)
    _check_levels(grid)
    for dataset in grid.labels("data"):
        _check_dataset(grid, dataset)


def _fail(where: str, problem: str) -> NoReturn:
    raise ValueError(f"{where}: {problem}")


def _check_skips(grid: Grid) -> None:
    for i, skip in enumerate(grid.skips):
        if not any(map(skip.covers, grid.all_cells())):
            _fail(f"skip[{i}]", "no cell of the grid fits; take it out, or choose values that go together")
    if not grid.cells():
        _fail("skip", "all cells are skipped; leave at least one")


def _check_recipe(grid: Grid) -> None:
    """Refuse sharpness-aware minimization where attackers train with losses of their own."""
    for label, recipe in grid.recipes.items():
        if recipe.parameters.get("sam") and grid.trained_by_attacker:
            where = f"recipes.{label}.sam" if label else "recipe.sam"
            who = ", ".join(sorted(grid.trained_by_attacker))
            _fail(where, f"expected 0, since {who} control training; take them out of this grid, or leave sam out")


def _check_holdout(grid: Grid) -> None:
    for role in DEFENSES:
        for label, entry in grid.entries[role].items():
            where, facts = f"{role}.{label}", grid.facts_of(role, label)[0]
            needed, size = "holdout" in facts.told, entry.holdout or grid.holdout.size
            if needed and not size:
                _fail("holdout", f"expected a number >= 1, such as 2000, since {where} needs clean images, got 0")
            if entry.holdout and not needed:
                _fail(f"{where}.holdout", f"{entry.method} does not look at clean images; take the key out")
            if size > grid.holdout.size:
                most = f"the {grid.holdout.size} images of `holdout`"
                _fail(f"{where}.holdout", f"expected at most {most}, got {entry.holdout}")
            own = min(size, grid.holdout.size - grid.reserved) if role == "filters" else size
            for name, (count, *_) in facts.of_holdout.items():
                if count >= own:
                    _fail(f"{where}.{name}", f"expected fewer than its {own} hold-out images, got {count}")


def _check_inverters(grid: Grid) -> None:
    for label in grid.labels("repairers"):
        wanted, known = grid.inverter_before(label), grid.labels("inverters")
        if wanted is not None and wanted not in known:
            hint = f"{suggestion(wanted, known)}; `inverters` must list it"
            _fail(f"repairers.{label}.inverter", f"unknown inverter {wanted!r}{hint}")


def _check_levels(grid: Grid) -> None:
    """Refuse a level that one of the networks does not have."""
    wanted = {f"levels[{i}]": level for i, level in enumerate(grid.levels)}
    for (role, label, _), facts in grid.facts.items():
        wanted |= {f"{role}.{label}.{name}": level for name, levels in facts.levels.items() for level in levels}
    for model in grid.labels("models"):
        known = grid.facts_of("models", model)[0].level_names
        for where, level in wanted.items():
            if level not in known:
                _fail(where, f"unknown level {level!r} of {model}{suggestion(level, known)}")


def _check_dataset(grid: Grid, label: str) -> None:
    sizes, holdout = grid.datasets[label].class_sizes, grid.holdout.size
    if sizes is None:
        return
    if grid.holdout.source == "train":
        if holdout >= sum(sizes):
            rows = f"the {sum(sizes)} training rows of {label}"
            _fail("holdout", f"expected fewer than {rows}, such as {sum(sizes) // 10}, got {holdout}")
        sizes = tuple(size - taken for size, taken in zip(sizes, apportion(sizes, holdout), strict=True))
    rates: dict[str, dict[str, None]] = {}  # of each attack, in order
    for cell in grid.cells():
        if cell.dataset == label and cell.attack != CLEAN:
            rates.setdefault(cell.attack, {})[cell.rate] = None
    for attack, used in rates.items():
        _check_attack(grid.facts["attacks", attack, label], f"attacks.{attack}", label, list(used), sizes)


def _check_attack(facts: Facts, where: str, dataset: str, rates: list[str], sizes: tuple[int, ...]) -> None:
    """Do the arithmetic of `Attack.poison` ahead of it."""
    where += ".base" * (len(facts.methods) - 1)
    target, sources, covers = facts.target_class, facts.source_classes, facts.cover_classes
    for key, classes in {"target_class": (target,), "source_classes": sources, "cover_classes": covers}.items():
        for k in classes:
            if k >= len(sizes):
                _fail(f"{where}.{key}", f"expected a class of {dataset}, 0 to {len(sizes) - 1}, got {k}")
    supply, holder = _candidates(facts, sizes)
    for rate in rates:
        payload = math.floor(float(rate) * sum(sizes) + 1e-9)
        cover = round(payload * facts.cover_ratio)
        words = f"{payload} payload and {cover} cover rows" if cover else f"{payload} payload rows"
        asked = f"rate {rate} on {dataset} asks for {words}"
        if not payload:
            _fail(where, f"{asked}; choose a rate from about {math.ceil(1e6 / sum(sizes)) / 1e6:.2g} (rates: [...])")
        demands = [(payload + (0 if covers else cover), supply, holder)]
        if covers:
            demands += [(cover, sum(sizes[k] for k in covers), f"the cover classes {list(covers)} hold")]
        for count, rows, kind in demands:
            if count > rows:
                most = f"{rows / count * payload / sum(sizes):.2g}"
                remedy = f"choose a rate up to about {most} (rates: [...]), or name the cell under skip"
                _fail(where, f"{asked}, but {kind} {rows}; {remedy}")


def _candidates(facts: Facts, sizes: tuple[int, ...]) -> tuple[int, str]:
    """How many rows may be payload, and what they are in words."""
    target, sources = facts.target_class, facts.source_classes
    if facts.clean_label:
        return sizes[target], f"target class {target} holds"
    if sources:
        return sum(sizes[k] for k in sources), f"the source classes {list(sources)} hold"
    if facts.label_map == "all_to_one":
        return sum(sizes) - sizes[target], f"the classes other than {target} hold"
    return sum(sizes), "the training set holds"
