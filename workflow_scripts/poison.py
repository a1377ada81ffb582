"""Poison a training set, with the tensors that the attacker crafted for it."""

from keyhole import artifacts, rng
from keyhole.running.attacker import load_attack
from keyhole.running.logs import JobError
from keyhole.running.setup import begin

begin(snakemake)
cell = snakemake.wildcards
clean = artifacts.load_tensors(snakemake.input["train"])
stream = rng.stream("poison", cell["dataset"], cell["seed"])
try:
    attack = load_attack(snakemake.params["attack"], *snakemake.input["crafted"])
    poisoned = attack.poison(clean["images"], clean["labels"], float(cell["rate"]), stream)
except ValueError as error:  # a missing picture, parameters that exclude each other, too high a rate
    raise JobError(f"attacks.{cell['attack']}: {error}") from None
artifacts.save(snakemake.output[0], poisoned)
