"""An ONNX model of operators on 8-bit integers, computed as onnxruntime does.

QLinearConv, QLinearMatMul and QGemm add products of integers exactly in 32 bits, make a float32 of the sum,
multiply it with the float32 (x scale * w scale) / y scale, round to the nearest integer, of halves to the
even one, add the zero point, and cut off [onnxruntime's MlasRequantizeOutput]. QuantizeLinear at an input
divides in float32 and rounds alike; DequantizeLinear at an output multiplies in float32. Operators between
these two are what onnxruntime makes of them, see `integer_patterns`.

Contributed operators compute in float32, in the order of x86 processors; that of QLinearAdd fuses products
with sums, as those with AVX2 do. Others may be one step off where a number is half-way between integers.

On processors without dot products of 8 bits onnxruntime adds pairs of products of uint8 with int8 in 16
bits, and cuts off there (x86 before VNNI): not what is computed here, unless weights have 7 bits.

Numbers are int64 arrays ``[points, *shape]``. An operator without a rule here is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.common.integer_network import (
    ORDINARY,
    Array,
    Compute,
    IntegerInput,
    IntegerNetwork,
    IntegerOutput,
    Ints,
    Step,
)
from moduli.formats.integer_sums import Whole, Window, convolved, largest_sums, seen
from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel

from .integer_patterns import CONTRIBUTED, OWN, Patterns
from .nodes import kind_of

FLOAT = 1
KINDS = {2: (0, 255), 3: (-128, 127)}  # uint8 and int8
# quotients of scales for which sums of two products are exact in float64
FUSED = (2.0**-12, 2.0**6)
RUNTIME = "onnxruntime"
RULES = "onnxruntime's kernels for 8-bit integers, with sums in 32 bits"

Handler = Callable[["_Setting"], Compute]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)
contributed = registrar(HANDLERS, f"{CONTRIBUTED}.")
own = registrar(HANDLERS, f"{OWN}.")


class Scaled(NamedTuple):
    """Integers, and what they stand for: scale (q - zero)."""

    scale: float
    zero: int
    least: int
    most: int

    @property
    def reach(self) -> int:
        """The largest size of an integer less the zero point."""
        return max(self.zero - self.least, self.most - self.zero)


class RuntimeKernels(IntegerNetwork):
    """A model, as onnxruntime computes it.

    Args:
        proto: the model, perhaps without numbers. arrays: its stored tensors by name.

    Raises:
        UnsupportedModel: an operator, a type or a scale has no rule here; names it.
    """

    kernels, rules = RUNTIME, RULES

    def __init__(self, proto: Any, arrays: Mapping[str, Any], where: str) -> None:
        self.proto, self.arrays, self.where = proto, arrays, where
        graph = proto.graph
        try:
            self.nodes = Patterns(graph, arrays).nodes
        except UnsupportedModel as error:
            raise self.refused(str(error)) from None
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.said: dict[str, Scaled] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.alias: dict[str, str] = {}
        given = [value for value in graph.input if value.name not in arrays]
        self.inputs = tuple(map(self._input, given))
        self.given = {end.name: self.alias.get(end.name, end.name) for end in self.inputs}
        for value in graph.output:
            self._find_floats(value.name)
        self.steps = []
        for node in self.nodes:
            step = self._step(node)
            if step is not None:
                self.steps.append(step)
        self.outputs = tuple(self._output(value.name) for value in graph.output)
        self.widest = max(math.prod(shape) for shape in self.shapes.values())

    # Ends

    def _input(self, value: Any) -> IntegerInput:
        """An input of integers, or of floats that are rounded to integers at once."""
        name, kind = value.name, value.type.tensor_type.elem_type
        if not value.type.tensor_type.HasField("shape"):
            raise self.refused(f"input {name!r} has no shape")
        dims = value.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else 0 for d in dims)
        if 0 in shape[1:] or not shape:
            raise self.refused(f"input {name!r} has sizes that are left open")
        shape = (shape[0] or 1, *shape[1:])
        readers = [node for node in self.nodes if name in node.input]
        integers = name
        if kind == FLOAT:
            if len(readers) != 1 or kind_of(readers[0]) != "QuantizeLinear":
                raise self.refused(f"input {name!r} is read in floats")
            self._require_plain(readers[0])
            integers = self.alias[name] = readers[0].output[0]
            said = self.scaled(*readers[0].input[1:3])
        elif kind in KINDS:
            found = {self._scale_of(node, name) for node in readers}
            only = found.pop() if len(found) == 1 else None
            if only is None or (only.least, only.most) != KINDS[kind]:
                raise self.refused(f"input {name!r} is read with several scales, or none")
            said = only
        else:
            raise self.refused(f"input {name!r} holds no integers of 8 bits, and no float32")
        self.said[integers], self.shapes[integers] = said, shape
        return IntegerInput(
            name, shape, said.scale, said.zero, said.least, said.most, integers != name
        )

    def _scale_of(self, node: Any, name: str) -> Scaled | None:
        """The scale that a node reads an input with."""
        kind, inputs = kind_of(node), list(node.input)
        where = inputs.index(name)
        scaled = ("QLinear", f"{CONTRIBUTED}.Q", f"{OWN}.", "DequantizeLinear")
        if kind.startswith(scaled):
            return self.scaled(*inputs[where + 1 : where + 3])
        if kind in MOVES:
            readers = [other for other in self.nodes if node.output[0] in other.input]
            found = {self._scale_of(reader, node.output[0]) for reader in readers}
            return found.pop() if len(found) == 1 else None
        return None

    def _require_plain(self, node: Any) -> None:
        """Refuse other types than 8 bits and float32, that an attribute asks for."""
        others = [a.name for a in node.attribute if a.name not in ("axis", "saturate")]
        if others:
            raise self.refused(f"{kind_of(node)} ({node.name or node.output[0]}) has {others[0]}")

    def _output(self, name: str) -> IntegerOutput:
        integers = self.alias.get(name, name)
        if integers not in self.said:
            raise self.refused(f"output {name!r} has no scale")
        said = self.said[integers]
        return IntegerOutput(integers, said.scale, said.zero, integers != name)

    def _find_floats(self, name: str) -> None:
        """Whether floats that come out are scaled from integers at the end."""
        node = self.makers.get(name)
        if node is None or kind_of(node) != "DequantizeLinear":
            return
        self._require_plain(node)
        if any(name in other.input for other in self.nodes):
            raise self.refused(f"output {name!r} is read again in floats")
        self.alias[name] = node.input[0]

    def _step(self, node: Any) -> Step | None:
        if node.output[0] in self.alias.values() and kind_of(node) == "QuantizeLinear":
            return None
        if node.output[0] in self.alias:  # DequantizeLinear, with the scale that the integers have
            if self.said.get(node.input[0]) != self.scaled(*_padded(node.input, 3)[1:]):
                raise self.refused(f"output {node.output[0]!r} is scaled with another scale")
            return None
        handler = HANDLERS.get(kind_of(node))
        if handler is None or len(node.output) != 1:
            raise self.refused(f"{kind_of(node)} ({node.name or node.output[0]}) has no rule")
        setting = _Setting(self, node)
        try:
            compute = handler(setting)
        except UnsupportedModel as error:
            place = f"{kind_of(node)} ({node.name or node.output[0]})"
            raise self.refused(f"{place}: {error}") from None
        return Step(compute, tuple(setting.reads), node.output[0])

    # What is stored

    def number(self, name: str) -> Any:
        array = self.arrays.get(name)
        if array is None or np.size(array) != 1:
            raise UnsupportedModel(f"{name!r} is no stored number")
        return np.ravel(array)[0]

    def scaled(self, scale: str, zero: str = "") -> Scaled:
        """One scale and one zero point."""
        step = self.number(scale)
        point = self.number(zero) if zero else np.uint8(0)
        limits = np.iinfo(point.dtype) if point.dtype in (np.int8, np.uint8) else None
        if step.dtype != np.float32 or limits is None:
            raise UnsupportedModel(
                f"{scale!r} or {zero!r} is of another type than float32 and 8 bits"
            )
        if not ORDINARY[0] < float(step) < ORDINARY[1]:
            raise UnsupportedModel(f"{scale!r} is the scale {float(step):g}")
        return Scaled(float(step), int(point), int(limits.min), int(limits.max))


def _padded(names: Sequence[str], count: int) -> list[str]:
    return [*names, *[""] * count][: max(count, len(names))]


class _Setting:
    """A node, its inputs ("" where one is left out), and what is known of them.

    Attributes:
        reads: the tensors that are computed, in the order in which `compute` takes them.
    """

    def __init__(self, network: RuntimeKernels, node: Any) -> None:
        from onnx import helper

        self.network, self.node = network, node
        self.given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.inputs = _padded(node.input, 9)
        self.count = len(node.input)
        self.reads: list[str] = []

    def computed(self, at: int) -> tuple[tuple[int, ...], Scaled]:
        """A computed operand: its shape, and what is known of it."""
        name = self.inputs[at]
        if name not in self.network.said:
            raise UnsupportedModel(f"{name!r} is stored, or is nothing that is known")
        self.reads.append(name)
        return self.network.shapes[name], self.network.said[name]

    def operand(self, at: int) -> tuple[tuple[int, ...], Scaled]:
        """One whose scale and zero point the node reads behind it."""
        shape, said = self.computed(at)
        read = self.scale(at + 1)
        if read != said:
            raise UnsupportedModel(f"{self.inputs[at]!r} is read with another scale")
        return shape, said

    def scale(self, at: int) -> Scaled:
        """A scale and the zero point behind it."""
        return self.network.scaled(self.inputs[at], self.inputs[at + 1])

    def give(self, shape: Sequence[int], said: Scaled) -> Scaled:
        name = self.node.output[0]
        self.network.shapes[name], self.network.said[name] = tuple(shape), said
        return said

    def only(self, **defaults: Any) -> list[Any]:
        """Attributes, with defaults; others have no rule.

        Raises:
            UnsupportedModel: there is another one.
        """
        further = self.given.keys() - defaults.keys()
        if further:
            raise UnsupportedModel(f"it has the attribute {sorted(further)[0]}")
        return [self.given.get(name, value) for name, value in defaults.items()]

    def stored(self, at: int) -> Any:
        array = self.network.arrays.get(self.inputs[at])
        if array is None:
            raise UnsupportedModel(f"{self.inputs[at]!r} is computed in the graph")
        return np.asarray(array)

    def integers(self, at: int) -> list[int]:
        return [int(n) for n in self.stored(at).ravel()]


# Products -------------------------------------------------------------------------------------------------------


def _products(
    x: Scaled, weight: Whole, scales: Array, bias: Ints | None, y: Scaled
) -> Callable[[Whole], Ints]:
    """What is done with sums of products of `x` with weights ``[units, ...]``."""
    largest_sums(weight, x.reach, bias, "its sums")
    by = (np.float32(x.scale) * scales.astype(np.float32)) / np.float32(y.scale)
    if not (np.isfinite(by) & (by > 0)).all():
        raise UnsupportedModel("its scales have a quotient that is no positive float32")

    def finish(sums: Whole) -> Ints:
        total = sums if bias is None else sums + bias
        product = total.astype(np.float32) * by
        return _rounded(product, y)

    return finish


def _weights(setting: _Setting, x: Scaled, at: int, axis: int) -> tuple[Whole, Array]:
    """Stored weights less their zero points, and a scale for each index along an axis."""
    weight = setting.stored(at)
    if x.least < 0 and weight.dtype != np.int8:
        raise UnsupportedModel("onnxruntime has no kernel for an int8 input and other weights")
    scale, zero = setting.stored(at + 1), setting.stored(at + 2)
    units = weight.shape[axis]
    if weight.dtype not in (np.int8, np.uint8) or zero.dtype != weight.dtype:
        raise UnsupportedModel(f"weights of type {weight.dtype} with zero points of {zero.dtype}")
    if scale.dtype != np.float32 or scale.size not in (1, units) or zero.size not in (1, units):
        raise UnsupportedModel(
            f"scales {scale.shape} and zero points {zero.shape} of {units} units"
        )
    if not ((scale > ORDINARY[0]) & (scale < ORDINARY[1])).all():
        raise UnsupportedModel("its weights have a scale that is tiny, huge or negative")
    along = [1] * weight.ndim
    along[axis] = -1
    points = np.broadcast_to(zero.ravel(), (units,)).astype(np.float64).reshape(along)
    return weight.astype(np.float64) - points, np.broadcast_to(scale.ravel(), (units,))


def _bias(setting: _Setting, at: int, units: int) -> Ints | None:
    if not setting.inputs[at]:
        return None
    bias = setting.stored(at)
    if bias.dtype != np.int32 or bias.size != units or bias.ndim != 1:
        raise UnsupportedModel(f"its bias is of type {bias.dtype} and shape {bias.shape}")
    return np.asarray(bias.astype(np.int64))


def _window(setting: _Setting, shape: Sequence[int], size: Sequence[int]) -> Window:
    """Of attributes that convolutions and pools share."""
    given = setting.given
    if len(shape) != 4 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedModel(f"an input of {len(shape)} axes, or padding by a word")
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads = given.get("pads", [0, 0, 0, 0])
    if [len(part) for part in (size, strides, dilations, pads)] != [2, 2, 2, 4]:
        raise UnsupportedModel("kernel_shape, strides, dilations or pads are not about two axes")
    top, left, bottom, right = pads
    if given.get("auto_pad") == b"VALID" and any((top, left, bottom, right)):
        raise UnsupportedModel("pads beside the word VALID")
    if min(*strides, *dilations, *size) < 1 or min(top, left, bottom, right) < 0:
        raise UnsupportedModel("strides, dilations or pads that are none")
    return Window(
        (size[0], size[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        ((top, bottom), (left, right)),
    )  # fmt: skip


def _after(shape: Sequence[int], window: Window) -> list[int]:
    """Rows and columns that windows give."""
    return [
        (n + sum(pad) - (k - 1) * d - 1) // s + 1
        for n, k, s, d, pad in zip(shape[2:], *window, strict=True)
    ]


SHARED = {
    "auto_pad": b"NOTSET", "dilations": [1, 1], "kernel_shape": None, "pads": [0, 0, 0, 0],
    "strides": [1, 1],
}  # fmt: skip


def _last(q: Any) -> Any:
    """``[points, batch, channels, rows, columns]`` as one batch with channels last."""
    return np.moveaxis(q.reshape(-1, *q.shape[2:]), 1, 3)


def _first(y: Any, points: int) -> Any:
    return np.moveaxis(y, 3, 1).reshape(points, -1, y.shape[3], *y.shape[1:3])


@handles("QLinearConv")
def _convolution(setting: _Setting) -> Compute:
    shape, x = setting.operand(0)
    *_, groups = setting.only(**SHARED, group=1)
    weight, scales = _weights(setting, x, 3, 0)
    y = setting.scale(6)
    if weight.ndim != 4 or groups < 1 or len(shape) != 4 or len(weight) % groups:
        raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {shape}")
    if shape[1] != weight.shape[1] * groups:
        raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {shape}")
    if list(setting.given.get("kernel_shape", weight.shape[2:])) != list(weight.shape[2:]):
        raise UnsupportedModel("its kernel_shape is not that of its weights")
    window = _window(setting, shape, weight.shape[2:])
    rows = np.moveaxis(weight, 1, 3).reshape(len(weight), -1, weight.shape[1])
    finish = _products(x, rows, scales, _bias(setting, 8, len(weight)), y)
    setting.give((shape[0], len(weight), *_after(shape, window)), y)

    def compute(q: Ints) -> Ints:
        sums = convolved(_last(q).astype(np.float64) - x.zero, rows, window, groups)
        return np.asarray(_first(finish(sums), len(q)))

    return compute


@handles("QLinearMatMul")
def _matrix_product(setting: _Setting) -> Compute:
    shape, x = setting.operand(0)
    setting.only()
    weight, scales = _weights(setting, x, 3, 1) if setting.stored(3).ndim == 2 else (None, None)
    y = setting.scale(6)
    if weight is None or scales is None or len(shape) < 2 or shape[-1] != len(weight):
        raise UnsupportedModel(f"weights {setting.stored(3).shape} meet an input of shape {shape}")
    finish = _products(x, weight.T, scales, None, y)
    setting.give((*shape[:-1], weight.shape[1]), y)
    return lambda q: finish((q.astype(np.float64) - x.zero) @ weight)


@contributed("QGemm")
def _dense(setting: _Setting) -> Compute:
    shape, x = setting.operand(0)
    alpha, turned, columns = setting.only(alpha=1.0, transA=0, transB=0)
    if alpha != 1.0 or turned or len(shape) != 2 or not setting.inputs[7]:
        raise UnsupportedModel("alpha is not 1, its input is turned, or it gives floats")
    weight, scales = _weights(setting, x, 3, 0 if columns else 1)
    rows = weight if columns else weight.T
    if rows.ndim != 2 or shape[1] != rows.shape[1]:
        raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {shape}")
    y = setting.scale(7)
    finish = _products(x, rows, scales, _bias(setting, 6, len(rows)), y)
    setting.give((shape[0], len(rows)), y)
    return lambda q: finish((q.astype(np.float64) - x.zero) @ rows.T)


@handles("MaxPool")
def _largest(setting: _Setting) -> Compute:
    shape, x = setting.computed(0)
    _, _, size, _, _, ceil, order = setting.only(**SHARED, ceil_mode=0, storage_order=0)
    if ceil or order or size is None:
        raise UnsupportedModel("ceil_mode or storage_order is not 0")
    window = _window(setting, shape, size)
    setting.give((*shape[:2], *_after(shape, window)), x)
    return lambda q: _first(seen(_last(q), window, x.least).max(axis=3), len(q))


@contributed("QLinearAveragePool")
def _average(setting: _Setting) -> Compute:
    """Floats are added row by row, divided by how many there are, and rounded as at an input."""
    shape, x = setting.operand(0)
    _, dilations, size, _, _, ceil, all_, last = setting.only(
        **SHARED, ceil_mode=0, count_include_pad=0, channels_last=0
    )
    if ceil or last or size is None or any(d != 1 for d in dilations):
        raise UnsupportedModel(
            "ceil_mode, channels_last or dilations are given, or no kernel_shape"
        )
    window, y = _window(setting, shape, size), setting.scale(3)
    ones = np.ones((1, *shape[2:], 1), dtype=np.float32)
    inside = seen(ones, window).sum(axis=3)
    counts = np.float32(math.prod(size)) if all_ else inside.astype(np.float32)
    if not inside.all():
        raise UnsupportedModel("a window lies beside its input")
    setting.give((*shape[:2], *_after(shape, window)), y)
    table = _floats(x)

    def compute(q: Ints) -> Ints:
        parts = seen(table[_last(q) - x.least], window)
        total = np.zeros(parts.shape[:3] + parts.shape[4:], dtype=np.float32)
        for place in range(parts.shape[3]):
            total = total + parts[:, :, :, place]
        return np.asarray(_first(_nearest(total / counts / np.float32(y.scale), y), len(q)))

    return compute


@contributed("QLinearGlobalAveragePool")
def _global_average(setting: _Setting) -> Compute:
    shape, x = setting.operand(0)
    (last,) = setting.only(channels_last=0)
    count, y = math.prod(shape[2:]), setting.scale(3)
    if last or len(shape) != 4 or not 0 < count * x.reach < 2**24:
        raise UnsupportedModel(f"an input of shape {shape}, or channels_last is given")
    by = np.float32(x.scale) / (np.float32(y.scale) * np.float32(count))
    setting.give((*shape[:2], 1, 1), y)

    def compute(q: Ints) -> Ints:
        total = (q - x.zero).sum(axis=(3, 4), keepdims=True)
        return _rounded(total.astype(np.float32) * by, y)

    return compute


# Two operands ---------------------------------------------------------------------------------------------------


def _two(setting: _Setting) -> tuple[Scaled, Scaled, Scaled]:
    """Of both terms or factors and of the output; entries meet one by one."""
    setting.only()
    (shape, a), (other, b), y = setting.operand(0), setting.operand(3), setting.scale(6)
    if shape != other or math.prod(shape) < 2:
        raise UnsupportedModel(
            f"operands of shapes {shape} and {other}: several entries, one by one, are known"
        )
    if len({(end.least, end.most) for end in (a, b, y)}) > 1:
        raise UnsupportedModel("its operands and its output have different types")
    setting.give(shape, y)
    return a, b, y


@contributed("QLinearAdd")
def _sum(setting: _Setting) -> Compute:
    """a (A / C) + (b (B / C) + rest), each step fused and rounded once."""
    a, b, y = _two(setting)
    by, other = (np.float32(end.scale) / np.float32(y.scale) for end in (a, b))
    if not (FUSED[0] <= min(by, other) and max(by, other) < FUSED[1]):
        raise UnsupportedModel(f"its scales have the quotients {by:g} and {other:g}")
    # the term of both zero points; a compiler fuses the product of one of them with the sum
    rest = np.float32(y.zero) - _fused(by, np.float32(a.zero), other * np.float32(b.zero))

    def compute(p: Ints, q: Ints) -> Ints:
        second = _fused(q.astype(np.float32), other, rest)
        total = _fused(p.astype(np.float32), by, second)
        return np.asarray(np.clip(np.rint(total), y.least, y.most).astype(np.int64))

    return compute


def _fused(a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once to 32 bits, for a of 8 bits and b within `FUSED`.

    All three are multiples of 2^-35 and the sum is below 2^17: float64 holds it exactly.
    """
    total = np.asarray(a, dtype=np.float64) * np.asarray(b, dtype=np.float64) + np.float64(c)
    return total.astype(np.float32)


