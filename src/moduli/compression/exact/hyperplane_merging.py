"""Fewer units where hyperplanes are shared: the search. `substitution` checks what it proposes.

A hyperplane needs one unit for its crease (see `hyperplane_sums`); a unit turned the other way
round changes the linear part of its layer. So all shared hyperplanes get one unit, and the linear
part P that is then missing comes from, fewest units first,

1. nothing, if units can be turned so that P = 0;
2. one second unit on a hyperplane, if units can be turned so that P is a multiple of its row;
3. units that are linear, as many as the rank of P (on a box);
4. second units on hyperplanes whose rows span P;
5. new pairs s(z) - s(-z), twice the rank of P.

For one hidden layer, one output and at most 32 hyperplanes that is the fewest possible on all
inputs (below WORK numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moduli.kernel.bounds.activation_bounds import extent, signs, slope
from moduli.kernel.bounds.box_claim import Row
from moduli.kernel.exact_numbers import class_keys
from moduli.kernel.flippable_subsets import cancelling_turns
from moduli.kernel.hyperplane_sums import (
    Unit,
    hyperplane,
    hyperplane_sums,
    linear_coefficient,
    unit,
)
from moduli.kernel.minimality import MOST, TURNS
from moduli.kernel.move import Move, Units

if TYPE_CHECKING:
    from moduli.kernel.state import State

Matrix = list[list[Fraction]]
WORK = 2**17  # numbers of a layer that are made rational
LONGEST = 2**1500  # numerators and denominators of proposed numbers
LARGEST = 1e290  # products that stay finite
FLAT = 2**20  # entries of the matrix that a linear layer leaves


class New(NamedTuple):
    """A unit of a proposal: the unit that it is or, with another row, takes the place of (None:
    any).
    """

    name: int | None
    row: Row | None
    column: Row


def proposals(state: State, l: int) -> Iterator[Move]:
    """The layer away, where it is linear; blocks with fewer units of it, the best first."""
    layer = Folded.of(state, l)
    if layer is None:
        return
    deep = len(state.alive) > 3
    if deep and state.region is None and layer.whole and not layer.seen and skippable(state, l):
        yield Move("skip", l, state.alive[l])
    found = sorted((list(new) for new in layer.ways()), key=len)
    for new in found:
        if len(new) < len(layer.units) and (move := layer.move(new)) is not None:
            yield move


class Folded:
    """Units of a layer by hyperplane.

    Attributes:
        units: the units that take part. seen: creases that are not zero, by hyperplane. names:
            units of each hyperplane.
    """

    def __init__(
        self, state: State, l: int, units: dict[int, Unit], c: Fraction, *, whole: bool
    ) -> None:
        self.state, self.l, self.units, self.c, self.whole = state, l, units, c, whole
        self.homogeneous = state.activations[l - 1].homogeneous
        bent = {name: u for name, u in units.items() if u.slope is None}
        self.seen = hyperplane_sums(
            ((u.row, u.column) for u in bent.values()), homogeneous=self.homogeneous
        )
        self.names: dict[Row, list[tuple[Fraction, int]]] = {}
        for name, u in bent.items():
            key, t = hyperplane(u.row, homogeneous=self.homogeneous)
            self.names.setdefault(key, []).append((t, name))

    @staticmethod
    def of(state: State, l: int) -> Folded | None:
        """None where no hyperplane is shared and no unit is linear, or where that is too much work."""
        c, alive = linear_coefficient(state, l), state.alive[l]
        if not c or not len(alive) or not len(state.alive[l - 1]):
            return None
        signed = state.region is not None or signs(state, l).any()
        linear = [u for u in alive.tolist() if signed and slope(state, l, u) is not None]
        bent = np.setdiff1d(alive, linear)
        every = np.arange(state.slots(l))
        w = state.weights[l - 1].take(every, state.alive[l - 1])
        keys, _ = class_keys(
            w.hi, state.biases[l - 1].hi, sign=True, scale=state.activations[l - 1].homogeneous
        )
        _, place, counts = np.unique(keys[bent], return_inverse=True, return_counts=True)
        shared = bent[counts[place] > 1]
        some = bent if len(bent) <= MOST else shared
        if not (len(shared) or (linear and len(bent) <= MOST)):
            return None
        names = sorted([*some.tolist(), *linear])
        if len(names) * len(state.alive[l - 1]) * len(state.alive[l + 1]) > WORK:
            return None
        units = {name: unit(state, l, name) for name in names}
        known = {name: u for name, u in units.items() if u is not None}
        if len(known) < len(names) or not all(any(u.row[:-1]) for u in known.values()):
            return None
        return Folded(state, l, known, c, whole=len(some) == len(bent))

    def ways(self) -> Iterator[list[New]]:
        """The new units, in each way that works."""
        box = self.state.region is not None and self.state.activations[self.l - 1].piecewise_linear
        sets = list[tuple[Row, ...]]()
        # 1. Units turned so that P = 0: one unit a crease, and no network has fewer.
        if self.whole and len(self.seen) <= MOST:
            sets = self._spares()
            for spared in sets:
                yield self._creases(set(spared))
        if sets or not any(len(names) > 1 for names in self.names.values()):
            return  # nothing is shared: two units on one hyperplane are all that can be spared here
        # 2. One second unit.
        if self.whole and len(self.seen) <= TURNS:
            yield from self._one_more()
        # From here on units stay as they are turned: as the first one on their hyperplane.
        turned = {key for key in self.seen if self.names[key][0][0] < 0}
        ones = self._creases(turned)
        rest = self._rest(turned)
        by = eliminate(rest)
        # 3. Linear units, which a box has room for: a bias keeps them active.
        if box:
            yield [*ones, *(New(None, row, column) for row, column in self._linear(rest, *by))]
        # 4. Second units where the hyperplanes' rows span P.
        parts = self._spanned(rest)
        if parts:
            yield [
                new for key, part in parts.items() for new in self._crease(key, key in turned, part)
            ]
        # 5. Linear units where they are known to stay active, else pairs: s(z) - s(-z) = 2 c z.
        pivots, columns = by
        for k, pivot in enumerate(pivots):
            ones += self._one_or_two(tuple(rest[pivot]), tuple(q[k] for q in columns))
        yield ones

    def _one_or_two(self, row: Row, column: Row) -> list[New]:
        """Units with the sum column (row . h), of the fewest."""
        turned = tuple(-q for q in row), tuple(-q for q in column)
        for some, out in ((row, column), turned):
            bias = activating_bias(self.state, self.l, some)
            if bias is not None:
                return [New(None, (*some, bias), out)]
        half, zero = 2 * self.c, Fraction(0)
        return [
            New(None, (*some, zero), tuple(q / half for q in out))
            for some, out in ((row, column), turned)
        ]

    def _spares(self, but: Row | None = None) -> list[tuple[Row, ...]]:
        try:
            return cancelling_turns(list(self.units.values()), self.seen, self.c, but)
        except ValueError:
            return []

    def _one_more(self) -> Iterator[list[New]]:
        for but in self.seen:
            for turned in self._spares(but)[:1]:
                rest = self._rest(set(turned))
                at = next(j for j, q in enumerate(but[:-1]) if q)
                part = tuple(row[at] / but[at] for row in rest)
                yield self._creases(set(turned), {but: part})

    def _creases(self, turned: set[Row], extra: Mapping[Row, Row] | None = None) -> list[New]:
        """Units for all creases, turned where it is said, with a linear part at some."""
        found = list[New]()
        for key in self.seen:
            found += self._crease(key, key in turned, (extra or {}).get(key))
        return found

    def _crease(self, key: Row, turned: bool, extra: Row | None = None) -> list[New]:
        """One unit for a crease, or two that also give the linear part extra . z."""
        column = self.seen.get(key, (Fraction(0),) * len(self.state.alive[self.l + 1]))
        ends = [self._unit(key, turned, column)]
        if extra is not None and any(extra):
            way = -1 if turned else 1
            first = tuple(
                (a + way * a + r / self.c) / 2 for a, r in zip(column, extra, strict=True)
            )
            other = tuple(a - v for a, v in zip(column, first, strict=True))
            ends = [self._unit(key, False, first), self._unit(key, True, other)]
        return [new for new in ends if any(new.column)]

    def _unit(self, key: Row, turned: bool, column: Row) -> New:
        """A unit of a hyperplane, as it is where one is turned like that."""
        for t, name in self.names[key]:
            if (t < 0) == turned:
                return New(name, None, tuple(q / abs(t) for q in column))
        t, name = self.names[key][0]
        return New(name, tuple(-q for q in self.units[name].row), tuple(q / abs(t) for q in column))

    def _rest(self, turned: set[Row]) -> Matrix:
        """P."""
        total = [
            [Fraction(0)] * len(self.state.alive[self.l - 1]) for _ in self.state.alive[self.l + 1]
        ]
        parts = [
            (self.c if u.slope is None else u.slope, u.column, u.row) for u in self.units.values()
        ]
        parts += [
            (self.c if key in turned else -self.c, column, key) for key, column in self.seen.items()
        ]
        for c, column, row in parts:
            for i, v in enumerate(column):
                if v:
                    total[i] = [p + c * v * q for p, q in zip(total[i], row[:-1], strict=True)]
        return total

    def _spanned(self, rest: Matrix) -> dict[Row, Row] | None:
        """P as a sum of products v w over few of the hyperplanes that have units, creases first;
        None where it is none.
        """
        keys = sorted(self.names, key=lambda key: key not in self.seen)
        pivots, by = eliminate([*(list(key[:-1]) for key in keys), *rest])
        if any(p >= len(keys) for p in pivots):
            return None
        parts = {}
        for k, pivot in enumerate(pivots):
            parts[keys[pivot]] = tuple(row[k] for row in by[len(keys) :])
        return {
            key: parts.get(key, ()) for key in keys if key in self.seen or any(parts.get(key, ()))
        }

    def _linear(self, rest: Matrix, pivots: list[int], by: Matrix) -> Iterator[tuple[Row, Row]]:
        """Linear units with sum P; a row that has no bounds is left without a bias, which the
        kernel refuses.
        """
        for k, pivot in enumerate(pivots):
            bias = activating_bias(self.state, self.l, tuple(rest[pivot]))
            yield (
                (*rest[pivot], bias if bias is not None else Fraction(0)),
                tuple(row[k] for row in by),
            )

    def move(self, new: Sequence[New]) -> Move | None:
        """The move; units that stay as they are take no part. None where numbers are too long."""
        same = {
            n.name
            for n in new
            if n.row is None and n.name is not None and n.column == self.units[n.name].column
        }
        units = [name for name in self.units if name not in same]
        new = [n for n in new if n.name not in same or n.row is not None]
        into = self._names(units, new)
        if any(
            max(abs(q.numerator), q.denominator) > LONGEST
            for n in new
            for q in (*(n.row or ()), *n.column)
        ):
            return None
        rows, columns = tuple(n.row for n in new), tuple(n.column for n in new)
        return Move(
            "block",
            self.l,
            np.array(units, dtype=np.intp),
            np.array(into, dtype=np.intp),
            rows=rows,
            outgoing=columns,
        )

    @staticmethod
    def _names(units: list[int], new: Sequence[New]) -> list[int]:
        """A unit for each new one: its own, if that is free."""
        taken = {n.name for n in new if n.row is None}
        free, into = [name for name in units if name not in taken], list[int]()
        for n in new:
            if n.name is None or (n.row is not None and n.name not in free):
                into.append(free.pop())
            else:
                into.append(n.name)
                free = [name for name in free if name != n.name]
        return into


def linear_layer(state: State, l: int) -> Move | None:
    """That a layer goes because it is linear, whatever that does to the number of parameters; None
    where it may bend.

    Matrices of more than FLAT entries are not made.
    """
    units = state.alive[l]
    if not len(units) or len(state.alive[l - 1]) * len(state.alive[l + 1]) > FLAT:
        return None
    if any(slope(state, l, name) is None for name in units.tolist()):
        layer = Folded.of(state, l)
        if layer is None or not layer.whole or layer.seen:
            return None
    return Move("skip", l, units) if products_stay_finite(state, l, units) else None


def skippable(state: State, l: int) -> bool:
    """Whether the network gets no more parameters without a layer, and no numbers beyond floats."""
    before, here, behind = (len(state.alive[k]) for k in (l - 1, l, l + 1))
    return behind * (before + 1) <= here * (before + 1) + behind * (
        here + 1
    ) and products_stay_finite(state, l, state.alive[l])


def products_stay_finite(state: State, l: int, units: Units) -> bool:
    """Whether what the units add to the next layer stays far below the largest float."""
    outgoing = np.abs(state.weights[l].take(state.alive[l + 1], units).hi)
    parts = (
        state.weights[l - 1].take(units, state.alive[l - 1]).hi,
        state.biases[l - 1].take(units).hi,
    )
    with np.errstate(all="ignore"):
        return all((outgoing @ np.abs(part) < LARGEST).all() for part in parts)


def activating_bias(state: State, l: int, row: Row) -> Fraction | None:
    """0, or a power of two, that keeps row . h + bias from being negative; None where features have no
    bounds.
    """
    least, _ = extent(state, l, row)
    if least is None:
        return None
    bias = Fraction(0)
    if least < 0:
        need = -least
        bias = Fraction(2) ** (need.numerator.bit_length() - need.denominator.bit_length() - 1)
        while bias < need:
            bias *= 2
    return bias


def eliminate(rows: Matrix) -> tuple[list[int], Matrix]:
    """Rows that are independent, and all rows by these: rows[i] = sum_k by[i][k] rows[pivots[k]].

    >>> pivots, by = eliminate([[Fraction(2), Fraction(4)], [Fraction(1), Fraction(2)], [Fraction(0), Fraction(1)]])
    >>> pivots, [str(q) for q in by[1]]
    ([0, 2], ['1/2', '0'])
    """
    basis: list[tuple[int, list[Fraction], dict[int, Fraction]]] = []
    pivots, found = list[int](), list[dict[int, Fraction]]()
    for i, row in enumerate(rows):
        rest, by = list(row), dict[int, Fraction]()
        for lead, other, parts in basis:
            factor = rest[lead] / other[lead]
            if factor:
                rest = [p - factor * q for p, q in zip(rest, other, strict=True)]
                for k, q in parts.items():
                    by[k] = by.get(k, Fraction(0)) + factor * q
        lead = next((j for j, q in enumerate(rest) if q), -1)
        if lead >= 0:
            basis.append((lead, rest, {**{k: -q for k, q in by.items()}, len(pivots): Fraction(1)}))
            by = {len(pivots): Fraction(1)}
            pivots.append(i)
        found.append(by)
    table = []
    for by in found:
        table.append([by.get(k, Fraction(0)) for k in range(len(pivots))])
    return pivots, table
