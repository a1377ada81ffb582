"""Inverters, repairers, filters and purifiers against slow implementations, and on networks with a planted backdoor."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from tests.golden.planted import Templates, brighten_corner, share_fooled, share_right, template_net
from torch import nn
from torch.nn import functional

from keyhole.filters.strip import STRIP
from keyhole.inverters._anomaly import anomaly_index
from keyhole.inverters._patch_search import Progress, mask_loss, stamp, unpack
from keyhole.inverters.neural_cleanse import NeuralCleanse
from keyhole.learning.overlays import mean_entropy
from keyhole.learning.training import predict
from keyhole.purifiers.shrink_pad import ShrinkPad
from keyhole.repairers.fine_pruning import FinePruning, count_prunable
from keyhole.rng import stream
from keyhole.types import Classifier, Evidence

pytestmark = pytest.mark.slow  # searches for planted triggers, trained generators

CLASSES, SIDE, TARGET = 8, 16, 3


def planted_net(gain: float) -> Classifier:
    return template_net(CLASSES, SIDE, TARGET, gain)


def scenes(count: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Templates in noise, no corner as bright as the backdoor asks for, and their classes."""
    rng = stream("scenes", purpose)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    noise = 60 + 40 * torch.rand(count, 3, SIDE, SIDE, generator=rng)
    return (noise + 25 * Templates(CLASSES, SIDE).signs[labels][:, None]).round().to(torch.uint8), labels


def evidence(gain: float, holdout: int = 300) -> Evidence:
    return Evidence(planted_net(gain), *scenes(10, "train"), {}, *scenes(holdout, "holdout"))


def asr(net: Classifier) -> float:
    images, labels = scenes(400, "test")
    return share_fooled(net, brighten_corner(images), labels, TARGET)


def accuracy(net: Classifier) -> float:
    return share_right(net, *scenes(400, "test"))


def test_planted_network_is_backdoored_and_its_twin_is_not():
    assert accuracy(planted_net(15)) > 0.99
    assert asr(planted_net(15)) > 0.99
    assert asr(planted_net(0)) < 0.01


# --- Neural Cleanse


def linear_case():
    """A linear classifier in float64, three images and two classes' free variables."""
    rng = stream("linear")
    net = Classifier({"penultimate": nn.Flatten()}, nn.Linear(2 * 4 * 5, 3), 2).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        net.mean.copy_(torch.tensor([0.4, 0.6]).view(2, 1, 1))
        net.std.copy_(torch.tensor([0.2, 0.3]).view(2, 1, 1))
    images = 255 * torch.rand(3, 2, 4, 5, generator=rng, dtype=torch.float64)
    raw = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    return net, images, raw, torch.tensor([2, 0]), torch.tensor([0.01, 0.3], dtype=torch.float64)


def slow_objective(net, images, raw, target, penalty):
    """Loss and gradient for one class, by hand, in NumPy."""
    weight, bias = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    mean, std = net.mean.numpy(), net.std.numpy()
    tanh = np.tanh(raw.numpy())
    mask, pattern = (1 + tanh[0]) / 2, 255 * (1 + tanh[1:]) / 2
    loss, to_mask, to_pattern = penalty * mask.sum(), np.full_like(mask, penalty), np.zeros_like(pattern)
    for image in images.numpy():
        stamped = (1 - mask) * image + mask * pattern
        logits = weight @ ((stamped / 255 - mean) / std).ravel() + bias
        share = np.exp(logits) / np.exp(logits).sum()
        loss -= np.log(share[target]) / len(images)
        pull = (share - np.eye(3)[target]) @ weight / len(images)
        pixel = pull.reshape(image.shape) / (255 * std)
        to_mask += ((pattern - image) * pixel).sum(0)
        to_pattern += mask * pixel * 255
    return loss, np.concatenate([to_mask[None], to_pattern]) * (1 - tanh**2) / 2


def test_neural_cleanse_objective_and_gradient_are_the_papers():
    net, images, raw, targets, penalty = linear_case()
    raw.requires_grad_()
    loss, _ = mask_loss(net, images, raw, targets, penalty)
    loss.sum().backward()
    for k in range(2):
        expected, gradient = slow_objective(net, images, raw.detach()[k], int(targets[k]), float(penalty[k]))
        np.testing.assert_allclose(loss[k].item(), expected, rtol=1e-10)
        np.testing.assert_allclose(raw.grad[k], gradient, rtol=1e-8, atol=1e-12)


