"""Units of a graph that any invertible matrix may mix: coordinates of keys and of values, linear bottlenecks.

Let a tensor be t' = M t along the axis of the units, layers that write it M W and M b, those that read it
W M^-1. Where every node that has a part in them is linear in them, in one way for all, and a product of
two tensors sums over them, one by M and the other by the transposed inverse, no output changes. Derived;
in floats such a matrix rounds, so the group is counted and its elements are not written.
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

from .graph_units import Exchangeable

# Operators that put entries elsewhere, or sum over them, whatever they are
FREE = (Broadcast, Concat, Contract, Lookup, Reshape, Take, Transpose)


def mixes(graph: GraphModel, part: Exchangeable) -> bool:
    """Whether any invertible matrix may mix the units."""
    units, members, _ = part
    places = {place for place, labels in units.places.items() if np.isin(labels, members).any()}
    whole = all(np.isin(members, units.places[place]).all() for place in places)
    names = {name for name, _ in places}
    return whole and all(
        _is_linear(node, places)
        for node in graph.nodes
        if not names.isdisjoint((*node.inputs, *node.outputs))
    )


def _is_linear(node: Node, places: set[Place]) -> bool:
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
    return isinstance(op, FREE)
