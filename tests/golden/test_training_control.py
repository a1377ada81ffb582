"""Attackers who control training: their formulas in float64, and what each adds to a batch."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn import functional

from keyhole import models, rng
from keyhole.attacks import _input_aware, belt, bpp, lsba, wasserstein
from keyhole.attacks import _training_control as training_control
from keyhole.attacks._training_control import Part, PoisonedBatch, TrainingControl, TrainingRun
from keyhole.attacks.mmd import mmd
from keyhole.learning.recipes import resolve
from keyhole.learning.training import half
from keyhole.parameters import rules
from keyhole.planning import registry

SIDE, CLASSES, N = 16, 4, 240
RECIPE = resolve("cpu", "digits", False, {"epochs": 2, "batch_size": 60, "precision": "float32"})


def images(count=N, side=SIDE):
    return torch.randint(0, 256, (count, 3, side, side), generator=rng.stream("images", count), dtype=torch.uint8)


LABELS = torch.arange(N) % CLASSES


def network():
    return models.build("convnet", CLASSES, images(), rng.stream("net"))


def setting(rate=0.1):
    return TrainingRun(network(), images(), LABELS, rate, 8, rng.stream("own"))


class Training:
    """An attack's training, a call at a time."""

    def __init__(self, name, parameters=None, rate=0.1) -> None:
        self.attack = registry.load("attacks", name, parameters)
        assert isinstance(self.attack, TrainingControl)
        self.setting = setting(rate)
        self.parts = self.attack.parts(self.setting)

    @property
    def part(self) -> Part:
        (only,) = self.parts
        return only

    def draw(self, y):
        return training_control.draw_batch_rows(self.attack, self.setting, y)

    def mix(self, x, y) -> PoisonedBatch:
        return training_control.poison_batch(self.attack, self.parts, self.setting, x, y)


def batch(payload, labels, cover=()):
    is_payload, is_cover = torch.zeros(2, len(labels), dtype=torch.bool)
    is_payload[list(payload)], is_cover[list(cover)] = True, True
    return PoisonedBatch(images(len(labels)), torch.tensor(labels), is_payload, is_cover)


def close(a, b, tolerance=1e-5):
    return np.allclose(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), rtol=tolerance, atol=tolerance)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.004, 0.05, 0.1])
def test_payload_is_the_rates_share_of_the_batches_and_cover_its_multiple(rate):
    training, total, covers = Training("wanet", rate=rate), 0, 0
    for _ in range(400):
        _, rows, cover = training.draw(LABELS[:60])
        total, covers = total + len(rows), covers + len(cover)
        assert not np.isin(rows, cover).any()
        assert (LABELS[rows] != 0).all()
    deviations = 3 * (400 * 0.25) ** 0.5  # of the rounding, at most 1/4 a batch
    assert abs(total - rate * 400 * 60) < deviations
    assert covers == 2 * total


def test_each_batch_draws_other_rows_and_plants_only_there():
    training, x = Training("mmd", {"base": "badnets", "weight": 0.0}), images(60)
    first, second = training.mix(x, LABELS[:60]), training.mix(x, LABELS[:60])
    assert not torch.equal(first.is_payload, second.is_payload)
    assert (
        first.images[first.is_payload][..., -3:, -3:]
        == registry.load("attacks", "badnets").apply_trigger(x[first.is_payload], rng.stream("t"))[..., -3:, -3:]
    ).all()
    assert torch.equal(first.images[~first.is_payload], x[~first.is_payload])
    assert (first.labels[first.is_payload] == 0).all()
    assert torch.equal(first.labels[~first.is_payload], LABELS[:60][~first.is_payload])


def test_a_batch_without_enough_rows_gets_what_there_is():
    _, rows, _ = Training("mmd", rate=0.5).draw(torch.tensor([0, 0, 0, 1]))
    assert rows.tolist() == [3]


