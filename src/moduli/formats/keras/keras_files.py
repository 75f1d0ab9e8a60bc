"""Keras files as networks: the layers in the order in which they call each other, as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moduli.common.files import one_line
from moduli.common.graph import Graph
from moduli.formats.onnx import graph_files
from moduli.formats.onnx.model_files import read_onnx
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Network

from .archive import WAY_OUT, KerasFile, read
from .layers import HANDLERS, OPSET, Builder, Layer, Value, given

MODELS = ("Sequential", "Functional", "Model")
FLOATS = {"float32": 1, "float16": 10, "float64": 11}
KERAS = ("keras", "tf_keras", "tensorflow")  # modules whose layers mean what they are called
Called = tuple[str, int, int]  # layer, number of the call, number of the output


class Model:
    """One translation of a file.

    Attributes:
        builder: nodes and numbers. ends: names and shapes of inputs, and names of outputs.
    """

    def __init__(self, file: KerasFile, where: str) -> None:
        self.file, self.where = file, where
        self.builder = Builder()
        kind = file.description.get("class_name")
        if kind not in MODELS or _foreign(file.description):
            raise UnsupportedModel(f"{where}: a {kind} is code, and is not run here; {WAY_OUT}")
        self.config = file.description["config"]
        described = self.config.get("layers", [])
        if not isinstance(described, list) or not described:
            raise UnsupportedModel(f"{where}: holds no layers")
        self.described = {self._name(layer): layer for layer in described}
        if len(self.described) < len(described):
            raise UnsupportedModel(f"{where}: two layers have one name")
        self.values: dict[tuple[str, int], Value] = {}
        self.inputs: list[tuple[str, Value, int]] = []
        chain = kind == "Sequential"
        self.outputs = self._sequence(described) if chain else self._functional()

    def _name(self, described: Any) -> str:
        if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
            raise UnsupportedModel(f"{self.where}: the description of its layers is damaged")
        found = described["config"].get("name") or described.get("name")
        if not isinstance(found, str) or not found:
            raise UnsupportedModel(f"{self.where}: a layer has no name")
        return found

    def _layer(self, name: str) -> Layer:
        described = self.described.get(name)
        if described is None:
            raise UnsupportedModel(f"{self.where}: it names layer {name!r}, which is not there")
        kind = str(described.get("class_name"))
        weights = self.file.weights.get(name, [])
        return Layer(name, kind, described["config"], weights, self.file.version, self.where)

    def _called(self, layer: Layer, inputs: list[Value]) -> Value:
        handler = HANDLERS.get(layer.kind)
        if handler is None or _foreign(self.described[layer.name]):
            raise layer.refuse("this kind of layer is not read")
        return handler(self.builder, layer, inputs)

    def _given(self, layer: Layer, shape: Any) -> Value:
        """An input of the model, whose shape is said with the batch."""
        sizes = [] if shape is None else list(shape)
        if len(sizes) < 2 or not all(n is None or (isinstance(n, int) and n > 0) for n in sizes):
            raise layer.refuse(f"an input of shape {shape}")
        dtype = layer.get("dtype", "float32")
        if isinstance(dtype, dict):
            dtype = dtype.get("config", {}).get("name", "float32")
        if dtype not in FLOATS or layer.get("sparse", False) or layer.get("ragged", False):
            raise layer.refuse(f"an input of type {dtype}; floats are understood")
        name = self.builder.name(layer.name)
        value = given(name, tuple(sizes[1:]))
        self.inputs.append((name, value, FLOATS[dtype]))
        return value

    # Sequential

    def _sequence(self, described: list[Any]) -> list[Value]:
        layers = [self._layer(self._name(each)) for each in described]
        value = None
        for layer in layers:
            if layer.kind == "InputLayer":
                if value is not None:
                    raise layer.refuse("an input that is not the first layer")
                value = self._given(layer, _input_shape(layer))
                continue
            if value is None:
                shape = layer.get("batch_input_shape", self.config.get("build_input_shape"))
                source = Layer("input", "InputLayer", {}, [], layer.version, layer.where)
                value = self._given(source, shape)
            value = self._called(layer, [value])
        assert value is not None
        return [value]

    # Functional

    def _functional(self) -> list[Value]:
        for name, _, _ in self._listed("input_layers"):
            layer = self._layer(name)
            if layer.kind != "InputLayer":
                raise layer.refuse("an input that is another model's layer")
            self.values[name, 0] = self._given(layer, _input_shape(layer))
        return [self._value(call) for call in self._listed("output_layers")]

    def _listed(self, side: str) -> list[Called]:
        found = self.config.get(side)
        if isinstance(found, dict):
            found = list(found.values())
        if isinstance(found, list) and found and isinstance(found[0], str):
            found = [found]
        if not isinstance(found, list) or not found:
            raise UnsupportedModel(f"{self.where}: it has no {side}")
        return [self._call(entry) for entry in found]

    def _call(self, entry: Any) -> Called:
        if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[0], str):
            raise UnsupportedModel(f"{self.where}: {str(entry)[:80]} is no call of a layer")
        if not all(isinstance(n, int) and n >= 0 for n in entry[1:3]):
            raise UnsupportedModel(f"{self.where}: {str(entry)[:80]} is no call of a layer")
        if len(entry) > 3 and entry[3]:
            raise self._layer(entry[0]).refuse(f"it is called with {str(entry[3])[:60]}")
        return entry[0], entry[1], entry[2]

    def _value(self, call: Called) -> Value:
        """What a call of a layer gives, once all that it reads is there."""
        waiting = [call]
        open_calls = set[Called]()  # that wait for others
        while waiting:
            name, number, output = current = waiting[-1]
            if (name, number) in self.values and output == 0:
                waiting.pop()
                continue
            layer = self._layer(name)
            nodes = self.described[name].get("inbound_nodes", [])
            if output or not isinstance(nodes, list) or number >= len(nodes):
                raise layer.refuse(f"call {number} of it, output {output}, which is not there")
            calls = self._read_by(layer, nodes[number])
            missing = [c for c in calls if c[2] or (c[0], c[1]) not in self.values]
            if not missing:
                read = [self.values[other[0], other[1]] for other in calls]
                self.values[name, number] = self._called(layer, read)
                continue
            if current in open_calls:
                raise layer.refuse("it waits for itself")
            open_calls.add(current)
            waiting += missing
        return self.values[call[0], call[1]]

    def _read_by(self, layer: Layer, node: Any) -> list[Called]:
        """The calls that a call reads, as Keras 2 or 3 lists them."""
        if isinstance(node, dict):
            kwargs = {
                k: v for k, v in node.get("kwargs", {}).items() if k not in ("training", "mask")
            }
            if any(v is not None for v in kwargs.values()) or node.get("kwargs", {}).get(
                "training"
            ):
                raise layer.refuse(f"it is called with {str(kwargs)[:60]}")
            return [self._call(entry) for entry in _histories(layer, node.get("args", []), 0)]
        if isinstance(node, list) and node and isinstance(node[0], str):
            node = [node]
        if not isinstance(node, list):
            raise layer.refuse(f"it is called with {str(node)[:60]}")
        calls = []
        for entry in node:
            if isinstance(entry, list) and len(entry) > 3 and isinstance(entry[3], dict):
                given_with = {k: v for k, v in entry[3].items() if v is not None and v is not False}
                if given_with:
                    raise layer.refuse(f"it is called with {str(given_with)[:60]}")
                entry = entry[:3]
            calls.append(self._call(entry))
        return calls

    # The whole

    def proto(self) -> Any:
        """The ONNX model."""
        from onnx import helper, numpy_helper

        b = self.builder
        ends = []
        for name, value, kind in self.inputs:
            sizes = [n if n is not None else f"{name}.{a}" for a, n in enumerate(value.shape)]
            ends.append(helper.make_tensor_value_info(name, kind, ["batch", *sizes]))
        names = [b.form(value, False) for value in self.outputs]
        if len(set(names)) < len(names) or {name for name, _, _ in self.inputs} & set(names):
            raise UnsupportedModel(f"{self.where}: an output is an input, or is there twice")
        results = [helper.make_tensor_value_info(name, self.inputs[0][2], None) for name in names]
        stored = [numpy_helper.from_array(_little(a), name) for name, a in b.arrays.items()]
        graph = helper.make_graph(b.nodes, "keras", ends, results, stored)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="moduli")


def _little(array: Any) -> Any:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _foreign(described: Mapping[str, Any]) -> bool:
    """Whether a class is one of the user's own, whatever it is called."""
    module, registered = described.get("module"), described.get("registered_name")
    kind = described.get("class_name")
    foreign = isinstance(module, str) and module.split(".")[0] not in KERAS
    return foreign or (isinstance(registered, str) and registered not in (kind, f"Keras>{kind}"))


