"""Draw a victim's pictures: images with its trigger, its latents, the triggers that inverters recovered."""

from pathlib import Path

from keyhole import artifacts
from keyhole.reporting import victim_pictures
from keyhole.running.attacker import load_attack
from keyhole.running.examples import make_examples
from keyhole.running.setup import begin
from keyhole.scoring.latent_maps import map_latents
from keyhole.types import Poisoned

begin(snakemake)
cell, given, level = snakemake.wildcards, snakemake.input, snakemake.params["level"]
cards = artifacts.load_cards(given["cards"])
train, poisoned = artifacts.load_tensors(given["train"]), artifacts.load(given["poisoned"], Poisoned)
holdout = artifacts.load_tensors(given["holdout"], "images")["images"][:4]
attack = load_attack(snakemake.params["attack"], given["trigger"])

victim_pictures.draw(
    snakemake.output,
    f"{cell['dataset']}, {cell['attack']} at {100 * float(cell['rate']):g} %, seed {cell['seed']}",
    level,
    cards,
    make_examples(attack, train["images"], poisoned, holdout),
    lambda: map_latents(
        artifacts.load_arrays(given["latents"], level)[level],
        train["labels"].numpy(),
        artifacts.load_arrays(given["poisoned"], "index", "labels", "is_cover"),
        [*cards[0]["target_classes"], cards[0]["target_class"]][0],  # the first target class; a clean victim has none
        int(cell["seed"]),
    ),
    {Path(file).parent.name: artifacts.load_arrays(file) for file in given["inversions"]},
)
