"""Models of operators on 8-bit integers, bit by bit beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from moduli.formats.onnx.integer_kernels import RuntimeKernels
from moduli.kernel.errors import UnsupportedModel

RNG = np.random.default_rng(1)
KINDS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


def weights(*shape: int, dtype: Any = np.int8) -> Any:
    """Of 7 bits: some processors add pairs of products in 16 bits."""
    return RNG.integers(-63, 64, shape).astype(dtype)


class Model:
    """A model of integers; scales and zero points stand behind their tensors' names."""

    def __init__(
        self, shape: Any, dtype: str = "uint8", scale: float = 0.05, zero: int = 7
    ) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.shape, self.dtype = shape, dtype
        self.x = ["x", *self.scale("x", scale, zero)]

    def store(self, name: str, array: Any) -> str:
        self.arrays[name] = np.asarray(array)
        return name

    def scale(self, name: str, scale: Any, zero: Any, dtype: str = "") -> list[str]:
        step = np.asarray(scale, dtype=np.float32)
        point = np.broadcast_to(np.asarray(zero), step.shape).astype(dtype or self.dtype)
        return [self.store(f"{name}:s", step), self.store(f"{name}:z", point)]

    def weight(self, name: str, array: Any, scale: Any, zero: Any = 0) -> list[str]:
        return [self.store(name, array), *self.scale(name, scale, zero, array.dtype.name)]

    def add(self, kind: str, inputs: list[str], output: str, **given: Any) -> str:
        standard = kind in ("QLinearConv", "QLinearMatMul")
        domain = "com.microsoft" if kind.startswith("Q") and not standard else ""
        domain = "" if kind == "QuantizeLinear" else domain
        self.nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **given))
        return output

    def model(self, output: str, given: str = "", last: str = "") -> Any:
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", KINDS[given or self.dtype], ["n", *self.shape])],
            [helper.make_tensor_value_info(output, KINDS[last or self.dtype], None)],
            [numpy_helper.from_array(a, name) for name, a in self.arrays.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def points(self, count: int) -> Any:
        limits = np.iinfo(self.dtype)
        return RNG.integers(limits.min, limits.max + 1, (count, *self.shape)).astype(self.dtype)


def network(model: Any) -> RuntimeKernels:
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return RuntimeKernels(model, arrays, "made.onnx")


def same(model: Any, points: Any) -> Any:
    """Real outputs, which are those of onnxruntime."""
    (found,) = network(model).run({"x": points[:, None].astype(np.int64)})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (wanted,) = session.run(None, {"x": points})
    return found.reshape(wanted.shape), wanted


def equal(model: Any, points: Any, scale: float, zero: int) -> Any:
    found, wanted = same(model, points)
    integers = np.rint(found / float(np.float32(scale)) + zero).astype(int)
    assert np.array_equal(integers, wanted)
    return integers


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(dtype, per_unit, groups):
    m = Model((4, 6, 5), dtype, 0.05, 100 if dtype == "uint8" else -100)
    scale = RNG.uniform(0.005, 0.02, 6) if per_unit else 0.01
    w = m.weight("w", weights(6, 4 // groups, 3, 2), scale)
    bias = m.store("b", RNG.integers(-900, 900, 6).astype(np.int32))
    end = m.scale("y", 0.11, 3)
    m.add(
        "QLinearConv",
        [*m.x, *w, *end, bias],
        "y",
        group=groups,
        pads=[1, 0, 2, 1],
        strides=[2, 1],
        dilations=[1, 2],
    )
    found = equal(m.model("y"), m.points(60), 0.11, 3)
    assert len(np.unique(found)) > 30


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("zero", [0, 9])
def test_matrix_products_and_dense_layers(dtype, zero):
    m = Model((20,), dtype, 0.05, 11)
    first, second = m.scale("h", 0.15, 50), m.scale("y", 0.5, 30)
    m.add("QLinearMatMul", [*m.x, *m.weight("w", weights(20, 8), 0.01, zero), *first], "h")
    bias = m.store("b", RNG.integers(-900, 900, 6).astype(np.int32))
    v = m.weight("v", weights(6, 8), RNG.uniform(0.01, 0.03, 6))
    m.add("QGemm", ["h", *first, *v, bias, *second], "y", transB=1)
    found = equal(m.model("y"), m.points(500), 0.5, 30)
    assert len(np.unique(found)) > 20


def test_halves_are_rounded_to_even_integers():
    """One weight of 1 and scales that are powers of two: each second sum is half-way."""
    m = Model((1,), "uint8", 1.0, 128)
    m.add(
        "QLinearMatMul",
        [*m.x, *m.weight("w", np.array([[1]], np.int8), 1.0), *m.scale("y", 2.0, 100)],
        "y",
    )
    points = np.arange(256).astype(np.uint8).reshape(-1, 1)
    found = equal(m.model("y"), points, 2.0, 100)
    assert found[[127, 129, 131, 133], 0].tolist() == [100, 100, 102, 102]  # -1/2, 1/2, 3/2, 5/2


def test_what_is_cut_off_at_both_ends():
    m = Model((20,), "int8", 0.05, -5)
    m.add(
        "QLinearMatMul", [*m.x, *m.weight("w", weights(20, 8), 0.01), *m.scale("y", 0.02, -90)], "y"
    )
    found = equal(m.model("y"), m.points(300), 0.02, -90)
    assert {-128, 127} <= set(found.ravel().tolist())


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_what_moves_integers_and_ends_in_floats(dtype):
    m = Model((2, 4, 4), dtype, 0.05, 11)
    m.add("QuantizeLinear", ["x", *m.x[1:]], "q")
    m.add("MaxPool", ["q"], "p", kernel_shape=[2, 2], strides=[1, 2], pads=[1, 0, 0, 0])
    m.add("Transpose", ["p"], "t", perm=[0, 2, 3, 1])
    m.add("Reshape", ["t", m.store("shape", np.array([0, -1, 4], np.int64))], "r")
    m.add("Flatten", ["r"], "f")
    m.add("DequantizeLinear", ["f", *m.x[1:]], "y")
    model = m.model("y", "float32", "float32")
    points = m.points(40)
    real = (np.float32(0.05) * (points.astype(np.float32) - 11)).astype(np.float32)
    (found,) = network(model).run({"x": points[:, None].astype(np.int64)})
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": real})
    assert np.array_equal(found.reshape(wanted.shape), wanted.astype(float))
    (given,) = network(model).inputs
    assert given.floating
    assert (given.shape, given.zero) == ((1, 2, 4, 4), 11)


# Contributed operators ------------------------------------------------------------------------------------------


def random_ends(dtype: str, count: int, rng: Any = RNG) -> list[tuple[float, int]]:
    """Scales and zero points."""
    limits = np.iinfo(dtype)
    return [
        (10.0 ** rng.uniform(-2, -1), int(rng.integers(limits.min, limits.max + 1)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_pools_that_average(dtype):
    for pads in (0, 1):
        (s, z), (_, v) = random_ends(dtype, 2)
        m = Model((3, 5, 6), dtype, s, z)
        end = m.scale("y", 0.7 * s, v)
        m.add("QLinearAveragePool", [*m.x, *end], "y", kernel_shape=[2, 3], strides=[1, 2],
              pads=[1, 1, 0, 2], count_include_pad=pads)  # fmt: skip
        equal(m.model("y"), m.points(100), 0.7 * s, v)
        m = Model((3, 5, 6), dtype, s, z)
        m.add("QLinearGlobalAveragePool", [*m.x, *m.scale("y", 0.7 * s, v)], "y")
        equal(m.model("y"), m.points(300), 0.7 * s, v)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_tables(dtype):
    for slope in (0.01, -0.7):
        (s, z), (t, v), (u, w) = random_ends(dtype, 3)
        m = Model((7, 5), dtype, s, z)
        h, y = m.scale("h", t, v), m.scale("y", u, w)
        m.add("QLinearLeakyRelu", [*m.x, *h], "h", alpha=slope)
        m.add("QLinearConcat", [*y, *m.x, "h", *h, *m.x], "y", axis=-1)
        equal(m.model("y"), m.points(100), u, w)


SINGLE = np.float32
PAIRS = [x.ravel() for x in np.meshgrid(np.arange(256), np.arange(256))]


def fused(a: Any, b: Any, c: Any) -> Any:
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(SINGLE)


def sums(a: Any, b: Any, ends: Any) -> list[Any]:
    """What different orders of the same steps give, with and without fusing, before rounding."""
    (s, z), (t, v), (u, w) = ends
    first, second = s / u, t / u
    products = first * SINGLE(z), second * SINGLE(v)
    offsets = (
        fused(first, SINGLE(z), products[1]),
        fused(second, SINGLE(v), products[0]),
        products[0] + products[1],
    )
    found = []
    for offset in offsets:
        rest = SINGLE(w) - offset
        found.append(fused(a, first, fused(b, second, rest)))
        found.append(fused(b, second, fused(a, first, rest)))
        found.append(a * first + (b * second + rest))
    return found


def products(a: Any, b: Any, ends: Any) -> list[Any]:
    (s, z), (t, v), (u, w) = ends
    whole = (a - SINGLE(z)) * (b - SINGLE(v))
    ratio = s * t / u
    return [
        whole * ratio + SINGLE(w), fused(whole, ratio, SINGLE(w)), whole * (s * (t / u)) + SINGLE(w),
        np.rint(whole * ratio) + SINGLE(w),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "ways"), [("QLinearAdd", sums), ("QLinearMul", products)])
def test_two_operands_where_the_order_of_steps_decides(kind, ways):
    """Those of all pairs of integers at which several ways to compute give different ones; on processors
    with AVX2, for which the order is declared.
    """
    if "AVX2" not in " ".join(map(str, _features())):
        pytest.skip("this processor has no AVX2: onnxruntime computes QLinearAdd in another way")
    rng, differ = np.random.default_rng(4), 0
    for _ in range(60):
        ends = [(SINGLE(s), z) for s, z in random_ends("uint8", 3, rng)]
        (s, _), (t, _), (_, w) = ends
        size = (s + t) * SINGLE(0.6) if kind == "QLinearAdd" else s * t * SINGLE(40)
        ends[2] = (size, w)
        floats = [x.astype(SINGLE) for x in PAIRS]
        found = np.array([np.clip(np.rint(x), 0, 255) for x in ways(*floats, ends)])
        some = np.flatnonzero((found != found[0]).any(axis=0))
        if not len(some):
            continue
        differ += len(some)
        rows = np.resize(some, (-(-len(some) // 64), 64))
        points = np.concatenate([x[rows] for x in PAIRS], axis=1).astype(np.uint8)
        # both operands of one input: its halves, the second with a scale of its own
        session, network = _pair(kind, ends)
        wanted = session.run(None, {"a": points[:, :64], "b": points[:, 64:]})[0]
        given = {"a": points[:, None, :64], "b": points[:, None, 64:]}
        (real,) = network.run({name: q.astype(np.int64) for name, q in given.items()})
        q = np.rint(real[:, 0] / float(size) + w).astype(int)
        assert np.array_equal(q, wanted)
    assert differ > 5


def _features() -> list[str]:
    from numpy._core import _multiarray_umath as core

    return [name for name, has in core.__cpu_features__.items() if has]


def _pair(kind: str, ends: Any) -> tuple[Any, RuntimeKernels]:
    m = Model((64,))
    names = [[name, *m.scale(name, *end)] for name, end in zip("aby", ends, strict=True)]
    m.add(kind, [*names[0], *names[1], *names[2][1:]], "y")
    model = m.model("y")
    del model.graph.input[:]
    for name in "ab":
        value = helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", 64])
        model.graph.input.append(value)
    return onnxruntime.InferenceSession(model.SerializeToString()), network(model)


def test_operands_that_no_rule_is_known_for_are_refused():
    m = Model((4,))
    m.add("QLinearLeakyRelu", [*m.x, *m.scale("h", 0.05, 7)], "h", alpha=0.5)
    m.add("QLinearAdd", ["h", "h:s", "h:z", *m.x, *m.scale("y", 1e-5, 0)], "y")
    assert "its scales have the quotients" in refused(m)
    m = Model((1,))
    m.add("QLinearAdd", [*m.x, *m.x, *m.scale("y", 0.1, 0)], "y")
    assert "several entries, one by one, are known" in refused(m)
    m = Model((2, 3, 4))
    m.add(
        "QLinearAveragePool", [*m.x, *m.scale("y", 0.1, 0)], "y", kernel_shape=[2, 2], ceil_mode=1
    )
    assert "ceil_mode" in refused(m)


def test_signed_inputs_meet_signed_weights_alone():
    """For others onnxruntime has no kernel."""
    m = Model((20,), "int8")
    w = m.weight("w", np.abs(weights(20, 8)).astype(np.uint8), 0.01)
    m.add("QLinearMatMul", [*m.x, *w, *m.scale("y", 0.15, 5)], "y")
    assert "no kernel for an int8 input" in refused(m)
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        onnxruntime.InferenceSession(m.model("y").SerializeToString())


def refused(m: Model, output: str = "y", given: str = "", last: str = "") -> str:
    with pytest.raises(UnsupportedModel) as caught:
        network(m.model(output, given, last))
    return str(caught.value)


def test_what_has_no_rule_is_named():
    m = Model((4,))
    m.add("QuantizeLinear", ["x", *m.x[1:]], "q")
    m.add("DequantizeLinear", ["q", *m.x[1:]], "r")
    m.add("Relu", ["r"], "y")
    assert "DequantizeLinear (r) has no rule" in refused(m, given="float32", last="float32")
    m = Model((4,))
    m.add("Relu", ["x"], "y")
    assert "input 'x' is read with several scales, or none" in refused(m)
    m = Model((4,))
    m.add("Relu", ["x"], "y")
    assert "input 'x' is read in floats" in refused(m, given="float32", last="float32")
    m = Model((4,))
    w = m.weight("w", np.full((4, 2), 127, np.int8), 0.01)
    bias = m.store("b", np.array([0, 2**31 - 1 - 4 * 127 * 248 + 1], np.int32))
    m.add("QGemm", [*m.x, *w, bias, *m.scale("y", 1e5, 0)], "y")
    assert "the sum of unit 1 may reach 2147483648" in refused(m)
    m = Model((4,))
    h = m.scale("h", 0.1, 0)
    m.add("QLinearMatMul", [*m.x, *m.weight("w", weights(4, 4), 0.01), *h], "h")
    m.add(
        "QLinearMatMul",
        ["h", *m.scale("other", 0.2, 0), *m.weight("v", weights(4, 4), 0.01), *h],
        "y",
    )
    assert "'h' is read with another scale" in refused(m)


def test_other_types_than_8_bits_and_float32_are_refused():
    for attribute, kind in (
        ({"output_dtype": TensorProto.INT8}, 0),
        ({"output_dtype": TensorProto.FLOAT16}, 1),
    ):
        m = Model((4,))
        given: list[dict[str, Any]] = [{}, {}]
        given[kind] = attribute
        m.add("QuantizeLinear", ["x", *m.x[1:]], "q", **given[0])
        m.add("DequantizeLinear", ["q", *m.x[1:]], "y", **given[1])
        assert "has output_dtype" in refused(m, given="float32", last="float32")
    m = Model((1, 4, 4))
    m.add("QuantizeLinear", ["x", *m.x[1:]], "q")
    m.add("MaxPool", ["q"], "p", kernel_shape=[2, 2], auto_pad="VALID", pads=[1, 1, 0, 0])
    m.add("DequantizeLinear", ["p", *m.x[1:]], "y")
    assert "pads beside the word VALID" in refused(m, given="float32", last="float32")
