"""Train the attacker's own network on the clean set, with other initial weights and batches than any victim's."""

from keyhole import artifacts
from keyhole.learning import training
from keyhole.running import jobs

jobs.begin(snakemake)
clean = artifacts.load_tensors(snakemake.input["train"])
net, recipe, stream = jobs.untrained(snakemake, "surrogate")
training.fit(net, clean["images"], clean["labels"], recipe, stream)
jobs.save_net(snakemake.output[0], net, snakemake.wildcards["model"], clean["images"].shape[1:], {})
