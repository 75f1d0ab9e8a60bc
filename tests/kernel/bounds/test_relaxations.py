"""Lines, ranges and slopes of activations against enclosures in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from moduli.kernel.activations import Activation
from moduli.kernel.bounds.relaxations import _decay, add_up, beside, relaxation, slopes, times_up
from moduli.kernel.exact_numbers import enclose_value

LINEAR = ("relu", "abs", "leaky_relu(0.1)", "leaky_relu(-0.3)", "leaky_relu(2.0)", "identity")
SMOOTH = (
    "tanh",
    "sigmoid",
    "erf",
    "softplus",
    "sin",
    "gelu",
    "silu",
    "mish",
    "elu(-2.0)",
    "hardswish",
    "clip(-1,6)",
)


@pytest.mark.parametrize("activation", [*SMOOTH, *LINEAR])
def test_lines_around_an_activation(activation):
    act, rng = Activation.of(activation), np.random.default_rng(3)
    ends = np.sort(
        np.concatenate(
            [
                rng.normal(size=(40, 2)) * 10.0 ** rng.integers(-3, 3, (40, 1)),
                rng.normal(size=(20, 2))
                * 10.0 ** rng.choice([-320, -300, -20, 20, 150, 300], (20, 1)),
                [
                    [0, 0],
                    [0, 1],
                    [-1, 0],
                    [5e-324, 1e-323],
                    [-5e-324, 5e-324],
                    [-1e308, 1e308],
                    [1, 1],
                    [40, 700],
                    [-700, 5e-324],
                ],
            ]
        ),
        axis=1,
    )
    lo, hi = ends.T
    lines = relaxation(act, lo[None], hi[None])
    for k, (a, b) in enumerate(ends.tolist()):
        s, t, p, q, least, most = (float(part[0, k]) for part in lines)
        for share in (0, Fraction(1, 7), Fraction(1, 2), 1):
            z = Fraction(a) + share * (Fraction(b) - Fraction(a))
            low, high = enclose_value(act, (z, z))
            assert most == np.inf or low <= Fraction(most), (a, b, share)
            assert least == -np.inf or Fraction(least) <= high, (a, b, share)
            assert q == np.inf or low <= Fraction(p) * z + Fraction(q), (a, b, share)
            assert t == -np.inf or Fraction(s) * z + Fraction(t) <= high, (a, b, share)


def test_the_least_floats_are_on_the_right_side():
    """sigmoid(z) > 1/2 and |tanh z| < |z| also for the least floats."""
    z = np.array([[5e-324, 1e-323, -5e-324, -1e-323, 1e-310]])
    lines = relaxation(Activation.of("sigmoid"), z, z)
    assert (lines.most[z > 0] > 0.5).all()
    assert (lines.least[z < 0] < 0.5).all()
    lines = relaxation(Activation.of("tanh"), z, z)
    assert (np.maximum(np.abs(lines.least), np.abs(lines.most)) <= np.abs(z)).all()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_lines_around_s_shapes_are_tight(activation):
    rng = np.random.default_rng(4)
    lo = rng.normal(size=200) * 2
    hi = lo + 0.1 * rng.random(200)
    lines = relaxation(Activation.of(activation), lo[None], hi[None])
    z = lo + (hi - lo) * rng.random(200)
    gap = (lines.upper_slope - lines.lower_slope) * z + lines.upper_offset - lines.lower_offset
    assert (gap <= 1.5 * (hi - lo) ** 2 + 1e-10).all()


@pytest.mark.parametrize(
    "activation", ["tanh", "sigmoid", "relu", "abs", "leaky_relu(0.1)", "softplus"]
)
def test_mean_slopes(activation):
    act, rng = Activation.of(activation), np.random.default_rng(5)
    lo = rng.normal(size=100) * 3
    hi = lo + rng.random(100)
    least, most = slopes(act, lo, hi)
    for k in range(100):
        y, z = (Fraction(x) for x in sorted((lo + (hi - lo) * rng.random((2, 100)))[:, k]))
        (p, q), (r, s) = enclose_value(act, (y, y)), enclose_value(act, (z, z))
        assert Fraction(least[k]) * (z - y) <= s - p
        assert r - q <= Fraction(most[k]) * (z - y)


def test_rounded_operations_bound_the_exact_ones():
    rng = np.random.default_rng(6)
    a, b = (
        rng.normal(size=500) * 10.0 ** rng.choice([-310, -160, -8, 0, 8, 140], 500)
        for _ in range(2)
    )
    a[:50], b[25:75], b[100:110] = 0, 0, -a[100:110]
    for x, y, total, product in zip(a, b, add_up(a, b), times_up(a, b), strict=True):
        assert Fraction(x) + Fraction(y) <= Fraction(total)
        assert Fraction(x) * Fraction(y) <= Fraction(product)
        assert (x + y == 0) == (total == 0)


@pytest.mark.parametrize("activation", [*SMOOTH, *LINEAR])
def test_slopes_hold_between_any_two_points(activation):
    act, rng = Activation.of(activation), np.random.default_rng(1)
    ends = np.sort(rng.normal(size=(30, 2)) * 4, axis=1)
    least, most = slopes(act, *ends.T)
    for k, (lo, hi) in enumerate(ends.tolist()):
        y, z = (
            Fraction(lo) + share * (Fraction(hi) - Fraction(lo))
            for share in (Fraction(1, 5), Fraction(4, 5))
        )
        (p, q), (r, s) = enclose_value(act, (y, y)), enclose_value(act, (z, z))
        assert Fraction(least[k]) * (z - y) <= s - p
        assert r - q <= Fraction(most[k]) * (z - y)


def test_slopes_beside_zero_are_those_of_the_law():
    cases = {
        "relu": (1.0, 0.0),
        "abs": (1.0, -1.0),
        "leaky_relu(0.25)": (1.0, 0.25),
        "identity": (1.0, 1.0),
        "tanh": (0.0, 0.0),
    }
    assert {name: beside(Activation.of(name)) for name in cases} == cases


def test_the_series_of_the_exponential_keeps_its_promise():
    import mpmath

    y = np.concatenate([np.linspace(0, 64, 999), [5e-324, 2.0**-30, 63.999]])
    with mpmath.workdps(50):
        worst = max(
            abs(mpmath.mpf(float(e)) * mpmath.exp(mpmath.mpf(float(t))) - 1)
            for e, t in zip(_decay(y), y, strict=True)
        )
    assert worst < 2.0**-41


@pytest.mark.parametrize("activation", [*SMOOTH, *LINEAR])
def test_ranges_without_ends(activation):
    """Infinite ends, for which nothing but the range of the function is known."""
    act, inf = Activation.of(activation), np.inf
    lo, hi = np.array([[-inf, -inf, 0.5]]), np.array([[inf, 0.5, inf]])
    lines = relaxation(act, lo, hi)
    for k, places in enumerate(((-9.0, 0.0, 9.0), (-9.0, 0.0, 0.5), (0.5, 1.0, 9.0))):
        for z in places:
            low, high = enclose_value(act, (Fraction(z), Fraction(z)))
            assert lines.most[0, k] == inf or low <= Fraction(lines.most[0, k])
            assert lines.least[0, k] == -inf or Fraction(lines.least[0, k]) <= high
