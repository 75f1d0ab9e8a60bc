"""ONNX graphs as graphs of the kernel: every file is read, what is not understood is opaque.

Each node becomes one operator of `moduli.kernel.graph.operators`, or a few, or an `Opaque` one. A
handler (`graph_operators`) says which, from the node's attributes and the shapes and constants that
it reads; where it cannot it raises `NotUnderstood`, and the node is opaque.

Shapes are worked out here and not taken from the file. Values of unknown size have names (`Shape`),
and small integer tensors that are made of sizes are followed entry by entry, so that a Reshape whose
target is computed at run time is understood.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Node, Opaque, Operator, Shape, Size, Slicewise
from moduli.kernel.graph.shapes import fits
from moduli.kernel.graph.slicewise import BY_ITS_RANGE

from . import constants as folding
from .reference import captured, mended

Tensor = np.ndarray[Any, np.dtype[Any]]
TIE = 2.0**-8  # what of a quotient a division of few bits may lose
MAX_FOLDED = 2**16  # entries of a constant that is computed from others while reading
MAX_SIZES = 64  # entries of an integer tensor that is followed entry by entry
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


class NotUnderstood(Exception):
    """A node is opaque; says why."""


Handler = Callable[["GraphReader", Any], None]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS)  # of operators of ONNX; others are entered with their domain


def _rounded_by_its_range(reader: GraphReader, node: Any) -> None:
    op = Slicewise(BY_ITS_RANGE, (), zero=True)
    reader.emit(op, list(node.input), node.output[0], reader.shape(node.input[0]))


def _near_a_tie(x: Tensor, scale: Tensor) -> bool:
    """Whether a quotient is so close to a tie that one that is computed may fall on the other side."""
    if np.size(scale) > 1:
        return True
    steps = np.abs(
        np.asarray(x, dtype=np.float64) / np.asarray(scale, dtype=np.float64).reshape(())
    )
    close = np.abs(steps - np.floor(steps) - 0.5) <= (steps + 1.0) * TIE
    return bool(close.any())


class MadeOfSizes(NamedTuple):
    """The sizes that an integer tensor is made of, and a digest of what is made of them."""

    sources: tuple[tuple[str, int], ...]
    payload: str


class GraphReader:
    """One reading of a model; `read()` gives the graph.

    Args:
        folder: where external data lies. arrays: stored tensors that need not be taken from the model.
        rounded: what Identity nodes give that round, see `dynamic_rounding`.

    Attributes:
        shapes: of all values so far. stored: initialisers and Constant nodes. folded: constants
            computed from these. sizes: integer tensors whose entries are numbers, names of sizes or
            None. types: element types of ONNX, 0 where unknown.
        notes: what a user should know about the reading.
    """

    def __init__(
        self, proto: Any, folder: Path | None, arrays: Mapping[str, Tensor] | None = None,
        rounded: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.rounded = rounded
        self.proto, self.graph = proto, proto.graph
        self.arrays = arrays or {}
        self.opsets = {entry.domain: entry.version for entry in proto.opset_import}
        self.opset = self.opsets.get("", self.opsets.get("ai.onnx", 1))
        self.folder = folder
        self.shapes: dict[str, Shape | None] = {}
        self.types: dict[str, int] = {}
        self.stored: dict[str, Tensor] = {}
        self.folded: dict[str, Tensor] = {}
        self.sizes: dict[str, Tensor] = {}
        self.read_sizes: dict[str, MadeOfSizes] = {}
        self.used: set[str] = set()
        self.nodes: list[Node] = []
        self.notes: list[str] = []
        self.opaque: dict[str, str] = {}
        self.names: set[str] = set()
        self.views: set[str] = set()  # constants that nodes rearrange
        self.functions = {(f.domain, f.name) for f in proto.functions}
        self.taken = _names(proto.graph)
        self.known_shapes = _inferred(proto, self.arrays)

    def read(self) -> GraphModel:
        for tensor in self.graph.initializer:
            array = self.arrays.get(tensor.name)
            if array is None:
                array = folding.stored_array(tensor, self.folder)
            self._store(tensor.name, array, tensor.data_type)
        for sparse in self.graph.sparse_initializer:
            array = folding.sparse_array(sparse, self.folder)
            self._store(sparse.values.name, array, sparse.values.data_type)
        inputs = []
        for value in self.graph.input:
            if value.name in self.stored:
                self.notes.append(
                    f"{value.name!r} has a stored value, which is taken for what it is"
                )
                continue
            inputs.append(value.name)
            self.shapes[value.name] = _shape_of(value)
            self.types[value.name] = value.type.tensor_type.elem_type
        for node in needed(sorted_nodes(self.graph), self.graph):
            self._node(node)
        outputs = tuple(value.name for value in self.graph.output)
        for name in outputs:
            self.use(name)
        arrays = {**self.stored, **self.folded}
        constants = {name: arrays[name] for name in self.used if name in arrays}
        for name, array in constants.items():
            self.shapes[name] = tuple(array.shape)
        return GraphModel(tuple(inputs), outputs, tuple(self.nodes), self.shapes, constants).live()

    # What handlers ask

    def shape(self, name: str) -> Shape:
        """The shape of a value.

        Raises:
            NotUnderstood: it is not known.
        """
        found = self.shapes.get(name)
        if found is None:
            raise NotUnderstood(f"{name!r} has no known shape")
        return found

    def constant(self, name: str) -> Tensor | None:
        """A stored or computed constant; None for other values and where nothing is given."""
        if name in self.stored:
            return self.stored[name]
        if name in self.folded:
            return self.folded[name]
        return None

    def numbers(self, name: str, what: str) -> list[Any]:
        """Entries of a small integer tensor: numbers, or names of sizes, or None.

        Raises:
            NotUnderstood: it is not known entry by entry.
        """
        array = self.constant(name)
        if array is not None and array.size <= MAX_SIZES and array.dtype.kind in "iu":
            return [int(x) for x in array.ravel().tolist()]
        if name in self.sizes:
            return list(self.sizes[name].ravel().tolist())
        raise NotUnderstood(f"its {what} are computed in the graph")

    def whole(self, name: str, what: str) -> list[int]:
        found = self.numbers(name, what)
        if not all(isinstance(x, int) for x in found):
            raise NotUnderstood(f"its {what} depend on sizes that are not known")
        return found

    def scalar(self, name: str, what: str) -> float:
        array = self.constant(name)
        if array is None or array.size != 1:
            raise NotUnderstood(f"its {what} is no stored number")
        return float(array.ravel()[0])

    def floating(self, name: str) -> bool:
        return self.types.get(name, 0) in folding.FLOATS

    def computed_formats(self) -> frozenset[str]:
        """Of the floats that nodes give."""
        made = {name for node in self.graph.node for name in node.output}
        kinds = {kind for name, kind in self.types.items() if name in made}
        return frozenset(folding.FLOATS[kind] for kind in kinds if kind in folding.FLOATS)

    def is_constant(self, name: str) -> bool:
        """Whether a value is a constant, or one rearranged by nodes."""
        return self.constant(name) is not None or name in self.views

    # What handlers do

    def use(self, name: str) -> str:
        """Name a value as an input of a node of the kernel."""
        if name and name in self.read_sizes and name not in self.stored and name not in self.folded:
            self._emit_sizes(name)
        if name:
            self.used.add(name)
        return name

    def emit(
        self,
        op: Operator,
        inputs: Sequence[str],
        output: str,
        shape: Shape | None,
        kind: int | None = None,
    ) -> None:
        """Add a node of the kernel with one output.

        Raises:
            NotUnderstood: the operator does not read such shapes, or gives another one.
        """
        inputs = tuple(self.use(name) for name in inputs)
        node = Node(op, inputs, (output,), output)
        given = [self.shapes.get(name) for name in inputs]
        negative = any(isinstance(n, int) and n < 0 for n in shape or ())
        if negative or not fits(node, {**dict(zip(inputs, given, strict=True)), output: shape}):
            raise NotUnderstood(f"it does not make {shape} of {given}")
        self.nodes.append(node)
        self.shapes[output] = shape
        if kind is not None:
            self.types[output] = kind
        elif not self.types.get(output):
            # inference of ONNX ends behind what it does not know; all other operators keep the type
            self.types[output] = self.types.get(inputs[0], 0) if inputs else 0

    def unknown(self, output: str, axis: int) -> str:
        """A name for a size that is not known."""
        return f"?{output}.{axis}"

    def apart(self, name: str) -> str:
        """A name for a value that the file has not."""
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name

    # Reading

    def _store(self, name: str, array: Tensor, kind: int) -> None:
        self.stored[name] = array
        self.shapes[name] = tuple(array.shape)
        self.types[name] = kind

    def _node(self, node: Any) -> None:
        self._set_types(node)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            self._constant_node(node)
            return
        if not self.functions and (self._followed(node) or self._cast_like(node)):
            return
        defined = (node.domain, node.op_type) in self.functions
        domain = node.domain in ("", "ai.onnx") and not defined
        names = [name for name in node.input if name]
        all_constant = bool(names) and all(self.is_constant(name) for name in names)
        if (
            domain
            and all_constant
            and not any(name in self.views for name in names)
            and self._fold(node)
        ):
            return
        kind = node.op_type if domain else f"{node.domain}.{node.op_type}"
        handler = None if defined or kind in RANDOM else HANDLERS.get(kind)
        if not self.rounded.isdisjoint(node.output):
            handler = _rounded_by_its_range
        before, emitted = len(self.nodes), set(self.names)
        try:
            if handler is None:
                raise NotUnderstood("the operator is not known")
            handler(self, node)
            if all_constant and len(node.output) == 1:
                self.views.add(node.output[0])
        except (
            NotUnderstood,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            AssertionError,
        ) as error:
            del self.nodes[before:]
            self.names = emitted
            self._opaque(node, str(error))

    def _set_types(self, node: Any) -> None:
        for name in node.output:
            if name:
                self.types[name] = self.known_shapes.get(name, (0, None))[0]

    def _constant_node(self, node: Any) -> None:
        from onnx import helper

        (attribute,) = node.attribute
        name = node.output[0]
        if attribute.name == "value":
            self._store(name, folding.stored_array(attribute.t, self.folder), attribute.t.data_type)
            return
        if attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            self._store(name, folding.sparse_array(sparse, self.folder), sparse.values.data_type)
            return
        value = helper.get_attribute_value(attribute)
        if attribute.name in ("value_int", "value_ints"):
            self._store(name, np.array(value, dtype=np.int64), 7)
        elif attribute.name in ("value_float", "value_floats"):
            self._store(name, np.array(value, dtype=np.float32), 1)
        else:
            self._opaque(node, "a constant of strings")

    def _cast_like(self, node: Any) -> bool:
        """A constant cast to the type of another value is a constant."""
        if node.op_type != "CastLike" or self.constant(node.input[0]) is None:
            return False
        kind = self.types.get(node.input[1], 0)
        if not kind:
            return False
        try:
            array = self.constant(node.input[0])
            result = np.asarray(folding.cast(array, kind, f"node {node.name!r}"))
        except UnsupportedModel:
            return False
        self.folded[node.output[0]] = result
        self.shapes[node.output[0]] = tuple(result.shape)
        self.types[node.output[0]] = kind
        return True

    def _opaque(self, node: Any, why: str) -> None:
        inputs = [*node.input, *captured(node)]
        payload = hashlib.sha256(_said(node) + self._meaning(node)).hexdigest()
        outputs = tuple(node.output)
        kind = node.op_type if not node.domain else f"{node.domain}.{node.op_type}"
        used = tuple(self.use(name) for name in inputs if name)
        if not any(outputs):
            return
        first = next(name for name in outputs if name)
        self.nodes.append(Node(Opaque(kind, payload), used, outputs, first))
        self.opaque[first] = f"{kind}: {why}"
        shapes = self._shapes_behind(node, inputs)
        for name in outputs:
            if name:
                self.shapes[name] = shapes.get(name)

    def _shapes_behind(self, node: Any, inputs: Sequence[str]) -> dict[str, Shape | None]:
        """Shapes that ONNX infers of a node alone, from those that are known here: what it infers from
        node to node may rest on windows that runtimes count otherwise.
        """
        import onnx
        from onnx import helper, numpy_helper

        ends, stored, sizes = [], [], set[int | str]()
        for name in dict.fromkeys(filter(None, inputs)):
            array = self.constant(name)
            if array is not None and array.size <= MAX_SIZES:
                stored.append(numpy_helper.from_array(array, name))
            elif self.types.get(name):
                shape = self.shapes.get(name)
                sizes.update(shape or ())
                ends.append(helper.make_tensor_value_info(name, self.types[name], shape))
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", ends, outputs, stored)
        _forget_shapes(graph, outermost=True)
        model = helper.make_model(
            graph, opset_imports=self.proto.opset_import, functions=self.proto.functions
        )
        for function in model.functions:
            del function.value_info[:]
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # whatever it stumbles over, what is not known is not used
            return {}
        found = dict[str, Shape | None]()
        for value in inferred.graph.output:
            made = _shape_of(value)
            found[value.name] = made and tuple(
                # names that ONNX makes up are not those of other nodes
                n if isinstance(n, int) or n in sizes else self.unknown(value.name, axis)
                for axis, n in enumerate(made)
            )
        return found

    def _meaning(self, node: Any) -> bytes:
        """What a node's name stands for: versions of operators, and functions that the file defines."""
        inside = any(a.HasField("g") or len(a.graphs) for a in node.attribute)
        if not (self.functions or inside):
            return str(self.opsets.get(node.domain)).encode()
        functions = (f.SerializeToString(deterministic=True) for f in self.proto.functions)
        return b"\0".join([str(sorted(self.opsets.items())).encode(), *functions])

    # Constants and sizes

    def _fold(self, node: Any) -> bool:
        """Compute a node of constants, where it is small and not a mere rearrangement of a large one."""
        arrays = [self.constant(name) if name else None for name in node.input]
        given = [a for a in arrays if a is not None]
        kept = node.op_type in VIEWS and any(
            a.ndim > 0 and a.dtype.kind not in "iub" for a in given
        )
        kept = kept or (node.op_type == "DequantizeLinear" and given[0].ndim > 0)
        if kept or len(node.output) != 1:
            return False
        if node.op_type not in folding.FOLDED or captured(node):
            return False
        try:
            result = folding.evaluate(node, arrays, self.opset, mended(self.opset))
        except (UnsupportedModel, ValueError, TypeError, KeyError):
            return False
        limit = max(MAX_FOLDED, *(a.size for a in given))
        if result.size > limit or result.dtype.kind not in "fiub":
            return False
        if result.dtype.kind == "f" and not folding.exact(node.op_type, given, result):
            return False
        if node.op_type == "QuantizeLinear" and _near_a_tie(*given[:2]):
            return False
        name = node.output[0]
        self.folded[name] = result
        self.shapes[name] = tuple(result.shape)
        self.types[name] = self.types.get(name) or folding.type_of(result)
        return True

    def _followed(self, node: Any) -> bool:
        """Follow an integer tensor made of sizes; whether that worked."""
        from .graph_sizes import follow

        found = follow(self, node)
        if found is None:
            return False
        entries, read = found
        name = node.output[0]
        flat = entries.ravel().tolist()
        self.shapes[name] = tuple(entries.shape)
        self.read_sizes[name] = self._made_of_sizes(node, read)
        self.sizes[name] = entries
        if all(isinstance(x, (int, bool)) for x in flat):
            kind = np.bool_ if flat and isinstance(flat[0], bool) else np.int64
            self.folded[name] = np.array(flat, dtype=kind).reshape(entries.shape)
        return True

    def _emit_sizes(self, name: str) -> None:
        """A value made of sizes is read by an operator that is not told which: those sizes are fixed."""
        if name in self.names:
            return
        self.names.add(name)
        made = self.read_sizes[name]
        tensors = list(dict.fromkeys(tensor for tensor, _ in made.sources))
        axes = tuple((tensors.index(tensor), axis) for tensor, axis in made.sources)
        for tensor in tensors:
            self.used.add(tensor)
        self.nodes.append(Node(Size(axes, made.payload), tuple(tensors), (name,), name))

    def _made_of_sizes(self, node: Any, read: Sequence[tuple[str, int]]) -> MadeOfSizes:
        """What a followed node makes of sizes, in whatever order its operands have them."""
        sources = list(read)
        for name in node.input:
            if name in self.read_sizes:
                sources += self.read_sizes[name].sources
        sources = list(dict.fromkeys(sources))
        hashed = hashlib.sha256(_said(node))
        hashed.update(str(len(read)).encode())
        for name in node.input:
            operand, array = self.read_sizes.get(name), self.constant(name)
            if operand is not None:
                places = [sources.index(source) for source in operand.sources]
                hashed.update(f"{operand.payload} {places}".encode())
            elif array is not None:
                hashed.update(f"{array.dtype.name} {array.shape}".encode() + array.tobytes())
        return MadeOfSizes(tuple(sources), hashed.hexdigest())


