"""Tables of a run that did not end: what is missing is listed with its reason, and old tables are gone."""

import json

import pandas as pd
import pytest
from tests.unit.test_publish import make_victim

from keyhole.planning import config
from keyhole.reporting import unfinished
from keyhole.reporting.finished import finished

GIVEN = {
    "datasets": ["digits"],
    "models": ["convnet"],
    "poison_rates": [0.1],
    "seeds": [0, 1],
    "holdout": 10,
    "recipe": "cpu",
    "attacks": {"badnets": {}},
    "detectors": {"scan": {}},
}
BADNETS = "digits, convnet, badnets at 10 %, seed 0"


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A grid whose clean victims are finished, with tables and a report of an earlier run."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        make_victim(tmp_path, "none", "0", seed)
    for name in ("tables/detection.csv", "tables/left_over.md", "figures/attacks.pdf", "report.html", "summary.txt"):
        (tmp_path / "results" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "results" / name).write_text("of an earlier run")
    return config.load(GIVEN)


def log(root, name, text):
    path = root / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def reasons(grid, root):
    found = finished(grid, root / "results")[1]
    return {str(missing.cell): (missing.why, missing.log.removeprefix(f"{root}/results/")) for missing in found}


def test_what_failed_first_is_why_a_victim_is_missing(grid, tmp_path):
    run = "digits/badnets/rate=0.1/seed=0"
    assert reasons(grid, tmp_path)[BADNETS] == ("not run", "")
    log(tmp_path, f"{run}/poison.log", "2026-01-01 rule poison\n2026-01-01 done\n")
    log(tmp_path, f"{run}/convnet/train.log", "2026-01-01 rule train\n2026-01-01 epoch 1\n")
    assert reasons(grid, tmp_path)[BADNETS] == ("killed, or still running", f"{run}/convnet/train.log")
    log(tmp_path, f"{run}/convnet/detect/detect.log", "2026-01-01 failed: OSError: no space left\n")
    assert reasons(grid, tmp_path)[BADNETS] == ("OSError: no space left", f"{run}/convnet/detect/detect.log")
    log(tmp_path, f"{run}/poison.log", "a traceback\n2026-01-01 failed: attacks.badnets: too few rows\n")
    assert reasons(grid, tmp_path)[BADNETS] == ("attacks.badnets: too few rows", f"{run}/poison.log")


def test_a_clean_victim_that_failed_is_why_the_attacked_ones_of_its_seed_are_missing(grid, tmp_path):
    file = "digits/none/rate=0/seed=1/convnet/train.log"
    log(tmp_path, file, "failed: training failed: diverged\n")
    found = reasons(grid, tmp_path)
    assert found[BADNETS.replace("seed 0", "seed 1")] == ("training failed: diverged", file)
    assert found[BADNETS] == ("not run", "")


def test_tables_figures_and_report_are_of_what_there_is(grid, tmp_path):
    make_victim(tmp_path, "badnets", "0.1", 0)
    log(tmp_path, "digits/badnets/rate=0.1/seed=1/poison.log", "failed: ValueError: by design\n")
    page = unfinished.write(grid, GIVEN)
    missing = BADNETS.replace("seed 0", "seed 1")
    results = tmp_path / "results"
    assert page.startswith("INCOMPLETE: 1 of 4 victims are missing; tables/missing.csv says why.\n")
    assert f"{missing}: ValueError: by design (results/digits/badnets/rate=0.1/seed=1/poison.log)" in page
    assert (results / "summary.txt").read_text() == page
    assert pd.read_csv(results / "tables/missing.csv").to_dict("records") == [
        {"victim": missing, "why": "ValueError: by design", "log": "results/digits/badnets/rate=0.1/seed=1/poison.log"}
    ]
    assert pd.read_csv(results / "tables/attacks.csv")["seeds"].tolist() == [2, 1]
    for name in ("detection", "attacks"):
        assert (results / f"tables/{name}.md").read_text().count("INCOMPLETE: 1 of 4 victims are missing") == 1
    report = (results / "report.html").read_text()
    assert "Incomplete: missing victims (1)" in report
    assert missing in report
    assert not (results / "tables/left_over.md").exists()
    assert not (results / "figures/attacks.pdf").exists()
    assert (results / "figures/attacks.png").exists()
    assert not (results / "tables/rendered.json").exists(), "the next run makes all tables anew"


def test_victims_that_met_other_defenses_do_not_count(grid, tmp_path):
    make_victim(tmp_path, "badnets", "0.1", 0, detectors=("spectre",))
    assert "INCOMPLETE: 2 of 4" in unfinished.write(grid, GIVEN)


def test_without_a_victim_no_old_table_stays(grid, tmp_path):
    for cards in (tmp_path / "results").rglob("cards.json"):
        cards.unlink()
    page = unfinished.write(grid, GIVEN)
    assert page.startswith("No victim of this grid is finished.\n")
    assert BADNETS in page
    assert not list((tmp_path / "results").glob("tables/*"))
    assert not (tmp_path / "results/report.html").exists()
    assert json.dumps(page)
