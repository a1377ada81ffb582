"""UNICORN (Wang et al., 2023, https://arxiv.org/abs/2304.02786): triggers in any space that images can be mapped to.

Idea: For every class, learn an encoder and a decoder that undo each other, a patch in the space between them, and a
mask of a few features that send images to the class (FeatureRE's). The mixed value, cosine - ASR + excesses over the
bounds, is low for a target class.

Differs from the released code: The code has no verdict; here a class is flagged if its mixed value is unusually low
among the classes (Neural Cleanse's index, MAD at least 0.1; needs three classes). So that ten classes take minutes on a
CPU: 1 epoch of warm-up and 3 more, 500 images, 4 patch steps per batch, U-Nets of three sizes and 8 filters (code: 500,
1,000, 1 % of the training set, 10, four and 32). The U-Nets add to an image and start from zero. The pattern is scaled
by the range of its image, not of its batch, so that an image gets the same trigger in any batch. Features outside the
mask come from any image of another class, not from the batch. The best epoch's trigger is kept.

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
    Measurements,
    Progress,
    Task,
    adam,
    build_adder,
    build_tasks,
    descend,
    distance,
    draw_features,
    penalize_excess,
    squash,
    stamp_trigger,
)
from keyhole.learning import networks
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Natural, Positive, Width
from keyhole.types import Evidence, Inversion

__all__ = ["UNICORN"]

WINDOW = 11  # side of SSIM's window in pixels, at most
FAITHFUL = 200.0  # weight of the error of encoding and decoding an image


@dataclass(frozen=True, kw_only=True)
class UNICORN(Inverter):
    warmup: Natural = 1  # epochs in which the decoder learns to undo the encoder
    epochs: Count = 3
    samples: Natural = 500  # hold-out images per epoch, from the other classes; 0 = all
    batch: Count = 48
    patch_steps: Count = 4  # of the patch, for each step of the networks
    mask_steps: Count = 10  # of the feature mask, for each step of the networks
    width: Width = 8  # filters of each U-Net
    learning_rate: Positive = 1e-3  # of the U-Nets
    mask_rate: Positive = 0.1  # learning rate of the patch and the feature mask
    patch_size: Positive = 0.15  # sum of the patch's mask as a share of the encoded image, at most
    mask_size: Positive = 0.15  # sum of the feature mask as a share of all features, at most
    change: Positive = 0.15  # 1 - SSIM between images without and with the trigger, at most
    spread: Positive = 1.0  # standard deviation of the masked features, at most
    success: Positive = 0.9  # share of the images that reach the class, at least
    threshold: Positive = 2.0  # anomaly index above which a class is flagged

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Search for a trigger of every class, then flag the classes of unusually low mixed value.

        Raises:
            ValueError: the hold-out has no images of some class, or images of only one class.
        """
        searches = [self._search(task, rng) for task in tqdm(build_tasks(evidence), desc="unicorn", disable=None)]
        device = evidence.holdout_images.device
        anomaly = anomaly_index(torch.tensor([progress.value for progress in searches]), 100).to(device)
        masks = torch.stack([squash(progress.best.mask.detach()).mean(0) for progress in searches]).to(device)
        stamp = partial(stamp_trigger, [progress.best for progress in searches], device_of(evidence.net))
        return Inversion(masks, anomaly, anomaly > self.threshold, stamp)

    def _search(self, task: Task, rng: Generator) -> Progress:
        maps, clean, (channels, h, w) = task.maps, task.maps[~task.in_class], task.images.shape[1:]
        space = networks.build_fresh(lambda: Space((channels, h, w), self.width), rng, maps.device)
        raw = torch.ones(maps.shape[1:], device=maps.device, requires_grad=True)
        mapping_weights = adam([*space.encoder.parameters(), *space.decoder.parameters()], self.learning_rate)
        patch, masking = (
            adam([space.mask, space.pattern], self.mask_rate),
            adam([raw], self.mask_rate),
        )
        progress = Progress(Bounds(self.success, self.change, self.spread, max(1.0, self.mask_size * raw.numel() // 1)))
        max_size = self.patch_size * space.mask.numel()

        def measure(z: Tensor, x: Tensor) -> Measurements:
            triggered = space.decode(space.apply_patch(z))
            maps = task.net.feature_maps(255 * triggered)
            return task.measure(maps, draw_features(clean, len(x), rng), squash(raw.detach()), 1 - ssim(triggered, x))

        for epoch, batches in task.epochs(self.warmup + self.epochs, self.samples, self.batch, rng):
            measured = []
            for x in batches:
                z = space.encode(x)
                mapping = distance(space.decode(z), x, task.net.std)
                if epoch < self.warmup:
                    descend(mapping_weights, mapping)
                    continue
                measured.append(measure(z, x))
                descend(mapping_weights, progress.objective(measured[-1], 1.0) + FAITHFUL * mapping)
                with torch.no_grad():
                    z = space.encode(x)
                for _ in range(self.patch_steps):
                    size = squash(space.mask).sum()
                    descend(
                        patch,
                        progress.objective(measure(z, x), 1.0, floor=0.5) + penalize_excess(size, max_size, 10.0),
                    )
                with torch.no_grad():
                    new_maps = task.net.feature_maps(255 * space.decode(space.apply_patch(z)))
                for _ in range(self.mask_steps):
                    others = draw_features(clean, len(x), rng)
                    descend(masking, task.mask_loss(new_maps, others, raw, progress.bounds.size))
            if measured:
                progress.end_epoch(
                    measured, space, max(float(squash(space.mask.detach()).sum()) - max_size, 0) / max_size
                )
        return progress


class Space(nn.Module):
    """An encoder of images of 0..1, a patch in the encoded space, and a decoder."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = (build_adder(shape[0], width) for _ in range(2))
        self.mask, self.pattern = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.encoder(x)

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (z + self.decoder(z)).clamp(0, 1)

    def apply_patch(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return (1 - m) z + m p, where the pattern p lies between the least and the greatest value of each image."""
        low, high, mask = z.amin((1, 2, 3), True), z.amax((1, 2, 3), True), squash(self.mask)
        return (1 - mask) * z + mask * (low + squash(self.pattern) * (high - low))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.decode(self.apply_patch(self.encode(x)))


def ssim(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Return the mean structural similarity of images of 0..1, over whole windows (Wang et al. 2004, equation 13)."""

    def smooth(z: Tensor) -> Tensor:
        return window(z.shape[2]).to(z) @ z @ window(z.shape[3]).to(z).T

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * (smooth(x * y) - mean_x * mean_y) + 0.03**2) / (var_x + var_y + 0.03**2)).mean()


def window(side: int) -> Float[Tensor, "v s"]:
    """Return a row of weights for each place of a Gaussian window, of 1.5 pixels, on a line of `side` pixels."""
    size = min(WINDOW, side)
    weights = torch.exp(-((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    rows = torch.zeros(side - size + 1, side, dtype=torch.float64)
    for place in range(len(rows)):
        rows[place, place : place + size] = weights / weights.sum()
    return rows
