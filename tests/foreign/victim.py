"""A backdoored model that others made, as a victim: I-BAU's released CIFAR-10 model (BadNets, target 8, 20 % poison).

The checkpoint is no part of this repository. It is looked for in the folder that KEYHOLE_FOREIGN_MODELS names, or in
`shared/models` beside the repository. CIFAR-10 is read from `cifar10.npz` in KEYHOLE_DATA; nothing is downloaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from keyhole.data import data_root
from keyhole.data._archive import read_npz
from keyhole.learning.training import predict
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence, Images, Labels

CHECKPOINT = "small_vgg16_badnets.safetensors"
TARGET = 8
WIDTHS = (32, 64, 128)
DROPOUT = (0.3, 0.4, 0.4)


@dataclass(frozen=True)
class Foreign:
    """The victim, what its defender has, and the test images that are left."""

    evidence: Evidence
    images: Images
    labels: Labels
    target: int = TARGET

    def rates(self, net: nn.Module | None = None, triggered: Images | None = None) -> tuple[float, float]:
        """Return CA and ASR of a network on the test images, or on what a purifier made of their trigger."""
        net = self.evidence.net if net is None else net
        others = self.labels != self.target
        stamped = stamp(self.images[others]) if triggered is None else triggered
        right, fooled = predict(net, self.images) == self.labels, predict(net, stamped) == self.target
        return float(right.double().mean()), float(fooled.double().mean())


def missing() -> str:
    """Say why the victim cannot be loaded; empty if it can."""
    if not checkpoint().is_file():
        return f"no {checkpoint()}; KEYHOLE_FOREIGN_MODELS names another folder"
    if not (data_root() / "cifar10.npz").is_file():
        return f"no {data_root() / 'cifar10.npz'}; KEYHOLE_DATA names another folder"
    return ""


def checkpoint() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "models"
    return Path(os.environ.get("KEYHOLE_FOREIGN_MODELS") or beside).expanduser() / CHECKPOINT


def load(holdout: int = 2500, draw: int = 0, device: str = "cpu") -> Foreign:
    """Load the victim with a hold-out of clean test images, drawn at random.

    With the same `draw`, a larger hold-out contains a smaller one.
    """
    arrays = read_npz(data_root() / "cifar10.npz")
    images = torch.from_numpy(arrays.x_test).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(arrays.y_test).long().to(device)
    rows = torch.randperm(len(images), generator=stream("foreign", "holdout", draw)).to(device)
    kept, rest = rows[:holdout], rows[holdout:]
    net = read_net(checkpoint()).to(device, memory_format=torch.channels_last)
    evidence = Evidence(net, images[:0], labels[:0], {}, images[kept], labels[kept])
    return Foreign(evidence, images[rest], labels[rest])


def read_net(path: Path) -> Classifier:
    """Read the checkpoint: three blocks of two convolutions, each a stage, then the flattened maps and the head."""
    tensors = load_file(path)
    net = build(tensors["classifier.weight"].shape[0])
    # layer `features.8b+i` is layer i of block b; the head has another name
    for name, value in tensors.items():
        layer, number, *rest = name.split(".")
        if layer == "features":
            block, i = divmod(int(number), 8)
            name = f"stages.block{block + 1}.{i}.{rest[0]}"
        else:
            name = f"head.{number}"
        net.state_dict()[name].copy_(value)
    return net.eval()


def build(classes: int) -> Classifier:
    """Build the architecture; it takes images in 0..1 as they are."""
    stages: dict[str, nn.Module] = {}
    inputs = 3
    for number, (width, dropout) in enumerate(zip(WIDTHS, DROPOUT, strict=True), start=1):
        layers: list[nn.Module] = []
        for channels in (inputs, width):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ELU()]
        stages[f"block{number}"] = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(dropout))
        inputs = width
    stages["penultimate"] = nn.Flatten()
    net = Classifier(stages, nn.Linear(16 * inputs, classes), 3)
    net.mean.zero_()
    net.std.fill_(1)
    return net


def stamp(images: Images) -> Images:
    """Put the trigger on images: 4 x 4 white pixels, one pixel from the lower right corner."""
    stamped: Tensor = images.clone()
    stamped[:, :, 27:31, 27:31] = 255
    return stamped
