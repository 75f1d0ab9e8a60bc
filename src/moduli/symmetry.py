"""Normal forms: one representative of all networks that differ by permutation, sign and positive scale.

Reduce first (`lossless`): equal rows and zero rows are what makes normal forms ambiguous. Then, per hidden layer from the
input: sign (odd activations, the sigmoid, abs: the first non-zero weight positive), scale (positively homogeneous ones:
the largest weight 1 in size), order (rows sorted lexicographically). The largest weight, not the l1 norm, is set to 1,
because then rounding the form to floats and forming it again changes nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from .certificate import Move, State
from .lossless import Progress, reduce
from .network import Network


def normal_form(net: Network, *, binary: bool = False, progress: Progress | None = None) -> tuple[State, tuple[Move, ...]]:
    """The kernel's state of the reduced, normalised network, and the moves that lead there.

    Args:
        binary: scale by powers of two only (largest weight in [1, 2)): exact in floats and fast, but a normal form only
            for networks whose scales differ by powers of two.
    """
    state, moves = reduce(net, progress)
    extra: list[Move] = []
    for l in range(1, len(net.layers)):
        for move in (*_mirror(state, l), *_rescale(state, l, binary)):
            state.apply(move)
            extra.append(move)
        order = _order(state, l)
        if not np.array_equal(order, state.alive[l]):
            extra.append(Move("permute", l, order))
            state.apply(extra[-1])
    return state, (*moves, *extra)


def canonical(net: Network, progress: Progress | None = None) -> Network:
    """The normal form, every parameter rounded once to float64; idempotent."""
    state, _ = normal_form(net, progress=progress)
    return state.network()


def _mirror(state: State, l: int) -> list[Move]:
    if not state.net.layers[l - 1].activation.symmetric:
        return []
    w = state.weights[l - 1].take(state.alive[l], state.alive[l - 1]).hi
    first = np.argmax(w != 0, axis=1) if w.size else np.zeros(len(w), dtype=np.intp)
    negative = state.alive[l][w[np.arange(len(w)), first] < 0] if w.size else np.empty(0, dtype=np.intp)
    return [Move("scale", l, negative, ratio=Fraction(-1))] if len(negative) else []


def _rescale(state: State, l: int, binary: bool) -> list[Move]:
    """One move per factor."""
    if not state.net.layers[l - 1].activation.homogeneous:
        return []
    factors: dict[Fraction, list[int]] = {}
    weights = state.weights[l - 1]
    for unit in state.alive[l].tolist():
        row = weights.hi[unit, state.alive[l - 1]]
        if not row.size or not row.any():
            continue
        if binary:
            ratio = Fraction(2) ** (1 - math.frexp(float(np.abs(row).max()))[1])
        else:
            near = state.alive[l - 1][np.abs(row) == np.abs(row).max()]
            entries = (weights.get((unit, j)) for j in near.tolist())
            ratio = 1 / max(abs(q) for q in entries if isinstance(q, Fraction))
        factors.setdefault(ratio, []).append(unit)
    return [Move("scale", l, np.array(units, dtype=np.intp), ratio=ratio) for ratio, units in factors.items() if ratio != 1]


def _order(state: State, l: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Remaining units by (weights, bias), remainders last."""
    w = state.weights[l - 1].take(state.alive[l], state.alive[l - 1])
    b = state.biases[l - 1].take(state.alive[l])
    keys = [part.T for x in (w, b) for part in [x.hi] if part.size] + [x.lo.T for x in (w, b) if x.lo is not None and x.lo.size]
    columns = np.vstack([k if k.ndim == 2 else k[None, :] for k in keys]) if keys else np.empty((0, len(state.alive[l])))
    return state.alive[l][np.lexsort(columns[::-1])] if len(columns) else state.alive[l]
