"""Certificates about graphs: the claim, the moves that prove it, their check. Part of the kernel.

A certificate says of two graphs, by their digests:

    for every input x [between given bounds]: no entry of an output of `small` is further from that of
    `large` than slack, a number plus a multiple of |x|_inf; over the reals.

The proof is a list of moves that make `small` of `large`, in rounds; facts about slices (`facts`)
are made anew before each round.

| move | what it does | precondition |
|---|---|---|
| remove | leaves out units of an axis, some of them merged into others | `removal` |
| bypass | lets the readers of a node read one of its inputs | `bypasses` |
| bound | bounds units of a tensor by affine functions, for the round that it opens; on a box | `back_substitution` |
| combine | leaves out units between two layers that are sums of others; alone in its round | `combining` |
| order | puts units of an axis in another order; with others of its kind alone in its round | `ordering` |
| scale | multiplies units of an axis by numbers; with others of its kind alone in its round | `scaling` |
| unroll | orders or scales of its round are of the graph with a tensor cut along an axis | `unrolling` |

What no output needs goes before the first round and after each. The result has to be `small`:
operators, wiring and every stored number. Moves are exact over the reals; what they make and the
stored type cannot hold is rounded, and after each round the difference that this makes is bounded
(`differences`). The slack is at least the sum of these bounds, and zero where nothing was rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from .. import arithmetic, fields
from ..errors import CertificateRejected
from ..slack import NO_SLACK, Slack
from .axes import FIXED, Units, units_from
from .back_substitution import BackSubstitution
from .bypasses import bypassed
from .combining import combined
from .differences import difference
from .facts import Known, Loss, Ranges
from .model import GraphModel, rebuilt
from .operators import Node, Place
from .ordering import exchangeable, ordered
from .removal import remove
from .scaling import Factors, scaled, spread
from .shapes import require_shapes
from .unrolling import unrolled

SCHEMA = "moduli.certificate/2"
LARGEST = float(np.finfo(np.float64).max)
MOST = 64  # the largest power of a number by which units are multiplied
MOST_PRODUCTS = 10**12  # multiplications for the bounds of a round, some minutes
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class GraphMove:
    """One step; see the table of the module.

    Attributes:
        kind: "remove", "bypass", "bound", "combine", "order", "scale" or "unroll".
        tensor: whose axis has the units; for a bypass the sum, to combine what the first layer gives.
        axis: of the tensor. units: first indices along it of the units that go.
        into: for each, the first index of the unit that it is merged into, or -1; to combine, the
            units that stay of which they are sums. coefficients: of these sums, unit by unit. To order,
            units has for each unit, by its first index, the former one that comes to its place. To
            scale, coefficients has a number for each unit, and powers for each axis of a tensor, by its
            name and its number, the power of it that multiplies the tensor. values: to remove, for
            some columns of layers that read the units, each by the tensor that the layer gives, the
            number that is taken for what is read there. To bound, depth is how many layers to go back
            through.
    """

    kind: str
    tensor: str
    axis: int = 0
    units: tuple[int, ...] = ()
    into: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = ()
    powers: tuple[tuple[str, int, int], ...] = ()
    depth: int = 0
    values: tuple[tuple[str, int, float], ...] = ()

    def __str__(self) -> str:
        if self.kind == "bypass":
            return f"bypass of {self.tensor!r}"
        some = ", ".join(map(str, self.units[:4])) + (", ..." if len(self.units) > 4 else "")
        if self.kind == "combine":
            return f"combination of {some} of {self.tensor!r}"
        if self.kind == "order":
            return f"order along axis {self.axis} of {self.tensor!r}"
        if self.kind == "unroll":
            return f"{self.tensor!r} cut along axis {self.axis}"
        if self.kind == "scale":
            return f"scale of {some} along axis {self.axis} of {self.tensor!r}"
        if self.kind == "bound":
            return f"bounds of {some} along axis {self.axis} of {self.tensor!r}"
        return f"remove of {some} along axis {self.axis} of {self.tensor!r}"

    def plain(self) -> dict[str, Any]:
        own = {name: _listed(getattr(self, name)) for name in FIELDS.get(self.kind, ())}
        return {"move": self.kind, "tensor": self.tensor, **own}

    @staticmethod
    def of(data: Any) -> GraphMove:
        kind = data.get("move") if type(data) is dict else None
        if type(kind) is not str or kind not in FIELDS:
            raise CertificateRejected(f"not a move of a graph: {str(data)[:80]}")
        read = fields.record(data, ("move", "tensor", *FIELDS[kind]), f"a move {kind!r}")
        given = {name: READ[name](read[name]) for name in FIELDS[kind]}
        return GraphMove(kind, fields.text(read["tensor"], "tensor"), **given)


# What each kind of move has beside the tensor
FIELDS = {
    "remove": ("axis", "units", "into", "values"), "bypass": (), "combine": ("units", "into", "coefficients"),
    "order": ("axis", "units"), "scale": ("axis", "units", "coefficients", "powers"),
    "unroll": ("axis",), "bound": ("axis", "units", "depth"),
}  # fmt: skip


def _listed(value: Any) -> Any:
    return [_listed(x) for x in value] if type(value) is tuple else value


def _axis(data: Any) -> int:
    return fields.whole(data, 0, 32, "axis")


def _numbered(least: int, what: str) -> Callable[[Any], tuple[int, ...]]:
    return lambda data: tuple(fields.whole(x, least, 2**31, what) for x in fields.items(data, what))


def _coefficients(data: Any) -> tuple[float, ...]:
    return tuple(fields.real(x, "a coefficient") for x in fields.items(data, "coefficients"))


def _powers(data: Any) -> tuple[tuple[str, int, int], ...]:
    found = list[tuple[str, int, int]]()
    for power in fields.items(data, "powers"):
        parts = fields.items(power, "a power")
        if len(parts) != 3:
            raise CertificateRejected("a power is a tensor, an axis and a number")
        number = fields.whole(parts[2], -MOST, MOST, "power")
        found.append((fields.text(parts[0], "tensor"), _axis(parts[1]), number))
    return tuple(found)


def _values(data: Any) -> tuple[tuple[str, int, float], ...]:
    found = list[tuple[str, int, float]]()
    for value in fields.items(data, "values"):
        parts = fields.items(value, "a value")
        if len(parts) != 3:
            raise CertificateRejected("a value is a tensor, a column and a number")
        column = fields.whole(parts[1], 0, 2**31, "column")
        found.append((fields.text(parts[0], "tensor"), column, fields.real(parts[2], "a value")))
    return tuple(found)


READ: dict[str, Callable[[Any], Any]] = {
    "axis": _axis, "units": _numbered(0, "units"), "into": _numbered(-1, "into"),
    "coefficients": _coefficients, "powers": _powers, "values": _values,
    "depth": lambda data: fields.whole(data, 1, 2**20, "depth"),
}  # fmt: skip


@dataclass(frozen=True)
class GraphCertificate:
    """A claim about two graphs with its proof; the claim is stated at the top of this module.

    Attributes:
        large, small: digests. rounds: of moves. ranges: bounds of inputs by name, arrays that
            broadcast against them; for all inputs where there are none. slack: how far outputs may
            be apart.
    """

    large: str
    small: str
    rounds: tuple[tuple[GraphMove, ...], ...]
    ranges: Mapping[str, tuple[Any, Any]]
    slack: Slack = NO_SLACK

    @np.errstate(all="ignore")
    def verify(self, small: GraphModel, large: GraphModel) -> None:
        """Check the claim, trusting the kernel and the two graphs alone.

        Raises:
            CertificateRejected: naming the move or the claim that fails.
        """
        arithmetic.require_everywhere()
        with fields.made_by_hand("certificate"):
            claim = GraphCertificate._of(self.plain())
        with fields.made_by_hand("graph"):
            small, large = rebuilt(small), rebuilt(large)
        for side, graph, digest in (("large", large, claim.large), ("small", small, claim.small)):
            if graph.digest != digest:
                raise CertificateRejected(
                    f"the {side} graph is not the certified one: digest {graph.digest}, not {digest}"
                )
        for name in claim.ranges:
            if name not in large.inputs:
                raise CertificateRejected(f"bounds are given of {name!r}, which is no input")
        require_shapes(large)
        left, slack = large.live(), NO_SLACK
        for moves in claim.rounds:
            left, further = played(left, moves, claim.ranges)
            slack += further
        if left.digest != small.digest:
            raise CertificateRejected(
                f"after all moves the graph has digest {left.digest}; the small one has {small.digest}"
            )
        if not (slack.constant <= claim.slack.constant and slack.growth <= claim.slack.growth):
            raise CertificateRejected(
                f"a slack of {claim.slack} is claimed; what was rounded accounts for {slack}"
            )

    def plain(self) -> dict[str, Any]:
        rounds = [[move.plain() for move in moves] for moves in self.rounds]
        return {
            "schema": SCHEMA, "large": self.large, "small": self.small, "rounds": rounds,
            "bounds": listed(self.ranges), "slack": [self.slack.constant, self.slack.growth],
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(text: str | bytes) -> GraphCertificate:
        """Read a certificate; strict: unknown, missing or doubled fields are refused."""
        return fields.read_json(text, GraphCertificate._of)

    @staticmethod
    def _of(data: Any) -> GraphCertificate:
        names = ("schema", "large", "small", "rounds", "bounds", "slack")
        read = fields.record(data, names, f"a certificate of schema {SCHEMA}")
        if fields.text(read["schema"], "schema") != SCHEMA:
            raise CertificateRejected(
                f"not a certificate of schema {SCHEMA} but of {read['schema']}"
            )
        rounds = []
        for moves in fields.items(read["rounds"], "rounds"):
            rounds.append(tuple(map(GraphMove.of, fields.items(moves, "moves of a round"))))
        if type(read["bounds"]) is not dict:
            raise CertificateRejected("bounds are no object")
        ranges = {fields.text(k, "input"): _ends(v) for k, v in read["bounds"].items()}
        return GraphCertificate(
            fields.text(read["large"], "large"), fields.text(read["small"], "small"), tuple(rounds),
            ranges, _slack(read["slack"]),
        )  # fmt: skip


def listed(ranges: Ranges) -> dict[str, Any]:
    """Bounds of inputs as lists of numbers."""
    return {
        name: [np.asarray(end, dtype=np.float64).tolist() for end in ends]
        for name, ends in ranges.items()
    }


def _slack(data: Any) -> Slack:
    pair = fields.items(data, "slack")
    if len(pair) != 2 or not all(type(x) in (int, float) and 0 <= x <= LARGEST for x in pair):
        raise CertificateRejected("slack is two floats that are not negative")
    return Slack(*map(float, pair))


def _numbers(data: Any) -> Any:
    """An array of floats, from numbers that are floats exactly."""
    given = np.array(data, dtype=object)
    for x in given.ravel().tolist():
        if type(x) not in (int, float) or float(x) != x:
            raise TypeError(x)
    return given.astype(np.float64)


def _ends(data: Any) -> tuple[Any, Any]:
    pair = fields.items(data, "bounds of an input")
    if len(pair) != 2:
        raise CertificateRejected("bounds of an input are two arrays")
    if not all(map(_all_numbers, pair)):
        raise CertificateRejected("bounds of an input are no numbers")
    try:
        low, high = (_numbers(end) for end in pair)
        fits = np.broadcast_shapes(low.shape, high.shape)
    except (ValueError, TypeError, OverflowError):
        raise CertificateRejected("bounds of an input are no arrays of numbers that fit") from None
    if not (low <= high).all() or np.isnan(low).any() or np.isnan(high).any() or len(fits) > 32:
        raise CertificateRejected("a lower bound of an input is above the upper one")
    return low, high


def _all_numbers(data: Any) -> bool:
    """Whether nested lists hold numbers alone, and not what NumPy would take for one."""
    if type(data) is list:
        return all(map(_all_numbers, data))
    return type(data) in (int, float)


def played(
    graph: GraphModel, moves: Iterable[GraphMove], ranges: Ranges
) -> tuple[GraphModel, Slack]:
    """A graph after a round of moves, each checked, and what was lost by rounding.

    Raises:
        CertificateRejected: naming the move and what fails.
    """
    passed, moves = False, tuple(moves)
    if any(move.kind in ("order", "scale", "unroll") for move in moves):
        small, rounded = transformed(graph, moves)
        if not rounded:
            return small, NO_SLACK
        known = Known(small, ranges, inputs_alone=True)
        known.rounded = rounded
        return ended(known)
    asked = [move for move in moves if move.kind == "bound"]
    moves = moves[len(asked) :]
    if any(move.kind == "bound" for move in moves):
        raise CertificateRejected("bounds are asked for after other moves of their round")
    known = bounded(graph, ranges, asked) if asked else Known(graph, ranges)
    if any(move.kind == "combine" for move in moves):
        if len(moves) > 1:
            raise CertificateRejected("a combination is alone in its round")
        try:
            return combination(known, moves[0], ranges)
        except CertificateRejected as error:
            raise CertificateRejected(f"{moves[0]}: {error}") from None
    for move in moves:
        try:
            if move.kind == "bypass":
                bypassed(known, move.tensor)
                passed = True
                continue
            if passed:  # what was passed by may hold units that have to go
                known.graph, passed = known.graph.live(), False
            removed(known, move)
        except CertificateRejected as error:
            raise CertificateRejected(f"{move}: {error}") from None
    return ended(known)


def bounded(graph: GraphModel, ranges: Ranges, asked: Sequence[GraphMove]) -> Known:
    """Facts of a graph, with the bounds that are asked for."""
    waiting: dict[str, list[GraphMove]] = {}
    for move in asked:
        name, axis = _place(graph, move)
        there = range(int((graph.shapes[name] or ())[axis]))
        if name not in graph.makers or not set(move.units) <= set(there):
            raise CertificateRejected(f"{move}: nothing computes them")
        waiting.setdefault(name, []).append(move)
    backs = list[BackSubstitution]()

    def refine(known: Known, node: Node) -> None:
        if not backs:
            backs.append(BackSubstitution(known, MOST_PRODUCTS))
        for move in waiting.get(node.output, ()) if node.outputs else ():
            units = np.array(move.units, dtype=np.int64)
            try:
                backs[0].narrow(move.tensor, move.axis, units, move.depth)
            except CertificateRejected as error:
                raise CertificateRejected(f"{move}: {error}") from None

    return Known(graph, ranges, refine=refine)


def ended(known: Known) -> tuple[GraphModel, Slack]:
    """What is left after a round, and what was lost by rounding: facts are of the graph with what the
    moves make, from which the one that is stored is away by what they have lost.
    """
    graph = known.graph.live()
    rounded = {name: lost for name, lost in known.rounded.items() if name in graph.constants}
    if not rounded:
        return graph, NO_SLACK

    def deviation(name: str) -> Any:
        lost = rounded.get(name)
        return None if lost is None else lost.whole(graph.constants[name].shape)

    return graph, difference(graph, deviation, known)


def combination(known: Known, move: GraphMove, ranges: Ranges) -> tuple[GraphModel, Slack]:
    """The graph after a combination. Other rows give other facts, of which those of inputs are left."""
    shape = (len(move.units), len(move.into))
    if len(move.coefficients) != shape[0] * shape[1]:
        raise CertificateRejected("coefficients are a number for each pair of units")
    coefficients = np.array(move.coefficients, dtype=np.float64).reshape(shape)
    small, slack = combined(known, move.tensor, move.units, move.into, coefficients)
    fresh = Known(small, ranges, inputs_alone=True)
    fresh.rounded = known.rounded
    graph, further = ended(fresh)
    return graph, slack + further


def after(graph: GraphModel, digest: str, rounds: Iterable[Iterable[GraphMove]]) -> str:
    """The digest of a graph, named by its digest, after scales and orders of its units that round
    nothing.

    Raises:
        CertificateRejected: it is another graph, or naming the move that fails.
    """
    with fields.made_by_hand("graph"):
        graph = rebuilt(graph)
    if graph.digest != digest:
        raise CertificateRejected(f"the graph has digest {graph.digest}, not {digest}")
    require_shapes(graph)
    for given in rounds:
        with fields.made_by_hand("move"):
            moves = [GraphMove.of(move.plain()) for move in given]
        if not {move.kind for move in moves} <= {"order", "scale", "unroll"}:
            raise CertificateRejected("a move is no order and no scale of units")
        graph, slack = played(graph, moves, {})
        if slack != NO_SLACK:
            raise CertificateRejected("a scale rounds what is stored")
    return graph.digest


def transformed(
    graph: GraphModel, moves: Sequence[GraphMove]
) -> tuple[GraphModel, dict[str, Loss]]:
    """A graph after a round of orders or of scales, and what of its stored tensors was rounded. Whether
    outputs stay as they are is asked of the graph that is cut as `unroll` says, which stores the same.
    """
    cuts = [move for move in moves if move.kind == "unroll"]
    rest = [move for move in moves if move.kind != "unroll"]
    if not any({move.kind for move in rest} <= {kind} for kind in ("order", "scale")):
        raise CertificateRejected("orders, or scales, are in one round with other moves")
    cut = unrolled(graph, [_place(graph, move) for move in cuts]) if cuts else graph
    if cuts:
        require_shapes(cut)
    rounded = dict[str, Loss]()
    if all(move.kind == "scale" for move in rest):
        moved, rounded = scaled(cut, _factors(cut, rest))
    else:
        moved = _all_in_order(cut, rest)
    constants = {name: moved.constants[name] for name in graph.constants}
    return replace(graph, constants=constants), rounded


def _factors(graph: GraphModel, moves: Sequence[GraphMove]) -> Factors:
    """What scales together multiply each axis of each tensor by."""
    factors = dict[Place, Any]()
    for move in moves:
        try:
            for place, numbers in factors_of(graph, move).items():
                factors[place] = factors[place] * numbers if place in factors else numbers
        except CertificateRejected as error:
            raise CertificateRejected(f"{move}: {error}") from None
    return factors


def factors_of(graph: GraphModel, move: GraphMove) -> Factors:
    """What a scale multiplies each axis of each tensor by."""
    units = exchangeable(graph, _place(graph, move))
    gone, _ = numbered(units, move)
    if len(move.coefficients) != len(gone) or len(set(gone)) < len(gone) or FIXED in gone:
        raise CertificateRejected("coefficients are a number for each unit that is not fixed")
    numbers = [Fraction(1)] * units.count
    for unit, r in zip(gone, move.coefficients, strict=True):
        if r == 0:
            raise CertificateRejected("a unit is multiplied by zero")
        numbers[unit - 1] = Fraction(r)
    powers = {(tensor, axis): power for tensor, axis, power in move.powers}
    if len(powers) < len(move.powers):
        raise CertificateRejected("an axis has two powers")
    return spread(units, numbers, powers)


def _all_in_order(graph: GraphModel, moves: Iterable[GraphMove]) -> GraphModel:
    for move in moves:
        try:
            graph = _in_order(graph, move)
        except CertificateRejected as error:
            raise CertificateRejected(f"{move}: {error}") from None
    return graph


def _in_order(graph: GraphModel, move: GraphMove) -> GraphModel:
    """The graph after units trade places."""
    units = exchangeable(graph, _place(graph, move))
    labels = units.places[units.seed]
    if any(not 0 <= i < len(labels) for i in move.units):
        raise CertificateRejected(f"the axis has {len(labels)} indices")
    order = [int(labels[i]) for i in move.units]
    # units that the axis does not have, numbered behind the others, stay
    return ordered(graph, units, [*order, *range(len(order) + 1, units.count + 1)])


def _place(graph: GraphModel, move: GraphMove) -> Place:
    shape = graph.shapes.get(move.tensor)
    if shape is None or not 0 <= move.axis < len(shape) or not isinstance(shape[move.axis], int):
        raise CertificateRejected("there is no such axis of known size")
    return move.tensor, move.axis


def removed(known: Known, move: GraphMove) -> GraphModel:
    """The graph after a removal."""
    place = _place(known.graph, move)
    if len(move.units) != len(move.into) or len(set(move.units)) < len(move.units):
        raise CertificateRejected("units and what they are merged into do not match")
    values = {(layer, column): value for layer, column, value in move.values}
    if len(values) < len(move.values):
        raise CertificateRejected("a column has two values")
    units = units_from(known.graph, place)
    return remove(known, units, dict(zip(*numbered(units, move), strict=True)), values)


def numbered(units: Units, move: GraphMove) -> tuple[list[int], list[int | None]]:
    """Numbers of the units that a move names by an index of the seed."""
    labels = units.places[units.seed]
    n = len(labels)
    if any(not 0 <= i < n for i in move.units) or any(not -1 <= i < n for i in move.into):
        raise CertificateRejected(f"the axis has {n} indices")
    gone = [int(labels[i]) for i in move.units]
    return gone, [None if i < 0 else int(labels[i]) for i in move.into]
