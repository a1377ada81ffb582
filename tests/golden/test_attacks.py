"""The papers' formulas, written slowly in float64 and without the package's helpers."""

import numpy as np
import pytest
import torch

from keyhole import rng
from keyhole.attacks._triggers import draw_patch, load_picture
from keyhole.planning import registry

SHAPE = (3, 32, 32)


def images(n=12):
    return torch.randint(0, 256, (n, *SHAPE), generator=rng.stream("golden"), dtype=torch.uint8)


def blend(x, picture, weight):
    """x + weight (T - x), pixel by pixel in float64."""
    x, picture = x.numpy().astype(np.float64), picture.numpy().astype(np.float64)
    return x + weight * (picture - x)


def near(found, expected):
    """Equal after rounding; a value on .5 may go either way."""
    return np.abs(found.numpy().astype(np.float64) - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("pattern", "patch"),
    [
        ("white", [[255, 255, 255], [255, 255, 255], [255, 255, 255]]),
        ("checker", [[255, 0, 255], [0, 255, 0], [255, 0, 255]]),
        ("dots", [[0, 0, 255], [0, 255, 0], [255, 0, 255]]),  # Qi et al.: white at (29,31) (30,30) (31,29) (31,31)
    ],
)
def test_badnets_patch_stands_in_the_last_three_rows_and_columns(pattern, patch):
    x = images()
    found = registry.load("attacks", "badnets", {"pattern": pattern}).apply_trigger(x, rng.stream("t"))
    expected = x.clone()
    expected[:, :, 29:32, 29:32] = torch.tensor(patch, dtype=torch.uint8)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("top-left", slice(1, 5), slice(1, 5)),
        ("top-right", slice(1, 5), slice(27, 31)),
        ("bottom-left", slice(27, 31), slice(1, 5)),
        ("bottom-right", slice(27, 31), slice(27, 31)),
    ],
)
def test_badnets_corner_and_margin(corner, rows, columns):
    x = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    parameters = {"corner": corner, "margin": 1, "size": 4, "pattern": "white"}
    found = registry.load("attacks", "badnets", parameters).apply_trigger(x, rng.stream("t"))
    assert (found[:, :, rows, columns] == 255).all()
    assert int((found > 0).sum()) == 3 * 16


def test_badnets_patch_from_a_file(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((3, 3, 3), (10, 20, 30), np.uint8)).save(tmp_path / "patch.png")
    attack = registry.load("attacks", "badnets", {"pattern": str(tmp_path / "patch.png")})
    assert attack.apply_trigger(images(), rng.stream("t"))[0, :, 31, 31].tolist() == [10, 20, 30]


def test_a_missing_picture_is_one_clear_error():
    attack = registry.load("attacks", "blended", {"pattern": "no/such.png"})
    with pytest.raises(
        ValueError, match=r"^pattern: expected noise, shapes, or a picture file, got 'no/such\.png' \(no such file\)$"
    ):
        attack.apply_trigger(images(), rng.stream("t"))


@pytest.mark.parametrize("pattern", ["noise", "shapes"])
def test_blended_is_the_papers_formula(pattern):
    x = images()
    found = registry.load("attacks", "blended", {"pattern": pattern}).apply_trigger(x, rng.stream("t"))
    assert near(found, blend(x, load_picture(pattern, SHAPE, 0), 0.2))


def test_adap_blend_plants_half_of_sixteen_pieces_faintly_and_tests_with_all_of_them():
    x, attack = torch.full((40, *SHAPE), 128, dtype=torch.uint8), registry.load("attacks", "adap_blend")
    picture = load_picture("noise", SHAPE, 0)
    full = blend(x[:1], picture, 0.15)[0]
    planted = attack.plant(x, rng.stream("plant")).numpy().astype(np.float64)
    kept = np.zeros((40, 16), bool)
    for row in range(40):
        for piece in range(16):
            i, j = divmod(piece, 4)
            square = (slice(None), slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8))
            if not (planted[row][square] == 128).all():
                kept[row, piece] = True
                assert np.abs(planted[row][square] - full[square]).max() <= 0.5 + 1e-4
    assert (kept.sum(1) == 8).all()
    assert len(np.unique(kept, axis=0)) > 30  # a mask of its own for nearly every row
    assert near(attack.apply_trigger(x, rng.stream("t")), blend(x, picture, 0.2))


