"""Graphs on which a careless rule would prove what is false, and forged certificates of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from moduli.common.graph import Graph
from moduli.compression.exact.reduce_graph import Found, reduce_graph
from moduli.formats.onnx.graph_files import read_graph
from moduli.kernel.graph.certificate import GraphCertificate


def proto_of(text: str, opset: int = 17, ir: int = 8, **weights: Any) -> Any:
    """An ONNX model from the body of a graph in ONNX's own notation, and its stored tensors."""
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}, "own" : 1]>'
    model = parser.parse_model(f"{head} forged {text}")
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def read(model: Any) -> Graph:
    return read_graph(model.SerializeToString(), None, "forged", _no_chain)


def _no_chain() -> Any:
    raise AssertionError("nobody asks for a chain")


def reduced(graph: Graph, ranges: Mapping[str, Any] | None = None) -> tuple[Graph, Found]:
    """The reduced graph, whose certificate holds."""
    ranges = ranges or {}
    found = reduce_graph(graph.model, ranges=ranges, budget=1000)
    small = graph.source.rewritten(found.graph, found.renamed)
    proof = GraphCertificate(graph.digest, small.digest, tuple(found.rounds), ranges)
    proof.verify(small.model, graph.model)
    return small, found


def assert_same_function(graph: Graph, small: Graph, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(3):
        feeds = {}
        for name in graph.inputs:
            shape = [n if isinstance(n, int) else 3 for n in graph.model.shapes[name] or ()]
            feeds[name] = rng.integers(-8, 9, shape) / 4
        before, after = graph.source.run(feeds), small.source.run(feeds)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


# Facts that would be false ----------------------------------------------------------------------------------

SQUARE = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
# the second operand holds the entries of the first, slice by slice along some axis, at other places
MOVED = {
    "transposed": "(float[2,4,4] x) => (float[2,4,4] y) { t = Transpose<perm=[0,2,1]>(x) "
    "d = Sub(x, t) e = Add(x, d) y = Relu(e) }",
    "reversed": "(float[1,3,2,4] x) => (float[1,3,2,4] y) { i = Constant<value_ints=[2,1,0]>() "
    "t = Gather<axis=1>(x, i) d = Sub(x, t) e = Add(x, d) y = Relu(e) }",
    "halves": "(float[1,4,2,2] x) => (float[1,2,2,2] y) { a, b = Split<axis=1>(x, parts) "
    "d = Sub(a, b) e = Add(a, d) y = Relu(e) }",
    "pairs": "(float[3,4] x) => (float[3,4,4] y) { a = Unsqueeze(x, one) b = Unsqueeze(x, two) "
    "d = Sub(a, b) e = Add(b, d) y = Relu(e) }",
    "flattened": "(float[2,3,2] x) => (float[2,6] y) { t = Transpose<perm=[0,2,1]>(x) "
    "a = Flatten(x) b = Flatten(t) d = Sub(a, b) e = Add(a, d) y = Relu(e) }",
}
STORED = {
    "halves": {"parts": np.array([2, 2])},
    "pairs": {"one": np.array([1]), "two": np.array([2])},
}


@pytest.mark.parametrize("name", MOVED)
def test_slices_whose_entries_moved_are_other_slices(name):
    graph = read(proto_of(MOVED[name], **STORED.get(name, {})))
    small, found = reduced(graph)
    assert not found.rounds
    assert_same_function(graph, small)
