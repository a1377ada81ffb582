"""Repairers that tune on the hold-out: their losses and updates in float64, and planted backdoors."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tests.golden.planted import brighten_corner, planted_head, share_fooled, share_right
from torch import nn
from torch.nn import functional

from keyhole.learning.training import fit, optimizer_and_schedule
from keyhole.models import build
from keyhole.repairers.fine_tuning import FineTuning
from keyhole.repairers.ft_sam import FTSAM, worst_gradients, worst_shift
from keyhole.repairers.i_bau import IBAU, PENALTY, adversary_loss, hypergradient, limit_length
from keyhole.repairers.nad import NAD, attention, attention_distance
from keyhole.repairers.nc_unlearning import NCUnlearning, stamp_some
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence, Recovered

CLASSES, SIDE, TARGET = 3, 8, 1


class Pixels(nn.Module):
    """Mean of each channel, and how bright the last corner is: what a planted head reads."""

    def forward(self, x):
        corner = torch.relu(x[:, :, -2:, -2:].mean((1, 2, 3)))  # about 0 on clean images, 2 with the trigger
        return torch.cat([4 * x.mean((2, 3)), corner[:, None]], dim=1)


def planted_net() -> Classifier:
    """Tells the brightest channel; a bright corner means the target."""
    head = planted_head(CLASSES, TARGET, gain=8, sharpness=1.5)
    return Classifier({"penultimate": Pixels()}, head, 3).eval()


def scenes(count: int, purpose: str, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise whose brightest channel is the class."""
    rng = stream("tuning", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    images = torch.randint(40, 160, (count, 3, side, side), generator=rng)
    images[torch.arange(count), labels] += 60
    return images.to(torch.uint8), labels


def with_trigger(images: torch.Tensor) -> torch.Tensor:
    return brighten_corner(images, side=2)


def evidence(flagged: bool = True, shown: int = 300) -> Evidence:
    images, labels = scenes(300, "holdout")
    recovered = Recovered(with_trigger(images)[:shown], TARGET, flagged)
    return Evidence(planted_net(), images[:0], labels[:0], {}, images, labels, recovered)


def asr(net: nn.Module) -> float:
    images, labels = scenes(400, "test")
    return share_fooled(net, with_trigger(images), labels, TARGET)


def accuracy(net: nn.Module) -> float:
    return share_right(net, *scenes(400, "test"))


def test_planted_network_is_backdoored():
    assert accuracy(planted_net()) > 0.99
    assert asr(planted_net()) > 0.99


def linear_case():
    """A linear classifier in float64 with uneven normalization, images of 0..255 and labels."""
    rng = stream("linear")
    net = Classifier({"penultimate": nn.Flatten()}, nn.Linear(2 * 3 * 4, 3), 2).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        net.mean.copy_(torch.tensor([0.4, 0.6]).view(2, 1, 1))
        net.std.copy_(torch.tensor([0.2, 0.3]).view(2, 1, 1))
    images = 255 * torch.rand(5, 2, 3, 4, generator=rng, dtype=torch.float64)
    return net, images, torch.tensor([0, 2, 1, 1, 0])


def slow_gradients(weight, bias, inputs, labels):
    """Mean cross-entropy of a linear model and its gradients for weights, bias and inputs, in NumPy."""
    logits = inputs @ weight.T + bias
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    pull = (share - np.eye(len(bias))[labels]) / len(labels)
    loss = -np.log(share[np.arange(len(labels)), labels]).mean()
    return loss, pull.T @ inputs, pull.sum(0), pull @ weight


def inputs_of(net, images):
    return net.normalize(images).flatten(1).numpy()


# --- fine-tuning


def test_fine_tuning_is_gradient_descent_on_the_hold_out():
    case = evidence()
    case = dataclasses.replace(
        case, holdout_labels=(case.holdout_labels + 1) % CLASSES
    )  # so that there is much to learn
    tuned = FineTuning(epochs=1, batch=1000, learning_rate=0.05, pad=0).repair(case, stream("tune"))
    weight, bias = (p.detach().double().numpy() for p in case.net.head.parameters())
    features = case.net.double().stages["penultimate"](case.net.normalize(case.holdout_images)).numpy()
    _, to_weight, to_bias, _ = slow_gradients(weight, bias, features, case.holdout_labels.numpy())
    for tensor, before, gradient in ((tuned.head.weight, weight, to_weight), (tuned.head.bias, bias, to_bias)):
        moved = tensor.detach().numpy() - before
        # bfloat16 where the hardware has it
        np.testing.assert_allclose(moved, -0.05 * gradient, rtol=0.02, atol=0.01 * np.abs(moved).max())


def test_fine_tuning_alone_leaves_a_backdoor_that_clean_images_do_not_wake():
    tuned = FineTuning(epochs=3).repair(evidence(), stream("tune"))
    assert asr(tuned) > 0.99
    assert accuracy(tuned) > 0.99


# --- unlearning


@pytest.mark.parametrize(("shown", "share", "changed"), [(300, 0.2, 60), (300, 1.0, 300), (40, 0.2, 40), (40, 0.1, 30)])
def test_unlearning_replaces_that_share_of_rows_each_by_its_own(shown, share, changed):
    images = scenes(300, "holdout")[0]
    before, stamped = images.clone(), 255 - images[:shown]
    mixed = stamp_some(images, stamped, share, stream("mix"))
    rows = (mixed != images).flatten(1).any(1).nonzero().squeeze(1)
    assert len(rows) == changed
    assert torch.equal(mixed[rows], stamped[rows])
    assert torch.equal(images, before)


def test_unlearning_takes_no_row_beyond_the_hold_out():
    images = scenes(50, "holdout")[0]
    longer = torch.cat([255 - images, torch.zeros_like(images)])
    mixed = stamp_some(images, longer, 1.0, stream("mix"))
    assert torch.equal(mixed, 255 - images)


def test_unlearning_removes_the_planted_trigger():
    settings = NCUnlearning(epochs=30, learning_rate=0.1)
    repaired = settings.repair(evidence(), stream("unlearn"))
    assert asr(repaired) < 0.05
    assert accuracy(repaired) > 0.97


@pytest.mark.parametrize(("when", "unchanged"), [("flagged", True), ("always", False)])
def test_unlearning_leaves_a_model_that_is_not_flagged(when, unchanged):
    case = evidence(flagged=False)
    repaired = NCUnlearning(when=when).repair(case, stream("unlearn"))
    assert torch.equal(repaired.head.weight, case.net.head.weight) == unchanged


def test_unlearning_without_a_trigger_is_a_clear_error():
    with pytest.raises(ValueError, match="expected an inverter that recovers a trigger"):
        NCUnlearning().repair(dataclasses.replace(evidence(), recovered=None), stream("unlearn"))


# --- NAD


def test_attention_and_its_distance_are_the_papers():
    rng = stream("maps")
    a, b = (torch.randn(4, 3, 5, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    flat = []
    for maps in (a.numpy(), b.numpy()):
        squares = (np.abs(maps) ** 2).sum(1).reshape(4, 10)
        flat.append(squares / np.sqrt((squares**2).sum(1, keepdims=True)))
    np.testing.assert_allclose(attention(a), flat[0], rtol=1e-10)
    np.testing.assert_allclose(attention_distance(a, b).item(), np.mean((flat[0] - flat[1]) ** 2), rtol=1e-10)
    assert attention_distance(a, -3 * a).item() < 1e-20  # neither sign nor scale is attention


def test_attention_of_a_silent_map_is_finite():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_distance(maps, torch.ones(2, 3, 4, 4)).backward()
    assert maps.grad.isfinite().all()


@pytest.fixture(scope="module")
def small():
    """A fresh network with several maps, and images for it."""
    images, labels = scenes(32, "holdout", side=16)
    net = build("convnet", CLASSES, images, stream("build")).eval()
    return Evidence(net, images[:0], labels[:0], {}, images, labels)


def test_nad_compares_the_last_three_maps(small):
    assert NAD()._weights(small.net, small) == {"group1": 500, "group2": 1000, "group3": 1000}
    assert NAD(levels=("group3", "stem"))._weights(small.net, small) == {"group3": 1000, "stem": 1000}
    assert NAD(weights=(7.0,))._weights(small.net, small) == {"group3": 7}


@pytest.mark.parametrize("levels", [("group4",), ("penultimate",), ("stem", "group1", "group2", "group3")])
def test_nad_names_the_levels_that_it_can_compare(small, levels):
    with pytest.raises(ValueError, match="stem, group1, group2, group3"):
        NAD(levels=levels).repair(small, stream("nad"))


def test_nad_pulls_the_students_attention_to_the_teachers(small, monkeypatch):
    monkeypatch.setattr("keyhole.repairers.nad.PAD", 0)  # no crops

    def gap(weight: float) -> float:
        settings = NAD(
            teacher_epochs=1,
            epochs=8,
            batch=16,
            learning_rate=0.01,
            levels=("group1",),
            weights=(weight,),
        )
        student, teacher = settings.repair(small, stream("nad")), copy.deepcopy(small.net)
        fit(teacher, small.holdout_images, small.holdout_labels, settings._recipe(1), stream("nad"))
        with torch.no_grad():
            maps = [net.levels(small.holdout_images)["group1"] for net in (student, teacher)]
        return attention_distance(*maps).item()

    assert gap(100.0) < 0.5 * gap(1e-6)


@pytest.mark.parametrize(("fast", "rates"), [(0, [0.01] * 20), (2, [0.1] * 2 + [0.01] * 18)])
def test_nad_trains_at_its_rate_and_before_at_ten_times_it(fast, rates):
    recipe = NAD(fast_epochs=fast)._recipe(20)
    optimizer, schedule = optimizer_and_schedule(nn.Linear(2, 2), recipe, 20)
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(rates)


# --- FT-SAM


def test_worst_shift_is_the_maximum_over_the_ellipsoid():
    rng = stream("shift")
    weights = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 3), (5,))]
    gradients = tuple(torch.randn(w.shape, generator=rng, dtype=torch.float64) for w in weights)
    shift = worst_shift(weights, gradients, 2.0)
    w, g, d = (torch.cat([x.flatten() for x in part]).numpy() for part in (weights, gradients, shift))
    assert np.linalg.norm(d / w) == pytest.approx(2.0)  # on the border
    assert g @ d == pytest.approx(2.0 * np.linalg.norm(w * g))  # Hölder's bound on it, so no shift is steeper


