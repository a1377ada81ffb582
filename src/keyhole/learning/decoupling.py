"""The steps of BTI-DBF (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb), shared by its three methods.

A mask over the map before pooling keeps the features that classify clean images. A generator then changes the other
features while it leaves the image and the masked features almost as they were; what it writes serves as the trigger.

Image distances are mean squared differences of images of 0..1 in units of STD², the units of the released bounds.
Feature distances are in units of the variance of the network's maps over the hold-out, so that one bound fits every
network.

The mask is fitted to the network's predictions, not to the labels. The authors' hold-out was training data, on which
the two agree. On other data, images that the network gets wrong would reward a mask that shrinks the maps.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import epoch_rows
from keyhole.learning.generators import UNet
from keyhole.learning.networks import apply_to_images, build_fresh
from keyhole.learning.training import device_of, forward_batch, predict
from keyhole.types import Classifier, Evidence, Images, Labels

__all__ = ["STD", "Decoupler", "Writer", "arrivals", "build_writer", "decoupling_loss", "feature_gap", "image_gap"]
__all__ += ["inversion_loss", "masked_norm", "stamp_some"]

STD = 0.2  # of pixels of 0..1 in the released code's normalization; its bound 0.3 is a root mean square of 0.11
MILD = 0.1  # image gap; below it, pretraining weighs features more than pixels
KEPT_WEIGHT = 0.01  # weight of the kept features' gap in the released objective

Variant = Literal["paper", "released"]
FeatureMask = Float[Tensor, "d mh mw"]


class Writer(nn.Module):
    """A generator: it adds the output of a U-Net to images of 0..1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.net = UNet(channels, channels, width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the images, still of 0..1, with what the generator writes."""
        return (x + self.net(x)).clamp(0, 1)

    def stamp(self, images: Images) -> Images:
        """Return images of 0..255 with what the generator writes, which is the same for every target class."""
        device = device_of(self)
        return torch.cat([apply_to_images(self, part.to(device)).to(images.device) for part in images.split(4096)])


def build_writer(channels: int, width: int, rng: Generator, device: torch.device) -> Writer:
    """Return a new generator with weights drawn from `rng`."""
    return build_fresh(lambda: Writer(channels, width), rng, device)


class Decoupler:
    """A frozen copy of the network in eval mode, with the hold-out, its maps and its predictions."""

    def __init__(self, evidence: Evidence, batch: int) -> None:
        self.net, self.batch = evidence.frozen(), batch
        device = device_of(self.net)
        self.images, self.labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        with torch.no_grad():
            parts = self.images.split(forward_batch(device))
            self.maps = torch.cat([self.net.feature_maps(part) for part in parts])
            self.answers = self.net.classify(self.maps).argmax(1)
        self.variance = float(self.maps.var(0, unbiased=False).mean().clamp(min=1e-12))

    def draw_rows(self, epochs: int, name: str, rng: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield batches of hold-out rows; no row twice in an epoch, no partial batches."""
        for _ in tqdm(range(epochs), desc=name, disable=None, leave=False):
            for rows in epoch_rows(len(self.images), self.batch, rng):
                yield rows.to(self.images.device)

    def learn_mask(
        self, *, epochs: int, rate: float, weight: float, free: Literal["tanh", "clamped"] = "tanh", rng: Generator
    ) -> FeatureMask:
        """Learn with Adam a mask m that keeps the features that classify, so that 1 - m misclassifies.

        The mask is the tanh of free variables, scaled to 0..1 (`tanh`), or variables clamped to 0..1 (`clamped`).
        """
        shape = self.maps.shape[1:]
        draw = torch.randn(shape, generator=rng) if free == "tanh" else torch.rand(shape, generator=rng)
        raw = draw.to(self.maps.device).requires_grad_()
        optimizer = torch.optim.Adam([raw], rate)
        for rows in self.draw_rows(epochs, "decouple", rng):
            mask = (1 + raw.tanh()) / 2 if free == "tanh" else raw
            optimizer.zero_grad()
            decoupling_loss(self.net, self.maps[rows], self.answers[rows], mask, weight).backward()
            optimizer.step()
            if free == "clamped":
                raw.data.clamp_(0, 1)
        return ((1 + raw.tanh()) / 2 if free == "tanh" else raw).detach()

    def pretrain(self, writer: Writer, *, epochs: int, rate: float, rng: Generator) -> None:
        """Train a generator to change neither the images nor their maps nor the predictions."""
        optimizer = torch.optim.Adam(writer.parameters(), rate)
        for rows in self.draw_rows(epochs, "pretrain", rng):
            x, maps = self.images[rows].float().div(255), self.maps[rows]
            written = writer(x)
            changed = self.net.feature_maps(255 * written)
            answers = functional.log_softmax(self.net.classify(changed), 1)
            wanted = functional.log_softmax(self.net.classify(maps), 1)
            loss = functional.kl_div(answers, wanted, reduction="batchmean", log_target=True)
            gap = image_gap(x, written)
            optimizer.zero_grad()
            (loss + feature_gap(maps, changed, self.variance) + (100 if gap > MILD else 0.01) * gap).backward()
            optimizer.step()

    def invert(
        self,
        writer: Writer,
        optimizer: torch.optim.Optimizer,
        mask: FeatureMask,
        *,
        epochs: int,
        bounds: tuple[float, float],
        variant: Variant,
        target: int | None = None,
        through: Callable[[Tensor], Tensor] = lambda x: x,
        rng: Generator,
    ) -> None:
        """Train a generator to change the features outside the mask, within bounds on image and kept features.

        Args:
            target: a class that the predictions are drawn to, if it is known.
            through: what images pass between the generator and the network, such as a purifier.
        """
        for rows in self.draw_rows(epochs, "invert", rng):
            x, maps = self.images[rows].float().div(255), self.maps[rows]
            written = writer(x)
            changed = self.net.feature_maps(255 * through(written))
            loss = inversion_loss(image_gap(x, written), maps, changed, mask, self.variance, bounds, variant)
            if target is not None:
                answers = self.net.classify(changed)
                loss = loss + functional.cross_entropy(answers, torch.full_like(answers[:, 0], target).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def shares_sent(self, writer: Writer) -> Float[Tensor, " k"]:
        """Return, for each class, the share of the other classes' hold-out images that the generator sends there."""
        classes = self.net.head.out_features
        return arrivals(predict(self.net, writer.stamp(self.images)), self.labels, classes)


def decoupling_loss(
    net: Classifier, maps: Float[Tensor, "n d mh mw"], labels: Labels, mask: FeatureMask, weight: float
) -> Float[Tensor, ""]:
    """Return CE(g(m h), y) - CE(g((1 - m) h), y) + weight · mean(m), with y the network's predictions.

    The last term is BAN's.
    """
    kept = functional.cross_entropy(net.classify(mask * maps), labels)
    left = functional.cross_entropy(net.classify((1 - mask) * maps), labels)
    return kept - left + weight * mask.mean()


def image_gap(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Return the mean squared difference of images of 0..1, in units of STD²."""
    return functional.mse_loss(x, y) / STD**2


def feature_gap(
    h: Float[Tensor, "n d mh mw"], g: Float[Tensor, "n d mh mw"], variance: float, mask: FeatureMask | float = 1.0
) -> Float[Tensor, ""]:
    """Return the mean squared difference of masked maps, in units of `variance`."""
    return (mask * (h - g)).square().mean() / variance


def masked_norm(
    h: Float[Tensor, "n d mh mw"], g: Float[Tensor, "n d mh mw"], variance: float, mask: FeatureMask
) -> Float[Tensor, ""]:
    """Return the mean norm of the masked difference of two maps, in units of the norm of a map with `variance`."""
    length = torch.linalg.vector_norm((mask * (h - g)).flatten(1), dim=1)
    return length.mean() / (variance * mask.numel()) ** 0.5


def inversion_loss(
    pixels: Float[Tensor, ""],
    h: Float[Tensor, "n d mh mw"],
    g: Float[Tensor, "n d mh mw"],
    mask: FeatureMask,
    variance: float,
    bounds: tuple[float, float],
    variant: Variant,
) -> Float[Tensor, ""]:
    """Return the gap of the kept features minus that of the others; outside the bounds, only the image gap.

    The paper takes the difference of norms, the released code that of squares. `bounds` holds a bound on the image gap
    and one on the gap of the kept features, which only the released code uses.
    """
    image_bound, feature_bound = bounds
    if variant == "paper":
        return (
            pixels
            if pixels > image_bound
            else masked_norm(h, g, variance, mask) - masked_norm(h, g, variance, 1 - mask)
        )
    kept = feature_gap(h, g, variance, mask)
    if pixels > image_bound or kept > feature_bound:
        return pixels
    return KEPT_WEIGHT * kept - feature_gap(h, g, variance, 1 - mask)


def arrivals(predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], classes: int) -> Float[Tensor, " k"]:
    """Return, for each class, the share of the other classes' images that are predicted as it."""
    k = torch.arange(classes, device=labels.device)
    others = labels[:, None] != k
    return (others & (predicted[:, None] == k)).sum(0) / others.sum(0).clamp(min=1)


def stamp_some(x: Float[Tensor, "n c h w"], writer: Writer, share: float, rng: Generator) -> Float[Tensor, "n c h w"]:
    """Stamp a share of the images of a batch, drawn at random, with what the generator writes.

    At least one image is stamped.
    """
    rows = torch.randperm(len(x), generator=rng)[: int(share * len(x)) + 1].to(x.device)
    with torch.no_grad():
        return x.index_copy(0, rows, writer(x[rows]))
