"""Train again on the rows that a detector keeps; detectors that keep the same rows share one network."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from keyhole import artifacts, models, rng
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import fit
from keyhole.running.devices import on_device
from keyhole.running.nets import load_net, save_net
from keyhole.types import Classifier, Images, Labels, Poisoned

__all__ = ["retrain"]


@dataclass(frozen=True)
class Shared:
    """What jobs must have in common to share a network."""

    architecture: str
    recipe: Recipe
    key: tuple[str, ...]  # of the random stream from which initial weights and batches come
    code: str  # the hash of the code that trains
    folder: str  # where shared networks are stored


def retrain(suspicion: str, model: str, train: str, poisoned: str, shared: Shared) -> Classifier:
    """Train on the rows that a detector did not flag, or return the victim if it flagged none.

    Args:
        suspicion: the file of the detector's answer.
        model: the file of the victim.
        train: the file of the clean training set.
        poisoned: the file of the poisoned rows.
    """
    is_kept = ~artifacts.load_tensors(suspicion, "flagged")["flagged"]
    if is_kept.all():
        return load_net(model)
    clean = artifacts.load_tensors(train)
    received = artifacts.load(poisoned, Poisoned).apply(clean["images"], clean["labels"])
    images, labels = (x[is_kept] for x in received)
    path = Path(shared.folder, f"{_digest(shared, images, labels)}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # the job of another detector or attack may keep the same rows
        if not path.exists():
            stream = rng.stream(*shared.key)
            classes = artifacts.facts(train)["classes"]
            net = on_device(models.build(shared.architecture, classes, clean["images"], stream))
            fit(net, images, labels, shared.recipe, stream)
            save_net(path, net, shared.architecture, images.shape[1:], {})
    return load_net(path)


def _digest(shared: Shared, images: Images, labels: Labels) -> str:
    digest = hashlib.sha256(f"{shared.code} {shared.recipe}".encode())
    for rows in (images, labels):
        digest.update(rows.numpy())  # type: ignore[arg-type]  # a buffer
    return digest.hexdigest()[:16]
