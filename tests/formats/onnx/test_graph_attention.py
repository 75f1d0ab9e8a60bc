"""The fused Attention of ONNX: what it computes, which heads and coordinates go, what is opaque."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import moduli as mo

from ...support.graphs import run

WIDTH, SIZE = 8, 4  # of the stream, of a head


def attention(queries=2, keys=2, *, mask=None, flat=True, opset=23, unread=(), zero=(), **given):
    """One layer of attention; heads that nobody reads, coordinates of queries that are zero."""
    rng = np.random.default_rng(0)
    weights = {
        name: np.round(rng.normal(size=(WIDTH, n * SIZE)) * 8).astype(np.float32) / 8
        for name, n in (("wq", queries), ("wk", keys), ("wv", keys))
    }
    weights["wo"] = np.round(rng.normal(size=(queries * SIZE, WIDTH)) * 8).astype(np.float32) / 8
    for head in unread:
        weights["wo"][head * SIZE : (head + 1) * SIZE] = 0
    for coordinate in zero:
        weights["wq"][:, coordinate::SIZE] = 0
    nodes = [helper.make_node("MatMul", ["x", f"w{c}"], [c]) for c in "qkv"]
    names = ["q", "k", "v"]
    if flat:
        given |= {"q_num_heads": queries, "kv_num_heads": keys}
    else:
        for c, n in zip("qkv", (queries, keys, keys), strict=True):
            weights[f"s{c}"] = np.array([0, 0, n, SIZE])
            nodes.append(helper.make_node("Reshape", [c, f"s{c}"], [f"{c}h"]))
            nodes.append(helper.make_node("Transpose", [f"{c}h"], [f"{c}t"], perm=[0, 2, 1, 3]))
        names = ["qt", "kt", "vt"]
    if mask is not None:
        weights["m"] = mask
        names.append("m")
    nodes.append(helper.make_node("Attention", names, ["a"], "attention", **given))
    if not flat:
        weights["back"] = np.array([0, 0, queries * SIZE])
        nodes.append(helper.make_node("Transpose", ["a"], ["at"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", ["at", "back"], ["af"]))
    nodes.append(helper.make_node("MatMul", ["a" if flat else "af", "wo"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 5, WIDTH]) for n in "xy"]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def reduced(model, tmp_path):
    """The smaller model, written and read again, whose outputs are the same."""
    onnx.checker.check_model(model)
    small = mo.compress(model)
    assert small.check()
    path = mo.save(small.network, tmp_path / "small.onnx")
    onnx.checker.check_model(onnx.load(path))
    x = np.random.default_rng(1).normal(size=(2, 5, WIDTH))
    np.testing.assert_allclose(mo.load(path)(x), mo.load(model)(x), rtol=0, atol=1e-9)
    return small, onnx.load(path)


MASKS = {
    "none": None,
    "numbers": np.round(np.random.default_rng(1).normal(size=(5, 5)) * 8).astype(np.float32),
    "booleans": np.tril(np.ones((5, 5), dtype=bool)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(2, 2), (4, 2), (3, 1)])
def test_it_is_read_as_the_evaluator_runs_it(mask, causal, flat, queries, keys, tmp_path):
    model = attention(
        queries, keys, mask=MASKS[mask], flat=flat, is_causal=causal, scale=0.25, zero=(1,)
    )
    graph = mo.load(model)
    assert graph.notes == ()
    x = np.random.default_rng(2).normal(size=(2, 5, WIDTH))
    (y,) = run(graph.model, {"x": x})
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.abs(y).max())
    small, _ = reduced(model, tmp_path)
    assert graph.parameters - small.network.parameters == WIDTH * (queries + keys)


def test_heads_go_whole(tmp_path):
    small, file = reduced(attention(4, 4, unread=(0, 2)), tmp_path)
    (node,) = [n for n in file.graph.node if n.op_type == "Attention"]
    heads = {a.name: a.i for a in node.attribute if a.name.endswith("heads")}
    assert heads == {"q_num_heads": 2, "kv_num_heads": 2}
    assert [(c.axis, c.before, c.after) for c in small.axes] == [("wq", 4, 2)]


def test_keys_go_with_all_their_queries(tmp_path):
    _, file = reduced(attention(4, 2, unread=(2, 3)), tmp_path)
    (node,) = [n for n in file.graph.node if n.op_type == "Attention"]
    assert {a.name: a.i for a in node.attribute if a.name.endswith("heads")} == {
        "q_num_heads": 2, "kv_num_heads": 1,
    }  # fmt: skip
    small, _ = reduced(attention(4, 2, unread=(2,)), tmp_path)
    assert small.network.parameters == small.original.parameters


def test_coordinates_stay_where_the_scale_is_made_of_their_number(tmp_path):
    small, _ = reduced(attention(zero=(1,)), tmp_path)
    assert small.network.parameters == small.original.parameters
    reasons = [axis.frozen or "" for axis in small.original.axes]
    assert any("which reads its size" in reason for reason in reasons)


@pytest.mark.parametrize("given", [{"softcap": 2.0}, {"qk_matmul_output_mode": 1}])
def test_what_is_more_is_opaque(given):
    assert any("Attention" in note for note in mo.load(attention(**given)).notes)


def test_a_mask_that_does_not_fit_is_opaque():
    wide = mo.load(attention(mask=np.zeros((2, 1, 1, 5), dtype=np.float32)))
    assert any("Attention" in note and "mask" in note for note in wide.notes)
