"""All cards of one victim: itself, and every defense that met it."""

import json

from keyhole import artifacts
from keyhole.scoring import cards
from keyhole.scoring.truth import received_labels

given, read, facts = snakemake.input, artifacts.load_arrays, artifacts.facts
labels_of = json.loads(snakemake.params["labels"])


def results(role):
    """Label, facts and tensors of each defense of a role."""
    files = [given[role]] if isinstance(given[role], str) else given[role]
    return [(label, facts(file), read(file)) for label, file in zip(labels_of[role], files, strict=True)]


train_labels, test_labels = (read(given[part], "labels")["labels"] for part in ("train", "test"))
poisoned = read(given["poisoned"], "index", "labels", "is_cover")
labels, is_payload, is_cover = received_labels(train_labels, poisoned)
victim = cards.victim(
    snakemake.wildcards,
    facts(given["predictions"]),
    read(given["predictions"]),
    read(given["reference"]),
    poisoned,
    train_labels,
    test_labels,
)
rows = [victim, *cards.latent_separability(victim, artifacts.load_cards(given["separability"]))]
rows += [cards.detector(victim, *result, labels, is_payload, is_cover) for result in results("detectors")]
rows += [cards.inverter(victim, *result) for result in results("inverters")]
rows += [cards.filter_(victim, *result) for result in results("filters")]
roles = {"retrained": "retraining", "repairers": "repairer", "trainers": "trainer", "purifiers": "purifier"}
for role, name in roles.items():
    rows += [cards.defended(victim, name, *result, test_labels) for result in results(role)]
artifacts.save_cards(snakemake.output[0], rows)
