"""Measure the CPU-seconds of inverters by the number of classes, on one thread: `python benchmarks/inverters.py`.

The victim is an untrained `convnet`, the hold-out is 2,500 random images of 32 x 32; only the number of classes varies.
Methods that search a trigger for each class run for a fraction of their default length. Their seconds grow with the
images that they see, so they are scaled to the default length. A search that stops early on a real victim costs less.
"""

import math
import platform
import time

import torch

from keyhole import models, rng
from keyhole.planning import registry
from keyhole.running.origin import hardware
from keyhole.types import Evidence

CLASSES, HOLDOUT = (10, 43, 200), 2_500
# inverter -> the parameters that shorten it; the product of these parameters is its length
SHORT = {
    "neural_cleanse": {"epochs": 1, "samples": 320},
    "pixel": {"epochs": 3, "samples": 100},
    "thtp": {"rounds": 1, "epochs": 2, "samples": 128},
    "feature_re": {"epochs": 2, "warmup": 1, "samples": 128},
    "unicorn": {"epochs": 1, "warmup": 1, "samples": 48},
    "mm_bd": {"starts": 4, "steps": 40},
    "bti_dbf": {},
    "ban": {},
}


def make_evidence(classes: int) -> Evidence:
    """Make an untrained victim and a random hold-out."""
    stream = rng.stream("benchmark", classes)
    images = torch.randint(0, 256, (HOLDOUT, 3, 32, 32), generator=stream, dtype=torch.uint8)
    labels = torch.arange(HOLDOUT) % classes
    net = models.build("convnet", classes, images, stream).eval()
    return Evidence(net, images[:0], labels[:0], {}, images, labels)


def length(name: str, given: dict[str, int]) -> int:
    """Return how many images the search for one class sees; parameters that are not given have their defaults."""
    values = {field: getattr(registry.load("inverters", name, given), field) for field in SHORT[name]}
    if "epochs" in values:
        values["epochs"] += values.pop("warmup", 0)
    return math.prod(values.values())


def seconds(name: str, given: dict[str, int], evidence: Evidence) -> float:
    """Time an inverter with these parameters."""
    inverter = registry.load("inverters", name, given)
    start = time.process_time()
    inverter.invert(evidence, rng.stream("invert"))
    return time.process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{hardware()}, Python {platform.python_version()}, torch {torch.__version__}, one thread, CPU-seconds\n")
    print(f"{'classes':<16}{'timed':>8}" + "".join(f"{k:>10}" for k in CLASSES))
    for name, short in SHORT.items():
        seconds(name, short, make_evidence(2))  # the first call is slower
        factor = length(name, {}) / length(name, short)
        scaled = [factor * seconds(name, short, make_evidence(k)) for k in CLASSES]
        print(f"{name:<16}{f'1/{factor:.0f}':>8}" + "".join(f"{each:10.0f}" for each in scaled), flush=True)
