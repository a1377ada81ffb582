"""Architectures against torchvision's, the papers' parameter counts, and NumPy."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from keyhole import rng
from keyhole.models import build
from keyhole.models.convnet import ConvNet, whitening
from keyhole.types import Classifier, Images


def smooth_images(rows: int, c: int = 3, side: int = 32) -> Images:
    """Neighboring pixels and channels are correlated, as in photographs."""
    noise = torch.randn(rows, c, side, side, generator=rng.stream("smooth", rows, c))
    noise = noise + noise.mean(1, keepdim=True)
    coarse = functional.avg_pool2d(functional.pad(noise, (2, 2, 2, 2), mode="circular"), 5, stride=1)
    return (128 + 150 * coarse + 8 * noise).clamp(0, 255).to(torch.uint8)


def made(name: str, images: Images | None = None) -> Classifier:
    return build(name, 10, smooth_images(8) if images is None else images, rng.stream("golden")).eval()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy in the order of definition: names differ, shapes must not."""
    theirs, ours = source.state_dict(), target.state_dict()
    assert [v.shape for v in theirs.values()] == [v.shape for v in ours.values()]
    target.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))


def randomize_statistics(net: nn.Module) -> None:
    """Batch normalization that is not the identity, so that a missing or misplaced one shows."""
    generator = rng.stream("statistics")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, tensor in module.state_dict().items():
                if name in ("running_mean", "bias"):
                    tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
                elif name in ("running_var", "weight"):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))


def test_torchvision_s_compiled_operators_run():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert kept.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_722),  # He et al. 2016, table 6: 0.27M
        ("vgg11_bn", 9_231_114),  # torchvision's 132,868,840 with 512 x 10 + 10 in place of its classifier
        ("vgg16_bn", 14_728_266),  # torchvision's 138,365,992, likewise
        ("mobilenet_v2", 2_236_682),  # torchvision's 3,504,872 with 1280 x 10 + 10 in place of 1280 x 1000 + 1000
        ("resnet18", 11_173_962),  # torchvision's 11,689,512 with a 3x3 stem and ten classes
        ("preact_resnet18", 11_171_146),  # without the paper's last batch normalization, as BackdoorBench
        ("convnet", 157_626),
        ("convnet_wide", 1_972_802),
    ],
)
def test_parameter_count(name: str, count: int):
    assert parameters(made(name)) == count


def torchvision_resnet18() -> nn.Module:
    """With the stem for small images and ten classes."""
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def torchvision_mobilenet_v2() -> nn.Module:
    net = torchvision.models.mobilenet_v2(num_classes=10, dropout=0.0)
    net.features[0][0].stride = net.features[2].conv[1][0].stride = (1, 1)
    return net


def torchvision_vgg(name: str) -> nn.Module:
    features = getattr(torchvision.models, name)().features
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


