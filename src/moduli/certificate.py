"""The kernel: moves, replay, slack, check. Whoever doubts a result of this library needs to read this file.

A *certificate* says of two networks of the same inputs and outputs, by the digests of their parameters:

    for every input x,  |small(x) - large(x)|_inf <= constant + growth * |x|_inf        (outputs before the output map)

and, if `minimal`, that no network of one hidden layer with this activation and fewer hidden units than `small` computes
the function of `large`. With a radius (`proximity.Near`) both are said of parameters that differ from those of `large` by
at most the radius: `small` is compared with one of them, and `minimal` says that none of them has fewer.

With a `region.Region` the first is said of the inputs in a box instead,

    for every input x in the box,  |small(x) - large(x)|_inf <= constant,

and `minimal` of functions on the box; signs of units of `large`, proved on the box, then allow further moves (see `blocks`).
Weights that play no part there are zero before the first move (see `cases`).
With `differences.Changed` beside it the moves start at other parameters, proved to change the outputs on the box by little,
which counts into the constant; signs are then those of units of that network, and nothing is minimal.

The proof is a list of *moves* for each side. Every move keeps the function exactly, and the kernel checks its
precondition in exact arithmetic (`enclosure.ExactArray`; a stored float is a rational). What is left is compared entry
by entry, and the difference is carried through the layers with outward-rounded bounds. No search, no solver and no
tolerance takes part.

| move | precondition | effect on the next layer |
|---|---|---|
| constant | incoming weights all zero | bias += outgoing * s(bias of the unit) |
| drop | outgoing weights all zero | none |
| merge | row = ratio * row of another unit, s(ratio z) = a s(z) + k z + g | column of the other += a * outgoing, ... |
| scale | s(z / ratio) = a s(z) + k z + g | outgoing *= a, ... |
| permute | an order of all remaining units | columns reordered |
| block | other units in the place of some, with the same sum, see `blocks` | columns of these |

... : bias += g * outgoing, and the linear parts k * outgoing * row must cancel over the move, up to a constant.
skip: a layer that is linear goes; inactive: on a box only; for both see `blocks`. Layers count from 1; units are named by
their place in the original network throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from . import arithmetic, blocks, creases, fields
from .cases import cut
from .differences import Changed
from .enclosure import (
    ExactArray,
    Number,
    Work,
    class_keys,
    linear,
    sum_up,
    total,
    value,
)
from .errors import CertificateRejected, ShapeError, UnsupportedModel
from .groups import Ball
from .network import IDENTITY, Layer, Network, rebuilt
from .proximity import Near
from .region import Region, Row
from .slack import NO_SLACK, Layers, Slack, difference, exact_arrays

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
SCHEMA = "moduli.certificate/1"
BLOCK = 2**16
ENTRIES, TIMES = 2 * 10**5, 16  # of work in rationals: some for every network, and so often each parameter of a large one
KINDS: dict[str, tuple[str, ...]] = {  # what a move has beside layer and units
    "constant": (), "drop": (), "permute": (), "scale": ("ratio",), "merge": ("into", "ratio"), "inactive": (), "skip": (),
    "block": ("into", "rows", "outgoing"),
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """One rewriting step of a hidden layer; see the table above, and `blocks` for new rows and columns."""

    kind: str
    layer: int
    units: Units
    into: Units | None = None
    ratio: Fraction = Fraction(1)
    rows: tuple[Row | None, ...] = ()
    outgoing: tuple[Row, ...] = ()

    def __str__(self) -> str:
        some = ", ".join(map(str, self.units[:4].tolist())) + (", ..." if len(self.units) > 4 else "")
        return f"{self.kind} of unit {some} in layer {self.layer}"

    @property
    def gone(self) -> int:
        """How many units it removes."""
        stay = len(self.into) if self.kind == "block" and self.into is not None else 0
        return 0 if self.kind in ("scale", "permute") else len(self.units) - stay

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again: numbers as they are."""
        out: dict[str, Any] = {"move": self.kind, "layer": self.layer, "units": self.units}
        if self.into is not None:
            out["into"] = self.into
        if self.kind in ("merge", "scale"):
            out["ratio"] = self.ratio
        if self.kind == "block":
            out["rows"], out["outgoing"] = self.rows, self.outgoing
        return out

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Move:
        """Strict: another kind, unknown or missing fields, other types are refused."""
        kind = data.get("move") if type(data) is dict else None
        if type(kind) is not str or kind not in KINDS or set(data) != {"move", "layer", "units", *KINDS[kind]}:
            raise CertificateRejected(f"not a move: {str(data)[:80]}")
        layer = fields.whole(data["layer"], -(2**31), 2**31, f"layer of a {kind}")
        ratio = fields.rational(data.get("ratio", "1"), f"ratio of a {kind}")
        if ratio == 0:
            raise CertificateRejected(f"ratio of a {kind} is zero; it has to be another number")
        units = fields.indices(data["units"], "units")
        into = fields.indices(data["into"], "into") if "into" in data else None
        if kind != "block":
            return Move(kind, layer, units, into, ratio)
        rows = [None if row is None else _row(row) for row in fields.items(data["rows"], "rows of a block")]
        outgoing = map(_row, fields.items(data["outgoing"], "outgoing columns of a block"))
        return Move(kind, layer, units, into, ratio, tuple(rows), tuple(outgoing))


