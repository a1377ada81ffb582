"""THTP (Hu et al., 2022, https://arxiv.org/abs/2110.08335): triggers of one piece, each unlike those found before.

Neural Cleanse's mask and pattern, with a loss on the persistence of all but one component of the mask's superlevel
sets, and several rounds, each pushed away from the triggers of earlier rounds.
Differs from the paper: each class is a target in turn, instead of leaving the class open; a classifier over features of
the triggers, trained on hundreds of labeled models, gives its verdict, here the anomaly index of the smallest masks
does; the size is penalized on Neural Cleanse's schedule; triggers are scaled to unit length where they are compared, as
in the released code (else the largest trigger wins). Differs from the released code: one set of components for the
whole mask instead of tiles of 20 pixels, from the first step on; no shifted or rotated triggers.
Checked against: connected components at every threshold; hand-computed loss and gradient; a planted 3 x 3 trigger.
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

FAINT = -1.5  # free variable of a mask of 0.05, from which the released code starts


@dataclass(frozen=True, kw_only=True)
class THTP(MaskSearch):
    epochs: Count = 40  # a round
    samples: Natural = 250  # hold-out images an epoch, drawn anew for each; 0 = all
    rounds: Count = 3  # triggers of each class
    diversity: Positive = 1.0  # λ₁
    topology: Positive = 10.0  # λ₂

    def search(self, net: nn.Module, images: Images, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        device, shape = device_of(net), images.shape[1:]
        classes = logits(net, images[:1]).shape[1]
        earlier = torch.zeros(0, classes, math.prod(shape), device=device)
        results = []
        for _ in range(self.rounds):
            raw = torch.randn(classes, 1 + shape[0], *shape[1:], generator=rng).to(device) / 10
            raw[:, 0] += FAINT
            progress = self._round(net, images, raw.requires_grad_(), earlier, rng)
            reached = progress.size.isfinite()[:, None, None, None]
            last = torch.where(reached, progress.best, raw.detach())
            earlier = torch.cat([earlier, unit_trigger(last)[None]])
            results.append(progress.result())
        masks, patterns, sizes = (torch.stack(each) for each in zip(*results, strict=True))
        smallest, every = sizes.argmin(0), torch.arange(classes, device=device)
        return masks[smallest, every], patterns[smallest, every], sizes[smallest, every]

    def _round(self, net: nn.Module, images: Images, raw: Tensor, earlier: Tensor, rng: Generator) -> Progress:
        def loss(x: Tensor, group: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
            loss, reached = mask_loss(net, x, raw[group], group, penalty)
            prior = self.topology * scatter(unpack(raw[group])[0][:, 0])
            return loss + prior - self.diversity * distance(raw[group], earlier[:, group]), reached

        return self.run(raw, images, loss, rng, "thtp")


def unit_trigger(raw: Float[Tensor, "k c1 h w"]) -> Float[Tensor, "k d"]:
    """M p, scaled to unit length."""
    mask, pattern = unpack(raw)
    return functional.normalize((mask * pattern).flatten(1), dim=1)


def distance(raw: Float[Tensor, "k c1 h w"], earlier: Float[Tensor, "r k d"]) -> Float[Tensor, " k"]:
    """Σ ‖u - u_j‖ over the earlier unit triggers of the same class (equation 4)."""
    return ((unit_trigger(raw) - earlier).square().sum(2) + 1e-8).sqrt().sum(0)  # the root has no slope at zero


def scatter(mask: Float[Tensor, "k h w"]) -> Float[Tensor, " k"]:
    """Σ (birth - death)² over all components of superlevel sets but the most persistent one (equation 6)."""
    values, losses = mask.detach().cpu().numpy(), []
    for one, value in zip(mask.flatten(1), values, strict=True):
        births, deaths = merges(value)
        losses.append((one[births] - one[deaths]).square().sum())
    return torch.stack(losses)


def merges(values: Float[np.ndarray, "h w"]) -> tuple[list[int], list[int]]:
    """Pixels at which components of superlevel sets are born, and at which each merges into one with a higher peak.

    Pixels with a common side are neighbors. The component of the highest peak, which never merges, is left out. Paths
    of steepest ascent lead every pixel to its peak, so that only the borders between peaks take a loop.
    """
    order = np.argsort(-values, axis=None, kind="stable")
    rank = np.empty(values.size, dtype=np.int64)
    rank[order] = np.arange(values.size)  # from here on a pixel is its rank, 0 the highest
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
