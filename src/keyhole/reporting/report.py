"""The report: one HTML page with the grid, all tables and figures, the flags, and the origin of the numbers."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template

from keyhole import artifacts
from keyhole.scoring.flags import EXCLUDING, FLAGS

__all__ = ["MOST_BYTES", "write"]

MOST_BYTES = 20_000_000  # of pictures inside the page; if there are more, the page links to their files


@dataclass(frozen=True)
class Picture:
    """An image on the page."""

    name: str
    source: str  # the URL that the browser loads


def write(
    path: str | Path,
    rendered: Mapping[str, Any],
    config: str,
    figures: Sequence[str | Path] = (),
    galleries: Mapping[str, Sequence[str | Path]] | None = None,
    title: str = "Keyhole report",
) -> None:
    """Write the page, which opens from disk; it needs no other file if its pictures are below 20 MB.

    Args:
        rendered: the content of `tables/rendered.json`: summary, tables and provenance.
        config: the text of the configuration.
        figures: PNG files of the whole grid.
        galleries: name of a victim -> its PNG files.
    """
    galleries = galleries or {}
    files = [Path(file) for file in (*figures, *(file for few in galleries.values() for file in few))]
    embed = sum(file.stat().st_size for file in files) <= MOST_BYTES
    folder = Path(path).parent
    page = _template().render(
        title=title,
        **rendered,
        figures=[_picture(Path(file), folder, embed) for file in figures],
        galleries={cell: [_picture(Path(file), folder, embed) for file in few] for cell, few in galleries.items()},
        flags=FLAGS,
        excluding=EXCLUDING,
        config=config,
    )
    artifacts.save_text(path, page)


def _template() -> Template:
    text = resources.files("keyhole.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)


def _picture(file: Path, folder: Path, embed: bool) -> Picture:
    name = f"{file.parent.name} {file.stem}"
    if not embed:
        return Picture(name, Path(os.path.relpath(file, folder)).as_posix())
    return Picture(name, f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}")
