"""Every metric on rows few enough to count by hand, and where it must be NaN."""

import math

import numpy as np
import pytest

from keyhole.scoring import metrics, recovery

NONE = np.zeros(0, dtype=np.int64)


def ints(*values):
    return np.array(values, dtype=np.int64)


def bools(*values):
    return np.array(values, dtype=bool)


def floats(*values):
    return np.array(values, dtype=np.float64)


def undefined(columns):
    return {name for name, value in columns.items() if math.isnan(value)}


# attack: four test rows of classes 0 0 1 2, target class 0; rows 2 and 3 are eligible


def test_attack_of_four_rows():
    columns = metrics.attack(
        ints(0, 1, 1, 0), ints(0, 0, 1, 2), rows=ints(2, 3), triggered_predictions=ints(1, 0), wanted=ints(0, 0),
        targets=(0,), classes=3,
    )  # fmt: skip
    assert columns == {
        "CA": 0.5,
        "CA_target": 0.5,
        "CA_worst": 0.0,  # class 2
        "ASR": 0.5,
        "ASR_cc": 0.0,  # row 3 obeys the trigger, but was already taken for class 0 without it
        "RA": 0.5,
    }


def test_rows_of_the_target_class_cannot_enter_asr():
    labels = ints(0, 0, 1, 2)
    with pytest.raises(ValueError, match="got 2 that have it already"):
        metrics.attack(labels, labels, ints(0, 1, 2, 3), ints(0, 0, 0, 0), ints(0, 0, 0, 0), (0,), 3)


def test_without_a_trigger_asr_is_nan_and_ca_is_not():
    columns = metrics.attack(ints(0, 1), ints(0, 0), NONE, NONE, NONE, targets=(), classes=2)
    assert undefined(columns) == {"ASR", "ASR_cc", "RA", "CA_target"}
    assert columns["CA"] == 0.5
    assert columns["CA_worst"] == 0.5  # class 1 has no test row and is no worst class


def test_asr_follows_a_label_wanted_row_by_row():
    labels = ints(0, 1, 2, 3)
    columns = metrics.attack(labels, labels, labels, ints(1, 2, 3, 3), wanted=ints(1, 2, 3, 0), targets=(), classes=4)
    assert (columns["ASR"], columns["RA"]) == (0.75, 0.25)


def test_natural_and_reasr_are_shares_of_wanted_answers():
    assert metrics.natural([ints(0, 0, 1, 2)], ints(0, 0, 0, 0)) == {"ASR_natural": 0.5}
    assert metrics.natural([ints(0, 1, 1, 2), ints(0, 0, 0, 2)], ints(0, 0, 0, 0)) == {"ASR_natural": 0.75}
    answers = np.array([[0, 0, 1, 0], [1, 1, 1, 2], [2, 2, 2, 2]])
    labels = ints(0, 1, 2, 2)
    assert recovery.reasr(answers, labels, [0]) == {"REASR": pytest.approx(2 / 3)}  # the first image is of class 0
    assert recovery.reasr(answers, labels, [0, 1]) == {"REASR": pytest.approx(4 / 6)}


def test_only_patches_are_compared_with_masks():
    true = np.zeros((4, 4), bool)
    true[:2, :2] = True
    mask = np.where(true, 1.0, 0.0)
    mask[3, 3] = 0.6
    assert recovery.recovered_patch(mask, true) == {"mask_IoU": 0.8, "l1_ratio": pytest.approx(1.15)}
    assert recovery.recovered_patch(np.ones((4, 4)), true) == {}
    true[2] = True
    assert recovery.recovered_patch(mask, true) == {}
    assert undefined(metrics.natural([NONE, NONE], NONE)) == {"ASR_natural"}


# payload


def test_payload_counts_own_class_rows_and_cover_apart():
    # labels 0 0 1 1 2 2 2 2; rows 1 (own class), 2 and 4 become 0; row 7 is cover
    columns = metrics.payload(
        ints(0, 0, 1, 1, 2, 2, 2, 2), ints(1, 2, 4, 7), ints(0, 0, 0, 2), bools(False, False, False, True)
    )
    assert columns == {
        "train_rows": 8,
        "payload": 3,
        "cover": 1,
        "own_class_payload": 1,
        "realised_poison_rate": 0.375,
        "cover_rate": 0.125,
        "target_share": 0.75,  # rows 0, 1, 2 and 4 are labelled 0; cover's class 2 does not count
    }


