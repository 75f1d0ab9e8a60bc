"""A network as a graph of operators. Part of the kernel.

A graph is a list of nodes in an order in which each reads what graph inputs, constants and earlier
nodes give. A node has an operator (see `operators`), which says what the node's outputs are as
functions of its inputs, or that nothing is known of them (`Opaque`). Numbers are real: a stored
float is a rational, and the function of a graph is the one over the reals. The first axis of what a
runtime calls a batch is an axis like any other, of unknown size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import CertificateRejected
from . import operators
from .operators import Elementwise, Node, Opaque, Operator, Shape, Slicewise
from .slicewise import SOFTMAX

Tensor = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GraphModel:
    """Nodes, shapes and constants.

    Attributes:
        inputs, outputs: names of values.
        nodes: in order.
        shapes: of each value that a node, an input or a constant gives: a size, or a name for an
            unknown one, for each axis; None where not even the number of axes is known.
        constants: stored tensors by name, in the type in which they are stored.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape | None]
    constants: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if len({*self.inputs, *self.constants}) < len(self.inputs) + len(self.constants):
            raise CertificateRejected("an input is given twice, or has a stored value")
        known = {*self.inputs, *self.constants}
        for node in self.nodes:
            missing = [name for name in node.inputs if name and name not in known]
            if missing or any(name in known for name in node.outputs if name):
                raise CertificateRejected(
                    f"node {node.name!r} reads {missing} before they are there, or writes a value twice"
                )
            given = [name for name in node.outputs if name]
            if len(set(given)) < len(given) or not (node.outputs or isinstance(node.op, Opaque)):
                raise CertificateRejected(f"node {node.name!r} gives a value twice, or none")
            if len(node.outputs) > 1 and not isinstance(node.op, Opaque):
                raise CertificateRejected(f"node {node.name!r} gives more than its operator does")
            known.update(given)
        if not set(self.outputs) <= known:
            raise CertificateRejected(f"outputs {set(self.outputs) - known} are not there")

    @property
    def parameters(self) -> int:
        """How many floats and small integers it stores in tensors with an axis."""
        return sum(
            int(array.size) for array in self.constants.values() if array.ndim and counted(array)
        )

    def live(self) -> GraphModel:
        """Without nodes and constants that no output needs."""
        needed = set(self.outputs)
        nodes = []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                nodes.append(node)
                needed.update(node.inputs)
        constants = {name: array for name, array in self.constants.items() if name in needed}
        kept = needed | {name for node in nodes for name in node.outputs} | set(self.inputs)
        shapes = {name: shape for name, shape in self.shapes.items() if name in kept}
        return replace(self, nodes=tuple(reversed(nodes)), constants=constants, shapes=shapes)

    def array(self, name: str) -> Tensor | None:
        """The value of a constant, or of what only rearranges constants; None of anything else."""
        found = self.constants.get(name)
        return self.rearranged.get(name) if found is None else found

    @cached_property
    def rearranged(self) -> Mapping[str, Tensor]:
        """Values of nodes that rearrange constants."""
        found: dict[str, Tensor] = {}
        for node in self.nodes:
            arrays = [self.constants.get(x, found.get(x)) for x in node.inputs]
            given = [a for a in arrays if a is not None]
            if given and len(given) == len(arrays):
                value = node.op.rearranged(given)
                if value is not None:
                    found[node.output] = value
        return found

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        """The node that gives each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def readers(self) -> Mapping[str, list[Node]]:
        """The nodes that read each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def given_sizes(self) -> frozenset[str]:
        """Names of unknown sizes that inputs have; others are made by nodes."""
        shapes = [self.shapes.get(name) or () for name in self.inputs]
        return frozenset(n for shape in shapes for n in shape if isinstance(n, str))

    def softmax_over_last(self, name: str) -> Node | None:
        """The softmax over its last axis that gives a value, whose rows are then not negative and sum
        to one; None where there is none.
        """
        node = self.makers.get(name)
        while node is not None and isinstance(node.op, Elementwise) and node.op.kind == "identity":
            node = self.makers.get(node.inputs[0])
        if node is None or not isinstance(node.op, Slicewise) or node.op.kind not in SOFTMAX:
            return None
        rank = len(self.shapes.get(node.output) or ())
        rest = tuple((axis, axis) for axis in range(rank - 1))
        return node if rank and node.op.free == rest else None

    @cached_property
    def digest(self) -> str:
        """Names the function and the numbers that it is made of, whatever values and nodes are
        called: operators, wiring, stored tensors with their types.
        """
        hashed = hashlib.sha256()
        for part in self._parts():
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        return f"graph:{hashed.hexdigest()}"

    def _parts(self) -> Iterator[bytes]:
        live = self.live()
        numbers = {name: i for i, name in enumerate(live.inputs)}
        for name in live.inputs:
            yield f"input {sizes(live.shapes.get(name))}".encode()
        for node in (*live.nodes, Node(Opaque("outputs"), live.outputs, (), "outputs")):
            for name in node.inputs:
                if name in live.constants and name not in numbers:
                    numbers[name] = len(numbers)
                    array = live.constants[name]
                    yield f"constant {array.dtype.name} {array.shape}".encode()
                    yield array.tobytes()
            for name in node.outputs:
                if name:
                    numbers[name] = len(numbers)
            places = [numbers[name] if name else -1 for name in node.inputs]
            yield f"{node.op!r} {places} {[bool(name) for name in node.outputs]}".encode()


