"""Arithmetic in pairs of floats, and normal laws in it, against mpmath."""

import mpmath as mp
import numpy as np
import pytest

from moduli.compression.average.double_double import (
    LOG2,
    PI,
    UNIT,
    Twofold,
    angle,
    arctangent,
    density,
    distribution,
    exponential,
    owen,
    product,
    root,
)

DIGITS = 50


def drawn(low, high, count=60, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(low, high, count)
    return Twofold.of(numbers) + numbers * rng.uniform(-1, 1, count) * 2.0**-54


def exact(x):
    return [
        mp.mpf(float(h)) + mp.mpf(float(l))
        for h, l in zip(np.ravel(x.high), np.ravel(x.low), strict=True)
    ]


def worst(found, true, *, relative=True):
    gaps = [
        abs(a - b) / (abs(b) if relative and b else 1)
        for a, b in zip(exact(found), true, strict=True)
    ]
    return float(max(gaps))


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(DIGITS):
        yield


def test_arithmetic():
    x, y = drawn(-9, 9), drawn(0.1, 7, seed=1)
    a, b = exact(x), exact(y)
    pairs = list(zip(a, b, strict=True))
    assert worst(x + y, [p + q for p, q in pairs]) < 2 * UNIT
    assert worst(x * y, [p * q for p, q in pairs]) < 8 * UNIT
    assert worst(x / y, [p / q for p, q in pairs]) < 8 * UNIT
    assert worst(root(y), [mp.sqrt(q) for q in b]) < 8 * UNIT
    assert float(((x - x) * y).high.max()) == 0
    assert worst(Twofold.of([PI.high, LOG2.high]) + [PI.low, LOG2.low], [mp.pi, mp.log(2)]) < UNIT
    total = mp.fsum(a)
    assert abs(exact(x.sum())[0] - total) < 64 * UNIT * 9
    rows = Twofold(x.high.reshape(6, 10), x.low.reshape(6, 10))
    whole = exact(product(rows, Twofold(rows.high.T, rows.low.T)))
    for i in range(6):
        for j in range(6):
            true = mp.fsum(a[10 * i + k] * a[10 * j + k] for k in range(10))
            assert abs(whole[6 * i + j] - true) < 64 * UNIT * 810


def test_functions():
    x = drawn(-30, 30)
    assert worst(exponential(x), [mp.exp(z) for z in exact(x)]) < 64 * UNIT
    assert exponential(Twofold.of(-1e4)).high == 0
    t = drawn(0, 1)
    assert worst(arctangent(t), [mp.atan(z) for z in exact(t)]) < 16 * UNIT
    x, y = drawn(-1, 1, seed=2), drawn(0, 1, seed=3)
    assert (
        worst(angle(y, x), [mp.atan2(p, q) for p, q in zip(exact(y), exact(x), strict=True)])
        < 16 * UNIT
    )
    x = drawn(-13, 13)
    assert worst(density(x), [mp.npdf(z) for z in exact(x)], relative=False) < 8 * UNIT
    assert worst(distribution(x), [mp.ncdf(z) for z in exact(x)], relative=False) < 8 * UNIT
    assert distribution(Twofold.of([-50.0, 50.0])).high.tolist() == [0, 1]


def test_owen():
    """T(h, w/h) by quadrature; next to 0 and far out, on both sides of h = w."""
    h = Twofold.of([0.3, 0.3, 2.0, 2.0, 7.0, 1e-9, 3.0, 0.5, 0.0, 4.0, 20.0])
    w = Twofold.of([0.1, 4.0, 2.0, 2.5, 1.0, 1.0, 1e-9, 1e8, 1.0, 0.0, 30.0])

    def true(a, b):
        if not a:
            return mp.mpf(1) / 4 if b else mp.mpf(0)
        edges = [
            mp.mpf(0),
            *(e for e in (0.5 / a, 1 / a, 3 / a, 6 / a, 20 / a) if e < b / a),
            b / a,
        ]
        return mp.quad(lambda t: mp.exp(-a * a * (1 + t * t) / 2) / (1 + t * t), edges) / (
            2 * mp.pi
        )

    with mp.workdps(36):
        assert (
            worst(
                owen(h, w),
                [true(a, b) for a, b in zip(exact(h), exact(w), strict=True)],
                relative=False,
            )
            < 16 * UNIT
        )
