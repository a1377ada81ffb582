"""UNICORN (Wang et al., 2023, https://arxiv.org/abs/2304.02786): triggers in any space that images can be mapped to.

For every class, an encoder and a decoder that undo each other, a patch between them, and a few features that alone
decide (the feature half is FeatureRE's). Low mixed value = cosine - ASR + excesses over the bounds.
Differs from the released code: it has no verdict; here a class is flagged whose mixed value lies outlyingly low among
the classes (Neural Cleanse's index, MAD at least 0.1; needs three classes). So that ten classes take minutes on a CPU:
1 epoch of warm-up, 3 more, 500 images, 4 patch steps a batch, U-Nets of three sizes and 8 filters (there: 500, 1,000,
1 % of the training set, 10, four and 32). The U-Nets add to an image, at first nothing; its own range, not its batch's,
scales the pattern, so that it gets the same trigger in any company; features outside the mask come from any image of
another class, not from the batch; the best epoch's trigger is kept.
Checked against: every term in float64 NumPy; a planted feature channel and its clean twin.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.inverters import Inverter
from keyhole.inverters._anomaly import anomaly_index
from keyhole.inverters._feature_inversion import (
    Bounds,
    Measured,
    Progress,
    Task,
    above,
    adam,
    adder,
    bystanders,
    descend,
    distance,
    shares,
    stamp_trigger,
    tasks,
)
from keyhole.learning import networks
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Natural, Positive, Width
from keyhole.types import Evidence, Inversion

__all__ = ["UNICORN"]

WINDOW = 11  # pixels of SSIM's window, at most
FAITHFUL = 200.0  # weight of the encoder's and decoder's joint error


@dataclass(frozen=True, kw_only=True)
class UNICORN(Inverter):
    warmup: Natural = 1  # epochs in which the decoder learns to undo the encoder
    epochs: Count = 3
    samples: Natural = 500  # hold-out images an epoch, none of the class itself; 0 = all
    batch: Count = 48
    patch_steps: Count = 4  # for each step of the networks
    mask_steps: Count = 10  # of the feature mask
    width: Width = 8  # filters of each U-Net
    learning_rate: Positive = 1e-3  # of the U-Nets
    mask_rate: Positive = 0.1  # learning rate of the patch and the feature mask
    patch_size: Positive = 0.15  # of the encoded image, at most
    mask_size: Positive = 0.15  # of all features, at most
    change: Positive = 0.15  # 1 - SSIM of images and triggered images, at most
    spread: Positive = 1.0  # standard deviation of the masked features, at most
    success: Positive = 0.9  # share of the images that reach the class, at least
    threshold: Positive = 2.0  # anomaly index

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """See the base class.

        Raises:
            ValueError: the hold-out lacks a class, or all others.
        """
        searches = [self._search(task, rng) for task in tqdm(tasks(evidence), desc="unicorn", disable=None)]
        home = evidence.holdout_images.device
        anomaly = anomaly_index(torch.tensor([progress.value for progress in searches]), 100).to(home)
        masks = torch.stack([shares(progress.best.mask.detach()).mean(0) for progress in searches]).to(home)
        stamp = partial(stamp_trigger, [progress.best for progress in searches], device_of(evidence.net))
        return Inversion(masks, anomaly, anomaly > self.threshold, stamp)

    def _search(self, task: Task, rng: Generator) -> Progress:
        maps, clean, (channels, h, w) = task.maps, task.maps[~task.own], task.images.shape[1:]
        space = networks.build_fresh(lambda: Space((channels, h, w), self.width), rng, maps.device)
        raw = torch.ones(maps.shape[1:], device=maps.device, requires_grad=True)
        mapping_weights = adam([*space.encoder.parameters(), *space.decoder.parameters()], self.learning_rate)
        patch, masking = (
            adam([space.mask, space.pattern], self.mask_rate),
            adam([raw], self.mask_rate),
        )
        progress = Progress(Bounds(self.success, self.change, self.spread, max(1.0, self.mask_size * raw.numel() // 1)))
        most = self.patch_size * space.mask.numel()

        def look(z: Tensor, x: Tensor) -> Measured:
            after = space.decode(space.plant(z))
            there = task.net.feature_maps(255 * after)
            return task.measure(there, bystanders(clean, len(x), rng), shares(raw.detach()), 1 - ssim(after, x))

        for epoch, batches in task.epochs(self.warmup + self.epochs, self.samples, self.batch, rng):
            seen = []
            for x in batches:
                z = space.encode(x)
                mapping = distance(space.decode(z), x, task.net.std)
                if epoch < self.warmup:
                    descend(mapping_weights, mapping)
                    continue
                seen.append(look(z, x))
                descend(mapping_weights, progress.objective(seen[-1], 1.0) + FAITHFUL * mapping)
                with torch.no_grad():
                    z = space.encode(x)
                for _ in range(self.patch_steps):
                    size = shares(space.mask).sum()
                    descend(
                        patch,
                        progress.objective(look(z, x), 1.0, floor=0.5) + above(size, most, 10.0),
                    )
                with torch.no_grad():
                    there = task.net.feature_maps(255 * space.decode(space.plant(z)))
                for _ in range(self.mask_steps):
                    others = bystanders(clean, len(x), rng)
                    descend(masking, task.mask_loss(there, others, raw, progress.bounds.size))
            if seen:
                progress.close(seen, space, max(float(shares(space.mask.detach()).sum()) - most, 0) / most)
        return progress


class Space(nn.Module):
    """A patch in a space of its own, and the way there and back; images of 0..1."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = (adder(shape[0], width) for _ in range(2))
        self.mask, self.pattern = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.encoder(x)

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (z + self.decoder(z)).clamp(0, 1)

    def plant(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """(1 - m) z + m p, with the pattern between the image's least and greatest value."""
        low, high, mask = z.amin((1, 2, 3), True), z.amax((1, 2, 3), True), shares(self.mask)
        return (1 - mask) * z + mask * (low + shares(self.pattern) * (high - low))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.decode(self.plant(self.encode(x)))


def ssim(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean structural similarity of images of 0..1 (Wang et al. 2004, equation 13), over whole windows."""

    def smooth(z: Tensor) -> Tensor:
        return window(z.shape[2]).to(z) @ z @ window(z.shape[3]).to(z).T

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (light * (2 * (smooth(x * y) - mean_x * mean_y) + 0.03**2) / (var_x + var_y + 0.03**2)).mean()


def window(side: int) -> Float[Tensor, "v s"]:
    """A row for each place of a Gaussian window, of 1.5 pixels, on a line of `side` pixels."""
    size = min(WINDOW, side)
    weights = torch.exp(-((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    rows = torch.zeros(side - size + 1, side, dtype=torch.float64)
    for place in range(len(rows)):
        rows[place, place : place + size] = weights / weights.sum()
    return rows
