"""Neural Cleanse (Wang et al., 2019, https://doi.org/10.1109/SP.2019.00031): the smallest patch that turns any image.

Idea: For every class, optimize a mask and a pattern that send hold-out images to the class. The target class of a
backdoor needs an unusually small mask.

Differs from the paper: A class that never reaches the success rate counts as a mask over the whole image. The MAD is at
least a thousandth of the image, so that equal sizes do not make every other size an outlier.

Differs from the released code (https://github.com/bolunwang/backdoor): At most 100 epochs instead of 1,000. An epoch is
a new draw from the hold-out. All classes share one optimizer, which does not change the path of any. (The copy of the
code by Qi et al. keeps the latest successful mask; here and in the original it is the smallest.)

Checked against: the loss and its gradient in float64 for a linear model; planted 3 x 3 triggers.

Cost: about epochs x samples x classes forward and backward passes. At least three classes are needed to flag one.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from keyhole.inverters._patch_search import MaskSearch, mask_loss
from keyhole.learning.training import device_of, logits
from keyhole.parameters import Count, Positive
from keyhole.types import Images

__all__ = ["NeuralCleanse"]


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(MaskSearch):
    epochs: Count = 100  # at most
    free_start: bool = True
    factor: Positive = 2.0  # of λ
    idle_patience: Count = 5

    def search(self, net: nn.Module, images: Images, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        device, shape = device_of(net), images.shape[1:]
        classes = logits(net, images[:1]).shape[1]
        raw = torch.randn(classes, 1 + shape[0], *shape[1:], generator=rng).to(device).requires_grad_()

        def loss(x: Tensor, group: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
            return mask_loss(net, x, raw[group], group, penalty)

        return self.run(raw, images, loss, rng, "neural_cleanse").result()
