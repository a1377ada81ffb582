"""What a defender may look at, from the files of a job."""

import json
from dataclasses import replace
from typing import Any

import torch

from keyhole import artifacts
from keyhole.running.nets import load_net
from keyhole.running.setup import on_device
from keyhole.types import Evidence, Poisoned, Recovered

__all__ = ["limit_holdout", "load_evidence"]


def load_evidence(
    model: str, holdout: str, train: str = "", poisoned: str = "", latents: str = "", inversion: str = ""
) -> Evidence:
    """Read the files that there are. Without `train`, the training set has no rows, and images of the model's shape."""
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
    """Read an inverter's answer; None where it failed or recovers no trigger."""
    found = artifacts.load_tensors(path)
    if "stamped" not in found:
        return None
    target = int(found["anomaly"].argmax())
    return Recovered(on_device(found["stamped"]), target, bool(found["flagged"][target]))


def limit_holdout(evidence: Evidence, method: Any, entry: str) -> Evidence:
    """Keep as much of the hold-out as a defense's entry says; nothing of it for a method that is not told of it."""
    size = json.loads(entry).get("holdout") if "holdout" in method.told else 0
    kept = slice(None if size is None else size)
    return replace(evidence, holdout_images=evidence.holdout_images[kept], holdout_labels=evidence.holdout_labels[kept])
