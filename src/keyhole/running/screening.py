"""What a filter is asked: clean test images, as many triggered ones, and hold-out images that set thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from keyhole.attacks import Attack
from keyhole.running.evaluation import triggered_rows
from keyhole.types import Evidence, Images, Mask

__all__ = ["Inputs", "draw", "reserve"]


@dataclass(frozen=True)
class Inputs:
    """A mix of one clean to one triggered image; clean ones only where there is no trigger."""

    images: Images
    is_triggered: Mask
    wanted: Int64[Tensor, " t"]  # of the triggered ones


def draw(
    attack: Attack, test: Mapping[str, Tensor], classes: int, cell: Mapping[str, str], count: int, rng: Generator
) -> Inputs:
    """`count` test images that the trigger would change, clean and triggered; fewer if there are not so many."""
    rows, triggered = triggered_rows(attack, test, classes, cell)
    sources = rows if len(rows) else torch.arange(len(test["labels"]))
    chosen = torch.randperm(len(sources), generator=rng)[:count]
    clean, labels = test["images"][sources[chosen]], test["labels"][sources[chosen]]
    if not len(rows):
        return Inputs(clean, torch.zeros(len(clean), dtype=torch.bool), labels[:0])
    images = torch.cat([clean, triggered[chosen]])
    return Inputs(images, torch.arange(len(images)) >= len(clean), attack.relabel(labels, classes))


def reserve(evidence: Evidence, count: int, rng: Generator) -> tuple[Evidence, Images]:
    """The evidence without `count` of its hold-out images (a quarter at most), and these."""
    order = torch.randperm(len(evidence.holdout_labels), generator=rng).to(evidence.holdout_images.device)
    spare = min(count, len(order) // 4)
    own = order[spare:]
    rest = replace(evidence, holdout_images=evidence.holdout_images[own], holdout_labels=evidence.holdout_labels[own])
    return rest, evidence.holdout_images[order[:spare]]
