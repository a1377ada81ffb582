"""Make `published/<grid>` from the results of a grid: tables, figures, summary, and where the numbers come from.

Only results of clean commits are published, so that they can be made again. A grid may be run in several sittings:
victims that were published before stay beside those of this results folder, and what is missing is listed.

`python -m keyhole.reporting.publish grids/qi2023_cpu.yaml` writes `published/qi2023_cpu`.
"""

import argparse
import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from keyhole import artifacts
from keyhole.planning import config, reading
from keyhole.planning.grid import Grid
from keyhole.reporting import figures
from keyhole.reporting.finished import finished, key, missing_from, of_grid, only, victims
from keyhole.reporting.provenance import provenance
from keyhole.reporting.runs import CELL, read, tuples
from keyhole.reporting.tables import TIMES, Tables, tabulate

__all__ = ["Refused", "publish"]


class Refused(Exception):
    """Results are not published; the message says why."""


def publish(grid_file: Path, root: Path, today: date) -> Path:
    """Write grid, tables, figures, summary and origin of what has been run; other files of the folder stay.

    Args:
        grid_file: the configuration, below `root`.
        root: the folder of the repository.

    Raises:
        Refused: a change is not committed, or there are no results, or they are not of this grid or not of clean
            commits.
    """
    folder = root / "published" / grid_file.stem
    _check_tree(root, folder)
    grid = config.load(reading.read(grid_file), str(grid_file))
    new, _ = finished(grid, root / grid.results)
    if new is None:
        raise Refused(f"expected results of this grid in {root / grid.results}; run it first")
    _check_commits(new)
    cards = _in_order(pd.concat([new, _published_before(folder, grid, new)], ignore_index=True), grid)
    missing = [(str(cell), "not run yet", "") for cell in missing_from(cards, grid)]
    tables = tabulate(cards, [(str(cell), why) for cell, why in grid.skipped()], missing)
    for part in ("tables", "figures"):
        shutil.rmtree(folder / part, ignore_errors=True)
    tables.write(folder / "tables")
    pictures = [folder / f"figures/{name}.png" for name in figures.names(grid)]
    figures.draw([folder / f"tables/{name}.csv" for name in ("cards", "detection")], pictures)
    _leave_out(tables, folder / "tables")
    artifacts.save_text(folder / "summary.txt", tables.summary)
    artifacts.save_text(folder / "grid.yaml", grid_file.read_text())
    command = f"make run GRID={grid_file.relative_to(root).as_posix()}"
    origin = {
        "published": today.isoformat(),
        "command": command,
        **provenance(cards),
        "missing": [cell for cell, *_ in missing],
    }
    artifacts.save_text(folder / "origin.json", json.dumps(origin, indent=1) + "\n")
    return folder


def _check_tree(root: Path, folder: Path) -> None:
    """Refuse uncommitted changes outside the folder that is being published."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--", ".", f":(exclude){folder.relative_to(root)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"expected a git checkout: {done.stderr.strip()}")
    if done.stdout:
        raise Refused(f"expected a clean working tree; commit or put away first:\n{done.stdout.rstrip()}")


def _check_commits(cards: DataFrame) -> None:
    commits = cards.reindex(columns=["commit"])["commit"].fillna("unknown")
    for word in ("unknown", "+dirty"):
        bad = cards[commits.str.contains(word, regex=False)]
        if len(bad):
            roles = ", ".join(f"{role}: {n}" for role, n in bad["role"].value_counts().items())
            raise Refused(
                f"expected cards of clean commits, got {len(bad)} of commit {word} ({roles}); make them again"
            )


def _published_before(folder: Path, grid: Grid, new: DataFrame) -> DataFrame:
    """Return the cards of earlier sittings: victims of this grid, with its defenses, that are not made anew."""
    file = folder / "tables/cards.csv"
    if not file.exists():
        return new.iloc[:0]
    cards = read(file)
    if file.with_name("costs.csv").exists():
        cards = cards.join(read(file.with_name("costs.csv"))[TIMES])  # row by row
    return only(cards, victims(of_grid(cards, grid)) - victims(new)) if "recipe" in cards else new.iloc[:0]


def _in_order(cards: DataFrame, grid: Grid) -> DataFrame:
    """Sort cards as the grid has its cells; tables have their order."""
    place = {key(cell, grid): i for i, cell in enumerate(grid.cells())}
    order = pd.Series([place[cell] for cell in tuples(cards, CELL)]).sort_values(kind="stable").index
    return cards.iloc[order].reset_index(drop=True)


def _leave_out(tables: Tables, folder: Path) -> None:
    """Remove tables without rows, and forms that a reader of the page does not need."""
    empty = {name for name, table in tables.values.items() if table.empty}
    for file in folder.iterdir():
        if file.suffix not in (".csv", ".md") or file.stem in empty:
            file.unlink()


def main() -> None:
    """Publish one grid of this checkout."""
    parser = argparse.ArgumentParser(description="Copy a grid's results, with their origin, to published/.")
    parser.add_argument("grid", type=Path, help="its configuration, a file in grids/")
    try:
        folder = publish(parser.parse_args().grid.resolve(), Path.cwd(), date.today())
    except (Refused, config.ConfigError) as why:
        sys.exit(f"not published: {why}")
    print(f"wrote {folder}; say in its README.md what the numbers show")


if __name__ == "__main__":
    main()
