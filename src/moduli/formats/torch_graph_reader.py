"""Programs of `torch.export` as graphs of the kernel: what is not understood is opaque.

Each call of the program becomes one operator of `moduli.kernel.graph.operators`, or a few, or an
`Opaque` one. A handler (`torch_graph_operators`) says which; where it cannot it raises
`NotUnderstood`, and the call is opaque.

Stored tensors are named as in the state dict of the module, other values after the calls of the
program. An axis that torch has merged of others, one of unknown size among them (batch and heads,
batch and tokens), stays apart in the graph: a `Value` says which axes of the graph make up each
axis that torch sees.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.formats.registry import registrar
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Concat,
    Node,
    Opaque,
    Operator,
    Reshape,
    Shape,
    Size,
    Take,
    Transpose,
)

from .torch_graph_shapes import Groups, NotUnderstood, product_of, refined, reshape, runs_agree

Tensor = np.ndarray[Any, np.dtype[Any]]
MAX_FOLDED = 2**16  # entries of a constant that is computed while reading
# Computed while reading, where nothing is rounded.
CREATED = {
    "full", "zeros", "ones", "arange", "scalar_tensor", "eye", "zeros_like", "ones_like",
    "full_like", "new_zeros", "new_ones", "new_full",
}  # fmt: skip
EXACT = {
    "triu", "tril", "eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or",
    "bitwise_not", "bitwise_and", "bitwise_or", "masked_fill", "where", "cat", "stack", "view",
    "reshape", "expand", "unsqueeze", "squeeze", "transpose", "permute", "slice", "select", "flip",
    "clone", "alias", "detach", "lift_fresh_copy", "lift_fresh", "detach_", "add", "sub", "mul",
    "neg", "contiguous", "repeat", "roll", "index_select",
}  # fmt: skip


class Value(NamedTuple):
    """A tensor of the graph, and the axes of it that make up each axis of torch's; None where they
    are the same.
    """

    name: str
    groups: Groups | None = None


Result = Value | tuple[Value | None, ...]
Arguments = Mapping[str, Any]
Handler = Callable[["TorchReader", Any, Arguments], Result]
HANDLERS: dict[str, Handler] = {}
handles = registrar(HANDLERS, "aten::")  # of operators of ATen, by their names without overloads


def kind_of(target: Any) -> str:
    """``aten::relu``, or the name of what is no operator."""
    schema = getattr(target, "_schema", None)
    return str(schema.name) if schema is not None else getattr(target, "__name__", str(target))


class TorchReader:
    """One reading of an exported program.

    Attributes:
        shapes: of all values so far. constants: stored and computed tensors that are read.
        folded: tensors computed while reading, by the call that gives them. homes: for each node of
            the graph the path of the module whose `forward` made it. opaque: for each opaque node,
            in words, why. sizes: expressions of sizes that are not known, by their names.
    """

    def __init__(self, program: Any, stored: Mapping[str, tuple[str, Any]]) -> None:
        self.program, self.stored = program, stored
        self.shapes: dict[str, Shape | None] = {}
        self.constants: dict[str, Tensor] = {}
        self.floats: dict[str, bool] = {}
        self.folded: dict[Any, Any] = {}
        self.views: set[str] = set()  # constants that nodes rearrange
        self.homes: dict[str, str] = {}
        self.opaque: dict[str, str] = {}
        self.sizes: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.values: dict[Any, Any] = {}
        self.tensors: dict[str, Any] = {}
        self.inputs: list[str] = []
        self.home = ""
        self.merged: dict[Value, str] = {}

    def read(self) -> GraphModel:
        """The graph, with what no output needs: a module computes it all the same.

        Raises:
            UnsupportedModel: a stored tensor is of a type that is not read.
        """
        outputs: list[str] = []
        for node in self.program.graph.nodes:
            self.home = _home(node)
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self._attribute(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                flat = node.args[0]
                outputs = [self.plain(x).name for x in flat if self.is_tensor(x)]
        for name in outputs:
            self._use(name)
        return GraphModel(
            tuple(self.inputs), tuple(outputs), tuple(self.nodes), self.shapes, self.constants
        )

    # What handlers ask

    def is_tensor(self, argument: Any) -> bool:
        return hasattr(argument, "op") and argument in self.values

    def value(self, argument: Any) -> Value:
        """The tensor that an argument is.

        Raises:
            NotUnderstood: it is none, or several.
        """
        found = self.values.get(argument) if hasattr(argument, "op") else None
        if not isinstance(found, Value):
            raise NotUnderstood("an argument that is no tensor")
        return found

    def plain(self, argument: Any) -> Value:
        """The same with the axes that torch sees."""
        value = argument if isinstance(argument, Value) else self.value(argument)
        if value.groups is None:
            return value
        if value not in self.merged:
            self.merged[value] = self._unmerged(value)
        return Value(self.merged[value])

    def shape(self, value: Value) -> Shape:
        """Of the tensor of the graph."""
        found = self.shapes.get(value.name)
        if found is None:
            raise NotUnderstood(f"{value.name!r} has no known shape")
        return found

    def seen(self, node: Any) -> Shape:
        """The shape of what a call gives, as torch sees it."""
        return self.shape_of(node.meta["val"])

    def shape_of(self, tensor: Any) -> Shape:
        return tuple(self.size(n) for n in tensor.shape)

    def size(self, n: Any) -> int | str:
        """A size: a number, or the name of an expression."""
        expression = n.node.expr if hasattr(n, "node") else n
        if isinstance(expression, int) or getattr(expression, "is_Integer", False):
            return int(expression)
        self.sizes[str(expression)] = expression
        return str(expression)

    def number(self, argument: Any) -> Any:
        """An argument with the calls that give sizes replaced by numbers, or names of sizes."""
        if isinstance(argument, (list, tuple)):
            return [self.number(x) for x in argument]
        if hasattr(argument, "op"):
            argument = argument.meta.get("val")
        if hasattr(argument, "node"):
            return self.size(argument)
        return argument

    def whole(self, argument: Any) -> list[int]:
        found = self.number(argument)
        found = found if isinstance(found, list) else [found]
        if not all(isinstance(n, int) for n in found):
            raise NotUnderstood("numbers that depend on sizes which are not known")
        return list(found)

    def floating(self, value: Value) -> bool:
        return self.floats.get(value.name, False)

    def is_constant(self, value: Value) -> bool:
        """Whether a value is a stored tensor, or one rearranged by nodes."""
        return (
            value.name in self.tensors or value.name in self.views or value.name in self.constants
        )

    # What handlers do

    def emit(
        self,
        op: Operator,
        inputs: Sequence[Value | str],
        output: str,
        shape: Shape,
        floats: bool = True,
    ) -> Value:
        """Add a node with one output."""
        names = [x.name if isinstance(x, Value) else x for x in inputs]
        for name in names:
            self._use(name)
        self.nodes.append(Node(op, tuple(names), (output,), output))
        self.homes[output] = self.home
        self.shapes[output] = shape
        self.floats[output] = floats
        return Value(output)

    def number_of(self, name: str, number: float | int, floats: bool) -> Value:
        """A number as a constant without axes."""
        return self.keep(name, np.array(number, dtype=np.float64 if floats else np.int64), floats)

    def keep(self, name: str, array: Tensor, floats: bool = True) -> Value:
        """A constant that is no stored tensor of the module."""
        self.constants[name] = array
        self.shapes[name] = tuple(array.shape)
        self.floats[name] = floats
        return Value(name)

    def reshaped(self, x: Value, target: Shape, name: str) -> Value:
        """The same entries under other axes. Axes that merge an unknown size with others stay apart."""
        source = self.shape(x)
        if source == target:
            return Value(x.name)
        if runs_agree(source, target):
            return self._reshape(x, source, target, name)
        found = refined(source, target, self.sizes)
        if found is None:
            x = self.plain(x)
            return self._reshape(x, self.shape(x), target, name)
        shape, groups = found
        made = x if shape == source else self._reshape(x, source, shape, name)
        return Value(made.name, None if all(len(group) == 1 for group in groups) else groups)

    def made_of_sizes(self, name: str, inputs: Sequence[tuple[Value, int]], said: str) -> Value:
        """A number made of sizes of axes, which are fixed by it."""
        tensors = list(dict.fromkeys(value for value, _ in inputs))
        axes = tuple((tensors.index(value), axis) for value, axis in inputs)
        return self.emit(Size(axes, said), tensors, name, ())

    # Reading

    def _reshape(self, x: Value, source: Shape, target: Shape, name: str) -> Value:
        return self.emit(reshape(source, target), [x], name, target, self.floating(x))

    def _unmerged(self, value: Value) -> str:
        """A name for the tensor with the axes that torch sees."""
        source = self.shape(value)
        target = tuple(
            product_of([source[k] for k in group], self.sizes) for group in value.groups or ()
        )
        name = f"{value.name}:merged{len(self.merged) or ''}"
        try:
            return self._reshape(Value(value.name), source, target, name).name
        except NotUnderstood:
            said = hashlib.sha256(str(value.groups).encode()).hexdigest()
            self.nodes.append(Node(Opaque("merge", said), (value.name,), (name,), name))
            self.shapes[name], self.floats[name] = target, self.floating(value)
            self.homes[name] = self.home
            return name

    def _use(self, name: str) -> None:
        if name in self.tensors and name not in self.constants:
            self.constants[name] = array_of(self.tensors[name], name)

    def named(self, name: str) -> str:
        """A name that no stored tensor has."""
        taken = {fqn for fqn, _ in self.stored.values()}
        return f"{name}:value" if name in taken else name

    def _placeholder(self, node: Any) -> None:
        if node.name in self.stored:
            fqn, tensor = self.stored[node.name]
            self._store(node, fqn, tensor)
        elif hasattr(node.meta.get("val"), "shape"):
            name = self.named(node.name)
            self.inputs.append(name)
            self._give(node, name, node.meta["val"])

    def _store(self, node: Any, fqn: str, tensor: Any) -> None:
        self.tensors[fqn] = tensor
        self._give(node, fqn, tensor)
        if fqn.rpartition(".")[2].startswith("lifted_tensor"):
            self.folded[node] = tensor

    def _give(self, node: Any, name: str, tensor: Any) -> None:
        self.values[node] = Value(name)
        self.shapes[name] = self.shape_of(tensor)
        self.floats[name] = bool(tensor.dtype.is_floating_point)

    def _attribute(self, node: Any) -> None:
        found = self.program.graph_module
        for part in node.target.split("."):
            found = getattr(found, part)
        if hasattr(found, "shape"):
            self._store(node, str(node.target), found)

    def _call(self, node: Any) -> None:
        if node.target is operator.getitem:
            parts = self.values.get(node.args[0])
            if parts is not None and not isinstance(parts, Value):
                self.values[node] = parts[node.args[1]]
            return
        if not gives_tensors(node.meta.get("val")):
            return
        handler = HANDLERS.get(kind_of(node.target))
        before, constants, merged = len(self.nodes), dict(self.constants), dict(self.merged)
        try:
            found: Result | None = self._folded(node)
            if found is None:
                if handler is None:
                    raise NotUnderstood("the operator is not known")
                _real(node)
                found = handler(self, node, arguments(node))
                self._note_views(node, before)
        except (
            NotUnderstood,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            AssertionError,
        ) as error:
            del self.nodes[before:]
            self.constants, self.merged = constants, merged
            found = self._opaque(node, str(error))
        self.values[node] = found

    def _note_views(self, node: Any, before: int) -> None:
        sources = [self.values[x] for x in node.all_input_nodes if x in self.values]
        fixed = all(isinstance(x, Value) and self.is_constant(x) for x in sources)
        new = self.nodes[before:]
        if (
            sources
            and fixed
            and all(isinstance(x.op, (Transpose, Reshape, Take, Concat)) for x in new)
        ):
            self.views.update(x.output for x in new)

    def _folded(self, node: Any) -> Value | None:
        """Compute what is made of no stored tensor and no input, where torch does not round."""
        kind = kind_of(node.target).removeprefix("aten::")
        inputs = list(node.all_input_nodes)
        given = node.meta["val"]
        if not hasattr(given, "shape") or kind not in EXACT | CREATED:
            return None
        if (not inputs and kind not in CREATED) or any(x not in self.folded for x in inputs):
            return None
        shape = self.shape_of(given)
        if any(isinstance(n, str) for n in shape) or given.numel() > MAX_FOLDED:
            return None
        if kind in ("add", "sub", "mul") and given.dtype.is_floating_point:
            return None
        import torch

        args, options = torch.fx.node.map_arg((node.args, node.kwargs), lambda x: self.folded[x])
        options = {key: value for key, value in options.items() if key != "device"}
        result = node.target(*args, **options).detach().cpu()
        if torch.isnan(result).any() if result.is_floating_point() else False:
            return None
        self.folded[node] = result
        name = self.named(node.name)
        self.tensors[name] = result
        self._give(node, name, result)
        return Value(name)

    def _opaque(self, node: Any, why: str) -> Result:
        _deterministic(node)
        inputs: list[str] = []
        said = hashlib.sha256(self._said(node, inputs).encode()).hexdigest()
        kind = kind_of(node.target).removeprefix("aten::")
        given = node.meta["val"]
        parts = list(given) if isinstance(given, (tuple, list)) else [given]
        names = []
        for k, part in enumerate(parts):
            there = hasattr(part, "shape")
            suffix = "" if k == 0 else f":{k}"
            names.append(f"{self.named(node.name)}{suffix}" if there else "")
        for name in inputs:
            self._use(name)
        first = next(name for name in names if name)
        self.nodes.append(Node(Opaque(kind, said), tuple(inputs), tuple(names), first))
        self.homes[first] = self.home
        self.opaque[first] = f"{kind} in {self.home or 'the module'}: {why}"
        found: list[Value | None] = []
        for name, part in zip(names, parts, strict=True):
            if name:
                self.shapes[name] = self.shape_of(part)
                self.floats[name] = bool(part.dtype.is_floating_point)
                self.homes[name] = self.home
            found.append(Value(name) if name else None)
        if isinstance(given, (tuple, list)):
            return tuple(found)
        assert found[0] is not None
        return found[0]

    def _said(self, node: Any, inputs: list[str]) -> str:
        """All that the program says of a call but the names of what it reads; lists these."""

        def walk(x: Any) -> str:
            if isinstance(x, (list, tuple)):
                return f"[{', '.join(map(walk, x))}]"
            if isinstance(x, dict):
                return f"{{{', '.join(f'{key}: {walk(v)}' for key, v in sorted(x.items()))}}}"
            if not hasattr(x, "op"):
                return repr(x)
            if isinstance(self.values.get(x), Value):
                inputs.append(self.plain(x).name)
                return "#"
            if x.op == "get_attr":
                inner = getattr(self.program.graph_module, str(x.target), None)
                return str(getattr(inner, "graph", x.target))
            return str(self.number(x))

        return f"{node.target} {walk(node.args)} {walk(node.kwargs)}"


def gives_tensors(given: Any) -> bool:
    parts = given if isinstance(given, (tuple, list)) else [given]
    return any(hasattr(part, "shape") for part in parts)


def _real(node: Any) -> None:
    for x in (node, *node.all_input_nodes):
        given = x.meta.get("val")
        if hasattr(given, "dtype") and given.dtype.is_complex:
            raise NotUnderstood("complex numbers")


def _deterministic(node: Any) -> None:
    """Refuse calls that draw random numbers."""
    if _torch().Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return
    given = arguments(node)
    idle = given.get("train", given.get("training", True)) is False
    if not idle and given.get("dropout_p", given.get("dropout", 1.0)) != 0.0:
        raise UnsupportedModel(
            f"{kind_of(node.target)} draws random numbers in evaluation mode; "
            "the module is no function of its input"
        )


def _home(node: Any) -> str:
    """The path of the module in whose `forward` a call stands."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path if stack and not path.startswith("_empty_nn_module") else ""


