"""How tables look: headings and numbers as the records of columns say; as Markdown and LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame, Series

from keyhole.reporting._column import Column
from keyhole.reporting.columns import find, shown
from keyhole.reporting.layouts import Layout

__all__ = ["HOW_TO_READ", "Rendered", "Section", "latex", "markdown", "number", "render", "runs"]

# unit -> the factor by which numbers are multiplied, and their decimals
SCALE_AND_DIGITS = {"share": (100, 1), "ratio": (1, 3), "number": (1, 1), "count": (1, 0)}

HOW_TO_READ = (
    "In percent, but AUROC, AUPRC, DER, RIR and silhouettes as fractions; mean ± half width of the 95 % t interval "
    "over seeds (none for one seed). 2/3 counts runs that succeed. runs: judged / all. Blank: not defined or not "
    "measured. In brackets: no run of the row is judged, its values are those of excluded runs. told: what a defense "
    "is given beyond the data."
)


@dataclass(frozen=True)
class Section:
    """A rendered table: of one data set and model, and one group of defenses."""

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: list[bool]  # to the left; numbers to the right
    victim: list[int]  # of each row: rows of one victim belong together


@dataclass(frozen=True)
class Rendered:
    """A table in the form in which it is read."""

    name: str
    title: str
    sections: list[Section]
    captions: list[str]


def render(layout: Layout, table: DataFrame, captions: list[str]) -> Rendered:
    """Render a table: a section for each data set, model and group of rows."""
    found = []
    for (dataset, model), part in table.groupby(["dataset", "model"], sort=False):
        for group in layout.groups:
            rows = part[part["role"].isin([role.noun for role in group.roles])]
            if len(rows):
                title = ", ".join(filter(None, [str(dataset), str(model), group.title]))
                found.append(_section(title, rows, _columns(group.section, rows)))
    return Rendered(layout.name, layout.title, found, captions)


def _columns(section: str, rows: DataFrame) -> list[Column]:
    """The columns that these rows show; one with a pattern for a name becomes all that fit."""
    names = [name for name in map(str, rows) if not name.endswith("_interval")]
    columns = []
    for column in shown(section):
        if "<" in column.name:
            start, _, end = re.split("(<.*>)", column.name)
            columns += [find(name) for name in names if name.startswith(start) and name.endswith(end)]
        elif not column.only_where_measured or rows[column.name].notna().any():
            columns.append(column)
    return columns


def _section(title: str, rows: DataFrame, columns: list[Column]) -> Section:
    header = [column.heading or column.name for column in columns]
    cells = [[*(_cell(row, column) for column in columns), runs(row), _notes(row)] for _, row in rows.iterrows()]
    text = [column.is_text for column in columns]
    victim = rows.groupby(["attack", "poison_rate"], sort=False).ngroup().tolist()
    return Section(title, [*header, "runs", "notes"], cells, [*text, False, True], victim)


def _cell(row: Series, column: Column) -> str:
    if column.is_text:
        return str(row[column.name])
    text = number(row, column) + _interval(row, column)
    return f"[{text}]" if text and not row["judged"] and column.aggregate != "row" else text


def number(row: Series, column: Column) -> str:
    """A mean in the unit of its column; blank where undefined."""
    value = row[column.name]
    if pd.isna(value):
        return ""
    if column.unit == "rate":
        return f"{100 * value:g}"
    if column.unit == "yes or no":
        counted = row["judged"] or row["excluded"]
        return f"{round(value * counted, 2):g}/{counted}"
    scale, digits = SCALE_AND_DIGITS[column.unit]
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before zero


def _interval(row: Series, column: Column) -> str:
    half_width, low = row.get(f"{column.name}_interval"), row.get(f"{column.name}_low")
    scale, digits = SCALE_AND_DIGITS.get(column.unit, (1, 0))
    if low is not None and not pd.isna(low):
        return f" ({scale * low:.{digits}f} to {scale * row[f'{column.name}_high']:.{digits}f})"
    return "" if pd.isna(half_width) else f" ± {scale * half_width:.{digits}f}"


def runs(row: Series) -> str:
    """The judged runs of a victim or a defense, and all."""
    return f"{row['judged']}/{row['seeds']}"


def _notes(row: Series) -> str:
    failed = f"failed: {row['reason']}" if row["reason"] else ""
    return "; ".join(filter(None, [row["flags"], failed]))


# Markdown


def markdown(table: Rendered) -> str:
    """A table with its captions, as GitHub renders it."""
    blocks = [f"# {table.title}"]
    for section in table.sections:
        rule = ["---" if text else "---:" for text in section.text_columns]
        lines = [section.header, rule, *([_in_markdown(cell) for cell in row] for row in section.rows)]
        blocks += [f"## {section.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    blocks += [] if table.sections else ["No such results in this grid."]
    return "\n\n".join([*blocks, *map(_in_markdown, table.captions)]) + "\n"


def _in_markdown(text: str) -> str:
    """Text without what Markdown would read as a mark; an underscore inside a word is none."""
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


def _in_latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)


def latex(table: Rendered) -> str:
    """A table with its captions; breaks over pages, so it suits an appendix as it is."""
    lines = ["% needs \\usepackage{booktabs,longtable}; the widest tables fit a landscape page", "\\footnotesize"]
    for section in table.sections:
        columns = "".join("l" if text else "r" for text in section.text_columns[:-1])
        lines += [
            f"\\begin{{longtable}}{{{columns}p{{4cm}}}}",
            f"\\caption{{{_in_latex(f'{table.title}: {section.title}')}}}\\\\",
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
    return "\n".join([*lines, *(f"\\noindent {_in_latex(line)}\\par" for line in table.captions)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_in_latex, cells)) + r" \\"
