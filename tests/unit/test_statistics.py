"""Intervals and means against values from tables and by hand."""

import math

import pytest

from keyhole.scoring import statistics


@pytest.mark.parametrize(("successes", "low", "high"), [(20, 0.839, 1.0), (0, 0.0, 0.161), (10, 0.299, 0.701)])
def test_wilson_of_twenty(successes, low, high):
    assert statistics.wilson(successes, 20) == pytest.approx((low, high), abs=5e-4)


def test_wilson_of_no_trials_is_undefined():
    assert all(math.isnan(bound) for bound in statistics.wilson(0, 0))


def test_an_average_leaves_out_what_is_not_defined():
    assert statistics.average([1.0, math.nan, 2.0]) == 1.5
    assert math.isnan(statistics.average([math.nan]))
