"""What is known of the slices of a tensor along one of its axes. Part of the kernel.

Slice i of a tensor along an axis is the tensor at index i of it. Two kinds of facts are kept, for
every input of the graph that is allowed:

    slice i = ratio[i] * (the tensor that class[i] names)            exactly, over the reals
    low[i] <= every entry of slice i <= high[i]

A class is a number that stands for one tensor, the same wherever it occurs in a graph. Class `ONE`
is the tensor of ones, so a constant slice has class `ONE` and its value as the ratio, and a slice
of zeros the ratio 0. Slices of different classes may be equal: nothing is known of them.

Facts stay true when indices of other axes are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

ONE = 0
BLOCK = 2**20  # floats that are looked at at a time
WHOLE = 2**53  # below this doubles hold all integers
# A ratio of floats takes 2,200 bits at most; products of many of them would take any memory.
MOST_BITS = 2**13


@dataclass(frozen=True)
class Slices:
    """Facts about the slices along one axis of one tensor.

    Attributes:
        classes: [n]. ratios: [n] rationals. low, high: [n], minus or plus infinity where unknown.
    """

    classes: Ints
    ratios: tuple[Fraction, ...]
    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.ratios)

    def constant(self, i: int) -> Fraction | None:
        """The value of a slice that is known to be constant."""
        if self.ratios[i] == 0:
            return self.ratios[i]
        return self.ratios[i] if self.classes[i] == ONE else None

    def take(self, kept: Any) -> Slices:
        places = np.asarray(kept)
        ratios = tuple(self.ratios[i] for i in places.tolist())
        return Slices(self.classes[places], ratios, self.low[places], self.high[places])

    def known(self) -> Ints:
        """Indices of slices that are constant or share their class: only these can turn out equal."""
        _, where, counts = np.unique(self.classes, return_inverse=True, return_counts=True)
        shared = (counts[where] > 1) | (self.classes == ONE)
        return np.flatnonzero(shared)


class Classes:
    """Names of tensors: the same key, the same tensor."""

    def __init__(self) -> None:
        self.names: dict[Hashable, int] = {}
        self.count = ONE + 1

    def fresh(self, n: int) -> Ints:
        """Classes that no other slice has."""
        self.count += n
        return np.arange(self.count - n, self.count, dtype=np.int64)

    def of(self, key: Hashable) -> int:
        if key not in self.names:
            self.names[key] = self.count
            self.count += 1
        return self.names[key]

    def unknown(self, n: int) -> Slices:
        """Slices of which nothing is known."""
        end = np.full(n, np.inf)
        return Slices(self.fresh(n), (Fraction(1),) * n, -end, end)

    def made(
        self, n: int, low: Array, high: Array, known: dict[int, tuple[int, Fraction]]
    ) -> Slices:
        """Slices of new classes but for those whose class and ratio are given; a range of one number
        makes a constant."""
        classes = self.fresh(n)
        ratios = [Fraction(1)] * n
        for i in np.flatnonzero((low == high) & np.isfinite(low)).tolist():
            classes[i], ratios[i] = ONE, Fraction(float(low[i]))
        for i, (name, ratio) in known.items():
            if ratio == 0:
                name = ONE
            if classes[i] != ONE and _short(ratio):
                classes[i], ratios[i] = name, ratio
        for i in np.flatnonzero(classes == ONE).tolist():
            low[i] = max(low[i], _below(ratios[i]))
            high[i] = min(high[i], _above(ratios[i]))
        return Slices(classes, tuple(ratios), low, high)


def _short(q: Fraction) -> bool:
    return max(q.numerator.bit_length(), q.denominator.bit_length()) <= MOST_BITS


def _below(q: Fraction) -> float:
    near = _float(q)
    with np.errstate(all="ignore"):
        return near if Fraction(near) <= q else float(np.nextafter(near, -np.inf))


def _above(q: Fraction) -> float:
    return -_below(-q)


def _float(q: Fraction) -> float:
    largest = float(np.finfo(np.float64).max)
    if abs(q) > Fraction(largest):
        return largest if q > 0 else -largest
    return float(q)


def of_array(array: Any, axis: int, classes: Classes) -> Slices:
    """Of a stored tensor along an axis."""
    rows = np.moveaxis(np.asarray(array), axis, 0)
    rows = rows.reshape(len(rows), -1)
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    if rows.size == 0 or not are_numbers(rows):
        return classes.unknown(len(rows))
    for block, wide in blocks(rows):
        low[block], high[block] = wide.min(axis=1), wide.max(axis=1)
    names, ratios = multiples(rows, classes)
    return Slices(names, ratios, low, high)


def blocks(rows: Any) -> Iterator[tuple[slice, Array]]:
    """Some rows at a time as floats of 64 bits, so that a large tensor is not held twice."""
    height = max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), height):
        block = slice(start, start + height)
        yield block, np.asarray(rows[block], dtype=np.float64)


def are_numbers(array: Any) -> bool:
    """Whether all entries of a stored tensor are finite, and what they are in 64 bits is what they are."""
    stored = np.asarray(array)
    if not stored.size:
        return True
    if stored.dtype.kind == "f" and stored.dtype.itemsize > 8:
        return False
    flat = stored.reshape(len(stored), -1) if stored.ndim else stored.reshape(1, 1)
    whole = stored.dtype.kind in "iu" and stored.dtype.itemsize > 4
    with np.errstate(all="ignore"):
        for _, wide in blocks(flat):
            if not np.isfinite(wide).all() or (whole and not (np.abs(wide) < WHOLE).all()):
                return False
    return True


def multiples(
    rows: Any, classes: Classes, biases: Array | None = None
) -> tuple[Ints, tuple[Fraction, ...]]:
    """Classes and ratios of finite rows of floats ``[n, k]``: rows that are multiples share a class,
    which stands for a row divided by its first entry that is not zero.

    Without biases rows of equal entries are constant. With biases ``[n]`` a row and its bias stand
    for a function of one input, and only rows of zeros are constant.
    The classes are new: the same tensor, asked for twice, may have changed.
    """
    n = len(rows)
    found = np.zeros(n, dtype=np.int64)
    leads = np.zeros(n)
    buckets: dict[bytes, list[int]] = {}

    def row(i: int) -> Array:
        wide = np.asarray(rows[i], dtype=np.float64)
        return wide if biases is None else np.append(wide, biases[i])

    for block, wide in blocks(rows):
        if biases is not None:
            wide = np.concatenate([wide, biases[block, None]], axis=1)
        first = wide[np.arange(len(wide)), (wide != 0).argmax(axis=1)]
        leads[block] = first
        flat = first == 0 if biases is not None else (wide == wide[:, :1]).all(axis=1)
        for k in np.flatnonzero(~flat).tolist():
            i = block.start + k
            # exact multiples give the same quotients, since quotients are rounded correctly (and
            # + 0.0 makes zeros alike); the converse is checked by exact products
            with np.errstate(all="ignore"):
                key = hashlib.blake2b((wide[k] / first[k] + 0.0).tobytes(), digest_size=16).digest()
            alike = buckets.setdefault(key, [])
            for j in alike:
                if _proportional(wide[k], row(j), float(first[k]), float(leads[j])):
                    found[i] = found[j]
                    break
            else:
                found[i] = classes.fresh(1)[0]
                alike.append(i)
    return found, tuple(map(Fraction, leads.tolist()))


def _proportional(a: Array, b: Array, lead_a: float, lead_b: float) -> bool:
    """Whether a * lead_b = b * lead_a exactly."""
    if np.array_equal(a, b):
        return True
    with np.errstate(all="ignore"):
        left, right = a * lead_b, b * lead_a
    if not np.array_equal(left, right):
        return False
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    exact_a, exact_b = Fraction(lead_a), Fraction(lead_b)
    return all(Fraction(x) * exact_b == Fraction(y) * exact_a for x, y in pairs)
