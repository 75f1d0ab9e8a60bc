"""Operators of a graph: what each computes, which indices of its tensors belong together, and what
is known of the slices of its output. Part of the kernel.

Three things are declared for each operator, and proved beside it.

`couple` says which indices of which axes of its tensors *stand or fall together*. The theorem behind
every removal (`removal`) is: leave out, of every axis of every tensor, the indices that a set of
coupled classes holds; then each node gives the former output without these indices, from the former
inputs without these indices. So `couple` has to tie whatever would break this for the operator, and
to fix (never leave out) what it cannot tie.

`restricted` is the operator after indices are left out, where sizes are part of it.

`slices` are facts about the output along an axis, from facts about the inputs (`slices`). They hold
for all inputs of the graph.

Nothing else is known of an operator. A node of a kind that is not here is `Opaque`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import CertificateRejected
from .functions import law
from .slices import ONE, Array, Classes, Slices, are_numbers, blocks, multiples

Tensor = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Shape = tuple[int | str, ...]
Shapes = Mapping[str, Shape | None]
Sizes = tuple[int | None, ...]
Place = tuple[str, int]  # a tensor and one of its axes
UNIT = 2.0**-52  # twice the relative error of one rounding
TINY = float(np.nextafter(0.0, 1.0))
ZERO, UNITY = Fraction(0), Fraction(1)


class Ties(ABC):
    """What `couple` may ask and do, see `axes.Coupling`."""

    @abstractmethod
    def same(self, a: Place, b: Place) -> None: ...
    @abstractmethod
    def pick(self, a: Place, b: Place, index: Ints) -> None: ...
    @abstractmethod
    def fix(self, a: Place, why: str, index: Ints | None = None) -> None: ...
    @abstractmethod
    def labels(self, a: Place) -> Ints | None: ...
    @abstractmethod
    def shape(self, name: str) -> Shape | None: ...


class Facts(ABC):
    """What `slices` may ask, see `facts.Known`."""

    classes: Classes

    @abstractmethod
    def of(self, a: Place) -> Slices: ...
    @abstractmethod
    def array(self, name: str) -> Tensor | None: ...
    @abstractmethod
    def shape(self, name: str) -> Shape | None: ...


@dataclass(frozen=True)
class Node:
    """An operator with the names of what it reads and writes; an empty name is left out."""

    op: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass(frozen=True)
class Operator:
    """Base of all operators."""

    def couple(self, node: Node, ties: Ties) -> None:
        raise NotImplementedError

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        """After indices are left out: `kept` has those that stay, `shapes` those before."""
        return self

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        """Along an axis of the output; None where nothing is known."""
        return None

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        """The output, where it only rearranges constants."""
        return None


@dataclass(frozen=True)
class Opaque(Operator):
    """Some function of its inputs, of which nothing is known.

    Attributes:
        kind: what the file calls it. payload: a digest of what else the file says of it.
    """

    kind: str
    payload: str = ""

    def couple(self, node: Node, ties: Ties) -> None:
        # a function that may read anything needs all of it, and its outputs have the shapes that
        # they have
        for name in (*node.inputs, *node.outputs):
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), f"{self.kind} {node.name!r}")


# Entry by entry -------------------------------------------------------------------------------------------------


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
        _broadcast(node, [name for name in node.inputs if name], ties)

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        return arrays[0] if self.kind == "identity" else None

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        shape = facts.shape(node.output)
        assert shape is not None
        n = shape[axis]
        assert isinstance(n, int)
        parts = [_aligned(name, axis - len(shape), n, facts, shape) for name in node.inputs if name]
        if len(parts) == 1:
            return self._unary(node, axis, parts[0], facts)
        low, high = _range(self.kind, parts)
        known = dict[int, tuple[int, Fraction]]()
        stored = [facts.array(name) for name in node.inputs if name]
        if self.kind == "mul" and not all(a is None or are_numbers(a) for a in stored):
            return facts.classes.unknown(n)  # nothing is zero times what is no number
        for i in _interesting(self.kind, parts):
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


def _broadcast(node: Node, names: Sequence[str], ties: Ties, ends: int = 0) -> None:
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


def _aligned(name: str, back: int, n: int, facts: Facts, whole: Shape) -> Slices:
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


def _interesting(kind: str, parts: Sequence[Slices]) -> list[int]:
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
    if len(parts) == 2 and kind in ("add", "sub", "mul", "max", "min", "div"):
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
                return _product(a.low, a.high, b.low, b.high)
            if (b.low == b.high).all() and (np.abs(b.low) >= 1e-100).all():
                # 1 / b is within two roundings of its float
                over = 1.0 / b.low
                width = np.abs(over) * 2 * UNIT + TINY
                low, high = over - width, over + width
                return _product(a.low, a.high, low, high)
    if kind == "where" and len(parts) == 3:
        _, a, b = parts
        return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
    return np.full(n, -np.inf), np.full(n, np.inf)


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
            (x, scale, zero point), or any other name, of which nothing but that it is a function.
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
        product: Tensor = (x - parts[1]) * parts[0]
        # integers of one byte times a float of at most 32 bits: exact in 64
        return (
            product
            if scale.size and arrays[0].dtype.itemsize == 1 and arrays[1].dtype.itemsize <= 4
            else None
        )

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        x = facts.of((node.inputs[0], axis))
        further = [facts.array(name) for name in node.inputs[1:] if name]
        if self.kind == "batchnorm" and axis == self.axis and all(a is not None for a in further):
            numbers = [np.asarray(a, dtype=np.float64) for a in further]
            return self._normalised(node, x, numbers, facts)
        if axis == self.axis:
            return facts.classes.unknown(len(x))
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            key = (node.output, axis, int(x.classes[i]), x.ratios[i])
            known[i] = (facts.classes.of(key), UNITY)
        end = np.full(len(x), np.inf)
        return facts.classes.made(len(x), -end, end, known)

    def _normalised(self, node: Node, x: Slices, numbers: Sequence[Array], facts: Facts) -> Slices:
        scale, shift, mean, variance = numbers
        n = len(x)
        if not (
            all(np.isfinite(a).all() for a in numbers) and (variance + self.numbers[0] > 0).all()
        ):
            return facts.classes.unknown(n)
        with np.errstate(all="ignore"):
            # five roundings at most between this float and scale / sqrt(variance + epsilon)
            slope = scale / np.sqrt(variance + self.numbers[0])
            width = np.abs(slope) * 8 * UNIT + np.where(slope == 0, 0.0, TINY)
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


# Index by index -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slicewise(Operator):
    """A function of each slice: along the axes in `free` index i of the output reads index i of the
    first input alone, in the same way for all i; along its other axes all entries are read.

    Pools, resizing, sums and means along other axes, softmax and layer norm along other axes.

    Attributes:
        kind: what it is called, and `numbers` what belongs to it: both only tell operators apart.
        free: pairs of an axis of the input and one of the output.
        linear: f(r x) = r f(x). homogeneous: the same for r > 0.
        keeps: constants. f of a tensor whose entries are c has entries c. zero: the same for c = 0.
        hull: entries of f(x) lie between the least and the largest of x; with `padded` of x and 0.
        carried: of further inputs, the axis of the first input whose indices theirs (one axis)
            belong to; None where all are read by all slices.
    """

    kind: str
    free: tuple[tuple[int, int], ...]
    numbers: tuple[Any, ...] = ()
    linear: bool = False
    homogeneous: bool = False
    keeps: bool = False
    zero: bool = False
    hull: bool = False
    padded: bool = False
    carried: tuple[int | None, ...] = ()

    def couple(self, node: Node, ties: Ties) -> None:
        x, y = node.inputs[0], node.output
        for i, o in self.free:
            ties.same((x, i), (y, o))
        where = f"{self.kind} {node.name!r}, which reads all of it"
        inside = {i for i, _ in self.free}
        outside = {o for _, o in self.free}
        for axis in range(len(ties.shape(x) or ())):
            if axis not in inside:
                ties.fix((x, axis), where)
        for axis in range(len(ties.shape(y) or ())):
            if axis not in outside:
                ties.fix((y, axis), where)
        for k, name in enumerate(node.inputs[1:]):
            owner = self.carried[k] if k < len(self.carried) else None
            if not name:
                continue
            if owner is not None:
                ties.same((x, owner), (name, 0))
                continue
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), where)

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        source = [i for i, o in self.free if o == axis]
        if not source:
            return None
        x = facts.of((node.inputs[0], source[0]))
        n = len(x)
        low, high = np.full(n, -np.inf), np.full(n, np.inf)
        if self.hull:
            low, high = x.low.copy(), x.high.copy()
            if self.padded:
                low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        known = dict[int, tuple[int, Fraction]]()
        numbers = [
            facts.array(name)
            for name, owner in zip(node.inputs[1:], self.carried, strict=False)
            if owner == source[0] and name
        ]
        if any(a is None for a in numbers):
            return facts.classes.unknown(n)
        for i in x.known().tolist():
            value = x.constant(i)
            if value is not None and (self.keeps or (value == 0 and (self.zero or self.linear))):
                known[i] = (ONE, value)
                continue
            name, ratio = int(x.classes[i]), x.ratios[i]
            own = tuple(float(a[i]) for a in numbers if a is not None)
            key: tuple[Any, ...]
            if self.linear:
                key, factor = (name, own), ratio
            elif self.homogeneous and ratio != 0:
                key, factor = (name, own, ratio > 0), abs(ratio)
            else:
                key, factor = (name, own, ratio), UNITY
            known[i] = (facts.classes.of((node.output, axis, key)), factor)
        return facts.classes.made(n, low, high, known)


def _mapped(x: Slices, node: Node, axis: int, facts: Facts) -> Slices:
    """Facts about slices whose entries are put elsewhere or left out, in each slice alike: what was
    a multiple of another slice is one now, of a tensor that has another name.
    """
    known = dict[int, tuple[int, Fraction]]()
    for i in x.known().tolist():
        value = x.constant(i)
        if value is not None:
            known[i] = (ONE, value)
        else:
            key = (node.output, axis, int(x.classes[i]))
            known[i] = (facts.classes.of(key), x.ratios[i])
    return facts.classes.made(len(x), x.low.copy(), x.high.copy(), known)


@dataclass(frozen=True)
class Transpose(Operator):
    """Axes in another order."""

    order: tuple[int, ...]

    def couple(self, node: Node, ties: Ties) -> None:
        for axis, source in enumerate(self.order):
            ties.same((node.inputs[0], source), (node.output, axis))

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        return arrays[0].transpose(self.order)

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        x = facts.of((node.inputs[0], self.order[axis]))
        rest = [source for source in self.order if source != self.order[axis]]
        turned = tuple(np.argsort(np.argsort(rest)).tolist())
        return x if turned == tuple(sorted(turned)) else renamed(x, ("turned", turned), facts)


@dataclass(frozen=True)
class Concat(Operator):
    """Tensors one after another along an axis."""

    axis: int

    def couple(self, node: Node, ties: Ties) -> None:
        start = 0
        for name in node.inputs:
            shape = ties.shape(name)
            assert shape is not None
            for axis in range(len(shape)):
                if axis != self.axis:
                    ties.same((name, axis), (node.output, axis))
            n = shape[self.axis]
            if not isinstance(n, int) or not isinstance(
                (ties.shape(node.output) or ())[self.axis], int
            ):
                ties.fix((name, self.axis), f"concat {node.name!r} of tensors of unknown size")
                ties.fix(
                    (node.output, self.axis), f"concat {node.name!r} of tensors of unknown size"
                )
                continue
            # index j of a part is index start + j of the whole
            ties.pick((node.output, self.axis), (name, self.axis), np.arange(start, start + n))
            start += n

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        return np.concatenate(arrays, self.axis)

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        sizes = [(facts.shape(name) or ())[axis] for name in node.inputs]
        if not all(isinstance(n, int) for n in sizes):
            return None
        parts = [facts.of((name, axis)) for name in node.inputs]
        if axis == self.axis:
            ratios = tuple(r for part in parts for r in part.ratios)
            columns = [
                np.concatenate([getattr(p, f) for p in parts]) for f in ("classes", "low", "high")
            ]
            return Slices(columns[0], ratios, columns[1], columns[2])
        low = np.minimum.reduce([p.low for p in parts])
        high = np.maximum.reduce([p.high for p in parts])
        known = dict[int, tuple[int, Fraction]]()
        for i in _interesting("concat", parts):
            lead = next((p.ratios[i] for p in parts if p.ratios[i] != 0), ZERO)
            values = [p.constant(i) for p in parts]
            if lead == 0 or (values[0] is not None and len(set(values)) == 1):
                known[i] = (ONE, lead)
                continue
            key = tuple(
                (int(p.classes[i]) if p.ratios[i] else ONE, p.ratios[i] / lead) for p in parts
            )
            known[i] = (facts.classes.of((node.output, axis, key)), lead)
        return facts.classes.made(len(parts[0]), low.copy(), high.copy(), known)


@dataclass(frozen=True)
class Take(Operator):
    """Chosen indices of an axis, in the given order: a slice, a part of a split, a constant gather.

    Attributes:
        index: of the indices. drop: whether the axis goes, where one is chosen.
    """

    axis: int
    index: tuple[int, ...]
    drop: bool = False

    def couple(self, node: Node, ties: Ties) -> None:
        x, y = node.inputs[0], node.output
        for axis in range(len(ties.shape(x) or ())):
            if axis == self.axis:
                if self.drop:
                    ties.fix(
                        (x, axis), f"{node.name!r}, which takes one of it", np.array(self.index)
                    )
                else:
                    ties.pick((x, axis), (y, axis), np.array(self.index, dtype=np.int64))
            else:
                ties.same((x, axis), (y, axis - (self.drop and axis > self.axis)))

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        source, target = kept.get((node.inputs[0], self.axis)), kept.get((node.output, self.axis))
        if source is None:
            return self
        index = np.array(self.index)
        chosen = index if self.drop or target is None else index[target]
        places = np.searchsorted(source, chosen)
        if (places >= len(source)).any() or (source[places] != chosen).any():
            raise CertificateRejected(f"{node.name!r} takes an index that is left out")
        return replace(self, index=tuple(places.tolist()))

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        found: Tensor = np.take(arrays[0], self.index[0] if self.drop else self.index, self.axis)
        return found

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        source = axis + (self.drop and axis >= self.axis)
        x = facts.of((node.inputs[0], source))
        if source == self.axis:
            return x.take(self.index)
        place = self.axis - (self.axis > source)
        n = (facts.shape(node.inputs[0]) or ())[self.axis]
        if not self.drop and isinstance(n, int) and self.index == tuple(range(n)):
            return x
        return renamed(x, ("taken", place, self.index, self.drop), facts)


@dataclass(frozen=True)
class Broadcast(Operator):
    """A tensor repeated along axes in which it has one entry, or that it lacks.

    Attributes:
        sizes: of the output, None where they are not known: then a second input says what they are.
    """

    sizes: Sizes

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        return replace(self, sizes=_resized(self.sizes, node, kept))

    def couple(self, node: Node, ties: Ties) -> None:
        _broadcast(node, node.inputs[:1], ties)
        for name in node.inputs[1:]:
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), f"{node.name!r}, which reads its target")
        shape, source = ties.shape(node.output), ties.shape(node.inputs[0])
        for axis, n in enumerate(shape or ()):
            back = axis - len(shape or ())
            if isinstance(n, int) and (source is None or -back > len(source) or source[back] != n):
                # how often it is repeated stands in the node
                ties.fix((node.output, axis), f"{node.name!r}, which repeats a tensor {n} times")

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        shape = facts.shape(node.output)
        assert shape is not None
        assert isinstance(shape[axis], int)
        return _aligned(node.inputs[0], axis - len(shape), int(shape[axis]), facts, shape)


@dataclass(frozen=True)
class Size(Operator):
    """Integers made of the sizes of some axes of tensors, and of nothing else.

    Attributes:
        axes: pairs of an input and an axis of it. payload: a digest of what is made of the sizes.
    """

    axes: tuple[tuple[int, int], ...]
    payload: str = ""

    def couple(self, node: Node, ties: Ties) -> None:
        for i, axis in self.axes:
            ties.fix((node.inputs[i], axis), f"{node.name!r}, which reads its size")


@dataclass(frozen=True)
class Lookup(Operator):
    """Rows of a table, chosen by indices that the graph computes: table[ids] along an axis.

    Inputs: table, ids. The axes of ids stand in the place of the axis.
    """

    axis: int

    def couple(self, node: Node, ties: Ties) -> None:
        table, ids = node.inputs
        shape, chosen = ties.shape(table), ties.shape(ids)
        ties.fix((table, self.axis), f"lookup {node.name!r}, which may read each of its rows")
        if shape is None or chosen is None:
            for name in (table, ids, node.output):
                for axis in range(len(ties.shape(name) or ())):
                    ties.fix((name, axis), f"lookup {node.name!r}, of unknown shape")
            return
        for axis in range(len(shape)):
            if axis != self.axis:
                ties.same(
                    (table, axis), (node.output, axis + (len(chosen) - 1) * (axis > self.axis))
                )
        for axis in range(len(chosen)):
            ties.same((ids, axis), (node.output, axis + self.axis))

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        chosen = facts.shape(node.inputs[1])
        assert chosen is not None
        if self.axis <= axis < self.axis + len(chosen):
            return None
        x = facts.of((node.inputs[0], axis - (len(chosen) - 1) * (axis > self.axis)))
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            name = int(x.classes[i])
            # rows of r t are r times rows of t
            known[i] = (
                name if name == ONE else facts.classes.of((node.output, axis, name)),
                x.ratios[i],
            )
        return facts.classes.made(len(x), x.low.copy(), x.high.copy(), known)


# Sums over an axis ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear(Operator):
    """sum over i of W_i x_i, plus a bias: dense layers and convolutions of any kind.

    x is read along the axis `reads`: y_o = sum_i W[o, i] * x_i + b_o, where * is a product or a
    convolution over further axes. Inputs: x, W and perhaps b (one axis).

    Attributes:
        reads: axis of x. writes: axis of y.
        columns, rows: axes of W for i and o.
        groups: with more than one, the i and o are cut into as many equal parts in a row, part k of
            y reads part k of x, and W has the i of one part only.
        padded: x is continued by zeros, so that a constant x does not give a constant y.
        uniform: without padding, every entry of y reads every tap.
        free: further pairs of axes of x and y, entry by entry alike.
        detail: what else belongs to it (strides, ...).
    """

    reads: int
    writes: int
    columns: int
    rows: int
    groups: int = 1
    padded: bool = False
    uniform: bool = True
    free: tuple[tuple[int, int], ...] = ()
    detail: tuple[Any, ...] = ()

    def couple(self, node: Node, ties: Ties) -> None:
        x, w, y = node.inputs[0], node.inputs[1], node.output
        # row o of W and b_o make index o of y, and nothing else
        ties.same((w, self.rows), (y, self.writes))
        if len(node.inputs) > 2:
            ties.same((w, self.rows), (node.inputs[2], 0))
        if self.groups == 1:
            # leaving out i of x and column i of W leaves out the product: whether it was nothing, or
            # stands elsewhere, is what `removal` asks
            ties.same((x, self.reads), (w, self.columns))
        else:
            self._couple_groups(node, ties)
        for i, o in self.free:
            ties.same((x, i), (y, o))
        inside = {self.reads, *(i for i, _ in self.free)}
        outside = {self.writes, *(o for _, o in self.free)}
        where = f"{node.name!r}, which reads positions"
        for axis in range(len(ties.shape(x) or ())):
            if axis not in inside:
                ties.fix((x, axis), where)
        for axis in range(len(ties.shape(y) or ())):
            if axis not in outside:
                ties.fix((y, axis), where)
        for axis in range(len(ties.shape(w) or ())):
            if axis not in (self.rows, self.columns):
                ties.fix((w, axis), where)

    def _couple_groups(self, node: Node, ties: Ties) -> None:
        x, w, y = node.inputs[0], node.inputs[1], node.output
        shape, weight = ties.shape(x), ties.shape(w)
        assert shape is not None
        assert weight is not None
        n, m = shape[self.reads], weight[self.rows]
        assert isinstance(n, int)
        assert isinstance(m, int)
        inner, outer = n // self.groups, m // self.groups
        read, written = ties.labels((x, self.reads)), ties.labels((y, self.writes))
        column = ties.labels((w, self.columns))
        if column is not None or (read is not None and _repeats(read, inner)):
            # the same index of every group: a column of W, as without groups
            ties.pick((w, self.columns), (x, self.reads), np.arange(n) % inner)
            read = None
        if written is not None and _repeats(written, outer):
            written = None  # the same row of every group
        if read is not None or written is not None:
            # whole groups, with all that they read and write
            ties.pick((y, self.writes), (x, self.reads), np.arange(n) // inner * outer)
            ties.pick((y, self.writes), (y, self.writes), np.arange(m) // outer * outer)

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        rows = kept.get((node.output, self.writes))
        if self.groups == 1 or rows is None:
            return self
        n = (shapes[node.inputs[1]] or ())[self.rows]
        assert isinstance(n, int)
        whole, counts = np.unique(rows // (n // self.groups), return_counts=True)
        if len(set(counts.tolist())) > 1:
            raise CertificateRejected(f"{node.name!r} would have groups of different sizes")
        return replace(self, groups=len(whole))

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        for i, o in self.free:
            if o == axis:
                return self._along(node, facts.of((node.inputs[0], i)), axis, facts)
        shape = facts.shape(node.output)
        if shape is None or axis != self.writes:
            return None
        weight = facts.array(node.inputs[1])
        bias = facts.array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        if weight is None or bias is None:
            return None
        rows = np.moveaxis(weight, (self.rows, self.columns), (0, 1))
        rows = rows.reshape(*rows.shape[:2], -1)
        if not isinstance((facts.shape(node.inputs[0]) or ())[self.reads], int):
            return None
        x = facts.of((node.inputs[0], self.reads))
        b = np.resize(np.asarray(bias, dtype=np.float64), len(rows))
        if not (are_numbers(b) and are_numbers(rows)):
            return facts.classes.unknown(len(rows))
        return self._made(node, rows, b, x, facts)

    def _along(self, node: Node, x: Slices, axis: int, facts: Facts) -> Slices:
        """Along an axis that is not summed: the same function of each slice, linear without bias."""
        linear = len(node.inputs) < 3
        known = dict[int, tuple[int, Fraction]]()
        for i in x.known().tolist():
            name, ratio = int(x.classes[i]), x.ratios[i]
            if ratio == 0 and linear:
                known[i] = (ONE, ZERO)
            elif linear:
                known[i] = (facts.classes.of((node.output, axis, name)), ratio)
            else:
                known[i] = (facts.classes.of((node.output, axis, name, ratio)), UNITY)
        end = np.full(len(x), np.inf)
        return facts.classes.made(len(x), -end, end, known)

    def _made(self, node: Node, rows: Tensor, b: Array, x: Slices, facts: Facts) -> Slices:
        """Along the written axis, from rows ``[out, in of one group, taps]``."""
        n, inner = rows.shape[:2]
        outer = n // self.groups
        low, high = np.empty(n), np.empty(n)
        names, ratios = np.zeros(n, dtype=np.int64), [ZERO] * n
        for g in range(self.groups):
            mine = slice(g * outer, (g + 1) * outer)
            read = x if self.groups == 1 else x.take(np.arange(g * inner, (g + 1) * inner))
            low[mine], high[mine] = _sums(
                rows[mine], b[mine], read, not self.uniform or self.padded
            )
        flat = rows.reshape(n, -1)
        for members in _by_group(self._inputs(x, inner), outer).values():
            index = np.array(members)
            part = flat if len(index) == n else flat[index]
            found, own = multiples(part, facts.classes, b[index])
            names[index] = found
            for i, q in zip(members, own, strict=True):
                ratios[i] = q
        known = dict[int, tuple[int, Fraction]]()
        for i in range(n):
            value = self._value(rows[i], b[i], x, i // outer * inner)
            if value is not None:
                known[i] = (ONE, value)
            elif ratios[i] != 0:
                known[i] = (int(names[i]), ratios[i])
        return facts.classes.made(n, low, high, known)

    def _inputs(self, x: Slices, inner: int) -> list[Any]:
        """What each group reads, as a key: one for all without groups."""
        if self.groups == 1:
            return [0]
        found = []
        for g in range(self.groups):
            part = range(g * inner, (g + 1) * inner)
            found.append(tuple((int(x.classes[i]), x.ratios[i]) for i in part))
        return found

    def _value(self, row: Tensor, bias: float, x: Slices, start: int) -> Fraction | None:
        """The output where it is constant: all that it reads is, and is zero where it is padded."""
        read = np.flatnonzero(row.any(axis=1)).tolist()
        if len(read) > 64:
            return None
        total = Fraction(bias)
        for i in read:
            value = x.constant(start + i)
            if value is None or (value != 0 and (self.padded or not self.uniform)):
                return None
            if value != 0:
                total += value * sum(Fraction(float(tap)) for tap in row[i].tolist())
        return total


def _repeats(labels: Ints, period: int) -> bool:
    """Whether labels depend only on the place within each of several parts of more than one."""
    if period <= 1 or len(labels) <= period:
        return False
    table = labels.reshape(-1, period)
    return bool((table == table[:1]).all()) and len(np.unique(table[0])) > 1


def _by_group(keys: Sequence[Any], size: int) -> dict[Any, list[int]]:
    """Rows of groups that read the same, `size` rows each."""
    found: dict[Any, list[int]] = {}
    for g, key in enumerate(keys):
        found.setdefault(key, []).extend(range(g * size, (g + 1) * size))
    return found


def _sums(rows: Tensor, b: Array, x: Slices, padded: bool) -> tuple[Array, Array]:
    """Bounds of b + sum_i sum_taps W x for x between bounds of each i, rounded outward.

    sum W x is at most sum_i (P_i high_i - N_i low_i) with P and N the sums of the positive and the
    negated negative taps. A float sum of k terms errs by at most k 2^-53 of the sum of their sizes,
    to first order, and products that underflow by the least float each; twice that is charged.
    """
    low, high = x.low, x.high
    if padded:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    positive, negative = np.empty(rows.shape[:2]), np.empty(rows.shape[:2])
    for block, wide in blocks(rows.reshape(len(rows), -1)):
        taps = wide.reshape(len(wide), *rows.shape[1:])
        positive[block] = np.maximum(taps, 0.0).sum(axis=2)
        negative[block] = np.maximum(-taps, 0.0).sum(axis=2)
    count = rows.shape[1] * rows.shape[2] + 4
    ends = []
    p, q = positive, negative
    for up, down, bias in ((high, low, b), (-low, -high, -b)):
        finite_up, finite_down = (
            np.where(np.isfinite(up), up, 0.0),
            np.where(np.isfinite(down), down, 0.0),
        )
        open_up = (p > 0) @ ~np.isfinite(up) | (q > 0) @ ~np.isfinite(down)
        total = p @ finite_up - q @ finite_down
        mass = p @ np.abs(finite_up) + q @ np.abs(finite_down)
        some = (p > 0) @ (finite_up != 0) | (q > 0) @ (finite_down != 0)
        error = mass * (count * 2 * UNIT) + np.where(some, count * TINY, 0.0)
        bound = np.where(
            some, np.nextafter(np.nextafter(total + error, np.inf) + bias, np.inf), bias
        )
        ends.append(np.where(open_up | ~np.isfinite(bound), np.inf, bound))
    return -ends[1], ends[0]


@dataclass(frozen=True)
class Contract(Operator):
    """Matrix products of two tensors: y[..., m, n] = sum_k a[..., m, k] b[..., k, n], further axes
    broadcast.
    """

    def couple(self, node: Node, ties: Ties) -> None:
        a, b, y = (*node.inputs, node.output)
        first, second, shape = ties.shape(a), ties.shape(b), ties.shape(y)
        if first is None or second is None or shape is None or min(len(first), len(second)) < 2:
            for name in (a, b, y):
                for axis in range(len(ties.shape(name) or ())):
                    ties.fix((name, axis), f"product {node.name!r} of tensors of unknown shape")
            return
        _broadcast(node, [a, b], ties, ends=2)
        ties.same((a, len(first) - 2), (y, len(shape) - 2))
        ties.same((b, len(second) - 1), (y, len(shape) - 1))
        # leaving out k leaves out a product of two slices: `removal` asks whether it was nothing
        ties.same((a, len(first) - 1), (b, len(second) - 2))

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        a, b = node.inputs
        shape = facts.shape(node.output)
        first, second = facts.shape(a), facts.shape(b)
        assert shape is not None
        assert first is not None
        assert second is not None
        n, back = shape[axis], axis - len(shape)
        assert isinstance(n, int)
        if back == -2:
            parts = [facts.of((a, len(first) - 2))]
        elif back == -1:
            parts = [facts.of((b, len(second) - 1))]
        else:
            parts = [_aligned(name, back, n, facts, shape) for name in (a, b)]
        end = np.full(n, np.inf)
        known = dict[int, tuple[int, Fraction]]()
        for i in _interesting("contract", parts):
            # bilinear: r t . s u = r s (t . u)
            ratio = UNITY
            for part in parts:
                ratio *= part.ratios[i]
            key = (node.output, axis, tuple(int(part.classes[i]) for part in parts))
            known[i] = (facts.classes.of(key), ratio)
        return facts.classes.made(n, -end, end, known)


# The same entries under other indices ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reshape(Operator):
    """The same entries in the same order under other axes.

    Attributes:
        blocks: axes of x and axes of y that hold the same entries, in order; the sizes of all of
            them are known, and their products agree. Axes in no block are fixed, but for `free`.
        sizes: of the output; None where they are not known, which is so for one axis beside those
            in `free` at most.
        free: pairs of axes that are the same axis.
    """

    blocks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    sizes: Sizes
    free: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        # what it computes: which blocks hold the same entries follows, and is no longer the only way
        # to see it where an axis has one entry left
        copied = [(i, o) for i, o in self.free if self.sizes[o] is None]
        return f"Reshape(sizes={self.sizes}, copied={copied})"

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        return replace(self, sizes=_resized(self.sizes, node, kept))

    def couple(self, node: Node, ties: Ties) -> None:
        x, y = node.inputs[0], node.output
        for i, o in self.free:
            ties.same((x, i), (y, o))
        seen_x, seen_y = {i for i, _ in self.free}, {o for _, o in self.free}
        for ins, outs in self.blocks:
            seen_x.update(ins)
            seen_y.update(outs)
            self._couple_block(node, ins, outs, ties)
        where = f"reshape {node.name!r}, which mixes it with others"
        for name, seen in ((x, seen_x), (y, seen_y)):
            for axis in range(len(ties.shape(name) or ())):
                if axis not in seen:
                    ties.fix((name, axis), where)

    def _couple_block(
        self, node: Node, ins: tuple[int, ...], outs: tuple[int, ...], ties: Ties
    ) -> None:
        """An axis whose index is a digit of the index of another (in a mixed base) is tied to it
        index by index. Where an axis is split, leaving out indices of it is leaving out indices of
        one of the parts only if it does so for all values of the others: the labels say of which.
        """
        x, y = node.inputs[0], node.output
        coarse, fine = _digits(ties.shape(x) or (), ins), _digits(ties.shape(y) or (), outs)
        for (name, digits), (other, parts) in (((x, coarse), (y, fine)), ((y, fine), (x, coarse))):
            for axis, (stride, n) in digits.items():
                if n == 1:
                    continue
                within = [
                    (part, s, m)
                    for part, (s, m) in parts.items()
                    if m > 1 and s % stride == 0 and (stride * n) % (s * m) == 0
                ]
                around = [
                    part
                    for part, (s, m) in parts.items()
                    if stride % s == 0 and (s * m) % (stride * n) == 0
                ]
                if not within and not around:
                    ties.fix((name, axis), f"reshape {node.name!r}, which cuts across it")
                    continue
                labels = ties.labels((name, axis))
                chosen = [
                    (part, s, m) for part, s, m in within if ties.labels((other, part)) is not None
                ]
                if labels is not None and not chosen and within:
                    chosen = [_best(labels, within, stride)]
                for part, s, m in chosen:
                    index = np.arange(n) // (s // stride) % m
                    ties.pick((other, part), (name, axis), index)

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        sizes = [n for n in self.sizes if n is not None]
        return arrays[0].reshape(sizes) if len(sizes) == len(self.sizes) else None

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        x = node.inputs[0]
        for i, o in self.free:
            if o == axis:
                return _mapped(facts.of((x, i)), node, axis, facts)
        for ins, outs in self.blocks:
            if axis in outs:
                coarse = _digits(facts.shape(x) or (), ins)
                fine = _digits(facts.shape(node.output) or (), outs)
                return self._digit(node, axis, fine[axis], coarse, facts)
        return None

    def _digit(
        self,
        node: Node,
        axis: int,
        own: tuple[int, int],
        coarse: Mapping[int, tuple[int, int]],
        facts: Facts,
    ) -> Slices | None:
        stride, n = own
        parts: list[tuple[Slices, Ints, Ints]] = []  # axes whose index is a digit of ours
        whole: list[Slices] = []
        for other, (s, m) in coarse.items():
            if m > 1 and s % stride == 0 and (stride * n) % (s * m) == 0:
                step = s // stride
                index = np.arange(n) // step % m
                # slice k of ours is a part of slice index[k] of the other: part k - index[k] step
                rest = np.arange(n) - index * step
                parts.append((facts.of((node.inputs[0], other)), index, rest))
            elif stride % s == 0 and (s * m) % (stride * n) == 0:
                # slice k of ours is made of the slices of the other whose digit is k
                x = facts.of((node.inputs[0], other))
                digits = np.arange(m) // (stride // s) % n
                whole.append(_gathered(node, axis, x, digits, n, facts))
        if whole:
            return whole[0]
        if not parts:
            return None
        low = np.maximum.reduce([p.low[index] for p, index, _ in parts])
        high = np.minimum.reduce([p.high[index] for p, index, _ in parts])
        known = dict[int, tuple[int, Fraction]]()
        for k, (part, index, rest) in enumerate(parts):
            for i in np.flatnonzero(np.isin(index, part.known())).tolist():
                at = int(index[i])
                value = part.constant(at)
                if value is not None:
                    known[i] = (ONE, value)
                elif i not in known:
                    key = (node.output, axis, k, int(part.classes[at]), int(rest[i]))
                    known[i] = (facts.classes.of(key), part.ratios[at])
        return facts.classes.made(n, low.copy(), high.copy(), known)


def _resized(sizes: Sizes, node: Node, kept: Mapping[Place, Ints]) -> Sizes:
    places = [kept.get((node.output, axis)) for axis in range(len(sizes))]
    return tuple(n if k is None else len(k) for n, k in zip(sizes, places, strict=True))


def _digits(shape: Shape, axes: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Stride and size of each of some axes in the index of their entries, last fastest."""
    found = dict[int, tuple[int, int]]()
    stride = 1
    for axis in reversed(axes):
        n = shape[axis]
        assert isinstance(n, int)
        found[axis] = (stride, n)
        stride *= n
    return dict(reversed(list(found.items())))


