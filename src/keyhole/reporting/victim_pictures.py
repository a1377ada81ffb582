"""Pictures of one victim: its attack on example images, maps of its latents, the triggers that inverters recover."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keyhole.reporting import canvas
from keyhole.reporting.canvas import BLUE, ORANGE, empty_figure
from keyhole.scoring.latent_maps import LatentMaps
from keyhole.scoring.statistics import NAN

__all__ = ["draw", "plot_inversions", "plot_latents", "plot_preview", "plot_triggers"]

# drawn in this order; shapes differ as well, for print in gray
KINDS = {"clean": ("#999999", "o"), "cover": (BLUE, "s"), "payload": (ORANGE, "^")}
AMPLIFIED = 5
FRAME = 1  # pixels around an image
COLUMNS = 10  # classes side by side
MOST_CLASSES = 20


def draw(
    outputs: Mapping[str, Any],
    title: str,
    level: str,
    cards: Sequence[Mapping[str, Any]],
    examples: Mapping[str, np.ndarray],
    maps: Callable[[], LatentMaps],
    inversions: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Draw all pictures of a victim; one that cannot be drawn says why.

    Args:
        outputs: `preview` and `latents`: a path each; `inversions`: at most one path; `triggers`: a path for each
            inverter.
        level: where the mapped latents are read.
        cards: the cards of the victim and its defenses; the first is the victim's.
        examples: images, as in `keyhole.running.examples`.
        maps: makes the maps of the latents.
        inversions: inverter -> what the workflow kept of its answer.
    """
    targets = cards[0]["target_classes"]
    raw = [card["silhouette"] for card in cards if (card.get("level"), card.get("transform")) == (level, "raw")]
    shown = (examples["clean"], examples["planted"], examples["triggered"], title)
    canvas.draw(plot_preview, *shown, to=[outputs["preview"]], title=title)
    words = (f"{title}, {level}", (raw or [NAN])[0])
    canvas.draw(lambda: plot_latents(maps(), *words), to=[outputs["latents"]], title=title)
    for inversion, path in zip(inversions.values(), outputs["triggers"], strict=True):
        canvas.draw(plot_triggers, inversion, targets, title, to=[path], title=title)
    for path in outputs["inversions"]:
        recovered = (examples["holdout"], examples["stamped"], inversions, title)
        canvas.draw(plot_inversions, *recovered, to=[path], title=title)


# Latents


def plot_latents(maps: LatentMaps, title: str, silhouette: float = NAN) -> Figure:
    """Draw a panel for each map, with one color each for payload, cover and clean rows."""
    figure = Figure(figsize=(4.2 * len(maps.points), 4.6), layout="constrained")
    axes = figure.subplots(1, len(maps.points), squeeze=False)[0]
    for panel, (method, points) in zip(axes, maps.points.items(), strict=True):
        _scatter(panel, points, maps.kinds)
        panel.set_title(method, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=2)
    measured = "" if np.isnan(silhouette) else f"\nsilhouette of payload in the target class: {silhouette:.3f}"
    figure.suptitle(f"{title}{measured}", fontsize=11)
    return figure


def _scatter(panel: Axes, points: Float[np.ndarray, "m 2"], kinds: Shaped[np.ndarray, " m"]) -> None:
    panel.set(xticks=[], yticks=[])  # neither method has axes with a unit
    if not np.isfinite(points).all() or not len(points):
        panel.text(0.5, 0.5, "latents not finite, or fewer than 5 rows", ha="center", va="center", fontsize=8)
        return
    for kind, (color, marker) in KINDS.items():
        of_kind = points[kinds == kind]
        if len(of_kind):
            label = f"{kind} (n = {len(of_kind)})"
            panel.scatter(
                of_kind[:, 0], of_kind[:, 1], s=12, c=color, marker=marker, alpha=0.7, linewidths=0, label=label
            )


# Images


