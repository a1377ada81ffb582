"""Train a classifier, and read predictions and latents from it.

The whole data set stays on the network's device as uint8; batches are gathered, augmented and converted there. The
loop draws every random number from the stream it is given, so the same stream on the same machine gives the same
weights bit for bit on a CPU.
"""

import logging
import time
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning.recipes import Recipe
from keyhole.types import Images, Labels

__all__ = ["Loop", "device_of", "fit", "forward_batch", "half_precision", "latents", "logits"]
__all__ += ["multiplies_in_bfloat16", "optimizer_and_schedule", "predict"]

log = logging.getLogger(__name__)


def device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def forward_batch(device: torch.device) -> int:
    """Images in one forward pass; on a CPU larger batches leave the cache and are slower."""
    return 256 if device.type == "cpu" else 4096


def fit(net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> None:
    """Train `net` in place; it is left in eval mode."""
    loop = Loop(net, images, labels, recipe, rng)
    for x, y in loop:
        with loop.half():
            outputs = net(x)
        loop.descend(functional.cross_entropy(outputs.float(), y))


class Loop:
    """The augmented batches of a recipe, and a step of the network's weights for each; iterate once.

    Who iterates computes a loss for each batch and hands it to `descend`. At the end the network is in eval mode.
    """

    def __init__(self, net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> None:
        device = device_of(net)
        self._net, self._recipe, self._rng = net, recipe, rng
        self._images, self._labels = images.to(device), labels.to(device)
        self._per_epoch = max(1, len(images) // recipe.batch_size)
        self.steps = self._per_epoch * recipe.epochs
        self._optimizer, self._schedule = optimizer_and_schedule(net, recipe, self.steps)
        self._total = torch.zeros((), device=device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._net.train()
        start = time.perf_counter()
        for step, batch in enumerate(batches(self._images, self._labels, self._recipe, self._rng), start=1):
            yield batch
            if step % self._per_epoch == 0:
                epoch, loss = step // self._per_epoch, self._total / self._per_epoch
                seconds = time.perf_counter() - start
                log.info("epoch %d/%d  loss %.3f  %.0f s", epoch, self._recipe.epochs, loss, seconds)
                self._total.zero_()
        self._net.eval()

    def half(self) -> torch.autocast:
        """bfloat16 inside, where the recipe says so."""
        device = self._total.device
        return torch.autocast(device.type, torch.bfloat16, enabled=half_precision(self._recipe, device))

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer and of its schedule."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self._total += loss.detach()


def batches(images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of all epochs; the last, partial one of an epoch is left out unless it is the only one."""
    n, size = len(images), min(recipe.batch_size, len(images))
    mirrored = torch.rand(n, generator=rng) < 0.5
    for epoch in range(recipe.epochs):
        order = torch.randperm(n, generator=rng)
        for rows in order[: n // size * size].split(size):
            flip = mirrored[rows] ^ bool(epoch % 2) if recipe.flip else None
            there = rows.to(images.device)
            yield augment(images[there], recipe, flip, rng), labels[there]


def augment(x: Images, recipe: Recipe, flip: Tensor | None, rng: Generator) -> Tensor:
    """Mirror the rows in `flip`, then rotate, then pad and crop each image at its own place."""
    if flip is not None:
        x = torch.where(flip.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
    if recipe.rotation:
        x = _rotate(x, (2 * torch.rand(len(x), generator=rng) - 1) * recipe.rotation)
    if recipe.pad:
        offsets = torch.randint(0, 2 * recipe.pad + 1, (2, len(x)), generator=rng)
        x = _crop(x, offsets.to(x.device), recipe)
    return x


def _crop(x: Tensor, offsets: Tensor, recipe: Recipe) -> Tensor:
    n, c, h, w = x.shape
    padded = functional.pad(x.float(), (recipe.pad,) * 4, mode=recipe.pad_mode).to(x.dtype)
    rows = offsets[0].view(n, 1, 1, 1) + torch.arange(h, device=x.device).view(1, 1, h, 1)
    columns = offsets[1].view(n, 1, 1, 1) + torch.arange(w, device=x.device)
    image, channel = torch.arange(n, device=x.device).view(n, 1, 1, 1), torch.arange(c, device=x.device).view(c, 1, 1)
    return padded[image, channel, rows, columns]


def _rotate(x: Tensor, degrees: Tensor) -> Tensor:
    angle = torch.deg2rad(degrees).to(x.device)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = x.shape[3] / x.shape[2]  # the sampling grid is in units of half a side: without it, shears when not square
    theta = torch.stack(
        [torch.stack([cos, -sin / ratio, zero], dim=1), torch.stack([sin * ratio, cos, zero], dim=1)], dim=1
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x.float(), grid, mode="nearest", align_corners=False).to(x.dtype)


def optimizer_and_schedule(
    net: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """What moves the weights of `net`, and the learning rate over that many steps."""
    optimizer = _optimizer(net, recipe)
    factors = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(min(step, steps - 1) / steps, recipe))
    return optimizer, factors


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in net.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained,
            recipe.learning_rate,
            momentum=0.9,
            nesterov=recipe.schedule == "linear",  # the papers' stepped schedule has plain momentum
            weight_decay=recipe.weight_decay,
        )
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def _factor(progress: float, recipe: Recipe) -> float:
    """Share of the peak learning rate at `progress` (0..1)."""
    if progress < recipe.warmup:
        return 0.2 + 0.8 * progress / recipe.warmup
    if recipe.schedule == "steps":
        return 0.1 ** sum(progress >= milestone for milestone in recipe.milestones)
    return (1 - progress) / (1 - recipe.warmup)


def half_precision(recipe: Recipe, device: torch.device) -> bool:
    """Whether a recipe trains in bfloat16 on a device."""
    return multiplies_in_bfloat16(device) if recipe.precision == "auto" else recipe.precision == "bfloat16"


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware is faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # private in torch, so looked up with care; without it a CPU stays in float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())


def predict(net: nn.Module, images: Images) -> Labels:
    """The predicted class of every image, on the images' device."""
    return logits(net, images).argmax(1)


@torch.no_grad()
def logits(net: nn.Module, images: Images) -> Float[Tensor, "n k"]:
    """The outputs for every image, in eval mode, on the images' device."""
    net.eval()
    device = device_of(net)
    chunks = [net(chunk.to(device)).to(images.device) for chunk in images.split(forward_batch(device))]
    return torch.cat(chunks)


@torch.no_grad()
def latents(net: nn.Module, images: Images, levels: tuple[str, ...]) -> dict[str, Float[Tensor, "n d"]]:
    """Activations at named levels, in eval mode and without augmentation; maps are averaged over their pixels.

    Raises:
        ValueError: the network has no such level.
    """
    unknown = set(levels) - set(net.level_names)  # type: ignore[operator, arg-type]
    if unknown:
        raise ValueError(f"expected levels among {', '.join(net.level_names)}, got {', '.join(sorted(unknown))}")  # type: ignore[arg-type]
    net.eval()
    device = device_of(net)
    chunks: dict[str, list[Tensor]] = {level: [] for level in levels}
    for chunk in images.split(forward_batch(device)):
        found = net.levels(chunk.to(device))  # type: ignore[operator]
        for level in levels:
            x = found[level]
            chunks[level].append((x.mean((2, 3)) if x.ndim == 4 else x).to(images.device))
    return {level: torch.cat(parts) for level, parts in chunks.items()}
