"""TensorFlow Lite files as graphs: read through their translation to ONNX, rewritten, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.files import atomic_write, one_line
from moduli.common.graph import Graph, NotWritable, Source
from moduli.formats.onnx.graph_files import OnnxSource
from moduli.formats.onnx.model_files import read_onnx
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.network import Network

from .contents import Contents
from .integer_kernels import MICRO, RULES, ReferenceKernels
from .operators import HANDLERS, follow
from .rewriting import Rewriter
from .translation import CHANNELS_FIRST, Translation

Array = np.ndarray[Any, np.dtype[Any]]
NOTES = {
    "fixed point": (
        "quantised: results of operators are rounded to the steps of the file, halves to even; "
        "TensorFlow Lite multiplies in fixed point and may be one step off"
    ),
    "hybrid": (
        "weights of 8 bits beside real activations are taken as the real numbers that they stand for; "
        "TensorFlow Lite also rounds these activations to 8 bits, on the fly"
    ),
}


class TfliteSource(Source):
    """A TensorFlow Lite file, as `moduli.common.graph.Source` asks.

    Attributes:
        data: its bytes. translation: its translation to ONNX. onnx: that, as a source.
    """

    suffixes = (".tflite", ".onnx")

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        with one_line(where):
            self.translation = Translation(Contents(data, where), HANDLERS, follow)
            proto = self.translation.model()
        self.onnx = OnnxSource(proto, None, where, self._as_chain, self.translation.arrays)
        self.model: GraphModel = self.onnx.model
        self.integers, self.formats = self.onnx.integers, self.onnx.formats
        self.sums = self.onnx.sums
        _compare_shapes(self.translation, self.onnx.reading.shapes, where)
        self.notes = (*self._own_notes(), *self.onnx.notes)

    def _own_notes(self) -> list[str]:
        contents = self.translation.contents
        found = [NOTES.get(note, note) for note in self.translation.notes]
        if contents.further:
            found.append(
                f"of {contents.further + 1} graphs the first is read, which is the one that is run; "
                "a smaller one is not written"
            )
        for index in contents.inputs:
            table = contents.graph.get("tensors")[index]
            if any(int(n) == -1 for n in table.get("shape_signature", ())):
                shape = contents.tensors[index].shape
                found.append(
                    f"input {contents.tensors[index].name!r} is read with its shape {shape}"
                )
        return found

    def _as_chain(self, proto: Any = None) -> Network:
        whole = self.onnx._whole() if proto is None else proto
        return read_onnx(whole, None, self.where, None, None)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.onnx.run(feeds)

    def on_device(self, kernels: str | None = None) -> ReferenceKernels:
        own = kernels if kernels in RULES else MICRO
        return ReferenceKernels(self.translation.contents, own)

    def values(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        return self.onnx.values(feeds, wanted)

    def rewritten(self, wanted: GraphModel, renamed: Mapping[str, str]) -> Graph:
        if self.translation.contents.further:
            raise NotWritable(f"{self.where} holds further graphs, which share its tensors", ())
        smaller = self.onnx.rewritten(wanted, renamed).source
        assert isinstance(smaller, OnnxSource)
        try:
            rewriter = Rewriter(
                self.translation, smaller.proto, smaller.reading.stored, smaller.reading.shapes
            )
            source = TfliteSource(rewriter.written(), self.where)
        except UnsupportedModel as error:  # the search leaves out what is in the way, by halves
            raise NotWritable(str(error), ()) from None
        if source.model.digest != wanted.digest:
            raise NotWritable(
                "the smaller model cannot be written as .tflite: it is read as another graph than "
                "the one that was proved", (),
            )  # fmt: skip
        return Graph(source.model, source)

    def chain(self) -> Network:
        return self._as_chain()

    def save(self, path: Path) -> Path:
        """Write the file, or its translation where the suffix is .onnx."""
        if path.suffix.lower() == ".onnx":
            return self.onnx.save(path)
        return atomic_write(path, self.data)


def _compare_shapes(translation: Translation, shapes: Mapping[str, Any], where: str) -> None:
    """Compare the shapes that the file states, as far as they were used, with those that follow.

    Raises:
        UnsupportedModel: some do not agree.
    """
    first = {name for (_, first, _), name in translation.values.items() if first}
    found = dict[int, tuple[Any, ...]]()
    for name, index in translation.meaning.items():
        shape = shapes.get(name)
        if shape is not None and all(isinstance(n, int) for n in shape):
            stated = translation.tensor(index).shape
            turned = len(stated) == 4 and name in first
            own = tuple(stated[a] for a in CHANNELS_FIRST) if turned else stated
            found.setdefault(index, tuple(shape))
            if own != tuple(shape):
                raise UnsupportedModel(
                    f"{where}: tensor {translation.tensor(index).name!r} is said to be of shape {stated}, "
                    f"but its operator gives {tuple(shape)}{' with channels first' if turned else ''}"
                )
    for index in translation.asked:
        tensor = translation.tensor(index)
        if index in found or translation.constant(index) is not None:
            continue
        raise UnsupportedModel(
            f"{where}: the shape of tensor {tensor.name!r} cannot be worked out, and was needed"
        )


def load(data: bytes, where: str) -> Graph:
    """Read a TensorFlow Lite file as a graph.

    Raises:
        UnsupportedModel: it is damaged, or holds what cannot be read exactly; names that.
    """
    source = TfliteSource(data, where)
    return Graph(source.model, source)


def load_chain(data: bytes, where: str, input_shape: Any, output: str | None) -> Network:
    """Read a TensorFlow Lite file as a chain of dense layers."""
    whole = TfliteSource(data, where).onnx._whole()
    return read_onnx(whole, None, where, input_shape, output)
