"""BAN (Xu et al., 2024, https://arxiv.org/abs/2405.19928): noise on neurons wakes a backdoor that features hide.

Idea: A mask selects the features that classify (the mask of BTI-DBF, with an l1 term). The scales and shifts of batch
normalization are moved within ±epsilon to raise the loss. The features outside the mask, in the network with this
noise, then point to the target class. The method recovers no trigger.

Differs from the released code: Batch normalization never uses batch statistics and does not drift. One noise is learned
over all batches and stays within the bound; in the code it starts anew for every batch, only the last one is used, and
there is no bound. The l1 term is the mean of the mask; the code's is |m|₁ over its own value, whose gradient is that of
log |m|₁ and can drive the whole mask to 0. The mask is trained on the network's own answers (see
`learning.decoupling`). Only images of other classes are counted. The rule of the verdict is our own: a class is
flagged if half of the other classes' images go to it. The code prints a histogram, and no rule was found.

Checked against: a step on the noise by hand; a planted neuron.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from keyhole.inverters import Inverter
from keyhole.learning.batches import endless_batches
from keyhole.learning.decoupling import Decoupler, arrivals
from keyhole.learning.holdout import neurons
from keyhole.learning.training import forward_batch
from keyhole.parameters import Count, Fraction, Positive
from keyhole.types import Classifier, Evidence, Images, Inversion, Labels

__all__ = ["BAN"]


@dataclass(frozen=True, kw_only=True)
class BAN(Inverter):
    mask_epochs: Count = 20
    batch: Count = 128  # images
    mask_rate: Positive = 0.01  # learning rate of Adam
    mask_weight: Fraction = 0.75  # weight of the mean of the mask in the loss
    epsilon: Fraction = 0.3  # largest relative change of a scale or shift
    steps: Count = 30  # of the noise; each step has the length epsilon / steps and its own batch
    threshold: Fraction = 0.5  # share of the other classes' images that a target class receives

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Learn mask and noise, then flag the classes to which the other features send most images.

        Raises:
            ValueError: there are no hold-out images, or the network has no batch normalization with scales.
        """
        evidence.require_holdout()
        decoupler = Decoupler(evidence, self.batch)
        mask = decoupler.learn_mask(
            epochs=self.mask_epochs, rate=self.mask_rate, weight=self.mask_weight, free="clamped", rng=rng
        )
        noise = self._climb(decoupler.net, decoupler.images, decoupler.labels, rng)
        noisy = copy.deepcopy(decoupler.net)
        noisy.load_state_dict(noisy.state_dict() | perturb(noisy, noise))
        with torch.no_grad():
            parts = decoupler.images.split(forward_batch(decoupler.images.device))
            predicted = torch.cat([noisy.classify((1 - mask) * noisy.feature_maps(x)).argmax(1) for x in parts])
        device, shape = evidence.holdout_images.device, evidence.holdout_images.shape[2:]
        anomaly = arrivals(predicted, decoupler.labels, noisy.head.out_features).to(device)
        return Inversion(torch.ones(len(anomaly), *shape, device=device), anomaly, anomaly >= self.threshold, None)

    def _climb(self, net: Classifier, images: Images, labels: Labels, rng: Generator) -> dict[str, Tensor]:
        scales = {name: module.weight for name, module in neurons(net).items()}
        noise = {k: ((2 * torch.rand(2, len(w), generator=rng) - 1) * self.epsilon).to(w) for k, w in scales.items()}
        batches = endless_batches(images, labels, self.batch, rng)
        for _ in tqdm(range(self.steps), desc="ban", disable=None):
            x, y = next(batches)
            noise = climb(net, x, y, noise, self.epsilon / self.steps, self.epsilon)
        return noise


def perturb(net: nn.Module, noise: dict[str, Float[Tensor, "2 d"]]) -> dict[str, Float[Tensor, " d"]]:
    """Return the scales (1 + δ) w and shifts (1 + ξ) b of the batch normalizations, by parameter name."""
    weights = {}
    for name, (scale, shift) in noise.items():
        module = net.get_submodule(name)
        weights[f"{name}.weight"], weights[f"{name}.bias"] = (1 + scale) * module.weight, (1 + shift) * module.bias
    return weights


def climb(
    net: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Labels,
    noise: dict[str, Float[Tensor, "2 d"]],
    step: float,
    bound: float,
) -> dict[str, Float[Tensor, "2 d"]]:
    """Move the noise one step up the loss by the sign of the gradient, and keep it within the bound."""
    noise = {name: value.detach().requires_grad_() for name, value in noise.items()}
    loss = functional.cross_entropy(functional_call(net, perturb(net, noise), (images,)), labels)
    gradients = torch.autograd.grad(loss, list(noise.values()))
    moved = zip(noise.items(), gradients, strict=True)
    return {name: (value.detach() + step * g.sign()).clamp(-bound, bound) for (name, value), g in moved}
