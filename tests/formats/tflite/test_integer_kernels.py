"""Files of 8-bit integers, bit by bit beside LiteRT's reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

from lite import reference
from tflite_models import File

from moduli.formats.tflite.contents import Contents
from moduli.formats.tflite.integer_kernels import LITERT, MICRO, ReferenceKernels
from moduli.kernel.errors import UnsupportedModel

RNG = np.random.default_rng(0)
ALL = np.arange(-128, 128).astype(np.int8)
POINTS = 400
SAME, VALID = 0, 1


def bytes_(*shape: int) -> Any:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def computed(data: bytes, *inputs: Any, kernels: str = LITERT) -> Any:
    """The integers that come out."""
    contents = Contents(data, "made.tflite")
    network = ReferenceKernels(contents, kernels)
    given = zip(network.inputs, inputs, strict=True)
    (found,) = network.run({x.name: q.astype(np.int64) for x, q in given})
    last = contents.tensors[contents.outputs[0]]
    return np.rint(found / float(last.scale[0]) + int(last.zero[0])).astype(int)


def same(data: bytes, *inputs: Any) -> Any:
    """What comes out, which is what LiteRT's reference kernels give."""
    found = computed(data, *inputs)
    assert np.array_equal(found, reference(data, *inputs))
    return found


def dense(scales: Any, zeros: Any, per_unit: bool = False, bias: bool = True, act: int = 0) -> File:
    """A dense layer from 20 to 7: scales and zero points of input, weights and output."""
    f = File()
    s = np.float32(scales[1]) * (RNG.uniform(0.5, 1.5, 7) if per_unit else 1.0)
    x = f.input(1, 20, dtype="int8", scale=scales[0], zero=zeros[0])
    w = f.stored(bytes_(7, 20), scale=s, zero=zeros[1], axis=0)
    both = np.float32(scales[0]) * np.asarray(s)
    b = [f.stored(RNG.integers(-9000, 9000, 7).astype(np.int32), scale=both)] if bias else []
    y = f.value(1, 7, dtype="int8", scale=scales[2], zero=zeros[2])
    f.outputs = [
        f.add("FULLY_CONNECTED", [x, w, *b], y, "FullyConnected", FusedActivationFunction=act)
    ]
    return f


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("zeros", [(-128, 0, -128), (127, 0, 5), (-3, 0, 90)])
@pytest.mark.parametrize("act", [0, 1, 3])
def test_dense_layers(per_unit, zeros, act):
    found = same(dense((0.02, 0.01, 0.3), zeros, per_unit, act=act).write(), bytes_(POINTS, 1, 20))
    assert len(np.unique(found)) > 3


def test_dense_layers_with_a_zero_point_of_weights_and_without_bias():
    same(dense((0.02, 0.01, 0.3), (4, -9, 0), bias=False).write(), bytes_(POINTS, 1, 20))


def test_outputs_that_are_cut_off():
    found = same(dense((0.2, 0.1, 0.3), (4, 0, -100)).write(), bytes_(POINTS, 1, 20))
    assert {-128, 127} <= set(np.unique(found).tolist())


def pointwise(kind: str, weight: Any, scales: Any, bias: Any, step: float) -> File:
    """A layer of 20 inputs as a convolution or as a dense one, of the same numbers."""
    f = File()
    front = (1, 1, 1) if kind == "CONV_2D" else (1,)
    x = f.input(*front, 20, dtype="int8", scale=0.02, zero=-7)
    shape = (7, 1, 1, 20) if kind == "CONV_2D" else (7, 20)
    w = f.stored(weight.reshape(shape), scale=scales, axis=0)
    b = f.stored(bias, scale=np.float32(0.02) * scales)
    y = f.value(*front, 7, dtype="int8", scale=step, zero=11)
    options = {"StrideW": 1, "StrideH": 1} if kind == "CONV_2D" else {}
    name = "Conv2D" if kind == "CONV_2D" else "FullyConnected"
    f.outputs = [f.add(kind, [x, w, b], y, name, **options)]
    return f


