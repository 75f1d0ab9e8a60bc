"""All values of an ONNX model by its reference, in numbers of any kind: 64 bits, 80 bits, rationals."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import graph_fuzz as fuzz
import numpy as np
from graph_fuzz import Skipped
from onnx import defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy import special

from moduli.formats.onnx.reference import mended

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
LONG = np.dtype(np.longdouble)
DOUBLE = np.dtype(np.float64)
RATIONAL = np.dtype(object)  # of Fractions
FLOATS = (1, 10, 11, 16)  # types of ONNX
# These give what they were given, floats included.
CHOOSING = {"Clip", "Max", "MaxPool", "Min", "Pad", "Where"}


def like(number: float, x: Array) -> Any:
    """A number of a file, as one of an array's."""
    return Fraction(float(number)) if x.dtype == RATIONAL else x.dtype.type(number)


def batch_norm(x: Array, *further: Array, epsilon: float, **_: Any) -> Array:
    shape = [1, -1] + [1] * (x.ndim - 2)
    scale, shift, mean, variance = (part.reshape(shape) for part in further)
    square = variance + like(epsilon, x)
    return scale * (x - mean) / (roots(square) if x.dtype == RATIONAL else np.sqrt(square)) + shift


@np.vectorize
def roots(square: Fraction) -> Fraction:
    found = Fraction(math.isqrt(square.numerator), math.isqrt(square.denominator))
    if found * found != square or not found:
        raise ArithmeticError(f"the root of {square} is no rational")
    return found


def dequantised(
    x: Array, scale: Array, zero: Any = None, axis: int = 1, block_size: int = 0, **_: Any
) -> Array:
    parts = [scale, np.zeros((), x.dtype) if zero is None else zero]
    for k, part in enumerate(parts):
        if block_size and part.ndim:
            parts[k] = np.repeat(part, block_size, axis).take(range(x.shape[axis]), axis)
        elif part.ndim:
            own = [1] * x.ndim
            own[axis] = -1
            parts[k] = part.reshape(own if part.size > 1 else ())
    return (x.astype(scale.dtype) - parts[1].astype(scale.dtype)) * parts[0]


def power(x: Array, y: Array) -> Array:
    if x.dtype == RATIONAL and any(abs(e) > 8 or e.denominator > 1 for e in y.ravel().tolist()):
        raise ArithmeticError("it would take any memory, or is no rational")
    return np.asarray(x**y)


def gemm(
    a: Array, b: Array, c: Any = None, *, alpha: float, beta: float, transA: int, transB: int, **_: Any
) -> Array:  # fmt: skip
    product = like(alpha, a) * np.matmul(a.T if transA else a, b.T if transB else b)
    return product if c is None else product + like(beta, a) * c


def gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        inner = np.sqrt(2 / np.pi) * (x + like(float(np.float32(0.044715)), x) * x**3)
        return x / 2 * (1 + np.tanh(inner))
    return x / 2 * (1 + erf(x / np.sqrt(2)))


def erf(x: Array) -> Array:
    return special.erf(x.astype(DOUBLE)).astype(x.dtype) if x.dtype != RATIONAL else x.erf


def cast(x: Array, to: int, **_: Any) -> Array:
    if to in FLOATS:
        return x if x.dtype.kind in "fO" else x.astype(DOUBLE)
    return x.astype(helper.tensor_dtype_to_np_dtype(to))


def cast_like(x: Array, other: Array, **_: Any) -> Array:
    return cast(x, FLOATS[0]) if other.dtype.kind in "fO" else x.astype(other.dtype)


