"""Write a defended model and its predictions."""

from collections.abc import Mapping
from typing import Any

from keyhole import artifacts
from keyhole.running.answers import Exam, answer
from keyhole.running.nets import save_net
from keyhole.types import Classifier

__all__ = ["save_defended"]


def save_defended(
    output: Mapping[str, str], net: Classifier | None, architecture: str, exam: Exam, facts: Mapping[str, Any]
) -> None:
    """Write the files `model` and `predictions`.

    Where the defense failed and `net` is None, both files hold no tensors, only the facts, which give the reason.
    """
    if net is None:
        artifacts.save(output["model"], {}, facts)
        artifacts.save(output["predictions"], {}, facts)
        return
    save_net(output["model"], net, architecture, exam.images.shape[1:], facts)
    artifacts.save(output["predictions"], answer(net, exam), facts)
