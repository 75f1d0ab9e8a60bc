"""Which units of an axis of a graph seem to go, and how the move is written that leaves them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moduli.common.graph import stored_axis
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Contract, Linear, Lookup, Node, Place
from moduli.kernel.graph.removal import Into, Values, readers_of, unread_rows, width_around
from moduli.kernel.graph.slices import Slices

Ints = np.ndarray[Any, np.dtype[np.int64]]
CLOSE = 2.0**-45  # of a constant: as near as floats tell it


def seeds(graph: GraphModel) -> list[Place]:
    """Axes whose units are looked at, last ones first: rows of weights, then all others."""
    rows, others = list[Place](), list[Place]()
    for node in reversed(graph.nodes):
        if isinstance(node.op, Linear):
            rows.append(stored_axis(graph, node.inputs[1], node.op.rows))
        if isinstance(node.op, Lookup):
            shape = graph.shapes[node.inputs[0]] or ()
            rows += [(node.inputs[0], axis) for axis in range(len(shape)) if axis != node.op.axis]
        for name in node.outputs:
            for axis, n in enumerate(graph.shapes.get(name) or ()):
                if isinstance(n, int) and n > 1:
                    others.append((name, axis))
    return list(dict.fromkeys([*rows, *others]))


def staying(units: Units, frozen: frozenset[Place]) -> set[int]:
    """Units with an index of a frozen axis."""
    there = [units.places[place] for place in frozen if place in units.places]
    return {int(u) for labels in there for u in np.unique(labels)}


def first_indices(units: Units) -> dict[int, int]:
    """By which a move names units: of each the first along the seed."""
    labels = units.places[units.seed]
    return {int(u): int(i) for u, i in zip(*np.unique(labels, return_index=True), strict=True)}


def move_of(units: Units, into: Into, values: Values) -> GraphMove:
    """The removal of units, each named by its first index along the seed; `values` are of them alone."""
    first = first_indices(units)
    names = sorted(into)
    if any(u not in first for u in names):
        raise CertificateRejected("the seed does not have the unit")
    targets = [into[u] for u in names]
    return GraphMove(
        "remove", *units.seed, tuple(first[u] for u in names),
        tuple(-1 if v is None else first[v] for v in targets),
        values=tuple((*place, value) for place, value in values.items()),
    )  # fmt: skip


class Step(NamedTuple):
    """A move that was found, and those of its units that are constants other than zero."""

    move: GraphMove
    constant: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reading:
    """One sum that reads an axis.

    Attributes:
        labels: the unit of each column. settled: of each whether nothing has to be made up for, or only
            a constant. names: class and ratio of what each reads; None where no merge is possible.
    """

    labels: Ints
    settled: list[bool]
    names: list[tuple[int, Fraction]] | None

    @cached_property
    def columns(self) -> dict[int, list[int]]:
        """Of each unit, in their order."""
        found: dict[int, list[int]] = {}
        for column, unit in enumerate(self.labels.tolist()):
            found.setdefault(unit, []).append(column)
        return found

    def name(self, unit: int, position: int) -> tuple[int, Fraction] | None:
        """Of one of the columns of a unit, where there is this one."""
        columns = self.columns.get(unit, [])
        if self.names is None or position >= len(columns):
            return None
        return self.names[columns[position]]


class Read(NamedTuple):
    """A column of a unit: by the number of a reading, and its position among those of the unit there."""

    reading: int
    position: int


def plan(known: Known, units: Units) -> dict[int, int | None]:
    """Units of an axis that seem to go, and what each is merged into."""
    found = (_reading(known, node, units) for node in known.graph.nodes)
    readings = [reading for reading in found if reading is not None]
    open_ = _open_reads(readings)
    into = dict[int, int | None].fromkeys(u for u in range(1, units.count + 1) if u not in open_)
    if not open_ and not fixed(units):
        del into[min(into)]  # an axis has at least one index
    return into | _merges(readings, open_)


def _open_reads(readings: list[Reading]) -> dict[int, list[Read]]:
    """Of each unit the columns that are not settled, unit by unit."""
    found: dict[int, list[Read]] = {}
    for k, reading in enumerate(readings):
        for unit, columns in reading.columns.items():
            for position, column in enumerate(columns):
                if unit and not reading.settled[column]:
                    found.setdefault(unit, []).append(Read(k, position))
    return dict(sorted(found.items()))


def _merges(readings: list[Reading], open_: dict[int, list[Read]]) -> dict[int, int | None]:
    """Units of which all that is read is a multiple of what is read of another one, which stays."""
    into, alike = dict[int, int | None](), dict[tuple[Read, int], list[int]]()
    for unit, reads in open_.items():
        names = [readings[read.reading].name(unit, read.position) for read in reads]
        keys = [(read, name[0]) for read, name in zip(reads, names, strict=True) if name]
        if len(keys) < len(reads):
            continue
        for target in alike.get(keys[0], []):
            if all(_multiple(readings[key[0].reading], key, target) for key in keys):
                into[unit] = target
                break
        else:
            for key in keys:
                alike.setdefault(key, []).append(unit)
    return into


def _multiple(reading: Reading, key: tuple[Read, int], target: int) -> bool:
    """Whether what is read of a unit is a multiple of what is read of another one, by its class."""
    read, kind = key
    name = reading.name(target, read.position)
    return name is not None and name[0] == kind and name[1] != 0


def fixed(units: Units) -> bool:
    """Whether an index of each axis stays in any case."""
    return all(bool((labels == 0).any()) for labels in units.places.values())


def _reading(known: Known, node: Node, units: Units) -> Reading | None:
    """How a node reads units as a sum over them; None where it does not."""
    op = node.op
    if isinstance(op, Contract):
        return reading_of_product(known, node, units)
    if not isinstance(op, Linear):
        return None
    labels = units.places.get((node.inputs[1], op.columns))
    if labels is None or (node.inputs[0], op.reads) not in units.places or not labels.any():
        return None
    weight = known.array(node.inputs[1])
    x = known.of((node.inputs[0], op.reads))
    n = len(labels)
    if weight is None:
        return Reading(labels, [False] * n, None)
    moved = np.moveaxis(weight, (op.columns, op.rows), (0, 1))
    unread = unread_rows(known, node, op)
    moved = (moved if unread is None else moved[:, ~unread]).reshape(n, -1)
    nothing = ~(moved != 0).any(axis=1)
    settled = []
    for column in range(n):
        values = [x.constant(g * n + column) for g in range(op.groups)]
        zero = all(v == 0 for v in values)
        folds = op.groups == 1 and values[0] is not None and op.uniform and not op.padded
        near = op.groups == 1 and _irrational(x, column, op)
        settled.append(bool(nothing[column]) or zero or folds or near)
    names = [(int(x.classes[i]), x.ratios[i]) for i in range(n)]
    return Reading(labels, settled, names)


def _irrational(x: Slices, i: int, op: Linear) -> bool:
    """Whether bounds of a slice tell a constant as well as floats do: behind a batch norm is a root."""
    near = nearly_constant(x, i, op)
    return near is not None and near[1] <= CLOSE * abs(near[0])


def nearly_constant(x: Slices, i: int, op: Linear) -> tuple[float, float] | None:
    """A number, and how far a slice that a layer reads is from it at most; the number is zero where the
    layer continues the slice by zeros. None where the slice has no bounds.
    """
    middle = 0.0 if op.padded or not op.uniform else float(x.low[i]) / 2 + float(x.high[i]) / 2
    width = width_around(x, i, op, middle)
    return None if width is None else (middle, width)


class ReadColumn(NamedTuple):
    """What a layer reads, by other numbers than zero, of a unit that goes and into no other one."""

    node: Node
    op: Linear
    x: Slices
    column: int
    unit: int


def _columns_that_go(known: Known, units: Units, into: Into) -> Iterator[ReadColumn]:
    for node in readers_of(known.graph, units):
        op, weight = node.op, known.array(node.inputs[1])
        assert isinstance(op, Linear)
        if weight is None or (node.inputs[0], op.reads) not in units.places:
            continue
        x, unread = known.of((node.inputs[0], op.reads)), unread_rows(known, node, op)
        labels = units.places[node.inputs[1], op.columns]
        moved = np.moveaxis(weight, (op.columns, op.rows), (0, 1))
        for column in np.flatnonzero(np.isin(labels, sorted(into))).tolist():
            taps = moved[column] if unread is None else moved[column][~unread]
            unit = int(labels[column])
            if into[unit] is None and taps.any():
                yield ReadColumn(node, op, x, column, unit)


def middles(known: Known, units: Units, into: Into) -> dict[tuple[str, int], float]:
    """For what layers read of units that go, and neither is constant nor goes into another unit: the
    numbers that may be taken for it.
    """
    found = dict[tuple[str, int], float]()
    for node, op, x, column, _ in _columns_that_go(known, units, into):
        near, value = nearly_constant(x, column, op), x.constant(column)
        if near is None:
            continue
        if value is None or (value != 0 and (op.padded or not op.uniform)):
            found[node.output, column] = near[0]
    return found


def constants(known: Known, units: Units, into: Into) -> tuple[int, ...]:
    """First indices of the units that go and into no other one, and that some layer reads as a constant
    other than zero, or takes for one: it goes into a bias. The others are zero, or nothing reads them.
    """
    found = set[int]()
    for _, op, x, column, unit in _columns_that_go(known, units, into):
        value = x.constant(column)
        near = nearly_constant(x, column, op) if value is None else (value,)
        if op.groups == 1 and near is not None and near[0] != 0:
            found.add(unit)
    first = first_indices(units)
    return tuple(sorted(first[unit] for unit in found))


def reading_of_product(known: Known, node: Node, units: Units) -> Reading | None:
    """Of two computed tensors: a unit that is zero on one side is settled, and none is merged."""
    first, second = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if first is None or second is None:
        return None
    a, b = (node.inputs[0], len(first) - 1), (node.inputs[1], len(second) - 2)
    labels = units.places.get(a)
    if labels is None or not labels.any():
        return None
    left, right = known.of(a).ratios, known.of(b).ratios
    return Reading(labels, [x == 0 or y == 0 for x, y in zip(left, right, strict=True)], None)
