"""What a file may hold: the schema, damaged files, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tflite")

import tflite
from tflite_models import File

import moduli as mo
from moduli.common.graph import NotWritable
from moduli.formats.tflite.flatbuffer import Reader, Writer
from moduli.formats.tflite.schema import (
    ALIGNED,
    EMPTY,
    IDENTIFIER,
    OPERATORS,
    OPTIONS,
    SCHEMA,
    TABLES,
    UNIONS,
)
from moduli.formats.tflite.tflite_files import load
from moduli.kernel.errors import UnsupportedModel

RNG = np.random.default_rng(2)
KINDS = {
    "Int8": "i8", "Uint8": "u8", "Int32": "i32", "Uint32": "u32", "Int64": "i64", "Uint64": "u64",
    "Float32": "f32", "Bool": "bool",
}  # fmt: skip


class Recorder:
    """A builder that writes down what is put where."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, args))


def stated(name: str) -> dict[int, str]:
    """Kinds of the fields of a table by slot, as the package of the schema writes them."""
    found = {}
    for key, put in vars(tflite).items():
        if key.startswith(f"{name}Add") and callable(put) and f"{name}Start" in vars(tflite):
            recorder = Recorder()
            put(recorder, 0)
            kind, args = recorder.calls[0]
            kind = kind.removeprefix("Prepend").removesuffix("Slot")
            found[args[0]] = KINDS.get(kind, "offset")
    return found


@pytest.mark.parametrize("name", [*TABLES, *(f"{name}Options" for name, _ in OPTIONS.values())])
def test_the_schema_is_that_of_tensorflow(name):
    wanted = stated(name)
    for slot, (_, kind) in SCHEMA[name].items():
        if slot in wanted:
            assert wanted[slot] == (kind if kind in KINDS.values() else "offset")
    assert (
        set(wanted) <= set(SCHEMA[name]) or name == "SparsityParameters" or name == "SignatureDef"
    )


def test_numbers_of_operators_and_options_are_those_of_tensorflow():
    for number, name in enumerate(OPERATORS):
        assert getattr(tflite.BuiltinOperator, name) == number
    for number, (name, _) in OPTIONS.items():
        assert getattr(tflite.BuiltinOptions, f"{name}Options") == number
    names = {v: k for k, v in vars(tflite.BuiltinOptions).items() if isinstance(v, int)}
    for number in EMPTY:
        assert stated(names[number]) == {}


def conv(count: int = 4) -> File:
    f = File()
    x = f.input(1, 6, 6, 3)
    w = f.stored(RNG.standard_normal((count, 3, 3, 3)).astype(np.float32), "w")
    b = f.stored(np.zeros(count, dtype=np.float32), "b")
    f.outputs = [f.value(1, 6, 6, count)]
    f.add("CONV_2D", [x, w, b], f.outputs, "Conv2D", StrideW=1, StrideH=1)
    return f


def test_what_is_written_is_what_was_read():
    data = conv().write()
    tree = Reader(data, SCHEMA, UNIONS).root("Model")
    again = Writer(SCHEMA, UNIONS, ALIGNED).write(tree, IDENTIFIER)
    assert repr(
        Reader(again, SCHEMA, UNIONS).root("Model").get("subgraphs")[0].get("operators")
    ) == repr(tree.get("subgraphs")[0].get("operators"))
    assert load(again, "again").digest == load(data, "first").digest
    model = tflite.Model.GetRootAs(again, 0)
    start = again.index(model.Buffers(1).DataAsNumpy().tobytes())
    assert start % 16 == 0


def failure(data: bytes) -> str | None:
    """What is said of a file that is not read."""
    try:
        load(data, "bent.tflite")
    except UnsupportedModel as error:
        return str(error)
    return None


