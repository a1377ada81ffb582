"""How tables look: which columns are shown, how numbers are written; as Markdown and LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame, Series

from keyhole.scoring.two_sample import METRICS

__all__ = ["HOW_TO_READ", "TITLES", "YES_NO", "Section", "latex", "markdown", "number", "runs", "sections"]

YES_NO = {"found", "top1", "any_flagged", "success_10", "success_20"}  # a t interval of 0, 0, 0 would say ± 0
PLAIN = {"false_alarms", "anomaly_max", "removed", "seconds"}
COUNTS = {"holdout_size", "forwards", "backwards"}
FRACTION = (
    "AUROC",
    "AUPRC",
    "DER",
    "RIR",
    "distance_auroc",
    "model_AUROC",
    "feature_distance",
    "shift_cosine",
    "spread_ratio",
    *METRICS,
)  # the others are percent

TITLES = {
    "attacks": "Attacks",
    "separability": "How far the payload stands apart in the target class",
    "detection": "Detection of payload rows in the training set",
    "inversion": "Trigger inversion",
    "model_detection": "Inverters as tests of a model",
    "repair": "Repair",
    "test_time": "Test-time defenses",
}
HOW_TO_READ = (
    "In percent, but AUROC, AUPRC, DER, RIR and silhouettes as fractions; mean ± half width of the 95 % t interval "
    "over seeds (none for one seed). 2/3 counts runs that succeed. runs: judged / all. Blank: not defined or not "
    "measured. In brackets: no run of the row is judged, its values are those of excluded runs. told: what a defense "
    "is given beyond the data."
)

_CELL = ("attack", "poison_rate")
_DEFENSE = (*_CELL, "defense", "told", "target_share")
_DEFENDED = (*_DEFENSE, "CA", "CA_target", "ASR", "RA", "DER", "RIR", "success_20", "holdout_size", "seconds")
_COST = ("holdout_size", "forwards", "backwards", "seconds")
# table -> its groups of rows: title, roles, columns
SHOWN: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = {
    "attacks": (
        (
            "",
            ("attack",),
            (
                *_CELL,
                "controls",
                "target_share",
                "CA",
                "CA_reference",
                "ASR",
                "ASR_natural",
                "RA",
                "leakage",
                "silhouette_*",
            ),
        ),
    ),
    "separability": (
        (
            "",
            ("separability",),
            (
                *_CELL,
                "level",
                "transform",
                "distance_auroc",
                "lda_auroc",
                "svm_auroc",
                "silhouette",
                "silhouette_null",
                "silhouette_ceiling",
                "davies_bouldin",
                "knn_purity",
                "mmd",
                "energy_distance",
                "sliced_wasserstein",
                "spread_ratio",
            ),
        ),
    ),
    "detection": (
        (
            "",
            ("detector",),
            (
                *_DEFENSE,
                "TPR",
                "FPR",
                "F1",
                "F1_balanced",
                "AUROC",
                "AUROC_target",
                "cover_flagged",
                "retrained",
                "CA_retrained",
                "ASR_retrained",
            ),
        ),
    ),
    "inversion": (
        (
            "",
            ("inverter",),
            (
                *_DEFENSE,
                "found",
                "top1",
                "any_flagged",
                "false_alarms",
                "REASR",
                "mask_IoU",
                "feature_distance",
                "shift_cosine",
                *_COST,
            ),
        ),
    ),
    "model_detection": (
        (
            "",
            ("inverter",),
            (*_CELL, "defense", "told", "detected", "target_named", "false_alarms_clean", "model_AUROC", *_COST),
        ),
    ),
    "repair": (("", ("none", "retraining", "repairer", "trainer"), _DEFENDED),),
    "test_time": (
        (
            "filters",
            ("filter",),
            (
                *_DEFENSE,
                "TPR",
                "FPR",
                "F1",
                "AUROC",
                "TPR_at_1%",
                "FPR_at_1%",
                "TPR_at_5%",
                "FPR_at_5%",
                "TPR_successful",
            ),
        ),
        ("purifiers", ("none", "purifier"), _DEFENDED),
    ),
}
HEADERS = {
    "poison_rate": "rate",
    "target_share": "ρ_t",
    "CA_reference": "clean CA",
    "ASR_natural": "natural ASR",
    "AUROC_target": "AUROC in target",
    "F1_balanced": "F1 balanced",
    "cover_flagged": "cover flagged",
    "retrained": "runs retrained",
    "CA_retrained": "CA retrained",
    "ASR_retrained": "ASR retrained",
    "any_flagged": "any flagged",
    "false_alarms": "false alarms",
    "success_20": "ASR ≤ 20",
    "CA_target": "CA of target",
    "detected": "poisoned detected",
    "target_named": "target named",
    "false_alarms_clean": "clean flagged",
    "model_AUROC": "model AUROC",
    "holdout_size": "hold-out",
    "mask_IoU": "mask IoU",
    "feature_distance": "feature distance",
    "shift_cosine": "shift cosine",
    "spread_ratio": "spread ratio",
    "TPR_successful": "TPR of successful",
}
TEXT = ("attack", "defense", "told", "controls", "level", "transform")


@dataclass(frozen=True)
class Section:
    """A rendered table: of one data set and model, and one group of defenses."""

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: list[bool]  # to the left; numbers to the right
    victim: list[int]  # of each row: rows of one victim belong together


def sections(name: str, table: DataFrame) -> list[Section]:
    """A table in the form in which it is read."""
    found = []
    for (dataset, model), part in table.groupby(["dataset", "model"], sort=False):
        for group, roles, columns in SHOWN[name]:
            rows = part[part["role"].isin(roles)]
            if len(rows):
                title = ", ".join(filter(None, [str(dataset), str(model), group]))
                found.append(_section(title, rows, _existing(columns, rows)))
    return found


def _existing(columns: Sequence[str], rows: DataFrame) -> list[str]:
    """The columns to show, `silhouette_*` replaced by one for each level, `leakage` only where there is any."""
    levels = [name for name in map(str, rows) if re.fullmatch(r"silhouette_.*(?<!_interval)", name)]
    shown = [name for name in columns if name != "leakage" or rows["leakage"].notna().any()]
    return [each for name in shown for each in (levels if name == "silhouette_*" else [name])]


def _section(title: str, rows: DataFrame, columns: list[str]) -> Section:
    header = [HEADERS.get(name, name.replace("_", " ") if name.startswith("silhouette") else name) for name in columns]
    cells = [[*(_cell(row, name) for name in columns), runs(row), _notes(row)] for _, row in rows.iterrows()]
    text = [name in TEXT for name in columns]
    victim = rows.groupby(list(_CELL), sort=False).ngroup().tolist()
    return Section(title, [*header, "runs", "notes"], cells, [*text, False, True], victim)


def _cell(row: Series, column: str) -> str:
    if column in TEXT:
        return str(row[column])
    if column == "poison_rate":
        return "" if pd.isna(row[column]) else f"{100 * row[column]:g}"
    if column == "retrained":
        return str(row[column])
    text = number(row, column) + _interval(row, column)
    return f"[{text}]" if text and not row["judged"] and column != "target_share" else text


def number(row: Series, column: str) -> str:
    """A mean in the unit of its column; blank where undefined."""
    value = row[column]
    if pd.isna(value):
        return ""
    if column in YES_NO:
        counted = row["judged"] or row["excluded"]
        return f"{round(value * counted, 2):g}/{counted}"
    scale, digits = _unit(column)
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before zero


def _interval(row: Series, column: str) -> str:
    half_width, low = row.get(f"{column}_interval"), row.get(f"{column}_low")
    scale, digits = _unit(column)
    if low is not None and not pd.isna(low):
        return f" ({scale * low:.{digits}f} to {scale * row[f'{column}_high']:.{digits}f})"
    return "" if pd.isna(half_width) else f" ± {scale * half_width:.{digits}f}"


def _unit(column: str) -> tuple[int, int]:
    """The factor by which a column's numbers are multiplied, and their decimals."""
    if column in PLAIN | COUNTS:
        return 1, int(column in PLAIN)
    return (1, 3) if column.startswith(FRACTION) else (100, 1)


