"""Pixel, THTP and MM-BD against slow implementations, and on networks with a planted backdoor."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize, special
from tests.golden.planted import Templates, template_net
from torch import nn

from keyhole.inverters.mm_bd import MMBD, margin, negative_log_p
from keyhole.inverters.pixel import Pixel, add, as_mask, limit_changes, pixel_loss, smooth_count
from keyhole.inverters.thtp import THTP, distance, find_merges, persistence, unit_trigger
from keyhole.learning.training import predict
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

pytestmark = pytest.mark.slow  # searches for planted triggers, trained generators

CLASSES, SIDE, TARGET = 8, 12, 3


def evidence(gain: float, holdout: int = 100) -> Evidence:
    """Templates in noise, no corner as bright as the backdoor asks for."""
    rng = stream("scenes")
    labels = torch.randint(CLASSES, (holdout,), generator=rng)
    noise = 60 + 40 * torch.rand(holdout, 3, SIDE, SIDE, generator=rng)
    images = (noise + 25 * Templates(CLASSES, SIDE).signs[labels][:, None]).round().to(torch.uint8)
    return Evidence(template_net(CLASSES, SIDE, TARGET, gain), images[:10], labels[:10], {}, images, labels)


def linear_net(classes: int, *shape: int) -> Classifier:
    """A random linear classifier in float64."""
    rng = stream("linear")
    net = Classifier({"penultimate": nn.Flatten()}, nn.Linear(int(np.prod(shape)), classes), shape[0]).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        net.mean.copy_(torch.linspace(0.4, 0.6, shape[0]).view(-1, 1, 1))
        net.std.copy_(torch.linspace(0.2, 0.3, shape[0]).view(-1, 1, 1))
    return net


def assert_planted_class_and_place(found, case):
    assert found.flagged.nonzero().squeeze(1).tolist() == [TARGET]
    mask = found.masks[TARGET]
    assert mask[-3:, -3:].sum() > 0.8 * mask.sum()
    reached = predict(case.net, found.stamp(case.holdout_images, TARGET)) == TARGET
    assert reached[case.holdout_labels != TARGET].float().mean() >= 0.85


# --- Pixel


def slow_pixel(net, images, raw, target, counted, penalty):
    """Loss and gradient for one class, by hand, in NumPy."""
    weight, bias = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    mean, std = net.mean.numpy(), net.std.numpy()
    unit = np.clip(raw, 0, 1)
    smooth = 0.5 + np.tanh(raw / 10) / 2
    loss, gradient = penalty * smooth.max(1).sum(), np.zeros_like(raw)
    for sign, i, j in itertools.product(range(2), range(raw.shape[2]), range(raw.shape[3])):
        c = smooth[sign, :, i, j].argmax()
        gradient[sign, c, i, j] = penalty * (1 - np.tanh(raw[sign, c, i, j] / 10) ** 2) / 20
    for image in images[counted]:
        free = image + 255 * (unit[0] - unit[1])
        stamped = np.clip(free, 0, 255)
        logits = weight @ ((stamped / 255 - mean) / std).ravel() + bias
        share = np.exp(logits) / np.exp(logits).sum()
        loss -= np.log(share[target]) / counted.sum()
        pull = ((share - np.eye(len(bias))[target]) @ weight).reshape(image.shape) / (255 * std) / counted.sum()
        pull = 255 * pull * (free > 0) * (free < 255)
        gradient += np.stack([pull, -pull]) * (raw > 0) * (raw < 1)
    return loss, gradient


def test_pixel_objective_and_gradient_are_the_papers():
    net, rng = linear_net(3, 2, 4, 5), stream("pixel")
    images = 255 * torch.rand(6, 2, 4, 5, generator=rng, dtype=torch.float64)
    raw = 0.6 * torch.randn(2, 2, 2, 4, 5, generator=rng, dtype=torch.float64)  # some below zero, some above one
    targets, penalty = torch.tensor([2, 0]), torch.tensor([0.01, 0.3], dtype=torch.float64)
    counted = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1]]) > 0
    loss, reached = pixel_loss(net, images, raw.requires_grad_(), targets, counted, penalty)
    loss.sum().backward()
    for k, target in enumerate(targets.tolist()):
        parameters = images.numpy(), raw.detach()[k].numpy(), target, counted[k].numpy(), float(penalty[k])
        expected, gradient = slow_pixel(net, *parameters)
        np.testing.assert_allclose(loss[k].item(), expected, rtol=1e-10)
        np.testing.assert_allclose(raw.grad[k], gradient, rtol=1e-8, atol=1e-12)
        unit = raw.detach()[k].clamp(0, 1)
        answers = net((images + 255 * (unit[0] - unit[1])).clamp(0, 255)).argmax(1)
        assert reached[k] == (answers == target)[counted[k]].sum()


def test_pixel_size_takes_the_largest_channel_of_each_sign():
    raw = torch.tensor([[0.0, 10.0], [-10.0, -20.0]]).view(1, 2, 2, 1, 1)
    torch.testing.assert_close(smooth_count(raw)[0], torch.tensor((1 + np.tanh(1)) / 2 + (1 + np.tanh(-1)) / 2).float())


def test_pixel_ignores_changes_below_one_level():
    raw = torch.zeros(1, 2, 1, 1, 4)
    raw[0, 0, 0, 0] = torch.tensor([0.9 / 255, 1.1 / 255, -3.0, 5.0])
    raw[0, 1, 0, 0] = torch.tensor([0.5 / 255, 0.0, 0.2, 0.25])
    assert torch.equal(limit_changes(raw)[0, 0, 0, 0], torch.tensor([0.0, 1.1 / 255, 0.0, 1.0]))
    found = as_mask(raw)[0]
    assert torch.equal((1 + found[0, 0].tanh()) / 2, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(found[1, 0], torch.tensor([0.0, 1.1 / 255, -0.2, 0.75]))
    image = torch.full((1, 1, 1, 4), 100.0)
    torch.testing.assert_close(add(image, found[None, 1:])[0, 0, 0, 0], torch.tensor([100.0, 101.1, 49.0, 255.0]))


PIXEL = Pixel(epochs=100, samples=40, batch=40, patience=4)


def test_pixel_finds_the_planted_class_and_place():
    case = evidence(gain=15)
    assert_planted_class_and_place(PIXEL.invert(case, stream("pixel")), case)


def test_pixel_flags_nothing_in_the_clean_twin():
    clean = PIXEL.invert(evidence(gain=0), stream("pixel"))
    assert not clean.flagged.any()
    assert clean.masks.sum((1, 2)).max() < SIDE**2  # every class was reached, so the verdict rests on real triggers


# --- THTP


def test_components_of_a_mask_are_those_at_every_threshold():
    rng = np.random.default_rng(0)
    for shape in ((7, 9), (1, 8), (12, 12)):
        values = ndimage.gaussian_filter(rng.random(shape), 0.7)
        births, deaths = (values.ravel()[pixels] for pixels in find_merges(values))
        for threshold in values.ravel():
            alive = 1 + ((births >= threshold) & (deaths < threshold)).sum()  # one for the component that stays
            assert alive == ndimage.label(values >= threshold)[1]


def test_topological_loss_spares_the_most_persistent_component():
    mask = torch.tensor([[0.9, 0.2, 0.6, 0.5, 0.7], [0.1, 0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
    mask = mask[None].requires_grad_()
    loss = persistence(mask)
    loss.sum().backward()
    torch.testing.assert_close(loss[0].item(), (0.7 - 0.2) ** 2 + (0.6 - 0.5) ** 2)
    expected = torch.tensor([[0.0, -1.0, 0.2, -0.2, 1.0], [0.0] * 5], dtype=torch.float64)
    torch.testing.assert_close(mask.grad[0], expected)


def test_topological_loss_is_zero_on_flat_masks_and_one_peak():
    hill = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.9, 0.3]])
    assert torch.equal(persistence(torch.stack([hill, torch.full((2, 3), 0.4)])), torch.zeros(2))


def test_diversity_is_the_distance_of_unit_triggers():
    raw = torch.randn(2, 3, 4, 5, generator=stream("raw"), dtype=torch.float64)
    earlier = torch.randn(3, 2, 40, generator=stream("earlier"), dtype=torch.float64)
    unit = (1 + np.tanh(raw.numpy())) / 2
    for k, found in enumerate(distance(raw, earlier)):
        trigger = (unit[k, :1] * unit[k, 1:]).ravel()
        differences = trigger / np.linalg.norm(trigger) - earlier[:, k].numpy()
        np.testing.assert_allclose(found, np.linalg.norm(differences, axis=1).sum(), rtol=1e-6)
    assert torch.equal(distance(raw, earlier[:0]), torch.zeros(2, dtype=torch.float64))


def test_diversity_has_a_finite_gradient_at_an_earlier_trigger():
    raw = torch.randn(1, 2, 3, 3, generator=stream("raw")).requires_grad_()
    distance(raw, unit_trigger(raw).detach()[None]).sum().backward()
    assert raw.grad.isfinite().all()


THTP_QUICK = THTP(rounds=1, epochs=40, samples=64, batch=16, topology=1.0)


def test_thtp_finds_the_planted_class_and_place_in_one_piece():
    case = evidence(gain=15)
    found = THTP_QUICK.invert(case, stream("thtp"))
    assert_planted_class_and_place(found, case)
    assert persistence(found.masks).max() < 0.1  # without the topological loss about 10
    assert found.masks.sum((1, 2)).max() < SIDE**2  # every class was reached, so the verdict rests on real masks


def test_thtp_flags_nothing_in_the_clean_twin():
    assert not THTP_QUICK.invert(evidence(gain=0), stream("thtp")).flagged.any()


def test_thtp_rounds_differ_and_the_smallest_mask_stays():
    case, sizes = evidence(gain=0), []
    earlier = []

    class Watched(THTP):
        def _run_round(self, net, images, raw, before, rng):
            progress = super()._run_round(net, images, raw, before, rng)
            earlier.append(before)
            sizes.append(progress.result()[2])
            return progress

    found = Watched(rounds=2, epochs=12, samples=32, topology=1.0, success=0.8).invert(case, stream("rounds"))
    assert [len(before) for before in earlier] == [0, 1]
    torch.testing.assert_close(found.masks.sum((1, 2)), torch.minimum(*sizes))


# --- MM-BD


def test_margin_is_to_the_best_other_class():
    outputs = torch.tensor([[3.0, 5.0, -1.0], [3.0, 5.0, -1.0], [2.0, 2.0, 9.0]])
    assert margin(outputs, torch.tensor([1, 0, 2])).tolist() == [2.0, -2.0, 7.0]


def test_mm_bd_reaches_the_exact_maximum_of_two_linear_classes():
    net = linear_net(2, 2, 3, 3).float()
    weight = (net.head.weight[1] - net.head.weight[0]).detach().view(2, 3, 3)
    ends = torch.stack([weight * (end - net.mean) / net.std for end in (0.0, 1.0)])
    offset = (net.head.bias[1] - net.head.bias[0]).detach()
    images = torch.rand(2, 4, 2, 3, 3, generator=stream("starts"))
    found = MMBD(starts=4, steps=200)._ascend(net, images, torch.arange(2))
    expected = torch.stack([-ends.amin(0).sum() - offset, ends.amax(0).sum() + offset])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("largest", [13.0, 20.0, 45.0])
def test_p_value_is_that_of_the_largest_of_gamma_draws(largest):
    null = np.array([9.0, 11.0, 10.0, 12.5, 8.0, 10.5, 9.5])
    gap = np.log(null.mean()) - np.log(null).mean()
    shape = optimize.brentq(lambda a: np.log(a) - special.digamma(a) - gap, 0.1, 1e4)  # the likelihood's maximum
    above = special.gammaincc(shape, largest / (null.mean() / shape))
    expected = -np.log10(-np.expm1(8 * np.log1p(-above)))
    found = negative_log_p(torch.from_numpy(np.insert(null, 3, largest)))
    np.testing.assert_allclose(found[3], expected, rtol=1e-5)
    assert found.argsort().tolist() == np.insert(null, 3, largest).argsort().tolist()  # monotone in the margin


def test_p_values_are_finite_where_nothing_can_be_fitted():
    assert torch.equal(negative_log_p(torch.full((5,), 4.0)), torch.zeros(5))
    assert torch.equal(negative_log_p(torch.tensor([-3.0, -1.0, -2.0])), torch.zeros(3))
    assert negative_log_p(torch.tensor([1.0, 1.0, 1.0, 9.0])).tolist() == [0, 0, 0, 300]
    assert negative_log_p(torch.tensor([10.0, 10.001, 9.999, 1e6], dtype=torch.float64))[3] == 300
    assert negative_log_p(torch.tensor([-5.0, 9.0, 11.0, 10.0])).isfinite().all()


def test_mm_bd_flags_the_planted_class_and_nothing_in_the_clean_twin():
    settings = MMBD(starts=4, steps=60, learning_rate=0.05)
    found = settings.invert(evidence(gain=15), stream("margins"))
    assert found.flagged.nonzero().squeeze(1).tolist() == [TARGET]
    assert found.stamp is None
    assert not settings.invert(evidence(gain=0), stream("margins")).flagged.any()
