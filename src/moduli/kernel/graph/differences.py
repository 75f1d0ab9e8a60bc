"""How far apart two graphs are that differ in stored numbers alone. Part of the kernel.

Both graphs have the same operators, wiring and inputs. One, "ours", is there; of each number that the
other stores a bound is known of what it is away from ours, and facts of its tensors may be known. For
every tensor t of the other two bounds are carried along the nodes, t' being ours:

    size   |t| <= size
    gap    |t - t'| <= gap         none where t = t'

Each is constant + growth * |x|_inf, with x the inputs of the graph, and may differ from index to
index. On a box growth is zero. What no rule bounds is infinite; whatever a node does, from equal
inputs it gives equal outputs. Every rounding goes outward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import arithmetic
from ..errors import CertificateRejected
from ..exact_numbers import up, up_matmul
from ..slack import Slack
from .entrywise import Elementwise, PerUnit
from .facts import Known, Ranges
from .functions import law, slope
from .model import GraphModel, sizes
from .operator import TINY, Shape
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

# [..., 2]: constant and growth for each index of some last axes of a tensor; an axis along which one
# number holds for all indices has size 1
Bound = np.ndarray[Any, np.dtype[np.float64]]
Array = np.ndarray[Any, np.dtype[np.float64]]
Deviation = Callable[[str], "Array | None"]
Pair = tuple[Bound, "Bound | None"]

LARGE = 2**16  # entries beyond which a stored tensor is looked at along its last axis only
ROWS = 2**18  # weights that are looked at at a time
NOTHING = np.full(2, np.inf)


def difference(graph: GraphModel, deviation: Deviation, known: Known) -> Slack:
    """A bound of how far any entry of an output is from that of the other graph.

    Args:
        graph: ours. deviation: for the name of a stored tensor, bounds of what each entry is away from
            its partner, ``[its shape]``; None where all are equal. known: facts of the other graph.
            Inputs that have ranges there are within them, and the others are anything.
    """
    return slack_of_outputs(Differences(graph, deviation, known))


def slack_of_outputs(found: Differences) -> Slack:
    """The largest gap of an output."""
    constant = growth = 0.0
    for name in found.graph.outputs:
        gap = found.pair(name)[1]
        if gap is not None:
            worst = gap.reshape(-1, 2).max(axis=0, initial=0.0)
            if not np.isfinite(worst).all():
                return Slack(math.inf, 0.0)
            constant, growth = max(constant, worst[0]), max(growth, worst[1])
    return Slack(float(constant), float(growth))


def sizes_of_outputs(graph: GraphModel, known: Known) -> Slack:
    """A bound of any entry of an output."""
    found = Differences(graph, lambda name: None, known)
    sizes = [found.pair(name)[0].reshape(-1, 2).max(axis=0, initial=0.0) for name in graph.outputs]
    constant, growth = np.max([*sizes, np.zeros(2)], axis=0)
    return Slack(float(constant), float(growth))


def apart(first: GraphModel, second: GraphModel, ranges: Ranges) -> Slack:
    """A bound of how far outputs of two graphs are apart, by what is known of them.

    By `difference` where they have the same operators and wiring, and by the bounds that each has.
    Inputs and outputs are matched in their order; `ranges` are of the inputs of the first.

    Raises:
        CertificateRejected: inputs or outputs do not fit each other.
    """
    first, second = matched(first, second)
    known = Known(first, ranges)
    others = {b: ranges[a] for a, b in zip(first.inputs, second.inputs, strict=True) if a in ranges}
    found = _hulls_apart(known, Known(second, others))
    twin = renamed_like(second, first)
    if twin is None:
        return found
    near = difference(twin, deviations(first, twin), known)
    if not found.finite:
        return near
    return found if near.growth or found.constant < near.constant else near


def matched(first: GraphModel, second: GraphModel) -> tuple[GraphModel, GraphModel]:
    """Two graphs whose inputs and outputs can be compared.

    Raises:
        CertificateRejected: they do not fit each other.
    """
    arithmetic.require_everywhere()
    first, second = sound(first).live(), sound(second).live()
    names = [(*graph.inputs, *graph.outputs) for graph in (first, second)]
    if (len(first.inputs), len(names[0])) != (len(second.inputs), len(names[1])):
        raise CertificateRejected("the graphs do not have the same inputs and outputs")
    for a, b in zip(*names, strict=True):
        if sizes(first.shapes.get(a)) != sizes(second.shapes.get(b)):
            raise CertificateRejected(f"{a!r} and {b!r} of the other do not have one shape")
    return first, second


def _hulls_apart(first: Known, second: Known) -> Slack:
    """By bounds of the outputs, slice by slice along some axis of each."""
    most = 0.0
    for a, b in zip(first.graph.outputs, second.graph.outputs, strict=True):
        least = math.inf
        if not of_one_shape(first.graph, a, second.graph, b):
            return Slack(math.inf, 0.0)
        for axis, n in enumerate(first.shape(a) or ()):
            if isinstance(n, int) and n:
                x, y = first.of((a, axis)), second.of((b, axis))
                gaps = np.maximum(x.high - y.low, y.high - x.low)
                worst = float(np.nextafter(gaps.max(), np.inf))
                least = min(least, math.inf if math.isnan(worst) else worst)
        most = max(most, least)
    return Slack(max(most, 0.0), 0.0)


def of_one_shape(first: GraphModel, a: str, second: GraphModel, b: str) -> bool:
    """Whether two outputs have one shape at all inputs: sizes that are no numbers are those of the same
    axes of inputs.
    """
    mine, its = first.shapes.get(a), second.shapes.get(b)
    if mine is None or its is None or len(mine) != len(its):
        return False
    pairs = [
        (first.shapes.get(x) or (), second.shapes.get(y) or ())
        for x, y in zip(first.inputs, second.inputs, strict=True)
    ]
    alike = {ends for one, other in pairs for ends in zip(one, other, strict=False)}
    return all(
        m == n if isinstance(m, int) or isinstance(n, int) else (m, n) in alike
        for m, n in zip(mine, its, strict=True)
    )


def deviations(twin: GraphModel, graph: GraphModel) -> Callable[[str], Array | None]:
    """How far stored numbers of two graphs of one wiring are apart."""

    def deviation(name: str) -> Array | None:
        a, b = twin.constants[name], graph.constants[name]
        if np.array_equal(a, b):
            return None
        if not (are_numbers(a) and are_numbers(b)):
            return np.full(a.shape, np.inf)
        wide = (np.asarray(array, dtype=np.float64) for array in (a, b))
        return np.asarray(up(np.abs(np.subtract(*wide))))

    return deviation


def renamed_like(graph: GraphModel, other: GraphModel) -> GraphModel | None:
    """The graph under the names that another has, where it has the same operators and wiring."""
    names = dict(zip(graph.inputs, other.inputs, strict=True))
    if len(graph.nodes) != len(other.nodes):
        return None
    for mine, its in zip(graph.nodes, other.nodes, strict=True):
        pairs = [
            *zip(mine.inputs, its.inputs, strict=False),
            *zip(mine.outputs, its.outputs, strict=False),
        ]
        alike = (len(mine.inputs), len(mine.outputs)) == (len(its.inputs), len(its.outputs))
        if not alike or mine.op != its.op or any(names.setdefault(a, b) != b for a, b in pairs):
            return None
    constants = {names[name]: array for name, array in graph.constants.items() if name in names}
    if set(constants) != set(other.constants) or len(set(names.values())) < len(names):
        return None
    if any(constants[name].shape != array.shape for name, array in other.constants.items()):
        return None
    twin = replace(other, constants=constants)
    return twin if twin.digest == graph.digest else None


class Differences:
    """Bounds of all tensors of a graph; see the module."""

    def __init__(self, graph: GraphModel, deviation: Deviation, known: Known) -> None:
        self.graph, self.deviation, self.known = graph, deviation, known
        self.pairs: dict[str, Pair] = {}
        self.torn: set[str] = set()  # values whose very shapes may differ
        for name in graph.inputs:
            self.pairs[name] = (self._capped(name, np.array([0.0, 1.0])), self.given(name))
        for node in graph.nodes:
            if not node.outputs or graph.array(node.output) is not None:
                continue
            self._give(node)

    def given(self, name: str) -> Bound | None:
        """Gap of an input."""
        return None

    def bounded(self, node: Node) -> Pair:
        """Size and gap of what a node gives."""
        rule = RULES.get(type(node.op), _unknown)
        size, gap = rule(self, node, node.op)
        moved = gap is not None and self._moved(node) and bool(gap.any())
        return size, gap if moved else None

    def _give(self, node: Node) -> None:
        size, gap = self.bounded(node)
        torn = not self.torn.isdisjoint(node.inputs)
        for name in node.outputs:
            if not name:
                continue
            # sizes that inputs have are those of both; others may be made of what differs
            loose = any(
                isinstance(n, str) and n not in self.graph.given_sizes for n in self._shape(name)
            )
            if torn or (gap is not None and loose and not np.isfinite(gap).all()):
                self.torn.add(name)
                gap = NOTHING
            self.pairs[name] = (self._capped(name, size), gap)

    def _shape(self, name: str) -> Shape:
        found = self.graph.shapes.get(name)
        return ("?",) if found is None else found

    def _moved(self, node: Node) -> bool:
        """Whether what a node reads may differ."""
        return any(self._differs(name) for name in node.inputs if name)

    def _differs(self, name: str) -> bool:
        if self.graph.array(name) is None:
            return self.pairs[name][1] is not None
        return self.stored_gap(name) is not None

    # What rules ask

    def weights(self, node: Node) -> Node | None:
        """The softmax that gives the rows of a product of tensors, whose entries then differ only
        because what it compares does; None where there is none.
        """
        return self.graph.softmax_over_last(node.inputs[0])

    def pair(self, name: str) -> Pair:
        """Size and gap of a value."""
        if name not in self.pairs:
            array = self.graph.array(name)
            gap = self.stored_gap(name)
            size = NOTHING if array is None or not are_numbers(array) else _along_last(array)
            off = None if gap is None else _along_last(gap)
            self.pairs[name] = (size if off is None else plus(size, off), off)
        return self.pairs[name]

    def stored_gap(self, name: str) -> Array | None:
        """What a stored tensor, or one that rearranges stored ones, is away from its partner."""
        if name in self.graph.constants:
            return self.deviation(name)
        node = self.graph.makers[name]
        gaps = [self.stored_gap(x) for x in node.inputs]
        if all(gap is None for gap in gaps):
            return None
        if isinstance(node.op, PerUnit):
            return np.full(self._stored_shape(name), np.inf)
        filled = [
            np.zeros(self._stored_shape(x)) if gap is None else gap
            for x, gap in zip(node.inputs, gaps, strict=True)
        ]
        found = node.op.rearranged(filled)
        return None if found is None else np.asarray(found, dtype=np.float64)

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        array = self.graph.array(name)
        return () if array is None else array.shape

    def rank(self, name: str) -> int | None:
        shape = self.graph.shapes.get(name)
        return None if shape is None else len(shape)

    def whole(self, name: str) -> tuple[Bound, Bound]:
        """Size and gap with all axes of a value, the gap zero where there is none."""
        size, gap = self.pair(name)
        rank = self.rank(name)
        if rank is None:
            return overall(size), np.zeros(2) if gap is None else overall(gap)
        gap = np.zeros(2) if gap is None else gap
        return ranked(size, rank), ranked(gap, rank)

    def _capped(self, name: str, size: Bound) -> Bound:
        """Not more than what the range of a tensor allows: along the axis along which it varies, and
        for the others what holds for all of their slices.
        """
        shape = self.graph.shapes.get(name)
        if shape is None:
            return size
        size = ranked(size, len(shape))
        for axis, x in self.known.along(name, shape):
            most = np.maximum(np.abs(x.low), np.abs(x.high))
            if size.shape[axis] == len(x) or all(m == 1 for m in size.shape[:-1]):
                most = most.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            else:
                most = most.max(keepdims=True).reshape([1] * len(shape))
            size = at_most(size, most)
        return size


# Bounds ---------------------------------------------------------------------------------------------------------


def overall(bound: Bound) -> Bound:
    return np.asarray(bound.reshape(-1, 2).max(axis=0, initial=0.0))


def without_growth(bound: Bound) -> Array:
    """On a box, the numbers alone; infinite where they grow all the same, or are none."""
    numbers = bound[..., 0]
    return np.where((bound[..., 1] > 0) | np.isnan(numbers), np.inf, numbers)


def ranked(bound: Bound, rank: int) -> Bound:
    """With all axes of a tensor."""
    lead = rank + 1 - bound.ndim
    return bound.reshape((1,) * lead + bound.shape) if lead >= 0 else overall(bound)


def _along_last(array: Any) -> Bound:
    """Sizes of the entries of an array; of a large one, for each index of its last axis."""
    sizes = np.abs(np.asarray(array, dtype=np.float64)) if np.size(array) <= LARGE else None
    if sizes is None:
        rows = np.asarray(array).reshape(-1, np.shape(array)[-1])
        sizes = np.zeros(rows.shape[1])
        height = max(1, ROWS // rows.shape[1])
        for start in range(0, len(rows), height):
            block = np.abs(np.asarray(rows[start : start + height], dtype=np.float64))
            sizes = np.maximum(sizes, block.max(axis=0, initial=0.0))
    return np.stack([sizes, np.zeros_like(sizes)], axis=-1)


def at_most(bound: Bound, cap: Array | float) -> Bound:
    """The bound, or a constant where that is less for some inputs and never infinite."""
    wide = np.asarray(cap, dtype=np.float64)
    less = np.isfinite(wide) & ((bound[..., 1] > 0) | (wide < bound[..., 0]))
    ends = np.where(less, wide, bound[..., 0]), np.where(less, 0.0, bound[..., 1])
    return np.stack(ends, axis=-1)


def plus(*bounds: Bound) -> Bound:
    total = bounds[0]
    for bound in bounds[1:]:
        total = up(total + bound)
    return total


def product(a: Array, b: Array) -> Array:
    """Upper bounds of products of numbers that are not negative; zero times infinity is zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.nextafter(a * b * (1 + 2.0**-50), np.inf)
    return np.where((a == 0) | (b == 0), 0.0, found)


