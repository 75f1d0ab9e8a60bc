"""Units near each other: signed boxes and free groups, found by exact comparisons of floats. Part
of the kernel.

What they are, and what follows, stands in `cover_bound`. Two units are compatible if some signs
make a box of them; pairwise compatible units form one, so boxes are cliques of a graph and the
maximal ones are listed as such. Of free groups, whose sums of outgoing weights are to be small,
only those are followed that what may still be added can bring there (`listed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel import arithmetic
from moduli.kernel.errors import ArgumentError, Asked, BudgetExhausted
from moduli.kernel.exact_numbers import Array, exact_sum, two_sum

Ints = np.ndarray[Any, np.dtype[np.intp]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Counts = np.ndarray[Any, np.dtype[np.int64]]
BLOCK = 2**20  # pairs that are compared at a time
FRONT = 2**18  # entries of the cliques that are extended at a time
WIDEST = 2**13  # vertices around a unit, which take the square of that in memory
PAIRS = 2**26  # compatible pairs in all
LARGEST = 2.0**1000  # of sums of sizes that multipliers may make
EXACT = 16  # search nodes that an exact test of a group counts as

# Multipliers ``[2, 2 m]`` for the sums of `sides` around a root: see `_guided`. Given are root,
# values, total, doubt, the cost of the vertices, and which of them are compatible.
Guide = Callable[[int, Array, Array, Array, Counts, Mask], Array]


def at_most(x: Array, y: Array, limit: float) -> Mask:
    """Whether x - y <= limit, exactly, for floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        d, e = two_sum(x, -y)
        return np.asarray((d < limit) | ((d == limit) & (e <= 0)))


class SignedBox(NamedTuple):
    """Units and their signs."""

    units: tuple[int, ...]
    signs: tuple[int, ...]

    @staticmethod
    def of(root: int, others: Ints, signs: Array, chosen: list[int]) -> SignedBox:
        """(root, +) and some of the vertices around it."""
        return SignedBox((root, *others[chosen].tolist()), (1, *signs[chosen].astype(int).tolist()))


def require_radius(radius: float) -> None:
    if not 0 <= radius < 2.0**1000:
        raise ArgumentError(Asked("radius", radius), ": choose a finite number >= 0 (below 2^1000)")


