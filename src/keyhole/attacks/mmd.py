"""SDRM, later ML-MMDR (Xia et al., 2021, https://arxiv.org/abs/2111.05077): training that hides a backdoor in latents.

Idea: training control that wraps any attack not bound to rows (`base`; by default Blended at opacity 0.1, as in the
released code). The loss of each batch is the cross-entropy plus `weight` times the sum, over levels, of the squared
maximum mean discrepancy between clean rows of the target class and payload. The kernel is a sum of five Gaussians,
biased (the diagonal counts), with a bandwidth from the batch that gets no gradient. Rows of other classes have no part
in it. `levels` is `all` (SDRM: the last three maps), `last` (the paper's variant with one level), or names. `weight: 0`
is the same training without the regularizer.

Differs from the paper: which levels it uses in networks other than VGG-11 is not known; here the last three before the
average over pixels, which are the paper's in VGG-11. If a label map has several targets, the term is the mean over
them. A trigger that learns with the victim (`input_aware`) learns from this loss, too. `scale_free: true` is our
addition: the gradient passes through the bandwidth, so that the loss does not depend on scale.

Differs from the released code: without hooks, so a batch that lacks a group has no such term (code: it uses the
features of an earlier batch); the last weights are kept (code: those of the best accuracy on the test set); payload is
a share of all rows (code: a tenth of the rows of other classes); the grid decides the recipe.

Checked against: a double loop in float64.
"""

from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keyhole.attacks._training_control import Part, PoisonedBatch, TrainingRun, TrainingWrapper
from keyhole.learning.discrepancy import biased_mmd
from keyhole.parameters import Level, NonNegative, ParameterError, Wrapped
from keyhole.types import Classifier

__all__ = ["MMD"]

KERNELS = 5  # Gaussians; each has twice the squared bandwidth of the one before
FEWEST = 2  # rows of a group, since a single row has no spread


@dataclass(frozen=True, kw_only=True)
class MMD(TrainingWrapper):
    base: Wrapped = field(default_factory=lambda: {"method": "blended", "alpha": 0.1})
    weight: NonNegative = 0.1  # lambda
    levels: Literal["all", "last"] | tuple[Level, ...] = "all"
    scale_free: bool = False  # let the gradient pass through the bandwidth

    def parts(self, run: TrainingRun) -> list[Part]:
        names = self._names(run.net)  # first, to refuse wrong levels before the base begins to learn
        parts = super().parts(run)
        return [*parts, _Discrepancy(self, names)] if self.weight else parts

    def _names(self, net: Classifier) -> tuple[str, ...]:
        maps = tuple(name for name in net.level_names if name != "penultimate")
        names = {"all": maps[-3:], "last": maps[-1:]}.get(self.levels) if isinstance(self.levels, str) else self.levels
        if not names or set(names) - set(net.level_names):
            raise ParameterError(
                "levels", f"expected all, last, or some of {', '.join(net.level_names)}, got {self.levels}"
            )
        return names


class _Discrepancy(Part):
    def __init__(self, attack: MMD, names: tuple[str, ...]) -> None:
        self.weight, self.names, self.scale_free = attack.weight, names, attack.scale_free

    def penalty(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> Tensor | float:
        losses = []
        for target in batch.labels[batch.is_payload].unique().tolist():
            clean, payload = batch.clean_rows(target), batch.payload_rows(target)
            if min(clean.sum(), payload.sum()) >= FEWEST:
                maps = (levels[name].float().flatten(1) for name in self.names)
                losses.append(torch.stack([mmd(x[clean], x[payload], self.scale_free) for x in maps]).sum())
        return self.weight * torch.stack(losses).mean() if losses else 0.0


def mmd(clean: Float[Tensor, "n d"], payload: Float[Tensor, "m d"], scale_free: bool = False) -> Float[Tensor, ""]:
    """Return the squared maximum mean discrepancy of two groups, biased.

    That is the mean of k within each group, minus twice the mean of k between them, with
    k(u, v) = sum over i < 5 of exp(-|u - v|^2 / (2^i s)) and s a quarter of the mean squared distance of two rows.
    """
    z = torch.cat([clean, payload])
    z = z - z.detach().mean(0)  # distances computed from products lose digits if the mean is large
    norms = z.square().sum(1)
    squared = (norms[:, None] + norms - 2 * z @ z.T).clamp(min=0)
    n = len(z)
    spread = squared if scale_free else squared.detach()
    scale = (spread.sum() / (n * n - n) / 4).clamp(min=torch.finfo(z.dtype).tiny)
    kernel = reduce(torch.add, (torch.exp(-squared / (2**i * scale)) for i in range(KERNELS)))
    return biased_mmd(kernel, len(clean))
