"""Cards: one flat row of numbers and words for each thing that was measured. Torch is not imported.

A defense's card repeats its victim's columns, so that each row can be read without another. A defense that raised an
error has a card, too, with `status` and `reason` and without numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keyhole.planning.folders import architecture_of
from keyhole.planning.roles import RETRAINING, ROLES, SEPARABILITY, Role
from keyhole.scoring import flags, metrics, recovery

__all__ = ["defended_model", "detector", "filter_", "inverter", "latent_separability", "of_defenses", "victim"]

Card = dict[str, Any]
Facts = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]

NO_DEFENSE = "none"  # in the column `defense`
PERFECT = "perfect_removal"  # the detector that is told the payload
# the victim's columns in a defense's row
REPEATED = (
    "dataset",
    "model",
    "recipe",
    "attack",
    "poison_rate",
    "seed",
    "target_classes",
    "controls",
    "payload",
    "cover",
    "target_share",
)


def identity(cell: Mapping[str, str], recipe: str) -> Card:
    """Return a cell's wildcards and its recipe as columns: words stay words, `rate` and `seed` become numbers."""
    named = {"dataset": cell["dataset"], "model": architecture_of(cell["model"]), "recipe": recipe}
    return {**named, "attack": cell["attack"], "poison_rate": float(cell["rate"]), "seed": int(cell["seed"])}


def victim(
    cell: Mapping[str, str],
    recipe: str,
    facts: Facts,
    answers: Arrays,
    reference: Arrays,
    retrained: Sequence[tuple[str, Facts, Arrays]],
    poisoned: Arrays,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
) -> Card:
    """Make a victim's card: what was poisoned, what the victim learned, and whether to believe it.

    Args:
        recipe: how tables call the training recipe.
        facts: how the training went.
        answers: the victim's predictions on the test set (`keyhole.running.evaluation.answers`).
        reference: the clean model's predictions, with the same trigger.
        retrained: label, facts and predictions of each model trained again without the rows that a detector flags.
            One trained without exactly the payload (`perfect_removal`) has no backdoor, and counts in the natural ASR.
        poisoned: the arrays of a `Poisoned`, without its images.
        train_labels: before poisoning.
    """
    card = {
        **identity(cell, recipe),
        "role": ROLES["attacks"].noun,
        "defense": NO_DEFENSE,
        "told": "",
        **facts,
        **metrics.payload(train_labels, poisoned["index"], poisoned["labels"], poisoned["is_cover"]),
        **_model_columns(answers, test_labels, facts["target_classes"]),
        **metrics.natural([reference["triggered"], *_without_payload(retrained)], reference["wanted"]),
        "CA_reference": float((reference["clean"] == test_labels).mean()),
    }
    return _with_flags(card, ROLES["attacks"])


def latent_separability(victim: Card, rows: list[Card]) -> list[Card]:
    """Turn the rows of `separability.by_level` into cards."""
    common = _common_columns(victim, SEPARABILITY, NO_DEFENSE, {"told": "", "status": "ok"})
    return [_with_flags({**common, **row}, SEPARABILITY) for row in rows]


def detector(
    victim: Card,
    label: str,
    facts: Facts,
    suspicion: Arrays,
    labels: np.ndarray,
    is_payload: np.ndarray,
    is_cover: np.ndarray,
) -> Card:
    """Make a detector's card: its `Suspicion` of the training rows beside the truth; `labels` as received."""
    role = ROLES["detectors"]
    card = _common_columns(victim, role, label, facts)
    if facts["status"] == "ok":
        scores, flagged = suspicion["scores"], suspicion["flagged"]
        card |= metrics.detection(scores, flagged, is_payload, is_cover, labels, victim["target_classes"])
    return _with_flags(card, role)


