"""Exact arithmetic against mpmath and dictionaries of fractions."""

from __future__ import annotations

import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from moduli.kernel.activations import Activation
from moduli.kernel.exact_numbers import (
    ExactArray,
    above,
    below,
    class_keys,
    enclose,
    enclose_value,
    exact_sum,
    linear,
    matmul,
    two_product,
    two_sum,
    up_matmul,
    value,
)


@pytest.fixture(autouse=True)
def digits():
    """Other tests in the same process work with other precisions."""
    with mp.workdps(120):
        yield


TRUTH = {
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "erf": mp.erf,
    "sin": mp.sin,
    "softplus": lambda x: mp.log1p(mp.exp(-abs(x))) + max(x, 0),
    "gelu": lambda x: x / 2 * mp.erfc(-x / mp.sqrt(2)),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))
    ),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "elu(1)": lambda x: x if x > 0 else mp.expm1(x),
    "elu(-2.5)": lambda x: x if x > 0 else mp.mpf(-2.5) * mp.expm1(x),
    "elu(1e200)": lambda x: x if x > 0 else mp.mpf(1e200) * mp.expm1(x),
    "clip(-0.1,6)": lambda x: min(max(x, mp.mpf(-0.1)), mp.mpf(6)),
    "hardswish": lambda x: x * min(max(x / 6 + mp.mpf(1) / 2, mp.mpf(0)), mp.mpf(1)),
    "mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(-abs(x))) + max(x, 0)),
}
ONE_OF_EACH = [k for k in Activation.KINDS if k not in ("leaky_relu", "elu", "clip")] + [
    "leaky_relu(0.25)", "elu(1)", "elu(-2.5)", "clip(-1,1)", "clip(-0.25,6)",
]  # fmt: skip


def as_mp(q: Fraction) -> mp.mpf:
    return mp.mpf(q.numerator) / q.denominator


@pytest.mark.parametrize("kind", TRUTH)
def test_activations_are_enclosed(kind):
    rng = np.random.default_rng(1)
    for exponent in (*rng.uniform(-20, 4, 60), 45.0):
        for sign in (-1, 1):
            x = Fraction(float(sign * 10.0**exponent))
            low, high = enclose_value(Activation.of(kind), (x, x))
            truth = TRUTH[kind](as_mp(x))
            rounding = (
                abs(truth) * mp.mpf(10) ** -115 if low == high else 0
            )  # an exact value, where the oracle is none
            assert as_mp(low) - rounding <= truth <= as_mp(high) + rounding
            if exponent < 4:
                assert high - low < Fraction(1, 10**44) * max(1, Activation.of(kind).lipschitz)


@pytest.mark.parametrize("kind", [*TRUTH, "relu", "abs"])
def test_intervals_hold_every_value(kind):
    rng = np.random.default_rng(2)
    act = Activation.of(kind)
    for _ in range(50):
        low, high = sorted(rng.uniform(-6, 6, 2))
        floor, ceiling = enclose_value(act, (Fraction(low), Fraction(high)))
        inside = act(rng.uniform(low, high, 20))
        error = 1e-12 * max(1.0, float(act.lipschitz))
        assert float(floor) - error <= inside.min()
        assert inside.max() <= float(ceiling) + error


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_declared_properties(kind):
    act = Activation.of(kind)
    z = np.linspace(-12, 12, 4801)
    if act.reflection is not None:
        sign, slope, offset = map(float, act.reflection)
        assert np.allclose(act(-z), sign * act(z) + slope * z + offset, rtol=0, atol=1e-12)
    assert act.least is None or float(act.least) <= act(z).min()
    assert act.most is None or act(z).max() <= float(act.most)
    assert not act.monotone or (np.diff(act(z)) >= -1e-15).all()
    assert not act.injective or (np.diff(act(np.linspace(-5, 5, 101))) > 0).all()
    assert np.abs(act.derivative(z)).max() <= float(act.lipschitz)
    assert abs(float(act(np.zeros(1))[0])) <= act.zero
    if act.bound is not None:
        assert np.abs(act(z)).max() <= act.bound
    middle = (z[1:] + z[:-1]) / 2
    smooth = np.abs(middle) > 0.01
    assert np.allclose(
        (np.diff(act(z)) / np.diff(z))[smooth], act.derivative(middle)[smooth], atol=1e-4
    )


