"""What each kind of move demands of a network in exact numbers, and what it does. Part of the kernel.

What the moves are stands in `certificate`, the table of rules at the end here; `substitution` has those that put other units in the place of some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from . import substitution
from .bounds.box_claim import Region
from .errors import CertificateRejected
from .exact_numbers import ExactArray, linear, total, value
from .move import Move
from .network import Network
from .radius.cover_bound import Near
from .state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
BLOCK = 2**16  # entries of rows that are compared at a time


def apply(state: State, move: Move) -> None:
    """Check the precondition of a move and carry it out; a rejected merge, drop or constant changes nothing.

    Raises:
        CertificateRejected: naming the move and what fails.
    """
    if not 1 <= move.layer < len(state.alive) - 1:
        raise CertificateRejected(f"{move}: the network has hidden layers 1 to {len(state.alive) - 2}")
    _require_units(state, move, move.units)
    if np.bincount(move.units, minlength=1).max() > 1:
        raise CertificateRejected(f"{move}: a unit is named twice")
    if move.kind not in RULES:
        raise CertificateRejected(f"{move}: there is no such move; known: {', '.join(RULES)}")
    try:
        RULES[move.kind](state, move)
    except CertificateRejected as error:
        text = str(error)
        raise error if text.startswith(str(move)) else CertificateRejected(f"{move}: {text}") from None


def _present(state: State, l: int) -> Mask:
    """Of the units that layer l had at first, those that remain."""
    present = np.zeros(state.slots(l), dtype=bool)
    present[state.alive[l]] = True
    return present


def _require_units(state: State, move: Move, units: Units) -> None:
    present = _present(state, move.layer)
    if len(units) and (units.min() < 0 or units.max() >= len(present) or not present[units].all()):
        wrong = next(u for u in units.tolist() if not 0 <= u < len(present) or not present[u])
        raise CertificateRejected(f"{move}: unit {wrong} is not there (any more)")


def _remove(state: State, move: Move) -> None:
    present = _present(state, move.layer)
    present[move.units] = False
    state.alive[move.layer] = state.alive[move.layer][present[state.alive[move.layer]]]


def _constant(state: State, move: Move) -> None:
    l = move.layer
    if state.weights[l - 1].take(move.units, state.alive[l - 1]).nonzero().any():
        raise CertificateRejected(f"{move}: an incoming weight is not zero")
    values = [value(state.activations[l - 1], state.biases[l - 1].get((u,))) for u in move.units.tolist()]
    moving = [(u, v) for u, v in zip(move.units.tolist(), values, strict=True) if v != 0]
    for row in state.alive[l + 1].tolist() if moving else ():
        state.shift(l + 1, row, ((state.weight(l + 1, row, u), v) for u, v in moving))
    _remove(state, move)


def _drop(state: State, move: Move) -> None:
    if state.weights[move.layer].take(state.alive[move.layer + 1], move.units).nonzero().any():
        raise CertificateRejected(f"{move}: an outgoing weight is not zero")
    _remove(state, move)


def _merge(state: State, move: Move) -> None:
    l, into = move.layer, move.into
    if into is None or len(into) != len(move.units):
        raise CertificateRejected(f"{move}: {len(move.units)} units, but not as many to merge into")
    _require_units(state, move, into)
    if np.isin(into, move.units).any():
        raise CertificateRejected(f"{move}: merges into a unit that it removes")
    law = _law(state, move, move.ratio)
    width = max(1, BLOCK // max(1, len(state.alive[l - 1])))
    for start in range(0, len(into), width):
        block = slice(start, start + width)
        if not _multiple(state, l, move.units[block], into[block], move.ratio):
            raise CertificateRejected(f"{move}: a row is not {move.ratio} times the row that it merges into")
    _linear_part(state, move, law[1], into)
    _offset(state, move, law[2])
    state.weights[l].add_columns(into, move.units, law[0], state.alive[l + 1])
    _remove(state, move)


def _scale(state: State, move: Move) -> None:
    l, cols, rows = move.layer, state.alive[move.layer - 1], state.alive[move.layer + 1]
    if state.region is not None:
        raise CertificateRejected(f"{move}: not beside signs on a box, which it may change")
    law = _law(state, move, 1 / move.ratio)
    state.weights[l - 1].scale(move.units, cols, move.ratio)
    state.biases[l - 1].scale(move.units, None, move.ratio)
    _linear_part(state, move, law[1], move.units)
    _offset(state, move, law[2])
    state.weights[l].scale(rows, move.units, law[0])


def _permute(state: State, move: Move) -> None:
    if len(move.units) != len(state.alive[move.layer]):
        raise CertificateRejected(f"{move}: orders {len(move.units)} of {len(state.alive[move.layer])} units")
    state.alive[move.layer] = move.units


def _law(state: State, move: Move, ratio: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    activation = state.activations[move.layer - 1]
    law = activation.under(ratio)
    if law is None:
        raise CertificateRejected(f"{move}: {activation} has no law for the factor {ratio}")
    return law


def _multiple(state: State, l: int, units: Units, others: Units, ratio: Fraction) -> bool:
    """Whether row[units[k]] = ratio * row[others[k]] exactly, biases included."""
    w, b = state.weights[l - 1], state.biases[l - 1]
    return _multiples(w, ratio, units, others, state.alive[l - 1]) and _multiples(b, ratio, units, others)


def _multiples(x: ExactArray, ratio: Fraction, units: Units, others: Units, cols: Units | None = None) -> bool:
    """The same of the rows of one array; where the factor is a sign, the fields of equal numbers are equal."""
    if abs(ratio) == 1 and not x.rest:
        parts = [p for p in (x.hi, x.lo) if p is not None]
        return all(np.array_equal(_rows(p, units, cols), float(ratio) * _rows(p, others, cols)) for p in parts)
    places: list[tuple[int, ...]] = [()] if cols is None else [(j,) for j in cols.tolist()]
    pairs = zip(units.tolist(), others.tolist(), strict=True)
    return all(x.get((u, *at)) == linear([(ratio, x.get((v, *at)))]) for u, v in pairs for at in places)


def _linear_part(state: State, move: Move, slope: Fraction, bearers: Units) -> None:
    """The terms slope * outgoing[unit] * z[bearer]: their weights must cancel, their biases go to the next layer."""
    if slope == 0:
        return
    l, pairs = move.layer, list(zip(move.units.tolist(), bearers.tolist(), strict=True))
    rows = {row: [(slope * state.weight(l + 1, row, u), v) for u, v in pairs] for row in state.alive[l + 1].tolist()}
    for j in state.alive[l - 1].tolist():
        if any(total(c * state.weight(l, v, j) for c, v in out) != 0 for out in rows.values()):
            raise CertificateRejected(f"{move}: the linear parts do not cancel")
    for row, out in rows.items():
        state.shift(l + 1, row, ((c, state.biases[l - 1].get((v,))) for c, v in out))


def _offset(state: State, move: Move, offset: Fraction) -> None:
    for row in state.alive[move.layer + 1].tolist() if offset else ():
        state.shift(move.layer + 1, row, ((state.weight(move.layer + 1, row, u), offset) for u in move.units.tolist()))


def _rows(array: Array, rows: Units, cols: Units | None) -> Array:
    """Rows at some columns; a permuted or partial set of columns costs an index grid."""
    if cols is None:
        return array[rows]
    whole = len(cols) == array.shape[1] and bool((cols == np.arange(len(cols))).all())
    return array[rows] if whole else array[np.ix_(rows, cols)]


# What a move of each kind checks and does. Closed: nothing else is ever reached by a name.
RULES: dict[str, Callable[[State, Move], None]] = {
    "constant": _constant,
    "drop": _drop,
    "merge": _merge,
    "scale": _scale,
    "permute": _permute,
    "inactive": substitution.inactive,
    "skip": substitution.skip,
    "block": substitution.block,
}


def replay(net: Network, moves: Iterable[Move], near: Near | None = None, region: Region | None = None) -> State:
    """Apply changes and moves to a network, checking each; the signs of a region are taken as proved."""
    state = State(net, near, region)
    for move in moves:
        apply(state, move)
    return state
