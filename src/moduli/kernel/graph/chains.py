"""The start of a graph that is a chain of dense layers, node by node. Part of the kernel.

Nothing is put together but a product and its bias: a chain that is read here computes what the nodes
do, in the order of the nodes, and rounds where they do. Values are vectors, one for each index of
their first axis: a reshape that keeps this axis changes no vector.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..activations import Activation
from ..box import Box
from ..network import IDENTITY, Layer, Network
from .entrywise import Elementwise, PerUnit
from .facts import Ranges
from .model import GraphModel
from .operators import Linear, Node, Reshape
from .slices import are_numbers

Array = np.ndarray[Any, np.dtype[np.float64]]


WIDE = 2**11  # inputs that are shifted by a layer of their own, which has as many units


class Start(NamedTuple):
    """The chain, and the value of the graph that each of its layers gives before its activation.

    Attributes:
        gives: all values that hold what a layer gives before its activation. reads: all that hold what
            it reads.
    """

    network: Network
    values: tuple[str, ...]
    gives: tuple[tuple[str, ...], ...] = ()
    reads: tuple[tuple[str, ...], ...] = ()

    @property
    def value(self) -> str:
        """That is its output."""
        return self.values[-1]


class _Reader:
    """Follows a graph from its only input while it is a chain."""

    def __init__(self, graph: GraphModel) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.open = False  # whether the last layer is a product that may still get a bias
        self.values: list[str] = []  # what each layer gives, before its activation
        self.gives: list[list[str]] = []
        self.reads: list[list[str]] = [[graph.inputs[0]]]
        self.at = graph.inputs[0]

    def read(self) -> Start | None:
        while True:
            readers = self.graph.readers.get(self.at, [])
            if len(readers) != 1 or self.at in self.graph.outputs or not self._follow(readers[0]):
                break
        # an activation behind the last layer belongs to nobody
        if not self.layers:
            return None
        last = self.layers[-1]
        layers = (*self.layers[:-1], Layer(last.weight, last.bias, IDENTITY))
        gives, reads = (tuple(map(tuple, names)) for names in (self.gives, self.reads))
        return Start(Network(layers), tuple(self.values), gives, reads[: len(layers)])

    def _follow(self, node: Node) -> bool:
        """Take a node in; False where it is none of a chain."""
        size = self._vector(self.at)
        if size is None or self._vector(node.output) is None or len(node.outputs) != 1:
            return False
        op = node.op
        if isinstance(op, Reshape):
            kept = self._first(self.at) == self._first(node.output)
            if not kept or self._vector(node.output) != size:
                return False
            self._same(node)
        elif isinstance(op, Linear):
            if not self._product(node, op, size):
                return False
        elif isinstance(op, Elementwise) and len(node.inputs) == 2:
            if not self._shift(node, op.kind, size):
                return False
        elif isinstance(op, Elementwise) and len(node.inputs) == 1:
            if op.kind == "identity":
                self._same(node)
            elif not self._activation(node, op):
                return False
        else:
            return False
        self.at = node.output
        return True

    def _stored(self, name: str) -> Any | None:
        """A stored tensor, or one whose entries are only moved: no product of integers and a scale."""
        node = self.graph.makers.get(name)
        if node is not None and (
            isinstance(node.op, PerUnit) or any(self._stored(x) is None for x in node.inputs)
        ):
            return None
        return self.graph.array(name)

    def _first(self, name: str) -> Any:
        return (self.graph.shapes.get(name) or (None,))[0]

    def _vector(self, name: str) -> int | None:
        """How many entries a value has for each index of its first axis."""
        shape = self.graph.shapes.get(name)
        if not shape or not all(isinstance(n, int) for n in shape[1:]):
            return None
        return math.prod(int(n) for n in shape[1:])

    def _product(self, node: Node, op: Linear, size: int) -> bool:
        weight = self._stored(node.inputs[1])
        rank = len(self.graph.shapes.get(self.at) or ())
        made = len(self.graph.shapes.get(node.output) or ())
        if node.inputs[0] != self.at or weight is None or weight.ndim != 2 or op.groups != 1:
            return False
        if not are_numbers(weight):
            return False
        if (op.reads % rank, op.writes % made) != (rank - 1, made - 1) or op.padded:
            return False
        rows = weight if op.rows == 0 else weight.T
        biases = [self._stored(name) for name in node.inputs[2:] if name]
        if rows.shape[1] != size or rows.shape[0] != self._vector(node.output):
            return False
        bias = biases[0] if biases else np.zeros(len(rows))
        if bias is None or bias.shape != (len(rows),) or not are_numbers(bias):
            return False
        self._add(node, rows, bias)
        self.open = not biases
        return True

    def _shift(self, node: Node, kind: str, size: int) -> bool:
        """A stored vector that is added, or taken away."""
        other = node.inputs[1] if node.inputs[0] == self.at else node.inputs[0]
        array = self._stored(other)
        if (
            kind not in ("add", "sub")
            or array is None
            or other == self.at
            or not are_numbers(array)
        ):
            return False
        if kind == "sub" and node.inputs[0] != self.at:
            return False
        shape = self.graph.shapes.get(node.output) or ()
        sizes = tuple(int(n) for n in shape[1:])
        if array.ndim > len(sizes):
            if array.ndim != len(sizes) + 1 or array.shape[0] != 1:
                return False
            array = array[0]
        if self._vector(node.output) != size or array.size > size:
            return False
        wide = np.broadcast_to(np.asarray(array, dtype=np.float64), sizes).ravel()
        wide = -wide if kind == "sub" else wide
        if self.open:
            last = self.layers.pop()
            self.values.pop()
            self.gives.pop()
            self.reads.pop()
            self._add(node, last.weight, wide)
            return True
        # a further sum behind a sum might be put together with it
        if self.layers and self.layers[-1].activation == IDENTITY:
            return False
        if size > WIDE:
            return False
        self._add(node, np.eye(size), wide)
        return True

    def _same(self, node: Node) -> None:
        """A value that holds what another does."""
        pending = self.layers and self.layers[-1].activation == IDENTITY
        (self.gives if pending else self.reads)[-1].append(node.output)

    def _activation(self, node: Node, op: Elementwise) -> bool:
        if not self.layers or self.layers[-1].activation != IDENTITY:
            return False
        try:
            activation = Activation(op.kind, *op.numbers)
        except ValueError:
            return False
        last = self.layers.pop()
        self.layers.append(Layer(last.weight, last.bias, activation))
        self.reads[-1].append(node.output)
        self.open = False
        return True

    def _add(self, node: Node, weight: Any, bias: Any) -> None:
        weight, bias = (np.asarray(part, dtype=np.float64) for part in (weight, bias))
        self.layers.append(Layer(weight, bias, IDENTITY))
        self.values.append(node.output)
        self.gives.append([node.output])
        self.reads.append([])
        self.open = False


def start_of(graph: GraphModel) -> Start | None:
    """The longest start of a graph that is a chain of layers; None where there is none."""
    return _Reader(graph).read() if len(graph.inputs) == 1 else None


def box_of_vectors(graph: GraphModel, ranges: Ranges, width: int) -> Box:
    """The box of the only input as vectors: for each index of its first axis the same."""
    name = graph.inputs[0]
    shape = tuple(int(n) for n in (graph.shapes[name] or ())[1:])
    ends = []
    for end, least in zip(ranges[name], (np.minimum, np.maximum), strict=True):
        wide = np.asarray(end, dtype=np.float64)
        if wide.ndim > len(shape):
            wide = least.reduce(wide, axis=0)
        ends.append(np.broadcast_to(wide, shape).reshape(width))
    return Box(*ends)
