"""CPU-seconds of every inverter against the number of classes, on one thread: `python benchmarks/inverters.py`.

An untrained `convnet` and 2,500 images of 32 x 32, all alike but for the number of classes, since only that is asked.
Methods that scan the classes are run for a fraction of their default length, and their seconds, whose number grows with
the images they see, are scaled to it; a search that stops early on a real victim costs less.
"""

import platform
import time

import torch

from keyhole import models, rng
from keyhole.planning import registry
from keyhole.running.origin import hardware
from keyhole.types import Evidence

CLASSES, HOLDOUT = (10, 43, 200), 2_500
# of each inverter the length that is timed, and the fields whose product it is
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


def evidence(classes: int) -> Evidence:
    stream = rng.stream("benchmark", classes)
    images = torch.randint(0, 256, (HOLDOUT, 3, 32, 32), generator=stream, dtype=torch.uint8)
    labels = torch.arange(HOLDOUT) % classes
    net = models.build("convnet", classes, images, stream).eval()
    return Evidence(net, images[:0], labels[:0], {}, images, labels)


def length(name: str, given: dict[str, int]) -> int:
    """Images that a class's search sees, with these parameters and the defaults of the others."""
    known = {field: getattr(registry.load("inverters", name, given), field) for field in SHORT[name]}
    if "epochs" in known:
        known["epochs"] += known.pop("warmup", 0)
    total = 1
    for value in known.values():
        total *= value
    return total


def seconds(name: str, given: dict[str, int], found: Evidence) -> float:
    inverter = registry.load("inverters", name, given)
    start = time.process_time()
    inverter.invert(found, rng.stream("invert"))
    return time.process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{hardware()}, Python {platform.python_version()}, torch {torch.__version__}, one thread, CPU-seconds\n")
    print(f"{'classes':<16}{'timed':>8}" + "".join(f"{k:>10}" for k in CLASSES))
    for name, short in SHORT.items():
        seconds(name, short, evidence(2))  # what a first call pays
        factor = length(name, {}) / length(name, short)
        found = [factor * seconds(name, short, evidence(k)) for k in CLASSES]
        print(f"{name:<16}{f'1/{factor:.0f}':>8}" + "".join(f"{each:10.0f}" for each in found), flush=True)
