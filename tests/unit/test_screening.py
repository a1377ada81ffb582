"""Who is asked, and who sets the threshold."""

import torch

from keyhole import models, rng
from keyhole.planning import registry
from keyhole.running import screening
from keyhole.running.answers import Exam
from keyhole.types import Evidence


def exam(attack):
    images = torch.randint(0, 200, (60, 3, 8, 8), generator=rng.stream("screening"), dtype=torch.uint8)
    return Exam(attack, images, torch.arange(60) % 3, "made", 0)


def test_as_many_triggered_as_clean_images_of_the_same_rows():
    attack = registry.load("attacks", "badnets", {"pattern": "white", "target_class": 1})
    asked = screening.draw(exam(attack), 3, 10, rng.stream("draw"))
    clean, triggered = asked.images[~asked.is_triggered], asked.images[asked.is_triggered]
    assert len(clean) == len(triggered) == len(asked.wanted) == 10
    assert torch.equal(attack.apply_trigger(clean, rng.stream("any")), triggered)
    assert (asked.wanted == 1).all()
    assert len(screening.draw(exam(attack), 3, 1000, rng.stream("draw")).wanted) == 40  # all of other classes


def test_a_clean_victim_is_asked_about_clean_images_only():
    asked = screening.draw(exam(registry.load("attacks", "none")), 3, 10, rng.stream("draw"))
    assert len(asked.images) == 10
    assert not asked.is_triggered.any()
    assert len(asked.wanted) == 0


def test_what_sets_the_threshold_is_kept_from_the_filter():
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    net = models.build("convnet", 2, images.expand(-1, 1, 8, 8), rng.stream("net"))
    evidence = Evidence(net, images, torch.zeros(40, dtype=torch.int64), {}, images, torch.arange(40))
    rest, reserved = screening.reserve(evidence, 8, rng.stream("reserve"))
    assert len(reserved) == 8
    assert sorted([*reserved.flatten().tolist(), *rest.holdout_images.flatten().tolist()]) == list(range(40))
    assert torch.equal(rest.holdout_images.flatten().long(), rest.holdout_labels)
    assert len(screening.reserve(evidence, 100, rng.stream("reserve"))[1]) == 10  # a quarter at most
