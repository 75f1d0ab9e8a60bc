"""ONNX in and out: a graph is read node by node into `affine.Tensor`, and a network is written as Gemm nodes.

Operations are functions registered by name; each gets the reader, the node and the values of its inputs.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import Activation
from .affine import MAX_ENTRIES, MAX_MADE, Ball, Tensor, reciprocal
from .errors import UnsupportedModel, one_line
from .network import Network
from .slack import Slack

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Array = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[Any]]
Stored = tuple[str, Array, str]
MAX_AXES = 32
MAX_GRAPH = 2**31 - 2**20  # bytes of parameters: protobuf holds less than 2 GiB

# ONNX: values and nodes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mapped:
    """A tensor under the map that ends a model."""

    tensor: Tensor
    output_map: str


Value = Tensor | Ball | Integers | _Mapped


def _shape(value: Value) -> tuple[int, ...]:
    return _shape(value.tensor) if isinstance(value, _Mapped) else tuple(value.shape)


def _move(value: Value, fn: Callable[[Any], Any]) -> Value:
    """Apply a numpy rearrangement to data and constants alike."""
    if isinstance(value, _Mapped):
        return _Mapped(value.tensor.rearrange(fn), value.output_map)
    if isinstance(value, Tensor):
        return value.rearrange(fn)
    return value.map(fn) if isinstance(value, Ball) else np.asarray(fn(value))


def _ball(value: Value, what: str) -> Ball:
    if isinstance(value, Ball):
        return value
    if isinstance(value, np.ndarray):
        return Ball.of(value)
    raise UnsupportedModel(f"{what} depends on the input; constants are understood there")


def _ints(value: Value, what: str) -> list[int]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return [int(v) for v in value.ravel()]
    raise UnsupportedModel(f"{what} must be constant integers")


def _number(value: Value, what: str) -> float:
    ball = _ball(value, what)
    flat = ball.centre.hi.ravel()
    if not (ball.is_float() and flat.size and (flat == flat[0]).all()):
        raise UnsupportedModel(f"{what} must be one constant number; it has shape {ball.shape}")
    return float(flat[0])


@dataclass(frozen=True)
class _Node:
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


# ONNX: the reader -----------------------------------------------------------------------------------------------


class _Reader:
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
            _Node(
                k, n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}.{n.op_type}", n.name, (*n.input,), (*n.output,), n
            )
            for k, n in enumerate(graph.node)
        ]
        self.makers: dict[str, _Node] = {}
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
        if isinstance(value, _Mapped):
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
        if node.op == "Mul" and (gate := _Gate(self, node).match()) is not None:
            return (gate[0],), lambda values: self._run(node, lambda: _gated(self, values[0], *gate[1:]))
        if node.op not in _OPS:
            return node.inputs, lambda _: _refuse(node, f"is not understood; understood are {UNDERSTOOD}; {ELSEWHERE}")
        operation = _OPS[node.op]
        try:
            inspect.signature(operation).bind(self, node, *node.inputs)
        except TypeError:
            raise UnsupportedModel(f"{node} has {len(node.inputs)} inputs, which this operation does not take") from None
        return node.inputs, lambda values: self._run(node, lambda: operation(self, node, *values))

    def _run(self, node: _Node, make: Callable[[], Value]) -> Value:
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
        if tensor is None or _size(tensor.dims) != 1:
            return None
        return _number(self.constant(tensor), name)


def _given_shape(own: tuple[int, ...], dims: list[int | None] | None) -> tuple[int, ...]:
    """The shape of one sample as the user gives it, with a batch axis of size 1 where the model has one."""
    if any(n < 1 for n in own) or (dims is not None and len(dims) - len(own) not in (0, 1)):
        raise UnsupportedModel(f"input_shape {own} does not fit the declared shape {dims}")
    if dims is None:
        return own if len(own) > 1 and own[0] == 1 else (1, *own)
    if len(own) < len(dims):
        return (1, *own)
    return (1, *own[1:]) if len(dims) > 1 else own


def _refuse(node: _Node, why: str) -> Value:
    raise UnsupportedModel(f"{node} {why}")


# ONNX: stored arrays --------------------------------------------------------------------------------------------

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
    count = _size(dims)
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


def _size(dims: Sequence[int]) -> int:
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


# ONNX: products that are activations ----------------------------------------------------------------------------


class _Gate:
    """Recognises x sigmoid(x), and both gelus as exporters spell them, in a tree of Mul nodes."""

    def __init__(self, reader: _Reader, node: _Node) -> None:
        self.reader, self.node = reader, node

    def match(self) -> tuple[str, str, float] | None:
        """(x, kind, factor) where the product is factor * kind(x)."""
        for leaf in self._leaves(self.node.outputs[0], ""):
            found = self._gate(leaf)
            if found is None:
                continue
            x, kind, factor = found
            rest = [other for other in self._leaves(self.node.outputs[0], x) if other != leaf]
            numbers = [self.reader.scalar(other) for other in rest if other != x]
            if rest.count(x) == 1 and None not in numbers:
                return x, kind, factor * math.prod(n for n in numbers if n is not None)
        return None

    def _origin(self, name: str) -> str:
        for _ in range(100):
            node = self.reader.makers.get(name)
            if node is None or node.op not in ("Identity", "Cast", "CastLike") or not node.inputs:
                break
            name = node.inputs[0]
        return name

    def _made(self, name: str, *ops: str) -> _Node | None:
        node = self.reader.makers.get(self._origin(name))
        return node if node is not None and node.op in ops and all(node.inputs) else None

    def _leaves(self, name: str, stop: str) -> list[str]:
        """Factors of the tree of products, not looking into `stop`."""
        stack, found = [name], list[str]()
        while stack:
            name = self._origin(stack.pop())
            node = None if name == stop else self._made(name, "Mul")
            if node is None or len(found) + len(stack) > 8:
                found.append(name)
            else:
                stack += node.inputs
        return found

    def _with_number(self, name: str, op: str) -> tuple[str, float] | None:
        """The other operand, and the number, of a sum or product with a number."""
        node = self._made(name, op)
        if node is None or len(node.inputs) != 2:
            return None
        for a, b in (node.inputs, node.inputs[::-1]):
            number = self.reader.scalar(self._origin(b))
            if number is not None:
                return self._origin(a), number
        return None

    def _gate(self, leaf: str) -> tuple[str, str, float] | None:
        node = self._made(leaf, "Sigmoid")
        if node is not None:
            return self._origin(node.inputs[0]), "silu", 1.0
        plus = self._with_number(leaf, "Add")
        node = self._made(plus[0], "Erf", "Tanh") if plus is not None and plus[1] == 1.0 else None
        if node is None:
            return None
        x = self._erf_argument(node.inputs[0]) if node.op == "Erf" else self._tanh_argument(node.inputs[0])
        return None if x is None else (x, "gelu" if node.op == "Erf" else "gelu_tanh", 2.0)

    def _erf_argument(self, name: str) -> str | None:
        division = self._made(name, "Div")
        if division is not None and len(division.inputs) == 2:
            number = self.reader.scalar(self._origin(division.inputs[1]))
            return self._origin(division.inputs[0]) if number is not None and _near(number, math.sqrt(2)) else None
        product = self._with_number(name, "Mul")
        return product[0] if product is not None and _near(product[1], math.sqrt(0.5)) else None

    def _tanh_argument(self, name: str) -> str | None:
        outer = self._with_number(name, "Mul")
        total = self._made(outer[0], "Add") if outer is not None and _near(outer[1], math.sqrt(2 / math.pi)) else None
        for a, b in (total.inputs, total.inputs[::-1]) if total is not None and len(total.inputs) == 2 else ():
            x, cubic = self._origin(a), self._with_number(b, "Mul")
            if cubic is not None and _near(cubic[1], 0.044715) and self._cube(cubic[0]) == x:
                return x
        return None

    def _cube(self, name: str) -> str | None:
        power = self._made(name, "Pow")
        if power is not None and len(power.inputs) == 2 and self.reader.scalar(self._origin(power.inputs[1])) == 3.0:
            return self._origin(power.inputs[0])
        leaves = self._leaves(name, "")
        return leaves[0] if len(leaves) == 3 and len(set(leaves)) == 1 else None


def _near(number: float, ideal: float) -> bool:
    """Whether a stored number is an irrational constant, up to float32."""
    return abs(number - ideal) <= 2e-7 * ideal


def _gated(reader: _Reader, x: Value | None, kind: str, factor: float) -> Value:
    if kind != "silu":
        reader.note(f"read a product as {kind}, and its float32 constants as the numbers they stand for")
    return _activated(reader, x, Activation(kind)).scaled(factor)


# ONNX: operations -----------------------------------------------------------------------------------------------

_Op = Callable[..., Value]
_OPS: dict[str, _Op] = {}


def _op(*names: str) -> Callable[[_Op], _Op]:
    def keep(fn: _Op) -> _Op:
        _OPS.update(dict.fromkeys(names, fn))
        return fn

    return keep


def _data(value: Value | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, _Mapped):
        raise UnsupportedModel("an operation after Softmax; Softmax is understood at the end of a model only")
    raise UnsupportedModel("needs a tensor that depends on the input here")


def _activated(reader: _Reader, value: Value | None, activation: Activation) -> Tensor:
    return _data(value).activate(activation)


_PLAIN = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Erf": "erf", "Softplus": "softplus", "Sin": "sin", "Abs": "abs",
}  # fmt: skip


@_op(*_PLAIN)
def _plain(reader: _Reader, node: _Node, x: Value) -> Value:
    return _activated(reader, x, Activation(_PLAIN[node.op]))


@_op("LeakyRelu")
def _leaky_relu(reader: _Reader, node: _Node, x: Value) -> Value:
    slope = node.attribute("alpha", float(np.float32(0.01)))
    return _activated(reader, x, Activation("leaky_relu", slope) if slope else Activation("relu"))


@_op("PRelu")
def _prelu(reader: _Reader, node: _Node, x: Value, slope: Value) -> Value:
    return _activated(reader, x, Activation("leaky_relu", _number(slope, "the slope")))


@_op("Gelu")
def _gelu(reader: _Reader, node: _Node, x: Value) -> Value:
    form = node.attribute("approximate", "none")
    if form not in ("none", "tanh"):
        raise UnsupportedModel(f"approximate={form!r}; 'none' and 'tanh' are understood")
    return _activated(reader, x, Activation("gelu" if form == "none" else "gelu_tanh"))


@_op("Swish")
def _swish(reader: _Reader, node: _Node, x: Value) -> Value:
    if node.attribute("alpha", 1.0) != 1.0:
        raise UnsupportedModel(f"alpha={node.attribute('alpha', 1.0)}; x sigmoid(x) is understood")
    return _activated(reader, x, Activation("silu"))


@_op("Max")
def _max(reader: _Reader, node: _Node, x: Value, y: Value | None = None, *more: Value) -> Value:
    data, other = (x, y) if isinstance(x, Tensor) else (y, x)
    if other is None or more or _number(other, "the other operand of Max") != 0:
        raise UnsupportedModel("Max(x, 0), which is a ReLU, is understood")
    return _activated(reader, data, Activation("relu"))


@_op("Softmax")
def _softmax(reader: _Reader, node: _Node, x: Value) -> Value:
    tensor = _data(x)
    rank = len(tensor.shape)
    axis = node.attribute("axis", 1 if reader.opset < 13 else -1)
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
    axis %= rank
    over = math.prod(tensor.shape[axis:]) if reader.opset < 13 else tensor.shape[axis]
    if over != tensor.size or (axis == 0 and rank > 1):
        raise UnsupportedModel(f"over axis {axis} of shape {tensor.shape}; softmax over all outputs of a sample is understood")
    return _Mapped(tensor, "softmax")


@_op("LogSoftmax")
def _log_softmax(reader: _Reader, node: _Node, x: Value) -> Value:
    raise UnsupportedModel(
        "LogSoftmax is not understood; export the model without it, or with Softmax (the logits are the same)"
    )


@_op("Add", "Sum")
def _add(reader: _Reader, node: _Node, a: Value, *rest: Value) -> Value:
    for b in rest:
        a = _sum(reader, node, a, b)
    return a


@_op("Sub")
def _sub(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    return _sum(reader, node, a, _neg(reader, node, _aligned(reader, node, a, b)))


@_op("Neg")
def _neg(reader: _Reader, node: _Node, x: Value) -> Value:
    if isinstance(x, np.ndarray):
        return np.asarray(-x)
    return x.times(Ball.of(-1.0)) if isinstance(x, Ball) else _data(x).scaled(-1.0)


def _aligned(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    """The second operand under the rules of before opset 7, where `axis` says where its axes begin."""
    axis = node.attribute("axis", 0)
    if reader.opset >= 7 or not node.attribute("broadcast", 0) or not axis:
        return b
    tail = len(_shape(a)) - axis - len(_shape(b))
    return _move(b, lambda v: v.reshape(*v.shape, *[1] * max(tail, 0)))


def _broadcast(reader: _Reader, x: Tensor, c: Value) -> None:
    """A constant may not tell samples of a batch apart."""
    shape = _shape(c)
    if reader.rank and len(x.shape) == len(shape) == reader.rank and shape[0] > 1 == x.shape[0]:
        raise UnsupportedModel(
            f"a constant of shape {shape} meets a tensor of shape {x.shape}: it would differ from sample to sample"
        )


def _sum(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, _Mapped)) else (b, a)
    if not isinstance(x, (Tensor, _Mapped)):
        shape = _joint(a, b)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray(a + b)
        p, q = (_ball(v, "a term").map(lambda u: np.broadcast_to(u, shape)) for v in (a, b))
        return p.plus(q)
    if isinstance(c, (Tensor, _Mapped)):
        raise UnsupportedModel(
            "adds two tensors that depend on the input (a residual connection); adding constants is understood; "
            f"{ELSEWHERE}"
        )
    _broadcast(reader, _data(x), c)
    return _data(x).shifted(_ball(c, "a term"))


def _joint(a: Value, b: Value) -> tuple[int, ...]:
    shape = np.broadcast_shapes(_shape(a), _shape(b))
    if math.prod(shape) > max(MAX_ENTRIES, *(math.prod(_shape(v)) for v in (a, b))):
        raise UnsupportedModel(f"makes a constant of shape {shape}; at most {MAX_ENTRIES} entries are made")
    return shape


@_op("Mul")
def _mul(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, _Mapped)) else (b, a)
    if not isinstance(x, (Tensor, _Mapped)):
        _joint(a, b)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray(a * b)
        return _ball(a, "a factor").times(_ball(b, "a factor"))
    if isinstance(c, (Tensor, _Mapped)):
        raise UnsupportedModel(
            "multiplies two tensors that depend on the input; products with constants, x*sigmoid(x) and gelu are understood"
        )
    _broadcast(reader, _data(x), c)
    return _data(x).scaled(_ball(c, "a factor"))


@_op("Div")
def _div(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        _joint(a, b)
        if not b.all():
            raise UnsupportedModel("divides integers by zero")
        return np.asarray(np.trunc(a / b).astype(np.int64))
    divisor = _ball(b, "the divisor")
    if not divisor.is_float():
        raise UnsupportedModel("the divisor is itself a result of rounding arithmetic; fold the constants of the model first")
    inverse = reciprocal(divisor.centre.hi)
    if isinstance(a, (Tensor, _Mapped)):
        _broadcast(reader, _data(a), inverse)
        return _data(a).scaled(inverse)
    _joint(a, inverse)
    return _ball(a, "the dividend").times(inverse)


@_op("MatMul")
def _matmul(reader: _Reader, node: _Node, a: Value, b: Value) -> Value:
    if isinstance(a, (Tensor, _Mapped)) == isinstance(b, (Tensor, _Mapped)):
        raise UnsupportedModel("a product of a tensor that depends on the input with a constant is understood")
    if isinstance(a, (Tensor, _Mapped)):
        return _data(a).matmul(_matrix(b))
    return _data(b).matmul_left(_matrix(a))


def _matrix(value: Value) -> Ball:
    ball = _ball(value, "the matrix")
    extra = len(ball.shape) - 2
    if extra > 0 and math.prod(ball.shape[:extra]) == 1:
        return ball.map(lambda v: v.reshape(v.shape[extra:]))
    return ball


@_op("Gemm")
def _gemm(reader: _Reader, node: _Node, a: Value, b: Value, c: Value | None = None) -> Value:
    turned_a, turned_b = node.attribute("transA", 0), node.attribute("transB", 0)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a, b = (_turned(_flat(v), turn) for v, turn in ((a, turned_a), (b, turned_b)))
    product = _matmul(reader, node, a, b)
    scaled = _data(product).scaled(alpha)
    if c is None or beta == 0:
        return scaled
    offset = _ball(c, "the third operand").times(Ball.of(beta))
    if len(offset.shape) > 2:
        raise UnsupportedModel(f"the third operand has shape {offset.shape}; two axes are understood")
    _broadcast(reader, scaled, offset)
    return scaled.shifted(offset)


def _flat(value: Value) -> Value:
    """Two axes, as early exporters meant Gemm on an image."""
    shape = _shape(value)
    return value if len(shape) <= 2 else _move(value, lambda v: v.reshape(shape[0], math.prod(shape[1:])))


def _turned(value: Value, turn: int) -> Value:
    return _move(value, lambda v: v.T) if turn else value


@_op("Conv")
def _conv(reader: _Reader, node: _Node, x: Value, w: Value, b: Value | None = None) -> Value:
    tensor, kernel = _data(x), _ball(w, "the kernel")
    image, window = tensor.shape[2:], kernel.shape[2:]
    plain = (
        node.attribute("group", 1) == 1
        and not any(node.attribute("pads", ()))
        and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and (set(node.attribute("dilations", ())) <= {1} or set(window) == {1})
        and node.attribute("kernel_shape", None) in (None, window)
    )
    if not plain or image != window or tensor.shape[:1] != (1,):
        raise UnsupportedModel(
            f"a convolution proper (kernel {window} on an image {image}); "
            f"understood is one unpadded kernel on all of its image; {ELSEWHERE}"
        )
    if tensor.shape[1] != kernel.shape[1]:
        raise UnsupportedModel(f"a kernel of shape {kernel.shape} on a tensor of shape {tensor.shape}")
    out, after = kernel.shape[0], (1, kernel.shape[0], *[1] * len(image))
    dense = kernel.map(lambda v: v.reshape(out, math.prod(v.shape[1:])).T)
    y = tensor.rearrange(lambda v: v.reshape(1, -1)).matmul(dense).rearrange(lambda v: v.reshape(after))
    return y if b is None else y.shifted(_ball(b, "the bias").map(lambda v: v.reshape(after)))


@_op("BatchNormalization")
def _batch_norm(reader: _Reader, node: _Node, x: Value, *parts: Value) -> Value:
    training = node.attribute("training_mode", 0) or (reader.opset < 7 and not node.attribute("is_test", 0))
    if training or len([name for name in node.outputs if name]) > 1:
        raise UnsupportedModel("a normalisation in training mode; export the model in evaluation mode (model.eval())")
    if node.attribute("spatial", 1) != 1:
        raise UnsupportedModel("spatial=0; one pair of statistics per channel is understood")
    tensor, floats = _data(x), [_ball(part, "a parameter") for part in parts]
    if len(floats) != 4 or len(tensor.shape) < 2 or not all(part.is_float() for part in floats):
        raise UnsupportedModel(f"needs four stored parameters and two axes; {len(floats)} and shape {tensor.shape} are given")
    reader.note("folded a batch normalisation with its stored statistics")
    scale, shift, mean, variance = (part.centre.hi for part in floats)
    return tensor.normalised(scale, shift, mean, variance, node.attribute("epsilon", float(np.float32(1e-5))))


# ONNX: structure ------------------------------------------------------------------------------------------------


@_op("Identity")
def _identity(reader: _Reader, node: _Node, x: Value) -> Value:
    return x


@_op("Dropout")
def _dropout(reader: _Reader, node: _Node, x: Value, ratio: Value | None = None, training: Value | None = None) -> Value:
    if (training is not None and _number(training, "training_mode") != 0) or (
        reader.opset < 7 and not node.attribute("is_test", 0)
    ):
        raise UnsupportedModel("dropout in training mode; export the model in evaluation mode (model.eval())")
    return x


@_op("Cast", "CastLike")
def _cast(reader: _Reader, node: _Node, x: Value, like: Value | None = None) -> Value:
    """Among floats nothing happens to a real number."""
    to = node.attribute("to", 1)
    if to in (1, 10, 11, 16):
        return Ball.of(x) if isinstance(x, np.ndarray) and node.op == "Cast" else x
    if to not in (2, 3, 4, 5, 6, 7, 12, 13) or isinstance(x, (Tensor, _Mapped)):
        raise UnsupportedModel(f"a cast of data to ONNX type {to}; casts among floats are understood")
    return np.trunc(x.centre.hi).astype(np.int64) if isinstance(x, Ball) else x.astype(np.int64)


@_op("Flatten")
def _flatten(reader: _Reader, node: _Node, x: Value) -> Value:
    shape, axis = _shape(x), node.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise UnsupportedModel(f"axis {axis} of a tensor with {len(shape)} axes")
    axis += len(shape) if axis < 0 else 0
    return _move(x, lambda v: v.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


@_op("Reshape")
def _reshape(reader: _Reader, node: _Node, x: Value, target: Value) -> Value:
    shape, wanted = _shape(x), _ints(target, "the shape")
    if reader.rank and reader.batch > 1 and reader.batch in wanted and isinstance(x, (Tensor, _Mapped)):
        known = math.prod(n for n in wanted if n > 0)
        if wanted[0] == reader.batch or (-1 not in wanted and known != math.prod(shape)):
            wanted[wanted.index(reader.batch)] = 1
    if not node.attribute("allowzero", 0):
        wanted = [shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return _move(x, lambda v: v.reshape(wanted))


@_op("Transpose")
def _transpose(reader: _Reader, node: _Node, x: Value) -> Value:
    order = node.attribute("perm", None)
    return _move(x, lambda v: v.transpose(order))


def _axes(node: _Node, axes: Value | None) -> tuple[int, ...] | None:
    found = node.attribute("axes", None) if axes is None else _ints(axes, "axes")
    return None if found is None else tuple(found)


@_op("Squeeze")
def _squeeze(reader: _Reader, node: _Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    return _move(x, lambda v: v.squeeze(chosen))


@_op("Unsqueeze")
def _unsqueeze(reader: _Reader, node: _Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    if chosen is None:
        raise UnsupportedModel("has no axes")
    return _move(x, lambda v: np.expand_dims(v, chosen))


@_op("Shape")
def _shape_of(reader: _Reader, node: _Node, x: Value) -> Value:
    end = node.attribute("end", len(_shape(x)))
    return np.array(_shape(x)[node.attribute("start", 0) : end], dtype=np.int64)


@_op("Gather")
def _gather(reader: _Reader, node: _Node, x: Value, indices: Value) -> Value:
    if not isinstance(indices, np.ndarray):
        raise UnsupportedModel("the indices must be constant integers")
    axis, shape = node.attribute("axis", 0), _shape(x)
    if math.prod(shape) * indices.size > MAX_ENTRIES * max(shape[axis], 1):
        raise UnsupportedModel(f"takes {indices.size} indices of a tensor of shape {shape}")
    return _move(x, lambda v: np.take(v, indices, axis))


@_op("Concat")
def _concat(reader: _Reader, node: _Node, *parts: Value) -> Value:
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, (Tensor, _Mapped)) for part in parts):
        raise UnsupportedModel("joins tensors that depend on the input; joining constants is understood")
    axis, size = node.attribute("axis", 0), sum(math.prod(_shape(part)) for part in parts)
    if size > MAX_MADE:
        raise UnsupportedModel(f"makes a constant of {size} entries; at most {MAX_MADE} are made")
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis)  # type: ignore[arg-type]
    balls = [_ball(part, "a part") for part in parts]
    if not all(ball.is_float() for ball in balls):
        raise UnsupportedModel("joins results of rounding arithmetic; fold the constants of the model first")
    return Ball.of(np.concatenate([ball.centre.hi for ball in balls], axis))


@_op("Slice")
def _slice(reader: _Reader, node: _Node, x: Value, *given: Value | None) -> Value:
    names = ("starts", "ends", "axes", "steps")
    attributes = {name: node.attribute(name, None) for name in names}
    inputs = {name: None if value is None else _ints(value, name) for name, value in zip(names, given, strict=False)}
    starts, ends, axes, steps = (inputs.get(name) or attributes[name] for name in names)
    if starts is None or ends is None:
        raise UnsupportedModel("has no starts or ends")
    rank = len(_shape(x))
    cuts = [slice(None)] * rank
    for k, axis in enumerate(range(len(starts)) if axes is None else axes):
        if not -rank <= axis < rank:
            raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
        cuts[axis] = slice(starts[k], ends[k], 1 if steps is None else steps[k])
    return _move(x, lambda v: v[tuple(cuts)])


@_op("Constant")
def _constant(reader: _Reader, node: _Node) -> Value:
    tensor = node.tensor("value")
    if tensor is not None:
        return reader.constant(tensor)
    for found in node.proto.attribute:
        if found.name in ("value_float", "value_floats"):
            return Ball.of(np.array(found.f if found.type == 1 else list(found.floats), dtype=np.float64))
        if found.name in ("value_int", "value_ints"):
            return np.array(found.i if found.type == 2 else list(found.ints), dtype=np.int64)
    raise UnsupportedModel("holds no dense tensor of numbers")


@_op("ConstantOfShape")
def _constant_of_shape(reader: _Reader, node: _Node, shape: Value) -> Value:
    dims = _ints(shape, "the shape")
    if any(d < 0 for d in dims) or _size(dims) > MAX_ENTRIES:
        raise UnsupportedModel(f"makes a constant of shape {dims}; at most {MAX_ENTRIES} entries are made")
    tensor = node.tensor("value")
    if tensor is None:
        return Ball.of(np.zeros(dims))
    if _size(tensor.dims) != 1:
        raise UnsupportedModel(f"has a value of shape {tuple(tensor.dims)}; one number is needed")
    return _move(reader.constant(tensor), lambda v: np.broadcast_to(v.ravel(), dims))


UNDERSTOOD = (
    "dense layers (Gemm, MatMul, Conv on its whole image), Add/Sub/Mul/Div with constants, BatchNormalization, "
    "rearrangements, the activations Relu, LeakyRelu, "
    "PRelu, Tanh, Sigmoid, Erf, Gelu, Swish, Softplus, Sin, Abs, and Softmax last"
)
ELSEWHERE = "dense blocks inside any torch module are narrowed by moduli.pytorch.shrink"


def read_onnx(source: Any, folder: Path | None, where: str, input_shape: Any, output: str | None) -> Network:
    import onnx

    damaged = importlib.import_module("google.protobuf.message").DecodeError
    with one_line(where):
        try:
            model = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
        except damaged:
            raise UnsupportedModel(f"{where}: damaged or no ONNX file (it cannot be decoded)") from None
        if not model.HasField("graph") or not model.graph.output:
            raise UnsupportedModel(f"{where}: holds no ONNX graph with outputs")
        return _Reader(model, folder).network(output, input_shape)


# ONNX: writing --------------------------------------------------------------------------------------------------

_NODES = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "sin": "Sin", "abs": "Abs", "erf": "Erf", "softplus": "Softplus",
    "gelu": "Gelu", "gelu_tanh": "Gelu", "identity": "Identity",
}  # fmt: skip
_SINGLE = ("erf", "softplus", "gelu", "gelu_tanh")  # onnxruntime runs these in float32 only


def onnx_bytes(net: Network, dtype: str, slack: Slack | None) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    if net.parameters * int(dtype[5:]) // 8 > MAX_GRAPH:
        raise UnsupportedModel(f"{net.parameters} parameters in {dtype} exceed the 2 GiB of an ONNX graph; write .safetensors")
    kind, single = (TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT), dtype == "float32"
    nodes, stored, name = list[Any](), list[Stored](), "input"
    for l, layer in enumerate(net.layers, 1):
        for part, array in (("weight", layer.weight), ("bias", layer.bias)):
            stored.append((f"{part}{l}", array, dtype))
        nodes.append(helper.make_node("Gemm", [name, f"weight{l}", f"bias{l}"], [f"z{l}"], f"layer{l}", transB=1))
        name = f"z{l}"
        if l < len(net.layers):
            nodes += _activation_nodes(layer.activation, name, f"h{l}", single, stored)
            name = f"h{l}"
    if net.output_map == "softmax":
        nodes.append(helper.make_node("Softmax", [name], ["output"], axis=1))
    else:
        nodes += _activation_nodes(Activation.of(net.output_map), name, "output", single, stored)
    ends = [
        helper.make_tensor_value_info(n, kind, ["batch", w]) for n, w in (("input", net.widths[0]), ("output", net.widths[-1]))
    ]
    graph = helper.make_graph(nodes, "moduli", ends[:1], ends[1:])
    opset = 20 if any(node.op_type == "Gelu" for node in nodes) else 17
    model = helper.make_model(graph, producer_name="moduli", opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9 if opset == 20 else 8
    version = str(getattr(importlib.import_module(str(__package__)), "__version__", "unknown"))
    helper.set_model_props(model, {"moduli.version": version} | ({} if slack is None else {"moduli.slack": str(slack)}))
    for label, array, of in stored:  # one at a time, and last: graphs and models copy what they are made of
        model.graph.initializer.append(numpy_helper.from_array(array.astype(of), label))
    return bytes(model.SerializeToString(deterministic=True))


def _activation_nodes(activation: Activation, x: str, y: str, single: bool, stored: list[Stored]) -> list[Any]:
    """Nodes for y = activation(x) that onnxruntime runs, in float32 or float64."""
    from onnx import TensorProto, helper

    if activation.kind == "silu":
        gate = helper.make_node("Sigmoid", [x], [f"{y}_gate"])
        return [gate, helper.make_node("Mul", [x, f"{y}_gate"], [y])]
    slope = activation.slope
    cast = activation.kind in _SINGLE and not single
    if slope is not None:
        cast = single and float(np.float32(slope)) != slope  # the slope is no float32: it keeps its own precision
        stored.append((f"{y}_slope", np.array([slope]), "float32" if single and not cast else "float64"))
        inner = helper.make_node("PRelu", [f"{y}_in" if cast else x, f"{y}_slope"], [f"{y}_out" if cast else y])
    else:
        extra = {"approximate": "tanh"} if activation.kind == "gelu_tanh" else {}
        inner = helper.make_node(_NODES[activation.kind], [f"{y}_in" if cast else x], [f"{y}_out" if cast else y], **extra)
    if not cast:
        return [inner]
    wide = (TensorProto.FLOAT, TensorProto.DOUBLE)
    there, back = wide[single], wide[not single]
    before = helper.make_node("Cast", [x], [f"{y}_in"], to=there)
    return [before, inner, helper.make_node("Cast", [f"{y}_out"], [y], to=back)]