@contributed("QLinearMul")
def _product(setting: _Setting) -> Compute:
    a, b, y = _two(setting)
    by = np.float32(a.scale) * np.float32(b.scale) / np.float32(y.scale)

    def compute(p: Ints, q: Ints) -> Ints:
        product = ((p - a.zero) * (q - b.zero)).astype(np.float32) * by + np.float32(y.zero)
        return np.asarray(np.clip(np.rint(product), y.least, y.most).astype(np.int64))

    return compute


# Tables ---------------------------------------------------------------------------------------------------------


def _floats(x: Scaled) -> Any:
    """What its integers stand for, in float32."""
    q = np.arange(x.least, x.most + 1)
    return np.float32(x.scale) * (q - x.zero).astype(np.float32)


def _nearest(steps: Any, y: Scaled) -> Ints:
    """The zero point is added before they are rounded."""
    total = np.clip(np.rint(steps + np.float32(y.zero)), y.least, y.most)
    return np.asarray(total.astype(np.int64))


def _rounded(steps: Any, y: Scaled) -> Ints:
    """The zero point is added behind."""
    held = np.clip(steps, np.float32(y.least - y.zero), np.float32(y.most - y.zero))
    return np.asarray(np.rint(held).astype(np.int64) + y.zero)


@contributed("QLinearLeakyRelu")
def _leaky(setting: _Setting) -> Compute:
    shape, x = setting.operand(0)
    (slope,) = setting.only(alpha=0.01)
    y, real = setting.scale(3), _floats(x)
    table = _rounded(np.where(real >= 0, real, real * np.float32(slope)) / np.float32(y.scale), y)
    setting.give(shape, y)
    return lambda q: table[q - x.least]


