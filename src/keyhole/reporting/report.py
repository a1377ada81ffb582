"""The report: one HTML page with the grid, every table and figure, what the flags mean, and where numbers come from."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, Template
from pandas import DataFrame

from keyhole import artifacts
from keyhole.reporting import rendering, tables
from keyhole.scoring.flags import EXCLUDING, FLAGS

__all__ = ["MOST_BYTES", "write"]

MOST_BYTES = 20_000_000  # of pictures in the page; with more, the page links to their files


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    name: str
    source: str  # what the browser loads


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    name: str
    title: str
    sections: list[rendering.Section]
    captions: list[str]


def write(
    path: str | Path,
    cards: DataFrame,
    config: str,
    figures: Sequence[str | Path] = (),
    galleries: Mapping[str, Sequence[str | Path]] | None = None,
    skipped: tables.Skipped = (),
    title: str = "Keyhole report",
) -> None:
    """Write the page; it opens from disk, and while its pictures are below 20 MB it needs no other file.

    Args:
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
        main_table=tables.main_table(cards, skipped),
        tables=_tables(cards, skipped),
        figures=[_picture(Path(file), folder, embed) for file in figures],
        galleries={cell: [_picture(Path(file), folder, embed) for file in few] for cell, few in galleries.items()},
        flags=FLAGS,
        excluding=EXCLUDING,
        config=config,
        provenance=_provenance(cards),
    )
    artifacts.save_text(path, page)


def _template() -> Template:
    text = resources.files("keyhole.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)


def _tables(cards: DataFrame, skipped: tables.Skipped) -> list[Table]:
    return [
        Table(name, rendering.TITLES[name], rendering.sections(name, table), tables.captions(name, cards, skipped))
        for name, table in tables.tabulate(cards).items()
    ]


def _picture(file: Path, folder: Path, embed: bool) -> Picture:
    name = f"{file.parent.name} {file.stem}"
    if not embed:
        return Picture(name, Path(os.path.relpath(file, folder)).as_posix())
    return Picture(name, f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}")


def _provenance(cards: DataFrame) -> dict[str, list[str]]:
    """Every commit, set of versions and processor among the cards, and the time that their methods took."""
    known = {name: sorted(set(cards[name].dropna())) for name in ("commit", "versions", "hardware") if name in cards}
    seconds = cards.reindex(columns=["role", "cpu_seconds"]).groupby("role", sort=False)["cpu_seconds"].sum()
    spent = [f"{role}: {_duration(total)}" for role, total in seconds.items() if total > 0]
    spent = [f"all: {_duration(seconds.sum())}", *spent]
    return {**known, "CPU time in methods": spent, "cards": [str(len(cards))]}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
