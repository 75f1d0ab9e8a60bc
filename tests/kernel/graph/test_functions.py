"""Each law against values of the function."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from moduli.kernel.graph.functions import LAWS, law

from ...support.graphs import FUNCTIONS

NUMBERS = {
    "leaky_relu": [(0.25,), (0.0,), (1.5,), (-0.5,)],
    "clip": [(0.0, 6.0), (-1.0, 1.0), (-np.inf, 2.0), (1.0, np.inf), (2.0, -1.0)],
    "elu": [(1.0,), (0.3,), (0.0,), (-0.5,)],
    "selu": [(1.673, 1.05), (0.5, 3.0)],
    "hardsigmoid": [(0.25, 0.5), (0.125, -0.25), (-0.5, 0.5)],
}
DOMAIN = {
    "asin": (-1, 1), "atanh": (-0.99, 0.99), "sqrt": (0, 40), "tan": (-1.5, 1.5), "bool": (0, 1),
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767),
}  # fmt: skip


def points(kind):
    low, high = DOMAIN.get(kind, (-40, 40))
    near = np.array([-6, -3, -1.5, -1, -0.5, 0, 0.5, 1, 3, 6], dtype=float)
    drawn = np.concatenate([np.linspace(low, high, 801), near])
    return np.unique(drawn[(drawn >= low) & (drawn <= high)])


@pytest.mark.parametrize("kind", sorted(LAWS))
def test_laws_hold_at_many_points(kind):
    rule, x = law(kind), points(kind)
    for numbers in NUMBERS.get(kind, [()]):
        y = FUNCTIONS[kind](x, *numbers)
        for ratio in (0.5, 2.0, 3.0):
            inside = (ratio * x >= x.min()) & (ratio * x <= x.max())
            if rule.linear or rule.homogeneous:
                scaled = FUNCTIONS[kind](ratio * x[inside], *numbers)
                assert np.allclose(scaled, ratio * y[inside], rtol=1e-12, atol=0)
        if rule.linear or rule.odd:
            assert np.allclose(FUNCTIONS[kind](-x, *numbers), -y, rtol=1e-12, atol=0)
        if rule.even:
            assert np.array_equal(FUNCTIONS[kind](-x, *numbers), y)
        for point, value in zip(x.tolist(), y.tolist(), strict=True):
            known = rule.at(Fraction(point), *numbers)
            assert known is None or float(known) == pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", sorted(k for k in LAWS if LAWS[k].between is not None))
def test_values_lie_between_the_bounds_on_every_interval(kind):
    rule, x = law(kind), points(kind)
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(x), 400)
    ends = np.maximum(starts, rng.integers(0, len(x), 400))
    low = np.concatenate([x[starts], x[:1] * 0 - np.inf, x])
    high = np.concatenate([x[ends], x[:1] * 0 + np.inf, x])
    for numbers in NUMBERS.get(kind, [()]):
        y = FUNCTIONS[kind](x, *numbers)
        below, above = rule.between(low, high, *numbers)
        assert not np.isnan(below).any()
        assert not np.isnan(above).any()
        for a, b, down, up in zip(low, high, below, above, strict=True):
            inside = y[(x >= a) & (x <= b)]
            assert down <= inside.min() + 1e-15 * (1 + np.abs(inside).max())
            assert inside.max() <= up + 1e-15 * (1 + np.abs(inside).max())


def test_of_an_unknown_function_nothing_is_known():
    rule = law("whatever")
    assert not (rule.linear)
    assert not (rule.homogeneous)
    assert not (rule.odd)
    assert not (rule.even)
    assert rule.between is None
    assert rule.at(Fraction(0)) is None
