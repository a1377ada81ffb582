"""FeatureRE (Wang et al., 2022, https://arxiv.org/abs/2210.15127): triggers that need not be patches.

Idea: For every class, a network rewrites images so that a few features send them to the class, while the features as a
whole stay unlike those of the class. Only the target class of a backdoor allows both: its mixed value, cosine - ASR +
excesses over the bounds, is low.

Differs from the released code: 1 epoch of warm-up and 6 more, of 1,000 images (code: 100 and 400, 1 % of the training
set), and a U-Net of three sizes and 8 filters (code: four and 32), so that ten classes take minutes on a CPU. The U-Net
adds to the image, starts from zero and stays within 0..255, so that the scored trigger can be stamped on images. The
best epoch's trigger is kept. Every class below the threshold is flagged; the published verdict is whether there is any.
The threshold was published for the long schedule: a short one may not bring a target class below it.

Checked against: every term in float64 NumPy; a planted feature channel and its clean twin.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.inverters import Inverter
from keyhole.inverters._feature_inversion import (
    Bounds,
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
from keyhole.parameters import Count, Fraction, Natural, Positive, Width
from keyhole.types import Evidence, Inversion

__all__ = ["FeatureRE"]


@dataclass(frozen=True, kw_only=True)
class FeatureRE(Inverter):
    warmup: Natural = 1  # epochs without the feature mask
    epochs: Count = 6
    samples: Natural = 1000  # hold-out images per epoch, from the other classes; 0 = all
    batch: Count = 32
    width: Width = 8  # filters of the U-Net
    learning_rate: Positive = 1e-3  # of the U-Net
    mask_rate: Positive = 0.1  # learning rate of the feature mask
    mask_size: Fraction = 0.03  # sum of the mask as a share of all features, at most
    change: Positive = 0.15  # mean squared change of the normalized pixels, at most
    spread: Positive = 1.0  # standard deviation of the masked features, at most
    success: Positive = 0.9  # share of the images that reach the class, at least
    threshold: float = -0.75  # mixed value below which a class is flagged

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Search for a trigger of every class, then flag the classes of low mixed value.

        Raises:
            ValueError: the hold-out has no images of some class, or images of only one class.
        """
        searches = [self._search(task, rng) for task in tqdm(build_tasks(evidence), desc="feature_re", disable=None)]
        device, (h, w) = evidence.holdout_images.device, evidence.holdout_images.shape[2:]
        values = torch.tensor([progress.value for progress in searches], device=device)
        triggers = [partial(rewrite, progress.best) for progress in searches]
        stamp = partial(stamp_trigger, triggers, device_of(evidence.net))
        return Inversion(torch.ones(len(searches), h, w, device=device), -values, values < self.threshold, stamp)

    def _search(self, task: Task, rng: Generator) -> Progress:
        maps, channels = task.maps, task.images.shape[1]
        writer = networks.build_fresh(lambda: build_adder(channels, self.width), rng, maps.device)
        raw = torch.ones(maps.shape[1:], device=maps.device, requires_grad=True)
        writing, masking = adam(writer.parameters(), self.learning_rate), adam([raw], self.mask_rate)
        progress = Progress(Bounds(self.success, self.change, self.spread, max(1.0, self.mask_size * raw.numel() // 1)))
        for epoch, batches in task.epochs(self.warmup + self.epochs, self.samples, self.batch, rng):
            measured = []
            for x in batches:
                rewritten = rewrite(writer, x)
                change = distance(rewritten, x, task.net.std)
                if epoch < self.warmup:
                    descend(
                        writing, task.error(task.net(255 * rewritten)) + penalize_excess(change, self.change, 100.0)
                    )
                    continue
                others = draw_features(maps, len(x), rng)
                measured.append(
                    task.measure(task.net.feature_maps(255 * rewritten), others, squash(raw.detach()), change)
                )
                descend(writing, progress.objective(measured[-1], 5.0))
                with torch.no_grad():
                    new_maps = task.net.feature_maps(255 * rewrite(writer, x))
                descend(masking, task.mask_loss(new_maps, draw_features(maps, len(x), rng), raw, progress.bounds.size))
            if measured:
                progress.end_epoch(measured, writer)
        return progress


def rewrite(writer: nn.Module, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Add the output of the network to images of 0..1."""
    return (x + writer(x)).clamp(0, 1)
