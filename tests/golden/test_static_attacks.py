"""Attacks without anything learned: their formulas, written slowly in float64 and without the package's helpers."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from keyhole import rng
from keyhole.attacks._triggers import assign_parts, draw_patch
from keyhole.planning import registry

SHAPE = (3, 32, 32)


def images(n=12, shape=SHAPE):
    return torch.randint(0, 256, (n, *shape), generator=rng.stream("golden", "static"), dtype=torch.uint8)


def near(found, expected):
    """Equal after rounding; a value on .5 may go either way."""
    return np.abs(found.numpy().astype(np.float64) - expected).max() <= 0.5 + 1e-3


def with_square(x):
    """The drawn square written over rows and columns 21-28."""
    picture, _ = draw_patch("trojan_square", SHAPE)
    x = x.clone()
    x[:, :, 21:29, 21:29] = picture[:, 21:29, 21:29]
    return x


def file_square(folder, color):
    from PIL import Image

    canvas = np.zeros((32, 32, 3), np.uint8)
    canvas[2:6, 3:7] = color
    Image.fromarray(canvas).save(folder / "theirs_32.png")
    return {"trigger": "theirs", "folder": str(folder)}


# --- trojan patch -----------------------------------------------------------------------------------------------------


def test_trojan_patch_writes_the_square_over_training_and_test_images():
    x, attack = images(), registry.load("attacks", "trojan_patch")
    assert torch.equal(attack.apply_trigger(x, rng.stream("t")), with_square(x))
    assert torch.equal(attack.plant(x, rng.stream("t")), with_square(x))


@pytest.mark.parametrize("name", ["trojan_patch", "tact"])
def test_a_picture_from_a_folder_takes_the_squares_place(name, tmp_path):
    x, attack = images(), registry.load("attacks", name, file_square(tmp_path, (10, 200, 30)))
    expected = x.clone()
    expected[:, :, 2:6, 3:7] = torch.tensor([10, 200, 30], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(attack.apply_trigger(x, rng.stream("t")), expected)


# --- TaCT -------------------------------------------------------------------------------------------------------------


def test_tact_takes_payload_from_the_source_class_and_cover_from_the_cover_classes():
    x, labels = images(600), torch.arange(600) % 10
    found = registry.load("attacks", "tact").poison(x, labels, 0.05, rng.stream("p"))
    true = labels[found.index]
    assert int((~found.is_cover).sum()) == int(found.is_cover.sum()) == 30
    assert set(true[~found.is_cover].tolist()) == {1}
    assert set(true[found.is_cover].tolist()) == {5, 7}
    assert (found.labels[~found.is_cover] == 0).all()
    assert torch.equal(found.labels[found.is_cover], true[found.is_cover]), "cover labels are kept"
    assert torch.equal(found.images, with_square(x)[found.index])


def test_tact_draws_payload_and_cover_at_random_and_independently_of_the_rate():
    x, labels, attack = images(600), torch.arange(600) % 10, registry.load("attacks", "tact")
    small, large, other = (
        attack.poison(x, labels, rate, rng.stream("p", seed)) for rate, seed in ((0.02, 0), (0.08, 0), (0.02, 1))
    )
    for cover in (False, True):
        chosen = [set(p.index[p.is_cover == cover].tolist()) for p in (small, large, other)]
        assert chosen[0] < chosen[1]
        assert chosen[0] != chosen[2]
    first = [row for row in range(600) if row % 10 in (5, 7)][:12]
    assert small.index[small.is_cover].tolist() != first


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [({}, 0.11), ({"cover_classes": (5,), "cover_ratio": 2.0}, 0.06), ({"source_classes": (1, 2)}, 0.21)],
)
def test_tact_refuses_more_rows_than_its_classes_hold(parameters, rate):
    """The authors' loop runs past its list and stops with an IndexError."""
    x, labels = images(600), torch.arange(600) % 10
    with pytest.raises(ValueError, match=r"expected at least \d+ payload and \d+ cover rows"):
        registry.load("attacks", "tact", parameters).poison(x, labels, rate, rng.stream("p"))


def test_tact_may_use_up_its_source_class():
    x, labels = images(600), torch.arange(600) % 10
    found = registry.load("attacks", "tact").poison(x, labels, 0.1, rng.stream("p"))
    assert found.index[~found.is_cover].tolist() == [row for row in range(600) if row % 10 == 1]


