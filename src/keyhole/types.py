"""The arrays that stages pass to each other, with their shapes, and the network that they are about.

Letters: n rows, r payload rows, v cover rows, p poisoned rows (payload and cover), k classes, m hold-out images, c h w
the channels, height and width of an image, d features. Images are uint8 in NCHW order, 0..255; only models turn them
into floats.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

Images = UInt8[Tensor, "n c h w"]
Labels = Int64[Tensor, " n"]
Rows = Int64[Tensor, " r"]
Cover = Int64[Tensor, " v"]  # row numbers of the cover, where `Rows` are those of the payload
Mask = Bool[Tensor, " n"]

# What a defense may be told beyond the data that every defender has; every table prints it.
Told = Literal["holdout", "poison_rate", "target_class", "payload"]


@dataclass(frozen=True)
class Poisoned:
    """The rows of a training set that an attack changes; all other rows stay as they are."""

    index: Int64[Tensor, " p"]  # row numbers in the clean training set, ascending
    images: UInt8[Tensor, "p c h w"]
    labels: Int64[Tensor, " p"]
    is_cover: Bool[Tensor, " p"]  # the row has a trigger but keeps its true label

    def apply(self, images: Images, labels: Labels) -> tuple[Images, Labels]:
        """Return the training set as the victim receives it: copies of the clean set with these rows replaced."""
        images, labels = images.clone(), labels.clone()
        images[self.index] = self.images.to(images.device)
        labels[self.index] = self.labels.to(labels.device)
        return images, labels


@dataclass(frozen=True)
class Recovered:
    """The trigger that an inverter recovered, as a later defense gets it."""

    images: UInt8[Tensor, "m c h w"]  # the first m hold-out images, with the recovered trigger of the class `target`
    target: int  # the class with the highest anomaly
    flagged: bool  # whether the inverter takes it for a target class


class Classifier(nn.Module):
    """A network from images of 0..255 to logits; images are uint8, or float where a defense needs gradients."""

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Mapping[str, nn.Module], head: nn.Linear, channels: int) -> None:
        """Join `stages`, in order, and `head`; the last stage is called `penultimate` and returns (n, d)."""
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((channels, 1, 1), 0.25))
        self.stages = nn.ModuleDict(stages)
        self.head = head

    @property
    def level_names(self) -> tuple[str, ...]:
        """The names of the levels, first to last."""
        return tuple(self.stages)

    def normalize(self, images: Tensor) -> Float[Tensor, "n c h w"]:
        """Scale images of 0..255 to 0..1, then standardize each channel."""
        x = images.to(self.mean.dtype).div(255).sub(self.mean).div(self.std)
        return x.contiguous(memory_format=torch.channels_last)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations at each level, (n, c, h, w) or (n, d), by name and first to last."""
        x, activations = self.normalize(images), {}
        for name, stage in self.stages.items():
            x = activations[name] = stage(x)
        return activations

    def forward(self, images: Tensor) -> Float[Tensor, "n k"]:
        """Return the logits of images of 0..255."""
        return self.classify(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the last level before `penultimate`, which pools and flattens it, as (n, d, h, w)."""
        x = self.normalize(images)
        for stage in list(self.stages.values())[:-1]:
            x = stage(x)
        return x

    def classify(self, maps: Tensor) -> Float[Tensor, "n k"]:
        """Return the logits that the rest of the network gives for feature maps."""
        return self.head(list(self.stages.values())[-1](maps))

    def fit_statistics(self, images: Images) -> None:
        """Set what an architecture derives from data before training: by default the mean and std of channels."""
        pixels = images.float().div(255)
        self.mean.copy_(pixels.mean((0, 2, 3)).view_as(self.mean))
        self.std.copy_(pixels.std((0, 2, 3)).clamp(min=1e-3).view_as(self.std))


@dataclass(frozen=True)
class Evidence:
    """Everything a defender may look at: never which rows are poisoned, never the test set."""

    net: Classifier
    images: Images  # the training set as the victim received it
    labels: Labels
    latents: dict[str, Float[Tensor, "n d"]]  # level -> activations, in eval mode and without augmentation
    holdout_images: UInt8[Tensor, "m c h w"]  # the defender's clean images, disjoint from the training and test sets
    holdout_labels: Int64[Tensor, " m"]
    recovered: Recovered | None = None  # only for a method that runs after an inverter

    def frozen(self) -> Classifier:
        """Return a copy of the network in eval mode, without gradients."""
        return self.copy().eval().requires_grad_(False)

    def copy(self) -> Classifier:
        """Return a copy of the network that may be trained."""
        return copy.deepcopy(self.net)

    def require_holdout(self, images: int = 1) -> None:
        """Refuse a hold-out with fewer clean images than the method needs.

        Raises:
            ValueError: the hold-out is smaller.
        """
        if (count := len(self.holdout_images)) < images:
            wanted = f"at least {images} hold-out images" if images > 1 else "hold-out images"
            raise ValueError(f"expected {wanted} (config key `holdout`), got {count}")


@dataclass(frozen=True)
class Suspicion:
    """The answer of a detector or filter for each row."""

    scores: Float[Tensor, " n"]  # higher = more suspicious
    flagged: Bool[Tensor, " n"]  # by the rule that the method's authors published
    remarks: Mapping[str, float] = field(default_factory=dict)  # columns of a detector's card on how it decided


@dataclass(frozen=True)
class Inversion:
    """The answer of an inverter for each class."""

    masks: Float[Tensor, "k h w"]  # 0..1; all ones if the method's trigger has no mask in the image
    anomaly: Float[Tensor, " k"]  # higher = more likely the target class
    flagged: Bool[Tensor, " k"]  # none: the inverter takes the model for clean
    stamp: Callable[[Images, int], Images] | None  # puts the trigger of a class on images; None: none is recovered
