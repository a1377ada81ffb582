"""Results are published in one step, and only if they come from clean commits."""

import json
import subprocess
from datetime import date

import pytest

from keyhole.reporting.publish import Refused, publish
from keyhole.reporting.runs import frame
from keyhole.reporting.tables import tabulate

GRID = """
{datasets: [digits], models: [convnet], poison_rates: [0.1], seeds: [0], holdout: 10, recipe: cpu,
 attacks: {badnets: {}}}
"""


def git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def make_results(root, commit="abc1234", attacks=(("none", 0.0), ("badnets", 0.1))):
    """What a run of the grid leaves behind."""
    place = {"dataset": "digits", "model": "convnet", "seed": 0, "flags": [], "commit": commit, "cpu_seconds": 1.0}
    place |= {"versions": "python 3", "hardware": "a processor"}
    victim = {"role": "attack", "defense": "none", "CA": 0.9, "ASR": 1.0, "RA": 0.0}
    rows = [{**place, **victim, "attack": attack, "poison_rate": rate} for attack, rate in attacks]
    latents = {"role": "separability", "defense": "none", "level": "stem", "transform": "raw", "silhouette": 0.5}
    rows.append({**place, **latents, "attack": "badnets", "poison_rate": 0.1})
    tabulate(frame(rows)).write(root / "results/tables")
    (root / "results/summary.txt").write_text("all on one page\n")
    (root / "results/figures").mkdir(exist_ok=True)
    for name in ("attacks.png", "attacks.pdf"):
        (root / f"results/figures/{name}").write_bytes(b"a picture")


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
    tables = {
        f"tables/{name}" for name in ("cards.csv", "attacks.csv", "attacks.md", "separability.csv", "separability.md")
    }
    assert files == {"README.md", "grid.yaml", "summary.txt", "origin.json", "figures/attacks.png"} | tables
    assert (folder / "README.md").read_text() == "by hand"
    assert (folder / "grid.yaml").read_text() == GRID
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["published"] == "2026-01-02"
    assert origin["command"] == "make run GRID=grids/small.yaml"
    assert origin["commit"] == ["abc1234"]
    assert (origin["versions"], origin["hardware"]) == (["python 3"], ["a processor"])


def test_what_was_published_may_be_published_again(root):
    folder = published(root)
    (folder / "tables/left_over.csv").write_text("of an earlier run")
    published(root)
    assert not (folder / "tables/left_over.csv").exists()


def test_a_changed_tree_is_refused(root):
    (root / "grids/other.yaml").write_text("new")
    with pytest.raises(Refused, match=r"clean working tree(.|\n)*grids/other.yaml"):
        published(root)
    assert not (root / "published").exists()


@pytest.mark.parametrize("commit", ["abc1234+dirty", "abc1234+dirty.0f1e2d", "unknown", None])
def test_cards_of_changed_code_are_refused(root, commit):
    make_results(root, commit)
    with pytest.raises(Refused, match="cards of clean commits"):
        published(root)


def test_results_of_another_grid_are_refused(root):
    make_results(root, attacks=(("none", 0.0), ("blended", 0.1)))
    with pytest.raises(Refused, match="1 are missing and 1 are of another grid"):
        published(root)


def test_a_grid_that_did_not_run_is_refused(root):
    (root / "results/tables/cards.csv").unlink()
    with pytest.raises(Refused, match="run the grid first"):
        published(root)


def test_outside_of_git_nothing_is_published(tmp_path):
    with pytest.raises(Refused, match="git checkout"):
        published(tmp_path)
