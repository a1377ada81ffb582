"""Read a data set, cut the defender's hold-out, write all three parts as tensors."""

import json

from keyhole import artifacts, rng
from keyhole.running import jobs, splits

jobs.begin(snakemake)
dataset, _ = jobs.instantiate("data", snakemake.params["dataset"])
holdout = json.loads(snakemake.params["holdout"])
stream = rng.stream("holdout", snakemake.wildcards["dataset"])
try:
    whole = splits.load(dataset, snakemake.config.get("data_dir"))
    parts = splits.cut_holdout(whole, holdout["source"], holdout["size"], stream)
except ValueError as error:  # what to put where, without a traceback
    raise SystemExit(f"datasets.{snakemake.wildcards['dataset']}: {error}") from None
facts = {"classes": int(parts.train_labels.max()) + 1, "flips": dataset.flips}
for part in ("train", "test", "holdout"):
    tensors = {"images": getattr(parts, f"{part}_images"), "labels": getattr(parts, f"{part}_labels")}
    artifacts.save(snakemake.output[part], tensors, facts)
