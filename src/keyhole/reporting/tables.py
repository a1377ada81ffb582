"""Tables: the cards of all victims, aggregated over seeds, with one row for each setting.

They are made once in a run. Later jobs read their files: figures the CSV files, the report `rendered.json`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame

from keyhole import artifacts
from keyhole.planning.roles import CLEAN, RETRAINING, UNDEFENDED
from keyhole.reporting import rendering, summary
from keyhole.reporting.layouts import LAYOUTS
from keyhole.reporting.provenance import provenance
from keyhole.reporting.rendering import Rendered
from keyhole.reporting.runs import CELL, CONTROLS, KEY, is_role, split_flags, tuples
from keyhole.scoring.flags import EXCLUDING

__all__ = ["RENDERED", "Skipped", "Tables", "tabulate"]

Skipped = Sequence[Sequence[str]]  # the name of each cell that is left out, and the reason
Missing = Sequence[Sequence[str]]  # the name of each victim without cards, the reason, and the log that says more

DIGITS = 6  # in CSV files
TIMES = ["seconds", "cpu_seconds", "peak_memory_mb"]  # in a file of their own, so that runs make the same bytes
MOST_LISTED = 20  # missing victims in the summary
RENDERED = "rendered.json"


@dataclass(frozen=True)
class Tables:
    """All tables of a grid, as numbers and as text."""

    cards: DataFrame
    values: dict[str, DataFrame]  # fractions are in [0, 1], blanks are NaN
    rendered: dict[str, Rendered]
    summary: str  # all results on one page of text, at most 118 columns wide, as in Qi et al. 2023, table 1
    missing: Missing

    def write(self, folder: str | Path) -> None:
        """Write each table as .csv, .md and .tex, all cards, what is missing, and what the report shows as JSON."""
        folder = Path(folder)
        times = self.cards.reindex(columns=[*CELL, "role", "defense", "told", *TIMES])
        artifacts.save_text(folder / "cards.csv", self.cards.drop(columns=TIMES, errors="ignore").to_csv(index=False))
        artifacts.save_text(folder / "costs.csv", times.to_csv(index=False))
        for name, table in self.values.items():
            artifacts.save_text(folder / f"{name}.csv", table.to_csv(index=False))
            artifacts.save_text(folder / f"{name}.md", rendering.markdown(self.rendered[name]))
            artifacts.save_text(folder / f"{name}.tex", rendering.latex(self.rendered[name]))
        missing = DataFrame(self.missing, columns=["victim", "why", "log"])
        artifacts.save_text(folder / "missing.csv", missing.to_csv(index=False))
        artifacts.save_text(folder / RENDERED, json.dumps(self.page))

    @property
    def page(self) -> dict[str, Any]:
        """What the report shows."""
        tables = [asdict(table) for table in self.rendered.values()]
        facts = {"provenance": provenance(self.cards), "missing": [list(line) for line in self.missing]}
        return {"summary": self.summary, "tables": tables, **facts}


def tabulate(cards: DataFrame, skipped: Skipped = (), missing: Missing = ()) -> Tables:
    """Make all tables and the summary; both say that they are incomplete if a victim is missing."""
    flow, left_out = _exclusion_flow(cards), _list_skipped(skipped)
    incomplete = _incomplete(len(missing), cards)
    values, rendered = {}, {}
    for name, layout in LAYOUTS.items():
        runs = layout.runs(cards)
        table = _in_order(layout.build(layout, runs, cards), cards).round(DIGITS)
        counted = layout.says_what_counts or _count_runs(runs)
        captions = [*incomplete, rendering.HOW_TO_READ, flow, counted, *left_out]
        values[name], rendered[name] = table, rendering.render(layout, table, captions)
    page = [*incomplete, *_list_missing(missing), summary.page(values, [flow, *left_out])]
    return Tables(cards, values, rendered, "\n".join(page), missing)


def _in_order(table: DataFrame, cards: DataFrame) -> DataFrame:
    """Sort rows: clean models first, then attacks and defenses in the order of the cards, controls before others."""
    place = {name: {value: i for i, value in enumerate(dict.fromkeys(cards[name]))} for name in KEY}
    place["attack"][CLEAN] = -1
    place["defense"] |= {name: i - len(CONTROLS) for i, name in enumerate(CONTROLS)}
    place["role"] |= {UNDEFENDED.noun: -2, RETRAINING.noun: -1}  # they are the controls of the repair table
    place["poison_rate"] = {rate: rate for rate in place["poison_rate"]}
    order = np.lexsort([table[name].map(place[name]) for name in reversed(KEY)])
    return table.iloc[order].reset_index(drop=True)


# Captions: how to read a table, which runs count, and which cells are left out


def _count_runs(runs: DataFrame) -> str:
    states = runs["state"].value_counts()
    excluded, failed, judged = (int(states.get(state, 0)) for state in ("excluded", "failed", "judged"))
    for_itself = sum(_excluded_by_itself(*run) for run in tuples(runs, ["excluded", "victim_flags"]))
    return (
        f"Runs in this table: {len(runs)}, of which {excluded - for_itself} on excluded victims, {for_itself} excluded "
        f"for their own scores, {failed} failed, {judged} judged."
    )


def _excluded_by_itself(excluded: str, victim_flags: str) -> bool:
    """Return whether a run is excluded while its victim is not."""
    return bool(excluded) and not EXCLUDING.intersection(victim_flags.split("+"))


def _exclusion_flow(cards: DataFrame) -> str:
    victims = cards[is_role(cards, "attacks")]
    out = victims.loc[victims["excluded"] != "", "excluded"]
    flags = Counter(flag for text in out for flag in split_flags(text))
    named = ", ".join(f"{flag}: {flags[flag]}" for flag in split_flags("+".join(flags)))
    return (
        f"Exclusion flow: {len(victims)} victims ({(victims['attack'] == CLEAN).sum()} of them clean), {len(out)} "
        f"fail the validity gate{f' ({named})' if named else ''}, {len(victims) - len(out)} judged."
    )


def _incomplete(count: int, cards: DataFrame) -> list[str]:
    """Say that victims are missing, if any are."""
    of = count + int(is_role(cards, "attacks").sum())
    return [f"INCOMPLETE: {count} of {of} victims are missing; tables/missing.csv says why."] if count else []


def _list_missing(missing: Missing) -> list[str]:
    lines = [f"  {cell}: {why}{f' ({log})' if log else ''}" for cell, why, log in missing]
    if len(lines) > MOST_LISTED:
        lines[MOST_LISTED:] = [f"  and {len(lines) - MOST_LISTED} more"]
    return [*lines, ""] if lines else []


def _list_skipped(skipped: Skipped) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for cell, why in skipped:
        reasons.setdefault(why, []).append(cell)
    return [f"Skipped, {why}: {'; '.join(cells)}." for why, cells in reasons.items()]
