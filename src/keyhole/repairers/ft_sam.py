"""FT-SAM (Zhu et al., 2023, https://arxiv.org/abs/2304.11823): fine-tune away from sharp minima.

Idea: Each step takes the gradient at the point near the weights where the loss is worst. Distance is relative to the
size of each weight, so that large weights, on which backdoors rely, move the most and shrink.

Differs from the released code (https://github.com/SCLBD/BackdoorBench): No mirrored images. The smaller last batch of
an epoch is left out (2,500 images: 900 steps instead of 1,000). One cosine over all steps; the code's learning rate
rises again every 100 batches. Label smoothing gives its share to all classes; in the code only to the other classes.

Checked against: the maximum of a linear loss over the ellipsoid; a step on a linear model in float64 NumPy.

Cost: two forward and backward passes per step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import augmented_batches
from keyhole.learning.holdout import PAD
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import device_of
from keyhole.parameters import Count, NonNegative, Positive, Share
from keyhole.repairers import Repairer
from keyhole.types import Evidence

__all__ = ["FTSAM"]


@dataclass(frozen=True, kw_only=True)
class FTSAM(Repairer):
    epochs: Count = 100  # passes over the hold-out
    learning_rate: Positive = 0.01  # falls to 0 along a cosine
    batch: Count = 256  # images
    radius: Positive = 2.0  # ρ: length of the shift, measured relative to the size of each weight
    smoothing: Share = 0.1  # label smoothing
    weight_decay: NonNegative = 5e-4

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Fine-tune a copy of the victim with the worst gradient near its weights.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = evidence.copy().train()
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule="steps",
            flip=False,
            pad=PAD,
        )
        device = device_of(net)
        images, labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
        steps = max(1, len(images) // self.batch) * self.epochs
        optimizer = torch.optim.SGD(trained.values(), self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for x, y in tqdm(augmented_batches(images, labels, recipe, rng), total=steps, desc="ft_sam", disable=None):

            def loss(outputs: Tensor, y: Tensor = y) -> Tensor:
                return functional.cross_entropy(outputs, y, label_smoothing=self.smoothing)

            for p, gradient in zip(trained.values(), worst_gradients(net, x, loss, self.radius), strict=True):
                p.grad = gradient
            optimizer.step()
            schedule.step()
        return net.eval()


def worst_gradients(net: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], radius: float) -> tuple[Tensor, ...]:
    """Return the gradients of the trained weights at the nearby point where the loss is worst, to first order.

    The statistics of batch normalization are updated only by the pass at the weights themselves.
    """
    weights = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss(net(x)), list(weights.values()))
    values = [p.detach() for p in weights.values()]
    shifted = [w + d for w, d in zip(values, worst_shift(values, gradients, radius), strict=True)]
    named = dict(zip(weights, (w.requires_grad_() for w in shifted), strict=True))
    statistics = {name: b.clone() for name, b in net.named_buffers()}
    return torch.autograd.grad(loss(functional_call(net, {**named, **statistics}, (x,))), shifted)


def worst_shift(weights: list[Tensor], gradients: tuple[Tensor, ...], radius: float) -> list[Tensor]:
    """Return ρ T² g / |T g| with T = diag |w| (equation 5), the steepest shift among those with |T⁻¹ δ| <= ρ."""
    steep = [w.abs() * g for w, g in zip(weights, gradients, strict=True)]
    length = torch.stack([s.norm() for s in steep]).norm() + 1e-12
    return [radius / length * w.abs() * s for w, s in zip(weights, steep, strict=True)]
