"""STRIP (Gao et al., 2019, https://arxiv.org/abs/1902.06531): a trigger wins over whatever is laid over it.

Each input is mixed with clean images; predictions that stay put (low entropy) are suspicious.
`variant="released"` adds the images and clips, as the authors' code does, where the paper mixes half and half.
Differs from the paper: the threshold is an empirical quantile, as in Qi et al.'s code, not one of a fitted normal
distribution; all inputs share the same overlays, so that no score depends on what else is screened; and the images
that set the threshold are not among the overlays.
Cost: `overlays` forward passes an image.
Checked against: a loop over images and overlays with scipy.stats.entropy.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn
from tqdm import tqdm

from keyhole.filters import Filter
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Fraction, HoldoutCount
from keyhole.types import Evidence, Images, Suspicion

__all__ = ["STRIP"]


@dataclass(frozen=True, kw_only=True)
class STRIP(Filter):
    overlays: HoldoutCount = 100  # hold-out images laid over each input
    fpr: Fraction = 0.05  # share of clean images flagged, set on the rest of the hold-out
    variant: Literal["paper", "released"] = "paper"

    def screen(self, evidence: Evidence, images: Images, rng: Generator) -> Suspicion:
        """See the base class.

        Raises:
            ValueError: the hold-out has no images left to set the threshold on.
        """
        holdout = evidence.holdout_images
        if len(holdout) <= self.overlays:
            raise ValueError(f"expected more than overlays={self.overlays} hold-out images, got {len(holdout)}")
        order = torch.randperm(len(holdout), generator=rng).to(holdout.device)
        overlays, calibration = holdout[order[: self.overlays]], holdout[order[self.overlays :]]
        net = copy.deepcopy(evidence.net).eval()
        bar = mean_entropy(net, calibration, overlays, self.variant).quantile(self.fpr)
        entropy = mean_entropy(net, images, overlays, self.variant)
        return Suspicion(-entropy, entropy < bar.to(entropy.device))


@torch.inference_mode()
def mean_entropy(
    net: nn.Module, images: Images, overlays: UInt8[Tensor, "o c h w"], variant: str, half: bool = False
) -> Float[Tensor, " n"]:
    """Entropy of the prediction in bits, averaged over the overlays (equations 2 to 4), on the images' device.

    Args:
        variant: how two images are mixed: `paper` half and half, `released` added and clipped, `normalized` added
            after the network's own normalization.
        half: multiply in bfloat16.
    """
    device = device_of(net)
    over = overlays.to(device, torch.float32)
    if variant == "normalized":  # norm(x) + norm(o) = norm(x + o - 255 mean)
        over = over - 255 * getattr(net, "mean", torch.zeros(1, device=device)).float()
    entropies = []
    for chunk in tqdm(images.split(forward_batch(device)), desc="strip", disable=None):
        x = chunk.to(device, torch.float32)
        total = x.new_zeros(len(x))
        for other in over:
            mixed = (x + other) / 2 if variant == "paper" else x + other
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                outputs = net(mixed.clamp(max=255) if variant == "released" else mixed)
            total += torch.special.entr((outputs.float() if half else outputs).softmax(1)).sum(1)
        entropies.append((total / len(over)).to(images.device))
    return torch.cat(entropies) / torch.log(torch.tensor(2.0))