def test_dense_layers_of_microcontrollers_round_as_convolutions_do():
    """They multiply in fixed point, where LiteRT's dense layers use float64: convolutions do so in both."""
    points, differ = bytes_(12_000, 20), 0
    for step in (0.37, 0.11, 0.6):
        scales = np.float32(RNG.uniform(0.005, 0.02, 7))
        parts = bytes_(7, 20), scales, RNG.integers(-9000, 9000, 7).astype(np.int32), step
        conv, full = (pointwise(kind, *parts).write() for kind in ("CONV_2D", "FULLY_CONNECTED"))
        wanted = reference(conv, points.reshape(-1, 1, 1, 1, 20)).reshape(-1, 7)
        found = computed(full, points.reshape(-1, 1, 20), kernels=MICRO).reshape(-1, 7)
        assert np.array_equal(found, wanted)
        other = computed(full, points.reshape(-1, 1, 20)).reshape(-1, 7)
        differ += int((found != other).sum())
    assert differ > 0  # the rules are not the same


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("padding", "stride", "dilation"), [(SAME, 1, 1), (SAME, 2, 1), (VALID, 2, 1), (VALID, 1, 2)]
)
def test_convolutions(deep, padding, stride, dilation):
    f = File()
    x = f.input(1, 6, 7, 4, dtype="int8", scale=0.03, zero=-9)
    shape = (1, 3, 3, 8) if deep else (8, 3, 3, 4)
    s = np.float32(RNG.uniform(0.002, 0.01, 8))
    w = f.stored(bytes_(*shape), scale=s, axis=3 if deep else 0)
    b = f.stored(RNG.integers(-900, 900, 8).astype(np.int32), scale=np.float32(0.03) * s)
    reach = 2 * dilation
    sizes = [-(-(n if padding == SAME else n - reach) // stride) for n in (6, 7)]
    more = {"DepthMultiplier": 2} if deep else {}
    y = f.add(
        "DEPTHWISE_CONV_2D" if deep else "CONV_2D", [x, w, b],
        f.value(1, *sizes, 8, dtype="int8", scale=0.1, zero=6), "DepthwiseConv2D" if deep else "Conv2D",
        Padding=padding, StrideW=stride, StrideH=stride, DilationWFactor=dilation,
        DilationHFactor=dilation, FusedActivationFunction=3, **more,
    )  # fmt: skip
    found = same(f.write(y), bytes_(100, 1, 6, 7, 4))
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize(
    ("scales", "zeros"),
    [((0.02, 0.05, 0.07), (-128, 3, -5)), ((0.1, 0.1, 0.1), (0, 0, 0)), ((0.3, 0.004, 0.31), (127, -128, 60))],
)  # fmt: skip
def test_two_operands_at_all_pairs(kind, scales, zeros):
    f = File()
    a, b = (f.input(1, 256, dtype="int8", scale=scales[k], zero=zeros[k]) for k in range(2))
    step = scales[2] / (8 if kind == "MUL" else 1)
    y = f.value(1, 256, dtype="int8", scale=step, zero=zeros[2])
    f.add(kind, [a, b], y, kind.title(), FusedActivationFunction=0)
    rows, columns = (x.reshape(256, 1, 256) for x in np.meshgrid(ALL, ALL))
    same(f.write(y), rows.astype(np.int8), columns.astype(np.int8))


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "RELU_N1_TO_1", "QUANTIZE"])
@pytest.mark.parametrize(("scale", "zero"), [(0.004, -128), (0.05, 3), (0.25, 127), (1.0, -3)])
def test_functions_at_all_integers(kind, scale, zero):
    f = File()
    x = f.input(1, 256, dtype="int8", scale=scale, zero=zero)
    ends = {"scale": scale, "zero": zero}
    if kind in ("RELU", "QUANTIZE"):
        ends = {"scale": scale * 0.37, "zero": -40}
    y = f.add(kind, [x], f.value(1, 256, dtype="int8", **ends))
    same(f.write(y), ALL.reshape(1, 1, 256))


