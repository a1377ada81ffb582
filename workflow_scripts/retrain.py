"""Train again from the victim's initial weights on the rows that a detector keeps, and record the predictions."""

from keyhole import artifacts
from keyhole.learning import recipes
from keyhole.planning.folders import architecture_of
from keyhole.running.answers import load_exam
from keyhole.running.defended import save_defended
from keyhole.running.outcome import attempt
from keyhole.running.retraining import Shared, retrain
from keyhole.running.setup import begin

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
architecture = architecture_of(cell["model"])
facts = {**artifacts.facts(given["suspicion"]), "code": params["code"]}  # if the detector failed, its reason is kept
net = None
if facts["status"] == "ok":
    key = ("train", cell["dataset"], architecture, cell["seed"])  # as in train.py: the same initial weights and batches
    shared = Shared(architecture, recipes.parse(params["recipe"]), key, params["code"], params["shared"])
    outcome = attempt(retrain, given["suspicion"], given["model"], given["train"], given["poisoned"], shared)
    described = {name: facts[name] for name in ("told", "method", "parameters", "code")}
    net, facts = outcome.value, {**described, **outcome.facts}
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
save_defended(snakemake.output, net, architecture, exam, facts)
