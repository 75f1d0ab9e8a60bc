"""Fixed-point arithmetic beside rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.formats.tflite import fixed_point

WORD = st.integers(-(2**31), 2**31 - 1)
TIES = [1, -1, 3, -3, 2**30, -(2**30), 3 * 2**29, -3 * 2**29, 2**31 - 1, -(2**31)]


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


@given(WORD, WORD)
def test_products_are_rounded_once_halves_up(a, b):
    wanted = min(half_up(Fraction(a * b, 2**31)), 2**31 - 1)
    assert fixed_point.high_product(a, b) == wanted


@pytest.mark.parametrize("a", TIES)
@pytest.mark.parametrize("b", TIES)
def test_products_that_are_half_way(a, b):
    assert fixed_point.high_product(a, b) == min(half_up(Fraction(a * b, 2**31)), 2**31 - 1)


@given(WORD, st.integers(0, 31))
def test_shifts_are_rounded_halves_away_from_zero(x, exponent):
    assert fixed_point.shifted_right(x, exponent) == half_away(Fraction(x, 2**exponent))


@pytest.mark.parametrize("x", TIES)
@pytest.mark.parametrize("exponent", [1, 2, 30, 31])
def test_shifts_that_are_half_way(x, exponent):
    assert fixed_point.shifted_right(x, exponent) == half_away(Fraction(x, 2**exponent))


@given(st.floats(2.0**-31, 2.0**31, exclude_max=True))
def test_multipliers_have_31_bits(real):
    found = fixed_point.multiplier(real)
    assert 2**30 <= found.mantissa < 2**31
    value = Fraction(found.mantissa) * Fraction(2) ** (found.shift - 31)
    assert abs(value - Fraction(real)) <= Fraction(real) * Fraction(1, 2**31)


def test_multipliers_that_round_up_to_a_power_and_those_that_vanish():
    assert fixed_point.multiplier(1 - 2.0**-40) == (2**30, 1)
    assert fixed_point.multiplier(0.0) == (0, 0)
    assert fixed_point.multiplier(2.0**-33) == (0, 0)
    assert fixed_point.multiplier(2.0**-32).mantissa == 2**30


def test_twice_rounded_is_not_once_rounded():
    """0.5 - 2^-32 of an odd number: the product is rounded to the number itself, and its half again."""
    by = fixed_point.multiplier(0.5 - 2.0**-32)
    assert fixed_point.times(5, by) == 3  # 2.4999..., and once rounded 2
    assert fixed_point.times(-5, by) == -3


@pytest.mark.parametrize("whole", [4, 5])
def test_exponentials_are_near(whole):
    a = -np.arange(0, 2**31, 9_999_991, dtype=np.int64)
    found = fixed_point.exp_of_negative(a, whole) / 2**31
    assert (
        np.abs(found - np.exp(a * 2.0 ** (whole - 31))).max() < 2e-7
    )  # as gemmlowp says of itself


def test_reciprocals_and_the_logistic_function_are_near():
    a = np.arange(0, 2**31, 9_999_991, dtype=np.int64)
    assert np.abs(fixed_point.one_over_one_plus(a) / 2**31 - 1 / (1 + a / 2**31)).max() < 2e-8
    both = np.concatenate([a, -a])
    wanted = 1 / (1 + np.exp(-both * 2.0 ** (4 - 31)))
    assert np.abs(fixed_point.logistic(both, 4) / 2**31 - wanted).max() < 2e-7
    found = fixed_point.reciprocal(np.array([1, 7, 2**19, 2**30 + 1, 2**31 - 1]), 12)
    value = found.scale * 2.0**-31 * 2.0 ** -found.over.astype(float)
    wanted = 1 / (np.array([1, 7, 2**19, 2**30 + 1, 2**31 - 1]) * 2.0 ** (12 - 31))
    assert np.allclose(value, wanted, rtol=3e-9 * 8)