def function(kind: str, scale: float, zero: int, dtype: str = "int8") -> bytes:
    f = File()
    least = int(np.iinfo(dtype).min)
    x = f.input(1, 256, dtype=dtype, scale=scale, zero=zero)
    ends = (2.0**-8, least) if kind == "LOGISTIC" else (2.0**-7, least + 128)
    y = f.add(kind, [x], f.value(1, 256, dtype=dtype, scale=ends[0], zero=ends[1]))
    return f.write(y)


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_functions_that_the_interpreter_looks_up_in_a_table_of_floats(kind, dtype):
    """Whatever the error of the functions of a C library, within a bound; where that decides, refused."""
    q = np.arange(256).reshape(1, 1, 256) + np.iinfo(dtype).min
    known = 0
    for _ in range(24):
        scale, zero = 10.0 ** RNG.uniform(-3, 0), int(RNG.integers(256)) + np.iinfo(dtype).min
        data = function(kind, scale, zero, dtype)
        try:
            ReferenceKernels(Contents(data, "made.tflite"), LITERT)
        except UnsupportedModel:
            continue  # the next test says why
        same(data, q.astype(dtype))
        known += 1
    assert known >= 20


def test_a_table_whose_entries_depend_on_the_last_bits_of_floats_is_refused():
    """At 2^-7 fixed point gives other integers than the table at two places, where it is nearly half-way."""
    data, q = function("LOGISTIC", 2.0**-7, 0), ALL.reshape(1, 1, 256)
    apart = computed(data, q, kernels=MICRO) - reference(data, q)
    assert np.abs(apart).max() == 1
    assert (apart != 0).sum() == 2
    assert "its entry for -1 is too close to half-way" in refused(data, LITERT)


def test_an_entry_that_is_half_way_is_refused():
    """tanh(scale) 2^7 is 1/2 but for the rounding of the scale."""
    assert "its entry for -1 is too close" in refused(
        function("TANH", np.arctanh(2.0**-8), 0), LITERT
    )


def mean(shape: Any, axes: Any, keep: bool, ends: Any, dtype: str = "int8") -> bytes:
    f = File()
    x = f.input(*shape, dtype=dtype, scale=ends[0], zero=ends[1])
    gone = {axis % len(shape) for axis in axes}
    kept = [1 if k in gone else n for k, n in enumerate(shape) if keep or k not in gone]
    y = f.value(*kept, dtype=dtype, scale=ends[2], zero=ends[3])
    axes = f.stored(np.array(axes, np.int32))
    return f.write(f.add("MEAN", [x, axes], y, "Reducer", KeepDims=keep))


MEANS = [
    ((1, 4, 5, 3), (1, 2), True), ((1, 4, 5, 3), (1, 2), False), ((1, 6, 7), (-1,), True),
    ((1, 4, 5, 3), (1, 2, 3), False), ((2, 3, 3, 2), (0, 1), False), ((1, 1, 1, 5), (2, 1), False),
]  # fmt: skip
SCALES = [(0.1, 3, 0.1, 3), (0.1, 3, 0.037, 9), (0.01, 0, 0.4, 100), (1.0, 0, 0.5, 0)]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("shape", "axes", "keep"), MEANS)
def test_means(shape, axes, keep, dtype):
    for ends in SCALES:
        points = RNG.integers(256, size=(60, *shape)) + np.iinfo(dtype).min
        same(mean(shape, axes, keep, ends, dtype), points.astype(dtype))


PAIRS = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum"
}  # fmt: skip


def pair(kind: str, shapes: Any, stored: bool, flip: bool) -> bytes:
    """Two operands that have to be brought to one shape, the second stored or computed."""
    first = {"scale": 0.05, "zero": -20}
    same_scale = kind in ("MAXIMUM", "MINIMUM")
    second = first if same_scale else {"scale": 0.02, "zero": 9}
    size = {"scale": 0.01 if kind == "MUL" else 0.09, "zero": 3}
    f = File()
    a = f.input(*shapes[0], dtype="int8", **first)
    b = (
        f.stored(bytes_(*shapes[1]), **second)
        if stored
        else f.input(*shapes[1], dtype="int8", **second)
    )
    y = f.value(*np.broadcast_shapes(*shapes), dtype="int8", **(first if same_scale else size))
    return f.write(f.add(kind, [b, a] if flip else [a, b], y, PAIRS[kind]))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_operands_of_other_shapes_and_stored_ones(kind, flip):
    for shapes in (
        ((1, 4, 5, 3), (3,)), ((1, 4, 5, 3), (1, 1, 1, 1)), ((1, 7), (1, 7)), ((6,), (2, 6)), ((1, 6), (2, 6)),
    ):  # fmt: skip
        same(pair(kind, shapes, True, flip), bytes_(20, *shapes[0]))
    shapes = (1, 4, 1, 3), (1, 1, 5, 3)
    same(pair(kind, shapes, False, flip), *(bytes_(20, *shape) for shape in shapes))


