"""What contract tests share: tiny evidence, and a witness that nothing in it was changed."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from keyhole.learning.training import latents
from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence, Recovered

CLASSES = 3
SHAPE = (3, 12, 12)


SEARCH = {"test_inverters.py", "test_repairers.py", "test_purifiers.py"}  # each method runs for seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what searches, and attacks that train something."""
    for item in items:
        if item.path.parent.name != "contract":
            continue
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if item.path.name in SEARCH or (item.path.name == "test_attacks.py" and any(map(trains, values))):
            item.add_marker(pytest.mark.slow)


def trains(name: object) -> bool:
    """Whether a parameter of a test names an attack that trains a trigger or the victim."""
    if name not in registry.names("attacks"):
        return False
    attack = registry.method_class("attacks", str(name))
    return attack.crafted_from != "nothing" or attack.controls == "training"


def pictures(count: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Noise whose brightest channel is the class."""
    rng = stream("contract", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    images = torch.randint(0, 160, (count, *SHAPE), generator=rng)
    images[torch.arange(count), labels] += 90
    return images.to(torch.uint8), labels


@pytest.fixture(scope="module")
def incoming() -> Tensor:
    """Test-time images."""
    return pictures(50, "incoming")[0]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """160 hold-out images and a network that is left in training mode, so that a change of mode would show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net = Classifier({"conv": body, "penultimate": pool}, nn.Linear(8, CLASSES), SHAPE[0])
    body[0].bias.requires_grad_(False)
    images, labels = pictures(60, "train")
    found = latents(copy.deepcopy(net), images, ("penultimate",))
    holdout, holdout_labels = pictures(160, "holdout")
    stamped = holdout.clone()
    stamped[..., -3:, -3:] = 255
    return Evidence(net.train(), images, labels, found, holdout, holdout_labels, Recovered(stamped, 1, True))


@pytest.fixture(scope="module")
def as_read(evidence) -> Callable[[Any], Evidence]:
    """The evidence as a job gives it to a method: without training rows for one that does not read them."""
    without = dataclasses.replace(evidence, images=evidence.images[:0], labels=evidence.labels[:0], latents={})
    return lambda method: evidence if method.reads_training_set else without


@pytest.fixture(scope="module")
def untouched() -> Callable[[Evidence], AbstractContextManager[None]]:
    """A context in which the evidence and torch's global generator must stay as they were."""
    return watched


@contextmanager
def watched(evidence: Evidence) -> Iterator[None]:

    def snapshot() -> dict[str, Tensor]:
        tensors = {f"state {name}": value for name, value in evidence.net.state_dict().items()}
        tensors |= {f"latents {name}": value for name, value in evidence.latents.items()}
        tensors |= {name: value for name, value in vars(evidence).items() if isinstance(value, Tensor)}
        return {name: value.clone() for name, value in tensors.items()} | {"global generator": torch.get_rng_state()}

    def settings() -> list:
        modes = [(name, m.training, len(m._forward_pre_hooks)) for name, m in evidence.net.named_modules()]
        return modes + [(name, p.requires_grad, p.grad is None) for name, p in evidence.net.named_parameters()]

    tensors, modes = snapshot(), settings()
    yield
    changed = [name for name, value in snapshot().items() if not torch.equal(value, tensors[name])]
    assert changed == []
    assert settings() == modes
