"""What the registry reads from method files, and what it refuses."""

import dataclasses
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyhole import parameters
from keyhole.planning import registry, signatures

METHODS = [(role, name) for role in registry.ROLES if role != "models" for name in registry.names(role)]

METHOD = '''"""A method of this test."""
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from keyhole.attacks import Attack
from keyhole.parameters import Count, Fraction, Natural, PayloadGuess, Positive, RateGuess, Share
from ._shapes import Corner, Shape

__all__ = ["Fake"]

@dataclass(frozen=True, kw_only=True)
class Fake(Shape, Attack):
    controls = "clean-label"
    told: ClassVar[frozenset[str]] = frozenset({"holdout", "trigger_family"})
    needed: str
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
    cached: dict = field(default_factory=dict, init=False)

    @property
    def cover_ratio(self) -> float:
        return self.number * 2
'''
SHAPES = """
from dataclasses import dataclass
from typing import Literal
Corner = Literal["top", "bottom"]

@dataclass(frozen=True, kw_only=True)
class Shape:
    width: int = 3
    text: str = "from the base"
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package with one more attack."""
    copy = shutil.copytree(registry.PACKAGE, tmp_path / "keyhole", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "attacks" / "fake.py").write_text(METHOD)
    (copy / "attacks" / "_shapes.py").write_text(SHAPES)
    monkeypatch.setattr(registry, "PACKAGE", copy)
    monkeypatch.setattr(signatures, "PACKAGE", copy)
    return copy


def test_names_are_the_method_files(tree: Path) -> None:
    assert "fake" in registry.names("attacks")
    assert not {"_shapes", "__init__"} & set(registry.names("attacks"))
    (tree / "attacks" / "fake.py").unlink()
    assert "fake" not in registry.names("attacks")


def test_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match=r"did you mean attacks\?"):
        registry.names("atacks")


def test_parameters_follow_base_classes_and_aliases(tree: Path) -> None:
    found = registry.parameters("attacks", "fake")
    assert list(found)[:5] == ["target_class", "label_map", "targets", "width", "text"], (
        "base classes first, as in the constructor"
    )
    assert found["target_class"].annotation == "Natural"
    assert found["width"].default == "3"
    assert found["text"].default == "'a'", "the class itself has the last word"
    assert found["needed"].default == "required"
    assert found["corner"].annotation == "Literal['top', 'bottom']"
    assert not {"cached", "told", "controls"} & set(found)


def test_class_constants_are_inherited_and_overridden(tree: Path) -> None:
    found = registry.classvars("attacks", "fake")
    assert found["controls"] == "clean-label"
    assert found["told"] == frozenset({"holdout", "trigger_family"})
    assert registry.classvars("attacks", "blended")["controls"] == "dirty-label"
    assert "fraction" not in found


def test_a_field_takes_the_place_of_a_constant(tree: Path) -> None:
    file = tree / "attacks" / "fake.py"
    file.write_text(METHOD.replace('    controls = "clean-label"', '    controls: str = "labels"'))
    assert "controls" not in registry.classvars("attacks", "fake")
    assert registry.evaluate("attacks", "fake", {}, "controls") == "labels"


def test_unreadable_constant_is_an_error_that_names_it(tree: Path) -> None:
    (tree / "attacks" / "fake.py").write_text(METHOD.replace('frozenset({"holdout", "trigger_family"})', "compute()"))
    with pytest.raises(TypeError, match=r"Fake\.told"):
        registry.classvars("attacks", "fake")


def test_evaluate_reads_fields_constants_and_simple_properties(tree: Path) -> None:
    assert registry.evaluate("attacks", "fake", {}, "cover_ratio") == 0.5
    assert registry.evaluate("attacks", "fake", {"number": 2}, "cover_ratio") == 4
    assert registry.evaluate("attacks", "fake", {}, "count") == 1
    assert registry.evaluate("attacks", "fake", {}, "controls") == "clean-label"
    assert registry.evaluate("attacks", "blended", {}, "cover_ratio") == 0, "from the base class"
    assert registry.evaluate("attacks", "fake", {}, "nothing") is None
    (tree / "attacks" / "fake.py").write_text(METHOD.replace("whole: int = -1", "whole: int = compute()"))
    assert registry.evaluate("attacks", "fake", {}, "whole") is None
    assert registry.evaluate("attacks", "fake", {}, "cover_ratio") == 0.5
    assert registry.evaluate("attacks", "fake", {"whole": 3}, "whole") == 3