@dataclass(frozen=True, eq=False)
class ParameterBall:
    """All parameters within a radius of a hidden layer.

    Attributes:
        rows: ``[h, n + 1]`` incoming weights and bias. outgoing: ``[h, m]``. radius: of the closed
            ball.
        signed: whether -p may stand for p (odd and point-symmetric activations).
    """

    rows: Array
    outgoing: Array
    radius: float
    signed: bool = True

    def __post_init__(self) -> None:
        require_radius(self.radius)

    @property
    def size(self) -> int:
        return len(self.rows)

    @cached_property
    def constant(self) -> Mask:
        """Units whose incoming weights can all become zero."""
        return np.asarray((np.abs(self.rows[:, :-1]) <= self.radius).all(axis=1))

    @cached_property
    def null(self) -> Mask:
        """Units whose outgoing weights can all become zero."""
        return np.asarray((np.abs(self.outgoing) <= self.radius).all(axis=1))

    @cached_property
    def required(self) -> Ints:
        return np.flatnonzero(~(self.constant | self.null))

    @cached_property
    def graph(self) -> CompatibilityGraph:
        """Compatible pairs of units."""
        return CompatibilityGraph.of(self.rows, 2 * self.radius, self.signed)

    def free(self, group: SignedBox) -> bool:
        """Whether |sum s_i a_i| <= radius * size in every output."""
        a = self.outgoing[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
        return all(
            _settled(side * a[:, k], self.radius) <= 0
            for k in range(a.shape[1])
            for side in (1.0, -1.0)
        )

    @cached_property
    def freeable(self) -> Mask:
        """Required units that a necessary condition does not exclude from every free group.

        For each output and direction, g a_i - r plus the best that compatible units can lend must
        not be positive; only optional units and units that may be free themselves lend; repeated
        until nothing changes.
        """
        lend = np.ones(self.size, dtype=bool)
        may = np.zeros(self.size, dtype=bool)
        may[self.required] = True
        waiting = self.required
        while len(waiting):
            out = np.array([i for i in waiting.tolist() if self._stuck(i, lend)], dtype=np.intp)
            may[out] = lend[out] = False
            near = np.unique(
                np.concatenate(
                    [np.empty(0, np.intp), *(self.graph.near(i)[0] for i in out.tolist())]
                )
            )
            waiting = near[may[near]]
        return may

    def _stuck(self, unit: int, lend: Mask) -> bool:
        others, signs = self.graph.near(unit)
        keep = lend[others]
        others, signs = others[keep], signs[keep]
        helps = self.outgoing[others] * signs[:, None]
        both = np.flatnonzero(others[1:] == others[:-1])  # near() lists (j, +) beside (j, -)
        for side in (1.0, -1.0):
            lent = side * helps
            lent[both] = np.minimum(lent[both], lent[both + 1])
            lent[both + 1] = self.radius
            lent = np.minimum(lent, self.radius)
            for k in range(lent.shape[1]):
                if _settled(np.append(lent[:, k], side * self.outgoing[unit, k]), self.radius) > 0:
                    return True
        return False


def _settled(terms: Array, radius: float) -> Fraction | float:
    """A number with the sign of the sum of terms less as many times the radius, exactly."""
    with np.errstate(over="ignore", invalid="ignore"):
        near, size = (
            float(terms.sum() - len(terms) * radius),
            float(np.abs(terms).sum() + len(terms) * radius),
        )
        if abs(near) > (len(terms) + 4) * 2.0**-52 * size and np.isfinite(size):
            return near
    return exact_sum(terms.tolist()) - len(terms) * Fraction(radius)


@dataclass(frozen=True, eq=False)
class CompatibilityGraph:
    """Which units fit one signed box: for each unit i, the pairs (j, s) with |p_i - s p_j| <= limit
    in every coordinate.

    Attributes:
        start: ``[h + 1]``. other, sign: neighbours of unit i at start[i]:start[i + 1], ordered by
            (other, -sign).
    """

    start: Ints
    other: Ints
    sign: Array

    @staticmethod
    def of(rows: Array, limit: float, signed: bool = True) -> CompatibilityGraph:
        arithmetic.require()
        h = len(rows)
        found: list[tuple[Ints, Ints, Array]] = []
        count = 0
        for s in (1.0, -1.0) if signed else (1.0,):
            for i, j in _pairs(rows, s * rows + 0.0, limit):
                apart = i != j
                count += len(i)
                if count > PAIRS:
                    raise BudgetExhausted(f"more than {PAIRS} compatible pairs among {h} units")
                found.append((i[apart], j[apart], np.full(int(apart.sum()), s)))
        i, j, sign = (
            (np.concatenate(x) for x in zip(*found, strict=True))
            if found
            else (np.empty(0, np.intp),) * 3
        )
        order = np.lexsort((-sign, j, i))
        start = np.searchsorted(i[order], np.arange(h + 1))
        return CompatibilityGraph(start, j[order], np.asarray(sign[order], dtype=np.float64))

    def near(self, i: int) -> tuple[Ints, Array]:
        at = slice(self.start[i], self.start[i + 1])
        return self.other[at], self.sign[at]

    @cached_property
    def degree(self) -> Ints:
        return np.diff(self.start)


def _pairs(x: Array, y: Array, limit: float) -> Iterator[tuple[Ints, Ints]]:
    """All (i, j) with |x_i - y_j| <= limit in every coordinate, in blocks: sorted along one
    coordinate, filtered by all.
    """
    if not len(x):
        return
    wide = int(np.argmax(x.max(axis=0) - x.min(axis=0)))
    rows, columns = np.argsort(x[:, wide], kind="stable"), np.argsort(y[:, wide], kind="stable")
    line = y[columns, wide]
    with np.errstate(over="ignore"):  # rounding is monotone: no pair within the limit is lost
        left = np.searchsorted(line, np.nextafter(x[rows, wide] - limit, -np.inf), side="left")
        right = np.searchsorted(line, np.nextafter(x[rows, wide] + limit, np.inf), side="right")
    counts = np.cumsum(right - left)
    begin = 0
    while begin < len(rows):
        done = counts[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(counts, done + BLOCK, side="right")))
        width = (right - left)[begin:end]
        i = np.repeat(rows[begin:end], width)
        j = columns[
            np.arange(len(i))
            - np.repeat(np.cumsum(width) - width, width)
            + np.repeat(left[begin:end], width)
        ]
        for k in sorted(range(x.shape[1]), key=lambda k: k != wide):
            p, q = x[i, k], y[j, k]
            near = at_most(np.maximum(p, q), np.minimum(p, q), limit)
            i, j = i[near], j[near]
        yield i, j
        begin = end


