"""Tensors cut along an axis, one for each of its indices: heads apart from each other. Part of the kernel.

Coordinates of one head may trade places, or be multiplied by numbers, without those of another. In a
tensor that has heads along one axis and coordinates along another that is no order of an axis. So the
graph is written with a tensor for each head: t is cut into t[h], of size 1 along the axis. A node that
gives index h of its output from index h of what it reads alone, in one way for all h, becomes as many
nodes; a layer in front that writes all heads in a row is read in parts, and what reads all heads in a
row reads the parts joined. Stored tensors stay what they are, whatever they hold: so if numbers of
theirs may change in the graph that is cut, they may in the one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import CertificateRejected
from .model import GraphModel
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Node,
    Operator,
    Place,
    Reshape,
    Shape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .rearranging import digits

Ints = np.ndarray[Any, np.dtype[np.int64]]
MOST = 1024  # tensors that one is cut into


class Cut(NamedTuple):
    """Along which axis a tensor is cut, and the names of the parts."""

    axis: int
    parts: tuple[str, ...]


class Slices(NamedTuple):
    """How a node gives index h of an axis of its output: by an operator, of parts of some inputs.

    Attributes:
        axis: of the output. op: for one index. reads: the axis of each input of which index h is read;
            None where all of an input is, or one entry for all.
    """

    axis: int
    op: Operator
    reads: tuple[int | None, ...]


def unrolled(graph: GraphModel, places: Collection[Place]) -> GraphModel:
    """The same function with what reshapes give cut along the given axes, and whatever follows from it.

    Raises:
        CertificateRejected: an axis is none that a reshape makes of a part of another.
    """
    work, open_ = _Unrolling(graph), dict(places)
    if len(open_) < len(places):
        raise CertificateRejected("a tensor is cut along two axes")
    for node in graph.nodes:
        axis = open_.pop(node.output, None) if node.outputs else None
        if axis is None:
            work.follow(node)
        else:
            work.split(node, axis)
    if open_:
        raise CertificateRejected(f"no node gives {next(iter(open_))!r}")
    for name in graph.outputs:
        work.whole(name)
    return GraphModel(graph.inputs, graph.outputs, tuple(work.nodes), work.shapes, graph.constants)


class _Unrolling:
    """Nodes of the graph that is cut, as far as they are written."""

    def __init__(self, graph: GraphModel) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.shapes = dict(graph.shapes)
        self.cuts: dict[str, Cut] = {}
        self.joined: set[str] = set()
        self.taken: dict[tuple[str, int, int], str] = {}

    def shape(self, name: str) -> Shape:
        return self.graph.shapes.get(name) or ()

    def add(self, op: Operator, inputs: Iterable[str], output: str, shape: Shape) -> str:
        """A node that the graph did not have."""
        if output in self.shapes:
            raise CertificateRejected(f"{output!r} is there twice")
        self.nodes.append(Node(op, tuple(inputs), (output,), output))
        self.shapes[output] = shape
        return output

    def split(self, node: Node, axis: int) -> None:
        """Cut what a reshape gives along an axis that it makes of a part of another: for each index the
        entries of that other which have it.
        """
        op, x, y = node.op, node.inputs[0], node.output
        found = taken_apart(node, self.graph.shapes, axis)
        if found is None or not isinstance(op, Reshape) or not 0 < self._count(y, axis) <= MOST:
            raise CertificateRejected(f"{node.name!r} makes no axis {axis} of a part of another")
        along, own = found
        self.whole(x)
        parts, small = [], replace(op, sizes=_with(op.sizes, axis, 1))
        for h in range(self._count(y, axis)):
            index = tuple(np.flatnonzero(own == h).tolist())
            shape = _with(self.shape(x), along, len(index))
            name = self.add(Take(along, index), [x], f"{x}[{y}:{h}]", shape)
            inputs = (name, *node.inputs[1:])
            parts.append(self.add(small, inputs, f"{y}[{h}]", _with(self.shape(y), axis, 1)))
        self.cuts[y] = Cut(axis, tuple(parts))

    def _count(self, name: str, axis: int) -> int:
        n = self.shape(name)[axis]
        return n if isinstance(n, int) else -1

    def follow(self, node: Node) -> None:
        """Cut what a node makes of parts; where that is not known it reads them joined."""
        cut = {name: self.cuts[name] for name in node.inputs if name in self.cuts}
        if not cut:
            self.nodes.append(node)
        elif isinstance(node.op, Size) and self.same_sizes(node, node.op):
            inputs = (cut[name].parts[0] if name in cut else name for name in node.inputs)
            self.nodes.append(replace(node, inputs=tuple(inputs)))
        elif isinstance(node.op, Reshape) and self.join(node, node.op):
            pass
        elif (found := self.sliced(node, cut)) is not None:
            self.cut(node, found)
        else:
            for name in cut:
                self.whole(name)
            self.nodes.append(node)

    def same_sizes(self, node: Node, op: Size) -> bool:
        """Whether it reads only sizes that each part has."""
        read = [(node.inputs[i], axis) for i, axis in op.axes]
        return all(name not in self.cuts or self.cuts[name].axis != axis for name, axis in read)

    def sliced(self, node: Node, cut: Mapping[str, Cut]) -> Slices | None:
        rule = RULES.get(type(node.op))
        names = [name for name in (*node.inputs, *node.outputs) if name]
        if rule is None or any(self.graph.shapes.get(name) is None for name in names):
            return None
        name, (axis, parts) = next(iter(cut.items()))
        found = rule(node, self.graph.shapes, node.inputs.index(name), axis)
        if found is None or self.shape(node.output)[found.axis] != len(parts):
            return None
        for x, k in zip(node.inputs, found.reads, strict=True):
            if k is not None and self.shape(x)[k] != len(parts):
                return None
            if x in cut and k != cut[x].axis:
                return None
        return found

    def cut(self, node: Node, found: Slices) -> None:
        shape = _with(self.shape(node.output), found.axis, 1)
        parts = []
        for h in range(self._count(node.output, found.axis)):
            inputs = [
                name if axis is None else self.part(name, axis, h)
                for name, axis in zip(node.inputs, found.reads, strict=True)
            ]
            parts.append(self.add(found.op, inputs, f"{node.output}[{h}]", shape))
        self.cuts[node.output] = Cut(found.axis, tuple(parts))

    def part(self, name: str, axis: int, h: int) -> str:
        """Index h of a tensor along an axis, which it is cut along, or of which it is taken."""
        if name in self.cuts:
            return self.cuts[name].parts[h]
        if (name, axis, h) not in self.taken:
            shape = _with(self.shape(name), axis, 1)
            taken = self.add(Take(axis, (h,)), [name], f"{name}[{axis}:{h}]", shape)
            self.taken[name, axis, h] = taken
        return self.taken[name, axis, h]

    def whole(self, name: str) -> None:
        """The parts of a tensor joined, under its name."""
        if name in self.cuts and name not in self.joined:
            self.joined.add(name)
            axis, parts = self.cuts[name]
            self.nodes.append(Node(Concat(axis), parts, (name,), name))

    def join(self, node: Node, op: Reshape) -> bool:
        """A reshape that makes one axis of the one that is cut and others: of each part, then joined."""
        x, y = node.inputs[0], node.output
        cut = self.cuts.get(x)
        if cut is None or any(name in self.cuts for name in node.inputs[1:]):
            return False
        found = _inside(cut.axis, self.shape(x), self.shape(y), op.blocks)
        if found is None:
            return False
        out, own = found
        share = len(own) // len(cut.parts)
        small = replace(op, sizes=_with(op.sizes, out, share))
        rows = [
            self.add(small, (part, *node.inputs[1:]), f"{y}[{h}]", _with(self.shape(y), out, share))
            for h, part in enumerate(cut.parts)
        ]
        # where each entry of the whole stands among the parts
        order = np.argsort(np.argsort(own, kind="stable"), kind="stable")
        if (np.diff(order) == 1).all():
            self.nodes.append(Node(Concat(out), tuple(rows), node.outputs, node.name))
            return True
        joined = self.add(Concat(out), rows, f"{y}[joined]", self.shape(y))
        take = Take(out, tuple(order.tolist()))
        self.nodes.append(Node(take, (joined,), node.outputs, node.name))
        return True


def _with(sizes: tuple[Any, ...], axis: int, n: int) -> tuple[Any, ...]:
    """Sizes with another one; one that is left open stays so."""
    return tuple(n if k == axis and m is not None else m for k, m in enumerate(sizes))


# How nodes give one index of an axis, from an input and an axis of it along which that is cut --------------------


def _broadcast_along(
    node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int, count: int
) -> tuple[int, tuple[int | None, ...]] | None:
    """The axis of the output, and of each of the first inputs, that numpy puts beside an axis of one."""
    made = shapes[node.output] or ()
    out = axis - len(shapes[node.inputs[i]] or ()) + len(made)
    reads = list[int | None]()
    for name in node.inputs[:count]:
        own = shapes.get(name) or ()
        k = out - len(made) + len(own)
        if k >= 0 and own[k] not in (1, made[out]):
            return None
        reads.append(k if k >= 0 and own[k] == made[out] else None)
    return out, (*reads, *[None] * (len(node.inputs) - count))


def _elementwise(
    node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int
) -> Slices | None:
    found = _broadcast_along(node, shapes, i, axis, len(node.inputs))
    return None if found is None else Slices(found[0], node.op, found[1])


def _contract(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    if axis >= len(shapes[node.inputs[i]] or ()) - 2:
        return None  # rows, columns and what is summed over
    return _elementwise(node, shapes, i, axis)


def _broadcast(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    found = None if i else _broadcast_along(node, shapes, i, axis, 1)
    assert isinstance(node.op, Broadcast)
    if found is None or node.op.sizes[found[0]] is None:
        return None
    return Slices(found[0], replace(node.op, sizes=_with(node.op.sizes, found[0], 1)), found[1])


def _transpose(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    assert isinstance(node.op, Transpose)
    return Slices(node.op.order.index(axis), node.op, (axis,))


def _concat(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    assert isinstance(node.op, Concat)
    return None if axis == node.op.axis else Slices(axis, node.op, (axis,) * len(node.inputs))


def _take(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    op = node.op
    assert isinstance(op, Take)
    return None if axis == op.axis else Slices(axis - (op.drop and axis > op.axis), op, (axis,))


def _free(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    """Of operators that treat slices alike, or layers along further axes."""
    op = node.op
    assert isinstance(op, (Slicewise, Linear))
    out = dict(op.free).get(axis)
    if i or out is None:
        return None
    carried = op.carried if isinstance(op, Slicewise) else ()
    owners = (*carried, *[None] * len(node.inputs))[: len(node.inputs) - 1]
    if axis in owners:
        return None  # what belongs to the indices would be cut, too
    return Slices(out, op, (axis, *[None] * len(owners)))


def _reshape(node: Node, shapes: Mapping[str, Shape | None], i: int, axis: int) -> Slices | None:
    op = node.op
    assert isinstance(op, Reshape)
    out = dict(op.free).get(axis)
    for ins, outs in op.blocks if out is None else ():
        if axis in ins:  # the same digit is an axis again
            own = digits(shapes[node.inputs[0]] or (), ins)[axis]
            out = next(
                (k for k, d in digits(shapes[node.output] or (), outs).items() if d == own), None
            )
    if i or out is None:
        return None
    return Slices(
        out, replace(op, sizes=_with(op.sizes, out, 1)), (axis, *[None] * (len(node.inputs) - 1))
    )  # fmt: skip


def taken_apart(
    node: Node, shapes: Mapping[str, Shape | None], axis: int
) -> tuple[int, Ints] | None:
    """The axis of which a reshape makes an axis and others, and for each of its indices that of the axis;
    None where there is none.
    """
    op = node.op
    if not isinstance(op, Reshape):
        return None
    x, y = (shapes.get(name) or () for name in (node.inputs[0], node.output))
    return _inside(axis, y, x, [(outs, ins) for ins, outs in op.blocks])


def _inside(
    axis: int, own: Shape, other: Shape, blocks: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]
) -> tuple[int, Ints] | None:
    """The axis of the other side of a reshape whose index has that of an axis as one of several digits,
    and that digit of each index.
    """
    for mine, theirs in blocks:
        if axis not in mine:
            continue
        stride, n = digits(own, mine)[axis]
        for k, (s, m) in digits(other, theirs).items():
            if m > n and stride % s == 0 and (s * m) % (stride * n) == 0:
                return k, np.arange(m) // (stride // s) % n
    return None


Rule = Callable[[Node, Mapping[str, "Shape | None"], int, int], "Slices | None"]
RULES: dict[type, Rule] = {
    Elementwise: _elementwise, Contract: _contract, Broadcast: _broadcast, Transpose: _transpose,
    Concat: _concat, Take: _take, Slicewise: _free, Linear: _free, Reshape: _reshape,
}  # fmt: skip
