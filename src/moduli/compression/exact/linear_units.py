"""Units whose sign is known, in each layer: those that are off go; the linear ones, which matter
through M = V C W only, become as few as the rank of M (the published rule takes the rank of W
[Serra et al. 2020]); a layer of linear units goes where that costs no parameters. What is proposed
here, `substitution` checks.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.bounds.activation_bounds import signs, slope
from moduli.kernel.bounds.box_claim import Row
from moduli.kernel.exact_numbers import ExactArray, nearest
from moduli.kernel.move import Move, Units
from moduli.kernel.rules import apply
from moduli.kernel.state import State
from moduli.kernel.substitution import linear_contribution

from .hyperplane_merging import (
    LONGEST,
    activating_bias,
    eliminate,
    products_stay_finite,
    skippable,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Matrix = list[list[Fraction]]
MARGIN = 1e-9  # of the largest singular value: what floats may get wrong stays far below
ENTRIES = 2**22  # of products that are made
WORK = 60_000  # steps of an elimination in rationals


def _known(state: State, l: int) -> bool:
    """Whether any unit of a layer may be linear."""
    return state.region is not None or bool(signs(state, l).any())


def _layers(find: Callable[[State, int], Move | None]) -> Callable[[State], list[Move]]:
    """A rule for all hidden layers from one that proposes a move for one."""

    def rule(state: State) -> list[Move]:
        moves, l = list[Move](), 1
        while l < len(state.alive) - 1:
            move = find(state, l) if _known(state, l) else None
            if move is not None:
                apply(state, move)
                moves.append(move)
            if move is None or move.kind != "skip":  # after a skip the next layer has this number
                l += 1
        return moves

    return rule


@_layers
def inactive(state: State, l: int) -> Move | None:
    """Units that are off."""
    units = [u for u in state.alive[l].tolist() if slope(state, l, u) == 0]
    return Move("inactive", l, np.array(units, dtype=np.intp)) if units else None


@_layers
def skip(state: State, l: int) -> Move | None:
    """A layer of linear units, where the network gets no more parameters."""
    linear = 0 < len(_linear(state, l)) == len(state.alive[l])
    return Move("skip", l, state.alive[l]) if linear and skippable(state, l) else None


def _linear(state: State, l: int) -> Units:
    """The remaining units of a layer that are linear."""
    return np.array(
        [u for u in state.alive[l].tolist() if slope(state, l, u) is not None], dtype=np.intp
    )


# Blocks of linear units -----------------------------------------------------------------------------------------


class Factors(NamedTuple):
    """M = U E R: units that stay as they are, or new rows; outgoing columns."""

    kept: Units | None
    rows: Matrix
    outgoing: Matrix


@_layers
def dependent(state: State, l: int) -> Move | None:
    """Fewer units in the place of the linear ones of a layer."""
    units = _linear(state, l)
    size = len(state.alive[l - 1]) * len(state.alive[l + 1]) * len(units)
    if len(units) < 2 or size > ENTRIES * 4 or not products_stay_finite(state, l, units):
        return None
    known = [slope(state, l, u) for u in units.tolist()]
    slopes = [c for c in known if c is not None]  # all are: `_linear` chose these units for it
    if _independent(state, l, units, slopes):
        return None
    outgoing, product = linear_contribution(state, l, units, slopes)
    for factors in _factorings(state, l, units, slopes, outgoing, product):
        if factors is None or len(factors.outgoing) >= len(units):
            continue
        move = _move(state, l, units, factors)
        if move is not None:
            return move
    return None


def _independent(state: State, l: int, units: Units, slopes: list[Fraction]) -> bool:
    """Whether M clearly has as many independent rows as there are units, so that none can go:
    floats say so by a margin.

    The exact product takes a rational for every number of it, which is most of the work where
    nothing is to be had.
    """
    with np.errstate(all="ignore"):
        steep = np.array(slopes, dtype=float)
        outgoing = state.weights[l].take(state.alive[l + 1], units).hi * steep
        product = outgoing @ state.weights[l - 1].take(units, state.alive[l - 1]).hi
    size = np.abs(product).max(axis=1, initial=0.0)
    some = (size > 0) & np.isfinite(size)
    if np.count_nonzero(some) < len(units):
        return False
    values = np.linalg.svd(product[some] / size[some, None], compute_uv=False)
    return int((values > MARGIN * values[0]).sum()) >= len(units)


def _factorings(
    state: State,
    l: int,
    units: Units,
    slopes: list[Fraction],
    outgoing: ExactArray,
    product: ExactArray,
) -> list[Factors | None]:
    """Ways to write M, those of fewest units first; of as many, original rows where their numbers
    stay short, then sums.
    """
    rows, cols = (np.flatnonzero(product.nonzero().any(axis=axis)) for axis in (1, 0))
    incoming = state.weights[l - 1].take(units, state.alive[l - 1])
    kept = _kept(units, slopes, outgoing, incoming)
    short = kept is not None and all(nearest(q) == q for column in kept.outgoing for q in column)
    some = [kept] if short else []
    some += [_sums(product, rows)] if len(rows) < len(units) else []
    some += [_features(product, cols)] if len(cols) < len(units) else []
    some += [] if short else [kept]
    if _rank(product.hi) < min(len(rows), len(cols)):
        some.append(_eliminated(product, rows, cols))
    return sorted(some, key=lambda f: len(f.outgoing) if f is not None else len(units))


def _rank(a: Array) -> int:
    """The rank that floats suggest."""
    size = np.abs(a).max(axis=1, initial=0.0)
    return int(np.linalg.matrix_rank(a[size > 0] / size[size > 0, None])) if (size > 0).any() else 0


def _sums(product: ExactArray, rows: Units) -> Factors:
    """One unit for every row of the next layer that sees the block: R is M without its zero rows."""
    new = [_row(product, i) for i in rows.tolist()]
    return Factors(None, new, [_unit_vector(product.hi.shape[0], k) for k in rows.tolist()])


def _features(product: ExactArray, cols: Units) -> Factors:
    """One unit for every feature that the block sees: R is the identity, U is M."""
    new = [_unit_vector(product.hi.shape[1], k) for k in cols.tolist()]
    return Factors(None, new, [_column(product, k) for k in cols.tolist()])


def _kept(
    units: Units, slopes: list[Fraction], outgoing: ExactArray, incoming: ExactArray
) -> Factors | None:
    """Units of the block whose rows span all its rows."""
    n, m = incoming.hi.shape
    rank = _rank(incoming.hi)
    if rank >= n or n * m * rank > WORK:
        return None
    pivots, by = eliminate([_row(incoming, u) for u in range(n)])
    columns = [_column(outgoing, u) for u in range(n)]
    new = []
    for k, pivot in enumerate(pivots):
        # Row u is the sum over k of by[u][k] times pivot row k: what reads u reads that.
        total = [Fraction(0)] * outgoing.hi.shape[0]
        for u in range(n):
            if by[u][k]:
                total = [t + by[u][k] * v for t, v in zip(total, columns[u], strict=True)]
        new.append([t / slopes[pivot] for t in total])
    return Factors(units[pivots], [[]] * len(pivots), new)


def _eliminated(product: ExactArray, rows: Units, cols: Units) -> Factors | None:
    """Rows of M that span the others."""
    if len(rows) * len(cols) * _rank(product.hi) > WORK:
        return None
    new = [_row(product, i) for i in range(product.hi.shape[0])]
    pivots, by = eliminate(new)
    # M = by R, so what each new unit sends is a column of `by`
    outgoing = [list(column) for column in zip(*by, strict=True)]
    return Factors(None, [new[p] for p in pivots], outgoing)


def _row(array: ExactArray, i: int) -> list[Fraction]:
    return [_entry(array, i, j) for j in range(array.hi.shape[1])]


def _column(array: ExactArray, j: int) -> list[Fraction]:
    return [_entry(array, i, j) for i in range(array.hi.shape[0])]


def _unit_vector(size: int, k: int) -> list[Fraction]:
    return [Fraction(int(j == k)) for j in range(size)]


def _entry(array: ExactArray, i: int, j: int) -> Fraction:
    number = array.get((i, j))
    assert isinstance(number, Fraction)
    return number


def _move(state: State, l: int, units: Units, factors: Factors) -> Move | None:
    """The move, with biases that keep new units active; None where numbers are too long or features
    have no bounds.
    """
    kept, count = factors.kept, len(factors.outgoing)
    rows = list[Row | None]()
    for row in factors.rows:
        if kept is not None:  # units that stay keep their rows
            rows.append(None)
            continue
        bias = activating_bias(state, l, tuple(row))
        if bias is None:
            return None
        rows.append((*row, bias))
    numbers = [q for row in (*rows, *factors.outgoing) if row is not None for q in row]
    if any(max(abs(q.numerator), q.denominator) > LONGEST for q in numbers):
        return None
    into = units[:count] if kept is None else kept
    return Move(
        "block", l, units, into, rows=tuple(rows), outgoing=tuple(map(tuple, factors.outgoing))
    )
