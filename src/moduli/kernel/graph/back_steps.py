"""Steps of back substitution: from an inequality about what a node gives to one about what it reads.
Part of the kernel.

Rows of inequalities `entry <= sum over tensors t of a_t . t + c` go back, see `back_substitution`. A
rule is for one kind of operator. It says which window of each of its inputs a node reads for a window
of its output, and how coefficients of the output become coefficients of the input and c; where it
understands too little it gives None, and intervals have to do. A rule knows windows of all places of
the target at once, a step knows the arrays of one place alone: nothing in it depends on the place.
Functions of single entries, and products and maxima of two, are between lines (`_between`).

**Rounding.** U = 2^-53. Let `mass` be the sum of the sizes of all products of a coefficient with
numbers of the node and the largest size of what it reads. New coefficients and c are float sums of
such products, of at most n terms each, in any order: with the computed ones the inequality is off by
at most gamma_{n + 8} mass, see `bounds.propagation`, n + 8 for the few further roundings of a term.
`Rows.raise_by` adds twice of that, for roundings of the mass itself, and LEAST for each product that
may underflow, times what it multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..activations import Activation
from ..arithmetic import LEAST
from ..bounds.propagation import U
from ..bounds.relaxations import Relaxation, add_up, relaxation, relaxation_of_kink, times_up
from ..exact_numbers import up
from .entrywise import close_to
from .facts import Known
from .functions import law
from .operators import (
    Concat,
    Elementwise,
    Linear,
    Node,
    PerUnit,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)
from .slices import are_numbers

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
MEANS = ("mean", "ReduceMean", "adaptive average pool")
LARGEST = ("max", "ReduceMax", "amax", "adaptive max pool")
AUTO = (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER")
PARTS = 32  # of an interval, for lines around a function of which bounds on intervals are known
LINES = ("relu", "leaky_relu", "abs", "clip", "tanh", "sigmoid")  # activations with lines


class Window(NamedTuple):
    """A box of indices of a tensor for each place of the target: both ``[places, axes]``."""

    start: Ints
    stop: Ints

    def holds(self, axis: int, n: Any) -> bool:
        """Whether all of an axis is in it, for all places."""
        whole = (self.start[:, axis] == 0) & (self.stop[:, axis] == n)
        return isinstance(n, int) and bool(whole.all())

    def of(self, axes: Sequence[int | None], shape: Sequence[Any]) -> Window:
        """Of a tensor of a shape, whose axes are some of these, and all of others of known sizes."""
        found = Window(*(np.zeros((len(self.start), len(shape)), np.int64) for _ in range(2)))
        for k, (axis, n) in enumerate(zip(axes, shape, strict=True)):
            found.start[:, k] = 0 if axis is None else self.start[:, axis]
            found.stop[:, k] = n if axis is None else self.stop[:, axis]
        return found

    def moved(self, axis: int, by: int) -> Window:
        found = Window(self.start.copy(), self.stop.copy())
        found.start[:, axis] += by
        found.stop[:, axis] += by
        return found


class Rows:
    """Constants c of inequalities, ``[rows]``."""

    def __init__(self, count: int) -> None:
        self.c = np.zeros(count)

    def raise_by(self, terms: Any, mass: Any, count: int, lost: float = 0.0) -> None:
        """Add sums of products, of at most `count` terms, that may be off as the module says.

        Args:
            mass: float sums of the sizes of the same terms, and of whatever else was rounded.
            lost: how many products may underflow, times what they are multiplied with.
        """
        mass = up(mass + np.abs(self.c), count + 8)
        error = up(mass * ((2 * count + 32) * U), 4) + (lost + count) * (4 * LEAST)
        found = np.nextafter(self.c + terms + error, np.inf)
        self.c = np.where(np.isfinite(found), found, np.inf)

    def concretise(self, a: Array, low: Array, high: Array) -> None:
        """Put the ends of intervals in the place of a tensor: those that make a . t largest."""
        terms = a * np.where(a > 0, high, np.where(a < 0, low, 0.0))
        self.raise_by(row_sums(terms), row_sums(np.abs(terms)), entries(a), float(entries(a)))


# From coefficients of an output, ``[rows, *window]``, to those of one input on the window that is read
Step = Callable[[Rows, Array], Array]


class Read(NamedTuple):
    """What a node reads of an input, and how coefficients go back, each with so many products.

    Attributes:
        every: along each axis, how far apart the entries of the input lie in the window, with zeros
            in between; next to each other where it is empty.
    """

    name: str
    window: Window
    step: Step
    products: int = 0
    every: tuple[int, ...] = ()


def row_sums(a: Array) -> Array:
    return np.asarray(a.reshape(len(a), -1).sum(axis=1))


def entries(a: Array) -> int:
    """Of a row."""
    return math.prod(a.shape[1:])


class Ends:
    """Ends of the entries of tensors, by facts."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.stored: dict[str, Array | None] = {}

    def shape(self, name: str) -> tuple[int | str, ...]:
        return self.known.shape(name) or ()

    def numbers(self, name: str) -> Array | None:
        """A stored tensor."""
        if name not in self.stored:
            array = self.known.array(name)
            known = array is not None and array.size and are_numbers(array)
            self.stored[name] = np.asarray(array, dtype=np.float64) if known else None
        return self.stored[name]

    def along(self, name: str, axis: int) -> tuple[Array, Array]:
        """For each index along an axis."""
        array, (least, most) = self.numbers(name), self.hull(name)
        if array is not None:
            rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            return rows.min(axis=1), rows.max(axis=1)
        n, found = self.shape(name)[axis], self.known.found.get((name, axis))
        assert isinstance(n, int)
        low, high = (
            (np.full(n, -np.inf), np.full(n, np.inf)) if found is None else (found.low, found.high)
        )
        return np.maximum(low, least), np.minimum(high, most)

    def hull(self, name: str) -> tuple[float, float]:
        """For all entries."""
        array = self.numbers(name)
        if array is not None:
            return float(array.min()), float(array.max())
        return self.known.hull(name, self.shape(name))

    def reach(self, name: str) -> float:
        """The largest size of an entry."""
        return max(map(abs, self.hull(name)))

    def of(self, name: str, window: Window, last: int | None = None) -> tuple[Array, Array]:
        """For the entries of a window: along an axis, before `last`, of which it holds all, or for all
        alike.
        """
        shape, (least, most) = self.shape(name), self.hull(name)
        width, found = most - least, (np.array([least]), np.array([most]))
        for axis, n in enumerate(shape[:last]):
            if window.holds(axis, n):
                low, high = self.along(name, axis)
                if float(np.mean(high - low)) < width:
                    place = [-1 if k == axis else 1 for k in range(len(shape))]
                    width = float(np.mean(high - low))
                    found = low.reshape(place), high.reshape(place)
        return found


