"""Operators of a graph: what each computes, which indices of its tensors belong together, and what
is known of the slices of its output. Part of the kernel.

Three things are declared for each operator, and proved beside it.

`couple` says which indices of which axes of its tensors *stand or fall together*. The theorem behind
every removal (`removal`) is: leave out, of every axis of every tensor, the indices that a set of
coupled classes holds; then each node gives the former output without these indices, from the former
inputs without these indices. So `couple` has to tie whatever would break this for the operator, and
to fix (never leave out) what it cannot tie.

`restricted` is the operator after indices are left out, where sizes are part of it.

`slices` are facts about the output along an axis, from facts about the inputs (`slices`). They hold
for all inputs of the graph.

Nothing else is known of an operator. A node of a kind that is not here is `Opaque`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .slices import Classes, Slices

Tensor = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Shape = tuple[int | str, ...]
Shapes = Mapping[str, Shape | None]
Sizes = tuple[int | None, ...]
Place = tuple[str, int]  # a tensor and one of its axes
UNIT = 2.0**-52  # twice the relative error of one rounding
TINY = float(np.nextafter(0.0, 1.0))
ZERO, UNITY = Fraction(0), Fraction(1)


class Ties(ABC):
    """What `couple` may ask and do, see `axes.Coupling`."""

    @abstractmethod
    def same(self, a: Place, b: Place) -> None: ...
    @abstractmethod
    def pick(self, a: Place, b: Place, index: Ints) -> None: ...
    @abstractmethod
    def fix(self, a: Place, why: str, index: Ints | None = None) -> None: ...
    @abstractmethod
    def labels(self, a: Place) -> Ints | None: ...
    @abstractmethod
    def shape(self, name: str) -> Shape | None: ...


class Facts(ABC):
    """What `slices` may ask, see `facts.Known`."""

    classes: Classes

    @abstractmethod
    def of(self, a: Place) -> Slices: ...
    @abstractmethod
    def array(self, name: str) -> Tensor | None: ...
    @abstractmethod
    def shape(self, name: str) -> Shape | None: ...
    @abstractmethod
    def of_numbers(self, name: str) -> bool: ...
    @abstractmethod
    def rows_sum_to_one(self, name: str) -> bool: ...


@dataclass(frozen=True)
class Node:
    """An operator with the names of what it reads and writes; an empty name is left out."""

    op: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass(frozen=True)
class Operator:
    """Base of all operators."""

    def couple(self, node: Node, ties: Ties) -> None:
        raise NotImplementedError

    def restricted(self, node: Node, kept: Mapping[Place, Ints], shapes: Shapes) -> Operator:
        """After indices are left out: `kept` has those that stay, `shapes` those before."""
        return self

    def slices(self, node: Node, axis: int, facts: Facts) -> Slices | None:
        """Along an axis of the output; None where nothing is known."""
        return None

    def rearranged(self, arrays: Sequence[Tensor]) -> Tensor | None:
        """The output, where it only rearranges constants."""
        return None


@dataclass(frozen=True)
class Opaque(Operator):
    """Some function of its inputs, of which nothing is known.

    Attributes:
        kind: what the file calls it. payload: a digest of what else the file says of it.
    """

    kind: str
    payload: str = ""

    def couple(self, node: Node, ties: Ties) -> None:
        # a function that may read anything needs all of it, and its outputs have the shapes that
        # they have
        for name in (*node.inputs, *node.outputs):
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), f"{self.kind} {node.name!r}")


@dataclass(frozen=True)
class Size(Operator):
    """Integers made of the sizes of some axes of tensors, and of nothing else.

    Attributes:
        axes: pairs of an input and an axis of it. payload: a digest of what is made of the sizes.
    """

    axes: tuple[tuple[int, int], ...]
    payload: str = ""

    def couple(self, node: Node, ties: Ties) -> None:
        for i, axis in self.axes:
            ties.fix((node.inputs[i], axis), f"{node.name!r}, which reads its size")
        for name in node.outputs:  # each size is another number
            for axis in range(len(ties.shape(name) or ())):
                ties.fix((name, axis), f"{node.name!r}, which gives sizes")
