"""A victim's pictures: what its attack does to images, its latents, the triggers that inverters found."""

from pathlib import Path

import torch

from keyhole import artifacts, rng
from keyhole.reporting import pictures
from keyhole.running import jobs
from keyhole.scoring.poisoned_rows import around_target
from keyhole.types import Poisoned

jobs.begin(snakemake)
cell, given = snakemake.wildcards, snakemake.input
victim, *found = artifacts.load_cards(given["cards"])
title = f"{cell['dataset']}, {cell['attack']} at {100 * float(cell['rate']):g} %, seed {cell['seed']}"

clean, poisoned = artifacts.load_tensors(given["train"]), artifacts.load(given["poisoned"], Poisoned)
attack = jobs.equipped_attack(snakemake.params["attack"], given["trigger"])
shown = torch.nonzero(~poisoned.is_cover)[:6, 0]
images = clean["images"][poisoned.index[shown]] if len(shown) else clean["images"][:6]
planted = poisoned.images[shown] if len(shown) else images
triggered = attack.apply_trigger(images, rng.stream("preview"))
pictures.plot_preview(images.numpy(), planted.numpy(), triggered.numpy(), snakemake.output["preview"], title)

target = [*victim["target_classes"], victim["target_class"]][0]  # of several, the first; a clean victim has none
truth = artifacts.load_arrays(given["poisoned"], "index", "labels", "is_cover")
place, kinds = around_target(clean["labels"].numpy(), truth, target)
drawn = pictures.sample_kinds(kinds, int(cell["seed"]))
level = snakemake.params["level"]
latents = artifacts.load_arrays(given["latents"], level)[level][place[drawn]]
maps = {method: pictures.latent_map(latents, method, int(cell["seed"])) for method in ("t-SNE", "PCA")}
raw = [card["silhouette"] for card in found if (card.get("level"), card.get("transform")) == (level, "raw")]
pictures.plot_latents(maps, kinds[drawn], snakemake.output["latents"], f"{title}, {level}", (raw or [float("nan")])[0])

inversions = {Path(file).parent.name: artifacts.load_arrays(file) for file in given["inversions"]}
for inversion, path in zip(inversions.values(), snakemake.output["triggers"], strict=True):
    pictures.plot_triggers(inversion, victim["target_classes"], path, title)
for path in snakemake.output["inversions"]:
    holdout = artifacts.load_tensors(given["holdout"], "images")["images"][:4]
    stamped = attack.apply_trigger(holdout, rng.stream("preview"))
    pictures.plot_inversions(holdout.numpy(), stamped.numpy(), inversions, path, title)
