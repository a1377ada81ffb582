"""Let a filter screen clean test images and the same images with the trigger."""

import torch

from keyhole import artifacts, rng
from keyhole.learning.training import predict
from keyhole.running import jobs, screening

jobs.begin(snakemake)
cell = snakemake.wildcards
attack = jobs.equipped_attack(snakemake.params["attack"], snakemake.input["trigger"])
method, told = jobs.instantiate("filters", snakemake.params["filter"])
evidence = jobs.evidence(snakemake.input)
test = artifacts.load_tensors(snakemake.input["test"])
stream = rng.stream("filter", cell["dataset"], cell["seed"], cell["filter"])
classes, count = evidence.net.head.out_features, snakemake.params["images"]
asked = screening.draw(attack, test, classes, cell, count, stream)
images, n = jobs.on_device(asked.images), len(asked.images)
rest, reserved = screening.reserve(evidence, count, stream)

rest = jobs.limited(rest, method, snakemake.params["filter"])
outcome = jobs.attempt(method.screen, rest, torch.cat([images, reserved]), stream)
tensors = {}
if outcome.value is not None:
    succeeds = torch.zeros(n, dtype=torch.bool)
    if asked.is_triggered.any():
        succeeds[asked.is_triggered] = predict(evidence.net, images[asked.is_triggered]).cpu() == asked.wanted
    tensors = {
        "scores": outcome.value.scores[:n],
        "flagged": outcome.value.flagged[:n],
        "is_triggered": asked.is_triggered,
        "succeeds": succeeds,
        "holdout_scores": outcome.value.scores[n:],
    }
artifacts.save(snakemake.output[0], tensors, {"told": told, **outcome.facts})
