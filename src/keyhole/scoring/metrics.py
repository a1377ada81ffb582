"""The metrics of attacks, detectors, filters, repairers and purifiers; `recovery` has those of inverters.

Every function takes NumPy arrays and returns columns of a card. Fractions are in [0, 1]. A value that is not defined
(the TPR of a detector where nothing is poisoned) is NaN, never 0. Torch is not imported, to keep score
jobs short.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from keyhole.scoring.flags import CA_ALLOWANCE, ROUNDING
from keyhole.scoring.statistics import NAN, average, count_non_finite, share

Columns = dict[str, int | float]


# Attacks


def attack(
    clean_predictions: Int[np.ndarray, " n"],
    test_labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " r"],
    triggered_predictions: Int[np.ndarray, " r"],
    wanted: Int[np.ndarray, " r"],
    targets: Sequence[int],
    classes: int,
) -> Columns:
    """Return CA on the whole test set, and ASR and RA (BackdoorBench, `test_ra`) on triggered test rows.

    Args:
        rows: the eligible test rows, those whose label the trigger would change; empty if there is no trigger.
        triggered_predictions: the model's predictions on these rows with the trigger.
        wanted: the labels that the trigger should give them.
        targets: the labels that the trigger leads to; `CA_target` is the mean over them.

    Raises:
        ValueError: a row already has the label that the trigger should give it, and would count as a success.
    """
    if (same := test_labels[rows] == wanted).any():
        raise ValueError(f"expected rows whose label the trigger would change, got {same.sum()} that have it already")
    correct = clean_predictions == test_labels
    success = triggered_predictions == wanted
    by_class = {k: share(correct[test_labels == k]) for k in range(classes) if (test_labels == k).any()}
    return {
        "CA": share(correct),
        "CA_target": average([by_class[k] for k in targets if k in by_class]),
        "CA_worst": min(by_class.values(), default=NAN),
        "ASR": share(success),
        "ASR_cc": share(success[correct[rows]]),  # without the model's ordinary errors
        "RA": share(triggered_predictions == test_labels[rows]),
    }


def leakage(predictions: Int[np.ndarray, " b"], targets: Sequence[int]) -> Columns:
    """Return the share of triggered rows of neither source nor target class that get a target label."""
    return {"leakage": share(np.isin(predictions, targets))}


def natural(triggered_predictions: Sequence[Int[np.ndarray, " r"]], wanted: Int[np.ndarray, " r"]) -> Columns:
    """Return how often models without a backdoor give triggered rows the label that the attacker wants, at most.

    Args:
        triggered_predictions: of each model. The largest share counts, since one training may miss by luck a shortcut
            that the next one takes.
    """
    return {"ASR_natural": max(share(each == wanted) for each in triggered_predictions)}


def payload(
    train_labels: Int[np.ndarray, " n"],
    index: Int[np.ndarray, " p"],
    poisoned_labels: Int[np.ndarray, " p"],
    is_cover: Bool[np.ndarray, " p"],
) -> Columns:
    """Count what was really poisoned.

    `realised_poison_rate` can be compared with the `poison_rate` that was asked for. `target_share` (ρ_t) is the
    payload's share of all rows with the target label, cover and clean rows included. Where the payload has several
    labels (all-to-all), it is the largest of their shares.
    """
    received = train_labels.copy()
    received[index] = poisoned_labels
    payload_labels = poisoned_labels[~is_cover]
    in_class = np.bincount(received, minlength=1)
    share = np.bincount(payload_labels, minlength=len(in_class)) / np.maximum(in_class, 1)
    count, cover, rows = len(payload_labels), int(is_cover.sum()), len(train_labels)
    return {
        "train_rows": rows,
        "payload": count,
        "cover": cover,
        "own_class_payload": int((train_labels[index[~is_cover]] == payload_labels).sum()),
        "realised_poison_rate": count / rows if rows else NAN,
        "cover_rate": cover / rows if rows else NAN,
        "target_share": float(share.max()) if rows else NAN,
    }


# Scores and decisions of detectors and filters


def _decision(flagged: Bool[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Columns:
    """Return TPR (elimination rate), FPR (sacrifice rate), precision and F1 of a decision.

    The FPR is over N - |positive| rows, as in Qi et al. 2023.
    """
    hit, any_positive = int((flagged & positive).sum()), positive.any()
    return {
        "TPR": share(flagged[positive]),
        "FPR": share(flagged[~positive]),
        "precision": share(positive[flagged]) if any_positive else NAN,
        "F1": 2 * hit / int(flagged.sum() + positive.sum()) if any_positive else NAN,  # 2TP / (2TP + FP + FN)
    }


def _can_rank(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> bool:
    return bool(positive.any() and not positive.all() and np.isfinite(scores).all())


def _ranking(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Columns:
    """Return AUROC and AUPRC (average precision); NaN without both kinds of rows or if a score is not finite."""
    if not _can_rank(scores, positive):
        return {"AUROC": NAN, "AUPRC": NAN}
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "AUROC": float(roc_auc_score(positive, scores)),
        "AUPRC": float(average_precision_score(positive, scores)),
    }


def _at_fpr(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], percents: tuple[str, ...]) -> Columns:
    """Return, for each budget, TPR and FPR at the lowest threshold whose FPR is within it.

    Rows with equal scores are all above a threshold or all below it.
    """
    if not _can_rank(scores, positive):
        return {f"{rate}_at_{percent}%": NAN for percent in percents for rate in ("TPR", "FPR")}
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    columns: Columns = {}
    for percent in percents:
        last = np.searchsorted(fpr, float(percent) / 100 + ROUNDING, side="right") - 1
        columns |= {f"TPR_at_{percent}%": float(tpr[last]), f"FPR_at_{percent}%": float(fpr[last])}
    return columns


def detection(
    scores: Float[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
    is_payload: Bool[np.ndarray, " n"],
    is_cover: Bool[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    targets: Sequence[int],
) -> Columns:
    """Judge a detector's decision and ranking over the training set: payload is positive, cover negative.

    F1 and AUPRC are at the prevalence of the training set. Columns with `_target` rank only the rows with one target
    label, where a detector gains nothing by telling classes apart; with several labels they are the mean over them.
    `F1_balanced` is the F1 of the decision among rows with a target label, if half of these were payload: flagging
    every row then scores 2/3, flagging every second one 1/2. Without payload (the clean
    reference) FPR and `removed` are still defined.

    Args:
        labels: the training labels as received.
    """
    inside = [_ranking(scores[labels == k], is_payload[labels == k]) for k in targets]
    balanced = [_balanced_f1(flagged[labels == k], is_payload[labels == k]) for k in targets]
    return {
        **_decision(flagged, is_payload),
        "prevalence": share(is_payload),
        "removed": int(flagged.sum()),
        "cover_flagged": share(flagged[is_cover]),
        **_ranking(scores, is_payload),
        **{f"{name}_target": average([ranking[name] for ranking in inside]) for name in ("AUROC", "AUPRC")},
        "F1_balanced": average(balanced),
        **_at_fpr(scores, is_payload, ("0.1", "1", "5")),
        "non_finite_scores": count_non_finite(scores),
    }


def _balanced_f1(flagged: Bool[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    return prevalence_conversion(share(flagged[positive]), share(flagged[~positive]), 0.5)["F1"]


def prevalence_conversion(tpr: float, fpr: float, prevalence: float) -> Columns:
    """Return precision and F1 of a test with this TPR and FPR if `prevalence` of the rows are positive (Bayes)."""
    hit, false_alarm = tpr * prevalence, fpr * (1 - prevalence)
    flagged, either = hit + false_alarm, hit + false_alarm + prevalence
    return {"precision": hit / flagged if flagged != 0 else NAN, "F1": 2 * hit / either if either != 0 else NAN}


def _at_holdout_fpr(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    holdout_scores: Float[np.ndarray, " m"],
    percents: tuple[str, ...],
) -> Columns:
    """Return TPR and FPR at thresholds that at most the given percents of the hold-out scores exceed."""
    columns: Columns = {}
    for percent in percents:
        level = 1 - float(percent) / 100
        bar = np.quantile(holdout_scores, level, method="higher") if holdout_scores.size else NAN
        above = scores > bar
        usable = holdout_scores.size and np.isfinite(holdout_scores).all() and np.isfinite(scores).all()
        columns |= {
            f"TPR_at_{percent}%": share(above[positive]) if usable else NAN,
            f"FPR_at_{percent}%": share(above[~positive]) if usable else NAN,
        }
    return columns


def _screened(
    scores: Float[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    holdout_scores: Float[np.ndarray, " m"],
) -> Columns:
    decision = _decision(flagged, positive)
    return {
        **decision,
        **prevalence_conversion(decision["TPR"], decision["FPR"], 0.5),
        "AUROC": _ranking(scores, positive)["AUROC"],
        **_at_holdout_fpr(scores, positive, holdout_scores, ("1", "5")),
    }


def screening(
    scores: Float[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
    is_triggered: Bool[np.ndarray, " n"],
    succeeds: Bool[np.ndarray, " n"],
    holdout_scores: Float[np.ndarray, " m"],
) -> Columns:
    """Judge a filter's decision and ranking over test inputs.

    Precision and F1 are those of a mix of equally many clean and triggered inputs. All triggered inputs are positive;
    columns with `_successful` count only those that fool the victim, a weaker claim. The thresholds of `TPR_at_1%` and
    `TPR_at_5%` are set on hold-out scores; `FPR_at_1%` and `FPR_at_5%` are the FPRs that result on the test inputs.

    Args:
        succeeds: whether the victim gives the wanted label; ignored on clean inputs.
        holdout_scores: scores of clean images that the filter itself did not get.
    """
    counted = ~is_triggered | succeeds
    successful = _screened(scores[counted], flagged[counted], is_triggered[counted], holdout_scores)
    return {
        "screened_clean": int((~is_triggered).sum()),
        "screened_triggered": int(is_triggered.sum()),
        **_screened(scores, flagged, is_triggered, holdout_scores),
        **{f"{name}_successful": value for name, value in successful.items() if not name.startswith("FPR")},
        "non_finite_scores": count_non_finite(scores),
    }


# Repairers and purifiers


def _rating(gain: float, ca_drop: float) -> float:
    # np.maximum, not max: max(0, NaN) is 0
    return float((np.maximum(0, gain) - np.maximum(0, ca_drop) + 1) / 2)


def _success(asr: float, ca_drop: float, bar: float) -> float:
    if np.isnan(asr) or np.isnan(ca_drop):
        return NAN
    return float(asr <= bar + ROUNDING and ca_drop <= CA_ALLOWANCE + ROUNDING)


def repair(victim: Mapping[str, Any], repaired: Mapping[str, Any]) -> Columns:
    """Return what a repair changed, from the `attack` columns of the two models.

    DER = [max(0, ASR_b - ASR_d) - max(0, CA_b - CA_d) + 1] / 2 (FT-SAM, Zhu et al. 2023), with b for the victim and d
    for the defended model. RIR (BackdoorBench) has the gain in RA in place of the drop in ASR. A repair that does
    nothing scores 0.5 in both. `success_10` and `success_20` are 1 if ASR is at most 10 % or 20 % (the bar of Qi et al.
    2023) and CA at most 3 points lower.
    """
    ca_drop, asr_drop = victim["CA"] - repaired["CA"], victim["ASR"] - repaired["ASR"]
    return {
        "DER": _rating(asr_drop, ca_drop),
        "RIR": _rating(repaired["RA"] - victim["RA"], ca_drop),
        "CA_drop": ca_drop,
        "ASR_drop": asr_drop,
        "success_10": _success(repaired["ASR"], ca_drop, 0.1),
        "success_20": _success(repaired["ASR"], ca_drop, 0.2),
    }