def test_damaged_files_are_refused_in_one_line():
    whole = conv().write()
    rng = np.random.default_rng(0)
    refused = 0
    for k in range(1500):
        data = bytearray(whole)
        if k % 3 == 0:
            data = data[: rng.integers(len(data))]
        elif k % 3 == 1:
            data[rng.integers(len(data))] = rng.integers(256)
        else:
            start = 4 * int(rng.integers(len(data) // 4))
            data[start : start + 4] = int(rng.choice([0, 1, 2**31, 2**32 - 1])).to_bytes(
                4, "little"
            )
        said = failure(bytes(data))
        refused += said is not None
        assert said is None or (said.startswith("bent.tflite") and "\n" not in said)
    assert refused > 500


def test_tables_that_point_at_each_other_end():
    """A vector of tables that are all one, many times."""
    out = bytearray(conv().write())
    model = tflite.Model.GetRootAs(bytes(out), 0)
    table = model._tab
    place = table.Vector(table.Offset(12))  # of buffers
    first = place + int.from_bytes(out[place : place + 4], "little")
    many = 2**18
    tail = len(out)
    out += many.to_bytes(4, "little")
    for k in range(many):
        here = tail + 4 + 4 * k
        out += ((first - here) % 2**32).to_bytes(4, "little")
    slot = table.Pos + table.Offset(12)
    out[slot : slot + 4] = (tail - slot).to_bytes(4, "little")
    with pytest.raises(UnsupportedModel, match="damaged"):
        load(bytes(out), "x.tflite")


def refused(f: File | bytes, match: str) -> None:
    data = f if isinstance(f, bytes) else f.write()
    with pytest.raises(UnsupportedModel, match=match) as caught:
        load(data, "x.tflite")
    assert str(caught.value).startswith("x.tflite")


def test_of_several_graphs_the_first_is_read():
    """What an interpreter runs; nothing is written back, because others share its tensors."""
    f = conv()
    one, f.graphs = f.write(), 2
    graph, other = (load(data, "x.tflite") for data in (one, f.write()))
    assert graph.digest == other.digest
    assert any("of 2 graphs the first is read" in note for note in other.notes)
    assert not any("graphs" in note for note in graph.notes)
    with pytest.raises(NotWritable, match="holds further graphs"):
        other.source.rewritten(other.model, {})


@pytest.mark.parametrize("kind", ["WHILE", "IF", "STABLEHLO_REDUCE", "STABLEHLO_SORT", "MY_OWN"])
def test_of_several_graphs_none_may_be_run_by_the_first(kind):
    """A body that is not looked at could be another one in another file."""
    f = conv()
    f.graphs = 2
    f.add(kind, [f.outputs[0]], f.value(1))
    refused(f, rf"holds 2 graphs, and operator 1 \({kind}\) may run another than the first")


def test_what_is_no_function_or_not_understood_is_refused_by_name():
    f = conv()
    f.add("WHILE", [f.outputs[0]], f.value(1))
    refused(f, r"operator 1 \(WHILE\) runs another graph")
    f = conv()
    f.add("UNIDIRECTIONAL_SEQUENCE_LSTM", [f.outputs[0]], f.value(1))
    refused(f, "keeps something from one call to the next")
    f = conv()
    f.tensors[f.outputs[0]].shape = (1, 5, 6, 4)
    refused(f, r"is said to be of shape \(1, 5, 6, 4\), but its operator gives")
    f = conv()
    f.tensors[1].shape = (4, 3, 3, 2)
    refused(f, "damaged TensorFlow Lite file: tensor 1")
    f = conv()
    f.tensors[1].scale, f.tensors[1].dtype = [0.1, 0.2], "int8"
    f.tensors[1].array = np.zeros((4, 3, 3, 3), dtype=np.int8)
    refused(f, "2 scales along axis 0")
    refused(b"x" * 100, "no mark TFL3")
    f = conv()
    f.tensors[0].signature = (-1, -1, -1, 3)
    refused(
        f, "may have several sizes .-1, -1, -1, 3.; convert the model with an input of fixed size"
    )
    f = conv()
    f.outputs = [f.inputs[0]]
    refused(f, "is an input, or a constant")
    f = conv()
    f.operators.append(f.operators[0])
    refused(f, "gives a tensor that is there already")
    f = conv()
    f.operators[0] = ("CONV_2D", [f.value(1, 6, 6, 3), 1, 2], *f.operators[0][2:])
    refused(f, "which nothing before it gives")


def test_what_is_not_known_is_opaque():
    f = conv(6)
    f.tensors[1].array[2] = 0
    f.outputs = [f.value(1, 6, 6, 2), f.value(1, 3)]
    w = f.stored(RNG.standard_normal((2, 1, 1, 6)).astype(np.float32), "last")
    f.add("CONV_2D", [3, w, -1], f.outputs[0], "Conv2D", StrideW=1, StrideH=1)
    f.add("SecretSauce", [f.outputs[0]], f.outputs[1], custom=b"salt")
    graph = load(f.write(), "x.tflite")
    assert any("opaque: operator 2 (SecretSauce): it is not known" in note for note in graph.notes)
    small = mo.compress(graph)
    assert [axis.size for axis in small.network.axes if axis.frozen is None] == [5]
    other = File(**{**vars(f), "operators": [*f.operators[:2], (*f.operators[2][:4], b"pepper")]})
    assert load(other.write(), "x.tflite").digest != graph.digest


def test_names_are_shown_on_one_line():
    f = File()
    x = f.input(1, 2)
    f.tensors[x].name = "a\n\x1b[31mb"
    graph = load(f.write(f.add("RELU", [x], f.value(1, 2))), "made.tflite")
    assert repr(graph).isprintable()
