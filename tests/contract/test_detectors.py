"""What every detector promises, run over every file in the folder."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from keyhole import rng
from keyhole.parameters import rules
from keyhole.planning import registry
from keyhole.types import Classifier, Evidence

METHODS = registry.names("detectors")
CLASSES, SIZE, SIDE, TARGET = 4, 300, 4, 0
PAYLOAD = SIZE // 20  # rows

# judge predictions, which come from a random head here, or pixels
NO_LATENTS = {"confusion_training", "frequency", "lowest_loss", "max_softmax", "strip"}
# scores that nothing centers: whole classes differ, and constant features have a score
UNCENTERED = NO_LATENTS | {"feature_norm"}
# measure from the clean latents that the network gives
FROM_CLEAN = {"knn_to_clean", "mahalanobis", "subspace_reconstruction"}


class Pixels(nn.Module):
    """Pixels of 0..255."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).round()


class Flat(Classifier):
    """A network whose latents are its pixels."""

    def __init__(self, pixels: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = nn.Linear(pixels, CLASSES)
        super().__init__({"penultimate": Pixels()}, head, 1)
        self.mean.zero_()
        self.std.fill_(1 / 255)


def blobs(seed: int, displacement: float) -> tuple[Evidence, Tensor]:
    """Gaussian classes; the first rows of the target class are payload, moved by `displacement` deviations."""
    stream = rng.stream("blobs", seed)
    centers = 128 + 20 * torch.randn(CLASSES, SIDE * SIDE, generator=stream)
    direction = torch.randn(SIDE * SIDE, generator=stream)

    def draw(labels: Tensor) -> Tensor:
        return centers[labels] + 5 * torch.randn(len(labels), SIDE * SIDE, generator=stream)

    labels = torch.arange(CLASSES * SIZE) % CLASSES
    truth = torch.zeros(len(labels), dtype=torch.bool)
    truth[torch.nonzero(labels == TARGET).squeeze(1)[:PAYLOAD]] = True
    x, holdout_labels = draw(labels), torch.arange(CLASSES * 60) % CLASSES
    x[truth] += 5 * displacement * direction / direction.norm()
    images, holdout = (
        v.round().clamp(0, 255).to(torch.uint8).view(-1, 1, SIDE, SIDE) for v in (x, draw(holdout_labels))
    )
    latents = {"penultimate": images.flatten(1).float()}
    return Evidence(Flat(SIDE * SIDE), images, labels, latents, holdout, holdout_labels), truth


QUICK: dict[str, dict] = {  # rounds of seconds, not of hours
    "confusion_training": {
        "ratios": (0.25,),
        "pretrain_epochs": (3, 3),
        "iterations": (30, 30),
        "learning_rates": (0.01, 0.01),
        "penalties": (20.0, 15.0),
    }
}


def load(name: str, truth: Tensor):
    told = {"assumed_payload": tuple(torch.nonzero(truth).squeeze(1).tolist())} if name == "perfect_removal" else {}
    return registry.load("detectors", name, {**told, **QUICK.get(name, {})})


def auroc(scores: Tensor, evidence: Evidence, truth: Tensor) -> tuple[float, float]:
    own = evidence.labels == TARGET
    return roc_auc_score(truth, scores), roc_auc_score(truth[own], scores[own])


def from_latents(x: Tensor, labels: Tensor, holdout_rows: int = 40) -> Evidence:
    """Evidence for edge cases: the latents are given, the hold-out repeats them in its own order."""
    images = x.round().clamp(0, 255).to(torch.uint8).view(len(x), 1, 1, -1)
    rows = torch.arange(holdout_rows) % len(x)
    return Evidence(Flat(x.shape[1]), images, labels, {"penultimate": x}, images[rows], labels[rows])


@pytest.mark.parametrize("name", METHODS)
def test_answer_is_finite_and_covers_every_row_and_inputs_are_left_alone(name):
    evidence, truth = blobs(0, 12)
    before = [t.clone() for t in (evidence.images, evidence.labels, evidence.latents["penultimate"])]
    weights = {key: value.clone() for key, value in evidence.net.state_dict().items()}
    suspicion = load(name, truth).detect(evidence, rng.stream(name))
    assert suspicion.scores.shape == suspicion.flagged.shape == evidence.labels.shape
    assert suspicion.scores.is_floating_point()
    assert suspicion.scores.isfinite().all()
    assert suspicion.flagged.dtype == torch.bool
    after = (evidence.images, evidence.labels, evidence.latents["penultimate"])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(weights[key], value) for key, value in evidence.net.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_same_stream_gives_the_same_answer_whatever_the_global_seed(name):
    evidence, truth = blobs(0, 12)
    torch.manual_seed(1)
    first = load(name, truth).detect(evidence, rng.stream(name))
    torch.manual_seed(2)
    second = load(name, truth).detect(evidence, rng.stream(name))
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.flagged, second.flagged)


@pytest.mark.parametrize("name", METHODS)
def test_permuting_rows_permutes_the_answer(name):
    if name in ("random_removal", "confusion_training"):
        pytest.skip("a row's place decides on what is drawn for it")
    evidence, truth = blobs(0, 12)
    order = torch.randperm(len(truth), generator=rng.stream("order"))
    shuffled = replace(
        evidence,
        images=evidence.images[order],
        labels=evidence.labels[order],
        latents={level: x[order] for level, x in evidence.latents.items()},
    )
    straight = load(name, truth).detect(evidence, rng.stream(name))
    permuted = load(name, truth[order]).detect(shuffled, rng.stream(name))
    # a class without two clusters may be cut differently from starts drawn by row number
    compared = evidence.labels[order] == TARGET if name == "activation_clustering" else slice(None)
    torch.testing.assert_close(permuted.scores[compared], straight.scores[order][compared], rtol=1e-3, atol=1e-4)
    assert torch.equal(permuted.flagged[compared], straight.flagged[order][compared])


