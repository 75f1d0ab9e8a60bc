#!/usr/bin/env python3
"""A second checker of moduli's certificates: this one file, Python 3.11 or newer, nothing else.

    python moduli_check.py CERTIFICATE SMALL LARGE [--max-slack X] [--on all|box:LO,HI] [--minimal]

Exit codes: 0 accepted; 1 rejected, naming the move or claim that fails; 2 wrong usage; 3 undecided: the certificate holds
what this checker does not understand or cannot prove; 4 a file that it cannot read.

It was written from `docs/format.md` and imports nothing of the package; which units of a graph belong together it finds as
the kernel does, by the same steps. Every number that decides is an integer or a
`Fraction`: nothing is rounded but where a line says so, and then outward. In doubt it refuses. The parts, in this order:

    Reading files                  bytes to layers: .safetensors, .npz, .onnx
    Activations                    their laws, and rationals around their values
    Chains and their moves         all that claims on all inputs need, with slack, creases and fewest units
    Boxes                          signs by bounds on the parts of a box, and by cases with multipliers
    Differences by parts           how far two chains are apart on the parts of a box
    Certificates of chains         the check itself: `check_chain`
    Graphs                         units that are left out of graphs of operators: `check_graph`
    The command line
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import math
import random
import re
import struct
import sys
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from operator import mul
from typing import Any, NamedTuple, NoReturn

MAX_FILE = 2**29  # bytes, unpacked
MAX_NUMBERS = 2**24  # of one network
MAX_AXES = 32
MAX_BITS = 2**14  # of a numerator or denominator
MAX_CELLS = 10**7  # rationals that moves may make
ZERO, ONE, HALF = Fraction(0), Fraction(1), Fraction(1, 2)
INF = math.inf


class Rejected(Exception):
    """The certificate claims what is not so, or what it does not prove."""


class NotUnderstood(Exception):
    """The certificate is of a kind, or needs a proof, that is beyond this checker."""


class Unreadable(Exception):
    """A file is damaged, or is none of those that are read here."""


def finite(x: Any) -> bool:
    """Whether a number has an end: all rationals do, whatever their size."""
    return not isinstance(x, float) or math.isfinite(x)


def demand(holds: Any, claim: str) -> None:
    if not holds:
        raise Rejected(claim)


# Reading files ==================================================================================================


class Activation(NamedTuple):
    """Its name and its numbers."""

    kind: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({','.join(map(repr, self.numbers))})" if self.numbers else self.kind


class Layer(NamedTuple):
    """Rows of floats, a float for each row, and what follows."""

    weight: list[list[float]]
    bias: list[float]
    activation: Activation


IDENTITY = Activation("identity")
COUNTS = {"leaky_relu": 1, "elu": 1, "clip": 2}
PLAIN = (
    "identity", "relu", "abs", "tanh", "sigmoid", "erf", "sin", "gelu", "gelu_tanh", "silu", "softplus", "hardswish",
    "mish",
)  # fmt: skip


def activation_of(text: str) -> Activation:
    found = re.fullmatch(r"(\w+)(?:\(([^()]*)\))?", text, re.ASCII)
    if not found or (found[1] not in PLAIN and found[1] not in COUNTS):
        raise Unreadable(f"activation {text[:40]!r} is not known")
    try:
        numbers = tuple(map(float, found[2].split(","))) if found[2] else ()
    except ValueError:
        raise Unreadable(f"activation {text[:40]!r} has no numbers") from None
    if found[1] != "leaky_relu":
        numbers = tuple(x + 0.0 for x in numbers)
    fits = len(numbers) == COUNTS.get(found[1], 0) and all(map(finite, numbers))
    if (
        not fits
        or (found[1] == "elu" and not numbers[0])
        or (found[1] == "clip" and not numbers[0] < numbers[1])
    ):
        raise Unreadable(f"activation {text[:40]!r} has numbers that do not fit")
    return Activation(found[1], numbers)


class Network(NamedTuple):
    """A chain of dense layers; the last one has no activation."""

    layers: list[Layer]
    output_map: str
    inputs: int

    @property
    def widths(self) -> list[int]:
        return [self.inputs, *(len(layer.bias) for layer in self.layers)]

    @property
    def digest(self) -> str:
        kinds = [str(layer.activation) for layer in self.layers[:-1]]
        head = {"widths": self.widths, "activations": kinds, "output_map": self.output_map}
        sha = hashlib.sha256(json.dumps(head).encode())
        for layer in self.layers:
            for row in (*layer.weight, layer.bias):
                sha.update(struct.pack(f"<{len(row)}d", *row))
        return f"sha256:{sha.hexdigest()}"


def network(layers: Sequence[tuple[Any, Any, Activation]], output_map: str, inputs: int) -> Network:
    """Of matrices and vectors, after a look at their shapes and numbers."""
    found = []
    if not layers:
        raise Unreadable("a network without layers")
    width = inputs
    for weight, bias, kind in layers:
        if len(weight) != len(bias) or any(len(row) != width for row in weight):
            raise Unreadable("weights and biases do not fit")
        rows = [[x + 0.0 for x in row] for row in weight]
        column = [x + 0.0 for x in bias]
        if not all(finite(x) for row in (*rows, column) for x in row):
            raise Unreadable("a parameter is not finite")
        found.append(Layer(rows, column, kind))
        width = len(bias)
    if output_map != "softmax":
        activation_of(output_map)
    return Network(found, output_map, inputs)


class Tensor(NamedTuple):
    """A shape, and numbers row by row; whole numbers where `whole`."""

    shape: tuple[int, ...]
    data: Any
    whole: bool = False
    dtype: str = "float64"

    def rows(self) -> list[list[float]]:
        n, m = self.shape
        return [list(self.data[i * m : i * m + m]) for i in range(n)]


CODES = {
    "float64": "d", "float32": "f", "float16": "e", "bfloat16": "H", "int64": "q", "int32": "i", "uint8": "B", "int8": "b",
    "bool": "B",
}  # fmt: skip


def tensor(shape: Sequence[int], raw: bytes, dtype: str) -> Tensor:
    """Of little-endian bytes, whose number is looked at first."""
    if dtype not in CODES or len(shape) > MAX_AXES or any(n < 0 for n in shape):
        raise Unreadable(f"numbers of type {dtype}, or so many axes, are not read here")
    count = math.prod(shape)
    if count > MAX_NUMBERS or count * struct.calcsize("<" + CODES[dtype]) != len(raw):
        raise Unreadable(f"a tensor of shape {list(shape)[:8]} has {len(raw)} bytes")
    if dtype in ("float64", "float32", "int64") and sys.byteorder == "little":
        data: Any = array(CODES[dtype])
        data.frombytes(raw)
    elif dtype == "bfloat16":  # the upper half of a float of 32 bits
        upper = struct.unpack(f"<{count}H", raw)
        data = struct.unpack(f"<{count}f", b"".join(b"\0\0" + struct.pack("<H", x) for x in upper))
    else:
        data = struct.unpack(f"<{count}{CODES[dtype]}", raw)
    return Tensor(tuple(shape), data, CODES[dtype] in "qiBb", dtype)


def content(path: str, packed: bool = False) -> bytes:
    """The bytes of a file, up to a size."""
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            found = file.read(MAX_FILE + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise Unreadable(f"{path}: {error}") from None
    if len(found) > MAX_FILE:
        raise Unreadable(f"{path}: more than {MAX_FILE} bytes")
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def read_safetensors(data: bytes) -> Network:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise Unreadable("the header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Unreadable("the header is no JSON") from None
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    arrays, spans = {}, []
    meta = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(meta, dict) or meta.get("format") != "moduli/1":
        raise Unreadable("no network that moduli wrote: activations are not said")
    for name, entry in header.items():
        try:
            first, last = entry["data_offsets"]
            shape, dtype = entry["shape"], names[entry["dtype"]]
            if not all(type(n) is int and n >= 0 for n in (first, last, *shape)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise Unreadable(f"tensor {name[:40]!r} is not read here") from None
        spans.append((first, last))
        arrays[name] = tensor(shape, data[8 + length + first : 8 + length + last], dtype)
    ends = [0, *(last for _, last in sorted(spans))]
    if [first for first, _ in sorted(spans)] != ends[:-1] or ends[-1] != len(data) - 8 - length:
        raise Unreadable("tensors do not fill the file")
    kinds = [x for x in re.split(r",(?![^()]*\))", str(meta.get("activations", ""))) if x]
    pairs = [(f"layers.{l}.weight", f"layers.{l}.bias") for l in range(len(arrays) // 2)]
    return named_layers(arrays, pairs, kinds, str(meta.get("output_map", "identity")))


def named_layers(
    arrays: dict[str, Tensor], names: list[tuple[str, str]], kinds: list[str], output: str
) -> Network:
    if set(arrays) != {name for pair in names for name in pair} or len(kinds) != len(names) - 1:
        raise Unreadable(
            f"tensors {', '.join(list(arrays)[:6])[:80]} and {len(kinds)} activations are no chain"
        )
    layers = []
    for (w, b), kind in zip(names, [*map(activation_of, kinds), IDENTITY], strict=True):
        if (
            len(arrays[w].shape) != 2
            or len(arrays[b].shape) != 1
            or arrays[w].whole
            or arrays[b].whole
        ):
            raise Unreadable(f"{w} and {b} are no matrix and vector of floats")
        layers.append((arrays[w].rows(), list(arrays[b].data), kind))
    return network(layers, output, arrays[names[0][0]].shape[1])


NPY = re.compile(
    rb"\{'descr': '([<|][a-zA-Z]\d+)', 'fortran_order': False, 'shape': \(((?:\d+, ?)*\d*,?)\), \} *\n"
)


def read_npz(data: bytes) -> Network:
    """`W1`, `b1`, ..., `activations`, `output_map`."""
    import io

    arrays, text = {}, {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_FILE:
                raise Unreadable("an archive of too much")
            for info in archive.infolist():
                raw = archive.read(info)
                start = 10 if raw[6:7] == b"\1" else 12
                size = int.from_bytes(raw[8:start], "little")
                head = NPY.fullmatch(raw[start : start + size])
                if raw[:6] != b"\x93NUMPY" or not head:
                    raise Unreadable(f"{info.filename[:40]!r} is no array that is read here")
                name, kind = info.filename.removesuffix(".npy"), head[1].decode()
                shape = [int(n) for n in head[2].decode().split(",") if n.strip()]
                if name in arrays or name in text:
                    raise Unreadable(f"{name[:40]!r} is there twice")
                body = raw[start + size :]
                if kind[1] == "U":
                    if len(body) != 4 * int(kind[2:]) * math.prod(shape):
                        raise Unreadable(f"{name[:40]!r} has another size")
                    step = 4 * int(kind[2:])
                    count = len(body) // step if step else math.prod(shape)
                    text[name] = [
                        body[i * step : i * step + step].decode("utf-32-le").rstrip("\0")
                        for i in range(count)
                    ]
                else:
                    types = {"<f8": "float64", "<f4": "float32", "<f2": "float16"}
                    arrays[name] = tensor(shape, body, types.get(kind, kind))
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
    ) as error:
        raise Unreadable(f"no archive of arrays: {error}") from None
    names = [(f"W{l}", f"b{l}") for l in range(1, len(arrays) // 2 + 1)]
    return named_layers(
        arrays, names, text.get("activations", []), (text.get("output_map") or ["identity"])[0]
    )


# Protocol buffers, as ONNX has them. A field is its number and an integer, bytes, or four or eight bytes of a float.


def protobuf(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        found = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise Unreadable("a damaged protocol buffer")
            byte, at = data[at], at + 1
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found & (2**64 - 1)

    while at < len(data):
        key = varint()
        kind, number = key & 7, key >> 3
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) if kind != 2 else varint()
        if size is None or at + size > len(data):
            raise Unreadable("a damaged protocol buffer")
        yield number, data[at : at + size]
        at += size


def message(data: bytes, single: dict[int, str], many: dict[int, str]) -> dict[str, Any]:
    """Fields by name; a field that may stand once and stands twice can be read in two ways."""
    if not isinstance(data, bytes):
        raise Unreadable("a damaged protocol buffer")
    found: dict[str, Any] = {name: [] for name in many.values()}
    for number, value in protobuf(data):
        if number in many:
            found[many[number]].append(value)
        elif number in single:
            if single[number] in found:
                raise Unreadable(f"field {single[number]!r} stands twice")
            found[single[number]] = value
        else:
            found.setdefault("others", []).append(number)
    return found


def text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise Unreadable("a damaged protocol buffer")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Unreadable("a name is no text") from None


def numbers(chunks: list[Any], code: str) -> list[Any]:
    """A repeated field of floats or integers, packed or not."""
    found: list[Any] = []
    for chunk in chunks:
        if isinstance(chunk, int):
            found.append(chunk)
        elif code == "q":
            at, value, shift = 0, 0, 0
            for at in range(len(chunk)):
                value |= (chunk[at] & 127) << shift
                shift += 7
                if chunk[at] < 128:
                    found.append(value & (2**64 - 1))
                    value = shift = 0
        else:
            if len(chunk) % struct.calcsize("<" + code):
                raise Unreadable("a damaged protocol buffer")
            found += struct.unpack(f"<{len(chunk) // struct.calcsize('<' + code)}{code}", chunk)
    return [x - 2**64 if isinstance(x, int) and x >= 2**63 else x for x in found]


ONNX_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}


def onnx_tensor(data: bytes) -> tuple[str, Tensor]:
    found = message(
        data, {2: "type", 8: "name", 9: "raw", 14: "location", 12: "doc"},
        {1: "dims", 4: "floats", 5: "int32s", 7: "int64s", 10: "doubles", 13: "external"},
    )  # fmt: skip
    dims, dtype = numbers(found["dims"], "q"), ONNX_TYPES.get(found.get("type", 0), "")
    if found["external"] or found.get("location") or "others" in found or not dtype:
        raise Unreadable("a tensor that is stored elsewhere, or of a type that is not read here")
    if len(dims) > MAX_AXES or any(n < 0 for n in dims) or math.prod(dims) > MAX_NUMBERS:
        raise Unreadable(f"a tensor of shape {dims[:8]}")
    name = text(found.get("name", b""))
    lists = {
        "float32": ("floats", "f"),
        "float64": ("doubles", "d"),
        "int64": ("int64s", "q"),
        "int32": ("int32s", "q"),
    }
    given = [key for key in ("floats", "int32s", "int64s", "doubles") if found[key]]
    if "raw" in found:
        if given:
            raise Unreadable(f"tensor {name[:40]!r} has its numbers twice")
        return name, tensor(dims, found["raw"], dtype)
    key, code = lists.get(dtype, ("", ""))
    if given not in ([], [key]):
        raise Unreadable(f"tensor {name[:40]!r} has numbers of another type")
    values = numbers(found[key], code) if key else []
    if len(values) != math.prod(dims):
        raise Unreadable(f"tensor {name[:40]!r} of shape {dims[:8]} has {len(values)} numbers")
    return name, Tensor(tuple(dims), values, dtype.startswith("int"), dtype)


class Node(NamedTuple):
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    name: str


class Model(NamedTuple):
    """Nodes, stored tensors, shapes of inputs and outputs by name, and the operator set."""

    nodes: list[Node]
    stored: dict[str, Tensor]
    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]
    opset: int
    types: dict[str, int]


def attribute(data: bytes) -> tuple[str, Any]:
    found = message(
        data,
        {1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 20: "type", 13: "doc"},
        {7: "floats", 8: "ints", 9: "strings"},
    )
    if "others" in found:
        raise Unreadable(f"attribute {text(found.get('name', b''))[:40]!r} is not read here")
    kinds: dict[int, Callable[[], Any]] = {
        1: lambda: struct.unpack("<f", found.get("f", b"\0\0\0\0"))[0], 2: lambda: numbers([found.get("i", 0)], "q")[0],
        3: lambda: text(found.get("s", b"")), 4: lambda: onnx_tensor(found["t"])[1],
        6: lambda: numbers(found["floats"], "f"), 7: lambda: numbers(found["ints"], "q"),
    }  # fmt: skip
    try:
        return text(found.get("name", b"")), kinds[found["type"]]()
    except (KeyError, struct.error, TypeError):
        raise Unreadable("an attribute of a type that is not read here") from None


def onnx_ends(chunks: list[Any]) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    """Shapes and types of inputs or outputs."""
    found, types = {}, {}
    for data in chunks:
        value = message(data, {1: "name", 2: "type", 3: "doc"}, {})
        kind = message(value.get("type", b""), {1: "tensor"}, {})
        parts = message(kind.get("tensor", b""), {1: "type", 2: "shape"}, {})
        sizes = []
        for axis in message(parts.get("shape", b""), {}, {1: "axes"})["axes"]:
            size = message(axis, {1: "value", 2: "name", 3: "denotation"}, {}).get("value")
            sizes.append(size if isinstance(size, int) and 0 < size < 2**40 else None)
        name = text(value.get("name", b""))
        found[name], types[name] = tuple(sizes), parts.get("type", 0)
    if len(found) < len(chunks):
        raise Unreadable("an end of the graph is there twice")
    return found, types


def read_model(data: bytes) -> Model:
    whole = message(data, {1: "ir", 2: "by", 3: "version", 4: "domain", 5: "model", 6: "doc", 7: "graph"},
                    {8: "opsets", 14: "props", 20: "training", 25: "functions"})  # fmt: skip
    if "graph" not in whole or whole["training"] or whole["functions"]:
        raise Unreadable("no ONNX graph, or one with functions")
    graph = message(whole["graph"], {2: "name", 10: "doc"},
                    {1: "nodes", 5: "stored", 11: "inputs", 12: "outputs", 13: "values", 14: "x", 15: "sparse"})  # fmt: skip
    if graph["sparse"] or "others" in graph:
        raise Unreadable("sparse tensors are not read here")
    opset = 0
    for part in whole["opsets"]:
        entry = message(part, {1: "domain", 2: "version"}, {})
        if entry.get("domain", b"") in (b"", b"ai.onnx"):
            if opset:
                raise Unreadable("two versions of the operators")
            opset = entry.get("version", 0)
    pairs = [onnx_tensor(part) for part in graph["stored"]]
    stored = dict(pairs)
    if "" in stored:
        raise Unreadable(
            "a stored tensor without a name, which stands for inputs that are left out"
        )
    if len(stored) < len(pairs) or sum(len(x.data) for x in stored.values()) > MAX_NUMBERS:
        raise Unreadable("a tensor is stored twice, or too much is stored")
    nodes = []
    for part in graph["nodes"]:
        node = message(
            part,
            {3: "name", 4: "op", 6: "doc", 7: "domain"},
            {1: "inputs", 2: "outputs", 5: "attributes"},
        )
        given = [attribute(x) for x in node["attributes"]]
        if node.get("domain", b"") not in (b"", b"ai.onnx") or len(dict(given)) < len(given):
            raise Unreadable("an operator of another domain, or an attribute that is there twice")
        nodes.append(Node(text(node.get("op", b"")), list(map(text, node["inputs"])), list(map(text, node["outputs"])),
                          dict(given), text(node.get("name", b""))))  # fmt: skip
    inputs, types = onnx_ends(graph["inputs"])
    inputs = {k: v for k, v in inputs.items() if k not in stored}
    return Model(nodes, stored, inputs, onnx_ends(graph["outputs"])[0], opset, types)


def onnx_chain(model: Model) -> Network:
    """The dense layers of a graph that is a chain of Gemm, MatMul, Add, activations and a Softmax at the end."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise Unreadable("more than one input or output: no chain")
    (value, shape), (last,) = next(iter(model.inputs.items())), model.outputs
    stored, layers, flat, skip = dict(model.stored), list[Any](), len(shape) == 2, False
    for node, following in zip(model.nodes, [*model.nodes[1:], None], strict=True):
        op, at, where = node.op, dict(node.attributes), f"node {node.name[:40]!r} ({node.op[:40]})"
        if skip:  # the product behind a sigmoid
            skip = False
            continue
        if (
            len(node.outputs) != 1
            or not node.outputs[0]
            or node.outputs[0] in stored
            or node.outputs[0] == value
        ):
            raise Unreadable(f"{where} gives what is there, or several values")
        if (
            op == "Constant"
            and not node.inputs
            and isinstance(at.get("value"), Tensor)
            and len(at) == 1
        ):
            stored[node.outputs[0]] = at["value"]
            continue
        rest = [stored.get(x) for x in node.inputs if x != value]
        if (
            node.inputs.count(value) != 1
            or None in rest
            or (layers and layers[-1][2].kind == "softmax")
        ):
            raise Unreadable(f"{where} is no step of a chain")
        if op != "Add" and node.inputs[0] != value:
            raise Unreadable(f"{where} has the value in another place than the first")
        if op in ("Flatten", "Reshape"):
            flat = _flattened(op, at, rest, shape) and not layers
            if not flat:
                raise Unreadable(f"{where} is no flattening of the input")
        elif op in ("Gemm", "MatMul", "Add"):
            _affine(node, at, value, rest, layers, flat)
        elif not (op == "Identity" or (op == "Cast" and at.get("to") in (1, 11))):
            gated = following is not None and following.op == "Mul" and not following.attributes
            pair = sorted((value, node.outputs[0]))
            skip = op == "Sigmoid" and gated and sorted(following.inputs) == pair  # type: ignore[union-attr]
            _activate(where, "silu" if skip else op, at, rest, layers)
        value = following.outputs[0] if skip and following else node.outputs[0]
    if value != last or not layers:
        raise Unreadable("the output is not what the chain ends with")
    end = layers[-1]
    found = [
        (weight, bias, kind)
        for weight, bias, kind, _ in [*layers[:-1], [*end[:2], IDENTITY, False]]
    ]
    return network(found, str(end[2]), len(layers[0][0][0]))


def _flattened(op: str, at: dict[str, Any], rest: list[Any], shape: tuple[int | None, ...]) -> bool:
    """Whether a node makes rows of an input, one for each of a batch."""
    if op == "Flatten":
        return at.get("axis", 1) == 1 and set(at) <= {"axis"} and not rest
    target = list(rest[0].data) if len(rest) == 1 and rest[0].whole else []
    width = -1 if None in shape[1:] else math.prod(n or 0 for n in shape[1:])
    batch = (-1, 0, 1) if shape[:1] in ((1,), (None,)) else (0, -1)
    return (
        not at
        and len(target) == 2
        and target != [-1, -1]
        and target[0] in batch
        and target[1] in (width, -1)
    )


def _affine(
    node: Node, at: dict[str, Any], data: str, rest: list[Any], layers: list[Any], flat: bool
) -> None:
    """A layer, or its bias."""
    op = node.op
    if op == "Add":
        (bias,) = rest
        fresh = layers and layers[-1][2] == IDENTITY and not any(layers[-1][1]) and layers[-1][3]
        if not fresh or bias.shape not in ((len(layers[-1][1]),), (1, len(layers[-1][1]))) or at:
            raise Unreadable(f"node {node.name[:40]!r} (Add) is no bias of a layer")
        layers[-1][1:] = [list(bias.data), IDENTITY, False]
        return
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    weight = rest[0] if rest else None
    turned = op == "Gemm" and bool(at.get("transB", 0))
    if (not flat or weight is None or len(weight.shape) != 2 or 0 in weight.shape or weight.whole or node.inputs[0] != data
            or len(rest) > (2 if op == "Gemm" else 1) or not set(at) <= {*plain, "transB"}
            or any(at.get(name, value) != value for name, value in plain.items()) or (op == "MatMul" and at)):  # fmt: skip
        raise Unreadable(f"node {node.name[:40]!r} ({op}) is no dense layer that is read here")
    if layers and layers[-1][2] == IDENTITY:
        raise Unreadable(
            "two layers without an activation between them: they are one, and its numbers are rounded"
        )
    rows = (
        weight.rows() if turned else [list(column) for column in zip(*weight.rows(), strict=True)]
    )
    bias = rest[1] if len(rest) > 1 else None
    if bias is not None and bias.shape not in ((len(rows),), (1, len(rows))):
        raise Unreadable(
            f"node {node.name[:40]!r} (Gemm) has a bias of shape {list(bias.shape)[:8]}"
        )
    layers.append([rows, list(bias.data) if bias else [0.0] * len(rows), IDENTITY, bias is None])


SIMPLE = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Sin": "sin", "Abs": "abs", "Erf": "erf", "Softplus": "softplus",
    "HardSwish": "hardswish", "Mish": "mish", "silu": "silu",
}  # fmt: skip


SINGLE_HUNDREDTH = struct.unpack("<f", struct.pack("<f", 0.01))[0]  # attributes are float32


def _activate(where: str, op: str, at: dict[str, Any], rest: list[Any], layers: list[Any]) -> None:
    constants = [x.data[0] for x in rest if len(x.data) == 1 and not x.whole]
    kind: Activation | None = None
    if op in SIMPLE and not at and not rest:
        kind = Activation(SIMPLE[op])
    elif (
        op == "Gelu"
        and not rest
        and set(at) <= {"approximate"}
        and at.get("approximate", "none") in ("none", "tanh")
    ):
        kind = Activation("gelu_tanh" if at.get("approximate") == "tanh" else "gelu")
    elif op in ("LeakyRelu", "Elu") and not rest and set(at) <= {"alpha"}:
        alpha = at.get("alpha", SINGLE_HUNDREDTH if op == "LeakyRelu" else 1.0)
        kind = activation_of(f"{'leaky_relu' if op == 'LeakyRelu' else 'elu'}({alpha!r})")
    elif op == "PRelu" and len(rest) == len(constants) == 1 and not at:
        kind = activation_of(f"leaky_relu({constants[0]!r})")
    elif op == "Clip" and len(rest) == len(constants) == 2 and not at:
        kind = activation_of(f"clip({constants[0]!r},{constants[1]!r})")
    elif op == "Softmax" and not rest and at.get("axis", -1) in (1, -1) and set(at) <= {"axis"}:
        kind = Activation("softmax")
    if kind is None or not layers or layers[-1][2] != IDENTITY:
        raise Unreadable(f"{where} is no activation that is read here")
    if kind.kind == "leaky_relu" and kind.numbers == (0.0,):
        raise Unreadable("a leaky ReLU of slope zero has several names")
    layers[-1][2] = kind


# Activations ====================================================================================================

Interval = tuple[Fraction, Fraction]
Law = tuple[Fraction, Fraction, Fraction]
BITS = 256  # of enclosures; an interval of whole numbers stands for itself times 2^-BITS
UNIT = 1 << BITS
TINY = Fraction(1, 2**200)


def _down(a: int, b: int) -> int:
    return a // b


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _fixed(q: Fraction) -> tuple[int, int]:
    return _down(q.numerator * UNIT, q.denominator), _up(q.numerator * UNIT, q.denominator)


