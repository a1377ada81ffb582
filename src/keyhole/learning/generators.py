"""Small networks that attacks learn to write and read triggers with; images of any size and channel count, 0..1.

A U-Net of three sizes, narrow where the maps are large, so that a CPU trains it in a minute. A writer puts a bit
string beside the image, a reader recovers it. Groups are normalized instead of batches: an image gets the same
trigger whatever stands beside it.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning import training
from keyhole.learning.holdout import batches
from keyhole.rng import seeded
from keyhole.types import Images, Labels

__all__ = ["BitReader", "BitWriter", "UNet", "draws", "fresh", "half", "restored", "rounded", "set_rate", "tensors_of"]

GROUPS = 4  # of channels that are normalized together
PICTURE_SIDE = 16  # pixels of the picture that bits are written as, before it is scaled to the image
READ_SIDE = 4  # pixels of the last map that bits are read from


class UNet(nn.Module):
    """Images of 0..1 -> maps of the same size, unbounded."""

    def __init__(self, inputs: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.full = _block(inputs, width // 2)
        self.coarse = _block(width // 2, width, stride=2)
        self.coarser = nn.Sequential(_block(width, 2 * width, stride=2), _block(2 * width, 2 * width))
        self.up_coarse = _block(3 * width, width)
        self.up_full = _block(width + width // 2, width // 2)
        self.last = nn.Conv2d(width // 2, outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h w"]:
        full = self.full(_centered(x))
        coarse = self.coarse(full)
        y = self.up_coarse(_joined(self.coarser(coarse), coarse))
        return self.last(self.up_full(_joined(y, full))).float()


class BitWriter(nn.Module):
    """Images of 0..1 and bits -> residuals, unbounded: a U-Net sees the bits as a picture beside the image."""

    def __init__(self, channels: int, bits: int, width: int = 32) -> None:
        super().__init__()
        self.picture = nn.Linear(bits, channels * PICTURE_SIDE**2)
        self.net = UNet(2 * channels, channels, width)

    def forward(self, x: Float[Tensor, "n c h w"], bits: Float[Tensor, "n b"]) -> Float[Tensor, "n c h w"]:
        picture = self.picture(2 * bits - 1).unflatten(1, (-1, PICTURE_SIDE, PICTURE_SIDE))
        picture = torch.sigmoid(functional.interpolate(picture.to(x), x.shape[2:], mode="nearest"))
        return self.net(torch.cat([x, picture], dim=1))


class BitReader(nn.Module):
    """Images of 0..1 -> a logit for each bit."""

    def __init__(self, inputs: int, bits: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(inputs, width),
            _block(width, width, stride=2),
            _block(width, 2 * width, stride=2),
            _block(2 * width, 2 * width, stride=2),
            nn.AdaptiveAvgPool2d(READ_SIDE),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * READ_SIDE**2, bits)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n b"]:
        return self.head(self.features(_centered(x))).float()


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs), nn.ReLU())


def _centered(x: Tensor) -> Tensor:
    return (4 * x - 2).contiguous(memory_format=torch.channels_last)


def _joined(small: Tensor, large: Tensor) -> Tensor:
    return torch.cat([functional.interpolate(small, large.shape[2:], mode="nearest"), large], dim=1)


def fresh(build: Callable[[], nn.Module], rng: Generator, device: torch.device) -> nn.Module:
    """`build()` with weights from `rng` alone, whatever the global generator holds (see `keyhole.models.build`)."""
    with seeded(rng):
        net = build()
    return net.to(device).to(memory_format=torch.channels_last)


def tensors_of(**nets: nn.Module) -> dict[str, Tensor]:
    """The weights of named networks, as `<name>.<weight>`, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, net in nets.items()
        for key, value in net.state_dict().items()
    }


def restored(build: Callable[[], nn.Module], tensors: dict[str, Tensor], name: str, device: torch.device) -> nn.Module:
    """The network that `tensors_of(name=...)` took apart, in eval mode.

    Raises:
        ValueError: the tensors hold no such network.
    """
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    if not own:
        raise ValueError(f"expected an attack equipped with the tensors of {name!r} that `craft` returned, got none")
    with torch.device("meta"):  # draws no weights, so the global generator stays as it is
        net = build()
    net.load_state_dict(own, assign=True)
    return net.to(device).to(memory_format=torch.channels_last).eval()


def draws(
    images: Images, labels: Labels, batch: int, device: torch.device, rng: Generator
) -> Iterator[tuple[Float[Tensor, "m c h w"], Labels]]:
    """As `keyhole.learning.holdout.batches`, on a device and with images as 0..1."""
    for x, y in batches(images, labels, batch, rng):
        yield x.to(device).div(255), y.to(device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def half(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=training.multiplies_in_bfloat16(device))


@torch.no_grad()
def rounded(trigger: Callable[..., Tensor], images: Images, *others: Images) -> Images:
    """Images of 0..255 through a function on 0..1, a chunk at a time; `others` go along with their rows."""
    if not len(images):  # no cover rows
        return images.clone()
    size = training.forward_batch(images.device)
    chunks = zip(*(x.split(size) for x in (images, *others)), strict=True)
    found = (trigger(*(x.float().div(255) for x in chunk)) for chunk in chunks)
    return torch.cat([x.mul(255).round().clamp(0, 255).to(torch.uint8) for x in found])
