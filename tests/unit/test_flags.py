"""Each flag just below and just above its threshold, and on cards that lack the column."""

import math
from typing import get_args

import pytest

from keyhole.planning.roles import Stage
from keyhole.scoring.flags import EXCLUDING, FLAGS, flags_of

GOOD_ATTACK = {
    "attack": "badnets",
    "ASR": 0.99,
    "CA": 0.92,
    "CA_reference": 0.93,
    "poison_rate": 0.003,
    "train_rows": 50_000,
    "payload": 150,
    "target_share": 0.03,
    "ASR_natural": 0.01,
}
GOOD_DETECTION = {"TPR": 0.9, "FPR": 0.05, "non_finite_scores": 0, "told": "holdout", "controls": "dirty-label"}


def test_good_cards_raise_nothing():
    assert flags_of(GOOD_ATTACK, "attack") == []
    assert flags_of(GOOD_DETECTION, "detection") == []
    assert flags_of(GOOD_DETECTION, "screening") == []


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"ASR": 0.85}, []),
        ({"ASR": 0.84}, ["attack_failed"]),
        ({"ASR": math.nan}, ["attack_failed"]),
        ({"ASR": None}, ["attack_failed"]),
        ({"ASR": 0.665, "paper_asr": 0.765}, []),  # Adap-Blend
        ({"ASR": 0.66, "paper_asr": 0.765}, ["attack_failed"]),
        ({"ASR": 0.86, "paper_asr": 0.975}, []),  # a high published value does not raise the bar
        ({"ASR": 0.84, "paper_asr": None}, ["attack_failed"]),
        ({"CA": 0.90}, []),
        ({"CA": 0.899}, ["ca_dropped"]),
        ({"CA": 0.5, "CA_reference": math.nan}, []),
        ({"payload": 149}, []),
        ({"payload": 148}, ["rate_not_realised"]),
        ({"payload": 152}, ["rate_not_realised"]),
        ({"payload": 0}, ["rate_not_realised"]),
        ({"target_share": 0.5}, []),
        ({"target_share": 0.51}, ["majority_poisoned"]),
        ({"ASR_natural": 0.2}, []),
        ({"ASR_natural": 0.21}, ["asr_on_clean_model"]),
        ({"ASR": 0.1, "ASR_natural": 0.3}, ["attack_failed", "asr_on_clean_model"]),
    ],
)
def test_attack_flags(changes, flags):
    assert flags_of(GOOD_ATTACK | changes, "attack") == flags


def test_the_clean_reference_is_no_failed_attack():
    card = {"attack": "none", "ASR": math.nan, "CA": 0.9, "CA_reference": 0.9, "poison_rate": 0, "train_rows": 50_000}
    assert flags_of(card | {"payload": 0, "target_share": 0.0, "ASR_natural": math.nan}, "attack") == []


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"TPR": 0.0, "FPR": 0.0}, ["nothing_flagged"]),
        ({"TPR": 0.0}, []),  # flags, but the wrong rows: a result
        ({"TPR": 1.0, "FPR": 0.0}, []),
        ({"TPR": 1.0, "FPR": 1.0}, ["all_flagged"]),
        ({"TPR": math.nan, "FPR": 0.0}, []),  # silence on a clean set is right
        ({"TPR": math.nan, "FPR": 1.0}, ["all_flagged"]),
        ({"classes_capped": 0.1}, ["budget_capped"]),
        ({"classes_capped": 0.0}, []),
        ({"non_finite_scores": 1}, ["nan_latents"]),
        ({"told": "holdout+poison_rate"}, ["threshold_saw_truth"]),
        ({"told": ["target_class"]}, ["threshold_saw_truth"]),
        ({"told": "payload"}, ["threshold_saw_truth"]),
        ({"told": "holdout+trigger_family"}, []),
        ({"told": ""}, []),
        ({"told": None}, []),
        ({"controls": "training"}, ["materialized"]),
    ],
)
def test_detection_flags(changes, flags):
    assert flags_of(GOOD_DETECTION | changes, "detection") == flags


def test_a_failed_cell_without_numbers_raises_no_flag_of_its_own():
    failed = {"status": "failed", "reason": "out of patience", "told": ""}
    for stage in set(get_args(Stage)) - {"attack"}:
        assert flags_of(failed, stage) == []


def test_other_stages_raise_only_what_concerns_them():
    card = {"non_finite_latents": 3, "non_finite_scores": 1, "told": "payload", "TPR": 0.0, "FPR": 0.0}
    assert flags_of(card, "separability") == ["nan_latents"]
    assert flags_of(card, "inversion") == ["nan_latents", "threshold_saw_truth"]
    assert flags_of(card, "repair") == ["threshold_saw_truth"]
    assert flags_of(card | {"controls": "training"}, "screening") == [
        "nothing_flagged",
        "nan_latents",
        "threshold_saw_truth",
    ]


def test_one_broken_level_is_enough():
    card = {"non_finite_latents_stage1": 0, "non_finite_latents_penultimate": 2}
    assert flags_of(card, "separability") == ["nan_latents"]
    assert flags_of(card | {"non_finite_latents_penultimate": 0}, "separability") == []


def test_excluding_flags_exist_and_do_not_hide_a_defense_failing():
    assert set(FLAGS) >= EXCLUDING
    assert not EXCLUDING & {"nothing_flagged", "all_flagged"}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_explains_itself_in_whole_sentences(name):
    flag = FLAGS[name]
    for text in (flag.raised_when, flag.why_it_matters, flag.what_to_do):
        assert text[0] == text[0].upper()
        assert text.endswith(".")
    excluded = "stays out of defense tables" in flag.what_to_do
    assert excluded == (name in EXCLUDING)
