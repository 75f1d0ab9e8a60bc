"""What holds on a box only: signs of units with their proof, and the moves that rest on them. Part of the kernel.

A `Region` is a box, a tree of splits and, for every hidden unit of a network, -1 (its pre-activation z is <= 0 on the box),
1 (z >= 0) or 0 (nothing is said); `bounds.verify` proves these signs anew. Where a sign is known, an activation with slopes
on either side of 0 is linear on the box: s(z) = c z, and c is the unit's *slope* (relu: 1 or 0).

| move | precondition | effect |
|---|---|---|
| inactive | the units have slope 0 | they go: s(z) = 0 on the box |
| block | units S are linear; see below | fewer units, all linear, in their place |
| skip | all remaining units S of a hidden layer are linear | V, c behind W, b become V C W, V C b + c; the layer goes |

Block. On the box the units S, with incoming rows W_S, biases b_S, slopes C = diag(c) and outgoing columns V_S, add
M h + V_S C b_S to the next layer, M = V_S C W_S, h the activations of the layer before. The move names units K of S, for each
either "as it is" or a new row and bias, and new outgoing columns U. With rows R, biases d and slopes E of the units K
(1 for new ones), M = U E R must hold exactly, and M h + V_S C b_S = U E (R h + d) + (V_S C b_S - U E d): the bracket goes to
the next biases. New units must be active on the box: d >= -min R h, by what h can be on the box (`reach`), in rationals.

Why the signs stay valid. Every move of this library keeps each pre-activation of each remaining unit, as a function on the
box: those of layers before are not touched, and the next layer receives the same sum, which is what moves check. By
induction on the moves the pre-activation of a unit that was not replaced is that of the same unit in the original network, so
what was proved of it holds. A unit that a block replaces has a new pre-activation; its sign 1 is what the move proves. A
`scale` by -1 turns a pre-activation, its sign and its bounds; other factors are refused beside a region. After a skip layers
behind it count one less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bounds, modular
from .domains import Box
from .enclosure import ExactArray, Index, Number, matmul
from .envelopes import envelope
from .errors import CertificateRejected, ShapeError
from .network import Network

if TYPE_CHECKING:
    from .certificate import Move, State

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
Row = tuple[Fraction, ...]
PRIME, MOST = 2**31 - 1, 16


@dataclass(frozen=True)
class Region:
    """A box and signs of hidden units on it.

    Attributes:
        low, high: one number per input. tree: the splits of the proof, see `bounds.verify`. signs: per hidden layer, per unit.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    tree: tuple[int, ...]
    signs: tuple[tuple[int, ...], ...]

    @property
    def box(self) -> Box:
        return Box(np.array(self.low), np.array(self.high))

    @property
    def radius(self) -> Array:
        """The largest size of each input."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def verify(self, net: Network) -> None:
        """Prove the signs of the units of a network; raises `CertificateRejected`."""
        if len(self.low) != net.widths[0]:
            raise CertificateRejected(f"the box has {len(self.low)} inputs, the network {net.widths[0]}")
        try:
            bounds.verify(net, self.box, self.tree, [np.array(s, dtype=np.int8) for s in self.signs])
        except ShapeError as error:
            raise CertificateRejected(f"the box of the certificate: {error}") from None

    def to_json(self) -> dict[str, Any]:
        return {
            "low": list(self.low), "high": list(self.high), "tree": list(self.tree), "signs": [list(s) for s in self.signs],
        }  # fmt: skip

    @staticmethod
    def from_json(data: Any) -> Region:
        """Strict: unknown or missing fields, other types, numbers that are not finite are refused."""
        if not isinstance(data, dict) or set(data) != {"low", "high", "tree", "signs"}:
            raise CertificateRejected(f"a region has fields low, high, tree and signs, not {str(data)[:80]}")
        low, high, tree, signs = (data[k] for k in ("low", "high", "tree", "signs"))
        for name, end in (("low", low), ("high", high)):
            if not isinstance(end, list) or not all(type(x) in (int, float) and math.isfinite(x) for x in end):
                raise CertificateRejected(f"{name} of the region must be a list of finite numbers, not {str(end)[:60]}")
        if len(low) != len(high) or any(p > q for p, q in zip(low, high, strict=True)):
            raise CertificateRejected(f"low {str(low)[:40]} and high {str(high)[:40]} of the region are no box")
        if not isinstance(tree, list) or not all(type(x) is int and -1 <= x < 2**31 for x in tree):
            raise CertificateRejected(f"the tree of the region must be a list of inputs or -1, not {str(tree)[:60]}")
        if not isinstance(signs, list) or not all(
            isinstance(s, list) and all(type(x) is int and x in (-1, 0, 1) for x in s) for s in signs
        ):
            raise CertificateRejected(f"the signs of the region must be lists of -1, 0 and 1, not {str(signs)[:60]}")
        return Region(tuple(map(float, low)), tuple(map(float, high)), tuple(tree), tuple(map(tuple, signs)))


def slope(state: State, l: int, unit: int) -> Fraction | None:
    """c with s(z) = c z on the box for the pre-activation of a unit of layer l, or None where that is not known."""
    activation = state.activations[l - 1]
    if not activation.piecewise_linear:
        return None
    sign = state.signs[l - 1][unit] if activation.bends else 1
    end = activation.exact(Fraction(int(sign)))
    return None if sign == 0 or end is None else end * int(sign)


def _slopes(state: State, move: Move) -> list[Fraction]:
    found = [slope(state, move.layer, u) for u in move.units.tolist()]
    for unit, c in zip(move.units.tolist(), found, strict=True):
        if c is None:
            raise CertificateRejected(f"{move}: unit {unit} is not known to be linear on the box")
    return [c for c in found if c is not None]


def apply(state: State, move: Move) -> None:
    """Check the precondition of a move of this module and carry it out."""
    if state.region is None:
        raise CertificateRejected(f"{move}: the certificate claims no signs on a box")
    {"inactive": _inactive, "block": _block, "skip": _skip}[move.kind](state, move)


def _inactive(state: State, move: Move) -> None:
    for unit, c in zip(move.units.tolist(), _slopes(state, move), strict=True):
        if c != 0:
            raise CertificateRejected(f"{move}: unit {unit} has slope {c} on the box")
    state.remove(move.layer, move.units)


def share(state: State, l: int, units: Units, slopes: Sequence[Fraction]) -> tuple[ExactArray, ExactArray]:
    """V C and V C W of linear units of layer l, at the remaining rows of the next layer and columns of the one before."""
    outgoing = state.weights[l].take(state.alive[l + 1], units)
    every = np.arange(len(state.alive[l + 1]))
    for k, c in enumerate(slopes):
        outgoing.scale(every, np.array([k]), c)
    return outgoing, matmul(outgoing, state.weights[l - 1].take(units, state.alive[l - 1]))


def _constants(state: State, l: int, outgoing: ExactArray, units: Units) -> None:
    """Add V C b of units of layer l to the next biases."""
    for i, row in enumerate(state.alive[l + 1].tolist()):
        terms = [(outgoing.get((i, k)), state.biases[l - 1].get((u,))) for k, u in enumerate(units.tolist())]
        state.shift(l + 1, row, [(q, b) for q, b in terms if isinstance(q, Fraction) and q != 0])


def _skip(state: State, move: Move) -> None:
    l = move.layer
    if not np.array_equal(move.units, state.alive[l]):
        raise CertificateRejected(f"{move}: names {len(move.units)} units; the layer has {len(state.alive[l])}, in their order")
    lines(state)  # bounds of the original units are found before a layer goes
    outgoing, product = share(state, l, move.units, _slopes(state, move))
    _constants(state, l, outgoing, move.units)
    shape = state.weights[l].hi.shape[0], state.slots(l - 1)
    state.weights[l] = _spread(product, shape, state.alive[l + 1], state.alive[l - 1])
    for part in (state.weights, state.biases, state.activations, state.signs, lines(state)):
        del part[l - 1]
    del state.alive[l]


def _spread(small: ExactArray, shape: tuple[int, int], rows: Units, cols: Units) -> ExactArray:
    """The array with zeros where units are gone."""
    grid = np.ix_(rows, cols)
    hi, lo = np.zeros(shape), np.zeros(shape)
    hi[grid] = small.hi
    if small.lo is not None:
        lo[grid] = small.lo
    rest: dict[Index, Number] = {(int(rows[i]), int(cols[j])): number for (i, j), number in small.rest.items()}
    return ExactArray(hi, lo if lo.any() else None, rest)


def _block(state: State, move: Move) -> None:
    l, into, cols, rows = move.layer, move.into, state.alive[move.layer - 1], state.alive[move.layer + 1]
    if into is None or len(set(into.tolist())) < len(into) or not set(into.tolist()) <= set(move.units.tolist()):
        raise CertificateRejected(f"{move}: the units that stay must be different ones of the block")
    if len(move.rows) != len(into) or len(move.outgoing) != len(into):
        raise CertificateRejected(f"{move}: {len(into)} units stay, with {len(move.rows)} rows, {len(move.outgoing)} columns")
    if any(len(r) != len(cols) + 1 for r in move.rows if r is not None) or any(len(c) != len(rows) for c in move.outgoing):
        raise CertificateRejected(f"{move}: rows need {len(cols)} weights and a bias, columns {len(rows)} weights")
    slopes = dict(zip(move.units.tolist(), _slopes(state, move), strict=True))
    outgoing, before = share(state, l, move.units, list(slopes.values()))
    floors = [_least(state, move, row) for row in move.rows]
    after = _product(state, move, slopes)
    if not before.equals(after):
        raise CertificateRejected(f"{move}: the new units do not have the product of weights of the old ones")
    _constants(state, l, outgoing, move.units)
    state.remove(l, move.units, keep=into)
    _replace(state, move, floors, slopes)


def _product(state: State, move: Move, slopes: dict[int, Fraction]) -> ExactArray:
    """U E R."""
    l, cols, rows = move.layer, state.alive[move.layer - 1], state.alive[move.layer + 1]
    assert move.into is not None
    incoming = state.weights[l - 1].take(move.into, cols)
    for k, row in enumerate(move.rows):
        for j, q in enumerate(row[:-1] if row is not None else ()):
            incoming.put((k, j), q)
    outgoing = ExactArray(np.zeros((len(rows), len(move.into))))
    for k, (unit, column) in enumerate(zip(move.into.tolist(), move.outgoing, strict=True)):
        c = slopes[unit] if move.rows[k] is None else Fraction(1)
        for i, q in enumerate(column):
            outgoing.put((i, k), q * c)
    return matmul(outgoing, incoming)


def _replace(state: State, move: Move, floors: list[tuple[Fraction, Fraction] | None], slopes: dict[int, Fraction]) -> None:
    """Write new rows and columns, and take U E d from the next biases."""
    l, cols, rows = move.layer, state.alive[move.layer - 1].tolist(), state.alive[move.layer + 1].tolist()
    assert move.into is not None
    for k, unit in enumerate(move.into.tolist()):
        row, ends = move.rows[k], floors[k]
        if row is not None and ends is not None:
            for j, q in zip(cols, row[:-1], strict=True):
                state.weights[l - 1].put((unit, j), q)
            state.biases[l - 1].put((unit,), row[-1])
            state.signs[l - 1][unit] = 1
            lo, hi = lines(state)[l - 1]
            lo[unit], hi[unit] = 0.0, _up_float(ends[1] + row[-1])
        c = slopes[unit] if row is None else Fraction(1)
        bias = state.biases[l - 1].get((unit,))
        for i, q in zip(rows, move.outgoing[k], strict=True):
            state.weights[l].put((i, unit), q)
            if q:
                state.shift(l + 1, i, [(-q * c, bias)])


def _least(state: State, move: Move, row: Row | None) -> tuple[Fraction, Fraction] | None:
    """Bounds of R h for a new row, which the bias must make non-negative."""
    if row is None:
        return None
    ends = extent(state, move.layer, row[:-1])
    if ends is None or ends[0] + row[-1] < 0:
        least = "has no finite bound" if ends is None else f"may be {float(ends[0] + row[-1]):.3g}"
        raise CertificateRejected(f"{move}: the pre-activation of a new unit {least} on the box; it must stay active there")
    return ends


def extent(state: State, l: int, row: Row) -> tuple[Fraction, Fraction] | None:
    """Bounds of row . h on the box, h what layer l reads (remaining columns); None where there is no finite one."""
    lo, hi = (part[state.alive[l - 1]] for part in reach(state, l - 1))
    used = [(q, p, r) for q, p, r in zip(row, lo.tolist(), hi.tolist(), strict=True) if q != 0]
    if not all(math.isfinite(p) and math.isfinite(r) for _, p, r in used):
        return None
    ends = [[q * Fraction(p if (q > 0) == low else r) for q, p, r in used] for low in (True, False)]
    return sum(ends[0], Fraction(0)), sum(ends[1], Fraction(0))


def reach(state: State, l: int) -> tuple[Array, Array]:
    """Bounds of the activations of layer l on the box (0: the inputs)."""
    assert state.region is not None
    if l == 0:
        return np.array(state.region.low), np.array(state.region.high)
    lo, hi = lines(state)[l - 1]
    sign = state.signs[l - 1]
    lo, hi = np.where(sign > 0, np.maximum(lo, 0.0), lo), np.where(sign < 0, np.minimum(hi, 0.0), hi)
    found = envelope(state.activations[l - 1], lo, hi)
    return found.least, found.most


def lines(state: State) -> list[tuple[Array, Array]]:
    """Bounds of pre-activations on the box: of the original units, and those that blocks have proved of new ones."""
    if state.reach is None:
        assert state.region is not None
        low, high = np.array([state.region.low]), np.array([state.region.high])
        hidden = state.net.layers[:-1]
        found = bounds.linear(hidden, low, high, lazy=True) if hidden else []
        state.reach = [(lo[0].copy(), hi[0].copy()) for lo, hi in found]
    return state.reach


def _up_float(q: Fraction) -> float:
    try:
        nearest = float(q)
    except OverflowError:
        return math.inf
    return nearest if Fraction(nearest) >= q else math.nextafter(nearest, math.inf)


def turn(state: State, move: Move) -> None:
    """What a scale by -1 does to signs and bounds; it must be called before the next bounds are asked for."""
    if move.ratio != -1:
        raise CertificateRejected(f"{move}: by {move.ratio}; beside signs on a box only -1 is allowed")
    lo, hi = lines(state)[move.layer - 1]
    lo[move.units], hi[move.units] = -hi[move.units], -lo[move.units]
    state.signs[move.layer - 1][move.units] *= -1


def straddles(state: State) -> str | None:
    """Why the remaining network of one hidden layer may not be minimal on the box, or None where it is.

    The box must have an interior. A pre-activation, affine, that takes both signs on it (exactly, in rationals) is seen as a
    bend of the function, so that every network has a unit with that hyperplane. If this is so for all units but one, which
    adds c v_0 z_0, let r be their number, p and q the slopes of the activation. A network of r units has exactly these
    hyperplanes, each unit turned one way or the other, with the same jumps. Turning those of a set T changes the gradient by
    -(p + q) sum_T v_j w_j, which then must be c v_0 w_0: `turnable` proves that there is no such T.
    """
    assert state.region is not None
    if not all(p < q for p, q in zip(state.region.low, state.region.high, strict=True)):
        return "the box is flat"
    flat = [u for u in state.alive[1].tolist() if state.activations[0].bends and not _bends_inside(state, u)]
    if not flat:
        return None
    if len(flat) > 1 or slope(state, 1, flat[0]) is None:
        return f"unit {flat[0]} may not bend inside the box"
    bent = np.setdiff1d(state.alive[1], flat)
    if len(bent) > MOST or turnable(state, 1, flat[0], bent):
        return f"unit {flat[0]} may be spared if others are turned"
    return None


def _bends_inside(state: State, unit: int) -> bool:
    row = [state.weights[0].get((unit, j)) for j in state.alive[0].tolist()]
    bias = state.biases[0].get((unit,))
    ends = extent(state, 1, tuple(q for q in row if isinstance(q, Fraction)))
    return isinstance(bias, Fraction) and ends is not None and ends[0] + bias < 0 < ends[1] + bias


def turnable(state: State, l: int, unit: int, bent: Units) -> list[Units]:
    """Sets T of bent units for which c v_0 w_0 + (p + q) sum_T v_j w_j may be zero; none missing, at most a few too many.

    Two fixed combinations of the entries of the matrices v_j w_j are compared modulo a prime, for all sets at once.
    """
    c, ends = slope(state, l, unit), [state.activations[l - 1].exact(Fraction(sign)) for sign in (1, -1)]
    assert c is not None
    assert ends[0] is not None
    assert ends[1] is not None
    zero = np.ones(2 ** len(bent), dtype=bool)
    try:
        for seed in (1, 2):
            total = np.array([_residue(c) * _mix(state, l, unit, seed) % PRIME], dtype=np.int64)
            for j in bent.tolist():
                part = _residue(ends[0] - ends[1]) * _mix(state, l, j, seed) % PRIME
                total = np.concatenate([total, (total + part) % PRIME])
            zero &= total == 0
    except ValueError:  # a denominator is a multiple of the prime
        return [bent]
    return [bent[[k for k in range(len(bent)) if t >> k & 1]] for t in np.flatnonzero(zero).tolist()]


def _mix(state: State, l: int, unit: int, seed: int) -> int:
    """(a . v)(b . w) modulo the prime for the column and the row of a unit, a and b fixed."""
    rng, total = np.random.default_rng(seed), 1
    for array, names in ((state.weights[l], state.alive[l + 1]), (state.weights[l - 1], state.alive[l - 1])):
        factors = rng.integers(1, PRIME, int(names.max(initial=0)) + 1).tolist()
        places = [(i, unit) if array is state.weights[l] else (unit, i) for i in names.tolist()]
        total = total * sum(f * _residue(array.get(at)) for f, at in zip(factors, places, strict=False)) % PRIME
    return total


def _residue(number: Number) -> int:
    assert isinstance(number, Fraction)
    return modular.residue(number, PRIME)