def runs(row: Series) -> str:
    """Of a victim or a defense, the judged runs and all."""
    return f"{row['judged']}/{row['seeds']}"


def _notes(row: Series) -> str:
    failed = f"failed: {row['reason']}" if row["reason"] else ""
    return "; ".join(filter(None, [row["flags"], failed]))


# Markdown


def markdown(name: str, sections: Sequence[Section], captions: Sequence[str]) -> str:
    """A table with its captions, as GitHub renders it."""
    blocks = [f"# {TITLES[name]}"]
    for section in sections:
        rule = ["---" if text else "---:" for text in section.text_columns]
        lines = [section.header, rule, *([_in_markdown(cell) for cell in row] for row in section.rows)]
        blocks += [f"## {section.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    blocks += [] if sections else ["No such results in this grid."]
    return "\n\n".join([*blocks, *map(_in_markdown, captions)]) + "\n"


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


def latex(name: str, sections: Sequence[Section], captions: Sequence[str]) -> str:
    """A table with its captions; breaks over pages, so it suits an appendix as it is."""
    lines = ["% needs \\usepackage{booktabs,longtable}; the widest tables fit a landscape page", "\\footnotesize"]
    for section in sections:
        columns = "".join("l" if text else "r" for text in section.text_columns[:-1])
        lines += [
            f"\\begin{{longtable}}{{{columns}p{{4cm}}}}",
            f"\\caption{{{_in_latex(f'{TITLES[name]}: {section.title}')}}}\\\\",
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
    return "\n".join([*lines, *(f"\\noindent {_in_latex(line)}\\par" for line in captions)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_in_latex, cells)) + r" \\"
