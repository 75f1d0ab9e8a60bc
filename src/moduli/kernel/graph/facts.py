"""Facts about all tensors of a graph, slice by slice. Part of the kernel.

They are computed in the order of the nodes, each from facts about what a node reads
(`Operator.slices`), for every axis of known size. Facts are asked for once per graph; after
indices are left out, the facts about those that stay are still true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from ..errors import CertificateRejected
from .infinities import require_numbers
from .model import GraphModel
from .operators import Facts, Linear, Node, Place, Shape
from .slices import Classes, Slices, of_array

Tensor = np.ndarray[Any, np.dtype[Any]]
Array = np.ndarray[Any, np.dtype[np.float64]]
Ranges = Mapping[str, tuple[Array, Array]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
LARGE = 2**22  # weights of a node beyond which rows that are never left out are not looked at


@dataclass(frozen=True)
class Loss:
    """What numbers of a stored tensor are away from those that they stand for.

    Attributes:
        axis: of the tensor. columns: for some indices along it, bounds of what is lost at each entry.
    """

    axis: int
    columns: Mapping[int, Any]

    @property
    def count(self) -> int:
        """How many numbers are away."""
        return sum(int(np.count_nonzero(lost)) for lost in self.columns.values())

    def whole(self, shape: tuple[int, ...]) -> Array:
        """For all entries."""
        found = np.zeros(shape)
        for i, lost in self.columns.items():
            np.moveaxis(found, self.axis, 0)[i] = lost
        return found

    def take(self, axis: int, kept: Ints) -> Loss:
        """After indices along an axis are left out."""
        if axis == self.axis:
            places = {int(i): k for k, i in enumerate(kept)}
            stay = {places[i]: lost for i, lost in self.columns.items() if i in places}
            return Loss(self.axis, stay)
        other = axis - (axis > self.axis)
        cut = {i: np.take(lost, kept, other) for i, lost in self.columns.items()}
        return Loss(self.axis, cut)


class Known(Facts):
    """What is known of a graph's tensors; see the module.

    Facts are about the graph whose stored numbers are as moves make them, over the reals. `rounded`
    says what some of those that are stored are away from them; of these tensors nothing is known.

    Args:
        ranges: for some inputs, arrays that broadcast against their shapes: the inputs lie between
            them, and all that is known holds for such inputs only.
        inputs_alone: know nothing of what nodes give.
        refine: asked behind each node, to put better bounds into `found`.

    Raises:
        CertificateRejected: they do not fit, or the graph computes with what is no number.
    """

    def __init__(
        self, graph: GraphModel, ranges: Ranges, *, inputs_alone: bool = False,
        refine: Callable[[Known, Node], None] | None = None,
    ) -> None:  # fmt: skip
        self.beyond = require_numbers(graph)
        self.graph, self.classes = graph, Classes()
        self.found: dict[Place, Slices] = {}
        self.rounded: dict[str, Loss] = {}
        for name, (low, high) in ranges.items():
            self._input(name, low, high)
        for node in () if inputs_alone else graph.nodes:
            for name in node.outputs[:1]:
                shape = graph.shapes.get(name)
                for axis, n in enumerate(shape or ()):
                    if isinstance(n, int) and n > 0:
                        made = self._made(node, axis)
                        if made is not None:
                            self.found[name, axis] = made
            if refine is not None:
                refine(self, node)

    def _made(self, node: Any, axis: int) -> Slices | None:
        if self.array(node.output) is not None:
            return None  # `of` looks at the numbers
        if isinstance(node.op, Linear) and node.output in self.graph.outputs:
            weight = self.graph.constants.get(node.inputs[1])
            if weight is not None and weight.size > LARGE:
                return None
        found: Slices | None = node.op.slices(node, axis, self)
        return found

    def of(self, a: Place) -> Slices:
        if a not in self.found:
            array = self.array(a[0])
            shape = self.graph.shapes.get(a[0])
            if array is not None and array.ndim:
                self.found[a] = of_array(array, a[1], self.classes)
            else:
                n = (shape or ())[a[1]]
                assert isinstance(n, int)
                self.found[a] = self.classes.unknown(n)
        return self.found[a]

    def along(self, name: str, shape: Shape | None) -> Iterator[tuple[int, Slices]]:
        """The axes of a value along which something is known of its slices, and that."""
        for axis, n in enumerate(shape or ()):
            found = self.found.get((name, axis)) if isinstance(n, int) and n else None
            if found is not None:
                yield axis, found

    def hull(self, name: str, shape: Shape | None) -> tuple[float, float]:
        """Ends between which all entries of a value lie; infinite where nothing is known."""
        low, high = -inf, inf
        for _, x in self.along(name, shape):
            low, high = max(low, float(x.low.min())), min(high, float(x.high.max()))
        return low, high

    def array(self, name: str) -> Tensor | None:
        return None if self.rounded and self._is_rounded(name) else self.graph.array(name)

    def _is_rounded(self, name: str) -> bool:
        if name in self.rounded:
            return True
        rearranged = name not in self.graph.constants and name in self.graph.rearranged
        return rearranged and any(map(self._is_rounded, self.graph.makers[name].inputs))

    def shape(self, name: str) -> Shape | None:
        return self.graph.shapes.get(name)

    def of_numbers(self, name: str) -> bool:
        """Whether no stored infinity is in a tensor."""
        return name not in self.beyond

    def rows_sum_to_one(self, name: str) -> bool:
        """Whether entries along the last axis are not negative and sum to one."""
        node = self.graph.softmax_over_last(name)
        return node is not None and self.of_numbers(node.inputs[0])

    def _input(self, name: str, low: Array, high: Array) -> None:
        shape = self.graph.shapes.get(name)
        for end in (low, high):
            _require_fit(name, np.shape(end), shape)
        for axis, n in enumerate(shape or ()):
            if not isinstance(n, int):
                continue
            ends = []
            for end, least in ((low, np.minimum), (high, np.maximum)):
                back = axis - len(shape or ())
                wide = np.asarray(end, dtype=np.float64)
                if -back <= wide.ndim and wide.shape[back] == n:
                    rows = np.moveaxis(wide, back, 0).reshape(n, -1)
                    ends.append(least.reduce(rows, axis=1))
                else:
                    ends.append(np.full(n, least.reduce(wide.ravel())))
            self.found[name, axis] = self.classes.made(n, ends[0], ends[1], {})

    def restricted(self, graph: GraphModel, kept: Mapping[Place, Any]) -> None:
        """Go over to a graph in which indices are left out."""
        self.graph = graph
        for place, index in kept.items():
            name, axis = place
            if place in self.found:
                self.found[place] = self.found[place].take(index)
            if name in self.rounded:
                self.rounded[name] = self.rounded[name].take(axis, index)

    def forget(self, names: set[str]) -> None:
        """Know nothing of tensors that are no longer what they were; stored ones are read again."""
        for place in [p for p in self.found if p[0] in names]:
            del self.found[place]


def _require_fit(name: str, bounds: tuple[int, ...], shape: Shape | None) -> None:
    """Bounds of an input have to broadcast against its shape."""
    fits = shape is not None and len(bounds) <= len(shape)
    for back in range(-len(bounds), 0):
        fits = fits and bounds[back] in (1, (shape or ())[back] if fits else 1)
    if not fits:
        raise CertificateRejected(
            f"bounds of shape {bounds} do not fit input {name!r} of shape {shape}"
        )