def inverter(victim: Card, label: str, facts: Facts, inversion: Arrays) -> Card:
    """Make an inverter's card from what `keyhole.running.evaluation.inverted` kept of its answer."""
    role = ROLES["inverters"]
    card = _common_columns(victim, role, label, facts)
    if facts["status"] == "ok":
        targets = victim["target_classes"]  # none for a clean victim
        card |= recovery.inversion(inversion["anomaly"], inversion["flagged"], targets)
        if targets and "answers" in inversion:
            card |= recovery.reasr(inversion["answers"], inversion["probed"], targets)
        if "true_mask" in inversion:
            card |= recovery.recovered_patch(inversion["masks"][targets[0]], inversion["true_mask"])
            card |= {name: float(inversion[name]) for name in ("feature_distance", "shift_cosine")}
    return _with_flags(card, role)


def filter_(victim: Card, label: str, facts: Facts, screened: Arrays) -> Card:
    """Make a filter's card.

    Args:
        screened: the arrays of a `Suspicion` of test inputs, with `is_triggered`, `succeeds` and the `holdout_scores`
            that set thresholds.
    """
    role = ROLES["filters"]
    card = _common_columns(victim, role, label, facts)
    if facts["status"] == "ok":
        card |= metrics.screening(**screened)
    return _with_flags(card, role)


def defended_model(
    victim: Card, role: Role, label: str, facts: Facts, answers: Arrays, test_labels: np.ndarray
) -> Card:
    """Compare a defended model (trained anew, repaired, or behind a purifier) with its victim."""
    card = _common_columns(victim, role, label, facts)
    if facts["status"] == "ok":
        card |= _model_columns(answers, test_labels, victim["target_classes"])
        card |= metrics.repair(victim, card)
    return _with_flags(card, role)


def of_defenses(
    victim: Card,
    results: Mapping[str, Sequence[tuple[str, Facts, Arrays]]],
    labels: np.ndarray,
    is_payload: np.ndarray,
    is_cover: np.ndarray,
    test_labels: np.ndarray,
) -> list[Card]:
    """Make the cards of all defenses that were run on a victim.

    Args:
        results: key of a role, or `RETRAINING.key` -> label, facts and answer of each defense.
        labels: of the training set, as received.
    """
    cards = [detector(victim, *result, labels, is_payload, is_cover) for result in results["detectors"]]
    cards += [inverter(victim, *result) for result in results["inverters"]]
    cards += [filter_(victim, *result) for result in results["filters"]]
    for role in (RETRAINING, ROLES["repairers"], ROLES["trainers"], ROLES["purifiers"]):
        cards += [defended_model(victim, role, *result, test_labels) for result in results[role.key]]
    return cards


def _common_columns(victim: Card, role: Role, label: str, facts: Facts) -> Card:
    """Return the columns that all cards on this victim share.

    `excluded` repeats those of the victim's flags that keep it out of the means of defenses.
    """
    return {
        **{name: victim[name] for name in REPEATED},
        "CA_victim": victim["CA"],
        "ASR_victim": victim["ASR"],
        "RA_victim": victim["RA"],
        "role": role.noun,
        "defense": label,
        **facts,
        "excluded": sorted(flags.EXCLUDING.intersection(victim["flags"])),
    }


def _without_payload(retrained: Sequence[tuple[str, Facts, Arrays]]) -> list[np.ndarray]:
    """Return the answers to triggered rows of models that were trained again without the payload."""
    made = [(facts, answers) for _, facts, answers in retrained if facts["status"] == "ok"]
    return [answers["triggered"] for facts, answers in made if facts["method"] == PERFECT]


def _with_flags(card: Card, role: Role) -> Card:
    assert role.stage is not None
    return {**card, "flags": flags.flags_of(card, role.stage)}


def _model_columns(answers: Arrays, test_labels: np.ndarray, targets: list[int]) -> Card:
    classes = int(test_labels.max()) + 1
    asked = answers["rows"], answers["triggered"], answers["wanted"]
    columns = metrics.attack(answers["clean"], test_labels, *asked, targets, classes)
    return columns | metrics.leakage(answers["leaked"], targets)