def reads_of(ends: Ends, node: Node, window: Window) -> list[Read] | None:
    """What a node reads, and how to go back; None where intervals have to do."""
    rule = RULES.get(type(node.op))
    tensors = [name for name in (*node.inputs, *node.outputs) if name]
    if rule is None or any(ends.known.shape(name) is None for name in tensors):
        return None
    try:
        return rule(ends, node, node.op, window)
    except (IndexError, KeyError, TypeError, ValueError):  # what a reader says is of another form
        return None


# What only moves coefficients -----------------------------------------------------------------------------------


def _read(name: str, window: Window, move: Callable[[Array], Array]) -> Read:
    return Read(name, window, lambda rows, a: move(a))


def _transpose(ends: Ends, node: Node, op: Transpose, window: Window) -> list[Read]:
    order = np.argsort(op.order).tolist()
    found = window.of(order, ends.shape(node.inputs[0]))
    return [_read(node.inputs[0], found, lambda a: a.transpose(0, *(k + 1 for k in order)))]


def _reshape(ends: Ends, node: Node, op: Reshape, window: Window) -> list[Read] | None:
    x, y = ends.shape(node.inputs[0]), ends.shape(node.output)
    front = 0  # axes in front that stay as they are; of others all is read
    while (front, front) in op.free:
        front += 1
    sizes = [n for n in x[front:] if isinstance(n, int)]
    whole = all(window.holds(o, y[o]) for o in range(front, len(y)))
    if len(sizes) < len(x) - front or not whole:
        return None
    found = window.of([*range(front), *[None] * len(sizes)], x)
    return [_read(node.inputs[0], found, lambda a: a.reshape(*a.shape[: front + 1], *sizes))]


