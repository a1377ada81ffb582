"""Attacks: what is changed in a training set, and what then triggers the backdoor. One method a file."""

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor, nn

from keyhole import rng
from keyhole.parameters import Checked, Count, Natural, Setting
from keyhole.types import Cover, Images, Labels, Mask, Poisoned, Rows

__all__ = ["Attack", "Tensors", "class_count"]


class Tensors(dict[str, Tensor]):
    """Learned tensors by name; two are equal if all values are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict) or self.keys() != other.keys():
            return False
        return all(torch.equal(value, other[name]) for name, value in self.items())

    __hash__ = None  # type: ignore[assignment]


def class_count(labels: Labels) -> int:
    """Number of classes of a whole training set, whose labels run from 0."""
    return int(labels.max()) + 1


@dataclass(frozen=True, kw_only=True)
class Attack(Checked, ABC):
    """Write `apply_trigger`, done; override only what the paper changes.

    With `label_map`, every dirty-label attack becomes a family: `all_to_one` gives all payload `target_class`,
    `all_to_all` gives class y the label y + 1 (the last class the first), `multi_target` spreads the classes over
    `targets` labels from `target_class` on, class y to the one of number y modulo `targets`.

    Differs from Qi et al.'s code: payload and cover are drawn among the rows of other classes only. Drawn over all
    classes, 1/K of the payload would carry its true label, and 1/K of the cover would act as payload.
    """

    controls: ClassVar[Literal["clean-label", "dirty-label", "training"]] = "dirty-label"
    paper_asr: ClassVar[float | None] = None  # ASR in the method's own paper, where it stays below the general bar
    paper_rate: ClassVar[float] = 0.003  # poison rate where the configuration gives none
    bound_to_rows: ClassVar[bool] = False  # to those of the training set, so that no attack can go over it
    crafted_from: ClassVar[Literal["nothing", "data", "surrogate"]] = "nothing"  # what `craft` works with
    learns_trigger: ClassVar[bool] = False  # while the victim is trained

    target_class: Natural = 0
    label_map: Literal["all_to_one", "all_to_all", "multi_target"] = "all_to_one"
    targets: Count = 2  # labels of `multi_target`

    # what `craft` or `train` learned, no parameter; empty for a fixed trigger
    tensors: Tensors = field(default_factory=Tensors, init=False, repr=False, hash=False)

    def check_setting(self, setting: Setting) -> None:
        """Try the trigger on blank images: a patch may be too large, a picture missing.

        A trigger that has yet to be learned cannot be tried.
        """
        if self.crafted_from == "nothing" and not self.learns_trigger:
            images, stream = torch.zeros(2, *setting.shape, dtype=torch.uint8), rng.stream("check")
            self.plant_cover(self.plant(images, stream), stream)
            self.apply_trigger(images, stream)

    @property
    def cover_ratio(self) -> float:
        """Cover rows per payload row."""
        return 0.0

    def files(self) -> tuple[str, ...]:
        """Return the user's own files that the trigger is read from; an edit of one makes the attack anew."""
        return ()

    def equipped(self, tensors: dict[str, Tensor]) -> "Attack":
        """Return a copy of this attack that answers with learned tensors."""
        attack = copy.copy(self)
        object.__setattr__(attack, "tensors", Tensors(tensors))
        return attack

    @abstractmethod
    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        """Images with the test-time trigger; the inputs are not modified."""

    def plant(self, images: Images, rng: Generator) -> Images:
        """Images with the training-time trigger, in ascending order of their rows."""
        return self.apply_trigger(images, rng)

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        """Images with what cover rows get, in ascending order of their rows; by default the payload's trigger."""
        return self.plant(images, rng)

    def choose(self, labels: Labels, classes: int, rng: Generator) -> Rows:
        """All rows that may be payload, in the order in which they are taken."""
        own = labels == self.target_class
        wanted = own if self.controls == "clean-label" else self.eligible(labels, classes)
        rows = torch.nonzero(wanted).squeeze(1)
        return rows[torch.randperm(len(rows), generator=rng)]

    def choose_cover(self, labels: Labels, payload_order: Rows, rng: Generator) -> Cover:
        """All rows that may be cover, in the order in which they are taken; by default from the payload's far end."""
        return payload_order.flip(0)

    def relabel(self, labels: Labels, classes: int) -> Labels:
        """The label that a payload row gets, and that a triggered test row should get; `classes` of the data set."""
        if self.label_map == "all_to_all":
            return (labels + 1) % classes
        if self.label_map == "multi_target":
            return (self.target_class + labels % self.targets) % classes
        return torch.full_like(labels, self.target_class)

    def eligible(self, labels: Labels, classes: int) -> Mask:
        """Test rows on which ASR is measured: those whose label the trigger would change."""
        return self.relabel(labels, classes) != labels

    def target_classes(self, classes: int) -> tuple[int, ...]:
        """The labels that the trigger leads to, ascending."""
        labels = torch.arange(classes)
        return tuple(self.relabel(labels, classes)[self.eligible(labels, classes)].unique().tolist())

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        """Tensors learned from the clean training set before poisoning, the same for every rate: hardened images, a
        generator's weights. They are given back through `equipped`, and saved beside the victim.

        Args:
            surrogate: a network that the attacker trained on the clean set, where `crafted_from` is `surrogate`.
        """
        return {}

    def poison(self, images: Images, labels: Labels, rate: float, rng: Generator) -> Poisoned:
        """The poisoned rows at `rate` = payload rows / all training rows (rounded down, as Qi et al. do).

        Raises:
            ValueError: there are fewer rows to choose from than the rate and its cover ask for.
        """
        payload = math.floor(rate * len(labels) + 1e-9)
        wanted = round(payload * self.cover_ratio)
        rows, cover = self.draw_rows(labels, payload, wanted, class_count(labels), rng)
        if len(rows) < payload or len(cover) < wanted:
            raise ValueError(
                f"expected at least {payload} + {wanted} rows to take payload and cover from at rate {rate:g}, "
                f"got {len(rows)} + {len(cover)} (target_class {self.target_class}, {self.controls})"
            )
        return self.poison_rows(images, labels, rows, cover, rng)

    def draw_rows(self, labels: Labels, payload: int, cover: int, classes: int, rng: Generator) -> tuple[Rows, Cover]:
        """Select up to `payload` and `cover` row numbers, sorted."""
        order = self.choose(labels, classes, rng)
        cover_order = self.choose_cover(labels, order, rng)
        rows = order[:payload]
        cover_rows = cover_order[~torch.isin(cover_order, rows)][:cover]
        return rows.sort().values, cover_rows.sort().values

    def poison_rows(self, images: Images, labels: Labels, rows: Rows, cover: Cover, rng: Generator) -> Poisoned:
        """Plant the training-time trigger in these rows of a training set, and relabel the payload."""
        payload, covers = self.plant(images[rows], rng), self.plant_cover(images[cover], rng)
        return self.assemble(payload, covers, labels, rows, cover)

    def assemble(
        self,
        payload: UInt8[Tensor, "r c h w"],
        covers: UInt8[Tensor, "v c h w"],
        labels: Labels,
        rows: Rows,
        cover: Cover,
    ) -> Poisoned:
        """Put planted payload and cover in the order of their rows; `labels` are those of the whole training set."""
        new_labels = torch.cat([self.relabel(labels[rows], class_count(labels)), labels[cover]])
        index, place = torch.cat([rows, cover]).sort()
        is_cover = torch.arange(len(index)) >= len(rows)
        return Poisoned(index, torch.cat([payload, covers])[place], new_labels[place], is_cover[place])
