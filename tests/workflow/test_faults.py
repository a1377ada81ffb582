"""Bad input gives an error of one line; a killed job leaves no file that a later run takes for complete."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open

from keyhole import artifacts
from keyhole.planning.locks import hold
from keyhole.reporting.runs import read


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"poison_rates": [1.7]}, "config.yaml: poison_rates[0]: expected a number > 0 and < 1"),
        ({"attacks": {"badnet": {}}}, "config.yaml: attacks.badnet: unknown attack"),
        ({"attacks": {"blended": {"alhpa": 0.2}}}, "config.yaml: attacks.blended.alhpa: unknown parameter"),
        ({"datasets": ["digitz"]}, "config.yaml: datasets.digitz: unknown data set"),
    ],
)
def test_bad_config_is_refused_before_any_job_in_one_line(fresh, change, expected):
    fresh.write(**change)
    done = fresh.snakemake(check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Using")]
    assert done.returncode != 0
    assert len(said) == 1, said
    assert said[0].startswith(expected)
    assert not (fresh.root / "results").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("seeds: [0]\nseeds: [1]\n", ("--configfile", "config.yaml"), "config.yaml: seeds: the key stands twice"),
        ("seeds: [0]\nattacks:\n\tbadnets: {}\n", (), "config.yaml: line 3, column 1: "),
        ("# caf\xe9\n", (), "config.yaml: line 1: expected text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_as_it_stands_is_refused_in_one_line(fresh, text, arguments, expected):
    (fresh.root / "config.yaml").write_bytes(text.encode("latin-1"))
    done = fresh.snakemake("-n", *arguments, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Using")]
    assert done.returncode != 0
    assert len(said) == 1, said
    assert said[0].startswith(expected)


def test_a_data_set_that_is_not_whole_is_one_clear_error(fresh, tmp_path):
    np.savez(tmp_path / "mine.npz", y_train=np.arange(200) % 4)
    fresh.write(datasets={"mine": {"method": "npz", "path": str(tmp_path / "mine.npz")}}, holdout=20)
    done = fresh.snakemake("-n", check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "config.yaml: datasets.mine: cannot read" in said
    assert "no x_train among y_train" in said
    assert "Traceback" not in said


def test_a_picture_that_is_missing_is_one_clear_error(fresh):
    fresh.write(attacks={"blended": {"pattern": "no_such.png"}})
    done = fresh.snakemake("-n", check=False)
    assert done.returncode != 0
    expected = "config.yaml: attacks.blended.pattern: expected noise, shapes, or a picture file, got 'no_such.png'"
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_method_that_fails_becomes_a_row_with_a_reason(tree):
    tree.edit(
        "src/keyhole/detectors/activation_clustering.py",
        "        latents = level_latents",
        "        1 / 0\n        latents = level_latents",
    )
    tree.snakemake()
    files = list((tree.root / "results/digits").glob("*/*/*/*/cards.json"))
    assert len(files) == 3
    for file in files:
        (card,) = [c for c in artifacts.load_cards(file) if c["defense"] == "activation_clustering"]
        assert card["status"] == "failed"
        assert card["reason"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (tree.root / "results/tables/detection.md").read_text()
    assert tree.would_run() == {}
    done = subprocess.run(
        [sys.executable, "-m", "keyhole.running.retry", "config.yaml"],
        cwd=tree.root,
        env=tree.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "3 to try again"
    jobs = tree.would_run()
    assert (jobs["detect"], jobs["score"], jobs["tabulate"]) == (3, 3, 1)
    assert "train" not in jobs


def test_a_cell_that_fails_costs_only_itself_and_is_listed(tree):
    summary = (tree.root / "results/summary.txt").read_text()
    wrong = ("attack.poison(", "1 / (cell['attack'] != 'badnets') and attack.poison(")
    tree.edit("workflow_scripts/poison.py", *wrong)
    tree.edit("src/keyhole/attacks/blended.py", "    alpha: Fraction = 0.2", "    alpha: Fraction = 0.21")
    done = tree.snakemake(check=False)
    assert done.returncode != 0
    log = "results/digits/badnets/rate=0.05/seed=0/poison.log"
    lines = ["INCOMPLETE: 1 of 3 victims are missing; tables/missing.csv says why."]
    lines += [f"  digits, convnet, badnets at 5 %, seed 0: ZeroDivisionError: division by zero ({log})"]
    for text in (done.stdout, (tree.root / "results/summary.txt").read_text()):
        assert "\n".join(lines) in text
    cards = read(tree.root / "results/tables/cards.csv")
    victims = cards[cards["role"] == "attack"].set_index("attack")
    assert set(victims.index) == {"none", "blended"}
    assert json.loads(victims.loc["blended", "parameters"])["alpha"] == 0.21
    assert "Incomplete" in (tree.root / "results/report.html").read_text()
    tree.edit("workflow_scripts/poison.py", *reversed(wrong))
    tree.edit("src/keyhole/attacks/blended.py", "    alpha: Fraction = 0.21", "    alpha: Fraction = 0.2")
    tree.snakemake()
    assert "INCOMPLETE" not in (tree.root / "results/summary.txt").read_text()
    assert (tree.root / "results/summary.txt").read_text().splitlines()[:3] == summary.splitlines()[:3]
    assert tree.would_run() == {}


@pytest.mark.parametrize(
    "grid",
    [
        {"detectors": {}, "filters": {}},
        {"attacks": {}, "detectors": {}, "filters": {}, "holdout": 0},
        {"attacks": {"badnets": {"rates": [0.0008]}}, "filters": {}},  # one payload row
    ],
    ids=["no defenses", "clean reference only", "one payload row"],
)
def test_small_grids_end_in_a_report(tree, grid):
    tree.write(**grid)
    tree.snakemake()
    assert (tree.root / "results/report.html").exists()
    assert "INCOMPLETE" not in (tree.root / "results/summary.txt").read_text()
    assert tree.would_run() == {}


def test_a_victim_that_diverges_has_its_tables_and_pictures(tree):
    tree.write(attacks={"badnets": {}}, recipe={"name": "cpu", "epochs": 1, "learning_rate": 1.0e30})
    tree.snakemake()
    cards = read(tree.root / "results/tables/cards.csv")
    assert set(cards.loc[cards["role"] == "attack", "CA"]) <= {0.1, 0.0} or (cards["excluded"] != "").any()
    assert (tree.root / "results/report.html").exists()


def test_what_is_deleted_is_made_again(tree):
    folder = tree.root / "results/digits/badnets/rate=0.05/seed=0/convnet"
    gone = ["detect/spectral_signatures/suspicion.safetensors", "preview.png", "cards.json"]
    for file in [*(folder / name for name in gone), tree.root / "results/tables/detection.csv"]:
        file.unlink()
    shutil.rmtree(tree.root / "results/figures")
    jobs = dict.fromkeys(("detect", "draw", "score", "tabulate", "plot", "report"), 1)
    assert tree.would_run() == jobs
    tree.snakemake()
    assert all((folder / name).exists() for name in gone)
    assert (tree.root / "results/tables/detection.csv").exists()
    assert tree.would_run() == {}


def test_edits_during_a_run_change_nothing_silently(fresh):
    """Jobs take the configuration that the run was planned with, and stop rather than run other code."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    run = subprocess.Popen(
        command, cwd=fresh.root, env=fresh.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.time() + 200
    while not (fresh.root / "results/data/digits/fetch.log").exists() and time.time() < deadline:
        time.sleep(0.02)
    fresh.write(recipe={"name": "cpu", "epochs": 1})
    fresh.edit("src/keyhole/detectors/activation_clustering.py", "n_init=10", "n_init=11")
    said, _ = run.communicate()
    assert run.returncode != 0
    assert "activation_clustering.py: edited after this run was planned; start the run again" in said
    facts = artifacts.facts(fresh.root / "results/digits/badnets/rate=0.05/seed=0/convnet/predictions.safetensors")
    assert json.loads(facts["training"])["epochs"] == 2
    assert not list(fresh.root.glob("results/**/suspicion.safetensors")) or "detect" in fresh.would_run()
    assert fresh.would_run()["train"] == 3, "with the configuration of today"
    fresh.write()
    jobs = fresh.would_run()
    assert "train" not in jobs
    assert jobs["detect"] == 3


