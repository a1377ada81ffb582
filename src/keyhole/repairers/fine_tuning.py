"""Fine-tuning: train the victim further on the hold-out, and hope that it forgets the backdoor.

Idea: This is the null model of all repairs: a repair that does no better has repaired nothing beyond what training on
clean images does by itself.

Differs from the released code (BackdoorBench, https://github.com/SCLBD/BackdoorBench): 20 epochs instead of 100, a
fixed learning rate instead of a cosine, no mirrored images, no weight decay.

Checked against: one step of gradient descent on a linear model in float64.
"""

from dataclasses import dataclass

from torch import Generator, nn

from keyhole.learning.holdout import PAD, fine_tune
from keyhole.parameters import Count, Natural, Positive
from keyhole.repairers import Repairer
from keyhole.types import Evidence

__all__ = ["FineTuning"]


@dataclass(frozen=True, kw_only=True)
class FineTuning(Repairer):
    epochs: Count = 20  # passes over the hold-out
    learning_rate: Positive = 0.01
    batch: Count = 128  # images
    pad: Natural = PAD  # pixels added around an image before a random crop

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Fine-tune a copy of the victim on the hold-out.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = evidence.copy()
        fine_tune(
            net,
            evidence,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch=self.batch,
            pad=self.pad,
            rng=rng,
        )
        return net
