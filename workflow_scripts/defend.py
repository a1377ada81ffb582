"""Train a model on the received set as a trainer does, and record what it predicts."""

from keyhole.running import jobs

jobs.begin(snakemake)
trainer, told = jobs.instantiate("trainers", snakemake.params["trainer"])
images, labels = map(jobs.on_device, jobs.received(snakemake.input["train"], snakemake.input["poisoned"]))
net, recipe, stream = jobs.untrained(snakemake, "train")  # the victim's initial weights and batches
outcome = jobs.attempt(trainer.train, net, images, labels, recipe, stream)
jobs.save_defended(snakemake, outcome.value, {"told": told, **outcome.facts})
