"""Each operator against the kernels of TensorFlow Lite, in files that the test writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

from lite import run
from tflite_models import File

import moduli as mo
from moduli.formats.tflite.tflite_files import load

RNG = np.random.default_rng(0)
SAME, VALID = 0, 1


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


def compared(file: bytes, *inputs: Any, rtol: float = 1e-5, atol: float = 1e-6) -> mo.Graph:
    """The graph of a file, whose outputs are those of TensorFlow Lite."""
    graph = load(file, "made.tflite")
    expected = run(file, *inputs)
    found = graph(dict(zip(graph.inputs, inputs, strict=True)))
    for name, wanted in zip(graph.outputs, expected, strict=True):
        assert found[name].shape == wanted.shape
        assert np.allclose(found[name], wanted, rtol=rtol, atol=atol), np.abs(
            found[name] - wanted
        ).max()
    return graph


def one(
    kind: str, shape: tuple[int, ...], options: str = "", **fields: Any
) -> tuple[bytes, list[Any]]:
    """A file of one operator of one input, which keeps its shape."""
    f = File()
    x = f.input(*shape)
    y = f.add(kind, [x], f.value(*shape), options, **fields)
    return f.write(y), [floats(*shape)]


# Convolutions ---------------------------------------------------------------------------------------------------

WINDOWS = [
    (SAME, 1, 1, (7, 6), 3), (SAME, 2, 1, (7, 6), 3), (SAME, 2, 1, (8, 8), 2), (VALID, 2, 1, (7, 6), 3),
    (SAME, 1, 2, (7, 6), 3), (VALID, 1, 2, (7, 6), 2), (SAME, 3, 1, (5, 5), 1), (SAME, 3, 1, (10, 11), 4),
]  # fmt: skip


def after(n: int, padding: int, stride: int, dilation: int, window: int) -> int:
    reach = (window - 1) * dilation + 1
    return -(-n // stride) if padding == SAME else -(-(n - reach + 1) // stride)


@pytest.mark.parametrize(("padding", "stride", "dilation", "size", "window"), WINDOWS)
@pytest.mark.parametrize("activation", [0, 1, 3])
def test_convolutions(padding, stride, dilation, size, window, activation):
    f = File()
    x = f.input(1, *size, 3)
    w, b = f.stored(floats(4, window, window, 3), "w"), f.stored(floats(4), "b")
    made = [after(n, padding, stride, dilation, window) for n in size]
    y = f.add(
        "CONV_2D", [x, w, b], f.value(1, *made, 4), "Conv2D", Padding=padding, StrideW=stride,
        StrideH=stride, DilationWFactor=dilation, DilationHFactor=dilation,
        FusedActivationFunction=activation,
    )  # fmt: skip
    graph = compared(f.write(y), floats(1, *size, 3))
    assert any(axis.name == "w" and axis.size == 4 for axis in graph.axes)


@pytest.mark.parametrize(("padding", "stride", "dilation", "size", "window"), WINDOWS)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions(padding, stride, dilation, size, window, multiplier):
    f = File()
    x = f.input(1, *size, 3)
    w, b = f.stored(floats(1, window, window, 3 * multiplier)), f.stored(floats(3 * multiplier))
    made = [after(n, padding, stride, dilation, window) for n in size]
    y = f.add(
        "DEPTHWISE_CONV_2D", [x, w, b], f.value(1, *made, 3 * multiplier), "DepthwiseConv2D",
        Padding=padding, StrideW=stride, StrideH=stride, DilationWFactor=dilation,
        DilationHFactor=dilation, DepthMultiplier=multiplier,
    )  # fmt: skip
    compared(f.write(y), floats(1, *size, 3))


def test_grouped_convolutions():
    f = File()
    x = f.input(1, 5, 5, 6)
    w, b = f.stored(floats(4, 3, 3, 3)), f.stored(floats(4))
    y = f.add("CONV_2D", [x, w, b], f.value(1, 5, 5, 4), "Conv2D", StrideW=1, StrideH=1)
    compared(f.write(y), floats(1, 5, 5, 6))


@pytest.mark.parametrize(
    ("padding", "stride", "n", "m", "window"),
    [(SAME, 2, 4, 8, 3), (SAME, 2, 4, 7, 3), (VALID, 2, 4, 9, 3), (SAME, 1, 5, 5, 3), (VALID, 3, 3, 9, 2),
     (SAME, 2, 4, 8, 2), (SAME, 3, 3, 9, 2), (VALID, 2, 4, 8, 2), (SAME, 2, 3, 6, 5)],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions(padding, stride, n, m, window, bias):
    f = File()
    size, w = f.stored(ints(1, m, m, 2)), f.stored(floats(2, window, window, 3))
    x = f.input(1, n, n, 3)
    more = [f.stored(floats(2))] if bias else []
    y = f.add(
        "TRANSPOSE_CONV", [size, w, x, *more], f.value(1, m, m, 2), "TransposeConv", Padding=padding,
        StrideW=stride, StrideH=stride,
    )  # fmt: skip
    graph = compared(f.write(y), floats(1, n, n, 3))
    assert not graph.source.notes, graph.source.notes


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(("stride", "window"), [(1, 3), (2, 3), (2, 2), (3, 3)])
def test_pools(kind, padding, stride, window):
    f = File()
    x = f.input(1, 7, 8, 3)
    made = [after(n, padding, stride, 1, window) for n in (7, 8)]
    y = f.add(
        kind, [x], f.value(1, *made, 3), "Pool2D", Padding=padding, StrideW=stride, StrideH=stride,
        FilterWidth=window, FilterHeight=window, FusedActivationFunction=2,
    )  # fmt: skip
    compared(f.write(y), floats(1, 7, 8, 3))


# Dense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("shape", "keep"), [((2, 5), False), ((2, 3, 5), False), ((2, 3, 5), True)]
)
def test_fully_connected(activation, bias, shape, keep):
    f = File()
    x, w = f.input(*shape), f.stored(floats(4, 5))
    b = f.stored(floats(4)) if bias else -1
    made = (*shape[:-1], 4) if keep else (int(np.prod(shape)) // 5, 4)
    y = f.add(
        "FULLY_CONNECTED", [x, w, b], f.value(*made), "FullyConnected",
        FusedActivationFunction=activation, KeepNumDims=keep,
    )  # fmt: skip
    compared(f.write(y), floats(*shape))


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_batch_matmul(turned):
    f = File()
    a, b = [(2, 3, 4), (2, 4, 5)]
    a = (2, 4, 3) if turned[0] else a
    b = (2, 5, 4) if turned[1] else b
    x, z = f.input(*a), f.input(*b)
    y = f.add(
        "BATCH_MATMUL", [x, z], f.value(2, 3, 5), "BatchMatMul", AdjX=turned[0], AdjY=turned[1]
    )
    compared(f.write(y), floats(*a), floats(*b))


# Entry by entry -------------------------------------------------------------------------------------------------

UNARY = {
    "RELU": {}, "RELU6": {}, "RELU_N1_TO_1": {}, "RELU_0_TO_1": {}, "TANH": {}, "LOGISTIC": {},
    "HARD_SWISH": {}, "ELU": {}, "EXP": {}, "ABS": {}, "NEG": {}, "FLOOR": {}, "CEIL": {}, "SIN": {},
    "COS": {}, "SQUARE": {}, "ROUND": {}, "LOG_SOFTMAX": {},
    "LEAKY_RELU": {"options": "LeakyRelu", "Alpha": 0.2},
    "SOFTMAX": {"options": "Softmax", "Beta": 1.0},
    "GELU": {"options": "Gelu", "Approximate": False},
}  # fmt: skip


@pytest.mark.parametrize("kind", UNARY)
def test_functions(kind):
    file, inputs = one(kind, (1, 3, 4, 5), **UNARY[kind])
    compared(file, *inputs)


@pytest.mark.parametrize("kind", ["SQRT", "RSQRT", "LOG"])
def test_functions_of_positive_numbers(kind):
    file, inputs = one(kind, (2, 5))
    compared(file, np.abs(inputs[0]) + 0.1)


def test_functions_with_options():
    file, inputs = one("GELU", (2, 5), "Gelu", Approximate=True)
    compared(file, *inputs)
    file, inputs = one("SOFTMAX", (2, 5), "Softmax", Beta=2.5)
    compared(file, *inputs)


BINARY = ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"]


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("other", [(1, 3, 4, 5), (5,), (1, 1, 1, 5), (), (4, 5)])
@pytest.mark.parametrize("stored", [False, True])
def test_arithmetic(kind, other, stored):
    f = File()
    x = f.input(1, 3, 4, 5)
    numbers = (np.abs(floats(*other)) + 0.5).astype(np.float32)
    z = f.stored(numbers) if stored else f.input(*other)
    name = kind.title() if kind in ("ADD", "SUB", "MUL", "DIV") else ""
    fields = {"FusedActivationFunction": 1} if name else {}
    y = f.add(kind, [x, z], f.value(1, 3, 4, 5), name, **fields)
    compared(f.write(y), floats(1, 3, 4, 5), *([] if stored else [numbers]))


def test_prelu_and_sums_between_convolutions_stay_with_channels_first():
    f = File()
    x = f.input(1, 6, 6, 2)
    values = []
    for name in ("a", "b"):
        w, b = f.stored(floats(4, 3, 3, 2), f"{name}/w"), f.stored(floats(4), f"{name}/b")
        values.append(
            f.add("CONV_2D", [x, w, b], f.value(1, 6, 6, 4), "Conv2D", StrideW=1, StrideH=1)
        )
    total = f.add("ADD", values, f.value(1, 6, 6, 4), "Add", FusedActivationFunction=1)
    slopes = f.stored(floats(1, 1, 4), "slopes")
    bent = f.add("PRELU", [total, slopes], f.value(1, 6, 6, 4))
    w, b = f.stored(floats(3, 1, 1, 4), "c/w"), f.stored(floats(3), "c/b")
    y = f.add("CONV_2D", [bent, w, b], f.value(1, 6, 6, 3), "Conv2D", StrideW=1, StrideH=1)
    graph = compared(f.write(y), floats(1, 6, 6, 2))
    turns = [node for node in graph.model.nodes if type(node.op).__name__ == "Transpose"]
    assert len(turns) == 2  # of the input and the output
    (axis,) = [axis for axis in graph.axes if axis.size == 4]
    assert axis.frozen is None
    assert axis.writers == ("a/w", "b/w")
    assert "slopes" in axis.carriers


# Axes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("axes", [(1, 2), (3,), (-1,), (1,), (0, 1, 2, 3)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_reductions(kind, axes, keep, behind):
    f = File()
    x, shape = f.input(1, 5, 6, 3), (1, 5, 6, 3)
    if behind:  # of a convolution, with channels first
        w, b = f.stored(floats(3, 1, 1, 3)), f.stored(floats(3))
        x = f.add("CONV_2D", [x, w, b], f.value(*shape), "Conv2D", StrideW=1, StrideH=1)
    made = np.zeros(shape).sum(axis=tuple(a % 4 for a in axes), keepdims=keep).shape
    y = f.add(kind, [x, f.stored(ints(*axes))], f.value(*made), "Reducer", KeepDims=keep)
    compared(f.write(y), floats(*shape))


def test_pads():
    for kind, more, mode in (("PAD", (), None), ("PADV2", (1.5,), None), ("MIRROR_PAD", (), 0)):
        f = File()
        x = f.input(1, 4, 5, 2)
        amounts = f.stored(np.array([[0, 0], [1, 2], [0, 3], [0, 0]], dtype=np.int32))
        values = [f.stored(np.float32(v)) for v in more]
        options = {} if mode is None else {"options": "MirrorPad", "Mode": mode}
        y = f.add(kind, [x, amounts, *values], f.value(1, 7, 8, 2), **options)
        compared(f.write(y), floats(1, 4, 5, 2))


def test_mirrors_with_the_border_are_opaque():
    f = File()
    x = f.input(1, 4)
    amounts = f.stored(np.array([[0, 0], [1, 2]], dtype=np.int32))
    y = f.add("MIRROR_PAD", [x, amounts], f.value(1, 7), "MirrorPad", Mode=1)
    graph = load(f.write(y), "made.tflite")
    assert any("mirrors with the border" in note for note in graph.notes)


MOVES: dict[str, Callable[[File], tuple[int, ...]]] = {}


def move(build: Callable[[File], tuple[int, ...]]) -> Callable[[File], tuple[int, ...]]:
    MOVES[build.__name__] = build
    return build


@move
def reshape(f: File) -> tuple[int, ...]:
    x = f.input(2, 3, 4)
    y = f.add("RESHAPE", [x, f.stored(ints(2, -1))], f.value(2, 12), "Reshape", NewShape=[2, 12])
    return (f.add("RESHAPE", [y], f.value(4, 6), "Reshape", NewShape=[4, 6]),)


@move
def squeeze_and_expand(f: File) -> tuple[int, ...]:
    x = f.input(1, 3, 1, 4)
    y = f.add("SQUEEZE", [x], f.value(3, 1, 4), "Squeeze", SqueezeDims=[0])
    z = f.add("SQUEEZE", [y], f.value(3, 4))
    return (f.add("EXPAND_DIMS", [z, f.stored(ints(-1))], f.value(3, 4, 1)),)


@move
def transpose(f: File) -> tuple[int, ...]:
    x = f.input(1, 3, 5, 4)
    return (f.add("TRANSPOSE", [x, f.stored(ints(0, 3, 1, 2))], f.value(1, 4, 3, 5)),)


@move
def concatenation(f: File) -> tuple[int, ...]:
    a, b, c = f.input(1, 3, 5, 4), f.input(1, 3, 5, 2), f.stored(floats(1, 3, 5, 1))
    return (f.add("CONCATENATION", [a, b, c], f.value(1, 3, 5, 7), "Concatenation", Axis=-1),)


@move
def split(f: File) -> tuple[int, ...]:
    x = f.input(1, 3, 5, 6)
    parts = [f.value(1, 3, 5, 2) for _ in range(3)]
    return tuple(f.add("SPLIT", [f.stored(ints(3)), x], parts, "Split", NumSplits=3))


@move
def split_v(f: File) -> tuple[int, ...]:
    x = f.input(2, 6)
    parts = [f.value(2, 1), f.value(2, 5)]
    operands = [x, f.stored(ints(1, -1)), f.stored(ints(1))]
    return tuple(f.add("SPLIT_V", operands, parts, "SplitV", NumSplits=2))


@move
def slice_(f: File) -> tuple[int, ...]:
    x = f.input(1, 4, 5, 6)
    return (
        f.add(
            "SLICE",
            [x, f.stored(ints(0, 1, 0, 2)), f.stored(ints(1, 2, -1, 3))],
            f.value(1, 2, 5, 3),
        ),
    )


@move
def strided_slice(f: File) -> tuple[int, ...]:
    x = f.input(2, 6, 5)
    operands = [f.stored(ints(*v)) for v in ((1, 5, 0), (0, -7, 5), (1, -2, 2))]
    return (
        f.add(
            "STRIDED_SLICE", [x, *operands], f.value(3, 3), "StridedSlice", ShrinkAxisMask=1, BeginMask=4,
        ),
    )  # fmt: skip


@move
def gather(f: File) -> tuple[int, ...]:
    x = f.input(3, 5)
    return (f.add("GATHER", [x, f.stored(ints(4, 0, 0))], f.value(3, 3), "Gather", Axis=1),)


@move
def pack_and_unpack(f: File) -> tuple[int, ...]:
    a, b = f.input(2, 3), f.input(2, 3)
    y = f.add("PACK", [a, b], f.value(2, 2, 3), "Pack", ValuesCount=2, Axis=1)
    return tuple(f.add("UNPACK", [y], [f.value(2, 2) for _ in range(3)], "Unpack", Num=3, Axis=2))


@move
def depth_to_space(f: File) -> tuple[int, ...]:
    x = f.input(1, 2, 3, 8)
    y = f.add("DEPTH_TO_SPACE", [x], f.value(1, 4, 6, 2), "DepthToSpace", BlockSize=2)
    return (f.add("SPACE_TO_DEPTH", [y], f.value(1, 2, 3, 8), "SpaceToDepth", BlockSize=2), y)


@move
def tile(f: File) -> tuple[int, ...]:
    return (f.add("TILE", [f.input(2, 3), f.stored(ints(2, 1))], f.value(4, 3)),)


@move
def broadcast_to(f: File) -> tuple[int, ...]:
    return (f.add("BROADCAST_TO", [f.input(1, 3), f.stored(ints(4, 3))], f.value(4, 3)),)


@move
def sizes(f: File) -> tuple[int, ...]:
    """A flattening whose target is made of the shape of what it flattens."""
    x = f.input(1, 2, 3, 4)
    w, b = f.stored(floats(4, 1, 1, 4)), f.stored(floats(4))
    y = f.add("CONV_2D", [x, w, b], f.value(1, 2, 3, 4), "Conv2D", StrideW=1, StrideH=1)
    shape = f.add("SHAPE", [y], f.value(4, dtype="int32"), "Shape", OutType=2)
    ends = [f.stored(ints(v)) for v in (0, 1, 1)]
    first = f.add(
        "STRIDED_SLICE", [shape, *ends], f.value(dtype="int32"), "StridedSlice", ShrinkAxisMask=1
    )
    rest = f.stored(np.int32(-1))
    target = f.add("PACK", [first, rest], f.value(2, dtype="int32"), "Pack", ValuesCount=2)
    return (f.add("RESHAPE", [y, target], f.value(1, 24)),)


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    f = File()
    outputs = MOVES[name](f)
    inputs = [floats(*f.tensors[k].shape) for k in f.inputs]
    graph = compared(f.write(*outputs), *inputs)
    assert not graph.notes


@pytest.mark.parametrize("kind", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize("mode", [{}, {"AlignCorners": True}, {"HalfPixelCenters": True}])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 2), (4, 3), (1, 5), (13, 11)])
def test_resizes(kind, mode, size):
    f = File()
    x = f.input(1, 4, 3, 2)
    name = "ResizeBilinear" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighbor"
    y = f.add(kind, [x, f.stored(ints(*size))], f.value(1, *size, 2), name, **mode)
    graph = compared(f.write(y), floats(1, 4, 3, 2))
    assert not graph.notes


# Halves and integers --------------------------------------------------------------------------------------------


def test_half_precision_weights_are_exact():
    f = File()
    x = f.input(1, 5, 5, 2)
    half = f.stored(floats(3, 3, 3, 2).astype(np.float16), "w16")
    bias = f.stored(floats(3).astype(np.float16), "b16")
    w = f.add("DEQUANTIZE", [half], f.value(3, 3, 3, 2))
    b = f.add("DEQUANTIZE", [bias], f.value(3))
    y = f.add("CONV_2D", [x, w, b], f.value(1, 5, 5, 3), "Conv2D", StrideW=1, StrideH=1)
    graph = compared(f.write(y), floats(1, 5, 5, 2))
    assert not any("opaque" in note for note in graph.notes)


def test_dynamic_range_weights_say_that_activations_are_rounded_on_the_fly():
    f = File()
    x = f.input(2, 8)
    w = f.stored(RNG.integers(-127, 128, (4, 8)).astype(np.int8), "w", scale=0.01)
    y = f.add(
        "FULLY_CONNECTED",
        [x, w, -1],
        f.value(2, 4),
        "FullyConnected",
        AsymmetricQuantizeInputs=True,
    )
    graph = compared(f.write(y), floats(2, 8), atol=0.2)
    assert any("on the fly" in note for note in graph.notes)


def quantised(f: File, *shape: int, scale: float = 0.05, zero: int = 3, dtype: str = "int8") -> int:
    return f.value(*shape, dtype=dtype, scale=scale, zero=zero)


def numbers(*shape: int, dtype: str = "int8") -> Any:
    ends = np.iinfo(dtype)
    return RNG.integers(ends.min, ends.max + 1, shape).astype(dtype)


def steps(file: bytes, *inputs: Any, most: int = 1) -> mo.Graph:
    """The graph of a quantised file, whose outputs are a few steps from those of the kernels."""
    graph = load(file, "made.tflite")
    found = graph(dict(zip(graph.inputs, inputs, strict=True)))
    for name, wanted in zip(graph.outputs, run(file, *inputs), strict=True):
        apart = np.abs(found[name].astype(np.int64) - wanted.astype(np.int64))
        assert apart.max() <= most
    return graph


@pytest.mark.parametrize("channelwise", [False, True])
@pytest.mark.parametrize("activation", [0, 1, 3])
def test_quantised_convolutions(channelwise, activation):
    f = File()
    x = f.input(1, 6, 6, 3, dtype="int8", scale=0.05, zero=-4)
    scale = (
        np.array([0.01, 0.02, 0.005, 0.03], dtype=np.float32) if channelwise else np.float32(0.01)
    )
    w = f.stored(numbers(4, 3, 3, 3), "w", scale=scale)
    bias = RNG.integers(-2000, 2000, 4).astype(np.int32)
    b = f.stored(bias, "b", scale=scale * np.float32(0.05))
    y = f.add(
        "CONV_2D", [x, w, b], quantised(f, 1, 6, 6, 4, scale=0.4), "Conv2D", StrideW=1, StrideH=1,
        FusedActivationFunction=activation,
    )  # fmt: skip
    graph = steps(f.write(y), numbers(1, 6, 6, 3))
    assert any("fixed point" in note for note in graph.notes)
    assert any(axis.name == "w" and axis.size == 4 for axis in graph.axes)


def test_quantised_depthwise_dense_pools_and_softmax():
    f = File()
    x = f.input(1, 6, 6, 4, dtype="int8", scale=0.05, zero=-4)
    scale = np.array([0.01, 0.02, 0.005, 0.03], dtype=np.float32)
    w = f.stored(numbers(1, 3, 3, 4), scale=scale, axis=3)
    b = f.stored(np.zeros(4, dtype=np.int32), scale=scale * np.float32(0.05))
    y = f.add(
        "DEPTHWISE_CONV_2D", [x, w, b], quantised(f, 1, 6, 6, 4, scale=0.2), "DepthwiseConv2D", StrideW=1,
        StrideH=1, DepthMultiplier=1,
    )  # fmt: skip
    p = f.add("MAX_POOL_2D", [y], quantised(f, 1, 3, 3, 4, scale=0.2), "Pool2D", StrideW=2, StrideH=2,
              FilterWidth=2, FilterHeight=2)  # fmt: skip
    q = f.add("AVERAGE_POOL_2D", [p], quantised(f, 1, 1, 1, 4, scale=0.2), "Pool2D", StrideW=1, StrideH=1,
              FilterWidth=3, FilterHeight=3, Padding=VALID)  # fmt: skip
    r = f.add("RESHAPE", [q, f.stored(ints(1, 4))], quantised(f, 1, 4, scale=0.2))
    v = f.stored(numbers(3, 4), scale=0.02)
    c = f.stored(np.array([5, -9, 100], dtype=np.int32), scale=0.02 * 0.2)
    s = f.add("FULLY_CONNECTED", [r, v, c], quantised(f, 1, 3, scale=0.3), "FullyConnected")
    z = f.add("SOFTMAX", [s], quantised(f, 1, 3, scale=1 / 256, zero=-128), "Softmax", Beta=1.0)
    steps(f.write(s, z), numbers(1, 6, 6, 4), most=2)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantised_sums_and_moves(dtype):
    f = File()
    zero = 3 if dtype == "int8" else 120
    x = f.input(1, 4, 4, 2, dtype=dtype, scale=0.05, zero=zero)
    z = f.input(1, 4, 4, 2, dtype=dtype, scale=0.11, zero=zero)
    total = f.add("ADD", [x, z], quantised(f, 1, 4, 4, 2, scale=0.2, zero=zero, dtype=dtype), "Add")
    again = quantised(f, 1, 4, 4, 4, scale=0.05, zero=zero, dtype=dtype)
    joined = f.add("CONCATENATION", [x, x], again, "Concatenation", Axis=3)
    amounts = f.stored(np.array([[0, 0], [1, 0], [0, 2], [0, 0]], dtype=np.int32))
    padded = f.add(
        "PAD", [x, amounts], quantised(f, 1, 5, 6, 2, scale=0.05, zero=zero, dtype=dtype)
    )
    other = f.add("QUANTIZE", [x], quantised(f, 1, 4, 4, 2, scale=0.07, zero=zero, dtype=dtype))
    steps(
        f.write(total, joined, padded, other),
        numbers(1, 4, 4, 2, dtype=dtype),
        numbers(1, 4, 4, 2, dtype=dtype),
    )
    real = File()
    x = real.input(2, 3, dtype=dtype, scale=0.05, zero=zero)
    y = real.add("DEQUANTIZE", [x], real.value(2, 3))
    compared(real.write(y), numbers(2, 3, dtype=dtype))


def test_weights_with_a_zero_point():
    """As older converters quantise: unsigned, one zero point for all weights."""
    f = File()
    x = f.input(1, 6, 6, 3, dtype="uint8", scale=0.05, zero=120)
    w = f.stored(numbers(4, 3, 3, 3, dtype="uint8"), "w", scale=0.01, zero=131)
    b = f.stored(np.array([100, -9, 0, 7], dtype=np.int32), scale=0.05 * 0.01)
    y = f.add(
        "CONV_2D", [x, w, b], quantised(f, 1, 6, 6, 4, scale=0.1, zero=128, dtype="uint8"), "Conv2D",
        StrideW=1, StrideH=1,
    )  # fmt: skip
    v = f.stored(numbers(1, 3, 3, 4, dtype="uint8"), scale=0.02, zero=99)
    c = f.stored(np.zeros(4, dtype=np.int32), scale=0.1 * 0.02)
    z = f.add(
        "DEPTHWISE_CONV_2D", [y, v, c], quantised(f, 1, 6, 6, 4, scale=0.3, zero=128, dtype="uint8"),
        "DepthwiseConv2D", StrideW=1, StrideH=1, DepthMultiplier=1, FusedActivationFunction=3,
    )  # fmt: skip
    graph = steps(f.write(y, z), numbers(1, 6, 6, 3, dtype="uint8"), most=2)
    assert not any("opaque" in note for note in graph.notes)


def test_resized_and_transposed_in_eight_bits():
    f = File()
    x = f.input(1, 4, 4, 3, dtype="int8", scale=0.05, zero=3)
    a = f.add(
        "RESIZE_NEAREST_NEIGHBOR",
        [x, f.stored(ints(8, 8))],
        quantised(f, 1, 8, 8, 3),
        "ResizeNearestNeighbor",
    )
    b = f.add(
        "RESIZE_BILINEAR", [x, f.stored(ints(7, 5))], quantised(f, 1, 7, 5, 3), "ResizeBilinear",
        HalfPixelCenters=True,
    )  # fmt: skip
    w = f.stored(numbers(2, 3, 3, 3), scale=np.array([0.01, 0.02], dtype=np.float32))
    size = f.stored(ints(1, 8, 8, 2))
    c = f.add(
        "TRANSPOSE_CONV",
        [size, w, x],
        quantised(f, 1, 8, 8, 2, scale=0.2),
        "TransposeConv",
        StrideW=2,
        StrideH=2,
    )
    d = f.add("MEAN", [x, f.stored(ints(1, 2))], quantised(f, 1, 3), "Reducer", KeepDims=False)
    e = f.add("MUL", [x, x], quantised(f, 1, 4, 4, 3, scale=0.2), "Mul")
    g = f.add("SUB", [e, x], quantised(f, 1, 4, 4, 3, scale=0.2), "Sub")
    graph = steps(f.write(a, b, c, d, e, g), numbers(1, 4, 4, 3), most=1)
    assert not any("opaque" in note for note in graph.notes)


def test_activations_of_16_bits():
    f = File()
    x = f.input(1, 5, 5, 2, dtype="int16", scale=0.001, zero=0)
    scale = np.array([0.01, 0.02, 0.005], dtype=np.float32)
    w = f.stored(numbers(3, 3, 3, 2), scale=scale)
    b = f.stored(np.array([500, 0, -70000], dtype=np.int64), scale=scale * np.float32(0.001))
    y = f.add(
        "CONV_2D", [x, w, b], quantised(f, 1, 5, 5, 3, scale=0.004, zero=0, dtype="int16"), "Conv2D",
        StrideW=1, StrideH=1,
    )  # fmt: skip
    steps(f.write(y), numbers(1, 5, 5, 2, dtype="int16"))
    f = File()
    x = f.input(2, 6, dtype="int16", scale=0.001, zero=0)
    y = f.add("LOGISTIC", [x], quantised(f, 2, 6, scale=1 / 32768, zero=0, dtype="int16"))
    steps(f.write(y), numbers(2, 6, dtype="int16"), most=8)
