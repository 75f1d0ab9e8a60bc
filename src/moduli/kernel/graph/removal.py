"""Leaving out units of a graph. Part of the kernel.

**Theorem.** Let K keep, of each axis of each tensor of a graph, some indices, such that each node's
`couple` adds nothing to the classes of indices that K leaves out (`axes`). Then every tensor of the
restricted graph is the former one at the kept indices, for each input, provided that at every node
that sums over an axis the products left out are made up for:

    Linear    y = sum_i W_i x_i + b: for i left out, W_i = 0, or x_i = 0, or x_i = c is constant,
              every entry of y reads every tap, and sum W_i c is added to b; or x_i = r x_j with j
              kept, and r W_i is added to W_j. Rows of W whose y is multiplied by zero wherever it
              is read need none of that: of them nothing is asked.
    Contract  y = sum_k a_k b_k: a_k = 0 or b_k = 0.

*Proof.* By induction over the nodes. An input of the graph is kept whole. A node that sums over the
axis is as stated. For every other node and axis, `couple` has tied indices so that the node's output
at kept indices reads its inputs at kept indices only: shown beside each operator. Outputs are kept
whole, so they are equal. The facts x_i = ... are about the tensors of the graph before, whose entries
at kept indices are those after. One tensor differs: where the constant sum W_i c is not added to b
but by the one node that reads y (the mean of a batch norm, a shift), y lacks it; and entries of y
that all its readers multiply by zero may become others. The outputs of these readers are the former
ones.

A stored tensor that several nodes read has to be changed alike by all of them. Where a sum W_j + r
W_i is no number of the type in which W is stored, the number nearest to it is stored, and what is
lost is bounded (`facts.Loss`): the theorem is about the graph with the sums, and the certificate
says how far it is from the one that is stored (`differences`). So it is with x_i for which a move gives
a number c (0 where x is padded), whatever c is: |x_i - c| <= w follows from bounds of x_i, and it is as if
x_i were c, and b could not be stored better than to within sum |W_i| w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..errors import CertificateRejected
from ..exact_numbers import ceiling, two_product, two_sum, up, up_scale
from .axes import Units
from .facts import Known, Loss
from .model import GraphModel
from .operator import TINY, UNIT
from .operators import Contract, Elementwise, Linear, Node, PerUnit, Place, Transpose
from .slices import Slices, are_numbers

Tensor = np.ndarray[Any, np.dtype[Any]]
Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Into = Mapping[int, int | None]  # units that go, and the unit that each is merged into
# by a layer, named by what it gives, and a column: what the layer takes that slice for
Values = Mapping[tuple[str, int], float]
MOST = Fraction(float(np.finfo(np.float64).max))
FEW = 64  # constants that are added with rationals
SMALLEST, LARGEST = 2.0**-450, 2.0**450  # between these `two_product` is exact


class Rounds(CertificateRejected):
    """A removal is right over the reals, and what it stores are no numbers of the stored type."""


def remove(
    known: Known, units: Units, into: Into, values: Values | None = None, *, exact: bool = False
) -> GraphModel:
    """The graph without some units of an axis, after the check of all that the theorem asks.

    Facts in `known` go over to the new graph. `values` are of columns of units that go.

    Raises:
        CertificateRejected: a precondition fails; says at which node. `Rounds` where what is to be
            stored is beyond the stored type, or, if `exact`, is no number of it. Nothing is changed
            then.
    """
    graph = known.graph
    gone = np.array(sorted(into), dtype=np.int64)
    targets = {v for v in into.values() if v is not None}
    if not len(gone) or gone[0] < 1 or gone[-1] > units.count:
        raise CertificateRejected(f"units {gone.tolist()[:4]} of {units.count}")
    if not targets.isdisjoint(into) or any(not 1 <= v <= units.count for v in targets):
        raise CertificateRejected("a unit is merged into one that goes, or is not there")
    kept = kept_places(units, gone)
    changes = Changes(known)
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            _absorbed(node, node.op, known, units, into, values or {}, changes)
        elif isinstance(node.op, Contract):
            _vanishing(node, known, units, gone)
    changed, rounded = changes.applied()
    if exact and rounded:
        raise Rounds(f"a change of {next(iter(rounded))!r} would be rounded")
    return restricted(known, kept, changed, rounded, changes.lacking)


def kept_places(units: Units, gone: Ints) -> dict[Place, Ints]:
    """The indices that are left of each axis that has some of the units.

    Raises:
        CertificateRejected: none would be left of one.
    """
    kept = dict[Place, Ints]()
    for place, labels in units.places.items():
        stay = np.flatnonzero(~np.isin(labels, gone))
        if len(stay) == 0:
            raise CertificateRejected(f"nothing would be left of axis {place[1]} of {place[0]!r}")
        if len(stay) < len(labels):
            kept[place] = stay
    return kept


def readers_of(graph: GraphModel, units: Units) -> list[Node]:
    """Nodes that sum over an axis of units."""
    found = []
    for node in graph.nodes:
        if isinstance(node.op, Linear) and (node.inputs[1], node.op.columns) in units.places:
            found.append(node)
    return found


def lost_by(known: Known, units: Units, into: Into, values: Values) -> dict[str, Loss]:
    """What stored numbers lose where some units add elsewhere when they go.

    Raises:
        CertificateRejected: they may not go.
    """
    changes = Changes(known)
    for node in readers_of(known.graph, units):
        assert isinstance(node.op, Linear)
        _absorbed(node, node.op, known, units, into, values, changes)
    return changes.applied()[1]


def _absorbed(
    node: Node, op: Linear, known: Known, units: Units, into: Into, values: Values, changes: Changes
) -> None:
    """The columns of the units that go, at one linear node."""
    columns = units.places.get((node.inputs[1], op.columns))
    read = units.places.get((node.inputs[0], op.reads))
    if columns is None or read is None:
        return  # whole groups go, and none of their products reaches what stays
    x = known.of((node.inputs[0], op.reads))
    weight = known.array(node.inputs[1])
    if weight is None:
        raise CertificateRejected(f"{node.name!r} reads them with weights that are no constants")
    by_column = np.moveaxis(weight, (op.columns, op.rows), (0, 1))
    unread = unread_rows(known, node, op)
    for column in np.flatnonzero(np.isin(columns, sorted(into))).tolist():
        unit = int(columns[column])
        if not by_column[column].any():
            continue
        if not are_numbers(by_column[column]):
            raise CertificateRejected(
                f"{node.name!r} reads unit {unit} with weights that are no numbers"
            )
        if unread is not None and not by_column[column][~unread].any():
            changes.lacking.add(node.output)
            continue
        if (node.output, column) in values:
            value = values[node.output, column]
            width = width_around(x, column, op, value)
            if width is None:
                raise CertificateRejected(f"{node.name!r} may not take unit {unit} for {value}")
            changes.shift(node, op, by_column[column], Fraction(value), width)
            continue
        # with groups a column reads the same index of each of them
        places = np.arange(op.groups) * len(columns) + column
        ratios = [x.constant(i) for i in places.tolist()]
        if all(r == 0 for r in ratios):
            continue
        if op.groups == 1 and ratios[0] is not None and op.uniform and not op.padded:
            changes.shift(node, op, by_column[column], ratios[0])
            continue
        target = into[unit]
        if target is None:
            raise CertificateRejected(
                f"{node.name!r} reads unit {unit}, which is not constant there"
            )
        position = int(np.flatnonzero(np.flatnonzero(columns == unit) == column)[0])
        others = np.flatnonzero(columns == target)
        if position >= len(others):
            raise CertificateRejected(
                f"units {unit} and {target} have different sizes at {node.name!r}"
            )
        other = int(others[position])
        partners = places - column + other
        found = {
            x.ratios[i] / x.ratios[j]
            for i, j in zip(places.tolist(), partners.tolist(), strict=True)
            if x.classes[i] == x.classes[j] and x.ratios[j] != 0
        }
        same = all(
            x.classes[i] == x.classes[j]
            for i, j in zip(places.tolist(), partners.tolist(), strict=True)
        )
        if not same or len(found) != 1 or any(x.ratios[j] == 0 for j in partners.tolist()):
            raise CertificateRejected(
                f"{node.name!r} reads unit {unit}, which is no multiple of unit {target} there"
            )
        changes.column(node, op, column, other, found.pop())


def width_around(x: Slices, i: int, op: Linear, value: float) -> float | None:
    """How far a slice that a layer reads is from a number at most; None where it has no bounds, or the
    layer has groups, or continues it by zeros and the number is none.
    """
    low, high = float(x.low[i]), float(x.high[i])
    edge = op.padded or not op.uniform
    if op.groups > 1 or (edge and value != 0) or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return ceiling(max(Fraction(high) - Fraction(value), Fraction(value) - Fraction(low)))


def unread_rows(known: Known, node: Node, op: Linear) -> Any:
    """Which indices of what a node gives are multiplied by zero by all that read it; None where
    none is known to be.
    """
    graph, shape = known.graph, known.shape(node.output)
    if node.output in graph.outputs or op.groups != 1 or shape is None:
        return None
    readers = graph.readers.get(node.output, [])
    back = op.writes % len(shape) - len(shape)
    masks = [_times_zero(known, reader, node.output, shape, back) for reader in readers]
    if not masks or any(mask is None for mask in masks):
        return None
    found = np.logical_and.reduce(masks)
    return found if found.any() else None


def _times_zero(known: Known, reader: Node, name: str, shape: Any, back: int) -> Any:
    """Where a node multiplies a tensor by a stored zero, along an axis counted from the end."""
    op = reader.op
    if reader.inputs.count(name) != 1:
        return None
    if isinstance(op, PerUnit) and op.kind == "batchnorm":
        arrays = [known.array(x) for x in reader.inputs[1:]]
        if reader.inputs[0] != name or op.axis != len(shape) + back or len(arrays) != 4:
            return None
        if any(a is None or not np.isfinite(np.asarray(a, dtype=np.float64)).all() for a in arrays):
            return None
        scale, _, _, variance = (np.asarray(a, dtype=np.float64) for a in arrays)
        # of a number that is no root of a positive one nothing is known
        return scale == 0 if (variance + op.numbers[0] > 0).all() else None
    if isinstance(op, Elementwise) and op.kind == "mul" and len(reader.inputs) == 2:
        factor = known.array(reader.inputs[1 - reader.inputs.index(name)])
        if factor is None or factor.ndim < -back or factor.size != shape[back]:
            return None
        return np.ravel(factor) == 0 if factor.shape[back] == factor.size else None
    return None


def _vanishing(node: Node, known: Known, units: Units, gone: Ints) -> None:
    a, b = node.inputs
    first, second = known.shape(a), known.shape(b)
    if first is None or second is None:
        return
    place, other = (a, len(first) - 1), (b, len(second) - 2)
    labels = units.places.get(place)
    if labels is None:
        return
    for i in np.flatnonzero(np.isin(labels, gone)).tolist():
        if known.of(place).ratios[i] != 0 and known.of(other).ratios[i] != 0:
            raise CertificateRejected(
                f"{node.name!r} multiplies unit {int(labels[i])} by what is not zero"
            )


def stored_of(graph: GraphModel, name: str, axis: int) -> tuple[str, int]:
    """The stored tensor, and its axis, that a weight is.

    Raises:
        CertificateRejected: it is made of others.
    """
    while name not in graph.constants:
        maker = graph.makers.get(name)
        if maker is None:
            raise CertificateRejected(f"{name!r} is not stored")
        if isinstance(maker.op, Transpose):
            axis = maker.op.order[axis]
        elif not (isinstance(maker.op, Elementwise) and maker.op.kind == "identity"):
            raise CertificateRejected(f"the weights of {maker.name!r} are made of others")
        name = maker.inputs[0]
    return name, axis


def along(stored: Tensor, back: int) -> bool:
    """Whether a tensor has its entries along one axis, counted from the end."""
    return stored.ndim >= back and stored.shape[-back] == stored.size


class Shift(NamedTuple):
    """A number times the sum of taps ``[out, taps]`` is to be added; the number may be `width` off."""

    taps: Array
    value: Fraction
    width: float


class Changes:
    """What is to be added to stored tensors, checked to be the same for all that read them."""

    def __init__(self, known: Known) -> None:
        self.known, self.graph = known, known.graph
        # for each stored tensor, axis and node: additions of r times one index to another
        self.columns: dict[str, dict[str, list[tuple[int, int, int, Fraction]]]] = {}
        # for each stored tensor and node: numbers to be added along its one long axis
        self.shifts: dict[str, dict[str, list[Shift]]] = {}
        self.lacking: set[str] = set()  # tensors that will lack a constant, which their reader adds

    def column(self, node: Node, op: Linear, source: int, target: int, ratio: Fraction) -> None:
        """Add `ratio` times a column of the weights to another."""
        name, axis = stored_of(self.graph, node.inputs[1], op.columns)
        self.columns.setdefault(name, {}).setdefault(node.name, []).append(
            (axis, source, target, ratio)
        )

    def shift(
        self, node: Node, op: Linear, column: Tensor, value: Fraction, width: float = 0.0
    ) -> None:
        """Add a constant times the sum of the taps of a column to what the node gives."""
        taps = np.asarray(column, dtype=np.float64).reshape(len(column), -1)
        name, factor = self._sink(node)
        found = Shift(taps, value * factor, width)
        self.shifts.setdefault(name, {}).setdefault(node.name, []).append(found)

    def _sink(self, node: Node) -> tuple[str, int]:
        """The stored tensor that takes a constant added to each index of what a node gives, and its
        sign there: the bias, or the mean of a batch norm or the shift that alone reads the output.
        """
        if len(node.inputs) > 2 and node.inputs[2] in self.graph.constants:
            return node.inputs[2], 1
        readers = self.graph.readers.get(node.output, [])
        shape = self.graph.shapes.get(node.output)
        self.lacking.add(node.output)
        if len(readers) == 1 and node.output not in self.graph.outputs and shape is not None:
            (reader,) = readers
            op = reader.op
            assert isinstance(node.op, Linear)
            axis = node.op.writes
            normalises = isinstance(op, PerUnit) and op.kind == "batchnorm" and op.axis == axis
            if (
                normalises
                and reader.inputs[0] == node.output
                and reader.inputs[3] in self.graph.constants
            ):
                return reader.inputs[3], -1
            if (
                isinstance(op, Elementwise)
                and op.kind in ("add", "sub")
                and len(reader.inputs) == 2
            ):
                other = reader.inputs[1 - reader.inputs.index(node.output)]
                stored = self.graph.constants.get(other)
                if (
                    stored is not None
                    and stored.size == shape[axis]
                    and along(stored, len(shape) - axis)
                ):
                    # y + s, and y - s takes the opposite; s - y takes it with its sign
                    return other, -1 if op.kind == "sub" else 1
        raise CertificateRejected(f"{node.name!r} has no bias that could take a constant")

    def applied(self) -> tuple[dict[str, Tensor], dict[str, Loss]]:
        """The changed tensors, and what was lost."""
        found, lost = dict[str, Tensor](), dict[str, Loss]()
        for name, by_node in self.columns.items():
            if name in self.shifts:
                raise CertificateRejected(f"{name!r} is read in two ways")
            axis, columns = self._with_columns(name, self._agreed(name, by_node))
            found[name] = self.graph.constants[name].copy()
            view = np.moveaxis(found[name], axis, 0)
            for target, (column, _) in columns.items():
                view[target] = column
            rounded = {target: off for target, (_, off) in columns.items() if off.any()}
            if rounded:
                lost[name] = Loss(axis, rounded)
        for name, shifts in self.shifts.items():
            found[name], off = self._shifted(name, self._agreed(name, shifts))
            if off.any():
                axis = int(np.argmax(found[name].shape))
                lost[name] = Loss(axis, dict(enumerate(np.moveaxis(off, axis, 0))))
        return found, lost

    def _agreed(self, name: str, by_node: Mapping[str, list[Any]]) -> list[Any]:
        """The changes, which all nodes that the tensor reaches ask for alike."""
        if name in self.known.rounded:
            raise CertificateRejected(f"{name!r} was rounded: it changes again in another round")
        asked = list(by_node.values())
        alike = all(_same_changes(asked[0], one) for one in asked)
        if not alike or len(by_node) != self._uses(name):
            raise CertificateRejected(
                f"{name!r} is read by several nodes, which need different changes"
            )
        return asked[0]

    def _uses(self, name: str) -> int:
        """How many nodes that are no rearrangement read a stored tensor, outputs included."""
        count = int(name in self.graph.outputs)
        for node in self.graph.readers.get(name, ()):
            through = isinstance(node.op, Transpose) or (
                isinstance(node.op, Elementwise) and node.op.kind == "identity"
            )
            count += self._uses(node.output) if through else node.inputs.count(name)
        return count

    def _with_columns(
        self, name: str, changes: list[tuple[int, int, int, Fraction]]
    ) -> tuple[int, dict[int, tuple[Tensor, Array]]]:
        stored = self.graph.constants[name]
        axis = changes[0][0]
        moved = np.moveaxis(stored, axis, 0)
        totals = dict[int, tuple[Array, Array]]()
        for other, source, target, ratio in changes:
            if other != axis:
                raise CertificateRejected(f"{name!r} is read along two axes")
            if target not in totals:
                start = np.asarray(moved[target], dtype=np.float64)
                totals[target] = start, np.zeros_like(start)
            part = np.asarray(moved[source], dtype=np.float64)
            totals[target] = _step(*totals[target], part, ratio)
        return axis, {t: narrowed(*total, stored.dtype, name) for t, total in totals.items()}

    def _shifted(self, name: str, changes: list[Shift]) -> tuple[Tensor, Array]:
        stored = self.graph.constants[name]
        start = np.asarray(stored, dtype=np.float64).ravel()
        total, off = start, np.zeros_like(start)
        for shift in changes:
            for tap in shift.taps.T:
                total, off = _step(total, off, tap, shift.value)
        if off.any() and len(changes) <= FEW:
            total, off = _exact_sums(start, changes, name)
        for taps, _, width in changes:
            if width:
                masses = up(np.abs(taps).sum(axis=1), taps.shape[1])
                off = up(off + up_scale(masses, width))
        column, off = narrowed(total, off, stored.dtype, name)
        return column.reshape(stored.shape), off.reshape(stored.shape)


def _same_changes(a: list[Any], b: list[Any]) -> bool:
    if len(a) != len(b):
        return False
    for one, other in zip(a, b, strict=True):
        for x, y in zip(one, other, strict=True):
            if isinstance(x, np.ndarray):
                if not np.array_equal(x, y):
                    return False
            elif x != y:
                return False
    return True


def _step(total: Array, off: Array, part: Array, ratio: Fraction) -> tuple[Array, Array]:
    """total + ratio * part as floats, and what these are away from it, zero where they are it.

    `off` is what the total is away already.
    """
    with np.errstate(all="ignore"):
        near = float(ratio) if abs(ratio) <= MOST else math.inf
        factor_off = ceiling(abs(ratio - Fraction(near))) if math.isfinite(near) else math.inf
        product, lost = two_product(part, np.full_like(part, near))
        found, rest = two_sum(total, product)
        sizes = np.maximum(np.abs(part), abs(near))
        safe = (np.minimum(np.abs(part), abs(near)) >= SMALLEST) & (sizes <= LARGEST)
        # where the product may lose more than `two_product` tells: one rounding, or an underflow
        lost = np.where(safe | (part == 0), np.abs(lost), np.abs(product) * 2 * UNIT + TINY)
        further = up_scale(np.abs(part), factor_off) if factor_off else np.zeros_like(part)
        off = up(off + lost + np.abs(rest) + further, 4)
    return found, np.where(np.isnan(off) | ~np.isfinite(found), np.inf, off)


def _exact_sums(start: Array, changes: list[Shift], name: str) -> tuple[Array, Array]:
    """The same with rationals: the floats nearest to the sums, and what they are away from them."""
    found, off = np.empty(len(start)), np.zeros(len(start))
    for i, first in enumerate(start.tolist()):
        total = Fraction(first)
        for taps, value, _ in changes:
            total += value * sum(map(Fraction, taps[i].tolist()))
        if abs(total) > MOST:
            raise Rounds(f"a change of {name!r} is beyond what floats hold")
        found[i] = float(total)
        off[i] = ceiling(abs(total - Fraction(found[i])))
    return found, off


def narrowed(total: Array, off: Array, dtype: Any, name: str) -> tuple[Tensor, Array]:
    """In the stored type, and what it is away."""
    with np.errstate(all="ignore"):
        stored = total.astype(dtype)
        wide = np.asarray(stored, dtype=np.float64)
        further, rest = two_sum(total, -wide)
    if not (np.isfinite(wide).all() and np.isfinite(off).all()):
        raise Rounds(f"a change of {name!r} is beyond what {dtype} holds")
    off = up(off + np.abs(further) + np.abs(rest))
    if off.any() and (stored.ndim == 0 or stored.dtype.kind in "biu"):
        raise Rounds(f"a change of {name!r} would be rounded in {dtype}")
    return stored, off


def restricted(
    known: Known, kept: Mapping[Place, Ints], changed: Mapping[str, Tensor],
    rounded: Mapping[str, Loss], lacking: set[str],
) -> GraphModel:  # fmt: skip
    graph = known.graph
    shapes, constants = dict(graph.shapes), dict(graph.constants)
    constants.update(changed)
    for (name, axis), stay in kept.items():
        shape = list(shapes[name] or ())
        shape[axis] = len(stay)
        shapes[name] = tuple(shape)
        if name in constants:
            constants[name] = np.take(constants[name], stay, axis)
    touched = {name for name, _ in kept}
    nodes = []
    for node in graph.nodes:
        if touched.isdisjoint(node.inputs) and touched.isdisjoint(node.outputs):
            nodes.append(node)
        else:
            nodes.append(replace(node, op=node.op.restricted(node, kept, graph.shapes)))
    smaller = GraphModel(graph.inputs, graph.outputs, tuple(nodes), shapes, constants)
    known.rounded.update(rounded)
    known.restricted(smaller, kept)
    known.forget({*changed, *lacking})
    return smaller
