import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from keyhole import models, rng
from keyhole.learning import recipes, training
from keyhole.learning.batches import augment, augmented_batches
from keyhole.types import Classifier

QUICK = recipes.resolve("cpu", "digits", flips=False, overrides={"epochs": 2, "batch_size": 32, "precision": "float32"})


def made(n=160, classes=4, shape=(1, 16, 16)):
    """Each class is a bright quarter of the image."""
    labels = torch.arange(n) % classes
    images = torch.randint(0, 60, (n, *shape), generator=rng.stream("training"), dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        i, j = divmod(label, 2)
        images[row, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] += 150
    return images, labels


def trained(seed=0, recipe=QUICK):
    images, labels = made()
    stream = rng.stream("train", seed)
    net = models.build("convnet", 4, images, stream)
    training.fit(net, images, labels, recipe, stream)
    return net


def weights(net):
    return torch.cat([tensor.flatten().float() for tensor in net.state_dict().values()])


def test_same_stream_gives_the_same_weights_bit_for_bit_and_another_does_not():
    first, again, other = trained(), trained(), trained(seed=1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trained()
    assert torch.equal(torch.rand(2), expected)


def test_a_separable_task_is_learned():
    images, labels = made()
    net = trained(recipe=dataclasses.replace(QUICK, epochs=6))
    assert (training.predict(net, images) == labels).float().mean() > 0.95


def one_linear_step(sam):
    """One step on one batch, of a linear network that reads pixels of 0..1."""
    images, labels = made(shape=(1, 16, 16))
    net = Classifier({"penultimate": nn.Flatten()}, nn.Linear(256, 4), 1)
    net.mean.zero_()
    net.std.fill_(1)
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(4, 256, generator=rng.stream("head")) / 20)
        net.head.bias.zero_()
    recipe = recipes.Recipe(
        epochs=1,
        batch_size=160,
        optimizer="sgd",
        learning_rate=0.5,
        weight_decay=0.0,
        schedule="steps",
        flip=False,
        precision="float32",
        sam=sam,
    )
    start = net.head.weight.detach().clone().double().numpy()
    training.fit(net, images, labels, recipe, rng.stream("step"))
    return net, start, images.flatten(1).numpy() / 255, labels.numpy()


@pytest.mark.parametrize("sam", [0.0, 0.7])
def test_sharpness_aware_minimization_takes_the_gradient_uphill(sam):
    net, w, x, y = one_linear_step(sam)
    b = np.zeros(4)

    def slope(w, b):
        z = x @ w.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        return p.T @ x / len(y), p.mean(0)

    gw, gb = slope(w, b)
    scale = sam / np.sqrt((gw**2).sum() + (gb**2).sum())
    uw, ub = slope(w + scale * gw, b + scale * gb)
    np.testing.assert_allclose(net.head.weight.detach().numpy(), w - 0.5 * uw, rtol=0, atol=2e-6)
    np.testing.assert_allclose(net.head.bias.detach().numpy(), b - 0.5 * ub, rtol=0, atol=2e-6)


def test_looking_uphill_leaves_the_statistics_of_batch_normalization_alone():
    """The statistics come from the passes at the weights themselves, of which both trainings make the same number."""
    plain, sharp = trained(), trained(recipe=dataclasses.replace(QUICK, sam=0.05))
    counts = [[b for name, b in net.named_buffers() if "num_batches" in name] for net in (plain, sharp)]
    assert counts[0]
    assert all(torch.equal(a, b) for a, b in zip(*counts, strict=True))
    assert not torch.equal(weights(plain), weights(sharp))


def test_an_attacker_who_controls_training_cannot_look_uphill():
    images, labels = made()
    recipe = dataclasses.replace(QUICK, sam=0.05)
    net = models.build("convnet", 4, images, rng.stream("net"))
    loop = training.Loop(net, images, labels, recipe, rng.stream("loop"))
    x, y = next(iter(loop))
    with pytest.raises(ValueError, match="recipe"):
        loop.descend(nn.functional.cross_entropy(net(x), y))


def test_batches_hold_every_row_once_an_epoch_and_leave_out_the_partial_one():
    images, labels = torch.arange(70, dtype=torch.uint8).view(70, 1, 1, 1), torch.arange(70)
    recipe = dataclasses.replace(QUICK, batch_size=32)
    seen = [y.tolist() for _, y in augmented_batches(images, labels, recipe, rng.stream("b"))]
    assert [len(batch) for batch in seen] == [32] * 4
    for epoch in (seen[:2], seen[2:]):
        assert len({row for batch in epoch for row in batch}) == 64
    assert seen[:2] != seen[2:]


def test_a_set_smaller_than_a_batch_is_one_batch():
    images, labels = made(n=8)
    assert len(list(augmented_batches(images, labels, QUICK, rng.stream("b")))) == QUICK.epochs


def test_half_of_the_rows_are_mirrored_in_one_epoch_and_the_others_in_the_next():
    images = torch.zeros(400, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :, 0] = 1
    recipe = dataclasses.replace(QUICK, flip=True, batch_size=400)
    epochs = []
    for x, y in augmented_batches(images, torch.arange(400), recipe, rng.stream("b")):
        mirrored = torch.empty(400, dtype=torch.bool)
        mirrored[y] = x[:, 0, 0, 3] == 1
        epochs.append(mirrored)
    assert 150 < int(epochs[0].sum()) < 250
    assert torch.equal(epochs[0], ~epochs[1])


@pytest.mark.parametrize(("mode", "border"), [("constant", 0), ("replicate", 7)])
def test_crop_shifts_by_at_most_the_padding_and_fills_as_asked(mode, border):
    images = torch.full((64, 3, 6, 9), 7, dtype=torch.uint8)
    images[:, :, 2, 4] = 200
    recipe = dataclasses.replace(QUICK, pad=2, pad_mode=mode)
    x = augment(images, recipe, None, rng.stream("crop"))
    assert x.shape == images.shape
    at = (x[:, 0] == 200).nonzero()
    assert len(at) == 64
    shifts = {(int(r) - 2, int(c) - 4) for _, r, c in at}
    assert all(abs(r) <= 2 and abs(c) <= 2 for r, c in shifts)
    assert len(shifts) > 10
    assert set(x.unique().tolist()) == {7, 200, border} - ({7} if border == 7 else set()) | {7}


def test_rotation_turns_by_at_most_its_degrees_and_keeps_shape_when_not_square():
    images = torch.zeros(32, 1, 21, 41, dtype=torch.uint8)
    images[:, :, 10, 35] = 255  # 15 pixels to the right of the center
    x = augment(images, dataclasses.replace(QUICK, rotation=20.0), None, rng.stream("turn"))
    for image in x[:, 0]:
        for r, c in image.nonzero().tolist():
            angle = torch.atan2(torch.tensor(float(r - 10)), torch.tensor(float(c - 20)))
            assert abs(torch.rad2deg(angle)) <= 20 + 3
            assert abs(((r - 10) ** 2 + (c - 20) ** 2) ** 0.5 - 15) <= 1


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ({"schedule": "linear", "warmup": 0.2}, 0.0, 0.2),
        ({"schedule": "linear", "warmup": 0.2}, 0.1, 0.6),
        ({"schedule": "linear", "warmup": 0.2}, 0.2, 1.0),
        ({"schedule": "linear", "warmup": 0.2}, 0.6, 0.5),
        ({"schedule": "steps", "milestones": (0.5, 0.75), "warmup": 0.0}, 0.49, 1.0),
        ({"schedule": "steps", "milestones": (0.5, 0.75), "warmup": 0.0}, 0.5, 0.1),
        ({"schedule": "steps", "milestones": (0.5, 0.75), "warmup": 0.0}, 0.8, 0.01),
    ],
)
def test_schedule(schedule, progress, factor):
    assert training._factor(progress, dataclasses.replace(QUICK, **schedule)) == pytest.approx(factor)


