"""The figures of a grid, one record each: the table that it is drawn from, and what a grid must have for it.

A figure is drawn by the function `plot_<name>` of `defense_figures` or `latent_figures`. They are imported only to
draw, since Snakemake reads the records at every start.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keyhole.planning.roles import CLEAN

if TYPE_CHECKING:
    from pandas import DataFrame

    from keyhole.planning.grid import Grid

__all__ = ["FIGURES", "Plot", "draw", "names"]


@dataclass(frozen=True)
class Plot:
    """What a figure needs."""

    table: str = "cards"  # the CSV file that it is drawn from
    needs: Literal["", "retraining", "several rates"] = ""  # without it in the grid, the figure would be empty


FIGURES = {
    "attacks": Plot(),
    "detection": Plot("detection"),
    "levels": Plot(),
    "distances": Plot(),
    "phase": Plot(needs="several rates"),
    "nuisance": Plot(),
    "families": Plot(),
    "evasion": Plot(),
    "cleansing": Plot(needs="retraining"),
    "ladder": Plot(),
}


def names(grid: "Grid") -> list[str]:
    """List the figures for which a grid has data."""
    attacks = [label for label in grid.labels("attacks") if label != CLEAN]
    has = {
        "": True,
        "several rates": any(len(grid.rates_of(label)) > 1 for label in attacks),
        "retraining": any(grid.retrained(cell.attack, cell.rate, cell.seed) for cell in grid.cells()),
    }
    return [name for name, plot in FIGURES.items() if has[plot.needs]]


def draw(tables: Iterable[str | Path], paths: Iterable[str | Path]) -> None:
    """Draw each figure once and write it to all paths that have its name; one that cannot be drawn says why.

    Args:
        tables: the CSV files that the figures are drawn from.
        paths: the files to write, `attacks.png`.
    """
    from keyhole.reporting import canvas, defense_figures, latent_figures
    from keyhole.reporting.runs import read

    functions = {**vars(defense_figures), **vars(latent_figures)}
    data = {Path(file).stem: _add_columns(read(file)) for file in tables}
    files = defaultdict(list)
    for path in map(Path, paths):
        files[path.stem].append(path)
    for name, same_figure in files.items():
        canvas.draw(functions[f"plot_{name}"], data[FIGURES[name].table], to=same_figure)


def _add_columns(table: "DataFrame") -> "DataFrame":
    """Return the table with all columns; a column that no method of this grid fills is blank."""
    from keyhole.reporting.columns import COLUMNS

    names = [column.name for column in COLUMNS if "<" not in column.name]
    return table.reindex(columns=list(dict.fromkeys([*table, *names]))).copy()  # in one block
