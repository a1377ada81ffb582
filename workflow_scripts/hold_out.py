"""Draw the defender's hold-out for a seed; models are trained, or scored, on the rows that remain."""

import json

from keyhole import artifacts, rng
from keyhole.running.logs import JobError
from keyhole.running.setup import begin
from keyhole.running.splits import draw_holdout

begin(snakemake)
cell, whole, output = snakemake.wildcards, snakemake.input["whole"], snakemake.output
asked = json.loads(snakemake.params["holdout"])
tensors, facts = artifacts.load_tensors(whole), artifacts.facts(whole)
stream = rng.stream("holdout", cell["dataset"], cell["seed"])
try:
    drawn, rest = draw_holdout(tensors["labels"], asked["source"], asked["size"], stream)
except ValueError as error:
    raise JobError(f"holdout: {cell['dataset']}: {error}") from None
artifacts.save(output["holdout"], {name: tensor[drawn] for name, tensor in tensors.items()}, facts)
artifacts.save_rows(output["rest"], whole, rest)