def _take(ends: Ends, node: Node, op: Take, window: Window) -> list[Read] | None:
    x, index = ends.shape(node.inputs[0]), np.array(op.index)
    n = x[op.axis]
    if not isinstance(n, int) or not 0 < len(index) == len(set(op.index)):
        return None
    if not op.drop and not window.holds(op.axis, len(index)):
        run = bool((np.diff(index) == 1).all())
        shifted = window.moved(op.axis, op.index[0])
        return [_read(node.inputs[0], shifted, lambda a: a)] if run else None
    axes: list[int | None] = [k - (op.drop and k > op.axis) for k in range(len(x))]
    axes[op.axis] = None

    def move(a: Array) -> Array:
        part = np.moveaxis(a[..., None], -1, op.axis + 1) if op.drop else a
        whole = np.zeros((*part.shape[: op.axis + 1], n, *part.shape[op.axis + 2 :]))
        np.moveaxis(whole, op.axis + 1, 0)[index] = np.moveaxis(part, op.axis + 1, 0)
        return whole

    return [_read(node.inputs[0], window.of(axes, x), move)]


def _concat(ends: Ends, node: Node, op: Concat, window: Window) -> list[Read] | None:
    sizes = [ends.shape(name)[op.axis] for name in node.inputs]
    if not window.holds(op.axis, ends.shape(node.output)[op.axis]):
        return None
    found, start = [], 0
    for name, n in zip(node.inputs, sizes, strict=True):
        if not isinstance(n, int):
            return None
        part = window.of(range(len(ends.shape(name))), ends.shape(name))
        part.stop[:, op.axis] = n
        found.append(_read(name, part, _part(op.axis + 1, start, start + n)))
        start += n
    return found


def _part(axis: int, start: int, stop: int) -> Callable[[Array], Array]:
    return lambda a: a[(slice(None),) * axis + (slice(start, stop),)]


# Entry by entry -------------------------------------------------------------------------------------------------


def _elementwise(ends: Ends, node: Node, op: Elementwise, window: Window) -> list[Read] | None:
    names, shape = [name for name in node.inputs if name], ends.shape(node.output)
    if len(names) == 1:
        if op.kind in ("identity", "neg"):
            return [_read(names[0], window, lambda a: -a if op.kind == "neg" else a)]
        return _all([_activation(ends, _read(names[0], window, lambda a: a), op)])
    if len(names) != 2:
        return None
    sign = -1.0 if op.kind == "sub" else 1.0
    reads = [
        _summand(ends, name, z, shape, window) for name, z in zip(names, (1.0, sign), strict=True)
    ]
    if None in reads or op.kind in ("add", "sub"):
        return _all(reads)
    x, y = (read for read in reads if read is not None)
    if op.kind in ("mul", "div", "prelu"):
        factor = _factor(ends, names[1], shape, window)
        if factor is None and op.kind == "mul":
            x, y, factor = y, x, _factor(ends, names[0], shape, window)
        if factor is not None and ends.shape(x.name) == shape:
            if op.kind == "prelu":
                low, high, slope = np.broadcast_arrays(*ends.of(x.name, x.window), factor)
                one = np.ones(low.shape)
                return _all(
                    [
                        _between(
                            ends, x, *_lines(relaxation_of_kink(one, slope, one, slope, low, high))
                        )
                    ]
                )
            slope = factor if op.kind == "mul" else 1.0 / factor
            return _all([_between(ends, x, (slope, slope), (0.0, 0.0))])
        return _product(ends, x, y) if op.kind == "mul" else None
    return _larger(ends, x, y, op.kind) if op.kind in ("max", "min") else None


def _all(reads: Sequence[Read | None]) -> list[Read] | None:
    found = [read for read in reads if read is not None]
    return found if len(found) == len(reads) else None


def _summand(ends: Ends, name: str, sign: float, y: Any, window: Window) -> Read | None:
    """One of two tensors that are added; coefficients are summed along axes that are broadcast."""
    x, reach = ends.shape(name), ends.reach(name)
    lead = len(y) - len(x)
    same = [n == y[lead + k] for k, n in enumerate(x)]
    if not all(n == 1 or alike for n, alike in zip(x, same, strict=True)):
        return None  # which of the two is broadcast is not known
    found = window.of([lead + k if alike else None for k, alike in enumerate(same)], x)
    summed = (*range(1, lead + 1), *(lead + k + 1 for k, alike in enumerate(same) if not alike))

    def step(rows: Rows, a: Array) -> Array:
        if not summed:
            return sign * a
        rows.raise_by(0.0, row_sums(np.abs(a)) * reach, entries(a))
        kept = a.sum(axis=summed, keepdims=True)
        return np.asarray(sign * kept.reshape(len(a), *kept.shape[lead + 1 :]))

    return Read(name, found, step)


