"""ANP, Adversarial Neuron Pruning (Wu & Wang, 2021, https://arxiv.org/abs/2110.14430): cut what is easily disturbed.

Idea: Learn a mask in 0..1 for each channel of each batch normalization while scales and biases are disturbed to do the
most harm. Channels of the backdoor are the most sensitive, so their masks fall. Channels are then cut (scale and bias
zero) by rising thresholds. In a pre-activation network this silences a channel in its block, not in the shortcut.

Differs from the paper: 300 iterations (paper: 2,000). The deepest threshold that keeps the accuracy on a held-back part
of the hold-out is taken; the paper shows results for all thresholds. The tolerated fall, 0.04, is our choice.

Differs from the released code (https://github.com/csdongxian/ANP_backdoor): The disturbance stays within epsilon (code:
up to twice that). The bias of a cut channel is zero too (code: kept). There is no augmentation. As in the code, the
network uses batch statistics while the masks learn.

Checked against: the loss and the disturbance in NumPy; a planted channel that drives the target class.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.learning.batches import endless_batches
from keyhole.learning.holdout import split_holdout
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Fraction, Positive, Share
from keyhole.repairers import Repairer
from keyhole.repairers._channels import full_mask, loss_with, prune_by_threshold, scale_channels
from keyhole.types import Evidence, Images, Labels

__all__ = ["ANP"]


@dataclass(frozen=True, kw_only=True)
class ANP(Repairer):
    epsilon: Positive = 0.4  # largest disturbance of a scale or bias, relative to the victim's
    alpha: Fraction = 0.2  # weight of the loss without disturbance; the loss with it gets the rest
    iterations: Count = 300  # batches
    batch_size: Count = 128  # images
    learning_rate: Positive = 0.2  # of the masks
    momentum: Share = 0.9
    tolerance: Fraction = 0.04  # largest fall of clean accuracy, absolute
    validation: Fraction = 0.2  # share of the hold-out that judges the pruning; the masks learn from the rest

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Learn a mask on one part of the hold-out, then prune as far as the other part allows.

        Raises:
            ValueError: the hold-out is too small to be divided, or the network has no batch normalization.
        """
        learn, judge = split_holdout(evidence, self.validation, rng)
        net = evidence.copy().train().requires_grad_(False)
        mask = self._learn_mask(net, evidence.holdout_images[learn], evidence.holdout_labels[learn], rng)
        return prune_by_threshold(evidence, mask, judge, self.tolerance)

    def _learn_mask(self, net: nn.Module, images: Images, labels: Labels, rng: Generator) -> Float[Tensor, " d"]:
        device, mask = device_of(net), full_mask(net).requires_grad_()
        optimizer = torch.optim.SGD([mask], self.learning_rate, momentum=self.momentum)
        batches = endless_batches(images.to(device), labels.to(device), self.batch_size, rng)
        for _ in tqdm(range(self.iterations), desc="anp", disable=None):
            x, y = next(batches)
            start = self.epsilon * (2 * torch.rand(2, len(mask), generator=rng) - 1)
            noise = worst_noise(net, x, y, mask.detach(), start.to(mask), self.epsilon)
            optimizer.zero_grad()
            objective(net, x, y, mask, noise, self.alpha).backward()
            optimizer.step()
            mask.data.clamp_(0, 1)
        return mask.detach()


def worst_noise(
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    mask: Float[Tensor, " d"],
    start: Float[Tensor, "2 d"],
    epsilon: float,
) -> Float[Tensor, "2 d"]:
    """Return a disturbance of scales and of biases: one step up the loss from `start`, within epsilon."""
    start = start.clone().requires_grad_()
    loss = loss_with(net, x, y, scale_channels(net, mask + start[0], 1 + start[1]))
    (gradient,) = torch.autograd.grad(loss, start)
    return (start.detach() + epsilon * gradient.sign()).clamp(-epsilon, epsilon)


def objective(
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    mask: Float[Tensor, " d"],
    noise: Float[Tensor, "2 d"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Return the loss of the mask: without disturbance, weighted by `alpha`, plus with disturbance."""
    natural = loss_with(net, x, y, scale_channels(net, mask))
    return alpha * natural + (1 - alpha) * loss_with(net, x, y, scale_channels(net, mask + noise[0], 1 + noise[1]))
