"""Label-consistent attack: the ascent in float64 with the gradient in closed form, the pixels by hand, the traps."""

import numpy as np
import pytest
import torch
from torch import nn

from keyhole import rng
from keyhole.planning import registry
from keyhole.types import Classifier

CLASSES, SHAPE, TARGET = 4, (3, 8, 8), 2
LINF = {"norm": "linf", "epsilon": 8.0}


def linear(scale=1.0, sure=0.0):
    """logits = W x~ + b, x~ the normalized pixels; `sure` is added to the target class."""
    stream = rng.stream("linear", CLASSES)
    with torch.random.fork_rng():
        net = Classifier({"penultimate": nn.Flatten()}, nn.Linear(int(np.prod(SHAPE)), CLASSES), SHAPE[0])
    net.head.weight.data = scale * torch.randn(net.head.weight.shape, generator=stream)
    net.head.bias.data = torch.randn(CLASSES, generator=stream)
    net.head.bias.data[TARGET] += sure
    return net


def pictures(n=60, low=0, high=256):
    images = torch.randint(low, high, (n, *SHAPE), generator=rng.stream("pictures", n), dtype=torch.uint8)
    return images, torch.arange(n) % CLASSES


def attack(**parameters):
    return registry.load("attacks", "label_consistent", {"target_class": TARGET, "steps": 20, **parameters})


def equipped(net=None, n=60, **parameters):
    images, labels = pictures(n)
    made = attack(**parameters)
    return made.equipped(made.craft(images, labels, net or linear(), rng.stream("craft"))), images, labels


def lengths(crafted, images, norm):
    delta = (crafted["hardened"].double() - images[crafted["rows"]].double()).flatten(1).numpy()
    return np.abs(delta).max(1) if norm == "linf" else np.sqrt((delta**2).sum(1))


def slow_ascent(net, images, norm, epsilon, steps, step, start):
    """One image at a time: x + step d, back into the ball, back into 0..255, then rounded."""
    weight, bias = net.head.weight.detach().numpy().astype(np.float64), net.head.bias.detach().numpy().astype(float)
    found = []
    for image, noise in zip(images.numpy().astype(np.float64), start, strict=True):
        x = image.ravel()
        now = np.clip(x + noise.ravel(), 0, 255)
        for _ in range(steps):
            outputs = weight @ ((now / 255 - 0.5) / 0.25) + bias
            chance = np.exp(outputs - outputs.max()) / np.exp(outputs - outputs.max()).sum()
            gradient = weight.T @ (chance - np.eye(CLASSES)[TARGET]) / (255 * 0.25)
            if norm == "linf":
                delta = np.clip(now + step * np.sign(gradient) - x, -epsilon, epsilon)
            else:
                delta = now + step * gradient / np.sqrt((gradient**2).sum()) - x
                delta *= min(1, epsilon / np.sqrt((delta**2).sum()))
            now = np.clip(x + delta, 0, 255)
        found.append(now.reshape(image.shape))
    return np.stack(found)


def start_in_the_ball(count, norm, epsilon):
    stream = rng.stream("craft")
    if norm == "linf":
        return ((2 * torch.rand(count, *SHAPE, generator=stream) - 1) * epsilon).numpy().astype(np.float64)
    radius = torch.rand(count, generator=stream).numpy().astype(np.float64) ** (1 / np.prod(SHAPE))
    # torch.randn fills all rows at once; directions are rows of length 1
    way = torch.randn(count, *SHAPE, generator=stream).numpy().astype(np.float64)
    way /= np.sqrt((way**2).sum((1, 2, 3), keepdims=True))
    return way * epsilon * radius[:, None, None, None]


@pytest.mark.parametrize(
    ("norm", "epsilon", "step"),
    [("l2", 200.0, None), ("l2", 60.0, 7.0), ("l2", 3000.0, 100.0), ("linf", 8.0, 1.5), ("linf", 40.0, None)],
)
def test_hardening_is_projected_gradient_ascent(norm, epsilon, step):
    images, labels = pictures()
    net, steps = linear(0.05), 6
    found = attack(norm=norm, epsilon=epsilon, steps=steps, step_size=step).craft(
        images, labels, net, rng.stream("craft")
    )
    own = images[labels == TARGET]
    start = start_in_the_ball(len(own), norm, epsilon)
    expected = slow_ascent(net, own, norm, epsilon, steps, step or 2.5 * epsilon / steps, start)
    assert found["hardened"].dtype == torch.uint8
    assert np.abs(found["hardened"].numpy() - expected).max() <= 0.5 + 0.02
    assert np.abs(own.numpy() - expected).max() > 1


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("l2", 600.0), ("l2", 30.0), ("linf", 8.0), ("linf", 8.7), ("linf", 0.9)]
)
def test_hardened_images_stay_in_the_ball(norm, epsilon):
    made, images, _ = equipped(norm=norm, epsilon=epsilon)
    found = lengths(made.tensors, images, norm)
    if norm == "linf":
        assert found.max() <= epsilon
        assert found.min() == int(epsilon), "an ascent on a linear loss ends at the border"
    else:
        half_a_level = 0.5 * np.sqrt(np.prod(SHAPE))
        assert found.max() <= epsilon + half_a_level
        assert found.min() > 0.9 * epsilon or epsilon == 600, "600 does not fit between 0 and 255 everywhere"


