"""Cards from answers that are written out by hand."""

import json

import numpy as np
import pytest

from keyhole.scoring import cards

CELL = {"dataset": "digits", "model": "convnet", "attack": "blended", "rate": "0.25", "seed": "0"}
LABELS = np.array([0, 1, 2, 3])
POISONED = {"index": np.array([3]), "labels": np.array([0]), "is_cover": np.array([False])}


def answers(*triggered):
    """Answers of a model that is right on clean rows, to the trigger on the rows of classes 1 to 3."""
    wanted = np.zeros(3, int)
    leaked = np.zeros(0, int)
    rows = np.array([1, 2, 3])
    return {"clean": LABELS, "rows": rows, "triggered": np.array(triggered), "wanted": wanted, "leaked": leaked}


def retrained(method, *triggered, status="ok"):
    return f"my_{method}", {"status": status, "method": method}, answers(*triggered) if status == "ok" else {}


@pytest.mark.parametrize(
    ("models", "natural"),
    [
        ([], 0),
        ([retrained("perfect_removal", 0, 2, 3)], 1 / 3),
        ([retrained("perfect_removal", 1, 2, 3)], 0),
        ([retrained("scan", 0, 0, 0)], 0),  # may have left payload
        ([retrained("random_removal", 0, 0, 0), retrained("perfect_removal", 0, 0, 3)], 2 / 3),
        ([retrained("perfect_removal", status="failed")], 0),
    ],
)
def test_the_natural_asr_is_that_of_the_worst_model_without_payload(models, natural):
    """One clean model may miss by luck a shortcut that the next one takes."""
    facts = {"target_classes": [0], "status": "ok"}
    card = cards.victim(CELL, "cpu", facts, answers(0, 0, 0), answers(1, 2, 3), models, POISONED, LABELS, LABELS)
    assert card["ASR_natural"] == pytest.approx(natural)
    assert ("asr_on_clean_model" in card["flags"]) == (natural > 0.2)
    assert json.dumps(card["ASR"]) == "1.0"
