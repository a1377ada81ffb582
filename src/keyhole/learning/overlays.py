"""The entropy of predictions when other images are laid over an image (STRIP, https://arxiv.org/abs/1902.06531)."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from keyhole.learning.training import device_of, forward_batch
from keyhole.types import Images

__all__ = ["Mixing", "mean_entropy"]

Mixing = Literal["authors", "toolbox", "qi", "half"]


@torch.no_grad()
def mean_entropy(
    net: nn.Module, images: Images, overlays: UInt8[Tensor, "o c h w"], mixing: Mixing, half_precision: bool = False
) -> Float[Tensor, " n"]:
    """Return the entropy of each image's predictions in bits, averaged over the overlays (equations 2 to 4).

    Args:
        mixing: how two images are mixed. `authors`: added, up to 510 of 255, as in the authors' notebook; `toolbox`:
            added and clipped at 255, as in the toolbox of Qi et al.; `qi`: added after the network's normalization, as
            in the cleanser of Qi et al.; `half`: half and half.
        half_precision: whether to multiply in bfloat16.
    """
    device = device_of(net)
    over = overlays.to(device, torch.float32)
    if mixing == "qi":  # norm(x) + norm(o) = norm(x + o - 255 mean)
        over = over - 255 * getattr(net, "mean", torch.zeros(1, device=device)).float()
    entropies = []
    for chunk in tqdm(images.split(forward_batch(device, images)), desc="strip", disable=None):
        x = chunk.to(device, torch.float32)
        total = x.new_zeros(len(x))
        for other in over:
            mixed = x + other
            if mixing == "toolbox":
                mixed = mixed.clamp(max=255)
            elif mixing == "half":
                mixed = mixed / 2
            with torch.autocast(device.type, torch.bfloat16, enabled=half_precision):
                outputs = net(mixed)
            total += torch.special.entr((outputs.float() if half_precision else outputs).softmax(1)).sum(1)
        entropies.append((total / len(over)).to(images.device))
    return torch.cat(entropies) / torch.log(torch.tensor(2.0))
