"""What the user's own files contain, as short digests that decide what is run again.

A digest depends on contents, and for a folder on the names in it; not on times, and not on where a file or a folder
lies. Contents are read once and remembered with names, sizes and times: while these stay, so does the digest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from keyhole.artifacts import save_text

__all__ = ["Contents"]

File = tuple[str, str, tuple[int, ...]]  # name inside the folder, path, size and times


class Contents:
    """Digests of files and folders, remembered in a file; where that can be neither read nor written, they are computed
    again.
    """

    def __init__(self, memory: str | Path) -> None:
        self._memory = Path(memory)
        self._known: dict[str, dict[str, str]] = _load(self._memory)
        self._seen: dict[str, str] = {}  # by this process, which keeps to it

    def digest(self, paths: Iterable[str]) -> str:
        """Return sixteen hex digits for these files and folders, in this order.

        What is gone counts as it was when last seen, so that results stay when raw data are deleted.
        """
        return _hash(*map(self._digest, paths))

    def _digest(self, path: str) -> str:
        if path not in self._seen:
            self._seen[path] = self._look(path)
        return self._seen[path]

    def _look(self, path: str) -> str:
        known = self._known.get(path, {"stamp": "", "digest": ""})
        try:
            listing = _listing(Path(path).expanduser())
            stamp = _hash(json.dumps([[name, *numbers] for name, _, numbers in listing]))
            if stamp == known["stamp"]:
                return known["digest"]
            digest = _hash(*(part for name, file, _ in listing for part in (name, _file_hash(file))))
        except OSError:
            return known["digest"]
        self._remember(path, {"stamp": stamp, "digest": digest})
        return digest

    def _remember(self, path: str, entry: dict[str, str]) -> None:
        self._known = {**_load(self._memory), path: entry}  # other processes may have written since
        with suppress(OSError):
            save_text(self._memory, json.dumps(self._known, indent=1))


def _load(memory: Path) -> dict[str, dict[str, str]]:
    """Read what was remembered; nothing where the file is missing, unreadable, or not what we write."""
    try:
        entries = json.loads(memory.read_text()).items()
        return {path: {"stamp": each["stamp"], "digest": each["digest"]} for path, each in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _listing(path: Path) -> list[File]:
    """List a file, or all files of a folder but hidden ones, sorted by name.

    Raises:
        OSError: there is no such file or folder.
    """
    if not path.is_dir():
        return [("", str(path), _numbers(path.stat()))]
    return sorted(_walk(str(path), "", ()))


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[File]:
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in above:  # a link back to a folder around it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, (here.st_dev, here.st_ino)))
            elif entry.is_file():
                yield f"{prefix}{entry.name}", entry.path, _numbers(entry.stat())


def _numbers(stat: os.stat_result) -> tuple[int, ...]:
    """Size, and times: of the last change of the contents, which can be set back, and of any change."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _file_hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
