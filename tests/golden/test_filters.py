"""Filters and the corruptions they use, against slow loops over single images, and on planted networks."""

import copy
import io

import numpy as np
import pytest
import torch
from matplotlib import colors
from PIL import Image
from scipy import ndimage
from torch import Generator, nn

from keyhole.filters import _corruptions
from keyhole.filters._corruptions import NAMES, SEVERITIES, corrupt
from keyhole.filters.ibd_psc import IBDPSC, normalizations
from keyhole.filters.scale_up import ScaleUp
from keyhole.filters.strip import STRIP
from keyhole.filters.teco import TeCo, breaking_points
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

SIDE, CLASSES, DEPTH = 12, 4, 4


def pictures(count: int, purpose: str, shape: tuple[int, ...] = (3, SIDE, SIDE)) -> torch.Tensor:
    """Smooth blobs of all brightnesses with a little noise."""
    rng = stream("filters", purpose)
    coarse = torch.rand((count, shape[0], 4, 4), generator=rng) * 255
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return (smooth + 10 * torch.randn(smooth.shape, generator=rng)).clamp(0, 255).round().to(torch.uint8)


def layered() -> Classifier:
    """Four linear layers with batch normalization on the means of 2 x 2 blocks, all random, in float64."""
    rng = stream("filters", "net")
    widths = [12, 16, 16, 16, 16]
    stages = {"blocks": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())}
    for i in range(DEPTH):
        last = "penultimate" if i == DEPTH - 1 else f"layer{i}"
        stages[last] = nn.Sequential(nn.Linear(widths[i], widths[i + 1]), nn.BatchNorm1d(widths[i + 1]), nn.ReLU())
    net = Classifier(stages, nn.Linear(16, CLASSES), 3).double().eval()
    with torch.no_grad():
        for tensor in (*net.stages.parameters(), *net.head.parameters()):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) * 0.5)
        for layer in normalizations(net):
            layer.weight.add_(1)
            layer.running_mean.copy_(torch.randn(16, generator=rng))
            layer.running_var.copy_(1 + torch.rand(16, generator=rng))
    return net


def case(holdout: int = 60) -> Evidence:
    net, images = layered(), pictures(holdout, "holdout")
    labels = net(images).argmax(1) if holdout else torch.zeros(0, dtype=torch.int64)
    return Evidence(net, images[:2], labels[:2], {}, images, labels)


def label(net: nn.Module, image: np.ndarray) -> int:
    with torch.no_grad():
        return int(net(torch.from_numpy(np.asarray(image, dtype=np.float64))[None]).argmax())


# --- what all filters have in common

FILTERS = {
    "scale_up": ScaleUp(),
    "scale_up_limited": ScaleUp(variant="data_limited"),
    "teco": TeCo(calibration=20),
    "teco_released": TeCo(calibration=20, variant="released"),
    "ibd_psc": IBDPSC(factor=2.0),
    "ibd_psc_released": IBDPSC(factor=2.0, variant="released"),
    "strip": STRIP(overlays=5),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_score_does_not_depend_on_what_else_is_screened(name):
    evidence, images, others = case(), pictures(6, "six"), pictures(9, "others")
    alone = FILTERS[name].screen(evidence, images, stream("s"))
    beside = FILTERS[name].screen(evidence, torch.cat([others, images]), stream("s"))
    assert torch.allclose(alone.scores, beside.scores[9:], atol=1e-6)
    assert torch.equal(alone.flagged, beside.flagged[9:])


@pytest.mark.parametrize("name", ["scale_up_limited", "teco", "ibd_psc"])
def test_without_a_holdout_the_error_says_so(name):
    with pytest.raises(ValueError, match="hold-out"):
        FILTERS[name].screen(case(holdout=0), pictures(3, "three"), stream("s"))


# --- SCALE-UP


def shares(net: nn.Module, images: torch.Tensor) -> np.ndarray:
    found = []
    for image in images.numpy().astype(np.float64):
        kept = [label(net, np.minimum(image * n, 255)) == label(net, image) for n in (3, 5, 7, 9, 11)]
        found.append(sum(kept) / 5)
    return np.array(found)


def test_scale_up_is_the_share_of_scales_that_keep_the_label():
    evidence, images = case(), pictures(40, "incoming")
    expected = shares(evidence.net, images)
    found = ScaleUp().screen(evidence, images, stream("s"))
    assert len(set(expected)) > 2
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.flagged, expected > 0.5)


def test_limited_scale_up_standardizes_by_the_predicted_class():
    evidence, images = case(), pictures(40, "incoming")
    clean, classes = shares(evidence.net, evidence.holdout_images), evidence.holdout_labels.numpy()
    expected = []
    for image, share in zip(images.numpy(), shares(evidence.net, images), strict=True):
        own = clean[classes == label(evidence.net, image)]
        own = own if len(own) > 1 and own.std() > 0 else clean
        expected.append((share - own.mean()) / own.std())
    found = ScaleUp(variant="data_limited").screen(evidence, images, stream("s"))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.flagged, np.array(expected) > 0.5)


