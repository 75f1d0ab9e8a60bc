"""What each kind of move demands of a network in exact numbers, and what it does. Part of the
kernel.

What the moves are stands in `certificate`, the table of rules at the end here; `substitution` has
those that put other units in the place of some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from . import substitution
from .activations import Activation
from .bounds.box_claim import Region
from .errors import CertificateRejected
from .exact_numbers import ExactArray, Number, linear, total, value
from .move import Move
from .network import Network
from .radius.cover_bound import Near
from .state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Terms = list[tuple[Fraction, Number]]
BLOCK = 2**16  # entries of rows that are compared at a time


def apply(state: State, move: Move) -> None:
    """Check the precondition of a move and carry it out.

    A rejected move changes nothing: everything is checked, and what will be written made ready,
    before anything is written. One exception: a merge that runs out of work (see
    `exact_numbers.Work`) stops midway; that state is of no more use.

    Raises:
        CertificateRejected: naming the move and what fails.
    """
    if not 1 <= move.layer < len(state.alive) - 1:
        raise CertificateRejected(
            f"{move}: the network has hidden layers 1 to {len(state.alive) - 2}"
        )
    _require_units(state, move, move.units)
    if np.bincount(move.units, minlength=1).max() > 1:
        raise CertificateRejected(f"{move}: a unit is named twice")
    if move.kind not in RULES:
        raise CertificateRejected(f"{move}: there is no such move; known: {', '.join(RULES)}")
    try:
        RULES[move.kind](state, move)
    except CertificateRejected as error:
        raise (error if str(error).startswith(str(move)) else error.at(str(move))) from None
    state.changed(move.layer)


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
    # w = 0: s(w . h + b) is the number s(b), whatever h, so its products with outgoing weights are
    # constants
    l = move.layer
    if state.weights[l - 1].take(move.units, state.alive[l - 1]).nonzero().any():
        raise CertificateRejected(f"{move}: an incoming weight is not zero")
    values = [
        value(state.activations[l - 1], state.biases[l - 1].get((u,))) for u in move.units.tolist()
    ]
    moving = [(u, v) for u, v in zip(move.units.tolist(), values, strict=True) if v != 0]
    rows = state.alive[l + 1].tolist() if moving else []
    terms = ((row, ((state.weight(l + 1, row, u), v) for u, v in moving)) for row in rows)
    state.biases[l].set(state.shifted(l + 1, terms))
    _remove(state, move)


def _drop(state: State, move: Move) -> None:
    # v = 0: the unit adds v s(z) = 0 to everything that reads it
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
    # z_u = ratio z_v and s(ratio z) = law[0] s(z) + law[1] z + law[2] for all z: the same sum
    # without the unit u, if no target is removed with it
    law = _law(state, move, move.ratio)
    width = max(1, BLOCK // max(1, len(state.alive[l - 1])))
    for start in range(0, len(into), width):
        block = slice(start, start + width)
        if not _multiple(state, l, move.units[block], into[block], move.ratio):
            raise CertificateRejected(
                f"{move}: a row is not {move.ratio} times the row that it merges into"
            )
    biases = state.shifted(l + 1, _remainder(state, move, law[1], law[2], into))
    state.weights[l].add_columns(into, move.units, law[0], state.alive[l + 1])
    state.biases[l].set(biases)
    _remove(state, move)


def _scale(state: State, move: Move) -> None:
    l, cols, rows = move.layer, state.alive[move.layer - 1], state.alive[move.layer + 1]
    if state.region is not None:
        raise CertificateRejected(f"{move}: not beside signs on a box, which it may change")
    law = _law(state, move, 1 / move.ratio)
    # with z' = ratio z the new pre-activation: s(z) = law[0] s(z') + law[1] z' + law[2]
    shifted = state.shifted(l + 1, _remainder(state, move, law[1] * move.ratio, law[2], move.units))
    incoming = state.weights[l - 1].scaled(move.units, cols, move.ratio)
    own = state.biases[l - 1].scaled(move.units, None, move.ratio)
    outgoing = state.weights[l].scaled(rows, move.units, law[0])
    state.weights[l - 1].set(incoming)
    state.biases[l - 1].set(own)
    state.weights[l].set(outgoing)
    state.biases[l].set(shifted)


def _tanh(state: State, move: Move) -> None:
    # sigmoid(z) = 1/2 + 1/2 tanh(z/2), for all units of the layer
    l, rows, half = move.layer, state.alive[move.layer + 1], Fraction(1, 2)
    if state.activations[l - 1].kind != "sigmoid" or state.region is not None:
        raise CertificateRejected(f"{move}: of sigmoids on all inputs only")
    if len(move.units) != len(state.alive[l]):
        raise CertificateRejected(f"{move}: not of all units of the layer")
    terms = (
        (row, ((state.weight(l + 1, row, u), half) for u in move.units.tolist()))
        for row in rows.tolist()
    )
    shifted = state.shifted(l + 1, terms)
    incoming = state.weights[l - 1].scaled(move.units, state.alive[l - 1], half)
    own = state.biases[l - 1].scaled(move.units, None, half)
    outgoing = state.weights[l].scaled(rows, move.units, half)
    state.weights[l - 1].set(incoming)
    state.biases[l - 1].set(own)
    state.weights[l].set(outgoing)
    state.biases[l].set(shifted)
    state.activations[l - 1] = Activation("tanh")


def _permute(state: State, move: Move) -> None:
    if len(move.units) != len(state.alive[move.layer]):
        raise CertificateRejected(
            f"{move}: orders {len(move.units)} of {len(state.alive[move.layer])} units"
        )
    # as many units as there are, all there and none twice (`apply`): an order of them, and sums
    # have none
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
    return _multiples(w, ratio, units, others, state.alive[l - 1]) and _multiples(
        b, ratio, units, others
    )


def _multiples(
    x: ExactArray, ratio: Fraction, units: Units, others: Units, cols: Units | None = None
) -> bool:
    """The same of the rows of one array; where the factor is a sign, the fields of equal numbers
    are equal.
    """
    # nearest floats are unique and rounding to nearest is odd, so equal (opposite) numbers have
    # equal (opposite) fields
    if abs(ratio) == 1 and not x.rest:
        parts = [p for p in (x.hi, x.lo) if p is not None]
        return all(
            np.array_equal(_rows(p, units, cols), float(ratio) * _rows(p, others, cols))
            for p in parts
        )
    places: list[tuple[int, ...]] = [()] if cols is None else [(j,) for j in cols.tolist()]
    pairs = zip(units.tolist(), others.tolist(), strict=True)
    return all(
        x.get((u, *at)) == linear([(ratio, x.get((v, *at)))]) for u, v in pairs for at in places
    )


def _remainder(
    state: State, move: Move, slope: Fraction, offset: Fraction, bearers: Units
) -> Iterator[tuple[int, Terms]]:
    """What a law adds to the next biases, row by row: outgoing[unit] * (slope * z[bearer] + offset),
    summed over the units.

    z = w . h + b of the bearers is no constant: the weights of each sum must cancel, then only its
    biases remain.
    """
    l, pairs = move.layer, list(zip(move.units.tolist(), bearers.tolist(), strict=True))
    if slope == 0 and offset == 0:
        return
    for row in state.alive[l + 1].tolist():
        outgoing = [state.weight(l + 1, row, u) for u, _ in pairs]
        terms: Terms = [(q, offset) for q in outgoing]
        if slope != 0:
            lines = [(slope * q, v) for q, (_, v) in zip(outgoing, pairs, strict=True)]
            for j in state.alive[l - 1].tolist():
                if total(c * state.weight(l, v, j) for c, v in lines) != 0:
                    raise CertificateRejected(f"{move}: the linear parts do not cancel")
            terms += [(c, state.biases[l - 1].get((v,))) for c, v in lines]
        yield row, terms


def _rows(array: Array, rows: Units, cols: Units | None) -> Array:
    """Rows at some columns; a permuted or partial set of columns costs an index grid."""
    if cols is None:
        return array[rows]
    whole = len(cols) == array.shape[1] and bool((cols == np.arange(len(cols))).all())
    return array[rows] if whole else array[np.ix_(rows, cols)]


# What a move of each kind checks and does. Closed: nothing else is ever reached by a name.
RULES: dict[str, Callable[[State, Move], None]] = {
    "constant": _constant, "drop": _drop, "merge": _merge, "scale": _scale, "permute": _permute,
    "tanh": _tanh, "inactive": substitution.inactive, "skip": substitution.skip,
    "block": substitution.block,
}  # fmt: skip


def replay(
    net: Network, moves: Iterable[Move], near: Near | None = None, region: Region | None = None
) -> State:
    """Apply changes and moves to a network, checking each; the signs of a region are taken as
    proved.
    """
    state = State(net, near, region)
    for move in moves:
        apply(state, move)
    return state
