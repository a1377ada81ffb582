"""Figures of latent separability: where the signal goes, when it is lost, and what should not matter to it.

Hatched: no run of that cell is judged (its attack did not implant, say). Means are over seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from keyhole.planning.roles import CLEAN, SEPARABILITY
from keyhole.reporting.canvas import COLORS, MARKERS, VICTIM, by_model, empty, matrix, named
from keyhole.reporting.runs import CONTROLS, is_role

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
# methods that are ends of one line: the second adds cover rows and diversity to the first
FAMILIES = {"blended": "adap_blend", "badnets": "adap_patch"}


def plot_levels(cards: DataFrame) -> Figure:
    """Where the signal goes: AUROC of payload against clean rows of its label, by level and by what is measured.

    Raw, standardized and whitened: of the distance to the clean rows' mean in that space. The linear oracle is told
    the truth: a discriminant that is fitted to some of the rows and judged on others.
    """

    def aurocs(rows: DataFrame) -> DataFrame:
        distance = rows.pivot_table(index="level", columns="transform", values="distance_auroc", dropna=False)
        oracle = rows[rows["transform"] == "raw"].groupby("level")["lda_auroc"].mean()
        return distance.assign(oracle=oracle).reindex(columns=list(SPACES)).rename(columns=SPACES)

    return _each_victim(cards, aurocs, "Payload against clean rows of the target class, AUROC")


def plot_distances(cards: DataFrame) -> Figure:
    """How far payload is from clean rows of its label, by level and metric: what a regularizer takes away."""
    return _each_victim(cards, relative_distances, "Payload: 0 as near as clean rows of its label, 1 as another class")


def relative_distances(rows: DataFrame) -> DataFrame:
    """Metrics of raw latents, a row for each level: 0 at the metric's null, 1 at its ceiling (`separability`)."""
    found = rows[rows["transform"] == "raw"].set_index("level")[[f"{m}{x}" for m in DISTANCES for x in MARKS]]
    value, null, ceiling = (found[[f"{metric}{mark}" for metric in DISTANCES]].to_numpy(float) for mark in MARKS)
    table = DataFrame((value - null) / (ceiling - null), index=found.index, columns=list(DISTANCES.values()))
    return table.groupby(level=0).mean()


