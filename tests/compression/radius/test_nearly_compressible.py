"""Shares of nearly compressible parameters: by drawing them and looking at every subspace."""

from __future__ import annotations

import math

import numpy as np
import pytest

import moduli as mo
from moduli.compression.radius.nearly_compressible import _drawn, _interval, share_bound
from moduli.kernel.errors import ArgumentError

SIZES = [((1, 2, 1), 1), ((1, 3, 1), 1), ((2, 3, 1), 2), ((1, 3, 2), 2), ((2, 3, 2), 0)]


def within(widths, rank, radius, rows, outgoing):
    """Of drawn parameters ``[draws, h, n + 1]``, ``[draws, h, m]``: how many subspaces are within the radius, by
    the ranges and sums of each.
    """
    counts = np.zeros(len(rows), dtype=int)
    for space in mo.rank_set(widths, rank):
        near = np.ones(len(rows), dtype=bool)
        for unit in space.constant:
            near &= (np.abs(rows[:, unit, :-1]) <= radius).all(axis=1)
        for units, signs in (*space.paid, *space.free):
            turned = rows[:, list(units)] * np.array(signs)[:, None]
            near &= (np.ptp(turned, axis=1) <= 2 * radius).all(axis=1)
        for units, signs in space.free:
            total = (outgoing[:, list(units)] * np.array(signs)[:, None]).sum(axis=1)
            near &= (np.abs(total) <= radius * len(units)).all(axis=1)
        counts += near
    return counts


@pytest.mark.parametrize(("widths", "rank"), SIZES, ids=str)
@pytest.mark.parametrize("radius", [0.1, 0.3])
def test_the_bound_is_the_mean_number_of_subspaces(widths, rank, radius):
    rng, draws = np.random.default_rng(0), 200_000
    n, h, m = widths
    rows, outgoing = rng.uniform(-1, 1, (draws, h, n + 1)), rng.uniform(-1, 1, (draws, h, m))
    counts = within(widths, rank, radius, rows, outgoing)
    mean, error = counts.mean(), counts.std() / math.sqrt(draws)
    bound = share_bound(widths, rank, radius)
    assert abs(min(1.0, mean) - bound) <= 6 * error + 1e-8
    assert (counts > 0).mean() <= bound + 6 * error


@pytest.mark.parametrize(("widths", "rank"), SIZES, ids=str)
def test_each_draw_is_judged_as_the_subspaces_say(widths, rank):
    radius, draws = 0.2, 25
    found = mo.rank_set(widths, rank).share(radius, draws=draws, seed=3)
    nets = [_drawn(widths, 1.0, np.random.default_rng([3, k])) for k in range(draws)]
    rows = np.array([np.column_stack([x.layers[0].weight, x.layers[0].bias]) for x in nets])
    outgoing = np.array([x.layers[1].weight.T for x in nets])
    yes = int((within(widths, rank, radius, rows, outgoing) > 0).sum())
    assert (found.yes, found.no, found.undecided) == (yes, draws - yes, 0)
    assert 0 <= found.lower <= yes / draws <= 1
    assert found.lower <= found.upper <= found.most


def test_one_unit_in_closed_form():
    """|b| or |a| is within the radius: 1 - (1 - c^n)(1 - c^m)."""
    for n, m, c in ((1, 1, 0.25), (2, 1, 0.5), (3, 2, 0.5)):
        exact = 1 - (1 - c**n) * (1 - c**m)
        assert share_bound((n, 1, m), 0, c) == pytest.approx(min(1, c**n + c**m), rel=1e-8)
        found = mo.rank_set((n, 1, m), 0).share(c, draws=100, seed=1)
        assert abs(found.yes / 100 - exact) <= 6 * math.sqrt(exact * (1 - exact) / 100)


def test_it_falls_with_the_codimension():
    for widths, rank in (((1, 4, 1), 2), ((2, 4, 3), 3), ((3, 5, 2), 3)):
        small, smaller = (share_bound(widths, rank, c) for c in (2.0**-20, 2.0**-21))
        power = math.log2(small / smaller)
        assert power == pytest.approx(mo.rank_set(widths, rank).codimension, abs=1e-3)


def test_only_the_ratio_to_the_cube_counts():
    one, two = share_bound((2, 4, 1), 2, 0.125), share_bound((2, 4, 1), 2, 0.5, side=4.0)
    assert one == two
    whole = mo.rank_set((1, 2, 1), 1).share(0.5, side=0.25, draws=10)
    assert (whole.most, whole.yes) == (1.0, 10)


def test_all_parameters_have_at_most_all_units():
    found = mo.rank_set((1, 2, 1), 2).share(0.0, draws=20)
    assert (found.most, found.yes) == (1.0, 20)
    none = mo.rank_set((1, 2, 1), 1).share(0.0, draws=20)
    assert (none.most, none.no, none.upper) == (0.0, 20, 0.0)


def test_a_draw_that_is_not_decided_widens_the_interval():
    few = mo.rank_set((2, 12, 1), 6).share(0.25, draws=10, budget=1)
    all_of_it = _interval(few.yes, 10)[0], _interval(10 - few.no, 10)[1]
    assert few.yes + few.no + few.undecided == 10
    assert few.undecided > 0
    assert (few.lower, few.upper) == (all_of_it[0], min(all_of_it[1], few.most))


def test_intervals_hold_their_share():
    """Each end is missed with at most 2.5 %, whatever the share: summed over all numbers of draws."""
    for p in (0.001, 0.05, 0.3, 0.5, 0.97):
        for draws in (1, 10, 100):
            low = high = 0.0
            for k in range(draws + 1):
                chance = math.comb(draws, k) * p**k * (1 - p) ** (draws - k)
                ends = _interval(k, draws)
                low += chance * (p < ends[0])
                high += chance * (p > ends[1])
            assert max(low, high) <= 0.025 + 1e-12


def test_numbers_that_are_none_are_refused():
    near = mo.rank_set((1, 2, 1), 1)
    for given in ({"radius": -1.0}, {"radius": math.nan}, {"side": 0.0}, {"draws": 0}):
        with pytest.raises(ArgumentError, match=next(iter(given))):
            near.share(**{"radius": 0.1, **given})
    with pytest.raises(ArgumentError, match="60 hidden units"):
        mo.rank_set((1, 61, 1), 1).share(0.1, draws=1)
