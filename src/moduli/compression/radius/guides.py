"""Multipliers that shorten the search for free groups, from linear programs; a leaf carries them to
the kernel.

The kernel lists the free groups around a unit that could refute a bound. Sums of outgoing weights
and costs, combined with any multipliers, tell it where to stop early; good ones are the dual values
of the linear program that relaxes the search: at most one vertex of each class of pairwise
incompatible ones, sums at most 0, and for the second row least cost.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.exact_numbers import Array
from moduli.kernel.radius.compatibility import (
    Counts,
    DualWeights,
    Ints,
    Mask,
    ParameterBall,
    by_degree,
    classes,
    contributors,
    neighbourhood,
    scratch,
    sides,
)
from moduli.kernel.radius.cover_bound import Bound, CoverProof, ReducedCostFilter, leading

CROWD = 12  # vertices around a unit: with fewer the search is short anyway
DIGITS = 6  # of multipliers in a certificate: any do


def guide(root: int, values: Array, total: Array, doubt: Array, cost: Counts, near: Mask) -> Array:
    """Multipliers ``[2, 2 m]`` for the search around a root; see `compatibility.Guide`."""
    found = np.zeros((2, len(total)))
    if len(cost) > CROWD and np.isfinite(doubt).all():
        colour = classes(near, np.argsort(cost, kind="stable"))
        found[0] = _multipliers(values, total, np.zeros(len(cost)), colour)
        found[1] = _multipliers(values, total, cost.astype(np.float64), colour)
    return found


def guided(ball: ParameterBall, bound: Bound, most: int) -> Bound:
    """The bound, with multipliers in the leaves by which the kernel decides what it lists.

    Args:
        most: units of each part that get any; without them the kernel only searches longer.
    """
    parts = tuple((units, _guided(ball, units, tree, most)) for units, tree in bound.parts)
    return Bound(bound.lower, parts)


def _guided(ball: ParameterBall, units: tuple[int, ...], tree: CoverProof, most: int) -> CoverProof:
    leaf = leading(tree)
    if leaf is None:
        return tree
    rows = np.array(sorted(units), dtype=np.intp)
    try:
        better = replace(leaf, guides=_held(ball, rows, leaf, most))
    except BudgetExhausted:  # more units are compatible with one than any search takes
        return tree
    return replace(tree, leaf=better) if isinstance(tree, ReducedCostFilter) else better


def _held(
    ball: ParameterBall, rows: Ints, leaf: DualWeights, most: int
) -> tuple[tuple[int, tuple[tuple[float, ...], ...]], ...]:
    """Multipliers for each unit around which the kernel searches, where there are any, short enough
    to be stored.
    """
    cost = np.zeros(ball.size, dtype=np.int64)
    cost[list(leaf.prices)] = list(leaf.prices.values())
    cost[list(leaf.weights)] -= np.array(list(leaf.weights.values()), dtype=np.int64)
    place, vertex = contributors(ball), scratch(ball)
    found = list[tuple[int, tuple[tuple[float, ...], ...]]]()
    for root in by_degree(ball, rows[ball.freeable[rows]]):
        if len(found) == most:
            break
        others, signs, near = neighbourhood(ball, root, place, vertex)
        place[root] = -1
        rows_of_root = guide(root, *sides(ball, root, others, signs), cost[others], near)
        if rows_of_root.any():
            found.append((root, tuple(map(_shortened, rows_of_root.tolist()))))
    return tuple(found)


def _shortened(row: list[float]) -> tuple[float, ...]:
    """Any multipliers will do, so few digits do: they are stored in the certificate."""
    return tuple(float(f"{x:.{DIGITS}g}") for x in row)


def _multipliers(values: Array, total: Array, cost: Array, colour: Ints) -> Array:
    """Dual values of the sums in a linear program that relaxes the search; hard limits become dear
    ones.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, hstack, vstack

    scale = max(1.0, float(np.abs(cost).max()))
    size = max(
        float(np.abs(values).max(initial=0.0)), float(np.abs(total).max(initial=0.0)), 1e-300
    )
    count, classes = len(cost), int(colour.max()) + 1
    sums = csr_matrix(np.column_stack([values.T / size, -np.ones(len(total))]))
    one = hstack(
        [csr_matrix((np.ones(count), (colour, np.arange(count)))), csr_matrix((classes, 1))]
    )
    limits = np.concatenate([-total / size, np.ones(classes)])
    penalty = 1.0 if not cost.any() else 1000.0
    matrix, aim = vstack([sums, one], format="csr"), np.append(cost / scale, penalty)
    found = linprog(aim, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
    if found.ineqlin is None or found.x is None:
        return np.zeros(len(total))
    return np.asarray(
        np.maximum(0.0, -np.asarray(found.ineqlin.marginals)[: len(total)]) * (scale / size)
    )
