"""One run at a time in a folder of results: Snakemake's lock only excludes runs of the same checkout."""

import getpass
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["Held", "hold"]

_held: list[FileLock] = []  # until the process ends


class Held(Exception):
    """Another run holds the folder; the message says which."""


def hold(results: Path) -> None:
    """Hold a folder of results until this process ends.

    Raises:
        Held: another run holds it.
    """
    results.mkdir(parents=True, exist_ok=True)
    file, who = results / ".lock", results / ".held_by"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        said = who.read_text().strip() if who.exists() else "another run"
        raise Held(
            f"{results}: {said} is writing results here; wait, or choose another folder (results: ...)"
        ) from None
    _held.append(lock)
    who.write_text(f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}")
