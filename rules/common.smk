import json
import sys
from pathlib import Path

from keyhole.planning.config import Cell, ConfigError, load
from keyhole.planning.grid import DEFENSES
from keyhole.planning.hashes import code_hash
from keyhole.planning.registry import classvars

CONFIG_FILE = ", ".join(
    map(str, workflow.config_settings.configfiles or ["config.yaml"])
)
try:
    GRID = load(config, CONFIG_FILE)
except ConfigError as error:
    sys.exit(str(error))

SCRIPTS = Path(workflow.current_basedir).parent / "workflow_scripts"
RESULTS = GRID.results
DATA = f"{RESULTS}/data/{{dataset}}"
SHARED = f"{RESULTS}/shared/{{dataset}}"
RUN = f"{RESULTS}/{{dataset}}/{{attack}}/rate={{rate}}/seed={{seed}}"
VICTIM = f"{RUN}/{{model}}"
CLEAN_VICTIM = f"{RESULTS}/{{dataset}}/none/rate=0/seed={{seed}}/{{model}}"

ROLES = {
    "dataset": "data",
    "model": "models",
    "attack": "attacks",
    "detector": "detectors",
    "inverter": "inverters",
    "repairer": "repairers",
    "filter": "filters",
    "purifier": "purifiers",
    "trainer": "trainers",
}


wildcard_constraints:
    **{name: "|".join(GRID.labels(role)) or "none" for name, role in ROLES.items()},
    rate=r"[0-9.e-]+",
    seed=r"\d+",
    defense=r"[a-z0-9_]+",


def entry(wildcard):
    """The configuration entry of a job's method: the only part of the configuration that the job may see."""
    return lambda cell: GRID.entry(
        ROLES[wildcard], cell[wildcard], cell["dataset"]
    ).canonical


def code(script, *wildcards):
    """Hash of the code that a job runs: its script, what that imports, and the modules its wildcards name."""

    def methods(name, label):
        if name == "model":
            return [label]
        if name == "attack":
            return GRID.attack_methods[label]
        return [GRID.entry(ROLES[name], label).method]

    def of_job(cell):
        modules = [
            f"keyhole.{ROLES[name]}.{method}"
            for name in wildcards
            for method in methods(name, cell[name])
        ]
        return code_hash(*modules, files=(str(SCRIPTS / f"{script}.py"),))

    return of_job


def received(cell):
    """The poisoned rows as defenders get them: where the attacker trains, with the trigger that training ended with."""
    trained = cell["attack"] in GRID.trained_by_attacker
    path = f"{VICTIM}/materialized" if trained else f"{RUN}/poisoned"
    return f"{path}.safetensors".format(**cell)


def recipe(cell):
    return GRID.recipe_for(cell["dataset"])


def memory(megabytes):
    """Memory to ask for, doubled when a job is tried again; it holds two Snakemake processes of 125 MB."""
    return lambda cell, attempt: megabytes * 2 ** (attempt - 1)


def as_cell(wildcards):
    return Cell(**{**wildcards, "seed": int(wildcards["seed"])})


def victims(pattern, **chosen):
    """A path for each cell of the grid."""
    return [pattern.format(**vars(cell), **chosen) for cell in GRID.cells()]
