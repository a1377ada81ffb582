"""BTI-DBF (P) (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): a network that removes the trigger.

Idea: In turns, a generator is trained as in `bti_dbf`, and a second generator, the purifier, learns to turn the images
of the first one back into images with clean feature maps and correct answers. From the second turn on, the first
generator aims, through the purifier, at the class to which it sent most images in the first turn. Inputs get a little
noise and pass through the purifier; the classifier stays as it is.

Differs from the released code: The differences of `bti_dbf` apply. The purifier starts as the identity, and its output
is clipped to the range of images. Feature distances are in units of the variance of the maps (in its own units with
`variant: released`, as are all other values). The code takes 5 x (400 + 600 + 600) steps of 128 images; here there are
150 + 5 x 80 + 300 and then 2 x (150 + 80 + 300) of 32.

Checked against: the loss in closed form; a planted backdoor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from keyhole.learning.decoupling import (
    STD,
    Decoupling,
    Writer,
    build_writer,
    feature_gap,
    image_gap,
    stamp_some,
    within,
)
from keyhole.learning.training import device_of, forward_batch
from keyhole.parameters import Count, Fraction, Natural, Positive, Share
from keyhole.purifiers import Purifier
from keyhole.types import Classifier, Evidence, Images, Labels, Told

__all__ = ["BTIDBFP"]

FAR = 100  # weight of the image gap beyond its bound; within the bound the weight is 1


@dataclass(frozen=True, kw_only=True)
class BTIDBFP(Decoupling, Purifier):
    told: ClassVar[frozenset[Told]] = frozenset({"holdout"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {
            **Decoupling.RELEASED,
            "rounds": 5,
            "purify_steps": 600,
            "purified_bound": 0.05,
            "share": 0.1,
            "noise": 0.03,
        }
    }

    rounds: Count = 3  # turns of mask, generator and purifier
    purify_steps: Natural = 300  # of the purifier, in each turn
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
            for part in images.split(forward_batch(device, images)):
                x = purifier(self._noisy(part.to(device).float().div(255), rng))
                purified.append(x.mul(255).round().to(images.device, torch.uint8))
        return torch.cat(purified)

    def learn(self, evidence: Evidence, rng: Generator) -> Writer:
        """Train the purifier of a network on the hold-out."""
        decoupler = self.decoupler(evidence)
        purifier = build_writer(decoupler.images.shape[1], self.width, rng, decoupler.images.device)
        decoupler.pretrain(purifier, steps=self.pretrain_steps, rate=self.generator_rate, rng=rng)
        writer, reading = self.search(decoupler, rng)
        target = int(reading.argmax())
        to_write, to_purify = (torch.optim.Adam(g.parameters(), self.generator_rate) for g in (writer, purifier))

        def through(x: Tensor, written: Tensor) -> Tensor:
            purified = purifier(written)
            return within(x, purified, self.image_bound) if self.variant == "projected" else purified

        for turn in range(self.rounds):
            if turn:  # from now on it is the purified image that is bounded
                writer.bound = None
                mask = self.mask(decoupler, rng)
                self.train_writer(decoupler, writer, to_write, mask, rng, target=target, through=through)
            for batch in decoupler.draw(self.purify_steps, "purify", rng):
                purified = purifier(self._noisy(stamp_some(batch.x, writer, self.share, rng), rng))
                targets = batch.maps, batch.labels
                loss = purifying_loss(decoupler.net, batch.x, purified, *targets, decoupler.unit, self.purified_bound)
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
    unit: float,
    bound: float,
) -> Float[Tensor, ""]:
    """Return CE with the true labels, plus the distances to the clean maps and to the clean images.

    The distance to the clean images has the weight `FAR` beyond its bound.
    """
    purified_maps = net.feature_maps(255 * purified)
    gap = image_gap(clean, purified)
    error = functional.cross_entropy(net.classify(purified_maps), labels)
    return error + feature_gap(maps, purified_maps, unit) + (FAR if gap > bound else 1) * gap