def test_neural_cleanse_counts_the_images_that_reach_each_class():
    net, images, raw, targets, penalty = linear_case()
    _, reached = mask_loss(net, images, raw, targets, penalty)
    mask, pattern = unpack(raw)
    for k in range(2):
        assert reached[k] == (net((1 - mask[k]) * images + mask[k] * pattern[k]).argmax(1) == targets[k]).sum()


def test_anomaly_index_is_the_papers_rule():
    sizes = torch.tensor([40.0, 52.0, 47.0, 9.0, 60.0, 44.0, 120.0, 50.0], dtype=torch.float64)
    mad = stats.median_abs_deviation(sizes, scale="normal")
    published = (abs(sizes - np.median(sizes)) / mad > 2) & (sizes <= np.median(sizes))
    found = anomaly_index(sizes, 1024)
    np.testing.assert_allclose(found.abs(), abs(sizes - np.median(sizes)) / mad, rtol=1e-4)
    assert torch.equal(found > 2, published)
    assert published.nonzero().squeeze().tolist() == 3
    assert found[6] < -2  # outlyingly large, so the opposite of suspicious


def test_anomaly_index_is_finite_when_all_masks_are_alike():
    assert torch.equal(anomaly_index(torch.full((5,), 30.0), 1024), torch.zeros(5))


def raw_of_size(*sizes: float) -> torch.Tensor:
    """Free variables of 4 x 4 masks with these sums."""
    share = torch.tensor(sizes).view(-1, 1, 1, 1).expand(-1, 2, 4, 4) / 16
    return torch.atanh(2 * share - 1)


def test_neural_cleanse_keeps_the_smallest_successful_mask_not_the_latest():
    progress = Progress(NeuralCleanse(), raw_of_size(12, 12))
    for size, success in ((9, 1.0), (2, 0.98), (4, 0.99), (3, 0.5), (6, 1.0)):
        progress.update(torch.tensor([success, 0.0]), raw_of_size(size, size))
    masks, _, sizes = progress.result()
    torch.testing.assert_close(sizes, torch.tensor([4.0, 16.0]))  # the class that never succeeds: the whole image
    torch.testing.assert_close(masks[0].sum(), torch.tensor(4.0))
    assert torch.equal(masks[1], torch.ones(4, 4))


def slow_schedule(successes: list[float], settings: NeuralCleanse) -> list[float]:
    """The penalty after each epoch, for one class, as the authors' loop sets it."""
    penalty, in_a_row, wins, fails, after = 0.0, 0, 0, 0, []
    for success in successes:
        in_a_row = in_a_row + 1 if penalty == 0 and success >= settings.success else 0
        if in_a_row == settings.patience:
            penalty, wins, fails = settings.penalty, 0, 0
        wins, fails = (wins + 1, 0) if success >= settings.success else (0, fails + 1)
        if wins == settings.patience:
            penalty, wins = penalty * 2, 0
        elif fails == settings.patience:
            penalty, fails = penalty / 2**1.5, 0
        after.append(penalty)
    return after


def test_neural_cleanse_moves_each_penalty_as_its_authors_do():
    settings = NeuralCleanse(patience=3)
    successes = torch.randint(3, (200, 20), generator=stream("wins")).clamp(max=1)  # two thirds of success
    progress, got = Progress(settings, raw_of_size(*[9] * 20)), []
    for row in successes:
        progress.idle[:] = 0  # no class finishes
        progress.update(row.float(), raw_of_size(*[9] * 20))
        got.append(progress.penalty)
    slow = [slow_schedule(column, settings) for column in successes.T.tolist()]
    torch.testing.assert_close(torch.stack(got, 1), torch.tensor(slow))
    assert len({value for values in slow for value in values}) > 5


def test_neural_cleanse_finishes_a_class_whose_mask_no_longer_shrinks():
    progress = Progress(NeuralCleanse(patience=1, free_start=False, idle_patience=2), raw_of_size(9, 9))
    progress.update(torch.tensor([0.0, 1.0]), raw_of_size(9, 9))
    for size in (8.0, 8.0, 8.0):
        assert not progress.finished.any()
        progress.update(torch.tensor([1.0, 1.0]), raw_of_size(size, size))
    assert progress.finished.tolist() == [True, False]  # the second class's penalty was never lowered
    progress.update(torch.tensor([1.0, 1.0]), raw_of_size(5, 5))
    torch.testing.assert_close(progress.size, torch.tensor([8.0, 5.0]))