def _row(values: Any) -> Row:
    return tuple(fields.rational(q, "number of a block") for q in fields.items(values, "a row of a block"))


class State:
    """A network in exact numbers from which moves remove units.

    Attributes:
        weights, biases: exact arrays, one per layer, indexed as in the original network.
        alive: for inputs, every hidden layer and outputs, the original indices that remain, in order.
        activations: of the hidden layers.
        region, signs, reach: a box, signs of units on it, and (once needed) bounds of pre-activations; see `region`.
    """

    def __init__(self, net: Network, near: Near | None = None, region: Region | None = None) -> None:
        self.net, self.region = net, region
        self.activations = list(net.activations)
        self.signs = [] if region is None else [np.array(s, dtype=np.int8) for s in region.signs]
        self.reach: list[tuple[Array, Array]] | None = None
        if region is not None and [s.shape for s in self.signs] != [(n,) for n in net.widths[1:-1]]:
            raise CertificateRejected(f"signs of {[len(s) for s in self.signs]} units for hidden layers of {net.widths[1:-1]}")
        arithmetic.require()
        work = Work(ENTRIES + TIMES * net.parameters)
        self.weights = [ExactArray(layer.weight, work=work) for layer in net.layers]
        self.biases = [ExactArray(layer.bias, work=work) for layer in net.layers]
        if near is not None:
            self._change(near)
        self.alive: list[Units] = [np.arange(n) for n in net.widths]

    def _change(self, near: Near) -> None:
        parts = {"weight": self.weights, "bias": self.biases}
        if len({(c.layer, c.part) for c in near.changes}) < len(near.changes):
            raise CertificateRejected("the weights or biases of a layer are changed in two places")
        for change in near.changes:
            if not 1 <= change.layer <= len(self.weights):
                raise CertificateRejected(f"changes in layer {change.layer} of a network with {len(self.weights)}")
            change.apply(parts[change.part][change.layer - 1], near.radius)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(map(len, self.alive))

    def apply(self, move: Move) -> None:
        """Check the precondition of a move and carry it out; a rejected merge, drop or constant changes nothing.

        Raises:
            CertificateRejected: naming the move and what fails.
        """
        if not 1 <= move.layer < len(self.alive) - 1:
            raise CertificateRejected(f"{move}: the network has hidden layers 1 to {len(self.alive) - 2}")
        present = np.zeros(self.slots(move.layer), dtype=bool)
        present[self.alive[move.layer]] = True
        self._require_units(move, move.units, present)
        if np.bincount(move.units, minlength=1).max() > 1:
            raise CertificateRejected(f"{move}: a unit is named twice")
        try:
            self._dispatch(move, present)
        except CertificateRejected as error:
            text = str(error)
            raise error if text.startswith(str(move)) else CertificateRejected(f"{move}: {text}") from None

    def _dispatch(self, move: Move, present: Any) -> None:
        if move.kind in blocks.MOVES:
            blocks.apply(self, move)
        elif move.kind in WAYS:
            WAYS[move.kind](self, move, present)
        else:
            raise CertificateRejected(f"{move}: there is no such move; known: {', '.join(KINDS)}")

    def slots(self, l: int) -> int:
        """How many units layer l had at first, inputs for l = 0."""
        return int(self.weights[l - 1].hi.shape[0] if l else self.weights[0].hi.shape[1])

    def remove(self, l: int, units: Units, keep: Units | None = None) -> None:
        """Let units of layer l go, but for some."""
        gone = np.setdiff1d(units, [] if keep is None else keep)
        self.alive[l] = self.alive[l][~np.isin(self.alive[l], gone)]

    def _require_units(self, move: Move, units: Units, present: Any) -> None:
        if len(units) and (units.min() < 0 or units.max() >= len(present) or not present[units].all()):
            wrong = next(u for u in units.tolist() if not 0 <= u < len(present) or not present[u])
            raise CertificateRejected(f"{move}: unit {wrong} is not there (any more)")

    def _remove(self, move: Move, present: Any) -> None:
        present[move.units] = False
        self.alive[move.layer] = self.alive[move.layer][present[self.alive[move.layer]]]

    def _constant(self, move: Move, present: Any) -> None:
        l = move.layer
        if self.weights[l - 1].take(move.units, self.alive[l - 1]).nonzero().any():
            raise CertificateRejected(f"{move}: an incoming weight is not zero")
        values = [value(self.activations[l - 1], self.biases[l - 1].get((u,))) for u in move.units.tolist()]
        moving = [(u, v) for u, v in zip(move.units.tolist(), values, strict=True) if v != 0]
        for row in self.alive[l + 1].tolist() if moving else ():
            self.shift(l + 1, row, ((self._weight(l + 1, row, u), v) for u, v in moving))
        self._remove(move, present)

    def _drop(self, move: Move, present: Any) -> None:
        if self.weights[move.layer].take(self.alive[move.layer + 1], move.units).nonzero().any():
            raise CertificateRejected(f"{move}: an outgoing weight is not zero")
        self._remove(move, present)

    def _merge(self, move: Move, present: Any) -> None:
        l, into = move.layer, move.into
        if into is None or len(into) != len(move.units):
            raise CertificateRejected(f"{move}: {len(move.units)} units, but not as many to merge into")
        self._require_units(move, into, present)
        present[move.units] = False
        if not present[into].all():
            raise CertificateRejected(f"{move}: merges into a unit that it removes")
        law = self._law(move, move.ratio)
        width = max(1, BLOCK // max(1, len(self.alive[l - 1])))
        for start in range(0, len(into), width):
            block = slice(start, start + width)
            if not self._multiple(l, move.units[block], into[block], move.ratio):
                raise CertificateRejected(f"{move}: a row is not {move.ratio} times the row that it merges into")
        self._linear_part(move, law[1], into)
        self._offset(move, law[2])
        self.weights[l].add_columns(into, move.units, law[0], self.alive[l + 1])
        self._remove(move, present)

    def _scale(self, move: Move, present: Any) -> None:
        l, cols, rows = move.layer, self.alive[move.layer - 1], self.alive[move.layer + 1]
        if self.region is not None:
            raise CertificateRejected(f"{move}: not beside signs on a box, which it may change")
        law = self._law(move, 1 / move.ratio)
        self.weights[l - 1].scale(move.units, cols, move.ratio)
        self.biases[l - 1].scale(move.units, None, move.ratio)
        self._linear_part(move, law[1], move.units)
        self._offset(move, law[2])
        self.weights[l].scale(rows, move.units, law[0])

    def _permute(self, move: Move, present: Any) -> None:
        if len(move.units) != len(self.alive[move.layer]):
            raise CertificateRejected(f"{move}: orders {len(move.units)} of {len(self.alive[move.layer])} units")
        self.alive[move.layer] = move.units

    def _law(self, move: Move, ratio: Fraction) -> tuple[Fraction, Fraction, Fraction]:
        activation = self.activations[move.layer - 1]
        law = activation.under(ratio)
        if law is None:
            raise CertificateRejected(f"{move}: {activation} has no law for the factor {ratio}")
        return law

    def _multiple(self, l: int, units: Units, others: Units, ratio: Fraction) -> bool:
        """Whether row[units[k]] = ratio * row[others[k]] exactly, biases included."""
        w, b = self.weights[l - 1], self.biases[l - 1]
        return self._multiples(w, ratio, units, others, self.alive[l - 1]) and self._multiples(b, ratio, units, others)

    @staticmethod
    def _multiples(x: ExactArray, ratio: Fraction, units: Units, others: Units, cols: Units | None = None) -> bool:
        """The same of the rows of one array; where the factor is a sign, the fields of equal numbers are equal."""
        if abs(ratio) == 1 and not x.rest:
            parts = [p for p in (x.hi, x.lo) if p is not None]
            return all(np.array_equal(_rows(p, units, cols), float(ratio) * _rows(p, others, cols)) for p in parts)
        places: list[tuple[int, ...]] = [()] if cols is None else [(j,) for j in cols.tolist()]
        pairs = zip(units.tolist(), others.tolist(), strict=True)
        return all(x.get((u, *at)) == linear([(ratio, x.get((v, *at)))]) for u, v in pairs for at in places)

    def _linear_part(self, move: Move, slope: Fraction, bearers: Units) -> None:
        """The terms slope * outgoing[unit] * z[bearer]: their weights must cancel, their biases go to the next layer."""
        if slope == 0:
            return
        l, pairs = move.layer, list(zip(move.units.tolist(), bearers.tolist(), strict=True))
        rows = {row: [(slope * self._weight(l + 1, row, u), v) for u, v in pairs] for row in self.alive[l + 1].tolist()}
        for j in self.alive[l - 1].tolist():
            if any(total(c * self._weight(l, v, j) for c, v in out) != 0 for out in rows.values()):
                raise CertificateRejected(f"{move}: the linear parts do not cancel")
        for row, out in rows.items():
            self.shift(l + 1, row, ((c, self.biases[l - 1].get((v,))) for c, v in out))

    def _offset(self, move: Move, offset: Fraction) -> None:
        for row in self.alive[move.layer + 1].tolist() if offset else ():
            self.shift(move.layer + 1, row, ((self._weight(move.layer + 1, row, u), offset) for u in move.units.tolist()))

    def _weight(self, l: int, row: int, column: int) -> Fraction:
        number = self.weights[l - 1].get((row, column))
        assert isinstance(number, Fraction)
        return number

    def shift(self, l: int, row: int, terms: Iterable[tuple[Fraction, Number]]) -> None:
        """Add a sum of coefficient * number to a bias."""
        self.biases[l - 1].put((row,), linear([(Fraction(1), self.biases[l - 1].get((row,))), *terms]))

    def arrays(self) -> Iterator[tuple[ExactArray, ExactArray]]:
        """Exact weight and bias of each layer, remaining units only; one layer at a time, as it may be a copy."""
        for l, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            yield w.take(self.alive[l + 1], self.alive[l]), b.take(self.alive[l + 1])

    def network(self) -> Network:
        """The remaining network, every parameter rounded once to the nearest float."""
        layers = []
        for (w, b), activation in zip(self.arrays(), [*self.activations, IDENTITY], strict=True):
            if not (np.isfinite(w.hi).all() and np.isfinite(b.hi).all()):
                raise UnsupportedModel("a merged weight exceeds the range of float64; rescale the network's weights first")
            layers.append(Layer(w.hi, b.hi, activation))
        return self.net.with_layers(layers)


# What a move of each kind checks and does; those of `blocks` stand there. Closed: no other method is ever reached by a name.
WAYS: dict[str, Callable[[State, Move, Any], None]] = {
    "constant": State._constant,
    "drop": State._drop,
    "merge": State._merge,
    "scale": State._scale,
    "permute": State._permute,
}


def _rows(array: Array, rows: Units, cols: Units | None) -> Array:
    """Rows at some columns; a permuted or partial set of columns costs an index grid."""
    if cols is None:
        return array[rows]
    whole = len(cols) == array.shape[1] and bool((cols == np.arange(len(cols))).all())
    return array[rows] if whole else array[np.ix_(rows, cols)]


def replay(net: Network, moves: Iterable[Move], near: Near | None = None, region: Region | None = None) -> State:
    """Apply changes and moves to a network, checking each; the signs of a region are taken as proved."""
    state = State(net, near, region)
    for move in moves:
        state.apply(move)
    return state


# Minimality -----------------------------------------------------------------------------------------------------


def reducible(state: State) -> str | None:
    """Why minimality of the remaining network is not proved, or None where it is.

    One hidden layer only. For tanh, sigmoid and erf irreducible networks are minimal (`Activation.source`); those that agree
    on an open box agree everywhere, being analytic. For activations that bend at 0 see `creases`.
    """
    if state.region is not None and state.region.flat:
        return "the box is flat"
    if len(state.alive) != 3:
        return f"{len(state.alive) - 2} hidden layers: minimality is known for one"
    activation = state.activations[0]
    if not (activation.bends or (activation.minimal and activation.kind != "identity")):
        return f"minimality of irreducible {activation} networks is not known"
    alive = state.alive[1]
    w = state.weights[0].take(np.arange(state.slots(1)), state.alive[0])  # whole rows: slicing would copy the weights
    if not w.nonzero()[alive].any(axis=1).all():
        return "a unit has zero incoming weights"
    if not state.weights[1].take(state.alive[2], alive).nonzero().any(axis=0).all():
        return "a unit has zero outgoing weights"
    if activation.bends:
        return None if state.region is None and distinct(state) else creases.reducible(state)
    return None if distinct(state) else "two units may be equal up to sign"


def distinct(state: State) -> bool:
    """Whether no two remaining units of the first layer are proportional (where that merges them) or equal up to sign."""
    w, b = state.weights[0].take(np.arange(state.slots(1)), state.alive[0]), state.biases[0]
    if not (w.is_float() and b.is_float()):
        return False
    keys = np.sort(class_keys(w.hi, b.hi, sign=True, scale=state.activations[0].homogeneous)[0][state.alive[1]])
    return not (keys[1:] == keys[:-1]).any()


# Certificates ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A claim about two networks with its proof; the claim is stated at the top of this module."""

    large: str
    small: str
    large_moves: tuple[Move, ...]
    small_moves: tuple[Move, ...] = ()
    slack: Slack = NO_SLACK
    minimal: bool = False
    near: Near | None = None
    region: Region | None = None
    changed: Changed | None = None

    def __repr__(self) -> str:
        moves = len(self.large_moves) + len(self.small_moves)
        return f"<certificate: {self.small[:19]}... is {self.large[:19]}... after {moves} moves, slack {self.slack}>"

    def verify(self, small: Network, large: Network) -> None:
        """Check the claim for two networks, trusting nothing but this module, those it imports, and the two networks.

        Raises:
            CertificateRejected: naming the move or the claim that fails.
            Undecided: this process does not compute as IEEE 754 asks (see `arithmetic`).
        """
        proved(self, small, large)

    def _verify(self, small: Network, large: Network) -> None:
        if (small.digest, large.digest) == (self.large, self.small) != (self.small, self.large):
            raise CertificateRejected("the networks are swapped: give the smaller one first, the original second")
        for side, net, digest in (("large", large, self.large), ("small", small, self.small)):
            if net.digest != digest:
                raise CertificateRejected(f"the {side} network is not the certified one: digest {net.digest}, not {digest}")
        if (small.widths[0], small.widths[-1], small.output_map) != (large.widths[0], large.widths[-1], large.output_map):
            raise CertificateRejected(f"inputs, outputs or output map differ: {small} and {large}")
        start = self._start(large)
        left = replay(start, self.large_moves, self.near, self.region)
        right = replay(small, self.small_moves)
        if left.widths != right.widths or left.activations != right.activations:
            raise CertificateRejected(f"after all moves the widths are {left.widths} and {right.widths}; they must agree")
        found = _slack(left, right.arrays(), self.region, self.changed)
        if not (found.constant <= self.slack.constant and found.growth <= self.slack.growth):
            raise CertificateRejected(f"slack {self.slack} is claimed, but only {found} is proved")
        if self.near is not None and self.near.bound is not None:
            self.near.bound.verify(ball(large, self.near.radius))
        if self.minimal and (why := self._not_minimal(left, small)):
            raise CertificateRejected(f"minimality is claimed, but {why}")

    def _start(self, large: Network) -> Network:
        """The network at which the moves start, after the check of what is claimed on a box."""
        if self.region is None:
            if self.changed is not None:
                raise CertificateRejected("parameters are changed, and no box says where the outputs stay close")
            return large
        if self.near is not None:
            raise CertificateRejected("a claim is made on a box or within a radius of parameters, not both")
        start = large if self.changed is None else self.changed.network(large)
        without = self.region.verify(start)
        if self.changed is not None:
            self.changed.enclosure.verify(large, start, self.region.box)
        return without

    def _not_minimal(self, left: State, small: Network) -> str | None:
        if self.changed is not None:
            return "parameters are changed"
        if small.units != sum(left.widths[1:-1]):
            return f"the small network has {small.units} units, and moves leave {sum(left.widths[1:-1])}"
        if self.near is None:
            return reducible(left)
        lower, units = self.near.bound.lower if self.near.bound else 0, sum(left.widths[1:-1])
        return None if lower == units else f"{units} units remain and at least {lower} are proved to be needed"

    def plain(self) -> dict[str, Any]:
        """Its fields, for `of` to read again: numbers as they are."""
        out: dict[str, Any] = {
            "schema": SCHEMA, "large": self.large, "small": self.small,
            "slack": {"constant": self.slack.constant, "growth": self.slack.growth}, "minimal": self.minimal,
            "large_moves": [m.plain() for m in self.large_moves], "small_moves": [m.plain() for m in self.small_moves],
        }  # fmt: skip
        for name, part in (("near", self.near), ("region", self.region), ("changed", self.changed)):
            if part is not None:
                out[name] = part.plain()
        return out

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(text: str | bytes) -> Certificate:
        """Read a certificate; strict: unknown, missing or doubled fields are refused."""
        return fields.read_json(text, Certificate._of)

    @staticmethod
    def _of(data: Any) -> Certificate:
        names = ("schema", "large", "small", "slack", "minimal", "large_moves", "small_moves")
        read = fields.record(data, names, f"a certificate of schema {SCHEMA}", maybe=("near", "region", "changed"))
        if fields.text(read["schema"], "schema") != SCHEMA:
            raise CertificateRejected(f"not a certificate of schema {SCHEMA} but of {read['schema']}")
        slack = fields.record(read["slack"], ("constant", "growth"), "slack")
        constant, growth = (fields.real(slack[name], f"{name} of the slack", least=0.0) for name in ("constant", "growth"))
        large_moves, small_moves = (tuple(map(Move.from_json, fields.items(read[k], k))) for k in names[-2:])
        return Certificate(
            fields.text(read["large"], "large"), fields.text(read["small"], "small"), large_moves, small_moves,
            Slack(constant, growth), fields.flag(read["minimal"], "minimal"),
            Near.from_json(read["near"]) if "near" in read else None,
            Region.from_json(read["region"]) if "region" in read else None,
            Changed.from_json(read["changed"]) if "changed" in read else None,
        )  # fmt: skip


class Proved(NamedTuple):
    """A certificate that was checked, and the networks that it is about."""

    certificate: Certificate
    small: Network
    large: Network


def proved(certificate: Certificate, small: Network, large: Network) -> Proved:
    """What `Certificate.verify` checks, made anew of what is given: whoever speaks of the claim afterwards takes it from here.

    An object made in Python may hold anything, and a class derived from one of these may say anything. So the certificate is
    read again as if from a file, and the networks, with their digests, are made again from their arrays.
    """
    arithmetic.require_everywhere()
    with fields.made_by_hand("certificate"):
        claim = Certificate._of(certificate.plain())
    with fields.made_by_hand("network"):
        found = Proved(claim, rebuilt(small), rebuilt(large))
    claim._verify(found.small, found.large)
    return found


def ball(net: Network, radius: float) -> Ball:
    """The parameters within a radius of a network whose rank the kernel can bound from below.

    Raises:
        CertificateRejected: more than one hidden layer, or an activation whose irreducible networks need not be minimal.
    """
    if len(net.layers) != 2 or not (net.activations[0].minimal and net.activations[0].symmetric):
        raise CertificateRejected(
            f"lower bounds within a radius are known for one hidden layer of tanh, sigmoid or erf, not {net}"
        )
    hidden, last = net.layers
    rows = np.concatenate([hidden.weight, hidden.bias[:, None]], axis=1)
    return Ball(rows, np.ascontiguousarray(last.weight.T), radius)


def first(large: Network, region: Region | None, changed: Changed | None = None) -> Network:
    """Where the moves start: parameters are changed, weights that play no part on the box are zero; nothing is proved here."""
    start = large if changed is None else changed.network(large)
    return start if region is None else cut(start, region.cases)


def _slack(left: State, right: Layers, region: Region | None, changed: Changed | None) -> Slack:
    """The difference on all inputs, or on the box of a region; plus what changed parameters do there."""
    radius = None if region is None else region.radius
    found = difference(left.arrays(), right, left.activations, radius=radius)
    if changed is None:
        return found
    return replace(found, constant=sum_up(found.constant, changed.enclosure.upper))


def certify(
    large: Network,
    moves: Sequence[Move],
    small: Network,
    *,
    state: State | None = None,
    near: Near | None = None,
    region: Region | None = None,
    changed: Changed | None = None,
) -> Certificate:
    """The certificate that `moves` lead from `large` to `small`, with the least slack and minimality if it is provable.

    The signs of a region and the effect of changes are taken as proved here; `Certificate.verify` proves them.
    """
    left = state or replay(first(large, region, changed), moves, near, region)
    if left.widths != small.widths:
        raise ShapeError(f"the moves lead to widths {left.widths}, the small network has {small.widths}")
    slack = _slack(left, exact_arrays(small), region, changed)
    proof = Certificate(large.digest, small.digest, tuple(moves), (), slack, near=near, region=region, changed=changed)
    return replace(proof, minimal=proof._not_minimal(left, small) is None)
