"""ONNX: values, nodes and stored arrays, the registry of operations, and the reader that walks a graph with them.

An operation is a function registered by name; it gets the reader, the node and the values of the node's inputs.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .affine import MAX_ENTRIES, Ball, Tensor
from .errors import UnsupportedModel, one_line
from .network import Network

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Integers = np.ndarray[Any, np.dtype[Any]]
MAX_AXES = 32
UNDERSTOOD = (
    "dense layers (Gemm, MatMul, Conv on its whole image), Add/Sub/Mul/Div with constants, BatchNormalization, "
    "rearrangements, the activations Relu, LeakyRelu, PRelu, Elu, Selu, Celu, Clip, Max/Min with a number, HardSigmoid, "
    "HardSwish, Mish, Tanh, Sigmoid, Erf, Gelu, Swish, Softplus, Sin, Abs, and Softmax last"
)
ELSEWHERE = "dense blocks inside any torch module are narrowed by moduli.pytorch.shrink"

# Values and nodes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped:
    """A tensor under the map that ends a model."""

    tensor: Tensor
    output_map: str


Value = Tensor | Ball | Integers | Mapped


def shape_of(value: Value) -> tuple[int, ...]:
    return shape_of(value.tensor) if isinstance(value, Mapped) else tuple(value.shape)


def move(value: Value, fn: Callable[[Any], Any]) -> Value:
    """Apply a numpy rearrangement to data and constants alike."""
    if isinstance(value, Mapped):
        return Mapped(value.tensor.rearrange(fn), value.output_map)
    if isinstance(value, Tensor):
        return value.rearrange(fn)
    return value.map(fn) if isinstance(value, Ball) else np.asarray(fn(value))


def as_ball(value: Value, what: str) -> Ball:
    if isinstance(value, Ball):
        return value
    if isinstance(value, np.ndarray):
        return Ball.of(value)
    raise UnsupportedModel(f"{what} depends on the input; constants are understood there")


def as_data(value: Value | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapped):
        raise UnsupportedModel("an operation after Softmax; Softmax is understood at the end of a model only")
    raise UnsupportedModel("needs a tensor that depends on the input here")


def as_ints(value: Value, what: str) -> list[int]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return [int(v) for v in value.ravel()]
    raise UnsupportedModel(f"{what} must be constant integers")


def as_number(value: Value, what: str) -> float:
    ball = as_ball(value, what)
    flat = ball.centre.hi.ravel()
    if not (ball.is_float() and flat.size and (flat == flat[0]).all()):
        raise UnsupportedModel(f"{what} must be one constant number; it has shape {ball.shape}")
    return float(flat[0])


@dataclass(frozen=True)
class Node:
    place: int
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: NodeProto = field(repr=False)

    def __str__(self) -> str:
        return f"node {self.place} {self.name!r} ({self.op})" if self.name else f"node {self.place} ({self.op})"

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the type of its default: int, float, str or tuple of ints; None asks for ints that may lack."""
        for found in self.proto.attribute:
            if found.name == name:
                kinds = {int: (2, "i"), float: (1, "f"), str: (3, "s"), tuple: (7, "ints"), type(None): (7, "ints")}
                kind, part = kinds[type(default)]
                if found.type != kind:
                    raise UnsupportedModel(f"attribute {name!r} has the wrong type {found.type}")
                got = getattr(found, part)
                return tuple(got) if kind == 7 else got.decode() if kind == 3 else got
        return default

    def tensor(self, name: str) -> TensorProto | None:
        return next((found.t for found in self.proto.attribute if found.name == name and found.type == 4), None)


# The registry ---------------------------------------------------------------------------------------------------

Op = Callable[..., Value]
Pattern = Callable[..., tuple[str, Op] | None]
OPS: dict[str, Op] = {}
PATTERNS: dict[str, Pattern] = {}


def op(*names: str, pattern: Pattern | None = None) -> Callable[[Op], Op]:
    """Register an operation; its pattern may find one earlier value of which a node is made instead, and how."""

    def keep(fn: Op) -> Op:
        OPS.update(dict.fromkeys(names, fn))
        if pattern is not None:
            PATTERNS.update(dict.fromkeys(names, pattern))
        return fn

    return keep


# The reader -----------------------------------------------------------------------------------------------------


