"""Depth with more than three inputs: sound for planted functions, the same as of the network in the plane,
stable beside it.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.kernel.errors import ArgumentError, CertificateRejected, Undecided
from moduli.piecewise.forced_depth import _enough, _lies_in, depth, through_slices

N = mo.Network.mlp


def planted(seed, widths):
    return plants.minimal(
        np.random.default_rng(seed), widths, ["relu"] * (len(widths) - 2)
    ).network()


def test_what_one_layer_can_do_is_never_said_to_need_two():
    """One hidden layer, written with two: the second layer reads each unit alone, or is always on."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        n = int(rng.integers(4, 8))
        w, b, v, d = (
            x for layer in planted(seed, (n, 5, 2)).layers for x in (layer.weight, layer.bias)
        )
        twice = N(w, b, np.eye(5), np.zeros(5), v, d, activation="relu")
        scaled = np.diag(2.0 ** rng.integers(-2, 3, 5))
        shifted = N(w, b, scaled, np.full(5, 4.0), v, d, activation="relu")
        for net in (twice, shifted):
            found = mo.depth(net, on=mo.Box(-4, 4), seed=seed)
            assert (found.strict, found.status, found.enough) == (1, "bounded", 2)
            assert found.check()
        alone = mo.depth(N(w, b, v, d, activation="relu"), on=mo.Box(-4, 4))
        assert (alone.strict, alone.status, alone.generic) == (1, "proved", 1)


def test_affine_functions_need_none():
    """relu(z) - relu(-z), twice."""
    w = np.array([[1.0, 2.0, 0.0, -1.0, 3.0]])
    both, back = np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]])
    net = N(both @ w, [0.5, -0.5], both @ back, [0, 0], back, [1.0], activation="relu")
    found = mo.depth(net, on=mo.Box(-4, 4))
    assert (found.strict, found.enough, found.traces.count) == (0, 2, 0)
    assert found.check()


@pytest.mark.parametrize("inputs", [4, 6, 40])
def test_the_maximum_needs_two(inputs):
    """max(0, a, b) of two linear functions; four inputs or more do not change that."""
    rng = np.random.default_rng(inputs)
    a, b = rng.integers(-3, 4, (2, inputs)).astype(float)
    rows = np.stack([a, -a, b])
    net = N(rows, np.zeros(3), [[1, -1, -1], [0, 0, 1]], [0, 0], [[1, 1]], [0], activation="relu")
    found = mo.depth(net, on=mo.Box(-8, 8))
    assert (found.strict, found.enough, found.status) == (2, 2, "proved")
    assert found.check()


@pytest.mark.parametrize("widths", [(4, 4, 4, 1), (5, 4, 4, 4, 1), (6, 5, 5, 2)])
def test_never_more_than_the_network_has(widths):
    """Generic networks: two are needed, and a chain asks for no more layers than there are."""
    reached = 0
    for seed in range(4):
        found = mo.depth(planted(seed, widths), on=mo.Box(-4, 4), seed=seed)
        assert found.check()
        assert found.strict <= found.enough <= len(widths) - 2
        assert found.generic <= len(widths) - 2
        reached += (found.strict, found.generic) == (2, len(widths) - 2)
    assert reached > 0


def in_coordinates(net, frame):
    """The network of the coordinates of a plane, its first layer multiplied out; None if that rounds."""
    origin, u, v = frame
    first, *rest = net.layers
    weight = first.weight @ np.column_stack([u, v])
    bias = first.weight @ origin + first.bias
    for row, b, w, c in zip(first.weight, first.bias, weight, bias, strict=True):
        exact = [
            sum(Fraction(p) * Fraction(q) for p, q in zip(row, d, strict=True))
            for d in (u, v, origin)
        ]
        if [Fraction(w[0]), Fraction(w[1]), Fraction(c) - Fraction(b)] != exact:
            return None
    parts = (part for x in rest for part in (x.weight, x.bias))
    return N(weight, bias, *parts, activation="relu")


