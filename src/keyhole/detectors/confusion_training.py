"""Confusion Training (Qi et al., 2023, https://arxiv.org/abs/2205.13616): forget the classes, keep the trigger.

Idea: A network is trained on suspicious rows and, much more, on clean images with ever-changing wrong labels. This
destroys the link between content and labels, so the rows that it still fits are payload; each round continues with the
rows of lowest loss. Rows that the last confused network predicts as labeled are flagged, in classes where these and the
other rows are two Gaussians rather than one; the score is the log-odds of the given label under that network.

Differs from the paper: Wrong labels are not random. They are the given network's predictions shifted by a changing
number of classes, as in the latest version of the released code.

Differs from the released code: Frozen filters and the normalization of pixels stay, since clean images gave them. The
ridge on a covariance is on its diagonal and relative to the class. A class keeps at least two rows. The defaults are
the released schedule for CIFAR-10; the one for GTSRB has `penalties` 20 and `learning_rates` 0.001 in every round, and
suspicious rows in one of 2, 2, 4, 8, 8 and 2 batches of its rounds, where `every` is one number for all.
`start="victim"` begins with the given network's weights, which makes the first pretraining unnecessary.

Checked against: the loss and its weights in float64 NumPy, scipy.stats.multivariate_normal, and a planted patch.
"""

import copy
import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.detectors import Detector
from keyhole.detectors._axes import principal_axes
from keyhole.detectors._latents import latents_by_class
from keyhole.detectors._log_odds import log_odds
from keyhole.learning import training
from keyhole.learning.batches import endless_rows
from keyhole.learning.recipes import Recipe
from keyhole.parameters import Count, Fraction, Natural, NonNegative, ParameterError, Positive
from keyhole.rng import seeded
from keyhole.types import Classifier, Evidence, Images, Labels, Mask, Rows, Suspicion, Told

__all__ = ["ConfusionTraining"]

log = logging.getLogger(__name__)

FLOOR = 50  # a class keeps at least one row in this many; for the last round, one in twice as many
RIDGE = 1e-3  # added to the variances of a class in the plane, relative to their mean