def test_label_maps_know_all_classes_even_where_a_batch_lacks_some():
    base = {"method": "blended", "label_map": "all_to_all"}
    labels, rows, _ = Training("mmd", {"base": base}, rate=0.5).draw(torch.tensor([1, 1, 1, 1]))
    assert (labels[rows] == 2).all()  # of two classes in all, class 1 would go to 0
    assert len(rows)


def test_regularized_and_plain_training_see_the_same_batches(monkeypatch):
    seen = {}
    plain = training_control.poison_batch
    poisoned = registry.load("attacks", "mmd").poison(images(), LABELS, 0.1, rng.stream("p"))
    for weight in (0.0, 0.5):
        found = seen[weight] = []
        monkeypatch.setattr(
            training_control, "poison_batch", lambda *given, found=found: found.append(plain(*given)) or found[-1]
        )
        attack, net = registry.load("attacks", "mmd", {"weight": weight}), network()
        attack.train(net, images(), LABELS, poisoned, RECIPE, rng.stream("t"))
        seen[weight].append(net.head.weight.detach().clone())
    assert len(seen[0.0]) == 8 + 1
    for first, second in zip(seen[0.0][:-1], seen[0.5][:-1], strict=True):
        assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))
    assert not torch.equal(seen[0.0][-1], seen[0.5][-1])


def test_small_ratios_of_cover_are_not_rounded_away():
    training = Training("wanet", {"cover_ratio": 0.4}, rate=0.01)
    drawn = [training.draw(LABELS[:60]) for _ in range(600)]
    payload, covers = (sum(len(each[i]) for each in drawn) for i in (1, 2))
    assert abs(covers - 0.4 * payload) < 3 * (0.24 * payload) ** 0.5


@pytest.mark.parametrize(("base", "pieces"), [("adap_patch", 4), ("adap_k_way", 4)])
def test_small_batches_get_every_piece_of_a_trigger_of_pieces(base, pieces):
    attack, x = registry.load("attacks", base), images(1, 32)
    stream = rng.stream("pieces")
    planted = {attack.plant(x, stream).numpy().tobytes() for _ in range(60)}
    assert len(planted) == pieces
    few = attack.plant(x.expand(3, -1, -1, -1).contiguous(), stream)
    assert len({row.numpy().tobytes() for row in few}) == 3


# --- mmd --------------------------------------------------------------------------------------------------------------


def slow_mmd(a, b):
    """Double loops over the formula."""
    z = np.concatenate([a, b]).astype(np.float64)
    n = len(z)
    squared = np.array([[((u - v) ** 2).sum() for v in z] for u in z])
    scale = squared.sum() / (n * n - n) / 4
    total = 0.0
    for i, u in enumerate(z):
        for j, v in enumerate(z):
            kernel = sum(np.exp(-((u - v) ** 2).sum() / (2**e * scale)) for e in range(5))
            same = (i < len(a)) == (j < len(a))
            total += kernel / (len(a) ** 2 if same and i < len(a) else len(b) ** 2 if same else -len(a) * len(b))
    return total


