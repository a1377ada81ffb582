"""Every inverter keeps the contract of `keyhole.inverters.Inverter`."""

import dataclasses

import pytest
import torch

from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.types import Inversion

# shorter searches, where the defaults take seconds on the tiny evidence
QUICK = {"mm_bd": {"steps": 30}, "pixel": {"epochs": 30}, "thtp": {"rounds": 2, "epochs": 4}}


def tensors(inversion, images):
    """Everything in an answer, with the images as they are stamped for the last class."""
    found = {name: value for name, value in vars(inversion).items() if name != "stamp"}
    stamped = images if inversion.stamp is None else inversion.stamp(images, len(inversion.anomaly) - 1)
    return found | {"stamped": stamped}


@pytest.fixture(scope="module", params=registry.names("inverters"))
def method(request):
    return registry.load("inverters", request.param, QUICK.get(request.param))


@pytest.fixture(scope="module")
def inversion(method, evidence, untouched):
    with untouched(evidence):
        return method.invert(evidence, stream("invert"))


def test_answer_has_one_entry_per_class(inversion, evidence):
    classes, shape = evidence.net.head.out_features, evidence.images.shape[1:]
    assert isinstance(inversion, Inversion)
    assert inversion.masks.shape == (classes, *shape[1:])
    assert inversion.anomaly.shape == inversion.flagged.shape == (classes,)
    assert inversion.flagged.dtype == torch.bool


def test_masks_are_shares_and_anomalies_are_finite(inversion):
    assert inversion.masks.min() >= 0
    assert inversion.masks.max() <= 1
    assert inversion.anomaly.isfinite().all()


def test_answer_is_free_of_gradients(inversion, incoming):
    assert not any(value.requires_grad for value in tensors(inversion, incoming).values())


def test_stamped_images_are_images(inversion, incoming):
    if inversion.stamp is None:
        return
    before = incoming.clone()
    for target in range(len(inversion.anomaly)):
        stamped = inversion.stamp(incoming, target)
        assert stamped.dtype == torch.uint8
        assert stamped.shape == incoming.shape
        assert torch.equal(stamped, inversion.stamp(incoming, target))
    assert torch.equal(incoming, before)


def test_flagged_classes_have_the_highest_anomalies(inversion):
    if inversion.flagged.any() and not inversion.flagged.all():
        assert inversion.anomaly[inversion.flagged].min() > inversion.anomaly[~inversion.flagged].max()


def test_same_stream_gives_the_same_bytes_without_training_rows_that_are_not_read(method, as_read, inversion, incoming):
    torch.manual_seed(1)
    again = tensors(method.invert(as_read(method), stream("invert")), incoming)
    assert all(torch.equal(value, again[name]) for name, value in tensors(inversion, incoming).items())


def test_no_hold_out_is_a_clear_error_or_changes_nothing(method, evidence, inversion):
    empty = dataclasses.replace(
        evidence, holdout_images=evidence.holdout_images[:0], holdout_labels=evidence.holdout_labels[:0]
    )
    if "holdout" in method.told:
        with pytest.raises(ValueError, match="hold-out"):
            method.invert(empty, stream("invert"))
    else:
        assert torch.equal(method.invert(empty, stream("invert")).anomaly, inversion.anomaly)
