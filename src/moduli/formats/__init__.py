"""Files and objects to networks and back: `load` and `save`.

    .onnx          dense graphs, opset 6 to today; written with opset 17 (20 where Gelu occurs)
    .tflite        TensorFlow Lite, real or quantised; written smaller, as the same file
    .keras .h5     Keras 2 and 3, Sequential and Functional, of layers that mean what they are called
    .hdf5
    .nnet          text; the network stays in its normalised coordinates, `Network.frame` holds the
                   physical ones; written without a frame, the bounds are the largest floats, mean 0
                   and range 1; `nnet` says which dialects are read
    .safetensors   layers.0.weight [out, in], layers.0.bias [out], layers.1.weight, ...; metadata
                   format = moduli/1, activations = tanh,tanh (one per hidden layer),
                   output_map = identity
    .npz           W1 [out, in], b1 [out], W2, b2, ...; activations: unicode, one per hidden layer;
                   output_map: unicode
    .pth .pt .tar .ckpt   torch checkpoints, read with ``weights_only=True``
    .zip           of Stable-Baselines3: the layers of ``policy.pth`` that ``keys`` chooses; nothing
                   else in it is read
    zoo:NAME       the small trained networks of this package

Suffixes do not mind case; .onnx.gz, .nnet.gz and .npz.gz are unpacked on the way, up to a size that
is watched.

Stored numbers are real numbers: what a file's operations mean over the reals is what is read, and
every rounding that folding brings is certified in `Network.notes`. A file written in float64 is
read back with the same digest; one written in float32, and a normal form, carries the certified
effect of its rounding (metadata ``moduli.slack``, npz entry ``slack``). Files are read as data:
nothing is unpickled, and declared sizes are compared with real ones before anything is allocated.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickletools
import re
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.arguments import Reading, briefly
from moduli.common.domains import Samples
from moduli.common.exact_values import exact_arrays
from moduli.common.files import (
    MAX_FILE,
    UNPACKED_FLOOR,
    UNPACKED_RATIO,
    atomic_write,
    content,
    load_arrays,
    named,
    one_line,
    refuse_stand_in,
    regular,
    suffix_of,
    unpack,
)
from moduli.common.graph import Graph
from moduli.kernel.box import Box
from moduli.kernel.errors import Asked, UnsupportedModel
from moduli.kernel.exact_numbers import sum_up
from moduli.kernel.network import Network
from moduli.kernel.slack import Slack, difference

from .nnet import nnet_bytes, read_nnet
from .onnx.model_files import onnx_bytes, read_onnx
from .reading import fitted
from .safetensors_file import read_safetensors, shared_tensors
from .state_dicts import network_from_state_dict
from .tables import SUFFIXES, read_table

Array = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[Any]]

Writer = Callable[[Network, str, Slack | None], bytes | Iterator[bytes | memoryview]]
CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt")
KERAS = (".keras", ".h5", ".hdf5")
MODELS = (".onnx", ".nnet", ".safetensors", ".npz", *CHECKPOINTS, ".tflite", *KERAS)
READ = (*MODELS, ".zip")  # an archive is read for one library's sake, and offered to no other
UNPACKED = (".onnx", ".nnet", ".npz")  # from .gz
POLICY = "policy.pth"
MAX_PICKLE = 1 << 24  # bytes of an archive's list of tensors that are scanned for names
MAX_NAMES = 1 << 12  # of a folder that are looked at
EXPORT = "export the model to ONNX"
TENSORFLOW = f"{EXPORT}: python -m tf2onnx.convert"
ZOO_GRAPHS = {"zoo:person-detector": "person-detector.onnx"}
FOREIGN = {
    ".pb": (
        "this is a TensorFlow graph",
        f"{TENSORFLOW} --graphdef {{}} --output model.onnx --inputs X:0 --outputs Y:0",
    ),
    ".pkl": (
        "this is a pickle, which is code",
        f"{EXPORT} with the library that wrote it (skl2onnx for scikit-learn)",
    ),
    ".pickle": (
        "this is a pickle, which is code",
        f"{EXPORT} with the library that wrote it (skl2onnx for scikit-learn)",
    ),
    ".joblib": (
        "this is a pickle, which is code",
        f"{EXPORT} with the library that wrote it (skl2onnx for scikit-learn)",
    ),
    ".bin": (
        "many programs write .bin",
        "take the .safetensors beside it; if torch.save wrote it, rename it .pt",
    ),
    ".gguf": ("this is a quantised language model", "take the .safetensors that it was made of"),
    ".mlmodel": ("this is a Core ML model", f"{EXPORT} with the library that trained it"),
    ".mat": ("this is a MATLAB file", f"{EXPORT} with exportONNXNetwork"),
}


# The doors ------------------------------------------------------------------------------------------------------


@briefly
def load(
    source: Any,
    *,
    input_shape: int | Sequence[int] | None = None,
    output: str | None = None,
    activation: Any = None,
    keys: Sequence[str] | None = None,
) -> Network | Graph:
    """Read a network: a chain of dense layers as a `Network`, any other ONNX, Keras or TensorFlow Lite
    model as a `Graph`.

    TensorFlow Lite files are graphs also where they are chains, so that they can be written again;
    `Graph.chain` gives the chain. Args and errors are those of `load_chain`. Where an output of a file
    is named, a chain is meant, and nothing else is read. The input shape of an ONNX file that is no
    chain says with which sizes it is run to compare; what is proved of a graph holds for all that it
    leaves open. A ``torch.nn.Module`` that is no chain is read as a graph where its input shape,
    without the batch axis, is given; `moduli.pytorch.read_module` takes other inputs.

    Returns:
        A `Network`, about which all is known, or a `Graph`: `compress`, `rank`, `check` and `info`
        take one, and `Graph.chain` reads it as a chain where it is one.

    >>> import moduli as mo
    >>> type(load("zoo:person-detector")).__name__, type(load("zoo:digits-plain")).__name__
    ('Graph', 'Network')
    """
    given: dict[str, Any] = {
        "input_shape": input_shape, "output": output, "activation": activation, "keys": keys,
    }  # fmt: skip
    fitted([source], given)
    if isinstance(source, Graph):
        return source

    def chain(changed: Any = None) -> Network:
        return load_chain(source if changed is None else changed, **given)

    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].nn.Module):
        return _chain_or_graph(source, input_shape, chain)
    if output is not None:
        return chain()
    if input_shape is not None:
        return _chain_or_open_graph(source, input_shape, chain)
    translated = _tensorflow_source(source)
    if translated is not None:
        files, data, where = translated
        from_tensorflow: Network | Graph = files.load(data, where)
        return from_tensorflow
    found = _onnx_source(source)
    if found is None:
        return chain()
    data, folder, where = found
    read: Network | Graph = _graph_files().load(data, folder, where, chain)
    return read


def _chain_or_open_graph(source: Any, input_shape: Any, chain: Any) -> Network | Graph:
    """A file as a chain for inputs of a shape, else an ONNX file as a graph that is run with that."""
    try:
        read: Network | Graph = chain()
    except UnsupportedModel as error:
        found = _onnx_source(source)
        if found is None:
            raise
        try:
            read = _graph_files().read_graph(*found, chain)
        except UnsupportedModel:
            raise error from None
        assert isinstance(read, Graph)
        if not read.source.runs_with(read.model, input_shape):
            shapes = ", ".join(str(read.model.shapes.get(name)) for name in read.inputs)
            raise UnsupportedModel(
                f"{found[2]}: ",
                Asked("input_shape", input_shape),
                f" does not fit inputs of shape {shapes}",
            ) from None
        read.source.notes = (f"no chain of dense layers: {error}", *read.source.notes)
    return read


def load_several(sources: Sequence[Any], **given: Any) -> list[Network | Graph]:
    """Several models by `load`, each with the options that concern it.

    Raises:
        ArgumentError: an option concerns none of them.
    """
    return [load(s, **part) for s, part in zip(sources, _fitted(sources, given), strict=True)]


def load_chains(sources: Sequence[Any], **given: Any) -> list[Network]:
    """Several models by `load_chain`, each with the options that concern it.

    Raises:
        ArgumentError: an option concerns none of them.
    """
    return [load_chain(s, **part) for s, part in zip(sources, _fitted(sources, given), strict=True)]


def _fitted(sources: Sequence[Any], given: dict[str, Any]) -> list[Reading]:
    """For each of several sources the options that concern it: an input shape those that leave theirs
    open, where there are any.
    """
    parts = fitted(sources, given)
    if given.get("input_shape") is not None and len(sources) > 1:
        takes = ["input_shape" in part for part in parts]
        open_ = [t and not _states_its_shape(s) for s, t in zip(sources, takes, strict=True)]
        if any(open_):
            for part, leaves in zip(parts, open_, strict=True):
                if not leaves:
                    part.pop("input_shape", None)
    return parts


def _states_its_shape(source: Any) -> bool:
    """Whether it is an ONNX file whose only input has a size along every axis but the first."""
    found = _onnx_source(source)
    return found is not None and bool(_graph_files().states_its_shape(found[0], found[2]))


def load_as_written(source: Any, **given: Any) -> Network | Graph:
    """As `load` does, but any ONNX or Keras file and any torch module as a graph, also one that is a
    chain: nothing in it is put together.

    Raises:
        UnsupportedModel: reading it as a chain put layers together, and it is read in no other way.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    found = None if asked else _onnx_source(source)
    if found is not None:
        data, folder, where = found
        read: Graph = _graph_files().read_graph(data, folder, where, lambda *_: load_chain(source))
        return read
    net = load(source, **given)
    if isinstance(net, Graph) or net is source:
        return net
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].nn.Module):
        graphs = importlib.import_module(".torch_graph", __package__)
        shape = asked.get("input_shape", net.widths[0])
        module: Graph = graphs.read_for_shape(source, shape)
        return module
    if isinstance(source, (str, os.PathLike)) and suffix_of(Path(source))[0] in KERAS:
        keras = _tensorflow_files(suffix_of(Path(source))[0])
        whole: Graph = keras.load_graph(content(Path(source)), str(source))
        return whole
    folded = next((note for note in net.notes if "folded" in note), None)
    if folded is not None:
        raise UnsupportedModel(
            f"{source}: its reader {folded}, which no runtime does; export it to ONNX, or give what load "
            "returns to ask of the layers that were read"
        )
    return net


