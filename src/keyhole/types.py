"""The arrays that pass between stages, with their shapes.

Letters: n rows, r and v some of them, p poisoned rows, k classes, m hold-out images, c h w an image, d features.
Images are uint8 NCHW, 0..255; only a model turns them into floats.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

if TYPE_CHECKING:
    from keyhole.models import Classifier
else:  # models import this module; their tests' stand-ins are plain modules
    Classifier = nn.Module

Images = UInt8[Tensor, "n c h w"]
Labels = Int64[Tensor, " n"]
Rows = Int64[Tensor, " r"]
Cover = Int64[Tensor, " v"]  # the rows of cover, beside `Rows` of payload
Mask = Bool[Tensor, " n"]

# What a defense may be given beyond the data every defender has; printed in every table.
Told = Literal["holdout", "poison_rate", "target_class", "payload"]


@dataclass(frozen=True)
class Poisoned:
    """What an attack changes in a training set; every other row stays as it was."""

    index: Int64[Tensor, " p"]  # rows of the clean training set, ascending
    images: UInt8[Tensor, "p c h w"]
    labels: Int64[Tensor, " p"]
    is_cover: Bool[Tensor, " p"]  # trigger present, true label kept

    def apply(self, images: Images, labels: Labels) -> tuple[Images, Labels]:
        """The training set as the victim receives it; the clean set is left as it is."""
        images, labels = images.clone(), labels.clone()
        images[self.index] = self.images.to(images.device)
        labels[self.index] = self.labels.to(labels.device)
        return images, labels


@dataclass(frozen=True)
class Recovered:
    """What an inverter found, as a later defense gets it."""

    images: UInt8[Tensor, "m c h w"]  # the hold-out, from its first row on, with the trigger of the class below
    target: int  # the class of the highest anomaly
    flagged: bool  # whether the inverter believes that it is a target


@dataclass(frozen=True)
class Evidence:
    """Everything a defender may look at; never the truth, never the test set."""

    net: Classifier
    images: Images  # the training set as received
    labels: Labels
    latents: dict[str, Float[Tensor, "n d"]]  # level name -> activations, eval mode, no augmentation
    holdout_images: UInt8[Tensor, "m c h w"]  # the defender's clean images, disjoint from train and test
    holdout_labels: Int64[Tensor, " m"]
    recovered: Recovered | None = None  # for a method that follows an inverter

    def frozen(self) -> Classifier:
        """Return a copy of the network in eval mode, without gradients."""
        return self.copy().eval().requires_grad_(False)

    def copy(self) -> Classifier:
        """Return a copy of the network that may be trained."""
        return copy.deepcopy(self.net)

    def require_holdout(self, images: int = 1) -> None:
        """Stop a method that cannot work with fewer clean images.

        Raises:
            ValueError: the hold-out is smaller.
        """
        if (count := len(self.holdout_images)) < images:
            wanted = f"at least {images} hold-out images" if images > 1 else "hold-out images"
            raise ValueError(f"expected {wanted} (config key `holdout`), got {count}")


@dataclass(frozen=True)
class Suspicion:
    """A detector's or a filter's answer, row by row."""

    scores: Float[Tensor, " n"]  # higher = more suspicious
    flagged: Bool[Tensor, " n"]  # by the method's own published rule


@dataclass(frozen=True)
class Inversion:
    """An inverter's answer, class by class."""

    masks: Float[Tensor, "k h w"]  # 0..1; ones where a method has no mask in the image
    anomaly: Float[Tensor, " k"]  # higher = more likely the target class
    flagged: Bool[Tensor, " k"]  # all False = "this model is clean"
    stamp: Callable[[Images, int], Images] | None  # images with the trigger of a class; None: none is recovered
