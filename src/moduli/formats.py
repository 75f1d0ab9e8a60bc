"""Files and objects to networks and back: `load` and `save`.

    .onnx          dense graphs, opset 6 to today; written with opset 17 (20 where Gelu occurs)
    .nnet          text; the network stays in its normalised coordinates, `Network.frame` holds the physical ones; written
                   without a frame, the bounds are the largest floats, mean 0 and range 1
    .safetensors   layers.0.weight [out, in], layers.0.bias [out], layers.1.weight, ...; metadata
                   format = moduli/1, activations = tanh,tanh (one per hidden layer), output_map = identity
    .npz           W1 [out, in], b1 [out], W2, b2, ...; activations: unicode, one per hidden layer; output_map: unicode
    .pth .pt .tar .ckpt   torch checkpoints, read with ``weights_only=True``
    zoo:NAME       the small trained networks of this package

Stored numbers are real numbers: what a file's operations mean over the reals is what is read, and every rounding that
folding brings is certified in `Network.notes`. A file written in float64 is read back with the same digest; one written
in float32, and a normal form, carries the certified effect of its rounding (metadata ``moduli.slack``, npz entry ``slack``).
Files are read as data: nothing is unpickled, and declared sizes are compared with real ones before anything is allocated.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .domains import Frame, Samples
from .errors import UnsupportedModel, one_line
from .files import MAX_FILE, atomic_write, load_arrays, unpack
from .network import Network
from .onnx_graph import onnx_bytes, read_onnx
from .safetensors_file import read_safetensors, shared_tensors
from .slack import Slack, exact_arrays, rounding_slack
from .state_dicts import network_from_state_dict

if TYPE_CHECKING:
    pass

Array = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[Any]]

Writer = Callable[[Network, str, Slack | None], bytes | Iterator[bytes | memoryview]]
CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt")


# The doors ------------------------------------------------------------------------------------------------------


def load(
    source: Any,
    *,
    input_shape: int | Sequence[int] | None = None,
    output: str | None = None,
    activation: Any = None,
    keys: Sequence[str] | None = None,
) -> Network:
    """Read a network.

    Args:
        source: a `Network` (returned as it is), a path (formats by suffix, see the module), ``"zoo:NAME"``, an
            ``onnx.ModelProto``, a ``torch.nn.Module``, or a list of ``(weight, bias)`` pairs.
        input_shape: of one sample, without the batch axis or with it, where the model leaves it open.
        output: name of the wanted output of an ONNX model that has several.
        activation: of the hidden layers, one or one for each, for sources that store none (pairs, state dicts).
        keys: prefixes of the layers of a state dict, in order.

    Raises:
        UnsupportedModel: the model cannot be read; names the first thing not understood and the way out.
        OSError: the file cannot be opened.

    >>> import numpy as np
    >>> load([(np.ones((3, 2)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))], activation="tanh").widths
    (2, 3, 1)
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, (str, os.PathLike)):
        if str(source).startswith("zoo:"):
            return _zoo(str(source)[4:])
        return _load_path(Path(source), input_shape, output, activation, keys)
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].nn.Module):
        return _network(_torch().read_module(source, input_shape=input_shape))
    if "onnx" in sys.modules and isinstance(source, sys.modules["onnx"].ModelProto):
        return read_onnx(source, None, "ONNX model", input_shape, output)
    if isinstance(source, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in source):
        return _from_pairs(source, activation)
    raise UnsupportedModel(
        f"cannot read a source of type {type(source).__name__}; "
        "a path, torch.nn.Module, onnx.ModelProto or list of (weight, bias) pairs is needed"
    )


