"""Operators on integers with scales, written out: scale back, compute over the reals, round.

    QLinearConv(x, s, z, w, t, u, r, v, b)

has integers x, w that stand for s (x - z) and t (w - u), adds exactly, and rounds the sums to integers
with the step r and the zero point v. That is QuantizeLinear(Conv(s (x - z), t (w - u), s t b), r, v) over
the reals; and so on for QLinearMatMul and for those that onnxruntime contributes. Such a model is
read, and not written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel

from .nodes import kind_of
from .writing_out import Draft, fits, new_node

Tensor = np.ndarray[Any, np.dtype[Any]]
FLOAT, INT32 = 1, 6  # element types
BYTES = (2, 3)  # uint8 and int8
ALONG_ONE_AXIS = 13  # the opset from which on a softmax is along one axis


class Scaled(NamedTuple):
    """Names of integers, their scale and their zero point ("" for zero)."""

    integers: str
    scale: str
    zero: str


def _at(given: list[str], at: int) -> Scaled:
    integers, scale, zero = given[at : at + 3]
    return Scaled(integers, scale, zero)


class _Stays(Exception):
    """What the operator computes is not what such nodes would: it stays as it is."""


Handler = Callable[["_Work", Any, list[str]], None]  # node, and its inputs, "" where there is none
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)  # of ONNX itself
contributed = registrar(HANDLERS, "com.microsoft.")


def concerns(proto: Any) -> bool:
    """Whether a model has such operators.

    Raises:
        UnsupportedModel: it defines functions by their names, which runtimes do not call.
    """
    for function in proto.functions:
        if f"{function.domain}.{function.name}" in HANDLERS:
            raise UnsupportedModel(
                f"a function {function.name} of its own, which runtimes do not call"
            )
    return any(kind_of(node) in HANDLERS for node in proto.graph.node)


def written_out(proto: Any, folder: Path | None) -> Any | None:
    """The model without such operators as far as they are understood; None where none of them is."""
    made = type(proto)()
    made.CopyFrom(proto)
    work = _Work(made, folder)
    nodes, before = list[Any](), len(proto.graph.node)
    for node in made.graph.node:
        nodes += work.written(node)
    if len(nodes) == before:
        return None
    work.replace(nodes)
    return made


class _Work(Draft):
    def __init__(self, proto: Any, folder: Path | None) -> None:
        super().__init__(proto, folder)
        self.opset = max(
            (e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")), default=1
        )
        self.nodes: list[Any] = []

    def written(self, node: Any) -> list[Any]:
        """What stands in the place of a node."""
        handler = HANDLERS.get(kind_of(node))
        if handler is None or self.nested:
            return [node]
        self.nodes = []
        given = [*node.input, *[""] * 9]
        try:
            handler(self, node, given)
        except _Stays:
            return [node]
        return self.nodes

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(new_node(kind, inputs, output, **attributes))
        return output

    def scale(self, name: str) -> Tensor:
        """A stored scale, of one number or one for each unit."""
        if not self.known([name]) or self.stored[name].data_type != FLOAT:
            raise _Stays
        found = self.array(name)
        if found.ndim > 1:
            raise _Stays
        return found if found.size > 1 else found.reshape(())

    def zero(self, given: Scaled, scale: Tensor) -> Tensor:
        """A stored zero point for each scale."""
        if not given.zero:
            raise _Stays
        if not self.known([given.zero]) or self.stored[given.zero].data_type not in BYTES:
            raise _Stays
        found = self.array(given.zero)
        if found.size == 1:
            return np.broadcast_to(found.reshape(()), scale.shape)
        if found.shape != scale.shape:
            raise _Stays
        return found

    def real(self, given: Scaled, base: str, axis: int = 0, single: bool = True) -> str:
        """What integers stand for.

        Args:
            axis: of its own scales. single: whether there must be one scale for all.
        """
        scale = self.scale(given.scale)
        if single and scale.ndim:
            raise _Stays
        zero = self.zero(given, scale)
        parts = [self.store(f"{base}:scale", scale), self.store(f"{base}:zero", zero)]
        further = {"axis": axis} if scale.ndim else {}
        return self.add(
            "DequantizeLinear",
            [given.integers, *parts],
            self.fresh(f"{given.integers}:real"),
            **further,
        )

    def weight(self, given: Scaled, base: str, axis: int, bias: str = "") -> str:
        """What stored integers stand for, if their sums with bytes do not wrap around."""
        integers = [given.integers, bias] if bias else [given.integers]
        if not self.known(integers) or self.stored[given.integers].data_type not in BYTES:
            raise _Stays
        array, scale = self.array(given.integers), self.scale(given.scale)
        if scale.ndim and (axis >= array.ndim or array.shape[axis] != scale.size):
            raise _Stays
        zero = self.zero(given, scale)
        if array.ndim < 2 or not fits(array, zero, axis, self.array(bias) if bias else None):
            raise _Stays
        return self.real(given, base, axis, single=False)

    def bias(self, name: str, x: str, w: str, base: str, axis: int) -> str:
        """What stored sums of products stand for: integers with the product of both scales."""
        if self.stored[name].data_type != INT32:
            raise _Stays
        # of two floats of 32 bits it is one of 64 bits, exactly
        scale = np.asarray(np.multiply(self.scale(x), self.scale(w), dtype=np.float64))
        if scale.ndim and self.array(name).shape[axis:][:1] != scale.shape:
            raise _Stays
        further = {"axis": axis} if scale.ndim else {}
        stored = self.store(f"{base}:scale", scale)
        return self.add("DequantizeLinear", [name, stored], self.fresh(f"{name}:real"), **further)

    def result(self, y: str, end: list[str], output: str) -> None:
        """Round a real result to the integers that come out, with a step and a zero point."""
        scale, zero = end
        step = self.scale(scale)
        if step.ndim:
            raise _Stays
        point = self.zero(Scaled("", scale, zero), step)
        parts = [self.store(f"{output}:scale", step), self.store(f"{output}:zero", point)]
        self.add("QuantizeLinear", [y, *parts], output)


def _plain(node: Any, *names: str) -> dict[str, Any]:
    """Attributes of the operator over the reals; of others there is none that changes what it computes."""
    from onnx import helper

    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    twice = len(given) < len(node.attribute)
    if twice or given.pop("channels_last", 0) or given.keys() - set(names):
        raise _Stays
    return given


WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@handles("QLinearConv")
def _convolution(work: _Work, node: Any, given: list[str]) -> None:
    x, weight, bias = _at(given, 0), _at(given, 3), given[8]
    y = node.output[0]
    inputs = [work.real(x, f"{y}:x"), work.weight(weight, f"{y}:w", 0, bias)]
    if bias:
        inputs.append(work.bias(bias, x.scale, weight.scale, f"{y}:b", 0))
    attributes = _plain(node, *WINDOW, "group")
    work.result(work.add("Conv", inputs, work.fresh(f"{y}:sum"), **attributes), given[6:8], y)


@handles("QLinearMatMul")
def _product(work: _Work, node: Any, given: list[str]) -> None:
    y, b = node.output[0], _at(given, 3)
    last = len(work.stored[b.integers].dims) - 1 if b.integers in work.stored else 0
    inputs = [work.real(_at(given, 0), f"{y}:a"), work.weight(b, f"{y}:b", last)]
    work.result(work.add("MatMul", inputs, work.fresh(f"{y}:sum"), **_plain(node)), given[6:8], y)


@contributed("QGemm")
def _dense(work: _Work, node: Any, given: list[str]) -> None:
    a, b, c = _at(given, 0), _at(given, 3), given[6]
    attributes = _plain(node, "alpha", "transA", "transB")
    if attributes.get("alpha", 1.0) != 1.0:
        raise _Stays
    y, axis = node.output[0], 0 if attributes.get("transB", 0) else 1
    inputs = [work.real(a, f"{y}:a"), work.weight(b, f"{y}:b", axis, c)]
    if c:
        inputs.append(work.bias(c, a.scale, b.scale, f"{y}:c", -1))
    if not given[7]:
        work.add("Gemm", inputs, y, **attributes)
        return
    work.result(work.add("Gemm", inputs, work.fresh(f"{y}:sum"), **attributes), given[7:9], y)


@contributed("QLinearAdd", "QLinearMul")
def _of_two(work: _Work, node: Any, given: list[str]) -> None:
    y = node.output[0]
    inputs = [
        work.real(_at(given, 0), f"{y}:a"), work.real(_at(given, 3), f"{y}:b"),
    ]  # fmt: skip
    kind = node.op_type.removeprefix("QLinear")
    work.result(work.add(kind, inputs, work.fresh(f"{y}:{kind}"), **_plain(node)), given[6:8], y)


@contributed("QLinearSigmoid", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearLeakyRelu")
def _of_one(work: _Work, node: Any, given: list[str]) -> None:
    kind = node.op_type.removeprefix("QLinear")
    names = {
        "AveragePool": (*WINDOW, "ceil_mode", "count_include_pad"),
        "LeakyRelu": ("alpha",),
    }.get(kind, ())
    y, attributes = node.output[0], _plain(node, *names)
    if attributes.get("ceil_mode") and attributes.get("count_include_pad"):
        raise _Stays  # onnxruntime counts what is behind the end, too, where AveragePool does not
    x = work.real(_at(given, 0), f"{y}:x")
    work.result(work.add(kind, [x], work.fresh(f"{y}:{kind}"), **attributes), given[3:5], y)


@contributed("QLinearSoftmax")
def _softmax(work: _Work, node: Any, given: list[str]) -> None:
    attributes = {"axis": -1} | _plain(node, "axis", "opset")
    # before, it was over all later axes; which of both is meant is said by the node
    new = int(attributes.pop("opset", 0)) >= ALONG_ONE_AXIS
    if new != (work.opset >= ALONG_ONE_AXIS):
        raise _Stays
    y = node.output[0]
    x = work.real(_at(given, 0), f"{y}:x")
    work.result(work.add("Softmax", [x], work.fresh(f"{y}:real"), **attributes), given[3:5], y)


@contributed("QLinearConcat")
def _joined(work: _Work, node: Any, given: list[str]) -> None:
    y, parts = node.output[0], list(node.input[2:])
    if len(parts) % 3 or not parts:
        raise _Stays
    inputs = [work.real(_at(parts, i), f"{y}:{i // 3}") for i in range(0, len(parts), 3)]
    work.result(
        work.add("Concat", inputs, work.fresh(f"{y}:all"), **_plain(node, "axis")), given[:2], y
    )
