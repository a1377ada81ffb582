"""Networks that a method learns: build them from a random stream, save and restore them, apply them to images."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from keyhole.learning import training
from keyhole.rng import seeded
from keyhole.types import Images

__all__ = ["apply_to_images", "build_fresh", "restore", "tensors_of"]

Net = TypeVar("Net", bound=nn.Module)


def build_fresh(build: Callable[[], Net], rng: Generator, device: torch.device) -> Net:
    """Return `build()` with weights that depend on `rng` only, whatever the global generator holds."""
    with seeded(rng):
        net = build()
    return net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def tensors_of(**nets: nn.Module) -> dict[str, Tensor]:
    """Return the weights of named networks, as `<name>.<weight>`, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, net in nets.items()
        for key, value in net.state_dict().items()
    }


def restore(build: Callable[[], Net], tensors: dict[str, Tensor], name: str, device: torch.device) -> Net:
    """Return the network whose weights `tensors_of(name=...)` returned, in eval mode.

    Raises:
        ValueError: the tensors have no weights of that name.
    """
    state = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    if not state:
        raise ValueError(f"expected an attack equipped with the tensors of {name!r} that `craft` returned, got none")
    with torch.device("meta"):  # draws no weights, so the global generator does not move
        net = build()
    net.load_state_dict(state, assign=True)
    return net.to(device).to(memory_format=torch.channels_last).eval()


@torch.no_grad()
def apply_to_images(function: Callable[..., Tensor], images: Images, *others: Images) -> Images:
    """Apply a function of images of 0..1 to images of 0..255, chunk by chunk, and round the result.

    Args:
        others: images for further arguments of the function, as many as `images`.
    """
    if not len(images):  # such as cover rows of an attack that has none
        return images.clone()
    size = training.forward_batch(images.device, images)
    chunks = zip(*(x.split(size) for x in (images, *others)), strict=True)
    results = (function(*(x.float().div(255) for x in chunk)) for chunk in chunks)
    return torch.cat([x.mul(255).round().clamp(0, 255).to(torch.uint8) for x in results])
