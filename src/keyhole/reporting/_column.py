"""What a record of a column says."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["UNITS", "Column", "Unit"]

Unit = Literal["share", "ratio", "number", "count", "yes or no", "rate", "words"]
UNITS: dict[Unit, str] = {
    "share": "a fraction in [0, 1]; in percent where it is rendered",
    "ratio": "a fraction, a distance or a score; rendered as it is, with three decimals",
    "number": "a number with a scale of its own; rendered with one decimal",
    "count": "a whole number, or the mean of several",
    "yes or no": "1 or 0 for a run, the share of runs in a table; rendered as a count, 2/3, and without an interval",
    "rate": "a fraction; in percent where it is rendered, with as many digits as it has",
    "words": "text",
}


@dataclass(frozen=True)
class Column:
    """One column of cards and tables. Tables and sections are names, separated by blanks."""

    name: str  # `<level>` and the like: whatever fits in its place
    unit: Unit
    meaning: str
    tables: str = ""  # the tables whose CSV files have it; none for a column of cards only
    shown: str = ""  # the sections of rendered tables that have it
    heading: str = ""  # in rendered tables; its name if not given
    # what a table says about several runs: the mean, the mean with its interval, that of the models trained again, or
    # a fact about the row that no run can change
    aggregate: Literal["mean", "interval", "retrained", "row"] = "interval"
    after: str = ""  # the column that it follows in rendered tables, if not the one before it in the list of records
    only_where_measured: bool = False  # rendered tables without any value leave it out
    legend: str = ""  # the name in the legend of columns that share one line; its name if not given

    @property
    def has_interval(self) -> bool:
        return self.aggregate in ("interval", "retrained") and self.unit != "yes or no"

    @property
    def is_text(self) -> bool:
        return self.unit == "words"
