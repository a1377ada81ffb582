"""The log of a job: what it does and, on its last line, how it ended."""

import atexit
import logging
import sys
from types import TracebackType

__all__ = ["DONE", "FAILED", "JobError", "open_log"]

DONE, FAILED = "done", "failed: "  # how the last line begins, unless the job was killed

log = logging.getLogger("keyhole")


class JobError(Exception):
    """What keeps a job from running, in one line that names its place in the configuration."""


def open_log(file: str, rule: str) -> None:
    """Write progress to the log of a job, and at the end how it ended."""
    logging.basicConfig(filename=file, filemode="w", level=logging.INFO, format="%(asctime)s %(message)s")
    log.info("rule %s", rule)
    atexit.register(log.info, DONE)
    sys.excepthook = _fail


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write an error to the log and to standard error; of one that says all in its line, only that line."""
    atexit.unregister(log.info)
    line = (str(error).strip() or kind.__name__).splitlines()[0]
    if issubclass(kind, JobError):
        print(line, file=sys.stderr)
    else:
        log.error("the job failed", exc_info=(kind, error, trace))
        sys.__excepthook__(kind, error, trace)
        line = f"{kind.__name__}: {line}"
    log.error("%s%s", FAILED, line)
