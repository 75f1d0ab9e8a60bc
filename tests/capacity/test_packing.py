"""Lower bounds of covering numbers: the construction itself, and covers of small classes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.capacity.covering_numbers import Class
from moduli.capacity.packing import exponent, log_packing

SHAPES = [(1, 1, 1), (1, 4, 1), (3, 2, 1), (2, 3, 2), (4, 5, 3)]


def drawn(n, d, c, inner, outer, reach, rng):
    """Parameters of the proof."""
    h = reach / d
    w = inner * rng.uniform(1 - 1 / (6 * d), 1, (d, n))
    b = -inner * (np.arange(d) * h + rng.uniform(0, h / 6, d))
    v = rng.uniform(-outer, outer, (c, d))
    v[0] = outer
    return w, b, v, rng.uniform(-outer, outer, c)


def values(w, b, v, e, reach):
    """At the points of the proof: of the first output at all, of the others at q on the first axis and 0."""
    d, n = w.shape
    h = reach / d
    q = h * np.arange(1, d + 1)
    points = [np.zeros(n)]
    for i in range(d):
        points.append((q[i] - 2 * h / 3) * np.eye(n)[0])
        points += [q[i] * np.eye(n)[j] for j in range(n)]
    others = [np.zeros(n), *(t * np.eye(n)[0] for t in q)]

    def f(x):
        return np.maximum(np.array(x) @ w.T + b, 0) @ v.T + e

    return np.concatenate([f(points)[:, 0], f(others)[:, 1:].ravel()])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("inner", "outer", "bound"), [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (2.0, 0.25, 0.5)]
)
def test_the_volume_is_that_of_the_construction(shape, inner, outer, bound):
    """The determinant by differences, times the volume of the parameters; in every draw at least what is said."""
    n, d, c = shape
    rng, reach = np.random.default_rng(0), min(bound, 1.0)
    cls = Class.of(shape, "relu", [inner, outer], bound)
    # parameters that vary: all but the first output's weights
    free = n * d + d + (c - 1) * d + c
    assert free == exponent(cls)
    size = (
        (inner / (6 * d)) ** (n * d)
        * (inner * reach / d / 6) ** d
        * (2 * outer) ** ((c - 1) * d + c)
    )
    said = log_packing(cls, Fraction(1, 2 * 10**200)) - free * math.log(10**200)
    for _ in range(10):
        w, b, v, e = drawn(n, d, c, inner, outer, reach, rng)
        base = values(w, b, v, e, reach)
        assert len(base) == free
        columns = []
        for array, step in ((w, 1e-7), (b, 1e-7), (v[1:], 1e-3), (e, 1e-3)):
            for at in np.ndindex(array.shape):
                array[at] += step
                columns.append((values(w, b, v, e, reach) - base) / step)
                array[at] -= step
        sign, det = np.linalg.slogdet(np.array(columns))
        assert sign
        assert said <= det + math.log(size) + 1e-4 * free
        if c == 1:  # exactly
            assert said == pytest.approx(det + math.log(size), abs=1e-4 * free)


@pytest.mark.parametrize("shape", [*SHAPES, (10, 100, 1), (784, 300, 100, 10), (3, 2, 4, 4, 2)])
@pytest.mark.parametrize("bound", [0.3, 1, 4])
def test_below_is_below_above(shape, bound):
    cls = Class.of(shape, "relu", bound, 2)
    last = 0.0
    for k in range(-2, 40, 3):
        eps = Fraction(1, 4**k) if k >= 0 else Fraction(4**-k)
        low = log_packing(cls, eps)
        assert last <= low <= cls.log_covering(eps) + 1e-9
        last = low


def test_the_exponent_of_one_hidden_layer_is_known():
    """Of 1/accuracy: parameters less units, from above by Theorem S, from below here."""
    cls = Class.of([3, 7, 2], "relu")
    assert exponent(cls) == cls.parameters - cls.units
    small, smaller = Fraction(1, 10**300), Fraction(1, 10**400)
    for measure in (cls.log_scaled, lambda eps: log_packing(cls, eps)):
        slope = (measure(smaller) - measure(small)) / (100 * math.log(10))
        assert slope == pytest.approx(exponent(cls), rel=1e-3)


def test_covers_of_the_smallest_class():
    """One unit, one input: functions that are pairwise further than 2 eps apart are fewer than the upper bound, and more
    than the lower one if they come near enough to all.
    """
    cls, eps = Class.of([1, 1, 1], "relu", 1, 1), 0.05
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 21)
    w, b, v, e = rng.uniform(-1, 1, (4, 4000))
    outputs = v[:, None] * np.maximum(w[:, None] * x + b[:, None], 0) + e[:, None]
    left, centres = np.ones(len(outputs), bool), 0
    while left.any():  # those that stay are far from all centres
        centre = outputs[left.argmax()]
        left &= np.abs(outputs - centre).max(axis=1) > 2 * eps
        centres += 1
    low, high = log_packing(cls, Fraction(1, 20)), cls.log_covering(Fraction(1, 20))
    assert low < math.log(centres) < high


def test_where_it_applies():
    assert log_packing(Class.of([2, 3, 1], "tanh"), Fraction(1, 10)) is None
    assert log_packing(Class.of([2, 1], "relu"), Fraction(1, 10)) is None
    rows = {row.name: row for row in mo.complexity([2, 3, 1], accuracy=1e-9).rows()}
    assert 0 < rows["packing"].value < rows["best of these"].value
    assert rows["packing"].status == "proved"
    assert rows["Ou, Bölcskei 2024"].status == "estimated"
    rows = {row.name: row for row in mo.complexity([2, 3, 1], activation="tanh").rows()}
    assert rows["packing"].status == "not applicable"
