"""LSBA, label-smoothed backdoor (Peng et al., 2022, https://arxiv.org/abs/2202.11203): a trigger without certainty.

Idea: a triggered row gets the target label with probability (b - a) / (1 - a), and otherwise keeps its label. Here a is
the probability that a network, which the attacker trained on the clean set, gives the target class for the image
without the trigger, and b is the largest probability of that network plus `margin`, at most `cap`. The victim then
gives the target class a probability of about b: enough to win, too little for defenses that look for certainty. Rows
that keep their label are cover. The trigger is that of the base.

Differs from the paper: only the rule was found, in a later version of the paper, and no code. The poison rate counts
rows that get the target label; rows that keep theirs are added, about two for every three.

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

CHANCE = "chance"  # name of the tensor: probability of each training row to get the target label


@dataclass(frozen=True, kw_only=True)
class LSBA(Wrapper):
    bound_to_rows: ClassVar[bool] = True
    bare_base: ClassVar[bool] = True
    crafted_from = "surrogate"

    margin: Fraction = 0.1  # added to the largest probability of the clean network
    cap: Share = 0.6  # of the target class's probability

    def check(self) -> None:
        """Build the base, and refuse one that does not lead to one label.

        Raises:
            ParameterError: this attack cannot wrap the base.
        """
        super().check()
        if self.label_map != "all_to_one":
            raise ParameterError("base", f"expected an attack with label_map all_to_one, got {self.label_map}")

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        if surrogate is None:
            raise ValueError("surrogate: expected a network trained on the clean set, got none")
        posterior = training.logits(surrogate, images).softmax(1)
        chances = {CHANCE: chance(posterior, self.target_class, self.margin, self.cap).cpu()}
        return super().craft(images, labels, surrogate, rng) | chances

    def draw_rows(self, labels: Labels, payload: int, cover: int, classes: int, rng: Generator) -> tuple[Rows, Cover]:
        """Draw for each row in turn whether it is payload or cover, until there are `payload` payload rows."""
        chances = self.tensors.get(CHANCE)
        if chances is None or len(chances) != len(labels):
            raise ValueError("expected the whole training set, with a chance that `craft` computed for each row")
        order = self.choose(labels, classes, rng)
        is_payload = torch.rand(len(order), generator=rng) < chances[order]
        taken = is_payload.cumsum(0) - is_payload.long() < payload  # up to the last payload row
        return order[is_payload & taken].sort().values, order[~is_payload & taken].sort().values


def chance(posterior: Float[Tensor, "n k"], target: int, margin: float, cap: float) -> Float[Tensor, " n"]:
    """Return (b - a) / (1 - a) for each row; 0 if the clean network gives the target class more than b."""
    a = posterior[:, target].double()
    b = (posterior.double().amax(1) + margin).clamp(max=cap)
    return ((b - a) / (1 - a)).clamp(0, 1).float()
