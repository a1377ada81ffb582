"""Figures of latent separability: where the signal goes, when it is lost, and what should not matter to it.

Values are means over seeds. A cell of a matrix is hatched if none of its runs is judged, for example because the attack
did not implant.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from keyhole.planning.roles import CLEAN, SEPARABILITY
from keyhole.reporting.canvas import COLORS, MARKERS, by_model, draw_matrix, empty_figure, victim_names
from keyhole.reporting.runs import CONTROLS, SETTING, VICTIM, is_role, named, tuples

__all__ = [
    "DISTANCES",
    "phase_family",
    "plot_distances",
    "plot_levels",
    "plot_nuisance",
    "plot_phase",
    "relative_distances",
]

SPACES = {"raw": "raw", "standardized": "standard-\nized", "whitened": "whitened", "oracle": "linear\noracle"}
DISTANCES = {
    "mmd": "MMD²,\none kernel",
    "mmd_five_kernels": "five\nkernels",
    "energy_distance": "energy\ndistance",
    "sliced_wasserstein": "sliced\nW₁",
}
MARKS = ("", "_null", "_ceiling")
# pairs of methods that form a family: the second adds cover rows and more varied triggers to the first
FAMILIES = {"blended": "adap_blend", "badnets": "adap_patch"}


def plot_levels(cards: DataFrame) -> Figure:
    """Draw where the signal goes: AUROC of payload against clean rows of its label, by level and measure.

    In raw, standardized and whitened latents the measure is the distance to the clean rows' mean. The linear oracle is
    told the truth: it is a discriminant that is fitted to some of the rows and judged on others.
    """

    def aurocs(rows: DataFrame) -> DataFrame:
        distance = rows.pivot_table(index="level", columns="transform", values="distance_auroc", dropna=False)
        oracle = rows[rows["transform"] == "raw"].groupby("level")["lda_auroc"].mean()
        return distance.assign(oracle=oracle).reindex(columns=list(SPACES)).rename(columns=SPACES)

    return _each_victim(cards, aurocs, "Payload against clean rows of the target class, AUROC")


def plot_distances(cards: DataFrame) -> Figure:
    """Draw how far payload is from clean rows of its label, by level and metric: what a regularizer reduces."""
    return _each_victim(cards, relative_distances, "Payload: 0 as near as clean rows of its label, 1 as another class")


def relative_distances(rows: DataFrame) -> DataFrame:
    """Return metrics of raw latents by level, scaled so that 0 is the null and 1 the ceiling (`separability`)."""
    measured = rows[rows["transform"] == "raw"].set_index("level")[[f"{m}{x}" for m in DISTANCES for x in MARKS]]
    value, null, ceiling = (measured[[f"{metric}{mark}" for metric in DISTANCES]].to_numpy(float) for mark in MARKS)
    table = DataFrame((value - null) / (ceiling - null), index=measured.index, columns=list(DISTANCES.values()))
    return table.groupby(level=0).mean()


def _each_victim(cards: DataFrame, values: Callable[[DataFrame], DataFrame], title: str) -> Figure:
    """Draw a heat map for each attack and rate, with a row for each level.

    Args:
        values: makes the columns of a heat map from the cards of its attack and rate.
    """
    measured = cards[cards["role"] == SEPARABILITY.noun]
    parts = list(by_model(measured))
    if not parts:
        return empty_figure()
    victims = [
        (f"{name}\n{text}", rows) for name, part in parts for text, rows in part.groupby(victim_names(part), sort=False)
    ]
    across = min(4, len(victims))
    levels = list(dict.fromkeys(measured["level"]))
    down = -(-len(victims) // across)
    figure = Figure(figsize=(3.1 * across + 0.6, (0.32 * len(levels) + 1.35) * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for panel in axes.flat[len(victims) :]:
        panel.set_axis_off()
    for panel, (name, rows) in zip(axes.flat, victims, strict=False):
        table = values(rows).reindex(index=levels)
        hatched = np.full(table.shape, (rows["excluded"] != "").all())
        draw_matrix(panel, table.to_numpy(float), levels, list(table.columns), hatched)
        panel.set_title(name.partition("\n")[2].replace("\n", ", ") if len(parts) == 1 else name, fontsize=9)
    figure.suptitle(f"{title}{_where(parts)}", fontsize=11)
    return figure


def _where(parts: Sequence[tuple[str, DataFrame]]) -> str:
    return f": {parts[0][0]}" if len(parts) == 1 else ""


def phase_family(victims: DataFrame) -> DataFrame:
    """Return the victims of families whose attacks differ in rate and in cover rows for each payload row.

    The columns `family` and `ratio` (cover rows / payload rows) are added.
    """
    dirty = victims[(victims["attack"] != CLEAN) & (victims["controls"] == "dirty-label")]
    family = dirty["method"].map(lambda name: FAMILIES.get(name, name))
    dirty = dirty.assign(family=family, ratio=(dirty["cover"] / dirty["payload"]).round(2))
    if dirty.empty:
        return dirty
    keys = [*SETTING, "family"]
    counts = dirty.groupby(keys)[["poison_rate", "ratio"]].transform("nunique")
    return dirty[(counts > 1).all(axis=1)]


def plot_phase(cards: DataFrame) -> Figure:
    """Draw a phase diagram: AUROC of each detector in the target class, by target share and cover rows.

    The number below each AUROC is the victim's ASR in percent. A cell is hatched if the attack did not implant.
    """
    victims = phase_family(cards[is_role(cards, "attacks")])
    measured = cards[is_role(cards, "detectors") & ~cards["defense"].isin(CONTROLS)]
    measured = measured[measured["status"].isin(["", "ok"])].drop(columns="ASR")
    keys = [*VICTIM, "seed"]
    measured = measured.merge(victims[[*keys, "family", "ratio", "ASR"]], on=keys)
    if not len(measured):
        return empty_figure()
    panels = list(measured.groupby([*SETTING, "family", "defense"], sort=False))
    across = min(4, len(panels))
    first = panels[0][1]
    shape = (len(first[["attack", "ratio"]].drop_duplicates()), first["poison_rate"].nunique())
    size = ((0.8 * shape[1] + 1.9) * across, (0.5 * shape[0] + 1.0) * -(-len(panels) // across) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(-(-len(panels) // across), across, squeeze=False)
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, ((*_, defense), part) in zip(axes.flat, panels, strict=False):
        image = _phase(panel, part)
        panel.set_title(defense, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, label="AUROC in the target class", ticks=[0, 0.5, 1])
    settings = measured[SETTING].drop_duplicates()
    names = ", ".join([*(named(*setting) for setting in tuples(settings, SETTING)), *dict.fromkeys(measured["family"])])
    figure.suptitle(f"{names}: AUROC in the target class, below it ASR in percent; hatched: not implanted", fontsize=10)
    return figure


def _phase(panel: Axes, part: DataFrame) -> Any:
    part = part.assign(AUROC_target=part["AUROC_target"].astype(float), out=part["excluded"] != "")
    kinds = part.sort_values("ratio", ascending=False, kind="stable")[["ratio", "attack"]].drop_duplicates()
    rates = sorted(set(part["poison_rate"]))
    means = part.groupby(["attack", "ratio", "poison_rate"])[["AUROC_target", "ASR", "out", "target_share"]].mean()
    cell_of = {key: row.to_numpy(float) for key, row in means.iterrows()}
    blank = np.full(4, np.nan)
    cells = np.array([[cell_of.get((a, r, rate), blank) for rate in rates] for r, a in kinds.itertuples(index=False)])
    words = np.array([[_auroc_and_asr(*cell[:2]) for cell in row] for row in cells], dtype=object)
    share = [f"{100 * np.nanmean(cells[:, j, 3]):.0f} %" for j in range(len(rates))]
    rows = [f"{ratio:g}  {attack}" for ratio, attack in kinds.itertuples(index=False)]
    image = draw_matrix(panel, cells[..., 0], rows, share, hatched=cells[..., 2] == 1, words=words)
    panel.set_xlabel("target share ρ_t", fontsize=8)
    panel.set_ylabel("cover / payload", fontsize=8)
    return image


def _auroc_and_asr(auroc: float, asr: float) -> str:
    return "" if np.isnan(asr) else f"{'–' if np.isnan(auroc) else f'{auroc:.2f}'}\n{100 * asr:.0f}"


def plot_nuisance(cards: DataFrame) -> Figure:
    """Draw what should not matter to separability: a mark for each seed, architecture and target class.

    The left panel has the silhouette, the right one the AUROC of a linear oracle that is told the truth, both of raw
    latents at the penultimate level.
    """
    keys = [*VICTIM, "seed"]
    victims = cards[is_role(cards, "attacks") & (cards["attack"] != CLEAN)]
    measured = cards[
        (cards["role"] == SEPARABILITY.noun) & (cards["transform"] == "raw") & (cards["level"] == "penultimate")
    ]
    measured = measured[[*keys, "silhouette", "lda_auroc"]].merge(victims[[*keys, "method", "target_classes"]], on=keys)
    if not len(measured):
        return empty_figure()
    measured["row"] = measured["method"] + [f", {100 * rate:g} %" for rate in measured["poison_rate"]]
    measured["setting"] = [
        f"{named(*setting)}, to {classes}" for *setting, classes in tuples(measured, [*SETTING, "target_classes"])
    ]
    rows, settings = list(dict.fromkeys(measured["row"])), list(dict.fromkeys(measured["setting"]))
    figure = Figure(figsize=(9, 0.3 * len(rows) + 1.6), layout="constrained")
    for panel, column in zip(figure.subplots(1, 2, sharey=True), ("silhouette", "lda_auroc"), strict=True):
        for i, setting in enumerate(settings):
            points = measured[measured["setting"] == setting]
            place = [rows.index(row) + 0.5 * ((i + 0.5) / len(settings) - 0.5) for row in points["row"]]
            style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "alpha": 0.8}
            panel.scatter(points[column].astype(float), place, s=22, linewidths=0, label=setting, **style)
        panel.set(xlabel=column.replace("_", " "), yticks=range(len(rows)))
        panel.set_yticklabels(rows, fontsize=8)
        panel.grid(color="#eeeeee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    marks = figure.axes[0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(
        "What should not matter to separability: a mark for each seed, architecture and target", fontsize=10
    )
    return figure
