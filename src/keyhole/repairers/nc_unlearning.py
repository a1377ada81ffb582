"""Neural Cleanse's unlearning (Wang et al., 2019, https://doi.org/10.1109/SP.2019.00031, section VI-C).

Fine-tune on the hold-out with a recovered trigger on a share of the images, whose labels stay true, so that the
trigger loses its meaning. A model in which the inverter flags no class is returned as it is, as in the paper.
Differs from the paper: it tunes on 10 % of the training set, here on the hold-out; any inverter's trigger can be
unlearned; which images carry it is drawn once, not anew in each epoch.
Checked against: the rows that are replaced, counted; a planted trigger.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor, nn

from keyhole.learning.holdout import fine_tune
from keyhole.parameters import Count, Fraction, Positive
from keyhole.repairers import Repairer
from keyhole.types import Evidence, Images

__all__ = ["NCUnlearning"]


@dataclass(frozen=True, kw_only=True)
class NCUnlearning(Repairer):
    inverter: str = "neural_cleanse"  # label of the inverter whose trigger is unlearned
    when: Literal["flagged", "always"] = "flagged"  # flagged: only if the inverter believes in its trigger
    stamped: Fraction = 0.2  # share of the hold-out that carries the trigger
    epochs: Count = 1  # passes over the hold-out
    learning_rate: Positive = 0.01
    batch: Count = 128  # images

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: there are no hold-out images, or no recovered trigger.
        """
        evidence.require_holdout()
        if evidence.recovered is None:
            raise ValueError(f"expected an inverter that recovers a trigger, got none from inverter={self.inverter}")
        net = evidence.copy().eval()
        if evidence.recovered.flagged or self.when == "always":
            images = stamp_some(evidence.holdout_images, evidence.recovered.images, self.stamped, rng)
            tuned_on = replace(evidence, holdout_images=images)
            fine_tune(net, tuned_on, epochs=self.epochs, learning_rate=self.learning_rate, batch=self.batch, rng=rng)
        return net


def stamp_some(images: Images, stamped: UInt8[Tensor, "m c h w"], share: float, rng: Generator) -> Images:
    """A copy of `images` with a share of its rows, drawn at random, replaced by those of `stamped` (may be shorter)."""
    available = min(len(images), len(stamped))
    rows = torch.randperm(available, generator=rng)[: round(share * len(images))].to(images.device)
    mixed = images.clone()
    mixed[rows] = stamped[rows.to(stamped.device)].to(images.device)
    return mixed
