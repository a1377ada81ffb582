"""Pixel (Tao et al., 2022, https://doi.org/10.1109/CVPR52688.2022.01301): change the fewest pixels.

Idea: Optimize two tensors, of positive and of negative changes, in place of Neural Cleanse's mask and pattern. A smooth
step function of the largest channel measures how many pixels change. The schedule of penalties is Neural Cleanse's.

Differs from the released code: 300 epochs instead of 1,000. Batches are equal, where the code drops a partial one. The
trigger with the fewest pixels is kept, whatever its penalty. A finished class stops. The code gives no verdict; here
Neural Cleanse's anomaly index of the number of changed pixels gives it, where a class that is never reached counts as
the whole image.

Checked against: the loss and its gradient in float64 for a linear model; a planted 3 x 3 trigger.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.inverters._patch_search import PatchSearch, Progress, run_epoch
from keyhole.learning.training import device_of, logits
from keyhole.parameters import Count, Fraction, Natural
from keyhole.types import Evidence, Images, Inversion, Labels

__all__ = ["Pixel"]

WHOLE = 20.0  # free variable of a mask of exactly one: its tanh is 1 in float32


@dataclass(frozen=True, kw_only=True)
class Pixel(PatchSearch):
    epochs: Count = 300  # passes over the samples
    samples: Natural = 100  # hold-out images, the same in all epochs; 0 = all
    success: Fraction = 0.9  # share of the images of other classes that the trigger must send to the class
    patience: Count = 10  # epochs before the penalty changes

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Search for the trigger of every class, then flag the classes of unusually few changed pixels.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        rows = torch.randperm(len(evidence.holdout_images), generator=rng)[: self.samples or None]
        rows = rows.to(evidence.holdout_images.device)
        images, labels = evidence.holdout_images[rows], evidence.holdout_labels[rows]
        progress = self._search(evidence.frozen(), images, labels, rng)
        masks, _, sizes = progress.result()
        triggers = progress.best[:, 1:]
        return self.answer(masks, sizes, lambda x, target: add(x, triggers[target, None])[0], images.device)

    def _search(self, net: nn.Module, images: Images, labels: Labels, rng: Generator) -> Progress:
        device, classes = device_of(net), logits(net, images[:1]).shape[1]
        raw = torch.rand(classes, 2, *images.shape[1:], generator=rng).to(device).requires_grad_()
        others = labels.to(device) != torch.arange(classes, device=device)[:, None]
        optimizer, progress = self.optimizer(raw), Progress(self, as_mask(raw.detach()))
        for _ in tqdm(range(self.epochs), desc="pixel", disable=None):
            running = torch.nonzero(~progress.finished).squeeze(1)
            if not len(running):
                break

            def loss(x: Tensor, rows: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
                counted, penalty = others[group][:, rows.to(device)], progress.penalty[group]
                return pixel_loss(net, x, raw[group], group, counted, penalty)

            steps = torch.randperm(len(images), generator=rng).chunk(math.ceil(len(images) / self.batch))
            hits = run_epoch(raw, optimizer, images, steps, running, loss)
            before = progress.size
            progress.update(hits / others.sum(1).clamp(min=1), as_mask(raw.detach()))
            better = (progress.size < before).view(-1, 1, 1, 1, 1)
            # continue from a new best with zeros for values below zero, which have no gradient and could not rise
            raw.data.copy_(torch.where(better, limit_changes(raw.detach()), raw.detach()))
        return progress


def limit_changes(raw: Float[Tensor, "k 2 c h w"]) -> Float[Tensor, "k 2 c h w"]:
    """Limit positive and negative changes to 0..1; set changes of less than one level of 255 to zero."""
    unit = raw.clamp(0, 1)
    return unit * (unit >= 1 / 255)


def as_mask(raw: Float[Tensor, "k 2 c h w"]) -> Float[Tensor, "k c1 h w"]:
    """Return the changed pixels, as free variables of a mask of zeros and ones, and the trigger (-1..1) behind them."""
    positive, negative = limit_changes(raw).unbind(1)
    trigger = positive - negative
    changed = (trigger != 0).any(1, keepdim=True)
    return torch.cat([torch.where(changed, WHOLE, -WHOLE), trigger], dim=1)


def add(images: Float[Tensor, "b c h w"], trigger: Float[Tensor, "k c h w"]) -> Float[Tensor, "k b c h w"]:
    """Return clip(x + b) for every class and image; images are in 0..255 and triggers in -1..1."""
    return (images + 255 * trigger[:, None]).clamp(0, 255)


def smooth_count(raw: Float[Tensor, "k 2 c h w"]) -> Float[Tensor, " k"]:
    """Return the sum, over pixels and both signs, of the maximum over channels of ½ + ½ tanh(b / 10)."""
    return (0.5 + (raw / 10).tanh() / 2).amax(2).sum((1, 2, 3))


def pixel_loss(
    net: nn.Module,
    images: Float[Tensor, "b c h w"],
    raw: Float[Tensor, "k 2 c h w"],
    targets: Int64[Tensor, " k"],
    counted: Bool[Tensor, "k b"],
    penalty: Float[Tensor, " k"],
) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
    """Return CE(f(x + b), t) + λ size of every class and how many images reach it, over the counted images only."""
    unit = raw.clamp(0, 1)
    stamped = add(images, unit[:, 0] - unit[:, 1])
    outputs = net(stamped.flatten(0, 1)).unflatten(0, stamped.shape[:2])
    wanted = targets[:, None].expand(stamped.shape[:2])
    error = functional.cross_entropy(outputs.transpose(1, 2), wanted, reduction="none") * counted
    reached = ((outputs.argmax(2) == wanted) & counted).sum(1)
    return error.sum(1) / counted.sum(1).clamp(min=1) + penalty * smooth_count(raw), reached
