"""AWM, Adversarial Weight Masking (Chai & Chen, 2022, https://arxiv.org/abs/2207.04497): fade what a trigger uses.

Idea: Each round first searches the additive trigger, bounded in l1 norm, that does the most harm on clean images. Then
a soft mask in 0..1 for each weight of the convolutions learns to classify both the clean images and those with the
trigger correctly; the l1 norm of the masks is penalized. The repaired network has the masked weights. Nothing is cut,
and no hold-out images are kept back to judge.

Differs from the paper: 15 batches in each half of a round, which are the paper's 5 passes over 500 images, for any size
of the hold-out.

Differs from the released code (https://github.com/jinghuichen/AWM): The trigger moves away from the given labels, as in
the paper; the code uses predicted labels. As in the code, images with the trigger are clamped while the masks learn,
the network is in eval mode, and the learning rate is constant (its first versions lower it by a tenth each round). The
norm fits 32x32 images.

Checked against: both gradients in NumPy; a planted channel that drives the target class.
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

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class AWM(Repairer):
    rounds: Count = 20
    steps: Count = 15  # batches for the trigger, and as many for the mask, in each round
    batch_size: Count = 128  # images
    alpha: Fraction = 0.9  # weight of the clean loss; the loss with the trigger gets the rest
    gamma: Fraction = 1e-8  # weight of the masks' l1 norm
    trigger_norm: Positive = 1000.0  # largest l1 norm of a trigger; black to white in one channel of a pixel is 1
    trigger_rate: Positive = 10.0  # learning rate of the trigger, in the unit of its norm
    learning_rate: Positive = 0.01  # of the masks

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Search harmful triggers and learn masks in turns, then multiply the weights by the masks.

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
        masks = {name: torch.ones_like(conv.weight).requires_grad_() for name, conv in find_convolutions(net).items()}
        optimizer = torch.optim.Adam(masks.values(), self.learning_rate)
        for _ in tqdm(range(self.rounds), desc="awm", disable=None):
            trigger = self._find_trigger(net, mask_weights(net, masks), batches)
            for _ in range(self.steps):
                optimizer.zero_grad()
                objective(net, *next(batches), masks, trigger, self.alpha, self.gamma).backward()
                optimizer.step()
                for mask in masks.values():
                    mask.data.clamp_(0, 1)
        return {name: mask.detach() for name, mask in masks.items()}

    def _find_trigger(self, net: nn.Module, weights: Mapping[str, Tensor], batches: Batches) -> Tensor:
        weights = {name: weight.detach() for name, weight in weights.items()}
        trigger: Tensor | None = None
        for _ in range(self.steps):
            x, y = next(batches)
            if trigger is None:
                trigger = torch.zeros_like(x[:1])
            trigger = trigger + self.trigger_rate * trigger_gradient(net, x, y, weights, trigger)
        assert trigger is not None
        return limit_norm(trigger, self.trigger_norm)


def find_convolutions(net: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions of a network by name.

    Raises:
        ValueError: the network has none.
    """
    layers = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    if not layers:
        raise ValueError("expected a network with convolutions, whose weights can be masked, got one without")
    return layers


def mask_weights(net: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each convolution's weight times its mask, by parameter name."""
    return {f"{name}.weight": masks[name] * conv.weight for name, conv in find_convolutions(net).items()}


def trigger_gradient(
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    weights: Mapping[str, Tensor],
    trigger: Float[Tensor, "1 c h w"],
) -> Float[Tensor, "1 c h w"]:
    """Return the gradient of the loss with respect to the trigger (algorithm 1, line 6)."""
    trigger = trigger.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_with(net, x + 255 * trigger, y, weights), trigger)
    return gradient


def limit_norm(trigger: Float[Tensor, "1 c h w"], norm: float) -> Float[Tensor, "1 c h w"]:
    """Scale a trigger down to an l1 norm of at most `norm` (algorithm 1, line 9)."""
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
    """Return the loss of the masks (algorithm 1, line 11)."""
    weights = mask_weights(net, masks)
    size = torch.stack([mask.abs().sum() for mask in masks.values()]).sum()
    stamped = (x + 255 * trigger).clamp(0, 255)
    return alpha * loss_with(net, x, y, weights) + (1 - alpha) * loss_with(net, stamped, y, weights) + gamma * size