def test_constants_have_normal_forms():
    one, half = Fraction(1), Fraction(1, 2)
    tanh, sigmoid, softplus = Activation("tanh"), Activation("sigmoid"), Activation("softplus")
    assert linear([(one, value(tanh, half)), (one, value(tanh, -half))]) == 0
    assert linear([(one, value(sigmoid, half)), (one, value(sigmoid, -half))]) == 1
    assert linear([(one, value(softplus, half)), (-one, value(softplus, -half))]) == half
    assert value(tanh, half) != value(tanh, Fraction(1, 3))
    nested = value(Activation("relu"), linear([(-one, value(tanh, half))]))
    assert nested == 0


def test_error_free_transformations():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(500) * 10.0 ** rng.uniform(-40, 40, 500) for _ in range(2))
    for (s, e), exact in (
        (two_sum(a, b), lambda x, y: x + y),
        (two_product(a, b), lambda x, y: x * y),
    ):
        for k in range(500):
            assert Fraction(s[k]) + Fraction(e[k]) == exact(Fraction(a[k]), Fraction(b[k]))
    assert exact_sum(a.tolist()) == sum(map(Fraction, a.tolist()))


def test_exact_arrays_against_fractions():
    rng = np.random.default_rng(4)
    for trial in range(60):
        hi = rng.standard_normal((3, 5)) * 10.0 ** rng.integers(
            -300 if trial % 2 else -3, 300 if trial % 2 else 3, (3, 5)
        )
        array = ExactArray(hi)
        truth = {(i, j): Fraction(float(hi[i, j])) for i in range(3) for j in range(5)}
        for factor in (Fraction(1), Fraction(-1), Fraction(2, 3)):
            array.add_columns([0, 0, 1], [2, 3, 4], factor, np.arange(3))
            for i in range(3):
                for t, u in ((0, 2), (0, 3), (1, 4)):
                    truth[i, t] += factor * truth[i, u]
        array.scale(np.arange(3), np.array([1]), Fraction(-4))
        array.scale(np.arange(3), np.array([0]), Fraction(1, 7))
        for i in range(3):
            truth[i, 1] *= -4
            truth[i, 0] /= 7
        assert all(array.get(at) == q for at, q in truth.items())
        part = array.take(np.array([2, 0]), np.array([1, 0]))
        assert part.get((0, 1)) == truth[2, 0]
        assert part.equals(array.take(np.array([2, 0]), np.array([1, 0])))


def test_products_are_exact():
    rng = np.random.default_rng(5)
    for trial in range(30):
        a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
        if trial % 3 == 0:
            a[0] *= 1e-200
        if trial % 3 == 1:
            a[:, 1], b[1] = -a[:, 0], b[0]
        out = matmul(ExactArray(a), ExactArray(b))
        for i in range(3):
            for j in range(2):
                assert out.get((i, j)) == sum(
                    Fraction(float(a[i, k])) * Fraction(float(b[k, j])) for k in range(4)
                )


def test_upper_bounds_are_upper_bounds():
    rng = np.random.default_rng(6)
    for _ in range(100):
        a, b = (
            rng.random((2, 40)) * 10.0 ** rng.integers(-320, 5, (2, 40)),
            rng.random((40, 2)) * 10.0 ** rng.integers(-9, 2, (40, 2)),
        )
        out = up_matmul(a, b)
        for i in range(2):
            for j in range(2):
                assert Fraction(float(out[i, j])) >= sum(
                    Fraction(float(x)) * Fraction(float(y))
                    for x, y in zip(a[i], b[:, j], strict=True)
                )
    assert up_matmul(np.array([[0.0, 1.0]]), np.array([[np.inf], [2.0]]))[0, 0] < 2.001
    assert up_matmul(np.array([[1e-300]]), np.array([[np.inf]]))[0, 0] == np.inf
    assert up_matmul(np.array([[0.0]]), np.array([[1.0]]))[0, 0] == 0.0


