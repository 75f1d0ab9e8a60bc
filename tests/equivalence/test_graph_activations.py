"""Correlations of units, a batch at a time, beside NumPy's of all rows."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.equivalence.graph_activations import _Moments


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4, -1e6])
@pytest.mark.parametrize("cuts", [[], [1], [0, 5, 5, 300]])
def test_correlations_are_those_of_all_rows_whatever_their_means(mean, cuts):
    """A mean of 10^6 costs sums of squares about it 12 digits of 16."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(400, 5)) + mean
    second = first[:, ::-1] + rng.normal(size=(400, 5))
    moments = _Moments(5)
    for x, y in zip(np.split(first, cuts), np.split(second, cuts), strict=True):
        moments.add(x, y)
    assert moments.count == 400
    wanted = np.corrcoef(first - mean, second - mean, rowvar=False)[:5, 5:]
    # inputs themselves have roundings of 2^-53 |mean|, each spread by 1
    bound = 400 * 2.0**-50 * (1 + abs(mean))
    assert np.abs(moments.correlation() - wanted).max() < bound


def test_units_that_stay_have_no_correlation():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(50, 3))
    first[:, 1] = 7.0
    first[:, 2] = 1e6 * (1 + 2.0**-40 * rng.normal(size=50))  # but for rounding
    moments = _Moments(3)
    for rows in np.split(np.arange(50), 5):
        moments.add(first[rows], first[rows])
    found = moments.correlation()
    assert not found[1:].any()
    assert not found[:, 1:].any()
    assert found[0, 0] == pytest.approx(1, abs=50 * 2.0**-50)
