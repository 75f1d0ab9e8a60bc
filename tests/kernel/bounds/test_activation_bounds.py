"""What units can be on a box: slopes, extents and bounds against rationals at points."""

from __future__ import annotations

from fractions import Fraction

import pytest
import strategies as plants
from hypothesis import given, settings
from hypothesis import strategies as st
from on_boxes import exact_layers

import moduli as mo
from moduli.kernel.bounds.activation_bounds import (
    activation_bounds,
    extent,
    preactivation_bounds,
    slope,
)
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.state import State


def on_box(net, signs=None, low=-1.0, high=1.0):
    signs = tuple((0,) * n for n in net.widths[1:-1]) if signs is None else signs
    return State(net, region=Region((low,) * net.widths[0], (high,) * net.widths[0], (-1,), signs))


@pytest.mark.parametrize(
    ("activation", "slopes"),
    [
        ("relu", {1: 1, -1: 0, 0: None}),
        ("abs", {1: 1, -1: -1, 0: None}),
        ("leaky_relu(0.25)", {1: 1, -1: Fraction(1, 4), 0: None}),
        ("identity", {1: 1, -1: 1, 0: 1}),
        ("tanh", {1: None, -1: None, 0: None}),
        ("clip(-1,1)", {1: None, -1: None, 0: None}),
    ],
)
def test_a_known_sign_makes_a_unit_linear(activation, slopes):
    """s(z) = c z where the sign of z is known, for activations of two slopes; nothing is known of
    others, or without a box.
    """
    net = mo.Network.mlp([[1.0]] * 3, [0.0] * 3, [[1.0] * 3], [0.0], activation=activation)
    state = on_box(net, ((1, -1, 0),))
    assert [slope(state, 1, unit) for unit in range(3)] == [slopes[1], slopes[-1], slopes[0]]
    assert slope(State(net), 1, 0) == (1 if activation == "identity" else None)


@given(st.data())
@settings(max_examples=40)
def test_bounds_hold_at_points_and_extents_at_corners(data):
    net = plants.small_network(data.draw, ["relu", "abs", "leaky_relu(0.5)"])
    state = on_box(net)
    found = [preactivation_bounds(state, l) for l in range(1, len(net.layers))]
    row = tuple(data.draw(plants.SMALL) for _ in range(net.widths[0]))
    least, most = extent(state, 1, row)
    assert (least, most) == (-sum(map(abs, row)), sum(map(abs, row))), "exact, on a box around zero"
    behind = tuple(data.draw(plants.SMALL) for _ in range(net.widths[1]))
    low, high = extent(state, 2, behind)
    for share in ((-1.0, 1.0), (0.5, -0.25), (0.0, 1.0), (1.0, 1.0)):
        z = exact_layers(net.layers, list(share[: net.widths[0]]))
        for values, (lo, hi) in zip(z[:-1], found, strict=True):
            assert all(
                p <= v <= q for v, p, q in zip(values, lo.tolist(), hi.tolist(), strict=True)
            )
        h = [net.activations[0].exact(v) for v in z[0]]
        ends = zip(h, *(part.tolist() for part in activation_bounds(state, 1)), strict=True)
        assert all(p <= v <= q for v, p, q in ends)
        assert low <= sum((q * v for q, v in zip(behind, h, strict=True)), Fraction(0)) <= high


def test_no_box_or_no_end_is_no_extent():
    net = mo.Network.mlp(
        [[1e308], [1.0]], [1e308, 0.0], [[1.0, 1.0]], [0.0], [[1.0]], [0.0], activation="relu"
    )
    assert extent(State(net), 1, (Fraction(1),)) == (None, None)
    assert extent(State(net), 2, (Fraction(1), Fraction(-1))) == (None, None)
    assert extent(State(net), 2, (Fraction(1), Fraction(1))) == (0, None), (
        "a relu is never negative"
    )
    state = on_box(net, low=-1e10, high=1e10)
    assert extent(state, 2, (Fraction(1), Fraction(1))) == (0, None)
    assert extent(state, 2, (Fraction(0), Fraction(1))) == (0, 10**10), (
        "what a weight of zero meets does not matter"
    )


def test_signs_sharpen_bounds():
    net = mo.Network.mlp([[1.0, 1.0]], [0.0], [[1.0]], [0.0], activation="abs")
    assert activation_bounds(on_box(net, ((1,),), low=0.0), 1)[0].tolist() == [0.0]
    assert activation_bounds(on_box(net, ((-1,),)), 1)[1].tolist() == [2.0]
    assert [end.tolist() for end in activation_bounds(on_box(net), 0)] == [[-1.0, -1.0], [1.0, 1.0]]
