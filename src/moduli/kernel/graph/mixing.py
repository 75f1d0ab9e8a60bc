"""Units of an axis in another basis: any invertible matrix. Part of the kernel.

Let units be such that each could be multiplied by a number r, which then multiplies some tensors by r and
others by 1 / r (`scaling`). Let M be any invertible matrix, N its transposed inverse; let tensors of the
first kind be M t along the axis of the units, and those of the second N t, stored tensors, too. Where every
node that has a part in the units is linear in them, in one way for all, the graph computes what it did:

    layers      M W x + M b = M (W x + b), and W with N along its columns takes M x to W x
    products    of a and b, summed over the units: (M a) . (N b) = a . b
    sums        M x + M y = M (x + y), where `scaling` has all of them of one kind
    products with what has no index for a unit, means and pools of each unit, entries put elsewhere

Each unit has one index wherever they are, so that M acts on them in one way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from ..errors import CertificateRejected
from .axes import Units
from .model import GraphModel
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    Place,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .scaling import require_laws, spread

# Operators that put entries elsewhere, whatever they are, or read sizes
ELSEWHERE = (Broadcast, Concat, Lookup, Reshape, Size, Take, Transpose)


def require_mixed(
    graph: GraphModel, units: Units, members: Sequence[int], powers: Mapping[Place, int]
) -> None:
    """Any invertible matrix may mix units; `powers` says where a number r would be r, and where 1 / r.

    Raises:
        CertificateRejected: a power is another, units are elsewhere as well, or naming a node.
    """
    # a product of powers of different primes is one where every power is: so of each unit by itself
    numbers = np.full(units.count, Fraction(1), dtype=object)
    numbers[np.asarray(members) - 1] = [Fraction(p) for p in _primes(len(members))]
    require_laws(graph, spread(units, numbers.tolist(), powers))
    places = {place for place, own in units.places.items() if np.isin(own, members).any()}
    if places != powers.keys() or not set(powers.values()) <= {1, -1}:
        raise CertificateRejected("units are not multiplied by r or by 1 / r wherever they are")
    for place in places:
        own = units.places[place]
        if not np.array_equal(np.sort(own[np.isin(own, members)]), np.sort(members)):
            raise CertificateRejected(
                f"units have no index each along axis {place[1]} of {place[0]!r}"
            )
    names = {name for name, _ in places}
    for node in graph.nodes:
        touched = not names.isdisjoint((*node.inputs, *node.outputs))
        if touched and not _is_linear(node, graph, places):
            raise CertificateRejected(f"{node.name!r} is not linear in the units")


def _primes(count: int) -> list[int]:
    every = (n for n in itertools.count(2) if all(n % k for k in range(2, math.isqrt(n) + 1)))
    return list(itertools.islice(every, count))


def _is_linear(node: Node, graph: GraphModel, places: set[Place]) -> bool:
    op, touched = node.op, {name for name, _ in places}
    if isinstance(op, Linear):
        x, w, y = node.inputs[0], node.inputs[1], node.output
        ends = {(x, op.reads), (w, op.columns), (w, op.rows), (y, op.writes)}
        ends |= {(bias, 0) for bias in node.inputs[2:3]}
        return op.groups == 1 and _of(node, places) <= ends
    if isinstance(op, Elementwise):
        own = [name in touched for name in node.inputs if name]
        if op.kind in ("add", "sub"):
            return all(own)
        if op.kind in ("mul", "div"):
            return sum(own) == 1 and (op.kind == "mul" or own[0])
        return op.kind in ("identity", "neg")
    if isinstance(op, Slicewise):
        free = {(node.inputs[0], i) for i, _ in op.free} | {(node.output, o) for _, o in op.free}
        alike = all(owner is None for owner in op.carried)
        return op.linear and alike and _of(node, places) <= free
    if isinstance(op, Contract):  # rows, columns and what is summed over, not pairs one by one
        ranks = {name: len(graph.shapes.get(name) or ()) for name in (*node.inputs, node.output)}
        return all(axis >= ranks[name] - 2 for name, axis in _of(node, places))
    return isinstance(op, ELSEWHERE)


def _of(node: Node, places: set[Place]) -> set[Place]:
    return {place for place in places if place[0] in (*node.inputs, *node.outputs)}