class Channels(nn.Module):
    """The means of the channels, the first with an advantage once all are white, and a corner of checks."""

    def forward(self, x):
        corner = x[:, :, -2:, -2:] * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        means = x.mean((2, 3)) + torch.tensor([0.5, 0.0, 0.0])
        return torch.cat([means, corner.sum((1, 2, 3))[:, None]], dim=1)


def channel_net() -> Classifier:
    head = nn.Linear(4, 4)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
        head.bias.zero_()
    return Classifier({"penultimate": Channels()}, head, 3).eval()


def test_scale_up_finds_a_trigger_that_outlives_overexposure():
    images = torch.randint(30, 80, (20, 3, 8, 8), generator=stream("c"), dtype=torch.uint8)
    images[:, 1] += 60  # class 1
    triggered = images.clone()
    triggered[:, :, -2:, -2:] = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)
    evidence = Evidence(channel_net(), images, torch.ones(20, dtype=torch.int64), {}, images, torch.ones(20).long())
    found = ScaleUp().screen(evidence, torch.cat([images, triggered]), stream("s"))
    assert not found.flagged[:20].any()
    assert found.flagged[20:].all()
    assert (found.scores[20:] == 1).all()
    limited = ScaleUp(variant="data_limited").screen(evidence, triggered, stream("s"))
    assert limited.scores.isfinite().all()  # no hold-out image of the predicted class, and no deviation at all
    assert limited.flagged.all()


# --- TeCo


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_teco_is_the_deviation_of_the_first_severity_that_changes_the_label(variant):
    evidence, images = case(), pictures(40, "incoming")
    best = evidence.net(images).topk(2).values
    images = images[(best[:, 0] - best[:, 1]).argsort()[:4]]  # the least sure, whose labels do change
    rng = stream("s")
    chosen = torch.randperm(60, generator=rng)[:6]
    seeds = torch.randint(2**62, (15, 5), generator=rng)

    def score(image: torch.Tensor) -> float:
        first, latest = [], image
        for k, name in enumerate(NAMES):
            labels = [label(evidence.net, image)]
            for s in SEVERITIES:
                source = image if variant == "paper" else latest
                latest = corrupt(source[None], name, s, Generator().manual_seed(int(seeds[k, s - 1])))[0]
                labels.append(label(evidence.net, latest))
            first.append(next((s for s in SEVERITIES if labels[s] != labels[0]), 6))
        return float(np.std(first))

    expected = np.array([score(image) for image in images])
    bar = np.quantile([score(image) for image in evidence.holdout_images[chosen]], 0.8)
    found = TeCo(calibration=6, fpr=0.2, variant=variant).screen(evidence, images, stream("s"))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.flagged, expected > bar + 1e-6)
    assert len(set(expected)) > 1


class Bright(nn.Module):
    def forward(self, x):
        brightness = x.mean((1, 2, 3)) * 0.25 * 255 + 0.5 * 255  # the normalization undone
        return torch.stack([torch.full_like(brightness, 130.0), brightness], dim=1)


def test_teco_breaking_points_by_hand():
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    net = Classifier({"penultimate": Bright()}, head, 3).eval()
    gray = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)  # 30 below the border; brightness adds 13, 26, 38 …
    found = breaking_points(net, gray, torch.arange(75).view(15, 5), False)[0]
    points = dict(zip(NAMES, found.tolist(), strict=True))
    assert points["brightness"] == 3
    assert [points[name] for name in ("contrast", "defocus_blur", "glass_blur", "pixelate", "zoom_blur")] == [6] * 5


def test_a_label_that_never_changes_scores_zero():
    evidence = case()
    with torch.no_grad():
        evidence.net.head.bias[2] += 1e6
    found = TeCo(calibration=5).screen(evidence, pictures(5, "five"), stream("s"))
    assert (found.scores == 0).all()
    assert not found.flagged.any()


# --- IBD-PSC


