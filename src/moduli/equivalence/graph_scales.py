"""Numbers by which units of a graph may be multiplied: the search.

What nodes ask of them (`kernel.graph.scaling.laws`) are products that are one. Of a unit that is
multiplied by r let a tensor be multiplied by r to some power: then powers solve linear equations, over
the integers for positive r, modulo 2 for r = -1. What is proposed here the kernel checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.compression.exact.graph_plan import first_indices
from moduli.kernel.graph.certificate import MOST, GraphMove
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Place
from moduli.kernel.graph.scaling import Law, laws

from .graph_order import in_order_of_use
from .graph_units import Exchangeable, Rounds, UnitSets

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[int, Fraction]
# By which a unit is multiplied: of several numbers along an axis the kernel takes the product
FURTHEST = 2.0**30


class Gauge(NamedTuple):
    """A number that units may be multiplied by, each by its own, or all by one.

    Attributes:
        part: the units. powers: of the number, for each axis of a tensor that has units. sign: it is -1;
            else any positive number. joint: all units are multiplied by it.
        owner: the first stored tensor that it multiplies, and its axis.
    """

    part: Exchangeable
    powers: Mapping[Place, int]
    sign: bool
    joint: bool
    owner: Place

    @property
    def free(self) -> int:
        """How many numbers there are."""
        return 1 if self.joint else len(self.part.members)

    def move(self, numbers: Array) -> GraphMove | None:
        """Multiply members by numbers, one for each or one for all; None where all are one."""
        units, members, _ = self.part
        own = np.broadcast_to(numbers, len(members))
        some = own != 1
        if not some.any():
            return None
        first = first_indices(units)
        return GraphMove(
            "scale", *units.seed, tuple(first[u] for u in members[some].tolist()), (),
            tuple(own[some].tolist()), tuple((*place, power) for place, power in self.powers.items()),
        )  # fmt: skip


def gauges(found: UnitSets) -> list[Gauge]:
    """All that is found, by the first stored tensor that they multiply; not of heads where there are
    those of each coordinate.
    """
    rank = {name: k for k, name in enumerate(in_order_of_use(found.graph))}
    inside = {part.head.heads for part in found.sets if part.head is not None}
    every = [list(_of_part(found.model(part), part, rank)) for part in found.sets]
    finer = {gauge.owner for own in every for gauge in own if gauge.part.head is not None}
    left = [
        gauge for k, own in enumerate(every) for gauge in own
        if k not in inside or gauge.owner not in finer
    ]  # fmt: skip
    return sorted(left, key=lambda gauge: rank[gauge.owner[0]])


def _of_part(graph: GraphModel, part: Exchangeable, rank: Mapping[str, int]) -> Iterator[Gauge]:
    units, members, _ = part
    one = members[:1]
    places = [place for place, labels in units.places.items() if np.isin(one, labels).all()]
    # later stored tensors follow from earlier ones, and what nodes make from stored ones
    places.sort(key=lambda place: -rank.get(place[0], len(rank)))
    asked = list(_asked(graph, part, places))
    for sign in (False, True):
        each = _solutions(asked, part, places, one, sign=sign)
        together = _solutions(asked, part, places, members, sign=sign)
        alone = {owner for owner, _ in each}
        for joint, solutions in ((False, each), (True, together)):
            for owner, powers in solutions:
                if owner[0] in rank and not (joint and owner in alone):
                    yield Gauge(part, powers, sign, joint, owner)


def free_numbers(found: Iterable[Gauge], *, sign: bool) -> int:
    """How many independent numbers multiply stored tensors, at least.

    What a gauge multiplies first, no later one multiplies: it is enough to count tensor by tensor, among
    those that multiply each first. In logarithms an entry is the sum of one number for each of its
    axes; ranks are those modulo a prime, never above the true ones, and modulo 2 of signs.
    """
    by_tensor: dict[str, list[Gauge]] = {}
    for gauge in found:
        if gauge.sign == sign:
            by_tensor.setdefault(gauge.owner[0], []).append(gauge)
    total = 0
    for name, own in by_tensor.items():
        if len(own) == 1:
            total += own[0].free
            continue
        columns = np.concatenate([_on_entries(gauge, name, own) for gauge in own])
        if sign:
            rows = [dict(enumerate(row)) for row in columns.tolist()]
            total += columns.shape[1] - sum(1 for _ in _mod_two(rows, columns.shape[1]))
        else:
            total += modular.rank(columns.astype(np.float64), modular.PRIMES[0])
    return total


def _on_entries(gauge: Gauge, name: str, others: Iterable[Gauge]) -> Array:
    """Powers of each number of a gauge at entries of a tensor from which those at all others follow: the
    first, and what each index along each axis adds to it.
    """
    axes = sorted({axis for x in others for tensor, axis in x.powers if tensor == name})
    first, rest = np.zeros((gauge.free, 1), dtype=np.int64), list[Array]()
    for axis in axes:
        labels = gauge.part.units.places.get((name, axis))
        power = gauge.powers.get((name, axis), 0)
        if labels is None or not power:
            size = next(
                len(x.part.units.places[name, axis]) for x in others if (name, axis) in x.powers
            )
            rest.append(np.zeros((gauge.free, size), dtype=np.int64))
            continue
        members = gauge.part.members
        there = np.isin(labels, members)[None] if gauge.joint else labels == members[:, None]
        first += power * there[:, :1]
        rest.append(power * (there.astype(np.int64) - there[:, :1]))
    return np.concatenate([first, *rest], axis=1)


def _asked(graph: GraphModel, part: Exchangeable, places: Sequence[Place]) -> Iterator[Law]:
    known, tensors = dict.fromkeys(places), {name for name, _ in places}
    for node in graph.nodes:
        if not tensors.isdisjoint((*node.inputs, *node.outputs)):
            yield from laws(node, graph, known)


def _solutions(
    asked: Iterable[Law], part: Exchangeable, places: Sequence[Place], members: Array, *, sign: bool
) -> list[tuple[Place, dict[Place, int]]]:
    """Powers of one number that multiplies these members, a basis of them; each with the place whose
    power is free.
    """
    number = {place: k for k, place in enumerate(places)}
    equations = set[tuple[tuple[int, int], ...]]()
    for law in asked:
        if not (law.sign if sign else law.size):
            continue
        columns, sums = list[int](), list[Array]()
        for place, power, rows in law.terms:
            if place not in number:
                continue
            labels = part.units.places[place]
            columns.append(number[place])
            sums.append(np.isin(labels if rows is None else labels[rows], members) * power)
        for row in np.unique(np.stack(np.broadcast_arrays(*sums)), axis=1).T.tolist():
            total = dict[int, int]()
            for column, power in zip(columns, row, strict=True):
                total[column] = total.get(column, 0) + power
            equations.add(tuple(sorted((c, p) for c, p in total.items() if p)))
    found = [dict(equation) for equation in equations if equation]
    basis = _mod_two(found, len(places)) if sign else _rational(found, len(places))
    return [
        (places[free], {places[k]: powers[k] for k in sorted(powers, reverse=True) if powers[k]})
        for free, powers in basis
        if all(abs(power) <= MOST for power in powers.values())
    ]


def _rational(rows: Sequence[dict[int, int]], n: int) -> Iterator[tuple[int, dict[int, int]]]:
    """A basis of the solutions of linear equations, each with the unknown that is free in it."""
    pivots = dict[int, Row]()
    for given in sorted(rows, key=len):
        row: Row = {k: Fraction(x) for k, x in given.items()}
        while row:
            lead = min(row)
            if lead not in pivots:
                pivots[lead] = {k: x / row[lead] for k, x in row.items()}
                break
            row = _less(row, pivots[lead], row[lead])
    values = dict[int, Row]()  # of each unknown, by those that are free
    for k in reversed(range(n)):
        values[k] = {k: Fraction(1)}
        if k in pivots:
            values[k] = {}
            for other, x in pivots[k].items():
                if other != k:
                    values[k] = _less(values[k], values[other], x)
    for free in (k for k in range(n) if k not in pivots):
        powers = {k: value[free] for k, value in values.items() if free in value}
        whole = lcm(*(x.denominator for x in powers.values()))
        yield free, {k: int(x * whole) for k, x in powers.items()}


def _less(row: Row, other: Row, times: Fraction) -> Row:
    found = dict(row)
    for k, x in other.items():
        found[k] = found.get(k, Fraction(0)) - times * x
        if not found[k]:
            del found[k]
    return found


def _mod_two(rows: Sequence[dict[int, int]], n: int) -> Iterator[tuple[int, dict[int, int]]]:
    """The same modulo 2; a row is a whole number whose bits are the unknowns."""
    pivots = dict[int, int]()
    for given in rows:
        row = sum(1 << k for k, x in given.items() if x % 2)
        while row:
            lead = (row & -row).bit_length() - 1
            if lead not in pivots:
                pivots[lead] = row
                break
            row ^= pivots[lead]
    values = dict[int, int]()
    for k in reversed(range(n)):
        values[k] = 1 << k
        if k in pivots:
            values[k], rest = 0, pivots[k] ^ (1 << k)
            while rest:
                other = (rest & -rest).bit_length() - 1
                values[k] ^= values[other]
                rest &= rest - 1
    for free in (k for k in range(n) if k not in pivots):
        yield free, {k: 1 for k, value in values.items() if value >> free & 1}


# A normal form -----------------------------------------------------------------------------------------------------


def rounds_to_scale(sets: UnitSets, found: Sequence[Gauge]) -> Rounds:
    """Moves after which what each gauge multiplies first has its largest number positive, and between
    1 and 2: only by powers of two, which round nothing.
    """
    graph, arrays = sets.graph, dict[str, Array]()
    moves = list[tuple[Exchangeable, GraphMove | None]]()
    for gauge in found:
        numbers = held(graph, arrays, gauge, normal_numbers(graph, arrays, gauge, _normal_number))
        moves.append((gauge.part, gauge.move(numbers)))
        multiply(graph, arrays, gauge, numbers)
    return sets.rounds(moves)


def normal_numbers(
    graph: GraphModel,
    arrays: dict[str, Array],
    gauge: Gauge,
    number: Callable[[Array, int, bool], float],
) -> Array:
    """Of each member, or of all: what `number` makes of the first entries that are not all zero, of their
    power, and of whether it is a sign.
    """
    found = np.ones(gauge.free)
    open_ = np.ones(gauge.free, dtype=bool)
    for place, power in gauge.powers.items():
        if place[0] not in graph.constants or (gauge.sign and power % 2 == 0):
            continue
        for k, own in enumerate(_entries(graph, arrays, gauge, place)):
            if open_[k] and own.any() and np.isfinite(own).all():
                found[k], open_[k] = number(own, power, gauge.sign), False
        if not open_.any():
            break
    return found


def stored(graph: GraphModel, arrays: dict[str, Array], name: str) -> Array:
    """A stored tensor as float64, as far as it was changed."""
    return arrays.setdefault(name, np.asarray(graph.constants[name], dtype=np.float64))


def multiply(graph: GraphModel, arrays: dict[str, Array], gauge: Gauge, numbers: Array) -> None:
    """Multiply stored tensors as a gauge does."""
    for name, _, product in _products(graph, arrays, gauge, numbers):
        arrays[name] = product


def _products(
    graph: GraphModel, arrays: dict[str, Array], gauge: Gauge, numbers: Array
) -> Iterator[tuple[str, int, Array]]:
    """Stored tensors, along an axis of them, by numbers of members."""
    units, members, _ = gauge.part
    of_unit = np.ones(units.count + 1)
    of_unit[members] = numbers
    for (name, axis), power in gauge.powers.items():
        if name in graph.constants:
            array = stored(graph, arrays, name)
            by = of_unit[units.places[name, axis]] ** power
            along = [-1 if a == axis else 1 for a in range(array.ndim)]
            yield name, axis, array * by.reshape(along)


def near(numbers: Array) -> Array:
    """Positive numbers, one instead of those that are far from it."""
    return np.where((numbers <= FURTHEST) & (numbers * FURTHEST >= 1), numbers, 1.0)


def held(graph: GraphModel, arrays: dict[str, Array], gauge: Gauge, numbers: Array) -> Array:
    """The numbers, or one for members of which a stored type would not hold the products, or that are
    far from one.
    """
    if gauge.sign:
        return numbers
    numbers = near(numbers)
    units, members, _ = gauge.part
    lost = np.zeros(units.count + 1, dtype=bool)
    with np.errstate(all="ignore"):
        for name, axis, product in _products(graph, arrays, gauge, numbers):
            narrow = product.astype(graph.constants[name].dtype).astype(np.float64)
            others = tuple(a for a in range(product.ndim) if a != axis)
            lost[units.places[name, axis][(narrow != product).any(axis=others)]] = True
    return np.where(lost[members], 1.0, numbers)


def _entries(
    graph: GraphModel, arrays: dict[str, Array], gauge: Gauge, place: Place
) -> list[Array]:
    """What a stored tensor holds of each member, or of all of them."""
    name, axis = place
    labels = gauge.part.units.places[place]
    array = np.moveaxis(stored(graph, arrays, name), axis, 0)
    rows = array.reshape(len(array), -1)
    if gauge.joint:
        return [rows[np.isin(labels, gauge.part.members)].ravel()]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], [gauge.part.members, gauge.part.members + 1])
    return [rows[order[start:stop]].ravel() for start, stop in starts.T]


def _normal_number(own: Array, power: int, sign: bool) -> float:
    if sign:
        return _sign(own)
    exponent = int(np.frexp(np.abs(own).max())[1]) - 1
    return float(2.0 ** -(exponent // power)) if exponent % power == 0 else 1.0


def _sign(own: Array) -> float:
    """Of the entries that are largest, whichever order they stand in; 1 where signs cancel."""
    sizes = np.abs(own)
    for _ in range(8):
        largest = sizes.max(initial=0.0)
        if largest == 0:
            return 1.0
        total = float(np.sign(own[sizes == largest]).sum())
        if total:
            return 1.0 if total > 0 else -1.0
        sizes[sizes == largest] = 0.0
    return 1.0
