"""Intervals and tests against values from tables and by hand."""

import math

import numpy as np
import pytest

from keyhole.scoring import statistics


def test_interval_of_three_seeds():
    # mean 2, standard deviation 1, t(.975, 2) = 4.302653
    mean, half_width, n = statistics.mean_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2, 3)
    assert half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_a_mean_and_no_half_width():
    interval = statistics.mean_interval([0.9])
    assert interval.mean == 0.9
    assert math.isnan(interval.half_width)


def test_no_seed_has_no_mean():
    interval = statistics.mean_interval([])
    assert math.isnan(interval.mean)
    assert interval.n == 0


def test_a_seed_that_was_not_measured_is_not_dropped_in_silence():
    interval = statistics.mean_interval([0.9, math.nan, 0.8])
    assert math.isnan(interval.mean)
    assert math.isnan(interval.half_width)


@pytest.mark.parametrize(("successes", "low", "high"), [(20, 0.839, 1.0), (0, 0.0, 0.161), (10, 0.299, 0.701)])
def test_wilson_of_twenty(successes, low, high):
    assert statistics.wilson(successes, 20) == pytest.approx((low, high), abs=5e-4)


def test_wilson_of_no_trials_is_undefined():
    assert all(math.isnan(bound) for bound in statistics.wilson(0, 0))


def test_paired_difference_of_six_victims():
    first, second = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.89, 0.78, 0.67, 0.56, 0.45, 0.34]
    difference = statistics.paired_difference(first, second)
    assert difference.median == pytest.approx(0.035)
    assert difference.mean == pytest.approx(0.035)
    assert difference.n == 6
    assert difference.p == pytest.approx(2 / 2**6)  # all six signs agree
    assert difference.half_width == pytest.approx(2.570582 * np.std([1, 2, 3, 4, 5, 6], ddof=1) / 100 / math.sqrt(6))


def test_swapping_the_two_defenses_changes_the_sign_only():
    rng = np.random.default_rng(0)
    first, second = rng.random(8), rng.random(8)
    there, back = statistics.paired_difference(first, second), statistics.paired_difference(second, first)
    assert there.p == pytest.approx(back.p)
    assert there.median == pytest.approx(-back.median)


def test_equal_defenses_do_not_differ():
    difference = statistics.paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (difference.median, difference.p) == (0, 1)


def test_pairs_that_were_not_measured_have_no_p():
    assert math.isnan(statistics.paired_difference([0.1, math.nan], [0.2, 0.3]).p)
    assert math.isnan(statistics.paired_difference([], []).p)


def test_defenses_on_different_victims_cannot_be_paired():
    with pytest.raises(ValueError, match="shorter"):
        statistics.paired_difference([0.1, 0.2], [0.1])


def test_holm_of_four_tests():
    # .005*4 = .02, .01*3 = .03, .03*2 = .06, .04*1 = .04 but not below the step before it
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stays_within_one_and_skips_what_was_not_tested():
    adjusted = statistics.holm([0.6, math.nan, 0.9])
    assert adjusted[[0, 2]] == pytest.approx([1, 1])
    assert math.isnan(adjusted[1])
