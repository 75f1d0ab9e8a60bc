"""Units of a graph that are nearly constant, within a tolerance: the search."""

from __future__ import annotations

import numpy as np

from moduli.common.graph import size_of
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units, units_from
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Contract, Linear, Place
from moduli.kernel.graph.removal import kept_places, lost_by, remove

from .graph_plan import (
    Step,
    constants,
    fixed,
    middles,
    move_of,
    nearly_constant,
    reading_of_product,
    seeds,
    staying,
)
from .graph_rounding import bound_of


def near_constants(
    known: Known, frozen: frozenset[Place], room: float, tried: set[Place]
) -> Step | None:
    """As many units of the next axis as may be taken for constants within half of what is left, those
    first that do least; they are left out. None where no axis has any.
    """
    for seed in seeds(known.graph):
        if seed in tried or size_of(known.graph, seed) is None:
            continue
        tried.add(seed)
        units = units_from(known.graph, seed)
        stay = staying(units, frozen)
        own = np.unique(units.places[seed])
        names = [u for u in _least_first(known, units) if u not in stay and u in own]
        count = _within(known, units, names, room / 2)
        if count:
            into = dict[int, int | None].fromkeys(names[:count])
            values = middles(known, units, into)
            step = Step(move_of(units, into, values), constants(known, units, into))
            remove(known, units, into, values)
            return step
    return None


def _within(known: Known, units: Units, names: list[int], room: float) -> int:
    """How many units may go before the bound of what that does is more than there is room for."""
    low, high = 0, len(names)
    values = middles(known, units, dict.fromkeys(names))
    while low < high:
        middle = (low + high + 1) // 2
        try:
            kept_places(units, np.array(names[:middle]))  # an axis may have some of the units alone
            some = dict[int, int | None].fromkeys(names[:middle])
            lost = lost_by(known, units, some, values)
            fits = bound_of(known, lost).everywhere <= room
        except CertificateRejected:
            fits = False
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _least_first(known: Known, units: Units) -> list[int]:
    """Units that every layer which reads them may take for constants, by how much that changes what
    layers give; one stays.
    """
    cost = np.zeros(units.count + 1)
    cost[0] = np.inf
    for node in known.graph.nodes:
        op = node.op
        if isinstance(op, Contract):
            product = reading_of_product(known, node, units)
            if product is not None:
                cost[product.labels[~np.array(product.settled)]] = np.inf
        if not isinstance(op, Linear):
            continue
        labels = units.places.get((node.inputs[1], op.columns))
        if labels is None or (node.inputs[0], op.reads) not in units.places:
            continue  # it reads none of them, or whole groups
        weight = known.array(node.inputs[1])
        if weight is None or op.groups > 1:
            cost[labels] = np.inf
            continue
        x = known.of((node.inputs[0], op.reads))
        columns = np.moveaxis(weight, op.columns, 0).reshape(len(labels), -1).astype(np.float64)
        with np.errstate(over="ignore"):  # infinite where it is beyond all numbers
            masses = np.abs(columns).sum(axis=1)
            for column in np.flatnonzero(masses).tolist():
                near = nearly_constant(x, column, op)
                width = np.inf if near is None else near[1]
                cost[labels[column]] += masses[column] * width
    order = [int(u) for u in np.argsort(cost, kind="stable") if np.isfinite(cost[u])]
    return order[: units.count - 1] if not fixed(units) else order
