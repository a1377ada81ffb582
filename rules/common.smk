# the grid of the configuration, and the folders of its results
import os
import re
import sys
from pathlib import Path

from keyhole.planning import folders, plan, reading, records
from keyhole.planning.config import ConfigError, load
from keyhole.planning.content import Contents
from keyhole.planning.locks import Held, hold
from keyhole.planning.roles import ROLES

# A file given with --configfile replaces config.yaml, where Snakemake would merge the two. No public attribute tells
# such a file from a value given with --config.
CONFIG_FILES = [os.path.relpath(file) for file in workflow.config_settings.configfiles]
CONFIG_NAMES = ", ".join(CONFIG_FILES or ["config.yaml"])
if plan.planned_config() is None:
    try:  # Snakemake lets the last of two equal keys win
        for file in CONFIG_FILES or ["config.yaml"]:
            reading.read(file)
    except ConfigError as error:
        sys.exit(str(error))
if not CONFIG_FILES:

    configfile: "config.yaml"


config = (
    plan.planned_config() or config
)  # jobs take that of their run, whatever the file says by now
MEMORY = Path(".snakemake/keyhole")  # what planning need not compute again
try:
    GRID = load(config, CONFIG_NAMES, memory=MEMORY / "methods.json")
except ConfigError as error:
    sys.exit(str(error))

SCRIPTS = Path(workflow.basedir, "workflow_scripts")
CONTENTS = Contents(MEMORY / "contents.json")
SECTIONS = {role.noun: role.key for role in ROLES.values()}  # wildcard -> section

RESULTS = GRID.results
DATA = f"{RESULTS}/data/{{dataset}}"
HELD = f"{RESULTS}/{folders.HELD}"
TRAIN, TEST = (
    f"{HELD if part == GRID.holdout.source else DATA}/{part}.safetensors"
    for part in ("train", "test")
)
HOLDOUT = f"{HELD}/holdout.safetensors"
SHARED = f"{RESULTS}/{folders.SHARED}"
SURROGATE = f"{SHARED}/surrogate/seed={{seed}}/{{model}}"
CRAFTED = f"{RESULTS}/{folders.CRAFTED}"
RUN = f"{RESULTS}/{folders.RUN}"
VICTIM = f"{RESULTS}/{folders.VICTIM}"
DETECTION = f"{VICTIM}/detect/{{detector}}"
CLEAN_VICTIM = f"{RESULTS}/{{dataset}}/none/rate=0/seed={{seed}}/{{model}}"


wildcard_constraints:
    **{
        noun: "|".join(map(re.escape, GRID.labels(key))) or "none"
        for noun, key in SECTIONS.items()
    },
    rate=r"[0-9.e-]+",
    seed=r"\d+",
