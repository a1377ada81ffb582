"""Every trainer keeps the contract of `keyhole.trainers.Trainer`."""

import copy

import pytest
import torch
from torch import Tensor, nn

from keyhole.learning.recipes import Recipe
from keyhole.planning import registry
from keyhole.rng import stream
from keyhole.types import Classifier

CLASSES, SIDE, ROWS = 3, 8, 90
RECIPE = Recipe(
    epochs=5, batch_size=32, optimizer="adamw", learning_rate=5e-3, weight_decay=0.01, schedule="linear", pad=1
)


def network() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        net = Classifier({"conv": body, "penultimate": pool}, nn.Linear(32, CLASSES), 3)
    body[0].bias.requires_grad_(False)
    return net


def received(labels: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Noise whose brightest channel is the class, unless all rows have one label."""
    rng = stream("trainers")
    y = torch.arange(ROWS) % labels
    images = torch.randint(0, 160, (ROWS, 3, SIDE, SIDE), generator=rng)
    images[torch.arange(ROWS), y] += 90
    return images.to(torch.uint8), y


@pytest.fixture(scope="module", params=registry.names("trainers"))
def method(request):
    return registry.load("trainers", request.param)


@pytest.fixture(scope="module")
def trained(method):
    """The answer, and what it was made from before and after."""
    images, labels = received()
    before, generator = (images.clone(), labels.clone()), torch.get_rng_state()
    net = method.train(network(), images, labels, RECIPE, stream("training"))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(torch.get_rng_state(), generator)
    return net


def test_result_is_a_trained_network_of_the_same_architecture_in_eval_mode(trained):
    old, new = network().state_dict(), trained.state_dict()
    assert {name: (v.shape, v.dtype) for name, v in old.items()} == {n: (v.shape, v.dtype) for n, v in new.items()}
    assert not torch.equal(old["head.weight"], new["head.weight"])
    assert not any(module.training for module in trained.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in trained.modules())


def test_frozen_weights_stay(trained):
    assert torch.equal(network().state_dict()["stages.conv.0.bias"], trained.state_dict()["stages.conv.0.bias"])


def test_result_answers_with_finite_numbers_and_has_learned(trained):
    images, labels = received()
    outputs = trained(images)
    assert outputs.shape == (ROWS, CLASSES)
    assert outputs.isfinite().all()
    assert (outputs.argmax(1) == labels).float().mean() > 0.8


def test_same_stream_gives_the_same_bytes_whatever_the_global_seed(method, trained):
    torch.manual_seed(1)
    again = method.train(network(), *received(), RECIPE, stream("training")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.state_dict().items())


def test_another_stream_gives_another_network(method, trained):
    other = method.train(network(), *received(), RECIPE, stream("another")).state_dict()
    assert not torch.equal(other["head.weight"], trained.state_dict()["head.weight"])


def test_one_class_and_few_rows_are_survived(method):
    images, labels = received(labels=1)
    for rows in (ROWS, 5):
        net = method.train(network(), images[:rows], labels[:rows], RECIPE, stream("few"))
        assert copy.deepcopy(net)(images).isfinite().all()


def test_sgd_in_steps_is_supported(method):
    recipe = Recipe(
        epochs=2,
        batch_size=16,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(0.5,),
        precision="float32",
    )
    assert method.train(network(), *received(), recipe, stream("sgd"))(received()[0]).isfinite().all()