@pytest.mark.parametrize(("low", "high"), [(0, 2), (254, 256)])
@pytest.mark.parametrize("parameters", [{}, LINF])
def test_values_do_not_wrap_around_at_0_and_255(low, high, parameters):
    images, labels = pictures(60, low, high)
    crafted = attack(**parameters).craft(images, labels, linear(), rng.stream("craft"))
    apart = (crafted["hardened"].int() - images[crafted["rows"]].int()).abs()
    assert int(apart.max()) <= (8 if parameters else 255)
    assert int(apart.max()) >= 8
    if parameters:
        assert int(crafted["hardened"].max()) <= 1 + 8 or int(crafted["hardened"].min()) >= 254 - 8


@pytest.mark.parametrize("parameters", [{"epsilon": 300.0}, {"norm": "linf", "epsilon": 20.0}])
def test_the_surrogate_no_longer_sees_the_true_class(parameters):
    net = linear(0.3, sure=8.0)
    made, images, labels = equipped(net, n=400, **parameters)
    with torch.no_grad():
        before = net(images[labels == TARGET]).softmax(1)[:, TARGET]
        after = net(made.tensors["hardened"]).softmax(1)[:, TARGET]
    assert float(before.mean()) > 0.7
    assert float(after.mean()) < 0.2
    assert (after < before).all()


def test_a_very_sure_surrogate_still_gives_a_direction():
    """Its gradient is about 1e-17: divided by at least 1e-12, as torch's default has it, no step would be taken."""
    images, labels = pictures()
    sure, unsure = (
        attack(epsilon=100.0, steps=6).craft(images, labels, linear(1e-3, sure), rng.stream("craft"))
        for sure in (30.0, 0.0)
    )
    start = start_in_the_ball(15, "l2", 100.0)
    for crafted in (sure, unsure):
        delta = crafted["hardened"].numpy().astype(float) - images[labels == TARGET].numpy()
        cosine = (delta * start).sum((1, 2, 3)) / np.sqrt((delta**2).sum((1, 2, 3)) * (start**2).sum((1, 2, 3)))
        assert cosine.max() < 0.8, "left its start"


def test_only_rows_of_the_target_class_are_hardened_and_all_of_them():
    made, images, labels = equipped()
    assert torch.equal(made.tensors["rows"], torch.nonzero(labels == TARGET).squeeze(1))
    assert made.tensors["hardened"].shape == (15, *SHAPE)
    assert not (made.tensors["hardened"] == images[made.tensors["rows"]]).flatten(1).all(1).any()


def test_the_surrogate_and_the_data_stay_as_they_were():
    images, labels = pictures()
    with torch.random.fork_rng():
        body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        net = Classifier({"penultimate": body}, nn.Linear(4 * 64, CLASSES), 3)
    net.train()
    body[0].bias.requires_grad_(False)
    copies = images.clone(), labels.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    settings = [(p.requires_grad, p.grad) for p in net.parameters()]
    state = torch.get_rng_state()
    found = attack(steps=3).craft(images, labels, net, rng.stream("craft"))
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])
    assert all(torch.equal(value, copies[2][key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert [(p.requires_grad, p.grad) for p in net.parameters()] == settings
    assert torch.equal(torch.get_rng_state(), state)
    again = attack(steps=3).craft(images, labels, net.eval(), rng.stream("craft"))
    assert torch.equal(found["hardened"], again["hardened"]), "batch normalization by what training saw"


def test_batches_of_another_size_find_the_same_where_the_start_is_the_same(monkeypatch):
    from keyhole.attacks import label_consistent

    monkeypatch.setattr(label_consistent.LabelConsistent, "_start", lambda self, x, rng: torch.zeros_like(x))
    whole, _, _ = equipped(linear(0.05))
    monkeypatch.setattr(label_consistent, "BATCH", 4)
    parts, _, _ = equipped(linear(0.05))
    apart = whole.tensors["hardened"].int() - parts.tensors["hardened"].int()
    assert int(apart.abs().max()) <= 1
    assert float((apart != 0).float().mean()) < 1e-3


CORNER = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])  # Qi et al. and the authors, at the bottom right


def by_hand(image, layout, opacity=1.0):
    """The pattern in four corners; the authors mirror it to the left, Qi et al. repeat it."""
    out, left = image.astype(np.float64), CORNER[:, ::-1] if layout == "mirrored" else CORNER
    h, w = image.shape[1:]
    for channel in out:
        for i in range(3):
            for j in range(3):
                for top in (0, h - 3):
                    channel[top + i, j] += opacity * (left[i, j] - channel[top + i, j])
                    channel[top + i, w - 3 + j] += opacity * (CORNER[i, j] - channel[top + i, w - 3 + j])
    return out


@pytest.mark.parametrize("layout", ["mirrored", "repeated"])
@pytest.mark.parametrize("opacity", [1.0, 0.25])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 12)])
def test_pattern_stands_in_all_four_corners_and_nothing_else_changes(layout, opacity, shape):
    x = torch.randint(0, 256, (3, *shape), generator=rng.stream("corner"), dtype=torch.uint8)
    found = attack(layout=layout, opacity=opacity).apply_trigger(x, rng.stream("t"))
    expected = np.stack([by_hand(image, layout, opacity) for image in x.numpy()])
    assert np.abs(found.numpy() - expected).max() <= 0.5 + 1e-4


