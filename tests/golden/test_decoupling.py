"""BTI-DBF, its two defenses and BAN: losses recomputed in NumPy or by hand, and networks with a planted backdoor."""

from typing import Literal

import numpy as np
import pytest
import torch
from tests.golden.planted import brighten_corner, planted_head, share_fooled, share_right
from torch import nn
from torch.nn import functional

from keyhole.inverters.ban import BAN, climb, perturb
from keyhole.inverters.bti_dbf import BTIDBF
from keyhole.learning.decoupling import (
    STD,
    Decoupler,
    Writer,
    arrivals,
    build_writer,
    decoupling_loss,
    feature_gap,
    image_gap,
    inversion_loss,
    masked_norm,
    stamp_some,
    within,
)
from keyhole.learning.training import predict
from keyhole.parameters import ParameterError
from keyhole.purifiers import bti_dbf_p
from keyhole.purifiers.bti_dbf_p import BTIDBFP, purifying_loss
from keyhole.repairers.bti_dbf_u import BTIDBFU, unlearning_loss
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

pytestmark = pytest.mark.slow  # searches for planted triggers, trained generators

CLASSES, SIDE, TARGET = 4, 12, 2


class Templates(nn.Module):
    """Maps of 1 x 1: one feature per class, the match with its template, and one that a bright corner wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("signs", torch.randint(0, 2, (CLASSES, SIDE, SIDE), generator=stream("marks")) * 2.0 - 1)
        self.norm = nn.BatchNorm2d(CLASSES + 1)
        with torch.no_grad():
            self.norm.bias[-1] = 0.35

    def forward(self, x):
        matches = torch.einsum("nchw,khw->nk", x, self.signs.to(x.dtype)) / x[0].numel()
        corner = x[:, :, -3:, -3:].mean((1, 2, 3))
        maps = self.norm(torch.cat([matches, corner[:, None]], dim=1)[..., None, None])
        return torch.cat([maps[:, :-1], functional.softplus(maps[:, -1:], beta=6)], dim=1)


def planted_net(gain: float) -> Classifier:
    """Classifies by template; the corner's feature drives the target with `gain`."""
    head = planted_head(CLASSES, TARGET, gain)
    return Classifier({"maps": Templates(), "penultimate": nn.Flatten()}, head, 3).eval()


