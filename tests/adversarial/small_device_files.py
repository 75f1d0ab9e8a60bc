"""Files of TensorFlow Lite and Keras that are right, nearly right, and broken."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import tflite_models
from keras_models import L, write_h5, write_keras
from mutations import INTEGERS, TEXTS, _lie, bend, pick, scramble

SAME = 0


# TensorFlow Lite ------------------------------------------------------------------------------------------------


def _dense(rng, steps):
    f = tflite_models.File()
    n, m = rng.integers(1, 6, 2).tolist()
    x = f.input(1, n, dtype="int8" if steps else "float32", **(steps or {}))
    w = rng.normal(size=(m, n)).astype(np.float32)
    if steps:
        w = f.stored(np.rint(w * 20).astype(np.int8), "w", scale=[0.05] * m, axis=0)
        b = f.stored(np.zeros(m, dtype=np.int32), "b", scale=[0.001] * m)
        h = f.value(1, m, dtype="int8", scale=[0.1], zero=[3])
    else:
        w, b, h = (
            f.stored(w, "w"), f.stored(np.zeros(m, dtype=np.float32), "b"), f.value(1, m),
        )  # fmt: skip
    y = f.add(
        "FULLY_CONNECTED", [x, w, b], h, "FullyConnected",
        FusedActivationFunction=pick(rng, (0, 1, 3)),
    )  # fmt: skip
    return f, y, (1, m)


def _image(rng):
    f = tflite_models.File()
    size, n, m = int(rng.integers(2, 6)), *rng.integers(1, 4, 2).tolist()
    x = f.input(1, size, size, n)
    w = f.stored(rng.normal(size=(m, 3, 3, n)).astype(np.float32), "w")
    b = f.stored(rng.normal(size=m).astype(np.float32), "b")
    h = f.add(
        "CONV_2D", [x, w, b], f.value(1, size, size, m), "Conv2D", Padding=SAME, StrideW=1,
        StrideH=1, DilationWFactor=1, DilationHFactor=1, FusedActivationFunction=1,
    )  # fmt: skip
    axes = f.stored(np.array([1, 2], dtype=np.int32), "axes")
    y = f.add("MEAN", [h, axes], f.value(1, m), "Reducer", KeepDims=False)
    return f, y, (1, m)


def _well_formed(rng):
    choice = int(rng.integers(3))
    steps = {"scale": [0.02], "zero": [-4]} if choice == 2 else None
    f, y, shape = _image(rng) if choice == 0 else _dense(rng, steps)
    if steps is None and rng.random() < 0.7:
        kind, options, fields = pick(
            rng,
            (
                ("RELU", "", {}), ("TANH", "", {}), ("LOGISTIC", "", {}), ("HARD_SWISH", "", {}),
                ("SOFTMAX", "Softmax", {"Beta": pick(rng, (1.0, 0.5, 0.0, -1.0, 1e30))}),
                ("LEAKY_RELU", "LeakyRelu", {"Alpha": pick(rng, (0.1, -1.0, 1e38))}),
                ("NOBODY_KNOWS", "", {}),
            ),
        )  # fmt: skip
        y = f.add(kind, [y], f.value(*shape), options, **fields)
    tensor = f.tensors[int(rng.integers(len(f.tensors)))]
    if rng.random() < 0.2:
        tensor.shape = tuple(pick(rng, (0, 1, 2, 7, -1, 2**30)) for _ in tensor.shape)
    if rng.random() < 0.1:
        tensor.name = pick(rng, TEXTS).replace("\0", "")
    if rng.random() < 0.1:
        tensor.dtype = pick(rng, tuple(tflite_models.TYPES))
    if rng.random() < 0.1:
        size = int(rng.integers(0, 4))
        tensor.scale = [pick(rng, (0.0, -1.0, 1e-30, float("nan"), 0.1)) for _ in range(size)]
        tensor.zero = [pick(rng, (0, 1, -(2**40), 200))] * size
    if rng.random() < 0.1:
        kind, ins, outs, said, custom = pick(rng, f.operators)
        wrong = [pick(rng, (-1, -2, 0, len(f.tensors), 2**31 - 1)), *ins[1:]]
        f.operators[-1] = (kind, wrong, outs, said, custom)
    if rng.random() < 0.05:
        f.graphs = pick(rng, (0, 2, 3))
    return f.write(y)


@cache
def _some():
    rng = np.random.default_rng(0)
    return [_well_formed(rng) for _ in range(8)]


def tflite_file(rng):
    data = bytearray(_well_formed(rng))
    choice = rng.random()
    if choice < 0.4:
        return bytes(data)
    if choice < 0.8:  # offsets, lengths and numbers lie at multiples of two and four
        for _ in range(int(rng.geometric(0.5))):
            form = pick(rng, ("<i", "<i", "<h"))
            at = int(rng.integers(len(data) // 4)) * 4
            most = 2 ** (8 * struct.calcsize(form) - 1)
            number = int(pick(rng, INTEGERS)) % most if rng.random() < 0.5 else None
            old = struct.unpack_from(form, data, at)[0]
            value = number if number is not None else old + pick(rng, (-4, -1, 1, 4, 16))
            struct.pack_into(form, data, at, min(max(value, -most), most - 1))
        return bytes(data)
    return scramble(rng, bytes(data), _some())


# Keras ----------------------------------------------------------------------------------------------------------


def _layers(rng):
    n, m = rng.integers(1, 5, 2).tolist()
    activation = pick(rng, ("relu", "tanh", "linear", "softmax", "gelu", "nobody", None, 3))
    if rng.random() < 0.5:
        return [
            L("InputLayer", {"batch_input_shape": [None, n], "batch_shape": [None, n]}),
            L(
                "Dense",
                {"units": m, "activation": activation, "use_bias": True},
                {"kernel": _weight(rng, n, m), "bias": _weight(rng, m)},
            ),
            L("Dropout", {"rate": 0.5}),
        ]
    shape = [None, 5, 5, n]
    return [
        L("InputLayer", {"batch_input_shape": shape, "batch_shape": shape}),
        L(
            "Conv2D",
            {
                "filters": m, "kernel_size": [3, 3], "strides": [1, 1], "activation": "relu",
                "padding": pick(rng, ("same", "valid", "other")), "data_format": "channels_last",
                "dilation_rate": [1, 1], "groups": 1, "use_bias": True,
            },
            {"kernel": _weight(rng, 3, 3, n, m), "bias": _weight(rng, m)},
        ),
        L(pick(rng, ("GlobalAveragePooling2D", "Flatten", "Lambda", "GRU")), {}),
    ]  # fmt: skip


def _weight(rng, *shape):
    if rng.random() < 0.05:
        shape = tuple(pick(rng, (0, 1, 2, 6)) for _ in shape)
    kind = pick(rng, (*["float32"] * 12, "float64", "int8", "complex64", "S3"))
    return rng.normal(size=shape).astype(kind)


def _made(rng, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{suffix}"
        write = write_keras if suffix == ".keras" else write_h5
        write(path, _layers(rng), sequential=rng.random() < 0.4)
        return path.read_bytes()


@cache
def _good(suffix):
    rng = np.random.default_rng(1)
    return [_made(rng, suffix) for _ in range(6)]


def keras_file(rng):
    """An archive, with a description that is bent, weights that are, or another member."""
    data = _made(rng, ".keras")
    choice = rng.random()
    if choice < 0.2:
        return scramble(rng, data, _good(".keras"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[name, archive.read(name)] for name in archive.namelist()]
    if choice < 0.7:
        members[1][1] = bend(rng, json.loads(members[1][1]))
    elif choice < 0.85:
        members[2][1] = _bent_h5(rng, members[2][1])
    elif choice < 0.95:
        kind = int(rng.integers(4))
        if kind == 0:
            del members[int(rng.integers(3))]
        elif kind == 1:
            members.append([pick(rng, TEXTS).replace("\0", "") or "x", b"something"])
        elif kind == 2:
            members.append(pick(rng, members))
        else:
            members[int(rng.integers(3))][1] = bytes(2**22)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, held in members:
            archive.writestr(name, held)
    packed = bytearray(buffer.getvalue())
    if rng.random() < 0.1:
        _lie(rng, packed)
    return bytes(packed)


def h5_file(rng):
    data = _made(rng, ".h5")
    choice = rng.random()
    if choice < 0.3:
        return scramble(rng, data, _good(".h5"))
    return _bent_h5(rng, data)


def _bent_h5(rng, data):
    """Attributes, datasets and links changed by h5py itself."""
    memory = io.BytesIO(data)
    with h5py.File(memory, "r+") as file:
        for _ in range(int(rng.geometric(0.5))):
            _bend_h5(rng, file)
    return memory.getvalue()


def _bend_h5(rng, file):
    places = list[str]()
    file.visit(places.append)
    name = pick(rng, places) if places else "/"
    kind = int(rng.integers(8))
    if kind < 3 and "model_config" in file.attrs:
        text = file.attrs["model_config"]
        try:
            bent = bend(rng, json.loads(text)).decode(errors="replace").replace("\0", "")
        except (ValueError, RecursionError):  # of what was bent before, and nested deeply
            return
        if len(bent) < 60_000:  # of an attribute that lies in its header
            file.attrs["model_config"] = bent
    elif kind == 3:
        held = file[name]
        for key in list(held.attrs):
            held.attrs[key] = pick(rng, (0, "x", np.array([b"a", b"../b"]), np.zeros(0), [1.5]))
    elif name == "/" or name not in file:
        return
    elif kind == 4:
        del file[name]
    elif kind == 5:
        del file[name]
        file[name] = pick(
            rng,
            (
                h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"),
                h5py.ExternalLink("/etc/passwd", "/"), h5py.ExternalLink("../a.npz", "/x"),
            ),
        )  # fmt: skip
    elif kind == 6 and isinstance(file[name], h5py.Dataset):
        del file[name]
        size = pick(rng, ((2**14, 2**14), (2**40,), (0,), (3, 3)))
        file.create_dataset(
            name, size, dtype=pick(rng, ("f4", "f8", "i1", "c8")), chunks=tuple(min(n, 64) or 1 for n in size)
            if 0 not in size else None, compression="gzip" if 0 not in size else None,
        )  # fmt: skip
    elif kind == 7 and isinstance(file[name], h5py.Dataset):
        del file[name]
        file.create_group(name)
