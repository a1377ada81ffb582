"""Let a filter screen clean test images, as many triggered ones, and the hold-out images that set thresholds."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from keyhole.filters import Filter
from keyhole.learning.training import predict
from keyhole.running.answers import Exam, trigger_rows
from keyhole.running.devices import on_device
from keyhole.running.outcome import Outcome
from keyhole.running.passes import attempt_and_count
from keyhole.types import Evidence, Images, Mask, Suspicion

__all__ = ["Inputs", "draw", "reserve", "screen"]


@dataclass(frozen=True)
class Inputs:
    """Clean test images, then the same images with the trigger; only the clean ones if there is no trigger."""

    images: Images
    is_triggered: Mask
    wanted: Int64[Tensor, " t"]  # labels that the attacker wants for the triggered images


def screen(
    method: Filter, evidence: Evidence, inputs: Inputs, reserved: Images, rng: Generator
) -> tuple[dict[str, Tensor], Outcome]:
    """Let a filter screen the inputs and the reserved hold-out images.

    Returns:
        The filter's answer, without tensors if it fails: `scores`, `flagged`, `is_triggered` and `succeeds` (whether
        the victim predicts the wanted label) for the inputs, `holdout_scores` for the reserved images. And how the call
        went.
    """
    images, n = on_device(inputs.images), len(inputs.images)
    outcome = attempt_and_count(method.screen, evidence, torch.cat([images, reserved]), rng)
    if outcome.value is None:
        return {}, outcome
    suspicion: Suspicion = outcome.value
    succeeds = torch.zeros(n, dtype=torch.bool)
    if inputs.is_triggered.any():
        succeeds[inputs.is_triggered] = predict(evidence.net, images[inputs.is_triggered]).cpu() == inputs.wanted
    tensors = {
        "scores": suspicion.scores[:n],
        "flagged": suspicion.flagged[:n],
        "is_triggered": inputs.is_triggered,
        "succeeds": succeeds,
        "holdout_scores": suspicion.scores[n:],
    }
    return tensors, outcome


def draw(exam: Exam, classes: int, count: int, rng: Generator) -> Inputs:
    """Draw up to `count` test images on which ASR is measured, and add the same images with the trigger.

    If there are none, as for an attack without a trigger, draw clean images from the whole test set.
    """
    rows, triggered = trigger_rows(exam, classes)
    sources = rows if len(rows) else torch.arange(len(exam.labels))
    chosen = torch.randperm(len(sources), generator=rng)[:count]
    clean, labels = exam.images[sources[chosen]], exam.labels[sources[chosen]]
    if not len(rows):
        return Inputs(clean, torch.zeros(len(clean), dtype=torch.bool), labels[:0])
    images = torch.cat([clean, triggered[chosen]])
    return Inputs(images, torch.arange(len(images)) >= len(clean), exam.attack.relabel(labels, classes))


def reserve(evidence: Evidence, count: int, rng: Generator) -> tuple[Evidence, Images]:
    """Set up to `count` hold-out images aside, at most a quarter of them.

    Returns:
        The evidence without these images, and the images.
    """
    order = torch.randperm(len(evidence.holdout_labels), generator=rng).to(evidence.holdout_images.device)
    spare = min(count, len(order) // 4)
    left = order[spare:]
    rest = replace(evidence, holdout_images=evidence.holdout_images[left], holdout_labels=evidence.holdout_labels[left])
    return rest, evidence.holdout_images[order[:spare]]
