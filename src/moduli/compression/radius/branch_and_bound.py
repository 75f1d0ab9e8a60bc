"""Proximate rank: the least rank within a radius of the parameters (Farrugia-Roberts 2023). The
search.

Deciding it is NP-complete. Here is what answers: for layers of any size the plans of
`cover_heuristics`, and independent sets; up to a few thousand units that belong together, least
covers by maximal boxes and free groups, all listed (`set_cover`) or, where that leaves an interval,
priced (`column_generation`). `cover_bound` and `certificate` decide what it proves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.radius.compatibility import (
    CompatibilityGraph,
    DualWeights,
    Effort,
    Ints,
    Mask,
    ParameterBall,
    SignedBox,
    by_degree,
    free_groups,
    maximal_boxes,
    neighbourhood,
)
from moduli.kernel.radius.cover_bound import (
    Bound,
    Branch,
    CoverProof,
    IndependentParts,
    ReducedCostFilter,
)

from . import column_generation, set_cover
from .column_generation import cover_instance
from .cover_heuristics import (
    BEAM,
    Plan,
    assembled,
    completed,
    crowded,
    first_fit,
    greedy,
    regrouped,
    sampled,
)
from .guides import guided

Parts = tuple[tuple[tuple[int, ...], CoverProof], ...]  # rows, and what is proved about them alone
NODES = 10_000  # of the searches for groups, all together, to each node of the budget
BEAMS = 10  # nodes of the budget to each clique that the search for a few free groups follows


class Found(NamedTuple):
    """A plan and the paper's, a proof that fewer paid groups than `bound.lower` are impossible,
    search nodes spent.
    """

    plan: Plan
    greedy: Plan
    bound: Bound
    nodes: int


class Hosted(NamedTuple):
    """A unit that need not be covered: where the host is, it fits too, with this sign relative to
    the host.
    """

    unit: int
    host: int
    sign: int


class Component(NamedTuple):
    """What is known of one component: a plan, parts of a bound and its value, nodes spent."""

    plan: Plan
    parts: Parts
    lower: int
    nodes: int


@dataclass(frozen=True, eq=False)
class ComponentBall(ParameterBall):
    """Some units of a ball that no compatible pair joins to others in one group, so that what is
    known of the whole ball holds for them: their graph, and which of them are freeable.
    """

    known_graph: CompatibilityGraph = field(kw_only=True)
    known_freeable: Mask = field(kw_only=True)

    @staticmethod
    def of(ball: ParameterBall, units: Ints) -> ComponentBall:
        """Of units in increasing order, which are numbered anew."""
        return ComponentBall(
            ball.rows[units],
            ball.outgoing[units],
            ball.radius,
            ball.signed,
            known_graph=_subgraph(ball.graph, units),
            known_freeable=ball.freeable[units],
        )

    @cached_property
    def graph(self) -> CompatibilityGraph:
        return self.known_graph

    @cached_property
    def freeable(self) -> Mask:
        return self.known_freeable


def _subgraph(graph: CompatibilityGraph, units: Ints) -> CompatibilityGraph:
    place = np.full(len(graph.start) - 1, -1, dtype=np.intp)
    place[units] = np.arange(len(units))
    pairs = np.concatenate([np.arange(graph.start[i], graph.start[i + 1]) for i in units.tolist()])
    inside = place[graph.other[pairs]] >= 0
    one = np.repeat(np.arange(len(units)), graph.degree[units])[inside]
    start = np.searchsorted(one, np.arange(len(units) + 1))
    pairs = pairs[inside]
    return CompatibilityGraph(start, place[graph.other[pairs]], graph.sign[pairs])


def solve(
    ball: ParameterBall,
    budget: int = 10_000,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Found:
    """The best plan and bound within a budget of search nodes for each connected component."""
    by_greed = greedy(ball)
    try:
        components = _components(ball)
    except BudgetExhausted:
        return Found(
            _better(by_greed, completed(ball, crowded(ball), [])), by_greed, Bound(0, ()), 0
        )
    alone = [int(c[0]) for c in components if len(c) == 1]
    parts: list[tuple[tuple[int, ...], CoverProof]] = []
    paid, free = [SignedBox((i,), (1,)) for i in alone], list[SignedBox]()
    if alone:
        parts.append((tuple(alone), DualWeights(dict.fromkeys(alone, 1), {}, (), 1)))
    many = sorted((c for c in components if len(c) > 1), key=len, reverse=True)
    lower, nodes = len(alone), 0
    mapped = map if executor is None else executor.map
    answers = mapped(_component, (ComponentBall.of(ball, c) for c in many), [budget] * len(many))
    for k, units in enumerate(many):
        if progress is not None:
            progress(k, len(many), f"component of {len(units)} units")
        found = next(answers)
        paid += [_renamed(g, units) for g in found.plan.paid]
        free += [_renamed(g, units) for g in found.plan.free]
        parts += [
            (tuple(units[list(rows)].tolist()), renamed(tree, units)) for rows, tree in found.parts
        ]
        lower, nodes = lower + found.lower, nodes + found.nodes
    return Found(
        _better(completed(ball, paid, free), by_greed),
        by_greed,
        guided(ball, Bound(lower, tuple(parts)), budget),
        nodes,
    )


def _components(ball: ParameterBall) -> list[Ints]:
    """Connected components with a required unit, by lowest unit: pairs of required units, and whom
    a free group may use.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    optional = ball.constant | ball.null
    one = np.repeat(np.arange(ball.size), ball.graph.degree)
    other = ball.graph.other
    keep = (
        ~(optional[one] | optional[other])
        | (ball.freeable[one] & optional[other])
        | (optional[one] & optional[other])
    )
    matrix = csr_matrix(
        (np.ones(int(keep.sum()), np.int8), (one[keep], other[keep])), shape=(ball.size,) * 2
    )
    _, label = connected_components(matrix, directed=False)
    units = np.flatnonzero(np.isin(label, label[ball.required]))
    order = units[np.argsort(label[units], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1) if len(order) else []


def _component(ball: ParameterBall, budget: int) -> Component:
    if ball.size > 4 * budget:
        return _coarse(ball)
    rows, dominated = _dominated(ball)
    if len(rows) > budget // 2:
        return _coarse(ball)
    plan = assembled(ball, first_fit(ball), [])
    if 2 * np.count_nonzero(ball.freeable) > len(ball.required):
        plan = _regrouped(ball, plan, 0, range(4), budget)
    if not plan.paid:
        return Component(plan, (), 0, 0)  # no paid group: nothing is left to prove
    effort = Effort(NODES * budget)
    plan, part, lower, nodes = listed = _listed(ball, plan, rows, dominated, budget, effort)
    if len(plan.paid) <= lower:
        return listed
    priced = column_generation.solve(ball, rows, budget, effort)
    if priced is None:
        return listed
    plan = _improved(ball, plan, priced.boxes, priced.groups, priced.chosen, dominated)
    if priced.lower > lower:
        part, lower = _part(priced.rows, priced.tree), priced.lower
    return Component(plan, part, lower, nodes + priced.nodes)


def _part(rows: Ints, tree: CoverProof) -> Parts:
    return ((tuple(rows.tolist()), tree),) if len(rows) else ()


def _listed(
    ball: ParameterBall,
    plan: Plan,
    rows: Ints,
    dominated: list[Hosted],
    budget: int,
    effort: Effort,
) -> Component:
    """All boxes and free groups that can be listed, the best plan of those and what they prove."""
    try:
        boxes = maximal_boxes(ball, rows, 100 * budget, effort=effort)
    except BudgetExhausted:
        simple = max(
            _coarse(ball), _some(ball, rows, budget, effort), key=lambda found: found.lower
        )
        return simple._replace(plan=_better(plan, simple.plan))
    groups, given_up = _freed(ball, rows, budget, effort)
    if given_up:
        return _bracket(ball, plan, boxes, groups, given_up, rows, dominated, budget, effort)
    answer = set_cover.solve(cover_instance(ball, boxes, groups, rows), budget)
    plan = _improved(ball, plan, boxes, groups, answer.chosen, dominated)
    return Component(plan, _part(rows, answer.tree), answer.lower, answer.nodes)


def _bracket(
    ball: ParameterBall,
    plan: Plan,
    boxes: list[SignedBox],
    groups: Any,
    given_up: list[int],
    rows: Ints,
    dominated: list[Hosted],
    budget: int,
    effort: Effort,
) -> Component:
    """Where some units have too many free groups: a plan with a few of those, a bound from the
    other units alone.
    """
    from scipy.sparse import vstack

    more = vstack([groups, sampled(ball, given_up, min(BEAM, 1 + budget // BEAMS))], format="csr")
    chosen, nodes = set_cover.dive(cover_instance(ball, boxes, more, rows), budget)
    plan = _improved(ball, plan, boxes, more, chosen, dominated)
    rows = np.setdiff1d(rows, given_up)
    try:
        boxes = maximal_boxes(ball, rows, 100 * budget, effort=effort)
    except BudgetExhausted:
        return Component(_regrouped(ball, plan, 0, range(4, 12), budget), (), 0, nodes)
    answer = set_cover.solve(cover_instance(ball, boxes, groups, rows), budget)
    plan = _regrouped(ball, plan, answer.lower, range(4, 12), budget)
    return Component(plan, _part(rows, answer.tree), answer.lower, answer.nodes + nodes)


def _freed(ball: ParameterBall, rows: Ints, budget: int, effort: Effort) -> tuple[Any, list[int]]:
    """The free groups around some required units, and units that are given up."""
    return free_groups(ball, by_degree(ball, rows[ball.freeable[rows]]), 50 * budget, effort=effort)


def _some(ball: ParameterBall, rows: Ints, budget: int, effort: Effort) -> Component:
    """Where there are too many boxes: a bound from the units with few neighbours, half of them, a
    quarter, ...
    """
    simple = assembled(ball, first_fit(ball), [])
    order = np.array(by_degree(ball, rows), dtype=np.intp)
    while len(order) > 1:
        order = order[: len(order) // 2]
        some = np.sort(order)
        try:
            maximal_boxes(ball, some, 100 * budget, effort=effort)
            groups, given_up = _freed(ball, some, budget, effort)
            some = np.setdiff1d(some, given_up)
            boxes = maximal_boxes(ball, some, 100 * budget, effort=effort)
        except BudgetExhausted:
            continue
        answer = set_cover.solve(cover_instance(ball, boxes, groups, some), budget)
        return Component(simple, _part(some, answer.tree), answer.lower, answer.nodes)
    return Component(simple, (), 0, 0)


def _regrouped(ball: ParameterBall, plan: Plan, lower: int, seeds: range, budget: int) -> Plan:
    for seed in seeds:
        if len(plan.paid) > lower:
            plan = regrouped(ball, plan, seed, max(1, budget // 100))
    return plan


def _better(a: Plan, b: Plan) -> Plan:
    return min(a, b, key=lambda plan: len(plan.paid))


def _improved(
    ball: ParameterBall,
    plan: Plan,
    boxes: list[SignedBox],
    groups: Any,
    chosen: Sequence[int] | None,
    dominated: list[Hosted],
) -> Plan:
    """A plan, or that of the boxes and free groups of a cover, where one was found and has fewer
    paid groups.
    """
    if chosen is None:
        return plan
    return _better(plan, assembled(ball, *_picked(boxes, groups, chosen), dominated))


def _picked(
    boxes: list[SignedBox], groups: Any, chosen: Sequence[int]
) -> tuple[list[SignedBox], list[SignedBox]]:
    """The boxes and free groups of a cover."""
    rows = [groups[c - len(boxes)] for c in chosen if c >= len(boxes)]
    free = [SignedBox(tuple(g.indices.tolist()), tuple(g.data.tolist())) for g in rows]
    return [boxes[c] for c in chosen if c < len(boxes)], free


def _dominated(ball: ParameterBall) -> tuple[Ints, list[Hosted]]:
    """Required units that remain to be covered, and those that go with a host.

    A host is a unit that must be in a paid group and whose neighbours are all compatible with the
    unit.
    """
    place = np.full(ball.size, -1, dtype=np.intp)
    place[ball.required] = 0
    vertex = np.full((2, ball.size), -1, dtype=np.intp)
    out = list[Hosted]()
    waiting = [i for i in ball.required.tolist() if not ball.freeable[i]]
    waiting.sort(key=lambda i: (ball.graph.degree[i], i), reverse=True)
    queued = set(waiting)
    while waiting:
        host = waiting.pop()
        queued.discard(host)
        if place[host] < 0:
            continue
        others, signs, near = neighbourhood(ball, host, place, vertex)
        gone = np.flatnonzero(near.sum(axis=1) == len(others) - 1)
        touched = set[int]()
        for v in gone.tolist():
            unit = int(others[v])
            if place[unit] == 0:
                place[unit] = -1
                out.append(Hosted(unit, host, int(signs[v])))
                touched.update(ball.graph.near(unit)[0].tolist())
        again = sorted(
            i for i in touched - queued if place[i] == 0 and not ball.freeable[i] and i != host
        )
        waiting += again
        queued.update(again)
    return np.flatnonzero(place == 0), out


def _coarse(ball: ParameterBall) -> Component:
    """For components of any size: first fit, and pairwise incompatible units that cannot be freed."""
    rows = _independent(ball)
    part: Parts = ((tuple(rows), DualWeights(dict.fromkeys(rows, 1), {}, (), 1)),) if rows else ()
    return Component(assembled(ball, first_fit(ball), []), part, len(rows), 0)


def _independent(ball: ParameterBall) -> list[int]:
    """Units no two of which fit one box and that cannot be freed, those with few neighbours first."""
    blocked = ball.freeable | ball.constant | ball.null
    chosen = []
    for i in np.lexsort((np.arange(ball.size), ball.graph.degree)).tolist():
        if not blocked[i]:
            chosen.append(i)
            blocked[ball.graph.near(i)[0]] = True
    return sorted(chosen)


def _renamed(group: SignedBox, units: Ints) -> SignedBox:
    return SignedBox(tuple(units[list(group.units)].tolist()), group.signs)


def renamed(tree: CoverProof, names: Ints) -> CoverProof:
    """The tree with unit k called names[k]."""

    def of(units: Iterable[int]) -> tuple[int, ...]:
        return tuple(int(names[u]) for u in units)

    if isinstance(tree, DualWeights):
        weights, prices = (
            dict(zip(of(x), x.values(), strict=True)) for x in (tree.weights, tree.prices)
        )
        odd = tuple((of(units), w) for units, w in tree.odd)
        return DualWeights(
            weights,
            prices,
            odd,
            tree.scale,
            tuple((int(names[u]), rows) for u, rows in tree.guides),
        )
    if isinstance(tree, IndependentParts):
        return IndependentParts(
            tuple((of(units), renamed(sub, names)) for units, sub in tree.parts)
        )
    if isinstance(tree, ReducedCostFilter):
        leaf = renamed(tree.leaf, names)
        assert isinstance(leaf, DualWeights)
        return ReducedCostFilter(leaf, tree.target, renamed(tree.rest, names))
    return Branch(
        of(tree.units), tree.free, renamed(tree.inside, names), renamed(tree.outside, names)
    )
