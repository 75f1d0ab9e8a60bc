"""Rows near multiples of each other within a radius: planted, rounded, of both signs, in any layer,
against the kernel.
"""

from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.compression.radius.multiples import bundles, shortest
from moduli.kernel.radius.compatibility import ParameterBall

HOMOGENEOUS = ["relu", "leaky_relu(0.1)", "abs"]


def copies(seed, activation, count=5, units=6, negative=False, dtype="float32"):
    """Random units and rounded multiples of some."""
    rng = np.random.default_rng(seed)
    rows, of = rng.normal(size=(units, 5)), rng.integers(0, units, count)
    ratios = rng.uniform(0.3, 3.0, count) * (rng.choice([-1.0, 1.0], count) if negative else 1.0)
    rows = np.vstack([rows, rows[of] * ratios[:, None]]).astype(dtype).astype(float)
    order = rng.permutation(len(rows))
    out = rng.normal(size=(3, len(rows)))
    return mo.Network.mlp(
        rows[order, :-1], rows[order, -1], out, rng.normal(size=3), activation=activation
    )


def near(net, small, radius):
    """The certificate holds, its changes are within the radius in rationals, and the functions are
    as close as it says.
    """
    assert small.check()
    for change in small.near.changes:
        old = getattr(net.layers[change.layer - 1], change.part).ravel()
        for k, place in enumerate(change.at.tolist()):
            assert abs(Fraction(change.to.get((k,))) - Fraction(old[place])) <= Fraction(radius)
    x = np.random.default_rng(0).uniform(-1, 1, (200, net.widths[0]))
    assert np.abs(small.network.logits(x) - net.logits(x)).max() <= small.within(1.0) + 1e-12


@pytest.mark.parametrize("activation", HOMOGENEOUS)
def test_rounded_multiples_are_found(activation):
    for seed in range(4):
        net = copies(seed, activation, negative=activation == "abs")
        assert mo.compress(net).network.units == 11
        for radius in (1e-6, 1e-3):
            small = mo.compress(net, radius=radius)
            assert small.network.units == 6
            near(net, small, radius)
            assert mo.rank(net, radius=radius).upper == 6


@pytest.mark.parametrize("activation", HOMOGENEOUS)
def test_multiples_of_53_digits_become_rational_ones(activation):
    """Off by half a unit in the last place: the ratio and the rows have more digits than a float."""
    for seed in range(4):
        net = copies(seed, activation, dtype="float64")
        assert mo.compress(net).network.units == 11
        small = mo.compress(net, radius=2e-15)
        assert small.network.units == 6
        near(net, small, 2e-15)


def test_nothing_is_found_below_the_rounding():
    net = copies(0, "relu")
    assert mo.compress(net, radius=1e-10).network.units == 11


def test_multiples_in_a_deeper_layer_behind_merged_ones():
    rng = np.random.default_rng(3)
    first, ratio = rng.normal(size=(4, 4)), np.float32(1.7)
    first = np.vstack([first, first[:2] * ratio]).astype(np.float32).astype(float)
    second = rng.normal(size=(5, 6))
    bias = rng.normal(size=5)
    second, bias = np.vstack([second, second[:2] * 0.6]), np.append(bias, bias[:2] * 0.6)
    second, bias = second.astype(np.float32).astype(float), bias.astype(np.float32).astype(float)
    last = rng.normal(size=(2, 7))
    net = mo.Network.mlp(
        first[:, :3], first[:, 3], second, bias, last, [0.0, 0.0], activation="relu"
    )
    small = mo.compress(net, radius=1e-6)
    assert small.network.widths == (3, 4, 5, 2)
    near(net, small, 1e-6)


def test_multiples_whose_outgoing_weights_cancel_go():
    rng = np.random.default_rng(4)
    row, out = rng.normal(size=4), rng.normal(size=2)
    rows = np.vstack([row, 1.7 * row, rng.normal(size=4)])
    columns = np.column_stack([1.7 * out, -out, rng.normal(size=2)])
    rounded = [x.astype(np.float32).astype(float) for x in (rows, columns)]
    net = mo.Network.mlp(
        rounded[0][:, :3], rounded[0][:, 3], rounded[1], [0.0, 0.0], activation="relu"
    )
    assert mo.compress(net).network.units == 3
    small = mo.compress(net, radius=1e-6)
    assert small.network.units == 1
    near(net, small, 1e-6)


def test_opposite_multiples_share_a_hyperplane_where_turning_helps():
    """Two bends of a function of one input, each from units on both sides: three units are enough,
    four were there.
    """
    rows = np.outer([1.0, -1.7, 0, 0], [0.7, -0.31]) + np.outer([0, 0, 1.3, -0.6], [0.9, 0.77])
    rows = rows.astype(np.float32).astype(float)
    net = mo.Network.mlp(rows[:, :1], rows[:, 1], [[1.0, 2.0, 3.0, 4.0]], [0.0], activation="relu")
    assert mo.compress(net).network.units == 4
    small = mo.compress(net, radius=1e-6)
    assert small.network.units == 3
    near(net, small, 1e-6)


def test_any_rows_and_radius_end_with_a_certificate():
    rng = np.random.default_rng(5)
    for k in range(40):
        h, n = int(rng.integers(1, 30)), int(rng.integers(1, 4))
        size = float(rng.choice([1.0, 1.0, 5e-324, 1e-310, 1e150, 1e300]))
        rows, out = rng.integers(-3, 4, (h, n + 1)) * size, rng.integers(-2, 3, (2, h)) * 1.0
        if k % 2:
            rows = rng.normal(size=(h, n + 1)) * size
        radius = max(5e-324, float(10 ** rng.uniform(-6, 0)) * size)
        net = mo.Network.mlp(
            rows[:, :-1], rows[:, -1], out, [0.0, 0.0], activation=HOMOGENEOUS[k % 3]
        )
        small = mo.compress(net, radius=radius, budget=int(rng.choice([5, 100, 2000])))
        assert small.check()
        assert small.network.units <= mo.compress(net).network.units


def test_bundles_stay_in_the_ball_and_hold_every_unit_once():
    rng = np.random.default_rng(6)
    for k in range(30):
        rows, out = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
        ball = ParameterBall(rows, out, float(rng.choice([0.05, 0.3])), signed=False)
        found = bundles(ball, opposite=bool(k % 2), symmetric=False, most=10**6)
        assert sorted(u for b in found for u in b.units) == ball.required.tolist()
        for b in found:
            for unit, ratio in zip(b.units, b.ratios, strict=True):
                moved = [
                    ratio * x - Fraction(y) for x, y in zip(b.row, rows[unit].tolist(), strict=True)
                ]
                assert max(map(abs, moved)) <= Fraction(ball.radius)
    assert all(len(b.units) == 1 for b in bundles(ball, opposite=False, symmetric=False, most=0))


def test_the_shortest_number_of_an_interval():
    rng = np.random.default_rng(7)
    for _ in range(200):
        low = Fraction(float(rng.normal()))
        high = low + Fraction(float(10 ** rng.uniform(-9, 1)))
        found = shortest(low, high)
        assert low <= found <= high
        odd = found.numerator.bit_length()
        assert odd <= 2 + max(0, (max(abs(low), abs(high)) / (high - low)).__ceil__().bit_length())
