"""Least covers: rows to cover, columns of cost 1 that may overlap, and free columns that need
resources used only once.

The search behind proximate rank (rows: units; columns: boxes; free columns: free groups; resources:
units). Reduce, split, solve the linear relaxation and branch; HiGHS proposes covers and weights,
the kernel (`cover_bound`) decides what a tree of weights proves. Rows and resources are integers of
the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.radius.compatibility import DualWeights, Ints, Mask, members_of
from moduli.kernel.radius.cover_bound import Branch, CoverProof, IndependentParts, ReducedCostFilter

SCALE = 2**30
ROUNDS = 20
FEW = 4000  # columns of which all are searched at once
MANY = 40_000  # columns beyond which none are listed
BATCH = 1000  # columns that join a program at a time
HEAVY = 200  # columns of a program that count as a node
OPTIMAL = 0  # the status of a solved program in scipy
DEAR = 16  # times the rows: what a row costs that is left uncovered, so that every linear program has a solution
INTEGRAL = 1e-6  # what differs by less counts as equal; floats only propose, `cover_bound` decides in integers
CUTS = 200  # odd cuts that join a program at a time

BitSet = int  # a set of small integers: bit k stands for k. Operators: union |, intersection &, difference & ~.


@dataclass(frozen=True)
class Cover:
    """An instance in sparse 0/1 matrices with a column per unit.

    Attributes:
        paid: ``[boxes, h]``. uses: ``[free groups, h]``, all units of each (a unit serves one).
            rows: units to cover.
    """

    paid: Any
    uses: Any
    rows: Ints

    @cached_property
    def matrix(self) -> Any:
        """``[paid, then free columns; rows]``."""
        from scipy.sparse import vstack

        return vstack([self.paid, self.uses], format="csr")[:, self.rows]

    def part(self, columns: Ints, rows: Any = slice(None)) -> Cover:
        """The instance of some columns, and of those rows that an index picks."""
        count = self.paid.shape[0]
        return Cover(
            self.paid[columns[columns < count]],
            self.uses[columns[columns >= count] - count],
            self.rows[rows],
        )


@dataclass
class Answer:
    """Chosen columns (free ones count after the paid ones), and a tree that bounds the number from
    below.

    Attributes:
        chosen: a cover of cost `upper`, None where none was found.
    """

    chosen: list[int] | None
    upper: int
    lower: int
    tree: CoverProof
    nodes: int


class Relaxed(NamedTuple):
    """A solved linear relaxation: values of columns, its optimum, and what its weights prove; the
    odd cuts that bind.

    Attributes:
        short: how much of the rows the columns leave uncovered, where they cannot cover all.
    """

    x: Any
    columns: list[int]
    value: float
    leaf: DualWeights
    bound: int
    cuts: list[BitSet]
    short: float

    @property
    def whole(self) -> bool:
        """Whether the columns of value 1 are a cover."""
        return self.short <= INTEGRAL and (
            not len(self.x) or bool(np.abs(self.x - np.round(self.x)).max() <= INTEGRAL)
        )


class Exhausted(Exception):
    """The node budget is spent, or the solver has given up."""


class Remaining(NamedTuple):
    """What reduction leaves: rows and columns, columns that some best cover contains, and rows that
    only those cover.
    """

    rows: BitSet
    cols: BitSet
    chosen: list[int]
    essential: list[int]


class Part(NamedTuple):
    """Rows and columns that can be solved apart from all others."""

    rows: BitSet
    cols: BitSet


class Proved(NamedTuple):
    """A lower bound for the cost of a cover, and the tree that shows it."""

    bound: int
    tree: CoverProof


class Covered(NamedTuple):
    """A cover (None where none is found), a lower bound and its tree."""

    chosen: list[int] | None
    bound: int
    tree: CoverProof


class Program(NamedTuple):
    """The inequalities of a linear program ``[rows and resources, columns]``.

    Attributes:
        matrix: rows count -1 in the columns that cover them, resources 1 in the columns that use
            them.
        columns: of the instance, in the order of the program. resources: those of which more than
            one column wants a unit.
        cost: of each column, 1 or 0.
    """

    matrix: Any
    columns: list[int]
    resources: list[int]
    cost: Any


class Combination(NamedTuple):
    """A sum modulo 2 of row inequalities, on the way of the elimination to odd cuts.

    Attributes:
        odd: of the columns with fractional values, those that an odd number of these rows contain.
            rows: those added up.
        slack: what the rows are covered beyond once, all together.
    """

    odd: BitSet
    rows: BitSet
    slack: float


class _Search:
    """Columns as bit sets over rows, rows as bit sets over columns."""

    def __init__(self, cover: Cover, budget: int) -> None:
        self.budget, self.nodes = budget, 0
        self.names = cover.rows.tolist()
        self.paid = cover.paid.shape[0]
        self.members = [*_sets(cover.paid), *_sets(cover.uses)]
        place = {r: k for k, r in enumerate(self.names)}
        self.sets: list[BitSet] = []  # of each column, the rows that it covers
        for units in self.members:
            self.sets.append(_bit_set(place[u] for u in units if u in place))
        self.clash: list[BitSet] = [0] * len(
            self.sets
        )  # of each free column, those that it shares a resource with, itself too
        users: dict[int, BitSet] = {}
        for c in range(self.paid, len(self.sets)):
            for u in self.members[c]:
                users[u] = users.get(u, 0) | 1 << c
        for c in range(self.paid, len(self.sets)):
            for u in self.members[c]:
                self.clash[c] |= users[u]
        self.by_row: list[BitSet] = [0] * len(self.names)  # of each row, the columns that cover it
        for c, bits in enumerate(self.sets):
            for r in members_of(bits):
                self.by_row[r] |= 1 << c
        self.all_paid: BitSet = (1 << self.paid) - 1

    def reduce(self, rows: BitSet, cols: BitSet) -> Remaining:
        """Drop what some best cover does without, take what it must have, until nothing changes."""
        chosen: list[int] = []
        essential: list[int] = []
        while True:
            before = rows, cols
            for c in members_of(cols):
                # A column that another one beats: exchanged for that one, a best cover remains one.
                bits = self.sets[c] & rows
                if not bits or self._beaten(c, bits, rows, cols):
                    cols ^= 1 << c
            for r in members_of(rows):
                if not rows >> r & 1:  # covered or dropped since the loop began
                    continue
                mine = self.by_row[r] & cols
                if _single(mine) and mine & self.all_paid:
                    # The row's only column: every cover contains it. (Were it free, the row would
                    # prove no cost of 1.)
                    c = _lowest(mine)
                    chosen.append(c)
                    essential.append(r)
                    rows &= ~self.sets[c]
                    cols &= ~(1 << c)
                    continue
                # Rows that all of this row's columns contain are covered with it: drop them.
                common = rows
                for c in members_of(mine):
                    common &= self.sets[c]
                    if common == 1 << r:
                        break
                rows &= ~common | 1 << r
            for c in members_of(cols & ~self.all_paid):
                if (
                    self.clash[c] & cols == 1 << c
                ):  # free and without rival for its resources: costs nothing to take
                    chosen.append(c)
                    rows &= ~self.sets[c]
                    cols &= ~(1 << c)
            if (rows, cols) == before:
                return Remaining(rows, cols, chosen, essential)

    def _beaten(self, c: int, bits: BitSet, rows: BitSet, cols: BitSet) -> bool:
        """Whether another column covers as much and costs (or uses) no more."""
        alike = self.all_paid if c < self.paid else ~self.all_paid
        rivals = cols & alike & ~(1 << c)
        for r in members_of(bits):
            rivals &= self.by_row[r]
            if not rivals:
                return False
        # Of columns that are equal in all that counts the first one stays: two may not beat each
        # other.
        if c < self.paid:
            return any(self.sets[d] & rows != bits or d < c for d in members_of(rivals))
        used = self.members[c]
        for d in members_of(rivals):
            other = self.members[d]
            if other < used or (other == used and (self.sets[d] & rows != bits or d < c)):
                return True
        return False

    def split(self, rows: BitSet, cols: BitSet) -> list[Part]:
        """Connected parts, by lowest row; free columns that compete for a resource belong together."""
        parts = []
        while rows:
            part, mine, front = 0, 0, 1 << _lowest(rows)
            while front:
                part |= front
                new = 0
                for r in members_of(front):
                    new |= self.by_row[r] & cols & ~mine
                for c in members_of(new & ~self.all_paid):
                    new |= self.clash[c] & cols & ~mine
                mine |= new
                front = 0
                for c in members_of(new):
                    front |= self.sets[c]
                front &= rows & ~part
            parts.append(Part(part, mine))
            rows &= ~part
        return parts

    def relax(self, rows: BitSet, cols: BitSet, cuts: Sequence[BitSet] = ()) -> Relaxed:
        """The linear relaxation with those odd cuts of an ancestor that still are."""
        left = dict.fromkeys(cut & rows for cut in cuts)  # each once, in order
        return self._linear(rows, cols, [cut for cut in left if _odd(cut)])

    def tighten(
        self, rows: BitSet, cols: BitSet, found: Relaxed, target: int, rounds: int
    ) -> Relaxed:
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

    def _linear(self, rows: BitSet, cols: BitSet, cuts: list[BitSet]) -> Relaxed:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix, vstack

        self.nodes += 1 + cols.bit_count() // HEAVY
        if self.nodes > self.budget:
            raise Exhausted
        matrix, index, resources, cost = self._program(rows, cols)
        bounds = [-np.ones(rows.bit_count()), np.ones(len(resources))]
        if cuts:
            halves = np.empty((len(cuts), len(index)))
            for k, cut in enumerate(cuts):
                halves[k] = [-_half(self.sets[c] & cut) for c in index]
            matrix = vstack([matrix, csr_matrix(halves)], format="csr")
            bounds.append(np.array([-_half(cut) for cut in cuts], dtype=float))
        limits = np.concatenate(bounds)
        found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
        if found.status != OPTIMAL:
            cost, matrix = self._elastic(cost, matrix, limits)
            found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
        if found.status != OPTIMAL:
            raise Exhausted
        marginals = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
        tight = [
            s
            for s, v in zip(cuts, marginals[len(marginals) - len(cuts) :], strict=True)
            if v > 1e-9
        ]
        leaf, bound = self._leaf(rows, cols, marginals, resources, cuts)
        x, rest = np.split(np.asarray(found.x), [len(index)])
        return Relaxed(x, index, float(found.fun), leaf, bound, tight, float(rest.sum()))

    @staticmethod
    def _elastic(cost: Any, matrix: Any, limits: Any) -> tuple[Any, Any]:
        """The program with a column for each row and cut that covers just that, at a price above
        any target.

        Free columns that compete may leave no cover at all. The multipliers of this program then
        prove more than is asked.
        """
        from scipy.sparse import csr_matrix, hstack

        open_ = np.flatnonzero(limits < 0)
        ones = csr_matrix(
            (limits[open_], (open_, np.arange(len(open_)))), shape=(len(limits), len(open_))
        )
        price = float(DEAR * (len(open_) + 1))
        return np.concatenate([cost, np.full(len(open_), price)]), hstack(
            [matrix, ones], format="csr"
        )

    def odd_cuts(self, rows: BitSet, found: Relaxed) -> list[BitSet]:
        """Sets S of an odd number of rows whose inequality sum_c ceil(|c & S| / 2) x_c >= ceil(|S|
        / 2) is violated.

        Gaussian elimination modulo 2 of the columns with the largest values (Koster, Zymolka and
        Kutschka 2009).
        """
        order = [
            k
            for k in np.argsort(-found.x, kind="stable").tolist()
            if INTEGRAL < found.x[k] < 1 - INTEGRAL
        ]
        sets = [self.sets[found.columns[k]] & rows for k in order]
        value = [float(found.x[k]) for k in order]
        slack = {r: -1.0 for r in members_of(rows)}
        for k, c in enumerate(found.columns):
            if found.x[k] > 1e-9:
                for r in members_of(self.sets[c] & rows):
                    slack[r] += float(found.x[k])
        odd = dict.fromkeys(slack, 0)
        for k, bits in enumerate(sets):
            for r in members_of(bits):
                odd[r] |= 1 << k
        # Half the sum of the rows of S misses the cut by (1 - slack - values of its odd columns) /
        # 2: none at a slack of 1.
        table = [Combination(odd[r], 1 << r, slack[r]) for r in slack if slack[r] < 0.999]
        cuts: dict[BitSet, float] = {}
        for k in range(len(order)):
            with_column = [row for row in table if row.odd >> k & 1]
            if not with_column:
                continue
            pivot = min(with_column, key=lambda row: row.slack)
            left = list[Combination]()
            for row in table:
                if row is pivot:
                    continue
                if row.odd >> k & 1:
                    row = self._added(row, pivot, slack)
                    if _odd(row.rows):
                        weight = row.slack + sum(value[j] for j in members_of(row.odd))
                        if weight < 0.99:
                            cuts[row.rows] = weight
                if row.slack < 0.999:
                    left.append(row)
            table = left
        return sorted(cuts, key=lambda cut: (cuts[cut], cut))[:CUTS]

    @staticmethod
    def _added(one: Combination, two: Combination, slack: dict[int, float]) -> Combination:
        """The sum modulo 2: rows that stand in both cancel."""
        rows = one.rows ^ two.rows
        return Combination(one.odd ^ two.odd, rows, sum(slack[r] for r in members_of(rows)))

    def _program(self, rows: BitSet, cols: BitSet) -> Program:
        from scipy.sparse import csr_matrix

        place = {r: k for k, r in enumerate(members_of(rows))}
        index = list(members_of(cols))
        resources: dict[int, int] = {}
        entries: list[tuple[int, int, float]] = []
        for k, c in enumerate(index):
            for r in members_of(self.sets[c] & rows):
                entries.append((place[r], k, -1.0))
            if c >= self.paid and self.clash[c] & cols != 1 << c:
                for u in sorted(self.members[c]):
                    entries.append((len(place) + resources.setdefault(u, len(resources)), k, 1.0))
        i, j, v = zip(*entries, strict=True) if entries else ((), (), ())
        matrix = csr_matrix((v, (i, j)), shape=(len(place) + len(resources), len(index)))
        return Program(
            matrix, index, list(resources), np.array([float(c < self.paid) for c in index])
        )

    def _leaf(
        self, rows: BitSet, cols: BitSet, marginals: Any, resources: list[int], cuts: list[BitSet]
    ) -> tuple[DualWeights, int]:
        """The multipliers in integers, and what they prove.

        By weak duality the weights of rows and cuts, less the prices of resources, bound the cost
        of every cover once no column weighs more than it costs (`scale`, or the prices of its
        resources). Rounding down may break that for a few columns: a larger scale mends a paid one,
        a higher price a free one.
        """
        members = list(members_of(rows))
        ints = [int(x * SCALE) for x in marginals]  # in order: rows, resources, cuts
        y = dict(zip(members, ints, strict=False))
        prices = {u: w for u, w in zip(resources, ints[len(members) :], strict=False)}
        odd = [(s, w) for s, w in zip(cuts, ints[len(ints) - len(cuts) :], strict=True) if w]
        scale = SCALE
        for c in members_of(cols):
            bits = self.sets[c] & rows
            total = sum(y[r] for r in members_of(bits))
            total += sum(w * _half(bits & s) for s, w in odd)
            if c < self.paid:
                scale = max(scale, total)
            else:
                used = sorted(self.members[c])
                short = total - sum(prices.get(u, 0) for u in used)
                if short > 0:
                    prices[used[0]] = prices.get(used[0], 0) + short
        gain = sum(y.values()) + sum(w * _half(s) for s, w in odd) - sum(prices.values())
        named = tuple((self._units(s), w) for s, w in odd)
        weights = {self.names[r]: w for r, w in y.items() if w}
        charged = {u: w for u, w in sorted(prices.items()) if w}
        return DualWeights(weights, charged, named, scale), max(
            0, -(-gain // scale)
        )  # costs are integers: round up

    def propose(self, rows: BitSet, cols: BitSet) -> list[int] | None:
        """A cover by HiGHS's branch and bound, or greedily where it finds none within the budget;
        None where that fails.
        """
        matrix, index, resources, cost = self._program(rows, cols)
        limits = np.concatenate([-np.ones(rows.bit_count()), np.ones(len(resources))])
        x, nodes = cheapest(matrix, limits, cost, 1 + self.budget * HEAVY // (5 * len(cost)))
        self.nodes += 1 + nodes * len(cost) // HEAVY
        if x is None:
            return self._greedy(rows, cols)
        return [c for c, yes in zip(index, x, strict=True) if yes]

    def _greedy(self, rows: BitSet, cols: BitSet) -> list[int] | None:
        """Paid columns, the largest first; None where some row has only free ones."""
        chosen = []
        while rows:
            best = max(
                members_of(cols & self.all_paid),
                key=lambda c: (self.sets[c] & rows).bit_count(),
                default=-1,
            )
            if best < 0 or not self.sets[best] & rows:
                return None
            chosen.append(best)
            rows &= ~self.sets[best]
        return chosen

    def cost(self, chosen: Sequence[int]) -> int:
        return sum(c < self.paid for c in chosen)

    def best(self, rows: BitSet, cols: BitSet) -> Covered:
        alive = cols
        rows, cols, chosen, essential = self.reduce(rows, cols)
        parts, lower = self._trunk(essential)
        complete = True
        for part in self.split(rows, cols):
            found = self._part(*part, alive)
            complete &= found.chosen is not None
            chosen += found.chosen or []
            lower += found.bound
            parts.append((self._units(part.rows), found.tree))
        if not complete:
            return Covered(None, lower, _joined(parts))
        return Covered(chosen, lower, _joined(parts))

    def _part(self, rows: BitSet, cols: BitSet, alive: BitSet) -> Covered:
        chosen: list[int] | None
        try:
            found = self.relax(rows, cols)
        except Exhausted:
            return Covered(self._greedy(rows, cols), *self._counted(rows, cols))
        chosen = [c for c, value in zip(found.columns, found.x, strict=True) if value > 0.5]
        if not found.whole or self.cost(chosen) > found.bound:
            chosen = self.propose(rows, cols)
        target = rows.bit_count() + 1 if chosen is None else self.cost(chosen)
        return Covered(
            chosen, *self.prove(rows, cols, alive & self._touching(rows), target, found, ROUNDS)
        )

    def _counted(self, rows: BitSet, cols: BitSet) -> Proved:
        """Without any budget left: rows no two of which share a column (none that free columns
        touch).
        """
        left, weights = rows, dict[int, int]()
        for c in members_of(cols & ~self.all_paid):
            left &= ~self.sets[c]
        while left:
            r = _lowest(left)
            weights[self.names[r]] = 1
            for c in members_of(self.by_row[r] & cols):
                left &= ~self.sets[c]
        return Proved(len(weights), DualWeights(weights, {}, (), 1))

    def prove(
        self,
        rows: BitSet,
        cols: BitSet,
        alive: BitSet,
        target: int,
        found: Relaxed,
        rounds: int = 2,
    ) -> Proved:
        """A tree that proves `target` or, where the budget ends, less.

        Args:
            alive: columns that a cover may contain here; `cols` are those of them that no other one
                beats.
        """
        try:
            found = self.tighten(rows, cols, found, target, rounds)
        except Exhausted:
            pass
        at_root = Proved(found.bound, found.leaf)
        if found.bound >= target or found.whole:
            return at_root
        # Branch on the column farthest from an integer, large ones first: both sides then change
        # the most.
        sizes = np.array([(self.sets[c] & rows).bit_count() for c in found.columns])
        apart = np.abs(found.x - np.round(found.x))
        pick = found.columns[int(np.argmax(np.where(apart > INTEGRAL, apart * (1 + sizes), -1.0)))]
        price = int(pick < self.paid)
        try:
            inside = self.child(*self.take(pick, rows, alive), target - price, found.cuts)
            outside = self.child(rows, alive & ~(1 << pick), target, found.cuts)
        except Exhausted:
            return at_root
        bound = min(inside.bound + price, outside.bound)
        if bound <= found.bound:  # one leaf proves as much as the tree
            return at_root
        return Proved(
            bound,
            Branch(tuple(sorted(self.members[pick])), pick >= self.paid, inside.tree, outside.tree),
        )

    def take(self, c: int, rows: BitSet, cols: BitSet) -> tuple[BitSet, BitSet]:
        """What remains once column c is taken: a free one excludes those that want its resources."""
        if c >= self.paid:
            cols &= ~self.clash[c]
        return rows & ~self.sets[c], cols & ~(1 << c)

    def child(self, rows: BitSet, cols: BitSet, target: int, cuts: list[BitSet]) -> Proved:
        alive = self._touching(rows) & cols
        rows, cols, _, essential = self.reduce(rows, alive)
        bare = next((r for r in members_of(rows) if not self.by_row[r] & cols), None)
        if bare is not None:  # no column is left for this row: any weight on it is proved
            return Proved(target, DualWeights({self.names[bare]: target}, {}, (), 1))
        parts, lower = self._trunk(essential)
        pieces = [(part, self.relax(part.rows, part.cols, cuts)) for part in self.split(rows, cols)]
        need = target - lower - sum(found.bound for _, found in pieces)
        for part, found in pieces:
            proved = Proved(found.bound, found.leaf)
            if need > 0:
                cover = self.propose(*part) if len(pieces) > 1 else None
                aim = found.bound + need
                if cover is not None:
                    aim = self.cost(cover)  # no bound of this part exceeds it
                proved = self.prove(*part, alive, aim, found)
            need -= proved.bound - found.bound
            lower += proved.bound
            parts.append((self._units(part.rows), proved.tree))
        return Proved(lower, _joined(parts))

    def _touching(self, rows: BitSet) -> int:
        cols = 0
        for r in members_of(rows):
            cols |= self.by_row[r]
        return cols

    def _trunk(self, essential: list[int]) -> tuple[list[tuple[tuple[int, ...], CoverProof]], int]:
        if not essential:
            return [], 0
        units = tuple(sorted(self.names[r] for r in essential))
        return [(units, DualWeights(dict.fromkeys(units, 1), {}, (), 1))], len(units)

    def _units(self, rows: BitSet) -> tuple[int, ...]:
        return tuple(sorted(self.names[r] for r in members_of(rows)))


def _joined(parts: list[tuple[tuple[int, ...], CoverProof]]) -> CoverProof:
    return parts[0][1] if len(parts) == 1 else IndependentParts(tuple(parts))


# Bit sets ----------------------------------------------------------------------------------------------------------


def _bit_set(items: Iterable[int]) -> BitSet:
    bits = 0
    for k in items:
        bits |= 1 << k
    return bits


def _lowest(bits: BitSet) -> int:
    return (bits & -bits).bit_length() - 1


def _single(bits: BitSet) -> bool:
    """Whether there is one member, or none: without its lowest member the set is empty."""
    return bits & (bits - 1) == 0


def _half(bits: BitSet) -> int:
    """ceil(|S| / 2), the coefficients and the right side of an odd cut."""
    return (bits.bit_count() + 1) // 2


def _odd(bits: BitSet) -> bool:
    """Whether a set of rows gives a cut: an even one is the sum of halves, a single one the row
    itself.
    """
    return bits.bit_count() % 2 == 1 and bits.bit_count() > 1


def _sets(matrix: Any) -> list[frozenset[int]]:
    return [frozenset(matrix.indices[a:b].tolist()) for a, b in pairwise(matrix.indptr)]


def solve(cover: Cover, budget: int) -> Answer:
    """A least cover, or bounds where the budget of nodes runs out (linear programs by size, and
    HiGHS's nodes).
    """
    return _searched(cover, budget) if cover.matrix.shape[0] <= FEW else _Pool(cover, budget).best()


class Weights(NamedTuple):
    """A solved linear relaxation: values of columns, weights of rows, prices of resources, and its
    optimum.
    """

    x: Any
    y: Any
    prices: Any
    value: float


def _program(cover: Cover) -> tuple[Any, Any, Any, Ints]:
    """Covers as 0 or 1 for each column: matrix, right sides and costs of an inequality form, and the
    resources behind the last rows.
    """
    from scipy.sparse import vstack

    busy = np.unique(cover.uses.indices).astype(np.intp)
    uses = vstack([cover.paid[:, busy] * 0, cover.uses[:, busy]])
    matrix = vstack([-cover.matrix.T, uses.T], format="csr").astype(np.float64)
    limits = np.concatenate([-np.ones(cover.matrix.shape[1]), np.ones(len(busy))])
    cost = (np.arange(cover.matrix.shape[0]) < cover.paid.shape[0]).astype(np.float64)
    return matrix, limits, cost, busy


def relaxed(cover: Cover) -> Weights | None:
    """The linear relaxation, with a weight for each row and a price for each resource; None where
    HiGHS does not solve it.
    """
    from scipy.optimize import linprog

    matrix, limits, cost, busy = _program(cover)
    found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs-ds")
    if found.status != OPTIMAL:
        return None
    dual = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
    rows = cover.matrix.shape[1]
    prices = np.zeros(cover.uses.shape[1])
    prices[busy] = dual[rows:]
    return Weights(found.x, dual[:rows], prices, float(found.fun))


def proposed(cover: Cover, budget: int) -> list[int] | None:
    """A cover by HiGHS's branch and bound, the best one after some of its nodes."""
    matrix, limits, cost, _ = _program(cover)
    x, _ = cheapest(matrix, limits, cost, 1 + budget * HEAVY // len(cost))
    return None if x is None else np.flatnonzero(x).tolist()


def cheapest(matrix: Any, limits: Any, cost: Any, nodes: int) -> tuple[Mask | None, int]:
    """The best x of zeros and ones with matrix x <= limits that HiGHS finds, None where it finds
    none; and how many nodes that took.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    found = milp(
        cost, integrality=np.ones(len(cost)), bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, -np.inf, limits),
        options={"node_limit": nodes, "mip_rel_gap": 0.0},
    )  # fmt: skip
    return None if found.x is None else found.x > 0.5, int(found.mip_node_count or 0)


def greedy(cover: Cover, rows: Mask) -> list[int] | None:
    """Paid columns that cover some rows, the largest first; None where some row has only free
    columns.
    """
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
    """A cover of cost below `target` or a proof that there is none; more if a cover below `upper`
    may be among few columns.
    """
    bare = np.flatnonzero(np.diff(cover.matrix.tocsc().indptr) == 0)
    if len(bare):
        return Answer(
            None, upper, target, DualWeights({int(cover.rows[bare[0]]): target}, {}, (), 1), 0
        )
    few = cover.matrix.shape[0] <= FEW and upper > target
    if few:
        return _searched(cover, budget)
    return _searched(cover, budget, target)


def dive(cover: Cover, budget: int) -> tuple[list[int] | None, int]:
    """A good cover without a bound (None where none is found), and the nodes spent."""
    pool = _Pool(cover, budget)
    return pool.dive(pool.start()), pool.nodes


def _searched(cover: Cover, budget: int, target: int | None = None) -> Answer:
    """The search on all columns; for a bound of `target` alone, if that is given."""
    search = _Search(cover, budget)
    rows, cols = (1 << len(search.names)) - 1, (1 << len(search.sets)) - 1
    if target is not None:
        try:
            lower, tree = search.child(rows, cols, target, [])
        except Exhausted:
            lower, tree = 0, DualWeights({}, {}, (), 1)
        return Answer(None, target, lower, tree, search.nodes)
    chosen, lower, tree = search.best(rows, cols)
    upper = len(search.names) if chosen is None else search.cost(chosen)
    return Answer(chosen, upper, lower, tree, search.nodes)


class Rounded(NamedTuple):
    """Weights in integers, what they add up to, and how far each column is from weighing what it
    costs.
    """

    leaf: DualWeights
    total: int
    short: Any


class _Pool:
    """For many columns: the linear relaxation with columns generated from the pool, then only what
    its weights leave.
    """

    def __init__(self, cover: Cover, budget: int) -> None:
        self.cover, self.budget, self.nodes = cover, budget, 0
        self.paid, self.count = cover.paid.shape[0], cover.matrix.shape[0]

    def best(self) -> Answer:
        """Covers of cost at most `target - 1` use columns that the weights leave; raise the target
        until one is found.
        """
        every = np.ones(len(self.cover.rows), dtype=bool)
        active = self.start()
        try:
            solved = self._generated(active, every, np.ones(self.count, dtype=bool))
        except Exhausted:
            chosen = greedy(self.cover, every)
            return Answer(chosen, self._cost(chosen), 0, DualWeights({}, {}, (), 1), self.nodes)
        leaf, total, short = self._rounded(solved.y, solved.prices)
        lower, chosen = max(0, -(-total // leaf.scale)), self.dive(active)
        tree: CoverProof = leaf
        while lower < self._cost(chosen) and self.nodes < self.budget:
            columns = np.flatnonzero(total + short <= leaf.scale * lower)
            if len(columns) > MANY:
                break
            found = within(
                self.cover.part(columns), self.budget - self.nodes, lower + 1, self._cost(chosen)
            )
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
        """A cover: take the columns with the largest values, solve and generate again for the rows
        that remain.
        """
        best: list[int] | None = None
        for large in (0.9, 0.6):
            found = self._dive(active.copy(), large)
            if best is None or (found is not None and self._cost(found) < self._cost(best)):
                best = found
        return best

    def _dive(self, active: Mask, large: float) -> list[int] | None:
        waiting, allowed = (
            np.ones(len(self.cover.rows), dtype=bool),
            np.ones(self.count, dtype=bool),
        )
        chosen: list[int] = []
        while waiting.any() and self.nodes < self.budget:
            try:
                x = self._generated(active, waiting, allowed, rounds=2).x
            except Exhausted:
                break
            columns = np.flatnonzero(active & allowed)
            for k in np.argsort(-x, kind="stable")[: np.count_nonzero(x > large) or 1].tolist():
                c = int(columns[k])
                waiting[self.cover.matrix[c].indices] = False
                allowed[c] = False
                if c >= self.paid:
                    allowed[self.paid :] &= (
                        self.cover.uses @ self.cover.uses[c - self.paid].T
                    ).toarray()[:, 0] == 0
                chosen.append(c)
        rest = greedy(self.cover, waiting)
        return None if rest is None else [*chosen, *rest]

    def _generated(self, active: Mask, rows: Mask, allowed: Mask, rounds: int = 10**9) -> Weights:
        """Values, weights and prices of the linear relaxation; columns that the weights ask for
        become active.
        """
        while True:
            found = self._linear(np.flatnonzero(active & allowed), rows)
            short = self._short(found.y, found.prices, 1.0)
            wanted = np.flatnonzero((short < -1e-7) & allowed & ~active)
            rounds -= 1
            if not len(wanted) or not rounds or self.nodes >= self.budget:
                return found
            active[wanted[np.argsort(short[wanted], kind="stable")[:BATCH]]] = True

    def _short(self, y: Any, prices: Any, scale: Any) -> Any:
        return (
            np.concatenate([np.full(self.paid, scale), self.cover.uses @ prices])
            - self.cover.matrix @ y
        )

    def _linear(self, columns: Ints, rows: Mask) -> Weights:
        self.nodes += 1 + len(columns) // HEAVY
        found = relaxed(self.cover.part(columns, rows))
        if found is None:
            raise Exhausted
        y = np.zeros(len(rows))
        y[rows] = found.y
        return found._replace(y=y)

    def _rounded(self, y: Any, prices: Any) -> Rounded:
        """The same in integers: the scale and single prices give way where a column weighs too
        much.
        """
        weights = np.floor(y * SCALE).astype(np.int64)
        prices = np.ceil(prices * SCALE).astype(np.int64)
        scale = max(SCALE, int((self.cover.matrix[: self.paid] @ weights).max(initial=0)))
        short = self._short(weights, prices, scale)
        over = np.flatnonzero(short < 0)
        lift = np.zeros_like(prices)
        np.maximum.at(
            lift, self.cover.uses.indices[self.cover.uses.indptr[over - self.paid]], -short[over]
        )
        prices += lift
        named = {int(u): int(w) for u, w in zip(self.cover.rows, weights, strict=True) if w}
        leaf = DualWeights(
            named, {int(u): int(prices[u]) for u in np.flatnonzero(prices)}, (), scale
        )
        return Rounded(leaf, int(weights.sum() - prices.sum()), self._short(weights, prices, scale))
