"""Euclidean distances to the parameters of low rank: against projections onto all subspaces."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moduli as mo
from moduli.compression.radius.euclidean_distance import _root_up
from moduli.compression.radius.low_rank_parameters import rank_set
from moduli.compression.radius.subspaces import Subspace


def network(rng, n, h, m, activation="tanh", scale=1.0):
    rows, outer = rng.standard_normal((h, n + 1)) * scale, rng.standard_normal((m, h)) * scale
    return mo.Network.mlp(rows[:, :-1], rows[:, -1], outer, np.zeros(m), activation=activation)


def projected(net, space):
    """The distance to a subspace from its equations alone, by least squares."""
    hidden, last = net.layers
    theta = np.concatenate([hidden.weight, hidden.bias[:, None], last.weight.T], axis=1).ravel()
    matrix = np.zeros((space.codimension, theta.size))
    for row, equation in zip(matrix, space.equations(), strict=True):
        for place, factor in equation:
            row[place] += factor
    if not len(matrix):
        return 0.0
    moved = np.linalg.lstsq(matrix, matrix @ theta, rcond=None)[0]  # the shortest that solves them
    return float(np.linalg.norm(moved))


@pytest.mark.parametrize(
    "widths",
    [(1, 1, 1), (2, 2, 1), (1, 3, 2), (2, 4, 1), pytest.param((1, 5, 1), marks=pytest.mark.slow)],
)
def test_against_all_subspaces(widths):
    n, h, m = widths
    kinds = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net = network(rng, n, h, m)
        if seed % 2:  # near ones: a twin, a unit that hardly varies, a pair that nearly cancels
            b, c, a = net.layers[0].weight.copy(), net.layers[0].bias.copy(), net.layers[1].weight
            b[-1], c[-1] = -b[0] + 0.05, -c[0]
            a = a.copy()
            a[:, -1] = a[:, 0] * (1 if seed % 3 else 1.02)
            net = mo.Network.mlp(b, c, a, np.zeros(m))
        for rank in range(h + 1):
            near = rank_set(widths, rank)
            want = min(projected(net, space) for space in near)
            found = near.distance(net)
            assert found.complete
            assert found.lower <= found.upper <= found.lower * (1 + 1e-9) + 1e-300
            assert found.upper == pytest.approx(want, rel=1e-9, abs=1e-12)
            assert found.check()
            assert int(mo.rank(found.witness)) <= rank
            moved = np.linalg.norm(found.witness.flat() - net.flat())
            assert moved == pytest.approx(found.upper, rel=1e-9, abs=1e-12)
            square = found.subspace.squared_distance(net)
            assert float(square) == pytest.approx(want**2, rel=1e-9, abs=1e-12)
            kinds |= {len(found.subspace.free) > 0, len(found.subspace.constant) > 0}
    assert kinds == {True, False} or h == 1


def test_a_stopped_search_keeps_both_bounds():
    net = network(np.random.default_rng(0), 2, 14, 1)
    near = rank_set(net.widths, 7)
    whole = near.distance(net)
    assert whole.complete
    last = 0.0
    for budget in (0, 10, 100, 1000):
        found = near.distance(net, budget=budget)
        assert found.lower <= whole.upper * (1 + 1e-12)
        assert found.upper >= whole.lower * (1 - 1e-12)
        assert last <= found.lower  # best first: more nodes, a better bound
        last = found.lower
    stopped = near.distance(net, budget=10)
    assert not stopped.complete
    assert "raise the budget" in dict(stopped.rows())["nodes"]


def test_planted_networks_are_as_near_as_they_were_moved():
    for seed in range(10):
        near = rank_set((3, 12, 2), 8)
        net = near.sample(seed)
        step = np.random.default_rng(seed).standard_normal(net.flat().size)
        moved = net.with_flat(net.flat() + 1e-9 * step / np.linalg.norm(step))
        found = near.distance(moved, budget=2000)
        assert 0 < found.upper <= 1e-9 * (1 + 1e-6)
        assert found.check()


def test_invariance():
    """Under permutations and signs of units, and with the scale."""
    rng = np.random.default_rng(3)
    net = network(rng, 2, 7, 2)
    near = rank_set(net.widths, 4)
    want = near.distance(net)
    order, sign = rng.permutation(7), rng.choice([-1.0, 1.0], 7)
    hidden, last = net.layers
    turned = mo.Network.mlp(
        hidden.weight[order] * sign[:, None], hidden.bias[order] * sign,
        last.weight[:, order] * sign, last.bias,
    )  # fmt: skip
    assert near.distance(turned).upper == pytest.approx(want.upper, rel=1e-12)
    for power in (-300, 300):
        scaled = near.distance(net.with_flat(net.flat() * 2.0**power))
        assert scaled.complete
        assert scaled.upper == pytest.approx(want.upper * 2.0**power, rel=1e-12)
        assert scaled.lower == pytest.approx(want.lower * 2.0**power, rel=1e-12)


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 0.1, 1.0, -1.0, 1e300]), min_size=9, max_size=9
    )
)
@settings(max_examples=30, deadline=None)
def test_any_numbers(values):
    b, c, a = np.split(np.array(values), 3)
    net = mo.Network.mlp(b[:, None], c, a[None, :], [0.0])
    for rank in range(4):
        found = rank_set((1, 3, 1), rank).distance(net)
        assert 0 <= found.lower <= found.upper
        assert found.check()
        assert (found.upper == 0) == (int(mo.rank(net)) <= rank)
        exact = min(space.squared_distance(net) for space in rank_set((1, 3, 1), rank))
        assert Fraction(found.lower) ** 2 <= exact
        json.dumps(found.to_json())


@pytest.mark.parametrize("activation", ["erf", "sigmoid"])
def test_other_activations_of_known_minimality(activation):
    net = network(np.random.default_rng(1), 2, 4, 1, activation)
    twin = network(np.random.default_rng(1), 2, 4, 1)
    near = rank_set(net.widths, 2)
    found = near.distance(net)
    assert found.upper == near.distance(twin).upper
    assert int(mo.rank(found.witness)) <= 2


def test_roots_are_rounded_up():
    rng = np.random.default_rng(0)
    squares = [Fraction(int(x), int(y)) for x, y in rng.integers(1, 2**60, (200, 2))]
    for square in [*squares, Fraction(1, 4), Fraction(2), Fraction(2) ** -2000, Fraction(3) ** 700]:
        root = _root_up(square)
        assert Fraction(root) ** 2 >= square
        below = Fraction(np.nextafter(np.nextafter(root, 0), 0))
        assert below**2 < square


def test_the_least_subspace_of_copies():
    net = mo.Network.mlp(
        [[1.0], [-1.0], [0.0], [2.0]], [0.5, -0.5, 3.0, 0.0], [[1.0, 1.0, 4.0, 0.0]], [0]
    )
    assert str(Subspace.through(net)) == "constant 2; free {0, -1} {3}"


def test_squares_that_underflow_leave_a_gap():
    tiny = 1e-170
    net = mo.Network.mlp([[1.0], [1.0 + 0.0]], [0.0, tiny], [[1.0, 1.0]], [0.0])
    found = rank_set((1, 2, 1), 1).distance(net)
    assert found.lower <= found.upper == pytest.approx(tiny / 2**0.5)
    assert not found.complete
    assert "between" in found.statement