def test_neural_cleanse_finds_the_planted_class_and_place():
    case = evidence(gain=15)
    found = NeuralCleanse().invert(case, stream("cleanse"))
    assert found.flagged.nonzero().squeeze(1).tolist() == [TARGET]
    mask = found.masks[TARGET]
    assert mask[-3:, -3:].sum() > 0.8 * mask.sum()
    assert (predict(planted_net(15), found.stamp(case.holdout_images, TARGET)) == TARGET).float().mean() > 0.9


def test_neural_cleanse_flags_nothing_in_the_clean_twin():
    found = NeuralCleanse().invert(evidence(gain=0), stream("cleanse"))
    assert not found.flagged.any()
    assert found.masks.sum((1, 2)).max() < SIDE**2  # every class was reached, so the verdict rests on real masks


def test_neural_cleanse_without_a_successful_mask_hides_the_whole_image():
    case = evidence(gain=15, holdout=40)
    settings = NeuralCleanse(epochs=1)
    found = settings.invert(case, stream("cleanse"))
    ones = torch.ones(CLASSES, SIDE, SIDE)
    assert torch.equal(found.masks, ones)  # one epoch from a random start succeeds nowhere
    stamped = found.stamp(case.holdout_images, TARGET)
    assert (stamped == stamped[:1]).all()


def test_stamp_is_the_papers_mixture():
    image, mask, pattern = torch.full((1, 1, 1, 1), 100.0), torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), 20)
    assert stamp(image, mask, pattern.float()).item() == 0.75 * 100 + 0.25 * 20


# --- Fine-Pruning


@pytest.mark.parametrize("units", [40, 230])
def test_pruning_stops_at_the_last_step_that_keeps_accuracy(units):
    rng = stream("prunable", units)
    head = nn.Linear(units, 4)
    features = torch.rand(500, units, generator=rng) * torch.linspace(0, 1, units) ** 2
    with torch.no_grad():
        head.weight.copy_(torch.randn(4, units, generator=rng))
        head.bias.zero_()
        labels = head(features).argmax(1)
    order = features.mean(0).argsort()
    weight, x = head.weight.detach().double().numpy(), features.double().numpy()
    step, expected = max(1, round(units / 100)), 0
    for gone in range(step, units + 1, step):
        kept = np.setdiff1d(np.arange(units), order[:gone].numpy())
        if np.mean((x[:, kept] @ weight[:, kept].T).argmax(1) == labels.numpy()) < 0.9:
            break
        expected = gone
    assert 0 < expected < units
    assert count_prunable(head, features, labels, order, 0.1) == expected


def test_fine_pruning_cuts_the_planted_unit_and_keeps_clean_accuracy():
    victim = evidence(gain=15)
    repaired = FinePruning().repair(victim, stream("prune"))
    assert torch.equal(repaired.head.weight[:, -1], torch.zeros(CLASSES))  # and fine-tuning has not woken it
    assert asr(victim.net) > 0.99
    assert asr(repaired) < 0.02
    assert accuracy(repaired) > accuracy(victim.net) - 0.04


def test_fine_pruning_really_fine_tunes():
    victim = evidence(gain=15)
    cut, tuned = (FinePruning(epochs=epochs).repair(victim, stream("prune")) for epochs in (0, 2))
    gone = (cut.head.weight == 0).all(0)
    assert torch.equal(cut.head.weight[:, ~gone], victim.net.head.weight[:, ~gone])
    assert not torch.equal(tuned.head.weight[:, ~gone], cut.head.weight[:, ~gone])
    assert torch.equal((tuned.head.weight == 0).all(0), gone)


def test_fine_pruning_looks_at_the_hold_out_alone():
    victim = evidence(gain=15)
    other = dataclasses.replace(victim, images=255 - victim.images, labels=(victim.labels + 1) % CLASSES)
    a, b = (FinePruning(epochs=1).repair(case, stream("prune")).state_dict() for case in (victim, other))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_fine_pruning_needs_judges_and_judged():
    with pytest.raises(ValueError, match="validation"):
        FinePruning(validation=0.0).repair(evidence(gain=15), stream("prune"))


# --- STRIP


# what the network sees where an image and an overlay are mixed, both of 0..255
MIXED = {
    "authors": lambda x, o, mean: x + o,
    "toolbox": lambda x, o, mean: (x + o).clamp(max=255),
    "qi": lambda x, o, mean: (x - mean) + (o - mean) + mean,
    "half": lambda x, o, mean: (x + o) / 2,
}


