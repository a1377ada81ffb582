"""BTI-DBF (P) (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): a network that undoes the trigger.

In turns, a generator is trained as in `bti_dbf` and a second one, the purifier, learns to turn its images back into
images with clean maps and true answers. From the second turn the first aims, through the purifier, at the class that
it pointed to. Inputs get a little noise and pass the purifier; the classifier stays as it is.
Differs from the released code as `bti_dbf`; the purifier's feature distance is in units of the maps' variance, and its
output is clipped to the range of images. Published: 5 x (400 + 600 + 600) steps of 128 images; here, with 2,500 images,
3 x (390 + 312 + 312) of 32. Checked against: the loss in closed form; a planted backdoor.
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
from keyhole.models import Classifier
from keyhole.parameters import Count, Fraction, Natural, NonNegative, Positive, Share, Width
from keyhole.purifiers import Purifier
from keyhole.types import Evidence, Images, Labels, Told

__all__ = ["BTIDBFP"]

FAR = 100  # weight of the image gap beyond its bound; 1 within


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
    mask_rate: Positive = 0.01  # of Adam
    generator_rate: Positive = 1e-3  # of Adam, for both
    mask_weight: NonNegative = 2.0  # of the mean of the mask; 0 in the paper
    image_bound: Positive = 0.05  # mean squared difference of images of 0..1, in units of 0.2²
    feature_bound: Positive = 1.0  # mean squared difference of kept features, in units of their variance; released only
    purified_bound: Positive = 0.05  # as image_bound, of purified images
    share: Share = 0.1  # of a batch that carries the trigger, plus one image
    noise: Fraction = 0.03  # standard deviation, in units of 0.2 of 0..1, before the purifier

    def purify(self, evidence: Evidence, images: Images, rng: Generator) -> Images:
        """See the base class; the noise makes it stochastic.

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
        """The purifier for a network, from the hold-out."""
        known = Decoupler(evidence, self.batch)
        writer = build_writer(known.images.shape[1], self.width, rng, device_of(known.net))
        known.pretrain(writer, epochs=self.pretrain_epochs, rate=self.generator_rate, rng=rng)
        purifier = copy.deepcopy(writer)
        to_write, to_purify = (torch.optim.Adam(g.parameters(), self.generator_rate) for g in (writer, purifier))
        bounds, target = (self.image_bound, self.feature_bound), None
        for _ in range(self.rounds):
            mask = known.learn_mask(epochs=self.mask_epochs, rate=self.mask_rate, weight=self.mask_weight, rng=rng)
            known.invert(
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
                target = int(known.shares_sent(writer).argmax())
            for rows in known.draw_rows(self.purify_epochs, "purify", rng):
                x = known.images[rows].float().div(255)
                purified = purifier(self._noisy(stamp_some(x, writer, self.share, rng), rng))
                wanted = known.maps[rows], known.labels[rows]
                loss = purifying_loss(known.net, x, purified, *wanted, known.variance, self.purified_bound)
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
    """CE with the true labels, distance to the clean maps, and distance to the clean images, heavy beyond the bound."""
    found = net.feature_maps(255 * purified)
    gap = image_gap(clean, purified)
    error = functional.cross_entropy(net.classify(found), labels)
    return error + feature_gap(maps, found, variance) + (FAR if gap > bound else 1) * gap