def graph_of(net: Network) -> Graph:
    """A network as the graph that its ONNX file would be."""
    read: Graph = _graph_files().read_graph(
        b"".join(bytes(part) for part in _parts(onnx_bytes(net, "float64", None))),
        None,
        repr(net),
        lambda *_: net,
    )
    return read


def _parts(written: bytes | Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    return iter([written]) if isinstance(written, bytes) else written


def _chain_or_graph(module: Any, input_shape: Any, chain: Any) -> Network | Graph:
    """A torch module as a chain, else as a graph for inputs of a shape."""
    try:
        read: Network | Graph = chain()
    except UnsupportedModel as error:
        if input_shape is None:
            raise
        graphs = importlib.import_module(".torch_graph", __package__)
        try:
            read = graphs.read_for_shape(module, input_shape)
        except UnsupportedModel:
            raise error from None
        assert isinstance(read, Graph)
        read.source.notes = (f"no chain of dense layers: {error}", *read.source.notes)
    return read


def load_chain(
    source: Any,
    *,
    input_shape: int | Sequence[int] | None = None,
    output: str | None = None,
    activation: Any = None,
    keys: Sequence[str] | None = None,
) -> Network:
    """Read a network as a chain of dense layers.

    Args:
        source: a `Network` (returned as it is), a `Graph`, a path (formats by suffix, see the module),
            ``"zoo:NAME"``, an ``onnx.ModelProto``, a ``torch.nn.Module``, or a list of ``(weight,
            bias)`` pairs.
        input_shape: of one sample, without the batch axis or with it, where the model leaves it
            open.
        output: name of the wanted output of a model that has several.
        activation: of the hidden layers, one or one for each, for sources that store none (pairs,
            state dicts).
        keys: prefixes of the layers of a state dict, in order.

    Raises:
        UnsupportedModel: the model cannot be read; names the first thing not understood and the way
            out. ArgumentError: an option that does not concern such a source.
        OSError: the file cannot be opened.

    >>> import numpy as np
    >>> load_chain([(np.ones((3, 2)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))], activation="tanh").widths
    (2, 3, 1)
    """
    fitted(
        [source],
        {"input_shape": input_shape, "output": output, "activation": activation, "keys": keys},
    )
    if isinstance(source, Network):
        return source
    if isinstance(source, Graph):
        return source.chain()
    if isinstance(source, (str, os.PathLike)):
        if str(source) in ZOO_GRAPHS:
            data = _zoo_graph(ZOO_GRAPHS[str(source)])
            return read_onnx(data, None, str(source), input_shape, output)
        if str(source).startswith("zoo:"):
            return _zoo(str(source)[4:])
        return _load_path(source, input_shape, output, activation, keys)
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].nn.Module):
        return _network(_torch().read_module(source, input_shape=input_shape))
    if "onnx" in sys.modules and isinstance(source, sys.modules["onnx"].ModelProto):
        return read_onnx(source, None, "ONNX model", input_shape, output)
    if isinstance(source, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in source
    ):
        return _from_pairs(source, activation)
    raise UnsupportedModel(
        f"cannot read a source of type {type(source).__name__}; "
        "a path, torch.nn.Module, onnx.ModelProto or list of (weight, bias) pairs is needed"
    )


