"""What every architecture in the folder must do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import keyhole.models
from keyhole import rng
from keyhole.models import build
from keyhole.types import Classifier, Images

NAMES = sorted(path.stem for path in Path(keyhole.models.__file__).parent.glob("*.py") if path.stem != "__init__")
CLASSES = 7


def noise(c: int, h: int, w: int, rows: int = 4) -> Images:
    return torch.randint(0, 256, (rows, c, h, w), dtype=torch.uint8, generator=rng.stream("images", c, h, w))


@pytest.fixture(params=NAMES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> Classifier:
    return build(name, CLASSES, noise(3, 32, 32), rng.stream("weights")).eval()


def test_all_founding_architectures_are_found():
    assert {"convnet", "mobilenet_v2", "preact_resnet18", "resnet18", "resnet20", "vgg11_bn", "vgg16_bn"} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (3, 24, 40), (3, 17, 19), (3, 64, 64)])
@pytest.mark.parametrize("training", [True, False])
def test_every_image_size_gives_finite_logits(name: str, shape: tuple[int, int, int], training: bool):
    images = noise(*shape)
    logits = build(name, CLASSES, images, rng.stream("weights")).train(training)(images)
    assert logits.shape == (4, CLASSES)
    assert logits.isfinite().all()


def test_levels_end_with_the_input_of_the_head(net: Classifier):
    images = noise(3, 32, 32)
    levels = net.levels(images)
    assert tuple(levels) == net.level_names
    assert net.level_names[-1] == "penultimate"
    assert levels["penultimate"].shape == (4, net.head.in_features)
    torch.testing.assert_close(net.head(levels["penultimate"]), net(images))


def test_no_stage_overwrites_the_level_before_it(net: Classifier):
    x = net.normalize(noise(3, 32, 32))
    for stage in net.stages.values():
        before = x.clone()
        after = stage(x)
        assert torch.equal(x, before)
        x = after


def test_bytes_and_floats_of_the_same_value_give_the_same_logits(net: Classifier):
    images = noise(3, 32, 32)
    assert torch.equal(net(images), net(images.float()))


def test_logits_depend_on_every_corner(net: Classifier):
    """A trigger in a corner must not fall off the edge of a strided or pooled map."""
    for top, left in [(0, 0), (0, 29), (29, 0), (29, 29)]:
        images = noise(3, 32, 32)
        triggered = images.clone()
        triggered[:, :, top : top + 3, left : left + 3] = 255
        assert not torch.equal(net(images), net(triggered))


def test_gradients_reach_the_images(net: Classifier):
    images = noise(3, 32, 32).float().requires_grad_()
    net(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()


def test_every_trained_parameter_gets_a_gradient(name: str):
    images = noise(3, 32, 32)
    net = build(name, CLASSES, images, rng.stream("weights")).train()
    net(images).square().sum().backward()
    without = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_same_stream_gives_the_same_weights_and_another_key_others(name: str, net: Classifier):
    again = build(name, CLASSES, noise(3, 32, 32), rng.stream("weights")).state_dict()
    other = build(name, CLASSES, noise(3, 32, 32), rng.stream("weights", 1)).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in net.state_dict().items())
    assert not torch.equal(net.head.weight, other["head.weight"])
    assert any(
        not torch.equal(again[key], other[key]) for key in again if key.startswith("stages") and "stem" not in key
    )


def test_torch_s_global_generator_is_left_alone(name: str):
    before = torch.get_rng_state()
    build(name, CLASSES, noise(3, 32, 32), rng.stream("weights"))
    assert torch.equal(before, torch.get_rng_state())


def test_weights_do_not_depend_on_torch_s_global_generator(name: str, net: Classifier):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(12345)
        again = build(name, CLASSES, noise(3, 32, 32), rng.stream("weights"))
    assert torch.equal(again.head.weight, net.head.weight)


def test_normalization_comes_from_the_images(net: Classifier):
    pixels = net.normalize(noise(3, 32, 32))
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_weights_survive_safetensors(name: str, net: Classifier):
    stored = load(save({key: value.contiguous() for key, value in net.state_dict().items()}))
    other = build(name, CLASSES, noise(3, 32, 32, rows=8), rng.stream("weights", 1)).eval()
    assert not torch.equal(other(noise(3, 32, 32)), net(noise(3, 32, 32)))
    other.load_state_dict(stored)
    assert torch.equal(other(noise(3, 32, 32)), net(noise(3, 32, 32)))
