"""Bad input gives an error of one line; a killed job leaves no file that a later run takes for complete."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open

from keyhole import artifacts


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
    fresh.snakemake("--unlock")
    fresh.snakemake()
    assert fresh.would_run() == {}
