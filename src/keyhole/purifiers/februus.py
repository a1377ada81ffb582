"""Februus (Doan, Abbasnejad, Ranasinghe, 2020, https://arxiv.org/abs/1908.03369): cut out what decides, and fill in.

Grad-CAM shows where the predicted class comes from; that region is removed and painted over from around it.
Differs from the paper: no GAN paints, which would need the training set and hours; pixels of the hole are the harmonic
function of its border (Laplace's equation), which leaves no trace of the trigger and no texture either.
Differs from the released code: the bar on the heat map, 0.7 there, is the lowest of 0.9, 0.8, ... 0.1 before clean
accuracy on the hold-out first falls by more than `tolerance` (0.9 where that does already), as different networks have
different heat maps; the maps are read at a level by its resolution (there: a layer of 8x8 for 32x32 images).
Checked against: Grad-CAM by hand for a linear head; NumPy's dense solution of each hole.
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
from keyhole.models import Classifier
from keyhole.parameters import Count, Fraction
from keyhole.purifiers import Purifier
from keyhole.types import Evidence, Images, Told

__all__ = ["Februus"]

BARS = tuple(tenth / 10 for tenth in range(9, 0, -1))  # of the normalized heat map, from the smallest region up
CHUNK = 128  # images whose holes are solved at once; sparse factors of more leave the cache
START, END = slice(None, -1), slice(1, None)


@dataclass(frozen=True, kw_only=True)
class Februus(Purifier):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    tolerance: Fraction = 0.04  # fall of clean accuracy, absolute
    stride: Count = 4  # image pixels that a pixel of the feature maps may stand for, along a side

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """See the base class.

        Raises:
            ValueError: there are no hold-out images, or the network has no feature maps.
        """
        evidence.require_holdout()
        net = evidence.frozen()
        level = mapped_level(net, evidence.holdout_images[:1], self.stride)
        bar = self._bar(net, evidence, level)
        return fill_holes(images, heat_maps(net, images, level) >= bar)

    def _bar(self, net: Classifier, evidence: Evidence, level: str) -> float:
        images, labels = evidence.holdout_images, evidence.holdout_labels
        heat = heat_maps(net, images, level)
        least = accuracy(net, images, labels) - self.tolerance
        bars = torch.tensor(BARS, dtype=torch.float64).unbind()
        kept = deepest_level(bars, lambda bar: accuracy(net, fill_holes(images, heat >= bar.item()), labels), least)
        return BARS[0] if kept is None else kept.item()


@torch.no_grad()
def mapped_level(net: Classifier, image: Images, stride: int) -> str:
    """The last level whose maps have a pixel for at most `stride` x `stride` of the image; else the finest.

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
    """Grad-CAM of the predicted class, scaled to the image's size and to 0..1; zeros where nothing speaks for it."""
    device, heats = device_of(net), []
    for chunk in images.split(forward_batch(device)):
        heat = grad_cam(net, chunk.to(device), level)
        heat = functional.interpolate(heat[:, None], chunk.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        heat = heat - heat.amin((1, 2), keepdim=True)
        heats.append((heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)).to(images.device))
    return torch.cat(heats)


def grad_cam(net: Classifier, images: Images, level: str) -> Float[Tensor, "n a b"]:
    """Maps of a level, weighted by the mean slope of the largest logit, positive part (Selvaraju et al. 2017)."""
    x = net.normalize(images)
    with torch.enable_grad():
        for name, stage in net.stages.items():
            x = stage(x)
            if name == level:
                maps = x.detach().requires_grad_()
                x = maps.clone()  # the next stage may work in place
        (slope,) = torch.autograd.grad(net.head(x).amax(1).sum(), maps)
    return (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1).relu()


def fill_holes(images: Images, hole: Bool[Tensor, "n h w"]) -> Images:
    """Images whose pixels in the hole are the mean of their neighbors; one that is all hole stays as it is."""
    hole = hole & ~hole.all(2).all(1)[:, None, None]
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    parts = zip(*(np.array_split(x, max(1, len(x) // CHUNK)) for x in (pixels, hole.cpu().numpy())), strict=True)
    found = np.concatenate([_harmonic(*part) for part in tqdm(list(parts), desc="februus", disable=None)])
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().to(images.device)


def _harmonic(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One sparse system for all holes; at the image's border a pixel has fewer neighbors."""
    count = int(hole.sum())
    if not count:
        return pixels.copy()
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(count)
    degree, known, rows, columns = np.zeros(count), np.zeros((count, pixels.shape[3])), [], []
    for here, there in ((np.s_[:, START], np.s_[:, END]), (np.s_[:, :, START], np.s_[:, :, END])):
        for own, other in ((here, there), (there, here)):
            inside, outside = hole[own] & hole[other], hole[own] & ~hole[other]
            degree[number[own][hole[own]]] += 1
            known[number[own][outside]] += pixels[other][outside]
            rows.append(number[own][inside])
            columns.append(number[other][inside])
    rows, columns = [*rows, np.arange(count)], [*columns, np.arange(count)]
    values = np.concatenate([*(-np.ones(len(part)) for part in rows[:-1]), degree])
    system = coo_array((values, (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)).tocsc()
    solution = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(known)
    result = pixels.copy()
    result[hole] = np.clip(np.round(solution), 0, 255).astype(np.uint8)
    return result