# Rearrangements of constants stay nodes, so that the stored tensor is what shrinks.
VIEWS = {
    "Transpose", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice",
    "Concat", "Gather",
}  # fmt: skip


def sorted_nodes(graph: Any) -> list[Any]:
    """Nodes in an order in which each comes after what it reads; the file's own where it is one.

    Raises:
        UnsupportedModel: they go in a circle, or read what nobody gives.
    """
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer} | {""}
    waiting, done = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(node.input) and known.issuperset(captured(node)):
                known.update(node.output)
                done.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            node = later[0]
            missing = [name for name in (*node.input, *captured(node)) if name not in known]
            raise UnsupportedModel(
                f"node {node.name or node.op_type!r} reads {missing[0]!r}, which nothing before it gives"
            )
        waiting = later
    return done


def needed(nodes: Sequence[Any], graph: Any) -> list[Any]:
    """Nodes that outputs need: what others tell of shapes would be forgotten with them."""
    names = {value.name for value in graph.output}
    found = []
    for node in reversed(nodes):
        if not names.isdisjoint(node.output):
            found.append(node)
            names.update(node.input)
            names.update(captured(node))
    return found[::-1]


def _names(graph: Any) -> set[str]:
    found = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    found |= {sparse.values.name for sparse in graph.sparse_initializer}
    return found | {name for node in graph.node for name in node.output}


