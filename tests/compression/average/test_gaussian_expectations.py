"""Gaussian expectations against quadrature, stored references, and finite differences."""

import json
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import SLOPES
from moduli.compression.average.gaussian_expectations import (
    COARSE,
    ERRORS,
    FINE,
    MEDIUM,
    UnitLaw,
    Whitening,
    _steep,
    expansion,
    gram,
    logistic,
    means,
    pulled,
)

EVERY = [mo.Activation.of(name) for name in (
    "identity", "relu", "leaky_relu(0.1)", "abs", "tanh", "sigmoid", "erf", "sin", "gelu",
    "gelu_tanh", "silu", "softplus",
)]  # fmt: skip
LAWS = (
    (0.0, 1.0, 0.0, 1.0, 0.0),
    (0.4, 1.3, -0.7, 0.8, 0.6),
    (1.5, 0.6, 0.9, 2.0, -0.9),
    (-0.3, 1.0, 0.2, 1.0, 0.999),
)


def two(m1, s1, m2, s2, rho):
    """Two units with these means, deviations and correlation."""
    return UnitLaw(
        np.array([m1, m2]), np.array([[s1, 0.0], [s2 * rho, s2 * (1 - rho * rho) ** 0.5]])
    )


def quadrature(f, g, m1, s1, m2, s2, rho):
    """E f(X) g(Y): Gauss-Legendre in X, then in Y given X, both split at the kinks."""
    nodes, weights = np.polynomial.legendre.leggauss(400)

    def pieces(cuts):
        edges = np.unique(np.clip([-12.0, *cuts, 12.0], -12, 12))
        for low, high in pairwise(edges):
            yield (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights

    total, q = 0.0, (1 - rho * rho) ** 0.5
    for x, p in pieces([-m1 / s1, -m1 / s1 - 0.3 * q, -m1 / s1 + 0.3 * q]):
        for one, weight in zip(x, p, strict=True):
            cut = (-m2 / s2 - rho * one) / q
            inner = sum(
                float((w * g(m2 + s2 * (rho * one + q * y)) * np.exp(-y * y / 2)).sum())
                for y, w in pieces([cut])
            )
            total += (
                weight
                * float(f(np.array([m1 + s1 * one]))[0])
                * np.exp(-one * one / 2)
                * inner
                / (2 * np.pi)
            )
    return total


@pytest.mark.parametrize("s", EVERY, ids=str)
def test_expectations_against_quadrature(s):
    for law in LAWS:
        units = two(*law)
        error = 0.0 if s.kind == "sin" else expansion(s).error
        bound = 1e-11 + 4 * error * 10
        (k,), (e,) = gram(s, units), means(s, units)
        assert abs(k[0, 1] - quadrature(s, s, *law)) < bound
        assert abs(e[0] - quadrature(s, np.ones_like, *law)) < bound
        assert np.allclose(k, k.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "pair", ["relu tanh", "gelu erf", "identity silu", "softplus abs", "tanh erf"]
)
def test_two_different_activations(pair):
    a, b = map(mo.Activation.of, pair.split())
    for law in LAWS[1:3]:
        (k,) = gram(a, two(*law)[:1], b, two(*law)[1:])
        assert abs(k[0, 0] - quadrature(a, b, *law)) < 1e-11
    with pytest.raises(mo.UnsupportedModel, match="sin"):
        gram(mo.Activation("sin"), two(*LAWS[0]), a)


def test_stored_references(shared):
    cases = json.loads((shared / "cases" / "gaussian.json").read_text())["cases"]
    arrays = np.load(shared / "cases" / "gaussian.npz")
    for case in cases:
        part = {
            k: arrays[f"{case['id']:03d}_{k}"]
            for k in ("W", "b", "A", "U", "bu", "V", "mean", "cov", "G")
        }
        slope = case.get("slope", 0.1)
        s = mo.Activation.of(f"leaky_relu({slope})" if case["act"] == "leaky_relu" else case["act"])
        scale = 2**-0.5 if s.kind == "erf" else 1.0  # there erf means erf(x / sqrt 2)
        law = Whitening.of(mo.Gaussian(part["mean"], part["cov"]), part["W"].shape[1])
        units = law.units(
            scale * np.vstack([part["W"], part["U"]]),
            scale * np.concatenate([part["b"], part["bu"]]),
        )
        (k,) = gram(s, units)
        n, outer = len(part["W"]), np.concatenate([part["A"], part["V"]])
        weight = outer @ outer.T
        for name, value in (
            ("ff", (weight[:n, :n] * k[:n, :n]).sum()), ("fg", (weight[:n, n:] * k[:n, n:]).sum()),
            ("gg", (weight[n:, n:] * k[n:, n:]).sum()),
        ):  # fmt: skip
            assert abs(value - case[name]) <= case["atol_inner"], (case["id"], name)
        assert np.abs(k - part["G"]).max() <= 1e-12 * max(np.abs(part["G"]).max(), 1e-9)


def shifted(units, at, what, step):
    mean, row = units.mean.copy(), units.row.copy()
    (mean if what == "mean" else row)[at] += step
    return UnitLaw(mean, row)


@pytest.mark.parametrize("s", EVERY, ids=str)
@pytest.mark.parametrize("rho", [0.3, -0.8, 1.0, -1.0])
def test_gradients_against_differences(s, rho):
    """At correlation +-1 too, where the two units lie on one line."""
    one = UnitLaw(np.array([0.4]), np.array([[0.9, 0.0]]))
    other = UnitLaw(
        np.array([0.4 if rho == 1 else -0.4]), np.array([[0.9 * rho, 0.9 * (1 - rho * rho) ** 0.5]])
    )
    mean, row = pulled(s, one, other, np.ones((1, 1)), COARSE)
    step = 1e-4
    for what, at, found in (
        ("mean", 0, mean[0]),
        ("row", (0, 0), row[0, 0]),
        ("row", (0, 1), row[0, 1]),
    ):
        ends = [
            gram(s, shifted(one, at, what, k * step), s, other, nodes=COARSE)[0][0, 0]
            for k in (-2, -1, 1, 2)
        ]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert abs(slope - found) < 1e-7 * (1 + abs(found)), (what, slope, found)


@pytest.mark.parametrize("s", EVERY, ids=str)
def test_higher_orders_are_derivatives_of_lower_ones(s):
    units, step = two(*LAWS[1]), 1e-4
    orders = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (2, 0))
    values = dict(
        zip(orders, (k[0, 1] for k in gram(s, units, orders=orders, nodes=COARSE)), strict=True)
    )
    for a, b in orders:
        lower = (a - 1, b) if a > 0 else (a, b - 1)
        ends = [
            gram(s, shifted(units, 0, "mean", k * step), s, units, (lower,), COARSE)[0][0, 1]
            for k in (-2, -1, 1, 2)
        ]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert abs(slope - values[a, b]) < 1e-7 * (1 + abs(slope))


