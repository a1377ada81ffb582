"""Readers of plain values: each checks one, and complains in one line that names its place (`where`)."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import yaml

from keyhole.parameters import suggestion
from keyhole.planning.roles import CLEAN

__all__ = ["count", "fail", "grid_rate", "known_keys", "label", "listed", "mapping", "natural", "one_of"]
__all__ += ["rate", "show", "text", "typed"]

LABEL = re.compile(r"[a-z0-9_]+")
SCALAR = re.compile(r"[-+]?[.]?\d[\w.+-]*|true|false")


def typed(value: Any) -> Any:
    """Read numbers and truth values that came as text: `snakemake --config seeds=[0]` gives ["0"]."""
    if isinstance(value, Mapping):
        return {key: typed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [typed(each) for each in value]
    read = yaml.safe_load(value) if isinstance(value, str) and SCALAR.fullmatch(value) else value
    return read if isinstance(read, int | float) else value


def fail(where: str, problem: str) -> NoReturn:
    """Complain about the value at a place."""
    raise ValueError(f"{where}: {problem}")


def show(value: Any) -> str:
    """Return a value as it is written in a configuration."""
    return json.dumps(value, default=str)


def known_keys(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, with the closest one."""
    known = list(known)
    for key in given:
        if key not in known:
            fail(f"{where}{key}", f"unknown key{suggestion(key, known)}")


def mapping(value: Any, where: str, expected: str) -> dict[Any, Any]:
    """Read a mapping; `expected` says in words which."""
    if not isinstance(value, Mapping):
        fail(where, f"expected {expected}, got {show(value)}")
    return dict(value)


def listed(value: Any, where: str, item: Callable[[Any, str], Any], example: str) -> tuple[Any, ...]:
    """Read a list that is not empty and has no duplicates, item by item."""
    if not isinstance(value, list | tuple):
        fail(where, f"expected a list such as {example}, got {show(value)}")
    if not value:
        fail(where, f"expected at least one entry, such as {example}, got []")
    items = tuple(item(each, f"{where}[{i}]") for i, each in enumerate(value))
    for i, each in enumerate(items):
        if each in items[:i]:
            fail(f"{where}[{i}]", f"{each} is given twice; give each value once")
    return items


def text(value: Any, where: str) -> str:
    """Read the path of a folder."""
    if not isinstance(value, str) or not value.strip() or "{" in value or "}" in value:
        fail(where, f"expected the path of a folder, without braces, got {show(value)}")
    return value


def label(value: Any, where: str) -> str:
    """Read a name that is used in paths and tables."""
    if not isinstance(value, str) or not LABEL.fullmatch(value):
        fail(where, f"expected a label of lower-case letters, digits and _, such as badnets_2, got {show(value)}")
    return value


def natural(value: Any, where: str) -> int:
    """Read a whole number from 0 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        fail(where, f"expected a whole number >= 0, such as 0, got {show(value)}")
    return value


def count(value: Any, where: str) -> int:
    """Read a whole number from 1 on."""
    if natural(value, where) == 0:
        fail(where, "expected a whole number >= 1, such as 1000, got 0")
    return value


def rate(value: Any, where: str) -> str:
    """Read a poison rate, as the text that paths hold."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        clean = f"; rate 0 is the attack {CLEAN}, always in the grid" if value == 0 else ""
        fail(where, f"expected a number > 0 and < 1, such as 0.003, got {show(value)}{clean}")
    written = f"{value:g}"
    if float(written) != value:
        fail(where, f"expected at most six significant digits, such as {written}, got {value}")
    return written


def one_of(choices: Iterable[Any], noun: str) -> Callable[[Any, str], Any]:
    """Make a reader that takes one of these values."""
    choices = list(choices)

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            fail(where, f"unknown {noun} {show(value)}{suggestion(value, map(str, choices))}")
        return value

    return check


def grid_rate(choices: Iterable[str]) -> Callable[[Any, str], str]:
    """Make a reader of rates that are in the grid; 0 is that of the clean reference."""
    known = one_of(choices, "poison rate")
    return lambda value, where: known("0" if value == 0 and value is not False else rate(value, where), where)
