"""Weights of four bits and scales of blocks, beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.formats import load_as_written
from moduli.kernel.errors import UnsupportedModel

INSIDE, OUTSIDE, BLOCK = 64, 6, 16
BOX = mo.Box(-1, 1)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(path, nodes, tensors, rank=2):
    shape = ["n", *(3 for _ in range(rank - 2)), INSIDE]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], OUTSIDE])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def blocks(path, kind, axis, zeros, layout="raw", wrong=None):
    """x W + b behind a ReLU, W of [in, out] or its transpose, a scale for each block along the inputs."""
    shape = (INSIDE, OUTSIDE) if axis == 0 else (OUTSIDE, INSIDE)
    low, high = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127)}[kind]
    rng = np.random.default_rng(1)
    q = rng.integers(low, high + 1, shape)
    few = tuple(n // BLOCK if i == axis else n for i, n in enumerate(shape))
    scale = rng.uniform(0.01, 0.1, few).astype(np.float32)
    zero = rng.integers(low, high + 1, few) if zeros else np.zeros(few, dtype=int)
    code = getattr(TensorProto, kind)

    def stored(name, numbers):
        tensor = helper.make_tensor(name, code, numbers.shape, numbers.ravel().tolist())
        if layout == "raw" and kind != "INT8":
            packed = bytes(tensor.int32_data)
            tensor.ClearField("int32_data")
            tensor.raw_data = packed
        return tensor

    tensors = [stored("q", q), numpy_helper.from_array(scale, "s")]
    if zeros:
        tensors.append(stored("z", zero))
    tensors.append(numpy_helper.from_array(drawn(OUTSIDE), "b"))
    names = ["q", "s", "z"] if zeros else ["q", "s"]
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("DequantizeLinear", names, ["W"], axis=axis, block_size=wrong or BLOCK),
        helper.make_node("Gemm", ["h", "W", "b"], ["y"], transB=int(axis == 1)),
    ]
    spread = (np.repeat(part, BLOCK, axis=axis) for part in (zero, scale.astype(float)))
    zero, scale = spread
    return model(path, nodes, tensors), (q - zero) * scale


def packed(rows):
    """Entries of four bits along the last axis, two in a byte, the lower bits first."""
    if rows.shape[-1] % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[..., :1])], axis=-1)
    return (rows[..., 0::2] | rows[..., 1::2] << 4).astype(np.uint8)


def product(path, zeros=True, bias=True, rank=2, block=BLOCK, **attributes):
    rng = np.random.default_rng(2)
    count = INSIDE // block
    q = rng.integers(0, 16, (OUTSIDE, count, block))
    scale = rng.uniform(0.01, 0.1, (OUTSIDE, count)).astype(np.float32)
    zero = rng.integers(0, 16, (OUTSIDE, count)) if zeros else np.full((OUTSIDE, count), 8)
    tensors = [
        numpy_helper.from_array(packed(q), "q"),
        numpy_helper.from_array(scale.ravel(), "s"),
    ]
    if zeros:
        tensors.append(numpy_helper.from_array(packed(zero).ravel(), "z"))
    if bias:
        tensors.append(numpy_helper.from_array(drawn(OUTSIDE), "b"))
    names = ["h", "q", "s", "z" if zeros else "", "", "b" if bias else ""]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft",
        **{"K": INSIDE, "N": OUTSIDE, "bits": 4, "block_size": block} | attributes,
    )  # fmt: skip
    weight = ((q - zero[..., None]) * scale[..., None].astype(float)).reshape(OUTSIDE, INSIDE)
    return model(path, [helper.make_node("Relu", ["x"], ["h"]), node], tensors, rank), weight.T


def session(path):
    """One that rounds no inputs of products to integers."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(path, options)


def agree(path, rank=2):
    x = drawn(50, *(3 for _ in range(rank - 2)), INSIDE, seed=5)
    (wanted,) = session(path).run(None, {"x": x})
    graph = load_as_written(path)
    assert not any(note.startswith("opaque") for note in graph.source.notes)
    assert np.abs(np.asarray(graph(x)) - wanted).max() < 1e-4 * np.abs(wanted).max()
    return graph


