"""The part of the legend `results/README.md` that explains columns. It is made from their records.

`python -m keyhole.reporting.legend results/README.md` replaces the text between its two marks.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from keyhole.reporting import columns
from keyhole.reporting._column import UNITS, Column

__all__ = ["column_sections", "update"]

BEGIN = "<!-- from here on made by `make format`, from src/keyhole/reporting/columns.py -->"
END = "<!-- to here -->"


def column_sections() -> str:
    """Explain all columns, as Markdown: those of every table, those of some tables, those that only cards have."""
    every = " ".join(columns.TABLES)
    shared = [column for column in columns.COLUMNS if column.tables == every]
    some = [column for column in columns.COLUMNS if column.tables and column.tables != every]
    cards = [column for column in columns.COLUMNS if not column.tables]
    units = "\n".join(f"- {unit}: {meaning}" for unit, meaning in UNITS.items())
    return "\n\n".join(
        [
            f"The unit of a column is one of these:\n\n{units}",
            f"## Columns of every table\n\n{_table(shared, with_tables=False)}",
            f"## Columns of some tables\n\n{_table(some, with_tables=True)}",
            f"## Columns of cards only\n\n{_table(cards, with_tables=False)}",
        ]
    )


def _table(records: Iterable[Column], with_tables: bool) -> str:
    """Make a table with a line for each meaning; columns with the same meaning share a line."""
    lines: dict[str, list[Column]] = {}
    for column in records:
        lines.setdefault(column.meaning, []).append(column)
    head = ["column", "tables", "unit", "meaning"] if with_tables else ["column", "unit", "meaning"]
    rows = [head, ["---"] * len(head)]
    for meaning, alike in lines.items():
        names = ", ".join(dict.fromkeys(f"`{column.legend or column.name}`" for column in alike))
        tables = ", ".join(dict.fromkeys(name for column in alike for name in column.tables.split()))
        unit = ", ".join(dict.fromkeys(column.unit for column in alike))
        rows.append([names, tables, unit, meaning] if with_tables else [names, unit, meaning])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def update(text: str) -> str:
    """Return the text of the legend with its part on columns made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{column_sections()}\n\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text()))
