"""What a TensorFlow Lite file holds: tensors and operators, all numbers in it looked at.

Nothing that the file states is used before it was compared with what is there: places of tensors and
buffers, sizes of stored numbers, quantisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .flatbuffer import Damaged, Reader, Table
from .schema import (
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    IDENTIFIER,
    INT8,
    INT16,
    INT32,
    INT64,
    OPERATORS,
    SCHEMA,
    TYPES,
    UINT8,
    UNIONS,
)

Array = np.ndarray[Any, np.dtype[Any]]
MOST_AXES = 8
HELD = {
    FLOAT32: "<f4", FLOAT16: "<f2", INT32: "<i4", UINT8: "u1", INT64: "<i8", BOOL: "?", INT16: "<i2",
    INT8: "i1", FLOAT64: "<f8",
}  # fmt: skip
QUANTISED = (INT8, UINT8, INT16, INT32, INT64)  # the widest are biases
# they run others
INNER = {"IF", "WHILE", "CALL", "STABLEHLO_WHILE", "STABLEHLO_COMPOSITE", "DELEGATE"}
STATE = "keeps something from one call to the next, and the network is no function"


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        array: its stored numbers, read-only; None of what operators give. scale: of its numbers
            where it is quantised, one or one for each index along `axis`; `zero` likewise.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: int
    buffer: int
    array: Array | None
    scale: Array | None
    zero: Array | None
    axis: int

    @property
    def floating(self) -> bool:
        return self.type in (FLOAT32, FLOAT16, FLOAT64)

    @property
    def quantised(self) -> bool:
        return self.scale is not None and self.type in QUANTISED


@dataclass(frozen=True)
class Operator:
    """An operator of the file.

    Attributes:
        kind: its name in the schema, or that of a custom one. inputs: tensors by number, -1 where
            one is left out.
    """

    index: int
    kind: str
    custom: bool
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table

    @property
    def place(self) -> str:
        return f"operator {self.index} ({self.kind})"


class Contents:
    """A file as it was read.

    Of several graphs the first is read, which is the one that an interpreter runs.

    Attributes:
        tree: all its tables. where: how it is called in messages. further: graphs behind the first.

    Raises:
        UnsupportedModel: it is damaged, or is no function of its inputs.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.where = where
        if len(data) < 12 or data[4:8] != IDENTIFIER:
            raise UnsupportedModel(f"{where}: damaged or no TensorFlow Lite file (no mark TFL3)")
        try:
            self.tree = Reader(data, SCHEMA, UNIONS).root("Model")
            self._read()
        except Damaged as error:
            raise UnsupportedModel(f"{where}: damaged TensorFlow Lite file: {error}") from None

    def _read(self) -> None:
        graphs = self.tree.get("subgraphs", [])
        if self.tree.get("version", 0) != 3:
            raise UnsupportedModel(
                f"{self.where}: schema version {self.tree.get('version', 0)}; 3 is understood"
            )
        if not graphs:
            raise Damaged("it holds no graph")
        self.graph, self.further = graphs[0], len(graphs) - 1
        self.buffers = self.tree.get("buffers", [])
        self.tensors = [self._tensor(k, t) for k, t in enumerate(self.graph.get("tensors", []))]
        self.operators = [
            self._operator(k, o) for k, o in enumerate(self.graph.get("operators", []))
        ]
        if self.further:
            self._require_alone()
        self.inputs = self._places(self.graph, "inputs", "the graph")
        self.outputs = self._places(self.graph, "outputs", "the graph")
        if not self.outputs or min((*self.inputs, *self.outputs)) < 0:
            raise Damaged("the graph has no outputs, or leaves one out")

    def _require_alone(self) -> None:
        """Refuse operators of the first graph that may run another one."""
        for operator, table in zip(self.operators, self.graph.get("operators", []), strict=True):
            other = operator.custom or operator.kind.startswith("STABLEHLO_")
            if other or operator.kind in INNER or "builtin_options_2" in table.fields:
                raise UnsupportedModel(
                    f"{self.where}: holds {self.further + 1} graphs, and {operator.place} may run another than "
                    "the first; convert the model without control flow, or a part of it"
                )

    def _places(self, table: Table, name: str, whose: str) -> tuple[int, ...]:
        found = tuple(int(k) for k in table.get(name, ()))
        if any(not -1 <= k < len(self.tensors) for k in found):
            raise Damaged(f"{name} of {whose} are tensors {found} of {len(self.tensors)}")
        return found

    def _operator(self, index: int, table: Table) -> Operator:
        codes = self.tree.get("operator_codes", [])
        number = table.get("opcode_index", 0)
        if number >= len(codes):
            raise Damaged(f"operator {index} is of kind {number} of {len(codes)}")
        code = codes[number]
        builtin = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
        if not 0 <= builtin < len(OPERATORS):
            raise UnsupportedModel(
                f"{self.where}: operator {index} is number {builtin}, newer than what is known here"
            )
        custom = OPERATORS[builtin] == "CUSTOM"
        kind = _text(code.get("custom_code", b"")) if custom else OPERATORS[builtin]
        place = f"operator {index} ({kind})"
        inputs = self._places(table, "inputs", place)
        outputs = self._places(table, "outputs", place)
        options = table.get("builtin_options", Table("NoOptions"))
        if any(table.get("mutating_variable_inputs", ())):
            raise UnsupportedModel(f"{self.where}: {place} {STATE}")
        return Operator(index, kind, custom, code.get("version", 1), inputs, outputs, options)

    def _tensor(self, index: int, table: Table) -> Tensor:
        name = _text(table.get("name", b"")) or f"tensor {index}"
        place = f"tensor {index} {name[:60]!r}"
        kind = table.get("type", 0)
        if table.get("is_variable", False) or TYPES.get(kind) in ("resource", "variant"):
            raise UnsupportedModel(f"{self.where}: {place} {STATE}")
        shape = tuple(int(n) for n in table.get("shape", ()))
        if len(shape) > MOST_AXES or any(n < 0 for n in shape):
            raise UnsupportedModel(f"{self.where}: {place} has shape {shape}")
        number = table.get("buffer", 0)
        if number >= len(self.buffers):
            raise Damaged(f"{place} has buffer {number} of {len(self.buffers)}")
        buffer = self.buffers[number]
        if buffer.get("offset", 0) > 1:
            raise UnsupportedModel(
                f"{self.where}: {place} lies behind the model, as in files over 2 GB; not read here"
            )
        raw = buffer.get("data", b"")
        array = None
        if len(raw):
            array = self._stored(raw, kind, shape, place, "sparsity" in table.fields)
        scale, zero, axis = self._quantisation(table, shape, place)
        return Tensor(index, name, shape, kind, number, array, scale, zero, axis)

    def _stored(
        self, raw: Any, kind: int, shape: tuple[int, ...], place: str, sparse: bool
    ) -> Array:
        if sparse:
            raise UnsupportedModel(
                f"{self.where}: {place} is stored sparsely; convert the model without that"
            )
        if kind not in HELD:
            raise UnsupportedModel(
                f"{self.where}: {place} holds numbers of type {TYPES.get(kind, kind)}, which is not read"
            )
        dtype = np.dtype(HELD[kind])
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise Damaged(f"{place} of shape {shape} and type {dtype} holds {len(raw)} bytes")
        if kind == BOOL and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
            raise Damaged(f"{place} holds other numbers than true and false")
        return np.frombuffer(raw, dtype).reshape(shape)

    def _quantisation(
        self, table: Table, shape: tuple[int, ...], place: str
    ) -> tuple[Array | None, Array | None, int]:
        given = table.get("quantization")
        if given is None:
            return None, None, 0
        if given.get("details_type", 0):
            raise UnsupportedModel(f"{self.where}: {place} is quantised in a way of its own")
        scale = given.get("scale", ())
        if not len(scale) or table.get("type", 0) not in QUANTISED:
            return None, None, 0
        zero, axis = given.get("zero_point", ()), given.get("quantized_dimension", 0)
        zero = np.asarray(zero if len(zero) else np.zeros(len(scale)), dtype=np.int64)
        if len(scale) > 1 and (not 0 <= axis < len(shape) or shape[axis] != len(scale)):
            raise Damaged(f"{place} of shape {shape} has {len(scale)} scales along axis {axis}")
        if len(zero) not in (1, len(scale)):
            raise Damaged(f"{place} has {len(scale)} scales and {len(zero)} zero points")
        ends = np.iinfo(HELD[table.get("type", 0)])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise Damaged(f"{place} has a scale that is no positive number")
        if (zero < ends.min).any() or (zero > ends.max).any():
            raise Damaged(f"{place} has a zero point outside of its type")
        return np.asarray(scale), np.broadcast_to(zero, (len(scale),)), int(axis)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
