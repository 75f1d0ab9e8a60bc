"""Random small ONNX graphs with planted redundancy and traps, against the kernel of graphs.

Each graph is read, reduced, written and read again. Then

- the sizes that the reader works out are those of the values;
- what is said to be known of slices holds for the values at random inputs;
- the certificate holds, as an object and as text;
- the reduced file computes what the file does, by `onnx.reference` in 64 bits: exactly where all
  arithmetic is exact, else within a tight bound;
- moves that no search proposed are refused, or they are true.

    python -m tests.adversarial.graph_fuzz --seed S --count N [--findings FOLDER]
"""

from __future__ import annotations

import collections
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

import many_seeds
import onnx_builder
from many_seeds import FINDING, Ending
from onnx_builder import Graph, Rejected

from moduli.common.graph import placed_axes
from moduli.compression.exact.living_units import fates_of_units
from moduli.compression.exact.reduce_source import reduce_source
from moduli.formats.onnx.graph_files import read_graph
from moduli.formats.onnx.reference import run_model
from moduli.kernel.errors import CertificateRejected, UnsupportedModel
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.differences import difference
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.slices import ONE
from moduli.kernel.slack import NO_SLACK, Slack

Array = np.ndarray[Any, Any]
Step = Callable[["Planted", str], str]
RATIOS = (1, 1, 1, -1, 2, 0.5, -2, 4, 3)
BEYOND = 1e12
CLOSE = 1e-9  # of the largest entry: sums in 64 bits in another order
SINGLE = {
    "Celu",
    "Elu",
    "Gelu",
    "HardSwish",
    "Mish",
    "Selu",
    "Softplus",
}  # in 32 bits in the reference

