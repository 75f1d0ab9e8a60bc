"""Runtimes as they may be: sums in any order, fused or not, flushed or not, one operation at a time in
rational arithmetic. An oracle for bounds of rounding; small networks only.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from forgeries import applied

FORMATS = {
    "float64": (53, -1022),
    "float32": (24, -126),
    "float16": (11, -14),
    "bfloat16": (8, -126),
}


class Machine:
    """One way to compute, drawn at random and kept.

    Args:
        dtype: of the numbers. ulps: activations are off by up to so many units, towards one side or
            the other.
    """

    def __init__(self, dtype: str, rng: np.random.Generator, ulps: float = 4.0) -> None:
        self.digits, self.lowest = FORMATS[dtype]
        self.rng, self.ulps = rng, ulps
        self.fused, self.flush_in, self.flush_out = (bool(x) for x in rng.integers(0, 2, 3))
        self.order = ("given", "reversed", "sorted", "tree", "random")[int(rng.integers(5))]
        self.side = Fraction(int(rng.integers(-8, 9)), 8)

    def nearest(self, x: Fraction) -> Fraction:
        """To even, with gradual underflow; flushed where that is drawn."""
        if x == 0:
            return x
        exponent = math.floor(math.log2(abs(x.numerator)) - math.log2(x.denominator))
        while Fraction(2) ** exponent > abs(x):
            exponent -= 1
        while Fraction(2) ** (exponent + 1) <= abs(x):
            exponent += 1
        step = Fraction(2) ** (max(exponent, self.lowest) - self.digits + 1)
        found = round(x / step) * step
        return Fraction(0) if self.flush_out and self.small(found) else found

    def small(self, x: Fraction) -> bool:
        return abs(x) < Fraction(2) ** self.lowest

    def read(self, x: Fraction) -> Fraction:
        return Fraction(0) if self.flush_in and self.small(x) else x

    def add(self, x: Fraction, y: Fraction) -> Fraction:
        return self.nearest(self.read(x) + self.read(y))

    def dot(self, weights: Any, values: list[Fraction], bias: Fraction) -> Fraction:
        pairs = [(self.read(w), self.read(v)) for w, v in zip(weights, values, strict=True)]
        if self.fused:
            total = bias
            for w, v in self._ordered(pairs, key=lambda pair: abs(pair[0] * pair[1])):
                total = self.nearest(w * v + self.read(total))
            return total
        terms = [self.nearest(w * v) for w, v in pairs]
        terms.insert(int(self.rng.integers(len(terms) + 1)), bias)
        terms = self._ordered(terms, key=abs)
        while len(terms) > 1:
            if self.order == "tree":
                ends = zip(terms[::2], [*terms[1::2], Fraction(0)], strict=False)
                terms = [self.add(x, y) for x, y in ends]
            else:
                terms = [self.add(terms[0], terms[1]), *terms[2:]]
        return terms[0]

    def _ordered(self, terms: list[Any], key: Any) -> list[Any]:
        if self.order == "reversed":
            return terms[::-1]
        if self.order == "sorted":
            return sorted(terms, key=key)
        if self.order == "random":
            return [terms[i] for i in self.rng.permutation(len(terms))]
        return terms

    def activated(self, value: Fraction, exact: bool) -> Fraction:
        """An activation whose true value is `value`."""
        if exact:
            return self.nearest(value)
        unit = Fraction(2) ** (1 - self.digits) * max(Fraction(1), abs(value))
        # half a unit is left for the last rounding
        return self.nearest(value + self.side * (Fraction(self.ulps) - Fraction(1, 2)) * unit)


def real(activation: Any, z: Fraction) -> Fraction:
    """An activation at a rational, to more digits than matter."""
    if activation.kind == "clip":
        low, high = map(Fraction, activation.parameters)
        return min(max(z, low), high)
    with mpmath.workdps(60):
        found = applied(activation, z)
    if isinstance(found, Fraction):
        return found
    return Fraction(*map(int, mpmath.libmp.to_rational(found._mpf_)))


def computed(net: Any, machine: Machine, x: list[Fraction]) -> list[Fraction]:
    """Outputs of a network as the machine computes them; its parameters are rounded first."""
    h = x
    for l, layer in enumerate(net.layers):
        rows = [[machine.nearest(Fraction(float(w))) for w in row] for row in layer.weight]
        bias = [machine.nearest(Fraction(float(b))) for b in layer.bias]
        z = [machine.dot(row, h, b) for row, b in zip(rows, bias, strict=True)]
        if l == len(net.layers) - 1:
            return z
        kind = layer.activation.kind
        if kind in ("leaky_relu",):
            slope = machine.nearest(Fraction(layer.activation.slope))
            h = [v if v >= 0 else machine.nearest(machine.read(slope) * machine.read(v)) for v in z]
        elif kind == "clip":
            low, high = (machine.nearest(Fraction(e)) for e in layer.activation.parameters)
            h = [min(max(v, low), high) for v in z]
        else:
            exact = layer.activation.piecewise_linear
            h = [machine.activated(real(layer.activation, v), exact) for v in z]
    raise AssertionError("no layers")


def function(net: Any, x: list[Fraction]) -> list[Fraction]:
    """Outputs over the reals."""
    h = x
    for l, layer in enumerate(net.layers):
        z = [
            sum((Fraction(float(w)) * v for w, v in zip(row, h, strict=True)), Fraction(float(b)))
            for row, b in zip(layer.weight, layer.bias, strict=True)
        ]
        h = z if l == len(net.layers) - 1 else [real(layer.activation, v) for v in z]
    return h
