"""The fixed-point arithmetic of TensorFlow Lite's reference kernels, entry by entry on integers.

A number of 32 bits stands for raw 2^-f. Values here are int64, which holds every intermediate result;
where the kernels would leave 32 bits, callers refuse before. Rounding is that of the kernels as they are
built by default ("double rounding"): a product is rounded to 32 bits, halves up, and a shift to the right
rounds again, halves away from zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
WORD = 2**31
LARGEST = WORD - 1
ONE = LARGEST  # of numbers between -1 and 1: what is nearest to 1


class Multiplier(NamedTuple):
    """A positive real number as mantissa 2^(shift - 31), mantissas of 31 bits; arrays are alike."""

    mantissa: Any
    shift: Any


def multiplier(real: float, least: int = -31) -> Multiplier:
    """The nearest such number, halves up; zero where the shift would be below `least`.

    >>> multiplier(0.75)
    Multiplier(mantissa=1610612736, shift=0)
    """
    if real == 0:
        return Multiplier(0, 0)
    part, shift = math.frexp(real)
    mantissa = away(part * WORD)
    if mantissa == WORD:
        mantissa, shift = mantissa // 2, shift + 1
    return Multiplier(0, 0) if shift < least else Multiplier(mantissa, shift)


def multipliers(reals: Any) -> Multiplier:
    """One for each of several numbers, as arrays."""
    found = [multiplier(float(real)) for real in np.ravel(reals)]
    return Multiplier(
        np.array([m.mantissa for m in found], dtype=np.int64),
        np.array([m.shift for m in found], dtype=np.int64),
    )


def away(x: float) -> int:
    """The nearest integer, of halves the one away from zero."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x)) if abs(x) < 2**52 else int(x)


def high_product(a: Any, b: Any) -> Ints:
    """a b 2^-31, rounded, halves up; of the least number with itself the largest."""
    product = np.asarray(a, dtype=np.int64) * np.asarray(b, dtype=np.int64)
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    # the kernels' division truncates towards zero
    found = np.sign(nudged) * (np.abs(nudged) >> 31)
    return np.asarray(np.minimum(found, LARGEST))


def shifted_right(x: Any, exponent: Any) -> Ints:
    """x 2^-exponent, rounded, halves away from zero; exponents from 0 to 31."""
    x, exponent = np.asarray(x, dtype=np.int64), np.asarray(exponent, dtype=np.int64)
    mask = (np.int64(1) << exponent) - 1
    rest = x & mask
    threshold = (mask >> 1) + (x < 0)
    return np.asarray((x >> exponent) + (rest > threshold))


def shifted_left(x: Any, exponent: int) -> Ints:
    """x 2^exponent, held within 32 bits."""
    return np.asarray(np.clip(np.asarray(x, dtype=np.int64) << exponent, -WORD, LARGEST))


def times(x: Any, by: Multiplier) -> Ints:
    """x times a real number: shifted to the left, multiplied, shifted to the right."""
    shift = np.asarray(by.shift, dtype=np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    return shifted_right(high_product(np.asarray(x, dtype=np.int64) << left, by.mantissa), right)


# Functions [gemmlowp's fixedpoint.h] ----------------------------------------------------------------------------

EXP_EIGHTH = 1895147668  # exp(-1/8), as all below in units of 2^-31
THIRD = 715827883
POWERS = (  # exp(-2^k) for k = -2, ..., 4
    1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242,
)  # fmt: skip
FRACTION_48_17, FRACTION_32_17 = 1515870810, -1010580540  # in units of 2^-29
STEPS = 3  # of Newton's method


def exp_of_negative(a: Ints, whole: int) -> Ints:
    """exp(a) in units of 2^-31 for a <= 0 in units of 2^(whole - 31), whole up to 5.

    The largest multiple of 1/4 that is not below -a is left to powers, the rest is in [-1/4, 0).
    """
    bits = 31 - whole
    quarter = np.int64(1) << (bits - 2)
    rest = (a & (quarter - 1)) - quarter
    result = _exp_near_zero(shifted_left(rest, whole))
    left = rest - a
    for k, power in enumerate(POWERS, -2):
        if whole > k:
            result = np.where(left & (1 << (bits + k)), high_product(result, power), result)
    return np.where(a == 0, ONE, result)


def _exp_near_zero(a: Ints) -> Ints:
    """exp(a) for a in [-1/4, 0), by four terms at -1/8."""
    x = a + (1 << 28)
    x2 = high_product(x, x)
    x3, x4 = high_product(x2, x), high_product(x2, x2)
    terms = high_product(shifted_right(x4, 2) + x3, THIRD) + x2
    return EXP_EIGHTH + high_product(EXP_EIGHTH, x + shifted_right(terms, 1))


def _two_over_one_plus(a: Ints) -> Ints:
    """2 / (1 + a) in units of 2^-29 for a in [0, 1] in units of 2^-31, by Newton's method."""
    half = (a + ONE + 1) // 2  # of the denominator; the sum is positive
    x = FRACTION_48_17 + high_product(half, FRACTION_32_17)
    for _ in range(STEPS):
        gap = (1 << 29) - high_product(half, x)
        x = x + shifted_left(high_product(x, gap), 2)
    return x


def one_over_one_plus(a: Ints) -> Ints:
    """1 / (1 + a) for a in [0, 1], all in units of 2^-31."""
    return shifted_left(_two_over_one_plus(a), 1)


def logistic(a: Ints, whole: int) -> Ints:
    """1 / (1 + exp(-a)) in units of 2^-31."""
    upper = one_over_one_plus(exp_of_negative(-np.abs(a), whole))
    return np.where(a == 0, 1 << 30, np.where(a > 0, upper, ONE - upper))


def tanh(a: Ints, whole: int) -> Ints:
    """tanh(a) in units of 2^-31, as (1 - exp(-2 |a|)) / (1 + exp(-2 |a|)); whole up to 4."""
    power = exp_of_negative(-np.abs(a), whole + 1)  # one more bit before the point: twice a
    size = shifted_left(_two_over_one_plus(power) - (1 << 29), 2)
    return np.where(a == 0, 0, np.sign(a) * size)


class Reciprocal(NamedTuple):
    """1 / x = scale 2^-31 2^-over."""

    scale: Ints
    over: Ints


def reciprocal(x: Ints, whole: int) -> Reciprocal:
    """Of positive numbers in units of 2^(whole - 31)."""
    headroom = 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)
    fraction = (x << headroom) - WORD
    return Reciprocal(one_over_one_plus(fraction), whole - headroom)


def radius(whole: int, shift: int, bits: int = 31) -> int:
    """The largest integer that a shift to the left leaves below 2^whole."""
    return int(((1 << whole) - 1) << (bits - whole)) >> int(shift)
