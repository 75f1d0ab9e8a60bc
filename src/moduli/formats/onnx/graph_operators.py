"""What each ONNX operator is among the operators of the kernel. One handler for each kind.

A handler that does not know what a node computes raises `NotUnderstood`; so does one that meets an
attribute, a type or a shape that it was not written for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    PerUnit,
    Reshape,
    Shape,
    Slicewise,
    Take,
    Transpose,
)

from .constants import FLOATS, cast
from .graph_reader import GraphReader, NotUnderstood, handles


def attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _only_output(node: Any) -> str:
    if any(node.output[1:]):
        raise NotUnderstood("it has further outputs")
    return str(node.output[0])


def _axis(axis: int, rank: int) -> int:
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < rank:
        raise NotUnderstood(f"axis {axis} of a tensor with {rank}")
    return found


def _given(node: Any, k: int) -> str:
    return node.input[k] if len(node.input) > k else ""


def _options(node: Any, *names: str) -> tuple[Any, ...]:
    """Attributes that belong to an operator, as plain values."""
    found = attributes(node)
    plain = []
    for name in names:
        value = found.get(name)
        plain.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(plain)


# Entry by entry -------------------------------------------------------------------------------------------------

UNARY = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Erf": "erf", "Exp": "exp", "Abs": "abs",
    "Neg": "neg", "Identity": "identity", "Sqrt": "sqrt", "Sin": "sin", "Cos": "cos", "Tan": "tan",
    "Asin": "asin", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Atanh": "atanh",
    "Sign": "sign", "Softplus": "softplus", "Softsign": "softsign", "HardSwish": "hardswish",
    "Mish": "mish", "Round": "round", "Floor": "floor", "Ceil": "ceil", "Log": "log",
    "Reciprocal": "reciprocal", "Acos": "acos", "Acosh": "acosh", "Not": "not", "IsNaN": "isnan",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Min": "min", "Max": "max",
    "PRelu": "prelu", "Where": "where", "Mod": "mod", "Equal": "equal", "Greater": "greater",
    "GreaterOrEqual": "at_least", "Less": "less", "LessOrEqual": "at_most", "And": "and", "Or": "or",
    "Xor": "xor", "BitShift": "shift",
}  # fmt: skip


LOGICAL = {
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN",
}  # fmt: skip


@handles(*UNARY)
def _unary(reader: GraphReader, node: Any) -> None:
    _elementwise(reader, node, UNARY[node.op_type], result=9 if node.op_type in LOGICAL else None)


@handles(*BINARY)
def _binary(reader: GraphReader, node: Any) -> None:
    if node.op_type in ("Min", "Max") and len(node.input) == 1:
        return _elementwise(reader, node, "identity")
    kind, given = BINARY[node.op_type], attributes(node)
    if node.op_type == "BitShift":
        kind = f"{kind} {given['direction'].decode()}"
    if node.op_type == "PRelu" and reader.opset < 7 and math.prod(reader.shape(node.input[1])) != 1:
        raise NotUnderstood("slopes broadcast as before opset 7")
    extra = (float(given.get("fmod", 0)),) if node.op_type == "Mod" else ()
    _elementwise(reader, node, kind, extra, result=9 if node.op_type in LOGICAL else None)


@handles("Sum", "Mean")
def _variadic(reader: GraphReader, node: Any) -> None:
    names = list(node.input)
    if len(names) == 1:
        return _elementwise(reader, node, "identity")
    if node.op_type == "Mean" or not all(reader.floating(name) for name in names):
        return _elementwise(reader, node, f"{node.op_type} of {len(names)}")
    output, total = _only_output(node), names[0]
    for k, name in enumerate(names[1:], 1):
        target = output if k == len(names) - 1 else reader.apart(f"{output}:{k}")
        shape = broadcast(reader, [total, name], target)
        reader.emit(Elementwise("add"), [total, name], target, shape, reader.types[names[0]])
        total = target


def _elementwise(
    reader: GraphReader,
    node: Any,
    kind: str,
    numbers: tuple[float, ...] = (),
    count: int | None = None,
    result: int | None = None,
) -> None:
    inputs = [name for name in list(node.input)[:count] if name]
    floats = inputs[1:] if kind == "where" else inputs
    if not all(reader.floating(name) for name in floats) and kind != "identity":
        kind = f"{kind} of integers"  # which wrap and round: no law of real numbers holds
    if attributes(node).get("axis") is not None and reader.opset < 7:
        raise NotUnderstood("shapes broadcast as before opset 7")
    output = _only_output(node)
    shape = broadcast(reader, inputs, output)
    if all(reader.is_constant(name) for name in inputs) and kind != "identity":
        raise NotUnderstood("constants are computed from constants")
    reader.emit(Elementwise(kind, numbers), inputs, output, shape, result)


def broadcast(reader: GraphReader, names: Sequence[str], output: str) -> Shape:
    """The shape of tensors that broadcast; sizes that may differ give one that is not known."""
    return broadcast_shapes(reader, [reader.shape(name) for name in names], output)


def broadcast_shapes(reader: GraphReader, shapes: Sequence[Shape], output: str) -> Shape:
    rank = max(map(len, shapes))
    found: list[int | str] = []
    for back in range(-rank, 0):
        sizes = {shape[back] for shape in shapes if -back <= len(shape)} - {1}
        numbers = {n for n in sizes if isinstance(n, int)}
        if not sizes:
            found.append(1)
        elif len(sizes) == 1:
            found.append(sizes.pop())
        elif len(numbers) == 1:
            found.append(numbers.pop())  # the other one is 1 or this, or the model does not run
        elif len(numbers) > 1:
            raise NotUnderstood(f"shapes {shapes} do not broadcast")
        else:
            found.append(reader.unknown(output, rank + back))
    return tuple(found)


@handles("LeakyRelu")
def _leaky_relu(reader: GraphReader, node: Any) -> None:
    _elementwise(
        reader, node, "leaky_relu", (float(attributes(node).get("alpha", np.float32(0.01))),)
    )


NUMBERS = {
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "ThresholdedRelu": {"alpha": 1.0},
    "Shrink": {"bias": 0.0, "lambd": 0.5},
}  # and their defaults


@handles(*NUMBERS)
def _with_numbers(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    numbers = tuple(float(given.get(name, value)) for name, value in NUMBERS[node.op_type].items())
    _elementwise(reader, node, node.op_type.lower(), numbers)


@handles("HardSigmoid")
def _hardsigmoid(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    alpha, beta = float(given.get("alpha", np.float32(0.2))), float(given.get("beta", 0.5))
    _elementwise(reader, node, "hardsigmoid", (alpha, beta))


@handles("Gelu")
def _gelu(reader: GraphReader, node: Any) -> None:
    kind = attributes(node).get("approximate", b"none")
    _elementwise(reader, node, "gelu_tanh" if kind == b"tanh" else "gelu")


@handles("Clip")
def _clip(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    largest = float(np.finfo(np.float32).max)
    if reader.opset < 11:
        low, high = float(given.get("min", -largest)), float(given.get("max", largest))
        low = -math.inf if low == -largest else low
        high = math.inf if high == largest else high
    else:
        low = reader.scalar(_given(node, 1), "lower end") if _given(node, 1) else -math.inf
        high = reader.scalar(_given(node, 2), "upper end") if _given(node, 2) else math.inf
    _elementwise(reader, node, "clip", (low, high), count=1)


class Integers(NamedTuple):
    """A type of few integers."""

    name: str
    bits: int
    ends: tuple[float, float]


# By number of the type in ONNX
INTEGERS = {
    2: Integers("uint8", 8, (0.0, 255.0)), 3: Integers("int8", 8, (-128.0, 127.0)),
    4: Integers("uint16", 16, (0.0, 65535.0)), 5: Integers("int16", 16, (-32768.0, 32767.0)),
    9: Integers("bool", 1, (0.0, 1.0)),
}  # fmt: skip
WIDE = ("float32", "float64")


@handles("Cast")
def _cast(reader: GraphReader, node: Any) -> None:
    to, x = attributes(node)["to"], node.input[0]
    held = INTEGERS.get(reader.types.get(x, 0))
    if held is not None and to in FLOATS and (held.bits <= 8 or FLOATS[to] in WIDE):
        return reader.emit(Elementwise(held.name), [x], _only_output(node), reader.shape(x), to)
    plain = to in FLOATS and reader.floating(x) and not _rounds(reader, x, to)
    kind = f"cast to {to} {_options(node, 'saturate', 'round_mode')}"
    return _elementwise(reader, node, "identity" if plain else kind, result=to)


def _rounds(reader: GraphReader, name: str, kind: int) -> bool:
    """Whether a cast of a constant to another type of floats may give other numbers. A cast of what
    is computed is the identity over the reals.
    """
    if not reader.is_constant(name) or reader.types[name] == kind or FLOATS[kind] == "float64":
        return False
    array = reader.constant(name)
    if array is None:
        return FLOATS[kind] != "float32" or FLOATS[reader.types[name]] == "float64"
    with np.errstate(invalid="ignore"):  # of what is no number
        after = np.asarray(cast(array, kind, name), dtype=np.float64)
    return not np.array_equal(after, np.asarray(array, dtype=np.float64))


@handles("CastLike")
def _cast_like(reader: GraphReader, node: Any) -> None:
    if not (reader.floating(node.input[0]) and reader.floating(node.input[1])):
        raise NotUnderstood("a cast that is not from floats to floats")
    if _rounds(reader, node.input[0], reader.types[node.input[1]]):
        raise NotUnderstood("a cast that rounds stored numbers")
    _elementwise(reader, node, "identity", count=1)


@handles("Dropout")
def _dropout(reader: GraphReader, node: Any) -> None:
    if reader.opset < 7 and not attributes(node).get("is_test", 0):
        raise NotUnderstood("it drops at random")
    training = _given(node, 2)
    if training and (reader.constant(training) is None or bool(np.any(reader.constant(training)))):
        raise NotUnderstood("it drops at random")
    if any(node.output[1:]):
        raise NotUnderstood("its mask is used")
    _elementwise(reader, node, "identity", count=1)


# One number for each unit ---------------------------------------------------------------------------------------


@handles("BatchNormalization")
def _batch_norm(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    if given.get("training_mode") or not given.get("spatial", 1):
        raise NotUnderstood("it normalises by the batch")
    if reader.opset < 7 and not given.get("is_test", 0):
        raise NotUnderstood("it normalises by the batch")
    x, *further = node.input
    shape = reader.shape(x)
    if not all(reader.is_constant(name) for name in further) or len(shape) < 2:
        raise NotUnderstood("its statistics are computed in the graph")
    epsilon = float(given.get("epsilon", np.float32(1e-5)))
    reader.emit(PerUnit("batchnorm", 1, (epsilon,)), node.input, _only_output(node), shape)


@handles("DequantizeLinear", "QuantizeLinear")
def _quantise(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, scale = node.input[:2]
    shape = reader.shape(x)
    if given.get("block_size") or len(reader.shape(scale)) > 1:
        raise NotUnderstood("it scales blocks")
    one = ((), (1,))
    sides = [reader.shape(name) for name in node.input[1:3] if name]
    if len(set(sides)) > 1 and not all(side in one for side in sides):
        raise NotUnderstood("its scale and its zero point have different shapes")
    axis, rank = int(given.get("axis", 1)), max(1, len(shape))
    if reader.shape(scale) == () or (reader.shape(scale) == (1,) and not -rank <= axis < rank):
        axis = 0  # one scale for all
    axis = _axis(axis, rank)
    y, names = _only_output(node), [name for name in node.input if name]
    if node.op_type == "DequantizeLinear":
        result = reader.types.get(scale, 0)
    else:
        result = (
            reader.types.get(names[2], 0)
            if len(names) > 2
            else int(given.get("output_dtype", 0)) or 2
        )
    down = node.op_type == "QuantizeLinear"
    held = INTEGERS.get(result if down else reader.types.get(x, 0))
    kind = "quantise" if down else "dequantise"
    if down and held is None:
        kind = f"quantise {_options(node, 'saturate', 'output_dtype')}"
    reader.emit(PerUnit(kind, axis, held.ends if held else ()), names, y, shape, result)


# Slice by slice -------------------------------------------------------------------------------------------------


def _positions(
    reader: GraphReader, output: str, shape: Shape, sizes: Sequence[Any] | None = None
) -> Shape:
    """Shape of an image-like tensor whose positions have other sizes."""
    further = (
        [reader.unknown(output, axis) for axis in range(2, len(shape))] if sizes is None else sizes
    )
    return (*shape[:2], *further)


def _window(
    n: int | str,
    kernel: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    auto: bytes,
    ceil: bool,
) -> int | None:
    """How many places a window takes."""
    if not isinstance(n, int):
        return None
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        return -(-n // stride)
    total = n + sum(pads) - dilation * (kernel - 1) - 1
    if total < 0:
        return None
    count = (-(-total // stride) if ceil else total // stride) + 1
    # runtimes do not agree on a last window that begins behind the input
    return None if (count - 1) * stride >= n + pads[0] else count


def _windows(
    reader: GraphReader, node: Any, shape: Shape, kernel: Sequence[int], output: str
) -> tuple[Shape, bool]:
    """Shape behind sliding windows, and whether they reach over the border."""
    given = attributes(node)
    k = len(kernel)
    strides, dilations = given.get("strides") or [1] * k, given.get("dilations") or [1] * k
    pads, auto = given.get("pads") or [0] * (2 * k), given.get("auto_pad", b"NOTSET")
    if auto == b"VALID":
        pads = [0] * (2 * k)
    found: list[int | str] = []
    for d in range(k):
        n = _window(
            shape[2 + d], kernel[d], strides[d], dilations[d], (pads[d], pads[k + d]), auto,
            bool(given.get("ceil_mode", 0)),
        )  # fmt: skip
        found.append(reader.unknown(output, 2 + d) if n is None else n)
    reach = any(pads) if auto in (b"NOTSET", b"") else auto != b"VALID"
    return (*shape[:2], *found), bool(reach) or (bool(given.get("ceil_mode", 0)))


def _windows_hold_something(node: Any, shape: Shape, made: Shape, kernel: Sequence[int]) -> bool:
    """Whether it is known that each window holds an entry of the input, not padding alone."""
    given = attributes(node)
    k = len(kernel)
    strides, dilations = given.get("strides") or [1] * k, given.get("dilations") or [1] * k
    auto = given.get("auto_pad", b"NOTSET")
    pads = given.get("pads") or [0] * (2 * k)
    for d in range(k):
        n, m = shape[2 + d], made[2 + d]
        same = auto in (b"SAME_UPPER", b"SAME_LOWER")
        before, after = (0, 0) if same or auto == b"VALID" else (pads[d], pads[k + d])
        plain = dilations[d] == 1 and max(before, after) < kernel[d]
        if isinstance(n, int) and not isinstance(m, int) and n + before + after < kernel[d]:
            return False  # no window fits, and runtimes do not agree on what that gives
        if not isinstance(n, int) or not isinstance(m, int) or same:
            # windows without holes, with less padding than they are long
            if not plain or given.get("ceil_mode", 0):
                return False
            continue
        starts = np.arange(m)[:, None] * strides[d] - before
        places = starts + np.arange(kernel[d]) * dilations[d]
        if not ((places >= 0) & (places < n)).any(axis=1).all():
            return False
    return True


@handles("MaxPool", "AveragePool", "LpPool")
def _pool(reader: GraphReader, node: Any) -> None:
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    given = attributes(node)
    made, reach = _windows(reader, node, shape, given["kernel_shape"], y)
    numbers = _options(
        node,
        "kernel_shape",
        "strides",
        "pads",
        "dilations",
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "p",
    )
    free = ((0, 0), (1, 1))
    if not _windows_hold_something(node, shape, made, given["kernel_shape"]):
        op = Slicewise(f"{node.op_type} of nothing", free, numbers)
    elif node.op_type == "MaxPool":
        op = Slicewise(
            "max pool", free, numbers, homogeneous=True, keeps=True, zero=True, hull=True
        )
    elif node.op_type == "AveragePool":
        border = reach and bool(given.get("count_include_pad", 0))
        op = Slicewise(
            "average pool",
            free,
            numbers,
            linear=True,
            keeps=not border,
            zero=True,
            hull=True,
            padded=border,
        )
    else:
        op = Slicewise("lp pool", free, numbers, homogeneous=True, zero=True)
    reader.emit(op, [x], y, made)


@handles("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(reader: GraphReader, node: Any) -> None:
    shape = reader.shape(node.input[0])
    op = {
        "GlobalAveragePool": Slicewise(
            "mean", ((0, 0), (1, 1)), linear=True, keeps=True, zero=True, hull=True
        ),
        "GlobalMaxPool": Slicewise(
            "max", ((0, 0), (1, 1)), homogeneous=True, keeps=True, zero=True, hull=True
        ),
        "GlobalLpPool": Slicewise(
            "lp", ((0, 0), (1, 1)), _options(node, "p"), homogeneous=True, zero=True
        ),
    }[node.op_type]
    reader.emit(op, [node.input[0]], _only_output(node), (*shape[:2], *[1] * (len(shape) - 2)))


REDUCTIONS: dict[str, dict[str, Any]] = {
    "ReduceMean": dict(linear=True, keeps=True, zero=True, hull=True),
    "ReduceSum": dict(linear=True, zero=True),
    "ReduceMax": dict(homogeneous=True, keeps=True, zero=True, hull=True),
    "ReduceMin": dict(homogeneous=True, keeps=True, zero=True, hull=True),
    "ReduceL1": dict(homogeneous=True, zero=True),
    "ReduceL2": dict(homogeneous=True, zero=True),
    "ReduceSumSquare": dict(zero=True),
    "ReduceProd": {}, "ReduceLogSum": {}, "ReduceLogSumExp": {},
}  # fmt: skip


@handles(*REDUCTIONS, "ArgMax", "ArgMin")
def _reduce(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if node.op_type in ("ArgMax", "ArgMin"):
        axes = [given.get("axis", 0)]
    elif _given(node, 1):
        axes = reader.whole(node.input[1], "axes")
    else:
        axes = list(given.get("axes") or [])
    if not axes and given.get("noop_with_empty_axes", 0):
        return _elementwise(reader, node, "identity", count=1)
    gone = {_axis(axis, len(shape)) for axis in axes} or set(range(len(shape)))
    keep = bool(given.get("keepdims", 1))
    free, made = [], list[int | str]()
    for axis, n in enumerate(shape):
        if axis not in gone:
            free.append((axis, len(made)))
            made.append(n)
        elif keep:
            made.append(1)
    laws = REDUCTIONS.get(node.op_type, {})
    if not reader.floating(x):
        laws = {}
    numbers = (tuple(sorted(gone)), keep, _options(node, "select_last_index"))
    kind = 7 if node.op_type in ("ArgMax", "ArgMin") else None
    reader.emit(Slicewise(node.op_type, tuple(free), numbers, **laws), [x], y, tuple(made), kind)


@handles("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum")
def _along_axis(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if node.op_type == "CumSum":
        axes = {_axis(reader.whole(node.input[1], "axis")[0], len(shape))}
    elif reader.opset >= 13 or node.op_type == "LpNormalization":
        axes = {_axis(given.get("axis", -1), len(shape))}
    else:
        axes = set(range(_axis(given.get("axis", 1), len(shape)), len(shape)))
    free = tuple((axis, axis) for axis in range(len(shape)) if axis not in axes)
    linear = node.op_type == "CumSum" and reader.floating(x)
    numbers = (tuple(sorted(axes)), _options(node, "p", "exclusive", "reverse"))
    reader.emit(Slicewise(node.op_type, free, numbers, linear=linear), [x], y, shape)


@handles("LayerNormalization", "RMSNormalization", "MeanVarianceNormalization")
def _layer_norm(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if node.op_type == "MeanVarianceNormalization":
        gone = {_axis(axis, len(shape)) for axis in given.get("axes", [0, 2, 3])}
    else:
        gone = set(range(_axis(given.get("axis", -1), len(shape)), len(shape)))
    free = tuple((axis, axis) for axis in range(len(shape)) if axis not in gone)
    numbers = (tuple(sorted(gone)), _options(node, "epsilon", "stash_type"))
    names = [name for name in node.input if name]
    if any(len(reader.shape(name)) > len(gone) for name in names[1:]):
        raise NotUnderstood("its scale is not the same for all that it normalises")
    epsilon = None if node.op_type == "MeanVarianceNormalization" else _epsilon(given)
    op = Slicewise(node.op_type, free, numbers, normalises=epsilon)
    reader.emit(op, names, y, shape)


def _epsilon(given: dict[str, Any]) -> float:
    return float(given.get("epsilon", np.float32(1e-5)))


@handles("InstanceNormalization")
def _instance_norm(reader: GraphReader, node: Any) -> None:
    shape = reader.shape(node.input[0])
    op = Slicewise(
        "instance norm", ((0, 0), (1, 1)), _options(node, "epsilon"), carried=(1, 1),
        normalises=_epsilon(attributes(node)),
    )  # fmt: skip
    reader.emit(op, node.input, _only_output(node), shape)


@handles("GroupNormalization", "LRN")
def _over_channels(reader: GraphReader, node: Any) -> None:
    shape = reader.shape(node.input[0])
    free = (
        ((0, 0),)
        if node.op_type == "GroupNormalization"
        else tuple((a, a) for a in range(len(shape)) if a != 1)
    )
    numbers = _options(node, "epsilon", "num_groups", "alpha", "beta", "bias", "size", "stash_type")
    epsilon = _epsilon(attributes(node)) if node.op_type == "GroupNormalization" else None
    op = Slicewise(node.op_type, free, numbers, normalises=epsilon)
    reader.emit(op, node.input, _only_output(node), shape)


@handles("Pad")
def _pad(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    mode = given.get("mode", b"constant")
    if reader.opset < 11:
        pads, value = list(given["pads"]), float(given.get("value", 0.0))
    else:
        pads = reader.whole(node.input[1], "pads")
        value = reader.scalar(node.input[2], "value") if _given(node, 2) else 0.0
    axes = list(range(len(shape)))
    if _given(node, 3):
        axes = [_axis(axis, len(shape)) for axis in reader.whole(node.input[3], "axes")]
    amounts = {axis: (pads[k], pads[len(axes) + k]) for k, axis in enumerate(axes)}
    free, made = [], list[int | str]()
    for axis, n in enumerate(shape):
        before, after = amounts.get(axis, (0, 0))
        if (before, after) == (0, 0):
            free.append((axis, axis))
            made.append(n)
        else:
            made.append(n + before + after if isinstance(n, int) else reader.unknown(y, axis))
    zero = mode != b"constant" or value == 0.0
    constant = mode == b"constant"
    numbers = (mode, tuple(sorted(amounts.items())), value)
    op = Slicewise(
        "pad",
        tuple(free),
        numbers,
        linear=zero,
        keeps=not constant,
        zero=zero,
        hull=zero,
        padded=constant,
    )
    reader.emit(op, [x], y, tuple(made))


@handles("Resize", "Upsample")
def _resize(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if node.op_type == "Upsample":
        sizes, scales = "", _given(node, 1)
    else:
        scales, sizes = (
            (_given(node, 1), "") if reader.opset < 11 else (_given(node, 2), _given(node, 3))
        )
    if given.get("axes") is not None:
        raise NotUnderstood("it resizes chosen axes")
    if given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotUnderstood("it keeps the ratio of sizes")
    where = given.get("coordinate_transformation_mode", b"half_pixel")
    if where in (b"tf_crop_and_resize", b"tf_half_pixel_for_nn"):
        raise NotUnderstood("it moves what it does not resize")
    made: list[int | str]
    factors: tuple[float, ...] = ()
    further = list[str]()
    given_scales = reader.constant(scales) if scales else None
    if sizes and not (given_scales is not None and given_scales.size):
        wanted = reader.numbers(sizes, "sizes")
        free = tuple((a, a) for a, (n, m) in enumerate(zip(shape, wanted, strict=True)) if n == m)
        made = [reader.unknown(y, a) if m is None else m for a, m in enumerate(wanted)]
        kept = {a for a, _ in free}
        numbers: tuple[Any, ...] = tuple(
            None if a in kept or not isinstance(m, int) else m for a, m in enumerate(wanted)
        )
        if any(a not in kept and not isinstance(m, int) for a, m in enumerate(wanted)):
            further = [sizes]  # which says what they are
    else:
        stored = reader.constant(scales) if scales else np.array(given.get("scales") or [])
        if stored is None or stored.size != len(shape):
            raise NotUnderstood("its scales are computed in the graph")
        factors = tuple(float(f) for f in stored)
        free = tuple((a, a) for a, f in enumerate(factors) if f == 1.0)
        made = [
            n if f == 1.0 else (_resized(n, f) if isinstance(n, int) else reader.unknown(y, a))
            for a, (n, f) in enumerate(zip(shape, factors, strict=True))
        ]
        numbers = factors
    mode = given.get("mode", b"nearest")
    options = _options(
        node, "mode", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
        "extrapolation_value", "nearest_mode", "antialias", "keep_aspect_ratio_policy",
    )  # fmt: skip
    smooth = mode in (b"nearest", b"linear")
    # where entries of the output lie was said anew with opset 11
    kind = "resize" if reader.opset >= 11 else f"{node.op_type} of old"
    op = Slicewise(
        kind, free, (numbers, options), linear=True, keeps=smooth, zero=True, hull=smooth
    )
    reader.emit(op, [x, *further], y, tuple(made))


def _resized(n: int, factor: float) -> int:
    """As ONNX has it: in 32 bits."""
    return math.floor(np.float32(n) * np.float32(factor))


# Sums over an axis ----------------------------------------------------------------------------------------------


@handles("Conv", "ConvTranspose")
def _conv(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, w, y = node.input[0], node.input[1], _only_output(node)
    weight = reader.shape(w)
    groups = int(given.get("group", 1))
    transposed = node.op_type == "ConvTranspose"
    if reader.shapes.get(x) is None and reader.is_constant(w) and len(weight) > 2:
        # behind something opaque: the weights say how many axes and channels it gives
        channels = int(weight[0]) if transposed else int(weight[1]) * groups
        unknown = (reader.unknown(x, axis) for axis in range(2, len(weight)))
        reader.shapes[x] = (reader.unknown(x, 0), channels, *unknown)
    shape = reader.shape(x)
    if not reader.is_constant(w) or not all(isinstance(n, int) for n in weight) or len(shape) < 3:
        raise NotUnderstood("its weights are computed in the graph")
    kernel = [int(n) for n in weight[2:]]
    detail = _options(
        node, "strides", "pads", "dilations", "auto_pad", "output_padding", "output_shape"
    )
    if transposed:
        single = groups == weight[0] and weight[1] == 1  # each channel for itself
        if groups != 1 and not single:
            raise NotUnderstood("a transposed convolution with groups")
        columns, rows = (1, 0) if groups > 1 else (0, 1)
        op = Linear(1, 1, columns, rows, groups, False, False, ((0, 0),), ("transposed", detail))
        made = _positions(reader, y, shape, _transposed(given, shape, kernel))
        channels = int(weight[rows])
    else:
        if (
            not isinstance(shape[1], int)
            or shape[1] != int(weight[1]) * groups
            or int(weight[0]) % groups
        ):
            raise NotUnderstood(
                f"channels {shape[1]}, weights {weight} and {groups} groups do not fit"
            )
        made, padded = _windows(reader, node, shape, kernel, y)
        op = Linear(1, 1, 1, 0, groups, padded, True, ((0, 0),), ("conv", detail))
        channels = int(weight[0])
    inputs = [x, w] + ([node.input[2]] if _given(node, 2) else [])
    if len(inputs) > 2 and not reader.is_constant(inputs[2]):
        raise NotUnderstood("its bias is computed in the graph")
    reader.emit(op, inputs, y, (made[0], channels, *made[2:]))


def _transposed(given: dict[str, Any], shape: Shape, kernel: Sequence[int]) -> list[int] | None:
    k = len(kernel)
    if given.get("output_shape") or given.get("auto_pad", b"NOTSET") not in (
        b"NOTSET",
        b"",
        b"VALID",
    ):
        return None
    strides, dilations = given.get("strides") or [1] * k, given.get("dilations") or [1] * k
    pads, extra = given.get("pads") or [0] * (2 * k), given.get("output_padding") or [0] * k
    if given.get("auto_pad") == b"VALID":
        pads = [0] * (2 * k)
    found = []
    for d in range(k):
        n = shape[2 + d]
        if not isinstance(n, int):
            return None
        found.append(
            strides[d] * (n - 1)
            + extra[d]
            + (kernel[d] - 1) * dilations[d]
            + 1
            - pads[d]
            - pads[k + d]
        )
    return found


@handles("Gemm")
def _gemm(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    a, b, y = node.input[0], node.input[1], _only_output(node)
    if not reader.is_constant(b) or reader.is_constant(a):
        raise NotUnderstood("a product of two computed tensors")
    if not reader.floating(b):
        raise NotUnderstood("a product of integers")
    if given.get("transA", 0):
        turned = reader.apart(f"{y}:a")
        reader.emit(Transpose((1, 0)), [a], turned, reader.shape(a)[::-1], reader.types[a])
        a = turned
    first, second = reader.shape(a), reader.shape(b)
    across = bool(given.get("transB", 0))
    out = second[0 if across else 1]
    op = Linear(1, 1, int(across), int(not across), free=((0, 0),))
    shape, kind = (first[0], out), reader.types[a]
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    c = _given(node, 2)
    added = reader.constant(c) if c else None
    if not c or (added is not None and added.ndim == 0 and added == 0):
        return _scaled(reader, op, [a, b], alpha, y, shape, kind)
    product = reader.apart(f"{y}:product")
    _scaled(reader, op, [a, b], alpha, product, shape, kind)
    if beta != 1.0:
        factor, scaled = _number(reader, f"{y}:beta", beta), reader.apart(f"{y}:c")
        reader.emit(Elementwise("mul"), [c, factor], scaled, reader.shape(c), kind)
        c = scaled
    reader.emit(Elementwise("add"), [product, c], y, shape)


def _scaled(
    reader: GraphReader,
    op: Linear,
    inputs: Sequence[str],
    factor: float,
    y: str,
    shape: Shape,
    kind: int,
) -> None:
    """A product, times a number."""
    if factor == 1.0:
        return reader.emit(op, inputs, y, shape, kind)
    unscaled = reader.apart(f"{y}:unscaled")
    reader.emit(op, inputs, unscaled, shape, kind)
    number = _number(reader, f"{y}:alpha", factor)
    reader.emit(Elementwise("mul"), [unscaled, number], y, shape, kind)


def _number(reader: GraphReader, name: str, value: float) -> str:
    """A constant that the file has in an attribute."""
    name = reader.apart(name)
    reader.folded[name] = np.array(value)
    reader.shapes[name], reader.types[name] = (), 1
    return name


@handles("Einsum")
def _einsum(reader: GraphReader, node: Any) -> None:
    """Sums of products of two tensors over letters that are neighbours in both."""
    equation = attributes(node)["equation"].decode().replace(" ", "")
    if "->" not in equation or "." in equation or len(node.input) != 2:
        raise NotUnderstood(f"equation {equation!r}")
    if not all(reader.floating(name) for name in node.input):
        raise NotUnderstood("a product of integers")
    terms, result = equation.split("->")
    names = list(node.input)
    letters = terms.split(",")
    if any(len(set(t)) < len(t) for t in (*letters, result)):
        raise NotUnderstood(f"equation {equation!r}, which repeats a letter")
    if reader.is_constant(names[0]):
        names, letters = names[::-1], letters[::-1]
    shared = [x for x in letters[0] if x in letters[1]]
    summed = "".join(x for x in shared if x not in result)
    batch = "".join(x for x in shared if x in result)
    rest = ["".join(x for x in t if x not in shared) for t in letters]
    plain = bool(summed) and all(x in result for x in rest[0] + rest[1]) and not batch and rest[1]
    if not plain or not reader.is_constant(names[1]):
        return _einsum_batched(reader, node, names, letters, result, summed, batch, rest)
    y = _only_output(node)
    summed_up, split_up = reader.apart(f"{y}:sum"), reader.apart(f"{y}:split")
    kind = reader.types[names[0]]
    x, order = _arranged(reader, names[0], letters[0], rest[0], summed, f"{y}:x")
    w, _ = _arranged(reader, names[1], letters[1], "", summed, f"{y}:w", rest[1])
    sizes = dict(zip(letters[1], reader.shape(names[1]), strict=True))
    rank = len(order)
    op = Linear(rank - 1, rank - 1, 0, 1, free=tuple((axis, axis) for axis in range(rank - 1)))
    shape = (*reader.shape(x)[:-1], reader.shape(w)[1])
    reader.emit(op, [x, w], summed_up, shape, kind)
    made = rest[0] + rest[1]
    split = (*shape[:-1], *(sizes[letter] for letter in rest[1]))
    reader.emit(reshape(shape, split), [summed_up], split_up, split, kind)
    turn = tuple(made.index(letter) for letter in result)
    reader.emit(Transpose(turn), [split_up], y, tuple(split[axis] for axis in turn))


def _arranged(
    reader: GraphReader, name: str, letters: str, first: str, joined: str, y: str, last: str = ""
) -> tuple[str, str]:
    """A tensor with its axes in another order, those joined made one, and the last ones, too."""
    turn = tuple(letters.index(letter) for letter in first + joined + last)
    shape = tuple(reader.shape(name)[axis] for axis in turn)
    kind = reader.types[name]
    y, turned = reader.apart(y), reader.apart(f"{y}:turned")
    reader.emit(Transpose(turn), [name], turned, shape, kind)
    if reader.is_constant(name):
        reader.views.update((turned, y))
    made = list(shape[: len(first)])
    for part in (joined, last):
        numbers = [shape[(first + joined + last).index(letter)] for letter in part]
        if not all(isinstance(n, int) for n in numbers):
            raise NotUnderstood("a sum over sizes that are not known")
        if part:
            made.append(math.prod(int(n) for n in numbers))
    reader.emit(reshape(shape, tuple(made)), [turned], y, tuple(made), kind)
    return y, first + "k"


def _einsum_batched(
    reader: GraphReader, node: Any, names: list[str], letters: list[str], result: str, summed: str,
    batch: str, rest: list[str],
) -> None:  # fmt: skip
    if len(summed) != 1 or len(rest[0]) != 1 or len(rest[1]) != 1 or len(result) != len(batch) + 2:
        raise NotUnderstood("an equation that is no matrix product")
    y = _only_output(node)
    parts = []
    for k, (name, own) in enumerate(zip(names, letters, strict=True)):
        wanted = batch + (rest[0] + summed if k == 0 else summed + rest[1])
        turn = tuple(own.index(letter) for letter in wanted)
        shape = tuple(reader.shape(name)[axis] for axis in turn)
        parts.append(reader.apart(f"{y}:{k}"))
        reader.emit(Transpose(turn), [name], parts[k], shape, reader.types[name])
    made = batch + rest[0] + rest[1]
    first, second = (reader.shape(part) for part in parts)
    shape = (*broadcast_shapes(reader, [first[:-2], second[:-2]], y), first[-2], second[-1])
    product = reader.apart(f"{y}:product")
    reader.emit(Contract(), parts, product, shape, reader.types[names[0]])
    turn = tuple(made.index(letter) for letter in result)
    reader.emit(Transpose(turn), [product], y, tuple(shape[axis] for axis in turn))


@handles("MatMul")
def _matmul(reader: GraphReader, node: Any) -> None:
    a, b = node.input
    y = _only_output(node)
    first, second = reader.shape(a), reader.shape(b)
    if not (reader.floating(a) and reader.floating(b)) or min(len(first), len(second)) < 2:
        raise NotUnderstood("a product of integers, or with a vector")
    if reader.is_constant(a) and reader.is_constant(b):
        raise NotUnderstood("constants are computed from constants")
    free: tuple[tuple[int, int], ...]
    if reader.is_constant(b) and len(second) == 2:
        rank = len(first)
        free = tuple((axis, axis) for axis in range(rank - 1))
        op = Linear(rank - 1, rank - 1, 0, 1, free=free)
        return reader.emit(op, [a, b], y, (*first[:-1], second[1]))
    if reader.is_constant(a) and len(first) == 2:
        rank = len(second)
        free = tuple((axis, axis) for axis in range(rank) if axis != rank - 2)
        op = Linear(rank - 2, rank - 2, 1, 0, free=free)
        return reader.emit(op, [b, a], y, (*second[:-2], first[0], second[-1]))
    ends = (first[-2], second[-1])
    heads = broadcast_shapes(reader, [first[:-2], second[:-2]], y)
    reader.emit(Contract(), [a, b], y, (*heads, *ends))


# Indices --------------------------------------------------------------------------------------------------------


@handles("Transpose")
def _transpose(reader: GraphReader, node: Any) -> None:
    shape = reader.shape(node.input[0])
    order = attributes(node).get("perm") or list(range(len(shape)))[::-1]
    if sorted(order) != list(range(len(shape))):
        raise NotUnderstood(f"order {order} of {len(shape)} axes")
    made = tuple(shape[axis] for axis in order)
    reader.emit(Transpose(tuple(order)), [node.input[0]], _only_output(node), made)


@handles("Concat")
def _concat(reader: GraphReader, node: Any) -> None:
    shapes = [reader.shape(name) for name in node.input]
    y = _only_output(node)
    axis = _axis(attributes(node)["axis"], len(shapes[0]))
    made = list(shapes[0])
    parts = [shape[axis] for shape in shapes]
    numbers = [n for n in parts if isinstance(n, int)]
    made[axis] = sum(numbers) if len(numbers) == len(parts) else reader.unknown(y, axis)
    for other in range(len(made)):
        known = {shape[other] for shape in shapes if isinstance(shape[other], int)}
        if other != axis and known:
            made[other] = known.pop()
    reader.emit(Concat(axis), list(node.input), y, tuple(made))


@handles("Split")
def _split(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x = node.input[0]
    shape = reader.shape(x)
    axis = _axis(given.get("axis", 0), len(shape))
    n, count = shape[axis], len(node.output)
    if not isinstance(n, int):
        raise NotUnderstood("it splits an axis of unknown size")
    if _given(node, 1):
        sizes = reader.whole(node.input[1], "sizes")
    elif given.get("split"):
        sizes = list(given["split"])
    else:
        each = -(-n // count)
        sizes = [each] * (n // each) + ([n % each] if n % each else [])
    if sum(sizes) != n or len(sizes) != count:
        raise NotUnderstood(f"parts {sizes} of {n}")
    start = 0
    for name, size in zip(node.output, sizes, strict=True):
        made = (*shape[:axis], size, *shape[axis + 1 :])
        if name:
            reader.emit(
                Take(axis, tuple(range(start, start + size))), [x], name, made, reader.types.get(x)
            )
        start += size


@handles("Slice")
def _slice(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if reader.opset < 10:
        starts, ends = list(given["starts"]), list(given["ends"])
        axes, steps = list(given.get("axes") or range(len(starts))), [1] * len(starts)
    else:
        starts, ends = (
            reader.numbers(node.input[1], "starts"),
            reader.numbers(node.input[2], "ends"),
        )
        axes = reader.whole(node.input[3], "axes") if _given(node, 3) else list(range(len(starts)))
        steps = reader.whole(node.input[4], "steps") if _given(node, 4) else [1] * len(starts)
    chosen = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = _axis(axis, len(shape))
        n = shape[axis]
        far = isinstance(end, int) and end >= 2**31 - 1
        if step == 1 and start == 0 and (end == n or far) and not isinstance(n, int):
            continue  # all of it
        chosen.append((axis, start, end, step))
    if not chosen:
        return reader.emit(Elementwise("identity"), [x], y, shape)
    source = x
    for k, (axis, start, end, step) in enumerate(chosen):
        target = y if k == len(chosen) - 1 else reader.apart(f"{y}:{k}")
        shape = _cut(reader, source, target, shape, axis, start, end, step)
        source = target


def _cut(
    reader: GraphReader, x: str, y: str, shape: Shape, axis: int, start: Any, end: Any, step: int
) -> Shape:
    n = shape[axis]
    if isinstance(n, int) and isinstance(start, int) and isinstance(end, int):
        index = tuple(range(n)[slice(start, None if step < 0 and end < -n else end, step)])
        made = (*shape[:axis], len(index), *shape[axis + 1 :])
        reader.emit(Take(axis, index), [x], y, made)
        return made
    free = tuple((a, a) for a in range(len(shape)) if a != axis)
    made = (*shape[:axis], reader.unknown(y, axis), *shape[axis + 1 :])
    if not (isinstance(start, int) and isinstance(end, int)):
        raise NotUnderstood("its ends are computed in the graph")
    numbers = (axis, start, end, step)
    op = Slicewise("slice", free, numbers, linear=True, keeps=True, zero=True, hull=True)
    reader.emit(op, [x], y, made)
    return made


@handles("Gather")
def _gather(reader: GraphReader, node: Any) -> None:
    data, ids = node.input
    y = _only_output(node)
    shape, chosen = reader.shape(data), reader.shape(ids)
    axis = _axis(attributes(node).get("axis", 0), len(shape))
    made = (*shape[:axis], *chosen, *shape[axis + 1 :])
    index = reader.constant(ids)
    n = shape[axis]
    if index is not None and index.ndim <= 1 and isinstance(n, int):
        places = [int(i) + n if i < 0 else int(i) for i in index.ravel().tolist()]
        if not all(0 <= i < n for i in places):
            raise NotUnderstood(f"it takes an index outside of {n}")
        return reader.emit(
            Take(axis, tuple(places), index.ndim == 0), [data], y, made, reader.types.get(data)
        )
    if reader.is_constant(data):
        return reader.emit(Lookup(axis), [data, ids], y, made, reader.types.get(data))
    free = tuple((a, a + (len(chosen) - 1) * (a > axis)) for a in range(len(shape)) if a != axis)
    op = Slicewise(
        "gather", free, (axis, len(chosen)), linear=True, keeps=True, zero=True, hull=True
    )
    reader.emit(op, [data, ids], y, made)


@handles("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(reader: GraphReader, node: Any) -> None:
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    given = attributes(node)
    target = {"Reshape": _target, "Flatten": _flat, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed}[
        node.op_type
    ]
    made = target(reader, node, shape, given, y)
    reader.emit(reshape(shape, made), [x], y, made, reader.types.get(x))


def _target(reader: GraphReader, node: Any, shape: Shape, given: dict[str, Any], y: str) -> Shape:
    wanted = list(given["shape"]) if "shape" in given else reader.numbers(node.input[1], "shape")
    made: list[Any] = []
    for axis, n in enumerate(wanted):
        copied = isinstance(n, int) and n == 0 and not given.get("allowzero", 0)
        made.append(shape[axis] if copied else (reader.unknown(y, axis) if n is None else n))
    holes = [axis for axis, n in enumerate(made) if n == -1]
    if len(holes) > 1:
        raise NotUnderstood("a target with two open sizes")
    for axis in holes:
        made[axis] = _open(shape, [n for a, n in enumerate(made) if a != axis]) or reader.unknown(
            y, axis
        )
    return tuple(made)


def _open(shape: Shape, others: Sequence[int | str]) -> int | str | None:
    """The size that is left where the others are known."""
    left, given = list(shape), list(others)
    for n in list(given):
        if isinstance(n, str) and n in left:
            left.remove(n)
            given.remove(n)
    names = [n for n in left if isinstance(n, str)]
    have = math.prod(n for n in left if isinstance(n, int))
    taken = math.prod(n for n in given if isinstance(n, int))
    if any(isinstance(n, str) for n in given) or taken == 0:
        return None
    if not names:
        return have // taken if have % taken == 0 else None
    return names[0] if len(names) == 1 and have == taken else None


def _flat(reader: GraphReader, node: Any, shape: Shape, given: dict[str, Any], y: str) -> Shape:
    axis = given.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    found: list[int | str] = []
    for k, part in enumerate((shape[:axis], shape[axis:])):
        names = [n for n in part if isinstance(n, str)]
        size = math.prod(n for n in part if isinstance(n, int))
        found.append(
            size
            if not names
            else (names[0] if len(names) == 1 and size == 1 else reader.unknown(y, k))
        )
    return tuple(found)


def _axes(reader: GraphReader, node: Any, given: dict[str, Any], rank: int) -> set[int]:
    listed = (
        reader.whole(node.input[1], "axes") if _given(node, 1) else list(given.get("axes") or [])
    )
    return {_axis(axis, rank) for axis in listed}


def _squeezed(reader: GraphReader, node: Any, shape: Shape, given: dict[str, Any], y: str) -> Shape:
    gone = _axes(reader, node, given, len(shape))
    if not gone:
        if any(isinstance(n, str) for n in shape):
            raise NotUnderstood("it drops axes of unknown size")
        gone = {axis for axis, n in enumerate(shape) if n == 1}
    return tuple(n for axis, n in enumerate(shape) if axis not in gone)


def _unsqueezed(
    reader: GraphReader, node: Any, shape: Shape, given: dict[str, Any], y: str
) -> Shape:
    listed = reader.whole(node.input[1], "axes") if _given(node, 1) else list(given["axes"])
    rank = len(shape) + len(listed)
    new = {_axis(axis, rank) for axis in listed}
    rest = iter(shape)
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def reshape(shape: Shape, made: Shape) -> Reshape:
    """Which axes of two shapes of the same entries are the same, and which blocks are."""
    sizes = tuple(n if isinstance(n, int) else None for n in made)
    blocks, free = list[tuple[tuple[int, ...], tuple[int, ...]]](), list[tuple[int, int]]()
    i = j = 0
    ends = _matched_tail(shape, made)
    while i < len(shape) - ends[0] and j < len(made) - ends[1]:
        if shape[i] == made[j]:
            free.append((i, j))
            i, j = i + 1, j + 1
            continue
        block = _block(shape, made, i, j)
        if block is None:
            break
        blocks.append(block)
        i, j = (block[0][-1] if block[0] else i - 1) + 1, (block[1][-1] if block[1] else j - 1) + 1
    tail_i, tail_j = len(shape) - ends[0], len(made) - ends[1]
    while tail_i < len(shape) or tail_j < len(made):
        if tail_i < len(shape) and tail_j < len(made) and shape[tail_i] == made[tail_j]:
            free.append((tail_i, tail_j))
            tail_i, tail_j = tail_i + 1, tail_j + 1
            continue
        block = _block(shape, made, tail_i, tail_j)
        if block is None:
            break
        blocks.append(block)
        tail_i, tail_j = tail_i + len(block[0]), tail_j + len(block[1])
    named = {o for _, o in free}
    if sum(n is None and axis not in named for axis, n in enumerate(sizes)) > 1:
        raise NotUnderstood("a target with sizes that are not known")
    return Reshape(tuple(blocks), sizes, tuple(free))


def _block(
    shape: Shape, made: Shape, i: int, j: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shortest runs of axes from i and j on with as many entries."""
    p, q = 1, 1
    a, b = i, j
    while True:
        if (a > i or b > j) and p == q and ((a > i and b > j) or p == 1):
            break
        if p <= q and a < len(shape):
            n = shape[a]
            a += 1
            if not isinstance(n, int):
                return None
            p *= n
        elif b < len(made):
            m = made[b]
            b += 1
            if not isinstance(m, int):
                return None
            q *= m
        elif a < len(shape):
            n = shape[a]
            a += 1
            if not isinstance(n, int):
                return None
            p *= n
        else:
            return None
    return tuple(range(i, a)), tuple(range(j, b))


