"""The log-odds of a label: how sure a network is, on an unbounded scale."""

import torch
from jaxtyping import Float
from torch import Tensor

from keyhole.types import Labels

__all__ = ["log_odds"]


def log_odds(logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
    """Return log(p / (1 - p)) of each row's label; p itself rounds to 1 for most rows of a trained network."""
    logits, column = logits.double(), labels[:, None]
    return (logits.gather(1, column)[:, 0] - logits.scatter(1, column, -torch.inf).logsumexp(1)).float()
