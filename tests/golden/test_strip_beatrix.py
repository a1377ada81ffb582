"""The STRIP cleanser and Beatrix against slow float64 loops, and on networks with a planted backdoor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from keyhole.detectors import beatrix, strip
from keyhole.detectors.beatrix import Beatrix
from keyhole.detectors.strip import STRIP
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

CLASSES, SIDE, TARGET = 4, 12, 2


class Maps(nn.Module):
    """Two channels that follow the class's template and one that a white corner wakes, as 2 x 2 maps."""

    def __init__(self) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (CLASSES, SIDE, SIDE), generator=stream("strip", "signs")) * 2.0 - 1
        self.register_buffer("signs", signs)

    def forward(self, x):
        matches = functional.adaptive_avg_pool2d(x.mean(1, keepdim=True) * self.signs, 2)
        corner = functional.softplus(x[:, :, -3:, -3:].mean((1, 2, 3)) - 0.2, beta=6)
        return torch.cat([matches, corner.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)], dim=1)


def planted_net(gain: float) -> Classifier:
    head = nn.Linear(CLASSES + 1, CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.cat([10 * torch.eye(CLASSES), torch.zeros(CLASSES, 1)], dim=1))
        head.weight[TARGET, -1] = gain
        head.bias.zero_()
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier({"maps": Maps(), "penultimate": pool}, head, 3).eval()