def test_near_parallel_units_lose_nothing():
    for name in ("relu", "erf", "gelu", "tanh"):
        s = mo.Activation(name)
        for gap in (0.0, 1e-16, 1e-12, 1e-8):
            for sign in (1.0, -1.0):
                units = UnitLaw(np.array([0.3, sign * 0.3]), np.array([[1.0, 0.0], [sign, gap]]))
                (k,) = gram(s, units)
                exact = gram(s, units[:1], s, units[:1] if sign > 0 else _mirror(units[:1]))[0][
                    0, 0
                ]
                assert abs(k[0, 1] - exact) < 1e-15 + 2 * gap


def _mirror(units):
    return UnitLaw(-units.mean, -units.row)


@pytest.mark.parametrize("s", EVERY, ids=str)
def test_constant_units_and_tiny_ones(s):
    units = UnitLaw(np.array([0.7, 0.0, 1e-9, 0.2]), np.array([[0.0], [0.0], [1e-9], [1.0]]))
    (k,), (e,) = gram(s, units), means(s, units)
    value = s(np.array([0.7, 0.0]))
    close = {"rtol": 1e-13, "atol": 1e-13 + (0.0 if s.kind == "sin" else expansion(s).error)}
    assert np.allclose(e[:2], value, **close)
    assert np.allclose(k[:2, :2], np.outer(value, value), **close)
    assert np.allclose(k[:2, 3], value * e[3], **close)
    assert np.isfinite(k).all()
    if s.odd:
        tiny = gram(s, units[2:3])[0][0, 0]
        slope = float(s.derivative(np.zeros(1))[0])
        assert tiny == pytest.approx(2e-18 * slope**2, rel=1e-12, abs=0)


