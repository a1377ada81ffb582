"""Which test rows an attack is measured on, and on which it should do nothing."""

import torch
from torch import nn

from keyhole.planning import registry
from keyhole.running.answers import Exam, answer
from keyhole.types import Classifier


def net(classes: int) -> Classifier:
    """Answers class 0 to everything."""
    made = Classifier({"penultimate": nn.Flatten()}, nn.Linear(3 * 32 * 32, classes, bias=False), 3)
    with torch.no_grad():
        made.head.weight.zero_()
    return made.eval()


def found(name: str, classes: int = 10, **parameters):
    images, labels = torch.zeros(4 * classes, 3, 32, 32, dtype=torch.uint8), torch.arange(4 * classes) % classes
    return answer(net(classes), Exam(registry.load("attacks", name, parameters), images, labels, "made", 0))


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
