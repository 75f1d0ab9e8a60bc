"""Units of an axis in another order. Part of the kernel.

Let every tensor be indexed anew, t'[i] = t[order[i]] along some of its axes, stored tensors, too. Where
each node gives the tensor that is so indexed from inputs that are, and inputs and outputs of the graph
keep their order, the graph computes what it did: by induction over the nodes. `commutes` is the
condition for one node, of integers alone; sums over an axis have no order over the reals.

Which indices belong together is found as for removals (`axes`), but that functions of all of an axis
that have no order in it (softmax, layer norm, means) tie it where a removal has to fix it. What is
found so is a proposal: the condition decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import CertificateRejected
from .axes import FIXED, Coupling, Units, units_from
from .model import GraphModel
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    PerUnit,
    Place,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .slicewise import LOG_SOFTMAX, NORMS, REDUCTIONS, SOFTMAX

Ints = np.ndarray[Any, np.dtype[np.int64]]
LARGEST = 2**24  # entries of a block whose order is compared


class Exchange(Coupling):
    """Classes of indices that may trade places together; see the module."""

    def _couple(self, node: Node) -> None:
        op = node.op
        if isinstance(op, Size):  # which stay what they are
            for name in node.outputs:
                for axis in range(len(self.shape(name) or ())):
                    self.fix((name, axis), f"{node.name!r}, which gives sizes")
            return
        if not isinstance(op, Slicewise) or not _has_no_order(op):
            super()._couple(node)
            return
        x, y = node.inputs[0], node.output
        rank = len(self.shape(x) or ())
        for i, o in _pairs(op, rank):
            self.same((x, i), (y, o))
        for name in node.inputs[1:]:  # scale and shift, under the last axes of x
            own = len(self.shape(name) or ())
            for axis in range(own):
                self.same((x, rank - own + axis), (name, axis))


def _has_no_order(op: Slicewise) -> bool:
    return op.kind in (*SOFTMAX, *LOG_SOFTMAX, *NORMS, *REDUCTIONS)


def _pairs(op: Slicewise, rank: int) -> Sequence[tuple[int, int]]:
    """Axes of the input that are axes of the output; where an order does not matter, those that are read
    whole, too.
    """
    if op.kind in REDUCTIONS or not _has_no_order(op):
        return op.free
    return [(axis, axis) for axis in range(rank)]


def exchangeable(graph: GraphModel, seed: Place) -> Units:
    """The units of an axis as far as they may trade places."""
    return units_from(graph, seed, Exchange)


def ordered(graph: GraphModel, units: Units, order: Sequence[int]) -> GraphModel:
    """The graph whose unit number k is the former unit number order[k], from 1 on.

    Raises:
        CertificateRejected: it is no order of the units, or a node does not commute with it.
    """
    places = commuting(graph, units, order)
    constants = dict(graph.constants)
    for (name, axis), index in places.items():
        if name in constants:
            constants[name] = np.take(constants[name], index, axis)
    return GraphModel(graph.inputs, graph.outputs, graph.nodes, graph.shapes, constants)


def commuting(graph: GraphModel, units: Units, order: Sequence[int]) -> Mapping[Place, Ints]:
    """How tensors are indexed anew when units trade places.

    Raises:
        CertificateRejected: it is no order of the units, an input or output would be indexed anew, or
            naming a node that does not commute.
    """
    if sorted(order) != list(range(1, units.count + 1)):
        raise CertificateRejected(f"it is no order of {units.count} units")
    places = {place: _indices(labels, order) for place, labels in units.places.items()}
    some = {place: index for place, index in places.items() if (np.diff(index) != 1).any()}
    touched = {name for name, _ in some}
    for name in (*graph.inputs, *graph.outputs):
        if name in touched:
            raise CertificateRejected(f"{name!r} is an input or output of the graph")
    for node in graph.nodes:
        names = {*node.inputs, *node.outputs}
        if not touched.isdisjoint(names) and not commutes(node, graph, some):
            raise CertificateRejected(f"{node.name!r} does not commute with this order")
    return some


def _indices(labels: Ints, order: Sequence[int]) -> Ints:
    """Where what comes to each index of a tensor stood: the k-th index of a unit takes the k-th one."""
    former = np.array([FIXED, *order])
    parts = np.bincount(labels, minlength=len(former))
    unlike = np.flatnonzero(parts != parts[former])
    if len(unlike):
        unit = int(unlike[0])
        raise CertificateRejected(f"units {unit} and {former[unit]} have unlike parts in a tensor")
    by_unit = np.argsort(labels, kind="stable")
    starts = np.cumsum(parts) - parts
    rank = np.arange(len(labels)) - np.repeat(starts, parts)  # of each index within its unit
    found = np.empty(len(labels), dtype=np.int64)
    found[by_unit] = by_unit[starts[former[labels[by_unit]]] + rank]
    return found


def _whole(n: Any) -> int:
    return n if isinstance(n, int) else -1


class _View:
    """How the tensors of a node are indexed anew."""

    def __init__(self, node: Node, graph: GraphModel, order: Mapping[Place, Ints]) -> None:
        self.node, self.shapes, self.order = node, graph.shapes, order
        self.x, self.y = (node.inputs or ("",))[0], node.output

    def rank(self, name: str) -> int:
        return len(self.shapes.get(name) or ())

    def of(self, name: str, axis: int) -> Ints | None:
        """None where the order is kept."""
        return self.order.get((name, axis))

    def alike(self, *places: Place) -> bool:
        first = self.of(*places[0])
        return all(_equal(first, self.of(*place)) for place in places[1:])

    def kept(self, name: str, but: Sequence[int] = ()) -> bool:
        """Whether axes keep their order, but for some."""
        return all(
            self.of(name, axis) is None for axis in range(self.rank(name)) if axis not in but
        )

    def broadcast(self, names: Sequence[str], ends: int = 0) -> bool:
        """Whether operands that are broadcast are indexed as the output, but for the last axes."""
        if self.shapes.get(self.y) is None or any(self.shapes.get(x) is None for x in names):
            return all(self.kept(x) for x in (*names, self.y))
        shape = self.shapes[self.y] or ()
        for axis in range(len(shape) - ends):
            back = axis - len(shape)
            for name in names:
                own = self.shapes[name] or ()
                if -back > len(own) or own[back] == 1:
                    continue  # one entry for all
                here, there = (self.y, axis), (name, len(own) + back)
                if own[back] != shape[axis]:  # which of the two is broadcast is not known
                    if here in self.order or there in self.order:
                        return False
                elif not self.alike(here, there):
                    return False
        return True


def _equal(a: Ints | None, b: Ints | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or np.array_equal(a, b))


def commutes(node: Node, graph: GraphModel, order: Mapping[Place, Ints]) -> bool:
    """Whether a node gives its output, indexed anew, from inputs that are."""
    view = _View(node, graph, order)
    rule = RULES.get(type(node.op))
    if rule is None:
        return all(map(view.kept, (*node.inputs, *node.outputs)))
    return all(map(view.kept, node.outputs[1:])) and rule(view, node.op)


def _elementwise(view: _View, op: Any) -> bool:
    return view.broadcast([name for name in view.node.inputs if name])


def _per_unit(view: _View, op: PerUnit) -> bool:
    x, y = view.x, view.y
    if not all(view.alike((x, axis), (y, axis)) for axis in range(view.rank(x))):
        return False
    further = [name for name in view.node.inputs[1:] if name]
    wide = [name for name in further if view.shapes.get(name) not in ((), (1,))]
    return all(view.alike((x, op.axis), (name, 0)) for name in wide)


def _slicewise(view: _View, op: Slicewise) -> bool:
    x, y, rank = view.x, view.y, view.rank(view.x)
    pairs = _pairs(op, rank)
    if not all(view.alike((x, i), (y, o)) for i, o in pairs):
        return False
    if not view.kept(y, [o for _, o in pairs]):
        return False
    if not _has_no_order(op) and not view.kept(x, [i for i, _ in op.free]):
        return False
    owners = (*op.carried, *[None] * len(view.node.inputs))
    return all(
        _carried(view, op, owner, name)
        for owner, name in zip(owners, view.node.inputs[1:], strict=False)
        if name
    )


def _carried(view: _View, op: Slicewise, owner: int | None, name: str) -> bool:
    """Whether a further input is indexed as what it belongs to."""
    if owner is not None:
        return view.alike((view.x, owner), (name, 0))
    if op.kind in NORMS:  # under the last axes of x
        first = view.rank(view.x) - view.rank(name)
        return all(view.alike((view.x, first + i), (name, i)) for i in range(view.rank(name)))
    return view.kept(name)  # read by all slices alike


def _linear(view: _View, op: Linear) -> bool:
    x, y, w = view.x, view.y, view.node.inputs[1]
    rows = [(w, op.rows), (y, op.writes), *((b, 0) for b in view.node.inputs[2:3] if b)]
    own = [i for i, _ in op.free], [o for _, o in op.free]
    plain = view.kept(x, [op.reads, *own[0]]) and view.kept(y, [op.writes, *own[1]])
    if not (plain and view.kept(w, [op.rows, op.columns]) and view.alike(*rows)):
        return False
    if not all(view.alike((x, i), (y, o)) for i, o in op.free):
        return False
    if op.groups == 1:
        return view.alike((x, op.reads), (w, op.columns))
    return _groups(view, op, w)


def _groups(view: _View, op: Linear, w: str) -> bool:
    """Groups trade places as wholes, and what each reads does so alike in all."""
    shape, weight = view.shapes.get(view.x) or (), view.shapes.get(w) or ()
    n, m = _whole(shape[op.reads]), _whole(weight[op.rows])
    if n < 0 or m < 0:
        return False
    read, written = view.of(view.x, op.reads), view.of(view.y, op.writes)
    column, inner = view.of(w, op.columns), n // op.groups
    groups = (np.arange(m) if written is None else written).reshape(op.groups, -1) // (
        m // op.groups
    )
    if (groups != groups[:, :1]).any():
        return False
    columns = np.arange(inner) if column is None else column
    wanted = groups[:, :1] * inner + columns
    return bool(np.array_equal(np.arange(n) if read is None else read, wanted.ravel()))


def _contract(view: _View, op: Contract) -> bool:
    (a, b), y = view.node.inputs, view.y
    i, j, k = view.rank(a), view.rank(b), view.rank(y)
    if min(i, j) < 2 or view.shapes.get(y) is None:
        return all(view.kept(name) for name in (a, b, y))
    ends = view.alike((a, i - 2), (y, k - 2)) and view.alike((b, j - 1), (y, k - 1))
    return ends and view.alike((a, i - 1), (b, j - 2)) and view.broadcast([a, b], 2)


def _transpose(view: _View, op: Transpose) -> bool:
    return all(view.alike((view.x, source), (view.y, axis)) for axis, source in enumerate(op.order))


def _concat(view: _View, op: Concat) -> bool:
    names, rank = view.node.inputs, view.rank(view.y)
    for axis in range(rank):
        if axis != op.axis and not view.alike((view.y, axis), *((name, axis) for name in names)):
            return False
    parts, start = [], 0
    for name in names:
        n = _whole((view.shapes.get(name) or ())[op.axis])
        own = view.of(name, op.axis)
        if n < 0:
            return all(view.kept(x) for x in (*names, view.y))
        parts.append(start + (np.arange(n) if own is None else own))
        start += n
    whole = view.of(view.y, op.axis)
    return bool(np.array_equal(np.concatenate(parts), np.arange(start) if whole is None else whole))


def _take(view: _View, op: Take) -> bool:
    for axis in range(view.rank(view.x)):
        place = (view.y, axis - (op.drop and axis > op.axis))
        if axis != op.axis and not view.alike((view.x, axis), place):
            return False
    n = _whole((view.shapes.get(view.x) or ())[op.axis])
    source = view.of(view.x, op.axis)
    target = None if op.drop else view.of(view.y, op.axis)
    if source is None and target is None:
        return True
    index = np.array(op.index, dtype=np.int64)
    if n < 0 or (index < 0).any():
        return False
    return bool(
        np.array_equal(
            (np.arange(n) if source is None else source)[index],
            index if target is None else index[target],
        )
    )


def _broadcast(view: _View, op: Broadcast) -> bool:
    return view.broadcast(view.node.inputs[:1]) and all(map(view.kept, view.node.inputs[1:]))


def _lookup(view: _View, op: Lookup) -> bool:
    table, ids = view.node.inputs
    more = view.rank(ids) - 1
    axes = [axis for axis in range(view.rank(table)) if axis != op.axis]
    places = [(view.y, axis + more * (axis > op.axis)) for axis in axes]
    return (
        view.kept(table, axes) and view.kept(ids)
        and all(view.alike((table, axis), place) for axis, place in zip(axes, places, strict=True))
        and view.kept(view.y, [axis for _, axis in places])
    )  # fmt: skip


def _reshape(view: _View, op: Reshape) -> bool:
    inside = [i for i, _ in op.free] + [i for ins, _ in op.blocks for i in ins]
    outside = [o for _, o in op.free] + [o for _, outs in op.blocks for o in outs]
    if not (view.kept(view.x, inside) and view.kept(view.y, outside)):
        return False
    if not all(view.alike((view.x, i), (view.y, o)) for i, o in op.free):
        return False
    return all(
        _equal(_flat(view, view.x, ins), _flat(view, view.y, outs)) for ins, outs in op.blocks
    )


def _flat(view: _View, name: str, axes: Sequence[int]) -> Ints | None:
    """The order of entries under some axes, read row by row."""
    own = [view.of(name, axis) for axis in axes]
    if all(index is None for index in own):
        return None
    sizes = [_whole((view.shapes.get(name) or ())[axis]) for axis in axes]
    if math.prod(sizes) > LARGEST:
        raise CertificateRejected(f"{name!r} is too large to compare orders of its entries")
    full = [np.arange(n) if index is None else index for n, index in zip(sizes, own, strict=True)]
    found = np.arange(math.prod(sizes)).reshape(sizes)[np.ix_(*full)].ravel()
    return found if (np.diff(found) != 1).any() else None


RULES: dict[type, Callable[[_View, Any], bool]] = {
    Elementwise: _elementwise, PerUnit: _per_unit, Slicewise: _slicewise, Linear: _linear,
    Contract: _contract, Transpose: _transpose, Concat: _concat, Take: _take, Broadcast: _broadcast,
    Lookup: _lookup, Reshape: _reshape, Size: lambda view, op: all(map(view.kept, view.node.outputs)),
}  # fmt: skip
