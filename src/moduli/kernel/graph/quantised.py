"""How far a quantised graph is from one in floats, on a box or for all inputs. Part of the kernel.

A quantised graph stores integers and scales, and rounds values on the way:

    q(x) = scale (clip(round(x / scale) + zero, lowest, highest) - zero),

which is at most scale / 2 from x where x lies between low = scale (lowest - zero) and high = scale
(highest - zero), and otherwise off by what x is beyond these ends as well; and never more than |x|
from x, as zero is such a number, too. So it is a *bare* graph, without these nodes, whose stored
numbers are the products of integers and scales, and which is off by that much at some values, its
*points*. Where the bare graph has the operators and the wiring of the other one, both are compared as
`differences` does, and each point adds what it rounds.

Between rounding and scaling back, integers may be moved, and the largest be taken: as x -> scale (x -
zero) is increasing and acts entry by entry, it may be done before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..bounds import zonotopes
from ..bounds.output_gap import Measured
from ..bounds.propagation import blocks_of
from ..exact_numbers import up
from ..network import Network
from .chains import start_of
from .differences import (
    Bound,
    Differences,
    Pair,
    at_most,
    deviations,
    matched,
    overall,
    plus,
    ranked,
    renamed_like,
    without_growth,
)
from .entrywise import Elementwise, PerUnit
from .facts import Known, Ranges
from .model import GraphModel
from .operators import Broadcast, Concat, Linear, Node, Reshape, Slicewise, Take, Transpose
from .slices import are_numbers
from .slicewise import BY_ITS_RANGE, MAXIMA

Array = np.ndarray[Any, np.dtype[np.float64]]
Tensor = np.ndarray[Any, np.dtype[Any]]
MOVES = (Broadcast, Concat, Reshape, Take, Transpose)
STEPS = 255
FLOAT = 8  # bytes


@dataclass(frozen=True, eq=False)
class Point:
    """Where a quantised graph rounds: a value of the bare graph.

    Attributes:
        axis: along which `scale`, `low` and `high` have one number for each index, or one for all.
        name: of the node that rounds. extra: how much further off it is, where it rounds what is not
            cut off yet. dynamic: whether the step depends on the value; then there are no ends.
    """

    value: str
    axis: int
    scale: Array
    low: Array
    high: Array
    name: str
    extra: float = 0.0
    dynamic: bool = False

    @property
    def keeps_zero(self) -> bool:
        """Whether zero is one of the numbers that are rounded to: no x is off by more than |x| then."""
        return bool(self.extra == 0 and (self.low <= 0).all() and (self.high >= 0).all())


class Bare(NamedTuple):
    """A graph without the nodes that quantise, and where it is off.

    Attributes:
        rounded: stored tensors whose numbers are the nearest floats of products. sources: of stored
            tensors that were turned or got axes, what they are called in the graph. mixed: values at
            points that some read as they are, or through other points than others do.
    """

    graph: GraphModel
    points: tuple[Point, ...]
    rounded: frozenset[str] = frozenset()
    sources: Mapping[str, str] = MappingProxyType({})
    mixed: frozenset[str] = frozenset()


class _Scale(NamedTuple):
    """Of integers: what they stand for is scale (x - zero)."""

    axis: int
    scale: bytes
    zero: bytes


def bare(graph: GraphModel) -> Bare:
    """Without rounding; nodes that cannot be understood so stay what they are."""
    return _Stripper(graph.live()).stripped()


class _Stripper:
    def __init__(self, graph: GraphModel) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.alias: dict[str, str] = {}
        self.scales: dict[str, _Scale] = {}  # of values that are integers
        self.points: list[Point] = []
        self.rounded = set[str]()
        self.shapes = dict(graph.shapes)
        self.sources: dict[str, str] = {}
        self.through: dict[str, tuple[int, ...]] = {}  # which points a name is read through
        self.ways: dict[str, set[tuple[int, ...]]] = {}  # in which ways a value is read
        self.made: dict[tuple[str, str], str] = {}
        self.same: dict[Any, int] = {}  # numbers of points, by all that makes them
        self.taken = {*graph.shapes, *graph.constants, *graph.makers, *graph.inputs}

    def _read(self, name: str) -> str:
        """The value that a name stands for, which somebody reads."""
        value = self.alias.get(name, name)
        self.ways.setdefault(value, set()).add(self.through.get(name, ()))
        return value

    def _stand(self, name: str, source: str, point: int | None = None) -> None:
        """A name stands for the value of another one, behind one point more."""
        before = self.through.get(source, ())
        self.alias[name] = self.alias.get(source, source)
        self.through[name] = before if point is None else (*before, point)

    def stripped(self) -> Bare:
        nodes = []
        for node in self.graph.nodes:
            if self._dequantised_constant(node) or self._rounds(node) or self._scales_back(node):
                continue
            if self._changes_nothing(node) or self._rounds_by_range(node):
                continue
            # integers that are read by whoever computes with them are not what they stand for
            if any(name in self.scales for name in node.inputs) and not self._moves(node):
                return Bare(self.graph, ())
            inputs = tuple(self._read(name) if name else name for name in node.inputs)
            nodes += self._plain(replace(node, inputs=inputs))
        if any(name in self.scales for name in self.graph.outputs):
            return Bare(self.graph, ())
        outputs = tuple(map(self._read, self.graph.outputs))
        if len(set(outputs)) < len(outputs) or set(outputs) & set(self.graph.inputs):
            return Bare(self.graph, ())
        shapes = self.shapes
        shapes.update({name: array.shape for name, array in self.constants.items()})
        made = replace(
            self.graph, nodes=tuple(nodes), outputs=outputs, constants=self.constants, shapes=shapes
        )
        live = made.live()
        rounded = frozenset(self.rounded & live.constants.keys())
        mixed = frozenset(value for value, ways in self.ways.items() if len(ways) > 1)
        return Bare(live, tuple(self.points), rounded, self.sources, mixed)

    # One way to write what can be written in several

    def _plain(self, node: Node) -> list[Node]:
        """A node as others may have it: dense weights with a row for each output, biases added by a node
        of their own, stored numbers that are added with all axes.
        """
        if isinstance(node.op, Linear) and node.inputs[1] in self.constants:
            return self._linear(node, node.op)
        if isinstance(node.op, Elementwise) and len(node.inputs) == 2:
            rank = len(self.graph.shapes.get(node.output) or ())
            inputs = tuple(self._with_axes(name, rank) for name in node.inputs)
            return [replace(node, inputs=inputs)]
        return [node]

    def _linear(self, node: Node, op: Linear) -> list[Node]:
        weight = self.constants[node.inputs[1]]
        inputs = node.inputs
        if weight.ndim == 2 and (op.rows, op.columns) == (1, 0):
            turned = self._stored(f"{inputs[1]}, turned", np.ascontiguousarray(weight.T), inputs[1])
            op = replace(op, rows=0, columns=1)
            inputs = (inputs[0], turned, *inputs[2:])
        shape = self.graph.shapes.get(node.output)
        bias = self._array(inputs[2]) if len(inputs) > 2 and inputs[2] else None
        if bias is None or shape is None or bias.ndim != 1:
            return [replace(node, op=op, inputs=inputs)]
        along = [1] * len(shape)
        along[op.writes] = -1
        name = self._fresh(f"{node.output}, without its bias")
        self.shapes[name] = shape
        added = self._stored(
            f"{inputs[2]}, along {op.writes} of {len(shape)}", bias.reshape(along), inputs[2]
        )
        return [
            Node(op, inputs[:2], (name,), node.name),
            Node(Elementwise("add"), (name, added), (node.output,), f"{node.name}, its bias"),
        ]

    def _with_axes(self, name: str, rank: int) -> str:
        """A stored tensor with axes of size one in front."""
        array = self._array(name)
        if array is None or array.ndim > rank or not rank:
            return name
        wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return self._stored(f"{name}, of {rank} axes", wide, name)

    def _array(self, name: str) -> Tensor | None:
        found = self.constants.get(name)
        return self.graph.array(name) if found is None else found

    def _fresh(self, name: str) -> str:
        """A name that nothing in the graph has."""
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name

    def _stored(self, name: str, array: Tensor, source: str) -> str:
        """A stored tensor under a name of its own, the same for the same."""
        name = self.made.get((name, source)) or self.made.setdefault(
            (name, source), self._fresh(name)
        )
        self.constants[name] = array
        if source in self.rounded:
            self.rounded.add(name)
        self.sources[name] = self.sources.get(source, source)
        return name

    def _dequantised_constant(self, node: Node) -> bool:
        if not isinstance(node.op, PerUnit) or node.op.kind != "dequantise":
            return False
        value = self.graph.rearranged.get(node.output)
        if value is None:
            given, array = self._given(node), self.graph.array(node.inputs[0])
            if given is None or array is None or array.dtype.kind not in "iu":
                return False
            along = [-1 if axis == node.op.axis else 1 for axis in range(array.ndim)]
            scale, zero = (part.reshape(along if len(part) > 1 else ()) for part in given)
            # integers of 32 bits, less one, are exact
            value = (array.astype(np.float64) - zero) * scale
            if array.dtype.itemsize > 4:
                return False
            self.rounded.add(node.output)
        self.constants[node.output] = value
        return True

    def _rounds_by_range(self, node: Node) -> bool:
        if not isinstance(node.op, Slicewise) or node.op.kind != BY_ITS_RANGE:
            return False
        value = self.alias.get(node.inputs[0], node.inputs[0])
        if self._array(value) is not None:
            return False
        end = np.full(1, np.inf)
        name = node.name or node.output
        self.points.append(Point(value, 0, np.zeros(1), -end, end, name, dynamic=True))
        self._stand(node.output, node.inputs[0], len(self.points) - 1)
        return True

    def _changes_nothing(self, node: Node) -> bool:
        same = isinstance(node.op, Elementwise) and node.op.kind == "identity"
        if not same or self.graph.array(node.output) is not None:
            return False
        x = node.inputs[0]
        self._stand(node.output, x)
        if x in self.scales:
            self.scales[node.output] = self.scales[x]
        return True

    def _given(self, node: Node) -> tuple[Array, Array] | None:
        """Scale and zero point, where they are stored."""
        arrays = [self.graph.array(name) for name in node.inputs[1:] if name]
        if not arrays or any(a is None or not are_numbers(a) for a in arrays):
            return None
        scale, *zeros = (np.asarray(a, dtype=np.float64).ravel() for a in arrays)
        zero = zeros[0] if zeros else np.zeros(1)
        if not (scale > 0).all() or not np.isfinite(scale).all():
            return None
        return scale, zero

    def _rounds(self, node: Node) -> bool:
        if not isinstance(node.op, PerUnit) or node.op.kind != "quantise":
            return False
        given = self._given(node)
        if given is None or len(node.op.numbers) != 2:
            return False
        scale, zero = given
        lowest, highest = node.op.numbers
        value = self.alias.get(node.inputs[0], node.inputs[0])
        if self._array(value) is not None:
            return False  # of what is stored: it is left as it is
        ends = scale * (lowest - zero), scale * (highest - zero)
        # rounded once, inward; nothing where an end is zero
        before = self.through.get(node.inputs[0], ())
        key = (value, before, node.op, scale.tobytes(), zero.tobytes())
        if key in self.same:  # once more for another reader
            self._stand(node.output, node.inputs[0], self.same[key])
            self.scales[node.output] = _Scale(node.op.axis, scale.tobytes(), zero.tobytes())
            return True
        self.same[key] = len(self.points)
        low = np.where(ends[0] == 0, 0.0, np.nextafter(ends[0], np.inf))
        high = np.where(ends[1] == 0, 0.0, np.nextafter(ends[1], -np.inf))
        self.points.append(Point(value, node.op.axis, scale, low, high, node.name or node.output))
        self._stand(node.output, node.inputs[0], len(self.points) - 1)
        self.scales[node.output] = _Scale(node.op.axis, scale.tobytes(), zero.tobytes())
        return True

    def _scales_back(self, node: Node) -> bool:
        if not isinstance(node.op, PerUnit) or node.op.kind != "dequantise":
            return False
        given, held = self._given(node), self.scales.get(node.inputs[0])
        if given is None or held is None:
            return False
        scale, zero = given
        same = (scale.tobytes(), zero.tobytes()) == (held.scale, held.zero)
        if not same or (len(scale) > 1 and held.axis != node.op.axis):
            return False
        self._stand(node.output, node.inputs[0])
        return True

    def _moves(self, node: Node) -> bool:
        """Whether integers are moved, or the largest taken: they are integers of the same scale then."""
        op = node.op
        takes = isinstance(op, Slicewise) and op.kind in MAXIMA and op.hull and not op.padded
        if not (isinstance(op, MOVES) or takes):
            return False
        reads = node.inputs if isinstance(op, Concat) else node.inputs[:1]
        held = {self.scales.get(name) for name in reads}
        first = held.pop()
        # one scale for each index of an axis, or further integers that say where
        if held or first is None or len(first.scale) > FLOAT:
            return False
        if any(name in self.scales for name in node.inputs[len(reads) :]):
            return False
        self.scales[node.output] = first
        return True


# The order of nodes -----------------------------------------------------------------------------------------


def ordered(graph: GraphModel) -> GraphModel:
    """The same nodes in an order that follows from outputs and wiring alone."""
    nodes, done = list[Node](), set[str]()
    for output in graph.outputs:
        stack: list[tuple[str, bool]] = [(output, False)]
        while stack:
            name, ready = stack.pop()
            node = graph.makers.get(name)
            if node is None or node.output in done:
                continue
            if ready:
                done.add(node.output)
                nodes.append(node)
                continue
            stack.append((name, True))
            stack += [(x, False) for x in reversed(node.inputs) if x and x in graph.makers]
    return replace(graph, nodes=tuple(nodes))


# Activations that rounding does too ------------------------------------------------------------------------------


def with_cuts(graph: GraphModel, found: Bare) -> Bare:
    """The bare graph with those relus and clips of another graph that whoever quantised it left out,
    since integers have a lowest and a highest one.

    A point that rounds v may as well be said to round clip(v, a, b): where v > b, it gives what is
    between q(b) and its high end, which is at most scale / 2 + max(0, high - b) from b. So for v < a.
    """
    missing = _Cuts(graph, found).found()
    return found if missing is None else missing


class _Cuts:
    """Follows both graphs, node by node."""

    def __init__(self, graph: GraphModel, found: Bare) -> None:
        self.wanted, self.bare = graph, found
        self.points = list(found.points)
        self.names = dict(zip(graph.inputs, found.graph.inputs, strict=True))
        self.renamed: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.read: set[str] = set()  # by nodes that were followed
        self.shapes = dict(found.graph.shapes)

    def found(self) -> Bare | None:
        left = list(reversed(self.bare.graph.nodes))
        stored = {*self.wanted.constants}
        for node in self.wanted.nodes:
            mine = tuple(self.names.get(x, "") for x in node.inputs if x not in stored)
            theirs = self._read(left[-1]) if left else None
            if theirs is not None and theirs.op == node.op and self._values(theirs) == mine:
                left.pop()
                self.nodes.append(theirs)
                self.read.update(theirs.inputs)
                self.names[node.output] = theirs.output
            elif not self._cut(node):
                return None
        if left:
            return None
        graph = replace(
            self.bare.graph,
            nodes=tuple(self.nodes),
            outputs=tuple(self.renamed.get(name, name) for name in self.bare.graph.outputs),
            shapes=self.shapes,
        )
        moved = (replace(p, value=self.renamed.get(p.value, p.value)) for p in self.points)
        return self.bare._replace(graph=graph, points=tuple(moved))

    def _read(self, node: Node) -> Node:
        return replace(node, inputs=tuple(self.renamed.get(x, x) for x in node.inputs))

    def _values(self, node: Node) -> tuple[str, ...]:
        return tuple(x for x in node.inputs if x not in self.bare.graph.constants)

    def _cut(self, node: Node) -> bool:
        """Put a relu or a clip behind a point that rounds."""
        ends = _ends(node)
        value = self.names.get(node.inputs[0], "")
        name = f"{value}, cut off"
        here = [k for k, point in enumerate(self.points) if point.value == value]
        if ends is None or not here or name in self.shapes:
            return False
        # all read what is rounded, and nobody was taken for one who reads what is not cut off
        if value in self.bare.mixed or value in self.read:
            return False
        below, above = ends
        # the first one rounds what is not cut off; what others read is
        point = self.points[here[0]]
        extra = max(0.0, below - float(point.low.min()), float(point.high.max()) - above)
        self.points[here[0]] = replace(point, extra=float(up(np.float64(extra))))
        self.renamed[value] = name
        self.shapes[name] = self.shapes[value]
        self.nodes.append(Node(node.op, (value,), (name,), name))
        self.names[node.output] = name
        return True


def _ends(node: Node) -> tuple[float, float] | None:
    """Of a relu or a clip."""
    if not isinstance(node.op, Elementwise) or len(node.inputs) != 1:
        return None
    if node.op.kind == "relu":
        return 0.0, math.inf
    return (node.op.numbers[0], node.op.numbers[1]) if node.op.kind == "clip" else None


# The difference -----------------------------------------------------------------------------------------------


class Quantised(Differences):
    """Bounds of all tensors of a bare graph that is off at points; see the module.

    Args:
        found: the bare graph, whose numbers are ours. known: facts of the other graph, which has them
            nearly. near: for some values, bounds of their gaps that hold for other reasons.
    """

    def __init__(
        self, found: Bare, deviation: Callable[[str], Array | None], known: Known,
        near: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.near = near or {}
        self.points: dict[str, list[Point]] = {}
        self.mixed = found.mixed
        for point in found.points:
            self.points.setdefault(point.value, []).append(point)
        self.clipped: dict[str, float] = {}
        self.steps: dict[str, float] = {}  # of those that depend on values
        super().__init__(found.graph, deviation, known)

    def weights(self, node: Node) -> Node | None:
        """None: what a softmax gives may be rounded."""
        return None

    def given(self, name: str) -> Bound | None:
        size = self._capped(name, np.array([0.0, 1.0]))
        return self._rounded(name, size, None)

    def bounded(self, node: Node) -> Pair:
        size, gap = super().bounded(node)
        return size, self._rounded(node.output, self._capped(node.output, size), gap)

    def _rounded(self, name: str, size: Bound, gap: Bound | None) -> Bound | None:
        for point in self.points.get(name, ()):
            near = np.zeros(2) if gap is None else gap
            rank = self.rank(name)
            if point.dynamic:
                step = self._step(point, size, near)
                self.steps[point.name] = step
                off = up(np.full((), 0.5 * step))
            else:
                beyond = self._beyond(point, near)
                self.clipped[point.name] = float(np.max(beyond, initial=0.0))
                along = [1] * (rank or 0)
                if rank and len(point.scale) > 1:
                    along[point.axis] = -1
                half = (0.5 * point.scale).reshape(along if len(point.scale) > 1 else ())
                off = up(half + beyond + point.extra, 2)
            if point.keeps_zero and rank is not None:
                off = np.minimum(off, without_growth(ranked(plus(size, near), rank)))
            gap = plus(near, np.stack([off, np.zeros_like(off)], axis=-1))
            if name not in self.mixed:
                gap = at_most(gap, self._apart_at_all(point, size))
        if gap is not None and name in self.near:
            gap = at_most(gap, self.near[name])
        return gap

    def _step(self, point: Point, size: Bound, gap: Bound) -> float:
        """The largest step: all that the value, or 0, may span, in 255 parts.

        A number is off by half of it at most: the zero point is rounded as well, but where that puts one
        beyond the last integer, it is beyond by half a step.
        """
        reach, growth = overall(plus(size, gap))
        if growth > 0:
            return math.inf
        off, _ = overall(gap)
        low, high = self.known.hull(point.value, self.graph.shapes.get(point.value))
        low = max(-reach, float(np.nextafter(low - off, -np.inf)))
        high = min(reach, float(np.nextafter(high + off, np.inf)))
        span = up(np.float64((max(high, 0.0) - min(low, 0.0)) / STEPS), 4)
        return float(span)

    def _apart_at_all(self, point: Point, size: Bound) -> float:
        """A rounded value lies between both ends, and the other in its own range."""
        constant, growth = overall(size)
        if growth > 0:
            return math.inf
        low, high = self.known.hull(point.value, self.graph.shapes.get(point.value))
        low, high = max(low, -constant), min(high, constant)
        most = max(float(point.high.max()) - low, high - float(point.low.min()), 0.0)
        return float(up(np.float64(most)))

    def _beyond(self, point: Point, gap: Bound) -> Array:
        """How far a value of the quantised graph may be beyond the ends of its integers; along the axis
        that tells most.
        """
        rank = self.rank(point.value)
        shape = self.graph.shapes.get(point.value)
        if rank is None or shape is None:
            return np.full((), np.inf)
        gap = ranked(gap, rank)
        off, best = without_growth(gap), np.full((), np.inf)
        for axis, facts in self.known.along(point.value, shape):
            if len(point.scale) > 1 and axis != point.axis:
                continue
            others = tuple(a for a in range(rank) if a != axis)
            moved = off.max(axis=others, initial=0.0)
            above = up(np.maximum(facts.high + moved - point.high, 0.0), 2)
            below = up(np.maximum(point.low - facts.low + moved, 0.0), 2)
            found = np.maximum(above, below)
            found = np.where(np.isnan(found), np.inf, found)
            if found.max() < best.max():
                best = found.reshape([-1 if a == axis else 1 for a in range(rank)])
        return best


@dataclass(frozen=True, eq=False)
class Compared:
    """Two graphs of one wiring: one as it is, under the names of the other, which is bare.

    Attributes:
        ranges: of the inputs, under these names.
    """

    twin: GraphModel
    bare: Bare
    ranges: Ranges

    def bounds(self, near: Mapping[str, float] | None = None) -> Quantised:
        """Of all tensors; `near` bounds the gaps of some."""
        return Quantised(self.bare, self.deviation, self.known, near)

    def deviation(self, name: str) -> Array | None:
        """How far numbers of a stored tensor are from those of the other graph."""
        found = deviations(self.twin, self.bare.graph)(name)
        if name not in self.bare.rounded:
            return found
        sizes = np.abs(np.asarray(self.bare.graph.constants[name], dtype=np.float64))
        lost = up(sizes * 2.0**-52) + 2.0**-1074
        return lost if found is None else up(found + lost)

    @cached_property
    def known(self) -> Known:
        return Known(self.twin, self.ranges)

    def only(self, source: str) -> Compared:
        """The same where nothing is off but one point, by its name, or one stored tensor."""
        graph = self.bare.graph
        points = tuple(point for point in self.bare.points if point.name == source)
        constants = dict(self.twin.constants)
        if source in constants:
            constants[source] = graph.constants[source]
        part = self.bare._replace(
            graph=replace(graph, constants=constants),
            points=points,
            rounded=self.bare.rounded & {source},
        )
        found = replace(self, bare=part)
        found.__dict__["known"] = self.known
        return found

    def sources(self) -> list[str]:
        """What is off: points, and stored tensors that are not what they were."""
        stored = [x for x in self.bare.graph.constants if self.deviation(x) is not None]
        return [*(point.name for point in self.bare.points), *stored]


def compared(first: GraphModel, second: GraphModel, ranges: Ranges) -> Compared | None:
    """A graph and one that is it quantised; None where the second is none of the first. `ranges` are of
    the inputs of the first.

    Raises:
        CertificateRejected: inputs or outputs do not fit each other.
    """
    first, second = matched(first, second)
    one, two = bare(first), bare(second)
    if one.points or one.rounded:
        return None
    plain = ordered(one.graph)
    two = with_cuts(plain, two._replace(graph=ordered(two.graph)))
    twin = renamed_like(plain, two.graph)
    if twin is None:
        return None
    # every point has to be where a bound of a value is made
    values = {*two.graph.inputs, *(node.output for node in two.graph.nodes)}
    if any(p.value not in values or two.graph.array(p.value) is not None for p in two.points):
        return None
    names = dict(zip(plain.inputs, two.graph.inputs, strict=True))
    return Compared(twin, two, {names[name]: ends for name, ends in ranges.items()})


# Chains -------------------------------------------------------------------------------------------------------


class Drifts(NamedTuple):
    """Points of a chain of layers, as `zonotopes.apart` asks for them: at what each layer reads, and at
    what it gives before its activation.
    """

    read: tuple[tuple[Point, ...], ...]
    given: tuple[tuple[Point, ...], ...]

    def reads(self, layer: int, low: Array, high: Array) -> Array:
        return _off(self.read[layer], low, high)

    def gives(self, layer: int, low: Array, high: Array) -> Array:
        return _off(self.given[layer], low, high)


def _off(points: tuple[Point, ...], low: Array, high: Array) -> Array:
    """|q(x) - x| at most, for x within ends, through points one after another."""
    total = np.zeros_like(low)
    for point in points:
        above = up(np.maximum(high + total - point.high, 0.0), 2)
        below = up(np.maximum(point.low - low + total, 0.0), 2)
        off = 0.5 * point.scale + np.maximum(above, below) + point.extra
        if point.keeps_zero:
            off = np.minimum(off, np.maximum(np.abs(low), np.abs(high)) + total)
        total = up(total + off, 4)
    return np.where(np.isnan(total), np.inf, total)


class Chains(NamedTuple):
    """The starts of two graphs of one wiring that are chains, and where the second is off.

    Attributes:
        value: that both give in the end.
    """

    a: Network
    b: Network
    drifts: Drifts
    value: str

    def measure(self, low: Array, high: Array, enough: float, far: float) -> Measured:
        """Bounds of |a - b|_inf on boxes, as `output_gap` has them."""
        tops, blames = list[Array](), list[Array]()
        width = max(self.a.widths) * (2 * self.a.widths[0] + 2 * self.a.units)
        for block in blocks_of(len(low), width):
            found = zonotopes.apart(
                self.a.layers, self.b.layers, low[block], high[block], self.drifts
            )
            lo, hi = found.difference[-1]
            worst = np.maximum(-lo, hi).max(axis=1)
            tops.append(np.where(np.isnan(worst), np.inf, np.maximum(worst, 0.0)))
            blames.append(found.blame)
        return Measured(np.concatenate(tops), np.concatenate(blames))


def _by_units(graph: GraphModel, point: Point, units: int) -> Point:
    """A point of vectors: a scale for each unit where its axis is that of units, else the widest for
    all.
    """
    shape = graph.shapes.get(point.value) or ()
    sizes = [n for axis, n in enumerate(shape) if axis not in (0, point.axis)]
    alone = point.axis != 0 and all(n == 1 for n in sizes)
    if len(point.scale) == 1 or (alone and len(point.scale) == units):
        return point
    ends = point.scale.max(), point.low.max(), point.high.min()
    scale, low, high = (np.full(1, end) for end in ends)
    return replace(point, scale=scale, low=low, high=high)


def chains_of(pair: Compared) -> Chains | None:
    """As far as both are chains; None where they are none, or round where no layer ends."""
    one, two = start_of(pair.twin), start_of(pair.bare.graph)
    if one is None or two is None or one.values != two.values or pair.bare.rounded:
        return None
    points = pair.bare.points
    if any(point.dynamic for point in points):
        # steps as they are on the whole box: other rows of a batch may be anywhere in it
        steps = pair.bounds().steps
        points = tuple(
            replace(p, scale=np.full(1, steps[p.name])) if p.dynamic else p for p in points
        )
    order = [node.output for node in pair.bare.graph.nodes]
    inside = {*pair.bare.graph.inputs, *order[: order.index(one.values[-1]) + 1]}
    left = [point for point in points if point.value in inside]
    groups = list[tuple[Point, ...]]()
    widths = two.network.widths
    for names, units in zip((*two.reads, *two.gives), (*widths[:-1], *widths[1:]), strict=True):
        here = [point for point in left if point.value in names]
        left = [point for point in left if point not in here]
        groups.append(tuple(_by_units(pair.bare.graph, point, units) for point in here))
    if left:
        return None
    layers = len(two.reads)
    drifts = Drifts(tuple(groups[:layers]), tuple(groups[layers:]))
    return Chains(one.network, two.network, drifts, one.values[-1])
