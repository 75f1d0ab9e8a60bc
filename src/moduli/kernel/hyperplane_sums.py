"""Where units bend: the parts of a layer that a hyperplane has, and what they say of fewest units.
Part of the kernel.

An activation with s(-z) = s(z) - 2 c z is s(z) = e(z) + c z with e even. So a unit with
pre-activation z = w . h + b and outgoing column v adds v e(z) and a linear part c v z to the next
layer. Units of one hyperplane have proportional (w, b) = t (w_0, b_0), and where s is homogeneous
e(t z) = |t| e(z): together they add (sum |t| v) e(z_0), their *crease*.

Fewest units of one hidden layer, for activations that bend at 0. Let r hyperplanes have a crease
that is not zero (on a box: and meet its interior). The function is not differentiable along each of
them, so every network has a unit on each; if these are all its units, each carries a whole crease
v_j e(w_j . x + b_j), turned one way or the other, and its gradient is c sum_j (+-) v_j w_j. With G
the sum of all linear parts of the network at hand, r units suffice only if

    P(T) = G - c sum_{j not in T} v_j w_j + c sum_{j in T} v_j w_j

is zero for some set T of turned units. On all of R^n, r + 1 suffice only if P(T) is zero or, for
some j and T without j, a matrix v w_j: the one unit more cannot bend elsewhere, so it shares the
hyperplane j.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .bounds.activation_bounds import slope
from .bounds.box_claim import Row
from .errors import CertificateRejected
from .exact_numbers import bounded
from .state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Units = np.ndarray[Any, np.dtype[np.intp]]


class Unit(NamedTuple):
    """A unit of a layer: its row with the bias last, its outgoing column, and its slope c where it
    is linear, s(z) = c z.
    """

    row: Row
    column: Row
    slope: Fraction | None


def linear_coefficient(state: State, l: int) -> Fraction | None:
    """c for the activation of layer l with s(-z) = s(z) - 2 c z, None if it has another law."""
    law = state.activations[l - 1].reflection
    return -law[1] / 2 if law is not None and law[0] == 1 and law[2] == 0 else None


def unit(state: State, l: int, name: int) -> Unit | None:
    """What remains of a unit; None where its numbers are not all rational."""
    before, behind = state.alive[l - 1].tolist(), state.alive[l + 1].tolist()
    row = [*(state.weights[l - 1].get((name, j)) for j in before), state.biases[l - 1].get((name,))]
    column = [state.weights[l].get((i, name)) for i in behind]
    if not all(isinstance(q, Fraction) for q in (*row, *column)):
        return None
    return Unit(tuple(map(_fraction, row)), tuple(map(_fraction, column)), slope(state, l, name))


def _fraction(number: Any) -> Fraction:
    assert isinstance(number, Fraction)
    return number


def hyperplane(row: Row, *, homogeneous: bool) -> tuple[Row, Fraction]:
    """A row that all units of a hyperplane share, and t with row = t times it.

    Raises:
        CertificateRejected: all weights are zero.
    """
    lead = next((q for q in row[:-1] if q), None)
    if lead is None:
        raise CertificateRejected("a unit that bends has no incoming weight that is not zero")
    t = lead if homogeneous else lead / abs(lead)
    return tuple(q / t for q in row), t


def hyperplane_sums(units: Iterable[tuple[Row, Row]], *, homogeneous: bool) -> dict[Row, Row]:
    """The sum of |t| v for each hyperplane of rows and columns, where it is not zero.

    >>> one, two = Fraction(1), Fraction(2)
    >>> found = hyperplane_sums([((one, two), (one,)), ((-two, -2 * two), (one,))], homogeneous=True)
    >>> [(list(map(str, key)), list(map(str, column))) for key, column in found.items()]
    [(['1', '2'], ['3'])]
    """
    found: dict[Row, Row] = {}
    for row, column in units:
        key, t = hyperplane(row, homogeneous=homogeneous)
        parts = tuple(bounded(abs(t) * q) for q in column)
        found[key] = (
            tuple(bounded(p + q) for p, q in zip(found[key], parts, strict=True))
            if key in found
            else parts
        )
    return {key: column for key, column in found.items() if any(column)}
