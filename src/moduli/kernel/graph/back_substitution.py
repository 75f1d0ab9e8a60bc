"""Bounds of units of a graph by affine functions of what comes before. Part of the kernel.

Facts (`facts`) are intervals, carried from node to node. Here an inequality about one entry of a
tensor,

    +- entry <= sum over tensors t of a_t . t + c      on the box,

goes back: the last node whose output takes part in it is replaced by what it is made of, or by the
line of its activation on the right side (`back_steps`), and in the end every tensor that is left by
the end of its interval that makes the sum largest [idea: Zhang et al. 2018, Singh et al. 2019]. It is
what `bounds.propagation` does with chains, for graphs: branches add up, and windows slide.

**Windows.** a_t is an array over a window of t, a box of indices; outside of it there are zeros.
Windows that slide over padding read zeros there, so that what a_t has there is left out.

**Places that are alike.** A unit has many entries, one for each place along the other axes, and all of
them have to be bounded. Facts are of units: along one axis, for all places along others. Ends of
intervals, lines and numbers of nodes are taken along axes of which a window holds all, or are the same
for the whole tensor; so a row depends on its place only by how windows are cut at borders and how
those of branches lie to each other. These integers are found for all places at once (`Cone`), and the
arithmetic reads nothing else of a place: places with the same integers have the same bound, which is
computed once. Along an axis of unknown size every step reads the same index as it gives, or it is not
taken: what holds for one index holds for all. A target has one such axis at most: of two the indices
may differ, and `ANY` stands for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import arithmetic
from ..errors import CertificateRejected
from .back_steps import Array, Ends, Ints, Read, Rows, Step, Window, entries, reads_of, row_sums
from .facts import Known
from .operators import Linear

Mask = np.ndarray[Any, np.dtype[np.bool_]]
ENTRIES = 2**20  # floats of coefficients of one tensor at a time
PLACES = 2**17  # entries of a unit that are looked at
ALIKE = 512  # places that differ, for each of which work is done
CELLS = 2**25  # integers of the table of all places
ANY = -(2**40)  # where a window begins along an axis of unknown size


class Part(NamedTuple):
    """Coefficients of a tensor that one step gives.

    Attributes:
        source: the tensor from whose coefficients. every: how far those lie apart that count. cut, some,
            at: columns of the table of a cone: how many are left out before, how many count, and where
            these lie in the window of the tensor.
    """

    step: Step
    source: str
    every: tuple[int, ...]
    cut: slice
    some: slice
    at: slice


class Cone:
    """What the entries of a tensor are made of, for all places along its other axes.

    Attributes:
        order: tensors from the target back. parts: of the coefficients of each but the target.
        sizes: of its window, columns of the table. left: ends of those that do not go further back.
        table: ``[places that differ, columns]``; of all places it had so many `cells`. widest: the most
            entries that are read at once.
    """

    def __init__(self, ends: Ends, target: str, axis: int, depth: int) -> None:
        self.ends, self.order, self.columns, self.width = ends, list[str](), list[Ints](), 0
        self.parts, self.sizes = dict[str, list[Part]](), dict[str, slice]()
        self.left = dict[str, tuple[Array, Array]]()
        self.reads, self.products = dict[str, int](), dict[str, int]()
        found: dict[str, list[tuple[Read, str]]] = {target: []}
        layers, self.widest = 0, 1
        for name in self._backwards(target):
            if name not in found:
                continue
            window = self._joined(name, found[name]) if name != target else self._places(name, axis)
            self.order.append(name)
            self.sizes[name] = self._column(window.stop - window.start)
            node, reads = ends.known.graph.makers.get(name), None
            if node is not None and layers < depth and ends.known.array(name) is None:
                reads = reads_of(ends, node, window)
            if reads is None or node is None or not all(map(self._fits, reads)):
                self.left[name] = ends.of(name, window)
                continue
            layers += isinstance(node.op, Linear)
            self.reads[name] = len(reads)
            self.products[name] = sum(read.products for read in reads)
            for read in reads:
                found.setdefault(read.name, []).append((read, name))
                sizes = (read.window.stop - read.window.start).prod(axis=1)
                self.widest = max(self.widest, int(sizes.max()))
        if self.widest > CELLS:
            raise CertificateRejected("there are windows of too many entries")
        whole = np.concatenate(self.columns, axis=1)
        self.cells = whole.size
        differ = whole[:, (whole != whole[:1]).any(axis=0)]
        _, first = np.unique(differ, axis=0, return_index=True)
        if len(first) > ALIKE:
            raise CertificateRejected(f"{target!r} has too many places that differ")
        self.table = whole[first]
        # those that read most come first: they show first where nothing is gained
        counts = np.sum([self.entries(name) for name in self.order], axis=0)
        self.table = self.table[np.argsort(-counts, kind="stable")]

    def _backwards(self, target: str) -> Iterator[str]:
        """Tensors from the target back, each behind all that are made of it."""
        graph = self.ends.known.graph
        names = [name for node in graph.nodes for name in node.outputs if name]
        yield from reversed(names[: names.index(target) + 1])
        yield from graph.inputs
        yield from graph.constants

    def _places(self, target: str, axis: int) -> Window:
        """One entry of each unit, at all places."""
        shape = self.ends.shape(target)
        grid: list[Sequence[int]] = [range(n) if isinstance(n, int) else (ANY,) for n in shape]
        grid[axis] = (0,)
        if sum(not isinstance(n, int) for n in shape) > 1:
            raise CertificateRejected(f"{target!r} has several axes of unknown size")
        if not all(map(len, grid)):
            raise CertificateRejected(f"{target!r} is empty")
        if math.prod(map(len, grid)) > PLACES:
            raise CertificateRejected(f"{target!r} has too many places")
        start = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, len(shape))
        stop = start + 1
        stop[:, axis] = shape[axis]
        return Window(start, stop)

    def _column(self, numbers: Ints) -> slice:
        start, self.width = self.width, self.width + numbers.shape[1]
        if self.width * len(numbers) > CELLS:
            raise CertificateRejected("there are too many places and layers")
        self.columns.append(numbers)
        return slice(start, self.width)

    def _borders(self, name: str) -> tuple[Ints, Ints]:
        """The first index of each axis of a tensor, and one beyond the last."""
        pairs = [(0, n) if isinstance(n, int) else (ANY, ANY + 1) for n in self.ends.shape(name)]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _fits(self, read: Read) -> bool:
        """Whether along axes of unknown size the very index is read that is asked about."""
        (first, last), (start, stop) = self._borders(read.name), read.window
        return bool(((first == 0) | ((start == first) & (stop == last))).all())

    def _joined(self, name: str, found: Sequence[tuple[Read, str]]) -> Window:
        """The window around those that are read of a tensor, less what is padding: of a window that holds
        nothing else, nothing; but one entry at least.
        """
        first, last = self._borders(name)
        inside = list[Window]()
        for read, _ in found:
            # entries i of the tensor lie at i * every in the window
            far = np.array(read.every or [1] * len(first), dtype=np.int64)
            ends = (np.clip(end, first * far, (last - 1) * far + 1) for end in read.window)
            inside.append(Window(*(-(-end // far) for end in ends)))
        start = np.minimum(np.minimum.reduce([w.start for w in inside]), last - 1)
        stop = np.maximum(np.maximum.reduce([w.stop for w in inside]), start + 1)
        self.parts[name] = []
        for (read, source), kept in zip(found, inside, strict=True):
            every = read.every or (1,) * len(first)
            cut = kept.start * np.array(every, dtype=np.int64) - read.window.start
            numbers = map(self._column, (cut, kept.stop - kept.start, kept.start - start))
            self.parts[name].append(Part(read.step, source, every, *numbers))
        return Window(start, stop)

    def entries(self, name: str) -> Ints:
        """Of the window of a tensor, at each place."""
        return np.asarray(self.table[:, self.sizes[name]].prod(axis=1))

    def upper(self, first: Array, place: Ints) -> Array:
        """Upper bounds of rows about the target, ``[rows, *its window]``, at a place with these integers."""
        rows, held, reads = Rows(len(first)), dict[str, Array](), dict(self.reads)
        for name in self.order:
            a = first
            if name in self.parts:
                steps = []
                for part in self.parts[name]:
                    steps.append(part.step(rows, held[part.source]))
                    reads[part.source] -= 1
                    if not reads[part.source]:
                        del held[part.source]
                a = self._sum(rows, name, steps, place)
            if name in self.left:
                rows.concretise(a, *self.left[name])
            else:
                held[name] = a
        return rows.c

    def _sum(self, rows: Rows, name: str, steps: Sequence[Array], place: Ints) -> Array:
        """Coefficients of a tensor, from those that steps give."""
        whole = np.zeros((len(rows.c), *place[self.sizes[name]].tolist()))
        reach = self.ends.reach(name)
        for part, a in zip(self.parts[name], steps, strict=True):
            cut, count, at = (place[x].tolist() for x in (part.cut, part.some, part.at))
            ends = [c + n * k for c, n, k in zip(cut, count, part.every, strict=True)]
            a = a[(slice(None), *map(slice, cut, ends, part.every))]
            if len(steps) == 1 and a.shape == whole.shape:
                return a
            outer = [slice(o, o + n) for o, n in zip(at, a.shape[1:], strict=True)]
            whole[(slice(None), *outer)] += a
            # one rounding of each partial sum
            rows.raise_by(0.0, row_sums(np.abs(whole)) * reach, entries(whole))
        return whole


class BackSubstitution:
    """Affine bounds of units of a graph.

    Args:
        known: facts about all that comes before what is asked about; they hold on a box.
        most: products of coefficients and weights, and cells of tables of places, at most.

    Attributes:
        left: of these.
    """

    def __init__(self, known: Known, most: int) -> None:
        arithmetic.require()
        self.known, self.left, self._ends = known, most, Ends(known)

    def narrow(self, name: str, axis: int, units: Ints, depth: int) -> Mask:
        """Put better bounds of units of a tensor into the facts, and say which ends are nearer now,
        ``[2, units]``.

        Args:
            units: indices along the axis. depth: how many layers to go back through.

        Raises:
            CertificateRejected: there are too many places, or this takes too many products.
        """
        before = self.known.of((name, axis))
        low, high = before.low.copy(), before.high.copy()
        with np.errstate(all="ignore"):
            least, most = self._bounds(name, axis, units, depth)
        low[units], high[units] = np.maximum(low[units], least), np.minimum(high[units], most)
        self.known.found[name, axis] = replace(before, low=low, high=high)
        return np.stack([low[units] > before.low[units], high[units] < before.high[units]])

    def _bounds(self, name: str, axis: int, units: Ints, depth: int) -> tuple[Array, Array]:
        """Ends of units; infinite where neither is nearer than what is known."""
        before = self.known.of((name, axis))
        cone = Cone(self._ends, name, axis, depth)
        each = sum(int(cone.entries(tensor).sum()) * k for tensor, k in cone.products.items())
        work = 2 * len(units) * each + cone.cells
        if work > self.left:
            raise CertificateRejected(f"{work} products of {self.left} that are left")
        self.left -= work
        widest = max(cone.widest, *(int(cone.entries(tensor).max()) for tensor in cone.order))
        step = max(1, ENTRIES // (2 * widest))
        low, high = np.full(len(units), np.inf), np.full(len(units), -np.inf)
        left = np.arange(len(units))
        for place in cone.table:
            sizes = place[cone.sizes[name]].tolist()
            for start in range(0, len(left), step):
                block = left[start : start + step]
                first = np.zeros((2, len(block), *sizes))
                for rows, sign in zip(np.moveaxis(first, axis + 2, 2), (1.0, -1.0), strict=True):
                    rows[np.arange(len(block)), units[block]] = sign
                top = cone.upper(first.reshape(2 * len(block), *sizes), place)
                high[block] = np.maximum(high[block], top[: len(block)])
                low[block] = np.minimum(low[block], -top[len(block) :])
            nearer = (low > before.low[units]) | (high < before.high[units])
            left = left[nearer[left]]
        done = np.isin(np.arange(len(units)), left)  # of others some place was not looked at
        return np.where(done, low, -np.inf), np.where(done, high, np.inf)