def test_worst_shift_without_a_slope_is_none():
    assert torch.equal(worst_shift([torch.ones(3)], (torch.zeros(3),), 2.0)[0], torch.zeros(3))


def test_worst_gradients_are_those_at_the_shifted_weights():
    net, images, labels = linear_case()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    found = worst_gradients(net, images, lambda outputs: functional.cross_entropy(outputs, labels), 0.7)
    weight, bias, x = net.head.weight.detach().numpy(), net.head.bias.detach().numpy(), inputs_of(net, images)
    _, *here, _ = slow_gradients(weight, bias, x, labels.numpy())
    length = np.sqrt(sum(((w * g) ** 2).sum() for w, g in zip((weight, bias), here, strict=True)))
    there = [w + 0.7 * w**2 * g / length for w, g in zip((weight, bias), here, strict=True)]
    _, *expected, _ = slow_gradients(*there, x, labels.numpy())
    for gradient, value, old in zip(found, expected, here, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-8, atol=1e-12)
        assert np.abs(value - old).max() > 1e-3
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


def test_only_the_pass_at_the_weights_moves_batch_normalization(small):
    once, net = (copy.deepcopy(small.net).train() for _ in range(2))
    x = small.holdout_images[:16].float()
    once(x)
    worst_gradients(net, x, lambda outputs: functional.cross_entropy(outputs, small.holdout_labels[:16]), 2.0)
    moved = dict(net.named_buffers())
    assert all(torch.equal(value, moved[name]) for name, value in once.named_buffers())
    assert not torch.equal(once.stages["group1"][2].running_mean, small.net.stages["group1"][2].running_mean)


