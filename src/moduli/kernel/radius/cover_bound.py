"""The kernel of proximate rank: what changing every parameter by at most a radius can do, and the
check of such claims.

One hidden layer with incoming rows p_i = (w_i, b_i) and outgoing columns a_i; closed ball of radius
r in the largest norm. A *signed box* is a set of units with signs s_i such that every coordinate of
s_i p_i spreads by at most 2r. Then

    least rank in the ball = least number of *paid* groups,

where some units with |w_i| <= r are constant, all others lie in one group each, every group is a
signed box, and a group is *free* instead of paid where |sum s_i a_i| <= r * size in every output.
(Move constants to w = 0, groups to a common row, outgoing weights of free groups to sum zero: at
most that many units remain. Conversely the classes of any parameter in the ball are such groups.)
So, with *optional* units (constant-able, or |a_i| <= r: free alone) set aside:

- paid groups need to cover the required units, and overlaps do no harm: maximal boxes suffice;
- pairwise compatible units form a box (intervals have the Helly property): boxes are cliques;
- every unit, optional ones too, lies in at most one free group.

A lower bound is a tree of weights on that covering problem, see `Bound`. The checker finds all
boxes and free groups that meet the weighted units by itself, in exact comparisons of floats. Where
the tree begins with weights alone (a leaf, or a sieve), it finds those that could refute them or
that the sieve keeps, and no others: a branch of the search is left when what may still be added
brings neither the weight nor the sums of outgoing weights to where they have to be (`listed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel import arithmetic, fields
from moduli.kernel.errors import BudgetExhausted, CertificateRejected
from moduli.kernel.exact_numbers import ExactArray

from .compatibility import (
    DualWeights,
    Effort,
    Ints,
    Mask,
    ParameterBall,
    at_most,
    incidence,
    listed,
    require_radius,
)

# Lower bounds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """A box (or free group) is in the cover, or it is not."""

    units: tuple[int, ...]
    free: bool
    inside: CoverProof
    outside: CoverProof


@dataclass(frozen=True)
class ReducedCostFilter:
    """Any cover with a box or free group that weighs too little under the leaf costs `target` or
    more: leave those out.
    """

    leaf: DualWeights
    target: int
    rest: CoverProof


@dataclass(frozen=True)
class IndependentParts:
    """Parts that no box and no free group joins; their bounds add up."""

    parts: tuple[tuple[tuple[int, ...], CoverProof], ...]


CoverProof = DualWeights | Branch | ReducedCostFilter | IndependentParts


def leading(tree: CoverProof) -> DualWeights | None:
    """The leaf that a tree begins with, if that decides which columns the checker enumerates."""
    leaf = tree.leaf if isinstance(tree, ReducedCostFilter) else tree
    return leaf if isinstance(leaf, DualWeights) and not leaf.odd else None


@dataclass(frozen=True)
class Bound:
    """A proof that no parameter in a ball has rank below `lower`.

    Attributes:
        parts: required units and a tree each. The units of different parts are nowhere compatible,
            so bounds add up.
    """

    lower: int
    parts: tuple[tuple[tuple[int, ...], CoverProof], ...]

    def verify(self, ball: ParameterBall, limit: int = 10**7, effort: Effort | None = None) -> None:
        """Raise `CertificateRejected` unless the parts prove `lower` for this ball.

        Args:
            limit: search nodes for the boxes of one part, and for the free groups of one unit.
                effort: for all of them.
        """
        arithmetic.require()
        with fields.made_by_hand("lower bound"):
            claim = Bound.from_json(self.plain())
        # what else the ball holds (compatible pairs, freeable units) is found anew
        ball = ParameterBall(ball.rows, ball.outgoing, ball.radius, ball.signed)
        label = np.full(ball.size, -1, dtype=np.intp)
        for number, (units, _) in enumerate(claim.parts):
            inside = np.array(units, dtype=np.intp)
            _demand(
                len(inside) > 0 and inside.min() >= 0 and inside.max() < ball.size,
                f"part {number} names unknown units",
            )
            _demand(
                bool((label[inside] == -1).all()) and len(set(units)) == len(units),
                f"part {number} names a unit twice",
            )
            _demand(
                np.isin(inside, ball.required).all(),
                f"part {number} names a unit that can be constant or null",
            )
            label[inside] = number
        one = np.repeat(np.arange(ball.size), ball.graph.degree)
        joined = (
            (label[one] >= 0)
            & (label[ball.graph.other] >= 0)
            & (label[one] != label[ball.graph.other])
        )
        _demand(not joined.any(), "two parts have compatible units")
        total = sum(
            _Part(ball, units, limit, tree, effort).bound(tree) for units, tree in claim.parts
        )
        _demand(
            total >= claim.lower,
            f"at least {claim.lower} units are claimed, at least {total} are proved",
        )

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        return {
            "lower": self.lower,
            "parts": [[units, _tree_fields(tree)] for units, tree in self.parts],
        }

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Bound:
        read = fields.record(data, ("lower", "parts"), "a lower bound")
        return Bound(_count(read["lower"]), _parts_from(read["parts"]))


class _Part:
    """The covering problem of some units, enumerated by the checker, and what a tree proves of it.

    Where the tree begins with a leaf or a sieve (without odd sets), only columns that its proof is
    about are enumerated: those that weigh too much, which refute it, and those that a sieve does
    not leave out. Rows of `matrix` are boxes, then free groups; columns the units to cover. `uses`
    has the units of free groups.
    """

    def __init__(
        self, ball: ParameterBall, units: tuple[int, ...], limit: int, tree: CoverProof,
        effort: Effort | None = None,
    ) -> None:  # fmt: skip
        from scipy.sparse import vstack

        rows = np.array(sorted(units), dtype=np.intp)
        self.units, self.place = units, np.full(ball.size, -1, dtype=np.intp)
        self.place[rows] = np.arange(len(rows))
        self.outputs = ball.outgoing.shape[1]
        boxes, free, given_up = listed(ball, rows, limit, limit, self._priced(tree), effort=effort)
        if given_up:
            raise BudgetExhausted(
                f"the free groups of unit {given_up[0]} take more than {limit} search nodes"
            )
        self.uses = abs(free).astype(np.int64)
        self.matrix = vstack([incidence(boxes, ball.size), self.uses], format="csr")[:, rows]
        self.paid = len(boxes)
        self.index = {frozenset(g.units): k for k, g in enumerate(boxes)}

    def _priced(self, tree: CoverProof) -> tuple[DualWeights, int] | None:
        """The leaf that decides which columns are enumerated, and their largest reduced cost."""
        leaf = leading(tree)
        if leaf is None:
            return None
        target = tree.target if isinstance(tree, ReducedCostFilter) else 0
        self._require_sane(leaf, target)
        for unit, rows in leaf.guides:
            right = len(rows) == 2 and all(len(row) == 2 * self.outputs for row in rows)
            _demand(right, f"unit {unit} needs two rows of {2 * self.outputs} multipliers")
        for unit in leaf.weights:
            known = 0 <= unit < len(self.place) and self.place[unit] >= 0
            _demand(known, f"unit {unit} has a weight but needs no cover here")
        return leaf, max(-1, leaf.scale * (target - 1) - leaf.total)

    def _require_sane(self, leaf: DualWeights, target: int) -> None:
        _demand(0 < leaf.scale < 2**62 and target < 2**31, "a scale is not positive, or too large")
        numbers = [*leaf.weights.values(), *leaf.prices.values(), *(w for _, w in leaf.odd)]
        _demand(min(numbers, default=0) >= 0, "a weight is negative")
        size = sum(leaf.weights.values()) + sum(leaf.prices.values())
        size += sum(w * (len(members) + 1) for members, w in leaf.odd)
        _demand(size + leaf.scale * (target + 1) < 2**62, "weights are too large")
        for (
            members,
            _,
        ) in leaf.odd:  # `total` counts members, the columns below count different ones
            _demand(
                len(set(members)) == len(members),
                f"an odd set names a unit twice: {str(list(members))[:60]}",
            )
        for unit in leaf.prices:
            _demand(0 <= unit < len(self.place), f"unit {unit} has a price but is unknown")

    def pick(self, tree: Branch) -> int:
        """The row of the matrix that a branch is about."""
        if tree.free:
            wanted = np.zeros(self.uses.shape[1], dtype=np.int64)
            wanted[[u for u in tree.units if u < len(wanted)]] = 1
            size = np.diff(self.uses.indptr)
            hits = np.flatnonzero(
                (self.uses @ wanted == len(tree.units)) & (size == len(tree.units))
            )
            found = self.paid + int(hits[0]) if len(hits) else -1
        else:
            found = self.index.get(frozenset(tree.units), -1)
        _demand(
            found >= 0,
            f"a tree branches on units {list(tree.units)[:8]}, which are no box or free group here",
        )
        return found

    def bound(self, tree: CoverProof) -> int:
        return self._bound(
            tree, np.ones(len(self.units), dtype=bool), np.ones(self.matrix.shape[0], dtype=bool)
        )

    def _bound(self, tree: CoverProof, rows: Mask, columns: Mask) -> int:
        if isinstance(tree, DualWeights):
            return self._leaf(tree, rows, columns)[0]
        if isinstance(tree, IndependentParts):
            return self._sum(tree, rows, columns)
        if isinstance(tree, ReducedCostFilter):
            _, keep = self._leaf(tree.leaf, rows, columns, tree.target)
            return min(tree.target, self._bound(tree.rest, rows, columns & keep))
        pick = self.pick(tree)
        left = rows.copy()
        left[self.matrix[pick].indices] = False
        without = columns.copy()
        without[pick] = False
        with_ = without.copy()
        if tree.free:
            clash = np.asarray((self.uses @ self.uses[pick - self.paid].T).todense()).ravel() > 0
            with_[self.paid :] &= ~clash
        inside = self._bound(tree.inside, left, with_) + (not tree.free)
        return min(inside, self._bound(tree.outside, rows, without))

    def _leaf(
        self, leaf: DualWeights, rows: Mask, columns: Mask, target: int = 0
    ) -> tuple[int, Mask]:
        """What weights prove, and the columns that covers of cost below `target` may contain."""
        self._require_sane(leaf, target)
        weights, total = self._vector(leaf.weights, rows), leaf.total
        price = np.zeros(len(self.place), dtype=np.int64)
        price[list(leaf.prices)] = list(leaf.prices.values())
        short = (
            np.concatenate([np.full(self.paid, leaf.scale, dtype=np.int64), self.uses @ price])
            - self.matrix @ weights
        )
        for members, w in leaf.odd:
            short -= w * ((self.matrix @ self._vector(dict.fromkeys(members, 1), rows) + 1) // 2)
        _demand(
            bool((short[: self.paid] >= 0)[columns[: self.paid]].all()), "a box weighs too much"
        )
        _demand(
            bool((short[self.paid :] >= 0)[columns[self.paid :]].all()),
            "a free group weighs more than its price",
        )
        return max(0, -(-total // leaf.scale)), total + short <= leaf.scale * (target - 1)

    def _vector(self, weights: dict[int, int], rows: Mask) -> np.ndarray[Any, np.dtype[np.int64]]:
        out = np.zeros(len(self.units), dtype=np.int64)
        for unit, w in weights.items():
            known = (
                0 <= unit < len(self.place)
                and self.place[unit] >= 0
                and bool(rows[self.place[unit]])
            )
            _demand(known, f"unit {unit} has a weight but needs no cover here")
            out[self.place[unit]] = w
        return out

    def _sum(self, tree: IndependentParts, rows: Mask, columns: Mask) -> int:
        label = np.zeros(len(self.units), dtype=np.int64)
        for number, (units, _) in enumerate(tree.parts, 1):
            inside = self._vector(dict.fromkeys(units, 1), rows) > 0
            _demand(not label[inside].any(), "two parts of a sum share a unit")
            label[inside] = number
        # The labels of the n units of a column, zeros aside, are equal if and only if (sum of
        # labels)^2 = n (sum of squares): Cauchy and Schwarz's inequality, with equality for
        # multiples of (1, ..., 1) only. All are small integers.
        count = (self.matrix @ (label > 0).astype(np.int64))[columns]
        labels, squares = (self.matrix @ label)[columns], (self.matrix @ label**2)[columns]
        _demand(bool((labels**2 == count * squares).all()), "a box joins two parts of a sum")
        return sum(
            self._bound(sub, rows & (label == number), columns)
            for number, (_, sub) in enumerate(tree.parts, 1)
        )


@dataclass(frozen=True, eq=False)
class Change:
    """New values of some parameters of a layer (counted from 1): part ``weight`` or ``bias``,
    places in row-major order.
    """

    layer: int
    part: str
    at: Ints
    to: ExactArray

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again: what is no float is a rational."""
        values: list[Any] = self.to.hi.tolist()
        for k in np.flatnonzero(self.to.lo).tolist() if self.to.lo is not None else []:
            values[k] = self.to.get((k,))
        for (k,), number in self.to.rest.items():
            values[k] = number
        return {"layer": self.layer, "part": self.part, "at": self.at, "to": values}

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Change:
        """Strict: unknown or missing fields, other types, numbers that are not finite are refused."""
        read = fields.record(data, ("layer", "part", "at", "to"), "a change")
        part, at = (
            fields.text(read["part"], "part of a change"),
            fields.indices(read["at"], "places of a change"),
        )
        values = fields.items(read["to"], "values of a change")
        _demand(part in ("weight", "bias"), f"{part[:40]!r} is neither weight nor bias")
        _demand(
            len(at) == len(values),
            f"a change has {len(at)} places and {len(values)} values; each place needs one",
        )
        to = ExactArray(np.zeros(len(values)))
        for k, x in enumerate(values):
            if type(x) in (int, float):
                to.hi[k] = fields.real(x, "value of a change")
            else:
                to.put((k,), fields.rational(x, "value of a change"))
        return Change(_count(read["layer"]), part, at, to)

    def apply(self, array: ExactArray, radius: float) -> None:
        """Set the entries, after checking that each moves by at most `radius`."""
        _demand(
            len(self.at) == 0 or self.at.max() < array.hi.size,
            f"layer {self.layer} has no {self.part} {self.at.max()}",
        )
        _demand(
            len(np.unique(self.at)) == len(self.at),
            f"a {self.part} of layer {self.layer} changes twice",
        )
        at = np.unravel_index(self.at, array.hi.shape)
        old = array.hi[at]
        near = at_most(self.to.hi, old, radius) & at_most(old, self.to.hi, radius)
        exact = {k for (k,) in self.to.rest} | (
            set(np.flatnonzero(self.to.lo).tolist()) if self.to.lo is not None else set()
        )
        for k in sorted(exact):
            number = self.to.get((k,))
            assert isinstance(number, Fraction)
            near[k] = abs(number - Fraction(float(old[k]))) <= Fraction(radius)
        if not near.all():
            k = int(np.argmin(near))
            _demand(
                False,
                f"{self.part} {self.at[k]} of layer {self.layer} moves from {old[k]} to {self.to.hi[k]}, beyond {radius}",
            )
        array.write(at, self.to.hi, 0.0)
        for k in sorted(exact):
            array.put(tuple(int(axis[k]) for axis in at), self.to.get((k,)))