def _times(a: Bound, b: Bound) -> Bound:
    """A product; one that grows with the square of the inputs has no bound of this kind."""
    constant = product(a[..., 0], b[..., 0])
    growth = up(product(a[..., 0], b[..., 1]) + product(a[..., 1], b[..., 0]))
    square = product(a[..., 1], b[..., 1]) > 0
    return np.stack([constant, np.where(square, np.inf, growth)], axis=-1)


def _by(bound: Bound, factor: float | Array) -> Bound:
    """Times numbers, one for all or for each index."""
    wide = np.asarray(factor, dtype=np.float64)
    return product(bound, wide[..., None] if wide.ndim else wide)


# Sums -----------------------------------------------------------------------------------------------------------


def _linear(at: Differences, node: Node, op: Linear) -> Pair:
    """y - y' = W' (x - x') + (W - W') x + (b - b'), and |W| <= |W'| + |W - W'|."""
    weight = at.graph.array(node.inputs[1])
    rank, shape = at.rank(node.inputs[0]), at.graph.shapes.get(node.output)
    n = (at.graph.shapes.get(node.inputs[0]) or (0,))[op.reads]
    if weight is None or rank is None or shape is None or not are_numbers(weight):
        return NOTHING, NOTHING
    if not isinstance(n, int):
        return NOTHING, NOTHING
    size, gap = (_read(bound, op.reads, n) for bound in at.whole(node.inputs[0]))
    moved = at.stored_gap(node.inputs[1])
    made, off = _rows(_matrix(weight, op), size, op.groups), np.zeros(2)
    if gap.any():
        off = _rows(_matrix(weight, op), gap, op.groups)
    if moved is not None:
        further = _rows(_matrix(moved, op), size, op.groups)
        made, off = plus(made, further), plus(off, further)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias, shift = at.pair(node.inputs[2])
        made = plus(made, bias)
        if shift is not None:
            off = plus(off, shift)
    place = [1] * len(shape)
    place[op.writes] = len(made)
    off = np.broadcast_to(off, made.shape)
    return made.reshape(*place, 2), off.reshape(*place, 2)


