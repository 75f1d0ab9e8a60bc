"""Models that are quantised while they run, written out: what rounds, then a product over the reals.

    q, s, z = DynamicQuantizeLinear(x);  Mul(Cast(MatMulInteger(q, W, z, w)), Mul(s, t))

is MatMul(s (q - z), t (W - w)) over the reals, since the integers are exact where sums fit in 32 bits;
likewise with ConvInteger.
The first factor is x rounded by a step that depends on all of x; it is written as an Identity, and said
to round. Such a model is read, and not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .constants import stored_array
from .nodes import kind_of
from .writing_out import fits

FLOAT, DOUBLE = 1, 11  # element types
PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


class WrittenOut(NamedTuple):
    """A model with such products over the reals, and the values that are rounded where an Identity
    stands.
    """

    proto: Any
    rounded: frozenset[str]


def written_out(
    proto: Any, folder: Path | None, arrays: Mapping[str, Any] | None = None
) -> WrittenOut | None:
    """None where a model has no such product that is understood.

    Args:
        folder: where its external data lies. arrays: stored tensors that the model has no numbers of.
    """
    found = _Finder(proto.graph, folder, arrays or {})
    nodes = found.nodes()
    if not found.products:
        return None
    made = type(proto)()
    made.CopyFrom(proto)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return WrittenOut(made, frozenset(found.rounded))


class _Finder:
    def __init__(self, graph: Any, folder: Path | None, arrays: Mapping[str, Any]) -> None:
        self.graph, self.folder, self.arrays = graph, folder, arrays
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.products: dict[str, list[Any]] = {}  # nodes in the place of the last one of a product
        self.gone: set[int] = set()
        self.rounded: set[str] = set()
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)}
        inner = any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)
        for node in () if inner else graph.node:  # what parts of their own read is not followed
            if kind_of(node) in PRODUCTS:
                self._product(node)

    def nodes(self) -> list[Any]:
        """All nodes, those of products replaced, and what nobody reads any more left out."""
        made = []
        for node in self.graph.node:
            if node.output and node.output[0] in self.products:
                made += self.products[node.output[0]]
            elif id(node) not in self.gone:
                made.append(node)
        needed = {name for node in made for name in node.input} | self.outputs
        return [
            node
            for node in made
            if kind_of(node) != "DynamicQuantizeLinear" or needed & set(node.output)
        ]

    def _only_reader(self, name: str, kind: str) -> Any | None:
        found = self.readers.get(name, [])
        alone = len(found) == 1 and kind_of(found[0]) == kind and name not in self.outputs
        return found[0] if alone else None

    def _product(self, node: Any) -> None:
        from onnx import helper

        given = [*node.input, "", ""][:4]
        q, weight, zero, zero_of_weight = given
        source = self.makers.get(q)
        if source is None or kind_of(source) != "DynamicQuantizeLinear":
            return
        if [q, zero] != [source.output[0], source.output[2]] or weight not in self.stored:
            return
        cast = self._only_reader(node.output[0], "Cast")
        last = None if cast is None else self._only_reader(cast.output[0], "Mul")
        if cast is None or last is None:
            return
        scales = [name for name in last.input if name != cast.output[0]]
        both = self.makers.get(scales[0]) if len(scales) == 1 else None
        if both is None or kind_of(both) != "Mul" or source.output[1] not in both.input:
            return
        if [a.i for a in cast.attribute if a.name == "to"] not in ([FLOAT], [DOUBLE]):
            return
        own = [name for name in both.input if name != source.output[1]]
        if len(own) != 1 or own[0] not in self.stored:
            return
        shape, scale = self.stored[weight].dims, list(self.stored[own[0]].dims)
        dense = node.op_type == "MatMulInteger"
        axis = len(shape) - 1 if dense else 0
        # one scale, or one for each column of a matrix
        columns = dense and len(shape) == 2 and scale == [shape[axis]]
        if not (scale in ([], [1]) or columns) or not self._alike(zero_of_weight, scale):
            return
        zeros = self._array(zero_of_weight) if zero_of_weight else np.zeros(1, dtype=np.int8)
        if not fits(self._array(weight), zeros, axis):
            return
        x, y = f"{q}:rounded", last.output[0]
        wide = f"{weight}:{y}"
        if {x, wide} & self.taken:
            return
        made = []
        if x not in self.rounded:
            self.rounded.add(x)
            made.append(helper.make_node("Identity", [source.input[0]], [x], x))
        factors = [weight, own[0], *([zero_of_weight] if zero_of_weight else [])]
        made.append(helper.make_node("DequantizeLinear", factors, [wide], wide, axis=axis))
        product = helper.make_node(PRODUCTS[node.op_type], [x, wide], [y], node.name or y)
        product.attribute.extend(node.attribute)
        made.append(product)
        self.products[y] = made
        self.gone |= {id(node), id(cast), id(last)}
        unread = all(id(reader) in self.gone for reader in self.readers.get(both.output[0], []))
        if unread and both.output[0] not in self.outputs:
            self.gone.add(id(both))

    def _array(self, name: str) -> Any:
        held = self.arrays.get(name)
        return stored_array(self.stored[name], self.folder) if held is None else held

    def _alike(self, zero: str, scale: list[int]) -> bool:
        """A zero point for each scale, or none."""
        return not zero or (zero in self.stored and list(self.stored[zero].dims) == scale)
