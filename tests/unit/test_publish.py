"""Results are published in one step, and only if they come from clean commits."""

import json
import shutil
import subprocess
from datetime import date

import pytest

from keyhole import artifacts
from keyhole.reporting.publish import Refused, publish
from keyhole.reporting.runs import read

GRID = """
{datasets: [digits], models: [convnet], poison_rates: [0.1], seeds: [0, 1], holdout: 10, recipe: cpu,
 attacks: {badnets: {}}, detectors: {scan: {}}}
"""


BADNETS = "digits, convnet, badnets at 10 %, seed 1"


def git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def make_victim(root, attack, rate, seed, commit="abc1234", detectors=("scan",), ca=0.9):
    """What a run of the grid leaves behind of one victim."""
    place = {"dataset": "digits", "model": "convnet", "recipe": "cpu", "attack": attack, "poison_rate": float(rate)}
    place |= {"seed": seed, "flags": [], "commit": commit, "cpu_seconds": 1.0, "versions": "python 3"}
    place |= {"hardware": "a processor", "told": "", "status": "ok"}
    victim = {
        "role": "attack",
        "defense": "none",
        "CA": ca,
        "ASR": 1.0,
        "RA": 0.0,
        "CA_reference": 0.9,
        "method": attack,
    }
    latents = {"role": "separability", "defense": "none", "level": "stem", "transform": "raw", "silhouette": 0.5}
    found = {"role": "detector", "TPR": 0.5, "FPR": 0.1, "AUROC": 0.7}
    rows = [victim, latents, *({**found, "defense": label} for label in detectors)]
    folder = root / f"results/digits/{attack}/rate={rate}/seed={seed}/convnet"
    artifacts.save_cards(folder / "cards.json", [{**place, **row} for row in rows])


def make_results(root, seeds=(0, 1), **changes):
    for seed in seeds:
        for attack, rate in (("none", "0"), ("badnets", "0.1")):
            make_victim(root, attack, rate, seed, **changes)


@pytest.fixture
def root(tmp_path):
    """A checkout with a finished run."""
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/small.yaml").write_text(GRID)
    (tmp_path / ".gitignore").write_text("results\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    make_results(tmp_path)
    return tmp_path


def published(root):
    return publish(root / "grids/small.yaml", root, date(2026, 1, 2))


def test_grid_tables_figures_summary_and_origin_are_written(root):
    (root / "published/small").mkdir(parents=True)
    (root / "published/small/README.md").write_text("by hand")
    folder = published(root)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    names = ("attacks", "cost", "detection", "separability")
    tables = {
        "tables/cards.csv",
        "tables/costs.csv",
        "tables/missing.csv",
        *(f"tables/{name}.{kind}" for name in names for kind in ("csv", "md")),
    }
    drawn = ("attacks", "detection", "levels", "distances", "nuisance", "families", "evasion", "ladder", "cleansing")
    figures = {f"figures/{name}.png" for name in drawn}
    assert files == {"README.md", "grid.yaml", "summary.txt", "origin.json"} | tables | figures
    assert (folder / "README.md").read_text() == "by hand"
    assert (folder / "grid.yaml").read_text() == GRID
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["published"] == "2026-01-02"
    assert origin["command"] == "make run GRID=grids/small.yaml"
    assert origin["commit"] == ["abc1234"]
    assert (origin["versions"], origin["hardware"]) == (["python 3"], ["a processor"])
    assert origin["missing"] == []
    assert origin["CPU time in methods"][0] == "all: 0 min 12 s"


def test_what_was_published_may_be_published_again(root):
    folder = published(root)
    (folder / "tables/left_over.csv").write_text("of an earlier run")
    before = {file: file.read_bytes() for file in folder.rglob("*.csv")}
    published(root)
    assert {file: file.read_bytes() for file in folder.rglob("*.csv")} == {
        file: text for file, text in before.items() if file.name != "left_over.csv"
    }


def test_what_is_missing_is_listed(root):
    shutil.rmtree(root / "results/digits/badnets/rate=0.1/seed=1")
    folder = published(root)
    assert json.loads((folder / "origin.json").read_text())["missing"] == [BADNETS]
    summary = " ".join((folder / "summary.txt").read_text().split())
    assert summary.startswith("INCOMPLETE: 1 of 4 victims are missing;")
    assert f"{BADNETS}: not run yet" in summary
    assert read(folder / "tables/missing.csv")["victim"].tolist() == [BADNETS]


def test_sittings_add_up_and_the_last_one_counts(root):
    shutil.rmtree(root / "results")
    make_results(root, seeds=(0,), commit="first00")
    published(root)
    shutil.rmtree(root / "results")
    make_results(root, seeds=(1,), commit="second0")
    folder = published(root)
    assert json.loads((folder / "origin.json").read_text())["missing"] == []
    in_parts = read(folder / "tables/attacks.csv")
    assert set(in_parts["seeds"]) == {2}
    assert read(folder / "tables/costs.csv")["cpu_seconds"].notna().all(), "of the first sitting, too"
    assert json.loads((folder / "origin.json").read_text())["commit"] == ["first00", "second0"]
    make_results(root, seeds=(0,), commit="second0", ca=0.8)
    published(root)
    cards = read(folder / "tables/cards.csv")
    assert set(cards["commit"]) == {"second0"}
    assert sorted(cards.loc[cards["role"] == "attack", "CA"]) == [0.8, 0.8, 0.9, 0.9]
    assert not cards.duplicated(["attack", "seed", "role", "defense"]).any()
    assert cards["seed"].is_monotonic_increasing is False, "attack by attack, as the grid has its cells"
    shutil.rmtree(folder)
    published(root)
    assert read(folder / "tables/attacks.csv").equals(read(folder / "tables/attacks.csv"))


def test_an_earlier_sitting_with_other_defenses_does_not_count(root):
    published(root)
    (root / "grids/small.yaml").write_text(GRID.replace("scan: {}", "spectre: {}"))
    git(root, "commit", "-qam", "another detector")
    shutil.rmtree(root / "results")
    make_results(root, seeds=(0,), detectors=("spectre",))
    folder = published(root)
    assert len(json.loads((folder / "origin.json").read_text())["missing"]) == 2
    assert set(read(folder / "tables/detection.csv")["defense"]) == {"spectre"}


def test_a_changed_tree_is_refused(root):
    (root / "grids/other.yaml").write_text("new")
    with pytest.raises(Refused, match=r"clean working tree(.|\n)*grids/other.yaml"):
        published(root)
    assert not (root / "published").exists()


@pytest.mark.parametrize("commit", ["abc1234+dirty", "abc1234+dirty.0f1e2d", "unknown", None])
def test_cards_of_changed_code_are_refused(root, commit):
    make_results(root, commit=commit)
    with pytest.raises(Refused, match="cards of clean commits"):
        published(root)


def test_victims_that_met_other_defenses_are_missing(root):
    make_victim(root, "badnets", "0.1", 1, detectors=("scan", "spectre"))
    assert json.loads((published(root) / "origin.json").read_text())["missing"] == [BADNETS]
    make_results(root, detectors=())
    with pytest.raises(Refused, match="run it first"):
        published(root)


def test_a_grid_that_did_not_run_is_refused(root):
    shutil.rmtree(root / "results")
    with pytest.raises(Refused, match="run it first"):
        published(root)


def test_outside_of_git_nothing_is_published(tmp_path):
    with pytest.raises(Refused, match="git checkout"):
        published(tmp_path)