def save(net: Network, path: str | Path, *, dtype: str = "float64", slack: Slack | None = None) -> Path:
    """Write a network, in the format of the suffix (.onnx .safetensors .npz .nnet); whole or not at all.

    Args:
        dtype: ``"float64"`` (exact) or ``"float32"`` (rounded; the file carries the certified slack).
        slack: what was rounded before, which the file then carries too; that of `canonical`, for one.

    Raises:
        UnsupportedModel: unknown suffix, a network the format cannot hold, or a weight beyond float32.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> from moduli.network import Network
    >>> net = Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(net, f"{folder}/net.npz")) == net
    True
    """
    file = Path(path)
    writers: dict[str, Writer] = {
        ".onnx": onnx_bytes, ".safetensors": _safetensors_bytes, ".npz": _npz_bytes, ".nnet": _nnet_bytes,
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
        slack = more if slack is None else slack.plus(more)
    return atomic_write(file, writer(net, dtype, slack))


def _load_path(path: Path, input_shape: Any, output: str | None, activation: Any, keys: Sequence[str] | None) -> Network:
    size, suffix = path.stat().st_size, path.suffix.lower()
    known = (".onnx", ".nnet", ".safetensors", ".npz", *CHECKPOINTS)
    if suffix not in known:
        raise UnsupportedModel(f"{path}: cannot read suffix {suffix!r}; suffixes: {' '.join(known)}; export the model to ONNX")
    if not path.is_file():
        raise UnsupportedModel(f"{path} is no regular file; give the path of one")
    most = 2 * MAX_FILE if suffix == ".safetensors" else MAX_FILE  # which holds all that `affine.MAX_PARAMETERS` allows
    if not 0 < size <= most:
        raise UnsupportedModel(f"{path}: {size} bytes; such a file holds between 1 and {most}")
    with one_line(str(path)):
        if suffix == ".onnx":
            return read_onnx(path.read_bytes(), path.parent, str(path), input_shape, output)
        if suffix == ".nnet":
            return _read_nnet(path)
        if suffix == ".safetensors":
            return _read_safetensors(path, activation, keys)
        if suffix == ".npz":
            return _read_npz(path.read_bytes(), str(path))
        return _network(_torch().read_checkpoint(path, activation=activation, keys=keys))


def _torch() -> Any:
    return importlib.import_module(".torch_graph", __package__)


def _network(value: Any) -> Network:
    assert isinstance(value, Network)
    return value


def _from_pairs(pairs: Sequence[Any], activation: Any) -> Network:
    if activation is None and len(pairs) > 1:
        raise UnsupportedModel(f"{len(pairs)} (weight, bias) pairs store no activation; give it, as in activation='relu'")
    return Network.mlp(*[part for pair in pairs for part in pair], activation=activation or "relu")


def _zoo(name: str) -> Network:
    from importlib.resources import files

    folder = files(__package__) / "zoo"
    found = sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".npz")) if folder.is_dir() else []
    if name not in found:
        raise UnsupportedModel(f"no zoo:{name}; there are {', '.join('zoo:' + n for n in found) or 'none'}")
    with one_line(f"zoo:{name}"):
        return _read_npz((folder / f"{name}.npz").read_bytes(), f"zoo:{name}")


def _float32(net: Network) -> tuple[Network, Slack]:
    """The network with float32 parameters, and what that does to the function."""
    rounded = net.rounded("float32")
    weights, biases = zip(*exact_arrays(net), strict=True)
    return rounded, rounding_slack(weights, biases, rounded)