@own("Cut")
def _cut(setting: _Setting) -> Compute:
    """A relu or a clip between floats that integers stand for and are rounded to."""
    shape, x = setting.operand(0)
    low, high = setting.only(low=None, high=None)
    y = setting.scale(3)
    held = np.clip(_floats(x), np.float32(low), np.float32(high))
    table = _rounded(held / np.float32(y.scale), y)
    setting.give(shape, y)
    return lambda q: table[q - x.least]


@contributed("QLinearConcat")
def _concatenate(setting: _Setting) -> Compute:
    """Operands of another scale are looked up."""
    (axis,) = setting.only(axis=None)
    y, tables, shapes = setting.scale(0), [], []
    for at in range(2, setting.count, 3):
        shape, x = setting.operand(at)
        shapes.append(shape)
        same = np.arange(x.least, x.most + 1)
        tables.append((x.least, same if x == y else _rounded(_floats(x) / np.float32(y.scale), y)))
    rank = len(shapes[0]) if shapes else 0
    if axis is None or not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of {rank}")
    axis %= rank
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(rest) > 1 or any(len(shape) != rank for shape in shapes):
        raise UnsupportedModel(f"operands of shapes {shapes}")
    size = sum(shape[axis] for shape in shapes)
    setting.give((*shapes[0][:axis], size, *shapes[0][axis + 1 :]), y)

    def compute(*parts: Ints) -> Ints:
        found = [table[q - least] for q, (least, table) in zip(parts, tables, strict=True)]
        return np.concatenate(found, axis=axis + 1)

    return compute