def test_the_plane_is_the_network_in_two_coordinates():
    rng = np.random.default_rng(1)
    for seed in range(6):
        net = planted(seed, (6, 4, 4, 1))
        frame = tuple(rng.integers(-4, 5, (3, 6)) / 8.0)
        small = in_coordinates(net, frame)
        assert small is not None
        one = depth(mo.pieces(net, on=mo.Box(-4, 4), slice=frame))
        two = depth(mo.pieces(small, on=mo.Box(-4, 4)))
        assert (one.strict, one.generic, one.traces.count) == (
            two.strict,
            two.generic,
            two.traces.count,
        )
        assert [c.plane for c in one.traces.creases] == [c.plane for c in two.traces.creases]


def test_planes_beside_it_have_the_chain():
    """What the proof of the generic bound says: planes moved a little show the same."""
    rng = np.random.default_rng(2)
    for seed in range(2):
        net = planted(seed, (5, 4, 4, 4, 1))
        found = mo.depth(net, on=mo.Box(-4, 4), seed=seed)
        assert found.pieces.generic
        origin, u, v = found.pieces.slice
        for _ in range(4):
            moved = origin + 1e-9 * rng.normal(size=5)
            beside = depth(mo.pieces(net, on=found.pieces.box, slice=(moved, u, v)))
            assert (beside.strict, beside.generic) == (found.strict, found.generic)
            assert beside.traces.count == found.traces.count
            assert len(beside.traces.earlier) == len(found.traces.earlier)


def test_a_plane_in_no_general_position_says_nothing_of_others():
    """Three creases of the first layer meet wherever two of them do: no chain is carried over."""
    a, b = np.array([1.0, 0, 2, -1, 0]), np.array([0, 1.0, 1, 1, 3])
    net = N(
        np.stack([a, b, a + b]), np.zeros(3), [[1, -1, 1], [1, 1, -2]], [0.0, 0.0], [[1, 1]], [0],
        activation="relu",
    )  # fmt: skip
    found = mo.depth(net, on=mo.Box(-4, 4))
    assert not found.pieces.generic
    assert found.generic == found.strict == 2
    assert found.check()


def test_the_plane_stays_in_the_box():
    net = planted(3, (5, 4, 4, 1))
    box = mo.Box([-1, 0, 2, -5, 1], [1, 4, 3, 5, 1.5])
    for seed in range(5):
        found = through_slices(net, box, 2000, seed, None)
        origin, u, v = found.pieces.slice
        end = float(found.pieces.box.high[0])
        corners = np.array([origin + s * u + t * v for s in (-end, end) for t in (-end, end)])
        assert (corners >= box.low).all()
        assert (corners <= box.high).all()
        assert _lies_in(found.pieces, box)


def test_forged_answers_are_rejected():
    found = mo.depth(planted(1, (5, 4, 4, 1)), on=mo.Box(-4, 4))
    for forged, why in (
        (replace(found, on=mo.Box(-0.5, 0.5)), "leaves the box"),
        (replace(found, strict=1), "do not follow"),
        (replace(found, generic=3), "do not follow"),
        (replace(found, status="bounded"), "do not follow"),
        (replace(found, pieces=replace(found.pieces, slice=None)), "leaves the box"),
    ):
        with pytest.raises(CertificateRejected, match=why):
            forged.check()


def test_enough_layers_by_inputs():
    """ceil(log3(n - 1)) + 1, in whole numbers."""
    for n, wanted in ((3, 2), (4, 2), (5, 3), (10, 3), (11, 4), (28, 4), (29, 5)):
        assert _enough(planted(0, (n, *[2] * 8, 1))) == wanted
        assert _enough(planted(0, (n, 2, 1))) == 1


def test_what_cannot_be_asked_is_said():
    net = planted(0, (5, 4, 4, 1))
    with pytest.raises(ArgumentError, match="box"):
        mo.depth(net)
    with pytest.raises(ValueError, match="interior"):
        mo.depth(net, on=mo.Box([0, 0, 0, 0, 0], [1, 1, 1, 1, 0]))
    rng = np.random.default_rng(0)
    rows, biases = 5 * rng.normal(size=(3000, 5)), 5 * rng.normal(size=3000)
    many = N(rows, biases, np.ones((1, 3000)), [0.0], activation="relu")
    with pytest.raises(Undecided, match="budget"):
        mo.depth(many, on=mo.Box(-1, 1), budget=12)
