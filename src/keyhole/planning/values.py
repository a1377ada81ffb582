"""Plain values of a configuration: each checked, with one line of complaint that names its place (`where`)."""

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
    """Numbers and truth values out of text: `snakemake --config seeds=[0]` gives ["0"]."""
    if isinstance(value, Mapping):
        return {key: typed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [typed(each) for each in value]
    read = yaml.safe_load(value) if isinstance(value, str) and SCALAR.fullmatch(value) else value
    return read if isinstance(read, int | float) else value


def fail(where: str, problem: str) -> NoReturn:
    raise ValueError(f"{where}: {problem}")


def show(value: Any) -> str:
    return json.dumps(value, default=str)


def known_keys(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            fail(f"{where}{key}", f"unknown key{suggestion(key, known)}")


def mapping(value: Any, where: str, expected: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        fail(where, f"expected {expected}, got {show(value)}")
    return dict(value)


def listed(value: Any, where: str, item: Callable[[Any, str], Any], example: str) -> tuple[Any, ...]:
    """A list without duplicates, every item checked; never empty."""
    if not isinstance(value, list | tuple):
        fail(where, f"expected a list such as {example}, got {show(value)}")
    if not value:
        fail(where, f"expected at least one entry, such as {example}, got []")
    items = tuple(item(each, f"{where}[{i}]") for i, each in enumerate(value))
    for i, each in enumerate(items):
        if each in items[:i]:
            fail(f"{where}[{i}]", f"{each} stands there twice; give each value once")
    return items


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "{" in value or "}" in value:
        fail(where, f"expected the path of a folder, without braces, got {show(value)}")
    return value


def label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not LABEL.fullmatch(value):
        fail(where, f"expected a label of lower-case letters, digits and _, such as badnets_2, got {show(value)}")
    return value


def natural(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        fail(where, f"expected a whole number >= 0, such as 0, got {show(value)}")
    return value


def count(value: Any, where: str) -> int:
    if natural(value, where) == 0:
        fail(where, "expected a whole number >= 1, such as 1000, got 0")
    return value


def rate(value: Any, where: str) -> str:
    """A poison rate as it stands in paths."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        clean = f"; rate 0 is the attack {CLEAN}, always in the grid" if value == 0 else ""
        fail(where, f"expected a number > 0 and < 1, such as 0.003, got {show(value)}{clean}")
    written = f"{value:g}"
    if float(written) != value:
        fail(where, f"expected at most six significant digits, such as {written}, got {value}")
    return written


def one_of(choices: Iterable[Any], noun: str) -> Callable[[Any, str], Any]:
    choices = list(choices)

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            fail(where, f"unknown {noun} {show(value)}{suggestion(value, map(str, choices))}")
        return value

    return check


def grid_rate(choices: Iterable[str]) -> Callable[[Any, str], str]:
    """A rate that is in the grid; 0 is the clean reference's."""
    known = one_of(choices, "poison rate")
    return lambda value, where: known("0" if value == 0 and value is not False else rate(value, where), where)
