"""Input-aware dynamic backdoor (Nguyen and Tran, 2020, https://arxiv.org/abs/2010.08138), as published: with training.

The trigger of `dynamic` (a pattern and a sparse mask for each image, drawn by two networks), learned together with the
victim itself. In every batch payload rows get their own trigger; cover rows get *another image's* and keep their label
("cross-trigger"), so that a trigger works on its own image only. The masks are trained first, alone.
Differs from the paper: the networks are small U-Nets, and their learning rates fall in a straight line; the masks get
as many batches as a share of the victim's (theirs: 25 epochs before 600); payload never comes from the target class.
Differs from the released code: as `dynamic`.
Checked against: as `dynamic`; another image's trigger and label written out by hand.
"""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Generator, Tensor

from keyhole.attacks._input_aware import InputAwareTrigger, apply_pattern, diversity_loss, mask, pattern
from keyhole.attacks._training_control import CrossTrigger, LearnedTrigger, Mixed, Part, Setting
from keyhole.learning import networks, training
from keyhole.learning.batches import unit_batches
from keyhole.learning.training import device_of
from keyhole.parameters import NonNegative
from keyhole.types import Cover, Images, Labels, Rows

__all__ = ["InputAware"]

BATCH = 128  # images, of the masks' training


@dataclass(frozen=True, kw_only=True)
class InputAware(CrossTrigger, InputAwareTrigger):
    learns_trigger = True
    paper_rate: ClassVar[float] = 0.1

    cover_ratio: NonNegative = 1.0  # cover rows per payload row

    def cross(self, images: Images, donors: Images, rng: Generator) -> Images:
        return networks.apply_to_images(self.trigger(images.shape[1], images.device), images, donors)

    def parts(self, setting: Setting) -> list[Part]:
        return [_LearnedPatterns(self, setting)]


class _LearnedPatterns(LearnedTrigger):
    """Patterns that learn with the victim, by its whole loss: a regularizer over this attack trains them, too."""

    def __init__(self, attack: InputAware, setting: Setting) -> None:
        self.attack, self.setting = attack, setting
        device, channels, rng = device_of(setting.net), setting.images.shape[1], setting.rng
        self.of_pattern = networks.build_fresh(lambda: attack.network(channels, channels), rng, device)
        self.of_mask = networks.build_fresh(lambda: attack.network(channels, 1), rng, device)
        steps = round(attack.mask_share * setting.steps)
        batches = unit_batches(setting.images, setting.labels, BATCH, device, rng)
        attack.train_masks(self.of_mask, islice(batches, steps), steps)
        self.optimizer, self.step = attack.optimizer(self.of_pattern), 0
        self.diversity: Tensor | float = 0.0

    def plant(self, x: Images, y: Labels, rows: Rows, cover: Cover) -> Tensor:
        images, self.diversity = x.float(), 0.0
        if len(rows):
            donors = (cover + 1) % len(x)
            own, others = images[rows] / 255, images[donors] / 255
            with training.half(x.device):
                sources = torch.cat([own, others])
                patterns, masks = pattern(self.of_pattern(sources)), mask(self.of_mask(sources))
            receivers = torch.cat([own, images[cover] / 255])
            images = images.index_copy(0, torch.cat([rows, cover]), 255 * apply_pattern(receivers, patterns, masks))
            pairs = min(len(own), len(others))
            first, second = patterns[: len(own)], patterns[len(own) :]
            if pairs:
                self.diversity = diversity_loss(own[:pairs], others[:pairs], first[:pairs], second[:pairs])
        return images

    def penalty(self, levels: dict[str, Tensor], mixed: Mixed) -> Tensor | float:
        return self.attack.diversity_weight * self.diversity

    def learn(self, levels: dict[str, Tensor], mixed: Mixed) -> None:
        training.set_rate(self.optimizer, self.attack.learning_rate * (1 - self.step / self.setting.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        return networks.tensors_of(pattern=self.of_pattern, mask=self.of_mask)
