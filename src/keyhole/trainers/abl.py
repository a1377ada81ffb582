"""ABL, anti-backdoor learning (Li et al., 2021, https://arxiv.org/abs/2110.11571): isolate early, unlearn late.

Idea: Triggers are learned first. After a short training that keeps losses from falling below gamma, the rows of lowest
loss are isolated; training goes on with the rest, and the isolated rows are then unlearned by gradient ascent. The
method needs no clean images. The paper ascends row by row where losses are below gamma (its loss LGA), and unlearns
while it descends on the kept rows (GGA).

Differs from the paper: Lengths are shares of the victim's epochs; the defaults are the paper's 20, 60 and 20 of 100.
Optimizer, augmentation and early schedule are the victim's. Ascent stops, and its last five steps are undone, when
fewer kept rows are classified as labeled than `tolerance` allows or a loss is not finite, since the paper's 20 epochs
are for one network and one schedule.

Differs from the released code: `variant="released"` has that code's values: 10 and 60 of 100 epochs, flooding at 0.5 in
the first of these, and then 4 passes over the isolated rows alone (5 epochs, the first of which only tests). Its other
loss for the first phase takes the sign of LGA on a batch's mean; here `lga` is row by row. The other differences from
the paper apply here too.

Checked against: losses and gradients in float64 NumPy; a planted patch.

Cost: about the victim's training.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning import training
from keyhole.learning.batches import augmented_batches
from keyhole.learning.recipes import Recipe
from keyhole.parameters import Count, Fraction, Positive
from keyhole.trainers import Trainer
from keyhole.types import Images, Labels, Rows

__all__ = ["ABL"]

log = logging.getLogger(__name__)

JUDGES = 2000  # kept rows, at most, on which harm by the ascent is measured
BETWEEN = 5  # steps of ascent between two measurements of harm


@dataclass(frozen=True, kw_only=True)
class ABL(Trainer):
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {
            "isolation": "flooding",
            "gamma": 0.5,
            "isolated": 0.01,
            "isolation_share": 0.1,
            "training_share": 0.6,
            "unlearning_epochs": 4,
            "unlearning_rate": 5e-4,
        }
    }

    isolation: Literal["lga", "flooding"] = "lga"
    gamma: Positive = 0.5  # loss below which LGA ascends; with flooding, its level b
    isolated: Fraction = 0.01  # share of all rows
    isolation_share: Fraction = 0.2  # of the victim's epochs, rounded, at least one
    training_share: Positive = 0.6  # of the victim's epochs, on the kept rows
    unlearning_share: Fraction = 0.2  # of the victim's epochs, on kept and isolated rows (`paper`)
    unlearning_epochs: Count = 4  # passes over the isolated rows (`released`)
    unlearning_rate: Positive = 5e-4  # of SGD with momentum 0.9
    tolerance: Fraction = 0.02  # fall of the accuracy on kept rows that ends the ascent, absolute
    variant: Literal["paper", "released"] = "paper"

    def train(self, net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> nn.Module:
        device = training.device_of(net)
        images, labels = images.to(device), labels.to(device)
        self._isolate(net, images, labels, recipe, rng)
        kept, isolated = self.divide(losses(net, images, labels))
        log.info("isolated %d of %d rows", len(isolated), len(labels))
        training.fit(net, images[kept], labels[kept], shorten(recipe, self.training_share), rng)
        if len(isolated):
            self._unlearn(net, images, labels, kept, isolated, recipe, rng)
        return net.eval()

    def divide(self, losses: Float[Tensor, " n"]) -> tuple[Rows, Int64[Tensor, " i"]]:
        """Return the kept rows and the isolated rows, which are those of the lowest losses."""
        order = losses.argsort(stable=True)
        count = min(round(self.isolated * len(losses)), len(losses) - 1)
        return order[count:].sort().values, order[:count].sort().values

    def early_loss(self, loss: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the loss of the isolation phase from the cross-entropy of each row of a batch."""
        if self.isolation == "flooding":
            return (loss.mean() - self.gamma).abs() + self.gamma
        return (torch.sign(loss.detach() - self.gamma) * loss).mean()

    def _isolate(self, net: nn.Module, images: Images, labels: Labels, recipe: Recipe, rng: Generator) -> None:
        """Run the isolation phase, at the learning rates with which the victim's training begins."""
        steps = max(1, len(images) // recipe.batch_size) * recipe.epochs
        optimizer, scheduler = training.optimizer_and_schedule(net, recipe, steps)
        net.train()
        for x, y in augmented_batches(images, labels, shorten(recipe, self.isolation_share), rng):
            take_step(optimizer, self.early_loss(row_losses(net, x, y, recipe)))
            scheduler.step()

    def _unlearn(
        self,
        net: nn.Module,
        images: Images,
        labels: Labels,
        kept: Tensor,
        isolated: Tensor,
        recipe: Recipe,
        rng: Generator,
    ) -> None:
        """Ascend on the isolated rows as long as the accuracy on the kept rows holds."""
        judges = kept[torch.randperm(len(kept), generator=rng)[:JUDGES].to(kept.device)]

        def accuracy() -> float:
            return float((training.predict(net, images[judges]) == labels[judges]).double().mean())

        least, saved = accuracy() - self.tolerance - 1e-9, copy.deepcopy(net.state_dict())
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], self.unlearning_rate, 0.9)
        step, finite = 0, True
        for x, y, descending in self._unlearning_batches(images, labels, kept, isolated, recipe, rng):
            if step % BETWEEN == 0 and step:
                if accuracy() < least:
                    break
                saved = copy.deepcopy(net.state_dict())
            net.train()
            finite = take_step(optimizer, gga(row_losses(net, x, y, recipe), descending))
            step += 1
            if not finite:
                break
        if not finite or accuracy() < least:
            net.load_state_dict(saved)
            log.info("ascent undone back to step %d: accuracy on the kept rows fell", (step - 1) // BETWEEN * BETWEEN)

    def _unlearning_batches(
        self, images: Images, labels: Labels, kept: Tensor, isolated: Tensor, recipe: Recipe, rng: Generator
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield images, labels, and how many of the first rows to descend on; the others are isolated rows."""
        if self.variant == "released":
            plain = replace(recipe, epochs=self.unlearning_epochs, flip=False, pad=0, rotation=0.0)
            for x, y in augmented_batches(images[isolated], labels[isolated], plain, rng):
                yield x, y, 0
            return
        for x, y in augmented_batches(images[kept], labels[kept], shorten(recipe, self.unlearning_share), rng):
            drawn = isolated[torch.randint(len(isolated), (len(x),), generator=rng).to(isolated.device)]
            yield torch.cat([x, images[drawn]]), torch.cat([y, labels[drawn]]), len(x)


def gga(loss: Float[Tensor, " b"], descending: int) -> Float[Tensor, ""]:
    """Return the loss that descends on the first `descending` rows and ascends on the others."""
    ascent = loss[descending:].mean()
    return loss[:descending].mean() - ascent if descending else -ascent


def shorten(recipe: Recipe, share: float) -> Recipe:
    """Return the recipe with a share of its epochs, at least one."""
    return replace(recipe, epochs=max(1, round(share * recipe.epochs)))


def row_losses(net: nn.Module, x: Tensor, y: Labels, recipe: Recipe) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each row of a batch, at the recipe's precision."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=training.half_precision(recipe, x.device)):
        outputs = net(x)
    return functional.cross_entropy(outputs.float(), y, reduction="none")


def losses(net: nn.Module, images: Images, labels: Labels) -> Float[Tensor, " n"]:
    """Return the cross-entropy of every row, in eval mode and without augmentation.

    The losses are in float64, so that few are equal.
    """
    values = functional.cross_entropy(training.logits(net, images).double(), labels, reduction="none")
    return values.nan_to_num(torch.inf)


def take_step(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> bool:
    """Take one step down `loss`; if it is not finite, take none and return False."""
    if not loss.isfinite():
        return False
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return True
