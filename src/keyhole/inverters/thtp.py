"""THTP (Hu et al., 2022, https://arxiv.org/abs/2110.08335): several different triggers, each in one piece.

Idea: Optimize Neural Cleanse's mask and pattern with two more losses. One is the persistence of all components of the
mask's superlevel sets but the strongest; the other pushes each round away from the triggers of earlier rounds.

Differs from the paper: Each class is the target in turn; the paper leaves the class open. The verdict is the anomaly
index of the smallest masks; the paper's is a classifier of trigger features, trained on hundreds of labeled models. The
size is penalized on Neural Cleanse's schedule. Triggers are scaled to unit length before they are compared, as in the
released code, since otherwise the largest trigger wins.

Differs from the released code: The components are those of the whole mask, from the first step on; the code takes them
from tiles of 20 pixels. Triggers are not shifted or rotated.

Checked against: connected components at every threshold; the loss and its gradient by hand; a planted 3 x 3 trigger.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.inverters._patch_search import MaskSearch, Progress, mask_loss, unpack
from keyhole.learning.training import device_of, logits
from keyhole.parameters import Count, Natural, Positive
from keyhole.types import Images

__all__ = ["THTP"]

FAINT = -1.5  # free variable of a mask value of 0.05, where the released code starts


@dataclass(frozen=True, kw_only=True)
class THTP(MaskSearch):
    epochs: Count = 40  # per round
    samples: Natural = 250  # hold-out images per epoch, drawn anew each time; 0 = all
    rounds: Count = 3  # triggers of each class
    diversity: Positive = 1.0  # λ₁: weight of the distance to earlier triggers
    topology: Positive = 10.0  # λ₂: weight of the persistence of the weaker components

    def search(self, net: nn.Module, images: Images, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        device, shape = device_of(net), images.shape[1:]
        classes = logits(net, images[:1]).shape[1]
        earlier = torch.zeros(0, classes, math.prod(shape), device=device)
        results = []
        for _ in range(self.rounds):
            raw = torch.randn(classes, 1 + shape[0], *shape[1:], generator=rng).to(device) / 10
            raw[:, 0] += FAINT
            progress = self._run_round(net, images, raw.requires_grad_(), earlier, rng)
            reached = progress.size.isfinite()[:, None, None, None]
            last = torch.where(reached, progress.best, raw.detach())
            earlier = torch.cat([earlier, unit_trigger(last)[None]])
            results.append(progress.result())
        masks, patterns, sizes = (torch.stack(parts) for parts in zip(*results, strict=True))
        best, every = sizes.argmin(0), torch.arange(classes, device=device)
        return masks[best, every], patterns[best, every], sizes[best, every]

    def _run_round(self, net: nn.Module, images: Images, raw: Tensor, earlier: Tensor, rng: Generator) -> Progress:
        def loss(x: Tensor, group: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
            loss, reached = mask_loss(net, x, raw[group], group, penalty)
            prior = self.topology * persistence(unpack(raw[group])[0][:, 0])
            return loss + prior - self.diversity * distance(raw[group], earlier[:, group]), reached

        return self.run(raw, images, loss, rng, "thtp")


def unit_trigger(raw: Float[Tensor, "k c1 h w"]) -> Float[Tensor, "k d"]:
    """Return the trigger m p of free variables, scaled to unit length."""
    mask, pattern = unpack(raw)
    return functional.normalize((mask * pattern).flatten(1), dim=1)


def distance(raw: Float[Tensor, "k c1 h w"], earlier: Float[Tensor, "r k d"]) -> Float[Tensor, " k"]:
    """Return Σ ‖u - u_j‖ over the earlier unit triggers u_j of the same class (equation 4)."""
    return ((unit_trigger(raw) - earlier).square().sum(2) + 1e-8).sqrt().sum(0)  # the root has no gradient at zero


def persistence(mask: Float[Tensor, "k h w"]) -> Float[Tensor, " k"]:
    """Return Σ (birth - death)² over the components of superlevel sets, without the most persistent (equation 6)."""
    values, losses = mask.detach().cpu().numpy(), []
    for flat, value in zip(mask.flatten(1), values, strict=True):
        births, deaths = find_merges(value)
        losses.append((flat[births] - flat[deaths]).square().sum())
    return torch.stack(losses)


def find_merges(values: Float[np.ndarray, "h w"]) -> tuple[list[int], list[int]]:
    """Return where components of superlevel sets are born, and where each merges into one with a higher peak.

    Both are lists of pixels. Pixels with a common side are neighbors. The component of the highest peak never merges
    and is left out. Every pixel is first led to its peak by steepest ascent, so that the loop covers only the borders
    between peaks.
    """
    order = np.argsort(-values, axis=None, kind="stable")
    rank = np.empty(values.size, dtype=np.int64)
    rank[order] = np.arange(values.size)  # from this line on, a pixel is named by its rank; 0 is the highest
    grid = rank.reshape(values.shape)
    one = np.concatenate([grid[:, 1:].ravel(), grid[1:].ravel()])
    two = np.concatenate([grid[:, :-1].ravel(), grid[:-1].ravel()])
    low, high = np.maximum(one, two), np.minimum(one, two)
    peak = np.arange(values.size)
    np.minimum.at(peak, low, high)
    while (peak[peak] != peak).any():
        peak = peak[peak]
    border = np.nonzero(peak[low] != peak[high])[0]
    border = border[np.argsort(low[border], kind="stable")]
    parent, births, deaths = peak.tolist(), [], []
    for saddle, a, b in zip(low[border].tolist(), peak[low[border]].tolist(), peak[high[border]].tolist(), strict=True):
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        if a != b:
            parent[max(a, b)] = min(a, b)
            births.append(max(a, b))
            deaths.append(saddle)
    return order[births].tolist(), order[deaths].tolist()
