"""Operators on integers with scales, beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.formats import load_as_written
from moduli.formats.onnx.reference import run_model
from moduli.kernel.errors import UnsupportedModel

RNG = np.random.default_rng(0)
BOX = mo.Box(-2, 2)
CONV = (RNG.normal(size=(4, 3, 3, 3)) * 0.3).astype(np.float32)
DENSE = (RNG.normal(size=(4, 5)) * 0.3).astype(np.float32)
BIAS = RNG.normal(size=5).astype(np.float32)


class Model:
    """A model between floats, whose middle computes with integers; `tensors` are stored."""

    def __init__(self, dtype=np.uint8, opset=13):
        self.dtype, self.opset = np.dtype(dtype), opset
        self.nodes, self.tensors = [], []

    def stored(self, name, array):
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scale(self, name, step, zero, dtype=None):
        """Names of a scale and a zero point."""
        step, zero = np.asarray(step, dtype=np.float32), np.asarray(zero)
        zero = np.broadcast_to(zero, step.shape).astype(dtype or self.dtype)
        return [self.stored(f"{name}:s", step), self.stored(f"{name}:z", zero)]

    def add(self, kind, inputs, output, **attributes):
        domain = (
            ""
            if kind in ("QLinearConv", "QLinearMatMul") or "Q" not in kind[:2]
            else "com.microsoft"
        )
        domain = "" if kind in ("QuantizeLinear",) else domain
        self.nodes.append(
            helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        )
        return output

    def start(self, name="q", x="x"):
        """The input in integers."""
        self.middle = 128 if self.dtype == np.uint8 else 0
        scale = self.scale(name, 0.02, self.middle)
        return [self.add("QuantizeLinear", [x, *scale], name), *scale]

    def weight(self, name, array, axis, single):
        """A weight in integers of eight bits, with one scale or one for each unit."""
        others = tuple(i for i in range(array.ndim) if i != axis)
        step = np.abs(array).max(axis=None if single else others) / 127
        along = [-1 if i == axis and not single else 1 for i in range(array.ndim)]
        integers = np.rint(array / step.reshape(along if step.ndim else ())).astype(np.int8)
        return [self.stored(name, integers), *self.scale(name, step, 0, np.int8)]

    def finish(self, path, integers, scale, shape, outputs):
        self.add("DequantizeLinear", [integers, *scale], "y")
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


def convolution(path, single=False, dtype=np.uint8, opset=13, **attributes):
    m = Model(dtype, opset)
    x, w = m.start(), m.weight("w", CONV, 0, single)
    step = numpy_helper.to_array(next(t for t in m.tensors if t.name == "w:s"))
    bias = m.stored("b", np.rint(BIAS[:4] / (0.02 * step)).astype(np.int32))
    end = m.scale("r", 0.0317, m.middle)
    m.add("QLinearConv", [*x, *w, *end, bias], "r", pads=[1, 1, 1, 1], **attributes)
    return m.finish(path, "r", end, ["n", 3, 6, 6], ["n", 4, 6, 6])


def product(path, single=False, dtype=np.uint8):
    m = Model(dtype)
    x, w, end = m.start(), m.weight("w", DENSE, 1, single), m.scale("r", 0.0317, 3)
    m.add("QLinearMatMul", [*x, *w, *end], "r")
    return m.finish(path, "r", end, ["n", 4], ["n", 5])


def dense(path, single=False, rounds=True, turned=0, dtype=np.uint8, bias_of=None, **attributes):
    m = Model(dtype)
    array = DENSE.T if turned else DENSE
    x, w = m.start(), m.weight("w", array, 0 if turned else 1, single)
    step = numpy_helper.to_array(next(t for t in m.tensors if t.name == "w:s"))
    integers = (
        np.rint(BIAS / (np.float32(0.02) * step)).astype(np.int64) if bias_of is None else bias_of
    )
    bias = m.stored("b", integers.astype(np.int32))
    end = m.scale("r", 0.0317, 5) if rounds else ["", ""]
    given = [*x, *w, bias, *end]
    m.add(
        "QGemm", given if rounds else given[:7], "r" if rounds else "f", transB=turned, **attributes
    )
    if not rounds:
        end = m.scale("r", 0.0317, 5)
        m.add("QuantizeLinear", ["f", *end], "r")
    return m.finish(path, "r", end, ["n", 4], ["n", 5])


def of_two(path, kind, dtype=np.uint8):
    m = Model(dtype)
    x = m.start()
    other = [m.stored("o", np.arange(4).astype(dtype)), *m.scale("o", 0.7, 1)]
    end = m.scale("r", 0.0317, m.middle)
    m.add(kind, [*x, *other, *end], "r")
    return m.finish(path, "r", end, ["n", 4], ["n", 4])


def of_one(path, kind, shape, outputs, dtype=np.uint8, step=0.0317, zero=None, **attributes):
    m = Model(dtype)
    x = m.start()
    end = m.scale("r", step, m.middle if zero is None else zero)
    m.add(kind, [*x, *end], "r", **attributes)
    return m.finish(path, "r", end, shape, outputs)


def joined(path, dtype=np.uint8):
    m = Model(dtype)
    x = m.start()
    y = [m.add("QuantizeLinear", ["x", *m.scale("p", 0.05, 7)], "p"), "p:s", "p:z"]
    end = m.scale("r", 0.0317, m.middle)
    m.add("QLinearConcat", [*end, *x, *y], "r", axis=1)
    return m.finish(path, "r", end, ["n", 4], ["n", 8])


IMAGE = ["n", 3, 6, 6]
CASES = {
    "conv": convolution,
    "conv, one scale": lambda p, **k: convolution(p, single=True, **k),
    "conv, strides": lambda p, **k: convolution(p, dilations=[2, 2], **k),
    "matmul": product,
    "matmul, one scale": lambda p, **k: product(p, single=True, **k),
    "gemm": dense,
    "gemm, floats": lambda p, **k: dense(p, rounds=False, **k),
    "gemm, turned": lambda p, **k: dense(p, turned=1, **k),
    "gemm, one scale": lambda p, **k: dense(p, single=True, **k),
    "add": lambda p, **k: of_two(p, "QLinearAdd", **k),
    "mul": lambda p, **k: of_two(p, "QLinearMul", **k),
    "sigmoid": lambda p, **k: of_one(p, "QLinearSigmoid", ["n", 4], ["n", 4], step=1 / 256, **k),
    "leaky": lambda p, **k: of_one(p, "QLinearLeakyRelu", ["n", 4], ["n", 4], alpha=0.3, **k),
    "softmax": lambda p, **k: of_one(
        p, "QLinearSoftmax", ["n", 4], ["n", 4], step=1 / 256, axis=-1, opset=13,
        **({"zero": 0} | k if k.get("dtype", np.uint8) == np.uint8 else {"zero": -128} | k),
    ),
    "global pool": lambda p, **k: of_one(p, "QLinearGlobalAveragePool", IMAGE, ["n", 3, 1, 1], **k),
    "pool": lambda p, **k: of_one(
        p, "QLinearAveragePool", IMAGE, ["n", 3, 3, 3], kernel_shape=[2, 2], strides=[2, 2], **k
    ),
    "concat": joined,
}  # fmt: skip


def written_out(graph, x):
    """The operators that are read, by the reference evaluator: not those of the file."""
    (found,) = run_model(graph.source.proto, graph.source.reading.stored, {"x": x}).values()
    return found


def shape_of(path):
    sizes = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return [40, *(d.dim_value for d in sizes[1:])]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_what_onnxruntime_computes(tmp_path, name, dtype):
    path = CASES[name](tmp_path / "a.onnx", dtype=dtype)
    x = (3 * np.random.default_rng(1).standard_normal(shape_of(path))).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    graph = load_as_written(path)
    assert "it computes with integers: read, and not written" in graph.source.notes
    assert not any(note.startswith("opaque") for note in graph.source.notes)
    gaps = np.abs(written_out(graph, x) - wanted)
    step = numpy_helper.to_array(
        next(t for t in onnx.load(path).graph.initializer if t.name == "r:s")
    )
    assert gaps.max() <= 1.001 * step  # runtimes scale in float32: what is close to a tie may fall
    assert (gaps > 1e-5).mean() <= 0.02


@pytest.mark.parametrize("opset", [10, 12])
def test_files_without_scales_for_each_channel_elsewhere(tmp_path, opset):
    path = convolution(tmp_path / "a.onnx", opset=opset)
    x = np.random.default_rng(1).standard_normal(shape_of(path)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    graph = load_as_written(path)
    assert not any(note.startswith("opaque") for note in graph.source.notes)
    assert (np.abs(written_out(graph, x) - wanted) > 1e-5).mean() <= 0.02


def floats(path, kind):
    """The same in floats."""
    nodes = {
        "conv": [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        "gemm": [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
    }[kind]
    weight, bias = (CONV, BIAS[:4]) if kind == "conv" else (DENSE, BIAS)
    shape, outputs = (IMAGE, ["n", 4, 6, 6]) if kind == "conv" else (["n", 4], ["n", 5])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", ["conv", "gemm"])
def test_distance_to_its_floats(tmp_path, kind):
    path = CASES[kind](tmp_path / "a.onnx")
    other = floats(tmp_path / "b.onnx", kind)
    found = mo.distance(other, path, on=BOX, budget=50)
    x = np.random.default_rng(2).uniform(-2, 2, [2000, *shape_of(path)[1:]]).astype(np.float32)
    a, b = (onnxruntime.InferenceSession(p).run(None, {"x": x})[0] for p in (other, path))
    seen = np.abs(a.astype(float) - b).max()
    assert seen <= found.upper + 1e-5
    assert found.upper < 40 * seen
    assert {"w", "b"} <= {source.name.split(":")[0] for source in found.by_layer}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: dense(p, alpha=0.5), "another factor"),
        (lambda p: dense(p, bias_of=np.full(5, 2**31 - 5)), "sums that wrap around"),
        (
            lambda p: of_one(p, "QLinearGlobalAveragePool", ["n", 3, 6, 6], ["n", 1, 1, 6], channels_last=1),
            "channels last",
        ),
        (
            lambda p: of_one(
                p, "QLinearAveragePool", IMAGE, ["n", 3, 3, 3], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
                count_include_pad=1,
            ),
            "an average over what is behind the end",
        ),
        (
            lambda p: of_one(p, "QLinearSoftmax", ["n", 4], ["n", 4], axis=1, opset=11),
            "a softmax over all later axes",
        ),
    ],
)  # fmt: skip
def test_what_is_not_the_same_over_the_reals_stays_opaque(tmp_path, make, why):
    graph = load_as_written(make(tmp_path / "a.onnx"))
    assert any(note.startswith("opaque") for note in graph.source.notes), why
    assert "it computes with integers: read, and not written" not in graph.source.notes


def test_sums_that_wrap_around_while_it_runs(tmp_path):
    """40,000 products of 255 and 255 are more than 32 bits hold; fewer are not."""
    for inside, opaque in ((40_000, True), (30_000, False)):
        weight = np.full((inside, 1), 255, dtype=np.uint8)
        tensors = [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.float32(0.5), "t"),
        ]
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["m"]),
            helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "t"], ["u"]),
            helper.make_node("Mul", ["f", "u"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inside])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
            tensors,
        )
        opsets = [helper.make_opsetid("", 13)]
        onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "a.onnx")
        notes = load_as_written(tmp_path / "a.onnx").source.notes
        assert any(note.startswith("opaque") for note in notes) == opaque


def test_a_function_in_the_place_of_an_operator(tmp_path):
    path = dense(tmp_path / "a.onnx")
    model = onnx.load(path)
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 13)]
    model.functions.append(
        helper.make_function("com.microsoft", "QGemm", ["a"], ["b"], body, opsets)
    )
    onnx.save(model, path)
    with pytest.raises(UnsupportedModel, match="a function QGemm of its own"):
        mo.load(path)


def test_it_is_not_written(tmp_path):
    graph = load_as_written(convolution(tmp_path / "a.onnx"))
    with pytest.raises(UnsupportedModel, match="computes with integers: copy the file"):
        mo.save(graph, tmp_path / "b.onnx")
