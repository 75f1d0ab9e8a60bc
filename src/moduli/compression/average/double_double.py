"""Numbers of about 31 digits as sums of two floats, for differences in which all digits of one
float cancel.

A pair (high, low) of arrays stands for high + low with |low| at most half a unit in the last place
of high. Sums and products of floats are turned into such pairs without error (Knuth 1969, Dekker
1971); what is built on them here has a relative error of a few times 2^-104. Products of numbers
beyond 2^996 overflow; callers scale by powers of two first.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
SPLITTER = 2.0**27 + 1
UNIT = 2.0**-104
FAR = 12.0  # the normal density is below 2^-104 from here on
HALVINGS = 9  # of an exponent, before its Taylor series
TAYLOR = 9
TURNS = 3  # halvings of an angle before the series of the arctangent
ARCTANGENT = 17


def exact_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """a + b, rounded, and what the rounding left out."""
    total = a + b
    second = total - a
    return total, (a - (total - second)) + (b - second)


def exact_product(a: Any, b: Any) -> tuple[Any, Any]:
    """a b, rounded, and what the rounding left out."""
    product = a * b
    scaled_a, scaled_b = SPLITTER * a, SPLITTER * b
    high_a, high_b = scaled_a - (scaled_a - a), scaled_b - (scaled_b - b)
    low_a, low_b = a - high_a, b - high_b
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def _renormalised(high: Any, low: Any) -> Twofold:
    """For |high| >= |low|."""
    total = high + low
    return Twofold(total, low - (total - high))


class Twofold:
    """An array of numbers high + low.

    >>> x = Twofold.of(1.0) / Twofold.of(3.0)
    >>> float((x * 3.0 - 1.0).high)
    0.0
    """

    __slots__ = ("high", "low")
    __array_priority__ = 100  # numpy leaves sums with an array to this class

    def __init__(self, high: Any, low: Any) -> None:
        self.high, self.low = high, low

    @staticmethod
    def of(x: Any) -> Twofold:
        """Floats as they are."""
        if isinstance(x, Twofold):
            return x
        high = np.asarray(x, dtype=np.float64)
        return Twofold(high, np.zeros(high.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(np.shape(self.high), np.shape(self.low))

    def __getitem__(self, at: Any) -> Twofold:
        return Twofold(self.high[at], self.low[at])

    def rounded(self) -> Array:
        return np.asarray(self.high + self.low)

    def __neg__(self) -> Twofold:
        return Twofold(-self.high, -self.low)

    def __add__(self, other: Any) -> Twofold:
        other = Twofold.of(other)
        high, low = exact_sum(self.high, other.high)
        far, rest = exact_sum(self.low, other.low)
        first = _renormalised(high, low + far)
        return _renormalised(first.high, first.low + rest)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Twofold:
        difference: Twofold = self + (-Twofold.of(other))
        return difference

    def __rsub__(self, other: Any) -> Twofold:
        difference: Twofold = (-self) + other
        return difference

    def __mul__(self, other: Any) -> Twofold:
        other = Twofold.of(other)
        high, low = exact_product(self.high, other.high)
        return _renormalised(high, low + (self.high * other.low + self.low * other.high))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Twofold:
        other = Twofold.of(other)
        first = self.high / other.high
        rest = self - other * first
        second = rest.high / other.high
        rest = rest - other * second
        found: Twofold = _renormalised(*exact_sum(first, second)) + rest.high / other.high
        return found

    def scaled(self, power: float | Array) -> Twofold:
        """Times powers of two."""
        return Twofold(self.high * power, self.low * power)

    def absolute(self) -> Twofold:
        return where(self.high < 0, -self, self)

    def sum(self) -> Twofold:
        """Of all entries, in pairs."""
        part = Twofold(np.ravel(self.high), np.ravel(self.low))
        while len(part.high) > 1:
            half = len(part.high) // 2
            rest = part[2 * half :]
            part = part[:half] + part[half : 2 * half]
            part = Twofold(np.append(part.high, rest.high), np.append(part.low, rest.low))
        return part[0] if len(part.high) else Twofold.of(0.0)


def where(condition: Any, x: Any, y: Any) -> Twofold:
    one, two = Twofold.of(x), Twofold.of(y)
    return Twofold(np.where(condition, one.high, two.high), np.where(condition, one.low, two.low))


@cache
def constant(digits: str) -> Twofold:
    """A number in decimals."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(digits)
        high = float(exact)
        return Twofold.of(high) + float(exact - Decimal(high))


PI = constant("3.14159265358979323846264338327950288419716939937510582097494")
LOG2 = constant("0.693147180559945309417232121458176568075500134360255254120680")


def root(x: Twofold) -> Twofold:
    """The square root of numbers that are not negative."""
    # Newton's step doubles the digits of a float's 16; the second mends what the first rounded.
    guess = np.sqrt(np.maximum(x.high, 0.0))
    safe = np.where(guess > 0, guess, 1.0)
    rest = x - Twofold(*exact_product(guess, guess))
    first = _renormalised(guess, rest.high / (2 * safe))
    rest = x - first * first
    return where(guess > 0, first + rest.high / (2 * safe), 0.0)


