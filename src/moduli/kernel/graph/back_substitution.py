"""Bounds of units of a graph by affine functions of what comes before. Part of the kernel.

Facts of `facts` are intervals, carried from node to node. Here an inequality about one entry of a
tensor,

    +- entry <= sum over tensors t of a_t . t + c      on the box,

is taken back: the last node whose output takes part in it is replaced by what it is made of, or by
the line of its activation that lies on the right side, and in the end every tensor that is left by
the end of its interval that makes the sum largest [idea: Zhang et al. 2018, Singh et al. 2019]. It
is the way of `bounds.propagation`, for graphs: sums of branches add rows, windows slide, and lines
are those of `bounds.relaxations`.

**Windows.** a_t is an array over a window of t, a box of indices; outside of it there are zeros. A
convolution reads, for the places [i, j) of its output along an axis, the places [s i - p, s (j - 1)
- p + (k - 1) d + 1) of its input (stride s, padding p, k taps d apart), of which those outside of
the input are zeros and are left out.

**Places that are alike.** Facts are of units: along one axis of a tensor, for all places along its
others. Lines and ends are taken along an axis of which the window holds all, or else are the same
for the whole tensor; weights, lines and ends therefore do not depend on where a window lies, only on
how it is cut at the border and how windows of branches lie to each other. These integers are found
for all places of the target at once (`Cone`); the arithmetic reads nothing else, so that places with
the same integers have the same bound, and it is computed once for each.

**Rounding.** U = 2^-53. For each step let z be what a row is about before the step, written out as
the sum of all products of a coefficient with numbers of the node and the largest size of what the
node reads (`mass`, the sum of their sizes). New coefficients and the constant are float sums of such
products, of at most n terms each, in any order: the inequality with the computed ones is off by at
most gamma_{n + 8} mass, n + 8 for the few further roundings of a term. `Rows.raise_by` adds twice of
that, and n LEAST for each entry where products may underflow, times what they multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import arithmetic
from ..activations import Activation
from ..arithmetic import LEAST
from ..bounds.propagation import U
from ..bounds.relaxations import relaxation
from ..errors import CertificateRejected
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
Mask = np.ndarray[Any, np.dtype[np.bool_]]
ENTRIES = 2**20  # floats of coefficients of one tensor at a time
PLACES = 2**17  # entries of a channel that are looked at
ALIKE = 512  # places of a channel that differ, for each of which work is done
ANY = -(2**40)  # the start of a window along an axis of unknown size: any index of it, the same for all
MEANS = ("mean", "ReduceMean")


class Window(NamedTuple):
    """A box of indices of a tensor for each place of the target: both ``[places, axes]``."""

    start: Ints
    stop: Ints

    def holds(self, axis: int, n: Any) -> bool:
        """Whether all of an axis is in it, for all places."""
        whole = (self.start[:, axis] == 0) & (self.stop[:, axis] == n)
        return isinstance(n, int) and bool(whole.all())

    def over(self, axes: Sequence[int | None], sizes: Sequence[Any]) -> Window:
        """Of a tensor whose axes are some of these, and all of the others, of known sizes."""
        columns = []
        for axis, n in zip(axes, sizes, strict=True):
            whole = np.zeros(len(self.start), np.int64), np.full(len(self.start), n or 0)
            columns.append(whole if axis is None else (self.start[:, axis], self.stop[:, axis]))
        starts, stops = zip(*columns, strict=True)
        return Window(np.stack(starts, axis=1), np.stack(stops, axis=1))


class Rows:
    """Constants c of some inequalities, ``[rows]``; see the module."""

    def __init__(self, count: int) -> None:
        self.c = np.zeros(count)

    def raise_by(self, terms: Any, mass: Any, count: int, lost: float = 0.0) -> None:
        """Add sums of products, of at most `count` terms, that may be off as the module says.

        Args:
            mass: float sums of the sizes of the same terms, of what else was rounded too.
            lost: how many products may underflow, times what they are multiplied with.
        """
        mass = up(mass + np.abs(self.c), count + 8)
        error = up(mass * ((2 * count + 32) * U), 4) + (lost + count) * (4 * LEAST)
        found = np.nextafter(self.c + terms + error, np.inf)
        self.c = np.where(np.isfinite(found), found, np.inf)


# For coefficients of an output [rows, *window], those of one input, on the window that it reads
Step = Callable[[Rows, Array], Array]


class Read(NamedTuple):
    """What a node reads of an input for a window of its output, and how coefficients go back; for each
    of them by so many products. All but one of the reads of a node leave the constant alone.
    """

    name: str
    window: Window
    step: Step
    products: int = 0


def _sums(a: Array) -> Array:
    return np.asarray(a.reshape(len(a), -1).sum(axis=1))


def _each(a: Array) -> int:
    """Entries of a row."""
    return int(a[0].size) if len(a) else 0


class Part(NamedTuple):
    """Coefficients that one step gives of a tensor: which step, and columns of the table of a cone that
    say what is cut before and behind, and where the rest lies in the window of the tensor.
    """

    step: Step
    source: str
    cut: slice
    behind: slice
    at: slice


class Cone:
    """What the entries of a tensor read on the way back, for all places of it.

    Attributes:
        order: tensors, from the target back. parts: of each but the target. sizes: of its window,
            columns of the table. left: ends of tensors that are not taken further back.
        table: ``[places that differ, columns]`` all integers on which the arithmetic depends.
    """

    def __init__(self, back: BackSubstitution, name: str, axis: int, depth: int) -> None:
        self.back = back
        shape = back.known.shape(name) or ()
        grid: list[Sequence[int]] = [range(n) if isinstance(n, int) else (ANY,) for n in shape]
        grid[axis] = (0,)
        if math.prod(map(len, grid)) > PLACES:
            raise CertificateRejected(f"{name!r} has too many places")
        places = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, len(shape))
        target = Window(places.astype(np.int64), places.astype(np.int64) + 1)
        target.stop[:, axis] = shape[axis]
        self.columns: list[Ints] = []
        self.width = 0
        self.order, self.parts = list[str](), dict[str, list[Part]]()
        self.sizes, self.left = dict[str, slice](), dict[str, tuple[Array, Array]]()
        self.uses, self.factors = dict[str, int](), dict[str, int]()
        found: dict[str, list[tuple[Window, Step, str]]] = {name: []}
        summed = 0
        makers = back.known.graph.makers
        for tensor in back.backwards(name):
            if tensor not in found:
                continue
            window = self._joined(tensor, found[tensor]) if tensor != name else target
            self.order.append(tensor)
            self.sizes[tensor] = self._column(window.stop - window.start)
            node = makers.get(tensor)
            reads = None
            if node is not None and summed < depth and back.known.array(tensor) is None:
                reads = self._clipped(back.reads(node, window))
                summed += reads is not None and isinstance(node.op, Linear)
            if reads is None:
                self.left[tensor] = back.ends(tensor, window)
            for read in reads or ():
                found.setdefault(read.name, []).append((read.window, read.step, tensor))
                self.uses[tensor] = self.uses.get(tensor, 0) + 1
                self.factors[tensor] = self.factors.get(tensor, 0) + read.products
        whole = np.concatenate(self.columns, axis=1)
        differ = whole[:, (whole != whole[:1]).any(axis=0)]
        _, first = np.unique(differ, axis=0, return_index=True)
        if len(first) > ALIKE:
            raise CertificateRejected(f"{name!r} has too many places that differ")
        # those that read most come first: they are the first to show that nothing is gained
        self.table = whole[first]
        read = np.sum([self.entries(tensor) for tensor in self.order], axis=0)
        self.table = self.table[np.argsort(-read, kind="stable")]

    def _column(self, numbers: Ints) -> slice:
        self.columns.append(numbers)
        self.width += numbers.shape[1]
        return slice(self.width - numbers.shape[1], self.width)

    def _clipped(self, reads: list[Read] | None) -> list[Read] | None:
        """Reads, where each window has an entry that is no padding, and along an axis of unknown size
        the same index as the target.
        """
        for read in reads or ():
            first, last = self._ends(read.name)
            start, stop = read.window
            if not ((start < last) & (stop > first)).all():
                return None
            if not ((first == 0) | ((start == first) & (stop == last))).all():
                return None
        return reads

    def _ends(self, name: str) -> tuple[Ints, Ints]:
        """The first index of each axis of a tensor, and one beyond the last."""
        shape = self.back.known.shape(name) or ()
        pairs = [(0, n) if isinstance(n, int) else (ANY, ANY + 1) for n in shape]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _joined(self, tensor: str, found: list[tuple[Window, Step, str]]) -> Window:
        """The window around those that are read of a tensor, less what is padding."""
        first, last = self._ends(tensor)
        inside = [np.maximum(part.start, first) for part, _, _ in found]
        start = np.minimum.reduce(inside)
        stop = np.maximum.reduce([np.minimum(part.stop, last) for part, _, _ in found])
        for (part, step, source), begin in zip(found, inside, strict=True):
            cut, behind = begin - part.start, part.stop - np.minimum(part.stop, last)
            columns = [self._column(numbers) for numbers in (cut, behind, begin - start)]
            self.parts.setdefault(tensor, []).append(Part(step, source, *columns))
        return Window(start, stop)

    def entries(self, name: str) -> Ints:
        """Of the window of a tensor, for each place."""
        return np.asarray(self.table[:, self.sizes[name]].prod(axis=1))

    @property
    def widest(self) -> int:
        """Entries of the largest window."""
        return max(int(self.entries(name).max()) for name in self.order)

    @property
    def products(self) -> int:
        """Multiplications for a row, over all places."""
        return sum(int(self.entries(name).sum()) * k for name, k in self.factors.items())

    def upper(self, first: Array, place: Ints) -> Array:
        """Upper bounds of rows about the target at places with these integers."""
        rows, held, uses = Rows(len(first)), dict[str, Array](), dict(self.uses)
        for name in self.order:
            a = self._gathered(rows, name, held, uses, place) if name in self.parts else first
            if name in self.left:
                _concretise(rows, a, *self.left[name])
            else:
                held[name] = a
        return rows.c

    def _gathered(
        self, rows: Rows, name: str, held: dict[str, Array], uses: dict[str, int], place: Ints
    ) -> Array:
        """Coefficients of a tensor from those of the tensors that are made of it."""
        parts, reach = self.parts[name], self.back.reach(name)
        shape = tuple(place[self.sizes[name]].tolist())
        whole: Array | None = None
        for part in parts:
            a = part.step(rows, held[part.source])
            uses[part.source] -= 1
            if not uses[part.source]:
                del held[part.source]
            cut, behind, at = (place[x].tolist() for x in (part.cut, part.behind, part.at))
            sizes = [n - c - b for n, c, b in zip(a.shape[1:], cut, behind, strict=True)]
            inner = tuple(slice(c, c + n) for c, n in zip(cut, sizes, strict=True))
            a = a[(slice(None), *inner)]
            if len(parts) == 1:
                return a
            if whole is None:
                whole = np.zeros((len(a), *shape))
            outer = tuple(slice(o, o + n) for o, n in zip(at, sizes, strict=True))
            whole[(slice(None), *outer)] += a
            rows.raise_by(0.0, _sums(np.abs(whole)) * reach, _each(whole))  # each partial sum
        assert whole is not None
        return whole


def _concretise(rows: Rows, a: Array, low: Array, high: Array) -> None:
    """Put the ends of intervals in the place of a tensor."""
    with np.errstate(all="ignore"):
        ends = np.where(a > 0, high, np.where(a < 0, low, 0.0))
        terms = a * ends
        rows.raise_by(_sums(terms), _sums(np.abs(terms)), _each(a), float(_each(a)))


class BackSubstitution:
    """Affine bounds of units of a graph.

    Args:
        known: facts about what comes before the tensors that are asked about; they hold on a box.
        most: multiplications of coefficients with weights at most.

    Attributes:
        left: of these.
    """

    def __init__(self, known: Known, most: int) -> None:
        arithmetic.require()
        self.known, self.left = known, most

    def bounds(self, name: str, axis: int, units: Ints, depth: int) -> tuple[Array, Array]:
        """Lower and upper ends of units of a tensor; infinite where neither is nearer than what is known.

        Args:
            units: indices along the axis. depth: how many layers to go back through.

        Raises:
            CertificateRejected: there are too many places, or this takes too many products.
        """
        low, high = np.full(len(units), np.inf), np.full(len(units), -np.inf)
        before = self.known.of((name, axis))
        left = np.arange(len(units))
        with np.errstate(all="ignore"):
            cone = Cone(self, name, axis, depth)
            products = 2 * len(units) * cone.products
            if products > self.left:
                raise CertificateRejected(
                    f"bounds of {name!r} take {products} products, and {self.left} are left"
                )
            self.left -= products
            step = max(1, ENTRIES // (2 * cone.widest))
            for place in cone.table:
                sizes = place[cone.sizes[name]].tolist()
                for start in range(0, len(left), step):
                    block = left[start : start + step]
                    first = np.zeros((2, len(block), *sizes))
                    view = np.moveaxis(first, axis + 2, 2)
                    view[0, np.arange(len(block)), units[block]] = 1.0
                    view[1, np.arange(len(block)), units[block]] = -1.0
                    top = cone.upper(first.reshape(2 * len(block), *sizes), place)
                    high[block] = np.maximum(high[block], top[: len(block)])
                    low[block] = np.minimum(low[block], -top[len(block) :])
                nearer = (low > before.low[units]) | (high < before.high[units])
                left = left[nearer[left]]
        gone = np.ones(len(units), dtype=bool)
        gone[left] = False  # of the others some place was not looked at
        low[gone], high[gone] = -np.inf, np.inf
        return low, high

    def narrow(self, name: str, axis: int, units: Ints, depth: int) -> Mask:
        """Put what `bounds` finds into the facts; which ends became nearer, ``[2, units]``."""
        before = self.known.of((name, axis))
        low, high = before.low.copy(), before.high.copy()
        found = self.bounds(name, axis, units, depth)
        low[units] = np.maximum(low[units], found[0])
        high[units] = np.minimum(high[units], found[1])
        self.known.found[name, axis] = replace(before, low=low, high=high)
        return np.stack([low[units] > before.low[units], high[units] < before.high[units]])

    def backwards(self, name: str) -> Iterator[str]:
        """Tensors from one back, each behind all that are made of it."""
        graph = self.known.graph
        seen = False
        for node in reversed(graph.nodes):
            for output in node.outputs:
                seen = seen or output == name
                if seen and output:
                    yield output
        yield from graph.inputs
        yield from graph.constants

    # What is known of tensors

    def ends(self, name: str, window: Window) -> tuple[Array, Array]:
        """Ends of the entries of a window: along one axis of which it holds all, or of the tensor."""
        shape = self.known.shape(name) or ()
        least, most = self.hull(name)
        best, found = math.inf, (np.array(least), np.array(most))
        for axis, n in enumerate(shape):
            if not window.holds(axis, n):
                continue
            low, high = self.along(name, axis)
            if low is None or high is None:
                continue
            low, high = np.maximum(low, least), np.minimum(high, most)
            wide = float(np.sum(high - low)) / len(low)
            if wide < best:
                place = [-1 if k == axis else 1 for k in range(len(shape))]
                best, found = wide, (low.reshape(place), high.reshape(place))
        return found

    def along(self, name: str, axis: int) -> tuple[Array | None, Array | None]:
        array = self.known.array(name)
        if array is not None and are_numbers(array):
            rows = np.moveaxis(np.asarray(array, dtype=np.float64), axis, 0)
            rows = rows.reshape(len(rows), -1)
            return rows.min(axis=1), rows.max(axis=1)
        found = self.known.found.get((name, axis))
        return (None, None) if found is None else (found.low, found.high)

    def hull(self, name: str) -> tuple[float, float]:
        array = self.known.array(name)
        if array is not None:
            wide = np.asarray(array, dtype=np.float64)
            return (float(wide.min()), float(wide.max())) if are_numbers(array) else (-math.inf, math.inf)
        return self.known.hull(name, self.known.shape(name))

    def reach(self, name: str) -> float:
        """The largest size of any entry."""
        return max(map(abs, self.hull(name)))

    # Steps back through nodes

    def reads(self, node: Node, window: Window) -> list[Read] | None:
        """What a node reads, and how to go back; None where intervals have to do."""
        rule = BACK.get(type(node.op))
        names = [name for name in node.inputs if name]
        if rule is None or self.known.shape(node.output) is None or len(node.outputs) != 1:
            return None
        if any(self.known.shape(name) is None for name in names):
            return None
        return rule(self, node, node.op, window)


def _moved(names: Sequence[str], windows: Sequence[Window], steps: Sequence[Any]) -> list[Read]:
    return [
        Read(name, window, lambda rows, a, step=step: step(a))
        for name, window, step in zip(names, windows, steps, strict=True)
    ]


def _transpose(back: BackSubstitution, node: Node, op: Transpose, window: Window) -> list[Read]:
    order = np.argsort(op.order)
    found = Window(window.start[:, order], window.stop[:, order])
    return _moved(
        node.inputs, [found], [lambda a: a.transpose(0, *(axis + 1 for axis in order.tolist()))]
    )


def _reshape(
    back: BackSubstitution, node: Node, op: Reshape, window: Window
) -> list[Read] | None:
    x, y = back.known.shape(node.inputs[0]) or (), back.known.shape(node.output) or ()
    copied = {i: o for i, o in op.free}
    # all but axes in front that stay as they are is read
    front = 0
    while copied.get(front) == front:
        front += 1
    known = all(isinstance(n, int) for n in (*x[front:], *y[front:]))
    if not known or not all(window.holds(o, y[o]) for o in range(front, len(y))):
        return None
    axes = [*range(front), *[None] * (len(x) - front)]
    found = window.over(axes, [n if isinstance(n, int) else 1 for n in x])
    return _moved(
        node.inputs[:1], [found], [lambda a: a.reshape(*a.shape[: front + 1], *x[front:])]
    )


def _take(back: BackSubstitution, node: Node, op: Take, window: Window) -> list[Read] | None:
    x = back.known.shape(node.inputs[0]) or ()
    n, index = x[op.axis], np.array(op.index)
    if not isinstance(n, int) or len(set(op.index)) < len(op.index) or not len(index):
        return None
    axes: list[int | None] = list(range(len(x)))
    if op.drop:
        axes = [axis - (axis > op.axis) for axis in range(len(x))]
    elif not window.holds(op.axis, len(index)):
        if not (np.diff(index) == 1).all():
            return None
        shifted = Window(window.start.copy(), window.stop.copy())
        shifted.start[:, op.axis] += index[0]
        shifted.stop[:, op.axis] += index[0]
        return _moved(node.inputs, [shifted], [lambda a: a])
    axes[op.axis] = None
    found = window.over(axes, x)

    def step(a: Array) -> Array:
        wide = np.expand_dims(a, op.axis + 1) if op.drop else a
        whole = np.zeros((*wide.shape[: op.axis + 1], n, *wide.shape[op.axis + 2 :]))
        moved, parts = np.moveaxis(whole, op.axis + 1, 0), np.moveaxis(wide, op.axis + 1, 0)
        for k, i in enumerate(op.index):
            moved[i] = parts[k]
        return whole

    return _moved(node.inputs, [found], [step])


def _concat(back: BackSubstitution, node: Node, op: Concat, window: Window) -> list[Read] | None:
    y = back.known.shape(node.output) or ()
    sizes = [(back.known.shape(name) or ())[op.axis] for name in node.inputs]
    if not window.holds(op.axis, y[op.axis]) or not all(isinstance(n, int) and n for n in sizes):
        return None
    windows, steps, start = [], [], 0
    for n in sizes:
        assert isinstance(n, int)
        part = Window(window.start.copy(), window.stop.copy())
        part.stop[:, op.axis] = n
        windows.append(part)
        here = (slice(None),) * (op.axis + 1) + (slice(start, start + n),)
        steps.append(lambda a, here=here: a[here])
        start += n
    return _moved(node.inputs, windows, steps)


def _spread(back: BackSubstitution, node: Node, name: str, window: Window) -> tuple[Window, Any] | None:
    """The window of an operand that broadcasts, and how coefficients go back to it."""
    x, y = back.known.shape(name) or (), back.known.shape(node.output) or ()
    lead = len(y) - len(x)
    found = Window(window.start[:, lead:].copy(), window.stop[:, lead:].copy())
    summed = list(range(lead))
    for axis, n in enumerate(x):
        if n != y[lead + axis]:
            if n != 1:
                return None  # which of the two is broadcast is not known
            found.start[:, axis], found.stop[:, axis] = 0, 1
            summed.append(lead + axis)

    def step(a: Array) -> Array:
        kept = a.sum(axis=tuple(axis + 1 for axis in summed), keepdims=True) if summed else a
        return kept.reshape(len(a), *kept.shape[lead + 1 :])

    return found, step


def _elementwise(
    back: BackSubstitution, node: Node, op: Elementwise, window: Window
) -> list[Read] | None:
    names = [name for name in node.inputs if name]
    if len(names) == 1 and op.kind in ("identity", "neg"):
        return _moved(names, [window], [(lambda a: -a) if op.kind == "neg" else (lambda a: a)])
    if len(names) == 1:
        return _activation(back, names[0], op, window)
    if op.kind in ("add", "sub") and len(names) == 2:
        reads = []
        for k, name in enumerate(names):
            spread = _spread(back, node, name, window)
            if spread is None or not math.isfinite(back.reach(name)):
                return None
            part, step = spread
            sign = -1.0 if k and op.kind == "sub" else 1.0
            reads.append(Read(name, part, _summand(step, sign, back.reach(name))))
        return reads
    if op.kind in ("mul", "div") and len(names) == 2:
        return _multiple(back, node, op.kind, names, window)
    return None


def _summand(step: Any, sign: float, reach: float) -> Step:
    def go(rows: Rows, a: Array) -> Array:
        found = np.asarray(sign * step(a))
        if found.size < a.size:  # summed over what is broadcast
            rows.raise_by(0.0, _sums(np.abs(a)) * reach, _each(a))
        return found

    return go


def _multiple(
    back: BackSubstitution, node: Node, kind: str, names: list[str], window: Window
) -> list[Read] | None:
    """Of products with, and quotients by, a stored number for each unit."""
    stored = [back.known.array(name) for name in names]
    k = 1 if stored[0] is None else 0
    number, shape = stored[k], back.known.shape(node.output) or ()
    name = names[1 - k]
    if number is None or not are_numbers(number) or not number.size or (kind == "div" and k == 0):
        return None
    if back.known.shape(name) != shape or number.ndim > len(shape):
        return None
    factor = np.asarray(number, dtype=np.float64).reshape((1,) * (len(shape) - number.ndim) + number.shape)
    if not all(n == 1 or window.holds(axis, n) for axis, n in enumerate(factor.shape)):
        return None
    reach = back.reach(name)
    if not math.isfinite(reach) or (kind == "div" and not factor.all()):
        return None

    def go(rows: Rows, a: Array) -> Array:
        found = np.asarray(a * factor if kind == "mul" else a / factor)
        rows.raise_by(0.0, _sums(np.abs(found)) * reach, _each(a), _each(a) * (1.0 + reach))
        return found

    return [Read(name, window, go)]


def _activation(
    back: BackSubstitution, name: str, op: Elementwise, window: Window
) -> list[Read] | None:
    """Lines that lie above where a coefficient is positive, and below where it is negative."""
    low, high = back.ends(name, window)
    kind, numbers = op.kind, op.numbers
    if kind == "clip" and numbers == (0.0, math.inf):
        kind, numbers = "relu", ()
    steady = kind in ACTIVATIONS and all(map(math.isfinite, numbers))
    if not steady or (kind == "clip" and not numbers[0] < numbers[1]):
        return None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    lines = relaxation(Activation(kind, *numbers), np.atleast_1d(low), np.atleast_1d(high))
    slopes = lines.upper_slope, lines.lower_slope
    offsets = lines.upper_offset, lines.lower_offset
    reach = np.maximum(np.abs(low), np.abs(high))

    def go(rows: Rows, a: Array) -> Array:
        above = a > 0
        found = np.asarray(a * np.where(above, *slopes))
        terms = a * np.where(above, *offsets)
        mass = _sums(np.abs(terms)) + _sums(np.abs(found) * reach)
        lost = _each(a) * (2.0 + float(reach.max(initial=0.0)))
        rows.raise_by(_sums(terms), mass, _each(a), lost)
        return found

    return [Read(name, window, go)]


def _per_unit(
    back: BackSubstitution, node: Node, op: PerUnit, window: Window
) -> list[Read] | None:
    """Batch norms: y = s (x - mean) + shift, s = scale / sqrt(variance + epsilon) of five roundings."""
    name, shape = node.inputs[0], back.known.shape(node.output) or ()
    arrays = [back.known.array(other) for other in node.inputs[1:]]
    if op.kind != "batchnorm" or not window.holds(op.axis, shape[op.axis]) or len(arrays) != 4:
        return None
    if any(a is None or not are_numbers(a) for a in arrays):
        return None
    place = [-1 if axis == op.axis else 1 for axis in range(len(shape))]
    scale, shift, mean, variance = (
        np.asarray(a, dtype=np.float64).reshape(place) for a in arrays if a is not None
    )
    square = variance + op.numbers[0]
    low, high = back.ends(name, window)
    reach = np.maximum(np.abs(low), np.abs(high))
    if not (np.isfinite(square).all() and (square > 0).all() and np.isfinite(reach).all()):
        return None
    slope = scale / np.sqrt(square)
    # what a slope that is nearly zero may have lost
    size = np.abs(slope) * (reach + np.abs(mean)) + np.abs(shift)
    far = float((reach + np.abs(mean)).max(initial=0.0))
    if not np.isfinite(size).all():
        return None

    def go(rows: Rows, a: Array) -> Array:
        terms = a * (shift - slope * mean)
        lost = float(np.abs(a).max(initial=0.0)) * 4.0 + 2.0
        rows.raise_by(_sums(terms), _sums(np.abs(a) * size), _each(a) + 16, _each(a) * lost * (1.0 + far))
        return np.asarray(a * slope)

    return [Read(name, window, go)]


# Windows that slide ---------------------------------------------------------------------------------------------


class Slide(NamedTuple):
    """How windows slide over an axis: taps `spacing` apart, `stride` from one to the next, the first of
    them `before` in front of the border.
    """

    taps: int
    stride: int
    spacing: int
    before: int


def slides(detail: Any, kernel: Sequence[int], x: Sequence[Any], y: Sequence[Any]) -> list[Slide] | None:
    """Of a convolution or a pool by what its reader says of it; None where that is not understood, or
    does not give the sizes ``y`` of ``x``.
    """
    count = len(kernel)
    if len(detail) == 1:
        given = dict(detail[0])  # as ONNX has it
        auto = given.get("auto_pad") or b"NOTSET"
        strides = given.get("strides") or (1,) * count
        spacings = given.get("dilations") or (1,) * count
        pads = given.get("pads") or (0,) * (2 * count)
        if auto not in (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER") or given.get("ceil_mode"):
            return None
    else:
        strides, padding, spacings = detail[:3]  # as torch has it
        auto, pads = b"NOTSET", ()
        if isinstance(padding, str):
            auto = {"same": b"SAME_UPPER", "valid": b"VALID"}.get(padding, b"")
        else:
            pads = (*padding, *padding)
    found = []
    for d, (k, n, m) in enumerate(zip(kernel, x, y, strict=True)):
        s, spacing = int(strides[d]), int(spacings[d])
        long = (k - 1) * spacing + 1
        if not (isinstance(n, int) and isinstance(m, int)):
            return None
        before, after = (pads[d], pads[count + d]) if auto == b"NOTSET" else (0, 0)
        if auto.startswith(b"SAME"):
            total = max((-(-n // s) - 1) * s + long - n, 0)
            before = total // 2 if auto == b"SAME_UPPER" else total - total // 2
            after = total - before
        if min(s, spacing, k) < 1 or min(before, after) < 0 or (n + before + after - long) // s + 1 != m:
            return None
        found.append(Slide(k, s, spacing, before))
    return found


def _slid(window: Window, axes: Sequence[tuple[int, int]], ways: Sequence[Slide], found: Window) -> None:
    """Put what windows read into a window, for pairs of an axis of x and one of y."""
    for (i, o), way in zip(axes, ways, strict=True):
        found.start[:, i] = window.start[:, o] * way.stride - way.before
        last = (window.stop[:, o] - 1) * way.stride - way.before
        found.stop[:, i] = last + (way.taps - 1) * way.spacing + 1


def _gathered_taps(
    b: Array, ways: Sequence[Slide], columns: int, product: Callable[[tuple[int, ...], Array], Array]
) -> Array:
    """Sum over taps of product(tap, b), put where the tap reads: from ``[rows, *windows, outputs]``
    to ``[rows, *windows, columns]``.
    """
    sizes = b.shape[1:-1]
    wide = [
        (n - 1) * way.stride + (way.taps - 1) * way.spacing + 1
        for n, way in zip(sizes, ways, strict=True)
    ]
    found = np.zeros((len(b), *wide, columns))
    for tap in np.ndindex(*(way.taps for way in ways)):
        here = tuple(
            slice(k * way.spacing, k * way.spacing + (n - 1) * way.stride + 1, way.stride)
            for k, n, way in zip(tap, sizes, ways, strict=True)
        )
        found[(slice(None), *here)] += product(tap, b)
    return found


def _linear(back: BackSubstitution, node: Node, op: Linear, window: Window) -> list[Read] | None:
    name = node.inputs[0]
    x, y = back.known.shape(name) or (), back.known.shape(node.output) or ()
    weight = back.known.array(node.inputs[1])
    bias = back.known.array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if weight is None or bias is None or not (are_numbers(weight) and are_numbers(bias)):
        return None
    if not window.holds(op.writes, y[op.writes]) or not isinstance(x[op.reads], int):
        return None
    w = np.moveaxis(np.asarray(weight, dtype=np.float64), (op.rows, op.columns), (0, 1))
    outputs, inner, *kernel = w.shape
    ins, outs = {op.reads, *(i for i, _ in op.free)}, {op.writes, *(o for _, o in op.free)}
    over = list(
        zip(
            [axis for axis in range(len(x)) if axis not in ins],
            [axis for axis in range(len(y)) if axis not in outs],
            strict=True,
        )
    ) if len(x) - len(ins) == len(y) - len(outs) else None
    if over is None or len(over) != len(kernel):
        return None
    ways: list[Slide] | None = []
    if kernel:
        if op.detail[:1] != ("conv",):
            return None
        ways = slides(op.detail[1:], kernel, [x[i] for i, _ in over], [y[o] for _, o in over])
    if ways is None:
        return None
    axes: list[int | None] = [None] * len(x)
    for i, o in (*op.free, *over):
        axes[i] = o
    found = window.over(axes, [n if isinstance(n, int) else 1 for n in x])
    _slid(window, over, ways, found)
    low, high = back.along(name, op.reads)
    if low is None or high is None:
        return None
    reach = np.maximum(np.abs(low), np.abs(high))
    taps = w.reshape(op.groups, outputs // op.groups, inner, *kernel)
    sizes = np.abs(w).reshape(outputs, inner, -1).sum(axis=2).reshape(*taps.shape[:3])
    read = reach.reshape(op.groups, 1, inner)
    b = np.resize(np.asarray(bias, dtype=np.float64), outputs)
    mass = (sizes * read).sum(axis=2).ravel() + np.abs(b)
    if not np.isfinite(mass).all():
        return None
    count = outputs // op.groups * math.prod(kernel)
    order = [0, *(o + 1 for _, o in (*op.free, *over)), op.writes + 1]
    free, far = len(op.free), 1.0 + float(reach.max(initial=0.0))

    def product(tap: tuple[int, ...], part: Array) -> Array:
        matrix = taps[(slice(None), slice(None), slice(None), *tap)]
        if op.groups == 1:
            return np.asarray(part @ matrix[0])
        if matrix.shape[1:] == (1, 1):
            return np.asarray(part * matrix[:, 0, 0])
        split = part.reshape(-1, op.groups, matrix.shape[1]).swapaxes(0, 1)
        return (split @ matrix).swapaxes(0, 1).reshape(*part.shape[:-1], -1)

    def go(rows: Rows, a: Array) -> Array:
        turned = a.transpose(order)
        whole = _sums(np.moveaxis(np.abs(a), op.writes + 1, -1) * mass)
        part = np.ascontiguousarray(turned).reshape(-1, *turned.shape[free + 1 :])
        made = _gathered_taps(part, ways, inner * op.groups, product)
        terms = _sums(turned * b)
        lost = (_each(a) + made.size // max(1, len(a))) * count * far
        rows.raise_by(terms, whole, count + _each(a) + math.prod(kernel), lost)
        made = made.reshape(*turned.shape[: free + 1], *made.shape[1:])
        back_order = [i for i, _ in (*op.free, *over)] + [op.reads]
        return made.transpose(0, *(np.argsort(back_order) + 1).tolist())

    return [Read(name, found, go, inner * math.prod(kernel))]


def _slicewise(
    back: BackSubstitution, node: Node, op: Slicewise, window: Window
) -> list[Read] | None:
    name = node.inputs[0]
    x, y = back.known.shape(name) or (), back.known.shape(node.output) or ()
    reach = back.reach(name)
    carried = {i: o for i, o in op.free}
    rest = [i for i in range(len(x)) if i not in carried]
    gone = [o for o in range(len(y)) if o not in carried.values()]
    if not math.isfinite(reach) or not all(isinstance(x[i], int) for i in rest):
        return None
    if op.kind == "pad" and op.numbers[0] in (b"constant", "constant") and op.numbers[2] == 0:
        found = Window(window.start.copy(), window.stop.copy())
        for axis, (before, after) in op.numbers[1]:
            if min(before, after) < 0 or (max(before, after) > 0 and axis in carried):
                return None
            found.start[:, axis] -= before
            found.stop[:, axis] -= before
        return _moved([name], [found], [lambda a: a])
    single = all(y[o] == 1 for o in gone)
    if op.kind in MEANS or (op.kind == "adaptive average pool" and single):
        if not single or list(carried.values()) != sorted(carried.values()):
            return None
        return [_mean(name, x, carried, rest, reach, window)]
    if op.kind == "average pool" and len(rest) == len(gone) and not op.padded:
        return _pooled(op, name, x, y, rest, reach, window)
    return None


def _mean(
    name: str, x: Any, carried: dict[int, int], rest: list[int], reach: float, window: Window
) -> Read:
    """A mean over axes of known sizes."""
    found = window.over([carried.get(i) for i in range(len(x))], [n if isinstance(n, int) else 1 for n in x])
    count = math.prod(x[i] for i in rest)

    def go(rows: Rows, a: Array) -> Array:
        sizes = [a.shape[carried[i] + 1] if i in carried else 1 for i in range(len(x))]
        wide = [n if i in carried else x[i] for i, n in enumerate(sizes)]
        rows.raise_by(0.0, _sums(np.abs(a)) * reach, _each(a) + 4, _each(a) * count * (1.0 + reach))
        return np.broadcast_to((a / count).reshape(len(a), *sizes), (len(a), *wide))

    return Read(name, found, go)


def _pooled(
    op: Slicewise, name: str, x: Any, y: Any, rest: list[int], reach: float, window: Window
) -> list[Read] | None:
    """A mean over windows without padding."""
    given = {pair[0]: pair[1] for pair in op.numbers}
    kernel = given.get("kernel_shape") or given.get("kernel_size") or ()
    kernel = tuple(kernel) if isinstance(kernel, (tuple, list)) else (kernel,)
    kernel = kernel * len(rest) if len(kernel) == 1 else kernel
    if given.get("divisor_override") is not None or len(kernel) != len(rest):
        return None
    detail: Any = (tuple(given.items()),)
    if "kernel_size" in given:
        stride = given.get("stride") or kernel
        stride = stride * len(rest) if len(stride) == 1 else stride
        if given.get("ceil_mode"):
            return None
        detail = (stride, (0,) * len(rest), (1,) * len(rest))
    padding = given.get("padding") or given.get("pads") or ()
    if any(padding if isinstance(padding, (tuple, list)) else (padding,)):
        return None
    ways = slides(detail, kernel, [x[i] for i in rest], [y[i] for i in rest])
    if ways is None:
        return None
    for i, way in zip(rest, ways, strict=True):  # none may reach over a border
        last = (y[i] - 1) * way.stride - way.before + (way.taps - 1) * way.spacing
        if way.before or last >= x[i]:
            return None
    found = Window(window.start.copy(), window.stop.copy())
    _slid(window, [(i, i) for i in rest], ways, found)
    count = math.prod(kernel)
    order = [i for i in range(len(x)) if i not in rest] + rest

    def go(rows: Rows, a: Array) -> Array:
        turned = (a / count).transpose(0, *(axis + 1 for axis in order))
        part = turned.reshape(-1, *turned.shape[len(order) - len(rest) + 1 :], 1)
        made = _gathered_taps(part, ways, 1, lambda tap, b: b)
        lost = _each(a) * count * (1.0 + reach)
        rows.raise_by(0.0, _sums(np.abs(a)) * reach, _each(a) + count + 4, lost)
        made = made.reshape(*turned.shape[: len(order) - len(rest) + 1], *made.shape[1:-1])
        return made.transpose(0, *(np.argsort(order) + 1).tolist())

    return [Read(name, found, go)]


ACTIVATIONS = ("relu", "leaky_relu", "abs", "clip", "tanh", "sigmoid")
BACK: dict[type, Callable[[BackSubstitution, Node, Any, Window], list[Read] | None]] = {
    Concat: _concat,
    Elementwise: _elementwise,
    Linear: _linear,
    PerUnit: _per_unit,
    Reshape: _reshape,
    Slicewise: _slicewise,
    Take: _take,
    Transpose: _transpose,
}