def _best(
    labels: Ints, within: Sequence[tuple[int, int, int]], stride: int
) -> tuple[int, int, int]:
    """The part on whose index alone the labels depend; else the outermost one, which coarsens them."""
    for part, s, m in within:
        index = np.arange(len(labels)) // (s // stride) % m
        first = np.array([labels[np.flatnonzero(index == k)[0]] for k in range(m)])
        if (labels == first[index]).all():
            return part, s, m
    return within[0]


def _gathered(node: Node, axis: int, x: Slices, digit: Ints, n: int, facts: Facts) -> Slices:
    """Slices each made of several of another axis."""
    low, high = np.empty(n), np.empty(n)
    known = dict[int, tuple[int, Fraction]]()
    for k in range(n):
        members = np.flatnonzero(digit == k)
        low[k], high[k] = x.low[members].min(), x.high[members].max()
        ratios = [x.ratios[i] for i in members.tolist()]
        values = [x.constant(i) for i in members.tolist()]
        if values[0] is not None and all(v == values[0] for v in values):
            known[k] = (ONE, values[0])
            continue
        lead = next(r for r in ratios if r != 0)
        names = [int(x.classes[i]) if x.ratios[i] else ONE for i in members.tolist()]
        key = (node.output, axis, tuple(zip(names, (r / lead for r in ratios), strict=True)))
        known[k] = (facts.classes.of(key), lead)
    return facts.classes.made(n, low, high, known)
