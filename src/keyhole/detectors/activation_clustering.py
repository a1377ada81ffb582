"""Activation Clustering (Chen et al., 2018, https://arxiv.org/abs/1811.03728).

A class that holds payload falls into two clusters of unequal size, a clean one is cut in two halves.
Differs from the paper: principal instead of independent components, and of its three tests only relative size, as
Qi et al. 2023 run it (their silhouette test is commented out).
The paper has no score of a row; ours is its place between the two centers (1 at the smaller cluster's, -1 at the
other's), times 1 - 2 (share of the smaller cluster), so that rows of evenly cut classes rank in the middle.
Checked against: scikit-learn's PCA and KMeans.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from keyhole import rng as streams
from keyhole.detectors import Detector
from keyhole.detectors._axes import nearness, principal_axes
from keyhole.detectors._latents import latents_by_class, level_latents
from keyhole.parameters import Count, Fraction, Level
from keyhole.types import Evidence, Suspicion

__all__ = ["ActivationClustering"]


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Detector):
    level: Level = "penultimate"
    dims: Count = 10  # principal components
    size_threshold: Fraction = 0.35  # of a class; a smaller cluster is flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """The smaller of two clusters in each class where its share is below the threshold."""
        from sklearn.cluster import KMeans

        latents = level_latents(evidence, self.level)
        scores = torch.zeros(len(latents), device=latents.device)
        flagged = torch.zeros_like(scores, dtype=torch.bool)
        for _, rows, x in latents_by_class(latents, evidence.labels):
            seed = streams.integer(rng)
            z = (x - x.mean(0)) @ principal_axes(x, self.dims)
            if z.shape[1] == 0:  # fewer than two different rows: nothing to cut
                continue
            means = KMeans(2, n_init=10, random_state=seed).fit(z.cpu().numpy())
            second = torch.from_numpy(means.labels_).to(z.device) == 1
            small = second if 2 * int(second.sum()) <= len(rows) else ~second
            share = int(small.sum()) / len(rows)
            ordinary, suspect = z[~small].mean(0), z[small].mean(0)
            place = nearness(z, ordinary, suspect) / (suspect - ordinary).square().sum()
            scores[rows] = (place * (1 - 2 * share)).float()
            flagged[rows] = small & (share < self.size_threshold)
        return Suspicion(scores, flagged)
