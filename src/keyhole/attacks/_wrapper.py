"""Attacks that wrap another attack, their base: they do what the base does, with something changed."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Generator, Tensor, nn

from keyhole.attacks import Attack
from keyhole.parameters import CRAFTS, Natural, ParameterError, Setting, Wrapped
from keyhole.planning import registry
from keyhole.types import Cover, Images, Labels, Mask, Rows

__all__ = ["Wrapper"]


@dataclass(frozen=True, kw_only=True)
class Wrapper(Attack):
    """An attack that delegates to its base; override only what differs.

    In a configuration, `base` is the base's name or a mapping of its parameters with `method`. The base decides
    `target_class` and `label_map`, so a wrapper does not take them as parameters.
    """

    bare_base: ClassVar[bool] = False  # the base must be a dirty-label attack without cover rows

    base: Wrapped = "blended"
    _base: Attack = field(init=False, repr=False, compare=False)  # the attack that `base` describes
    target_class: Natural = field(init=False)  # this and the next two are copied from the base
    label_map: Literal["all_to_one", "all_to_all", "multi_target"] = field(init=False)
    targets: Natural = field(init=False)

    def check(self) -> None:
        """Build the base, write out all its parameters, and copy from it what decides the labels.

        Raises:
            ParameterError: the base is unknown, its parameters are wrong, or this attack cannot wrap it.
        """
        base = registry.load("attacks", *registry.unwrap(self.base, "base"), where="base")
        object.__setattr__(self, "_base", base)
        object.__setattr__(self, "base", {"method": registry.name_of(base), **base.parameters})
        if base.bound_to_rows:
            raise ParameterError(
                "base", f"expected an attack whose rows can be drawn anew, got {registry.name_of(base)}"
            )
        if self.bare_base and (base.controls != "dirty-label" or base.cover_ratio):
            raise ParameterError(
                "base", f"expected an attack with dirty labels and without cover rows, got {registry.name_of(base)}"
            )
        for name in ("target_class", "label_map", "targets", "paper_asr"):
            object.__setattr__(self, name, getattr(base, name))
        needs = {type(self).crafted_from, base.crafted_from}
        object.__setattr__(self, "crafted_from", next(need for need in CRAFTS if need in needs))

    def check_setting(self, setting: Setting) -> None:
        """Check the base.

        Raises:
            ParameterError: a parameter of the base does not fit; its path begins with `base`.
        """
        try:
            self.inner.check_setting(setting)
        except ParameterError as error:
            raise error.under("base") from None

    @property
    def inner(self) -> Attack:
        """The base, with the tensors that were learned."""
        return self._base.equipped(self.tensors)

    def files(self) -> tuple[str, ...]:
        return self.inner.files()

    @property
    def cover_ratio(self) -> float:
        return self.inner.cover_ratio

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        return self.inner.apply_trigger(images, rng)

    def plant(self, images: Images, rng: Generator) -> Images:
        return self.inner.plant(images, rng)

    def plant_cover(self, images: Images, rng: Generator) -> Images:
        return self.inner.plant_cover(images, rng)

    def choose(self, labels: Labels, classes: int, rng: Generator) -> Rows:
        return self.inner.choose(labels, classes, rng)

    def choose_cover(self, labels: Labels, payload_order: Rows, rng: Generator) -> Cover:
        return self.inner.choose_cover(labels, payload_order, rng)

    def relabel(self, labels: Labels, classes: int) -> Labels:
        return self.inner.relabel(labels, classes)

    def eligible(self, labels: Labels, classes: int) -> Mask:
        return self.inner.eligible(labels, classes)

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        return self.inner.craft(images, labels, surrogate, rng)
