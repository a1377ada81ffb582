"""Read the victim's latents on the training set it received."""

import json

from keyhole import artifacts
from keyhole.learning import training
from keyhole.running import jobs

jobs.begin(snakemake)
net = jobs.load_net(snakemake.input["model"])
images, _ = jobs.received(snakemake.input["train"], snakemake.input["poisoned"])
levels = tuple(json.loads(snakemake.params["levels"]))
artifacts.save(snakemake.output[0], training.latents(net, jobs.on_device(images), levels))