# Exact on small multiples of powers of two; everything else is compared within `CLOSE`.
EXACT = {
    "Abs", "Add", "ArgMax", "ArgMin", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "CumSum", "DequantizeLinear", "Dropout", "Einsum", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Gemm", "GlobalMaxPool", "Greater", "Identity", "If", "LeakyRelu",
    "Less", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "PRelu", "Pad", "ReduceL1", "ReduceMax",
    "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Shape", "Sign", "Size",
    "Slice", "Split", "Squeeze", "Sub", "Sum", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze",
    "Where", "Hardmax", "ThresholdedRelu", "Shrink", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
JUMPS = {
    "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "Hardmax", "Less", "Mod", "Round",
    "Shrink", "Sign", "ThresholdedRelu", "TopK",
}  # fmt: skip


class Planted(Graph):
    """A graph under construction.

    Attributes:
        twins: for some values and axes, numbers of their indices: equal ones were made alike.
        ranges: of inputs.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.opset = max(7, self.opset)
        self.dtype = np.dtype("float32")
        self.odd_constants = self.weighted({0.0: 5, 0.1: 2, 0.3: 1})
        self.main_domain = ""
        self.twins: dict[tuple[str, int], Array] = {}
        self.ranges: dict[str, tuple[Any, Any]] = {}
        self.weights: list[tuple[str, tuple[int, ...]]] = []

    def alike(self, x: str, axis: int) -> Array:
        n = self.shape(x)[axis]
        found = self.twins.get((x, axis % self.rank(x)))
        if found is None or len(found) != n:
            return np.arange(n)
        return np.unique(found, return_inverse=True)[1]

    def carried(self, ids: Array, table: Sequence[float]) -> Array:
        """A number for each index, mostly the same for those that are alike."""
        base = self.rng.choice(np.array(table, dtype=float), len(ids))
        found = base[ids % len(ids)]
        if self.chance(0.3):
            found[self.integer(0, len(ids) - 1)] = self.pick(table)
        return found

    def keep(self, x: str, y: str) -> str:
        """What is alike in x is alike in y, axis by axis."""
        if self.shape(x) == self.shape(y):
            for axis in range(self.rank(x)):
                if (x, axis) in self.twins:
                    self.twins[y, axis] = self.twins[x, axis]
        return y


def rows_of(g: Planted, out: int, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Rows with what has to go and what has to stay: weights, biases, and which are alike."""
    w = g.dyadic((out, *shape), most=6)
    b = g.dyadic((out,)) * g.pick((0, 1, 1))
    ids = np.arange(out)
    for i in range(out):
        way = g.weighted(
            {"own": 6, "copy": 3, "zero": 1.5, "constant": 1, "almost": 1.5, "dead": 0.7}
        )
        if way in ("copy", "almost") and i:
            j, r = g.integer(0, i - 1), g.pick(RATIOS)
            w[i], b[i], ids[i] = w[j] * r, b[j] * r, ids[j]
            if way == "almost":
                flat = w[i].reshape(-1)
                flat[g.integer(0, flat.size - 1)] += 0.125
        elif way in ("zero", "constant"):
            w[i], b[i] = 0, b[i] if way == "constant" else 0
        elif way == "dead":
            b[i] = -64.0
    return w, b, ids


def columns_of(g: Planted, w: Array, axis: int) -> None:
    """Some columns are nothing, or almost nothing."""
    moved = np.moveaxis(w, axis, 0)
    for k in range(len(moved)):
        way = g.weighted({"own": 8, "zero": 1.5, "almost": 0.7})
        if way != "own":
            moved[k] = 0
        if way == "almost":
            flat = np.ndindex(*moved[k].shape)
            places = list(flat)
            moved[(k, *g.pick(places))] = 0.25


def weight(g: Planted, array: Array, *, spare: bool = True) -> str:
    """A stored weight, in one of the ways in which files have it; sometimes one that is there."""
    if spare and g.chance(0.07):
        same = [name for name, shape in g.weights if shape == array.shape]
        if same:
            return str(g.pick(same))
    way = g.weighted({
        "plain": 14, "constant": 2, "identity": 1, "transpose": 2, "reshape": 1, "quantised": 1.5,
        "cast": 1, "double": 0.5,
    })  # fmt: skip
    own = np.ascontiguousarray(array, dtype=np.float32)
    if way == "transpose" and own.ndim > 1:
        order = list(g.rng.permutation(own.ndim))
        name = g.const(own.transpose(order), plain=True)
        found = g.node("Transpose", name, perm=[int(i) for i in np.argsort(order)])
    elif way == "reshape" and own.size:
        found = g.reshape(g.const(own.reshape(-1), plain=True), own.shape)
    elif way == "identity":
        found = g.node("Identity", g.const(own, plain=True))
    elif way == "cast":
        found = g.cast(g.store(own.astype(np.float16)), np.float32)
    elif way == "double":
        found = g.cast(g.store(own.astype(np.float64)), np.float32)
    elif way == "quantised" and g.opset >= 13 and own.ndim > 1:
        axis = g.integer(0, own.ndim - 1)
        per = g.chance(0.5)
        scale = np.full(own.shape[axis] if per else (), 0.125, dtype=np.float32)
        whole = np.clip(np.round(own / 0.125), -128, 127).astype(np.int8)
        zero = g.const(np.zeros(scale.shape, dtype=np.int8), plain=True)
        found = g.node(
            "DequantizeLinear", g.store(whole), g.const(scale, np.float32, plain=True), zero,
            axis=axis if per else None,
        )  # fmt: skip
    elif way == "constant":
        found = g.node("Constant", value=numpy_helper.from_array(own, g.name("t")))
    else:
        found = g.const(own)
    g.weights.append((str(found), own.shape))
    return str(found)


# Steps ----------------------------------------------------------------------------------------------------------

STEPS: dict[str, tuple[float, Step]] = {}


def step(share: float) -> Callable[[Step], Step]:
    def register(f: Step) -> Step:
        STEPS[f.__name__] = share, f
        return f

    return register


def images(g: Planted, x: str) -> int:
    """How many axes of positions it has."""
    if not 3 <= g.rank(x) <= 5:
        raise Rejected("no image")
    return g.rank(x) - 2


@step(6)
def conv(g: Planted, x: str) -> str:
    k = images(g, x)
    c = g.shape(x)[1]
    groups = g.pick([d for d in range(1, c + 1) if c % d == 0] + [1, 1, c])
    out = groups * g.integer(1, max(1, 6 // groups))
    kernel = [g.pick((1, 1, 2, 3)) for _ in range(k)]
    w, b, ids = rows_of(g, out, (c // groups, *kernel))
    if groups > 1 and g.chance(0.5):  # the same filter in each group
        w = np.resize(w[: out // groups], w.shape)
        b = np.resize(b[: out // groups], b.shape)
    if groups == c == out:
        ids = g.alike(x, 1)
        w = w[ids]
        b = b[ids]
        if g.chance(0.4):
            w[g.integer(0, c - 1)] *= 2
    if groups == 1:
        columns_of(g, w, 1)
    how = g.weighted({"none": 4, "pads": 3, "same": 1, "valid": 0.5})
    more: dict[str, Any] = {"strides": g.pick((None, None, [g.pick((1, 2)) for _ in range(k)]))}
    if how == "pads":
        more["pads"] = [g.integer(0, 2) for _ in range(2 * k)]
    if how in ("none", "pads"):
        more["dilations"] = g.pick((None, None, [g.pick((1, 2)) for _ in range(k)]))
    if how in ("same", "valid"):
        more["auto_pad"] = {"same": g.pick(("SAME_UPPER", "SAME_LOWER")), "valid": "VALID"}[how]
    inputs = [x, weight(g, w)] + ([g.const(b)] if g.chance(0.7) else [])
    y = g.node("Conv", *inputs, group=groups if groups > 1 or g.chance(0.3) else None, **more)
    g.twins[y, 1] = ids
    return str(y)


@step(1.5)
def conv_transposed(g: Planted, x: str) -> str:
    k = images(g, x)
    c = g.shape(x)[1]
    groups = g.pick([1, 1, 1, *(d for d in range(2, c + 1) if c % d == 0)])
    out = g.integer(1, 4)
    w, b, ids = rows_of(g, out, (c, *[g.pick((1, 2, 3)) for _ in range(k)]))
    columns_of(g, w, 1)
    more = g.some({
        "strides": (None, [2] * k, [1] * k), "pads": (None, [1] * (2 * k), [0, 1][:1] * (2 * k)),
        "dilations": (None, None, [2] * k), "output_padding": (None, None, [1] + [0] * (k - 1)),
    })  # fmt: skip
    y = g.node(
        "ConvTranspose", x, weight(g, np.swapaxes(w, 0, 1)), *([g.const(np.tile(b, groups))] if g.chance(0.6) else []),
        group=groups if groups > 1 else None, **more,
    )  # fmt: skip
    if groups == 1:
        g.twins[y, 1] = ids
    return str(y)


@step(4)
def dense(g: Planted, x: str) -> str:
    n = g.shape(x)[-1]
    out = g.integer(1, 6)
    w, b, ids = rows_of(g, out, (n,))
    columns_of(g, w, 1)
    if g.rank(x) == 2 and g.chance(0.6):
        across = g.chance(0.5)
        name = weight(g, w if across else w.T)
        bias = [g.const(g.pick((b, b, b[None], b[:1], np.float64(0.5))))] if g.chance(0.7) else []
        if not bias and g.opset < 11:
            bias = [g.const(b)]
        more = g.some({"alpha": (None, None, None, 0.5), "beta": (None, None, None, 2.0)})
        y = g.node("Gemm", x, name, *bias, transB=1 if across else g.pick((0, None)), **more)
    elif g.opset >= 12 and g.rank(x) in (2, 3) and g.chance(0.1):
        equation = "bi,io->bo" if g.rank(x) == 2 else "bti,io->bto"
        y = g.node("Einsum", x, weight(g, w.T), equation=equation)
    else:
        y = g.node("MatMul", x, weight(g, w.T))
        if g.chance(0.6):
            pair = (y, g.const(b))
            y = g.node("Add", *(pair if g.chance(0.5) else pair[::-1]))
        elif g.chance(0.2):
            y = g.node("Sub", g.const(b), y)
    g.twins[y, g.rank(y) - 1] = ids
    return str(y)


@step(1)
def dense_left(g: Planted, x: str) -> str:
    if g.rank(x) < 2:
        raise Rejected("no matrix")
    w, _, ids = rows_of(g, g.integer(1, 4), (g.shape(x)[-2],))
    columns_of(g, w, 1)
    y = g.node("MatMul", weight(g, w), x)
    g.twins[y, g.rank(y) - 2] = ids
    return str(y)


@step(1.5)
def low_rank(g: Planted, x: str) -> str:
    """A layer whose units are sums of fewer ones, and a layer that reads them."""
    image = 3 <= g.rank(x) <= 5 and g.chance(0.5)
    n = g.shape(x)[1 if image else -1]
    out, last = g.integer(2, 6), g.integer(1, 4)
    rank = g.integer(1, out - 1)
    rows = g.dyadic((out, rank)) @ g.dyadic((rank, n + 1))
    w, b, v = rows[:, :n], rows[:, n], g.dyadic((last, out))
    if image:
        ones = (1,) * (g.rank(x) - 2)
        pads = [g.integer(0, 1) for _ in range(2 * len(ones))]
        biases = [g.const(b)] if g.chance(0.7) else []
        y = g.node("Conv", x, weight(g, w.reshape(*w.shape, *ones), spare=False), *biases)
        return str(g.node("Conv", y, weight(g, v.reshape(*v.shape, *ones)), pads=pads))
    y = g.node("MatMul", x, weight(g, w.T, spare=False))
    if g.chance(0.6):
        y = g.node("Add", y, g.const(b))
    return str(g.node("MatMul", y, weight(g, v.T)))


@step(2.5)
def batch_norm(g: Planted, x: str) -> str:
    if g.rank(x) < 2:
        raise Rejected("no channels")
    ids = g.alike(x, 1)
    scale = g.carried(ids, (1, 1, 2, 0.5, -1, 0, 0))
    shift, mean = (g.carried(ids, (0, 0, 1, -0.5)) for _ in range(2))
    variance = g.carried(ids, (0.75, 3.75, 0.0))
    arrays = [g.const(a) for a in (scale, shift, mean, variance)]
    return g.keep(x, str(g.node("BatchNormalization", x, *arrays, epsilon=0.25)))


UNARY = {
    "Relu": 8, "Tanh": 1, "Sigmoid": 1, "Erf": 0.5, "Exp": 0.5, "Abs": 1.5, "Neg": 1, "Sin": 0.4, "Cos": 0.4,
    "Atan": 0.3, "Sinh": 0.2, "Sign": 0.5, "Softplus": 0.4, "Softsign": 0.4, "HardSwish": 1, "Mish": 0.4,
    "Round": 0.4, "Floor": 0.4, "Ceil": 0.4, "Elu": 0.5, "Celu": 0.4, "Selu": 0.5, "ThresholdedRelu": 0.4,
    "HardSigmoid": 1, "LeakyRelu": 1.5, "Gelu": 0.5, "Identity": 0.7, "Dropout": 0.4, "Shrink": 0.3,
    "Asinh": 0.2, "Cosh": 0.2, "Asin": 0.1, "Sqrt": 0.3, "Log": 0.1, "Reciprocal": 0.2, "Acos": 0.1,
}  # fmt: skip


@step(9)
def unary(g: Planted, x: str) -> str:
    op = g.weighted(UNARY)
    more = {
        "LeakyRelu": {"alpha": (None, 0.5, 0.25, 2.0, -1.0, 0.0)},
        "Elu": {"alpha": (None, 0.5)}, "Celu": {"alpha": (None, 2.0)}, "Selu": {"gamma": (None, 2.0)},
        "ThresholdedRelu": {"alpha": (None, 0.5)}, "Shrink": {"bias": (None, 0.5), "lambd": (None, 1.0)},
        "HardSigmoid": {"alpha": (None, 0.5, -0.5), "beta": (None, 0.25)},
        "Gelu": {"approximate": (None, "tanh")},
    }.get(op, {})  # fmt: skip
    return g.keep(x, str(g.node(op, x, **g.some(more))))


@step(2)
def clip(g: Planted, x: str) -> str:
    low, high = g.pick(((0, 6), (-1, 1), (0.5, 2), (-2, None), (None, 1), (1, -1), (0, 0)))
    if g.opset < 11:
        return g.keep(x, str(g.node("Clip", x, min=low, max=high)))
    ends = ["" if v is None else g.const(np.float32(v)) for v in (low, high)]
    return g.keep(x, str(g.node("Clip", x, *ends)))


@step(1.5)
def prelu(g: Planted, x: str) -> str:
    shape = g.shape(x)
    axis = min(1, g.rank(x) - 1)
    slope = g.carried(g.alike(x, axis), (0.5, 0.25, 0, 2, -1))
    wide = slope.reshape([-1] + [1] * (g.rank(x) - axis - 1))
    return g.keep(
        x, str(g.node("PRelu", x, g.const(g.pick((wide, wide, np.full([1] * len(shape), 0.5))))))
    )


@step(4)
def with_numbers(g: Planted, x: str) -> str:
    """A stored operand: one number, one for each index of an axis, or all of them."""
    op = g.weighted({"Add": 4, "Sub": 2, "Mul": 4, "Div": 1, "Max": 1, "Min": 1, "Pow": 0.5})
    shape = g.shape(x)
    axis = g.integer(0, g.rank(x) - 1) if g.rank(x) else 0
    way = g.weighted({"one": 2, "axis": 4, "all": 1, "partly": 1})
    table: Sequence[float] = (0, 0, 1, 2, -1, 0.5) if op != "Pow" else (1, 2, 3)
    if op == "Div":
        table = (1, 2, 0.5, -1)
    if way == "one" or not shape:
        array = np.array(g.pick(table))
    elif way == "axis":
        along = [1] * len(shape)
        along[axis] = -1
        array = g.carried(g.alike(x, axis), table).reshape(along)
        if g.chance(0.4):
            array = array.reshape(array.shape[axis:])
    else:
        own = [n if way == "all" or g.chance(0.5) else 1 for n in shape]
        array = g.rng.choice(np.array(table, dtype=float), own)
    if g.batch is not None and array.ndim == len(shape) and array.shape[:1] not in ((1,), ()):
        array = array[:1]
    pair = (x, g.const(array))
    if op in ("Add", "Mul", "Max", "Min", "Sub") and g.chance(0.3):
        pair = pair[::-1]
    y = str(g.node(op, *pair))
    return g.keep(x, y) if way in ("one", "axis") else y


def other_value(g: Planted, x: str, fits: Callable[[tuple[int, ...]], bool]) -> str:
    names = [
        name
        for name, array in g.values.items()
        if name != x and not g.is_constant(name) and array.dtype == g.dtype and fits(array.shape)
    ]
    return str(g.pick(names))


@step(4)
def with_value(g: Planted, x: str) -> str:
    """Another value of the same shape, or one that broadcasts: sums, gates, the largest."""
    shape = g.shape(x)

    def fits(other: tuple[int, ...]) -> bool:
        if other == shape:
            return True
        if len(other) > len(shape) or g.chance(0.7):
            return False
        return all(a in (1, b) for a, b in zip(other[::-1], shape[::-1], strict=False))

    z = other_value(g, x, fits) if g.chance(0.85) else x
    op = g.weighted(
        {"Add": 5, "Sub": 2, "Mul": 4, "Max": 1, "Min": 1, "Where": 1, "Div": 0.3, "PRelu": 0.3}
    )
    if op == "Where":
        other = other_value(g, x, lambda s: s == shape)
        return str(g.node("Where", g.node("Greater", x, g.const(np.float32(0.5))), z, other))
    return g.keep(x, str(g.node(op, *((x, z) if g.chance(0.6) else (z, x)))))


@step(1)
def several(g: Planted, x: str) -> str:
    op = g.pick(("Sum", "Mean", "Max", "Min"))
    if g.opset < 8:
        raise Rejected("one shape alone")
    shape = g.shape(x)
    names = [x, *(other_value(g, x, lambda s: s == shape) for _ in range(g.integer(0, 2)))]
    return g.keep(x, str(g.node(op, *names)))


@step(2)
def pool(g: Planted, x: str) -> str:
    k = images(g, x)
    op = g.pick(("MaxPool", "AveragePool", "MaxPool", "AveragePool", "LpPool"))
    kernel = [g.integer(1, 3) for _ in range(k)]
    more: dict[str, Any] = {"kernel_shape": kernel, "strides": g.pick((None, [2] * k, [1] * k))}
    if g.chance(0.4):
        more["pads"] = [g.integer(0, max(0, kernel[i % k] - 1)) for i in range(2 * k)]
    elif g.chance(0.2):
        more["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    if op == "AveragePool":
        more["count_include_pad"] = g.pick((None, 0, 1))
    if g.opset >= 10 and op != "LpPool" and "auto_pad" not in more:
        more["ceil_mode"] = g.pick((None, None, 1))
    if op == "MaxPool" and g.opset >= 10 and g.chance(0.2):
        more["dilations"] = [g.pick((1, 2)) for _ in range(k)]
    y = str(g.node(op, x, **more))
    if (x, 1) in g.twins:
        g.twins[y, 1] = g.twins[x, 1]
    return y


@step(1)
def pool_all(g: Planted, x: str) -> str:
    images(g, x)
    y = str(g.node(g.pick(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")), x))
    if (x, 1) in g.twins:
        g.twins[y, 1] = g.twins[x, 1]
    return y


@step(2)
def reduction(g: Planted, x: str) -> str:
    op = g.pick((
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
        "ReduceProd", "ReduceLogSumExp", "ReduceMean",
    ))  # fmt: skip
    rank = g.rank(x)
    axes = sorted({g.integer(-rank, rank - 1) for _ in range(g.integer(1, 2))})
    if len({a % rank for a in axes}) < len(axes):
        raise Rejected("an axis twice")
    if g.batch is not None and any(a % rank == 0 for a in axes):
        raise Rejected("samples stay apart")
    since = 13 if op == "ReduceSum" else 18
    return str(g.axes(op, x, axes, since, keepdims=g.pick((None, 0, 1))))


@step(1)
def softmax(g: Planted, x: str) -> str:
    rank = g.rank(x)
    op = g.pick(("Softmax", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization"))
    return str(g.node(op, x, axis=g.pick((None, *range(1, rank)))))


@step(1)
def layer_norm(g: Planted, x: str) -> str:
    if g.opset < 17 or g.rank(x) < 2:
        raise Rejected("no such operator")
    n = g.shape(x)[-1]
    wide = (g.shape(x)[-2], n) if g.rank(x) > 2 and g.chance(0.2) else (n,)
    names = [g.const(g.dyadic(wide, zero=False))] + (
        [g.const(g.dyadic((n,)))] if g.chance(0.6) else []
    )
    if g.opset >= 23 and g.chance(0.4):
        return str(g.node("RMSNormalization", x, names[0]))
    return str(g.node("LayerNormalization", x, *names, axis=g.pick((None, -1))))


@step(1)
def instance_norm(g: Planted, x: str) -> str:
    images(g, x)
    ids = g.alike(x, 1)
    arrays = [g.const(g.carried(ids, t)) for t in ((1, 2, 0.5, 0), (0, 1, -0.5))]
    return g.keep(x, str(g.node("InstanceNormalization", x, *arrays)))


@step(0.5)
def over_channels(g: Planted, x: str) -> str:
    images(g, x)
    c = g.shape(x)[1]
    if g.opset >= 21 and g.chance(0.5):
        groups = g.pick([d for d in range(1, c + 1) if c % d == 0])
        arrays = [g.const(g.dyadic((c,))) for _ in range(2)]
        return str(g.node("GroupNormalization", x, *arrays, num_groups=groups))
    return str(g.node("LRN", x, size=g.pick((1, 3)), alpha=0.5, beta=0.5, bias=1.0))


@step(1.5)
def pad(g: Planted, x: str) -> str:
    rank = g.rank(x)
    pads = [0] * (2 * rank)
    for axis in range(1 if g.batch is not None else 0, rank):
        if g.chance(0.4):
            pads[axis], pads[rank + axis] = g.integer(-1, 2), g.integer(-1, 2)
    modes = ["constant", "constant", "reflect", "edge"] + (["wrap"] if g.opset >= 19 else [])
    mode = g.pick((None, *modes))
    value = g.pick((None, 0.0, 0.5))
    if g.opset < 11:
        return str(g.node("Pad", x, pads=pads, mode=mode, value=value))
    names = [g.const(np.array(pads, dtype=np.int64))]
    if value is not None and mode in (None, "constant"):
        names.append(g.const(np.float32(value)))
    return str(g.node("Pad", x, *names, mode=mode))


@step(1)
def resize(g: Planted, x: str) -> str:
    k = images(g, x)
    scales = np.array([1, 1, *(g.pick((1, 2, 0.5, 1.5)) for _ in range(k))], dtype=np.float32)
    if g.chance(0.1):
        scales[1] = 2
    if g.opset < 10:
        mode = g.pick((None, "nearest", "linear"))
        if g.opset < 9:
            return str(g.node("Upsample", x, scales=scales.tolist(), mode=mode))
        return str(g.node("Upsample", x, g.const(scales, np.float32), mode=mode))
    if g.opset == 10:
        return str(g.node("Resize", x, g.const(scales, np.float32), mode=g.pick((None, "linear"))))
    more = g.some({
        "mode": (None, "nearest", "linear", "cubic" if k == 2 else "linear"),
        "coordinate_transformation_mode": (
            None, "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel", "tf_crop_and_resize",
        ),
        "nearest_mode": (None, "floor", "ceil", "round_prefer_ceil"),
    })  # fmt: skip
    roi = ""
    if more.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = g.const(
            np.array([0.0] * (k + 2) + [1.0] * (k + 1) + [0.5], dtype=np.float32), np.float32
        )
    if g.chance(0.6):
        return str(g.node("Resize", x, roi, g.const(scales, np.float32), **more))
    sizes = [*g.shape(x)[:2], *(n * g.pick((1, 2)) for n in g.shape(x)[2:])]
    names = [roi, "", g.const(np.array(sizes, dtype=np.int64))]
    if g.batch == 0:
        named = g.node("Shape", x)
        two = g.node("Slice", named, *(g.const(np.array([v])) for v in (0, 2)))
        names[2] = g.node("Concat", two, g.const(np.array(sizes[2:], dtype=np.int64)), axis=0)
    if g.opset < 13:
        names[1] = g.const(np.zeros(0, dtype=np.float32), np.float32)
        names[0] = names[0] or g.const(np.zeros(0, dtype=np.float32), np.float32)
    return str(g.node("Resize", x, *names, **more))


@step(2)
def concat(g: Planted, x: str) -> str:
    rank = g.rank(x)
    axis = g.integer(1 if g.batch is not None else 0, rank - 1)
    shape = g.shape(x)

    def fits(other: tuple[int, ...]) -> bool:
        return len(other) == rank and all(
            a == b for k, (a, b) in enumerate(zip(shape, other, strict=True)) if k != axis
        )

    names = (
        [x, *(other_value(g, x, fits) for _ in range(g.integer(1, 2)))] if g.chance(0.8) else [x, x]
    )
    if g.batch != 0 and g.chance(0.15):
        names.append(
            g.const(
                np.resize(g.dyadic(shape), [n if k != axis else 2 for k, n in enumerate(shape)])
            )
        )
    order = g.rng.permutation(len(names))
    y = str(g.node("Concat", *(names[int(i)] for i in order), axis=g.pick((axis, axis - rank))))
    parts = [
        g.alike(names[int(i)], axis) + 1000 * (int(i) if names[int(i)] != x else 0) for i in order
    ]
    g.twins[y, axis] = np.unique(np.concatenate(parts), return_inverse=True)[1]
    return y


@step(2)
def split(g: Planted, x: str) -> str:
    rank = g.rank(x)
    axis = g.integer(1 if g.batch is not None else 0, rank - 1)
    n = g.shape(x)[axis]
    if n < 2:
        raise Rejected("one index alone")
    if n % 2 == 0 and g.chance(0.6):
        sizes = [n // 2] * 2
    else:
        first = g.integer(1, n - 1)
        sizes = [first, n - first]
    way = g.pick(("given", "equal"))
    signed = g.pick((axis, axis - rank))
    if way == "equal" and sizes[0] == sizes[1]:
        parts = g.node("Split", x, outputs=2, axis=signed, num_outputs=2 if g.opset >= 18 else None)
    elif g.opset < 13:
        parts = g.node("Split", x, outputs=2, axis=signed, split=sizes)
    else:
        parts = g.node("Split", x, g.const(np.array(sizes, dtype=np.int64)), outputs=2, axis=signed)
    a, b = parts
    for name, start in ((a, 0), (b, sizes[0])):
        g.value(name)
        g.twins[name, axis] = g.alike(x, axis)[start : start + g.shape(name)[axis]]
    if sizes[0] == sizes[1] and g.chance(0.7):
        gate = str(g.node("Sigmoid", b)) if g.chance(0.3) else b
        return str(g.node(g.pick(("Add", "Mul", "Sub", "Max")), a, gate))
    return str(g.pick(parts))


@step(2)
def slice_(g: Planted, x: str) -> str:
    rank = g.rank(x)
    first = 1 if g.batch is not None else 0
    axes = sorted({g.integer(first, rank - 1) for _ in range(g.integer(1, 2))})
    starts, ends, steps = [], [], []
    for axis in axes:
        n = g.shape(x)[axis]
        way = g.weighted({"range": 5, "back": 1, "steps": 1, "far": 1})
        low = g.integer(0, n - 1)
        high = g.integer(low + 1, n)
        found = {
            "range": (low, high, 1), "back": (n - 1, -n - 1, -1), "steps": (low, n, 2), "far": (low - n, 2**31, 1),
        }[way]  # fmt: skip
        for listed, value in zip((starts, ends, steps), found, strict=True):
            listed.append(value)
    if g.opset < 10:
        if any(s != 1 for s in steps):
            raise Rejected("no steps")
        return str(g.node("Slice", x, starts=starts, ends=ends, axes=axes))
    names = [g.const(np.array(v, dtype=np.int64)) for v in (starts, ends, axes, steps)]
    return str(
        g.node("Slice", x, *(names if g.chance(0.8) or any(s != 1 for s in steps) else names[:3]))
    )


@step(2)
def gather(g: Planted, x: str) -> str:
    rank = g.rank(x)
    axis = g.integer(1 if g.batch is not None else 0, rank - 1)
    n = g.shape(x)[axis]
    way = g.weighted({"order": 3, "some": 3, "one": 2, "twice": 1, "table": 0.5})
    index = {
        "order": g.rng.permutation(n), "some": g.rng.integers(-n, n, g.integer(1, n)),
        "one": g.rng.integers(-n, n), "twice": np.repeat(np.arange(n), 2), "table": g.rng.integers(0, n, (2, 2)),
    }[way]  # fmt: skip
    y = str(
        g.node(
            "Gather",
            x,
            g.const(np.asarray(index, dtype=np.int64)),
            axis=g.pick((axis, axis - rank)),
        )
    )
    if np.ndim(index) == 1:
        g.value(y)
        g.twins[y, axis] = g.alike(x, axis)[np.asarray(index)]
    return y


@step(2)
def transpose(g: Planted, x: str) -> str:
    rank = g.rank(x)
    order = [int(i) for i in g.rng.permutation(rank)]
    if g.batch is not None:
        order = [0] + [i for i in order if i]
    y = str(g.node("Transpose", x, perm=order))
    for k, axis in enumerate(order):
        if (x, axis) in g.twins:
            g.twins[y, k] = g.twins[x, axis]
    return y


@step(2.5)
def reshape(g: Planted, x: str) -> str:
    """Axes joined or split, with targets as they are written and as they are computed."""
    shape = list(g.shape(x))
    rank = len(shape)
    first = 1 if g.batch is not None else 0
    if g.chance(0.5) and rank - first >= 2:
        axis = g.integer(first, rank - 2)
        made = shape[:axis] + [shape[axis] * shape[axis + 1]] + shape[axis + 2 :]
    elif g.chance(0.7) and rank < 6:
        axis = g.integer(first, rank - 1)
        parts = [d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0]
        d = g.pick(parts)
        made = shape[:axis] + [d, shape[axis] // d] + shape[axis + 1 :]
    else:
        rest = int(np.prod(shape[first:]))
        d = g.pick([d for d in range(1, rest + 1) if rest % d == 0])
        made = shape[:first] + [d, rest // d]
    if g.batch == 0 and g.opset >= 10 and g.chance(0.5):
        size = g.node("Gather", g.node("Shape", x), g.const(np.array([0])), axis=0)
        rest_of = list(made[1:])
        if rest_of and g.chance(0.5):
            rest_of[g.integer(0, len(rest_of) - 1)] = -1
        target = g.node("Concat", size, g.const(np.array(rest_of, dtype=np.int64)), axis=0)
        return str(g.node("Reshape", x, target))
    target = list(made)
    if first:
        target[0] = g.leading()
    if -1 not in target and g.chance(0.4):
        target[g.integer(0, len(target) - 1)] = -1
    for k in range(first, min(rank, len(made))):
        if made[k] == shape[k] and target[k] != -1 and g.chance(0.3):
            target[k] = 0
    return g.reshape(x, target)


@step(1)
def flatten(g: Planted, x: str) -> str:
    axis = g.pick((None, 1, *range(1, g.rank(x))))
    return str(g.node("Flatten", x, axis=axis))


@step(1)
def ones(g: Planted, x: str) -> str:
    """An axis more, or one of one entry less."""
    rank = g.rank(x)
    single = [axis for axis in range(1, rank) if g.shape(x)[axis] == 1]
    if single and g.chance(0.5):
        return g.squeeze(x, [g.pick(single)])
    axis = g.integer(1 if g.batch is not None else 0, rank)
    return g.unsqueeze(x, [axis])


@step(0.7)
def repeated(g: Planted, x: str) -> str:
    shape = g.shape(x)
    if g.chance(0.5):
        repeats = [
            1 if k == 0 and g.batch is not None else g.pick((1, 1, 2)) for k in range(len(shape))
        ]
        return str(g.node("Tile", x, g.const(np.array(repeats, dtype=np.int64))))
    if g.opset < 8:
        raise Rejected("no such operator")
    wide = [
        1 if n != 1 or (k == 0 and g.batch is not None) else g.pick((1, 3))
        for k, n in enumerate(shape)
    ]
    return str(g.node("Expand", x, g.const(np.array(wide, dtype=np.int64))))


@step(0.7)
def running_sum(g: Planted, x: str) -> str:
    axis = g.integer(1 if g.batch is not None else 0, g.rank(x) - 1)
    more = g.some({"exclusive": (None, 1), "reverse": (None, 1)})
    return str(g.node("CumSum", x, g.const(np.array(axis, dtype=np.int64)), **more))


@step(1)
def attention(g: Planted, x: str) -> str:
    if g.rank(x) != 3:
        raise Rejected("no tokens")
    n, t, d = g.shape(x)
    heads, size = g.pick(((1, 2), (2, 2), (2, 1), (3, 2)))
    parts = []
    for k in range(3):
        w, b, _ = rows_of(g, heads * size, (d,))
        y = g.node("MatMul", x, weight(g, w.T))
        if g.chance(0.5):
            y = g.node("Add", y, g.const(b))
        y = g.reshape(y, [g.leading() if g.batch is not None else n, t, heads, size])
        parts.append(g.node("Transpose", y, perm=[0, 2, 3, 1] if k == 1 else [0, 2, 1, 3]))
    scores = g.node("MatMul", parts[0], parts[1])
    if g.chance(0.6):
        scores = g.node("Mul", scores, g.const(np.float32(0.5)))
    if g.chance(0.7):
        if g.opset < 13:
            scores = g.node("Softmax", scores, axis=3)
        else:
            scores = g.node("Softmax", scores, axis=-1)
    mixed = g.node("Transpose", g.node("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
    merged = g.reshape(mixed, [g.leading() if g.batch is not None else n, t, heads * size])
    w, _, ids = rows_of(g, d, (heads * size,))
    columns_of(g, w, 1)
    y = g.node("MatMul", merged, weight(g, w.T))
    g.twins[y, 2] = ids
    return str(g.node("Add", x, y)) if g.chance(0.6) else str(y)


@step(0.8)
def products(g: Planted, x: str) -> str:
    """A product of two values."""
    if g.rank(x) < 2:
        raise Rejected("no matrix")
    shape = g.shape(x)
    if g.chance(0.5):
        z = g.node("Transpose", x, perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
    else:
        z = other_value(g, x, lambda s: len(s) >= 2 and s[-2] == shape[-1] and s[:-2] == shape[:-2])
    if g.batch is not None and len(shape) < 3:
        raise Rejected("samples stay apart")
    return str(g.node("MatMul", x, z))


@step(1)
def squeeze_excite(g: Planted, x: str) -> str:
    images(g, x)
    c = g.shape(x)[1]
    s = g.node("GlobalAveragePool", x)
    inner = g.integer(1, 3)
    w, b, _ = rows_of(g, inner, (c, *[1] * (g.rank(x) - 2)))
    h = g.node("Relu", g.node("Conv", s, weight(g, w), g.const(b)))
    v, b, _ = rows_of(g, c, (inner, *[1] * (g.rank(x) - 2)))
    gate = g.node(
        g.pick(("Sigmoid", "HardSigmoid", "Relu")), g.node("Conv", h, weight(g, v), g.const(b))
    )
    return str(g.node("Mul", x, gate))


@step(1)
def shuffle(g: Planted, x: str) -> str:
    images(g, x)
    n, c, *places = g.shape(x)
    parts = [d for d in range(2, c) if c % d == 0]
    d = g.pick(parts)
    lead = g.leading() if g.batch is not None else n
    y = g.reshape(x, [lead, d, c // d, *places])
    y = g.node("Transpose", y, perm=[0, 2, 1, *range(3, 3 + len(places))])
    return g.reshape(str(y), [lead, c, *places])


@step(0.4)
def depth_to_space(g: Planted, x: str) -> str:
    if g.rank(x) != 4:
        raise Rejected("no image")
    if g.chance(0.5):
        return str(g.node("SpaceToDepth", x, blocksize=2))
    mode = g.pick((None, "DCR", "CRD")) if g.opset >= 11 else None
    return str(g.node("DepthToSpace", x, blocksize=2, mode=mode))


@step(0.5)
def moved_difference(g: Planted, x: str) -> str:
    """The same entries at other places, less these: a trap for what is known slice by slice."""
    shape = g.shape(x)
    rank = len(shape)
    if rank >= 2 and shape[-1] == shape[-2] and g.chance(0.5):
        moved = g.node("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])
    else:
        axis = g.integer(1 if g.batch is not None else 0, rank - 1)
        order = np.arange(shape[axis])[::-1].copy()
        moved = g.node("Gather", x, g.const(order), axis=axis)
    return str(g.node(g.pick(("Sub", "Sub", "Add", "Max")), x, moved))


@step(0.6)
def opaque(g: Planted, x: str) -> str:
    """What no reader has to know."""
    way = g.pick(("trilu", "top", "if", "casts", "sizes"))
    if way == "trilu":
        return str(g.node("Trilu", x))
    if way == "top":
        if g.opset < 10:
            raise Rejected("no such operator")
        k = g.const(np.array([1], dtype=np.int64))
        return str(g.node("TopK", x, k, outputs=2, axis=g.rank(x) - 1)[0])
    if way == "casts":
        return g.cast(g.cast(x, np.int64), g.dtype)
    if way == "sizes":
        if g.opset < 10:
            raise Rejected("no such operator")
        size = g.node("Gather", g.node("Shape", x), g.const(np.array(g.rank(x) - 1)), axis=0)
        return str(g.node("Div", x, g.cast(str(size), g.dtype)))
    test = g.node("Greater", g.axes("ReduceSum", x, None, 13, keepdims=0), g.const(np.float32(0)))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("then", "else")]
    branches = [
        helper.make_graph([helper.make_node(op, [x], [n])], n, [], [end])
        for op, n, end in (("Neg", "then", ends[0]), ("Identity", "else", ends[1]))
    ]
    return str(g.node("If", test, then_branch=branches[0], else_branch=branches[1]))


# Whole graphs ---------------------------------------------------------------------------------------------------

SHAPES = {
    1: ((4,), (6,)),
    2: ((4, 4), (3, 6), (6, 2)),
    3: ((4, 3, 3), (2, 4, 4), (6, 2, 3), (3, 5, 2)),
    4: ((2, 2, 3, 2),),
}


SOBER = {
    "conv", "dense", "batch_norm", "unary", "clip", "prelu", "with_numbers", "with_value", "several", "pool",
    "pool_all", "concat", "split", "attention", "squeeze_excite", "shuffle", "reshape", "transpose", "instance_norm",
}  # fmt: skip


@dataclass
class Case:
    """A model, bounds of its inputs, shapes to feed it, and what it was made of."""

    model: Any
    ranges: dict[str, tuple[Any, Any]]
    shapes: dict[str, tuple[int, ...]]
    steps: tuple[str, ...]
    sizes: dict[str, tuple[int, ...]]  # of values, as onnxruntime has them
    rough: bool = False  # whether sums of stored numbers are no numbers of their type

    @property
    def exact(self) -> bool:
        """Whether all that is computed is exact in 64 bits."""
        return not self.rough and {node.op_type for node in self.model.graph.node} <= EXACT


def make(seed: int) -> Case | None:
    """A random graph; None where none came about."""
    g = Planted(np.random.default_rng(seed))
    for name in ["x"] + (["z"] if g.chance(0.2) else []):
        body = g.pick(SHAPES[g.weighted({1: 2, 2: 2, 3: 5, 4: 0.5})])
        shape = body if g.batch is None else (g.rows, *body)
        g.values[name] = np.asarray(g.dyadic(shape), dtype=np.float32)
        dims: list[int | str] = list(shape)
        if g.batch == 0:
            dims[0] = "N"
        g.declared[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        if g.chance(0.3):
            low = -abs(float(g.dyadic(())))
            high = float(g.pick((low, 1.0, 0.0 if low < 0 else 1.0)))
            g.ranges[name] = (np.array(low), np.array(high))
    # most graphs are mainly of what keeps units apart, so that much can go
    sober = g.chance(0.7)
    shares = {
        name: share * (0.12 if sober and name not in SOBER else 1.0)
        for name, (share, _) in STEPS.items()
    }
    x, done = "x", []
    outputs = []
    count = g.integer(3, 9)
    for k in range(count):
        if not g.rank(x):
            break
        for _ in range(4):
            mark, twins = g.mark(), dict(g.twins)
            name = g.weighted(shares)
            if sober and k in (0, count - 1):
                name = "conv" if g.rank(x) > 2 and g.chance(0.6) else "dense"
            try:
                y = STEPS[name][1](g, x)
                y = g.settled(y)
            except Rejected:
                g.back(mark)
                g.twins = twins
                g.constants = {c for c in g.constants if c in g.makers}
                g.weights = [w for w in g.weights if w[0] in g.stored or w[0] in g.makers]
                continue
            except onnx.onnx_cpp2py_export.checker.ValidationError:
                raise
            done.append(name)
            if g.chance(0.05):
                outputs.append(y)
            x = y if g.chance(0.93) or x == "x" else x
            break
    if not done or g.is_constant(x):
        return None
    outputs = list(dict.fromkeys([*outputs, x]))
    outputs = [name for name in outputs if name not in g.declared]
    if not outputs:
        return None
    model = g.model(outputs)
    shapes = {name: g.values[name].shape for name in ("x", "z") if name in g.declared}
    for end in model.graph.output:
        kind = onnx_builder.kind_of(g.value(end.name).dtype)
        rank = g.rank(end.name)
        end.CopyFrom(
            helper.make_tensor_value_info(end.name, kind, [f"{end.name}_{k}" for k in range(rank)])
        )
    if g.chance(0.15):
        state_falsely(g, model)
    kind = g.weighted({"float32": 20, "float16": 2, "float64": 2})
    if kind != "float32":
        model = retyped(model, kind)
    sizes = {name: array.shape for name, array in g.values.items()}
    rough = g.chance(0.3)
    if rough:
        model = roughened(model, [1.0, float(g.pick((1 / 3, 0.7, 1.1)))])
    return Case(model, g.ranges, shapes, tuple(done), sizes, rough)


def state_falsely(g: Planted, model: Any) -> None:
    """Shapes of values that they have not; no runtime holds a model to them."""
    for name, array in g.values.items():
        if name not in g.makers or array.ndim == 0 or g.chance(0.5):
            continue
        shape = [g.pick((1, n, n + 1)) for n in array.shape]
        kind = onnx_builder.kind_of(array.dtype)
        ends = [end for end in model.graph.output if end.name == name]
        if ends:
            ends[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))
        else:
            model.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))


def roughened(model: Any, factors: Sequence[float]) -> Any:
    """The same model with stored numbers that fill their mantissas, so that their sums are rounded;
    equal ones stay equal.
    """
    own = type(model)()
    own.CopyFrom(model)
    layers = ("Conv", "ConvTranspose", "MatMul", "Gemm")
    weights = {n for node in own.graph.node if node.op_type in layers for n in node.input[1:]}
    for k, tensor in enumerate(own.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if tensor.name in weights and array.dtype.kind == "f":
            moved = (array * factors[k % len(factors)]).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return own


def retyped(model: Any, kind: str) -> Any:
    """The same model with another type of floats, as far as it is written in this one."""
    wanted = onnx_builder.kind_of(np.dtype(kind))
    own = type(model)()
    own.CopyFrom(model)

    def other(tensor: Any) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(kind)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    resizing = {
        n
        for node in own.graph.node
        if node.op_type in ("Resize", "Upsample")
        for n in node.input[1:]
    }
    for tensor in own.graph.initializer:
        if tensor.name not in resizing:
            other(tensor)
    for node in own.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and node.output[0] not in resizing:
                other(attribute.t)
            elif attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted
            elif attribute.HasField("g") or attribute.name.startswith(("value_float", "sparse")):
                return model
    for end in (*own.graph.input, *own.graph.output):
        if end.type.tensor_type.elem_type == TensorProto.FLOAT:
            end.type.tensor_type.elem_type = wanted
    return own


# What has to hold -----------------------------------------------------------------------------------------------


class Wrong(Exception):
    """A finding: its kind and what was seen."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(kind, what)
        self.kind, self.what = kind, what


class Skipped(Exception):
    """Nothing can be said of this graph."""


def evaluated(model: Any, feeds: Mapping[str, Array], every: bool) -> dict[str, Array]:
    """Outputs of a model, or all its values, by the reference in 64 bits."""
    own = type(model)()
    own.CopyFrom(model)
    if every:
        there = {end.name for end in own.graph.output}
        for node in own.graph.node:
            for name in node.output:
                if name and name not in there and node.op_type != "Constant":
                    there.add(name)
                    own.graph.output.append(helper.make_empty_tensor_value_info(name))
    stored = {t.name: numpy_helper.to_array(t) for t in own.graph.initializer}
    if len(own.graph.sparse_initializer):
        raise Skipped("sparse tensors, which the reference does not take")
    return run_model(own, stored, feeds)


def inputs(case: Case, rng: np.random.Generator) -> list[dict[str, Array]]:
    """Small, large, sparse and one-sided inputs, within the bounds."""
    found = []
    for way in ("small", "large", "sparse", "positive", "negative"):
        feeds = {}
        for name, shape in case.shapes.items():
            x = rng.integers(-16, 17, shape) / 8
            if way == "large":
                x = rng.integers(-1024, 1025, shape).astype(float)
            elif way == "sparse":
                x = x * (rng.random(shape) < 0.4)
            elif way != "small":
                x = np.abs(x) * (1 if way == "positive" else -1)
            if name in case.ranges:
                low, high = case.ranges[name]
                x = low + (high - low) * rng.integers(0, 9, shape) / 8
            feeds[name] = x
        found.append(feeds)
    return found


def checked(case: Case, seed: int) -> collections.Counter[str]:
    """Everything that has to hold of a case; what was done.

    Raises:
        Wrong: something does not.
    """
    rng = np.random.default_rng(seed)
    said = collections.Counter[str]()
    data = case.model.SerializeToString()
    feeds = inputs(case, rng)
    try:
        before = [evaluated(case.model, one, every=True) for one in feeds]
    except UnsupportedModel as error:
        raise Skipped(str(error)[:80]) from None
    for name, value in before[0].items():
        if case.sizes.get(name, value.shape) != value.shape:
            raise Skipped(f"the reference gives {value.shape}, onnxruntime {case.sizes[name]}")
    graph = guarded("read", lambda: read_graph(data, None, "random", no_chain))
    kinds = {node.op_type for node in case.model.graph.node}
    exact = case.exact
    if kinds & JUMPS and not exact:
        said["jumps"] += 1
    require_sizes(graph.model, before)
    known = guarded("facts", lambda: Known(graph.model, case.ranges))
    said["facts"] += require_facts(known, before, 1e-5 if kinds & SINGLE else CLOSE)
    written = guarded("search", lambda: reduce_source(graph, ranges=case.ranges, budget=300))
    found, small = written.found, written.graph
    said["reduced"] += bool(found.rounds)
    said["moves"] += sum(map(len, found.rounds))
    proof = GraphCertificate(
        graph.digest, small.digest, tuple(found.rounds), case.ranges, found.slack
    )
    said["rounded"] += found.slack != NO_SLACK
    require_living(graph.model, found)
    again = guarded("text", lambda: GraphCertificate.from_json(as_text(proof)))
    guarded("certificate", lambda: again.verify(small.model, graph.model))
    compare(case, saved(small), feeds, before, exact, "reduced", found.slack)
    said["apart"] += require_near(case, graph, known, rng, feeds, before)
    said["forged"] += require_refused(case, graph, known, rng, feeds, before, exact)
    return said


def require_living(model: Any, found: Any) -> None:
    """As many indices are left as units are said to live, wherever an axis of a stored tensor has units of
    one axis alone.

    Raises:
        Wrong: they are not.
    """
    fates = fates_of_units(model, found.rounds, found.renamed)
    axes = placed_axes(model)
    met = collections.Counter(place for axis in axes for place, _ in axis.places)
    for axis, places in axes:
        for place, numbers in places:
            left = found.graph.constants.get(place[0])
            if left is None or met[place] > 1 or (numbers < 0).any():
                continue
            # a unit of several indices lives as long as one of them does
            lives = fates[axis.name] == 0
            least, most = int(lives[np.unique(numbers)].sum()), int(lives[numbers].sum())
            if not least <= left.shape[place[1]] <= most:
                raise Wrong(
                    "living",
                    f"{least} to {most} indices live along {place}: {left.shape} are there",
                )


def as_text(proof: GraphCertificate) -> str:
    return json.dumps(proof.to_json())


def no_chain() -> Any:
    raise UnsupportedModel("no chain")


def saved(graph: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = graph.source.save(Path(folder) / "small.onnx")
        return onnx.load(str(path))


def guarded(what: str, f: Callable[[], Any]) -> Any:
    """Whatever goes wrong here is a finding."""
    try:
        return f()
    except CertificateRejected as error:
        raise Wrong(f"{what} rejected", str(error)[:300]) from None
    except UnsupportedModel as error:
        raise Wrong(f"{what} refused", str(error)[:300]) from None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.name}"
        raise Wrong(f"{what} raises {type(error).__name__} in {where}", str(error)[:300]) from error


def require_sizes(model: Any, before: Sequence[Mapping[str, Array]]) -> None:
    for name, shape in model.shapes.items():
        value = before[0].get(name)
        if value is None or shape is None:
            continue
        fits = len(shape) == value.ndim and all(
            n == m for n, m in zip(shape, value.shape, strict=True) if isinstance(n, int)
        )
        if not fits:
            raise Wrong("sizes", f"{name}: {shape} is {value.shape}")


def require_facts(known: Known, before: Sequence[Mapping[str, Array]], close: float) -> int:
    """Bounds, constants, and multiples within each tensor, at all inputs."""
    count = 0
    for values in before:
        broken = {
            name
            for name, value in values.items()
            if not np.isfinite(np.asarray(value, dtype=float)).all()
        }
        if broken:
            continue  # what is no number somewhere may be no number behind
        for (name, axis), facts in known.found.items():
            value = values.get(name)
            if value is None or known.array(name) is not None:
                continue
            slices = np.moveaxis(np.asarray(value, dtype=np.float64), axis, 0)
            count += require_slices(facts, slices, f"{name} along {axis}", close)
    return count


def require_slices(facts: Any, slices: Array, where: str, close: float) -> int:
    count, first = 0, dict[int, tuple[Array, Fraction]]()
    if len(slices) != len(facts):
        raise Wrong("facts", f"{where}: {len(facts)} slices of {len(slices)}")
    for i, part in enumerate(slices):
        if not part.size:
            continue
        slack = close * (1 + np.abs(part).max())
        if part.min() < facts.low[i] - slack or part.max() > facts.high[i] + slack:
            raise Wrong(
                "bounds",
                f"{where}, {i}: {part.min()} to {part.max()}, said {facts.low[i]} to {facts.high[i]}",
            )
        name, ratio = int(facts.classes[i]), facts.ratios[i]
        if name == ONE or ratio == 0:
            count += 1
            if not np.allclose(part, float(ratio), rtol=close, atol=slack):
                raise Wrong("constant", f"{where}, {i}: said {ratio}")
        elif name in first:
            count += 1
            other, r = first[name]
            scale = (
                float(max(abs(ratio), abs(r)))
                * close
                * (1 + np.abs(part).max() + np.abs(other).max())
            )
            if not np.allclose(part * float(r), other * float(ratio), rtol=close, atol=scale):
                raise Wrong("multiple", f"{where}, {i}: said {ratio} to {r}")
        else:
            first[name] = part, ratio
    return count


def folds(model: Any) -> bool:
    """Whether a function of constants is among its constants, which files round to their own type."""
    fixed = {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if fixed.issuperset(names):
            if names and node.op_type not in EXACT:
                return True
            fixed.update(node.output)
    return False


def compare(
    case: Case, model: Any, feeds: Sequence[Mapping[str, Array]], before: Sequence[Mapping[str, Array]], exact: bool,
    what: str, slack: Slack = NO_SLACK,
) -> None:  # fmt: skip
    """The outputs of a file are those of the case, up to the slack."""
    rounded = folds(case.model) or any(n.op_type in SINGLE for n in case.model.graph.node)
    close = 1e-5 if rounded else CLOSE
    if rounded and any(t.data_type == TensorProto.FLOAT16 for t in case.model.graph.initializer):
        close = 2e-3  # what is made of constants is rounded to their type, and not by the reference
    for one, values in zip(feeds, before, strict=True):
        if not all(np.isfinite(as_floats(value)).all() for value in values.values()):
            continue  # over the reals it says nothing there
        try:
            after = evaluated(model, one, every=False)
        except UnsupportedModel as error:
            raise Wrong(f"{what} does not run", str(error)[:300]) from None
        broken = not all(np.isfinite(as_floats(v)).all() for v in after.values())
        if broken and (slack != NO_SLACK or what == "other numbers"):
            continue
        for end in case.model.graph.output:
            a, b = (np.asarray(v[end.name]) for v in (values, after))
            if a.shape != b.shape:
                raise Wrong(f"{what} shape", f"{end.name}: {a.shape} is {b.shape}")
            a, b = a.astype(np.float64), b.astype(np.float64)
            gap, size = np.abs(a - b).max(initial=0), np.abs(a).max(initial=0)
            largest = max(
                np.abs(v[np.isfinite(v)]).max(initial=0) for v in map(as_floats, values.values())
            )
            if largest > BEYOND and not exact:
                continue  # sums in another order differ by more than outputs are
            whole = exact and largest < 2**40 and largest < 2.0**46 * least_bit(values)
            allowed = 0.0 if whole else close * max(size, min(largest, 1e6), 1e-3)
            reach = max((float(np.abs(x).max(initial=0)) for x in one.values()), default=0.0)
            allowed += slack.within(reach)
            if not gap <= allowed:
                jumps = {node.op_type for node in case.model.graph.node} & JUMPS
                kind = "jumps" if jumps and not exact else "differs"
                raise Wrong(
                    f"{what} {kind}", f"{end.name}: by {gap} where {allowed} is allowed, of {size}"
                )


def least_bit(values: Mapping[str, Array]) -> float:
    """The largest power of two of which all values are multiples."""
    least = np.inf
    for value in map(as_floats, values.values()):
        fractions, exponents = np.frexp(value[np.isfinite(value) & (value != 0)])
        whole = np.ldexp(fractions, 53).astype(np.int64)
        bits = np.ldexp((whole & -whole).astype(np.float64), exponents - 53)
        least = min(least, float(bits.min(initial=np.inf)))
    return least


def as_floats(value: Array) -> Array:
    return np.asarray(value, dtype=np.float64)


def require_near(
    case: Case, graph: Any, known: Known, rng: np.random.Generator, feeds: Any, before: Any
) -> int:
    """Other numbers in the same graph change outputs by what is said at most."""
    other = type(case.model)()
    other.CopyFrom(case.model)
    for tensor in other.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or rng.random() < 0.5:
            continue
        size = 2.0 ** -float(rng.integers(0, 20))
        moved = array + size * rng.uniform(-1, 1, array.shape) * (rng.random(array.shape) < 0.5)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(array.dtype), tensor.name))
    try:
        model = read_graph(other.SerializeToString(), None, "random", no_chain).model
    except UnsupportedModel:
        return 0
    ours = graph.model
    same = (ours.nodes, ours.shapes) == (model.nodes, model.shapes)
    if not same or set(ours.constants) != set(model.constants):
        return 0

    def deviation(name: str) -> Any:
        a, b = (np.asarray(m.constants[name], dtype=np.float64) for m in (ours, model))
        gap = np.abs(a - b)
        return np.asarray(np.nextafter(gap, np.inf) * (gap > 0)) if gap.any() else None

    slack = guarded("difference", lambda: difference(model, deviation, known))
    if not slack.finite:
        return 0
    compare(case, other, feeds, before, False, "other numbers", slack)
    return 1


def require_refused(
    case: Case,
    graph: Any,
    known: Known,
    rng: np.random.Generator,
    feeds: Any,
    before: Any,
    exact: bool,
) -> int:
    """Moves made by chance: those that the kernel takes are true."""
    model = graph.model
    places = [
        (name, axis)
        for name, shape in model.shapes.items()
        for axis, n in enumerate(shape or ())
        if isinstance(n, int) and n > 1
    ]
    taken = 0
    for _ in range(min(6, len(places))):
        seed = places[int(rng.integers(len(places)))]
        try:
            labels = units_from(model, seed).places[seed]
        except CertificateRejected:
            continue
        n = len(labels)
        free = np.flatnonzero(labels)
        if not len(free):
            continue
        units = rng.choice(free, int(rng.integers(1, min(3, len(free)) + 1)), replace=False)
        into = [int(rng.integers(-1, n)) for _ in units]
        move = GraphMove("remove", *seed, tuple(map(int, units)), tuple(into))
        try:
            wanted, slack = played(model, [move], case.ranges)
        except CertificateRejected:
            continue
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise Wrong(
                f"a move raises {type(error).__name__} in {last.name}", f"{move}: {error}"
            ) from error
        try:
            small = graph.source.rewritten(wanted, {})
        except UnsupportedModel:
            continue
        taken += 1
        compare(case, saved(small), feeds, before, exact, "forged move", slack)
    sums = [node.output for node in model.nodes if node.output not in model.outputs]
    for name in sums[:: max(1, len(sums) // 3)]:
        try:
            played(model, [GraphMove("bypass", name)], case.ranges)
        except CertificateRejected:
            continue
        taken += 1
    return taken


# Many -----------------------------------------------------------------------------------------------------------


def tried(seed: int) -> Ending:
    """How one seed ends."""
    case = None
    try:
        case = make(seed)
        if case is None:
            return Ending("none")
        return Ending("passed", done=checked(case, seed))
    except Skipped as error:
        return Ending("skipped", str(error))
    except Wrong as error:
        return Ending(FINDING + error.kind, f"{error.what} {case and case.steps}", case)


def smaller(case: Case, seed: int, kind: str) -> Case:
    """The same finding at an earlier output, where there is one."""
    values = evaluated(case.model, inputs(case, np.random.default_rng(0))[0], every=True)
    for node in case.model.graph.node:
        for name in node.output:
            if name not in values or values[name].dtype.kind != "f":
                continue
            own = type(case.model)()
            own.CopyFrom(case.model)
            del own.graph.output[:]
            dims = [f"{name}_{k}" for k in range(values[name].ndim)]
            own.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
            reached = {name}
            keep = []
            for one in reversed(own.graph.node):
                if not reached.isdisjoint(one.output):
                    keep.append(one)
                    reached.update(onnx_builder.names_read([one]))
            nodes = [type(one).FromString(one.SerializeToString()) for one in reversed(keep)]
            del own.graph.node[:]
            own.graph.node.extend(nodes)
            tensors = [t for t in own.graph.initializer if t.name in reached]
            del own.graph.initializer[:]
            own.graph.initializer.extend(tensors)
            less = Case(own, case.ranges, case.shapes, case.steps, case.sizes)
            try:
                checked(less, seed)
            except Wrong as error:
                if error.kind == kind:
                    return less
            except Exception:
                continue
    return case


def keep(ending: Ending, seed: int, path: Path) -> None:
    """A smaller graph with the same finding, as a file and as text."""
    less = smaller(ending.case, seed, ending.kind.removeprefix(FINDING))
    path.with_suffix(".onnx").write_bytes(less.model.SerializeToString())
    text = onnx.printer.to_text(less.model)
    path.with_suffix(".txt").write_text(f"{ending.kind}: {ending.what}\n{less.ranges}\n{text}\n")


def run(seeds: Iterable[int], findings: Path | None = None) -> collections.Counter[str]:
    return many_seeds.run(tried, seeds, findings, keep)


if __name__ == "__main__":
    raise SystemExit(many_seeds.main(__doc__, 1000, run))
