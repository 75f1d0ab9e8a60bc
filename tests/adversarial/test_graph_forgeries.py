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


# Models that differ in what they compute differ in their digests ---------------------------------------------

SIZED = "(float[N,M] a, float[M,N] b, float[1,4] x) => (float[K,4] y) {{ s = Shape(a) t = Shape(b) {} }}"
APART = {
    "a slope and a scale": (
        "(float[2,4] x) => (float[2,4] y) { y = Selu<alpha=2.0>(x) }",
        "(float[2,4] x) => (float[2,4] y) { y = Selu<gamma=2.0>(x) }",
    ),
    "the direction of a shift": (
        '(uint8[4] x, uint8[4] z) => (uint8[4] y) { y = BitShift<direction="LEFT">(x, z) }',
        '(uint8[4] x, uint8[4] z) => (uint8[4] y) { y = BitShift<direction="RIGHT">(x, z) }',
    ),
    "a number that a size is multiplied by": (
        SIZED.format("k = Mul(s, two) f = Cast<to=1>(k) y = Mul(f, x)"),
        SIZED.format("k = Mul(s, three) f = Cast<to=1>(k) y = Mul(f, x)"),
    ),
    "which size is taken from which": (
        SIZED.format("k = Sub(s, t) f = Cast<to=1>(k) y = Mul(f, x)"),
        SIZED.format("k = Sub(t, s) f = Cast<to=1>(k) y = Mul(f, x)"),
    ),
    "the tensor whose size a tensor is expanded to": (
        SIZED.format("i = Gather(s, zero) j = Concat<axis=0>(i, four) y = Expand(x, j)"),
        SIZED.format("i = Gather(t, zero) j = Concat<axis=0>(i, four) y = Expand(x, j)"),
    ),
    "the tensor whose size ends a slice": (
        "(float[N,2] a, float[M,2] b, float[9] x) => (float[K] y) "
        "{ s = Shape<end=1>(a) y = Slice(x, zero, s) }",
        "(float[M,2] a, float[N,2] b, float[9] x) => (float[K] y) "
        "{ s = Shape<end=1>(b) y = Slice(x, zero, s) }",
    ),
    "the tensor whose size another is resized to": (
        "(float[N,M] a, float[M,N] b, float[1,1,2,2] x) => (float[1,1,P,Q] y) "
        "{ s = Shape(a) i = Concat<axis=0>(ones, s) y = Resize(x, , , i) }",
        "(float[N,M] a, float[M,N] b, float[1,1,2,2] x) => (float[1,1,P,Q] y) "
        "{ s = Shape(b) i = Concat<axis=0>(ones, s) y = Resize(x, , , i) }",
    ),
    "how a cast saturates": (
        "(float[4] x) => (float8e4m3fn[4] y) { y = Cast<to=17, saturate=1>(x) }",
        "(float[4] x) => (float8e4m3fn[4] y) { y = Cast<to=17, saturate=0>(x) }",
    ),
}  # fmt: skip
NUMBERS = {
    "zero": np.array([0]),
    "two": np.array([2]),
    "three": np.array([3]),
    "four": np.array([4]),
    "ones": np.array([1, 1]),
}


@pytest.mark.parametrize("name", APART)
def test_models_that_compute_something_else_have_other_digests(name):
    one, other = (read(proto_of(text, opset=19, **NUMBERS)) for text in APART[name])
    assert one.digest != other.digest


def test_versions_of_operators_are_told_apart():
    resize = '(float[1,1,4,4] x) => (float[1,1,2,2] y) { y = Resize<mode="linear">(x, %s) }'
    scales = {"k": np.array([1, 1, 0.5, 0.5], dtype=np.float32)}
    old, new = (
        read(proto_of(resize % names, opset=opset, **scales))
        for opset, names in ((10, "k"), (13, ", k"))
    )
    assert old.digest != new.digest
    unknown = "(float[4] x) => (float[4] y) { y = Trilu(x) }"
    opaque = [read(proto_of(unknown, opset=opset)) for opset in (14, 17)]
    assert opaque[0].digest != opaque[1].digest


def test_the_body_of_a_function_of_the_file_counts():
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[4] x) => (float[4] y) {{ y = own.f(x) }}
    <opset_import: ["" : 17], domain: "own"> f (a) => (b) {{ b = {}(a) }}"""
    one, other = (read(parser.parse_model(text.format(kind))) for kind in ("Relu", "Neg"))
    assert one.digest != other.digest


def test_a_function_of_the_file_may_be_called_as_an_operator_is():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y) { y = Relu(x) }
    <opset_import: ["" : 17], domain: ""> Relu (a) => (b) { b = Neg(a) }"""
    graph = read(parser.parse_model(text))
    assert "Relu" in graph.source.notes[0]


# What is read as ONNX has it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    # slopes of early versions belong to channels, wherever these are
    "(float[1,2,2,2] x) => (float[1,2,2,2] y) { y = PRelu(x, slope) }",
    # a mask at random, where it is not said that nothing is trained
    "(float[1,2] x) => (float[1,2] y) { y = Dropout(x) }",
])  # fmt: skip
def test_what_early_versions_mean_is_not_guessed(text):
    slope = np.array([1, 2], dtype=np.float32)
    graph = read(proto_of(text, opset=6, slope=slope))
    assert any("opaque" in note for note in graph.source.notes)


def test_names_that_the_file_has_are_not_taken_for_parts_of_a_node():
    text = """(float[2,4] x) => (float[2,2] z) {
      y = Slice(x, from, to) w = Identity(y) "y:0" = Relu(x) v = Slice("y:0", from, to)
      z = Add(v, w) }""".replace('"y:0"', "y_0")
    model = proto_of(text, **{"from": np.array([0, 1]), "to": np.array([2, 3])})
    for node in model.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = name.replace("y_0", "y:0")
    graph = read(model)
    assert not graph.source.reading.opaque
    assert_same_function(graph, reduced(graph)[0])


def test_sizes_are_followed_as_they_are_meant():
    # steps are given and axes are not; a product of sizes of two axes is none of the first
    text = """(float[2,3,4] x) => (float[P,Q,R] y) {
      s = Shape(x) r = Slice(s, last, first, , back) y = Reshape(x, r) }"""
    stored = {"last": np.array([2]), "first": np.array([-9]), "back": np.array([-1])}
    graph = read(proto_of(text, **stored))
    assert graph.model.shapes["y"] == (4, 3, 2)


def test_sizes_take_no_memory_before_they_are_limited():
    text = "(float[2] x) => (float[A,B,C,D,E,F] y) { s = Shape(x) t = Expand(s, big) y = Cast<to=1>(t) }"
    graph = read(proto_of(text, big=np.array([64, 64, 64, 64, 64, 2])))
    assert "y" in graph.outputs