@pytest.mark.parametrize("variant", MIXED)
def test_strip_is_the_mean_entropy_over_overlays(variant):
    net, images, overlays = planted_net(15).double(), scenes(6, "in")[0], scenes(5, "over")[0]
    expected = []
    for image in images.double():
        entropies = []
        for overlay in overlays.double():
            mixed = MIXED[variant](image, overlay, 255 * net.mean[0])
            entropies.append(stats.entropy(net(mixed[None])[0].softmax(0).detach().numpy(), base=2))
        expected.append(np.mean(entropies))
    np.testing.assert_allclose(mean_entropy(net, images, overlays, variant), expected, rtol=1e-6)


@pytest.mark.parametrize(("variant", "seen"), [("authors", 400), ("toolbox", 255), ("qi", 272.5), ("half", 200)])
def test_strip_mixes_two_gray_images_as_its_variant_says(variant, seen):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            self.seen = x
            return x.flatten(1)[:, :2]

    net, gray = Watched(), torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    mean_entropy(net, gray, gray, variant)
    assert torch.equal(net.seen, torch.full((1, 3, 4, 4), seen))


def test_strip_filter_mixes_as_the_authors_do_unless_told_otherwise():
    case, images = evidence(gain=15, holdout=120), scenes(5, "test")[0]
    default, authors, half = (
        s.screen(case, images, stream("s")).scores for s in (STRIP(), STRIP(variant="authors"), STRIP(variant="half"))
    )
    assert torch.equal(default, authors)
    assert not torch.allclose(default, half, atol=1e-3)


def test_strip_flags_the_planted_trigger_at_its_false_positive_rate():
    case, clean = evidence(gain=15, holdout=500), scenes(1000, "test")[0]
    found = STRIP(fpr=0.1).screen(case, torch.cat([clean, brighten_corner(clean)]), stream("strip"))
    assert 0.06 < found.flagged[:1000].double().mean() < 0.14
    assert found.flagged[1000:].double().mean() > 0.99
    assert found.scores[1000:].median() > found.scores[:1000].max()


def test_strip_does_not_flag_the_same_patch_on_the_clean_twin():
    case, clean = evidence(gain=0, holdout=500), scenes(1000, "test")[0]
    assert STRIP(fpr=0.1).screen(case, brighten_corner(clean), stream("strip")).flagged.double().mean() < 0.2


def test_strip_scores_an_image_alike_in_any_company():
    case, clean = evidence(gain=15), scenes(300, "test")[0]
    together = STRIP().screen(case, clean, stream("strip")).scores
    alone = STRIP().screen(case, clean[[270, 3]], stream("strip")).scores
    torch.testing.assert_close(alone, together[[270, 3]])


def test_strip_sets_no_threshold_without_spare_hold_out_images():
    with pytest.raises(ValueError, match="overlays=300"):
        STRIP(overlays=300).screen(evidence(gain=15), scenes(5, "test")[0], stream("strip"))


# --- ShrinkPad


def explicit(image: torch.Tensor, pixels: int) -> dict[tuple[int, int], torch.Tensor]:
    """Every place at which one image can end up."""
    _, h, w = image.shape
    small = functional.interpolate(image[None].double(), (h - pixels, w - pixels), mode="bilinear")[0].round()
    found = {}
    for top in range(pixels + 1):
        for left in range(pixels + 1):
            found[top, left] = functional.pad(small, (left, pixels - left, top, pixels - top)).to(torch.uint8)
    return found


def test_shrink_pad_puts_each_image_at_one_place_and_uses_all_places():
    images = torch.randint(1, 256, (1300, 3, 7, 9), generator=stream("pictures"), dtype=torch.uint8)
    purified = ShrinkPad(pixels=2).purify(evidence(gain=0), images, stream("pad"))
    places = []
    for image, result in zip(images, purified, strict=True):
        # float32 and float64 may round a tie apart, so one step of brightness is no difference
        fits = [place for place, x in explicit(image, 2).items() if (x.int() - result.int()).abs().max() <= 1]
        assert len(fits) == 1
        places += fits
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 0.001


def test_shrink_pad_moves_the_planted_trigger_out_of_its_place():
    def awake(images):
        return victim.net.levels(images)["penultimate"][:, -1]

    victim, triggered = evidence(gain=15), brighten_corner(scenes(400, "test")[0])
    purified = ShrinkPad(pixels=4).purify(victim, triggered, stream("pad"))
    assert (awake(purified) > awake(triggered).min() / 2).double().mean() < 0.15


def test_shrink_pad_needs_something_left():
    with pytest.raises(ValueError, match=r"pixels: expected fewer than the .* got 16"):
        ShrinkPad(pixels=16).purify(evidence(gain=0), scenes(2, "test")[0], stream("pad"))
