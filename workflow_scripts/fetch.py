"""Read a data set, set the defender's hold-out aside, and write training set, test set and hold-out as tensors."""

import json

from keyhole import artifacts, rng
from keyhole.running import splits
from keyhole.running.setup import begin, instantiate

begin(snakemake.threads, snakemake.log[0], snakemake.rule)
params, label = snakemake.params, snakemake.wildcards["dataset"]
dataset, _ = instantiate("data", params["dataset"])
holdout = json.loads(params["holdout"])
stream = rng.stream("holdout", label)
try:
    parts = splits.cut_holdout(splits.load(dataset, params["data_dir"]), holdout["source"], holdout["size"], stream)
except ValueError as error:  # the message says which file to put where; a traceback would hide it
    raise SystemExit(f"datasets.{label}: {error}") from None
facts = {"classes": int(parts.train_labels.max()) + 1}
for part in ("train", "test", "holdout"):
    tensors = {"images": getattr(parts, f"{part}_images"), "labels": getattr(parts, f"{part}_labels")}
    artifacts.save(snakemake.output[part], tensors, facts)
