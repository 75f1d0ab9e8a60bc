"""ONNX in and out: a file or a model is read into a network, and a network is written as Gemm
nodes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.files import one_line
from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Ends, Network
from moduli.kernel.slack import Slack

from . import activation_nodes, integer_blocks, operations  # noqa: F401  they fill the registry
from .nodes import Reader

Array = np.ndarray[Any, np.dtype[np.float64]]
Stored = tuple[str, Array, str]
MAX_GRAPH = 2**31 - 2**20  # bytes of parameters: protobuf holds less than 2 GiB


def read_onnx(
    source: Any, folder: Path | None, where: str, input_shape: Any, output: str | None
) -> Network:
    import onnx

    damaged = importlib.import_module("google.protobuf.message").DecodeError
    with one_line(where):
        try:
            model = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
        except damaged:
            raise UnsupportedModel(
                f"{where}: damaged or no ONNX file (it cannot be decoded)"
            ) from None
        if not model.HasField("graph") or not model.graph.output:
            raise UnsupportedModel(f"{where}: holds no ONNX graph with outputs")
        if integer_blocks.concerns(model):
            model = integer_blocks.written_out(model, folder).proto
        reader = Reader(model, folder)
        return replace(reader.network(output, input_shape), ends=_ends(model, output))


def _ends(model: Any, output: str | None) -> Ends | None:
    """Names and type of the ends of a model with one input."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    kinds = {1: "float32", 11: "float64"}
    kind = inputs[0].type.tensor_type.elem_type if len(inputs) == 1 else 0
    if kind not in kinds:
        return None
    return Ends(inputs[0].name, output or model.graph.output[0].name, kinds[kind])


# Writing --------------------------------------------------------------------------------------------------------

_NODES = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "sin": "Sin", "abs": "Abs", "erf": "Erf",
    "softplus": "Softplus", "gelu": "Gelu", "gelu_tanh": "Gelu", "identity": "Identity",
    "hardswish": "HardSwish", "mish": "Mish",
}  # fmt: skip
_SINGLE = (
    "erf",
    "softplus",
    "gelu",
    "gelu_tanh",
    "hardswish",
    "mish",
)  # onnxruntime runs these in float32 only
_WITH_NUMBERS: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "leaky_relu": ("PRelu", (1,), ("slope",)), "clip": ("Clip", (), ("low", "high")),
}  # fmt: skip
_SINCE = {"Gelu": 20, "Mish": 18}  # opsets; 17 has all others


