"""Attacks whose triggers are learned: their losses in float64 NumPy, and what a short training must reach."""

import numpy as np
import pytest
import torch

from keyhole import models, rng
from keyhole.attacks import _input_aware, issba
from keyhole.learning import generators, networks, training
from keyhole.learning.batches import unit_batches
from keyhole.learning.recipes import resolve
from keyhole.planning import registry

pytestmark = pytest.mark.slow  # trains generators

SIDE, CLASSES = 16, 4


def smooth_images(n=256, channels=3, side=SIDE):
    """Random blobs: neighboring pixels are alike, as in photographs."""
    stream = rng.stream("smooth", channels)
    coarse = torch.rand(n, channels, 4, 4, generator=stream)
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noise = 0.02 * torch.randn(n, channels, side, side, generator=stream)
    return (255 * (0.3 + 0.4 * fine + noise)).round().clamp(0, 255).to(torch.uint8)


def floats(*shape, key="floats"):
    return torch.rand(shape, generator=rng.stream(key, *shape), dtype=torch.float64)


def close(found, expected):
    return np.allclose(np.asarray(found), expected, rtol=1e-9, atol=1e-12)


# ISSBA


def test_local_variance_is_that_of_the_pixels_of_the_square_that_lie_in_the_image():
    x = floats(2, 3, 7, 9)
    expected = np.zeros(x.shape)
    for i, j in np.ndindex(7, 9):
        square = x.numpy()[:, :, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
        expected[:, :, i, j] = square.var((2, 3))
    assert close(issba.local_variance(x), expected)


def test_fidelity_is_squared_residual_and_squared_residual_over_contrast():
    x, residual = floats(2, 3, 8, 8), floats(2, 3, 8, 8, key="residual") / 20
    attack = registry.load("attacks", "issba", {"image_weight": 7.0, "contrast_weight": 0.3})
    r, variance = residual.numpy(), issba.local_variance(x).numpy()
    expected = 7 * (r**2).mean() + 0.3 * (r**2 / (variance + 0.02**2)).mean()
    assert close(attack._fidelity_loss(x, residual), expected)


def test_fidelity_forbids_more_in_a_flat_image_than_in_a_busy_one():
    attack = registry.load("attacks", "issba", {"image_weight": 0.0})
    flat, busy, residual = torch.full((1, 3, 8, 8), 0.5), floats(1, 3, 8, 8).float(), torch.full((1, 3, 8, 8), 0.03)
    assert attack._fidelity_loss(flat, residual) > 10 * attack._fidelity_loss(busy, residual)


def test_fidelity_counts_only_once_the_bits_can_be_read():
    attack = registry.load("attacks", "issba", {"bits_only": 0.2})
    assert [round(attack._fidelity_share(done), 3) for done in (0.0, 0.2, 0.3, 0.4, 0.9)] == [0, 0, 0.5, 1, 1]
    assert registry.load("attacks", "issba", {"bits_only": 0.0})._fidelity_share(0.1) == 1


def test_what_the_decoder_reads_is_rounded_and_passes_the_gradient():
    x = torch.tensor([-0.3, 0.1, 0.5, 1.2], dtype=torch.float64).view(1, 1, 2, 2).requires_grad_()
    found = issba.round_as_stored(x)
    assert close(found.detach().flatten(), np.array([0, 26, 128, 255]) / 255)
    found.sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]


@pytest.fixture(scope="module")
def written():
    """An ISSBA after a short training, images it never saw, and these with the trigger."""
    images = smooth_images(640)
    quick = {"bits": 6, "steps": 120, "batch": 32, "bits_only": 0.6, "learning_rate": 5e-3, "bound": 24.0}
    attack = registry.load("attacks", "issba", {**quick, "image_weight": 20.0, "contrast_weight": 0.1})
    attack = attack.equipped(attack.craft(images[:512], torch.arange(512) % CLASSES, None, rng.stream("craft")))
    return attack, images[512:], attack.apply_trigger(images[512:], rng.stream("t"))


def read(attack, images):
    build = lambda: generators.BitReader(images.shape[1], attack.bits, attack.width)  # noqa: E731
    decoder = networks.restore(build, attack.tensors, "decoder", images.device)
    with torch.no_grad():
        return decoder(images.float() / 255) > 0


def test_the_secret_is_read_from_rounded_images_and_not_from_clean_ones(written):
    attack, clean, triggered = written
    secret = attack.tensors["secret"].bool()
    assert (read(attack, triggered) == secret).float().mean() > 0.9
    assert (read(attack, clean) == secret).all(1).float().mean() < 0.2


def test_the_residual_is_bounded_and_differs_from_image_to_image(written):
    attack, clean, triggered = written
    residual = triggered.float() - clean.float()
    assert residual.abs().max() <= attack.bound
    own = residual - residual.mean(0)
    assert own.square().mean() > 0.1 * residual.square().mean()


def test_issba_writes_the_secret_of_the_stream():
    attack = registry.load("attacks", "issba", {"steps": 1, "batch": 4, "width": 8, "bits": 32})
    images, labels = smooth_images(8), torch.zeros(8, dtype=torch.int64)
    secrets = [attack.craft(images, labels, None, rng.stream("craft", seed))["secret"] for seed in (0, 0, 1)]
    assert torch.equal(secrets[0], secrets[1])
    assert not torch.equal(secrets[0], secrets[2])


