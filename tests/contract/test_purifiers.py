"""Every purifier keeps the contract of `keyhole.purifiers.Purifier`."""

import pytest
import torch

from keyhole.planning import registry
from keyhole.rng import stream


@pytest.fixture(scope="module", params=registry.names("purifiers"))
def method(request):
    return registry.load("purifiers", request.param)


@pytest.fixture(scope="module")
def purified(method, evidence, untouched, incoming):
    before = incoming.clone()
    with untouched(evidence):
        found = method.purify(evidence, incoming, stream("purify"))
    assert torch.equal(incoming, before)
    return found


def test_result_has_the_images_shape_and_type(purified, incoming):
    assert purified.shape == incoming.shape
    assert purified.dtype == torch.uint8
    assert purified.data_ptr() != incoming.data_ptr()


def test_result_is_another_picture_of_the_same_scene(purified, incoming):
    assert not torch.equal(purified, incoming)
    assert (purified.float().mean((1, 2, 3)) > 0).all()


def test_same_stream_gives_the_same_bytes_without_training_rows_that_are_not_read(method, as_read, purified, incoming):
    torch.manual_seed(1)
    assert torch.equal(purified, method.purify(as_read(method), incoming, stream("purify")))


def test_no_image_is_no_error(method, evidence, incoming):
    assert method.purify(evidence, incoming[:0], stream("purify")).shape == incoming[:0].shape