def test_two_checkouts_exclude_each_other_from_one_folder(fresh, tmp_path):
    fresh.write(results=str(tmp_path / "shared"))
    hold(tmp_path / "shared")
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert f"process {os.getpid()} of " in done.stdout + done.stderr
    assert "choose another folder" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "shared/digits").exists()


def test_jobs_of_a_killed_run_are_taken_over_not_run_twice(fresh):
    fresh.write(attacks={}, recipe={"name": "cpu", "epochs": 400})  # long enough for the next run to meet it
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--until", "train"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=fresh.root, env=fresh.environment(), **quiet)
    deadline = time.time() + 120
    while not list(fresh.root.glob("results/digits/*/*/*/convnet/train.log")) and time.time() < deadline:
        time.sleep(0.02)
    run.kill()  # its job lives on
    run.wait()
    done = fresh.snakemake("--until", "train")  # at once: there is nothing to unlock
    assert (done.stdout + done.stderr).count("waiting for a job of an earlier run: ") == 1
    assert "train" not in fresh.would_run("--until", "train")


def test_a_killed_run_leaves_whole_files_and_is_resumed(fresh):
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    run = subprocess.Popen(
        command,
        cwd=fresh.root,
        env=fresh.environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not list(fresh.root.glob("results/digits/*/*/*/*/model.safetensors")) and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    made = list(fresh.root.glob("results/**/[!.]*.safetensors"))
    assert made
    for file in made:
        with safe_open(file, "np") as opened:  # a half-written file has no whole header, or too few bytes
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                opened.get_tensor(name)
    fresh.snakemake()
    assert fresh.would_run() == {}
