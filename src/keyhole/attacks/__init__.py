"""Attacks: they poison a training set, and their trigger later activates the backdoor. One method per file."""

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

__all__ = ["Attack", "Tensors", "count_classes"]


class Tensors(dict[str, Tensor]):
    """Learned tensors by name, compared by value: two are equal if all their tensors are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict) or self.keys() != other.keys():
            return False
        return all(torch.equal(value, other[name]) for name, value in self.items())

    __hash__ = None  # type: ignore[assignment]


def count_classes(labels: Labels) -> int:
    """Return the number of classes from the labels of a whole training set; labels start at 0."""
    return int(labels.max()) + 1


@dataclass(frozen=True, kw_only=True)
class Attack(Checked, ABC):
    """An attack: implement `apply_trigger`, and override only what the paper does differently.

    Payload rows get the trigger and a new label; cover rows get the trigger and keep their label. `poison` works in
    this order:

    1. `choose` returns the rows that may be payload, `choose_cover` those that may be cover, each in the order in which
       they are taken. `draw_rows` takes the first ones.
    2. `plant` puts the training-time trigger on payload rows, `plant_cover` on cover rows.
    3. `relabel` gives payload rows their new label.

    Test images get the trigger from `apply_trigger`. The attack succeeds on one if the model answers with the label
    from `relabel`; only the rows that are `eligible` count.

    `label_map` chooses the new labels of a dirty-label attack. `all_to_one`: all payload gets `target_class`.
    `all_to_all`: class y gets the label y + 1, and the last class the label 0. `multi_target`: class y gets the label
    `target_class` + (y modulo `targets`).

    Differs from the released code: Qi et al. draw payload and cover from all classes, here both come from rows whose
    label the trigger changes. Otherwise one row in K of the payload (K classes) would carry its true label, and one
    row in K of the cover would act as payload.
    """

    controls: ClassVar[Literal["clean-label", "dirty-label", "training"]] = "dirty-label"
    paper_asr: ClassVar[float | None] = None  # ASR that the paper reports, if it is below the general validity gate
    paper_rate: ClassVar[float] = 0.003  # poison rate if the configuration gives none
    bound_to_rows: ClassVar[bool] = False  # what it learns belongs to single training rows; it cannot be wrapped
    crafted_from: ClassVar[Literal["nothing", "data", "surrogate"]] = "nothing"  # what `craft` needs
    learns_trigger: ClassVar[bool] = False  # the trigger is learned while the victim is trained

    target_class: Natural = 0
    label_map: Literal["all_to_one", "all_to_all", "multi_target"] = "all_to_one"
    targets: Count = 2  # number of labels under `multi_target`

    # what `craft` or `train` learned; not a parameter, and empty for a fixed trigger
    tensors: Tensors = field(default_factory=Tensors, init=False, repr=False, hash=False)

    def check_setting(self, setting: Setting) -> None:
        """Try the trigger on blank images, to refuse a patch that is too large or a picture that is missing.

        An attack that must first learn its trigger is not tried.

        Raises:
            ParameterError: a parameter does not fit images of this size.
        """
        if self.crafted_from == "nothing" and not self.learns_trigger:
            images, stream = torch.zeros(2, *setting.shape, dtype=torch.uint8), rng.stream("check")
            self.plant_cover(self.plant(images, stream), stream)
            self.apply_trigger(images, stream)

    @property
    def cover_ratio(self) -> float:
        """Number of cover rows per payload row."""
        return 0.0

    def files(self) -> tuple[str, ...]:
        """Return the user's files that the trigger is read from; the attack runs again when their content changes."""
        return ()

    def equipped(self, tensors: dict[str, Tensor]) -> "Attack":
        """Return a copy of this attack that uses these learned tensors."""
        attack = copy.copy(self)
        object.__setattr__(attack, "tensors", Tensors(tensors))
        return attack

    @abstractmethod
    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        """Return copies of the images with the test-time trigger."""

    def plant(self, images: Images, rng: Generator) -> Images:
        """Return copies of payload images, in ascending row order, with the training-time trigger."""
        return self.apply_trigger(images, rng)

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        """Return copies of cover images, in ascending row order, with what cover rows get; by default as payload."""
        return self.plant(images, rng)

    def choose(self, labels: Labels, classes: int, rng: Generator) -> Rows:
        """Return all rows that may be payload, in the order in which they are taken."""
        clean_label = self.controls == "clean-label"
        candidates = labels == self.target_class if clean_label else self.eligible(labels, classes)
        rows = torch.nonzero(candidates).squeeze(1)
        return rows[torch.randperm(len(rows), generator=rng)]

    def choose_cover(self, labels: Labels, payload_order: Rows, rng: Generator) -> Cover:
        """Return all rows that may be cover, in the order in which they are taken.

        By default these are the rows that may be payload, in reverse order. `draw_rows` leaves out the payload.
        """
        return payload_order.flip(0)

    def relabel(self, labels: Labels, classes: int) -> Labels:
        """Return the label that the attacker wants for each row, when it has the trigger.

        Args:
            labels: true labels, of training or test rows.
            classes: number of classes of the data set.
        """
        if self.label_map == "all_to_all":
            return (labels + 1) % classes
        if self.label_map == "multi_target":
            return (self.target_class + labels % self.targets) % classes
        return torch.full_like(labels, self.target_class)

    def eligible(self, labels: Labels, classes: int) -> Mask:
        """Return which rows count for ASR: those whose label the trigger should change."""
        return self.relabel(labels, classes) != labels

    def target_classes(self, classes: int) -> tuple[int, ...]:
        """Return the labels that the trigger should lead to, in ascending order."""
        labels = torch.arange(classes)
        return tuple(self.relabel(labels, classes)[self.eligible(labels, classes)].unique().tolist())

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        """Learn tensors from the clean training set, once for all poison rates.

        Examples are hardened images and the weights of a generator. The tensors are saved, and `equipped` gives them
        back to the attack before it poisons.

        Args:
            images: the clean training set, with `labels`.
            surrogate: a network that the attacker trained on it, if `crafted_from` is `surrogate`.
        """
        return {}

    def poison(self, images: Images, labels: Labels, rate: float, rng: Generator) -> Poisoned:
        """Return the payload and cover rows of a training set as the attacker changes them.

        Args:
            rate: payload rows / all training rows. The number of payload rows is rounded down, as by Qi et al.

        Raises:
            ValueError: there are too few rows to choose this many payload and cover rows from.
        """
        payload = math.floor(rate * len(labels) + 1e-9)  # 0.29 * 100 is 29 only up to rounding
        covers = round(payload * self.cover_ratio)
        rows, cover = self.draw_rows(labels, payload, covers, count_classes(labels), rng)
        if len(rows) < payload or len(cover) < covers:
            raise ValueError(
                f"expected at least {payload} payload and {covers} cover rows to choose from at rate {rate:g}, "
                f"got {len(rows)} and {len(cover)} (target_class {self.target_class}, {self.controls})"
            )
        return self.poison_rows(images, labels, rows, cover, rng)

    def draw_rows(self, labels: Labels, payload: int, cover: int, classes: int, rng: Generator) -> tuple[Rows, Cover]:
        """Select up to `payload` and up to `cover` rows, and return their numbers in ascending order."""
        order = self.choose(labels, classes, rng)
        cover_order = self.choose_cover(labels, order, rng)
        rows = order[:payload]
        cover_rows = cover_order[~torch.isin(cover_order, rows)][:cover]
        return rows.sort().values, cover_rows.sort().values

    def poison_rows(self, images: Images, labels: Labels, rows: Rows, cover: Cover, rng: Generator) -> Poisoned:
        """Plant the training-time trigger in these rows of a training set, and relabel payload rows."""
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
        """Merge planted payload and cover images in ascending row order, with their labels.

        Args:
            payload: images of the payload rows, with the trigger.
            covers: images of the cover rows, with what they get.
            labels: true labels of the whole training set.
            rows: row numbers of the payload.
            cover: row numbers of the cover.
        """
        new_labels = torch.cat([self.relabel(labels[rows], count_classes(labels)), labels[cover]])
        index, place = torch.cat([rows, cover]).sort()
        is_cover = torch.arange(len(index)) >= len(rows)
        return Poisoned(index, torch.cat([payload, covers])[place], new_labels[place], is_cover[place])