def exponential(x: Twofold) -> Twofold:
    """exp, 0 below exp(-700).

    >>> x = exponential(Twofold.of(1.0)) - constant("2.71828182845904523536028747135266249775724709369996")
    >>> abs(float(x.high)) < 2.0**-98
    True
    """
    # e^x = 2^turns (e^rest)^(2^HALVINGS); the squarings act on e^rest - 1, which keeps the digits
    # that 1 + rest would lose.
    turns = np.round(np.maximum(x.high, -700.0) / math.log(2))
    rest = (where(x.high < -700.0, -700.0, x) - LOG2 * turns).scaled(2.0**-HALVINGS)
    total = rest / float(TAYLOR)
    for k in range(TAYLOR - 1, 0, -1):  # exp(rest) - 1, by Horner's rule
        total = (total + 1.0) * rest / float(k)
    for _ in range(HALVINGS):
        total = total.scaled(2.0) + total * total
    total = total + 1.0
    power = turns.astype(int)
    return where(
        x.high < -700.0, 0.0, Twofold(np.ldexp(total.high, power), np.ldexp(total.low, power))
    )


def arctangent(x: Twofold) -> Twofold:
    """For 0 <= x <= 1."""
    for _ in range(TURNS):
        x = x / (root(x * x + 1.0) + 1.0)  # the tangent of half the angle
    # Then the alternating series, from its smallest term.
    square = x * x
    total = Twofold.of(1.0) / (2.0 * ARCTANGENT + 1)
    for k in range(ARCTANGENT - 1, -1, -1):
        total = Twofold.of(1.0) / (2.0 * k + 1) - square * total
    return (x * total).scaled(2.0**TURNS)


def angle(y: Twofold, x: Twofold) -> Twofold:
    """The angle of (x, y) with the first axis, y >= 0."""
    size = x.absolute()
    steep = y.high > size.high
    top, bottom = where(steep, size, y), where(steep, y, size)
    found = arctangent(top / where(bottom.high > 0, bottom, 1.0))
    found = where(steep, PI.scaled(0.5) - found, found)
    return where(x.high < 0, PI - found, found)


def density(h: Twofold) -> Twofold:
    """exp(-h^2/2) / sqrt(2 pi)."""
    return exponential((h * h).scaled(-0.5)) / root(PI.scaled(2.0))


def distribution(h: Twofold) -> Twofold:
    """The standard normal distribution function, up to a few times 2^-104.

    1/2 + density(h) sum h^(2n + 1) / (2n + 1)!!, in which all terms have one sign.
    """
    near = where(np.abs(h.high) < FAR, h, 0.0)
    square, term = near * near, near
    total, k = near, 1
    while np.any(np.abs(term.high) > UNIT / 16 * np.abs(total.high)):
        k += 2
        term = term * square / float(k)
        total = total + term
    found = density(near) * total + 0.5
    return where(np.abs(h.high) < FAR, found, np.where(h.high > 0, 1.0, 0.0))


def owen(h: Twofold, w: Twofold) -> Twofold:
    """Owen's T(h, w/h) (1956) for h, w >= 0, not both 0: the normal mass between the axis and a
    ray, beyond distance h.

    For w <= h by Owen's series, else through T(h, w/h) + T(w, h/w) = (P(h) + P(w)) / 2 - P(h) P(w).
    """
    swap = w.high > h.high
    large, small = where(swap, w, h), where(swap, h, w)
    ratio = small / where(large.high > 0, large, 1.0)
    found = _series(large, ratio)
    if np.any(swap):
        p, q = distribution(h), distribution(w)
        found = where(swap, (p + q).scaled(0.5) - p * q - found, found)
    return found


def _series(h: Twofold, ratio: Twofold) -> Twofold:
    """(atan a - sum (-1)^j a^(2j + 1) / (2j + 1) P(N > j)) / (2 pi), N Poisson with mean h^2 / 2,
    for a <= 1.
    """
    inside = h.high < FAR
    mean = (where(inside, h, 0.0) * where(inside, h, 0.0)).scaled(0.5)
    chance = exponential(-mean)
    beyond, power, square = 1.0 - chance, ratio, ratio * ratio
    total, j = ratio * beyond, 0
    most = float(mean.high.max(initial=0.0))
    while j < most or np.any(
        chance.high > UNIT / 64
    ):  # beyond the mean the chances fall, faster than a geometric series
        j += 1
        chance = chance * mean / float(j)
        beyond, power = beyond - chance, -(power * square)
        beyond = where(beyond.high > 0, beyond, 0.0)
        total = total + power * beyond / (2.0 * j + 1)
    found = (arctangent(ratio) - total) / PI.scaled(2.0)
    return where(inside, found, 0.0)


def product(a: Twofold, b: Twofold) -> Twofold:
    """The matrix product of ``[m, k]`` and ``[k, n]``."""
    total = Twofold.of(np.zeros((a.shape[0], b.shape[1])))
    for k in range(a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total
