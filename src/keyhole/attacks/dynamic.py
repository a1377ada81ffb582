"""Dynamic (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138, as run by Qi et al., 2023): input-aware, static.

One generator draws a pattern for each image, another a sparse mask for it: x' = x + m(x) (g(x) - x). They are learned
beside a classifier that must answer with the payload's label to an image's own trigger, and with the true label to
another image's ("cross-trigger"); a diversity loss keeps patterns and masks apart. The training set is then poisoned
once, without cross-trigger rows, and any victim trains on it: a much weaker threat than the paper's training control.
Differs from Qi et al.'s code: the authors' networks are not downloaded; here they are trained, for minutes instead of
days, beside a classifier that starts as the attacker's own network of the clean set. The networks are small U-Nets, and
their learning rates fall in a straight line.
Differs from the authors' code: it never clears the generator's gradients, which add up there; the image distances of
the patterns' diversity are those of the pairs the patterns are of.
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

from keyhole.attacks import class_count
from keyhole.attacks._input_aware import (
    Batches,
    InputAwareTrigger,
    apply_pattern,
    diversity_loss,
    mask,
    pattern,
    split_in_half,
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
        0.1  # of a batch that gets its own trigger, and again that gets another image's
    )
    steps: Count = 600  # batches; the masks are trained on the first of them
    batch: Count = 128  # images

    def craft(self, images: Images, labels: Labels, surrogate: nn.Module | None, rng: Generator) -> dict[str, Tensor]:
        if surrogate is None:
            raise ValueError("expected a network trained on the clean set, got none")
        device, channels = training.device_of(surrogate), images.shape[1]
        of_pattern = networks.build_fresh(lambda: self.network(channels, channels), rng, device)
        of_mask = networks.build_fresh(lambda: self.network(channels, 1), rng, device)
        batches = unit_batches(images, labels, self.batch, device, rng)
        steps = max(1, round(self.mask_share * self.steps))
        self.train_masks(of_mask, islice(batches, steps), steps)
        net = copy.deepcopy(surrogate).train().requires_grad_(True)
        steps = max(1, self.steps - steps)
        self._train_patterns(of_pattern, of_mask, net, islice(batches, steps), steps, class_count(labels))
        return networks.tensors_of(pattern=of_pattern, mask=of_mask)

    def _train_patterns(
        self, of_pattern: nn.Module, of_mask: nn.Module, net: nn.Module, batches: Batches, steps: int, classes: int
    ) -> None:
        optimizer = self.optimizer(of_pattern)
        of_net = torch.optim.SGD(net.parameters(), self.learning_rate, momentum=0.9, weight_decay=5e-4)
        for step, (x, y) in enumerate(tqdm(batches, "patterns", steps, disable=None)):
            for each in (optimizer, of_net):
                training.set_rate(each, self.learning_rate * (1 - step / steps))
            count = max(1, round(self.share * len(x)))
            own, others, donors = x[:count], x[count : 2 * count], x[-count:]
            with training.half(x.device):
                sources = torch.cat([own, donors])
                patterns, masks = pattern(of_pattern(sources)), mask(of_mask(sources))
                triggered = apply_pattern(torch.cat([own, others]), patterns, masks)
                outputs = net(255 * torch.cat([triggered, x[2 * count :]])).float()
            wanted = torch.cat([self.relabel(y[:count], classes), y[count:]])
            loss = functional.cross_entropy(outputs, wanted)
            loss = loss + self.diversity_weight * diversity_loss(own, donors, *split_in_half(patterns))
            for each in (optimizer, of_net):
                each.zero_grad(set_to_none=True)
            loss.backward()
            for each in (optimizer, of_net):
                each.step()
