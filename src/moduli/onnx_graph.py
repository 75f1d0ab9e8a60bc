"""ONNX in and out: a file or a model is read into a network, and a network is written as Gemm nodes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from . import onnx_ops  # noqa: F401  fills the registry
from .activations import Activation
from .errors import UnsupportedModel, one_line
from .network import Network
from .onnx_nodes import Reader
from .slack import Slack

Array = np.ndarray[Any, np.dtype[np.float64]]
Stored = tuple[str, Array, str]
MAX_GRAPH = 2**31 - 2**20  # bytes of parameters: protobuf holds less than 2 GiB


def read_onnx(source: Any, folder: Path | None, where: str, input_shape: Any, output: str | None) -> Network:
    import onnx

    damaged = importlib.import_module("google.protobuf.message").DecodeError
    with one_line(where):
        try:
            model = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
        except damaged:
            raise UnsupportedModel(f"{where}: damaged or no ONNX file (it cannot be decoded)") from None
        if not model.HasField("graph") or not model.graph.output:
            raise UnsupportedModel(f"{where}: holds no ONNX graph with outputs")
        return Reader(model, folder).network(output, input_shape)


# Writing --------------------------------------------------------------------------------------------------------

_NODES = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "sin": "Sin", "abs": "Abs", "erf": "Erf", "softplus": "Softplus",
    "gelu": "Gelu", "gelu_tanh": "Gelu", "identity": "Identity",
}  # fmt: skip
_SINGLE = ("erf", "softplus", "gelu", "gelu_tanh")  # onnxruntime runs these in float32 only


def onnx_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    if net.parameters * int(dtype[5:]) // 8 > MAX_GRAPH:
        raise UnsupportedModel(f"{net.parameters} parameters in {dtype} exceed the 2 GiB of an ONNX graph; write .safetensors")
    kind, single = (TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT), dtype == "float32"
    nodes, stored, name = list[Any](), list[Stored](), "input"
    for l, layer in enumerate(net.layers, 1):
        for part, array in (("weight", layer.weight), ("bias", layer.bias)):
            stored.append((f"{part}{l}", array, dtype))
        nodes.append(helper.make_node("Gemm", [name, f"weight{l}", f"bias{l}"], [f"z{l}"], f"layer{l}", transB=1))
        name = f"z{l}"
        if l < len(net.layers):
            nodes += _activation_nodes(layer.activation, name, f"h{l}", single, stored)
            name = f"h{l}"
    if net.output_map == "softmax":
        nodes.append(helper.make_node("Softmax", [name], ["output"], axis=1))
    else:
        nodes += _activation_nodes(Activation.of(net.output_map), name, "output", single, stored)
    ends = [
        helper.make_tensor_value_info(n, kind, ["batch", w]) for n, w in (("input", net.widths[0]), ("output", net.widths[-1]))
    ]
    graph = helper.make_graph(nodes, "moduli", ends[:1], ends[1:])
    opset = 20 if any(node.op_type == "Gelu" for node in nodes) else 17
    model = helper.make_model(graph, producer_name="moduli", opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9 if opset == 20 else 8
    version = str(getattr(importlib.import_module(str(__package__)), "__version__", "unknown"))
    helper.set_model_props(model, {"moduli.version": version} | ({} if slack is None else {"moduli.slack": str(slack)}))
    for label, array, of in stored:  # one at a time, and last: graphs and models copy what they are made of
        model.graph.initializer.append(numpy_helper.from_array(array.astype(of), label))
    return bytes(model.SerializeToString(deterministic=True))


def _activation_nodes(activation: Activation, x: str, y: str, single: bool, stored: list[Stored]) -> list[Any]:
    """Nodes for y = activation(x) that onnxruntime runs, in float32 or float64."""
    from onnx import TensorProto, helper

    if activation.kind == "silu":
        gate = helper.make_node("Sigmoid", [x], [f"{y}_gate"])
        return [gate, helper.make_node("Mul", [x, f"{y}_gate"], [y])]
    slope = activation.slope
    cast = activation.kind in _SINGLE and not single
    if slope is not None:
        cast = single and float(np.float32(slope)) != slope  # the slope is no float32: it keeps its own precision
        stored.append((f"{y}_slope", np.array([slope]), "float32" if single and not cast else "float64"))
        inner = helper.make_node("PRelu", [f"{y}_in" if cast else x, f"{y}_slope"], [f"{y}_out" if cast else y])
    else:
        extra = {"approximate": "tanh"} if activation.kind == "gelu_tanh" else {}
        inner = helper.make_node(_NODES[activation.kind], [f"{y}_in" if cast else x], [f"{y}_out" if cast else y], **extra)
    if not cast:
        return [inner]
    wide = (TensorProto.FLOAT, TensorProto.DOUBLE)
    there, back = wide[single], wide[not single]
    before = helper.make_node("Cast", [x], [f"{y}_in"], to=there)
    return [before, inner, helper.make_node("Cast", [f"{y}_out"], [y], to=back)]