def sizes(shape: Shape | None) -> tuple[int | None, ...] | None:
    """The known sizes of a shape, whatever the unknown ones are called."""
    return None if shape is None else tuple(n if isinstance(n, int) else None for n in shape)


def counted(array: Tensor) -> bool:
    """Whether a stored tensor holds parameters: floats or integers of one byte, no shapes."""
    return array.dtype.kind == "f" or array.dtype.itemsize == 1 or array.dtype.name == "bfloat16"


def rebuilt(graph: GraphModel) -> GraphModel:
    """The same graph made anew: nodes, operators and tensors of the types that the kernel has.

    Whatever else an object brought, such as a class of its own or a digest that was set by hand,
    stays behind. Tensors are not copied.

    Raises:
        CertificateRejected: it is made of something else.
    """
    nodes = []
    for node in graph.nodes:
        known = type(node) is Node and getattr(operators, type(node.op).__name__, None)
        if type(node.op) is not known or not issubclass(type(node.op), Operator):
            raise CertificateRejected(f"{node!r:.80} is no node of a graph")
        given = {field.name: _plain(getattr(node.op, field.name)) for field in fields(node.op)}
        parts = _plain((node.inputs, node.outputs, node.name))
        nodes.append(Node(type(node.op)(**given), *parts))
    for name, array in graph.constants.items():
        if type(array) is not np.ndarray or array.dtype.hasobject or not _stored_type(array.dtype):
            raise CertificateRejected(f"{name!r} is no tensor of real numbers")
    return GraphModel(
        _plain(tuple(graph.inputs)), _plain(tuple(graph.outputs)), tuple(nodes),
        {_plain(name): _plain(shape) for name, shape in graph.shapes.items()},
        {_plain(name): array for name, array in graph.constants.items()},
    )  # fmt: skip


def _stored_type(dtype: Any) -> bool:
    """Whether 64 bits hold what a type of numbers does; longer floats are no type of any file."""
    return dtype.kind != "c" and not (dtype.kind == "f" and dtype.itemsize > 8)


def _plain(value: Any) -> Any:
    """A value that is what it seems: of no class derived from Python's own."""
    if type(value) is tuple:
        return tuple(map(_plain, value))
    if type(value) not in (str, bytes, int, float, bool, type(None)):
        raise CertificateRejected(f"{value!r:.80} is no plain value")
    return value