def _onnx_source(source: Any) -> tuple[Any, Path | None, str] | None:
    """The bytes or the model, the folder and the name of an ONNX source; None of others."""
    if "onnx" in sys.modules and isinstance(source, sys.modules["onnx"].ModelProto):
        return source, None, "ONNX model"
    if not isinstance(source, (str, os.PathLike)):
        return None
    if str(source) in ZOO_GRAPHS:
        return _zoo_graph(ZOO_GRAPHS[str(source)]), None, str(source)
    if str(source).startswith("zoo:"):
        return None
    path = Path(source)
    if path.is_dir() or suffix_of(path)[0] != ".onnx":
        return None
    _readable(path, ".onnx", path.stat().st_size)
    return content(path), path.parent, str(path)


def _tensorflow_source(source: Any) -> tuple[Any, bytes, str] | None:
    """The module that reads a TensorFlow Lite or Keras file, its bytes and name; None of others."""
    if not isinstance(source, (str, os.PathLike)) or str(source).startswith("zoo:"):
        return None
    path = Path(source)
    suffix, packed = suffix_of(path)
    files = _tensorflow_files(suffix)
    if files is None or packed or path.is_dir():
        return None
    _readable(path, suffix, path.stat().st_size)
    return files, content(path), str(path)


def _tensorflow_files(suffix: str) -> Any:
    """The module that reads files of a suffix; None of others."""
    if suffix == ".tflite":
        return importlib.import_module(".tflite.tflite_files", __package__)
    if suffix in KERAS:
        return importlib.import_module(".keras.keras_files", __package__)
    return None


