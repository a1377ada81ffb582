"""Example images for pictures: clean, with the training-time trigger, with the test-time trigger."""

import numpy as np
import torch

from keyhole import rng
from keyhole.attacks import Attack
from keyhole.types import Images, Poisoned

__all__ = ["examples"]

SHOWN = 6


def examples(attack: Attack, images: Images, poisoned: Poisoned, holdout: Images) -> dict[str, np.ndarray]:
    """The first payload rows `clean`, `planted` and `triggered`; the hold-out images, and `stamped` with the trigger.

    A clean victim has no payload: its first training rows are shown.
    """
    rows = torch.nonzero(~poisoned.is_cover)[:SHOWN, 0]
    clean = images[poisoned.index[rows]] if len(rows) else images[:SHOWN]
    planted = poisoned.images[rows] if len(rows) else clean
    shown = {
        "clean": clean,
        "planted": planted,
        "triggered": attack.apply_trigger(clean, rng.stream("preview")),
        "holdout": holdout,
        "stamped": attack.apply_trigger(holdout, rng.stream("preview")),
    }
    return {name: each.numpy() for name, each in shown.items()}
