"""Slack is a true bound: against rationals at points, at the ends of floats, in blocks of rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.common.exact_values import evaluate, exact_arrays
from moduli.compression.certify import certify
from moduli.kernel import slack
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.slack import Slack, difference

BOUNDS = st.floats(0, 1e290)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
def test_slack_bounds_the_difference(activation):
    rng = np.random.default_rng(5)
    for _ in range(10):
        arrays = [rng.standard_normal(s) for s in ((4, 2), 4, (3, 4), 3, (2, 3), 2)]
        net = mo.Network.mlp(*arrays, activation=activation)
        rounded = net.rounded("float32")
        slack = certify(net, (), rounded).slack
        inside = difference(exact_arrays(net), exact_arrays(rounded), net.activations, radius=4.0)
        assert inside.growth == 0
        for scale in (0.1, 1.0, 4.0):
            x = [Fraction(float(v)) for v in rng.uniform(-scale, scale, 2)]
            pairs = zip(evaluate(net, x), evaluate(rounded, x), strict=True)
            gap = max(max(p[0] - q[1], q[0] - p[1]) for p, q in pairs)
            assert gap <= Fraction(slack.constant) + Fraction(slack.growth) * max(map(abs, x))
            assert gap <= Fraction(inside.constant)


def test_no_slack_where_nothing_is_rounded():
    net = mo.load("zoo:digits-relu")
    assert certify(net, (), net).slack == mo.Slack(0.0, 0.0)


def test_underflow_does_not_hide_a_difference():
    tiny = 5e-324
    a = mo.Network.mlp([[1.0]], [0.0], [[tiny]], [0.0], [[0.25]], [0.0], activation="sigmoid")
    b = mo.Network.mlp([[1.0]], [0.0], [[0.0]], [0.0], [[0.25]], [0.0], activation="sigmoid")
    assert difference(exact_arrays(a), exact_arrays(b), a.activations).constant > 0


def test_bounds_are_the_same_in_blocks_of_rows(monkeypatch):
    rng = np.random.default_rng(0)
    for activation in ("relu", "tanh"):
        parts = [rng.standard_normal(shape) for shape in ((9, 3), 9, (7, 9), 7, (2, 7), 2)]
        parts[0][5:7] = 0
        net = mo.Network.mlp(*parts, activation=activation)
        whole = mo.compress(net).rounded("float32").certificate.slack
        with monkeypatch.context() as patch:
            patch.setattr(slack, "ENTRIES", 1)
            small = mo.compress(net).rounded("float32")
            assert small.check()
        found = small.certificate.slack
        assert (found.constant, found.growth) == pytest.approx(
            (whole.constant, whole.growth), rel=1e-12
        )


@given(BOUNDS, BOUNDS, st.floats(0, 1e9))
def test_what_is_printed_is_a_bound_too(constant, growth, radius):
    found = Slack(constant, growth)
    shown = str(found).replace(" |x|", "").split(" + ")
    assert float(shown[0]) >= constant
    assert growth == 0 or float(shown[1]) >= growth
    assert Fraction(found.within(radius)) >= Fraction(constant) + Fraction(growth) * Fraction(
        radius
    )
    assert found.everywhere == (constant if growth == 0 else float("inf"))
    assert str(Slack(float("inf"), 0.0)) == "inf"
    assert not Slack(float("inf"), 0.0).finite


def test_exact_parameters_that_no_float_holds():
    """1/3 and its nearest float, through one layer: the difference is the rounding, and no less."""
    net = mo.Network.mlp([[1 / 3]], [1 / 3])
    weight, bias = ExactArray(np.zeros((1, 1))), ExactArray(np.zeros(1))
    weight.put((0, 0), Fraction(1, 3))
    bias.put((0,), Fraction(1, 3))
    found = difference([(weight, bias)], exact_arrays(net), ())
    apart = abs(Fraction(1, 3) - Fraction(1 / 3))
    assert apart <= Fraction(found.growth) <= 2 * apart
    assert apart <= Fraction(found.constant) <= 2 * apart
    wider = difference([(weight, bias)], exact_arrays(net), (), relative=2.0**-20)
    assert Fraction(wider.growth) >= apart + Fraction(1, 3) * Fraction(1, 2**20)


def test_layers_without_units():
    net = mo.Network.mlp(np.zeros((0, 2)), np.zeros(0), np.zeros((1, 0)), [3.0], activation="relu")
    other = mo.Network.mlp(
        np.zeros((0, 2)), np.zeros(0), np.zeros((1, 0)), [4.0], activation="relu"
    )
    assert difference(exact_arrays(net), exact_arrays(other), net.activations).constant >= 1
