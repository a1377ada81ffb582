"""Count the images that a defense sends through a network: its cost, independent of the machine.

Hooks on each stage and on the head count images, forwards and backwards. The largest of these counts is reported, since
a method may run only a part of the network.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from keyhole.running.outcome import Outcome, attempt
from keyhole.types import Evidence

__all__ = ["Passes", "attempt_and_count", "count_passes"]


class Passes:
    """Count images at each place of a network, forwards and backwards."""

    def __init__(self) -> None:
        self.counting = True
        self._forwards: Counter[str] = Counter()
        self._backwards: Counter[str] = Counter()

    @property
    def forwards(self) -> int:
        """Images sent forwards so far."""
        return max(self._forwards.values(), default=0)

    @property
    def backwards(self) -> int:
        """Images sent backwards so far."""
        return max(self._backwards.values(), default=0)

    def add_forward(self, place: str, images: int) -> None:
        """Add images that passed a place forwards."""
        if self.counting:
            self._forwards[place] += images

    def add_backward(self, place: str, images: int) -> None:
        """Add images that passed a place backwards."""
        if self.counting:
            self._backwards[place] += images


@contextmanager
def count_passes(net: nn.Module) -> Iterator[Passes]:
    """Count passes through `net`, and through copies of it that are made in this context, since they share its hooks.

    On leaving, the hooks of `net` are removed and counting stops.
    """
    passes = Passes()
    places = [*cast(nn.ModuleDict, net.stages).items(), ("head", cast(nn.Module, net.head))]
    handles = [module.register_forward_hook(_hook(passes, name)) for name, module in places]
    try:
        yield passes
    finally:
        passes.counting = False  # copies still have the hooks
        for handle in handles:
            handle.remove()


def _hook(passes: Passes, place: str) -> Callable[[nn.Module, tuple, Tensor], None]:
    """Return a hook that counts at a place.

    It is a function and not a bound method, for which `copy.deepcopy` would give each copy a separate counter.
    """

    def count(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        images = len(output)
        passes.add_forward(place, images)
        if output.requires_grad:
            output.register_hook(lambda _gradient: passes.add_backward(place, images))

    return count


def attempt_and_count(call: Callable[..., Any], evidence: Evidence, *arguments: Any) -> Outcome:
    """Call a defense as `attempt` does; add the number of its hold-out images and of its passes to the facts."""

    def call_and_count() -> tuple[Any, Passes]:
        with count_passes(evidence.net) as passes:
            return call(evidence, *arguments), passes

    outcome = attempt(call_and_count)
    if outcome.value is None:
        return outcome
    value, passes = outcome.value
    cost = {"forwards": passes.forwards, "backwards": passes.backwards}
    return Outcome(value, {**outcome.facts, "holdout_size": len(evidence.holdout_images), **cost})
