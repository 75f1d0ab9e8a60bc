"""Fused operators: read as onnxruntime runs them, what goes through them, what is opaque."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.formats.onnx.reference import run_model

from ...support.graphs import run

runtime = pytest.importorskip("onnxruntime")
OWN = "com.microsoft"
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return np.round(RNG.normal(size=shape) * 16).astype(np.float32) / 16


def model(
    kind: str, inputs: dict[str, Any], stored: dict[str, Any], order: list[str], outputs: int = 1,
    domain: str = OWN, opset: int = 17, **given: Any,
) -> Any:  # fmt: skip
    """One fused operator; names in `order` that are neither inputs nor stored are left out."""
    names = [name if name in inputs or name in stored else "" for name in order]
    ends = [f"y{k}" for k in range(outputs)]
    made = [name if k in (0, outputs - 1) else "" for k, name in enumerate(ends)]
    node = helper.make_node(kind, names, made, "fused", domain=domain, **given)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made if name],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


X = {"x": numbers(2, 5, 8)}
QKV = {name: numbers(2, 5, 8) for name in ("q", "k", "v")}
MASK = {"m": np.array([[1, 1, 1, 0, 1], [1, 2, 0, 0, -1]], dtype=np.int32)}
ADDED = {"a": numbers(1, 2, 5, 5)}
HEADS = ["q", "k", "v", "b", "m", "a"]
PACKED = {"w": numbers(8, 24), "b": numbers(24)}
PLACES = {"p": np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])}
TABLES = {"c": np.cos(numbers(6, 2)), "s": np.sin(numbers(6, 2))}
NORM = {"g": numbers(8), "h": numbers(8)}
CONV = {"w": numbers(4, 3, 3, 3), "b": numbers(4)}
IMAGE = {"x": numbers(2, 3, 6, 6)}
CASES: dict[str, tuple[str, Any, Any, list[str], dict[str, Any]]] = {
    "gelu": ("Gelu", X, {}, ["x"], {}),
    "bias gelu": ("BiasGelu", X, {"b": numbers(8)}, ["x", "b"], {}),
    "fast gelu": ("FastGelu", X, {}, ["x"], {}),
    "fast gelu, bias": ("FastGelu", X, {"b": numbers(8)}, ["x", "b"], {}),
    "quick gelu": ("QuickGelu", X, {}, ["x"], {}),
    "quick gelu, slope": ("QuickGelu", X, {}, ["x"], {"alpha": 0.75}),
    "product": ("FusedMatMul", X, {"w": numbers(8, 3)}, ["x", "w"], {"alpha": 0.5}),
    "product, turned": (
        "FusedMatMul", X, {"w": numbers(3, 5)}, ["x", "w"], {"transA": 1, "transB": 1},
    ),
    "product of two": (
        "FusedMatMul", {"x": numbers(2, 5, 8), "z": numbers(2, 5, 8)}, {}, ["x", "z"],
        {"transB": 1, "alpha": 0.125},
    ),
    "gemm": (
        "FusedGemm", {"x": numbers(5, 8)}, {"w": numbers(3, 8), "b": numbers(3)}, ["x", "w", "b"],
        {"transB": 1, "activation": "LeakyRelu", "activation_alpha": 0.25},
    ),
    "conv": ("FusedConv", IMAGE, CONV, ["x", "w", "b"], {"activation": "Relu"}),
    "conv, sum": (
        "FusedConv", {**IMAGE, "z": numbers(2, 4, 4, 4)}, CONV, ["x", "w", "b", "z"],
        {"activation": "HardSigmoid", "activation_params": [0.25, 0.5]},
    ),
    "skip": ("SkipLayerNormalization", {**X, "z": numbers(2, 5, 8)}, NORM, ["x", "z", "g", "h"], {}),
    "skip, bias": (
        "SkipLayerNormalization", {**X, "z": numbers(1, 5, 8)}, {**NORM, "b": numbers(8)},
        ["x", "z", "g", "h", "b"], {"epsilon": 0.125},
    ),
    "skip, no shift": (
        "SkipLayerNormalization", {**X, "z": numbers(2, 5, 8)}, {**NORM, "b": numbers(8)},
        ["x", "z", "g", "", "b"], {},
    ),
    "simple skip": (
        "SkipSimplifiedLayerNormalization", {**X, "z": numbers(2, 5, 8)}, {**NORM, "b": numbers(8)},
        ["x", "z", "g", "b"], {"epsilon": 0.25},
    ),
    "heads": ("MultiHeadAttention", QKV, {}, HEADS, {"num_heads": 2}),
    "heads, causal": (
        "MultiHeadAttention", QKV, {"b": numbers(24)}, HEADS,
        {"num_heads": 4, "unidirectional": 1, "scale": 2.0},
    ),
    "heads, masks": (
        "MultiHeadAttention", {**QKV, **MASK, **ADDED}, {}, HEADS,
        {"num_heads": 2, "mask_filter_value": -3.0},
    ),
    "packed": ("Attention", X, PACKED, ["x", "w", "b", "m", "past", "a"], {"num_heads": 2}),
    "packed, parts": (
        "Attention", X, {"w": numbers(8, 20), "b": numbers(20)}, ["x", "w", "b"],
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]},
    ),
    "packed, masks": (
        "Attention", {**X, **MASK, **ADDED}, PACKED, ["x", "w", "b", "m", "past", "a"],
        {"num_heads": 2, "unidirectional": 1, "mask_filter_value": -1.0},
    ),
    "rotary": ("RotaryEmbedding", {**X, **PLACES}, TABLES, ["x", "p", "c", "s"], {}),
    "rotary, by heads": (
        "RotaryEmbedding", {"x": numbers(2, 3, 5, 4), **PLACES}, TABLES, ["x", "p", "c", "s"], {},
    ),
    "rotary, interleaved": (
        "RotaryEmbedding", {**X, **PLACES}, TABLES, ["x", "p", "c", "s"], {"interleaved": 1},
    ),
    "rotary, in part": (
        "RotaryEmbedding", {"x": numbers(2, 5, 16), **PLACES}, TABLES, ["x", "p", "c", "s"],
        {"num_heads": 2, "rotary_embedding_dim": 4},
    ),
}  # fmt: skip


def same_three(made: Any, inputs: dict[str, Any]) -> None:
    """The kernel's graph, the evaluator and onnxruntime agree on one model."""
    graph = mo.load(made)
    assert graph.notes == ()
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, inputs)
    wide = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in inputs.items()}
    read = run(graph.model, wide)
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    evaluated = run_model(made, stored, inputs)
    for k, y in enumerate(wanted):
        name = made.graph.output[k].name
        scale = 1e-5 * max(1.0, np.abs(y).max())
        np.testing.assert_allclose(read[k], y, rtol=0, atol=scale)
        np.testing.assert_allclose(evaluated[name], read[k], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_it_is_read_as_onnxruntime_runs_it(case: str) -> None:
    kind, inputs, stored, order, given = CASES[case]
    same_three(model(kind, inputs, stored, order, **given), inputs)


def test_sums_of_a_skip_are_given_too() -> None:
    inputs = {**X, "z": numbers(2, 5, 8)}
    stored = {**NORM, "b": numbers(8)}
    made = model("SkipLayerNormalization", inputs, stored, ["x", "z", "g", "h", "b"], outputs=4)
    same_three(made, inputs)


def test_a_simplified_norm_stands_in_the_domain_of_onnx() -> None:
    made = model("SimplifiedLayerNormalization", X, {"g": numbers(8)}, ["x", "g"], domain="")
    same_three(made, X)


OPAQUE: dict[str, tuple[str, Any, Any, list[str], dict[str, Any]]] = {
    "lengths": (
        "MultiHeadAttention", {**QKV, "m": np.array([3, 5], dtype=np.int32)}, {}, HEADS,
        {"num_heads": 2},
    ),
    "means": (
        "SkipLayerNormalization", {**X, "z": numbers(2, 5, 8)}, NORM, ["x", "z", "g", "h"],
        {"outputs": 2},
    ),
    "batches that turn": (
        "FusedMatMul", {"x": numbers(5, 2, 8)}, {"w": numbers(8, 3)}, ["x", "w"],
        {"transBatchA": 1},
    ),
    "rotary inside": ("Attention", X, PACKED, ["x", "w", "b"], {"num_heads": 2, "do_rotary": 1}),
    "columns for no three": ("Attention", X, {"w": numbers(8, 20)}, ["x", "w"], {"num_heads": 2}),
    "an offset": (
        "RotaryEmbedding", {**X, "p": np.array([1])}, TABLES, ["x", "p", "c", "s"], {},
    ),
    "unknown activation": ("FusedConv", IMAGE, CONV, ["x", "w", "b"], {"activation": "Selu"}),
}  # fmt: skip


@pytest.mark.parametrize("case", OPAQUE)
def test_what_is_more_is_opaque(case: str) -> None:
    kind, inputs, stored, order, given = OPAQUE[case]
    graph = mo.load(model(kind, inputs, stored, order, **given))
    assert any(kind in note for note in graph.notes)


def block(
    heads: int = 4,
    size: int = 2,
    packed: bool = True,
    unread: tuple[int, ...] = (1,),
    values: int = 2,
) -> Any:
    """A layer of a transformer as onnxruntime fuses it, with heads and hidden units that nobody reads;
    `values` is the size of a head's values.
    """
    width, hidden = 6, 10
    inside = heads * values
    given: dict[str, Any] = {}
    stored = {
        "wo": numbers(inside, width), "bo": numbers(width), "g1": numbers(width), "h1": numbers(width),
        "w1": numbers(width, hidden), "b1": numbers(hidden), "w2": numbers(hidden, width),
        "b2": numbers(width), "g2": numbers(width), "h2": numbers(width),
    }  # fmt: skip
    for head in unread:
        stored["wo"][head * values : (head + 1) * values] = 0
    stored["w2"][3] = stored["w2"][7] = 0
    nodes = []
    if packed:
        whole = heads * (2 * size + values)
        stored |= {"w": numbers(width, whole), "b": numbers(whole)}
        if values != size:
            given = {"qkv_hidden_sizes": [heads * n for n in (size, size, values)]}
        nodes.append(
            helper.make_node(
                "Attention",
                ["x", "w", "b"],
                ["a"],
                "attention",
                domain=OWN,
                num_heads=heads,
                **given,
            )
        )
    else:
        for c in "qkv":
            stored[f"w{c}"] = numbers(width, inside)
            nodes.append(helper.make_node("MatMul", ["x", f"w{c}"], [c]))
        stored["b"] = numbers(3 * inside)
        nodes.append(
            helper.make_node(
                "MultiHeadAttention", ["q", "k", "v", "b"], ["a"], "attention", domain=OWN,
                num_heads=heads,
            )
        )  # fmt: skip
    nodes += [
        helper.make_node("MatMul", ["a", "wo"], ["o"]),
        helper.make_node("SkipLayerNormalization", ["o", "x", "g1", "h1", "bo"], ["n"], domain=OWN),
        helper.make_node("MatMul", ["n", "w1"], ["f"]),
        helper.make_node("BiasGelu", ["f", "b1"], ["e"], domain=OWN),
        helper.make_node("MatMul", ["e", "w2"], ["r"]),
        helper.make_node("SkipLayerNormalization", ["r", "n", "g2", "h2", "b2"], ["y"], domain=OWN),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 5, width]) for n in "xy"]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in stored.items()]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("packed", [True, False])
