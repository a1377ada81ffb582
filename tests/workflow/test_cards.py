"""Every row of a table says which method and parameters made it, so that the method can be built again."""

import csv
import json

import pytest

from keyhole.planning import registry
from keyhole.planning.roles import ROLES

SECTIONS = {role.noun: key for key, role in ROLES.items()}


@pytest.fixture(scope="module")
def rows(finished):
    with (finished.root / "results/tables/cards.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_names_its_origin(rows):
    assert {row["role"] for row in rows} == {"attack", "separability", "detector", "filter"}
    for row in rows:
        assert all(row[column] for column in ("method", "parameters", "code", "commit", "versions", "hardware")), row


def test_methods_are_built_again_from_their_rows(rows, finished):
    config = json.loads((finished.root / "config.yaml").read_text())
    for row in rows:
        if row["role"] == "separability":
            continue
        label = row["defense"] if row["role"] != "attack" else row["attack"]
        section = SECTIONS[row["role"]]
        ran = registry.load(section, label, config[section].get(label, {}))
        given = json.loads(row["parameters"])
        assert registry.load(section, row["method"], given) == ran
        assert given.keys() == ran.parameters.keys()  # defaults too


def test_a_row_of_separability_names_its_levels(rows):
    levels = {row["level"] for row in rows if row["role"] == "separability"}
    for row in rows:
        if row["role"] == "separability":
            assert set(json.loads(row["parameters"])["levels"]) == levels