def test_tact_is_scored_on_its_source_classes_only():
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    attack = registry.load("attacks", "tact")
    assert attack.eligible(labels, 10).nonzero().squeeze(1).tolist() == [1, 10]
    assert attack.relabel(labels, 10).tolist() == [0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    two = registry.load("attacks", "tact", {"source_classes": (2, 9), "target_class": 4})
    assert two.eligible(labels, 10).nonzero().squeeze(1).tolist() == [2, 9]
    assert two.target_classes(10) == (4,)


def test_tact_without_cover():
    x, labels = images(200), torch.arange(200) % 10
    attack = registry.load("attacks", "tact", {"cover_ratio": 0.0, "cover_classes": ()})
    found = attack.poison(x, labels, 0.05, rng.stream("p"))
    assert len(found.index) == 10
    assert not found.is_cover.any()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"source_classes": (1, 5)}, r"cover_classes: expected none of source_classes, got \[5\]"),
        ({"source_classes": (0,)}, "source_classes: expected classes other than target_class 0"),
        ({"target_class": 7}, "cover_classes: expected classes other than target_class 7"),
        ({"source_classes": ()}, "source_classes: expected at least one class"),
        ({"cover_classes": ()}, "cover_classes: expected at least one class"),
        ({"cover_ratio": -1.0}, "cover_ratio: expected a number >= 0, got -1"),
        ({"label_map": "all_to_all"}, "label_map: expected all_to_one"),
        ({"label_map": "multi_target"}, "label_map: expected all_to_one"),
    ],
)
def test_tact_refuses_classes_that_do_not_go_together(parameters, words):
    with pytest.raises(ValueError, match=words):
        registry.load("attacks", "tact", parameters)


# --- SIG --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delta", "frequency", "shape"), [(30.0, 6.0, SHAPE), (40.0, 3.0, (1, 20, 28))])
def test_sig_adds_the_sinusoid_column_by_column(delta, frequency, shape):
    x = images(4, shape)
    found = registry.load("attacks", "sig", {"delta": delta, "frequency": frequency}).apply_trigger(x, rng.stream("t"))
    expected = x.numpy().astype(np.float64)
    width = shape[2]
    for j in range(width):
        expected[:, :, :, j] += delta * np.sin(2 * np.pi * frequency * j / width)
    assert near(found, expected.clip(0, 255))


def test_sig_bars_stand_upright():
    x = torch.full((1, *SHAPE), 128, dtype=torch.uint8)
    found = registry.load("attacks", "sig").apply_trigger(x, rng.stream("t"))[0]
    assert (found == found[:, :1, :]).all(), "all rows are alike"
    assert found[0, 0].unique().numel() > 4
    power = np.abs(np.fft.rfft(found[0, 0].numpy() - 128.0))
    assert int(power.argmax()) == 6, "six periods in the width"


def test_sig_changes_rows_of_the_target_class_and_no_label():
    x, labels = images(600), torch.arange(600) % 10
    attack = registry.load("attacks", "sig", {"target_class": 3})
    found = attack.poison(x, labels, 0.05, rng.stream("p"))
    assert (labels[found.index] == 3).all()
    assert (found.labels == 3).all()
    assert not found.is_cover.any()
    assert torch.equal(found.images, attack.apply_trigger(x[found.index], rng.stream("t"))), "full strength in both"
    assert torch.equal(attack.eligible(labels, 10), labels != 3)


def test_sig_refuses_a_rate_above_its_class():
    """The rate is a share of all rows; the authors cut it down to the class without a word."""
    x, labels, attack = images(600), torch.arange(600) % 10, registry.load("attacks", "sig")
    assert len(attack.poison(x, labels, 0.1, rng.stream("p")).index) == 60
    with pytest.raises(ValueError, match=r"expected at least 66 payload and 0 cover rows .* got 60 and 0"):
        attack.poison(x, labels, 0.11, rng.stream("p"))


@pytest.mark.parametrize("label_map", ["all_to_all", "multi_target"])
def test_sig_keeps_its_labels_and_so_refuses_other_label_maps(label_map):
    with pytest.raises(ValueError, match="label_map: expected all_to_one"):
        registry.load("attacks", "sig", {"label_map": label_map})


# --- Adap-K-Way -------------------------------------------------------------------------------------------------------

PIXELS = [(16, 11), (27, 5), (7, 30), (22, 22)]
COLORS = [(92, 0, 24), (88, 112, 110), (0, 32, 46), (11, 49, 95)]


@pytest.mark.parametrize("n", [40, 22, 19, 17])
def test_adap_k_way_gives_each_quarter_of_the_rows_its_own_pixel(n):
    x = images(n)
    expected = x.clone()
    for row in range(n):
        which = next(j for j in range(4) if row < (j + 1) * n / 4)
        for channel in range(3):
            expected[row, channel, PIXELS[which][0], PIXELS[which][1]] = COLORS[which][channel]
    assert torch.equal(registry.load("attacks", "adap_k_way").plant(x, rng.stream("t")), expected)