def test_heads_and_hidden_units_go(packed: bool, tmp_path: Any) -> None:
    made = block(packed=packed)
    small = mo.compress(made)
    assert small.check()
    path = mo.save(small.network, tmp_path / "small.onnx")
    file = onnx.load(path)
    kinds = [node.op_type for node in made.graph.node]
    assert [node.op_type for node in file.graph.node] == kinds  # fused as before
    (node,) = [n for n in file.graph.node if n.name == "attention"]
    assert {a.name: a.i for a in node.attribute}["num_heads"] == 3
    # a head of two: columns of q, k, v with their biases, rows of wo; two hidden units
    assert small.original.parameters - small.network.parameters == 3 * 2 * 7 + 2 * 6 + 2 * (
        6 + 1 + 6
    )
    x = numbers(2, 5, 6)
    runs = [
        runtime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for m in (made, file)
    ]
    np.testing.assert_allclose(*runs, rtol=0, atol=1e-5)


def test_values_of_another_size_than_keys_lose_heads(tmp_path: Any) -> None:
    made = block(heads=4, size=2, unread=(1,), values=1)
    small = mo.compress(made)
    assert small.check()
    (node, *_) = onnx.load(mo.save(small.network, tmp_path / "small.onnx")).graph.node
    assert {a.name: list(a.ints) for a in node.attribute}["qkv_hidden_sizes"] == [6, 6, 3]
    assert small.original.parameters - small.network.parameters == 5 * 7 + 6 + 2 * 13


