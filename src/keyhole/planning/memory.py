"""A small JSON file of what was worked out before, so that the next process need not do it again."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyhole import artifacts

__all__ = ["Memory"]


class Memory:
    """Values by key, in a file where one is given; a file that cannot be read or written is no error.

    Args:
        file: where values are kept between processes; None keeps them in this one only.
        stamp: what the values depend on as a whole; under another stamp the file starts anew.
    """

    def __init__(self, file: Path | None, stamp: str = "") -> None:
        self._file, self._stamp = file, stamp
        self._values: dict[str, Any] = {}
        self._changed = False
        if file:
            with suppress(OSError, ValueError, AttributeError):
                kept = json.loads(file.read_text())
                self._values = kept["values"] if kept.get("stamp") == stamp else {}

    def recall(self, key: object, work_out: Callable[[], Any]) -> Any:
        """Return the value of a key (anything that JSON can hold); work it out where it is not known."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        if name not in self._values:
            self._values[name] = work_out()
            self._changed = True
        return self._values[name]

    def save(self) -> None:
        """Write the file if anything is new; whole or not at all, since other processes read it."""
        if self._file and self._changed:
            with suppress(OSError):
                artifacts.save_text(self._file, json.dumps({"stamp": self._stamp, "values": self._values}))
                self._changed = False
