"""What a result card says of an attack, a detector, an inverter, a repairer or a filter.

Every function takes NumPy arrays and returns flat columns. Fractions are in [0, 1]; what is undefined (the TPR of a
detector where nothing is poisoned) is NaN, never a silent 0. Torch is not imported: a score job is short.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from keyhole.scoring.flags import CA_ALLOWANCE, ROUNDING
from keyhole.scoring.statistics import NAN, average

Columns = dict[str, int | float]

PATCH = 0.25  # of the image: a trigger on more of it is no patch, and masks are not compared with it


def _mean(hits: Bool[np.ndarray, " n"]) -> float:
    """The share of hits; NaN among none."""
    return float(hits.mean()) if hits.size else NAN


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
    """CA on the whole test set; ASR, and RA (BackdoorBench, `test_ra`), on triggered test rows.

    Args:
        rows: eligible test rows, those whose label the trigger would change; none where there is no trigger.
        triggered_predictions: the model's answer to these rows with the trigger.
        wanted: the label that the trigger should give them.
        targets: the labels that the trigger leads to; `CA_target` is the mean over them.

    Raises:
        ValueError: a row already has the label that the trigger should give it (it would count as a success).
    """
    if (own := test_labels[rows] == wanted).any():
        raise ValueError(f"expected rows whose label the trigger would change, got {own.sum()} that have it already")
    correct = clean_predictions == test_labels
    success = triggered_predictions == wanted
    by_class = {k: _mean(correct[test_labels == k]) for k in range(classes) if (test_labels == k).any()}
    return {
        "CA": _mean(correct),
        "CA_target": average([by_class[k] for k in targets if k in by_class]),
        "CA_worst": min(by_class.values(), default=NAN),
        "ASR": _mean(success),
        "ASR_cc": _mean(success[correct[rows]]),  # without the model's ordinary errors
        "RA": _mean(triggered_predictions == test_labels[rows]),
    }


def leakage(predictions: Int[np.ndarray, " b"], targets: Sequence[int]) -> Columns:
    """ASR where it should not be: triggered rows of neither source nor target class that get a target label."""
    return {"leakage": _mean(np.isin(predictions, targets))}


def natural(triggered_predictions: Int[np.ndarray, " r"], wanted: Int[np.ndarray, " r"]) -> Columns:
    """How often the clean reference model already answers a trigger as its attacker wants."""
    return {"ASR_natural": _mean(triggered_predictions == wanted)}


def payload(
    train_labels: Int[np.ndarray, " n"],
    index: Int[np.ndarray, " p"],
    poisoned_labels: Int[np.ndarray, " p"],
    is_cover: Bool[np.ndarray, " p"],
) -> Columns:
    """What was really poisoned; `realised_poison_rate` stands beside the `poison_rate` that was asked for.

    `target_share` (ρ_t) is the payload's share of all rows with the target label, cover and clean; where the payload
    has several labels (all-to-all), the largest of their shares.
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
    """TPR (elimination) and FPR (sacrifice; over N - |positive|, as Qi et al. 2023), precision and F1 as found."""
    hit, any_positive = int((flagged & positive).sum()), positive.any()
    return {
        "TPR": _mean(flagged[positive]),
        "FPR": _mean(flagged[~positive]),
        "precision": _mean(positive[flagged]) if any_positive else NAN,
        "F1": 2 * hit / int(flagged.sum() + positive.sum()) if any_positive else NAN,  # 2TP / (2TP + FP + FN)
    }


def _can_rank(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> bool:
    return bool(positive.any() and not positive.all() and np.isfinite(scores).all())


def _ranking(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Columns:
    """AUROC and AUPRC (average precision); NaN without both kinds of rows or with a score that is not finite."""
    if not _can_rank(scores, positive):
        return {"AUROC": NAN, "AUPRC": NAN}
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "AUROC": float(roc_auc_score(positive, scores)),
        "AUPRC": float(average_precision_score(positive, scores)),
    }


def _at_fpr(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], percents: tuple[str, ...]) -> Columns:
    """TPR at the lowest threshold whose FPR is within each budget, and that FPR; tied rows fall on one side."""
    if not _can_rank(scores, positive):
        return {f"{rate}_at_{percent}%": NAN for percent in percents for rate in ("TPR", "FPR")}
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    columns: Columns = {}
    for percent in percents:
        last = np.searchsorted(fpr, float(percent) / 100 + ROUNDING, side="right") - 1
        columns |= {f"TPR_at_{percent}%": float(tpr[last]), f"FPR_at_{percent}%": float(fpr[last])}
    return columns


def _non_finite(scores: Float[np.ndarray, " n"]) -> int:
    return int((~np.isfinite(scores)).sum())


