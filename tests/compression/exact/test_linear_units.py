"""Units behind others whose range is known, on all inputs: planted answers, forgeries, and a scan."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.bounds import activation_bounds
from moduli.kernel.move import Move
from moduli.kernel.rules import apply
from moduli.kernel.state import State

EDGES = np.array([0.0, 1e-9, -1e-9, 1.0, -1.0, 30.0, -30.0, 1e6, -1e6])


def layered(*parts, activation="relu"):
    return mo.Network.mlp(*(x for part in parts for x in part), activation=activation)


def far(net, count, rng):
    """Points of all sizes."""
    x = rng.normal(size=(count, net.widths[0])) * 10.0 ** rng.integers(-3, 7, size=(count, 1))
    return np.concatenate([x, rng.choice(EDGES, size=(count, net.widths[0]))])


def apart(a, b, rng):
    """The largest difference, relative to the numbers that are added."""
    x = far(a, 200, rng)
    y, z = a(x), b(x)
    return float((np.abs(y - z) / (1 + np.abs(x).max(axis=1, keepdims=True))).max())


def signs(state):
    return [activation_bounds.signs(state, l) for l in range(1, len(state.weights))]


def preactivation_bounds(state):
    return [activation_bounds.preactivation_bounds(state, l) for l in range(1, len(state.weights))]


def hidden(rng, *widths):
    """Layers of normal numbers."""
    return [(rng.normal(size=(n, m)), rng.normal(size=n)) for m, n in itertools.pairwise(widths)]


def test_a_unit_that_reads_what_is_never_negative_with_no_positive_weight_is_off():
    rng = np.random.default_rng(0)
    first, second, last = hidden(rng, 3, 6, 5, 2)
    second[0][1], second[1][1] = -np.abs(second[0][1]), -0.0
    net = layered(first, second, last)
    small = mo.compress(net)
    assert small.network.widths == (3, 6, 4, 2)
    assert small.removed["inactive"] == 1
    assert small.slack == 0
    assert small.check()
    assert apart(net, small.network, rng) < 1e-12
    # a bias above zero turns it on somewhere
    second[1][1] = 1e-9
    assert mo.compress(layered(first, second, last)).network.widths == net.widths


def test_an_identity_layer_goes():
    rng = np.random.default_rng(1)
    first, last = hidden(rng, 3, 6, 2)
    net = layered(first, (np.eye(6), np.zeros(6)), last)
    small = mo.compress(net)
    assert small.network == layered(first, last)
    assert small.check()
    assert mo.equivalent(net, layered(first, last)).status == "proved"
    turned = layered(first, (-np.eye(6), np.zeros(6)), last)
    assert mo.compress(turned).network.units == 0  # never on: a constant


def test_the_constant_written_as_2_2_2_1_is_a_constant():
    rng = np.random.default_rng(2)
    (first, second, last) = hidden(rng, 2, 2, 2, 1)
    net = layered(first, (-np.abs(second[0]), -np.abs(second[1])), last)
    small, least = mo.compress(net), mo.rank(net)
    assert small.network.units == 0
    assert small.check()
    assert least.exact
    assert int(least) == 0
    assert np.array_equal(small.network(far(net, 50, rng)), np.full((100, 1), last[1][0]))
    other = layered(first, (np.zeros((2, 2)), np.zeros(2)), last)
    assert mo.signature(net) == mo.signature(other)


def test_units_that_never_bend_are_as_few_as_their_rank():
    """Five units that stay on read two features that are never negative: two suffice."""
    rng = np.random.default_rng(3)
    first, last = hidden(rng, 3, 2)[0], hidden(rng, 6, 3)[0]
    weight = np.vstack([np.abs(rng.integers(1, 9, size=(5, 2))), rng.normal(size=(1, 2))]).astype(
        float
    )
    net = layered(first, (weight, np.array([0, 1, 2, 3, 4, -0.5])), last)
    small = mo.compress(net)
    assert small.network.widths == (3, 2, 3, 3)
    assert small.check()
    assert apart(net, small.network, rng) < 1e-12


@pytest.mark.parametrize(
    ("activation", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1), ("erf", -1, 1)]
)
def test_ranges_of_activations_that_saturate(activation, low, high):
    rng = np.random.default_rng(4)
    first, second, last = hidden(rng, 3, 4, 3, 1)
    size = np.abs(second[0]) * [[1.0], [1.0], [-1.0]]
    size[2, 0] = 1.0
    reach = (np.abs(size) * max(-low, high)).sum(axis=1)
    second[1][:] = -reach[0] - 1e-9, reach[1] + 1e-9, 0.0
    net = layered(first, (size, second[1]), last, activation=[activation, "relu"])
    small = mo.compress(net)
    assert small.removed["inactive"] == 1
    assert small.network.widths == (3, 4, 2, 1)
    assert [part.tolist() for part in signs(State(net))][1][:2] == [-1, 1]
    assert small.check()
    assert apart(net, small.network, rng) < 1e-12


def test_a_bound_at_exactly_six_is_told():
    first = (np.array([[1.0], [-1.0]]), np.zeros(2))
    off = layered(
        first,
        (np.array([[1.0, 1.0]]), np.array([-12.0])),
        ([[1.0]], [0.5]),
        activation=["relu6", "relu"],
    )
    assert mo.compress(off).network.units == 0
    on = layered(
        first,
        (np.array([[1.0, 1.0]]), np.array([-11.5])),
        ([[1.0]], [0.5]),
        activation=["relu6", "relu"],
    )
    assert signs(State(on))[1].tolist() == [0]


# The kernel -----------------------------------------------------------------------------------------------------


def test_forged_signs_are_refused():
    """Moves that need a sign, of units that have none: off, linear, a new row that may go below zero."""
    rng = np.random.default_rng(5)
    first, second, last = hidden(rng, 3, 4, 3, 2)
    second[0][0], second[1][0] = -np.abs(second[0][0]), -1.0
    net = layered(first, second, last)
    small = mo.compress(net)
    true = small.proof
    for layer, unit in ((1, 0), (2, 1), (2, 2)):
        forged = replace(true, large_moves=(Move("inactive", layer, np.array([unit])),))
        with pytest.raises(mo.CertificateRejected, match="not known to be linear for all inputs"):
            forged.verify(small.network, net)
    for layer in (1, 2):
        forged = replace(true, large_moves=(Move("skip", layer, np.arange(net.widths[layer])),))
        with pytest.raises(mo.CertificateRejected):
            forged.verify(small.network, net)


def test_signs_are_those_of_the_network_as_it_is():
    """A reflection turns a unit around: one that was never below its crease never is above it."""
    rng = np.random.default_rng(6)
    first, last = hidden(rng, 2, 3)[0], hidden(rng, 2, 1)[0]
    weight = np.abs(rng.normal(size=(2, 3)))
    weight[1] = -weight[0]
    net = layered(first, (weight, np.array([1.0, -1.0])), last, activation=["sigmoid", "abs"])
    state = State(net)
    assert [part.tolist() for part in signs(state)] == [[0, 0, 0], [1, -1]]
    apply(state, Move("scale", 2, np.array([0]), ratio=Fraction(-2)))
    assert signs(state)[1].tolist() == [-1, -1]
    lo, hi = preactivation_bounds(state)[1]
    assert lo[0] <= -2 * (1 + weight[0].sum())
    assert hi[0] <= -2 * (1 - 1e-12)


def test_merges_show_signs():
    """The sum of two columns has one sign where neither has."""
    first = np.array([[1.0, -2.0], [1.0, -2.0], [0.5, 1.0]])
    second = np.array([[3.0, -1.0, 2.0], [-1.0, 0.5, -1.0], [1.0, 0.0, -1.0]])
    net = layered(
        (first, np.zeros(3)), (second, np.array([0.0, -1.0, 0.5])), (np.ones((1, 3)), [0.0])
    )
    assert signs(State(net))[1].tolist() == [0, 0, 0]
    small = mo.compress(net)
    assert small.check()
    assert small.removed["merge"] == small.removed["inactive"] == 1
    assert small.network.widths == (2, 2, 2, 1)
    assert apart(net, small.network, np.random.default_rng(7)) < 1e-12


def test_sums_that_floats_do_not_hold_have_signs_only_where_they_are_sure():
    """A column sum of 1 + 2^-60 is rounded to 1; what it adds to a bias of -1 is not known to be 0."""
    first = np.array([[1.0], [1.0], [-1.0]])
    second = np.array([[1.0, 2.0**-60, 0.0], [0.0, 0.0, 1.0]])
    parts = (first, np.zeros(3)), (second, np.zeros(2)), ([[1.0, 1.0]], [0.0])
    state = State(layered(*parts, activation=["relu6", "relu"]))
    apply(state, Move("merge", 1, np.array([1]), np.array([0])))
    lo, hi = preactivation_bounds(state)[1]
    assert lo[0] == 0
    assert hi[0] >= 6 * (1 + 2.0**-53)


def test_what_is_known_of_signs_holds_at_points():
    """Random deep networks of integers, with rows of one sign: every sign and bound that the kernel finds holds."""
    kinds = "relu", "leaky_relu(0.25)", "abs", "relu6", "sigmoid", "tanh", "softplus", "silu"
    found = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        depth = int(rng.integers(2, 5))
        widths = [int(rng.integers(1, 4)) for _ in range(depth + 2)]
        parts = []
        for m, n in itertools.pairwise(widths):
            weight, bias = (
                rng.integers(-3, 4, size=(n, m)).astype(float),
                rng.integers(-3, 4, size=n),
            )
            way = rng.integers(-1, 2, size=n)
            weight = np.where(way[:, None] == 0, weight, way[:, None] * np.abs(weight))
            parts.append((weight, np.where(way == 0, bias, way * np.abs(bias)).astype(float)))
        names = [str(rng.choice(kinds)) for _ in range(depth)]
        net = layered(*parts, activation=names)
        state = State(net)
        known, bounds = signs(state), preactivation_bounds(state)
        x = far(net, 300, rng)
        for layer, sign, (lo, hi) in zip(net.layers[:-1], known, bounds, strict=True):
            z = x @ layer.weight.T + layer.bias
            assert (z >= lo - 1e-9 * (1 + np.abs(z))).all()
            assert (z <= hi + 1e-9 * (1 + np.abs(z))).all()
            assert (z[:, sign < 0] <= 1e-9).all()
            assert (z[:, sign > 0] >= -1e-9).all()
            x = layer(x)
        found += sum(int((part != 0).sum()) for part in known)
        small = mo.compress(net)
        assert small.check()
        assert apart(net, small.network, rng) < 1e-9 * (1 + small.network.units)
    assert found > 120
