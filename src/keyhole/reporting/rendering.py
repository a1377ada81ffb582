"""Tables as Markdown and LaTeX, with the headings and digits of the records of columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame, Series

from keyhole.reporting._column import Column
from keyhole.reporting.columns import columns_of_section, find
from keyhole.reporting.layouts import Layout
from keyhole.reporting.runs import SETTING, named

__all__ = ["HOW_TO_READ", "Rendered", "Section", "format_number", "format_runs", "latex", "markdown", "render"]

# unit -> the factor that numbers are multiplied with, and their decimals
SCALE_AND_DIGITS = {"share": (100, 1), "ratio": (1, 3), "number": (1, 1), "count": (1, 0)}

HOW_TO_READ = (
    "In percent, but AUROC, AUPRC, DER, RIR and silhouettes as fractions; mean ± half width of the 95 % t interval "
    "over seeds (none for one seed). 2/3 counts runs that succeed. runs: judged / all. Blank: not defined or not "
    "measured. In brackets: no run of the row is judged, its values are those of excluded runs. told: what a defense "
    "is given beyond the data."
)


@dataclass(frozen=True)
class Section:
    """A part of a rendered table: one data set, one model, and one group of rows."""

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: list[bool]  # which columns hold text, aligned left; numbers are aligned right
    victim: list[int]  # for each row the number of its victim; rows of a victim are kept together


@dataclass(frozen=True)
class Rendered:
    """A table as text."""

    name: str
    title: str
    sections: list[Section]
    captions: list[str]


def render(layout: Layout, table: DataFrame, captions: list[str]) -> Rendered:
    """Render a table: a section for each data set, model, recipe and group of rows."""
    sections = []
    for setting, part in table.groupby(SETTING, sort=False):
        for group in layout.groups:
            rows = part[part["role"].isin([role.noun for role in group.roles])]
            if len(rows):
                sections.append(_section(named(*setting, group.title), rows, _columns(group.section, rows)))
    return Rendered(layout.name, layout.title, sections, captions)


def _columns(section: str, rows: DataFrame) -> list[Column]:
    """Return the columns to show for these rows; a name with `<…>` becomes all columns that fit it."""
    names = [name for name in map(str, rows) if not name.endswith("_interval")]
    columns = []
    for column in columns_of_section(section):
        if "<" in column.name:
            start, _, end = re.split("(<.*>)", column.name)
            columns += [find(name) for name in names if name.startswith(start) and name.endswith(end)]
        elif not column.only_where_measured or rows[column.name].notna().any():
            columns.append(column)
    return columns


def _section(title: str, rows: DataFrame, columns: list[Column]) -> Section:
    header = [column.heading or column.name for column in columns]
    cells = [[*(_cell(row, column) for column in columns), format_runs(row), _notes(row)] for _, row in rows.iterrows()]
    text = [column.is_text for column in columns]
    victim = rows.groupby(["attack", "poison_rate"], sort=False, dropna=False).ngroup().tolist()
    return Section(title, [*header, "runs", "notes"], cells, [*text, False, True], victim)


def _cell(row: Series, column: Column) -> str:
    if column.is_text:
        return str(row[column.name])
    text = format_number(row, column) + _interval(row, column)
    return f"[{text}]" if text and not row["judged"] and column.aggregate != "row" else text


def format_number(row: Series, column: Column) -> str:
    """Write a mean in the unit of its column; blank if it is not defined."""
    value = row[column.name]
    if pd.isna(value):
        return ""
    if column.unit == "rate":
        return f"{100 * value:g}"
    if column.unit == "yes or no":
        counted = row["judged"] or row["excluded"]
        return f"{round(value * counted, 2):g}/{counted}"
    scale, digits = SCALE_AND_DIGITS[column.unit]
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def _interval(row: Series, column: Column) -> str:
    half_width, low = row.get(f"{column.name}_interval"), row.get(f"{column.name}_low")
    scale, digits = SCALE_AND_DIGITS.get(column.unit, (1, 0))
    if low is not None and not pd.isna(low):
        return f" ({scale * low:.{digits}f} to {scale * row[f'{column.name}_high']:.{digits}f})"
    return "" if pd.isna(half_width) else f" ± {scale * half_width:.{digits}f}"


def format_runs(row: Series) -> str:
    """Write the number of judged runs and of all runs."""
    return f"{row['judged']}/{row['seeds']}"


def _notes(row: Series) -> str:
    failed = f"failed: {row['reason']}" if row["reason"] else ""
    return "; ".join(filter(None, [row["flags"], failed]))


# Markdown


def markdown(table: Rendered) -> str:
    """Write a table with its captions in the Markdown of GitHub."""
    blocks = [f"# {table.title}"]
    for section in table.sections:
        rule = ["---" if text else "---:" for text in section.text_columns]
        lines = [section.header, rule, *([_escape_markdown(cell) for cell in row] for row in section.rows)]
        blocks += [f"## {section.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    blocks += [] if table.sections else ["No such results in this grid."]
    return "\n\n".join([*blocks, *map(_escape_markdown, table.captions)]) + "\n"


def _escape_markdown(text: str) -> str:
    """Escape what Markdown would read as markup; an underscore inside a word is not."""
    return re.sub(r"[\\|*<`]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


# LaTeX

_LATEX = {
    "ρ_t": r"$\rho_t$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "_": r"\_\allowbreak{}",  # method names are long, columns narrow
    **{mark: f"\\{mark}" for mark in "%&#${}"},
}


def _escape_latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def latex(table: Rendered) -> str:
    """Write a table with its captions in LaTeX; it may break over pages, so it fits an appendix as it is."""
    lines = ["% needs \\usepackage{booktabs,longtable}; the widest tables fit a landscape page", "\\footnotesize"]
    for section in table.sections:
        columns = "".join("l" if text else "r" for text in section.text_columns[:-1])
        lines += [
            f"\\begin{{longtable}}{{{columns}p{{4cm}}}}",
            f"\\caption{{{_escape_latex(f'{table.title}: {section.title}')}}}\\\\",
            "\\toprule",
            _latex_row(section.header),
            "\\midrule",
            "\\endhead",
        ]
        for i, row in enumerate(section.rows):
            if i and section.victim[i] != section.victim[i - 1]:
                lines.append("\\midrule")
            lines.append(_latex_row(row))
        lines += ["\\bottomrule", "\\end{longtable}"]
    return "\n".join([*lines, *(f"\\noindent {_escape_latex(line)}\\par" for line in table.captions)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escape_latex, cells)) + r" \\"
