"""Which rows a map of latents shows, and where they lie."""

import numpy as np
import pytest

from keyhole.scoring import latent_maps


def kinds(clean, cover, payload):
    return np.array(["clean"] * clean + ["cover"] * cover + ["payload"] * payload)


def counts(drawn):
    return {kind: int((drawn == kind).sum()) for kind in latent_maps.KINDS}


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ((5000, 400, 150), (150, 150, 150)),
        ((5000, 20, 150), (150, 20, 150)),  # all there is of a kind
        ((5000, 0, 3000), (1000, 0, 1000)),
        ((5000, 0, 0), (1000, 0, 0)),  # a clean model
    ],
)
def test_kinds_are_drawn_equally(sizes, drawn):
    all_kinds = kinds(*sizes)
    rows = latent_maps.sample_kinds(all_kinds, 0)
    assert counts(all_kinds[rows]) == dict(zip(latent_maps.KINDS, drawn, strict=True))
    assert len(set(rows)) == len(rows)


def test_other_seeds_draw_other_rows():
    all_kinds = kinds(500, 0, 50)
    first, again, other = (latent_maps.sample_kinds(all_kinds, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["t-SNE", "PCA"])
def test_maps_keep_two_blobs_apart_and_repeat(method):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(60, 80)).astype(np.float32)
    latents[30:] += 5
    points = latent_maps.latent_map(latents, method, 3)
    assert points.shape == (60, 2)
    middle, others = points[:30].mean(0), points[30:].mean(0)
    assert np.linalg.norm(middle - others) > 2 * np.linalg.norm(points[:30] - middle, axis=1).mean()
    assert np.array_equal(points, latent_maps.latent_map(latents, method, 3))


@pytest.mark.parametrize("method", ["t-SNE", "PCA"])
@pytest.mark.parametrize(("rows", "broken"), [(60, True), (3, False)])
def test_latents_that_cannot_be_mapped_have_no_place(method, rows, broken):
    latents = np.zeros((rows, 8), np.float32)
    if broken:
        latents[0, 0] = np.nan
    assert np.isnan(latent_maps.latent_map(latents, method, 0)).all()


def test_a_single_feature_can_be_mapped():
    points = latent_maps.latent_map(np.arange(10, dtype=np.float32)[:, None], "PCA", 0)
    assert np.isfinite(points).all()


def test_only_rows_with_the_target_label_and_cover_rows_are_mapped():
    latents = np.arange(40, dtype=np.float32).reshape(20, 2)
    labels = np.repeat([0, 1], 10)
    poisoned = {"index": np.array([10, 11, 12]), "labels": np.array([0, 0, 1]), "is_cover": np.array([0, 0, 1], bool)}
    found = latent_maps.map_latents(latents, labels, poisoned, 0, 0)
    assert set(found.points) == {"t-SNE", "PCA"}
    assert counts(found.kinds) == {"clean": 2, "cover": 1, "payload": 2}