def _read(bound: Bound, axis: int, n: int) -> Bound:
    """Along one axis: what holds for all indices of the others."""
    axis = axis % (bound.ndim - 1)
    others = tuple(a for a in range(bound.ndim - 1) if a != axis)
    return np.broadcast_to(bound.max(axis=others, initial=0.0), (n, 2))


def _matrix(weight: Any, op: Linear) -> Any:
    """``[out, in of one group, taps]``"""
    rows = np.moveaxis(weight, (op.rows, op.columns), (0, 1))
    return rows.reshape(*rows.shape[:2], math.prod(rows.shape[2:]))


def _rows(rows: Any, bound: Bound, groups: int) -> Bound:
    """|W| times a bound of what each group reads."""
    n, inner, taps = rows.shape
    outer = n // groups
    read = bound.reshape(groups, inner, 2)
    out = np.zeros((n, 2))
    height = max(1, ROWS // max(1, inner * taps))
    for start in range(0, n, height):
        block = np.abs(np.asarray(rows[start : start + height], dtype=np.float64))
        summed = block[:, :, 0] if taps == 1 else block.sum(axis=2)
        if groups == 1:
            out[start : start + len(summed)] = up_matmul(summed, read[0])
            continue
        mine = read[np.arange(start, start + len(summed)) // outer]
        total = up(product(summed[..., None], mine).sum(axis=1), inner)
        out[start : start + len(summed)] = total
    return up(out, taps)  # for the sums of taps


def _contract(at: Differences, node: Node, op: Contract) -> Pair:
    """a b - a' b' = (a - a') b' + a (b - b'), and |b'| <= size + gap.

    Rows of a softmax are not negative and sum to 1, so that a b is between the least and the largest
    of b; sum_k |a - a'| is at most the largest difference of what the softmax compares (its Jacobian
    is diag(p) - p p', whose norm from the largest entry to the sum of sizes is 4 q (1 - q) <= 1, q a
    sum of some p), and at most 2.
    """
    rank = at.rank(node.output)
    ranks = [at.rank(name) for name in node.inputs]
    if rank is None or None in ranks or min(r or 0 for r in ranks) < 2:
        return NOTHING, NOTHING
    (a, da), (b, db) = (at.whole(name) for name in node.inputs)
    weights = at.weights(node)
    if weights is not None:
        largest, off = (x.max(axis=-3, keepdims=True, initial=0.0) for x in (b, db))
        change = at_most(overall(at.whole(weights.inputs[0])[1]), 2.0)
        return largest, plus(off, _times(change, plus(largest, off)))
    n = (at.graph.shapes.get(node.inputs[0]) or ())[-1]
    if not isinstance(n, int):
        return NOTHING, NOTHING
    left, dleft = (_read(x, x.ndim - 2, n)[:, None] for x in (a, da))
    keep = tuple(range(b.ndim - 3))
    right, dright = (
        np.broadcast_to(y, (n, *y.shape[1:]))
        for y in (b.max(axis=keep, initial=0.0), db.max(axis=keep, initial=0.0))
    )
    terms = plus(_times(dleft, plus(right, dright)), _times(left, dright))
    return up(_times(left, right).sum(axis=0), n), up(terms.sum(axis=0), n)


# Entry by entry -------------------------------------------------------------------------------------------------


def _elementwise(at: Differences, node: Node, op: Elementwise) -> Pair:
    names = [name for name in node.inputs if name]
    parts = [at.whole(name) for name in names]
    rank = at.rank(node.output)
    if rank is not None:
        parts = [(ranked(size, rank), ranked(gap, rank)) for size, gap in parts]
    if len(parts) == 1:
        return _unary(at, names[0], op, *parts[0])
    (a, da), (b, db) = parts[:2]
    if len(parts) == 3:
        (c, dc) = parts[2]
        if op.kind != "where" or da.any():
            return NOTHING, NOTHING
        return np.maximum(b, c), np.maximum(db, dc)
    if len(parts) != 2:
        return NOTHING, NOTHING
    if op.kind in ("add", "sub"):
        return plus(a, b), plus(da, db)
    if op.kind in ("max", "min"):
        return np.maximum(a, b), np.maximum(da, db)
    if op.kind == "mul":
        return _times(a, b), plus(_times(a, db), _times(da, plus(b, db)))
    if op.kind == "div":
        return _quotient(at, names[1], a, da, db)
    if op.kind == "pow" and not db.any():
        return _power(at, names, a, da)
    if op.kind == "prelu" and not db.any():
        # x or slope x, on each side of zero
        steep = np.maximum(b, np.array([1.0, 0.0]))
        return _times(a, steep), _times(da, steep)
    return NOTHING, NOTHING


def _quotient(at: Differences, below: str, a: Bound, da: Bound, db: Bound) -> Pair:
    """a / b - a' / b' = ((a - a') - (a / b) (b - b')) / b', and |b'| >= |b| - |b - b'|."""
    least = _least(at, below)
    if least is None:
        return NOTHING, NOTHING
    if not db.any():
        return _over(a, least), _over(da, least)
    off, growth = overall(db)
    left = np.nextafter(least.min() - off, -np.inf)
    if growth > 0 or not left > 0:
        return _over(a, least), NOTHING
    return _over(a, least), _over(plus(da, _times(_over(a, least), db)), np.full((), left))


def _least(at: Differences, name: str) -> Array | None:
    """A bound from below of the sizes of a value, positive; None where none is known."""
    array = at.graph.array(name)
    if array is not None:
        sizes = np.abs(np.asarray(array, dtype=np.float64))
        some = sizes.size and are_numbers(array) and (sizes > 0).all()
        return np.asarray(sizes) if some else None
    for _, x in at.known.along(name, at.graph.shapes.get(name)):
        least = float(np.maximum(x.low, -x.high).min())
        if least > 0:
            return np.full((), least)
    return None


def _over(bound: Bound, least: Array) -> Bound:
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.nextafter(1.0 / least, np.inf)
    return _by(bound, inverse) if inverse.ndim else _by(bound, float(inverse))


def _power(at: Differences, names: Sequence[str], a: Bound, da: Bound) -> Pair:
    """x^k - x'^k is at most k |x - x'| times the (k - 1)-th power of the larger size."""
    exponent = at.graph.array(names[1])
    k = float(np.ravel(exponent)[0]) if exponent is not None and exponent.size == 1 else 0.0
    if k == 0.5:
        return _root(at, names[0], a, da)
    if k not in (1.0, 2.0, 3.0, 4.0):
        return NOTHING, NOTHING
    power, wide, further = a, plus(a, da), da
    for _ in range(int(k) - 1):
        power, further = _times(power, a), _times(further, wide)
    return power, _by(further, k)


def _unary(at: Differences, name: str, op: Elementwise, size: Bound, gap: Bound) -> Pair:
    if op.kind == "sqrt":
        return _root(at, name, size, gap)
    rule, steep = law(op.kind, op.numbers), slope(op.kind, op.numbers)
    if op.kind == "relu" or (op.kind == "clip" and rule.between is not None):
        below, above = (0.0, math.inf) if op.kind == "relu" else op.numbers[:2]
        gap = _where_not_flat(at, name, gap, below, above)
    made = np.full_like(size, np.inf)
    if math.isfinite(steep):
        # |f(x)| <= |f(0)| + steep |x|
        origin = _at_zero(op)
        made = plus(_by(size, steep), np.array([origin, 0.0])) if math.isfinite(origin) else made
    off = _by(gap, steep) if math.isfinite(steep) else np.where(gap > 0, np.inf, 0.0)
    if rule.between is not None:
        ends = np.array([-np.inf]), np.array([np.inf])
        with np.errstate(all="ignore"):
            low, high = (float(end[0]) for end in rule.between(*ends, *op.numbers))
        if math.isfinite(low) and math.isfinite(high):
            made = at_most(made, max(abs(low), abs(high)))
            off = at_most(off, float(np.nextafter(high - low, np.inf)))
    return made, off


def _where_not_flat(at: Differences, name: str, gap: Bound, low: float, high: float) -> Bound:
    """A gap, zero at indices where a function that is constant below `low` and above `high` sees both
    values there.
    """
    shape = at.graph.shapes.get(name) or ()
    for axis, facts in at.known.along(name, shape if gap.ndim == len(shape) + 1 else ()):
        if not gap.any():
            break
        others = tuple(a for a in range(len(shape)) if a != axis)
        reach = without_growth(gap.max(axis=others, initial=0.0))
        with np.errstate(all="ignore"):
            below = np.nextafter(facts.high + reach, np.inf) <= low
            above = np.nextafter(facts.low - reach, -np.inf) >= high
        place = [-1 if a == axis else 1 for a in range(len(shape))]
        flat = (below | above).reshape(*place, 1)
        gap = np.where(flat, 0.0, gap)
    return gap


def _at_zero(op: Elementwise) -> float:
    """A bound of |f(0)|, infinite where none is known."""
    rule = law(op.kind, op.numbers)
    zero = np.zeros(1)
    if rule.between is not None:
        with np.errstate(all="ignore"):
            low, high = rule.between(zero, zero, *op.numbers)
        return float(max(abs(low[0]), abs(high[0])))
    return 0.0 if rule.odd or op.kind in ("elu", "celu", "selu") else 1.0 if rule.even else math.inf


def _root(at: Differences, name: str, size: Bound, gap: Bound) -> Pair:
    """|sqrt(x) - sqrt(x')| <= |x - x'| / sqrt(least x), if x' is not below zero; sqrt(x) <= 1 + x."""
    made = plus(size, np.array([1.0, 0.0]))
    least = _least(at, name)
    if least is None or not (gap[..., 1] == 0).all() or not (gap[..., 0] <= least.min()).all():
        return made, NOTHING
    return made, _over(gap, np.asarray(np.nextafter(np.sqrt(least.min()), 0.0)))


def _per_unit(at: Differences, node: Node, op: PerUnit) -> Pair:
    """scale (x - mean) / sqrt(variance + epsilon) + shift."""
    size, gap = at.whole(node.inputs[0])
    arrays = [at.graph.array(name) for name in node.inputs[1:]]
    if op.kind != "batchnorm" or len(arrays) != 4 or at.rank(node.inputs[0]) is None:
        return NOTHING, NOTHING
    if any(array is None or not are_numbers(array) for array in arrays):
        return NOTHING, NOTHING
    scale, shift, mean, variance = (np.asarray(a, dtype=np.float64) for a in arrays)
    gaps = [at.stored_gap(name) for name in node.inputs[1:]]
    with np.errstate(over="ignore"):
        square = variance + op.numbers[0]
    if not (np.isfinite(square) & (square > 0)).all() or gaps[3] is not None:
        return NOTHING, NOTHING
    # five roundings at most
    with np.errstate(all="ignore"):
        near = up(np.abs(scale / np.sqrt(square)), 8)
    steep = np.where(scale == 0, 0.0, np.maximum(near, TINY))
    place = [-1 if axis == op.axis else 1 for axis in range(size.ndim - 1)]
    factor = steep.reshape(place)
    size = plus(size, _constant(np.abs(mean), place))
    if gaps[2] is not None:
        size, gap = (plus(bound, _constant(gaps[2], place)) for bound in (size, gap))
    shifted = size
    size, gap = _by(size, factor), _by(gap, factor)
    if gaps[0] is not None:  # what another scale does to x - mean
        with np.errstate(all="ignore"):
            moved = up(gaps[0] / np.sqrt(square), 8).reshape(place)
        size, gap = (plus(bound, _by(shifted, moved)) for bound in (size, gap))
    size = plus(size, _constant(np.abs(shift), place))
    if gaps[1] is not None:
        size, gap = (plus(bound, _constant(gaps[1], place)) for bound in (size, gap))
    return size, gap


def _constant(numbers: Array, place: Sequence[int]) -> Bound:
    wide = numbers.reshape(place)
    return np.stack([wide, np.zeros_like(wide)], axis=-1)


# Slice by slice -------------------------------------------------------------------------------------------------


def _slicewise(at: Differences, node: Node, op: Slicewise) -> Pair:
    shape, made = at.graph.shapes.get(node.inputs[0]), at.graph.shapes.get(node.output)
    if shape is None or made is None or any(at._differs(x) for x in node.inputs[1:] if x):
        return NOTHING, NOTHING
    size, gap = (_kept(x, op, len(made)) for x in at.whole(node.inputs[0]))
    count = entries_read(shape, op)
    bounded = size if op.hull else np.full_like(size, np.inf)
    if op.kind in SOFTMAX:
        # a row of its Jacobian, p_i (1 - p_i) and p_i p_j, sums to 2 p_i (1 - p_i) in size
        return np.array([1.0, 0.0]), at_most(_by(gap, 0.5), 1.0)
    if op.linear and op.hull:
        return bounded, gap  # f(x) - f(x') = f(x - x') lies between its least and largest, or zero
    if op.kind in MAXIMA and op.hull:
        return bounded, gap
    if op.kind in SUM and op.linear and math.isfinite(count):
        return _by(size, count), _by(gap, count)
    if op.kind in LOG_SOFTMAX:
        return bounded, _by(gap, 2.0)
    if op.normalises is not None and op.normalises > 0 and math.isfinite(count):
        return _normalised(at, node, count, op.normalises, gap)
    return bounded, np.where(gap > 0, np.inf, 0.0)


def entries_read(shape: Shape, op: Slicewise) -> float:
    """How many entries of the input one of the output may read."""
    inside = {i for i, _ in op.free}
    sizes = [n for axis, n in enumerate(shape) if axis not in inside]
    return math.prod((float(n) if isinstance(n, int) else math.inf for n in sizes), start=1.0)


def _kept(bound: Bound, op: Slicewise, rank: int) -> Bound:
    """What holds for all that a slice reads, under the axes of the output."""
    free = {i: o for i, o in op.free}
    rest = tuple(axis for axis in range(bound.ndim - 1) if axis not in free)
    found = bound.max(axis=rest, keepdims=True, initial=0.0)
    place = [1] * rank
    order = sorted(free, key=lambda i: free[i])
    for i in order:
        place[free[i]] = found.shape[i]
    turned = found.transpose(*order, *rest, bound.ndim - 1)
    return np.asarray(turned.reshape(*place, 2))


def _normalised(at: Differences, node: Node, count: float, epsilon: float, gap: Bound) -> Pair:
    """u / s with s^2 = |u|^2 / n + epsilon, then a scale and a shift.

    |u_i| <= sqrt(n) s. The Jacobian (1 - u u' / (n s^2)) / s has norm at most 1 / s <= 1 /
    sqrt(epsilon), taking the mean away is a projection, and the Euclidean norm is at most sqrt(n)
    times the largest entry.
    """
    root = float(np.nextafter(math.sqrt(count), np.inf))
    steep = float(np.nextafter(root / math.sqrt(epsilon) * (1 + 2.0**-50), np.inf))
    sizes = [overall(at.pair(name)[0]) for name in node.inputs[1:] if name]
    if any(growth > 0 for _, growth in sizes):
        return NOTHING, NOTHING
    further = [constant for constant, _ in sizes]
    # one further input may be a scale or a shift
    scale = max(1.0, further[0]) if len(further) == 1 else (further or [1.0])[0]
    shift = further[-1] if further else 0.0
    made = np.array([float(up(np.float64(root * scale + shift))), 0.0])
    return made, _by(at_most(_by(gap, steep), 2 * root), float(scale))


# Other places ---------------------------------------------------------------------------------------------------


def _transpose(at: Differences, node: Node, op: Transpose) -> Pair:
    size, gap = at.whole(node.inputs[0])
    order = (*op.order, len(op.order))
    return size.transpose(order), gap.transpose(order)


def _concat(at: Differences, node: Node, op: Concat) -> Pair:
    sizes = [(at.graph.shapes.get(name) or ())[op.axis] for name in node.inputs]
    found = []
    for parts in zip(*map(at.whole, node.inputs), strict=True):
        tops = [part.max(axis=op.axis, keepdims=True, initial=0.0) for part in parts]
        rest = np.broadcast_shapes(*(top.shape for top in tops))
        if not all(isinstance(n, int) for n in sizes):
            found.append(np.maximum.reduce(np.broadcast_arrays(*tops)))
            continue
        wide = [
            np.broadcast_to(part, (*rest[: op.axis], int(n), *rest[op.axis + 1 :]))
            for part, n in zip(parts, sizes, strict=True)
        ]
        found.append(np.concatenate(wide, op.axis))
    return found[0], found[1]


def _take(at: Differences, node: Node, op: Take) -> Pair:
    found = []
    for bound in at.whole(node.inputs[0]):
        if bound.shape[op.axis] > 1:
            bound = np.take(bound, op.index, op.axis)
        found.append(bound.max(axis=op.axis, initial=0.0) if op.drop else bound)
    return found[0], found[1]


def _broadcast(at: Differences, node: Node, op: Broadcast) -> Pair:
    if any(at._differs(name) for name in node.inputs[1:] if name):
        return NOTHING, NOTHING
    return at.pair(node.inputs[0])[0], at.whole(node.inputs[0])[1]


def _lookup(at: Differences, node: Node, op: Lookup) -> Pair:
    """Rows of a table."""
    rank, chosen = at.rank(node.inputs[0]), at.rank(node.inputs[1])
    if rank is None or chosen is None or at._differs(node.inputs[1]):
        return NOTHING, NOTHING
    found = []
    for bound in at.whole(node.inputs[0]):
        row = bound.max(axis=op.axis, initial=0.0)
        place = (*row.shape[: op.axis], *[1] * chosen, *row.shape[op.axis :])
        found.append(row.reshape(place))
    return found[0], found[1]


def _reshape(at: Differences, node: Node, op: Reshape) -> Pair:
    shape, made = at.graph.shapes.get(node.inputs[0]), at.graph.shapes.get(node.output)
    if shape is None or made is None:
        return NOTHING, NOTHING
    size, gap = (_reshaped(x, shape, made, op) for x in at.whole(node.inputs[0]))
    return size, gap


def _reshaped(bound: Bound, shape: Any, made: Any, op: Reshape) -> Bound:
    """Axis by axis where it stays one, block by block where the sizes of a block are known."""
    found = np.zeros((1,) * len(made) + (2,))
    pieces = [((i,), (o,)) for i, o in op.free] + [(ins, outs) for ins, outs in op.blocks]
    covered = {i for ins, _ in pieces for i in ins}
    varying = [axis for axis in range(len(shape)) if bound.shape[axis] > 1]
    loose = tuple(axis for axis in varying if axis not in covered)
    bound = bound.max(axis=loose, keepdims=True, initial=0.0) if loose else bound
    active = [(ins, outs) for ins, outs in pieces if any(bound.shape[i] > 1 for i in ins)]
    if not active:
        return found + overall(bound)
    ins, outs = active[-1]  # where there are more, the largest along the others holds for all
    others = tuple(axis for axis in range(len(shape)) if axis not in ins)
    block = bound.max(axis=others, initial=0.0)
    block = np.broadcast_to(block, (*(shape[i] for i in ins), 2))
    block = block.reshape(*(made[o] for o in outs), 2)
    place = [1] * len(made)
    for k, o in enumerate(outs):
        place[o] = block.shape[k]
    return block.reshape(*place, 2)


def _unknown(at: Differences, node: Node, op: Any) -> Pair:
    return NOTHING, NOTHING


def _of_size(at: Differences, node: Node, op: Size) -> Pair:
    """Integers made of sizes, which both graphs have."""
    return NOTHING, np.zeros(2)


RULES: dict[type, Callable[[Differences, Node, Any], Pair]] = {
    Broadcast: _broadcast, Concat: _concat, Contract: _contract, Elementwise: _elementwise,
    Linear: _linear, Lookup: _lookup, PerUnit: _per_unit, Reshape: _reshape, Size: _of_size,
    Slicewise: _slicewise, Take: _take, Transpose: _transpose,
}  # fmt: skip
