"""Februus (Doan, Abbasnejad, Ranasinghe, 2020, https://arxiv.org/abs/1908.03369): cut out what decides, and fill in.

Idea: Grad-CAM shows the region from which the predicted class comes. That region is removed and painted over from its
surroundings.

Differs from the paper: The paper's GAN would need the training set and hours. Instead, the pixels of the hole are the
harmonic function of its border (Laplace's equation), which leaves no trace of the trigger, but no texture either.

Differs from the released code: The threshold on the heat map, which the code sets to 0.7, is the lowest of 0.9, 0.8,
... 0.1 before clean accuracy on the hold-out first falls by more than `tolerance` (0.9 if that already does), since
different networks have different heat maps. The level of the maps is chosen by its resolution; the code reads a layer
of 8x8 for 32x32 images.

Checked against: Grad-CAM by hand for a linear head; a dense solution of each hole with NumPy.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu
from torch import Generator, Tensor
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.holdout import accuracy, deepest_level
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Count, Fraction
from keyhole.purifiers import Purifier
from keyhole.types import Classifier, Evidence, Images, Told

__all__ = ["Februus"]

THRESHOLDS = tuple(tenth / 10 for tenth in range(9, 0, -1))  # on the normalized heat map, from the smallest region up
CHUNK = 128  # images whose holes are solved at once; the sparse factors of more do not fit the cache
START, END = slice(None, -1), slice(1, None)


@dataclass(frozen=True, kw_only=True)
class Februus(Purifier):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    tolerance: Fraction = 0.04  # largest fall of clean accuracy, absolute
    stride: Count = 4  # image pixels that a pixel of the feature maps may cover, along a side

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Cut out and fill the region of the image that decides its class.

        Raises:
            ValueError: there are no hold-out images, or the network has no feature maps.
        """
        evidence.require_holdout()
        net = evidence.frozen()
        level = find_level(net, evidence.holdout_images[:1], self.stride)
        threshold = self._choose_threshold(net, evidence, level)
        return fill_holes(images, heat_maps(net, images, level) >= threshold)

    def _choose_threshold(self, net: Classifier, evidence: Evidence, level: str) -> float:
        images, labels = evidence.holdout_images, evidence.holdout_labels
        heat = heat_maps(net, images, level)
        least = accuracy(net, images, labels) - self.tolerance
        thresholds = torch.tensor(THRESHOLDS, dtype=torch.float64).unbind()

        def accuracy_at(threshold: Tensor) -> float:
            return accuracy(net, fill_holes(images, heat >= threshold.item()), labels)

        deepest = deepest_level(thresholds, accuracy_at, least)
        return THRESHOLDS[0] if deepest is None else deepest.item()


@torch.no_grad()
def find_level(net: Classifier, image: Images, stride: int) -> str:
    """Find the last level whose maps have a pixel for at most `stride` x `stride` pixels of the image.

    If there is none, return the level with the finest maps.

    Raises:
        ValueError: no level has maps.
    """
    levels = net.levels(image.to(device_of(net))).items()
    sides = {name: min(x.shape[2:]) for name, x in levels if x.ndim == 4}
    if not sides:
        raise ValueError(f"expected a network with feature maps, got levels {', '.join(net.level_names)}")
    fine = [name for name, side in sides.items() if side * stride >= min(image.shape[2:])]
    return fine[-1] if fine else max(sides, key=lambda name: sides[name])


def heat_maps(net: Classifier, images: Images, level: str) -> Float[Tensor, "n h w"]:
    """Return Grad-CAM of the predicted class, scaled to the size of the image and to 0..1.

    An image in which nothing speaks for the class gets zeros.
    """
    device, heats = device_of(net), []
    for chunk in images.split(forward_batch(device, images)):
        heat = grad_cam(net, chunk.to(device), level)
        heat = functional.interpolate(heat[:, None], chunk.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        heat = heat - heat.amin((1, 2), keepdim=True)
        heats.append((heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)).to(images.device))
    return torch.cat(heats)


def grad_cam(net: Classifier, images: Images, level: str) -> Float[Tensor, "n a b"]:
    """Return the positive part of the maps of a level, weighted by the mean gradient of the largest logit.

    See Selvaraju et al. 2017.
    """
    x = net.normalize(images)
    with torch.enable_grad():
        for name, stage in net.stages.items():
            x = stage(x)
            if name == level:
                maps = x.detach().requires_grad_()
                x = maps.clone()  # the next stage may change its input in place
        (slope,) = torch.autograd.grad(net.head(x).amax(1).sum(), maps)
    return (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1).relu()


def fill_holes(images: Images, hole: Bool[Tensor, "n h w"]) -> Images:
    """Return images in which every pixel of the hole is the mean of its neighbors; keep an image that is all hole."""
    hole = hole & ~hole.all(2).all(1)[:, None, None]
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    parts = zip(*(np.array_split(x, max(1, len(x) // CHUNK)) for x in (pixels, hole.cpu().numpy())), strict=True)
    filled = np.concatenate([_solve_harmonic(*part) for part in tqdm(list(parts), desc="februus", disable=None)])
    return torch.from_numpy(filled).permute(0, 3, 1, 2).contiguous().to(images.device)


def _solve_harmonic(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill all holes by one sparse linear system; a pixel at the border of its image has fewer neighbors."""
    count = int(hole.sum())
    if not count:
        return pixels.copy()
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(count)
    degree, border_sum, rows, columns = np.zeros(count), np.zeros((count, pixels.shape[3])), [], []
    for start, end in ((np.s_[:, START], np.s_[:, END]), (np.s_[:, :, START], np.s_[:, :, END])):
        for center, neighbor in ((start, end), (end, start)):
            inside, outside = hole[center] & hole[neighbor], hole[center] & ~hole[neighbor]
            degree[number[center][hole[center]]] += 1
            border_sum[number[center][outside]] += pixels[neighbor][outside]
            rows.append(number[center][inside])
            columns.append(number[neighbor][inside])
    rows, columns = [*rows, np.arange(count)], [*columns, np.arange(count)]
    values = np.concatenate([*(-np.ones(len(part)) for part in rows[:-1]), degree])
    system = coo_array((values, (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)).tocsc()
    solution = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(border_sum)
    result = pixels.copy()
    result[hole] = np.clip(np.round(solution), 0, 255).astype(np.uint8)
    return result