def probabilities(net: Classifier, image: np.ndarray, count: int, factor: float) -> np.ndarray:
    """The last `count` layers amplified, one image, no batch normalization of torch's."""
    x = (image.astype(np.float64) / 255 - 0.5) / 0.25
    x = x.reshape(3, 2, SIDE // 2, 2, SIDE // 2).mean((2, 4)).ravel()
    layers = [stage for name, stage in net.stages.items() if name != "blocks"]
    for i, (linear, norm, _) in enumerate(layers):
        loud = factor if i >= DEPTH - count else 1.0
        x = linear.weight.detach().numpy() @ x + linear.bias.detach().numpy()
        x = (x - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        x = np.maximum(x * loud * norm.weight.detach().numpy() + loud * norm.bias.detach().numpy(), 0)
    logits = net.head.weight.detach().numpy() @ x + net.head.bias.detach().numpy()
    found = np.exp(logits - logits.max())
    return found / found.sum()


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("models", [2, 5])
@pytest.mark.parametrize("start", [1, 2, 3, DEPTH])
def test_ibd_psc_is_the_mean_probability_of_the_original_label(variant, models, start):
    evidence, images, factor = case(), pictures(8, "incoming").numpy(), 4.0
    predicted = [probabilities(evidence.net, image, 0, 1.0).argmax() for image in evidence.holdout_images.numpy()]
    np.testing.assert_array_equal(predicted, evidence.holdout_labels)

    def error(count: int) -> float:
        pairs = zip(evidence.holdout_images.numpy(), predicted, strict=True)
        return float(np.mean([probabilities(evidence.net, x, count, factor).argmax() != y for x, y in pairs]))

    errors = [error(count) for count in range(1, DEPTH + 1)]
    bound = 0.0 if start == 1 else max(errors[: start - 1])  # the first to exceed it is `start`, or none does
    first = next((count for count, found in enumerate(errors, start=1) if found > bound), DEPTH)
    if variant == "paper":
        counts = [count for count in range(first, first + models) if count <= DEPTH]
    else:
        counts = [min(count + 1, DEPTH) for count in range(first, first + models)]
    expected = []
    for image in images:
        own = probabilities(evidence.net, image, 0, 1.0).argmax()
        expected.append(np.mean([probabilities(evidence.net, image, count, factor)[own] for count in counts]))
    method = IBDPSC(factor=factor, models=models, error=bound, threshold=0.7, variant=variant)
    found = method.screen(evidence, torch.from_numpy(images), stream("s"))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.flagged, np.array(expected) > 0.7)


def test_ibd_psc_finds_labels_of_large_margin():
    """A wide margin to the label survives; a narrow one falls to the class that grows fastest."""
    norm = nn.BatchNorm1d(2).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 1.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0]))
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2) * 4)
        head.bias.copy_(torch.tensor([1.0, 0.0]))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False), norm)
    with torch.no_grad():
        pool[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
    net = Classifier({"penultimate": pool}, head, 1).eval()
    weak = torch.full((9, 1, 4, 4), 180, dtype=torch.uint8)  # 0.82: logits 4.3 and 4, amplified 5.9 and 6
    strong = torch.full((9, 1, 4, 4), 255, dtype=torch.uint8)  # 2: 9 and 4, amplified 13 and 6
    evidence = Evidence(net, weak, torch.zeros(9).long(), {}, weak, torch.zeros(9, dtype=torch.int64))
    found = IBDPSC().screen(evidence, torch.cat([weak, strong]), stream("s"))
    assert found.flagged.tolist() == [False] * 9 + [True] * 9


def test_ibd_psc_needs_batch_normalization():
    evidence = case()
    bare = copy.deepcopy(evidence.net)
    for stage in bare.stages.values():
        if len(stage) == 3:
            stage[1] = nn.LayerNorm(16).double()
    plain = Evidence(bare, evidence.images, evidence.labels, {}, evidence.holdout_images, evidence.holdout_labels)
    with pytest.raises(ValueError, match="batch normalization"):
        IBDPSC().screen(plain, pictures(2, "two"), stream("s"))


# --- corruptions


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 40, 64), (5, 12, 9), (1, 28, 28), (3, 2, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_corruptions_keep_shape_and_type_and_follow_their_stream(name, shape):
    images = pictures(3, "shapes", shape)
    before = images.clone()
    for severity in (1, 5):
        found = corrupt(images, name, severity, stream("c"))
        torch.manual_seed(severity)
        assert found.shape == images.shape
        assert found.dtype == torch.uint8
        assert torch.equal(found, corrupt(images, name, severity, stream("c")))
        one = corrupt(images[1:2], name, severity, stream("c"))[0].int()
        assert (one - found[1].int()).abs().max() <= 1  # an image alone: the same but for the order of float sums
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_corruptions_grow_with_severity(name):
    images = pictures(20, "severity", (3, 32, 32))
    repeats = 12 if name == "snow" else 1  # few flakes on an image: only their mean is in order
    found = [torch.cat([corrupt(images, name, s, stream("c", i)) for i in range(repeats)]).double() for s in SEVERITIES]
    clean = images.repeat(repeats, 1, 1, 1).double()
    changes = [float((x - clean).abs().mean()) for x in found]
    assert changes[0] > 0
    if name == "glass_blur":  # severities 1 to 3 shuffle alike, 4 and 5 twice; the blur takes a little back
        assert min(changes[3:]) > 1.2 * max(changes[:3])
    elif name == "frost":  # brighter, then darker: what is left of the image is in order, not the change
        likeness = [np.corrcoef(x.flatten(), clean.flatten())[0, 1] for x in found]
        assert likeness == sorted(likeness, reverse=True)
    else:
        assert changes == sorted(changes)


def test_noise_has_the_stated_size():
    gray = torch.full((1, 3, 200, 200), 128, dtype=torch.uint8)
    level = 128 / 255
    normal = corrupt(gray, "gaussian_noise", 3, stream("c")).double() / 255 - level
    assert float(normal.std()) == pytest.approx(0.08, rel=0.02)
    shot = corrupt(gray, "shot_noise", 5, stream("c")).double() / 255
    assert float(shot.std()) == pytest.approx((level / 50) ** 0.5, rel=0.02)
    assert float(shot.mean()) == pytest.approx(level, rel=0.01)
    impulse = corrupt(gray, "impulse_noise", 5, stream("c"))
    assert float((impulse != 128).double().mean()) == pytest.approx(0.07, rel=0.1)
    assert float((impulse == 255).sum() / (impulse != 128).sum()) == pytest.approx(0.5, abs=0.05)


def near(found: torch.Tensor, expected: np.ndarray, most: float = 0.51) -> None:
    """Equal but for the rounding to whole pixel values."""
    assert np.abs(found.numpy().astype(np.float64) - np.clip(expected, 0, 255)).max() <= most


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_defocus_and_zoom_are_scipys(severity):
    image = pictures(1, "scipy", (3, 32, 32))[0]
    pixels = image.numpy().astype(np.float64)
    radius, alias = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    y, x = np.mgrid[-3:4, -3:4]
    bell = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    disk = ndimage.convolve((x**2 + y**2 <= radius**2).astype(float), np.outer(bell, bell), mode="constant")
    expected = [ndimage.convolve(c, disk / disk.sum(), mode="nearest") for c in pixels]
    near(corrupt(image[None], "defocus_blur", severity, stream("c"))[0], np.array(expected))
    total = pixels.copy()
    for zoom in np.linspace(1, 1 + 0.05 * severity, 11):
        grid = 15.5 + (np.mgrid[0:32, 0:32] - 15.5) / zoom
        total += np.array([ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in pixels])
    near(corrupt(image[None], "zoom_blur", severity, stream("c"))[0], total / 12)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_and_jpeg_are_pillows(severity):
    image = pictures(1, "pillow", (3, 32, 32))[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    side = int(32 * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])
    expected = picture.resize((side, side), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    near(corrupt(image[None], "pixelate", severity, stream("c"))[0], np.asarray(expected).transpose(2, 0, 1), 1)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
    expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1).astype(float)
    assert np.abs(corrupt(image[None], "jpeg_compression", severity, stream("c"))[0].numpy() - expected).mean() < 2


def test_brightness_raises_the_value_and_contrast_shrinks_to_the_channels_mean():
    images = pictures(3, "hsv", (3, 16, 16))
    images[0, :, :4] = 0
    pixels = images.numpy().transpose(0, 2, 3, 1) / 255
    hsv = colors.rgb_to_hsv(pixels)
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.2, 1)
    near(corrupt(images, "brightness", 4, stream("c")), 255 * colors.hsv_to_rgb(hsv).transpose(0, 3, 1, 2))
    x = images.numpy().astype(np.float64)
    mean = x.mean((2, 3), keepdims=True)
    near(corrupt(images, "contrast", 4, stream("c")), mean + 0.3 * (x - mean))