# Dynamic


def test_patterns_masks_and_stamp_are_the_formulas():
    u, v, x = (8 * floats(2, 3, 5, 5, key=key) - 4 for key in "uvx")
    g = np.tanh(u.numpy()) / 2 + 0.5
    m = 0.5 * (np.tanh(20 * (np.tanh(v.numpy()) / 2 + 0.5) - 10) + 1)
    assert close(_input_aware.to_pattern(u), g)
    assert close(_input_aware.to_mask(v), m)
    expected = x.numpy() + m * (g - x.numpy())
    assert close(_input_aware.apply_pattern(x, _input_aware.to_pattern(u), _input_aware.to_mask(v)), expected)


def test_diversity_is_image_distance_over_trigger_distance():
    a, b, p, q = (floats(4, 3, 6, 6, key=key) for key in "abpq")
    ratios = [
        np.sqrt(((a[i] - b[i]).numpy() ** 2).mean()) / np.sqrt(((p[i] - q[i]).numpy() ** 2).mean()) for i in range(4)
    ]
    assert abs(float(_input_aware.diversity_loss(a, b, p, q)) - np.mean(ratios)) < 1e-5
    assert _input_aware.diversity_loss(a, b, p, p + 1e-3 * q) > 100 * _input_aware.diversity_loss(a, b, p, q)


def test_diversity_has_a_finite_gradient_where_triggers_are_the_same():
    a, b, p = floats(2, 3, 4, 4), floats(2, 3, 4, 4, key="b"), floats(2, 3, 4, 4, key="p").requires_grad_()
    _input_aware.diversity_loss(a, b, p, p.clone()).backward()
    assert p.grad.isfinite().all()


def test_masks_pay_for_what_lies_above_the_density():
    masks = floats(3, 1, 5, 5)
    assert close(_input_aware.excess(masks, 0.4), np.maximum(masks.numpy() - 0.4, 0).mean())
    assert float(_input_aware.excess(torch.full((1, 1, 2, 2), 0.03), 0.032)) == 0


@pytest.fixture(scope="module")
def stamped():
    """A Dynamic after a short training, its surrogate, images it never saw, and these with the trigger."""
    images = smooth_images(640)
    labels = (images.float().mean((2, 3)).argmax(1) + (images[:, 0].float().mean((1, 2)) > 128)).long()
    net = models.build("convnet", CLASSES, images, rng.stream("net"))
    training.fit(net, images[:512], labels[:512], resolve("cpu", "npz", True, {"batch_size": 64}), rng.stream("fit"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    attack = registry.load("attacks", "dynamic", {"steps": 150, "batch": 64, "share": 0.2})
    attack = attack.equipped(attack.craft(images[:512], labels[:512], net, rng.stream("craft")))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not net.training
    return attack, images[512:], attack.apply_trigger(images[512:], rng.stream("t"))


def test_masks_are_near_the_density_and_triggers_differ_from_image_to_image(stamped):
    attack, clean, triggered = stamped
    changed = (triggered.float() - clean.float()).abs().amax(1) > 8
    assert 0.2 * attack.density < changed.float().mean() < 3 * attack.density
    same_pixels = (changed[:-1] & changed[1:]).sum() / (changed[:-1] | changed[1:]).sum()
    assert same_pixels < 0.9
    assert len(triggered.sub(clean).flatten(1).unique(dim=0)) == len(clean)


def test_dynamic_needs_a_network_and_crafted_tensors():
    attack = registry.load("attacks", "dynamic")
    images, labels = smooth_images(8), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected a network trained on the clean set, got none"):
        attack.craft(images, labels, None, rng.stream("craft"))
    with pytest.raises(ValueError, match="expected an attack equipped with the tensors"):
        attack.apply_trigger(images, rng.stream("t"))


# the networks


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (3, 24, 40), (1, 7, 9)])
def test_a_network_keeps_the_size_and_is_the_same_after_being_saved(shape):
    x = torch.rand(5, *shape, generator=rng.stream("x"))
    build = lambda: generators.BitWriter(shape[0], 3, 16)  # noqa: E731
    before = torch.get_rng_state()
    net = networks.build_fresh(build, rng.stream("net"), x.device)
    again = networks.restore(build, networks.tensors_of(a=net, b=net), "a", x.device)
    assert torch.equal(before, torch.get_rng_state())
    bits = torch.ones(5, 3)
    with torch.no_grad():
        found = again(x, bits)
        assert found.shape == (5, *shape)
        assert torch.equal(found, net(x, bits))
        # nothing depends on what stands beside an image
        assert torch.allclose(found[:2], again(x[:2], bits[:2]), atol=1e-5)


def test_draws_give_every_row_once_before_any_row_twice():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 2, 2)
    batches = unit_batches(images, torch.arange(10), 5, images.device, rng.stream("d"))
    for _ in range(2):
        pairs = [next(batches) for _ in range(2)]
        assert sorted(torch.cat([y for _, y in pairs]).tolist()) == list(range(10))
        assert all(torch.equal((255 * x[:, 0, 0, 0]).round().long(), y) for x, y in pairs)
