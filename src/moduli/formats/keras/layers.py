"""What each Keras layer is in ONNX. One handler for each kind; formulas are those of Keras.

Keras keeps channels last. As in the translation of TensorFlow Lite files, a value may be there in
both orders of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel

from .archive import WAY_OUT, Weight

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int | None, ...]  # without the batch
OPSET = 20


@dataclass
class Value:
    """A value of the model.

    Attributes:
        shape: without the batch axis. names: of the ONNX value by whether channels are first.
    """

    shape: Shape
    names: dict[bool, str]


@dataclass
class Layer:
    """A layer as it is described.

    Attributes:
        version: of Keras.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    weights: list[Weight]
    version: int
    where: str

    def refuse(self, why: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{self.where}: layer {self.name!r} ({self.kind}): {why}; {WAY_OUT}"
        )

    def get(self, name: str, default: Any = None) -> Any:
        found = self.config.get(name)
        return default if found is None else found

    def integers(self, name: str, count: int, default: int = 1) -> list[int]:
        """One integer for each axis, of which one may be given for all."""
        found = self.config.get(name)
        listed = [default] if found is None else np.ravel(found).tolist()
        listed = listed * count if len(listed) == 1 else listed
        if len(listed) != count or not all(isinstance(n, int) and n >= 0 for n in listed):
            raise self.refuse(f"{name} {found!r}")
        return listed

    def take(self, *names: str) -> list[Array]:
        """Its weights in the order of names; older files name them.

        Raises:
            UnsupportedModel: it has others.
        """
        weights = self.weights
        if all(weight.name for weight in weights):
            own = {weight.name: weight for weight in weights}
            wanted = [_first_of(own, name) for name in names]
            if None in wanted or len(own) < len(weights):
                wanted = []
            weights = [weight for weight in wanted if weight is not None]
        if len(weights) != len(names) or len(self.weights) != len(names):
            listed = ", ".join(weight.name or "?" for weight in self.weights)
            raise self.refuse(f"it has weights [{listed}] where {', '.join(names)} are expected")
        return [weight.array for weight in weights]


def _first_of(own: Mapping[str, Weight], names: str) -> Weight | None:
    """The weight of one of several names, between bars."""
    return next((own[name] for name in names.split("|") if name in own), None)


@dataclass
class Builder:
    """Nodes and stored arrays of the ONNX model."""

    nodes: list[Any] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        found, k = wanted, 1
        while found in self.taken:
            k += 1
            found = f"{wanted}:{k}"
        self.taken.add(found)
        return found

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        result = self.name(output)
        kept = {key: value for key, value in attributes.items() if value is not None}
        name = self.name(f"{kind} {result}")
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name, **kept))
        return result

    def store(self, name: str, array: Any) -> str:
        """A stored array, which calls of one layer share."""
        array = np.ascontiguousarray(array)
        if name in self.arrays and np.array_equal(self.arrays[name], array):
            return name
        found = self.name(name)
        self.arrays[found] = array
        return found

    def integers(self, values: Sequence[int]) -> str:
        listed = np.array(list(values), dtype=np.int64)
        return self.store(f"sizes {','.join(map(str, values))}", listed)

    def number(self, value: float) -> str:
        return self.store(f"number {value:g}", np.array(value, dtype=np.float32))

    def form(self, value: Value, first: bool) -> str:
        """A value in an order of axes."""
        rank = len(value.shape) + 1
        if rank < 3:
            return value.names[False]
        if first not in value.names:
            other = value.names[not first]
            order = [0, rank - 1, *range(1, rank - 1)] if first else [0, *range(2, rank), 1]
            plain = other.removesuffix(":channels first")
            wanted = f"{plain}:channels first" if first else plain
            value.names[first] = self.add("Transpose", [other], wanted, perm=order)
        return value.names[first]

    def is_first(self, values: Sequence[Value]) -> bool:
        """Whether values are best read with channels first: all are so already."""
        return all(True in value.names and len(value.shape) > 1 for value in values)


def given(name: str, shape: Shape, first: bool = False) -> Value:
    return Value(shape, {first and len(shape) > 1: name})


def _called(layer: Layer, first: bool) -> str:
    return f"{layer.name}:channels first" if first else layer.name


Handler = Callable[[Builder, Layer, list[Value]], Value]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)


