"""Write all cards of one victim: its attack, the separability of its latents, and every defense."""

import json

from keyhole import artifacts
from keyhole.running.logs import open_log
from keyhole.scoring import cards
from keyhole.scoring.poisoned_rows import received_labels

open_log(snakemake)

given, read, facts = snakemake.input, artifacts.load_arrays, artifacts.facts


def results(role, labels):
    """Return label, facts and tensors of each defense of a role."""
    files = [given[role]] if isinstance(given[role], str) else given[role]
    return [(label, facts(file), read(file)) for label, file in zip(labels, files, strict=True)]


train_labels, test_labels = (read(given[part], "labels")["labels"] for part in ("train", "test"))
poisoned = read(given["poisoned"], "index", "labels", "is_cover")
answers = {role: results(role, labels) for role, labels in json.loads(snakemake.params["labels"]).items()}
victim = cards.victim(
    snakemake.wildcards,
    snakemake.params["recipe"],
    facts(given["predictions"]),
    read(given["predictions"]),
    read(given["reference"]),
    answers["retrained"],
    poisoned,
    train_labels,
    test_labels,
)
rows = [victim, *cards.latent_separability(victim, artifacts.load_cards(given["separability"]))]
rows += cards.of_defenses(victim, answers, *received_labels(train_labels, poisoned), test_labels)
artifacts.save_cards(snakemake.output[0], rows)