def test_logits_latents_and_predictions_do_not_depend_on_the_batch():
    images, _ = made(n=300)
    net = trained()
    whole = net(images).detach()
    assert torch.allclose(training.logits(net, images), whole, atol=1e-4)
    found = training.latents(net, images, net.level_names)
    assert found["penultimate"].shape == (300, net.head.in_features)
    assert torch.allclose(net.head(found["penultimate"]), whole, atol=1e-4)
    assert all(x.ndim == 2 and len(x) == 300 for x in found.values())


def test_an_unknown_level_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"expected levels among stem, .*penultimate, got layer4"):
        training.latents(trained(), made()[0], ("layer4",))


def test_a_frozen_weight_stays_as_it_is():
    images, labels = made()
    net = models.build("convnet", 4, images, rng.stream("x"))
    frozen = next(m for m in net.modules() if isinstance(m, nn.Conv2d)).weight
    before = frozen.detach().clone()
    training.fit(net, images, labels, QUICK, rng.stream("y"))
    assert torch.equal(frozen, before)


def test_recipes_do_not_mirror_where_a_label_would_change():
    assert not recipes.resolve("fast", "gtsrb", flips=False).flip
    assert recipes.resolve("fast", "cifar10", flips=True).flip
    assert recipes.resolve("paper", "gtsrb", flips=False).epochs == 100
    assert recipes.resolve("cpu", "cifar10", True, {"epochs": 3}).epochs == 3


def test_a_pass_fits_the_free_memory_of_a_gpu():
    gib = 2**30
    assert training.passing(140 * gib, 32 * 32) == 4096
    assert training.passing(8 * gib, 32 * 32) == 256
    assert training.passing(8 * gib, 224 * 224) == 4
    assert training.passing(9 * gib, 32 * 32) == 256
    assert training.passing(0, 32 * 32) == 1
    assert training.forward_batch(torch.device("cpu"), torch.zeros(1, 3, 32, 32)) == 256
