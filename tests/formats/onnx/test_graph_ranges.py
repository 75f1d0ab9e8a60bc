"""Ranges that types and operators give by themselves: channels that they settle go, and no others."""

from __future__ import annotations

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.graph.facts import Known

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

node = helper.make_node
FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8


def saved(folder, nodes, stored, shape, *, kind=FLOAT, rank=4, opset=19):
    """A model of one input x and one output y."""
    names = [f"d{i}" for i in range(rank)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, names)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def convolutions(x="a"):
    """Two layers: of the four channels in between one is never on where inputs are not negative, one
    nearly so.
    """
    rng = np.random.default_rng(0)
    first, bias = rng.normal(size=(4, 3, 3, 3)), np.array([-0.125, 1.0, 0.25, 0.5])
    first[:2] = -np.abs(first[:2])
    stored = {"w": first, "b": bias, "v": rng.normal(size=(2, 4, 1, 1)), "c": np.zeros(2)}
    nodes = [
        node("Conv", [x, "w", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "v", "c"], ["y"]),
    ]  # fmt: skip
    return nodes, {k: v.astype(np.float32) for k, v in stored.items()}


def agree(path, small, draw, tmp_path):
    """Outputs of both files at 20 inputs."""
    mo.save(small.network, tmp_path / "small.onnx")
    before, after = (ReferenceEvaluator(onnx.load(p)) for p in (path, tmp_path / "small.onnx"))
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = draw(rng)
        y, z = before.run(None, {"x": x})[0], after.run(None, {"x": x})[0]
        assert np.allclose(y, z, rtol=1e-5, atol=1e-5)


def channels(small):
    return {axis.axis: (axis.before, axis.after) for axis in small.axes}


@pytest.mark.parametrize("way", ["cast", "dequantise"])
def test_bytes_have_a_range(way, tmp_path):
    """An image of bytes is never negative, whatever is asked."""
    nodes, stored = convolutions()
    stored |= {"s": np.float32(1 / 255), "z": np.uint8(0)}
    first = {
        "cast": [node("Cast", ["x"], ["f"], to=FLOAT), node("Mul", ["f", "s"], ["a"])],
        "dequantise": [node("DequantizeLinear", ["x", "s", "z"], ["a"])],
    }[way]
    path = saved(tmp_path, first + nodes, stored, [1, 3, 6, 6], kind=UINT8)
    small = mo.compress(path)
    assert channels(small) == {"w": (4, 3)}
    assert small.check()
    agree(path, small, lambda rng: rng.integers(0, 256, (1, 3, 6, 6), dtype=np.uint8), tmp_path)
    # dark images do not use another one
    dark = mo.compress(path, on=mo.Box(0, 1))
    bright = mo.compress(path, on=mo.Box(200, 255))
    assert channels(dark) == {"w": (4, 3)}
    assert channels(bright) == {"w": (4, 2)}


def test_bytes_with_a_sign_are_negative(tmp_path):
    nodes, stored = convolutions()
    first = [node("Cast", ["x"], ["a"], to=FLOAT)]
    path = saved(tmp_path, first + nodes, stored, [1, 3, 6, 6], kind=INT8)
    assert channels(mo.compress(path)) == {}
    assert channels(mo.compress(path, on=mo.Box(0, 127))) == {"w": (4, 3)}


@pytest.mark.parametrize(("zero", "gone"), [(0, 1), (128, 0)])
def test_quantised_data_have_the_range_of_their_type(zero, gone, tmp_path):
    nodes, stored = convolutions("a")
    stored |= {"s": np.float32(1 / 64), "z": np.uint8(zero)}
    first = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["a"]),
    ]  # fmt: skip
    path = saved(tmp_path, first + nodes, stored, [1, 3, 6, 6])
    small = mo.compress(path)
    assert channels(small) == ({"w": (4, 3)} if gone else {})
    agree(path, small, lambda rng: rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path)


