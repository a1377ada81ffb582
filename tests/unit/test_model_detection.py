"""Inverters as tests of a model: counts, intervals and pairs worked out by hand."""

import pandas as pd
import pytest

from keyhole.reporting.runs import KEY
from keyhole.scoring.model_detection import ALL, model_detection


def run(attack, seed, anomaly, any_flagged, top1, state="judged", defense="neural_cleanse"):
    place = {"dataset": "digits", "model": "convnet", "recipe": "cpu", "attack": attack}
    place |= {"poison_rate": 0 if attack == "none" else 0.1}
    place |= {"role": "inverter", "defense": defense, "told": "holdout", "seed": seed, "state": state}
    answers = {"any_flagged": float(any_flagged), "top1": float(top1), "anomaly_max": anomaly}
    return {**place, **answers, "seconds": 2.0 + seed, "forwards": 100, "backwards": 50, "holdout_size": 500}


RUNS = [
    run("none", 0, 1.0, False, False),
    run("none", 1, 3.0, True, False),
    run("badnets", 0, 5.0, True, True),
    run("badnets", 1, 2.0, True, False),
    run("badnets", 2, 9.0, True, True, "excluded"),
    run("blended", 0, 3.0, False, True),
    run("blended", 1, float("nan"), False, False, "failed"),
]


@pytest.fixture
def table():
    return model_detection(pd.DataFrame(RUNS), KEY).set_index("attack")


def test_shares_count_judged_victims_and_have_wilsons_interval(table):
    row = table.loc["badnets"]
    assert (row["detected"], row["target_named"], row["false_alarms_clean"]) == (1.0, 0.5, 0.5)
    z, n = 1.959964, 2
    centre, half = (0.5 + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * (0.25 / n + z**2 / (4 * n**2)) ** 0.5
    assert row["target_named_low"] == pytest.approx(centre - half, abs=1e-6)
    assert row["target_named_high"] == pytest.approx(centre + half, abs=1e-6)
    assert (row["seeds"], row["judged"], row["excluded"], row["failed"]) == (3, 2, 1, 0)


def test_auroc_is_over_pairs_of_poisoned_and_clean_victims(table):
    assert table.loc["badnets", "model_AUROC"] == 0.75  # 5 beats both, 2 beats one
    assert table.loc["blended", "model_AUROC"] == 0.75  # 3 beats one and ties with the other


def test_all_attacks_together_have_a_row(table):
    row = table.loc[ALL]
    assert (row["seeds"], row["judged"], row["failed"]) == (5, 3, 1)
    assert row["detected"] == pytest.approx(2 / 3)


def test_without_clean_victims_there_is_no_false_alarm_rate():
    row = model_detection(pd.DataFrame(RUNS[2:4]), KEY).iloc[0]
    assert pd.isna(row["false_alarms_clean"])
    assert pd.isna(row["model_AUROC"])


def test_a_grid_with_one_attack_has_no_second_row_for_all():
    assert model_detection(pd.DataFrame(RUNS[:4]), KEY)["attack"].tolist() == ["badnets"]
