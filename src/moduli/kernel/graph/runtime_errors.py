"""How far what a runtime computes of a graph is from its function over the reals, on a box. Part of the
kernel.

What is assumed of it stands in `runtime`. For every tensor t over the reals and t' computed, sizes of
t and gaps |t - t'| are carried along the nodes as `differences` does, and each node adds to the gap
what its own roundings make:

- Nodes that move numbers, compare them or take the larger one add nothing.
- A sum adds what `runtime` says of one sum. Runtimes fuse sums with the scales, shifts, batch norms
  and further sums behind them, whose factors are then multiplied into stored numbers. So with each
  such value goes the sum of the sizes of all its terms, written out, and how many roundings a term
  passes through; a node that goes on adds as much as if all were summed at once, there.
- A runtime may also multiply by one number behind a product of matrices in place of before it.
- Other functions are off by what `runtime` says of functions. A softmax computes exp(x - max) and a
  sum of at least 1; a norm computes a mean and a variance, perhaps as a mean of squares less a square.
- Of an opaque node, and of one that no rule here understands, nothing is known.

Integers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import arithmetic
from ..exact_numbers import up
from ..runtime import Runtime
from .differences import (
    NOTHING,
    Bound,
    Differences,
    Pair,
    at_most,
    entries_read,
    overall,
    plus,
    product,
    ranked,
    without_growth,
)
from .entrywise import Elementwise, PerUnit
from .facts import Known, Ranges
from .functions import slope
from .model import GraphModel
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Linear,
    Lookup,
    Node,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .shapes import sound
from .slices import are_numbers
from .slicewise import LOG_SOFTMAX, MAXIMA, SOFTMAX, SUM

Array = np.ndarray[Any, np.dtype[np.float64]]
MOVES = (Broadcast, Concat, Lookup, Reshape, Size, Take, Transpose)
EXACT = ("identity", "neg", "relu", "abs", "max", "min", "where", "sign", "round")
CASTS = {"bool": 1, "uint8": 8, "int8": 8, "uint16": 16, "int16": 16}  # binary digits of integers
WHOLE = (*EXACT, "add", "sub", "mul")  # of integers, integers
MOVED = ("slice", "tile", "gather", "select", "pad", *MAXIMA)  # of slices
MEANS = ("mean", "ReduceMean", "average pool", "adaptive average pool", *SUM)
NORMALISED = 12  # roundings of a batch norm, however its numbers are put together


class Scale(NamedTuple):
    """Numbers by which all of a value was multiplied: their product, and that of those above 1."""

    total: float = 1.0
    grown: float = 1.0

    def times(self, number: float) -> Scale:
        return Scale(self.total * number, self.grown * max(1.0, number))


class Sum(NamedTuple):
    """A value as one sum, written out.

    Terms are products of a stored number, a value and numbers that came before or behind; a runtime may
    multiply any of these first.

    Attributes:
        roundings: that a term passes through. mass: the sum of the sizes of all terms. terms: how many.
            heaviest: the largest stored number. read: the largest value. bare: the sum of the sizes of
            products of the two. grown: product of those further numbers that are above 1.
    """

    roundings: int
    mass: Bound
    terms: float = 1.0
    heaviest: float = 1.0
    read: float = 0.0
    bare: float = 0.0
    grown: float = 1.0

    @property
    def largest(self) -> float:
        """Of all products of some of the factors of a term, and of sums of these, but for rounding."""
        return self.grown * max(1.0, self.heaviest, self.read, self.bare)

    @property
    def flushed(self) -> float:
        """How often the least normal number may be lost: a product of some factors is, and is multiplied
        by the others.
        """
        terms = self.terms
        return self.grown * (self.bare + terms * (self.heaviest + self.read + 6.0) + 6.0)


class RuntimeErrors(Differences):
    """Sizes over the reals, and gaps to what is computed, of all tensors on a box.

    Args:
        ranges: of all inputs, which are numbers of the runtime.
        near: for some values, bounds of their gaps that hold for other reasons.

    Attributes:
        fresh: what each value's node adds to its gap, the largest. stopped: the first node whose result
            has no bound though what it reads has, and why; None where there is none.

    Raises:
        CertificateRejected: shapes or ranges that do not fit.
        Undecided: the runtime has no number for a stored one.
    """

    def __init__(
        self, graph: GraphModel, runtime: Runtime, ranges: Ranges,
        near: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        arithmetic.require_everywhere()
        self.near = near or {}
        self.runtime, self.whole_numbers = runtime, set[str]()
        self.scaled: dict[str, Scale] = {}
        self.sums: dict[str, Sum] = {}
        self.fresh: dict[str, float] = {}
        self.stopped: tuple[str, str] | None = None
        self.too_large = False
        graph = sound(graph).live()
        known = Known(graph, ranges)
        multiplied = _factors_of_norms(graph, runtime)
        floats = {
            name: np.asarray(array, dtype=np.float64)
            for name, array in graph.constants.items()
            if (array.dtype.kind == "f" or array.dtype.name == "bfloat16")
            and name not in multiplied
        }
        held = {name: runtime.held(array, repr(name)) for name, array in floats.items()}
        with np.errstate(all="ignore"):
            moved = {
                name: np.where(array == held[name], 0.0, up(np.abs(array - held[name])))
                for name, array in floats.items()
            }
        constants = {
            name: _in_its_type(held[name], array) if name in held else array
            for name, array in graph.constants.items()
        }

        def deviation(name: str) -> Array | None:
            found = moved.get(name)
            return found if found is not None and found.any() else None

        with np.errstate(all="ignore"):
            super().__init__(replace(graph, constants=constants), deviation, known)

    @property
    def upper(self) -> float:
        """A bound of how far any entry of an output is from the function."""
        return max(self.gap(name) for name in self.graph.outputs)

    def gap(self, name: str) -> float:
        """Of any entry of a value."""
        found = self.pair(name)[1]
        return 0.0 if found is None else _constant(overall(found))

    def stored_gap(self, name: str) -> Array | None:
        node = self.graph.makers.get(name)
        if node is None or not isinstance(node.op, PerUnit):
            return super().stored_gap(name)
        # an integer, its scale and the product are rounded; a scale may be flushed
        form = self.runtime.format
        value = np.abs(np.asarray(self.graph.array(name), dtype=np.float64))
        scale = np.abs(np.asarray(self.graph.array(node.inputs[1]), dtype=np.float64))
        off = self.stored_gap(node.inputs[1])
        relative = 0.0 if off is None else float(np.max(off / np.maximum(scale, 2.0**-1074)))
        if not (scale >= form.least).all() or not (scale <= form.most).all():
            relative = math.inf
        steps = value / scale.min(initial=math.inf)
        if self.beyond(steps) or self.beyond(value) or not math.isfinite(relative):
            return np.full(value.shape, np.inf)
        lost = value * (relative * (1.0 + 4.0 * form.unit) + 4.0 * form.unit)
        return up(lost, 8) + self.runtime.flushed

    def bounded(self, node: Node) -> Pair:
        size, gap = super().bounded(node)
        if isinstance(node.op, Size) or self._of_integers(node):
            self.whole_numbers.update(node.outputs)
            return size, gap
        moved = np.zeros(2) if gap is None else gap
        rule = FRESH.get(type(node.op), _nothing_known)
        self.too_large = False
        fresh = rule(self, node, node.op, without_growth(size), without_growth(moved))
        self.fresh[node.output] = float(np.max(fresh, initial=0.0))
        total = plus(moved, _bound(fresh))
        if isinstance(node.op, Slicewise) and node.op.kind in SOFTMAX:
            total = at_most(total, _share(self.runtime))
        if not all(math.isfinite(self.gap(name)) for name in node.inputs if name):
            total = NOTHING  # it may be no number at all, which no range holds
        if math.isfinite(self.near.get(node.output, math.inf)):
            total = at_most(total, self.near[node.output])
        if not math.isfinite(_constant(overall(total))):
            self._stop(node)
            return size, NOTHING
        reached = without_growth(plus(self._capped(node.output, size), total))
        if self.beyond(reached):
            self.too_large = bool(np.isfinite(reached).all())
            self._stop(node)
            return size, NOTHING
        return size, total

    def beyond(self, sizes: Array) -> bool:
        return not bool((sizes <= self.runtime.format.most).all())

    def _stop(self, node: Node) -> None:
        known = (name for name in node.inputs if name and self.graph.array(name) is None)
        if self.stopped is None and all(math.isfinite(self.gap(name)) for name in known):
            if self.too_large:
                why = f"it may exceed the largest number of {self.runtime.dtype}"
            else:
                why = "no bound of its rounding is known"
            self.stopped = (node.name or node.output, why)

    def weights(self, node: Node) -> Node | None:
        """None: what a softmax rounds does not come from what it compares."""
        return None

    def _of_integers(self, node: Node) -> bool:
        """Whether all that a node reads and gives are integers."""
        if isinstance(node.op, Elementwise):
            if node.op.kind not in WHOLE:
                return False
        elif not isinstance(node.op, MOVES):
            return False
        return all(self._holds_integers(name) for name in node.inputs if name)

    def _holds_integers(self, name: str) -> bool:
        array = self.graph.array(name)
        return name in self.whole_numbers or (array is not None and array.dtype.kind in "iub")

    # What rules ask

    def sum_of(self, name: str, rank: int | None) -> Sum:
        """A value as a sum; one term where it is none."""
        found = self.sums.get(name)
        if found is None:
            size, gap = self.pair(name)
            mass = size if gap is None else plus(size, gap)
            whole = _constant(overall(mass))
            found = Sum(0, mass, read=whole, bare=whole)
        return found if rank is None else found._replace(mass=ranked(found.mass, rank))

    def growth(self, roundings: int, mass: Array) -> Array:
        """What a sum loses."""
        factor = float(self.runtime.roundings(roundings))
        lost = up(product(mass, np.full((), factor)), 2)
        if self.beyond(up(mass + lost)):  # a partial sum
            self.too_large = True
            return np.full(lost.shape, np.inf)
        return lost


def _factors_of_norms(graph: GraphModel, runtime: Runtime) -> frozenset[str]:
    """Scales and variances that only batch norms read: that they are rounded counts among the
    roundings of these. A number that may be flushed is none of them.
    """
    found = set[str]()
    for name, array in graph.constants.items():
        readers = graph.readers.get(name, [])
        norms = [node for node in readers if isinstance(node.op, PerUnit)]
        if not norms or len(norms) < len(readers) or name in graph.outputs:
            continue
        places = {i for node in norms for i, x in enumerate(node.inputs) if x == name}
        kinds = {node.op.kind for node in norms if isinstance(node.op, PerUnit)}
        sizes = np.abs(np.asarray(array, dtype=np.float64))
        normal = (sizes >= runtime.format.least) & (sizes <= runtime.format.most)
        if kinds == {"batchnorm"} and places <= {1, 4} and (normal | (sizes == 0)).all():
            found.add(name)
    return frozenset(found)


def _in_its_type(held: Array, array: Any) -> Any:
    """Numbers in the type in which they were stored, where that has them."""
    with np.errstate(all="ignore"):
        same = held.astype(array.dtype)
        return same if np.array_equal(same.astype(np.float64), held, equal_nan=True) else held


def _constant(bound: Bound) -> float:
    return float(without_growth(bound))


def _bound(mass: Array) -> Bound:
    return np.stack([mass, np.zeros_like(mass)], axis=-1)


def _nothing_known(at: RuntimeErrors, node: Node, op: Any, size: Array, gap: Array) -> Array:
    return np.full(np.broadcast_shapes(size.shape, gap.shape), np.inf)


def _none(at: RuntimeErrors, node: Node, op: Any, size: Array, gap: Array) -> Array:
    return np.zeros(np.broadcast_shapes(size.shape, gap.shape))


def _summed(
    at: RuntimeErrors, node: Node, terms: float, mass: Array, read: float, heaviest: float
) -> Array:
    """Of a sum of products of values of at most `read` with numbers of at most `heaviest`.

    Where values were multiplied by one number, a runtime may do that behind the sum instead.
    """
    if not math.isfinite(terms * (read + heaviest)):
        return np.full(mass.shape, np.inf)
    chain = at.runtime.chain
    scale = Scale()
    for name in node.inputs[:2]:
        before = at.scaled.get(name, Scale())
        scale = Scale(scale.total * before.total, scale.grown * before.grown)
    if scale != Scale():
        at.scaled[node.output] = scale
    roundings = int(terms if chain is None else min(terms, chain)) + 1
    roundings += 2 if scale != Scale() else 0
    whole = _constant(overall(_bound(mass)))
    shrunk = max(1.0, 1.0 / scale.total) * (1 + 2.0**-40)
    found = Sum(
        roundings, _bound(mass), terms, heaviest, read * shrunk, whole * shrunk, scale.grown
    )
    return _lost(at, node, found, mass)


def _lost(at: RuntimeErrors, node: Node, found: Sum, mass: Array, further: float = 0.0) -> Array:
    """What roundings and flushes of a sum lose; infinite where some product or partial sum may be beyond
    the format.
    """
    grown = 1.0 + float(at.runtime.roundings(found.roundings))
    largest = found.largest * grown * (1 + 2.0**-40)
    if not largest <= at.runtime.format.most:
        at.too_large = math.isfinite(largest)
        return np.full(mass.shape, np.inf)
    at.sums[node.output] = found
    flushed = at.runtime.format.least * (2.0 * found.flushed + 8.0 + further) * grown
    return up(at.growth(found.roundings, mass) + up(np.float64(flushed), 16))


def _linear(at: RuntimeErrors, node: Node, op: Linear, size: Array, gap: Array) -> Array:
    weight = at.graph.array(node.inputs[1])
    if weight is None or not are_numbers(weight):
        return _nothing_known(at, node, op, size, gap)
    terms = weight.size // max(1, weight.shape[op.rows])
    read = _constant(overall(plus(*at.whole(node.inputs[0]))))
    heaviest = float(np.abs(np.asarray(weight, dtype=np.float64)).max(initial=0.0))
    # the size that `differences` gives is the sum of the sizes of all terms
    return _summed(at, node, float(terms), up(size + gap), read, heaviest)


def _contract(at: RuntimeErrors, node: Node, op: Contract, size: Array, gap: Array) -> Array:
    terms = (at.graph.shapes.get(node.inputs[0]) or (0,))[-1]
    if not isinstance(terms, int):
        return _nothing_known(at, node, op, size, gap)
    read = sum(_constant(overall(plus(*at.whole(name)))) for name in node.inputs)
    return _summed(at, node, float(terms), up(size + gap), read, read)


def _elementwise(at: RuntimeErrors, node: Node, op: Elementwise, size: Array, gap: Array) -> Array:
    runtime, names = at.runtime, [name for name in node.inputs if name]
    reached = up(size + gap)
    if op.kind in CASTS:
        # exact where the format holds all integers of the type
        exact = CASTS[op.kind] <= runtime.format.digits
        return up(
            (0.0 if exact else at.growth(1, reached)) + np.full(reached.shape, runtime.flushed)
        )
    if op.kind in EXACT:
        if op.kind in ("identity", "neg") and names[0] in at.scaled:
            at.scaled[node.output] = at.scaled[names[0]]
        return np.full(reached.shape, runtime.flushed)
    if op.kind == "clip":
        return np.full(reached.shape, runtime.flushed + runtime.moved(op.numbers))
    if op.kind in ("add", "sub", "mul", "div") and len(names) == 2:
        return _fused(at, node, op.kind, names, reached)
    if op.kind == "sqrt":
        return _root(at, names[0], reached)
    if op.kind == "prelu":
        steep = _constant(overall(plus(*at.whole(names[1]))))
        return up(at.growth(2, reached) + np.full(reached.shape, runtime.flushed * (1.0 + steep)))
    if op.kind == "leaky_relu":
        return runtime.product(reached, op.numbers[0])
    reads = without_growth(overall(plus(*at.whole(names[0])))[None])
    steep = slope(op.kind, op.numbers)
    if op.kind == "exp":
        steep = float(reached.max(initial=0.0))
    elif op.kind == "pow":
        exponent = at.graph.array(names[1])
        one = exponent is not None and exponent.size == 1
        power = float(np.ravel(np.asarray(exponent))[0]) if one else math.nan
        if power == 0.5:
            return _root(at, names[0], reached)
        wide = max(1.0, float(reads[0]))
        steep = power * wide ** (power - 1.0) if power in (1.0, 2.0, 3.0, 4.0) else math.inf
    flushed = runtime.flushed * max(1.0, steep)  # what is read may be flushed
    return up(runtime.function(op.kind, reached, reads) + np.full(reached.shape, flushed))


def _root(at: RuntimeErrors, name: str, reached: Array) -> Array:
    """Of a square root; what is read may be flushed where it is small, and there it is steep."""
    least = _lowest(at, name)
    if not least >= 0:
        return np.full(reached.shape, np.inf)
    normal = at.runtime.format.least
    flushed = 0.0 if least > normal else math.sqrt(normal) * (1 + 2.0**-40)
    return up(at.growth(2, reached) + np.full(reached.shape, at.runtime.flushed + flushed))


def _lowest(at: RuntimeErrors, name: str) -> float:
    """A bound from below of what is computed of a value."""
    array = at.graph.array(name)
    if array is not None:
        gap = at.stored_gap(name)
        low = np.asarray(array, dtype=np.float64) - (0.0 if gap is None else gap)
        return float(low.min(initial=math.inf))
    least, _ = at.known.hull(name, at.graph.shapes.get(name))
    return float(np.nextafter(least - at.gap(name), -np.inf))


def _least_size(at: RuntimeErrors, name: str) -> float:
    """A bound from below of the sizes of what is computed of a value; zero where none is known."""
    array = at.graph.array(name)
    if array is not None:
        gap = at.stored_gap(name)
        sizes = np.abs(np.asarray(array, dtype=np.float64)) - (0.0 if gap is None else gap)
        return max(0.0, float(sizes.min(initial=math.inf)) * (1 - 2.0**-50))
    return max(0.0, _lowest(at, name))


def _fused(at: RuntimeErrors, node: Node, kind: str, names: list[str], reached: Array) -> Array:
    """Of a sum, or of a sum times a stored number; products of two values begin anew."""
    rank, runtime = at.rank(node.output), at.runtime
    parts = [at.sum_of(name, rank) for name in names]
    stored = [at.graph.array(name) is not None for name in names]
    sizes = [_constant(overall(part.mass)) for part in parts]
    normal = runtime.format.least
    if kind in ("add", "sub"):
        # one sum of all terms, in any order
        mass = without_growth(plus(parts[0].mass, parts[1].mass))
        found = Sum(
            sum(part.roundings for part in parts) + 1, _bound(mass),
            sum(part.terms for part in parts), max(part.heaviest for part in parts),
            max(part.read for part in parts), sum(part.bare for part in parts),
            max(part.grown for part in parts),
        )  # fmt: skip
        return _lost(at, node, found, np.maximum(mass, reached))
    if kind == "div":
        least = _least_size(at, names[1])
        # a divisor that may be flushed, or whose inverse is beyond the format
        if not least > 2.0 * normal or not 2.0 / least <= runtime.format.most:
            return np.full(reached.shape, np.inf)
        further = 8.0 / least
        if not stored[1]:
            return up(at.growth(2, reached) + normal * (4.0 + further))
        number = 1.0 / least * (1 + 2.0**-50)
        mass = product(without_growth(parts[0].mass), np.full((), number))
        return _multiplied(
            at, node, names[0], names[1], parts[0], mass, reached, number, 3, further
        )
    further = 4.0 + sizes[0] + sizes[1]
    if stored[0] == stored[1]:
        return up(at.growth(2, reached) + normal * further)
    value, number = (1, 0) if stored[0] else (0, 1)
    mass = product(*(without_growth(part.mass) for part in parts))
    return _multiplied(
        at, node, names[value], names[number], parts[value], mass, reached, sizes[number], 2, further,
    )  # fmt: skip


def _multiplied(
    at: RuntimeErrors, node: Node, name: str, by: str, value: Sum, mass: Array, reached: Array,
    number: float, roundings: int, further: float,
) -> Array:  # fmt: skip
    """Of a sum times stored numbers of at most `number`, which a runtime may multiply with any other
    factor first.
    """
    if np.size(np.asarray(at.graph.array(by))) == 1 and number > 0:
        at.scaled[node.output] = at.scaled.get(name, Scale()).times(number)
    grown = value.grown * max(1.0, number)
    found = value._replace(
        roundings=value.roundings + roundings, mass=_bound(mass), grown=grown,
        heaviest=max(value.heaviest, number), read=max(value.read, _constant(overall(value.mass))),
    )  # fmt: skip
    return _lost(at, node, found, np.maximum(mass, reached), further * max(1.0, number))


def _per_unit(at: RuntimeErrors, node: Node, op: PerUnit, size: Array, gap: Array) -> Array:
    reached = up(size + gap)
    if op.kind == "dequantise":
        return up(at.growth(2, reached) + at.runtime.flushed)
    if op.kind != "batchnorm":
        return _nothing_known(at, node, op, size, gap)
    # |scale| / sqrt(variance + epsilon) times the terms of x, and of the mean; and the shift
    arrays = [at.graph.array(name) for name in node.inputs[1:]]
    if any(a is None for a in arrays):
        return _nothing_known(at, node, op, size, gap)
    scale, shift, mean, variance = (np.abs(np.asarray(a, dtype=np.float64)) for a in arrays)
    normal, square = at.runtime.format.least, variance + op.numbers[0]
    # variance or epsilon may be flushed: the root is off by half of what its square is
    if not (square >= 8.0 * normal).all():
        return np.full(reached.shape, np.inf)
    steep = up(scale / np.sqrt(square) * (1.0 + 2.0 * normal / square), 16)
    rank = at.rank(node.inputs[0])
    assert rank is not None
    place = [-1 if axis == op.axis else 1 for axis in range(rank)]
    before = at.sum_of(node.inputs[0], rank)
    terms = up(without_growth(before.mass) + mean.reshape(place))
    if at.beyond(up(terms * 2.0)):
        at.too_large = True
        return np.full(reached.shape, np.inf)
    mass = up(product(terms, steep.reshape(place)) + shift.reshape(place))
    biggest = float(terms.max(initial=0.0))
    further = 4.0 * (8.0 + float(np.max(steep + scale + shift + mean, initial=0.0)) + biggest)
    further += float(np.max(2.0 / square, initial=0.0)) * float(mass.max(initial=0.0))
    number = float(steep.max(initial=0.0))
    found = before._replace(
        roundings=before.roundings + NORMALISED, mass=_bound(mass),
        terms=before.terms + 2.0, grown=before.grown * max(1.0, number),
        heaviest=max(before.heaviest, number, float(np.max(mean + shift, initial=0.0))),
        read=max(before.read, biggest), bare=max(before.bare, biggest),
    )  # fmt: skip
    return _lost(at, node, found, np.maximum(mass, reached), further)


def _slicewise(at: RuntimeErrors, node: Node, op: Slicewise, size: Array, gap: Array) -> Array:
    reached, runtime = up(size + gap), at.runtime
    if op.kind in MOVED and (op.linear or op.homogeneous):
        return np.full(reached.shape, runtime.flushed)
    count = entries_read(at.graph.shapes.get(node.inputs[0]) or ("?",), op)
    if not math.isfinite(count):
        return _nothing_known(at, node, op, size, gap)
    read = _constant(overall(plus(*at.whole(node.inputs[0]))))
    if op.kind in MEANS:
        # a mean is a sum of at most `count` terms, and a quotient
        lost = runtime.flushed * (2.0 * count + 2.0)
        mass = np.maximum(reached, read if op.kind not in SUM else 0.0)
        if at.beyond(np.asarray(2.0 * count * read)):
            at.too_large = True
            return np.full(reached.shape, np.inf)
        return up(at.growth(int(count) + 3, mass) + lost)
    if op.kind in (*SOFTMAX, *LOG_SOFTMAX):
        return np.full(reached.shape, _softmax(runtime, op.kind, count, read))
    if op.normalises is not None and op.normalises > 0:
        return _norm(at, node, count, op.normalises, read, reached)
    return _nothing_known(at, node, op, size, gap)


def _share(runtime: Runtime) -> float:
    """What a softmax gives is from 0 to this, exact or not: powers are not negative, sums not below
    their largest term, and a quotient, or product with an inverse, is rounded.
    """
    return 1.0 + float(runtime.roundings(4.0)) + runtime.flushed


def _softmax(runtime: Runtime, kind: str, count: float, read: float) -> float:
    """Of p_i = e_i / s with e_i = exp(x_i - max) and s = sum of e_j >= 1.

    x_i - max is off by u |x_i - max|, which changes e_i by at most the factor exp(u 2 read), e_i <= 1;
    exp is off by f. With d = exp(2 u read) - 1 + f: each e_i is off by d, s by n d and by a factor of
    n roundings, and the quotient by one. So p_i is off by 2 (d + n d + g), if n d + g <= 1/2. The
    logarithm of s is off by twice what s is off by, and x_i - max - log s <= 2 read + log n by three
    roundings and a function.
    """
    unit, most = runtime.format.unit, math.log(max(count, 1.0)) + 1.0
    function = float(runtime.function("exp", np.ones(()), np.ones(())))
    d = math.expm1(min(2.0 * unit * read, 700.0)) + function
    g = float(runtime.roundings(count + 2.0)) + runtime.flushed
    if not (count * d + g <= 0.5 and 2.0 * count <= runtime.format.most):
        return _share(runtime) if kind in SOFTMAX else math.inf
    off = 2.0 * (d + count * d + g)
    if kind in LOG_SOFTMAX:
        further = float(runtime.function("log", np.asarray(most), np.asarray(most)))
        off += float(runtime.roundings(3.0)) * (4.0 * read + most) + further
    return off * (1 + 2.0**-40)


def _norm(
    at: RuntimeErrors, node: Node, count: float, epsilon: float, read: float, reached: Array
) -> Array:
    """Of u / s with s^2 = mean of u^2 + epsilon, u = x or x less its mean, |x| <= r.

    The mean is off by g r, with n + 2 roundings in g, so each u by h = (g + 2 u) 2 r; s^2 by 4 r h + h^2
    + 8 g r^2, however the variance is put together, hence by a factor of at most 1 + t, t = that /
    epsilon. For t <= 1/2, 1/s is off by a factor 1 + t at most, and |u| / s <= sqrt(n).
    """
    unit, g = at.runtime.format.unit, float(at.runtime.roundings(count + 4.0))
    h = (g + 2.0 * unit) * 2.0 * read + at.runtime.flushed * (count + 4.0)
    normal = at.runtime.format.least
    t = (4.0 * read * h + h * h + 8.0 * g * read * read) / epsilon + 8.0 * unit
    t += 8.0 * normal * (count + 8.0) / epsilon  # squares, their mean and epsilon may be flushed
    if epsilon < normal or not t <= 0.5 or at.beyond(np.asarray(2.0 * count * (read + h) ** 2)):
        return np.full(reached.shape, np.inf)
    sizes = [_constant(overall(at.pair(name)[0])) for name in node.inputs[1:] if name]
    scale, shift = max([1.0, *sizes]), max([0.0, *sizes])
    off = scale * (h / math.sqrt(epsilon) * (1 + t) + math.sqrt(count) * 2.0 * t)
    off += float(at.runtime.roundings(3.0)) * (scale * math.sqrt(count) + shift)
    return np.full(reached.shape, off * (1 + 2.0**-40) + at.runtime.flushed * (1.0 + scale))


Rule = Callable[[RuntimeErrors, Node, Any, Array, Array], Array]
FRESH: dict[type, Rule] = {
    **dict.fromkeys(MOVES, _none), Contract: _contract, Elementwise: _elementwise, Linear: _linear,
    PerUnit: _per_unit, Slicewise: _slicewise,
}  # fmt: skip
