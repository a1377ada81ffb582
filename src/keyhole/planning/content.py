"""Compute digests of the user's own files: jobs that read a file run again when its digest changes.

A digest depends on the contents of a file, and for a folder also on the names in it. It does not depend on times, nor
on the path of the file or folder. Contents are read once and remembered with names, sizes and times: while these stay
the same, the contents are not read again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from keyhole.artifacts import save_text

__all__ = ["Contents"]

File = tuple[str, str, tuple[int, ...]]  # path inside the folder, full path, size and times


class Contents:
    """Digests of files and folders, remembered in the file `memory`.

    If `memory` can be neither read nor written, the digests are computed again.
    """

    def __init__(self, memory: str | Path) -> None:
        self._memory = Path(memory)
        self._remembered: dict[str, dict[str, str]] = _load(self._memory)
        self._computed: dict[str, str] = {}  # path -> digest, which this process does not compute again

    def digest(self, paths: Iterable[str]) -> str:
        """Return sixteen hex digits for these files and folders, in this order.

        A file that no longer exists keeps its last digest, so that results stay valid when raw data are deleted.
        """
        return _hash(*map(self._digest, paths))

    def _digest(self, path: str) -> str:
        if path not in self._computed:
            self._computed[path] = self._compute(path)
        return self._computed[path]

    def _compute(self, path: str) -> str:
        last = self._remembered.get(path, {"stamp": "", "digest": ""})
        try:
            listing = _listing(Path(path).expanduser())
            stamp = _hash(json.dumps([[name, *numbers] for name, _, numbers in listing]))
            if stamp == last["stamp"]:
                return last["digest"]
            digest = _hash(*(part for name, file, _ in listing for part in (name, _file_hash(file))))
        except OSError:
            return last["digest"]
        self._remember(path, {"stamp": stamp, "digest": digest})
        return digest

    def _remember(self, path: str, entry: dict[str, str]) -> None:
        self._remembered = {**_load(self._memory), path: entry}  # another process may have written in the meantime
        with suppress(OSError):
            save_text(self._memory, json.dumps(self._remembered, indent=1))


def _load(memory: Path) -> dict[str, dict[str, str]]:
    """Read the remembered digests; none if the file is missing, unreadable or damaged."""
    try:
        entries = json.loads(memory.read_text()).items()
        return {path: {"stamp": each["stamp"], "digest": each["digest"]} for path, each in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _listing(path: Path) -> list[File]:
    """List a file, or all files of a folder except hidden ones, sorted by name.

    Raises:
        OSError: there is no such file or folder.
    """
    if not path.is_dir():
        return [("", str(path), _numbers(path.stat()))]
    return sorted(_walk(str(path), "", ()))


def _walk(folder: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[File]:
    """Yield the files of a folder; `parents` are device and inode of the folders around it."""
    stat = os.stat(folder)
    identity = stat.st_dev, stat.st_ino
    if identity in parents:  # a link back to a folder around this one
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*parents, identity))
            elif entry.is_file():
                yield f"{prefix}{entry.name}", entry.path, _numbers(entry.stat())


def _numbers(stat: os.stat_result) -> tuple[int, ...]:
    """Return the size, the time of the last change of the contents, and the time of any change.

    The second can be set back, as by tools that keep times; the third cannot.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _file_hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