@pytest.mark.parametrize("n", [1, 3, 7, 10, 12])
def test_quarters_of_few_rows_are_as_large_and_get_pieces_at_random(n):
    expected = sorted(sum(1 for row in range(n) if 4 * row // n == part) for part in range(4))
    stream = rng.stream("parts")
    drawn = [assign_parts(n, 4, stream) for _ in range(50)]
    assert all(sorted(torch.bincount(parts, minlength=4).tolist()) == expected for parts in drawn)
    assert {int(parts[0]) for parts in drawn} == {0, 1, 2, 3}


def test_adap_k_way_sets_all_pixels_at_test_time():
    x = images()
    expected = x.clone()
    for (i, j), color in zip(PIXELS, COLORS, strict=True):
        expected[:, :, i, j] = torch.tensor(color, dtype=torch.uint8)
    assert torch.equal(registry.load("attacks", "adap_k_way").apply_trigger(x, rng.stream("t")), expected)


def test_adap_k_way_counts_quarters_of_payload_and_cover_apart():
    x, labels = torch.full((2000, *SHAPE), 200, dtype=torch.uint8), torch.arange(2000) % 10
    found = registry.load("attacks", "adap_k_way").poison(x, labels, 0.02, rng.stream("p"))
    assert int(found.is_cover.sum()) == 40
    for cover in (False, True):
        planted = found.images[found.is_cover == cover]
        assert (planted != 200).any(1).sum((1, 2)).tolist() == [1] * 40
        which = [[k for k, (i, j) in enumerate(PIXELS) if image[0, i, j] != 200] for image in planted]
        assert which == [[k] for k in range(4) for _ in range(10)]


def test_adap_k_way_on_gray_images_of_another_size():
    x = torch.full((1, 1, 64, 16), 255, dtype=torch.uint8)
    found = registry.load("attacks", "adap_k_way").apply_trigger(x, rng.stream("t"))[0, 0]
    expected = torch.full((64, 16), 255, dtype=torch.uint8)
    for (i, j), (r, g, b) in zip(PIXELS, COLORS, strict=True):
        expected[2 * i, j // 2] = round(0.299 * r + 0.587 * g + 0.114 * b)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"pixels": ((1, 1),)}, "colors: expected one color for each of pixels"),
        ({"pixels": (), "colors": ()}, "colors: expected one color for each of pixels"),
        ({"pixels": ((1, 32),), "colors": ((0, 0, 0),)}, "pixels: expected rows and columns from 0 to 31"),
        ({"pixels": ((1, 1),), "colors": ((0, 256, 0),)}, "colors: expected values from 0 to 255"),
    ],
)
def test_adap_k_way_refuses_pixels_that_do_not_fit(parameters, words):
    with pytest.raises(ValueError, match=words):
        registry.load("attacks", "adap_k_way", parameters)


# --- WaNet ------------------------------------------------------------------------------------------------------------


def cubic(row, at):
    """Keys' cubic convolution with a = -0.75 at one place, the ends repeated."""
    a, total, start = -0.75, 0.0, int(np.floor(at))
    for i in range(start - 1, start + 3):
        d = abs(at - i)
        near_part, far_part = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
        weight = near_part if d <= 1 else far_part
        total += weight * row[min(max(i, 0), len(row) - 1)]
    return total


def warp_field(h, w, k=4, strength=0.5, seed=0):
    """(h, w, 2): x and y, from -1 to 1, where each pixel is read."""
    draws = torch.rand(1, 2, k, k, generator=rng.stream("wanet", seed))[0].numpy().astype(np.float64)
    offsets = 2 * draws - 1
    offsets /= np.abs(offsets).mean()
    wide = np.array([[[cubic(row, j * (k - 1) / (w - 1)) for j in range(w)] for row in plane] for plane in offsets])
    full = np.array(
        [[[cubic(plane[:, j], i * (k - 1) / (h - 1)) for j in range(w)] for i in range(h)] for plane in wide]
    )
    x, y = np.linspace(-1, 1, w)[None, :], np.linspace(-1, 1, h)[:, None]
    field = np.stack([x + strength * full[0] / w, y + strength * full[1] / h], axis=2)
    return field.clip(-1, 1)


def read_at(image, field):
    """Linear interpolation; -1 and 1 are the centers of the outer pixels."""
    _, h, w = image.shape
    places = [(field[..., 1] + 1) / 2 * (h - 1), (field[..., 0] + 1) / 2 * (w - 1)]
    return np.stack([map_coordinates(plane.astype(np.float64), places, order=1, mode="nearest") for plane in image])


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ({}, SHAPE),
        ({"cells": 6, "strength": 1.5, "field_seed": 3}, (1, 24, 40)),
    ],
)
def test_wanet_static_is_the_papers_warp(parameters, shape):
    x = images(3, shape)
    attack = registry.load("attacks", "wanet_static", parameters)
    field = warp_field(
        *shape[1:], parameters.get("cells", 4), parameters.get("strength", 0.5), parameters.get("field_seed", 0)
    )
    expected = np.stack([read_at(image, field) for image in x.numpy()])
    assert near(attack.apply_trigger(x, rng.stream("t")), expected)
    assert near(attack.plant(x, rng.stream("p")), expected), "one warp for training and test"


