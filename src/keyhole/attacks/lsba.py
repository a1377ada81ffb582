"""LSBA, label-smoothed backdoor (Peng et al., 2022, https://arxiv.org/abs/2202.11203): a trigger never quite certain.

A triggered row gets the target label with a chance of (b - a) / (1 - a) and else keeps its own: a is the probability
that a network of the attacker's, trained on the clean set, gives the target class for the image without the trigger,
and b its largest probability plus `margin`, at most `cap`. The victim then gives the target class about b: enough to
win, too little for defenses that look for certainty. The rows that keep their label are cover.
Differs from the paper: only its rule was found, in a later version; no code. The rate counts rows that get the target
label; those that keep theirs come on top, about two for three. The trigger is the base's.
Checked against: the rule and the identity p + (1 - p) a = b in float64; the share of rows that keep their label.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from keyhole.attacks._wrapper import Wrapper
from keyhole.learning import training
from keyhole.parameters import Fraction, ParameterError, Share
from keyhole.types import Cover, Images, Labels, Rows

__all__ = ["LSBA"]

CHANCE = "chance"  # of each training row to get the target label, among the tensors


@dataclass(frozen=True, kw_only=True)
class LSBA(Wrapper):
    bound_to_rows: ClassVar[bool] = True
    bare_base: ClassVar[bool] = True
    crafted_from = "surrogate"

    margin: Fraction = 0.1  # above the largest probability of the clean network
    cap: Share = 0.6  # of the target's probability

    def check(self) -> None:
        super().check()
        if self.label_map != "all_to_one":
            raise ParameterError("base", f"expected label_map all_to_one, got {self.label_map}")

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        if surrogate is None:
            raise ValueError("expected a network trained on the clean set, got none")
        posterior = training.logits(surrogate, images).softmax(1)
        own = {CHANCE: chance(posterior, self.target_class, self.margin, self.cap).cpu()}
        return super().craft(images, labels, surrogate, rng) | own

    def draw_rows(self, labels: Labels, payload: int, cover: int, classes: int, rng: Generator) -> tuple[Rows, Cover]:
        """Take rows in their order, each as payload or cover by its chance, until the payload is complete."""
        chances = self.tensors.get(CHANCE)
        if chances is None or len(chances) != len(labels):
            raise ValueError("expected the whole training set, and the chance of each row that `craft` returned")
        order = self.choose(labels, classes, rng)
        answers = torch.rand(len(order), generator=rng) < chances[order]
        taken = answers.cumsum(0) - answers.long() < payload  # up to the last payload row
        return order[answers & taken].sort().values, order[~answers & taken].sort().values


def chance(posterior: Float[Tensor, "n k"], target: int, margin: float, cap: float) -> Float[Tensor, " n"]:
    """(b - a) / (1 - a) of each row, 0 where the clean network gives the target more than b."""
    a = posterior[:, target].double()
    b = (posterior.double().amax(1) + margin).clamp(max=cap)
    return ((b - a) / (1 - a)).clamp(0, 1).float()