def _said(node: Any) -> bytes:
    """All that a file says of a node but the names of what it reads and writes."""
    parts = [node.domain.encode(), node.op_type.encode()]
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        parts.append(attribute.SerializeToString(deterministic=True))
    parts.append(str([bool(name) for name in node.input]).encode())
    return b"\0".join(parts)


def _shape_of(value: Any) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value)
        if dim.HasField("dim_value") and dim.dim_value > 0
        else (dim.dim_param or f"?{value.name}.{axis}")
        for axis, dim in enumerate(kind.shape.dim)
    )


def stored_arrays(proto: Any, folder: Path | None) -> dict[str, Tensor]:
    """All initialisers of a model."""
    return {t.name: folding.stored_array(t, folder) for t in proto.graph.initializer}


def skeleton(proto: Any) -> Any:
    """A copy of a model without the numbers of its initialisers."""
    copy = type(proto)()
    _copy_fields(proto, copy, leave=("graph",))
    _copy_fields(proto.graph, copy.graph, leave=("initializer",))
    for tensor in proto.graph.initializer:
        _copy_fields(tensor, copy.graph.initializer.add(), leave=NUMBERS)
    return copy


NUMBERS = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data",
    "external_data", "data_location",
)  # fmt: skip


def _copy_fields(source: Any, target: Any, leave: Sequence[str]) -> None:
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _inferred(proto: Any, arrays: Mapping[str, Tensor]) -> Mapping[str, tuple[int, Shape | None]]:
    """Element types and shapes as ONNX infers them, without the stored numbers of large tensors.

    Shapes that the file states of anything but its inputs are not looked at: runtimes do not hold a
    model to them, and a proof would rest on what nobody checks.
    """
    import onnx

    bare = skeleton(proto)
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in bare.graph.input if value.name not in stored]
    del bare.graph.initializer[:], bare.graph.input[:]
    bare.graph.input.extend(inputs)
    _forget_shapes(bare.graph, outermost=True)
    for function in bare.functions:
        del function.value_info[:]
    for tensor in proto.graph.initializer:
        small = np.prod(tensor.dims, dtype=float) <= MAX_SIZES and tensor.data_location == 0
        if small and tensor.name in arrays:
            bare.graph.initializer.append(
                onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name)
            )
        elif small:
            bare.graph.initializer.append(tensor)
        else:
            shape = list(tensor.dims)
            bare.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
            )
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # whatever it stumbles over, what is not known is not used
        inferred = bare
    found = dict[str, tuple[int, Shape | None]]()
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        found[value.name] = (value.type.tensor_type.elem_type, _shape_of(value))
    return found


def _forget_shapes(graph: Any, outermost: bool) -> None:
    """Leave out the shapes that a graph and its subgraphs state."""
    del graph.value_info[:]
    for value in graph.output if outermost else (*graph.output, *graph.input):
        value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _forget_shapes(inner, outermost=False)