def test_certified_errors_of_the_mixtures():
    """sup |e|, in 40 digits: interpolation of degree 15 between grid points, and its remainder.

    e is analytic in the strip |Im z| <= 2 and at most C there, so |e^(16)| / 16! <= C / 2^16 on the
    real line (Cauchy). Between the two middle ones of 16 points at distance h, |e| <= L max
    |e(points)| + C (h/2)^16 prod, where L is the sum of the sizes of the Lagrange polynomials and
    prod bounds prod |x - x_i| / h. Beyond the grid both tails are monotone and below the rest.
    """
    import mpmath as mp

    h, far = mp.mpf(1) / 32, 40
    x = np.linspace(7, 8, 201)
    lagrange = [
        np.prod([(x - j) / (i - j) for j in range(16) if j != i], axis=0) for i in range(16)
    ]
    spread = float(np.abs(lagrange).sum(axis=0).max()) + 0.01
    prod = mp.mpf(np.prod([max(abs(7 - i), abs(8 - i)) for i in range(16)], dtype=float))
    with mp.workdps(40):
        for nodes in (COARSE, MEDIUM, FINE):
            weights, scales = ([mp.mpf(x) for x in part] for part in logistic(nodes))
            weights = [
                a / mp.fsum(weights) for a in weights
            ]  # they sum to 1 up to rounding, which is not counted here

            def gap(x, p=weights, d=scales):
                e = mp.fsum(a * mp.ncdf(x / b) for a, b in zip(p, d, strict=True)) - 1 / (
                    1 + mp.exp(-x)
                )
                ramp = mp.fsum(
                    a * (x * mp.ncdf(x / b) + b * mp.npdf(x / b)) for a, b in zip(p, d, strict=True)
                )
                return e, ramp - x - mp.log1p(mp.exp(-x)), x * e

            # |Phi(z)| <= 1 + |y| exp(y^2/2)/sqrt(2 pi), |1 + exp(-z)| >= sin 2; ramps, softplus and
            # x e: times |z| + 2 d + 3
            inside = 1 / mp.sin(2) + mp.fsum(
                a * (1 + 2 / b * mp.exp(2 / b**2) / mp.sqrt(2 * mp.pi))
                for a, b in zip(weights, scales, strict=True)
            )
            inside *= far + 2 * max(scales) + 8
            points = [
                gap(k * h) for k in range(far * 32)
            ]  # e is odd, the others are even: the same left of 0
            end = mp.mpf(far - 1)
            tail = mp.fsum(
                a * mp.erfc(end / b / mp.sqrt(2)) for a, b in zip(weights, scales, strict=True)
            ) * (end + 20)
            tail += mp.exp(-end) * (end + 1)
            for name, column in zip(
                ("sigmoid", "softplus", "silu"), zip(*points, strict=True), strict=True
            ):
                bound = max(
                    mp.mpf(spread) * max(map(abs, column)) + inside * (h / 2) ** 16 * prod, tail
                )
                assert bound <= ERRORS[name, nodes], (
                    name,
                    nodes,
                    mp.nstr(bound, 4),
                    mp.nstr(tail, 3),
                    mp.nstr(inside, 3),
                )
                assert bound > ERRORS[name, nodes] / 10


def test_measured_error_of_the_steep_gate():
    from scipy.special import ndtr

    x = np.linspace(-12, 12, 100_001)
    for nodes in (COARSE, FINE):
        weights, scales = map(np.array, _steep(nodes > COARSE))
        gap = np.abs(x * (ndtr(x[:, None] / scales) @ weights) - mo.Activation("gelu_tanh")(x))
        assert ERRORS["gelu_tanh", nodes] / 10 < gap.max() < ERRORS["gelu_tanh", nodes]
        assert np.abs(weights).sum() < 50


def test_errors_of_slopes():
    """What `closed_form` counts for them, in float64 and so only where it resolves them."""
    x = np.linspace(-12, 12, 4001)
    point = UnitLaw(x, np.zeros((len(x), 1)))
    for name in ("tanh", "sigmoid", "softplus", "silu", "gelu_tanh"):
        s = mo.Activation(name)
        for nodes in (COARSE, FINE):
            gap = np.abs(means(s, point, (1,), nodes)[0] - s.derivative(x)).max()
            assert gap <= SLOPES * expansion(s, nodes).error + 1e-13


def test_coarse_expectations_stay_within_the_certified_error():
    rng = np.random.default_rng(0)
    units = UnitLaw(rng.standard_normal(20), rng.standard_normal((20, 5)))
    for name in ("tanh", "sigmoid", "softplus", "silu"):
        s = mo.Activation(name)
        fine, coarse = gram(s, units)[0], gram(s, units, nodes=COARSE)[0]
        size = np.sqrt(np.diag(fine))
        error = expansion(s, COARSE).error
        assert (np.abs(fine - coarse) <= error * (size[:, None] + size[None, :]) + error**2).all()
        assert np.abs(fine - coarse).max() > 1e-9


def test_whitening():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((5, 2))
    law = mo.Gaussian(rng.standard_normal(5), half @ half.T)
    white = Whitening.of(law, 5)
    assert white.root.shape == (5, 2)
    assert np.allclose(white.root @ white.root.T, law.cov, atol=1e-12)
    weight, bias = rng.standard_normal((3, 5)), rng.standard_normal(3)
    units = white.units(weight, bias)
    back = white.units(*white.parameters(units))
    assert np.allclose(back.mean, units.mean, atol=1e-12)
    assert np.allclose(back.row, units.row, atol=1e-12)
    for bad, text in (
        (mo.Gaussian(0, np.diag([1.0, -1.0])), "eigenvalue"), (mo.Gaussian(0, [[1, 2], [0, 1]]), "symmetric"),
        (mo.Gaussian([1, 2, 3], 1), "2 inputs"), (mo.Gaussian(0, np.eye(3)), "2 inputs"),
    ):  # fmt: skip
        with pytest.raises(mo.ShapeError, match=text):
            Whitening.of(bad, 2)
