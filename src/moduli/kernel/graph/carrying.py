"""Stored tensors that are added early, and may as well be added later. Part of the kernel.

A node adds a stored tensor b to x. Follow the difference d that b makes: as long as every node on the
way gives f(x + d) = f(x) + d' with a d' that is known number by number, d is d' from there on. Where a
layer reads it whose entries all read all taps, W (x + d) = W x + W d, and the bias of the layer takes
W d. If each way of d ends so, and none at an output, b need not be added.

A product of weights a with values v + d, d the same for all positions, is a v + d, as long as the rows
of a sum to one: those of a softmax do, unless a mask leaves a row nothing, which takes an infinity, or
there are no positions.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from .facts import Known
from .operators import (
    Contract,
    Elementwise,
    Linear,
    Node,
    Reshape,
    Shape,
    Slicewise,
    Take,
    Transpose,
)
from .removal import Changes
from .slices import are_numbers

# the numbers of d along the axes of a tensor; an axis along which it is constant has size 1
Array = np.ndarray[Any, np.dtype[np.float64]]


def carried(known: Known, node: Node, changes: Changes) -> str | None:
    """The input of a sum to which a node adds a stored tensor that layers behind it take over; what
    these have to add goes into `changes`. None where they cannot.
    """
    op = node.op
    if not isinstance(op, Elementwise) or op.kind != "add" or len(node.inputs) != 2:
        return None
    for x, stored in (node.inputs, node.inputs[::-1]):
        array, shape = known.array(stored), known.shape(x)
        if array is None or known.array(x) is not None or shape is None:
            continue
        if shape != known.shape(node.output) or not are_numbers(array):
            continue
        wide = np.asarray(array, dtype=np.float64)
        difference = wide.reshape((1,) * (len(shape) - wide.ndim) + wide.shape)
        if _taken(known, node.output, difference, changes):
            return x
    return None


def _taken(known: Known, name: str, difference: Array, changes: Changes) -> bool:
    """Whether layers take all of a difference."""
    waiting, met = [(name, difference)], {name}
    while waiting:
        name, difference = waiting.pop()
        readers = known.graph.readers.get(name, [])
        if name in known.graph.outputs or not readers:
            return False
        for node in readers:
            if node.inputs.count(name) != 1:
                return False
            if isinstance(node.op, Linear) and node.inputs[0] == name:
                if not _given(known, node, node.op, difference, changes):
                    return False
                continue
            further = _behind(known, node, name, difference)
            if further is None or node.output in met:
                return False  # two differences that meet are not followed
            met.add(node.output)
            waiting.append((node.output, further))
    return True


def _given(known: Known, node: Node, op: Linear, difference: Array, changes: Changes) -> bool:
    """Let the bias of a layer add W d."""
    weight = known.array(node.inputs[1])
    if weight is None or not are_numbers(weight) or op.groups > 1 or op.padded or not op.uniform:
        return False
    if any(n > 1 for axis, n in enumerate(difference.shape) if axis != op.reads % difference.ndim):
        return False
    columns = np.moveaxis(weight, (op.columns, op.rows), (0, 1))
    values = np.broadcast_to(difference.ravel(), (len(columns),))
    for column, value in zip(columns, values.tolist(), strict=True):
        if value != 0 and column.any():
            changes.shift(node, op, column, Fraction(value))
    return True


def _behind(known: Known, node: Node, name: str, d: Array) -> Array | None:
    """What a difference is behind a node; None where that is not followed."""
    op, shape, out = node.op, known.shape(name), known.shape(node.output)
    if shape is None or out is None:
        return None
    if isinstance(op, Elementwise):
        return _entrywise(op, node, name, d, out)
    if isinstance(op, Transpose):
        return d.transpose(op.order)
    if isinstance(op, Take) and not op.drop:
        return d if d.shape[op.axis] == 1 else np.take(d, op.index, op.axis)
    if isinstance(op, Reshape):
        return _reshaped(op, d, shape, out)
    if isinstance(op, Contract):
        return _weighted(known, node, name, d, out)
    if isinstance(op, Slicewise) and op.linear and op.keeps and node.inputs[0] == name:
        # f(x + d) = f(x) + f(d), and d is constant along all that is read
        free = dict(op.free)
        if any(n > 1 for axis, n in enumerate(d.shape) if axis not in free):
            return None
        found = np.ones(len(out), dtype=np.int64)
        for i, o in op.free:
            found[o] = d.shape[i]
        order = sorted(range(d.ndim), key=lambda axis: free.get(axis, -1))
        return d.transpose(order).reshape(found)
    return None


def _entrywise(op: Elementwise, node: Node, name: str, d: Array, out: Shape) -> Array | None:
    d = d.reshape((1,) * (len(out) - d.ndim) + d.shape)
    if op.kind in ("identity", "add") or (op.kind == "sub" and node.inputs[0] == name):
        return d
    return -d if op.kind in ("neg", "sub") else None


def _reshaped(op: Reshape, d: Array, shape: Shape, out: Shape) -> Array | None:
    """Axes that stay what they are, and blocks along all of which d is written out."""
    found = [1] * len(out)
    spread = list(d.shape)
    for i, o in op.free:
        found[o] = d.shape[i]
    covered = {i for i, _ in op.free}
    for ins, outs in op.blocks:
        covered.update(ins)
        if all(d.shape[i] == 1 for i in ins):
            continue
        if not all(isinstance(shape[i], int) for i in ins):
            return None
        for i in ins:
            spread[i] = int(shape[i])
        for o in outs:
            found[o] = int(out[o])
    if any(n > 1 for axis, n in enumerate(d.shape) if axis not in covered):
        return None
    # blocks and axes follow each other in one order on both sides
    return np.broadcast_to(d, spread).reshape(found)


def _weighted(known: Known, node: Node, name: str, d: Array, out: Shape) -> Array | None:
    """Values, the same at all positions, under weights whose rows sum to one."""
    if name != node.inputs[1] or d.shape[-2] != 1 or not _sum_to_one(known, node.inputs[0]):
        return None
    return d.reshape((1,) * (len(out) - d.ndim) + d.shape)


def _sum_to_one(known: Known, name: str) -> bool:
    maker = known.graph.softmax_over_last(name)
    if maker is None:
        return False
    # with no positions to look at there is no sum; where as many look there is no output then
    *_, rows, keys = known.shape(maker.output) or (0, 0)
    if keys == 0 or (isinstance(keys, str) and keys != rows):
        return False
    return all(a.dtype.kind in "biu" or are_numbers(a) for a in known.graph.constants.values())
