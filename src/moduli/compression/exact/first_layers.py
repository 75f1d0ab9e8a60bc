"""What a box does to the layers that read it: channels that are constant there.

A box of another scale than that of the data that a network was trained on is the commonest mistake
with boxes. It shows in the first layer: a large part of it does nothing on such a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from moduli.common.graph import size_of
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.facts import Known, Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    Opaque,
    PerUnit,
)

Bools = np.ndarray[Any, np.dtype[np.bool_]]
SCALE = "has the box the scale of the data that the network was trained on?"
SUSPICIOUS = 0.5  # share of channels that only the box makes constant, from which it is doubted


class FirstLayers(NamedTuple):
    """Channels of the layers that read nothing but bounded inputs.

    Attributes:
        channels: how many. constant: how many are constant on the box wherever they are read.
        anywhere: how many of these are so on all inputs.
    """

    channels: int
    constant: int
    anywhere: int

    @property
    def suspicious(self) -> bool:
        """Whether the box alone makes so many constant that its scale is to be doubted."""
        return self.constant - self.anywhere >= SUSPICIOUS * self.channels

    def __str__(self) -> str:
        verb = "is" if self.constant == 1 else "are"
        said = f"{self.constant} of {self.channels} units {verb} constant on the box"
        return f"{said}, {self.anywhere} of them on all inputs" if self.anywhere else said


def first_layers(graph: GraphModel, ranges: Ranges) -> FirstLayers | None:
    """How many channels of the first layers are constant within bounds of inputs; None where no layer
    reads bounded inputs alone.
    """
    channels = constant = anywhere = 0
    for layer in _layers_at(graph, ranges):
        on_box = _constant_channels(graph, layer, ranges)
        on_all = _constant_channels(graph, layer, {})
        if on_box is None or on_all is None:
            continue
        channels += len(on_box)
        constant += int(on_box.sum())
        anywhere += int((on_box & on_all).sum())
    return FirstLayers(channels, constant, anywhere) if channels else None


def _layers_at(graph: GraphModel, inputs: Iterable[str]) -> Iterator[Node]:
    """Layers with stored weights to which nothing but some of the inputs leads, without another layer
    in between.
    """
    reached = set(inputs)
    for node in _reading_alone(graph, reached):
        if isinstance(node.op, Linear):
            yield node
        elif not isinstance(node.op, (Contract, Lookup, Opaque)):
            reached.update(node.outputs)


def _reading_alone(graph: GraphModel, values: set[str]) -> Iterator[Node]:
    """Nodes that read some values, and beside them stored numbers alone; what is added to the values
    meanwhile counts.
    """
    stored = set(graph.constants)
    for node in graph.nodes:
        read = {name for name in node.inputs if name} - stored
        if not read and node.inputs:
            stored.update(node.outputs)
        elif read and read <= values:
            yield node


def _constant_channels(graph: GraphModel, layer: Node, ranges: Ranges) -> Bools | None:
    """Which channels of a layer are constant wherever something else than a function of single entries
    reads them; None where they are not followed.
    """
    assert isinstance(layer.op, Linear)
    values = _ends_of_entrywise(graph, layer.output)
    shape, axis = graph.shapes.get(layer.output), layer.op.writes
    n = size_of(graph, (layer.output, axis))
    if not values or shape is None or n is None:
        return None
    part = replace(graph, outputs=tuple(values)).live()
    try:
        known = Known(part, ranges)
    except CertificateRejected:  # it computes with what is no number
        return None
    constant = np.ones(n, dtype=bool)
    for name in values:
        other = graph.shapes.get(name)
        if other is None or len(other) != len(shape) or other[axis] != n:
            return None
        slices = known.of((name, axis))
        for i in np.flatnonzero(constant).tolist():
            constant[i] = slices.constant(i) is not None
    return constant


def _ends_of_entrywise(graph: GraphModel, name: str) -> list[str]:
    """Values that are functions of single entries of a tensor alone, and are read by something else."""
    reached = {name}
    for node in _reading_alone(graph, reached):
        if isinstance(node.op, (Elementwise, PerUnit)):
            reached.update(node.outputs)
    ends = []
    for value in reached:
        readers = graph.readers.get(value, [])
        if value in graph.outputs or any(reached.isdisjoint(n.outputs) for n in readers):
            ends.append(value)
    return sorted(ends)
