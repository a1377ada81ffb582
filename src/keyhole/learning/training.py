"""Train a classifier, and read predictions and latents from it.

The whole data set stays on the network's device as uint8, where batches are gathered, augmented and converted. The loop
draws every random number from the stream that it gets, so on a CPU the same stream on the same machine gives the same
weights, bit for bit.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning.batches import augmented_batches
from keyhole.learning.graphs import replayed
from keyhole.learning.muon import Muon
from keyhole.learning.recipes import Recipe
from keyhole.types import Classifier, Images, Labels

__all__ = ["Loop", "device_of", "fit", "forward_batch", "half", "half_precision", "latents", "logits"]
__all__ += ["multiplies_in_bfloat16", "optimizer_and_schedule", "predict", "set_rate"]

BYTES_PER_PIXEL = 2**15  # ResNet-18 keeps 12,500 for gradients in bfloat16, so twice that in float32
WORTH_RECORDING = 100  # steps; to record the passes takes about as long as 50

log = logging.getLogger(__name__)


def device_of(net: nn.Module) -> torch.device:
    """Return the device of a network's parameters."""
    return next(net.parameters()).device


def forward_batch(device: torch.device, images: Tensor) -> int:
    """Return how many images of this height and width make one pass.

    On a CPU larger batches overflow the cache and are slower; on a GPU they must fit its free memory.
    """
    if device.type != "cuda":
        return 256
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return passing(torch.cuda.mem_get_info(device)[0] + unused, images.shape[-2] * images.shape[-1])


