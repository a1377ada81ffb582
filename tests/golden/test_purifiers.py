"""Purifiers against slow implementations, and on a network with a planted backdoor."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.signal import correlate
from sklearn.decomposition import PCA
from torch import nn

from keyhole.learning.holdout import accuracy
from keyhole.learning.training import predict
from keyhole.purifiers import februus
from keyhole.purifiers.autoencoder import PATCH, Autoencoder, PatchAutoencoder, principal_patches
from keyhole.purifiers.februus import THRESHOLDS, Februus, fill_holes, find_level, grad_cam, heat_maps
from keyhole.purifiers.jpeg import JPEG
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

CLASSES, SIDE, TARGET = 4, 16, 2
NOTHING = torch.zeros(0, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
UNASKED = Classifier({"penultimate": nn.Flatten()}, nn.Linear(3 * SIDE * SIDE, CLASSES), 3)


def evidence(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Evidence:
    return Evidence(net, images[:0], labels[:0], {}, images, labels)


# --- JPEG

# the luminance table of the standard (ITU-T T.81, annex K.1)
LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]


@pytest.mark.parametrize("quality", [20, 60])
def test_jpeg_of_gray_blocks_is_a_quantized_cosine_transform(quality):
    images = torch.randint(0, 256, (5, 1, 8, 16), generator=stream("gray")).to(torch.uint8)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip(np.floor((np.array(LUMINANCE) * scale + 50) / 100), 1, 255)
    expected = np.zeros(images.shape)
    for i in range(5):
        for left in (0, 8):
            block = images[i, 0, :, left : left + 8].numpy() - 128.0
            coarse = np.round(dctn(block, norm="ortho") / steps) * steps
            expected[i, 0, :, left : left + 8] = np.clip(idctn(coarse, norm="ortho") + 128, 0, 255)
    found = JPEG(quality=quality).purify(evidence(UNASKED, *NOTHING), images, stream("none")).numpy()
    # libjpeg computes in integers: a coefficient on the edge between two steps may fall on either side
    assert np.mean(np.abs(found - expected) <= 1) > 0.9
    assert np.abs(found - images.numpy().astype(float)).mean() > 3


def test_jpeg_of_color_is_pillows_and_two_channels_are_two_gray_images():
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=stream("color")).to(torch.uint8).repeat_interleave(4, 2)
    images, method = images.repeat_interleave(4, 3), JPEG(quality=60)
    found = method.purify(evidence(UNASKED, *NOTHING), images, stream("none"))
    for one, image in zip(found, images, strict=True):
        memory = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(memory, "JPEG", quality=60)
        expected = torch.from_numpy(np.array(Image.open(memory))).permute(2, 0, 1)
        assert (one.int() - expected.int()).abs().max() <= 2
    two = method.purify(evidence(UNASKED, *NOTHING), images[:, :2], stream("none"))
    for channel in range(2):
        own = method.purify(evidence(UNASKED, *NOTHING), images[:, channel : channel + 1], stream("none"))
        assert torch.equal(two[:, channel : channel + 1], own)


def test_jpeg_rejects_a_quality_above_100():
    with pytest.raises(ValueError, match="quality: expected a whole number from 1 to 100, got 101"):
        JPEG(quality=101).purify(evidence(UNASKED, *NOTHING), NOTHING[0], stream("none"))


# --- autoencoder


def smooth(count: int, purpose: str, side: int = SIDE) -> torch.Tensor:
    """Color gradients: 4 x 4 pixels of them have few degrees of freedom."""
    corners = torch.rand(count, 3, 3, 3, generator=stream("smooth", purpose)) * 255
    images = nn.functional.interpolate(corners, (side, side), mode="bilinear", align_corners=True)
    return images.round().to(torch.uint8)


def stamped(images: torch.Tensor) -> torch.Tensor:
    """With a checkerboard in the corner."""
    images = images.clone()
    images[:, :, -4:, -4:] = 255 * ((torch.arange(4)[:, None] + torch.arange(4)) % 2).to(torch.uint8)
    return images


def untrained() -> Classifier:
    return Classifier({"penultimate": nn.Flatten()}, nn.Linear(3 * SIDE**2, CLASSES), 3)


def test_autoencoder_starts_as_the_principal_components_of_patches():
    images = torch.randint(0, 256, (30, 3, SIDE, SIDE), generator=stream("noise")).to(torch.uint8)

    def rows(x: np.ndarray) -> np.ndarray:
        """One patch a row."""
        x = x.reshape(-1, 3, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH)
        return x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * PATCH**2)

    pca = PCA(5, svd_solver="full").fit(rows(images.numpy() / 255))
    other = torch.randint(0, 256, (4, 3, SIDE, SIDE), generator=stream("other")).to(torch.uint8)
    expected = np.clip(255 * pca.inverse_transform(pca.transform(rows(other.numpy() / 255))), 0, 255)
    method = Autoencoder(epochs=0, code=5 / 48)
    found = method.purify(evidence(untrained(), images, torch.zeros(30).long()), other, stream("a"))
    assert np.abs(rows(found.numpy()) - expected).max() < 0.51
    repeated = method.purify(evidence(untrained(), images, torch.zeros(30).long()), other, stream("b"))
    assert torch.equal(found, repeated)  # the random weights are behind a layer of zeros


def test_autoencoder_is_these_convolutions():
    rng = stream("weights")
    net = PatchAutoencoder(torch.zeros(16, 2), torch.zeros(16), 3).double()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    x = torch.rand(1, 1, 6, 9, generator=rng, dtype=torch.float64)  # 2 x 3 patches with repeated borders
    weights = {name: value.detach().numpy() for name, value in net.named_parameters()}

    def convolved(maps: np.ndarray, name: str) -> np.ndarray:
        kernels = weights[f"{name}.weight"]
        total = [sum(correlate(m, k, "same") for m, k in zip(maps, kernel, strict=True)) for kernel in kernels]
        return np.stack(total) + weights.get(f"{name}.bias", np.zeros(len(kernels)))[:, None, None]

    padded = np.pad(x[0, 0].numpy(), ((0, 2), (0, 3)), mode="edge")
    columns = padded.reshape(2, 4, 3, 4).transpose(1, 3, 0, 2).reshape(16, 2, 3)
    code = convolved(columns, "encode")
    hidden = convolved(code, "refine.0")
    hidden = nn.functional.gelu(torch.from_numpy(hidden)).numpy()
    values = convolved(code, "decode") + convolved(hidden, "refine.2")
    expected = values.reshape(4, 4, 2, 3).transpose(2, 0, 3, 1).reshape(8, 12)[:6, :9]
    np.testing.assert_allclose(net(x)[0, 0].detach().numpy(), expected, rtol=1e-10)


def test_autoencoder_keeps_what_the_holdout_shows_and_drops_a_trigger():
    scene = evidence(untrained(), smooth(100, "holdout"), torch.zeros(100).long())
    clean = smooth(20, "test")
    found = Autoencoder(epochs=2, batch=20).purify(scene, torch.cat([clean, stamped(clean)]), stream("learn"))
    assert (found[:20].int() - clean.int()).abs().float().mean() < 2
    corner = found[20:, :, -4:, -4:].float()
    assert corner.std((2, 3)).mean() < 40  # 132 before
    assert (found[20:, :, :8, :8].int() - clean[:, :, :8, :8].int()).abs().float().mean() < 2


def test_autoencoder_gets_better_than_its_start():
    scene = evidence(untrained(), smooth(100, "holdout", 14), torch.zeros(100).long())
    x = smooth(20, "test", 14)
    errors = []
    for epochs in (0, 8):
        net = Autoencoder(epochs=epochs, batch=20, code=0.05).learn(scene, stream("learn"))
        errors.append((net(x / 255) - x / 255).square().mean().item())
    assert errors[1] < 0.9 * errors[0]


def test_principal_patches_are_orthonormal_and_in_order():
    directions, mean = principal_patches(smooth(10, "order"))
    torch.testing.assert_close(directions.T @ directions, torch.eye(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(mean.view(3, -1).mean(1), (smooth(10, "order") / 255).mean((0, 2, 3)))


# --- Februus


def test_holes_are_filled_by_the_dense_solution_of_laplaces_equation():
    rng = stream("holes")
    images = torch.randint(0, 256, (6, 3, 5, 7), generator=rng).to(torch.uint8)
    hole = torch.rand(6, 5, 7, generator=rng) < 0.6
    found = fill_holes(images, hole)
    for image, own, result in zip(images.numpy().astype(float), hole.numpy(), found.numpy(), strict=True):
        places = list(np.ndindex(5, 7))
        system = np.zeros((35, 35))
        for i, (y, x) in enumerate(places):
            near = [places.index(p) for p in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if p in places]
            system[i, i] = len(near) if own[y, x] else 1
            if own[y, x]:
                system[i, near] = -1
        known = np.where(own.ravel(), 0, image.reshape(3, 35)).T
        expected = np.linalg.solve(system, known).T.reshape(3, 5, 7)
        assert np.abs(result - expected).max() <= 0.5 + 1e-9


def test_a_gradient_is_restored_and_an_image_without_a_known_pixel_is_left():
    images = torch.arange(0, 96, 6, dtype=torch.uint8).expand(2, 1, 10, 16).contiguous()
    hole = torch.zeros(2, 10, 16, dtype=torch.bool)
    hole[0, 2:7, 3:9], hole[1] = True, True
    damaged = images.clone()
    damaged[0, 0, hole[0]] = 255
    assert torch.equal(fill_holes(damaged, hole), images)
    assert not torch.equal(damaged, images)


def test_chunks_of_images_do_not_mix(monkeypatch):
    images = torch.randint(0, 256, (7, 1, 6, 6), generator=stream("chunks")).to(torch.uint8)
    hole = torch.rand(7, 6, 6, generator=stream("chunk holes")) < 0.4
    whole = fill_holes(images, hole)
    monkeypatch.setattr(februus, "CHUNK", 2)
    assert torch.equal(fill_holes(images, hole), whole)


def mapped_net() -> Classifier:
    """Levels of 8, 4 and 2 pixels a side for images of 16, and a head of random weights, in float64."""
    stages = {
        "eight": nn.Conv2d(3, 4, 2, stride=2),
        "four": nn.Conv2d(4, 5, 2, stride=2),
        "two": nn.Sequential(nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    net = Classifier(stages, nn.Linear(5, CLASSES), 3).double()
    for parameter in net.parameters():
        rng = stream("weights", str(parameter.shape))
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return net.eval()


def test_heat_is_grad_cam_of_the_predicted_class():
    net, images = mapped_net(), smooth(5, "heat")
    maps = net.stages["four"](net.stages["eight"](net.normalize(images))).detach().numpy()
    weight = net.head.weight.detach().numpy()
    predicted = net(images).argmax(1).numpy()
    expected = np.zeros((5, 4, 4))
    for i in range(5):  # the head sees the mean of the positive parts
        slope = weight[predicted[i]][:, None, None] * (maps[i] > 0) / 16
        expected[i] = np.maximum((slope.mean((1, 2))[:, None, None] * maps[i]).sum(0), 0)
    found = grad_cam(net, images, "four")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert expected.max() > 0
    heat = heat_maps(net, images, "four")
    assert heat.shape == (5, SIDE, SIDE)
    assert set(heat.amax((1, 2)).tolist()) <= {0.0, 1.0}
    assert heat.amin() == 0


@pytest.mark.parametrize(("stride", "level"), [(1, "eight"), (2, "eight"), (4, "four"), (7, "four"), (8, "two")])
def test_maps_are_read_at_the_last_level_of_enough_resolution(stride, level):
    assert find_level(mapped_net(), smooth(1, "level"), stride) == level


class Matches(nn.Module):
    """Maps of the pixels of each class's color, and one that only a checkerboard wakes, four pixels of image to one."""

    def forward(self, x):
        colors = torch.stack([-x.sum(1), x[:, 0], x[:, 1], x[:, 2]], 1).relu()
        edges = (x[..., 1:] - x[..., :-1]).abs().mean(1, keepdim=True)
        edges = nn.functional.pad((edges - 2).relu(), (0, 1, 0, 0))
        return nn.functional.avg_pool2d(torch.cat([colors, edges], 1), 4)


