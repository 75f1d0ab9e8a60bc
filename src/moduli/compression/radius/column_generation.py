"""Least covers by boxes and free groups that are too many to list: columns are priced, and only
those that matter listed.

The linear relaxation over all boxes and free groups: solve it over those found so far, hand its
weights to searches for columns that weigh too much, until there are none; a column whose reduced
cost exceeds what a better cover may waste is in no better cover. HiGHS proposes covers from the
rest, `set_cover` proves that there are none; the kernel (`cover_bound`) does the same listing when
it checks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.radius.compatibility import (
    Counts,
    DualWeights,
    Effort,
    Heavy,
    Ints,
    ParameterBall,
    SignedBox,
    bits_of,
    by_degree,
    free_groups,
    incidence,
    listed,
    members_of,
    neighbourhood,
    scratch,
)
from moduli.kernel.radius.cover_bound import CoverProof, ReducedCostFilter

from . import set_cover
from .cover_heuristics import filled, first_fit, sampled
from .guides import guide

SCALE = 2**30
NEAR = 2**10  # a column is missing if it weighs 2^-20 too much
SLIP = 2e-6  # by which weights give way in the end: more than that
BEAM = 30  # free groups around each unit at first
EACH = 20  # free groups around a unit that join at a time
POOL = 40_000  # free groups that are kept
GOOD = 1500  # free groups of small reduced cost that a program of covers gets


class Priced(NamedTuple):
    """Columns, those chosen of them (free groups count after the boxes); of which units what is
    proved; nodes spent.

    Attributes:
        chosen: None where no cover was found.
    """

    boxes: list[SignedBox]
    groups: Any
    chosen: list[int] | None
    rows: Ints
    lower: int
    tree: CoverProof
    nodes: int


class Relaxation(NamedTuple):
    """Value of the restricted program; weights and prices ``[h]`` of units."""

    value: float
    weight: Any
    price: Any


class Proposal(NamedTuple):
    """Columns and a cover by some of them (free groups count after the boxes), None where none was
    found.
    """

    boxes: list[SignedBox]
    groups: Any
    chosen: list[int] | None


def solve(ball: ParameterBall, rows: Ints, budget: int, effort: Effort) -> Priced | None:
    """A cover of some required units, and a bound; None where the relaxation is beyond the budget,
    or the effort.

    Units with too many free groups even for that count in the cover, not in the bound.
    """
    if not len(rows):  # all units were given up: nothing is left that a bound could speak of
        return None
    pool = _Pool(ball, rows, budget, effort)
    try:
        found, given_up = pool.generated()
        if found is None:
            return None
        if not given_up:
            return pool.bracketed(found)
        rest = solve(ball, np.setdiff1d(rows, given_up), budget, effort)
        if rest is None:
            return None
        return rest._replace(**pool.proposed(found)._asdict(), nodes=pool.nodes + rest.nodes)
    except BudgetExhausted:
        return None


class _Pool:
    """Boxes and free groups found so far."""

    def __init__(self, ball: ParameterBall, rows: Ints, budget: int, effort: Effort) -> None:
        self.ball, self.rows, self.budget, self.nodes, self.effort = ball, rows, budget, 0, effort
        self.among = np.zeros(ball.size, dtype=bool)
        self.among[rows] = True
        self.roots = by_degree(ball, rows[ball.freeable[rows]])
        self.boxes: dict[frozenset[int], SignedBox] = {}
        self.add(
            [g for g in first_fit(ball) if self.among[g.units[0]]]
            + [SignedBox((i,), (1,)) for i in rows.tolist()]
        )
        self.groups = sampled(ball, self.roots, BEAM)

    def add(self, boxes: list[SignedBox]) -> int:
        before = len(self.boxes)
        for g in boxes:
            full = filled(self.ball, SignedBox(*_inside(g, self.among)), self.among)
            self.boxes.setdefault(frozenset(full.units), full)
        return len(self.boxes) - before

    def generated(self) -> tuple[Relaxation | None, list[int]]:
        """The solved relaxation (None if the budget ends before), and units around which columns
        may still be missing.
        """
        from scipy.sparse import vstack

        effort, most = 10 * self.budget, max(10 * self.budget, min(1000 * self.budget, 5 * 10**6))
        while self.nodes < self.budget and self.effort.left > 0:
            found = self.linear()
            weight, price = _integers(found, 0.0)
            boxes = self.add(self.heaviest(weight, SCALE + NEAR))
            size = len(self.boxes) + self.groups.shape[0] + 10 * len(self.roots)
            self.nodes += 1 + size // set_cover.HEAVY + len(self.rows) // 500 * 10
            more, given_up = free_groups(
                self.ball, self.roots, effort, price - weight, -NEAR, EACH, guide, self.effort
            )
            if not boxes and not more.shape[0]:
                if not given_up or effort == most:
                    return found, given_up
                effort = most
            self._trim(price - weight)
            self.groups = vstack([self.groups, more], format="csr")
        return None, []

    def _trim(self, cost: Counts) -> None:
        if self.groups.shape[0] > POOL:
            short = abs(self.groups).astype(np.int64) @ cost
            self.groups = self.groups[np.sort(np.argsort(short, kind="stable")[: POOL // 2])]

    def linear(self) -> Relaxation:
        instance = cover_instance(self.ball, list(self.boxes.values()), self.groups, self.rows)
        found = set_cover.relaxed(instance)
        if found is None:
            raise BudgetExhausted("the relaxation has no solution that the solver can find")
        weight = np.zeros(self.ball.size)
        weight[self.rows] = found.y
        return Relaxation(found.value, weight, found.prices)

    def heaviest(self, weight: Counts, least: int) -> list[SignedBox]:
        """A box around each unit that weighs at least so much, the heaviest if the search for it
        ends soon.
        """
        place, vertex, out = np.where(weight > 0, 0, -1), scratch(self.ball), []
        for root in np.flatnonzero(weight > 0).tolist():
            others, signs, near = neighbourhood(self.ball, root, place, vertex)
            best = _heaviest(near, weight[others], least - int(weight[root]), self.effort)
            place[root] = -1
            if best is not None:
                out.append(SignedBox.of(root, others, signs, best))
        return out

    def bracketed(self, found: Relaxation) -> Priced:
        """Covers of cost at most the bound use only columns of small reduced cost: find one, or
        raise the bound.
        """
        leaf = self._leaf(found)
        lower = max(0, -(-leaf.total // leaf.scale))
        best = self.proposed(found)
        upper = self._cost(best)
        tree: CoverProof = self._slack_leaf(found, lower)
        if lower < upper:
            other = self.dived()
            if self._cost(other) < upper:
                best, upper = other, self._cost(other)
        # Is there a cover of cost `lower`? Only columns whose reduced cost the gap allows can be in
        # one: list and search those.
        while lower < upper and self.nodes < self.budget:
            try:
                most, spare = (100 * self.budget, 50 * self.budget), leaf.scale * lower - leaf.total
                boxes, groups, given_up = listed(
                    self.ball, self.rows, *most, (leaf, spare), set_cover.MANY, guide, self.effort
                )
            except BudgetExhausted:
                break
            if given_up or len(boxes) + groups.shape[0] > set_cover.MANY:
                break
            part = cover_instance(self.ball, boxes, groups, self.rows)
            answer = set_cover.within(part, self.budget - self.nodes, lower + 1, upper)
            self.nodes += answer.nodes
            if answer.chosen is not None and answer.upper < upper:
                best, upper = Proposal(boxes, groups, answer.chosen), answer.upper
            if answer.lower <= lower:
                break
            lower += 1
            tree = ReducedCostFilter(leaf, lower, answer.tree)
        return Priced(*best, self.rows, lower, tree, self.nodes)

    def _cost(self, found: Proposal) -> int:
        """What a cover costs; without one as much as a box for every unit would."""
        if found.chosen is None:
            return len(self.rows)
        return sum(c < len(found.boxes) for c in found.chosen)

    def _leaf(self, found: Relaxation) -> DualWeights:
        weight, price = _integers(found, SLIP)
        return DualWeights(_named(weight), _named(price), (), SCALE)

    def _slack_leaf(self, found: Relaxation, lower: int) -> DualWeights:
        """Weights that prove just the bound: the less they weigh, the sooner is a search for heavy
        columns over.
        """
        total, price = float(found.weight.sum()), float(found.price.sum())
        share = min(1.0, (lower - 0.99 + price) / max(total, 1e-9))
        tight, loose = self._leaf(found), self._leaf(found._replace(weight=found.weight * share))
        return loose if -(-loose.total // SCALE) >= lower else tight

    def proposed(self, found: Relaxation) -> Proposal:
        """The best cover HiGHS finds from all boxes here and free groups of small reduced cost."""
        weight, price = _integers(found, 0.0)
        boxes = list(self.boxes.values())
        short = abs(self.groups).astype(np.int64) @ (price - weight)
        groups = self.groups[np.sort(np.argsort(short, kind="stable")[:GOOD])]
        part = cover_instance(self.ball, boxes, groups, self.rows)
        self.nodes += 1
        chosen = set_cover.proposed(part, self.budget)
        if chosen is None:
            chosen = set_cover.greedy(part, np.ones(len(self.rows), dtype=bool))
        return Proposal(boxes, groups, chosen)

    def dived(self) -> Proposal:
        """A cover from all columns here, fixed step by step where the relaxation is nearly whole."""
        boxes = list(self.boxes.values())
        chosen, nodes = set_cover.dive(
            cover_instance(self.ball, boxes, self.groups, self.rows), self.budget
        )
        self.nodes += nodes
        return Proposal(boxes, self.groups, chosen)


def cover_instance(
    ball: ParameterBall, boxes: list[SignedBox], groups: Any, rows: Ints
) -> set_cover.Cover:
    """The instance of `set_cover` with these boxes and free groups."""
    return set_cover.Cover(incidence(boxes, ball.size), abs(groups).astype(np.int64), rows)


def _heaviest(
    near: Any, weight: Counts, least: int, effort: Effort, nodes: int = 20_000
) -> list[int] | None:
    """Vertices of a heavy clique, a heaviest one if that takes few nodes; None if there is none."""
    heavy, adjacent = Heavy(near, weight, least), [bits_of(row) for row in near]
    rank = np.argsort(-weight, kind="stable").tolist()
    stack, best = [(0, (1 << len(weight)) - 1)], None
    while stack and nodes and effort.left > 0:
        clique, may = stack.pop()
        nodes -= 1
        effort.spend(1)
        if not heavy.can(clique, may):
            continue
        if not may:
            best, heavy.least = (
                list(members_of(clique)),
                1 + int(weight[list(members_of(clique))].sum()),
            )
            continue
        v = next(v for v in rank if may >> v & 1)
        stack += [(clique, may & ~(1 << v)), (clique | 1 << v, may & adjacent[v])]
    if stack and best is None:
        raise BudgetExhausted("a heavy box is neither found nor excluded")
    return best


def _integers(found: Relaxation, slip: float) -> tuple[Counts, Counts]:
    weight = np.where(found.weight > 1e-5, found.weight - slip, 0.0)
    return np.floor(weight * SCALE).astype(np.int64), np.ceil(found.price * SCALE).astype(np.int64)


def _named(numbers: Counts) -> dict[int, int]:
    return {int(u): int(numbers[u]) for u in np.flatnonzero(numbers)}


def _inside(group: SignedBox, among: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The members of a group among some units."""
    units, signs = zip(*((u, s) for u, s in zip(*group, strict=True) if among[u]), strict=True)
    return units, signs