def _each_victim(cards: DataFrame, values: Callable[[DataFrame], DataFrame], title: str) -> Figure:
    """A heat map for each attack and rate, a row for each level; `values` makes its columns of the cards."""
    found = cards[cards["role"] == SEPARABILITY.noun]
    parts = list(by_model(found))
    if not parts:
        return empty()
    victims = [
        (f"{name}\n{text}", rows) for name, part in parts for text, rows in part.groupby(named(part), sort=False)
    ]
    across = min(4, len(victims))
    levels = list(dict.fromkeys(found["level"]))
    down = -(-len(victims) // across)
    figure = Figure(figsize=(3.1 * across + 0.6, (0.32 * len(levels) + 1.35) * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for panel in axes.flat[len(victims) :]:
        panel.set_axis_off()
    for panel, (name, rows) in zip(axes.flat, victims, strict=False):
        table = values(rows).reindex(index=levels)
        hatched = np.full(table.shape, (rows["excluded"] != "").all())
        matrix(panel, table.to_numpy(float), levels, list(table.columns), hatched)
        panel.set_title(name.partition("\n")[2].replace("\n", ", ") if len(parts) == 1 else name, fontsize=9)
    figure.suptitle(f"{title}{_where(parts)}", fontsize=11)
    return figure


def _where(parts: Sequence[tuple[str, DataFrame]]) -> str:
    return f": {parts[0][0]}" if len(parts) == 1 else ""


def phase_family(victims: DataFrame) -> DataFrame:
    """Victims whose attacks differ in rate and in cover rows for each payload row, with the `family` they belong to."""
    known = victims[(victims["attack"] != CLEAN) & (victims["controls"] == "dirty-label")]
    family = known["method"].map(lambda name: FAMILIES.get(name, name))
    known = known.assign(family=family, ratio=(known["cover"] / known["payload"]).round(2))
    keys = ["dataset", "model", "family"]
    counts = known.groupby(keys)[["poison_rate", "ratio"]].transform("nunique")
    return known[(counts > 1).all(axis=1)]


def plot_phase(cards: DataFrame) -> Figure:
    """Phase diagram: how well each detector ranks the payload in its class, over target share and cover for payload.

    Below each AUROC stands the victim's ASR in percent; hatched where the attack did not implant.
    """
    victims = phase_family(cards[is_role(cards, "attacks")])
    found = cards[is_role(cards, "detectors") & ~cards["defense"].isin(CONTROLS)]
    found = found[found["status"].isin(["", "ok"])].drop(columns="ASR")
    keys = [*VICTIM, "seed"]
    found = found.merge(victims[[*keys, "family", "ratio", "ASR"]], on=keys)
    if not len(found):
        return empty()
    panels = list(found.groupby(["dataset", "model", "family", "defense"], sort=False))
    across = min(4, len(panels))
    first = panels[0][1]
    shape = (len(first[["attack", "ratio"]].drop_duplicates()), first["poison_rate"].nunique())
    size = ((0.8 * shape[1] + 1.9) * across, (0.5 * shape[0] + 1.0) * -(-len(panels) // across) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(-(-len(panels) // across), across, squeeze=False)
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, ((_, _, _, defense), part) in zip(axes.flat, panels, strict=False):
        image = _phase(panel, part)
        panel.set_title(defense, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, label="AUROC in the target class", ticks=[0, 0.5, 1])
    names = ", ".join([*dict.fromkeys(found["dataset"] + ", " + found["model"]), *dict.fromkeys(found["family"])])
    figure.suptitle(f"{names}: AUROC in the target class, below it ASR in percent; hatched: not implanted", fontsize=10)
    return figure


def _phase(panel: Axes, part: DataFrame) -> Any:
    part = part.assign(AUROC_target=part["AUROC_target"].astype(float), out=part["excluded"] != "")
    kinds = part.sort_values("ratio", ascending=False, kind="stable")[["ratio", "attack"]].drop_duplicates()
    rates = sorted(set(part["poison_rate"]))
    means = part.groupby(["attack", "ratio", "poison_rate"])[["AUROC_target", "ASR", "out", "target_share"]].mean()
    known = {key: row.to_numpy(float) for key, row in means.iterrows()}
    blank = np.full(4, np.nan)
    cells = np.array([[known.get((a, r, rate), blank) for rate in rates] for r, a in kinds.itertuples(index=False)])
    words = np.array([[_auroc_and_asr(*cell[:2]) for cell in row] for row in cells], dtype=object)
    share = [f"{100 * np.nanmean(cells[:, j, 3]):.0f} %" for j in range(len(rates))]
    rows = [f"{ratio:g}  {attack}" for ratio, attack in kinds.itertuples(index=False)]
    image = matrix(panel, cells[..., 0], rows, share, hatched=cells[..., 2] == 1, words=words)
    panel.set_xlabel("target share ρ_t", fontsize=8)
    panel.set_ylabel("cover / payload", fontsize=8)
    return image


def _auroc_and_asr(auroc: float, asr: float) -> str:
    return "" if np.isnan(asr) else f"{'–' if np.isnan(auroc) else f'{auroc:.2f}'}\n{100 * asr:.0f}"


def plot_nuisance(cards: DataFrame) -> Figure:
    """What should not matter: separability of one attack over seeds, architectures and target classes, each a mark.

    Raw latents of the penultimate level: the silhouette, and what a linear oracle that is told the truth makes of it.
    """
    keys = [*VICTIM, "seed"]
    victims = cards[is_role(cards, "attacks") & (cards["attack"] != CLEAN)]
    found = cards[
        (cards["role"] == SEPARABILITY.noun) & (cards["transform"] == "raw") & (cards["level"] == "penultimate")
    ]
    found = found[[*keys, "silhouette", "lda_auroc"]].merge(victims[[*keys, "method", "target_classes"]], on=keys)
    if not len(found):
        return empty()
    found["row"] = found["method"] + [f", {100 * rate:g} %" for rate in found["poison_rate"]]
    found["setting"] = found["dataset"] + ", " + found["model"] + ", to " + found["target_classes"].astype(str)
    rows, settings = list(dict.fromkeys(found["row"])), list(dict.fromkeys(found["setting"]))
    figure = Figure(figsize=(9, 0.3 * len(rows) + 1.6), layout="constrained")
    for panel, column in zip(figure.subplots(1, 2, sharey=True), ("silhouette", "lda_auroc"), strict=True):
        for i, setting in enumerate(settings):
            own = found[found["setting"] == setting]
            place = [rows.index(row) + 0.5 * ((i + 0.5) / len(settings) - 0.5) for row in own["row"]]
            style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "alpha": 0.8}
            panel.scatter(own[column].astype(float), place, s=22, linewidths=0, label=setting, **style)
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