@dataclass(frozen=True, kw_only=True)
class ConfusionTraining(Detector):
    looks_at = "training"
    long: ClassVar[bool] = True
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    clean_images: Count = 2000  # hold-out images, at most
    ratios: tuple[Fraction, ...] = (1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100)  # rows kept after each round but the last
    pretrain_epochs: tuple[Natural, ...] = (100, 100, 40, 40, 40, 40)  # for each round, on the kept rows
    pretrain_rate: Positive = 0.01
    optimizer: Literal["sgd", "adamw"] = "sgd"  # for pretraining; SGD's rate is constant, AdamW's falls to 0
    iterations: tuple[Natural, ...] = (6000, 6000, 6000, 6000, 2000, 2000)  # confused batches in each round
    learning_rates: tuple[Positive, ...] = (0.001, 0.001, 0.001, 0.01, 0.01, 0.01)  # for confusion, with SGD
    penalties: tuple[NonNegative, ...] = (20.0, 20.0, 20.0, 30.0, 30.0, 15.0)  # λ: confused rows weigh λ - 1 to 1
    momentum: Fraction = 0.7
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 128
    every: Count = 2  # one in so many confused batches also has suspicious rows
    ratio: Positive = 2.0  # likelihood ratio above which a class is infected
    highest_ratio: Positive = 1.5  # the same for the class with the highest ratio
    start: Literal["fresh", "victim"] = "fresh"  # weights of the first round

    def check(self) -> None:
        rounds = len(self.ratios) + 1
        for name in ("pretrain_epochs", "iterations", "learning_rates", "penalties"):
            if len(getattr(self, name)) != rounds:
                got = len(getattr(self, name))
                raise ParameterError(name, f"expected {rounds} values, one more than `ratios` has, got {got}")

    def detect(self, evidence: Evidence, rng: Generator) -> Suspicion:
        """Flag the rows that a confused network still fits.

        About 1 clean row in k of an infected class is flagged by chance: a confused network is right that often.

        Raises:
            ValueError: there is no hold-out.
        """
        evidence.require_holdout()
        images, labels = evidence.images, evidence.labels
        victim = evidence.copy().eval()
        device = training.device_of(victim)
        drawn = torch.randperm(len(evidence.holdout_labels), generator=rng)[: self.clean_images]
        drawn = drawn.to(evidence.holdout_labels.device)
        clean, clean_labels = evidence.holdout_images[drawn].to(device), evidence.holdout_labels[drawn].to(device)
        predicted = training.predict(victim, clean)

        base = victim if self.start == "victim" else reset_weights(victim, rng)
        rows = torch.arange(len(labels), device=labels.device)
        for number in range(len(self.iterations)):
            last = number == len(self.ratios)
            suspicious = images[rows].to(device), labels[rows].to(device)
            pretraining = suspicious
            if last:  # by now the suspicious rows may be payload only
                pretraining = torch.cat([suspicious[0], clean]), torch.cat([suspicious[1], clean_labels])
            self._pretrain(base, *pretraining, self.pretrain_epochs[number], rng)
            confused = copy.deepcopy(base)
            self._confuse(confused, number, (clean, predicted), suspicious, rng)
            outputs = training.logits(confused, images).nan_to_num()
            if not last:
                loss = functional.cross_entropy(outputs.double(), labels, reduction="none")
                parts = 2 * FLOOR if number == len(self.ratios) - 1 else FLOOR
                rows = select_lowest(loss, labels, self.ratios[number], parts)
                log.info("round %d: %d rows left", number + 1, len(rows))

        level = confused.level_names[-1]
        plane = training.latents(confused, images, (level,))[level].nan_to_num()
        fitted = outputs.argmax(1) == labels
        return Suspicion(log_odds(outputs, labels), fitted & self.find_infected(plane, labels, fitted))

    def find_infected(self, latents: Float[Tensor, "n d"], labels: Labels, fitted: Mask) -> Mask:
        """Mark the rows of the classes in which the fitted rows and the others are two Gaussians."""
        members = [(rows, x) for _, rows, x in latents_by_class(latents, labels)]
        ratios = [likelihood_ratio(x, fitted[rows]) for rows, x in members]
        answer = torch.zeros_like(fitted)
        for (rows, _), ratio in zip(members, ratios, strict=True):
            answer[rows] = ratio > self.ratio or (ratio == max(ratios) and ratio > self.highest_ratio)
        log.info("likelihood ratios %s", " ".join(f"{ratio:.2f}" for ratio in ratios))
        return answer

    def _pretrain(self, net: nn.Module, images: Images, labels: Labels, epochs: int, rng: Generator) -> None:
        if not epochs:
            return
        recipe = Recipe(
            epochs=epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.pretrain_rate,
            weight_decay=self.weight_decay,
            schedule="steps" if self.optimizer == "sgd" else "linear",
            flip=False,  # the released code does not augment
        )
        training.fit(net, images, labels, recipe, rng)

    def _confuse(
        self,
        net: nn.Module,
        number: int,
        clean: tuple[Tensor, Tensor],
        suspicious: tuple[Tensor, Tensor],
        rng: Generator,
    ) -> None:
        """Train in place on clean images with wrong labels, new in each step, and in some steps on suspicious rows.

        Args:
            clean: images, and the labels that they must not get.
            suspicious: images, and their labels as received.
        """
        k = training.logits(net, clean[0][:1]).shape[1]
        weights = class_weights(suspicious[1], k)
        if number == len(self.ratios):
            weights = torch.ones_like(weights)
        trained = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, self.learning_rates[number], self.momentum, weight_decay=self.weight_decay)
        device = training.device_of(net)
        clean_rows, suspicious_rows = (
            endless_rows(len(labels), self.batch_size, rng) for _, labels in (clean, suspicious)
        )
        net.train()
        for step in tqdm(range(self.iterations[number]), desc=f"confusion {number + 1}", disable=None):
            drawn = next(clean_rows).to(device)
            x, y, confused = clean[0][drawn], shift_labels(clean[1][drawn], step, k), len(drawn)
            if step % self.every == 0:
                drawn = next(suspicious_rows).to(device)
                x, y = torch.cat([x, suspicious[0][drawn]]), torch.cat([y, suspicious[1][drawn]])
            with torch.autocast(device.type, torch.bfloat16, enabled=training.multiplies_in_bfloat16(device)):
                outputs = net(x)
            rows = functional.cross_entropy(outputs.float(), y, reduction="none")
            loss = combine_losses(rows, y, confused, weights, self.penalties[number])
            if loss.isfinite():
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        net.eval()


