"""ONNX: values, nodes and stored arrays, the registry of operations, and the reader that walks a
graph with them.

An operation is a function registered by name; it gets the reader, the node and the values of the
node's inputs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moduli.common.files import one_line
from moduli.formats.affine_tracer import MAX_ENTRIES, BallArray, Tensor
from moduli.formats.second_reading import MAX_PARAMETERS, UNITS, confirm
from moduli.kernel.errors import Asked, UnsupportedModel
from moduli.kernel.network import Network

from .constants import EVALUATED, FLOATS, cast, evaluate, numpy_type, sparse_array, stored_array
from .reference import CannotRun, Evaluator, mended

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Integers = np.ndarray[Any, np.dtype[Any]]
UNDERSTOOD = (
    "dense layers (Gemm, MatMul, Conv on its whole image), Add/Sub/Mul/Div with constants, BatchNormalization, "
    "rearrangements, activations (Relu, LeakyRelu, PRelu, Elu, Selu, Celu, Clip, HardSigmoid, HardSwish, Mish, Tanh, Sigmoid, "
    "Erf, Gelu, Swish, Softplus, Sin, Abs), and Softmax last"
)
ELSEWHERE = "dense blocks inside any torch module are narrowed by moduli.pytorch.shrink"
MORE = 7  # and once more, where this does not make too many numbers: what depends on their number may agree at 1 and 3
FREE = 3  # samples that are carried through a graph whose number of samples is free
MANY = 2**20  # numbers of a batch of fixed size beyond which fewer samples stand for it
NOT_READ = {  # attributes that change nothing in what is read
    "BatchNormalization": {"momentum"}, "Dropout": {"ratio", "seed"},
    "Cast": {"saturate", "round_mode"}, "CastLike": {"saturate", "round_mode"},
    "Conv": {"strides"},
}  # fmt: skip
REALS = {
    "Add",
    "Sum",
    "Sub",
    "Mul",
    "Neg",
    "Div",
    "MatMul",
}  # taken over the reals where constants are float32 or float64

# Values and nodes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped:
    """A tensor under the map that ends a model."""

    tensor: Tensor
    output_map: str

    def rearranged(self, fn: Callable[[Any], Any]) -> Mapped:
        """A softmax of reordered outputs is the reordered softmax; nothing may be dropped or
        repeated.
        """
        moved = self.tensor.rearrange(fn)
        if not np.array_equal(
            np.sort(moved.index, axis=None), np.sort(self.tensor.index, axis=None)
        ):
            raise UnsupportedModel(
                "drops or repeats entries after Softmax, which is not the Softmax of what is left; "
                "choose an earlier ", Asked("output"), " or export the model without it",
            )  # fmt: skip
        return Mapped(moved, self.output_map)


Value = Tensor | BallArray | Integers | Mapped
Made = Value | list[Value]  # of all outputs of a node


def shape_of(value: Value) -> tuple[int, ...]:
    return shape_of(value.tensor) if isinstance(value, Mapped) else tuple(value.shape)


def move(value: Value, fn: Callable[[Any], Any]) -> Value:
    """Apply a numpy rearrangement to data and constants alike."""
    if isinstance(value, Mapped):
        return value.rearranged(fn)
    if isinstance(value, Tensor):
        return value.rearrange(fn)
    return value.map(fn) if isinstance(value, BallArray) else np.asarray(fn(value))


def as_ball(value: Value, what: str) -> BallArray:
    if isinstance(value, BallArray):
        return value
    if isinstance(value, np.ndarray):
        return BallArray.of(value)
    raise UnsupportedModel(f"{what} depends on the input; constants are understood there")


def as_data(value: Value | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapped):
        raise UnsupportedModel(
            "an operation after Softmax; Softmax is understood at the end of a model only"
        )
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
    asked: set[str] = field(default_factory=set, repr=False, compare=False)

    def __str__(self) -> str:
        return (
            f"node {self.place} {self.name!r} ({self.op})"
            if self.name
            else f"node {self.place} ({self.op})"
        )

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the type of its default: int, float, str or tuple of ints; None asks for
        ints that may lack.
        """
        self.asked.add(name)
        for found in self.proto.attribute:
            if found.name == name:
                kinds = {
                    int: (2, "i"),
                    float: (1, "f"),
                    str: (3, "s"),
                    tuple: (7, "ints"),
                    type(None): (7, "ints"),
                }
                kind, part = kinds[type(default)]
                if found.type != kind:
                    raise UnsupportedModel(f"attribute {name!r} has the wrong type {found.type}")
                got = getattr(found, part)
                if part == "ints":
                    return tuple(got)
                return got.decode() if part == "s" else got
        return default

    def has(self, name: str) -> bool:
        return any(found.name == name for found in self.proto.attribute)

    def floats(self, name: str) -> list[float]:
        """A list of floats, which must be there."""
        self.asked.add(name)
        for found in self.proto.attribute:
            if found.name == name and found.type == 6:
                return list(found.floats)
        raise UnsupportedModel(f"has no list of floats {name!r}")

    def tensor(self, name: str) -> TensorProto | None:
        self.asked.add(name)
        return next(
            (found.t for found in self.proto.attribute if found.name == name and found.type == 4),
            None,
        )

    def require_known(self, opset: int) -> None:
        """Refuse what ONNX does not define in this opset: operators, attributes, their types."""
        import onnx

        domain, _, operator = self.op.rpartition(".")
        try:
            schema = onnx.defs.get_schema(operator, opset, domain)
        except onnx.defs.SchemaError:
            raise UnsupportedModel(f"{self}: {self.op} is no operator of opset {opset}") from None
        if schema.deprecated:
            raise UnsupportedModel(f"{self}: {self.op} is deprecated in opset {opset}")
        names = [found.name for found in self.proto.attribute]
        for found in self.proto.attribute:
            if found.name not in schema.attributes:
                raise UnsupportedModel(
                    f"{self}: attribute {found.name!r} is none of {self.op} in opset {opset}"
                )
            if found.ref_attr_name or found.type != _attribute_type(schema.attributes[found.name]):
                raise UnsupportedModel(
                    f"{self}: attribute {found.name!r} has the wrong type {found.type}"
                )
            if names.count(found.name) > 1:
                raise UnsupportedModel(f"{self}: attribute {found.name!r} is given twice")

    def require_read(self) -> None:
        """Refuse an attribute that nobody asked for: what it changes would be missed."""
        for found in self.proto.attribute:
            if found.name not in self.asked | NOT_READ.get(self.op, set()):
                raise UnsupportedModel(f"attribute {found.name!r} is not understood here")


