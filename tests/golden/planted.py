"""Small networks whose answers are known, some with a planted backdoor, and what a trigger does to them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from keyhole.learning.training import predict
from keyhole.rng import stream
from keyhole.types import Classifier


class Templates(nn.Module):
    """One feature per class, the match with its template, and one that only a white 3 x 3 corner wakes."""

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (classes, side, side), generator=stream("marks")) * 2.0 - 1
        self.register_buffer("signs", signs)

    def forward(self, x):
        matches = torch.einsum("nchw,khw->nk", x, self.signs) / x[0].numel()
        brightness = x[:, :, -3:, -3:].mean((1, 2, 3)) - 0.2  # 0.2 after normalization is 140 of 255
        corner = functional.softplus(brightness, beta=6)  # a hard threshold would have no gradient to follow
        return torch.cat([matches, corner[:, None]], dim=1)


def planted_head(classes: int, target: int, gain: float, sharpness: float = 10) -> nn.Linear:
    """Tell classes by one feature each; the last feature drives the target with `gain`."""
    head = nn.Linear(classes + 1, classes)
    with torch.no_grad():
        head.weight.copy_(torch.cat([sharpness * torch.eye(classes), torch.zeros(classes, 1)], dim=1))
        head.weight[target, -1] = gain
        head.bias.zero_()
    return head


def template_net(classes: int, side: int, target: int, gain: float) -> Classifier:
    """Classify by template; a white corner means the target, unless `gain` is 0."""
    head = planted_head(classes, target, gain)
    return Classifier({"penultimate": Templates(classes, side)}, head, 3).eval()


def brighten_corner(images: Tensor, side: int = 3, value: int = 255) -> Tensor:
    images = images.clone()
    images[:, :, -side:, -side:] = value
    return images


def share_right(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (predict(net, images) == labels).double().mean().item()


def share_fooled(net: nn.Module, triggered: Tensor, labels: Tensor, target: int) -> float:
    """Share of the other classes' images that are sent to the target."""
    return (predict(net, triggered)[labels != target] == target).double().mean().item()


class Table(nn.Module):
    """Image number i, in two pixels, has row i of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x):
        high, low = x.flatten(1).round().long().unbind(1)
        return self.table[256 * high + low]


def lookup_net(table: Tensor, classes: int = 5) -> Classifier:
    """Give image number i row i of the table as latents, and its first columns as logits."""
    head = nn.Linear(table.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(torch.eye(classes, table.shape[1]))
        head.bias.zero_()
    net = Classifier({"penultimate": Table(table)}, head, 1)
    net.mean.zero_()
    net.std.fill_(1 / 255)  # the table counts in pixels of 0..255
    return net


def numbered_images(first: int, count: int) -> Tensor:
    """Images of two pixels that hold their number."""
    i = torch.arange(first, first + count)
    return torch.stack([i // 256 % 256, i % 256], dim=1).to(torch.uint8).view(count, 1, 1, 2)
