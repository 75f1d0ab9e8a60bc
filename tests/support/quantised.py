"""Networks in floats and the same quantised, as ONNX models with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """Nodes one after another, in floats or quantised.

    Args:
        ranges: lowest and highest value that integers stand for, by the value's name; values without any
            are not rounded. signed: whether integers are.
    """

    def __init__(self, shape: tuple[Any, ...], ranges: Any = None, signed: bool = False) -> None:
        self.ranges, self.signed = ranges or {}, signed
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.shape = shape
        self.count = 0

    def emit(self, kind: str, inputs: list[str], name: str, **given: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], **given))
        return name

    def stored(self, name: str, array: Any, axis: int | None = None) -> str:
        """A stored tensor, in 8 bits where anything is rounded; one scale for each index of an axis."""
        array = np.asarray(array, dtype=np.float32)
        if not self.ranges:
            self.arrays[name] = array
            return name
        others = tuple(a for a in range(array.ndim) if a != axis)
        largest = np.abs(array).max(axis=None if axis is None else others)
        scale = np.maximum(
            np.asarray(largest, dtype=np.float32) / np.float32(127), np.float32(1e-6)
        )
        wide = (
            scale
            if axis is None
            else scale.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        )
        self.arrays[f"{name}.q"] = np.clip(np.rint(array / wide), -127, 127).astype(np.int8)
        self.arrays[f"{name}.s"] = scale
        self.arrays[f"{name}.z"] = np.zeros(scale.shape, dtype=np.int8)
        given = {} if axis is None else {"axis": axis}
        return self.emit("DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], name, **given)

    def rounded(self, name: str) -> str:
        """The value, through integers where its range is given."""
        if name not in self.ranges:
            return name
        low, high = self.ranges[name]
        kind, lowest = (np.int8, -128) if self.signed else (np.uint8, 0)
        scale = np.float32((high - low) / 255)
        self.arrays[f"{name}.scale"] = scale
        self.arrays[f"{name}.zero"] = np.array(
            np.clip(lowest - round(low / scale), lowest, lowest + 255), dtype=kind
        )
        ends = [f"{name}.scale", f"{name}.zero"]
        q = self.emit("QuantizeLinear", [name, *ends], f"{name}.ints")
        return self.emit("DequantizeLinear", [q, *ends], f"{name}.floats")

    def model(self, output: str, width: int) -> Any:
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *self.shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in self.arrays.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dense(
    weights: Any,
    biases: Any,
    ranges: Any = None,
    *,
    relu: bool = True,
    axis: Any = None,
    signed: bool = False,
) -> Any:
    """A chain of dense layers with relus; without them where rounding cuts off at zero, if not `relu`."""
    w = Writer((np.shape(weights[0])[1],), ranges, signed)
    h = w.rounded("x")
    last = len(weights) - 1
    for l, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        stored = [w.stored(f"w{l}", weight, axis)]
        w.arrays[f"b{l}"] = np.asarray(bias, dtype=np.float32)
        name = f"z{l}" if l < last and (relu or not ranges) else f"h{l}"
        h = w.emit("Gemm", [h, *stored, f"b{l}"], name, transB=1)
        if l < last and (relu or not ranges):
            h = w.emit("Relu", [h], f"h{l}")
        h = w.rounded(h)
    return w.model(h, np.shape(weights[-1])[0])


def convolutional(rng: Any, ranges: Any = None) -> Any:
    """Two convolutions, a residual sum, a max pool, a dense layer."""
    k1, k2 = rng.standard_normal((4, 2, 3, 3)) / 3, rng.standard_normal((4, 4, 3, 3)) / 6
    dense = rng.standard_normal((3, 4 * 9)) / 6
    w = Writer((2, 6, 6), ranges)
    h = w.rounded("x")
    h = w.emit("Conv", [h, w.stored("k1", k1, 0)], "c1", pads=[1, 1, 1, 1])
    h = first = w.rounded(w.emit("Relu", [h], "h1"))
    h = w.rounded(w.emit("Conv", [h, w.stored("k2", k2, 0)], "c2", pads=[1, 1, 1, 1]))
    h = w.rounded(w.emit("Add", [h, first], "sum"))
    h = w.emit("MaxPool", [h], "pool", kernel_shape=[2, 2], strides=[2, 2])
    h = w.emit("Flatten", [h], "flat")
    h = w.emit("Gemm", [h, w.stored("d", dense)], "y", transB=1)
    return w.model(h, 3)


def written(model: Any, path: Any) -> Any:
    onnx.save(model, path)
    return path