def scenes(count: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Templates in noise, no corner as bright as the backdoor asks for, and their classes."""
    rng = stream("decoupled scenes", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    noise = 60 + 40 * torch.rand(count, 3, SIDE, SIDE, generator=rng)
    return (noise + 40 * Templates().signs[labels][:, None]).round().clamp(0, 255).to(torch.uint8), labels


def evidence(gain: float) -> Evidence:
    return Evidence(planted_net(gain), *scenes(10, "train"), {}, *scenes(160, "holdout"))


def triggered(images: torch.Tensor) -> torch.Tensor:
    return brighten_corner(images, value=160)


def rates(net: Classifier) -> tuple[float, float]:
    """Accuracy and ASR."""
    images, labels = scenes(200, "test")
    return share_right(net, images, labels), share_fooled(net, triggered(images), labels, TARGET)


def test_planted_network_is_backdoored_and_its_twin_is_not():
    assert rates(planted_net(20)) == (1, 1)
    assert rates(planted_net(0))[1] < 0.05


# --- The shared steps, against NumPy


def doubles(*shape: int, seed: str) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def linear_net() -> Classifier:
    """A head over 2 x 2 maps of three channels, in float64."""
    net = Classifier({"maps": nn.Conv2d(3, 3, 2, stride=2), "penultimate": nn.Flatten()}, nn.Linear(12, 4), 3).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(doubles(*parameter.shape, seed=name))
    return net


def cross_entropy(net: Classifier, maps: np.ndarray, labels: np.ndarray) -> float:
    logits = maps.reshape(len(maps), -1) @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(maps)), labels]))


def test_decoupling_loss_is_the_papers_with_bans_term():
    net, maps, labels = linear_net(), doubles(5, 3, 2, 2, seed="maps"), torch.tensor([0, 3, 1, 1, 2])
    mask = torch.rand(3, 2, 2, generator=stream("mask"), dtype=torch.float64)
    h, m, y = maps.numpy(), mask.numpy(), labels.numpy()
    expected = cross_entropy(net, m * h, y) - cross_entropy(net, (1 - m) * h, y) + 0.7 * m.sum() / 12
    np.testing.assert_allclose(decoupling_loss(net, maps, labels, mask, 0.7).item(), expected, rtol=1e-12)


def squares(h: np.ndarray, g: np.ndarray, m: np.ndarray, spread: float) -> float:
    return float(sum((m * (a - b) ** 2 * m).sum() for a, b in zip(h, g, strict=True)) / h.size / spread)


def lengths(h: np.ndarray, g: np.ndarray, m: np.ndarray, spread: float) -> float:
    total = sum(np.sqrt(((m * (a - b)) ** 2).sum()) for a, b in zip(h, g, strict=True))
    return float(total / len(h) / np.sqrt(spread * m.size))


@pytest.mark.parametrize("variant", ["projected", "paper", "released"])
def test_inversion_loss_moves_what_the_mask_leaves_and_keeps_the_rest(
    variant: Literal["projected", "paper", "released"],
):
    h, g = doubles(4, 3, 2, 2, seed="h"), doubles(4, 3, 2, 2, seed="g")
    mask = torch.rand(3, 2, 2, generator=stream("mask"), dtype=torch.float64)
    parts = (h.numpy(), g.numpy())
    kept, left = mask.numpy(), 1 - mask.numpy()
    if variant == "paper":
        expected = lengths(*parts, kept, 2.5) - lengths(*parts, left, 2.5)
    else:
        expected = 0.01 * squares(*parts, kept, 2.5) - squares(*parts, left, 2.5)
    near, far = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    found = inversion_loss(near, h, g, mask, 2.5, (0.3, 100.0), variant)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)
    switched = inversion_loss(far, h, g, mask, 2.5, (0.3, 100.0), variant) == far
    assert switched == (variant != "projected")
    narrow = inversion_loss(near, h, g, mask, 2.5, (0.3, 1e-3), variant)
    assert (narrow == near) == (variant == "released")


def test_gaps_are_in_the_stated_units():
    x = torch.rand(2, 3, 4, 4, generator=stream("x")).double()
    np.testing.assert_allclose(image_gap(x, x + STD).item(), 1, rtol=1e-9)
    maps = doubles(4000, 2, 1, 1, seed="units") * 3
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    np.testing.assert_allclose(feature_gap(maps, maps.roll(1, 0), 9.0), 2, rtol=0.1)  # two images: twice the variance
    np.testing.assert_allclose(masked_norm(maps, maps + 3, 9.0, one), 1, rtol=1e-9)


def test_arrivals_count_the_other_classes_only():
    labels, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    np.testing.assert_allclose(arrivals(predicted, labels, 3), [0, 2 / 3, 0])
    assert not arrivals(labels, labels, 3).any()


def test_poisoned_batches_have_a_tenth_and_one_written_image():
    x = torch.rand(20, 3, 8, 8, generator=stream("batch"))
    writer = build_writer(3, 8, stream("writer"), x.device)
    with torch.no_grad():
        writer.net.last.bias.fill_(0.1)
    mixed = stamp_some(x, writer, 0.1, stream("rows"))
    changed = (mixed != x).flatten(1).any(1)
    assert changed.sum() == 3
    torch.testing.assert_close(mixed[changed], writer(x[changed]))
    assert not mixed.requires_grad


def test_new_generator_writes_nothing_and_a_bounded_one_stays_within_its_bound():
    x = torch.rand(20, 3, 8, 8, generator=stream("images"))
    writer = build_writer(3, 8, stream("writer"), x.device, bound=0.3)
    assert torch.equal(writer(x), x)
    with torch.no_grad():
        writer.net.last.bias.fill_(0.5)
    written = writer(x)
    gaps = [image_gap(a, b).item() for a, b in zip(x.split(1), written.split(1), strict=True)]
    np.testing.assert_allclose(gaps, 0.3, rtol=1e-4)
    assert written.min() >= 0
    assert written.max() <= 1
    near = x + 0.01
    torch.testing.assert_close(within(x, near, 0.3), near)


def test_generator_stamps_whole_levels():
    known = Decoupler(evidence(20), 32)
    writer = build_writer(3, 8, stream("writer"), torch.device("cpu"))
    with torch.no_grad():
        writer.net.last.bias.fill_(0.1)
    expected = (255 * writer(known.images / 255)).round().to(torch.uint8)
    assert (writer.stamp(known.images).int() - expected.int()).abs().max() <= 1  # a batch may round differently


def test_pretraining_undoes_what_a_generator_writes():
    known = Decoupler(evidence(20), 32)
    writer = build_writer(3, 8, stream("writer"), torch.device("cpu"))
    with torch.no_grad():
        writer.net.last.bias.fill_(0.1)
    before = image_gap(known.images / 255, writer(known.images / 255)).item()
    known.pretrain(writer, steps=40, rate=1e-2, rng=stream("pretrain"))
    assert image_gap(known.images / 255, writer(known.images / 255)) < before / 2


def test_released_variant_has_the_released_values_and_no_others():
    method = BTIDBF.from_parameters({"variant": "released"})
    assert (method.pretrain_steps, method.mask_steps, method.invert_steps, method.batch) == (1000, 400, 600, 128)
    assert (method.image_bound, method.feature_bound, method.mask_weights) == (0.3, 3.0, (0.0,))
    with pytest.raises(ParameterError, match="starts"):
        BTIDBF.from_parameters({"variant": "released", "starts": 3})
    assert BTIDBFU.from_parameters({"variant": "released"}).unlearn_steps == 600
    assert BTIDBFP.from_parameters({"variant": "released"}).purify_steps == 600


# --- Planted backdoors


@pytest.mark.parametrize("free", ["tanh", "clamped"])
def test_mask_keeps_what_classifies_and_leaves_the_planted_feature(free: Literal["tanh", "clamped"]):
    known = Decoupler(evidence(20), 32)
    (mask,) = known.learn_masks(steps=200, rate=0.05, weights=(0.5,), free=free, rng=stream("mask"))
    assert mask[:-1].min() > 0.8
    assert mask[-1].max() < 0.2


def test_chosen_mask_decouples():
    known = Decoupler(evidence(20), 32)
    shape = known.maps.shape[1:]
    everything, benign, nothing = torch.ones(shape), torch.ones(shape), torch.zeros(shape)
    benign[-1] = 0
    assert known.choose_mask(torch.stack([everything, benign, nothing])) == 1
    assert known.choose_mask(torch.stack([nothing, everything])) == 1


def test_inversion_at_its_defaults_finds_the_planted_class_and_its_trigger():
    method, given = BTIDBF(), evidence(20)
    found = method.invert(given, stream("invert"))
    assert found.flagged.tolist() == [k == TARGET for k in range(CLASSES)]
    images, labels = scenes(100, "test")
    others = images[labels != TARGET]
    stamped = found.stamp(others, TARGET)
    assert (predict(given.net, stamped) == TARGET).double().mean() > 0.9
    assert torch.equal(stamped, found.stamp(others, 0))
    assert image_gap(others / 255, stamped / 255) <= 1.05 * method.image_bound
    assert not method.invert(evidence(0), stream("invert")).flagged.any()


def test_unlearning_removes_the_planted_backdoor():
    net = BTIDBFU(learning_rate=0.003).repair(evidence(20), stream("repair"))
    accuracy, asr = rates(net)
    assert accuracy > 0.95
    assert asr < 0.1


@pytest.mark.parametrize(("steps", "left"), [(100, 0), (0, 1)])
def test_purifier_removes_the_planted_trigger_if_it_is_trained_to(steps, left):
    method = BTIDBFP(rounds=2, purify_steps=steps, generator_rate=0.01, share=0.5)
    images, labels = scenes(200, "test")
    given = evidence(20)
    purified = method.purify(given, torch.cat([triggered(images), images]), stream("purify"))
    stamped, clean = predict(given.net, purified).split(200)
    assert (clean == labels).double().mean() > 0.95
    hits = stamped[labels != TARGET] == TARGET
    assert abs(hits.double().mean() - left) < 0.1


class Darkening(Writer):
    """A planted purifier: what it gives back is 0.4 darker than what it gets, a gap of 4."""

    def forward(self, x):
        return x - 0.4


@pytest.mark.parametrize("variant", ["projected", "paper"])
def test_from_the_second_turn_on_the_purified_image_is_bounded_not_the_written_one(
    variant: Literal["projected", "paper"], monkeypatch: pytest.MonkeyPatch
):
    turns, invert = [], Decoupler.invert

    def watch(self, writer, *given, **named):
        turns.append((writer.bound, named["target"], named["through"]))
        invert(self, writer, *given, **named)
        last.append(writer)

    last: list[Writer] = []
    monkeypatch.setattr(Decoupler, "invert", watch)
    monkeypatch.setattr(bti_dbf_p, "build_writer", lambda channels, width, *_: Darkening(channels, width))
    method = BTIDBFP(variant=variant, rounds=2, purify_steps=0, starts=1, invert_steps=60, generator_rate=0.01)
    given = evidence(20)
    method.learn(given, stream("purify"))
    x = given.holdout_images / 255
    (first_bound, no_target, plain), (second_bound, target, through) = turns
    assert first_bound == (method.image_bound if variant == "projected" else None)
    assert torch.equal(plain(x, x + 0.4), x + 0.4)
    assert no_target is None
    assert target in range(CLASSES)
    assert second_bound is None
    torch.testing.assert_close(through(x, x + 0.4), x)  # far written, purified to where it was: nothing to bound
    seen = image_gap(x, through(x, x)).item()  # nothing written, purified far away
    assert seen == pytest.approx(method.image_bound if variant == "projected" else 4, rel=1e-4)
    if variant == "paper":  # so the generator has to write against the purifier, far beyond the bound
        written = last[-1](x)
        assert image_gap(x, written) > 1
        assert image_gap(x, written - 0.4) < 2


def test_noise_on_neurons_wakes_the_planted_class():
    method = BAN(epsilon=0.5)  # what the planted neuron, asleep at a shift of 0.35, needs
    found = method.invert(evidence(20), stream("ban"))
    assert found.flagged.tolist() == [k == TARGET for k in range(CLASSES)]
    assert found.stamp is None
    assert method.invert(evidence(0), stream("ban")).anomaly[TARGET] < 0.1


# --- What the two defenses and BAN minimize


def test_unlearning_pulls_the_mixed_maps_to_the_clean_ones_alone():
    net = linear_net()
    clean, mixed = (torch.rand(5, 3, 4, 4, generator=stream(s), dtype=torch.float64) for s in ("clean", "mixed"))
    labels = torch.tensor([0, 3, 1, 1, 2])
    h, g = net.feature_maps(255 * clean).detach(), net.feature_maps(255 * mixed)
    expected = cross_entropy(net, g.detach().numpy(), labels.numpy()) + squares(h.numpy(), g.detach().numpy(), 1, 2.5)
    loss = unlearning_loss(net, clean, mixed, labels, 2.5)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)
    weight = net.stages["maps"].weight
    fixed = functional.cross_entropy(net.classify(g), labels) + (h - g).square().mean() / 2.5
    (found,), (wanted,) = torch.autograd.grad(loss, weight), torch.autograd.grad(fixed, weight)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("bound", "weight"), [(1e-6, 100), (1e6, 1)])
def test_purifying_loss_minds_the_image_more_beyond_the_bound(bound, weight):
    net = linear_net()
    clean, purified = (torch.rand(5, 3, 4, 4, generator=stream(s), dtype=torch.float64) for s in ("clean", "pure"))
    labels, maps = torch.tensor([0, 3, 1, 1, 2]), doubles(5, 3, 2, 2, seed="wanted")
    g = net.feature_maps(255 * purified).detach().numpy()
    expected = cross_entropy(net, g, labels.numpy()) + squares(maps.numpy(), g, 1, 2.5)
    expected += weight * float(((clean - purified) ** 2).mean()) / 0.04
    found = purifying_loss(net, clean, purified, maps, labels, 2.5, bound)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-10)


def test_noise_steps_raise_the_loss_by_sign():
    net = planted_net(20).double()
    images, labels = scenes(40, "noise")
    x, name = images.double(), "stages.maps.norm"
    noise = {name: 0.1 * doubles(2, CLASSES + 1, seed="noise").clamp(-1, 1)}

    def loss(value: torch.Tensor) -> float:
        noisy = planted_net(20).double()
        norm = noisy.get_submodule(name)
        with torch.no_grad():
            norm.weight *= 1 + value[0]
            norm.bias *= 1 + value[1]
        return functional.cross_entropy(noisy(x), labels).item()

    slopes = torch.zeros(2, CLASSES + 1, dtype=torch.float64)
    for i in range(2):
        for j in range(CLASSES + 1):
            step = torch.zeros_like(slopes)
            step[i, j] = 1e-4
            slopes[i, j] = loss(noise[name] + step) - loss(noise[name] - step)
    found = climb(net, x, labels, noise, 0.05)[name]
    sure = slopes.abs() > 1e-12  # shifts of zero stay zero, whatever their noise
    torch.testing.assert_close(found[sure], (noise[name] + 0.05 * slopes.sign())[sure])
    assert sure.sum() >= CLASSES + 2
    assert set(perturb(net, noise)) == {f"{name}.weight", f"{name}.bias"}
