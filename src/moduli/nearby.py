"""Proximate rank: the least rank within a radius of the parameters (Farrugia-Roberts 2023). The search.

Deciding it is NP-complete. Here is what answers: the paper's greedy bound; first fit and independent sets for layers of
any size; and, up to a few thousand units that belong together, least covers by maximal boxes and free groups (`cover`).
What the search finds is a `Plan`; `proximity` and `certificate` decide what it proves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import cover
from .enclosure import Array
from .errors import BudgetExhausted
from .lossless import Progress
from .proximity import Ball, Bound, Group, Ints, Leaf, Tree, around, at_most, free_groups, maximal_boxes, renamed

Parts = tuple[tuple[tuple[int, ...], Tree], ...]


@dataclass(frozen=True)
class Plan:
    """A fate for every unit: groups that stay as one unit each, groups that vanish, units made constant or null."""

    paid: tuple[Group, ...] = ()
    free: tuple[Group, ...] = ()
    constant: tuple[int, ...] = ()
    null: tuple[int, ...] = ()


class Found(NamedTuple):
    """A plan, a proof that fewer paid groups than `bound.lower` are impossible, search nodes spent."""

    plan: Plan
    bound: Bound
    nodes: int


def greedy(ball: Ball, order: Sequence[int] | None = None) -> int:
    """The bound of the paper (section 5): one pass over the units, by default in stored order.

    Units with |w| <= radius go; each other one joins the first group whose first member is within the radius of it (or
    of its negative), or opens one; then groups with |sum s_i a_i| <= radius * size go.
    """
    units = [i for i in (range(ball.size) if order is None else order) if not ball.constant[i]]
    leaders = np.empty((len(units), ball.rows.shape[1]))
    groups: list[tuple[list[int], list[int]]] = []
    for i in units:
        found, sign = len(groups), 1
        for s in (1, -1) if ball.signed else (1,):
            at = _first_within(leaders[: len(groups)], s * ball.rows[i], ball.radius)
            if at < found:
                found, sign = at, s
        if found == len(groups):
            leaders[found] = ball.rows[i]
            groups.append(([], []))
        groups[found][0].append(i)
        groups[found][1].append(sign)
    return sum(not ball.free(Group(tuple(members), tuple(signs))) for members, signs in groups)


def _first_within(leaders: Array, row: Array, radius: float) -> int:
    """The first leader within the radius of a row; the number of leaders if there is none."""
    candidates = np.flatnonzero(np.abs(leaders[:, 0] - row[0]) <= np.nextafter(radius, np.inf))
    near = (at_most(leaders[candidates], row, radius) & at_most(row, leaders[candidates], radius)).all(axis=1)
    hit = candidates[near]
    return int(hit[0]) if len(hit) else len(leaders)


def solve(ball: Ball, budget: int = 10_000, executor: Executor | None = None, progress: Progress | None = None) -> Found:
    """The best plan and bound within a budget of search nodes for each connected component."""
    try:
        components = _components(ball)
    except BudgetExhausted:
        return Found(_completed(ball, _crowded(ball), ()), Bound(0, ()), 0)
    alone = [int(c[0]) for c in components if len(c) == 1]
    parts: list[tuple[tuple[int, ...], Tree]] = []
    paid, free = [Group((i,), (1,)) for i in alone], list[Group]()
    if alone:
        parts.append((tuple(alone), Leaf(dict.fromkeys(alone, 1), {}, (), 1)))
    many = sorted((c for c in components if len(c) > 1), key=len, reverse=True)
    lower, nodes = len(alone), 0
    answers = (map if executor is None else executor.map)(_component, (ball.part(c) for c in many), [budget] * len(many))
    for k, (units, (plan, found, bound, spent)) in enumerate(zip(many, answers, strict=True)):
        paid += [_renamed(g, units) for g in plan.paid]
        free += [_renamed(g, units) for g in plan.free]
        parts += [(tuple(units[list(rows)].tolist()), renamed(tree, units)) for rows, tree in found]
        lower, nodes = lower + bound, nodes + spent
        if progress is not None:
            progress(k + 1, len(many), f"component of {len(units)} units")
    return Found(_completed(ball, paid, free), Bound(lower, tuple(parts)), nodes)


def _components(ball: Ball) -> list[Ints]:
    """Connected components with a required unit, by lowest unit: pairs of required units, and whom a free group may use."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    optional = ball.constant | ball.null
    one = np.repeat(np.arange(ball.size), ball.graph.degree)
    other = ball.graph.other
    keep = ~(optional[one] | optional[other]) | (ball.freeable[one] & optional[other]) | (optional[one] & optional[other])
    matrix = csr_matrix((np.ones(int(keep.sum()), np.int8), (one[keep], other[keep])), shape=(ball.size,) * 2)
    _, label = connected_components(matrix, directed=False)
    units = np.flatnonzero(np.isin(label, label[ball.required]))
    order = units[np.argsort(label[units], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1) if len(order) else []


def _component(ball: Ball, budget: int) -> tuple[Plan, Parts, int, int]:
    """A plan of one component, parts of a bound and its value, nodes spent."""
    rows, dominated = _dominated(ball)
    try:
        if len(rows) > budget // 2:
            raise BudgetExhausted(f"{len(rows)} units")
        boxes = maximal_boxes(ball, rows, 100 * budget)
    except BudgetExhausted:
        return _coarse(ball)
    roots = rows[ball.freeable[rows]]
    roots = roots[np.argsort(ball.graph.degree[roots], kind="stable")].tolist()
    groups, given_up = free_groups(ball, roots, 100 * budget)
    answer = _cover(ball, boxes, groups, rows, budget)
    plan = _plan(ball, boxes, groups, answer.chosen, dominated)
    if given_up:
        rows = np.setdiff1d(rows, given_up)
        boxes = maximal_boxes(ball, rows, 100 * budget)
        groups, _ = free_groups(ball, [i for i in roots if i not in set(given_up)], 100 * budget)
        answer = _cover(ball, boxes, groups, rows, budget)
    part: Parts = ((tuple(rows.tolist()), answer.tree),) if len(rows) else ()
    return plan, part, answer.lower, answer.nodes


def _cover(ball: Ball, boxes: list[Group], groups: Any, rows: Ints, budget: int) -> cover.Answer:
    from scipy.sparse import csr_matrix

    start = np.cumsum([0, *(len(g.units) for g in boxes)])
    flat = np.array([u for g in boxes for u in g.units], dtype=np.intp)
    paid = csr_matrix((np.ones(len(flat), np.int64), flat, start), shape=(len(boxes), ball.size))
    return cover.solve(cover.Cover(paid, abs(groups).astype(np.int64), rows), budget)


def _dominated(ball: Ball) -> tuple[Ints, list[tuple[int, int, int]]]:
    """Required units that remain to be covered, and (unit, host, sign): where the host is, the unit fits too.

    A host is a unit that must be in a paid group and whose neighbours are all compatible with the unit.
    """
    place = np.full(ball.size, -1, dtype=np.intp)
    place[ball.required] = 0
    vertex = np.full((2, ball.size), -1, dtype=np.intp)
    out: list[tuple[int, int, int]] = []
    waiting = [i for i in ball.required.tolist() if not ball.freeable[i]]
    waiting.sort(key=lambda i: (ball.graph.degree[i], i), reverse=True)
    queued = set(waiting)
    while waiting:
        host = waiting.pop()
        queued.discard(host)
        if place[host] < 0:
            continue
        others, signs, near = around(ball, host, place, vertex)
        gone = np.flatnonzero(near.sum(axis=1) == len(others) - 1)
        touched = set[int]()
        for v in gone.tolist():
            unit = int(others[v])
            if place[unit] == 0:
                place[unit] = -1
                out.append((unit, host, int(signs[v])))
                touched.update(ball.graph.near(unit)[0].tolist())
        again = sorted(i for i in touched - queued if place[i] == 0 and not ball.freeable[i] and i != host)
        waiting += again
        queued.update(again)
    return np.flatnonzero(place == 0), out


def _plan(
    ball: Ball, boxes: list[Group], groups: Any, chosen: Sequence[int], dominated: list[tuple[int, int, int]]
) -> Plan:
    """Groups from chosen columns: free ones first, every other unit in the first box that has it, then dominated units."""
    picked = [groups[c - len(boxes)] for c in chosen if c >= len(boxes)]
    free = [Group(tuple(g.indices.tolist()), tuple(g.data.tolist())) for g in picked]
    placed = {i for g in free for i in g.units}
    paid: list[dict[int, int]] = []
    home: dict[int, dict[int, int]] = {}
    for c in chosen:
        if c < len(boxes):
            members = {i: s for i, s in zip(*boxes[c], strict=True) if i not in placed}
            placed |= set(members)
            home |= dict.fromkeys(members, members)
            paid.append(members)
    for unit, host, sign in reversed(dominated):
        if unit not in placed:
            group = home[unit] = home[host]
            group[unit] = sign * group[host]
            placed.add(unit)
    return Plan(tuple(Group(tuple(g), tuple(g.values())) for g in paid if g), tuple(free))


def _coarse(ball: Ball) -> tuple[Plan, Parts, int, int]:
    """For components of any size: first fit, and pairwise incompatible units that cannot be freed."""
    rows = _independent(ball)
    part: Parts = ((tuple(rows), Leaf(dict.fromkeys(rows, 1), {}, (), 1)),) if rows else ()
    return Plan(tuple(_first_fit(ball))), part, len(rows), 0


def _independent(ball: Ball) -> list[int]:
    """Units no two of which fit one box and that cannot be freed, those with few neighbours first."""
    blocked = ball.freeable | ball.constant | ball.null
    chosen = []
    for i in np.lexsort((np.arange(ball.size), ball.graph.degree)).tolist():
        if not blocked[i]:
            chosen.append(i)
            blocked[ball.graph.near(i)[0]] = True
    return sorted(chosen)


def _first_fit(ball: Ball) -> list[Group]:
    """Seeds by low degree; each takes its neighbours, those with few neighbours first, while they fit one box."""
    waiting = np.zeros(ball.size, dtype=bool)
    waiting[ball.required] = True
    groups = []
    for seed in np.lexsort((np.arange(ball.size), ball.graph.degree)).tolist():
        if not waiting[seed]:
            continue
        others, signs = ball.graph.near(seed)
        keep = waiting[others]
        group = _filled(ball, seed, others[keep], signs[keep])
        waiting[list(group.units)] = False
        groups.append(group)
    return groups


def _crowded(ball: Ball) -> list[Group]:
    """First fit in stored order without the graph, for layers with too many compatible pairs (then groups are few)."""
    width = ball.rows.shape[1]
    low, high = np.empty((0, width)), np.empty((0, width))
    groups: list[dict[int, int]] = []
    for i in ball.required.tolist():
        for sign in (1, -1) if ball.signed else (1,):
            row = sign * ball.rows[i]
            hit = np.flatnonzero(at_most(np.maximum(high, row), np.minimum(low, row), 2 * ball.radius).all(axis=1))
            if len(hit):
                k = int(hit[0])
                low[k], high[k] = np.minimum(low[k], row), np.maximum(high[k], row)
                groups[k][i] = sign
                break
        else:
            low, high = np.vstack([low, ball.rows[i]]), np.vstack([high, ball.rows[i]])
            groups.append({i: 1})
    return [Group(tuple(g), tuple(g.values())) for g in groups]


def _filled(ball: Ball, seed: int, others: Ints, signs: Array) -> Group:
    """A maximal box among candidates around a seed."""
    low, high = ball.rows[seed].copy(), ball.rows[seed].copy()
    order = np.argsort(ball.graph.degree[others], kind="stable")
    others, signs = others[order], signs[order]
    rows = ball.rows[others] * signs[:, None]
    units, taken = [seed], [1]
    while len(others):
        np.minimum(low, rows[0], out=low)
        np.maximum(high, rows[0], out=high)
        units.append(int(others[0]))
        taken.append(int(signs[0]))
        fits = at_most(np.maximum(high, rows), np.minimum(low, rows), 2 * ball.radius).all(axis=1) & (others != others[0])
        others, signs, rows = others[fits], signs[fits], rows[fits]
    return Group(tuple(units), tuple(taken))


def _completed(ball: Ball, paid: Iterable[Group], free: Iterable[Group]) -> Plan:
    """A plan in which units outside all groups become constant or null."""
    paid, free = tuple(paid), tuple(free)
    left = np.ones(ball.size, dtype=bool)
    for group in (*paid, *free):
        left[list(group.units)] = False
    constant = left & ball.constant
    null = left & ~constant
    assert ball.null[null].all(), "a unit has no fate"
    return Plan(paid, free, tuple(np.flatnonzero(constant).tolist()), tuple(np.flatnonzero(null).tolist()))


def _renamed(group: Group, units: Ints) -> Group:
    return Group(tuple(units[list(group.units)].tolist()), group.signs)
