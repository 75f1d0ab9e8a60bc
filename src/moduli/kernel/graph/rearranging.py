"""Operators that put entries elsewhere, repeat them or leave some out. Part of the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ..errors import CertificateRejected
from .entrywise import aligned, interesting, renamed, tie_broadcast
from .operator import ZERO, Facts, Ints, Node, Operator, Place, Shape, Shapes, Sizes, Tensor, Ties
from .slices import ONE, Slices


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
        for i in interesting("concat", parts):
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
        tie_broadcast(node, node.inputs[:1], ties)
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
        return aligned(node.inputs[0], axis - len(shape), int(shape[axis]), facts, shape)


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
        coarse, fine = digits(ties.shape(x) or (), ins), digits(ties.shape(y) or (), outs)
        for (name, own), (other, parts) in (((x, coarse), (y, fine)), ((y, fine), (x, coarse))):
            if not all(n for _, n in own.values()):  # of nothing, on both sides
                for axis in own:
                    ties.fix((name, axis), f"reshape {node.name!r}, which has no entries")
                continue
            for axis, (stride, n) in own.items():
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
                return renamed(facts.of((x, i)), ("reshaped", node.output, axis), facts)
        for ins, outs in self.blocks:
            if axis in outs:
                coarse = digits(facts.shape(x) or (), ins)
                fine = digits(facts.shape(node.output) or (), outs)
                return self._digit(node, axis, fine[axis], coarse, facts)
        return None

    def _digit(
        self, node: Node, axis: int, own: tuple[int, int], coarse: Mapping[int, tuple[int, int]],
        facts: Facts,
    ) -> Slices | None:  # fmt: skip
        stride, n = own
        if not (n and all(m for _, m in coarse.values())):
            return None  # of nothing
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


def digits(shape: Shape, axes: tuple[int, ...]) -> dict[int, tuple[int, int]]:
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
        step = s // stride
        first = labels[np.arange(m) * step]
        if (labels == first[np.arange(len(labels)) // step % m]).all():
            return part, s, m
    return within[0]


def _gathered(node: Node, axis: int, x: Slices, digit: Ints, n: int, facts: Facts) -> Slices:
    """Slices each made of several of another axis."""
    low, high = np.empty(n), np.empty(n)
    known = dict[int, tuple[int, Fraction]]()
    order = np.argsort(digit, kind="stable")
    groups = np.split(order, np.searchsorted(digit[order], np.arange(1, n)))
    for k, members in enumerate(groups):
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
