import json
import sys
from pathlib import Path

from keyhole.planning.config import Cell, ConfigError, load
from keyhole.planning.content import Contents
from keyhole.planning.hashes import code_hash
from keyhole.planning.roles import DEFENSES, ROLES

# No public way tells a file given with --configfile, which replaces this one, from a value given with --config
CONFIG_FILES = workflow.config_settings.configfiles
if not CONFIG_FILES:

    configfile: "config.yaml"


REMEMBERED = Path(".snakemake/keyhole")  # what planning need not work out again

try:
    GRID = load(
        config,
        ", ".join(map(str, CONFIG_FILES or ["config.yaml"])),
        memory=REMEMBERED / "methods.json",
    )
except ConfigError as error:
    sys.exit(str(error))

SCRIPTS = Path(workflow.basedir, "workflow_scripts")
CONTENTS = Contents(REMEMBERED / "contents.json")
NAMED = {role.noun: role for role in ROLES.values()}

RESULTS = GRID.results
DATA = f"{RESULTS}/data/{{dataset}}"
SHARED = f"{RESULTS}/shared/{{dataset}}"
SURROGATE = f"{SHARED}/surrogate/seed={{seed}}/{{model}}"
CRAFTED = f"{RESULTS}/{{dataset}}/{{attack}}/crafted/seed={{seed}}"
RUN = f"{RESULTS}/{{dataset}}/{{attack}}/rate={{rate}}/seed={{seed}}"
VICTIM = f"{RUN}/{{model}}"
CLEAN_VICTIM = f"{RESULTS}/{{dataset}}/none/rate=0/seed={{seed}}/{{model}}"


wildcard_constraints:
    **{noun: "|".join(GRID.labels(role.key)) or "none" for noun, role in NAMED.items()},
    rate=r"[0-9.e-]+",
    seed=r"\d+",


def entry(noun):
    """The entry of a job's method, with a digest of the user's files that it names: all that the job may see of the
    configuration."""

    def of_job(cell):
        key, label = NAMED[noun].key, cell[noun]
        text = GRID.entry(key, label, cell["dataset"]).canonical
        files = GRID.files_of(key, label, cell["dataset"])
        if not files:
            return text
        return json.dumps(
            {**json.loads(text), "contents": CONTENTS.digest(files)}, sort_keys=True
        )

    return of_job


def code(script, *nouns):
    """The hash of the code that a job runs: its script, what that imports, and the modules its wildcards name."""

    def methods(noun, label):
        if noun == "attack":
            return GRID.attack_methods[label]
        return [GRID.entry(NAMED[noun].key, label).method]

    def of_job(cell):
        modules = [
            f"keyhole.{NAMED[noun].key}.{method}"
            for noun in nouns
            for method in methods(noun, cell[noun])
        ]
        return code_hash(*modules, files=(str(SCRIPTS / f"{script}.py"),))

    return of_job


def recipe(cell):
    return GRID.recipe_for(cell["dataset"])


def memory(megabytes):
    """Memory to ask for, doubled when a job is tried again; it holds two Snakemake processes of 125 MB."""
    return lambda cell, attempt: megabytes * 2 ** (attempt - 1)


def crafted(cell):
    """What the attacker learned before poisoning; most learn nothing."""
    learns = GRID.crafted_from[cell["attack"]] != "nothing"
    return [f"{CRAFTED}/crafted.safetensors".format(**cell)] if learns else []


def received(cell):
    """The poisoned rows as defenders get them: where the attacker trains, with the trigger that training ended with."""
    trained = cell["attack"] in GRID.trained_by_attacker
    path = f"{VICTIM}/materialized" if trained else f"{RUN}/poisoned"
    return f"{path}.safetensors".format(**cell)


def training_set(noun):
    """The clean set and the poisoned rows for a defense that reads them; nothing for most."""

    def of_job(cell):
        facts = GRID.facts[NAMED[noun].key, cell[noun], cell["dataset"]]
        if not facts.reads_training_set:
            return []
        return [f"{DATA}/train.safetensors".format(**cell), received(cell)]

    return of_job


def answers(key, file=""):
    """The file that each defense of a role is scored by, or another beside it, in a victim's folder."""
    role = ROLES[key]
    return [
        f"{VICTIM}/{role.folder}/{label}/{file or role.answer}"
        for label in GRID.labels(key)
    ]


def retrained(cell):
    """The detectors behind which a model is trained anew."""
    whole = Cell(**{**cell, "seed": int(cell["seed"])})
    return [label for label in GRID.labels("detectors") if GRID.retrains(whole, label)]


def trainers(cell):
    """None where the attacker trains: there is nothing left for a defender to train on."""
    trained = cell["attack"] in GRID.trained_by_attacker
    return () if trained else GRID.labels("trainers")


def victims(pattern):
    """A path for each cell of the grid."""
    return [pattern.format(**vars(cell)) for cell in GRID.cells()]