def _zoo_graph(name: str) -> bytes:
    from importlib.resources import files

    return (files("moduli") / "zoo" / name).read_bytes()


def _graph_files() -> Any:
    return importlib.import_module(".onnx.graph_files", __package__)


def save(
    net: Network | Graph, path: str | Path, *, dtype: str = "float64", slack: Slack | None = None
) -> Path:
    """Write a network, in the format of the suffix (.onnx .safetensors .npz .nnet); whole or not at
    all. A graph is written as .onnx; one that was read from a .tflite file as .tflite, too.

    Args:
        dtype: ``"float64"`` (exact) or ``"float32"`` (rounded; the file carries the certified
            slack).
        slack: what was rounded before, which the file then carries too; that of `canonical`, for
            one.

    Raises:
        UnsupportedModel: unknown suffix, a network the format cannot hold, or a weight beyond
            float32.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> from moduli.kernel.network import Network
    >>> net = Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(net, f"{folder}/net.npz")) == net
    True
    """
    file = Path(path)
    if isinstance(net, Graph):
        suffixes = net.source.suffixes
        if file.suffix.lower() not in suffixes:
            raise UnsupportedModel(
                f"{file}: a graph is written as {' or '.join(suffixes)}, in the types that it was read in"
            )
        return net.source.save(file)
    writers: dict[str, Writer] = {
        ".onnx": onnx_bytes, ".safetensors": _safetensors_bytes, ".npz": _npz_bytes,
        ".nnet": nnet_bytes,
    }  # fmt: skip
    writer = writers.get(file.suffix.lower())
    if writer is None:
        raise UnsupportedModel(
            f"{file}: cannot write {file.suffix or 'a file without suffix'!r}; suffixes: {' '.join(writers)}"
        )
    if dtype not in ("float64", "float32"):
        raise UnsupportedModel(f"dtype {dtype!r}; 'float64' or 'float32' is written")
    if not isinstance(net, Network):
        raise UnsupportedModel(f"save takes a Network, not {type(net).__name__}; load it first")
    if dtype == "float32":
        net, more = _float32(net)
        slack = more if slack is None else _both(slack, more)
    return atomic_write(file, writer(net, dtype, slack))


