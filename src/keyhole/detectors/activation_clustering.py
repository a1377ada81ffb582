"""Activation Clustering (Chen et al., 2018, https://arxiv.org/abs/1811.03728): cluster the latents of each class.

Idea: A class that holds payload falls into two clusters of unequal size; a clean class falls into two of about equal
size. So the smaller of two clusters is suspicious if it is small enough.

Differs from the paper: It projects on principal instead of independent components. Of the paper's three tests only
relative size is used, as Qi et al. 2023 run it (their silhouette test is commented out). The paper has no score for a
row; here it is the row's place between the two centers (1 at the center of the smaller cluster, -1 at the other one)
times 1 - 2 (share of the smaller cluster), so that rows of evenly split classes rank in the middle.

The smaller cluster of a class is flagged wholly or not at all: where its share lies within about 0.01 of the threshold,
the start of k-means decides over a third of a class. `size_margin` in the row is the least such distance.

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
    size_threshold: Fraction = 0.35  # fraction of the class; a cluster below it is flagged

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        from sklearn.cluster import KMeans

        latents = level_latents(evidence, self.level)
        scores = torch.zeros(len(latents), device=latents.device)
        flagged = torch.zeros_like(scores, dtype=torch.bool)
        margins = []
        for _, rows, x in latents_by_class(latents, evidence.labels):
            seed = streams.integer(rng)
            z = (x - x.mean(0)) @ principal_axes(x, self.dims)
            if z.shape[1] == 0:  # all rows are equal, so there are no two clusters
                continue
            means = KMeans(2, n_init=10, random_state=seed).fit(z.cpu().numpy())
            second = torch.from_numpy(means.labels_).to(z.device) == 1
            small = second if 2 * int(second.sum()) <= len(rows) else ~second
            share = int(small.sum()) / len(rows)
            ordinary, suspect = z[~small].mean(0), z[small].mean(0)
            place = nearness(z, ordinary, suspect) / (suspect - ordinary).square().sum()
            scores[rows] = (place * (1 - 2 * share)).float()
            flagged[rows] = small & (share < self.size_threshold)
            margins.append(abs(share - self.size_threshold))
        return Suspicion(scores, flagged, {"size_margin": min(margins)} if margins else {})
