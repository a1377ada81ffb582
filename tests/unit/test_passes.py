"""Images through a network, counted by hand."""

import copy

import pytest
import torch
from torch import nn

from keyhole.learning.training import predict
from keyhole.running.passes import count_passes
from keyhole.types import Classifier


@pytest.fixture
def net() -> Classifier:
    first = nn.Conv2d(1, 2, 1)  # its output is changed in place behind the hook
    second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 1))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier({"first": first, "second": second, "penultimate": pool}, nn.Linear(3, 4), 1)


def images(count: int) -> torch.Tensor:
    return torch.full((count, 1, 5, 5), 100.0)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


def test_batches_add_up_and_only_some_go_backwards(net):
    with count_passes(net) as passes:
        assert (passes.forwards, passes.backwards) == (0, 0)
        predict(net, images(7).to(torch.uint8))
        net(images(3)).sum().backward()
        net(images(2))
    assert (passes.forwards, passes.backwards) == (12, 3)


def test_a_graph_that_is_walked_twice_counts_twice(net):
    with count_passes(net) as passes:
        outputs = net(images(3))
        outputs[:, 0].sum().backward(retain_graph=True)
        outputs[:, 1].sum().backward()
    assert (passes.forwards, passes.backwards) == (3, 6)


def test_copies_are_counted_inside_the_context_only(net):
    with count_passes(net) as passes:
        twin = copy.deepcopy(net)
        twin_of_twin = copy.deepcopy(twin)
        twin(images(4)).sum().backward()
        twin_of_twin(images(5))
        late = net(images(1))
    assert (passes.forwards, passes.backwards) == (10, 4)
    late.sum().backward()
    for other in (net, twin, twin_of_twin, copy.deepcopy(twin)):
        other(images(6)).sum().backward()
    assert (passes.forwards, passes.backwards) == (10, 4)


def test_hooks_leave_the_net_also_after_an_error(net):
    with pytest.raises(RuntimeError, match="channels"), count_passes(net):  # noqa: PT012
        assert hooks(net) == 4
        net(torch.zeros(2, 3, 5, 5))
    assert hooks(net) == 0


def test_a_part_of_the_network_counts(net):
    with count_passes(net) as passes:
        maps = net.feature_maps(images(6))
        maps.sum().backward()
        net.classify(maps.detach()[:2])
    assert (passes.forwards, passes.backwards) == (6, 6)


def test_backwards_counts_behind_a_frozen_stem_and_for_frozen_weights_with_free_pixels(net):
    net.stages["first"].requires_grad_(False)
    with count_passes(net) as passes:
        net(images(3)).sum().backward()
    assert (passes.forwards, passes.backwards) == (3, 3)
    net.requires_grad_(False)
    with count_passes(net) as passes:
        net(images(2))
        net(images(5).requires_grad_()).sum().backward()
    assert (passes.forwards, passes.backwards) == (7, 5)


def test_weights_from_outside_are_counted(net):
    weights = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}
    with count_passes(net) as passes:
        torch.func.functional_call(net, weights, (images(4),)).sum().backward()
    assert (passes.forwards, passes.backwards) == (4, 4)
    assert all(value.grad is not None for value in weights.values())


def test_nested_contexts_count_each_for_themselves(net):
    with count_passes(net) as outer:
        net(images(1))
        with count_passes(net) as inner:
            net(images(2))
        net(images(3))
    assert (outer.forwards, inner.forwards) == (6, 2)


def test_outputs_and_gradients_stay_the_same(net):
    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(net(images(3)).square().sum(), list(net.parameters())))

    before = gradients()
    with count_passes(net):
        inside = gradients()
    for one, other in zip(before, inside, strict=True):
        assert torch.equal(one, other)
