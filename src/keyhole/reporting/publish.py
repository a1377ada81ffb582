"""Copy a grid's results, with their origin, to `published/`.

Only results of clean commits are published, so that they can be made again.

`python -m keyhole.reporting.publish grids/qi2023_cpu.yaml` writes `published/qi2023_cpu`.
"""

import argparse
import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import yaml
from pandas import DataFrame

from keyhole import artifacts
from keyhole.planning import config
from keyhole.planning.grid import Grid
from keyhole.reporting.columns import TABLES
from keyhole.reporting.provenance import provenance
from keyhole.reporting.runs import is_role, read, tuples

__all__ = ["Refused", "publish"]


class Refused(Exception):
    """Results are not published; the message says why."""


def publish(grid_file: Path, root: Path, today: date) -> Path:
    """Write grid, tables, figures, summary and origin of a finished run; other files of the folder stay.

    Args:
        grid_file: the configuration, below `root`.
        root: the folder of the repository.

    Raises:
        Refused: a change is not committed, or the results are not of this grid, or not of clean commits.
    """
    folder = root / "published" / grid_file.stem
    _check_tree(root, folder)
    grid = config.load(yaml.safe_load(grid_file.read_text()), str(grid_file))
    results = root / grid.results
    if not (results / "tables/cards.csv").exists():
        raise Refused(f"expected results in {results}; run the grid first")
    cards = read(results / "tables/cards.csv")
    _check_cards(cards, grid)

    shutil.rmtree(folder / "tables", ignore_errors=True)
    for file in (*_tables(results), *sorted((results / "figures").glob("*.png")), results / "summary.txt"):
        _copy(file, folder / file.relative_to(results))
    _copy(grid_file, folder / "grid.yaml")
    command = f"make run GRID={grid_file.relative_to(root).as_posix()}"
    origin = {"published": today.isoformat(), "command": command, **provenance(cards)}
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


def _check_cards(cards: DataFrame, grid: Grid) -> None:
    """Refuse cards that are not of clean commits, or not of the victims of this grid."""
    commits = cards.reindex(columns=["commit"])["commit"].fillna("unknown")
    for word in ("unknown", "+dirty"):
        bad = cards[commits.str.contains(word, regex=False)]
        if len(bad):
            roles = ", ".join(f"{role}: {n}" for role, n in bad["role"].value_counts().items())
            raise Refused(
                f"expected cards of clean commits, got {len(bad)} of commit {word} ({roles}); make them again"
            )
    wanted = {(cell.dataset, cell.model, cell.attack, float(cell.rate), cell.seed) for cell in grid.cells()}
    victims = cards[is_role(cards, "attacks")]
    present = set(tuples(victims, ["dataset", "model", "attack", "poison_rate", "seed"]))
    if present != wanted:
        missing, others = len(wanted - present), len(present - wanted)
        raise Refused(f"expected the victims of this grid; {missing} are missing and {others} are of another grid")


def _tables(results: Path) -> list[Path]:
    """List the files of the cards and of each table that has rows, as numbers and as text."""
    full = [name for name in TABLES if len((results / f"tables/{name}.csv").read_text().splitlines()) > 1]
    return [
        results / "tables" / file for file in ("cards.csv", *(f"{n}.{kind}" for n in full for kind in ("csv", "md")))
    ]


def _copy(source: Path, target: Path) -> None:
    with artifacts.atomic(target) as part:
        shutil.copyfile(source, part)


def main() -> None:
    """Publish one grid of this checkout."""
    parser = argparse.ArgumentParser(description="Copy a grid's results, with their origin, to published/.")
    parser.add_argument("grid", type=Path, help="its configuration, a file in grids/")
    try:
        folder = publish(parser.parse_args().grid.resolve(), Path.cwd(), date.today())
    except Refused as why:
        sys.exit(f"not published: {why}")
    print(f"wrote {folder}; say in its README.md what the numbers show")


if __name__ == "__main__":
    main()