def test_a_dead_channel_between_quantised_layers_goes(tmp_path):
    """Weights and biases of integers, a scale for each channel, data quantised in between."""
    rng = np.random.default_rng(2)
    w, v = (rng.integers(-99, 99, size).astype(np.int8) for size in ((4, 3, 3, 3), (2, 4, 1, 1)))
    w[1] = -np.abs(w[1])
    b = np.array([500, -3, 20, 70000], np.int32)
    sx, sw = np.float32(1 / 64), (rng.uniform(1, 2, 4) / 64).astype(np.float32)
    stored = {
        "w8": w, "sw": sw, "zw": np.zeros(4, np.int8), "b32": b, "sb": sx * sw, "zb": np.zeros(4, np.int32),
        "v8": v, "sv": np.float32(0.02), "zv": np.int8(0), "sx": sx, "zx": np.uint8(0),
        "sh": np.float32(0.1), "zh": np.uint8(0),
    }  # fmt: skip
    path = saved(tmp_path, [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]), node("DequantizeLinear", ["xq", "sx", "zx"], ["a"]),
        node("DequantizeLinear", ["w8", "sw", "zw"], ["w"], axis=0),
        node("DequantizeLinear", ["b32", "sb", "zb"], ["b"], axis=0), node("Conv", ["a", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]), node("QuantizeLinear", ["r", "sh", "zh"], ["rq"]),
        node("DequantizeLinear", ["rq", "sh", "zh"], ["d"]), node("DequantizeLinear", ["v8", "sv", "zv"], ["v"]),
        node("Conv", ["d", "v"], ["y"]),
    ], stored, [1, 3, 6, 6])  # fmt: skip
    small = mo.compress(path)
    assert [(c.before, c.after) for c in small.axes] == [(4, 3)]
    assert small.check()
    agree(path, small, lambda rng: rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path)


def test_softmax_lies_between_0_and_1(tmp_path):
    """Means of rows by attention weights are between the rows."""
    rng = np.random.default_rng(3)
    dense, last = rng.normal(size=(5, 4)), rng.normal(size=(4, 2))
    dense[0], dense[:, 0] = 1.0, -np.abs(dense[:, 0])
    stored = {"a": rng.normal(size=(3, 5)), "w": dense, "v": last}
    path = saved(tmp_path, [
        node("MatMul", ["x", "a"], ["l"]), node("Softmax", ["l"], ["p"]), node("MatMul", ["p", "w"], ["h"]),
        node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"]),
    ], {k: v.astype(np.float32) for k, v in stored.items()}, ["n", 3], rank=2)  # fmt: skip
    small = mo.compress(path)
    assert channels(small) == {"w": (4, 3)}
    agree(path, small, lambda rng: rng.normal(size=(4, 3)).astype(np.float32), tmp_path)


def test_means_by_attention_lie_between_the_values(tmp_path):
    """Values that are never negative, and their means: a unit that reads them with weights below zero."""
    rng = np.random.default_rng(4)
    last = rng.normal(size=(4, 3))
    last[0], last[:, 0] = 1.0, -np.abs(last[:, 0])
    stored = {
        "k": rng.normal(size=(4, 4)),
        "v": rng.normal(size=(4, 4)),
        "w": last,
        "o": np.ones((3, 2)),
    }
    path = saved(tmp_path, [
        node("MatMul", ["x", "k"], ["q"]), node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["q", "t"], ["l"]), node("Softmax", ["l"], ["p"], axis=-1),
        node("MatMul", ["x", "v"], ["m"]), node("Relu", ["m"], ["u"]), node("MatMul", ["p", "u"], ["c"]),
        node("MatMul", ["c", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "o"], ["y"]),
    ], {k: v.astype(np.float32) for k, v in stored.items()}, ["n", 5, 4], rank=3)  # fmt: skip
    small = mo.compress(path)
    assert channels(small) == {"w": (3, 2)}
    assert small.check()
    agree(path, small, lambda rng: rng.normal(size=(2, 5, 4)).astype(np.float32), tmp_path)


def test_a_norm_bounds_what_it_gives(tmp_path):
    """|u| is at most the root of the count: 2 for four coordinates."""
    stored = {
        "g": [1.0, 1.0, 1.0, 1.0], "s": [0.0, 0.0, 0.0, 0.0], "w": np.eye(4)[:, :3],
        "b": [-2.001, -1.7, 0.0], "v": np.ones((3, 1)),
    }  # fmt: skip
    path = saved(tmp_path, [
        node("LayerNormalization", ["x", "g", "s"], ["n"], axis=-1), node("MatMul", ["n", "w"], ["m"]),
        node("Add", ["m", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"]),
    ], {k: np.asarray(v, np.float32) for k, v in stored.items()}, ["n", 4], rank=2)  # fmt: skip
    small = mo.compress(path)
    assert channels(small) == {"w": (3, 2)}
    agree(path, small, lambda rng: rng.normal(size=(4, 4)).astype(np.float32) ** 5, tmp_path)


def test_channels_may_come_last(tmp_path):
    nodes, stored = convolutions()
    path = saved(
        tmp_path, [node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]), *nodes], stored, [1, 6, 6, 3]
    )
    ends = [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]
    for box in (mo.Box(*ends), mo.Box(*np.reshape(ends, (2, 1, 1, 3)))):
        small = mo.compress(path, on=box)
        assert channels(small) == {"w": (4, 3)}
        assert small.check()
    with pytest.raises(mo.ShapeError, match="3x1x1 numbers"):
        mo.compress(path, on=mo.Box(*np.reshape(ends, (2, 3, 1, 1))))