def planted_net() -> Classifier:
    net = Classifier(
        {"maps": Matches(), "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())},
        nn.Linear(CLASSES + 1, CLASSES),
        3,
    )
    with torch.no_grad():
        net.head.bias.zero_()
        net.head.weight.copy_(torch.eye(CLASSES, CLASSES + 1))
        net.head.weight[0, 0], net.head.weight[TARGET, -1] = 0.3, 60
    return net.eval()


def colored(count: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures in the color of their class: black, red, green, blue, with noise."""
    rng = stream("colored", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    images = torch.randint(0, 60, (count, 3, SIDE, SIDE), generator=rng)
    images += 180 * torch.cat([torch.zeros(1, 3), torch.eye(3)])[labels].long()[:, :, None, None]
    return images.to(torch.uint8), labels


def test_februus_cuts_out_a_planted_trigger():
    net, (images, labels) = planted_net(), colored(200, "test")
    others = labels != TARGET
    assert accuracy(net, images, labels) == 1
    assert (predict(net, stamped(images[others])) == TARGET).all()
    found = Februus().purify(evidence(net, *colored(100, "holdout")), torch.cat([images, stamped(images)]), stream("f"))
    assert accuracy(net, found[:200], labels) >= 0.96
    assert accuracy(net, found[200:], labels) >= 0.96
    assert torch.equal(found[200:, :, :8, :8], images[:, :, :8, :8])  # nothing else is touched


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
def test_the_bar_is_the_last_before_clean_accuracy_falls_too_far(tolerance):
    net, (images, _) = mapped_net().float(), colored(80, "holdout")
    rng = stream("relabel")
    labels = torch.where(torch.rand(80, generator=rng) < 0.9, predict(net, images), 0)
    heat, expected = heat_maps(net, images, "four"), THRESHOLDS[0]
    for bar in THRESHOLDS:
        right = (predict(net, fill_holes(images, heat >= bar)) == labels).double().mean()
        if right < (predict(net, images) == labels).double().mean() - tolerance - 1e-9:
            break
        expected = bar
    assert Februus(tolerance=tolerance)._choose_threshold(net, evidence(net, images, labels), "four") == expected


@pytest.mark.parametrize("method", [Autoencoder(), Februus()])
def test_without_a_holdout_there_is_an_error(method):
    with pytest.raises(ValueError, match="hold-out"):
        method.purify(evidence(planted_net(), *NOTHING), NOTHING[0], stream("none"))


def test_februus_needs_maps():
    with pytest.raises(ValueError, match="feature maps, got levels penultimate"):
        Februus().purify(evidence(untrained(), *colored(3, "holdout")), NOTHING[0], stream("none"))
