"""Which victims of a grid are finished, and what became of the others."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from keyhole.planning.folders import CRAFTED, HELD, RUN, SHARED, VICTIM
from keyhole.planning.grid import Cell, Grid
from keyhole.planning.roles import CLEAN, DEFENSES, ROLES
from keyhole.reporting.runs import CELL, collect, is_role, tuples
from keyhole.running.logs import DONE, FAILED

__all__ = ["Missing", "finished", "key", "missing_from", "of_grid", "only", "victims"]


@dataclass(frozen=True)
class Missing:
    """A victim without cards, and why."""

    cell: Cell
    why: str
    log: str = ""  # the file that says more

    def __str__(self) -> str:
        return f"{self.cell}: {self.why}{f' ({self.log})' if self.log else ''}"


def finished(grid: Grid, results: Path) -> tuple[DataFrame | None, list[Missing]]:
    """Return the cards of all victims of a grid that have met its defenses, None if there are none, and the others.

    Cards beside the log of a job that failed are of an earlier run, and do not count.
    """
    failed = {cell: missing for cell in grid.cells() if (missing := _failed(cell, results))}
    files = [_folder(cell, results) / "cards.json" for cell in grid.cells() if cell not in failed]
    files = [file for file in files if file.exists()]
    cards = of_grid(collect(files), grid) if files else None
    others = [failed.get(cell, Missing(cell, "not run")) for cell in missing_from(cards, grid)]
    return None if cards is None or cards.empty else cards, others


def missing_from(cards: DataFrame | None, grid: Grid) -> list[Cell]:
    """List the cells of a grid that have no card."""
    present = set() if cards is None else victims(cards)
    return [cell for cell in grid.cells() if key(cell, grid) not in present]


def _failed(cell: Cell, results: Path) -> Missing | None:
    """Return what failed first on the way to a victim's cards, by the logs of its jobs."""
    killed = None
    for log in filter(Path.exists, _logs(cell, results)):
        last = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        _, failed, reason = last.partition(FAILED)
        if failed:
            return Missing(cell, reason, str(log))
        if not last.endswith(DONE):
            killed = killed or log
    return Missing(cell, "killed, or still running", str(killed)) if killed else None


def _folder(cell: Cell, results: Path) -> Path:
    return results / VICTIM.format(**cell.wildcards)


def _logs(cell: Cell, results: Path) -> Iterator[Path]:
    """Yield the logs of the jobs that a victim's cards need, in the order in which they run."""
    given = cell.wildcards
    data = results / "data" / cell.dataset
    yield from (data / "fetch.log", results / HELD.format(**given) / "hold_out.log")
    yield from sorted((results / SHARED.format(**given)).glob(f"surrogate/seed={cell.seed}/*.log"))
    yield from (results / CRAFTED.format(**given) / "craft.log", results / RUN.format(**given) / "poison.log")
    clean = {**given, "attack": CLEAN, "rate": "0"}
    yield results / VICTIM.format(**clean) / "train.log"
    folder = _folder(cell, results)
    order = ("train", "materialize", "natural", "latents")
    yield from (folder / f"{name}.log" for name in order)
    yield from sorted(folder.glob("*/**/*.log"))
    yield from (folder / f"{name}.log" for name in ("separability", "score"))


def of_grid(cards: DataFrame, grid: Grid) -> DataFrame:
    """Return the cards of the grid's victims that have met exactly its defenses."""
    wanted = {key(cell, grid): _defenses(cell, grid) for cell in grid.cells()}
    met: dict[tuple[object, ...], set[tuple[str, str]]] = {victim: set() for victim in victims(cards)}
    for *cell, role, defense in tuples(cards[is_role(cards, *DEFENSES)], [*CELL, "role", "defense"]):
        met.setdefault(tuple(cell), set()).add((role, defense))
    return only(cards, {victim for victim, defenses in met.items() if wanted.get(victim) == defenses})


def _defenses(cell: Cell, grid: Grid) -> set[tuple[str, str]]:
    labels = {role: grid.labels(role) for role in DEFENSES} | {"trainers": grid.trainers_for(cell.attack)}
    return {(ROLES[role].noun, label) for role, each in labels.items() for label in each}


def key(cell: Cell, grid: Grid) -> tuple[object, ...]:
    """Return a cell as cards name it."""
    return (cell.dataset, cell.model, grid.recipe_name(cell.folder), cell.attack, float(cell.rate), cell.seed)


def victims(cards: DataFrame) -> set[tuple[object, ...]]:
    """Return the victims that have a card."""
    return set(tuples(cards[is_role(cards, "attacks")], CELL))


def only(cards: DataFrame, wanted: Iterable[tuple[object, ...]]) -> DataFrame:
    """Return the cards of these victims."""
    chosen = set(wanted)
    return cards[[cell in chosen for cell in tuples(cards, CELL)]]
