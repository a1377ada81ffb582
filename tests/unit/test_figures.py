"""Every figure of a grid is written, shows what is in the cards, and says so where there is nothing."""

import numpy as np
import pytest
from matplotlib.image import imread
from pandas import DataFrame

from keyhole.reporting import defense_figures
from keyhole.reporting.figures import FIGURES, draw
from keyhole.reporting.latent_figures import DISTANCES, phase_family, relative_distances
from keyhole.reporting.runs import frame
from keyhole.reporting.tables import tabulate

MARKS = ("_null", "", "_ceiling")


def is_drawn(path):
    """Whether a picture is more than one color."""
    return imread(path)[..., :3].std() > 0.01


def cards(judged=True):
    """Two attacks at two rates, two seeds, each with detectors, models trained again, a filter and latents."""
    rows = []
    for attack, method, ratio in (("badnets", "badnets", 0), ("patch", "adap_patch", 2), ("blended", "blended", 0)):
        for rate, seed in ((0.01, 0), (0.01, 1), (0.03, 0)):
            place = {"dataset": "digits", "model": "convnet", "attack": attack, "poison_rate": rate, "seed": seed}
            place |= {
                "told": "",
                "controls": "dirty-label",
                "target_share": 10 * rate,
                "payload": 40,
                "cover": 40 * ratio,
            }
            failed = [] if judged or attack == "badnets" else ["attack_failed"]
            victim = {"role": "attack", "defense": "none", "flags": failed, "CA": 0.9, "ASR": 0.9, "RA": 0.1}
            rows.append({**place, **victim, "ASR_natural": 0.01, "method": method, "target_classes": [seed]})
            common = {**place, "status": "ok", "flags": [], "ASR_victim": 0.9}
            for name, auroc in (("scan", 0.9), ("spectre", 0.2)):
                found = {
                    "role": "detector",
                    "looks_at": "latents",
                    "defense": name,
                    "AUROC": auroc,
                    "AUROC_target": auroc,
                    "TPR": auroc,
                }
                rows.append({**common, **found})
                rows.append({**common, "role": "retraining", "defense": name, "CA": 0.9, "ASR": 1 - auroc, "RA": 0.5})
            rows.append({**common, "role": "filter", "defense": "strip", "AUROC": 0.7})
            for level, space in (("stem", "raw"), ("stem", "whitened"), ("penultimate", "raw")):
                measured = {"distance_auroc": 0.6, "lda_auroc": 0.9, "silhouette": 0.1}
                measured |= {f"{metric}{mark}": 0.1 * i for metric in DISTANCES for i, mark in enumerate(MARKS)}
                rows.append(
                    {**common, "role": "separability", "defense": "none", "level": level, "transform": space} | measured
                )
    return frame(rows)


def written(found, folder):
    """The files that figures are drawn from."""
    tabulate(found).write(folder)
    return [folder / "cards.csv", folder / "detection.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_the_same_twice(name, tmp_path):
    files = written(cards(), tmp_path)
    for folder in ("a", "b"):
        draw(files, [tmp_path / folder / f"{name}.{kind}" for kind in ("png", "pdf")])
    assert is_drawn(tmp_path / f"a/{name}.png")
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a/{name}.{kind}").read_bytes() == (tmp_path / f"b/{name}.{kind}").read_bytes()


def test_a_figure_is_drawn_once_for_all_its_files(tmp_path, monkeypatch):
    drawn, plot = [], defense_figures.plot_attacks
    monkeypatch.setattr(defense_figures, "plot_attacks", lambda table: drawn.append(len(table)) or plot(table))
    draw(written(cards(), tmp_path), [tmp_path / "attacks.png", tmp_path / "attacks.pdf"])
    assert len(drawn) == 1


def test_a_figure_that_cannot_be_drawn_says_why_and_the_others_are_drawn(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(defense_figures, "plot_attacks", lambda table: table["no such column"])
    draw(written(cards(), tmp_path), [tmp_path / "attacks.png", tmp_path / "ladder.png"])
    assert is_drawn(tmp_path / "attacks.png")
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
    monkeypatch.undo()
    draw(written(cards(), tmp_path), [tmp_path / "other/ladder.png"])
    assert (tmp_path / "ladder.png").read_bytes() == (tmp_path / "other/ladder.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection", "levels", "distances", "phase", "ladder"])
def test_excluded_cells_look_different(name, tmp_path):
    for judged in (True, False):
        draw(written(cards(judged), tmp_path), [tmp_path / str(judged) / f"{name}.png"])
    assert not np.array_equal(*(imread(tmp_path / f"{judged}/{name}.png") for judged in (True, False)))


@pytest.mark.parametrize("name", FIGURES)
def test_a_grid_without_attacks_still_has_its_figures(name, tmp_path):
    found = cards()
    draw(written(found[found["attack"] == "absent"], tmp_path), [tmp_path / f"{name}.png"])
    assert is_drawn(tmp_path / f"{name}.png")


@pytest.mark.parametrize("name", ["levels", "families", "evasion", "cleansing"])
def test_a_grid_without_defenses_still_has_its_figures(name, tmp_path):
    victim = {"role": "attack", "defense": "none", "flags": [], "CA": 0.9, "ASR": 0.9, "RA": 0.1, "ASR_natural": 0}
    place = {"dataset": "digits", "model": "convnet", "attack": "badnets", "poison_rate": 0.01, "seed": 0}
    files = written(frame([victim | place]), tmp_path)
    draw(files, [tmp_path / f"{name}.png"])
    assert is_drawn(tmp_path / f"{name}.png")


def test_distances_stand_between_their_null_and_their_ceiling():
    """Over seeds the mean of the positions, raw latents only; planted: a quarter and three quarters of the way."""
    rows = [
        {"level": level, "transform": space} | {m + x: v for m in DISTANCES for x, v in zip(MARKS, values, strict=True)}
        for level, space, values in (
            ("stem", "raw", (1, 2, 5)),
            ("stem", "raw", (0, 3, 4)),
            ("stem", "whitened", (0, 9, 9)),
            ("group1", "raw", (1, 9, 5)),
        )
    ]
    found = relative_distances(DataFrame(rows))
    assert list(found.columns) == list(DISTANCES.values())
    assert np.allclose(found.loc["stem"], 0.5)
    assert np.allclose(found.loc["group1"], 2)


def test_a_phase_diagram_takes_attacks_of_one_line_that_differ_in_rate_and_cover():
    found = cards()
    family = phase_family(found[found["role"] == "attack"])
    assert set(family["attack"]) == {"badnets", "patch"}  # blended has no relative with cover rows here
    assert set(family["family"]) == {"adap_patch"}
    assert set(family["ratio"]) == {0, 2}