@pytest.mark.parametrize("layout", ["raw", "ints"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT8"])
def test_blocks(tmp_path, kind, axis, zeros, layout):
    path, weight = blocks(tmp_path / "a.onnx", kind, axis, zeros, layout)
    agree(path)
    weight = weight if axis == 0 else weight.T
    x = drawn(20, INSIDE, seed=6).astype(float)
    found = mo.load(path)(x)
    assert np.abs(found - (np.maximum(x, 0) @ weight + drawn(OUTSIDE))).max() < 1e-12


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_products(tmp_path, block, zeros, bias, rank):
    path, weight = product(tmp_path / "a.onnx", zeros, bias, rank, block)
    graph = agree(path, rank)
    x = drawn(20, *(3 for _ in range(rank - 2)), INSIDE, seed=6).astype(float)
    wanted = np.maximum(x, 0) @ weight + (drawn(OUTSIDE) if bias else 0)
    assert np.abs(np.asarray(graph(x)) - wanted).max() < 1e-12


def plain(path, weight):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Gemm", ["h", "W", "b"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(weight.astype(np.float32), "W"),
        numpy_helper.from_array(drawn(OUTSIDE), "b"),
    ]
    return model(path, nodes, tensors)


@pytest.mark.parametrize("make", [product, lambda p: blocks(p, "UINT4", 0, True)])
def test_distance_to_its_floats(tmp_path, make):
    path, weight = make(tmp_path / "a.onnx")
    moved = weight + 0.01 * drawn(*weight.shape, seed=7)
    other = plain(tmp_path / "b.onnx", moved)
    found = mo.distance(other, path, on=BOX, budget=50)
    difference = moved.astype(np.float32).astype(float) - weight
    wanted = max(np.maximum(part, 0).sum(axis=0).max() for part in (difference, -difference))
    assert found.lower <= wanted <= found.upper <= 1.001 * wanted


def test_what_is_refused(tmp_path):
    path, _ = product(tmp_path / "a.onnx")
    with pytest.raises(mo.Undecided, match="nobody says how a runtime computes MatMulNBits"):
        mo.rounding(path, on=BOX)
    graph = load_as_written(path)
    with pytest.raises(UnsupportedModel, match=r"scale for each block.*copy the file"):
        mo.save(graph, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
    for other in (
        product(tmp_path / "c.onnx", accuracy_level=4)[0],  # may round what it reads to integers
        product(tmp_path / "d.onnx", bits=2)[0],
        product(tmp_path / "e.onnx", K=INSIDE - 1)[0],
        product(tmp_path / "f.onnx", N=OUTSIDE - 1)[0],
        blocks(tmp_path / "g.onnx", "INT4", 0, True, wrong=7)[0],
    ):
        notes = load_as_written(other).source.notes
        assert any(note.startswith("opaque") for note in notes), other


def test_what_runtimes_round_is_not_bounded(tmp_path):
    """onnxruntime rounds the other factor to 8 bits, unless it is told not to."""
    path, _ = blocks(tmp_path / "a.onnx", "INT4", 0, True)
    x = np.random.default_rng(1).uniform(-1, 1, (500, INSIDE)).astype(np.float32)
    (told,) = session(path).run(None, {"x": x})
    wanted = np.asarray(load_as_written(path)(x.astype(float)))
    assert np.abs(told - wanted).max() < 1e-4
    notes = load_as_written(path).source.notes
    assert any("a runtime may round what they are multiplied with" in note for note in notes)
    with pytest.raises(mo.Undecided, match="weights stored as integers"):
        mo.rounding(path, on=BOX, budget=50)


@pytest.mark.parametrize("size", [-1, 2**16 + 1, 2**62])
def test_blocks_larger_than_any(tmp_path, size):
    path, _ = blocks(tmp_path / "a.onnx", "INT8", 0, True, wrong=size)
    with pytest.raises(UnsupportedModel, match="has blocks of"):
        load_as_written(path)


def test_a_function_in_the_place_of_a_product(tmp_path):
    path, _ = product(tmp_path / "a.onnx")
    proto = onnx.load(path)
    body = [helper.make_node("Identity", ["a"], ["y"])]
    proto.functions.append(
        helper.make_function(
            "com.microsoft", "MatMulNBits", ["a", "q", "s", "z", "g", "b"], ["y"], body,
            [helper.make_opsetid("", 21)], ["K", "N", "bits", "block_size"],
        )
    )  # fmt: skip
    onnx.save(proto, path)
    for read in (mo.load, load_as_written):
        with pytest.raises(UnsupportedModel, match="MatMulNBits of its own"):
            read(path)


def test_four_bits_elsewhere(tmp_path):
    zero = helper.make_tensor("z", TensorProto.INT4, (), [0])
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),  # which is cut at four bits
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"]),
        helper.make_node("MatMul", ["h", "W"], ["y"]),
    ]
    tensors = [zero, scale, numpy_helper.from_array(drawn(INSIDE, OUTSIDE), "W")]
    path = model(tmp_path / "a.onnx", nodes, tensors)
    for read in (mo.load, load_as_written):
        with pytest.raises(UnsupportedModel, match=r"tensor 'z', read by QuantizeLinear"):
            read(path)


@pytest.mark.parametrize("size", [0, 191, 193])
def test_wrong_sizes(tmp_path, size):
    path, _ = blocks(tmp_path / "a.onnx", "INT4", 0, True)
    damaged = onnx.load(path)
    damaged.graph.initializer[0].raw_data = bytes(size)
    onnx.save(damaged, path)
    with pytest.raises(UnsupportedModel, match=f"takes 192 bytes, but stores {size}"):
        mo.load(path)


def test_beside_the_model(tmp_path):
    path, _ = blocks(tmp_path / "a.onnx", "UINT4", 0, True)
    wanted = np.asarray(load_as_written(path)(drawn(5, INSIDE)))
    apart = onnx.load(path)
    onnx.save(apart, tmp_path / "b.onnx", save_as_external_data=True, size_threshold=0)
    found = np.asarray(load_as_written(tmp_path / "b.onnx")(drawn(5, INSIDE)))
    assert (found == wanted).all()
    (tmp_path / "out").mkdir()
    onnx.save(onnx.load(tmp_path / "b.onnx", load_external_data=False), tmp_path / "out/b.onnx")
    with pytest.raises(UnsupportedModel):
        mo.load(tmp_path / "out/b.onnx")
