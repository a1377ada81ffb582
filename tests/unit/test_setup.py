"""What a job says about the method that it built."""

import json

import pytest

from keyhole.planning import registry
from keyhole.running.attacker import load_attack
from keyhole.running.setup import instantiate


def entry(method, **parameters):
    return json.dumps({"method": method, "parameters": parameters})


def test_oracle_is_replaced_in_the_method_and_kept_in_the_row():
    method, described = instantiate(
        "detectors", entry("spectral_signatures", assumed_rate="oracle"), {"assumed_rate": 0.07}
    )
    assert method.assumed_rate == 0.07
    assert described["method"] == "spectral_signatures"
    assert described["told"] == "poison_rate"
    assert json.loads(described["parameters"])["assumed_rate"] == "oracle"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("badnets", {}),
        ("adap_patch", {"opacities": [0.5, 0.25, 0.5, 0.3]}),
        ("tact", {"source_classes": [1], "target_class": 2}),
        ("mmd", {"base": {"method": "bypass", "base": {"method": "blended", "alpha": 0.1}}}),
    ],
)
def test_parameters_hold_all_defaults_and_build_the_attack_again(name, given):
    attack, described = instantiate("attacks", entry(name, **given))
    parameters = json.loads(described["parameters"])
    again, described_again = instantiate("attacks", entry(name, **parameters))
    assert described_again == described
    assert vars(again).keys() == vars(attack).keys()
    while "base" in parameters:
        parameters = parameters["base"]
    assert parameters["target_class"] == attack.target_class


def test_an_attack_without_a_file_has_learned_nothing():
    assert load_attack(entry("badnets")) == registry.load("attacks", "badnets")
    assert load_attack(entry("badnets")).tensors == {}
