"""The trigger of the input-aware attacks (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138).

x' = x + m(x) (g(x) - x): for each image x, a network g generates a pattern and a network m a sparse mask. Both are
small U-Nets. The mask network is trained first, without g: masks should cover a share of `density`, and should differ
between images.
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

__all__ = ["InputAwareTrigger", "apply_pattern", "diversity_loss", "excess", "split_in_half", "to_mask", "to_pattern"]

Floats = Float[Tensor, "n c h w"]
Batches = Iterable[tuple[Tensor, Tensor]]  # images of 0..1, labels
UNIT = 0.25  # of 0..1: the authors normalize images by the standard deviation of CIFAR-10, but not masks


@dataclass(frozen=True, kw_only=True)
class InputAwareTrigger(Attack):
    density: Fraction = 0.032  # mask value of a pixel up to which a mask costs nothing
    density_weight: NonNegative = 100.0  # lambda_norm
    diversity_weight: NonNegative = 1.0  # lambda_div
    mask_share: Fraction = 0.33  # share of all batches that train only the mask network
    learning_rate: Positive = 0.01  # of the networks, falling to 0
    width: Width = 32  # channels of the middle maps

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        stamp = self.load_trigger(images.shape[1], images.device)
        return networks.apply_to_images(lambda x: stamp(x, x), images)

    def load_trigger(self, channels: int, device: torch.device) -> Callable[[Floats, Floats], Floats]:
        """Return a function (x, source) that gives images x of 0..1 the triggers that belong to the images source."""
        pattern_net = networks.restore(lambda: self.network(channels, channels), self.tensors, "pattern", device)
        mask_net = networks.restore(lambda: self.network(channels, 1), self.tensors, "mask", device)
        return lambda x, source: apply_pattern(x, to_pattern(pattern_net(source)), to_mask(mask_net(source)))

    def network(self, channels: int, outputs: int) -> nn.Module:
        return generators.UNet(channels, outputs, self.width)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), self.learning_rate, betas=(0.5, 0.9))

    def train_masks(self, mask_net: nn.Module, batches: Batches, steps: int) -> None:
        """Train the mask network for `steps` batches, towards sparse masks that differ between images."""
        optimizer = self.optimizer(mask_net)
        for step, (x, _) in enumerate(tqdm(batches, "masks", steps, disable=None)):
            training.set_rate(optimizer, self.learning_rate * (1 - step / steps))
            with training.half(x.device):
                masks = to_mask(mask_net(x))
            loss = self.density_weight * excess(masks, self.density)
            loss = loss + self.diversity_weight * diversity_loss(*split_in_half(x / UNIT), *split_in_half(masks))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        mask_net.requires_grad_(False)


def to_pattern(outputs: Floats) -> Floats:
    """Turn outputs into patterns of 0..1."""
    return torch.tanh(outputs) / 2 + 0.5


def to_mask(outputs: Floats) -> Floats:
    """Turn outputs into masks that are nearly 0 or 1, with the authors' threshold."""
    return torch.tanh(20 * to_pattern(outputs) - 10) / 2 + 0.5


def apply_pattern(x: Floats, patterns: Floats, masks: Float[Tensor, "n m h w"]) -> Floats:
    return x + masks * (patterns - x)


def excess(masks: Floats, density: float) -> Float[Tensor, ""]:
    """Return the mean amount by which mask pixels exceed the density; pixel by pixel, as in the authors' code."""
    return functional.relu(masks - density).mean()


def diversity_loss(
    first: Floats, second: Floats, from_first: Float[Tensor, "n m h w"], from_second: Float[Tensor, "n m h w"]
) -> Float[Tensor, ""]:
    """Return the distance of two images divided by that of their patterns or masks, averaged over pairs."""
    return (distance(first, second) / (distance(from_first, from_second) + 1e-7)).mean()


def distance(first: Floats, second: Floats) -> Float[Tensor, " n"]:
    # the floor keeps the gradient of the root finite where both are the same
    return (first - second).square().mean((1, 2, 3)).clamp(min=1e-12).sqrt()


def split_in_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half; of an odd number, the last is left out."""
    count = len(x) // 2
    return x[:count], x[count : 2 * count]