def test_payload_with_several_labels_gives_the_largest_share():
    columns = metrics.payload(ints(0, 0, 1, 1, 1), ints(0, 2), ints(1, 0), bools(False, False))
    assert columns["target_share"] == 0.5  # class 0: rows 1 and 2; class 1: rows 0, 3 and 4


def test_nothing_poisoned_is_a_measured_zero():
    columns = metrics.payload(ints(0, 1), NONE, NONE, bools())
    assert (columns["payload"], columns["realised_poison_rate"], columns["target_share"]) == (0, 0.0, 0.0)


# detection


def detect(scores, flagged, payload, cover=None, labels=None, targets=(0,)):
    n = len(scores)
    return metrics.detection(
        floats(*scores),
        bools(*flagged),
        bools(*payload),
        bools(*(cover or [False] * n)),
        ints(*(labels or [0] * n)),
        targets,
    )


def test_detection_of_four_rows():
    # row 0 payload, row 1 cover, rows 2 and 3 clean
    columns = detect([3, 4, 2, 1], [1, 1, 0, 0], [1, 0, 0, 0], cover=[0, 1, 0, 0], labels=[0, 1, 0, 1])
    assert columns["TPR"] == 1
    assert columns["FPR"] == pytest.approx(1 / 3)  # cover is a negative
    assert columns["precision"] == 0.5
    assert columns["F1"] == pytest.approx(2 / 3)
    assert columns["prevalence"] == 0.25
    assert columns["removed"] == 2
    assert columns["cover_flagged"] == 1
    assert columns["AUROC"] == pytest.approx(2 / 3)
    assert columns["AUPRC"] == 0.5
    assert columns["AUROC_target"] == columns["AUPRC_target"] == 1  # rows 0 and 2
    assert (columns["TPR_at_5%"], columns["FPR_at_5%"]) == (0, 0)


def test_ranking_inside_the_target_label_is_not_helped_by_telling_classes_apart():
    # the score is the label's: perfect against other classes, blind inside label 0
    columns = detect([1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], labels=[0, 0, 1, 1])
    assert columns["AUROC"] == pytest.approx(5 / 6)
    assert columns["AUROC_target"] == 0.5


def test_a_silent_detector_misses_and_raises_no_false_alarm():
    columns = detect([4, 3, 2, 1], [0, 0, 0, 0], [1, 1, 0, 0])
    assert (columns["TPR"], columns["FPR"], columns["F1"], columns["removed"]) == (0, 0, 0, 0)
    assert math.isnan(columns["precision"])
    assert columns["AUROC"] == 1


def test_a_detector_that_flags_everything_finds_all_and_sacrifices_all():
    columns = detect([4, 3, 2, 1], [1, 1, 1, 1], [1, 0, 0, 0])
    assert (columns["TPR"], columns["FPR"], columns["precision"], columns["removed"]) == (1, 1, 0.25, 4)
    assert columns["F1"] == pytest.approx(0.4)


@pytest.mark.parametrize("flagged", [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 1, 1)])
def test_on_a_clean_set_only_false_alarms_are_defined(flagged):
    columns = detect([4, 3, 2, 1], flagged, [0, 0, 0, 0])
    assert columns["FPR"] == sum(flagged) / 4
    assert columns["removed"] == sum(flagged)
    assert set(columns) - undefined(columns) == {"FPR", "removed", "prevalence", "non_finite_scores"}


def test_where_all_rows_are_payload_false_alarms_and_rankings_are_undefined():
    columns = detect([4, 3, 2, 1], [1, 1, 0, 0], [1, 1, 1, 1])
    assert (columns["TPR"], columns["precision"]) == (0.5, 1)
    assert {"FPR", "AUROC", "AUPRC", "TPR_at_1%"} <= undefined(columns)


def test_an_empty_set_is_nan_not_zero():
    columns = detect([], [], [])
    assert set(columns) - undefined(columns) == {"removed", "non_finite_scores"}


def test_scores_that_are_not_finite_are_counted_and_rank_nothing():
    columns = detect([4, math.nan, math.inf, 1], [1, 0, 0, 0], [1, 0, 0, 0])
    assert columns["non_finite_scores"] == 2
    assert {"AUROC", "AUPRC", "TPR_at_5%", "FPR_at_5%"} <= undefined(columns)
    assert columns["TPR"] == 1


def test_a_target_class_unknown_to_the_attack_leaves_the_inner_ranking_undefined():
    assert {"AUROC_target", "AUPRC_target"} <= undefined(detect([2, 1], [0, 0], [1, 0], targets=()))


