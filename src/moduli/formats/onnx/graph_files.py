"""ONNX files as graphs: read, run, rewritten, written."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.files import atomic_write, one_line
from moduli.common.graph import Graph, NotWritable, Source
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import PerUnit
from moduli.kernel.network import Network

from . import (  # noqa: F401  handlers register themselves
    constants,
    dynamic_rounding,
    fused_operators,
    graph_attention,
    graph_operators,
    integer_blocks,
    integer_operators,
    operations,
)
from .fused_operators import CONTRIBUTED
from .graph_reader import GraphReader, skeleton, stored_arrays
from .integer_kernels import RuntimeKernels
from .nodes import OPS, kind_of
from .reference import CannotRun, run_model
from .surgery import Surgeon

Array = np.ndarray[Any, np.dtype[Any]]
Chain = Callable[..., Network]  # of the source, or of a model that was made of it
INLINE = 2**31 - 2**20  # bytes of a model that protobuf can hold
EXTERNAL = 1024  # bytes of a tensor from which on it is kept in a file of its own

INTEGER_WEIGHTS = (
    "products with weights stored as integers (onnxruntime may round the other factor to 8 bits, "
    "see session.qdq_matmulnbits_accuracy_level)"
)
DYNAMIC = "is quantised while it runs"
INTEGERS = "computes with integers"
BLOCKS = "has weights with a scale for each block"
OVER_POSITIONS = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "ConvInteger", "QLinearConv",
}  # fmt: skip


class OnnxSource(Source):
    """An ONNX model, as `moduli.common.graph.Source` asks.

    Attributes:
        proto: the model without the numbers of its initialisers, which `reading.stored` has.
        external: whether they are kept in a file of their own.
    """

    def __init__(
        self, proto: Any, folder: Path | None, where: str, chain: Chain,
        arrays: Mapping[str, Array] | None = None, narrow: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.where, self._chain = where, chain
        self.narrow = dict(narrow or {})  # tensors that are stored in four bits, and their types
        self.external = any(t.data_location == t.EXTERNAL for t in proto.graph.initializer)
        self.read_only = ""  # why it cannot be written
        self.changed = False  # whether it is no longer what the source says
        self.as_given: Any = None  # what is run to compare, where it is not what is read
        inlined = not all(map(_is_of_runtimes, proto.functions))
        self.sums |= {kind_of(node) for node in proto.graph.node if node.domain == CONTRIBUTED}
        with one_line(where):
            proto, arrays, rounded = self._written_out(proto, folder, arrays)
            self.reading = GraphReader(proto, folder, arrays, rounded)
            self.model = self.reading.read()
        self.proto = self.reading.proto = skeleton(proto)
        self.reading.graph = self.proto.graph
        opaque = [f"opaque: {text}" for text in self.reading.opaque.values()]
        notes = list(self.reading.notes)
        if inlined:
            notes.append("local functions are written out where they are used")
        if self.read_only:
            notes.append(f"it {self.read_only}: read, and not written")
        scales = [node for node in self.model.nodes if isinstance(node.op, PerUnit)]
        if any(map(self._scales_weights, scales)):
            self.sums |= {INTEGER_WEIGHTS}
        if INTEGER_WEIGHTS in self.sums and not any(map(_rounds, scales)):
            notes.append(
                "weights stored as integers are taken as the numbers that they stand for; a runtime may round "
                "what they are multiplied with to 8 bits"
            )
        self.notes = (*notes, *opaque)
        floats = [name for name in self.model.inputs if self.reading.floating(name)]
        self.integers = frozenset(self.model.inputs) - frozenset(floats)
        self.formats = self.reading.computed_formats()

    def _written_out(
        self, proto: Any, folder: Path | None, arrays: Mapping[str, Array] | None
    ) -> tuple[Any, Mapping[str, Array] | None, frozenset[str]]:
        """A model in operators that are read, its tensors where they are taken from elsewhere, and values
        that are rounded.
        """
        given, rounded, reasons = proto, frozenset[str](), list[str]()
        if integer_blocks.concerns(proto):
            plain_blocks = integer_blocks.written_out(proto, folder)
            proto, self.sums = plain_blocks.proto, plain_blocks.sums
            self.narrow.update(plain_blocks.narrow)
            if plain_blocks.changed:
                reasons.append(BLOCKS)
        if integer_operators.concerns(proto):
            plain = integer_operators.written_out(proto, folder)
            if plain is not None:
                proto = plain
                reasons.append(INTEGERS)
        if not all(map(_is_of_runtimes, proto.functions)):
            arrays = stored_arrays(proto, folder)
            proto = _without_functions(skeleton(proto))
        dynamic = dynamic_rounding.written_out(proto, folder, arrays)
        if dynamic is not None:
            arrays = arrays or stored_arrays(proto, folder)
            proto, rounded = dynamic
            reasons.append(DYNAMIC)
        if proto is not given:
            self.as_given = skeleton(given)
        self.read_only = ", and ".join(reasons)
        return proto, arrays, rounded

    def _scales_weights(self, node: Any) -> bool:
        stored = self.model.constants.get(node.inputs[0])
        return node.op.kind == "dequantise" and stored is not None and stored.ndim > 1

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self.as_given is not None:
            try:
                return run_model(self.as_given, self.reading.stored, feeds)
            except CannotRun:  # it does not take all functions of files
                pass
        return run_model(self.proto, self.reading.stored, feeds)

    def on_device(self, kernels: str | None = None) -> RuntimeKernels:
        proto = self.proto if self.as_given is None else self.as_given
        return RuntimeKernels(proto, self.reading.stored, self.where)

    def values(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        made = {name for node in proto.graph.node for name in node.output}
        del proto.graph.output[:]
        for name in dict.fromkeys(wanted):
            if name in made:
                proto.graph.output.add().name = name
        return run_model(proto, self.reading.stored, feeds)

    def rewritten(self, wanted: GraphModel, renamed: Mapping[str, str]) -> Graph:
        if self.read_only:
            raise NotWritable(f"{self.where} {self.read_only}, and not written", ())
        try:
            surgeon = Surgeon(self.reading, self.model, wanted, renamed)
            proto = surgeon.model()
        except UnsupportedModel as error:  # the search leaves out what is in the way, by halves
            raise NotWritable(str(error), ()) from None
        there = {tensor.name for tensor in proto.graph.initializer}
        narrow = {name: kind for name, kind in self.narrow.items() if name in there}
        source = OnnxSource(proto, None, self.where, self._chain, surgeon.tensors, narrow)
        source.external, source.changed = self.external, True
        source.sums = self.sums
        if narrow:
            source.require_same_again()
        return Graph(source.model, source)

    def require_same_again(self) -> None:
        """Refuse where the model is read as another graph once integers are in four bits again.

        Raises:
            NotWritable: it is.
        """
        try:
            again = OnnxSource(self._whole(narrow=True), None, self.where, self._chain)
            same = again.model.digest == self.model.digest
        except UnsupportedModel as error:
            raise NotWritable(f"{self.where}: {error}", ()) from None
        if not same:
            raise NotWritable(
                f"{self.where} is read as another graph with integers of four bits", ()
            )

    def chain(self) -> Network:
        return self._chain(self._whole()) if self.changed else self._chain()

    def _whole(self, narrow: bool = False) -> Any:
        """The model with all its numbers; integers of four bits as bytes, or as their file has them."""
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            array = self.reading.stored[tensor.name]
            if narrow and tensor.name in self.narrow:
                tensor.data_type = self.narrow[tensor.name]
                array = constants.narrowed(array, tensor.data_type)
            tensor.raw_data = np.ascontiguousarray(array).tobytes()
        return proto

    def save(self, path: Path) -> Path:
        """Write the model; tensors go to OUT.data where the model read had such a file.

        Raises:
            UnsupportedModel: it is quantised while it runs, or has weights in blocks.
        """
        if self.read_only:
            raise UnsupportedModel(f"{self.where} {self.read_only}: copy the file")
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        size = sum(self.reading.stored[tensor.name].nbytes for tensor in proto.graph.initializer)
        apart = self.external or size > INLINE
        data = path.with_name(path.name + ".data")
        parts, at = list[memoryview](), 0
        inside = list[memoryview]()
        for tensor in proto.graph.initializer:
            array = np.ascontiguousarray(self.reading.stored[tensor.name])
            if tensor.name in self.narrow:
                tensor.data_type = self.narrow[tensor.name]
                array = constants.narrowed(array, tensor.data_type)
            raw = array.reshape(-1).view(np.uint8).data
            if not apart or len(raw) < EXTERNAL:
                inside.append(raw)
                continue
            inside.append(raw[:0])
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", data.name), ("offset", at), ("length", len(raw))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            parts.append(raw)
            at += len(raw)
        if parts:
            atomic_write(data, parts)
        return atomic_write(path, _encoded(proto, inside))


# Numbers of fields in onnx.proto: the graph of a model, initialisers of a graph, numbers of a tensor.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9


def _encoded(proto: Any, numbers: Sequence[memoryview]) -> list[memoryview]:
    """A model as its file has it, in parts: the numbers of its initialisers are not copied.

    Fields of a message may follow each other in any order, and a message is its length and its fields.
    """
    tensors = list[memoryview]()
    for tensor, raw in zip(proto.graph.initializer, numbers, strict=True):
        said = tensor.SerializeToString(deterministic=True)
        if len(raw):
            said += _field(RAW_DATA, len(raw))
        head = _field(INITIALIZER, len(said) + len(raw)) + said
        tensors += [memoryview(head), raw]
    del proto.graph.initializer[:]
    body = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    size = len(body) + sum(map(len, tensors))
    head = proto.SerializeToString(deterministic=True) + _field(GRAPH, size) + body
    return [memoryview(head), *tensors]


def _field(number: int, length: int) -> bytes:
    """The start of a field of so many bytes."""
    found, left = bytearray([number << 3 | 2]), length
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    found.append(left)
    return bytes(found)


def _rounds(node: Any) -> bool:
    return str(node.op.kind).startswith("quantise")


def _is_of_runtimes(function: Any) -> bool:
    """Whether a function has the name of an operator that runtimes have: which one they call is open."""
    from onnx import defs

    return function.domain == CONTRIBUTED or (
        function.domain in ("", "ai.onnx") and bool(defs.has(function.name))
    )


def _without_functions(proto: Any) -> Any:
    """A model with the nodes that its local functions stand for; without numbers of initialisers.
    Functions with names of runtimes stay, and are opaque.
    """
    inliner = importlib.import_module("onnx.inliner")
    kept = [(f.domain, f.name) for f in proto.functions if _is_of_runtimes(f)]
    try:
        return inliner.inline_selected_functions(proto, kept, exclude=True)
    except Exception as error:  # whatever the library raises
        raise UnsupportedModel(f"its local functions cannot be expanded: {error}") from None


def _understood_as_chain(proto: Any) -> bool:
    """Whether each operator may be one that the reader of chains knows, and none is over positions."""
    kinds = set(map(kind_of, proto.graph.node))
    return kinds <= OPS.keys() | constants.EVALUATED and kinds.isdisjoint(OVER_POSITIONS)


def load(source: Any, folder: Path | None, where: str, chain: Chain) -> Network | Graph:
    """A model as a chain where it is a dense one, else as a graph.

    A convolution is a dense map, too, but a much larger one: models that have any are graphs, and
    `Graph.chain` reads them so where that is wanted.
    """
    proto = _decoded(source, where)
    del source
    if not _understood_as_chain(proto):
        return _graph(proto, folder, where, chain)
    try:
        return chain()
    except UnsupportedModel as error:
        return _no_chain(proto, folder, where, chain, error)


def _no_chain(
    proto: Any, folder: Path | None, where: str, chain: Chain, why: UnsupportedModel
) -> Graph:
    """A model that is no chain, as a graph, which says so in its notes.

    Raises:
        UnsupportedModel: what the reader of chains said, where a graph would say less.
    """
    try:
        graph = _graph(proto, folder, where, chain)
    except UnsupportedModel:
        raise why from None
    graph.source.notes = (f"no chain of dense layers: {why}", *graph.source.notes)
    return graph


def read_graph(source: Any, folder: Path | None, where: str, chain: Chain) -> Graph:
    """Read an ONNX model, or its bytes, as a graph.

    Args:
        folder: where its external data lies. chain: reads it as a chain of dense layers.

    Raises:
        UnsupportedModel: it is damaged.
    """
    return _graph(_decoded(source, where), folder, where, chain)


def states_its_shape(source: Any, where: str) -> bool:
    """Whether the only input of a model has a size along every axis but the first."""
    graph = _decoded(source, where).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1 or not inputs[0].type.tensor_type.HasField("shape"):
        return False
    sizes = inputs[0].type.tensor_type.shape.dim
    return len(sizes) > 1 and all(d.dim_value > 0 for d in list(sizes)[1:])


def _graph(proto: Any, folder: Path | None, where: str, chain: Chain) -> Graph:
    made = OnnxSource(proto, folder, where, chain)
    return Graph(made.model, made)


def _decoded(source: Any, where: str) -> Any:
    import onnx

    damaged = importlib.import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
    except damaged:
        raise UnsupportedModel(f"{where}: damaged or no ONNX file (it cannot be decoded)") from None
    if not proto.HasField("graph") or not proto.graph.output:
        raise UnsupportedModel(f"{where}: holds no ONNX graph with outputs")
    return proto
