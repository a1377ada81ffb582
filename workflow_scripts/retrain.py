"""Train anew on the rows that a detector keeps, from the victim's initial weights; equal sets are trained on once."""

import hashlib
from pathlib import Path

from filelock import FileLock

from keyhole import artifacts
from keyhole.learning import training
from keyhole.running import jobs

jobs.begin(snakemake)
params = snakemake.params
found = artifacts.facts(snakemake.input["suspicion"])


def retrained():
    kept = ~artifacts.load_tensors(snakemake.input["suspicion"], "flagged")["flagged"]
    if kept.all():  # nothing removed: the victim itself
        return jobs.load_net(snakemake.input["model"])
    images, labels = (x[kept] for x in jobs.received(snakemake.input["train"], snakemake.input["poisoned"]))
    digest = hashlib.sha256(f"{params['code']} {params['recipe']}".encode())
    digest.update(images.numpy())
    digest.update(labels.numpy())
    shared = Path(params["shared"], f"{digest.hexdigest()[:16]}.safetensors")
    shared.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{shared}.lock"):  # another detector, or another attack, may keep the same rows
        if not shared.exists():
            net, recipe, stream = jobs.untrained(snakemake, "train")
            training.fit(net, images, labels, recipe, stream)
            jobs.save_net(shared, net, snakemake.wildcards["model"], images.shape[1:], {})
    return jobs.load_net(shared)


if found["status"] == "failed":
    jobs.save_defended(snakemake, None, found)
else:
    outcome = jobs.attempt(retrained)
    jobs.save_defended(snakemake, outcome.value, {"told": found["told"], **outcome.facts})
