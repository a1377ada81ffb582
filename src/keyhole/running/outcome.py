"""Call a method, and record the reason if it fails."""

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError

from keyhole.running.origin import origin

__all__ = ["Outcome", "attempt"]

log = logging.getLogger("keyhole")

# how torch's errors about a machine begin: CUDA's and its libraries', and a CPU that has no memory left
MACHINES = ("CUDA error", "CUDA driver", "CUDNN_", "CUBLAS_", "cuDNN error", "NCCL", "DefaultCPUAllocator")


@dataclass(frozen=True)
class Outcome:
    """The value that a call returned (None if it failed), and the columns that say how the call went."""

    value: Any
    facts: dict[str, Any]


def is_machines_fault(error: Exception) -> bool:
    """Return whether an error says nothing of the method: of memory, of a disk, a file system or a GPU."""
    if isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, SafetensorError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in MACHINES)


def attempt(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call a method; turn a failure into facts, so that the table still gets its row.

    Raises:
        Exception: the machine's fault; the scheduler may try again, with more memory or elsewhere.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    value, status, reason = None, "ok", ""
    try:
        value = call(*arguments)
    except Exception as error:
        if is_machines_fault(error):
            raise
        log.exception("the method failed")
        status, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    facts = {
        "status": status,
        "reason": reason,
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **origin(),
    }
    return Outcome(value, facts)
