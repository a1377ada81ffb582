"""Let a trainer train a model on the poisoned set, and record what the model predicts."""

from keyhole import artifacts, models, rng
from keyhole.learning import recipes
from keyhole.planning.folders import architecture_of
from keyhole.running.answers import load_exam
from keyhole.running.defended import save_defended
from keyhole.running.devices import on_device
from keyhole.running.outcome import attempt
from keyhole.running.setup import begin, instantiate
from keyhole.types import Poisoned

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
architecture = architecture_of(cell["model"])
trainer, described = instantiate("trainers", params["trainer"])
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
clean, classes = artifacts.load_tensors(given["train"]), artifacts.facts(given["train"])["classes"]
poisoned = artifacts.load(given["poisoned"], Poisoned).apply(clean["images"], clean["labels"])
# as in train.py: the same initial weights and batches
stream = rng.stream("train", cell["dataset"], architecture, cell["seed"])
net = on_device(models.build(architecture, classes, clean["images"], stream))
images, labels = map(on_device, poisoned)
outcome = attempt(trainer.train, net, images, labels, recipes.parse(params["recipe"]), stream)
facts = {**described, "code": params["code"], **outcome.facts}
save_defended(snakemake.output, outcome.value, architecture, exam, facts)