def _load_path(
    source: str | os.PathLike[str],
    input_shape: Any,
    output: str | None,
    activation: Any,
    keys: Sequence[str] | None,
) -> Network:
    path = Path(source)
    size = path.stat().st_size
    if path.is_dir():
        raise UnsupportedModel(f"{named(str(source))} is a folder; give the file{_inside(path)}")
    suffix, packed = suffix_of(path)
    if suffix not in READ:
        raise UnsupportedModel(_unread(path, suffix, packed))
    if packed and suffix not in UNPACKED:
        command = "tar -xzf" if suffix == ".tar" else "gunzip"
        raise UnsupportedModel(
            f"{path}: {suffix}.gz is not unpacked here; {command} it first and give the model file"
        )
    _readable(path, suffix, size)
    with one_line(str(path)):
        if suffix == ".onnx":
            return read_onnx(content(path), path.parent, str(path), input_shape, output)
        if suffix == ".nnet":
            return read_nnet(content(path), str(path))
        if suffix == ".safetensors":
            return _read_safetensors(path, activation, keys)
        if suffix == ".npz":
            return _read_npz(content(path), str(path))
        if suffix == ".zip":
            return _read_policy(path, activation, keys)
        tensorflow = _tensorflow_files(suffix)
        if tensorflow is not None:
            chain: Network = tensorflow.load_chain(content(path), str(path), input_shape, output)
            return chain
        return _network(_torch().read_checkpoint(path, activation=activation, keys=keys))


def _readable(path: Path, suffix: str, size: int) -> None:
    """Refuse what is no file of numbers, or too large, before it is read."""
    regular(path)
    most = (
        2 * MAX_FILE if suffix == ".safetensors" else MAX_FILE
    )  # which holds all that `affine_tracer.MAX_PARAMETERS` allows
    if not 0 < size <= most:
        raise UnsupportedModel(f"{path}: {size} bytes; such a file holds between 1 and {most}")
    refuse_stand_in(path)


