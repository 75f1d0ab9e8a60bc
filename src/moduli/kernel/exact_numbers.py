"""Exact numbers: rationals, constants such as tanh(1/2), and arrays of them stored as floats with
remainders.

A stored float *is* a rational, so most numbers of a network need nothing but themselves.
`ExactArray` keeps an exact real matrix as the nearest floats `hi`, the nearest floats `lo` of what
remains, and, for the few entries that two floats cannot hold, the number itself. The representation
is unique: equal numbers, equal fields.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from .activations import Activation
from .errors import CertificateRejected

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Index = tuple[int, ...]
Interval = tuple[Fraction, Fraction]
LONGEST = 2**14  # bits of a numerator or denominator; a product of seven floats has fewer
DIGITS = 256  # bits that sums of constants are enclosed with


# Rationals ------------------------------------------------------------------------------------------------------


def residue(number: Fraction, prime: int) -> int:
    """A rational modulo a prime that does not divide its denominator, at least 0.

    Raises:
        ValueError: it does.

    >>> residue(Fraction(1, 2), 7)
    4
    """
    return number.numerator * pow(number.denominator, -1, prime) % prime


def bounded(q: Fraction) -> Fraction:
    """The rational, if its numerator and denominator are not too long.

    Moves can make numbers that grow without end, and so can sums of terms with different
    denominators: a short certificate would keep its reader busy for hours.

    Raises:
        CertificateRejected: they are.
    """
    if q.denominator.bit_length() > LONGEST or q.numerator.bit_length() > LONGEST:
        raise CertificateRejected(
            f"a number of {max(q.numerator.bit_length(), q.denominator.bit_length())} bits; the kernel computes with up to "
            f"{LONGEST}"
        )
    return q


class Work:
    """How much is left to be done in rationals: an entry that is put counts 1, a long one as much
    as it takes longer.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def spend(self, q: Fraction) -> None:
        bits = max(q.denominator.bit_length(), q.numerator.bit_length())
        self.left -= 1 + (bits * bits >> 20)
        if self.left < 0:
            raise CertificateRejected(
                f"more than {self.limit} entries would be computed in rationals"
            )


def total(terms: Iterable[Fraction]) -> Fraction:
    """The sum of rationals, none of it too long."""
    found = Fraction(0)
    for term in terms:
        found = bounded(found + term)
    return found


# Constants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Atom:
    """activation(argument); its hash is computed once, as it stands in the biases of all units that
    one unit feeds.
    """

    activation: Activation
    argument: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.activation, self.argument)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __reduce__(self) -> Any:
        return Atom, (self.activation, self.argument)  # hashes of text differ between processes

    @cached_property
    def enclosure(self) -> Interval:
        """Rationals that enclose the number."""
        return enclose_value(self.activation, enclose(self.argument))


@dataclass(frozen=True)
class Constant:
    """rational + sum of coefficient * atom, in normal form: equal forms are equal
    numbers.

    For tanh and rational arguments the converse holds too (Lindemann): different forms are
    different numbers.
    """

    rational: Fraction
    atoms: frozenset[tuple[Atom, Fraction]]

    def __repr__(self) -> str:
        """Equal numbers are written alike."""
        atoms = sorted((str(a.activation), repr(a.argument), c) for a, c in self.atoms)
        return f"Constant({self.rational!r}, {atoms})"

    @cached_property
    def enclosure(self) -> Interval:
        """Rationals that enclose the number, about 45 digits apart."""
        terms = [(c, atom.enclosure) for atom, c in self.atoms]
        # whole multiples of 2^-shift, rounded outward: far below the width of the largest term
        sizes = [_exponent(c) + max(map(_exponent, ends)) for c, ends in terms]
        shift = DIGITS - max(sizes)
        low = high = 0
        for coefficient, ends in terms:
            first, second = ends if coefficient >= 0 else ends[::-1]
            low += _multiple(coefficient, first, shift)
            high -= _multiple(-coefficient, second, shift)
        unit = Fraction(2) ** -shift
        return bounded(self.rational + low * unit), bounded(self.rational + high * unit)

    @cached_property
    def leading(self) -> Fraction:
        """A non-zero rational that changes sign with the number."""
        return (
            self.rational or min((str(a.activation), repr(a.argument), c) for a, c in self.atoms)[2]
        )