# What only moves integers ---------------------------------------------------------------------------------------

MOVES = {"Identity", "Flatten", "Reshape", "Transpose"}


@handles("Identity")
def _identity(setting: _Setting) -> Compute:
    setting.give(*setting.computed(0))
    return lambda q: q


@handles("Flatten")
def _flatten(setting: _Setting) -> Compute:
    shape, x = setting.computed(0)
    (axis,) = setting.only(axis=1)
    if not -len(shape) <= axis <= len(shape):
        raise UnsupportedModel(f"axis {axis} of {len(shape)}")
    axis += len(shape) if axis < 0 else 0
    after = math.prod(shape[:axis]), math.prod(shape[axis:])
    setting.give(after, x)
    return lambda q: q.reshape(len(q), *after)


@handles("Reshape")
def _reshape(setting: _Setting) -> Compute:
    shape, x = setting.computed(0)
    (allow,) = setting.only(allowzero=0)
    sizes = setting.integers(1)
    beyond = 0 in sizes[len(shape) :]
    if allow or beyond or sizes.count(-1) > 1:
        raise UnsupportedModel(f"it makes {sizes} of shape {shape}")
    sizes = [shape[k] if n == 0 else n for k, n in enumerate(sizes)]
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = math.prod(shape) // max(1, known)
    if min(sizes, default=1) < 0 or math.prod(sizes) != math.prod(shape):
        raise UnsupportedModel(f"it makes {sizes} of shape {shape}")
    setting.give(sizes, x)
    return lambda q: q.reshape(len(q), *sizes)


@handles("Transpose")
def _transpose(setting: _Setting) -> Compute:
    shape, x = setting.computed(0)
    (order,) = setting.only(perm=list(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise UnsupportedModel(f"order {list(order)} of axes")
    setting.give([shape[k] for k in order], x)
    return lambda q: q.transpose(0, *(k + 1 for k in order))
