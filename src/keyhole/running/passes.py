"""Count the images that go through a network: what a defense costs, whatever the machine.

Hooks on each stage and on the head count rows, forwards and backwards. The largest count of any place is the answer,
as methods may run a part of the network alone.
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
    """Images forwards and backwards, so far."""

    def __init__(self) -> None:
        self.counting = True
        self._forwards: Counter[str] = Counter()
        self._backwards: Counter[str] = Counter()

    @property
    def forwards(self) -> int:
        return max(self._forwards.values(), default=0)

    @property
    def backwards(self) -> int:
        return max(self._backwards.values(), default=0)

    def add_forward(self, place: str, images: int) -> None:
        if self.counting:
            self._forwards[place] += images

    def add_backward(self, place: str, images: int) -> None:
        if self.counting:
            self._backwards[place] += images


@contextmanager
def count_passes(net: nn.Module) -> Iterator[Passes]:
    """Count inside the context, in `net` and in copies made there, which share the hooks; then `net` has none."""
    passes = Passes()
    places = [*cast(nn.ModuleDict, net.stages).items(), ("head", cast(nn.Module, net.head))]
    handles = [module.register_forward_hook(_hook(passes, name)) for name, module in places]
    try:
        yield passes
    finally:
        passes.counting = False  # copies keep their hooks
        for handle in handles:
            handle.remove()


def _hook(passes: Passes, place: str) -> Callable[[nn.Module, tuple, Tensor], None]:
    """A function, not a bound method: `copy.deepcopy` would give each copy a counter of its own."""

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        images = len(output)
        passes.add_forward(place, images)
        if output.requires_grad:
            output.register_hook(lambda gradient: passes.add_backward(place, images))

    return count


def attempt_and_count(call: Callable[..., Any], evidence: Evidence, *arguments: Any) -> Outcome:
    """Call a defense as `attempt` does; count the clean images that it had, and those it sent through the victim."""

    def counting() -> tuple[Any, Passes]:
        with count_passes(evidence.net) as passes:
            return call(evidence, *arguments), passes

    outcome = attempt(counting)
    if outcome.value is None:
        return outcome
    value, passes = outcome.value
    cost = {"forwards": passes.forwards, "backwards": passes.backwards}
    return Outcome(value, {**outcome.facts, "holdout_size": len(evidence.holdout_images), **cost})
