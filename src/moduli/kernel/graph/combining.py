"""Units between two layers that are sums of others. Part of the kernel.

Between a layer y = W u + b and the layers that read y nothing happens. A unit y_i whose row of (W, b)
is sum_j c_ij times the rows of other units j is sum_j c_ij y_j for every u, also where y is continued
by zeros, so that it may go when c_ij times its column is added to the column of j at each reader.

Rows are seldom sums of others exactly: let e_i be what is left of row i. Were it not there, outputs
would be away by what `difference` says of rows that are e_i away; then y_i goes, and what rounding
the columns does comes on top.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import CertificateRejected
from ..exact_numbers import up, up_matmul, up_scale
from ..slack import Slack
from .axes import Units, units_from
from .differences import difference
from .facts import Known, Loss
from .model import GraphModel
from .operator import TINY, UNIT
from .operators import Elementwise, Linear, Node, Transpose
from .removal import along, kept_places, narrowed, restricted, stored_of
from .slices import are_numbers

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class Between(NamedTuple):
    """Two layers, or more, with nothing in between.

    Attributes:
        writer: gives the units. biases: stored tensors that are added to them, one number for each.
        value: what is read. readers: of it.
    """

    writer: Node
    biases: tuple[str, ...]
    value: str
    readers: tuple[Node, ...]

    @property
    def op(self) -> Linear:
        assert isinstance(self.writer.op, Linear)
        return self.writer.op

    def rows(self, known: Known) -> Array | None:
        """Weights and biases of each unit, ``[units, numbers]``; None where they are not stored."""
        weight = known.array(self.writer.inputs[1])
        biases = [known.array(name) for name in self.biases]
        parts = [np.moveaxis(weight, self.op.rows, 0)] if weight is not None else []
        parts += [bias for bias in biases if bias is not None]
        if len(parts) <= len(biases) or not all(map(are_numbers, parts)):
            return None
        n = len(parts[0])
        if not n:
            return None
        flat = [np.asarray(part, dtype=np.float64).reshape(n, part.size // n) for part in parts]
        return np.concatenate(flat, axis=1)


def between(graph: GraphModel, name: str) -> Between | None:
    """The layer that gives a value, and the layers behind it, where nothing else reads it."""
    writer = graph.makers.get(name)
    if writer is None or not isinstance(writer.op, Linear) or writer.op.groups != 1:
        return None
    axis, shape = writer.op.writes, graph.shapes.get(name) or ()
    biases = [x for x in writer.inputs[2:3] if x]
    if not set(biases) <= graph.constants.keys():
        return None
    while True:
        readers = graph.readers.get(name, [])
        if not readers or name in graph.outputs or any(n.inputs.count(name) != 1 for n in readers):
            return None
        if len(readers) > 1 or not isinstance(readers[0].op, Elementwise):
            break
        (node,) = readers
        other = next((x for x in node.inputs if x != name), "")
        stored = graph.constants.get(other)
        sums = isinstance(node.op, Elementwise) and node.op.kind == "add" and len(node.inputs) == 2
        if not sums or stored is None or graph.shapes.get(node.output) != shape:
            return None
        if stored.size != shape[axis] or not along(stored, len(shape) - axis):
            return None
        biases.append(other)
        name = node.output
    layers = all(isinstance(n.op, Linear) and n.inputs[0] == name for n in readers)
    if not layers or any(_axis_read(n) != axis for n in readers):
        return None
    return Between(writer, tuple(biases), name, tuple(readers))


def _axis_read(node: Node) -> int:
    assert isinstance(node.op, Linear)
    return node.op.reads if node.op.groups == 1 else -1


def combined(
    known: Known, name: str, units: tuple[int, ...], into: tuple[int, ...], coefficients: Array
) -> tuple[GraphModel, Slack]:
    """The graph in which some units are sums of others, and how far its outputs may be away before
    anything is rounded; `known` knows nothing but the inputs of it afterwards.

    Args:
        name: what the layer gives. units: that go. into: those that stay and take them over.
        coefficients: ``[units, into]``.

    Raises:
        CertificateRejected: something else reads or writes them.
    """
    graph = known.graph
    found = between(graph, name)
    rows = None if found is None else found.rows(known)
    if found is None or rows is None:
        raise CertificateRejected("it is not between two layers with stored numbers")
    gone, stay = np.array(units, dtype=np.int64), np.array(into, dtype=np.int64)
    both = np.concatenate([gone, stay])
    if (
        not len(gone)
        or len(np.unique(both)) < len(both)
        or both.min() < 0
        or both.max() >= len(rows)
    ):
        raise CertificateRejected("units and what they are sums of do not match")
    if coefficients.shape != (len(gone), len(stay)) or not np.isfinite(coefficients).all():
        raise CertificateRejected("coefficients are a number for each pair of units")
    grown = units_from(graph, (name, found.op.writes))
    _require_alone(graph, found, grown, both)
    left = _left(rows[gone], coefficients, rows[stay])
    slack = difference(graph, _of_rows(graph, found, gone, left, len(rows)), known)
    kept = kept_places(grown, grown.places[grown.seed][gone])
    changed, rounded = dict[str, Any](), dict[str, Loss]()
    for node in found.readers:
        stored, axis = stored_of(graph, node.inputs[1], _columns(node))
        columns, off = _added(graph.constants[stored], axis, gone, stay, coefficients, stored)
        again = changed.get(stored)
        if again is not None and not np.array_equal(again, columns):
            raise CertificateRejected(f"{stored!r} is read in two ways")
        changed[stored], rounded[stored] = columns, off
    small = restricted(known, kept, changed, rounded, set())
    return small, slack


def _columns(node: Node) -> int:
    assert isinstance(node.op, Linear)
    return node.op.columns


def _require_alone(graph: GraphModel, found: Between, grown: Units, units: Ints) -> None:
    """No node but these layers, and the sums between them, reads or gives a tensor that has units, and
    each unit is an index of its own.
    """
    labels = grown.places[grown.seed]
    mine = labels[units]
    if (mine == 0).any() or len(np.unique(labels[labels != 0])) < int((labels != 0).sum()):
        raise CertificateRejected("some of the units are tied to others, or stay")
    own, at = {id(found.writer), *map(id, found.readers)}, found.writer.output
    while at != found.value:
        (node,) = graph.readers[at]
        own.add(id(node))
        at = node.output
    weights = [_stored_through(graph, node.inputs[1], own) for node in found.readers]
    first = _stored_through(graph, found.writer.inputs[1], own)
    if not {first, *found.biases}.isdisjoint(weights) or first in found.biases:
        raise CertificateRejected("the layers share stored tensors")
    tensors = {tensor for tensor, _ in grown.places}
    for node in graph.nodes:
        if id(node) not in own and not tensors.isdisjoint((*node.inputs, *node.outputs)):
            raise CertificateRejected(f"{node.name!r} has a part in them")
    if not tensors.isdisjoint((*graph.inputs, *graph.outputs)):
        raise CertificateRejected("an input or output of the graph has a part in them")
    for node in found.readers:
        assert isinstance(node.op, Linear)
        column = grown.places.get((node.inputs[1], node.op.columns))
        row = grown.places.get((node.inputs[1], node.op.rows))
        if column is None or not np.array_equal(column, labels):
            raise CertificateRejected(f"{node.name!r} does not read them")
        if row is not None and row.any():
            raise CertificateRejected(f"{node.name!r} writes them as well")


def _stored_through(graph: GraphModel, name: str, own: set[int]) -> str:
    """The stored tensor that a weight is, by nodes that are added to `own`."""
    stored, _ = stored_of(graph, name, 0)
    while name != stored:
        maker = graph.makers[name]
        own.add(id(maker))
        name = maker.inputs[0]
    return stored


def _left(rows: Array, coefficients: Array, others: Array) -> Array:
    """Bounds of |rows - coefficients others|, entry by entry.

    A float sum of k products errs by at most k 2^-53 of the sum of their sizes to first order, and by
    the least float for each product that underflows; twice that is charged.
    """
    count = coefficients.shape[1] + 4
    with np.errstate(all="ignore"):
        near = np.abs(rows - coefficients @ others)
    mass = up(up_matmul(np.abs(coefficients), np.abs(others)) + np.abs(rows))
    return up(near + up_scale(mass, count * 2 * UNIT) + np.where(mass > 0, count * TINY, 0.0))


def _of_rows(graph: GraphModel, found: Between, gone: Ints, left: Array, n: int) -> Any:
    """What stored numbers would be away by, had the rows nothing left."""
    weight = graph.array(found.writer.inputs[1])
    assert weight is not None
    size = weight.size // n
    gaps = dict[str, Array]()
    wide = np.zeros(weight.shape)
    rows = np.moveaxis(wide, found.op.rows, 0)
    rows[gone] = left[:, :size].reshape(len(gone), *rows.shape[1:])
    name = found.writer.inputs[1]
    while name not in graph.constants:
        maker = graph.makers[name]
        if isinstance(maker.op, Transpose):
            wide = wide.transpose(np.argsort(maker.op.order))
        name = maker.inputs[0]
    gaps[name] = wide
    for k, bias in enumerate(found.biases):
        numbers = np.zeros(n)
        numbers[gone] = left[:, size + k]
        gaps[bias] = numbers.reshape(graph.constants[bias].shape)
    return gaps.get


def _added(
    stored: Any, axis: int, gone: Ints, stay: Ints, coefficients: Array, name: str
) -> tuple[Any, Loss]:
    """Columns with those that go added to those that stay, and what is lost."""
    if not are_numbers(stored):
        raise CertificateRejected(f"{name!r} holds what is no number")
    columns = np.moveaxis(stored, axis, 0)
    first = np.asarray(columns[stay], dtype=np.float64).reshape(len(stay), -1)
    second = np.asarray(columns[gone], dtype=np.float64).reshape(len(gone), -1)
    count = len(gone) + 4
    total = first
    with np.errstate(all="ignore"):
        # one after another, so that all machines find the same numbers
        for numbers, column in zip(coefficients, second, strict=True):
            total = total + np.outer(numbers, column)
    mass = up(up_matmul(np.abs(coefficients.T), np.abs(second)) + np.abs(first))
    off = up(up_scale(mass, count * 2 * UNIT) + np.where(mass > 0, count * TINY, 0.0))
    numbers, off = narrowed(total, off, stored.dtype, name)
    found = stored.copy()
    view = np.moveaxis(found, axis, 0)
    view[stay] = numbers.reshape(len(stay), *columns.shape[1:])
    lost = off.reshape(len(stay), *columns.shape[1:])
    return found, Loss(axis, dict(zip(stay.tolist(), lost, strict=True)))