def load_samples(path: str | Path) -> Samples:
    """The rows of a `.npz` file with one two-dimensional array (or one named ``x``)."""
    file = Path(path)
    arrays = load_arrays(file)
    with one_line(str(file)):
        tables = {name: array for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"}
        if "x" not in tables and len(tables) != 1:
            held = ', '.join(arrays) or 'nothing'
            raise UnsupportedModel(f"{file} holds {held}; one array [rows, in] or one named x is needed")
        return Samples(tables["x"] if "x" in tables else next(iter(tables.values())))


# .nnet ----------------------------------------------------------------------------------------------------------

_FAR = sys.float_info.max


def _read_nnet(path: Path) -> Network:
    lines = [
        line for line in path.read_text(encoding="ascii").splitlines() if line.strip() and not line.lstrip().startswith("//")
    ]
    if len(lines) < 7:
        raise UnsupportedModel(f"{path}: {len(lines)} lines; a .nnet file has a header of 7")
    depth, inputs, outputs, *_ = (int(n) for n in _tokens(lines[0]))
    sizes = [int(n) for n in _tokens(lines[1])]
    if len(sizes) != depth + 1 or sizes[0] != inputs or sizes[-1] != outputs or min(sizes) < 0:
        raise UnsupportedModel(f"{path}: {depth} layers, {inputs} inputs, {outputs} outputs do not fit the sizes {sizes}")
    numbers = [token for line in lines[7:] for token in _tokens(line)]
    needed = sum(m * (n + 1) for n, m in pairwise(sizes))
    if len(numbers) != needed:
        raise UnsupportedModel(f"{path}: the sizes {sizes} need {needed} weights and biases, but {len(numbers)} are stored")
    flat, arrays, at = np.array([float(n) for n in numbers]), list[Array](), 0
    for n, m in pairwise(sizes):
        arrays += [flat[at : at + m * n].reshape(m, n), flat[at + m * n : at + m * (n + 1)]]
        at += m * (n + 1)
    net = Network.mlp(*arrays, activation="relu")
    return replace(net, frame=_frame([[float(n) for n in _tokens(line)] for line in lines[3:7]], inputs, path))


def _tokens(line: str) -> list[str]:
    if "_" in line:
        raise UnsupportedModel(f"{line[:40]!r} holds no numbers")
    return [token for token in re.split(r"[,\s]+", line) if token]


def _frame(rows: list[list[float]], inputs: int, path: Path) -> Frame | None:
    lengths, numbers = [len(row) for row in rows], np.concatenate(rows)
    if lengths != [inputs, inputs, inputs + 1, inputs + 1]:
        raise UnsupportedModel(
            f"{path}: minima, maxima, means and ranges of lengths {lengths}; for {inputs} inputs "
            f"{[inputs, inputs, inputs + 1, inputs + 1]} are needed"
        )
    low, high, mean, scale = (np.array(row) for row in rows)
    if not (np.isfinite(numbers).all() and (scale > 0).all()):
        raise UnsupportedModel(
            f"{path}: ranges {scale.tolist()} and the other rows of the header must be finite, ranges positive"
        )
    if (low == -_FAR).all() and (high == _FAR).all():
        return None
    frame = Frame(low, high, mean[:-1], scale[:-1], float(mean[-1]), float(scale[-1]))
    _ = frame.box  # refuses bounds that are none
    return frame


def _nnet_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    """Without a frame: mean 0, range 1, and the largest floats as bounds, which `_read_nnet` takes for no frame."""
    wrong = next((str(a) for a in net.activations if a.kind != "relu"), None)
    if wrong is not None or net.output_map != "identity":
        found = f"{wrong} units" if wrong is not None else f"{net.output_map} on the output"
        raise UnsupportedModel(f".nnet holds ReLU networks with affine output only, this one has {found}; write .onnx")
    n, widths, frame = net.widths[0], net.widths, net.frame
    f = frame or Frame(np.full(n, -_FAR), np.full(n, _FAR), np.zeros(n), np.ones(n), 0.0, 1.0)
    header = [
        [len(net.layers), n, widths[-1], max(widths)], widths, [0], f.low.tolist(), f.high.tolist(),
        [*f.mean.tolist(), f.out_mean], [*f.scale.tolist(), f.out_scale],
    ]  # fmt: skip
    rows = [row for layer in net.layers for part in (layer.weight, layer.bias[:, None]) for row in part.tolist()]
    comment = "// written by moduli" + (f" in {dtype}; slack {slack}" if slack is not None else "")
    return "\n".join([comment, *(",".join(map(repr, row)) + "," for row in [*header, *rows]), ""]).encode()


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
    if any(arrays[name].dtype.kind != "U" or arrays[name].ndim != k for k, name in enumerate(("output_map", "activations"))):
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
        return network_from_state_dict(arrays, activation=activation, keys=keys, where=str(path), ordered=False)
    wanted = [f"layers.{l}.{part}" for l in range(len(arrays) // 2) for part in ("weight", "bias")]
    if set(arrays) != set(wanted):
        raise UnsupportedModel(f"{path}: entries {', '.join(list(arrays)[:8])}; needed are layers.0.weight, layers.0.bias, ...")
    names = [name for name in re.split(r",(?![^()]*\))", metadata.get("activations", "")) if name]  # not within clip(0,6)
    output_map = metadata.get("output_map", "identity")
    return Network.mlp(*(arrays[name] for name in wanted), activation=names, output_map=output_map)


def _safetensors_bytes(net: Network, dtype: str, slack: Slack | None) -> Iterator[bytes | memoryview]:
    """By hand, because the library orders its header by chance: the same network, the same bytes; one array at a time."""
    metadata = {"format": "moduli/1", "activations": ",".join(map(str, net.activations)), "output_map": net.output_map}
    header: dict[str, Any] = {"__metadata__": metadata if slack is None else metadata | {"moduli.slack": str(slack)}}
    arrays = [
        (f"layers.{l}.{name}", array)
        for l, layer in enumerate(net.layers)
        for name, array in (("weight", layer.weight), ("bias", layer.bias))
    ]
    at, width = 0, int(dtype[5:]) // 8
    for name, array in arrays:
        offsets = [at, at := at + array.size * width]
        header[name] = {"dtype": f"F{dtype[5:]}", "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in arrays:
        if array.size:
            yield array.astype(f"<f{width}", copy=False).data.cast("B")
