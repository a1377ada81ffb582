"""Maps of a victim's latents in two dimensions, by t-SNE and PCA."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from keyhole.scoring.poisoned_rows import around_target

__all__ = ["KINDS", "LatentMaps", "latent_map", "map_latents", "sample_kinds"]

KINDS = ("clean", "cover", "payload")
PER_KIND = 1000  # points of each kind in a map


@dataclass(frozen=True)
class LatentMaps:
    """Several maps of the same rows."""

    points: dict[str, Float[np.ndarray, "m 2"]]  # method -> coordinates
    kinds: Shaped[np.ndarray, " m"]  # of each row, one of KINDS


def map_latents(
    latents: Float[np.ndarray, "n d"],
    train_labels: Int[np.ndarray, " n"],
    poisoned: Mapping[str, np.ndarray],
    target: int,
    rng_seed: int,
) -> LatentMaps:
    """Map payload, cover and clean rows with the target label, equally many of each where possible.

    Args:
        train_labels: before poisoning.
        poisoned: the arrays of a `Poisoned`, without its images.
    """
    rows, kinds = around_target(train_labels, poisoned, target)
    drawn = sample_kinds(kinds, rng_seed)
    chosen = latents[rows[drawn]]
    methods: tuple[Literal["t-SNE", "PCA"], ...] = ("t-SNE", "PCA")
    return LatentMaps({method: latent_map(chosen, method, rng_seed) for method in methods}, kinds[drawn])


def sample_kinds(kinds: Shaped[np.ndarray, " n"], rng_seed: int) -> Int[np.ndarray, " m"]:
    """Draw as many clean and cover rows as there are payload rows, at most 1,000 of each kind; return them sorted.

    A map of all rows would mostly show the clean ones, and hide 150 payload rows among 5,000.
    """
    rng = np.random.default_rng(rng_seed)
    size = min(PER_KIND, int((kinds == "payload").sum()) or PER_KIND)
    drawn = [rng.permutation(np.flatnonzero(kinds == kind))[:size] for kind in KINDS]
    return np.sort(np.concatenate(drawn))


def latent_map(
    latents: Float[np.ndarray, "m d"], method: Literal["t-SNE", "PCA"], rng_seed: int
) -> Float[np.ndarray, "m 2"]:
    """Return the rows' first two principal components, or t-SNE of the first 50 (van der Maaten 2008).

    All coordinates are NaN if a latent is not finite or there are fewer than five rows.
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
