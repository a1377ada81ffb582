"""The summary: the main columns of all tables on one page of text, shown at the end of every run."""

import textwrap
from collections.abc import Mapping, Sequence

from pandas import DataFrame, Series

from keyhole.planning.roles import ROLES
from keyhole.reporting._column import Column
from keyhole.reporting.columns import find
from keyhole.reporting.rendering import format_number, format_runs
from keyhole.reporting.runs import SETTING, named
from keyhole.scoring.cards import NO_DEFENSE
from keyhole.scoring.flags import TRUTH

__all__ = ["page"]

WIDTH = 118
LABEL = 33
COLUMN = 17  # so that 5 victims fit side by side
PAGE_LEGEND = (
    "Percent, AUROC as a fraction; means over the judged seeds. [attack]: no seed passes the validity gate. "
    "* told the truth (poison rate, payload or target class): an upper bound. TPR / FPR is at each method's own "
    "threshold; to compare methods, read TPR at 1 and 5 % FPR (a filter's thresholds come from hold-out images). "
    "Intervals are in the tables."
)
# role, heading, columns of a cell
PAGE = (
    ("attacks", "Victim: CA / ASR", ("CA", "ASR")),
    ("detectors", "Detectors: TPR / FPR  AUROC", ("TPR", "FPR", "AUROC")),
    ("detectors", "Detectors: TPR at 1 / 5 % FPR", ("TPR_at_1%", "TPR_at_5%")),
    ("detectors", "Retrained on what they keep: CA / ASR", ("CA_retrained", "ASR_retrained")),
    ("inverters", "Inverters: target found / false alarms", ("found", "false_alarms")),
    ("trainers", "Trainers: CA / ASR", ("CA", "ASR")),
    ("repairers", "Repairers: CA / ASR", ("CA", "ASR")),
    ("filters", "Filters: TPR / FPR  AUROC", ("TPR", "FPR", "AUROC")),
    ("filters", "Filters: TPR at 1 / 5 % FPR", ("TPR_at_1%", "TPR_at_5%")),
    ("purifiers", "Purifiers: CA / ASR", ("CA", "ASR")),
)


def page(tables: Mapping[str, DataFrame], captions: Sequence[str]) -> str:
    """Write the main columns of all tables, with a column of text for each attack and rate."""
    blocks, at_once = [], (WIDTH - LABEL) // COLUMN
    for setting, attacks in tables["attacks"].groupby(SETTING, sort=False):
        parts = {name: t[(t[SETTING] == setting).all(axis=1)] for name, t in tables.items()}
        for first in range(0, len(attacks), at_once):
            blocks.append("\n".join([named(*setting), *_block(parts, attacks.iloc[first : first + at_once])]))
    legend = [line for text in (PAGE_LEGEND, *captions) for line in textwrap.wrap(text, WIDTH)]
    return "\n\n".join([*blocks, "\n".join(legend)]) + "\n"


def _block(tables: Mapping[str, DataFrame], attacks: DataFrame) -> list[str]:
    victims = list(attacks[["attack", "poison_rate"]].itertuples(index=False, name=None))
    names = [row["attack"] if row["judged"] else f"[{row['attack']}]" for _, row in attacks.iterrows()]
    rates = [f"{100 * row['poison_rate']:g} %, {format_runs(row)}" for _, row in attacks.iterrows()]
    lines = [_line("", names), _line("poison rate, judged/seeds", rates)]
    for key, heading, columns in PAGE:
        table = tables[ROLES[key].table]
        rows = table[table["role"] == ROLES[key].noun].dropna(how="all", subset=columns[0:2])
        defenses = _defenses(rows, victims, [find(name) for name in columns])
        lines += [heading, *defenses] if defenses else []
    return lines


def _defenses(rows: DataFrame, victims: Sequence[tuple[str, float]], columns: Sequence[Column]) -> list[str]:
    """Write a line for each defense, with its results on each victim."""
    lines = []
    for (defense, told), part in rows.groupby(["defense", "told"], sort=False):
        cells = {(row["attack"], row["poison_rate"]): _brief(row, columns) for _, row in part.iterrows()}
        truth = "*" if set(str(told).split("+")).intersection(TRUTH) else ""
        label = "no defense" if defense == NO_DEFENSE else f"{defense}{truth}"
        if set(cells) & set(victims):
            lines.append(_line(f"  {label}", [cells.get(victim, "") for victim in victims]))
    return lines


def _brief(row: Series, columns: Sequence[Column]) -> str:
    values = [format_number(row, column) or "-" for column in columns]
    ranked = values.pop().removeprefix("0")[:4] if len(columns) > 2 else ""
    return f"{values[0]:>5}/{values[1]:>5} {ranked:>4}".rstrip() if ranked else f"{values[0]:>5}/{values[1]:>5}"


def _line(label: str, cells: Sequence[str]) -> str:
    cut = [text if len(text) < COLUMN else f"{text[: COLUMN - 2]}…" for text in cells]
    return (f"{label[: LABEL - 1]:<{LABEL}}" + "".join(f"{text:>{COLUMN}}" for text in cut)).rstrip()