# Boxes and free groups ------------------------------------------------------------------------------------------


@dataclass
class Effort:
    """Search nodes left to all searches that share it; some go beyond it by what they do at once."""

    left: int

    def spend(self, nodes: int) -> None:
        self.left -= nodes


def maximal_boxes(
    ball: ParameterBall, units: Ints, limit: int, weight: Counts | None = None, least: int = 0,
    effort: Effort | None = None,
) -> list[SignedBox]:  # fmt: skip
    """All maximal signed boxes among some units, one of each set of units (signs do not matter for
    paid groups).

    Bron and Kerbosch's search with pivots, rooted at the lowest unit with sign +, on bit sets of
    its neighbourhood.

    Args:
        weight: ``[h]``, not negative; then only boxes of weight at least `least`. A clique is left
            where the heaviest vertices of classes of pairwise incompatible common neighbours weigh
            too little.
        effort: search nodes for this and other searches.

    Raises:
        BudgetExhausted: more than `limit` search nodes.
    """
    if effort is not None:
        limit = min(limit, effort.left)
    found: dict[frozenset[int], SignedBox] = {}
    nodes = 0
    place = np.full(ball.size, -1, dtype=np.intp)
    place[units] = 0
    vertex = scratch(ball)
    for root in units.tolist():
        others, signs, near = neighbourhood(ball, root, place, vertex)
        heavy = (
            Heavy(near, weight[others], least - int(weight[root])) if weight is not None else None
        )
        adjacent = [bits_of(row) for row in near]
        later = bits_of(others > root)
        stack = [(0, later, ((1 << len(others)) - 1) ^ later)]
        while stack:
            clique, may, done = stack.pop()
            nodes += 1
            if nodes > limit:
                if effort is not None:
                    effort.spend(nodes)
                raise BudgetExhausted(f"more than {limit} search nodes among {len(units)} units")
            if heavy is not None and not heavy.can(clique, may):
                continue
            if not may:
                if not done:
                    group = SignedBox.of(root, others, signs, list(members_of(clique)))
                    found.setdefault(frozenset(group.units), group)
                continue
            pivot = max(members_of(may | done), key=lambda v: (may & adjacent[v]).bit_count())
            for v in members_of(may & ~adjacent[pivot]):
                stack.append((clique | 1 << v, may & adjacent[v], done & adjacent[v]))
                may &= ~(1 << v)
                done |= 1 << v
    if effort is not None:
        effort.spend(nodes)
    return list(found.values())


