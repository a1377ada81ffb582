"""Measure how well payload and clean rows are separated in the victim's latents."""

import json

from keyhole import artifacts
from keyhole.running.logs import open_log
from keyhole.running.origin import origin
from keyhole.scoring.poisoned_rows import received_labels
from keyhole.scoring.separability import by_level

open_log(snakemake)

given, params = snakemake.input, snakemake.params
train_labels = artifacts.load_arrays(given["train"], "labels")["labels"]
poisoned = artifacts.load_arrays(given["poisoned"], "index", "labels", "is_cover")
labels, is_payload, is_cover = received_labels(train_labels, poisoned)
targets = artifacts.facts(given["predictions"])["target_classes"] if is_payload.any() else []
latents = artifacts.load_arrays(given["latents"], *json.loads(params["levels"]))
rows = by_level(latents, labels, is_payload, is_cover, targets, int(snakemake.wildcards["seed"]))
made = {"method": "separability", "parameters": json.dumps({"levels": list(latents)}), "code": params["code"]}
artifacts.save_cards(snakemake.output[0], [{**row, **made, **origin()} for row in rows])
