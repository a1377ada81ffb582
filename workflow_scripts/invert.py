"""Let an inverter recover triggers, and try them on test images."""

from keyhole import artifacts, rng
from keyhole.running.answers import load_exam
from keyhole.running.inputs import limit_holdout, load_evidence
from keyhole.running.likeness import try_triggers
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import begin, instantiate

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
inverter, described = instantiate("inverters", params["inverter"])
evidence = load_evidence(given["model"], given["holdout"], *given["training_set"])
evidence = limit_holdout(evidence, inverter, params["inverter"])
stream = rng.stream("invert", cell["dataset"], cell["seed"], cell["inverter"])
outcome = attempt_and_count(inverter.invert, evidence, stream)
tensors = {}
if outcome.value is not None:
    exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
    tensors = try_triggers(outcome.value, evidence, exam)
artifacts.save(snakemake.output[0], tensors, {**described, "code": params["code"], **outcome.facts})
