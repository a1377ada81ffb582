"""The log of a job, what it does and, on its last line, how it ended; and beside it the record of a finished job.

A job stops if the code that it runs was edited after the run was planned: at its start and, for methods that are
imported later, at its end. If a run was killed, its jobs may live on; the same job of the next run then waits for
theirs, and takes over what it made.
"""

import atexit
import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from keyhole.planning.hashes import is_inert
from keyhole.planning.plan import edited
from keyhole.planning.records import Record, digest, record_file

__all__ = ["DONE", "FAILED", "JobError", "open_log"]

DONE, FAILED = "done", "failed: "  # how the last line begins, unless the job was killed

log = logging.getLogger("keyhole")


class JobError(Exception):
    """What keeps a job from running, in one line that names its place in the configuration."""


def open_log(job: Any) -> None:
    """Write progress to the log of a job, and at its end how it ended and its record.

    Args:
        job: the object `snakemake` of its script.

    Raises:
        JobError: code was edited after the run was planned.
    """
    _take_over(job)
    started = time.time_ns()
    logging.basicConfig(filename=job.log[0], filemode="w", level=logging.INFO, format="%(asctime)s %(message)s")
    log.info("rule %s", job.rule)
    sys.excepthook = _fail
    _check_code(job)
    atexit.register(_finish, job, started)


_held: list[IO[str]] = []  # records, which are locked until the process ends


def _take_over(job: Any) -> None:
    """If a job of a killed run does the same, wait for it; end this one if that one did what is asked for."""
    file = open(record_file(job.log[0]), "a")  # noqa: SIM115 (until the process ends)
    _held.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for a job of an earlier run: {job.log[0]}", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
        made = Record.read(job.log[0])
        asked = digest(job.rule, dict(job.params.items()))
        if made and made.digest == asked and all(map(os.path.exists, _flat(job.output))):
            Path(job.log[0]).write_text(f"made by a job of an earlier run\n{DONE}\n")
            raise SystemExit(0) from None
    except OSError:  # a file system without locks
        pass
    file.truncate(0)  # it was of an earlier run


def _finish(job: Any, started: int) -> None:
    """Write the record of a job that did not fail; one whose code was edited fails now."""
    try:
        _check_code(job)
        folder = os.path.dirname(job.log[0])
        files = [[os.path.relpath(file, folder) for file in _flat(each)] for each in (job.input, job.output)]
        wildcards, asked = dict(job.wildcards.items()), digest(job.rule, dict(job.params.items()))
        Record(job.rule, wildcards, asked, started, time.time_ns(), *files).write(job.log[0])
        log.info(DONE)
    except BaseException as error:
        _fail(type(error), error, error.__traceback__)
        logging.shutdown()
        os._exit(1)  # at this point an exception would not change the exit status


def _flat(files: Any) -> Iterator[str]:
    for file in files:
        yield from [file] if isinstance(file, str) else file


def _check_code(job: Any) -> None:
    names = {name for name in sys.modules if name.split(".")[0] == "keyhole" and not is_inert(name)}
    files = [sys.modules[name].__file__ for name in names]
    script = os.path.join(job.scriptdir, f"{job.rule.removesuffix('_long')}.py")
    if changed := edited([file for file in (*files, script) if file]):
        names_of_files = ", ".join(sorted(map(os.path.basename, changed)))
        raise JobError(f"{names_of_files}: edited after this run was planned; start the run again")


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write an error to the log and to standard error; of one that says all in its line, only that line."""
    atexit.unregister(_finish)
    line = (str(error).strip() or kind.__name__).splitlines()[0]
    if issubclass(kind, JobError):
        print(line, file=sys.stderr)
    else:
        log.error("the job failed", exc_info=(kind, error, trace))
        sys.__excepthook__(kind, error, trace)
        line = f"{kind.__name__}: {line}"
    log.error("%s%s", FAILED, line)
