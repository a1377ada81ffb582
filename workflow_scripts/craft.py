"""Learn what an attack needs before it poisons: hardened images, the weights of a generator."""

from keyhole import artifacts, rng
from keyhole.running import jobs

jobs.begin(snakemake)
cell = snakemake.wildcards
clean = artifacts.load_tensors(snakemake.input["train"])
attack = jobs.equipped_attack(snakemake.params["attack"])
surrogate = jobs.load_net(snakemake.input["surrogate"][0]) if attack.crafted_from == "surrogate" else None
stream = rng.stream("craft", cell["dataset"], cell["seed"])
images, labels = jobs.on_device(clean["images"]), jobs.on_device(clean["labels"])
outcome = jobs.attempt(attack.craft, images, labels, surrogate, stream)
if outcome.value is None:
    raise SystemExit(f"attacks.{cell['attack']}: {outcome.facts['reason']}")
artifacts.save(snakemake.output[0], outcome.value, outcome.facts)
