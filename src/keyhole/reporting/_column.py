"""The record of a column."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["UNITS", "Column", "Unit"]

Unit = Literal["share", "ratio", "number", "count", "yes or no", "rate", "words"]
UNITS: dict[Unit, str] = {
    "share": "a fraction in [0, 1]; in percent in rendered tables",
    "ratio": "a fraction, a distance or a score; as it is, with three decimals, in rendered tables",
    "number": "a number on any other scale; with one decimal in rendered tables",
    "count": "a whole number, or the mean of several",
    "yes or no": "1 or 0 for a run, the share of runs in a table; in rendered tables a count such as 2/3, no interval",
    "rate": "a fraction; in percent, with all its digits, in rendered tables",
    "words": "text",
}


@dataclass(frozen=True)
class Column:
    """One column of cards and tables. `tables` and `shown` are names, separated by blanks."""

    name: str  # a part in angle brackets, such as `<level>`, fits any text
    unit: Unit
    meaning: str
    tables: str = ""  # the tables whose CSV files have it; empty for a column that only cards have
    shown: str = ""  # the sections of rendered tables that show it
    heading: str = ""  # in rendered tables; if empty, the name
    # what a table says about several runs: their mean; their mean with its interval; the same of the models trained
    # again; or a fact about the row that is the same for all runs
    aggregate: Literal["mean", "interval", "retrained", "row"] = "interval"
    after: str = ""  # the column that it follows in rendered tables; if empty, the order of the records decides
    only_where_measured: bool = False  # leave it out of rendered tables in which it has no value
    legend: str = ""  # the name in the legend, for columns that share a line; if empty, the name

    @property
    def has_interval(self) -> bool:
        """Whether tables have a column with the half width of its interval."""
        return self.aggregate in ("interval", "retrained") and self.unit != "yes or no"

    @property
    def is_text(self) -> bool:
        """Whether it holds words, not numbers."""
        return self.unit == "words"