@pytest.mark.parametrize("shape", [SHAPE, (1, 24, 40)])
def test_wanet_static_cover_is_read_at_the_warp_plus_noise_of_its_own(shape):
    x, (_, h, w) = images(3, shape), shape
    found = registry.load("attacks", "wanet_static").plant_cover(x, rng.stream("c"))
    noise = 2 * torch.rand(3, h, w, 2, generator=rng.stream("c")).numpy().astype(np.float64) - 1
    fields = (warp_field(h, w) + noise / [w, h]).clip(-1, 1)
    expected = np.stack([read_at(image, field) for image, field in zip(x.numpy(), fields, strict=True)])
    assert near(found, expected)


def columns_read(warped):
    """Of a ramp of 8 a column: where each pixel was read."""
    return warped[:, 0].double() / 8


def test_wanet_static_noise_is_drawn_for_each_cover_row():
    """The toolbox gives all cover rows one noise grid, which makes them a second fixed warp."""
    ramp = (8 * torch.arange(32)).clamp(max=255).to(torch.uint8).expand(40, 3, 32, 32)
    attack = registry.load("attacks", "wanet_static")
    payload = columns_read(attack.plant(ramp, rng.stream("p")))
    cover = columns_read(attack.plant_cover(ramp, rng.stream("c")))
    assert (payload == payload[0]).all(), "payload rows share one warp"
    assert len({row.numpy().tobytes() for row in cover}) == 40
    inner = slice(2, 30)  # at the border the grid is cut off
    apart = (cover - payload)[:, inner, inner]
    half_pixel = 31 / 32 / 2 + 2 / 16  # plus the rounding of both to 1/8 column
    assert float(apart.abs().max()) <= half_pixel
    assert float(apart.std(0).min()) > 0.1, "different from row to row at every pixel"
    assert abs(float(apart.mean())) < 0.01


def test_wanet_static_gives_payload_the_warp_and_cover_the_noise():
    x, labels = images(400), torch.arange(400) % 10
    attack = registry.load("attacks", "wanet_static")
    found = attack.poison(x, labels, 0.05, rng.stream("p"))
    warped = attack.apply_trigger(x, rng.stream("t"))[found.index]
    same = (found.images == warped).flatten(1).all(1)
    assert torch.equal(same, ~found.is_cover)
    assert int(found.is_cover.sum()) == 2 * int((~found.is_cover).sum()) == 40
    assert torch.equal(found.labels[found.is_cover], labels[found.index][found.is_cover]), "cover labels are kept"
    assert (found.labels[~found.is_cover] == 0).all()


def test_wanet_static_warp_depends_on_its_seed_alone():
    x = images()
    first, again, other = (
        registry.load("attacks", "wanet_static", {"field_seed": seed}).apply_trigger(x, rng.stream("t", draw))
        for seed, draw in ((0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wanet_static_in_parts_is_the_same_as_at_once(monkeypatch):
    from keyhole.attacks import _warp

    x, attack = images(10), registry.load("attacks", "wanet_static")
    whole = attack.apply_trigger(x, rng.stream("t")), attack.plant_cover(x, rng.stream("c"))
    monkeypatch.setattr(_warp, "CHUNK", 4)
    assert torch.equal(attack.apply_trigger(x, rng.stream("t")), whole[0])
    assert torch.equal(attack.plant_cover(x, rng.stream("c")), whole[1])


def test_wanet_static_refuses_a_negative_cover_ratio():
    with pytest.raises(ValueError, match="cover_ratio: expected a number >= 0, got -1"):
        registry.load("attacks", "wanet_static", {"cover_ratio": -1.0})


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "cover"),
    [
        ("trojan_patch", 0.003, 0),
        ("tact", 0.003, 150),
        ("sig", 0.02, 0),
        ("adap_k_way", 0.003, 150),
        ("wanet_static", 0.05, 5000),
    ],
)
def test_rates_of_the_papers_on_50000_rows(name, rate, cover):
    attack, labels = registry.load("attacks", name), torch.arange(50_000) % 10
    assert registry.method_class("attacks", name).paper_rate == rate
    found = attack.poison(torch.zeros(50_000, 1, 4, 4, dtype=torch.uint8), labels, rate, rng.stream("p"))
    assert int((~found.is_cover).sum()) == round(rate * 50_000)
    assert int(found.is_cover.sum()) == cover
