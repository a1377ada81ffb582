"""A method's error becomes facts, a machine's is raised; a job's log says at its end how the job ended."""

import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError

from keyhole.planning import plan
from keyhole.planning.records import Record
from keyhole.running.outcome import attempt


def failing(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_the_machines_fault_is_raised(error):
    with pytest.raises(type(error)):
        attempt(failing(error))


@pytest.mark.parametrize(
    "error", [ValueError("no payload\nat all"), RuntimeError("shapes differ"), ZeroDivisionError()]
)
def test_a_methods_fault_becomes_facts(error):
    outcome = attempt(failing(error))
    assert outcome.value is None
    assert outcome.facts["status"] == "failed"
    assert outcome.facts["reason"] == f"{type(error).__name__}: {error}".splitlines()[0]


START = """
from types import SimpleNamespace
from keyhole.running.logs import JobError, open_log
job = SimpleNamespace(log=["{folder}/a.log"], rule="train", wildcards={{"seed": "0"}}, params={{"code": "1"}})
job.input, job.output, job.scriptdir = ["{folder}/in", ["{folder}/more"]], ["{folder}/out"], "{folder}"
open_log(job)
"""


@pytest.mark.parametrize(
    ("ends", "last", "said"),
    [
        ("pass", "done", ""),
        ("raise ValueError('of two\\nlines')", "failed: ValueError: of two", "Traceback"),
        (
            "raise JobError('datasets.mine: no images')",
            "failed: datasets.mine: no images",
            "datasets.mine: no images\n",
        ),
        ("raise KeyboardInterrupt", "failed: KeyboardInterrupt: KeyboardInterrupt", "Traceback"),
    ],
)
def test_the_last_line_of_a_log_says_how_the_job_ended(ends, last, said, tmp_path):
    script = f"{START.format(folder=tmp_path)}\n{ends}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert bool(done.returncode) == (last != "done")
    assert (tmp_path / "a.log").read_text().rstrip().splitlines()[-1].endswith(f" {last}")
    assert done.stderr.startswith(said)
    assert ("Traceback" in (tmp_path / "a.log").read_text()) == (said == "Traceback")
    assert (Record.read(tmp_path / "a.log") is not None) == (last == "done"), "only a finished job has a record"


@pytest.fixture
def planned(tmp_path):
    """A folder whose script belongs to a run that was planned with the code as it is."""
    (tmp_path / "train.py").write_text("x = 1\n")
    plan.freeze({"seeds": [0]}, tmp_path / "memory", tmp_path)
    yield tmp_path
    del os.environ[plan.PLAN]


@pytest.mark.parametrize("edit", ["", "# a remark\n", "x = 2\n"])
def test_a_job_whose_code_was_edited_meanwhile_fails(edit, planned):
    script = f"{START.format(folder=planned)}\nopen('{planned}/train.py', 'a').write({edit!r})\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if edit.startswith("x"):
        assert done.returncode == 1
        assert done.stderr == "train.py: edited after this run was planned; start the run again\n"
        assert Record.read(planned / "a.log") is None
    else:
        assert done.returncode == 0
        assert Record.read(planned / "a.log").outputs == ["out"]


def test_a_job_waits_for_the_same_job_of_a_killed_run_and_takes_over_what_it_made(tmp_path):
    script = f"{START.format(folder=tmp_path)}\nimport time\ntime.sleep(float(sys.argv[1]))\n"
    script += f"open('{tmp_path}/out', 'w').write(sys.argv[1])\n"
    command = [sys.executable, "-c", f"import sys\n{script}"]
    first = subprocess.Popen([*command, "3"])
    while not (tmp_path / "a.log").exists():
        time.sleep(0.05)
    (tmp_path / "a.log").unlink()  # as Snakemake does before a job
    second = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert (first.wait(), second.returncode) == (0, 0)
    assert second.stderr == f"waiting for a job of an earlier run: {tmp_path}/a.log\n"
    assert (tmp_path / "out").read_text() == "3"
    assert (tmp_path / "a.log").read_text().endswith("done\n")
    assert subprocess.run([*command, "0"]).returncode == 0
    assert (tmp_path / "out").read_text() == "0", "nothing is taken over from a job that is long finished"


def test_a_job_takes_the_configuration_of_its_run(planned):
    assert plan.planned_config() == {"seeds": [0]}


def test_outside_of_a_run_nothing_is_planned():
    assert plan.planned_config() is None
    assert plan.edited([__file__]) == []
