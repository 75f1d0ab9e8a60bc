"""What a random graph is made of: plain steps, which a reader of dense networks reads, and odd
ones, which it may not.

A step takes a graph and the name of its data and gives the name of what it made of it. It may fail
with `Rejected` at any place; nothing of it is kept then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import BFLOAT16, INTEGERS, Graph, Rejected, kind_of

Build = Callable[[Graph, str], str]


@dataclass(frozen=True)
class Step:
    """A way to go on: its name, how it is built, how often it is taken, and how many axes its data
    has at least.
    """

    name: str
    build: Build
    weight: float
    axes: int = 0


PLAIN: dict[str, Step] = {}
ODD: dict[str, Step] = {}


def odd(weight: float = 1.0, axes: int = 1) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        name = build.__name__.strip("_")
        ODD[name] = Step(name, build, weight, axes)
        return build

    return keep


def plain(weight: float = 1.0, axes: int = 0) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        name = build.__name__.strip("_")
        PLAIN[name] = Step(name, build, weight, axes)
        return build

    return keep


# Dense layers and what commonly stands between them -------------------------------------------------------------


def flat(g: Graph, x: str) -> str:
    """One row of numbers for each sample."""
    shape = g.shape(x)
    if g.batch is None:
        size = math.prod(shape)
        return x if shape == (1, size) else g.reshape(x, g.pick(((1, size), (1, -1))))
    if len(shape) == 2:
        return x
    if len(shape) < 2:
        return g.reshape(x, (g.leading(), math.prod(shape[1:])))
    if g.chance(0.5):
        return str(g.node("Flatten", x, axis=g.pick((None, 1, 1 - len(shape)))))
    if g.chance(0.2):
        return by_shape(g, x)
    size = math.prod(shape[1:])
    lead = g.leading()
    return g.reshape(x, (lead, size if lead == -1 else g.pick((size, -1))))


def by_shape(g: Graph, x: str) -> str:
    """Flattened as torch exports `x.view(x.size(0), -1)`."""
    count = str(g.node("Gather", g.node("Shape", x), g.const(np.array(0)), axis=0))
    rest = g.const(np.array([-1]))
    return str(g.node("Reshape", x, g.node("Concat", g.unsqueeze(count, [0]), rest, axis=0)))


def row(g: Graph, n: int) -> Any:
    """A vector in a shape that broadcasts along the last axis."""
    return g.dyadic(g.weighted({(n,): 6, (1, n): 3, (): 1, (1,): 1}))


@plain(6)
def _dense(g: Graph, x: str) -> str:
    x = flat(g, x)
    n, m = g.shape(x)[-1], g.integer(1, 5)
    weight, bias = g.dyadic((n, m)), g.dyadic((m,))
    if g.chance(0.5):
        turned = g.chance(0.6)
        stored = g.const(weight.T if turned else weight)
        return str(g.node("Gemm", x, stored, g.const(bias), transB=1 if turned else None))
    y = str(g.node("MatMul", x, g.const(weight)))
    if g.chance(0.8):
        ends = [y, g.const(bias)]
        g.rng.shuffle(ends)
        y = str(g.node("Add", *ends))
    return y


@plain(1)
def _whole_convolution(g: Graph, x: str) -> str:
    x = flat(g, x)
    n, m = g.shape(x)[-1], g.integer(1, 4)
    window = g.pick([(k,) for k in range(1, n + 1) if n % k == 0] + [(1, 1)])
    channels = n // math.prod(window)
    image = g.reshape(x, (g.leading() or -1, channels, *window))
    y = g.node("Conv", image, g.const(g.dyadic((m, channels, *window))), g.const(g.dyadic((m,))))
    return flat(g, y)


COMMON = {
    "Relu": {}, "Tanh": {}, "Sigmoid": {}, "Abs": {}, "Sin": {}, "Erf": {}, "Softplus": {},
    "LeakyRelu": {"alpha": (None, 0.25, 0.0, -0.5, 1.0, 2.0)},
    "Gelu": {"approximate": (None, "none", "tanh")}, "Elu": {"alpha": (None, 1.0, 0.5)},
    "HardSwish": {}, "Mish": {},
    "HardSigmoid": {"alpha": (None, 0.25, 1.0), "beta": (None, 0.5, 0.0)}, "Selu": {},
}  # fmt: skip


@plain(6)
def _activation(g: Graph, x: str) -> str:
    op = "Relu" if g.chance(0.4) else g.pick(COMMON)
    return str(g.node(op, x, attributes=g.some(COMMON[op])))


@plain(1, axes=1)
def _affine(g: Graph, x: str) -> str:
    n = g.shape(x)[-1]
    y = g.node("Mul", x, g.const(row(g, n)))
    return str(g.node(g.pick(("Add", "Sub")), y, g.const(row(g, n))))


@plain(1)
def _batch_norm(g: Graph, x: str) -> str:
    if g.rank(x) < 2:
        raise Rejected("has no channels")
    n = g.shape(x)[1]
    # a power of two as variance plus epsilon, so that the fold is exact
    parts = [g.dyadic((n,)), g.dyadic((n,)), g.dyadic((n,)), g.pick(([0.25], [1.0], [4.0])) * n]
    return str(
        g.node(
            "BatchNormalization",
            x,
            *[g.const(part) for part in parts],
            epsilon=g.pick((None, 0.0, 1e-5, 1e-3)),
        )
    )


@plain(1, axes=1)
def _nothing(g: Graph, x: str) -> str:
    op = g.pick(("Identity", "Dropout", "Reshape", "Squeeze", "Transpose"))
    rank = g.rank(x)
    if op == "Reshape":
        return g.reshape(x, [0] * rank)
    if op == "Squeeze":
        return g.squeeze(g.unsqueeze(x, [rank]), [rank])
    if op == "Transpose":
        return str(g.node(op, x, perm=list(range(rank))))
    return str(g.node(op, x))


@plain(0.5)
def _clip(g: Graph, x: str) -> str:
    return clipped(g, x, *g.pick(((0.0, None), (0.0, 6.0), (-1.0, 1.0))))


def clipped(g: Graph, x: str, low: float | None, high: float | None) -> str:
    if g.opset < 11:
        return str(g.node("Clip", x, min=low, max=high))
    ends = ["" if end is None else g.const(np.array(end)) for end in (low, high)]
    while ends and not ends[-1]:
        ends.pop()
    return str(g.node("Clip", x, *ends))


# Types ----------------------------------------------------------------------------------------------------------


@odd(2, axes=0)
def _cast_and_back(g: Graph, x: str) -> str:
    to = g.pick(
        (
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "bool",
            "float16",
            "float64",
            "bfloat16",
            "float32",
        )
    )
    if to == "bfloat16":
        return g.cast(g.cast(x, BFLOAT16), g.dtype)
    if to == "uint8":
        x = str(g.node("Abs", x))
    y = g.cast(x, to)
    if to == "float16" and g.chance(0.3):
        y = str(g.node("Add", y, g.const(g.dyadic(()), to)))
    return g.cast(y, g.dtype)


@odd(1, axes=0)
def _cast_like(g: Graph, x: str) -> str:
    to = g.pick(("int8", "int32", "int64", "bool", "float16", "float64", "float32"))
    y = g.node("CastLike", x, g.const(np.zeros(g.pick(((), (1,), (2,))), to)))
    if g.chance(0.5):
        return str(g.node("CastLike", y, g.const(np.ones((), g.dtype))))
    return g.cast(y, g.dtype)


@odd(1, axes=0)
def _quantised_data(g: Graph, x: str) -> str:
    zero = g.const(np.array(g.integer(-5, 5), g.pick(("int8",))))
    scale = g.const(np.array(0.125, np.float32))
    return str(g.node("DequantizeLinear", g.node("QuantizeLinear", x, scale, zero), scale, zero))


@odd(2, axes=0)
def _integer_constant(g: Graph, x: str) -> str:
    """Integers (or halves) are computed, wrap or round, and then scale or shift the data."""
    dtype = g.pick((*INTEGERS, "float16", "float16"))
    size = g.pick(((), (1,), (g.shape(x)[-1] if g.rank(x) else 1,)))

    def numbers() -> str:
        if dtype == "float16":
            return g.const(g.rng.uniform(-2, 2, size), dtype)
        most = 100 if dtype.endswith("int8") else 400
        return g.const(g.rng.integers(0 if dtype.startswith("u") else -most, most, size), dtype)

    total = numbers()
    for _ in range(g.integer(1, 3)):
        op = g.pick(
            (
                "Add",
                "Mul",
                "Sub",
                "Max",
                "Min",
                "Neg",
                "Abs",
                "Div",
                "Pow",
                "Mod",
                "Cast",
                "Cast",
                "Cast",
            )
        )
        if op in ("Neg", "Abs"):
            total = g.node(op, total)
        elif op == "Cast":  # among integers, which wraps, or to numbers that hold all of them
            narrow = g.pick(
                ("float32", "float16")
                if dtype == "float16"
                else (*INTEGERS, *INTEGERS, "bool", "float32")
            )
            total = g.cast(total, narrow)
            dtype = dtype if narrow in ("bool", "float32") else narrow
            total = g.cast(total, dtype) if narrow in ("bool", "float32") else total
        elif op in ("Div", "Mod"):
            divisor = g.const(np.full(size, g.pick((2, 3, 7, 10))), dtype)
            total = g.node(
                op, total, divisor, fmod=1 if op == "Mod" and dtype == "float16" else None
            )
        elif op == "Pow":
            total = g.node(op, total, g.const(np.array(2), dtype))
        else:
            total = g.node(op, total, numbers())
        g.value(total)
    number = g.cast(total, g.dtype)
    if g.value(number).size and np.abs(g.value(number)).max() > 100:
        number = g.node("Mul", number, g.const(np.array(2.0**-10)))
    return str(g.node(g.pick(("Add", "Mul", "Sub", "Max")), x, number))


# Shapes of data -------------------------------------------------------------------------------------------------


def dimension(g: Graph, x: str, k: int) -> str:
    """One size of a tensor, as a vector of one integer."""
    if g.opset >= 15 and g.chance(0.3):
        return str(g.node("Shape", x, start=k, end=k + 1))
    sizes = g.node("Shape", x)
    if g.opset >= 10 and g.chance(0.3):
        return str(g.node("Slice", sizes, *[g.const(np.array([v])) for v in (k, k + 1, 0)]))
    if g.chance(0.5):
        return str(g.node("Gather", sizes, g.const(np.array([k])), axis=0))
    return g.unsqueeze(g.node("Gather", sizes, g.const(np.array(k))), [0])


@odd(2, axes=0)
def _reshape_by_shape(g: Graph, x: str) -> str:
    shape = g.shape(x)
    parts = [
        dimension(g, x, k) if g.chance(0.6) else g.const(np.array([n])) for k, n in enumerate(shape)
    ]
    if len(parts) > 1 and g.chance(0.5):
        last, former = parts.pop(), parts.pop()
        parts.append(g.node("Mul", former, last))
    if g.chance(0.3):
        parts.insert(g.integer(0, len(parts)), g.const(np.array([1])))
    if g.chance(0.3):
        parts[g.integer(0, len(parts) - 1)] = g.const(np.array([-1]))
    if g.chance(0.15):
        g.rng.shuffle(parts)
    return str(g.node("Reshape", x, g.node("Concat", *parts, axis=0)))


@odd(1.5)
def _count_as_number(g: Graph, x: str) -> str:
    """A size becomes a number that the data meets."""
    rank = g.rank(x)
    op = g.pick(("Shape", "Shape", "Size"))
    if op == "Size":
        count = g.node("Size", x)
    else:
        count = g.squeeze(
            dimension(g, x, g.integer(0, max(0, rank - 1)) if g.chance(0.5) else 0), None
        )
    for _ in range(g.integer(0, 2)):
        number = g.const(np.array(g.integer(1, 4)))
        count = g.node(g.pick(("Add", "Sub", "Mul", "Div", "Mod")), count, number)
    if g.chance(0.3):  # zero for one sample and for three
        one, three = (g.node("Sub", count, g.const(np.array(n))) for n in (1, 3))
        count = g.node("Mul", one, three)
    number = g.cast(count, g.dtype)
    scaled = g.node("Mul", number, g.const(np.array(0.125)))
    return str(g.node(g.pick(("Add", "Mul", "Sub", "Max")), x, scaled))


@odd(1)
def _made_of_shape(g: Graph, x: str) -> str:
    """A constant as large as the data, or a range of it."""
    sizes = g.node("Shape", x)
    kind = g.pick(("ConstantOfShape", "Expand", "Range", "Tile"))
    if kind == "ConstantOfShape":
        value = numpy_helper.from_array(g.dyadic((1,)).astype(g.dtype), "value")
        other = g.node(kind, sizes, value=value)
    elif kind == "Expand":
        other = g.node(kind, g.const(row(g, g.shape(x)[-1] if g.rank(x) else 1)), sizes)
    elif kind == "Tile":
        other = g.node(kind, g.const(g.dyadic((1,) * g.rank(x))), sizes)
    else:
        axis = g.integer(0, max(0, g.rank(x) - 1))
        count = g.squeeze(dimension(g, x, axis), [0])
        other = g.cast(g.node(kind, g.const(np.array(0)), count, g.const(np.array(1))), g.dtype)
        if axis < g.rank(x) - 1:
            other = g.unsqueeze(other, list(range(1, g.rank(x) - axis)))
    return str(g.node(g.pick(("Add", "Mul", "Max")), x, other))


# Broadcasting ---------------------------------------------------------------------------------------------------


def odd_shape(g: Graph, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that meets another: with axes of it missing, of size one, larger, or more axes."""
    out = [n if g.chance(0.5) else 1 for n in shape]
    out = out[g.integer(0, len(out)) :] if g.chance(0.5) else out
    if g.chance(0.35):
        out = [g.pick((1, 1, 1, 2, 3))] * g.integer(1, 2) + [*([1] * (len(shape) - len(out))), *out]
    if out and g.chance(0.2):
        out[g.integer(0, len(out) - 1)] = g.integer(1, 4)
    return tuple(out)


