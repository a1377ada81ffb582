"""A method's error becomes facts, a machine's is raised; a job's log says at its end how the job ended."""

import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

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
    script = (
        f"from keyhole.running.logs import JobError, open_log\nopen_log({str(tmp_path / 'a.log')!r}, 'train')\n{ends}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert bool(done.returncode) == (last != "done")
    assert (tmp_path / "a.log").read_text().rstrip().splitlines()[-1].endswith(f" {last}")
    assert done.stderr.startswith(said)
    assert ("Traceback" in (tmp_path / "a.log").read_text()) == (said == "Traceback")
