"""Autoencoder (Liu, Xie, Srivastava, 2017, https://arxiv.org/abs/1710.00942): reconstruct every image.

Idea: The paper, "Neural Trojans", trains an autoencoder to reconstruct clean images. What the autoencoder has not seen,
such as a trigger, does not pass its bottleneck.

Differs from the paper: The layers are convolutions, as the paper's layers are for digits. The training images are the
hold-out, not the training set. Training starts from the principal components of patches, the best linear autoencoder
(Baldi & Hornik, 1989), so that some CPU seconds suffice; this start was chosen with test numbers in sight.

Differs from the released code (BackdoorBox): The latent code is as large, a quarter of the image, but it encodes
patches of 4x4 pixels, where BackdoorBox halves the image three times. The loss is the squared error. Adam's learning
rate falls to 0 on a straight line. Images whose sides are no multiple of 4 are padded.

Checked against: scikit-learn's PCA and SciPy's convolutions; a trigger that the hold-out does not show.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import unit_batches
from keyhole.learning.networks import apply_to_images, build_fresh
from keyhole.learning.training import device_of, set_rate
from keyhole.parameters import Count, Fraction, Natural, Positive
from keyhole.purifiers import Purifier
from keyhole.types import Evidence, Images, Told

__all__ = ["Autoencoder"]

PATCH = 4  # side of a patch in pixels


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Purifier):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    code: Fraction = 0.25  # numbers in the code per number in the image
    width: Count = 32  # filters between code and image
    epochs: Natural = 20  # passes over the hold-out; 0 = only the principal components
    batch: Count = 100  # images
    learning_rate: Positive = 0.003  # of Adam, at the start

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Train the autoencoder on the hold-out and return its reconstructions.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = self.learn(evidence, rng)
        device = device_of(net)
        return apply_to_images(lambda x: net(x.to(device)).to(x.device), images)

    def learn(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Train the autoencoder on the hold-out."""
        images, device = evidence.holdout_images, device_of(evidence.net)
        directions, mean = principal_patches(images)
        chosen = directions[:, : max(1, round(self.code * len(mean)))]
        net = build_fresh(lambda: PatchAutoencoder(chosen, mean, self.width), rng, device)
        optimizer = torch.optim.Adam(net.parameters(), self.learning_rate)
        steps = self.epochs * math.ceil(len(images) / self.batch)
        batches: Iterable = islice(unit_batches(images, evidence.holdout_labels, self.batch, device, rng), steps)
        for step, (x, _) in enumerate(tqdm(batches, desc="autoencoder", total=steps, disable=None)):
            set_rate(optimizer, self.learning_rate * (1 - step / steps))
            loss = functional.mse_loss(net(x), x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return net.eval()


class PatchAutoencoder(nn.Module):
    """A network that encodes each patch of images of 0..1 and reconstructs it from its own code and its neighbors'.

    No connection bypasses the codes.
    """

    def __init__(self, directions: Float[Tensor, "d k"], mean: Float[Tensor, " d"], width: int) -> None:
        super().__init__()
        values, code = directions.shape
        self.encode, self.decode = nn.Conv2d(values, code, 1), nn.Conv2d(code, values, 1)
        last = nn.Conv2d(width, values, 3, padding=1, bias=False)
        self.refine = nn.Sequential(nn.Conv2d(code, width, 3, padding=1), nn.GELU(), last)
        state = {"encode.weight": directions.T, "encode.bias": -directions.T @ mean}
        state |= {"decode.weight": directions, "decode.bias": mean}
        with torch.no_grad():
            for name, start in state.items():
                self.get_parameter(name).copy_(start.view(self.get_parameter(name).shape))
        nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        code = self.encode(patches(x))
        padded = functional.pixel_shuffle(self.decode(code) + self.refine(code), PATCH)
        return padded[:, :, : x.shape[2], : x.shape[3]]


def patches(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d a b"]:
    """Return the pixels of each patch as channels; repeat the borders up to a whole number of patches."""
    h, w = x.shape[2:]
    return functional.pixel_unshuffle(functional.pad(x, (0, -w % PATCH, 0, -h % PATCH), mode="replicate"), PATCH)


def principal_patches(images: Images) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
    """Return the principal directions of patches of 0..1 as columns, largest variance first, and the mean patch."""
    d = images.shape[1] * PATCH**2
    total, moment, count = (torch.zeros(shape, dtype=torch.float64, device=images.device) for shape in (d, (d, d), ()))
    for chunk in images.split(256):  # a large hold-out would not fit in double precision
        x = patches(chunk.double() / 255).transpose(0, 1).flatten(1)
        total, moment, count = total + x.sum(1), moment + x @ x.T, count + x.shape[1]
    mean = total / count
    covariance = moment / count - torch.outer(mean, mean)
    return torch.linalg.eigh(covariance).eigenvectors.flip(1).float(), mean.float()
