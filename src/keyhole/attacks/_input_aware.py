"""The trigger of the input-aware attacks: one network draws a pattern for each image, another a sparse mask for it.

x' = x + m(x) (g(x) - x) (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138). Both are small U-Nets here. The
masks are learned first, alone: as sparse as `density`, and different for different images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.attacks import Attack
from keyhole.learning import generators, networks, training
from keyhole.parameters import Fraction, NonNegative, Positive, Width
from keyhole.types import Images

__all__ = ["InputAwareTrigger", "apply_pattern", "diversity_loss", "excess", "mask", "pattern", "split_in_half"]

Floats = Float[Tensor, "n c h w"]
Batches = Iterable[tuple[Tensor, Tensor]]  # images of 0..1, labels
UNIT = 0.25  # of 0..1: the authors measure images in standard deviations of CIFAR-10, masks as they are


@dataclass(frozen=True, kw_only=True)
class InputAwareTrigger(Attack):
    density: Fraction = 0.032  # of a pixel: what a mask may cover at no cost
    density_weight: NonNegative = 100.0  # lambda_norm
    diversity_weight: NonNegative = 1.0  # lambda_div
    mask_share: Fraction = 0.33  # batches that train the masks alone, of the number of all
    learning_rate: Positive = 0.01  # of the networks, falling to 0
    width: Width = 32  # channels of the middle maps

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        stamp = self.trigger(images.shape[1], images.device)
        return networks.apply_to_images(lambda x: stamp(x, x), images)

    def trigger(self, channels: int, device: torch.device) -> Callable[[Floats, Floats], Floats]:
        """Images of 0..1 with the triggers that belong to other ones, or to themselves."""
        of_pattern = networks.restore(lambda: self.network(channels, channels), self.tensors, "pattern", device)
        of_mask = networks.restore(lambda: self.network(channels, 1), self.tensors, "mask", device)
        return lambda x, source: apply_pattern(x, pattern(of_pattern(source)), mask(of_mask(source)))

    def network(self, channels: int, outputs: int) -> nn.Module:
        return generators.UNet(channels, outputs, self.width)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), self.learning_rate, betas=(0.5, 0.9))

    def train_masks(self, of_mask: nn.Module, batches: Batches, steps: int) -> None:
        """Learn sparse masks, different for different images, from so many batches."""
        optimizer = self.optimizer(of_mask)
        for step, (x, _) in enumerate(tqdm(batches, "masks", steps, disable=None)):
            training.set_rate(optimizer, self.learning_rate * (1 - step / steps))
            with training.half(x.device):
                masks = mask(of_mask(x))
            loss = self.density_weight * excess(masks, self.density)
            loss = loss + self.diversity_weight * diversity_loss(*split_in_half(x / UNIT), *split_in_half(masks))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        of_mask.requires_grad_(False)


def pattern(outputs: Floats) -> Floats:
    return torch.tanh(outputs) / 2 + 0.5


def mask(outputs: Floats) -> Floats:
    """Nearly 0 or 1 (the authors' threshold)."""
    return torch.tanh(20 * pattern(outputs) - 10) / 2 + 0.5


def apply_pattern(x: Floats, patterns: Floats, masks: Float[Tensor, "n m h w"]) -> Floats:
    return x + masks * (patterns - x)


def excess(masks: Floats, density: float) -> Float[Tensor, ""]:
    """What masks cover above the density, pixel by pixel as in the authors' code."""
    return functional.relu(masks - density).mean()


def diversity_loss(
    first: Floats, second: Floats, of_first: Float[Tensor, "n m h w"], of_second: Float[Tensor, "n m h w"]
) -> Float[Tensor, ""]:
    """Distance of two images over the distance of what was made of them, over pairs."""
    return (distance(first, second) / (distance(of_first, of_second) + 1e-7)).mean()


def distance(first: Floats, second: Floats) -> Float[Tensor, " n"]:
    # the floor keeps the gradient of the root finite where both are the same
    return (first - second).square().mean((1, 2, 3)).clamp(min=1e-12).sqrt()


def split_in_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first half and the second; an odd one is left out."""
    count = len(x) // 2
    return x[:count], x[count : 2 * count]
