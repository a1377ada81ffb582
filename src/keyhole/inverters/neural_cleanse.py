"""Neural Cleanse (Wang et al., 2019, https://doi.org/10.1109/SP.2019.00031): the smallest patch that turns any image.

For every class, a mask and a pattern that send hold-out images to it; a backdoor's target needs an outlying small mask.
Differs from the released code: the smallest mask that reaches the bar is kept (Qi et al.'s copy keeps the latest); an
epoch is a new draw from the hold-out; all classes share one optimizer, which changes no class's path.
Differs from the paper: a class that never reaches the bar counts as a mask over the whole image, and the MAD is at
least a thousandth of the image, so that equal sizes do not make every other size an outlier.
Cost: about epochs x samples x classes forward and backward passes. Needs three classes or more to flag one.
Checked against: loss and gradient written out in float64 for a linear model; planted 3 x 3 triggers.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from keyhole.inverters._patch_search import MaskSearch, mask_loss
from keyhole.learning.training import device_of, logits
from keyhole.types import Images

__all__ = ["NeuralCleanse"]


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(MaskSearch):
    def search(self, net: nn.Module, images: Images, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        device, shape = device_of(net), images.shape[1:]
        classes = logits(net, images[:1]).shape[1]
        raw = torch.randn(classes, 1 + shape[0], *shape[1:], generator=rng).to(device).requires_grad_()

        def loss(x: Tensor, group: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
            return mask_loss(net, x, raw[group], group, penalty)

        return self.run(raw, images, loss, rng, "neural_cleanse").result()
