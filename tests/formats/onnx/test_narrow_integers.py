"""Integers of four bits are written in four bits again, beside onnxruntime and onnx.reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import moduli as mo
from moduli.formats.onnx.constants import narrowed, widened_array
from moduli.kernel.errors import UnsupportedModel

ENDS = {"INT4": (-8, 7), "UINT4": (0, 15)}
X = np.random.default_rng(5).standard_normal((3, 2, 5, 5)).astype(np.float32)


def stored(name: str, kind: str, array: Any) -> Any:
    array = np.asarray(array)
    return helper.make_tensor(name, getattr(TensorProto, kind), array.shape, array.ravel().tolist())


def model(kind: str, per_unit: bool, twins: bool = False) -> Any:
    """Two convolutions of five channels, with one that nobody reads, or two that are alike."""
    rng, (low, high) = np.random.default_rng(0), ENDS[kind]
    zero = 0 if kind == "INT4" else 8
    first, second = (
        rng.integers(low, high + 1, (5, 2, 3, 3)),
        rng.integers(low, high + 1, (3, 5, 1, 1)),
    )
    scale = rng.uniform(0.05, 0.2, 5).astype(np.float32) if per_unit else np.float32(0.1)
    bias = rng.standard_normal(5).astype(np.float32)
    if twins:
        first[4], bias[4] = first[1], bias[1]
        if per_unit:
            scale[4] = scale[1]
    else:
        second[:, 2] = zero
    points = rng.integers(low, high + 1, 5) if per_unit else np.array(zero)
    if twins and per_unit:
        points[4] = points[1]
    tensors = [
        stored("q", kind, first), stored("z", kind, points), numpy_helper.from_array(np.asarray(scale), "s"),
        stored("r", kind, second), stored("w", kind, np.array(zero)),
        numpy_helper.from_array(np.float32(0.3), "t"), numpy_helper.from_array(bias, "b"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["W"], "scale back", axis=0),
        helper.make_node("Conv", ["x", "W", "b"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["h"]),
        helper.make_node("DequantizeLinear", ["r", "t", "w"], ["V"]),
        helper.make_node("Conv", ["h", "V"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 3, 3])], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tests")
    helper.set_model_props(made, {"kept": "as it is"})
    return made


def outputs(proto: Any) -> Any:
    """What onnxruntime computes, which onnx.reference confirms."""
    onnx.checker.check_model(proto)
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": X})
    (other,) = ReferenceEvaluator(proto).run(None, {"x": X})
    assert np.abs(found - other).max() < 1e-5
    return found


def numbers(proto: Any) -> dict[str, Any]:
    return {t.name: (t.data_type, numpy_helper.to_array(t)) for t in proto.graph.initializer}


CASES = [(kind, per_unit) for kind in ENDS for per_unit in (False, True)]


@pytest.mark.parametrize(("kind", "per_unit"), CASES)
def test_what_is_read_is_written_as_it_was(kind, per_unit, tmp_path):
    before = model(kind, per_unit)
    onnx.save(before, tmp_path / "a.onnx")
    graph = mo.load(tmp_path / "a.onnx")
    mo.save(graph, tmp_path / "b.onnx")
    after = onnx.load(tmp_path / "b.onnx")
    old, new = numbers(before), numbers(after)
    assert list(old) == list(new)
    for name, (code, array) in old.items():
        assert new[name][0] == code
        assert np.array_equal(new[name][1], array)
    for proto in (before, after):
        del proto.graph.initializer[:]
    assert before == after
    assert mo.load(tmp_path / "b.onnx").digest == graph.digest


@pytest.mark.parametrize(("kind", "per_unit"), CASES)
def test_channels_are_removed(kind, per_unit, tmp_path):
    onnx.save(model(kind, per_unit), tmp_path / "a.onnx")
    small = mo.compress(tmp_path / "a.onnx")
    assert small.slack == 0
    mo.save(small.network, tmp_path / "b.onnx")
    small.save(tmp_path / "b.cert.json")
    assert (
        mo.check(tmp_path / "b.cert.json", tmp_path / "b.onnx", tmp_path / "a.onnx").status
        == "proved"
    )
    large, narrow = onnx.load(tmp_path / "a.onnx"), onnx.load(tmp_path / "b.onnx")
    assert np.abs(outputs(narrow) - outputs(large)).max() < 1e-5
    kept = [0, 1, 3, 4]
    old, new = numbers(large), numbers(narrow)
    code = getattr(TensorProto, kind)
    assert [new[name][0] for name in "qzrw"] == [code] * 4
    assert np.array_equal(new["q"][1], old["q"][1][kept])
    assert np.array_equal(new["r"][1], old["r"][1][:, kept])
    if per_unit:
        assert np.array_equal(new["z"][1], old["z"][1][kept])
    assert mo.load(tmp_path / "b.onnx").digest == small.network.digest
    again = mo.compress(mo.load(tmp_path / "b.onnx"))
    assert again.network.parameters == small.network.parameters


@pytest.mark.parametrize(("kind", "per_unit"), CASES)
def test_sums_that_four_bits_do_not_hold_are_not_written(kind, per_unit, tmp_path):
    """Two channels alike: their columns would have to be added. Whatever is done, it is proved and written."""
    onnx.save(model(kind, per_unit, twins=True), tmp_path / "a.onnx")
    small = mo.compress(tmp_path / "a.onnx")
    mo.save(small.network, tmp_path / "b.onnx")
    assert small.check()
    proto = onnx.load(tmp_path / "b.onnx")
    assert np.abs(outputs(proto) - outputs(onnx.load(tmp_path / "a.onnx"))).max() < 1e-4
    assert mo.load(tmp_path / "b.onnx").digest == small.network.digest


def test_they_may_lie_in_a_file_of_their_own(tmp_path):
    proto = model("INT4", True)
    rng = np.random.default_rng(1)
    wide = rng.integers(-8, 8, (3, 5, 31, 31))  # padded below: enough bytes to be kept apart
    for tensor in proto.graph.initializer:
        if tensor.name == "r":
            tensor.CopyFrom(stored("r", "INT4", wide))
    proto.graph.node[4].attribute.append(helper.make_attribute("pads", [15] * 4))
    for tensor in proto.graph.initializer:
        packed = bytes(tensor.int32_data)
        if tensor.data_type == TensorProto.INT4:
            tensor.ClearField("int32_data")
            tensor.raw_data = packed
    onnx.save(proto, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=100)
    graph = mo.load(tmp_path / "a.onnx")
    mo.save(graph, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").stat().st_size == (wide.size + 1) // 2
    assert mo.load(tmp_path / "b.onnx").digest == graph.digest
    (a,), (b,) = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"x": X})
        for name in ("a.onnx", "b.onnx")
    )
    assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_packing_is_the_inverse_of_unpacking(kind, count):
    low, high = ENDS[kind]
    array = np.linspace(low, high, count).astype(np.int8 if low else np.uint8)
    code = getattr(TensorProto, kind)
    tensor = TensorProto(
        name="t", data_type=code, dims=[count], raw_data=narrowed(array, code).tobytes()
    )
    assert np.array_equal(widened_array(tensor, None), array)
    if count:
        with pytest.raises(UnsupportedModel, match="more than four bits"):
            narrowed(np.full(count, high + 1), code)
        with pytest.raises(UnsupportedModel, match="more than four bits"):
            narrowed(np.full(count, low - 1), code)


def test_scales_of_blocks_are_still_read_alone(tmp_path):
    q = np.random.default_rng(2).integers(-8, 8, (32, 4))
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["W"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "W"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [stored("q", "INT4", q), numpy_helper.from_array(np.full((2, 4), 0.1, np.float32), "s")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(proto, tmp_path / "a.onnx")
    from moduli.formats import load_as_written

    with pytest.raises(UnsupportedModel, match="scale for each block: copy the file"):
        mo.save(load_as_written(tmp_path / "a.onnx"), tmp_path / "b.onnx")