def plot_preview(
    clean: UInt8[np.ndarray, "n c h w"],
    planted: UInt8[np.ndarray, "n c h w"],
    triggered: UInt8[np.ndarray, "n c h w"],
    title: str,
) -> Figure:
    """Draw example images clean, with the training-time and the test-time trigger, and what each trigger changes."""
    rows = {
        "clean": clean,
        "planted\n(training)": planted,
        "triggered\n(test)": triggered,
        f"planted\n− clean, × {AMPLIFIED}": _difference(planted, clean),
        f"triggered\n− clean, × {AMPLIFIED}": _difference(triggered, clean),
    }
    width = 1.1 * len(clean)
    figure = Figure(figsize=(width + 1.6, 1.1 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 1)
    for panel, (name, images) in zip(axes, rows.items(), strict=True):
        _show(panel, _strip(images))
        panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _difference(first: UInt8[np.ndarray, "n c h w"], second: UInt8[np.ndarray, "n c h w"]) -> np.ndarray:
    amplified = AMPLIFIED * np.abs(first.astype(int) - second.astype(int))
    return amplified.clip(0, 255).astype(np.uint8)


def _strip(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "c tall wide"]:
    """Put images side by side, with gray frames, since many triggers are white."""
    framed = np.pad(images, ((0, 0), (0, 0), (FRAME, FRAME), (FRAME, FRAME)), constant_values=150)
    return np.concatenate(list(framed), axis=2)


def _show(panel: Axes, image: Shaped[np.ndarray, "c h w"]) -> None:
    """Draw one image with its pixels as squares; an image with one channel is gray."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    panel.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def plot_triggers(inversion: Mapping[str, np.ndarray], targets: Sequence[int], title: str) -> Figure:
    """Draw for each class an image with the recovered trigger, its mask and its anomaly.

    With more than 20 classes only the most anomalous are drawn, and the target class.

    Args:
        inversion: what the workflow kept of an inverter's answer; without `triggers` if it failed or recovers none.
        targets: the true target classes, framed in blue; empty for a clean model.
    """
    if "triggers" not in inversion:
        return empty_figure(title)
    triggers, masks, anomaly, flagged = (inversion[name] for name in ("triggers", "masks", "anomaly", "flagged"))
    classes = _classes_shown(anomaly, targets)
    width, blocks = min(COLUMNS, len(classes)), -(-len(classes) // COLUMNS)
    figure = Figure(figsize=(max(1.15 * width, 5) + 0.5, 2.75 * blocks + 0.9), layout="constrained")
    axes = figure.subplots(2 * blocks, width, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for i, k in enumerate(classes):
        image, mask = axes[2 * (i // width), i % width], axes[2 * (i // width) + 1, i % width]
        for panel, pixels in ((image, triggers[k]), (mask, 255 * masks[k][None])):
            panel.set_axis_on()
            _show(panel, pixels)
        color = ORANGE if flagged[k] else "black"
        image.set_title(f"class {k}{' ⚑' if flagged[k] else ''}\n{anomaly[k]:.2f}", fontsize=8, color=color)
        if k in targets:
            for panel in (image, mask):
                panel.spines[:].set(visible=True, color=BLUE, linewidth=3)
    axes[0, 0].set_ylabel("image", fontsize=8)
    axes[1, 0].set_ylabel("mask", fontsize=8)
    some = f"; {len(classes)} of {len(anomaly)} classes, most anomalous first" if len(classes) < len(anomaly) else ""
    keys = [Patch(color=ORANGE, label="flagged ⚑"), Patch(edgecolor=BLUE, facecolor="none", lw=2, label="true target")]
    figure.legend(
        handles=keys if targets else keys[:1],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(f"{title}\nnumber: anomaly{some}", fontsize=10)
    return figure


def plot_inversions(
    clean: UInt8[np.ndarray, "n c h w"],
    triggered: UInt8[np.ndarray, "n c h w"],
    inversions: Mapping[str, Mapping[str, np.ndarray]],
    title: str,
) -> Figure:
    """Draw hold-out images clean, with the true trigger and with recovered ones, each beside what it changes.

    Args:
        clean: the first hold-out images.
        inversions: inverter -> what the workflow kept of its answer; an inverter without a trigger has no row.
    """
    rows = {"clean": clean, "true trigger": triggered}
    for label, inversion in inversions.items():
        if "stamped" in inversion:
            most = int(inversion["anomaly"].argmax())
            verdict = "flagged" if inversion["flagged"][most] else "not flagged"
            rows[f"{label}\nclass {most}, {verdict}"] = inversion["stamped"][: len(clean)]
    figure = Figure(figsize=(2.2 * len(clean) + 1.8, 1.1 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (image, change), (name, images) in zip(axes, rows.items(), strict=True):
        _show(image, _strip(images))
        image.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        _show(change, _strip(_difference(images, clean)))
    axes[0, 1].set_title(f"change, × {AMPLIFIED}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _classes_shown(anomaly: Float[np.ndarray, " k"], targets: Sequence[int]) -> list[int]:
    """Return all classes in order or, of many, the most anomalous ones and the (first) target."""
    if len(anomaly) <= MOST_CLASSES:
        return list(range(len(anomaly)))
    most = np.argsort(-np.nan_to_num(anomaly, nan=-np.inf), kind="stable")[:MOST_CLASSES].tolist()
    return most if not targets or set(targets) & set(most) else [*most[:-1], targets[0]]