Number = Fraction | Constant


def _exponent(q: Fraction) -> int:
    """e with |q| < 2^e, at most two too large."""
    return q.numerator.bit_length() - q.denominator.bit_length() + 1


def _multiple(a: Fraction, b: Fraction, shift: int) -> int:
    """The greatest whole number of units 2^-shift that is at most a * b."""
    above, below = a.numerator * b.numerator, a.denominator * b.denominator
    return (above << shift) // below if shift >= 0 else above // (below << -shift)


def linear(terms: Iterable[tuple[Fraction, Number]]) -> Number:
    """sum of coefficient * number."""
    rational, atoms = Fraction(0), dict[Atom, Fraction]()
    for factor, number in terms:
        if isinstance(number, Fraction):
            rational = bounded(rational + factor * number)
            continue
        if number.rational:
            rational = bounded(rational + factor * number.rational)
        for atom, coefficient in number.atoms:
            product = factor if coefficient == 1 else factor * coefficient
            if atom in atoms:
                product += atoms[atom]
            atoms[atom] = bounded(product)
    kept = frozenset(item for item in atoms.items() if item[1])
    return Constant(rational, kept) if kept else rational


def value(activation: Activation, z: Number) -> Number:
    """activation(z) in normal form: atoms have arguments of positive leading sign where a
    reflection law makes it so.

    >>> from fractions import Fraction
    >>> tanh = Activation("tanh")
    >>> linear([(Fraction(1), value(tanh, Fraction(1, 2))), (Fraction(1), value(tanh, Fraction(-1, 2)))])
    Fraction(0, 1)
    """
    if isinstance(z, Fraction):
        exact = activation.exact(z)
        if exact is not None:
            return exact
    elif (line := activation.line(*enclose(z))) is not None:
        return linear([(line[0], z), (Fraction(1), line[1])])
    if activation.reflection is not None and (z if isinstance(z, Fraction) else z.leading) < 0:
        sign, slope, offset = activation.reflection
        mirrored = linear([(Fraction(-1), z)])
        return linear(
            [(sign, value(activation, mirrored)), (slope, mirrored), (Fraction(1), offset)]
        )
    return Constant(Fraction(0), frozenset([(Atom(activation, z), Fraction(1))]))


def enclose(number: Number) -> Interval:
    """Rationals low <= number <= high."""
    return (number, number) if isinstance(number, Fraction) else number.enclosure


# Activations at rational points ---------------------------------------------------------------------------------

_DIGITS = Context(prec=110, Emax=10**9, Emin=-(10**9))
_ERROR = Fraction(1, 10**50)
_FAR = 10**40


