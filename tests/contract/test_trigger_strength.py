"""How strong the trigger of every attack found in the folder is, and whether BTI-DBF's generator may write it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional

from keyhole import models, rng
from keyhole.inverters.bti_dbf import BTIDBF
from keyhole.learning.decoupling import image_gap
from keyhole.learning.recipes import resolve
from keyhole.parameters import rules
from keyhole.planning import registry

CLASSES = 10
POISONING = [name for name in registry.names("attacks") if name != "none"]
STEPS = {"dynamic": 120, "issba": 20}  # batches to learn a trigger that is as sparse as it should be; 2 for all others
EPOCHS = {"input_aware": 10}  # the same, for a trigger that is learned with the victim; 1 for all others
BEYOND = {  # times the bound, at most
    "adap_patch": 1.6,  # at test time; two opaque patches of 50 and 36 pixels. What its training rows carry is within
    "dynamic": 1.6,  # about the bound; on CIFAR-10 0.19 and 0.31, for two random streams of its networks
}
MEAN, SPREAD = 120, 64  # of CIFAR-10's pixels


def photographs():
    """Parts of scikit-learn's two photographs as images of 32 x 32, with the brightness and contrast of CIFAR-10."""
    parts = []
    for photo in load_sample_images().images:
        x = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()
        parts.append(x.unfold(1, 128, 24).unfold(2, 128, 24).permute(1, 2, 0, 3, 4).flatten(0, 1))
    x = functional.avg_pool2d(torch.cat(parts), 4)
    x = MEAN + (x - x.mean()) * SPREAD / x.std()
    return x.round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def images():
    return photographs()


def trained(name, images):
    """The attack with what it crafts and what it learns beside a victim."""
    given = {"steps": STEPS.get(name, 2), "epochs": 1}
    attack = registry.load(
        "attacks", name, {key: given[key] for key in given.keys() & rules(registry.method_class("attacks", name))}
    )
    labels, net = torch.arange(len(images)) % CLASSES, models.build("convnet", CLASSES, images, rng.stream("net"))
    if attack.crafted_from != "nothing":
        surrogate = net.eval() if attack.crafted_from == "surrogate" else None
        attack = attack.equipped(attack.craft(images, labels, surrogate, rng.stream("craft")))
    if attack.controls == "training":
        recipe = resolve("cpu", "photographs", False, {"epochs": EPOCHS.get(name, 1), "batch_size": 80})
        chosen = attack.poison(images, labels, 0.1, rng.stream("poison"))
        learned = attack.train(net, images, labels, chosen, recipe, rng.stream("train"))
        attack = attack.equipped({**attack.tensors, **learned})
    return attack


def gap(images, triggered):
    return image_gap(images.double() / 255, triggered.double() / 255).item()


@pytest.mark.slow  # some triggers are learned
@pytest.mark.parametrize("name", POISONING)
def test_trigger_is_within_the_bound_of_what_bti_dbf_writes(name, images):
    attack, bound = trained(name, images), BTIDBF().image_bound
    found = gap(images, attack.apply_trigger(images, rng.stream("trigger")))
    assert 0 < found <= bound * BEYOND.get(name, 1)
    if name == "adap_patch":
        assert gap(images, attack.plant(images, rng.stream("trigger"))) <= bound < found
