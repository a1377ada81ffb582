"""Figures of attacks and defenses over a whole grid.

Values are means over seeds. A cell of a matrix is hatched if none of its runs is judged, for example because the attack
did not implant.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from keyhole.planning.roles import CLEAN, RETRAINING, ROLES
from keyhole.reporting.canvas import (
    BLUE,
    ORANGE,
    by_model,
    draw_matrix,
    empty_figure,
    scatter,
    side_by_side,
    slant_labels,
    victim_names,
)
from keyhole.reporting.runs import CONTROLS, SETTING, VICTIM, is_role, named
from keyhole.scoring.flags import TRUTH, VALID_ASR

__all__ = ["plot_attacks", "plot_cleansing", "plot_detection", "plot_evasion", "plot_families", "plot_ladder"]

RUNGS = ("clean-label", "dirty-label", "training")  # what an attacker controls, from little to much


def plot_attacks(cards: DataFrame) -> Figure:
    """Draw ASR, natural ASR and CA of each attack and rate, with a mark for each seed."""
    victims = cards[is_role(cards, "attacks") & (cards["attack"] != CLEAN)]
    names = list(dict.fromkeys(victims[VICTIM].sort_values(SETTING, kind="stable").itertuples(index=False)))
    if not names:
        return empty_figure()
    figure = Figure(figsize=(7, 0.36 * len(names) + 1.4), layout="constrained")
    panel = figure.subplots()
    place = np.array([names.index(key) for key in victims[VICTIM].itertuples(index=False)])
    _marks(panel, victims, place)
    several = len(victims[SETTING].drop_duplicates()) > 1
    labels = [
        f"{f'{named(*setting)}: ' if several else ''}{attack}, {100 * rate:g} %" for *setting, attack, rate in names
    ]
    panel.set_yticks(range(len(names)), labels, fontsize=8)
    panel.set(xlim=(-3, 103), ylim=(len(names) - 0.4, -0.6), xlabel="percent")
    panel.axvline(100 * VALID_ASR, color="#666666", linestyle=":", linewidth=1, label="validity gate")
    panel.grid(axis="y", color="#eeeeee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _marks(panel: Axes, victims: DataFrame, place: Int[np.ndarray, " n"]) -> None:
    """Draw a mark for each seed; the seeds of an attack are shifted a little, so that equal values stay visible."""
    order = {seed: i for i, seed in enumerate(sorted(set(victims["seed"])))}
    shift = 0.5 * (np.array([order[seed] for seed in victims["seed"]]) + 0.5) / len(order) - 0.25
    styles: Sequence[tuple[str, str, str, str]] = (
        ("ASR", "ASR", ORANGE, "o"),
        ("ASR_natural", "natural ASR", "#E69F00", "x"),
        ("CA", "CA", BLUE, "|"),
    )
    for column, label, color, marker in styles:
        panel.scatter(100 * victims[column].astype(float), place + shift, s=26, c=color, marker=marker, label=label)


# Detection


def plot_detection(table: DataFrame) -> Figure:
    """Draw the AUROC of each detector on each attack and rate, from the table `detection`."""
    parts = list(by_model(table[table["attack"] != CLEAN]))
    if not parts:
        return empty_figure()
    shapes = [(part["defense"].nunique(), len(part.groupby(["attack", "poison_rate"]))) for _, part in parts]
    width = max(0.56 * max(columns for _, columns in shapes) + 3.6, 5.5)
    figure = Figure(figsize=(width, sum(0.3 * rows + 1.6 for rows, _ in shapes)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[rows + 4 for rows, _ in shapes])[:, 0]
    for panel, (name, part) in zip(axes, parts, strict=True):
        part = part.assign(victim=victim_names(part))
        rows, columns = list(dict.fromkeys(part["defense"])), list(dict.fromkeys(part["victim"]))
        values, judged = (
            part.pivot_table(index="defense", columns="victim", values=value, dropna=False)
            .reindex(index=rows, columns=columns)
            .to_numpy(float)
            for value in ("AUROC", "judged")
        )
        image = draw_matrix(panel, values, rows, columns, hatched=judged == 0)
        slant_labels(panel)
        panel.set_title(f"AUROC of detectors: {name}", fontsize=10)
        figure.colorbar(image, ax=panel, shrink=0.8, label="AUROC", ticks=[0, 0.5, 1])
    return figure


def plot_families(cards: DataFrame) -> Figure:
    """Draw whether detectors complement each other: the best of those that look at the same thing.

    Values are AUROC in the target class. Only detectors that are told none of the truth count.
    """
    blind = _blind(cards)
    runs = cards[is_role(cards, "detectors") & blind & (cards["attack"] != CLEAN) & (cards["looks_at"] != "nothing")]
    runs = runs[runs["looks_at"].notna()]
    parts = list(by_model(runs))
    if not parts:
        return empty_figure()
    figure = Figure(figsize=(6.2 * len(parts), 0.34 * runs["attack"].nunique() + 1.6), layout="constrained")
    for panel, (name, part) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        part = part.assign(victim=victim_names(part).str.replace("\n", ", "), out=part["excluded"] != "")
        means = part.groupby(["victim", "looks_at", "defense"], sort=False)["AUROC_target"].mean()
        best = means.groupby(["victim", "looks_at"], sort=False).max().unstack(sort=False)
        best["all"] = best.max(axis=1)
        out = part.groupby("victim", sort=False)["out"].all().reindex(best.index).to_numpy()
        columns = [str(each) for each in best.columns]
        image = draw_matrix(panel, best.to_numpy(float), list(best.index), columns, np.tile(out[:, None], len(columns)))
        panel.set_title(f"{name}: best blind detector by what it looks at", fontsize=10)
        figure.colorbar(image, ax=panel, shrink=0.8, label="AUROC in the target class", ticks=[0, 0.5, 1])
    return figure


def _blind(cards: DataFrame) -> Series:
    """Return which cards are of defenses that are told none of the truth."""
    return ~cards["told"].map(lambda told: bool(set(str(told).split("+")).intersection(TRUTH)))


# What defenses change


def plot_evasion(cards: DataFrame) -> Figure:
    """Draw the price of evasion: ASR against the best detector that is told none of the truth.

    The best detector is the one with the highest AUROC in the target class.
    """
    runs = cards[is_role(cards, "detectors") & _blind(cards) & ~cards["defense"].isin(CONTROLS)]
    runs = runs[runs["attack"] != CLEAN]
    means = runs.groupby([*VICTIM, "defense"], sort=False)[["AUROC_target", "ASR_victim"]].mean().reset_index()
    best = (
        means.groupby(VICTIM, sort=False).agg(AUROC=("AUROC_target", "max"), ASR=("ASR_victim", "first")).reset_index()
    )
    best = best.assign(ASR=100 * best["ASR"].astype(float), name=victim_names(best).str.replace("\n", ", "))

    def draw(panel: Axes, points: DataFrame) -> None:
        scatter(panel, points, "AUROC", "ASR", "name")
        panel.axhline(100 * VALID_ASR, color="#666666", linestyle=":", linewidth=1)
        panel.set(
            xlabel="AUROC in the target class of the best blind detector",
            ylabel="ASR, percent",
            xlim=(0.48, 1.01),
            ylim=(-3, 103),
        )

    return side_by_side(list(by_model(best)), draw)


def plot_cleansing(cards: DataFrame) -> Figure:
    """Draw whether cleansing matters: ASR of models trained again, against the payload rows left to them."""
    keys = [*VICTIM, "seed", "defense"]
    later = cards[(cards["role"] == RETRAINING.noun) & (cards["attack"] != CLEAN) & cards["ASR"].notna()]
    runs = cards[is_role(cards, "detectors")][[*keys, "TPR"]]
    points = later.drop(columns=["TPR"], errors="ignore").merge(runs, on=keys)
    left = ((1 - points["TPR"].astype(float)) * points["payload"].astype(float)).round()
    points = points.assign(
        left=left, percent=100 * points["ASR"].astype(float), name=victim_names(points).str.replace("\n", ", ")
    )

    def draw(panel: Axes, part: DataFrame) -> None:
        scatter(panel, part, "left", "percent", "name")
        panel.set_xscale("symlog", linthresh=10)
        panel.axhline(20, color="#666666", linestyle=":", linewidth=1)
        panel.set(xlabel="payload rows left in the training set", ylabel="ASR trained again, percent", ylim=(-3, 103))

    return side_by_side(list(by_model(points)), draw)


def plot_ladder(cards: DataFrame) -> Figure:
    """Draw what every defense achieves against every attack; 1 = the defender wins.

    Attacks are sorted by what they control. The value of a detector is its AUROC in the target class, of a filter its
    AUROC, of an inverter the share of victims whose target class is flagged, and of all others 1 - ASR of the model
    that they leave, or that is trained again.
    """
    measured = {"detectors": "AUROC_target", "inverters": "found", "filters": "AUROC"}
    measured |= dict.fromkeys(("trainers", "repairers", "purifiers"), "ASR")
    columns = {**{ROLES[key].noun: column for key, column in measured.items()}, RETRAINING.noun: "ASR"}
    runs = cards[cards["role"].isin(columns) & (cards["attack"] != CLEAN) & ~cards["defense"].isin(CONTROLS)]
    wins = [_win(row, columns[row["role"]]) for _, row in runs.iterrows()]
    again = np.where(runs["role"] == RETRAINING.noun, " (trained again)", "")
    runs = runs.assign(win=wins, victim=victim_names(runs).str.replace("\n", ", "), method=runs["defense"] + again)
    rung = {name: i for i, name in enumerate(RUNGS)}
    runs = runs.sort_values("controls", key=lambda x: x.map(rung), kind="stable")
    parts = list(by_model(runs))
    if not parts:
        return empty_figure()
    heights = [part["method"].nunique() for _, part in parts]
    width = 0.56 * max(part["victim"].nunique() for _, part in parts) + 4
    figure = Figure(figsize=(width, sum(0.27 * height + 1.9 for height in heights)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[height + 5 for height in heights])[:, 0]
    for panel, (name, part) in zip(axes, parts, strict=True):
        order = part.sort_values("role", key=lambda x: x.map(list(columns).index), kind="stable")
        rows = list(dict.fromkeys(zip(order["role"], order["method"], strict=True)))
        victims = list(dict.fromkeys(zip(part["controls"], part["victim"], strict=True)))
        means = part.groupby(["role", "method", "victim"])["win"].mean()
        values = np.array([[means.get((*row, victim), np.nan) for _, victim in victims] for row in rows], dtype=float)
        out = [(part.loc[part["victim"] == victim, "excluded"] != "").all() for _, victim in victims]
        labels = [f"{victim} ({controls})" for controls, victim in victims]
        draw_matrix(panel, values, [f"{row[1]}  · {row[0]}" for row in rows], labels, np.tile(out, (len(rows), 1)))
        slant_labels(panel)
        panel.set_title(f"{name}: 1 = the defender wins", fontsize=10)
    return figure


def _win(row: Series, column: str) -> float:
    value = float(row[column]) if row[column] is not None else np.nan
    return 1 - value if column == "ASR" else value