def _only(layer: Layer, inputs: list[Value], rank: int | None = None) -> Value:
    if len(inputs) != 1:
        raise layer.refuse(f"it reads {len(inputs)} values")
    if rank is not None and len(inputs[0].shape) != rank:
        raise layer.refuse(f"its input has shape {inputs[0].shape}")
    return inputs[0]


def _fits(layer: Layer, array: Array, wanted: Sequence[int | None]) -> Array:
    fits = array.ndim == len(wanted) and all(
        m is None or n == m for n, m in zip(array.shape, wanted, strict=True)
    )
    if not fits:
        raise layer.refuse(f"a weight has shape {array.shape}, not {tuple(wanted)}")
    return array


# Activations ----------------------------------------------------------------------------------------------------

PLAIN = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "selu": "Selu", "softplus": "Softplus",
    "softsign": "Softsign", "exponential": "Exp", "mish": "Mish", "hard_swish": "HardSwish",
    "hard_silu": "HardSwish",
}  # fmt: skip


def _activation_of(layer: Layer) -> str:
    found = layer.get("activation", "linear")
    if isinstance(found, dict):
        inner = found.get("config")
        name = inner if isinstance(inner, str) else found.get("class_name")
        registered = str(found.get("registered_name") or name)
        if isinstance(inner, dict) and set(inner) - {"name"}:
            raise layer.refuse(f"activation {str(found)[:80]}")
        found = name if registered in (name, f"keras>{name}") else registered
    return str(found)


def _activated(b: Builder, layer: Layer, x: str, rank: int, first: bool, last: bool = True) -> str:
    """A value behind the activation of a layer."""
    kind, y = _activation_of(layer), _called(layer, first)
    if kind == "linear":
        return x
    if kind in PLAIN:
        return b.add(PLAIN[kind], [x], y)
    if kind == "relu6":
        return b.add("Clip", [x, b.number(0.0), b.number(6.0)], y)
    if kind == "elu":
        return b.add("Elu", [x], y, alpha=1.0)
    if kind == "leaky_relu":
        return b.add("LeakyRelu", [x], y, alpha=0.2)
    if kind in ("swish", "silu"):
        return b.add("Mul", [x, b.add("Sigmoid", [x], f"{y}:sigmoid")], y)
    if kind == "gelu":
        return b.add("Gelu", [x], y)
    if kind == "hard_sigmoid":
        # said anew with Keras 3
        slope = 0.2 if layer.version < 3 else float(np.float32(1 / 6))
        return b.add("HardSigmoid", [x], y, alpha=slope, beta=0.5)
    if kind in ("softmax", "log_softmax") and rank > 1:
        operator = "Softmax" if kind == "softmax" else "LogSoftmax"
        return b.add(operator, [x], y, axis=1 if first else -1)
    raise layer.refuse(f"activation {kind!r}")


def _finished(b: Builder, layer: Layer, x: str, shape: Shape, first: bool) -> Value:
    """The value of a layer, behind its activation, under the layer's name."""
    first = first and len(shape) > 1
    y = _activated(b, layer, x, len(shape) + 1, first)
    return given(y, shape, first)


