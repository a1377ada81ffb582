"""Example images for pictures: clean, with the training-time trigger, with the test-time trigger."""

import numpy as np
import torch

from keyhole import rng
from keyhole.attacks import Attack
from keyhole.types import Images, Poisoned

__all__ = ["make_examples"]

COUNT = 6  # training images in a picture


def make_examples(attack: Attack, images: Images, poisoned: Poisoned, holdout: Images) -> dict[str, np.ndarray]:
    """Return example images by name.

    Returns:
        The first payload rows `clean`, `planted` (with the training-time trigger) and `triggered` (with the test-time
        trigger), for a clean victim its first training rows; the `holdout` images, and the same `stamped` with the
        test-time trigger.
    """
    rows = torch.nonzero(~poisoned.is_cover)[:COUNT, 0]
    clean = images[poisoned.index[rows]] if len(rows) else images[:COUNT]
    planted = poisoned.images[rows] if len(rows) else clean
    shown = {
        "clean": clean,
        "planted": planted,
        "triggered": attack.apply_trigger(clean, rng.stream("preview")),
        "holdout": holdout,
        "stamped": attack.apply_trigger(holdout, rng.stream("preview")),
    }
    return {name: each.numpy() for name, each in shown.items()}
