"""How many parameters are nearly compressible: the share of those of one hidden layer (tanh, erf, sigmoid) in a
cube that lie within a radius of the parameters of rank at most r.

Parameters are drawn uniformly from [-s, s] each; c = radius / s. By `low_rank_parameters` those of rank at most
r are a union of subspaces L, one for each datum of constant units, groups with signs, and r paid groups. In
the largest norm w is within the radius of L if and only if

    |b_i| <= radius                   for its constant units (n numbers each),
    max - min of s_i p_i <= 2 radius  for each group, in each of n + 1 coordinates,
    |sum s_i a_i| <= radius size      for each free group, in each of m coordinates,

as the nearest point moves each of these numbers alone. They are independent, and signs do not matter, the
law being even. With g units in a group

    P(range <= 2 radius) = R_g = g c^(g - 1) - (g - 1) c^g,
    P(|sum| <= radius g) = I_g = F_g(g (1 + c) / 2) - F_g(g (1 - c) / 2),

F_g the distribution function of the sum of g uniform numbers from [0, 1] (Irwin and Hall). The number of
subspaces within the radius has the mean

    E(u, r) = c^n E(u - 1, r) + sum_g binom(u - 1, g - 1) 2^(g - 1) R_g^(n + 1) (E(u - g, r - 1) + I_g^m E(u - g, r)),

by the fate of the first unit; E(0, 0) = 1. The share is at most that: `Share.most`. It falls like c to the
power of the codimension, (h - r) min(n, m). Draws say how much it is, with an interval: each is a yes or a no
by the proved bounds of its proximate rank, or neither.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.errors import ArgumentError, Asked
from moduli.kernel.network import Network

from . import reduce_within

UP = 1 + 1e-9  # more than the roundings of numbers, of their powers and sums at one level of `mean`
UNITS = 60  # whose distribution functions are made
CONFIDENCE = 0.95


class Share(NamedTuple):
    """A share of parameters.

    Attributes:
        most: no more than this, proved: the mean number of subspaces within the radius, or 1. lower, upper:
            an interval that holds the share with a probability of 95 % over the draws (Clopper and Pearson);
            `upper` is no more than `most`. yes, no, undecided: draws of which that is proved, and others,
            which count as no for `lower` and as yes for `upper`.
    """

    most: float
    lower: float
    upper: float
    yes: int
    no: int
    undecided: int


def share(
    widths: tuple[int, int, int], rank: int, radius: float, side: float, draws: int, seed: int,
    budget: int, progress: Progress | None,
) -> Share:  # fmt: skip
    """See `RankSet.share`."""
    _accept(radius, side, draws)
    yes = no = 0
    for k in range(draws):
        net = _drawn(widths, side, np.random.default_rng([seed, k]))
        found = reduce_within.rank(net, radius, budget, None, progress)
        yes += found.upper <= rank
        no += found.lower > rank
    most = share_bound(widths, rank, radius, side)
    lower, upper = _interval(yes, draws)[0], _interval(draws - no, draws)[1]
    return Share(most, lower, min(upper, most), yes, no, draws - yes - no)


def share_bound(widths: tuple[int, int, int], rank: int, radius: float, side: float = 1.0) -> float:
    """The proved bound alone: E(h, rank), or 1.

    >>> round(share_bound((1, 1, 1), 0, 0.25), 6)  # |b| or |a| is at most a quarter: no more than their sum
    0.5
    """
    _accept(radius, side, 2)
    n, h, m = widths
    if h > UNITS:
        raise ArgumentError(
            Asked("widths", widths), f": shares are known for up to {UNITS} hidden units"
        )
    c = min(Fraction(1), Fraction(radius) / Fraction(side))
    ranges, sums = ([function(c, g) for g in range(1, h + 1)] for function in (_range, _sum))

    @cache
    def mean(units: int, paid: int) -> float:
        if not 0 <= paid <= units:
            return 0.0
        if not units:
            return 1.0
        found = float(c) ** n * mean(units - 1, paid)
        for g, (near, cancelled) in enumerate(zip(ranges, sums, strict=True), 1):
            if g > units:
                break
            ways = math.comb(units - 1, g - 1) * 2.0 ** (g - 1)
            rest = mean(units - g, paid - 1) + cancelled**m * mean(units - g, paid)
            found += ways * near ** (n + 1) * rest
        return found

    # each term of each of h levels is a product of at most n + m + 8 factors, each within 2^-53 or so: four
    # times that. A sum of the smallest floats may be 0, and the share is not
    bound = mean(h, rank) * (UP + h * (n + m + 8) * 2.0**-51) + (5e-300 if radius else 0.0)
    return 1.0 if rank >= h else min(1.0, bound)


@cache
def _range(c: Fraction, count: int) -> float:
    return float(count * c ** (count - 1) - (count - 1) * c**count)


@cache
def _sum(c: Fraction, count: int) -> float:
    high, low = (count * (1 + s * c) / 2 for s in (1, -1))
    return float(_irwin_hall(high, count) - _irwin_hall(low, count))


def _irwin_hall(x: Fraction, count: int) -> Fraction:
    """The probability that `count` uniform numbers from [0, 1] have a sum of at most x."""
    terms = (
        (-1) ** k * math.comb(count, k) * (x - k) ** count
        for k in range(min(count, math.floor(x)) + 1)
    )
    return sum(terms, Fraction(0)) / math.factorial(count)


def _drawn(widths: tuple[int, int, int], side: float, rng: np.random.Generator) -> Network:
    n, h, m = widths
    shapes: tuple[tuple[int, ...], ...] = ((h, n), (h,), (m, h), (m,))
    parts = (rng.uniform(-side, side, shape) for shape in shapes)
    return Network.mlp(*parts, activation="tanh")


def _interval(yes: int, draws: int) -> tuple[float, float]:
    """Of a share of which that many draws were a yes, each end missed with half of 5 %."""
    from scipy.stats import binomtest

    ends = binomtest(yes, draws).proportion_ci(CONFIDENCE, method="exact")
    return float(ends.low), float(ends.high)


def _accept(radius: float, side: float, draws: int) -> None:
    if not (math.isfinite(radius) and radius >= 0):
        raise ArgumentError(Asked("radius", radius), ": a finite number from 0 on")
    if not (math.isfinite(side) and side > 0):
        raise ArgumentError(Asked("side", side), ": a finite number above 0")
    if draws < 1:
        raise ArgumentError(Asked("draws", draws), ": at least 1")
