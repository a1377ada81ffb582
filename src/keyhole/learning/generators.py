"""Small networks with which attacks write and read triggers, for images of 0..1 of any size and channel count.

All are built on a U-Net of three resolutions, with few channels where the maps are large, so that a CPU trains it in a
minute. `BitWriter` writes a bit string into an image, `BitReader` recovers it. Normalization is over groups of
channels, not over batches, so that the trigger of an image does not depend on the other images of its batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BitReader", "BitWriter", "UNet"]

GROUPS = 4  # number of channel groups in a normalization
PICTURE_SIDE = 16  # pixels; bits become a picture of this side, which is then scaled to the image
READ_SIDE = 4  # pixels; bits are read from a map of this side


class UNet(nn.Module):
    """A network from images of 0..1 to unbounded maps of the same size."""

    def __init__(self, inputs: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.full = _block(inputs, width // 2)
        self.coarse = _block(width // 2, width, stride=2)
        self.coarser = nn.Sequential(_block(width, 2 * width, stride=2), _block(2 * width, 2 * width))
        self.up_coarse = _block(3 * width, width)
        self.up_full = _block(width + width // 2, width // 2)
        self.last = nn.Conv2d(width // 2, outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h w"]:
        """Return the maps of images of 0..1."""
        full = self.full(_center(x))
        coarse = self.coarse(full)
        y = self.up_coarse(_join(self.coarser(coarse), coarse))
        return self.last(self.up_full(_join(y, full))).float()


class BitWriter(nn.Module):
    """A network from images of 0..1 and bits to unbounded residuals; the bits enter a U-Net as a second picture."""

    def __init__(self, channels: int, bits: int, width: int = 32) -> None:
        super().__init__()
        self.picture = nn.Linear(bits, channels * PICTURE_SIDE**2)
        self.net = UNet(2 * channels, channels, width)

    def forward(self, x: Float[Tensor, "n c h w"], bits: Float[Tensor, "n b"]) -> Float[Tensor, "n c h w"]:
        """Return what to add to each image so that it carries its bits."""
        picture = self.picture(2 * bits - 1).unflatten(1, (-1, PICTURE_SIDE, PICTURE_SIDE))
        picture = torch.sigmoid(functional.interpolate(picture.to(x), x.shape[2:], mode="nearest"))
        return self.net(torch.cat([x, picture], dim=1))


class BitReader(nn.Module):
    """A network from images of 0..1 to a logit for each bit."""

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
        """Return the logits of the bits."""
        return self.head(self.features(_center(x))).float()


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs), nn.ReLU())


def _center(x: Tensor) -> Tensor:
    return (4 * x - 2).contiguous(memory_format=torch.channels_last)


def _join(small: Tensor, large: Tensor) -> Tensor:
    return torch.cat([functional.interpolate(small, large.shape[2:], mode="nearest"), large], dim=1)
