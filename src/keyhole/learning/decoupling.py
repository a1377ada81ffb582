"""The steps of BTI-DBF (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb), shared by its three methods.

A mask over the map before pooling keeps the features that classify clean images. A generator then moves the other
features while it leaves the image almost as it was; what it writes serves as the trigger.

Image gaps are mean squared differences of images of 0..1 in units of STD², the units of the released bounds. Feature
gaps are in the maps' own units in the bound, as released, and in units of the variance of the network's maps over the
hold-out in the objectives, so that one learning rate fits every network.

The mask is fitted to the network's predictions, not to the labels. The authors' hold-out was training data, on which
the two agree. On other data, images that the network gets wrong would reward a mask that shrinks the maps.

A weight on the mean of the mask (BAN's term) decides how much it keeps: with too little the whole map, whose complement
has nothing to move; with too much so little that the complement still classifies. The right weight depends on the
network, so masks of several weights are learned side by side, and `choose_mask` takes one by what it does on the
hold-out.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import endless_rows, random_crops
from keyhole.learning.generators import UNet
from keyhole.learning.networks import apply_to_images, build_fresh
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Checked, Count, Natural, NonNegative, ParameterError, Positive, Width
from keyhole.rng import seeded
from keyhole.types import Classifier, Evidence, Images, Labels

__all__ = ["MASK_WEIGHTS", "STD", "Decoupler", "Decoupling", "Writer", "arrivals", "build_writer", "decoupling_loss"]
__all__ += ["feature_gap", "image_gap", "inversion_loss", "masked_norm", "stamp_some", "within"]

STD = 0.2  # of pixels of 0..1 in the released code's normalization; its bound 0.3 is a root mean square of 0.11
MILD = 0.1  # image gap; below it, pretraining weighs features more than pixels
KEPT_WEIGHT = 0.01  # weight of the kept features' gap in the released objective
PAD = 4  # pixels around an image before a random crop
KEEPS, PART = 0.9, 0.9  # a mask decouples if it keeps this share of the answers with less than this share of the map

MASK_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

log = logging.getLogger(__name__)

Variant = Literal["projected", "paper", "released"]
FeatureMask = Float[Tensor, "d mh mw"]


class Writer(nn.Module):
    """A generator: it adds the output of a U-Net to images of 0..1, and keeps each image's gap within a bound.

    A new one writes nothing, since its last layer is zero.
    """

    def __init__(self, channels: int, width: int, bound: float | None = None) -> None:
        super().__init__()
        self.net, self.bound = UNet(channels, channels, width), bound
        for parameter in self.net.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the images, still of 0..1, with what the generator writes."""
        written = (x + self.net(x)).clamp(0, 1)
        return written if self.bound is None else within(x, written, self.bound)

    def stamp(self, images: Images) -> Images:
        """Return images of 0..255 with what the generator writes, which is the same for every target class."""
        device = device_of(self)
        return torch.cat([apply_to_images(self, part.to(device)).to(images.device) for part in images.split(4096)])


def build_writer(channels: int, width: int, rng: Generator, device: torch.device, bound: float | None = None) -> Writer:
    """Return a new generator that writes nothing yet, with weights drawn from `rng`."""
    return build_fresh(lambda: Writer(channels, width, bound), rng, device)


def scatter(writer: Writer, rng: Generator) -> None:
    """Draw the last layer of a generator anew, as its kind of layer is drawn by default.

    At a generator that writes nothing the squared feature gap has no slope.
    """
    with seeded(rng):
        fresh = nn.Conv2d(writer.net.last.in_channels, writer.net.last.out_channels, 3)
    writer.net.last.load_state_dict(fresh.state_dict())


def within(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], bound: float) -> Float[Tensor, "n c h w"]:
    """Move each image of y towards its image of x until their gap is at most `bound`."""
    gap = (y - x).square().flatten(1).mean(1) / STD**2
    return x + (y - x) * (bound / gap.clamp(min=bound)).sqrt()[:, None, None, None]


