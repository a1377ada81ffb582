"""The metrics of inverters: whether the target was found, and how near the recovered trigger comes to the true one.

Conventions are those of `metrics`: NumPy arrays, flat columns, fractions in [0, 1], NaN for what is not defined.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from keyhole.scoring.metrics import Columns
from keyhole.scoring.statistics import NAN, count_non_finite, share

__all__ = ["inversion", "l1_ratio", "mask_iou", "reasr", "recovered_patch"]

PATCH = 0.25  # of the image: a trigger that covers more is not a patch, and masks are not compared with it


def inversion(anomaly: Float[np.ndarray, " k"], flagged: Bool[np.ndarray, " k"], targets: Sequence[int]) -> Columns:
    """Return whether the target class is flagged, and whether it has the highest anomaly (a tie shares the credit).

    Args:
        targets: empty for a clean model, whose flags are all false alarms. With several, `found` is the share that is
            flagged.
    """
    wanted = list(targets)
    others = np.delete(flagged, wanted)
    best = anomaly == anomaly.max()  # all False with a NaN
    return {
        "found": share(flagged[wanted]),
        "top1": float(best[wanted].sum() / best.sum()) if wanted and best.any() else NAN,
        "any_flagged": float(flagged.any()),
        "false_alarms": int(others.sum()),  # classes
        "anomaly_max": float(anomaly.max()),
        "non_finite_scores": count_non_finite(anomaly),
    }


def reasr(predictions: Int[np.ndarray, "k p"], labels: Int[np.ndarray, " p"], targets: Sequence[int]) -> Columns:
    """Return the ASR of the triggers recovered for the target classes, on images of other classes.

    The name is that of ABS (Liu et al. 2019).

    Args:
        predictions: row k is made on images with the trigger recovered for class k.
        labels: the true classes of these images.
    """
    return {"REASR": share(np.concatenate([predictions[k][labels != k] == k for k in targets]))}


def recovered_patch(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """Compare the recovered mask with the true patch.

    No columns are returned if the true trigger is no patch (it covers more than `PATCH` of the image) or the method
    recovers no mask (all of it is 1).
    """
    if true_mask.mean() > PATCH or (mask == 1).all():
        return {}
    return mask_iou(mask, true_mask) | l1_ratio(mask, true_mask)


def mask_iou(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """Return the intersection over union of the true patch and the recovered mask, cut at one half."""
    recovered = mask > 0.5
    return {"mask_IoU": share((recovered & true_mask)[recovered | true_mask])}


def l1_ratio(mask: Float[np.ndarray, "h w"], true_mask: Bool[np.ndarray, "h w"]) -> Columns:
    """Return the ℓ1 norm of the recovered mask over that of the true patch."""
    return {"l1_ratio": float(np.abs(mask).sum() / true_mask.sum()) if true_mask.any() else NAN}