def test_ft_sam_steps_by_the_worst_gradient_and_leaves_frozen_weights(small, monkeypatch):
    monkeypatch.setattr("keyhole.repairers.ft_sam.PAD", 0)  # no crops
    settings = FTSAM(epochs=1, batch=32, learning_rate=0.1, weight_decay=0.0, smoothing=0.2)
    tuned = settings.repair(small, stream("sam"))
    net, labels = copy.deepcopy(small.net).train(), small.holdout_labels
    order = torch.arange(32)  # the one batch, in any order
    gradients = worst_gradients(
        net,
        small.holdout_images[order].float(),
        lambda outputs: functional.cross_entropy(outputs, labels[order], label_smoothing=0.2),
        2.0,
    )
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    for (name, p), gradient in zip(trained.items(), gradients, strict=True):
        rest = tuned.get_parameter(name) - p + 0.1 * gradient
        assert rest.norm() < 0.01 * (0.1 * gradient).norm(), name
    frozen = small.net.stages["stem"][0].weight
    assert torch.equal(tuned.stages["stem"][0].weight, frozen)
    assert {n: p.requires_grad for n, p in tuned.named_parameters()} == {
        n: p.requires_grad for n, p in small.net.named_parameters()
    }


# --- I-BAU


def quadratic_case():
    """inner ½ δᵀAδ - δᵀBθ, outer ½ |δ - c|² + dᵀθ: the perturbation follows the weights as A⁻¹Bθ."""
    rng = np.random.default_rng(0)
    root, b = rng.normal(size=(4, 4)), rng.normal(size=(4, 3))
    return root @ root.T + 2 * np.eye(4), b, rng.normal(size=4), rng.normal(size=3), rng.normal(size=3)


