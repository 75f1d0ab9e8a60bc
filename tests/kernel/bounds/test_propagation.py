"""Bounds against exact arithmetic: at the vertices of all linear pieces, at rational points, at
every scale of floats.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import strategies as plants
from hypothesis import given, settings
from on_boxes import coarse_network, exact_layers, points, random_box, random_network

import moduli as mo
from moduli.kernel.bounds import propagation
from moduli.kernel.exact_numbers import enclose_value

LINEAR = ("relu", "abs", "leaky_relu(0.1)", "leaky_relu(-0.3)", "leaky_relu(2.0)", "identity")
SMOOTH = ("tanh", "sigmoid", "erf", "softplus", "sin", "gelu", "silu")


def intervals(layers, low, high):
    """Bounds without affine functions."""
    return propagation.propagate(layers, low, high, linear=False).bounds


def contains(lo, exact, hi):
    """lo <= exact <= hi for floats, perhaps infinite, around a rational."""
    return (lo == -np.inf or Fraction(lo) <= exact) and (hi == np.inf or exact <= Fraction(hi))


def holds(found, layers, points, box=0):
    """Whether bounds of one box hold at points of it."""
    return all(
        contains(l, z, h)
        for x in points
        for zs, (lo, hi) in zip(exact_layers(layers, x), found, strict=True)
        for z, l, h in zip(zs, lo[box].tolist(), hi[box].tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(40))
def test_at_every_vertex_of_the_linear_pieces(seed):
    rng = np.random.default_rng(seed)
    for _ in range(4):
        net = random_network(rng, activation=str(rng.choice(["relu", "abs", "leaky_relu(0.25)"])))
        low, high = random_box(rng, net.widths[0])
        if not (low < high).all():
            continue
        vertices = {p for cell in mo.pieces(net, on=mo.Box(low, high)).complex for p in cell.points}
        for found in (intervals, propagation.linear):
            assert holds(found(net.layers, low[None], high[None]), net.layers, vertices)


@pytest.mark.parametrize("activation", LINEAR)
def test_at_every_scale(activation):
    rng = np.random.default_rng(LINEAR.index(activation))
    for k in range(60):
        scales = 10.0 ** rng.choice([0, -20, 20, -160, 150, -300, 300, -310, -322], 2)
        net = random_network(rng, scales, activation)
        low, high = random_box(rng, net.widths[0])
        if k % 3 == 0:
            low, high = low * scales[0], high * scales[0]
        if not np.isfinite([low, high]).all():
            continue
        x = points(rng, low, high)
        for found in (
            intervals(net.layers, low[None], high[None]),
            propagation.linear(net.layers, low[None], high[None]),
            propagation.linear(net.layers, low[None], high[None], lazy=True),
        ):
            assert holds(found, net.layers, x)


@pytest.mark.parametrize("seed", range(20))
def test_exact_sums(seed):
    """Where nothing is rounded, at every vertex; and where it is, or products underflow, all the
    same.
    """
    rng = np.random.default_rng(seed)
    for k in range(12):
        scales = (
            (1.0, 1.0)
            if k % 2
            else 2.0 ** rng.choice([0, -60, -300, -520, -600, -1000, -1070, 300, 500, 900], 2)
        )
        net = coarse_network(rng, scales)
        low = rng.integers(-2, 2, net.widths[0]) * 1.0
        high = low + rng.integers(1, 3, net.widths[0])
        if k % 2:
            x = {p for cell in mo.pieces(net, on=mo.Box(low, high)).complex for p in cell.points}
        else:
            shrink = 2.0 ** -rng.choice([0.0, 500.0, 1073.0])
            low, high = low * shrink, high * shrink
            x = points(rng, low, high)
        for find in (intervals, propagation.linear):
            assert holds(find(net.layers, low[None], high[None]), net.layers, x)


def test_sums_that_nearly_cancel():
    """What is left of rounded products, of rounded slopes, of rounded weights: bounds next to zero,
    on the right side.
    """
    rng = np.random.default_rng(11)
    for _ in range(30):
        a, b = rng.normal(size=(2, 3))
        row = np.stack([a, -(a * b)], axis=1).ravel()
        first = mo.Network.mlp(
            np.array([row, -row]), [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu"
        )
        x = np.stack([b, np.ones(3)], axis=1).ravel()
        w = float(rng.integers(3, 100))
        slope = mo.Network.mlp(
            [[1.0], [-1.0]],
            [0.0, 0.0],
            [[w, w * 0.1], [-w, -w * 0.1]],
            [0.0, 0.0],
            activation="leaky_relu(0.1)",
        )
        p, q = rng.random(2) + 0.5
        weight = mo.Network.mlp(
            [[p], [q], [p + q]], [0.0] * 3, [[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], [0.0, 0.0],
            activation="relu"
        )  # fmt: skip
        for net, low, high in (
            (first, x, x),
            (slope, np.array([-2.0]), np.array([-1.0])),
            (weight, np.array([1.0]), np.array([2.0])),
        ):
            for find in (intervals, propagation.linear):
                assert holds(find(net.layers, low[None], high[None]), net.layers, [low, high])


def with_twins(rng, net):
    """Further units whose rows are those of others or their negatives."""
    layers = list(net.layers)
    for l in range(len(layers) - 1):
        old, after = layers[l], layers[l + 1]
        pick, sign = rng.integers(0, len(old.bias), 3), rng.choice([-1.0, 1.0], 3)
        rows, biases = old.weight[pick] * sign[:, None], old.bias[pick] * sign
        layers[l] = mo.Layer(
            np.vstack([old.weight, rows]), np.append(old.bias, biases), old.activation
        )
        out = after.weight[:, pick] * rng.choice([-1.0, 1.0, 0.7, 1e-9], 3)
        layers[l + 1] = mo.Layer(np.hstack([after.weight, out]), after.bias, after.activation)
    return mo.Network(tuple(layers))


@pytest.mark.parametrize("activation", LINEAR)
def test_twins(activation):
    rng = np.random.default_rng(12)
    for _ in range(60):
        scales = 10.0 ** rng.choice([0, 0, 0, -20, 20, -160, 150, -310], 2)
        net = with_twins(rng, random_network(rng, scales, activation))
        low, high = random_box(rng, net.widths[0])
        assert holds(
            propagation.linear(net.layers, low[None], high[None]),
            net.layers,
            points(rng, low, high),
        )


def test_twins_that_cancel_leave_exactly_nothing():
    """relu(z) - relu(-z) - z = 0, whatever z."""
    rng = np.random.default_rng(13)
    for row, bias in zip(rng.normal(size=(20, 2)), rng.normal(size=20), strict=True):
        net = mo.Network.mlp(
            np.stack([row, -row, row, -row, row]), bias * np.array([1.0, -1, 1, -1, 1]),
            [[1.0, -1.0, -1.0, 1.0, 0.0], [0.5, 0.0, -1.0, 0.0, 0.5]], [0.0, -0.25], [[1.0, 1.0]],
            [0.0], activation="relu",
        )  # fmt: skip
        lo, hi = propagation.linear(net.layers, -np.ones((1, 2)), np.ones((1, 2)))[1]
        assert lo.tolist() == hi.tolist() == [[0.0, -0.25]]


def test_a_point_has_bounds_as_wide_as_its_rounding():
    rng = np.random.default_rng(1)
    for _ in range(50):
        net, x = random_network(rng), rng.normal(size=3)
        x = x[: net.widths[0]]
        for lo, hi in propagation.linear(net.layers, x[None], x[None]):
            assert (hi - lo <= 1e-13 * (1 + np.abs(lo))).all()


def test_batches_agree_with_single_boxes_up_to_rounding():
    rng = np.random.default_rng(2)
    net = random_network(rng, inputs=3)
    boxes = [random_box(rng, 3) for _ in range(20)]
    low, high = (np.array(side) for side in zip(*boxes, strict=True))
    for k, (a, b) in enumerate(boxes):
        for (lo, hi), (p, q) in zip(
            propagation.linear(net.layers, low, high),
            propagation.linear(net.layers, a[None], b[None]),
            strict=True,
        ):
            assert np.allclose(lo[k], p[0], rtol=1e-12, atol=1e-12)
            assert np.allclose(hi[k], q[0], rtol=1e-12, atol=1e-12)


def test_affine_bounds_are_exact_where_nothing_bends():
    """Second layer of units that are all active: x - x = 0 up to rounding, where intervals see [-2,
    2].
    """
    net = mo.Network.mlp([[1.0], [1.0]], [2.0, 2.0], [[1.0, -1.0]], [0.0], activation="relu")
    box = np.array([[-1.0]]), np.array([[1.0]])
    assert intervals(net.layers, *box)[1][1][0, 0] == pytest.approx(2)
    assert 0 <= propagation.linear(net.layers, *box)[1][1][0, 0] < 1e-14


def test_extremes_that_are_exactly_zero():
    """Zero rows, non-positive weights on non-negative features, a corner that is touched, biases
    that cancel.
    """
    third = 1 / 3
    net = mo.Network.mlp(
        [[1.0, 1.0], [0.0, 0.0], [third, third]], [-16.0, 0.0, -16 * third],
        [[-0.1, -0.7, -1e-300], [0.0, 0.0, 0.0]], [0.0, -0.0], [[1.0, 1.0]], [0.0],
        activation="relu",
    )  # fmt: skip
    low, high = np.array([[-8.0, -8.0]]), np.array([[8.0, 8.0]])
    for find in (intervals, propagation.linear):
        found = find(net.layers, low, high)
        assert found[0][1].tolist() == [[0.0, 0.0, 0.0]]
        assert [x.tolist() for x in found[1]] == [[[0.0, 0.0]], [[0.0, 0.0]]]
    almost = mo.Network.mlp([[1.0, 1.0]], [-16 + 2.0**-49], [[1.0]], [0.0], activation="relu")
    assert intervals(almost.layers, low, high)[0][1][0, 0] > 0


@given(plants.SEEDS)
@settings(max_examples=40, deadline=None)
def test_planted_networks_of_every_activation(seed):
    rng = np.random.default_rng(seed)
    net, _ = plants.planted(seed)
    low, high = random_box(rng, net.widths[0])
    found = propagation.linear(net.layers, low[None], high[None])
    for x in points(rng, low, high, 4):
        h = [(Fraction(v), Fraction(v)) for v in x]
        for layer, (lo, hi) in zip(net.layers, found, strict=True):
            for k, (row, b) in enumerate(
                zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ):
                ends = [
                    sorted((Fraction(w) * p, Fraction(w) * q))
                    for w, (p, q) in zip(row, h, strict=True)
                ]
                least, most = (sum((e[s] for e in ends), Fraction(b)) for s in (0, 1))
                assert lo[0, k] == -np.inf or Fraction(lo[0, k]) <= most
                assert hi[0, k] == np.inf or Fraction(hi[0, k]) >= least
            z = [
                [sum((e[s] for e in ends), Fraction(b)) for s in (0, 1)]
                for ends, b in _terms(layer, h)
            ]
            h = [enclose_value(layer.activation, (p, q)) for p, q in z]


def _terms(layer, h):
    for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
        yield (
            [sorted((Fraction(w) * p, Fraction(w) * q)) for w, (p, q) in zip(row, h, strict=True)],
            b,
        )


@pytest.mark.parametrize("seed", range(60))
def test_difference_of_two_networks(seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.choice([0, 0, 0, -20, 100, -150])
    a = random_network(rng, (scale, 1.0), str(rng.choice(LINEAR)))
    noise = rng.choice([0.0, 1e-16, 1e-3, 1.0])
    b = a.with_flat(a.flat() * (1 + noise * rng.normal(size=a.parameters)))
    low, high = random_box(rng, a.widths[0])
    for relax in (False, True):
        found = propagation.difference(a.layers, b.layers, low[None], high[None], relax=relax)
        for x in points(rng, low, high):
            za, zb = exact_layers(a.layers, x), exact_layers(b.layers, x)
            for l, (lo, hi) in enumerate(found):
                apart = [p - q for p, q in zip(za[l], zb[l], strict=True)]
                assert all(
                    contains(p, d, q)
                    for p, d, q in zip(lo[0].tolist(), apart, hi[0].tolist(), strict=True)
                )


def test_equal_networks_have_difference_zero():
    rng = np.random.default_rng(7)
    for activation in ("relu", "tanh", "leaky_relu(0.1)"):
        net = random_network(rng, activation=activation)
        low, high = random_box(rng, net.widths[0])
        for lo, hi in propagation.difference(
            net.layers, net.layers, low[None], high[None], relax=False
        ):
            assert not lo.any()
            assert not hi.any()


def test_relations_beat_two_separate_bounds():
    rng = np.random.default_rng(8)
    a = mo.Network.mlp(
        rng.normal(size=(16, 4)),
        rng.normal(size=16),
        rng.normal(size=(1, 16)),
        [0.0],
        activation="relu",
    )
    b = a.with_flat(a.flat() * (1 + 1e-3 * rng.normal(size=a.parameters)))
    box = -np.ones((1, 4)), np.ones((1, 4))
    apart = np.subtract(*(part[0, 0] for part in propagation.linear(a.layers, *box)[-1][::-1]))
    plain, relaxed = (
        propagation.difference(a.layers, b.layers, *box, relax=r)[-1][1][0, 0]
        for r in (False, True)
    )
    assert relaxed <= plain < 0.1 * apart


def test_difference_through_tanh():
    rng = np.random.default_rng(9)
    a = mo.Network.mlp(
        rng.normal(size=(8, 2)),
        rng.normal(size=8),
        rng.normal(size=(1, 8)),
        [0.0],
        activation="tanh",
    )
    b = a.with_flat(a.flat() * (1 + 1e-3 * rng.normal(size=a.parameters)))
    low, high = -np.ones((1, 2)), np.ones((1, 2))
    lo, hi = propagation.difference(a.layers, b.layers, low, high)[-1]
    x = rng.uniform(low, high, (500, 2))
    apart = a.logits(x) - b.logits(x)
    assert lo[0, 0] <= apart.min()
    assert apart.max() <= hi[0, 0]
    assert hi[0, 0] - lo[0, 0] < 0.1


def test_networks_of_other_shapes_and_bad_boxes_are_refused():
    rng = np.random.default_rng(10)
    a, b = random_network(rng, inputs=2), random_network(rng, inputs=3)
    box = np.zeros((1, 2)), np.ones((1, 2))
    with pytest.raises(mo.ShapeError, match="shapes"):
        propagation.difference(a.layers, b.layers, *box)
    for low, high in ((box[1], box[0]), (box[0], box[1] * np.inf), (box[0][:, :1], box[1][:, :1])):
        with pytest.raises(mo.ShapeError):
            propagation.linear(a.layers, low, high)
