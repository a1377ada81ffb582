"""BTI-DBF (U) (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): unlearn the trigger of the inversion.

Idea: In turns, a generator is trained as in `bti_dbf`, and the network learns to give the generated images their true
labels and their clean feature maps. From the second turn on, the generator also aims at the class to which it sent most
images in the first turn.

Differs from the released code: The differences of `bti_dbf` apply. Batch normalization stays frozen; the code trains it
on mixed batches. The maps of clean images are targets through which no gradient flows, and distances from them are in
units of their variance. The code takes 5 x (400 + 600 + 600) steps of 128 images; here, with 2,500 images, there are
3 x (390 + 312 + 312) of 32.

Checked against: the loss in closed form; a planted backdoor that has to go.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning.decoupling import Decoupler, build_writer, feature_gap, stamp_some
from keyhole.learning.training import device_of
from keyhole.parameters import Count, Natural, NonNegative, Positive, Share, Width
from keyhole.repairers import Repairer
from keyhole.types import Classifier, Evidence, Labels

__all__ = ["BTIDBFU"]


@dataclass(frozen=True, kw_only=True)
class BTIDBFU(Repairer):
    variant: Literal["paper", "released"] = "paper"  # objective of the inversion
    rounds: Count = 3  # turns of mask, generator and network
    pretrain_epochs: Natural = 1  # of the generator, once
    mask_epochs: Natural = 5
    invert_epochs: Natural = 4  # of the generator
    unlearn_epochs: Natural = 4  # of the network
    batch: Count = 32  # images
    width: Width = 16  # channels of the generator's middle maps
    mask_rate: Positive = 0.01  # of Adam, for the mask
    generator_rate: Positive = 1e-3  # of Adam, for the generator
    learning_rate: Positive = 1e-4  # of Adam, for the network
    mask_weight: NonNegative = 2.0  # weight of the mean of the mask in its loss; 0 in the paper
    image_bound: Positive = 0.05  # mean squared difference of images of 0..1, in units of 0.2²
    feature_bound: Positive = 1.0  # mean squared difference of kept features, in units of their variance (`released`)
    share: Share = 0.1  # of a batch that carries the trigger; rounded down, plus one image

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Train the generator and the network in turns.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = evidence.copy().eval()
        decoupler = Decoupler(evidence, self.batch)
        labels = decoupler.labels
        writer = build_writer(decoupler.images.shape[1], self.width, rng, device_of(net))
        decoupler.pretrain(writer, epochs=self.pretrain_epochs, rate=self.generator_rate, rng=rng)
        to_write = torch.optim.Adam(writer.parameters(), self.generator_rate)
        to_learn = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], self.learning_rate)
        bounds, target = (self.image_bound, self.feature_bound), None
        for turn in range(self.rounds):
            if turn:  # the network has changed since the last turn
                decoupler = Decoupler(replace(evidence, net=net), self.batch)
            mask = decoupler.learn_mask(epochs=self.mask_epochs, rate=self.mask_rate, weight=self.mask_weight, rng=rng)
            decoupler.invert(
                writer,
                to_write,
                mask,
                epochs=self.invert_epochs,
                bounds=bounds,
                variant=self.variant,
                target=target,
                rng=rng,
            )
            if target is None:
                target = int(decoupler.shares_sent(writer).argmax())
            for rows in decoupler.draw_rows(self.unlearn_epochs, "unlearn", rng):
                x = decoupler.images[rows].float().div(255)
                loss = unlearning_loss(net, x, stamp_some(x, writer, self.share, rng), labels[rows], decoupler.variance)
                to_learn.zero_grad()
                loss.backward()
                to_learn.step()
        to_learn.zero_grad()
        return net


def unlearning_loss(
    net: Classifier, clean: Float[Tensor, "n c h w"], mixed: Float[Tensor, "n c h w"], labels: Labels, variance: float
) -> Float[Tensor, ""]:
    """Return CE of the mixed batch with its true labels, plus the distance between its maps and the clean batch's."""
    with torch.no_grad():
        clean_maps = net.feature_maps(255 * clean)
    maps = net.feature_maps(255 * mixed)
    return functional.cross_entropy(net.classify(maps), labels) + feature_gap(clean_maps, maps, variance)
