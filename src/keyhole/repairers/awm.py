"""AWM, Adversarial Weight Masking (Chai & Chen, 2022, https://arxiv.org/abs/2207.04497): fade what a trigger uses.

Each round first finds one additive trigger, bounded in l1 norm, that does the most harm on clean images; then a soft
mask in 0..1 for each weight of the convolutions, also penalized in l1 norm, learns to keep both the clean images and
those with the trigger right. The repaired network has the masked weights; nothing is cut and nothing is judged.
Differs from the paper: 15 batches in each half of a round, its 5 passes over 500 images, whatever the hold-out's size.
Differs from the released code (https://github.com/jinghuichen/AWM): the trigger moves away from the given labels, as in
the paper (code: from predicted ones). As there, images with the trigger are clamped when the mask learns, the network
is in eval mode, and the mask's learning rate falls by a tenth each round. The norm fits 32x32 images.
Checked against: both gradients written out in NumPy; a planted channel that drives the target class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.learning.batches import endless_batches
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Fraction, Positive
from keyhole.repairers import Repairer
from keyhole.repairers._channels import loss_with
from keyhole.types import Evidence, Labels

__all__ = ["AWM"]

DECAY = 0.9  # of the mask's learning rate, each round

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class AWM(Repairer):
    rounds: Count = 20
    steps: Count = 15  # batches for the trigger, and as many for the mask, in each round
    batch_size: Count = 128  # images
    alpha: Fraction = 0.9  # weight of the clean loss; the rest is on the loss with the trigger
    gamma: Fraction = 1e-8  # weight of the masks' l1 norm
    trigger_norm: Positive = 1000.0  # largest l1 norm of a trigger; black to white in one channel of a pixel is 1
    trigger_rate: Positive = 10.0  # learning rate of the trigger, in the same unit
    learning_rate: Positive = 0.01  # of the masks, in the first round

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: there is no hold-out, or the network has no convolutions.
        """
        evidence.require_holdout()
        net, frozen = evidence.copy().eval(), evidence.frozen()
        device = device_of(net)
        images, labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        masks = self._learn_masks(frozen, endless_batches(images, labels, self.batch_size, rng))
        net.load_state_dict({**net.state_dict(), **mask_weights(net, masks)})
        return net

    def _learn_masks(self, net: nn.Module, batches: Batches) -> dict[str, Tensor]:
        masks = {name: torch.ones_like(conv.weight).requires_grad_() for name, conv in convolutions(net).items()}
        optimizer = torch.optim.Adam(masks.values(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
        for _ in tqdm(range(self.rounds), desc="awm", disable=None):
            trigger = self._harmful_trigger(net, mask_weights(net, masks), batches)
            for _ in range(self.steps):
                optimizer.zero_grad()
                objective(net, *next(batches), masks, trigger, self.alpha, self.gamma).backward()
                optimizer.step()
                for mask in masks.values():
                    mask.data.clamp_(0, 1)
            schedule.step()
        return {name: mask.detach() for name, mask in masks.items()}

    def _harmful_trigger(self, net: nn.Module, weights: Mapping[str, Tensor], batches: Batches) -> Tensor:
        weights = {name: weight.detach() for name, weight in weights.items()}
        trigger: Tensor | None = None
        for _ in range(self.steps):
            x, y = next(batches)
            if trigger is None:
                trigger = torch.zeros_like(x[:1])
            trigger = trigger + self.trigger_rate * trigger_gradient(net, x, y, weights, trigger)
        assert trigger is not None
        return limit_norm(trigger, self.trigger_norm)


def convolutions(net: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions of a network by name.

    Raises:
        ValueError: there are none.
    """
    found = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise ValueError("expected a network with convolutions, whose weights can be masked")
    return found


def mask_weights(net: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> weight of each convolution, times its mask."""
    return {f"{name}.weight": masks[name] * conv.weight for name, conv in convolutions(net).items()}


def trigger_gradient(
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    weights: Mapping[str, Tensor],
    trigger: Float[Tensor, "1 c h w"],
) -> Float[Tensor, "1 c h w"]:
    """The gradient by which a trigger raises the loss (algorithm 1, line 6)."""
    trigger = trigger.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_with(net, x + 255 * trigger, y, weights), trigger)
    return gradient


def limit_norm(trigger: Float[Tensor, "1 c h w"], norm: float) -> Float[Tensor, "1 c h w"]:
    """A trigger scaled down to an l1 norm, where it is above (algorithm 1, line 9)."""
    return trigger * (norm / trigger.abs().sum()).clamp(max=1)


def objective(
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    masks: Mapping[str, Tensor],
    trigger: Float[Tensor, "1 c h w"],
    alpha: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """What the masks minimize (algorithm 1, line 11)."""
    weights = mask_weights(net, masks)
    size = torch.stack([mask.abs().sum() for mask in masks.values()]).sum()
    stamped = (x + 255 * trigger).clamp(0, 255)
    return alpha * loss_with(net, x, y, weights) + (1 - alpha) * loss_with(net, stamped, y, weights) + gamma * size
