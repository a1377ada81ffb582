"""MM-BD (Wang et al., 2024, https://doi.org/10.1109/SP54263.2024.00015): the target class has too large a margin.

Idea: For every class, gradient ascent from random noise seeks the image with the largest margin of the class's logit
over all others. The largest of these margins is tested against a Gamma distribution fitted to the others. The method
needs no images and recovers no trigger.

Differs from the released code: Images are put back into 0..255 after each step. The best step counts, not the last. The
Gamma starts at zero, since with a free start the likelihood has no maximum. Margins below a thousandth of the largest
(a class that no image reaches) are raised to that. There is no momentum, since the code's never acts. The default of 30
random starts per class is what the code runs; its setting of 150 is never used. The step size is the code's.

Checked against: the exact maximum for two linear classes; the Gamma's likelihood equation; a planted class.

Cost: about starts x steps x classes forward and backward passes. At least four classes are needed for a useful test.
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

HIGHEST = 300.0  # largest -log10 p: a float64 cannot hold smaller p-values


@dataclass(frozen=True, kw_only=True)
class MMBD(Inverter):
    told: ClassVar[frozenset[Told]] = frozenset()

    starts: Count = 30  # random images per class
    steps: Count = 300  # of gradient ascent, at most
    learning_rate: Positive = 0.01  # on pixels of 0..1
    tolerance: Positive = 1e-5  # relative change of a class's margins below which its search stops
    significance: Fraction = 0.05  # p-value below which the class is flagged

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Search for the largest margin of every class and test the largest; use only the shape of the images."""
        net = evidence.frozen()
        device, shape = device_of(net), evidence.images.shape[1:]
        classes = logits(net, torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]
        start = torch.rand(classes, self.starts, *shape, generator=rng)
        targets, margins = torch.arange(classes), []
        groups = targets.chunk(math.ceil(classes * self.starts / forward_batch(device, start)))
        for group in tqdm(groups, desc="mm_bd", disable=None):
            margins.append(self._ascend(net, start[group].to(device), group.to(device)))
        anomaly = negative_log_p(torch.cat(margins).cpu().double()).float()
        masks = torch.ones(classes, *shape[1:])
        flagged = (anomaly > -math.log10(self.significance)) & (targets == anomaly.argmax())
        masks, anomaly, flagged = (x.to(evidence.images.device) for x in (masks, anomaly, flagged))
        return Inversion(masks, anomaly, flagged, None)

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
    """Return the logit of each target class minus the largest of the others."""
    wanted = targets[:, None]
    return outputs.gather(1, wanted)[:, 0] - outputs.scatter(1, wanted, -torch.inf).amax(1)


def negative_log_p(margins: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Return -log10 of p = 1 - F(margin)^k, where F is a Gamma distribution fitted to all margins but the largest."""
    values = margins.clamp(min=float(margins.max().abs()) * 1e-3 + 1e-30).numpy()
    null = np.delete(values, values.argmax())
    if np.ptp(null) <= 1e-9 * null.max():  # no distribution can be fitted to equal margins
        return torch.where(torch.from_numpy(values > null.max() * (1 + 1e-9)), HIGHEST, 0.0).to(margins)
    shape, _, scale = stats.gamma.fit(null, floc=0)
    above = stats.gamma.sf(values, shape, scale=scale)  # 1 - F, exact where F rounds to one
    with np.errstate(divide="ignore"):
        scores = -np.log10(-np.expm1(len(values) * np.log1p(-above)))
    return torch.from_numpy(np.clip(scores, 0, HIGHEST)).to(margins)