@dataclass(frozen=True)
class DualWeights:
    """A dual solution in integers: weights of rows, prices of units, and weights of odd sets S of
    rows.

    A column that covers a set c of rows weighs sum of weights over c + sum over S of weight *
    ceil(|c & S| / 2). Boxes weigh at most `scale`, free groups at most the price of their units;
    then any cover costs at least (sum of weights + sum of weight * ceil(|S| / 2) - sum of prices) /
    scale.

    Attributes:
        guides: units and multipliers, two rows each, that shorten the search for free groups around
            them; see `_guided`.
    """

    weights: dict[int, int]
    prices: dict[int, int]
    odd: tuple[tuple[tuple[int, ...], int], ...]
    scale: int
    guides: tuple[tuple[int, tuple[tuple[float, ...], ...]], ...] = ()

    @property
    def total(self) -> int:
        """What every cover costs at least, times the scale."""
        halves = sum(w * ((len(members) + 1) // 2) for members, w in self.odd)
        return sum(self.weights.values()) + halves - sum(self.prices.values())


class Heavy:
    """Whether a clique and some of the vertices compatible with it can weigh enough."""

    def __init__(self, near: Mask, weight: Counts, least: int) -> None:
        self.weight, self.least = weight.tolist(), least
        order = np.argsort(-weight, kind="stable")
        colour = classes(near, order)
        # classes in falling order of weight: the first member that is allowed is the heaviest
        ranked = [order[colour[order] == k] for k in range(int(colour.max(initial=-1)) + 1)]
        self.classes = [
            [(1 << v, self.weight[v]) for v in members.tolist() if self.weight[v]]
            for members in ranked
        ]

    def can(self, clique: int, may: int) -> bool:
        left = self.least - sum(self.weight[v] for v in members_of(clique))
        for members in self.classes:
            if left <= 0:
                return True
            left -= next((w for bit, w in members if may & bit), 0)
        return bool(left <= 0)


def free_groups(
    ball: ParameterBall, roots: Sequence[int], limit: int, cost: Counts | None = None, slack: int = 0,
    enough: int = 2**40, guide: Guide | None = None, effort: Effort | None = None,
) -> tuple[Any, list[int]]:  # fmt: skip
    """All free groups that contain one of some freeable units, and the roots that are given up.

    For each root in turn, cliques with (root, +) and without the roots before; a clique is left
    where even the best that its common neighbours lend cannot bring some sum back. Roots that are
    given up stay in later searches. Groups that stay free without some optional unit are left out:
    what they cover can be had for less.

    Args:
        limit: search nodes of each root; a group counts as four, an exact test as `EXACT`.
        cost: ``[h]``, of units (not negative for optional ones); then only groups of cost at most
            `slack`.
        enough: groups around a root that is given up beyond that many (for searches: with costs,
            its groups are kept).
        guide: multipliers that shorten a search with costs; what is found does not depend on them.
        effort: search nodes of all roots; what is left then is given up at once.

    Returns:
        sparse ``[groups, h]`` matrix of signs; roots that took too long (others' groups may contain
            them).
    """
    priced = None if cost is None else _Priced(cost, slack, guide)
    place, vertex = contributors(ball), scratch(ball)
    parts, given_up = [], []
    for root in roots:
        if effort is not None and effort.left <= 0:
            given_up.append(root)
            continue
        most = limit if effort is None else min(limit, effort.left)
        others, sign, near = neighbourhood(ball, root, place, vertex)
        found, done, nodes = _rooted(_Around(ball, root, others, sign, near, priced), most, enough)
        if effort is not None:
            effort.spend(nodes)
        if done:
            place[root] = -1
        else:
            given_up.append(root)
        if done or cost is not None:
            parts.append((root, others, sign, found))
    groups = signs_of(parts, ball.size)
    return (
        groups if cost is None else groups[abs(groups).astype(np.int64) @ cost <= slack]
    ), given_up


def listed(
    ball: ParameterBall, rows: Ints, nodes: int, limit: int,
    priced: tuple[DualWeights, int] | None = None, enough: int = 2**40, guide: Guide | None = None,
    effort: Effort | None = None,
) -> tuple[list[SignedBox], Any, list[int]]:  # fmt: skip
    """Maximal boxes among some required units, free groups that have one of them, and roots that
    are given up.

    Args:
        rows: increasing. nodes: for all boxes. limit: for the free groups of each unit.
        priced: a leaf without odd sets and a bound on reduced costs (scale less weight of a box,
            price less weight of a free group), in units of 1 / scale; then only columns whose
            reduced cost is at most that.
        guide: by default the multipliers that the leaf holds.
        effort: search nodes for all of it.
    """
    arithmetic.require()  # worker processes begin here
    roots = by_degree(ball, rows[ball.freeable[rows]])
    if priced is None:
        boxes = maximal_boxes(ball, rows, nodes, effort=effort)
        return boxes, *free_groups(ball, roots, limit, enough=enough, effort=effort)
    leaf, slack = priced
    weight, price = np.zeros(ball.size, dtype=np.int64), np.zeros(ball.size, dtype=np.int64)
    weight[list(leaf.weights)], price[list(leaf.prices)] = (
        list(leaf.weights.values()),
        list(leaf.prices.values()),
    )
    boxes = maximal_boxes(ball, rows, nodes, weight, leaf.scale - slack, effort)
    return boxes, *free_groups(
        ball, roots, limit, price - weight, slack, enough, guide or _held(leaf), effort
    )


def _held(leaf: DualWeights) -> Guide:
    """The multipliers of a leaf, none where it has none."""
    held = {unit: np.array(rows) for unit, rows in leaf.guides}

    def guide(
        root: int, values: Array, total: Array, doubt: Array, cost: Counts, near: Mask
    ) -> Array:
        return held.get(root, np.zeros((2, len(total))))

    return guide


def by_degree(ball: ParameterBall, units: Ints) -> list[int]:
    """Units with few neighbours first: searches that leave out earlier roots are shortest so."""
    return [int(u) for u in units[np.argsort(ball.graph.degree[units], kind="stable")]]


def contributors(ball: ParameterBall) -> Ints:
    """0 for units that free groups may have, -1 for others: a `place` for `neighbourhood`."""
    return np.where(ball.freeable | ball.constant | ball.null, 0, -1)


def signs_of(parts: Iterable[tuple[int, Ints, Array, Mask]], width: int) -> Any:
    """Groups as a sparse matrix, from roots, the vertices around each, and which of them each group
    has.
    """
    from scipy.sparse import csr_matrix

    units, signs, sizes = [np.empty(0, np.intp)], [np.empty(0, np.int8)], [np.zeros(1, np.intp)]
    for root, others, sign, found in parts:
        group, member = np.nonzero(np.column_stack([np.ones(len(found), dtype=bool), found]))
        units.append(np.array([root, *others], dtype=np.intp)[member])
        signs.append(np.array([1.0, *sign])[member].astype(np.int8))
        sizes.append(np.bincount(group, minlength=len(found)))
    start = np.cumsum(np.concatenate(sizes))
    return csr_matrix(
        (np.concatenate(signs), np.concatenate(units), start), shape=(len(start) - 1, width)
    )


class _Cliques(NamedTuple):
    """Cliques with (root, +), a row each.

    Attributes:
        sums: ``[cliques, sums]``, those of `sides` and of `_guided`. may: ``[cliques, vertices]``,
            what may still be added.
        members: ``[cliques, vertices]``.
    """

    sums: Array
    may: Mask
    members: Mask

    def where(self, rows: Any) -> _Cliques:
        return _Cliques(self.sums[rows], self.may[rows], self.members[rows])


class _Around:
    """The vertices around (root, +) in the order of a search, and what they add to sums that must
    not be positive.
    """

    def __init__(
        self, ball: ParameterBall, root: int, others: Ints, signs: Array, near: Mask,
        priced: _Priced | None,
    ) -> None:  # fmt: skip
        values, total, doubt = sides(ball, root, others, signs)
        self.outputs = len(total)
        if priced is None:
            order, self.start = np.argsort(near.sum(axis=1), kind="stable"), np.empty(0, np.intp)
        else:
            multipliers = np.zeros((3, len(total)))
            cost = priced.cost[others]
            if priced.guide is not None:
                multipliers[:2] = priced.guide(root, values, total, doubt, cost, near)
            own = int(priced.cost[root]) - priced.slack
            order, self.start, values, total, doubt = _guided(
                values, total, doubt, cost, own, near, multipliers
            )
        self.ball, self.root, self.others, self.signs, self.order = ball, root, others, signs, order
        self.values, self.total, self.doubt = values[order], total, doubt
        self.lent = np.minimum(self.values, 0.0)  # at best: what a vertex adds where that helps
        self.optional = (ball.constant | ball.null)[others[order]]
        self.later = np.triu(near[np.ix_(order, order)], 1)

    def alone(self) -> _Cliques:
        """The clique of the root, to which every vertex may be added."""
        count = len(self.others)
        return _Cliques(
            self.total[None, :], np.ones((1, count), dtype=bool), np.zeros((1, count), dtype=bool)
        )

    def free(self, cliques: _Cliques, tests: int) -> tuple[Mask, int]:
        """Which cliques are free groups, not so without an optional member; how many floats could
        not decide.

        Args:
            tests: exact ones that may be made; cliques that would need more are not called free.
        """
        sums, below = cliques.sums, -self.doubt
        free = np.asarray((sums <= self.doubt).all(axis=1))
        doubtful = np.flatnonzero(free & ~(sums < below)[:, : self.outputs].all(axis=1))
        free[doubtful[tests:]] = False
        for k in doubtful[:tests].tolist():
            chosen = self.order[cliques.members[k]].tolist()
            free[k] = self.ball.free(SignedBox.of(self.root, self.others, self.signs, chosen))
        for v in np.flatnonzero(self.optional & cliques.members.any(axis=0)).tolist():
            spare = (sums - self.values[v] < below)[:, : self.outputs].all(axis=1)
            free &= ~(cliques.members[:, v] & spare)
        return free, len(doubtful)

    def hopeful(self, cliques: _Cliques) -> _Cliques:
        """Cliques to which something may be added that could bring every sum down."""
        most = cliques.sums + cliques.may.astype(np.float64) @ self.lent
        cliques = cliques.where(cliques.may.any(axis=1) & (most <= self.doubt).all(axis=1))
        # sums of `_guided`, where at most one vertex of each class is added; the last one is the
        # cost itself
        for k in range(self.outputs, len(self.total) - 1):
            best = np.minimum.reduceat(
                np.where(cliques.may, self.lent[:, k], 0.0), self.start, axis=1
            ).sum(axis=1)
            cliques = cliques.where(cliques.sums[:, k] + best <= self.doubt[k])
        return cliques

    def extended(self, cliques: _Cliques, clique: Ints, vertex: Ints) -> _Cliques:
        """Cliques with one more vertex each; only later ones may follow, so that each clique comes
        once.
        """
        members = cliques.members[clique]
        members[np.arange(len(clique)), vertex] = True
        return _Cliques(
            cliques.sums[clique] + self.values[vertex],
            cliques.may[clique] & self.later[vertex],
            members,
        )


class _Priced(NamedTuple):
    """Costs of units, what a group may cost at most, and multipliers that shorten the search."""

    cost: Counts
    slack: int
    guide: Guide | None


def _rooted(around: _Around, limit: int, enough: int) -> tuple[Mask, bool, int]:
    """Which of the vertices around (root, +) each free group has; whether those are all, found
    within `limit` nodes; nodes.

    Depth first, in blocks of cliques.
    """
    count = len(around.others)
    widest = max(1, FRONT // (count + 1))
    cliques, stack = around.alone(), list[tuple[_Cliques, Ints, Ints]]()
    found, groups, nodes = [np.empty((0, count), dtype=bool)], 0, 0
    back = np.argsort(around.order)
    while True:
        # each exact test costs as much as many nodes: what goes beyond the limit is left undone,
        # and the root is given up
        free, doubtful = around.free(cliques, max(0, limit - nodes) // EXACT + 1)
        found.append(cliques.members[free])
        groups += len(found[-1])
        nodes += EXACT * doubtful + len(cliques.sums) + 4 * len(found[-1])
        cliques = around.hopeful(cliques)
        if len(cliques.sums):
            clique, vertex = np.nonzero(cliques.may)
            stack.append((cliques, clique, vertex))
        if nodes > limit or groups > enough:
            return np.concatenate(found)[:, back], False, nodes
        if not stack:
            return np.concatenate(found)[:, back], True, nodes
        cliques, clique, vertex = stack.pop()
        if len(clique) > widest:
            stack.append((cliques, clique[widest:], vertex[widest:]))
            clique, vertex = clique[:widest], vertex[:widest]
        cliques = around.extended(cliques, clique, vertex)


def _guided(
    values: Array, total: Array, doubt: Array, cost: Counts, own: int, near: Mask, multipliers: Array,
) -> tuple[Ints, Ints, Array, Array, Array]:  # fmt: skip
    """Three more sums that must not be positive in a free group of small cost: l . sums, cost -
    slack + k . sums, cost - slack.

    Here sums are those of `sides`, which are at most 0 in a free group, and l, k >= 0 are any
    vectors: nothing depends on where they come from. A search is over where the least that each
    class of pairwise incompatible vertices can add leaves one of the three positive, by more than
    float sums may be off: 2^-53 of itself for each product and addition, and 2^-1075 for each
    product that underflows. Vectors of which a sum might overflow are taken for zero.

    Args:
        values, total, doubt: of `sides`. cost: of the vertices. own: cost of the root less slack.
        multipliers: ``[3, 2 m]``, l, k and zeros; none is negative.

    Returns:
        an order of the vertices by class, where the classes start, and values, totals and doubts
            with three columns more.
    """
    count = len(cost)
    colour = classes(near, np.argsort(cost, kind="stable"))
    if not np.isfinite(doubt).all():
        multipliers = np.zeros_like(multipliers)
    charge, gross = np.outer([0.0, 1.0, 1.0], cost), np.abs(values).sum(axis=0) + np.abs(total)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = multipliers @ gross < LARGEST  # so are all sums of parts of it, and the charges
        multipliers = np.where(finite[:, None], multipliers, 0.0)
    more = charge + multipliers @ values.T
    first = np.array([0.0, own, own]) + multipliers @ total
    size = np.abs(charge).sum(axis=1) + abs(own) + multipliers @ gross
    lost = (count + 2) * (len(total) + 1) * arithmetic.LEAST  # twice what underflows can take
    slip = (count + len(total) + 16) * 2.0**-50 * size + lost
    order = np.lexsort((np.arange(count), colour))
    start = np.flatnonzero(np.diff(colour[order], prepend=-1))
    return (
        order, start, np.concatenate([values, more.T], axis=1), np.concatenate([total, first]),
        np.concatenate([doubt, slip])
    )  # fmt: skip


def classes(near: Mask, order: Ints) -> Ints:
    """Classes of pairwise incompatible vertices: each vertex in order joins the first that takes
    it.
    """
    colour = np.full(len(near), -1, dtype=np.intp)
    full: list[Mask] = []
    for v in order.tolist():
        k = next((k for k, blocked in enumerate(full) if not blocked[v]), len(full))
        if k == len(full):
            full.append(np.zeros(len(near), dtype=bool))
        full[k] |= near[v]
        colour[v] = k
    return colour


def sides(ball: ParameterBall, root: int, others: Ints, signs: Array) -> tuple[Array, Array, Array]:
    """What vertices and the root add to (+sum - r * size, -sum - r * size), and how far float sums
    may be off.
    """
    outgoing = ball.outgoing[others] * signs[:, None]
    own = np.concatenate([ball.outgoing[root], -ball.outgoing[root]])
    with np.errstate(over="ignore", invalid="ignore"):
        values, total = (
            np.concatenate([outgoing, -outgoing], axis=1) - ball.radius,
            own - ball.radius,
        )
        size = np.abs(values).sum(axis=0) + np.abs(own) + ball.radius * (len(others) + 1)
        doubt = (len(others) + 9) * 2.0**-50 * size
    vast = ~np.isfinite(doubt)  # sums overflow: nothing is certain, every group is tested exactly
    values[:, vast], total[vast], doubt[vast] = 0.0, 0.0, np.inf
    return values, total, doubt


def incidence(boxes: Sequence[SignedBox], width: int) -> Any:
    """Which of `width` units each box has, as a sparse matrix of ones."""
    from scipy.sparse import csr_matrix

    start = np.cumsum([0, *(len(box.units) for box in boxes)])
    units = np.array([u for box in boxes for u in box.units], dtype=np.intp)
    return csr_matrix((np.ones(len(units), np.int64), units, start), shape=(len(boxes), width))


def scratch(ball: ParameterBall) -> Ints:
    return np.full((2, ball.size), -1, dtype=np.intp)


def neighbourhood(
    ball: ParameterBall, root: int, place: Ints, vertex: Ints
) -> tuple[Ints, Array, Mask]:
    """Vertices (unit, sign) compatible with (root, +), and which of them are compatible with each
    other.

    Args:
        place: -1 for units that take no part. vertex: ``[2, h]`` scratch, all -1 before and after.
    """
    others, signs = ball.graph.near(root)
    keep = place[others] >= 0
    others, signs = others[keep], signs[keep]
    if len(others) > WIDEST:
        raise BudgetExhausted(
            f"{len(others)} units are compatible with unit {root}; boxes are searched among up to {WIDEST}"
        )
    near = np.zeros((len(others), len(others)), dtype=bool)
    vertex[(signs < 0).astype(np.intp), others] = np.arange(len(others))
    for v, (j, s) in enumerate(zip(others.tolist(), signs.tolist(), strict=True)):
        theirs, relative = ball.graph.near(j)
        w = vertex[(relative * s < 0).astype(np.intp), theirs]
        near[v, w[w >= 0]] = True
    vertex[:, others] = -1
    return others, signs, near


def bits_of(flags: Mask) -> int:
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def members_of(bits: int) -> Iterator[int]:
    """Smallest first: the lowest bit of x is x & -x, as the two's complement flips all above it."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
