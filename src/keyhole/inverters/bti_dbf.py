"""BTI-DBF (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): find the trigger by what is not benign.

Idea: A mask keeps the features that classify, and a generator moves the other features. The class to which its images
go is the target. One generator writes the trigger of every class.

Differs from the paper and the released code: The generator cannot leave the image bound, since each image's change is
scaled into it; the paper does not say how it keeps the bound, and the code minimizes only the distance while a batch is
beyond it. It starts at random, not at the identity, where the squared distance that it maximizes has no slope, and so
needs no pretraining. The best of five starts is taken. There is no bound on the kept features. The mask has BAN's l1
term: if m is near 1, G(x) = x is optimal; `learning.decoupling` says how its weight is chosen. The steps are
150 + 5 x 80 of 32 images instead of 1000 + 400 + 600 of 128, without augmentation and read-out noise; longer searches
raise what clean networks give more than what backdoored ones do.

`variant: released` has the released objective, bounds, lengths, augmentation and noise. There, too, batch normalization
is frozen, images are not mirrored, pretraining uses the KL divergence, the U-Net is smaller and writes within the range
of images, and the mask is trained on the network's own answers. `variant: paper` differs from the default by the
difference of norms, and by a switch like the code's.

The verdict is our own; the code names a class in every model. The anomaly of a class is the share of the other classes'
images that the generator sends there, times how far it moves their features (`Decoupler.read`). A share alone does not
tell: natural weak spots send all images of a clean network to one class, but with features hardly farther from the
clean ones than those of another image.

The bound is the released one. Of the triggers of all attacks here, it leaves out Adap-Patch's of test time, and some of
`dynamic`, by a little.

Checked against: the losses in NumPy; a planted feature, at the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator

from keyhole.inverters import Inverter
from keyhole.learning.decoupling import Decoupling
from keyhole.parameters import Fraction, Positive
from keyhole.types import Evidence, Images, Inversion

__all__ = ["BTIDBF"]


@dataclass(frozen=True, kw_only=True)
class BTIDBF(Decoupling, Inverter):
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {**Decoupling.RELEASED, "noise": 0.03}}

    noise: Fraction = 0.0  # standard deviation of the read-out's noise, in units of 0.2 (pixels are in 0..1)
    threshold: Positive = 4.0  # anomaly above which a class is flagged

    def invert(self, evidence: Evidence, rng: Generator) -> Inversion:
        """Learn mask and generators, then flag the classes to which the generated images surely go.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        writer, reading = self.search(self.decoupler(evidence), rng, self.noise)
        anomaly = reading.to(evidence.holdout_images.device)

        def stamp(x: Images, _target: int) -> Images:
            return writer.stamp(x)

        masks = torch.ones(len(anomaly), *evidence.holdout_images.shape[2:], device=anomaly.device)
        return Inversion(masks, anomaly, anomaly > self.threshold, stamp)