def _times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Of intervals that are not negative."""
    return a[0] * b[0] >> BITS, -(-a[1] * b[1] >> BITS)


@lru_cache(2**14)
def exponential(q: Fraction) -> tuple[int, int]:
    """e^q for 0 <= q <= 1000: Taylor's series at q / 2^20, then squares. All terms are positive, and those left out
    sum to less than the last one."""
    low, high = (end >> 20 for end in _fixed(q))
    y = low, high + 1
    term, total, n = (UNIT, UNIT), (UNIT, UNIT), 0
    while term[1] > 1:
        n += 1
        term = _times(term, y)
        term = _down(term[0], n), _up(term[1], n)
        total = total[0] + term[0], total[1] + term[1]
    total = total[0], total[1] + term[1]
    for _ in range(20):
        total = _times(total, total)
    return total


@cache
def pi(bits: int = BITS) -> tuple[int, int]:
    """Machin's formula: 16 arctan(1/5) - 4 arctan(1/239), rounded outward."""
    unit = 1 << bits + 16

    def arctan(n: int) -> tuple[int, int]:
        """Terms fall and their signs alternate; each of them is off by one at most."""
        total, power, k = 0, unit // n, 0
        while power:
            total += (power // (2 * k + 1)) * (-1 if k % 2 else 1)
            power, k = power // (n * n), k + 1
        return total - 2 * k - 2, total + 2 * k + 2

    a, b = arctan(5), arctan(239)
    return (16 * a[0] - 4 * b[1] >> 16) - 1, (16 * a[1] - 4 * b[0] >> 16) + 1


def _root(low: int, high: int) -> tuple[int, int]:
    """Of fixed point numbers."""
    return math.isqrt(low * UNIT), math.isqrt(high * UNIT) + 1


def _sigmoid(q: Fraction) -> Interval:
    """1 / (1 + e^-q), by reflection for q < 0."""
    if q < 0:
        low, high = _sigmoid(-q)
        return 1 - high, 1 - low
    e = exponential(min(q, Fraction(300)))
    return Fraction(e[0], UNIT + e[0]), Fraction(
        e[1], UNIT + e[1]
    ) if q <= 300 else ONE  # e / (1 + e) grows


def _tanh(q: Fraction) -> Interval:
    low, high = _sigmoid(2 * q)
    return 2 * low - 1, 2 * high - 1


def _erf(q: Fraction) -> Interval:
    """2/sqrt(pi) e^(-q^2) sum 2^n q^(2n+1) / (2n+1)!!, whose terms are positive; erfc(13) < 2^-200."""
    if q < 0:
        low, high = _erf(-q)
        return -high, -low
    if q > 13:
        return 1 - TINY, ONE
    x = _fixed(q)
    square = _times(x, x)
    term, total, n = x, x, 0
    while term[1] > 1 or 2 * n + 1 <= 4 * q * q:  # then a term is less than half of the one before
        n += 1
        term = _times(term, square)
        term = _down(2 * term[0], 2 * n + 1), _up(2 * term[1], 2 * n + 1)
        total = total[0] + term[0], total[1] + term[1]
    total = total[0], total[1] + term[1]
    root = _root(*pi())
    e = exponential(q * q)
    low, high = (
        Fraction(2 * total[0] * UNIT, root[1] * e[1]),
        Fraction(2 * total[1] * UNIT, root[0] * e[0]),
    )
    return low, min(high, ONE)


def _softplus(q: Fraction) -> Interval:
    """log(1 + w) = 2 artanh(w / (2 + w)) for w = e^q, q <= 0."""
    if q > 0:
        low, high = _softplus(-q)
        return low + q, high + q
    if q < -300:
        return ZERO, TINY
    e = exponential(-q)
    w = _down(UNIT * UNIT, e[1]), _up(UNIT * UNIT, e[0])
    u = _down(w[0] * UNIT, 2 * UNIT + w[0]), _up(w[1] * UNIT, 2 * UNIT + w[1])
    square, power, total, k = _times(u, u), u, u, 1
    while power[1] > 1:
        power, k = _times(power, square), k + 2
        total = total[0] + _down(power[0], k), total[1] + _up(power[1], k)
    return Fraction(2 * total[0], UNIT), Fraction(2 * (total[1] + 2), UNIT)


def _sin(q: Fraction) -> Interval:
    """Taylor's series after reduction by 2 pi, with more digits for a large q."""
    more = abs(q.numerator // q.denominator).bit_length()
    if more > 2**12:
        return -ONE, ONE
    two_pi = [2 * end for end in pi(BITS + more)]
    scale = 1 << BITS + more
    turns = round(q * scale / two_pi[0])
    ends = [q - Fraction(turns * end, scale) for end in two_pi]
    low, high = _fixed(min(ends))[0], _fixed(max(ends))[1]
    x = (low + high) // 2
    term = total = x
    for n in range(1, 60):
        term = -(term * x // UNIT) * x // UNIT // (2 * n * (2 * n + 1))
        total += term
    # |x| < 4: 59 terms, of roundings below 2^10 each, and the rest of the series below 2^-300; sin has slope 1
    off = high - low + 2**20
    return max(Fraction(total - off, UNIT), -ONE), min(Fraction(total + off, UNIT), ONE)


def _scaled(q: Fraction, ends: Interval) -> Interval:
    a, b = q * ends[0], q * ends[1]
    return min(a, b), max(a, b)


def _gelu(q: Fraction) -> Interval:
    """q/2 (1 + erf(q / sqrt(2))); erf grows."""
    root = _root(2 * UNIT, 2 * UNIT)
    ends = sorted((q * UNIT / root[0], q * UNIT / root[1]))
    return _scaled(q / 2, (1 + _erf(_short(ends[0], -1))[0], 1 + _erf(_short(ends[1], 1))[1]))


def _gelu_tanh(q: Fraction) -> Interval:
    root = _root(2 * UNIT * UNIT // pi()[1], _up(2 * UNIT * UNIT, pi()[0]))
    inner = q + Fraction("0.044715") * q**3
    ends = sorted((inner * root[0] / UNIT, inner * root[1] / UNIT))
    return _scaled(q / 2, (1 + _tanh(_short(ends[0], -1))[0], 1 + _tanh(_short(ends[1], 1))[1]))


def _mish(q: Fraction) -> Interval:
    """q tanh(log(1 + w)) = q (w^2 + 2w) / (w^2 + 2w + 2), w = e^q; the quotient grows with w."""
    e = exponential(abs(q))
    w = e if q >= 0 else (_down(UNIT * UNIT, e[1]), _up(UNIT * UNIT, e[0]))
    parts = [Fraction(x * (x + 2 * UNIT), x * (x + 2 * UNIT) + 2 * UNIT * UNIT) for x in w]
    return _scaled(q, (parts[0], parts[1]))


def _elu(q: Fraction, alpha: float) -> Interval:
    e = exponential(min(-q, Fraction(300)))
    low, high = (_down(UNIT * UNIT, e[1]) if q >= -300 else 0), _up(UNIT * UNIT, e[0])
    return _scaled(Fraction(alpha), (Fraction(low, UNIT) - 1, Fraction(high, UNIT) - 1))


def _silu(q: Fraction) -> Interval:
    return _scaled(q, _sigmoid(q))


SMOOTH: dict[str, Callable[..., Interval]] = {
    "tanh": _tanh, "sigmoid": _sigmoid, "erf": _erf, "sin": _sin, "softplus": _softplus, "gelu": _gelu, "silu": _silu,
    "gelu_tanh": _gelu_tanh, "mish": _mish, "elu": _elu,
}  # fmt: skip
RAMPS = (
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "mish",
)  # within 2^-200 of max(q, 0) for |q| > 200


def _short(q: Fraction, way: int) -> Fraction:
    """A number at least (way 1) or at most (way -1) q, with few digits."""
    if q.denominator <= UNIT:
        return q
    return Fraction(
        _up(q.numerator * UNIT, q.denominator)
        if way > 0
        else _down(q.numerator * UNIT, q.denominator),
        UNIT,
    )


class Facts(NamedTuple):
    """What is known of an activation; see the table of docs/format.md."""

    law: Law | None
    lipschitz: Fraction
    least: Fraction | None = None
    most: Fraction | None = None
    slopes: tuple[Fraction, Fraction] | None = None  # right and left of 0, of homogeneous ones
    pieces: tuple[tuple[float, float, Fraction, Fraction], ...] = ()  # low, high, slope, offset
    rising: bool = False
    valley: Fraction | None = None  # falls up to there, then rises
    at_zero: Fraction | None = None

    @property
    def bound(self) -> Fraction | None:
        return None if self.least is None or self.most is None else max(-self.least, self.most)

    @property
    def bends(self) -> bool:
        return self.slopes is not None and self.slopes[0] != self.slopes[1]


def _kink(left: Fraction) -> Facts:
    low = ZERO if left <= 0 else None
    pieces = (0.0, INF, ONE, ZERO), (-INF, 0.0, left, ZERO)
    return Facts(
        (ONE, -1 - left, ZERO), max(ONE, abs(left)), low, None, (ONE, left), pieces, left >= 0
    )


ODD, HALVES, RAMP = (-ONE, ZERO, ZERO), (-ONE, ZERO, ONE), (ONE, -ONE, ZERO)


@cache
def facts(s: Activation) -> Facts:
    number = [Fraction(x) for x in s.numbers]
    if s.kind == "clip":
        p, q = number
        pieces = (
            (-INF, s.numbers[0], ZERO, p),
            (s.numbers[0], s.numbers[1], ONE, ZERO),
            (s.numbers[1], INF, ZERO, q),
        )
        return Facts(ODD if p == -q else None, ONE, p, q, None, pieces, rising=True)
    if s.kind == "elu":
        (a,) = number
        valley = None if a > 0 else ZERO
        return Facts(
            None,
            max(ONE, abs(a)),
            min(-a, ZERO),
            None,
            None,
            ((0.0, INF, ONE, ZERO),),
            a > 0,
            valley,
        )
    if s.kind in ("relu", "abs", "leaky_relu"):
        return _kink({"relu": ZERO, "abs": -ONE}.get(s.kind, number[0] if number else ZERO))
    third = Fraction(1129, 1000)
    return {
        "identity": Facts(ODD, ONE, slopes=(ONE, ONE), pieces=((-INF, INF, ONE, ZERO),), rising=True),
        "tanh": Facts(ODD, ONE, -ONE, ONE, rising=True, at_zero=ZERO),
        "sigmoid": Facts(HALVES, Fraction(1, 4), ZERO, ONE, rising=True, at_zero=HALF),
        "erf": Facts(ODD, third, -ONE, ONE, rising=True, at_zero=ZERO),
        "sin": Facts(ODD, ONE, -ONE, ONE, at_zero=ZERO),
        "gelu": Facts(RAMP, third, valley=Fraction("-0.7517915246935645"), at_zero=ZERO),
        "gelu_tanh": Facts(RAMP, Fraction(113, 100), valley=Fraction("-0.752461422071016"), at_zero=ZERO),
        "silu": Facts(RAMP, Fraction(11, 10), valley=Fraction("-1.2784645427610738"), at_zero=ZERO),
        "softplus": Facts(RAMP, ONE, ZERO, rising=True),
        "hardswish": Facts(RAMP, Fraction(3, 2), Fraction(-3, 8), valley=Fraction(-3, 2),
                           pieces=((-INF, -3.0, ZERO, ZERO), (3.0, INF, ONE, ZERO))),
        "mish": Facts(None, Fraction(23, 20), valley=Fraction("-1.1924312145154952"), at_zero=ZERO),
    }[s.kind]  # fmt: skip


def law(s: Activation, ratio: Fraction) -> Law | None:
    """(a, k, g) with s(ratio z) = a s(z) + k z + g for all z."""
    f, size = facts(s), abs(ratio)
    if ratio == 0 or (size != 1 and f.slopes is None):
        return None
    if ratio > 0:
        return size, ZERO, ZERO
    return None if f.law is None else (size * f.law[0], size * f.law[1], f.law[2])


def rational_value(s: Activation, q: Fraction) -> Fraction | None:
    """s(q) where it is rational by algebra alone."""
    f = facts(s)
    for low, high, slope, offset in f.pieces:
        if low <= q <= high:
            return slope * q + offset
    if s.kind == "hardswish":
        return q * (q + 3) / 6
    return f.at_zero if q == 0 else None


@lru_cache(2**16)
def value_at(s: Activation, q: Fraction) -> Interval:
    """s(q) between rationals."""
    exact = rational_value(s, q)
    if exact is not None:
        return exact, exact
    if s.kind in RAMPS and abs(q) > 200:
        return max(q, ZERO) - TINY, max(q, ZERO) + TINY
    low, high = SMOOTH[s.kind](_short(q, 1) if q.denominator > UNIT else q, *s.numbers)
    if q.denominator > UNIT:  # the number was rounded
        width = facts(s).lipschitz / UNIT
        low, high = low - width, high + width
    return _short(low, -1), _short(high, 1)


def values_on(s: Activation, ends: Interval) -> Interval:
    """Rationals around s on an interval: by its ends where it grows, else by its middle and slope."""
    f, (low, high) = facts(s), ends
    if f.rising:
        return value_at(s, low)[0], value_at(s, high)[1]
    middle, reach = (low + high) / 2, f.lipschitz * (high - low) / 2
    below, above = value_at(s, middle)
    below, above = below - reach, above + reach
    return max(below, f.least) if f.least is not None else below, min(
        above, f.most
    ) if f.most is not None else above


@cache
def floor_of(s: Activation) -> tuple[Fraction, Fraction, Fraction]:
    """Of a function that falls, then rises: two ends around where it turns, and a number below all its values.

    Where the value in the middle is below those at both ends, it turns between them."""
    turn = facts(s).valley
    assert turn is not None
    for step in (Fraction(1, 10**15), Fraction(1, 10**6)):
        a, b = turn - step, turn + step
        if value_at(s, turn)[1] < min(value_at(s, a)[0], value_at(s, b)[0]):
            return a, b, value_at(s, turn)[0] - facts(s).lipschitz * step
    raise NotUnderstood(f"where {s} turns")


def image(s: Activation, low: Any, high: Any) -> tuple[Any, Any]:
    """Around s on [low, high]; ends that are infinite are floats, the others rationals."""
    f = facts(s)
    least: Any = -INF if f.least is None else f.least
    most: Any = INF if f.most is None else f.most
    if f.slopes is not None:
        ends = [
            z * (f.slopes[0] if z > 0 else f.slopes[1]) if finite(z) else _far(z, f.slopes)
            for z in (low, high)
        ]
        inside = [ZERO] if low < 0 < high else []
        return min([*ends, *inside]), max([*ends, *inside])
    if s.kind == "clip":
        return min(max(low, least), most), min(max(high, least), most)
    if f.valley is not None:
        least = max(least, floor_of(s)[2])
    if f.rising:
        least = max(value_at(s, low)[0], least) if finite(low) else least
        most = min(value_at(s, high)[1], most) if finite(high) else most
        return least, most
    if not (finite(low) and finite(high)):
        return least, most
    if f.valley is None:
        return values_on(s, (low, high))
    a, b = floor_of(s)[:2]
    left, right = value_at(s, low), value_at(s, high)
    below = least if low <= b and high >= a else max(min(left[0], right[0]), least)
    return below, max(left[1], right[1])


def _far(z: float, slopes: tuple[Fraction, Fraction]) -> Any:
    slope = slopes[0] if z > 0 else slopes[1]
    return ZERO if slope == 0 else z * (1 if slope > 0 else -1)


# Numbers: a float stands for itself, a Fraction, or a Sum with symbols ------------------------------------------


class Sum(NamedTuple):
    """A rational plus multiples of symbols s(c): a frozen set of ((s, c), multiple)."""

    rational: Fraction
    parts: frozenset[Any]


Number = Any


def exact(x: Number) -> Number:
    return Fraction(x) if isinstance(x, float) else x


def bounded(q: Fraction) -> Fraction:
    demand(
        max(q.numerator.bit_length(), q.denominator.bit_length()) <= MAX_BITS,
        f"a number has more than {MAX_BITS} bits",
    )
    return q


def combine(terms: Iterable[tuple[Fraction, Number]]) -> Number:
    """The sum of multiples of numbers."""
    rational, parts = ZERO, dict[Any, Fraction]()
    for factor, number in terms:
        number = exact(number)
        if isinstance(number, Sum):
            for symbol, multiple in number.parts:
                parts[symbol] = bounded(parts.get(symbol, ZERO) + factor * multiple)
            number = number.rational
        rational = bounded(rational + factor * number)
    kept = frozenset((symbol, multiple) for symbol, multiple in parts.items() if multiple)
    return Sum(rational, kept) if kept else rational


def between(number: Number) -> Interval:
    """Rationals on both sides."""
    if isinstance(number, Sum):
        return _between(number)
    return exact(number), exact(number)


@lru_cache(2**16)
def _between(number: Sum) -> Interval:
    """Each sum once: it may stand in many others."""
    low = high = number.rational
    for (s, c), multiple in number.parts:
        a, b = _scaled(multiple, values_on(s, between(c)))
        low, high = low + a, high + b
    return _short(low, -1), _short(high, 1)


def applied(s: Activation, z: Number) -> Number:
    """s(z) as a number; symbols have arguments of one sign where a law turns them."""
    z = exact(z)
    if not isinstance(z, Sum):
        found = rational_value(s, z)
        if found is not None:
            return found
        lead = z
    else:
        low, high = between(z)
        for start, end, slope, offset in facts(s).pieces:
            if start <= low and high <= end:
                return combine([(slope, z), (ONE, offset)])
        # a sign that is not seen turns nothing: what is equal is then not seen to be
        lead = low if low > 0 else min(high, ZERO)
    reflection = facts(s).law
    if lead < 0 and reflection is not None:  # s(z) = a s(-z) + k (-z) + g
        mirrored = combine([(-ONE, z)])
        a, k, g = reflection
        return combine([(a, applied(s, mirrored)), (k, mirrored), (ONE, g)])
    return Sum(ZERO, frozenset([((s, z), ONE)]))


# Chains and their moves =========================================================================================


class Move(NamedTuple):
    """A step, read strictly."""

    kind: str
    layer: int
    units: list[int]
    into: list[int]
    ratio: Fraction
    rows: list[list[Fraction] | None]
    outgoing: list[list[Fraction]]

    def __str__(self) -> str:
        return f"{self.kind} of {', '.join(map(str, self.units[:4]))}{', ...' * (len(self.units) > 4)} in layer {self.layer}"


KINDS = {
    "constant": (), "drop": (), "permute": (), "tanh": (), "inactive": (), "skip": (), "scale": ("ratio",),
    "merge": ("into", "ratio"), "block": ("into", "rows", "outgoing"),
}  # fmt: skip
RATIONAL = re.compile(r"-?(?:0|[1-9][0-9]{0,699})(?:/[1-9][0-9]{0,699})?", re.ASCII)


def record(x: Any, names: Iterable[str], what: str, maybe: Iterable[str] = ()) -> dict[str, Any]:
    demand(
        type(x) is dict and set(names) <= set(x) <= {*names, *maybe},
        f"{what} does not have the fields that it needs",
    )
    return dict(x)


def whole(x: Any, least: int, most: int, what: str) -> int:
    demand(
        type(x) is int and least <= x <= most,
        f"{what} is {str(x)[:40]}, no whole number from {least} to {most}",
    )
    return int(x)


def real(x: Any, what: str, least: float = -INF) -> float:
    fits = type(x) in (int, float) and -(2**1024) < x < 2**1024 and float(x) == x and x >= least
    demand(fits, f"{what} is {str(x)[:40]}, no float that fits")
    return float(x) + 0.0


def rational(x: Any, what: str) -> Fraction:
    demand(type(x) is str and RATIONAL.fullmatch(x), f"{what} is {str(x)[:40]!r}, no rational")
    found = Fraction(x)
    demand(str(found) == x, f"{what} is {x[:40]!r}, which is not in lowest terms")
    return found


def listed(x: Any, what: str) -> list[Any]:
    demand(type(x) is list, f"{what} is no list")
    return list(x)


def units_of(x: Any, what: str) -> list[int]:
    return [whole(u, 0, 2**40 - 1, what) for u in listed(x, what)]


def move_of(data: Any) -> Move:
    kind = data.get("move") if type(data) is dict else None
    if type(kind) is not str or kind not in KINDS:
        raise Rejected(f"there is no move like {str(data)[:60]}")
    read = record(data, ("move", "layer", "units", *KINDS[kind]), f"a {kind}")
    rows = [None if row is None else [rational(q, "a weight") for q in listed(row, "a row")]
            for row in listed(read.get("rows", []), "rows")]  # fmt: skip
    columns = [
        [rational(q, "a weight") for q in listed(c, "a column")]
        for c in listed(read.get("outgoing", []), "outgoing")
    ]
    ratio = rational(read.get("ratio", "1"), f"ratio of a {kind}")
    demand(ratio, f"ratio of a {kind} is zero")
    layer = whole(read["layer"], -(2**31), 2**31, "layer")
    return Move(
        kind,
        layer,
        units_of(read["units"], "units"),
        units_of(read.get("into", []), "into"),
        ratio,
        rows,
        columns,
    )


class State:
    """A chain in exact numbers from which units go. Rows, columns and units keep their first numbers; `left` has, for
    inputs, each hidden layer and outputs, the units that are left, in order."""

    def __init__(self, net: Network, region: Region | None = None) -> None:
        self.weights: list[Any] = [[list(row) for row in layer.weight] for layer in net.layers]
        self.biases: list[Any] = [list(layer.bias) for layer in net.layers]
        self.left = [list(range(n)) for n in net.widths]
        self.kinds = [layer.activation for layer in net.layers[:-1]]
        self.region = region
        self.cells = 0
        # on a box: signs and bounds of the units of the first network; on all inputs they are found when asked for
        self.signs: list[Any] = [] if region is None else [list(signs) for signs in region.signs]
        self.ranges: list[Any] = [] if region is None else region.ranges_of_all(net)

    @property
    def widths(self) -> list[int]:
        return list(map(len, self.left))

    def row(self, l: int, u: int) -> list[Number]:
        """Weights of a unit of layer l, of what is left before it."""
        row = self.weights[l - 1][u]
        return [row[j] for j in self.left[l - 1]]

    def column(self, l: int, u: int) -> list[Number]:
        """Weights by which what is left behind layer l reads a unit."""
        return [self.weights[l][i][u] for i in self.left[l + 1]]

    def add_to_biases(
        self, l: int, terms: Callable[[int], Iterable[tuple[Fraction, Number]]]
    ) -> None:
        """Add sums to the biases of layer l, for each row that is left; `terms` gets its number."""
        for i in self.left[l]:
            some = [(c, x) for c, x in terms(i) if c]
            if some:
                self.biases[l - 1][i] = combine([(ONE, self.biases[l - 1][i]), *some])
                self.count(1)

    def count(self, cells: int) -> None:
        self.cells += cells
        demand(self.cells <= MAX_CELLS, f"moves make more than {MAX_CELLS} numbers")

    def layers(self) -> list[tuple[list[list[Number]], list[Number]]]:
        """What is left: weights and biases."""
        return [
            ([self.row(l, u) for u in self.left[l]], [self.biases[l - 1][u] for u in self.left[l]])
            for l in range(1, len(self.left))
        ]

    # What is known of units on the domain

    def _needs(self, l: int) -> None:
        """On all inputs: ranges and signs of layers up to l, of the units as they are."""
        while self.region is None and len(self.ranges) < l:
            n = len(self.ranges) + 1
            ranges, signs = {}, {}
            before = self.image_of(n - 1)
            for u in self.left[n]:
                low, high = _row_range(self.row(n, u), self.biases[n - 1][u], before)
                ranges[u] = low, high
                signs[u] = 0 if low == high else (low >= 0) - (high <= 0)
            self.ranges.append(ranges)
            self.signs.append(signs)

    def image_of(self, l: int) -> list[tuple[Any, Any]]:
        """Between which ends the activations of what is left of layer l lie (0: the inputs)."""
        if l == 0:
            ends = self.region
            return [
                (-INF, INF) if ends is None else (Fraction(ends.low[j]), Fraction(ends.high[j]))
                for j in self.left[0]
            ]
        self._needs(l)
        found = []
        for u in self.left[l]:
            low, high = self.ranges[l - 1][u]
            sign = self.signs[l - 1][u]
            low, high = max(low, ZERO) if sign > 0 else low, min(high, ZERO) if sign < 0 else high
            if low > high:
                raise NotUnderstood("a unit whose sign and bounds contradict each other")
            found.append(image(self.kinds[l - 1], low, high))
        return found

    def slope(self, l: int, u: int) -> Fraction | None:
        """c with s(z) = c z on the domain, None where none is known."""
        f = facts(self.kinds[l - 1])
        if f.slopes is None:
            return None
        if not f.bends:
            return f.slopes[0]
        self._needs(l)
        sign = self.signs[l - 1][u]
        return f.slopes[0] if sign > 0 else f.slopes[1] if sign < 0 else None

    def even_part(self, l: int) -> Fraction | None:
        """c for which s(z) - c z is even."""
        reflection = facts(self.kinds[l - 1]).law
        return (
            -reflection[1] / 2
            if reflection is not None and reflection[0] == 1 and reflection[2] == 0
            else None
        )


def _row_range(
    row: Sequence[Number], bias: Number, ends: Sequence[tuple[Any, Any]]
) -> tuple[Any, Any]:
    """Of row . h + bias for h between ends."""
    low: Any
    high: Any
    low, high = between(bias)
    for w, (a, b) in zip(row, ends, strict=True):
        w = exact(w)
        if w:
            least, most = (a, b) if w > 0 else (b, a)
            low = low + w * least if finite(low) and finite(least) else -INF
            high = high + w * most if finite(high) and finite(most) else INF
    return low, high


def replay(state: State, moves: Iterable[Move]) -> State:
    for move in moves:
        try:
            step(state, move)
        except Rejected as error:
            raise Rejected(f"{move}: {error}") from None
        if (
            state.region is None
        ):  # of what is changed, and of what is behind it, nothing is known any more
            del state.ranges[move.layer - 1 :], state.signs[move.layer - 1 :]
    return state


def step(state: State, move: Move) -> None:
    """Check the condition of a move, then do what it says."""
    l, units = move.layer, move.units
    demand(1 <= l < len(state.left) - 1, f"hidden layers are 1 to {len(state.left) - 2}")
    there = set(state.left[l])
    demand(
        len(set(units)) == len(units) and there.issuperset(units),
        "a unit is named twice, or is not there (any more)",
    )
    s, gone = state.kinds[l - 1], set(units)
    if move.kind == "constant":
        for u in units:
            demand(not any(state.row(l, u)), f"an incoming weight of unit {u} is not zero")
        values = {u: applied(s, state.biases[l - 1][u]) for u in units}
        state.add_to_biases(
            l + 1, lambda i: ((exact(state.weights[l][i][u]), values[u]) for u in units)
        )
    elif move.kind == "drop":
        for u in units:
            demand(not any(state.column(l, u)), f"an outgoing weight of unit {u} is not zero")
    elif move.kind == "merge":
        _merge(state, move)
    elif move.kind == "scale":
        _scale(state, move, 1 / move.ratio, move.ratio)
        gone = set()
    elif move.kind == "tanh":
        demand(s.kind == "sigmoid" and state.region is None, "of sigmoids on all inputs only")
        demand(gone == there, "not of all units of the layer")
        state.add_to_biases(
            l + 1, lambda i: ((HALF * exact(state.weights[l][i][u]), ONE) for u in units)
        )
        _multiply(state, l, units, HALF, HALF)
        state.kinds[l - 1], gone = Activation("tanh"), set()
    elif move.kind == "permute":
        demand(gone == there, "not an order of all units of the layer")
        state.left[l], gone = list(units), set()
    elif move.kind == "inactive":
        for u in units:
            demand(state.slope(l, u) == 0, f"unit {u} is not known to be off")
    elif move.kind == "block":
        gone -= _block(state, move)
    else:
        demand(units == state.left[l], "not all units of the layer in their order")
        _skip(state, move)
        return
    state.left[l] = [u for u in state.left[l] if u not in gone]


def _merge(state: State, move: Move) -> None:
    """z_u = r z_t and s(r z) = a s(z) + k z + g, so v_u s(z_u) = a v_u s(z_t) + k v_u z_t + g v_u."""
    l, ratio = move.layer, move.ratio
    demand(len(move.into) == len(move.units), "not as many units to merge into")
    pairs = list(zip(move.units, move.into, strict=True))
    demand(
        set(move.into) <= set(state.left[l]) - set(move.units),
        "merges into a unit that goes or is not there",
    )
    found = law(state.kinds[l - 1], ratio)
    if found is None:
        raise Rejected(f"{state.kinds[l - 1]} has no law for the factor {ratio}")

    def same(x: Number, y: Number) -> bool:
        return bool(x == y) if ratio == 1 else bool(exact(x) == combine([(ratio, y)]))

    for u, t in pairs:
        equal = all(map(same, state.row(l, u), state.row(l, t)))
        demand(equal and exact(state.biases[l - 1][u]) == combine([(ratio, state.biases[l - 1][t])]),
               f"unit {u} is not {ratio} times unit {t}")  # fmt: skip
    a, k, g = found
    _linear_parts(state, l, pairs, k, g)
    for row in (state.weights[l][i] for i in state.left[l + 1]):
        for u, t in pairs:
            if row[u]:
                row[t] = bounded(exact(row[t]) + a * exact(row[u]))
                state.count(1)


def _linear_parts(
    state: State, l: int, pairs: list[tuple[int, int]], k: Fraction, g: Fraction
) -> None:
    """Sum over the move of v_u (k z_t + g): the weights in it must cancel, the rest goes into biases."""
    if k == 0 and g == 0:
        return
    for i in state.left[l + 1] if k else ():
        column = [k * exact(state.weights[l][i][u]) for u, _ in pairs]
        for j in state.left[l - 1]:
            parts = (
                c * exact(state.weights[l - 1][t][j])
                for c, (_, t) in zip(column, pairs, strict=True)
                if c
            )
            demand(sum(parts, ZERO) == 0, "the linear parts do not cancel")
            state.count(1)

    def terms(i: int) -> Iterator[tuple[Fraction, Number]]:
        for u, t in pairs:
            v = exact(state.weights[l][i][u])
            yield k * v, state.biases[l - 1][t]
            yield g * v, ONE

    state.add_to_biases(l + 1, terms)


def _scale(state: State, move: Move, back: Fraction, ratio: Fraction) -> None:
    """With z' = r z: s(z) = s(z' / r) = a s(z') + k z' + g = a s(z') + k r z + g."""
    demand(state.region is None, "not beside signs on a box, which it may change")
    found = law(state.kinds[move.layer - 1], back)
    if found is None:
        raise Rejected(f"{state.kinds[move.layer - 1]} has no law for the factor {back}")
    a, k, g = found
    _linear_parts(state, move.layer, [(u, u) for u in move.units], k * ratio, g)
    _multiply(state, move.layer, move.units, ratio, a)


def _multiply(state: State, l: int, units: list[int], inner: Fraction, outer: Fraction) -> None:
    for u in units:
        row = state.weights[l - 1][u]
        for j in state.left[l - 1]:
            row[j] = bounded(inner * exact(row[j]))
        state.biases[l - 1][u] = combine([(inner, state.biases[l - 1][u])])
        for i in state.left[l + 1]:
            state.weights[l][i][u] = bounded(outer * exact(state.weights[l][i][u]))
        state.count(len(row) + len(state.left[l + 1]))


class Part(NamedTuple):
    """A unit as s(z) = c z + e(z): row with the bias last, column, c, and whether e is not 0."""

    row: list[Number]
    column: list[Fraction]
    slope: Fraction
    bends: bool


def _part(state: State, l: int, u: int, row: list[Number], column: list[Any], new: bool) -> Part:
    f, slope = facts(state.kinds[l - 1]), None if new else state.slope(l, u)
    if new and f.slopes is not None:
        low, _ = _row_range(row[:-1], row[-1], state.image_of(l - 1))
        slope = f.slopes[0] if low >= 0 else None
    if slope is not None:
        return Part(row, list(map(exact, column)), slope, False)
    even = state.even_part(l)
    demand(
        even is not None,
        f"unit {u} is not known to be linear, and {state.kinds[l - 1]} is not even but for a line",
    )
    demand(
        not isinstance(exact(row[-1]), Sum), f"the bias of unit {u}, which bends, is not rational"
    )
    return Part(list(map(exact, row)), list(map(exact, column)), even or ZERO, True)


def _old_part(state: State, l: int, u: int) -> Part:
    return _part(state, l, u, [*state.row(l, u), state.biases[l - 1][u]], state.column(l, u), False)


def creases(parts: Iterable[Part], homogeneous: bool) -> dict[tuple[Fraction, ...], list[Fraction]]:
    """The sum of |t| times columns for each hyperplane, where it is not zero."""
    found: dict[tuple[Fraction, ...], list[Fraction]] = {}
    for part in parts:
        lead = next((q for q in part.row[:-1] if q), None)
        if lead is None:
            raise Rejected("a unit that bends has no incoming weight that is not zero")
        t = lead if homogeneous else lead / abs(lead)
        key = tuple(bounded(q / t) for q in part.row)
        sums = found.setdefault(key, [ZERO] * len(part.column))
        found[key] = [bounded(p + abs(t) * q) for p, q in zip(sums, part.column, strict=True)]
    return {key: sums for key, sums in found.items() if any(sums)}


def products(parts: Sequence[Part], width: int, outputs: int) -> list[list[Fraction]]:
    """V C W: what the linear parts make of what the layer reads."""
    found = [[ZERO] * width for _ in range(outputs)]
    for part in parts:
        for i, v in enumerate(part.column):
            if v * part.slope:
                row = found[i]
                for j, w in enumerate(part.row[:-1]):
                    if w:
                        row[j] = bounded(row[j] + v * part.slope * exact(w))
    return found


def _constants(state: State, l: int, parts: Sequence[Part], sign: int) -> None:
    """Add V C b to the biases behind."""
    place = {i: n for n, i in enumerate(state.left[l + 1])}
    state.add_to_biases(
        l + 1,
        lambda i: ((sign * part.column[place[i]] * part.slope, part.row[-1]) for part in parts),
    )


def _block(state: State, move: Move) -> set[int]:
    """Other units in the place of some."""
    l, into = move.layer, move.into
    width, outputs = len(state.left[l - 1]), len(state.left[l + 1])
    demand(
        len(set(into)) == len(into) and set(into) <= set(move.units),
        "units that stay are none of the block",
    )
    demand(
        len(move.rows) == len(move.outgoing) == len(into),
        "not a row and a column for each unit that stays",
    )
    fits = all(row is None or len(row) == width + 1 for row in move.rows) and all(
        len(c) == outputs for c in move.outgoing
    )
    demand(fits, f"rows need {width} weights and a bias, columns {outputs} weights")
    state.count((len(move.units) + len(into)) * (width + 1) * (outputs + 1) // 8)
    old = {u: _old_part(state, l, u) for u in move.units}
    new = []
    for u, row, column in zip(into, move.rows, move.outgoing, strict=True):
        new.append(
            old[u]._replace(column=column) if row is None else _part(state, l, u, row, column, True)
        )
    before = list(old.values())
    demand(
        products(before, width, outputs) == products(new, width, outputs),
        "the products of weights are others",
    )
    _same_creases(state, l, before, new)
    bounds = {}
    if state.region is not None:
        for u, row, part in zip(into, move.rows, new, strict=True):
            if row is not None:
                low, high = _row_range(row[:-1], row[-1], state.image_of(l - 1))
                if all(
                    exact(p) == -exact(q) for p, q in zip(old[u].row, row, strict=True)
                ):  # a unit that is turned
                    a, b = state.ranges[l - 1][u]
                    low, high = max(low, -b), min(high, -a)
                bounds[u] = (low if part.bends else max(low, ZERO), high), 0 if part.bends else 1
    _constants(state, l, before, 1)
    _constants(state, l, new, -1)
    for u, row, column in zip(into, move.rows, move.outgoing, strict=True):
        if row is not None:
            for j, w in zip(state.left[l - 1], row[:-1], strict=True):
                state.weights[l - 1][u][j] = w
            state.biases[l - 1][u] = row[-1]
        for i, v in zip(state.left[l + 1], column, strict=True):
            state.weights[l][i][u] = v
    for u, (ends, sign) in bounds.items():
        state.ranges[l - 1][u], state.signs[l - 1][u] = ends, sign
    return set(into)


def _same_creases(state: State, l: int, before: Sequence[Part], after: Sequence[Part]) -> None:
    homogeneous = facts(state.kinds[l - 1]).slopes is not None
    found = [
        creases((part for part in side if part.bends), homogeneous) for side in (before, after)
    ]
    demand(
        found[0] == found[1],
        "the units bend in another way than before" if after else "the layer bends",
    )


def _skip(state: State, move: Move) -> None:
    """A layer that is linear: V (C (W h + b)) + beta."""
    l = move.layer
    state.count(len(move.units) * len(state.left[l - 1]) * len(state.left[l + 1]) // 8)
    parts = [_old_part(state, l, u) for u in move.units]
    _same_creases(state, l, parts, [])
    product = products(parts, len(state.left[l - 1]), len(state.left[l + 1]))
    _constants(state, l, parts, 1)
    size = max(state.left[l - 1], default=-1) + 1
    for i, row in zip(state.left[l + 1], product, strict=True):
        wide = [ZERO] * size
        for j, q in zip(state.left[l - 1], row, strict=True):
            wide[j] = q
        state.weights[l][i] = wide
    for kept in (state.weights, state.biases, state.kinds):
        del kept[l - 1]
    del state.left[l]
    if state.region is not None:
        del state.ranges[l - 1], state.signs[l - 1]


# Slack ----------------------------------------------------------------------------------------------------------

FIX = 1200  # bounds are whole numbers times 2^-FIX, rounded up
Slack = tuple[Fraction, Fraction]


def _above(q: Fraction) -> int:
    return -(-(q.numerator << FIX) // q.denominator)


def _sizes(cells: Iterable[Number]) -> list[int]:
    """Upper bounds of the sizes of numbers."""
    found = []
    for x in cells:
        if isinstance(x, float):
            top, below = abs(x).as_integer_ratio()  # below is at most 2^1074
            found.append((top << FIX) // below)
        else:
            found.append(_above(max(map(abs, between(x)))))
    return found


def _apart(a: Sequence[Number], b: Sequence[Number]) -> list[int]:
    """Upper bounds of the sizes of differences."""
    found = []
    for x, y in zip(a, b, strict=True):
        if x == y:
            found.append(0)
        else:
            (p, q), (r, t) = between(x), between(y)
            found.append(_above(max(abs(q - r), abs(t - p))))
    return found


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    total = sum(x * y for x, y in zip(a, b, strict=True) if x and y)
    return -(-total >> FIX)


def difference(
    a: Any, b: Any, kinds: Sequence[Activation], sizes: Sequence[Fraction] | None
) -> Slack:
    """|f_a - f_b| <= constant + growth |x| for two chains of one shape, or a constant where |x_i| <= sizes[i].

    |z_a - z_b| <= |W_a - W_b| |h_a| + |W_b| |h_a - h_b| + |b_a - b_b|, then the Lipschitz constant."""
    inputs = len(a[0][0][0]) if a[0][0] else 0
    one = 1 << FIX
    h = (
        [[0] * inputs, [one] * inputs]
        if sizes is None
        else [[_above(q) for q in sizes], [0] * inputs]
    )
    e = [[0] * inputs, [0] * inputs]
    for l, ((wa, ba), (wb, bb)) in enumerate(zip(a, b, strict=True)):
        last = l == len(kinds)
        gap, off = _apart(ba, bb), [_apart(x, y) for x, y in zip(wa, wb, strict=True)]
        some = any(any(part) for part in e)
        read = [_sizes(row) for row in wb] if some else [[] for _ in wb]
        e = [
            [_dot(o, h[k]) + (_dot(r, e[k]) if some else 0) for o, r in zip(off, read, strict=True)]
            for k in (0, 1)
        ]
        e[0] = [x + y for x, y in zip(e[0], gap, strict=True)]
        if last:
            break
        f = facts(kinds[l])
        e = [[_above(f.lipschitz * Fraction(x, one)) if x else 0 for x in part] for part in e]
        if f.bound is not None:
            most = _above(f.bound)
            e[0] = [2 * most if g else c for c, g in zip(*e, strict=True)]
            e[1] = [0] * len(e[1])
            h = [[most] * len(ba), [0] * len(ba)]
            continue
        start, lip = _above(max(map(abs, value_at(kinds[l], ZERO)))), f.lipschitz
        rows = [_sizes(row) for row in wa]
        h = [[_dot(row, h[k]) for row in rows] for k in (0, 1)]
        h[0] = [x + y for x, y in zip(h[0], _sizes(ba), strict=True)]
        h = [
            [_above(lip * Fraction(x, one)) + (start if k == 0 else 0) for x in h[k]]
            for k in (0, 1)
        ]
    return Fraction(max(e[0], default=0), one), Fraction(max(e[1], default=0), one)


# Creases: functions of at most one layer that is piecewise linear -----------------------------------------------


def creased(state: State) -> Any:
    """Creases by hyperplane, matrix and constant of what is left, which are unique; see docs/format.md."""
    layers = state.layers()
    if len(layers) > 1 and not state.left[-2]:  # nothing is added to the last bias
        layers, inputs = (
            [([[ZERO] * len(state.left[0]) for _ in state.left[-1]], layers[-1][1])],
            len(state.left[0]),
        )
    inputs = len(state.left[0])
    demand(len(layers) <= 2 and inputs, "more than one hidden layer is left, or no input")
    numbers = [x for weight, bias in layers for part in (*weight, bias) for x in part]
    demand(not any(isinstance(x, Sum) for x in numbers), "a number is not rational")
    demand(math.prod(state.widths) <= 2 * 10**7, "layers are too large")
    outputs = len(layers[-1][1])
    constant = list(map(exact, layers[-1][1]))
    if len(layers) == 1:
        return {}, [list(map(exact, row)) for row in layers[0][0]], constant
    s, f = state.kinds[0], facts(state.kinds[0])
    if s.kind == "clip":
        p, q = map(Fraction, s.numbers)
        slope, shift, kinks = ZERO, (p + q) / 2, [(p, HALF), (q, -HALF)]
    else:
        demand(f.slopes is not None, f"{s} is not piecewise linear")
        right, left = f.slopes or (ZERO, ZERO)
        slope, shift, kinks = (
            (right + left) / 2,
            ZERO,
            [(ZERO, (right - left) / 2)] if right != left else [],
        )
    found: dict[Any, list[Fraction]] = {}
    matrix = [[ZERO] * inputs for _ in range(outputs)]
    for u, (row, bias) in enumerate(zip(*layers[0], strict=True)):
        row, bias = list(map(exact, row)), exact(bias)
        column = [exact(out[u]) for out in layers[1][0]]
        offset = slope * bias + shift
        lead = next((q for q in row if q), None)
        for place, height in kinks:
            if lead is None:
                offset += height * abs(bias - place)
            else:  # |w x + b| = |lead| |(w / lead) x + b / lead|
                key = tuple(q / lead for q in [*row, bias - place])
                sums = found.setdefault(key, [ZERO] * outputs)
                found[key] = [p + height * abs(lead) * v for p, v in zip(sums, column, strict=True)]
        constant = [c + offset * v for c, v in zip(constant, column, strict=True)]
        for i, v in enumerate(column):
            if v and slope:
                matrix[i] = [m + slope * v * w for m, w in zip(matrix[i], row, strict=True)]
    return {key: sums for key, sums in found.items() if any(sums)}, matrix, constant


# Fewest units ---------------------------------------------------------------------------------------------------


def not_fewest(state: State) -> str | None:
    """Why it is not proved that what is left has the fewest units, None where it is."""
    if state.region is not None and any(
        p == q for p, q in zip(state.region.low, state.region.high, strict=True)
    ):
        return "the box is flat"
    if len(state.left) != 3:
        return f"there are {len(state.left) - 2} hidden layers"
    s, f = state.kinds[0], facts(state.kinds[0])
    smooth = s.kind in ("tanh", "sigmoid", "erf")
    if not (smooth or f.bends):
        return f"nothing is known of fewest units of {s}"
    rows = [[*map(exact, state.row(1, u)), exact(state.biases[0][u])] for u in state.left[1]]
    if not all(any(row[:-1]) for row in rows) or not all(
        any(state.column(1, u)) for u in state.left[1]
    ):
        return "a unit has no weight that is not zero"
    if any(isinstance(row[-1], Sum) for row in rows):
        return "a bias is not rational"
    keys = {_ray(row, scale=not smooth) for row in rows}
    if len(keys) == len(rows) and (smooth or state.region is None):
        return None
    return "two units may be equal up to sign" if smooth else _spared(state)


def _ray(row: Sequence[Fraction], scale: bool) -> tuple[Fraction, ...]:
    lead = next(q for q in row if q)
    t = lead if scale else lead / abs(lead)
    return tuple(q / t for q in row)


MOST_TURNS = 32  # hyperplanes of which all ways of turning are tried


def _spared(state: State) -> str | None:
    """Of units that bend at 0: whether some way of turning them spares one. r hyperplanes with creases v_j e(w_j x + b_j)
    need r units. G being the sum of all linear parts, these suffice only if G is c sum (+-) v_j w_j for some signs; and one
    more, which has to share a hyperplane, only if the rest is a column times its row. Matrices are looked at through one
    number, a . matrix . y, that is zero where they are: what is so by chance only lets less be claimed."""
    parts, ends = [_old_part(state, 1, u) for u in state.left[1]], state.image_of(0)
    for part in parts:
        if part.bends and state.region is not None:
            low, high = _row_range(part.row[:-1], part.row[-1], ends)
            if not low < 0 < high:
                return "a unit may not bend inside the box"
    seen = creases((part for part in parts if part.bends), True)
    if state.region is not None and not seen and parts:
        return "the function is affine on the box"
    extra, c = len(parts) - len(seen), state.even_part(1)
    if extra == 0:
        return None
    if extra > (2 if state.region is None else 1) or c is None:
        return f"{len(parts)} units are left, and {len(seen)} hyperplanes need one"
    if len(seen) > MOST_TURNS:
        raise NotUnderstood(f"whether one of {len(parts)} units is spared by turning others")
    draw = random.Random(1)
    a = [draw.randrange(1, 2**61) for _ in state.left[2]]
    total = products(parts, len(state.left[0]), len(state.left[2]))
    for but in [None, *(seen if extra == 2 else ())]:
        y = [Fraction(draw.randrange(1, 2**61)) for _ in state.left[0]]
        if but is not None:  # y . w = 0
            lead = next(j for j, w in enumerate(but) if w)
            y[lead] -= sum(map(mul, y, but[:-1])) / but[lead]
        seen_through = [
            sum(map(mul, a, v)) * sum(map(mul, y, w[:-1])) * c for w, v in seen.items() if w != but
        ]
        if _signed_sum(
            sum(p * sum(map(mul, y, row)) for p, row in zip(a, total, strict=True)), seen_through
        ):
            return "a unit may be spared if others are turned"
    return None


def _signed_sum(total: Any, terms: list[Any]) -> bool:
    """Whether the total is the sum of all terms with some signs: sums of one half are looked up among those of the other."""
    halves = []
    for half in (terms[: len(terms) // 2], terms[len(terms) // 2 :]):
        sums = {ZERO}
        for term in half:
            sums = {x + t for x in sums for t in (term, -term)}
        halves.append(sums)
    return any(total - x in halves[1] for x in halves[0])


# Boxes ==========================================================================================================


class Case(NamedTuple):
    """The sign of one unit by cases, or a cut; see docs/format.md."""

    layer: int
    unit: int
    sign: int
    given: int
    tree: list[int]
    leaves: list[tuple[list[int], list[float]]]

    def __str__(self) -> str:
        return f"the case of unit {self.unit} of layer {self.layer}"


class Region(NamedTuple):
    """A box, and signs of hidden units on it."""

    low: list[float]
    high: list[float]
    tree: list[int]
    signs: list[list[int]]
    cases: list[Case]

    @property
    def sizes(self) -> list[Fraction]:
        return [
            max(abs(Fraction(p)), abs(Fraction(q)))
            for p, q in zip(self.low, self.high, strict=True)
        ]

    def ranges_of_all(self, net: Network) -> list[Any]:
        """Bounds of all hidden units on the box."""
        if len(net.layers) < 2:
            return []
        found = Bounds(net.layers[:-1], self.low, self.high)
        return [list(map(_rationals, layer)) for layer in found.ranges]


def tree_of(x: Any, what: str) -> list[int]:
    return [
        whole(node, -1, 2**31 - 1, f"a node of the tree of {what}") for node in listed(x, "tree")
    ]


def ends_of(read: dict[str, Any]) -> tuple[list[float], list[float]]:
    low, high = (
        [real(x, "an end of the box") for x in listed(read[k], k)] for k in ("low", "high")
    )
    demand(
        len(low) == len(high) and all(p <= q for p, q in zip(low, high, strict=True)),
        "low and high are no box",
    )
    return low, high


def region_of(data: Any) -> Region:
    read = record(data, ("low", "high", "tree", "signs"), "a region", ("cases",))
    low, high = ends_of(read)
    signs = [
        [whole(x, -1, 1, "a sign") for x in listed(part, "signs")]
        for part in listed(read["signs"], "signs")
    ]
    cases = []
    for entry in listed(read.get("cases", []), "cases"):
        case = record(entry, ("layer", "unit", "sign", "given", "tree", "leaves"), "a case")
        layer, unit, sign, given = (
            whole(case[k], -1, 2**31 - 1, k) for k in ("layer", "unit", "sign", "given")
        )
        leaves = []
        for leaf in listed(case["leaves"], "leaves"):
            demand(type(leaf) is list and len(leaf) == 2, "a leaf is no pair")
            some = units_of(leaf[0], "a unit of a leaf")
            values = [real(x, "a multiplier") for x in listed(leaf[1], "multipliers")]
            demand(len(some) == len(values), "a leaf has not as many multipliers as units")
            leaves.append((some, values))
        cases.append(Case(layer, unit, sign, given, tree_of(case["tree"], "a case"), leaves))
    return Region(low, high, tree_of(read["tree"], "the region"), signs, cases)


def require_tree(tree: Sequence[int], choices: int) -> None:
    """A tree in preorder is one: each inner node has two subtrees."""
    missing = 1
    for node in tree:
        demand(
            missing > 0 and node < choices,
            "the tree goes on behind its end, or splits what is not there",
        )
        missing += 1 if node >= 0 else -1
    demand(missing == 0, "the tree lacks subtrees")


def halves(low: list[float], high: list[float], at: int) -> tuple[list[float], list[float]]:
    """The upper ends of the lower half of a box, and the lower ends of the upper one."""
    middle = min(max(0.5 * low[at] + 0.5 * high[at], low[at]), high[at])
    return [*high[:at], middle, *high[at + 1 :]], [*low[:at], middle, *low[at + 1 :]]


def outward(q: Fraction, way: int) -> float:
    """A float at least (way 1) or at most (way -1) q; infinite beyond all floats."""
    try:
        near = float(q)
    except OverflowError:
        size = INF if (q > 0) == (way > 0) else sys.float_info.max
        return size if q > 0 else -size
    wrong = near < q if way > 0 else near > q
    return math.nextafter(near, way * INF) if wrong else near


def common(values: Sequence[float]) -> tuple[list[int], int]:
    """Floats as whole numbers times 2^-shift."""
    ratios = [x.as_integer_ratio() for x in values]
    shift = max((d.bit_length() for _, d in ratios), default=1) - 1
    return [n << shift - d.bit_length() + 1 for n, d in ratios], shift


class Line(NamedTuple):
    """slope z + offset, in floats."""

    slope: float
    offset: float


class Lines(NamedTuple):
    """Of an activation on an interval: a line below, one above, and its ends."""

    below: Line
    above: Line
    least: float
    most: float


def lines_of(s: Activation, lo: float, hi: float) -> Lines:
    f = facts(s)
    ends = image(s, *(Fraction(e) if finite(e) else e for e in (lo, hi)))
    least, most = (
        outward(e, way) if finite(e) else e for e, way in zip(ends, (-1, 1), strict=True)
    )
    flat = Lines(Line(0.0, least), Line(0.0, most), least, most)
    if f.slopes is None and not all(map(finite, (lo, hi, least, most))):
        return flat
    if f.slopes is not None:
        p, q = map(float, f.slopes)
        above, below = _above_kink(p, q, lo, hi), _above_kink(-p, -q, lo, hi)
        found = Lines(Line(-below.slope, -below.offset), above, least, most)
    elif s.kind in ("tanh", "sigmoid"):
        found = _bell_lines(s, lo, hi, flat)
    elif s.kind == "clip":
        found = _clip_lines(s.numbers, lo, hi, flat)
    else:
        return flat
    fine = [all(map(finite, line)) for line in found[:2]]
    return Lines(
        found.below if fine[0] else flat.below, found.above if fine[1] else flat.above, least, most
    )


def _above_kink(right: float, left: float, lo: float, hi: float) -> Line:
    """Above z -> (right if z > 0 else left) z: minus a line that is largest at an end or at 0."""
    inside = lo < 0 < hi
    if not inside:
        slope = right if hi > 0 else left
    elif right > left:
        slope = (right * hi - left * lo) / (hi - lo) if hi - lo < INF else math.nan
    else:
        slope = right if hi > -lo else left
    if not finite(slope):
        return Line(0.0, INF)
    tops = [ZERO] if inside else []
    for z in (lo, hi):
        gap = Fraction(right if z > 0 else left) - Fraction(slope)
        if gap and not finite(z):
            if (gap > 0) == (z > 0):
                return Line(slope, INF)
            continue
        tops.append(gap * Fraction(z) if gap else ZERO)
    return Line(slope, outward(max(tops), 1))


GRID = 2**52  # slopes of smooth activations are multiples of 2^-52, and floats


def rate_at(s: Activation, z: Fraction) -> Interval:
    """The slope of tanh, 1 - t^2, or of the sigmoid, t (1 - t)."""
    low, high = value_at(s, z)
    if s.kind == "tanh":
        sizes = max(low, -high, ZERO), max(-low, high)
        return 1 - sizes[1] ** 2, 1 - sizes[0] ** 2
    both = low * (1 - low), high * (1 - high)
    return max(ZERO, min(both)), min(Fraction(1, 4), max(both) + high - low)


def _bell_lines(s: Activation, lo: float, hi: float, flat: Lines) -> Lines:
    """tanh and the sigmoid: convex up to 0, concave from 0 on, with a slope that falls with the size of z. Minus a line
    whose slope is at most that at both ends they grow. Where they are concave (convex) the chord lies below (above), and
    the tangent at the middle on the other side: off by its slope's error times the width."""
    a, b = Fraction(lo), Fraction(hi)
    if lo < 0 < hi or lo == hi:
        rate = Fraction(max(0, math.floor(min(rate_at(s, a)[0], rate_at(s, b)[0]) * GRID)), GRID)
        below, above = value_at(s, a)[0] - rate * a, value_at(s, b)[1] - rate * b
        return Lines(_line(rate, below, -1), _line(rate, above, 1), flat.least, flat.most)
    ends = [(z, value_at(s, z)) for z in (a, b)]
    chord = Fraction(round((ends[1][1][0] - ends[0][1][0]) / (b - a) * GRID), GRID)
    middle = Fraction(min(max(0.5 * lo + 0.5 * hi, lo), hi))
    d = rate_at(s, middle)
    rate = Fraction(round(d[1] * GRID), GRID)
    spread = max(abs(d[0] - rate), abs(d[1] - rate)) * (b - a)
    tangent = [value_at(s, middle)[k] - rate * middle for k in (0, 1)]
    if lo >= 0:
        below = min(v[0] - chord * z for z, v in ends)
        return Lines(
            _line(chord, below, -1), _line(rate, tangent[1] + spread, 1), flat.least, flat.most
        )
    above = max(v[1] - chord * z for z, v in ends)
    return Lines(
        _line(rate, tangent[0] - spread, -1), _line(chord, above, 1), flat.least, flat.most
    )


def _line(slope: Fraction, offset: Fraction, way: int) -> Line:
    return Line(float(slope), outward(offset, way))


def _clip_lines(ends: tuple[float, ...], lo: float, hi: float, flat: Lines) -> Lines:
    """z cut to [p, q]: minus a line it is largest and least at one of its corners or ends."""
    p, q = ends
    at_lo, at_hi = min(max(lo, p), q), min(max(hi, p), q)
    up = down = 0.0
    if hi > lo:
        run, back = min(hi, q) - lo, hi - max(lo, p)
        if not ((hi - q > q - lo and lo >= p) or lo >= q) and run:
            up = (q - at_lo if hi > q else at_hi - at_lo) / run
        if not ((p - lo > hi - p and hi <= q) or hi <= p) and back:
            down = (at_hi - p if lo < p else at_hi - at_lo) / back
    up, down = (min(max(x, 0.0), 1.0) if x == x else 0.0 for x in (up, down))
    corners = [(z, min(max(z, p), q)) for z in (lo, hi, min(max(p, lo), hi), min(max(q, lo), hi))]
    above = max(Fraction(v) - Fraction(up) * Fraction(z) for z, v in corners)
    below = min(Fraction(v) - Fraction(down) * Fraction(z) for z, v in corners)
    return Lines(Line(down, outward(below, -1)), Line(up, outward(above, 1)), flat.least, flat.most)


class Choice(NamedTuple):
    """Of a layer: units whose line through 0, on the side where `rising` says, has another slope; and what is added."""

    free: dict[int, float]
    rising: bool
    tilt: dict[int, float]


class Prepared(NamedTuple):
    """A layer in whole numbers: columns, rows and biases times 2^-shift, and units that equal others or their opposites,
    as (unit, first unit, law for -1 if it is its opposite)."""

    rows: list[list[int]]
    columns: list[list[int]]
    shift: int
    bias: list[int]
    bias_shift: int
    twins: list[tuple[int, int, Law | None]]


PREPARED: dict[int, tuple[Layer, Prepared]] = {}


def prepared(layer: Layer) -> Prepared:
    """Made once for each layer; the layer is kept, so that its identity is its own."""
    known = PREPARED.get(id(layer))
    if known is not None and known[0] is layer:
        return known[1]
    width = len(layer.weight[0]) if layer.weight else 0
    flat, shift = common([x for row in layer.weight for x in row])
    rows = [flat[i * width : i * width + width] for i in range(len(layer.weight))]
    bias, bias_shift = common(layer.bias)
    turned = law(layer.activation, -ONE) if layer.activation.kind != "softmax" else None
    usable = turned is not None and all(part in (-1, 0, 1) for part in turned)
    first: dict[Any, int] = {}
    twins: list[tuple[int, int, Law | None]] = []
    for u, (row, b) in enumerate(zip(layer.weight, layer.bias, strict=True)):
        key, mirror = (*row, b), tuple(-x for x in (*row, b))
        if key in first:
            twins.append((u, first[key], None))
        elif usable and mirror in first:
            twins.append((u, first[mirror], turned))
        else:
            first[key] = u
    found = Prepared(
        rows, [list(column) for column in zip(*rows, strict=True)], shift, bias, bias_shift, twins
    )
    PREPARED[id(layer)] = layer, found
    return found


def _rationals(ends: tuple[float, float]) -> tuple[Any, Any]:
    """Ends as rationals, but for infinite ones."""
    low, high = (end if math.isinf(end) else Fraction(end) for end in ends)
    return low, high


def _outer(end: Any, way: int) -> float:
    return float(end) if isinstance(end, float) else outward(end, way)


class Bounds:
    """Bounds of all pre-activations of some layers on a box: intervals, and for units whose sign these leave open, going
    back through the layers by a line above and one below each activation. All sums are exact; ends are then rounded
    outward to floats.

    `known`: bounds that hold for other reasons. `wanted`: units of the last layer that are looked at closely. `look`: units
    that are, whatever is known of their signs. `relax`: lines around activations, where these are none of a single unit.
    """

    def __init__(self, layers: Sequence[Layer], low: Sequence[float], high: Sequence[float], known: Any = None,
                 wanted: set[int] | None = None, look: Callable[[int, int], bool] | None = None,
                 relax: Callable[[int, Any], list[Lines]] | None = None) -> None:  # fmt: skip
        self.layers, self.low, self.high, self.merged = layers, low, high, relax is None
        self.made = [prepared(layer) for layer in layers]
        self.ranges: list[list[tuple[float, float]]] = []
        self.lines: list[list[Lines]] = []
        self.tables: list[Any] = []
        ends = list(zip(low, high, strict=True))
        for l, layer in enumerate(layers):
            found = self._intervals(l, ends)
            if known is not None:
                found = [
                    (max(a, c), min(b, d)) for (a, b), (c, d) in zip(found, known[l], strict=True)
                ]
            if l:
                for u, (lo, hi) in enumerate(found):
                    unsure = lo < 0 < hi and (l < len(layers) - 1 or wanted is None or u in wanted)
                    if look(l, u) if look is not None else unsure:
                        hi = min(hi, self.above(l, u, 1))
                        lo = max(lo, -self.above(l, u, -1))
                        found[u] = lo, hi
            self.ranges.append(found)
            if l < len(layers) - 1:
                if relax is None:
                    self.lines.append([lines_of(layer.activation, *sorted(x)) for x in found])
                else:
                    self.lines.append(relax(l, found))
                ends = [(x.least, x.most) for x in self.lines[-1]]
                self.tables.append(self._table(self.lines[-1]))

    @property
    def empty(self) -> bool:
        """Whether some interval is: nothing is there."""
        return any(lo > hi for layer in self.ranges for lo, hi in layer)

    @staticmethod
    def _table(lines: list[Lines]) -> Any:
        """Slopes and offsets as whole numbers, below and above; None where an offset is infinite."""
        if not all(finite(line.offset) for x in lines for line in x[:2]):
            return None
        slopes, shift = common([line.slope for x in lines for line in x[:2]])
        offsets, offset_shift = common([line.offset for x in lines for line in x[:2]])
        return slopes[::2], slopes[1::2], shift, offsets[::2], offsets[1::2], offset_shift

    def _intervals(self, l: int, ends: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        made, found = self.made[l], list[tuple[float, float]]()
        endless = {j for j, pair in enumerate(ends) if not all(map(finite, pair))}
        fine = [pair if j not in endless else (0.0, 0.0) for j, pair in enumerate(ends)]
        both, shift = common([x for pair in fine for x in pair])
        low, high, total = both[::2], both[1::2], shift + made.shift
        for row, bias, own in zip(made.rows, made.bias, self.layers[l].weight, strict=True):
            if endless and any(own[j] for j in endless):
                lo, hi = _row_range(
                    own, self.layers[l].bias[len(found)], list(map(_rationals, ends))
                )
                found.append((_outer(lo, -1), _outer(hi, 1)))
                continue
            top = sum(w * (b if w > 0 else a) for w, a, b in zip(row, low, high, strict=True) if w)
            bottom = sum(
                w * (a if w > 0 else b) for w, a, b in zip(row, low, high, strict=True) if w
            )
            more = Fraction(bias, 1 << made.bias_shift)
            found.append(
                (
                    outward(Fraction(bottom, 1 << total) + more, -1),
                    outward(Fraction(top, 1 << total) + more, 1),
                )
            )
        return found

    def above(self, l: int, u: int, sign: int, choices: Sequence[Choice] | None = None) -> float:
        """An upper bound of sign times the pre-activation of a unit."""
        made = self.made[l]
        a, c = [sign * w for w in made.rows[u]], Fraction(sign * made.bias[u], 1 << made.bias_shift)
        return outward(self.top(l, a, made.shift, c, choices), 1)

    def top(
        self, l: int, a: list[int], shift: int, c: Fraction, choices: Sequence[Choice] | None = None
    ) -> Any:
        """An upper bound of a . h + c, h what layer l reads, a whole numbers times 2^-shift."""
        for k in reversed(range(l)):
            made, table = self.made[k], self.tables[k]
            if not any(a):
                return c
            if table is None:
                return INF
            tilt: dict[int, Fraction] = {}
            if choices is None and made.twins and self.merged:
                a = list(a)
                for u, root, turned in made.twins:
                    if a[u]:
                        part, a[u] = a[u], 0
                        if turned is None:
                            a[root] += part
                            continue
                        a[root] += part * int(turned[0])
                        tilt[root] = tilt.get(root, ZERO) + Fraction(part, 1 << shift) * turned[1]
                        c += Fraction(part, 1 << shift) * turned[2]
            low, high, slope_shift, low_off, high_off, offset_shift = table
            offset = sum(x * (high_off[j] if x > 0 else low_off[j]) for j, x in enumerate(a) if x)
            b = [x * (high[j] if x > 0 else low[j]) if x else 0 for j, x in enumerate(a)]
            c += Fraction(offset, 1 << shift + offset_shift)
            if choices is not None:
                b, slope_shift, c = self._chosen(
                    a, b, shift, slope_shift, c, choices[k], (low_off, high_off, offset_shift)
                )
                tilt = {j: Fraction(x) for j, x in choices[k].tilt.items() if x}
            shift += slope_shift
            if tilt:
                more = max(q.denominator.bit_length() - 1 for q in tilt.values())
                if more > shift:
                    b, shift = [x << more - shift for x in b], more
                for j, q in tilt.items():
                    b[j] += int(q * (1 << shift))
            c += Fraction(sum(map(mul, b, made.bias)), 1 << shift + made.bias_shift)
            a, shift = [sum(map(mul, b, column)) for column in made.columns], shift + made.shift
        ends, bits = common([x for pair in zip(self.low, self.high, strict=True) for x in pair])
        total = sum(x * (ends[2 * i + 1] if x > 0 else ends[2 * i]) for i, x in enumerate(a) if x)
        return Fraction(total, 1 << shift + bits) + c

    @staticmethod
    def _chosen(
        a: list[int],
        b: list[int],
        shift: int,
        slope_shift: int,
        c: Fraction,
        choice: Choice,
        offsets: Any,
    ) -> Any:
        """The same with lines through 0 of other slopes at some units."""
        slopes, bits = common(list(choice.free.values()))
        wide = max(bits, slope_shift)
        b = [x << wide - slope_shift for x in b]
        for j, slope in zip(choice.free, slopes, strict=True):
            if a[j] and (a[j] > 0) == choice.rising:
                b[j] = a[j] * slope << wide - bits
                c -= Fraction(a[j] * offsets[1 if a[j] > 0 else 0][j], 1 << shift + offsets[2])
        return b, wide, c


def prove_signs(net: Network, region: Region, signs: list[list[int]]) -> None:
    """Signs of hidden units by the tree of the box: where bounds prove them, or both halves do."""
    tree = region.tree
    require_tree(tree, len(region.low))
    wanted = {(l, u): s for l, part in enumerate(signs, 1) for u, s in enumerate(part) if s}
    skipped = _subtrees(tree)
    stack = [(region.low, region.high, wanted)]
    at = 0
    while at < len(tree):
        low, high, need = stack.pop()
        if need:
            depth = max(l for l, _ in need)
            found = Bounds(
                net.layers[:depth], low, high, wanted={u for l, u in need if l == depth}
            ).ranges
            need = {(l, u): s for (l, u), s in need.items()
                    if not (found[l - 1][u][1] <= 0 if s < 0 else found[l - 1][u][0] >= 0)}  # fmt: skip
        if not need:
            at = skipped[at]
            continue
        if tree[at] < 0:
            l, u = min(need)
            raise Rejected(
                f"node {at} of the tree, a leaf: unit {u} of layer {l} is not proved to have sign {need[l, u]}"
            )
        left, right = halves(low, high, tree[at])
        stack += [(right, high, need), (low, left, need)]
        at += 1


def _subtrees(tree: Sequence[int]) -> list[int]:
    """For each node in preorder where the next subtree begins."""
    found, ends = [0] * len(tree), list[int]()
    for at in reversed(range(len(tree))):
        if tree[at] < 0:
            found[at] = at + 1
        else:
            ends.pop()  # of the left subtree, which begins right behind
            found[at] = ends.pop()
        ends.append(found[at])
    return found


def prove_region(net: Network, region: Region) -> Network:
    """Prove all signs; the network without the weights that are cut is what is left."""
    widths = net.widths[1:-1]
    demand(len(region.low) == net.widths[0], "the box has another number of inputs")
    demand([len(part) for part in region.signs] == widths, "signs are not one for each hidden unit")
    starts = [sum(widths[:l]) for l in range(len(widths) + 1)]
    count = next((k for k, case in enumerate(region.cases) if case.given >= 0), len(region.cases))
    by_tree = [list(part) for part in region.signs]
    for case in region.cases[:count]:
        there = 1 <= case.layer <= len(widths) and 0 <= case.unit < widths[case.layer - 1]
        demand(there and case.sign in (-1, 1), f"{case}: it is not there, or has no sign")
        demand(
            region.signs[case.layer - 1][case.unit] == case.sign, f"{case}: another sign is claimed"
        )
        by_tree[case.layer - 1][case.unit] = 0
    prove_signs(net, region, by_tree)
    known = [s for part in by_tree for s in part]
    for case in region.cases[:count]:
        prove_case(net, region, known, case, starts)
        known[starts[case.layer - 1] + case.unit] = case.sign
    for case in region.cases[count:]:
        demand(case.given >= 0, f"{case} stands behind a cut")
        there = (
            2 <= case.layer <= len(widths)
            and 0 <= case.unit < widths[case.layer - 1]
            and case.given < widths[case.layer - 2]
        )
        demand(
            there and case.sign == -1 and known[starts[case.layer - 1] + case.unit] <= 0,
            f"{case}: no cut is possible",
        )
        relus = all(
            facts(net.layers[l].activation).slopes == (ONE, ZERO)
            for l in (case.layer - 2, case.layer - 1)
        )
        demand(relus, f"{case}: not both layers are of ReLU")
        prove_case(net, region, known, case, starts)
        layer = net.layers[case.layer - 1]
        rows = [list(row) for row in layer.weight]
        rows[case.unit][case.given] = 0.0
        cut = layer._replace(weight=rows)
        net = net._replace(layers=[*net.layers[: case.layer - 1], cut, *net.layers[case.layer :]])
    return net


def prove_case(
    net: Network, region: Region, known: list[int], case: Case, starts: list[int]
) -> None:
    """At each leaf: -sign z <= 0 (of a cut: z with the weight of the given unit at least 0, where that is on)."""
    below, last = starts[case.layer - 1], net.layers[case.layer - 1]
    row, bias = (
        [float(-case.sign) * x for x in part]
        for part in (last.weight[case.unit], [last.bias[case.unit]])
    )
    start = list(known[:below])
    if case.given >= 0:
        row[case.given] = max(row[case.given], 0.0)
        start[starts[case.layer - 2] + case.given] = 1
    layers = [*net.layers[: case.layer - 1], Layer([row], bias, IDENTITY)]
    require_tree(case.tree, below)
    stack, leaves = [start], iter(case.leaves)
    for at, node in enumerate(case.tree):
        signs = stack.pop()
        if node >= 0:
            demand(not signs[node], f"node {at} of {case}: the sign of unit {node} is known")
            for sign in (1, -1):
                stack.append([*signs[:node], sign, *signs[node + 1 :]])
            continue
        leaf = next(leaves, None)
        if leaf is None:
            raise Rejected(f"{case} has more leaves than it lists")
        demand(
            all(u < below for u in leaf[0]), f"{case}: a multiplier of a unit that is not below it"
        )
        demand(
            _holds(layers, region, signs, leaf, starts),
            f"leaf {at} of {case}: sign {case.sign} is not proved",
        )
    demand(next(leaves, None) is None, f"{case} lists more leaves than it has")


def _holds(
    layers: list[Layer], region: Region, signs: list[int], leaf: Any, starts: list[int]
) -> bool:
    known = []
    for l in range(len(layers) - 1):
        own = signs[starts[l] : starts[l + 1]]
        known.append([(0.0 if s > 0 else -INF, 0.0 if s < 0 else INF) for s in own])
    found = Bounds(layers, region.low, region.high, known=[*known, [(-INF, INF)]])
    if found.empty or found.ranges[-1][0][1] <= 0:
        return True
    given = dict(zip(*leaf, strict=True))
    choices = []
    for l, layer in enumerate(layers[:-1]):
        right, left = facts(layer.activation).slopes or (ZERO, ZERO)
        free, tilt = {}, {}
        for u, (lo, hi) in enumerate(found.ranges[l]):
            m = given.get(starts[l] + u)
            if m is None:
                continue
            if lo < 0 < hi and right != left:
                free[u] = min(max(m, float(min(right, left))), float(max(right, left)))
            if signs[starts[l] + u]:
                tilt[u] = signs[starts[l] + u] * max(m, 0.0)
        choices.append(Choice(free, right < left, tilt))
    return found.above(len(layers) - 1, 0, 1, choices) <= 0


# Differences by parts ===========================================================================================


class Parts(NamedTuple):
    """A bound of a difference, by what bounds it was found, and the tree of parts."""

    upper: float
    how: str
    tree: list[int]


def parts_of(read: dict[str, Any]) -> Parts:
    known = ("separate", "difference", "zonotopes", "joint")
    demand(
        type(read["how"]) is str and read["how"] in known, "there is no such bound of a difference"
    )
    return Parts(
        real(read["upper"], "upper", 0.0), read["how"], tree_of(read["tree"], "a difference")
    )


def side_by_side(a: Network, b: Network) -> list[Layer] | None:
    """x -> a(x) - b(x) as one chain, where hidden layers have one activation each; the shallower one is made deeper by
    z = s(z) - s(-z) where that is a law."""
    nets = [list(a.layers), list(b.layers)]
    for mine, other in (nets, nets[::-1]):
        while len(mine) < len(other) and facts(other[len(mine) - 1].activation).law == RAMP:
            weight, bias, _ = mine.pop()
            mine.append(Layer(weight + [[-x + 0.0 for x in row] for row in weight], bias + [-x + 0.0 for x in bias],
                              other[len(mine)].activation))  # fmt: skip
            n = len(bias)
            mine.append(
                Layer(
                    [[float(i == j) - float(i + n == j) for j in range(2 * n)] for i in range(n)],
                    [0.0] * n,
                    IDENTITY,
                )
            )
    one, two = nets
    if [x.activation for x in one] != [x.activation for x in two]:
        return None
    layers = []
    for l, (p, q) in enumerate(zip(one, two, strict=True)):
        left, right = ([0.0] * len(x.weight[0]) if l else [] for x in (p, q))
        rows = [row + right for row in p.weight] + [left + row for row in q.weight]
        layers.append(Layer(rows, p.bias + q.bias, p.activation))
    n = len(one[-1].bias)
    minus = [[float(i == j) - float(i + n == j) for j in range(2 * n)] for i in range(n)]
    return [*layers, Layer(minus, [0.0] * n, IDENTITY)]


def prove_parts(a: Network, b: Network, region: Region, claim: Parts) -> None:
    """On each part of the box outputs are at most `upper` apart: by bounds of each alone, or of both side by side."""
    require_tree(claim.tree, len(region.low))
    joined = side_by_side(a, b)
    stack = [(region.low, region.high)]
    for at, node in enumerate(claim.tree):
        low, high = stack.pop()
        if node >= 0:
            left, right = halves(low, high, node)
            stack += [(right, high), (low, left)]
            continue
        if not _within(a, b, joined, low, high, claim.upper):
            raise Rejected(f"leaf {at} of a difference: {claim.upper} is claimed and not proved")


def _within(
    a: Network, b: Network, joined: Any, low: list[float], high: list[float], upper: float
) -> bool:
    """Whether outputs are at most so much apart on a box, by one kind of bounds or another."""
    alike = a.widths == b.widths and [x.activation for x in a.layers] == [
        x.activation for x in b.layers
    ]
    if alike:
        for level in (True, False):
            forms = zonotopes(a.layers, b.layers, low, high, level)
            if (
                largest(forms[2][-1]) <= upper
                or largest(pairs(a.layers, b.layers, low, high, forms)) <= upper
            ):
                return True
    if joined is not None and largest(Bounds(joined, low, high).ranges[-1]) <= upper:
        return True
    alone = [Bounds(net.layers, low, high).ranges for net in (a, b)]
    apart = (
        [minus(p, q) for p, q in zip(*alone, strict=True)]
        if alike
        else [minus(alone[0][-1], alone[1][-1])]
    )
    return largest(apart[-1]) <= upper or (
        alike and largest(pairs(a.layers, b.layers, low, high, (*alone, apart))) <= upper
    )


def largest(ranges: Iterable[tuple[float, float]]) -> float:
    return max((max(-lo, hi) for lo, hi in ranges), default=0.0)


Ranges = list[tuple[float, float]]


def minus(a: Ranges, b: Ranges) -> Ranges:
    """Of differences, rounded outward."""
    found = []
    for (p, q), (r, t) in zip(a, b, strict=True):
        low = outward(Fraction(p) - Fraction(t), -1) if finite(p) and finite(t) else -INF
        found.append(
            (
                low,
                outward(Fraction(q) - Fraction(r), 1) if finite(q) and finite(r) else INF,
            )
        )
    return found


def mean_slopes(s: Activation, lo: float, hi: float) -> Interval:
    """Bounds of (s(y) - s(z)) / (y - z) in an interval: between extreme slopes, which tanh has at its ends and next to 0."""
    f = facts(s)
    if f.slopes is not None:
        right, left = f.slopes[0 if hi > 0 else 1], f.slopes[1 if lo < 0 else 0]
        return min(left, right), max(left, right)
    if s.kind in ("tanh", "sigmoid") and finite(lo) and finite(hi):
        ends = [rate_at(s, Fraction(z))[0] for z in (lo, hi)]
        steepest = rate_at(s, min(max(ZERO, Fraction(lo)), Fraction(hi)))[1]
        return Fraction(outward(max(min(ends), ZERO), -1)), Fraction(outward(steepest, 1))
    return ZERO if f.rising else -f.lipschitz, f.lipschitz


def pairs(
    a: Sequence[Layer], b: Sequence[Layer], low: list[float], high: list[float], known: Any
) -> Ranges:
    """Bounds of the difference of outputs by the chain of pairs (z_a - z_b, z_b), W_a d + (W_a - W_b) h_b and W_b h_b, with
    d = h_a - h_b being z_a - z_b times a mean slope. `known`: bounds of z_a, z_b and z_a - z_b, by layer."""
    layers = []
    for p, q in zip(a, b, strict=True):
        gaps = [
            [Fraction(x) - Fraction(y) for x, y in zip(v, w, strict=True)]
            for v, w in zip(p.weight, q.weight, strict=True)
        ]
        rows: Any = [[*v, *g] for v, g in zip(p.weight, gaps, strict=True)]
        rows += [[0.0] * len(w) + w for w in q.weight]
        shift: Any = [Fraction(x) - Fraction(y) for x, y in zip(p.bias, q.bias, strict=True)]
        layers.append(Layer(rows, shift + q.bias, p.activation))

    def relax(l: int, ranges: Ranges) -> list[Lines]:
        n, s = len(a[l].bias), a[l].activation
        alone = [lines_of(s, *x) for x in known[0][l]]
        two = [lines_of(s, *sorted(x)) for x in ranges[n:]]
        found = []
        for (lo, hi), (p, q), (r, t), one, other in zip(
            ranges[:n], known[0][l], ranges[n:], alone, two, strict=True
        ):
            shallow, steep = map(outward, mean_slopes(s, min(p, r), max(q, t)), (-1, 1))
            above, below = (
                _above_kink(steep, shallow, lo, hi),
                _above_kink(-shallow, -steep, lo, hi),
            )
            line = Lines(
                Line(-below.slope, -below.offset), above, *_ends_of_slopes(shallow, steep, lo, hi)
            )
            ((least, most),) = minus([(one.least, one.most)], [(other.least, other.most)])
            found.append(_level(line, lo, hi, max(least, line.least), min(most, line.most)))
        return found + two

    both = [x + y for x, y in zip(known[2], known[1], strict=True)]
    ends = [0.0] * len(low) + low, [0.0] * len(high) + high
    found = Bounds(layers, *ends, known=both, look=lambda l, u: u < len(a[l].bias), relax=relax)
    for layer in layers:
        PREPARED.pop(id(layer), None)
    return found.ranges[-1][: len(a[-1].bias)]


def _ends_of_slopes(shallow: float, steep: float, lo: float, hi: float) -> tuple[float, float]:
    """Of m d for m between two slopes and d between two ends."""
    if not (finite(lo) and finite(hi)):
        return -INF, INF
    ends = [Fraction(m) * Fraction(d) for m in (shallow, steep) for d in (lo, hi)]
    return outward(min(ends), -1), outward(max(ends), 1)


def _level(lines: Lines, lo: float, hi: float, least: float, most: float) -> Lines:
    """Level lines at these bounds, where they are nearer in the middle."""
    middle = 0.5 * lo + 0.5 * hi
    above = (
        Line(0.0, most)
        if not most >= lines.above.slope * middle + lines.above.offset
        else lines.above
    )
    below = (
        Line(0.0, least)
        if not least <= lines.below.slope * middle + lines.below.offset
        else lines.below
    )
    return Lines(below, above, least, most)


# Zonotopes: center + sum of shared[s] e_s + sum of own[t] o_t + r, |e_s|, |o_t| <= 1, |r| <= rest, with the same e_s and
# o_t for all units. Whole numbers times 2^-GAP; what rounding loses goes into the rest.

GAP = 640


class Form(NamedTuple):
    center: int
    shared: list[int]
    own: list[int]
    rest: int

    def range(self) -> tuple[float, float]:
        radius = sum(map(abs, self.shared)) + sum(map(abs, self.own)) + self.rest
        return tuple(
            outward(Fraction(self.center + way * radius, 1 << GAP), way) for way in (-1, 1)
        )  # type: ignore[return-value]


def _rounded_down(q: Any) -> tuple[int, int]:
    """A number as a whole one times 2^-GAP, and what it may be off."""
    top = Fraction(q).numerator << GAP
    whole_part, rest = divmod(top, Fraction(q).denominator)
    return whole_part, 1 if rest else 0


def _mapped(layers: Sequence[tuple[Any, Sequence[Form]]], bias: Sequence[Any]) -> list[Form]:
    """Sums of weights times forms; the first forms alone have symbols of their own."""
    found = []
    for u, b in enumerate(bias):
        center, rest = _rounded_down(b)
        columns: list[int] = []
        mine: list[int] = []
        for k, (weight, forms) in enumerate(layers):
            row, shift = common(weight[u])
            some = [(w, form) for w, form in zip(row, forms, strict=True) if w]
            size = max((len(form.shared) for form in forms), default=0)
            columns += [0] * (size - len(columns))
            for n in range(size):
                total = sum(w * form.shared[n] for w, form in some)
                columns[n] += total >> shift
                rest += bool(total & ((1 << shift) - 1))
            if k == 0:
                for n in range(max((len(form.own) for form in forms), default=0)):
                    total = sum(w * form.own[n] for w, form in some)
                    mine.append(total >> shift)
                    rest += bool(total & ((1 << shift) - 1))
            total = sum(w * form.center for w, form in some)
            center += total >> shift
            rest += bool(total & ((1 << shift) - 1))
            rest += -(-sum(abs(w) * form.rest for w, form in some) >> shift)
        found.append(Form(center, columns, mine, rest))
    return found


Band = tuple[Fraction, Fraction, Fraction]  # slope z + least <= h <= slope z + most


def _acted(forms: Sequence[Form], bands: Sequence[Band], own: bool) -> list[Form]:
    """After activations between parallel lines: a new symbol for each unit for which these are apart."""
    found, new = [], 0
    count = sum(least < most for _, least, most in bands)
    for form, (slope, least, most) in zip(forms, bands, strict=True):
        (middle, off), (reach, more) = (
            _rounded_down((least + most) / 2),
            _rounded_down((most - least) / 2),
        )
        (top,), shift = common([float(slope)])
        parts = [top * x for x in (form.center, *form.shared, *form.own)]
        lost = sum(bool(x & ((1 << shift) - 1)) for x in parts)
        center, *rest = [x >> shift for x in parts]
        fresh = [0] * count
        if least < most:
            fresh[new], new = reach, new + 1
        shared, mine = rest[: len(form.shared)], rest[len(form.shared) :]
        found.append(Form(center + middle, shared + ([] if own else fresh), mine + (fresh if own else []),
                          -(-abs(top) * form.rest >> shift) + lost + off + more))  # fmt: skip
    return found


def _band(s: Activation, lines: Lines, lo: float, hi: float) -> Band:
    """Parallel lines around s."""
    ends = [Fraction(lo), Fraction(hi)]
    f = facts(s)
    if f.slopes is not None:
        slope = Fraction(lines.above.slope if f.slopes[0] >= f.slopes[1] else lines.below.slope)
        corners = [*ends, *([ZERO] if lo < 0 < hi else [])]
        gaps = [((f.slopes[0] if z > 0 else f.slopes[1]) - slope) * z for z in corners]
        return slope, min(gaps), max(gaps)
    above, below = Fraction(lines.above.slope), Fraction(lines.below.slope)
    slope = Fraction(float((above + below) / 2))
    most = Fraction(lines.above.offset) + max((above - slope) * z for z in ends)
    return slope, Fraction(lines.below.offset) + min((below - slope) * z for z in ends), most


def zonotopes(
    a: Sequence[Layer], b: Sequence[Layer], low: list[float], high: list[float], level: bool
) -> Any:
    """Bounds of z_a, z_b and z_a - z_b, by layer. `level`: of two bands that are as wide, take the level one."""
    one, two, n = list[Form](), list[Form](), len(low)
    for i, (p, q) in enumerate(zip(low, high, strict=True)):
        center, off = _rounded_down((Fraction(p) + Fraction(q)) / 2)
        reach, more = _rounded_down((Fraction(q) - Fraction(p)) / 2)
        one.append(Form(center, [reach if j == i else 0 for j in range(n)], [], off + more))
        two.append(Form(0, [0] * n, [], 0))
    ends: Ranges = list(zip(low, high, strict=True))
    found: tuple[list[Ranges], list[Ranges], list[Ranges]] = ([], [], [])
    for l, (x, y) in enumerate(zip(a, b, strict=True)):
        gaps = [
            [Fraction(v) - Fraction(w) for v, w in zip(r, t, strict=True)]
            for r, t in zip(x.weight, y.weight, strict=True)
        ]
        shift = [Fraction(v) - Fraction(w) for v, w in zip(x.bias, y.bias, strict=True)]
        two, one = (
            _mapped([(y.weight, two), (gaps, one)], shift),
            _mapped([(x.weight, one)], x.bias),
        )
        by_ends = Bounds([x], [p for p, _ in ends], [q for _, q in ends]).ranges[0]
        z = [
            (max(p, r), min(q, t))
            for (p, q), (r, t) in zip((form.range() for form in one), by_ends, strict=True)
        ]
        d = [form.range() for form in two]
        other = minus(z, d)
        for bounds, new in zip(found, (z, other, d), strict=True):
            bounds.append(new)
        if l == len(a) - 1:
            break
        if not all(map(finite, (e for part in (z, other, d) for pair in part for e in pair))):
            return [[[(-INF, INF)] * len(x.bias) for x in a]] * 3
        s = x.activation
        lines, beside = [lines_of(s, *pair) for pair in z], [lines_of(s, *pair) for pair in other]
        ends = [(x.least, x.most) for x in lines]
        bands = []
        for k, (lo, hi) in enumerate(d):
            shallow, steep = mean_slopes(s, min(z[k][0], other[k][0]), max(z[k][1], other[k][1]))
            slope = Fraction(float((shallow + steep) / 2))
            gaps_here = [
                (m - slope) * e for m in (shallow, steep) for e in (Fraction(lo), Fraction(hi))
            ]
            least, most = min(gaps_here), max(gaps_here)
            flat = (
                Fraction(lines[k].least) - Fraction(beside[k].most),
                Fraction(lines[k].most) - Fraction(beside[k].least),
            )
            wider = flat[1] - flat[0] - (most - least)
            bands.append(
                (ZERO, *flat) if wider < 0 or (level and wider == 0) else (slope, least, most)
            )
        two = _acted(two, bands, True)
        one = _acted(
            one, [_band(s, line, *pair) for line, pair in zip(lines, z, strict=True)], False
        )
        width = len(one[0].shared) if one else 0
        two = [form._replace(shared=form.shared + [0] * (width - len(form.shared))) for form in two]
    return found


class Change(NamedTuple):
    layer: int
    part: str
    at: list[int]
    to: list[Any]


def change_of(data: Any) -> Change:
    read = record(data, ("layer", "part", "at", "to"), "a change")
    demand(
        read["part"] in ("weight", "bias") and type(read["part"]) is str,
        "a change of neither weight nor bias",
    )
    at = units_of(read["at"], "places of a change")
    to = [
        rational(x, "a value") if type(x) is str else real(x, "a value")
        for x in listed(read["to"], "values of a change")
    ]
    demand(
        len(at) == len(to) == len(set(at)),
        "a change has not one value for each of different places",
    )
    return Change(whole(read["layer"], 0, 2**40 - 1, "layer of a change"), read["part"], at, to)


def change(
    weights: list[Any], biases: list[Any], changes: Sequence[Change], radius: float | None
) -> None:
    """Set entries of arrays, none further than the radius from what it was."""
    demand(
        len({(c.layer, c.part) for c in changes}) == len(changes),
        "a part of a layer is changed in two places",
    )
    for c in changes:
        demand(1 <= c.layer <= len(weights), f"changes in layer {c.layer}, which is not there")
        rows = weights[c.layer - 1] if c.part == "weight" else [biases[c.layer - 1]]
        width = len(rows[0]) if rows else 0
        for at, to in zip(c.at, c.to, strict=True):
            demand(at < width * len(rows), f"layer {c.layer} has no {c.part} {at}")
            i, j = divmod(at, width)
            near = radius is None or abs(Fraction(to) - Fraction(rows[i][j])) <= Fraction(radius)
            demand(near, f"{c.part} {at} of layer {c.layer} moves beyond {radius}")
            rows[i][j] = to


# Certificates of chains =========================================================================================

HEAD = ("schema", "large", "small", "slack", "minimal", "large_moves", "small_moves")


class Verdict(NamedTuple):
    """What is proved: the slack, where, and whether units are the fewest."""

    constant: float
    growth: float
    box: tuple[list[float], list[float]] | None
    minimal: bool
    near: float | None = None
    bounded: bool = False  # of graphs: for inputs between bounds

    def __str__(self) -> str:
        slack = f"up to {self.constant!r}" + (f" + {self.growth!r} |x|" if self.growth else "")
        where = "for all inputs" if self.box is None else "on the box of the certificate"
        if self.bounded:
            where = "for inputs between the bounds of the certificate"
        near = (
            f", for a parameter within {self.near!r} of the large one"
            if self.near is not None
            else ""
        )
        return f"accepted: one function {slack} {where}{near}" + (
            "; no fewer units have the function of the large network" if self.minimal else ""
        )


def check_chain(data: Any, small: Network, large: Network) -> Verdict:
    """Check a certificate, given as JSON, for two networks."""
    read = record(data, HEAD, "a certificate", ("near", "region", "changed", "apart", "creases"))
    slack = record(read["slack"], ("constant", "growth"), "slack")
    constant, growth = (real(slack[k], f"{k} of the slack", 0.0) for k in ("constant", "growth"))
    demand(
        type(read["minimal"]) is bool and type(read.get("creases", False)) is bool,
        "minimal and creases are true or false",
    )
    moves = [list(map(move_of, listed(read[k], k))) for k in ("large_moves", "small_moves")]
    region = region_of(read["region"]) if "region" in read else None
    near = record(read["near"], ("radius", "changes", "bound"), "near") if "near" in read else None
    radius = real(near["radius"], "radius", 0.0) if near else None
    nearby = list(map(change_of, listed(near["changes"], "changes"))) if near else []
    changed = (
        record(read["changed"], ("changes", "upper", "how", "tree"), "changed")
        if "changed" in read
        else None
    )
    changes = list(map(change_of, listed(changed["changes"], "changes"))) if changed else []
    apart = (
        parts_of(record(read["apart"], ("upper", "how", "tree"), "apart"))
        if "apart" in read
        else None
    )
    for side, net in (("large", large), ("small", small)):
        digest = read[side]
        demand(
            net.digest == digest,
            f"the {side} network is not the certified one: it has digest {net.digest}",
        )
    ends = (small.widths[0], small.widths[-1], small.output_map)
    demand(
        ends == (large.widths[0], large.widths[-1], large.output_map),
        "inputs, outputs or output map differ",
    )
    demand(
        not (near and region) and (radius is None or radius < 2.0**1000),
        "a radius beside a box, or too large",
    )
    demand(region or not (changed or apart), "a bound on a box is claimed, and there is no box")
    demand(
        not (apart and (near or changed)), "a difference by parts is claimed of changed parameters"
    )
    creases_claimed = read.get("creases", False)
    demand(
        not creases_claimed or not (near or region or changed or apart),
        "equal creases beside another domain or proof",
    )
    if near and near["bound"] is not None:
        raise NotUnderstood("lower bounds within a radius")
    start, more = large, ZERO
    if changed and region:
        weights, biases = (
            [[list(row) for row in x.weight] for x in large.layers],
            [list(x.bias) for x in large.layers],
        )
        change(weights, biases, changes, None)
        demand(
            all(type(x) is float for c in changes for x in c.to), "a changed parameter is no float"
        )
        parts = zip(weights, biases, large.layers, strict=True)
        start = large._replace(layers=[Layer(w, b, x.activation) for w, b, x in parts])
    if region:
        before, start = start, prove_region(start, region)
        if changed:
            claim = parts_of(changed)
            prove_parts(large, before, region, claim)
            more = Fraction(claim.upper)
    left = State(start, region if apart is None else None)
    change(left.weights, left.biases, nearby, radius)
    replay(left, moves[0])
    right = replay(State(small), moves[1])
    proved = _proved(left, right, region, apart, creases_claimed)
    total = proved[0] + more, proved[1]
    if not (total[0] <= constant and total[1] <= growth):
        shown = [repr(outward(x, 1)) for x in total]
        if region and shown[0] == "inf":
            raise NotUnderstood("differences beyond all floats")
        claimed = f"slack {constant!r} + {growth!r} |x| is claimed, and {shown[0]} + {shown[1]} |x| is proved"
        raise Rejected(claimed)
    if read["minimal"]:
        demand(
            not (changed or apart or creases_claimed),
            "minimality is claimed beside changes, or moves do not end at one network",
        )
        demand(
            sum(small.widths[1:-1]) == sum(left.widths[1:-1]),
            "minimality is claimed, but more units are in the small network",
        )
        demand(not near, "minimality is claimed within a radius, without a bound")
        why = not_fewest(left)
        demand(why is None, f"minimality is claimed, but {why}")
    return Verdict(
        constant, growth, (region.low, region.high) if region else None, read["minimal"], radius
    )


def _proved(
    left: State, right: State, region: Region | None, apart: Parts | None, by_creases: bool
) -> Slack:
    """The difference of both sides after their moves."""
    if by_creases:
        demand(creased(left) == creased(right), "equal creases are claimed, and they are not equal")
        return ZERO, ZERO
    if apart is not None and region is not None:
        nets, lost = [], ZERO
        for state in (left, right):
            once = rounded(state)
            kinds = [*state.kinds, IDENTITY]
            layers = [Layer(w, b, s) for (w, b), s in zip(once, kinds, strict=True)]
            nets.append(Network(layers, "identity", len(state.left[0])))
            lost += difference(state.layers(), once, state.kinds, region.sizes)[0]
        prove_parts(nets[0], nets[1], region, apart)
        return Fraction(apart.upper) + lost, ZERO
    same = left.widths == right.widths and left.kinds == right.kinds
    demand(
        same, f"after all moves widths are {left.widths} and {right.widths}, or activations differ"
    )
    sizes = None if region is None else region.sizes
    by_norms = difference(left.layers(), right.layers(), left.kinds, sizes)
    if region is None or not by_norms[0]:
        return by_norms
    try:
        once, other, chain = rounded(left), rounded(right), [*left.kinds, IDENTITY]
    except Rejected:
        return by_norms
    if other != right.layers():  # then numbers are no floats, and zonotopes are of floats here
        return by_norms
    both = [
        [Layer(w, b, s) for (w, b), s in zip(side, chain, strict=True)] for side in (once, other)
    ]
    found = [zonotopes(both[0], both[1], region.low, region.high, level) for level in (True, False)]
    near = min(largest(forms[2][-1]) for forms in found)
    if not finite(near):
        return by_norms
    lost = difference(left.layers(), once, left.kinds, sizes)[0]
    return min(by_norms[0], Fraction(near) + lost), ZERO


def rounded(state: State) -> list[tuple[list[list[float]], list[float]]]:
    """What is left, each number as the nearest float."""

    def nearest(x: Number) -> float:
        low, high = between(x)
        try:
            return float((low + high) / 2) + 0.0
        except OverflowError:
            raise Rejected("a number is beyond all floats") from None

    return [
        ([list(map(nearest, row)) for row in weight], list(map(nearest, bias)))
        for weight, bias in state.layers()
    ]


# Graphs =========================================================================================================
#
# Orders and scales, of graphs that are cut, too, are followed through all operators of docs/format.md. Where units are
# left out (remove, combine) or numbers rounded these are: layers, convolutions without groups or with one for each
# channel, functions of one entry, sums, differences and products, batch norms, pools and other functions of slices,
# reshapes and transposes. Of what is passed by: what changes nothing. Whatever else is there is not understood.


@dataclass(frozen=True)
class Op:
    """An operator by name, and its parameters by name, in order."""

    kind: str
    given: tuple[tuple[str, Any], ...] = ()

    def __getitem__(self, name: str) -> Any:
        return dict(self.given)[name]

    def written(self) -> str:
        """As it stands in a digest."""
        if self.kind == "Reshape":
            copied = [(i, o) for i, o in self["free"] if self["sizes"][o] is None]
            return f"Reshape(sizes={self['sizes']}, copied={copied})"
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.given)})"


def linear_op(
    reads: int,
    writes: int,
    columns: int,
    rows: int,
    free: Any,
    detail: Any = (),
    padded: bool = False,
    groups: int = 1,
) -> Op:
    return Op("Linear", (("reads", reads), ("writes", writes), ("columns", columns), ("rows", rows), ("groups", groups),
                         ("padded", padded), ("uniform", True), ("free", free), ("detail", detail)))  # fmt: skip


SLICEWISE = {"numbers": (), "linear": False, "homogeneous": False, "keeps": False, "zero": False, "hull": False,
             "padded": False, "carried": (), "normalises": None}  # fmt: skip


def slicewise_op(kind: str, free: Any, **given: Any) -> Op:
    return Op("Slicewise", (("kind", kind), ("free", free), *({**SLICEWISE, **given}).items()))


class Step(NamedTuple):
    """A node: an operator, what it reads and gives."""

    op: Op
    inputs: tuple[str, ...]
    output: str


Shape = tuple[Any, ...]  # a size, or a name for one that is not known, for each axis


class Graph(NamedTuple):
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    shapes: dict[str, Shape]
    stored: dict[str, Tensor]

    def live(self) -> Graph:
        """Without what no output needs."""
        needed, kept = set(self.outputs), []
        for step in reversed(self.steps):
            if step.output in needed:
                kept.append(step)
                needed.update(step.inputs)
        stored = {name: x for name, x in self.stored.items() if name in needed}
        return self._replace(steps=tuple(kept[::-1]), stored=stored)

    @property
    def digest(self) -> str:
        sha = hashlib.sha256()

        def part(data: bytes) -> None:
            sha.update(len(data).to_bytes(8, "little") + data)

        live = self.live()
        places = {name: i for i, name in enumerate(live.inputs)}
        for name in live.inputs:
            part(
                f"input {tuple(n if isinstance(n, int) else None for n in live.shapes[name])}".encode()
            )
        for op, inputs, output in (
            *live.steps,
            Step(Op("Opaque", (("kind", "outputs"), ("payload", ""))), live.outputs, ""),
        ):
            for name in inputs:
                if name in live.stored and name not in places:
                    places[name] = len(places)
                    part(f"constant {live.stored[name].dtype} {live.stored[name].shape}".encode())
                    part(packed_bytes(live.stored[name]))
            if output:
                places[output] = len(places)
            part(
                f"{op.written()} {[places[x] if x else -1 for x in inputs]} {[True] if output else []}".encode()
            )
        return f"graph:{sha.hexdigest()}"

    def value(self, name: str) -> Tensor | None:
        """A stored tensor, or one that is turned from it."""
        if name in self.stored:
            return self.stored[name]
        maker = next((step for step in self.steps if step.output == name), None)
        if maker is None or len(maker.inputs) != 1:
            return None
        same = maker.op.kind == "Elementwise" and maker.op["kind"] == "identity"
        turns = same or maker.op.kind in ("Transpose", "Reshape")
        source = self.value(maker.inputs[0]) if turns else None
        if source is None or same:
            return source
        if maker.op.kind == "Reshape":
            return source._replace(shape=self.shapes[name])
        order, size = maker.op["order"], strides(source.shape)
        shape = tuple(source.shape[a] for a in order)
        return Tensor(shape, [source.data[sum(i * size[a] for i, a in zip(at, order, strict=True))] for at in places_of(shape)],
                      source.whole, source.dtype)  # fmt: skip


def packed_bytes(x: Tensor) -> bytes:
    if x.dtype not in CODES or x.dtype == "bfloat16":
        raise NotUnderstood(f"stored numbers of type {x.dtype}")
    return struct.pack(f"<{len(x.data)}{CODES[x.dtype]}", *x.data)


def strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[a + 1 :]) for a in range(len(shape))]


def places_of(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


def slice_of(x: Tensor, axis: int, i: int) -> list[Any]:
    """Entries at an index of an axis, row by row."""
    inner, n = math.prod(x.shape[axis + 1 :]), x.shape[axis]
    return [
        v
        for start in range(i * inner, len(x.data), n * inner)
        for v in x.data[start : start + inner]
    ]


def taken(x: Tensor, axis: int, index: Sequence[int]) -> Tensor:
    inner, n = math.prod(x.shape[axis + 1 :]), x.shape[axis]
    data = [v for outer in range(0, len(x.data), n * inner) for i in index
            for v in x.data[outer + i * inner : outer + i * inner + inner]]  # fmt: skip
    return x._replace(shape=(*x.shape[:axis], len(index), *x.shape[axis + 1 :]), data=data)


def require_shapes(graph: Graph) -> None:
    """Shapes are such as the operators give."""
    for name, array_now in graph.stored.items():
        demand(
            graph.shapes[name] == array_now.shape,
            f"{name[:40]!r} is said to have another shape than it has",
        )
    for name, shape in graph.shapes.items():
        demand(
            all(type(n) is str or (type(n) is int and n >= 0) for n in shape),
            f"{name[:40]!r} has no shape",
        )
    for step in graph.steps:
        try:
            holds = _fits(
                step.op, [graph.shapes[x] for x in step.inputs if x], graph.shapes[step.output]
            )
        except (IndexError, KeyError, TypeError, ValueError):
            holds = False
        demand(holds, f"{step.output[:40]!r} does not have the shape that its operator gives")


def _meet(a: Any, b: Any) -> bool:
    """Whether two sizes may be one: those that are known are equal."""
    return bool(a == b) or not (isinstance(a, int) and isinstance(b, int))


def _alike(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(_meet, a, b))


def _axes(axes: Iterable[int], rank: int) -> bool:
    some = list(axes)
    return len(set(some)) == len(some) and all(0 <= a < rank for a in some)


def _paired(free: Any, x: Shape, y: Shape) -> bool:
    fits = _axes((i for i, _ in free), len(x)) and _axes((o for _, o in free), len(y))
    return fits and all(_meet(x[i], y[o]) for i, o in free)


def _broadcasts(given: list[Shape], made: Shape) -> bool:
    if max(map(len, given)) != len(made):
        return False
    for back in range(-len(made), 0):
        sizes_here = {shape[back] for shape in given if -back <= len(shape)} - {1}
        known = {n for n in sizes_here if isinstance(n, int)}
        if (
            (not sizes_here and made[back] != 1)
            or len(known) > 1
            or (known and made[back] not in known)
        ):
            return False
    return True


def _fits(op: Op, given: list[Shape], made: Shape) -> bool:
    x = given[0]
    if op.kind == "Linear":
        w, bias = given[1], given[2:]
        free = (*op["free"], (op["reads"], op["writes"]))
        holds = (
            _axes((i for i, _ in free), len(x))
            and _axes((o for _, o in free), len(made))
            and op["groups"] >= 1
        )
        holds = (
            holds and _axes((op["columns"], op["rows"]), len(w)) and _paired(op["free"], x, made)
        )
        holds = holds and all(isinstance(n, int) for n in w) and w[op["rows"]] % op["groups"] == 0
        holds = holds and _meet(x[op["reads"]], w[op["columns"]] * op["groups"])
        plain = len(w) > 2 or len(free) == len(x) == len(made)
        return (
            holds
            and plain
            and made[op["writes"]] == w[op["rows"]]
            and bias in ([], [(w[op["rows"]],)])
        )
    if op.kind == "Elementwise":
        if len(given) > 1 and (
            _entry(op["kind"], op["numbers"]) or op["kind"] in ("identity", "neg")
        ):
            return False
        return _broadcasts(given, made)
    if op.kind == "PerUnit":
        further = given[1:]
        if not _alike(x, made) or not 0 <= op["axis"] < len(x):
            return False
        if op["kind"] == "batchnorm":
            return (
                len(further) == 4
                and len(op["numbers"]) == 1
                and all(s == (x[op["axis"]],) for s in further)
            )
        return all(s in ((), (1,)) or _alike(s, (x[op["axis"]],)) for s in further)
    if op.kind == "Slicewise":
        owners = (*op["carried"], *[None] * len(given))
        own = all(o is None or s == (x[o],) for o, s in zip(owners, given[1:], strict=False))
        return own and _paired(op["free"], x, made)
    if op.kind in ("Opaque", "Size"):
        return op.kind == "Opaque" or all(0 <= axis < len(given[i]) for i, axis in op["axes"])
    if op.kind == "Contract":
        a, b = given
        ends = (
            min(map(len, (a, b, made))) > 1
            and _meet(a[-1], b[-2])
            and _meet(a[-2], made[-2])
            and _meet(b[-1], made[-1])
        )
        return ends and (
            len(made) == 2 if len(a) == len(b) == 2 else _broadcasts([a[:-2], b[:-2]], made[:-2])
        )
    if op.kind == "Concat":
        k, parts_here = op["axis"], [shape[op["axis"]] for shape in given]
        known = all(isinstance(n, int) for n in parts_here)
        whole_size = _meet(sum(parts_here), made[k]) if known else not isinstance(made[k], int)
        return (
            whole_size
            and k >= 0
            and all(
                _alike((*shape[:k], *shape[k + 1 :]), (*made[:k], *made[k + 1 :]))
                for shape in given
            )
        )
    if op.kind == "Take":
        k, n = op["axis"], x[op["axis"]]
        left = () if op["drop"] else (len(op["index"]),)
        chosen = isinstance(n, int) and k >= 0 and all(0 <= i < n for i in op["index"])
        one = not op["drop"] or len(op["index"]) == 1
        return chosen and one and _alike((*x[:k], *left, *x[k + 1 :]), made)
    if op.kind == "Broadcast":
        lead = len(made) - len(x)
        stated = len(op["sizes"]) == len(made) and all(
            n == m if n is not None else not isinstance(m, int)
            for n, m in zip(op["sizes"], made, strict=True)
        )
        return (
            lead >= 0
            and stated
            and all(n == 1 or _meet(n, made[lead + a]) for a, n in enumerate(x))
        )
    if op.kind == "Lookup":
        k = op["axis"]
        return 0 <= k < len(x) and _alike((*x[:k], *given[1], *x[k + 1 :]), made)
    if op.kind == "Transpose":
        return sorted(op["order"]) == list(range(len(x))) and _alike(
            [x[a] for a in op["order"]], made
        )
    if op.kind == "Reshape":
        stated = len(op["sizes"]) == len(made) and all(
            n == m if n is not None else not isinstance(m, int)
            for n, m in zip(op["sizes"], made, strict=True)
        )
        parts = sorted(
            [((i,), (o,)) for i, o in op["free"]] + [(tuple(a), tuple(b)) for a, b in op["blocks"]]
        )
        covered = [[a for part in parts for a in part[k]] for k in (0, 1)]
        if covered != [list(range(len(x))), list(range(len(made)))]:
            raise NotUnderstood("a reshape of parts that do not follow each other")
        for ins, outs in parts:
            p, q = [x[i] for i in ins], [made[o] for o in outs]
            if p != q and not (
                all(isinstance(n, int) for n in (*p, *q)) and math.prod(p) == math.prod(q)
            ):
                return False
        return stated
    raise NotUnderstood(f"the operator {op.kind}")


# Units: which indices stand or fall together


class Ties:
    """Classes of indices, grown from a seed; 0 is the class of what stays. With `trade` of indices that may trade
    places, or be multiplied: functions in which all of an axis has no order tie it then, and sizes fix nothing.
    """

    def __init__(self, graph: Graph, seed: tuple[str, int], trade: bool = False) -> None:
        demand(
            seed[0] in graph.shapes
            and seed[1] < len(graph.shapes[seed[0]])
            and isinstance(graph.shapes[seed[0]][seed[1]], int),
            "there is no such axis of known size",
        )
        self.graph, self.parent, self.seed, self.trade = graph, [0], seed, trade
        self.classes: dict[tuple[str, int], list[int]] = {}
        self.changed = True
        self.start(seed)
        while self.changed:
            self.changed = False
            for name in (*graph.inputs, *graph.outputs):
                self.fix(name)
            for step in graph.steps:
                tie(step, self)

    def root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def labels(self, place: tuple[str, int]) -> list[int] | None:
        found = self.classes.get(place)
        return None if found is None else list(map(self.root, found))

    def size(self, place: tuple[str, int]) -> Any:
        return self.graph.shapes[place[0]][place[1]]

    def start(self, place: tuple[str, int]) -> list[int]:
        first = len(self.parent)
        self.parent += range(first, first + self.size(place))
        self.classes[place] = list(range(first, len(self.parent)))
        self.changed = True
        return self.classes[place]

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)
            self.changed = True

    def same(self, a: tuple[str, int], b: tuple[str, int]) -> None:
        n = self.size(a)
        if not isinstance(n, int) or n != self.size(b):
            self.fix(a[0], a[1])
            self.fix(b[0], b[1])
        elif n > 1:
            self.pick(a, b, range(n))

    def pick(self, a: tuple[str, int], b: tuple[str, int], index: Sequence[int]) -> None:
        """Index j of b is index[j] of a."""
        first, second = self.classes.get(a), self.classes.get(b)
        if first is None and second is None:
            return
        if first is None:
            first = self.start(a)
        if second is None:
            self.classes[b] = [first[i] for i in index]
            self.changed = True
            return
        for i, other in zip(index, second, strict=True):
            self.join(first[i], other)

    def fix(self, name: str, axis: int | None = None) -> None:
        for a in range(len(self.graph.shapes[name])) if axis is None else (axis,):
            for label in self.classes.get((name, a), ()):
                self.join(label, 0)

    def broadcast(self, step: Step, names: Iterable[str], ends: int = 0) -> None:
        """Operands as they are broadcast against the output, but for the last axes."""
        shapes = self.graph.shapes
        shape = shapes[step.output]
        for axis, n in enumerate(shape[: len(shape) - ends]):
            for name in names:
                own = shapes[name]
                back = axis - len(shape)
                if -back > len(own) or own[back] == 1:
                    continue
                if own[back] != n or not isinstance(n, int):
                    self.fix(name, len(own) + back)
                    self.fix(step.output, axis)
                elif n > 1:
                    self.same((name, len(own) + back), (step.output, axis))

    def units(self) -> dict[tuple[str, int], list[int]]:
        """For each place the unit of each index, named by the first index of the seed that it has; -1: it stays."""
        names: dict[int, int] = {0: -1}
        for i, label in enumerate(self.labels(self.seed) or []):
            names.setdefault(label, i)
        # units that the seed lacks go with none of it
        return {
            place: [names.get(self.root(x), -1) for x in labels]
            for place, labels in self.classes.items()
        }


FOLLOWED = {
    "identity", "neg", "relu", "leaky_relu", "abs", "clip", "elu", "hardswish", "tanh", "sigmoid", "erf", "sin", "softplus",
    "gelu", "gelu_tanh", "silu", "mish", "add", "sub", "mul", "div",
}  # fmt: skip


def tie(step: Step, ties: Ties) -> None:
    """What stands or falls together at a node."""
    op, y = step.op, step.output
    x = step.inputs[0]
    shapes = ties.graph.shapes
    if op.kind == "Linear":
        w = step.inputs[1]
        ties.same((w, op["rows"]), (y, op["writes"]))
        if len(step.inputs) > 2:
            ties.same((w, op["rows"]), (step.inputs[2], 0))
        if op["groups"] > 1 and shapes[w][op["columns"]] > 1:
            _tie_groups(step, ties)
        elif op["groups"] == 1:
            ties.same((x, op["reads"]), (w, op["columns"]))
        else:  # each channel of x with all that is made of it
            each = shapes[w][op["rows"]] // op["groups"]
            ties.pick((y, op["writes"]), (x, op["reads"]), [i * each for i in range(op["groups"])])
            ties.pick(
                (y, op["writes"]),
                (y, op["writes"]),
                [j // each * each for j in range(each * op["groups"])],
            )
        for i, o in op["free"]:
            ties.same((x, i), (y, o))
        for name, kept in ((x, {op["reads"], *(i for i, _ in op["free"])}), (y, {op["writes"], *(o for _, o in op["free"])}),
                           (w, {op["rows"], op["columns"]})):  # fmt: skip
            for axis in range(len(shapes[name])):
                if axis not in kept:
                    ties.fix(name, axis)
    elif op.kind == "Elementwise":
        if (
            not ties.trade
            and op["kind"] not in FOLLOWED
            and any(name in (y, *step.inputs) for name, _ in ties.classes)
        ):
            raise NotUnderstood(f"units behind or in front of {op['kind'][:40]!r}")
        ties.broadcast(step, [name for name in step.inputs if name])
    elif op.kind == "PerUnit":
        for axis in range(len(shapes[x])):
            ties.same((x, axis), (y, axis))
        for name in step.inputs[1:]:
            if name and shapes[name] not in ((), (1,)):
                ties.same((x, op["axis"]), (name, 0))
    elif op.kind == "Slicewise" and ties.trade and op["kind"] in UNORDERED:
        rank = len(shapes[x])
        for i, o in op["free"] if op["kind"] in REDUCTIONS else [(a, a) for a in range(rank)]:
            ties.same((x, i), (y, o))
        for name in filter(None, step.inputs[1:]):
            for axis, lead in enumerate(range(rank - len(shapes[name]), rank)):
                ties.same((x, lead), (name, axis))
    elif op.kind == "Slicewise":
        for i, o in op["free"]:
            ties.same((x, i), (y, o))
        for owner, name in zip(
            (*op["carried"], *[None] * len(step.inputs)), step.inputs[1:], strict=False
        ):
            if name and owner is not None:
                ties.same((x, owner), (name, 0))
            elif name:
                ties.fix(name)
        for name, kept in ((x, {i for i, _ in op["free"]}), (y, {o for _, o in op["free"]})):
            for axis in range(len(shapes[name])):
                if axis not in kept:
                    ties.fix(name, axis)
    elif op.kind == "Transpose":
        for axis, source in enumerate(op["order"]):
            ties.same((x, source), (y, axis))
    elif op.kind == "Reshape":
        _tie_reshape(op, x, y, ties)
    elif op.kind == "Contract":
        b = step.inputs[1]
        m, n = len(shapes[x]), len(shapes[b])
        ties.broadcast(step, step.inputs, 2)
        ties.same((x, m - 2), (y, len(shapes[y]) - 2))
        ties.same((b, n - 1), (y, len(shapes[y]) - 1))
        ties.same((x, m - 1), (b, n - 2))
    elif op.kind == "Concat":
        start = 0
        for name in step.inputs:
            for axis in range(len(shapes[y])):
                if axis != op["axis"]:
                    ties.same((name, axis), (y, axis))
            n = shapes[name][op["axis"]]
            if isinstance(n, int) and isinstance(shapes[y][op["axis"]], int):
                ties.pick((y, op["axis"]), (name, op["axis"]), range(start, start + n))
                start += n
            else:
                ties.fix(name, op["axis"])
                ties.fix(y, op["axis"])
    elif op.kind == "Take":
        for axis in range(len(shapes[x])):
            if axis != op["axis"]:
                ties.same((x, axis), (y, axis - (op["drop"] and axis > op["axis"])))
            elif not op["drop"]:
                ties.pick((x, axis), (y, axis), op["index"])
            elif (x, axis) in ties.classes:
                ties.join(ties.classes[x, axis][op["index"][0]], 0)
    elif op.kind == "Broadcast":
        ties.broadcast(step, [x])
        for name in step.inputs[1:]:
            ties.fix(name)
        for axis, n in enumerate(shapes[y]):
            back = axis - len(shapes[y])
            if isinstance(n, int) and (-back > len(shapes[x]) or shapes[x][back] != n):
                ties.fix(y, axis)
    elif op.kind == "Lookup":
        ids = step.inputs[1]
        ties.fix(x, op["axis"])
        for axis in range(len(shapes[x])):
            if axis != op["axis"]:
                ties.same((x, axis), (y, axis + (len(shapes[ids]) - 1) * (axis > op["axis"])))
        for axis in range(len(shapes[ids])):
            ties.same((ids, axis), (y, axis + op["axis"]))
    elif op.kind == "Size":
        for i, axis in () if ties.trade else op["axes"]:
            ties.fix(step.inputs[i], axis)
        ties.fix(y)
    elif op.kind == "Opaque":
        for name in filter(None, (*step.inputs, y)):
            ties.fix(name)
    else:
        raise NotUnderstood(f"the operator {op.kind}")


REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "mean", "sum",
              "amax", "amin"}  # fmt: skip
ROOT_MEAN_SQUARE = {"RMSNormalization", "rms_norm"}
NORMS = {"LayerNormalization", "layer_norm", *ROOT_MEAN_SQUARE}
UNORDERED = {"Softmax", "softmax", "LogSoftmax", "log_softmax", *NORMS, *REDUCTIONS}


def _tie_groups(step: Step, ties: Ties) -> None:
    """Groups of several channels: the same index of every group, or whole groups with all that they read and write."""
    op, (x, w), y = step.op, step.inputs[:2], step.output
    n, m = ties.graph.shapes[x][op["reads"]], ties.graph.shapes[w][op["rows"]]
    inner, outer = n // op["groups"], m // op["groups"]

    def repeats(labels: list[int], period: int) -> bool:
        alike = all(label == labels[i % period] for i, label in enumerate(labels))
        return 1 < period < len(labels) and alike and len(set(labels[:period])) > 1

    read, written = ties.labels((x, op["reads"])), ties.labels((y, op["writes"]))
    if ties.labels((w, op["columns"])) is not None or (read is not None and repeats(read, inner)):
        ties.pick((w, op["columns"]), (x, op["reads"]), [i % inner for i in range(n)])
        read = None
    if written is not None and repeats(written, outer):
        written = None
    if read is not None or written is not None:
        ties.pick((y, op["writes"]), (x, op["reads"]), [i // inner * outer for i in range(n)])
        ties.pick((y, op["writes"]), (y, op["writes"]), [i // outer * outer for i in range(m)])


def digits(shape: Shape, axes: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Stride and size of axes in the index of their entries."""
    found, stride = {}, 1
    for axis in reversed(axes):
        found[axis] = stride, shape[axis]
        stride *= shape[axis]
    return dict(reversed(found.items()))


def _tie_reshape(op: Op, x: str, y: str, ties: Ties) -> None:
    shapes = ties.graph.shapes
    for i, o in op["free"]:
        ties.same((x, i), (y, o))
    seen = {x: {i for i, _ in op["free"]}, y: {o for _, o in op["free"]}}
    for ins, outs in op["blocks"]:
        seen[x].update(ins)
        seen[y].update(outs)
        coarse, fine = digits(shapes[x], ins), digits(shapes[y], outs)
        for (name, own), (other, parts) in (((x, coarse), (y, fine)), ((y, fine), (x, coarse))):
            for axis, (stride, n) in own.items():
                if n == 1:
                    continue
                within = [(part, s, m) for part, (s, m) in parts.items()
                          if m > 1 and s % stride == 0 and (stride * n) % (s * m) == 0]  # fmt: skip
                around = [
                    part
                    for part, (s, m) in parts.items()
                    if stride % s == 0 and (s * m) % (stride * n) == 0
                ]
                if not within and not around:
                    ties.fix(name, axis)
                    continue
                labels = ties.labels((name, axis))
                chosen = [entry for entry in within if ties.labels((other, entry[0])) is not None]
                if labels is not None and not chosen and within:
                    alone = [(part, s, m) for part, s, m in within
                             if all(labels[i] == labels[i // (s // stride) % m * (s // stride)] for i in range(n))]  # fmt: skip
                    chosen = [(alone or within)[0]]
                for part, s, m in chosen:
                    ties.pick(
                        (other, part), (name, axis), [i // (s // stride) % m for i in range(n)]
                    )
    for name, axes in seen.items():
        for axis in range(len(shapes[name])):
            if axis not in axes:
                ties.fix(name, axis)


# Facts: slices that are constant, or multiples of each other; and between which ends their entries lie


class Fact(NamedTuple):
    """A slice is `ratio` times the tensor that `key` names, whose name is CONSTANT if all entries are 1."""

    key: Any
    ratio: Fraction = ONE
    low: Any = -INF
    high: Any = INF

    @property
    def constant(self) -> Fraction | None:
        return self.ratio if self.key == CONSTANT else ZERO if self.ratio == 0 else None


CONSTANT = "1"


def fact(key: Any, ratio: Fraction, low: Any = -INF, high: Any = INF) -> Fact:
    """A range of one number makes a constant, and a constant has a range."""
    if ratio == 0:
        key = CONSTANT
    if key == CONSTANT:
        return Fact(CONSTANT, ratio, ratio, ratio)
    if low == high:
        return Fact(CONSTANT, Fraction(low), low, high)
    return Fact(key, ratio, low, high)


class Known:
    """Facts of a graph, found when they are asked for."""

    def __init__(self, graph: Graph, ends: dict[str, Any]) -> None:
        self.graph, self.ends = graph, ends
        self.makers = {step.output: step for step in graph.steps}
        self.found: dict[tuple[str, int], list[Fact]] = {}

    def of(self, name: str, axis: int) -> list[Fact]:
        if (name, axis) not in self.found:
            n = self.graph.shapes[name][axis]
            facts_here = self._made(name, axis) if isinstance(n, int) else None
            plain = [Fact((name, axis, i)) for i in range(n if isinstance(n, int) else 0)]
            self.found[name, axis] = plain if facts_here is None else facts_here
        return self.found[name, axis]

    def _made(self, name: str, axis: int) -> list[Fact] | None:
        array = self.graph.value(name)
        if array is not None:
            return [self._stored(array, axis, i) for i in range(array.shape[axis])]
        if name in self.graph.inputs:
            return self._input(name, axis)
        step = self.makers[name]
        rule = {"Linear": self._linear, "Elementwise": self._elementwise, "PerUnit": self._batch_norm,
                "Slicewise": self._slicewise, "Transpose": self._turned, "Reshape": self._reshaped}  # fmt: skip
        return rule[step.op.kind](step, axis) if step.op.kind in rule else None

    def _stored(self, array: Tensor, axis: int, i: int) -> Fact:
        row = slice_of(array, axis, i)
        if not all(map(finite, row)) or not row:
            return Fact(object())
        if all(x == row[0] for x in row):
            return fact(CONSTANT, Fraction(row[0]))
        lead = next(Fraction(x) for x in row if x)
        key = (
            "stored",
            (*array.shape[:axis], *array.shape[axis + 1 :]),
            tuple(Fraction(x) / lead for x in row),
        )
        return Fact(key, lead, Fraction(min(row)), Fraction(max(row)))

    def _input(self, name: str, axis: int) -> list[Fact]:
        shape, found = self.graph.shapes[name], []
        for i in range(shape[axis]):
            low, high = -INF, INF
            if name in self.ends:
                low, high = (end.over(shape, axis, i) for end in self.ends[name])
            found.append(
                fact(
                    (name, axis, i),
                    ONE,
                    *(e if math.isinf(e) else Fraction(e) for e in (low, high)),
                )
            )
        return found

    def _linear(self, step: Step, axis: int) -> list[Fact] | None:
        op, x = step.op, step.inputs[0]
        source = [i for i, o in op["free"] if o == axis]
        if source:  # the same function of each slice, linear without a bias
            plain = len(step.inputs) < 3
            return [fact((step.output, axis, f.key, ONE if plain else f.ratio), f.ratio if plain else ONE)
                    if not (plain and f.ratio == 0) else fact(CONSTANT, ZERO) for f in self.of(x, source[0])]  # fmt: skip
        weight = self.graph.value(step.inputs[1])
        bias = self.graph.value(step.inputs[2]) if len(step.inputs) > 2 else None
        if axis != op["writes"] or weight is None or (len(step.inputs) > 2 and bias is None):
            return None
        if op["groups"] > 1 and weight.shape[op["columns"]] > 1:
            return None
        if not isinstance(self.graph.shapes[x][op["reads"]], int):
            return None
        read, found = self.of(x, op["reads"]), []
        for o in range(weight.shape[op["rows"]]):
            inside = (
                read if op["groups"] == 1 else [read[o * op["groups"] // weight.shape[op["rows"]]]]
            )
            of_one = None if op["groups"] == 1 else inside[0][:2]
            row = slice_of(weight, op["rows"], o)
            b = (
                Fraction(0 if bias is None else bias.data[o])
                if bias is None or finite(bias.data[o])
                else None
            )
            if b is None or not all(map(finite, row)):
                found.append(Fact(object()))
                continue
            taps = self._taps(weight, op, o)
            value: Fraction | None = b
            low: Any = b
            high: Any = b
            for column, f in zip(taps, inside, strict=True):
                if not any(column):
                    continue
                c = f.constant
                edge = op["padded"] or not op["uniform"]
                value = (
                    None
                    if value is None or c is None or (c and edge)
                    else value + c * sum(map(Fraction, column))
                )
                ends = (min(f.low, ZERO), max(f.high, ZERO)) if edge else (f.low, f.high)
                rise, fall = (
                    sum((Fraction(t) for t in column if way * t > 0), ZERO) for way in (1, -1)
                )
                low, high = (
                    _plus(low, _product(rise, ends[0]), _product(fall, ends[1])),
                    _plus(high, _product(rise, ends[1]), _product(fall, ends[0])),
                )
            whole_row = [*map(Fraction, row), b]
            lead = next((q for q in whole_row if q), ZERO)
            key = (step.output, of_one, tuple(q / lead for q in whole_row)) if lead else CONSTANT
            found.append(
                fact(CONSTANT, value) if value is not None else fact(key, lead or ONE, low, high)
            )
        return found

    @staticmethod
    def _taps(weight: Tensor, op: Op, o: int) -> list[list[float]]:
        """Of a row: for each column its taps."""
        row = Tensor(
            tuple(n for a, n in enumerate(weight.shape) if a != op["rows"]),
            slice_of(weight, op["rows"], o),
        )
        axis = op["columns"] - (op["columns"] > op["rows"])
        return [slice_of(row, axis, i) for i in range(row.shape[axis])]

    def _aligned(self, name: str, back: int, whole_shape: Shape) -> list[Fact]:
        """An operand along an axis of an output, counted from the end."""
        shape, n = self.graph.shapes[name], whole_shape[back]
        size = shape[back] if -back <= len(shape) else 1
        if size == n and n != 1:
            own = (*shape[: len(shape) + back], *shape[len(shape) + back + 1 :])
            rest = (
                *whole_shape[: len(whole_shape) + back],
                *whole_shape[len(whole_shape) + back + 1 :],
            )
            found = self.of(name, len(shape) + back)
            return found if own == rest else [_renamed(f, ("spread", own, rest)) for f in found]
        if size != 1:
            return [Fact(object()) for _ in range(n)]
        array = self.graph.value(name)
        if (
            array is not None
            and len(array.data)
            and all(x == array.data[0] for x in array.data)
            and finite(array.data[0])
        ):
            return [fact(CONSTANT, Fraction(array.data[0]))] * n
        return [Fact(("whole", name, back))] * n

    def _elementwise(self, step: Step, axis: int) -> list[Fact] | None:
        op, shape = step.op, self.graph.shapes[step.output]
        kind, numbers_of = op["kind"], op["numbers"]
        parts = [self._aligned(name, axis - len(shape), shape) for name in step.inputs]
        if kind == "identity" and len(parts) == 1:
            return parts[0]
        found = []
        for some in zip(*parts, strict=True):
            key, ratio = _combined(step, axis, kind, numbers_of, some)
            ends = _range_of(kind, numbers_of, some)
            if kind == "relu" and some[0].low >= 0:
                key, ratio = some[0].key, some[0].ratio
            found.append(fact(key, ratio, *ends))
        return found

    def _batch_norm(self, step: Step, axis: int) -> list[Fact] | None:
        op, x = step.op, step.inputs[0]
        arrays = [self.graph.value(name) for name in step.inputs[1:]]
        if (
            op["kind"] != "batchnorm"
            or axis != op["axis"]
            or len(arrays) != 4
            or any(a is None for a in arrays)
        ):
            return None
        found = []
        for i, f in enumerate(self.of(x, axis)):
            row = [a.data[i] for a in arrays if a is not None]
            square = (
                Fraction(row[3]) + Fraction(op["numbers"][0]) if all(map(finite, row)) else ZERO
            )
            if square <= 0:
                found.append(Fact(object()))
                continue
            g, b, m, v = map(Fraction, row)
            if g == 0 or f.constant == m:
                found.append(fact(CONSTANT, b))
                continue
            # g (r t - m) / s + b = r g ((t - m / r) / s + b / (r g))
            r = f.ratio or ONE
            key = "norm", step.output, f.key if f.ratio else CONSTANT + "0", m / r, v, b / (r * g)
            rate = root_between(1 / square)
            ends = [_plus(b, _product(g * s, _plus(e, -m))) for s in rate for e in (f.low, f.high)]
            found.append(fact(key, r * g, min(ends), max(ends)))
        return found

    def _slicewise(self, step: Step, axis: int) -> list[Fact] | None:
        op, found = step.op, []
        source = [i for i, o in op["free"] if o == axis]
        if not source or len(step.inputs) > 1:
            return None
        for f in self.of(step.inputs[0], source[0]):
            c = f.constant
            low, high = (f.low, f.high) if op["hull"] else (-INF, INF)
            if op["padded"]:
                low, high = min(low, ZERO), max(high, ZERO)
            if c is not None and (op["keeps"] or (c == 0 and (op["zero"] or op["linear"]))):
                found.append(fact(CONSTANT, c))
            elif op["linear"]:
                found.append(fact((step.output, axis, f.key), f.ratio, low, high))
            elif op["homogeneous"] and f.ratio:
                found.append(
                    fact(
                        (step.output, axis, f.key, "up" if f.ratio > 0 else "down"),
                        abs(f.ratio),
                        low,
                        high,
                    )
                )
            else:
                found.append(fact((step.output, axis, f.key, f.ratio), ONE, low, high))
        return found

    def _turned(self, step: Step, axis: int) -> list[Fact]:
        order = step.op["order"]
        rest = [source for source in order if source != order[axis]]
        found = self.of(step.inputs[0], order[axis])
        return (
            found if rest == sorted(rest) else [_renamed(f, ("turned", tuple(rest))) for f in found]
        )

    def _reshaped(self, step: Step, axis: int) -> list[Fact] | None:
        op, x, y = step.op, step.inputs[0], step.output
        for i, o in op["free"]:
            if o == axis:
                return [_renamed(f, ("reshaped", y, axis)) for f in self.of(x, i)]
        shapes = self.graph.shapes
        for ins, outs in op["blocks"]:
            if axis not in outs:
                continue
            stride, n = digits(shapes[y], outs)[axis]
            for other, (s, m) in digits(shapes[x], ins).items():
                if m > 1 and s % stride == 0 and (stride * n) % (s * m) == 0:
                    size, part = s // stride, self.of(x, other)
                    found = []
                    for k in range(n):
                        f = part[k // size % m]
                        rest = k - k // size % m * size
                        key = CONSTANT if f.key == CONSTANT else (y, axis, other, f.key, rest)
                        found.append(fact(key, f.ratio, f.low, f.high))
                    return found
        return None


def _renamed(f: Fact, how: Any) -> Fact:
    """Entries that are in another place, or repeated, alike for all: another tensor."""
    return f if f.key == CONSTANT else f._replace(key=(how, f.key))


def _plus(*ends: Any) -> Any:
    """Of ends that may be infinite, none in two ways at once."""
    endless = [e for e in ends if not finite(e)]
    return endless[0] if endless else sum(ends, ZERO)


def _product(factor: Fraction, end: Any) -> Any:
    if factor == 0:
        return ZERO
    return factor * end if finite(end) else (end if factor > 0 else -end)


def root_between(q: Fraction) -> Interval:
    """The square root of a positive rational."""
    shift = max(0, q.denominator.bit_length() - q.numerator.bit_length()) + 200
    near = math.isqrt((q.numerator << 2 * shift) // q.denominator)
    return Fraction(near, 1 << shift), Fraction(near + 1, 1 << shift)


def _entry(kind: str, numbers_of: Any) -> Activation | None:
    """A function of one entry that has facts of its own."""
    if kind in (
        "relu",
        "abs",
        "tanh",
        "sigmoid",
        "erf",
        "sin",
        "softplus",
        "gelu",
        "gelu_tanh",
        "silu",
        "mish",
        "hardswish",
    ):
        return Activation(kind)
    if kind in ("leaky_relu", "elu") and len(numbers_of) == 1:
        return (
            Activation(kind, tuple(numbers_of)) if kind == "leaky_relu" or numbers_of[0] else None
        )
    if (
        kind == "clip"
        and len(numbers_of) == 2
        and all(map(finite, numbers_of))
        and numbers_of[0] < numbers_of[1]
    ):
        return Activation("clip", tuple(numbers_of))
    return None


def _combined(
    step: Step, axis: int, kind: str, numbers_of: Any, some: tuple[Fact, ...]
) -> tuple[Any, Fraction]:
    """Name and ratio of a function of slices, each an identity of real numbers."""
    made: Any
    if len(some) == 1:
        (f,) = some
        s, c = _entry(kind, numbers_of), f.constant
        exact_value = (
            None
            if c is None
            else -c
            if kind == "neg"
            else rational_value(s, c)
            if s is not None
            else None
        )
        if exact_value is not None:
            return CONSTANT, exact_value
        if kind == "neg":
            return (step.output, axis, f.key), f.ratio
        rule = None if s is None else facts(s)
        if rule is not None and rule.slopes is not None and f.ratio:  # s(r t) = |r| s(sign(r) t)
            return (step.output, axis, f.key, "up" if f.ratio > 0 else "down"), abs(f.ratio)
        if rule is not None and rule.law == ODD and f.ratio:
            return (step.output, axis, f.key, abs(f.ratio)), ONE if f.ratio > 0 else -ONE
        return (step.output, axis, f.key, f.ratio), ONE
    if len(some) == 2 and kind == "div" and some[1].key == CONSTANT and some[1].ratio:
        return some[0].key, some[0].ratio / some[1].ratio
    if len(some) == 2 and kind in ("add", "sub", "mul"):
        a, b = some
        r, t = a.ratio, b.ratio if kind != "sub" else -b.ratio
        if kind == "mul":
            if r == 0 or t == 0:
                return CONSTANT, ZERO
            if CONSTANT in (a.key, b.key):
                return (b.key if a.key == CONSTANT else a.key), r * t
            made = (step.output, axis, "mul", a.key, b.key)
            return made, r * t
        if r == 0:
            return b.key, t
        if t == 0:
            return a.key, r
        if a.key == b.key:
            return a.key, r + t
        return (step.output, axis, "add", a.key, b.key, t / r), r
    return (step.output, axis, kind, tuple((f.key, f.ratio) for f in some)), ONE


def _range_of(kind: str, numbers_of: Any, some: tuple[Fact, ...]) -> tuple[Any, Any]:
    if len(some) == 1:
        (f,) = some
        s = _entry(kind, numbers_of)
        return (
            (-f.high, -f.low)
            if kind == "neg"
            else image(s, f.low, f.high)
            if s is not None
            else (-INF, INF)
        )
    if len(some) == 2 and kind == "div" and some[1].key == CONSTANT and some[1].ratio:
        ends = [_product(1 / some[1].ratio, e) for e in some[0][2:]]
        return min(ends), max(ends)
    if len(some) == 2 and kind in ("add", "sub", "mul", "max", "min"):
        a, b = some
        if kind == "add":
            return _plus(a.low, b.low), _plus(a.high, b.high)
        if kind == "sub":
            return _plus(a.low, -b.high), _plus(a.high, -b.low)
        if kind == "max":
            return max(a.low, b.low), max(a.high, b.high)
        if kind == "min":
            return min(a.low, b.low), min(a.high, b.high)
        ends = [ZERO if not p or not q else p * q for p in (a.low, a.high) for q in (b.low, b.high)]
        return min(ends), max(ends)
    return -INF, INF


class Ends(NamedTuple):
    """One end of the bounds of an input, an array that broadcasts against it."""

    shape: tuple[int, ...]
    data: list[float]
    pick: Any

    def over(self, shape: Shape, axis: int, i: int) -> float:
        """The least (largest) at an index of an axis."""
        back = axis - len(shape)
        if -back <= len(self.shape) and self.shape[back] == shape[axis]:
            return float(
                self.pick(slice_of(Tensor(self.shape, self.data), len(self.shape) + back, i))
            )
        return float(self.pick(self.data))


def _steps(shape: Sequence[int]) -> list[int]:
    """By how much entries are apart in a flat array that is broadcast."""
    return [0 if n == 1 else step for n, step in zip(shape, strides(shape), strict=True)]


def ends_of_input(data: Any) -> tuple[Ends, Ends]:
    demand(type(data) is list and len(data) == 2, "bounds of an input are two arrays")
    found = []
    for end, pick in zip(data, (min, max), strict=True):
        shape, flat = list[int](), [end]
        while flat and type(flat[0]) is list:
            demand(
                all(type(x) is list and len(x) == len(flat[0]) for x in flat) and len(shape) < 32,
                "bounds are no array",
            )
            shape.append(len(flat[0]))
            flat = [x for part in flat for x in part]
        found.append(Ends(tuple(shape), [real(x, "a bound of an input") for x in flat], pick))
    low, high = found
    rank = max(len(low.shape), len(high.shape))
    full = []
    for axis in range(-rank, 0):
        sizes = {x.shape[axis] for x in found if -axis <= len(x.shape)} - {1}
        demand(len(sizes) < 2, "bounds of an input do not fit each other")
        full.append(sizes.pop() if sizes else 1)
    demand(
        math.prod(full) <= MAX_NUMBERS and 0 not in full,
        "bounds of an input are too large, or empty",
    )
    for at in places_of(full):
        p, q = (
            x.data[
                sum(
                    i * step
                    for i, step in zip(at[rank - len(x.shape) :], _steps(x.shape), strict=True)
                )
            ]
            for x in found
        )
        demand(p <= q, "a lower bound of an input is above the upper one")
    return low, high


# Moves of graphs


class GraphMove(NamedTuple):
    kind: str
    tensor: str
    axis: int
    units: list[int]
    into: list[int]
    values: dict[tuple[str, int], Fraction]
    coefficients: list[float]
    powers: dict[tuple[str, int], int]

    def __str__(self) -> str:
        return f"{self.kind} of {', '.join(map(str, self.units[:4]))} along axis {self.axis} of {self.tensor[:40]!r}"


GRAPH_KINDS = {"remove": ("axis", "units", "into", "values"), "bypass": (), "combine": ("units", "into", "coefficients"),
               "order": ("axis", "units"), "scale": ("axis", "units", "coefficients", "powers"),
               "unroll": ("axis",), "bound": ("axis", "units", "depth")}  # fmt: skip


def graph_move_of(data: Any) -> GraphMove:
    kind = data.get("move") if type(data) is dict else None
    if type(kind) is not str or kind not in GRAPH_KINDS:
        raise Rejected(f"there is no move like {str(data)[:60]}")
    read = record(data, ("move", "tensor", *GRAPH_KINDS[kind]), f"a {kind}")
    demand(type(read["tensor"]) is str, "a tensor is named by text")
    axis = whole(read.get("axis", 0), 0, 32, "axis")
    units = [whole(u, 0, 2**31, "a unit") for u in listed(read.get("units", []), "units")]
    into = [whole(u, -1, 2**31, "a unit") for u in listed(read.get("into", []), "into")]
    coefficients = [
        real(x, "a coefficient") for x in listed(read.get("coefficients", []), "coefficients")
    ]
    values = dict[tuple[str, int], Fraction]()
    for name, column, value in _triples(read.get("values", []), "values", 2**31):
        demand((name, column) not in values, "a column has two values")
        values[name, column] = Fraction(real(value, "a value"))
    powers = dict[tuple[str, int], int]()
    for name, place, power in _triples(read.get("powers", []), "powers", 32):
        demand((name, place) not in powers, "an axis has two powers")
        powers[name, place] = whole(power, -64, 64, "a power")
    return GraphMove(kind, read["tensor"], axis, units, into, values, coefficients, powers)


def _triples(data: Any, what: str, most: int) -> Iterator[tuple[str, int, Any]]:
    """Of a tensor, a whole number and another."""
    for three in listed(data, what):
        demand(
            type(three) is list and len(three) == 3 and type(three[0]) is str,
            f"{what} are lists of a tensor and two numbers",
        )
        yield three[0], whole(three[1], 0, most, what), three[2]


def remove(
    graph: Graph, ends: dict[str, Any], move: GraphMove
) -> tuple[Graph, dict[str, list[Any]]]:
    """The graph without some units, and what numbers that it stores are away from those they stand for."""
    ties = Ties(graph, (move.tensor, move.axis))
    places = ties.units()
    own = places[move.tensor, move.axis]
    n = len(own)
    fits = len(move.units) == len(move.into) and len(set(move.units)) == len(move.units)
    demand(
        fits and all(u < n for u in (*move.units, *move.into)),
        "units and what they go into do not match",
    )
    gone = {own[u]: None if t < 0 else own[t] for u, t in zip(move.units, move.into, strict=True)}
    targets = {t for t in gone.values() if t is not None}
    demand(
        gone and len(gone) == len(move.units) and -1 not in gone and -1 not in targets,
        "a unit stays, or is named twice",
    )
    demand(not targets & set(gone), "a unit is merged into one that goes")
    kept = {}
    for place, labels in places.items():
        rest = [i for i, u in enumerate(labels) if u not in gone]
        demand(rest, f"nothing is left of axis {place[1]} of {place[0][:40]!r}")
        if len(rest) < len(labels):
            kept[place] = rest
    touched = {name for name, _ in kept}
    for step in graph.steps:
        several = (
            step.op.kind == "Linear"
            and step.op["groups"] > 1
            and graph.shapes[step.inputs[1]][step.op["columns"]] > 1
        )
        if (several or step.op.kind in BEYOND) and touched & {*step.inputs, step.output}:
            raise NotUnderstood(
                f"units that go at {step.op.kind}, or at groups of several channels"
            )
    known, changes = Known(graph, ends), dict[str, dict[str, list[Any]]]()
    for step in graph.steps:
        if step.op.kind == "Linear":
            _absorb(graph, known, step, places, gone, move.values, changes)
    lost: dict[str, list[Fraction]] = {}
    stored = dict(graph.stored)
    for name, by_node in changes.items():
        asked = list(by_node.values())
        uses = sum(step.inputs.count(name) for step in graph.steps) + graph.outputs.count(name)
        alike = all(other == asked[0] for other in asked)
        demand(
            alike and len(asked) == uses,
            f"{name[:40]!r} is read by several nodes, which need different changes",
        )
        stored[name], off = _changed(stored[name], asked[0])
        if any(off):
            lost[name] = off
    return _restricted(graph._replace(stored=stored), kept, lost)


BEYOND = {"Contract", "Concat", "Take", "Broadcast", "Lookup", "Size", "Opaque"}


class Addition(NamedTuple):
    """`factor` times `taps[i]` is added to the number that stands at `at[i]`: to a column, or to a bias, which is away by
    the sum of sizes of taps times `width` then.
    """

    at: list[int]
    taps: list[list[Any]]
    factor: Fraction
    column: bool
    width: Fraction = ZERO


def _changed(array_now: Tensor, additions: list[Addition]) -> tuple[Tensor, list[Fraction]]:
    """What is stored after additions, and what it is away. Doubles are added one after another; what goes into a bias is
    added exactly where anything was rounded and there are at most 64 additions.
    """
    demand(len({add.column for add in additions}) == 1, "a stored tensor is read in two ways")
    exact, doubles = [Fraction(x) for x in array_now.data], [float(x) for x in array_now.data]
    width = [ZERO] * len(exact)
    for add in additions:
        factor = as_double(add.factor)
        for at, taps in zip(add.at, add.taps, strict=True):
            for tap in taps:
                exact[at] += add.factor * Fraction(tap)
                doubles[at] += float(tap) * factor
                width[at] += add.width * abs(Fraction(tap))
    demand(all(map(math.isfinite, doubles)), "a number is beyond what floats hold")
    rounded = any(Fraction(x) != q for x, q in zip(doubles, exact, strict=True))
    if rounded and not additions[0].column and len(additions) <= 64:
        doubles = list(map(as_double, exact))
    data = list(array_now.data)
    for at in {at for add in additions for at in add.at}:
        data[at] = in_type(doubles[at], array_now.dtype)
    off = [abs(Fraction(x) - q) + w for x, q, w in zip(data, exact, width, strict=True)]
    return array_now._replace(data=data), off


def as_double(q: Fraction) -> float:
    try:
        return float(q)
    except OverflowError:
        raise Rejected("a number is beyond what floats hold") from None


def in_type(x: float, dtype: str) -> float:
    """The nearest number of a type."""
    demand(dtype in ("float64", "float32", "float16"), f"a number of type {dtype} changes")
    code = CODES[dtype]
    try:
        found = float(struct.unpack(f"<{code}", struct.pack(f"<{code}", x))[0])
    except OverflowError:
        found = INF
    demand(math.isfinite(found), f"a number is beyond what {dtype} holds")
    return found


def _absorb(
    graph: Graph,
    known: Known,
    step: Step,
    places: Any,
    gone: dict[int, int | None],
    values: dict[tuple[str, int], Fraction],
    changes: Any,
) -> None:
    """The columns of units that go, at one layer: nothing, a constant, or a multiple of what stays."""
    op, (x, w) = step.op, step.inputs[:2]
    columns, read = places.get((w, op["columns"])), places.get((x, op["reads"]))
    if columns is None or read is None:
        return
    if w not in graph.stored:
        raise NotUnderstood("weights that are turned before they are read")
    weight, inside = graph.stored[w], known.of(x, op["reads"])
    for column in [i for i, u in enumerate(columns) if u in gone]:
        taps = slice_of(weight, op["columns"], column)
        f, unit = inside[column], columns[column]
        if not any(taps):
            continue
        demand(all(map(finite, taps)), "a weight is no number")
        given, c = values.get((step.output, column)), f.constant
        if given is None and c == 0:
            continue
        if _unread(graph, step, weight, column):
            raise NotUnderstood("what is multiplied by zero behind a layer")
        if given is not None:
            edge = op["padded"] or not op["uniform"]
            demand(
                op["groups"] == 1 and not (edge and given),
                "a number for what is continued by zeros, or in groups",
            )
            if not (finite(f.low) and finite(f.high)):
                raise NotUnderstood(
                    f"what {step.output[:40]!r} reads of unit {unit}, of which no bounds are known here"
                )
            width = max(Fraction(f.high) - given, given - Fraction(f.low))
            _shift(graph, step, weight, op, column, given, changes, width)
            continue
        if c is not None and op["uniform"] and not op["padded"]:
            _shift(graph, step, weight, op, column, c, changes)
            continue
        target = gone[unit]
        if target is None:
            if _meets_zeros(graph, step.output):
                raise NotUnderstood(
                    f"what {step.output[:40]!r} reads of unit {unit}, which is not constant there"
                )
            _refuse(graph, f"{step.output[:40]!r} reads unit {unit}, which is not constant there")
        position = [i for i, u in enumerate(columns) if u == unit].index(column)
        others = [i for i, u in enumerate(columns) if u == target]
        demand(position < len(others), f"units {unit} and {target} have different sizes")
        other = inside[others[position]]
        if not (f.key == other.key and other.ratio and f.ratio):
            _refuse(
                graph,
                f"{step.output[:40]!r} reads unit {unit}, which is no multiple of unit {target}",
            )
        at = index_of(weight.shape, op["columns"], others[position])
        more = Addition(at, [[tap] for tap in taps], f.ratio / other.ratio, True)
        changes.setdefault(w, {}).setdefault(step.output, []).append(more)


def _refuse(graph: Graph, why: str) -> NoReturn:
    """Reject, but where stored integers are scaled: of the numbers that come out nothing is known here."""
    scaled = [step for step in graph.steps if step.op.kind == "PerUnit"]
    if any(step.op["kind"] in ("dequantise", "quantise") for step in scaled):
        raise NotUnderstood(why)
    raise Rejected(why)


def _meets_zeros(graph: Graph, name: str) -> bool:
    """Whether a reader has zeros of its own, by which some of a value may be lost."""
    found = [
        other
        for other in graph.steps
        if name in other.inputs and other.op.kind in ("PerUnit", "Elementwise")
    ]
    held = [graph.value(x) for other in found for x in other.inputs]
    return any(0 in array.data for array in held if array is not None)


def _unread(graph: Graph, step: Step, weight: Tensor, column: int) -> bool:
    """Whether a reader may multiply by zero all that a layer makes of a column: this is not followed here."""
    taps = [any(row) for row in _rows(step.op, weight, column)]
    for other in (other for other in graph.steps if step.output in other.inputs):
        normalises = other.op.kind == "PerUnit" and other.op["kind"] == "batchnorm"
        multiplies = other.op.kind == "Elementwise" and other.op["kind"] == "mul"
        for name in other.inputs[1:2] if normalises else other.inputs if multiplies else ():
            held = graph.value(name)
            factors = [1] if held is None else held.data
            if len(factors) != len(taps):
                factors = [0 if 0 in factors else 1] * len(taps)
            if not any(tap and factor for tap, factor in zip(taps, factors, strict=True)):
                return True
    return False


def _rows(op: Op, weight: Tensor, column: int) -> list[list[Any]]:
    """The taps of a column, for each row."""
    axis = op["rows"] - (op["rows"] > op["columns"])
    shape = tuple(n for a, n in enumerate(weight.shape) if a != op["columns"])
    part = Tensor(shape, slice_of(weight, op["columns"], column))
    return [slice_of(part, axis, o) for o in range(shape[axis])]


def index_of(shape: Sequence[int], axis: int, i: int) -> list[int]:
    """Where the entries at an index of an axis stand."""
    inner, n = math.prod(shape[axis + 1 :]), shape[axis]
    return [
        k
        for start in range(i * inner, math.prod(shape), n * inner)
        for k in range(start, start + inner)
    ]


def _shift(
    graph: Graph,
    step: Step,
    weight: Tensor,
    op: Op,
    column: int,
    c: Fraction,
    changes: Any,
    width: Fraction = ZERO,
) -> None:
    """A constant times the sum of taps goes into the bias, or into what alone reads the layer."""
    taps = _rows(op, weight, column)
    name, sign = _sink(graph, step, op)
    more = Addition(list(range(len(taps))), taps, sign * c, False, width)
    changes.setdefault(name, {}).setdefault(step.output, []).append(more)


def _sink(graph: Graph, step: Step, op: Op) -> tuple[str, int]:
    if len(step.inputs) > 2 and step.inputs[2] in graph.stored:
        return step.inputs[2], 1
    readers = [other for other in graph.steps if step.output in other.inputs]
    shape = graph.shapes[step.output]
    if len(readers) == 1 and step.output not in graph.outputs:
        (reader,) = readers
        norm = (
            reader.op.kind == "PerUnit"
            and reader.op["kind"] == "batchnorm"
            and reader.op["axis"] == op["writes"]
        )
        if norm and reader.inputs[0] == step.output and reader.inputs[3] in graph.stored:
            return reader.inputs[3], -1
        if (
            reader.op.kind == "Elementwise"
            and reader.op["kind"] in ("add", "sub")
            and len(set(reader.inputs)) == 2
        ):
            other = next(x for x in reader.inputs if x != step.output)
            held, back = graph.stored.get(other), len(shape) - op["writes"]
            n = shape[op["writes"]]
            if (
                held is not None
                and len(held.data) == n
                and len(held.shape) >= back
                and held.shape[-back] == n
            ):
                return other, -1 if reader.op["kind"] == "sub" else 1
    raise Rejected(f"{step.output[:40]!r} has no bias that could take a constant")


def _restricted(
    graph: Graph, kept: dict[tuple[str, int], list[int]], lost: dict[str, list[Any]]
) -> tuple[Graph, dict[str, list[Any]]]:
    shapes, stored = dict(graph.shapes), dict(graph.stored)
    for (name, axis), stay in kept.items():
        shapes[name] = (*shapes[name][:axis], len(stay), *shapes[name][axis + 1 :])
        if name in lost:
            lost[name] = list(taken(stored[name]._replace(data=lost[name]), axis, stay).data)
        if name in stored:
            stored[name] = taken(stored[name], axis, stay)
    steps = []
    for step in graph.steps:
        op = step.op
        left_here = (
            kept.get((step.output, op["writes"]))
            if op.kind == "Linear" and op["groups"] > 1
            else None
        )
        if left_here is not None:
            each = graph.shapes[step.inputs[1]][op["rows"]] // op["groups"]
            whole_groups = [i for i in left_here if i % each == 0]
            demand(
                left_here == [i + k for i in whole_groups for k in range(each)],
                "a group would lose some of its channels",
            )
            op = Op(
                "Linear", tuple((k, len(whole_groups) if k == "groups" else v) for k, v in op.given)
            )
        if op.kind == "Reshape":
            sizes = tuple(
                n if n is None else shapes[step.output][a] for a, n in enumerate(op["sizes"])
            )
            op = Op("Reshape", tuple((k, sizes if k == "sizes" else v) for k, v in op.given))
        steps.append(step._replace(op=op))
    return graph._replace(steps=tuple(steps), shapes=shapes, stored=stored), lost


def bypass(graph: Graph, move: GraphMove) -> Graph:
    """The readers of a node read an input that it gives unchanged."""
    step = next((s for s in graph.steps if s.output == move.tensor), None)
    if step is None or move.tensor in graph.outputs:
        raise Rejected("no node gives it, or it is an output")
    source, kind = None, step.op["kind"] if step.op.kind == "Elementwise" else ""
    if kind in ("add", "sub", "mul", "div") and len(step.inputs) == 2:
        a, b = step.inputs
        for x, other in [(a, b)] if kind in ("sub", "div") else [(a, b), (b, a)]:
            held, neutral = graph.value(other), 0 if kind in ("add", "sub") else 1
            plain = held is not None and len(held.data) > 0 and all(v == neutral for v in held.data)
            if plain and graph.value(x) is None and graph.shapes[x] == graph.shapes[step.output]:
                source = x
                break
    if source is None:
        raise NotUnderstood(f"why {move.tensor[:40]!r} may be passed by")
    steps = [
        s._replace(inputs=tuple(source if x == move.tensor else x for x in s.inputs))
        for s in graph.steps
        if s is not step
    ]
    return graph._replace(steps=tuple(steps))


# Units between two layers that are sums of others


def without_sums(
    graph: Graph, move: GraphMove, ends: dict[str, Any]
) -> tuple[Graph, dict[str, list[Fraction]], Pair]:
    """The graph without units that are sums of others, what its numbers are away, and what the rows that were no sums
    did: y_i = sum c_ij y_j for every input where row i is such a sum, bias included, and the layers behind are linear.
    """
    writer = next((step for step in graph.steps if step.output == move.tensor), None)
    if writer is None or writer.op.kind != "Linear" or writer.op["groups"] > 1:
        raise Rejected("it is not what a layer gives")
    axis, name = writer.op["writes"], move.tensor
    shape = graph.shapes[name]
    n, kept = shape[axis], dict[tuple[str, int], list[int]]()
    weight, biases, passed = writer.inputs[1], [(x, 0) for x in writer.inputs[2:]], [name]
    while True:
        readers = [step for step in graph.steps if name in step.inputs]
        once = all(step.inputs.count(name) == 1 for step in readers)
        demand(readers and once and name not in graph.outputs, "it is not between two layers")
        if len(readers) > 1 or readers[0].op.kind != "Elementwise":
            break
        (step,) = readers
        sums = step.op["kind"] == "add" and len(step.inputs) == 2
        other = next((x for x in step.inputs if x != name), "")
        demand(sums and other in graph.stored, "what is between two layers is no sum")
        held = graph.stored[other].shape
        back = axis - len(shape)
        fits = len(held) >= -back and held[back] == n == math.prod(held)
        demand(fits and graph.shapes[step.output] == shape, "a sum has no number for each unit")
        biases.append((other, len(held) + back))
        name = step.output
        passed.append(name)
    for step in readers:
        plain = step.op.kind == "Linear" and step.op["groups"] == 1 and step.inputs[0] == name
        demand(plain and step.op["reads"] == axis, "what reads the units is no layer along them")
    columns = [(step.inputs[1], step.op["columns"]) for step in readers]
    own = [weight, *(x for x, _ in biases), *(x for x, _ in columns)]
    reads = [x for step in graph.steps for x in step.inputs] + list(graph.outputs)
    if any(x not in graph.stored or reads.count(x) > 1 for x in own):
        raise NotUnderstood("weights that are turned, or read elsewhere as well")
    demand(
        all(finite(v) for x in own for v in graph.stored[x].data),
        "a stored number between the layers is none",
    )
    gone, stay, c = move.units, move.into, move.coefficients
    both = [*gone, *stay]
    demand(
        gone and len(set(both)) == len(both) and all(0 <= u < n for u in both) and len(gone) < n,
        "units and what they are sums of do not match",
    )
    demand(len(c) == len(gone) * len(stay), "coefficients are a number for each pair of units")
    c_of = [list(map(Fraction, c[k * len(stay) : (k + 1) * len(stay)])) for k in range(len(gone))]

    rows = dict[str, list[Fraction]]()
    for x, along in [(weight, writer.op["rows"]), *biases]:
        array_now = graph.stored[x]
        off = [ZERO] * len(array_now.data)
        parts = [list(map(Fraction, slice_of(array_now, along, j))) for j in stay]
        for i, numbers in zip(gone, c_of, strict=True):
            for k, at in enumerate(index_of(array_now.shape, along, i)):
                whole_sum = sum((q * part[k] for q, part in zip(numbers, parts, strict=True)), ZERO)
                off[at] = abs(Fraction(array_now.data[at]) - whole_sum)
        rows[x] = off
        kept[x, along] = [i for i in range(n) if i not in set(gone)]
    before = _gap(graph, rows, ends)

    stored, lost = dict(graph.stored), dict[str, list[Fraction]]()
    for x, along in columns:
        array_now = graph.stored[x]
        data, off = list(array_now.data), [ZERO] * len(array_now.data)
        taps = [slice_of(array_now, along, i) for i in gone]
        for l, j in enumerate(stay):
            for k, at in enumerate(index_of(array_now.shape, along, j)):
                double, exact = float(array_now.data[at]), Fraction(array_now.data[at])
                for numbers, tap in zip(c_of, taps, strict=True):  # one after another, in doubles
                    double += float(numbers[l]) * tap[k]
                    exact += numbers[l] * Fraction(tap[k])
                demand(math.isfinite(double), "a number is beyond what floats hold")
                data[at] = in_type(double, array_now.dtype)
                off[at] = abs(Fraction(data[at]) - exact)
        stored[x], lost[x] = array_now._replace(data=data), off
        kept[x, along] = [i for i in range(n) if i not in set(gone)]
    for x in passed:
        kept[x, axis] = [i for i in range(n) if i not in set(gone)]
    lost = {x: off for x, off in lost.items() if any(off)}
    return *_restricted(graph._replace(stored=stored), kept, lost), before


# Units that trade places, or are multiplied by numbers

Place = tuple[str, int]


def trade(graph: Graph, moves: list[GraphMove]) -> tuple[Graph, dict[str, list[Fraction]]]:
    """The graph after orders, or scales, of its units, and what its numbers are away. Whether outputs stay as they are
    is asked of the graph that is cut, which stores the same.
    """
    cuts = [move for move in moves if move.kind == "unroll"]
    rest = [move for move in moves if move.kind != "unroll"]
    kinds = {move.kind for move in rest}
    demand(kinds <= {"order"} or kinds <= {"scale"}, "orders, or scales, are with other moves")
    for move in cuts:
        shape = graph.shapes.get(move.tensor, ())
        demand(
            move.axis < len(shape) and isinstance(shape[move.axis], int),
            "there is no such axis of known size",
        )
    places = [(move.tensor, move.axis) for move in cuts]
    demand(len({name for name, _ in places}) == len(places), "a tensor is cut along two axes")
    now, lost = unroll(graph, dict(places)) if cuts else graph, dict[str, list[Fraction]]()
    if cuts:
        require_shapes(now)
    if kinds == {"order"}:
        for move in rest:
            try:
                now = order(now, move)
            except Rejected as error:
                raise Rejected(f"{move}: {error}") from None
    else:
        now, lost = scale(now, rest)
    return graph._replace(stored={name: now.stored[name] for name in graph.stored}), lost


def _require_ends(graph: Graph, changed: Iterable[Place]) -> set[str]:
    touched = {name for name, _ in changed}
    demand(
        not touched & {*graph.inputs, *graph.outputs},
        "an input or output of the graph would change",
    )
    return touched


def _require(step: Step, holds: Callable[..., bool], *given: Any) -> None:
    """That a node commutes; one whose axes do not fit each other does not."""
    try:
        fits = holds(*given)
    except (IndexError, KeyError, ValueError):
        fits = False
    demand(fits, f"{step.output[:40]!r} does not commute with what is done to the units")


def order(graph: Graph, move: GraphMove) -> Graph:
    """The graph whose tensors are t'[i] = t[index[i]] along some axes: stored ones are, inputs and outputs are not, and
    where each node gives such a tensor from such tensors outputs are what they were.
    """
    places = Ties(graph, (move.tensor, move.axis), trade=True).units()
    own = places[move.tensor, move.axis]
    demand(all(u < len(own) for u in move.units), f"the axis has {len(own)} indices")
    names = sorted(set(own) - {-1})
    comes = [own[u] for u in move.units]
    comes += names[len(comes) :]
    demand(sorted(comes) == names, "it is no order of the units")
    turned = dict[Place, list[int]]()
    for place, labels in places.items():
        at = dict[int, list[int]]()
        for i, label in enumerate(labels):
            at.setdefault(label, []).append(i)
        index = list(range(len(labels)))
        for unit, former in zip(names, comes, strict=True):
            new, old = at.get(unit, []), at.get(former, [])
            demand(len(new) == len(old), f"units {unit} and {former} have unlike parts in a tensor")
            for i, j in zip(new, old, strict=True):
                index[i] = j
        if index != list(range(len(labels))):
            turned[place] = index
    touched = _require_ends(graph, turned)
    for step in graph.steps:
        if touched & {*step.inputs, step.output}:
            _require(step, commutes, graph, step, turned)
    stored = dict(graph.stored)
    for (name, axis), index in turned.items():
        if name in stored:
            stored[name] = taken(stored[name], axis, index)
    return graph._replace(stored=stored)


def commutes(graph: Graph, step: Step, turned: dict[Place, list[int]]) -> bool:
    """Whether a node gives its output, indexed anew, from inputs that are."""
    op, y, shapes = step.op, step.output, graph.shapes
    x = step.inputs[0] if step.inputs else ""
    ranks = {name: len(shapes[name]) for name in (*step.inputs, y) if name}

    def of(name: str, axis: int) -> list[int] | None:
        return turned.get((name, axis))

    def kept(name: str, but: Iterable[int] = ()) -> bool:
        rest = set(but)
        return not name or all(of(name, a) is None for a in range(ranks[name]) if a not in rest)

    def full(name: str, axis: int) -> list[int]:
        return of(name, axis) or list(range(shapes[name][axis]))

    def spread(names: Iterable[str], ends: int = 0) -> bool:
        for axis in range(ranks[y] - ends):
            for name in names:
                own = axis - ranks[y] + ranks[name]
                if own < 0 or shapes[name][own] == 1:
                    continue  # one entry for all
                known = shapes[name][own] == shapes[y][axis]
                if of(name, own) != of(y, axis) or not (known or of(y, axis) is None):
                    return False
        return True

    if op.kind == "Size":
        return kept(y)
    if op.kind == "Elementwise":
        return spread([name for name in step.inputs if name])
    if op.kind == "PerUnit":
        wide = [name for name in step.inputs[1:] if name and shapes[name] not in ((), (1,))]
        own = all(of(name, 0) == of(x, op["axis"]) for name in wide)
        return own and all(of(x, a) == of(y, a) for a in range(ranks[x]))
    if op.kind == "Slicewise":
        unordered, sums = op["kind"] in UNORDERED, op["kind"] in REDUCTIONS
        pairs = [(a, a) for a in range(ranks[x])] if unordered and not sums else op["free"]
        if not all(of(x, i) == of(y, o) for i, o in pairs) or not kept(y, [o for _, o in pairs]):
            return False
        if not unordered and not kept(x, [i for i, _ in op["free"]]):
            return False
        owners = (*op["carried"], *[None] * len(step.inputs))
        for owner, name in zip(owners, step.inputs[1:], strict=False):
            if not name:
                continue
            if owner is not None:
                fits = of(x, owner) == of(name, 0)
            elif op["kind"] in NORMS:  # under the last axes
                lead = ranks[x] - ranks[name]
                fits = all(of(x, lead + a) == of(name, a) for a in range(ranks[name]))
            else:
                fits = kept(name)
            if not fits:
                return False
        return True
    if op.kind == "Linear":
        w = step.inputs[1]
        reads, writes, rows, columns = (op[k] for k in ("reads", "writes", "rows", "columns"))
        own = kept(x, [reads, *(i for i, _ in op["free"])]) and kept(w, [rows, columns])
        own = own and kept(y, [writes, *(o for _, o in op["free"])])
        own = own and all(of(x, i) == of(y, o) for i, o in op["free"])
        if not own or any(
            of(name, a) != of(y, writes)
            for name, a in [(w, rows), *((b, 0) for b in step.inputs[2:])]
        ):
            return False
        if op["groups"] == 1:
            return of(x, reads) == of(w, columns)
        # y'_o reads channel c of its group by w'[o, c], and has to read what y_index[o] did
        inner, outer = shapes[w][columns], shapes[w][rows] // op["groups"]
        index_x, index_y, index_c = full(x, reads), full(y, writes), full(w, columns)
        return all(
            index_x[o // outer * inner + c] == former // outer * inner + index_c[c]
            for o, former in enumerate(index_y)
            for c in range(inner)
        )
    if op.kind == "Contract":
        left, right = step.inputs
        m, n, k = ranks[left], ranks[right], ranks[y]
        ends_here = of(left, m - 2) == of(y, k - 2) and of(right, n - 1) == of(y, k - 1)
        return ends_here and of(left, m - 1) == of(right, n - 2) and spread(step.inputs, 2)
    if op.kind == "Transpose":
        return all(of(x, source) == of(y, a) for a, source in enumerate(op["order"]))
    if op.kind == "Concat":
        k = op["axis"]
        if any(of(name, a) != of(y, a) for name in step.inputs for a in range(ranks[y]) if a != k):
            return False
        if any(not isinstance(shapes[name][k], int) for name in step.inputs):
            return all(of(name, k) is None for name in (*step.inputs, y))
        joined = list[int]()
        for name in step.inputs:
            joined += [len(joined) + i for i in full(name, k)]
        return joined == full(y, k)
    if op.kind == "Take":
        k = op["axis"]
        for a in range(ranks[x]):
            if a != k and of(x, a) != of(y, a - (op["drop"] and a > k)):
                return False
        index_x = full(x, k)
        if op["drop"]:
            return bool(index_x[op["index"][0]] == op["index"][0])
        index_y = full(y, k)
        return all(
            index_x[i] == op["index"][former]
            for i, former in zip(op["index"], index_y, strict=True)
        )
    if op.kind == "Broadcast":
        return spread([x]) and all(map(kept, step.inputs[1:]))
    if op.kind == "Lookup":
        k, ids = op["axis"], step.inputs[1]
        pairs = [(a, a + (ranks[ids] - 1) * (a > k)) for a in range(ranks[x]) if a != k]
        own = of(x, k) is None and kept(ids) and all(of(x, a) == of(y, o) for a, o in pairs)
        return own and kept(y, [o for _, o in pairs])
    if op.kind == "Reshape":
        blocks = [*op["blocks"], *(((i,), (o,)) for i, o in op["free"])]
        if not kept(x, [a for part, _ in blocks for a in part]) or not kept(
            y, [a for _, part in blocks for a in part]
        ):
            return False
        return all(
            _flat(turned, shapes, x, ins) == _flat(turned, shapes, y, outs) for ins, outs in blocks
        )
    return all(map(kept, (*step.inputs, y)))


def _flat(
    turned: dict[Place, list[int]], shapes: Any, name: str, axes: Sequence[int]
) -> list[int] | None:
    """Where entries under some axes stood, read row by row."""
    if all((name, axis) not in turned for axis in axes):
        return None
    sizes_here = [shapes[name][axis] for axis in axes]
    if math.prod(sizes_here) > MAX_NUMBERS:
        raise NotUnderstood(f"the order of all entries of {name[:40]!r}")
    size = strides(sizes_here)
    full = [turned.get((name, axis), range(n)) for axis, n in zip(axes, sizes_here, strict=True)]
    found = [
        sum(i * step for i, step in zip(at, size, strict=True)) for at in itertools.product(*full)
    ]
    return None if found == list(range(len(found))) else found


def scale(graph: Graph, moves: list[GraphMove]) -> tuple[Graph, dict[str, list[Fraction]]]:
    """The graph whose tensors are multiplied by numbers along some axes, and what its numbers are away: stored ones
    are, inputs and outputs are not, and where each node gives such a tensor from such tensors outputs are what they were.
    """
    factors = dict[Place, list[Fraction]]()
    for move in moves:
        places = Ties(graph, (move.tensor, move.axis), trade=True).units()
        own = places[move.tensor, move.axis]
        demand(all(u < len(own) for u in move.units), f"the axis has {len(own)} indices")
        gone = [own[u] for u in move.units]
        fits = len(move.coefficients) == len(gone) == len(set(gone)) and -1 not in gone
        demand(fits and all(move.coefficients), "coefficients are a number, not 0, for each unit")
        numbers_of = dict(zip(gone, map(Fraction, move.coefficients), strict=True))
        for place, power in move.powers.items():
            demand(
                place in places, f"{place[0][:40]!r} has none of the units along axis {place[1]}"
            )
            by = [numbers_of.get(label, ONE) ** power for label in places[place]]
            former = factors.get(place, [ONE] * len(by))
            factors[place] = [p * q for p, q in zip(former, by, strict=True)]
    factors = {place: by for place, by in factors.items() if any(q != 1 for q in by)}
    touched = _require_ends(graph, factors)
    for step in graph.steps:
        if touched & {*step.inputs, step.output}:
            _require(step, Scales(graph, step, factors).hold)
    stored, lost = dict(graph.stored), dict[str, list[Fraction]]()
    for name in sorted(touched & set(stored)):
        own_factors = sorted((axis, by) for (other, axis), by in factors.items() if other == name)
        stored[name], off = _multiplied(stored[name], own_factors)
        if any(off):
            lost[name] = off
    return graph._replace(stored=stored), lost


def _multiplied(
    array_now: Tensor, factors: list[tuple[int, list[Fraction]]]
) -> tuple[Tensor, list[Fraction]]:
    """A stored tensor by numbers along its axes. The double nearest to each is taken, axis by axis, and each product is
    rounded to a double, at last to the type.
    """
    if array_now.dtype == "bfloat16":
        raise NotUnderstood("stored numbers of type bfloat16")
    demand(
        not array_now.whole and all(map(finite, array_now.data)),
        "numbers that are no floats are multiplied",
    )
    far = 1 << 64
    for _, by in factors:
        demand(
            all(abs(q) <= far and abs(q) * far >= 1 for q in by),
            "a number is beyond 2^64, or below 2^-64",
        )
    data, off, size = list(array_now.data), list[Fraction](), strides(array_now.shape)
    for k, x in enumerate(array_now.data):
        double, exact = 1.0, ONE
        for axis, by in factors:
            q = by[k // size[axis] % array_now.shape[axis]]
            double, exact = double * float(q), exact * q
        demand(
            2.0**-512 < abs(double) < 2.0**512, "a number is multiplied by too much along all axes"
        )
        data[k] = in_type(x * double + 0.0, array_now.dtype)
        off.append(abs(Fraction(data[k]) - Fraction(x) * exact))
    return array_now._replace(data=data), off


LINEAR, HOMOGENEOUS, EVEN = (
    {"identity", "neg"},
    {"relu", "leaky_relu", "abs"},
    {"abs", "cos", "cosh"},
)
ODD_KINDS = {"identity", "neg", "sign", "tanh", "erf", "softsign", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh",
             "round"}  # fmt: skip


class Scales:
    """Whether a node gives its output, multiplied by its numbers, from inputs multiplied by theirs. Each law is about
    the numbers along some axes; an axis of which no law speaks has to have ones alone.
    """

    def __init__(self, graph: Graph, step: Step, factors: dict[Place, list[Fraction]]) -> None:
        self.graph, self.step, self.factors = graph, step, factors
        self.seen: set[Place] = set()

    def of(self, name: str, axis: int) -> list[Fraction]:
        self.seen.add((name, axis))
        n = self.graph.shapes[name][axis]
        return self.factors.get((name, axis)) or [ONE] * (n if isinstance(n, int) else 1)

    def one(self, name: str, but: Iterable[int] = ()) -> bool:
        """All axes of a tensor have ones alone, but some."""
        rest = set(but)
        return all(
            q == 1 for a in range(self.rank(name)) if a not in rest for q in self.of(name, a)
        )

    def alike(self, a: Place, b: Place) -> bool:
        first, second = self.of(*a), self.of(*b)
        return first == second if self.size(a) == self.size(b) else _ones(first, second)

    def rank(self, name: str) -> int:
        return len(self.graph.shapes[name]) if name else 0

    def size(self, place: Place) -> Any:
        n = self.graph.shapes[place[0]][place[1]]
        return n if isinstance(n, int) else -1

    def hold(self) -> bool:
        rule = getattr(self, f"_{self.step.op.kind.lower()}", None)
        if rule is not None and not rule(self.step.op):
            return False
        every = [
            (name, a)
            for name in (*self.step.inputs, self.step.output)
            for a in range(self.rank(name))
        ]
        return all(place in self.seen or place not in self.factors for place in every)

    def _size(self, op: Op) -> bool:
        # sizes are what they are, whatever is multiplied
        self.seen.update((name, a) for name in self.step.inputs for a in range(self.rank(name)))
        return True

    def beside(self, name: str, axis: int) -> list[Fraction] | None:
        """Numbers of an operand along an axis of the output; None where it is not known which is broadcast."""
        y = self.step.output
        own = axis - self.rank(y) + self.rank(name)
        n = self.size((y, axis))
        if own < 0:
            return [ONE] * max(n, 1)
        numbers_now = self.of(name, own)
        if self.size((name, own)) == n:
            return numbers_now
        return numbers_now * n if self.size((name, own)) == 1 and n > 0 else None

    def broadcast(
        self,
        powers: Sequence[tuple[str, int]],
        ends: int = 0,
        sums: bool = False,
        positive: bool = False,
    ) -> bool:
        """Each operand has the numbers of the output, or their product to some powers does."""
        y = self.step.output
        for axis in range(self.rank(y) - ends):
            whole_now, parts = (
                self.of(y, axis),
                [(self.beside(name, axis), p) for name, p in powers],
            )
            known = [(part, p) for part, p in parts if part is not None]
            if len(known) < len(parts):
                own = [self.of(name, axis - self.rank(y) + self.rank(name)) for name, _ in powers
                       if axis - self.rank(y) + self.rank(name) >= 0]  # fmt: skip
                if not _ones(whole_now, *own):
                    return False
            elif sums:
                if any(part != whole_now for part, _ in known) or (
                    positive and min(whole_now, default=ONE) < 0
                ):
                    return False
            elif any(
                math.prod((part[k] ** p for part, p in known), start=ONE) != q
                for k, q in enumerate(whole_now)
            ):
                return False
        return True

    def _elementwise(self, op: Op) -> bool:
        given = [name for name in self.step.inputs if name]
        kind, y = op["kind"], self.step.output
        if len(given) == 1:
            return all(self._entry(op, (given[0], a), (y, a)) for a in range(self.rank(y)))
        same = len(set(given)) < len(given)
        if same and not (len(set(given)) == 1 and kind in ("add", "sub", "mul")):
            return _ones(
                *(self.of(name, a) for name in {*given, y} for a in range(self.rank(name)))
            )
        if kind in ("add", "sub", "max", "min"):
            return self.broadcast(
                [(x, 1) for x in given], sums=True, positive=kind in ("max", "min")
            )
        if kind == "where" and len(given) == 3:
            return self.one(given[0]) and self.broadcast([(x, 1) for x in given[1:]], sums=True)
        if kind == "mul":
            return self.broadcast([(x, 1) for x in given])
        if kind == "div" and len(given) == 2:
            return self.broadcast([(given[0], 1), (given[1], -1)])
        if kind == "pow" and len(given) == 2:
            held = self.graph.value(given[1])
            p = float(held.data[0]) if held is not None and len(held.data) else 0.0
            if held is not None and 1 <= p <= 64 and p % 1 == 0 and all(v == p for v in held.data):
                return self.one(given[1]) and self.broadcast([(given[0], int(p))])
        return all(map(self.one, (*given, y)))

    def _entry(self, op: Op, x: Place, y: Place) -> bool:
        """A function of one entry."""
        kind, given = op["kind"], op["numbers"]
        known = all(math.isfinite(v) for v in given)
        linear, p, q = kind in LINEAR and known, self.of(*x), self.of(*y)
        if self.size(x) != self.size(y):
            return _ones(p, q)
        if linear:
            return p == q
        sizes_here = [[abs(v) for v in part] for part in (p, q)]
        if known and kind in HOMOGENEOUS:
            fits = sizes_here[0] == sizes_here[1]
        else:
            fits = _ones(*sizes_here)
        if known and kind in ODD_KINDS:
            return fits and all(v * w > 0 for v, w in zip(p, q, strict=True))
        return (
            fits
            and min(q, default=ONE) > 0
            and ((known and kind in EVEN) or min(p, default=ONE) > 0)
        )

    def _perunit(self, op: Op) -> bool:
        x, y, further = (
            self.step.inputs[0],
            self.step.output,
            [name for name in self.step.inputs[1:] if name],
        )
        k, norm = op["axis"], op["kind"] == "batchnorm" and len(further) == 4
        if not (self.one(x, [k]) and self.one(y, [k])):
            return False
        p, q = self.of(x, k), self.of(y, k)
        if norm:
            scale_now, shift, mean, variance = (self.of(name, 0) for name in further)
            # (x - mean) / root * scale + shift: of x and its mean one sign; scale and shift have any number
            signs = p == mean and _ones([abs(v) for v in p], variance)
            return signs and q == shift and [v * w for v, w in zip(p, scale_now, strict=True)] == q
        stepped = (
            op["kind"] == "dequantise" and self.rank(further[0]) and self.size((further[0], 0)) > 1
        )
        if stepped:
            return self.one(x) and all(map(self.one, further[1:])) and q == self.of(further[0], 0)
        return all(map(self.one, (x, y, *further)))

    def _slicewise(self, op: Op) -> bool:
        if op["normalises"] is not None or op["kind"] in NORMS:
            return self._norm(op)
        x, y = self.step.inputs[0], self.step.output
        for i, o in op["free"]:
            p, q = self.of(x, i), self.of(y, o)
            if op["linear"]:
                fits = self.alike((x, i), (y, o))
            elif op["homogeneous"]:
                fits = self.alike((x, i), (y, o)) and min(p, default=ONE) > 0
            else:
                fits = _ones(p, q)
            if not fits:
                return False
        return all(map(self.one, filter(None, self.step.inputs[1:])))

    def _norm(self, op: Op) -> bool:
        """u / root * scale + shift: of x its signs; scale and shift have any number."""
        x, y = self.step.inputs[0], self.step.output
        free, further = {o: i for i, o in op["free"]}, [*self.step.inputs[1:], "", ""]
        if not all(map(self.one, filter(None, further[2:]))):
            return False
        for axis in range(self.rank(x)):
            p, q = self.of(x, axis), self.of(y, axis)
            whole_axis = axis not in free
            if not _ones([abs(v) for v in p]):
                return False
            if (whole_axis and op["kind"] not in NORMS) or free.get(axis, axis) != axis:
                if not _ones(p, q):
                    return False
                continue
            if whole_axis and op["kind"] not in ROOT_MEAN_SQUARE and len(set(p)) > 1:
                return False  # the mean of all is left out: one sign for all
            by = [[ONE] * len(q), None]
            for k in (0, 1):
                name = further[k]
                if not name:
                    continue
                inside = axis in free.values()
                own = 0 if inside else axis - self.rank(x) + self.rank(name)
                carried = k < len(op["carried"]) and op["carried"][k] == axis
                if carried if inside else own >= 0:
                    by[k] = self.of(name, own)
            times, shift = by
            if (
                times is None
                or len(times) != len(q)
                or [v * w for v, w in zip(p, times, strict=True)] != q
            ):
                return False
            if further[1] and not (shift == q if shift is not None else _ones(q)):
                return False
        return True

    def _linear(self, op: Op) -> bool:
        x, w, y, bias = (
            self.step.inputs[0],
            self.step.inputs[1],
            self.step.output,
            self.step.inputs[2:],
        )
        for i, o in op["free"]:
            if not (_ones(self.of(x, i), self.of(y, o)) if bias else self.alike((x, i), (y, o))):
                return False
        made, rows = self.of(y, op["writes"]), self.of(w, op["rows"])
        read, columns = self.of(x, op["reads"]), self.of(w, op["columns"])
        if any(self.of(b, 0) != made for b in bias):
            return False
        if self.size((x, op["reads"])) < 0:
            return rows == made and _ones(columns)
        if op["groups"] == 1:
            return rows == made and all(p * q == 1 for p, q in zip(read, columns, strict=True))
        inner, outer = len(columns), len(rows) // op["groups"]
        return (inner > 1 or columns == [ONE]) and all(
            rows[o] * columns[c] * read[o // outer * inner + c] == made[o]
            for o in range(len(rows))
            for c in range(inner)
        )

    def _contract(self, op: Op) -> bool:
        (a, b), y = self.step.inputs, self.step.output
        if a == b:
            return self.one(a) and self.one(y)
        i, j, k = map(self.rank, (a, b, y))
        inner = [p * q for p, q in zip(self.of(a, i - 1), self.of(b, j - 2), strict=False)]
        ends_here = self.alike((a, i - 2), (y, k - 2)) and self.alike((b, j - 1), (y, k - 1))
        same = self.size((a, i - 1)) == self.size((b, j - 2)) or _ones(
            self.of(a, i - 1), self.of(b, j - 2)
        )
        return ends_here and same and _ones(inner) and self.broadcast([(a, 1), (b, 1)], 2)

    def _transpose(self, op: Op) -> bool:
        x, y = self.step.inputs[0], self.step.output
        return all(self.alike((x, source), (y, a)) for a, source in enumerate(op["order"]))

    def _concat(self, op: Op) -> bool:
        y, k, joined, known = self.step.output, op["axis"], list[Fraction](), True
        for name in self.step.inputs:
            if not all(self.alike((name, a), (y, a)) for a in range(self.rank(y)) if a != k):
                return False
            joined += self.of(name, k)
            known = known and self.size((name, k)) >= 0
        return joined == self.of(y, k) if known else _ones(joined, self.of(y, k))

    def _take(self, op: Op) -> bool:
        x, y, k = self.step.inputs[0], self.step.output, op["axis"]
        if not all(
            self.alike((x, a), (y, a - (op["drop"] and a > k)))
            for a in range(self.rank(x))
            if a != k
        ):
            return False
        chosen = [self.of(x, k)[i] for i in op["index"]]
        return _ones(chosen) if op["drop"] else chosen == self.of(y, k)

    def _broadcast(self, op: Op) -> bool:
        return self.broadcast([(self.step.inputs[0], 1)])

    def _lookup(self, op: Op) -> bool:
        (table, ids), y, k = self.step.inputs, self.step.output, op["axis"]
        more = self.rank(ids) - 1
        return all(
            self.alike((table, a), (y, a + more * (a > k)))
            for a in range(self.rank(table))
            if a != k
        )

    def _reshape(self, op: Op) -> bool:
        x, y = self.step.inputs[0], self.step.output
        if not all(self.alike((x, i), (y, o)) for i, o in op["free"]):
            return False
        for ins, outs in op["blocks"]:
            every = [self.size((name, a)) for name, axes in ((x, ins), (y, outs)) for a in axes]
            if min(every, default=1) < 0:
                continue  # one axis, of unknown size, of which no law speaks
            if math.prod(self.size((x, a)) for a in ins) > MAX_NUMBERS:
                raise NotUnderstood(f"the numbers of all entries of {x[:40]!r}")
            sides = [
                [
                    math.prod(some, start=ONE)
                    for some in itertools.product(*(self.of(name, a) for a in axes))
                ]
                for name, axes in ((x, ins), (y, outs))
            ]
            if sides[0] != sides[1]:
                return False
        return True


def _ones(*parts: Sequence[Fraction]) -> bool:
    return all(q == 1 for part in parts for q in part)


# Graphs that are cut along an axis, one tensor for each of its indices


def unroll(graph: Graph, cuts: dict[str, int]) -> Graph:
    """The same function with what some reshapes give cut along an axis, and what follows from it. Every node is one of
    docs/format.md, or stands where it stood, so that what the graph computes is clear node by node.
    """
    work = Cutting(graph)
    for step in graph.steps:
        if step.output in cuts:
            work.split(step, cuts[step.output])
        else:
            work.follow(step)
    demand(all(name in work.parts for name in cuts), "no node gives a tensor that is to be cut")
    for name in graph.outputs:
        work.whole(name)
    return graph._replace(steps=tuple(work.steps), shapes=work.shapes)


def _resized(op: Op, axis: int, n: int) -> Op:
    """A reshape, or a repetition, with another size along an axis, where that is stated."""
    sizes = tuple(n if a == axis and m is not None else m for a, m in enumerate(op["sizes"]))
    return Op(op.kind, tuple((k, sizes if k == "sizes" else v) for k, v in op.given))


def _with(shape: Shape, axis: int, n: int) -> Shape:
    return (*shape[:axis], n, *shape[axis + 1 :])


def _digit_of(axis: int, own: Shape, other: Shape, blocks: Any) -> tuple[int, list[int]] | None:
    """The first axis of the other side of a reshape whose index has that of an axis as one of several digits, and that
    digit of each of its indices.
    """
    for mine, theirs in blocks:
        if axis in mine:
            stride, n = digits(own, mine)[axis]
            for k, (s, m) in digits(other, theirs).items():
                if m > n and stride % s == 0 and (s * m) % (stride * n) == 0:
                    return k, [i // (stride // s) % n for i in range(m)]
    return None


class Cutting:
    """The nodes of the graph that is cut, as they are written one after another."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.shapes = graph, dict(graph.shapes)
        self.steps: list[Step] = []
        self.parts: dict[str, tuple[int, list[str]]] = {}  # the axis, and the names
        self.joined: set[str] = set()
        self.taken: set[str] = set()  # single indices of tensors that are not cut, by name

    def write(self, op: Op, inputs: Iterable[str], output: str, shape: Shape) -> str:
        demand(output not in self.shapes, f"{output[:40]!r} is there twice")
        self.steps.append(Step(op, tuple(inputs), output))
        self.shapes[output] = shape
        return output

    def take(self, axis: int, index: Sequence[int], x: str, name: str) -> str:
        op = Op("Take", (("axis", axis), ("index", tuple(index)), ("drop", False)))
        return self.write(op, [x], name, _with(self.shapes[x], axis, len(index)))

    def whole(self, name: str) -> None:
        """The parts joined, under the name of the tensor."""
        if name in self.parts and name not in self.joined:
            self.joined.add(name)
            axis, parts = self.parts[name]
            self.steps.append(Step(Op("Concat", (("axis", axis),)), tuple(parts), name))

    def split(self, step: Step, axis: int) -> None:
        """What a reshape gives along an axis that it makes of a part of another."""
        op, x, y = step.op, step.inputs[0], step.output
        n = self.shapes[y][axis]
        found = (
            _digit_of(axis, self.shapes[y], self.shapes[x], [(o, i) for i, o in op["blocks"]])
            if op.kind == "Reshape"
            else None
        )
        if found is None or not 0 < n <= 1024:
            raise Rejected(f"{y[:40]!r} has no axis {axis} that is made of a part of another")
        self.whole(x)
        along, own = found
        parts = []
        for h in range(n):
            part = self.take(
                along, [i for i, digit in enumerate(own) if digit == h], x, f"{x}[{y}:{h}]"
            )
            inputs = (part, *step.inputs[1:])
            parts.append(
                self.write(
                    _resized(op, axis, 1), inputs, f"{y}[{h}]", _with(self.shapes[y], axis, 1)
                )
            )
        self.parts[y] = axis, parts

    def follow(self, step: Step) -> None:
        """Cut what a node makes of parts; where that is not known it reads them joined."""
        cut = [name for name in dict.fromkeys(step.inputs) if name in self.parts]
        if not cut:
            self.steps.append(step)
            return
        op = step.op
        if op.kind == "Size" and all(
            self.parts.get(step.inputs[i], (None, []))[0] != axis for i, axis in op["axes"]
        ):
            inputs = [self.parts[x][1][0] if x in self.parts else x for x in step.inputs]
            self.steps.append(step._replace(inputs=tuple(inputs)))
            return
        if op.kind == "Reshape" and self.rejoined(step):
            return
        first = step.inputs.index(cut[0])
        found = self.index_alone(step, first, self.parts[cut[0]][0])
        if found is not None and self.agree(step, found, len(self.parts[cut[0]][1])):
            self.apart(step, *found)
            return
        for name in cut:
            self.whole(name)
        self.steps.append(step)

    def agree(self, step: Step, found: tuple[int, Op, list[int | None]], n: int) -> bool:
        """Whether the output and all that is read by index have as many indices, and cuts are along those axes."""
        axis, _, reads = found
        fits = self.shapes[step.output][axis] == n
        for x, k in zip(step.inputs, reads, strict=True):
            fits = fits and (k is None or self.shapes[x][k] == n)
            fits = fits and (x not in self.parts or self.parts[x][0] == k)
        return bool(fits)

    def apart(self, step: Step, axis: int, op: Op, reads: list[int | None]) -> None:
        y, parts = step.output, []
        for h in range(self.shapes[y][axis]):
            inputs = list[str]()
            for x, k in zip(step.inputs, reads, strict=True):
                if k is None:
                    inputs.append(x)
                elif x in self.parts:
                    inputs.append(self.parts[x][1][h])
                else:
                    name = f"{x}[{k}:{h}]"
                    if name not in self.taken:
                        self.taken.add(self.take(k, [h], x, name))
                    inputs.append(name)
            parts.append(self.write(op, inputs, f"{y}[{h}]", _with(self.shapes[y], axis, 1)))
        self.parts[y] = axis, parts

    def rejoined(self, step: Step) -> bool:
        """A reshape that makes one axis of the one that is cut and others: of each part, then joined."""
        op, x, y = step.op, step.inputs[0], step.output
        if x not in self.parts or any(name in self.parts for name in step.inputs[1:]):
            return False
        axis, parts = self.parts[x]
        found = _digit_of(axis, self.shapes[x], self.shapes[y], op["blocks"])
        if found is None:
            return False
        out, own = found
        share = len(own) // len(parts)
        rows = [self.write(_resized(op, out, share), (part, *step.inputs[1:]), f"{y}[{h}]", _with(self.shapes[y], out, share))
                for h, part in enumerate(parts)]  # fmt: skip
        # where each index of the whole stands among the parts in a row
        sequence = sorted(range(len(own)), key=lambda i: own[i])
        place = {i: k for k, i in enumerate(sequence)}
        concat = Op("Concat", (("axis", out),))
        if sequence == list(range(len(own))):
            self.steps.append(Step(concat, tuple(rows), y))
        else:
            joined = self.write(concat, rows, f"{y}[joined]", self.shapes[y])
            index = tuple(place[i] for i in range(len(own)))
            self.steps.append(
                Step(Op("Take", (("axis", out), ("index", index), ("drop", False))), (joined,), y)
            )
        return True

    def index_alone(self, step: Step, i: int, axis: int) -> tuple[int, Op, list[int | None]] | None:
        """Where index h of an axis of the output reads index h of some inputs alone, in one way for all: that axis, the
        operator for one index, and the axes that it reads (None: all of an input, or its one entry).
        """
        op, shapes, y = step.op, self.graph.shapes, step.output
        x, others = step.inputs[i], len(step.inputs)

        def broadcast(count: int) -> tuple[int, Op, list[int | None]] | None:
            out = axis - len(shapes[x]) + len(shapes[y])
            reads = list[int | None]()
            for name in step.inputs[:count]:
                own = shapes[name] if name else ()
                k = out - len(shapes[y]) + len(own)
                if k >= 0 and own[k] not in (1, shapes[y][out]):
                    return None
                reads.append(k if k >= 0 and own[k] == shapes[y][out] else None)
            return out, op, [*reads, *[None] * (others - count)]

        alone: list[int | None] = [axis, *[None] * (others - 1)]
        if op.kind == "Elementwise":
            return broadcast(others)
        if op.kind == "Contract":
            return broadcast(others) if axis < len(shapes[x]) - 2 else None
        if op.kind == "Broadcast" and i == 0:
            found = broadcast(1)
            stated = found is not None and op["sizes"][found[0]] is not None
            return (found[0], _resized(op, found[0], 1), found[2]) if found and stated else None
        if op.kind == "Transpose":
            return op["order"].index(axis), op, alone
        if op.kind == "Concat":
            return (axis, op, [axis] * others) if axis != op["axis"] else None
        if op.kind == "Take":
            return (
                (axis - (op["drop"] and axis > op["axis"]), op, alone)
                if axis != op["axis"]
                else None
            )
        out = (
            dict(op["free"]).get(axis)
            if op.kind in ("Linear", "Slicewise", "Reshape") and i == 0
            else None
        )
        if op.kind == "Linear":
            return None if out is None else (out, op, alone)
        if op.kind == "Slicewise":
            return None if out is None or axis in op["carried"][: others - 1] else (out, op, alone)
        if op.kind == "Reshape" and i == 0:
            for ins, outs in op["blocks"] if out is None else ():
                if axis in ins:  # the same digit is an axis again
                    own = digits(shapes[x], ins)[axis]
                    out = next((k for k, d in digits(shapes[y], outs).items() if d == own), None)
            return None if out is None else (out, _resized(op, out, 1), alone)
        return None


# What rounding does to the outputs of a graph: sizes and gaps, constant and growth, for each index of one axis

Pair = tuple[Fraction, Fraction]
NONE: Pair = (ZERO, ZERO)


class Spread(NamedTuple):
    """Bounds of all entries at each index of an axis; of an axis that is None one for all."""

    axis: int | None
    pairs: list[Pair]

    def at(self, axis: int | None, n: int) -> list[Pair]:
        """Along another axis."""
        if axis is not None and axis == self.axis:
            return self.pairs
        return [_most(self.pairs)] * n


def _most(pairs_of: Iterable[Pair]) -> Pair:
    some = list(pairs_of)
    return max((c for c, _ in some), default=ZERO), max((g for _, g in some), default=ZERO)


def _sum(terms: Iterable[tuple[Fraction, Pair]]) -> Pair:
    constant = growth = ZERO
    for factor, (c, g) in terms:
        constant, growth = constant + factor * c, growth + factor * g
    return _round(constant), _round(growth)


def _round(q: Fraction) -> Fraction:
    """Up, to few digits."""
    return q if q.denominator.bit_length() < 400 else Fraction(_above(q), 1 << FIX)


def graph_gap(graph: Graph, lost: dict[str, list[Any]], ends: dict[str, Any]) -> Slack:
    """How far outputs are from those of a graph whose stored numbers are away by at most what is lost."""
    sizes, gaps = dict[str, Spread](), dict[str, Spread]()
    known = Known(graph, ends)
    for name in graph.inputs:
        axes = [a for a, n in enumerate(graph.shapes[name]) if isinstance(n, int)]
        tops = [Spread(a, _capped(known, name, a)) for a in axes if name in ends]
        bounded_here = [top for top in tops if top.pairs and not any(g for _, g in top.pairs)]
        means = [sum(c for c, _ in top.pairs) / len(top.pairs) for top in bounded_here]
        least = means.index(min(means)) if means else None
        sizes[name] = Spread(None, [(ZERO, ONE)]) if least is None else bounded_here[least]
        gaps[name] = Spread(None, [NONE])
    for step in graph.steps:
        size, gap = _carried(graph, step, lost, sizes, gaps)
        sizes[step.output], gaps[step.output] = size, gap
    worst = _most(p for name in graph.outputs for p in gaps[name].pairs)
    return worst


def _capped(known: Known, name: str, axis: int) -> list[Pair]:
    tops = [max(abs(f.low), abs(f.high)) for f in known.of(name, axis)]
    if not all(map(finite, tops)):
        return [(ZERO, ONE)] * len(tops)
    return [(Fraction(t), ZERO) for t in tops]


def _carried(graph: Graph, step: Step, lost: Any, sizes: Any, gaps: Any) -> tuple[Spread, Spread]:
    op, x = step.op, step.inputs[0]
    shape = graph.shapes[step.output]

    if x not in sizes and op.kind != "Elementwise":
        raise NotUnderstood(f"a bound through {op.kind} of what is stored")

    def held(name: str) -> tuple[list[Fraction], list[Fraction]]:
        """Stored numbers, and what they are away."""
        if name not in graph.stored:
            raise NotUnderstood(f"a bound through {op.kind} of what is computed")
        now = [Fraction(v) for v in graph.stored[name].data]
        return now, lost.get(name, [ZERO] * len(now))

    if op.kind == "Linear":
        w = step.inputs[1]
        if op["groups"] > 1 and graph.shapes[w][op["columns"]] > 1:
            raise NotUnderstood("a bound through groups of several channels")
        (now, off), tensor_now = held(w), graph.stored[w]
        bias = held(step.inputs[2]) if len(step.inputs) > 2 else ([], [])
        n, rows = tensor_now.shape[op["columns"]] * op["groups"], tensor_now.shape[op["rows"]]
        all_sizes, all_gaps = sizes[x].at(op["reads"], n), gaps[x].at(op["reads"], n)
        tops, outs = list[Pair](), list[Pair]()
        views = [tensor_now._replace(data=part) for part in (now, off)]
        for o in range(rows):
            part = (
                slice(None)
                if op["groups"] == 1
                else slice(o * op["groups"] // rows, o * op["groups"] // rows + 1)
            )
            size, gap = all_sizes[part], all_gaps[part]
            taps: Any = [
                [sum(map(abs, column), ZERO) for column in Known._taps(view, op, o)]
                for view in views
            ]
            b, off_b = (bias[0][o], bias[1][o]) if bias[0] else (ZERO, ZERO)
            tops.append(
                _sum(
                    [
                        *((t + d, s) for t, d, s in zip(*taps, size, strict=True)),
                        (ONE, (abs(b) + off_b, ZERO)),
                    ]
                )
            )
            outs.append(
                _sum(
                    [
                        *zip(taps[0], gap, strict=True),
                        *zip(taps[1], size, strict=True),
                        (ONE, (off_b, ZERO)),
                    ]
                )
            )
        return Spread(op["writes"], tops), Spread(op["writes"], outs)
    if op.kind == "Elementwise":
        return _carried_entry(graph, step, held, sizes, gaps)
    if op.kind == "PerUnit" and op["kind"] == "batchnorm":
        parts = [held(name) for name in step.inputs[1:]]
        n = len(parts[0][0])
        size, gap = sizes[x].at(op["axis"], n), gaps[x].at(op["axis"], n)
        tops, outs = [], []
        for i in range(n):
            (g, b, m, v), (dg, db, dm, dv) = ([part[k][i] for part in parts] for k in (0, 1))
            if dg or dv:
                raise NotUnderstood("a scale of a batch norm that was rounded")
            square = v + Fraction(op["numbers"][0])
            demand(square > 0, "a batch norm of a variance that is not positive")
            rate = abs(g) * root_between(1 / square)[1]
            tops.append(_sum([(rate, size[i]), (ONE, (rate * (abs(m) + dm) + abs(b) + db, ZERO))]))
            outs.append(_sum([(rate, gap[i]), (ONE, (rate * dm + db, ZERO))]))
        return Spread(op["axis"], tops), Spread(op["axis"], outs)
    if (
        op.kind == "Slicewise"
        and (op["hull"] or op["kind"] in ("max pool", "max"))
        and len(step.inputs) == 1
    ):
        if not (op["linear"] or op["kind"] in ("max pool", "max")):
            raise NotUnderstood(f"a bound through {op['kind']!r}")
        if None not in (sizes[x].axis, gaps[x].axis) and sizes[x].axis != gaps[x].axis:
            raise NotUnderstood("bounds along two axes")
        axis = next(
            (o for i, o in op["free"] if i == sizes[x].axis and sizes[x].axis is not None), None
        )
        return tuple(  # type: ignore[return-value]
            Spread(axis, part.pairs) if axis is not None else Spread(None, [_most(part.pairs)])
            for part in (_same_axis(sizes[x], gaps[x]), _same_axis(gaps[x], sizes[x]))
        )
    if op.kind in ("Reshape", "Transpose"):
        return tuple(_moved(op, graph.shapes[x], shape, part) for part in (sizes[x], gaps[x]))  # type: ignore[return-value]
    raise NotUnderstood(f"a bound through {op.kind} {op['kind'] if op.kind == 'Slicewise' else ''}")


def _same_axis(a: Spread, b: Spread) -> Spread:
    """Along the axis of the size, which a gap shares or has none."""
    if a.axis == b.axis or a.axis is None:
        return a if a.axis == b.axis else Spread(b.axis, a.pairs * len(b.pairs))
    return a


def _moved(op: Op, shape: Shape, made: Shape, part: Spread) -> Spread:
    if part.axis is None:
        return part
    if op.kind == "Transpose":
        return Spread(op["order"].index(part.axis), part.pairs)
    for i, o in op["free"]:
        if i == part.axis:
            return Spread(o, part.pairs)
    for ins, outs in op["blocks"]:
        if part.axis in ins:
            s, m = digits(shape, ins)[part.axis]
            for axis, (stride, n) in digits(made, outs).items():
                if s % stride == 0 and (stride * n) % (s * m) == 0:
                    return Spread(axis, [part.pairs[k // (s // stride) % m] for k in range(n)])
    return Spread(None, [_most(part.pairs)])


def _carried_entry(
    graph: Graph, step: Step, held: Any, sizes: Any, gaps: Any
) -> tuple[Spread, Spread]:
    op, shape = step.op, graph.shapes[step.output]
    kind, computed = op["kind"], [name for name in step.inputs if graph.value(name) is None]
    if len(step.inputs) == 1:
        x, s = step.inputs[0], _entry(kind, op["numbers"])
        if x not in sizes:
            raise NotUnderstood("a bound of what is stored")
        if kind in ("identity", "neg"):
            return sizes[x], gaps[x]
        if s is None:
            raise NotUnderstood(f"a bound through {kind!r}")
        f, start = facts(s), max(map(abs, value_at(s, ZERO)))
        tops = [(f.lipschitz * c + start, f.lipschitz * g) for c, g in sizes[x].pairs]
        outs = [(f.lipschitz * c, f.lipschitz * g) for c, g in gaps[x].pairs]
        if f.bound is not None:
            tops = [(f.bound if g else min(c, f.bound), ZERO) for c, g in tops]
            outs = [(2 * f.bound, ZERO) if g else (min(c, 2 * f.bound), g) for c, g in outs]
        return Spread(sizes[x].axis, tops), Spread(gaps[x].axis, outs)
    if kind in ("add", "sub") and len(step.inputs) == 2:
        parts = []
        for name in step.inputs:
            if name in computed:
                if graph.shapes[name] != shape:
                    raise NotUnderstood("a bound of what is broadcast")
                parts.append((sizes[name], gaps[name]))
                continue
            now, off = held(name)
            own = graph.shapes[name]
            long = [a for a, n in enumerate(own) if n == len(now) and n > 1]
            axis = long[0] - len(own) + len(shape) if long else None
            pick = (
                (lambda v: [(abs(q), ZERO) for q in v])
                if axis is not None
                else (lambda v: [(max(map(abs, v), default=ZERO), ZERO)])
            )
            if not long and len(now) > 1:
                axis = None
            total = [abs(p) + q for p, q in zip(now, off, strict=True)]
            parts.append((Spread(axis, pick(total)), Spread(axis, pick(off))))
        axis = next((p.axis for pair_of in parts for p in pair_of if p.axis is not None), None)
        n = shape[axis] if axis is not None else 1
        found = []
        for k in (0, 1):
            both = [part[k].at(axis, n) if axis is not None else part[k].pairs for part in parts]
            found.append(
                Spread(axis, [_sum([(ONE, p), (ONE, q)]) for p, q in zip(*both, strict=True)])
            )
        return found[0], found[1]
    raise NotUnderstood(f"a bound through {kind!r} of several tensors")


def play(graph: Graph, moves: list[GraphMove], ends: dict[str, Any]) -> tuple[Graph, Pair]:
    """The graph after a round, and how far its outputs are from those before."""
    kinds = {move.kind for move in moves}
    if "bound" in kinds:
        raise NotUnderstood("bounds of units by affine functions")
    if kinds & {"order", "scale", "unroll"}:
        graph, lost = trade(graph, moves)
        return graph.live(), _gap(graph, lost, ends)
    demand("combine" not in kinds or len(moves) == 1, "a combination is alone in its round")
    touched, total = set[str](), NONE
    for move in moves:
        try:
            if move.kind == "bypass":
                graph = bypass(graph, move).live()
                continue
            if move.kind == "combine":
                graph, lost, total = without_sums(graph, move, ends)
            else:
                graph, lost = remove(graph, ends, move)
        except Rejected as error:
            raise Rejected(f"{move}: {error}") from None
        demand(not touched & set(lost), "a tensor that was rounded changes again")
        touched |= set(lost)
        gap = _gap(graph, lost, ends)
        total = total[0] + gap[0], total[1] + gap[1]
    return graph.live(), total


def _gap(graph: Graph, lost: dict[str, list[Fraction]], ends: dict[str, Any]) -> Pair:
    live = graph.live()
    some = {name: off for name, off in lost.items() if name in live.stored and any(off)}
    return graph_gap(live, some, ends) if some else NONE


def check_graph(data: Any, small: Graph, large: Graph) -> Verdict:
    """Check a certificate of two graphs."""
    read = record(data, ("schema", "large", "small", "rounds", "bounds", "slack"), "a certificate")
    rounds = [
        list(map(graph_move_of, listed(moves, "moves")))
        for moves in listed(read["rounds"], "rounds")
    ]
    demand(type(read["bounds"]) is dict, "bounds are no object")
    ends = {name: ends_of_input(pair_of) for name, pair_of in read["bounds"].items()}
    demand(type(read["slack"]) is list and len(read["slack"]) == 2, "slack is two floats")
    constant, growth = (real(x, "slack", 0.0) for x in read["slack"])
    for side, graph in (("large", large), ("small", small)):
        demand(
            graph.digest == read[side],
            f"the {side} graph is not the certified one: it has digest {graph.digest}",
        )
    for name, pair_of in ends.items():
        demand(name in large.inputs, f"bounds are given of {name[:40]!r}, which is no input")
        shape = large.shapes[name]
        for end in pair_of:
            fits = len(end.shape) <= len(shape) and all(
                n in (1, shape[a - len(end.shape)]) for a, n in enumerate(end.shape)
            )
            demand(fits, f"bounds of {name[:40]!r} do not fit it")
    require_shapes(large)
    left, total = large.live(), (ZERO, ZERO)
    for moves in rounds:
        left, gap = play(left, moves, ends)
        total = total[0] + gap[0], total[1] + gap[1]
    demand(left.digest == small.digest, "after all moves the graph is not the small one")
    if not (total[0] <= constant and total[1] <= growth):
        raise NotUnderstood(
            f"whether rounding is below the slack: {float(total[0])!r} + {float(total[1])!r} |x| is proved here"
        )
    return Verdict(constant, growth, None, False, None, bool(ends))


# Files as graphs


UNARY = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Erf": "erf", "Abs": "abs", "Neg": "neg", "Identity": "identity",
         "Sin": "sin", "Softplus": "softplus", "HardSwish": "hardswish", "Mish": "mish"}  # fmt: skip
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}


def options(at: dict[str, Any], *names_here: str) -> tuple[Any, ...]:
    """Attributes as a digest has them."""
    plain = {
        k: v.encode() if isinstance(v, str) else tuple(v) if isinstance(v, list) else v
        for k, v in at.items()
    }
    return tuple((name, plain.get(name)) for name in names_here)


def onnx_graph(model: Model) -> Graph:
    """The operators of a file, as docs/format.md lists them."""
    shapes: dict[str, Shape] = {}
    stored, steps = dict(model.stored), list[Step]()
    for name, shape in model.inputs.items():
        if model.types.get(name) not in (1, 11):
            raise NotUnderstood("an input that holds no floats of 32 or 64 bits")
        shapes[name] = tuple(n or f"?{name}.{a}" for a, n in enumerate(shape))
    names_taken = (
        {x for node in model.nodes for x in (*node.inputs, *node.outputs)}
        | set(stored)
        | set(shapes)
    )
    for name, array_now in stored.items():
        shapes[name] = array_now.shape

    def emit(op: Op, inputs: Sequence[str], output: str, shape: Shape) -> None:
        if output in shapes:
            raise Unreadable(f"{output[:40]!r} is given twice")
        steps.append(Step(op, tuple(inputs), output))
        shapes[output] = tuple(shape)

    for node in model.nodes:
        if (
            node.op == "Constant"
            and isinstance(node.attributes.get("value"), Tensor)
            and len(node.attributes) == 1
        ):
            stored[node.outputs[0]] = node.attributes["value"]
            shapes[node.outputs[0]] = node.attributes["value"].shape
            continue
        if (
            len(node.outputs) != 1
            or any(x not in shapes for x in node.inputs if x)
            or not node.inputs
        ):
            raise NotUnderstood(
                f"a node {node.op[:40]} of several outputs, or of what is not there"
            )
        if all(x in stored for x in node.inputs):
            raise NotUnderstood("what is computed of constants")
        _onnx_step(node, model.opset, shapes, stored, emit, names_taken)
    if not set(model.outputs) <= set(shapes):
        raise Unreadable("an output is not there")
    return Graph(tuple(model.inputs), tuple(model.outputs), tuple(steps), shapes, stored).live()


def _only(at: dict[str, Any], known: set[str]) -> None:
    if not set(at) <= known:
        raise NotUnderstood(f"attributes {', '.join(sorted(set(at) - known))[:40]}")


def _onnx_step(
    node: Node, opset: int, shapes: Any, stored: Any, emit: Any, taken_names: set[str]
) -> Any:
    op, at, y, x = node.op, node.attributes, node.outputs[0], node.inputs[0]
    shape = shapes[x]
    if opset < 9 or (node.inputs[-1] == "" and op != "Conv"):
        raise NotUnderstood("operators before opset 9, or inputs that are left out")
    integers = any(name in stored and stored[name].whole for name in node.inputs)
    if integers and op != "Reshape":
        raise NotUnderstood("operators of integers")
    if op in UNARY and len(node.inputs) == 1 and not at:
        return emit(Op("Elementwise", (("kind", UNARY[op]), ("numbers", ()))), [x], y, shape)
    if op == "LeakyRelu" and set(at) <= {"alpha"}:
        return emit(
            Op(
                "Elementwise",
                (("kind", "leaky_relu"), ("numbers", (at.get("alpha", SINGLE_HUNDREDTH),))),
            ),
            [x],
            y,
            shape,
        )
    if (
        op == "Clip"
        and opset >= 11
        and len(node.inputs) == 3
        and not at
        and all(n in stored for n in node.inputs[1:])
    ):
        held = [stored[name] for name in node.inputs[1:]]
        if any(len(part.data) != 1 for part in held):
            raise NotUnderstood("ends of a Clip that are no numbers")
        return emit(
            Op(
                "Elementwise",
                (("kind", "clip"), ("numbers", tuple(float(part.data[0]) for part in held))),
            ),
            [x],
            y,
            shape,
        )
    if op in BINARY and len(node.inputs) == 2 and not at:
        return emit(
            Op("Elementwise", (("kind", BINARY[op]), ("numbers", ()))),
            node.inputs,
            y,
            _broadcast([shapes[n] for n in node.inputs]),
        )
    if (
        op == "BatchNormalization"
        and len(node.inputs) == 5
        and set(at) <= {"epsilon", "momentum"}
        and all(n in stored for n in node.inputs[1:])
    ):
        epsilon = at.get("epsilon", struct.unpack("<f", struct.pack("<f", 1e-5))[0])
        return emit(
            Op("PerUnit", (("kind", "batchnorm"), ("axis", 1), ("numbers", (epsilon,)))),
            node.inputs,
            y,
            shape,
        )
    groups = at.get("group", 1)
    if op == "Conv" and node.inputs[1] in stored and len(shape) > 2:
        weight = stored[node.inputs[1]].shape
        _only(at, {"strides", "pads", "dilations", "auto_pad", "group", "kernel_shape"})
        if len(weight) != len(shape) or at.get("kernel_shape", list(weight[2:])) != list(
            weight[2:]
        ):
            raise NotUnderstood("a convolution whose parts do not fit")
        made, reach = _windows(at, shape, weight[2:])
        detail = (
            "conv",
            options(
                at, "strides", "pads", "dilations", "auto_pad", "output_padding", "output_shape"
            ),
        )
        inputs = [name for name in node.inputs if name]
        if (
            shape[1] != weight[1] * groups
            or weight[0] % groups
            or not all(name in stored for name in inputs[1:])
        ):
            raise NotUnderstood("a convolution whose parts do not fit")
        return emit(
            linear_op(1, 1, 1, 0, ((0, 0),), detail, reach, groups),
            inputs,
            y,
            (shape[0], weight[0], *made),
        )
    if op == "Gemm" and node.inputs[1] in stored and len(shape) == 2 and not at.get("transA", 0):
        _only(at, {"alpha", "beta", "transA", "transB"})
        if at.get("alpha", 1.0) != 1.0 or at.get("beta", 1.0) != 1.0:
            raise NotUnderstood("a Gemm that multiplies by a number")
        across = bool(at.get("transB", 0))
        out = stored[node.inputs[1]].shape[0 if across else 1]
        layer = linear_op(1, 1, int(across), int(not across), ((0, 0),))
        if len(node.inputs) < 3:
            return emit(layer, node.inputs, y, (shape[0], out))
        if shapes[node.inputs[2]] == ():
            raise NotUnderstood("a Gemm with one bias for all")
        product = f"{y}:product"
        while product in taken_names:
            product += "'"
        taken_names.add(product)
        emit(layer, node.inputs[:2], product, (shape[0], out))
        return emit(Op("Elementwise", (("kind", "add"), ("numbers", ()))), [product, node.inputs[2]], y,
                    _broadcast([(shape[0], out), shapes[node.inputs[2]]]))  # fmt: skip
    if (
        op == "MatMul"
        and node.inputs[1] in stored
        and len(shapes[node.inputs[1]]) == 2
        and len(shape) > 1
    ):
        rank = len(shape)
        layer = linear_op(rank - 1, rank - 1, 0, 1, tuple((a, a) for a in range(rank - 1)))
        return emit(layer, node.inputs, y, (*shape[:-1], shapes[node.inputs[1]][1]))
    if op == "MatMul" and len(node.inputs) == 2 and not any(x in stored for x in node.inputs):
        a, b = (shapes[name] for name in node.inputs)
        if min(len(a), len(b)) < 2 or a[-1] != b[-2]:
            raise NotUnderstood("a product of tensors whose sizes do not meet")
        lead = _broadcast([a[:-2], b[:-2]]) if len(a) + len(b) > 4 else ()
        return emit(Op("Contract"), node.inputs, y, (*lead, a[-2], b[-1]))
    if op == "ReduceMean" and len(node.inputs) == 1 and set(at) <= {"axes", "keepdims"}:
        gone = {axis % len(shape) for axis in at.get("axes", [])} or set(range(len(shape)))
        keep, rest = bool(at.get("keepdims", 1)), [a for a in range(len(shape)) if a not in gone]
        pairs = tuple((a, a if keep else k) for k, a in enumerate(rest))
        told: Any = (tuple(sorted(gone)), keep, options({}, "select_last_index"))
        mean = slicewise_op(op, pairs, numbers=told, linear=True, keeps=True, zero=True, hull=True)
        made = [1 if a in gone else n for a, n in enumerate(shape) if keep or a not in gone]
        return emit(mean, [x], y, tuple(made))
    if op == "LayerNormalization" and set(at) <= {"axis", "epsilon", "stash_type"}:
        first = at.get("axis", -1) % len(shape)
        gone = set(range(first, len(shape)))
        if any(len(shapes[name]) > len(gone) for name in node.inputs[1:]):
            raise NotUnderstood("a scale that is not the same for all that is normalised")
        epsilon = at.get("epsilon", struct.unpack("<f", struct.pack("<f", 1e-5))[0])
        told = (tuple(sorted(gone)), options(at, "epsilon", "stash_type"))
        norm = slicewise_op(
            op, tuple((a, a) for a in range(first)), numbers=told, normalises=epsilon
        )
        return emit(norm, node.inputs, y, shape)
    if op in ("MaxPool", "AveragePool") and len(shape) > 2 and "kernel_shape" in at:
        windows = {"kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode"}
        _only(at, windows | ({"count_include_pad"} if op == "AveragePool" else {"storage_order"}))
        made, reach = _windows(at, shape, at["kernel_shape"])
        given = options(
            at,
            "kernel_shape",
            "strides",
            "pads",
            "dilations",
            "auto_pad",
            "ceil_mode",
            "count_include_pad",
            "p",
        )
        pads = at.get("pads") or [0]
        if (
            max(pads) >= min(at["kernel_shape"])
            or at.get("dilations", [1]) != [1] * len(at.get("dilations", [1]))
            or at.get("ceil_mode", 0)
        ):
            raise NotUnderstood("a pool whose windows may hold nothing")
        free: Any = ((0, 0), (1, 1))
        border = reach and bool(at.get("count_include_pad", 0))
        laws: dict[str, Any] = {"homogeneous": True, "keeps": True}
        if op == "AveragePool":
            laws = {"linear": True, "keeps": not border, "padded": border}
        kind = "max pool" if op == "MaxPool" else "average pool"
        found = slicewise_op(kind, free, numbers=given, zero=True, hull=True, **laws)
        return emit(found, [x], y, (*shape[:2], *made))
    if op in ("GlobalAveragePool", "GlobalMaxPool") and not at:
        laws = {"linear": True} if op == "GlobalAveragePool" else {"homogeneous": True}
        found = slicewise_op(
            "mean" if op == "GlobalAveragePool" else "max",
            ((0, 0), (1, 1)),
            keeps=True,
            zero=True,
            hull=True,
            **laws,
        )
        return emit(found, [x], y, (*shape[:2], *[1] * (len(shape) - 2)))
    if op == "Softmax" and opset >= 13 and set(at) <= {"axis"}:
        axis = at.get("axis", -1) % len(shape)
        free = tuple((a, a) for a in range(len(shape)) if a != axis)
        return emit(
            slicewise_op(
                "Softmax", free, numbers=((axis,), options({}, "p", "exclusive", "reverse"))
            ),
            [x],
            y,
            shape,
        )
    if op == "Transpose" and len(node.inputs) == 1 and set(at) <= {"perm"}:
        order = tuple(at.get("perm") or range(len(shape))[::-1])
        if sorted(order) != list(range(len(shape))):
            raise NotUnderstood("a transpose of other axes")
        return emit(Op("Transpose", (("order", order),)), [x], y, tuple(shape[a] for a in order))
    if (
        op == "Flatten"
        and set(at) <= {"axis"}
        and at.get("axis", 1) == 1
        and all(isinstance(n, int) for n in shape[1:])
    ):
        return emit(
            reshape_op(shape, (shape[0], math.prod(shape[1:]))),
            [x],
            y,
            (shape[0], math.prod(shape[1:])),
        )
    plain = set(at) <= {"allowzero"} and not at.get("allowzero", 0)
    if op == "Reshape" and len(node.inputs) == 2 and node.inputs[1] in stored and plain:
        target = _target(shape, [int(n) for n in stored[node.inputs[1]].data])
        return emit(reshape_op(shape, target), [x], y, target)
    raise NotUnderstood(f"the ONNX operator {op[:40]} as it is here")


def _broadcast(given: list[Shape]) -> Shape:
    rank, found = max(map(len, given)), list[Any]()
    for back in range(-rank, 0):
        sizes_here = {shape[back] for shape in given if -back <= len(shape)} - {1}
        if len(sizes_here) > 1:
            raise NotUnderstood("sizes that meet another one")
        found.append(sizes_here.pop() if sizes_here else 1)
    return tuple(found)


def _windows(at: dict[str, Any], shape: Shape, kernel: Sequence[int]) -> tuple[list[int], bool]:
    """How many places windows take, and whether they reach over the border."""
    k = len(kernel)
    steps_here, holes = at.get("strides") or [1] * k, at.get("dilations") or [1] * k
    pads, auto = at.get("pads") or [0] * (2 * k), at.get("auto_pad", "NOTSET")
    if (
        auto not in ("NOTSET", "")
        or at.get("ceil_mode", 0)
        or not all(isinstance(n, int) for n in shape[2:])
    ):
        raise NotUnderstood("windows of a size that is not known")
    if (
        not len(shape) - 2 == k == len(steps_here) == len(holes)
        or len(pads) != 2 * k
        or min(steps_here) < 1
    ):
        raise NotUnderstood("windows that do not fit")
    made = [
        (shape[2 + d] + pads[d] + pads[k + d] - holes[d] * (kernel[d] - 1) - 1) // steps_here[d] + 1
        for d in range(k)
    ]
    if min(made) < 1 or any(
        (m - 1) * steps_here[d] >= shape[2 + d] + pads[d] for d, m in enumerate(made)
    ):
        raise NotUnderstood("windows behind the border")
    return made, any(pads)


def _target(shape: Shape, wanted: list[int]) -> Shape:
    made: list[Any] = [shape[a] if n == 0 else n for a, n in enumerate(wanted)]
    if made.count(-1) > 1:
        raise NotUnderstood("a target with two open sizes")
    if -1 in made:
        hole = made.index(-1)
        rest, left = [n for n in made if n != -1], list(shape)
        for n in [n for n in rest if isinstance(n, str)]:
            left.remove(n)
            rest.remove(n)
        open_names = [n for n in left if isinstance(n, str)]
        have, used = (math.prod(n for n in part if isinstance(n, int)) for part in (left, rest))
        if not used or have % used or (open_names and (have != used or len(open_names) > 1)):
            raise NotUnderstood("a target whose open size is not known")
        made[hole] = open_names[0] if open_names else have // used
    return tuple(made)


def reshape_op(shape: Shape, made: Shape) -> Op:
    """Axes that are the same, then blocks of axes with the same entries."""
    free, blocks, i, j = list[Any](), list[Any](), 0, 0
    while i < len(shape) and j < len(made):
        if shape[i] == made[j]:
            free.append((i, j))
            i, j = i + 1, j + 1
            continue
        a, b, p, q = i, j, 1, 1
        while a == i or b == j or p != q:
            side = (shape, a) if p <= q and a < len(shape) else (made, b)
            if side[1] >= len(side[0]) or not isinstance(side[0][side[1]], int):
                raise NotUnderstood("a reshape of other sizes")
            if side[0] is shape:
                p, a = p * shape[a], a + 1
            else:
                q, b = q * made[b], b + 1
        blocks.append((tuple(range(i, a)), tuple(range(j, b))))
        i, j = a, b
    if i < len(shape) or j < len(made):  # axes of one entry, at the end
        if any(n != 1 for n in (*shape[i:], *made[j:])):
            raise NotUnderstood("a reshape of other sizes")
        blocks.append((tuple(range(i, len(shape))), tuple(range(j, len(made)))))
    sizes_here = tuple(n if isinstance(n, int) else None for n in made)
    return Op("Reshape", (("blocks", tuple(blocks)), ("sizes", sizes_here), ("free", tuple(free))))


# The command line ===============================================================================================


def load(path: str) -> Any:
    """A chain, by the suffix of its file; or the model of an ONNX file that is none."""
    name = path.lower()
    packed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    data = content(path, packed)
    if name.endswith(".safetensors"):
        return read_safetensors(data)
    if name.endswith(".npz"):
        return read_npz(data)
    if name.endswith(".onnx"):
        return read_model(data)
    raise Unreadable(f"{path}: .safetensors, .npz and .onnx are read here")


def certificate(path: str) -> Any:
    data = content(path, path.lower().endswith(".gz"))

    def short(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("a whole number is too long")
        return int(digits)

    def none(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(data, object_pairs_hook=once, parse_int=short, parse_constant=none)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{path} is no certificate: {error}") from None


def check(data: Any, small: Any, large: Any) -> Verdict:
    schema = data.get("schema") if type(data) is dict else None
    if schema == "moduli.certificate/1":
        return check_chain(
            data, *(onnx_chain(net) if isinstance(net, Model) else net for net in (small, large))
        )
    if schema == "moduli.certificate/2":
        return check_graph(
            data, *(onnx_graph(net) if isinstance(net, Model) else net for net in (small, large))
        )
    raise Rejected(f"schema {str(schema)[:40]!r} is not known")


def require_demands(found: Verdict, max_slack: float | None, on: Any, minimal: bool) -> None:
    """A claim that is weaker than what is asked for is rejected."""
    if max_slack is None and on is None and not minimal:
        return
    demand(
        found.near in (None, 0.0),
        "demands are of the large network itself, not of parameters near it",
    )
    demand(found.minimal or not minimal, "fewest units are demanded and not claimed")
    demand(
        not (found.bounded and on == "all"),
        "all inputs are demanded, and the certificate holds between bounds",
    )
    if found.bounded and on is not None:
        raise NotUnderstood(
            "whether the bounds of a graph's inputs hold the domain that is demanded"
        )
    if found.box is not None and on is not None:
        demand(on != "all", "all inputs are demanded, and the certificate holds on a box")
        inside = all(
            a <= p and q <= b for a, p, q, b in zip(found.box[0], *on, found.box[1], strict=True)
        )
        demand(inside, "the certificate holds on a smaller box than is demanded")
    if max_slack is not None:
        size = ZERO
        if found.growth:
            demand(
                on not in (None, "all"),
                "a slack that grows with the input is no number on all inputs",
            )
            size = max(abs(Fraction(x)) for end in on for x in end)
        total = Fraction(found.constant) + Fraction(found.growth) * size
        demand(
            total <= max_slack,
            f"a slack of at most {max_slack!r} is demanded, and {outward(total, 1)!r} is certified",
        )


def domain(words: str) -> Any:
    if words == "all":
        return "all"
    parts = words.removeprefix("box:")
    try:
        low, high = (
            [float(x) for x in part.split(",")]
            for part in parts.split(";" if ";" in parts else ",")
        )
    except ValueError:
        low, high = [math.nan], [math.nan]
    if not words.startswith("box:") or not all(map(finite, low + high)):
        raise argparse.ArgumentTypeError(f"{words}: write all, box:LO,HI or box:L1,L2;H1,H2")
    return low, high


class Asked(Exception):
    """What is demanded makes no sense of these files."""


def demanded(on: Any, large: Any) -> Any:
    """Both ends of a box, one number for each input of a chain."""
    if on in (None, "all"):
        return on
    count = large.inputs if isinstance(large, Network) else max(map(len, on))
    low, high = (list(end) * count if len(end) == 1 else list(end) for end in on)
    if not len(low) == len(high) == count:
        raise Asked(
            f"--on has ends of {len(on[0])} and {len(on[1])} numbers, the network {count} inputs"
        )
    if not all(p <= q for p, q in zip(low, high, strict=True)):
        raise Asked("--on: an upper end lies below a lower one")
    return low, high


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A second checker of moduli's certificates.")
    for name in ("certificate", "small", "large"):
        parser.add_argument(name)
    parser.add_argument("--max-slack", type=float)
    parser.add_argument("--on", type=domain)
    parser.add_argument("--minimal", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.max_slack is not None and not 0 <= asked.max_slack < INF:
        parser.error("--max-slack is a finite number from 0 on")
    sys.set_int_max_str_digits(0)
    try:
        data = certificate(asked.certificate)
        small, large = load(asked.small), load(asked.large)
        on = demanded(asked.on, large)
        found = check(data, small, large)
        require_demands(found, asked.max_slack, on, asked.minimal)
    except Asked as error:
        parser.error(str(error))
    except (Rejected, NotUnderstood, Unreadable) as error:
        code, word = {
            Rejected: (1, "rejected"),
            NotUnderstood: (3, "undecided"),
            Unreadable: (4, "cannot read"),
        }[type(error)]
        print(f"{word}: {str(error)[:2000]!a}"[:2100], file=sys.stderr)
        return code
    except (
        RecursionError,
        MemoryError,
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
    ) as error:
        print(f"undecided: this cannot be followed ({type(error).__name__})", file=sys.stderr)
        return 3
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
