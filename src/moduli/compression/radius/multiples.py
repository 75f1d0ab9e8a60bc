"""Rows near multiples of each other, for activations with s(tz) = t s(z): the search.

Units whose rows are within the radius of multiples t_i v of one row v can become one unit. For two
rows p, q the question is whether some t > 0 brings the box around t p near q: linear in t,
coordinate by coordinate. Bundles are grown greedily, the largest row first; ratios and rows are
short dyadic numbers where the radius leaves room, so that products stay floats.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from moduli.kernel.exact_numbers import Array, nearest
from moduli.kernel.radius.compatibility import Ints, ParameterBall

RATIONAL = 2**7  # floats that a rational number counts as


class Bundle(NamedTuple):
    """Units that become multiples of one row.

    Attributes:
        units: the one with the largest row first. ratios: of each, 1 for the first. row: the common
            one, bias last.
        free: whether the outgoing weights can be made to cancel.
    """

    units: tuple[int, ...]
    ratios: tuple[Fraction, ...]
    row: tuple[Fraction, ...]
    free: bool


def bundles(ball: ParameterBall, *, opposite: bool, symmetric: bool, most: int) -> list[Bundle]:
    """Bundles of units that are neither constant nor null, by their first unit; all such units lie
    in one.

    Args:
        opposite: whether negative multiples count. symmetric: whether these make one unit, too
            (else one for each side).
        most: numbers of rows that are compared; units behind that stay alone.
    """
    waiting = np.zeros(ball.size, dtype=bool)
    waiting[ball.required] = True
    size = np.abs(ball.rows[:, :-1]).max(axis=1, initial=0.0)
    order = np.lexsort((np.arange(ball.size), -size))
    found, spent = list[Bundle](), 0
    for first in order[waiting[order]].tolist():
        if not waiting[first]:
            continue
        waiting[first] = False
        rest = order[waiting[order]]
        spent += len(rest) * ball.rows.shape[1] * (1 + opposite)
        growing = _Growing(ball, first)
        for unit, way in _near(ball, first, rest, opposite) if spent <= most else ():
            if waiting[unit] and spent <= most:
                spent += RATIONAL * ball.rows.shape[1]
                waiting[unit] = not growing.add(unit, way)
        found.append(growing.bundle(symmetric or not opposite))
    return found


def _near(ball: ParameterBall, first: int, rest: Ints, opposite: bool) -> list[tuple[int, int]]:
    """Units that floats say may be multiples of one, in their order, and the sign of the ratio."""
    out = list[tuple[int, int]]()
    for way in (1, -1) if opposite else (1,):
        low, high = _ratios(ball.rows[first], way * ball.rows[rest], ball.radius)
        out += [(unit, way) for unit in rest[low <= high * (1 + 2.0**-40)].tolist()]
    return out


def _ratios(p: Array, q: Array, radius: float) -> tuple[Array, Array]:
    """The least and largest t > 0 such that boxes around t p and around rows q meet, in floats; no
    t where low > high.
    """
    left, right = p - radius, p + radius
    with np.errstate(all="ignore"):
        above, below = q + radius, q - radius  # t left <= above, t right >= below
        highs = np.where(
            left > 0, above / left, np.where((left == 0) & (above < 0), -np.inf, np.inf)
        )
        lows = np.where(left < 0, above / left, 0.0)
        lows = np.maximum(lows, np.where(right > 0, below / right, 0.0))
        highs = np.minimum(highs, np.where(right < 0, below / right, np.inf))
        highs = np.where((right == 0) & (below > 0), -np.inf, highs)
    lows, highs = (
        np.nan_to_num(lows, nan=0.0),
        np.nan_to_num(highs, nan=-1.0, posinf=np.inf, neginf=-np.inf),
    )
    return np.asarray(np.maximum(lows.max(axis=1), 0.0)), np.asarray(highs.min(axis=1))


class _Growing:
    """A bundle, and the box in which its row has to lie, in exact numbers."""

    def __init__(self, ball: ParameterBall, first: int) -> None:
        self.ball, self.radius = ball, Fraction(ball.radius)
        self.units, self.ratios = [first], [Fraction(1)]
        self.row = [Fraction(x) for x in ball.rows[first].tolist()]
        self.low, self.high = (
            [x - self.radius for x in self.row],
            [x + self.radius for x in self.row],
        )

    def add(self, unit: int, way: int) -> bool:
        """Take a unit with a ratio of this sign, if there is one."""
        q = [way * Fraction(x) for x in self.ball.rows[unit].tolist()]
        ratio = self._ratio(q)
        if ratio is None:
            return False
        low = [max(p, (x - self.radius) / ratio) for p, x in zip(self.low, q, strict=True)]
        high = [min(p, (x + self.radius) / ratio) for p, x in zip(self.high, q, strict=True)]
        if any(a > b for a, b in zip(low, high, strict=True)):
            return False
        self.low, self.high = low, high
        self.units.append(unit)
        self.ratios.append(way * ratio)
        return True

    def _ratio(self, q: list[Fraction]) -> Fraction | None:
        """A short number t > 0 such that t times the box meets the box around a row."""
        least, most = Fraction(0), list[Fraction]()
        for left, right, x in zip(self.low, self.high, q, strict=True):
            for end, bound, upper in (
                (left, x + self.radius, True),
                (right, x - self.radius, False),
            ):
                if end == 0:
                    if (bound < 0) if upper else (bound > 0):
                        return None
                elif (end > 0) == upper:  # t <= bound / end
                    most.append(bound / end)
                else:
                    least = max(least, bound / end)
        top = min(most, default=Fraction(0))
        if top <= 0 or top < least:
            return None
        spare = (top - least) / 4
        ratio = shortest(least + spare, top - spare)
        return ratio if ratio > 0 else top

    def bundle(self, cancels: bool) -> Bundle:
        row = (
            tuple(self._entry(k) for k in range(len(self.row)))
            if len(self.units) > 1
            else tuple(self.row)
        )
        free = cancels and self._free()
        return Bundle(tuple(self.units), tuple(self.ratios), row, free)

    def _entry(self, k: int) -> Fraction:
        """The entry of the first unit where that fits and its multiples are floats, else a short
        number.
        """
        old, low, high = self.row[k], self.low[k], self.high[k]
        if low <= old <= high and all(nearest(t * old) == t * old for t in self.ratios):
            return old
        if low == high:
            return low
        spare = (high - low) / 4
        return shortest(low + spare, high - spare)

    def _free(self) -> bool:
        """Whether |sum t_i a_i| <= radius * sum |t_i| in every output."""
        room = self.radius * sum(map(abs, self.ratios), Fraction(0))
        columns = self.ball.outgoing[self.units].T.tolist()
        for column in columns:
            total = sum(
                (t * Fraction(x) for t, x in zip(self.ratios, column, strict=True)), Fraction(0)
            )
            if abs(total) > room:
                return False
        return True


def shortest(low: Fraction, high: Fraction) -> Fraction:
    """The dyadic number of fewest digits in an interval, or its lower end where that has one point.

    >>> str(shortest(Fraction(17, 10), Fraction(18, 10))), str(shortest(Fraction(-1, 3), Fraction(1, 7)))
    ('7/4', '0')
    """
    if low <= 0 <= high:
        return Fraction(0)
    if high < 0:
        return -shortest(-high, -low)
    if low == high:
        return low
    ratio = high - low
    exponent = ratio.numerator.bit_length() - ratio.denominator.bit_length() + 1
    while True:  # steps of 2^exponent: the largest that has a multiple in the interval
        step = Fraction(2) ** exponent
        multiple = -(-low // step) * step
        if multiple <= high:
            return multiple
        exponent -= 1
