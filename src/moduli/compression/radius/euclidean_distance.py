"""How far a network's parameters are from those of rank at most r, in the Euclidean norm.

To one linear subspace the squared distance is a sum over its groups (`Subspace.squared_distance`): the
least over all of them is signed clustering of the rows p_i = (b_i, c_i) with r paid clusters, where a
unit may also become constant at |b_i|^2, and where further clusters are free of charge but for
|sum s_i a_i|^2 / size.

Above: clusters found by moving one unit at a time; the network returned lies on the set, exactly, and
its distance is computed in rationals. Below: best first branch and bound. A node has some closed
groups, whose cost `spent` is final, and one open group. The groups' spread of rows is

    SS(B) = sum over pairs of B of |s_i p_i - s_j p_j|^2 / |B|,

so every member of a group of g >= 2 units has a share of at least (g - 1)/(2 g) >= 1/4 of its least
squared distance to any other unit, up to sign: a unit that is neither paid alone nor in the open group
costs at least

    least_u = min(|b_u|^2, |a_u|^2, least squared distance / 4)

(constant; free and alone; in a group). Unit u that joins an open group B with others, R in all, adds

    SS(B + R) - SS(B) >= (sum over pairs of R of |.|^2 + |B| sum over R of |u - mean B|^2) / (|B| + |R|).

The share of u in it is (half the sum of its squared distances to the rest of R + |B| |u - mean|^2) /
(|B| + |R|), a weighted mean of SS(B + u) - SS(B) = |B| |u - mean|^2 / (|B| + 1) and half of such a
squared distance: so at least the smaller of SS(B + u) - SS(B) and least_u. At most as many units as
paid groups are left cost nothing, and what is below is the sum of the smallest others. Rounding is
subtracted at the end, see `MARGIN`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from itertools import count
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.result import Result
from moduli.compression.exact import reduce
from moduli.kernel.certificate import ball
from moduli.kernel.errors import ArgumentError, CertificateRejected, ShapeError
from moduli.kernel.exact_numbers import Array, above, below, ceiling
from moduli.kernel.network import Network
from moduli.kernel.radius.compatibility import SignedBox

from .subspaces import Parameters, Subspace, squared_difference

SEARCHED = 2048  # hidden units whose pairs are compared
STARTS = 8  # of the search by moves
SWEEPS = 50  # over all units, from each start

# Every number that bounds from below is made of non-negative floats by sums, products and quotients
# of at most n + m + 10 h roundings, but for differences SS(B + u) - SS(B), each off by that share of
# SS(B + u); up to h of them are added, and SS(B) is part of what they are added to. So the sum is
# within h + 2 such shares of the exact one. Underflow takes less than TINY of parameters of size 1.
MARGIN = 2.0**-51
TINY = 2.0**-960
MEET = 1 - 1e-6  # bounds of which one is that share of the other are the same up to rounding


@dataclass(frozen=True, eq=False, repr=False)
class RankDistance(Result):
    """The Euclidean distance of a network's parameters to those of rank at most `rank`.

    Attributes:
        lower, upper: certified bounds. witness: a network of rank at most `rank`, with all its
            parameters together `upper` or less away. subspace: on which it lies.
        nodes: of branch and bound. complete: whether the search ended before its budget; then the
            bounds are the same up to rounding.
    """

    original: Network
    rank: int
    lower: float
    upper: float
    witness: Network
    subspace: Subspace
    nodes: int
    complete: bool
    kind: ClassVar[str] = "rank_distance"

    def check(self) -> bool:
        """Whether the witness is that near and has that rank, in exact arithmetic. The lower bound
        is not checked again.
        """
        if reduce.rank(self.witness).upper > self.rank:
            return False
        far = squared_difference(self.original, self.witness)
        return math.isinf(self.upper) or far <= Fraction(self.upper) ** 2

    @property
    def statement(self) -> str:
        units = f"{self.rank} of {self.original.units} hidden units"
        if self.upper == 0:
            return f"the function itself needs no more than {self.rank} hidden units"
        most = above(self.upper, 6)
        if self.complete:
            return f"parameters that need at most {units} are {most} away, up to rounding"
        least = below(self.lower, 4)
        return f"parameters that need at most {units} are between {least} and {most} away"

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.original)), ("hidden units", f"at most {self.rank}")]

    def facts(self) -> list[tuple[str, str]]:
        digits = 17 if self.complete else 6
        lowest, highest = below(self.lower, digits), above(self.upper, digits)
        return [
            ("distance", f"{lowest} <= . <= {highest}"),
            ("of all parameters", f"{float(np.linalg.norm(self.original.flat())):.6g}"),
            ("nearest found", str(self.subspace)),
            ("nodes", f"{self.nodes}{'' if self.complete else ' (stopped; raise the budget)'}"),
        ]

    def data(self) -> dict[str, Any]:
        groups = {"paid": self.subspace.paid, "free": self.subspace.free}
        return {
            "network": self.original.digest, "rank": self.rank, "lower": self.lower,
            "upper": self.upper, "complete": self.complete, "nodes": self.nodes,
            "constant": list(self.subspace.constant),
            **{name: [[list(part) for part in g] for g in found] for name, found in groups.items()},
            "witness": self.witness.digest, "parameters": self.witness.flat().tolist(),
        }  # fmt: skip


def require_widths(net: Network, widths: tuple[int, int, int]) -> None:
    """Refuse what is no network of these widths whose irreducible forms are minimal."""
    if not isinstance(net, Network):
        raise ArgumentError(f"net is {type(net).__name__}; give a Network, as moduli.load returns")
    try:
        ball(net, 0.0)
    except CertificateRejected as error:
        raise ArgumentError(str(error)) from None
    if net.widths != widths:
        raise ShapeError(f"a network of widths {net.widths} and the parameters of widths {widths}")


@np.errstate(all="ignore")
def nearest_of_rank(
    net: Network, widths: tuple[int, int, int], rank: int, budget: int, seed: int | np.random.Generator
) -> RankDistance:  # fmt: skip
    """The distance of a network to the parameters of rank at most `rank`."""
    require_widths(net, widths)
    own = Subspace.through(net)
    if own.rank <= rank:
        return RankDistance("bounded", net, rank, 0.0, 0.0, net, own, 0, True)
    problem = _Clusters.of(net)
    best = problem.improved(rank, np.random.default_rng(seed))
    lower, nodes, complete = 0.0, 0, False
    if net.units <= SEARCHED:
        found = _search(problem, rank, best, budget)
        best, lower, nodes, complete = found.best, found.lower, found.nodes, found.complete
    subspace = best.subspace(widths)
    witness = subspace.nearest(net)
    upper = _root_up(squared_difference(net, witness))
    lower = min(_unscaled(lower, problem.scale), upper)
    complete = complete and lower >= upper * MEET  # squares may have underflowed
    return RankDistance("bounded", net, rank, lower, upper, witness, subspace, nodes, complete)


def _unscaled(lower: float, scale: float) -> float:
    """At most lower * scale, a power of two: exact in the range of normal floats."""
    value = lower * scale
    if value < 2.0**-1000:
        return 0.0
    return min(value, sys.float_info.max)


def _root_up(square: Fraction) -> float:
    """A float at least the root of a rational, and hardly above it."""
    if not square:
        return 0.0
    shift = 2 * ((square.denominator.bit_length() - square.numerator.bit_length()) // 2 + 60)
    scaled = square * Fraction(2) ** shift
    root = math.isqrt(scaled.numerator // scaled.denominator) + 1
    return ceiling(Fraction(root) / Fraction(2) ** (shift // 2))


class Groups(NamedTuple):
    """A fate for every unit, and the squared distance, in floats."""

    square: float
    constant: tuple[int, ...]
    paid: tuple[SignedBox, ...]
    free: tuple[SignedBox, ...]

    def subspace(self, widths: tuple[int, int, int]) -> Subspace:
        paid, free = (tuple(sorted(map(_standard, groups))) for groups in (self.paid, self.free))
        return Subspace(widths, tuple(sorted(self.constant)), paid, free)


def _standard(group: SignedBox) -> SignedBox:
    """Units in order, the first with sign +."""
    pairs = sorted(zip(*group, strict=True))
    first = pairs[0][1]
    return SignedBox(tuple(u for u, _ in pairs), tuple(int(first * s) for _, s in pairs))


@dataclass
class _Group:
    """A group while units move: sums of its rows and outgoing weights, with signs."""

    members: dict[int, int]
    rows: Array
    outgoing: Array
    paid: bool

    def add(self, p: Array, a: Array, unit: int, sign: int) -> None:
        self.members[unit] = sign
        self.rows = self.rows + sign * p
        self.outgoing = self.outgoing + sign * a

    def drop(self, p: Array, a: Array, unit: int) -> None:
        sign = self.members.pop(unit)
        self.rows = self.rows - sign * p
        self.outgoing = self.outgoing - sign * a


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Rows and outgoing weights of size about 1: those of a network over `scale`, a power of two."""

    rows: Array
    outgoing: Array
    scale: float

    @staticmethod
    def of(net: Network) -> _Clusters:
        rows, outgoing = Parameters.of(net)
        top = max(float(np.abs(part).max(initial=0.0)) for part in (rows, outgoing))
        power = math.frexp(top)[1] if top else 0
        power = min(1000, max(-1000, power))
        return _Clusters(np.ldexp(rows, -power), np.ldexp(outgoing, -power), math.ldexp(1.0, power))

    @property
    def size(self) -> int:
        return len(self.rows)

    def constant(self) -> Array:
        """What making a unit constant costs: ``[h]``."""
        return np.asarray(np.square(self.rows[:, :-1]).sum(axis=1))

    def alone(self) -> Array:
        """What taking a unit's outgoing weights away costs: ``[h]``."""
        return np.asarray(np.square(self.outgoing).sum(axis=1))

    def pairs(self) -> tuple[Array, Array]:
        """|p_i - p_j|^2 and |p_i + p_j|^2, by differences: ``[h, h]`` each."""
        minus, plus = np.empty((self.size,) * 2), np.empty((self.size,) * 2)
        for u, row in enumerate(self.rows):
            minus[u] = np.square(self.rows - row).sum(axis=1)
            plus[u] = np.square(self.rows + row).sum(axis=1)
        return minus, plus

    def square(self, groups: Groups) -> float:
        """The squared distance of some groups, by differences from the means."""
        total = float(self.constant()[list(groups.constant)].sum())
        for units, signs in (*groups.paid, *groups.free):
            same = self.rows[list(units)] * np.array(signs, dtype=float)[:, None]
            if len(units) > 1:
                total += float(np.square(same - same.mean(axis=0)).sum())
        return total + sum(self.charge(group) for group in groups.free)

    def charge(self, group: SignedBox) -> float:
        """|sum s_i a_i|^2 / size; every sum is rounded once."""
        columns = self.outgoing[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
        sums = [math.fsum(column) for column in columns.T.tolist()]
        return sum(x * x for x in sums) / len(group.units)

    # Above: units move one at a time ------------------------------------------------------------

    def improved(self, rank: int, rng: np.random.Generator) -> Groups:
        """The best of several searches by moves."""
        if rank >= self.size:
            units = [SignedBox((u,), (1,)) for u in range(self.size)]
            return Groups(0.0, (), tuple(units), ())
        cheapest = np.minimum(self.constant(), self.alone())
        best: Groups | None = None
        for attempt in range(STARTS if self.size <= 256 else 1):
            order = np.argsort(-cheapest, kind="stable")
            if attempt:
                order = rng.permutation(self.size)
            found = self._moved(rank, order.tolist())
            if best is None or found.square < best.square:
                best = found
        assert best is not None
        return best

    def _moved(self, rank: int, order: list[int]) -> Groups:
        """The first `rank` units open paid groups; each other one goes where it costs least, and
        again, until none moves.
        """
        constant, groups = dict[int, float](), list[_Group]()
        for u in order[:rank]:
            groups.append(_Group({u: 1}, self.rows[u], self.outgoing[u], True))
        for u in order[rank:]:
            self._insert(u, constant, groups, rank)
        for _ in range(SWEEPS):
            changed = False
            for u in order:
                changed |= self._again(u, constant, groups, rank)
            if not changed:
                break
        boxes = [SignedBox(tuple(g.members), tuple(g.members.values())) for g in groups]
        paid = tuple(b for b, g in zip(boxes, groups, strict=True) if g.paid)
        free = tuple(b for b, g in zip(boxes, groups, strict=True) if not g.paid)
        found = Groups(0.0, tuple(constant), paid, free)
        return found._replace(square=self.square(found))

    def _again(
        self, unit: int, constant: dict[int, float], groups: list[_Group], rank: int
    ) -> bool:
        """Take a unit out and put it where it costs least; whether that is a better place."""
        before = 0.0
        home: _Group | None = None
        if unit in constant:
            before = constant.pop(unit)
        else:
            home = next(g for g in groups if unit in g.members)
            sign = home.members[unit]
            home.drop(self.rows[unit], self.outgoing[unit], unit)
            if home.members:
                before = float(self._prices(unit, [home], sign)[0])
            else:
                groups.remove(home)
                before = 0.0 if home.paid else float(np.square(self.outgoing[unit]).sum())
        after = self._insert(unit, constant, groups, rank)
        return after < before * (1 - 1e-9) - 1e-300

    def _prices(self, unit: int, groups: list[_Group], sign: int) -> Array:
        """What a unit adds to the squared distance in each group."""
        size = np.array([len(g.members) for g in groups], dtype=float)
        sums = np.array([g.rows for g in groups])
        gap = np.square(sums / size[:, None] - sign * self.rows[unit]).sum(axis=1)
        price = gap * size / (size + 1)
        own = np.array([g.outgoing for g in groups])
        charged = np.square(own + sign * self.outgoing[unit]).sum(axis=1) / (size + 1)
        charged -= np.square(own).sum(axis=1) / size
        free = np.array([not g.paid for g in groups])
        return np.asarray(price + np.where(free, charged, 0.0))

    def _insert(
        self, unit: int, constant: dict[int, float], groups: list[_Group], rank: int
    ) -> float:
        p, a = self.rows[unit], self.outgoing[unit]
        opens = sum(g.paid for g in groups) < rank
        alone = 0.0 if opens else float(np.square(a).sum())
        still = float(np.square(p[:-1]).sum())
        best, where, sign = min((alone, -1, 1), (still, -2, 1))
        if groups and best > 0:
            for s in (1, -1):
                prices = self._prices(unit, groups, s)
                at = int(prices.argmin())
                if prices[at] < best:
                    best, where, sign = float(prices[at]), at, s
        if where == -2:
            constant[unit] = still
        elif where == -1:
            groups.append(_Group({unit: 1}, p, a, opens))
        else:
            groups[where].add(p, a, unit, sign)
        return best


# Below: branch and bound --------------------------------------------------------------------------


class Searched(NamedTuple):
    """The best groups known, a bound of the distance from below, nodes spent, whether all are done."""

    best: Groups
    lower: float
    nodes: int
    complete: bool


class _Closed(NamedTuple):
    """Groups that are closed, newest first."""

    kind: str
    group: SignedBox
    earlier: _Closed | None


class _Node(NamedTuple):
    """Some units have their fates.

    Attributes:
        spent: what the closed groups cost. left: paid groups that may still be opened. rest: units
            without a closed fate, in the order of the search, those of the open group among them.
        units, signs, spread: the open group and SS of it. bounded: whether the node's key is its
            full bound.
    """

    spent: float
    left: int
    rest: tuple[int, ...]
    units: tuple[int, ...]
    signs: tuple[int, ...]
    spread: float
    closed: _Closed | None
    bounded: bool


def _search(problem: _Clusters, rank: int, best: Groups, budget: int) -> Searched:
    """Best first: the least key on the heap bounds all that is not done."""
    bounds = _Bounds(problem)
    order = np.argsort(-bounds.least, kind="stable").tolist()
    number = count()
    heap: list[tuple[float, int, _Node]] = []
    heappush(heap, (0.0, next(number), _Node(0.0, rank, tuple(order), (), (), 0.0, None, False)))
    nodes = 0
    while heap and heap[0][0] < best.square and nodes < budget:
        key, _, node = heappop(heap)
        nodes += 1
        if not node.bounded:
            full = max(key, bounds.of(node))
            heappush(heap, (full, next(number), node._replace(bounded=True)))
            continue
        if not node.units and len(node.rest) <= node.left:
            found = _groups(node)
            found = found._replace(square=problem.square(found))
            best = min(best, found, key=lambda groups: groups.square)
            continue
        for spent, child in bounds.children(node):
            if max(key, spent) < best.square:
                heappush(heap, (max(key, spent), next(number), child))
    complete = not heap or heap[0][0] >= best.square
    lowest = best.square if complete else heap[0][0]
    n, h, m = problem.rows.shape[1], problem.size, problem.outgoing.shape[1]
    lowest -= (h + 2) * (n + m + 10 * h + 20) * MARGIN * lowest + TINY
    root = math.sqrt(max(0.0, lowest)) * (1 - 2.0**-51)
    return Searched(best, root, nodes, complete)


def _groups(node: _Node) -> Groups:
    found: dict[str, list[Any]] = {"constant": [], "paid": [], "free": []}
    closed = node.closed
    while closed is not None:
        found[closed.kind].append(closed.group)
        closed = closed.earlier
    found["paid"] += [SignedBox((u,), (1,)) for u in node.rest]
    constant = tuple(group.units[0] for group in found["constant"])
    return Groups(0.0, constant, tuple(found["paid"]), tuple(found["free"]))


class _Bounds:
    """What nodes cost at least, and their children."""

    def __init__(self, problem: _Clusters) -> None:
        self.problem = problem
        self.minus, self.plus = problem.pairs()
        self.still = problem.constant()
        near = np.minimum(self.minus, self.plus)
        np.fill_diagonal(near, np.inf)
        together = near.min(axis=1, initial=np.inf) / 4
        self.least = np.minimum(np.minimum(self.still, problem.alone()), together)

    def _joining(self, node: _Node, rest: Any) -> tuple[Array, Array]:
        """SS of the open group with each of some units, with sign + and -."""
        size = len(node.units)
        one, two = np.zeros(len(rest)), np.zeros(len(rest))
        for unit, sign in zip(node.units, node.signs, strict=True):
            same, other = self.minus[unit, rest], self.plus[unit, rest]
            one += same if sign > 0 else other
            two += other if sign > 0 else same
        return (
            (size * node.spread + one) / (size + 1),
            (size * node.spread + two) / (size + 1),
        )

    def of(self, node: _Node) -> float:
        """At least what any completion of a node costs."""
        inside = set(node.units)
        rest = [u for u in node.rest if u not in inside]
        each = self.least[rest]
        if node.units and rest:
            plus, minus = self._joining(node, rest)
            each = np.minimum(each, np.maximum(0.0, np.minimum(plus, minus) - node.spread))
        needed = len(rest) - node.left
        fewest = float(np.sort(each)[:needed].sum()) if needed > 0 else 0.0
        return node.spent + node.spread + fewest

    def children(self, node: _Node) -> Iterator[tuple[float, _Node]]:
        """What is spent at least, and the node."""
        if not node.units:
            first, others = node.rest[0], node.rest[1:]
            yield node.spent, node._replace(units=(first,), signs=(1,), bounded=False)
            spent = node.spent + float(self.still[first])
            closed = _Closed("constant", SignedBox((first,), (1,)), node.closed)
            yield spent, node._replace(spent=spent, rest=others, closed=closed, bounded=False)
            return
        group, inside = SignedBox(node.units, node.signs), set(node.units)
        rest = tuple(u for u in node.rest if u not in inside)
        spent = node.spent + node.spread
        if node.left:
            closed = _Closed("paid", group, node.closed)
            yield spent, _Node(spent, node.left - 1, rest, (), (), 0.0, closed, False)
        charged = spent + self.problem.charge(group)
        closed = _Closed("free", group, node.closed)
        yield charged, _Node(charged, node.left, rest, (), (), 0.0, closed, False)
        # Each group is built once: its members join in the order of the search.
        later = node.rest[node.rest.index(node.units[-1]) + 1 :]
        if not later:
            return
        for sign, spreads in zip((1, -1), self._joining(node, list(later)), strict=True):
            for unit, spread in zip(later, spreads.tolist(), strict=True):
                joined = node._replace(
                    units=(*node.units, unit), signs=(*node.signs, sign), spread=spread, bounded=False
                )  # fmt: skip
                yield node.spent + spread, joined