REFERENCES = {
    "resnet18": torchvision_resnet18,
    "mobilenet_v2": torchvision_mobilenet_v2,
    "vgg11_bn": lambda: torchvision_vgg("vgg11_bn"),
    "vgg16_bn": lambda: torchvision_vgg("vgg16_bn"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_same_outputs_as_torchvision_s_with_copied_weights(name: str):
    with torch.random.fork_rng(devices=[]):
        reference = REFERENCES[name]().eval()
    net, images = made(name), smooth_images(4)
    randomize_statistics(reference)
    copy_weights(net.stages, nn.ModuleList([*reference.children()][:-1]))
    copy_weights(net.head, [m for m in reference.modules() if isinstance(m, nn.Linear)][-1])
    with torch.inference_mode():
        torch.testing.assert_close(net(images), reference(net.normalize(images)), atol=1e-4, rtol=1e-4)


def test_resnet18_has_torchvision_s_shapes_but_for_stem_and_head():
    theirs = [
        tuple(p.shape) for key, p in torchvision.models.resnet18().named_parameters() if key[:3] not in ("con", "fc.")
    ]
    ours = [tuple(p.shape) for p in made("resnet18").stages.parameters()]
    assert ours[0] == (64, 3, 3, 3)
    assert ours[1:] == theirs


def test_resnet20_blocks_follow_the_paper_s_equations():
    """y = relu(F(x) + x), eq. 1, with option A where the width changes."""
    net = made("resnet20")
    randomize_statistics(net)
    stage, weights = net.stages["stage2"], net.stages["stage2"].state_dict()
    x = torch.randn(2, 16, 9, 9, generator=rng.stream("x"))
    expected = x
    for number, stride in enumerate((2, 1, 1)):
        block = {key[2:]: value for key, value in weights.items() if key.startswith(f"{number}.")}
        residual = bn(block, "bn1", functional.conv2d(expected, block["conv1.weight"], stride=stride, padding=1)).relu()
        residual = bn(block, "bn2", functional.conv2d(residual, block["conv2.weight"], padding=1))
        if stride == 2:
            shortcut = torch.zeros_like(residual)
            shortcut[:, 8:24] = expected[:, :, ::2, ::2]
            expected = shortcut
        expected = (residual + expected).relu()
    torch.testing.assert_close(stage(x), expected, atol=1e-4, rtol=1e-4)


def test_preact_resnet18_blocks_follow_the_paper_s_equations():
    """x + W2 relu(BN(W1 relu(BN(x)))), He et al. 2016b, fig. 4e; the projection reads the first activation."""
    net = made("preact_resnet18")
    randomize_statistics(net)
    stage, weights = net.stages["stage2"], net.stages["stage2"].state_dict()
    x = torch.randn(2, 64, 9, 9, generator=rng.stream("x"))
    expected = x
    for number, stride in enumerate((2, 1)):
        block = {key[2:]: value for key, value in weights.items() if key.startswith(f"{number}.")}
        activated = bn(block, "bn1", expected).relu()
        residual = functional.conv2d(activated, block["conv1.weight"], stride=stride, padding=1)
        residual = functional.conv2d(bn(block, "bn2", residual).relu(), block["conv2.weight"], padding=1)
        if stride == 2:
            expected = functional.conv2d(activated, block["projection.weight"], stride=2)
        expected = expected + residual
    torch.testing.assert_close(stage(x), expected, atol=1e-4, rtol=1e-4)


def bn(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Ioffe and Szegedy 2015, algorithm 2."""
    mean, variance, scale, shift = (
        weights[f"{name}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return scale * (x - mean) / torch.sqrt(variance + 1e-5) + shift


def test_he_initialization_keeps_the_backward_variance():
    """Var[w] = 2 / (k^2 d), He et al. 2015, eq. 14."""
    weight = made("resnet18").stages["stage4"][1].conv1.weight
    assert weight.var().item() == pytest.approx(2 / (9 * 512), rel=0.01)


def patches_in_float64(images: Images, net: Classifier) -> np.ndarray:
    """4x4 patches at stride 2, channels first, normalized."""
    pixels = images.numpy().astype(np.float64) / 255
    pixels = (pixels - net.mean.numpy().astype(np.float64)) / net.std.numpy().astype(np.float64)
    side = pixels.shape[2]
    places = [(top, left) for top in range(0, side - 3, 2) for left in range(0, side - 3, 2)]
    return np.concatenate([pixels[:, :, t : t + 4, u : u + 4].reshape(len(pixels), -1) for t, u in places])


@pytest.mark.parametrize(("channels", "side", "filters"), [(3, 32, 24), (1, 16, 16)])
def test_convnet_s_filters_whiten_patches(channels: int, side: int, filters: int):
    images = smooth_images(700, channels, side)  # more than one chunk
    net = made("convnet", images)
    weight = net.get_submodule("stages.stem.0").weight
    assert not weight.requires_grad
    assert weight.shape == (2 * filters, channels, 4, 4)
    assert torch.equal(weight[:filters], -weight[filters:])

    patches = patches_in_float64(images, net)
    moment = patches.T @ patches / len(patches)
    variance = np.linalg.eigvalsh(moment)[::-1][:filters]
    rows = weight[:filters].flatten(1).numpy().astype(np.float64)
    responses = patches @ rows.T
    expected = np.diag(variance / (variance + 5e-4))
    np.testing.assert_allclose(responses.T @ responses / len(patches), expected, atol=1e-4)
    leading = variance > 0.05  # a hundred times the constant: there the whitening is all but exact
    assert leading.sum() >= 8
    np.testing.assert_allclose(expected[leading][:, leading], np.eye(leading.sum()), atol=0.01)


def test_convnet_s_filters_are_numpy_s_eigenvectors():
    images = smooth_images(700)
    net = made("convnet", images)
    patches = patches_in_float64(images, net)
    variance, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    expected = (directions / np.sqrt(variance + 5e-4)).T[::-1][:24]
    found = net.get_submodule("stages.stem.0").weight[:24].flatten(1).numpy()
    signs = np.sign((expected * found).sum(1, keepdims=True))
    np.testing.assert_allclose(signs * found, expected, atol=1e-3)


def test_whitening_of_a_diagonal_moment_scales_each_direction():
    found = whitening(torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)))
    expected = torch.diag(torch.tensor([4.0005, 1.0005, 0.0005], dtype=torch.float64).rsqrt())
    torch.testing.assert_close(found.abs(), expected)


def test_convnet_has_the_measured_size():
    """157,616 as measured with a head without bias; of these the 2,304 weights of the stem are never trained."""
    net = made("convnet")
    assert parameters(net) - net.head.out_features == 157_616
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == 48 * 3 * 4 * 4
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d)) == 2 * (32 + 64 + 64)


@pytest.mark.parametrize(
    ("shape", "features"), [((3, 32, 32), 256), ((1, 16, 16), 64), ((3, 64, 64), 256), ((3, 24, 40), 256)]
)
def test_convnet_s_penultimate_level_is_bounded(shape: tuple[int, int, int], features: int):
    images = torch.randint(0, 256, (4, *shape), dtype=torch.uint8, generator=rng.stream("bounded"))
    net = made("convnet", images)
    assert isinstance(net, ConvNet)
    assert net.head.in_features == features == net.levels(images)["penultimate"].shape[1]


def test_vgg11_levels_are_those_of_ml_mmdr():
    """Xia et al., 2021 (https://arxiv.org/abs/2111.05077): ReLU outputs of convolutions 4, 6 and 8, before pooling."""
    levels = made("vgg11_bn").levels(smooth_images(2))
    assert [tuple(levels[f"stage{n}"].shape[1:]) for n in (3, 4, 5)] == [(256, 8, 8), (512, 4, 4), (512, 2, 2)]
