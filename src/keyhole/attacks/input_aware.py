"""Input-aware backdoor (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138), by an attacker who controls training.

Idea: two networks generate a pattern and a sparse mask for each image (the trigger of `dynamic`) and learn together
with the victim. In every batch, payload rows get their own trigger; cover rows get the trigger of *another image* and
keep their label ("cross-trigger"), so that a trigger works on its own image only. The mask network is trained first.

Differs from the paper: the networks are small U-Nets with learning rates that fall linearly; the mask network gets a
share of the victim's number of batches (paper: 25 epochs before 600); payload never comes from the target class.

Differs from the released code: as `dynamic`.

Checked against: as `dynamic`; another image's trigger and label written out by hand.
"""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Generator, Tensor

from keyhole.attacks._input_aware import InputAwareTrigger, apply_pattern, diversity_loss, to_mask, to_pattern
from keyhole.attacks._training_control import CrossTrigger, LearnedTrigger, Part, PoisonedBatch, TrainingRun
from keyhole.learning import networks, training
from keyhole.learning.batches import unit_batches
from keyhole.learning.training import device_of
from keyhole.parameters import NonNegative
from keyhole.types import Cover, Images, Labels, Rows

__all__ = ["InputAware"]

BATCH = 128  # images in a batch that trains the mask network


@dataclass(frozen=True, kw_only=True)
class InputAware(CrossTrigger, InputAwareTrigger):
    learns_trigger = True
    paper_rate: ClassVar[float] = 0.1

    cover_ratio: NonNegative = 1.0  # cover rows per payload row

    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        return networks.apply_to_images(self.load_trigger(images.shape[1], images.device), images, donors)

    def parts(self, run: TrainingRun) -> list[Part]:
        return [_LearnedPatterns(self, run)]


class _LearnedPatterns(LearnedTrigger):
    """Patterns trained by the victim's whole loss, to which the parts of a wrapper may add."""

    def __init__(self, attack: InputAware, run: TrainingRun) -> None:
        self.attack, self.run = attack, run
        device, channels, rng = device_of(run.net), run.images.shape[1], run.rng
        self.pattern_net = networks.build_fresh(lambda: attack.network(channels, channels), rng, device)
        self.mask_net = networks.build_fresh(lambda: attack.network(channels, 1), rng, device)
        steps = round(attack.mask_share * run.steps)
        batches = unit_batches(run.images, run.labels, BATCH, device, rng)
        attack.train_masks(self.mask_net, islice(batches, steps), steps)
        self.optimizer, self.step = attack.optimizer(self.pattern_net), 0
        self.diversity: Tensor | float = 0.0

    def plant(self, x: Images, y: Labels, rows: Rows, cover: Cover) -> Tensor:
        images, self.diversity = x.float(), 0.0
        if len(rows):
            donors = (cover + 1) % len(x)
            own, others = images[rows] / 255, images[donors] / 255
            with training.half(x.device):
                sources = torch.cat([own, others])
                patterns, masks = to_pattern(self.pattern_net(sources)), to_mask(self.mask_net(sources))
            receivers = torch.cat([own, images[cover] / 255])
            images = images.index_copy(0, torch.cat([rows, cover]), 255 * apply_pattern(receivers, patterns, masks))
            pairs = min(len(own), len(others))
            first, second = patterns[: len(own)], patterns[len(own) :]
            if pairs:
                self.diversity = diversity_loss(own[:pairs], others[:pairs], first[:pairs], second[:pairs])
        return images

    def penalty(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> Tensor | float:
        return self.attack.diversity_weight * self.diversity

    def learn(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> None:
        training.set_rate(self.optimizer, self.attack.learning_rate * (1 - self.step / self.run.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        return networks.tensors_of(pattern=self.pattern_net, mask=self.mask_net)
