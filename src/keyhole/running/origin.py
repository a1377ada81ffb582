"""What a row says about its origin: versions, commit, hardware."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["commit", "hardware", "origin", "versions"]

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "snakemake")


@cache
def commit() -> str:
    """Short hash of the commit, `+dirty` with uncommitted changes; `unknown` where git does not track this package."""
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    head = _git("rev-parse", "--short", "HEAD")
    if not tracked or not head:
        return "unknown"
    return head + ("+dirty" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str:
    # without optional locks: many jobs ask at the same time, and `git status` would write the index
    command = ["git", "-C", str(PACKAGE), "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries whose numbers it reports."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("keyhole", *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def hardware(import_torch: bool = False) -> str:
    """Model of the processor, and of the GPU if torch is imported already or may be imported (seconds)."""
    if import_torch:
        import torch
    else:
        torch = sys.modules.get("torch")  # type: ignore[assignment]
    gpu = [torch.cuda.get_device_name()] if torch and torch.cuda.is_available() else []
    return ", ".join([_processor(), *gpu])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())


def origin() -> dict[str, str]:
    """The columns that a card carries about where its numbers come from."""
    listed: Sequence[str] = [f"{name} {number}" for name, number in versions().items()]
    return {"commit": commit(), "versions": ", ".join(listed), "hardware": hardware()}