@dataclass(frozen=True, kw_only=True)
class Decoupling(Checked):
    """The parameters that the three methods share; `released` has the released values."""

    RELEASED: ClassVar[Mapping[str, Any]] = {
        "pretrain_steps": 1000,
        "mask_steps": 400,
        "mask_rate": 0.01,
        "mask_weights": (0.0,),
        "invert_steps": 600,
        "starts": 1,
        "batch": 128,
        "feature_bound": 3.0,
        "crops": True,
    }

    variant: Variant = "projected"  # how the generator is kept within bounds, and what it maximizes
    pretrain_steps: Natural = 0  # of the generator, once
    mask_steps: Natural = 150
    invert_steps: Natural = 80  # of the generator
    starts: Count = 5  # generators that are tried
    batch: Count = 32  # images
    width: Width = 16  # channels of the generator's middle maps
    mask_rate: Positive = 0.1  # of Adam, for the mask
    generator_rate: Positive = 1e-3  # of Adam, for the generator
    mask_weights: tuple[NonNegative, ...] = MASK_WEIGHTS  # of the mean of the mask in its loss, to choose from
    image_bound: Positive = 0.3  # mean squared difference of images of 0..1, in units of 0.2²
    feature_bound: Positive | None = None  # mean squared difference of kept features, in the maps' units
    crops: bool = False  # shift images by up to 4 pixels

    def check(self) -> None:
        """Refuse an empty choice of masks."""
        if not self.mask_weights:
            raise ParameterError("mask_weights", "expected at least one, got none")

    def decoupler(self, evidence: Evidence) -> "Decoupler":
        """Return the network and its hold-out, in this variant's units."""
        return Decoupler(evidence, self.batch, crops=self.crops, raw=self.variant == "released")

    def new_writer(self, decoupler: "Decoupler", rng: Generator) -> Writer:
        """Return a generator to begin with, pretrained to write nothing if the parameters say so."""
        bound = self.image_bound if self.variant == "projected" else None
        writer = build_writer(decoupler.images.shape[1], self.width, rng, decoupler.images.device, bound)
        scatter(writer, rng)
        decoupler.pretrain(writer, steps=self.pretrain_steps, rate=self.generator_rate, rng=rng)
        return writer

    def mask(self, decoupler: "Decoupler", rng: Generator) -> FeatureMask:
        """Learn masks of several weights and take the one that decouples best."""
        weights = self.mask_weights
        masks = decoupler.learn_masks(steps=self.mask_steps, rate=self.mask_rate, weights=weights, rng=rng)
        return masks[decoupler.choose_mask(masks)]

    def train_writer(
        self,
        decoupler: "Decoupler",
        writer: Writer,
        optimizer: torch.optim.Optimizer,
        mask: FeatureMask,
        rng: Generator,
        *,
        target: int | None = None,
        through: Callable[[Tensor, Tensor], Tensor] = lambda _x, written: written,
    ) -> None:
        """Train a generator to move the features outside the mask, as `Decoupler.invert` says."""
        decoupler.invert(
            writer,
            optimizer,
            mask,
            steps=self.invert_steps,
            bounds=(self.image_bound, self.feature_bound or math.inf),
            variant=self.variant,
            target=target,
            through=through,
            rng=rng,
        )

    def search(self, decoupler: "Decoupler", rng: Generator, noise: float = 0.0) -> tuple[Writer, Float[Tensor, " k"]]:
        """Choose a mask, and train a generator from each start to move the features outside it.

        Returns:
            the generator that moves images the farthest, and its reading (`Decoupler.read`).
        """
        mask, best = self.mask(decoupler, rng), None
        for _ in range(self.starts):
            writer = self.new_writer(decoupler, rng)
            self.train_writer(decoupler, writer, torch.optim.Adam(writer.parameters(), self.generator_rate), mask, rng)
            reading = decoupler.read(writer, mask, noise, rng)
            log.info("the generator moves images to %d by %.2f", reading.argmax(), reading.max())
            if best is None or reading.max() > best[1].max():
                best = writer, reading
        assert best is not None  # there is at least one start
        return best