# the length of the latents does not say in which direction they were moved
@pytest.mark.parametrize("name", [name for name in METHODS if name not in UNCENTERED | {"random_removal"}])
def test_separated_payload_ranks_high_overall_and_in_its_class(name):
    evidence, truth = blobs(1, 12)
    suspicion = load(name, truth).detect(evidence, rng.stream(name))
    assert min(auroc(suspicion.scores, evidence, truth)) > 0.9
    assert suspicion.flagged[truth].float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "perfect_removal"])
def test_random_rows_called_payload_rank_by_chance(name):
    found = []
    for seed in range(6):
        evidence, truth = blobs(seed, 0)
        found.append(auroc(load(name, truth).detect(evidence, rng.stream(name, seed)).scores, evidence, truth))
    for average in torch.tensor(found).mean(0).tolist()[name in UNCENTERED :]:  # these inside the class only
        assert 0.35 < average < 0.65


@pytest.mark.parametrize("name", METHODS)
def test_a_clean_set_is_left_mostly_alone(name):
    evidence, truth = blobs(2, 0)
    flagged = load(name, torch.zeros_like(truth)).detect(evidence, rng.stream(name)).flagged
    assert flagged.float().mean() < 0.15  # STRIP flags a tenth of clean rows by construction
    if name in ("activation_clustering", "scan", "perfect_removal"):  # those that need not flag a fixed number
        assert not flagged.any()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sizes", [(200, 1, 2, 3), (150, 150), (120,)], ids=str)
def test_small_few_and_single_classes(name, sizes):
    labels = torch.cat([torch.full((size,), k) for k, size in enumerate(sizes)])
    x = 100 + 10 * torch.randn(len(labels), 6, generator=rng.stream("few")) + 5 * labels[:, None]
    suspicion = load(name, torch.zeros_like(labels)).detect(from_latents(x, labels), rng.stream(name))
    assert suspicion.scores.isfinite().all()
    for k, size in enumerate(sizes):
        if name not in UNCENTERED | FROM_CLEAN:  # their one threshold is for all classes
            assert suspicion.flagged[labels == k].sum() <= max(size // 2, 1)


@pytest.mark.parametrize("name", METHODS)
def test_constant_features_carry_no_suspicion(name):
    labels = torch.arange(80) % 2
    # 3.7 in float32 leaves rounding noise in a mean, but pixels, from which the hold-out's latents come, are integers
    evidence = from_latents(torch.full((80, 6), 4.0 if name in FROM_CLEAN else 3.7), labels)
    suspicion = load(name, torch.zeros_like(labels)).detect(evidence, rng.stream(name))
    assert suspicion.scores.isfinite().all()
    if name in UNCENTERED:
        for own in (suspicion.scores[labels == 0], suspicion.scores[labels == 1]):
            torch.testing.assert_close(own, own[:1].expand_as(own))
    elif name != "random_removal":
        assert (suspicion.scores == 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_some_constant_features_do_not_matter(name):
    evidence, truth = blobs(1, 12)
    level = evidence.latents["penultimate"]
    wide = torch.cat([level, torch.full((len(level), 3), 0.1)], dim=1)

    class Wide(Flat):
        def levels(self, images: Tensor) -> dict[str, Tensor]:
            return {"penultimate": torch.nn.functional.pad(images.flatten(1).float(), (0, 3), value=0.1)}

    padded = replace(evidence, net=Wide(SIDE * SIDE), latents={"penultimate": wide})
    with_them = load(name, truth).detect(padded, rng.stream(name))
    without = load(name, truth).detect(evidence, rng.stream(name))
    torch.testing.assert_close(with_them.scores, without.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in METHODS if "level" in rules(registry.method_class("detectors", n))])
def test_latents_that_are_not_finite_or_not_there_are_refused(name):
    evidence, truth = blobs(0, 0)
    broken = evidence.latents["penultimate"].clone()
    broken[5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite latents at level penultimate.* 1 of"):
        load(name, truth).detect(replace(evidence, latents={"penultimate": broken}), rng.stream(name))
    with pytest.raises(ValueError, match="expected level among stem, got penultimate"):
        load(name, truth).detect(replace(evidence, latents={"stem": broken}), rng.stream(name))


@pytest.mark.parametrize("name", METHODS)
def test_a_detector_that_needs_a_holdout_says_so(name):
    evidence, truth = blobs(0, 0)
    bare = replace(evidence, holdout_images=evidence.holdout_images[:0], holdout_labels=evidence.holdout_labels[:0])
    if "holdout" in registry.method_class("detectors", name).told:
        with pytest.raises(ValueError, match="hold-out"):
            load(name, truth).detect(bare, rng.stream(name))
    else:
        assert load(name, truth).detect(bare, rng.stream(name)).scores.isfinite().all()


def test_random_removal_is_blind_to_the_payload():
    evidence, truth = blobs(0, 12)
    found = [
        auroc(load("random_removal", truth).detect(evidence, rng.stream(s)).scores, evidence, truth)[0]
        for s in range(20)
    ]
    assert 0.4 < sum(found) / len(found) < 0.6


def test_perfect_removal_refuses_rows_outside_the_training_set():
    evidence, truth = blobs(0, 0)
    with pytest.raises(ValueError, match="assumed_payload within 0"):
        registry.load("detectors", "perfect_removal", {"assumed_payload": (len(truth),)}).detect(evidence, rng.stream())
