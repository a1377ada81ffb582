"""A model's predictions on the test set, stored as classes, so that scoring needs neither the model nor torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from keyhole import artifacts, rng
from keyhole.attacks import Attack
from keyhole.learning.training import predict
from keyhole.running.attacker import load_attack
from keyhole.types import Images, Labels, Mask, Rows

__all__ = ["Exam", "answer", "load_exam", "trigger_rows"]


@dataclass(frozen=True)
class Exam:
    """The test set of a data set, and the attack whose trigger is put on it; the same for all models of a seed."""

    attack: Attack
    images: Images
    labels: Labels
    dataset: str
    seed: int


def load_exam(attack: str, trigger: str, test: str, dataset: str, seed: str) -> Exam:
    """Read the test set, and build the attack of a configuration entry.

    Args:
        attack: the entry.
        trigger: the file of the tensors that the attack crafted or learned.
        test: the file of the test set.
    """
    tensors = artifacts.load_tensors(test)
    return Exam(load_attack(attack, trigger), tensors["images"], tensors["labels"], dataset, int(seed))


def trigger_rows(exam: Exam, classes: int) -> tuple[Rows, Images]:
    """Return the test rows on which ASR is measured, and their images with the test-time trigger.

    The random stream depends on data set and seed only, so every model and defense gets the same triggered images.
    """
    rows = torch.nonzero(exam.attack.eligible(exam.labels, classes)).squeeze(1)
    return rows, exam.attack.apply_trigger(exam.images[rows], rng.stream("trigger", exam.dataset, exam.seed))


def answer(net: nn.Module, exam: Exam, purify: Callable[[Images], Images] = lambda images: images) -> dict[str, Tensor]:
    """Predict the classes of clean and triggered test images.

    Args:
        purify: a function that changes the images before the network sees them. It is called once, with all images,
            since it may have to learn something first.

    Returns:
        `clean` (n): classes predicted on the test set. `rows` (r): the test rows that get the trigger. `triggered` (r):
        classes predicted on them. `wanted` (r): the labels that the attacker wants for them. `leaked` (b): classes
        predicted on triggered bystanders, rows of classes on which a source-specific trigger should have no effect.
    """
    attack, classes = exam.attack, cast(nn.Linear, net.head).out_features
    rows, triggered = trigger_rows(exam, classes)
    bystanders = exam.images[_bystanders(attack, exam.labels, classes)]
    stream = rng.stream("leakage", exam.dataset, exam.seed)
    groups = exam.images, triggered, attack.apply_trigger(bystanders, stream)
    clean, fooled, leaked = predict(net, purify(torch.cat(groups))).split([len(images) for images in groups])
    return {
        "clean": clean,
        "triggered": fooled,
        "rows": rows,
        "wanted": attack.relabel(exam.labels[rows], classes),
        "leaked": leaked,
    }


def _bystanders(attack: Attack, labels: Labels, classes: int) -> Mask:
    """Return a mask of the rows whose class is neither a source nor a target class; no rows without a target class."""
    targets = torch.tensor(attack.target_classes(classes), dtype=torch.int64)
    return ~attack.eligible(labels, classes) & ~torch.isin(labels, targets) & bool(len(targets))