def arguments(node: Any) -> Arguments:
    """Arguments by their names, with what torch takes where nothing is given."""
    found = {}
    for k, argument in enumerate(node.target._schema.arguments):
        if argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        elif k < len(node.args) and not argument.kwarg_only:
            found[argument.name] = node.args[k]
        else:
            found[argument.name] = argument.default_value
    return found


READ = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}


def array_of(tensor: Any, name: str) -> Tensor:
    """A tensor as an array of its own type.

    Raises:
        UnsupportedModel: there is no such type.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().cpu().contiguous()
    if kind == "bfloat16":
        found: Tensor = plain.view(_torch().int16).numpy().view(bfloat16(name))
        return found
    if kind not in READ or tensor.layout != _torch().strided or tensor.is_quantized:
        raise UnsupportedModel(
            f"{name} is a tensor of {kind}, {tensor.layout}: plain floats and integers are read"
        )
    array: Tensor = plain.numpy()
    return array


def tensor_of(array: Tensor, like: Any) -> Any:
    """The array as a tensor of the type and on the device of another."""
    plain = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name == "bfloat16":
        found = _torch().from_numpy(plain.view(np.int16).copy()).view(_torch().bfloat16)
    else:
        found = _torch().from_numpy(plain.copy())
    return found.to(dtype=like.dtype, device=like.device)


def bfloat16(name: str) -> Any:
    """NumPy's type, which is an extension that comes with onnx."""
    import importlib

    try:
        return importlib.import_module("ml_dtypes").bfloat16
    except ImportError:
        raise UnsupportedModel(
            f"{name} is of bfloat16, which NumPy lacks: pip install ml_dtypes, or give module.float()"
        ) from None


def _torch() -> Any:
    import torch

    return torch