def _factor(ends: Ends, name: str, shape: Any, window: Window) -> Array | None:
    """Stored numbers that do not depend on the place."""
    number = ends.numbers(name)
    if number is None:
        return None
    number = number.reshape((1,) * (len(shape) - number.ndim) + number.shape)
    free = all(n == 1 or window.holds(axis, n) for axis, n in enumerate(number.shape))
    return number if free else None


Pair = Sequence[Any]  # below and above


def _between(ends: Ends, read: Read, slopes: Pair, offsets: Pair, size: Any = 0.0) -> Read | None:
    """Entry by entry, y is between lines of what is read: above where a coefficient is positive, below
    where it is negative. Numbers of the lines are within 8 roundings; of a sum in an offset `size` has
    the sizes of its terms.
    """
    low, high = ends.of(read.name, read.window)
    reach = np.maximum(np.abs(low), np.abs(high))
    steep, far = (np.maximum(*map(np.abs, pair)) for pair in (slopes, offsets))
    size = steep * reach + far + size
    if not np.isfinite(size).all():
        return None
    least = 2.0 + float(reach.max()) + float(np.max(size))

    def step(rows: Rows, a: Array) -> Array:
        above = a > 0
        terms = np.broadcast_to(a * np.where(above, offsets[1], offsets[0]), a.shape)
        lost = 2.0 * entries(a) * (1.0 + float(np.abs(a).max())) * least
        rows.raise_by(row_sums(terms), row_sums(np.abs(a) * size), entries(a) + 8, lost)
        return read.step(rows, np.asarray(a * np.where(above, slopes[1], slopes[0])))

    return read._replace(step=step)


def _lines(found: Relaxation) -> tuple[Pair, Pair]:
    return (found.lower_slope, found.upper_slope), (found.lower_offset, found.upper_offset)


def _activation(ends: Ends, read: Read, op: Elementwise) -> Read | None:
    kind, numbers, (low, high) = op.kind, op.numbers, ends.of(read.name, read.window)
    if kind == "clip" and numbers == (0.0, math.inf):
        kind, numbers = "relu", ()
    between = law(kind, numbers).between
    if between is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    if kind == "hardsigmoid" and numbers[0] > 0:
        return _clipped(ends, read, numbers, (0.0, 1.0))
    if kind in LINES and all(map(math.isfinite, numbers)) and list(numbers) == sorted(set(numbers)):
        return _between(ends, read, *_lines(relaxation(Activation(kind, *numbers), low, high)))
    # parallel to the chord, as far up and down as the bounds on each of some parts ask for
    cuts = np.linspace(0.0, 1.0, PARTS + 1).reshape(-1, *(1 for _ in low.shape))
    cuts = np.minimum(low + (high - low) * cuts, high)  # roundings keep the order; the first is low
    cuts[-1] = high
    least, most = between(cuts[:-1], cuts[1:], *numbers)
    slope = (least[-1] + most[-1] - least[0] - most[0]) / (2.0 * (high - low))
    slope = np.where(np.isfinite(slope), slope, 0.0)
    shifts = [
        np.maximum(*(times_up(k, cut) for cut in (cuts[:-1], cuts[1:]))) for k in (slope, -slope)
    ]
    offsets = -add_up(-least, shifts[0]).max(axis=0), add_up(most, shifts[1]).max(axis=0)
    return _between(ends, read, (slope, slope), offsets)


def _clipped(
    ends: Ends, read: Read, line: Pair, limits: tuple[float, ...], off: Any = 0.0
) -> Read | None:
    """slope x + shift, cut off at both limits, and at most `off` away from that."""
    slope, shift = line
    low, high = ends.of(read.name, read.window)
    low, high = slope * low, slope * high
    low = np.nextafter(low - 8 * U * np.abs(low) + shift, -np.inf)
    high = np.nextafter(high + 8 * U * np.abs(high) + shift, np.inf)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    steep, (below, above) = _lines(relaxation(Activation("clip", *limits), low, high))
    offsets = below + steep[0] * shift - off, above + steep[1] * shift + off
    size = np.abs(shift) + off + np.maximum(np.abs(below), np.abs(above))
    return _between(ends, read, (steep[0] * slope, steep[1] * slope), offsets, size)


