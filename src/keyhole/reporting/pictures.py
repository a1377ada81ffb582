"""Pictures of one victim. Every function draws one and writes it to `path`; the suffix (.png, .pdf) chooses the format.

Figures are built without pyplot, so nothing is shared between them, and written without a date: the same numbers give
the same bytes. Colors are those of Okabe & Ito (2008), which color-blind readers can tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keyhole import artifacts

__all__ = ["BLUE", "KINDS", "ORANGE", "latent_map", "nothing", "plot_latents", "plot_nothing", "plot_preview"]
__all__ += ["plot_inversions", "plot_triggers", "sample_kinds", "save"]

Kinds = Shaped[np.ndarray, " n"]  # "clean", "cover" or "payload", row by row

# drawn in this order; shapes differ as well, for print in gray
KINDS = {"clean": ("#999999", "o"), "cover": ("#0072B2", "s"), "payload": ("#D55E00", "^")}
ORANGE, BLUE = "#D55E00", "#0072B2"
PER_KIND = 1000  # points of each kind in a map
AMPLIFIED = 5
FRAME = 1  # pixels around an image
COLUMNS = 10  # classes side by side
MOST_CLASSES = 20
NO_DATE: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def save(figure: Figure, path: str | Path) -> None:
    with artifacts.atomic(path) as part:
        figure.savefig(part, dpi=150, metadata=NO_DATE[part.suffix])


# Latents


def sample_kinds(kinds: Kinds, rng_seed: int) -> Int[np.ndarray, " m"]:
    """Rows to draw, ascending: as many clean and cover rows as there is payload, at most 1,000 of each kind.

    A map of all rows would show the density of the clean ones, and hide 150 payload rows among 5,000.
    """
    rng = np.random.default_rng(rng_seed)
    size = min(PER_KIND, int((kinds == "payload").sum()) or PER_KIND)
    drawn = [rng.permutation(np.flatnonzero(kinds == kind))[:size] for kind in KINDS]
    return np.sort(np.concatenate(drawn))


def latent_map(
    latents: Float[np.ndarray, "m d"], method: Literal["t-SNE", "PCA"], rng_seed: int
) -> Float[np.ndarray, "m 2"]:
    """The rows in the plane: their first two principal components, or t-SNE of the first 50 (van der Maaten 2008).

    NaN where a latent is not finite, or for fewer than five rows: there is nothing to see.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(latents) < 5 or not np.isfinite(latents).all():
        return np.full((len(latents), 2), np.nan)
    components = min(50 if method == "t-SNE" else 2, *latents.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(latents.astype(np.float64))
    if reduced.shape[1] < 2:
        reduced = np.pad(reduced, ((0, 0), (0, 1)))
    if method == "PCA":
        return reduced
    perplexity = min(30, (len(latents) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=rng_seed).fit_transform(reduced)


def plot_latents(
    maps: Mapping[str, Float[np.ndarray, "m 2"]],
    kinds: Shaped[np.ndarray, " m"],
    path: str | Path,
    title: str,
    silhouette: float = float("nan"),
) -> None:
    """One panel for each map (method -> coordinates), payload, cover and clean in colors of their own."""
    figure = Figure(figsize=(4.2 * len(maps), 4.6), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for panel, (method, points) in zip(axes, maps.items(), strict=True):
        _scatter(panel, points, kinds)
        panel.set_title(method, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=2)
    measured = "" if np.isnan(silhouette) else f"\nsilhouette of payload in the target class: {silhouette:.3f}"
    figure.suptitle(f"{title}{measured}", fontsize=11)
    save(figure, path)


def _scatter(panel: Axes, points: Float[np.ndarray, "m 2"], kinds: Shaped[np.ndarray, " m"]) -> None:
    panel.set(xticks=[], yticks=[])  # neither method has axes with a unit
    if not np.isfinite(points).all() or not len(points):
        panel.text(0.5, 0.5, "latents not finite, or fewer than 5 rows", ha="center", va="center", fontsize=8)
        return
    for kind, (color, marker) in KINDS.items():
        here = points[kinds == kind]
        if len(here):
            label = f"{kind} (n = {len(here)})"
            panel.scatter(here[:, 0], here[:, 1], s=12, c=color, marker=marker, alpha=0.7, linewidths=0, label=label)


# Images


def plot_preview(
    clean: UInt8[np.ndarray, "n c h w"],
    planted: UInt8[np.ndarray, "n c h w"],
    triggered: UInt8[np.ndarray, "n c h w"],
    path: str | Path,
    title: str,
) -> None:
    """Example images as they are, with the training-time and the test-time trigger, and what each changes."""
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
    save(figure, path)


def _difference(first: UInt8[np.ndarray, "n c h w"], second: UInt8[np.ndarray, "n c h w"]) -> np.ndarray:
    amplified = AMPLIFIED * np.abs(first.astype(int) - second.astype(int))
    return amplified.clip(0, 255).astype(np.uint8)


def _strip(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "c tall wide"]:
    """Images side by side, framed in gray, since many triggers are white."""
    framed = np.pad(images, ((0, 0), (0, 0), (FRAME, FRAME), (FRAME, FRAME)), constant_values=150)
    return np.concatenate(list(framed), axis=2)


def _show(panel: Axes, image: Shaped[np.ndarray, "c h w"]) -> None:
    """One image, gray with one channel, its pixels as squares."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    panel.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def plot_triggers(found: Mapping[str, np.ndarray], targets: Sequence[int], path: str | Path, title: str) -> None:
    """Of each class an image with the recovered trigger, its mask and its anomaly; of many, the most anomalous.

    Args:
        found: what `running.evaluation.inverted` kept; a method that failed, or recovers no trigger, has no `triggers`.
        targets: the true ones, framed in blue; none for a clean model.
    """
    if "triggers" not in found:
        plot_nothing(path, title)
        return
    triggers, masks, anomaly, flagged = (found[name] for name in ("triggers", "masks", "anomaly", "flagged"))
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
    save(figure, path)


def plot_inversions(
    clean: UInt8[np.ndarray, "n c h w"],
    triggered: UInt8[np.ndarray, "n c h w"],
    inversions: Mapping[str, Mapping[str, np.ndarray]],
    path: str | Path,
    title: str,
) -> None:
    """The same hold-out images clean, with the true trigger and with the recovered ones, each beside what it changes.

    Args:
        clean: the first hold-out images.
        inversions: inverter -> what `keyhole.running.evaluation.inverted` kept; those without a trigger have no row.
    """
    rows = {"clean": clean, "true trigger": triggered}
    for label, found in inversions.items():
        if "stamped" in found:
            most = int(found["anomaly"].argmax())
            verdict = "flagged" if found["flagged"][most] else "not flagged"
            rows[f"{label}\nclass {most}, {verdict}"] = found["stamped"][: len(clean)]
    figure = Figure(figsize=(2.2 * len(clean) + 1.8, 1.1 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (image, change), (name, images) in zip(axes, rows.items(), strict=True):
        _show(image, _strip(images))
        image.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        _show(change, _strip(_difference(images, clean)))
    axes[0, 1].set_title(f"change, × {AMPLIFIED}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def plot_nothing(path: str | Path, title: str) -> None:
    """A picture that says that there is none: the method failed."""
    figure = Figure(figsize=(5, 1.5), layout="constrained")
    nothing(figure.subplots())
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def nothing(panel: Axes) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, "no such results in this grid", ha="center", va="center", transform=panel.transAxes)


def _classes_shown(anomaly: Float[np.ndarray, " k"], targets: Sequence[int]) -> list[int]:
    """All classes in order, or the most anomalous and the (first) target."""
    if len(anomaly) <= MOST_CLASSES:
        return list(range(len(anomaly)))
    most = np.argsort(-np.nan_to_num(anomaly, nan=-np.inf), kind="stable")[:MOST_CLASSES].tolist()
    return most if not targets or set(targets) & set(most) else [*most[:-1], targets[0]]
