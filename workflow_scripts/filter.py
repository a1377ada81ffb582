"""Let a filter screen clean test images and the same images with the trigger."""

from keyhole import artifacts, rng
from keyhole.running.answers import load_exam
from keyhole.running.inputs import limit_holdout, load_evidence
from keyhole.running.screening import draw, reserve, screen
from keyhole.running.setup import begin, instantiate

begin(snakemake)
cell, given, params = snakemake.wildcards, snakemake.input, snakemake.params
method, described = instantiate("filters", params["filter"])
exam = load_exam(params["attack"], given["trigger"], given["test"], cell["dataset"], cell["seed"])
evidence = load_evidence(given["model"], given["holdout"], *given["training_set"])
stream = rng.stream("filter", cell["dataset"], cell["seed"], cell["filter"])
inputs = draw(exam, evidence.net.head.out_features, params["images"], stream)
rest, reserved = reserve(evidence, params["images"], stream)
tensors, outcome = screen(method, limit_holdout(rest, method, params["filter"]), inputs, reserved, stream)
artifacts.save(snakemake.output[0], tensors, {**described, "code": params["code"], **outcome.facts})