@handles("Activation")
def _activation(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    first = b.is_first([value])
    return _finished(b, layer, b.form(value, first), value.shape, first)


@handles("ReLU", "LeakyReLU", "ELU")
def _rectified(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    first = b.is_first([value])
    x, y = b.form(value, first), _called(layer, first)
    if layer.kind == "ELU":
        return given(b.add("Elu", [x], y, alpha=_float(layer, "alpha", 1.0)), value.shape, first)
    if layer.kind == "LeakyReLU":
        slope = _float(layer, "negative_slope", _float(layer, "alpha", 0.3))
        return given(b.add("LeakyRelu", [x], y, alpha=slope), value.shape, first)
    slope, most = _float(layer, "negative_slope", 0.0), layer.get("max_value")
    if _float(layer, "threshold", 0.0) != 0.0:
        raise layer.refuse("a threshold other than 0")
    if most is None:
        name = b.add("LeakyRelu", [x], y, alpha=slope) if slope else b.add("Relu", [x], y)
        return given(name, value.shape, first)
    most = _float(layer, "max_value", 0.0)
    if slope:
        leaky = b.add("LeakyRelu", [x], f"{y}:leaky", alpha=slope)
        return given(b.add("Min", [leaky, b.number(most)], y), value.shape, first)
    return given(b.add("Clip", [x, b.number(0.0), b.number(most)], y), value.shape, first)


def _float(layer: Layer, name: str, default: float) -> float:
    found = layer.get(name, default)
    if isinstance(found, dict):  # an array, as newer versions describe it
        found = found.get("config", {}).get("value", found)
    if not isinstance(found, (int, float)) or not math.isfinite(found):
        raise layer.refuse(f"{name} {found!r}")
    return float(np.float32(found))


@handles("PReLU")
def _prelu(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    (slopes,) = layer.take("alpha")
    if slopes.ndim != len(value.shape):
        raise layer.refuse(f"slopes of shape {slopes.shape} for an input of shape {value.shape}")
    first = b.is_first([value])
    turned = np.moveaxis(slopes, -1, 0) if first else slopes
    stored = b.store(f"{layer.name}/alpha", turned)
    y = b.add("PRelu", [b.form(value, first), stored], _called(layer, first))
    return given(y, value.shape, first)


@handles("Softmax")
def _softmax(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    axis = layer.get("axis", -1)
    if not isinstance(axis, int) or axis == 0:
        raise layer.refuse(f"axis {axis!r}")
    return given(b.add("Softmax", [b.form(value, False)], layer.name, axis=axis), value.shape)


# Dense and convolutions -----------------------------------------------------------------------------------------


def _bias_name(layer: Layer) -> list[str]:
    return ["bias"] if layer.get("use_bias", True) else []


@handles("Dense")
def _dense(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    if not value.shape:
        raise layer.refuse("its input has no axis")
    kernel, *bias = layer.take("kernel", *_bias_name(layer))
    _fits(layer, kernel, (value.shape[-1], layer.get("units")))
    names = [b.form(value, False), b.store(f"{layer.name}/kernel", kernel)]
    shape = (*value.shape[:-1], int(kernel.shape[1]))
    y = layer.name if _activation_of(layer) == "linear" else f"{layer.name}:sum"
    if bias:
        names.append(b.store(f"{layer.name}/bias", _fits(layer, bias[0], shape[-1:])))
    if len(shape) == 1:
        y = b.add("Gemm", names, y)
    else:
        product = b.add("MatMul", names[:2], f"{layer.name}:product" if bias else y)
        y = b.add("Add", [product, names[2]], y) if bias else product
    return _finished(b, layer, y, shape, False)


@dataclass
class _Window:
    """Kernel, strides, dilations and padding along some axes."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    sizes: list[int | None]

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kernel_shape": self.kernel, "strides": self.strides}
        if max(self.dilations) > 1:
            found["dilations"] = self.dilations
        if any(self.pads):
            found["pads"] = self.pads
        return found


def _window(
    layer: Layer, sizes: Sequence[int | None], kernel: list[int], strides: list[int], dilations: list[int]
) -> _Window:  # fmt: skip
    padding = str(layer.get("padding", "valid")).lower()
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    if padding not in ("valid", "same", "causal") or min(*kernel, *strides, *dilations) < 1:
        raise layer.refuse(f"padding {padding!r}, kernel {kernel}, strides {strides}")
    before, behind, made = list[int](), list[int](), list[int | None]()
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (k - 1) * d + 1
        if padding == "valid":
            total, start = 0, 0
        elif padding == "causal":
            total = start = reach - 1
        elif n is None and s > 1:
            raise layer.refuse("padding 'same' with strides on an input of unknown size")
        else:
            total = reach - 1 if n is None else max(0, (-(-n // s) - 1) * s + reach - n)
            start = total // 2
        before.append(start)
        behind.append(total - start)
        made.append(None if n is None else (n + total - reach) // s + 1)
        if n is not None and n + total < reach:
            raise layer.refuse(f"a window of {reach} on {n} entries")
    return _Window(kernel, strides, dilations, [*before, *behind], made)


def _axes_of(layer: Layer) -> int:
    return 1 if "1D" in layer.kind else 2


@handles("Conv1D", "Conv2D", "Convolution1D", "Convolution2D")
def _conv(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    kernel, *bias = layer.take("kernel", *_bias_name(layer))
    groups, channels = int(layer.get("groups", 1)), value.shape[-1]
    if channels is None or groups < 1 or channels % groups:
        raise layer.refuse(f"{channels} channels in {groups} groups")
    _fits(
        layer,
        kernel,
        (*layer.integers("kernel_size", count), channels // groups, layer.get("filters")),
    )
    if kernel.shape[-1] % groups:
        raise layer.refuse(f"{kernel.shape[-1]} filters in {groups} groups")
    turned = kernel.transpose(count + 1, count, *range(count))
    return _convolved(b, layer, value, turned, bias, groups)


@handles("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    kernel, *bias = layer.take("depthwise_kernel|kernel", *_bias_name(layer))
    channels = value.shape[-1]
    _fits(
        layer,
        kernel,
        (*layer.integers("kernel_size", count), channels, layer.get("depth_multiplier", 1)),
    )
    return _convolved(b, layer, value, _each_channel(kernel), bias, int(kernel.shape[count]))


def _each_channel(kernel: Array) -> Array:
    """Filters of one channel each, from a kernel (sizes, channels, filters of a channel)."""
    *sizes, channels, filters = kernel.shape
    return np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(channels * filters, 1, *sizes)


@handles("SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D")
def _separable(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    parts = ("depthwise_kernel", "pointwise_kernel", *_bias_name(layer))
    depthwise, pointwise, *bias = layer.take(*parts)
    channels = value.shape[-1]
    _fits(
        layer,
        depthwise,
        (*layer.integers("kernel_size", count), channels, layer.get("depth_multiplier", 1)),
    )
    inner = depthwise.shape[-1] * depthwise.shape[-2]
    _fits(layer, pointwise, (*[1] * count, inner, layer.get("filters")))
    window = _sliding(layer, value, [int(n) for n in depthwise.shape[:count]])
    stored = b.store(f"{layer.name}/depthwise_kernel", _each_channel(depthwise))
    y = b.add(
        "Conv", [b.form(value, True), stored], f"{layer.name}:depthwise", group=int(depthwise.shape[-2]),
        **window.attributes(),
    )  # fmt: skip
    turned = pointwise.transpose(count + 1, count, *range(count))
    stored = b.store(f"{layer.name}/pointwise_kernel", turned)
    names = [y, stored, *_stored_bias(b, layer, bias, turned.shape[0])]
    target = _before_activation(layer)
    y = b.add("Conv", names, target, kernel_shape=[1] * count)
    return _finished(b, layer, y, (*window.sizes, int(turned.shape[0])), True)


def _before_activation(layer: Layer) -> str:
    plain = _activation_of(layer) == "linear"
    return _called(layer, True) if plain else f"{layer.name}:sum"


def _stored_bias(b: Builder, layer: Layer, bias: list[Array], count: int) -> list[str]:
    return [b.store(f"{layer.name}/bias", _fits(layer, each, (count,))) for each in bias]


def _sliding(layer: Layer, value: Value, kernel: list[int]) -> _Window:
    count = len(kernel)
    strides, dilations = layer.integers("strides", count), layer.integers("dilation_rate", count)
    return _window(layer, value.shape[:-1], kernel, strides, dilations)


def _convolved(
    b: Builder, layer: Layer, value: Value, turned: Array, bias: list[Array], groups: int
) -> Value:
    window = _sliding(layer, value, [int(n) for n in turned.shape[2:]])
    stored = b.store(f"{layer.name}/kernel", turned)
    names = [b.form(value, True), stored, *_stored_bias(b, layer, bias, turned.shape[0])]
    y = b.add("Conv", names, _before_activation(layer), group=groups, **window.attributes())
    return _finished(b, layer, y, (*window.sizes, int(turned.shape[0])), True)


@handles("Conv1DTranspose", "Conv2DTranspose", "Convolution2DTranspose")
def _transposed(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    kernel, *bias = layer.take("kernel", *_bias_name(layer))
    sizes, strides = layer.integers("kernel_size", count), layer.integers("strides", count)
    _fits(layer, kernel, (*sizes, layer.get("filters"), value.shape[-1]))
    padding = str(layer.get("padding", "valid")).lower()
    dilated = max(layer.integers("dilation_rate", count)) > 1
    if layer.get("output_padding") is not None or dilated or padding not in ("same", "valid"):
        raise layer.refuse("output_padding, dilations, or another padding than same and valid")
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    before, behind, extra, made = [], [], [], list[int | None]()
    for n, k, s in zip(value.shape[:-1], sizes, strides, strict=True):
        # an output of n * s entries, or of all that the windows reach
        total = max(0, k - s) if padding == "same" else 0
        before.append(total // 2)
        behind.append(total - total // 2)
        extra.append(max(0, s - k))
        reach = s if padding == "same" else max(k, s)
        made.append(None if n is None else (n - 1) * s + reach)
    turned = kernel.transpose(count + 1, count, *range(count))
    stored = b.store(f"{layer.name}/kernel", turned)
    names = [b.form(value, True), stored, *_stored_bias(b, layer, bias, kernel.shape[count])]
    y = b.add(
        "ConvTranspose", names, _before_activation(layer), kernel_shape=sizes, strides=strides,
        pads=[*before, *behind] if any((*before, *behind)) else None,
        output_padding=extra if any(extra) else None,
    )  # fmt: skip
    return _finished(b, layer, y, (*made, int(kernel.shape[count])), True)


@handles("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D")
def _pool(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    default = "pool_length" if "pool_length" in layer.config else "pool_size"
    kernel = layer.integers(default, count, 2)
    strides = layer.integers("strides", count) if layer.get("strides") is not None else kernel
    window = _window(layer, value.shape[:-1], kernel, strides, [1] * count)
    kind = "MaxPool" if layer.kind.startswith("Max") else "AveragePool"
    y = b.add(kind, [b.form(value, True)], _called(layer, True), **window.attributes())
    return given(y, (*window.sizes, value.shape[-1]), True)


@handles(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"
)
def _global_pool(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    keep, first = bool(layer.get("keepdims", False)), b.is_first([value])
    kind = "ReduceMax" if "Max" in layer.kind else "ReduceMean"
    axes = b.integers(range(2, count + 2) if first else range(1, count + 1))
    target = _called(layer, first and keep)
    y = b.add(kind, [b.form(value, first), axes], target, keepdims=int(keep))
    shape = (*[1] * count, value.shape[-1]) if keep else value.shape[-1:]
    return given(y, shape, first and keep)


# One number for each channel ------------------------------------------------------------------------------------


def _last_axis(layer: Layer, value: Value) -> None:
    axes = np.ravel(layer.get("axis", -1)).tolist()
    if axes not in ([-1], [len(value.shape)]):
        raise layer.refuse(f"it is over axis {axes}, which is not the last")


@handles("BatchNormalization")
def _batch_norm(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    _last_axis(layer, value)
    if layer.get("renorm", False) or layer.get("virtual_batch_size"):
        raise layer.refuse("it is renormalised")
    scaled, centred = layer.get("scale", True), layer.get("center", True)
    names = [*["gamma"] * bool(scaled), *["beta"] * bool(centred), "moving_mean", "moving_variance"]
    weights = dict(zip(names, layer.take(*names), strict=True))
    mean = weights["moving_mean"]
    weights.setdefault("gamma", np.ones_like(mean))
    weights.setdefault("beta", np.zeros_like(mean))
    first = len(value.shape) > 1
    stored = []
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        array = _fits(layer, weights[name], value.shape[-1:])
        stored.append(b.store(f"{layer.name}/{name}", array))
    y = b.add(
        "BatchNormalization", [b.form(value, first), *stored], _called(layer, first),
        epsilon=_float(layer, "epsilon", 1e-3),
    )  # fmt: skip
    return given(y, value.shape, first)


@handles("LayerNormalization")
def _layer_norm(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    _last_axis(layer, value)
    if layer.get("rms_scaling", False):
        raise layer.refuse("it does not centre")
    names = [
        *["gamma"] * bool(layer.get("scale", True)),
        *["beta"] * bool(layer.get("center", True)),
    ]
    weights = dict(zip(names, layer.take(*names), strict=True))
    n = value.shape[-1]
    if n is None:
        raise layer.refuse("it is over an axis of unknown size")
    gamma = weights.get("gamma", np.ones(n, dtype=np.float32))
    stored = [b.store(f"{layer.name}/gamma", _fits(layer, gamma, (n,)))]
    if "beta" in weights:
        stored.append(b.store(f"{layer.name}/beta", _fits(layer, weights["beta"], (n,))))
    y = b.add(
        "LayerNormalization", [b.form(value, False), *stored], layer.name, axis=-1,
        epsilon=_float(layer, "epsilon", 1e-3),
    )  # fmt: skip
    return given(y, value.shape)


@handles("Rescaling")
def _rescaling(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    x = b.form(value, False)
    numbers = []
    for name, default in (("scale", 1.0), ("offset", 0.0)):
        array = np.asarray(layer.get(name, default), dtype=np.float32)
        if array.ndim > 1 or (array.ndim and array.shape != value.shape[-1:]):
            raise layer.refuse(f"{name} of shape {array.shape}")
        numbers.append(b.store(f"{layer.name}/{name}", array))
    scaled = b.add("Mul", [x, numbers[0]], f"{layer.name}:scaled")
    return given(b.add("Add", [scaled, numbers[1]], layer.name), value.shape)


@handles("Normalization")
def _normalization(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    """Standard deviations are rounded to the type of the weights, as Keras does it."""
    value = _only(layer, inputs)
    _last_axis(layer, value)
    if layer.get("invert", False):
        raise layer.refuse("it is inverted")
    if layer.get("mean") is not None:
        mean, variance = (
            np.asarray(layer.get(k), dtype=np.float32).ravel() for k in ("mean", "variance")
        )
    else:
        mean, variance, _ = layer.take("mean", "variance", "count")
    count = value.shape[-1]
    parts = [np.ravel(part).astype(np.float32) for part in (mean, variance)]
    if any(part.shape not in ((count,), (1,)) for part in parts):
        raise layer.refuse(f"means of shape {np.shape(mean)} for an input of shape {value.shape}")
    deviation = np.maximum(np.sqrt(parts[1]), np.float32(1e-7))
    centred = b.add(
        "Sub",
        [b.form(value, False), b.store(f"{layer.name}/mean", parts[0])],
        f"{layer.name}:centred",
    )
    y = b.add("Div", [centred, b.store(f"{layer.name}/deviation", deviation)], layer.name)
    b.notes["standard deviations of Normalization are rounded to float32, as Keras does it"] = None
    return given(y, value.shape)


# Axes -----------------------------------------------------------------------------------------------------------


def _whole(layer: Layer, shape: Sequence[int | None]) -> list[int]:
    found = [n for n in shape if n is not None]
    if len(found) < len(shape):
        raise layer.refuse(f"an input of unknown sizes {tuple(shape)}")
    return found


@handles("Flatten")
def _flatten(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    count = math.prod(_whole(layer, value.shape))
    return given(b.add("Flatten", [b.form(value, False)], layer.name, axis=1), (count,))


@handles("Reshape")
def _reshape(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    wanted = [int(n) for n in np.ravel(layer.get("target_shape", []))]
    count = math.prod(_whole(layer, value.shape))
    if wanted.count(-1) == 1:
        rest = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = count // rest if rest else 0
    if math.prod(wanted) != count or min(wanted, default=1) < 1:
        raise layer.refuse(f"shape {value.shape} as {wanted}")
    # a zero keeps the batch
    y = b.add("Reshape", [b.form(value, False), b.integers([0, *wanted])], layer.name)
    return given(y, tuple(wanted))


@handles("Permute")
def _permute(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    value = _only(layer, inputs)
    order = [int(n) for n in layer.get("dims", [])]
    if sorted(order) != list(range(1, len(value.shape) + 1)):
        raise layer.refuse(f"dims {order}")
    y = b.add("Transpose", [b.form(value, False)], layer.name, perm=[0, *order])
    return given(y, tuple(value.shape[n - 1] for n in order))


@handles("ZeroPadding1D", "ZeroPadding2D")
def _zero_padding(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    found = np.asarray(layer.get("padding", 1))
    if count == 1:
        pairs = np.broadcast_to(found, (1, 2))
    else:
        pairs = np.broadcast_to(found if found.ndim != 1 else found[:, None], (2, 2))
    if pairs.dtype.kind != "i" or (pairs < 0).any():
        raise layer.refuse(f"padding {found.tolist()}")
    first = b.is_first([value])
    zeros, (before, behind) = [0], pairs.T.tolist()
    pads = [0, *zeros, *before, 0, *zeros, *behind] if first else [0, *before, 0, 0, *behind, 0]
    y = b.add("Pad", [b.form(value, first), b.integers(pads)], _called(layer, first))
    sizes = [
        None if n is None else n + sum(pair)
        for n, pair in zip(value.shape[:-1], pairs.tolist(), strict=True)
    ]
    return given(y, (*sizes, value.shape[-1]), first)


@handles("UpSampling1D", "UpSampling2D")
def _up_sampling(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    count = _axes_of(layer)
    value = _only(layer, inputs, count + 1)
    if layer.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("channels before positions")
    factors = layer.integers("size", count, 2)
    mode = layer.get("interpolation", "nearest")
    if mode not in ("nearest", "bilinear") or min(factors) < 1:
        raise layer.refuse(f"interpolation {mode!r}")
    scales = b.store(
        f"factors {','.join(map(str, factors))}", np.array([1, 1, *factors], dtype=np.float32)
    )
    where = "asymmetric" if mode == "nearest" else "half_pixel"
    y = b.add(
        "Resize", [b.form(value, True), "", scales], _called(layer, True),
        mode="nearest" if mode == "nearest" else "linear", coordinate_transformation_mode=where,
        nearest_mode="floor" if mode == "nearest" else None,
    )  # fmt: skip
    sizes = [None if n is None else n * f for n, f in zip(value.shape[:-1], factors, strict=True)]
    return given(y, (*sizes, value.shape[-1]), True)


# Several inputs -------------------------------------------------------------------------------------------------

MERGED = {
    "Add": "Sum", "Subtract": "Sub", "Multiply": "Mul", "Average": "Mean", "Maximum": "Max",
    "Minimum": "Min",
}  # fmt: skip


@handles(*MERGED)
def _merged(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    ranks = {len(value.shape) for value in inputs}
    if len(inputs) < 2 or len(ranks) > 1 or (layer.kind == "Subtract" and len(inputs) != 2):
        raise layer.refuse(f"it reads shapes {[value.shape for value in inputs]}")
    shape = list[int | None]()
    for sizes in zip(*(value.shape for value in inputs), strict=True):
        own = set(sizes) - {1}
        if len(own) > 1:
            raise layer.refuse(f"it reads shapes {[value.shape for value in inputs]}")
        shape.append(own.pop() if own else 1)
    first = b.is_first(inputs)
    names = [b.form(value, first) for value in inputs]
    y = names[0]
    pairs = layer.kind in ("Multiply", "Subtract", "Add", "Average")
    for k, name in enumerate(names[1:], 2):
        last = k == len(names) and layer.kind != "Average"
        target = _called(layer, first) if last else f"{layer.name}:{k}"
        kind = "Add" if layer.kind in ("Add", "Average") else MERGED[layer.kind]
        y = b.add(kind, [y, name], target) if pairs else y
    if layer.kind == "Average":
        factor = b.number(1 / len(names)) if len(names) in (2, 4, 8) else None
        divided = ["Mul", factor] if factor else ["Div", b.number(float(len(names)))]
        y = b.add(str(divided[0]), [y, str(divided[1])], _called(layer, first))
    elif not pairs:
        y = b.add(MERGED[layer.kind], names, _called(layer, first))
    return given(y, tuple(shape), first)


@handles("Concatenate")
def _concatenate(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    ranks = {len(value.shape) for value in inputs}
    axis = layer.get("axis", -1)
    if len(ranks) != 1 or not isinstance(axis, int):
        raise layer.refuse(f"it reads shapes {[value.shape for value in inputs]}")
    rank = ranks.pop() + 1
    axis = axis + rank if axis < 0 else axis
    if not 1 <= axis < rank:
        raise layer.refuse(f"axis {axis}")
    first = b.is_first(inputs)
    place = (1 if axis == rank - 1 else axis + 1) if first else axis
    shape = list(inputs[0].shape)
    sizes = [value.shape[axis - 1] for value in inputs]
    shape[axis - 1] = None if None in sizes else sum(n for n in sizes if n is not None)
    for value in inputs:
        others = [n for a, n in enumerate(value.shape) if a != axis - 1]
        if others != [n for a, n in enumerate(shape) if a != axis - 1]:
            raise layer.refuse(f"it reads shapes {[value.shape for value in inputs]}")
    names = [b.form(value, first) for value in inputs]
    return given(b.add("Concat", names, _called(layer, first), axis=place), tuple(shape), first)


IDLE = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout",
    "GaussianNoise", "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom",
    "RandomTranslation", "RandomContrast", "RandomBrightness", "Identity",
)  # fmt: skip


@handles(*IDLE)
def _idle(b: Builder, layer: Layer, inputs: list[Value]) -> Value:
    """What does nothing outside of training."""
    if layer.kind != "Identity":
        b.notes["layers that act in training alone (dropout, noise) do nothing"] = None
    return _only(layer, inputs)
