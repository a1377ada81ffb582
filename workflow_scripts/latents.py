"""Compute the victim's latents of its poisoned training set."""

import json

from keyhole import artifacts
from keyhole.learning.training import latents
from keyhole.running.nets import load_net
from keyhole.running.setup import begin
from keyhole.types import Poisoned

begin(snakemake)
given, levels = snakemake.input, tuple(json.loads(snakemake.params["levels"]))
clean = artifacts.load_tensors(given["train"])
images, _ = artifacts.load(given["poisoned"], Poisoned).apply(clean["images"], clean["labels"])
artifacts.save(snakemake.output[0], latents(load_net(given["model"]), images, levels))
