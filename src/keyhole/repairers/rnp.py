"""RNP, Reconstructive Neuron Pruning (Li et al., 2023, https://arxiv.org/abs/2305.14876): unlearn, recover, prune.

Idea: First all weights climb the loss on clean images until the network has unlearned them. Then clean accuracy is
brought back by nothing but a mask in 0..1 for each channel of each batch normalization. Channels of the backdoor do not
help, so their masks fall, and the victim is pruned by rising thresholds on the mask (scale and bias zero).

Differs from the released code (https://github.com/bboylyg/RNP): The deepest threshold that keeps the accuracy on a
held-back part of the hold-out is taken, where the tolerated fall of 0.04 is our choice; the code shows results for all
thresholds. Unlearning stops at a batch of low accuracy, not at an epoch, since an epoch of the code is 4 batches.
Gradients are clipped; the code clips before they exist. The learning rate is constant. The bias of a cut channel is
zero too (code: kept). There is no augmentation. As in the code, the network uses batch statistics while it learns, and
both phases have 20 epochs (there of 500 images).

Checked against: both updates written out; a planted channel that drives the target class.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import endless_batches
from keyhole.learning.holdout import split_holdout
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Fraction, Positive, Share
from keyhole.repairers import Repairer
from keyhole.repairers._channels import full_mask, loss_with, prune_by_threshold, scale_channels
from keyhole.types import Evidence, Images, Labels

__all__ = ["RNP"]

LONGEST_GRADIENT = 20.0  # norm to which gradients are clipped while unlearning
WEIGHT_DECAY = 5e-4  # while unlearning


@dataclass(frozen=True, kw_only=True)
class RNP(Repairer):
    forgotten: Fraction = 0.2  # accuracy on a batch at which unlearning stops
    unlearning_epochs: Count = 20  # passes over the hold-out, at most
    unlearning_rate: Positive = 0.01  # learning rate of the weights
    epochs: Count = 20  # of recovery, passes over the hold-out
    learning_rate: Positive = 0.2  # of the masks
    alpha: Positive = 0.2  # factor of the loss in recovery
    momentum: Share = 0.9  # in unlearning and in recovery
    batch_size: Count = 128  # images
    tolerance: Fraction = 0.04  # largest fall of clean accuracy, absolute
    validation: Fraction = 0.2  # share of the hold-out that judges the pruning; the network learns from the rest

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Unlearn the hold-out, recover it with a mask, then prune the victim by the mask.

        Raises:
            ValueError: the hold-out is too small to be divided, or the network has no batch normalization.
        """
        learn, judge = split_holdout(evidence, self.validation, rng)
        net = evidence.copy().train()
        device = device_of(net)
        images, labels = evidence.holdout_images[learn].to(device), evidence.holdout_labels[learn].to(device)
        self._unlearn(net, images, labels, rng)
        mask = self._recover(net.requires_grad_(False), images, labels, rng)
        return prune_by_threshold(evidence, mask, judge, self.tolerance)

    def _unlearn(self, net: nn.Module, images: Images, labels: Labels, rng: Generator) -> None:
        weights = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, self.unlearning_rate, self.momentum, weight_decay=WEIGHT_DECAY)
        batches = endless_batches(images, labels, self.batch_size, rng)
        for _ in range(self._steps(images, self.unlearning_epochs)):
            x, y = next(batches)
            optimizer.zero_grad()
            correct = climb(net, x, y)
            if correct <= self.forgotten:
                return
            optimizer.step()

    def _recover(self, net: nn.Module, images: Images, labels: Labels, rng: Generator) -> Float[Tensor, " d"]:
        mask = full_mask(net).requires_grad_()
        optimizer = torch.optim.SGD([mask], self.learning_rate, self.momentum)
        batches = endless_batches(images, labels, self.batch_size, rng)
        for _ in tqdm(range(self._steps(images, self.epochs)), desc="rnp", disable=None):
            x, y = next(batches)
            optimizer.zero_grad()
            (self.alpha * loss_with(net, x, y, scale_channels(net, mask))).backward()
            optimizer.step()
            mask.data.clamp_(0, 1)
        return mask.detach()

    def _steps(self, images: Images, epochs: int) -> int:
        return epochs * max(1, len(images) // self.batch_size)


def climb(net: nn.Module, x: Float[Tensor, "b c h w"], y: Labels) -> float:
    """Put the clipped gradient of minus the loss into the weights; return the accuracy on the batch."""
    outputs = net(x)
    (-functional.cross_entropy(outputs, y)).backward()
    nn.utils.clip_grad_norm_([p for p in net.parameters() if p.requires_grad], LONGEST_GRADIENT)
    return float((outputs.argmax(1) == y).double().mean())