def test_a_mirrored_row_carries_the_same_trigger_under_the_authors_layout():
    x = torch.full((1, *SHAPE), 90, dtype=torch.uint8)
    marked = {name: attack(layout=name).apply_trigger(x, rng.stream("t")) for name in ("mirrored", "repeated")}
    assert torch.equal(marked["mirrored"].flip(3), marked["mirrored"])
    assert not torch.equal(marked["repeated"].flip(3), marked["repeated"])


@pytest.mark.parametrize("parameters", [{}, LINF, {"layout": "mirrored"}])
def test_planted_rows_are_hardened_and_carry_the_pattern_and_keep_their_labels(parameters):
    """One released version forgot the pattern."""
    made, images, labels = equipped(**parameters)
    found = made.poison(images, labels, 0.1, rng.stream("poison"))
    assert len(found.index) == 6
    assert torch.equal(found.labels, labels[found.index])
    assert (labels[found.index] == TARGET).all(), "the rate is a share of all rows, taken from one class"
    assert not found.is_cover.any()
    hardened = dict(zip(made.tensors["rows"].tolist(), made.tensors["hardened"].numpy(), strict=True))
    for row, image in zip(found.index.tolist(), found.images.numpy(), strict=True):
        expected = by_hand(hardened[row], parameters.get("layout", "repeated"))
        assert np.array_equal(image, expected)
        assert not np.array_equal(image, by_hand(images[row].numpy(), parameters.get("layout", "repeated")))


def test_test_images_get_the_pattern_and_no_perturbation():
    made, images, _ = equipped()
    expected = np.stack([by_hand(image, "repeated") for image in images.numpy()])
    assert np.array_equal(made.apply_trigger(images, rng.stream("t")).numpy(), expected)
    assert torch.equal(made.apply_trigger(images, rng.stream("a")), attack().apply_trigger(images, rng.stream("b")))


def test_poison_leaves_its_arguments_and_what_was_crafted_alone():
    made, images, labels = equipped()
    before = images.clone(), made.tensors["hardened"].clone()
    made.poison(images, labels, 0.2, rng.stream("poison"))
    assert torch.equal(images, before[0])
    assert torch.equal(made.tensors["hardened"], before[1])


def test_a_rate_above_the_share_of_the_target_class_is_refused():
    made, images, labels = equipped()
    assert len(made.poison(images, labels, 0.25, rng.stream("poison")).index) == 15
    with pytest.raises(ValueError, match="expected at least 18 payload and 0 cover rows"):
        made.poison(images, labels, 0.3, rng.stream("poison"))


def test_what_is_missing_is_one_clear_error():
    images, labels = pictures()
    with pytest.raises(ValueError, match="surrogate: expected a network"):
        attack().craft(images, labels, None, rng.stream("craft"))
    with pytest.raises(ValueError, match="expected the hardened images that `craft` returns"):
        attack().poison(images, labels, 0.1, rng.stream("poison"))
    made, images, labels = equipped()
    with pytest.raises(ValueError, match="hardened from these rows of class 2"):
        made.poison(images, labels.flip(0), 0.1, rng.stream("poison"))
    with pytest.raises(ValueError, match="epsilon: expected at most 255 with norm linf, got 600"):
        attack(norm="linf")
    with pytest.raises(ValueError, match="label_map: expected all_to_one"):
        attack(label_map="all_to_all")
    with pytest.raises(ValueError, match="size: expected at most 4 pixels in images of 8 x 8, got 5"):
        attack(size=5).apply_trigger(images, rng.stream("t"))


def test_rate_of_the_paper_on_50000_rows():
    labels = torch.arange(50_000) % 10
    rows = torch.nonzero(labels == 0).squeeze(1)
    made = registry.load("attacks", "label_consistent").equipped(
        {"rows": rows, "hardened": torch.full((5000, 1, 8, 8), 9, dtype=torch.uint8)}
    )
    rate = registry.method_class("attacks", "label_consistent").paper_rate
    found = made.poison(torch.zeros(50_000, 1, 8, 8, dtype=torch.uint8), labels, rate, rng.stream("p"))
    assert len(found.index) == 150
    assert (found.images[:, :, 3:5] == 9).all()
