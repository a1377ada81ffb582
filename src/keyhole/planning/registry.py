"""From a method's file name to its class.

A file `keyhole/<role>/<name>.py` is a method; there is no list to keep in sync. Names need no import; a class does, and
with it torch, which takes seconds (see `planning.facts`).
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyhole.parameters import Checked, ParameterError, suggestion
from keyhole.planning.roles import ROLES

__all__ = ["check_name", "load", "method_class", "name_of", "names", "unwrap"]

PACKAGE = Path(__file__).parents[1]


def names(role: str) -> tuple[str, ...]:
    """List the methods of a role, by file name.

    Raises:
        ValueError: there is no such role.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}{suggestion(role, ROLES)}")
    return tuple(sorted(file.stem for file in (PACKAGE / role).glob("*.py") if not file.stem.startswith("_")))


def check_name(role: str, name: str, where: str) -> None:
    """Refuse a name that no method of the role has.

    Raises:
        ParameterError: as it says, with the closest name.
    """
    if name not in names(role):
        noun = "data set" if role == "data" else ROLES[role].noun
        raise ParameterError(where, f"unknown {noun} {name!r}{suggestion(name, names(role))}")


def name_of(method: Checked | type) -> str:
    """Return the name of a method: that of its file."""
    kind = method if isinstance(method, type) else type(method)
    return kind.__module__.rpartition(".")[2]


def method_class(role: str, name: str) -> type[Checked]:
    """Import a method's class: the single name in its file's `__all__`.

    Raises:
        ValueError: there is no such method.
        TypeError: its file names no class, or several.
    """
    check_name(role, name, role)
    module = importlib.import_module(f"keyhole.{role}.{name}")
    public = getattr(module, "__all__", [])
    if role == "models" or len(public) != 1:
        raise TypeError(f"{role}/{name}.py: expected one class name in __all__, got {public}")
    return getattr(module, public[0])


def load(role: str, name: str, parameters: Mapping[str, Any] | None = None, where: str = "") -> Any:
    """Make a method.

    Args:
        where: the place of the parameters in a configuration, for messages; `role.name` by default.

    Raises:
        ParameterError: an unknown method or parameter, a missing parameter, a wrong type, a value out of range, or
            values that do not go together.
    """
    where = where or f"{role}.{name}"
    check_name(role, name, where)
    try:
        return method_class(role, name).from_parameters(parameters or {})
    except ParameterError as error:
        raise error.under(where) from None
    except ValueError as error:
        raise ParameterError(where, str(error)) from None


def unwrap(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return method and parameters of a wrapped attack, given as a name or as a mapping with `method`.

    Raises:
        ParameterError: it is neither, or the attack is the clean reference.
    """
    given = {"method": value} if isinstance(value, str) else value
    method = given.get("method") if isinstance(given, Mapping) else None
    if not isinstance(method, str):
        example = "blended, or {method: blended, alpha: 0.1}"
        raise ParameterError(where, f"expected an attack such as {example}, got {json.dumps(value, default=str)}")
    if method == "none":
        raise ParameterError(where, "expected an attack, got none, which poisons nothing")
    return method, {key: each for key, each in given.items() if key != "method"}
