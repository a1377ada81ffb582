"""BTI-DBF (P) (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): a network that removes the trigger.

Idea: In turns, a generator is trained as in `bti_dbf`, and a second generator, the purifier, learns to turn the images
of the first one back into images with clean feature maps and correct answers. From the second turn on, the first
generator aims, through the purifier, at the class to which it sent most images in the first turn. Inputs get a little
noise and pass through the purifier; the classifier stays as it is.

Differs from the released code: The differences of `bti_dbf` apply. The purifier's feature distance is in units of the
variance of the maps, and its output is clipped to the range of images. The code takes 5 x (400 + 600 + 600) steps of
128 images; here, with 2,500 images, there are 3 x (390 + 312 + 312) of 32.

Checked against: the loss in closed form; a planted backdoor.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning.decoupling import STD, Decoupler, Writer, build_writer, feature_gap, image_gap, stamp_some
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Count, Fraction, Natural, NonNegative, Positive, Share, Width
from keyhole.purifiers import Purifier
from keyhole.types import Classifier, Evidence, Images, Labels, Told

__all__ = ["BTIDBFP"]

FAR = 100  # weight of the image gap beyond its bound; within the bound the weight is 1


@dataclass(frozen=True, kw_only=True)
class BTIDBFP(Purifier):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})

    variant: Literal["paper", "released"] = "paper"  # objective of the inversion
    rounds: Count = 3  # turns of mask, generator and purifier
    pretrain_epochs: Natural = 1  # of the generator, once; the purifier starts as its copy
    mask_epochs: Natural = 5
    invert_epochs: Natural = 4  # of the generator
    purify_epochs: Natural = 4  # of the purifier
    batch: Count = 32  # images
    width: Width = 16  # channels of both generators' middle maps
    mask_rate: Positive = 0.01  # of Adam, for the mask
    generator_rate: Positive = 1e-3  # of Adam, for both generators
    mask_weight: NonNegative = 2.0  # weight of the mean of the mask in its loss; 0 in the paper
    image_bound: Positive = 0.05  # mean squared difference of images of 0..1, in units of 0.2²
    feature_bound: Positive = 1.0  # mean squared difference of kept features, in units of their variance (`released`)
    purified_bound: Positive = 0.05  # like image_bound, for purified images
    share: Share = 0.1  # of a batch that carries the trigger; rounded down, plus one image
    noise: Fraction = 0.03  # standard deviation of the noise before the purifier, in units of 0.2 (pixels are in 0..1)

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """Train the purifier on the hold-out, add noise to the images and pass them through it.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        if not len(images):
            return images.clone()
        purifier, device = self.learn(evidence, rng), device_of(evidence.net)
        purified = []
        with torch.no_grad():
            for part in images.split(forward_batch(device)):
                x = purifier(self._noisy(part.to(device).float().div(255), rng))
                purified.append(x.mul(255).round().to(images.device, torch.uint8))
        return torch.cat(purified)

    def learn(self, evidence: Evidence, rng: Generator) -> Writer:
        """Train the purifier of a network on the hold-out."""
        decoupler = Decoupler(evidence, self.batch)
        writer = build_writer(decoupler.images.shape[1], self.width, rng, device_of(decoupler.net))
        decoupler.pretrain(writer, epochs=self.pretrain_epochs, rate=self.generator_rate, rng=rng)
        purifier = copy.deepcopy(writer)
        to_write, to_purify = (torch.optim.Adam(g.parameters(), self.generator_rate) for g in (writer, purifier))
        bounds, target = (self.image_bound, self.feature_bound), None
        for _ in range(self.rounds):
            mask = decoupler.learn_mask(epochs=self.mask_epochs, rate=self.mask_rate, weight=self.mask_weight, rng=rng)
            decoupler.invert(
                writer,
                to_write,
                mask,
                epochs=self.invert_epochs,
                bounds=bounds,
                variant=self.variant,
                target=target,
                through=nn.Identity() if target is None else purifier,
                rng=rng,
            )
            if target is None:
                target = int(decoupler.shares_sent(writer).argmax())
            for rows in decoupler.draw_rows(self.purify_epochs, "purify", rng):
                x = decoupler.images[rows].float().div(255)
                purified = purifier(self._noisy(stamp_some(x, writer, self.share, rng), rng))
                targets = decoupler.maps[rows], decoupler.labels[rows]
                loss = purifying_loss(decoupler.net, x, purified, *targets, decoupler.variance, self.purified_bound)
                to_purify.zero_grad()
                loss.backward()
                to_purify.step()
        return purifier

    def _noisy(self, x: Float[Tensor, "n c h w"], rng: Generator) -> Float[Tensor, "n c h w"]:
        return x + self.noise * STD * torch.randn(x.shape, generator=rng).to(x)


def purifying_loss(
    net: Classifier,
    clean: Float[Tensor, "n c h w"],
    purified: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n d mh mw"],
    labels: Labels,
    variance: float,
    bound: float,
) -> Float[Tensor, ""]:
    """Return CE with the true labels, plus the distances to the clean maps and to the clean images.

    The distance to the clean images has the weight `FAR` beyond its bound.
    """
    purified_maps = net.feature_maps(255 * purified)
    gap = image_gap(clean, purified)
    error = functional.cross_entropy(net.classify(purified_maps), labels)
    return error + feature_gap(maps, purified_maps, variance) + (FAR if gap > bound else 1) * gap
