"""Moves that put other units in the place of some, or none. Part of the kernel.

A unit with pre-activation z = w . h + b, h the activations of the layer before, and outgoing column
v adds v s(z) to the next layer. Where the sign of z is known, by a `box_claim` on its box or for all inputs
by what the layer before can be (`activation_bounds`), s(z) = c z is linear there, with slope c (relu:
1 or 0). Otherwise, for an activation with s(-z) = s(z) - 2 c
z, s(z) = e(z) + c z with e even, see `hyperplane_sums`.

| move | precondition | effect |
|---|---|---|
| inactive | the units have slope 0 | they go: s(z) = 0 |
| block | units S; see below | other units in their place |
| skip | all remaining units S of a hidden layer; their creases are zero | V, c behind W, b become V C W, V C b + c; no layer |

Block. The units S, with incoming rows W_S, biases b_S, C = diag(c) and outgoing columns V_S, add M
h + V_S C b_S and their creases to the next layer, M = V_S C W_S. The move names units K of S, for
each either "as it is" or a new row and bias, and new outgoing columns U. With rows R, biases d and
E = diag(c) of the units K, M = U E R and the equality of all creases must hold exactly; the
difference of constants, V_S C b_S - U E d, goes to the next biases. A new unit is linear (with sign
1) if d >= -min R h, by what h can be (`activation_bounds`), in rationals, and bends otherwise.

Why signs that a region claims stay valid. Every move keeps each pre-activation of each
remaining unit, as a function on the box: those of layers before are not touched, and the next layer receives the
same sum, which is what moves check. By induction on the moves the pre-activation of a unit that was
not replaced is that of the same unit in the original network, so what was proved of it holds. A
unit that a block replaces has a new pre-activation; its sign 1 is what the move proves, and
otherwise none is known. A `scale` is refused beside a region. On all inputs signs are found anew after
each move. After a skip layers behind it count
one less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .bounds.activation_bounds import extent, preactivation_bounds, slope
from .bounds.box_claim import Row
from .errors import CertificateRejected
from .exact_numbers import Entry, ExactArray, Index, Number, Work, ceiling, matmul
from .hyperplane_sums import hyperplane_sums, linear_coefficient, unit
from .move import Move
from .state import State

Units = np.ndarray[Any, np.dtype[np.intp]]


class Part(NamedTuple):
    """A unit of a block: its new row (None: as it is), c, and whether it bends."""

    row: Row | None
    slope: Fraction
    bends: bool


class Claim(NamedTuple):
    """The sign and the bounds of a new pre-activation on the box."""

    unit: int
    least: float
    most: float
    sign: int


def inactive(state: State, move: Move) -> None:
    """Units that are zero go."""
    # slope 0: s(z) = 0 z on the domain, and the unit adds nothing there
    for name in move.units.tolist():
        if (c := slope(state, move.layer, name)) != 0:
            found = "is not known to be linear" if c is None else f"has slope {c}"
            where = "for all inputs" if state.region is None else "on the box"
            raise CertificateRejected(f"{move}: unit {name} {found} {where}")
    state.remove(move.layer, move.units)


def linear_contribution(
    state: State, l: int, units: Units, slopes: Sequence[Fraction]
) -> tuple[ExactArray, ExactArray]:
    """V C and V C W of units of layer l, at the remaining rows of the next layer and columns of the
    one before.
    """
    outgoing = state.weights[l].take(state.alive[l + 1], units)
    every = np.arange(len(state.alive[l + 1]))
    for k, c in enumerate(slopes):
        outgoing.scale(every, np.array([k]), c)
    return outgoing, matmul(outgoing, state.weights[l - 1].take(units, state.alive[l - 1]))


def _constants(
    state: State, l: int, outgoing: ExactArray, units: Units
) -> dict[int, list[tuple[Fraction, Number]]]:
    """The terms of V C b of units of layer l, by row of the next layer."""
    found = {}
    for i, row in enumerate(state.alive[l + 1].tolist()):
        terms = [
            (outgoing.get((i, k)), state.biases[l - 1].get((u,)))
            for k, u in enumerate(units.tolist())
        ]
        found[row] = [(q, b) for q, b in terms if isinstance(q, Fraction) and q != 0]
    return found


def skip(state: State, move: Move) -> None:
    """A layer that is linear goes."""
    l = move.layer
    if not np.array_equal(move.units, state.alive[l]):
        raise CertificateRejected(
            f"{move}: names {len(move.units)} units; the layer has {len(state.alive[l])}, in their order"
        )
    # each unit is c z plus an even part, and creases that are zero leave V C (W h + b): an affine
    # map of h
    parts = [_part(state, move, name, None) for name in move.units.tolist()]
    _require_creases(state, move, parts, [])
    outgoing, product = linear_contribution(state, l, move.units, [p.slope for p in parts])
    biases = state.shifted(l + 1, _constants(state, l, outgoing, move.units).items())
    # nothing is refused from here on
    if state.region is not None:
        preactivation_bounds(state, l)  # of all layers, before one goes
        del state.preactivation_bounds[l - 1], state.signs[l - 1]
    state.biases[l].set(biases)
    shape = state.weights[l].hi.shape[0], state.slots(l - 1)
    state.weights[l] = _spread(
        product, shape, state.alive[l + 1], state.alive[l - 1], state.weights[l].work
    )
    for part in (state.weights, state.biases, state.activations):
        del part[l - 1]
    del state.alive[l]


def _spread(
    small: ExactArray, shape: tuple[int, int], rows: Units, cols: Units, work: Work | None
) -> ExactArray:
    """The array with zeros where units are gone."""
    grid = np.ix_(rows, cols)
    hi, lo = np.zeros(shape), np.zeros(shape)
    hi[grid] = small.hi
    if small.lo is not None:
        lo[grid] = small.lo
    rest: dict[Index, Number] = {
        (int(rows[i]), int(cols[j])): number for (i, j), number in small.rest.items()
    }
    return ExactArray(hi, lo if lo.any() else None, rest, work)


def block(state: State, move: Move) -> None:
    """Other units in the place of some."""
    l, into, cols, rows = (
        move.layer, move.into, state.alive[move.layer - 1], state.alive[move.layer + 1],
    )  # fmt: skip
    if (
        into is None
        or len(set(into.tolist())) < len(into)
        or not set(into.tolist()) <= set(move.units.tolist())
    ):
        raise CertificateRejected(
            f"{move}: the units that stay must be different ones of the block"
        )
    if len(move.rows) != len(into) or len(move.outgoing) != len(into):
        raise CertificateRejected(
            f"{move}: {len(into)} units stay, with {len(move.rows)} rows, {len(move.outgoing)} columns"
        )
    if any(len(r) != len(cols) + 1 for r in move.rows if r is not None) or any(
        len(c) != len(rows) for c in move.outgoing
    ):
        raise CertificateRejected(
            f"{move}: rows need {len(cols)} weights and a bias, columns {len(rows)} weights"
        )
    # both sides are a linear map of h, a constant and creases: the first and the last are compared,
    # the constants made equal
    old = [_part(state, move, name, None) for name in move.units.tolist()]
    new = [
        _part(state, move, name, row) for name, row in zip(into.tolist(), move.rows, strict=True)
    ]
    outgoing, before = linear_contribution(state, l, move.units, [p.slope for p in old])
    if not before.equals(_product(state, move, new)):
        raise CertificateRejected(
            f"{move}: the new units do not have the product of weights of the old ones"
        )
    _require_creases(state, move, old, new)
    _replace(state, move, new, _constants(state, l, outgoing, move.units))


def _part(state: State, move: Move, name: int, row: Row | None) -> Part:
    activation, c = state.activations[move.layer - 1], slope(state, move.layer, name)
    if row is not None:
        # the least of row . h + bias is not negative: there s(z) = s(1) z, two slopes meeting at 0
        least = extent(state, move.layer, row[:-1])[0] if activation.piecewise_linear else None
        c = activation.exact(Fraction(1)) if least is not None and least + row[-1] >= 0 else None
    if c is not None:
        return Part(row, c, False)
    c = linear_coefficient(state, move.layer)
    if c is None:
        raise CertificateRejected(
            f"{move}: unit {name} is not known to be linear, and {activation} is not even but for a line"
        )
    return Part(row, c, True)


def _product(state: State, move: Move, new: Sequence[Part]) -> ExactArray:
    """U E R."""
    l, cols, rows = move.layer, state.alive[move.layer - 1], state.alive[move.layer + 1]
    assert move.into is not None
    incoming = state.weights[l - 1].take(move.into, cols)
    outgoing = ExactArray(np.zeros((len(rows), len(move.into))))
    for k, (part, column) in enumerate(zip(new, move.outgoing, strict=True)):
        for j, q in enumerate(part.row[:-1] if part.row is not None else ()):
            incoming.put((k, j), q)
        for i, q in enumerate(column):
            outgoing.put((i, k), q * part.slope)
    return matmul(outgoing, incoming)


def _require_creases(state: State, move: Move, old: Sequence[Part], new: Sequence[Part]) -> None:
    """The units of each hyperplane must have the same sum before and after."""
    l = move.layer
    before, after, rows = list[tuple[Row, Row]](), list[tuple[Row, Row]](), dict[int, Row]()
    for name, part in zip(move.units.tolist(), old, strict=True):
        if part.bends:
            found = unit(state, l, name)
            if found is None:
                raise CertificateRejected(
                    f"{move}: unit {name} bends, and its parameters are not all rational"
                )
            rows[name] = found.row
            before.append((found.row, found.column))
    # a unit that stays as it is was one of the old ones, and bends if it did: its row is known
    into = [] if move.into is None else move.into.tolist()
    for name, part, column in zip(into, new, move.outgoing, strict=True):
        if part.bends:
            row = rows[name] if part.row is None else part.row
            after.append((row, column))
    homogeneous = state.activations[l - 1].homogeneous
    if hyperplane_sums(before, homogeneous=homogeneous) != hyperplane_sums(
        after, homogeneous=homogeneous
    ):
        raise CertificateRejected(
            f"{move}: {'the new units do not bend as the old ones' if into else 'the layer bends'}"
        )


def _replace(
    state: State, move: Move, new: Sequence[Part], constants: dict[int, list[tuple[Fraction, Number]]],
) -> None:  # fmt: skip
    """Write new rows and columns, and add V C b - U E d to the next biases; all is made ready
    before any of it is written.
    """
    l, cols, rows = (
        move.layer,
        state.alive[move.layer - 1].tolist(),
        state.alive[move.layer + 1].tolist(),
    )
    assert move.into is not None
    incoming, own, behind, bounds = list[Entry](), list[Entry](), list[Entry](), list[Claim]()
    for name, part, column in zip(move.into.tolist(), new, move.outgoing, strict=True):
        bias = state.biases[l - 1].get((name,))
        if part.row is not None:
            bias = part.row[-1]
            if state.region is not None:
                bounds.append(_bound(state, l, name, part.row, bends=part.bends))
            incoming += [
                state.weights[l - 1].entry((name, j), q)
                for j, q in zip(cols, part.row[:-1], strict=True)
            ]
            own.append(state.biases[l - 1].entry((name,), bias))
        for i, q in zip(rows, column, strict=True):
            behind.append(state.weights[l].entry((i, name), q))
            if q:
                constants[i].append((-q * part.slope, bias))
    shifted = state.shifted(l + 1, constants.items())
    # nothing is refused from here on
    state.remove(l, move.units, keep=move.into)
    for array, entries in (
        (state.weights[l - 1], incoming),
        (state.biases[l - 1], own),
        (state.weights[l], behind),
    ):
        array.set(entries)
    state.biases[l].set(shifted)
    for claim in bounds:
        lo, hi = preactivation_bounds(state, l)
        lo[claim.unit], hi[claim.unit], state.signs[l - 1][claim.unit] = (
            claim.least,
            claim.most,
            claim.sign,
        )


def _bound(state: State, l: int, name: int, row: Row, *, bends: bool) -> Claim:
    """The sign and the bounds of a new pre-activation; that of a turned unit has those of the old
    one, turned.
    """
    (lowest, highest), (lo, hi) = extent(state, l, row[:-1]), preactivation_bounds(state, l)
    least = -math.inf if lowest is None else -ceiling(-lowest - row[-1])
    most = math.inf if highest is None else ceiling(highest + row[-1])
    old = unit(state, l, name)
    if old is not None and old.row == tuple(-q for q in row):
        least, most = max(least, -hi[name]), min(most, -lo[name])
    return Claim(name, least if bends else max(least, 0.0), most, 0 if bends else 1)