def test_tied_rows_fall_on_one_side_of_the_threshold():
    # 10 payload and 5 of 100 clean rows share the top score, 1 payload row stands above them
    payload = [True] * 11 + [False] * 100
    scores = [2.0] + [1.0] * 15 + [0.0] * 95
    columns = detect(scores, [0] * 111, payload)
    assert (columns["TPR_at_5%"], columns["FPR_at_5%"]) == (1, 0.05)  # the budget is met exactly
    assert columns["TPR_at_1%"] == pytest.approx(1 / 11)  # half a tie cannot be flagged
    assert columns["FPR_at_1%"] == 0


def test_constant_scores_reach_no_true_positive_within_any_budget():
    columns = detect([1] * 6, [0] * 6, [1, 1, 0, 0, 0, 0])
    assert columns["AUROC"] == 0.5
    assert [columns[f"TPR_at_{p}%"] for p in ("0.1", "1", "5")] == [0, 0, 0]


@pytest.mark.parametrize("eliminated", [0, 15, 147, 150])
def test_sacrifice_follows_from_elimination_at_a_fixed_budget(eliminated):
    # Qi et al. 2023, table 1, Spectral Signatures: 2,250 of 50,000 rows removed, 150 of them payload
    is_payload, flagged = np.arange(50_000) < 150, np.zeros(50_000, dtype=bool)
    flagged[:eliminated] = flagged[150 : 150 + 2250 - eliminated] = True
    columns = metrics.detection(
        flagged.astype(np.float64), flagged, is_payload, np.zeros_like(flagged), np.arange(50_000) % 10, (0,)
    )
    elimination = eliminated / 150
    assert columns["removed"] == 2250
    assert columns["TPR"] == pytest.approx(elimination)
    assert columns["FPR"] == pytest.approx((2250 - 150 * elimination) / 49850)


# filters


@pytest.mark.parametrize(
    ("prevalence", "precision", "f1"), [(0.5, 0.95, 0.95), (0.1, 0.68, 0.79), (0.01, 0.16, 0.27), (0.003, 0.05, 0.10)]
)
def test_precision_at_other_prevalences(prevalence, precision, f1):
    columns = metrics.prevalence_conversion(0.95, 0.05, prevalence)
    assert columns == pytest.approx({"precision": precision, "F1": f1}, abs=0.006)


def test_precision_of_a_silent_filter_is_undefined_and_its_f1_is_zero():
    columns = metrics.prevalence_conversion(0.0, 0.0, 0.5)
    assert math.isnan(columns["precision"])
    assert columns["F1"] == 0


def test_screening_of_all_triggered_inputs_and_of_those_that_succeed():
    # two clean inputs, two triggered; the trigger that fails to fool the victim is also the one not flagged
    scores, flagged, triggered = floats(1, 2, 4, 1.5), bools(0, 0, 1, 0), bools(0, 0, 1, 1)
    columns = metrics.screening(scores, flagged, triggered, bools(1, 0, 1, 0), holdout_scores=floats(*range(-97, 3)))
    assert (columns["screened_clean"], columns["screened_triggered"]) == (2, 2)
    assert (columns["TPR"], columns["FPR"], columns["precision"]) == (0.5, 0, 1)
    assert columns["AUROC"] == 0.75
    assert columns["F1"] == pytest.approx(2 / 3)
    assert (columns["TPR_successful"], columns["AUROC_successful"], columns["F1_successful"]) == (1, 1, 1)
    assert (columns["TPR_at_1%"], columns["FPR_at_1%"]) == (
        0.5,
        0,
    )  # hold-out scores of -97..2: above 2 lies only the 4
    assert (columns["TPR_at_5%"], columns["FPR_at_5%"]) == (1, 1)  # the bar is -2
    assert "FPR_successful" not in columns  # the clean inputs are the same


def test_screening_f1_does_not_depend_on_how_many_triggers_succeed():
    scores = floats(*range(8))
    flagged, triggered = scores >= 3, bools(0, 0, 0, 0, 1, 1, 1, 1)
    columns = metrics.screening(scores, flagged, triggered, bools(0, 0, 0, 0, 0, 0, 0, 1), floats(0))
    assert columns["TPR"] == columns["TPR_successful"] == 1
    assert columns["F1"] == columns["F1_successful"]