def test_keys_agree_within_a_class():
    rng = np.random.default_rng(7)
    w, b = rng.standard_normal((200, 6)), rng.standard_normal(200)
    sign = rng.choice([-1.0, 1.0], 200)
    factor = 2.0 ** rng.integers(-9, 9, 200)
    plain = class_keys(w, b, sign=True, scale=True)[0]
    assert np.array_equal(
        plain, class_keys(w * (sign * factor)[:, None], b * sign * factor, sign=True, scale=True)[0]
    )
    tripled = rng.integers(-9, 9, (200, 6)) + 0.0
    tripled[:, 0] = 1.0
    assert np.array_equal(
        *(
            class_keys(t * tripled, t * b.round(2) * 0, sign=False, scale=True)[0]
            for t in (1.0, 3.0)
        )
    )
    assert len(np.unique(plain)) == 200
    assert (
        len(
            np.unique(
                class_keys(np.arange(4096.0)[:, None] + 0, np.zeros(4096), sign=False, scale=False)[
                    0
                ]
            )
        )
        == 4096
    )


def test_exact_arrays_never_change_what_they_were_made_of():
    given = np.array([1.0, 2.0])
    array = ExactArray(given)
    array.put((0,), Fraction(1, 3))
    array.put((1,), Fraction(7))
    assert given.tolist() == [1.0, 2.0]


def test_printed_bounds_are_bounds():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    near = 1 + rng.standard_normal(500) * 10.0 ** rng.integers(-16, 0, 500)
    edges = [0.0, 5e-324, 1.7976931348623157e308, 1.00000024, 0.999999, np.inf]
    for x in (*drawn[np.isfinite(drawn)].tolist(), *near.tolist(), *edges):
        for digits in (1, 2, 3, 6):
            assert float(below(x, digits)) <= x <= float(above(x, digits))
            assert -float(above(-x, digits)) == float(below(x, digits))
        assert float(above(x, 17)) >= x >= float(below(x, 17))
    assert (above(0.25, 3), below(0.25, 3), above(1.00000024, 3)) == ("0.25", "0.25", "1.01")


# Sums of constants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_sums_of_constants_are_enclosed_at_any_size(seed):
    """Against 400 digits: coefficients from 1e-300 to 1e300, terms that cancel, values that are zero."""
    rng = np.random.default_rng(seed)
    terms = [(Fraction(float(rng.normal())), Fraction(float(rng.normal())))]
    for size in (-300, -40, 0, 40, 300)[seed % 3 :]:
        z = Fraction(float(rng.normal()))
        c = Fraction(float(rng.normal())) * Fraction(10) ** size
        terms += [(c, z), (Fraction(1, 3) - c, z + Fraction(1, 2**40))]
    tanh = Activation("tanh")
    number = linear([(c, value(tanh, z)) for c, z in terms])
    low, high = enclose(number)
    with mp.workdps(800):
        exact = sum(
            mp.mpf(c.numerator) / c.denominator * mp.tanh(mp.mpf(z.numerator) / z.denominator)
            for c, z in terms
        )
        below, above = (mp.mpf(q.numerator) / q.denominator for q in (low, high))
        assert below <= exact <= above
        reach = max(abs(c) for c, _ in terms)
        assert high - low <= reach * Fraction(1, 10**44)


def test_atoms_keep_what_they_are_in_other_processes():
    tanh = Activation("tanh")
    number = linear([(Fraction(2), value(tanh, Fraction(1, 3)))])
    again = pickle.loads(pickle.dumps(number))
    assert again == number
    assert hash(again) == hash(number)
    assert linear([(Fraction(1), number), (Fraction(-1), again)]) == 0
    nested = value(
        tanh, linear([(Fraction(1), number), (Fraction(1), value(tanh, Fraction(1, 7)))])
    )
    turned = value(
        tanh, linear([(Fraction(1), value(tanh, Fraction(1, 7))), (Fraction(1), number)])
    )
    assert repr(nested) == repr(turned)
