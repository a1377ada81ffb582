"""Choose the device of a job."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from keyhole.running.logs import JobError

__all__ = ["job_device", "on_device"]


def on_device(value: Any) -> Any:
    """Move a tensor or a network to the job's device."""
    return value.to(job_device())


@cache
def job_device() -> torch.device:
    """Return the device that the environment variable KEYHOLE_DEVICE names, else a GPU, else the CPU.

    On a machine with several GPUs, jobs spread over them: each takes one with the fewest Keyhole jobs on it.

    Float32 then means float32. Torch would let a GPU round the operands of convolutions to 10 bits (TF32), with which
    searches that climb far end elsewhere, such as that of I-BAU.
    """
    torch.backends.cudnn.allow_tf32 = False
    if named := os.environ.get("KEYHOLE_DEVICE"):
        try:
            return torch.device(named)
        except RuntimeError:
            raise JobError(f"KEYHOLE_DEVICE: expected cpu, cuda or a card such as cuda:1, got {named!r}") from None
    if not torch.cuda.is_available():
        return torch.device("cpu")
    cards = [torch.cuda.get_device_properties(k).uuid for k in range(torch.cuda.device_count())]
    return torch.device("cuda", take_card([str(card) for card in cards]) if len(cards) > 1 else 0)


_held: list[FileLock] = []  # until the process ends


def take_card(names: Sequence[str], folder: Path | None = None) -> int:
    """Return the number of a card with the fewest jobs on it, and count this process among them.

    Args:
        names: of the cards, the same in all processes of the machine.
        folder: of the files that count jobs; by default in the folder of temporary files.
    """
    folder = folder or Path(tempfile.gettempdir())
    place = 0
    while True:
        for card, name in enumerate(names):
            lock = FileLock(folder / f"keyhole-{name}-{place}.lock", mode=0o666)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                _held.append(lock)
                return card
        place += 1
