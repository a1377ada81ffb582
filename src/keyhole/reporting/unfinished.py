"""Tables, figures and report of what there is: of a run that failed, was stopped, or is still going on.

They say that they are incomplete, and list each victim that is missing, why, and where its log is.

`python -m keyhole.reporting.unfinished grids/qi2023_cpu.yaml` writes them at any time.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from keyhole import artifacts
from keyhole.planning import config, reading
from keyhole.planning.grid import Grid
from keyhole.reporting import figures, report
from keyhole.reporting.finished import finished
from keyhole.reporting.tables import RENDERED, tabulate

__all__ = ["write"]


def write(grid: Grid, configuration: Mapping[str, Any]) -> str:
    """Write tables, figures and report of the victims that are finished; return the summary.

    Tables of an earlier run are removed, even if there is nothing to put in their place.

    Args:
        configuration: what the report shows as the grid.
    """
    results = Path(grid.results)
    cards, others = finished(grid, results)
    missing = [(str(m.cell), m.why, m.log) for m in others]
    for file in [*(results / "tables").glob("*.*"), *(results / "figures").glob("*.*"), results / "report.html"]:
        if file.suffix != ".log":
            file.unlink(missing_ok=True)
    if cards is None:
        lines = [f"  {cell}: {why}{f' ({log})' if log else ''}" for cell, why, log in missing]
        summary = "\n".join(["No victim of this grid is finished.", *lines]) + "\n"
        artifacts.save_text(results / "summary.txt", summary)
        return summary
    tables = tabulate(cards, [(str(cell), why) for cell, why in grid.skipped()], missing)
    tables.write(results / "tables")
    artifacts.save_text(results / "summary.txt", tables.summary)
    drawn = [results / f"figures/{name}.png" for name in figures.names(grid)]
    figures.draw([results / f"tables/{name}.csv" for name in ("cards", "detection")], drawn)
    galleries = {str(cell): [p for p in grid.pictures_of(cell) if Path(p).exists()] for cell in grid.cells()}
    shown = yaml.safe_dump(dict(configuration), sort_keys=False, default_flow_style=None)
    report.write(results / "report.html", tables.page, shown, drawn, {k: v for k, v in galleries.items() if v})
    (results / "tables" / RENDERED).unlink()  # so that the next run makes all tables anew
    return tables.summary


def main() -> None:
    """Write the tables of one grid of this checkout."""
    parser = argparse.ArgumentParser(description="Write tables, figures and report of the victims that are finished.")
    parser.add_argument("grid", type=Path, help="its configuration")
    file = parser.parse_args().grid
    try:
        given = reading.read(file)
        grid = config.load(given, str(file))
    except config.ConfigError as error:
        sys.exit(str(error))
    print(write(grid, given))


if __name__ == "__main__":
    main()
