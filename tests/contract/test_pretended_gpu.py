"""Every model and method runs on a GPU: tried on a pretended one, which refuses to mix devices."""

from collections.abc import Iterator

import pytest
import torch
from benchmarks import gpu
from tests import pretended_gpu

from keyhole.planning import registry


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_gpu.installed() as device:
        yield device


def test_it_refuses_what_a_gpu_refuses(device):
    x = torch.ones(3).to(device)
    assert x.device == device
    assert (x + x).sum().item() == 6
    with pytest.raises(RuntimeError, match="one device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="indexed by one on the device"):
        torch.ones(3)[x.long()]
    with pytest.raises(RuntimeError, match="CPU generator"):
        torch.rand(3, device=device, generator=torch.Generator())
    with pytest.raises(TypeError, match="cpu"):
        x.numpy()


ROLES = ("models", "attacks", "detectors", "inverters", "repairers", "filters", "purifiers", "trainers")
SLOW = ("repairers/anp", "repairers/awm")
NAMES = [name for name, _ in gpu.tries(torch.device("cpu"))]


def test_every_method_is_tried():
    methods = {f"{role}/{name}" for role in ROLES[1:] for name in registry.names(role)}
    assert methods < set(NAMES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_every_model_and_method_runs_on_one_device(name, device):
    dict(gpu.tries(device))[name]()
