"""Functions of at most one hidden layer that is piecewise linear, exactly: equal or not on all
inputs. Part of the kernel.

Such a layer has s(z) = slope z + constant + sum of h_i |z - k_i| (`kinks`). So the function is

    f(x) = sum over hyperplanes H of crease_H |w_H . x + b_H| + weight x + bias

with (w_H, b_H) the whole numbers without common divisor of which the first that is not zero is
positive, and no crease zero. These numbers are unique: at a point of H that lies on no other
hyperplane the gradient jumps by 2 crease_H w_H, which no other term does; what is left is affine.
So two functions are equal if and only if all of it is. All arithmetic is of whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .activations import Activation
from .bounds.relaxations import beside
from .exact_numbers import ExactArray
from .state import State

Whole = np.ndarray[Any, np.dtype[np.object_]]
Row = tuple[int, ...]
Column = tuple[Fraction, ...]
WORK = 2 * 10**7  # products of weights that are summed at most


class Kinks(NamedTuple):
    """s(z) = slope z + constant + sum of h |z - k| over (k, h) in `bends`."""

    slope: Fraction
    constant: Fraction
    bends: tuple[tuple[Fraction, Fraction], ...]


def kinks(activation: Activation) -> Kinks | None:
    """Where an activation bends; None where it is not piecewise linear.

    >>> str(kinks(Activation("relu")).bends[0][1]), kinks(Activation("tanh"))
    ('1/2', None)
    """
    half, zero = Fraction(1, 2), Fraction(0)
    if activation.kind == "clip":
        low, high = map(Fraction, activation.parameters)
        return Kinks(zero, half * (low + high), ((low, half), (high, -half)))
    if not activation.piecewise_linear:
        return None
    right, left = map(Fraction, beside(activation))
    jump = half * (right - left)
    return Kinks(half * (right + left), zero, ((zero, jump),) if jump else ())


class Creased(NamedTuple):
    """A function as it stands at the top of this module; equal functions are equal here.

    Attributes:
        creases: by whole numbers (w, b), a number for each output. weight: by output.
    """

    creases: dict[Row, Column]
    weight: tuple[Column, ...]
    bias: Column


def creased(state: State) -> Creased | None:
    """The function of what remains of a network, on all inputs; None where it has more hidden
    layers, other activations, a number that is no rational, or too many weights.
    """
    inputs, *hidden, _ = state.widths
    if hidden and hidden[-1] == 0:  # nothing is added to the last bias
        *_, (_, ends) = state.arrays()
        found = whole(ends)
        if found is None:
            return None
        values = tuple(Fraction(q, found[1]) for q in found[0].tolist())
        return Creased({}, ((Fraction(0),) * inputs,) * len(values), values)
    # What is no such function, or too large, is left before any number is looked at.
    if len(hidden) > 1 or inputs == 0 or math.prod(state.widths) > WORK:
        return None
    law = kinks(state.activations[0]) if hidden else None
    if hidden and law is None:
        return None
    parts = [whole(x) for layer in state.arrays() for x in layer]
    if any(part is None for part in parts):
        return None
    numbers = [part for part in parts if part is not None]
    if law is None:
        (slopes, below), (shifts, other) = numbers
        rows = [tuple(Fraction(q, below) for q in row) for row in slopes.tolist()]
        return Creased({}, tuple(rows), tuple(Fraction(q, other) for q in shifts.tolist()))
    weight, bias, outgoing, last = numbers
    return _hidden(weight, bias, outgoing, last, law)


def _hidden(
    weight: tuple[Whole, int], bias: tuple[Whole, int], outgoing: tuple[Whole, int],
    last: tuple[Whole, int], law: Kinks,
) -> Creased:  # fmt: skip
    rows = [
        [Fraction(q, bias[1]), *row]
        for q, row in zip(bias[0].tolist(), weight[0].tolist(), strict=True)
    ]
    columns = [[Fraction(q, outgoing[1]) for q in column] for column in outgoing[0].T.tolist()]
    constant = [Fraction(q, last[1]) for q in last[0].tolist()]
    found: dict[Row, list[Fraction]] = {}
    for (own, *row), column in zip(rows, columns, strict=True):
        shift = law.slope * own + law.constant
        for place, h in law.bends:
            key, size = _hyperplane(row, weight[1], own - place)
            if key is None:
                shift += h * size
                continue
            sums = found.setdefault(key, [Fraction(0)] * len(column))
            found[key] = [p + h * size * q for p, q in zip(sums, column, strict=True)]
        constant = [p + shift * q for p, q in zip(constant, column, strict=True)]
    product, below = outgoing[0] @ weight[0], outgoing[1] * weight[1]
    linear = [tuple(law.slope * Fraction(q, below) for q in row) for row in product.tolist()]
    creases = {key: tuple(sums) for key, sums in found.items() if any(sums)}
    return Creased(creases, tuple(linear), tuple(constant))


def _hyperplane(row: Sequence[int], below: int, shift: Fraction) -> tuple[Row | None, Fraction]:
    """The key of row / below . x + shift and the positive number that it is multiplied by, up to
    its sign; for a row of zeros None, and |shift|.
    """
    lead = next((q for q in row if q), 0)
    if not lead:
        return None, abs(shift)
    key = [*(q * shift.denominator for q in row), shift.numerator * below]
    divisor = math.gcd(*key)
    signed = divisor if lead > 0 else -divisor
    return tuple(q // signed for q in key), Fraction(divisor, below * shift.denominator)


def whole(x: ExactArray) -> tuple[Whole, int] | None:
    """Numbers as whole ones over a common denominator; None where one is no rational."""
    if x.is_float():
        mantissa, exponent = np.frexp(x.hi)
        shift = exponent - 53
        least = min(int(shift[x.hi != 0].min(initial=0)), 0)
        ints = (mantissa * 2.0**53).astype(np.int64).astype(object)
        powers = np.where(x.hi != 0, shift - least, 0).astype(object)
        return np.asarray(ints * np.power(np.full(x.hi.shape, 2, dtype=object), powers)), 2**-least
    numbers = [x.get(at) for at in np.ndindex(x.hi.shape)]
    if not all(isinstance(q, Fraction) for q in numbers):
        return None
    fractions = [q for q in numbers if isinstance(q, Fraction)]
    below = math.lcm(*{q.denominator for q in fractions})
    found = np.empty(len(fractions), dtype=object)
    found[:] = [q.numerator * (below // q.denominator) for q in fractions]
    return found.reshape(x.hi.shape), below
