"""Malformed files, made by chance from small valid ones: fields changed with the structure in view,
then bytes without it.

Every maker takes a `numpy.random.Generator` and gives the bytes of one file; the same generator,
the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import tempfile
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

import moduli as mo
from moduli.formats.onnx import operations  # noqa: F401  fills the registry
from moduli.formats.onnx.nodes import OPS

INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.5,
    1e-320,
    1e-40,
    1e30,
    1e300,
    1.7e308,
    float("nan"),
    float("inf"),
    float("-inf"),
)
TEXTS = (
    "", "x", "W1", "layers.0.weight", "../x", "/etc/passwd", "a/../../b", "w.bin", "sub/w.bin",
    "x" * 300, "x" * 5000, "\0", "\n", "a\nb\rc", "\uff11\uff12", "٣", "\u202e", "é", "\x1b[31m",
    "identity", "softmax", "tanh", "relu", "leaky_relu(1e999)", "leaky_relu(nan)",
    "leaky_relu(-1)", "leaky_relu(1_0)", "TANH", "1_000", "0x10", "nan", "inf", "1e400", "%s{}",
    "__class__",
)  # fmt: skip
TOKENS = (
    b"1e999", b"-1e999", b"NaN", b"Infinity", b"-0", b"-0.0", b"1.0", b"true", b"false", b"null",
    b"0", b"1", b"-1", b"2", b"1e-400", b"9" * 19, b"9" * 21, b"9" * 5000, b"1e5", b"0.1", b'"1"',
    b'"1/0"', b'"-1/3"', b'"1e5"', '"\uff11\uff12"'.encode(), b'"\\ud800"', b'"\\u0000"', b'""',
    b"[]", b"{}", b"[[]]", b'[{}]', b"[0, 0]", b"[null]", b'{"a": 1}', b'"' + b"7" * 800 + b'"',
    b'"' + b"x" * 100_000 + b'"', b"[" * 500 + b"]" * 500, b"[" * 950 + b"]" * 950, b"[" * 100_000,
    b"1" + b"0" * 400, "\uff11\uff12".encode(), b"01", b"+1", b"1_0", b"0x1", b"'a'", b"[0,",
    b"1.7e308", b"2.2250738585072011e-308", b"4294967296", b"-9223372036854775808",
)  # fmt: skip


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def scramble(rng, data, others=()):
    """A few changes of bytes: flips, cuts, insertions, copies, and pieces of other files."""
    data = bytearray(data)
    for _ in range(int(rng.geometric(0.6))):
        at, size = (int(rng.integers(len(data) + 1)), int(2 ** rng.uniform(0, 8)))
        kind = int(rng.integers(10))
        if kind < 3 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif kind == 3 and data:
            data[at % len(data)] = pick(
                rng, (0, 1, 10, 34, 40, 41, 44, 46, 91, 93, 123, 125, 127, 128, 255)
            )
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + size]
        elif kind == 6:
            data[at:at] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        elif kind == 7:
            data[at : at + 8] = struct.pack(pick(rng, "<>") + "q", pick(rng, INTEGERS))
        elif kind == 8:
            start = int(rng.integers(len(data) + 1))
            data[at:at] = data[start : start + size]
        else:
            other = bytes(pick(rng, others)) if len(others) else bytes(data)
            data[at:] = other[int(rng.integers(len(other) + 1)) :] if rng.random() < 0.5 else other
    return bytes(data)


# JSON -----------------------------------------------------------------------------------------------------------


class Pairs(list):
    """An object as pairs, so that a key can stand twice."""


def _tree(value):
    if isinstance(value, dict):
        return Pairs([k, _tree(v)] for k, v in value.items())
    return [_tree(v) for v in value] if isinstance(value, list) else json.dumps(value).encode()


def _dump(tree):
    if isinstance(tree, Pairs):
        return b"{" + b", ".join(json.dumps(k).encode() + b": " + _dump(v) for k, v in tree) + b"}"
    return b"[" + b", ".join(map(_dump, tree)) + b"]" if isinstance(tree, list) else tree


def _places(tree, found):
    """(container, index) of everything inside."""
    for k, item in enumerate(tree):
        child = item[1] if isinstance(tree, Pairs) else item
        found.append((tree, k))
        if isinstance(child, list):
            _places(child, found)
    return found


def bend(rng, value, tokens=TOKENS):
    """JSON text of a value with a few fields replaced, doubled, dropped, renamed, swapped or moved
    by one.
    """
    tree = _tree(value)
    for _ in range(int(rng.geometric(0.6))):
        places = _places(tree, [])
        if not places:
            break
        (box, k), kind = pick(rng, places), int(rng.integers(9))
        pairs = isinstance(box, Pairs)
        old = box[k][1] if pairs else box[k]
        new = old
        if kind < 4:
            new = pick(rng, tokens)
        elif kind == 4 and isinstance(old, bytes) and re.fullmatch(rb"-?\d{1,20}", old):
            new = str(int(old) + pick(rng, (-1, 1, 2**31, -(2**31)))).encode()
        elif kind == 5:
            box.insert(k, [box[k][0], pick(rng, tokens)] if pairs else old)
            continue
        elif kind == 6:
            del box[k]
            continue
        elif kind == 7 and pairs:
            box[k][0] = pick(rng, TEXTS)
        elif kind == 7:
            box.reverse()
            continue
        else:
            other, j = pick(rng, places)
            if other is box:
                box[k], box[j] = box[j], box[k]
            continue
        if pairs:
            box[k][1] = new
        else:
            box[k] = new
    return _dump(tree)


# Networks, and what save makes of them --------------------------------------------------------------------------


def network(rng, kind=None):
    widths = rng.integers(1, 5, int(rng.integers(2, 5))).tolist()
    parts = [
        a
        for n, m in pairwise(widths)
        for a in (rng.integers(-8, 9, (m, n)) / 4, rng.normal(size=m))
    ]
    kinds = (
        "tanh",
        "relu",
        "sigmoid",
        "leaky_relu(0.1)",
        "gelu",
        "silu",
        "softplus",
        "sin",
        "abs",
        "erf",
    )
    output_map = "identity" if kind else pick(rng, ("identity", "identity", "softmax", "tanh"))
    return mo.Network.mlp(*parts, activation=kind or pick(rng, kinds), output_map=output_map)


@cache
def saved(suffix):
    """The bytes of a few networks in a format."""
    rng, files = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(8):
            net = network(rng, "relu" if suffix == ".nnet" else None)
            path = mo.save(net, Path(folder) / f"net{suffix}", dtype=("float64", "float32")[k % 2])
            files.append(path.read_bytes())
    return files


def any_bytes(rng, suffix, made):
    """Mostly what a maker made, also with bytes changed; else a saved file with bytes changed."""
    choice = rng.random()
    if choice < 0.6:
        return made(rng)
    if choice < 0.75:
        return scramble(rng, made(rng), saved(suffix))
    return scramble(rng, pick(rng, saved(suffix)), saved(suffix))


# ONNX -----------------------------------------------------------------------------------------------------------


def onnx_file(rng):
    return any_bytes(rng, ".onnx", lambda r: _graph(r) if r.random() < 0.5 else _bent_model(r))


def _bent_model(rng):
    import onnx

    model = onnx.load_model_from_string(pick(rng, saved(".onnx")))
    for _ in range(int(rng.geometric(0.6))):
        pick(rng, _BENDS)(rng, model, model.graph)
    return model.SerializeToString()


def _bent_tensor(rng, model, graph):
    if not graph.initializer:
        return
    tensor = pick(rng, graph.initializer)
    kind = int(rng.integers(9))
    if kind == 0:
        tensor.dims[:] = [pick(rng, INTEGERS) for _ in range(int(rng.integers(0, 4)))]
    elif kind == 1:
        tensor.data_type = int(pick(rng, (*range(25), 2**31 - 1, -1)))
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    elif kind == 3:
        tensor.raw_data = np.full(len(tensor.raw_data) // 8, pick(rng, FLOATS)).tobytes()
    elif kind == 4:
        tensor.name = pick(rng, TEXTS)
    elif kind == 5:
        tensor.ClearField("raw_data")
        tensor.double_data.extend([pick(rng, FLOATS)] * int(rng.integers(0, 5)))
    elif kind == 6:
        tensor.data_location = 1
        for key in ("location", "offset", "length", "checksum", "location")[
            : int(rng.integers(1, 6))
        ]:
            options = (
                ("w.bin", "w.bin", *TEXTS)
                if key == "location"
                else (*map(str, INTEGERS), "9" * 5000, "\uff11\uff12", " 8", "1_6")
            )
            entry = tensor.external_data.add()
            entry.key, entry.value = key, pick(rng, options)
    elif kind == 7:
        graph.initializer.add().CopyFrom(tensor)
    else:
        tensor.dims[:] = [*tensor.dims, 1] if rng.random() < 0.5 else [1, *tensor.dims]


def _bent_node(rng, model, graph):
    if not graph.node:
        return
    node, kind = pick(rng, graph.node), int(rng.integers(8))
    if kind == 0 and node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(
            rng, (*TEXTS, *(n.output[0] for n in graph.node if n.output))
        )
    elif kind == 1:
        node.op_type = pick(rng, (*OPS, *TEXTS, "MaxPool", "If", "Loop"))
    elif kind == 2 and node.output:
        node.output[0] = pick(rng, (*TEXTS, *(n.output[0] for n in graph.node if n.output)))
    elif kind == 3:
        graph.node.add().CopyFrom(node)
    elif kind == 4:
        node.input.append(pick(rng, ("", *TEXTS, *(t.name for t in graph.initializer))))
    elif kind == 5:
        del node.input[int(rng.integers(len(node.input) + 1)) :]
    elif kind == 6:
        node.domain = pick(rng, TEXTS)
    else:
        _attribute(rng, node)


def _attribute(rng, node):
    names = (
        "alpha",
        "beta",
        "transA",
        "transB",
        "axis",
        "axes",
        "perm",
        "to",
        "epsilon",
        "value",
        "approximate",
        "allowzero",
        "start",
        "end",
        "group",
        "pads",
        "broadcast",
        "value_float",
        "value_ints",
        "value_floats",
        "value_int",
    )
    one = node.attribute.add()
    one.name, one.type = pick(rng, names), int(rng.integers(0, 9))
    one.f, one.i, one.s = pick(rng, FLOATS), pick(rng, INTEGERS), pick(rng, (b"tanh", b"\xff", b""))
    one.ints.extend(pick(rng, INTEGERS) for _ in range(int(rng.integers(0, 3))))
    one.floats.extend(pick(rng, FLOATS) for _ in range(int(rng.integers(0, 3))))


def _bent_ends(rng, model, graph):
    kind = int(rng.integers(7))
    if kind == 0:
        model.opset_import[0].version = pick(rng, (*INTEGERS, 6, 7, 9, 12, 13, 26))
    elif kind == 1:
        del graph.output[:]
    elif kind == 2 and graph.output:
        graph.output[0].name = pick(rng, (*TEXTS, "input", "weight1", "z1"))
    elif kind == 3 and graph.input:
        dims = graph.input[0].type.tensor_type.shape.dim
        if dims:
            pick(rng, dims).dim_value = pick(rng, INTEGERS)
        if rng.random() < 0.3:
            dims.add().dim_value = pick(rng, INTEGERS)
    elif kind == 4 and graph.input:
        graph.input[0].type.tensor_type.elem_type = int(rng.integers(0, 20))
    elif kind == 5 and graph.input:
        graph.input.add().CopyFrom(graph.input[0])
    else:
        graph.output.add().name = pick(rng, TEXTS)


_BENDS = (_bent_tensor, _bent_tensor, _bent_node, _bent_node, _bent_ends)


def _graph(rng):
    """Random operations on random constants, some of them large, declared in few bytes."""
    from onnx import TensorProto, helper, numpy_helper

    stored = {
        "w": rng.normal(size=(3, 4)), "v": rng.normal(size=4), "u": rng.normal(size=3),
        "s": np.array(pick(rng, FLOATS)), "i": np.array([1, -1]),
        "k": np.array(pick(rng, INTEGERS[:-2])), "e": np.zeros(0),
        "far": np.array([pick(rng, INTEGERS[:-1])]), "c": rng.normal(size=(4, 1, 1, 3)),
        "b": np.array([True]), "z": np.zeros(4), "t": np.array([2**11, 2**11]),
        "g": np.array([2**22]), "h": np.array([2**20, 4]), "n": np.array([-1, 2**62, 2**63 - 1]),
        "f": np.array([1e300, 1e-300]), "o": np.array([0, 2**22]), "q": np.float16([1.0, np.inf]),
        "y8": np.array([255, 1], dtype=np.uint8),
    }  # fmt: skip
    names, nodes, ops = ["x"], [], tuple(OPS)
    for k in range(int(rng.integers(1, 9))):
        if rng.random() < 0.1:
            nodes.append(
                helper.make_node(
                    "ConstantOfShape", [pick(rng, ("t", "g", "h", "i", "far", "o", "e"))], [f"t{k}"]
                )
            )
        else:
            others = [
                pick(rng, (*names, *names, *stored, "")) for _ in range(int(rng.integers(0, 4)))
            ]
            nodes.append(
                helper.make_node(
                    pick(rng, ops), [pick(rng, (names[-1], *names)), *others], [f"t{k}"]
                )
            )
            if rng.random() < 0.2:
                _attribute(rng, nodes[-1])
        names.append(f"t{k}")
    shape = pick(
        rng,
        (
            (1, 3),
            ("N", 3),
            (1, 1, 1, 3),
            (3,),
            (5, 3),
            (3, 1),
            ("N", 4),
            (),
            (1, 2**12),
            (1, 2**22),
            (1, 0),
            (2**31, 3),
        ),
    )
    ends = [
        helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape),
        helper.make_tensor_value_info(names[-1], 11, None),
    ]
    arrays = [numpy_helper.from_array(np.asarray(a), name) for name, a in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", pick(rng, (6, 9, 12, 13, 17, 21)))]
    ).SerializeToString()


# npz, safetensors, nnet -----------------------------------------------------------------------------------------


def npz_file(rng, made=None):
    return any_bytes(rng, ".npz", made or _npz)


def _npz(rng):
    with zipfile.ZipFile(io.BytesIO(pick(rng, saved(".npz")))) as archive:
        entries = [[name, archive.read(name)] for name in archive.namelist()]
    return _archive(rng, entries)


def samples_file(rng):
    return npz_file(
        rng, lambda r: _archive(r, [[f"{n}.npy", _npy(a)] for n, a in _tables(r).items()])
    )


def _tables(rng):
    rows = int(rng.integers(0, 5))
    tables = {
        "x": rng.normal(size=(rows, 3)),
        "y": rng.integers(0, 3, rows),
        "a": np.full((2, 2), pick(rng, FLOATS)),
    }
    training = {
        "x_train": rng.normal(size=(4, 2)),
        "y_train": np.arange(4),
        "x_test": rng.normal(size=(2, 2)),
        "y_test": np.arange(2),
    }
    plane = {"origin": np.zeros(2), "u": np.array([1.0, 0.0]), "v": np.array([0.0, 1.0])}
    return pick(rng, (tables, {"x": tables["x"]}, training, training, plane, plane, {}))


def _npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _archive(rng, entries):
    """A zip of .npy entries with headers, names, methods and sizes that may lie."""
    for _ in range(int(rng.geometric(0.6)) - 1):
        if not entries:
            break
        entry, kind = pick(rng, entries), int(rng.integers(9))
        if kind < 3:
            entry[1] = _bent_npy(rng, entry[1])
        elif kind == 3:
            entry[0] = pick(rng, TEXTS) + pick(rng, (".npy", "", ".npy.npy"))
        elif kind == 4:
            entries.append(list(entry))
        elif kind == 5:
            entries.remove(entry)
        elif kind == 6:
            entry[1] = scramble(rng, entry[1])
        elif kind == 7:
            entry[1] = _npy(
                np.full(pick(rng, ((2, 3), (3, 2), (2,), (0, 3), (3, 0), ())), pick(rng, FLOATS))
            )
        else:
            kinds = (
                "<U0",
                "<U8",
                "S4",
                "M8[s]",
                "c16",
                "f2",
                "g",
                "?",
                "V4",
                "i8",
                "u8",
                "f8,f4",
                ">f8",
                "(2,)f8",
            )
            entry[1] = _npy(
                np.zeros(pick(rng, ((2, 3), (1,), (), (10**6, 0))), dtype=pick(rng, kinds))
            )
    method, bomb = pick(rng, (0, 0, 0, 0, 8, 8, 8, zipfile.ZIP_BZIP2)), rng.random() < 0.01
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=method) as archive:
        for name, data in [*entries, *([["bomb.npy", b"\0" * 2**22]] if bomb else [])]:
            info = zipfile.ZipInfo(name.replace("\0", "?"))
            info.compress_type = method
            archive.writestr(info, data)
    packed = bytearray(buffer.getvalue())
    if rng.random() < 0.15:
        _lie(rng, packed)
    return bytes(packed)


def _lie(rng, packed):
    """Another size, method or flag in the central directory."""
    at = packed.find(b"PK\1\2")
    if at >= 0:
        offset, form = pick(rng, ((8, "<H"), (10, "<H"), (20, "<I"), (24, "<I"), (42, "<I")))
        value = pick(
            rng,
            (0, 1, 8, 12, 14, 99, 100, 2**16 - 1)
            if form == "<H"
            else (0, 1, 80, 200, 2**26, 2**31, 2**32 - 1),
        )
        struct.pack_into(form, packed, at + offset, value)


def _bent_npy(rng, data):
    """Another .npy header before the same bytes."""
    shapes = (
        "(2, 3)", "(3,)", "()", "(0,)", "(-1, -6)", "(10**9,)", "(1000000000000, 1000000000000)",
        "(2.0, 3)", "(True,)", "(99999999999999999999,)", "(1000000000000,)", "(1000000000000, 0)",
        "(2L, 3L)", "'x'", "(" * 300, "[2, 3]",
    )  # fmt: skip
    descrs = (
        "'<f8'", "'<U0'", "'|V0'", "'|O'", "[]", "[('a', '<f8')]", "'<f8, <f8'", "'M8[s]'",
        "('<f8', (2,))", "'<c16'", "None", "'<i8'", "'|b1'", "'<f2'", "'<U1'", "[('a', '|O')]",
        "'<U99999999999'", "{'names': [], 'formats': []}", "'>f8'", "'<f3'", "'<U999999999'",
    )  # fmt: skip
    shape, descr = pick(rng, shapes), pick(rng, descrs)
    order = pick(rng, ("False", "True", "1", "None"))
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text = pick(
        rng,
        (
            text,
            text,
            text,
            text[:-3],
            text + "\n" * 70_000,
            text.replace("'", "", 1),
            "{}",
            "[1",
            "'''",
            text + "  x",
        ),
    )
    version = pick(rng, ((1, 0), (1, 0), (2, 0), (3, 0), (0, 9)))
    head = text.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(head) % 2**16)
    body = data[128:] if rng.random() < 0.8 else b""
    return b"\x93NUMPY" + bytes(version) + size + head + body


def safetensors_file(rng):
    return any_bytes(rng, ".safetensors", _safetensors)


def _safetensors(rng):
    data = pick(rng, saved(".safetensors"))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.3:
        name = pick(rng, [k for k in header if k != "__metadata__"])
        header[name]["dtype"] = pick(
            rng,
            (
                "F16",
                "BF16",
                "I64",
                "U8",
                "BOOL",
                "F8_E4M3",
                "F8_E5M2",
                "F4",
                "C64",
                "I4",
                "f64",
                "F32",
            ),
        )
    if rng.random() < 0.2:
        header.pop("__metadata__")
    text = bend(
        rng,
        header,
        (
            *TOKENS,
            b'"F64"',
            b"[0, 8]",
            b"[8, 0]",
            b"[0, 18446744073709551615]",
            b"[2, 1152921504606846976]",
        ),
    )
    length = len(text) if rng.random() < 0.9 else pick(rng, (*map(abs, INTEGERS[:-1]), 2**64 - 1))
    return length.to_bytes(8, "little") + text + data[8 + size :]


def nnet_file(rng):
    return any_bytes(
        rng,
        ".nnet",
        lambda r: bent_text(
            r,
            _dialect(r),
            rb"[^,\n]+",
            (*NUMBERS, b",", b"\n", b"//", "// Réseau".encode("latin-1"), b"\r", b"\xef\xbb\xbf"),
        ),
    )


HEADERS = (
    b"0,\n-1,-2,\n1,2,\n0.5,0,4,\n2,1,8,\n", b"0\n-1,-2,7,8\n1,2,9,9\n0.5,0,7,7,4\n2,1,7,7,8\n",
    b"0\n-1,-2\n1,2\n0.5,0\n2,1\n", b"0\n-1,-2\n1,2\n", b"-1,-2\n1,2\n0.5,0,4\n2,1,8\n",
    b"0\n0\n0\n0\n0\n", b"0\n0\n0\n0.5,0,4\n2,1,8\n", b"",
)  # fmt: skip


def _dialect(rng):
    """A file of this library, or one in a dialect of others."""
    if rng.random() < 0.5:
        return pick(rng, saved(".nnet"))
    sizes = pick(rng, (b"2,2,1,3,\n2,3,1,\n", b"2 2 1 3\n2 3 1 1\n"))
    start = pick(rng, (b"", b"\xef\xbb\xbf", "// größte\n".encode()))
    weights = b"1.0,2.0,\n-1.0,0.5,\n0.25,-0.75,\n0.1,\n0.2,\n-0.3,\n1.0,-1.0,2.0,\n0.5,\n"
    text = start + sizes + pick(rng, HEADERS) + weights
    return text.replace(b"\n", b"\r\n") if rng.random() < 0.2 else text


# Files in other files -------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def _gzip(data):
    return gzip.compress(data, 1, mtime=0)


def packed_file(rng, made):
    """A file packed by gzip: whole, in members, cut, changed, with more behind it; or a pointer in
    its place.
    """
    data, kind = made(rng), int(rng.integers(10))
    if kind == 0:
        return pick(
            rng, (POINTER, POINTER[:50], scramble(rng, POINTER), _gzip(POINTER), b"<html>", data)
        )
    packed = _gzip(data)
    if kind == 1:
        at = int(rng.integers(len(data) + 1))
        packed = _gzip(data[:at]) + _gzip(data[at:])
    elif kind == 2:
        packed = packed[: int(rng.integers(len(packed) + 1))]
    elif kind == 3:
        packed += pick(rng, (bytes(100), b"more", _gzip(b""), packed, packed[:15]))
    elif kind == 4 and rng.random() < 0.05:
        packed = _gzip(bytes(2**27)) if rng.random() < 0.5 else _gzip(bytes(2**22)) * 24
    elif kind == 5:
        packed = _gzip(packed)
    elif kind < 8:
        packed = scramble(rng, packed, [packed])
    return packed


@cache
def policies():
    """The bytes of torch files such as Stable-Baselines3 keeps in its archives."""
    import torch

    def layers(**sizes):
        shapes = {stem.replace("_0", ".0"): size for stem, size in sizes.items()}
        weights = {f"{stem}.weight": torch.ones(m, n) for stem, (n, m) in shapes.items()}
        return weights | {f"{stem}.bias": torch.ones(m) for stem, (_, m) in shapes.items()}

    found = [
        layers(a_0=(3, 4), b_0=(3, 4), a=(4, 2)) | {"log_std": torch.zeros(2)},
        layers(q_net_0=(2, 3), q_net=(3, 2)),
        {},
    ]
    return [_torch_bytes(state) for state in found] + checkpoints()[:6]


def _torch_bytes(value):
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def policy_file(rng):
    """A zip archive with a policy, whose entries, sizes and methods may lie."""
    policy = pick(rng, policies())
    if rng.random() < 0.2:
        policy = scramble(rng, policy, policies())
    entries = [
        ["data", b"{}"],
        ["policy.pth", policy],
        ["pytorch_variables.pth", pickle.dumps(print)],
    ]
    if rng.random() < 0.3:
        pick(rng, entries)[0] = pick(rng, ("policy.pth", "../policy.pth", "a/data.pkl", "x", ""))
    method, buffer = pick(rng, (0, 0, 8, 8, zipfile.ZIP_BZIP2)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    packed = bytearray(buffer.getvalue())
    if rng.random() < 0.3:
        _lie(rng, packed)
    return scramble(rng, bytes(packed), policies()) if rng.random() < 0.3 else bytes(packed)


NUMBERS = (
    b"0", b"1", b"-1", b"2", b"3", b"1e999", b"nan", b"inf", b"-inf", b"1e308", b"1e-330",
    b"9" * 20, b"9" * 5000, b"1_0", b"", b" ", "\uff11\uff12".encode(), b"0x10", b"1.5", b"1.",
    b".5", b"1e", b"+1", b"--1", b"true", b"\0", b"1e-999999999", b"1e9999999999", b"1/3",
)  # fmt: skip


def bent_text(rng, data, pattern, tokens):
    """Some tokens replaced, dropped, doubled or swapped."""
    parts = re.split(b"(" + pattern + b")", data)
    for _ in range(int(rng.geometric(0.6))):
        at, kind = int(rng.integers(len(parts))), int(rng.integers(8))
        if kind < 5:
            parts[at] = pick(rng, tokens)
        elif kind == 5:
            parts[at] = b""
        elif kind == 6:
            parts[at] *= 2
        else:
            other = int(rng.integers(len(parts)))
            parts[at], parts[other] = parts[other], parts[at]
    return b"".join(parts)


# Torch checkpoints ----------------------------------------------------------------------------------------------


@cache
def checkpoints():
    import torch

    def state(dtype=torch.float64):
        return {
            "0.weight": torch.ones(2, 3, dtype=dtype),
            "0.bias": torch.zeros(2, dtype=dtype),
            "2.weight": torch.ones(1, 2, dtype=dtype),
        }

    loop = {"epoch": 1}
    loop["state_dict"] = loop
    huge = torch.ones(1).expand(2**20, 2**20)
    odd = [
        torch.ones(3).to_sparse(), torch.ones(2, 3, dtype=torch.complex64), torch.tensor(1.0),
        huge, torch.ones(0, 3), torch.full((2, 3), float("nan")),
        torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.bool),
        torch.ones(3, 2).T, torch.ones(2, 3).to(torch.float8_e4m3fn),
        torch.empty(2, 3, device="meta"), torch.nn.Parameter(torch.ones(2, 3)),
    ]  # fmt: skip
    values = [
        state(),
        {"model": state(torch.float32), "epoch": 3},
        {"a": {"b": state()}},
        loop,
        [1, 2],
        {},
        {"x" * 1000: 1},
        {1: torch.ones(2, 3)},
    ]
    values += [{**state(), "0.weight": tensor} for tensor in odd] + [
        {**state(), "a\nb": tensor} for tensor in odd[:2]
    ]
    files = []
    for k, value in enumerate(values):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=k % 3 != 2)
        files.append(buffer.getvalue())
    files += [pickle.dumps(print), pickle.dumps({"a": [1] * 10}), pickle.dumps(io.BytesIO)]
    return files


def checkpoint_file(rng):
    data = pick(rng, checkpoints())
    if data[:2] != b"PK" or rng.random() < 0.3:
        return scramble(rng, data, checkpoints()) if rng.random() < 0.9 else data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [[name, archive.read(name)] for name in archive.namelist()]
    for entry in entries:
        if entry[0].endswith("data.pkl"):
            old, new = (
                struct.pack("<" + pick(rng, "BHi"), pick(rng, (0, 1, 2, 3, 6, 255)))
                for _ in range(2)
            )
            entry[1] = pick(
                rng,
                (
                    entry[1].replace(old, new, 1),
                    scramble(rng, entry[1]),
                    entry[1],
                    _pickle_int(rng, entry[1]),
                ),
            )
    if rng.random() < 0.3:
        pick(rng, entries)[int(rng.integers(2))] = pick(
            rng, ("archive/constants.pkl", "x", "archive/data/0", b"", b"1")
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", compression=pick(rng, (0, 0, 0, 0, 8, zipfile.ZIP_BZIP2))
    ) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name if isinstance(name, str) else "n"), content)
    return buffer.getvalue() if rng.random() < 0.9 else scramble(rng, buffer.getvalue())


def _pickle_int(rng, data):
    """One small integer of a pickle becomes a large one."""
    places = [m.start() for m in re.finditer(rb"K[\0-\x0f]", data, re.DOTALL)]
    if not places:
        return data
    at = pick(rng, places)
    return data[:at] + pickle.dumps(pick(rng, INTEGERS), 2)[2:-1] + data[at + 2 :]


# VNN-LIB, sweeps ------------------------------------------------------------------------------------------------

BOX = (
    b"; a box\n(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(assert (<= X_0 0.5))\n"
    + (
        b"(assert (>= X_0 -1.25e-1))\n(assert (and (<= X_1 1) (>= X_1 0)))\n"
        b"(assert (or (and (<= X_0 0.25) (>= Y_0 1)) (<= X_0 0.3)))\n"
    )
)
WORDS = (
    b"(", b")", b"((", b"))", b"(" * 200, b"(" * 100_000, b"and", b"or", b"<=", b">=", b"not",
    b"assert", b"declare-const", b"X_0", b"X_1", b"X_2", b"(- 1)", b"(* 2 0.5)", b"(/ 1 0)",
    b"(/ X_0 -2)", b"(+ X_0 X_1)", b"=", b"distinct", b"=>", b"let", b"true", b"false",
    b"(or (<= X_0 0) (<= X_1 0))" * 20, b"(* 1e999 1e999)", b"|", b'"', b"[", b"]", b"X[0,1]",
    b"X[1]", b"[1,2]", b"push", b"Int", b"<2.0>", b"declare-input", b"declare-network",
    "X_\uff11".encode(), b"X_" + b"9" * 5000, b"X_00", b"X_-1", b"Y_0", b"Real", b";", b"\n",
    b"(or)", b"(and)", b"(assert)", b"()", b"\xff", *NUMBERS,
)  # fmt: skip
CONFIG = b"""# digits
data = "digits"
width = 4
steps = 2
lr = 0.05
batch = 10
seeds = 2
[[runs]]
name = "none"
[[runs]]
name = "rows"
noise = { kind = "rows", alpha = 1.75, sigma = 0.02 }
[[runs]]
name = "lasso"
penalty = { group_lasso = 0.01 }
"""
TOML = (
    b"=", b"[", b"]", b"[[runs]]", b"[runs]", b"{", b"}", b"runs", b"seeds", b"width", b"data",
    b"name", b"noise", b"penalty", b"'digits'", b'"x.npz"', b"true", b"nan", b"-inf",
    b"1979-05-27", b"07:32:00", b"{}", b"[]", b"[1, 2]", b'"\\ud800"', b'"\\u0000"', b"'''", b"\n",
    b".", b"[" * 3000 + b"]" * 3000, b"{a=" * 3000, b"9" * 12, b"a.b.c", b"0", b"-1", b"1.5",
    *NUMBERS,
)  # fmt: skip


BOX_2 = (
    b"(vnnlib-version <2.0>)\n(declare-network f (declare-input X real [1,2]) (declare-output Y real [1]))\n"
    b"(assert (and (<= X[0,0] 1.0) (>= X[0,0] (- 1)) (== X[0,1] 0.5)))\n(assert (or (<= Y[0] 0) (<= X[0,0] 0.5)))\n"
)


def box_file(rng):
    data = bent_text(rng, BOX if rng.random() < 0.6 else BOX_2, rb"[^\s()]+|[()]", WORDS)
    return data if rng.random() < 0.7 else scramble(rng, data, [BOX, BOX_2])


def config_file(rng):
    data = bent_text(rng, CONFIG, rb"[\w.-]+|\"[^\"\n]*\"|[\[\]{}=,]", TOML)
    return data if rng.random() < 0.7 else scramble(rng, data, [CONFIG])