def _unread(path: Path, suffix: str, packed: bool) -> str:
    """Why a file of another suffix is not read, and what to do."""
    whole = f"{suffix}.gz" if packed else suffix
    means, way_out = FOREIGN.get(suffix, ("", EXPORT))
    said = f"{means}: {way_out.format(path.name)}" if means else way_out
    return f"{path}: cannot read suffix {whole!r}; suffixes: {' '.join(MODELS)}; {said}"


def _inside(folder: Path) -> str:
    """What a folder is, where that can be told, or the files in it that could be meant."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in islice(entries, MAX_NAMES))
    if "saved_model.pb" in names:
        return f" (this is a TensorFlow SavedModel: {TENSORFLOW} --saved-model {folder} --output model.onnx)"
    # weights of a Hugging Face model for Keras lack the layers
    read = set(READ) - set(KERAS) if "config.json" in names else set(READ)
    models = [name for name in names if suffix_of(name)[0] in read]
    what = "this is a Hugging Face model: " if "config.json" in names else ""
    if what and {"model.safetensors", "model.safetensors.index.json"} & set(names):
        what += "align, equivalent and signature take the folder; "
    if models:
        return f" ({what}{', '.join(str(folder / name) for name in models[:3])}{', ...' if len(models) > 3 else ''})"
    return f" ({what}{EXPORT})" if what else ""


def _read_policy(path: Path, activation: Any, keys: Sequence[str] | None) -> Network:
    """The chosen layers of the policy in an archive of Stable-Baselines3."""
    data = _member(path, POLICY)
    if keys is None:
        names = _layer_names(data)
        listed = (
            f", from {', '.join(names[:16])}{', ...' if len(names) > 16 else ''}" if names else ""
        )
        raise UnsupportedModel(
            f"{path}: {POLICY} holds several networks, actor and critic; "
            "choose layers, in order, with ", Asked("keys"), listed,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / POLICY
        file.write_bytes(data)
        try:
            net = _network(_torch().read_checkpoint(file, activation=activation, keys=keys))
        except UnsupportedModel as error:
            member = f"{path}: {POLICY}"
            raise UnsupportedModel(
                *(p.replace(str(file), member) if isinstance(p, str) else p for p in error.parts)
            ) from None
    note = f"layers of {POLICY} alone: scaling of observations, squashing and clipping of actions are not in them"
    return replace(net, notes=(*net.notes, note))


def _member(path: Path, name: str) -> bytes:
    """One entry of a zip archive, as large as it says it is."""
    whole = content(path)
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            entries = archive.infolist()
            found = [entry for entry in entries if entry.filename == name]
            if len(found) != 1:
                raise UnsupportedModel(f"{path} {_no_policy(entries, len(found))}")
            entry = found[0]
            if entry.file_size > min(
                MAX_FILE, max(UNPACKED_FLOOR, UNPACKED_RATIO * entry.compress_size)
            ):
                raise UnsupportedModel(
                    f"{path}: {name} unpacks from {entry.compress_size} bytes to {entry.file_size}; unzip it if it is meant to"
                )
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UnsupportedModel(
                    f"{path}: {name} is packed in a way that is not read; unzip and zip it again"
                )
            with archive.open(entry) as file:
                data = file.read(entry.file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        struct.error,
    ) as error:
        raise UnsupportedModel(f"{path} is damaged or no zip archive ({error})") from None
    if len(data) != entry.file_size:
        raise UnsupportedModel(
            f"{path}: {name} says it has {entry.file_size} bytes but holds {len(data)}"
        )
    return data


def _no_policy(entries: Sequence[zipfile.ZipInfo], found: int) -> str:
    names = [entry.filename for entry in entries]
    if found:
        return f"holds {POLICY} {found} times; an archive holds every name once"
    if any(name.endswith("/data.pkl") for name in names):
        return "is a torch file; rename it .pt"
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else "nothing"
    return f"holds {listed} and no {POLICY} of Stable-Baselines3; unzip it and give the model file"


def _layer_names(data: bytes) -> list[str]:
    """The layers that a torch archive names, read as text: its pickle is scanned for words, not
    run.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [
                entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")
            ]
            with archive.open(pickles[0]) as file:
                text = file.read(min(pickles[0].file_size, MAX_PICKLE))
        words = [word for _, word, _ in pickletools.genops(text) if isinstance(word, str)]
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ):
        return []
    return list(
        dict.fromkeys(word.removesuffix(".weight") for word in words if word.endswith(".weight"))
    )