def _product(ends: Ends, x: Read, y: Read) -> list[Read] | None:
    """Of two computed tensors: x y = v x + u y - u v + (x - u) (y - v), with u and v in the middle of their
    intervals, where the last product is at most that of half of their widths.
    """
    middles, halves = list[Array](), list[Array]()
    for read in (x, y):
        low, high = ends.of(read.name, read.window)
        middles.append(0.5 * low + 0.5 * high)
        halves.append(np.nextafter(np.maximum(high - middles[-1], middles[-1] - low), np.inf))
    (u, v), most = middles, times_up(*halves)
    size = np.abs(u * v) + most
    first = _between(ends, x, (v, v), (-u * v - most, most - u * v), size)
    return _all([first, _between(ends, y, (u, u), (0.0, 0.0))])


def _larger(ends: Ends, x: Read, y: Read, kind: str) -> list[Read] | None:
    """max(x, y) = y + relu(x - y), and min(x, y) = x - relu(x - y)."""
    (low, high), (least, most) = (ends.of(read.name, read.window) for read in (x, y))
    low, high = np.nextafter(low - most, -np.inf), np.nextafter(high - least, np.inf)
    steep, (below, above) = _lines(relaxation(Activation("relu"), low, high))
    other, offsets = (1.0 - steep[0], 1.0 - steep[1]), (below, above)
    if kind == "min":
        steep, other, offsets = other[::-1], (steep[1], steep[0]), (-above, -below)
    return _all([_between(ends, x, steep, offsets), _between(ends, y, other, (0.0, 0.0))])


def _per_unit(ends: Ends, node: Node, op: PerUnit, window: Window) -> list[Read] | None:
    """Batch norms: s x + (shift - s mean), where s = scale / sqrt(variance + epsilon) takes three
    roundings. Stored integers, scaled: (x - zero) scale. Integers of numbers: x / scale + zero, cut off,
    less than 1/2 away, and what a division in the type of the scale may lose.
    """
    shape = ends.shape(node.output)
    place = [-1 if k == op.axis else 1 for k in range(len(shape))]
    stored = [ends.numbers(other) for other in node.inputs[1:] if other]
    arrays = [a.reshape(place) if a.size > 1 else a.ravel() for a in stored if a is not None]
    alike = all(a.size == 1 for a in arrays) or window.holds(op.axis, shape[op.axis])
    read = _read(node.inputs[0], window, lambda a: a)
    if len(arrays) != len(stored) or not arrays or not alike:
        return None
    scale, zero = arrays[0], arrays[1] if len(arrays) > 1 else np.zeros(1)
    if op.kind == "batchnorm" and len(arrays) == 4:
        square = arrays[3] + op.numbers[0]
        slope = scale / np.sqrt(square)
        fine = (scale == 0) | (
            np.abs(slope) > 2.0**-1000
        )  # of one that underflows nothing is known
        if not ((square > 0) & np.isfinite(square) & fine).all():
            return None
        shift, mean = arrays[1:3]
    elif op.kind == "dequantise" and (scale > 0).all():
        slope, shift, mean = scale, np.zeros(1), zero
    elif op.kind == "quantise" and (scale > 0).all() and len(op.numbers) == 2:
        close, (low, high) = (
            float(close_to(np.asarray(ends.known.array(node.inputs[1])))),
            ends.of(read.name, window),
        )
        off = 0.5 + 2.0 * close * np.maximum(np.abs(low), np.abs(high)) / scale
        return _all([_clipped(ends, read, (1.0 / scale, zero), op.numbers, off)])
    else:
        return None
    offset = shift - slope * mean
    size = np.abs(shift) + np.abs(slope * mean)
    return _all([_between(ends, read, (slope, slope), (offset, offset), size)])


# Windows that slide ---------------------------------------------------------------------------------------------


class Slide(NamedTuple):
    """How windows slide along an axis: taps `spacing` apart, `stride` from one window to the next, the
    first tap `before` the first index.
    """

    taps: int
    stride: int
    spacing: int
    before: int

    def length(self, n: int) -> int:
        """What n windows in a row read."""
        return (n - 1) * self.stride + (self.taps - 1) * self.spacing + 1


