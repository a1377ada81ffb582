"""The arrays that stages pass to each other, with their shapes.

Letters: n rows, r payload rows, v cover rows, p poisoned rows (payload and cover), k classes, m hold-out images, c h w
the channels, height and width of an image, d features. Images are uint8 in NCHW order, 0..255; only models turn them
into floats.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

if TYPE_CHECKING:
    from keyhole.models import Classifier
else:  # at run time `keyhole.models` imports this module, and tests pass plain modules for networks
    Classifier = nn.Module

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


@dataclass(frozen=True)
class Inversion:
    """The answer of an inverter for each class."""

    masks: Float[Tensor, "k h w"]  # 0..1; all ones if the method's trigger has no mask in the image
    anomaly: Float[Tensor, " k"]  # higher = more likely the target class
    flagged: Bool[Tensor, " k"]  # none: the inverter takes the model for clean
    stamp: Callable[[Images, int], Images] | None  # puts the trigger of a class on images; None: none is recovered