def test_a_function_with_the_name_of_a_fused_operator_is_opaque() -> None:
    """onnxruntime calls its own, others the one of the file."""
    made = model("FastGelu", X, {}, ["x"])
    made.functions.append(
        helper.make_function(
            OWN, "FastGelu", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
            [helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    assert any("FastGelu" in note for note in mo.load(made).notes)


def test_nobody_says_how_a_fused_operator_rounds() -> None:
    made = model("FastGelu", X, {}, ["x"])
    with pytest.raises(mo.ModuliError, match=r"com\.microsoft\.FastGelu"):
        mo.rounding(made, on=mo.Box(-np.ones(40), np.ones(40)))


GATES = {
    "swish": ("Swish", X, {}, ["x"], 24, {"alpha": 0.5}),
    "swiglu": ("SwiGLU", {**X, "z": numbers(2, 5, 8)}, {}, ["x", "z"], 27, {"alpha": 2.0}),
    "rotary": (
        "RotaryEmbedding", {**X, **PLACES}, TABLES, ["x", "c", "s", "p"], 23, {"num_heads": 2},
    ),
    "rotary, by heads, in part": (
        "RotaryEmbedding", {"x": numbers(2, 3, 5, 6), **PLACES}, TABLES, ["x", "c", "s", "p"], 23,
        {"rotary_embedding_dim": 4, "interleaved": 1},
    ),
    "rotary, angles of positions": (
        "RotaryEmbedding", X, {"c": numbers(2, 5, 2), "s": numbers(2, 5, 2)}, ["x", "c", "s"], 23,
        {"num_heads": 2, "interleaved": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GATES)
def test_gates_and_rotary_embeddings_of_onnx(case: str) -> None:
    kind, inputs, stored, order, opset, given = GATES[case]
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx has operators up to opset {onnx.defs.onnx_opset_version()}")
    made = model(kind, inputs, stored, order, domain="", opset=opset, **given)
    graph = mo.load(made)
    assert not any("opaque" in note for note in graph.notes)
    wide = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in inputs.items()}
    (read,) = run(graph.model, wide)
    arrays = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    np.testing.assert_allclose(read, run_model(made, arrays, inputs)["y0"], rtol=0, atol=1e-6)
