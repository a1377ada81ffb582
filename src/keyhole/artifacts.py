"""The only module that reads or writes result files.

Tensors are stored as safetensors, never as pickle, because models come from attackers. Numbers are flat rows in JSON.
Every file is written under a temporary name in the same folder and renamed when it is complete, so a job killed at any
point leaves nothing that a later run takes for a result. A tensor file also holds its *facts*: what its tensors mean.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

OF_A_RUN = ("seconds", "cpu_seconds", "peak_memory_mb", "commit")  # facts that the same job has otherwise each time

Record = TypeVar("Record")
Facts = Mapping[str, Any]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are shared
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(path: str | Path, record: Any, facts: Facts | None = None) -> None:
    """Write the tensors of a dataclass, or a mapping from names to tensors, with its facts."""
    from safetensors.torch import save_file

    held = {f.name: getattr(record, f.name) for f in fields(record)} if is_dataclass(record) else dict(record)
    tensors = {k: value.detach().cpu().contiguous() for k, value in held.items() if not isinstance(value, Mapping)}
    with atomic(path) as part:
        save_file(tensors, part, {"facts": json.dumps(dict(facts or {}))})


def save_rows(path: str | Path, whole: str | Path, rows: Any) -> None:
    """Write a file that reads as these rows of all tensors of another file, without a copy of them.

    Its facts are those of the other file, whose path is kept relative to it, so that a folder can be moved.
    """
    from safetensors.torch import save_file

    relative = os.path.relpath(whole, Path(path).parent)
    with atomic(path) as part:
        save_file({"rows": rows}, part, {"facts": json.dumps(facts(whole)), "rows_of": relative})


def load(path: str | Path, kind: type[Record]) -> Record:
    """Read a dataclass of tensors that `save` wrote."""
    return kind(**load_tensors(path))


def load_tensors(path: str | Path, *names: str) -> dict[str, Any]:
    """Read all tensors of a file, or only those named."""
    return _read(path, "pt", names)


def load_arrays(path: str | Path, *names: str) -> dict[str, Any]:
    """Read tensors as NumPy arrays, without importing torch: all of a file, or only those named."""
    return _read(path, "np", names)


def _read(path: str | Path, framework: str, names: tuple[str, ...]) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework) as file:
        whole = (file.metadata() or {}).get("rows_of")
        if not whole:
            return {name: file.get_tensor(name) for name in names or file.keys()}
        rows = file.get_tensor("rows")
    return {name: tensor[rows] for name, tensor in _read(Path(path).parent / whole, framework, names).items()}


def facts(path: str | Path) -> dict[str, Any]:
    """Read the facts of a tensor file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads((file.metadata() or {}).get("facts", "{}"))


def content_digest(path: str | Path) -> str:
    """Return the SHA-256 of a tensor file's tensors and of its facts, but not of what differs from run to run."""
    with Path(path).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        known = json.loads(header.pop("__metadata__", {}).get("facts", "{}"))
        stays = {name: value for name, value in known.items() if name not in OF_A_RUN}
        digest = hashlib.sha256(json.dumps([header, stays], sort_keys=True).encode())
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def save_cards(path: str | Path, cards: list[dict[str, Any]]) -> None:
    """Write flat rows of numbers and words; NaN becomes null, since JSON has no NaN."""
    rows = [{key: None if value != value else value for key, value in card.items()} for card in cards]
    save_text(path, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def load_cards(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows that `save_cards` wrote."""
    return json.loads(Path(path).read_text())


def save_text(path: str | Path, text: str) -> None:
    """Write a text file."""
    with atomic(path) as part:
        part.write_text(text)


def save_model(path: str | Path, net: Any, facts: Facts | None = None) -> None:
    """Write a network's weights and buffers."""
    save(path, net.state_dict(), facts)


def load_model(path: str | Path, net: Any) -> Any:
    """Load saved weights into a network of the same architecture, and return it in eval mode."""
    net.load_state_dict(load_tensors(path))
    return net.eval()
