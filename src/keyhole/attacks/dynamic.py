"""Dynamic (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138): input-aware triggers, planted once in the data.

Idea: a network generates a pattern for each image, another a sparse mask: x' = x + m(x) (g(x) - x). They are trained
beside a classifier, which must answer an image with its own trigger by the payload's label, and an image with the
trigger of another image by the true label ("cross-trigger"). A diversity loss keeps patterns and masks of different
images apart. The training set is then poisoned once, without cross-trigger rows, and any victim trains on it.

Differs from the paper: as run by Qi et al., 2023, the attacker does not control the victim's training, which is a much
weaker threat.

Differs from the released code: Qi et al. download the authors' networks; here the networks are small U-Nets, trained
for minutes instead of days, beside a classifier that starts as the attacker's network of the clean set, and with
learning rates that fall linearly. Unlike in the authors' code, the generator's gradients are cleared before each step
(there they add up).

Checked against: masks and losses in float64 NumPy.
"""

import copy
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.attacks import count_classes
from keyhole.attacks._input_aware import (
    Batches,
    InputAwareTrigger,
    apply_pattern,
    diversity_loss,
    split_in_half,
    to_mask,
    to_pattern,
)
from keyhole.learning import networks, training
from keyhole.learning.batches import unit_batches
from keyhole.parameters import Count
from keyhole.types import Images, Labels

__all__ = ["Dynamic"]


@dataclass(frozen=True, kw_only=True)
class Dynamic(InputAwareTrigger):
    crafted_from = "surrogate"

    share: Annotated[float, Interval(gt=0, le=1 / 3)] = (
        0.1  # of a batch, for rows with their own trigger; as many get another image's
    )
    steps: Count = 600  # batches; the first `mask_share` of them train the masks
    batch: Count = 128  # images

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        if surrogate is None:
            raise ValueError("surrogate: expected a network trained on the clean set, got none")
        device, channels = training.device_of(surrogate), images.shape[1]
        pattern_net = networks.build_fresh(lambda: self.network(channels, channels), rng, device)
        mask_net = networks.build_fresh(lambda: self.network(channels, 1), rng, device)
        batches = unit_batches(images, labels, self.batch, device, rng)
        steps = max(1, round(self.mask_share * self.steps))
        self.train_masks(mask_net, islice(batches, steps), steps)
        net = copy.deepcopy(surrogate).train().requires_grad_(True)
        steps = max(1, self.steps - steps)
        self._train_patterns(pattern_net, mask_net, net, islice(batches, steps), steps, count_classes(labels))
        return networks.tensors_of(pattern=pattern_net, mask=mask_net)

    def _train_patterns(
        self, pattern_net: nn.Module, mask_net: nn.Module, net: nn.Module, batches: Batches, steps: int, classes: int
    ) -> None:
        pattern_optimizer = self.optimizer(pattern_net)
        net_optimizer = torch.optim.SGD(net.parameters(), self.learning_rate, momentum=0.9, weight_decay=5e-4)
        for step, (x, y) in enumerate(tqdm(batches, "patterns", steps, disable=None)):
            for optimizer in (pattern_optimizer, net_optimizer):
                training.set_rate(optimizer, self.learning_rate * (1 - step / steps))
            count = max(1, round(self.share * len(x)))
            own, others, donors = x[:count], x[count : 2 * count], x[-count:]
            with training.half(x.device):
                sources = torch.cat([own, donors])
                patterns, masks = to_pattern(pattern_net(sources)), to_mask(mask_net(sources))
                triggered = apply_pattern(torch.cat([own, others]), patterns, masks)
                outputs = net(255 * torch.cat([triggered, x[2 * count :]])).float()
            answers = torch.cat([self.relabel(y[:count], classes), y[count:]])
            loss = functional.cross_entropy(outputs, answers)
            loss = loss + self.diversity_weight * diversity_loss(own, donors, *split_in_half(patterns))
            for optimizer in (pattern_optimizer, net_optimizer):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in (pattern_optimizer, net_optimizer):
                optimizer.step()
