"""Keras files as data: the description of the layers, and the weights of each.

`.h5` and `.hdf5` hold the description in an attribute and the weights in groups by layer (Keras 2 and
3); `.keras` is a zip with `config.json` and `model.weights.h5`. Nothing is unpickled, nothing that is
described is run, and an HDF5 file that points at other files is refused.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.common.files import MAX_FILE, UNPACKED_FLOOR, UNPACKED_RATIO
from moduli.kernel.errors import UnsupportedModel

from .hdf5 import held

Array = np.ndarray[Any, np.dtype[Any]]
WAY_OUT = "export the model to ONNX: model.export('model.onnx', format='onnx')"
MOST_TEXT = 2**26  # bytes of a description
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


class Weight(NamedTuple):
    """A stored weight; of newer files the order says which it is, and no name."""

    name: str
    array: Array


class KerasFile(NamedTuple):
    """What a file holds.

    Attributes:
        description: of the model: its class, and the configuration of its layers. weights: by layer.
        version: of Keras, 2 or 3.
    """

    description: dict[str, Any]
    weights: Mapping[str, list[Weight]]
    version: int


def read(data: bytes, where: str) -> KerasFile:
    """The layers and weights of a file of either kind.

    Raises:
        UnsupportedModel: it is damaged, or holds weights alone.
        MissingExtra: h5py is not installed.
    """
    return _zipped(data, where) if data.startswith(b"PK") else _plain(data, where)


def _plain(data: bytes, where: str) -> KerasFile:
    said, arrays = held(data, where, weights=False)
    if said["model_config"] is None:
        raise UnsupportedModel(
            f"{where}: holds weights and not the layers (no model_config); "
            "build the model, load these weights, and write it whole with model.save"
        )
    described = _described(said["model_config"], where)
    found = dict[str, list[Weight]]()
    for name, weights in said["layers"]:
        found[name] = []
        for path, number in weights:
            last = path.rsplit("/", 1)[-1].split(":")[0]
            found[name].append(Weight(last, arrays[number]))
    version = str(said["keras_version"] or "2")
    return KerasFile(described, found, 3 if version.startswith("3") else 2)


def _zipped(data: bytes, where: str) -> KerasFile:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            described = _described(_member(archive, CONFIG, len(data)), where)
            weights = _member(archive, WEIGHTS, len(data))
    except (
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error,
        OSError, ValueError,
    ) as error:  # fmt: skip
        if isinstance(error, UnsupportedModel):
            raise
        raise UnsupportedModel(f"{where}: damaged or no Keras file ({error})") from None
    said, arrays = held(weights, where, weights=True)
    groups = dict[str, tuple[str, list[Weight]]]()
    for name, told, listed, more in said["groups"]:
        own = [Weight("", arrays[number]) for _, number in listed]
        if more:  # weights of layers within the layer, which none that is read here has
            own.append(Weight("", np.zeros(0)))
        groups[name] = told, own
    layers = described["config"].get("layers", [])
    return KerasFile(described, _by_layer(groups, layers if isinstance(layers, list) else []), 3)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """One entry of an archive, as large as it says it is."""
    entries = [entry for entry in archive.infolist() if entry.filename == name]
    if len(entries) != 1:
        raise UnsupportedModel(f"it holds {name} {len(entries)} times; a Keras file holds it once")
    (entry,) = entries
    most = min(MAX_FILE, max(UNPACKED_FLOOR, UNPACKED_RATIO * size))
    if entry.file_size > most or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
        raise UnsupportedModel(f"{name} unpacks to {entry.file_size} bytes, or is packed strangely")
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _described(text: str | bytes, where: str) -> dict[str, Any]:
    if len(text) > MOST_TEXT:
        raise UnsupportedModel(f"{where}: a description of {len(text)} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(
            f"{where}: the description of its layers is damaged ({error})"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("config"), (dict, list)):
        raise UnsupportedModel(f"{where}: the description of its layers is damaged")
    if isinstance(found["config"], list):  # a Sequential of early versions
        found["config"] = {"layers": found["config"]}
    return found


def _by_layer(
    groups: Mapping[str, tuple[str, list[Weight]]], layers: Sequence[Mapping[str, Any]]
) -> dict[str, list[Weight]]:
    """Weights by layer. Groups are called by class and counted, unless they name their layers."""
    told = {layer: weights for layer, weights in groups.values() if layer}
    counts, found = dict[str, int](), dict[str, list[Weight]]()
    for layer in layers:
        if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
            raise UnsupportedModel("the description of its layers is damaged")
        kind = _snake(str(layer.get("class_name", "")))
        k = counts[kind] = counts.get(kind, -1) + 1
        group = f"{kind}_{k}" if k else kind
        own = str(layer.get("config", {}).get("name", ""))
        if own in told:
            found[own] = told[own]
        elif group in groups and not groups[group][0]:
            found[own] = groups[group][1]
        elif own in groups and not groups[own][0]:
            found[own] = groups[own][1]
    return found


def _snake(name: str) -> str:
    """As Keras turns the name of a class into the name of a group."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
