"""Units of a graph that any invertible matrix may mix: coordinates of keys and of values, linear bottlenecks.

Let a tensor be M t along the axis of the units where one number r could multiply each of them, and N t, N
the transposed inverse of M, where 1/r would: layers that write them become M W, those that read them have
N along their columns, and a product of two tensors that sums over them has M on one side and N on the
other. Where every node that has a part in them is linear in them, in one way for all, no output changes.
Derived; in floats such a matrix rounds, so the group is counted and its elements are not written.
"""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    Place,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)

from .graph_scales import Gauge

# Operators that put entries elsewhere, whatever they are
FREE = (Broadcast, Concat, Lookup, Reshape, Take, Transpose)


def mixes(graph: GraphModel, gauge: Gauge) -> bool:
    """Whether any invertible matrix may mix the units that a gauge multiplies by positive numbers."""
    units, members, _ = gauge.part
    places = {place for place, own in units.places.items() if np.isin(own, members).any()}
    if gauge.sign or gauge.joint or not {*gauge.powers.values()} <= {1, -1}:
        return False
    if not places <= gauge.powers.keys():
        return False  # somewhere a unit is beside another thing of its own, entry by entry
    whole = all(np.isin(members, units.places[place]).all() for place in places)
    names = {name for name, _ in places}
    return whole and all(
        _is_linear(node, places, graph)
        for node in graph.nodes
        if not names.isdisjoint((*node.inputs, *node.outputs))
    )


def _is_linear(node: Node, places: set[Place], graph: GraphModel) -> bool:
    op, touched = node.op, {name for name, _ in places}
    if isinstance(op, Linear):
        x, w, y = node.inputs[0], node.inputs[1], node.output
        ends = {(x, op.reads), (w, op.columns), (w, op.rows), (y, op.writes)}
        ends |= {(bias, 0) for bias in node.inputs[2:3]}
        mine = {place for place in places if place[0] in (*node.inputs, y)}
        return op.groups == 1 and mine <= ends
    if isinstance(op, Elementwise):
        own = [name in touched for name in node.inputs if name]
        if op.kind in ("add", "sub"):
            return all(own)
        if op.kind in ("mul", "div"):
            return sum(own) == 1 and (op.kind == "mul" or own[0])
        return op.kind in ("identity", "neg")
    if isinstance(op, Slicewise):
        free = {(node.inputs[0], i) for i, _ in op.free}
        return op.linear and all(place in free for place in places if place[0] in node.inputs)
    if isinstance(op, Contract):  # rows, columns and what is summed over, not pairs one by one
        names = {*node.inputs, node.output}
        return all(
            axis >= len(graph.shapes[name] or ()) - 2 for name, axis in places if name in names
        )
    return isinstance(op, FREE)