def leaky(s: float, t: float, slope: float, dtype: str = "int8") -> bytes:
    f = File()
    zero = 0 if dtype == "int8" else 128
    x = f.input(1, 256, dtype=dtype, scale=s, zero=zero)
    y = f.value(1, 256, dtype=dtype, scale=t, zero=zero)
    return f.write(f.add("LEAKY_RELU", [x], y, "LeakyRelu", Alpha=slope))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_leaky_relus(dtype):
    """Among them some at which quotients of scales in float32 and in float64 give different integers."""
    rng, q, apart = np.random.default_rng(0), np.arange(-128, 128), 0
    for k in range(4000):
        s, t = np.float32(10.0 ** rng.uniform(-2, -1, 2))
        slope = np.float32(rng.uniform(0, 1))
        ways = [(s / t, s * slope / t), (float(s) / float(t), float(s) * float(slope) / float(t))]
        one, other = (np.rint(q * np.where(q < 0, float(w[1]), float(w[0]))) for w in ways)
        apart += int((one != other).any())
        if k < 10 or (one != other).any():
            given = (q - q.min() + np.iinfo(dtype).min).astype(dtype)
            same(leaky(s, t, float(slope), dtype), given.reshape(1, 1, 256))
    assert apart > 0


def test_what_two_operands_may_not_be():
    f = File()
    ends = {"dtype": "int8", "scale": 0.1, "zero": 0}
    x = f.input(1, 4, **ends)
    w = f.stored(np.ones(4, np.uint8), scale=0.1)
    data = f.write(f.add("ADD", [x, w], f.value(1, 4, **ends), "Add"))
    assert "different types" in refused(data, LITERT)
    f = File()
    x = f.input(1, 4, **ends)
    y = f.value(1, 4, dtype="int8", scale=0.2, zero=0)
    assert "different scales" in refused(f.write(f.add("MAXIMUM", [x, x], y, "MaximumMinimum")))
    f = File()
    x, w = f.input(1, 1, 1, 1, 4, **ends), f.stored(np.ones(4, np.int8), scale=0.1)
    data = f.write(f.add("MUL", [x, w], f.value(1, 1, 1, 1, 4, **ends), "Mul"))
    assert "operands of shapes (1, 1, 1, 1, 4) and (4,)" in refused(data)


# Bytes without a sign -------------------------------------------------------------------------------------------


def unsigned(*shape: int) -> Any:
    return RNG.integers(0, 256, shape).astype(np.uint8)


