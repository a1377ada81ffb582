"""Which test rows an attack is measured on, and on which it should do nothing."""

import torch
from torch import nn

from keyhole.models import Classifier
from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.running.evaluation import answers, inverted
from keyhole.types import Evidence, Inversion

CELL = {"dataset": "made", "seed": "0"}


def net(classes: int) -> Classifier:
    """Answers class 0 to everything."""
    made = Classifier({"penultimate": nn.Flatten()}, nn.Linear(3 * 32 * 32, classes, bias=False), 3)
    with torch.no_grad():
        made.head.weight.zero_()
    return made.eval()


def made_set(classes: int):
    return {
        "images": torch.zeros(4 * classes, 3, 32, 32, dtype=torch.uint8),
        "labels": torch.arange(4 * classes) % classes,
    }


def found(name: str, classes: int = 10, **parameters):
    return answers(net(classes), registry.load("attacks", name, parameters), made_set(classes), CELL)


def test_a_plain_attack_is_measured_on_all_other_classes_and_leaks_nowhere():
    columns = found("badnets", target_class=2)
    assert len(columns["rows"]) == len(columns["triggered"]) == 36
    assert (columns["wanted"] == 2).all()
    assert len(columns["leaked"]) == 0


def test_a_source_specific_attack_is_measured_on_its_source_and_leaks_on_the_rest():
    columns = found("tact", source_classes=(1,), cover_classes=(5, 7))
    assert set((columns["rows"] % 10).tolist()) == {1}
    assert len(columns["leaked"]) == 32  # neither class 1 nor the target, cover classes among them


def test_all_to_all_is_measured_everywhere():
    columns = found("badnets", classes=4, label_map="all_to_all")
    assert torch.equal(columns["wanted"], (columns["rows"] % 4 + 1) % 4)
    assert len(columns["rows"]) == 16
    assert len(columns["leaked"]) == 0


def test_multi_target_leaves_out_rows_that_have_their_label_already():
    columns = found(
        "badnets", classes=4, label_map="multi_target", targets=2
    )  # 0, 1, 0, 1: classes 0 and 1 keep theirs
    assert set((columns["rows"] % 4).tolist()) == {2, 3}
    assert len(columns["leaked"]) == 0  # the others are target classes


def test_without_a_trigger_nothing_is_asked():
    columns = found("none")
    assert len(columns["rows"]) == len(columns["leaked"]) == 0
    assert len(columns["clean"]) == 40


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
    return images, inverted(found, evidence, attack, made_set(classes), CELL)


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
