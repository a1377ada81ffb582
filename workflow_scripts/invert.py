"""Let an inverter look for triggers, and try what it recovered on test images."""

from keyhole import artifacts, rng
from keyhole.running import jobs
from keyhole.running.evaluation import inverted

jobs.begin(snakemake)
cell = snakemake.wildcards
inverter, told = jobs.instantiate("inverters", snakemake.params["inverter"])
evidence = jobs.limited(jobs.evidence(snakemake.input), inverter, snakemake.params["inverter"])
stream = rng.stream("invert", cell["dataset"], cell["seed"], cell["inverter"])
outcome = jobs.attempt(inverter.invert, evidence, stream)
tensors = {}
if outcome.value is not None:
    attack = jobs.equipped_attack(snakemake.params["attack"], snakemake.input["trigger"])
    test = artifacts.load_tensors(snakemake.input["test"])
    tensors = inverted(outcome.value, evidence, attack, test, cell)
artifacts.save(snakemake.output[0], tensors, {"told": told, **outcome.facts})