@pytest.mark.parametrize("sizes", [(7, 7), (9, 4), (2, 2)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_mmd_is_the_double_loop(sizes, mean):
    draw = np.random.default_rng(0)
    a, b = (mean + draw.normal(shift, 1, (count, 30)) for count, shift in zip(sizes, (0, 0.7), strict=True))
    assert close(mmd(torch.tensor(a), torch.tensor(b)), slow_mmd(a, b))
    assert close(mmd(torch.tensor(a).float(), torch.tensor(b).float()), slow_mmd(a, b), 1e-4)


def test_mmd_is_zero_between_a_group_and_itself_and_sends_no_gradient_through_the_bandwidth():
    a = torch.randn(6, 5, generator=rng.stream("a"), dtype=torch.float64)
    assert abs(float(mmd(a, a.clone()))) < 1e-12
    b = (a + 1).requires_grad_(True)
    mmd(a, b).backward()
    step, numeric = 1e-6, torch.zeros_like(b)
    z = torch.cat([a, b.detach()])
    squared = torch.cdist(z, z).square()
    scale = squared.sum() / (12 * 11) / 4

    def fixed(c):
        """The terms that depend on c, with the bandwidth held."""
        widths = [2**i * scale for i in range(5)]
        within, between = torch.cdist(c, c).square(), torch.cdist(a, c).square()
        return float(sum(torch.exp(-within / w).mean() - 2 * torch.exp(-between / w).mean() for w in widths))

    for i in range(b.shape[0]):
        for j in range(b.shape[1]):
            up, down = b.detach().clone(), b.detach().clone()
            up[i, j] += step
            down[i, j] -= step
            numeric[i, j] = (fixed(up) - fixed(down)) / (2 * step)
    assert close(b.grad, numeric, 1e-4)


def test_a_scale_free_mmd_does_not_reward_drawing_the_groups_together():
    """Of the same value; along the rows themselves its slope is 0 (Euler), that of the published loss above it."""
    a, b = (torch.randn(6, 5, generator=rng.stream(name), dtype=torch.float64) + i for i, name in enumerate("ab"))
    slopes = {}
    for scale_free in (True, False):
        z = torch.cat([a, b]).requires_grad_()
        found = mmd(z[:6], z[6:], scale_free)
        assert close(found.detach(), slow_mmd(a.numpy(), b.numpy()))
        found.backward()
        slopes[scale_free] = float((z.grad * (z.detach() - z.detach().mean(0))).sum())
    assert abs(slopes[True]) < 1e-12
    assert slopes[False] > 0.1
    assert torch.autograd.gradcheck(lambda x: mmd(x, b, True), a.clone().requires_grad_())


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        ("all", ("group1", "group2", "group3")),
        ("last", ("group3",)),
        (("stem", "penultimate"), ("stem", "penultimate")),
    ],
)
def test_the_penalty_is_the_weighted_sum_over_levels_between_clean_target_rows_and_payload(levels, names):
    training = Training("mmd", {"weight": 0.3, "levels": levels})
    mixed = batch([0, 1, 2, 3], [0, 0, 0, 0, 0, 0, 0, 1, 2, 3], cover=[6])
    found = training.setting.net.eval().levels(mixed.images)
    expected = sum(
        slow_mmd(found[n][4:6].flatten(1).detach().numpy(), found[n][:4].flatten(1).detach().numpy()) for n in names
    )
    assert close(training.part.penalty(found, mixed).detach(), 0.3 * expected, 1e-3)


def test_a_batch_without_one_of_the_groups_has_no_penalty_and_leaves_none_behind():
    training = Training("mmd", {"weight": 1.0})
    net = training.setting.net.eval()
    full, lacking = batch([0, 1, 2], [0] * 6), batch([], [0, 0, 1, 1])
    before = float(training.part.penalty(net.levels(full.images), full).detach())
    assert before > 0
    assert training.part.penalty(net.levels(lacking.images), lacking) == 0
    assert float(training.part.penalty(net.levels(full.images), full).detach()) == before


def test_the_default_base_of_mmd_is_as_faint_as_in_the_released_code():
    assert registry.load("attacks", "mmd").base["alpha"] == 0.1
    assert registry.load("attacks", "mmd", {"base": "blended"}).base["alpha"] == 0.2


def test_unknown_levels_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="levels: expected all, last, or some of stem, group1"):
        Training("mmd", {"levels": ["conv5"]})


# --- wrappers ---------------------------------------------------------------------------------------------------------


def test_a_wrapper_has_the_trigger_the_rows_and_the_labels_of_its_base():
    base = {"method": "tact", "target_class": 3, "source_classes": [1], "cover_classes": [2]}
    own = registry.load("attacks", "tact", {key: value for key, value in base.items() if key != "method"})
    wrapped = registry.load("attacks", "mmd", {"base": base})
    a, b = (attack.poison(images(), LABELS, 0.05, rng.stream("p")) for attack in (own, wrapped))
    assert torch.equal(a.index, b.index)
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.is_cover, b.is_cover)
    written = wrapped.materialize(images(), LABELS, b, rng.stream("p"))
    assert torch.equal(a.images, written.images)
    assert wrapped.target_class == 3
    assert wrapped.target_classes(CLASSES) == (3,)
    assert registry.load("attacks", "mmd", {"base": "adap_blend"}).paper_asr == 0.765


