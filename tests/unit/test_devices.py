"""A job's device: named, or a GPU with the fewest jobs on it."""

import subprocess
import sys

import pytest
import torch

from keyhole.running import devices
from keyhole.running.logs import JobError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    devices.job_device.cache_clear()
    monkeypatch.setattr(devices, "_held", [])
    yield
    for lock in devices._held:
        lock.release()
    devices.job_device.cache_clear()


def test_the_environment_names_the_device(monkeypatch):
    monkeypatch.setenv("KEYHOLE_DEVICE", "meta")
    assert devices.on_device(torch.ones(2)).device.type == "meta"


def test_an_unknown_device_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("KEYHOLE_DEVICE", "cudaa")
    with pytest.raises(JobError, match=r"^KEYHOLE_DEVICE: expected cpu, cuda or a card such as cuda:1, got 'cudaa'$"):
        devices.job_device()


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.delenv("KEYHOLE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.job_device() == torch.device("cpu")


def test_jobs_spread_over_the_cards_and_leave_them_when_they_end(tmp_path):
    def taken_by_another_process() -> int:
        code = "import sys, pathlib; from keyhole.running.devices import take_card;"
        code += "print(take_card(['a', 'b'], pathlib.Path(sys.argv[1])))"
        command = [sys.executable, "-c", code, str(tmp_path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert taken_by_another_process() == 0
    assert devices.take_card(["a", "b"], tmp_path) == 0
    assert taken_by_another_process() == 1
    assert [devices.take_card(["a", "b"], tmp_path) for _ in range(3)] == [1, 0, 1]
    assert taken_by_another_process() == 0
