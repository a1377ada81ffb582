"""The columns that say where a row comes from: commit, versions, hardware."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["commit", "hardware", "origin", "versions"]

PACKAGE = Path(__file__).parents[1]
LARGEST = 2**20  # bytes read from a changed file, at most
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "snakemake")


@cache
def commit() -> str:
    """Return the commit's short hash, followed by `+dirty.` and a digest of the changed files if there are any.

    `unknown` if git does not track this package.
    """
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    head = _git("rev-parse", "--short", "HEAD").strip()
    if not tracked or not head:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=all", "--no-renames", "-z")
    return head + (f"+dirty.{_digest(changed)}" if changed else "")


def _digest(changed: str) -> str:
    """Return eight hex digits for the changed files: kinds of change, names, sizes and contents.

    Only the beginning of a large file is read, since every job needs this digest and data may lie among the code.

    Args:
        changed: the output of `git status --porcelain -z`.
    """
    root = Path(_git("rev-parse", "--show-toplevel").rstrip("\n"))
    digest = hashlib.sha256(changed.encode("utf-8", "surrogateescape"))
    for line in filter(None, changed.split("\0")):
        path = root / line[3:]  # after two letters and a space
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.stat().st_size}\n".encode())
                digest.update(file.read(LARGEST))
    return digest.hexdigest()[:8]


def _git(*arguments: str) -> str:
    # without optional locks: many jobs run this at the same time, and `git status` would write the index
    command = ["git", "-C", str(PACKAGE), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
        return done.stdout.decode("utf-8", "surrogateescape")
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that its numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    numbers = {"python": platform.python_version()}
    for name in ("keyhole", *LIBRARIES):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "unknown"
    return numbers


def hardware(import_torch: bool = False) -> str:
    """Return the model of the processor, and of the GPU if torch is imported.

    Args:
        import_torch: import torch to ask for the GPU, which takes seconds.
    """
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
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def origin() -> dict[str, str]:
    """Return the columns of a card that say where its numbers come from."""
    listed: Sequence[str] = [f"{name} {number}" for name, number in versions().items()]
    return {"commit": commit(), "versions": ", ".join(listed), "hardware": hardware()}
