"""Functions that act on each entry alike, and their laws. Part of the kernel.

A function of one entry may obey

    linear       f(r x) = r f(x) for all r
    homogeneous  f(r x) = r f(x) for r > 0
    odd          f(-x) = -f(x)
    even         f(-x) = f(x)

and what is not written here is not known: then f(x) = f(y) follows from x = y alone. `at` gives
values at rationals where they are rational and cheap, `between` bounds of the values on an
interval; both may know nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..activations import Activation
from ..arithmetic import LEAST
from ..bounds.relaxations import exponential, relaxation

Array = np.ndarray[Any, np.dtype[np.float64]]
Interval = tuple[Array, Array]


@dataclass(frozen=True)
class Law:
    """Laws of a function of one entry and some numbers, see the module."""

    linear: bool = False
    homogeneous: bool = False
    odd: bool = False
    even: bool = False
    at: Callable[..., Fraction | None] = lambda x, *numbers: None
    between: Callable[..., Interval] | None = None


def _value_at_zero(value: int) -> Callable[..., Fraction | None]:
    return lambda x, *numbers: Fraction(value) if x == 0 else None


def _enclosed(kind: str) -> Callable[..., Interval]:
    """Of an increasing activation that `relaxation` encloses at many points at a time."""

    def between(lo: Array, hi: Array, *numbers: float) -> Interval:
        found = relaxation(Activation(kind), lo, hi)
        return found.least, found.most

    return between


def _bounded(low: float, middle: float, high: float) -> Callable[..., Interval]:
    """Of an increasing function with limits, whose value at 0 is `middle`."""

    def between(lo: Array, hi: Array, *numbers: float) -> Interval:
        return np.where(lo >= 0, middle, low), np.where(hi <= 0, middle, high)

    return between


def _relu(x: Fraction) -> Fraction:
    return max(x, Fraction(0))


def _leaky(x: Fraction, slope: float) -> Fraction:
    return x if x >= 0 else x * Fraction(slope)


def _leaky_between(lo: Array, hi: Array, slope: float) -> Interval:
    if slope == 0:
        return np.maximum(lo, 0.0), np.maximum(hi, 0.0)
    if slope < 0:
        return np.full_like(lo, -np.inf), np.full_like(hi, np.inf)
    down = np.nextafter(lo * slope, -np.inf)
    up = np.nextafter(hi * slope, np.inf)
    return np.where(lo >= 0, lo, down), np.where(hi >= 0, hi, np.minimum(up, 0.0))


def _clip(x: Fraction, low: float, high: float) -> Fraction | None:
    # ONNX and torch agree on min(max(x, low), high)
    least = x if math.isinf(low) else max(x, Fraction(low))
    return least if math.isinf(high) else min(least, Fraction(high))


def _clip_between(lo: Array, hi: Array, low: float, high: float) -> Interval:
    return np.minimum(np.maximum(lo, low), high), np.minimum(np.maximum(hi, low), high)


def _hardsigmoid(x: Fraction, alpha: float, beta: float) -> Fraction:
    return max(Fraction(0), min(Fraction(1), Fraction(alpha) * x + Fraction(beta)))


def _hardsigmoid_between(lo: Array, hi: Array, alpha: float, beta: float) -> Interval:
    if not alpha > 0:
        return np.zeros_like(lo), np.ones_like(hi)
    low = np.nextafter(np.nextafter(alpha * lo, -np.inf) + beta, -np.inf)
    high = np.nextafter(np.nextafter(alpha * hi, np.inf) + beta, np.inf)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _hardswish(x: Fraction) -> Fraction:
    return x * max(Fraction(0), min(Fraction(6), x + 3)) / 6


def _hardswish_between(lo: Array, hi: Array) -> Interval:
    # it falls up to -3/2, where it is -3/8, and rises from there; x (x + 3) / 6 takes three roundings
    lows, highs = [], []
    for x in (lo, hi):
        z = np.clip(x, -3.0, 3.0)
        value = np.where(x > 3.0, x, z * (z + 3.0) / 6.0)
        width = np.where((np.abs(z) == 3.0) | (z == 0), 0.0, 2.0**-50 * np.abs(value) + LEAST)
        lows.append(value - width)
        highs.append(value + width)
    bottom = np.where((lo <= -1.5) & (hi >= -1.5), -0.375, np.minimum(*lows))
    return np.maximum(bottom, -0.375), np.maximum(*highs)


def _abs_between(lo: Array, hi: Array) -> Interval:
    low = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))
    return low, np.maximum(np.abs(lo), np.abs(hi))


def _same(lo: Array, hi: Array, *numbers: float) -> Interval:
    return lo, hi


def _gate_at(x: Fraction, *numbers: float) -> Fraction | None:
    return Fraction(0) if x == 0 else None


def _silu_between(lo: Array, hi: Array) -> Interval:
    # it falls up to the x with x (1 - sigmoid(x)) = -1, between -1.279 and -1.278, where it is x + 1
    (low, top), (bottom, high) = _silu_at(lo), _silu_at(hi)
    least = np.where(lo >= -1.278, low, np.where(hi <= -1.279, bottom, -0.279))
    return np.maximum(least, -0.279), np.maximum(top, high)


def _silu_at(x: Array) -> Interval:
    """Bounds of x sigmoid(x) at points."""
    gate = relaxation(Activation("sigmoid"), x, x)
    with np.errstate(invalid="ignore"):
        near, far = x * gate.least, x * gate.most
    low = np.nextafter(np.minimum(near, far), -np.inf)
    high = np.nextafter(np.maximum(near, far), np.inf)
    # far below zero it is close to zero, from below
    low = np.where(np.isneginf(x), -0.279, low)
    high = np.where(x <= 0, np.where(np.isneginf(x), 0.0, np.minimum(high, 0.0)), high)
    return np.where(x == 0, 0.0, low), high


def _swish_between(lo: Array, hi: Array, *numbers: float) -> Interval:
    # gelu and mish are at least -0.31, 0 at 0, increasing above 0, at most max(0, x); above 0 they are at
    # least x - 0.31: x - gelu(x) = -gelu(-x) in both forms, and x - mish(x) = 2 x / ((1 + e^x)^2 + 1) is at
    # most 2 x / ((2 + x)^2 + 1) < 1/4
    low = np.nextafter(lo - 0.3125, -np.inf)
    return np.maximum(np.where(lo >= 0, 0.0, -0.3125), low), np.maximum(hi, 0.0)


def _softplus_between(lo: Array, hi: Array) -> Interval:
    # increasing, log 2 at 0, between max(0, x) and max(0, x) + log 2
    low = np.maximum(lo, np.where(lo >= 0, 0.6875, 0.0))
    return low, np.nextafter(np.maximum(hi, 0.0) + 0.6932, np.inf)


def _elu_between(lo: Array, hi: Array, *numbers: float) -> Interval:
    # scale x above 0, scale alpha (exp(x) - 1) below, which grows; three roundings and a sum
    alpha, scale = (*numbers, 1.0, -1.0)[:2] if numbers else (1.0, -1.0)
    if not (alpha >= 0 and scale > 0):
        return np.full_like(lo, -np.inf), np.full_like(hi, np.inf)
    found = []
    for x, way, end in ((lo, -1.0, 0), (hi, 1.0, 1)):
        power = np.minimum(exponential(np.minimum(x, 0.0), np.minimum(x, 0.0))[end], 1.0)
        value = np.where(x > 0, scale * x, scale * (alpha * (power - 1.0)))
        wide = np.nextafter(value + way * 2.0**-50 * np.abs(value), way * np.inf)
        found.append(np.where((x == 0) | ((x > 0) & (scale == 1.0)), x, wide))
    return found[0], np.where(hi <= 0, np.minimum(found[1], 0.0), found[1])


def _root_between(lo: Array, hi: Array) -> Interval:
    # no number below zero; roots are rounded to nearest
    low, high = np.sqrt(np.maximum(lo, 0.0)), np.sqrt(np.maximum(hi, 0.0))
    low = np.where(low == 0, 0.0, np.nextafter(low, -np.inf))
    return np.where(lo >= 0, low, -np.inf), np.where(lo >= 0, np.nextafter(high, np.inf), np.inf)


def _integers(low: int, high: int) -> Law:
    """A cast of integers of a type to floats that hold all of them: they are what they are."""
    return Law(
        linear=True,
        odd=True,
        at=lambda x: x,
        between=lambda lo, hi: _clip_between(lo, hi, float(low), float(high)),
    )


def _around_zero(lo: Array, hi: Array) -> Interval:
    return np.full_like(lo, -1.0), np.full_like(hi, 1.0)


LAWS: dict[str, Law] = {
    "identity": Law(linear=True, odd=True, at=lambda x: x, between=_same),
    "neg": Law(linear=True, odd=True, at=lambda x: -x, between=lambda lo, hi: (-hi, -lo)),
    "relu": Law(
        homogeneous=True,
        at=_relu,
        between=lambda lo, hi: (np.maximum(lo, 0.0), np.maximum(hi, 0.0)),
    ),
    "leaky_relu": Law(homogeneous=True, at=_leaky, between=_leaky_between),
    "abs": Law(homogeneous=True, even=True, at=lambda x: abs(x), between=_abs_between),
    "sign": Law(odd=True, at=_value_at_zero(0)),
    "clip": Law(at=_clip, between=_clip_between),
    "hardsigmoid": Law(at=_hardsigmoid, between=_hardsigmoid_between),
    "hardswish": Law(at=_hardswish, between=_hardswish_between),
    "tanh": Law(odd=True, at=_value_at_zero(0), between=_enclosed("tanh")),
    "erf": Law(odd=True, at=_value_at_zero(0), between=_bounded(-1.0, 0.0, 1.0)),
    "softsign": Law(odd=True, at=_value_at_zero(0), between=_bounded(-1.0, 0.0, 1.0)),
    "sin": Law(odd=True, at=_value_at_zero(0), between=_around_zero),
    "tan": Law(odd=True, at=_value_at_zero(0)),
    "asin": Law(odd=True, at=_value_at_zero(0)),
    "atan": Law(odd=True, at=_value_at_zero(0)),
    "sinh": Law(odd=True, at=_value_at_zero(0)),
    "asinh": Law(odd=True, at=_value_at_zero(0)),
    "atanh": Law(odd=True, at=_value_at_zero(0)),
    "cos": Law(even=True, at=_value_at_zero(1)),
    "cosh": Law(even=True, at=_value_at_zero(1)),
    "sigmoid": Law(between=_enclosed("sigmoid")),
    "exp": Law(at=_value_at_zero(1), between=exponential),
    "softplus": Law(between=_softplus_between),
    "sqrt": Law(at=_value_at_zero(0), between=_root_between),
    "elu": Law(at=_value_at_zero(0), between=_elu_between),
    "celu": Law(at=_value_at_zero(0)),
    "selu": Law(at=_value_at_zero(0), between=_elu_between),
    "silu": Law(at=_gate_at, between=_silu_between),
    "gelu": Law(at=_gate_at, between=_swish_between),
    "gelu_tanh": Law(at=_gate_at, between=_swish_between),
    "mish": Law(at=_gate_at, between=_swish_between),
    "round": Law(odd=True, at=_value_at_zero(0)),
    "bool": _integers(0, 1),
    "uint8": _integers(0, 2**8 - 1),
    "int8": _integers(-(2**7), 2**7 - 1),
    "uint16": _integers(0, 2**16 - 1),
    "int16": _integers(-(2**15), 2**15 - 1),
}
UNKNOWN = Law()

# Bounds of |f(x) - f(y)| / |x - y|: the largest slope. Where the second derivative is zero it is
# 1.09984 for silu, 1.12890 for gelu, 1.12900 for its form with tanh, 1.08850 for mish; that of erf is
# 2 / sqrt(pi) < 1.12838, and of hardswish (2 x + 3) / 6 at x = 3. Below zero elu has alpha exp(x),
# celu exp(x / alpha), selu scale * alpha * exp(x).
_NOT_STEEPER_THAN_ONE = (
    "identity", "neg", "relu", "abs", "clip", "tanh", "softsign", "softplus", "sin", "cos", "atan",
    "asinh", "bool", "uint8", "int8", "uint16", "int16",
)  # fmt: skip
SLOPES: dict[str, Callable[..., float]] = {
    **dict.fromkeys(_NOT_STEEPER_THAN_ONE, lambda *x: 1.0),
    "erf": lambda: 1.1284,
    "sigmoid": lambda: 0.25,
    "silu": lambda: 1.1,
    "gelu": lambda: 1.13,
    "gelu_tanh": lambda: 1.13,
    "mish": lambda: 1.09,
    "hardswish": lambda: 1.5,
    "hardsigmoid": lambda alpha, beta: abs(alpha),
    "leaky_relu": lambda slope: max(1.0, abs(slope)),
    "elu": lambda alpha: max(1.0, abs(alpha)),
    "celu": lambda alpha: 1.0 if alpha > 0 else math.inf,
    "selu": lambda alpha, scale: float(np.nextafter(abs(scale) * max(1.0, abs(alpha)), np.inf)),
}


def slope(kind: str, numbers: Sequence[float] = ()) -> float:
    """A Lipschitz constant of a function by its name and its numbers; infinite where none is known."""
    if kind not in SLOPES or law(kind, numbers) is UNKNOWN:
        return math.inf
    return SLOPES[kind](*numbers)


def law(kind: str, numbers: Sequence[float] = ()) -> Law:
    """Of a function by its name and its numbers; of one that is not in the table nothing is known,
    nor of one with numbers that are none. A clip has no end where it is infinite.
    """
    if kind == "clip" and len(numbers) == 2:
        low, high = numbers
        return UNKNOWN if not (low < math.inf and high > -math.inf) else LAWS[kind]
    return LAWS.get(kind, UNKNOWN) if all(map(math.isfinite, numbers)) else UNKNOWN
