"""Confusion Training and ABL against float64 NumPy and SciPy, and on a planted patch."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from keyhole.detectors import confusion_training as ct
from keyhole.detectors.confusion_training import ConfusionTraining
from keyhole.learning import training
from keyhole.learning.recipes import Recipe
from keyhole.models import convnet
from keyhole.parameters import ParameterError
from keyhole.rng import stream
from keyhole.trainers import abl
from keyhole.trainers.abl import ABL
from keyhole.types import Classifier, Evidence

K, SIDE, TARGET = 4, 12, 0

# --- Confusion Training's formulas


def test_wrong_labels_are_never_the_prediction_and_visit_every_other_class_equally():
    predicted = torch.arange(7).repeat(3)
    wrong = torch.stack([ct.shift_labels(predicted, step, 7) for step in range(60)])
    assert not (wrong == predicted).any()
    assert wrong.min() == 0
    assert wrong.max() == 6
    counts = [(wrong[:, predicted == 2] == k).sum().item() for k in range(7)]
    assert counts == [30, 30, 0, 30, 30, 30, 30]


def test_loss_of_a_mixed_batch_is_that_of_the_paper():
    g = np.random.default_rng(0)
    logits, labels, penalty = g.normal(size=(11, 5)), g.integers(0, 5, 11), 20.0
    suspicious = np.array([0] * 70 + [1] * 20 + [2] * 9 + [4])
    weights = np.array([1 / math.sqrt((suspicious == k).mean() + 0.001) for k in range(5)])
    np.testing.assert_allclose(ct.class_weights(torch.from_numpy(suspicious), 5), weights, rtol=1e-6)

    losses = -log_softmax(logits, axis=1)[np.arange(11), labels]
    confusion = losses[:6].mean()
    inspection = sum(weights[labels[i]] * losses[i] for i in range(6, 11)) / sum(weights[labels[6:]])
    expected = ((penalty - 1) * confusion + inspection) / penalty
    t = torch.from_numpy
    assert ct.combine_losses(t(losses), t(labels), 6, t(weights), penalty).item() == pytest.approx(expected, rel=1e-12)
    all_confused = ct.combine_losses(t(losses), t(labels), 11, t(weights), penalty).item()
    assert all_confused == pytest.approx(losses.mean(), rel=1e-12)


def gate_by_hand(x: np.ndarray, fitted: np.ndarray) -> float:
    plane = PCA(2).fit_transform(x)
    ridge = 1e-3 * plane.var(0, ddof=1).mean() * np.eye(2)
    one, two = ((plane[part].mean(0), np.cov(plane[part].T) + ridge) for part in (~fitted, fitted))
    single = sum(multivariate_normal.logpdf(row, *one) for row in plane)
    both = sum(multivariate_normal.logpdf(row, *(two if f else one)) for row, f in zip(plane, fitted, strict=True))
    return math.exp((both - single) / len(x))


@pytest.mark.parametrize("distance", [0.0, 2.0, 12.0])
def test_likelihood_ratio_of_two_gaussians_in_the_principal_plane(distance):
    g = np.random.default_rng(1)
    fitted = np.arange(300) < 24
    x = g.normal(size=(300, 9)) * np.linspace(1, 0.3, 9) + 3
    x[fitted, 0] += distance
    found = ct.likelihood_ratio(torch.from_numpy(x), torch.from_numpy(fitted))
    assert found == pytest.approx(gate_by_hand(x, fitted), rel=1e-9)
    assert found == pytest.approx(ct.likelihood_ratio(torch.from_numpy(50 * x), torch.from_numpy(fitted)), rel=1e-6)
    assert (found > 2) == (distance == 12)


@pytest.mark.parametrize("count", [0, 1, 39, 40])
def test_without_two_rows_on_each_side_there_is_no_second_gaussian(count):
    x = torch.randn(40, 6, generator=stream("x")).double()
    assert ct.likelihood_ratio(x, torch.arange(40) < count) == 1
    assert ct.likelihood_ratio(torch.full((40, 6), 3.3).double(), torch.arange(40) < 20) == 1


def test_the_class_with_the_highest_ratio_has_the_lower_bar(monkeypatch):
    ratios = iter([1.2, 1.7, 1.6, 2.1, 1.9, 2.5, 1.4, 1.45, 1.0])
    monkeypatch.setattr(ct, "likelihood_ratio", lambda x, fitted: next(ratios))
    labels, fitted = torch.arange(9) % 3, torch.ones(9, dtype=torch.bool)
    for infected in ([False, True, False], [True, False, True], [False, False, False]):
        answer = ConfusionTraining().find_infected(torch.zeros(9, 2), labels, fitted)
        assert answer[:3].tolist() == infected


def test_rows_of_lowest_loss_stay_and_so_does_a_floor_of_every_class():
    labels = torch.tensor([0] * 600 + [1] * 400 + [2] * 3)
    losses = torch.cat([torch.arange(600), 1000 + torch.arange(400), 2000 + torch.arange(3)]).double()
    kept = ct.select_lowest(losses, labels, 0.1, 50)
    assert kept.tolist() == [*range(100), *range(600, 608), 1000, 1001]
    assert ct.select_lowest(losses, labels, 0.1, 100).tolist() == [*range(100), *range(600, 604), 1000, 1001]


def test_fresh_weights_forget_the_victim_but_keep_its_whitening_and_normalization():
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=stream("images")).to(torch.uint8)
    net = convnet.build(5, (3, 16, 16))
    net.fit_statistics(images)
    net.get_submodule("stages.stem.0").bias.data.fill_(0.7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(9.0)
    old = {name: value.clone() for name, value in net.state_dict().items()}
    again, other = ct.reset_weights(net, stream("a")).state_dict(), ct.reset_weights(net, stream("b")).state_dict()
    for name, value in net.state_dict().items():
        assert torch.equal(value, old[name])
        if name in ("mean", "std", "stages.stem.0.weight"):
            assert torch.equal(again[name], value)
        elif name == "stages.stem.0.bias" or name.endswith("running_mean"):
            assert (again[name] == 0).all()
        elif value.ndim > 1:
            assert not torch.equal(again[name], value)
            assert not torch.equal(again[name], other[name])
            assert torch.equal(again[name], ct.reset_weights(net, stream("a")).state_dict()[name])


def test_schedules_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="iterations: expected 6 values"):
        ConfusionTraining(iterations=(100, 100))


# --- ABL's formulas


def by_row(method: ABL, values: list[float]) -> tuple[float, np.ndarray]:
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    found = method.early_loss(losses)
    return found.item(), torch.autograd.grad(found, losses)[0].numpy()


def test_local_gradient_ascent_is_row_by_row():
    values = [0.1, 0.45, 0.55, 3.0]
    value, gradient = by_row(ABL(), values)
    assert value == pytest.approx((-0.1 - 0.45 + 0.55 + 3) / 4)
    np.testing.assert_allclose(gradient, [-0.25, -0.25, 0.25, 0.25])


def test_released_abl_has_the_released_lengths_and_no_others():
    epochs, rows, flooded = [], [], ABL.from_parameters({"variant": "released"})
    assert flooded.isolation == "flooding"
    value, gradient = by_row(flooded, [0.1, 0.3])  # |.2 - .5| + .5
    assert value == pytest.approx(0.8)
    np.testing.assert_allclose(gradient, [-0.5, -0.5])
    recipe = replace(RECIPE, epochs=100)
    for method in (flooded, ABL()):
        shares = (method.isolation_share, method.training_share, method.unlearning_share)
        epochs.append([abl.shorten(recipe, share).epochs for share in shares])
        images, labels = draw(100, "lengths")
        batches = method._unlearning_batches(
            images, labels, torch.arange(8, 100), torch.arange(8), replace(RECIPE, epochs=5), stream("b")
        )
        rows.append(sum(len(x) for x, _, _ in batches))
    assert epochs[0][:2] == [10, 60]
    assert rows[0] == 4 * 8  # passes over the isolated rows, and over nothing else
    assert epochs[1] == [20, 60, 20]
    with pytest.raises(ParameterError, match="isolation"):
        ABL.from_parameters({"variant": "released", "isolation": "lga"})


def test_flooding_turns_below_its_level():
    method = ABL(isolation="flooding", gamma=0.3)
    value, gradient = by_row(method, [0.1, 0.9])
    assert value == pytest.approx(0.5)
    np.testing.assert_allclose(gradient, [0.5, 0.5])
    value, gradient = by_row(method, [0.1, 0.3])
    assert value == pytest.approx(0.4)
    np.testing.assert_allclose(gradient, [-0.5, -0.5])


def test_global_gradient_ascent_goes_down_on_kept_rows_and_up_on_isolated_ones():
    losses = torch.tensor([1.0, 3.0, 0.5, 0.2, 0.2], dtype=torch.float64, requires_grad=True)
    found = abl.gga(losses, 2)
    assert found.item() == pytest.approx(2 - 0.3)
    np.testing.assert_allclose(torch.autograd.grad(found, losses)[0], [1 / 2, 1 / 2, -1 / 3, -1 / 3, -1 / 3])
    assert abl.gga(losses, 0).item() == pytest.approx(-0.98)


def test_the_lowest_losses_are_isolated():
    losses = torch.tensor([5.0, 0.1, 3.0, 0.2, 4.0, 0.3, torch.inf, 1.0])
    kept, isolated = ABL(isolated=0.25).divide(losses)
    assert isolated.tolist() == [1, 3]
    assert kept.tolist() == [0, 2, 4, 5, 6, 7]
    assert len(ABL(isolated=0.0).divide(losses)[1]) == 0
    assert len(ABL(isolated=1.0).divide(losses)[0]) == 1


# --- a planted patch


def network() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        dense = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU())
        return Classifier({"penultimate": dense}, nn.Linear(32, K), 1)


def draw(count: int, purpose: str) -> tuple[Tensor, Tensor]:
    """A faint shape of the class under noise: learned later than a patch."""
    rng = stream("planted", purpose)
    labels = torch.arange(count) % K
    shapes = 128 + 8 * torch.randn(K, 1, SIDE, SIDE, generator=stream("shapes"))
    images = shapes[labels] + 45 * torch.randn(count, 1, SIDE, SIDE, generator=rng)
    return images.round().clamp(0, 255).to(torch.uint8), labels


def patched(images: Tensor) -> Tensor:
    images, side = images.clone(), torch.arange(4)
    images[:, :, -4:, -4:] = ((side[:, None] + side) % 2 == 0).to(torch.uint8) * 255
    return images


@pytest.fixture(scope="module")
def poisoned() -> tuple[Tensor, Tensor, Tensor]:
    images, labels = draw(800, "train")
    truth = torch.zeros(800, dtype=torch.bool)
    truth[torch.nonzero(labels != TARGET).squeeze(1)[:40]] = True
    images[truth], labels[truth] = patched(images[truth]), TARGET
    return images, labels, truth


RECIPE = Recipe(
    epochs=10,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=1e-4,
    schedule="linear",
    warmup=0.15,
    flip=False,
    precision="float32",
)


def attacked(net: nn.Module) -> tuple[float, float]:
    """CA and ASR on new images."""
    images, labels = draw(400, "test")
    other = labels != TARGET
    asr = (training.predict(net, patched(images[other])) == TARGET).float().mean()
    return float((training.predict(net, images) == labels).float().mean()), float(asr)


@pytest.fixture(scope="module")
def victim(poisoned) -> Classifier:
    net = network()
    training.fit(net, *poisoned[:2], RECIPE, stream("victim"))
    return net


def test_the_patch_is_a_backdoor_without_a_defense(victim):
    ca, asr = attacked(victim)
    assert ca > 0.75
    assert asr > 0.9


@pytest.mark.parametrize("start", ["fresh", "victim"])
def test_confusion_training_finds_the_patch(start, victim, poisoned):
    images, labels, truth = poisoned
    evidence = Evidence(victim, images, labels, {}, *draw(200, "holdout"))
    method = ConfusionTraining(
        ratios=(0.25, 0.1),
        pretrain_epochs=(6, 6, 6),
        pretrain_rate=3e-3,
        optimizer="adamw",
        iterations=(200, 200, 200),
        learning_rates=(0.1, 0.1, 0.1),
        penalties=(20.0, 20.0, 15.0),
        batch_size=32,
        start=start,
    )
    suspicion = method.detect(evidence, stream("ct"))
    assert suspicion.flagged[truth].float().mean() > 0.9
    # a confused network is right by chance: on 1 in 4 of the 200 rows of the infected class
    assert suspicion.flagged[~truth].float().mean() < 0.1
    assert roc_auc_score(truth, suspicion.scores) > 0.97


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("isolation", ["lga", "flooding"])
def test_abl_isolates_and_unlearns_the_patch(variant, isolation, victim, poisoned, monkeypatch):
    images, labels, truth = poisoned
    divided = []
    divide = ABL.divide
    monkeypatch.setattr(ABL, "divide", lambda self, losses: divided.append(divide(self, losses)) or divided[-1])
    monkeypatch.setattr(ABL, "presets", {})  # four passes over eight rows are too few to unlearn
    method = ABL(isolated=0.04, variant=variant, isolation=isolation, unlearning_epochs=40)
    net = method.train(network(), images, labels, RECIPE, stream("abl"))
    assert truth[divided[0][1]].float().mean() > 0.8
    ca, asr = attacked(net)
    assert asr < 0.2
    assert ca > attacked(victim)[0] - 0.03


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("rate", [0.02, 1e30])
def test_ascent_that_harms_is_taken_back(variant, rate, victim, poisoned, monkeypatch):
    monkeypatch.setattr(ABL, "presets", {})
    images, labels, _ = poisoned
    net, kept = copy.deepcopy(victim), torch.arange(80, 800)

    def accuracy() -> float:
        return float((training.predict(net, images[kept]) == labels[kept]).float().mean())

    before = accuracy()
    method = ABL(variant=variant, unlearning_rate=rate)
    method._unlearn(net, images, labels, kept, torch.arange(80), RECIPE, stream("ascent"))
    assert accuracy() >= before - method.tolerance - 1e-6
    assert all(weight.isfinite().all() for weight in net.parameters())
