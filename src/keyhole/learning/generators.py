"""Small networks that attacks learn to write and read triggers with; images of any size and channel count, 0..1.

A U-Net of three sizes, narrow where the maps are large, so that a CPU trains it in a minute. A writer puts a bit
string beside the image, a reader recovers it. Groups are normalized instead of batches: an image gets the same
trigger whatever stands beside it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BitReader", "BitWriter", "UNet"]

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
