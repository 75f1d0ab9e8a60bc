"""Keras files written by hand, as Keras 2 and 3 lay them out; nothing of Keras is needed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np


@dataclass
class L:
    """A layer: its class and configuration, its weights in the order that Keras keeps them, and the
    names of layers that it reads, which is the one before where none is given.
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    reads: Sequence[str] = ()
    name: str = ""


def named(layers: Sequence[L]) -> list[L]:
    """Each layer with a name, and with what it reads."""
    for k, layer in enumerate(layers):
        layer.name = layer.name or f"{layer.kind.lower()}_{k}"
        if k and not layer.reads:
            layer.reads = [layers[k - 1].name]
    return list(layers)


def description(layers: Sequence[L], version: int, sequential: bool = False) -> dict[str, Any]:
    """The configuration of a model, as a file has it."""
    listed = []
    for layer in layers:
        config = {"name": layer.name, "trainable": True, "dtype": "float32", **layer.config}
        entry: dict[str, Any] = {"class_name": layer.kind, "config": config}
        if version == 3:
            entry |= {"module": "keras.layers", "registered_name": None}
        if not sequential:
            entry["name"] = layer.name
            entry["inbound_nodes"] = _nodes(layer, version)
        listed.append(entry)
    config = {"name": "model", "layers": listed}
    if not sequential:
        ends = [layer.name for layer in layers if layer.kind == "InputLayer"]
        read = {name for layer in layers for name in layer.reads}
        last = [layer.name for layer in layers if layer.name not in read]
        config["input_layers"] = [[name, 0, 0] for name in ends]
        config["output_layers"] = [[name, 0, 0] for name in last]
        if version == 3 and len(last) == 1:
            config["output_layers"] = config["output_layers"][0]
    return {"class_name": "Sequential" if sequential else "Functional", "config": config}


def _nodes(layer: L, version: int) -> list[Any]:
    if not layer.reads:
        return []
    if version == 2:
        return [[[name, 0, 0, {}] for name in layer.reads]]
    tensors = [
        {
            "class_name": "__keras_tensor__",
            "config": {"shape": [None], "dtype": "float32", "keras_history": [name, 0, 0]},
        }
        for name in layer.reads
    ]
    args = [tensors] if len(tensors) > 1 else tensors
    return [{"args": args, "kwargs": {}}]


def write_h5(path: Path, layers: Sequence[L], version: int = 2, sequential: bool = False) -> Path:
    """A whole model as `.h5`."""
    layers = named(layers)
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.15.0" if version == 2 else "3.5.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = json.dumps(description(layers, version, sequential))
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = np.array([layer.name.encode() for layer in layers])
        for layer in layers:
            group = root.create_group(layer.name)
            ending = ":0" if version == 2 else ""
            paths = [f"{layer.name}/{name}{ending}" for name in layer.weights]
            group.attrs["weight_names"] = np.array([p.encode() for p in paths], dtype="S60")
            for name, array in zip(paths, layer.weights.values(), strict=True):
                group[name] = array
    return path


def write_keras(
    path: Path,
    layers: Sequence[L],
    sequential: bool = False,
    groups: Mapping[str, str] | None = None,
) -> Path:
    """A whole model as `.keras`; `groups` names the groups of layers where they are not counted."""
    layers = named(layers)
    counts = dict[str, int]()
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        root = file.create_group("layers")
        for layer in layers:
            kind = SNAKES.get(layer.kind, layer.kind.lower())
            k = counts[kind] = counts.get(kind, -1) + 1
            name = (groups or {}).get(layer.name, f"{kind}_{k}" if k else kind)
            held = root.create_group(f"{name}/vars")
            if groups is not None:
                held.attrs["name"] = layer.name
            for n, array in enumerate(layer.weights.values()):
                held[str(n)] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        archive.writestr("config.json", json.dumps(description(layers, 3, sequential)))
        archive.writestr("model.weights.h5", memory.getvalue())
    return path


SNAKES = {
    "DepthwiseConv2D": "depthwise_conv2d", "SeparableConv2D": "separable_conv2d",
    "BatchNormalization": "batch_normalization", "InputLayer": "input_layer",
    "Conv2DTranspose": "conv2d_transpose", "PReLU": "p_re_lu", "ReLU": "re_lu",
    "LayerNormalization": "layer_normalization",
}  # fmt: skip