def detection(
    scores: Float[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
    is_payload: Bool[np.ndarray, " n"],
    is_cover: Bool[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    targets: Sequence[int],
) -> Columns:
    """A detector's decision and ranking over the training set: payload is positive, cover counts as negative.

    F1 and AUPRC are at the natural prevalence. `_target` repeats the ranking inside each target label, where a
    detector cannot score by telling classes apart (the mean over labels, where there are several). `F1_balanced` is the
    decision's F1 in a target label if payload were half of it, where flagging every row scores 2/3 and every second
    one 1/2. Without payload (the clean reference) FPR and `removed` remain.

    Args:
        labels: the training labels as received.
    """
    inside = [_ranking(scores[labels == k], is_payload[labels == k]) for k in targets]
    balanced = [_balanced_f1(flagged[labels == k], is_payload[labels == k]) for k in targets]
    return {
        **_decision(flagged, is_payload),
        "prevalence": _mean(is_payload),
        "removed": int(flagged.sum()),
        "cover_flagged": _mean(flagged[is_cover]),
        **_ranking(scores, is_payload),
        **{f"{name}_target": average([ranking[name] for ranking in inside]) for name in ("AUROC", "AUPRC")},
        "F1_balanced": average(balanced),
        **_at_fpr(scores, is_payload, ("0.1", "1", "5")),
        "non_finite_scores": _non_finite(scores),
    }


def _balanced_f1(flagged: Bool[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    return prevalence_conversion(_mean(flagged[positive]), _mean(flagged[~positive]), 0.5)["F1"]


def prevalence_conversion(tpr: float, fpr: float, prevalence: float) -> Columns:
    """Precision and F1 that a test of this TPR and FPR has where `prevalence` of the rows are positive (Bayes)."""
    hit, false_alarm = tpr * prevalence, fpr * (1 - prevalence)
    flagged, either = hit + false_alarm, hit + false_alarm + prevalence
    return {"precision": hit / flagged if flagged != 0 else NAN, "F1": 2 * hit / either if either != 0 else NAN}


def _at_holdout_fpr(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    holdout_scores: Float[np.ndarray, " m"],
    percents: tuple[str, ...],
) -> Columns:
    """TPR and FPR at the threshold above which at most that share of hold-out scores lies."""
    columns: Columns = {}
    for percent in percents:
        level = 1 - float(percent) / 100
        bar = np.quantile(holdout_scores, level, method="higher") if holdout_scores.size else NAN
        above = scores > bar
        usable = holdout_scores.size and np.isfinite(holdout_scores).all() and np.isfinite(scores).all()
        columns |= {
            f"TPR_at_{percent}%": _mean(above[positive]) if usable else NAN,
            f"FPR_at_{percent}%": _mean(above[~positive]) if usable else NAN,
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
    """A filter's decision and ranking over test inputs; precision and F1 are those of a 1:1 clean:triggered mix.

    The positives are all triggered inputs; `_successful` counts only those that fool the victim, a weaker claim.
    `TPR_at_1%` and `TPR_at_5%` stand at thresholds that the hold-out sets, with the FPR that they really have.

    Args:
        succeeds: the victim gives the wanted label; ignored on clean inputs.
        holdout_scores: of clean images that the filter itself did not get.
    """
    kept = ~is_triggered | succeeds
    successful = _screened(scores[kept], flagged[kept], is_triggered[kept], holdout_scores)
    return {
        "screened_clean": int((~is_triggered).sum()),
        "screened_triggered": int(is_triggered.sum()),
        **_screened(scores, flagged, is_triggered, holdout_scores),
        **{f"{name}_successful": value for name, value in successful.items() if not name.startswith("FPR")},
        "non_finite_scores": _non_finite(scores),
    }


# Inverters


def inversion(anomaly: Float[np.ndarray, " k"], flagged: Bool[np.ndarray, " k"], targets: Sequence[int]) -> Columns:
    """Whether the target class was flagged, and whether it ranks first (a tie shares the credit).

    Args:
        targets: none for a clean model: every flag is then a false alarm. Of several, `found` is the share flagged.
    """
    wanted = list(targets)
    others = np.delete(flagged, wanted)
    best = anomaly == anomaly.max()  # all False with a NaN
    return {
        "found": _mean(flagged[wanted]),
        "top1": float(best[wanted].sum() / best.sum()) if wanted and best.any() else NAN,
        "any_flagged": float(flagged.any()),
        "false_alarms": int(others.sum()),  # classes
        "anomaly_max": float(anomaly.max()),
        "non_finite_scores": _non_finite(anomaly),
    }


def reasr(predictions: Int[np.ndarray, "k p"], labels: Int[np.ndarray, " p"], targets: Sequence[int]) -> Columns:
    """ASR of the triggers recovered for the target classes, on images of other classes (the name is ABS's, Liu et al.
    2019); `predictions` are made on images with each class's trigger.
    """
    return {"REASR": _mean(np.concatenate([predictions[k][labels != k] == k for k in targets]))}


def recovered_patch(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """How near the recovered mask comes to a patch; no columns where the true trigger covers more of the image, or the
    method has no mask.
    """
    if true_mask.mean() > PATCH or (mask == 1).all():
        return {}
    return mask_iou(mask, true_mask) | l1_ratio(mask, true_mask)


def mask_iou(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """Intersection over union of a patch and the recovered mask, cut at one half."""
    found = mask > 0.5
    return {"mask_IoU": _mean((found & true_mask)[found | true_mask])}


def l1_ratio(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """The recovered mask's ℓ1 norm over the true patch's."""
    return {"l1_ratio": float(np.abs(mask).sum() / true_mask.sum()) if true_mask.any() else NAN}


# Repairers and purifiers


def _rating(gain: float, ca_drop: float) -> float:
    # np.maximum, not max: max(0, NaN) is 0
    return float((np.maximum(0, gain) - np.maximum(0, ca_drop) + 1) / 2)


def _success(asr: float, ca_drop: float, bar: float) -> float:
    if np.isnan(asr) or np.isnan(ca_drop):
        return NAN
    return float(asr <= bar + ROUNDING and ca_drop <= CA_ALLOWANCE + ROUNDING)


def repair(victim: Mapping[str, Any], repaired: Mapping[str, Any]) -> Columns:
    """What a repair changed, from the two models' `attack` columns.

    DER = [max(0, ASR_b - ASR_d) - max(0, CA_b - CA_d) + 1] / 2 (FT-SAM, Zhu et al. 2023), RIR the same with RA's
    gain (BackdoorBench): a repair that does nothing scores 0.5. `success_10`, `success_20`: ASR at most 10 % or 20 %
    (the bar of Qi et al. 2023), CA at most 3 points lower.
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