@cache
def _pi() -> Decimal:
    """Machin's formula in integers, 110 digits."""
    unit = 10**120

    def arctan(n: int) -> int:
        power = total = unit // n
        k = 1
        while power:
            power //= n * n
            k += 2
            total += -(power // k) if k % 4 == 3 else power // k
        return total

    return Decimal(16 * arctan(5) - 4 * arctan(239)) / Decimal(unit)


def _sigmoid(x: Decimal) -> Decimal:
    """For x <= 0 the quotient, elsewhere by reflection: no cancellation, no overflow."""
    if x > 0:
        return 1 - _sigmoid(-x)
    e = max(x, Decimal(-1000)).exp()
    return e / (1 + e)


def _tanh(x: Decimal) -> Decimal:
    return 2 * _sigmoid(2 * x) - 1


def _erf(x: Decimal) -> Decimal:
    """2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!: terms of one sign; erfc(12) < 1e-63."""
    if abs(x) > 12:
        return Decimal(1).copy_sign(x)
    term = total = x
    n = 0
    while abs(term) > Decimal("1e-112") * abs(total):
        n += 1
        term = term * 2 * x * x / (2 * n + 1)
        total += term
    return 2 / _pi().sqrt() * (-x * x).exp() * total


def _sin(x: Decimal) -> Decimal:
    """Taylor after reduction by 2 pi: for |x| <= 1e40 at least 68 digits remain."""
    turn = 2 * _pi()
    x -= (x / turn).to_integral_value() * turn
    term = total = x
    for n in range(1, 60):
        term = -term * x * x / (2 * n * (2 * n + 1))
        total += term
    return total


def _softplus(x: Decimal) -> Decimal:
    if x > 0:
        return x + _softplus(-x)
    return (1 + max(x, Decimal(-1000)).exp()).ln()


def _elu(x: Decimal, alpha: float) -> Decimal:
    """For x < 0; the other side is rational."""
    return Decimal(alpha) * (max(x, Decimal(-1000)).exp() - 1)


def _mish(x: Decimal) -> Decimal:
    """x tanh(softplus(x)), with w = e^x for x <= 0 and v = e^-x for x > 0: no cancellation, no
    overflow.
    """
    w = max(-abs(x), Decimal(-1000)).exp()
    if x > 0:
        return x * (1 + 2 * w) / (1 + 2 * w + 2 * w * w)
    return x * w * (w + 2) / (w * (w + 2) + 2)


def _gelu(x: Decimal) -> Decimal:
    return x / 2 * (1 + _erf(x / Decimal(2).sqrt()))


def _gelu_tanh(x: Decimal) -> Decimal:
    inner = (2 / _pi()).sqrt() * (x + Decimal("0.044715") * x**3)
    return x / 2 * (1 + _tanh(inner))


_NEAR: dict[str, Callable[..., Decimal]] = {
    "tanh": _tanh, "sigmoid": _sigmoid, "erf": _erf, "sin": _sin, "softplus": _softplus,
    "gelu": _gelu, "gelu_tanh": _gelu_tanh, "silu": lambda x: x * _sigmoid(x), "elu": _elu,
    "mish": _mish,
}  # fmt: skip


def _near(activation: Activation, q: Fraction) -> Fraction:
    with localcontext(_DIGITS):
        return Fraction(
            _NEAR[activation.kind](
                Decimal(q.numerator) / Decimal(q.denominator), *activation.parameters
            )
        )


def enclose_value(activation: Activation, z: Interval) -> Interval:
    """An interval that holds activation(t) for every t in z.

    At the midpoint the value is computed with 110 decimal digits and widened by 1e-50 (1 + |z|),
    times the Lipschitz constant where that is large; from there the Lipschitz constant carries it
    to the ends. The range of a bounded activation caps it.
    """
    low, high = z
    middle, radius = (low + high) / 2, activation.lipschitz * (high - low) / 2
    exact = activation.exact(middle)
    if exact is None and abs(middle) > _FAR:
        return _enclose_far(activation, z)
    if exact is None:
        exact = _near(activation, middle)
        radius += _ERROR * (1 + abs(middle)) * max(Fraction(1), activation.lipschitz)
    ends = exact - radius, exact + radius
    if activation.least is None or activation.most is None:
        return ends
    return max(ends[0], activation.least), min(ends[1], activation.most)


def _enclose_far(activation: Activation, z: Interval) -> Interval:
    """All arguments beyond 1e40: saturated (error below 1e-50); else all of the range, as nothing
    better is known here.
    """
    low, high = z
    if activation.tails is None or (low <= _FAR and high >= -_FAR):
        reach = (
            activation.lipschitz * max(abs(low), abs(high)) + 1
        )  # |s(0)| is below 1 where nothing bounds s
        bound = activation.bound if activation.bound is not None else reach
        return -bound, bound
    slope, offset = activation.tails[low > 0]
    return slope * low + offset - _ERROR, slope * high + offset + _ERROR


# Exact arrays ---------------------------------------------------------------------------------------------------


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """s, e with s = fl(a + b) and a + b = s + e exactly (Knuth)."""
    s = a + b
    t = s - a
    return np.asarray(s), np.asarray((a - (s - t)) + (b - t))


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """p, e with a * b = p + e exactly (Dekker), for magnitudes within 2^-450 and 2^450 or zero."""
    p = a * b
    a1 = a * 134217729.0
    a1 = a1 - (a1 - a)
    b1 = b * 134217729.0
    b1 = b1 - (b1 - b)
    a2, b2 = a - a1, b - b1
    return np.asarray(p), np.asarray(((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2)


def exact_sum(floats: Iterable[float]) -> Fraction:
    """The exact sum of floats, by integers over one power of two."""
    pairs = [f.as_integer_ratio() for f in floats]
    scale = max((d for _, d in pairs), default=1)
    return Fraction(sum(n * (scale // d) for n, d in pairs), scale)


class Entry(NamedTuple):
    """What stands at an index of an exact array; of a grid where no number needs more than floats,
    `hi` and `lo` are arrays.
    """

    at: Any
    hi: Any
    lo: Any
    rest: Number | None


class ExactArray:
    """A matrix or vector of exact numbers.

    Attributes:
        hi: nearest floats (copied before the first change). lo: nearest floats of exact - hi, or
            None for all zero.
        rest: the entries that hi + lo does not hold, by index.
        work: what entries that are put are charged to, if anything.
    """

    def __init__(
        self, hi: Array, lo: Array | None = None, rest: dict[Index, Number] | None = None,
        work: Work | None = None,
    ) -> None:  # fmt: skip
        self.hi, self.lo, self.rest, self.work = hi, lo, rest or {}, work
        self._own = False

    def get(self, at: Index) -> Number:
        if at in self.rest:
            return self.rest[at]
        found = Fraction(float(self.hi[at]))
        if self.lo is not None and self.lo[at]:
            found += Fraction(float(self.lo[at]))
        return found

    def put(self, at: Index, number: Number) -> None:
        self.set([self.entry(at, number)])

    def entry(self, at: Index, number: Number) -> Entry:
        """What would stand there; nothing changes yet, but the work is done.

        Raises:
            CertificateRejected: the number is too long, or too much work was done.
        """
        low, high = enclose(number)
        middle = bounded((low + high) / 2)
        if self.work is not None:
            self.work.spend(middle)
        hi = nearest(middle)
        lo = nearest(middle - Fraction(hi)) if math.isfinite(hi) else 0.0
        held = (
            not isinstance(number, Constant)
            and math.isfinite(hi)
            and Fraction(hi) + Fraction(lo) == number
        )
        return Entry(at, hi, lo, None if held else number)

    def set(self, entries: Iterable[Entry]) -> None:
        """Write entries that were made ready; this cannot fail."""
        for at, hi, lo, rest in entries:
            self.write(at, hi, lo)
            if rest is not None:
                self.rest[at] = rest
            elif self.rest:
                self.rest.pop(at, None)

    def write(self, at: Any, hi: Any, lo: Any) -> None:
        """Set entries to hi + lo; `lo` must be the nearest floats of a remainder."""
        if not self._own:
            self.hi, self.lo = self.hi.copy(), None if self.lo is None else self.lo.copy()
            self._own = True
        self.hi[at] = hi
        if self.lo is None and np.any(lo):
            self.lo = np.zeros(
                self.hi.shape
            )  # takes no memory where it stays zero, unlike zeros_like
        if self.lo is not None:
            self.lo[at] = lo

    def nonzero(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the number is not zero."""
        mask: np.ndarray[Any, np.dtype[np.bool_]] = self.hi != 0
        for at in self.rest:
            mask[at] = True
        return mask

    def is_float(self) -> bool:
        """Whether every entry is the float `hi`."""
        return not self.rest and (self.lo is None or not self.lo.any())

    def equals(self, other: ExactArray) -> bool:
        if (
            self.hi.shape != other.hi.shape
            or not np.array_equal(self.hi, other.hi)
            or self.rest != other.rest
        ):
            return False
        if self.lo is None and other.lo is None:
            return True
        mine, yours = (np.zeros(a.hi.shape) if a.lo is None else a.lo for a in (self, other))
        return np.array_equal(mine, yours)

    def rows(self, at: slice) -> ExactArray:
        """Rows at a slice of step 1, without a copy."""
        first, last, _ = at.indices(self.hi.shape[0])
        rest = {
            (i[0] - first, *i[1:]): number
            for i, number in self.rest.items()
            if first <= i[0] < last
        }
        return ExactArray(self.hi[at], None if self.lo is None else self.lo[at], rest)

    def take(self, *axes: np.ndarray[Any, np.dtype[np.intp]]) -> ExactArray:
        """The sub-array of the given (increasing or permuted) indices along each axis."""
        whole = all(
            len(a) == n and np.array_equal(a, np.arange(n))
            for a, n in zip(axes, self.hi.shape, strict=True)
        )
        if whole:
            return ExactArray(self.hi, self.lo, dict(self.rest))
        grid = np.ix_(*axes)
        places = (
            [{int(old): new for new, old in enumerate(axis)} for axis in axes] if self.rest else []
        )
        rest = {
            tuple(p[i] for p, i in zip(places, at, strict=True)): number
            for at, number in self.rest.items()
            if all(i in p for p, i in zip(places, at, strict=True))
        }
        return ExactArray(self.hi[grid], None if self.lo is None else self.lo[grid], rest)

    def scale(self, rows: Any, cols: Any, ratio: Fraction) -> None:
        """entry *= ratio at the given rows (and columns of a matrix)."""
        self.set(self.scaled(rows, cols, ratio))

    def scaled(self, rows: Any, cols: Any, ratio: Fraction) -> list[Entry]:
        """The entries that `scale` writes."""
        if ratio == 1:
            return []
        at = (rows,) if cols is None else np.ix_(rows, cols)
        parts = [p for p in (self.hi, self.lo) if p is not None]
        binary = _is_power_of_two(ratio) and 2**-500 < abs(ratio) < 2**500
        if binary and not self.rest:
            with np.errstate(over="ignore", under="ignore"):
                new = [p[at] * float(ratio) for p in parts]
            if all(
                np.array_equal(n / float(ratio), p[at]) for n, p in zip(new, parts, strict=True)
            ):
                return [Entry(at, new[0] + 0.0, new[1] + 0.0 if len(new) > 1 else 0.0, None)]
        found = []
        for row in rows.tolist():
            for index in [(row,)] if cols is None else [(row, col) for col in cols.tolist()]:
                found.append(self.entry(index, linear([(ratio, self.get(index))])))
        return found

    def add_columns(self, into: Any, units: Any, factor: Fraction, rows: Any) -> None:
        """column[into[k]] += factor * column[units[k]] for all k, at the given rows. No target is a
        unit.

        Where a number is too long nothing changes.
        """
        into, units = np.asarray(into, dtype=np.intp), np.asarray(units, dtype=np.intp)
        order = np.argsort(into, kind="stable")
        targets, starts, counts = np.unique(into[order], return_index=True, return_counts=True)
        plain = abs(factor) == 1 and not self.rest
        if plain:
            dirty = np.zeros(self.hi.shape[1], dtype=bool)
            if self.lo is not None:
                dirty |= self.lo.any(axis=0)
            first = order[starts]
            pairs = (counts == 1) & ~dirty[targets] & ~dirty[units[first]]
            self._add_pairs(targets[pairs], units[first[pairs]], float(factor), rows)
            targets, starts, counts = (x[~pairs] for x in (targets, starts, counts))
        found = []
        for target, start, count in zip(
            targets.tolist(), starts.tolist(), counts.tolist(), strict=True
        ):
            members = units[order[start : start + count]]
            for row in rows.tolist():
                if plain:  # a sum of floats is never too long
                    self._put_sum(
                        (row, target),
                        self._parts(row, [target], 1.0) + self._parts(row, members, float(factor)),
                    )
                else:
                    parts = [(factor, self.get((row, unit))) for unit in members.tolist()]
                    found.append(
                        self.entry(
                            (row, target), linear([(Fraction(1), self.get((row, target))), *parts])
                        )
                    )
        self.set(found)

    def _parts(self, row: int, columns: Any, sign: float) -> list[float]:
        parts = [self.hi] if self.lo is None else [self.hi, self.lo]
        return [x for part in parts for x in (sign * part[row, columns]).tolist()]

    def _add_pairs(self, into: Any, units: Any, sign: float, rows: Any) -> None:
        if not len(into):
            return
        a, b = self.hi[np.ix_(rows, into)], self.hi[np.ix_(rows, units)] * sign
        with np.errstate(over="ignore", invalid="ignore"):
            s, e = two_sum(a, b)
        held = np.isfinite(s) & np.isfinite(
            e
        )  # next to the largest float a step may overflow though the sum does not
        self.write(np.ix_(rows, into), s, np.where(held, e, 0.0))
        for i, j in np.argwhere(~held):
            self.rest[int(rows[i]), int(into[j])] = Fraction(float(a[i, j])) + Fraction(
                float(b[i, j])
            )

    def _put_sum(self, at: Index, terms: list[float]) -> None:
        try:
            hi = math.fsum(terms)
            lo = math.fsum([*terms, -hi])
            if math.fsum([*terms, -hi, -lo]) == 0:
                self.write(at, hi, lo)
                return
        except OverflowError:
            pass
        self.put(at, exact_sum(terms))


def nearest(q: Fraction) -> float:
    try:
        return float(q)
    except OverflowError:
        return math.inf if q > 0 else -math.inf


def _rational(array: ExactArray, i: int, j: int) -> Fraction:
    number = array.get((i, j))
    if not isinstance(number, Fraction):
        raise TypeError(
            f"entry [{i}, {j}] of a product is the constant {number}; products are taken of rationals"
        )
    return number


def _is_power_of_two(q: Fraction) -> bool:
    """Whether |q| is 2^k, k of any sign."""
    return q.numerator.bit_count() == 1 and q.denominator.bit_count() == 1


def matmul(a: ExactArray, b: ExactArray) -> ExactArray:
    """The exact product ``[n, k] @ [k, m]``.

    Double-double accumulation; the entries where that loses a bit are done again in rationals.
    """
    hi, lo, lost = _double_double(*_stacked(a, b))
    # numbers that are no sum of two floats: their whole row or column of the product is done again
    for i, _ in a.rest:
        lost[i] = True
    for _, j in b.rest:
        lost[:, j] = True
    out = ExactArray(hi, lo if lo.any() else None)
    for i, j in np.argwhere(lost).tolist():
        out.put(
            (i, j), total(_rational(a, i, k) * _rational(b, k, j) for k in range(a.hi.shape[1]))
        )
    return out


def _stacked(a: ExactArray, b: ExactArray) -> tuple[Array, Array]:
    """Two float matrices with the product of a and b: (A + a)(B + b) = [A A a a] [B; b; B; b], but
    for the rest.
    """
    left = [part for part in (a.hi, a.lo) if part is not None]
    right = [part for part in (b.hi, b.lo) if part is not None]
    wide = [part for part in left for _ in right]
    tall = right * len(left)
    return np.concatenate(wide, axis=1), np.concatenate(tall, axis=0)


def _double_double(left: Array, right: Array) -> tuple[Array, Array, Mask]:
    """The product of two float matrices as sums of two floats, and where these are not the exact
    sum.
    """
    shape = (left.shape[0], right.shape[1])
    hi, lo, lost = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    if not _products_are_exact(left, right):
        lost[:] = True
        return hi, lo, lost
    for k in range(left.shape[1]):
        rows, cols = np.flatnonzero(left[:, k]), np.flatnonzero(right[k])
        if not (rows.size and cols.size):
            continue
        whole = rows.size * cols.size == lost.size
        at: Any = (
            (slice(None), slice(None)) if whole else np.ix_(rows, cols)
        )  # an index grid costs a copy
        product, product_low = two_product(left[rows, k][:, None], right[k, cols][None, :])
        hi[at], carried = two_sum(hi[at], product)
        low, lost_low = two_sum(product_low, carried)
        lo[at], lost_sum = two_sum(lo[at], low)
        lost[at] |= (lost_low != 0) | (lost_sum != 0)
    return *two_sum(hi, lo), lost


def _products_are_exact(left: Array, right: Array) -> bool:
    """Whether `two_product` of any two entries is exact: nothing underflows or overflows."""
    sizes = np.abs(np.concatenate([left.ravel(), right.ravel()]))
    sizes = sizes[sizes > 0]
    return bool(not sizes.size or (sizes.min() >= 2.0**-450 and sizes.max() <= 2.0**450))


# Outward-rounded bounds -----------------------------------------------------------------------------------------


def ceiling(q: Fraction) -> float:
    """The least float that is at least q.

    >>> ceiling(Fraction(1, 3)) > 1 / 3 == -ceiling(Fraction(-1, 3))
    True
    """
    try:
        nearest = float(q)
    except OverflowError:
        return math.inf if q > 0 else -sys.float_info.max
    return nearest if Fraction(nearest) >= q else math.nextafter(nearest, math.inf)


def above(bound: float, digits: int) -> str:
    """An upper bound in that many digits, rounded up: what is printed is a bound too.

    >>> above(1.00000024, 3), above(0.25, 3), above(math.inf, 3)
    ('1.01', '0.25', 'inf')
    """
    return _printed(bound, digits, ROUND_CEILING)


def below(bound: float, digits: int) -> str:
    """A lower bound in that many digits, rounded down.

    >>> below(0.99999, 3), below(-2.0001, 3)
    ('0.999', '-2.01')
    """
    return _printed(bound, digits, ROUND_FLOOR)


def _printed(bound: float, digits: int, rounding: str) -> str:
    if not math.isfinite(bound):
        return f"{bound:g}"
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal(bound)):.{digits}g}"


def sum_up(*parts: float) -> float:
    """An upper bound of a sum of non-negative numbers, exact where at most one is not zero."""
    some = [p for p in parts if p]
    try:
        return math.fsum(some) if len(some) < 2 else math.nextafter(math.fsum(some), math.inf)
    except OverflowError:
        return math.inf


def up_matmul(a: Array, b: Array) -> Array:
    """An upper bound of a @ b for non-negative arrays, with 0 * inf = 0; exactly 0 where every
    product is.

    A float sum of n non-negative products falls short by a factor below 1 - (n + 1) 2^-53 and by
    underflows of 2^-1074 each [Higham 2002, 3.1]; both are added back.
    """
    n = a.shape[1]
    met = (a != 0).astype(np.float64) @ (b != 0).astype(np.float64) > 0
    with np.errstate(over="ignore", invalid="ignore"):
        total = up(a @ np.where(np.isfinite(b), b, 0.0), n + 2) + n * 5e-324
    total[np.isnan(total)] = np.inf
    if not np.isfinite(b).all():
        total[(a != 0).astype(np.float64) @ (~np.isfinite(b)).astype(np.float64) > 0] = np.inf
    return np.asarray(np.where(met, total, 0.0))


def up(x: Array | np.float64, steps: int = 2) -> Array:
    """An upper bound of a non-negative float sum that lost at most `steps` roundings; 0 stays 0."""
    with np.errstate(over="ignore"):
        return np.where(x == 0, 0.0, np.nextafter(x * (1 + (steps + 2) * 2.0**-52), np.inf))


def up_scale(x: Array | np.float64, factor: float) -> Array:
    """An upper bound of x * factor for non-negative x and positive factor, safe where the product
    underflows.
    """
    with np.errstate(over="ignore"):
        return np.where(x == 0, 0.0, np.nextafter(x * factor * (1 + 2.0**-50), np.inf))


def row_keys(rows: Array, extra: Array) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A 64-bit key per row of floats (no -0.0) and one extra column: different keys, different
    rows.

    The high half is folded onto the low one first, because short mantissas have empty low bits.
    """
    factors = np.random.default_rng(20230605).integers(
        1, 2**63, rows.shape[1] + 1, dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    fold, mix = np.uint64(32), np.uint64(29)
    bits, last = rows.view(np.uint64), extra.view(np.uint64)
    keys = (bits ^ (bits >> fold)) @ factors[:-1] + (last ^ (last >> fold)) * factors[-1]
    return np.asarray(keys ^ (keys >> mix))


def class_keys(
    weight: Array, bias: Array, *, sign: bool, scale: bool
) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], Array]:
    """A key per row (w, b), equal for rows that differ by a sign (`sign`) or a positive factor
    (`scale`), and the signs.

    So different keys *prove* different classes, and equal keys only suggest equal ones. Float
    division is correctly rounded, hence proportional rows have the same quotients by their largest
    entry. Rows are read in blocks that fit the cache; a row of zero weights has sign 1.
    """
    rows = len(bias)
    keys, signs = np.empty(rows, dtype=np.uint64), np.ones(rows)
    block = max(1, 2**16 // max(1, weight.shape[1]))
    for start in range(0, rows, block):
        at = slice(start, start + block)
        w, b = weight[at], bias[at]
        if sign:
            signs[at] = s = _leading_sign(w)
            w, b = w * s[:, None], b * s
        if scale:
            with np.errstate(all="ignore"):
                size = np.abs(w).max(axis=1, initial=0.0)
                size[size == 0] = 1.0
                w, b = w / size[:, None], b / size
        keys[at] = row_keys(np.ascontiguousarray(w + 0.0), b + 0.0)
    return keys, signs


def _leading_sign(w: Array) -> Array:
    """The sign of the first non-zero entry of each row, 1 for a zero row."""
    signs = np.sign(w[:, 0]) if w.shape[1] else np.zeros(len(w))
    for row in np.flatnonzero(signs == 0):
        nonzero = np.flatnonzero(w[row])
        signs[row] = np.sign(w[row, nonzero[0]]) if nonzero.size else 1.0
    return np.asarray(signs)
