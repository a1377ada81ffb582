"""MM-BD (Wang et al., 2024, https://doi.org/10.1109/SP54263.2024.00015): a backdoor's target has too large a margin.

For every class, the largest margin of its logit over all others is sought among all images, from random noise; the
largest of them is tested against a Gamma distribution fitted to the others. Needs no images, gives no trigger.
The default of 30 random starts a class is what the released code runs; its setting of 150 is not used there.
Differs from the released code: images are put back into 0..255 after each step, and the best step counts instead of
the last; the Gamma starts at zero, as a free start has no largest likelihood; margins below a thousandth of the
largest (a class that nothing reaches) count as that. The code's momentum never acts, so there is none here.
Cost: about starts x steps x classes forward and backward passes. The step is the code's: on a CIFAR-10 victim of the
`convnet` margins still rise when the steps end. Needs four classes or more to tell much.
Checked against: the exact maximum for two linear classes; the Gamma's likelihood equation; a planted class.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.inverters import Inverter
from keyhole.learning.training import device_of, forward_batch, logits
from keyhole.parameters import Count, Fraction, Positive
from keyhole.types import Evidence, Inversion, Told

__all__ = ["MMBD"]

HIGHEST = 300.0  # of -log10 p: smaller p-values are not held by a float64


@dataclass(frozen=True, kw_only=True)
class MMBD(Inverter):
    told: ClassVar[frozenset[Told]] = frozenset()

    starts: Count = 30  # random images a class
    steps: Count = 300  # at most
    learning_rate: Positive = 0.01  # on pixels of 0..1
    tolerance: Positive = 1e-5  # relative change of a class's margins at which it stops
    significance: Fraction = 0.05  # p-value

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """See the base class; only the shape of the images is used."""
        net = evidence.frozen()
        device, shape = device_of(net), evidence.images.shape[1:]
        classes = logits(net, torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]
        start = torch.rand(classes, self.starts, *shape, generator=rng)
        targets, margins = torch.arange(classes), []
        groups = targets.chunk(math.ceil(classes * self.starts / forward_batch(device)))
        for group in tqdm(groups, desc="mm_bd", disable=None):
            margins.append(self._ascend(net, start[group].to(device), group.to(device)))
        home = evidence.images.device
        anomaly = negative_log_p(torch.cat(margins).cpu().double()).float()
        flagged = (anomaly > -math.log10(self.significance)) & (targets == anomaly.argmax())
        return Inversion(torch.ones(classes, *shape[1:]).to(home), anomaly.to(home), flagged.to(home), None)

    def _ascend(
        self, net: nn.Module, images: Float[Tensor, "k s c h w"], targets: Int64[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        best = images.new_full((len(targets),), -torch.inf)
        last, running = best.clone(), torch.arange(len(targets), device=images.device)
        for _ in range(self.steps):
            x = images[running].requires_grad_()
            margins = margin(net(255 * x.flatten(0, 1)), targets[running].repeat_interleave(self.starts))
            (slope,) = torch.autograd.grad(margins.sum(), x)
            images[running] = (x.detach() + self.learning_rate * slope).clamp(0, 1)
            margins = margins.detach().unflatten(0, (-1, self.starts))
            best[running] = torch.maximum(best[running], margins.amax(1))
            total = margins.sum(1)
            moving = ~((total - last[running]).abs() < self.tolerance * last[running].abs())
            last[running], running = total, running[moving]
            if not len(running):
                break
        return best


def margin(outputs: Float[Tensor, "n k"], targets: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A class's logit minus the largest of the others."""
    wanted = targets[:, None]
    return outputs.gather(1, wanted)[:, 0] - outputs.scatter(1, wanted, -torch.inf).amax(1)


def negative_log_p(margins: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """-log10 of p = 1 - F(margin)^k, with the Gamma distribution F fitted to all margins but the largest."""
    values = margins.clamp(min=float(margins.max().abs()) * 1e-3 + 1e-30).numpy()
    null = np.delete(values, values.argmax())
    if np.ptp(null) <= 1e-9 * null.max():  # equal margins have no fit
        return torch.where(torch.from_numpy(values > null.max() * (1 + 1e-9)), HIGHEST, 0.0).to(margins)
    shape, _, scale = stats.gamma.fit(null, floc=0)
    above = stats.gamma.sf(values, shape, scale=scale)  # 1 - F, exact where F rounds to one
    with np.errstate(divide="ignore"):
        found = -np.log10(-np.expm1(len(values) * np.log1p(-above)))
    return torch.from_numpy(np.clip(found, 0, HIGHEST)).to(margins)
