"""Every attack found in the folder, on tiny synthetic images."""

from functools import cache

import pytest
import torch

from keyhole import models, rng
from keyhole.learning.recipes import resolve
from keyhole.parameters import rules
from keyhole.planning import registry
from keyhole.types import Poisoned

ATTACKS = registry.names("attacks")
POISONING = [name for name in ATTACKS if name != "none"]
SHAPES = [(3, 32, 32), (1, 16, 16), (3, 24, 40)]


N, CLASSES = 400, 10
QUICK = {"steps": 2, "epochs": 1}  # of what a `craft` trains
RECIPE = resolve("cpu", "digits", False, {"epochs": 1, "batch_size": 80, "precision": "float32"})
TRAINING = [name for name in ATTACKS if registry.method_class("attacks", name).controls == "training"]


def made(shape=(3, 32, 32)):
    stream = rng.stream("contract", str(shape))
    images = torch.randint(0, 256, (N, *shape), generator=stream, dtype=torch.uint8)
    return images, torch.arange(N) % CLASSES


@cache
def loaded(name, shape=(3, 32, 32), seed=0, **parameters):
    """An attack with what it crafted and learned; networks that have hardly seen anything will do."""
    quick = {key: value for key, value in QUICK.items() if key in rules(registry.method_class("attacks", name))}
    attack = registry.load("attacks", name, {**quick, **parameters})
    images, labels = made(shape)
    if attack.crafted_from != "nothing":
        surrogate = untrained(shape).eval() if attack.crafted_from == "surrogate" else None
        attack = attack.equipped(attack.craft(images, labels, surrogate, rng.stream("craft", seed)))
    if attack.controls == "training":
        chosen = attack.poison(images, labels, 0.1, rng.stream("poison"))
        learned = attack.train(untrained(shape), images, labels, chosen, RECIPE, rng.stream("train", seed))
        attack = attack.equipped({**attack.tensors, **learned})
    return attack


def untrained(shape):
    return models.build("convnet", CLASSES, made(shape)[0], rng.stream("net"))


def poisoned(name, rate=0.1, seed=0, shape=(3, 32, 32)) -> Poisoned:
    """The set as it is, or as it is written down after training."""
    (images, labels), attack = made(shape), loaded(name, shape)
    found = attack.poison(images, labels, rate, rng.stream("poison", seed))
    if attack.controls != "training":
        return found
    assert torch.equal(found.images, images[found.index])  # no trigger yet
    return attack.materialize(images, labels, found, rng.stream("materialize", seed))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_trigger_keeps_shape_and_type_and_leaves_its_input_alone(name, shape):
    images, _ = made(shape)
    before = images.clone()
    attack = loaded(name, shape)
    for change in (attack.apply_trigger, attack.plant):
        changed = change(images, rng.stream("trigger"))
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(images, before)
        assert name not in POISONING or not torch.equal(changed, images)


@pytest.mark.parametrize("name", POISONING)
def test_same_stream_gives_same_bytes(name):
    first, again, other = (poisoned(name, 0.05, seed) for seed in (0, 0, 1))
    for field in vars(first):
        assert torch.equal(getattr(first, field), getattr(again, field))
    assert not torch.equal(first.index, other.index)


@pytest.mark.parametrize("name", POISONING)
@pytest.mark.parametrize("rate", [0.0, 0.004, 0.05, 0.1])
def test_payload_and_cover_are_as_many_as_the_rate_says(name, rate):
    attack, found = loaded(name), poisoned(name, rate)
    payload = int(rate * N + 1e-9)
    assert int((~found.is_cover).sum()) == payload
    if name == "lsba":  # which rows keep their label is drawn
        return
    assert int(found.is_cover.sum()) == round(payload * attack.cover_ratio)


@pytest.mark.parametrize("name", POISONING)
def test_payload_is_relabelled_and_cover_keeps_its_label(name):
    _, labels = made()
    attack, found = loaded(name), poisoned(name)
    before = labels[found.index]
    assert torch.equal(found.labels[found.is_cover], before[found.is_cover])
    assert torch.equal(found.labels[~found.is_cover], attack.relabel(before[~found.is_cover], CLASSES))
    if attack.controls != "clean-label":
        assert (found.labels != before)[~found.is_cover].all()
    assert torch.equal(found.index, found.index.unique())


