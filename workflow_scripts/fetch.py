"""Read a data set, and write its training set and its test set as tensors."""

from keyhole import artifacts
from keyhole.running import splits
from keyhole.running.logs import JobError
from keyhole.running.setup import begin, instantiate

begin(snakemake)
params, label = snakemake.params, snakemake.wildcards["dataset"]
dataset, _ = instantiate("data", params["dataset"])
try:
    parts = splits.load(dataset, params["data_dir"])
except ValueError as error:  # the message says which file to put where; a traceback would hide it
    raise JobError(f"datasets.{label}: {error}") from None
facts = {"classes": int(parts.train_labels.max()) + 1}
for part in ("train", "test"):
    tensors = {"images": getattr(parts, f"{part}_images"), "labels": getattr(parts, f"{part}_labels")}
    artifacts.save(snakemake.output[part], tensors, facts)
