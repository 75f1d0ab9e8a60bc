"""Sizes of the parts of a module that no output needs: `forward` computes them all the same, so that
their tensors have to fit when units go elsewhere. What they hold does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Concat, Linear, Node, Place, Reshape, Shape, Ties

Tensor = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class _SameSizes(Ties):
    """Which axes have one size, by what operators tie."""

    def __init__(self, shapes: Mapping[str, Shape | None]) -> None:
        self.shapes = shapes
        self.parent: dict[Place, Place] = {}

    def root(self, a: Place) -> Place:
        while a in self.parent:
            a = self.parent[a]
        return a

    def same(self, a: Place, b: Place) -> None:
        first, second = self.root(a), self.root(b)
        if first != second:
            self.parent[first] = second

    def pick(self, a: Place, b: Place, index: Ints) -> None:
        if len(np.unique(index)) == len(index) == self.size(a):
            self.same(a, b)

    def fix(self, a: Place, why: str, index: Ints | None = None) -> None:
        """What is fixed is not wanted to change; that it does not is checked elsewhere."""

    def labels(self, a: Place) -> Ints | None:
        return None

    def shape(self, name: str) -> Shape | None:
        return self.shapes.get(name)

    def size(self, a: Place) -> int | str:
        return (self.shapes.get(a[0]) or ())[a[1]]


def sizes_with_idle_parts(full: GraphModel, wanted: GraphModel) -> dict[str, Shape]:
    """The shapes of all tensors of a graph once a part of it has the wanted shapes."""
    live = set(wanted.shapes)
    ties = _SameSizes(full.shapes)
    idle = [node for node in full.nodes if node.output not in live]
    for node in idle:
        node.op.couple(node, ties)
        if isinstance(node.op, Linear) and node.op.groups > 1:
            _tie_single_channels(node, node.op, ties)
        if isinstance(node.op, Reshape):
            _tie_long_axes(node, node.op, ties)
    shapes = {name: tuple(shape) for name, shape in full.shapes.items() if shape is not None}
    shapes.update(
        {name: tuple(shape) for name, shape in wanted.shapes.items() if shape is not None}
    )
    for _ in range(len(idle) + 1):
        before = dict(shapes)
        _spread(shapes, full, ties)
        for node in idle:
            _joined(node, shapes, full)
        if shapes == before:
            break
    return shapes


def _tie_single_channels(node: Node, op: Linear, ties: _SameSizes) -> None:
    """Of a convolution with one group for each channel."""
    read, row, written = (
        (node.inputs[0], op.reads), (node.inputs[1], op.rows), (node.output, op.writes),
    )  # fmt: skip
    if ties.size(read) == ties.size(row) == op.groups:
        ties.same(read, row)
        ties.same(row, written)


def _tie_long_axes(node: Node, op: Reshape, ties: _SameSizes) -> None:
    """Of blocks with one axis of more than one entry."""
    for ins, outs in op.blocks:
        first = [(node.inputs[0], a) for a in ins if ties.size((node.inputs[0], a)) != 1]
        second = [(node.output, a) for a in outs if ties.size((node.output, a)) != 1]
        if len(first) == len(second) == 1:
            ties.same(first[0], second[0])


def _spread(shapes: dict[str, Shape], full: GraphModel, ties: _SameSizes) -> None:
    """Let axes that have one size have the new one."""
    new: dict[Place, int] = {}
    for name, shape in shapes.items():
        for axis, (n, old) in enumerate(zip(shape, full.shapes.get(name) or (), strict=True)):
            if isinstance(n, int) and n != old:
                new[ties.root((name, axis))] = n
    for name, shape in shapes.items():
        shapes[name] = tuple(
            new.get(ties.root((name, axis)), n) if isinstance(n, int) else n
            for axis, n in enumerate(shape)
        )


def _joined(node: Node, shapes: dict[str, Shape], full: GraphModel) -> None:
    """Sizes that are sums or products of others."""
    op = node.op
    if isinstance(op, Concat):
        parts = [shapes[name][op.axis] for name in node.inputs]
        numbers = [n for n in parts if isinstance(n, int)]
        if len(numbers) == len(parts):
            _set(shapes, node.output, op.axis, sum(numbers))
    if isinstance(op, Reshape):
        for ins, outs in op.blocks:
            if len(outs) == 1:
                sizes = [shapes[node.inputs[0]][axis] for axis in ins]
                whole = [n for n in sizes if isinstance(n, int)]
                if len(whole) == len(sizes):
                    _set(shapes, node.output, outs[0], int(np.prod(whole, dtype=np.int64)))


def _set(shapes: dict[str, Shape], name: str, axis: int, n: int) -> None:
    shape = list(shapes[name])
    shape[axis] = n
    shapes[name] = tuple(shape)


def cut(array: Tensor, shape: Shape) -> Tensor:
    """The first entries along each axis, as many as a shape says."""
    for axis, n in enumerate(shape):
        if isinstance(n, int) and n < array.shape[axis]:
            array = np.take(array, np.arange(n), axis)
    return array
