"""Operators that sum over an axis: layers, convolutions, products of two tensors. Part of the kernel.

Here products are left out with an index; what makes up for them is asked in `removal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import CertificateRejected
from .entrywise import aligned, interesting, tie_broadcast
from .operator import (
    TINY,
    UNIT,
    UNITY,
    ZERO,
    Facts,
    Ints,
    Node,
    Operator,
    Place,
    Shapes,
    Tensor,
    Ties,
)
from .slices import ONE, Array, Slices, are_numbers, blocks, multiples


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
        rows = rows.reshape(*rows.shape[:2], math.prod(rows.shape[2:]))
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
        flat = rows.reshape(n, math.prod(rows.shape[1:]))
        for members in _by_group(self._inputs(x, inner), outer).values():
            index = np.array(members)
            part = flat if len(index) == n else flat[index]
            found, own = multiples(part, facts.classes, b[index])
            names[index] = found
            for i, q in zip(members, own, strict=True):
                ratios[i] = q
        known = dict[int, tuple[int, Fraction]]()
        varies = self._varies(rows, x, inner)
        for i in range(n):
            value = None if varies[i] else self._value(rows[i], b[i], x, i // outer * inner)
            if value is not None:
                known[i] = (ONE, value)
            elif ratios[i] != 0:
                known[i] = (int(names[i]), ratios[i])
        return facts.classes.made(n, low, high, known)

    def _varies(self, rows: Tensor, x: Slices, inner: int) -> Any:
        """Rows that read something of which no value is known; not all of them are found."""
        seen = [k for k in range(inner) if x.constant(k) is None][:1]
        if self.groups > 1 or not seen:
            return np.zeros(len(rows), dtype=bool)
        return rows[:, seen[0]].any(axis=1)

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
    ends = [np.where(np.isfinite(end), end, 0.0) for end in (low, high)]
    # least, largest, their sizes, where they are unknown, where they are not zero
    table = np.column_stack(
        [
            *ends,
            *map(np.abs, ends),
            ~np.isfinite(low),
            ~np.isfinite(high),
            *(end != 0 for end in ends),
        ]
    ).astype(np.float64)
    turned = table[:, [1, 0, 3, 2, 5, 4, 7, 6]]
    count = rows.shape[1] * rows.shape[2] + 4
    found = [np.empty(len(rows)), np.empty(len(rows))]
    for block, wide in blocks(rows.reshape(len(rows), math.prod(rows.shape[1:]))):
        taps = wide.reshape(len(wide), *rows.shape[1:])
        with np.errstate(all="ignore"):
            p = np.maximum(taps, 0.0).sum(axis=2)
            q = np.maximum(-taps, 0.0).sum(axis=2)
            pt, qt = p @ table, q @ turned
            totals, (mass, unknown, some) = pt[:, :2] - qt[:, :2], np.split((pt + qt)[:, 2:].T, 3)
        for k, bias in enumerate((-b[block], b[block])):
            total = totals[:, 1] if k else -totals[:, 0]
            error = mass[k] * (count * 2 * UNIT) + np.where(some[k] == 0, 0.0, count * TINY)
            with np.errstate(all="ignore"):
                bound = np.nextafter(np.nextafter(total + error, np.inf) + bias, np.inf)
            bound = np.where(some[k] == 0, bias, bound)
            # a sum of taps that is no number makes all of them none
            found[k][block] = np.where((unknown[k] == 0) & np.isfinite(bound), bound, np.inf)
    return -found[0], found[1]


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
        tie_broadcast(node, [a, b], ties, ends=2)
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
            parts = [aligned(name, back, n, facts, shape) for name in (a, b)]
        end = np.full(n, np.inf)
        known = dict[int, tuple[int, Fraction]]()
        for i in interesting("contract", parts):
            # bilinear: r t . s u = r s (t . u)
            ratio = UNITY
            for part in parts:
                ratio *= part.ratios[i]
            key = (node.output, axis, tuple(int(part.classes[i]) for part in parts))
            known[i] = (facts.classes.of(key), ratio)
        if back == -1 and facts.rows_sum_to_one(a):  # means of entries
            return facts.classes.made(n, parts[0].low.copy(), parts[0].high.copy(), known)
        return facts.classes.made(n, -end, end, known)
