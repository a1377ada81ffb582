"""`snakemake --profile slurm` on a real Slurm cluster, skipped if there is none."""

import shutil
import subprocess

import pytest


def answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("sbatch"), reason="no Slurm here (sbatch is not installed)")
def test_a_tiny_grid_runs_on_slurm_as_it_does_here(fresh, finished):
    if not answers("sinfo"):
        pytest.skip("Slurm is installed, but its controller does not answer sinfo")
    one = {"attacks": {"badnets": {}}, "detectors": {"spectral_signatures": {}}, "filters": {}}
    fresh.write(**one)
    env = {**fresh.environment(), "KEYHOLE_POLL": "5"}
    done = subprocess.run(
        ["snakemake", "--profile", "slurm"], cwd=fresh.root, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-5000:]
    logs = list((fresh.root / "logs/slurm").rglob("*.log"))
    assert any("rule_train" in str(file) for file in logs), "no job went through Slurm"
    model = "results/digits/badnets/rate=0.05/seed=0/convnet/model.safetensors"
    from keyhole import artifacts

    here, there = (artifacts.load_arrays(tree.root / model) for tree in (finished, fresh))
    assert all((here[name] == there[name]).all() for name in here)
    assert (fresh.root / "results/tables/detection.csv").is_file()
    assert fresh.would_run() == {}
