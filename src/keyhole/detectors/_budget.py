"""How many rows, and which, a detector flags if its method defines no threshold."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["capped", "class_budget", "highest"]


def class_budget(assumed_rate: float, n: int, size: int) -> int:
    """Return how many rows to flag in a class of `size` rows: 1.5 times the assumed payload, at most half the class.

    This is the budget of Qi et al. 2023. As in their code, a rate of 0 (the truth about a clean set) is read as 0.01.
    """
    # 1e-6, since 1.5 * 0.003 * 50,000 is 225 only up to rounding
    return min(math.floor(1.5 * (assumed_rate or 0.01) * n + 1e-6), size // 2)


def capped(assumed_rate: float, n: int, sizes: Iterable[int]) -> dict[str, float]:
    """Return, as a column, the share of classes of which the cap of half a class lets fewer rows be flagged."""
    wanted = math.floor(1.5 * (assumed_rate or 0.01) * n + 1e-6)
    binds = [wanted > size // 2 for size in sizes]
    return {"classes_capped": sum(binds) / len(binds)} if binds else {}


def highest(scores: Float[Tensor, " c"], count: int) -> Bool[Tensor, " c"]:
    """Mark the `count` highest scores, and no more where scores are tied."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(count).indices] = True
    return chosen