@dataclass(frozen=True)
class Near:
    """What a certificate says of the parameters within `radius` of its large network.

    Attributes:
        changes: from the large network to a parameter in the ball, where the moves start.
        bound: a lower bound of the rank of every parameter in the ball, or None (only for one
            hidden layer).
    """

    radius: float
    changes: tuple[Change, ...] = ()
    bound: Bound | None = None

    def __post_init__(self) -> None:
        require_radius(self.radius)

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        bound = None if self.bound is None else self.bound.plain()
        return {"radius": self.radius, "changes": [c.plain() for c in self.changes], "bound": bound}

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Near:
        """Strict: unknown or missing fields and other types are refused."""
        read = fields.record(data, ("radius", "changes", "bound"), "near")
        radius = fields.real(read["radius"], "radius", least=0.0)
        _demand(radius < 2.0**1000, f"radius {radius} is not below 2^1000")
        bound = None if read["bound"] is None else Bound.from_json(read["bound"])
        return Near(
            radius, tuple(map(Change.from_json, fields.items(read["changes"], "changes"))), bound
        )


def _demand(holds: Any, claim: str) -> None:
    if not holds:
        raise CertificateRejected(f"within the radius: {claim}")


def _tree_fields(tree: CoverProof) -> dict[str, Any]:
    if isinstance(tree, DualWeights):
        out = {
            "weights": list(tree.weights.items()), "prices": list(tree.prices.items()),
            "odd": tree.odd, "scale": tree.scale,
        }  # fmt: skip
        return {**out, "guides": tree.guides} if tree.guides else out
    if isinstance(tree, IndependentParts):
        return {"sum": [[units, _tree_fields(sub)] for units, sub in tree.parts]}
    if isinstance(tree, ReducedCostFilter):
        return {
            "leaf": _tree_fields(tree.leaf),
            "target": tree.target,
            "rest": _tree_fields(tree.rest),
        }
    inside, outside = _tree_fields(tree.inside), _tree_fields(tree.outside)
    return {"units": tree.units, "free": tree.free, "inside": inside, "outside": outside}