def _torch() -> Any:
    return importlib.import_module(".torch_modules", __package__)


def _network(value: Any) -> Network:
    assert isinstance(value, Network)
    return value


def _from_pairs(pairs: Sequence[Any], activation: Any) -> Network:
    if activation is None and len(pairs) > 1:
        raise UnsupportedModel(
            f"{len(pairs)} (weight, bias) pairs store no activation; give it, as in ",
            Asked("activation", "relu"),
        )
    return Network.mlp(*[part for pair in pairs for part in pair], activation=activation or "relu")


def _zoo(name: str) -> Network:
    from importlib.resources import files

    folder = files("moduli") / "zoo"
    found = (
        sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".npz"))
        if folder.is_dir()
        else []
    )
    if name not in found:
        raise UnsupportedModel(
            f"no zoo:{name}; there are {', '.join(sorted(['zoo:' + n for n in found] + [*ZOO_GRAPHS]))}"
        )
    with one_line(f"zoo:{name}"):
        return _read_npz((folder / f"{name}.npz").read_bytes(), f"zoo:{name}")


def _both(one: Slack, other: Slack) -> Slack:
    """Of two roundings, one after the other."""
    return Slack(sum_up(one.constant, other.constant), sum_up(one.growth, other.growth))


def _float32(net: Network) -> tuple[Network, Slack]:
    """The network with float32 parameters, and what that does to the function."""
    rounded = net.rounded("float32")
    return rounded, difference(exact_arrays(net), exact_arrays(rounded), net.activations)


def load_samples(path: str | Path) -> Samples:
    """The rows of a `.npz` file with one two-dimensional array (or one named ``x``), of a `.npy`
    file, or of a `.csv` file, all of whose columns are inputs.
    """
    file = Path(path)
    if suffix_of(file)[0] in SUFFIXES:
        table = read_table(file)
        return Samples(table.numbers(list(range(len(table.names)))))
    arrays = load_arrays(file)
    with one_line(str(file)):
        flat = {
            name: array
            for name, array in arrays.items()
            if array.ndim == 2 and array.dtype.kind in "fiu"
        }
        if "x" not in flat and len(flat) != 1:
            held = ", ".join(arrays) or "nothing"
            raise UnsupportedModel(
                f"{file} holds {held}; one array [rows, in] or one named x is needed"
            )
        return Samples(flat["x"] if "x" in flat else next(iter(flat.values())))


def load_box(path: str | Path) -> Box:
    """The box of a `.npz` file with two arrays, ``low`` and ``high``: numbers, or arrays of an
    input's shape; for a graph of several inputs ``NAME.low`` and ``NAME.high`` for each.

    Raises:
        UnsupportedModel: other entries, or ends that are no box.
        OSError: the file cannot be opened.
    """
    arrays = load_arrays(path)
    with one_line(str(path)):
        numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
        inputs = list(dict.fromkeys(name.rpartition(".")[0] for name in numbers))
        wanted = [f"{name}.{end}" if name else end for name in inputs for end in ("low", "high")]
        named = len(inputs) > 1 or inputs != [""]
        whole = set(arrays) == set(numbers) == set(wanted)
        if not inputs or not whole or (named and "" in inputs):
            held = ", ".join(list(arrays)[:8]) or "nothing"
            raise UnsupportedModel(
                f"{path} holds {held}; two arrays of numbers are needed: low and high, or NAME.low and "
                "NAME.high for each input"
            )
        if not named:
            return Box(numbers["low"], numbers["high"])
        return Box({name: (numbers[f"{name}.low"], numbers[f"{name}.high"]) for name in inputs})