def passing(free: int, pixels: int) -> int:
    """Return how many images of so many pixels make one pass in so many free bytes, from 1 to 4096.

    It is a power of two, so that other jobs on the card seldom change it, and with it the last bits of a result.
    """
    return 1 << max(0, min(4096, free // (BYTES_PER_PIXEL * pixels)).bit_length() - 1)


def fit(net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> None:
    """Train `net` in place and leave it in eval mode."""
    loop = Loop(net, images, labels, recipe, rng)
    with loop.replayed():
        for x, y in loop:

            def loss(x: Tensor = x, y: Tensor = y) -> Tensor:
                with loop.half():
                    outputs = net(x)
                return functional.cross_entropy(outputs.float(), y, label_smoothing=recipe.smoothing)

            loop.descend(loss(), again=loss)


class Loop:
    """A training loop that yields the augmented batches of a recipe; iterate over it once.

    The caller computes a loss for each batch and passes it to `descend`. At the end the network is in eval mode.
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
        for step, batch in enumerate(augmented_batches(self._images, self._labels, self._recipe, self._rng), start=1):
            yield batch
            if step % self._per_epoch == 0:
                epoch, loss = step // self._per_epoch, self._total / self._per_epoch
                seconds = time.perf_counter() - start
                log.info("epoch %d/%d  loss %.3f  %.0f s", epoch, self._recipe.epochs, loss, seconds)
                self._total.zero_()
        self._net.eval()

    def replayed(self) -> AbstractContextManager[None]:
        """Return a context in which a GPU replays the passes of the network, if there are enough of them."""
        if self.steps < WORTH_RECORDING:
            return nullcontext()
        batch = self._images[: self._recipe.batch_size]
        return replayed(self._net, batch, half_precision(self._recipe, batch.device))

    def half(self) -> torch.autocast:
        """Return a context in which networks run in bfloat16 if the recipe says so."""
        device = self._total.device
        return torch.autocast(device.type, torch.bfloat16, enabled=half_precision(self._recipe, device))

    def descend(self, loss: Tensor, again: Callable[[], Tensor] | None = None) -> None:
        """Take one step of the optimizer, down the gradient of `loss`, and one of its schedule.

        Args:
            again: computes the loss of the batch anew; for sharpness-aware minimization, which recipes may ask for.

        Raises:
            ValueError: the recipe asks for it, and the loss cannot be computed again.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._recipe.sam:
            if again is None:
                raise ValueError(f"recipe.sam: expected 0 where an attacker controls training, got {self._recipe.sam}")
            self._look_uphill(again)
        self._optimizer.step()
        self._schedule.step()
        self._total += loss.detach()

    def _look_uphill(self, loss: Callable[[], Tensor]) -> None:
        """Replace the gradient by that at the weights shifted along it (Foret et al., 2021, arXiv:2010.01412, eq. 2).

        The statistics of batch normalization stay those of the pass at the weights themselves.
        """
        weights = [p for p in self._net.parameters() if p.grad is not None]
        before = [(tensor, tensor.detach().clone()) for tensor in (*weights, *self._net.buffers())]
        gradients = [cast(Tensor, p.grad) for p in weights]
        length = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
        with torch.no_grad():
            for p, gradient in zip(weights, gradients, strict=True):
                p.add_(gradient * (self._recipe.sam / length))
        self._optimizer.zero_grad(set_to_none=True)
        loss().backward()
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def optimizer_and_schedule(
    net: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return an optimizer of the trainable weights, and the schedule of its learning rate over `steps` steps."""
    optimizer = _optimizer(net, recipe)
    factors = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(min(step, steps - 1) / steps, recipe))
    return optimizer, factors


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in net.parameters() if p.requires_grad]
    if recipe.optimizer == "muon":
        return Muon(net, recipe.learning_rate, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained,
            recipe.learning_rate,
            momentum=0.9,
            nesterov=recipe.schedule == "linear",  # the papers' stepped schedule has plain momentum
            weight_decay=recipe.weight_decay,
            fused=trained[0].device.type == "cuda",  # elsewhere it would round otherwise and be no faster
        )
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate for all weights of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _factor(progress: float, recipe: Recipe) -> float:
    """Return the fraction of the highest learning rate at `progress` (0..1)."""
    if progress < recipe.warmup:
        return 0.2 + 0.8 * progress / recipe.warmup
    if recipe.schedule == "steps":
        return 0.1 ** sum(progress >= milestone for milestone in recipe.milestones)
    return (1 - progress) / (1 - recipe.warmup)


def half_precision(recipe: Recipe, device: torch.device) -> bool:
    """Say whether a recipe trains in bfloat16 on a device."""
    return multiplies_in_bfloat16(device) if recipe.precision == "auto" else recipe.precision == "bfloat16"


def half(device: torch.device) -> torch.autocast:
    """Return a context in which networks run in bfloat16 if that is faster on the device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_in_bfloat16(device))


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Say whether the hardware is faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # this function is private in torch and may vanish; a CPU then stays in float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())


def predict(net: nn.Module, images: Images) -> Labels:
    """Return the predicted class of every image, on the images' device."""
    return logits(net, images).argmax(1)


@torch.no_grad()
def logits(net: nn.Module, images: Images) -> Float[Tensor, "n k"]:
    """Return the outputs for every image, in eval mode, on the images' device."""
    net.eval()
    device = device_of(net)
    chunks = [net(chunk.to(device)).to(images.device) for chunk in images.split(forward_batch(device, images))]
    return torch.cat(chunks)


@torch.no_grad()
def latents(net: Classifier, images: Images, levels: tuple[str, ...]) -> dict[str, Float[Tensor, "n d"]]:
    """Return the activations at named levels, in eval mode; maps are averaged over their pixels.

    Raises:
        ValueError: the network has no such level.
    """
    unknown = set(levels) - set(net.level_names)
    if unknown:
        raise ValueError(f"expected levels among {', '.join(net.level_names)}, got {', '.join(sorted(unknown))}")
    net.eval()
    device = device_of(net)
    chunks: dict[str, list[Tensor]] = {level: [] for level in levels}
    for chunk in images.split(forward_batch(device, images)):
        activations = net.levels(chunk.to(device))
        for level in levels:
            x = activations[level]
            chunks[level].append((x.mean((2, 3)) if x.ndim == 4 else x).to(images.device))
    return {level: torch.cat(parts) for level, parts in chunks.items()}