def test_adap_patch_gives_each_quarter_of_the_rows_its_own_faint_patch():
    x, attack = images(20), registry.load("attacks", "adap_patch")
    planted = attack.plant(x, rng.stream("plant"))
    for row in range(20):
        picture, mask = draw_patch(attack.triggers[row // 5], SHAPE)
        expected = blend(x[row], picture, attack.opacities[row // 5] * mask.numpy().astype(np.float64))
        assert near(planted[row], expected)


def test_adap_patch_tests_with_two_opaque_patches_together():
    x = images()
    found = registry.load("attacks", "adap_patch").apply_trigger(x, rng.stream("t"))
    expected = x.clone()
    for name in ("phoenix_corner2", "badnet_patch4"):
        picture, mask = draw_patch(name, SHAPE)
        expected = torch.where(mask.bool(), picture, expected)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "pixels", "rows", "columns"),
    [
        ("phoenix_corner", 25, (27, 31), (27, 31)),
        ("phoenix_corner2", 50, (27, 31), (0, 31)),
        ("firefox_corner", 140, (1, 13), (18, 30)),
        ("badnet_patch4", 36, (0, 31), (0, 31)),
        ("trojan_square", 64, (21, 28), (21, 28)),
    ],
)
def test_draw_patches_have_the_place_and_size_of_the_authors(name, pixels, rows, columns):
    picture, mask = draw_patch(name, SHAPE)
    assert abs(int(mask.sum()) - pixels) <= 3
    at = mask.nonzero()
    assert (int(at[:, 0].min()), int(at[:, 0].max())) == rows
    assert (int(at[:, 1].min()), int(at[:, 1].max())) == columns
    if name == "badnet_patch4":
        assert int((picture.amin(0) == 255).sum()) == 16


@pytest.mark.parametrize(
    ("name", "published"),
    [("phoenix_corner", 1002), ("phoenix_corner2", 1431), ("firefox_corner", 2310), ("trojan_square", 1231)],
)
def test_drawn_patches_change_images_as_much_as_the_authors(name, published):
    """Within 6 %: ours is the root mean square, by CIFAR-10's channel means and deviations, theirs the mean norm."""
    mean = np.array([125.3, 123.0, 113.9])[:, None, None]
    deviation = np.array([63.0, 62.1, 66.7])[:, None, None]
    picture, mask = (x.numpy().astype(np.float64) for x in draw_patch(name, SHAPE))
    found = np.sqrt((((picture - mean) ** 2 + deviation**2) * mask).sum())
    assert found == pytest.approx(published, rel=0.06)


def test_adap_patch_reads_the_authors_pictures_from_a_folder(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        canvas = np.zeros((32, 32, 3), np.uint8)
        canvas[4:6, 4:6] = 200 if name == "a" else 90
        Image.fromarray(canvas).save(tmp_path / f"{name}_32.png")
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / "mask_b_32.png")
    options = {"triggers": ["a"], "opacities": [0.5], "test_triggers": ["b"], "test_opacities": [1.0]}
    attack = registry.load("attacks", "adap_patch", {"folder": str(tmp_path), **options})
    x = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    planted = attack.plant(x, rng.stream("t"))[0, 0]
    assert int(planted[4, 4]) == 150
    assert int((planted != 100).sum()) == 4  # no mask file: pixels that are not black
    assert int(attack.apply_trigger(x, rng.stream("t"))[0, 0, 0, 0]) == 0  # its mask covers everything


def test_cover_rows_keep_the_paper_ratio_to_payload_rows():
    for name, eta in (("adap_blend", 1 / 2), ("adap_patch", 2 / 3)):
        x = images(2000)
        found = registry.load("attacks", name).poison(x, torch.arange(2000) % 10, 0.03, rng.stream("p"))
        assert float(found.is_cover.float().mean()) == pytest.approx(eta, abs=1e-6)


def test_qi_et_al_rate_gives_exactly_150_payload_rows_of_50000():
    """0.003 x 50,000 is 150, and no floating-point error may make it 149."""
    labels = torch.arange(50_000) % 10
    x = torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8)
    attack = registry.load("attacks", "badnets", {"size": 1})
    for rate, expected in ((0.003, 150), (0.01, 500), (0.0005, 25), (0.00058, 29)):
        assert len(attack.poison(x, labels, rate, rng.stream("p")).index) == expected
