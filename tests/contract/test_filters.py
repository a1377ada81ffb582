"""Every filter keeps the contract of `keyhole.filters.Filter`."""

import pytest
import torch

from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.types import Suspicion


def same(a: Suspicion, b: Suspicion) -> bool:
    return torch.equal(a.scores, b.scores) and torch.equal(a.flagged, b.flagged) and a.remarks == b.remarks


@pytest.fixture(scope="module", params=registry.names("filters"))
def method(request):
    return registry.load("filters", request.param)


@pytest.fixture(scope="module")
def suspicion(method, evidence, untouched, incoming):
    before = incoming.clone()
    with untouched(evidence):
        found = method.screen(evidence, incoming, stream("screen"))
    assert torch.equal(incoming, before)
    return found


def test_every_image_gets_a_finite_score_and_a_decision(suspicion, incoming):
    assert isinstance(suspicion, Suspicion)
    assert suspicion.scores.shape == suspicion.flagged.shape == (len(incoming),)
    assert suspicion.scores.isfinite().all()
    assert suspicion.flagged.dtype == torch.bool


def test_flagged_images_have_the_highest_scores(suspicion):
    order = suspicion.flagged[suspicion.scores.argsort(descending=True)].long()
    assert torch.equal(order, order.sort(descending=True).values)


def test_same_stream_gives_the_same_bytes_without_training_rows_that_are_not_read(method, as_read, suspicion, incoming):
    torch.manual_seed(1)
    assert same(suspicion, method.screen(as_read(method), incoming, stream("screen")))
