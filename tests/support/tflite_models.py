"""Small TensorFlow Lite files, written with the schema's own package: nothing of moduli is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

TYPES = {
    "float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9,
}  # fmt: skip

VERSIONS = {"BROADCAST_TO": 2, "TRANSPOSE_CONV": 3, "CONV_2D": 3, "LOGISTIC": 3}


@dataclass
class Tensor:
    """A tensor: stored where it has an array; scale and zero point, one or one for each index."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    array: Any = None
    scale: Any = None
    zero: Any = 0
    axis: int = 0
    signature: tuple[int, ...] | None = None


@dataclass
class File:
    """A file in the making."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[tuple[str, list[int], list[int], tuple[str, dict[str, Any]] | None, bytes]] = (
        field(default_factory=list)
    )
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    graphs: int = 1

    def input(self, *shape: int, dtype: str = "float32", **more: Any) -> int:
        self.inputs.append(self._tensor(Tensor(f"x{len(self.inputs)}", shape, dtype, **more)))
        return self.inputs[-1]

    def stored(self, array: Any, name: str = "", **more: Any) -> int:
        array = np.asarray(array)
        name = name or f"stored/{len(self.tensors)}"
        return self._tensor(Tensor(name, array.shape, array.dtype.name, array, **more))

    def value(self, *shape: int, dtype: str = "float32", **more: Any) -> int:
        return self._tensor(Tensor(f"value/{len(self.tensors)}", shape, dtype, **more))

    def _tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int] | int, options: str = "",
        custom: bytes = b"", **fields: Any,
    ) -> Any:  # fmt: skip
        """An operator; `options` is the name of its table in the schema, without Options."""
        given = [outputs] if isinstance(outputs, int) else list(outputs)
        said = (options, fields) if options else None
        self.operators.append((kind, list(inputs), given, said, custom))
        return outputs

    def write(self, *outputs: int) -> bytes:
        self.outputs = list(outputs) or self.outputs
        b = flatbuffers.Builder(1024)
        buffers = [_buffer(b, None)]
        tensors = []
        for tensor in self.tensors:
            if tensor.array is None:
                tensors.append(_tensor(b, tensor, 0))
            else:
                tensors.append(_tensor(b, tensor, len(buffers)))
                buffers.append(_buffer(b, tensor.array))
        kinds = list(dict.fromkeys(kind for kind, *_ in self.operators))
        codes = [_code(b, kind) for kind in kinds]
        operators = [
            _operator(b, kinds.index(kind), ins, outs, said, custom)
            for kind, ins, outs, said, custom in self.operators
        ]
        graphs = [self._graph(b, tensors, operators) for _ in range(self.graphs)]
        description = b.CreateString("made by a test")
        note = b.CreateString("note")
        tflite.MetadataStart(b)
        tflite.MetadataAddName(b, note)
        tflite.MetadataAddBuffer(b, 0)
        metadata = [tflite.MetadataEnd(b)]
        parts = {
            "OperatorCodes": _vector(b, codes), "Subgraphs": _vector(b, graphs),
            "Buffers": _vector(b, buffers), "Metadata": _vector(b, metadata),
            "SignatureDefs": _vector(b, [self._signature(b)]),
        }  # fmt: skip
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddDescription(b, description)
        for name, offset in parts.items():
            getattr(tflite, f"ModelAdd{name}")(b, offset)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    def _graph(self, b: Any, tensors: list[int], operators: list[int]) -> int:
        lists = [
            _vector(b, tensors), _numbers(b, self.inputs), _numbers(b, self.outputs),
            _vector(b, operators),
        ]  # fmt: skip
        name = b.CreateString("main")
        tflite.SubGraphStart(b)
        for part, offset in zip(("Tensors", "Inputs", "Outputs", "Operators"), lists, strict=True):
            getattr(tflite, f"SubGraphAdd{part}")(b, offset)
        tflite.SubGraphAddName(b, name)
        return tflite.SubGraphEnd(b)

    def _signature(self, b: Any) -> int:
        sides = []
        for indices in (self.inputs, self.outputs):
            maps = []
            for k in indices:
                name = b.CreateString(f"arg{k}")
                tflite.TensorMapStart(b)
                tflite.TensorMapAddName(b, name)
                tflite.TensorMapAddTensorIndex(b, k)
                maps.append(tflite.TensorMapEnd(b))
            sides.append(_vector(b, maps))
        key = b.CreateString("serving_default")
        tflite.SignatureDefStart(b)
        tflite.SignatureDefAddInputs(b, sides[0])
        tflite.SignatureDefAddOutputs(b, sides[1])
        tflite.SignatureDefAddSignatureKey(b, key)
        return tflite.SignatureDefEnd(b)


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _numbers(b: Any, values: Any, dtype: str = "int32") -> int:
    return b.CreateNumpyVector(np.asarray(values, dtype=dtype))


def _buffer(b: Any, array: Any) -> int:
    data = 0
    if array is not None:
        raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8)
        b.StartVector(1, len(raw), 16)
        b.head -= len(raw)
        b.Bytes[b.head : b.head + len(raw)] = raw.tobytes()
        data = b.EndVector()
    tflite.BufferStart(b)
    if array is not None:
        tflite.BufferAddData(b, data)
    return tflite.BufferEnd(b)


def _tensor(b: Any, tensor: Tensor, buffer: int) -> int:
    shape, name = _numbers(b, tensor.shape), b.CreateString(tensor.name)
    signature = None if tensor.signature is None else _numbers(b, tensor.signature)
    steps = None
    if tensor.scale is not None:
        scale = np.atleast_1d(np.asarray(tensor.scale, dtype=np.float32))
        zero = np.broadcast_to(np.asarray(tensor.zero, dtype=np.int64), scale.shape)
        parts = _numbers(b, scale, "float32"), _numbers(b, zero, "int64")
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, parts[0])
        tflite.QuantizationParametersAddZeroPoint(b, parts[1])
        tflite.QuantizationParametersAddQuantizedDimension(b, tensor.axis)
        steps = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, TYPES[tensor.dtype])
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, name)
    tflite.TensorAddHasRank(b, True)
    if steps is not None:
        tflite.TensorAddQuantization(b, steps)
    if signature is not None:
        tflite.TensorAddShapeSignature(b, signature)
    return tflite.TensorEnd(b)


def _code(b: Any, kind: str) -> int:
    number = getattr(tflite.BuiltinOperator, kind, tflite.BuiltinOperator.CUSTOM)
    custom = b.CreateString(kind) if number == tflite.BuiltinOperator.CUSTOM else None
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    tflite.OperatorCodeAddVersion(b, VERSIONS.get(kind, 1))
    if custom is not None:
        tflite.OperatorCodeAddCustomCode(b, custom)
    return tflite.OperatorCodeEnd(b)


def _operator(
    b: Any, code: int, inputs: list[int], outputs: list[int],
    said: tuple[str, dict[str, Any]] | None, custom: bytes,
) -> int:  # fmt: skip
    options = None
    if said is not None:
        name, fields = said
        made = {k: _numbers(b, v) if isinstance(v, list) else v for k, v in fields.items()}
        getattr(tflite, f"{name}OptionsStart")(b)
        for key, value in made.items():
            getattr(tflite, f"{name}OptionsAdd{key}")(b, value)
        options = getattr(tflite, f"{name}OptionsEnd")(b)
    lists = _numbers(b, inputs), _numbers(b, outputs)
    more = b.CreateByteVector(custom) if custom else None
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, lists[0])
    tflite.OperatorAddOutputs(b, lists[1])
    if options is not None:
        kind = getattr(tflite.BuiltinOptions, f"{said[0]}Options")
        tflite.OperatorAddBuiltinOptionsType(b, kind)
        tflite.OperatorAddBuiltinOptions(b, options)
    if more is not None:
        tflite.OperatorAddCustomOptions(b, more)
    return tflite.OperatorEnd(b)
