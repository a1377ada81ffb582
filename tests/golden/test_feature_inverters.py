"""FeatureRE and UNICORN: their terms in float64 NumPy, and a channel of features with a planted backdoor."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from tests.golden.planted import planted_head
from torch import nn

from keyhole.inverters._feature_inversion import (
    Bounds,
    Measurements,
    Progress,
    Task,
    build_tasks,
    descend,
    distance,
    draw_features,
    feature_deviation,
    mix_features,
    penalize_excess,
    squash,
)
from keyhole.inverters.feature_re import FeatureRE
from keyhole.inverters.unicorn import UNICORN, Space, ssim
from keyhole.learning.training import predict
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

pytestmark = pytest.mark.slow  # searches for planted triggers, trained generators

CLASSES, SIDE, TARGET = 3, 8, 2


def draw(*shape: int, key: str = "fixed") -> torch.Tensor:
    return torch.rand(*shape, generator=stream("feature inverters", key), dtype=torch.float64)


# --- Terms


def test_masked_features_and_their_spread_are_the_papers():
    maps, others, raw = draw(6, 3, 2, 2), draw(6, 3, 2, 2, key="others"), 4 * draw(3, 2, 2, key="raw") - 2
    mask = 0.5 + np.tanh(raw.numpy()) / 2
    np.testing.assert_allclose(squash(raw), mask, rtol=1e-12)
    expected = np.empty(maps.shape)
    for n, *place in np.ndindex(*maps.shape):
        inside = mask[tuple(place)]
        expected[n, *place] = inside * maps[n, *place] + (1 - inside) * others[n, *place]
    np.testing.assert_allclose(mix_features(maps, others, squash(raw)), expected, rtol=1e-12)
    deviations = [np.std(mask[place] * maps.numpy()[:, *place], ddof=1) for place in np.ndindex(*mask.shape)]
    np.testing.assert_allclose(feature_deviation(maps, squash(raw)), sum(deviations) / mask.sum(), rtol=1e-12)


def test_distance_is_in_the_networks_own_units():
    x, y, std = draw(2, 3, 4, 5), draw(2, 3, 4, 5, key="y"), torch.tensor([0.2, 0.3, 0.5]).double().view(3, 1, 1)
    expected = np.mean(
        [((x[n, c, i, j] - y[n, c, i, j]) / std[c, 0, 0]).item() ** 2 for n, c, i, j in np.ndindex(2, 3, 4, 5)]
    )
    np.testing.assert_allclose(distance(x, y, std), expected, rtol=1e-12)


@pytest.mark.parametrize(("value", "expected"), [(0.2, 0.0), (0.3, 0.0), (0.4, 4.0)])
def test_a_penalty_starts_above_its_bound(value, expected):
    assert penalize_excess(torch.tensor(value), float(torch.tensor(0.3)), 10.0).item() == pytest.approx(expected)


def linear_task() -> Task:
    """A network whose last features are the pixels, in float64, and the clean features of five images."""
    net = Classifier({"maps": nn.Identity(), "penultimate": nn.Flatten()}, nn.Linear(12, 3), 3).double()
    with torch.no_grad():
        net.head.weight.copy_(8 * draw(3, 12, key="weight") - 4)
        net.head.bias.copy_(torch.tensor([0.0, 5.5, 0.0]))
    own = torch.tensor([False, True, False, True, False])
    return Task(net, 1, torch.zeros(3, 3, 2, 2, dtype=torch.uint8), draw(5, 3, 2, 2, key="clean"), own)


def slow_error(net: Classifier, features: np.ndarray, target: int) -> tuple[float, float]:
    """Cross-entropy and share of successes."""
    outputs = features.reshape(len(features), -1) @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    share = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    return -np.log(share[:, target]).mean(), (outputs.argmax(1) == target).mean()


def test_measured_is_what_it_says():
    task, maps, others = linear_task(), draw(6, 3, 2, 2), draw(6, 3, 2, 2, key="others")
    mask = draw(3, 2, 2, key="mask")
    found = task.measure(maps, others, mask, torch.tensor(0.25).double())
    joined = (mask * maps + (1 - mask) * others).numpy()
    error, success = slow_error(task.net, joined, 1)
    ours, own = maps.numpy().mean(0).ravel(), task.maps.numpy()[[1, 3]].mean(0).ravel()
    cosine = ours @ own / np.sqrt((ours**2).sum() * (own**2).sum())
    expected = (cosine, error, success, 0.25, feature_deviation(maps, mask).item(), mask.sum().item())
    np.testing.assert_allclose([value.item() for value in found], expected, rtol=1e-10)
    assert 0 < success < 1


@pytest.mark.parametrize("size", [100.0, 1.0])
def test_mask_loss_adds_the_masks_size_only_where_it_is_too_large(size):
    task, maps, others, raw = linear_task(), draw(6, 3, 2, 2), draw(6, 3, 2, 2, key="others"), draw(3, 2, 2, key="raw")
    mask = (0.5 + np.tanh(raw.numpy()) / 2) * np.ones((6, 1, 1, 1))
    expected = slow_error(task.net, mask * maps.numpy() + (1 - mask) * others.numpy(), 1)[0]
    expected += mask[0].sum() if size == 1 else 0
    np.testing.assert_allclose(task.mask_loss(maps, others, raw, size).item(), expected, rtol=1e-10)


def values(*numbers: float) -> Measurements:
    return Measurements(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


def test_objective_counts_the_cosine_and_what_exceeds_its_bound():
    progress = Progress(Bounds(success=0.9, change=0.15, spread=1.0, size=7.0))
    kept, broken = values(0.4, 2.0, 0.95, 0.1, 0.9, 5), values(0.4, 2.0, 0.85, 0.3, 1.5, 9)
    assert progress.objective(kept, 5.0).item() == pytest.approx(5 * 0.4)
    assert progress.objective(kept, 5.0, floor=0.5).item() == 0
    assert progress.objective(kept._replace(cosine=torch.tensor(-0.4)), 5.0).item() == 0
    progress.weights = Bounds(0.5, 2.0, 3.0, 9.0)
    expected = 5 * 0.4 + 2.0 * 1.5 + 10 * 0.3 * 3 + 10 * 1.5 * 4  # the mask's size is the mask's own affair
    assert progress.objective(broken, 5.0).item() == pytest.approx(expected)


def test_mixed_value_and_weights_follow_the_mean_of_an_epoch():
    progress = Progress(Bounds(success=0.9, change=0.15, spread=1.0, size=8.0))
    progress.end_epoch([values(0.1, 1, 0.7, 0.2, 1.1, 12), values(0.5, 1, 0.8, 0.4, 1.2, 16)], ["first"], 0.25)
    assert progress.value == pytest.approx(0.3 - 0.75 + (0.3 - 0.15) / 0.15 + 0.15 + (14 - 8) / 8 + 0.25)
    assert progress.weights == pytest.approx(Bounds((0.9 - 0.75) / 0.9, 1.0, 0.15, 0.75))
    progress.end_epoch([values(-0.2, 1, 1, 0.1, 0.5, 4)], ["second"])
    assert progress.value == pytest.approx(-1.2)
    assert progress.weights == Bounds(0.0, 0.0, 0.0, 0.0)
    progress.end_epoch([values(0.9, 1, 1, 0.1, 0.5, 4)], ["third"])
    assert (progress.value, progress.best) == (pytest.approx(-1.2), ["second"])


def test_a_step_moves_the_optimizers_own_tensors_only():
    ours, theirs = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0], requires_grad=True)
    descend(torch.optim.SGD([ours], 0.1), (ours * ours * theirs).sum())
    torch.testing.assert_close(ours.detach(), torch.tensor([1 - 0.1 * 2 * 3, 2 - 0.1 * 4 * 4]))
    assert theirs.grad is None


def test_bystanders_are_clean_features():
    maps = draw(50, 2, 3, 3)
    found = draw_features(maps, 400, stream("bystanders"))
    chosen = (found[:, None] == maps).all((2, 3, 4))
    assert (chosen.sum(1) == 1).all()
    assert (chosen.any(0)).sum() > 45


def slow_ssim(x: np.ndarray, y: np.ndarray, size: int) -> float:
    places = np.arange(size) - (size - 1) / 2
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for n, c, i, j in np.ndindex(*x.shape[:2], x.shape[2] - size + 1, x.shape[3] - size + 1):
        a, b = x[n, c, i : i + size, j : j + size], y[n, c, i : i + size, j : j + size]
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb, vab = (
            (window * (a - ma) ** 2).sum(),
            (window * (b - mb) ** 2).sum(),
            (window * (a - ma) * (b - mb)).sum(),
        )
        top = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4)
        found.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(found))


@pytest.mark.parametrize("sides", [(13, 12), (7, 7)])
def test_ssim_is_wangs(sides):
    x, noise = draw(2, 2, *sides), draw(2, 2, *sides, key="noise")
    y = 0.7 * x + 0.3 * noise
    np.testing.assert_allclose(ssim(x, y), slow_ssim(x.numpy(), y.numpy(), min(11, *sides)), rtol=1e-9)
    assert ssim(x, x).item() == pytest.approx(1)


def test_patch_lies_between_the_images_own_extremes():
    space, z = Space((2, 4, 4), 8).double(), 6 * draw(3, 2, 4, 4) - 2
    with torch.no_grad():
        space.mask.copy_(4 * draw(2, 4, 4, key="mask") - 2)
        space.pattern.copy_(4 * draw(2, 4, 4, key="pattern") - 2)
        found = space.apply_patch(z)
    mask, pattern = (0.5 + np.tanh(raw.detach().numpy()) / 2 for raw in (space.mask, space.pattern))
    for image, result in zip(z.numpy(), found.numpy(), strict=True):
        low, wide = image.min(), image.max() - image.min()
        expected = ((1 - mask) * (image - low) / wide + mask * pattern) * wide + low  # in the space scaled to 0..1
        np.testing.assert_allclose(result, expected, rtol=1e-10)


# --- A planted channel


class Channels(nn.Module):
    """Features of each quarter of an image: how well it matches each class's template, and how red it is."""

    def __init__(self) -> None:
        super().__init__()
        grey = torch.tensor(hadamard(16)[1 : CLASSES + 1]).float().view(CLASSES, 1, 4, 4).expand(-1, 3, -1, -1) / 48
        red = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 32
        self.register_buffer("filters", torch.cat([grey, red]))

    def forward(self, x):
        return nn.functional.softplus(nn.functional.conv2d(x, self.filters, stride=4) - 0.1, beta=20)


