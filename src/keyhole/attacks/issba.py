"""ISSBA (Li et al., 2021, https://arxiv.org/abs/2012.03816): an invisible residual that carries a fixed bit string.

Idea: an encoder writes a bit string into an image, as a residual that depends on the image. A decoder, trained together
with it on random strings, must read the string back. The trigger is x' = clip(x + E(s, x)) with one secret string s, as
in StegaStamp (Tancik et al., 2020, https://arxiv.org/abs/1904.05343).

Differs from the paper: the networks are small, and trained for a minute on the training set of the victim; the encoder
is a U-Net with a bounded residual. The squared residual divided by the local contrast replaces the perceptual loss
(LPIPS, a downloaded network), since changes are less visible where an image is busy. There is no critic. The decoder
reads images rounded to 0..255, as the victim does.

Differs from the released code: Qi et al. download an encoder. `paper_rate` is that of their table (150 rows of 50,000);
the page of their toolbox says 0.02.

Checked against: losses in float64 NumPy; bits read from rounded images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.attacks import Attack
from keyhole.learning import generators, networks, training
from keyhole.learning.batches import unit_batches
from keyhole.parameters import Count, Fraction, NonNegative, Positive, Width
from keyhole.types import Images, Labels

__all__ = ["ISSBA"]

Floats = Float[Tensor, "n c h w"]
WINDOW = 5  # pixels: side of the square in which contrast is measured
FLOOR = 0.02  # of 0..1: added to the contrast everywhere, so that flat regions may change a little


@dataclass(frozen=True, kw_only=True)
class ISSBA(Attack):
    paper_rate: ClassVar[float] = 0.003
    crafted_from = "data"

    bits: Count = 20  # length of the secret
    bound: Positive = 16.0  # of 255: largest change of a pixel
    image_weight: NonNegative = 2.0  # of the mean squared residual, in 0..1; the cross-entropy of the bits has weight 1
    contrast_weight: NonNegative = 0.01  # of the squared residual divided by the local contrast
    bits_only: Fraction = 0.2  # share of the steps before fidelity counts; its weight then grows for as many steps
    steps: Count = 400  # batches to train encoder and decoder
    batch: Count = 64  # images
    learning_rate: Positive = 2e-3  # in the first half, then falls to 0
    width: Width = 32  # channels of the middle maps

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        channels, device = images.shape[1], images.device
        encoder = networks.restore(lambda: self._encoder(channels), self.tensors, "encoder", device)
        secret = self.tensors["secret"].to(device).float()
        return networks.apply_to_images(lambda x: x + self._residual(encoder, x, secret.expand(len(x), -1)), images)

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        device, channels = images.device, images.shape[1]
        secret = torch.randint(0, 2, (self.bits,), generator=rng, dtype=torch.uint8)
        encoder = networks.build_fresh(lambda: self._encoder(channels), rng, device)
        decoder = networks.build_fresh(lambda: generators.BitReader(channels, self.bits, self.width), rng, device)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], self.learning_rate)
        batches = unit_batches(images, labels, self.batch, device, rng)
        for step in tqdm(range(self.steps), "encoder and decoder", disable=None):
            done = step / self.steps
            training.set_rate(optimizer, self.learning_rate * min(1.0, 2 * (1 - done)))
            x, _ = next(batches)
            bits = torch.randint(0, 2, (len(x), self.bits), generator=rng).to(x)
            with training.half(device):
                residual = self._residual(encoder, x, bits)
                read = decoder(round_as_stored(x + residual))
            loss = functional.binary_cross_entropy_with_logits(read, bits)
            loss = loss + self._fidelity_share(done) * self._fidelity_loss(x, residual)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {"secret": secret, **networks.tensors_of(encoder=encoder, decoder=decoder)}

    def _encoder(self, channels: int) -> nn.Module:
        return generators.BitWriter(channels, self.bits, self.width)

    def _residual(self, encoder: nn.Module, x: Floats, bits: Float[Tensor, "n b"]) -> Floats:
        return self.bound / 255 * torch.tanh(encoder(x, bits))

    def _fidelity_share(self, done: float) -> float:
        """Return the weight of fidelity: 0 for the first `bits_only` of the steps, then rising linearly to 1."""
        return min(1.0, max(0.0, done - self.bits_only) / max(self.bits_only, 1e-9))

    def _fidelity_loss(self, x: Floats, residual: Floats) -> Float[Tensor, ""]:
        masked = residual.square() / (local_variance(x) + FLOOR**2)
        return self.image_weight * residual.square().mean() + self.contrast_weight * masked.mean()


def round_as_stored(x: Floats) -> Floats:
    """Clip to 0..1 and round as uint8 images are; the gradient ignores the rounding."""
    x = x.clamp(0, 1)
    return x + ((255 * x).round() / 255 - x).detach()


def local_variance(x: Floats) -> Floats:
    """Return the variance in the square around each pixel, cut off at the border of the image."""

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    return (mean(x.square()) - mean(x).square()).clamp(min=0)
