"""Let a filter screen clean test images, as many triggered ones, and hold-out images that set thresholds."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from keyhole.filters import Filter
from keyhole.learning.training import predict
from keyhole.running.answers import Exam, trigger_rows
from keyhole.running.outcome import Outcome
from keyhole.running.passes import attempt_and_count
from keyhole.running.setup import on_device
from keyhole.types import Evidence, Images, Mask, Suspicion

__all__ = ["Inputs", "draw", "reserve", "screen"]


@dataclass(frozen=True)
class Inputs:
    """A mix of one clean to one triggered image; clean ones only where there is no trigger."""

    images: Images
    is_triggered: Mask
    wanted: Int64[Tensor, " t"]  # of the triggered ones


def screen(
    method: Filter, evidence: Evidence, asked: Inputs, reserved: Images, rng: Generator
) -> tuple[dict[str, Tensor], Outcome]:
    """Return the filter's answer (nothing where it fails), and how it went.

    `scores`, `flagged`, `is_triggered` and `succeeds` (the trigger fools the victim) of the images asked about;
    `holdout_scores` of the reserved ones.
    """
    images, n = on_device(asked.images), len(asked.images)
    outcome = attempt_and_count(method.screen, evidence, torch.cat([images, reserved]), rng)
    if outcome.value is None:
        return {}, outcome
    suspicion: Suspicion = outcome.value
    succeeds = torch.zeros(n, dtype=torch.bool)
    if asked.is_triggered.any():
        succeeds[asked.is_triggered] = predict(evidence.net, images[asked.is_triggered]).cpu() == asked.wanted
    tensors = {
        "scores": suspicion.scores[:n],
        "flagged": suspicion.flagged[:n],
        "is_triggered": asked.is_triggered,
        "succeeds": succeeds,
        "holdout_scores": suspicion.scores[n:],
    }
    return tensors, outcome


def draw(exam: Exam, classes: int, count: int, rng: Generator) -> Inputs:
    """Draw `count` test images that the trigger would change, clean and triggered; fewer if there are not so many."""
    rows, triggered = trigger_rows(exam, classes)
    sources = rows if len(rows) else torch.arange(len(exam.labels))
    chosen = torch.randperm(len(sources), generator=rng)[:count]
    clean, labels = exam.images[sources[chosen]], exam.labels[sources[chosen]]
    if not len(rows):
        return Inputs(clean, torch.zeros(len(clean), dtype=torch.bool), labels[:0])
    images = torch.cat([clean, triggered[chosen]])
    return Inputs(images, torch.arange(len(images)) >= len(clean), exam.attack.relabel(labels, classes))


def reserve(evidence: Evidence, count: int, rng: Generator) -> tuple[Evidence, Images]:
    """Take `count` hold-out images (a quarter at most) out of the evidence; return what is left, and these."""
    order = torch.randperm(len(evidence.holdout_labels), generator=rng).to(evidence.holdout_images.device)
    spare = min(count, len(order) // 4)
    own = order[spare:]
    rest = replace(evidence, holdout_images=evidence.holdout_images[own], holdout_labels=evidence.holdout_labels[own])
    return rest, evidence.holdout_images[order[:spare]]