def scenes(count: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream("strip scenes", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    noise = 60 + 40 * torch.rand(count, 3, SIDE, SIDE, generator=rng)
    return (noise + 25 * Maps().signs[labels][:, None]).round().to(torch.uint8), labels


def case(gain: float = 15, holdout: int = 300, payload: int = 20, count: int = 800) -> tuple[Evidence, torch.Tensor]:
    """Training rows, the first of which carry a white corner and the target label."""
    images, labels = scenes(count, "train")
    images, labels = images.clone(), labels.clone()
    images[:payload, :, -3:, -3:] = 255
    labels[:payload] = TARGET
    return Evidence(planted_net(gain), images, labels, {}, *scenes(holdout, "holdout")), torch.arange(count) < payload


# --- STRIP


@pytest.mark.parametrize("variant", ["half", "qi", None])
def test_strip_is_threshold_minus_mean_entropy_over_shared_overlays(variant):
    evidence, _ = case(holdout=12, count=6, payload=2)
    net = evidence.net.double()
    order = torch.randperm(12, generator=stream("s"))
    overlays, spare = evidence.holdout_images[order[:5]].double(), evidence.holdout_images[order[5:]].double()
    settings = {"variant": variant} if variant else {}  # the default is Qi et al.'s
    found = STRIP(overlays=5, precision="float32", **settings).detect(evidence, stream("s"))

    def entropy(image):
        values = []
        for overlay in overlays:
            if variant == "half":
                normalized = net.normalize((image + overlay)[None] / 2)
            else:
                normalized = net.normalize(image[None]) + net.normalize(overlay[None])
            latent = net.stages["penultimate"](net.stages["maps"](normalized))
            values.append(stats.entropy(net.head(latent)[0].softmax(0).detach().numpy(), base=2))
        return np.mean(values)

    expected = np.array([entropy(image) for image in evidence.images.double()])
    bar = np.quantile([entropy(image) for image in spare], 0.1)
    np.testing.assert_allclose(found.scores, bar - expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.flagged, expected < bar)


@pytest.mark.parametrize("variant", ["authors", "toolbox", "qi", "half"])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_strip_finds_rows_whose_prediction_does_not_move(variant, precision):
    evidence, truth = case()
    found = STRIP(variant=variant, precision=precision, overlays=20).detect(evidence, stream("s"))
    assert roc_auc_score(truth, found.scores) > 0.99
    assert found.flagged[truth].all()
    assert 0.03 < found.flagged[~truth].double().mean() < 0.2  # a tenth by construction


def test_strip_does_not_see_the_corner_where_the_network_does_not():
    evidence, truth = case(gain=0)
    assert STRIP(overlays=20).detect(evidence, stream("s")).flagged[truth].double().mean() < 0.5


def test_strip_threshold_and_scores_do_not_depend_on_the_other_rows():
    evidence, _ = case()
    few = torch.tensor([700, 3, 5])
    fewer = replace(evidence, images=evidence.images[few], labels=evidence.labels[few])
    method = STRIP(overlays=10, precision="float32")
    together, alone = (method.detect(e, stream("s")).scores for e in (evidence, fewer))
    torch.testing.assert_close(alone, together[few], rtol=1e-4, atol=1e-5)


def test_strip_threshold_images_are_not_among_the_overlays(monkeypatch):
    calls = []

    def watched(net, images, overlays, variant, half):
        calls.append((images, overlays))
        return torch.zeros(len(images))

    monkeypatch.setattr(strip, "mean_entropy", watched)
    evidence, _ = case(holdout=150)
    marked = torch.arange(150).view(-1, 1, 1, 1).to(torch.uint8).expand(-1, 3, SIDE, SIDE).contiguous()
    STRIP(overlays=100).detect(replace(evidence, holdout_images=marked), stream("s"))
    spare, overlays = (set(x[:, 0, 0, 0].tolist()) for x in calls[0])
    assert not spare & overlays
    assert (len(spare), len(overlays)) == (75, 75)  # half of a hold-out that is too small for 100
    assert calls[1][0] is evidence.images


# --- Beatrix


def maps_of(evidence: Evidence, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return evidence.net.double().levels(images)["maps"].flatten(2).numpy()


def slow_gram(features: np.ndarray, p: int) -> np.ndarray:
    """Entry by entry, for one row."""
    c, s = features.shape
    entries = []
    for i in range(c):
        for j in range(i, c):
            total = sum(features[i, k] ** p * features[j, k] ** p for k in range(s))
            entries.append(np.sign(total) * abs(total) ** (1 / p))
    return np.array(entries)


def median(x):
    return np.sort(x, axis=0)[(len(x) - 1) // 2]  # torch's: the lower of the two in the middle


def slow_bounds(rows: np.ndarray, powers: int, mads: float):
    found = []
    for p in range(1, powers + 1):
        entries = np.array([slow_gram(row, p) for row in rows])
        center = median(entries)
        spread = median(abs(entries - center))
        found.append((center - mads * spread, center + mads * spread))
    return found


def slow_deviation(row: np.ndarray, bounds) -> float:
    total = 0.0
    for p, (low, high) in enumerate(bounds, start=1):
        floor = 0.01 * np.mean(np.maximum(abs(low), abs(high)))
        for g, lo, hi in zip(slow_gram(row, p), low, high, strict=True):
            if g < lo:
                total += (lo - g) / max(abs(lo), floor)
            if g > hi:
                total += (g - hi) / max(abs(hi), floor)
    return total / len(bounds) / len(bounds[0][0])


def test_beatrix_scores_and_flags_match_the_loops():
    evidence, _ = case(holdout=60, count=60, payload=6)
    method = Beatrix(map_level="maps", clean_per_class=11, powers=3, mads=2.0, flag_in="all")
    found = method.detect(evidence, stream("b"))
    order = torch.randperm(60, generator=stream("b"))
    train, clean = maps_of(evidence, evidence.images), maps_of(evidence, evidence.holdout_images[order])
    clean_labels = evidence.holdout_labels[order]
    flagged = np.zeros(60, dtype=bool)
    for label in range(CLASSES):
        own = clean[(clean_labels == label).numpy()][:11]
        bounds, fold, deviations = slow_bounds(own, 3, 2.0), np.arange(len(own)) % 5, []
        for k in range(5):  # never against bounds that the image itself has set
            others = slow_bounds(own[fold != k], 3, 2.0)
            deviations += [slow_deviation(row, others) for row in own[fold == k]]
        threshold = sorted(deviations)[int(0.95 * len(deviations))]
        for row in np.flatnonzero(evidence.labels.numpy() == label):
            expected = slow_deviation(train[row], bounds)
            flagged[row] = expected > threshold
            assert found.scores[row] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    np.testing.assert_array_equal(found.flagged, flagged)


def test_gram_features_keep_signs_and_do_not_overflow():
    features = 255 * torch.randn(2, 3, 5, generator=stream("gram"))
    for p in (1, 2, 7, 8):
        expected = np.array([slow_gram(row, p) for row in features.double().numpy()])
        np.testing.assert_allclose(beatrix.gram(features, p), expected, rtol=1e-3, atol=1e-3)
    assert (beatrix.gram(features, 7) < 0).any()
    assert beatrix.gram(1e9 * features, 8).isfinite().all()
    assert (beatrix.gram(0 * features, 8) == 0).all()


def test_the_kernel_test_is_the_weighted_mmd_of_two_bandwidths():
    x = torch.randn(9, 3, generator=stream("mmd"))
    second = torch.arange(9) >= 5
    distances = [[float(((a - b) ** 2).sum()) for b in x.double()] for a in x.double()]
    width, total = sorted(d for row in distances for d in row)[40], 0.0
    for i in range(9):
        for j in range(9):
            weight = {(0, 0): 1 / 25, (1, 1): 1 / 16, (0, 1): -1 / 20, (1, 0): -1 / 20}[bool(i >= 5), bool(j >= 5)]
            total += weight * sum(np.exp(-distances[i][j] / w) for w in (width / 2, width))
    assert beatrix.weighted_mmd(x, second) == pytest.approx(20 / 9 * total, rel=1e-6)
    assert beatrix.weighted_mmd(x, torch.zeros_like(second)) == 0


def test_only_an_unusually_high_statistic_is_an_alarm():
    index = beatrix.anomaly_index(torch.tensor([1.0, 2.0, 3.0, -50.0, 60.0], dtype=torch.float64))
    np.testing.assert_allclose(index, (np.array([1, 2, 3, -50, 60]) - 2) / 1.4826, rtol=1e-5)
    assert (index > beatrix.INFECTED).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("flag_in", ["infected", "all"])
def test_beatrix_finds_rows_out_of_the_clean_range(flag_in):
    evidence, truth = case(holdout=500, count=1600, payload=60)
    found = Beatrix(map_level="maps", flag_in=flag_in).detect(evidence, stream("b"))
    assert roc_auc_score(truth, found.scores) > 0.99
    assert found.flagged[truth].all()
    elsewhere = found.flagged[evidence.labels != TARGET].double().mean()
    assert elsewhere == 0 if flag_in == "infected" else elsewhere < 0.2


def test_beatrix_judges_a_row_by_its_given_label():
    evidence, _ = case(payload=0)
    moved = evidence.labels.clone()
    moved[:40] = (moved[:40] + 1) % CLASSES
    found = Beatrix(map_level="maps", mads=3.0).detect(replace(evidence, labels=moved), stream("b"))
    assert roc_auc_score(torch.arange(len(moved)) < 40, found.scores) > 0.95


def test_a_channel_that_only_payload_wakes_is_kept_and_one_that_never_varies_is_not():
    evidence, truth = case(holdout=120)

    class Woken(Maps):
        def forward(self, x):
            corner = (x[:, :, -3:, -3:].mean((1, 2, 3), keepdim=True) > 1.5).float().expand(-1, 1, 2, 2)
            return torch.cat([super().forward(x)[:, :CLASSES], corner, torch.full_like(corner, 0.3)], dim=1)

    net = Classifier({"maps": Woken(), "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1))}, nn.Linear(1, 1), 3)
    changed = replace(evidence, net=net)
    assert beatrix.find_varying_channels(net, "maps", changed.holdout_images, changed.images).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert beatrix.find_varying_channels(net, "maps", changed.holdout_images, changed.images[~truth]).tolist() == [
        0,
        1,
        2,
        3,
    ]
    found = Beatrix(map_level="maps").detect(changed, stream("b"))
    assert found.scores.isfinite().all()
    assert roc_auc_score(truth, found.scores) == 1


def test_bounds_and_thresholds_do_not_depend_on_the_scored_rows():
    evidence, _ = case()
    few = torch.tensor([700, 3, 5])
    fewer = replace(evidence, images=evidence.images[few], labels=evidence.labels[few])
    method = Beatrix(map_level="maps", mads=1.0, flag_in="all")
    together, alone = (method.detect(e, stream("b")) for e in (evidence, fewer))
    torch.testing.assert_close(alone.scores, together.scores[few], rtol=1e-4, atol=1e-6)
    assert torch.equal(alone.flagged, together.flagged[few])


def test_beatrix_reads_what_enters_the_last_stage_of_maps():
    evidence, _ = case(holdout=20, count=10)
    assert beatrix.default_map_level(evidence.net, evidence.images[:1]) == "maps"
    stages = {"one": Maps(), "two": nn.ReLU(), "three": nn.ReLU(), "penultimate": nn.Flatten()}
    assert beatrix.default_map_level(Classifier(stages, nn.Linear(1, 1), 3), evidence.images[:1]) == "two"
    with pytest.raises(ValueError, match="map_level among maps, penultimate, got stage9"):
        Beatrix(map_level="stage9").detect(evidence, stream("b"))
    with torch.no_grad():
        evidence.net.stages["maps"].signs[0] = float("nan")
    with pytest.raises(ValueError, match="finite activations at level maps"):
        Beatrix().detect(evidence, stream("b"))


@pytest.mark.parametrize("method", [STRIP(), Beatrix()])
def test_both_need_a_holdout(method):
    evidence, _ = case(holdout=0)
    with pytest.raises(ValueError, match="hold-out"):
        method.detect(evidence, stream("s"))
