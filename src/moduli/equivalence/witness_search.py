"""Inputs where two networks differ: floats look for them, exact values at rational points decide.

What a network puts out stands behind its output map (softmax, ...). Bounds are made before the map
and carried through it by its Lipschitz constant; a witness of different outputs is one behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from moduli.common.at_points import gradient
from moduli.common.domains import Domain
from moduli.common.exact_values import evaluate
from moduli.kernel.activations import Activation
from moduli.kernel.box import Box
from moduli.kernel.exact_numbers import Interval, ceiling, enclose_value
from moduli.kernel.network import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
STARTS = 64  # points from which a difference is climbed
STEPS = 120  # of each climb
NEIGHBOURS = (
    16  # tried in each step; fewer where they have more than 64 coordinates, and lead nowhere
)
ROUND, AGAIN = 30, 0.15  # after so many steps the better half of all points begins anew, twice


DIGITS = Context(prec=110, Emax=10**9, Emin=-(10**9))
UNIT = 10**80  # powers of e are whole multiples of 1 / UNIT, with an error of two of them
DEEP = -1000  # e^-1000 < 1 / UNIT


class Witness(NamedTuple):
    """An input where two networks differ.

    Attributes:
        input: rationals. a, b: enclosures of both values before the output map, points where all
            are rational.
        output_map: of both networks.
    """

    input: tuple[Fraction, ...]
    a: tuple[Interval, ...]
    b: tuple[Interval, ...]
    output_map: str = "identity"

    @property
    def gap(self) -> Fraction:
        """A lower bound of |a - b|_inf at the input, of the outputs, behind the output map.

        It may be 0 where a difference is proved without a number: a softmax tells apart whatever is
        no shift.
        """
        return apart(behind(self.a, self.output_map), behind(self.b, self.output_map))


# The output map -------------------------------------------------------------------------------------------------


def lipschitz(output_map: str) -> Fraction:
    """A constant L with |m(x) - m(y)|_inf <= L |x - y|_inf for an output map m.

    For p = softmax(z) the derivative is diag(p) - p p^T. Its row i has absolute sum p_i (1 - p_i) +
    p_i sum_{j != i} p_j = 2 p_i (1 - p_i) <= 1/2, and that is its norm from sup to sup; along the
    segment from x to y this gives L = 1/2.

    >>> str(lipschitz("softmax")), str(lipschitz("relu"))
    ('1/2', '1')
    """
    return Fraction(1, 2) if output_map == "softmax" else Activation.of(output_map).lipschitz


def span(output_map: str) -> float:
    """How far two outputs can be apart at most: less than twice the bound of an activation, 1 for
    shares.
    """
    if output_map == "softmax":
        return 1.0
    act = Activation.of(output_map)
    if act.bound is None:
        return math.inf
    law = act.reflection
    positive = law is not None and law[2] == 1  # values from 0 to 1
    return float(act.bound) if positive else 2.0 * act.bound


def allowed(eps: float, output_map: str) -> float:
    """How far values before the map may differ so that outputs differ by at most eps: eps / L,
    rounded down.
    """
    return (
        eps if output_map == "identity" else 0.0 - ceiling(-Fraction(eps) / lipschitz(output_map))
    )


def behind(z: Sequence[Interval], output_map: str) -> Sequence[Interval]:
    """Enclosures of outputs, from those of the values before the map."""
    if output_map == "identity":
        return z
    if output_map == "softmax":
        return _softmax(z)
    act = Activation.of(output_map)
    return [enclose_value(act, t) for t in z]


def _softmax(z: Sequence[Interval]) -> list[Interval]:
    """Rises in its own argument and falls in all others; arguments are taken from the largest."""
    top = max(high for _, high in z)
    low = [_power(end - top)[0] for end, _ in z]
    high = [_power(end - top)[1] for _, end in z]
    all_low, all_high = sum(low), sum(high)
    found = []
    for p, q in zip(low, high, strict=True):
        others_low, others_high = all_low - p, all_high - q
        # p and what the others add may all be rounded down to 0: 0 is a lower bound, whatever it is
        # divided by.
        found.append((Fraction(p, max(1, p + others_high)), Fraction(q, q + others_low)))
    return found


def _power(q: Fraction) -> tuple[int, int]:
    """Whole numbers around UNIT e^q, for q <= 0; the upper one is positive.

    The quotient and `exp` of `decimal`, correctly rounded to 110 digits, are off by a factor below
    1 + 1e-105 together.
    """
    if q < DEEP:
        return 0, 1
    with localcontext(DIGITS):
        found = int((Decimal(q.numerator) / Decimal(q.denominator)).exp() * UNIT)
    return max(0, found - 1), found + 2


def apart(p: Sequence[Interval], q: Sequence[Interval]) -> Fraction:
    """A lower bound of the largest difference of enclosed numbers."""
    return max((_gap(x, y) for x, y in zip(p, q, strict=True)), default=Fraction(0))


def _gap(p: Interval, q: Interval) -> Fraction:
    return max(p[0] - q[1], q[0] - p[1], Fraction(0))


def separated_at(a: Network, b: Network, x: tuple[Fraction, ...], eps: float) -> Witness | None:
    """The input as a witness, if exact values prove a difference above eps there."""
    p, q = evaluate(a, x), evaluate(b, x)
    if not separates(p, q, a.output_map, eps):
        return None
    return Witness(x, tuple(p), tuple(q), a.output_map)


def separates(p: Sequence[Interval], q: Sequence[Interval], output_map: str, eps: float) -> bool:
    """Whether enclosed values before the map prove that outputs, behind it, differ by more than
    eps.
    """
    if eps > 0:
        return apart(behind(p, output_map), behind(q, output_map)) > Fraction(eps)
    # Whether there is any difference is seen more sharply before the map, where it forgets nothing.
    if output_map == "softmax":  # which forgets a shift of all values, and only that
        shifts = [(x[0] - y[1], x[1] - y[0]) for x, y in zip(p, q, strict=True)]
        return any(_gap(x, y) > 0 for x, y in combinations(shifts, 2))
    if Activation.of(output_map).injective:
        return apart(p, q) > 0
    return apart(behind(p, output_map), behind(q, output_map)) > 0


# Searching ------------------------------------------------------------------------------------------------------


def find_witness(
    a: Network, b: Network, on: Domain, eps: float, x: Array, seed: int | np.random.Generator
) -> Witness | None:
    """Of the best inputs, and those that ascent makes of them, the one where exact values differ
    most, if by more than eps.
    """
    gap = gaps(a, b, x, eps)
    starts = x[np.argsort(-gap, kind="stable")[:STARTS]]
    climbed = _ascend(a, b, starts, on, eps, np.random.default_rng(seed))
    found = [furthest(a, b, x, gap, eps), furthest(a, b, climbed, gaps(a, b, climbed, eps), eps)]
    return max((w for w in found if w is not None), key=lambda w: w.gap, default=None)


def furthest(a: Network, b: Network, x: Array, gap: Array, eps: float) -> Witness | None:
    """The first of the three inputs of largest gap where exact values prove a difference above eps."""
    return _separated(a, b, x[np.argsort(-gap, kind="stable")[:3]], eps)


def _separated(a: Network, b: Network, x: Array, eps: float) -> Witness | None:
    found = (separated_at(a, b, tuple(map(Fraction, row.tolist())), eps) for row in x)
    return next((witness for witness in found if witness is not None), None)


def gaps(a: Network, b: Network, x: Array, eps: float = 0.0) -> Array:
    """The largest difference at each input, in floats; -1 where that is not finite.

    Of outputs where they may differ by eps; else before the output map, behind which floats may be
    equal.
    """
    with np.errstate(all="ignore"):
        apart = a(x) - b(x) if eps > 0 else a.logits(x) - b.logits(x)
        gap = np.abs(apart).max(axis=1)
    return np.where(np.isfinite(gap), gap, -1.0)


def seen_through(a: Network, x: Array, change: Array) -> Array:
    """How large a small change of the outputs is after the output map."""
    if a.output_map == "softmax":
        change = change - change.mean(axis=1, keepdims=True)
    else:
        with np.errstate(all="ignore"):
            change = change * Activation.of(a.output_map).derivative(a.logits(x))
    size = np.abs(change).max(axis=1)
    return np.where(np.isfinite(size), size, -1.0)


def _ascend(
    a: Network, b: Network, x: Array, on: Domain, eps: float, rng: np.random.Generator
) -> Array:
    """Ascent on the largest difference, each point with a step of its own: along the gradient
    before the output map, and to neighbours drawn at random, of which the best counts.

    A difference has many kinks: most ascents by gradients alone end at one that is no maximum.
    """
    box = on.of_dimension(a.widths[0]) if isinstance(on, Box) else None
    step, gap = np.full((len(x), 1), 0.25), gaps(a, b, x, eps)
    best = np.arange(len(x))
    shape = (int(np.clip(64 * NEIGHBOURS // x.shape[1], 2, NEIGHBOURS)), *x.shape)
    for turn in range(1, STEPS + 1):
        with np.errstate(all="ignore"):
            apart = a.logits(x) - b.logits(x)
            pick = np.zeros_like(apart)
            at = best, np.abs(np.nan_to_num(apart)).argmax(axis=1)
            pick[at] = np.sign(apart[at])
            slope = np.nan_to_num(gradient(a, x, pick) - gradient(b, x, pick))
        moved = rng.uniform(-1, 1, shape) * (rng.random(shape) < 0.5)
        if box is not None:
            ways = np.concatenate([np.sign(slope)[None], moved]) * (box.high - box.low)
            new = np.clip(x + step * ways, box.low, box.high)
        else:
            size = np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
            ways = np.concatenate([slope[None] / size, moved])
            new = x + step * (1 + np.linalg.norm(x, axis=1, keepdims=True)) * ways
        found = gaps(a, b, new.reshape(-1, x.shape[1]), eps).reshape(len(new), -1)
        way = found.argmax(axis=0)
        better = found[way, best] > gap
        x = np.where(better[:, None], new[way, best], x)
        gap = np.where(better, found[way, best], gap)
        step = np.where(better[:, None], 1.5 * step, 0.7 * step)
        if turn % ROUND == 0:
            half = np.resize(np.argsort(-gap, kind="stable")[: -(-len(x) // 2)], len(x))
            x, gap, step = x[half], gap[half], np.full_like(step, AGAIN)
    return x


def candidates(a: Network, b: Network, on: Domain, budget: int, rng: np.random.Generator) -> Array:
    """Points at several scales, on both sides of the hyperplanes of the first layers, and where
    their units are largest.
    """
    n = a.widths[0]
    if isinstance(on, Box):
        box = on.of_dimension(n)
        mix = rng.random((max(1, budget // 4), n))  # the width of a box may overflow
        spread = (1 - mix) * box.low + mix * box.high
    else:
        spread = rng.standard_normal((max(1, budget // 4), n)) * rng.choice(
            [0.1, 1.0, 10.0, 100.0], (max(1, budget // 4), 1)
        )
    near = []
    for net in (a, b):
        w, c = net.layers[0].weight, net.layers[0].bias
        if len(w) and budget > 1:
            pick, base = (
                rng.integers(0, len(w), budget // 4),
                spread[rng.integers(0, len(spread), budget // 4)],
            )
            norm = np.maximum((w[pick] ** 2).sum(axis=1), 1e-300)
            step = (
                -((w[pick] * base).sum(axis=1) + c[pick])
                / norm
                * rng.choice([0.99, 1.0, 1.01], budget // 4)
            )
            near.append(base + step[:, None] * w[pick])
            pick, side = (
                rng.integers(0, len(w), budget // 8),
                rng.choice([-1.0, 1.0], (budget // 8, 1)),
            )
            # Where a unit is largest or smallest: in a box its corner, elsewhere far along the
            # weights.
            way = side * w[pick]
            near.append(np.where(way > 0, box.high, box.low) if isinstance(on, Box) else way)
    x = np.concatenate([np.zeros((1, n)), spread, *near])
    x = x[np.isfinite(x).all(axis=1)]
    return np.asarray(np.clip(x, box.low, box.high)) if isinstance(on, Box) else x
