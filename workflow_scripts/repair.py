"""Repair the victim, and record what the repaired model predicts on clean and triggered test images."""

from keyhole import rng
from keyhole.planning.folders import architecture_of
from keyhole.running.answers import load_exam
from keyhole.running.defended import save_defended
from keyhole.running.inputs import limit_holdout, load_evidence
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import begin, instantiate

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
architecture = architecture_of(cell["model"])
repairer, described = instantiate("repairers", params["repairer"])
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
inversion = given["inversion"] or ""  # an empty list if the repairer starts from no inverter
evidence = load_evidence(given["model"], given["holdout"], *given["training_set"], inversion=inversion)
stream = rng.stream("repair", cell["dataset"], cell["seed"], cell["repairer"])
outcome = attempt_and_count(repairer.repair, limit_holdout(evidence, repairer, params["repairer"]), stream)
facts = {**described, "code": params["code"], **outcome.facts}
save_defended(snakemake.output, outcome.value, architecture, exam, facts)
