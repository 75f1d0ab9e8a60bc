"""Operators that treat slices alike, each by itself. Part of the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .operator import UNITY, Facts, Node, Operator, Ties
from .slices import ONE, Array, Slices

# Kinds of which more is known than what an operator declares, as ONNX and torch call them
SOFTMAX = ("Softmax", "softmax")
LOG_SOFTMAX = ("LogSoftmax", "log_softmax")
ROOT_MEAN_SQUARE = ("RMSNormalization", "rms_norm")
NORMS = ("LayerNormalization", "layer_norm", *ROOT_MEAN_SQUARE)
# of all entries that are read, in whatever order
REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "mean", "sum", "amax", "amin",
)  # fmt: skip
SUM = ("ReduceSum", "sum")
# x rounded to 256 numbers in equal steps, of which 0 is one, from the least or 0 to the largest or 0
BY_ITS_RANGE = "rounded by its range"
MAXIMA = (
    "max", "max pool", "adaptive max pool", "ReduceMax", "ReduceMin", "amax", "amin",
)  # fmt: skip


@dataclass(frozen=True)
class Slicewise(Operator):
    """A function of each slice: along the axes in `free` index i of the output reads index i of the
    first input alone, in the same way for all i; along its other axes all entries are read.

    Pools, resizing, sums and means along other axes, softmax and layer norm along other axes.

    Attributes:
        kind: what it is called, and `numbers` what belongs to it: both only tell operators apart, but for
            the kinds above.
        free: pairs of an axis of the input and one of the output.
        linear: f(r x + s y) = r f(x) + s f(y). homogeneous: f(r x) = r f(x) for r > 0.
        keeps: constants. f of a tensor whose entries are c has entries c. zero: the same for c = 0.
        hull: entries of f(x) lie between the least and the largest of x; with `padded` of x and 0.
        carried: of further inputs, the axis of the first input whose indices theirs (one axis)
            belong to; None where all are read by all slices.
        normalises: epsilon, where f(x) = u / sqrt(mean of u^2 + epsilon) * scale + shift, u being x or x
            without its mean, means being over all that is read or over equal parts of it; scale and
            shift are the further inputs, as far as there are any.
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
    normalises: float | None = None

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
        ends = self._range(node, axis, facts)
        if not source:
            return None if ends is None else facts.classes.made(len(ends[0]), *ends, {})
        x = facts.of((node.inputs[0], source[0]))
        n = len(x)
        low, high = (np.full(n, -np.inf), np.full(n, np.inf)) if ends is None else ends
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

    def _range(self, node: Node, axis: int, facts: Facts) -> tuple[Array, Array] | None:
        """Bounds that hold whatever is read; None where there are none."""
        shape, made = facts.shape(node.inputs[0]), facts.shape(node.output)
        n = (made or ())[axis] if made else None
        if not isinstance(n, int):
            return None
        if self.kind in SOFTMAX and facts.of_numbers(node.inputs[0]):
            return np.zeros(n), np.ones(n)
        if self.kind in LOG_SOFTMAX and facts.of_numbers(node.inputs[0]):
            return np.full(n, -np.inf), np.zeros(n)
        if self.normalises is None or not 0 < self.normalises < math.inf or shape is None:
            return None
        inside = {i for i, _ in self.free}
        sizes = [size for i, size in enumerate(shape) if i not in inside]
        further = [facts.array(name) for name in node.inputs[1:] if name]
        if not all(isinstance(size, int) for size in sizes) or any(a is None for a in further):
            return None
        # |u_i| is at most the root of the sum of all u^2, and s that of their mean
        root = math.sqrt(math.prod(int(size) for size in sizes)) * (1 + 2.0**-50)
        numbers = [np.asarray(a, dtype=np.float64) for a in further]
        if not all(np.isfinite(a).all() and a.size for a in numbers):
            return None
        # one further input may be a scale or a shift
        scale = max([float(np.abs(a).max()) for a in numbers[:1]] + [1.0] * (len(numbers) < 2))
        shift = (numbers or [np.zeros(1)])[-1]
        reach = root * scale * (1 + 2.0**-50)
        low, high = min(float(shift.min()), 0.0) - reach, max(float(shift.max()), 0.0) + reach
        return np.full(n, np.nextafter(low, -np.inf)), np.full(n, np.nextafter(high, np.inf))
