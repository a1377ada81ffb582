"""Label-consistent attack (Turner et al., 2019, https://arxiv.org/abs/1912.02771): hard images with their true label.

Idea: projected gradient ascent on the loss of a surrogate moves images of the target class until their content says
little about their class. Then the pattern of BadNets is put into all four corners, so the victim learns the pattern
instead. At test time images get the pattern only.

Differs from the paper: bound and pattern are those of Qi et al. (l2, 600; `repeated`). The paper's authors mirror the
pattern in the left corners (`layout: mirrored`), so that a mirrored image still contains it. BackdoorBench uses `norm:
linf`, `epsilon: 8.0`, `step_size: 1.5`.

Differs from the released code: images are hardened against the attacker's own surrogate (the authors published only the
hardened images); a faint pattern is blended in with `opacity` (code: an amplitude is added and subtracted); the poison
rate is a share of all rows.

Checked against: the ascent in float64 on a linear model, with its gradient in closed form; the pixels written out by
hand.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.attacks import Attack
from keyhole.attacks._triggers import DOTS, blend
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Fraction, ParameterError, Positive, Setting
from keyhole.rng import stream
from keyhole.types import Images, Labels, Poisoned, Rows

__all__ = ["LabelConsistent"]

BATCH = 256  # images per step, on every device: the 4,096 of a forward pass would need far more memory with gradients
Floats = Float[Tensor, "n c h w"]


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    controls = "clean-label"
    paper_rate: ClassVar[float] = 0.003
    bound_to_rows: ClassVar[bool] = True
    crafted_from = "surrogate"

    norm: Literal["linf", "l2"] = "l2"
    epsilon: Positive = 600.0  # of 255: largest norm of an image's perturbation
    steps: Count = 100
    step_size: Positive | None = None  # of 255, in the same norm; null: 2.5 epsilon / steps
    size: Count = 3  # pixels: side of the pattern in one corner
    layout: Literal["repeated", "mirrored"] = "repeated"  # the left corners: as the right ones, or mirrored
    opacity: Fraction = 1.0  # of the pattern, in training and at test time

    def check(self) -> None:
        if self.label_map != "all_to_one":
            raise ParameterError(
                "label_map", f"expected all_to_one, since label_consistent is clean-label, got {self.label_map}"
            )
        if self.norm == "linf" and self.epsilon > 255:
            raise ParameterError("epsilon", f"expected at most 255 with norm linf, got {self.epsilon:g}")

    def check_setting(self, setting: Setting) -> None:
        """Try the pattern on a blank image; unlike the hardened images, it needs no surrogate."""
        self.apply_trigger(torch.zeros(1, *setting.shape, dtype=torch.uint8), stream("check"))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        (h, w), size = images.shape[2:], self.size
        if 2 * size > min(h, w):
            most = f"{min(h, w) // 2} pixels in images of {h} x {w}"
            raise ParameterError("size", f"expected at most {most}, got {size}")
        right = functional.interpolate(DOTS[None, None].float(), (size, size), mode="nearest")[0, 0]
        left = right.flip(1) if self.layout == "mirrored" else right
        picture, mask = torch.zeros(2, h, w)
        for rows in (slice(0, size), slice(h - size, h)):
            picture[rows, :size], picture[rows, w - size :] = left, right
            mask[rows, :size], mask[rows, w - size :] = 1, 1
        picture, mask = picture.to(images.device), mask.to(images.device)
        return blend(images, picture, self.opacity * mask)

    def poison(self, images: Images, labels: Labels, rate: float, rng: Generator) -> Poisoned:
        if "hardened" not in self.tensors:
            raise ValueError("expected the hardened images that `craft` returns, got none")
        rows = self.tensors["rows"].to(labels.device)
        if not torch.equal(rows, self._target_rows(labels)):
            raise ValueError(f"expected images hardened from these rows of class {self.target_class}, got other rows")
        images = images.clone()
        images[rows.to(images.device)] = self.tensors["hardened"].to(images.device)
        return super().poison(images, labels, rate, rng)

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        """Return the hardened images of the target class and their row numbers."""
        if surrogate is None:
            raise ValueError("surrogate: expected a network trained on the clean set, got none")
        net = copy.deepcopy(surrogate).eval().requires_grad_(False)
        rows = self._target_rows(labels)
        parts = images[rows.to(images.device)].split(BATCH)
        hardened = torch.cat([self._harden(net, part, rng) for part in tqdm(parts, desc="harden", disable=None)])
        return {"rows": rows, "hardened": hardened}

    def _target_rows(self, labels: Labels) -> Rows:
        return torch.nonzero(labels == self.target_class).squeeze(1)

    def _harden(self, net: nn.Module, images: Images, rng: Generator) -> Images:
        x = images.to(device_of(net)).float()
        truth = torch.full((len(x),), self.target_class, device=x.device)
        step = self.step_size or 2.5 * self.epsilon / self.steps
        delta = self._start(x, rng)
        for _ in range(self.steps):
            moved = (x + delta).requires_grad_()
            loss = functional.cross_entropy(net(moved), truth, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            delta = self._project(delta + step * self._direction(gradient), self.epsilon)
            delta = (x + delta).clamp(0, 255) - x
        # rounding can move an l2 perturbation out of its ball by half a step per value; a linf one stays inside
        delta = self._project(delta, float(int(self.epsilon)) if self.norm == "linf" else self.epsilon)
        return (x + delta).round().clamp(0, 255).to(torch.uint8).to(images.device)

    def _start(self, x: Floats, rng: Generator) -> Floats:
        """Draw a start uniformly from the ball of radius epsilon, with images clipped to 0..255."""
        if self.norm == "linf":
            delta = (2 * torch.rand(x.shape, generator=rng) - 1) * self.epsilon
        else:
            radius = torch.rand(len(x), 1, 1, 1, generator=rng) ** (1 / math.prod(x.shape[1:]))
            delta = radius * self.epsilon * self._direction(torch.randn(x.shape, generator=rng))
        return (x + delta.to(x)).clamp(0, 255) - x

    def _direction(self, gradient: Floats) -> Floats:
        """Return the direction of steepest ascent with length 1 in the norm; zeros if the gradient is 0."""
        if self.norm == "linf":
            return gradient.sign()
        # torch divides by at least 1e-12 by default, but the gradient of a confident surrogate is far smaller
        return functional.normalize(gradient.flatten(1), eps=1e-20).view_as(gradient)

    def _project(self, delta: Floats, epsilon: float) -> Floats:
        if self.norm == "linf":
            return delta.clamp(-epsilon, epsilon)
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return delta * (epsilon / length.clamp(min=epsilon))