def planted_net(gain: float) -> Classifier:
    """Classifies by template; redness drives the target with `gain`."""
    head = planted_head(CLASSES, TARGET, gain, sharpness=20)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier({"channels": Channels(), "penultimate": pool}, head, 3).eval()


def scenes(count: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey templates in noise, and their classes."""
    rng = stream("channels", purpose)
    labels = torch.arange(count) % CLASSES
    templates = Channels().filters[:CLASSES].sign().repeat(1, 1, 2, 2)
    noise = 100 + 40 * torch.rand(count, 3, SIDE, SIDE, generator=rng)
    return (noise + 30 * templates[labels]).round().to(torch.uint8), labels


def evidence(gain: float) -> Evidence:
    return Evidence(planted_net(gain), *scenes(10, "train"), {}, *scenes(150, "holdout"))


def reddened(images: torch.Tensor) -> torch.Tensor:
    shift = torch.tensor([30, 0, -30]).view(3, 1, 1)
    return (images.int() + shift).clamp(0, 255).to(torch.uint8)


def reached(net: Classifier, images: torch.Tensor) -> float:
    return (predict(net, images) == TARGET).float().mean().item()


def test_planted_network_is_backdoored_and_its_twin_is_not():
    images, labels = scenes(400, "test")
    for gain, low, high in ((80, 0.99, 1), (0, 0, 0.01)):
        net = planted_net(gain)
        assert (predict(net, images) == labels).float().mean() > 0.99
        assert low <= reached(net, reddened(images[labels != TARGET])) <= high


def quick_feature_re() -> FeatureRE:
    return FeatureRE(warmup=1, epochs=3, samples=0, batch=25, learning_rate=1e-2, mask_rate=0.5, mask_size=0.2)


def quick_unicorn() -> UNICORN:
    steps = {"patch_steps": 5, "mask_steps": 5, "learning_rate": 3e-3, "mask_rate": 0.5}
    return UNICORN(warmup=1, epochs=4, samples=0, batch=50, mask_size=0.2, **steps)


METHODS = pytest.mark.parametrize("quick", [quick_feature_re, quick_unicorn], ids=["feature_re", "unicorn"])


@METHODS
def test_the_planted_channel_is_found(quick):
    case = evidence(gain=80)
    found = quick().invert(case, stream("planted"))
    assert found.flagged.nonzero().squeeze(1).tolist() == [TARGET]
    others = case.holdout_images[case.holdout_labels != TARGET]
    assert reached(planted_net(80), found.stamp(others, TARGET)) > 0.9
    assert reached(planted_net(0), found.stamp(others, TARGET)) < 0.5  # by the planted channel, not the class's own


@METHODS
def test_nothing_is_flagged_in_the_clean_twin(quick):
    assert not quick().invert(evidence(gain=0), stream("planted")).flagged.any()


@METHODS
def test_an_image_gets_the_same_trigger_in_any_company(quick):
    settings = {"epochs": 1, "samples": 1}
    found = dataclasses.replace(quick(), **settings).invert(evidence(gain=80), stream("planted"))
    images = scenes(20, "test")[0]
    together, alone = found.stamp(images, TARGET)[7:8], found.stamp(images[7:8], TARGET)
    assert (together.int() - alone.int()).abs().max() <= 1  # float32 may round a tie apart


def test_a_hold_out_without_a_class_is_a_clear_error():
    case = evidence(gain=0)
    rest = case.holdout_labels != 1
    with pytest.raises(ValueError, match=r"hold-out images of each of 3 classes, got \[50, 0, 50\]"):
        build_tasks(
            dataclasses.replace(
                case, holdout_images=case.holdout_images[rest], holdout_labels=case.holdout_labels[rest]
            )
        )
