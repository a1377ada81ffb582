"""How recovered triggers are compared with the true one."""

import torch
from torch import nn

from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.running.answers import Exam
from keyhole.running.likeness import try_triggers
from keyhole.types import Classifier, Evidence, Inversion


def inversion(stamp, targets=0, classes=3):
    """What is kept of an inverter's answer that gives class 1 the highest anomaly."""
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 32, 32).contiguous()
    labels = torch.arange(6) % classes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = Classifier({"penultimate": nn.Flatten()}, nn.Linear(3 * 32 * 32, classes, bias=False), 3).eval()
    evidence = Evidence(victim, images, labels, {}, images, labels)
    found = Inversion(torch.ones(classes, 32, 32), torch.tensor([0.0, 2.0, 1.0]), torch.zeros(classes) > 0, stamp)
    attack = registry.load("attacks", "badnets", {"target_class": targets, "size": 2, "pattern": "white"})
    test = torch.zeros(4 * classes, 3, 32, 32, dtype=torch.uint8), torch.arange(4 * classes) % classes
    return images, try_triggers(found, evidence, Exam(attack, *test, "made", 0))


def test_a_perfect_inversion_has_the_features_of_the_true_trigger():
    def stamp(images, target):
        return registry.load("attacks", "badnets", {"size": 2, "pattern": "white"}).apply_trigger(images, stream("x"))

    images, kept = inversion(stamp)
    assert torch.equal(kept["stamped"], stamp(images, 1))
    assert kept["triggers"].shape == (3, 3, 32, 32)
    assert kept["answers"].shape == (3, len(kept["probed"]))
    assert kept["true_mask"].sum() == 4
    torch.testing.assert_close(kept["feature_distance"], torch.tensor(0.0))
    torch.testing.assert_close(kept["shift_cosine"], torch.tensor(1.0))


def test_no_trigger_at_all_is_at_distance_one_from_the_true_one():
    _, kept = inversion(lambda images, target: images)
    torch.testing.assert_close(kept["feature_distance"], torch.tensor(1.0))


def test_stamped_rows_carry_the_trigger_of_the_highest_anomaly():
    _, kept = inversion(lambda images, target: torch.full_like(images, target))
    assert (kept["stamped"] == 1).all()
    assert kept["triggers"][:, 0, 0, 0].tolist() == [0, 1, 2]


def test_an_inverter_without_a_trigger_leaves_its_verdict_alone():
    _, kept = inversion(None)
    assert set(kept) == {"masks", "anomaly", "flagged"}