def test_motion_blur_smears_to_one_side_along_a_line():
    point = torch.zeros((1, 1, 33, 33), dtype=torch.uint8)
    point[..., 16, 16] = 255
    found = corrupt(point, "motion_blur", 5, stream("c"))[0, 0].double()
    axis = torch.arange(33.0)[:, None]
    y, x = (found * axis).sum() / found.sum() - 16, (found.T * axis).sum() / found.sum() - 16
    rows, columns = np.nonzero(found.numpy() > 2)
    angle = np.arctan2(float(y), float(x))
    distance = (columns - 16) * np.sin(angle) - (rows - 16) * np.cos(angle)
    assert np.hypot(float(y), float(x)) == pytest.approx(2.5 * (2 / np.pi) ** 0.5, rel=0.25)  # half a Gaussian's mean
    assert np.abs(distance).max() < 1.2


def test_unknown_corruptions_and_severities_are_refused():
    with pytest.raises(ValueError, match="gaussian_noise"):
        corrupt(pictures(1, "one"), "rain", 1, stream("c"))
    with pytest.raises(ValueError, match="1 to 5"):
        corrupt(pictures(1, "one"), "fog", 6, stream("c"))
    assert len(NAMES) == 15
    assert all(len(constants) == 5 for _, constants in _corruptions.CORRUPTIONS.values())