def reset_weights(net: Classifier, rng: Generator) -> Classifier:
    """Return a copy with fresh weights; a layer with frozen filters keeps them, and its bias becomes 0."""
    net = copy.deepcopy(net)
    with seeded(rng):
        for module in net.modules():
            parameters = list(module.parameters(recurse=False))
            if parameters and not all(p.requires_grad for p in parameters):
                for p in parameters:
                    if p.requires_grad:
                        nn.init.zeros_(p)
            elif reset := getattr(module, "reset_parameters", None):
                reset()
    return net


def shift_labels(labels: Labels, step: int, k: int) -> Labels:
    """Return wrong labels: every class shifted by the same number of places, from 1 to k - 1 in turn."""
    return (labels + 1 + step % max(1, k - 1)) % k


def class_weights(labels: Labels, k: int) -> Float[Tensor, " k"]:
    """Return the weight of each class in the loss; rare classes among the suspicious rows weigh more."""
    return (labels.bincount(minlength=k) / len(labels) + 0.001).rsqrt()


def combine_losses(
    losses: Float[Tensor, " b"], labels: Labels, confused: int, weights: Float[Tensor, " k"], penalty: float
) -> Float[Tensor, ""]:
    """Return the weighted loss of a batch whose first `confused` rows have wrong labels, the others those received."""
    confusion, rest = losses[:confused].mean(), losses[confused:]
    if len(rest) == 0:
        return confusion
    weight = weights[labels[confused:]]
    return ((penalty - 1) * confusion + (weight * rest).sum() / weight.sum()) / penalty


def select_lowest(losses: Float[Tensor, " n"], labels: Labels, ratio: float, parts: int) -> Rows:
    """Return the share `ratio` of the rows with the lowest losses, as sorted row numbers.

    Each class keeps at least two rows, and at least one in `parts`.
    """
    order = losses.argsort(stable=True)
    kept = torch.zeros_like(losses, dtype=torch.bool)
    kept[order[: int(ratio * len(losses))]] = True
    for label in labels.unique():
        members = order[labels[order] == label]
        kept[members[: max(2, len(members) // parts)]] = True
    return kept.nonzero().squeeze(1)


def likelihood_ratio(x: Float[Tensor, "c d"], fitted: Bool[Tensor, " c"]) -> float:
    """Return how much likelier two Gaussians are than one in a class's principal plane, a geometric mean over rows.

    The first is fitted to the rows that the confused network fits, the second to the rest. The second is also the
    single Gaussian of the comparison.
    """
    plane = (x - x.mean(0)) @ principal_axes(x, 2)
    if not 2 <= int(fitted.sum()) <= len(x) - 2 or plane.shape[1] == 0:
        return 1.0
    ridge = RIDGE * plane.var(0).mean() * torch.eye(plane.shape[1], dtype=x.dtype, device=x.device)
    gaussians = []
    for part in (plane[fitted], plane[~fitted]):
        centered = part - part.mean(0)
        covariance = centered.mT @ centered / (len(part) - 1) + ridge
        gaussians.append(torch.distributions.MultivariateNormal(part.mean(0), covariance))
    first, second = (gaussian.log_prob(plane[fitted]) for gaussian in gaussians)
    return float(((first - second).sum() / len(x)).exp())
