"""Steps of back substitution: from an inequality about what a node gives to one about what it reads.
Part of the kernel.

Rows of inequalities `entry <= sum over tensors t of a_t . t + c` go back, see `back_substitution`. A
rule is for one kind of operator. It says which window of each of its inputs a node reads for a window
of its output, and how coefficients of the output become coefficients of the input and c; where it
understands too little it gives None, and intervals have to do. A rule knows windows of all places of
the target at once, a step knows the arrays of one place alone: nothing in it depends on the place.

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
from ..bounds.relaxations import relaxation
from ..exact_numbers import up
from .facts import Known
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
MEANS = ("mean", "ReduceMean")
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
    """What a node reads of an input, and how coefficients go back, each with so many products."""

    name: str
    window: Window
    step: Step
    products: int = 0


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

    def of(self, name: str, window: Window) -> tuple[Array, Array]:
        """For the entries of a window: along an axis of which it holds all, or for all alike."""
        shape, (least, most) = self.shape(name), self.hull(name)
        width, found = most - least, (np.array([least]), np.array([most]))
        for axis, n in enumerate(shape):
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
    names = [name for name in node.inputs if name]
    if len(names) == 1:
        if op.kind in ("identity", "neg"):
            return [_read(names[0], window, lambda a: -a if op.kind == "neg" else a)]
        return _activation(ends, names[0], op, window)
    if op.kind in ("add", "sub") and len(names) == 2:
        signs = (1.0, -1.0 if op.kind == "sub" else 1.0)
        found = [
            _summand(ends, name, sign, ends.shape(node.output), window)
            for name, sign in zip(names, signs, strict=True)
        ]
        return None if None in found else [read for read in found if read is not None]
    if op.kind in ("mul", "div") and len(names) == 2:
        return _multiple(ends, node, op.kind, names, window)
    return None


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


def _multiple(
    ends: Ends, node: Node, kind: str, names: list[str], window: Window
) -> list[Read] | None:
    """Products with, and quotients by, stored numbers that do not depend on the place."""
    k = 1 if ends.known.array(names[0]) is None else 0
    number, name, shape = ends.numbers(names[k]), names[1 - k], ends.shape(node.output)
    if number is None or ends.shape(name) != shape or (kind == "div" and not (k and number.all())):
        return None
    factor, reach = (
        number.reshape((1,) * (len(shape) - number.ndim) + number.shape),
        ends.reach(name),
    )
    if not all(n == 1 or window.holds(axis, n) for axis, n in enumerate(factor.shape)):
        return None

    def step(rows: Rows, a: Array) -> Array:
        found = np.asarray(a * factor if kind == "mul" else a / factor)
        rows.raise_by(0.0, row_sums(np.abs(found)) * reach, 1, entries(a) * (1.0 + reach))
        return found

    return [Read(name, window, step)]


def _activation(ends: Ends, name: str, op: Elementwise, window: Window) -> list[Read] | None:
    """Lines: above where a coefficient is positive, below where it is negative."""
    kind, numbers, (low, high) = op.kind, op.numbers, ends.of(name, window)
    if kind == "clip" and numbers == (0.0, math.inf):
        kind, numbers = "relu", ()
    known = (
        kind in LINES and all(map(math.isfinite, numbers)) and list(numbers) == sorted(set(numbers))
    )
    if not (known and np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    lines = relaxation(Activation(kind, *numbers), low, high)
    reach = np.maximum(np.abs(low), np.abs(high))

    def step(rows: Rows, a: Array) -> Array:
        above = a > 0
        found = np.asarray(a * np.where(above, lines.upper_slope, lines.lower_slope))
        terms = a * np.where(above, lines.upper_offset, lines.lower_offset)
        mass = row_sums(np.abs(terms)) + row_sums(np.abs(found) * reach)
        rows.raise_by(row_sums(terms), mass, entries(a), entries(a) * (2.0 + float(reach.max())))
        return found

    return [Read(name, window, step)]


def _per_unit(ends: Ends, node: Node, op: PerUnit, window: Window) -> list[Read] | None:
    """Batch norms: s x + (shift - s mean), where s = scale / sqrt(variance + epsilon) takes three
    roundings; where s may underflow, what that loses is a LEAST for each coefficient.
    """
    name, shape = node.inputs[0], ends.shape(node.output)
    stored = [ends.numbers(other) for other in node.inputs[1:]]
    arrays = [
        a.reshape([-1 if k == op.axis else 1 for k in range(len(shape))])
        for a in stored
        if a is not None
    ]
    if op.kind != "batchnorm" or len(arrays) < 4 or not window.holds(op.axis, shape[op.axis]):
        return None
    scale, shift, mean, variance = arrays
    square, (low, high) = variance + op.numbers[0], ends.of(name, window)
    reach = np.maximum(np.abs(low), np.abs(high)) + np.abs(mean)
    if not (np.isfinite(square).all() and (square > 0).all() and np.isfinite(reach).all()):
        return None
    slope = scale / np.sqrt(square)
    size, far = np.abs(slope) * reach + np.abs(shift), 1.0 + float(reach.max())

    def step(rows: Rows, a: Array) -> Array:
        terms = a * (shift - slope * mean)
        lost = entries(a) * (1.0 + float(np.abs(a).max())) * far
        rows.raise_by(row_sums(terms), row_sums(np.abs(a) * size), entries(a) + 8, 2.0 * lost)
        return np.asarray(a * slope)

    return [Read(name, window, step)]


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
        if not isinstance(n, int) or auto not in (
            b"NOTSET",
            b"VALID",
            b"SAME_UPPER",
            b"SAME_LOWER",
        ):
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
    if kernel and op.detail[:1] != ("conv",):
        return None
    ways = (
        slides(op.detail[1:], kernel, [x[i] for i in ins], [y[o] for o in outs]) if kernel else []
    )
    if ways is None:
        return None
    pairs = (*op.free, *zip(ins, outs, strict=True))
    found = window.of([dict(pairs).get(k) for k in range(len(x))], x)
    _slid(found, window, pairs[len(op.free) :], ways)
    reach = np.max(np.abs(ends.along(name, op.reads)), axis=0)
    taps = w.reshape(op.groups, outer, inner, -1)
    sizes = np.abs(taps).sum(axis=3)
    matrices = dict(zip(np.ndindex(*kernel), np.moveaxis(taps, 3, 0), strict=True))
    mass = (sizes * reach.reshape(op.groups, 1, inner)).sum(axis=2).ravel() + np.abs(b)
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
        turned = a.transpose(there)
        made = _scattered(
            turned.reshape(-1, *turned.shape[held:]), ways, inner * op.groups, product
        )
        made = made.reshape(*turned.shape[:held], *made.shape[1:]).transpose(back)
        lost = (entries(a) + entries(made)) * count * (1.0 + float(reach.max()))
        rows.raise_by(
            row_sums(turned * b), row_sums(np.abs(turned) * mass), count + entries(a), lost
        )
        return made

    return [Read(name, found, step, inner * math.prod(kernel))]


def _slicewise(ends: Ends, node: Node, op: Slicewise, window: Window) -> list[Read] | None:
    name, carried = node.inputs[0], dict(op.free)
    x, y, reach = ends.shape(name), ends.shape(node.output), ends.reach(name)
    over = [k for k in range(len(x)) if k not in carried]
    outs = [k for k in range(len(y)) if k not in carried.values()]
    sizes = [n for n in (x[k] for k in over) if isinstance(n, int)]
    if len(sizes) < len(over) or not op.linear:  # of integers a mean is none
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
    if alone and (op.kind in MEANS or op.kind == "adaptive average pool"):
        count = math.prod(sizes)

        def mean(rows: Rows, a: Array) -> Array:
            kept = [a.shape[carried[k] + 1] if k in carried else 1 for k in range(len(x))]
            wide = [n if k in carried else int(x[k]) for k, n in enumerate(kept)]
            rows.raise_by(0.0, row_sums(np.abs(a)) * reach, 1, entries(a) * count * (1.0 + reach))
            return np.broadcast_to((a / count).reshape(len(a), *kept), (len(a), *wide))

        return [Read(name, window.of([carried.get(k) for k in range(len(x))], x), mean)]
    if op.kind == "average pool" and over == outs == list(range(len(x) - len(over), len(x))):
        return _pooled(op, name, x, y, over, reach, window)
    return None


def _pooled(
    op: Slicewise, name: str, x: Any, y: Any, over: list[int], reach: float, window: Window
) -> list[Read] | None:
    """Means over windows of the last axes that reach over no border."""
    given = dict(op.numbers)
    kernel = _several(given.get("kernel_shape") or given.get("kernel_size"), len(over))
    detail: Any = (op.numbers,)
    if "kernel_size" in given:
        strides = _several(given.get("stride") or kernel, len(over))
        detail = (strides, (0,) * len(over), (1,) * len(over))
    padding = given.get("pads") or _several(given.get("padding") or 0, 1)
    if any(padding) or given.get("ceil_mode") or given.get("divisor_override") is not None:
        return None
    ways = slides(detail, kernel, [x[i] for i in over], [y[i] for i in over])
    if ways is None or any(
        w.before or w.length(y[i]) > x[i] for i, w in zip(over, ways, strict=True)
    ):
        return None
    found = window.of(range(len(x)), x)
    _slid(found, window, [(i, i) for i in over], ways)
    count, held = math.prod(kernel), over[0] + 1

    def step(rows: Rows, a: Array) -> Array:
        part = (a / count).reshape(-1, *a.shape[held:], 1)
        made = _scattered(part, ways, 1, lambda tap, b: b)
        lost = entries(a) * count * (1.0 + reach)
        rows.raise_by(0.0, row_sums(np.abs(a)) * reach, entries(a) + count, lost)
        return made.reshape(*a.shape[:held], *made.shape[1:-1])

    return [Read(name, found, step)]


def _several(given: Any, count: int) -> tuple[int, ...]:
    """One number for each axis."""
    numbers = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return numbers * count if len(numbers) == 1 else numbers


RULES: dict[type, Callable[[Ends, Node, Any, Window], list[Read] | None]] = {
    Concat: _concat,
    Elementwise: _elementwise,
    Linear: _linear,
    PerUnit: _per_unit,
    Reshape: _reshape,
    Slicewise: _slicewise,
    Take: _take,
    Transpose: _transpose,
}
