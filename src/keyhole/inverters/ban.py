"""BAN (Xu et al., 2024, https://arxiv.org/abs/2405.19928): noise on neurons wakes a backdoor that features hide.

Idea: A mask selects the features that classify (the mask of BTI-DBF, with an l1 term). The scales and shifts of batch
normalization are moved within ±epsilon to raise the loss. The features outside the mask, in the network with this
noise, then point to the target class. The method recovers no trigger.

Differs from the released code: Batch normalization never uses batch statistics and does not drift. The l1 term is the
mean of the mask; the code's is |m|₁ over its own value, whose gradient is that of log |m|₁ and can drive the whole mask
to 0. Masks of several weights are learned, and the one that decouples best on the hold-out is taken
(`learning.decoupling`), with the network's own answers as labels. Only images of other classes are counted. As in the
code, a noise starts at random, is learned on one batch and reaches up to 2 epsilon.

The verdict is our own; the code prints a histogram. The anomaly of a class is the share of the other classes' images
that go there, averaged over several noises, since a single one can wake any class. Clean networks may be flagged: their
features outside the mask can point to one class even without noise. On a narrow network (`published/foreign_models`) a
noise sends nearly all images to one class, another each time, and the target is not found.

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
from keyhole.learning.decoupling import MASK_WEIGHTS, Decoupler, arrivals
from keyhole.learning.holdout import neurons
from keyhole.learning.training import forward_batch
from keyhole.parameters import Count, Fraction, NonNegative, ParameterError, Positive
from keyhole.types import Classifier, Evidence, Inversion, Labels

__all__ = ["BAN"]


@dataclass(frozen=True, kw_only=True)
class BAN(Inverter):
    mask_steps: Count = 150
    mask_rate: Positive = 0.1  # learning rate of Adam
    mask_weights: tuple[NonNegative, ...] = MASK_WEIGHTS  # of the mean of the mask in its loss, to choose from
    batch: Count = 128  # images
    epsilon: Fraction = 0.3  # largest relative change of a scale or shift at the start; twice that at the end
    steps: Count = 30  # of a noise; each step has the length epsilon / steps
    noises: Count = 3  # each with its own start and batch
    threshold: Fraction = 0.5  # anomaly above which a class is flagged

    def check(self) -> None:
        """Refuse an empty choice of masks."""
        if not self.mask_weights:
            raise ParameterError("mask_weights", "expected at least one, got none")

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Learn mask and noises, then flag the classes to which the noises send the other features.

        Raises:
            ValueError: there are no hold-out images, or the network has no batch normalization with scales.
        """
        evidence.require_holdout()
        decoupler = Decoupler(evidence, self.batch)
        net = decoupler.net
        scales = {name: module.weight.detach() for name, module in neurons(net).items()}
        masks = decoupler.learn_masks(
            steps=self.mask_steps, rate=self.mask_rate, weights=self.mask_weights, free="clamped", rng=rng
        )
        others = 1 - masks[decoupler.choose_mask(masks)]
        batches = endless_batches(decoupler.images, decoupler.labels, self.batch, rng)
        woken = [
            shares(add_noise(net, self._climb(net, *next(batches), scales, rng)), others, decoupler)
            for _ in tqdm(range(self.noises), desc="ban", disable=None)
        ]
        device, shape = evidence.holdout_images.device, evidence.holdout_images.shape[2:]
        anomaly = torch.stack(woken).mean(0).to(device)
        return Inversion(torch.ones(len(anomaly), *shape, device=device), anomaly, anomaly > self.threshold, None)

    def _climb(
        self, net: Classifier, images: Tensor, labels: Labels, scales: dict[str, Tensor], rng: Generator
    ) -> dict[str, Tensor]:
        noise = {k: ((2 * torch.rand(2, len(w), generator=rng) - 1) * self.epsilon).to(w) for k, w in scales.items()}
        for _ in range(self.steps):
            noise = climb(net, images, labels, noise, self.epsilon / self.steps)
        return noise


@torch.no_grad()
def shares(net: Classifier, features: Float[Tensor, "d mh mw"], decoupler: Decoupler) -> Float[Tensor, " k"]:
    """Return, for each class, the share of the other classes' hold-out images sent there by these features alone."""
    parts = decoupler.images.split(forward_batch(decoupler.images.device, decoupler.images))
    predicted = torch.cat([net.classify(features * net.feature_maps(x)).argmax(1) for x in parts])
    return arrivals(predicted, decoupler.labels, net.head.out_features)


def add_noise(net: Classifier, noise: dict[str, Float[Tensor, "2 d"]]) -> Classifier:
    """Return a copy of the network with noise on its neurons."""
    noisy = copy.deepcopy(net)
    noisy.load_state_dict(noisy.state_dict() | perturb(noisy, noise))
    return noisy


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
) -> dict[str, Float[Tensor, "2 d"]]:
    """Move the noise one step up the loss by the sign of the gradient."""
    noise = {name: value.detach().requires_grad_() for name, value in noise.items()}
    loss = functional.cross_entropy(functional_call(net, perturb(net, noise), (images,)), labels)
    gradients = torch.autograd.grad(loss, list(noise.values()))
    moved = zip(noise.items(), gradients, strict=True)
    return {name: value.detach() + step * g.sign() for (name, value), g in moved}
