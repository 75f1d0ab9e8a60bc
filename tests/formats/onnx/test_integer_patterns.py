"""Models with QuantizeLinear and DequantizeLinear, bit by bit beside what onnxruntime makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

import moduli as mo
from moduli.formats.onnx.integer_kernels import RuntimeKernels
from moduli.kernel.errors import UnsupportedModel


class Images(quantization.CalibrationDataReader):
    """Random inputs, from which scales are taken."""

    def __init__(self, shape: Any) -> None:
        points = np.random.default_rng(4).uniform(-1, 1, (16, 1, *shape)).astype(np.float32)
        self.given = iter({"x": point} for point in points)

    def get_next(self) -> Any:
        return next(self.given, None)


class Floats:
    """A model in floats, in the making."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.nodes, self.arrays = shape, list[Any](), dict[str, Any]()
        self.last, self.rng = "x", np.random.default_rng(5)

    def store(self, *shape: int) -> str:
        name = f"stored{len(self.arrays)}"
        size = np.sqrt(np.prod(shape[1:]) or 1)
        self.arrays[name] = (self.rng.normal(size=shape) / size).astype(np.float32)
        return name

    def number(self, x: float) -> str:
        name = f"stored{len(self.arrays)}"
        self.arrays[name] = np.array(x, np.float32)
        return name

    def add(self, kind: str, *inputs: str, **given: Any) -> str:
        output = f"{kind}{len(self.nodes)}"
        inputs = inputs or (self.last,)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], output, **given))
        self.last = output
        return output

    def conv(self, out: int, own: int) -> str:
        return self.add(
            "Conv", self.last, self.store(out, own, 3, 3), self.store(out), pads=[1] * 4
        )

    def model(self) -> Any:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "g", [value("x", TensorProto.FLOAT, ["n", *self.shape])],
            [value(self.last, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(a, name) for name, a in self.arrays.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dense() -> Floats:
    f = Floats(6)
    f.add("Gemm", "x", f.store(9, 6), f.store(9), transB=1)
    f.add("Relu")
    f.add("Gemm", f.last, f.store(9, 5), f.store(5))
    return f


def products() -> Floats:
    f = Floats(6)
    f.add("MatMul", "x", f.store(6, 9))
    f.add("LeakyRelu", alpha=0.1)
    f.add("MatMul", f.last, f.store(9, 5))
    return f


def plain() -> Floats:
    f = Floats(3, 6, 6)
    f.conv(4, 3)
    f.add("Relu")
    f.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    f.conv(4, 4)
    f.add("GlobalAveragePool")
    f.add("Flatten")
    f.add("Gemm", f.last, f.store(5, 4), f.store(5), transB=1)
    return f


def clips() -> Floats:
    f = Floats(3, 6, 6)
    f.conv(4, 3)
    f.add("Clip", f.last, f.number(0.0), f.number(1.0))
    f.conv(4, 4)
    f.add("Relu")
    f.add("Clip", f.last, f.number(-0.1), f.number(1.5))
    f.add("Flatten")
    f.add("Gemm", f.last, f.store(5, 144), f.store(5), transB=1)
    return f


def branches() -> Floats:
    f = Floats(3, 6, 6)
    f.conv(4, 3)
    first = f.add("Relu")
    f.conv(4, 4)
    f.add("Add", first, f.last)
    f.add("Relu")
    f.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    f.add("Mul", f.last, f.last)
    f.add("Concat", f.last, f.last, axis=1)
    f.add("Flatten")
    f.add("Gemm", f.last, f.store(5, 72), f.store(5), transB=1)
    return f


def quantised(floats: Floats, folder: Path, kind: str, **options: Any) -> tuple[str, str]:
    """Both files. Weights have 7 bits: some processors add pairs of products in 16 bits."""
    files = str(folder / "f.onnx"), str(folder / "q.onnx")
    onnx.save(floats.model(), files[0])
    types = {"uint8": quantization.QuantType.QUInt8, "int8": quantization.QuantType.QInt8}
    symmetric = options.pop("symmetric", False)
    quantization.quantize_static(
        *files, Images(floats.shape), quant_format=quantization.QuantFormat.QDQ,
        activation_type=types[kind], weight_type=types["int8"], reduce_range=True,
        extra_options={"ActivationSymmetric": symmetric}, **options,
    )  # fmt: skip
    return files


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("make", [dense, products, plain, clips, branches])
def test_what_onnxruntime_makes_of_them(make, kind, per_channel, tmp_path):
    """Relus that are left in floats among them, where scales are symmetric."""
    if make is branches and kind == "int8":
        pytest.skip("int8 that is read twice is refused: see below")
    for symmetric in (False, True):
        floats = make()
        more = {"per_channel": per_channel, "symmetric": symmetric}
        _, path = quantised(floats, tmp_path, kind, **more)
        device = mo.load(path).source.on_device()
        (x,) = device.inputs
        assert x.floating
        points = floats.rng.integers(x.least, x.most + 1, (200, *floats.shape))
        real = (x.scale * (points - x.zero)).astype(np.float32)
        session = onnxruntime.InferenceSession(path)
        (wanted,) = session.run(None, {"x": real})
        (found,) = device.run({"x": points[:, None].astype(np.int64)})
        assert np.array_equal(found.reshape(wanted.shape), wanted.astype(float))
        assert len(np.unique(wanted)) > 10


@pytest.mark.parametrize("zero", [0, 3, 128])
@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_relus_and_clips_of_dequantised_integers(kind, zero):
    """Whatever onnxruntime does to them, where both scales and zero points differ; in front of one a sum."""
    f = Floats(6)
    f.arrays = {
        "xs": np.float32(0.02),
        "xz": np.uint8(100),
        "ys": np.float32(0.015),
        "yz": np.uint8(zero),
    }
    quantise, ends = "QuantizeLinear", ([] if kind == "Relu" else [f.number(0.0), f.number(0.5)])
    f.add(quantise, "x", "xs", "xz")
    f.add("DequantizeLinear", f.last, "xs", "xz")
    f.add(kind, f.last, *ends)
    f.add(quantise, f.last, "ys", "yz")
    f.add("DequantizeLinear", f.last, "ys", "yz")
    arrays = {name: np.asarray(a) for name, a in f.arrays.items()}
    f.arrays = arrays
    model = f.model()
    device = RuntimeKernels(model, arrays, "made.onnx")
    points = f.rng.integers(0, 256, (200, 6))
    real = (device.inputs[0].scale * (points - 100)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": real})
    (found,) = device.run({"x": points[:, None]})
    assert np.array_equal(found[:, 0], wanted.astype(float))


def test_beside_the_model_in_floats_at_all_integers_of_a_box(tmp_path):
    a, b = quantised(dense(), tmp_path, "uint8")
    low = [0.1] * 6
    high = [0.14, 0.11, 0.1, 0.1, 0.12, 0.1]
    step = mo.load(b).source.on_device().inputs[0].scale
    d = mo.distance(a, b, on=mo.Grid([x - step for x in low], high))
    assert d.status == "proved"
    session = onnxruntime.InferenceSession(b)
    device = mo.load(b).source.on_device().inputs[0]
    ends = [
        np.arange(np.ceil((x - step) / step), np.floor(y / step) + 1)
        for x, y in zip(low, high, strict=True)
    ]
    points = np.stack([p.ravel() for p in np.meshgrid(*ends)], axis=1)
    assert d.points == len(points)
    real = device.scale * points
    wanted = session.run(None, {"x": real.astype(np.float32)})[0]
    worst = np.abs(wanted - mo.load(a)(real)).max()
    assert abs(worst - d.upper) < 1e-12
    assert d.check()


def refused(path: str) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        mo.load(path).source.on_device()
    return str(caught.value)


def without_floats(path: str) -> str:
    """The same with integers at both ends."""
    model = onnx.load(path)
    graph = model.graph
    for value in (graph.input[0], graph.output[0]):
        kind = "QuantizeLinear" if value.name == "x" else "DequantizeLinear"
        (node,) = (
            n for n in graph.node if n.op_type == kind and value.name in (n.input[0], n.output[0])
        )
        zero = next(t for t in graph.initializer if t.name == node.input[2])
        value.type.tensor_type.elem_type = zero.data_type
        value.name = node.output[0] if kind == "QuantizeLinear" else node.input[0]
        graph.node.remove(node)
    onnx.save(model, path)
    return path


def test_integers_at_both_ends(tmp_path):
    _, path = quantised(branches(), tmp_path, "uint8")
    device = mo.load(without_floats(path)).source.on_device()
    (x,) = device.inputs
    points = np.random.default_rng(6).integers(0, 256, (200, 3, 6, 6)).astype(np.uint8)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {x.name: points})
    (found,) = device.run({x.name: points[:, None].astype(np.int64)})
    (end,) = device.outputs
    assert np.array_equal(np.rint(found[:, 0] / end.scale + end.zero), wanted)


def test_what_stays_in_floats_of_int8_is_refused(tmp_path):
    _, path = quantised(branches(), tmp_path, "int8")
    assert "of int8 is read several times, or as integers, which leaves" in refused(path)
    _, path = quantised(dense(), tmp_path, "int8")
    assert "of int8 is read several times, or as integers, which leaves" in refused(
        without_floats(path)
    )
    f = Floats(3, 6, 6)
    f.conv(4, 3)
    f.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    _, path = quantised(f, tmp_path, "int8")
    assert "AveragePool (AveragePool1) of int8 is left in floats" in refused(path)


def changed(path: str, change: Any) -> str:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def test_patterns_that_onnxruntime_leaves_in_floats_are_refused(tmp_path):
    """A bias of another scale than the sums, sums that are an output, too, no integers at the end, or others
    than at the beginning.
    """

    def other_scale(model: Any) -> None:
        (bias,) = (n for n in model.graph.node if n.output[0] == "stored1")
        (scale,) = (t for t in model.graph.initializer if t.name == bias.input[1])
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))

    def read_again(model: Any) -> None:
        (gemm,) = (n for n in model.graph.node if n.name == "Gemm0")
        value = helper.make_tensor_value_info(gemm.output[0], TensorProto.FLOAT, None)
        model.graph.output.append(value)

    def without_end(model: Any) -> None:
        (gemm,) = (n for n in model.graph.node if n.name == "Gemm2")
        model.graph.output[0].name = gemm.output[0]

    def other_type(model: Any) -> None:
        (end,) = (n for n in model.graph.node if n.output[0] == model.graph.output[0].name)
        value = numpy_helper.from_array(np.array(0, np.int8), "end:zero")
        model.graph.initializer.append(value)
        for node in model.graph.node:
            if node is end or node.output[0] == end.input[0]:
                node.input[2] = value.name

    for change in (other_scale, read_again, without_end, other_type):
        _, path = quantised(dense(), tmp_path, "uint8")
        assert "DequantizeLinear" in refused(changed(path, change))
