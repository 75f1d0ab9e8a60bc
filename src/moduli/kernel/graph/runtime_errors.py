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
- Other functions are off by what `runtime` says of functions. A softmax computes exp(x - max) and a
  sum of at least 1; a norm computes a mean and a variance, perhaps as a mean of squares less a square.
- Of an opaque node, and of one that no rule here understands, nothing is known.

Integers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import arithmetic
from ..exact_numbers import up
from ..runtime import Runtime
from .differences import NOTHING, Bound, Differences, Pair, at_most, overall, plus, product, ranked
from .entrywise import Elementwise, PerUnit
from .facts import Known, Ranges
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
EXACT = ("identity", "neg", "relu", "abs", "max", "min", "where", "sign", "bool", "round")
WHOLE = (*EXACT, "add", "sub", "mul")  # of integers, integers
MOVED = ("slice", "tile", "gather", "select", "pad", *MAXIMA)  # of slices
MEANS = ("mean", "ReduceMean", "average pool", "adaptive average pool", *SUM)
NORMALISED = 12  # roundings of a batch norm, however its numbers are put together


class Sum(NamedTuple):
    """A value as one sum: how many roundings a term passes through, and the sum of all sizes."""

    roundings: int
    mass: Bound


class RuntimeErrors(Differences):
    """Sizes over the reals, and gaps to what is computed, of all tensors on a box.

    Args:
        ranges: of all inputs, which are numbers of the runtime. integers: inputs that hold integers.
        near: for some values, bounds of their gaps that hold for other reasons.

    Attributes:
        fresh: what each value's node adds to its gap, the largest. stopped: the first node whose result
            has no bound though what it reads has, and why; None where there is none.

    Raises:
        CertificateRejected: shapes or ranges that do not fit.
        Undecided: the runtime has no number for a stored one.
    """

    def __init__(
        self, graph: GraphModel, runtime: Runtime, ranges: Ranges, integers: Iterable[str] = (),
        near: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        arithmetic.require_everywhere()
        self.near = near or {}
        self.runtime, self.whole_numbers = runtime, set(integers)
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
        moved = {name: up(np.abs(array - held[name])) for name, array in floats.items()}
        constants = {name: held.get(name, array) for name, array in graph.constants.items()}

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
        # integers times a scale, which is rounded, then the product is
        value = np.abs(np.asarray(self.graph.array(name), dtype=np.float64))
        return up(value * (3.0 * self.runtime.format.unit), 4) + self.runtime.flushed

    def bounded(self, node: Node) -> Pair:
        size, gap = super().bounded(node)
        if isinstance(node.op, Size) or self._of_integers(node):
            self.whole_numbers.update(node.outputs)
            return size, gap
        moved = np.zeros(2) if gap is None else gap
        rule = FRESH.get(type(node.op), _nothing_known)
        self.too_large = False
        fresh = rule(self, node, node.op, _constant_of(size), _constant_of(moved))
        self.fresh[node.output] = float(np.max(fresh, initial=0.0))
        total = plus(moved, _bound(fresh))
        if not all(math.isfinite(self.gap(name)) for name in node.inputs if name):
            total = NOTHING  # it may be no number at all, which no range holds
        if math.isfinite(self.near.get(node.output, math.inf)):
            total = at_most(total, self.near[node.output])
        if not math.isfinite(_constant(overall(total))):
            self._stop(node)
            return size, NOTHING
        self.too_large = self.beyond(_constant_of(plus(self._capped(node.output, size), total)))
        if self.too_large:
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
            found = Sum(0, size if gap is None else plus(size, gap))
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


def _constant(bound: Bound) -> float:
    """On a box; infinite where it grows all the same."""
    return math.inf if bound[1] > 0 or math.isnan(bound[0]) else float(bound[0])


def _constant_of(bound: Bound) -> Array:
    found: Array = np.where(bound[..., 1] > 0, np.inf, bound[..., 0])
    return np.where(np.isnan(found), np.inf, found)


def _bound(mass: Array) -> Bound:
    return np.stack([mass, np.zeros_like(mass)], axis=-1)


def _nothing_known(at: RuntimeErrors, node: Node, op: Any, size: Array, gap: Array) -> Array:
    return np.full(np.broadcast_shapes(size.shape, gap.shape), np.inf)


def _none(at: RuntimeErrors, node: Node, op: Any, size: Array, gap: Array) -> Array:
    return np.zeros(np.broadcast_shapes(size.shape, gap.shape))


def _summed(at: RuntimeErrors, node: Node, terms: float, mass: Array, extra: Array) -> Array:
    """Of a sum of products; `extra` bounds the sum of the sizes of their factors."""
    if not math.isfinite(terms):
        return np.full(mass.shape, np.inf)
    chain = at.runtime.chain
    roundings = int(terms if chain is None else min(terms, chain)) + 1
    at.sums[node.output] = Sum(roundings, _bound(mass))
    flushed = at.runtime.format.least * up(extra + (5.0 * terms + 5.0), 4)
    lost = up(flushed * (1.0 + float(at.runtime.roundings(roundings))), 4)
    return up(at.growth(roundings, mass) + lost)


def _linear(at: RuntimeErrors, node: Node, op: Linear, size: Array, gap: Array) -> Array:
    weight = at.graph.array(node.inputs[1])
    if weight is None or not are_numbers(weight):
        return _nothing_known(at, node, op, size, gap)
    terms = weight.size // max(1, weight.shape[op.rows])
    read = _constant(overall(plus(*at.whole(node.inputs[0]))))
    heaviest = float(np.abs(np.asarray(weight, dtype=np.float64)).max(initial=0.0))
    # the size that `differences` gives is the sum of the sizes of all terms
    extra = np.float64(terms * (read + heaviest))
    return _summed(at, node, float(terms), up(size + gap), up(extra))


def _contract(at: RuntimeErrors, node: Node, op: Contract, size: Array, gap: Array) -> Array:
    terms = (at.graph.shapes.get(node.inputs[0]) or (0,))[-1]
    if not isinstance(terms, int):
        return _nothing_known(at, node, op, size, gap)
    read = sum(_constant(overall(plus(*at.whole(name)))) for name in node.inputs)
    return _summed(at, node, float(terms), up(size + gap), up(np.float64(terms * read)))


def _elementwise(at: RuntimeErrors, node: Node, op: Elementwise, size: Array, gap: Array) -> Array:
    runtime, names = at.runtime, [name for name in node.inputs if name]
    reached = up(size + gap)
    if op.kind in EXACT or op.kind in ("uint8", "int8", "uint16", "int16"):
        return np.full(reached.shape, runtime.flushed)
    if op.kind == "clip":
        return np.full(reached.shape, runtime.flushed + runtime.moved(op.numbers))
    if op.kind in ("add", "sub", "mul", "div") and len(names) == 2:
        return _fused(at, node, op.kind, names, reached)
    if op.kind in ("div", "sqrt", "prelu"):
        return up(at.growth(2, reached) + runtime.flushed)
    if op.kind == "leaky_relu":
        return runtime.product(reached, op.numbers[0])
    reads = _constant_of(overall(plus(*at.whole(names[0])))[None])
    return runtime.function(op.kind, reached, reads)


def _fused(at: RuntimeErrors, node: Node, kind: str, names: list[str], reached: Array) -> Array:
    """Of a sum, or of a sum times a stored number; products of two values begin anew."""
    rank = at.rank(node.output)
    parts = [at.sum_of(name, rank) for name in names]
    factors = [name for name in names if at.graph.array(name) is not None]
    extra = up(sum(_constant_of(overall(part.mass)[None])[0] for part in parts) + np.float64(16.0))
    flushed = at.runtime.flushed * extra
    if kind in ("add", "sub"):
        roundings = max(part.roundings for part in parts) + 1
        mass = _constant_of(plus(parts[0].mass, parts[1].mass))
    elif kind == "mul" and factors:
        roundings = sum(part.roundings for part in parts) + 2
        mass = product(*(_constant_of(part.mass) for part in parts))
    elif kind == "div" and factors == names[1:]:
        # or times the inverse, which is rounded
        roundings, least = parts[0].roundings + 3, np.abs(np.asarray(at.graph.array(names[1])))
        mass = product(_constant_of(parts[0].mass), up(1.0 / np.asarray(least.min(), dtype=float)))
        flushed = up(flushed * (1.0 + 1.0 / np.float64(least.min())))
    else:
        roundings, mass = 2, reached
    if kind in ("add", "sub") or factors:
        at.sums[node.output] = Sum(roundings, _bound(mass))
    return up(at.growth(roundings, np.maximum(mass, reached)) + flushed)


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
    factor = up(scale / np.sqrt(variance + op.numbers[0]), 8)
    rank = at.rank(node.inputs[0])
    assert rank is not None
    place = [-1 if axis == op.axis else 1 for axis in range(rank)]
    before = at.sum_of(node.inputs[0], rank)
    terms = up(_constant_of(before.mass) + mean.reshape(place))
    mass = up(product(terms, factor.reshape(place)) + shift.reshape(place))
    roundings = before.roundings + NORMALISED
    at.sums[node.output] = Sum(roundings, _bound(mass))
    flushed = at.runtime.flushed * up(8.0 + factor + scale + shift + mean, 8).reshape(place)
    return up(at.growth(roundings, np.maximum(mass, reached)) + flushed)


def _slicewise(at: RuntimeErrors, node: Node, op: Slicewise, size: Array, gap: Array) -> Array:
    reached, runtime = up(size + gap), at.runtime
    if op.kind in MOVED and (op.linear or op.homogeneous):
        return np.full(reached.shape, runtime.flushed)
    count = _count(at, node, op)
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


def _count(at: RuntimeErrors, node: Node, op: Slicewise) -> float:
    """Of the entries that one of the output may read."""
    inside = {i for i, _ in op.free}
    count = 1.0
    for axis, n in enumerate(at.graph.shapes.get(node.inputs[0]) or ("?",)):
        if axis not in inside:
            count *= n if isinstance(n, int) else math.inf
    return count


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
        return 1.0 if kind in SOFTMAX else math.inf
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
    h = (g + 2.0 * unit) * 2.0 * read
    t = (4.0 * read * h + h * h + 8.0 * g * read * read) / epsilon + 8.0 * unit
    if not t <= 0.5 or at.beyond(np.asarray(2.0 * count * (read + h) ** 2)):
        return np.full(reached.shape, np.inf)
    sizes = [_constant(overall(at.pair(name)[0])) for name in node.inputs[1:] if name]
    scale, shift = max([1.0, *sizes]), max([0.0, *sizes])
    off = scale * (h / math.sqrt(epsilon) * (1 + t) + math.sqrt(count) * 2.0 * t)
    off += float(at.runtime.roundings(3.0)) * (scale * math.sqrt(count) + shift)
    return np.full(reached.shape, off * (1 + 2.0**-40) + at.runtime.flushed * (1.0 + scale))


Rule = Callable[[RuntimeErrors, Node, Any, Array, Array], Array]
FRESH: dict[type, Rule] = {
    **dict.fromkeys(MOVES, _none),
    Contract: _contract,
    Elementwise: _elementwise,
    Linear: _linear,
    PerUnit: _per_unit,
    Slicewise: _slicewise,
}
