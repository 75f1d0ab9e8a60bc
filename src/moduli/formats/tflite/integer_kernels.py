"""A TensorFlow Lite file of 8-bit integers, computed as reference kernels do.

There are two families of them. `MICRO` are those of TensorFlow Lite for Microcontrollers, as it is built
without an optimised library: sums in 32 bits, a multiplier in fixed point for each channel, `fixed_point`
for their rounding. `LITERT` are those of the interpreter (`BUILTIN_REF`), which differ in four places:
dense layers multiply and round in float64, the multipliers of MUL and RELU are worked out in float32, LOGISTIC
and TANH are looked up in tables made in floats, and files of bytes without a sign (uint8) are computed too.
Optimised kernels (XNNPACK, ruy, CMSIS-NN) may differ from both by one step, mostly where a number is close
to half-way between two integers.

Numbers are int64 arrays ``[points, *shape]``, with the shape that the file has. An operator, type or
parameter without a rule here is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

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
from moduli.formats.integer_sums import (
    ACCUMULATED,
    Whole,
    Window,
    convolved,
    largest_sums,
    seen,
)
from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel

from . import fixed_point
from .contents import Contents, Operator, Tensor
from .fixed_point import Multiplier
from .schema import ACTIVATIONS, FLOAT32, INT8, INT32, TYPES, UINT8

LIMITS = {INT8: (-128, 127), UINT8: (0, 255)}
SAME = 0
PAIRS = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")
MOST_MET = 4  # axes of two operands, for which kernels bring them to one shape
ADDED_BITS = 20  # by which terms of a sum are shifted to the left before they are rounded
WHOLE_BITS = 5  # before the point, of what a softmax takes the exponential of
SUM_BITS = 12  # before the point, of the sum of these
FUNCTION_BITS = 4  # before the point, of what LOGISTIC and TANH are taken of
SHARES = {INT8: (2.0**-8, -128), UINT8: (2.0**-8, 0)}  # scale and zero point that softmax writes
TABLE_ERROR = 2.0**-21  # relative, of an entry before it is rounded: four units in the last place

# by real numbers, one for each index of the last axis, and rounded
Rescale = Callable[[Ints], Ints]
Handler = Callable[["_Setting"], Compute]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)
MICRO, LITERT = "tflite-micro", "litert"
RULES = {
    MICRO: "the reference kernels of TensorFlow Lite for Microcontrollers",
    LITERT: "the reference kernels of LiteRT",
}


class ReferenceKernels(IntegerNetwork):
    """A file, as these kernels compute it.

    Args:
        kernels: MICRO or LITERT.

    Raises:
        UnsupportedModel: an operator, a type or a scale has no rule here; names it.
    """

    def __init__(self, contents: Contents, kernels: str = MICRO) -> None:
        self.contents, self.kernels = contents, kernels
        self.rules = RULES[kernels]
        self.where = contents.where
        self.alias: dict[int, int] = {}  # floats at the ends, and the integers that they stand for
        ends = {k: self._end(k) for k in contents.inputs}
        self.given = {end.name: self.alias.get(k, k) for k, end in ends.items()}
        self.inputs = tuple(ends.values())
        self.outputs = tuple(map(self._output, contents.outputs))
        self.widest = max(math.prod(t.shape) for t in contents.tensors if t.array is None)
        self.steps = []
        known = {*self.given.values()}
        for operator in contents.operators:
            if self._at_the_ends(operator):
                continue
            self.steps.append(self._step(operator, known))
            known.add(operator.outputs[0])
        for end in self.outputs:
            if end.key not in known:
                name = contents.tensors[end.key].name
                raise self.refused(f"output {name!r} is stored, or nothing gives it")

    # Ends

    def _at_the_ends(self, operator: Operator) -> bool:
        """Whether it makes integers of a float input, or floats of what comes out."""
        between = operator.kind in ("QUANTIZE", "DEQUANTIZE") and not operator.custom
        return between and any(k in self.alias for k in (*operator.inputs, *operator.outputs))

    def _end(self, index: int) -> IntegerInput:
        """An input of integers, or of floats that are rounded to integers at once."""
        tensor, floating = self.contents.tensors[index], False
        if tensor.type == FLOAT32:
            readers = [o for o in self.contents.operators if index in o.inputs]
            rounds = [o.kind == "QUANTIZE" and not o.custom for o in readers]
            if len(readers) != 1 or not all(rounds) or index in self.contents.outputs:
                raise self.refused(f"input {tensor.name!r} is read in floats")
            self.alias[index] = readers[0].outputs[0]
            tensor, floating = self.contents.tensors[self.alias[index]], True
        scale, zero = self._quantised(tensor)
        least, most = LIMITS[tensor.type]
        name = self.contents.tensors[index].name
        return IntegerInput(name, tensor.shape, scale, zero, least, most, floating)

    def _output(self, index: int) -> IntegerOutput:
        """The integers that an output is, or is scaled from."""
        tensor = self.contents.tensors[index]
        if tensor.type == FLOAT32:
            makers = [o for o in self.contents.operators if index in o.outputs]
            readers = [o for o in self.contents.operators if index in o.inputs]
            if len(makers) != 1 or makers[0].kind != "DEQUANTIZE" or readers:
                raise self.refused(f"output {tensor.name!r} is computed in floats")
            self.alias[index] = makers[0].inputs[0]
            tensor = self.contents.tensors[self.alias[index]]
        return IntegerOutput(tensor.index, *self._quantised(tensor), tensor.index != index)

    def _quantised(self, tensor: Tensor) -> tuple[float, int]:
        if tensor.type not in LIMITS or not tensor.quantised:
            kind = TYPES.get(tensor.type, str(tensor.type))
            raise self.refused(
                f"{tensor.name!r} is of type {kind}, and not of quantised integers of 8 bits"
            )
        return _single(tensor, repr(tensor.name))

    def _step(self, operator: Operator, known: set[int]) -> Step:
        handler = None if operator.custom else HANDLERS.get(operator.kind)
        if handler is None:
            raise self.refused(f"{operator.place} has no rule")
        if len(operator.outputs) != 1:
            raise self.refused(f"{operator.place} has {len(operator.outputs)} outputs")
        setting = _Setting(self, operator)
        try:
            compute = handler(setting)
        except UnsupportedModel as error:
            raise self.refused(f"{operator.place}: {error}") from None
        reads = tuple(setting.reads)
        unknown = [k for k in reads if k not in known]
        if unknown:
            name = self.contents.tensors[unknown[0]].name
            raise self.refused(f"{operator.place} reads {name!r}, which nothing before it gives")
        both = operator.inputs[:2] if operator.kind in PAIRS else ()
        types = {self.contents.tensors[k].type for k in (*reads, *both, *operator.outputs)}
        if len(types) > 1 and operator.kind != "QUANTIZE":
            raise self.refused(
                f"{operator.place}: its operands and its output have different types"
            )
        return Step(compute, reads, operator.outputs[0])


def _single(tensor: Tensor, what: str) -> tuple[float, int]:
    """One scale and one zero point."""
    if tensor.scale is None or tensor.zero is None or len(tensor.scale) != 1:
        raise UnsupportedModel(f"{what} has no scale, or several")
    scale = float(tensor.scale[0])
    if not ORDINARY[0] < scale < ORDINARY[1]:
        raise UnsupportedModel(f"{what} has the scale {scale:g}")
    return scale, int(tensor.zero[0])


class _Setting:
    """An operator and its tensors.

    Attributes:
        kinds: types that kernels which compute take; those that move numbers take `LIMITS`.
        reads: the tensors that are computed, in the order in which `compute` takes them.
    """

    def __init__(self, network: ReferenceKernels, operator: Operator) -> None:
        self.operator, self.options = operator, operator.options
        self.micro = network.kernels == MICRO
        self.kinds: tuple[int, ...] = (INT8,) if self.micro else (INT8, UINT8)
        self.tensors = network.contents.tensors
        self.reads: list[int] = []

    def given(self, slot: int) -> Tensor:
        """An operand, which is not left out."""
        if slot >= len(self.operator.inputs) or self.operator.inputs[slot] < 0:
            raise UnsupportedModel(f"operand {slot} is left out")
        return self.tensors[self.operator.inputs[slot]]

    def computed(self, slot: int, kinds: Iterable[int] | None = None) -> tuple[Tensor, float, int]:
        """A computed operand, its scale and its zero point."""
        tensor = self.given(slot)
        if tensor.array is not None:
            raise UnsupportedModel(f"operand {slot} is stored")
        self.reads.append(tensor.index)
        return self.checked(tensor, kinds)

    def operand(self, slot: int) -> tuple[Tensor, float, int]:
        """A computed operand, or a stored one of integers with one scale."""
        tensor = self.given(slot)
        return self.computed(slot) if tensor.array is None else self.checked(tensor)

    def output(self, kinds: Iterable[int] | None = None) -> tuple[Tensor, float, int]:
        return self.checked(self.tensors[self.operator.outputs[0]], kinds)

    def checked(
        self, tensor: Tensor, kinds: Iterable[int] | None = None
    ) -> tuple[Tensor, float, int]:
        if tensor.type not in (kinds or self.kinds) or not tensor.quantised:
            way = "; kernels='litert' has one" if self.micro and tensor.type == UINT8 else ""
            kind = TYPES.get(tensor.type, tensor.type)
            raise UnsupportedModel(f"{tensor.name!r} is of type {kind}, without a rule here{way}")
        return (tensor, *_single(tensor, repr(tensor.name)))

    def stored(self, slot: int, kind: int) -> Tensor | None:
        """A stored operand; None where it is left out."""
        if slot >= len(self.operator.inputs) or self.operator.inputs[slot] < 0:
            return None
        tensor = self.given(slot)
        if tensor.array is None or tensor.type != kind:
            raise UnsupportedModel(
                f"operand {slot} is computed, or of type {TYPES.get(tensor.type, tensor.type)}"
            )
        return tensor

    def integers(self, slot: int) -> list[int]:
        tensor = self.given(slot)
        if tensor.array is None or tensor.array.dtype.kind not in "iu":
            raise UnsupportedModel(f"operand {slot} is computed")
        return [int(n) for n in tensor.array.ravel()]

    def ends(self, scale: float, zero: int, code: int | None = None) -> tuple[int, int]:
        """The least and the largest integer that a fused activation lets through."""
        low, high = LIMITS[self.tensors[self.operator.outputs[0]].type]
        if code is None:
            code = int(self.options.get("fused_activation_function", 0))
        bounds = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
        if code not in bounds:
            raise UnsupportedModel(f"it has the fused activation {ACTIVATIONS.get(code, code)}")
        least, most = bounds[code]
        if least is not None:
            low = max(low, zero + _steps(least, scale))
        if most is not None:
            high = min(high, zero + _steps(most, scale))
        return low, high


def _steps(x: float, scale: float) -> int:
    """x / scale in float32, rounded, halves away from zero."""
    return fixed_point.away(float(np.float32(x) / np.float32(scale)))


# Products and sums ----------------------------------------------------------------------------------------------


def _require_room(sizes: Any, by: Multiplier) -> None:
    """Refuse sums that a shift to the left may carry beyond 32 bits."""
    left = np.maximum(np.asarray(by.shift, dtype=np.int64), 0)
    if (np.asarray(sizes, dtype=np.float64) * 2.0**left >= ACCUMULATED).any():
        raise UnsupportedModel("a sum that is shifted to the left may leave 32 bits")


def _weights(setting: _Setting, axis: int, x: Tensor, offset: bool) -> tuple[Whole, Array]:
    """Stored weights less their zero point, and a scale for each index along an axis.

    Args:
        x: what they meet, whose type they have. offset: whether int8 may have a zero point.
    """
    weight = setting.stored(1, x.type)
    if weight is None or weight.array is None or weight.scale is None or weight.zero is None:
        raise UnsupportedModel("its weights have no scale")
    if len(weight.scale) > 1 and weight.axis != axis:
        raise UnsupportedModel(f"its weights have scales along axis {weight.axis}")
    one = len(weight.scale) == 1
    if x.type == UINT8 and not one:
        raise UnsupportedModel("bytes without a sign have several scales")
    if weight.zero.any() and not (one and (offset or x.type == UINT8)):
        raise UnsupportedModel("its weights have a zero point, which the kernel does not read")
    scales = np.broadcast_to(weight.scale.astype(np.float64), (weight.array.shape[axis],))
    if not ((scales > ORDINARY[0]) & (scales < ORDINARY[1])).all():
        raise UnsupportedModel("its weights have a scale that is tiny, or huge")
    return weight.array.astype(np.float64) - float(weight.zero[0]), scales


def _bias(setting: _Setting, units: int) -> Ints | None:
    bias = setting.stored(2, INT32)
    if bias is None or bias.array is None:
        return None
    if bias.array.shape != (units,):
        raise UnsupportedModel(f"its bias has shape {bias.array.shape} for {units} units")
    return bias.array.astype(np.int64)


def _reach(tensor: Tensor, zero: int) -> int:
    """The largest size of an integer less its zero point."""
    low, high = LIMITS[tensor.type]
    return max(zero - low, high - zero)


def _of_sums(setting: _Setting, weight: Whole, scales: Array, x: Tensor) -> Compute:
    """What is done with sums of products with `weight` ``[units, ...]``: the bias, and rounding."""
    _, x_scale, x_zero = setting.checked(x)
    _, y_scale, y_zero = setting.output()
    bias = _bias(setting, len(weight))
    sizes = largest_sums(weight, _reach(x, x_zero), bias, "its sums")
    low, high = setting.ends(y_scale, y_zero)
    real = x_scale * scales / y_scale
    dense = setting.operator.kind == "FULLY_CONNECTED"
    if x.type == UINT8 and not dense:  # the product of both scales is rounded to 32 bits
        real = (np.float32(x_scale) * scales.astype(np.float32)).astype(np.float64) / y_scale
    if dense and not setting.micro:
        if not (sizes * real).max(initial=0.0) < 2.0**31 - 2**9:
            raise UnsupportedModel("a sum times its scale may leave 32 bits")
        rescale = _in_float64(real)
    else:
        by = fixed_point.multipliers(real)
        _require_room(sizes, by)
        rescale = partial(fixed_point.times, by=by)

    def finish(sums: Whole) -> Ints:
        total = sums.astype(np.int64) + (0 if bias is None else bias)
        return np.clip(rescale(total) + y_zero, low, high)

    return finish


def _in_float64(real: Array) -> Rescale:
    """A product in float64, rounded, halves away from zero."""

    def rescale(sums: Ints) -> Ints:
        product = sums.astype(np.float64) * real
        size = np.abs(product)
        whole = np.floor(size)  # half a step more, and then down, would round twice
        return np.asarray(np.sign(product) * (whole + (size - whole >= 0.5))).astype(np.int64)

    return rescale


def _window(setting: _Setting, size: Sequence[int], shape: Sequence[int]) -> Window:
    options = setting.options
    strides = options.get("stride_h", 0), options.get("stride_w", 0)
    dilations = options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)
    if len(shape) != 4 or min(*strides, *dilations, *size) < 1:
        raise UnsupportedModel(f"strides {strides} and windows {tuple(size)} on shape {shape}")
    pads = []
    for n, k, s, d in zip(shape[1:3], size, strides, dilations, strict=True):
        needed = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        total = needed if options.get("padding", 0) == SAME else 0
        pads.append((total // 2, total - total // 2))
    return Window((size[0], size[1]), strides, dilations, (pads[0], pads[1]))


def _flat(x: Any) -> Any:
    """Points and their batch as one axis."""
    return x.reshape(-1, *x.shape[2:])


def _unflat(y: Any, x: Any) -> Any:
    return y.reshape(*x.shape[:2], *y.shape[1:])


@handles("CONV_2D", "DEPTHWISE_CONV_2D")
def _convolution(setting: _Setting) -> Compute:
    x, _, zero = setting.computed(0)
    deep = setting.operator.kind == "DEPTHWISE_CONV_2D"
    weight, scales = _weights(setting, 3 if deep else 0, x, offset=False)
    if weight.ndim != 4 or len(x.shape) != 4:
        raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {x.shape}")
    if deep:
        if weight.shape[0] != 1 or weight.shape[3] % x.shape[3]:
            raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {x.shape}")
        multiplier = setting.options.get("depth_multiplier", 0)
        if multiplier not in (0, weight.shape[3] // x.shape[3]):
            raise UnsupportedModel(f"its depth multiplier is {multiplier}")
        size, groups = weight.shape[1:3], x.shape[3]
        rows = np.moveaxis(weight[0], 2, 0).reshape(weight.shape[3], -1, 1)
    else:
        size, groups = weight.shape[1:3], x.shape[3] // max(1, weight.shape[3])
        if groups * weight.shape[3] != x.shape[3] or groups < 1 or len(weight) % groups:
            raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {x.shape}")
        rows = weight.reshape(len(weight), -1, weight.shape[3])
    window = _window(setting, size, x.shape)
    finish = _of_sums(setting, rows, scales, x)

    def compute(q: Ints) -> Ints:
        sums = convolved(_flat(q).astype(np.float64) - zero, rows, window, groups)
        return np.asarray(_unflat(finish(sums), q))

    return compute


@handles("FULLY_CONNECTED")
def _dense(setting: _Setting) -> Compute:
    x, _, zero = setting.computed(0)
    if setting.options.get("weights_format", 0):
        raise UnsupportedModel("its weights are shuffled")
    weight, scales = _weights(setting, 0, x, offset=not setting.micro)
    y = setting.tensors[setting.operator.outputs[0]]
    inputs = weight.shape[-1]
    if weight.ndim != 2 or not inputs or math.prod(x.shape) % inputs:
        raise UnsupportedModel(f"weights {weight.shape} meet an input of shape {x.shape}")
    if math.prod(y.shape) != math.prod(x.shape) // inputs * len(weight):
        raise UnsupportedModel(f"it gives shape {y.shape}")
    finish = _of_sums(setting, weight, scales, x)

    def compute(q: Ints) -> Ints:
        rows = q.reshape(len(q), -1, inputs).astype(np.float64) - zero
        return np.asarray(finish(rows @ weight.T).reshape(len(q), *y.shape))

    return compute


@handles("ADD", "SUB")
def _sum(setting: _Setting) -> Compute:
    """Both terms are scaled to twice the larger step, in 20 more bits, and the sum to the output."""
    (_, a_scale, a_zero), (_, b_scale, b_zero) = (setting.operand(slot) for slot in (0, 1))
    _, y_scale, y_zero = setting.output()
    twice = 2.0 * max(a_scale, b_scale)
    back = twice / (2.0**ADDED_BITS * y_scale)
    if back >= 1:
        raise UnsupportedModel(
            f"its output has the scale {y_scale:g} beside inputs of {twice / 2:g}"
        )
    first, second, last = map(fixed_point.multiplier, (a_scale / twice, b_scale / twice, back))
    sign = -1 if setting.operator.kind == "SUB" else 1
    low, high = setting.ends(y_scale, y_zero)

    def compute(a: Ints, b: Ints) -> Ints:
        left = fixed_point.times((a - a_zero) << ADDED_BITS, first)
        right = fixed_point.times((b - b_zero) << ADDED_BITS, second)
        return np.clip(fixed_point.times(left + sign * right, last) + y_zero, low, high)

    return _met(setting, compute)


def _met(setting: _Setting, compute: Compute) -> Compute:
    """The same of both operands, brought to one shape; one of them may be stored."""
    tensors = [setting.tensors[k] for k in setting.operator.inputs[:2]]
    shape = setting.tensors[setting.operator.outputs[0]].shape
    shapes = [tensor.shape for tensor in tensors]
    try:
        fits = np.broadcast_shapes(*shapes) == shape and len(shape) <= MOST_MET
    except ValueError:
        fits = False
    if not fits or not setting.reads:
        raise UnsupportedModel(f"operands of shapes {shapes[0]} and {shapes[1]} give {shape}")
    stored = [None if t.array is None else t.array.astype(np.int64)[None] for t in tensors]

    def wide(*given: Ints) -> Ints:
        left = iter(given)
        parts = [next(left) if part is None else part for part in stored]
        ones = [(1,) * (len(shape) - len(own)) for own in shapes]  # axes in front
        parts = [q.reshape(len(q), *n, *q.shape[1:]) for q, n in zip(parts, ones, strict=True)]
        return np.asarray(compute(*parts))

    return wide


@handles("MUL")
def _product(setting: _Setting) -> Compute:
    (a, a_scale, a_zero), (b, b_scale, b_zero) = (setting.operand(slot) for slot in (0, 1))
    _, y_scale, y_zero = setting.output()
    ratio = a_scale * b_scale / y_scale
    if not setting.micro:
        ratio = float(np.float32(a_scale) * np.float32(b_scale) / np.float32(y_scale))
    by = fixed_point.multiplier(ratio)
    _require_room(_reach(a, a_zero) * _reach(b, b_zero), by)
    low, high = setting.ends(y_scale, y_zero)

    def compute(a: Ints, b: Ints) -> Ints:
        product = (a - a_zero) * (b - b_zero)
        return np.clip(fixed_point.times(product, by) + y_zero, low, high)

    return _met(setting, compute)


@handles("MAXIMUM", "MINIMUM")
def _extreme(setting: _Setting) -> Compute:
    ends = {setting.operand(slot)[1:] for slot in (0, 1)} | {setting.output()[1:]}
    if len(ends) > 1:
        raise UnsupportedModel("its operands and its output have different scales")
    return _met(setting, np.maximum if setting.operator.kind == "MAXIMUM" else np.minimum)


# One scale for another ------------------------------------------------------------------------------------------


def _rescaled(setting: _Setting, ratio: float, ends: tuple[int, int]) -> Compute:
    """From one scale and zero point to another."""
    x = setting.tensors[setting.reads[0]]
    _, _, x_zero = setting.checked(x, LIMITS)
    _, _, y_zero = setting.output(LIMITS)
    by = fixed_point.multiplier(ratio)
    _require_room(_reach(x, x_zero), by)

    def compute(q: Ints) -> Ints:
        return np.clip(fixed_point.times(q - x_zero, by) + y_zero, *ends)

    return compute


@handles("QUANTIZE")
def _requantise(setting: _Setting) -> Compute:
    _, x_scale, _ = setting.computed(0, LIMITS)
    _, y_scale, y_zero = setting.output(LIMITS)
    return _rescaled(setting, x_scale / y_scale, setting.ends(y_scale, y_zero, 0))


@handles("RELU", "RELU6", "RELU_N1_TO_1")
def _relu(setting: _Setting) -> Compute:
    _, x_scale, x_zero = setting.computed(0)
    _, y_scale, y_zero = setting.output()
    kind = setting.operator.kind
    if kind != "RELU" and (x_scale, x_zero) != (y_scale, y_zero):
        raise UnsupportedModel("its input and its output have different scales")
    ratio = x_scale / y_scale if setting.micro else float(np.float32(x_scale) / np.float32(y_scale))
    code = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}[kind]
    return _rescaled(setting, ratio, setting.ends(y_scale, y_zero, code))


@handles("LEAKY_RELU")
def _leaky(setting: _Setting) -> Compute:
    """Multipliers are worked out in float32, in both families."""
    x, x_scale, x_zero = setting.computed(0)
    y, y_scale, y_zero = setting.output()
    slope = np.float32(setting.options.get("alpha", 0.0))
    step = np.float32(x_scale)
    ratios = float(step / np.float32(y_scale)), float(step * slope / np.float32(y_scale))
    if not 0 <= ratios[1] < ORDINARY[1]:
        raise UnsupportedModel(f"its slope is {slope:g}")
    above, below = map(fixed_point.multiplier, ratios)
    for by in (above, below):
        _require_room(_reach(x, x_zero), by)
    low, high = LIMITS[y.type]

    def compute(q: Ints) -> Ints:
        real = q - x_zero
        found = np.where(real >= 0, fixed_point.times(real, above), fixed_point.times(real, below))
        return np.asarray(np.clip(found + y_zero, low, high))

    return compute


# Pools ----------------------------------------------------------------------------------------------------------


def _kept(setting: _Setting, slots: Sequence[int] = (0,)) -> tuple[float, int]:
    """The scale and zero point that operands and output share."""
    said = {setting.computed(slot, LIMITS)[1:] for slot in slots}
    said.add(setting.output(LIMITS)[1:])
    if len(said) > 1:
        raise UnsupportedModel("its operands and its output have different scales")
    return said.pop()


@handles("AVERAGE_POOL_2D", "MAX_POOL_2D")
def _pool(setting: _Setting) -> Compute:
    """Averages are rounded, halves away from zero; integers beyond the border are not counted."""
    scale, zero = _kept(setting)
    low, high = setting.ends(scale, zero)
    x, *_ = setting.checked(setting.tensors[setting.reads[0]])
    options = setting.options
    size = options.get("filter_height", 0), options.get("filter_width", 0)
    window = _window(setting, size, x.shape)
    largest = setting.operator.kind == "MAX_POOL_2D"
    counts = seen(np.ones((1, *x.shape[1:3], 1), dtype=np.int64), window).sum(axis=3)

    def compute(q: Ints) -> Ints:
        parts = seen(_flat(q), window, LIMITS[x.type][0] if largest else 0)
        if largest:
            found = parts.max(axis=3)
        else:
            total = parts.sum(axis=3)
            found = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
        return np.asarray(np.clip(_unflat(found, q), low, high))

    return compute


@handles("MEAN")
def _mean(setting: _Setting) -> Compute:
    """The multiplier is divided by how many numbers are added, with as many bits as that leaves it."""
    x, x_scale, x_zero = setting.computed(0)
    y, y_scale, y_zero = setting.output()
    rank = len(x.shape)
    axes = setting.integers(1)
    if not rank or any(not -rank <= axis < rank for axis in axes):
        raise UnsupportedModel(f"axes {axes} of {rank}")
    axes = sorted({axis % rank for axis in axes})
    count = math.prod(x.shape[axis] for axis in axes)
    if not axes or count < 1 or math.prod(y.shape) * count != math.prod(x.shape):
        raise UnsupportedModel(f"it makes shape {y.shape} of {x.shape} along {axes}")
    whole = fixed_point.multiplier(x_scale / y_scale)
    bits = min(count.bit_length() - 1, 31 + whole.shift)
    by = Multiplier((whole.mantissa << bits) // count, whole.shift - bits)
    _require_room(_reach(x, x_zero) * count, by)
    low, high = LIMITS[y.type]

    def compute(q: Ints) -> Ints:
        total = (q - x_zero).sum(axis=tuple(axis + 1 for axis in axes))
        found = np.clip(fixed_point.times(total, by) + y_zero, low, high)
        return np.asarray(found.reshape(len(q), *y.shape))

    return compute


# What only moves integers ---------------------------------------------------------------------------------------


@handles("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(setting: _Setting) -> Compute:
    _kept(setting)
    before = setting.tensors[setting.reads[0]].shape
    after = setting.tensors[setting.operator.outputs[0]].shape
    if math.prod(before) != math.prod(after):
        raise UnsupportedModel(f"it makes shape {after} of {before}")
    return lambda q: q.reshape(len(q), *after)


@handles("TRANSPOSE")
def _transpose(setting: _Setting) -> Compute:
    _kept(setting)
    order = setting.integers(1)
    if sorted(order) != list(range(len(setting.tensors[setting.reads[0]].shape))):
        raise UnsupportedModel(f"order {order} of axes")
    return lambda q: q.transpose(0, *(axis + 1 for axis in order))


@handles("PAD")
def _pad(setting: _Setting) -> Compute:
    _, zero = _kept(setting)
    rank, amounts = len(setting.tensors[setting.reads[0]].shape), setting.integers(1)
    if len(amounts) != 2 * rank or min(amounts, default=0) < 0:
        raise UnsupportedModel(f"amounts {amounts} for {rank} axes")
    pairs = [(0, 0), *((amounts[2 * k], amounts[2 * k + 1]) for k in range(rank))]
    return lambda q: np.pad(q, pairs, constant_values=zero)


@handles("CONCATENATION")
def _concatenate(setting: _Setting) -> Compute:
    _kept(setting, range(len(setting.operator.inputs)))
    if setting.options.get("fused_activation_function", 0):
        raise UnsupportedModel("it has a fused activation")
    rank = len(setting.tensors[setting.operator.outputs[0]].shape)
    axis = setting.options.get("axis", 0)
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of {rank}")
    return lambda *parts: np.concatenate(parts, axis=axis % rank + 1)


# Functions ------------------------------------------------------------------------------------------------------


def _require_output(setting: _Setting, scale: float, zero: int) -> None:
    """Refuse another scale and zero point than the one that a kernel writes."""
    found = setting.output()[1:]
    if found != (scale, zero):
        raise UnsupportedModel(
            f"its output has the scale {found[0]:g} and the zero point {found[1]}"
        )


# from so many entries of a softmax on their sum may have more than 9 whole bits, and the last shift more than 31
MOST_SHARED = 512


@handles("SOFTMAX")
def _softmax(setting: _Setting) -> Compute:
    x, scale, _ = setting.computed(0)
    if not x.shape or x.shape[-1] >= MOST_SHARED:
        raise UnsupportedModel(
            f"a softmax of {x.shape[-1:]} entries may shift by more than 31 bits"
        )
    _require_output(setting, *SHARES[x.type])
    low, high = LIMITS[x.type]
    beta = float(setting.options.get("beta", 0.0))
    steep = min(beta * scale * 2.0 ** (31 - WHOLE_BITS), float(fixed_point.LARGEST))
    if not steep > 1:
        raise UnsupportedModel(f"beta {beta:g} and the scale {scale:g} make no difference")
    by = fixed_point.multiplier(steep)
    least = -fixed_point.radius(WHOLE_BITS, by.shift)

    def compute(q: Ints) -> Ints:
        below = q - q.max(axis=-1, keepdims=True)
        near = below >= least
        inside = fixed_point.times(np.where(near, below, 0), by)
        powers = np.where(near, fixed_point.exp_of_negative(inside, WHOLE_BITS), 0)
        total = fixed_point.shifted_right(powers, SUM_BITS).sum(axis=-1, keepdims=True)
        inverse = fixed_point.reciprocal(total, SUM_BITS)
        shares = fixed_point.high_product(powers, inverse.scale)
        found = fixed_point.shifted_right(shares, inverse.over + 31 - 8) + low
        return np.where(near, np.clip(found, low, high), low)

    return compute


@handles("LOGISTIC", "TANH")
def _function(setting: _Setting) -> Compute:
    logistic = setting.operator.kind == "LOGISTIC"
    x, scale, zero = setting.computed(0)
    least, most = LIMITS[x.type]
    _require_output(setting, *((2.0**-8, least) if logistic else (2.0**-7, least + 128)))
    if not setting.micro:
        return _table(setting, _logistic if logistic else np.tanh)
    by = fixed_point.multiplier(scale * 2.0 ** (31 - FUNCTION_BITS))
    if by.shift < 0:
        raise UnsupportedModel(f"its input has the scale {scale:g}")
    far = fixed_point.radius(FUNCTION_BITS, by.shift)

    def compute(q: Ints) -> Ints:
        x = q - zero
        near = np.abs(x) < far
        inside = fixed_point.times(np.where(near, x, 0), by)
        if logistic:
            raw = fixed_point.logistic(inside, FUNCTION_BITS)
            found = fixed_point.shifted_right(raw, 31 - 8) + least
        else:
            found = fixed_point.shifted_right(fixed_point.tanh(inside, FUNCTION_BITS), 31 - 7)
        return np.where(near, np.clip(found, least, most), np.where(x > 0, most, least))

    return compute


def _logistic(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _table(setting: _Setting, function: Callable[[Array], Array]) -> Compute:
    """What the interpreter looks up: f(scale (q - zero)) in float32, times the inverse of a scale, rounded.

    Its function is that of a C library, of which only a bound of its error is known: a table is refused
    where that leaves an entry open.
    """
    x, x_scale, x_zero = setting.checked(setting.tensors[setting.reads[0]])
    y, y_scale, y_zero = setting.output()
    least, most = LIMITS[x.type]
    q = np.arange(least, most + 1)
    real = (np.float32(x_scale) * (q - x_zero).astype(np.float32)).astype(np.float64)
    inverse = float(np.float32(1.0) / np.float32(y_scale))
    with np.errstate(over="ignore"):  # of exp: the logistic function is 0 there
        scaled = function(real) * inverse
    ends = [_rounded(scaled * (1.0 + off)) for off in (-TABLE_ERROR, TABLE_ERROR)]
    entries, others = (np.clip(end + y_zero, *LIMITS[y.type]) for end in ends)
    if (entries != others).any():
        k = int(np.flatnonzero(entries != others)[0])
        raise UnsupportedModel(
            f"the interpreter's table is made in floats, and its entry for {q[k]} is too close to half-way"
        )
    whole = entries.astype(np.int64)
    return lambda x: np.asarray(whole[x - least])


def _rounded(x: Array) -> Array:
    """To the nearest integer, of halves the one away from zero; sizes are far below 2^52."""
    return np.asarray(np.sign(x) * np.floor(np.abs(x) + 0.5))