class Reader:
    """Evaluates, on demand, the ancestors of one output."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        graph = model.graph
        self.folder, self.notes = folder, dict[str, int]()
        self.made = self.held = 0  # numbers of constants: computed, and read
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
        if self.opset < 6:
            raise UnsupportedModel(
                f"opset {self.opset}; opset 6 and later are understood, convert the model with onnx.version_converter"
            )
        for what, entries in (("tensors", graph.initializer), ("inputs", graph.input)):
            names = [entry.name for entry in entries]
            if len(set(names)) < len(names):
                raise UnsupportedModel(f"two {what} are named {next(n for n in names if names.count(n) > 1)!r}")
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {entry.name: entry for entry in graph.input if entry.name not in self.stored}
        self.outputs = [entry.name for entry in graph.output]
        self.nodes = [
            Node(
                k, n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}.{n.op_type}", n.name, (*n.input,), (*n.output,), n
            )
            for k, n in enumerate(graph.node)
        ]
        self.makers: dict[str, Node] = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in self.makers or name in self.stored or name in self.inputs:
                    raise UnsupportedModel(f"{node} produces {name!r}, which something else produces as well")
                self.makers[name] = node

    def network(self, output: str | None, input_shape: Any) -> Network:
        name = self._chosen(output)
        trials = self._shapes(name, input_shape)
        errors: list[UnsupportedModel] = []
        for k, shape in enumerate(trials):
            try:
                return self._trace(name, shape, batched=k == 0)
            except UnsupportedModel as error:
                errors.append(error)
        raise errors[0]

    def _chosen(self, output: str | None) -> str:
        chosen = self.outputs[0] if output is None and len(self.outputs) == 1 else output
        if chosen is None or chosen not in self.outputs:
            given = f"no output {output!r}" if output is not None else f"{len(self.outputs)} outputs"
            raise UnsupportedModel(f"{given}; choose one with output=, from {', '.join(map(repr, self.outputs)) or 'none'}")
        return chosen

    def _data_input(self, output: str) -> str:
        """The one input that an output depends on."""
        seen, found, stack = {""}, list[str](), [output]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.inputs:
                found.append(name)
            elif name in self.makers:
                stack += self.makers[name].inputs
            elif name not in self.stored:
                raise UnsupportedModel(f"nothing produces {name!r}")
        if len(found) != 1:
            listed = ", ".join(repr(name) for name in self.inputs if name in found)
            raise UnsupportedModel(f"output {output!r} depends on {len(found)} inputs ({listed or 'none'}); one is understood")
        return found[0]

    def _shapes(self, output: str, given: Any) -> list[tuple[int, ...]]:
        """Shapes under which the input is read: first with its leading axis as the batch, of size 1, then as it stands."""
        name = self._data_input(output)
        kind = self.inputs[name].type.tensor_type
        if not self.inputs[name].type.HasField("tensor_type") or kind.elem_type not in (1, 10, 11, 16):
            raise UnsupportedModel(f"input {name!r} is no tensor of real numbers")
        dims: list[int | None] | None = None
        if kind.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
        self.input, self.batch = name, (dims[0] or 0) if dims else 0
        if given is not None:
            return [_given_shape((given,) if isinstance(given, int) else tuple(int(n) for n in given), dims)]
        rest = dims[1:] if dims is not None and len(dims) > 1 else dims
        if rest is None or None in rest:
            raise UnsupportedModel(f"input {name!r} has shape {dims if dims is not None else 'unknown'}; give input_shape=")
        sizes = tuple(d for d in rest if d is not None)
        if dims is None or len(dims) < 2:
            return [sizes]
        return [(1, *sizes), (self.batch, *sizes)] if self.batch > 1 else [(1, *sizes)]

    def _trace(self, output: str, shape: tuple[int, ...], *, batched: bool) -> Network:
        self.rank = len(shape) if batched else 0
        self.values: dict[str, Value] = {self.input: Tensor.input(shape)}
        self.made = self.held = 0
        self.notes = {}
        value = self.value(output)
        notes = [text if count == 1 else f"{text} ({count} times)" for text, count in self.notes.items()]
        if isinstance(value, Mapped):
            return value.tensor.finish(value.output_map, notes)
        if isinstance(value, Tensor):
            return value.finish(notes=notes)
        raise UnsupportedModel(f"output {output!r} does not depend on the input")

    def note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def value(self, output: str) -> Value:
        """Depth first, without recursion."""
        stack, open_nodes = [output], set[str]()
        while stack:
            name = stack[-1]
            if name in self.values:
                stack.pop()
                continue
            needs, make = self._plan(name)
            missing = [need for need in needs if need and need not in self.values]
            if missing:
                if name in open_nodes:
                    raise UnsupportedModel(f"{self.makers[name]} depends on its own output")
                open_nodes.add(name)
                stack += reversed(missing)
                continue
            open_nodes.discard(name)
            self.values[name] = self._counted(make([self.values[need] if need else None for need in needs]), needs)
            stack.pop()
        return self.values[output]

    def _counted(self, value: Value, needs: Sequence[str]) -> Value:
        """A value, unless constants that no file stores become too many."""
        if needs and isinstance(value, (Ball, np.ndarray)):
            self.made += math.prod(value.shape)
            if self.made > MAX_ENTRIES + 8 * self.held:
                raise UnsupportedModel(
                    f"makes constants of {self.made} numbers from {self.held} stored ones; at most {MAX_ENTRIES} and "
                    "eight times the stored are made, fold the constants of the model first"
                )
        return value

    def _plan(self, name: str) -> tuple[tuple[str, ...], Callable[[list[Value | None]], Value]]:
        """What a value needs, and how it is made of that."""
        if name in self.stored:
            return (), lambda _: self.constant(self.stored[name])
        if name in self.inputs or name not in self.makers:
            raise UnsupportedModel(f"nothing produces {name!r}")
        node = self.makers[name]
        if node.outputs[0] != name:
            return node.inputs, lambda _: _refuse(node, f"output {name!r} is not its first, and not understood")
        if node.op in PATTERNS and (found := PATTERNS[node.op](self, node)) is not None:
            need, make = found
            return (need,), lambda values: self._run(node, lambda: make(*values))
        if node.op not in OPS:
            return node.inputs, lambda _: _refuse(node, f"is not understood; understood are {UNDERSTOOD}; {ELSEWHERE}")
        operation = OPS[node.op]
        try:
            inspect.signature(operation).bind(self, node, *node.inputs)
        except TypeError:
            raise UnsupportedModel(f"{node} has {len(node.inputs)} inputs, which this operation does not take") from None
        return node.inputs, lambda values: self._run(node, lambda: operation(self, node, *values))

    def _run(self, node: Node, make: Callable[[], Value]) -> Value:
        with one_line(str(node)):
            return make()

    def constant(self, tensor: TensorProto) -> Value:
        array: Integers = _array(tensor, self.folder)
        self.held += array.size
        if array.dtype.kind in "iub":
            return array
        with one_line(f"tensor {tensor.name!r}"):
            return Ball.of(array)

    def scalar(self, name: str) -> float | None:
        """The value of a stored number, for patterns."""
        node = self.makers.get(name)
        tensor = node.tensor("value") if node is not None and node.op == "Constant" else self.stored.get(name)
        if tensor is None or size_of(tensor.dims) != 1:
            return None
        return as_number(self.constant(tensor), name)


def _given_shape(own: tuple[int, ...], dims: list[int | None] | None) -> tuple[int, ...]:
    """The shape of one sample as the user gives it, with a batch axis of size 1 where the model has one."""
    if any(n < 1 for n in own) or (dims is not None and len(dims) - len(own) not in (0, 1)):
        raise UnsupportedModel(f"input_shape {own} does not fit the declared shape {dims}")
    if dims is None:
        return own if len(own) > 1 and own[0] == 1 else (1, *own)
    if len(own) < len(dims):
        return (1, *own)
    return (1, *own[1:]) if len(dims) > 1 else own


def _refuse(node: Node, why: str) -> Value:
    raise UnsupportedModel(f"{node} {why}")


# Stored arrays --------------------------------------------------------------------------------------------------

_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FIELDS = {
    1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data",
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data"),
}  # fmt: skip


def _array(tensor: TensorProto, folder: Path | None) -> Any:
    """The stored array; its declared size is compared with its payload before anything is allocated."""
    from onnx import TensorProto, numpy_helper

    where = f"tensor {tensor.name!r}"
    kind, dims = tensor.data_type, tuple(tensor.dims)
    if kind not in _WIDTHS:
        raise UnsupportedModel(f"{where} has ONNX data type {kind}; floats up to 64 bits and integers are understood")
    if any(d < 0 for d in dims):
        raise UnsupportedModel(f"{where} has shape {dims}")
    count = size_of(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        payload = _external(tensor, folder, count * _WIDTHS[kind], where)
        tensor = TensorProto(data_type=kind, dims=dims, raw_data=payload)
    stored = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, _FIELDS[kind]))
    needed = count * (_WIDTHS[kind] if tensor.HasField("raw_data") else 1)
    if stored != needed:
        unit = "bytes" if tensor.HasField("raw_data") else "numbers"
        raise UnsupportedModel(f"{where} declares shape {dims}, which takes {needed} {unit}, but stores {stored}")
    array: Any = numpy_helper.to_array(tensor)
    return array


def size_of(dims: Sequence[int]) -> int:
    if len(dims) > MAX_AXES:
        raise UnsupportedModel(f"a tensor with {len(dims)} axes; at most {MAX_AXES} are understood")
    return math.prod(dims)


def _external(tensor: TensorProto, folder: Path | None, size: int, where: str) -> bytes:
    """The payload of a tensor kept in another file, which must be a regular one inside the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise UnsupportedModel(f"{where} lies in the file {location!r}; load the model by its path")
    parts = PurePosixPath(location).parts
    if not location or "\\" in location or "\0" in location or ":" in location or location.startswith("/") or ".." in parts:
        raise UnsupportedModel(f"{where} lies in {location!r}; only files inside the model's folder are read")
    if max(map(len, map(os.fsencode, parts))) > 255 or len(location) > 1000:
        raise UnsupportedModel(f"{where} lies in {location[:40]!r}..., a name of {len(location)} characters")
    target = (folder / location).resolve()
    if not target.is_relative_to(folder.resolve()) or not target.is_file():
        raise UnsupportedModel(f"{where} lies in {location!r}, which is no regular file inside the model's folder")
    offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
    if offset < 0 or length != size or offset + length > target.stat().st_size:
        raise UnsupportedModel(
            f"{where} takes {size} bytes but is said to be {length} from {offset} on in {location!r}, "
            f"which has {target.stat().st_size}"
        )
    with target.open("rb") as file:
        file.seek(offset)
        payload: bytes = file.read(length)
    return payload
