"""What a model answers on the test set, kept as predicted classes so that scores need neither model nor torch.

What an inverter recovered is held against the true trigger here, too, since only a model can compare the two.
"""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from keyhole import rng
from keyhole.attacks import Attack
from keyhole.learning.training import latents, predict
from keyhole.models import Classifier
from keyhole.types import Evidence, Images, Inversion, Labels, Mask, Rows

__all__ = ["answers", "inverted", "triggered_rows"]

PROBES = 250  # test images that recovered triggers are tried on


def triggered_rows(
    attack: Attack, test: Mapping[str, Tensor], classes: int, cell: Mapping[str, str]
) -> tuple[Rows, Images]:
    """The test rows on which ASR is measured, and these images with the test-time trigger.

    The stream is that of the data set and seed: every model and defense meets the same triggered images.
    """
    rows = torch.nonzero(attack.eligible(test["labels"], classes)).squeeze(1)
    return rows, attack.apply_trigger(test["images"][rows], rng.stream("trigger", cell["dataset"], cell["seed"]))


def answers(
    net: nn.Module,
    attack: Attack,
    test: Mapping[str, Tensor],
    cell: Mapping[str, str],
    purify: Callable[[Images], Images] = lambda images: images,
) -> dict[str, Tensor]:
    """Predicted classes on the clean (`clean`, n) and on the triggered test set (`triggered`, r), with the triggered
    `rows` (r) and the label that the attacker wants for each (`wanted`, r). `leaked` (b) is predicted on triggered
    bystanders: rows of classes that a source-specific trigger should leave. A purifier may stand in front of the
    network; it gets all images at once, since it may have to learn something first."""
    labels, classes = test["labels"], cast(nn.Linear, net.head).out_features
    rows, triggered = triggered_rows(attack, test, classes, cell)
    bystanders = test["images"][_bystanders(attack, labels, classes)]
    stream = rng.stream("leakage", cell["dataset"], cell["seed"])
    asked = test["images"], triggered, attack.apply_trigger(bystanders, stream)
    clean, fooled, leaked = predict(net, purify(torch.cat(asked))).split([len(images) for images in asked])
    return {
        "clean": clean,
        "triggered": fooled,
        "rows": rows,
        "wanted": attack.relabel(labels[rows], classes),
        "leaked": leaked,
    }


def _bystanders(attack: Attack, labels: Labels, classes: int) -> Mask:
    """Rows of neither a source nor a target class; none where every class is one or the other."""
    targets = torch.tensor(attack.target_classes(classes), dtype=torch.int64)
    return ~attack.eligible(labels, classes) & ~torch.isin(labels, targets) & bool(len(targets))


def inverted(
    found: Inversion, evidence: Evidence, attack: Attack, test: Mapping[str, Tensor], cell: Mapping[str, str]
) -> dict[str, Tensor]:
    """An inverter's answer as tensors, and how the triggers that it recovered work on evenly spaced test images.

    `masks`, `anomaly`, `flagged` as found. Where triggers are recovered: `triggers` (k, c, h, w), the first hold-out
    image with each class's; `stamped` (m, c, h, w), the hold-out with that of the highest anomaly; `answers` (k, p),
    predicted on test images of the classes `probed` (p) with each class's trigger; and for a victim with a target
    class, the first, `true_mask` (h, w), where its trigger changes pixels, and what `_likeness` says.
    """
    tensors = {"masks": found.masks, "anomaly": found.anomaly, "flagged": found.flagged}
    if found.stamp is None:
        return tensors
    net, classes = cast(Classifier, evidence.net), len(found.anomaly)
    home = evidence.holdout_images.device
    labels, images = _spread(test["labels"]), _spread(test["images"]).to(home)
    each = [found.stamp(images, k) for k in range(classes)]
    tensors |= {
        "triggers": torch.cat([found.stamp(evidence.holdout_images[:1], k) for k in range(classes)]),
        "stamped": found.stamp(evidence.holdout_images, int(found.anomaly.argmax())),
        "answers": torch.stack([predict(net, stamped) for stamped in each]),
        "probed": labels,
    }
    rows, triggered = triggered_rows(attack, test, classes, cell)
    targets = attack.target_classes(classes)
    if targets and len(rows):
        clean, true = _spread(test["images"][rows]).to(home), _spread(triggered).to(home)
        tensors["true_mask"] = (clean != true).any(0).any(0)
        tensors |= _likeness(net, clean, true, found.stamp(clean, targets[0]))
    return tensors


def _spread(rows: Tensor) -> Tensor:
    return rows[:: max(1, len(rows) // PROBES)][:PROBES]


def _likeness(net: Classifier, clean: Images, true: Images, recovered: Images) -> dict[str, Tensor]:
    """How near the recovered trigger comes to the true one at the penultimate level, both on the same images.

    `feature_distance`: mean squared distance between the two, over that between the true trigger's and the clean
    images' (0 = the same features, 1 = as far as no trigger at all). `shift_cosine`: cosine between the mean shifts
    that the two cause.
    """
    a, b, c = (latents(net, images, ("penultimate",))["penultimate"] for images in (clean, true, recovered))
    distance = (c - b).square().sum(1).mean() / (b - a).square().sum(1).mean()
    cosine = torch.nn.functional.cosine_similarity((b - a).mean(0), (c - a).mean(0), dim=0)
    return {"feature_distance": distance, "shift_cosine": cosine}
