"""Wasserstein backdoor (Doan et al., 2021, https://openreview.net/forum?id=6grYTnlGBOT): faint noise for each image.

Idea: x' = clip(x + epsilon g(x)), with a U-Net g whose outputs are in -1..1. In the first `learning_share` of the
batches, g and the victim take steps in turn. g learns to make the victim answer with the target class, while the
latents of clean images and of the same images with the trigger stay close. Their distance is the 2-Wasserstein distance
along each row of the last layer's weights ("discriminant sliced"), as a root mean square over rows (eq. 7). Then g is
frozen, and only the victim is trained.

Differs from the paper: payload is a share of each batch, the poison rate (paper: a triggered copy of every image, with
a weight of its own); g is a small U-Net; g learns on rows whose label the trigger would change.

Differs from the released code: the toolbox of Qi et al., by other authors, uses g(x) itself as the image, without bound
and clipping.

Checked against: SciPy's one-dimensional distances and sorting by hand, in float64; the bound.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from keyhole.attacks._training_control import LearnedTrigger, Part, PoisonedBatch, TrainingControl, TrainingRun
from keyhole.learning import generators, networks, training
from keyhole.learning.training import device_of
from keyhole.parameters import Fraction, NonNegative, Positive, Width
from keyhole.types import Cover, Images, Labels, Rows

__all__ = ["Wasserstein"]

Floats = Float[Tensor, "n c h w"]


@dataclass(frozen=True, kw_only=True)
class Wasserstein(TrainingControl):
    learns_trigger = True

    epsilon: Fraction = 0.1  # of 0..1
    weight: NonNegative = 1.0  # of the distance
    learning_share: Fraction = 0.5  # of the batches, at the start, in which the generator learns
    learning_rate: Positive = 1e-3  # of the generator, falling to 0
    width: Width = 32  # channels of the middle maps

    def apply_trigger(self, images: Images, rng: Generator) -> Images:
        channels = images.shape[1]
        noise_net = networks.restore(lambda: self.network(channels), self.tensors, "noise", images.device)
        return networks.apply_to_images(lambda x: add_noise(x, noise_net(x), self.epsilon), images)

    def network(self, channels: int) -> nn.Module:
        return generators.UNet(channels, channels, self.width)

    def parts(self, run: TrainingRun) -> list[Part]:
        return [_LearnedNoise(self, run)]


class _LearnedNoise(LearnedTrigger):
    def __init__(self, attack: Wasserstein, run: TrainingRun) -> None:
        self.attack, self.run = attack, run
        channels, device = run.images.shape[1], device_of(run.net)
        self.noise_net = networks.build_fresh(lambda: attack.network(channels), run.rng, device)
        self.optimizer, self.step = torch.optim.Adam(self.noise_net.parameters(), attack.learning_rate), 0
        self.clean: tuple[Floats, Labels] | None = None

    def plant(self, x: Images, y: Labels, rows: Rows, cover: Cover) -> Tensor:
        images = x.float()
        if len(rows):
            with torch.no_grad():
                images[rows] = 255 * self._triggered(images[rows] / 255)
        changes = self.attack.eligible(y, self.run.classes)
        self.clean = x[changes].float() / 255, y[changes]
        return images

    def _triggered(self, x: Floats) -> Floats:
        with training.half(x.device):
            noise = self.noise_net(x)
        return add_noise(x, noise, self.attack.epsilon)

    def learn(self, levels: dict[str, Tensor], batch: PoisonedBatch) -> None:
        learning = round(self.attack.learning_share * self.run.steps)
        self.step += 1
        if self.step > learning or self.clean is None or not len(self.clean[0]):
            return
        net, (x, y) = self.run.net, self.clean
        wanted = self.attack.relabel(y, self.run.classes)
        net.eval()  # so that its batch statistics come from the victim's own batches only
        with training.half(x.device):
            with torch.no_grad():
                clean = net.levels(255 * x)["penultimate"]
            triggered = net.levels(255 * self._triggered(x))["penultimate"]
            outputs = net.head(triggered)
        distance = sliced_distance(clean.float(), triggered.float(), net.head.weight.detach())
        loss = functional.cross_entropy(outputs.float(), wanted) + self.attack.weight * distance
        training.set_rate(self.optimizer, self.attack.learning_rate * (1 - (self.step - 1) / learning))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # also leaves gradients in the victim, which its next step clears
        self.optimizer.step()
        net.train()

    def tensors(self) -> dict[str, Tensor]:
        return networks.tensors_of(noise=self.noise_net)


def add_noise(x: Floats, noise: Floats, epsilon: float) -> Floats:
    """Return x + epsilon tanh(noise), clipped to 0..1."""
    return (x + epsilon * torch.tanh(noise)).clamp(0, 1)


def sliced_distance(
    clean: Float[Tensor, "n d"], triggered: Float[Tensor, "n d"], directions: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Return the 2-Wasserstein distance of two equally large groups, as root mean square over directions.

    Each group is projected on the directions, scaled to length 1; the sorted values are then paired.
    """
    along = functional.normalize(directions, dim=1).T
    apart = (clean @ along).sort(0).values - (triggered @ along).sort(0).values
    return apart.square().mean().clamp(min=1e-12).sqrt()
