"""Learn what an attack needs before it poisons, such as perturbed images or the weights of a generator."""

from keyhole import artifacts, rng
from keyhole.running.attacker import load_attack
from keyhole.running.devices import on_device
from keyhole.running.logs import JobError
from keyhole.running.nets import load_net
from keyhole.running.outcome import attempt
from keyhole.running.setup import begin

begin(snakemake)
cell = snakemake.wildcards
clean = artifacts.load_tensors(snakemake.input["train"])
attack = load_attack(snakemake.params["attack"])
surrogate = load_net(snakemake.input["surrogate"][0]) if attack.crafted_from == "surrogate" else None
stream = rng.stream("craft", cell["dataset"], cell["seed"])
outcome = attempt(attack.craft, on_device(clean["images"]), on_device(clean["labels"]), surrogate, stream)
if outcome.value is None:
    raise JobError(f"attacks.{cell['attack']}: {outcome.facts['reason']}")
artifacts.save(snakemake.output[0], outcome.value, outcome.facts)
