"""A network's parameters, and its outputs at a rational point, in rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel.exact_numbers import ExactArray, Interval, enclose_value
from moduli.kernel.network import Network

Array = np.ndarray[Any, np.dtype[np.float64]]


def exact_arrays(net: Network) -> list[tuple[ExactArray, ExactArray]]:
    """Weights and biases, layer by layer."""
    return [(ExactArray(layer.weight), ExactArray(layer.bias)) for layer in net.layers]


def evaluate(net: Network, x: Sequence[Fraction]) -> list[Interval]:
    """Enclosures of the outputs (before the output map) at a rational input; points where every
    value is rational.

    Args:
        x: ``[in]`` rationals.
    """
    h: list[Interval] = [(q, q) for q in x]
    for layer in net.layers:
        z = _affine(layer.weight, layer.bias, h)
        h = (
            z
            if layer.activation.kind == "identity"
            else [_coarse(enclose_value(layer.activation, t)) for t in z]
        )
    return h


def _affine(weight: Array, bias: Array, h: Sequence[Interval]) -> list[Interval]:
    """weight @ h + bias, exactly: sums of integers over one denominator."""
    below = math.lcm(*(end.denominator for ends in h for end in ends))
    sides = [[ends[k].numerator * (below // ends[k].denominator) for ends in h] for k in (0, 1)]
    low, high = (np.array(side, dtype=object) for side in sides)
    whole, exponent = integers(weight)
    scale = Fraction(2) ** exponent / below
    if all(p == q for p, q in h):
        ends = [whole @ low] * 2
    else:
        plus, minus = np.maximum(whole, 0), np.minimum(whole, 0)
        ends = [plus @ low + minus @ high, plus @ high + minus @ low]
    return [
        (int(p) * scale + Fraction(b), int(q) * scale + Fraction(b))
        for p, q, b in zip(*ends, bias.tolist(), strict=True)
    ]


def integers(a: Array) -> tuple[Any, int]:
    """Integers n (as objects) and an exponent e with a = n 2^e."""
    mantissa, exponent = np.frexp(a)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    exponent = np.where(whole != 0, exponent - 53, 0)
    least = int(exponent[whole != 0].min()) if whole.any() else 0
    return whole.astype(object) << np.where(whole != 0, exponent - least, 0).astype(object), least


def _coarse(interval: Interval) -> Interval:
    """Outward onto a grid of 2^-160, where the interval is no point, so that denominators stay
    short.
    """
    low, high = interval
    if low == high:
        return interval
    return Fraction(math.floor(low * 2**160), 2**160), Fraction(math.ceil(high * 2**160), 2**160)
