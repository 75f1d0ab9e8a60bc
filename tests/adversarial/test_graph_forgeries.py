"""Graphs on which a careless rule would prove what is false, and forged certificates of graphs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from moduli.common.graph import Graph
from moduli.compression.exact.reduce_graph import Found, reduce_graph
from moduli.formats.onnx.graph_files import read_graph
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import GraphModel, rebuilt
from moduli.kernel.graph.operators import (
    Concat,
    Contract,
    Elementwise,
    Linear,
    Node,
    Opaque,
    PerUnit,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.shapes import require_shapes
from moduli.kernel.slack import NO_SLACK, Slack

from ..support.graphs import Builder, run


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


def reduced(
    graph: Graph, ranges: Mapping[str, Any] | None = None, *, rounding: bool = True
) -> tuple[Graph, Found]:
    """The reduced graph, whose certificate holds."""
    ranges = ranges or {}
    found = reduce_graph(graph.model, ranges=ranges, budget=1000, rounding=rounding)
    small = graph.source.rewritten(found.graph, found.renamed)
    proof = GraphCertificate(graph.digest, small.digest, tuple(found.rounds), ranges, found.slack)
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


CAST = (
    "(float16[N,1,4,4] x, float16 t) => (float16[N,1,4,4] y) "
    "{{ s = {} r = Relu(h) y = Conv(r, v) }}"
)


@pytest.mark.parametrize(("unit", "rounds"), [(0.5, 1), (1 + 5 * 2.0**-13, 0)])
@pytest.mark.parametrize(
    "text",
    [
        "Cast<to=10>(w) h = Conv(x, s)",
        "CastLike(w, t) h = Conv(x, s)",
        "Cast<to=10>(w) u = Identity(s) h = Conv(x, u)",
        "Transpose<perm=[0,1,3,2]>(w) u = CastLike(s, t) h = Conv(x, u)",
        "Transpose<perm=[0,1,3,2]>(w) u = Cast<to=10>(s) h = Conv(x, u)",
    ],
)
def test_weights_that_a_cast_rounds_are_others(text, unit, rounds):
    """Of two rows, one is three times the other before the cast, and after it only if unit is 0.5."""
    w = np.array([unit, 3 * unit], dtype=np.float32).reshape(2, 1, 1, 1)
    graph = read(proto_of(CAST.format(text), 19, 9, w=w, v=np.ones((1, 2, 1, 1), dtype=np.float16)))
    small, found = reduced(graph, rounding=False)
    turned = "Transpose" in text  # what is rearranged first is not looked at number by number
    assert len(found.rounds) == (0 if turned else rounds)
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


def test_a_function_of_the_file_that_is_called_as_an_operator_is_opaque():
    """Runtimes have an operator of this name, and which one they call is open; its body counts."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y) {{ y = Relu(x) }}
    <opset_import: ["" : 17], domain: ""> Relu (a) => (b) {{ b = {}(a) }}"""
    one, other = (read(parser.parse_model(text.format(kind))).model for kind in ("Neg", "Abs"))
    assert [type(node.op).__name__ for node in one.nodes] == ["Opaque"]
    assert one.digest != other.digest


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


@pytest.mark.parametrize("op", ["MatMul(x, w)", "Gemm(x, w)", 'Einsum<equation="bi,io->bo">(x, w)'])
def test_products_of_integers_wrap(op):
    w = np.array([[1, 2], [3, 4]], dtype=np.int32)
    graph = read(proto_of(f"(int32[1,2] x) => (int32[1,2] y) {{ y = {op} }}", w=w))
    assert graph.source.reading.opaque
    graph = read(proto_of(f"(float[1,2] x) => (float[1,2] y) {{ y = {op} }}", w=w.astype("f4")))
    assert not graph.source.reading.opaque


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


LYING = """(float[1,4] x, bool c) => (float[1,1] b, float[1,2] y) {
    b = If (c) <then_branch = one () => (float[1,1] p) { p = Expand(x, t) },
                else_branch = two () => (float[1,1] q) { q = Neg(x) }>
    z = Mul(b, same) y = MatMul(z, w) }"""


def test_shapes_that_a_file_states_of_what_it_computes_are_not_believed():
    # b is said to have one entry, and has four: then all entries of z would be multiples of it
    same = np.ones((1, 4), dtype=np.float32)
    w = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = proto_of(LYING, same=same, w=w, t=np.array([1, 4]))
    model.graph.value_info.append(helper.make_tensor_value_info("z", 1, [1, 4]))
    graph = read(model)
    assert graph.model.shapes["b"] != (1, 1)
    small, found = reduced(graph)
    assert not found.rounds
    feeds = {"x": np.array([[1.0, 2, 3, 4]]), "c": np.array(True)}
    for name, value in graph.source.run(feeds).items():
        np.testing.assert_array_equal(value, small.source.run(feeds)[name])
    foreign = proto_of("(float[1,4] x) => (float[1,4] y) { z = own.f(x) y = Mul(z, x) }")
    foreign.graph.value_info.append(helper.make_tensor_value_info("z", 1, [1, 1]))
    assert read(foreign).model.shapes["z"] is None


def test_windows_that_are_counted_in_two_ways_are_not_believed_behind_what_is_opaque():
    # ONNX infers three windows, runtimes take two: the last would begin behind the input
    text = """(float[2,1,4] x, bool c) => (float[2,1,K] y) {
      p = MaxPool<kernel_shape=[1], strides=[2], ceil_mode=1>(x)
      y = If (c) <then_branch = one () => (float[2,1,K] a) { a = Neg(p) },
                  else_branch = two () => (float[2,1,K] b) { b = Relu(p) }> }"""
    graph = read(proto_of(text))
    made = graph.source.run({"x": np.ones((2, 1, 4)), "c": np.array(True)})["y"]
    assert made.shape == (2, 1, 2)
    assert [n for n in graph.model.shapes["y"] or () if isinstance(n, int)] == [2, 1]


def test_what_is_computed_from_constants_has_a_type():
    # stored tensors that are declared as inputs, too, as early versions have it
    text = (
        "(float[2,3] x, float[3] c, float[1] d) => (float[2,3] y) { s = Mul(c, d) y = Add(x, s) }"
    )
    model = proto_of(text, opset=8, ir=3, c=np.ones(3, "f4"), d=np.full(1, 0.5, "f4"))
    (node,) = read(model).model.nodes
    assert node.op == Elementwise("add")


def test_a_norm_whose_scale_differs_along_other_axes_is_not_the_same_for_all():
    # rows 0 and 1 of x are equal on the way, and scaled apart
    text = """(float[1,2] x) => (float[1,2] y) { a = MatMul(x, v) b = Reshape(a, s)
      n = LayerNormalization<axis=-1>(b, scale) m = Transpose<perm=[0,2,1]>(n)
      h = MatMul(m, w) y = ReduceSum(h, two) }"""
    v = np.array([[1, 2, 1, 2], [3, 1, 3, 1]], dtype=np.float32)
    scale = np.array([[1, 1], [3, 2]], dtype=np.float32)
    w = np.array([[1], [2]], dtype=np.float32)
    graph = read(proto_of(text, v=v, s=np.array([1, 2, 2]), scale=scale, w=w, two=np.array([2])))
    assert_same_function(graph, reduced(graph)[0])
    known = Known(graph.model, {})
    facts = known.of(("n", 1))
    assert facts.classes[0] != facts.classes[1]


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


# Moves that a careless rule would take ------------------------------------------------------------------------

ROWS = np.array(
    [[1, 2], [-1, 3], [2, 0.5], [4, 1]], dtype=np.float32
)  # of four units over two inputs
OUT = np.array([[1, 2, -1, 3], [2, 1, 4, -2]], dtype=np.float32)


def with_twin(ratio: float, bias: bool = False) -> Any:
    """A dense layer of four units over x, where unit 1 is a multiple of unit 0."""
    rows = ROWS.copy()
    rows[1] = ratio * rows[0]
    b = Builder("N", 2)
    h = b.dense("x", "w", rows, [1, ratio, 0.5, -1] if bias else None)
    return b, h


def refused(model: GraphModel, *moves: GraphMove, ranges: Any = None, because: Any = None) -> None:
    with pytest.raises(CertificateRejected, match=because):
        played(model.live(), moves, ranges or {})


def bounded(model: GraphModel, *moves: GraphMove) -> Slack:
    """What moves lose that are not exact: as much as is said, and never less than what is seen."""
    accepted(model, *moves)
    small, slack = played(model.live(), moves, {})
    assert slack != NO_SLACK
    assert slack.finite
    exact = GraphCertificate(model.digest, small.digest, (moves,), {})
    with pytest.raises(CertificateRejected, match="what was rounded accounts for"):
        exact.verify(small, model)
    replace(exact, slack=slack).verify(small, model)
    return slack


def accepted(model: GraphModel, *moves: GraphMove, ranges: Any = None) -> GraphModel:
    """The graph after moves, which computes the same."""
    require_shapes(model)
    small, slack = played(model.live(), moves, ranges or {})
    require_shapes(small)
    rng = np.random.default_rng(0)
    for _ in range(3):
        feeds = {}
        for name in model.inputs:
            shape = [n if isinstance(n, int) else 3 for n in model.shapes[name] or ()]
            feeds[name] = rng.integers(-16, 17, shape) / 8
            if ranges:
                feeds[name] = np.clip(feeds[name], *ranges[name])
        for before, after in zip(run(model, feeds), run(small, feeds), strict=True):
            np.testing.assert_allclose(before, after, rtol=1e-12, atol=1e-12 + slack.within(2.0))
    return small


def merge(tensor: str, unit: int, into: int, axis: int = 0) -> GraphMove:
    return GraphMove("remove", tensor, axis, (unit,), (into,))


def drop(tensor: str, *units: int, axis: int = 0) -> GraphMove:
    return GraphMove("remove", tensor, axis, units, (-1,) * len(units))


RATIO = {
    "identity": (2, -1), "neg": (2, -1), "relu": (2, 0.5), "abs": (2, -1, -2), "tanh": (-1,), "erf": (-1,),
    "sin": (-1,), "cos": (-1,), "round": (-1,), "sign": (-1,), "leaky_relu": (2,),
}  # fmt: skip
FALSE = {
    "relu": (-1, -2), "leaky_relu": (-1,), "tanh": (2, 0.5), "sigmoid": (2, -1), "clip": (2, -1), "cos": (2,),
    "sin": (2,), "round": (2,), "exp": (2, -1), "softplus": (2, -1), "silu": (2, -1), "gelu": (2, -1),
    "hardsigmoid": (2, -1), "hardswish": (2, -1), "elu": (2,), "floor": (-1, 2), "nobody knows it": (2, -1),
}  # fmt: skip
OF_KIND = {"leaky_relu": (0.5,), "clip": (-1.0, 6.0), "hardsigmoid": (0.5, 0.25), "elu": (1.0,)}


def of_each(kind: str, ratio: float) -> GraphModel:
    b, h = with_twin(ratio)
    z = b.each(kind, h, numbers=OF_KIND.get(kind, ()))
    return b.model(b.dense(z, "out", OUT))


@pytest.mark.parametrize(("kind", "ratio"), [(k, r) for k, listed in RATIO.items() for r in listed])
def test_multiples_merge_behind_functions_that_keep_them(kind, ratio):
    accepted(of_each(kind, ratio), merge("w.w", 1, 0))


@pytest.mark.parametrize(("kind", "ratio"), [(k, r) for k, listed in FALSE.items() for r in listed])
def test_multiples_do_not_merge_behind_other_functions(kind, ratio):
    refused(of_each(kind, ratio), merge("w.w", 1, 0), because="no multiple")
    equal = of_each(kind, 1)
    played(equal, [merge("w.w", 1, 0)], {})


def test_units_that_share_no_row_do_not_merge():
    for unit, into in ((2, 0), (0, 2), (3, 1)):
        refused(of_each("relu", 2), merge("w.w", unit, into), because="no multiple")


def test_a_bias_is_a_part_of_a_row():
    b, h = with_twin(2, bias=True)
    b.constants["w.b"][1] = 1  # and not 2
    refused(b.model(b.dense(b.each("relu", h), "out", OUT)), merge("w.w", 1, 0))
    b, h = with_twin(2, bias=True)
    accepted(b.model(b.dense(b.each("relu", h), "out", OUT)), merge("w.w", 1, 0))


def test_a_shift_apart_from_the_layer_counts_too():
    b, h = with_twin(2)
    z = b.each("relu", b.each("add", h, b.constant("shift", [1, 1, 0, 0])))
    refused(b.model(b.dense(z, "out", OUT)), merge("w.w", 1, 0))


@pytest.mark.parametrize("which", range(4))
def test_a_batch_norm_has_to_agree(which):
    numbers = np.array([[2, 2, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 2, 2]], dtype=np.float32)

    def model(table: Any) -> GraphModel:
        b, h = with_twin(1)
        names = [b.constant(f"n{k}", row) for k, row in enumerate(table)]
        z = b.add(PerUnit("batchnorm", 1, (0.25,)), [h, *names], ("N", 4))
        return b.model(b.dense(z, "out", OUT))

    accepted(model(numbers), merge("w.w", 1, 0))
    numbers[which, 1] += 1
    refused(model(numbers), merge("w.w", 1, 0))


def test_a_ratio_through_a_batch_norm_is_no_ratio():
    b, h = with_twin(2)
    names = [b.constant(f"n{k}", row) for k, row in enumerate(np.ones((4, 4)))]
    z = b.add(PerUnit("batchnorm", 1, (0.25,)), [h, *names], ("N", 4))
    refused(b.model(b.dense(z, "out", OUT)), merge("w.w", 1, 0))


def conv_graph(ratio: float, op: Slicewise, *, padded: bool = False) -> GraphModel:
    """Channels of single taps, something over their positions, and a reader of single taps."""
    b = Builder(1, 2, 3)
    rows = ROWS.copy()
    rows[1] = ratio * rows[0]
    w, out = (b.constant(n, a[:, :, None]) for n, a in (("w", rows), ("out", OUT)))
    h = b.add(Linear(1, 1, 1, 0, free=((0, 0),), detail=("conv",)), ["x", w], (1, 4, 3))
    z = b.add(op, [h], (1, 4, 1))
    y = Linear(1, 1, 1, 0, padded=padded, free=((0, 0),), detail=("conv",))
    return b.model(b.add(y, [z, out], (1, 2, 1)))


POOLS = {"max": {"homogeneous": True}, "mean": {"linear": True}, "var": {}}


@pytest.mark.parametrize(("kind", "ratio", "fine"), [
    ("max", 2, True), ("max", -1, False), ("mean", -1, True), ("mean", 3, True), ("var", 2, False),
])  # fmt: skip
def test_ratios_through_pools(kind, ratio, fine):
    model = conv_graph(ratio, Slicewise(kind, ((0, 0), (1, 1)), **POOLS[kind]))
    if fine:
        small, _ = played(model, [merge("w", 1, 0)], {})
        assert small.shapes["t0"] == (1, 3, 3)
    else:
        refused(model, merge("w", 1, 0))
        played(conv_graph(1, Slicewise(kind, ((0, 0), (1, 1)))), [merge("w", 1, 0)], {})


def test_an_instance_norm_keeps_no_ratio_and_its_numbers_count():
    def model(ratio: float, scale: Any) -> GraphModel:
        b = Builder(1, 2, 3)
        rows = ROWS.copy()
        rows[1] = ratio * rows[0]
        w, out = (b.constant(n, a[:, :, None]) for n, a in (("w", rows), ("out", OUT)))
        h = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), ["x", w], (1, 4, 3))
        names = [h, b.constant("g", scale), b.constant("s", [1, 1, 0, 0])]
        norm = Slicewise("instance norm", ((0, 0), (1, 1)), carried=(1, 1))
        z = b.add(norm, names, (1, 4, 3))
        return b.model(b.add(Linear(1, 1, 1, 0, free=((0, 0),)), [z, out], (1, 2, 3)))

    played(model(1, [2, 2, 1, 1]), [merge("w", 1, 0)], {})
    refused(model(2, [2, 2, 1, 1]), merge("w", 1, 0))
    refused(model(1, [2, 3, 1, 1]), merge("w", 1, 0))


# Constants ------------------------------------------------------------------------------------------------------


def with_constant(value: float, reader: Linear, *, bias: bool = True, op: Any = None) -> GraphModel:
    """Channel 0 is a constant, read by a convolution of two taps."""
    b = Builder(1, 2, 3)
    rows = ROWS[:3, :, None].copy()
    rows[0] = 0
    names = ["x", b.constant("w", rows), b.constant("b", [value, 0.5, 1])]
    h = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), names, (1, 3, 3))
    z = h if op is None else b.add(op, [h], (1, 3, 3))
    taps = np.stack([OUT[:, :3], OUT[:, 1:]], axis=2)
    inputs = [z, b.constant("out", taps)] + ([b.constant("c", [0, 0])] if bias else [])
    return b.model(b.add(reader, inputs, (1, 2, 3)))


def taken_for(model: GraphModel, value: float) -> GraphMove:
    """Its reader takes channel 0 for a number."""
    return replace(drop("w", 0), values=((model.outputs[0], 0, value),))


PLAIN = Linear(1, 1, 1, 0, free=((0, 0),), detail=("conv",))


def test_a_constant_goes_into_a_bias_where_nothing_is_padded():
    small, _ = played(with_constant(2, PLAIN), [drop("w", 0)], {})
    # sums of the two taps of the constant channel, times 2
    assert small.constants["c"].tolist() == [2 * (1 + 2), 2 * (2 + 1)]
    for reader in (replace(PLAIN, padded=True), replace(PLAIN, uniform=False)):
        model = with_constant(2, reader)
        refused(model, drop("w", 0), because="not constant there")
        refused(model, taken_for(model, 2.0), because="may not take")
        # as if it were zero: sums of the sizes of its taps, times 2
        assert bounded(model, taken_for(model, 0.0)).constant == pytest.approx(2 * 3)
        played(with_constant(0, reader), [drop("w", 0)], {})
    refused(with_constant(2, PLAIN, bias=False), drop("w", 0), because="no bias")


def test_a_pool_that_counts_its_border_keeps_zero_alone():
    border = Slicewise(
        "average pool", ((0, 0), (1, 1)), linear=True, zero=True, hull=True, padded=True
    )
    model = with_constant(2, PLAIN, op=border)
    refused(model, drop("w", 0), because="not constant there")
    # between 0 and 2: as if it were 1, or -1, or far away
    for value, width in ((1.0, 1), (-1.0, 3), (100.0, 100)):
        _, slack = played(model, [taken_for(model, value)], {})
        assert slack.constant == pytest.approx(3 * width)
    played(with_constant(0, PLAIN, op=border), [drop("w", 0)], {})
    pad = Slicewise("pad", ((0, 0), (1, 1)), ("1",))
    refused(with_constant(0, PLAIN, op=pad), drop("w", 0))


def test_a_bound_that_counts_no_border_would_be_false():
    # on x in [1, 2] a channel is at least 1, and with a border that counts at least 0
    b = Builder(1, 1, 3)
    border = Slicewise(
        "average pool", ((0, 0), (1, 1)), linear=True, zero=True, hull=True, padded=True
    )
    z = b.add(border, ["x"], (1, 1, 3))
    model = b.model(z)
    known = Known(model, {"x": (np.array(1.0), np.array(2.0))})
    assert known.of((z, 1)).low.tolist() == [0.0]


# Several readers, writers, uses -------------------------------------------------------------------------------


def test_each_reader_has_to_agree():
    b, h = with_twin(2)
    y, z = b.dense(b.each("relu", h), "out", OUT), b.dense(b.each("tanh", h), "further", OUT)
    refused(b.model(y, z), merge("w.w", 1, 0))
    b, h = with_twin(2)
    y, z = b.dense(b.each("relu", h), "out", OUT), b.dense(b.each("abs", h), "further", OUT)
    accepted(b.model(y, z), merge("w.w", 1, 0))


def test_a_unit_that_one_reader_needs_stays():
    b = Builder("N", 2)
    h = b.dense("x", "w", ROWS)
    columns = OUT.copy()
    columns[:, 2] = 0
    y, z = b.dense(h, "out", columns), b.dense(h, "further", OUT)
    refused(b.model(y, z), drop("w.w", 2))
    refused(b.model(y, h), drop("w.w", 2))
    accepted(b.model(y), drop("w.w", 2))


def test_each_writer_of_a_sum_has_to_agree():
    b, h = with_twin(2)
    other = ROWS[::-1].copy()
    z = b.each("add", h, b.dense("x", "v", other))
    refused(b.model(b.dense(z, "out", OUT)), merge("w.w", 1, 0))
    b, h = with_twin(2)
    other[1] = 2 * other[0]
    z = b.each("add", h, b.dense("x", "v", other))
    accepted(b.model(b.dense(z, "out", OUT)), merge("w.w", 1, 0))
    # of one row the ratio is another
    other[1] = 4 * other[0]
    b.constants["v.w"] = other
    refused(b.model("t3"), merge("w.w", 1, 0))


def test_a_weight_that_two_layers_read_changes_for_both():
    def model(kind: str) -> GraphModel:
        b, h = with_twin(2)
        y = b.dense(b.each("relu", h), "out", OUT)
        first = b.dense(
            "x", "v", ROWS if kind == "other" else np.stack([ROWS[0], ROWS[0] * 2, *ROWS[2:]])
        )
        op = b.nodes[-2].op
        z = b.add(op, [b.each("relu", first), "out.w"], ("N", 2))
        return b.model(y, z)

    accepted(model("alike"), merge("w.w", 1, 0))
    refused(model("other"), merge("w.w", 1, 0))


def test_a_weight_that_is_an_output_or_read_otherwise_stays():
    b, h = with_twin(2)
    y = b.dense(b.each("relu", h), "out", OUT)
    refused(b.model(y, "out.w"), merge("w.w", 1, 0))
    refused(b.model(y, "w.w"), merge("w.w", 1, 0))
    b, h = with_twin(2)
    y = b.dense(b.each("relu", h), "out", OUT)
    z = b.add(Opaque("Det"), ["out.w"], ())
    refused(b.model(y, z), merge("w.w", 1, 0))


def test_a_bias_that_two_layers_share_takes_one_constant_alone():
    def model(second: float) -> GraphModel:
        b = Builder("N", 2)
        h = b.each("relu", b.dense("x", "w", [[0, 0], [1, 2]], [1, 0]))
        k = b.each("relu", b.dense("x", "v", [[0, 0], [2, 1]], [second, 0]))
        y = b.dense(h, "out", OUT[:, :2], [0, 0])
        op = b.nodes[-1].op
        z = b.add(op, [k, b.constant("out2", OUT[:, :2]), "out.b"], ("N", 2))
        return b.model(y, z)

    # the two move apart, and each alone would change the other
    refused(model(1), drop("w.w", 0), because="several nodes")
    refused(model(2), drop("w.w", 0), because="several nodes")


def test_one_channel_added_to_all_is_no_copy_of_any():
    b, h = with_twin(2)
    one = b.add(Take(1, (0,)), [h], ("N", 1))
    z = b.each("add", h, one)
    # (r x + x) is no multiple of (x + x)
    refused(b.model(b.dense(b.each("relu", z), "out", OUT)), merge("w.w", 1, 0))
    # nor may the one that is added go
    refused(b.model(b.dense(b.each("relu", z), "out", OUT)), drop("w.w", 0))


def test_who_reads_a_size_or_is_not_known_needs_all():
    for op in (Size(((0, 1),)), Opaque("Any"), Slicewise("softmax", ((0, 0),))):
        b = Builder("N", 2)
        h = b.dense("x", "w", ROWS)
        columns = OUT.copy()
        columns[:, 2] = 0
        y = b.dense(h, "out", columns)
        shape = (1,) if isinstance(op, Size) else ("N", 4)
        z = b.add(op, [h], shape)
        refused(b.model(y, z), drop("w.w", 2), because="of 0")


# Indices --------------------------------------------------------------------------------------------------------


def grouped(w: Any, v: Any, *, groups: int = 2) -> GraphModel:
    """Four channels in groups, then a grouped reader of them."""
    b = Builder(1, 4, 1)
    op = Linear(1, 1, 1, 0, groups, free=((0, 0),))
    h = b.add(op, ["x", b.constant("w", np.asarray(w)[:, :, None])], (1, 4, 1))
    names = [h, b.constant("v", np.asarray(v)[:, :, None])]
    return b.model(b.add(op, names, (1, 2, 1)))


def test_groups_stay_equal():
    w = [[1, 2], [0, 0], [3, 1], [2, 2]]
    # a row that is nothing in one group alone
    refused(grouped(w, [[1, 2], [3, 4]]), drop("w", 1))
    # the same row of each group, read by nobody in one
    refused(grouped(w, [[1, 0], [3, 4]]), drop("w", 1))
    refused(grouped(w, [[1, 0], [3, 4]]), drop("v", 1, axis=1))
    small, _ = played(grouped(w, [[1, 0], [3, 0]]), [drop("v", 1, axis=1)], {})
    assert small.constants["w"].shape == (2, 2, 1)
    assert small.constants["v"].shape == (2, 1, 1)


def test_a_merge_within_groups_has_one_ratio():
    w = [[1, 2], [2, 4], [3, 1], [6, 2]]
    played(grouped(w, [[1, 2], [3, 4]]), [merge("v", 1, 0, axis=1)], {})
    w[3] = [9, 3]
    refused(grouped(w, [[1, 2], [3, 4]]), merge("v", 1, 0, axis=1), because="no multiple")


def test_parts_stand_where_they_stand():
    def model(first: bool) -> GraphModel:
        b = Builder("N", 2)
        h, k = b.dense("x", "w", ROWS[:2]), b.dense("x", "v", ROWS[2:])
        z = b.add(Concat(1), [h, k] if first else [k, h], ("N", 4))
        columns = OUT.copy()
        columns[:, 1] = 0
        return b.model(b.dense(z, "out", columns))

    accepted(model(True), drop("w.w", 1))
    refused(model(True), drop("v.w", 1))
    refused(model(False), drop("w.w", 1))
    accepted(model(False), drop("v.w", 1))


def test_halves_take_what_they_take():
    b = Builder("N", 2)
    h = b.dense("x", "w", ROWS)
    a, c = (b.add(Take(1, index), [h], ("N", 2)) for index in ((0, 1), (2, 3)))
    z = b.each("mul", a, c)
    columns = OUT[:, :2].copy()
    columns[:, 1] = 0
    model = b.model(b.dense(z, "out", columns))
    small = accepted(model, drop("w.w", 1))  # and 3, which stands beside it
    assert small.constants["w.w"].tolist() == ROWS[[0, 2]].tolist()
    refused(model, drop("w.w", 0))
    refused(model, drop("w.w", 1, 2))


def test_a_reshape_keeps_what_it_cuts_across():
    def model(columns: Any) -> GraphModel:
        b = Builder(2, 2)
        h = b.dense("x", "w", np.concatenate([ROWS, ROWS[:2]]))  # [2, 6]
        op = Reshape((((0, 1), (0, 1)),), (3, 4))
        z = b.add(op, [h], (3, 4))
        return b.model(b.dense(z, "out", columns))

    columns = OUT.copy()
    columns[:, 1] = 0
    for unit in range(6):
        refused(model(columns), drop("w.w", unit), because="of 0")


def test_a_split_axis_goes_by_whole_parts():
    b = Builder("N", 2)
    h = b.dense("x", "w", np.concatenate([ROWS, ROWS[:2]]))  # [N, 6]
    z = b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), [h], ("N", 2, 3))
    columns = np.array([[1, 0, 2]])
    model = b.model(b.dense(z, "out", columns))
    small = accepted(model, drop(z, 1, axis=2))  # of both parts
    assert small.shapes[z] == ("N", 2, 2)
    for unit in (0, 2):
        refused(model, drop(z, unit, axis=2))
    for unit in range(6):
        refused(model, drop("w.w", unit))


def test_a_product_of_two_values_needs_a_zero():
    def model(keys: Any) -> GraphModel:
        b = Builder(3, 2)
        q, k = b.dense("x", "q", ROWS), b.dense("x", "k", keys)
        t = b.add(Transpose((1, 0)), [k], (4, 3))
        return b.model(b.add(Contract(), [q, t], (3, 3)))

    keys = ROWS[::-1].copy()
    refused(model(keys), drop("q.w", 1), because="not zero")
    keys[1] = 0
    accepted(model(keys), drop("q.w", 1))
    refused(model(keys), drop("q.w", 1, 2), because="not zero")
    refused(model(keys), merge("q.w", 2, 3), because="not zero")


def test_a_coordinate_that_is_zero_in_one_head_stays():
    def model(keys: Any) -> GraphModel:
        b = Builder(3, 2)
        parts = []
        for name, rows in (("q", ROWS), ("k", keys)):
            h = b.dense("x", name, rows)
            split = b.add(Reshape((((0,), (0,)), ((1,), (1, 2))), (3, 2, 2)), [h], (3, 2, 2))
            order = (1, 0, 2) if name == "q" else (1, 2, 0)
            parts.append(b.add(Transpose(order), [split], tuple((3, 2, 2)[a] for a in order)))
        return b.model(b.add(Contract(), parts, (2, 3, 3)))

    keys = ROWS[::-1].copy()
    keys[1] = 0
    refused(model(keys), drop("t1", 1, axis=2), because="not zero")
    keys[3] = 0
    accepted(model(keys), drop("t1", 1, axis=2))


# Moves that say something else --------------------------------------------------------------------------------


def test_moves_that_name_nothing():
    model = of_each("relu", 2)
    for move in (
        drop("w.w", 4), drop("w.w", 2**30), drop("w.w", 0, axis=2), drop("w.w", 0, axis=31), drop("none", 0),
        drop("w.w", 0, 1, 2, 3), drop("w.w"), drop("w.w", 0, 0), drop("x", 0, axis=1), drop("t2", 0, axis=1),
        merge("w.w", 1, 1), merge("w.w", 1, 4), GraphMove("remove", "w.w", 0, (0, 1), (1, 0)),
        GraphMove("remove", "w.w", 0, (1,), ()), GraphMove("remove", "w.w", 0, (1,), (0, 0)),
        GraphMove("remove", "w.w", 0, (-1,), (0,)), GraphMove("remove", "w.w", 0, (1,), (-2,)),
        GraphMove("remove", "w.w", -1, (1,), (0,)), GraphMove("bypass", "none"), GraphMove("bypass", "x"),
        GraphMove("bypass", "t2"), GraphMove("bypass", "t1"), GraphMove("bypass", "w.w"),
    ):  # fmt: skip
        refused(model, move)


def test_what_has_gone_is_there_no_more():
    b = Builder("N", 2)
    h = b.dense("x", "w", np.stack([ROWS[0], 2 * ROWS[0], 4 * ROWS[0], ROWS[3]]))
    model = b.model(b.dense(b.each("relu", h), "out", OUT))
    accepted(model, merge("w.w", 1, 0), merge("w.w", 1, 0))
    refused(model, merge("w.w", 1, 0), merge("w.w", 1, 0), merge("w.w", 1, 0))
    refused(model, merge("w.w", 1, 0), drop("w.w", 3))
    accepted(model, GraphMove("remove", "w.w", 0, (1, 2), (0, 0)))
    # merged into one that goes
    refused(model, GraphMove("remove", "w.w", 0, (1, 2), (0, 1)))


# Numbers --------------------------------------------------------------------------------------------------------


def of_numbers(rows: Any, columns: Any, dtype: Any = np.float32) -> GraphModel:
    b = Builder("N", 2)
    y = b.dense(b.dense("x", "w", rows), "out", columns)
    for name, array in (("w.w", rows), ("out.w", columns)):
        b.constants[name] = np.asarray(array, dtype=dtype)
    return b.model(y)


def test_what_is_rounded_is_accounted_for():
    # a third of a column is no float
    third = bounded(of_numbers([[3, 6], [1, 2]], [[1, 1]]), merge("w.w", 1, 0))
    assert 0 < third.growth < 9 * 2.0**-24
    accepted(of_numbers([[3, 6], [1, 2]], [[1, 1]]), merge("w.w", 0, 1))
    # nor is a sum of numbers far apart
    far = of_numbers([[1, 2], [1, 2]], [[1, 2.0**-60]], np.float64)
    assert bounded(far, merge("w.w", 1, 0)).growth == pytest.approx(3 * 2.0**-60)
    far = of_numbers([[1, 2], [1, 2]], [[1, 2.0**-30]])
    assert bounded(far, merge("w.w", 1, 0)).growth == pytest.approx(3 * 2.0**-30)
    accepted(of_numbers([[1, 2], [1, 2]], [[1, 2.0**-20]]), merge("w.w", 1, 0))


@pytest.mark.parametrize(("rows", "columns", "dtype"), [
    ([[1, 2], [2.0**600, 2.0**601]], [[1, 2.0**600]], np.float64),  # too large
    ([[2.0**600, 2.0**601], [2.0**-600, 2.0**-599]], [[1, 2.0**-200]], np.float64),  # too small
    ([[2.0**500, 2.0**501], [2.0**-500, 2.0**-499]], [[0, 2.0**-74]], np.float64),  # nothing, if careless
    ([[2.0**-1074, 0], [2.0**1000, 0]], [[1, 1]], np.float64),  # a ratio that is no float
    ([[1, 2], [2.0**127, np.inf]], [[1, 1]], np.float32),
    ([[1, 2], [2, np.nan]], [[1, 1]], np.float32),
    ([[1, 2], [1, 2]], [[1, np.inf]], np.float32),
    ([[1, 2], [1, 2]], [[1, np.nan]], np.float32),
    ([[1, 2], [0, 0]], [[1, np.inf]], np.float32),  # nothing times that is no number
    ([[1, 2], [0, 0]], [[1, np.nan]], np.float32),
    ([[1, 2], [256, 512]], [[1, 300]], np.float16),
])  # fmt: skip
def test_numbers_at_the_ends(rows, columns, dtype):
    with np.errstate(all="ignore"):
        model = of_numbers(np.array(rows, dtype=dtype), np.array(columns, dtype=dtype), dtype)
        try:
            small, slack = played(model.live(), [merge("w.w", 1, 0)], {})
        except CertificateRejected:
            return
        # what is lost is told, and no number that is none is made
        assert slack != NO_SLACK
        assert all(np.isfinite(array).all() for array in (rows, columns, small.constants["out.w"]))


def test_a_product_with_zero_hides_no_numbers_that_are_none():
    def model(weight: float, second: bool = False) -> GraphModel:
        b = Builder("N", 2)
        y = b.dense(b.dense("x", "w", [[1, 2], [3, 1]]), "out", [[1, weight], [2, 0]])
        z = b.each("mul", y, b.constant("scale", [0, 3]))
        return b.model(z, b.each("relu", y)) if second else b.model(z)

    accepted(model(5), drop("w.w", 1))
    refused(model(5, second=True), drop("w.w", 1))  # where somebody reads it otherwise
    for value in (np.inf, np.nan):
        refused(model(value), drop("w.w", 1), because="stored infinity")


def test_long_ratios_take_no_memory():
    # x, x^4, x^16, ...: the ratio of a constant would have 4^40 digits
    b = Builder("N", 2)
    z = b.dense("x", "w", [[0, 0], [1, 2]], [3, 1])
    four = b.constant("four", 4.0)
    for _ in range(40):
        z = b.add(Elementwise("pow"), [z, four], ("N", 2))
    model = b.model(b.dense(z, "out", [[0, 1]]))
    played(model, [drop("w.w", 0)], {})
    refused(model, drop("w.w", 1))


def test_integers_that_doubles_do_not_hold_are_not_taken_for_others():
    many = np.array([[2**53, 1], [2**53 + 1, 1]])
    b = Builder("N", 2)
    b.constants["table"], b.shapes["table"] = many, (2, 2)
    known = Known(b.model("table"), {})
    facts = known.of(("table", 0))
    assert facts.classes[0] != facts.classes[1]


# Bounds ---------------------------------------------------------------------------------------------------------


def dead_on(low: Any, high: Any) -> Any:
    """A unit x0 - 2 that is not positive for x0 up to 2."""
    b = Builder("N", 2)
    h = b.each("relu", b.dense("x", "w", [[1, 0], [1, 1]], [-2, 1]))
    return b.model(b.dense(h, "out", [[1, 1]])), {"x": (np.asarray(low), np.asarray(high))}


def test_bounds_are_rounded_outward():
    model, ranges = dead_on(-1.0, 2.0 - 1e-12)
    accepted(model, drop("w.w", 0), ranges=ranges)
    model, ranges = dead_on(-1.0, np.nextafter(2.0, 3.0))
    refused(model, drop("w.w", 0), ranges=ranges)
    model, ranges = dead_on([-1.0, -1.0], [1.0, 9.0])
    accepted(model, drop("w.w", 0), ranges=ranges)
    model, ranges = dead_on([-1.0, -1.0], [9.0, 2.0])
    refused(model, drop("w.w", 0), ranges=ranges)
    refused(model, drop("w.w", 0))


def test_bounds_that_do_not_fit_are_refused():
    for low, high in (([[0.0, 0]] * 3, 1.0), ([0.0] * 3, 1.0), ([], 1.0), ([[[0.0]]], 1.0)):
        model, ranges = dead_on(low, high)
        refused(model, drop("w.w", 0), ranges=ranges)


def test_a_root_of_what_may_be_negative_is_not_nothing():
    b = Builder("N", 2)
    h = b.each("sqrt", b.dense("x", "w", [[1, 0], [1, 1]], [-2, 1]))
    model = b.model(b.dense(h, "out", [[1, 1]]))
    refused(model, drop("w.w", 0), ranges={"x": (np.array(-1.0), np.array(1.0))})


@pytest.mark.parametrize(
    ("low", "high"), [(np.inf, 5.0), (-5.0, -np.inf), (np.nan, 1.0), (0.0, np.nan)]
)
def test_ends_of_a_clip_that_are_none_say_nothing(low, high):
    b = Builder("N", 2)
    h = b.each("clip", b.dense("x", "w", [[0, 0], [1, 1]], [2, 1]), numbers=(low, high))
    refused(b.model(b.dense(h, "out", [[1, 1]], [0])), drop("w.w", 0))
    b.nodes[1] = replace(b.nodes[1], op=Elementwise("clip", (-5.0, 5.0)))
    played(b.model("t2"), [drop("w.w", 0)], {})


def test_a_size_that_is_not_known_is_not_one():
    # one of two operands has unknown size: it is the same for all indices, or it is not
    b = Builder(4, name="x")
    b.inputs.append("z")
    b.shapes["z"] = ("M",)
    s = b.add(Elementwise("mul"), ["z", b.constant("four", [1, 1, 1, 1])], (4,))
    turned = b.add(Take(0, (3, 2, 1, 0)), [s], (4,))
    d = b.add(Elementwise("sub"), [s, turned], (4,))
    e = b.add(Elementwise("add"), ["x", d], (4,))
    y = b.add(Elementwise("relu"), [e], (4,))
    refused(b.model(y), GraphMove("bypass", e))


# Passing by -----------------------------------------------------------------------------------------------------


def passing(kind: str, stored: Any, shape: tuple[int, ...] = (4,), first: bool = False) -> Any:
    """relu(x op c) times a matrix, where x has the shape."""
    b = Builder(*shape)
    c = b.constant("c", stored)
    wide = tuple(np.broadcast_shapes(shape, np.shape(stored)))
    z = b.add(Elementwise(kind), [c, "x"] if first else ["x", c], wide)
    return b.model(b.add(Elementwise("relu"), [z], wide)), GraphMove("bypass", z)


def test_what_changes_nothing_may_be_passed_by():
    for kind, value in (("add", 0), ("sub", 0), ("mul", 1), ("div", 1)):
        model, move = passing(kind, [value] * 4)
        accepted(model, move)
    for kind, value in (("add", 0), ("mul", 1)):
        model, move = passing(kind, [value] * 4, first=True)
        accepted(model, move)


@pytest.mark.parametrize(("kind", "stored", "first"), [
    ("sub", [0] * 4, True), ("div", [1] * 4, True),  # 0 - x and 1 / x
    ("add", [0, 0, 0, 1e-30], False), ("mul", [1, 1, 1, 1 + 2.0**-23], False),
    ("add", [[0] * 4] * 2, False),  # the result is larger
    ("mul", [0] * 4, False), ("max", [0] * 4, False), ("pow", [1] * 4, False),
    ("add", [0, 0, 0, np.nan], False),
])  # fmt: skip
def test_what_changes_something_may_not(kind, stored, first):
    model, move = passing(kind, stored, first=first)
    refused(model, move)


def attention(bias: Any, between: Any = None, end: str = "softmax") -> Any:
    """softmax(q (k + bias)^T) v over three tokens with two coordinates."""
    b = Builder(3, 2)
    k = b.each("add", "x", b.constant("bias", bias))
    k2 = between(b, k) if between else k
    t = b.add(Transpose((1, 0)), [k2], (2, 3))
    scores = b.add(Contract(), ["x", t], (3, 3))
    z = b.add(Slicewise(end, ((0, 0),)), [scores], (3, 3))
    return b.model(b.add(Contract(), [z, "x"], (3, 2))), GraphMove("bypass", k)


def test_a_key_bias_is_not_seen_by_a_softmax():
    model, move = attention([3, -1])
    accepted(model, move)


@pytest.mark.parametrize(
    "name", ["tokens", "turned", "square", "another end", "sum", "seen", "twice", "infinite"]
)
def test_a_key_bias_that_is_seen_stays(name):
    bias, between, end = np.array([3.0, -1.0]), None, "softmax"
    if name == "tokens":  # another one for each key
        bias = np.arange(6.0).reshape(3, 2)
    elif name == "turned":  # by something that depends on the position

        def between(b, k):
            return b.each("mul", k, b.constant("turn", np.arange(6.0).reshape(3, 2)))
    elif name == "square":

        def between(b, k):
            return b.each("mul", k, k)
    elif name == "another end":
        end = "var"
    elif name == "sum":

        def between(b, k):
            return b.each("relu", k)
    elif name == "infinite":
        bias = np.array([np.inf, 1.0])
    model, move = attention(bias, between, end)
    if name == "seen":
        model = replace(model, outputs=(*model.outputs, move.tensor))
    elif name == "twice":  # the queries hold it, too
        nodes = [
            replace(n, inputs=(move.tensor, n.inputs[1])) if n.output == "t2" else n
            for n in model.nodes
        ]
        model = replace(model, nodes=tuple(nodes))
    refused(model, move)


# Graphs that lie ------------------------------------------------------------------------------------------------


def trusted(model: GraphModel) -> None:
    """Nothing is claimed, and yet a lying graph is refused."""
    GraphCertificate(model.digest, model.digest, (), {}).verify(model, model)


def lying(**changes: Any) -> GraphModel:
    b, h = with_twin(2, bias=True)
    b.shapes["x"] = (3, 2)
    b.dense(b.each("relu", h), "out", OUT)
    model = b.model("t2")
    shapes = {**model.shapes, "t0": (3, 4), "t1": (3, 4), "t2": (3, 2)}
    return replace(model, shapes={**shapes, **changes})


@pytest.mark.parametrize("changes", [
    {"t0": (3, 5)}, {"t0": (4, 3)}, {"t0": (3, 4, 1)}, {"t1": (3, 1)}, {"t1": ("N", 5)}, {"t2": (3, 4)},
    {"w.w": (2, 4)}, {"w.b": (1,)}, {"x": (3, 3)}, {"x": (3,)}, {"t0": None}, {"t1": ()},
])  # fmt: skip
def test_shapes_that_no_operator_gives_are_refused(changes):
    trusted(lying())
    with pytest.raises(CertificateRejected):
        trusted(lying(**changes))


def node(op: Any, inputs: Any, outputs: Any) -> Node:
    return Node(op, tuple(inputs), tuple(outputs), "n")


@pytest.mark.parametrize(("inputs", "constants", "nodes"), [
    (("x", "x"), (), [node(Elementwise("relu"), "x", "y")]),
    (("x",), ("x",), [node(Elementwise("relu"), "x", "y")]),
    (("x",), ("y",), [node(Elementwise("relu"), "x", "y")]),
    (("x",), (), [node(Elementwise("relu"), "x", "x"), node(Elementwise("relu"), "x", "y")]),
    (("x",), (), [node(Elementwise("relu"), "z", "y"), node(Elementwise("relu"), "x", "z")]),
    (("x",), (), [node(Elementwise("relu"), "x", "yz")]),
    (("x",), (), [node(Opaque("Any"), "x", "yy")]),
    (("x",), (), []),
])  # fmt: skip
def test_wiring_that_is_none_is_refused(inputs, constants, nodes):
    shapes = dict.fromkeys("xyz", (2,))
    with pytest.raises(CertificateRejected):
        GraphModel(inputs, ("y",), tuple(nodes), shapes, {c: np.zeros(2) for c in constants})


def test_nodes_of_one_name_are_two_nodes():
    b, h = with_twin(2)
    y = b.dense(b.each("relu", h), "out", OUT)
    z = b.each("tanh", h)
    b.nodes = [replace(n, name="same") for n in b.nodes]
    refused(b.model(y, z), merge("w.w", 1, 0))
    refused(b.model(z, y), merge("w.w", 1, 0))


# Certificates that were changed ---------------------------------------------------------------------------------


def certified() -> tuple[GraphModel, GraphModel, GraphCertificate]:
    """Two rounds on a graph with copies, zeros and a dead unit."""
    b = Builder("N", 2)
    rows = np.array([[1, 2], [2, 4], [0, 0], [1, -1], [-1, 3], [1, 0]], dtype=np.float32)
    h = b.each("relu", b.dense("x", "w", rows, [0, 0, 1, 2, 1, -9]))
    v = np.arange(24, dtype=np.float32).reshape(4, 6) % 5 - 2
    v[3] = v[0] * 2
    k = b.each("relu", b.dense(h, "v", v, [1, 2, 3, 2]))
    large = b.model(b.dense(k, "out", [[1, 2, 0, 4]]))
    ranges = {"x": (np.array(-1.0), np.array([1.0, 2.0]))}
    found = reduce_graph(large, ranges=ranges, budget=100)
    proof = GraphCertificate(
        large.digest, found.graph.digest, tuple(found.rounds), ranges, found.slack
    )
    proof.verify(found.graph, large)
    assert sum(map(len, proof.rounds)) > 1
    return found.graph, large, proof


SMALL, LARGE, PROOF = certified()
MOVES = [(r, m) for r, moves in enumerate(PROOF.rounds) for m in range(len(moves))]


def with_move(round_: int, at: int, **changes: Any) -> GraphCertificate:
    rounds = [list(moves) for moves in PROOF.rounds]
    rounds[round_][at] = replace(rounds[round_][at], **changes)
    return replace(PROOF, rounds=tuple(map(tuple, rounds)))


def no_proof(proof: GraphCertificate, small: GraphModel = SMALL, large: GraphModel = LARGE) -> None:
    with pytest.raises(CertificateRejected):
        proof.verify(small, large)


@pytest.mark.parametrize(("round_", "at"), MOVES)
def test_a_move_that_was_changed(round_, at):
    move = PROOF.rounds[round_][at]
    rounds = [list(moves) for moves in PROOF.rounds]
    del rounds[round_][at]
    no_proof(replace(PROOF, rounds=tuple(map(tuple, rounds))))
    rounds[round_][at:at] = [move, move]
    no_proof(replace(PROOF, rounds=tuple(map(tuple, rounds))))
    no_proof(with_move(round_, at, tensor="out.w"))
    no_proof(with_move(round_, at, tensor="none"))
    no_proof(with_move(round_, at, axis=1 - move.axis))
    no_proof(with_move(round_, at, kind="bypass"))
    for k, unit in enumerate(move.units):
        less = (*move.units[:k], *move.units[k + 1 :]), (*move.into[:k], *move.into[k + 1 :])
        no_proof(with_move(round_, at, units=less[0], into=less[1]))
        for other in range(7):
            if other not in move.units:
                units = (*move.units[:k], other, *move.units[k + 1 :])
                no_proof(with_move(round_, at, units=units))
        no_proof(with_move(round_, at, units=(*move.units, unit), into=(*move.into, -1)))
        no_proof(with_move(round_, at, into=move.into[:-1]))


def test_rounds_in_another_order_or_lacking():
    for rounds in ((), PROOF.rounds[:-1], PROOF.rounds[1:], (*PROOF.rounds, *PROOF.rounds)):
        no_proof(replace(PROOF, rounds=rounds))


def test_digests_that_name_other_graphs():
    no_proof(replace(PROOF, large=PROOF.small))
    no_proof(replace(PROOF, small=PROOF.large))
    no_proof(replace(PROOF, large=PROOF.small, small=PROOF.large), LARGE, SMALL)
    no_proof(replace(PROOF, small=PROOF.large), LARGE)
    no_proof(PROOF, LARGE, LARGE)
    no_proof(PROOF, SMALL, SMALL)


@pytest.mark.parametrize("ranges", [
    {}, {"x": (np.array(-1.0), np.array([9.0, 2.0]))}, {"x": (np.array(-np.inf), np.array(np.inf))},
    {"y": PROOF.ranges["x"]}, {**PROOF.ranges, "w.w": PROOF.ranges["x"]},
    {"x": (np.array([1.0, 2.0]), np.array(-1.0))}, {"x": (np.array(np.nan), np.array(1.0))},
    {"x": (np.array([]), np.array([]))}, {"x": (np.zeros((1, 1, 2)), np.ones(2))},
])  # fmt: skip
def test_bounds_that_were_changed(ranges):
    no_proof(replace(PROOF, ranges=ranges))


@pytest.mark.parametrize("name", sorted(LARGE.constants))
def test_a_number_that_was_changed(name):
    for which, model in (("large", LARGE), ("small", SMALL)):
        if name not in model.constants:
            continue
        array = model.constants[name].copy()
        array.reshape(-1)[0] += 1
        other = replace(model, constants={**model.constants, name: array})
        assert other.digest != model.digest
        pair = (SMALL, other) if which == "large" else (other, LARGE)
        no_proof(PROOF, *pair)
        # with a digest that fits the claim may be true by chance, as where nobody reads the number
        claim = replace(PROOF, **{which: other.digest})
        if which == "small":
            no_proof(claim, *pair)


def changed_text(change: Any) -> str:
    data = json.loads(json.dumps(PROOF.to_json()))
    change(data)
    return json.dumps(data)


TEXTS = {
    "a field more": lambda d: d.update(more=1),
    "a field less": lambda d: d.pop("bounds"),
    "another schema": lambda d: d.update(schema="moduli.certificate/1"),
    "rounds that are none": lambda d: d.update(rounds={}),
    "a round that is none": lambda d: d["rounds"].append("all"),
    "a move that is none": lambda d: d["rounds"][0].append(None),
    "a kind that is none": lambda d: d["rounds"][0][0].update(move="merge"),
    "a field of a move more": lambda d: d["rounds"][0][0].update(more=1),
    "a field of a move less": lambda d: d["rounds"][0][0].pop("into"),
    "no values": lambda d: d["rounds"][0][0].pop("values"),
    "values that are none": lambda d: d["rounds"][0][0].update(values={}),
    "a value of two": lambda d: d["rounds"][0][0].update(values=[["y", 0]]),
    "a value that is no float": lambda d: d["rounds"][0][0].update(values=[["y", 0, True]]),
    "a value of no column": lambda d: d["rounds"][0][0].update(values=[["y", -1, 0.0]]),
    "two values of a column": lambda d: d["rounds"][0][0].update(values=[["y", 0, 0.0]] * 2),
    "an axis that is none": lambda d: d["rounds"][0][0].update(axis=True),
    "an axis below zero": lambda d: d["rounds"][0][0].update(axis=-1),
    "units that are floats": lambda d: d["rounds"][0][0].update(units=[0.0]),
    "units beyond": lambda d: d["rounds"][0][0].update(units=[2**70]),
    "a tensor that is no text": lambda d: d["rounds"][0][0].update(tensor=1),
    "a digest that is no text": lambda d: d.update(large=None),
    "bounds that are none": lambda d: d.update(bounds=[]),
    "bounds of one end": lambda d: d["bounds"].update(x=[[0.0]]),
    "bounds of text": lambda d: d["bounds"].update(x=["a", "b"]),
    "bounds of nothing": lambda d: d["bounds"].update(x=[None, None]),
    "bounds of an object": lambda d: d["bounds"].update(x=[{}, {}]),
    "bounds beyond floats": lambda d: d["bounds"].update(x=[0, 10**400]),
    "bounds that are ragged": lambda d: d["bounds"].update(x=[[[0.0], [0.0, 1.0]], 1.0]),
}

BOUNDS = {
    "that floats do not hold": [-1, 2**53 + 1],
    "of text": ["-1", "2"],
    "of truth": [False, True],
    "of nothing in particular": [float("nan"), 1.0],
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_floats_exactly(name):
    def change(data: Any) -> None:
        data["bounds"]["x"] = BOUNDS[name]

    with pytest.raises(CertificateRejected, match="bound"):
        GraphCertificate.from_json(changed_text(change).replace("NaN", "1e999"))


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_no_certificate(name):
    assert GraphCertificate.from_json(changed_text(lambda d: None)) is not None
    with pytest.raises(CertificateRejected):
        GraphCertificate.from_json(changed_text(TEXTS[name])).verify(SMALL, LARGE)


def test_doubled_fields_are_refused():
    text = json.dumps(PROOF.to_json())
    doubled = text.replace('"rounds":', '"rounds": [], "rounds":', 1)
    with pytest.raises(CertificateRejected):
        GraphCertificate.from_json(doubled)


# What is proved can be written --------------------------------------------------------------------------------

F32 = {"dtype": np.float32}
W4 = np.array([[1, 2, 1, 0], [3, 1, 3, 0]], **F32)  # column 2 is column 0, column 3 nothing
V4 = np.array([[1, 2], [0, 1], [2, 1], [1, 1]], **F32)
CUT4 = np.array([[1, 2], [0, 0], [2, 1], [0, 0]], **F32)  # rows 1 and 3 are nothing
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "a slice of two axes": (
        "(float[3,2] x) => (float[2,2] y) { h = MatMul(x, w) s = Slice(h, a, b, c) y = Relu(s) }",
        {"w": W4, "a": [1, 0], "b": [3, 2], "c": [0, 1]},
    ),
    "a slice from behind": (
        "(float[3,2] x) => (float[3,2] y) { h = MatMul(x, w) s = Slice(h, a, b, c, d) y = MatMul(s, v) }",
        {"w": W4, "a": [3], "b": [-9], "c": [1], "d": [-1], "v": CUT4},
    ),
    "a slice of all that is left": (
        "(float[3,2] x) => (float[3,1] y) { h = MatMul(x, w) s = Slice(h, a, b, c) y = Relu(s) }",
        {"w": W4, "a": [1], "b": [2], "c": [1]},
    ),
    "a slice that is none any more": (
        "(float[3,2] x) => (float[3,2] y) { h = MatMul(x, w) s = Slice(h, a, b, c) y = MatMul(s, v) }",
        {
            "w": np.array([[1, 2, 5, 0, 7, 1], [3, 1, 2, 1, 4, 2]], **F32), "a": [0], "b": [6], "c": [1],
            "v": np.array([[1, 2], [0, 0], [1, 1], [2, 1], [0, 0], [3, 2]], **F32),
        },
    ),
    "a split of which one part is read": (
        "(float[3,2] x) => (float[3,1] y) { h = MatMul(x, w) s, t = Split<axis=1>(h, a) y = Relu(s) }",
        {"w": W4, "a": [1, 3]},
    ),
    "a product that adds nothing": (
        "(float[3,2] x) => (float[3,2] y) { h = Gemm<beta=2.0>(x, w, zero) k = Relu(h) y = MatMul(k, v) }",
        {"w": W4, "v": V4, "zero": np.zeros(4, **F32)},
    ),
    "a product with one unit left": (
        "(float[3,2] x) => (float[3,2] y) { h = Gemm(x, w, b) k = Relu(h) y = MatMul(k, v) }",
        {"w": W4, "v": np.array([[1, 2], [0, 0], [0, 0], [0, 0]], **F32), "b": np.ones(4, **F32)},
    ),
    "a product with one number for all units": (
        "(float[3,2] x) => (float[3,2] y) { h = Gemm(x, w, b) k = Relu(h) y = MatMul(k, v) }",
        {"w": W4, "v": np.array([[1, 2], [0, 0], [0, 0], [0, 0]], **F32), "b": np.ones(1, **F32)},
    ),
    "sizes of a resize": (
        "(float[1,2,3] x) => (float[1,2,6] y) { h = Conv(x, w) r = Resize(h, , , s) y = Conv(r, v) }",
        {"w": W4.T[:, :, None], "v": CUT4.T[:, :, None], "s": [1, 4, 6]},
    ),
    "a size that was copied from another axis": (
        "(float[1,2,4] x) => (float[1,2,1,4] y) { h = Conv(x, w) r = Reshape(h, s)"
        " t = Transpose<perm=[0,2,1,3]>(r) y = Conv(t, v) }",
        {"w": W4.T[:, :, None], "s": [1, 1, 0, -1], "v": CUT4.T[:, :, None, None]},
    ),
    "a part of a sum of several": (
        "(float[3,2] x) => (float[3,2] y) { h = MatMul(x, w) z = Mul(h, zero) k = Relu(h)"
        " s = Sum(h, z, k) y = MatMul(s, v) }",
        {"w": W4, "v": V4, "zero": np.zeros(4, **F32)},
    ),
    "a scale for each unit of which one is left": (
        "(float[3,2] x) => (float[3,2] y) { v = DequantizeLinear<axis=0>(q, s, z) h = MatMul(x, w)"
        " y = MatMul(h, v) }",
        {
            "w": W4, "q": np.array([[1, 2], [0, 0], [0, 0], [0, 0]], dtype=np.int8),
            "s": np.full(4, 0.5, **F32), "z": np.zeros(4, dtype=np.int8),
        },
    ),
    "a target that repeats one axis": (
        "(float[3,2] x) => (float[5,3,2] y) { h = MatMul(x, w) e = Expand(h, s) y = MatMul(e, v) }",
        {"w": W4, "s": [5, 1, 4], "v": CUT4},
    ),
    "one entry left to reshape": (
        "(float[3,2] x) => (float[3,2] y) { h = MatMul(x, w) u = Unsqueeze(h, one) r = Reshape(u, s)"
        " y = MatMul(r, v) }",
        {"w": W4, "one": [1], "s": [3, 4], "v": np.array([[1, 2], [0, 0], [0, 0], [0, 0]], **F32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_proved_is_written(name):
    text, stored = WRITTEN[name]
    graph = read(proto_of(text, opset=13, **stored))
    assert not graph.source.reading.opaque
    small, found = reduced(graph)
    assert found.rounds
    assert_same_function(graph, small)


def test_a_product_that_has_to_add_something_adds_zero():
    text, stored = WRITTEN["a product that adds nothing"]
    model = proto_of(text, opset=9, **stored)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    small, found = reduced(read(model))
    assert any(move.kind == "bypass" for moves in found.rounds for move in moves)
    with tempfile.TemporaryDirectory() as folder:
        path = small.source.save(Path(folder) / "small.onnx")
        other = onnxruntime.InferenceSession(str(path))
    x = np.array([[1, 2], [3, -1], [0, 4]], dtype=np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], other.run(None, {"x": x})[0])


def test_what_no_output_needs_tells_nothing():
    # a convolution that nobody reads would tell how many axes u has
    text = "(float[1,2,3] x) => (float[A,B,C] y) { u = own.f(x) dead = Conv(u, w) y = Relu(u) }"
    graph = read(proto_of(text, w=np.ones((1, 2, 1), **F32)))
    small, _ = reduced(graph)
    assert small.digest == graph.digest


def test_units_that_were_passed_by_and_removed_at_once():
    # the sum is passed by, since its second part is nothing; then the units of that part go
    text = """(float[N,2] x) => (float[N,1,2] y) { h = MatMul(x, w) a, b = Split<axis=1>(h, s)
      z = Add(a, b) y = Unsqueeze(z, one) }"""
    w = np.array([[1, 2, 0, 0], [3, 1, 0, 0]], dtype=np.float32)
    graph = read(proto_of(text, w=w, s=np.array([2, 2]), one=np.array([1])))
    small, found = reduced(graph)
    assert [move.kind for move in found.rounds[0]] == ["bypass", "remove"]
    assert_same_function(graph, small)


# Objects made by hand ----------------------------------------------------------------------------------------


class Careless(Elementwise):
    """Ties nothing."""

    def couple(self, node: Node, ties: Any) -> None:
        pass


class Tensor(np.ndarray):
    pass


def forged_objects() -> Mapping[str, Any]:
    b = Builder("n", 4)
    y = b.dense(b.each("relu", b.dense("x", "a", SQUARE)), "b", SQUARE)
    model = b.model(y)
    relu = model.nodes[1]
    careless = replace(relu, op=Careless("relu"))
    patched = replace(relu)
    object.__setattr__(patched, "op", replace(relu.op))
    object.__setattr__(patched.op, "couple", lambda node, ties: None)
    named = replace(model)
    named.__dict__["digest"] = "graph:forged"
    tensors = {name: array.view(Tensor) for name, array in model.constants.items()}
    return {
        "model": model, "named": named, "patched": with_node(model, patched),
        "careless": with_node(model, careless), "tensors": replace(model, constants=tensors),
        "numbers": with_node(model, replace(relu, op=Elementwise("relu", (np.float64(1),)))),
        "words": with_node(model, replace(relu, op=Elementwise(type("Word", (str,), {})("relu")))),
        "complex": replace(
            model, constants={name: array + 0j for name, array in model.constants.items()}
        ),
    }  # fmt: skip


def with_node(model: GraphModel, node: Node) -> GraphModel:
    return replace(model, nodes=(model.nodes[0], node, *model.nodes[2:]))


@pytest.mark.parametrize("name", forged_objects())
def test_only_what_a_graph_holds_is_believed(name):
    made = forged_objects()
    model, forged = made["model"], made[name]
    GraphCertificate(model.digest, model.digest, (), {}).verify(model, model)
    if name in ("model", "patched"):  # what is hidden in an object is not looked at
        GraphCertificate(forged.digest, forged.digest, (), {}).verify(forged, forged)
        assert "couple" not in vars(rebuilt(forged).nodes[1].op)
        return
    with pytest.raises(CertificateRejected, match=r"digest|is no"):
        GraphCertificate(forged.digest, forged.digest, (), {}).verify(forged, forged)


def test_nothing_is_proved_with_stored_infinities():
    b = Builder("n", 4)
    h = b.each("relu", b.dense("x", "a", np.diag([1, 1, 1, 0]).astype(np.float32)))
    scaled = b.each("mul", h, b.constant("s", np.array([1, 1, 1, np.inf])))
    model = b.model(b.dense(scaled, "b", SQUARE))
    with pytest.raises(CertificateRejected, match="stored infinity"):
        reduce_graph(model, ranges={}, budget=10)
    move = GraphMove("remove", "a.w", 0, (3,), (-1,))
    proof = GraphCertificate(model.digest, model.digest, ((move,),), {})
    with pytest.raises(CertificateRejected, match="stored infinity"):
        proof.verify(model, model)
