"""Measure how similar an inverter's trigger is to the true one.

Only the victim can compare the two, so the inverter's job does it: the job that scores has no model.
"""

from typing import cast

import torch
from torch import Tensor

from keyhole.learning.training import latents, predict
from keyhole.running.answers import Exam, trigger_rows
from keyhole.types import Classifier, Evidence, Images, Inversion

__all__ = ["try_triggers"]

PROBES = 250  # test images that recovered triggers are tried on


def try_triggers(inversion: Inversion, evidence: Evidence, exam: Exam) -> dict[str, Tensor]:
    """Return an inverter's answer as tensors, and the effect of its triggers on evenly spaced test images.

    Returns:
        `masks`, `anomaly`, `flagged`: the answer. If triggers are recovered, also:
        `triggers` (k, c, h, w): the first hold-out image with the trigger of each class;
        `stamped` (m, c, h, w): the hold-out images with the trigger of the class with the highest anomaly;
        `probed` (p): true classes of the test images;
        `answers` (k, p): classes predicted on them with the trigger of each class.
        If the attack has target classes, also:
        `true_mask` (h, w): the pixels that the true trigger changes;
        what `_compare` says of the true trigger and the one recovered for the first target class.
    """
    tensors = {"masks": inversion.masks, "anomaly": inversion.anomaly, "flagged": inversion.flagged}
    if inversion.stamp is None:
        return tensors
    net, classes = cast(Classifier, evidence.net), len(inversion.anomaly)
    device = evidence.holdout_images.device
    labels, images = _thin_out(exam.labels), _thin_out(exam.images).to(device)
    each = [inversion.stamp(images, k) for k in range(classes)]
    tensors |= {
        "triggers": torch.cat([inversion.stamp(evidence.holdout_images[:1], k) for k in range(classes)]),
        "stamped": inversion.stamp(evidence.holdout_images, int(inversion.anomaly.argmax())),
        "answers": torch.stack([predict(net, stamped) for stamped in each]),
        "probed": labels,
    }
    rows, triggered = trigger_rows(exam, classes)
    targets = exam.attack.target_classes(classes)
    if targets and len(rows):
        clean, true = _thin_out(exam.images[rows]).to(device), _thin_out(triggered).to(device)
        tensors["true_mask"] = (clean != true).any(0).any(0)
        tensors |= _compare(net, clean, true, inversion.stamp(clean, targets[0]))
    return tensors


def _thin_out(rows: Tensor) -> Tensor:
    """Keep at most `PROBES` evenly spaced rows."""
    return rows[:: max(1, len(rows) // PROBES)][:PROBES]


def _compare(net: Classifier, clean: Images, true: Images, recovered: Images) -> dict[str, Tensor]:
    """Compare the features of the recovered and the true trigger on the same images, at the penultimate level.

    Returns:
        `feature_distance`: the mean squared distance between the features of the two, divided by the mean squared
        distance between the true trigger's features and the clean images' (0 = the same features, 1 = as far from the
        true trigger as clean images are). `shift_cosine`: the cosine between the mean shifts that the two cause.
    """
    a, b, c = (latents(net, images, ("penultimate",))["penultimate"] for images in (clean, true, recovered))
    distance = (c - b).square().sum(1).mean() / (b - a).square().sum(1).mean()
    cosine = torch.nn.functional.cosine_similarity((b - a).mean(0), (c - a).mean(0), dim=0)
    return {"feature_distance": distance, "shift_cosine": cosine}
