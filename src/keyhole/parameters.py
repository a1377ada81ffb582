"""Parameters: dataclass fields whose types say their range.

A class derived from `Checked` refuses a value outside its field's type when it is made, from Python and from a
configuration in the same words. The annotation is the only place where a range is written.
"""

import difflib
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MultipleOf

__all__ = ["CRAFTS", "ORACLE", "Checked", "Count", "Fraction", "HoldoutCount", "Level", "Natural"]
__all__ += [
    "NonNegative",
    "ParameterError",
    "PayloadGuess",
    "Positive",
    "RateGuess",
    "Rule",
    "Setting",
    "Share",
    "Wrapped",
]
__all__ += ["Width", "as_tuples", "named", "rules", "suggestion", "told_by_oracle"]

ORACLE = "oracle"  # in a configuration: let the workflow put the truth here, and say so in the row
# parameter whose value may be `oracle` -> what the row then says it was told
TOLD_BY_ORACLE = {"assumed_rate": "poison_rate", "assumed_payload": "payload"}
CRAFTS = ("surrogate", "data", "nothing")  # what an attack may learn from before it poisons, the most first

# what a value names besides its own range; planning looks these up
LEVEL, OF_HOLDOUT = "a level of the network", "of the hold-out"

Fraction = Annotated[float, Interval(ge=0, le=1)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Interval(gt=0)]
NonNegative = Annotated[float, Interval(ge=0)]
Count = Annotated[int, Interval(ge=1)]
Natural = Annotated[int, Interval(ge=0)]
HoldoutCount = Annotated[int, Interval(ge=1), OF_HOLDOUT]  # so many hold-out images
Width = Annotated[int, Interval(ge=8), MultipleOf(8)]  # channels of a generator, some of them normalized in groups
Level = Annotated[str, LEVEL]
Wrapped = str | dict  # an attack: its name, or a mapping of its parameters with `method`
if TYPE_CHECKING:  # methods compute with numbers: the workflow replaces the word before they run
    RateGuess = float
    PayloadGuess = tuple[int, ...]
else:
    RateGuess = Share | Literal["oracle"]
    PayloadGuess = tuple[Natural, ...] | Literal["oracle"]


