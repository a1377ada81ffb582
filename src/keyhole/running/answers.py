"""What a model answers on the test set, kept as predicted classes so that scores need neither model nor torch."""

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
    """What models of a data set and seed are asked: test images, and the same with an attack's trigger."""

    attack: Attack
    images: Images
    labels: Labels
    dataset: str
    seed: int


def load_exam(attack: str, trigger: str, test: str, dataset: str, seed: str) -> Exam:
    """Read the test set and the attack of a configuration entry, with the tensors of its file `trigger`."""
    tensors = artifacts.load_tensors(test)
    return Exam(load_attack(attack, trigger), tensors["images"], tensors["labels"], dataset, int(seed))


def trigger_rows(exam: Exam, classes: int) -> tuple[Rows, Images]:
    """Return the test rows on which ASR is measured, and these images with the test-time trigger.

    The stream depends on data set and seed only: every model and defense meets the same triggered images.
    """
    rows = torch.nonzero(exam.attack.eligible(exam.labels, classes)).squeeze(1)
    return rows, exam.attack.apply_trigger(exam.images[rows], rng.stream("trigger", exam.dataset, exam.seed))


def answer(net: nn.Module, exam: Exam, purify: Callable[[Images], Images] = lambda images: images) -> dict[str, Tensor]:
    """Predict the classes of clean and triggered test images.

    Args:
        purify: what is done to the images before the network. It gets all of them at once, since it may have to learn
            something first.

    Returns:
        `clean` (n), predicted on the test set; `triggered` (r), predicted on its `rows` (r) with the trigger, and the
        label that the attacker wants for each (`wanted`, r); `leaked` (b), predicted on triggered bystanders: rows of
        classes that a source-specific trigger should leave alone.
    """
    attack, classes = exam.attack, cast(nn.Linear, net.head).out_features
    rows, triggered = trigger_rows(exam, classes)
    bystanders = exam.images[_bystanders(attack, exam.labels, classes)]
    stream = rng.stream("leakage", exam.dataset, exam.seed)
    asked = exam.images, triggered, attack.apply_trigger(bystanders, stream)
    clean, fooled, leaked = predict(net, purify(torch.cat(asked))).split([len(images) for images in asked])
    return {
        "clean": clean,
        "triggered": fooled,
        "rows": rows,
        "wanted": attack.relabel(exam.labels[rows], classes),
        "leaked": leaked,
    }


def _bystanders(attack: Attack, labels: Labels, classes: int) -> Mask:
    """Return the rows of neither a source nor a target class; none where every class is one or the other."""
    targets = torch.tensor(attack.target_classes(classes), dtype=torch.int64)
    return ~attack.eligible(labels, classes) & ~torch.isin(labels, targets) & bool(len(targets))
