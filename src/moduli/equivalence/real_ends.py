"""Graphs whose inputs or outputs are integers that stand for real numbers, as functions of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.graph import Graph, NotWritable, Source
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.entrywise import PerUnit
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Node, Reshape, Transpose
from moduli.kernel.network import Network

Array = np.ndarray[Any, np.dtype[Any]]
REAL = ", as real numbers"


def with_real_ends(graph: Graph) -> Graph:
    """The graph behind a rounding of its integer inputs, and before the scaling of its integer outputs,
    with the scales that it has for them: what a device does around such a file. The same graph where it
    has none.

    A graph of int8, say: its input is x = scale (q - zero) for integers q, which it reads through one
    scale.
    """
    model = graph.model
    inputs = {name: node for name in model.inputs if (node := _read_by(model, name)) is not None}
    outputs = {name: node for name in model.outputs if (node := _made_by(model, name)) is not None}
    if not inputs and not outputs:
        return graph
    first, last = list[Node](), list[Node]()
    shapes = dict(model.shapes)
    for name, node in inputs.items():
        ends = _ends(model.array(node.inputs[2]) if len(node.inputs) > 2 else None)
        op = PerUnit("quantise", node.op.axis, ends) if isinstance(node.op, PerUnit) else node.op
        first.append(Node(op, (name + REAL, *node.inputs[1:]), (name,), f"{name}, rounded"))
        shapes[name + REAL] = shapes[name]
    for name, node in outputs.items():
        axis = node.op.axis if isinstance(node.op, PerUnit) else 0
        op = PerUnit("dequantise", axis, _numbers(node))
        last.append(Node(op, (name, *node.inputs[1:]), (name + REAL,), f"{name}, scaled"))
        shapes[name + REAL] = shapes[name]
    made = replace(
        model,
        inputs=tuple(name + REAL if name in inputs else name for name in model.inputs),
        outputs=tuple(name + REAL if name in outputs else name for name in model.outputs),
        nodes=(*first, *model.nodes, *last),
        shapes=shapes,
    )
    return Graph(made, RealEnds(graph, made, inputs, outputs))


def _read_by(model: GraphModel, name: str) -> Node | None:
    """The node that scales an integer input back, if all its readers do so alike."""
    readers = _behind_moves(model, name)
    if not readers or not all(_scales(r, "dequantise") for r in readers):
        return None
    first = readers[0]
    if (
        any(np.size(np.asarray(model.array(x))) > 1 for x in first.inputs[1:])
        and readers != model.readers[name]
    ):
        return None  # one scale for each index of an axis that was moved
    alike = all(r.inputs[1:] == first.inputs[1:] and r.op == first.op for r in readers)
    zero = model.array(first.inputs[2]) if len(first.inputs) > 2 else None
    stored = all(model.array(x) is not None for x in first.inputs[1:])
    return first if alike and stored and zero is not None and zero.dtype.kind in "iu" else None


def _behind_moves(model: GraphModel, name: str) -> list[Node]:
    """Who reads a value, or what is only moved of it; nobody where that is an output."""
    found = list[Node]()
    for node in model.readers.get(name, []):
        if isinstance(node.op, (Transpose, Reshape)) and node.inputs[0] == name:
            behind = _behind_moves(model, node.output)
            if not behind:
                return []
            found += behind
        else:
            found.append(node)
    return [] if name in model.outputs else found


def _made_by(model: GraphModel, name: str) -> Node | None:
    """The node that rounds an output to integers."""
    node = model.makers.get(name)
    if node is None or not _scales(node, "quantise") or model.readers.get(name):
        return None
    return node if all(model.array(x) is not None for x in node.inputs[1:]) else None


def _scales(node: Node, kind: str) -> bool:
    return isinstance(node.op, PerUnit) and node.op.kind == kind


def _numbers(node: Node) -> tuple[float, ...]:
    return node.op.numbers if isinstance(node.op, PerUnit) else ()


def _ends(zero: Array | None) -> tuple[float, float]:
    """The least and the largest integer of the type of a zero point."""
    assert zero is not None
    limits = np.iinfo(zero.dtype)
    return float(limits.min), float(limits.max)


class RealEnds(Source):
    """A graph's source behind such a rounding and before such a scaling."""

    def __init__(
        self,
        graph: Graph,
        made: GraphModel,
        inputs: Mapping[str, Node],
        outputs: Mapping[str, Node],
    ) -> None:
        self.own, self.given, self.wanted = graph.source, inputs, outputs
        self.model, self.where = graph.model, graph.source.where
        self.notes = ("integers at its ends stand for real numbers", *graph.source.notes)
        self.integers = graph.source.integers - set(inputs)
        self.formats, self.sums = graph.source.formats, graph.source.sums

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        inside = dict(feeds)
        for name, node in self.given.items():
            x = np.asarray(inside.pop(name + REAL), dtype=np.float64)
            scale, zero, along = self._scale(node, x.ndim)
            low, high = _ends(self.model.array(node.inputs[2]))
            kind = np.asarray(self.model.array(node.inputs[2])).dtype
            steps = np.rint(x / scale.reshape(along)) + zero.reshape(along)
            inside[name] = np.clip(steps, low, high).astype(kind)
        found = self.own.run(inside)
        for name, node in self.wanted.items():
            q = np.asarray(found.pop(name), dtype=np.float64)
            scale, zero, along = self._scale(node, q.ndim)
            found[name + REAL] = (q - zero.reshape(along)) * scale.reshape(along)
        return found

    def _scale(self, node: Node, rank: int) -> tuple[Array, Array, tuple[int, ...]]:
        arrays = [np.asarray(self.model.array(x), dtype=np.float64) for x in node.inputs[1:]]
        scale, zero = arrays[0], arrays[1] if len(arrays) > 1 else np.zeros_like(arrays[0])
        axis = node.op.axis if isinstance(node.op, PerUnit) else 0
        along = tuple(-1 if k == axis else 1 for k in range(rank)) if scale.size > 1 else ()
        return scale, zero, along

    def rewritten(self, wanted: GraphModel, renamed: Mapping[str, str]) -> Graph:
        raise NotWritable(f"{self.where} has integers at its ends", ())

    def chain(self) -> Network:
        raise UnsupportedModel(f"{self.where} has integers at its ends: it is no chain of layers")

    def save(self, path: Path) -> Path:
        raise UnsupportedModel(f"{self.where} has integers at its ends: copy the file")