class ParameterError(ValueError):
    """A parameter that is unknown, missing or out of range; `path` names it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = path, problem

    def under(self, where: str) -> "ParameterError":
        """Return the same complaint with the place of the parameters in front."""
        return ParameterError(f"{where}.{self.path}" if self.path else where, self.problem)


@dataclass(frozen=True)
class Setting:
    """What is known of the images before any job runs."""

    shape: tuple[int, int, int]  # channels, height, width
    classes: int


@dataclass(frozen=True)
class Rule:
    """What a type accepts."""

    words: str  # for messages
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A dataclass that refuses values outside the types of its fields; override `check` for rules across fields."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # value of `variant` -> the other fields that it sets

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ParameterError: a value is out of range; its `path` is the field.
            ValueError: values do not go together.
        """
        _check_values(type(self), self.parameters)
        for name, value in self.presets.get(getattr(self, "variant", ""), {}).items():
            if getattr(self, name) != value:
                raise ParameterError(name, f"expected {value} with this variant, got {getattr(self, name)}")
        self.check()

    def check(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            ValueError: as it says.
        """

    def check_setting(self, setting: Setting) -> None:
        """Refuse parameters that do not fit the images.

        Raises:
            ValueError: as it says.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter with its value, as the constructor takes them."""
        return {name: getattr(self, name) for name in rules(type(self))}

    @classmethod
    def from_parameters(cls, given: Mapping[str, Any]) -> Any:
        """Make an instance from the plain values of a configuration; lists become tuples.

        A variant with presets sets them, and they cannot be given other values with it.

        Raises:
            ParameterError: a parameter is unknown or missing, or a value is out of range.
        """
        known = rules(cls)
        given = {**cls.presets.get(str(given.get("variant")), {}), **given}
        for name in given:
            if name not in known:
                raise ParameterError(name, f"unknown parameter{suggestion(name, sorted(known))}{_base_hint(cls, name)}")
        for field in fields(cls):
            if field.name in known and field.name not in given and field.default is MISSING is field.default_factory:
                raise ParameterError(field.name, f"missing; expected {known[field.name].words}")
        _check_values(cls, given)
        return cls(**{name: as_tuples(value) for name, value in given.items()})


def _check_values(cls: type, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        rule = rules(cls)[name]
        if not rule.accepts(value):
            raise ParameterError(
                name, f"expected {rule.words}, got {json.dumps(value, default=str)}{_hint(value, rule)}"
            )


def _base_hint(cls: type[Checked], name: str) -> str:
    hints = get_type_hints(cls, include_extras=True)
    bases = [field.name for field in fields(cls) if hints[field.name] == Wrapped]
    return "".join(f"; what its {base} takes goes into {base}: {{method: ..., {name}: ...}}" for base in bases)


_RULES: dict[type, dict[str, Rule]] = {}  # worked out once for each class


def rules(cls: type) -> dict[str, Rule]:
    """Return what each parameter of a dataclass accepts; its parameters are the fields that the constructor takes."""
    if cls not in _RULES:
        hints = get_type_hints(cls, include_extras=True)
        _RULES[cls] = {field.name: _rule(hints[field.name]) for field in fields(cls) if field.init}
    return _RULES[cls]


def named(method: Checked, what: str) -> dict[str, tuple[Any, ...]]:
    """Return the parameters whose type has a mark (`LEVEL`, `OF_HOLDOUT`), with their values."""
    hints = get_type_hints(type(method), include_extras=True)
    found = {}
    for name, rule in rules(type(method)).items():
        value = getattr(method, name)
        if _marked(hints[name], what) and value not in rule.choices:
            found[name] = value if isinstance(value, tuple) else (value,)
    return found


def _marked(hint: Any, what: str) -> bool:
    if get_origin(hint) is Annotated and what in hint.__metadata__:
        return True
    return any(_marked(part, what) for part in get_args(hint) if part is not ...)


def told_by_oracle(parameters: Mapping[str, Any]) -> set[str]:
    """Return what a method is told because its entry in the configuration says `oracle`."""
    return {TOLD_BY_ORACLE[name] for name, value in parameters.items() if value == ORACLE and name in TOLD_BY_ORACLE}


def suggestion(given: object, choices: Iterable[str], listed: bool = True) -> str:
    """Return `; did you mean …? choose from …`, to follow what is wrong."""
    choices = list(choices)
    close = difflib.get_close_matches(str(given), choices, n=1)
    text = f"; did you mean {close[0]}?" if close else ";" if listed else ""
    return f"{text} choose from {', '.join(choices) or '(nothing)'}" if listed else text


def as_tuples(value: Any) -> Any:
    """Turn lists into tuples, at any depth, since parameters are hashable and cannot be changed."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


# Rules


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # to Python, True is 1


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_PLAIN = {
    int: Rule("a whole number", _is_int),
    float: Rule("a number", _is_number),
    str: Rule("text", lambda value: isinstance(value, str)),
    bool: Rule("true or false", lambda value: isinstance(value, bool)),
    dict: Rule("a mapping", lambda value: isinstance(value, Mapping)),
    NoneType: Rule("null", lambda value: value is None),
}


def _rule(hint: Any) -> Rule:
    """Return what a type accepts.

    Raises:
        TypeError: the type is none that a parameter may have.
    """
    kind, parts = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if kind is Annotated:
        rule = _rule(parts[0])
        for bound in parts[1:]:
            rule = _bounded(rule, bound)
        return rule
    if kind in (Union, UnionType):
        options = [_rule(part) for part in parts]
        words = ", or ".join(option.words for option in options)
        choices = tuple(choice for option in options for choice in option.choices)
        return Rule(words, lambda value: any(option.accepts(value) for option in options), choices)
    if kind is Literal:
        choices = tuple(map(str, parts))
        words = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        return Rule(words, lambda value: any(type(value) is type(part) and value == part for part in parts), choices)
    if kind is tuple and parts[1:] == (...,):
        each = _rule(parts[0])
        words = f"a list, each {each.words}"
        return Rule(words, lambda value: isinstance(value, list | tuple) and all(map(each.accepts, value)))
    if kind is tuple:
        return _fixed([_rule(part) for part in parts])
    raise TypeError(f"expected a type that a parameter may have, got {hint}")


def _bounded(rule: Rule, bound: Any) -> Rule:
    """Narrow a rule to an interval or to multiples of a number; other marks change nothing."""
    if isinstance(bound, MultipleOf):
        step = bound.multiple_of
        return Rule(f"{rule.words}, a multiple of {step}", lambda value: rule.accepts(value) and value % step == 0)
    if not isinstance(bound, Interval):
        return rule
    given: dict[str, Any] = {">": bound.gt, ">=": bound.ge, "<": bound.lt, "<=": bound.le}
    given = {sign: limit for sign, limit in given.items() if limit is not None}
    words = " and ".join(f"{sign} {limit:g}" for sign, limit in given.items())
    if given.keys() == {">=", "<="}:
        words = f"from {given['>=']:g} to {given['<=']:g}"
    tests = [(COMPARE[sign], limit) for sign, limit in given.items()]
    return Rule(
        f"{rule.words} {words}", lambda value: rule.accepts(value) and all(test(value, limit) for test, limit in tests)
    )


def _fixed(parts: list[Rule]) -> Rule:
    def accepts(value: Any) -> bool:
        same = isinstance(value, list | tuple) and len(value) == len(parts)
        return same and all(rule.accepts(each) for rule, each in zip(parts, value, strict=True))

    return Rule(f"a list of {len(parts)}: {'; '.join(rule.words for rule in parts)}", accepts)


def _hint(value: Any, rule: Rule) -> str:
    """Suggest the closest choice, or how to write a number: YAML reads 1e-3, and anything in quotes, as text."""
    if rule.choices:
        return suggestion(value, rule.choices, listed=False)
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    return " as text; write it without quotes and with a decimal point, as 1.0e-3" if "number" in rule.words else ""
