"""Least covers: rows to cover, columns of cost 1 that may overlap, and free columns that need resources used only once.

The search behind proximate rank (rows: units; columns: boxes; free columns: free groups; resources: units). Reduce,
split, solve the linear relaxation and branch; HiGHS proposes covers and weights, the kernel (`cover_bound`) decides what a
tree of weights proves. Rows and resources are integers of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.radius.compatibility import DualWeights, Ints, Mask
from moduli.kernel.radius.cover_bound import Branch, CoverProof, IndependentParts, ReducedCostFilter

SCALE = 2**30
ROUNDS = 20
FEW = 4000  # columns of which all are searched at once
MANY = 40_000  # columns beyond which none are listed
BATCH = 1000  # columns that join a program at a time
HEAVY = 200  # columns of a program that count as a node
OPTIMAL = 0  # the status of a solved program in scipy
DEAR = 16  # times the rows: what a row costs that is left uncovered, so that every linear program has a solution


@dataclass(frozen=True)
class Cover:
    """An instance in sparse 0/1 matrices with a column per unit.

    Attributes:
        paid: ``[boxes, h]``. uses: ``[free groups, h]``, all units of each (a unit serves one). rows: units to cover.
    """

    paid: Any
    uses: Any
    rows: Ints

    @cached_property
    def matrix(self) -> Any:
        """``[paid, then free columns; rows]``."""
        from scipy.sparse import vstack

        return vstack([self.paid, self.uses], format="csr")[:, self.rows]

    def part(self, columns: Ints) -> Cover:
        """The instance of some columns."""
        count = self.paid.shape[0]
        return Cover(self.paid[columns[columns < count]], self.uses[columns[columns >= count] - count], self.rows)


@dataclass
class Answer:
    """Chosen columns (free ones count after the paid ones), and a tree that bounds the number from below.

    Attributes:
        chosen: a cover of cost `upper`, None where none was found.
    """

    chosen: list[int] | None
    upper: int
    lower: int
    tree: CoverProof
    nodes: int


class Relaxed(NamedTuple):
    """A solved linear relaxation: values of columns, its optimum, and what its weights prove; the odd cuts that bind.

    Attributes:
        short: how much of the rows the columns leave uncovered, where they cannot cover all.
    """

    x: Any
    columns: list[int]
    value: float
    leaf: DualWeights
    bound: int
    cuts: list[int]
    short: float

    @property
    def whole(self) -> bool:
        """Whether the columns of value 1 are a cover."""
        return self.short <= 1e-6 and (not len(self.x) or bool(np.abs(self.x - np.round(self.x)).max() <= 1e-6))


class Exhausted(Exception):
    """The node budget is spent, or the solver has given up."""


class _Search:
    """Columns as bit sets over rows, rows as bit sets over columns."""

    def __init__(self, cover: Cover, budget: int) -> None:
        self.budget, self.nodes = budget, 0
        self.names = cover.rows.tolist()
        self.paid = cover.paid.shape[0]
        self.members = [*_sets(cover.paid), *_sets(cover.uses)]
        place = {r: k for k, r in enumerate(self.names)}
        self.sets = [sum(1 << place[r] for r in c if r in place) for c in self.members]
        self.clash = [0] * len(self.sets)
        users: dict[int, int] = {}
        for c in range(self.paid, len(self.sets)):
            for u in self.members[c]:
                users[u] = users.get(u, 0) | 1 << c
        for c in range(self.paid, len(self.sets)):
            for u in self.members[c]:
                self.clash[c] |= users[u]
        self.by_row = [0] * len(self.names)
        for c, bits in enumerate(self.sets):
            for r in _members(bits):
                self.by_row[r] |= 1 << c
        self.all_paid = (1 << self.paid) - 1

    def reduce(self, rows: int, cols: int) -> tuple[int, int, list[int], list[int]]:
        """Rows and columns that remain, columns that some best cover contains, and rows that only those cover."""
        chosen: list[int] = []
        essential: list[int] = []
        while True:
            before = rows, cols
            for c in _members(cols):
                bits = self.sets[c] & rows
                if not bits or self._beaten(c, bits, rows, cols):
                    cols ^= 1 << c
            for r in _members(rows):
                if not rows >> r & 1:
                    continue
                mine = self.by_row[r] & cols
                if mine & (mine - 1) == 0 and mine & self.all_paid:
                    c = mine.bit_length() - 1
                    chosen.append(c)
                    essential.append(r)
                    rows &= ~self.sets[c]
                    cols &= ~(1 << c)
                    continue
                common = rows
                for c in _members(mine):
                    common &= self.sets[c]
                    if common == 1 << r:
                        break
                rows &= ~common | 1 << r
            for c in _members(cols & ~self.all_paid):
                if self.clash[c] & cols == 1 << c:
                    chosen.append(c)
                    rows &= ~self.sets[c]
                    cols &= ~(1 << c)
            if (rows, cols) == before:
                return rows, cols, chosen, essential

    def _beaten(self, c: int, bits: int, rows: int, cols: int) -> bool:
        """Whether another column covers as much and costs (or uses) no more."""
        rivals = cols & (self.all_paid if c < self.paid else ~self.all_paid) & ~(1 << c)
        for r in _members(bits):
            rivals &= self.by_row[r]
            if not rivals:
                return False
        if c < self.paid:
            return any(self.sets[d] & rows != bits or d < c for d in _members(rivals))
        used = self.members[c]
        for d in _members(rivals):
            other = self.members[d]
            if other < used or (other == used and (self.sets[d] & rows != bits or d < c)):
                return True
        return False

    def split(self, rows: int, cols: int) -> list[tuple[int, int]]:
        """Connected parts, by lowest row; free columns that compete for a resource belong together."""
        parts = []
        while rows:
            part, mine, front = 0, 0, rows & -rows
            while front:
                part |= front
                new = 0
                for r in _members(front):
                    new |= self.by_row[r] & cols & ~mine
                for c in _members(new & ~self.all_paid):
                    new |= self.clash[c] & cols & ~mine
                mine |= new
                front = 0
                for c in _members(new):
                    front |= self.sets[c]
                front &= rows & ~part
            parts.append((part, mine))
            rows &= ~part
        return parts

    def relax(self, rows: int, cols: int, cuts: Sequence[int] = ()) -> Relaxed:
        """The linear relaxation with those odd cuts of an ancestor that still are."""
        return self._linear(rows, cols, [s for s in {c & rows: None for c in cuts} if s.bit_count() % 2 and s.bit_count() > 1])

    def tighten(self, rows: int, cols: int, found: Relaxed, target: int, rounds: int) -> Relaxed:
        """Add violated odd cuts until the relaxation proves `target` or gains little."""
        for _ in range(rounds):
            if found.bound >= target or found.whole:
                break
            new = [s for s in self.odd_cuts(rows, found) if s not in found.cuts]
            if not new:
                break
            better = self._linear(rows, cols, [*found.cuts, *new])
            gain, found = better.value - found.value, better
            if gain < 0.02:
                break
        return found

    def _linear(self, rows: int, cols: int, cuts: list[int]) -> Relaxed:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix, vstack

        self.nodes += 1 + cols.bit_count() // HEAVY
        if self.nodes > self.budget:
            raise Exhausted
        matrix, index, resources, cost = self._matrix(rows, cols)
        bounds = [-np.ones(rows.bit_count()), np.ones(len(resources))]
        if cuts:
            halves = [[-((self.sets[c] & s).bit_count() + 1 >> 1) for c in index] for s in cuts]
            matrix = vstack([matrix, csr_matrix(np.array(halves, dtype=float))], format="csr")
            bounds.append(np.array([-(s.bit_count() + 1 >> 1) for s in cuts], dtype=float))
        limits = np.concatenate(bounds)
        found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
        if found.status != OPTIMAL:
            cost, matrix = self._elastic(cost, matrix, limits)
            found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
        if found.status != OPTIMAL:
            raise Exhausted
        marginals = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
        tight = [s for s, v in zip(cuts, marginals[len(marginals) - len(cuts) :], strict=True) if v > 1e-9]
        leaf, bound = self._leaf(rows, cols, marginals, resources, cuts)
        x, rest = np.split(np.asarray(found.x), [len(index)])
        return Relaxed(x, index, float(found.fun), leaf, bound, tight, float(rest.sum()))

    @staticmethod
    def _elastic(cost: Any, matrix: Any, limits: Any) -> tuple[Any, Any]:
        """The program with a column for each row and cut that covers just that, at a price above any target.

        Free columns that compete may leave no cover at all. The multipliers of this program then prove more than is asked.
        """
        from scipy.sparse import csr_matrix, hstack

        open_ = np.flatnonzero(limits < 0)
        ones = csr_matrix((limits[open_], (open_, np.arange(len(open_)))), shape=(len(limits), len(open_)))
        price = float(DEAR * (len(open_) + 1))
        return np.concatenate([cost, np.full(len(open_), price)]), hstack([matrix, ones], format="csr")

    def odd_cuts(self, rows: int, found: Relaxed) -> list[int]:
        """Sets S of an odd number of rows whose inequality sum_c ceil(|c & S| / 2) x_c >= ceil(|S| / 2) is violated.

        Gaussian elimination modulo 2 of the columns with the largest values (Koster, Zymolka and Kutschka 2009).
        """
        order = [k for k in np.argsort(-found.x, kind="stable").tolist() if 1e-6 < found.x[k] < 1 - 1e-6]
        sets = [self.sets[found.columns[k]] & rows for k in order]
        value = [float(found.x[k]) for k in order]
        slack = {r: -1.0 for r in _members(rows)}
        for k, c in enumerate(found.columns):
            if found.x[k] > 1e-9:
                for r in _members(self.sets[c] & rows):
                    slack[r] += float(found.x[k])
        odd = {r: sum(1 << k for k, bits in enumerate(sets) if bits >> r & 1) for r in slack}
        table = [[odd[r], 1 << r, slack[r]] for r in slack if slack[r] < 0.999]
        cuts: dict[int, float] = {}
        for k in range(len(order)):
            live = [row for row in table if row[0] >> k & 1]
            if not live:
                continue
            pivot = min(live, key=lambda row: row[2])
            table = [row for row in table if row is not pivot]
            for row in live:
                if row is not pivot:
                    row[0] ^= pivot[0]
                    row[1] ^= pivot[1]
                    row[2] = sum(slack[r] for r in _members(row[1]))
                    if row[1].bit_count() % 2 and row[1].bit_count() > 1:
                        weight = row[2] + sum(value[j] for j in _members(row[0]))
                        if weight < 0.99:
                            cuts[row[1]] = weight
            table = [row for row in table if row[2] < 0.999]
        return sorted(cuts, key=lambda s: (cuts[s], s))[:200]

    def _matrix(self, rows: int, cols: int) -> tuple[Any, list[int], list[int], Any]:
        from scipy.sparse import csr_matrix

        place = {r: k for k, r in enumerate(_members(rows))}
        index = list(_members(cols))
        resources: dict[int, int] = {}
        entries: list[tuple[int, int, float]] = []
        for k, c in enumerate(index):
            for r in _members(self.sets[c] & rows):
                entries.append((place[r], k, -1.0))
            if c >= self.paid and self.clash[c] & cols != 1 << c:
                for u in sorted(self.members[c]):
                    entries.append((len(place) + resources.setdefault(u, len(resources)), k, 1.0))
        i, j, v = zip(*entries, strict=True) if entries else ((), (), ())
        matrix = csr_matrix((v, (i, j)), shape=(len(place) + len(resources), len(index)))
        return matrix, index, list(resources), np.array([float(c < self.paid) for c in index])

    def _leaf(self, rows: int, cols: int, marginals: Any, resources: list[int], cuts: list[int]) -> tuple[DualWeights, int]:
        members = list(_members(rows))
        ints = [int(x * SCALE) for x in marginals]
        y = dict(zip(members, ints, strict=False))
        prices = {u: w for u, w in zip(resources, ints[len(members) :], strict=False)}
        odd = [(s, w) for s, w in zip(cuts, ints[len(ints) - len(cuts) :], strict=True) if w]
        scale = SCALE
        for c in _members(cols):
            bits = self.sets[c] & rows
            total = sum(y[r] for r in _members(bits)) + sum(w * ((bits & s).bit_count() + 1 >> 1) for s, w in odd)
            if c < self.paid:
                scale = max(scale, total)
            else:
                used = sorted(self.members[c])
                short = total - sum(prices.get(u, 0) for u in used)
                if short > 0:
                    prices[used[0]] = prices.get(used[0], 0) + short
        gain = sum(y.values()) + sum(w * (s.bit_count() + 1 >> 1) for s, w in odd) - sum(prices.values())
        named = tuple((self._units(s), w) for s, w in odd)
        weights = {self.names[r]: w for r, w in y.items() if w}
        return DualWeights(weights, {u: w for u, w in sorted(prices.items()) if w}, named, scale), max(0, -(-gain // scale))

    def propose(self, rows: int, cols: int) -> list[int] | None:
        """A cover by HiGHS's branch and bound, or greedily where it finds none within the budget; None where that fails."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        matrix, index, resources, cost = self._matrix(rows, cols)
        limits = np.concatenate([-np.ones(rows.bit_count()), np.ones(len(resources))])
        found = milp(
            cost, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=LinearConstraint(matrix, -np.inf, limits),
            options={"node_limit": 1 + self.budget * HEAVY // (5 * len(cost)), "mip_rel_gap": 0.0},
        )  # fmt: skip
        self.nodes += 1 + (found.mip_node_count or 0) * len(cost) // HEAVY
        if found.x is None:
            return self._greedy(rows, cols)
        return [c for c, x in zip(index, found.x, strict=True) if x > 0.5]

    def _greedy(self, rows: int, cols: int) -> list[int] | None:
        """Paid columns, the largest first; None where some row has only free ones."""
        chosen = []
        while rows:
            best = max(_members(cols & self.all_paid), key=lambda c: (self.sets[c] & rows).bit_count(), default=-1)
            if best < 0 or not self.sets[best] & rows:
                return None
            chosen.append(best)
            rows &= ~self.sets[best]
        return chosen

    def cost(self, chosen: Sequence[int]) -> int:
        return sum(c < self.paid for c in chosen)

    def best(self, rows: int, cols: int) -> tuple[list[int] | None, int, CoverProof]:
        """A cover (None where none is found), a lower bound and its tree."""
        alive = cols
        rows, cols, chosen, essential = self.reduce(rows, cols)
        parts, lower = self._trunk(essential)
        complete = True
        for part, mine in self.split(rows, cols):
            cover, bound, tree = self._part(part, mine, alive)
            complete &= cover is not None
            chosen += cover or []
            lower += bound
            parts.append((self._units(part), tree))
        return chosen if complete else None, lower, _joined(parts)

    def _part(self, rows: int, cols: int, alive: int) -> tuple[list[int] | None, int, CoverProof]:
        chosen: list[int] | None
        try:
            found = self.relax(rows, cols)
        except Exhausted:
            return self._greedy(rows, cols), *self._counted(rows, cols)
        chosen = [c for c, value in zip(found.columns, found.x, strict=True) if value > 0.5]
        if not found.whole or self.cost(chosen) > found.bound:
            chosen = self.propose(rows, cols)
        target = rows.bit_count() + 1 if chosen is None else self.cost(chosen)
        return chosen, *self.prove(rows, cols, alive & self._touching(rows), target, found, ROUNDS)

    def _counted(self, rows: int, cols: int) -> tuple[int, CoverProof]:
        """Without any budget left: rows no two of which share a column (none that free columns touch)."""
        left, weights = rows, dict[int, int]()
        for c in _members(cols & ~self.all_paid):
            left &= ~self.sets[c]
        while left:
            r = (left & -left).bit_length() - 1
            weights[self.names[r]] = 1
            for c in _members(self.by_row[r] & cols):
                left &= ~self.sets[c]
        return len(weights), DualWeights(weights, {}, (), 1)

    def prove(self, rows: int, cols: int, alive: int, target: int, found: Relaxed, rounds: int = 2) -> tuple[int, CoverProof]:
        """A tree that proves `target` or, where the budget ends, less.

        Args:
            alive: columns that a cover may contain here; `cols` are those of them that no other one beats.
        """
        try:
            found = self.tighten(rows, cols, found, target, rounds)
        except Exhausted:
            pass
        if found.bound >= target or found.whole:
            return found.bound, found.leaf
        sizes = np.array([(self.sets[c] & rows).bit_count() for c in found.columns])
        apart = np.abs(found.x - np.round(found.x))
        pick = found.columns[int(np.argmax(np.where(apart > 1e-6, apart * (1 + sizes), -1.0)))]
        try:
            inside = self.child(*self.take(pick, rows, alive), target - (pick < self.paid), found.cuts)
            outside = self.child(rows, alive & ~(1 << pick), target, found.cuts)
        except Exhausted:
            return found.bound, found.leaf
        bound = min(inside[0] + (pick < self.paid), outside[0])
        if bound <= found.bound:
            return found.bound, found.leaf
        return bound, Branch(tuple(sorted(self.members[pick])), pick >= self.paid, inside[1], outside[1])

    def take(self, c: int, rows: int, cols: int) -> tuple[int, int]:
        if c >= self.paid:
            cols &= ~self.clash[c]
        return rows & ~self.sets[c], cols & ~(1 << c)

    def child(self, rows: int, cols: int, target: int, cuts: list[int]) -> tuple[int, CoverProof]:
        alive = self._touching(rows) & cols
        rows, cols, _, essential = self.reduce(rows, alive)
        bare = next((r for r in _members(rows) if not self.by_row[r] & cols), None)
        if bare is not None:
            return target, DualWeights({self.names[bare]: target}, {}, (), 1)
        parts, lower = self._trunk(essential)
        pieces = [(part, mine, self.relax(part, mine, cuts)) for part, mine in self.split(rows, cols)]
        need = target - lower - sum(found.bound for _, _, found in pieces)
        for part, mine, found in pieces:
            bound, tree = found.bound, found.leaf
            if need > 0:
                cover = self.propose(part, mine) if len(pieces) > 1 else None
                aim = bound + need if cover is None else self.cost(cover)
                bound, tree = self.prove(part, mine, alive, aim, found)  # type: ignore[assignment]
            need -= bound - found.bound
            lower += bound
            parts.append((self._units(part), tree))
        return lower, _joined(parts)

    def _touching(self, rows: int) -> int:
        cols = 0
        for r in _members(rows):
            cols |= self.by_row[r]
        return cols

    def _trunk(self, essential: list[int]) -> tuple[list[tuple[tuple[int, ...], CoverProof]], int]:
        if not essential:
            return [], 0
        units = tuple(sorted(self.names[r] for r in essential))
        return [(units, DualWeights(dict.fromkeys(units, 1), {}, (), 1))], len(units)

    def _units(self, rows: int) -> tuple[int, ...]:
        return tuple(sorted(self.names[r] for r in _members(rows)))


def _joined(parts: list[tuple[tuple[int, ...], CoverProof]]) -> CoverProof:
    return parts[0][1] if len(parts) == 1 else IndependentParts(tuple(parts))


def _members(bits: int) -> Any:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _sets(matrix: Any) -> list[frozenset[int]]:
    return [frozenset(matrix.indices[a:b].tolist()) for a, b in pairwise(matrix.indptr)]


def solve(cover: Cover, budget: int) -> Answer:
    """A least cover, or bounds where the budget of nodes runs out (linear programs by size, and HiGHS's nodes)."""
    return _searched(cover, budget) if cover.matrix.shape[0] <= FEW else _Pool(cover, budget).best()


def program(cover: Cover) -> tuple[Any, Any, Any, Ints]:
    """The linear relaxation: matrix, right sides and costs of an inequality form, and the resources behind the last rows."""
    from scipy.sparse import vstack

    busy = np.unique(cover.uses.indices).astype(np.intp)
    uses = vstack([cover.paid[:, busy] * 0, cover.uses[:, busy]])
    matrix = vstack([-cover.matrix.T, uses.T], format="csr").astype(np.float64)
    limits = np.concatenate([-np.ones(len(cover.rows)), np.ones(len(busy))])
    return matrix, limits, (np.arange(cover.matrix.shape[0]) < cover.paid.shape[0]).astype(np.float64), busy


def proposed(cover: Cover, budget: int) -> list[int] | None:
    """A cover by HiGHS's branch and bound, the best one after some of its nodes."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    matrix, limits, cost, _ = program(cover)
    found = milp(
        cost, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=LinearConstraint(matrix, -np.inf, limits),
        options={"node_limit": 1 + budget * HEAVY // len(cost), "mip_rel_gap": 0.0},
    )  # fmt: skip
    return None if found.x is None else np.flatnonzero(found.x > 0.5).tolist()


def greedy(cover: Cover, rows: Mask) -> list[int] | None:
    """Paid columns that cover some rows, the largest first; None where some row has only free columns."""
    boxes, waiting = cover.matrix[: cover.paid.shape[0]], rows.astype(np.int64)
    chosen = list[int]()
    while waiting.any():
        new = boxes @ waiting
        if not new.max(initial=0):
            return None
        chosen.append(int(np.argmax(new)))
        waiting[boxes[chosen[-1]].indices] = 0
    return chosen


def within(cover: Cover, budget: int, target: int, upper: int) -> Answer:
    """A cover of cost below `target` or a proof that there is none; more if a cover below `upper` may be among few columns."""
    bare = np.flatnonzero(np.diff(cover.matrix.tocsc().indptr) == 0)
    if len(bare):
        return Answer(None, upper, target, DualWeights({int(cover.rows[bare[0]]): target}, {}, (), 1), 0)
    few = cover.matrix.shape[0] <= FEW and upper > target
    return _searched(cover, budget, None if few else target)


def dive(cover: Cover, budget: int) -> tuple[list[int] | None, int]:
    """A good cover without a bound (None where none is found), and the nodes spent."""
    pool = _Pool(cover, budget)
    return pool.dive(pool.start()), pool.nodes


def _searched(cover: Cover, budget: int, target: int | None = None) -> Answer:
    """The search on all columns; for a bound of `target` alone, if that is given."""
    search = _Search(cover, budget)
    if target is not None:
        try:
            lower, tree = search.child((1 << len(search.names)) - 1, (1 << len(search.sets)) - 1, target, [])
        except Exhausted:
            lower, tree = 0, DualWeights({}, {}, (), 1)
        return Answer(None, target, lower, tree, search.nodes)
    chosen, lower, tree = search.best((1 << len(search.names)) - 1, (1 << len(search.sets)) - 1)
    upper = len(search.names) if chosen is None else search.cost(chosen)
    return Answer(chosen, upper, lower, tree, search.nodes)


class _Pool:
    """For many columns: the linear relaxation with columns generated from the pool, then only what its weights leave."""

    def __init__(self, cover: Cover, budget: int) -> None:
        self.cover, self.budget, self.nodes = cover, budget, 0
        self.paid, self.count = cover.paid.shape[0], cover.matrix.shape[0]
        self.free = np.arange(self.count) >= self.paid

    def best(self) -> Answer:
        """Covers of cost at most `target - 1` use columns that the weights leave; raise the target until one is found."""
        every = np.ones(len(self.cover.rows), dtype=bool)
        active = self.start()
        try:
            _, y, prices = self._generated(active, every, np.ones(self.count, dtype=bool))
        except Exhausted:
            chosen = greedy(self.cover, every)
            return Answer(chosen, self._cost(chosen), 0, DualWeights({}, {}, (), 1), self.nodes)
        leaf, total, short = self._rounded(y, prices)
        lower, chosen = max(0, -(-total // leaf.scale)), self.dive(active)
        tree: CoverProof = leaf
        while lower < self._cost(chosen) and self.nodes < self.budget:
            columns = np.flatnonzero(total + short <= leaf.scale * lower)
            if len(columns) > MANY:
                break
            found = within(self.cover.part(columns), self.budget - self.nodes, lower + 1, self._cost(chosen))
            self.nodes += found.nodes
            if found.chosen is not None and found.upper < self._cost(chosen):
                chosen = columns[found.chosen].tolist()
            if found.lower <= lower:
                break
            lower += 1
            tree = ReducedCostFilter(leaf, lower, found.tree)
        return Answer(chosen, self._cost(chosen), lower, tree, self.nodes)

    def start(self) -> Mask:
        """Columns to begin with: a cover by paid ones, all columns where there is none."""
        active = np.zeros(self.count, dtype=bool)
        chosen = greedy(self.cover, np.ones(len(self.cover.rows), dtype=bool))
        active[slice(None) if chosen is None else chosen] = True
        return active

    def _cost(self, chosen: Sequence[int] | None) -> int:
        """What a cover costs; without one as much as a box for every row would."""
        return len(self.cover.rows) if chosen is None else sum(c < self.paid for c in chosen)

    def dive(self, active: Mask) -> list[int] | None:
        """A cover: take the columns with the largest values, solve and generate again for the rows that remain."""
        best: list[int] | None = None
        for large in (0.9, 0.6):
            found = self._dive(active.copy(), large)
            if best is None or (found is not None and self._cost(found) < self._cost(best)):
                best = found
        return best

    def _dive(self, active: Mask, large: float) -> list[int] | None:
        waiting, allowed = np.ones(len(self.cover.rows), dtype=bool), np.ones(self.count, dtype=bool)
        chosen: list[int] = []
        while waiting.any() and self.nodes < self.budget:
            try:
                x, _, _ = self._generated(active, waiting, allowed, rounds=2)
            except Exhausted:
                break
            columns = np.flatnonzero(active & allowed)
            for k in np.argsort(-x, kind="stable")[: np.count_nonzero(x > large) or 1].tolist():
                c = int(columns[k])
                waiting[self.cover.matrix[c].indices] = False
                allowed[c] = False
                if c >= self.paid:
                    allowed[self.paid :] &= (self.cover.uses @ self.cover.uses[c - self.paid].T).toarray()[:, 0] == 0
                chosen.append(c)
        rest = greedy(self.cover, waiting)
        return None if rest is None else [*chosen, *rest]

    def _generated(self, active: Mask, rows: Mask, allowed: Mask, rounds: int = 10**9) -> tuple[Any, Any, Any]:
        """Values, weights and prices of the linear relaxation; columns that the weights ask for become active."""
        while True:
            x, y, prices = self._linear(np.flatnonzero(active & allowed), rows)
            short = self._short(y, prices, 1.0)
            wanted = np.flatnonzero((short < -1e-7) & allowed & ~active)
            rounds -= 1
            if not len(wanted) or not rounds or self.nodes >= self.budget:
                return x, y, prices
            active[wanted[np.argsort(short[wanted], kind="stable")[:BATCH]]] = True

    def _short(self, y: Any, prices: Any, scale: Any) -> Any:
        return np.concatenate([np.full(self.paid, scale), self.cover.uses @ prices]) - self.cover.matrix @ y

    def _linear(self, columns: Ints, rows: Mask) -> tuple[Any, Any, Any]:
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        self.nodes += 1 + len(columns) // HEAVY
        part = self.cover.part(columns)
        busy = np.unique(part.uses.indices)
        uses = vstack([part.paid[:, busy] * 0, part.uses[:, busy]])
        limits = np.concatenate([-np.ones(int(rows.sum())), np.ones(len(busy))])
        matrix = vstack([-part.matrix[:, rows].T, uses.T], format="csr").astype(np.float64)
        cost = np.where(self.free[columns], 0.0, 1.0)
        found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
        if found.status != OPTIMAL:
            raise Exhausted
        dual = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
        y, prices = np.zeros(len(rows)), np.zeros(self.cover.uses.shape[1])
        y[rows], prices[busy] = dual[: int(rows.sum())], dual[int(rows.sum()) :]
        return found.x, y, prices

    def _rounded(self, y: Any, prices: Any) -> tuple[DualWeights, int, Any]:
        """The same in integers: the scale and single prices give way where a column weighs too much."""
        weights = np.floor(y * SCALE).astype(np.int64)
        prices = np.ceil(prices * SCALE).astype(np.int64)
        scale = max(SCALE, int((self.cover.matrix[: self.paid] @ weights).max(initial=0)))
        short = self._short(weights, prices, scale)
        over = np.flatnonzero(short < 0)
        lift = np.zeros_like(prices)
        np.maximum.at(lift, self.cover.uses.indices[self.cover.uses.indptr[over - self.paid]], -short[over])
        prices += lift
        named = {int(u): int(w) for u, w in zip(self.cover.rows, weights, strict=True) if w}
        leaf = DualWeights(named, {int(u): int(prices[u]) for u in np.flatnonzero(prices)}, (), scale)
        return leaf, int(weights.sum() - prices.sum()), self._short(weights, prices, scale)
