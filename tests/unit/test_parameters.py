"""What a parameter's type accepts, and the words that refuse the rest."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Interval

from keyhole import parameters
from keyhole.attacks.badnets import BadNets
from keyhole.attacks.blended import Blended
from keyhole.parameters import (
    LEVEL,
    Checked,
    Count,
    Fraction,
    Level,
    Natural,
    ParameterError,
    PayloadGuess,
    Positive,
    RateGuess,
    Share,
    Width,
    named,
    rules,
)
from keyhole.planning import config

Corner = Literal["top", "bottom"]


@dataclass(frozen=True, kw_only=True)
class Fake(Checked):
    told: ClassVar[frozenset[str]] = frozenset({"holdout"})

    needed: str = ""
    fraction: Fraction = 0.5
    share: Share = 0.5
    positive: Positive = 1.0
    count: Count = 1
    natural: Natural = 0
    rate: RateGuess = 0.05
    payload: PayloadGuess = ()
    number: float = 1 / 4
    whole: int = -1
    text: str = "a"
    switch: bool = False
    corner: Corner = "top"
    pair: tuple[int, Fraction] = (1, 0.5)
    many: tuple[int, ...] = (1, 2)
    maybe: int | None = None
    width: Width = 8
    some: Annotated[float, Interval(gt=0, le=0.5)] = 0.1
    level: Level = "penultimate"
    levels: Literal["all"] | tuple[Level, ...] = "all"
    cached: dict = field(default_factory=dict, init=False)


GOOD = [
    ("fraction", 0), ("fraction", 1), ("share", 0.99), ("positive", 1e-9), ("count", 1), ("natural", 0),
    ("rate", 0), ("rate", "oracle"), ("payload", "oracle"), ("payload", [3, 7]), ("number", 3), ("number", -2.5),
    ("whole", -7), ("text", "oracle"), ("switch", True), ("corner", "bottom"), ("pair", [3, 0.1]), ("many", []),
    ("maybe", None), ("maybe", 4), ("width", 24), ("some", 0.5), ("levels", ["stem"]), ("levels", "all"),
]  # fmt: skip
BAD = [
    ("fraction", 1.01), ("fraction", -0.1), ("fraction", True), ("fraction", "0.5"), ("fraction", float("nan")),
    ("share", 1), ("positive", 0), ("positive", float("inf")), ("count", 0), ("count", 2.0), ("count", True),
    ("natural", -1), ("rate", 1), ("rate", "orakel"), ("rate", None), ("payload", [1.5]), ("payload", 3),
    ("number", "3"), ("number", False), ("whole", 1.0), ("text", 3), ("switch", 1), ("switch", "true"),
    ("corner", "left"), ("pair", [1]), ("pair", [1, 2]), ("pair", 1), ("many", [1, "2"]), ("many", 3),
    ("maybe", "4"), ("maybe", 4.0), ("cached", {}), ("told", []), ("width", 12), ("some", 0), ("levels", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_values_in_range_pass(name: str, value: object) -> None:
    rule = rules(Fake).get(name)
    assert rule
    assert rule.accepts(value)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_wrong_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: .*(expected|choose from) \w+"):
        Fake.from_parameters({name: value})


def test_lists_become_tuples() -> None:
    assert Fake.from_parameters({"pair": [3, 0.25]}).pair == (3, 0.25)


def test_every_parameter_is_told_with_its_value_and_makes_the_same_again() -> None:
    fake = Fake.from_parameters({"many": [4], "share": 0.25})
    assert fake.parameters["many"] == (4,)
    assert "cached" not in fake.parameters
    assert Fake.from_parameters(fake.parameters) == fake


def test_a_missing_parameter_is_named_with_what_it_takes() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needy(Checked):
        rate: Fraction

    with pytest.raises(ParameterError, match=r"rate: missing; expected a number from 0 to 1"):
        Needy.from_parameters({})


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Fraction, "a number from 0 to 1"),
        (Share, "a number >= 0 and < 1"),
        (Positive, "a number > 0"),
        (Count, "a whole number >= 1"),
        (RateGuess, "a number >= 0 and < 1, or oracle"),
        (PayloadGuess, "a list, each a whole number >= 0, or oracle"),
        (Width, "a whole number >= 8, a multiple of 8"),
        (Annotated[int, Interval(ge=1, le=100)], "a whole number from 1 to 100"),
        (int | None, "a whole number, or null"),
    ],
)
def test_ranges_in_words(hint: object, words: str) -> None:
    assert parameters._rule(hint).words == words


def test_a_type_that_no_parameter_may_have_is_our_own_error() -> None:
    with pytest.raises(TypeError, match="complex"):
        parameters._rule(complex)


def test_rules_across_fields_are_checked_when_a_method_is_made() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pair(Checked):
        low: Natural = 0
        high: Natural = 1

        def check(self) -> None:
            if self.low > self.high:
                raise ParameterError("low", f"expected at most high={self.high}, got {self.low}")

    with pytest.raises(ParameterError, match="low: expected at most high=1, got 3"):
        Pair(low=3)


def test_levels_are_found_by_their_type() -> None:
    assert named(Fake(levels=("stem", "group1")), LEVEL) == {
        "level": ("penultimate",),
        "levels": ("stem", "group1"),
    }
    assert "levels" not in named(Fake(), LEVEL), "`all` names no level"


def test_python_and_a_configuration_say_the_same_sentence() -> None:
    grid = {"datasets": ["digits"], "models": ["convnet"], "holdout": 100, "poison_rates": [0.05]}
    for method, name, parameters_ in ((Blended, "blended", {"alpha": 7.0}), (BadNets, "badnets", {"size": -1})):
        with pytest.raises(ParameterError) as python:
            method(**parameters_)
        with pytest.raises(config.ConfigError) as yaml:
            config.load({**grid, "attacks": {name: parameters_}})
        assert str(yaml.value) == f"config.yaml: attacks.{name}.{python.value}"