def onnx_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    if net.parameters * int(dtype[5:]) // 8 > MAX_GRAPH:
        raise UnsupportedModel(
            f"{net.parameters} parameters in {dtype} exceed the 2 GiB of an ONNX graph; write .safetensors"
        )
    kind, single = (
        (TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT),
        dtype == "float32",
    )
    first, final = _names(net)
    # what is inside must not be called like an end
    inner = "inner_" if any(INNER.match(name) for name in (first, final)) else ""
    nodes, stored, name = list[Any](), list[Stored](), first
    for l, layer in enumerate(net.layers, 1):
        parts = [f"{inner}weight{l}", f"{inner}bias{l}"]
        for label, array in zip(parts, (layer.weight, layer.bias), strict=True):
            stored.append((label, array, dtype))
        z = f"{inner}z{l}"
        nodes.append(helper.make_node("Gemm", [name, *parts], [z], f"layer{l}", transB=1))
        name = z
        if l < len(net.layers):
            name = f"{inner}h{l}"
            nodes += _activation_nodes(layer.activation, z, name, single, stored)
    if net.output_map == "softmax":
        nodes.append(helper.make_node("Softmax", [name], [final], axis=1))
    else:
        nodes += _activation_nodes(Activation.of(net.output_map), name, final, single, stored)
    ends = [
        helper.make_tensor_value_info(n, kind, ["batch", w])
        for n, w in ((first, net.widths[0]), (final, net.widths[-1]))
    ]
    graph = helper.make_graph(nodes, "moduli", ends[:1], ends[1:])
    opset = max([17, *(_SINCE.get(node.op_type, 17) for node in nodes)])
    model = helper.make_model(
        graph, producer_name="moduli", opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 9 if opset == 20 else 8
    version = _version()
    helper.set_model_props(
        model, {"moduli.version": version} | ({} if slack is None else {"moduli.slack": str(slack)})
    )
    for (
        label,
        array,
        of,
    ) in stored:  # one at a time, and last: graphs and models copy what they are made of
        model.graph.initializer.append(numpy_helper.from_array(array.astype(of), label))
    return bytes(model.SerializeToString(deterministic=True))


INNER = re.compile(r"(inner_)*(weight|bias|z|h)\d")


def _names(net: Network) -> tuple[str, str]:
    """What input and output are called: as in the file that was read, where there was one."""
    if net.ends is None or net.ends.input.startswith(net.ends.output):
        return "input", "output"
    return net.ends.input, net.ends.output


def _activation_nodes(
    activation: Activation, x: str, y: str, single: bool, stored: list[Stored]
) -> list[Any]:
    """Nodes for y = activation(x) that onnxruntime runs, in float32 or float64."""
    from onnx import helper

    if activation.kind == "silu":
        gate = helper.make_node("Sigmoid", [x], [f"{y}_gate"])
        return [gate, helper.make_node("Mul", [x, f"{y}_gate"], [y])]
    if activation.kind == "elu":
        return _elu_nodes(activation.parameters[0], x, y, single, stored)
    if activation.kind in _WITH_NUMBERS:  # which keep float64 where they are no float32
        kind, shape, parts = _WITH_NUMBERS[activation.kind]
        exact = not single or all(float(np.float32(p)) == p for p in activation.parameters)
        names = [f"{y}_{part}" for part in parts]
        for label, number in zip(names, activation.parameters, strict=True):
            stored.append(
                (label, np.full(shape, number), "float32" if single and exact else "float64")
            )
        return _cast(x, y, not exact, single, lambda a, b: helper.make_node(kind, [a, *names], [b]))
    extra = {"approximate": "tanh"} if activation.kind == "gelu_tanh" else {}
    plain = _NODES.get(activation.kind)
    if plain is None:
        raise UnsupportedModel(
            f"{activation} has no ONNX operator here; save the network as .npz or .safetensors"
        )
    cast = activation.kind in _SINGLE and not single
    return _cast(x, y, cast, single, lambda a, b: helper.make_node(plain, [a], [b], **extra))


def _elu_nodes(alpha: float, x: str, y: str, single: bool, stored: list[Stored]) -> list[Any]:
    """Elu holds alpha in float32; any other one is the slope of a PRelu behind an Elu with 1, which
    keeps signs.
    """
    from onnx import helper

    if float(np.float32(alpha)) == alpha:
        return _cast(
            x, y, not single, single, lambda a, b: helper.make_node("Elu", [a], [b], alpha=alpha)
        )
    nodes = _elu_nodes(1.0, x, f"{y}_one", single, stored)
    return nodes + _activation_nodes(Activation("leaky_relu", alpha), f"{y}_one", y, single, stored)


def _cast(x: str, y: str, cast: bool, single: bool, node: Callable[[str, str], Any]) -> list[Any]:
    """A node from x to y; with `cast` in the other precision, between two casts."""
    from onnx import TensorProto, helper

    if not cast:
        return [node(x, y)]
    here, there = (
        (TensorProto.FLOAT, TensorProto.DOUBLE)
        if single
        else (TensorProto.DOUBLE, TensorProto.FLOAT)
    )
    before = helper.make_node("Cast", [x], [f"{y}_in"], to=there)
    return [
        before,
        node(f"{y}_in", f"{y}_out"),
        helper.make_node("Cast", [f"{y}_out"], [y], to=here),
    ]


def _version() -> str:
    """Of this package, where it is installed."""
    try:
        return metadata.version("moduli")
    except metadata.PackageNotFoundError:
        return "unknown"
