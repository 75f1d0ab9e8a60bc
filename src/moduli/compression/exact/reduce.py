"""Lossless compression and rank on all inputs: the search. What it proposes, the kernel checks,
move by move.

One hidden layer with tanh, sigmoid or erf: the result is the smallest network (Sussmann 1992;
Farrugia-Roberts 2023, section 4). One hidden layer of an activation that bends (ReLU, leaky ReLU,
abs): smallest for one output (see `hyperplane_merging`), and where no two remaining units share a
hyperplane. Anything deeper: sound, not claimed optimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from moduli.common.progress import Progress
from moduli.compression.results import Compression, Rank, compression_of
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import Number, class_keys, linear
from moduli.kernel.minimality import Unknown, bends, reducible
from moduli.kernel.move import Move, Units
from moduli.kernel.network import Network
from moduli.kernel.radius.cover_bound import Near
from moduli.kernel.rules import apply
from moduli.kernel.state import State

from . import hyperplane_merging, linear_units

EXACT = 2**18  # numbers of rows that are not floats, and are compared one by one


def compress(net: Network, progress: Progress | None = None) -> Compression:
    """The smallest network found with the same function on all inputs."""
    state, moves = reduce(net, progress)
    return compression_of(net, moves, state)


def rank(net: Network, progress: Progress | None = None) -> Rank:
    """The least number of hidden units with this function on all inputs; an interval where
    minimality is no theorem.
    """
    state, moves = reduce(net, progress)
    moves = (*moves, *flattened(state))
    upper = sum(state.widths[1:-1])
    if upper == 0:
        return Rank("proved", 0, 0, net.units, net, moves, no_units(state))
    why = reducible(state)
    if why is None:
        source = (
            state.activations[0].source
            or "no unit can be spared, whichever way the others are turned"
        )
        why = f"irreducible, hence minimal ({source})"
        if upper == 2 and needed(state) == 0 and state.activations[0].bends:
            why += "; the function is affine, without a hidden layer it needs no unit"
        return Rank("proved", upper, upper, net.units, net, moves, why)
    return Rank("bounded", needed(state), upper, net.units, net, moves, why)


def no_units(state: State) -> str:
    """Why no hidden unit is needed."""
    return "the function is affine" if len(state.alive) == 2 else "the function is constant"


def flattened(state: State) -> list[Move]:
    """Layers that are linear go, at any cost of parameters: a rank counts units.

    On all inputs a single layer that bends stays, as two units that face each other: the rank is
    one among such layers.
    """
    moves = list[Move]()
    for l in range(len(state.alive) - 2, 0, -1):
        alone = len(state.alive) == 3 and state.region is None and state.activations[0].bends
        move = None if alone else hyperplane_merging.linear_layer(state, l)
        if move is not None and _accepted(state, move):
            moves.append(move)
    return moves


def needed(state: State) -> int:
    """A lower bound: for one hidden layer that bends, hyperplanes where the function does."""
    if len(state.alive) != 3 or not state.activations[0].bends:
        return 0
    found = bends(state)
    if not isinstance(found, Unknown):
        return len(found.seen)
    if state.region is not None:
        return 0
    w, b = (
        state.weights[0].take(state.alive[1], state.alive[0]),
        state.biases[0].take(state.alive[1]),
    )
    if not (w.is_float() and b.is_float()):
        return 0
    keys, _ = class_keys(w.hi, b.hi, sign=True, scale=True)
    visible = (w.hi != 0).any(axis=1) & state.weights[1].take(
        state.alive[2], state.alive[1]
    ).nonzero().any(axis=0)
    single, counts = np.unique(keys, return_counts=True)
    return int((np.isin(keys, single[counts == 1]) & visible).sum())


def reduce(
    net: Network,
    progress: Progress | None = None,
    near: Near | None = None,
    first: Sequence[Move] = (),
) -> tuple[State, tuple[Move, ...]]:
    """Apply moves, layer by layer, until no rule applies; the kernel's state and the moves, after
    those that come first.
    """
    state = State(net, near)
    for move in first:
        apply(state, move)
    return state, (*first, *settle(state, progress))


def settle(state: State, progress: Progress | None = None) -> list[Move]:
    """Moves applied until no rule applies."""
    moves = linear_units.inactive(state)
    while True:
        moves += _settled(state, progress)
        more = linear_units.inactive(state)
        more += linear_units.dependent(state)
        more += linear_units.skip(state)
        if not more:
            return moves
        moves += more


def _settled(state: State, progress: Progress | None) -> list[Move]:
    """Moves that ask for no signs, applied until none applies."""
    moves = list[Move]()
    waiting, visits = set(range(1, len(state.weights))), 0
    while waiting:
        layer = min(waiting)
        waiting.remove(layer)
        if progress is not None:
            progress(visits, visits + len(waiting) + 1, f"layer {layer}")
        visits += 1
        before = len(moves)
        for move in _proposals(state, layer):
            moves.append(move)
        hidden = range(1, len(state.weights))
        if any(move.kind == "skip" for move in moves[before:]):
            waiting = set(hidden)
        elif len(moves) > before:
            waiting |= {layer - 1, layer + 1} & set(hidden)
    if progress is not None:
        progress(visits, visits, "reduced")
    return moves


def _proposals(state: State, l: int) -> Iterator[Move]:
    """Moves of one layer, each applied before it is yielded."""
    yield from _apply(state, l, "drop", _zero_outgoing(state, l))
    yield from _apply(state, l, "constant", _zero_incoming(state, l))
    activation = state.activations[l - 1]
    yield from _merge(state, l, sign=activation.symmetric, scale=False)
    if activation.homogeneous:
        yield from _merge(state, l, sign=activation.symmetric, scale=True)
    yield from _apply(state, l, "drop", _zero_outgoing(state, l))
    yield from _turned(state, l)


def _turned(state: State, l: int) -> Iterator[Move]:
    """The best block of fewer units that the kernel accepts, and again: with fewer units more can
    be tried.
    """
    while True:
        for move in hyperplane_merging.proposals(state, l):
            if _accepted(state, move):
                break
        else:
            return
        yield move
        if move.kind == "skip":
            return


def _accepted(state: State, move: Move) -> bool:
    """Apply a move that is only proposed; whether the kernel took it. What it refuses changes
    nothing.
    """
    try:
        apply(state, move)
    except (
        CertificateRejected
    ):  # a unit that would bend is linear on the box, or the other way round
        return False
    return True


def _apply(state: State, l: int, kind: str, units: Units) -> Iterator[Move]:
    if len(units):
        move = Move(kind, l, units)
        apply(state, move)
        yield move


def _zero_outgoing(state: State, l: int) -> Units:
    columns = state.weights[l].take(state.alive[l + 1], state.alive[l]).nonzero().any(axis=0)
    return state.alive[l][~columns]


def _zero_incoming(state: State, l: int) -> Units:
    """Rows are read whole where that saves a copy; removed units are masked out afterwards."""
    every = np.arange(state.slots(l))
    heavy = np.flatnonzero(
        state.weights[l - 1].take(every, state.alive[l - 1]).nonzero().any(axis=1)
    )
    zero = np.ones(len(every), dtype=bool)
    zero[heavy] = False
    return state.alive[l][zero[state.alive[l]]]


def _merge(state: State, l: int, *, sign: bool, scale: bool) -> Iterator[Move]:
    """Groups of equal keys; where ratios are signs, the kernel's check settles the rest."""
    every, alive = np.arange(state.slots(l)), state.alive[l]
    w = state.weights[l - 1].take(every, state.alive[l - 1])
    keys, signs = class_keys(w.hi, state.biases[l - 1].hi, sign=sign, scale=scale)
    order = alive[np.argsort(keys[alive], kind="stable")]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = keys[order[1:]] != keys[order[:-1]]
    leaders = order[fresh][np.cumsum(fresh) - 1]
    units, into = order[~fresh], leaders[~fresh]
    if scale and not w.is_float() and len(alive) * w.hi.shape[1] <= EXACT:
        yield from _merge_exact(
            state, l, alive.tolist(), sign
        )  # keys are of floats: they do not show such multiples
        return
    if not len(units):
        return
    if not scale:
        try:
            for factor in (1, -1):
                of = signs[units] * signs[into] == factor
                yield from _apply_merge(state, l, Fraction(factor), units[of], into[of])
            return
        except (
            CertificateRejected
        ):  # two rows with one key, astronomically rare among floats: settled exactly below
            present = set(state.alive[l].tolist())
            units = np.array([u for u in units.tolist() if u in present], dtype=np.intp)
    yield from _merge_exact(state, l, [*dict.fromkeys(into.tolist()), *units.tolist()], sign)


