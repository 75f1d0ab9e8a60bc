"""ONNX: activations, each a function in the registry of `nodes`, and how exporters spell some of
them.

Attributes are float32 numbers, their defaults too. Maxima and minima with numbers, clips and ReLUs
in a row are one clip: min(max(x, a), b) with the ends that follow from all of them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from moduli.formats.affine_tracer import Tensor, reciprocal
from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel

from .nodes import Node, Op, Reader, Value, as_ball, as_data, op

LARGEST = float(
    np.finfo(np.float32).max
)  # as an end it is none: the default before opset 11, which exporters write out
MAX_CHAIN = 64  # nodes


def _float32(number: float) -> float:
    return float(np.float32(number))


# Spelled out; inner nodes are bare, as an attribute would make them something else ----------------


class Step(NamedTuple):
    """What a node reads, the ends to which it clips that, and how many axes these have (0 or 1)."""

    reads: str
    low: float
    high: float
    axes: int = 0


def _chain(reader: Reader, node: Node) -> tuple[tuple[str], Op] | None:
    """Maxima and minima with stored numbers, clips, ReLUs in a row: one clip of what the first
    reads.
    """
    steps, found = list[Step](), _step(reader, node)
    while found is not None and len(steps) < MAX_CHAIN:
        steps.append(found)
        maker = reader.makers.get(found.reads)
        found = None if maker is None else _step(reader, maker)
    low, high = -math.inf, math.inf
    for step in reversed(
        steps
    ):  # a clip after a clip is the clip between the images of its ends, if these differ
        low, high = (min(max(end, step.low), step.high) for end in (low, high))
    if len(steps) < 2 or not low < high:
        return None
    axes = max(step.axes for step in steps)
    return (steps[-1].reads,), lambda value: _with_axes(value, axes).clamped(
        *_open(reader, low, high)
    )


def _step(reader: Reader, node: Node) -> Step | None:
    """None where the ends are no stored numbers."""
    if node.op == "Clip":
        return _clip_step(reader, node)
    if node.proto.attribute:
        return None
    if node.op == "Relu" and len(node.inputs) == 1:
        return Step(node.inputs[0], 0.0, math.inf)
    if node.op not in ("Max", "Min") or len(node.inputs) != 2 or reader.opset < 8:
        return None
    for data, name in (node.inputs, node.inputs[::-1]):
        number = _stored(reader, name)
        if number is not None:
            end, axes = number
            return (
                Step(data, end, math.inf, axes)
                if node.op == "Max"
                else Step(data, -math.inf, end, axes)
            )
    return None


def _clip_step(reader: Reader, node: Node) -> Step | None:
    if reader.opset < 11:
        if len(node.inputs) != 1 or not {found.name for found in node.proto.attribute} <= {
            "min",
            "max",
        }:
            return None
        low, high = node.attribute("min", -math.inf), node.attribute("max", math.inf)
    else:
        if len(node.inputs) not in (1, 2, 3) or node.proto.attribute:
            return None
        names = [*node.inputs[1:], "", ""]
        low, high = (
            _stored_end(reader, names[0], -math.inf),
            _stored_end(reader, names[1], math.inf),
        )
    return Step(node.inputs[0], low, high) if low < high else None


def _stored_end(reader: Reader, name: str, default: float) -> float:
    """An end of a Clip, which broadcasts nothing; nan where it is no stored number."""
    if not name:
        return default
    number = _stored(reader, name)
    return math.nan if number is None else number[0]


def _stored(reader: Reader, name: str) -> tuple[float, int] | None:
    """A stored number of shape [] or [1], and how many axes it has."""
    node = reader.makers.get(name)
    tensor = (
        node.tensor("value")
        if node is not None and node.op == "Constant"
        else reader.stored.get(name)
    )
    number = None if tensor is None or tuple(tensor.dims) not in ((), (1,)) else reader.scalar(name)
    return None if tensor is None or number is None else (number, len(tensor.dims))


def _log_of_sum(reader: Reader, node: Node) -> tuple[tuple[str], Op] | None:
    """log(1 + exp(x))."""
    total = reader.makers.get(node.inputs[0]) if len(node.inputs) == 1 else None
    if total is None or total.op != "Add" or len(total.inputs) != 2 or total.proto.attribute:
        return None
    for power, one in (total.inputs, total.inputs[::-1]):
        exp = reader.makers.get(power)
        if exp is None or exp.op != "Exp" or len(exp.inputs) != 1 or exp.proto.attribute:
            continue
        number = _stored(reader, one)
        if number is not None and number[0] == 1.0:
            return (exp.inputs[0],), partial(_softplus, number[1])
    return None


def _softplus(axes: int, value: Value | None) -> Value:
    return _with_axes(value, axes).activate(Activation("softplus"))


def _with_axes(value: Value | None, axes: int) -> Tensor:
    """Data of a shape that numbers of so many axes leave as it is."""
    tensor = as_data(value)
    if len(tensor.shape) < axes:
        raise UnsupportedModel("a number of one axis meets a tensor of none")
    return tensor


@op("Log", pattern=_log_of_sum)
def _log(reader: Reader, node: Node, x: Value) -> Value:
    raise UnsupportedModel("a logarithm; log(1 + exp(x)), which is a softplus, is understood")


# One operation, one activation --------------------------------------------------------------------

_PLAIN = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Erf": "erf", "Softplus": "softplus",
    "Sin": "sin", "Abs": "abs", "HardSwish": "hardswish", "Mish": "mish",
}  # fmt: skip


@op("Relu", pattern=_chain)
@op(*(name for name in _PLAIN if name != "Relu"))
def _plain(reader: Reader, node: Node, x: Value) -> Value:
    return as_data(x).activate(Activation(_PLAIN[node.op]))


@op("LeakyRelu")
def _leaky_relu(reader: Reader, node: Node, x: Value) -> Value:
    slope = node.attribute("alpha", _float32(0.01))
    activation = Activation("leaky_relu", slope) if slope else Activation("relu")
    return as_data(x).activate(activation)


@op("PRelu")
def _prelu(reader: Reader, node: Node, x: Value, slope: Value) -> Value:
    tensor, slopes = as_data(x), as_ball(slope, "the slope")
    if not slopes.is_float():
        raise UnsupportedModel(
            "the slope is itself a result of rounding arithmetic; fold the constants of the model first"
        )
    if not _fits(slopes.shape, tensor.shape):
        raise UnsupportedModel(
            f"slopes of shape {slopes.shape} do not broadcast to a tensor of shape {tensor.shape}"
        )
    if reader.opset < 7 and math.prod(slopes.shape) > 1 and len(tensor.shape) != 2:
        raise UnsupportedModel(
            f"slopes of shape {slopes.shape} on a tensor of shape {tensor.shape} before opset 7, where they belong to "
            "channels; convert the model with onnx.version_converter"
        )
    return tensor.rectified(slopes.centre.hi)


def _fits(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    """Whether the first broadcasts to the second one, which stays as it is."""
    try:
        return np.broadcast_shapes(shape, onto) == onto
    except ValueError:
        return False


@op("Gelu")
def _gelu(reader: Reader, node: Node, x: Value) -> Value:
    form = node.attribute("approximate", "none")
    if form not in ("none", "tanh"):
        raise UnsupportedModel(f"approximate={form!r}; 'none' and 'tanh' are understood")
    return as_data(x).activate(Activation("gelu" if form == "none" else "gelu_tanh"))


@op("Swish")
def _swish(reader: Reader, node: Node, x: Value) -> Value:
    alpha = node.attribute("alpha", 1.0)
    if alpha != 1.0:
        raise UnsupportedModel(f"alpha={alpha}; x sigmoid(x) is understood")
    return as_data(x).activate(Activation("silu"))


def _elu_with(alpha: float) -> Activation:
    """max(x, 0) + alpha (exp(min(x, 0)) - 1)."""
    return Activation("elu", alpha) if alpha else Activation("relu")


@op("Elu")
def _elu(reader: Reader, node: Node, x: Value) -> Value:
    return as_data(x).activate(_elu_with(node.attribute("alpha", 1.0)))


@op("Selu")
def _selu(reader: Reader, node: Node, x: Value) -> Value:
    alpha = node.attribute("alpha", _float32(1.67326319217681884765625))
    gamma = node.attribute("gamma", _float32(1.05070102214813232421875))
    return as_data(x).activate(_elu_with(alpha)).scaled(gamma)


@op("Celu")
def _celu(reader: Reader, node: Node, x: Value) -> Value:
    alpha = node.attribute("alpha", 1.0)
    if not 0 < alpha < math.inf:
        raise UnsupportedModel(f"a CELU with alpha={alpha}; a positive one is understood")
    return (
        as_data(x)
        .scaled(reciprocal(np.array([alpha])))
        .activate(Activation("elu", 1.0))
        .scaled(alpha)
    )


@op("HardSigmoid")
def _hard_sigmoid(reader: Reader, node: Node, x: Value) -> Value:
    alpha, beta = node.attribute("alpha", _float32(0.2)), node.attribute("beta", 0.5)
    return as_data(x).scaled(alpha).shifted(beta).activate(Activation("clip", 0.0, 1.0))


@op("ThresholdedRelu")
def _thresholded_relu(reader: Reader, node: Node, x: Value) -> Value:
    alpha = node.attribute("alpha", 1.0)
    if alpha != 0:
        raise UnsupportedModel(
            f"a ThresholdedRelu with alpha={alpha} jumps there; continuous activations are understood"
        )
    return as_data(x).activate(Activation("relu"))


# Clips --------------------------------------------------------------------------------------------


@op("Clip", pattern=_chain)
def _clip(
    reader: Reader, node: Node, x: Value, low: Value | None = None, high: Value | None = None
) -> Value:
    tensor = as_data(x)
    if reader.opset < 11:
        if low is not None or high is not None:
            raise UnsupportedModel(
                f"ends as inputs at opset {reader.opset}; they are attributes before opset 11"
            )
        ends = node.attribute("min", -math.inf), node.attribute("max", math.inf)
    else:
        ends = _end(low, -math.inf, "min"), _end(high, math.inf, "max")
    return tensor.clamped(*_open(reader, *ends))


def _end(value: Value | None, default: float, name: str) -> float:
    if value is None:
        return default
    ball = as_ball(value, name)
    if ball.shape not in ((), (1,)) or not ball.is_float():
        raise UnsupportedModel(f"{name} must be one constant number; it has shape {ball.shape}")
    return float(ball.centre.hi.ravel()[0])


def _open(reader: Reader, low: float, high: float) -> tuple[float | None, float | None]:
    """The ends as numbers, None where there is none: the largest float32 and infinity are none."""
    if math.isnan(low) or math.isnan(high):
        raise UnsupportedModel(f"a clip to [{low}, {high}]")
    for end in (low, high):
        if abs(end) == LARGEST:
            reader.note(f"read a clip at the largest float32, {end!r}, as none")
    return (low if low > -LARGEST else None), (high if high < LARGEST else None)


@op("Max", "Min", pattern=_chain)
def _bound(reader: Reader, node: Node, x: Value, *more: Value) -> Value:
    """Max or Min of data and one number."""
    operands = [x, *more]
    data = [value for value in operands if isinstance(value, Tensor)]
    numbers = [value for value in operands if not isinstance(value, Tensor)]
    if len(operands) == 1:
        return x
    if len(data) != 1 or len(numbers) != 1:
        raise UnsupportedModel(
            f"a {node.op} of one tensor that depends on the input with one constant number is understood"
        )
    number, tensor = as_ball(numbers[0], f"the other operand of {node.op}"), data[0]
    if (
        math.prod(number.shape) != 1
        or not number.is_float()
        or not _fits(number.shape, tensor.shape)
    ):
        raise UnsupportedModel(
            f"the other operand of {node.op} has shape {number.shape}, the tensor {tensor.shape}; one constant number is "
            "understood, with no more axes than the tensor"
        )
    if reader.opset < 8 and number.shape != tensor.shape:
        raise UnsupportedModel(
            f"operands of shapes {tensor.shape} and {number.shape} before opset 8, where none is broadcast"
        )
    end = float(number.centre.hi.ravel()[0])
    return tensor.clamped(end, None) if node.op == "Max" else tensor.clamped(None, end)
