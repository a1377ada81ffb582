"""Read the victim's latents on the training set it received."""

import json

from keyhole import artifacts
from keyhole.learning.training import latents
from keyhole.running.inputs import load_received
from keyhole.running.nets import load_net
from keyhole.running.setup import begin

begin(snakemake.threads, snakemake.log[0], snakemake.rule)
given, levels = snakemake.input, tuple(json.loads(snakemake.params["levels"]))
images, _ = load_received(given["train"], given["poisoned"])
artifacts.save(snakemake.output[0], latents(load_net(given["model"]), images, levels))