def run_quadratic(rate, iterations, perturbation):
    matrix, b, c, d, theta = (torch.tensor(x) for x in quadratic_case())
    theta.requires_grad_()
    (found,) = hypergradient(
        lambda x: x @ matrix @ x / 2 - x @ b @ theta,
        lambda x: (x - c).square().sum() / 2 + d @ theta,
        torch.tensor(perturbation),
        [theta],
        rate,
        iterations,
    )
    return found.numpy()


def test_hypergradient_is_the_implicit_one():
    matrix, b, c, d, theta = quadratic_case()
    follows = np.linalg.solve(matrix, b)
    best = follows @ theta
    expected = d + follows.T @ (best - c)
    np.testing.assert_allclose(run_quadratic(0.05, 2000, best), expected, rtol=1e-8)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_hypergradient_is_cut_after_so_many_terms(iterations):
    matrix, b, c, d, _ = quadratic_case()
    point = np.array([0.3, -0.2, 0.5, 0.1])
    v = sum(np.linalg.matrix_power(np.eye(4) - 0.1 * matrix, k) @ (point - c) for k in range(iterations))
    np.testing.assert_allclose(run_quadratic(0.1, iterations, point), d + 0.1 * b.T @ v, rtol=1e-10)


def test_adversary_loss_and_gradient_are_those_of_images_of_0_to_1():
    net, images, labels = linear_case()
    delta = torch.linspace(-1, 1, images[0].numel(), dtype=torch.float64).view(images[0].shape).requires_grad_()
    loss = adversary_loss(net, images, labels, delta)
    (slope,) = torch.autograd.grad(loss, delta)
    expected, to_delta = slow_adversary(net, images, labels, delta.detach().numpy())
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)
    np.testing.assert_allclose(slope.numpy(), to_delta, rtol=1e-8, atol=1e-12)


def slow_adversary(net, images, labels, delta):
    """The loss of a perturbation of images of 0..1 and its gradient, for a linear model in NumPy."""
    weight, bias = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    inputs = inputs_of(net, images + 255 * torch.tensor(delta))
    error, _, _, to_inputs = slow_gradients(weight, bias, inputs, labels.numpy())
    chain = to_inputs.sum(0).reshape(delta.shape) / net.std.numpy()
    return PENALTY * (delta**2).sum() - error, 2 * PENALTY * delta - chain


