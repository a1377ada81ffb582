"""Call a method, and record the reason if it fails."""

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from keyhole.running.origin import origin

__all__ = ["Outcome", "attempt"]

log = logging.getLogger("keyhole")


@dataclass(frozen=True)
class Outcome:
    """The value that a call returned (None if it failed), and the columns that say how the call went."""

    value: Any
    facts: dict[str, Any]


def attempt(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call a method; turn a failure into facts, so that the table still gets its row.

    Raises:
        MemoryError, torch.OutOfMemoryError: memory ran out; the scheduler may try again with more.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    value, status, reason = None, "ok", ""
    try:
        value = call(*arguments)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
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