@odd(3)
def _broadcast(g: Graph, x: str) -> str:
    shape = g.shape(x)
    op = g.pick(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow", "Add", "Mul"))
    array = g.dyadic(odd_shape(g, shape), zero=op != "Div")
    if op == "Pow":
        array = np.asarray(g.pick((1.0, 2.0, 3.0, 0.0))) * np.ones(array.shape)
        return str(g.node(op, x, g.const(array)))
    if g.opset < 7 and op in ("Add", "Sub", "Mul", "Div"):
        return str(g.node(op, x, g.const(array), broadcast=1, axis=g.pick((None, 0, 1))))
    ends = [x, g.const(array)]
    if g.chance(0.4):
        ends.reverse()
    if op in ("Max", "Min", "Sum", "Mean") and g.chance(0.4):
        ends.insert(g.integer(0, 2), g.pick((x, g.const(g.dyadic(odd_shape(g, shape))))))
    if op in ("Max", "Min", "Sum") and g.chance(0.1):
        ends = ends[:1]
    if op == "Div" and ends[0] != x:
        ends.reverse()
    return str(g.node(op, *ends))


@odd(0.7, axes=0)
def _maximum(g: Graph, x: str) -> str:
    """A ReLU as a maximum with zeros of all shapes, in either order."""
    zero = np.zeros(odd_shape(g, g.shape(x)))
    if g.chance(0.2):
        zero = zero + g.pick((1e-4, -0.0, 0.125, -np.inf))
    ends = [x, g.const(zero)]
    g.rng.shuffle(ends)
    return str(g.node(g.pick(("Max", "Max", "Min")), *ends))


@odd(0.7)
def _expand(g: Graph, x: str) -> str:
    if g.chance(0.6):
        return str(g.node("Expand", x, g.const(np.array(odd_shape(g, g.shape(x)), dtype=np.int64))))
    repeats = [g.pick((1, 1, 1, 2)) for _ in g.shape(x)]
    return str(g.node("Tile", x, g.const(np.array(repeats, dtype=np.int64))))


# Gates ----------------------------------------------------------------------------------------------------------


def number(g: Graph, value: float) -> str:
    """A number of a shape that may add axes; rarely a slightly wrong one."""
    if g.chance(0.1):
        value = value * (1 + g.pick((1e-7, 1e-6, -1e-6, 1e-5, 1e-4, -1e-3, 1e-2)))
    shape = g.weighted({(): 5, (1,): 3, (1, 1): 1.5, (1, 1, 1): 1.5, (3,): 0.3})
    stored = g.const(np.full(shape, value))
    if g.chance(0.05):
        stored = g.cast(
            g.const(np.full(shape, value), g.pick(("float16", "float64", "int64"))), g.dtype
        )
    return stored


def product(g: Graph, *factors: str) -> str:
    """All factors, in any order and association."""
    left = list(factors)
    g.rng.shuffle(left)
    while len(left) > 1:
        a, b = left.pop(g.integer(0, len(left) - 1)), left.pop()
        left.append(g.node("Mul", a, b))
    return left[0]


def passed(g: Graph, x: str) -> str:
    """The same value, rarely through a cast or an identity."""
    if g.chance(0.92):
        return x
    if g.chance(0.4):
        return str(g.node("Identity", x))
    between = g.pick(("float64", "float32", "float16", "int32", "bool"))
    return g.cast(g.cast(x, between), g.dtype)


@odd(3, axes=0)
def _sigmoid_gate(g: Graph, x: str) -> str:
    form = g.weighted(
        {"plain": 4, "twice": 2, "scaled": 2, "other": 1, "numbers": 2, "squared": 1, "sum": 1}
    )
    x = passed(g, x)
    inner = x
    if form == "scaled":
        inner = g.node("Mul", x, number(g, g.pick((1.702, 1.0, 2.0))))
    if form == "other":
        inner = g.node("Neg", x)
    gate = passed(
        g, str(g.node(g.pick(("Sigmoid", "Sigmoid", "Sigmoid", "HardSigmoid", "Tanh")), inner))
    )
    if form == "twice":
        again = gate if g.chance(0.6) else g.node("Sigmoid", x)
        return product(g, x, gate, again)
    if form == "numbers":
        return product(g, x, gate, number(g, 0.5), *([number(g, 2.0)] if g.chance(0.3) else []))
    if form == "squared":
        return product(g, x, x, gate)
    if form == "sum":
        return str(g.node("Add", product(g, x, gate), gate))
    return product(g, x, gate)


@odd(2, axes=0)
def _gelu_by_erf(g: Graph, x: str) -> str:
    x = passed(g, x)
    if g.chance(0.5):
        inner = g.node("Div", x, number(g, math.sqrt(2)))
    else:
        inner = product(g, x, number(g, math.sqrt(0.5)))
    error = passed(g, str(g.node(g.weighted({"Erf": 9, "Tanh": 1}), inner)))
    ends = [error, number(g, 1.0)]
    g.rng.shuffle(ends)
    gate = g.node(g.weighted({"Add": 9, "Sub": 1}), *ends)
    return halved(g, x, gate)


def halved(g: Graph, x: str, gate: str) -> str:
    """x gate / 2, or nearly: gate twice, x twice, no half."""
    form = g.weighted({"half": 8, "none": 1, "gate twice": 1, "x twice": 1, "division": 1})
    if form == "half":
        return product(g, x, gate, number(g, 0.5))
    if form == "division":
        return str(g.node("Div", product(g, x, gate), number(g, 2.0)))
    more = {"none": [], "gate twice": [gate, number(g, 0.5)], "x twice": [x, number(g, 0.5)]}[form]
    return product(g, x, gate, *more)


@odd(1.5, axes=0)
def _gelu_by_tanh(g: Graph, x: str) -> str:
    cube = g.node("Pow", x, number(g, 3.0)) if g.chance(0.5) else product(g, x, x, x)
    ends = [x, product(g, cube, number(g, 0.044715))]
    g.rng.shuffle(ends)
    inner = product(g, g.node("Add", *ends), number(g, math.sqrt(2 / math.pi)))
    ends = [passed(g, str(g.node("Tanh", inner))), number(g, 1.0)]
    g.rng.shuffle(ends)
    return halved(g, x, g.node("Add", *ends))


@odd(1.5, axes=0)
def _spelled(g: Graph, x: str) -> str:
    """Other activations by their formulas."""
    form = g.pick(
        (
            "softplus",
            "mish",
            "hardswish",
            "relu",
            "where",
            "sigmoid",
            "abs",
            "square",
            "softsign",
            "leaky",
            "relu6",
        )
    )
    if form == "softplus":
        ends = [g.node("Exp", x), number(g, 1.0)]
        g.rng.shuffle(ends)
        return str(g.node("Log", g.node("Add", *ends)))
    if form == "mish":
        return product(g, x, g.node("Tanh", g.node("Softplus", x)))
    if form == "hardswish":
        return product(g, x, g.node("HardSigmoid", x, alpha=g.pick((1 / 6, 0.1666, 0.2)), beta=0.5))
    if form == "relu":
        return product(g, x, g.cast(g.node("Greater", x, number(g, 0.0)), g.dtype))
    if form == "where":
        test = g.node(g.pick(("Greater", "Less")), x, number(g, 0.0))
        return str(g.node("Where", test, x, g.pick((number(g, 0.0), g.node("Neg", x)))))
    if form == "sigmoid":
        return str(
            g.node("Reciprocal", g.node("Add", g.node("Exp", g.node("Neg", x)), number(g, 1.0)))
        )
    if form == "abs":
        return str(g.node("Max", x, g.node("Neg", x)))
    if form == "softsign":
        return str(g.node("Div", x, g.node("Add", g.node("Abs", x), number(g, 1.0))))
    if form == "leaky":
        return str(g.node("Max", x, g.node("Mul", x, number(g, 0.125))))
    if form == "relu6":
        inner = clipped(g, g.node("Add", x, number(g, 3.0)), 0.0, 6.0)
        return str(g.node("Div", product(g, x, inner), number(g, 6.0)))
    return product(g, x, x)


# Activations ----------------------------------------------------------------------------------------------------

RARE = {
    "Elu": {"alpha": (None, 0.25, 2.0, -1.0, 0.0)},
    "Selu": {"alpha": (None, 0.5), "gamma": (None, 0.5, 2.0)}, "Celu": {"alpha": (None, 0.5, 2.0)},
    "HardSigmoid": {"alpha": (None, 0.25, 1.0, -0.5), "beta": (None, 0.25, 2.0)}, "HardSwish": {},
    "Mish": {}, "Softsign": {}, "Softplus": {}, "Erf": {}, "Cos": {}, "Sin": {}, "Neg": {},
    "Sign": {}, "Floor": {}, "Ceil": {}, "Round": {}, "Exp": {}, "Atan": {}, "Sinh": {},
    "Asinh": {}, "Tan": {}, "ThresholdedRelu": {"alpha": (None, 0.0, 0.5)},
    "Shrink": {"bias": (None, 0.25), "lambd": (None, 0.25)},
    "Swish": {"alpha": (None, 1.0, 1.702)}, "Gelu": {"approximate": (None, "tanh")},
    "LeakyRelu": {"alpha": (None, 0.01, -1.0, 0.0, 1.0, 1.5)},
}  # fmt: skip


@odd(4, axes=0)
def _rare_activation(g: Graph, x: str) -> str:
    op = g.pick(RARE)
    return str(g.node(op, x, attributes=g.some(RARE[op])))


@odd(2)
def _prelu(g: Graph, x: str) -> str:
    shape = g.shape(x)
    slope = odd_shape(g, shape)
    if g.chance(0.4):
        slope = g.pick(((), (1,), shape[-1:], shape[1:2], (1, *shape[1:])))
    array = g.dyadic(slope) if g.chance(0.7) else np.full(slope, g.pick((0.25, 0.0, 1.0, -0.5)))
    return str(g.node("PRelu", x, g.const(array)))


@odd(2, axes=0)
def _clip_forms(g: Graph, x: str) -> str:
    ends = (None, 0.0, 1.0, 6.0, -1.0, 0.5, -0.5, math.inf, -math.inf)
    return clipped(g, x, g.pick(ends), g.pick(ends))


@odd(1, axes=0)
def _after_abs(g: Graph, x: str) -> str:
    """Functions of positive numbers."""
    positive = g.node("Add", g.node("Abs", x), number(g, 1.0))
    op = g.pick(("Sqrt", "Log", "Reciprocal", "Pow"))
    if op == "Pow":
        return str(g.node(op, positive, g.const(np.array(g.pick((0.5, 2.0, 1.5, 1.0, 0.0, -1.0))))))
    return str(g.node(op, positive))


@odd(3)
def _softmax(g: Graph, x: str) -> str:
    rank = g.rank(x)
    op = g.pick(("Softmax", "Softmax", "Softmax", "LogSoftmax", "Hardmax"))
    axis = g.pick([None, -1, *range(-rank, rank)])
    return str(g.node(op, x, axis=axis))


# Products -------------------------------------------------------------------------------------------------------


@odd(3)
def _gemm(g: Graph, x: str) -> str:
    x = flat(g, x) if g.rank(x) != 2 else x
    rows, n = g.shape(x)
    m = g.integer(1, 4)
    factors = (None, None, 1.0, 0.5, -1.0, 0.0, 2.0)
    attributes: dict[str, Any] = g.some({"alpha": factors, "beta": factors})
    role = g.weighted({"A": 6, "A turned": 1, "B": 1, "C": 1})
    if role == "C":
        a, b = g.const(g.dyadic((rows, 2))), g.const(g.dyadic((2, n)))
        return str(g.node("Gemm", a, b, x, attributes=attributes))
    if role == "B":
        turned = g.chance(0.5)
        a = g.const(g.dyadic((m, n if turned else rows)))
        return str(g.node("Gemm", a, x, transB=1 if turned else None, attributes=attributes))
    turned = g.chance(0.5)
    inner, outer = (rows, n) if role == "A turned" else (n, rows)
    b = g.const(g.dyadic((m, inner) if turned else (inner, m)))
    shapes = [(), (1,), (m,), (1, m), (outer, m), (outer, 1), (1, 1), None]
    c = g.pick(shapes)
    ends = [x, b] if c is None else [x, b, g.const(g.dyadic(c))]
    attributes |= {"transA": 1} if role == "A turned" else {}
    attributes |= {"transB": 1} if turned else {}
    return str(g.node("Gemm", *ends, attributes=attributes))


@odd(3)
def _matmul(g: Graph, x: str) -> str:
    shape = g.shape(x)
    if not shape:
        raise Rejected("has no axes")
    more = g.pick(((), (), (1,), (2,), (1, 1), (1, 2)))
    if g.chance(0.6):
        own = g.pick(
            ((shape[-1],), (shape[-1], g.integer(1, 3)), (*more, shape[-1], g.integer(1, 3)))
        )
        return str(g.node("MatMul", x, g.const(g.dyadic(own))))
    inner = shape[-2] if len(shape) > 1 else shape[0]
    own = g.pick(((inner,), (g.integer(1, 3), inner), (*more, g.integer(1, 3), inner)))
    return str(g.node("MatMul", g.const(g.dyadic(own)), x))


@odd(1)
def _einsum(g: Graph, x: str) -> str:
    n = g.shape(x)[-1]
    forms = {
        2: ("bi,ij->bj", "bi,ij->jb", "bi,ij->b", "bi,ij->j"),
        3: ("bci,ij->bcj", "bci,ij->bjc", "bci,ij->cbj"),
    }
    form = g.pick(forms.get(g.rank(x), ()))
    return str(g.node("Einsum", x, g.const(g.dyadic((n, 2))), equation=form))


def image(g: Graph, x: str, axes: int) -> str:
    """Channels and an image in place of a row."""
    x = flat(g, x)
    n = g.shape(x)[-1]
    sizes = [
        [c, h, n // (c * h)] for c in range(1, n + 1) for h in range(1, n + 1) if n % (c * h) == 0
    ]
    sizes = [size for size in sizes if axes == 2 or size[1] == 1]
    chosen = max(g.pick(sizes), g.pick(sizes), key=lambda size: math.prod(size[1:]))
    kept = chosen if axes == 2 else [chosen[0], chosen[2]]
    lead = g.leading()
    return g.reshape(x, (-1 if lead == 0 and not g.batch else lead, *kept))


def windows(g: Graph, window: Sequence[int], *, dilations: bool = True) -> dict[str, Any]:
    """Attributes of a window that moves."""
    k = len(window)
    found: dict[str, Any] = {}
    if g.chance(0.4):
        found["pads"] = [g.integer(0, 1) for _ in range(2 * k)]
    elif g.chance(0.2):
        found["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"))
    if g.chance(0.3):
        found["strides"] = [g.integer(1, 2) for _ in range(k)]
    if dilations and g.chance(0.2):
        found["dilations"] = [g.integer(1, 2) for _ in range(k)]
    return found


@odd(2)
def _convolution(g: Graph, x: str) -> str:
    axes = g.integer(1, 2)
    x = image(g, x, axes)
    _, channels, *sizes = g.shape(x)
    window = [g.integer(1, min(3, n)) if g.chance(0.7) else n for n in sizes]
    group = channels if g.chance(0.2) else 1
    out = g.integer(1, 2) * group
    turned = g.chance(0.25)
    kernel = (channels, out // group, *window) if turned else (out, channels // group, *window)
    attributes = windows(g, window)
    attributes |= {"group": group} if group > 1 or g.chance(0.1) else {}
    attributes |= {"kernel_shape": window} if g.chance(0.5) else {}
    ends = [x, g.const(g.dyadic(kernel))] + ([g.const(g.dyadic((out,)))] if g.chance(0.7) else [])
    y = str(g.node("ConvTranspose" if turned else "Conv", *ends, attributes=attributes))
    return y if g.chance(0.3) else flat(g, y)


@odd(1)
def _pooling(g: Graph, x: str) -> str:
    x = image(g, x, g.integer(1, 2))
    _, _, *sizes = g.shape(x)
    op = g.pick(
        ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "AveragePool")
    )
    if op.startswith("Global"):
        return flat(g, g.node(op, x))
    window = [g.integer(1, min(2, n)) for n in sizes]
    attributes = {"kernel_shape": window, **windows(g, window, dilations=False)}
    if op == "AveragePool" and g.chance(0.4):
        attributes["count_include_pad"] = 1
    if g.chance(0.1):
        attributes["ceil_mode"] = 1
    return flat(g, g.node(op, x, attributes=attributes))


# Normalisation --------------------------------------------------------------------------------------------------


@odd(2)
def _odd_batch_norm(g: Graph, x: str) -> str:
    if g.rank(x) < 2:
        raise Rejected("has no channels")
    n = g.shape(x)[1]
    variance = np.abs(g.dyadic((n,))) + g.pick((0.0, 0.25, 1.0, 1e-3))
    parts = [g.dyadic((n,)), g.dyadic((n,)), g.dyadic((n,)), variance]
    attributes = g.some({"epsilon": (None, 1e-5, 0.25, 1e-3, 1.0), "momentum": (None, 0.9)})
    if g.opset < 9 and g.chance(0.3):
        attributes["spatial"] = g.integer(0, 1)
    if g.opset >= 14 and g.chance(0.1):
        attributes["training_mode"] = 1
    if g.chance(0.05):
        attributes["epsilon"] = g.pick((0.0, -0.125))
    return str(
        g.node("BatchNormalization", x, *[g.const(part) for part in parts], attributes=attributes)
    )


@odd(1.5)
def _other_norm(g: Graph, x: str) -> str:
    op = g.pick(
        (
            "LayerNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "LpNormalization",
            "MeanVarianceNormalization",
            "LRN",
        )
    )
    shape = g.shape(x)
    if op in ("LayerNormalization", "RMSNormalization"):
        axis = g.integer(0, len(shape) - 1)
        ends = [x, g.const(g.dyadic(shape[axis:]))]
        ends += (
            [g.const(g.dyadic(shape[axis:]))]
            if op == "LayerNormalization" and g.chance(0.6)
            else []
        )
        return str(
            g.node(
                op,
                *ends,
                axis=g.pick((axis, axis - len(shape))),
                epsilon=g.pick((None, 0.25, 1e-3)),
            )
        )
    if op == "LpNormalization":
        return str(g.node(op, x, p=g.integer(1, 2), axis=g.integer(-1, len(shape) - 1)))
    if op in ("MeanVarianceNormalization", "LRN"):
        x = image(g, x, 2)
        attributes: dict[str, Any] = {"size": g.pick((1, 3))} if op == "LRN" else {}
        return flat(g, g.node(op, x, attributes=attributes))
    x = image(g, x, 1)
    channels = g.shape(x)[1]
    ends = [x, g.const(g.dyadic((channels,))), g.const(g.dyadic((channels,)))]
    extra: dict[str, Any] = {"num_groups": channels} if op == "GroupNormalization" else {}
    return flat(g, g.node(op, *ends, epsilon=g.pick((None, 0.25)), attributes=extra))


@odd(2)
def _reduce(g: Graph, x: str) -> str:
    op = g.pick(
        (
            "ReduceSum",
            "ReduceSum",
            "ReduceMean",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    )
    rank = g.rank(x)
    count = g.weighted({1: 6, 2: 1, None: 1, 0: 0.5})
    axes = None if count is None else [g.integer(-rank, rank - 1) for _ in range(min(count, rank))]
    attributes: dict[str, Any] = {"keepdims": 0} if g.chance(0.4) else {}
    since = 13 if op == "ReduceSum" else 18
    if g.opset >= since and g.chance(0.15):
        attributes["noop_with_empty_axes"] = 1
    return g.axes(op, x, axes, since, **attributes)


@odd(0.7)
def _along(g: Graph, x: str) -> str:
    """Running sums, triangles, orders and places."""
    rank = g.rank(x)
    op = g.pick(("CumSum", "Trilu", "TopK", "ArgMax"))
    if op == "CumSum":
        axis = g.const(np.array(g.integer(-rank, rank - 1)))
        return str(g.node(op, x, axis, exclusive=g.pick((None, 1)), reverse=g.pick((None, 1))))
    if op == "Trilu":
        return str(g.node(op, x, upper=g.pick((None, 0))))
    axis_of = g.integer(0, rank - 1)
    if op == "TopK":
        if g.opset < 10:
            raise Rejected("k is an attribute")
        count = g.const(np.array([g.integer(1, g.shape(x)[axis_of])]))
        return str(g.node(op, x, count, axis=axis_of, outputs=2)[g.integer(0, 1)])
    return str(g.node(op, x, axis=axis_of))


# Rearrangements -------------------------------------------------------------------------------------------------


def factored(g: Graph, n: int) -> list[int]:
    """Sizes with a product."""
    sizes = []
    while n > 1 and len(sizes) < 4 and g.chance(0.7):
        k = g.pick([k for k in range(1, n + 1) if n % k == 0])
        sizes.append(k)
        n //= k
    return [*sizes, n]


@odd(3, axes=0)
def _reshape(g: Graph, x: str) -> str:
    shape = g.shape(x)
    lead, rest = (shape[0], shape[1:]) if shape else (1, ())
    form = g.weighted({"rest": 5, "all": 2, "zeros": 1, "allowzero": 0.5})
    if form == "rest":
        target = [g.leading(), *factored(g, math.prod(rest))]
        if target[0] != -1 and g.chance(0.3):
            target[g.integer(1, len(target) - 1)] = -1
        return g.reshape(x, target)
    if form == "all":
        target = factored(g, math.prod(shape))
        if g.chance(0.5):
            target[g.integer(0, len(target) - 1)] = -1
        return g.reshape(x, target)
    if form == "zeros":
        return g.reshape(x, [0 if g.chance(0.5) else n for n in shape])
    return g.reshape(x, [lead, *rest], allowzero=1)


@odd(2)
def _transpose(g: Graph, x: str) -> str:
    rank = g.rank(x)
    if rank < 3 and g.chance(0.6):
        x = image(g, x, g.integer(1, 2))
        rank = g.rank(x)
    order = [int(k) for k in g.rng.permutation(rank)]
    if g.chance(0.5):
        order = [0, *[k for k in order if k]]
    return str(g.node("Transpose", x, perm=None if g.chance(0.2) else order))


@odd(1.5, axes=0)
def _axes_added(g: Graph, x: str) -> str:
    rank = g.rank(x)
    if g.chance(0.6):
        count = g.integer(1, 2)
        total = rank + count
        axes = sorted({g.integer(0, total - 1) for _ in range(count)})
        return g.unsqueeze(x, [a - rank - len(axes) if g.chance(0.3) else a for a in axes])
    ones = [k for k, n in enumerate(g.shape(x)) if n == 1]
    return g.squeeze(x, None if g.chance(0.3) else [g.pick(ones)])


@odd(1, axes=0)
def _flatten(g: Graph, x: str) -> str:
    rank = g.rank(x)
    return str(g.node("Flatten", x, axis=g.integer(-rank if g.opset >= 11 else 0, rank)))


@odd(3)
def _slice(g: Graph, x: str) -> str:
    shape = g.shape(x)
    axes = sorted({g.integer(0, len(shape) - 1) for _ in range(g.integer(1, 2))})
    starts, ends, steps = [], [], []
    for axis in axes:
        n = shape[axis]
        step = g.weighted({1: 6, 2: 1, -1: 2, -2: 0.5})
        start, end = g.integer(-n, n), g.pick((n, g.integer(-n, n), 2**31 - 1, 2**63 - 1, 100))
        if step < 0:
            start, end = (
                g.pick((n - 1, -1, 100, start)),
                g.pick((-(2**31), -(2**63), -100, end, -n - 1)),
            )
        if g.chance(0.5):
            start, end = (0, end) if step > 0 else (start, end)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    named = [a - len(shape) if g.chance(0.3) else a for a in axes]
    if g.opset < 10:
        return str(g.node("Slice", x, starts=starts, ends=ends, axes=named))
    given = [starts, ends, named] + ([steps] if g.chance(0.8) else [])
    kind = g.pick(("int64", "int64", "int32"))
    if kind == "int32":
        given = [[max(-(2**31), min(2**31 - 1, v)) for v in part] for part in given]
    parts = [g.const(np.array(part, dtype=kind)) for part in given]
    if axes == list(range(len(axes))) and g.chance(0.2):
        parts[2] = ""
    while parts[-1] == "":
        parts.pop()
    return str(g.node("Slice", x, *parts))


@odd(1)
def _cut_by_shape(g: Graph, x: str) -> str:
    """A slice up to a size of the data, or what stands at its last place."""
    axis = 0 if g.chance(0.5) else g.integer(0, g.rank(x) - 1)
    size = dimension(g, x, axis)
    if g.chance(0.3):
        size = g.node(g.pick(("Sub", "Div")), size, g.const(np.array([g.integer(1, 2)])))
    if g.chance(0.6) and g.opset >= 10:
        start = g.const(np.array([0]))
        ends = [start, size] if g.chance(0.7) else [size, g.const(np.array([2**31 - 1]))]
        return str(g.node("Slice", x, *ends, g.const(np.array([g.pick((axis, 0))]))))
    last = g.node("Sub", size, g.const(np.array([1])))
    return str(g.node("Gather", x, last, axis=axis))


@odd(1)
def _by_sequence(g: Graph, x: str) -> str:
    axis = g.integer(0, g.rank(x) - 1)
    parts = g.node("SplitToSequence", x, axis=axis)
    if g.chance(0.5):
        return str(g.node("SequenceAt", parts, g.const(np.array(0))))
    return str(g.node("ConcatFromSequence", parts, axis=axis))


@odd(1)
def _second_output(g: Graph, x: str) -> str:
    """An output that is not the first, or both."""
    op = g.pick(("Dropout", "MaxPool", "LayerNormalization", "BatchNormalization"))
    if op == "Dropout":
        made = g.node(op, x, outputs=2)
    elif op == "MaxPool":
        x = image(g, x, 1)
        made = g.node(op, x, kernel_shape=[g.integer(1, min(2, g.shape(x)[-1]))], outputs=2)
    elif op == "LayerNormalization":
        made = g.node(op, x, g.const(g.dyadic(g.shape(x)[-1:])), outputs=2)
    else:
        n = g.shape(x)[1] if g.rank(x) > 1 else 1
        parts = [g.const(v) for v in (g.dyadic((n,)), g.dyadic((n,)), g.dyadic((n,)), np.ones(n))]
        made = g.node(op, x, *parts, outputs=3, training_mode=1)
    return str(made[0] if g.chance(0.3) else made[1])


@odd(3)
def _gather(g: Graph, x: str) -> str:
    shape = g.shape(x)
    axis = g.integer(0, len(shape) - 1)
    n = shape[axis]
    form = g.weighted({"permutation": 3, "some": 3, "one": 2, "table": 1, "elements": 1, "nd": 1})
    if form == "nd":
        places = g.rng.integers(0, shape[0], (g.integer(1, 2), 1))
        deep = 1 if g.chance(0.5) and len(shape) > 1 and g.opset >= 12 else None
        if deep:
            places = g.rng.integers(0, shape[1], (shape[0], 1))
        return str(g.node("GatherND", x, g.const(places), batch_dims=deep))
    if form == "elements":
        places = g.rng.integers(-n, n, [g.integer(1, m) for m in shape])
        return str(g.node("GatherElements", x, g.const(places), axis=axis))
    if form == "permutation":
        places = g.rng.permutation(n)
    elif form == "one":
        places = np.array(g.integer(-n, n - 1))
    else:
        places = g.rng.integers(
            -n, n, (g.integer(1, 4),) if form == "some" else (2, g.integer(1, 2))
        )
    kind = g.pick(("int64", "int32"))
    return str(
        g.node("Gather", x, g.const(places, kind), axis=axis if axis or g.chance(0.5) else None)
    )


@odd(2)
def _split(g: Graph, x: str) -> str:
    shape = g.shape(x)
    axis = g.integer(0, len(shape) - 1) if g.chance(0.3) else len(shape) - 1
    n = shape[axis]
    if n < 2:
        raise Rejected("is not cut")
    cut = g.integer(1, n - 1)
    sizes = [cut, n - cut] if g.chance(0.7) or n < 3 else [1, n - 2, 1]
    named = axis - len(shape) if g.chance(0.3) and g.opset >= 11 else axis
    if g.chance(0.3):
        parts = g.node("Split", x, axis=named, outputs=2, num_outputs=2 if g.opset >= 18 else None)
    elif g.opset < 13:
        parts = g.node("Split", x, axis=named, split=sizes, outputs=len(sizes))
    else:
        parts = g.node("Split", x, g.const(np.array(sizes)), axis=named, outputs=len(sizes))
    form = g.pick(("one", "one", "back", "sum", "glu"))
    if form == "one":
        return str(g.pick(parts))
    if form == "back":
        order = list(parts)
        g.rng.shuffle(order)
        return str(g.node("Concat", *order, axis=axis))
    if form == "sum":
        return str(g.node("Add", *parts[:2]))
    return str(g.node("Mul", parts[0], g.node("Sigmoid", parts[1])))


@odd(2.5)
def _concat(g: Graph, x: str) -> str:
    shape = g.shape(x)
    axis = g.integer(0, len(shape) - 1) if g.chance(0.3) else len(shape) - 1
    form = g.weighted({"itself": 2, "constant": 2, "branch": 4, "three": 1})
    named = axis - len(shape) if g.chance(0.3) and g.opset >= 11 else axis
    if form == "constant":
        own = [*shape]
        own[axis] = g.integer(1, 2)
        ends = [x, g.const(g.dyadic(own))]
    elif form == "branch":
        ends = [x, branch(g, x)]
    else:
        ends = [x, branch(g, x), x] if form == "three" else [x, x]
    g.rng.shuffle(ends)
    return str(g.node("Concat", *ends, axis=named))


def branch(g: Graph, x: str) -> str:
    """Something else made of the same data, in the same shape."""
    form = g.pick(("act", "dense", "scale", "neg", "same"))
    n = g.shape(x)[-1]
    if form == "dense":
        y = str(g.node("MatMul", x, g.const(g.dyadic((n, n)))))
        return g.node("Relu", y) if g.chance(0.5) else y
    if form == "scale":
        return str(g.node("Mul", x, g.const(g.dyadic((n,)))))
    if form == "same":
        return str(g.node("Identity", x))
    return str(g.node(g.pick(("Relu", "Tanh", "Abs")) if form == "act" else "Neg", x))


@odd(1)
def _pad(g: Graph, x: str) -> str:
    rank = g.rank(x)
    pads = [0] * (2 * rank)
    for _ in range(g.integer(1, 2)):
        pads[g.integer(0, 2 * rank - 1)] = g.pick((1, 1, 2, -1))
    mode = g.weighted({None: 5, "constant": 1, "edge": 1, "reflect": 1, "wrap": 0.5})
    if g.opset < 11:
        return str(g.node("Pad", x, pads=pads, mode=mode, value=g.pick((None, 0.0, 0.5))))
    ends = [g.const(np.array(pads))] + (
        [g.const(np.array(g.pick((0.0, 0.5))))] if g.chance(0.5) else []
    )
    return str(g.node("Pad", x, *ends, mode=mode))


@odd(1)
def _where(g: Graph, x: str) -> str:
    shape = odd_shape(g, g.shape(x))
    truth = np.asarray(g.rng.random(shape) < 0.5)
    ends = [x, g.const(g.dyadic(odd_shape(g, g.shape(x)) if g.chance(0.3) else ()))]
    if g.chance(0.4):
        ends.reverse()
    return str(g.node("Where", g.const(truth), *ends))


@odd(0.7)
def _scatter(g: Graph, x: str) -> str:
    shape = g.shape(x)
    form = g.pick(("ScatterElements", "ScatterND", "Compress", "DepthToSpace", "Resize"))
    if form == "ScatterElements":
        axis = g.integer(0, len(shape) - 1)
        own = [1] * len(shape)
        places = g.rng.integers(0, shape[axis], own)
        return str(g.node(form, x, g.const(places), g.const(g.dyadic(own)), axis=axis))
    if form == "ScatterND":
        return str(g.node(form, x, g.const(np.array([[0]])), g.const(g.dyadic((1, *shape[1:])))))
    if form == "Compress":
        axis = g.integer(0, len(shape) - 1)
        return str(g.node(form, x, g.const(g.rng.random(shape[axis]) < 0.7), axis=axis))
    x = image(g, x, 2)
    if form == "DepthToSpace":
        op = g.pick((form, "SpaceToDepth"))
        return flat(
            g,
            g.node(
                op, x, blocksize=g.pick((1, 2)), mode=g.pick((None, "CRD")) if op == form else None
            ),
        )
    if g.opset < 11:
        raise Rejected("has another form")
    scales = g.const(np.array([1, 1, 2, 1]), np.float32)
    empty = "" if g.opset >= 13 else g.const(np.zeros(0), np.float32)
    return flat(g, g.node("Resize", x, empty, scales, mode="nearest"))


# Several paths --------------------------------------------------------------------------------------------------


@odd(2)
def _residual(g: Graph, x: str) -> str:
    ends = [x, branch(g, x)]
    g.rng.shuffle(ends)
    return str(
        g.node(
            g.weighted({"Add": 4, "Sub": 2, "Mul": 1, "Max": 1, "Min": 1, "Sum": 1, "Mean": 0.5}),
            *ends,
        )
    )


@odd(2)
def _low_rank(g: Graph, x: str) -> str:
    """x W + (x A) B: an adapter that was not merged."""
    x = flat(g, x)
    n, m, r = g.shape(x)[-1], g.integer(1, 4), g.integer(1, 2)
    base = g.node("Gemm", x, g.const(g.dyadic((n, m))), g.const(g.dyadic((m,))))
    low = g.node(
        "MatMul", g.node("MatMul", x, g.const(g.dyadic((n, r)))), g.const(g.dyadic((r, m)))
    )
    if g.chance(0.5):
        low = g.node("Mul", low, number(g, 0.5))
    return str(g.node("Add", base, low))


@odd(2)
def _dueling(g: Graph, x: str) -> str:
    """V + A - mean(A)."""
    x = flat(g, x)
    n, m = g.shape(x)[-1], g.integer(2, 4)
    axis = g.weighted({1: 6, -1: 3, 0: 1})
    value = g.node("Gemm", x, g.const(g.dyadic((n, 1))), g.const(g.dyadic((1,))))
    advantage = g.node("Gemm", x, g.const(g.dyadic((n, m))), g.const(g.dyadic((m,))))
    keep = 1 if g.chance(0.85) else 0
    mean = g.axes(
        g.weighted({"ReduceMean": 8, "ReduceMax": 1}), advantage, [axis], 18, keepdims=keep
    )
    if g.chance(0.5):
        return str(g.node("Sub", g.node("Add", value, advantage), mean))
    return str(g.node("Add", value, g.node("Sub", advantage, mean)))


@odd(1)
def _two_heads(g: Graph, x: str) -> str:
    x = flat(g, x)
    n = g.shape(x)[-1]
    heads = []
    for _ in range(2):
        m = g.integer(1, 2)
        head = str(g.node("Gemm", x, g.const(g.dyadic((n, m))), g.const(g.dyadic((m,)))))
        heads.append(str(g.node(g.pick(("Tanh", "Relu", "Sigmoid", "Identity", "Softmax")), head)))
    return str(g.node("Concat", *heads, axis=1))


@odd(1)
def _attention(g: Graph, x: str) -> str:
    shape = g.shape(x)
    if g.chance(0.5):
        return str(g.node("Mul", x, g.node("Softmax", x, axis=len(shape) - 1)))
    turned = g.node("Transpose", x)
    return str(g.node("MatMul", g.node("MatMul", x, turned), x))


@odd(0.7)
def _after_inputs(g: Graph, x: str) -> str:
    """A second input, of the shape of the data."""
    name = g.name("other")
    g.values[name] = np.ones(g.shape(x), g.dtype)
    dims = list(g.shape(x))
    g.declared[name] = helper.make_tensor_value_info(name, kind_of(g.dtype), dims)
    return str(g.node("Add", x, name)) if g.chance(0.3) else x


# Other domains, subgraphs, functions ----------------------------------------------------------------------------


@odd(1)
def _sklearn(g: Graph, x: str) -> str:
    ml = "ai.onnx.ml"
    n = g.shape(x)[-1]
    op = g.pick(
        (
            "Scaler",
            "Scaler",
            "Scaler",
            "Normalizer",
            "LinearRegressor",
            "LinearClassifier",
            "Binarizer",
            "Imputer",
        )
    )
    x = flat(g, x) if g.chance(0.8) else x
    if op == "Scaler":
        size = g.pick((n, n, 1))
        offset, scale = g.dyadic((size,)).tolist(), g.dyadic((g.pick((size, n, 1)),)).tolist()
        return str(
            g.node(
                op, x, domain=ml, attributes=g.some({"offset": (offset, None), "scale": (scale,)})
            )
        )
    if op == "Normalizer":
        return str(g.node(op, x, domain=ml, norm=g.pick(("MAX", "L1", "L2"))))
    if op == "LinearRegressor":
        m = g.integer(1, 2)
        weights = g.dyadic((m * n,)).tolist()
        more = {"intercepts": g.dyadic((m,)).tolist()} if g.chance(0.7) else {}
        after = g.weighted({None: 6, "NONE": 2, "LOGISTIC": 1, "SOFTMAX": 1})
        return str(
            g.node(
                op,
                x,
                domain=ml,
                coefficients=weights,
                targets=m,
                post_transform=after,
                attributes=more,
            )
        )
    if op == "LinearClassifier":
        m = g.integer(1, 3)
        weights, more = g.dyadic((m * n,)).tolist(), {"intercepts": g.dyadic((m,)).tolist()}
        labels = list(range(max(2, m)))
        after = g.pick((None, "NONE", "LOGISTIC", "SOFTMAX"))
        made = g.node(
            op,
            x,
            domain=ml,
            coefficients=weights,
            classlabels_ints=labels,
            post_transform=after,
            outputs=2,
            attributes=more,
        )
        if g.chance(0.4):
            return str(g.node("Normalizer", made[1], domain=ml, norm="L1"))
        return str(made[1] if g.chance(0.8) else made[0])
    if op == "Binarizer":
        return str(g.node(op, x, domain=ml, threshold=0.25))
    return str(
        g.node(
            op,
            x,
            domain=ml,
            imputed_value_floats=[0.0],
            replaced_value_float=g.pick((0.5, math.nan)),
        )
    )


@odd(1)
def _branches(g: Graph, x: str) -> str:
    """If, the branches of which read the data or constants."""
    graphs = []
    for _ in range(2):
        name = g.name("b")
        op = g.pick(("Relu", "Neg", "Identity", "Abs"))
        source = x if g.chance(0.6) else g.const(g.dyadic(g.shape(x)), plain=True)
        end = helper.make_tensor_value_info(name, kind_of(g.dtype), None)
        graphs.append(
            helper.make_graph([helper.make_node(op, [source], [name])], g.name("branch"), [], [end])
        )
    if g.chance(0.6):
        test = g.const(np.array(g.chance(0.5)))
    elif g.chance(0.5):
        rank = g.const(np.array(g.pick((1, 2))))
        sizes = g.node("Shape", g.node("Shape", x))
        test = g.squeeze(g.node("Equal", sizes, rank), None)
    else:
        count = g.node("Gather", g.node("Shape", x), g.const(np.array(0)))
        test = g.node("Equal", count, g.const(np.array(1)))
    return str(g.node("If", test, then_branch=graphs[0], else_branch=graphs[1]))


@odd(0.7)
def _function(g: Graph, x: str) -> str:
    """A function that the model defines, under a name of its own or that of something else."""
    domain = g.pick(("local", "local", "com.microsoft", ""))
    name = g.pick(("Block", "Relu", "Gemm", "Tanh"))
    if any(f.name == name for f in g.functions):
        raise Rejected("is defined already")
    op = g.pick(("Tanh", "Neg", "Abs"))
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node(op, ["b"], ["c"])]
    if g.chance(0.5):
        body = [helper.make_node(op, ["a"], ["c"])]
    imports = [helper.make_opsetid("", g.opset)]
    g.functions.append(helper.make_function(domain, name, ["a"], ["c"], body, imports))
    return str(g.node(name, x, domain=domain))


@odd(0.7)
def _contributed(g: Graph, x: str) -> str:
    """What onnxruntime adds to ONNX, some of it under the same names."""
    own = "com.microsoft"
    op = g.pick(("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "FusedMatMul", "FusedGemm"))
    n = g.shape(x)[-1]
    if op == "BiasGelu":
        return str(g.node(op, x, g.const(g.dyadic((n,))), domain=own))
    if op == "QuickGelu":
        return str(g.node(op, x, domain=own, alpha=g.pick((None, 1.0))))
    if op == "FusedMatMul":
        return str(
            g.node(
                op, x, g.const(g.dyadic((2, n))), domain=own, transB=1, alpha=g.pick((None, 0.5))
            )
        )
    if op == "FusedGemm":
        x = flat(g, x)
        weight = g.const(g.dyadic((g.shape(x)[-1], 2)))
        return str(g.node(op, x, weight, domain=own, activation=g.pick(("Relu", "Tanh"))))
    return str(g.node(op, x, domain=own))


@odd(0.5)
def _loop(g: Graph, x: str) -> str:
    """Scan or Loop, a few times."""
    ends = [
        helper.make_tensor_value_info("trip", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", kind_of(g.dtype), None),
    ]
    body = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node(g.pick(("Relu", "Neg", "Tanh")), ["state"], ["next"]),
    ]
    outs = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", kind_of(g.dtype), None),
    ]
    graph = helper.make_graph(body, g.name("body"), ends, outs)
    trips = g.const(np.array(g.integer(0, 2)))
    return str(g.node("Loop", trips, g.const(np.array(True)), x, body=graph))
