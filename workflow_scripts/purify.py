"""Put a purifier in front of the victim, and record what the two predict on clean and triggered test images."""

from keyhole import artifacts, rng
from keyhole.running import jobs
from keyhole.running.evaluation import answers

jobs.begin(snakemake)
cell = snakemake.wildcards
attack = jobs.equipped_attack(snakemake.params["attack"], snakemake.input["trigger"])
purifier, told = jobs.instantiate("purifiers", snakemake.params["purifier"])
evidence = jobs.limited(jobs.evidence(snakemake.input), purifier, snakemake.params["purifier"])
stream = rng.stream("purify", cell["dataset"], cell["seed"], cell["purifier"])
test = artifacts.load_tensors(snakemake.input["test"])


def purify(images):
    return purifier.purify(evidence, jobs.on_device(images), stream)


def judge(evidence):
    return answers(evidence.net, attack, test, cell, purify)


outcome = jobs.attempt(judge, evidence)
artifacts.save(snakemake.output[0], outcome.value or {}, {"told": told, **outcome.facts})
