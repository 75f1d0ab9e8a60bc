"""Match the units of one graph with those of another of the same architecture: the search.

One set of units at a time, the assignment that maximises the inner product of all stored tensors that
have them, signs with it, until nothing grows (weight matching, Ainsworth et al. 2023). Scales that
are free are removed first: what a gauge multiplies first gets norm 1, unit by unit. Each tensor counts
as its entries do, whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.graph.model import GraphModel

from .alignment import GAIN, SWEEPS, TIE, assign
from .graph_order import in_order_of_use
from .graph_scales import Gauge, multiply, normal_numbers
from .graph_units import Exchangeable, UnitSets

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
ALIGNED = 4  # times that the signs of a pair of units are looked at again


class Role(NamedTuple):
    """Units along an axis of a tensor: the number of their set, and the indices of each member."""

    axis: int
    which: int
    indices: Ints  # [member, its indices]


class Matching(NamedTuple):
    """For each set the former member that comes to each place, for coordinates of a head those of the
    head that is there then; for each gauge of signs the sign of what is there.
    """

    orders: Mapping[int, Ints]
    signs: Mapping[int, Array]


@dataclass
class Problem:
    """Two graphs of one architecture as tensors without free scales.

    Attributes:
        parts: sets of units. gauges: of them. left, right: stored tensors by the names of the first.
        roles: of each tensor. scales: for each gauge of sizes the numbers that both were multiplied by.
        weights: by which inner products of each tensor are multiplied: its entries have mean square 1
            then. touched: for each set the tensors and roles that it has. set_of: the number of the set of
            each gauge. inside: for each set of heads, and kind of coordinates, the sets of these, head
            by head. preferred: of sets whose order something else than stored numbers says, the gain of each
            pair, ``[of b, of a]``; stored numbers decide between pairs that are as good, and signs.
    """

    parts: Sequence[Exchangeable]
    gauges: Sequence[Gauge]
    left: dict[str, Array]
    right: dict[str, Array]
    roles: dict[str, list[Role]] = field(default_factory=dict)
    scales: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    touched: dict[int, list[tuple[str, Role]]] = field(default_factory=dict)
    set_of: list[int] = field(default_factory=list)
    inside: dict[int, dict[int, dict[int, int]]] = field(default_factory=dict)
    preferred: dict[int, Array] = field(default_factory=dict)

    @staticmethod
    def of(sets: UnitSets, b: GraphModel, gauges: Sequence[Gauge]) -> Problem:
        """`b` has the stored tensors of the other graph under the names of the first."""
        a, parts = sets.graph, sets.sets
        names = [
            name for name in in_order_of_use(a)
            if all(holds_floats(m.constants[name]) for m in (a, b))
        ]  # fmt: skip
        left, right = ({name: wide(model, name) for name in names} for model in (a, b))
        found = Problem(parts, gauges, left, right)
        found.set_of = [next(k for k, x in enumerate(parts) if x is own.part) for own in gauges]
        for k, part in enumerate(parts):
            if part.head is not None:
                kinds = found.inside.setdefault(part.head.heads, {})
                kinds.setdefault(part.head.kind, {})[part.head.number] = k
        for name in names:
            found.roles[name] = found._roles(name, found.left[name].ndim)
            for role in found.roles[name]:
                found.touched.setdefault(role.which, []).append((name, role))
        for k, gauge in enumerate(gauges):
            if not gauge.sign:
                found.scales[k] = (
                    _unit_norms(a, found.left, gauge), _unit_norms(b, found.right, gauge)
                )  # fmt: skip
        for name in names:
            sizes = np.linalg.norm(found.left[name]) * np.linalg.norm(found.right[name])
            found.weights[name] = float(found.left[name].size / sizes) if sizes else 0.0
        return found

    def _roles(self, name: str, ndim: int) -> list[Role]:
        found = []
        for axis in range(ndim):
            for which, (units, members, _) in enumerate(self.parts):
                labels = units.places.get((name, axis))
                if labels is None:
                    continue
                order = np.argsort(labels, kind="stable")
                starts = np.searchsorted(labels[order], members)
                count = np.searchsorted(labels[order], members + 1) - starts
                if count.min() == count.max() > 0:
                    found.append(Role(axis, which, order[starts[:, None] + np.arange(count[0])]))
        return found

    def moved(self, name: str, at: Matching, but: Role | None = None) -> Array:
        """A tensor of the first graph after a matching, but for one role."""
        array = self.left[name]
        for role in self.roles[name]:
            order = at.orders.get(role.which)
            if order is not None and role is not but:
                index = np.arange(array.shape[role.axis])
                index[role.indices.ravel()] = role.indices[order].ravel()
                array = np.take(array, index, role.axis)
        for k, signs in at.signs.items():
            for role in self.roles[name]:
                if role.which == self.set_of[k] and role is not but and self.turns(k, name, role):
                    array = array * self._along(array, role, signs)
        return array

    def former(self, which: int, at: Matching) -> int:
        """The set whose members come to the places of a set: of coordinates those of another head."""
        head = self.parts[which].head
        if head is None:
            return which
        return self.inside[head.heads][head.kind][int(at.orders[head.heads][head.number])]

    def gauges_of(self, which: int) -> list[int]:
        """Of a set, in one order for coordinates of all heads."""
        own = [k for k in range(len(self.gauges)) if self.set_of[k] == which]
        return sorted(
            own, key=lambda k: (self.gauges[k].sign, self.gauges[k].joint, self.gauges[k].owner)
        )

    def turns(self, gauge: int, name: str, role: Role) -> bool:
        """Whether signs of a gauge multiply a tensor along an axis."""
        return self.gauges[gauge].powers.get((name, role.axis), 0) % 2 == 1

    def _along(self, array: Array, role: Role, numbers: Array) -> Array:
        by = np.ones(array.shape[role.axis])
        by[role.indices] = np.broadcast_to(numbers, len(role.indices))[:, None]
        return by.reshape([-1 if a == role.axis else 1 for a in range(array.ndim)])

    def score(self, at: Matching) -> float:
        parts = (
            self.weights[name] * float(np.vdot(self.moved(name, at), self.right[name]))
            for name in self.left
        )
        return float(sum(parts))


def wide(model: GraphModel, name: str) -> Array:
    """A stored tensor in float64."""
    return np.asarray(model.constants[name], dtype=np.float64)


def _unit_norms(model: GraphModel, arrays: dict[str, Array], gauge: Gauge) -> Array:
    """Multiply so that what a gauge multiplies first has norm 1; by what."""
    numbers = normal_numbers(model, arrays, gauge, _by_norm)
    multiply(model, arrays, gauge, numbers)
    return numbers


def _by_norm(own: Array, power: int, sign: bool) -> float:
    # squares are summed in their order of size: the same norm for any order of entries
    return float(np.sqrt(np.sort(np.square(own)).sum()) ** (-1.0 / power))


def holds_floats(array: Any) -> bool:
    """Whether a stored tensor holds floats, all of them numbers."""
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return floats and bool(np.isfinite(np.asarray(array, dtype=np.float64)).all())


def matched(problem: Problem, seed: int | np.random.Generator = 0) -> Matching:
    """The best of what climbing from nothing and from where units stand finds."""
    rng = np.random.default_rng(seed)
    still = Matching(
        {k: np.arange(len(part.members)) for k, part in enumerate(problem.parts)},
        {k: np.ones(gauge.free) for k, gauge in enumerate(problem.gauges) if gauge.sign},
    )
    found = [_climb(problem, start, rng) for start in (Matching({}, {}), still)]
    return max(found, key=problem.score)


def _climb(problem: Problem, at: Matching, rng: np.random.Generator) -> Matching:
    sets = list(range(len(problem.parts)))
    while len(at.orders) < len(sets):  # first those of which most is known
        known = {
            which: _evidence(problem, which, at) for which in sets
            if which not in at.orders and _may_follow(problem, which, at)
        }  # fmt: skip
        which = max(known, key=lambda k: (known[k], -k))
        at = _improved(problem, which, at) or at
    for _ in range(SWEEPS):
        better = False
        for which in rng.permutation(sets).tolist():
            found = _improved(problem, which, at)
            better, at = better or found is not None, found or at
        if not better or len(sets) == 1:
            break
    return at


def _evidence(problem: Problem, which: int, at: Matching) -> int:
    """How many numbers of each unit stand beside units that are matched already."""
    return sum(
        problem.left[name].size // len(role.indices)
        for name, role in problem.touched.get(which, ())
        if _is_known(problem, problem.roles[name], at, role)
    )


def _may_follow(problem: Problem, which: int, at: Matching) -> bool:
    """Coordinates of heads follow the heads."""
    head = problem.parts[which].head
    return head is None or head.heads in at.orders


def _is_known(problem: Problem, roles: Sequence[Role], at: Matching, role: Role) -> bool:
    """Whether all else that orders the entries of its units is matched; in heads, coordinates are."""
    return all(
        other.which in at.orders or other.which == role.which or _apart(problem, other, role)
        for other in roles
    )


def _apart(problem: Problem, one: Role, other: Role) -> bool:
    """Of one axis, coordinates of different heads, or of heads that are matched with them."""
    heads, mine = problem.parts[one.which].head, problem.parts[other.which].head
    if one.axis != other.axis or heads is None:
        return False
    return heads.heads == (other.which if mine is None else mine.heads)


def _improved(problem: Problem, which: int, at: Matching) -> Matching | None:
    """The best order and signs of one set, given all others; None where the present ones are as good."""
    if which in problem.inside:
        return _improved_heads(problem, which, at)
    every = _signs_of(problem, which)
    each = [k for k in every if not problem.gauges[k].joint]
    together = [k for k in every if problem.gauges[k].joint]
    gains = _gains(problem, which, at, every)
    best: tuple[float, Ints, dict[int, Array]] | None = None
    for flips in product((1.0, -1.0), repeat=len(together)):
        given = dict(zip(together, flips, strict=True))
        merged = dict[frozenset[int], Array]()
        for pattern, gain in gains.items():
            sign = np.prod([given[k] for k in pattern if k in given])
            own = frozenset(k for k in pattern if k not in given)
            merged[own] = merged[own] + sign * gain if own in merged else sign * gain
        total, signs = _signed(merged, each)
        order = assign(_preferred(problem, which, total))
        rows = np.arange(len(order))
        value = float(total[rows, order].sum())
        if best is None or value > best[0]:
            chosen = {k: np.array([x]) for k, x in given.items()}
            best = value, order, chosen | {k: signs[k][rows, order] for k in each}
    assert best is not None
    value, order, chosen = best
    if which in at.orders:
        old = at.orders[which]
        rows = np.arange(len(old))
        before = sum(
            float((gain[rows, old] * np.prod([at.signs[k] * np.ones(len(old)) for k in pattern], axis=0)).sum())
            for pattern, gain in gains.items()
        )  # fmt: skip
        scale = sum(float(np.abs(gain).max(initial=0.0)) for gain in gains.values()) * len(old)
        if value <= before + GAIN * scale:
            return None
    return Matching({**at.orders, which: order}, {**at.signs, **chosen})


def _preferred(problem: Problem, which: int, total: Array) -> Array:
    """Gains by which a set is ordered: those of stored numbers, or others with these to break ties."""
    if which not in problem.preferred:
        return total
    return problem.preferred[which] + TIE * total / (float(np.abs(total).max(initial=0.0)) or 1.0)


def _signs_of(problem: Problem, which: int) -> list[int]:
    return [k for k in problem.gauges_of(which) if problem.gauges[k].sign]


def _improved_heads(problem: Problem, which: int, at: Matching) -> Matching | None:
    """The best order of heads where each pair has the best of its coordinates, and these."""
    inside = problem.inside[which]
    own = {which, *(k for sets in inside.values() for k in sets.values())}
    others = Matching(
        {k: order for k, order in at.orders.items() if k not in own},
        {k: signs for k, signs in at.signs.items() if problem.set_of[k] not in own},
    )
    moved = dict[str, Array]()
    count = len(problem.parts[which].members)
    total = np.zeros((count, count))
    for sets in inside.values():
        for here, there in product(range(count), repeat=2):
            every = _signs_of(problem, sets[here])
            gains = _gains(problem, sets[here], others, every, sets[there], moved)
            gain, _ = _signed(gains, every)
            total[here, there] += gain[np.arange(len(gain)), assign(gain)].sum()
    order, rows = assign(total), np.arange(count)
    if which in at.orders:
        before = float(total[rows, at.orders[which]].sum())
        if float(total[rows, order].sum()) <= before + GAIN * float(np.abs(total).max()) * count:
            return None
    found = Matching({**others.orders, which: order}, others.signs)
    for sets in inside.values():
        for k in sets.values():
            found = _improved(problem, k, found) or found
    return found


def _gains(
    problem: Problem,
    which: int,
    at: Matching,
    every: Sequence[int],
    source: int | None = None,
    cache: dict[str, Array] | None = None,
) -> dict[frozenset[int], Array]:
    """Inner products of what both graphs hold of each pair of units, ``[of b, of a]``, by the gauges
    whose signs change them; of the first graph those of another set, which stand where they stood.
    """
    count = len(problem.parts[which].members)
    found = {frozenset[int](): np.zeros((count, count))}
    for name, role in problem.touched.get(which, ()):
        roles = problem.roles[name]
        if not _is_known(problem, roles, at, role):
            continue
        wanted = _rows(problem.right[name], role)
        if source is None or cache is None:
            have = _rows(problem.moved(name, at, role), role)
        else:
            theirs = next(x for x in roles if x.which == source and x.axis == role.axis)
            if name not in cache:
                cache[name] = problem.moved(name, at)
            have = _rows(cache[name], theirs)
        pattern = frozenset(k for k in every if problem.turns(k, name, role))
        gain = problem.weights[name] * (wanted @ have.T)
        found[pattern] = found[pattern] + gain if pattern in found else gain
    if not any(gain.any() for gain in found.values()):
        found[frozenset()] = _profiles(problem, which, which if source is None else source)
    return found


def _rows(array: Array, role: Role) -> Array:
    moved = np.moveaxis(array, role.axis, 0)[role.indices]
    return np.asarray(moved.reshape(len(role.indices), -1))


def _profiles(problem: Problem, which: int, source: int) -> Array:
    """What can be compared before any other unit is matched: sizes of numbers in their order."""
    total = np.zeros((len(problem.parts[which].members),) * 2)
    for name, role in problem.touched.get(which, ()):
        theirs = next(x for x in problem.roles[name] if x.which == source and x.axis == role.axis)
        wanted, have = (
            np.sort(np.abs(_rows(array, own)), axis=1)
            for array, own in ((problem.right[name], role), (problem.left[name], theirs))
        )
        square = np.square(wanted).sum(1)[:, None] + np.square(have).sum(1)
        total -= problem.weights[name] * (square - 2 * wanted @ have.T)
    return total


def _signed(
    gains: Mapping[frozenset[int], Array], each: Sequence[int]
) -> tuple[Array, dict[int, Array]]:
    """For each pair of units the signs that are best, as far as choosing one after another finds them,
    and what they gain.
    """
    shape = next(iter(gains.values())).shape
    best: Array | None = None
    chosen = dict[int, Array]()
    for first in (1.0, -1.0) if each else (1.0,):
        signs = {k: np.full(shape, first if k == each[0] else 1.0) for k in each}
        for sweep in range(ALIGNED):
            for k in each[sweep == 0 :] if len(each) > 1 else each:
                slope = np.zeros(shape)
                for pattern, gain in gains.items():
                    if k in pattern:
                        slope += gain * _product(signs, pattern - {k}, shape)
                signs[k] = np.where(slope < 0, -1.0, 1.0)
        total = np.zeros(shape)
        for pattern, gain in gains.items():
            total += gain * _product(signs, pattern, shape)
        if best is None:
            best, chosen = total, signs
        else:
            better = total > best
            best = np.where(better, total, best)
            chosen = {k: np.where(better, signs[k], chosen[k]) for k in each}
    assert best is not None
    return best, chosen


def _product(signs: Mapping[int, Array], some: Iterable[int], shape: tuple[int, ...]) -> Array:
    found = np.ones(shape)
    for k in some:
        found = found * signs[k]
    return found
