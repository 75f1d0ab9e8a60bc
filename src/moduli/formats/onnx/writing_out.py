"""Nodes of a model written out with others: names that are free, numbers that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .constants import stored_array

Tensor = np.ndarray[Any, np.dtype[Any]]
ACCUMULATED = 2**31  # integers of runtimes' sums are below this


class Draft:
    """A model that is being rewritten, in place.

    Attributes:
        stored: its initialisers by name. fixed: those that cannot be another one at run time.
        nested: whether nodes have graphs of their own.
    """

    def __init__(self, proto: Any, folder: Path | None) -> None:
        self.graph, self.folder = proto.graph, folder
        nodes = self.graph.node
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.taken = {n for node in nodes for n in (*node.input, *node.output)}
        self.taken |= {value.name for value in (*self.graph.input, *self.graph.output)}
        self.taken |= {*self.stored, *(s.values.name for s in self.graph.sparse_initializer)}
        self.fixed = set(self.stored) - {value.name for value in self.graph.input}
        self.nested = any(a.HasField("g") or a.graphs for node in nodes for a in node.attribute)

    def known(self, names: list[str]) -> bool:
        """Whether all are stored, and nothing inside the graph may mean another thing by them."""
        return not self.nested and all(name in self.fixed for name in names)

    def array(self, name: str) -> Tensor:
        """The numbers of an initialiser."""
        array: Tensor = stored_array(self.stored[name], self.folder)
        return array

    def fresh(self, name: str) -> str:
        """A name like that one, which nothing in the graph has."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def store(self, name: str, array: Tensor) -> str:
        """Store numbers under a new name, which comes back."""
        tensor = self.graph.initializer.add()
        tensor.name = self.fresh(name)
        self.put(tensor, array)
        return str(tensor.name)

    def put(self, tensor: Any, array: Tensor) -> None:
        """Let an initialiser hold other numbers."""
        from onnx import helper

        name = tensor.name
        tensor.Clear()
        tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
        self.stored[name] = tensor

    def replace(self, nodes: list[Any]) -> None:
        """Let the graph have these nodes."""
        del self.graph.node[:]
        self.graph.node.extend(nodes)


def new_node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    """A node with one output, whose name is that of the output."""
    from onnx import helper

    return helper.make_node(kind, inputs, [output], output, **attributes)


def integer_of(of: Any, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in of.attribute if a.name == name), default)


def fits(weight: Tensor, zero: Tensor, rows: int, bias: Tensor | None = None) -> bool:
    """Whether sums of products with bytes stay within 32 bits, where else integers wrap around.

    Args:
        weight: integers. zero: theirs, one or one for each row. rows: the axis of what is not added.
    """
    turned = np.moveaxis(weight.astype(np.int64), rows, 0)
    points = zero.astype(np.int64).reshape(-1, *[1] * (turned.ndim - 1))
    sizes = np.abs(turned - points).reshape(len(turned), -1).sum(axis=1) * 255
    further = 0 if bias is None else int(np.abs(bias.astype(np.int64)).max(initial=0))
    return int(sizes.max(initial=0)) + further < ACCUMULATED