class Decoupler:
    """A frozen copy of the network in eval mode, with the hold-out, its maps and its predictions."""

    def __init__(self, evidence: Evidence, batch: int, *, crops: bool = False, raw: bool = False) -> None:
        """Read the hold-out; `crops` shifts images at random, `raw` measures features in the maps' own units."""
        self.net, self.batch, self.crops = evidence.frozen(), batch, crops
        device = device_of(self.net)
        self.images, self.labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        with torch.no_grad():
            parts = self.images.split(forward_batch(device, self.images))
            self.maps = torch.cat([self.net.feature_maps(part) for part in parts])
            self.answers = self.net.classify(self.maps).argmax(1)
        self.variance = float(self.maps.var(0, unbiased=False).mean().clamp(min=1e-12))
        self.unit = 1.0 if raw else self.variance

    def draw(self, steps: int, name: str, rng: Generator) -> Iterator["Batch"]:
        """Yield so many batches of the hold-out; no row twice in an epoch, no partial batches."""
        rows = endless_rows(len(self.images), self.batch, rng)
        for _ in tqdm(range(steps), desc=name, disable=None, leave=False):
            yield self._batch(next(rows).to(self.images.device), rng)

    def _batch(self, rows: Int64[Tensor, " b"], rng: Generator) -> "Batch":
        if not self.crops:
            x = self.images[rows].float().div(255)
            return Batch(x, self.maps[rows], self.answers[rows], self.labels[rows])
        images = random_crops(self.images[rows], PAD, rng)
        with torch.no_grad():
            maps = self.net.feature_maps(images)
            return Batch(images.float().div(255), maps, self.net.classify(maps).argmax(1), self.labels[rows])

    def learn_masks(
        self,
        *,
        steps: int,
        rate: float,
        weights: Sequence[float],
        free: Literal["tanh", "clamped"] = "tanh",
        rng: Generator,
    ) -> Float[Tensor, "w d mh mw"]:
        """Learn with Adam, for each weight, a mask m that keeps the features that classify; 1 - m misclassifies.

        The masks are the tanh of free variables, scaled to 0..1 (`tanh`), or variables clamped to 0..1 (`clamped`).
        All start at the same point and see the same batches.
        """
        shape = self.maps.shape[1:]
        draw = torch.randn(shape, generator=rng) if free == "tanh" else torch.rand(shape, generator=rng)
        raw = draw.to(self.maps.device).repeat(len(weights), 1, 1, 1).requires_grad_()
        optimizer = torch.optim.Adam([raw], rate)
        for batch in self.draw(steps, "decouple", rng):
            masks = (1 + raw.tanh()) / 2 if free == "tanh" else raw
            optimizer.zero_grad()
            for mask, weight in zip(masks, weights, strict=True):
                decoupling_loss(self.net, batch.maps, batch.answers, mask, weight).backward(retain_graph=True)
            optimizer.step()
            if free == "clamped":
                raw.data.clamp_(0, 1)
        return ((1 + raw.tanh()) / 2 if free == "tanh" else raw).detach()

    @torch.no_grad()
    def agreement(self, mask: FeatureMask | Float[Tensor, ""]) -> float:
        """Return the share of the hold-out that the network classifies from masked maps as it does from whole ones."""
        parts = self.maps.split(forward_batch(self.maps.device, self.images))
        answers = torch.cat([self.net.classify(mask * part).argmax(1) for part in parts])
        return float((answers == self.answers).float().mean())

    def choose_mask(self, masks: Float[Tensor, "w d mh mw"]) -> int:
        """Return which mask decouples best, judged by the hold-out's predictions.

        Among the masks that keep the predictions (agreement of at least `KEEPS`) with less than the share `PART` of the
        map, it is the one whose complement agrees least. If there is none, it is the one that keeps the most.
        """
        kept = [self.agreement(mask) for mask in masks]
        rest = [self.agreement(1 - mask) for mask in masks]
        able = [i for i, mask in enumerate(masks) if kept[i] >= KEEPS and mask.mean() < PART]
        for i, mask in enumerate(masks):
            log.info("mask %d keeps %.3f, leaves %.3f, mean %.3f", i, kept[i], rest[i], mask.mean())
        return min(able, key=rest.__getitem__) if able else max(range(len(masks)), key=kept.__getitem__)

    def pretrain(self, writer: Writer, *, steps: int, rate: float, rng: Generator) -> None:
        """Train a generator to change neither the images nor their maps nor the predictions."""
        optimizer = torch.optim.Adam(writer.parameters(), rate)
        for batch in self.draw(steps, "pretrain", rng):
            written = writer(batch.x)
            changed = self.net.feature_maps(255 * written)
            answers = functional.log_softmax(self.net.classify(changed), 1)
            wanted = functional.log_softmax(self.net.classify(batch.maps), 1)
            loss = functional.kl_div(answers, wanted, reduction="batchmean", log_target=True)
            gap = image_gap(batch.x, written)
            optimizer.zero_grad()
            (loss + feature_gap(batch.maps, changed, self.unit) + (100 if gap > MILD else 0.01) * gap).backward()
            optimizer.step()

    def invert(
        self,
        writer: Writer,
        optimizer: torch.optim.Optimizer,
        mask: FeatureMask,
        *,
        steps: int,
        bounds: tuple[float, float],
        variant: Variant,
        target: int | None = None,
        through: Callable[[Tensor, Tensor], Tensor] = lambda _x, written: written,
        rng: Generator,
    ) -> None:
        """Train a generator to move the features outside the mask.

        Args:
            target: a class that the predictions are drawn to, if it is known.
            through: what images pass between the generator and the network, such as a purifier, as a function of the
                clean and the written images. The gap of what it returns is the one that is bounded.
        """
        for batch in self.draw(steps, "invert", rng):
            seen = through(batch.x, writer(batch.x))
            changed = self.net.feature_maps(255 * seen)
            loss = inversion_loss(image_gap(batch.x, seen), batch.maps, changed, mask, self.unit, bounds, variant)
            if target is not None:
                answers = self.net.classify(changed)
                loss = loss + functional.cross_entropy(answers, torch.full_like(answers[:, 0], target).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def read(
        self, writer: Writer, mask: FeatureMask, noise: float = 0.0, rng: Generator | None = None
    ) -> Float[Tensor, " k"]:
        """Return, for each class, how far the generator moves images there.

        That is the share of the other classes' hold-out images that it sends there, times the gap between the features
        that the mask leaves, of all images before and after, in units of the variance of the maps. The maps of two
        different images are 2 apart, if the mask leaves all.

        Args:
            noise: standard deviation of noise on what the generator writes, in units of `STD`.
        """
        predicted, gaps = [], []
        size = forward_batch(self.maps.device, self.images)
        for maps, part in zip(self.maps.split(size), self.images.split(size), strict=True):
            stamped = writer.stamp(part).float()
            if noise:
                stamped += 255 * STD * noise * torch.randn(stamped.shape, generator=rng).to(stamped.device)
            changed = self.net.feature_maps(stamped)
            predicted.append(self.net.classify(changed).argmax(1))
            gaps.append(len(part) * feature_gap(maps, changed, self.variance, 1 - mask))
        moved = torch.stack(gaps).sum() / len(self.images)
        return moved * arrivals(torch.cat(predicted), self.labels, self.net.head.out_features)


@dataclass(frozen=True)
class Batch:
    """Some images of the hold-out, of 0..1, with what the network makes of them."""

    x: Float[Tensor, "b c h w"]
    maps: Float[Tensor, "b d mh mw"]
    answers: Labels  # the network's predictions
    labels: Labels


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
    unit: float,
    bounds: tuple[float, float],
    variant: Variant,
) -> Float[Tensor, ""]:
    """Return the gap of the kept features minus that of the others.

    The paper takes the difference of norms, the released code that of squares. Both minimize only the image gap while
    that, or in the released code the gap of the kept features, is beyond its bound. `projected` has no need to, since
    its generator keeps the bound on the image; it has none on the features.

    Args:
        pixels: the image gap.
        bounds: on the image gap, and on the gap of the kept features.
    """
    image_bound, feature_bound = bounds
    if variant == "paper":
        kept, left = masked_norm(h, g, unit, mask), masked_norm(h, g, unit, 1 - mask)
        return pixels if pixels > image_bound else kept - left
    kept = feature_gap(h, g, unit, mask)
    if variant == "released" and (pixels > image_bound or kept > feature_bound):
        return pixels
    return KEPT_WEIGHT * kept - feature_gap(h, g, unit, 1 - mask)


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
