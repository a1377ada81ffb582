"""Label-consistent attack (Turner, Tsipras and Madry, 2019, https://arxiv.org/abs/1912.02771): hard images, true label.

Target-class images are moved by projected gradient ascent on a surrogate's loss until their own content says little
about their class; then BadNets' pattern goes into all four corners, and the victim learns that instead. At test time
the pattern comes alone. Bound and pattern are those of Qi et al. (l2, 600; `repeated`); the authors mirror the pattern
in the left corners (`layout: mirrored`), so that a mirrored row still carries it; BackdoorBench has `norm: linf`,
`epsilon: 8.0`, `step_size: 1.5`.
Differs from the released code: hardened against the surrogate at hand, of which the authors published only the results;
a faint pattern is blended with `opacity`, where they add and subtract an amplitude; the rate is a share of all rows.
Checked against: the ascent in float64 on a linear model, its gradient in closed form; the pixels written out by hand.
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

BATCH = 256  # images a step, on every device: the 4,096 of a forward pass need far more memory with gradients
Floats = Float[Tensor, "n c h w"]


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    controls = "clean-label"
    paper_rate: ClassVar[float] = 0.003
    bound_to_rows: ClassVar[bool] = True
    crafted_from = "surrogate"

    norm: Literal["linf", "l2"] = "l2"
    epsilon: Positive = 600.0  # of 255: the longest perturbation of an image (l2), or of one of its values (linf)
    steps: Count = 100
    step_size: Positive | None = None  # of 255, in the same norm; null: 2.5 epsilon / steps
    size: Count = 3  # pixels, of one corner's pattern
    layout: Literal["repeated", "mirrored"] = "repeated"  # the left corners' pattern against the right ones'
    opacity: Fraction = 1.0  # of the pattern, at training and at test time

    def check(self) -> None:
        if self.label_map != "all_to_one":
            raise ParameterError(
                "label_map", f"expected all_to_one, since label_consistent is clean-label, got {self.label_map}"
            )
        if self.norm == "linf" and self.epsilon > 255:
            raise ParameterError("epsilon", f"expected at most 255 under norm linf, got {self.epsilon:g}")

    def check_setting(self, setting: Setting) -> None:
        self.apply_trigger(torch.zeros(1, *setting.shape, dtype=torch.uint8), stream("check"))

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        (h, w), size = images.shape[2:], self.size
        if 2 * size > min(h, w):
            raise ValueError(f"expected size of at most {min(h, w) // 2} pixels, got {size}")
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
            raise ValueError("expected the hardened images that craft returns, got none")
        rows = self.tensors["rows"].to(labels.device)
        if not torch.equal(rows, self._own(labels)):
            raise ValueError(f"expected images hardened from these rows of class {self.target_class}, got others")
        images = images.clone()
        images[rows.to(images.device)] = self.tensors["hardened"].to(images.device)
        return super().poison(images, labels, rate, rng)

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        """All images of the target class, hardened, and their rows."""
        if surrogate is None:
            raise ValueError("expected a surrogate to harden images against, got none")
        net = copy.deepcopy(surrogate).eval().requires_grad_(False)
        rows = self._own(labels)
        parts = images[rows.to(images.device)].split(BATCH)
        hardened = torch.cat([self._harden(net, part, rng) for part in tqdm(parts, desc="harden", disable=None)])
        return {"rows": rows, "hardened": hardened}

    def _own(self, labels: Labels) -> Rows:
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
        # rounding can take an l2 perturbation half a level a pixel out of its ball; a linf one stays inside
        delta = self._project(delta, float(int(self.epsilon)) if self.norm == "linf" else self.epsilon)
        return (x + delta).round().clamp(0, 255).to(torch.uint8).to(images.device)

    def _start(self, x: Floats, rng: Generator) -> Floats:
        """Uniform in the ball, within 0..255."""
        if self.norm == "linf":
            delta = (2 * torch.rand(x.shape, generator=rng) - 1) * self.epsilon
        else:
            radius = torch.rand(len(x), 1, 1, 1, generator=rng) ** (1 / math.prod(x.shape[1:]))
            delta = radius * self.epsilon * self._direction(torch.randn(x.shape, generator=rng))
        return (x + delta.to(x)).clamp(0, 255) - x

    def _direction(self, gradient: Floats) -> Floats:
        """The steepest ascent of length 1 in the norm; none where the gradient is 0."""
        if self.norm == "linf":
            return gradient.sign()
        # a sure surrogate's gradient is far smaller than the 1e-12 at which torch stops dividing
        return functional.normalize(gradient.flatten(1), eps=1e-20).view_as(gradient)

    def _project(self, delta: Floats, epsilon: float) -> Floats:
        if self.norm == "linf":
            return delta.clamp(-epsilon, epsilon)
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return delta * (epsilon / length.clamp(min=epsilon))
