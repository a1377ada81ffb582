"""What figures and pictures share: colors, files, panels, a matrix of numbers, marks with a legend.

Figures are made without pyplot, so that they share no state, and saved without a date, so that the same numbers give
the same bytes. The colors are those of Okabe & Ito (2008), which color-blind readers can tell apart.
"""

import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame, Series

from keyhole import artifacts
from keyhole.reporting.runs import SETTING, named

__all__ = [
    "BLUE",
    "COLORS",
    "MARKERS",
    "ORANGE",
    "by_model",
    "draw",
    "draw_matrix",
    "empty_figure",
    "save",
    "scatter",
]
__all__ += ["side_by_side", "slant_labels", "victim_names"]

log = logging.getLogger("keyhole")

MARKERS = "osD^v<>Ph*X8pd"
ORANGE, BLUE = "#D55E00", "#0072B2"
COLORS = (ORANGE, BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
NO_DATE: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def save(figure: Figure, *paths: str | Path) -> None:
    """Write a figure to each path; the suffix (.png, .pdf) chooses the format."""
    for path in paths:
        with artifacts.atomic(path) as part:
            figure.savefig(part, dpi=150, metadata=NO_DATE[part.suffix])


def draw(plot: Callable[..., Figure], *arguments: Any, to: Sequence[str | Path], title: str = "") -> None:
    """Draw a figure and write it to each path; one that cannot be drawn says why in its place, and costs only itself.

    Args:
        plot: makes the figure from `arguments`.
        title: of the figure that says why.
    """
    try:
        save(plot(*arguments), *to)
    except (OSError, MemoryError):
        raise  # the machine's fault, which the scheduler may try again
    except Exception as error:
        log.exception("%s cannot be drawn", ", ".join(map(str, to)))
        save(empty_figure(title or Path(to[0]).stem, f"cannot be drawn: {type(error).__name__}: {error}"), *to)


def by_model(cards: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """Yield the rows of each data set, model and recipe, with a title."""
    for setting, part in cards.groupby(SETTING, sort=False):
        yield named(*setting), part


def victim_names(victims: DataFrame) -> Series:
    """Return the attack and, on a second line, the poison rate of each row."""
    return victims["attack"] + [f"\n{100 * rate:g} %" for rate in victims["poison_rate"]]


def draw_matrix(
    panel: Axes,
    values: Float[np.ndarray, "r c"],
    rows: Sequence[str],
    columns: Sequence[str],
    hatched: np.ndarray | None = None,
    words: np.ndarray | None = None,
) -> Any:
    """Draw values from 0 to 1 as colors, 0.5 white, and as numbers, or `words` in place of the numbers."""
    image = panel.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        text = ("–" if np.isnan(value) else f"{value:.2f}") if words is None else str(words[i, j])
        color = "white" if abs(value - 0.5) > 0.3 else "black"
        panel.text(j, i, text, ha="center", va="center", fontsize=7.5, color=color)
        if hatched is not None and hatched[i, j]:
            edge = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#666666", lw=0)
            panel.add_patch(edge)
    panel.set_yticks(range(len(rows)), rows, fontsize=8)
    panel.set_xticks(range(len(columns)), columns, fontsize=8)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return image


def slant_labels(panel: Axes) -> None:
    """Slant the labels of the x axis."""
    panel.tick_params(axis="x", rotation=45)
    for label in panel.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")


def empty_figure(title: str = "", why: str = "no such results in this grid") -> Figure:
    """Make a figure that has nothing to show, and says why."""
    figure = Figure(figsize=(5, 1.5), layout="constrained")
    panel = figure.subplots()
    panel.set_axis_off()
    words = textwrap.fill(why, 70, max_lines=6)
    panel.text(0.5, 0.5, words, ha="center", va="center", fontsize=9, parse_math=False, transform=panel.transAxes)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def scatter(panel: Axes, points: DataFrame, x: str, y: str, by: str) -> None:
    """Draw points in a color and with a marker for each value of the column `by`."""
    for i, (name, group) in enumerate(points.groupby(by, sort=False)):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        panel.scatter(group[x], group[y], s=30, label=name, alpha=0.85, linewidths=0, color=color, marker=marker)
    panel.grid(color="#eeeeee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def side_by_side(parts: Sequence[tuple[str, DataFrame]], draw: Callable[[Axes, DataFrame], None]) -> Figure:
    """Draw a panel for each part, with one legend for all."""
    if not parts:
        return empty_figure()
    figure = Figure(figsize=(5.2 * len(parts) + 2.2, 4.4), layout="constrained")
    for panel, (name, part) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        draw(panel, part)
        panel.set_title(name, fontsize=10)
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8)
    return figure
