"""Forget what failed, so that the next run tries it again: `python -m keyhole.running.retry config.yaml`."""

import argparse
import sys
from pathlib import Path

from keyhole import artifacts
from keyhole.planning import config, reading
from keyhole.planning.grid import Grid

__all__ = ["forget_failures"]


def forget_failures(grid: Grid) -> list[str]:
    """Delete the answers of a grid's defenses that failed; return their files."""
    files = [file for cell in grid.cells() for file in grid.answers_of(cell) if Path(file).exists()]
    failed = [file for file in files if artifacts.facts(file).get("status") == "failed"]
    for file in failed:
        Path(file).unlink()
    return failed


def main() -> None:
    """Forget the failures of one grid."""
    parser = argparse.ArgumentParser(
        description="Delete answers of defenses that failed, so that they are tried again."
    )
    parser.add_argument("grid", type=Path, help="its configuration")
    file = parser.parse_args().grid
    try:
        failed = forget_failures(config.load(reading.read(file), str(file)))
    except config.ConfigError as error:
        sys.exit(str(error))
    print("\n".join([*failed, f"{len(failed)} to try again"]))


if __name__ == "__main__":
    main()
