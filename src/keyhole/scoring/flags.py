"""Flags: reasons not to believe a result, each decided from its card.

A missing column, `null` and NaN all mean "not measured". Thresholds are fixed here, before any result is seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keyhole.planning.roles import CLEAN, Stage

Card = Mapping[str, Any]

VALID_ASR = 0.85  # PSBD's bar (Li et al. 2025)
PAPER_ALLOWANCE = 0.10  # Adap-Blend reaches .765 in its own paper (Qi et al. 2023)
CA_ALLOWANCE = 0.03
NATURAL_ASR = 0.20
MAJORITY = 0.50
TRUTH = ("poison_rate", "payload", "target_class")
ROUNDING = 1e-9  # so that .95 - .92 is not more than .03


@dataclass(frozen=True)
class Flag:
    """One reason, in the words that the documentation prints."""

    stages: tuple[Stage, ...]
    raised: Callable[[Card], bool]
    raised_when: str
    why_it_matters: str
    what_to_do: str


def _number(card: Card, column: str) -> float:
    value = card.get(column)
    return float("nan") if value is None else float(value)


def asr_gate(card: Card) -> float:
    """Return the ASR that an attack must reach: the general bar, or less where its own paper reports less."""
    # min returns its first argument if the second is NaN: an attack without `paper_asr` gets the general bar
    return min(VALID_ASR, _number(card, "paper_asr") - PAPER_ALLOWANCE)


def _attack_failed(card: Card) -> bool:
    # `not >=` in place of `<`, which is False for NaN: an attack without a measured ASR has not been shown to work
    return card.get("attack") != CLEAN and not _number(card, "ASR") >= asr_gate(card) - ROUNDING


def _ca_dropped(card: Card) -> bool:
    return _number(card, "CA_reference") - _number(card, "CA") > CA_ALLOWANCE + ROUNDING


def _rate_not_realised(card: Card) -> bool:
    asked = _number(card, "poison_rate") * _number(card, "train_rows")
    return abs(_number(card, "payload") - asked) > 1 + ROUNDING  # rounding to whole rows costs less than one


def _nothing_flagged(card: Card) -> bool:
    return _number(card, "TPR") == 0 and not _number(card, "FPR") > 0


def _all_flagged(card: Card) -> bool:
    tpr, fpr = _number(card, "TPR"), _number(card, "FPR")
    return (tpr == 1 or fpr == 1) and not tpr < 1 and not fpr < 1


def _nan_latents(card: Card) -> bool:
    # a separability card has one such column for each level
    return any(_number(card, column) > 0 for column in card if column.startswith("non_finite_"))


FLAGS: dict[str, Flag] = {
    "attack_failed": Flag(
        ("attack",),
        _attack_failed,
        f"ASR is below {VALID_ASR:.0%}, and below the paper's own value minus {100 * PAPER_ALLOWANCE:.0f} points "
        "(`paper_asr`) where that is lower.",
        "A defense cannot be credited with stopping an attack that does not work without it.",
        "Train longer, raise the rate, or compare with the attack's published setting; the row stays out of defense "
        "tables.",
    ),
    "ca_dropped": Flag(
        ("attack",),
        _ca_dropped,
        f"CA is more than {100 * CA_ALLOWANCE:.0f} points below the clean model's of the same data set, model and "
        "seed (`CA_reference`).",
        "The victim's owner would notice; CA lost by a defense is then measured from a model already damaged.",
        "Lower the rate; for a clean-label attack check how much of the target class it changes.",
    ),
    "rate_not_realised": Flag(
        ("attack",),
        _rate_not_realised,
        "The payload differs by more than one row from `poison_rate` × training rows.",
        "The row is listed under a rate at which the attack was not run.",
        "Ask for a rate that the eligible rows allow; the row stays out of defense tables.",
    ),
    "majority_poisoned": Flag(
        ("attack",),
        lambda card: _number(card, "target_share") > MAJORITY,
        f"The payload is more than {MAJORITY:.0%} of the rows with the target label (`target_share`).",
        "Detectors that take the smaller cluster or the tail of a class for the payload are then wrong by "
        "construction, not by weakness.",
        "Lower the rate, or say beside the result that the assumption does not hold.",
    ),
    "asr_on_clean_model": Flag(
        ("attack",),
        lambda card: _number(card, "ASR_natural") > NATURAL_ASR,
        f"A model trained without payload answers the trigger as wanted on more than {NATURAL_ASR:.0%} of the eligible "
        "rows (`ASR_natural`): the clean model, or the one trained again after `perfect_removal`, where there is one.",
        "The trigger is an ordinary perturbation or a feature of the target class. No repair can be expected to bring "
        "ASR below that, and the ASR of a model trained again says nothing about the detector.",
        "Use a fainter trigger or another target class; the row stays out of defense tables.",
    ),
    "nothing_flagged": Flag(
        ("detection", "screening"),
        _nothing_flagged,
        "There is payload, and no row is flagged.",
        "The published rule stayed silent: its TPR and FPR of 0 are one decision, not two measurements.",
        "Read AUROC for the ranking; check that the hold-out or the assumed rate allows the rule to fire.",
    ),
    "all_flagged": Flag(
        ("detection", "screening"),
        _all_flagged,
        "Every row is flagged.",
        "A TPR of 1 costs nothing at an FPR of 1.",
        "Read AUROC for the ranking; check the threshold's calibration.",
    ),
    "budget_capped": Flag(
        ("detection",),
        lambda card: _number(card, "classes_capped") > 0,
        "1.5 × the assumed payload, the rows to flag in a class, are more than half of it, the cap (`classes_capped`; "
        "`spectre` has a lower cap).",
        "The cap decides how many rows are flagged. With half of every class flagged, TPR and FPR are near one "
        "half whatever the scores are.",
        "Read AUROC and TPR_at_1%; compare decisions at rates below 1 / (3 × classes).",
    ),
    "nan_latents": Flag(
        ("separability", "detection", "inversion", "screening"),
        _nan_latents,
        "A latent or a score is NaN or infinite.",
        "Rankings with NaN depend on the sorting routine, and NaN rows are never flagged.",
        "Look at the victim's loss and latents, then at the method's numerics; the row stays out of defense tables.",
    ),
    "threshold_saw_truth": Flag(
        ("detection", "inversion", "repair", "screening"),
        lambda card: any(word in (card.get("told") or ()) for word in TRUTH),
        "`told` names " + ", ".join(f"`{word}`" for word in TRUTH[:-1]) + f" or `{TRUTH[-1]}`.",
        "No defender has this; the row is an upper bound.",
        "Compare only with rows told the same; quote the variant without it as the method's result.",
    ),
    "materialized": Flag(
        ("separability", "detection"),
        lambda card: card.get("controls") == "training",
        "An attack that controls training meets a defense of the training set, or its latents are measured there.",
        "Its poisoned set was written down after training; no defender receives such a set under this threat model.",
        "Keep it apart from attacks on data; never average over both.",
    ),
}

# A row with one of these flags says nothing about the defense. Rows with other flags stay in the means: to leave out
# `nothing_flagged`, for example, would hide a detector's failures.
EXCLUDING = frozenset({"attack_failed", "rate_not_realised", "asr_on_clean_model", "nan_latents"})


def flags_of(card: Card, stage: Stage) -> list[str]:
    """Return the names of the flags that a card of this stage raises, in the order of `FLAGS`."""
    return [name for name, flag in FLAGS.items() if stage in flag.stages and flag.raised(card)]
