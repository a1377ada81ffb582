"""Records: what each finished job was made from, kept beside its log, so that results can be judged by themselves.

Snakemake's own records stay in `.snakemake` and are lost when results are copied or renamed. File times say little: a
copy changes them. So before each run file times are set from the records. A file that was made with the parameters and
code that are asked for now gets the time at which it was made. Any other gets a time long past, and is made again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyhole.artifacts import save_text

__all__ = ["Record", "digest", "long_ago", "record_file", "settle"]

PAST = 1_000_000_000  # nanoseconds after 1970
PLACES = {"data_dir", "shared", "places", "galleries"}  # params that name folders, which may be renamed

# rule and wildcards -> digest of what the job is asked to do; None if it is not in the grid
Expected = Callable[[str, Mapping[str, str]], str | None]


@dataclass(frozen=True)
class Record:
    """What a finished job was made from; paths are relative to the folder of its log."""

    rule: str
    wildcards: dict[str, str]
    digest: str  # of the rule and its params, which hold parameters and the hash of the code
    started: int  # nanoseconds since 1970
    ended: int
    inputs: list[str]
    outputs: list[str]

    @classmethod
    def read(cls, log: str | Path) -> "Record | None":
        """Read the record of the job with this log; None if there is none, or it cannot be read."""
        try:
            return cls(**json.loads(record_file(log).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, log: str | Path) -> None:
        """Write the record of the job with this log."""
        save_text(record_file(log), json.dumps(asdict(self)))


def record_file(log: str | Path) -> Path:
    """Return the file of the record of the job with this log."""
    log = Path(log)
    return log.with_name(f".{log.stem}.made")


def long_ago(file: Path) -> str:
    """Make a file that is older than any result, but newer than one that must be made again; return its path.

    A job without other inputs takes it as one, since Snakemake compares the times of inputs and outputs.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    _set_time(str(file), 2 * PAST)
    return str(file)


def digest(rule: str, params: Mapping[str, Any]) -> str:
    """Return sixteen hex digits for what a job is asked to do; the places of its files do not count."""
    described = {name: str(value) for name, value in sorted(params.items()) if name not in PLACES}
    return hashlib.sha256(json.dumps([rule, described]).encode()).hexdigest()[:16]


def settle(results: Path, expected: Expected) -> list[str]:
    """Set the times of all results of which there is a record; return those that must be made again."""
    records = list(_read(results))
    made = {file: record.ended for folder, record in records for file in _paths(folder, record.outputs)}
    outdated = []
    for folder, record in records:
        wanted = expected(record.rule, record.wildcards)
        if wanted is None:
            continue
        newest = max((made.get(file, 0) for file in _paths(folder, record.inputs)), default=0)
        fresh = wanted == record.digest and newest <= record.started
        for file in _paths(folder, record.outputs):
            _set_time(file, record.ended if fresh else PAST)
            outdated += [] if fresh else [file]
    return outdated


def _read(results: Path) -> Iterable[tuple[str, Record]]:
    for file in sorted(results.rglob(".*.made")):
        record = Record.read(file.with_name(f"{file.stem[1:]}.log"))
        if record is not None:
            yield str(file.parent), record


def _paths(folder: str, files: Iterable[str]) -> list[str]:
    return [os.path.normpath(os.path.join(folder, file)) for file in files]


def _set_time(file: str, time: int) -> None:
    with suppress(OSError):  # it was deleted, or belongs to someone else
        if os.stat(file).st_mtime_ns != time:
            os.utime(file, ns=(time, time))