# .npz and .safetensors ------------------------------------------------------------------------------------------


def _read_npz(data: bytes, where: str) -> Network:
    arrays = unpack(data)
    depth = sum(name.startswith("W") for name in arrays)
    wanted = [f"{part}{l}" for l in range(1, depth + 1) for part in "Wb"]
    if not depth or set(arrays) - {"slack"} != {*wanted, "activations", "output_map"}:
        raise UnsupportedModel(
            f"{where}: entries {', '.join(list(arrays)[:8])}; needed are W1, b1, W2, b2, ..., "
            "activations (one per hidden layer) and output_map"
        )
    if any(
        arrays[name].dtype.kind != "U" or arrays[name].ndim != k
        for k, name in enumerate(("output_map", "activations"))
    ):
        raise UnsupportedModel(f"{where}: activations (a list) and output_map must be unicode text")
    names, output_map = arrays["activations"].tolist(), str(arrays["output_map"][()])
    return Network.mlp(*(arrays[name] for name in wanted), activation=names, output_map=output_map)


def _npz_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    """Entries stored, not packed, and without dates: the same network, the same bytes."""
    arrays: dict[str, Any] = {}
    for l, layer in enumerate(net.layers, 1):
        arrays |= {f"W{l}": layer.weight.astype(dtype), f"b{l}": layer.bias.astype(dtype)}
    arrays |= {
        "activations": np.array([str(a) for a in net.activations], dtype=np.str_),
        "output_map": np.array(net.output_map),
    }
    if slack is not None:
        arrays["slack"] = np.array(str(slack))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())
    return buffer.getvalue()


def _read_safetensors(path: Path, activation: Any, keys: Sequence[str] | None) -> Network:
    metadata, stored = read_safetensors(path)
    arrays = shared_tensors(metadata, stored)
    if metadata.get("format") != "moduli/1":  # names come sorted as text, which is no order
        return network_from_state_dict(
            arrays, activation=activation, keys=keys, where=str(path), ordered=False
        )
    wanted = [f"layers.{l}.{part}" for l in range(len(arrays) // 2) for part in ("weight", "bias")]
    if set(arrays) != set(wanted):
        raise UnsupportedModel(
            f"{path}: entries {', '.join(list(arrays)[:8])}; needed are layers.0.weight, layers.0.bias, ..."
        )
    names = [
        name for name in re.split(r",(?![^()]*\))", metadata.get("activations", "")) if name
    ]  # not within clip(0,6)
    output_map = metadata.get("output_map", "identity")
    return Network.mlp(*(arrays[name] for name in wanted), activation=names, output_map=output_map)


def _safetensors_bytes(
    net: Network, dtype: str, slack: Slack | None
) -> Iterator[bytes | memoryview]:
    """By hand, because the library orders its header by chance: the same network, the same bytes;
    one array at a time.
    """
    metadata = {
        "format": "moduli/1",
        "activations": ",".join(map(str, net.activations)),
        "output_map": net.output_map,
    }
    header: dict[str, Any] = {
        "__metadata__": metadata if slack is None else metadata | {"moduli.slack": str(slack)}
    }
    arrays = [
        (f"layers.{l}.{name}", array)
        for l, layer in enumerate(net.layers)
        for name, array in (("weight", layer.weight), ("bias", layer.bias))
    ]
    at, width = 0, int(dtype[5:]) // 8
    for name, array in arrays:
        offsets = [at, at := at + array.size * width]
        header[name] = {
            "dtype": f"F{dtype[5:]}",
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in arrays:
        if array.size:
            yield array.astype(f"<f{width}", copy=False).data.cast("B")
