"""The figures of a grid: each with its name, the function that draws it, and the table that it is drawn from."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from keyhole.reporting import canvas, defense_figures, latent_figures
from keyhole.reporting.columns import COLUMNS
from keyhole.reporting.runs import read

__all__ = ["FIGURES", "Plot", "draw"]


@dataclass(frozen=True)
class Plot:
    """How a figure is drawn."""

    draw: Callable[[DataFrame], Figure]
    table: str = "cards"  # its CSV file


FIGURES = {
    "attacks": Plot(defense_figures.plot_attacks),
    "detection": Plot(defense_figures.plot_detection, "detection"),
    "levels": Plot(latent_figures.plot_levels),
    "distances": Plot(latent_figures.plot_distances),
    "phase": Plot(latent_figures.plot_phase),
    "nuisance": Plot(latent_figures.plot_nuisance),
    "families": Plot(defense_figures.plot_families),
    "evasion": Plot(defense_figures.plot_evasion),
    "cleansing": Plot(defense_figures.plot_cleansing),
    "ladder": Plot(defense_figures.plot_ladder),
}


def draw(tables: Iterable[str | Path], paths: Iterable[str | Path]) -> None:
    """Draw each figure once and write it to all paths that have its name.

    Args:
        tables: CSV files, those that the figures are drawn from.
    """
    data = {Path(file).stem: _complete(read(file)) for file in tables}
    files = defaultdict(list)
    for path in map(Path, paths):
        files[path.stem].append(path)
    for name, own in files.items():
        canvas.save(FIGURES[name].draw(data[FIGURES[name].table]), *own)


def _complete(table: DataFrame) -> DataFrame:
    """The table with all columns; those that this grid has no method for are blank."""
    names = [column.name for column in COLUMNS if "<" not in column.name]
    return table.reindex(columns=list(dict.fromkeys([*table, *names]))).copy()  # in one block
