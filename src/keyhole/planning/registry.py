"""From a method's file name to its class, and what can be known of a method without importing it.

A file `keyhole/<role>/<name>.py` is a method; there is no list to keep in sync.
"""

import ast
import difflib
import importlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyhole.parameters import ORACLE
from keyhole.planning import signatures
from keyhole.planning.signatures import REQUIRED, Parameter

__all__ = [
    "ROLES",
    "Parameter",
    "check",
    "check_fields",
    "classvars",
    "dataclass_parameters",
    "evaluate",
    "load",
    "names",
    "parameters",
    "suggestion",
    "wrapped",
]

WRAPPED = "Wrapped"  # the annotation, of `keyhole.parameters`, of an attack that another goes over
PACKAGE = Path(__file__).parents[1]
ROLES = ("attacks", "detectors", "inverters", "repairers", "filters", "purifiers", "trainers", "data", "models")


def names(role: str) -> tuple[str, ...]:
    """The methods of a role, by file name.

    Raises:
        ValueError: there is no such role.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}{suggestion(role, ROLES)}")
    return tuple(sorted(file.stem for file in (PACKAGE / role).glob("*.py") if not file.stem.startswith("_")))


def parameters(role: str, name: str) -> dict[str, Parameter]:
    """A method's parameters, those of its base classes first; a model has none.

    Raises:
        ValueError: there is no such method.
    """
    return _fields(role, name)


def dataclass_parameters(module_file: str | Path, class_name: str) -> dict[str, Parameter]:
    """The fields of any dataclass of the package, as `parameters`."""
    return signatures.class_parameters(Path(module_file), class_name)


def classvars(role: str, name: str) -> dict[str, Any]:
    """A method's class constants (`controls`, `told`, `flips`), those of its base classes included.

    Raises:
        ValueError: there is no such method.
        TypeError: a constant is neither a literal nor a frozenset of literals.
    """
    return signatures.class_constants(*_class(role, name))


def evaluate(role: str, name: str, parameters: Mapping[str, Any], attribute: str) -> Any:
    """A field, constant or simple property of a method with these parameters; None where only an import can tell."""
    return signatures.evaluate(*_class(role, name), parameters, attribute)


def check(role: str, name: str, parameters: Mapping[str, Any], where: str) -> None:
    """Compare a method's name and parameters, as they stand in a configuration at `where`, with its file.

    Raises:
        ValueError: an unknown method or parameter, a missing parameter, a wrong type or a value out of range.
    """
    if name not in names(role):
        noun = "data set" if role == "data" else role[:-1]
        raise ValueError(f"{where}: unknown {noun} {name!r}{suggestion(name, names(role))}")
    known = _fields(role, name)
    check_fields(known, parameters, where)
    for field in known.values():
        if field.default == REQUIRED and field.name not in parameters:
            words = _rule(ast.parse(field.annotation, mode="eval").body).words
            raise ValueError(f"{where}.{field.name}: missing; expected {words}")


def wrapped(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Method and parameters of an attack that another goes over: its name, or a mapping with `method`.

    Raises:
        ValueError: it is neither, or the attack is the clean reference.
    """
    given = {"method": value} if isinstance(value, str) else value
    method = given.get("method") if isinstance(given, Mapping) else None
    if not isinstance(method, str):
        example = "blended, or {method: blended, alpha: 0.1}"
        raise ValueError(f"{where}: expected an attack such as {example}, got {json.dumps(value, default=str)}")
    if method == "none":
        raise ValueError(f"{where}: expected an attack, got none, which poisons nothing")
    return method, {key: each for key, each in given.items() if key != "method"}


