"""How like the true trigger an inverter's is. Only a model can compare the two, so it is done beside the inverter."""

from typing import cast

import torch
from torch import Tensor

from keyhole.learning.training import latents, predict
from keyhole.models import Classifier
from keyhole.running.answers import Exam, trigger_rows
from keyhole.types import Evidence, Images, Inversion

__all__ = ["try_triggers"]

PROBES = 250  # test images that recovered triggers are tried on


def try_triggers(found: Inversion, evidence: Evidence, exam: Exam) -> dict[str, Tensor]:
    """Return an inverter's answer as tensors, and how its recovered triggers work on evenly spaced test images.

    `masks`, `anomaly`, `flagged` as found. Where triggers are recovered: `triggers` (k, c, h, w), the first hold-out
    image with each class's; `stamped` (m, c, h, w), the hold-out with that of the highest anomaly; `answers` (k, p),
    predicted on test images of the classes `probed` (p) with each class's trigger; and for a victim with a target
    class, the first, `true_mask` (h, w), where its trigger changes pixels, and what `_compare` returns.
    """
    tensors = {"masks": found.masks, "anomaly": found.anomaly, "flagged": found.flagged}
    if found.stamp is None:
        return tensors
    net, classes = cast(Classifier, evidence.net), len(found.anomaly)
    home = evidence.holdout_images.device
    labels, images = _thin_out(exam.labels), _thin_out(exam.images).to(home)
    each = [found.stamp(images, k) for k in range(classes)]
    tensors |= {
        "triggers": torch.cat([found.stamp(evidence.holdout_images[:1], k) for k in range(classes)]),
        "stamped": found.stamp(evidence.holdout_images, int(found.anomaly.argmax())),
        "answers": torch.stack([predict(net, stamped) for stamped in each]),
        "probed": labels,
    }
    rows, triggered = trigger_rows(exam, classes)
    targets = exam.attack.target_classes(classes)
    if targets and len(rows):
        clean, true = _thin_out(exam.images[rows]).to(home), _thin_out(triggered).to(home)
        tensors["true_mask"] = (clean != true).any(0).any(0)
        tensors |= _compare(net, clean, true, found.stamp(clean, targets[0]))
    return tensors


def _thin_out(rows: Tensor) -> Tensor:
    return rows[:: max(1, len(rows) // PROBES)][:PROBES]


def _compare(net: Classifier, clean: Images, true: Images, recovered: Images) -> dict[str, Tensor]:
    """Compare the recovered trigger with the true one at the penultimate level, both on the same images.

    `feature_distance`: mean squared distance between the two, over that between the true trigger's and the clean
    images' (0 = the same features, 1 = as far as no trigger at all). `shift_cosine`: cosine between the mean shifts
    that the two cause.
    """
    a, b, c = (latents(net, images, ("penultimate",))["penultimate"] for images in (clean, true, recovered))
    distance = (c - b).square().sum(1).mean() / (b - a).square().sum(1).mean()
    cosine = torch.nn.functional.cosine_similarity((b - a).mean(0), (c - a).mean(0), dim=0)
    return {"feature_distance": distance, "shift_cosine": cosine}
