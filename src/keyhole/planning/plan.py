"""The plan of a run: its configuration and the code that it was planned with, which its jobs must meet.

Jobs may start hours after they were planned. They take the configuration from the plan, whatever its file says by then,
and stop if the code that they run has been edited.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from keyhole.artifacts import save_text
from keyhole.planning.hashes import PACKAGE, source_digest

__all__ = ["PLAN", "edited", "freeze", "planned_config"]

PLAN = "KEYHOLE_PLAN"  # the environment variable by which the jobs of a run find its plan
KEPT = 30 * 24 * 3600  # seconds for which a plan may be needed


def freeze(config: Mapping[str, Any], folder: Path, scripts: Path) -> None:
    """Write the plan of a run, and let the jobs that this process starts find it; plans of long ago are removed."""
    known = _read(folder / "sources.json")  # sha256 of a source -> digest of its code
    code = {}
    for file in (*PACKAGE.rglob("*.py"), *scripts.glob("*.py")):
        sha = _sha(file)
        code[str(file)] = [sha, known.get(sha) or source_digest(file.read_text())]
    text = json.dumps({"config": config, "code": code}, default=str)
    plan = folder.absolute() / f"plan-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    save_text(plan, text)
    save_text(folder / "sources.json", json.dumps(dict(code.values())))
    for other in folder.glob("plan-*.json"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > KEPT:
                other.unlink()
    os.environ[PLAN] = str(plan)


def planned_config() -> dict[str, Any] | None:
    """Return the configuration of the run that this process belongs to; None if it starts a run."""
    return _plan(os.environ[PLAN])["config"] if PLAN in os.environ else None


def edited(files: Iterable[str]) -> list[str]:
    """List the files of code, among these, that do not say what they said when the run was planned.

    Comments, docstrings and layout do not count.
    """
    if PLAN not in os.environ:
        return []
    planned = _plan(os.environ[PLAN])["code"]
    return [file for file in files if file in planned and not _same(Path(file), *planned[file])]


def _same(file: Path, sha: str, digest: str) -> bool:
    try:
        return _sha(file) == sha or source_digest(file.read_text()) == digest
    except (OSError, SyntaxError, ValueError):  # deleted, or half written
        return False


def _sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _plan(file: str) -> dict[str, Any]:
    return _read(Path(file))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
