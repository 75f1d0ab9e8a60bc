"""A network as a graph of operators, with the file or module that it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel, printable
from moduli.kernel.graph.axes import Units, units_from
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Contract, Linear, Lookup, Place, Transpose
from moduli.kernel.network import Network

from .integer_network import IntegerNetwork

Array = np.ndarray[Any, np.dtype[Any]]


class NotWritable(UnsupportedModel):
    """A file or module cannot be rewritten as wanted.

    Attributes:
        tensors: some whose sizes would have to change, and do not.
    """

    def __init__(self, text: str, tensors: tuple[str, ...]) -> None:
        super().__init__(text)
        self.tensors = tensors


class Source(ABC):
    """Where a graph was read: a file or a module that can be run, and rewritten with fewer units.

    Attributes:
        notes: what a user should know about the reading. where: its name. integers: inputs that hold
            integers. bypasses: whether readers of a value can be given another one. suffixes: of files
            that it can be written as. formats: of the floats that it computes with, as far as they
            are known. sums: operators of which nobody says how a runtime adds.
    """

    notes: tuple[str, ...]
    where: str
    integers: frozenset[str]
    bypasses: bool = True
    formats: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = (".onnx",)
    sizes: tuple[int, ...] | None = (
        None  # of its only input, to run it with, where it leaves them open
    )

    def runs_with(self, model: GraphModel, shape: int | Sequence[int]) -> bool:
        """Note sizes of the only input, with or without the axis of samples; whether they fit."""
        own = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        wanted = model.shapes.get(model.inputs[0]) if len(model.inputs) == 1 else None
        if wanted is not None and len(own) == len(wanted) - 1:
            own = (wanted[0] if isinstance(wanted[0], int) else 1, *own)
        if wanted is None or len(own) != len(wanted) or min(own) < 1:
            return False
        if any(isinstance(n, int) and n != k for n, k in zip(wanted, own, strict=True)):
            return False
        self.sizes = own
        return True

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in float64."""

    def values(self, feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        """Those of the wanted values inside the graph that it has under these names, in float64.

        Raises:
            UnsupportedModel: it is run as a whole.
        """
        raise UnsupportedModel(
            f"{self.where}: values inside it are not computed; export it to ONNX for that"
        )

    @abstractmethod
    def rewritten(self, wanted: GraphModel, renamed: Mapping[str, str]) -> Graph:
        """The same file or module with the wanted graph; `renamed` says which values are read in
        place of others.

        Raises:
            NotWritable: it does not let that be.
        """

    @abstractmethod
    def chain(self) -> Network:
        """It as a chain of dense layers, where it is one."""

    @abstractmethod
    def save(self, path: Path) -> Path:
        """Write it."""

    def on_device(self, kernels: str | None = None) -> IntegerNetwork:
        """What it computes in integers, where it is a file of integers alone.

        Args:
            kernels: whose arithmetic, where several are known; others than its own are left aside.

        Raises:
            UnsupportedModel: it is no such file, or something in it has no rule; names that.
        """
        raise UnsupportedModel(
            f"{self.where} is not computed in integers: that is known of .tflite and ONNX files of 8-bit integers"
        )

    def result(self) -> Any:
        """What was read and is no file, as it is now: a module; None of files."""
        return None


@dataclass(frozen=True)
class Axis:
    """Interchangeable units of a graph: channels, dense units, heads, coordinates.

    Attributes:
        name: the stored tensor that writes it first, or the value that it is an axis of; coordinates
            inside heads are called so, as heads have the same writers.
        size: how many units.
        writers, readers, carriers: stored tensors with a row, a column, a number for each unit.
        frozen: why no unit of it can be left out, in words; None where some can.
    """

    name: str
    size: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    carriers: tuple[str, ...]
    frozen: str | None


@dataclass(frozen=True)
class Graph:
    """A network of any operators: convolutions, sums, attention, and parts that nobody understands.

    ``load`` gives one for a file that is no dense chain. What is not understood in it is opaque: a
    function of which nothing is assumed.

    Attributes:
        model: what the kernel sees. source: the file or module that it was read from.

    >>> import moduli as mo
    >>> net = mo.load("zoo:person-detector")
    >>> net
    Graph(86 operators, 221794 parameters, x -> t85)
    >>> [axis.size for axis in net.axes if axis.frozen is None][:3]
    [8, 16, 32]
    """

    model: GraphModel
    source: Source = field(repr=False, compare=False)

    def __repr__(self) -> str:
        ends = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        said = f"Graph({len(self.model.nodes)} operators, {self.parameters} parameters, {ends})"
        return printable(said)  # names are as files have them

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.model.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.model.outputs

    @property
    def digest(self) -> str:
        """Names the function: operators, wiring, stored numbers."""
        return self.model.digest

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the reading."""
        return self.source.notes

    @property
    def parameters(self) -> int:
        return self.model.parameters

    @property
    def units(self) -> int:
        """Of all axes that are not frozen."""
        return sum(axis.size for axis in self.axes if axis.frozen is None)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """From the inputs to the outputs."""
        return tuple(axes_of(self.model))

    def __call__(self, x: Any) -> Any:
        """The outputs, computed in float64 by an evaluator that knows nothing of the reading.

        Args:
            x: an array for the only input, or arrays by name.

        Returns:
            An array for the only output where an array was given, otherwise arrays by name.

        Raises:
            UnsupportedModel: the evaluator does not know an operator.
        """
        alone = not isinstance(x, Mapping)
        if alone and len(self.inputs) != 1:
            raise UnsupportedModel(f"inputs {', '.join(self.inputs)}: give arrays by name")
        feeds = (
            {self.inputs[0]: np.asarray(x)} if alone else {k: np.asarray(v) for k, v in x.items()}
        )
        if set(feeds) != set(self.inputs):
            raise UnsupportedModel(f"inputs are {', '.join(self.inputs)}, given {', '.join(feeds)}")
        found = self.source.run(feeds)
        return found[self.outputs[0]] if alone and len(self.outputs) == 1 else found

    def chain(self) -> Network:
        """The same function as a chain of dense layers.

        Raises:
            UnsupportedModel: it is none, or too large as one.
        """
        return self.source.chain()


class AxisPlaces(NamedTuple):
    """An axis, and where its units are.

    Attributes:
        places: axes of tensors that have the units: those that write them; of units that nothing
            writes those that read them, or else any. For each index along one the number of its
            unit, from 0; -1 where it is of another axis.
    """

    axis: Axis
    places: tuple[tuple[Place, Array], ...]


def axes_of(model: GraphModel) -> list[Axis]:
    """The axes of units of a graph that have a stored tensor with rows or columns for them."""
    return [found.axis for found in placed_axes(model)]


def placed_axes(model: GraphModel) -> list[AxisPlaces]:
    """The axes of units of a graph, as `axes_of` names them, with the places of their units."""
    found, covered = list[AxisPlaces](), set[Place]()
    for seed in _seeds(model):
        size = size_of(model, seed)
        if seed in covered or size is None:
            continue
        if size == 1:
            if seed[0] in model.constants:
                axis = Axis(seed[0], 1, (seed[0],), (), (), "an axis keeps one unit")
                found.append(_whole(axis, seed))
            continue
        units = units_from(model, seed)
        covered.update(units.places)
        found += _axes_among(model, units)
    return _named_apart(found)


def _whole(axis: Axis, place: Place) -> AxisPlaces:
    """An axis with a unit for each index along an axis of a tensor."""
    return AxisPlaces(axis, ((place, np.arange(axis.size)),))


def _named_apart(axes: list[AxisPlaces]) -> list[AxisPlaces]:
    """Axes of one tensor under names of their own."""
    counts, found = dict[str, int](), list[AxisPlaces]()
    for axis, places in axes:
        k = counts[axis.name] = counts.get(axis.name, 0) + 1
        named = axis if k == 1 else replace(axis, name=f"{axis.name}, {k}")
        found.append(AxisPlaces(named, places))
    return found


def _seeds(model: GraphModel) -> list[Place]:
    rows, others = list[Place](), list[Place]()
    for node in model.nodes:
        if isinstance(node.op, Linear):
            rows.append(stored_axis(model, node.inputs[1], node.op.rows))
        if isinstance(node.op, Lookup):
            shape = model.shapes[node.inputs[0]] or ()
            rows += [(node.inputs[0], axis) for axis in range(len(shape)) if axis != node.op.axis]
        if isinstance(node.op, Contract):
            for name in node.inputs:
                others += [(name, axis) for axis in range(len(model.shapes.get(name) or ()))]
    return list(dict.fromkeys([*rows, *others]))


def size_of(model: GraphModel, place: Place) -> int | None:
    """How many indices an axis of a tensor has; None where no number is known."""
    shape = model.shapes.get(place[0])
    size = None if shape is None else shape[place[1]]
    return size if isinstance(size, int) else None


def stored_axis(model: GraphModel, name: str, axis: int) -> Place:
    """The axis of the stored tensor that a weight is, where it is only transposed."""
    while name not in model.constants and name in model.makers:
        maker = model.makers[name]
        if not isinstance(maker.op, Transpose):
            break
        name, axis = maker.inputs[0], maker.op.order[axis]
    return name, axis


def _axes_among(model: GraphModel, units: Units) -> list[AxisPlaces]:
    """Units that the same tensors write are one axis: a concatenation joins several."""
    readers = dict[str, None]()
    writers = list[tuple[str, Array]]()
    rows, columns = dict[Place, Array](), dict[Place, Array]()
    for node in model.nodes:
        if isinstance(node.op, Linear):
            weight = node.inputs[1]
            row = units.places.get((weight, node.op.rows))
            column = units.places.get((weight, node.op.columns))
            name = stored_axis(model, weight, 0)[0]
            if row is not None:
                writers.append((name, row))
                rows[weight, node.op.rows] = row
            if column is not None:
                readers[name] = None
                columns[weight, node.op.columns] = column
        elif isinstance(node.op, Lookup):
            for (place, axis), labels in units.places.items():
                if place == node.inputs[0] and axis != node.op.axis:
                    writers.append((place, labels))
                    rows[place, axis] = labels
    if not readers and not any(labels.size for _, labels in writers):
        return []
    names = tuple(dict.fromkeys(name for name, _ in writers))
    stored = dict.fromkeys(name for name, _ in units.places if name in model.constants)
    carriers = tuple(name for name in stored if name not in readers and name not in names)
    if units.count == 0:
        # coordinates of heads are met as an axis of a value: rows of the tensor are named already
        name = names[0] if names and units.seed[0] in model.constants else units.seed[0]
        size = len(units.places[units.seed])
        why = units.why[0] if units.why else "nothing that writes it is understood"
        return [_whole(Axis(name, size, names, tuple(readers), carriers, why), units.seed)]
    first = dict(reversed(writers))
    found = []
    for names, members in _written_alike(writers, units.count).items():
        name = names[0] if names else units.seed[0]
        if names and _interleaved(first[name], members):
            name = f"{name}, coordinates"
        free = Axis(name, len(members), names, tuple(readers), carriers, None)
        number = np.full(units.count + 1, -1)
        number[members] = np.arange(len(members))
        found.append(AxisPlaces(free, _places_of(number, rows, columns, units.places)))
    return found


def _written_alike(
    writers: list[tuple[str, Array]], count: int
) -> dict[tuple[str, ...], list[int]]:
    """Units by the tensors that write them."""
    written: dict[int, dict[str, None]] = {unit: {} for unit in range(count + 1)}
    for name, labels in writers:
        for unit in np.unique(labels).tolist():
            written[unit][name] = None
    groups: dict[tuple[str, ...], list[int]] = {}
    for unit in range(1, count + 1):
        groups.setdefault(tuple(written[unit]), []).append(unit)
    return groups


def _places_of(number: Array, *choices: Mapping[Place, Array]) -> tuple[tuple[Place, Array], ...]:
    """Of the first choice of places that have some units those that do, with the number of the unit of
    each index, -1 where it is none of these.
    """
    for places in choices:
        found = [(place, number[labels]) for place, labels in places.items()]
        found = [(place, numbers) for place, numbers in found if (numbers >= 0).any()]
        if found:
            return tuple(found)
    return ()


def _interleaved(labels: Array, units: list[int]) -> bool:
    """Whether units have several rows each, and no two of them together: coordinates of heads."""
    mine = labels[np.isin(labels, units)]
    return len(mine) > len(units) and bool((mine[1:] != mine[:-1]).all()) and len(units) > 1