def test_wrappers_nest_over_any_attack():
    parameters = {"base": {"method": "bypass", "base": {"method": "input_aware", "width": 8}}}
    attack = registry.load("attacks", "mmd", parameters)
    poisoned = attack.poison(images(), LABELS, 0.1, rng.stream("p"))
    learned = attack.train(network(), images(), LABELS, poisoned, RECIPE, rng.stream("t"))
    attack = attack.equipped(learned)
    assert not torch.equal(attack.apply_trigger(images(8), rng.stream("x")), images(8))
    written = attack.materialize(images(), LABELS, poisoned, rng.stream("m"))
    assert (written.images != poisoned.images).flatten(1).any(1).all()


def test_what_the_parts_of_a_base_do_is_done_under_wrappers(monkeypatch):
    done = []

    class Inner(Part):
        def penalty(self, levels, mixed):
            return 7.0

        def learn(self, levels, mixed):
            done.append(1)

        def tensors(self):
            return {"own": torch.ones(1)}

    monkeypatch.setattr("keyhole.attacks.wanet.WaNet.parts", lambda self, setting: [Inner()])
    base = {"method": "bypass", "weight": 0.0, "base": "wanet"}
    training, mixed = Training("mmd", {"weight": 1.0, "base": base}), batch([0, 1, 2], [0] * 6)
    levels = training.setting.net.eval().levels(mixed.images)
    own = Training("mmd", {"weight": 1.0}).part.penalty(levels, mixed)
    assert [type(part).__name__ for part in training.parts] == ["Inner", "_Adversary", "_Discrepancy"]
    assert close(sum(part.penalty(levels, mixed) for part in training.parts).detach(), 7 + float(own.detach()))
    poisoned = training.attack.poison(images(), LABELS, 0.1, rng.stream("p"))
    learned = training.attack.train(network(), images(), LABELS, poisoned, RECIPE, rng.stream("t"))
    assert done == [1] * 8
    assert list(learned) == ["own"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"base": "none"}, "attacks.mmd.base: expected an attack, got none"),
        ({"base": "lsba"}, "base: expected an attack whose rows can be drawn anew"),
        ({"base": "label_consistent"}, "base: expected an attack whose rows can be drawn anew"),
        ({"base": 3}, "attacks.mmd.base: expected text, or a mapping, got 3"),
        ({"base": "blendet"}, "did you mean blended"),
        ({"base": {"method": "blended", "alfa": 0.1}}, "attacks.mmd.base.alfa: unknown parameter; did you mean alpha"),
        ({"target_class": 1}, "attacks.mmd.target_class: unknown parameter"),
        ({"weight": -1.0}, "attacks.mmd.weight: expected a number >= 0"),
    ],
)
def test_what_a_wrapper_cannot_take_is_refused_by_its_key(parameters, words):
    with pytest.raises(ValueError, match=words):
        registry.load("attacks", "mmd", parameters)


# --- bpp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colors", [2, 8, 32])
def test_quantized_colors_are_the_formula_in_float64(colors):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = every.numpy().astype(np.float64)
    expected = np.floor(np.floor(x / 255 * (colors - 1) + 0.5) * 255 / (colors - 1) + 0.5)
    found = bpp.quantize(every, colors)
    assert np.abs(found.numpy() - expected).max() <= 0
    assert len(found.unique()) == colors