def _tree_from(data: Any) -> CoverProof:
    names = set(data) if type(data) is dict else set()
    if "sum" in names:
        return IndependentParts(_parts_from(fields.record(data, ("sum",), "a sum")["sum"]))
    if "scale" in names:
        read = fields.record(
            data, ("weights", "prices", "odd", "scale"), "a leaf", maybe=("guides",)
        )
        odd = tuple((_units_from(u), _count(w)) for u, w in fields.pairs(read["odd"], "odd sets"))
        guides = _guides_from(read.get("guides", []))
        return DualWeights(
            _counts_from(read["weights"]), _counts_from(read["prices"]), odd, _count(read["scale"]),
            guides,
        )  # fmt: skip
    if "target" in names:
        read = fields.record(data, ("leaf", "target", "rest"), "a sieve")
        leaf = _tree_from(read["leaf"])
        if not isinstance(leaf, DualWeights):
            raise CertificateRejected("within the radius: a sieve needs a leaf")
        return ReducedCostFilter(leaf, _count(read["target"]), _tree_from(read["rest"]))
    read = fields.record(data, ("units", "free", "inside", "outside"), "a branch")
    free = fields.flag(read["free"], "free of a branch")
    return Branch(
        _units_from(read["units"]), free, _tree_from(read["inside"]), _tree_from(read["outside"])
    )


def _parts_from(data: Any) -> tuple[tuple[tuple[int, ...], CoverProof], ...]:
    return tuple(
        (_units_from(units), _tree_from(tree)) for units, tree in fields.pairs(data, "parts")
    )


def _guides_from(data: Any) -> tuple[tuple[int, tuple[tuple[float, ...], ...]], ...]:
    given = fields.pairs(data, "guides")
    return tuple(
        (_count(unit), tuple(map(_multipliers_from, fields.items(rows, "guides of a unit"))))
        for unit, rows in given
    )


def _multipliers_from(row: Any) -> tuple[float, ...]:
    return tuple(
        fields.real(x, "a multiplier", least=0.0) for x in fields.items(row, "multipliers")
    )


def _counts_from(data: Any) -> dict[int, int]:
    given = fields.pairs(data, "weights")
    out = {_count(unit): _count(weight) for unit, weight in given}
    _demand(len(out) == len(given), "a unit has two weights")
    return out


def _units_from(data: Any) -> tuple[int, ...]:
    return fields.units(data, "units of a part or set")


def _count(x: Any) -> int:
    return fields.whole(x, 0, 2**40 - 1, "a number within the radius")