def slides(detail: Any, kernel: Sequence[int], x: Any, y: Any) -> list[Slide] | None:
    """Of a convolution or a pool, by what its reader says of it: one tuple of names and values, as ONNX
    has them, or strides, padding and dilations, as torch does. None where that is not understood or does
    not give sizes y of sizes x.
    """
    count, auto = len(kernel), b"NOTSET"
    pads: Any = ()
    if len(detail) == 1:
        given = dict(detail[0])
        strides, spacings = (given.get(key) or (1,) * count for key in ("strides", "dilations"))
        auto, pads = given.get("auto_pad") or auto, given.get("pads") or (0,) * (2 * count)
        if given.get("ceil_mode"):
            return None
    else:
        strides, padding, spacings = detail[:3]
        if isinstance(padding, str):
            auto = {"same": b"SAME_UPPER", "valid": b"VALID"}.get(padding, b"")
        else:
            pads = (*padding, *padding)
    found = []
    for d, (k, n, m) in enumerate(zip(kernel, x, y, strict=True)):
        if not isinstance(n, int) or auto not in AUTO:
            return None
        way = Slide(k, strides[d], spacings[d], 0)
        if min(way[:3]) < 1:
            return None
        before, after = (pads[d], pads[count + d]) if auto == b"NOTSET" else (0, 0)
        if auto.startswith(b"SAME"):
            total = max(way.length(-(-n // way.stride)) - n, 0)
            before, after = total // 2, total - total // 2
            before, after = (before, after) if auto == b"SAME_UPPER" else (after, before)
        if min(before, after) < 0 or (n + before + after - way.length(1)) // way.stride + 1 != m:
            return None
        found.append(way._replace(before=before))
    return found


def _slid(
    found: Window, window: Window, axes: Sequence[tuple[int, int]], ways: Sequence[Slide]
) -> None:
    """Put into a window what is read along pairs of an axis of x and one of y."""
    for (i, o), way in zip(axes, ways, strict=True):
        found.start[:, i] = window.start[:, o] * way.stride - way.before
        found.stop[:, i] = found.start[:, i] + way.length(1)
        found.stop[:, i] += (window.stop[:, o] - window.start[:, o] - 1) * way.stride


def between_zeros(way: Slide) -> Slide:
    """How a transposed convolution reads its input with `stride` - 1 zeros between entries; `way` is how
    the convolution slides that reads its output.
    """
    return Slide(way.taps, 1, way.spacing, (way.taps - 1) * way.spacing - way.before)


def _scattered(
    b: Array, ways: Sequence[Slide], columns: int, product: Callable[[Any, Array], Array]
) -> Array:
    """Sum over taps of product(tap, b) where the tap reads: ``[rows, *windows, outputs]`` to ``[rows,
    *what they read, columns]``.
    """
    sizes = b.shape[1:-1]
    found = np.zeros((len(b), *(w.length(n) for w, n in zip(ways, sizes, strict=True)), columns))
    for tap in np.ndindex(*(way.taps for way in ways)):
        here = [slice(None)]
        for k, n, way in zip(tap, sizes, ways, strict=True):
            start = k * way.spacing
            here.append(slice(start, start + (n - 1) * way.stride + 1, way.stride))
        found[tuple(here)] += product(tap, b)
    return found


def _linear(ends: Ends, node: Node, op: Linear, window: Window) -> list[Read] | None:
    name = node.inputs[0]
    x, y, weight = ends.shape(name), ends.shape(node.output), ends.numbers(node.inputs[1])
    bias = ends.numbers(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if weight is None or bias is None or not window.holds(op.writes, y[op.writes]):
        return None
    w = np.moveaxis(weight, (op.rows, op.columns), (0, 1))
    outputs, inner, *kernel = w.shape
    outer, b = outputs // op.groups, np.resize(bias, outputs)
    ins = [k for k in range(len(x)) if k != op.reads and k not in dict(op.free)]
    outs = [k for k in range(len(y)) if k != op.writes and k not in dict(op.free).values()]
    if not len(ins) == len(outs) == len(kernel) or not isinstance(x[op.reads], int):
        return None
    turned = op.detail[:1] == ("transposed",)
    own = dict(op.detail[1]) if turned and len(op.detail) == 2 else {}
    asked = own.get("output_shape") or own.get("auto_pad") in AUTO[2:]
    if kernel and (asked or (op.detail[:1] != ("conv",) and not turned)):
        return None
    sizes = [x[i] for i in ins], [y[o] for o in outs]
    ways = slides(op.detail[1:], kernel, *(sizes[::-1] if turned else sizes)) if kernel else []
    if ways is None:
        return None
    every = [1] * len(x)
    if turned:
        # a convolution, with taps the other way round, of what has zeros between its entries
        w = np.flip(w, tuple(range(2, w.ndim)))
        for i, way in zip(ins, ways, strict=True):
            every[i] = way.stride
        ways = [between_zeros(way) for way in ways]
    pairs = (*op.free, *zip(ins, outs, strict=True))
    found = window.of([dict(pairs).get(k) for k in range(len(x))], x)
    _slid(found, window, pairs[len(op.free) :], ways)
    reach = np.max(np.abs(ends.along(name, op.reads)), axis=0)
    taps = w.reshape(op.groups, outer, inner, -1)
    masses = np.abs(taps).sum(axis=3)
    matrices = dict(zip(np.ndindex(*kernel), np.moveaxis(taps, 3, 0), strict=True))
    mass = (masses * reach.reshape(op.groups, 1, inner)).sum(axis=2).ravel() + np.abs(b)
    if not np.isfinite(mass).all():
        return None
    there = [0, *(o + 1 for _, o in pairs), op.writes + 1]  # free axes, windows, outputs
    back = [0, *(np.argsort([*(i for i, _ in pairs), op.reads]) + 1).tolist()]
    held, count = len(op.free) + 1, outer * math.prod(kernel)

    def product(tap: tuple[int, ...], part: Array) -> Array:
        matrix = matrices[tap]
        if outer == inner == 1:
            return np.asarray(part * matrix[:, 0, 0])
        split = part.reshape(-1, op.groups, outer).swapaxes(0, 1)
        return (split @ matrix).swapaxes(0, 1).reshape(*part.shape[:-1], -1)

    def step(rows: Rows, a: Array) -> Array:
        outer = a.transpose(there)
        made = _scattered(outer.reshape(-1, *outer.shape[held:]), ways, inner * op.groups, product)
        made = made.reshape(*outer.shape[:held], *made.shape[1:]).transpose(back)
        lost = (entries(a) + entries(made)) * count * (1.0 + float(reach.max()))
        rows.raise_by(row_sums(outer * b), row_sums(np.abs(outer) * mass), count + entries(a), lost)
        return made

    return [Read(name, found, step, inner * math.prod(kernel), tuple(every))]


def _slicewise(ends: Ends, node: Node, op: Slicewise, window: Window) -> list[Read] | None:
    name, carried = node.inputs[0], dict(op.free)
    x, y = ends.shape(name), ends.shape(node.output)
    over = [k for k in range(len(x)) if k not in carried]
    outs = [k for k in range(len(y)) if k not in carried.values()]
    sizes = [n for n in (x[k] for k in over) if isinstance(n, int)]
    largest = op.kind in (*LARGEST, "max pool")
    if len(sizes) < len(over) or not (op.linear or largest):  # of integers a mean is none
        return None
    if op.kind == "pad" and op.numbers[0] in (b"constant", "constant") and op.numbers[2] == 0:
        for axis, amounts in op.numbers[1]:
            if any(amounts) and (axis not in over or over != outs or min(amounts) < 0):
                return None
            if any(amounts) and x[axis] + sum(amounts) != y[axis]:
                return None
            window = window.moved(axis, -amounts[0])
        return [_read(name, window, lambda a: a)]
    alone = all(y[o] == 1 for o in outs) and list(carried.values()) == sorted(carried.values())
    last = min(over, default=len(x))
    if alone and op.kind in (*MEANS, *LARGEST):
        count = math.prod(sizes)
        found = window.of([carried.get(k) for k in range(len(x))], x)
        shared = _shared(ends, name, found, last, largest, count)

        def mean(rows: Rows, a: Array) -> Array:
            kept = [a.shape[carried[k] + 1] if k in carried else 1 for k in range(len(x))]
            wide = [n if k in carried else int(x[k]) for k, n in enumerate(kept)]
            part = shared(rows, a.reshape(len(a), *kept))
            return np.broadcast_to(part, (len(a), *wide))

        return [Read(name, found, mean)]
    if over != outs or over != list(range(last, len(x))):
        return None
    if op.kind in ("average pool", "max pool"):
        return _pooled(ends, op, name, x, y, over, window)
    return _repeated(op, name, x, y, over, window) if op.kind.startswith("resize") else None


def _shared(
    ends: Ends, name: str, window: Window, last: int, largest: bool, count: int
) -> Callable[[Rows, Array], Array]:
    """Coefficients of each of so many entries of which y is the mean; or the largest, which is at least the
    mean, and at most the end of their interval. Where that is not negative, the mean of those that are
    not padding is at least their sum divided by the count of all.
    """
    low, high = ends.of(name, window, last)
    reach = float(np.maximum(np.abs(low), np.abs(high)).max())

    def shared(rows: Rows, a: Array) -> Array:
        terms = row_sums(np.maximum(a, 0.0) * high) if largest else 0.0
        lost = entries(a) * count * (1.0 + reach)
        rows.raise_by(terms, 2.0 * row_sums(np.abs(a)) * reach, entries(a) + count, lost)
        return np.asarray((np.minimum(a, 0.0) if largest else a) / count)

    return shared


def _pooled(
    ends: Ends, op: Slicewise, name: str, x: Any, y: Any, over: list[int], window: Window
) -> list[Read] | None:
    """Means and maxima over windows of the last axes; at the border means count zeros, and so may maxima
    of what is not negative.
    """
    given: dict[str, Any] = dict(op.numbers)
    kernel = _several(given.get("kernel_shape") or given.get("kernel_size"), len(over))
    detail: Any = (op.numbers,)
    if "kernel_size" in given:
        further = (("stride", kernel), ("padding", 0), ("dilation", 1))
        detail = tuple(_several(given.get(key) or other, len(over)) for key, other in further)
    ways = slides(detail, kernel, [x[i] for i in over], [y[i] for i in over])
    largest = op.kind == "max pool"
    odd = given.get("ceil_mode") or given.get("divisor_override") is not None
    if ways is None or odd:
        return None
    found = window.of(range(len(x)), x)
    low, _ = ends.of(name, found, over[0])
    inside = all(not w.before and w.length(y[i]) <= x[i] for i, w in zip(over, ways, strict=True))
    if not inside and not ((low >= 0).all() if largest else op.padded):
        return None
    _slid(found, window, [(i, i) for i in over], ways)
    count, held = math.prod(kernel), over[0] + 1
    shared = _shared(ends, name, found, over[0], largest, count)

    def step(rows: Rows, a: Array) -> Array:
        part = shared(rows, a).reshape(-1, *a.shape[held:], 1)
        made = _scattered(part, ways, 1, lambda tap, b: b)
        return made.reshape(*a.shape[:held], *made.shape[1:-1])

    return [Read(name, found, step, count)]


def _repeated(
    op: Slicewise, name: str, x: Any, y: Any, over: list[int], window: Window
) -> list[Read] | None:
    """Resizing to the nearest entry by whole factors, where output j reads entry floor(j / factor): so
    it is if entries begin at the border and are rounded down, and if they lie in the middle of their
    parts, whatever becomes of ties: ((j + 1/2) / factor - 1/2) is less than 1/2 away from that entry.
    Torch multiplies j by 1 / factor, rounded, before it rounds down: as said for powers of two alone.
    """
    factors = [y[i] // x[i] for i in over]
    if any(y[i] != f * x[i] or f < 1 for i, f in zip(over, factors, strict=True)):
        return None
    if op.kind == "resize":
        wanted, options = op.numbers
        how = dict(options)
        where = how["coordinate_transformation_mode"] or b"half_pixel", how["nearest_mode"]
        middle = where[0] == b"half_pixel" and where[1] in (
            None,
            b"round_prefer_floor",
            b"round_prefer_ceil",
        )
        down = where == (b"asymmetric", b"floor")
        if how["mode"] not in (None, b"nearest") or not (middle or down) or how["antialias"]:
            return None
        given = [wanted[i] for i in over if type(wanted[i]) is float]
    else:
        scales = [value for key, value in op.numbers if key.startswith("scale")]
        given = [f for value in scales if value is not None for f in _several(value, 1)]
        exact = "exact" in op.kind or not any(f & (f - 1) for f in factors)
        if "nearest" not in op.kind or not exact:
            return None
    if given and [float(f) for f in given] != [float(f) for f in factors]:
        return None
    ways = [between_zeros(Slide(f, f, 1, 0)) for f in factors]
    found = window.of(range(len(x)), x)
    _slid(found, window, [(i, i) for i in over], ways)
    every, held = (*[1] * over[0], *factors), over[0] + 1

    def step(rows: Rows, a: Array) -> Array:
        made = _scattered(a.reshape(-1, *a.shape[held:], 1), ways, 1, lambda tap, b: b)
        return made.reshape(*a.shape[:held], *made.shape[1:-1])

    return [Read(name, found, step, math.prod(factors), every)]


def _several(given: Any, count: int) -> tuple[Any, ...]:
    """One number for each axis."""
    numbers = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return numbers * count if len(numbers) == 1 else numbers


RULES: dict[type, Callable[[Ends, Node, Any, Window], list[Read] | None]] = {
    Concat: _concat, Elementwise: _elementwise, Linear: _linear, PerUnit: _per_unit, Reshape: _reshape,
    Slicewise: _slicewise, Take: _take, Transpose: _transpose,
}  # fmt: skip