def _matched_tail(shape: Shape, made: Shape) -> tuple[int, int]:
    """How many last axes hold the same entries, as far as sizes are known from the end."""
    best = (0, 0)
    p = q = 1
    a = b = 0
    while True:
        if p == q:
            best = (a, b)
        if p <= q and a < len(shape) and isinstance(shape[-1 - a], int):
            p *= int(shape[-1 - a])
            a += 1
        elif b < len(made) and isinstance(made[-1 - b], int):
            q *= int(made[-1 - b])
            b += 1
        else:
            return best


@handles("Expand", "Tile")
def _expand(reader: GraphReader, node: Any) -> None:
    x, y = node.input[0], _only_output(node)
    shape = reader.shape(x)
    if node.op_type == "Tile":
        repeats = reader.whole(node.input[1], "repeats")
        made = tuple(
            n if r == 1 else (n * r if isinstance(n, int) else reader.unknown(y, a))
            for a, (n, r) in enumerate(zip(shape, repeats, strict=True))
        )
        free = tuple((a, a) for a, r in enumerate(repeats) if r == 1)
        op = Slicewise("tile", free, tuple(repeats), linear=True, keeps=True, zero=True, hull=True)
        return reader.emit(op, [x], y, made, reader.types.get(x))
    wanted = [
        reader.unknown(y, a) if n is None else n
        for a, n in enumerate(reader.numbers(node.input[1], "shape"))
    ]
    made = broadcast_shapes(reader, [shape, tuple(wanted)], y)
    sizes = tuple(n if isinstance(n, int) else None for n in made)
    # what a size is that the target computes is for the second input to say
    known = all(isinstance(n, int) for n in reader.numbers(node.input[1], "shape"))
    inputs = [x] if known else [x, node.input[1]]
    reader.emit(Broadcast(sizes), inputs, y, made, reader.types.get(x))


@handles("DepthToSpace", "SpaceToDepth")
def _rearranged(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, y, b = node.input[0], _only_output(node), int(attributes(node)["blocksize"])
    shape = reader.shape(x)
    if len(shape) != 4 or not all(isinstance(n, int) for n in shape[1:]):
        raise NotUnderstood("positions of unknown size")
    n, (c, h, w) = shape[0], (int(k) for k in shape[1:])
    made: tuple[Any, ...]
    if node.op_type == "SpaceToDepth":
        parts, turn = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
        made = (n, c * b * b, h // b, w // b)
    elif given.get("mode", b"DCR") == b"DCR":
        parts, turn = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
        made = (n, c // (b * b), h * b, w * b)
    else:
        parts, turn = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
        made = (n, c // (b * b), h * b, w * b)
    kind = reader.types[x]
    names = [reader.apart(f"{y}:{part}") for part in ("parts", "turned")]
    reader.emit(reshape(shape, parts), [x], names[0], parts, kind)
    turned = tuple(parts[axis] for axis in turn)
    reader.emit(Transpose(turn), [names[0]], names[1], turned, kind)
    reader.emit(reshape(turned, made), [names[1]], y, made, kind)