def _input_shape(layer: Layer) -> Any:
    return layer.get("batch_shape", layer.get("batch_input_shape"))


def _histories(layer: Layer, args: Any, depth: int) -> list[Any]:
    """Calls among the arguments of a call, in order."""
    found = list[Any]()
    for arg in args if isinstance(args, list) and depth < 3 else [None]:
        if isinstance(arg, list):
            found += _histories(layer, arg, depth + 1)
        elif isinstance(arg, dict) and arg.get("class_name") == "__keras_tensor__":
            found.append(arg.get("config", {}).get("keras_history"))
        else:
            raise layer.refuse(f"it is called with {str(arg)[:60]}")
    return found


def load(data: bytes, where: str) -> Network | Graph:
    """Read a Keras file: a chain of dense layers as a `Network`, any other as a `Graph`.

    Raises:
        UnsupportedModel: it is damaged, or holds what is not read; names that.
    """
    proto, notes = _translated(data, where)

    def chain(changed: Any = None) -> Network:
        return read_onnx(proto if changed is None else changed, None, where, None, None)

    found = graph_files.load(proto, None, where, chain)
    if isinstance(found, Graph):
        found.source.notes = (*notes, *found.source.notes)
    return found


def load_graph(data: bytes, where: str) -> Graph:
    """Read a Keras file as a graph, also where it is a chain of dense layers."""
    proto, notes = _translated(data, where)
    found = graph_files.read_graph(
        proto, None, where, lambda *_: load_chain(data, where, None, None)
    )
    found.source.notes = (*notes, *found.source.notes)
    return found


def load_chain(data: bytes, where: str, input_shape: Any, output: str | None) -> Network:
    """Read a Keras file as a chain of dense layers."""
    return read_onnx(_translated(data, where)[0], None, where, input_shape, output)


def _translated(data: bytes, where: str) -> tuple[Any, tuple[str, ...]]:
    with one_line(where):
        model = Model(read(data, where), where)
        return model.proto(), tuple(model.builder.notes)