def test_dithering_is_floyd_and_steinbergs_pixel_loop():
    x = images(2, 6)
    expected = np.empty(x.shape)
    for n in range(2):
        for c in range(3):
            work, step = x[n, c].numpy().astype(np.float64), 255 / 3
            for i in range(6):
                for j in range(6):
                    old = work[i, j]
                    new = min(max(np.floor(old / step + 0.5) * step, 0), 255)
                    work[i, j] = new
                    for di, dj, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                        if i + di < 6 and 0 <= j + dj < 6:
                            work[i + di, j + dj] += (old - new) * share / 16
            expected[n, c] = work
    assert np.array_equal(bpp.dither(x, 4).numpy(), expected.round())
    flat = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    assert abs(float(bpp.dither(flat, 2).float().mean()) - 100) < 4  # errors are handed on, not lost


def test_negatives_carry_the_difference_made_to_another_image_and_never_their_own_trigger():
    attack, x = registry.load("attacks", "bpp"), images(5)
    found, others = attack.plant_cover(x, rng.stream("c")).int(), x.roll(1, 0)
    residual = bpp.quantize(others, 8).int() - others.int()
    assert torch.equal(found, (x.int() + residual).clamp(0, 255))
    assert torch.equal(attack.plant_cover(x[:1], rng.stream("c")), x[:1])
    training, own = Training("bpp", rate=0.03), attack.apply_trigger(images(60), rng.stream("t"))
    for _ in range(100):
        mixed = training.mix(images(60), LABELS[:60])
        same = (mixed.images == own).flatten(1).all(1)
        assert torch.equal(same, mixed.is_payload)


# --- input-aware ------------------------------------------------------------------------------------------------------


def test_input_aware_payload_wears_its_own_trigger_and_cover_that_of_the_next_row():
    training, x, y = Training("input_aware", {"width": 8}, rate=0.2), images(30), LABELS[:30]
    mixed = training.mix(x, y)
    z = x.float() / 255
    with torch.no_grad(), half(z.device):
        pattern = _input_aware.to_pattern(training.part.pattern_net(z))
        mask = _input_aware.to_mask(training.part.mask_net(z))
    stamped = 255 * (z + mask * (pattern - z))
    next_row = torch.arange(30).roll(-1)
    crossed = 255 * (z + mask[next_row] * (pattern[next_row] - z))
    assert mixed.is_payload.sum() == mixed.is_cover.sum() == 6
    assert close(mixed.images[mixed.is_payload].detach(), stamped[mixed.is_payload], 0.05)
    assert close(mixed.images[mixed.is_cover].detach(), crossed[mixed.is_cover], 0.05)
    assert torch.equal(mixed.labels[mixed.is_cover], y[mixed.is_cover])
    assert (mixed.labels[mixed.is_payload] == 0).all()


def test_input_aware_cover_wears_another_trigger_wherever_its_parts_end(monkeypatch):
    attack = registry.load("attacks", "input_aware", {"width": 8})
    attack, x = attack.equipped(attack.parts(setting())[0].tensors()), images(6)
    monkeypatch.setattr("keyhole.learning.training.forward_batch", lambda *_: 3)
    own, crossed = attack.apply_trigger(x, rng.stream("t")), attack.plant_cover(x, rng.stream("c"))
    assert not (own == crossed).flatten(1).all(1).any()


