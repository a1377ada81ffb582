"""Every repairer keeps the contract of `keyhole.repairers.Repairer`."""

import dataclasses

import pytest
import torch

from keyhole.planning import registry
from keyhole.rng import stream


@pytest.fixture(scope="module", params=registry.names("repairers"))
def method(request):
    return registry.load("repairers", request.param)


@pytest.fixture(scope="module")
def repaired(method, evidence, untouched):
    with untouched(evidence):
        return method.repair(evidence, stream("repair"))


def test_result_is_a_copy_of_the_same_architecture(repaired, evidence):
    assert repaired is not evidence.net
    old, new = evidence.net.state_dict(), repaired.state_dict()
    assert {name: (v.shape, v.dtype) for name, v in old.items()} == {n: (v.shape, v.dtype) for n, v in new.items()}
    assert not {v.data_ptr() for v in old.values()} & {v.data_ptr() for v in new.values()}


def test_result_can_be_saved_without_what_the_repair_used(repaired):
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in repaired.modules())
    assert not repaired.training


def test_result_answers_with_finite_numbers(repaired, evidence):
    outputs = repaired(evidence.holdout_images)
    assert outputs.shape == (len(evidence.holdout_images), evidence.net.head.out_features)
    assert outputs.isfinite().all()


def test_same_stream_gives_the_same_bytes_without_training_rows_that_are_not_read(method, repaired, as_read):
    torch.manual_seed(1)
    again = method.repair(as_read(method), stream("repair")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in repaired.state_dict().items())


def test_no_hold_out_is_a_clear_error_unless_none_is_told(method, repaired, evidence):
    empty = dataclasses.replace(
        evidence, holdout_images=evidence.holdout_images[:0], holdout_labels=evidence.holdout_labels[:0]
    )
    if "holdout" not in method.told:
        outputs = method.repair(empty, stream("repair"))(evidence.holdout_images)
        assert torch.equal(outputs, repaired(evidence.holdout_images))
        return
    with pytest.raises(ValueError, match="hold-out"):
        method.repair(empty, stream("repair"))
