"""ONNX files as graphs: read, run, rewritten, written."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.files import atomic_write
from moduli.common.graph import Graph
from moduli.kernel.errors import UnsupportedModel, one_line
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.facts import Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.network import Network

from . import graph_operators  # noqa: F401  its handlers register themselves
from .graph_reader import GraphReader
from .reference import run_model
from .surgery import Surgeon

Array = np.ndarray[Any, np.dtype[Any]]
Chain = Callable[[], Network]
INLINE = 2**31 - 2**20  # bytes of a model that protobuf can hold
EXTERNAL = 1024  # bytes of a tensor from which on it is kept in a file of its own

OVER_POSITIONS = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "ConvInteger", "QLinearConv",
}  # fmt: skip


class OnnxSource:
    """An ONNX model, as `moduli.common.graph.Source` asks."""

    def __init__(self, proto: Any, folder: Path | None, where: str, chain: Chain) -> None:
        self.proto, self.where, self._chain = proto, where, chain
        self.reading = GraphReader(proto, folder)
        with one_line(where):
            self.model = self.reading.read()
        opaque = [f"opaque: {text}" for text in self.reading.opaque.values()]
        self.notes = (*self.reading.notes, *opaque)
        floats = [name for name in self.model.inputs if self.reading.floating(name)]
        self.integers = frozenset(self.model.inputs) - frozenset(floats)
        self.why = ""  # it is no chain, where that was tried
        self.external = any(t.data_location == t.EXTERNAL for t in proto.graph.initializer)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_model(self.proto, self.reading.stored, feeds)

    def rewritten(
        self,
        wanted: GraphModel,
        renamed: Mapping[str, str],
        rounds: Sequence[Sequence[GraphMove]] = (),
        ranges: Ranges | None = None,
    ) -> Graph:
        proto = Surgeon(self.reading, self.model, wanted, renamed).model()
        source = OnnxSource(proto, None, self.where, self._no_chain)
        source.external = self.external
        return Graph(source.model, source)

    def _no_chain(self) -> Network:
        raise UnsupportedModel("save the graph and load it again to read it as a chain")

    def chain(self) -> Network:
        return self._chain()

    def save(self, path: Path) -> Path:
        size = sum(array.nbytes for array in self.reading.stored.values())
        if not self.external and size <= INLINE:
            return atomic_write(path, self.proto.SerializeToString(deterministic=True))
        return self._save_apart(path)

    def _save_apart(self, path: Path) -> Path:
        """Large tensors in OUT.data beside the model, which is written last."""
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        data = path.with_name(path.name + ".data")
        parts, at = list[bytes](), 0
        for tensor in proto.graph.initializer:
            array = self.reading.stored[tensor.name]
            if array.nbytes < EXTERNAL:
                continue
            raw = np.ascontiguousarray(array).tobytes()
            plain = type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            plain.data_location = tensor.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", str(at)),
                ("length", str(len(raw))),
            ):
                entry = plain.external_data.add()
                entry.key, entry.value = key, value
            tensor.CopyFrom(plain)
            parts.append(raw)
            at += len(raw)
        if parts:
            atomic_write(data, parts)
        return atomic_write(path, proto.SerializeToString(deterministic=True))


def load(source: Any, folder: Path | None, where: str, chain: Chain) -> Network | Graph:
    """A model as a chain where it is a dense one, else as a graph.

    A convolution is a dense map, too, but a much larger one: models that have any are graphs, and
    `Graph.chain` reads them so where that is wanted.
    """
    graph = read_graph(source, folder, where, chain)
    assert isinstance(graph.source, OnnxSource)
    kinds = {node.op_type for node in graph.source.proto.graph.node}
    if not kinds.isdisjoint(OVER_POSITIONS):
        return graph
    try:
        return chain()
    except UnsupportedModel as error:
        graph.source.why = str(error)
        return graph


def read_graph(source: Any, folder: Path | None, where: str, chain: Chain) -> Graph:
    """Read an ONNX model, or its bytes, as a graph.

    Args:
        folder: where its external data lies. chain: reads it as a chain of dense layers.

    Raises:
        UnsupportedModel: it is damaged.
    """
    import onnx

    damaged = importlib.import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
    except damaged:
        raise UnsupportedModel(f"{where}: damaged or no ONNX file (it cannot be decoded)") from None
    if not proto.HasField("graph") or not proto.graph.output:
        raise UnsupportedModel(f"{where}: holds no ONNX graph with outputs")
    made = OnnxSource(proto, folder, where, chain)
    return Graph(made.model, made)
