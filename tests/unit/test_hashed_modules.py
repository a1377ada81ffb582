"""Which modules the code hash of each job covers: an import that is added shows here, with what it would rerun."""

import ast
from pathlib import Path

import pytest

from keyhole.planning import registry, roles
from keyhole.planning.hashes import modules_of

ROOT = Path(__file__).parents[2]
SCRIPTS = {file.stem: file for file in (ROOT / "workflow_scripts").glob("*.py")}
EMPTY = {"keyhole", "keyhole.running", "keyhole.learning", "keyhole.reporting", "keyhole.scoring"}  # a docstring each

# the script's own part; a job adds its methods and its model (METHODS)
_TRAINED = "learning.training learning.batches learning.crops learning.graphs learning.muon"
_NETS = "running.nets running.devices"
_ASKED = f"attacks running.attacker running.answers {_TRAINED}"
_DEFENDER = "running.inputs running.passes running.outcome"
JOBS = {
    "fetch": "data rng running.setup running.splits",
    "hold_out": "data rng running.setup running.splits",
    "surrogate": f"{_TRAINED} models rng running.setup {_NETS}",
    "craft": f"attacks rng running.setup running.attacker {_NETS} running.outcome",
    "poison": "attacks rng running.setup running.attacker",
    "train": f"{_ASKED} models rng running.setup {_NETS} running.outcome running.victim",
    "materialize": "attacks rng running.setup running.attacker",
    "ask_clean_model": f"{_ASKED} rng running.setup {_NETS}",
    "latents": f"{_TRAINED} running.setup {_NETS}",
    "detect": f"{_DEFENDER} rng running.setup {_NETS} running.detection",
    "retrain": f"{_ASKED} models rng running.setup {_NETS} running.outcome running.retraining running.defended",
    "train_defended": f"{_ASKED} models rng running.setup {_NETS} running.outcome running.defended",
    "invert": f"{_ASKED} {_DEFENDER} rng running.setup {_NETS} running.likeness",
    "repair": f"{_ASKED} {_DEFENDER} rng running.setup {_NETS} running.defended",
    "filter": f"{_ASKED} {_DEFENDER} rng running.setup {_NETS} running.screening filters",
    "purify": f"{_ASKED} {_DEFENDER} rng running.setup {_NETS}",
}
GROUND = "artifacts types"  # in all of them

METHODS = {
    "data.digits": "data rng types",
    "models.convnet": "models rng types",
    "attacks.badnets": "attacks attacks._triggers rng types",
    "detectors.spectral_signatures": "detectors detectors._axes detectors._budget detectors._latents types",
    "filters.strip": f"filters learning.overlays {_TRAINED} types",
    "purifiers.jpeg": "purifiers types",
    "trainers.abl": f"{_TRAINED} trainers types",
}


def covered(*modules, files=()):
    names = set(modules_of(*modules, files=files)) - EMPTY - {Path(file).name for file in files}
    return {name.removeprefix("keyhole.") for name in names}


@pytest.mark.parametrize("script", JOBS)
def test_a_job_covers_what_it_runs(script):
    assert covered(files=(str(SCRIPTS[script]),)) == set(f"{JOBS[script]} {GROUND}".split())


@pytest.mark.parametrize("script", sorted(SCRIPTS.keys() - JOBS.keys() - {"draw"}))  # `draw` shows images with triggers
def test_scores_and_reports_cover_no_method_and_nothing_that_trains(script):
    parts = {name.partition(".")[0] for name in covered(files=(str(SCRIPTS[script]),))}
    assert parts <= {"artifacts", "scoring", "reporting"}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_covers_what_it_imports(method):
    assert covered(f"keyhole.{method}") == {method, *METHODS[method].split()}


@pytest.mark.parametrize("role", ["attacks", *roles.DEFENSES])
def test_no_method_covers_another(role):
    siblings = {f"{role}.{name}" for name in registry.names(role)}
    both = {name: covered(f"keyhole.{role}.{name}") & siblings - {f"{role}.{name}"} for name in registry.names(role)}
    assert {name: others for name, others in both.items() if others} == {}


def test_packages_left_out_hold_a_docstring_only():
    for name in EMPTY:
        text = (ROOT / "src" / name.replace(".", "/") / "__init__.py").read_text()
        assert [type(node) for node in ast.parse(text).body] == [ast.Expr], name