# What looks settled, and is not ---------------------------------------------------------------------------------


def test_zero_over_what_may_be_zero_is_not_zero(tmp_path):
    """0 / 0 is no number, and the file says so."""
    rng = np.random.default_rng(5)
    stored = {
        "a": np.abs(rng.normal(size=(4, 4))),
        "z": [0.0, 0.0, 1.0, 1.0],
        "w": rng.normal(size=(4, 3)),
    }
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("Mul", ["h", "z"], ["t"]), node("Div", ["t", "h"], ["q"]),
        node("MatMul", ["q", "w"], ["y"]),
    ]  # fmt: skip
    numbers = {k: np.asarray(v, np.float32) for k, v in stored.items()}
    small = mo.compress(saved(tmp_path, nodes, numbers, ["n", 4], rank=2))
    assert channels(small) == {}
    # where it is above zero it is
    nodes[2:3] = [
        node("Exp", ["h"], ["e"]), node("Add", ["e", "one"], ["u"]), node("Div", ["t", "u"], ["q"]),
    ]  # fmt: skip
    numbers["one"] = np.float32(1)
    small = mo.compress(saved(tmp_path, nodes, numbers, ["n", 4], rank=2))
    assert channels(small) == {"a": (4, 2)}


def test_ties_of_half_precision_are_left_open(tmp_path):
    """A quotient that is 78.52 is 78.5 in half precision, a tie."""
    half = np.float16
    scale, constant = half(1.003), half(78.5 * 1.003)
    assert round(float(constant) / float(scale)) != round(float(half(constant / scale)))
    stored = {
        "w": (np.eye(3) + np.eye(3)[[1, 2, 0]]).astype(half),
        "z": np.array([0, 1, 1], half), "c": np.array([constant, 0, 0], half),
        "s": scale, "zp": np.uint8(0), "v": np.ones((3, 2), half), "b": np.zeros(2, half),
    }  # fmt: skip
    path = saved(tmp_path, [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("MatMul", ["h", "w"], ["m"]),
        node("Mul", ["m", "z"], ["k"]), node("Add", ["k", "c"], ["a"]), node("QuantizeLinear", ["a", "s", "zp"], ["q"]),
        node("DequantizeLinear", ["q", "s", "zp"], ["d"]), node("MatMul", ["d", "v"], ["n"]),
        node("Add", ["n", "b"], ["o"]), node("Cast", ["o"], ["y"], to=FLOAT),
    ], stored, ["n", 3], rank=2)  # fmt: skip
    assert channels(mo.compress(path)) == {}


# Values against bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_quantised_values_lie_between_their_bounds(seed, tmp_path):
    """Scales and zero points of all sizes, one or one for each channel; also ends that are ties."""
    rng = np.random.default_rng(seed)
    dtype = (np.uint8, np.int8)[seed % 2]
    info = np.iinfo(dtype)
    size = () if seed % 3 == 0 else (4,)
    scale = np.float32(2.0) ** rng.integers(-9, 4, size) * rng.choice([1.0, 1.1, 0.7], size)
    zero = rng.integers(info.min, info.max + 1, size)
    stored = {"s": scale.astype(np.float32), "z": zero.astype(dtype)}
    path = saved(tmp_path, [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1), node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ], stored, [2, 4, 3], rank=3)  # fmt: skip
    low = rng.normal(size=4) * 10.0 ** rng.integers(-3, 3)
    high = low + np.abs(rng.normal(size=4)) * 10.0 ** rng.integers(-3, 3)
    if seed % 4 == 0:  # ties
        low = np.broadcast_to(stored["s"], 4) * rng.choice([-1.5, 0.5, 2.5, 0.0], 4).astype(
            np.float64
        )
        high = low.copy()
    graph = mo.load(path)
    ranges = {"x": (low.reshape(4, 1), high.reshape(4, 1))}
    known = Known(graph.model, ranges)
    for name in ("q", "y"):
        found = known.of((graph.model.nodes[0 if name == "q" else 1].output, 1))
        for _ in range(50):
            x = low.reshape(4, 1) + (high - low).reshape(4, 1) * rng.choice(
                [0, 1, rng.random()], (2, 4, 3)
            )
            values = np.float64(x) / np.resize(stored["s"].astype(float), 4).reshape(4, 1)
            q = np.clip(np.rint(values) + np.resize(zero, 4).reshape(4, 1), info.min, info.max)
            y = (
                q
                if name == "q"
                else (q - np.resize(zero, 4).reshape(4, 1))
                * np.resize(stored["s"].astype(float), 4).reshape(4, 1)
            )
            room = 1e-12 * np.abs(y)
            assert (y >= found.low.reshape(4, 1) - room).all()
            assert (y <= found.high.reshape(4, 1) + room).all()