def check_fields(known: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> None:
    """Compare given values with the fields of a dataclass.

    Raises:
        ValueError: an unknown field, a wrong type or a value out of range.
    """
    for key, value in given.items():
        if key not in known:
            bases = [name for name, field in known.items() if field.annotation == WRAPPED]
            hint = "".join(f"; what its {base} takes goes into {base}: {{method: ..., {key}: ...}}" for base in bases)
            raise ValueError(f"{where}.{key}: unknown parameter{suggestion(key, sorted(known))}{hint}")
        if known[key].annotation == WRAPPED:
            check("attacks", *wrapped(value, f"{where}.{key}"), f"{where}.{key}")
            continue
        rule = _rule(ast.parse(known[key].annotation, mode="eval").body)
        if not rule.accepts(value):
            hint = suggestion(value, rule.choices, listed=False) if rule.choices else _number_hint(value, rule)
            raise ValueError(f"{where}.{key}: expected {rule.words}, got {json.dumps(value, default=str)}{hint}")


def load(role: str, name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """An instance of a method.

    Raises:
        ValueError: as `check`.
    """
    check(role, name, parameters or {}, f"{role}.{name}")
    _, class_name = _class(role, name)
    method = getattr(importlib.import_module(f"keyhole.{role}.{name}"), class_name)
    return method(**{key: _tuples(value) for key, value in (parameters or {}).items()})


def suggestion(given: object, choices: Iterable[str], listed: bool = True) -> str:
    """`; did you mean …? choose from …`, to be put behind what is wrong."""
    choices = list(choices)
    close = difflib.get_close_matches(str(given), choices, n=1)
    text = f"; did you mean {close[0]}?" if close else ";" if listed else ""
    return f"{text} choose from {', '.join(choices) or '(nothing)'}" if listed else text


def _fields(role: str, name: str) -> dict[str, Parameter]:
    return {} if role == "models" else signatures.class_parameters(*_class(role, name))


def _class(role: str, name: str) -> tuple[Path, str]:
    """File and class of a method: the single name in `__all__`."""
    if name not in names(role):
        raise ValueError(f"unknown method {role}.{name}{suggestion(name, names(role))}")
    file = PACKAGE / role / f"{name}.py"
    public = signatures.constant(file, "__all__") or []
    if role == "models" or len(public) != 1:
        raise ValueError(f"{role}/{name}.py: expected one class name in __all__, got {public}")
    return file, public[0]


@dataclass(frozen=True)
class _Rule:
    words: str  # what is accepted, for the message
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # to Python, True is 1


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_int(row) and row >= 0 for row in value)


_RULES = {
    "Fraction": _Rule("a number from 0 to 1", lambda x: _is_number(x) and 0 <= x <= 1),
    "Share": _Rule("a number >= 0 and < 1", lambda x: _is_number(x) and 0 <= x < 1),
    "Positive": _Rule("a number > 0", lambda x: _is_number(x) and x > 0),
    "NonNegative": _Rule("a number >= 0", lambda x: _is_number(x) and x >= 0),
    "Count": _Rule("a whole number >= 1", lambda x: _is_int(x) and x >= 1),
    "Natural": _Rule("a whole number >= 0", lambda x: _is_int(x) and x >= 0),
    "RateGuess": _Rule("a number >= 0 and < 1, or oracle", lambda x: x == ORACLE or (_is_number(x) and 0 <= x < 1)),
    "PayloadGuess": _Rule("a list of row numbers, or oracle", lambda x: _is_rows(x) or x == ORACLE),
    "int": _Rule("a whole number", _is_int),
    "float": _Rule("a number", _is_number),
    "str": _Rule("text", lambda x: isinstance(x, str)),
    "bool": _Rule("true or false", lambda x: isinstance(x, bool)),
}


def _rule(node: ast.expr) -> _Rule:
    """The check that an annotation stands for."""
    match node:
        case ast.Name(id=name) if name in _RULES:
            return _RULES[name]
        case ast.Constant(value=None):
            return _Rule("null", lambda x: x is None)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _either(_rule(left), _rule(right))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return _one_of(choices.elts if isinstance(choices, ast.Tuple) else [choices])
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[each, ast.Constant(value=dots)])) if (
            dots is ...
        ):
            rule = _rule(each)
            accepts = rule.accepts
            words = f"a list, each {rule.words}"
            return _Rule(words, lambda x: isinstance(x, list | tuple) and all(map(accepts, x)))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=inner):
            return _fixed([_rule(each) for each in (inner.elts if isinstance(inner, ast.Tuple) else [inner])])
    raise TypeError(f"expected an annotation that registry can check, got {ast.unparse(node)}")


def _either(a: _Rule, b: _Rule) -> _Rule:
    return _Rule(f"{a.words}, or {b.words}", lambda x: a.accepts(x) or b.accepts(x), a.choices + b.choices)


def _one_of(nodes: list[ast.expr]) -> _Rule:
    values = [signatures.value(node) for node in nodes]
    choices = tuple(map(str, values))
    return _Rule(f"one of {', '.join(choices)}", lambda x: any(type(x) is type(v) and x == v for v in values), choices)


def _fixed(rules: list[_Rule]) -> _Rule:
    def accepts(value: Any) -> bool:
        same = isinstance(value, list | tuple) and len(value) == len(rules)
        return same and all(rule.accepts(x) for rule, x in zip(rules, value, strict=True))

    return _Rule(f"a list of {len(rules)}: {'; '.join(rule.words for rule in rules)}", accepts)


def _number_hint(value: Any, rule: _Rule) -> str:
    """YAML takes 1e-3, like anything in quotes, for text."""
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    return " as text; write it without quotes and with a decimal point, as 1.0e-3" if "number" in rule.words else ""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