LAYERS = {  # shapes of input, weights and output
    "FULLY_CONNECTED": ("FullyConnected", (1, 20), (7, 20), (1, 7), {}),
    "CONV_2D": ("Conv2D", (1, 6, 7, 4), (8, 3, 3, 4), (1, 6, 7, 8), {"StrideW": 1, "StrideH": 1}),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2D", (1, 6, 7, 4), (1, 3, 3, 8), (1, 6, 7, 8),
        {"StrideW": 1, "StrideH": 1, "DepthMultiplier": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("zeros", [(0, 0, 0), (128, 120, 7), (255, 3, 255)])
def test_layers_of_bytes_without_a_sign(kind, zeros):
    options, given, shape, made, more = LAYERS[kind]
    f = File()
    x = f.input(*given, dtype="uint8", scale=0.03, zero=zeros[0])
    w = f.stored(unsigned(*shape), scale=0.007, zero=zeros[1])
    bias = RNG.integers(-900, 900, made[-1]).astype(np.int32)
    b = f.stored(bias, scale=np.float32(0.03) * np.float32(0.007))
    y = f.value(*made, dtype="uint8", scale=1.0, zero=zeros[2])
    f.add(kind, [x, w, b], y, options, FusedActivationFunction=1, **more)
    data = f.write(y)
    same(data, unsigned(60, *given))
    assert "is of type uint8, without a rule here" in refused(data)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_multipliers_are_worked_out_as_the_interpreter_does(kind, dtype):
    """Sums, given as biases, that three ways to divide the scales round to different integers."""
    options, _, shape, _, more = LAYERS[kind]
    rng, zero, apart = np.random.default_rng(2), (128 if dtype == "uint8" else 0), 0
    for _ in range(40):
        s, v = np.float32(10.0 ** rng.uniform(-4, -2, 2))
        t = np.float32(s * v * 10 ** rng.uniform(3, 6))
        ways = float(s * v) / float(t), float(s) * float(v) / float(t), float(s * v / t)
        sums = rng.integers(-int(120 / ways[0]), int(120 / ways[0]), 200_000)
        found = np.array([np.floor(sums * way + 0.5) for way in ways])
        sums = sums[(found != found[0]).any(axis=0)][:100].astype(np.int32)
        if not len(sums):
            continue
        apart += len(sums)
        front, n = (1,) * (len(shape) - 1), len(sums)
        own = (*front, n) if kind == "DEPTHWISE_CONV_2D" else (n, *front)
        f = File()
        x = f.input(*front, 1, dtype=dtype, scale=s, zero=zero)
        w = f.stored(np.full(own, zero, dtype), scale=v, zero=zero)
        b = f.stored(sums, scale=s * v)
        y = f.value(*front, n, dtype=dtype, scale=t, zero=zero)
        if "DepthMultiplier" in more:
            more = {**more, "DepthMultiplier": n}
        same(f.write(f.add(kind, [x, w, b], y, options, **more)), np.zeros((1, *front, 1), dtype))
    assert apart > 5


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_two_operands_without_a_sign(kind):
    f = File()
    a, b = (f.input(1, 256, dtype="uint8", scale=s, zero=z) for s, z in ((0.02, 9), (0.05, 200)))
    y = f.value(1, 256, dtype="uint8", scale=0.11, zero=77)
    f.add(kind, [a, b], y, kind.title())
    same(f.write(y), unsigned(200, 1, 256), unsigned(200, 1, 256))


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "SOFTMAX", "AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_functions_and_pools_without_a_sign(kind):
    f = File()
    x = f.input(1, 5, 6, 3, dtype="uint8", scale=0.3, zero=33)
    ends = {"scale": 1 / 256, "zero": 0} if kind == "SOFTMAX" else {"scale": 0.3, "zero": 33}
    y = f.value(1, 5, 6, 3, dtype="uint8", **ends)
    options: dict[str, Any] = {}
    if "POOL" in kind:
        options = {
            "options": "Pool2D", "StrideW": 1, "StrideH": 1, "FilterWidth": 3, "FilterHeight": 2
        }  # fmt: skip
    elif kind == "SOFTMAX":
        options = {"options": "Softmax", "Beta": 1.0}
    data = f.write(f.add(kind, [x], y, **options))
    same(data, unsigned(200, 1, 5, 6, 3))
    assert "uint8" in refused(data)


# Microcontrollers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        *(function(kind, scale, zero) for kind in ("LOGISTIC", "TANH") for scale, zero in ((0.004, -9), (0.07, 100))),
        *(mean(*MEANS[k], SCALES[k]) for k in range(4)),
        *(pair(kind, ((1, 4, 5, 3), (3,)), True, False) for kind in PAIRS),
        leaky(0.03, 0.05, 0.3),
        dense((0.02, 0.01, 0.3), (-3, 0, 90), per_unit=True, act=1).write(),
    ],
)  # fmt: skip
def test_kernels_of_microcontrollers_where_they_are_installed(data):
    pytest.importorskip(
        "tflite_micro", reason="tflite-micro is not installed: not compared with it"
    )
    from lite import micro

    (given,) = ReferenceKernels(Contents(data, "made.tflite")).inputs
    points = bytes_(200, *given.shape)
    assert np.array_equal(computed(data, points, kernels=MICRO), micro(data, points))


