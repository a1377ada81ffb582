"""From names to methods, and what is refused on the way."""

import dataclasses
import subprocess
import sys

import pytest

from keyhole.parameters import Checked
from keyhole.planning import registry
from keyhole.planning.roles import ROLES

METHODS = [(role, name) for role in ROLES if role != "models" for name in registry.names(role)]


def test_names_are_the_method_files() -> None:
    assert {"badnets", "none", "mmd"} <= set(registry.names("attacks"))
    assert not [name for name in registry.names("attacks") if name.startswith("_")]


def test_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match=r"did you mean attacks\?"):
        registry.names("atacks")


def test_messages_suggest_the_closest_name() -> None:
    with pytest.raises(
        ValueError, match=r"attacks\.x: unknown attack 'badnet'; did you mean badnets\? choose from .*non"
    ):
        registry.load("attacks", "badnet", {}, "attacks.x")
    with pytest.raises(
        ValueError, match=r"attacks\.x\.alhpa: unknown parameter; did you mean alpha\? choose .*pattern"
    ):
        registry.load("attacks", "blended", {"alhpa": 0.1}, "attacks.x")
    with pytest.raises(ValueError, match=r"bottom_right\"; did you mean bottom-right\?"):
        registry.load("attacks", "badnets", {"corner": "bottom_right"}, "attacks.x")


def test_text_that_looks_like_a_number_says_how_to_write_it() -> None:
    with pytest.raises(ValueError, match=r"1\.0e-3"):
        registry.load("attacks", "blended", {"alpha": "1e-3"}, "attacks.x")


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"models\[0\]: unknown model 'resnet81'; did you mean resnet18\?"):
        registry.check_name("models", "resnet81", "models[0]")


def test_load_makes_an_instance_with_tuples_for_lists() -> None:
    attack = registry.load("attacks", "adap_patch", {"triggers": ["trojan_square"], "opacities": [1.0]})
    assert type(attack).__name__ == "AdapPatch"
    assert attack.triggers == ("trojan_square",)
    assert attack == registry.load("attacks", "adap_patch", {"triggers": ("trojan_square",), "opacities": (1.0,)})


def test_load_checks() -> None:
    with pytest.raises(ValueError, match=r"attacks\.badnets\.size: expected a whole number >= 1, got 0"):
        registry.load("attacks", "badnets", {"size": 0})


@pytest.mark.parametrize(("role", "name"), METHODS)
def test_every_method_has_one_class_whose_fields_can_be_checked(role: str, name: str) -> None:
    method = registry.method_class(role, name)
    assert issubclass(method, Checked)
    assert registry.name_of(method) == name
    required = [f.name for f in dataclasses.fields(method) if f.init and f.default is dataclasses.MISSING]
    words = {"assumed_payload": "oracle", "path": "somewhere", "size": 8}
    made = registry.load(role, name, {key: words[key] for key in required if key in words})
    assert registry.load(role, name, made.parameters) == made, "a method can be made again from its parameters"


def test_names_need_no_import_of_methods() -> None:
    code = (
        "import sys; from keyhole.planning import registry; registry.names('attacks');"
        "print({'torch', 'numpy', 'pandas', 'sklearn', 'scipy', 'jaxtyping'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
