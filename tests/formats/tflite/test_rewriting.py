"""Files of TensorFlow Lite with fewer units: what is written, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

import tflite
from lite import run
from tflite_models import File

import moduli as mo

RNG = np.random.default_rng(1)
CASES: dict[str, Callable[[File], tuple[int, ...]]] = {}
GONE = (1, 4)  # channels of six that nothing needs


def case(build: Callable[[File], tuple[int, ...]]) -> Callable[[File], tuple[int, ...]]:
    CASES[build.__name__] = build
    return build


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def filters(count: int, window: int, channels: int, dead: bool = True) -> Any:
    """Filters of a convolution, of which some are zero."""
    found = floats(count, window, window, channels)
    if dead:
        found[list(GONE)] = 0
    return found


def bias(count: int) -> Any:
    found = np.abs(floats(count))
    found[list(GONE)] = 0
    return found


def conv(f: File, x: int, w: Any, b: int | Any, name: str, **more: Any) -> int:
    """A convolution that keeps the size of an image of six by six."""
    weights = f.stored(w, f"{name}/w")
    biases = b if isinstance(b, int) else f.stored(b, f"{name}/b")
    y = f.value(1, 6, 6, w.shape[0])
    return f.add("CONV_2D", [x, weights, biases], y, "Conv2D", StrideW=1, StrideH=1, **more)


def start(f: File, **more: Any) -> int:
    x = f.input(1, 6, 6, 3, signature=(-1, 6, 6, 3))
    return conv(f, x, filters(6, 3, 3), bias(6), "first", FusedActivationFunction=1, **more)


def end(f: File, x: int, channels: int) -> int:
    return conv(f, x, filters(2, 3, channels, dead=False), floats(2), "last")


@case
def one_behind_the_other(f: File) -> tuple[int, ...]:
    return (end(f, start(f), 6),)


@case
def depthwise(f: File) -> tuple[int, ...]:
    x = start(f)
    w, b = f.stored(floats(1, 3, 3, 12)), f.stored(np.zeros(12, dtype=np.float32))
    y = f.value(1, 6, 6, 12)
    f.add(
        "DEPTHWISE_CONV_2D",
        [x, w, b],
        y,
        "DepthwiseConv2D",
        StrideW=1,
        StrideH=1,
        DepthMultiplier=2,
    )
    return (end(f, y, 12),)


@case
def flattened(f: File) -> tuple[int, ...]:
    y = f.add(
        "RESHAPE",
        [start(f), f.stored(np.array([-1, 216], dtype=np.int32))],
        f.value(1, 216),
        "Reshape",
        NewShape=[-1, 216],
    )
    w, b = f.stored(floats(3, 216), "dense/w"), f.stored(floats(3), "dense/b")
    z = f.add("FULLY_CONNECTED", [y, w, b], f.value(1, 3), "FullyConnected")
    return (f.add("SOFTMAX", [z], f.value(1, 3), "Softmax", Beta=1.0),)


@case
def pooled(f: File) -> tuple[int, ...]:
    axes = f.stored(np.array([1, 2], dtype=np.int32))
    y = f.add("MEAN", [start(f), axes], f.value(1, 6), "Reducer", KeepDims=False)
    w = f.stored(floats(3, 6), "dense/w")
    return (f.add("FULLY_CONNECTED", [y, w, -1], f.value(1, 3), "FullyConnected"),)


@case
def shared_biases(f: File) -> tuple[int, ...]:
    """Converters keep one tensor of zeros for all layers of a size."""
    zeros = f.stored(np.zeros(6, dtype=np.float32), "zeros")
    x = f.input(1, 6, 6, 3)
    y = conv(f, x, filters(6, 3, 3), zeros, "a", FusedActivationFunction=1)
    z = conv(f, y, filters(6, 1, 6, dead=False), zeros, "b", FusedActivationFunction=1)
    return (end(f, z, 6),)


@case
def branch_of_zeros(f: File) -> tuple[int, ...]:
    x = start(f)
    w = filters(6, 3, 6, dead=False) * 0
    y = conv(f, x, w, np.zeros(6, dtype=np.float32), "branch")
    z = f.add("ADD", [x, y], f.value(1, 6, 6, 6), "Add", FusedActivationFunction=1)
    return (end(f, z, 6),)


@case
def joined_and_cut(f: File) -> tuple[int, ...]:
    x = start(f)
    y = conv(f, x, filters(6, 1, 6), bias(6), "second", FusedActivationFunction=1)
    z = f.add("CONCATENATION", [x, y], f.value(1, 6, 6, 12), "Concatenation", Axis=3)
    begins, sizes = (f.stored(np.array(v, dtype=np.int32)) for v in ((0, 0, 0, 3), (1, 6, 6, 6)))
    cut = f.add("SLICE", [z, begins, sizes], f.value(1, 6, 6, 6))
    return (end(f, cut, 6),)


@case
def split_by_sizes(f: File) -> tuple[int, ...]:
    x = start(f)
    sizes, axis = f.stored(np.array([2, 4], dtype=np.int32)), f.stored(np.int32(3))
    parts = [f.value(1, 6, 6, 2), f.value(1, 6, 6, 4)]
    f.add("SPLIT_V", [x, sizes, axis], parts, "SplitV", NumSplits=2)
    return end(f, parts[0], 2), conv(f, parts[1], filters(2, 1, 4, dead=False), floats(2), "other")


@case
def half_precision(f: File) -> tuple[int, ...]:
    x = f.input(1, 6, 6, 3)
    w = f.stored(filters(6, 3, 3).astype(np.float16), "w16")
    b = f.stored(bias(6).astype(np.float16), "b16")
    real = f.add("DEQUANTIZE", [w], f.value(6, 3, 3, 3)), f.add("DEQUANTIZE", [b], f.value(6))
    y = f.add(
        "CONV_2D",
        [x, *real],
        f.value(1, 6, 6, 6),
        "Conv2D",
        StrideW=1,
        StrideH=1,
        FusedActivationFunction=1,
    )
    w = f.stored(filters(2, 3, 6, dead=False).astype(np.float16), "v16")
    b = f.stored(floats(2).astype(np.float16), "c16")
    real = f.add("DEQUANTIZE", [w], f.value(2, 3, 3, 6)), f.add("DEQUANTIZE", [b], f.value(2))
    return (f.add("CONV_2D", [y, *real], f.value(1, 6, 6, 2), "Conv2D", StrideW=1, StrideH=1),)


@case
def spread(f: File) -> tuple[int, ...]:
    x = start(f)
    size, w = f.stored(np.array([1, 12, 12, 6], dtype=np.int32)), filters(6, 3, 6)
    y = f.add(
        "TRANSPOSE_CONV",
        [size, f.stored(w), x],
        f.value(1, 12, 12, 6),
        "TransposeConv",
        StrideW=2,
        StrideH=2,
    )
    z = f.add("LEAKY_RELU", [y], f.value(1, 12, 12, 6), "LeakyRelu", Alpha=0.1)
    w = f.stored(filters(2, 1, 6, dead=False))
    return (
        f.add(
            "CONV_2D",
            [z, w, f.stored(floats(2))],
            f.value(1, 12, 12, 2),
            "Conv2D",
            StrideW=1,
            StrideH=1,
        ),
    )


@case
def slopes_and_pads(f: File) -> tuple[int, ...]:
    x = f.input(1, 6, 6, 3)
    y = conv(f, x, filters(6, 3, 3), bias(6), "first")
    z = f.add("PRELU", [y, f.stored(floats(1, 1, 6), "slopes")], f.value(1, 6, 6, 6))
    amounts = f.stored(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], dtype=np.int32))
    p = f.add("PAD", [z, amounts], f.value(1, 8, 8, 6))
    w = f.stored(filters(2, 3, 6, dead=False))
    return (
        f.add(
            "CONV_2D",
            [p, w, f.stored(floats(2))],
            f.value(1, 6, 6, 2),
            "Conv2D",
            Padding=1,
            StrideW=1,
            StrideH=1,
        ),
    )


def numbers(*shape: int) -> Any:
    return RNG.integers(-127, 128, shape).astype(np.int8)


@case
def eight_bits(f: File) -> tuple[int, ...]:
    x = f.input(1, 6, 6, 3, dtype="int8", scale=0.05, zero=-4)
    w = numbers(6, 3, 3, 3)
    w[list(GONE)] = 0
    scales = np.linspace(0.01, 0.02, 6).astype(np.float32)
    biases = RNG.integers(0, 500, 6).astype(np.int32)
    biases[list(GONE)] = 0
    w, b = f.stored(w, "w", scale=scales), f.stored(biases, "b", scale=scales * np.float32(0.05))
    y = f.value(1, 6, 6, 6, dtype="int8", scale=0.1, zero=-128)
    f.add("CONV_2D", [x, w, b], y, "Conv2D", StrideW=1, StrideH=1, FusedActivationFunction=1)
    v = f.stored(numbers(1, 3, 3, 6), "v", scale=scales, axis=3)
    c = f.stored(np.zeros(6, dtype=np.int32), "c", scale=scales * np.float32(0.1))
    z = f.value(1, 6, 6, 6, dtype="int8", scale=0.2, zero=-128)
    f.add(
        "DEPTHWISE_CONV_2D",
        [y, v, c],
        z,
        "DepthwiseConv2D",
        StrideW=1,
        StrideH=1,
        DepthMultiplier=1,
        FusedActivationFunction=1,
    )
    u, d = (
        f.stored(numbers(2, 3, 3, 6), "u", scale=0.01),
        f.stored(np.array([9, -9], dtype=np.int32), "d", scale=0.002),
    )
    return (
        f.add(
            "CONV_2D",
            [z, u, d],
            f.value(1, 6, 6, 2, dtype="int8", scale=0.5, zero=3),
            "Conv2D",
            StrideW=1,
            StrideH=1,
        ),
    )


def given(f: File) -> list[Any]:
    return [
        numbers(*f.tensors[k].shape)
        if f.tensors[k].dtype == "int8"
        else floats(*f.tensors[k].shape)
        for k in f.inputs
    ]


def names(data: bytes) -> list[str]:
    graph = tflite.Model.GetRootAs(data, 0).Subgraphs(0)
    return [graph.Tensors(k).Name().decode() for k in range(graph.TensorsLength())]


@pytest.mark.parametrize("name", CASES)
def test_a_smaller_file_computes_the_same(tmp_path, name):
    f = File()
    outputs = CASES[name](f)
    data, inputs = f.write(*outputs), given(f)
    large = tmp_path / "large.tflite"
    large.write_bytes(data)
    small = mo.compress(mo.load(large))
    target = mo.save(small.network, tmp_path / "small.tflite")
    small.save(tmp_path / "small.cert.json")
    mo.check(tmp_path / "small.cert.json", target, large)
    written = target.read_bytes()
    assert len(written) < len(data)
    for ours, theirs in zip(run(written, *inputs), run(data, *inputs), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
    units = [axis.size for axis in mo.load(large).axes if axis.frozen is None]
    left = [axis.size for axis in mo.load(target).axes if axis.frozen is None]
    assert sum(left) <= sum(units) - 2, (units, left)
    assert set(names(written)) <= set(names(data)) | {n for n in names(written) if ":" in n}
    for side in ("x0", outputs and f.tensors[outputs[0]].name):
        assert side in names(written)


@pytest.mark.parametrize("name", CASES)
def test_what_nobody_changes_stays(tmp_path, name):
    f = File()
    outputs = CASES[name](f)
    (tmp_path / "a.tflite").write_bytes(f.write(*outputs))
    small = mo.compress(mo.load(tmp_path / "a.tflite")).network
    model = tflite.Model.GetRootAs(mo.save(small, tmp_path / "b.tflite").read_bytes(), 0)
    assert model.Description() == b"made by a test"
    assert model.Metadata(0).Name() == b"note"
    signature = model.SignatureDefs(0)
    assert signature.SignatureKey() == b"serving_default"
    graph = model.Subgraphs(0)
    assert graph.Name() == b"main"
    places = [graph.Inputs(k) for k in range(graph.InputsLength())]
    assert [signature.Inputs(k).TensorIndex() for k in range(len(places))] == places
    assert list(graph.Tensors(places[0]).ShapeAsNumpy()) == list(f.tensors[f.inputs[0]].shape)
