"""Read what a defender may look at from the files of a job."""

import json
from dataclasses import replace
from typing import Any

import torch

from keyhole import artifacts
from keyhole.running.devices import on_device
from keyhole.running.nets import load_net
from keyhole.types import Evidence, Poisoned, Recovered

__all__ = ["limit_holdout", "load_evidence"]


def load_evidence(
    model: str, holdout: str, train: str = "", poisoned: str = "", latents: str = "", inversion: str = ""
) -> Evidence:
    """Read the evidence from its files; an empty path leaves its part out.

    Without `train`, the training set has no rows; its images have the shape that the model expects.
    """
    if train:
        clean = artifacts.load_tensors(train)
        images, labels = artifacts.load(poisoned, Poisoned).apply(clean["images"], clean["labels"])
    else:
        images = torch.empty(0, *artifacts.facts(model)["shape"], dtype=torch.uint8)
        labels = torch.empty(0, dtype=torch.int64)
    holdout_set = artifacts.load_tensors(holdout)
    return Evidence(
        net=load_net(model),
        images=on_device(images),
        labels=on_device(labels),
        latents={level: on_device(x) for level, x in artifacts.load_tensors(latents).items()} if latents else {},
        holdout_images=on_device(holdout_set["images"]),
        holdout_labels=on_device(holdout_set["labels"]),
        recovered=_load_recovered(inversion) if inversion else None,
    )


def _load_recovered(path: str) -> Recovered | None:
    """Read an inverter's answer; None if it failed or recovers no trigger."""
    inversion = artifacts.load_tensors(path)
    if "stamped" not in inversion:
        return None
    target = int(inversion["anomaly"].argmax())
    return Recovered(on_device(inversion["stamped"]), target, bool(inversion["flagged"][target]))


def limit_holdout(evidence: Evidence, method: Any, entry: str) -> Evidence:
    """Keep as many hold-out images as a defense's entry says, all by default; none for a method that gets no hold-out.

    Args:
        method: the defense; `told` says whether it gets a hold-out.
        entry: its entry in the configuration.
    """
    size = json.loads(entry).get("holdout") if "holdout" in method.told else 0
    images, labels = evidence.holdout_images[:size], evidence.holdout_labels[:size]
    return replace(evidence, holdout_images=images, holdout_labels=labels)
