"""A victim's pictures: what its attack does to images, its latents, the triggers that inverters found."""

from pathlib import Path

import numpy as np
import torch

from keyhole import artifacts, jobs, plots, rng
from keyhole.truth import received_labels
from keyhole.types import Poisoned

jobs.begin(snakemake)
cell, given = snakemake.wildcards, snakemake.input
found = artifacts.load_cards(given["cards"])
victim = found[0]
title = f"{cell['dataset']}, {cell['attack']} at {100 * float(cell['rate']):g} %, seed {cell['seed']}"

clean, poisoned = artifacts.load_tensors(given["train"]), artifacts.load(given["poisoned"], Poisoned)
attack = jobs.equipped_attack(snakemake.params["attack"], given["trigger"])
shown = torch.nonzero(~poisoned.is_cover).squeeze(1)[:6]
images = clean["images"][poisoned.index[shown]] if len(shown) else clean["images"][:6]
planted = poisoned.images[shown] if len(shown) else images
triggered = attack.apply_trigger(images, rng.stream("preview"))
plots.plot_preview(images.numpy(), planted.numpy(), triggered.numpy(), snakemake.output["preview"], title)

truth = {"index": poisoned.index.numpy(), "labels": poisoned.labels.numpy(), "is_cover": poisoned.is_cover.numpy()}
shown_targets = victim["target_classes"][:1] or [victim["target_class"]]  # of several, the first
labels, is_payload, is_cover = received_labels(clean["labels"].numpy(), truth)
place = np.flatnonzero(np.isin(labels, shown_targets) | is_cover)  # cover keeps its own label
kinds = np.where(is_payload, "payload", np.where(is_cover, "cover", "clean"))[place]
drawn = plots.sample_kinds(kinds, int(cell["seed"]))
level = snakemake.params["level"]
latents = artifacts.load_arrays(given["latents"], level)[level][place[drawn]]
maps = {method: plots.latent_map(latents, method, int(cell["seed"])) for method in ("t-SNE", "PCA")}
raw = (card for card in found if card.get("level") == level and card.get("transform") == "raw")
silhouette = next(raw, {}).get("silhouette")
plots.plot_latents(maps, kinds[drawn], snakemake.output["latents"], f"{title}, {level}", silhouette or np.nan)

inversions = {Path(file).parent.name: artifacts.load_arrays(file) for file in given["inversions"]}
for found, path in zip(inversions.values(), snakemake.output["triggers"], strict=True):
    plots.plot_triggers(found, victim["target_classes"], path, title)
for path in snakemake.output["inversions"]:
    holdout = artifacts.load_tensors(given["holdout"], "images")["images"][:4]
    stamped = attack.apply_trigger(holdout, rng.stream("preview"))
    plots.plot_inversions(holdout.numpy(), stamped.numpy(), inversions, path, title)
