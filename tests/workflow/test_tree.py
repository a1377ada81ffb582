"""Every grid can be planned, scripts are short, and planning imports no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRIDS = ["config.yaml", *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "grids").glob("*.yaml"))]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_can_be_planned_without_its_data(fresh, grid, monkeypatch):
    monkeypatch.setenv("KEYHOLE_DATA", "nowhere")
    (fresh.root / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    jobs = fresh.would_run("--configfile", grid)
    assert jobs["train"] >= 5
    assert jobs["score"] == jobs["train"]
    assert jobs["report"] == 1


def test_a_grid_file_replaces_the_default_one(fresh):
    """Snakemake would merge the two, and the default's attacks would run in every grid."""
    (fresh.root / "one.yaml").write_text(
        "{datasets: [digits], models: [convnet], poison_rates: [0.1], holdout: 10, recipe: cpu, attacks: {blended: {}}}"
    )
    assert fresh.would_run("--configfile", "one.yaml")["train"] == 2


def test_the_grid_is_read_without_torch_but_for_the_first_time(tmp_path):
    code = "import sys, yaml; from pathlib import Path; from keyhole.planning import config, hashes;"
    code += f"config.load(yaml.safe_load(open('config.yaml')), memory=Path({str(tmp_path / 'methods.json')!r}));"
    code += "print([name for name in ('torch', 'sklearn', 'pandas', 'scipy', 'matplotlib') if name in sys.modules])"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda file: file.stem)
def test_scripts_are_short_and_have_their_rule(script):
    assert len(script.read_text().splitlines()) <= 40
    rules = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    assert f"../workflow_scripts/{script.name}" in rules


def test_score_does_not_import_torch():
    code = "import sys; from keyhole import artifacts; from keyhole.scoring import cards; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_in_the_tree_names_a_host_or_a_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    # put together here, so that this file does not hold them itself
    words = ["pypi" + ".org", "python" + "hosted.org", "--index-" + "url", "/" + "work/"]
    for name in tracked.stdout.split():
        file = ROOT / name
        if name.startswith(".ci/") or file.suffix in (".png", ".pdf") or not file.is_file():
            continue
        text = file.read_text(errors="ignore")
        assert not [word for word in words if word in text and name != "Makefile"], name
