"""Signed boxes and free groups against brute force: what is near, what is listed, where searches
give up.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from balls import fits, keys, random_ball, signings

from moduli.compression.radius import guides
from moduli.compression.radius.guides import guided
from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.radius import compatibility
from moduli.kernel.radius.compatibility import (
    DualWeights,
    Effort,
    ParameterBall,
    SignedBox,
    at_most,
    bits_of,
    classes,
    free_groups,
    listed,
    maximal_boxes,
    members_of,
)
from moduli.kernel.radius.cover_bound import Bound


def test_comparisons_are_exact():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(2000), rng.standard_normal(2000)
    for limit in (0.1, 1 / 3):
        y[:1000] = x[:1000] - limit
        want = [
            Fraction(a) - Fraction(b) <= Fraction(limit)
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        ]
        assert at_most(x, y, limit).tolist() == want
    assert 100 < sum(want[:1000]) < 900


def test_pairs_are_those_that_fit():
    rng = np.random.default_rng(1)
    for _ in range(50):
        b = random_ball(rng, 9)
        for i in range(9):
            others, signs = b.graph.near(i)
            found = set(zip(others.tolist(), signs.tolist(), strict=True))
            assert found == {
                (j, s)
                for j in range(9)
                for s in (1, -1)
                if j != i and fits(b, SignedBox((i, j), (1, s)))
            }


def test_boxes_are_the_maximal_ones():
    rng = np.random.default_rng(2)
    for _ in range(60):
        b = random_ball(rng, 7)
        fit = [
            frozenset(units)
            for size in range(1, 8)
            for units in itertools.combinations(range(7), size)
            if any(fits(b, SignedBox(units, signs)) for signs in signings(units))
        ]
        top = {s for s in fit if not any(s < t for t in fit)}
        found = maximal_boxes(b, np.arange(7), 10**6)
        assert all(fits(b, g) for g in found)
        assert {frozenset(g.units) for g in found} >= top


def test_free_groups_are_all_that_matter():
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(80):
        b = random_ball(rng, 6)
        optional = b.constant | b.null
        matrix, given_up = free_groups(b, np.flatnonzero(b.freeable).tolist(), 10**6)
        assert not given_up
        found = [SignedBox(tuple(r.indices.tolist()), tuple(r.data.tolist())) for r in matrix]
        assert all(fits(b, g) and b.free(g) for g in found)
        seen += len(found)
        for size in range(1, 7):
            for units in itertools.combinations(range(6), size):
                need = {u for u in units if not optional[u]}
                if need and any(
                    fits(b, g) and b.free(g) for g in (SignedBox(units, s) for s in signings(units))
                ):
                    assert any(set(g.units) <= set(units) and need <= set(g.units) for g in found)
                    assert b.freeable[list(need)].all()
    assert seen > 100


def test_priced_columns_are_those_that_weigh_enough(monkeypatch):
    """Of all boxes and free groups exactly those within the bound on reduced costs; the scale
    decides about rounding.
    """
    monkeypatch.setattr(guides, "CROWD", 0)  # multipliers around every unit
    rng = np.random.default_rng(20)
    seen = few = held = 0
    for _ in range(60):
        b = random_ball(rng, 8)
        if rng.random() < 0.2:
            b = ParameterBall(b.rows, b.outgoing * 1e300, b.radius)  # sums overflow
        weights = {
            int(u): int(w)
            for u, w in zip(b.required, rng.integers(0, 5, len(b.required)), strict=True)
        }
        prices = {u: int(w) for u, w in enumerate(rng.integers(0, 4, b.size))}
        unit = int(rng.choice([1, 2**30, 2**55]))
        leaf = DualWeights(
            {u: w * unit for u, w in weights.items()},
            {u: w * unit for u, w in prices.items()},
            (),
            6 * unit,
        )
        slack = int(rng.integers(-3, 5)) * unit - int(rng.integers(0, 2))
        boxes, free, up = listed(b, b.required, 10**6, 10**6)
        bound = guided(b, Bound(0, ((tuple(b.required.tolist()), leaf),)), 10**4)
        leaf = bound.parts[0][1]
        held += len(leaf.guides)
        near, cheap, given_up = listed(b, b.required, 10**6, 10**6, (leaf, slack))
        assert not up + given_up
        heavy = {
            frozenset(g.units)
            for g in boxes
            if leaf.scale - sum(leaf.weights.get(u, 0) for u in g.units) <= slack
        }
        assert {frozenset(g.units) for g in near} == heavy
        cost = [leaf.prices[u] - leaf.weights.get(u, 0) for u in range(b.size)]
        want = {g for g in keys(free) if sum(cost[u] for u, _ in g) <= slack}
        assert keys(cheap) == want
        seen += len(want)
        few += len(want) < free.shape[0]
    assert seen > 100
    assert few > 20
    assert held > 20


def test_free_is_exact_at_ties_and_overflow():
    assert ParameterBall(np.zeros((2, 2)), np.array([[0.1], [0.3]]), 0.2).free(
        SignedBox((0, 1), (1, 1))
    ) == (Fraction(0.1) + Fraction(0.3) <= 2 * Fraction(0.2))
    huge = ParameterBall(np.zeros((3, 2)), np.array([[1e308], [1e308], [-1e308]]), 1.0)
    assert not huge.free(SignedBox((0, 1, 2), (1, 1, 1)))
    assert huge.free(SignedBox((0, 2), (1, 1)))


def test_a_radius_is_a_finite_number():
    for wrong in (-1.0, float("nan"), float("inf"), 2.0**1000):
        with pytest.raises(ValueError, match="choose a finite number"):
            ParameterBall(np.ones((1, 2)), np.ones((1, 1)), wrong)


def test_sets_of_bits():
    rng = np.random.default_rng(0)
    for size in (0, 1, 8, 9, 70):
        flags = rng.random(size) < 0.5
        assert list(members_of(bits_of(flags))) == np.flatnonzero(flags).tolist()


def test_classes_are_pairwise_incompatible():
    rng = np.random.default_rng(1)
    for _ in range(20):
        near = np.triu(rng.random((9, 9)) < 0.5, 1)
        near |= near.T
        colour = classes(near, rng.permutation(9))
        assert not any(near[i, j] and colour[i] == colour[j] for i in range(9) for j in range(i))


def test_boxes_of_enough_weight_and_no_others_are_found():
    rng = np.random.default_rng(4)
    for _ in range(30):
        b, weight = random_ball(rng, 8), rng.integers(0, 4, 8)
        every = {frozenset(g.units) for g in maximal_boxes(b, np.arange(8), 10**6)}
        for least in (1, 3, 6):
            found = {
                frozenset(g.units) for g in maximal_boxes(b, np.arange(8), 10**6, weight, least)
            }
            assert found == {units for units in every if weight[list(units)].sum() >= least}


def test_searches_stop_where_their_nodes_end():
    """All units near each other: one box, but many groups."""
    b = ParameterBall(
        np.ones((12, 2)) * 3, np.where(np.arange(12)[:, None] % 2, 1.0, -1.0) * 3, 0.5
    )
    effort = Effort(10**6)
    assert len(maximal_boxes(b, np.arange(12), 100, effort=effort)) == 1
    assert effort.left < 10**6
    for more in ({}, {"effort": Effort(2)}):
        with pytest.raises(BudgetExhausted, match="search nodes among 12 units"):
            maximal_boxes(b, np.arange(12), 2, **more)
    assert free_groups(b, [0, 1], 3)[1] == [0, 1], "given up: too few nodes"
    assert free_groups(b, [0, 1], 10**6, effort=Effort(0))[1] == [0, 1], (
        "nothing left to begin with"
    )
    whole, given_up = free_groups(b, [0], 10**6)
    assert not given_up
    assert free_groups(b, [0], 10**6, enough=3)[1] == [0]
    assert whole.shape[0] > 3


def test_more_pairs_or_neighbours_than_memory_holds_are_refused(monkeypatch):
    b = ParameterBall(np.ones((6, 2)), np.ones((6, 1)), 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(compatibility, "WIDEST", 3)
        with pytest.raises(BudgetExhausted, match="boxes are searched among up to 3"):
            maximal_boxes(b, np.arange(6), 100)
    monkeypatch.setattr(compatibility, "PAIRS", 10)
    with pytest.raises(BudgetExhausted, match="more than 10 compatible pairs"):
        _ = ParameterBall(np.ones((6, 2)), np.ones((6, 1)), 0.5).graph


def test_pairs_are_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(5)
    for _ in range(10):
        b = random_ball(rng, 9)
        whole = b.graph
        with monkeypatch.context() as patch:
            patch.setattr(compatibility, "BLOCK", 2)
            some = ParameterBall(b.rows, b.outgoing, b.radius).graph
        assert np.array_equal(whole.start, some.start)
        assert np.array_equal(whole.other, some.other)
        assert np.array_equal(whole.sign, some.sign)
