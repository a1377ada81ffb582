"""Repair the victim, and record what the repaired model predicts on clean and triggered test images."""

from keyhole import rng
from keyhole.running import jobs

jobs.begin(snakemake)
cell = snakemake.wildcards
repairer, told = jobs.instantiate("repairers", snakemake.params["repairer"])
stream = rng.stream("repair", cell["dataset"], cell["seed"], cell["repairer"])
evidence = jobs.limited(jobs.evidence(snakemake.input), repairer, snakemake.params["repairer"])
outcome = jobs.attempt(repairer.repair, evidence, stream)
jobs.save_defended(snakemake, outcome.value, {"told": told, **outcome.facts})