def windows(n: int, k: int, axis: int, given: Any) -> tuple[Array, Array, Array]:
    """Places that the windows of a pool read along an axis, ``[windows, k]``; which are of the input,
    and which of it and its padding.
    """
    stride, dilation = (
        (given.get(name) or [1] * (axis + 1))[axis] for name in ("strides", "dilations")
    )
    pads, auto, wide = given.get("pads"), given.get("auto_pad"), dilation * (k - 1) + 1
    before, after = (pads[axis], pads[len(pads) // 2 + axis]) if pads else (0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = max((-(-n // stride) - 1) * stride + wide - n, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        after = total - before
    elif auto == "VALID":
        before = after = 0
    room = n + before + after - wide
    count = (-(-room // stride) if given.get("ceil_mode") else room // stride) + 1
    count -= bool(given.get("ceil_mode")) and (count - 1) * stride >= n + before
    places = np.arange(count)[:, None] * stride - before + np.arange(k) * dilation
    return places, (places >= 0) & (places < n), places < n + after


def max_pool(x: Array, kernel_shape: Any, **given: Any) -> Array:
    for axis, k in enumerate(kernel_shape):
        places, there, _ = windows(x.shape[axis + 2], k, axis, given)
        parts = np.take(x, places.clip(0, x.shape[axis + 2] - 1), axis + 2)
        there = there.reshape(*there.shape, *[1] * (x.ndim - axis - 3))
        x = np.where(there, parts, -np.inf).max(axis=axis + 3)
    return x


def average_pool(x: Array, kernel_shape: Any, count_include_pad: int = 0, **given: Any) -> Array:
    for axis, k in enumerate(kernel_shape):
        places, there, inside = windows(x.shape[axis + 2], k, axis, given)
        parts = np.take(x, places.clip(0, x.shape[axis + 2] - 1), axis + 2)
        tail = [1] * (x.ndim - axis - 3)
        count = (inside if count_include_pad else there).sum(axis=1).reshape(-1, *tail)
        there = there.reshape(*there.shape, *tail)
        x = np.where(there, parts, like(0, x)).sum(axis=axis + 3) / count
    return x


# Of all types of numbers: the reference has some in 32 bits, and with numbers of 64 bits in them.
OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "CastLike": cast_like,
    "Celu": lambda x, alpha: (
        np.maximum(x, 0) + np.minimum(0, like(alpha, x) * np.expm1(x / like(alpha, x)))
    ),
    "DequantizeLinear": dequantised,
    "Elu": lambda x, alpha: np.where(x > 0, x, like(alpha, x) * np.expm1(np.minimum(x, 0))),
    "Erf": erf,
    "Gelu": gelu,
    "Gemm": gemm,
    "HardSigmoid": lambda x, alpha, beta: np.maximum(
        np.minimum(x * like(alpha, x) + like(beta, x), like(1, x)), like(0, x)
    ),
    "HardSwish": lambda x: x * np.maximum(np.minimum(x + 3, like(6, x)), like(0, x)) / 6,
    "LeakyRelu": lambda x, alpha: np.where(x >= 0, x, x * like(alpha, x)),
    "MaxPool": max_pool,
    "Mish": lambda x: x * np.tanh(np.logaddexp(like(0, x), x)),
    "Pow": power,
    "Selu": lambda x, alpha, gamma: (
        like(gamma, x) * np.where(x > 0, x, like(alpha, x) * np.expm1(np.minimum(x, 0)))
    ),
    "Shrink": lambda x, bias, lambd: np.where(
        x < -lambd, x + like(bias, x), np.where(x > lambd, x - like(bias, x), like(0, x))
    ),
    "Softplus": lambda x: np.logaddexp(like(0, x), x),
    "ThresholdedRelu": lambda x, alpha: np.where(x > alpha, x, like(0, x)),
}


@cache
def operators(opset: int) -> tuple[Any, ...]:
    found = []
    for name, f in OPERATORS.items():
        if defs.has(name, opset, ""):

            def run(self: Any, *x: Any, f: Any = f, **given: Any) -> Any:
                return (np.asarray(f(*x, **given)),)

            schema = defs.get_schema(name, opset, "")
            found.append(type(name, (OpRun,), dict(_run=run, op_domain="", op_schema=schema)))
    return (*found, *mended(opset))


class Runner:
    """All values of a model, in numbers of any kind; what cannot be computed with them is left out.

    Attributes:
        makers: for each value, the node that gives it. rough: values of which only more or less is
            known what they are: made of constants that are made of constants and rounded to the
            type of the file. jumping: behind a jump.
    """

    def __init__(self, model: Any, first: Any = DOUBLE) -> None:
        if model.graph.sparse_initializer or model.functions:
            raise Skipped("sparse tensors, or functions")
        self.first = first
        self.stored: Values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        nodes = []
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.stored[node.output[0]] = written(node)
            else:
                nodes.append(node)
        ends = [end for end in model.graph.input if end.name not in self.stored]
        own = helper.make_graph(
            nodes, "g", ends, [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
        )
        versions = {entry.domain: entry.version for entry in model.opset_import}
        imports = [helper.make_opsetid(*entry) for entry in versions.items()]
        opset = versions.get("", 1)
        try:
            made = ReferenceEvaluator(
                helper.make_model(own, opset_imports=imports), new_ops=list(operators(opset))
            )
        except NotImplementedError as error:
            raise Skipped(str(error)[:80]) from None
        self.nodes = list(zip(nodes, made.rt_nodes_, strict=True))
        # the numbers that say how much to resize have a type of their own
        self.apart = {
            name
            for node in nodes
            if node.op_type in ("Resize", "Upsample")
            for name in node.input[1:]
        }
        self.ancestors = dict[str, frozenset[str]]()
        self.parts = dict[str, bool]()  # whether rows of inputs give rows of a value
        self.makers = {name: node for node in nodes for name in node.output if name}
        self.inputs = [end.name for end in ends]
        self.outputs = [end.name for end in model.graph.output]
        self.constants = {dtype: self._stored(dtype) for dtype in (DOUBLE, LONG, RATIONAL)}
        self.rough = self._behind(self._rounded())
        self.jumping = self._behind(
            {n for n, node in self.makers.items() if node.op_type in fuzz.JUMPS}
        )
        self.plain = {
            name
            for name in self.makers
            if all(
                self.makers[x].op_type in fuzz.EXACT for x in self.above(name) if x in self.makers
            )
        }

    def _stored(self, dtype: Any) -> Values:
        return {
            name: numbers(array, dtype)
            if array.dtype.kind not in "iub" and name not in self.apart
            else array
            for name, array in self.stored.items()
        }

    def _rounded(self) -> set[str]:
        """Values of constants alone that are no numbers of their type."""
        kinds = {
            a.dtype
            for n, a in self.stored.items()
            if a.dtype.kind not in "iub" and n not in self.apart
        }
        kind = min(kinds, key=lambda dtype: dtype.itemsize, default=DOUBLE)
        found, fixed = set[str](), dict(self.constants[RATIONAL])
        for node, run in self.nodes:
            names = [name for name in node.input if name]
            if not names or not all(name in fixed or name in found for name in names):
                continue
            self._step(node, run, fixed, RATIONAL)
            for name in node.output:
                array = fixed.get(name)
                if array is None or not held(array, kind):
                    found.add(name)
                    fixed.pop(name, None)
        return found

    def _behind(self, names: set[str]) -> set[str]:
        found = set(names)
        for node, _ in self.nodes:
            if not found.isdisjoint(fuzz.onnx_builder.names_read([node])):
                found.update(node.output)
        return found

    def above(self, name: str) -> frozenset[str]:
        """All values that make one, itself included."""
        if name not in self.ancestors:
            node = self.makers.get(name)
            read = [] if node is None else fuzz.onnx_builder.names_read([node])
            self.ancestors[name] = frozenset({name}).union(*map(self.above, read))
        return self.ancestors[name]

    def unsteady(self, name: str) -> bool:
        """Whether what roundings do to a value has no measure: it is behind a jump, or behind such
        as a softmax of numbers of any size.
        """
        return name in self.jumping or (self.first == LONG and name not in self.plain)

    def run(self, feeds: Values, dtype: Any = None, wanted: frozenset[str] | None = None) -> Values:
        """Values by name, or those of some that are wanted with all that makes them."""
        dtype = dtype or self.first
        known = {
            "": None,
            **self.constants[dtype],
            **{n: numbers(x, dtype) for n, x in feeds.items()},
        }
        with np.errstate(all="ignore"):
            for node, run in self.nodes:
                if wanted is None or not wanted.isdisjoint(node.output):
                    self._step(node, run, known, dtype)
        return {name: x for name, x in known.items() if name in self.makers or name in feeds}

    def _step(self, node: Any, run: Any, known: dict[str, Any], dtype: Any) -> None:
        try:
            inputs = [known[name] for name in node.input]
            more = {"context": known} if run.need_context() else {}
            for name, x in zip(node.output, run.run(*inputs, **more), strict=False):
                taken = settled(node.op_type, np.asarray(x), dtype)
                if taken is not None:
                    known[name] = taken
        except Exception:  # whatever the reference stumbles over: it says nothing of this value
            for name in node.output:
                known.pop(name, None)


def written(node: Any) -> Array:
    """What a node has as its constant."""
    (attribute,) = node.attribute
    if attribute.name == "sparse_value":
        raise Skipped("sparse tensors")
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    return np.array(value, dtype=np.float32 if "float" in attribute.name else np.int64)


def held(array: Array, kind: Any) -> bool:
    """Whether a type of floats holds Fractions."""
    if array.dtype != RATIONAL:
        return True
    with np.errstate(all="ignore"):
        near = array.astype(kind).astype(DOUBLE)
    return bool(np.isfinite(near).all() and (exact(near) == array).all())


def numbers(array: Array, dtype: Any) -> Array:
    if dtype == RATIONAL:
        return exact(array) if array.dtype != RATIONAL else array
    return np.asarray(array).astype(dtype)


def exact(array: Array) -> Array:
    """As Fractions."""
    return np.asarray(fractions(array)) if array.size else array.astype(object)


def fraction(x: Any) -> Fraction:
    if isinstance(x, (float, np.floating)):
        return Fraction(*x.as_integer_ratio())
    # a Fraction of NumPy's integers would overflow as they do
    return Fraction(int(x.numerator), int(x.denominator))


fractions = np.vectorize(fraction, otypes=[object])


def settled(op: str, x: Array, dtype: Any) -> Array | None:
    """A value in the numbers that are asked for; None where it is not known in these."""
    if x.dtype.kind in "iub":
        return x
    if dtype != RATIONAL:
        return x.astype(dtype)
    if x.dtype != RATIONAL:
        return exact(x) if op in {*fuzz.EXACT, "CastLike"} and np.isfinite(x).all() else None
    for entry in x.ravel().tolist():
        if isinstance(entry, float) and (op not in CHOOSING or not math.isfinite(entry)):
            return None
    return exact(x)


def numbered(value: Fraction, dtype: Any) -> Any:
    """A rational as a number of a type, as near as it holds it."""
    if dtype == RATIONAL:
        return value
    with np.errstate(all="ignore"):
        if dtype == LONG and value:
            shift = value.numerator.bit_length() - value.denominator.bit_length()
            whole = round(value / Fraction(2) ** (shift - 80))
            return np.ldexp(
                np.longdouble(whole >> 20) + np.ldexp(np.longdouble(whole % 2**20), -20), shift - 60
            )
        try:
            return dtype.type(float(value))
        except OverflowError:
            return dtype.type(math.copysign(np.inf, value))
