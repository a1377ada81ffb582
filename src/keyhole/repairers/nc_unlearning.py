"""Neural Cleanse's unlearning (Wang et al., 2019, https://doi.org/10.1109/SP.2019.00031): retrain on the found trigger.

Idea: Fine-tune on the hold-out with a recovered trigger on a share of the images. Their labels stay true, so the
trigger loses its meaning (section VI-C). If the inverter flags no class, the model is returned unchanged, as in the
paper.

Differs from the paper: The model is tuned on the hold-out, not on 10 % of the training set. The trigger of any inverter
can be unlearned. The images that carry it are drawn once, not anew in each epoch.

Checked against: the number of replaced rows; a planted trigger.
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
    when: Literal["flagged", "always"] = "flagged"  # flagged: only if the inverter flags the class of its trigger
    stamped: Fraction = 0.2  # share of the hold-out that carries the trigger
    epochs: Count = 1  # passes over the hold-out
    learning_rate: Positive = 0.01
    batch: Count = 128  # images

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Fine-tune on images with the recovered trigger and true labels.

        Raises:
            ValueError: there are no hold-out images, or no recovered trigger.
        """
        evidence.require_holdout()
        if evidence.recovered is None:
            raise ValueError(
                f"inverter: expected an inverter that recovers a trigger, got {self.inverter}, which gave none"
            )
        net = evidence.copy().eval()
        if evidence.recovered.flagged or self.when == "always":
            images = stamp_some(evidence.holdout_images, evidence.recovered.images, self.stamped, rng)
            with_trigger = replace(evidence, holdout_images=images)
            fine_tune(
                net, with_trigger, epochs=self.epochs, learning_rate=self.learning_rate, batch=self.batch, rng=rng
            )
        return net


def stamp_some(images: Images, stamped: UInt8[Tensor, "m c h w"], share: float, rng: Generator) -> Images:
    """Replace a random share of the rows of `images` by those of `stamped`, which may have fewer; return a copy."""
    available = min(len(images), len(stamped))
    rows = torch.randperm(available, generator=rng)[: round(share * len(images))].to(images.device)
    mixed = images.clone()
    mixed[rows] = stamped[rows.to(stamped.device)].to(images.device)
    return mixed
