"""What each operator of ATen is among the operators of the kernel. One handler for each kind.

A handler that does not know what a call computes raises `NotUnderstood`; so does one that meets an
argument, a type or a shape that it was not written for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    PerUnit,
    Shape,
    Size,
    Slicewise,
    Take,
    Transpose,
)

from .torch_graph_reader import Arguments, Result, TorchReader, Value, handles
from .torch_graph_shapes import Groups, NotUnderstood


def axis_of(axis: int, rank: int) -> int:
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < rank:
        raise NotUnderstood(f"axis {axis} of a tensor with {rank}")
    return found


def _rank(reader: TorchReader, value: Value) -> int:
    return len(reader.shape(value)) if value.groups is None else len(value.groups)


def _name(reader: TorchReader, node: Any) -> str:
    return reader.named(node.name)


def _floats(node: Any) -> bool:
    given = node.meta["val"]
    first = given[0] if isinstance(given, (tuple, list)) else given
    return bool(first.dtype.is_floating_point)


def _pair(x: Any, n: int) -> tuple[int, ...]:
    found = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    return found * n if len(found) == 1 else found


# Entry by entry -------------------------------------------------------------------------------------------------

SAME = (
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy",
    "resolve_conj", "resolve_neg", "positive",
)  # fmt: skip
UNARY = {
    "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "erf": "erf", "exp": "exp", "abs": "abs",
    "neg": "neg", "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin",
    "atan": "atan", "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "atanh": "atanh",
    "sign": "sign", "sgn": "sign", "silu": "silu", "mish": "mish", "hardswish": "hardswish",
    "round": "round", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
    "frac": "frac", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p",
    "exp2": "exp2", "expm1": "expm1", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "acos": "acos",
    "acosh": "acosh", "erfc": "erfc", "erfinv": "erfinv", "log_sigmoid": "log_sigmoid",
    "logit": "logit", "isnan": "isnan", "isinf": "isinf", "logical_not": "not",
    "bitwise_not": "bitwise not", "hardshrink": "hardshrink", "softshrink": "softshrink",
    "threshold": "threshold", "nan_to_num": "nan_to_num",
}  # fmt: skip
BINARY = {
    "add": "add", "sub": "sub", "subtract": "sub", "mul": "mul", "multiply": "mul", "div": "div",
    "divide": "div", "true_divide": "div", "pow": "pow", "maximum": "max", "minimum": "min",
    "fmod": "fmod", "remainder": "mod", "floor_divide": "floor divide", "eq": "equal",
    "ne": "unequal", "gt": "greater", "ge": "at_least", "lt": "less", "le": "at_most",
    "logical_and": "and", "logical_or": "or", "logical_xor": "xor", "bitwise_and": "bitwise and",
    "bitwise_or": "bitwise or", "atan2": "atan2",
}  # fmt: skip


def _operand(reader: TorchReader, node: Any, argument: Any, k: int, floats: bool) -> Value:
    """A tensor, or a number as one."""
    if reader.is_tensor(argument):
        return reader.value(argument)
    number = reader.number(argument)
    name = f"{_name(reader, node)}:number{k}"
    if isinstance(number, str):
        return reader.emit(Size((), number), [], name, (), floats)
    if not isinstance(number, (int, float)):
        raise NotUnderstood(f"an argument {number!r}")
    return reader.number_of(name, number, floats)


def _apply(
    reader: TorchReader,
    node: Any,
    kind: str,
    operands: Sequence[Value],
    numbers: tuple[float, ...] = (),
    name: str = "",
) -> Value:
    """A function of each entry of tensors that broadcast."""
    aligned, groups = _aligned(reader, operands)
    floats = aligned[1:] if kind == "where" else aligned
    if kind not in ("identity",) and not all(reader.floating(v) for v in floats):
        kind = f"{kind} of integers"  # which wrap and round: no law of real numbers holds
    shape = _broadcast(reader, aligned)
    made = reader.emit(
        Elementwise(kind, numbers), aligned, name or _name(reader, node), shape, _floats(node)
    )
    return Value(made.name, groups)


def _aligned(reader: TorchReader, operands: Sequence[Value]) -> tuple[list[Value], Groups | None]:
    """Operands whose axes in the graph broadcast as those that torch sees."""
    groups = {v.groups for v in operands if v.groups is not None}
    if not groups:
        return list(operands), None
    (first, *others) = groups
    if others:
        return [reader.plain(v) for v in operands], None
    single = 0
    for group in reversed(first):
        if len(group) > 1:
            break
        single += 1
    for v in operands:
        if v.groups is None and len(reader.shape(v)) > single:
            return [reader.plain(v) for v in operands], None
    return list(operands), first


def _broadcast(reader: TorchReader, values: Sequence[Value]) -> Shape:
    shapes = [reader.shape(v) for v in values]
    rank = max(map(len, shapes))
    found: list[int | str] = []
    for back in range(-rank, 0):
        sizes = {shape[back] for shape in shapes if -back <= len(shape)} - {1}
        if len(sizes) > 1:
            raise NotUnderstood(f"shapes {shapes} do not broadcast")
        found.append(sizes.pop() if sizes else 1)
    return tuple(found)


@handles(*SAME)
def _same(reader: TorchReader, node: Any, a: Arguments) -> Result:
    return reader.value(node.args[0])


@handles("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def _dropout(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if a.get("train") and a.get("p") != 0.0:
        raise NotUnderstood("it drops at random")
    if isinstance(node.meta["val"], (tuple, list)):
        raise NotUnderstood("its mask is given, too")
    return reader.value(a["input"])


@handles("to", "_to_copy", "type_as")
def _cast(reader: TorchReader, node: Any, a: Arguments) -> Result:
    value = reader.value(node.args[0])
    if str(node.meta["val"].dtype) == str(node.args[0].meta["val"].dtype):
        return value
    if reader.is_constant(value) and _rounds(
        reader, value, node.args[0].meta["val"], node.meta["val"]
    ):
        raise NotUnderstood("a cast that rounds stored numbers")
    if _floats(node):
        # integers and the other floats are numbers as well
        return value if reader.floating(value) else _apply(reader, node, "identity", [value])
    return _apply(reader, node, f"cast to {node.meta['val'].dtype}", [value])


def _rounds(reader: TorchReader, value: Value, before: Any, after: Any) -> bool:
    """Whether a cast of a constant may give other numbers. A cast of what is computed is the
    identity over the reals.
    """
    import torch

    stored = reader.tensors.get(value.name)
    if stored is None:
        return bool(torch.promote_types(before.dtype, after.dtype) != after.dtype)
    cast, wide = stored.to(after.dtype), torch.float64
    return not torch.equal(cast.to(wide), stored.to(wide))


@handles(*UNARY)
def _unary(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = UNARY[node.target._schema.name.removeprefix("aten::")]
    numbers = [reader.number(x) for x in list(a.values())[1:]]
    plain = tuple(float(x) for x in numbers if isinstance(x, (int, float)))
    if len(plain) != len([x for x in numbers if x is not None]):
        raise NotUnderstood("it has arguments that are no numbers")
    return _apply(reader, node, kind, [reader.value(node.args[0])], plain)


@handles("log_sigmoid_forward")
def _log_sigmoid(reader: TorchReader, node: Any, a: Arguments) -> Result:
    name = _name(reader, node)
    return (_apply(reader, node, "log_sigmoid", [reader.value(node.args[0])], name=name), None)


@handles(*BINARY)
def _binary(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = BINARY[node.target._schema.name.removeprefix("aten::")]
    given = [a[key] for key in a if key not in ("alpha", "rounding_mode")]
    if len(given) != 2:
        raise NotUnderstood("arguments that are not known")
    if a.get("rounding_mode") is not None:
        kind = f"div {a['rounding_mode']}"
    floats = any(reader.is_tensor(x) and reader.floating(reader.value(x)) for x in given)
    first, second = (_operand(reader, node, x, k, floats) for k, x in enumerate(given))
    alpha = reader.number(a.get("alpha", 1))
    if alpha != 1:
        second = _scaled(reader, node, second, alpha, f"{_name(reader, node)}:scaled", floats)
    return _apply(reader, node, kind, [first, second])


def _scaled(
    reader: TorchReader, node: Any, value: Value, factor: Any, name: str, floats: bool = True
) -> Value:
    if not isinstance(factor, (int, float)):
        raise NotUnderstood("a factor that is computed")
    number = reader.number_of(f"{name}:factor", factor, floats)
    return _apply(reader, node, "mul", [value, number], name=name)


@handles("rsub")
def _rsub(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if reader.number(a["alpha"]) != 1:
        raise NotUnderstood("a factor")
    x = reader.value(a["self"])
    other = _operand(reader, node, a["other"], 1, reader.floating(x))
    return _apply(reader, node, "sub", [other, x])


@handles("square")
def _square(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.value(a["self"])
    two = reader.number_of(f"{_name(reader, node)}:number", 2, reader.floating(x))
    return _apply(reader, node, "pow", [x, two])


@handles("leaky_relu")
def _leaky_relu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    slope = float(reader.number(a["negative_slope"]))
    return _apply(reader, node, "leaky_relu", [reader.value(a["self"])], (slope,))


@handles("rrelu")
def _rrelu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if a["training"]:
        raise NotUnderstood("it draws slopes at random")
    slope = (float(a["lower"]) + float(a["upper"])) / 2
    return _apply(reader, node, "leaky_relu", [reader.value(a["self"])], (slope,))


SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as torch has them


@handles("elu", "celu")
def _elu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    alpha, scale, inner = (float(a.get(key, 1.0)) for key in ("alpha", "scale", "input_scale"))
    x = [reader.value(a["self"])]
    if inner != 1.0:
        return _apply(reader, node, f"{kind} of {inner} x", x, (alpha, scale))
    if scale != 1.0:
        return _apply(reader, node, "selu", x, (alpha, scale))
    return _apply(reader, node, kind, x, (alpha,))


@handles("selu")
def _selu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    return _apply(reader, node, "selu", [reader.value(a["self"])], SELU)


@handles("gelu")
def _gelu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = {"none": "gelu", "tanh": "gelu_tanh"}[a["approximate"]]
    return _apply(reader, node, kind, [reader.value(a["self"])])


@handles("relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
def _clip(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name
    low, high = a.get("min_val", a.get("min")), a.get("max_val", a.get("max"))
    if kind == "aten::relu6":
        low, high = 0.0, 6.0
    value = reader.value(a["self"])
    name = _name(reader, node)
    if reader.is_tensor(low) or reader.is_tensor(high):
        both = low is not None and high is not None
        if low is not None:
            operands = [value, _operand(reader, node, low, 1, True)]
            value = _apply(reader, node, "max", operands, name=f"{name}:low" if both else name)
        if high is not None:
            value = _apply(reader, node, "min", [value, _operand(reader, node, high, 2, True)])
        return value
    ends = [reader.number(x) for x in (low, high)]
    numbers = (
        -math.inf if ends[0] is None else float(ends[0]),
        math.inf if ends[1] is None else float(ends[1]),
    )
    return _apply(reader, node, "clip", [value], numbers)


@handles("hardsigmoid")
def _hardsigmoid(reader: TorchReader, node: Any, a: Arguments) -> Result:
    """relu6(x + 3) / 6: one sixth is no float."""
    name = _name(reader, node)
    three, six = (reader.number_of(f"{name}:{n}", n, True) for n in (3, 6))
    x = _apply(reader, node, "add", [reader.value(a["self"]), three], name=f"{name}:shifted")
    x = _apply(reader, node, "clip", [x], (0.0, 6.0), name=f"{name}:clipped")
    return _apply(reader, node, "div", [x, six])


@handles("softplus")
def _softplus(reader: TorchReader, node: Any, a: Arguments) -> Result:
    beta, threshold = float(a["beta"]), float(a["threshold"])
    plain = beta == 1.0 and threshold >= 20.0
    numbers = () if plain else (beta, threshold)
    kind = "softplus" if plain else "softplus with a threshold"
    return _apply(reader, node, kind, [reader.value(a["self"])], numbers)


@handles("prelu", "_prelu_kernel")
def _prelu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, slope = reader.plain(a["self"]), reader.plain(a["weight"])
    rank, given = len(reader.shape(x)), reader.shape(slope)
    if len(given) == 1 and given[0] != 1 and rank > 2:
        made = (given[0], *[1] * (rank - 2))
        slope = reader.reshaped(slope, made, f"{_name(reader, node)}:slope")
    return _apply(reader, node, "prelu", [x, slope])


@handles("glu")
def _glu(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.plain(a["self"])
    shape = reader.shape(x)
    axis = axis_of(reader.number(a["dim"]), len(shape))
    name, n = _name(reader, node), shape[axis]
    if not isinstance(n, int):
        raise NotUnderstood("halves of an axis of unknown size")
    half = (*shape[:axis], n // 2, *shape[axis + 1 :])
    parts = [
        reader.emit(
            Take(axis, tuple(range(k * n // 2, (k + 1) * n // 2))), [x], f"{name}:{k}", half
        )
        for k in (0, 1)
    ]
    gate = _apply(reader, node, "sigmoid", parts[1:], name=f"{name}:gate")
    return _apply(reader, node, "mul", [parts[0], gate])


@handles("where")
def _where(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if "self" not in a or "other" not in a:
        raise NotUnderstood("it gives indices")
    floats = _floats(node)
    parts = [_operand(reader, node, a[key], k, floats) for k, key in enumerate(("self", "other"))]
    return _apply(reader, node, "where", [reader.value(a["condition"]), *parts])


@handles("masked_fill")
def _masked_fill(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.value(a["self"])
    value = _operand(reader, node, a["value"], 2, reader.floating(x))
    return _apply(reader, node, "where", [reader.value(a["mask"]), value, x])


@handles("addcmul", "lerp", "addcdiv")
def _three(reader: TorchReader, node: Any, a: Arguments) -> Result:
    parts = [reader.value(x) for x in a.values() if reader.is_tensor(x)]
    kind = node.target._schema.name.removeprefix("aten::")
    numbers = tuple(float(x) for x in a.values() if isinstance(x, (int, float)))
    return _apply(reader, node, kind, parts, numbers)


# One number for each unit ---------------------------------------------------------------------------------------


@handles(
    "batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_batch_norm"
)
def _batch_norm(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.plain(a["input"])
    shape, name = reader.shape(x), _name(reader, node)
    channels = shape[1]
    if not isinstance(channels, int):
        raise NotUnderstood("channels of unknown number")
    further = [a["weight"], a["bias"], a["running_mean"], a["running_var"]]
    if a.get("training") or further[2] is None:
        return _by_the_batch(reader, node, a, x)
    given = []
    for key, argument, number in zip(("scale", "shift"), further[:2], (1.0, 0.0), strict=True):
        plain = np.full(channels, number)
        given.append(
            reader.keep(f"{name}:{key}", plain) if argument is None else reader.value(argument)
        )
    given += [reader.value(argument) for argument in further[2:]]
    if not all(reader.is_constant(v) for v in given):
        raise NotUnderstood("its statistics are computed")
    op = PerUnit("batchnorm", 1, (float(a["eps"]),))
    made = reader.emit(op, [x, *given], name, shape)
    return (made, None, None) if isinstance(node.meta["val"], (tuple, list)) else made


def _by_the_batch(reader: TorchReader, node: Any, a: Arguments, x: Value) -> Result:
    """Statistics of the batch: channels stay apart."""
    if isinstance(node.meta["val"], (tuple, list)):
        raise NotUnderstood("it gives statistics")
    further = [reader.value(v) for v in (a["weight"], a["bias"]) if v is not None]
    numbers = (float(a["eps"]), a["weight"] is None, a["bias"] is None)
    op = Slicewise("normalised by the batch", ((1, 1),), numbers, carried=(1,) * len(further))
    return reader.emit(op, [x, *further], _name(reader, node), reader.shape(x))


# Slice by slice -------------------------------------------------------------------------------------------------


@handles("instance_norm")
def _instance_norm(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if not a["use_input_stats"]:
        return _batch_norm(reader, node, {**a, "training": False})
    _require_scale(a)
    x = reader.plain(a["input"])
    further = [reader.value(v) for v in (a["weight"], a["bias"]) if v is not None]
    numbers = (float(a["eps"]), a["weight"] is None, a["bias"] is None)
    op = Slicewise(
        "instance norm", ((0, 0), (1, 1)), numbers, carried=(1,) * len(further),
        normalises=float(a["eps"]),
    )  # fmt: skip
    return reader.emit(op, [x, *further], _name(reader, node), reader.shape(x))


def _require_scale(a: Arguments) -> None:
    """A shift alone would be read for a scale, which comes first."""
    if a["weight"] is None and a.get("bias") is not None:
        raise NotUnderstood("a norm with a shift and without a scale")


@handles("group_norm")
def _group_norm(reader: TorchReader, node: Any, a: Arguments) -> Result:
    _require_scale(a)
    x = reader.plain(a["input"])
    further = [reader.value(v) for v in (a["weight"], a["bias"]) if v is not None]
    numbers = (int(a["num_groups"]), float(a["eps"]), a["weight"] is None, a["bias"] is None)
    op = Slicewise("group norm", ((0, 0),), numbers, normalises=float(a["eps"]))
    return reader.emit(op, [x, *further], _name(reader, node), reader.shape(x))


@handles("layer_norm", "rms_norm")
def _layer_norm(reader: TorchReader, node: Any, a: Arguments) -> Result:
    _require_scale(a)
    x = reader.value(a["input"])
    count = len(a["normalized_shape"])
    if x.groups is not None and any(len(group) > 1 for group in x.groups[-count:]):
        x = reader.plain(x)
    shape = reader.shape(x)
    keys = [key for key in ("weight", "bias") if key in a]
    further = [reader.value(a[key]) for key in keys if a[key] is not None]
    kind = node.target._schema.name.removeprefix("aten::")
    eps = a["eps"]
    missing = tuple(a[key] is None for key in keys)
    numbers = (count, None if eps is None else float(eps), missing)
    free = tuple((axis, axis) for axis in range(len(shape) - count))
    op = Slicewise(kind, free, numbers, normalises=numbers[1])
    made = reader.emit(op, [x, *further], _name(reader, node), shape)
    return Value(made.name, x.groups)


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
def _along_axis(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, axis = _at(reader, a["self"], reader.number(a["dim"]))
    shape = reader.shape(x)
    kind = node.target._schema.name.removeprefix("aten::").strip("_")
    free = tuple((k, k) for k in range(len(shape)) if k != axis)
    linear = kind == "cumsum" and reader.floating(x)
    op = Slicewise(kind, free, (axis,), linear=linear)
    made = reader.emit(op, [x], _name(reader, node), shape, _floats(node))
    return Value(made.name, x.groups)


def _at(reader: TorchReader, argument: Any, axis: int) -> tuple[Value, int]:
    """A tensor, and the axis of the graph that one axis is."""
    value = reader.value(argument)
    axis = axis_of(axis, _rank(reader, value))
    if value.groups is None:
        return value, axis
    if len(value.groups[axis]) == 1:
        return value, value.groups[axis][0]
    return reader.plain(value), axis


REDUCTIONS: dict[str, dict[str, Any]] = {
    "mean": dict(linear=True, keeps=True, zero=True, hull=True),
    "sum": dict(linear=True, zero=True),
    "amax": dict(homogeneous=True, keeps=True, zero=True, hull=True),
    "amin": dict(homogeneous=True, keeps=True, zero=True, hull=True),
    "linalg_vector_norm": {}, "norm": {}, "prod": {}, "var": {}, "std": {}, "logsumexp": {},
    "argmax": {}, "argmin": {}, "any": {}, "all": {}, "nansum": {}, "nanmean": {},
}  # fmt: skip


@handles(*REDUCTIONS)
def _reduce(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    x = reader.plain(node.args[0])
    further = {k: v for k, v in a.items() if k not in ("self", "dim", "keepdim", "dtype")}
    said = tuple(sorted((k, str(reader.number(v))) for k, v in further.items() if v is not None))
    return _reduced(reader, node, kind, x, a.get("dim"), bool(a.get("keepdim")), said)


def _reduced(
    reader: TorchReader,
    node: Any,
    kind: str,
    x: Value,
    axes: Any,
    keep: bool,
    said: tuple[Any, ...] = (),
    name: str = "",
) -> Value:
    shape = reader.shape(x)
    listed = [] if axes is None else reader.whole(axes)
    gone = {axis_of(axis, len(shape)) for axis in listed} or set(range(len(shape)))
    free, made = list[tuple[int, int]](), list[int | str]()
    for axis, n in enumerate(shape):
        if axis not in gone:
            free.append((axis, len(made)))
            made.append(n)
        elif keep:
            made.append(1)
    laws = REDUCTIONS.get(kind, {}) if reader.floating(x) else {}
    op = Slicewise(kind, tuple(free), (tuple(sorted(gone)), keep, *said), **laws)
    floats = reader.floating(x) and not kind.startswith("arg")
    return reader.emit(op, [x], name or _name(reader, node), tuple(made), floats)


@handles("max", "min")
def _extreme(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    x = reader.plain(a["self"])
    if "other" in a:
        return _apply(reader, node, kind, [x, reader.plain(a["other"])])
    if "dim" not in a:
        return _reduced(reader, node, f"a{kind}", x, None, False)
    name, keep = _name(reader, node), bool(a["keepdim"])
    values = _reduced(reader, node, f"a{kind}", x, a["dim"], keep)
    places = _reduced(reader, node, f"arg{kind}", x, a["dim"], keep, name=f"{name}:places")
    return values, places


POOLS = {
    "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "avg_pool1d": 1, "avg_pool2d": 2,
    "avg_pool3d": 3, "max_pool1d_with_indices": 1, "max_pool2d_with_indices": 2,
    "max_pool3d_with_indices": 3,
}  # fmt: skip


@handles(*POOLS)
def _pool(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    k, name = POOLS[kind], _name(reader, node)
    several = isinstance(node.meta["val"], (tuple, list))
    x = reader.plain(a["self"])
    shape = reader.shape(x)
    free = tuple((axis, axis) for axis in range(len(shape) - k))
    options = [key for key in a if key != "self"]
    numbers = tuple((key, _plain(reader.number(a[key]))) for key in options)
    given = node.meta["val"][0] if several else node.meta["val"]
    made = (*shape[: len(shape) - k], *reader.shape_of(given)[len(shape) - k :])
    if kind.startswith("max"):
        op = Slicewise(
            "max pool", free, numbers, homogeneous=True, keeps=True, zero=True, hull=True
        )
    else:
        padded = any(_pair(reader.number(a["padding"]), k)) or bool(a["ceil_mode"])
        border = padded and bool(a["count_include_pad"])
        plain = a.get("divisor_override") is None
        op = Slicewise(
            "average pool", free, numbers, linear=True, keeps=plain and not border, zero=True,
            hull=plain, padded=border,
        )  # fmt: skip
    found = reader.emit(op, [x], name, made)
    if not several:
        return found
    places = Slicewise("places of a max pool", free, numbers)
    return found, reader.emit(places, [x], f"{name}:places", made, False)


def _plain(x: Any) -> Any:
    return tuple(map(_plain, x)) if isinstance(x, (list, tuple)) else x


ADAPTIVE = {
    "adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3,
    "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
}  # fmt: skip


@handles(*ADAPTIVE)
def _adaptive_pool(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    k, average = ADAPTIVE[kind], "avg" in kind
    several = isinstance(node.meta["val"], (tuple, list))
    x = reader.plain(a["self"])
    shape = reader.shape(x)
    free = tuple((axis, axis) for axis in range(len(shape) - k))
    numbers = (k, _plain(reader.number(a["output_size"])))
    given = node.meta["val"][0] if several else node.meta["val"]
    made = (*shape[: len(shape) - k], *reader.shape_of(given)[len(shape) - k :])
    op = Slicewise(
        "adaptive average pool" if average else "adaptive max pool", free, numbers, linear=average,
        homogeneous=not average, keeps=True, zero=True, hull=True,
    )  # fmt: skip
    name = _name(reader, node)
    found = reader.emit(op, [x], name, made)
    if not several:
        return found
    places = Slicewise("places of an adaptive max pool", free, numbers)
    return found, reader.emit(places, [x], f"{name}:places", made, False)


PADS = (
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip


@handles(*PADS)
def _pad(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    mode = a.get("mode", kind.partition("_pad")[0])
    x = reader.plain(a["self"])
    shape = reader.shape(x)
    amounts = reader.whole(a.get("pad", a.get("padding")))
    value = float(a.get("value") or 0.0)
    touched = {}
    for k in range(len(amounts) // 2):
        if (amounts[2 * k], amounts[2 * k + 1]) != (0, 0):
            touched[len(shape) - 1 - k] = (amounts[2 * k], amounts[2 * k + 1])
    free = tuple((axis, axis) for axis in range(len(shape)) if axis not in touched)
    constant = mode == "constant"
    zero = not constant or value == 0.0
    numbers = (mode, tuple(sorted(touched.items())), value)
    op = Slicewise(
        "pad", free, numbers, linear=zero, keeps=not constant, zero=zero, hull=zero, padded=constant
    )
    seen = reader.seen(node)
    made = tuple(seen[axis] if axis in touched else n for axis, n in enumerate(shape))
    return reader.emit(op, [x], _name(reader, node), made)


RESIZES = (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)  # fmt: skip


@handles(*RESIZES)
def _resize(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name.removeprefix("aten::")
    x = reader.plain(node.args[0])
    shape = reader.shape(x)
    numbers = []
    for key in [key for key in a if key not in ("self", "input")]:
        value = _plain(reader.number(a[key]))
        if isinstance(value, tuple):
            value = tuple(None if isinstance(n, str) else n for n in value)
        numbers.append((key, value))
    smooth = "cubic" not in kind
    op = Slicewise(
        f"resize {kind}", ((0, 0), (1, 1)), tuple(numbers), linear=True, keeps=smooth, zero=True,
        hull=smooth,
    )  # fmt: skip
    return reader.emit(op, [x], _name(reader, node), (*shape[:2], *reader.seen(node)[2:]))


# Sums over an axis ----------------------------------------------------------------------------------------------

CONVOLUTIONS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution",
)  # fmt: skip


@handles(*CONVOLUTIONS)
def _conv(reader: TorchReader, node: Any, a: Arguments) -> Result:
    kind = node.target._schema.name
    x, w = reader.plain(a["input"]), reader.value(a["weight"])
    shape, weight = reader.shape(x), reader.shape(w)
    groups = int(reader.number(a["groups"]))
    transposed = "transpose" in kind or bool(a.get("transposed"))
    k = len(weight) - 2
    if not reader.is_constant(w) or len(shape) != k + 2:
        raise NotUnderstood("weights that are computed, or an input without a batch axis")
    sizes = [int(n) for n in weight]
    if isinstance(a["padding"], str):
        padding: Any = a["padding"]
        wide = any(n > 1 for n in sizes[2:])
        padded = padding != "valid" and wide
    else:
        padding = _pair(tuple(reader.whole(a["padding"])), k)
        padded = any(padding)
    stride, dilation = (_pair(tuple(reader.whole(a[key])), k) for key in ("stride", "dilation"))
    extra = _pair(tuple(reader.whole(a["output_padding"])), k) if transposed else ()
    detail = (stride, padding, dilation, extra)
    if transposed:
        if groups not in (1, sizes[0]) or (groups > 1 and sizes[1] != 1):
            raise NotUnderstood("a transposed convolution with groups")
        channels = sizes[1] * groups
        # one channel for each group: rows and groups are the same axis
        columns, rows = (0, 1) if groups == 1 else (1, 0)
        op = Linear(1, 1, columns, rows, groups, False, False, ((0, 0),), ("transposed", *detail))
    else:
        channels = sizes[0]
        if shape[1] != sizes[1] * groups or channels % groups:
            raise NotUnderstood(f"channels {shape[1]}, weights {weight} and {groups} groups")
        op = Linear(1, 1, 1, 0, groups, padded, True, ((0, 0),), ("conv", *detail))
    made = (shape[0], channels, *reader.seen(node)[2:])
    return _with_bias(reader, node, op, x, w, a["bias"], made, 1)


def _with_bias(
    reader: TorchReader,
    node: Any,
    op: Linear,
    x: Value,
    w: Value,
    bias: Any,
    shape: Shape,
    axis: int,
) -> Value:
    name = _name(reader, node)
    if bias is None:
        return reader.emit(op, [x, w], name, shape)
    b = reader.value(bias)
    if reader.is_constant(b) and reader.shape(b) == (shape[axis],):
        return reader.emit(op, [x, w, b], name, shape)
    product = reader.emit(op, [x, w], f"{name}:product", shape)
    if axis != len(shape) - 1:
        b = reader.reshaped(b, (shape[axis], *[1] * (len(shape) - axis - 1)), f"{name}:bias")
    return _apply(reader, node, "add", [product, b])


@handles("linear")
def _linear(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, w = reader.value(a["input"]), reader.value(a["weight"])
    if len(reader.shape(w)) != 2:
        raise NotUnderstood("weights that are no matrix")
    if not reader.is_constant(w):
        turned = _transposed(reader, w, (1, 0), f"{_name(reader, node)}:turned")
        bias = None if a["bias"] is None else reader.value(a["bias"])
        name = _name(reader, node)
        product = _product(reader, x, turned, name if bias is None else f"{name}:product")
        return product if bias is None else _apply(reader, node, "add", [product, bias])
    return _dense(reader, node, x, w, a["bias"], 1, 0)


def _dense(
    reader: TorchReader, node: Any, x: Value, w: Value, bias: Any, columns: int, rows: int
) -> Value:
    if x.groups is not None and len(x.groups[-1]) > 1:
        x = reader.plain(x)
    shape = reader.shape(x)
    out = reader.shape(w)[rows]
    last = len(shape) - 1
    free = tuple((axis, axis) for axis in range(last))
    op = Linear(last, last, columns, rows, free=free)
    made = _with_bias(reader, node, op, x, w, bias, (*shape[:-1], out), last)
    return Value(made.name, x.groups)


@handles("addmm", "baddbmm")
def _addmm(reader: TorchReader, node: Any, a: Arguments) -> Result:
    first, second = (a["mat1"], a["mat2"]) if "mat1" in a else (a["batch1"], a["batch2"])
    if reader.number(a["beta"]) != 1 or reader.number(a["alpha"]) != 1:
        raise NotUnderstood("a product with factors")
    x, w = reader.value(first), reader.value(second)
    if "mat1" in a and reader.is_constant(w) and not reader.is_constant(x):
        return _dense(reader, node, x, w, a["self"], 0, 1)
    product = _product(reader, x, w, f"{_name(reader, node)}:product")
    return _apply(reader, node, "add", [product, reader.value(a["self"])])


@handles("matmul", "mm", "bmm")
def _matmul(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, w = (reader.value(v) for v in node.args[:2])
    first, second = reader.shape(x), reader.shape(w)
    if min(len(first), len(second)) < 2 or not (reader.floating(x) and reader.floating(w)):
        raise NotUnderstood("a product with a vector, or of integers")
    if reader.is_constant(w) and not reader.is_constant(x) and len(second) == 2:
        return _dense(reader, node, x, w, None, 0, 1)
    if reader.is_constant(x) and not reader.is_constant(w) and len(first) == 2:
        w = reader.plain(w)
        second = reader.shape(w)
        rank = len(second)
        free = tuple((axis, axis) for axis in range(rank) if axis != rank - 2)
        op = Linear(rank - 2, rank - 2, 1, 0, free=free)
        made = (*second[:-2], first[0], second[-1])
        return reader.emit(op, [w, x], _name(reader, node), made)
    return _product(reader, x, w, _name(reader, node))


def _product(reader: TorchReader, a: Value, b: Value, name: str) -> Value:
    """A product of matrices, both computed."""
    groups = None
    if a.groups is not None or b.groups is not None:
        alike = a.groups is not None and a.groups == b.groups
        if alike and a.groups is not None and all(len(group) == 1 for group in a.groups[-2:]):
            groups = a.groups
        else:
            a, b = reader.plain(a), reader.plain(b)
    first, second = reader.shape(a), reader.shape(b)
    if min(len(first), len(second)) < 2:
        raise NotUnderstood("a product with a vector")
    rank = max(len(first), len(second)) - 2
    heads: list[int | str] = []
    for back in range(-rank - 2, -2):
        sizes = {shape[back] for shape in (first, second) if -back <= len(shape)} - {1}
        if len(sizes) > 1:
            raise NotUnderstood(f"shapes {first} and {second} do not broadcast")
        heads.append(sizes.pop() if sizes else 1)
    made = reader.emit(Contract(), [a, b], name, (*heads, first[-2], second[-1]))
    return Value(made.name, groups)


@handles("scaled_dot_product_attention")
def _attention(reader: TorchReader, node: Any, a: Arguments) -> Result:
    """softmax(scale q k^T + mask) v."""
    if a["dropout_p"]:
        raise NotUnderstood("it drops at random")
    q, k, v = (reader.plain(a[key]) for key in ("query", "key", "value"))
    name = _name(reader, node)
    shape, keys = reader.shape(q), reader.shape(k)
    if a.get("enable_gqa") and shape[-3] != keys[-3]:
        k, v = (_repeated(reader, x, shape[-3], f"{name}:{key}") for x, key in ((k, "k"), (v, "v")))
        keys = reader.shape(k)
    order = (*range(len(keys) - 2), len(keys) - 1, len(keys) - 2)
    turned = _transposed(reader, k, order, f"{name}:turned")
    scores = _product(reader, q, turned, f"{name}:products")
    if a["scale"] is None:
        # one over the root of the size of an axis: the module computes it of what it gets
        scale = reader.made_of_sizes(f"{name}:scale", [(q, len(shape) - 1)], "1 / root")
    else:
        scale = reader.number_of(f"{name}:scale", float(a["scale"]), True)
    scores = _apply(reader, node, "mul", [scores, scale], name=f"{name}:scaled")
    least = reader.number_of(f"{name}:least", -math.inf, True)
    if a["is_causal"]:
        rows, columns = shape[-2], keys[-2]
        if isinstance(rows, int) and isinstance(columns, int):
            seen = reader.keep(f"{name}:causal", np.tri(rows, columns, dtype=bool), False)
        else:
            ends = [(q, len(shape) - 2), (k, len(keys) - 2)]
            tensors = list(dict.fromkeys((q, k)))
            axes = tuple((tensors.index(x), axis) for x, axis in ends)
            triangle = Size(axes, "lower triangle")
            seen = reader.emit(triangle, tensors, f"{name}:causal", (rows, columns), False)
        scores = _apply(reader, node, "where", [seen, scores, least], name=f"{name}:causally")
    if a["attn_mask"] is not None:
        mask = reader.plain(a["attn_mask"])
        masked = f"{name}:masked"
        if reader.floating(mask):
            scores = _apply(reader, node, "add", [scores, mask], name=masked)
        else:
            scores = _apply(reader, node, "where", [mask, scores, least], name=masked)
    made = reader.shape(scores)
    free = tuple((axis, axis) for axis in range(len(made) - 1))
    op = Slicewise("softmax", free, (len(made) - 1,))
    weights = reader.emit(op, [scores], f"{name}:weights", made)
    return _product(reader, weights, v, name)


def _repeated(reader: TorchReader, x: Value, heads: int | str, name: str) -> Value:
    """Each head of keys or values for several heads of queries in a row."""
    shape = reader.shape(x)
    own, axis = shape[-3], len(shape) - 3
    if not isinstance(own, int) or not isinstance(heads, int) or heads % own:
        raise NotUnderstood(f"{heads} heads of queries for {own} of keys")
    index = tuple(k // (heads // own) for k in range(heads))
    made = (*shape[:axis], heads, *shape[axis + 1 :])
    return reader.emit(Take(axis, index), [x], name, made)


# Indices --------------------------------------------------------------------------------------------------------


def _transposed(reader: TorchReader, x: Value, order: Sequence[int], name: str) -> Value:
    """Axes in another order, those that torch sees."""
    if list(order) == list(range(len(order))):
        return x
    groups = x.groups or tuple((axis,) for axis in range(len(order)))
    inner = tuple(axis for k in order for axis in groups[k])
    shape = reader.shape(x)
    made = reader.emit(
        Transpose(inner), [x], name, tuple(shape[k] for k in inner), reader.floating(x)
    )
    if x.groups is None:
        return made
    found, start = list[tuple[int, ...]](), 0
    for k in order:
        found.append(tuple(range(start, start + len(groups[k]))))
        start += len(groups[k])
    return Value(made.name, tuple(found))


@handles("permute", "transpose", "t", "numpy_T", "swapaxes", "swapdims", "movedim", "moveaxis",
         "adjoint", "mT", "matrix_H")  # fmt: skip
def _permute(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.value(node.args[0])
    rank = _rank(reader, x)
    kind = node.target._schema.name.removeprefix("aten::")
    order = list(range(rank))
    if kind == "permute":
        order = [axis_of(axis, rank) for axis in reader.whole(a["dims"])]
    elif kind in ("transpose", "swapaxes", "swapdims"):
        first, second = (axis_of(n, rank) for n in list(a.values())[1:3])
        order[first], order[second] = second, first
    elif kind in ("movedim", "moveaxis"):
        source, target = (
            [axis_of(axis, rank) for axis in reader.whole(n)] for n in list(a.values())[1:3]
        )
        order = [axis for axis in order if axis not in source]
        for to, axis in sorted(zip(target, source, strict=True)):
            order.insert(to, axis)
    elif kind in ("adjoint", "mT", "matrix_H"):
        order[-2:] = order[:-3:-1]
    else:
        order = order[::-1]
    return _transposed(reader, x, order, _name(reader, node))


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel",
         "view_as", "reshape_as", "_reshape_alias", "view_copy")  # fmt: skip
def _view(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if str(node.meta["val"].dtype) != str(node.args[0].meta["val"].dtype):
        raise NotUnderstood("the same bits as other numbers")
    return reader.reshaped(reader.value(node.args[0]), reader.seen(node), _name(reader, node))


@handles("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def _shuffle(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, name = reader.plain(node.args[0]), _name(reader, node)
    shape = reader.shape(x)
    kind = node.target._schema.name.removeprefix("aten::")
    n, c, *positions = shape
    if not isinstance(c, int) or not all(isinstance(p, int) for p in positions):
        raise NotUnderstood("sizes that are not known")
    if kind == "channel_shuffle":
        g = int(a["groups"])
        wide, order = (n, g, c // g, *positions), [0, 2, 1, *range(3, 3 + len(positions))]
    elif len(shape) != 4:
        raise NotUnderstood("an input without a batch axis")
    elif kind == "pixel_shuffle":
        r = int(a["upscale_factor"])
        wide, order = (n, c // r**2, r, r, *positions), [0, 1, 4, 2, 5, 3]
    else:
        r = int(a["downscale_factor"])
        h, w = (int(p) // r for p in positions)
        wide, order = (n, c, h, r, w, r), [0, 1, 3, 5, 2, 4]
    x = reader.reshaped(x, wide, f"{name}:split")
    x = _transposed(reader, x, order, f"{name}:turned")
    return reader.reshaped(x, reader.seen(node), name)


@handles("cat", "concat", "concatenate", "stack")
def _concat(reader: TorchReader, node: Any, a: Arguments) -> Result:
    stacked = node.target._schema.name == "aten::stack"
    values = [reader.plain(x) for x in a["tensors"]]
    seen, name = reader.seen(node), _name(reader, node)
    axis = axis_of(reader.number(a["dim"]), len(seen))
    if stacked:
        wide = (*seen[:axis], 1, *seen[axis + 1 :])
        values = [reader.reshaped(x, wide, f"{name}:{k}") for k, x in enumerate(values)]
    elif any(len(reader.shape(x)) != len(seen) for x in values):
        raise NotUnderstood("an empty part")  # of one axis, as torch allows
    return reader.emit(Concat(axis), values, name, seen, _floats(node))


@handles("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk",
         "unsafe_split", "split_copy", "unbind_copy")  # fmt: skip
def _split(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, axis = _at(reader, a["self"], reader.number(a["dim"]))
    shape = reader.shape(x)
    drop = node.target._schema.name.startswith("aten::unbind")
    if not isinstance(shape[axis], int):
        raise NotUnderstood("parts of an axis of unknown size")
    if drop:
        x = reader.plain(x)
        axis = axis_of(reader.number(a["dim"]), len(reader.shape(x)))
        shape = reader.shape(x)
    seen_axis = axis_of(reader.number(a["dim"]), _rank(reader, x))
    found: list[Value | None] = []
    start, name = 0, _name(reader, node)
    for k, part in enumerate(node.meta["val"]):
        n = 1 if drop else reader.size(part.shape[seen_axis])
        assert isinstance(n, int)
        made = (*shape[:axis], *([] if drop else [n]), *shape[axis + 1 :])
        op = Take(axis, tuple(range(start, start + n)), drop)
        value = reader.emit(op, [x], name if k == 0 else f"{name}:{k}", made, _floats(node))
        found.append(Value(value.name, x.groups))
        start += n
    return tuple(found)


@handles("slice", "narrow")
def _slice(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, axis = _at(reader, a["self"], reader.number(a["dim"]))
    shape = reader.shape(x)
    n = shape[axis]
    start, step = reader.number(a["start"]) or 0, reader.number(a.get("step", 1))
    end = reader.number(a["end"]) if "end" in a else None
    if "length" in a:
        end = start + reader.number(a["length"]) if isinstance(start, int) else None
    whole = end is None or end == n or (isinstance(end, int) and end >= 2**31 - 1)
    if start == 0 and whole and step == 1 and "length" not in a:
        return x
    name = _name(reader, node)
    if isinstance(n, int) and isinstance(start, int) and (end is None or isinstance(end, int)):
        index = tuple(range(n)[slice(start, end, step)])
        made = (*shape[:axis], len(index), *shape[axis + 1 :])
        return Value(reader.emit(Take(axis, index), [x], name, made, _floats(node)).name, x.groups)
    x = reader.plain(x)
    axis = axis_of(reader.number(a["dim"]), len(reader.shape(x)))
    free = tuple((k, k) for k in range(len(reader.shape(x))) if k != axis)
    numbers = (axis, str(start), str(end), step)
    op = Slicewise("slice", free, numbers, linear=True, keeps=True, zero=True, hull=True)
    return reader.emit(op, [x], name, reader.seen(node), _floats(node))


@handles("select")
def _select(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x = reader.plain(a["self"])
    shape, name = reader.shape(x), _name(reader, node)
    axis, index = axis_of(reader.number(a["dim"]), len(shape)), reader.number(a["index"])
    n = shape[axis]
    made = (*shape[:axis], *shape[axis + 1 :])
    if isinstance(n, int) and isinstance(index, int):
        return reader.emit(Take(axis, (index % n,), True), [x], name, made, _floats(node))
    free = tuple((k, k - (k > axis)) for k in range(len(shape)) if k != axis)
    op = Slicewise(
        "select", free, (axis, str(index)), linear=True, keeps=True, zero=True, hull=True
    )
    return reader.emit(op, [x], name, made, _floats(node))


@handles("flip", "roll")
def _moved(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, name = reader.plain(a["self"]), _name(reader, node)
    shape = reader.shape(x)
    axes = [axis_of(axis, len(shape)) for axis in reader.whole(a["dims"])]
    if not axes:
        raise NotUnderstood("it rolls the entries")
    shifts = reader.whole(a["shifts"]) if "shifts" in a else [0] * len(axes)
    for k, (axis, shift) in enumerate(zip(axes, shifts, strict=True)):
        n = shape[axis]
        if not isinstance(n, int):
            raise NotUnderstood("an axis of unknown size")
        index = np.roll(np.arange(n), shift) if "shifts" in a else np.arange(n)[::-1]
        last = name if k == len(axes) - 1 else f"{name}:{k}"
        x = reader.emit(Take(axis, tuple(index.tolist())), [x], last, shape, _floats(node))
    return x


@handles("index_select", "embedding")
def _gather(reader: TorchReader, node: Any, a: Arguments) -> Result:
    table = a.get("weight") if "weight" in a else a["self"]
    ids = a["indices"] if "indices" in a else a["index"]
    axis = 0 if "weight" in a else reader.number(a["dim"])
    return _taken(reader, node, reader.plain(table), ids, axis)


@handles("index")
def _index(reader: TorchReader, node: Any, a: Arguments) -> Result:
    places = [k for k, x in enumerate(a["indices"]) if x is not None]
    if len(places) != 1:
        raise NotUnderstood("several indices at once")
    ids = a["indices"][places[0]]
    if not str(ids.meta["val"].dtype).startswith("torch.int"):
        raise NotUnderstood("a mask as an index")
    return _taken(reader, node, reader.plain(a["self"]), ids, places[0])


def _taken(reader: TorchReader, node: Any, table: Value, ids: Any, axis: int) -> Value:
    """table[ids] along an axis."""
    shape, name = reader.shape(table), _name(reader, node)
    axis = axis_of(axis, len(shape))
    chosen, n, known = reader.plain(ids), shape[axis], reader.folded.get(ids)
    count = len(reader.shape(chosen))
    made = (*shape[:axis], *reader.shape(chosen), *shape[axis + 1 :])
    if known is not None and isinstance(n, int) and count <= 1:
        index = [int(i) + n if i < 0 else int(i) for i in known.reshape(-1).tolist()]
        if not all(0 <= i < n for i in index):
            raise NotUnderstood(f"it takes an index outside of {n}")
        op = Take(axis, tuple(index), count == 0)
        return reader.emit(op, [table], name, made, _floats(node))
    if reader.is_constant(table):
        return reader.emit(Lookup(axis), [table, chosen], name, made, _floats(node))
    free = tuple((k, k + (count - 1) * (k > axis)) for k in range(len(shape)) if k != axis)
    numbers = (axis, count)
    gather = Slicewise("gather", free, numbers, linear=True, keeps=True, zero=True, hull=True)
    return reader.emit(gather, [table, chosen], name, made, _floats(node))


@handles("repeat_interleave")
def _repeat_each(reader: TorchReader, node: Any, a: Arguments) -> Result:
    if reader.is_tensor(a["repeats"]) or a.get("dim") is None:
        raise NotUnderstood("numbers of repetitions that are computed")
    x = reader.plain(a["self"])
    shape = reader.shape(x)
    axis, times = axis_of(a["dim"], len(shape)), reader.number(a["repeats"])
    n = shape[axis]
    if not isinstance(n, int) or not isinstance(times, int):
        raise NotUnderstood("an axis of unknown size")
    index = tuple(k // times for k in range(n * times))
    made = (*shape[:axis], n * times, *shape[axis + 1 :])
    return reader.emit(Take(axis, index), [x], _name(reader, node), made, _floats(node))


@handles("expand", "expand_as", "broadcast_to")
def _expand(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, seen = reader.plain(node.args[0]), reader.seen(node)
    if reader.shape(x) == seen:
        return x
    sizes = tuple(n if isinstance(n, int) else None for n in seen)
    return reader.emit(Broadcast(sizes), [x], _name(reader, node), seen, _floats(node))


@handles("repeat", "tile")
def _repeat(reader: TorchReader, node: Any, a: Arguments) -> Result:
    x, seen, name = reader.plain(node.args[0]), reader.seen(node), _name(reader, node)
    shape = reader.shape(x)
    if len(shape) < len(seen):
        wide = (*[1] * (len(seen) - len(shape)), *shape)
        x = reader.reshaped(x, wide, f"{name}:wide")
        shape = wide
    if all(n == m or n == 1 for n, m in zip(shape, seen, strict=True)):
        sizes = tuple(n if isinstance(n, int) else None for n in seen)
        return reader.emit(Broadcast(sizes), [x], name, seen, _floats(node))
    times = reader.whole(a["repeats"] if "repeats" in a else a["dims"])
    times = [1] * (len(seen) - len(times)) + times
    free = tuple((axis, axis) for axis, r in enumerate(times) if r == 1)
    op = Slicewise("tile", free, tuple(times), linear=True, keeps=True, zero=True, hull=True)
    return reader.emit(op, [x], name, seen, _floats(node))


@handles("full", "zeros", "ones", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones",
         "new_full")  # fmt: skip
def _filled(reader: TorchReader, node: Any, a: Arguments) -> Result:
    """One number in each entry of a tensor of unknown size."""
    kind, name, floats = node.target._schema.name, _name(reader, node), _floats(node)
    value = reader.number(a["fill_value"]) if "full" in kind else int("ones" in kind)
    if not isinstance(value, (int, float)):
        raise NotUnderstood("a number that is computed")
    seen = reader.seen(node)
    sizes = tuple(n if isinstance(n, int) else None for n in seen)
    number = reader.number_of(f"{name}:number", value, floats)
    return reader.emit(Broadcast(sizes), [number], name, seen, floats)
