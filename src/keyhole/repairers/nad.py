"""NAD, neural attention distillation (Li et al., 2021, https://arxiv.org/abs/2101.05930): look where the teacher looks.

Idea: The teacher is the victim, fine-tuned on the hold-out. The student is the victim again, tuned with a penalty on
the distance between the attention maps of both networks (squared activations summed over channels, scaled to length 1).

Differs from the paper: The learning rate is 0.01, as in BackdoorBench, without two epochs at 0.1 before, which halve
the accuracy of networks that were not trained with such a rate (`fast_epochs: 2` has them). The distance is the mean
squared difference over pixels, as in the released code, not its norm; the published weights belong to that scale. The
maps are those of our levels. There are no mirrored images.

Differs from the released code (https://github.com/bboylyg/NAD): Its lengths, 10 and 20 epochs with batches of 64, are
ours (BackdoorBench: 10 and 100 with batches of 256, of which the last 80 are at 0.0001). Three maps with the paper's
weights are compared; by default, the code compares only the last map, with a weight of 5000.

Checked against: the loss and the attention in float64 NumPy.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.batches import augmented_batches
from keyhole.learning.holdout import PAD
from keyhole.learning.recipes import Recipe
from keyhole.learning.training import device_of, fit, optimizer_and_schedule
from keyhole.parameters import Count, Level, Natural, NonNegative, Positive
from keyhole.repairers import Repairer
from keyhole.types import Classifier, Evidence

__all__ = ["NAD"]


@dataclass(frozen=True, kw_only=True)
class NAD(Repairer):
    teacher_epochs: Count = 10  # passes over the hold-out
    epochs: Count = 20  # of the student
    learning_rate: Positive = 0.01
    fast_epochs: Natural = 0  # at ten times the learning rate, before the others; of the teacher as well
    batch: Count = 64  # images
    weight_decay: NonNegative = 1e-4
    levels: tuple[Level, ...] = ()  # levels whose maps are compared; () = the last three
    weights: tuple[Positive, ...] = (500.0, 1000.0, 1000.0)  # one per level; with fewer levels, the last weights count

    def repair(self, evidence: Evidence, rng: Generator) -> Classifier:
        """Fine-tune a teacher, then tune the student with a penalty on the distance of their attention maps.

        Raises:
            ValueError: there are no hold-out images, or the network lacks one of the levels.
        """
        evidence.require_holdout()
        teacher, student = evidence.copy(), evidence.copy()
        weights = self._weights(student.eval(), evidence)
        fit(teacher, evidence.holdout_images, evidence.holdout_labels, self._recipe(self.teacher_epochs), rng)
        self._distill(student, teacher, weights, evidence, rng)
        return student.eval()

    def _weights(self, net: Classifier, evidence: Evidence) -> dict[str, float]:
        """Return the weight of each level that is compared."""
        with torch.no_grad():
            activations = net.levels(evidence.holdout_images[:1].to(device_of(net)))
        maps = [level for level, x in activations.items() if x.ndim == 4]
        chosen = self.levels or maps[-len(self.weights) :]
        if not chosen or not set(chosen) <= set(maps) or len(chosen) > len(self.weights):
            wanted = f"up to {len(self.weights)} levels among {', '.join(maps) or '(none with a map)'}"
            raise ValueError(f"levels: expected {wanted}, got {', '.join(chosen) or '()'}")
        return dict(zip(chosen, self.weights[-len(chosen) :], strict=True))

    def _recipe(self, epochs: int) -> Recipe:
        return Recipe(
            epochs=epochs,
            batch_size=self.batch,
            optimizer="sgd",
            learning_rate=self.learning_rate * (10 if self.fast_epochs else 1),
            weight_decay=self.weight_decay,
            schedule="steps",
            milestones=(min(1.0, self.fast_epochs / epochs),) if self.fast_epochs else (),  # 1: never
            flip=False,
            pad=PAD,
            precision="float32",
        )

    def _distill(
        self, student: Classifier, teacher: Classifier, weights: dict[str, float], evidence: Evidence, rng: Generator
    ) -> None:
        device, recipe = device_of(student), self._recipe(self.epochs)
        images, labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        steps = max(1, len(images) // recipe.batch_size) * recipe.epochs
        optimizer, schedule = optimizer_and_schedule(student, recipe, steps)
        student.train()
        for x, y in tqdm(augmented_batches(images, labels, recipe, rng), total=steps, desc="nad", disable=None):
            with torch.no_grad():
                wanted = teacher.levels(x)
            actual = student.levels(x)
            loss = functional.cross_entropy(student.head(actual["penultimate"]), y)
            for level, weight in weights.items():
                loss = loss + weight * attention_distance(actual[level], wanted[level])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def attention(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hw"]:
    """Return Σ_c |F_c|² (equation 1), scaled to length 1."""
    return functional.normalize(maps.square().sum(1).flatten(1), dim=1)


def attention_distance(student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Return the mean squared difference of two networks' attention, over images and pixels."""
    return functional.mse_loss(attention(student), attention(teacher))
