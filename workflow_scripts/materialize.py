"""Write the poisoned rows of an attacker who trained the victim, with the trigger that training ended with."""

from keyhole import artifacts, rng
from keyhole.running.attacker import load_attack
from keyhole.running.setup import begin
from keyhole.types import Poisoned

begin(snakemake)
cell = snakemake.wildcards
clean = artifacts.load_tensors(snakemake.input["train"])
attack = load_attack(snakemake.params["attack"], snakemake.input["trigger"])
poisoned = artifacts.load(snakemake.input["poisoned"], Poisoned)
stream = rng.stream("materialize", cell["dataset"], cell["seed"])
artifacts.save(snakemake.output[0], attack.materialize(clean["images"], clean["labels"], poisoned, stream))