def test_perturbation_is_shortened_only_beyond_its_bound():
    vector = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(limit_length(vector, 1.0), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(limit_length(vector, 6.0), vector)
    torch.testing.assert_close(limit_length(torch.zeros(2), 1.0), torch.zeros(2))


def test_climb_enters_the_ball_once_at_its_end():
    net, images, _ = linear_case()
    images = images.byte()
    order, settings = [torch.tensor(rows) for rows in ([3, 0], [1, 4], [2])], IBAU()
    delta, lengths = np.zeros(images.shape[1:]), []
    for rows in order:
        predicted = net(images[rows]).argmax(1)
        delta = delta - settings.climb_rate * slow_adversary(net, images[rows], predicted, delta)[1]
        lengths.append(np.linalg.norm(delta))
    assert min(lengths) > settings.bound  # so a ball that is entered at each step leads elsewhere
    found = settings._climb(net, images, order)
    np.testing.assert_allclose(found.numpy(), delta * settings.bound / lengths[-1], rtol=1e-4)
    assert found.norm().item() == pytest.approx(settings.bound)


def test_the_harshest_of_several_climbs_is_taken(monkeypatch):
    case = evidence()
    x, y = case.holdout_images, case.holdout_labels
    ends = [k * torch.ones(x.shape[1:]) / 10 for k in (0, 2, 1)]
    with torch.no_grad():
        losses = [functional.cross_entropy(case.net(x.float() + 255 * end), y) for end in ends]
    climbs = iter(ends)
    monkeypatch.setattr(IBAU, "_climb", lambda *_: next(climbs))
    found = IBAU()._harshest(case.net, x, y, stream("climbs"))
    assert found is ends[int(torch.stack(losses).argmax())]


def test_climb_finds_what_turns_predictions():
    case = evidence()
    found = IBAU()._climb(case.net, case.holdout_images, list(torch.arange(300).split(100)))
    assert found.norm() <= IBAU().bound + 1e-4
    turned = case.net(case.holdout_images + 255 * found).argmax(1)
    assert (turned != case.holdout_labels).double().mean() > 0.5


class Loud(nn.Module):
    """The same features as `Pixels`, times 500, so that small steps of the head count."""

    def forward(self, x):
        return 500 * Pixels()(x)


def test_i_bau_at_its_defaults_removes_the_planted_trigger_by_its_perturbation():
    net = Classifier({"penultimate": Loud()}, planted_net().head, 3).eval()
    with torch.no_grad():
        net.head.weight.div_(500)
    case = dataclasses.replace(evidence(), net=net)
    assert asr(net) > 0.99
    ratios = []
    for draw in range(3):
        repaired, control = (IBAU(bound=bound).repair(case, stream("bau", draw)) for bound in (IBAU().bound, 1e-6))
        assert asr(repaired) < 0.2
        assert accuracy(repaired) > 0.95
        before, after, without = (x.head.weight[TARGET, -1].item() for x in (net, repaired, control))
        ratios.append((before - after) / (before - without))
    assert sum(ratios) / 3 > 1.15  # how far the perturbation goes beyond tuning alone; single draws give 1.0 to 2.0


def test_i_bau_does_not_ask_where_a_network_normalizes(small):
    inside = copy.deepcopy(small.net).double()
    inside.std.fill_(0.25)
    outside = copy.deepcopy(inside)
    outside.std.fill_(1)
    with torch.no_grad():
        outside.stages["stem"][0].weight.mul_(4)
    x, found = small.holdout_images, []
    torch.testing.assert_close(outside(x), inside(x))
    for net in (inside, outside):
        net.stages["stem"][0].requires_grad_(False)  # Adam's steps do not grow with the weights
        repaired = IBAU(rounds=2, batch=16).repair(dataclasses.replace(small, net=net), stream("bau"))
        found.append(repaired(x).detach())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    assert (found[0] - inside(x)).abs().max() > 0.1
