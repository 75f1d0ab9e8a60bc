"""Zonotopes of two networks and their difference hold in rationals, whatever is rounded."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from on_boxes import coarse_network, exact_layers, points, random_box, random_network

import moduli as mo
from moduli.kernel.activations import Activation
from moduli.kernel.bounds import propagation, zonotopes
from moduli.kernel.bounds.relaxations import band, band_of_slopes, relaxation
from moduli.kernel.exact_numbers import enclose_value

LINEAR = ["relu", "abs", "leaky_relu(0.1)", "leaky_relu(-0.5)"]
SMOOTH = ["tanh", "sigmoid", "gelu", "softplus", "silu", "clip(-1, 1)", "hardswish", "sin"]


def contains(lo: float, value: Fraction, hi: float) -> bool:
    """Whether a bound that may be infinite holds."""
    return (lo == -np.inf or Fraction(lo) <= value) and (hi == np.inf or value <= Fraction(hi))


def near(rng: np.random.Generator, a: mo.Network) -> mo.Network:
    noise = rng.choice([0.0, 1e-16, 1e-9, 1e-3, 1.0])
    return a.with_flat(a.flat() * (1 + noise * rng.normal(size=a.parameters)))


def holds(a: mo.Network, b: mo.Network, low: np.ndarray, high: np.ndarray, x: np.ndarray) -> None:
    """Both kinds of bounds contain all exact values at all points."""
    forms = zonotopes.apart(a.layers, b.layers, low[None], high[None])
    again = propagation.difference_within(a.layers, b.layers, low[None], high[None], forms[:3])
    for point in x:
        za, zb = exact_layers(a.layers, point), exact_layers(b.layers, point)
        apart = [[p - q for p, q in zip(*pair, strict=True)] for pair in zip(za, zb, strict=True)]
        for exact, bounds in (
            (za, forms.a),
            (zb, forms.b),
            (apart, forms.difference),
            (apart, again),
        ):
            for values, (lo, hi) in zip(exact, bounds, strict=True):
                ends = zip(lo[0].tolist(), values, hi[0].tolist(), strict=True)
                assert all(contains(*triple) for triple in ends)


@pytest.mark.parametrize("seed", range(60))
def test_exact_values_are_inside(seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.choice([0, 0, 0, -20, 100, -150])
    a = (
        random_network(rng, (scale, 1.0), str(rng.choice(LINEAR)))
        if seed % 3
        else coarse_network(rng)
    )
    low, high = random_box(rng, a.widths[0])
    holds(a, near(rng, a), low, high, points(rng, low, high))


@pytest.mark.parametrize("activation", SMOOTH)
def test_values_of_curved_activations_are_inside(activation):
    rng = np.random.default_rng(3)
    for _ in range(4):
        a = random_network(rng, activation=activation)
        b = near(rng, a)
        low, high = random_box(rng, a.widths[0])
        found = zonotopes.apart(a.layers, b.layers, low[None], high[None]).difference[-1]
        x = points(rng, low, high, 200)
        apart = a.logits(x) - b.logits(x)
        off = 1e-12 * (1 + np.abs(a.logits(x)))
        assert (found[0] - off <= apart).all()
        assert (apart <= found[1] + off).all()


def test_equal_networks_are_nowhere_apart():
    rng = np.random.default_rng(7)
    for activation in ("relu", "tanh", "leaky_relu(0.1)", "gelu"):
        net = random_network(rng, activation=activation)
        low, high = random_box(rng, net.widths[0])
        for lo, hi in zonotopes.apart(net.layers, net.layers, low[None], high[None]).difference:
            assert not lo.any()
            assert not hi.any()


def test_what_cancels_is_seen():
    """f(x) - f(x) written as relu(x) - relu(x + 0): intervals and separate bounds see [-2, 2]."""
    a = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, -1.0]], [0.0], activation="relu")
    b = mo.Network.mlp([[1.0], [1.0]], [0.0, 2.0**-10], [[1.0, -1.0]], [0.0], activation="relu")
    box = np.array([[-2.0]]), np.array([[2.0]])
    lo, hi = zonotopes.apart(a.layers, b.layers, *box).difference[-1]
    assert 2.0**-10 <= max(-lo[0, 0], hi[0, 0]) <= 2.0**-9


def test_the_input_that_matters_is_to_blame():
    a = mo.Network.mlp([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], [[1.0, 1.0]], [0.0], activation="relu")
    b = mo.Network.mlp([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], [[1.5, 1.0]], [0.0], activation="relu")
    found = zonotopes.apart(a.layers, b.layers, -np.ones((1, 2)), np.ones((1, 2)))
    assert found.blame[0, 0] > 10 * found.blame[0, 1]


def test_what_overflows_has_no_ends():
    huge = mo.Network.mlp([[1e308, 1e308]], [0.0], [[1e308]], [0.0], activation="relu")
    other = huge.with_flat(-huge.flat())
    found = zonotopes.apart(huge.layers, other.layers, np.full((1, 2), 4.0), np.full((1, 2), 8.0))
    assert np.isinf(found.difference[-1]).all()


@pytest.mark.parametrize("activation", [*LINEAR, *SMOOTH, "clip(-0.5, 0.25)"])
def test_bands_hold(activation):
    act, rng = Activation.of(activation), np.random.default_rng(0)
    lo, hi = np.sort(rng.normal(size=(2, 40)) * 10.0 ** rng.integers(-3, 2, 40), axis=0)
    slope, least, most = band(act, relaxation(act, lo, hi), lo, hi)
    for k in range(len(lo)):
        for share in (0, 0.25, 0.5, 1):
            z = Fraction(lo[k]) + Fraction(share) * (Fraction(hi[k]) - Fraction(lo[k]))
            bottom, top = enclose_value(act, (z, z))
            assert Fraction(least[k]) <= top - Fraction(slope[k]) * z
            assert bottom - Fraction(slope[k]) * z <= Fraction(most[k])


def test_bands_of_slopes_hold():
    rng = np.random.default_rng(0)
    lo, hi = np.sort(rng.normal(size=(2, 200)), axis=0)
    shallow, steep = np.sort(rng.choice([-0.5, 0.0, 0.1, 1.0], (2, 200)), axis=0)
    slope, least, most = band_of_slopes(shallow, steep, lo, hi)
    for k in range(200):
        for z, m in (
            (z, m)
            for z in (lo[k], 0.5 * lo[k] + 0.5 * hi[k], hi[k])
            for m in (shallow[k], steep[k])
        ):
            value = (Fraction(m) - Fraction(slope[k])) * Fraction(z)
            assert Fraction(least[k]) <= value <= Fraction(most[k])
