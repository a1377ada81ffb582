"""Train the victim on the poisoned set, and record what it predicts on clean and triggered test images."""

from keyhole import artifacts, models, rng
from keyhole.learning import recipes
from keyhole.planning.folders import architecture_of
from keyhole.running.answers import answer, load_exam
from keyhole.running.attacker import load_attack
from keyhole.running.devices import on_device
from keyhole.running.logs import JobError
from keyhole.running.nets import save_net
from keyhole.running.outcome import attempt
from keyhole.running.setup import begin, instantiate
from keyhole.running.victim import train_victim
from keyhole.types import Poisoned

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
architecture = architecture_of(cell["model"])
clean, classes = artifacts.load_tensors(given["train"]), artifacts.facts(given["train"])["classes"]
images, labels = clean["images"], clean["labels"]
attack = load_attack(params["attack"], *given["crafted"])
stream, recipe = rng.stream("train", cell["dataset"], architecture, cell["seed"]), recipes.parse(params["recipe"])
net = on_device(models.build(architecture, classes, images, stream))

poisoned = artifacts.load(given["poisoned"], Poisoned)
outcome = attempt(train_victim, attack, net, images, labels, poisoned, recipe, stream)
if outcome.value is None:  # without a victim nothing else can run, so the job fails and the scheduler may try it again
    raise JobError(f"training failed: {outcome.facts['reason']}")
artifacts.save(snakemake.output["trigger"], {**attack.tensors, **outcome.value})
exam = load_exam(params["attack"], snakemake.output["trigger"], given["test"], cell["dataset"], cell["seed"])
facts = {
    **outcome.facts,
    **{name: getattr(attack, name) for name in ("controls", "target_class", "label_map", "paper_asr")},
    "target_classes": list(attack.target_classes(classes)),
    **instantiate("attacks", params["attack"])[1],
    "training": params["recipe"],
    "code": params["code"],
}
save_net(snakemake.output["model"], net, architecture, images.shape[1:], facts)
artifacts.save(snakemake.output["predictions"], answer(net, exam), facts)
