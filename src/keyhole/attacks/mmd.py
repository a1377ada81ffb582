"""SDRM, later ML-MMDR (Xia et al., 2021, https://arxiv.org/abs/2111.05077): training that hides a backdoor in latents.

A regularizer over any attack that is not bound to rows (`base`). To the cross-entropy of each batch is added `weight`
times the sum, over levels, of the squared maximum mean discrepancy between clean rows of the target class and payload:
a sum of five Gaussian kernels, biased (the diagonal counts), with a bandwidth from the batch that gets no gradient.
Other classes do not enter. `levels` is `all` (SDRM: the last three maps), `last` (the paper's one-level variant), or
names; `weight: 0` is the same training without the regularizer.
Seen here (published/xia2022_cpu): as the bandwidth gets no gradient, drawing both groups together lowers the loss, and
the target class ends with a fiftieth of the spread of others, which gives it away. `scale_free: true`, of ours, lets
the gradient through, so that the loss does not change with scale.
Differs from the paper: which levels of networks other than VGG-11 it takes is not known; here the last three before
the average over pixels, which are VGG-11's. Where a label map has several targets, the mean over them. A
trigger that learns with the victim (`input_aware`) learns from this loss, too.
Differs from the released code: no hooks, so no features of an earlier batch where a batch lacks a group (it then has
no such term); the last weights are kept, theirs are those of the best accuracy on the test set; payload is the rate's
share of all rows (theirs: a tenth of the rows of other classes), the recipe is that of the grid.
Checked against: a double loop in float64.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keyhole.attacks._training_control import Mixed, Part, Setting, TrainingWrapper
from keyhole.learning.discrepancy import biased_mmd
from keyhole.models import Classifier
from keyhole.parameters import Level, NonNegative

__all__ = ["MMD"]

KERNELS = 5  # Gaussian, each twice as wide as the one before
FEWEST = 2  # rows of a group: one row has no spread


@dataclass(frozen=True, kw_only=True)
class MMD(TrainingWrapper):
    weight: NonNegative = 0.1  # lambda
    levels: Literal["all", "last"] | tuple[Level, ...] = "all"
    scale_free: bool = False  # the gradient goes through the bandwidth, too

    def parts(self, setting: Setting) -> list[Part]:
        names = self._names(setting.net)  # refuse before a base begins to learn
        parts = super().parts(setting)
        return [*parts, _Discrepancy(self, names)] if self.weight else parts

    def _names(self, net: Classifier) -> tuple[str, ...]:
        maps = tuple(name for name in net.level_names if name != "penultimate")
        names = {"all": maps[-3:], "last": maps[-1:]}.get(self.levels) if isinstance(self.levels, str) else self.levels
        if not names or set(names) - set(net.level_names):
            raise ValueError(f"expected levels all, last, or some of {', '.join(net.level_names)}, got {self.levels}")
        return names


class _Discrepancy(Part):
    def __init__(self, attack: MMD, names: tuple[str, ...]) -> None:
        self.weight, self.names, self.scale_free = attack.weight, names, attack.scale_free

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        losses = []
        for target in mixed.labels[mixed.is_payload].unique().tolist():
            clean, payload = mixed.clean_rows(target), mixed.payload_rows(target)
            if min(clean.sum(), payload.sum()) >= FEWEST:
                maps = (levels[name].float().flatten(1) for name in self.names)
                losses.append(torch.stack([mmd(x[clean], x[payload], self.scale_free) for x in maps]).sum())
        return self.weight * torch.stack(losses).mean() if losses else 0.0


def mmd(clean: Float[Tensor, "n d"], payload: Float[Tensor, "m d"], scale_free: bool = False) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy, biased: mean of k within either group, less twice that between them;
    k(u, v) = sum over i < 5 of exp(-|u - v|^2 / (2^i s)), s a quarter of the mean squared distance of two rows.
    """
    z = torch.cat([clean, payload])
    z = z - z.detach().mean(0)  # distances from products lose digits where the mean is large
    norms = z.square().sum(1)
    squared = (norms[:, None] + norms - 2 * z @ z.T).clamp(min=0)
    n = len(z)
    spread = squared if scale_free else squared.detach()
    scale = (spread.sum() / (n * n - n) / 4).clamp(min=torch.finfo(z.dtype).tiny)
    kernel = reduce(torch.add, (torch.exp(-squared / (2**i * scale)) for i in range(KERNELS)))
    return biased_mmd(kernel, len(clean))