def _attribute_type(attribute: Any) -> int:
    return int(attribute.type.value)


# The registry ---------------------------------------------------------------------------------------------------

Op = Callable[..., Made]
Pattern = Callable[..., tuple[tuple[str, ...], Op] | None]
OPS: dict[str, Op] = {}
PATTERNS: dict[str, Pattern] = {}
MOVES: set[str] = set()  # operations that only rearrange, constants of all types too


def kind_of(node: NodeProto) -> str:
    """The operator, with its domain where that is not the one of ONNX."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def op(*names: str, pattern: Pattern | None = None, moves: bool = False) -> Callable[[Op], Op]:
    """Register an operation; its pattern may find earlier values of which a node is made instead,
    and how.
    """

    def keep(fn: Op) -> Op:
        OPS.update(dict.fromkeys(names, fn))
        if pattern is not None:
            PATTERNS.update(dict.fromkeys(names, pattern))
        if moves:
            MOVES.update(names)
        return fn

    return keep


# The reader -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """What a graph makes of a batch of inputs."""

    value: Tensor | Mapped
    samples: int

    @property
    def tensor(self) -> Tensor:
        return self.value.tensor if isinstance(self.value, Mapped) else self.value

    @property
    def output_map(self) -> str | None:
        return self.value.output_map if isinstance(self.value, Mapped) else None

    def same_as(self, other: Traced) -> bool:
        """Whether both are the same network."""
        if self.tensor.one_sample().shape[1:] != other.tensor.one_sample().shape[1:]:
            return False
        (ours, a), (theirs, b) = (
            self.tensor.parts(self.output_map),
            other.tensor.parts(other.output_map),
        )
        return a == b and len(ours) == len(theirs) and all(map(_same_layer, ours, theirs))


def _same_layer(a: tuple[BallArray, BallArray, Any], b: tuple[BallArray, BallArray, Any]) -> bool:
    return a[2] == b[2] and all(p.equals(q) for p, q in zip(a[:2], b[:2], strict=True))


class Reader:
    """Evaluates, on demand, the ancestors of one output."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        graph = model.graph
        self.folder, self.notes = folder, dict[str, int]()
        self.made = self.held = 0  # numbers of constants: computed, and read
        self.opset = _opset(model)
        self.functions = {(f.domain, f.name) for f in model.functions}
        stored = [tensor.name for tensor in graph.initializer] + [
            s.values.name for s in graph.sparse_initializer
        ]
        for what, names in (("tensors", stored), ("inputs", [entry.name for entry in graph.input])):
            if len(set(names)) < len(names):
                raise UnsupportedModel(
                    f"two {what} are named {next(n for n in names if names.count(n) > 1)!r}"
                )
        self.stored: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self.stored |= {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self.inputs = {entry.name: entry for entry in graph.input if entry.name not in self.stored}
        self.defaults = (
            {entry.name for entry in graph.input if entry.name in self.stored}
            if model.ir_version >= 4
            else set()
        )
        self.outputs: list[str] = [entry.name for entry in graph.output]
        self.nodes = list[Node]()
        for k, n in enumerate(graph.node):
            self.nodes.append(Node(k, kind_of(n), n.name, (*n.input,), (*n.output,), n))
        self.versions = {entry.domain: entry.version for entry in model.opset_import} | {
            "": self.opset
        }
        self.makers: dict[str, Node] = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in self.makers or name in self.stored or name in self.inputs:
                    raise UnsupportedModel(
                        f"{node} produces {name!r}, which something else produces as well"
                    )
                self.makers[name] = node
        self.constants: dict[str, tuple[Value, int]] = {}  # read once
        self.input = ""
        self.declared: int | None = (
            None  # samples that the shape of the input declares: 0 any number, None no axis
        )

    def network(self, output: str | None, input_shape: Any) -> Network:
        name = self._chosen(output)
        sample, declared = self._shapes(name, input_shape)
        batches: tuple[int, ...] = (1,)
        if declared is None or declared == 1:
            one = sample if declared is None else (1, *sample)
            traced = self._trace(name, one, 1)
        elif declared == 0:
            traced, batches = self._free(name, sample)
        else:
            traced, batches = self._fixed(name, sample, declared)
        shape = sample if declared is None else (-1, *sample)
        notes = [
            text if count == 1 else f"{text} ({count} times)" for text, count in self.notes.items()
        ]
        notes += [
            f"the input {n!r} has a default, which is read"
            for n in sorted(self.defaults & self.values.keys())
        ]
        net = traced.tensor.finish(traced.output_map, notes)
        return self._confirmed(net, name, shape, batches)

    def _free(self, output: str, sample: tuple[int, ...]) -> tuple[Traced, tuple[int, ...]]:
        """One sample, and two numbers of samples at once: they must give the same network."""
        one = self._trace(output, (1, *sample), 1)
        more = MORE if MORE * math.prod(sample) <= MANY else FREE - 1
        for count in (more, FREE):
            try:
                several = self._trace(output, (count, *sample), count)
                self._uncounted(output)
            except UnsupportedModel as error:
                whole = (1, *sample)
                raise UnsupportedModel(
                    *error.parts, "; if only one sample at a time is meant, say ",
                    Asked("input_shape", whole),
                ) from None  # fmt: skip
            if not one.same_as(several):
                raise UnsupportedModel(
                    f"output {output!r} depends on how many samples are given; each must stand for itself"
                )
        return one, (1, FREE)

    def _fixed(
        self, output: str, sample: tuple[int, ...], declared: int
    ) -> tuple[Traced, tuple[int, ...]]:
        """A batch of a fixed number of samples."""
        few = declared if declared * math.prod(sample) <= MANY else FREE
        try:
            traced = self._trace(output, (few, *sample), few, declared)
            self._uncounted(output)
            return Traced(replace_sample(traced.value), few), (few,)
        except UnsupportedModel as error:
            whole = (declared, *sample)
            raise UnsupportedModel(
                *error.parts, f"; if the input of shape {whole} is one sample, say ",
                Asked("input_shape", whole),
            ) from None  # fmt: skip

    def _uncounted(self, output: str) -> None:
        """Refuse numbers that were computed from the number of samples."""
        for name in self.counted:
            if isinstance(self.values.get(name), BallArray):
                raise UnsupportedModel(
                    f"{self.makers[name]} computes with the number of samples; each must stand for itself"
                )

    def _chosen(self, output: str | None) -> str:
        chosen: str | None = (
            self.outputs[0] if output is None and len(self.outputs) == 1 else output
        )
        if chosen is None or chosen not in self.outputs:
            given = (
                f"no output {output!r}" if output is not None else f"{len(self.outputs)} outputs"
            )
            names = ", ".join(map(repr, self.outputs)) or "none"
            raise UnsupportedModel(f"{given}; choose one with ", Asked("output"), f", from {names}")
        return chosen

    def _ancestors(self, output: str) -> set[str]:
        """All names that an output depends on."""
        seen, stack = set[str](), [output]
        while stack:
            name = stack.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            if name in self.makers:
                stack += self.makers[name].inputs
            elif name not in self.stored and name not in self.inputs:
                raise UnsupportedModel(f"nothing produces {name!r}")
        return seen

    def _data_input(self, output: str) -> str:
        """The one input that an output depends on."""
        seen = self._ancestors(output)
        found = [name for name in self.inputs if name in seen]
        if len(found) != 1:
            listed = ", ".join(map(repr, found))
            raise UnsupportedModel(
                f"output {output!r} depends on {len(found)} inputs ({listed or 'none'}); one is understood"
            )
        return str(found[0])

    def _shapes(self, output: str, given: Any) -> tuple[tuple[int, ...], int | None]:
        """The shape of one sample, and how many samples the input declares: 0 any number, None no
        axis for them.
        """
        name = self._data_input(output)
        kind = self.inputs[name].type.tensor_type
        if not self.inputs[name].type.HasField("tensor_type") or kind.elem_type not in FLOATS:
            raise UnsupportedModel(f"input {name!r} is no tensor of real numbers")
        dims: list[int | None] | None = None
        if kind.HasField("shape"):
            dims = [
                d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
                for d in kind.shape.dim
            ]
        self.input, self.declared = name, None
        if given is not None:
            given_axes = (given,) if isinstance(given, int) else tuple(int(n) for n in given)
            sample, batched = _given_shape(given_axes, dims)
            if batched:
                self.declared = (dims[0] or 0) if dims else 0
            if (
                self.declared == 0
                and dims is not None
                and len(given_axes) == len(dims)
                and given_axes[0] == 1
            ):
                self.declared = 1  # of the samples that the file leaves open, one at a time
            return sample, self.declared
        rest = dims[1:] if dims is not None and len(dims) > 1 else dims
        if dims is None or rest is None or None in rest:
            known = "unknown" if dims is None else dims
            raise UnsupportedModel(f"input {name!r} has shape {known}; give ", Asked("input_shape"))
        self.declared = (dims[0] or 0) if len(dims) > 1 else None
        return tuple(d for d in rest if d is not None), self.declared

    def _trace(
        self, output: str, shape: tuple[int, ...], samples: int, stands_for: int | None = None
    ) -> Traced:
        self.samples, self.stands_for = samples, stands_for
        self.values: dict[str, Value] = {self.input: Tensor.input(shape, samples=samples)}
        self.kinds = {self.input: int(self.inputs[self.input].type.tensor_type.elem_type)}
        self.counted: set[str] = set()
        self.made = self.held = 0
        self.notes, self.unit = {}, UNITS["float64"]
        value = self.value(output)
        if not isinstance(value, (Tensor, Mapped)):
            raise UnsupportedModel(f"output {output!r} does not depend on the input")
        traced = Traced(value, samples)
        if samples > 1:
            traced.tensor.one_sample()
        return traced

    # The second reading -----------------------------------------------------------------------------------------

    def _evaluator(self, output: str) -> Evaluator:
        seen = self._ancestors(output)
        nodes = [node.proto for node in self.nodes if seen.intersection(filter(None, node.outputs))]
        arrays = {
            name: sparse_array(found, self.folder)
            if hasattr(found, "indices")
            else stored_array(found, self.folder)
            for name, found in self.stored.items()
            if name in seen
        }
        return Evaluator(nodes, arrays, self.input, output, self.versions)

    def _confirmed(
        self, net: Network, output: str, shape: tuple[int, ...], batches: tuple[int, ...]
    ) -> Network:
        """The network with a note that `onnx.reference`, running the file, agrees with it."""
        if net.parameters > MAX_PARAMETERS:
            return noted(
                net, f"too large to be compared with onnx.reference ({net.parameters} parameters)"
            )
        try:
            run = self._evaluator(output)
        except CannotRun as error:
            return noted(
                net, f"not compared with onnx.reference, which cannot run the model: {error}"
            )

        def rows(x: Any) -> Any:
            result = run(x.reshape(shape))
            return result.reshape(1, -1) if len(x) == 1 else result

        unit = max(self.unit, UNITS["float32"]) if run.single else self.unit
        try:
            return noted(net, confirm(net, rows, samples=batches, unit=unit, by="onnx.reference"))
        except CannotRun as error:
            return noted(
                net, f"not compared with onnx.reference, which cannot run the model: {error}"
            )

    # Values -----------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def rounded(self, kind: int) -> None:
        """The file's arithmetic and the reading may differ by roundings of a floating type."""
        self.unit = max(self.unit, UNITS[FLOATS[kind]], UNITS["float32"])

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
            self._keep(name, needs, make([self.values[need] if need else None for need in needs]))
            stack.pop()
        return self.values[output]

    def _keep(self, name: str, needs: Sequence[str], made: Made) -> None:
        """Values of all outputs of a node; constants that no file stores must not become too many."""
        outputs = self.makers[name].outputs if isinstance(made, list) else (name,)
        if self.counted.intersection(needs):
            self.counted.update(outputs)
        values = made if isinstance(made, list) else [made]
        for output, value in zip(outputs, values, strict=False):
            if needs and isinstance(value, (BallArray, np.ndarray)):
                self.made += math.prod(value.shape)
            if self.made > MAX_ENTRIES + 8 * self.held:
                raise UnsupportedModel(
                    f"makes constants of {self.made} numbers from {self.held} stored ones; at most {MAX_ENTRIES} and "
                    "eight times the stored are made, fold the constants of the model first"
                )
            self.values[output] = value
        if name not in self.values:
            raise UnsupportedModel(f"{self.makers[name]} has no output {name!r}")

    def _plan(self, name: str) -> tuple[tuple[str, ...], Callable[[list[Value | None]], Made]]:
        """What a value needs, and how it is made of that."""
        if name in self.stored:
            return (), lambda _: self._stored(name)
        if name in self.inputs or name not in self.makers:
            raise UnsupportedModel(f"nothing produces {name!r}")
        node = self.makers[name]
        if (node.proto.domain, node.proto.op_type) in self.functions:
            raise UnsupportedModel(
                f"{node} is a function of the model; write it out with onnx.inliner"
            )
        if node.outputs[0] != name and node.op != "Split":
            return node.inputs, lambda _: _refuse(
                node, f"output {name!r} is not its first, and not understood"
            )
        if node.op not in OPS and node.op not in EVALUATED:
            return node.inputs, lambda _: _refuse(
                node, f"is not understood; understood are {UNDERSTOOD}; {ELSEWHERE}"
            )
        node.require_known(self.versions.get(node.proto.domain, self.opset))
        if (
            node.op in PATTERNS
            and not self.is_constant(name)
            and (found := PATTERNS[node.op](self, node)) is not None
        ):
            need, make = found
            return need, lambda values: self._made_of(node, lambda: make(*values))
        if node.op not in OPS:
            return node.inputs, lambda values: self._run(node, values, None)
        operation = OPS[node.op]
        try:
            inspect.signature(operation).bind(self, node, *node.inputs)
        except TypeError:
            raise UnsupportedModel(
                f"{node} has {len(node.inputs)} inputs, which this operation does not take"
            ) from None
        return node.inputs, lambda values: self._run(
            node, values, lambda *args: operation(self, node, *args)
        )

    def _run(self, node: Node, values: list[Value | None], make: Op | None) -> Made:
        with one_line(str(node)):
            if self._typed(node, values):
                return self._evaluated(node, values)
            if make is None:
                return _refuse(node, f"is not understood; understood are {UNDERSTOOD}; {ELSEWHERE}")
        return self._made_of(node, lambda: make(*values))

    def _made_of(self, node: Node, make: Callable[[], Made]) -> Made:
        with one_line(str(node)):
            made = make()
            node.require_read()
            self._type(node)
            return made

    def is_constant(self, name: str) -> bool:
        """Whether a value does not depend on the numbers of the input, its shape and type aside."""
        stack = [name]
        seen = set[str]()
        while stack:
            name = stack.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            node = self.makers.get(name)
            if name == self.input or (node is None and name not in self.stored):
                return False
            if node is not None and node.op not in ("Shape", "Size"):
                stack += node.inputs[:1] if node.op == "CastLike" else node.inputs
        return True

    def _typed(self, node: Node, values: list[Value | None]) -> bool:
        """Whether a node is a constant that the file's own types decide."""
        if node.op not in EVALUATED or any(isinstance(value, (Tensor, Mapped)) for value in values):
            return False
        named = zip(node.inputs, values, strict=False)
        kinds = {self.kinds.get(name, 0) for name, value in named if isinstance(value, BallArray)}
        reals = (
            node.op in REALS
            and kinds <= {1, 11}
            and not any(isinstance(value, np.ndarray) for value in values)
        )
        divisor = values[1] if node.op == "Div" and len(values) > 1 else None
        return not reals or (isinstance(divisor, BallArray) and not divisor.is_float())

    def _evaluated(self, node: Node, values: list[Value | None]) -> Value:
        given = zip(node.inputs, values, strict=True)
        arrays = [None if value is None else self.array(name, value) for name, value in given]
        result = evaluate(node.proto, arrays, self.opset, mended(self.opset))
        return self.typed(node.outputs[0], result)

    def typed(self, name: str, array: Any) -> Value:
        """A constant computed in a type of the file."""
        from onnx import helper

        if array.dtype.kind in "iub":
            return np.asarray(array)
        self.kinds[name] = int(helper.np_dtype_to_tensor_dtype(array.dtype))
        if self.kinds[name] in (
            10,
            16,
        ):  # some runtimes round each result, others only the last one
            raise UnsupportedModel(
                "constants computed in half precision, on which runtimes do not agree; store the result"
            )
        self.rounded(self.kinds[name])
        self.note(f"constants computed in {FLOATS[self.kinds[name]]}, as the file does")
        return BallArray.of(array)

    def array(self, name: str, value: Value) -> Any:
        """A constant as an array of its type."""
        if isinstance(value, np.ndarray):
            return value
        assert isinstance(value, BallArray)
        with np.errstate(over="ignore"):
            return value.centre.hi.astype(numpy_type(self.kinds.get(name, 1)))

    def cast_constant(self, node: Node, x: BallArray | Integers, kind: int) -> Value:
        """A constant in another type."""
        array = self.array(node.inputs[0], x)
        if isinstance(x, BallArray) and kind == 11 and self.kinds.get(node.inputs[0]) in FLOATS:
            return x
        made = cast(array, kind, str(node.op))
        self.kinds[node.outputs[0]] = kind
        if made.dtype.kind in "iub":
            return np.asarray(made)
        before = x.centre.hi if isinstance(x, BallArray) else x
        if not np.array_equal(made.astype(np.float64), before):
            self.rounded(kind)
        return BallArray.of(made)

    def kind(self, name: str) -> int:
        """The ONNX element type of a value."""
        from onnx import helper

        value = self.values.get(name)
        if isinstance(value, np.ndarray):
            return int(helper.np_dtype_to_tensor_dtype(value.dtype))
        return self.kinds.get(name, 1)

    def _type(self, node: Node) -> None:
        """Note the floating type of what a node made: that of its first operand, if the operation
        did not say.
        """
        for output in node.outputs:
            known = [self.kinds[n] for n in node.inputs if n in self.kinds]
            if output and output not in self.kinds and known:
                self.kinds[output] = known[0]

    def _stored(self, name: str) -> Value:
        if name not in self.constants:
            found = self.stored[name]
            sparse = hasattr(found, "indices")
            array = sparse_array(found, self.folder) if sparse else stored_array(found, self.folder)
            self.constants[name] = (
                self.constant(array, f"tensor {name!r}"),
                (found.values if sparse else found).data_type,
            )
        value, self.kinds[name] = self.constants[name]
        self.held += math.prod(shape_of(value))
        return value

    def constant(self, array: Any, where: str) -> Value:
        if array.dtype.kind in "iub":
            return np.asarray(array)
        with one_line(where):
            return BallArray.of(array)

    def scalar(self, name: str) -> float | None:
        """The value of a stored number of shape () or (1,), for patterns: others add axes to what
        they meet.
        """
        node = self.makers.get(name)
        tensor = (
            node.tensor("value")
            if node is not None and node.op == "Constant"
            else self.stored.get(name)
        )
        if tensor is None or hasattr(tensor, "indices") or tuple(tensor.dims) not in ((), (1,)):
            return None
        array = stored_array(tensor, self.folder)
        return float(array.ravel()[0]) if array.dtype.kind not in "iub" else None


def noted(net: Network, note: str) -> Network:
    return replace(net, notes=(*net.notes, note))


def replace_sample(value: Tensor | Mapped) -> Tensor | Mapped:
    """The first of several samples."""
    if isinstance(value, Mapped):
        return Mapped(value.tensor.one_sample(), value.output_map)
    return value.one_sample()


def _opset(model: ModelProto) -> int:
    import onnx

    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset = max(found, default=1)
    if len(found) > 1:
        raise UnsupportedModel(f"imports the ONNX operators in opsets {found}; one is needed")
    if opset < 6:
        raise UnsupportedModel(
            f"opset {opset}; opset 6 and later are understood, convert the model with onnx.version_converter"
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedModel(f"opset {opset}; the installed onnx knows opsets up to {newest}")
    return opset


def _given_shape(
    own: tuple[int, ...], dims: list[int | None] | None
) -> tuple[tuple[int, ...], bool]:
    """The shape of one sample as the user gives it, and whether the model has an axis for samples
    before it.
    """
    if any(n < 1 for n in own) or (dims is not None and len(dims) - len(own) not in (0, 1)):
        raise UnsupportedModel(f"input_shape {own} does not fit the declared shape {dims}")
    if dims is None:
        return (own[1:], True) if len(own) > 1 and own[0] == 1 else (own, True)
    if len(own) < len(dims):
        return own, True
    if (
        list(own) == dims and own[0] > 1
    ):  # the whole of a declared shape: no axis of it counts samples
        return own, False
    return (own[1:], True) if len(dims) > 1 else (own, False)


def _refuse(node: Node, why: str) -> Value:
    raise UnsupportedModel(f"{node} {why}")
