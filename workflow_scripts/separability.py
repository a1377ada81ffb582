"""How far the payload stands apart in the victim's latents."""

import json

from keyhole import artifacts
from keyhole.running.origin import origin
from keyhole.scoring.separability import by_level
from keyhole.scoring.truth import received_labels

given = snakemake.input
train_labels = artifacts.load_arrays(given["train"], "labels")["labels"]
poisoned = artifacts.load_arrays(given["poisoned"], "index", "labels", "is_cover")
labels, is_payload, is_cover = received_labels(train_labels, poisoned)
targets = artifacts.facts(given["predictions"])["target_classes"] if is_payload.any() else []
seed = int(snakemake.wildcards["seed"])
latents = artifacts.load_arrays(given["latents"], *json.loads(snakemake.params["levels"]))
rows = by_level(latents, labels, is_payload, is_cover, targets, seed)
facts = {"method": "separability", "parameters": json.dumps({"levels": list(latents)})}
facts |= {"code": snakemake.params["code"], **origin()}
artifacts.save_cards(snakemake.output[0], [{**facts, **row} for row in rows])