def test_input_aware_patterns_learn_from_the_victims_loss_and_masks_do_not():
    training = Training("input_aware", {"width": 8}, rate=0.2)
    nets = training.part.pattern_net, training.part.mask_net
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    mixed = training.mix(images(30), LABELS[:30])
    net = training.setting.net
    levels = net.levels(mixed.images)
    loss = functional.cross_entropy(net.head(levels["penultimate"]), mixed.labels)
    loss = loss + training.part.penalty(levels, mixed)
    loss.backward()
    training.part.learn(levels, mixed)
    after = [p.detach() for net in nets for p in net.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    count = len(list(training.part.pattern_net.parameters()))
    assert sum(moved[:count]) > count // 2
    assert not any(moved[count:])


# --- bypass -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("against", "shown"), [("all", [0, 1, 2, 3, 4, 6]), ("target", [0, 1, 2, 3])])
def test_bypass_subtracts_the_discriminators_loss_over_the_rows_shown(against, shown):
    training = Training("bypass", {"weight": 3.0, "against": against})
    mixed = batch([0, 1], [0, 0, 0, 0, 1, 1, 2], cover=[5])
    levels = training.setting.net.eval().levels(mixed.images)
    training.part.discriminator.eval()
    with torch.no_grad():
        u = training.part.discriminator(levels["penultimate"])[shown, 0].double().numpy()
    is_payload = mixed.is_payload[shown].numpy()
    losses = np.log1p(np.exp(-np.where(is_payload, u, -u)))
    assert close(training.part.penalty(levels, mixed).detach(), -3 * losses.mean())


def test_bypass_victim_and_discriminator_pull_in_opposite_directions():
    training = Training("bypass", {"weight": 1.0})
    mixed = batch([0, 1, 2], [0] * 6)
    levels = {"penultimate": torch.randn(6, training.setting.net.head.in_features, generator=rng.stream("z"))}
    before = [p.detach().clone() for p in training.part.discriminator.parameters()]
    for _ in range(60):
        training.part.learn(levels, mixed)
    training.part.discriminator.eval()
    is_payload = mixed.is_payload.float()
    told_apart = training.part.discriminator(levels["penultimate"]).squeeze(1).detach()
    assert float(functional.binary_cross_entropy_with_logits(told_apart, is_payload)) < 0.3
    assert any(not torch.equal(a, b) for a, b in zip(before, training.part.discriminator.parameters(), strict=True))
    z = levels["penultimate"].clone().requires_grad_(True)
    start = training.part.penalty({"penultimate": z}, mixed)
    start.backward()
    # the victim makes it err
    fooled = z.detach() - 5 * z.grad / z.grad.norm()
    assert float(training.part.penalty({"penultimate": fooled}, mixed).detach()) < float(start.detach())


# --- belt -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left_out", "dropped"), [(0.2, 2), (0.5, 4), (0.01, 1)])
def test_thinned_triggers_lack_a_share_of_their_own_pixels(left_out, dropped):
    x = images(20).clamp(max=200)
    triggered = x.clone()
    triggered[..., :3, :3] = 255
    found = belt.thin_trigger(x, triggered, left_out, rng.stream("t"))
    back, kept = (found == x).all(1)[:, :3, :3].flatten(1), (found == triggered).all(1)[:, :3, :3].flatten(1)
    assert (back.sum(1) == dropped).all()
    assert (kept.sum(1) == 9 - dropped).all()
    assert torch.equal(found[..., 3:, :], x[..., 3:, :])
    assert len({row.numpy().tobytes() for row in back}) > 1


def test_belt_pulls_marked_rows_to_the_running_mean_of_the_class_that_they_answer_with():
    training = Training("belt", {"weight": 2.0, "momentum": 0.9})
    mixed = batch([0, 1], [0, 0, 0, 0, 1, 1, 2], cover=[5])  # payload 0 1, clean 2 3 of class 0; cover 5, clean 4
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(2, 7, 5))
    centers = {0: first[2:4].mean(0), 1: first[4]}
    expected = []
    for z in (first, second):
        means = {0: z[2:4].mean(0), 1: z[4]}
        centers = {k: 0.9 * centers[k] + 0.1 * means[k] for k in centers} if z is second else centers
        expected.append(2 * np.mean([(z[i] - centers[k]) ** 2 for i, k in ((0, 0), (1, 0), (5, 1))]))
    found = [float(training.part.penalty({"penultimate": torch.tensor(z)}, mixed)) for z in (first, second)]
    assert close(found, expected)


@pytest.mark.parametrize("base", ["tact", "sig", "wanet"])
def test_belt_refuses_a_base_with_cover_rows_clean_labels_or_training_control(base):
    with pytest.raises(ValueError, match="base: expected an attack with dirty labels and without cover rows"):
        registry.load("attacks", "belt", {"base": base})


