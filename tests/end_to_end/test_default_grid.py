"""The claim, on real embedded data: the default grid at one seed, with the two files of CONTRIBUTING.md."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from keyhole import artifacts

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"`(src/keyhole/\w+/\w+\.py)`\n\n```python\n(.*?)```", re.S)
EXAMPLES = dict(EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text()))


@pytest.fixture(scope="module")
def grid(tmp_path_factory, copied):
    """The default grid with one seed, plus the attack and the detector that CONTRIBUTING.md shows."""
    tree = copied(tmp_path_factory.mktemp("grid"))
    for file, text in EXAMPLES.items():
        (tree.root / file).write_text(text)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["seeds"] = [0]
    config["attacks"]["one_pixel"] = {"row": 3, "column": 3}
    config["detectors"]["class_distance"] = {}
    config["retrain"] = {"detectors": ["class_distance", "random_removal", "perfect_removal"]}
    tree.write(**config)
    tree.snakemake()
    return tree


def table(grid, name):
    return pd.read_csv(grid.root / f"results/tables/{name}.csv")


def test_the_examples_are_two_files_of_at_most_twenty_lines():
    assert list(EXAMPLES) == ["src/keyhole/attacks/one_pixel.py", "src/keyhole/detectors/class_distance.py"]
    for file, text in EXAMPLES.items():
        assert len(text.splitlines()) <= 20
        assert not (ROOT / file).exists()


def test_every_attack_implants(grid):
    attacks = table(grid, "attacks").set_index("attack")
    assert attacks["CA"].min() > 0.95
    assert attacks.loc["badnets", "ASR"] > 0.95
    assert attacks["ASR"].min() > 0.85
    assert attacks.loc["one_pixel", "payload"] == 24


def test_an_attack_that_works_without_payload_is_not_judged(grid):
    """At one seed, the clean model may not answer a trigger that the next model without payload answers."""
    attacks = table(grid, "attacks").set_index("attack")
    cleaned = table(grid, "detection").query("defense == 'perfect_removal' and attack != 'none'").set_index("attack")
    assert (attacks["ASR_natural"].loc[cleaned.index] >= cleaned["ASR_retrained"]).all()
    assert (cleaned["judged"] == (attacks["ASR_natural"].loc[cleaned.index] <= 0.2)).all()


def test_detectors_rank_the_payload_of_a_plain_attack(grid):
    detection = table(grid, "detection").set_index(["attack", "defense"])
    for detector in ("spectral_signatures", "activation_clustering", "scan"):
        assert detection.loc[("badnets", detector), "AUROC"] > 0.75
    assert detection.loc[("badnets", "perfect_removal"), "TPR"] == 1
    assert detection.loc[("badnets", "perfect_removal"), "FPR"] == 0
    assert detection.loc[("badnets", "perfect_removal"), "told"] == "payload"
    assert abs(detection.loc[("badnets", "random_removal"), "AUROC"] - 0.5) < 0.2
    assert detection.loc[("badnets", "class_distance"), "removed"] > 0


def test_perfect_removal_disarms_and_random_removal_does_not(grid):
    detection = table(grid, "detection").set_index(["attack", "defense"])
    assert detection.loc[("badnets", "perfect_removal"), "ASR_retrained"] < 0.1
    assert detection.loc[("badnets", "random_removal"), "ASR_retrained"] > 0.8


def test_no_method_failed_and_every_row_says_what_it_was_told(grid):
    cards = [
        card
        for file in grid.root.glob("results/digits/*/*/*/convnet/cards.json")
        for card in artifacts.load_cards(file)
    ]
    assert len(cards) == 6 * (1 + 9 + 1 + 1 + 1 + 1) + 5 * 3 + 6 * 3
    assert {card["status"] for card in cards} == {"ok"}
    assert all({"told", "target_share", "flags", "seed"} <= card.keys() for card in cards)


def test_the_clean_model_and_the_controls_stand_in_every_table(grid):
    for name in ("attacks", "detection", "inversion", "repair", "test_time"):
        assert "none" in set(table(grid, name)["attack"]), name
        for kind in ("md", "tex"):
            assert (grid.root / f"results/tables/{name}.{kind}").read_text().strip()
    assert {"random_removal", "perfect_removal"} <= set(table(grid, "detection")["defense"])
    assert "no_defense" in set(table(grid, "repair")["defense"])


def test_pictures_and_report_are_there(grid):
    for name in ("preview", "latents", "invert/neural_cleanse/triggers"):
        pictures = list(grid.root.glob(f"results/digits/*/*/*/convnet/{name}.png"))
        assert len(pictures) == 6
    page = (grid.root / "results/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 * 6
    assert (grid.root / "results/summary.txt").read_text().count("\n") > 10