def _apply_merge(
    state: State, l: int, ratio: Fraction, units: Units, into: Units
) -> Iterator[Move]:
    if len(units):
        move = Move("merge", l, units, into, ratio)
        apply(state, move)
        yield move


def _merge_exact(state: State, l: int, candidates: list[int], sign: bool) -> Iterator[Move]:
    """Group candidates by their exact rows, divided by the first non-zero weight where a factor is
    allowed.
    """
    groups: dict[tuple[Number, ...], list[tuple[Fraction, int]]] = {}
    homogeneous = state.activations[l - 1].homogeneous
    for unit in sorted(candidates):
        row = [state.weights[l - 1].get((unit, j)) for j in state.alive[l - 1].tolist()]
        lead = next((q for q in row if isinstance(q, Fraction) and q != 0), Fraction(1))
        if not homogeneous:
            lead /= abs(lead)
        if not sign:
            lead = abs(lead)
        key = tuple(linear([(1 / lead, q)]) for q in [*row, state.biases[l - 1].get((unit,))])
        groups.setdefault(key, []).append((lead, unit))
    moves: dict[Fraction, list[tuple[int, int]]] = {}
    for members in groups.values():
        leader = min(members, key=lambda m: (abs(m[0]), m[1]))
        for lead, unit in members:
            if unit != leader[1]:
                moves.setdefault(lead / leader[0], []).append((unit, leader[1]))
    for ratio, pairs in sorted(moves.items()):
        units, into = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
        yield from _apply_merge(state, l, ratio, units, into)
