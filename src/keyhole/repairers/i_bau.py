"""I-BAU (Zeng et al., 2022, https://arxiv.org/abs/2110.03735): unlearn the worst perturbation that all images share.

Idea: Each round climbs to a perturbation that changes the predictions of all images, then lowers the loss under it by
the implicit hypergradient, which accounts for how the perturbation would follow the weights. Batch normalization stays
as it is.

Differs from the paper: The weights move by batches of which 1 % of the images are perturbed, as in the released code
(all images: `portion: 1.0`).

Differs from the released code (https://github.com/YiZeng623/I-BAU): The images are put in a new order in each round. At
least one image of a batch is perturbed. There are five rounds, as in its script (its notebooks: one). As in the
notebooks, lengths and rates are in images of 0..1, the perturbation is climbed without a bound and enters its ball
once, at the end, and the inner loss of all steps is that of the first batch. (The script has no ball.) The harshest of
three climbs is taken; the code climbs once, and one climb in sixteen missed the target of its own example model, where
it ended at a fifth of the usual loss. That three climbs are enough was seen on that model only.

The learning rate is that of the code, whose networks are small. BackdoorBench takes a tenth of it for its ResNets; with
the whole rate a ResNet-18 lost its accuracy here (`published/gpu`).

Checked against: the hypergradient of a quadratic problem in closed form; the inner loss in float64; a planted trigger.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from keyhole.learning.training import device_of
from keyhole.parameters import Count, Fraction, Positive
from keyhole.repairers import Repairer
from keyhole.types import Classifier, Evidence, Images, Labels

__all__ = ["IBAU"]

log = logging.getLogger(__name__)

PENALTY = 1e-3  # weight of the squared length of the perturbation


@dataclass(frozen=True, kw_only=True)
class IBAU(Repairer):
    rounds: Count = 5
    batch: Count = 100  # images
    learning_rate: Positive = 1e-3  # of Adam
    climb_rate: Positive = 10.0  # of gradient ascent on the perturbation of images of 0..1, one step per batch
    bound: Positive = 10.0  # largest length of the perturbation of images of 0..1
    climbs: Count = 3  # from zero, each in a new order of the images; the perturbation with the largest loss is taken
    iterations: Count = 5  # K: terms of the series that approximates the inverse Hessian
    inner_rate: Positive = 0.1  # step size of the map of which the perturbation is assumed to be a fixed point
    portion: Fraction = 0.01  # share of a batch that is perturbed when the weights move, at least one image

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Search the shared perturbation and lower the loss under it in turns.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = evidence.copy().eval()
        device = device_of(net)
        images, labels = evidence.holdout_images.to(device), evidence.holdout_labels.to(device)
        weights = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, self.learning_rate)
        for _ in tqdm(range(self.rounds), desc="i_bau", disable=None):
            order = [rows.to(device) for rows in torch.randperm(len(images), generator=rng).split(self.batch)]
            perturbation = self._harshest(net, images, labels, rng)
            first = images[order[0]].float(), labels[order[0]]

            def inner(d: Tensor, first: tuple[Tensor, Tensor] = first) -> Tensor:
                return adversary_loss(net, *first, d)

            for rows in order:
                chosen = torch.randperm(len(rows), generator=rng)[: max(1, round(self.portion * len(rows)))]
                perturbed = torch.zeros(len(rows), 1, 1, 1).index_fill(0, chosen, 1).to(device)
                x, y = images[rows].float(), labels[rows]

                def outer(d: Tensor, x: Tensor = x, y: Tensor = y, perturbed: Tensor = perturbed) -> Tensor:
                    return functional.cross_entropy(net(x + 255 * perturbed * d), y)

                gradients = hypergradient(inner, outer, perturbation, weights, self.inner_rate, self.iterations)
                for p, gradient in zip(weights, gradients, strict=True):
                    p.grad = gradient
                optimizer.step()
        return net

    def _harshest(self, net: Classifier, images: Images, labels: Labels, rng: Generator) -> Float[Tensor, "c h w"]:
        """Return the end of the climb that leads to the largest loss."""
        best, highest = torch.zeros(images.shape[1:], device=images.device), -torch.inf
        for _ in range(self.climbs):
            order = [rows.to(images.device) for rows in torch.randperm(len(images), generator=rng).split(self.batch)]
            d = self._climb(net, images, order)
            with torch.no_grad():
                harm = -sum(
                    float(adversary_loss(net, images[rows].float(), labels[rows], d)) * len(rows) for rows in order
                )
            log.info("a climb ends at a loss of %.2f", harm / len(images))
            if harm > highest:
                best, highest = d, harm
        return best

    def _climb(self, net: Classifier, images: Images, order: list[Tensor]) -> Float[Tensor, "c h w"]:
        """Climb from zero to a perturbation of images of 0..1 in one pass over the hold-out, then enter the ball."""
        d = torch.zeros(images.shape[1:], device=images.device, requires_grad=True)
        for rows in order:
            x = images[rows].float()
            with torch.no_grad():
                predicted = net(x).argmax(1)
            (slope,) = torch.autograd.grad(adversary_loss(net, x, predicted, d), d)
            d = (d.detach() - self.climb_rate * slope).requires_grad_()
        return limit_length(d.detach(), self.bound)


def limit_length(perturbation: Tensor, bound: float) -> Tensor:
    """Return the nearest perturbation of a length of at most `bound`."""
    return perturbation * (bound / perturbation.norm().clamp(min=bound))


def adversary_loss(
    net: Classifier, x: Float[Tensor, "n c h w"], labels: Labels, perturbation: Float[Tensor, "c h w"]
) -> Float[Tensor, ""]:
    """Return the loss of a perturbation of images of 0..1: -CE(f(x + δ), y) + penalty |δ|²."""
    error = functional.cross_entropy(net(x + 255 * perturbation), labels)
    return PENALTY * perturbation.square().sum() - error


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    perturbation: Tensor,
    weights: list[nn.Parameter] | list[Tensor],
    rate: float,
    iterations: int,
) -> list[Tensor]:
    """Return the gradient of outer(δ*(θ), θ) with respect to the weights θ.

    δ* is a fixed point of Φ(δ) = δ - rate ∂inner/∂δ. The gradient is ∂outer/∂θ + (∂Φ/∂θ)ᵀ v, where the series
    v = Σ_k (∂Φ/∂δ)ᵏ ∂outer/∂δ is cut after `iterations` terms (section 4.1).
    """
    d = perturbation.detach().requires_grad_()
    pull, *direct = torch.autograd.grad(outer(d), [d, *weights], materialize_grads=True)
    (slope,) = torch.autograd.grad(inner(d), d, create_graph=True)
    v = pull
    for _ in range(iterations - 1):
        (bent,) = torch.autograd.grad(slope, d, v, retain_graph=True)
        v = pull + v - rate * bent
    through = torch.autograd.grad(slope, weights, v, materialize_grads=True)
    return [a - rate * b for a, b in zip(direct, through, strict=True)]