@pytest.mark.parametrize("name", POISONING)
def test_other_rows_stay_as_they_were(name):
    images, labels = made()
    found = poisoned(name)
    new_images, new_labels = found.apply(images, labels)
    others = torch.ones(N, dtype=torch.bool)
    others[found.index] = False
    assert torch.equal(new_images[others], images[others])
    assert torch.equal(new_labels[others], labels[others])
    assert torch.equal(new_images[found.index], found.images)


@pytest.mark.parametrize("name", POISONING)
def test_a_larger_rate_contains_the_rows_of_a_smaller_one(name):
    small, large = poisoned(name, 0.05), poisoned(name, 0.1)
    payload = [set(found.index[~found.is_cover].tolist()) for found in (small, large)]
    assert payload[0] <= payload[1]
    assert set(small.index.tolist()) <= set(large.index.tolist())


@pytest.mark.parametrize("name", ATTACKS)
def test_asr_is_measured_where_the_trigger_would_change_the_label(name):
    _, labels = made()
    attack = loaded(name)
    eligible = attack.eligible(labels, CLASSES)
    assert not eligible[labels == attack.target_class].any()
    assert (attack.relabel(labels, CLASSES)[eligible] != labels[eligible]).all()
    assert attack.target_classes(CLASSES) == (() if name == "none" else (attack.target_class,))


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if registry.method_class("attacks", name).crafted_from != "nothing"]
)
def test_what_is_crafted_comes_from_the_stream_alone_and_leaves_the_data_as_they_were(name):
    images, labels = made()
    before = images.clone(), labels.clone(), torch.get_rng_state()
    first = loaded(name).tensors
    again = loaded.__wrapped__(name).tensors
    assert first
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(a, b) for a, b in zip(before, (*made(), torch.get_rng_state()), strict=True))


@pytest.mark.parametrize("name", TRAINING)
def test_training_comes_from_the_stream_alone_and_leaves_the_data_as_they_were(name):
    images, labels = made()
    before = images.clone(), labels.clone(), torch.get_rng_state()
    attack = loaded(name)
    chosen = attack.poison(images, labels, 0.1, rng.stream("poison"))
    nets = [untrained(images.shape[1:]) for _ in range(2)]
    learned = [attack.train(net, images, labels, chosen, RECIPE, rng.stream("train")) for net in nets]
    for first, again in (map(dict, learned), (net.state_dict() for net in nets)):
        assert all(torch.equal(first[key], again[key]) for key in first)
    assert not nets[0].training
    assert not torch.equal(nets[0].head.weight, untrained(images.shape[1:]).head.weight)
    assert all(torch.equal(a, b) for a, b in zip(before, (images, labels, torch.get_rng_state()), strict=True))


MAPPED = [  # an attack over another has that one's label map
    name
    for name in POISONING
    if registry.method_class("attacks", name).controls != "clean-label"
    and "label_map" in rules(registry.method_class("attacks", name))
    and name != "tact"
]


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize(
    ("label_map", "wanted"),
    [("all_to_all", [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]), ("multi_target", [3, 4, 5, 3, 4, 5, 3, 4, 5, 3])],
)
def test_every_dirty_label_attack_takes_every_label_map(name, label_map, wanted):
    images, labels = made()
    attack = loaded(name, label_map=label_map, target_class=3, targets=3)
    found = attack.poison(images, labels, 0.1, rng.stream("poison"))
    before = labels[found.index]
    assert torch.equal(found.labels[~found.is_cover], torch.tensor(wanted)[before[~found.is_cover]])
    assert (found.labels != before)[~found.is_cover].all()
    eligible = attack.eligible(labels, CLASSES)
    assert torch.equal(eligible, torch.tensor(wanted)[labels] != labels)
    assert attack.target_classes(CLASSES) == tuple(sorted(set(wanted)))


@pytest.mark.parametrize("name", POISONING)
def test_too_high_a_rate_is_refused_with_the_numbers(name):
    with pytest.raises(ValueError, match=r"expected at least \d+ payload and \d+ cover rows"):
        poisoned(name, 0.95)
