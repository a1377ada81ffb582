"""Cut a window out of each image, each at its own place."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

__all__ = ["crop_windows"]


def crop_windows(
    images: Shaped[Tensor, "n c big_h big_w"], starts: Int64[Tensor, "2 n"], size: tuple[int, ...]
) -> Shaped[Tensor, "n c h w"]:
    """Cut a window of `size` (height, width) out of each image; `starts` has its first row and column."""
    (n, c), (h, w), device = images.shape[:2], size, images.device
    rows = starts[0].view(n, 1, 1, 1) + torch.arange(h, device=device).view(h, 1)
    columns = starts[1].view(n, 1, 1, 1) + torch.arange(w, device=device)
    image, channel = torch.arange(n, device=device).view(n, 1, 1, 1), torch.arange(c, device=device).view(c, 1, 1)
    return images[image, channel, rows, columns]
