"""The last hidden layer and the output of a ReLU network, from its function and the features that
they read: one linear system.

With features h on every cell, creases assigned to units, and the cells on which each unit is on
(a_j = 1), the function is

    f = b + sum_j v_j a_j F_j,      F_j = m_j . h + c_j,

v_j the known direction of the weights of its creases (first non-zero entry 1): linear in m, c, b.
If unit j is in truth on where a_j = 0, its share is v_j (a_j - 1) (m_j . h + c_j) instead. So b is
first replaced by any affine function of the features, -K h - k, and the units to turn are those of
a subset with sum v_j m_j^T = K. Systems are refuted and their pivots chosen modulo a prime;
solutions are lifted from a large prime. They are proposals: whoever asks must compare the
functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from math import lcm
from typing import Any, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.kernel.errors import PrecisionExhausted, Undecided

from .cells_exact import Cell, Form
from .cells_exact import value as value_at
from .rational_rows import column, columns, outer, plus, times

Array = np.ndarray[Any, np.dtype[np.int64]]
Affine = tuple[list[list[Fraction]], list[Fraction]]  # weights, biases of a layer
PRIME = modular.PRIMES[0]
LARGE = (
    (2**521 - 1, 1 << 200),
    (2**2203 - 1, 1 << 900),
)  # a Mersenne prime, and the largest numerator and denominator sought
MOST = 16  # units of which all subsets are tried


class Unit(NamedTuple):
    """Creases of one unit: outgoing weights with first non-zero entry 1, whether convex (1, -1),
    its creases by number.
    """

    out: tuple[Fraction, ...]
    sign: int
    members: frozenset[int]


class OutputLayer(NamedTuple):
    """Solved: m_j and c_j of each unit, K and k of each output (zero where they were not asked
    for).
    """

    slopes: list[list[Fraction]]
    offsets: list[Fraction]
    linear: list[list[Fraction]]
    constant: list[Fraction]
    unique: bool


@dataclass
class Budget:
    """Linear systems that may be set up, and those that were."""

    most: int
    spent: int = 0

    def spend(self) -> None:
        if self.spent >= self.most:
            raise Undecided(f"the budget of {self.most} linear systems ran out")
        self.spent += 1


@dataclass
class Features:
    """What a layer reads, on convex pieces of cells: affine forms, and whether they are on (off:
    zero).

    Attributes:
        cells: the cell of each piece. forms: [pieces, features]. on: the same shape, of 0 and 1.
    """

    cells: list[Cell]
    forms: list[tuple[Form, ...]]
    on: Array
    residues: Array = field(init=False)
    values: Array = field(init=False)

    def __post_init__(self) -> None:
        known: dict[Fraction, int] = {}

        def residue(v: Fraction) -> int:
            if v not in known:
                known[v] = modular.residue(v, PRIME)
            return known[v]

        def table(rows: Sequence[Sequence[Form]]) -> Array:
            found = []
            for row in rows:
                found.append([[*map(residue, a), residue(c)] for a, c in row])
            return np.array(found, dtype=np.int64)

        self.values = table([cell.maps for cell in self.cells])
        count = self.values.shape[2]
        self.residues = table(self.forms).reshape(len(self.cells), len(self.forms[0]), count)

    def turned(self, signs: Sequence[int]) -> Features:
        """With other orientations: relu(-t) for relu(t) where the sign is -1."""
        other = Features.__new__(Features)
        turn = np.array(signs) < 0
        other.cells, other.values = self.cells, self.values
        other.forms = [tuple(map(_signed, row, signs)) for row in self.forms]
        other.on = np.where(turn, 1 - self.on, self.on)
        other.residues = np.where(turn[:, None], -self.residues % PRIME, self.residues)
        return other

    @property
    def count(self) -> int:
        return int(self.on.shape[1])

    def largest(self, row: Sequence[Fraction]) -> Fraction:
        """A bound on |row . h| over the box."""
        total = Fraction(0)
        for i, weight in enumerate(row):
            pieces = zip(self.cells, self.forms, self.on[:, i].tolist(), strict=True)
            total += abs(weight) * max(
                (abs(value_at(f[i], p)) for cell, f, on in pieces if on for p in cell.points),
                default=0,
            )
        return total


def readouts(
    features: Features,
    units: Sequence[Unit],
    sides: Array,
    width: int,
    budget: Budget,
    *,
    all: bool = False,
) -> Iterator[list[Affine]]:
    """Candidates for the last hidden layer and the output layer.

    Args:
        sides: [pieces, units], 1 on the pieces at one side of the creases of a unit. width: of the
            hidden layer; units beyond those that crease carry what is linear in the features, or
            nothing. all: every network with these creases that computes the function is among the
            candidates, up to scale.

    Raises:
        Undecided: the budget, or (with `all`) something that was not excluded.
    """
    found = solve(features, units, sides, True, budget, all)
    if found is None:
        return
    if found.unique:
        none = True
        for turned in turns(units, found):
            none = False
            yield _layers(features, units, found, turned, width)
        if none and width > len(units):
            yield from _carried(features, units, found, width)
        return
    if len(units) > MOST:
        raise Undecided(f"{len(units)} units whose sides would have to be enumerated")
    for turned in product((0, 1), repeat=len(units)):
        found = solve(features, units, sides ^ np.array(turned, dtype=np.int64), False, budget, all)
        if found is not None:
            if all and not found.unique:
                raise Undecided("some weights of the last layers are free")
            signs = [-1 if t else 1 for t in turned]
            slopes = [times(s, row) for row, s in zip(found.slopes, signs, strict=True)]
            offsets = [s * c for c, s in zip(found.offsets, signs, strict=True)]
            whole = _completed(units, found._replace(slopes=slopes, offsets=offsets), turned)
            yield _layers(features, units, whole, turned, width)


def _completed(units: Sequence[Unit], found: OutputLayer, turned: Sequence[int]) -> OutputLayer:
    """K and k as they would have been with no unit turned."""
    linear, constant = [row[:] for row in found.linear], found.constant[:]
    for unit, row, c, t in zip(units, found.slopes, found.offsets, turned, strict=True):
        if t:
            linear = [plus(old, v, row) for old, v in zip(linear, unit.out, strict=True)]
            constant = plus(constant, c, unit.out)
    return found._replace(linear=linear, constant=constant)


def solve(
    features: Features,
    units: Sequence[Unit],
    sides: Array,
    relaxed: bool,
    budget: Budget,
    sure: bool = False,
) -> OutputLayer | None:
    """One solution of the system, with free unknowns zero; None if there is none, or (unless
    `sure`) probably none.

    A solution that is `unique` is the only one, and is one if there is any.
    """
    budget.spend()
    matrix = _system(features, units, sides, relaxed)
    rows, columns, odd = _pivots(matrix)
    exact = (
        [_exact_row(features, units, sides, relaxed, r) for r in rows]
        if odd is None or sure
        else []
    )
    full = len(columns) == matrix.shape[1] - 1
    if odd is not None:
        if (
            sure
            and not full
            and not _refuted(exact, columns, _exact_row(features, units, sides, relaxed, odd))
        ):
            raise PrecisionExhausted("a linear system is neither solved nor refuted")
        return None
    square = [[*(row[c] for c in columns), row[-1]] for row in exact]
    values = _lifted(square)
    if values is None:
        if sure:
            raise PrecisionExhausted("the solution of a linear system has too many digits")
        return None
    unknown = [Fraction(0)] * (matrix.shape[1] - 1)
    for c, v in zip(columns, values, strict=True):
        unknown[c] = v
    n, outputs = features.count + 1, features.values.shape[1]
    table = [unknown[k : k + n] for k in range(0, len(units) * n, n)]
    rest = unknown[len(units) * n :]
    size = n if relaxed else 1
    ends = [[Fraction(0)] * (n - size) + rest[k : k + size] for k in range(0, outputs * size, size)]
    return OutputLayer(
        [r[:-1] for r in table],
        [r[-1] for r in table],
        [e[:-1] for e in ends],
        [e[-1] for e in ends],
        full,
    )


def _refuted(rows: list[list[Fraction]], columns: list[int], odd: list[Fraction]) -> bool:
    """Whether one more equation contradicts some: a combination of those has its left but not its
    right side.
    """
    transposed = [[*column(rows, c), odd[c]] for c in columns]
    factors = _lifted(transposed)
    if factors is None:
        return False
    total = [Fraction(0)] * len(odd)
    for f, row in zip(factors, rows, strict=True):
        if f:
            total = plus(total, f, row)
    return total[:-1] == odd[:-1] and total[-1] != odd[-1]


def _system(features: Features, units: Sequence[Unit], sides: Array, relaxed: bool) -> Array:
    """[pieces * outputs * coefficients, unknowns + 1] modulo the prime, the function in the last
    column.
    """
    pieces, outputs, count = features.values.shape
    one = np.zeros((pieces, 1, count), dtype=np.int64)
    one[..., -1] = 1
    h = np.concatenate([features.residues * features.on[..., None], one], axis=1)
    out = np.empty((len(units), outputs), dtype=np.int64)
    for k, unit in enumerate(units):
        out[k] = [modular.residue(v, PRIME) for v in unit.out]
    block = out.T[None, :, :, None, None] * h[:, None, None] % PRIME * sides[:, None, :, None, None]
    whole = [block.transpose(0, 1, 4, 2, 3).reshape(pieces * outputs * count, -1)]
    for o in range(outputs):
        ends = np.zeros((pieces, outputs, count, h.shape[1]), dtype=np.int64)
        ends[:, o] = (-h % PRIME).transpose(0, 2, 1)
        whole.append(ends.reshape(pieces * outputs * count, -1)[:, None if relaxed else -1 :])
    whole.append(features.values.reshape(-1, 1))
    return np.concatenate(whole, axis=1)


def _exact_row(
    features: Features, units: Sequence[Unit], sides: Array, relaxed: bool, row: int
) -> list[Fraction]:
    """One row of the system."""
    _, outputs, count = features.values.shape
    piece, o, k = row // (outputs * count), row // count % outputs, row % count
    on = features.on[piece].tolist()
    zero = Fraction(0)
    h = [(*a, c)[k] if s else zero for (a, c), s in zip(features.forms[piece], on, strict=True)] + [
        Fraction(k == count - 1)
    ]
    found = list[Fraction]()
    for unit, side in zip(units, sides[piece].tolist(), strict=True):
        if not side:
            found += [zero] * len(h)
        elif unit.out[o] == 1:  # most are: the first weight that is not zero is scaled to 1
            found += h
        else:
            found += times(unit.out[o], h)
    for other in range(outputs):
        found += [-v if other == o else zero for v in (h if relaxed else h[-1:])]
    a, c = features.cells[piece].maps[o]
    return [*found, (*a, c)[k]]


def _pivots(matrix: Array) -> tuple[list[int], list[int], int | None]:
    """Rows and columns of a largest minor of the left side that is not zero modulo the prime, and a
    row that contradicts.
    """
    rows, columns = modular.pivots(matrix.astype(np.float64), PRIME)
    if columns and columns[-1] == matrix.shape[1] - 1:
        return rows[:-1], columns[:-1], rows[-1]
    return rows, columns, None


def _lifted(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """The solution of a square system of full rank, the right side in the last column."""
    whole = []
    for row in rows:
        scale = lcm(*(v.denominator for v in row))
        whole.append([int(v * scale) for v in row])
    for prime, most in LARGE:
        values = _eliminated(whole, prime)
        if values is None:
            continue
        found = [modular.fraction(v, prime, most) for v in values]
        solved = [v for v in found if v is not None]
        if len(solved) == len(rows) and all(_meets(row, solved) for row in whole):
            return solved
    return None


def _meets(row: list[int], values: Sequence[Fraction]) -> bool:
    return sum((r * v for r, v in zip(row, values, strict=False) if r), Fraction(0)) == row[-1]


def _eliminated(rows: list[list[int]], prime: int) -> list[int] | None:
    a, n = [row[:] for row in rows], len(rows)
    for k in range(n):
        pivot = next((r for r in range(k, n) if a[r][k] % prime), None)
        if pivot is None:
            return None
        a[k], a[pivot] = a[pivot], a[k]
        inverse = pow(a[k][k], -1, prime)
        a[k] = head = [0] * k + [v * inverse % prime for v in a[k][k:]]
        live = [c for c in range(k + 1, n + 1) if head[c]]
        for r in range(k + 1, n):
            if factor := a[r][k]:
                row = a[r]
                for c in live:
                    row[c] = (row[c] - factor * head[c]) % prime
    values = [0] * n
    for k in reversed(range(n)):
        values[k] = (a[k][n] - sum(a[k][c] * values[c] for c in range(k + 1, n))) % prime
    return values


def _signed(form: Form, sign: int) -> Form:
    return form if sign > 0 else (tuple(-a for a in form[0]), -form[1])


def turns(units: Sequence[Unit], found: OutputLayer) -> Iterator[tuple[int, ...]]:
    """Subsets of units with sum v_j m_j^T = K: meeting in the middle."""
    entries = [outer(unit.out, row) for unit, row in zip(units, found.slopes, strict=True)]
    target = tuple(k for row in found.linear for k in row)
    half = len(entries) // 2
    if len(entries) - half > MOST:
        raise Undecided(f"{len(entries)} units, of which a subset is to be found")
    left: dict[tuple[Fraction, ...], list[tuple[int, ...]]] = {}
    for pick in product((0, 1), repeat=half):
        left.setdefault(_total(entries[:half], pick, target), []).append(pick)
    for pick in product((0, 1), repeat=len(entries) - half):
        rest = tuple(
            t - s for t, s in zip(target, _total(entries[half:], pick, target), strict=True)
        )
        for first in left.get(rest, []):
            yield (*first, *pick)


def _total(
    entries: Sequence[tuple[Fraction, ...]], pick: Sequence[int], like: tuple[Fraction, ...]
) -> tuple[Fraction, ...]:
    total = tuple(Fraction(0) for _ in like)
    for entry, p in zip(entries, pick, strict=True):
        if p:
            total = tuple(a + b for a, b in zip(total, entry, strict=True))
    return total


def _layers(
    features: Features,
    units: Sequence[Unit],
    found: OutputLayer,
    turned: Sequence[int],
    width: int,
    extra: Sequence[Any] = (),
) -> list[Affine]:
    """The two layers, the units in `turned` turned, then units (row, bias, outgoing weights), then
    units of zeros.
    """
    outputs = len(found.constant)
    rows, biases, out = list[list[Fraction]](), list[Fraction](), list[Sequence[Fraction]]()
    ends = [-k for k in found.constant]
    for unit, row, c, t in zip(units, found.slopes, found.offsets, turned, strict=True):
        s = unit.sign * (1 - 2 * t)
        rows.append([s * m for m in row])
        biases.append(s * c)
        out.append([unit.sign * v for v in unit.out])
        ends = [e + t * v * c for e, v in zip(ends, unit.out, strict=True)]
    for row, bias, outgoing in extra:
        rows.append(row)
        biases.append(bias)
        out.append(outgoing)
        ends = plus(ends, -bias, outgoing)
    for _ in range(width - len(rows)):
        rows.append([Fraction(0)] * features.count)
        biases.append(Fraction(0))
        out.append([Fraction(0)] * outputs)
    return [(rows, biases), (columns(out, outputs), ends)]


def _carried(
    features: Features, units: Sequence[Unit], found: OutputLayer, width: int
) -> Iterator[list[Affine]]:
    """What is linear in the features, -K h, through units that are always on: one for each row of a
    basis of the rows of K.
    """
    basis = list[list[Fraction]]()
    shares = list[list[Fraction]]()  # of each output, its row of K in that basis
    for o, row in enumerate(found.linear):
        rest, share = row[:], list[Fraction]()
        for other in basis:
            lead = next(k for k, v in enumerate(other) if v)
            share.append(rest[lead] / other[lead])
            rest = plus(rest, -share[-1], other)
        if any(rest):
            basis.append(rest)
            share.append(Fraction(1))
            shares = [[*old, Fraction(0)] for old in shares]
        shares.append(share)
        assert len(shares) == o + 1
    if len(basis) <= width - len(units):
        # A bias above the largest |row . h| in the box: the unit is always on, and computes row . h
        # + bias.
        extra = []
        for k, row in enumerate(basis):
            extra.append((row, features.largest(row) + 1, times(-1, column(shares, k))))
        yield _layers(features, units, found, [0] * len(units), width, extra)
