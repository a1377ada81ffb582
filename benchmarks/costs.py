"""Measure the CPU-seconds of training and of detectors, on one thread and synthetic data: `python benchmarks/costs.py`.

The two precisions of a training step are timed alternately, so that a machine whose speed drifts favors neither.
"""

import platform
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from keyhole import models, rng
from keyhole.planning import registry
from keyhole.running.origin import hardware
from keyhole.types import Evidence

ROWS, CLASSES, DIMENSIONS, HOLDOUT, PAYLOAD = 50_000, 10, 256, 2_500, 150


def training_step() -> dict[str, float]:
    """Time one forward and backward pass of `convnet` on 256 images; return medians of ten runs for each precision."""
    stream = rng.stream("benchmark")
    images = torch.randint(0, 256, (5000, 3, 32, 32), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (256,), generator=stream)
    net = models.build("convnet", CLASSES, images, stream).train()
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for repeat in range(12):
        for precision, times in seconds.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                outputs = net(images[:256])
            functional.cross_entropy(outputs.float(), labels).backward()
            if repeat >= 2:
                times.append(time.process_time() - start)
    return {f"training step, {precision}": statistics.median(times) for precision, times in seconds.items()}


class Table(nn.Module):
    """A model that looks latents up: the pixels of a hold-out image hold its row number."""

    level_names = ("penultimate",)

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = nn.Parameter(latents, requires_grad=False)

    def levels(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the latents of hold-out images."""
        return {"penultimate": self.latents[images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()]}


def detectors() -> dict[str, float]:
    """Time each detector on 50,000 x 256 latents with 150 payload rows."""
    stream = rng.stream("benchmark")
    scale, means = torch.logspace(0, -1.5, DIMENSIONS), 0.5 * torch.randn(CLASSES, DIMENSIONS, generator=stream)

    def latents(labels: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(labels), DIMENSIONS, generator=stream) * scale + means[labels]

    labels, holdout_labels = torch.arange(ROWS) % CLASSES, torch.arange(HOLDOUT) % CLASSES
    x, payload = latents(labels), torch.nonzero(labels == 0).squeeze(1)[:PAYLOAD]
    x[payload] += 0.3 * torch.randn(DIMENSIONS, generator=stream)
    numbers = torch.arange(HOLDOUT)
    pixels = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8).view(-1, 1, 1, 2)
    images = torch.zeros(ROWS, 1, 1, 2, dtype=torch.uint8)
    evidence = Evidence(Table(latents(holdout_labels)), images, labels, {"penultimate": x}, pixels, holdout_labels)
    seconds = {}
    for name in registry.names("detectors"):
        needed = {"assumed_payload": tuple(payload.tolist())} if name == "perfect_removal" else {}
        detector = registry.load("detectors", name, needed)
        start = time.process_time()
        detector.detect(evidence, rng.stream("detect"))
        seconds[name] = time.process_time() - start
    return seconds


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{hardware()}, Python {platform.python_version()}, torch {torch.__version__}, one thread\n")
    for what, seconds in {**training_step(), **detectors()}.items():
        print(f"{what:<30}{seconds:8.3f} CPU-s")