def test_sums_that_wrap_around_in_the_interpreter_are_refused():
    f = File()
    x = f.input(1, 1, dtype="int8", scale=64.0, zero=0)
    w = f.stored(np.array([[1]], np.int8), scale=np.float32([64.0]), axis=0)
    y = f.value(1, 1, dtype="int8", scale=2.0**-14, zero=26)
    f.outputs = [f.add("FULLY_CONNECTED", [x, w], y, "FullyConnected", FusedActivationFunction=0)]
    with pytest.raises(UnsupportedModel, match="may leave 32 bits"):
        computed(f.write(), bytes_(1, 1, 1))


@pytest.mark.parametrize(
    ("scale", "beta"), [(0.003, 1.0), (0.05, 1.0), (0.3, 0.5), (1.0, 1.0), (4.0, 2.0)]
)
def test_shares(scale, beta):
    f = File()
    x = f.input(1, 9, dtype="int8", scale=scale, zero=17)
    y = f.add(
        "SOFTMAX", [x], f.value(1, 9, dtype="int8", scale=1 / 256, zero=-128), "Softmax", Beta=beta
    )
    points = np.concatenate([bytes_(POINTS, 1, 9), bytes_(POINTS, 1, 9) // 20])
    same(f.write(y), points.astype(np.int8))


def test_shares_of_many_entries():
    """Of equal entries: LiteRT's reference kernel aborts at 512 of them."""
    for count in (511, 512):
        f = File()
        x = f.input(1, count, dtype="int8", scale=0.05, zero=0)
        y = f.value(1, count, dtype="int8", scale=1 / 256, zero=-128)
        data = f.write(f.add("SOFTMAX", [x], y, "Softmax", Beta=1.0))
        if count == 511:
            same(data, np.zeros((1, 1, count), np.int8))
        else:
            assert "a softmax of (512,) entries" in refused(data)


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding", [SAME, VALID])
def test_pools(kind, padding):
    f = File()
    x = f.input(1, 5, 6, 3, dtype="int8", scale=0.1, zero=-7)
    sizes = [-(-(n if padding == SAME else n - 2) // 2) for n in (5, 6)]
    y = f.add(
        kind, [x], f.value(1, *sizes, 3, dtype="int8", scale=0.1, zero=-7), "Pool2D", Padding=padding,
        StrideW=2, StrideH=2, FilterWidth=3, FilterHeight=3, FusedActivationFunction=padding,
    )  # fmt: skip
    same(f.write(y), bytes_(100, 1, 5, 6, 3))


def test_what_only_moves_integers():
    f = File()
    ends = {"dtype": "int8", "scale": 0.1, "zero": -7}
    x = f.input(1, 2, 3, 4, **ends)
    padded = f.add(
        "PAD",
        [x, f.stored(np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32))],
        f.value(1, 3, 5, 4, **ends),
    )
    turned = f.add(
        "TRANSPOSE",
        [padded, f.stored(np.array([0, 2, 1, 3], np.int32))],
        f.value(1, 5, 3, 4, **ends),
    )
    joined = f.add(
        "CONCATENATION", [turned, turned], f.value(1, 5, 3, 8, **ends), "Concatenation", Axis=-1
    )
    y = f.add("RESHAPE", [joined, f.stored(np.array([1, 120], np.int32))], f.value(1, 120, **ends))
    same(f.write(y), bytes_(50, 1, 2, 3, 4))


def test_ends_in_floats_and_in_bytes_without_sign():
    """Floats are rounded to integers at once; bytes without a sign are moved by 128."""
    f = File()
    x = f.input(1, 256)
    q = f.add("QUANTIZE", [x], f.value(1, 256, dtype="int8", scale=0.3, zero=5))
    r = f.add("RELU", [q], f.value(1, 256, dtype="int8", scale=0.2, zero=-128))
    y = f.add("DEQUANTIZE", [r], f.value(1, 256))
    data = f.write(y)
    network = ReferenceKernels(Contents(data, "made.tflite"), LITERT)
    (given,) = network.inputs
    assert given.floating
    assert (given.scale, given.zero) == (float(np.float32(0.3)), 5)
    real = (given.scale * (ALL.astype(float) - given.zero)).astype(np.float32)
    (found,) = network.run({given.name: ALL.reshape(1, 1, 256).astype(np.int64)})
    assert np.array_equal(found, reference(data, real.reshape(1, 1, 256)).astype(float))
    f = File()
    x = f.input(1, 256, dtype="uint8", scale=0.3, zero=133)
    q = f.add("QUANTIZE", [x], f.value(1, 256, dtype="int8", scale=0.3, zero=5))
    y = f.add("QUANTIZE", [q], f.value(1, 256, dtype="uint8", scale=0.4, zero=0))
    same(f.write(y), np.arange(256).astype(np.uint8).reshape(1, 1, 256))


def test_the_person_detector_of_mlperf_tiny_bit_by_bit(shared):
    data = (shared / "models" / "graph" / "vww_96_int8.tflite").read_bytes()
    images = np.clip(
        bytes_(4, 1, 96, 96, 3) // 3 + RNG.integers(-60, 60, (4, 1, 1, 1, 1)), -128, 127
    )
    same(data, images.astype(np.int8))


# Refusals -------------------------------------------------------------------------------------------------------


def refused(data: bytes, kernels: str = MICRO) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        ReferenceKernels(Contents(data, "made.tflite"), kernels)
    return str(caught.value)


def test_sums_that_may_leave_32_bits_are_refused():
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    w = f.stored(np.full((2, 4), [[1], [127]], np.int8), scale=0.1)
    most = 2**31 - 1 - 4 * 127 * 128  # the bias with which nothing can be left
    for bias, fits in ((most, True), (most + 1, False), (-most - 1, False)):
        g = File([*f.tensors], [], [*f.inputs])
        b = g.stored(np.array([0, bias], np.int32), scale=np.float32(0.1) * np.float32(0.1))
        y = g.add(
            "FULLY_CONNECTED",
            [x, w, b],
            g.value(1, 2, dtype="int8", scale=1e5, zero=0),
            "FullyConnected",
        )
        if fits:
            assert computed(g.write(y), np.full((1, 1, 4), -128), kernels=MICRO).shape == (1, 1, 2)
        else:
            assert "the sum of unit 1 may reach 2147483648, and wraps around in 32 bits" in refused(
                g.write(y)
            )


def test_sums_that_a_shift_may_carry_beyond_32_bits_are_refused():
    """A step of the output far below that of the sums: they are multiplied by a large number."""
    data = dense((10.0, 10.0, 1e-4), (0, 0, 0)).write()
    assert "shifted to the left may leave 32 bits" in refused(data)


def test_what_has_no_rule_is_named():
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    y = f.add("ELU", [x], f.value(1, 4, dtype="int8", scale=1 / 128, zero=0))
    assert "operator 0 (ELU) has no rule" in refused(f.write(y))
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    y = f.add("TANH", [x], f.value(1, 4, dtype="int8", scale=1 / 64, zero=0))
    assert "its output has the scale 0.015625" in refused(f.write(y))
    f = File()
    x = f.input(1, 4)
    y = f.add("RELU", [x], f.value(1, 4))
    assert "input 'x0' is read in floats" in refused(f.write(y))
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    y = f.add("RELU", [x], f.value(1, 4, dtype="int16", scale=0.1, zero=0))
    assert "of type int16" in refused(f.write(y))
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    y = f.add("RELU6", [x], f.value(1, 4, dtype="int8", scale=0.2, zero=0))
    assert "different scales" in refused(f.write(y))
    assert "fused activation TANH" in refused(dense((0.02, 0.01, 0.3), (0, 0, 0), act=4).write())
    zero_point = dense((0.02, 0.01, 0.3), (0, 4, 0)).write()
    assert "zero point, which the kernel does not read" in refused(zero_point)
    ReferenceKernels(Contents(zero_point, "made.tflite"), LITERT)  # which reads it
    f = File()
    x = f.input(1, 4, dtype="int8", scale=0.1, zero=0)
    q = f.add("DEQUANTIZE", [x], f.value(1, 4))
    y = f.add("RELU", [q], f.value(1, 4))
    assert "output 'value/2' is computed in floats" in refused(f.write(y))
