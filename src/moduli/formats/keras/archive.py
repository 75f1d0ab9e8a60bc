"""Keras files as data: the description of the layers, and the weights of each.

`.h5` and `.hdf5` hold the description in an attribute and the weights in groups by layer (Keras 2 and
3); `.keras` is a zip with `config.json` and `model.weights.h5`. Nothing is unpickled, nothing that is
described is run, and an HDF5 file that points at other files is refused.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.common.extras import needed
from moduli.common.files import MAX_FILE, UNPACKED_FLOOR, UNPACKED_RATIO
from moduli.kernel.errors import UnsupportedModel

Array = np.ndarray[Any, np.dtype[Any]]
WAY_OUT = "export the model to ONNX: model.export('model.onnx', format='onnx')"
MOST_NAMES = 2**14  # of layers, and of weights of one
MOST_TEXT = 2**26  # bytes of a description
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
CHILDREN = ("layers", "_layer_checkpoint_dependencies")  # groups of weights by layer, new and old


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
    with _opened(data, where) as file:
        text = _attribute(file, "model_config")
        if text is None:
            raise UnsupportedModel(
                f"{where}: holds weights and not the layers (no model_config); "
                "build the model, load these weights, and write it whole with model.save"
            )
        described = _described(text, where)
        version = str(_attribute(file, "keras_version") or "2")
        root = _child(file, "model_weights") if "model_weights" in file else file
        found = {}
        for name in _names(root, "layer_names"):
            group = _child(root, name)
            weights = []
            for path in _names(group, "weight_names"):
                last = path.rsplit("/", 1)[-1].split(":")[0]
                weights.append(Weight(last, _numbers(group, path, len(data))))
            found[name] = weights
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
    with _opened(weights, where) as file:
        children = next((name for name in CHILDREN if name in file), None)
        found = {} if children is None else _numbered(_child(file, children), len(weights))
        layers = described.get("config", {}).get("layers", [])
        return KerasFile(described, _by_layer(found, layers), 3)


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


# HDF5 -----------------------------------------------------------------------------------------------------------


class _opened:
    """An HDF5 file in memory; whatever the library stumbles over becomes one line."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where

    def __enter__(self) -> Any:
        with needed("h5py", "keras"):
            import h5py
        try:
            self.file = h5py.File(io.BytesIO(self.data), "r")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise UnsupportedModel(f"{self.where}: damaged or no HDF5 file ({error})") from None
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.file.close()
        stumbled = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
        if isinstance(error, stumbled) and not isinstance(error, UnsupportedModel):
            raise UnsupportedModel(f"{self.where}: damaged HDF5 file ({error})") from None


def _child(group: Any, name: str) -> Any:
    """A group or tensor that lies in the file itself.

    Raises:
        UnsupportedModel: it is a link to somewhere else.
    """
    import h5py

    for part in filter(None, name.split("/")):
        if part == "..":
            raise UnsupportedModel(f"{name[:80]!r} leads out of its group")
        if not isinstance(group, h5py.Group) or part not in group:
            raise UnsupportedModel(f"it names {name[:80]!r}, which is not there")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise UnsupportedModel(
                f"{name[:80]!r} is a link, maybe to another file; write the model again with model.save"
            )
        group = group[part]
    return group


def _attribute(group: Any, name: str) -> Any:
    found = group.attrs.get(name)
    return found.decode() if isinstance(found, bytes) else found


def _names(group: Any, name: str) -> list[str]:
    """A list of names; long ones are kept in several attributes."""
    parts = [name] if name in group.attrs else [f"{name}{k}" for k in range(MOST_NAMES)]
    found = list[str]()
    for part in parts:
        if part not in group.attrs:
            break
        listed = np.ravel(group.attrs[part])
        found += [n.decode() if isinstance(n, bytes) else str(n) for n in listed]
        if len(found) > MOST_NAMES:
            raise UnsupportedModel(f"more than {MOST_NAMES} {name}")
    return found


def _numbers(group: Any, path: str, size: int) -> Array:
    """The numbers of a weight.

    Raises:
        UnsupportedModel: they lie in another file, are no floats, or are many more than the file
            can hold.
    """
    import h5py

    tensor = _child(group, path)
    if not isinstance(tensor, h5py.Dataset):
        raise UnsupportedModel(f"{path[:80]!r} is no tensor")
    if tensor.external or tensor.is_virtual:
        raise UnsupportedModel(f"the numbers of {path[:80]!r} lie in another file")
    if tensor.dtype.kind not in "fiu" or tensor.dtype.itemsize > 8:
        raise UnsupportedModel(f"{path[:80]!r} holds {tensor.dtype}; floats are understood")
    bytes_needed = math.prod(tensor.shape) * tensor.dtype.itemsize
    if bytes_needed > max(UNPACKED_FLOOR, UNPACKED_RATIO * size):
        raise UnsupportedModel(f"{path[:80]!r} of shape {tensor.shape} in a file of {size} bytes")
    return np.asarray(tensor[()])


def _numbered(group: Any, size: int) -> dict[str, tuple[str, list[Weight]]]:
    """Weights of a newer file by the name of their group, with the name of the layer where it is
    told.
    """
    found = dict[str, tuple[str, list[Weight]]]()
    for name in list(group)[:MOST_NAMES]:
        part = _child(group, name)
        held = _child(part, "vars") if "vars" in part else None
        numbers = [] if held is None else sorted(map(str, held), key=_order)
        weights = [] if held is None else [Weight("", _numbers(held, n, size)) for n in numbers]
        if any(child not in ("vars",) and _holds(part, child) for child in part):
            weights.append(Weight("more in it", np.zeros(0)))  # of layers in a layer
        told = "" if held is None else str(_attribute(held, "name") or "")
        found[name] = told or str(_attribute(part, "name") or ""), weights
    return found


def _holds(group: Any, name: str) -> bool:
    """Whether a group within a layer has any tensors."""
    import h5py

    part = _child(group, name)
    inside = list(_walk(part)) if isinstance(part, h5py.Group) else [part]
    return any(isinstance(item, h5py.Dataset) for item in inside)


def _walk(group: Any) -> Iterator[Any]:
    import h5py

    for name in list(group)[:MOST_NAMES]:
        item = _child(group, name)
        yield item
        if isinstance(item, h5py.Group):
            yield from _walk(item)


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (MOST_NAMES, name)


def _by_layer(
    groups: Mapping[str, tuple[str, list[Weight]]], layers: Sequence[Mapping[str, Any]]
) -> dict[str, list[Weight]]:
    """Weights by layer. Groups are called by class and counted, unless they name their layers."""
    told = {layer: weights for layer, weights in groups.values() if layer}
    counts, found = dict[str, int](), dict[str, list[Weight]]()
    for layer in layers:
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
