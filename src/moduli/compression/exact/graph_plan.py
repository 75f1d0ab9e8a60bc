"""Which units of an axis of a graph seem to go, and how the move is written that leaves them out."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.common.graph import stored_axis
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Contract, Linear, Lookup, Node, Place
from moduli.kernel.graph.removal import Into, nearly_constant, unread_rows
from moduli.kernel.graph.slices import Slices

Ints = np.ndarray[Any, np.dtype[np.int64]]
CLOSE = 2.0**-45


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


def move_of(seed: Place, units: Units, into: dict[int, int | None]) -> GraphMove:
    labels = units.places[units.seed]
    first = {int(u): int(i) for u, i in zip(*np.unique(labels, return_index=True), strict=True)}
    names = sorted(into)
    if any(u not in first for u in names):
        raise CertificateRejected("the seed does not have the unit")
    targets = [into[u] for u in names]
    return GraphMove(
        "remove", seed[0], seed[1], tuple(first[u] for u in names),
        tuple(-1 if v is None else first[v] for v in targets),
    )  # fmt: skip


@dataclass
class Reading:
    """One sum that reads an axis.

    Attributes:
        labels: the unit of each column. settled: whether nothing has to be made up for, or only a
            constant. classes, ratios: of what is read; None where no merge is possible.
    """

    labels: Ints
    settled: list[bool]
    names: list[tuple[int, Fraction]] | None


def plan(known: Known, units: Units) -> Into:
    """Units of an axis that seem to go, and what each is merged into."""
    readings = [r for node in known.graph.nodes if (r := _reading(known, node, units)) is not None]
    open_at: dict[int, list[tuple[int, int]]] = {}
    position = [_positions(r.labels) for r in readings]
    for k, reading in enumerate(readings):
        for column, unit in enumerate(reading.labels.tolist()):
            if unit and not reading.settled[column]:
                open_at.setdefault(unit, []).append((k, column))
    into: dict[int, int | None] = {u: None for u in range(1, units.count + 1) if u not in open_at}
    buckets: dict[Any, list[int]] = {}
    kept = set[int]()
    for unit in sorted(open_at):
        k, column = open_at[unit][0]
        names = readings[k].names
        if any(readings[j].names is None for j, _ in open_at[unit]) or names is None:
            kept.add(unit)
            continue
        key = (k, position[k][column], names[column][0])
        partner = next(
            (v for v in buckets.get(key, []) if _mergeable(readings, position, open_at[unit], v)),
            None,
        )
        if partner is None:
            kept.add(unit)
        else:
            into[unit] = partner
        for j, other in open_at[unit]:
            found = readings[j].names
            if partner is None and found is not None:
                buckets.setdefault((j, position[j][other], found[other][0]), []).append(unit)
    if not kept and not fixed(units):
        # an axis has at least one index
        into.pop(next(u for u in sorted(into) if u not in set(into.values())))
    return into


def fixed(units: Units) -> bool:
    return all(bool((labels == 0).any()) for labels in units.places.values())


def _positions(labels: Ints) -> list[int]:
    seen = dict[int, int]()
    found = []
    for unit in labels.tolist():
        found.append(seen.get(unit, 0))
        seen[unit] = found[-1] + 1
    return found


def _mergeable(
    readings: list[Reading], position: list[list[int]], wanted: list[tuple[int, int]], target: int
) -> bool:
    """Whether what is read of a unit is everywhere a multiple of what is read of another."""
    for k, column in wanted:
        names = readings[k].names
        assert names is not None
        others = np.flatnonzero(readings[k].labels == target)
        place = position[k][column]
        if place >= len(others):
            return False
        a, b = names[column], names[int(others[place])]
        if a[0] != b[0] or b[1] == 0:
            return False
    return True


def _reading(known: Known, node: Node, units: Units) -> Reading | None:
    op = node.op
    if isinstance(op, Contract):
        return product(known, node, units)
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


def product(known: Known, node: Node, units: Units) -> Reading | None:
    first, second = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if first is None or second is None:
        return None
    a, b = (node.inputs[0], len(first) - 1), (node.inputs[1], len(second) - 2)
    labels = units.places.get(a)
    if labels is None or not labels.any():
        return None
    left, right = known.of(a).ratios, known.of(b).ratios
    return Reading(labels, [x == 0 or y == 0 for x, y in zip(left, right, strict=True)], None)
