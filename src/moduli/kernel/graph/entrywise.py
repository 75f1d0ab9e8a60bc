"""Operators that act entry by entry. Part of the kernel.

The output at an index reads the inputs at this index, or their only one, so that leaving indices
out of all of them changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..exact_numbers import two_product
from .functions import law
from .operator import TINY, UNIT, UNITY, ZERO, Facts, Node, Operator, Shape, Tensor, Ties
from .slices import ONE, Array, Slices, are_numbers


def close_to(scale: Tensor) -> Fraction:
    """What of a quotient a division in the type of the scale may lose."""
    bits = {"float16": 8, "bfloat16": 5}.get(scale.dtype.name, 18)
    return Fraction(1, 2**bits)


@dataclass(frozen=True)
class Elementwise(Operator):
    """f(x, y, ...) of each entry, shapes broadcast as numpy does.

    Attributes:
        kind: the function, see `functions` for those of one argument; add, sub, mul, div, max, min,
            pow, prelu, where for more; of any other name nothing but that it is a function.
        numbers: that belong to it.
    """

    kind: str
    numbers: tuple[float, ...] = ()

    def couple(self, node: Node, ties: Ties) -> None:
        # entry i of the output reads entry i of each input that has more than one entry along the
        # axis: leaving i out of all leaves the others as they were
        tie_broadcast(node, [name for name in node.inputs if name], ties)

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        return arrays[0] if self.kind == "identity" else None

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        shape = facts.shape(node.output)
        assert shape is not None
        n = shape[axis]
        assert isinstance(n, int)
        parts = [aligned(name, axis - len(shape), n, facts, shape) for name in node.inputs if name]
        if len(parts) == 1:
            return self._unary(node, axis, parts[0], facts)
        low, high = _range(self.kind, parts)
        known = dict[int, tuple[int, Fraction]]()
        stored = [facts.array(name) for name in node.inputs if name]
        if self.kind == "mul" and not all(a is None or are_numbers(a) for a in stored):
            return facts.classes.unknown(n)  # nothing is zero times what is no number
        for i in interesting(self.kind, parts):
            found = _combined(self.kind, [(int(p.classes[i]), p.ratios[i]) for p in parts])
            if found is None:
                continue
            name, ratio = found
            key = (node.output, axis, name)
            known[i] = (name if isinstance(name, int) else facts.classes.of(key), ratio)
        return facts.classes.made(n, low, high, known)

    def _unary(self, node: Node, axis: int, x: Slices, facts: Facts) -> Slices:
        if self.kind == "identity":
            return x
        rule = law(self.kind, self.numbers)
        with np.errstate(all="ignore"):
            low, high = (
                rule.between(x.low, x.high, *self.numbers)
                if rule.between
                else (np.full(len(x), -np.inf), np.full(len(x), np.inf))
            )
        low, high = _sane(low, high)
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            name, ratio = int(x.classes[i]), x.ratios[i]
            if name == ONE or ratio == 0:
                value = rule.at(ratio, *self.numbers)
                if value is not None:
                    known[i] = (ONE, value)
                    continue
            key: tuple[Any, ...]
            if rule.linear:
                key, factor = (name, UNITY), ratio
            elif rule.homogeneous:
                # f(r t) = |r| f(sign(r) t)
                sign = -1 if ratio < 0 and not rule.even else 1
                key, factor = (name, sign), abs(ratio)
            elif rule.odd:
                key, factor = (name, abs(ratio)), UNITY if ratio > 0 else -UNITY
            else:
                key, factor = (name, abs(ratio) if rule.even else ratio), UNITY
            known[i] = (facts.classes.of((node.output, axis, key)), factor)
        if self.kind == "relu":
            # where x is never negative, relu(x) = x
            for i in np.flatnonzero(x.low >= 0).tolist():
                known[i] = (int(x.classes[i]), x.ratios[i])
        return facts.classes.made(len(x), low, high, known)


def tie_broadcast(node: Node, names: Sequence[str], ties: Ties, ends: int = 0) -> None:
    """Ties of tensors that broadcast against the output, but for their last `ends` axes."""
    shape = ties.shape(node.output)
    if shape is None:
        for name in names:
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), f"{node.name!r}, whose output has a shape that is not known")
        return
    for axis in range(len(shape) - ends):
        back = axis - len(shape)
        n = shape[axis]
        for name in names:
            other = ties.shape(name)
            if other is None:
                ties.fix(
                    (node.output, axis), f"{node.name!r}, which reads a tensor of unknown shape"
                )
            elif -back <= len(other):
                m = other[back]
                place = (name, len(other) + back)
                if m == n and isinstance(n, int):
                    if n > 1:
                        ties.same(place, (node.output, axis))
                elif m != 1:
                    # which of the two is broadcast is not known
                    ties.fix(place, f"{node.name!r}, where sizes {m} and {n} meet")
                    ties.fix((node.output, axis), f"{node.name!r}, where sizes {m} and {n} meet")


def aligned(name: str, back: int, n: int, facts: Facts, whole: Shape) -> Slices:
    """Facts about an operand along an axis of an output of shape `whole`, counted from the end."""
    shape = facts.shape(name)
    if shape is None:
        return facts.classes.unknown(n)
    size = shape[back] if -back <= len(shape) else 1
    if size == n and n != 1:
        found = facts.of((name, len(shape) + back))
        own = (*shape[:back], *shape[len(shape) + back + 1 :])
        rest = (*whole[:back], *whole[len(whole) + back + 1 :])
        # a slice that is repeated along other axes is another tensor, unless it is constant
        return found if own == rest else renamed(found, ("spread", own, rest), facts)
    if size != 1:
        return facts.classes.unknown(n)  # which of the two is broadcast is not known
    # one tensor for all indices: it is the same tensor, or a number
    array = facts.array(name)
    if array is not None and array.size and are_numbers(array):
        wide = np.asarray(array, dtype=np.float64)
        low, high = np.full(n, wide.min()), np.full(n, wide.max())
        if wide.min() == wide.max():
            names, ratios = np.full(n, ONE, dtype=np.int64), (Fraction(float(wide.min())),) * n
            return Slices(names, ratios, low, high)
    elif array is None and -back <= len(shape):
        only = facts.of((name, len(shape) + back))
        low, high = np.full(n, only.low[0]), np.full(n, only.high[0])
    else:
        low, high = np.full(n, -np.inf), np.full(n, np.inf)
    names = np.full(n, facts.classes.of(("whole", name, back)), dtype=np.int64)
    return Slices(names, (UNITY,) * n, low, high)


def renamed(x: Slices, how: tuple[Any, ...], facts: Facts) -> Slices:
    """Slices whose entries are those of others in another order, or some of them, or repeated: the
    same is done to all, so that ratios and constants stay, but they are other tensors.
    """
    names = x.classes.copy()
    for i in np.flatnonzero(names != ONE).tolist():
        names[i] = facts.classes.of((how, int(names[i])))
    return Slices(names, x.ratios, x.low, x.high)


def interesting(kind: str, parts: Sequence[Slices]) -> list[int]:
    """Indices at which something may be found: two outputs can only be found equal where all
    operands are, and an operand that is zero or one may settle the output alone.
    """
    n = len(parts[0])
    shared = np.ones(n, dtype=bool)
    settled = np.zeros(n, dtype=bool)
    for part in parts:
        mine = np.zeros(n, dtype=bool)
        mine[part.known()] = True
        shared &= mine
        settled |= part.classes == ONE
    if kind in ("add", "sub") and len(parts) == 2:
        settled |= parts[0].classes == parts[1].classes
    return np.flatnonzero(shared | settled).tolist()


Named = tuple[int, Fraction]


def _combined(kind: str, parts: Sequence[Named]) -> tuple[Any, Fraction] | None:
    """Class (or the key of a new one) and ratio of f(r t, s u, ...), t and u named by classes.

    Each branch is an identity of real numbers; a class with ratio 0 is zero whatever it names.
    """
    if kind in ("add", "sub", "mul", "div", "max", "min", "pow", "prelu") and len(parts) != 2:
        return tuple(parts), UNITY
    if kind in ("add", "sub"):
        (a, r), (b, s) = parts
        s = s if kind == "add" else -s
        if r == 0:
            return b, s
        if s == 0:
            return a, r
        if a == b:
            return a, r + s
        return (a, b, s / r), r  # r t + s u = r (t + s/r u)
    if kind == "mul":
        (a, r), (b, s) = parts
        if r == 0 or s == 0:
            return ONE, ZERO
        if a == ONE:
            return b, r * s
        if b == ONE:
            return a, r * s
        return (a, b), r * s
    if kind == "div":
        (a, r), (b, s) = parts
        if s == 0:
            return None
        if b == ONE:
            return a, r / s
        return ((a, b), r / s) if r != 0 else None  # 0 / u is not known where u may be 0
    if kind in ("max", "min"):
        (a, r), (b, s) = parts
        if (a, r) == (b, s) or (r == 0 and s == 0):
            return a, r
        if (a == ONE or r == 0) and (b == ONE or s == 0):
            return ONE, max(r, s) if kind == "max" else min(r, s)
        if r > 0:
            return (a, b, s / r), r
        return (a, b, r, s), UNITY
    if kind == "pow":
        (a, r), (b, s) = parts
        if b == ONE and s.denominator == 1 and 1 <= s <= 4:
            return (a if a == ONE else (a, s)), r ** int(s)
        return (a, b, r, s), UNITY
    if kind == "prelu":
        (a, r), (b, s) = parts
        if r == 0:
            return ONE, ZERO
        if a == ONE and (b == ONE or s == 0):
            return ONE, r if r > 0 else r * s
        return (a, b, s, 1 if r > 0 else -1), abs(r)
    if (
        kind == "where"
        and len(parts) == 3
        and (parts[1] == parts[2] or parts[1][1] == parts[2][1] == 0)
    ):
        return parts[1]
    return tuple(parts), UNITY


def _range(kind: str, parts: Sequence[Slices]) -> tuple[Array, Array]:
    """Bounds, rounded outward."""
    n = len(parts[0])
    if len(parts) == 2 and kind in ("add", "sub", "mul", "max", "min", "div", "prelu"):
        a, b = parts
        with np.errstate(all="ignore"):
            if kind == "add":
                return _outward(a.low + b.low, a.high + b.high)
            if kind == "sub":
                return _outward(a.low - b.high, a.high - b.low)
            if kind == "max":
                return np.maximum(a.low, b.low), np.maximum(a.high, b.high)
            if kind == "min":
                return np.minimum(a.low, b.low), np.minimum(a.high, b.high)
            if kind == "mul":
                low, high = _product(a.low, a.high, b.low, b.high)
                return np.where(_same_sign(a, b), np.maximum(low, 0.0), low), high
            if kind == "prelu":  # x, or b x below zero
                low, high = _product(np.minimum(a.low, 0.0), np.minimum(a.high, 0.0), b.low, b.high)
                low = np.where(a.high < 0, low, np.minimum(low, 0.0))
                high = np.where(a.high < 0, high, np.maximum(high, a.high))
                return np.where(a.low >= 0, a.low, low), np.where(a.low >= 0, a.high, high)
            return _quotient(a, b)
    if (
        kind == "pow"
        and len(parts) == 2
        and (parts[1].low == 2.0).all()
        and (parts[1].high == 2.0).all()
    ):
        low, high = _product(parts[0].low, parts[0].high, parts[0].low, parts[0].high)
        return np.maximum(low, 0.0), high
    if kind == "where" and len(parts) == 3:
        _, a, b = parts
        return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
    return np.full(n, -np.inf), np.full(n, np.inf)


def _same_sign(a: Slices, b: Slices) -> Any:
    """Where two operands are multiples of one tensor by ratios of one sign."""
    if not np.array_equal(a.classes, b.classes):
        return np.zeros(len(a), dtype=bool)
    return np.array([r * s >= 0 for r, s in zip(a.ratios, b.ratios, strict=True)], dtype=bool)


def _quotient(a: Slices, b: Slices) -> tuple[Array, Array]:
    """Bounds of a / b, 1 / b within two roundings of its float; none where b may be as good as zero,
    even if a is zero.
    """
    sure = (b.low >= 1e-100) | (b.high <= -1e-100)
    ends = 1.0 / b.high, 1.0 / b.low
    widths = [np.abs(end) * 2 * UNIT + TINY for end in ends]
    low, high = _product(a.low, a.high, ends[0] - widths[0], ends[1] + widths[1])
    return np.where(sure, low, -np.inf), np.where(sure, high, np.inf)


def _product(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """Of [a, b] and [c, d], rounded outward; zero times an infinite end is zero, as no number is
    infinite.
    """
    lows, highs = [], []
    for left in (a, b):
        for right in (c, d):
            end = np.where((left == 0) | (right == 0), 0.0, left * right)
            lost = (end == 0) & (left != 0) & (right != 0)  # underflow
            lows.append(np.where(lost, -TINY, end))
            highs.append(np.where(lost, TINY, end))
    return _outward(np.minimum.reduce(lows), np.maximum.reduce(highs))


def _outward(low: Array, high: Array) -> tuple[Array, Array]:
    """One step outward where something may have been rounded: a sum that is zero is exact, and so is
    a product that did not underflow.
    """
    down = np.where(low == 0, low, np.nextafter(low, -np.inf))
    up = np.where(high == 0, high, np.nextafter(high, np.inf))
    return _sane(down, up)


def _sane(low: Array, high: Array) -> tuple[Array, Array]:
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


@dataclass(frozen=True)
class PerUnit(Operator):
    """x, entry by entry, with one number for each index of an axis: batch norm, stored scales.

    Attributes:
        kind: "batchnorm" (x, scale, shift, mean, variance; `numbers` holds epsilon), "dequantise"
            (x, scale, zero point: (x - zero point) scale; `numbers` the least and the largest
            integer of the type of x, or nothing), "quantise" (the same inputs: x / scale rounded to
            nearest, ties to even, plus the zero point, between both `numbers`), or any other name,
            of which nothing but that it is a function.
        axis: of x. Further inputs have one axis of its size, or one entry.
    """

    kind: str
    axis: int
    numbers: tuple[float, ...] = ()

    def couple(self, node: Node, ties: Ties) -> None:
        # entry by entry in x; what further inputs hold for an index goes with the index
        x, y = node.inputs[0], node.output
        for axis in range(len(ties.shape(x) or ())):
            ties.same((x, axis), (y, axis))
        for name in node.inputs[1:]:
            if name and ties.shape(name) not in ((), (1,)):
                ties.same((x, self.axis), (name, 0))

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        if self.kind != "dequantise":
            return None
        x, scale = arrays[0].astype(np.float64), np.asarray(arrays[1], dtype=np.float64)
        zero = np.asarray(arrays[2] if len(arrays) > 2 else 0.0, dtype=np.float64)
        along = [-1 if axis == self.axis else 1 for axis in range(x.ndim)]
        parts = [part.reshape(along) if part.ndim else part for part in (scale, zero)]
        if not (scale.size and arrays[0].dtype.kind in "iu" and arrays[1].dtype.itemsize <= 4):
            return None
        if max(np.abs(part).max(initial=0.0) for part in (x, zero)) >= 2.0**52:
            return None
        # a product of numbers of 53 and of 24 bits is exact where nothing is lost
        steps = x - parts[1]
        product, lost = two_product(steps, np.broadcast_to(parts[0], steps.shape).copy())
        return None if lost.any() else product

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        x = facts.of((node.inputs[0], axis))
        further = [facts.array(name) for name in node.inputs[1:] if name]
        if self.kind == "batchnorm" and axis == self.axis and all(a is not None for a in further):
            numbers = [np.asarray(a, dtype=np.float64) for a in further]
            return self._normalised(node, x, numbers, facts)
        if self.kind in ("dequantise", "quantise") and all(a is not None for a in further):
            steps = self._steps(
                [np.asarray(a, dtype=np.float64).ravel() for a in further], axis, len(x)
            )
            if steps is not None:
                if self.kind == "dequantise":
                    return self._dequantised(node, axis, x, *steps, facts)
                close = close_to(np.asarray(further[0]))
                return self._quantised(node, axis, x, *steps, close, facts)
        if axis == self.axis:
            return facts.classes.unknown(len(x))
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            key = (node.output, axis, int(x.classes[i]), x.ratios[i])
            known[i] = (facts.classes.of(key), UNITY)
        end = np.full(len(x), np.inf)
        return facts.classes.made(len(x), -end, end, known)

    def _steps(self, given: Sequence[Array], axis: int, n: int) -> tuple[Array, Array] | None:
        """Scale and zero point of each index along an axis; None where they differ within one."""
        scale, zero = given[0], given[1] if len(given) > 1 else np.zeros(1)
        sizes = {len(part) for part in (scale, zero)} - {1}
        if (sizes and axis != self.axis) or not (np.isfinite(scale).all() and (scale > 0).all()):
            return None
        return np.resize(scale, n), np.resize(zero, n)

    def _dequantised(
        self, node: Node, axis: int, x: Slices, scale: Array, zero: Array, facts: Facts
    ) -> Slices:
        """Numbers of integers."""
        with np.errstate(all="ignore"):
            shifted = _outward(*(np.clip(end, *self._ends()) - zero for end in (x.low, x.high)))
            low, high = _product(*shifted, scale, scale)
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            step, start = Fraction(float(scale[i])), Fraction(float(zero[i]))
            value, name, ratio = x.constant(i), int(x.classes[i]), x.ratios[i]
            if value is not None:
                known[i] = (ONE, (value - start) * step)
            elif start == 0:
                known[i] = (name, ratio * step)
            else:
                key = (node.output, axis, name, ratio, float(zero[i]))
                known[i] = (facts.classes.of(key), step)
        return facts.classes.made(len(x), low, high, known)

    def _quantised(
        self, node: Node, axis: int, x: Slices, scale: Array, zero: Array, close: Fraction,
        facts: Facts,
    ) -> Slices:  # fmt: skip
        """Integers of numbers; `close` to a tie it is not known which way."""
        with np.errstate(all="ignore"):
            least, most = (
                np.rint(end / scale + way * np.abs(end / scale) * float(close)) + zero
                for end, way in ((x.low, -1), (x.high, 1))
            )
            low, high = _sane(np.clip(least, *self._ends()), np.clip(most, *self._ends()))
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            step, start, value = Fraction(float(scale[i])), Fraction(float(zero[i])), x.constant(i)
            if value is None:
                name, ratio = int(x.classes[i]), x.ratios[i]
                key = (node.output, axis, name, ratio, float(zero[i]), float(scale[i]))
                known[i] = (facts.classes.of(key), UNITY)
                continue
            found = _integer(value / step, start, self.numbers, close)
            if found is not None:
                known[i] = (ONE, found)
        return facts.classes.made(len(x), low, high, known)

    def _ends(self) -> tuple[float, float]:
        """The least and the largest integer."""
        low, high = self.numbers or (-np.inf, np.inf)
        return low, high

    def _normalised(self, node: Node, x: Slices, numbers: Sequence[Array], facts: Facts) -> Slices:
        scale, shift, mean, variance = numbers
        n = len(x)
        with np.errstate(over="ignore"):
            square = variance + self.numbers[0]
        # of a sum beyond all floats the root is not bounded by that of the float
        if not all(np.isfinite(a).all() for a in (*numbers, square)) or not (square > 0).all():
            return facts.classes.unknown(n)
        with np.errstate(all="ignore"):
            # five roundings at most between this float and scale / sqrt(variance + epsilon)
            slope = scale / np.sqrt(square)
            width = np.abs(slope) * 8 * UNIT + np.where(scale == 0, 0.0, TINY)
            shifted = _outward(x.low - mean, x.high - mean)
            low, high = _product(*shifted, slope - width, slope + width)
            low, high = _outward(low + shift, high + shift)
        known = dict[int, tuple[int, Fraction]]()
        flat = scale == 0
        for i in np.union1d(x.known(), np.flatnonzero(flat)).tolist():
            g, b, m = (Fraction(float(a[i])) for a in (scale, shift, mean))
            value = x.constant(i)
            if g == 0 or value == m:
                known[i] = (ONE, b)
                continue
            # g (r t - m) / s + b = r g ((t - m / r) / s + b / (r g)), s of the variance alone
            r = x.ratios[i]
            if r == 0:
                key: tuple[Any, ...] = ("zero", m, float(variance[i]), b / g)
                known[i] = (facts.classes.of((node.output, key)), g)
                continue
            key = (int(x.classes[i]), m / r, float(variance[i]), b / (r * g))
            known[i] = (facts.classes.of((node.output, key)), r * g)
        return facts.classes.made(n, low, high, known)


def _integer(
    q: Fraction, zero: Fraction, ends: Sequence[float], close: Fraction
) -> Fraction | None:
    """The integer for a quotient; None where it is so close to a tie that one that is computed may fall
    on the other side.
    """
    if not ends or abs(abs(q - math.floor(q)) - Fraction(1, 2)) < (abs(q) + 1) * close:
        return None
    return min(max(round(q) + zero, Fraction(int(ends[0]))), Fraction(int(ends[1])))
