# params, resources and input files of a job, as functions of its wildcards (`cell`)
import json

from keyhole.planning.hashes import code_hash
from keyhole.planning.roles import ROLES


def entry(noun):
    """Return a job's method and parameters, and a digest of the user's files that these name.

    A job gets nothing else from the configuration, so other changes of it do not rerun the job.
    """

    def of_job(cell):
        names = SECTIONS[noun], cell[noun], cell["dataset"]
        files = GRID.files_of(*names)
        contents = {"contents": CONTENTS.digest(files)} if files else {}
        configured = json.loads(GRID.entry(*names).canonical)
        return json.dumps({**configured, **contents}, sort_keys=True)

    return of_job


def code(script, *nouns):
    """Hash the code that a job runs: its script, the methods that its wildcards name, and all that these import."""

    def of_job(cell):
        entries = [(SECTIONS[noun], cell[noun]) for noun in nouns]
        methods = [name for each in entries for name in GRID.modules(*each)]
        return code_hash(*methods, files=(str(SCRIPTS / f"{script}.py"),))

    return of_job


def recipe(cell):
    return GRID.recipe_for(cell["dataset"], cell["model"])


def memory(megabytes):
    """Ask for memory: for Python and its libraries, for the files that a job reads, and twice as much at each retry.

    Of data as large as Tiny-ImageNet, jobs were seen to hold up to three times the size of their files.
    """

    def of_job(cell, input, attempt):
        return round(megabytes + 3 * input.size_mb, -2) * 2 ** (attempt - 1)

    return of_job


def minutes(most):
    """Ask for time, and for twice as much when a job is tried again."""
    return lambda cell, attempt: most * 2 ** (attempt - 1)


def crafted_file(cell):
    """Return the file of what the attacker learned before poisoning; most attacks learn nothing."""
    learns = GRID.crafted_from[cell["attack"]] != "nothing"
    return [f"{CRAFTED}/crafted.safetensors".format(**cell)] if learns else []


def poisoned_file(cell):
    """Return the file of the poisoned rows that defenders get.

    If the attacker trains the victim, these rows have the trigger that training ended with.
    """
    trained = cell["attack"] in GRID.trained_by_attacker
    path = f"{VICTIM}/materialized" if trained else f"{RUN}/poisoned"
    return f"{path}.safetensors".format(**cell)


def training_set(noun):
    """Return the files of the clean training set and the poisoned rows if a defense reads them; most do not."""

    def of_job(cell):
        facts = GRID.facts[SECTIONS[noun], cell[noun], cell["dataset"]]
        files = [TRAIN.format(**cell), poisoned_file(cell)]
        return files if facts.reads_training_set else []

    return of_job


def answer_files(key, file=""):
    """Return the file that each defense of a role is scored by, or another file beside it; `{...}` is left to fill."""
    folders = [f"{VICTIM}/{ROLES[key].folder}/{label}" for label in GRID.labels(key)]
    return [f"{folder}/{file or ROLES[key].answer}" for folder in folders]


def expected(rule, cell):
    """Return the digest of what a job is asked to do now; None if it is not in this grid."""
    try:
        params = workflow.get_rule(rule).params.items()
        asked = {name: value for name, value in params if name not in records.PLACES}
        values = {
            name: value(cell) if callable(value) else value
            for name, value in asked.items()
        }
        return records.digest(rule, values)
    except (KeyError, ValueError, WorkflowError):  # a label or a rule that is no more
        return None