def test_screening_without_triggered_inputs_keeps_only_false_alarms():
    columns = metrics.screening(floats(1, 2), bools(0, 1), bools(0, 0), bools(0, 0), floats(0, 1))
    defined = {"FPR", "FPR_at_1%", "FPR_at_5%", "non_finite_scores", "screened_clean", "screened_triggered"}
    assert set(columns) - undefined(columns) == defined
    assert columns["FPR"] == 0.5


# inverters


def test_inversion_finds_the_target_and_counts_other_classes_as_false_alarms():
    columns = recovery.inversion(floats(0, 5, 3, 1), bools(0, 1, 1, 0), targets=(1,))
    assert columns == {
        "found": 1,
        "top1": 1,
        "any_flagged": 1,
        "false_alarms": 1,
        "anomaly_max": 5,
        "non_finite_scores": 0,
    }


def test_on_a_clean_model_every_flag_is_a_false_alarm():
    columns = recovery.inversion(floats(0, 5, 3, 1), bools(0, 1, 1, 0), targets=())
    assert columns["false_alarms"] == 2
    assert undefined(columns) == {"found", "top1"}


def test_an_inverter_without_an_opinion_gets_no_credit_for_class_zero():
    columns = recovery.inversion(floats(1, 1, 1, 1), bools(0, 0, 0, 0), targets=(0,))
    assert (columns["top1"], columns["found"], columns["any_flagged"]) == (0.25, 0, 0)


def test_a_nan_anomaly_ranks_no_class():
    assert undefined(recovery.inversion(floats(1, math.nan), bools(0, 0), (0,))) == {"top1", "anomaly_max"}


def test_masks_of_two_by_two_pixels():
    mask, true = floats(0.9, 0.6, 0.1, 0.0).reshape(2, 2), bools(1, 0, 1, 0).reshape(2, 2)
    assert recovery.mask_iou(mask, true)["mask_IoU"] == pytest.approx(1 / 3)
    assert recovery.l1_ratio(mask, true)["l1_ratio"] == pytest.approx(0.8)


def test_masks_of_nothing_are_undefined():
    nothing = np.zeros((2, 2))
    assert undefined(recovery.mask_iou(nothing, nothing > 0)) == {"mask_IoU"}
    assert undefined(recovery.l1_ratio(nothing, nothing > 0)) == {"l1_ratio"}


# repairers

VICTIM = {"CA": 0.92, "ASR": 0.98, "RA": 0.02}


def test_a_repair_that_does_nothing_scores_one_half():
    columns = metrics.repair(VICTIM, VICTIM)
    assert (columns["DER"], columns["RIR"]) == (0.5, 0.5)
    assert (columns["success_10"], columns["success_20"]) == (0, 0)


def test_the_drop_of_clean_accuracy_is_subtracted():
    columns = metrics.repair(VICTIM, {"CA": 0.82, "ASR": 0.18, "RA": 0.72})
    assert columns["DER"] == pytest.approx((0.80 - 0.10 + 1) / 2)
    assert columns["RIR"] == pytest.approx((0.70 - 0.10 + 1) / 2)
    assert columns["CA_drop"] == pytest.approx(0.10)
    assert columns["ASR_drop"] == pytest.approx(0.80)
    assert columns["success_20"] == 0  # ASR is low enough, CA is not high enough


def test_gains_of_clean_accuracy_and_of_asr_earn_nothing():
    columns = metrics.repair(VICTIM, {"CA": 0.95, "ASR": 0.99, "RA": 0.01})
    assert (columns["DER"], columns["RIR"]) == (0.5, 0.5)
    assert columns["CA_drop"] == pytest.approx(-0.03)


@pytest.mark.parametrize(
    ("asr", "ca", "at_10", "at_20"),
    [(0.10, 0.89, 1, 1), (0.11, 0.92, 0, 1), (0.20, 0.92, 0, 1), (0.21, 0.92, 0, 0), (0.0, 0.88, 0, 0)],
)
def test_success_needs_both_a_low_asr_and_a_kept_ca(asr, ca, at_10, at_20):
    columns = metrics.repair(VICTIM, {"CA": ca, "ASR": asr, "RA": 0.9})
    assert (columns["success_10"], columns["success_20"]) == (at_10, at_20)


def test_a_repaired_clean_model_has_only_a_drop_of_clean_accuracy():
    clean = {"CA": 0.92, "ASR": math.nan, "RA": math.nan}
    columns = metrics.repair(clean, clean | {"CA": 0.90})
    assert columns["CA_drop"] == pytest.approx(0.02)
    assert set(columns) - undefined(columns) == {"CA_drop"}