GOOD = [
    ("fraction", 0), ("fraction", 1), ("share", 0.99), ("positive", 1e-9), ("count", 1), ("natural", 0),
    ("rate", 0), ("rate", "oracle"), ("payload", "oracle"), ("payload", [3, 7]), ("number", 3), ("number", -2.5),
    ("whole", -7), ("text", "oracle"), ("switch", True), ("corner", "bottom"), ("pair", [3, 0.1]), ("many", []),
    ("maybe", None), ("maybe", 4),
]  # fmt: skip
BAD = [
    ("fraction", 1.01), ("fraction", -0.1), ("fraction", True), ("fraction", "0.5"), ("fraction", float("nan")),
    ("share", 1), ("positive", 0), ("positive", float("inf")), ("count", 0), ("count", 2.0), ("count", True),
    ("natural", -1), ("rate", 1), ("rate", "orakel"), ("rate", None), ("payload", [1.5]), ("payload", 3),
    ("number", "3"), ("number", False), ("whole", 1.0), ("text", 3), ("switch", 1), ("switch", "true"),
    ("corner", "left"), ("pair", [1]), ("pair", [1, 2]), ("pair", 1), ("many", [1, "2"]), ("many", 3),
    ("maybe", "4"), ("maybe", 4.0), ("cached", {}), ("told", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_values_in_range_pass(tree: Path, name: str, value: object) -> None:
    registry.check("attacks", "fake", {"needed": "", name: value}, "attacks.fake")


@pytest.mark.parametrize(("name", "value"), BAD)
def test_wrong_values_are_refused_by_key_path(tree: Path, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^attacks\.mine\.{name}: .*(expected|choose from) \w+"):
        registry.check("attacks", "fake", {"needed": "", name: value}, "attacks.mine")


def test_messages_suggest_the_closest_name() -> None:
    with pytest.raises(
        ValueError, match=r"attacks\.x: unknown attack 'badnet'; did you mean badnets\? choose from .*non"
    ):
        registry.check("attacks", "badnet", {}, "attacks.x")
    with pytest.raises(
        ValueError, match=r"attacks\.x\.alhpa: unknown parameter; did you mean alpha\? choose .*pattern"
    ):
        registry.check("attacks", "blended", {"alhpa": 0.1}, "attacks.x")
    with pytest.raises(ValueError, match=r"bottom_right\"; did you mean bottom-right\?"):
        registry.check("attacks", "badnets", {"corner": "bottom_right"}, "attacks.x")


def test_text_that_looks_like_a_number_says_how_to_write_it() -> None:
    with pytest.raises(ValueError, match=r"1\.0e-3"):
        registry.check("attacks", "blended", {"alpha": "1e-3"}, "attacks.x")


def test_missing_parameter_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"attacks\.x\.needed: missing; expected text"):
        registry.check("attacks", "fake", {}, "attacks.x")


def test_an_annotation_without_a_check_is_our_own_error(tree: Path) -> None:
    (tree / "attacks" / "fake.py").write_text(METHOD.replace("text: str", "text: complex"))
    with pytest.raises(TypeError, match="complex"):
        registry.check("attacks", "fake", {"needed": "", "text": "a"}, "attacks.x")


def test_every_range_of_parameters_has_a_rule() -> None:
    ranges = {name for name, value in vars(parameters).items() if value in (int, float, tuple)}
    assert ranges
    assert ranges <= set(registry._RULES)


def test_models_take_no_parameters() -> None:
    registry.check("models", "resnet18", {}, "models[0]")
    with pytest.raises(ValueError, match=r"models\[0\]: unknown model 'resnet81'; did you mean resnet18\?"):
        registry.check("models", "resnet81", {}, "models[0]")


def test_recipe_fields_are_read_without_importing_them() -> None:
    found = registry.dataclass_parameters(registry.PACKAGE / "learning" / "recipes.py", "Recipe")
    assert found["epochs"].annotation == "Count"
    registry.check_fields(found, {"epochs": 3, "milestones": [0.5]}, "recipe")
    with pytest.raises(ValueError, match=r"recipe\.epoch: unknown parameter; did you mean epochs\?"):
        registry.check_fields(found, {"epoch": 3}, "recipe")


def test_load_makes_an_instance_with_tuples_for_lists() -> None:
    attack = registry.load("attacks", "adap_patch", {"triggers": ["trojan_square"], "opacities": [1.0]})
    assert type(attack).__name__ == "AdapPatch"
    assert attack.triggers == ("trojan_square",)
    assert attack == registry.load("attacks", "adap_patch", {"triggers": ("trojan_square",), "opacities": (1.0,)})


def test_load_checks_first() -> None:
    with pytest.raises(ValueError, match=r"attacks\.badnets\.size: expected a whole number >= 1, got 0"):
        registry.load("attacks", "badnets", {"size": 0})


@pytest.mark.parametrize(("role", "name"), METHODS)
def test_what_is_read_is_what_python_sees(role: str, name: str) -> None:
    module = importlib.import_module(f"keyhole.{role}.{name}")
    method = getattr(module, module.__all__[0])
    fields = {field.name: field for field in dataclasses.fields(method) if field.init}
    found = registry.parameters(role, name)
    assert set(found) == set(fields)
    for key, field in fields.items():
        if field.default is not dataclasses.MISSING:
            assert registry.evaluate(role, name, {}, key) in (field.default, None), "None where only Python can tell"
            registry.check_fields({key: found[key]}, {key: field.default}, "default")
    for key, value in registry.classvars(role, name).items():
        assert inspect.getattr_static(method, key) == value


def test_import_and_check_need_no_heavy_package() -> None:
    code = (
        "import sys; from keyhole.planning import registry;"
        "registry.check('attacks', 'blended', {'alpha': 0.1}, 'x'); registry.classvars('attacks', 'badnets');"
        "print({'torch', 'numpy', 'pandas', 'sklearn', 'scipy', 'jaxtyping'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
