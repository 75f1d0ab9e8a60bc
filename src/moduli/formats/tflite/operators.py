"""What each operator of TensorFlow Lite is in ONNX. One handler for each kind.

A handler that meets a case that ONNX has no exact expression for raises `NotExact`; the operator is
then opaque. Formulas are those of the reference kernels of TensorFlow Lite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moduli.formats.registry import registrar

from .contents import Array, Operator
from .schema import ACTIVATIONS, FLOAT16, FLOAT32, FLOAT64, INT32, INT64
from .translation import CHANNELS_LAST, ONNX_TYPES, OPSET_GELU, NotExact, Translation, Turn

Handler = Callable[[Translation, Operator], None]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)
LONGEST = 2**16  # indices along an axis that are listed one by one
SAME = 0


def _activated(to: Translation, y: str, code: int) -> str:
    """A value behind the activation that is fused into an operator."""
    if code == 0:
        return y
    if code not in ACTIVATIONS:
        raise NotExact(f"it has the fused activation number {code}")
    return _acted(to, y, ACTIVATIONS[code])


def _acted(to: Translation, y: str, kind: str) -> str:
    """A value behind one of `ACTIVATIONS`."""
    if kind in ("RELU", "TANH"):
        return to.add(UNARY[kind], [y])
    low, high = (0.0, 6.0) if kind == "RELU6" else (-1.0, 1.0)
    return to.add("Clip", [y, _float(to, low), _float(to, high)])


def _float(to: Translation, value: float) -> str:
    return to.number(value, "float32", f"number {value:g}")


def _integers(to: Translation, values: Sequence[int], what: str) -> str:
    return to.number(list(values), "int64", f"{what} {','.join(map(str, values))}")


def _fused(operator: Operator) -> int:
    return int(operator.options.get("fused_activation_function", 0))


def _floats(to: Translation, operator: Operator, slots: Sequence[int] | None = None) -> None:
    """Refuse operands that are integers without a scale, whose arithmetic wraps; all, or some.

    Raises:
        NotExact: there are some.
    """
    chosen = operator.inputs if slots is None else [operator.inputs[k] for k in slots]
    for index in (*chosen, *operator.outputs):
        tensor = to.tensor(index)
        if index >= 0 and not (tensor.floating or tensor.quantised):
            raise NotExact("it computes with integers")


def _axis(axis: int, rank: int) -> int:
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < rank:
        raise NotExact(f"axis {axis} of a tensor with {rank}")
    return found


# Windows --------------------------------------------------------------------------------------------------------


def _pads(n: int, window: int, stride: int, dilation: int, padding: int) -> tuple[int, int]:
    """How much is added before and behind an axis: TensorFlow Lite puts the odd one behind."""
    if padding != SAME:
        return 0, 0
    count = -(-n // stride)
    total = max(0, (count - 1) * stride + (window - 1) * dilation + 1 - n)
    return total // 2, total - total // 2


class _Window:
    """Strides, dilations and padding of a convolution or a pool over two axes."""

    def __init__(self, to: Translation, operator: Operator, x: int, kernel: Sequence[int]) -> None:
        options = operator.options
        shape = to.shape(operator.inputs[x])
        if len(shape) != 4:
            raise NotExact(f"its input has {len(shape)} axes")
        self.strides = [options.get("stride_h", 0), options.get("stride_w", 0)]
        self.dilations = [options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)]
        self.kernel = list(kernel)
        if min(*self.strides, *self.dilations, *self.kernel) < 1:
            raise NotExact(f"it has strides {self.strides} and windows {self.kernel}")
        pads = [
            _pads(
                shape[1 + d],
                kernel[d],
                self.strides[d],
                self.dilations[d],
                options.get("padding", 0),
            )
            for d in range(2)
        ]
        self.pads = [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kernel_shape": self.kernel, "strides": self.strides}
        if self.dilations != [1, 1]:
            found["dilations"] = self.dilations
        if any(self.pads):
            found["pads"] = self.pads
        return found


def _given(operator: Operator, slot: int) -> bool:
    return len(operator.inputs) > slot and operator.inputs[slot] >= 0


def _stored_weight(to: Translation, index: int) -> Array:
    array = to.constant(index)
    if array is None:
        raise NotExact("its weights are computed in the graph")
    return array


def _bias(to: Translation, operator: Operator, slot: int) -> list[str]:
    if not _given(operator, slot):
        return []
    array = _stored_weight(to, operator.inputs[slot])
    if array.ndim != 1:
        raise NotExact(f"its bias has {array.ndim} axes")
    return [to.value(slot)]


def _weights_note(to: Translation, operator: Operator, slot: int, read: int = 0) -> None:
    """Weights of 8 bits beside real activations: the kernel also rounds activations, on the fly."""
    weights, x = to.tensor(operator.inputs[slot]), to.tensor(operator.inputs[read])
    if weights.quantised and x.floating:
        to.notes["hybrid"] = None


@handles("CONV_2D")
def _conv(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    _weights_note(to, operator, 1)
    weights = _stored_weight(to, operator.inputs[1])
    channels = to.shape(operator.inputs[0])[-1]
    outputs, *kernel, inputs = weights.shape
    if channels % inputs or outputs % (channels // inputs):
        raise NotExact(f"{channels} channels meet weights of shape {weights.shape}")
    window = _Window(to, operator, 0, kernel)
    names = [to.value(0, first=True), to.weight(1, Turn(4, (0, 3, 1, 2))), *_bias(to, operator, 2)]
    y = to.add("Conv", names, group=channels // inputs, **window.attributes())
    to.give(_activated(to, y, _fused(operator)), first=True)


@handles("DEPTHWISE_CONV_2D")
def _depthwise(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    _weights_note(to, operator, 1)
    weights = _stored_weight(to, operator.inputs[1])
    channels = to.shape(operator.inputs[0])[-1]
    if weights.ndim != 4 or weights.shape[0] != 1 or weights.shape[3] % channels:
        raise NotExact(f"{channels} channels meet weights of shape {weights.shape}")
    window = _Window(to, operator, 0, weights.shape[1:3])
    names = [to.value(0, first=True), to.weight(1, Turn(4, (3, 0, 1, 2))), *_bias(to, operator, 2)]
    y = to.add("Conv", names, group=channels, **window.attributes())
    to.give(_activated(to, y, _fused(operator)), first=True)


@handles("TRANSPOSE_CONV")
def _transpose_conv(to: Translation, operator: Operator) -> None:
    """Rows and columns beyond the output are cut off, those that nothing reaches are the bias."""
    _floats(to, operator, range(1, len(operator.inputs)))
    _weights_note(to, operator, 1, 2)
    weights = _stored_weight(to, operator.inputs[1])
    size = to.integers(operator.inputs[0], "sizes")
    shape = to.shape(operator.inputs[2])
    strides = [operator.options.get("stride_h", 0), operator.options.get("stride_w", 0)]
    if weights.ndim != 4 or len(size) != 4 or len(shape) != 4 or min(strides) < 1:
        raise NotExact("its operands do not have four axes")
    before, behind, extra = list[int](), list[int](), list[int]()
    for d in range(2):
        window, stride, n, m = weights.shape[1 + d], strides[d], shape[1 + d], size[1 + d]
        same = operator.options.get("padding", 0) == SAME
        count = -(-m // stride) if same else (m + stride - window) // stride
        start = max(0, (count - 1) * stride + window - m) // 2
        end = stride * (n - 1) + window - start - m
        if count != n or -end >= max(stride, 2):
            raise NotExact(f"{n} entries are spread over {m}")
        before.append(start)
        behind.append(max(0, end))
        extra.append(max(0, -end))
    names = [to.value(2, first=True), to.weight(1, Turn(4, (3, 0, 1, 2))), *_bias(to, operator, 3)]
    y = to.add(
        "ConvTranspose", names, kernel_shape=list(weights.shape[1:3]), strides=strides,
        pads=[*before, *behind] if any((*before, *behind)) else None,
        output_padding=extra if any(extra) else None,
    )  # fmt: skip
    to.give(_activated(to, y, _fused(operator)), first=True)


@handles("AVERAGE_POOL_2D", "MAX_POOL_2D")
def _pool(to: Translation, operator: Operator) -> None:
    """Padding is not counted in averages."""
    options = operator.options
    kernel = [options.get("filter_height", 0), options.get("filter_width", 0)]
    window = _Window(to, operator, 0, kernel)
    largest = operator.kind == "MAX_POOL_2D"
    integers = largest and _alike(to, operator) and not _fused(operator)
    if not integers:
        _floats(to, operator)
    x = to.value(0, first=True, real=not integers)
    y = to.add("MaxPool" if largest else "AveragePool", [x], **window.attributes())
    to.give(_activated(to, y, _fused(operator)), first=True, real=not integers)


def _alike(to: Translation, operator: Operator, slots: Sequence[int] | None = None) -> bool:
    """Whether operands and results have one type and one quantisation, so that integers can move."""
    places = operator.inputs[:1] if slots is None else [operator.inputs[k] for k in slots]
    said = set[Any]()
    for index in (*places, *operator.outputs):
        tensor = to.tensor(index)
        parts = (tensor.scale, tensor.zero) if tensor.quantised else ()
        said.add((tensor.type, *(tuple(part.tolist()) for part in parts if part is not None)))
    return len(said) == 1


# Dense ----------------------------------------------------------------------------------------------------------


@handles("FULLY_CONNECTED")
def _fully_connected(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    _weights_note(to, operator, 1)
    if operator.options.get("weights_format", 0):
        raise NotExact("its weights are shuffled")
    weights = _stored_weight(to, operator.inputs[1])
    shape = to.shape(operator.inputs[0])
    if weights.ndim != 2 or not shape or math.prod(shape) % weights.shape[1]:
        raise NotExact(f"an input of shape {shape} meets weights of shape {weights.shape}")
    keep = operator.options.get("keep_num_dims", False)
    if keep and shape[-1] != weights.shape[1]:
        raise NotExact(f"an input of shape {shape} meets weights of shape {weights.shape}")
    x = to.value(0)
    if len(shape) == 2 and shape[1] == weights.shape[1]:
        y = to.add("Gemm", [x, 1, *_bias(to, operator, 2)], transB=1)
    elif keep:
        turned = to.add("Transpose", [1], perm=[1, 0])
        y = to.add("MatMul", [x, turned])
        y = _plus(to, y, _bias(to, operator, 2))
    else:
        rows = [math.prod(shape) // weights.shape[1], weights.shape[1]]
        x = to.add("Reshape", [x, _integers(to, rows, "shape")])
        y = to.add("Gemm", [x, 1, *_bias(to, operator, 2)], transB=1)
    to.give(_activated(to, y, _fused(operator)))


def _plus(to: Translation, y: str, bias: list[str]) -> str:
    return to.add("Add", [y, *bias]) if bias else y


@handles("BATCH_MATMUL")
def _batch_matmul(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    _weights_note(to, operator, 1)
    names = []
    for slot, turned in enumerate(("adj_x", "adj_y")):
        rank = len(to.tensor(operator.inputs[slot]).shape)
        if rank < 2:
            raise NotExact(f"an operand has {rank} axes")
        name = to.value(slot)
        if operator.options.get(turned, False):
            order = [*range(rank - 2), rank - 1, rank - 2]
            name = to.add("Transpose", [name], perm=order)
        names.append(name)
    to.give(to.add("MatMul", names))


# Entry by entry -------------------------------------------------------------------------------------------------

BINARY = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "Max", "MINIMUM": "Min",
    "POW": "Pow",
}  # fmt: skip
UNARY = {
    "RELU": "Relu", "TANH": "Tanh", "LOGISTIC": "Sigmoid", "HARD_SWISH": "HardSwish", "EXP": "Exp",
    "SQRT": "Sqrt", "ABS": "Abs", "NEG": "Neg", "FLOOR": "Floor", "CEIL": "Ceil", "SIN": "Sin",
    "COS": "Cos", "LOG": "Log", "ROUND": "Round", "SIGN": "Sign",
}  # fmt: skip


@handles(*BINARY, "SQUARED_DIFFERENCE")
def _binary(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    first = to.is_first(operator.inputs)
    names = [to.value(slot, first=first) for slot in range(2)]
    if operator.kind == "SQUARED_DIFFERENCE":
        difference = to.add("Sub", names)
        y = to.add("Mul", [difference, difference])
    else:
        y = to.add(BINARY[operator.kind], names)
    to.give(_activated(to, y, _fused(operator)), first=first)


@handles("ADD_N")
def _sum_of_many(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    first = to.is_first(operator.inputs)
    names = [to.value(slot, first=first) for slot in range(len(operator.inputs))]
    to.give(to.add("Sum", names), first=first)


@handles(
    *UNARY, "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "ELU", "GELU", "RSQRT", "SQUARE"
)
def _unary(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    first, kind, options = to.is_first(operator.inputs), operator.kind, operator.options
    x = to.value(0, first=first)
    if kind in UNARY:
        y = to.add(UNARY[kind], [x])
    elif kind in ("RELU6", "RELU_N1_TO_1"):
        y = _acted(to, x, kind)
    elif kind == "RELU_0_TO_1":
        y = to.add("Clip", [x, _float(to, 0.0), _float(to, 1.0)])
    elif kind == "LEAKY_RELU":
        y = to.add("LeakyRelu", [x], alpha=float(options.get("alpha", 0.0)))
    elif kind == "ELU":
        y = to.add("Elu", [x], alpha=1.0)
    elif kind == "GELU":
        to.opset = max(to.opset, OPSET_GELU)
        about = "tanh" if options.get("approximate", False) else "none"
        y = to.add("Gelu", [x], approximate=about)
    elif kind == "RSQRT":
        y = to.add("Reciprocal", [to.add("Sqrt", [x])])
    else:
        y = to.add("Mul", [x, x])
    to.give(y, first=first)


@handles("PRELU")
def _prelu(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    first = to.is_first(operator.inputs)
    to.give(to.add("PRelu", [to.value(k, first=first) for k in range(2)]), first=first)


@handles("SOFTMAX", "LOG_SOFTMAX")
def _softmax(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    x, beta = to.value(0), float(operator.options.get("beta", 0.0))
    if operator.kind == "LOG_SOFTMAX":
        return to.give(to.add("LogSoftmax", [x], axis=-1))
    if beta != 1.0:
        x = to.add("Mul", [x, _float(to, beta)])
    return to.give(to.add("Softmax", [x], axis=-1))


@handles("L2_NORMALIZATION")
def _l2_normalisation(to: Translation, operator: Operator) -> None:
    """By the largest of the norm and 1e-6, whose square float32 kernels add nothing to."""
    raise NotExact("it divides by a norm that is held away from zero")


@handles("QUANTIZE")
def _quantise(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    first = to.is_first(operator.inputs)
    to.give(to.value(0, first=first), first=first)


@handles("DEQUANTIZE")
def _dequantise(to: Translation, operator: Operator) -> None:
    _floats(to, operator)
    if to.tensor(operator.inputs[0]).array is not None:
        return to.derive(operator.outputs[0], operator.inputs[0])  # where it is read
    first = to.is_first(operator.inputs)
    if to.tensor(operator.inputs[0]).type == FLOAT16:
        y = to.add("Cast", [to.value(0, first=first)], to=1)
    else:
        y = to.value(0, first=first)
    return to.give(y, first=first)


@handles("CAST")
def _cast(to: Translation, operator: Operator) -> None:
    x, y = to.tensor(operator.inputs[0]), to.tensor(operator.outputs[0])
    floats = (FLOAT32, FLOAT16, FLOAT64)
    if x.quantised or y.quantised or y.type not in floats or x.type not in ONNX_TYPES:
        raise NotExact("it casts to integers")
    to.give(to.add("Cast", [to.value(0)], to=ONNX_TYPES[y.type]))


@handles("SELECT_V2")
def _select(to: Translation, operator: Operator) -> None:
    if not _alike(to, operator, (1, 2)):
        raise NotExact("its operands are quantised differently")
    names = [to.value(slot, real=False) for slot in range(3)]
    to.give(to.add("Where", names), real=False)


# Over axes ------------------------------------------------------------------------------------------------------

REDUCTIONS = {
    "MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
}  # fmt: skip


@handles(*REDUCTIONS)
def _reduce(to: Translation, operator: Operator) -> None:
    _floats(to, operator, [0])
    rank = len(to.tensor(operator.inputs[0]).shape)
    axes = sorted({_axis(a, rank) for a in to.integers(operator.inputs[1], "axes")})
    keep = bool(operator.options.get("keep_dims", False))
    if not axes:
        return to.give(to.add("Identity", [0]))
    # with channels first, the axes that are left must still be in the order of the result
    left = [CHANNELS_LAST[a] for a in range(rank) if a not in axes] if rank == 4 else []
    first = to.is_first(operator.inputs[:1]) and (keep or left == sorted(left))
    names = [to.value(0, first=first)]
    places = sorted(CHANNELS_LAST[a] for a in axes) if first else axes
    y = to.add(
        REDUCTIONS[operator.kind], [*names, _integers(to, places, "axes")], keepdims=int(keep)
    )
    return to.give(y, first=first and keep)


@handles("ARG_MAX", "ARG_MIN")
def _arg(to: Translation, operator: Operator) -> None:
    rank = len(to.tensor(operator.inputs[0]).shape)
    (axis,) = to.integers(operator.inputs[1], "axis")
    if to.tensor(operator.outputs[0]).type not in (INT32, INT64):
        raise NotExact("it gives no integers")
    kind = "ArgMax" if operator.kind == "ARG_MAX" else "ArgMin"
    y = to.add(kind, [to.value(0, real=False)], axis=_axis(axis, rank), keepdims=0)
    if to.tensor(operator.outputs[0]).type == INT32:
        y = to.add("Cast", [y], to=6)
    to.give(y, real=False)


@handles("PAD", "PADV2", "MIRROR_PAD")
def _pad(to: Translation, operator: Operator) -> None:
    _floats(to, operator, [0])
    shape = to.shape(operator.inputs[0])
    amounts = to.integers(operator.inputs[1], "amounts")
    first, rank = to.is_first(operator.inputs[:1]), len(shape)
    if len(amounts) != 2 * rank or min(amounts, default=0) < 0:
        raise NotExact(f"amounts {amounts} for {rank} axes")
    mode = "constant"
    if operator.kind == "MIRROR_PAD":
        mode = "reflect"
        widest = [max(amounts[2 * a : 2 * a + 2]) for a in range(rank)]
        far = [m > 0 and m >= n for m, n in zip(widest, shape, strict=True)]
        if operator.options.get("mode", 0) or any(far):
            raise NotExact("it mirrors with the border, for which ONNX has no word")
    pads = [0] * (2 * rank)
    for axis in range(rank):
        place = CHANNELS_LAST[axis] if first else axis
        pads[place], pads[rank + place] = amounts[2 * axis : 2 * axis + 2]
    names = [to.value(0, first=first), _integers(to, pads, "pads")]
    if operator.kind == "PADV2":
        value = to.constant(operator.inputs[2])
        if value is None or value.size != 1:
            raise NotExact("its value is computed in the graph")
        names.append(to.weight(2, Turn(value.ndim, tuple(range(value.ndim)))))
        if value.ndim:
            names[2] = to.add("Reshape", [names[2], _integers(to, [], "shape")])
    to.give(to.add("Pad", names, mode=mode), first=first)


# Axes and indices: integers stay integers -----------------------------------------------------------------------


def _moved(to: Translation, operator: Operator, slots: Sequence[int] | None = None) -> bool:
    """Whether numbers are moved as real ones, since operands and results are quantised differently.

    Raises:
        NotExact: they differ in another way.
    """
    if _alike(to, operator, slots):
        return False
    _floats(to, operator, [0] if slots is None else slots)
    return True


@handles("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(to: Translation, operator: Operator) -> None:
    if len(operator.outputs) != 1 or not _alike(to, operator):
        raise NotExact("it changes how numbers are stored")
    before, after = to.shape(operator.inputs[0]), to.tensor(operator.outputs[0]).shape
    if operator.kind == "RESHAPE":
        after = _target(to, operator, math.prod(before))
    elif operator.kind == "SQUEEZE":
        listed = [_axis(int(a), len(before)) for a in operator.options.get("squeeze_dims", ())]
        gone = listed or [a for a, n in enumerate(before) if n == 1]
        if any(before[a] != 1 for a in gone):
            raise NotExact(f"it drops axes {gone} of shape {before}")
        after = tuple(n for a, n in enumerate(before) if a not in gone)
    else:
        (axis,) = to.integers(operator.inputs[1], "axis")
        axis = _axis(axis, len(before) + 1)
        after = (*before[:axis], 1, *before[axis:])
    y = to.add("Reshape", [to.value(0, real=False), _integers(to, after, "shape")])
    to.give(y, real=False)


def _target(to: Translation, operator: Operator, count: int) -> tuple[int, ...]:
    """The shape that a reshape gives: its second operand says it, or else its options."""
    if _given(operator, 1):
        sizes = to.integers(operator.inputs[1], "sizes")
    else:
        sizes = [int(n) for n in operator.options.get("new_shape", ())]
    open_axes = [k for k, n in enumerate(sizes) if n == -1]
    if len(open_axes) > 1 or min(sizes, default=0) < -1:
        raise NotExact(f"it reshapes to {sizes}")
    if open_axes:
        rest = math.prod(n for n in sizes if n != -1)
        sizes[open_axes[0]] = count // rest if rest else 0
    if math.prod(sizes) != count:
        raise NotExact(f"it reshapes {count} entries to {sizes}")
    return tuple(sizes)


@handles("TRANSPOSE")
def _transpose(to: Translation, operator: Operator) -> None:
    real = _moved(to, operator)
    order = to.integers(operator.inputs[1], "order")
    if sorted(order) != list(range(len(to.tensor(operator.inputs[0]).shape))):
        raise NotExact(f"order {order} of axes")
    to.give(to.add("Transpose", [to.value(0, real=real)], perm=order), real=real)


@handles("CONCATENATION")
def _concatenate(to: Translation, operator: Operator) -> None:
    slots = range(len(operator.inputs))
    real = _moved(to, operator, slots)
    rank = len(to.tensor(operator.outputs[0]).shape)
    axis = _axis(operator.options.get("axis", 0), rank)
    if _fused(operator):
        raise NotExact("it has a fused activation")
    alike = all(len(to.tensor(k).shape) == rank for k in operator.inputs)
    first = alike and to.is_first(operator.inputs)
    names = [to.value(slot, first=first, real=real) for slot in slots]
    y = to.add("Concat", names, axis=CHANNELS_LAST[axis] if first else axis)
    to.give(y, first=first, real=real)


@handles("PACK")
def _pack(to: Translation, operator: Operator) -> None:
    slots = range(len(operator.inputs))
    real = _moved(to, operator, slots)
    rank = len(to.tensor(operator.inputs[0]).shape)
    axis = _axis(operator.options.get("axis", 0), rank + 1)
    new = _integers(to, [axis], "axes")
    parts = [to.add("Unsqueeze", [to.value(slot, real=real), new]) for slot in slots]
    to.give(to.add("Concat", parts, axis=axis), real=real)


@handles("UNPACK")
def _unpack(to: Translation, operator: Operator) -> None:
    real = _moved(to, operator)
    shape = to.shape(operator.inputs[0])
    axis = _axis(operator.options.get("axis", 0), len(shape))
    if shape[axis] != len(operator.outputs):
        raise NotExact(f"{len(operator.outputs)} parts of {shape[axis]}")
    x = to.value(0, real=real)
    for k in range(len(operator.outputs)):
        index = to.number(k, "int64", f"index {k}")
        to.give(to.add("Gather", [x, index], axis=axis), k=k, real=real)


@handles("SPLIT", "SPLIT_V")
def _split(to: Translation, operator: Operator) -> None:
    x, along = (1, 0) if operator.kind == "SPLIT" else (0, 2)
    real = _moved(to, operator, [x])
    shape, count = to.shape(operator.inputs[x]), len(operator.outputs)
    (axis,) = to.integers(operator.inputs[along], "axis")
    axis = _axis(axis, len(shape))
    if operator.kind == "SPLIT":
        sizes = [shape[axis] // count] * count
    else:
        sizes = to.integers(operator.inputs[1], "sizes")
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = shape[axis] - sum(n for n in sizes if n != -1)
    if sum(sizes) != shape[axis] or len(sizes) != count or min(sizes) < 0 or shape[axis] > LONGEST:
        raise NotExact(f"parts {sizes} of {shape[axis]}")
    first = to.is_first([operator.inputs[x]])
    given = [to.name(to.tensor(k).name + ":part") for k in operator.outputs]
    names = [to.value(x, first=first, real=real), _integers(to, sizes, "sizes")]
    to.node("Split", names, "", outputs=given, axis=CHANNELS_LAST[axis] if first else axis)
    _rename_all(to, operator, given, first, real)


def _rename_all(
    to: Translation, operator: Operator, given: Sequence[str], first: bool, real: bool
) -> None:
    """Let the outputs of the last node be those of the operator."""
    node = to.nodes[-1]
    for k, name in enumerate(given):
        tensor = to.tensor(operator.outputs[k])
        if real and tensor.quantised:
            to.give(name, first=first, k=k, real=real)
            continue
        node.output[k] = to.name(f"{tensor.name}:nchw" if first else tensor.name)
        to.values[tensor.index, first, False] = node.output[k]
        to.meaning[node.output[k]] = tensor.index


@handles("SLICE")
def _slice(to: Translation, operator: Operator) -> None:
    shape = to.shape(operator.inputs[0])
    begins = to.integers(operator.inputs[1], "starts")
    sizes = to.integers(operator.inputs[2], "sizes")
    if len(begins) != len(shape) or len(sizes) != len(shape):
        raise NotExact(f"starts {begins} and sizes {sizes} of shape {shape}")
    ends = [n if m == -1 else b + m for n, b, m in zip(shape, begins, sizes, strict=True)]
    rows = list(zip(range(len(shape)), begins, ends, [1] * len(shape), strict=True))
    if any(not 0 <= b <= e <= n for n, b, e in zip(shape, begins, ends, strict=True)):
        raise NotExact(f"starts {begins} and sizes {sizes} of shape {shape}")
    _cut(to, operator, rows, [])


@handles("STRIDED_SLICE")
def _strided_slice(to: Translation, operator: Operator) -> None:
    options, shape = operator.options, to.shape(operator.inputs[0])
    if (
        options.get("ellipsis_mask", 0)
        or options.get("new_axis_mask", 0)
        or options.get("offset", 0)
    ):
        raise NotExact("it has an ellipsis, new axes or offsets")
    rows, gone = _ranges(to, operator, shape)
    _cut(to, operator, rows, gone)


Rows = list[tuple[int, int, int, int]]  # axis, start, end and step of each


def _ranges(to: Translation, operator: Operator, shape: Sequence[int]) -> tuple[Rows, list[int]]:
    """What a strided slice takes of each axis, and the axes of which it takes one entry."""
    options = operator.options
    parts = [to.integers(operator.inputs[k], "ends") for k in (1, 2, 3)]
    if len({len(part) for part in parts}) > 1 or len(parts[0]) > len(shape):
        raise NotExact(f"{parts} of shape {shape}")
    rows, gone = list[tuple[int, int, int, int]](), list[int]()
    for axis, (begin, end, step) in enumerate(zip(*parts, strict=True)):
        bit, n = 1 << axis, shape[axis]
        if step == 0:
            raise NotExact("a step of zero")
        if options.get("shrink_axis_mask", 0) & bit:
            place = begin + n if begin < 0 else begin
            if options.get("begin_mask", 0) & bit or not 0 <= place < n:
                raise NotExact(f"entry {begin} of {n}")
            gone.append(axis)
            rows.append((axis, place, place + 1, 1))
            continue
        start = None if options.get("begin_mask", 0) & bit else begin
        stop = None if options.get("end_mask", 0) & bit else end
        taken = range(n)[slice(start, stop, step)]
        last = taken.stop if taken.stop >= 0 else -(n + 1)
        rows.append((axis, taken.start, last, taken.step))
    return rows, gone


def _cut(to: Translation, operator: Operator, rows: Rows, gone: Sequence[int]) -> None:
    """A slice of the first operand, without the axes of which one entry is left."""
    real = _moved(to, operator)
    shape = to.shape(operator.inputs[0])
    if max(shape, default=0) > LONGEST:
        raise NotExact(f"it cuts an axis of {max(shape)}")
    first = to.is_first(operator.inputs[:1]) and not gone
    kept = [r for r in rows if not (r[1] == 0 and r[3] == 1 and r[2] == shape[r[0]])]
    y = to.value(0, first=first, real=real)
    if kept:
        axes = [CHANNELS_LAST[axis] if first else axis for axis, *_ in kept]
        parts = [
            _integers(to, values, what)
            for values, what in (
                ([r[1] for r in kept], "starts"), ([r[2] for r in kept], "ends"), (axes, "axes"),
                ([r[3] for r in kept], "steps"),
            )
        ]  # fmt: skip
        y = to.add("Slice", [y, *parts])
    if gone:
        y = to.add("Squeeze", [y, _integers(to, gone, "axes")])
    to.give(y, first=first, real=real)


@handles("GATHER")
def _gather(to: Translation, operator: Operator) -> None:
    real = _moved(to, operator)
    shape = to.shape(operator.inputs[0])
    axis = _axis(operator.options.get("axis", 0), len(shape))
    index = to.constant(operator.inputs[1])
    if operator.options.get("batch_dims", 0) or shape[axis] > LONGEST:
        raise NotExact("it gathers by batches")
    if index is not None and ((index < 0) | (index >= shape[axis])).any():
        raise NotExact("it takes an index that is not there")
    to.give(to.add("Gather", [to.value(0, real=real), to.value(1)], axis=axis), real=real)


@handles("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def _rearranged(to: Translation, operator: Operator) -> None:
    real = _moved(to, operator)
    x = to.value(0, first=True, real=real)
    kind = "DepthToSpace" if operator.kind == "DEPTH_TO_SPACE" else "SpaceToDepth"
    y = to.add(kind, [x], blocksize=operator.options.get("block_size", 0))
    to.give(y, first=True, real=real)


@handles("TILE", "BROADCAST_TO")
def _repeated(to: Translation, operator: Operator) -> None:
    real = _moved(to, operator)
    sizes = to.integers(operator.inputs[1], "sizes")
    kind, what = ("Tile", "repeats") if operator.kind == "TILE" else ("Expand", "shape")
    to.give(to.add(kind, [to.value(0, real=real), _integers(to, sizes, what)]), real=real)


# Sizes ----------------------------------------------------------------------------------------------------------


@handles("RESIZE_BILINEAR")
def _resize_bilinear(to: Translation, operator: Operator) -> None:
    _floats(to, operator, [0])
    shape, size = to.shape(operator.inputs[0]), to.integers(operator.inputs[1], "sizes")
    corners = operator.options.get("align_corners", False)
    centres = operator.options.get("half_pixel_centers", False)
    if len(shape) != 4 or len(size) != 2 or min(size) < 1 or (corners and centres):
        raise NotExact(f"it resizes shape {shape} to {size}")
    mode = "align_corners" if corners else ("half_pixel" if centres else "asymmetric")
    wanted = _integers(to, [shape[0], shape[3], *size], "sizes")
    x = to.value(0, first=True)
    y = to.add("Resize", [x, "", "", wanted], mode="linear", coordinate_transformation_mode=mode)
    to.give(y, first=True)


@handles("RESIZE_NEAREST_NEIGHBOR")
def _resize_nearest(to: Translation, operator: Operator) -> None:
    """Which entries are taken is worked out in float32, as the kernel does it."""
    real = _moved(to, operator)
    shape, size = to.shape(operator.inputs[0]), to.integers(operator.inputs[1], "sizes")
    corners = operator.options.get("align_corners", False)
    centres = operator.options.get("half_pixel_centers", False)
    if len(shape) != 4 or len(size) != 2 or min(size) < 1 or max((*size, *shape)) > LONGEST:
        raise NotExact(f"it resizes shape {shape} to {size}")
    y = to.value(0, first=True, real=real)
    exact = [_nearest(n, m, False, centres) for n, m in zip(shape[1:3], size, strict=True)]
    whole = all(m % n == 0 for n, m in zip(shape[1:3], size, strict=True)) and not corners
    blocks = (
        [np.arange(m) // (m // n) for n, m in zip(shape[1:3], size, strict=True)] if whole else []
    )
    if whole and all(np.array_equal(a, b) for a, b in zip(exact, blocks, strict=True)):
        wanted = _integers(to, [shape[0], shape[3], *size], "sizes")
        y = to.add(
            "Resize", [y, "", "", wanted], mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
    else:
        for d in range(2):
            index = _nearest(shape[1 + d], size[d], corners, centres)
            entries = to.number(index, "int64", f"indices of {shape[1 + d]}")
            y = to.add("Gather", [y, entries], axis=2 + d)
    to.give(y, first=True, real=real)


def _nearest(n: int, m: int, corners: bool, centres: bool) -> Array:
    """The entry of n that each of m is."""
    single = np.float32
    scale = single(n - 1) / single(m - 1) if corners and m > 1 else single(n) / single(m)
    offset = single(0.5) if centres else single(0.0)
    places = (np.arange(m, dtype=single) + offset) * scale
    # halves are rounded up: places are not negative
    rounded = np.floor(places + single(0.5)) if corners else np.floor(places)
    found: Array = np.clip(rounded, 0, n - 1).astype(np.int64)
    return found


# Integers made of sizes -----------------------------------------------------------------------------------------

ARITHMETIC = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}
MOST = 64  # entries of a tensor that is followed


def follow(to: Translation, operator: Operator) -> Array | None:
    """What an operator makes of sizes and stored integers; None where it is none that is known."""
    if operator.kind == "SHAPE" and not operator.custom:
        return np.array(to.shape(operator.inputs[0]), dtype=np.int64)
    if operator.custom or not any(k in to.known for k in operator.inputs):
        return None
    rule = FOLLOWED.get(operator.kind)
    operands = [to.constant(k) for k in operator.inputs]
    given = [a for a in operands if a is not None]
    whole = all(a.dtype.kind in "iu" and a.size <= MOST for a in given)
    if rule is None or len(given) < len(operands) or not whole or _fused(operator):
        return None
    found = rule(to, operator, [a.astype(np.int64) for a in given])
    fits = found is not None and found.size <= MOST and np.abs(found).max(initial=0) < 2**31
    return found if fits else None


Rule = Callable[[Translation, Operator, list[Array]], "Array | None"]


def _arithmetic(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    found: Array = ARITHMETIC[operator.kind](*operands)
    return np.asarray(found)


def _strided(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    options = operator.options
    if operands[0].ndim != 1 or options.get("ellipsis_mask", 0) or options.get("new_axis_mask", 0):
        return None
    (row,), gone = _ranges(to, operator, operands[0].shape)
    found: Array = operands[0][slice(row[1], row[2] if row[2] >= 0 else None, row[3])]
    return found.reshape(()) if gone else found


def _packed(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    return np.stack(operands, axis=operator.options.get("axis", 0))


def _joined(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    return np.concatenate(operands, axis=operator.options.get("axis", 0))


def _chosen(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    if operator.options.get("batch_dims", 0):
        return None
    found: Array = np.take(operands[0], operands[1], axis=operator.options.get("axis", 0))
    return found


def _multiplied(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    axes = tuple(operands[1].ravel().tolist())
    keep = bool(operator.options.get("keep_dims", False))
    return np.asarray(np.prod(operands[0], axis=axes, keepdims=keep))


def _same(to: Translation, operator: Operator, operands: list[Array]) -> Array | None:
    kinds = (INT32, INT64)
    return operands[0] if to.tensor(operator.outputs[0]).type in kinds else None


FOLLOWED: dict[str, Rule] = {
    **dict.fromkeys(ARITHMETIC, _arithmetic), "STRIDED_SLICE": _strided, "PACK": _packed,
    "CONCATENATION": _joined, "GATHER": _chosen, "REDUCE_PROD": _multiplied, "CAST": _same,
}  # fmt: skip