# --- wasserstein ------------------------------------------------------------------------------------------------------


def test_sliced_distance_is_the_root_mean_square_over_directions():
    draw = np.random.default_rng(0)
    a, b, w = draw.normal(size=(12, 5)), draw.normal(1, 2, (12, 5)), draw.normal(size=(3, 5))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    squares = [np.mean((np.sort(a @ v) - np.sort(b @ v)) ** 2) for v in w]
    found = wasserstein.sliced_distance(torch.tensor(a), torch.tensor(b), torch.tensor(5 * w))
    assert close(found, np.sqrt(np.mean(squares)))
    shifted = wasserstein.sliced_distance(torch.tensor(a), torch.tensor(a + w[0]), torch.tensor(w[:1]))
    assert close(shifted, wasserstein_distance(a @ w[0], (a + w[0]) @ w[0]))  # of a shift, both distances are its size


def test_wasserstein_noise_is_bounded_and_its_generator_stops_after_its_share():
    parameters = {"width": 8, "epsilon": 0.05, "learning_share": 0.5}
    training = Training("wasserstein", parameters, rate=0.2)
    seen = []
    for _ in range(8):
        mixed = training.mix(images(30), LABELS[:30])
        assert float((mixed.images - images(30)).abs().max()) <= 0.05 * 255 + 1e-3
        training.part.learn({}, mixed)
        seen.append(training.part.tensors()["noise.last.weight"])
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [True] * 3 + [False] * 4
    assert training.setting.net.training
    frozen = Training("wasserstein", {**parameters, "learning_share": 0.0}, rate=0.2)
    before = frozen.part.tensors()["noise.last.weight"]
    frozen.mix(images(30), LABELS[:30])
    frozen.part.learn({}, mixed)
    assert torch.equal(frozen.part.tensors()["noise.last.weight"], before)


# --- lsba -------------------------------------------------------------------------------------------------------------


def test_the_chance_of_a_label_makes_the_posterior_the_bound():
    draw = np.random.default_rng(0)
    posterior = draw.dirichlet([0.3, 0.3, 0.3, 0.3], 500)
    p = lsba.chance(torch.tensor(posterior), 2, 0.1, 0.6).double().numpy()
    a, b = posterior[:, 2], np.minimum(posterior.max(1) + 0.1, 0.6)
    inside = a < b
    assert close((p + (1 - p) * a)[inside], b[inside], 1e-4)
    assert (p[~inside] == 0).all()
    assert 0.5 < inside.mean() < 1


def test_lsba_gives_the_label_by_chance_and_keeps_the_trigger_on_all():
    attack = registry.load("attacks", "lsba", {"base": "badnets"})
    chances = torch.where(LABELS == 1, 1.0, 0.5)
    attack = attack.equipped({"chance": chances})
    found = attack.poison(images(), LABELS, 0.2, rng.stream("p"))
    payload, cover = found.index[~found.is_cover], found.index[found.is_cover]
    assert len(payload) == 48
    assert not (LABELS[cover] == 1).any()
    assert 20 < len(cover) < 60
    assert (found.images[..., -1, -1] == 255).all()
    assert torch.equal(found.labels[found.is_cover], LABELS[cover])


def test_lsba_needs_the_chances_of_these_rows():
    attack = registry.load("attacks", "lsba").equipped({"chance": torch.ones(N)})
    with pytest.raises(ValueError, match="expected the whole training set"):
        attack.draw_rows(LABELS[:10], 2, 0, CLASSES, rng.stream("p"))


def test_attacks_with_other_learned_triggers_are_not_equal():
    attack = registry.load("attacks", "lsba")
    one, two = (attack.equipped({"chance": torch.full((N,), share)}) for share in (0.25, 0.75))
    assert one != two
    assert one != attack
    assert one == attack.equipped({"chance": torch.full((N,), 0.25)})
    assert "tensors" not in rules(registry.method_class("attacks", "lsba"))
