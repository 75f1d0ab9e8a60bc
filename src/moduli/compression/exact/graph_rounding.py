"""What rounding stored numbers of a graph does to its outputs, and whether a bound of it says something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moduli.common.graph import stored_axis
from moduli.kernel.graph.differences import difference, sizes_of_outputs
from moduli.kernel.graph.facts import Known, Loss
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear
from moduli.kernel.slack import NO_SLACK, Slack

SMALL = 2.0**-10  # of what an output can be


def tells(slack: Slack, known: Known) -> bool:
    """Whether a bound is small beside what outputs can be, so that it says something."""
    if slack == NO_SLACK:
        return True
    most = sizes_of_outputs(known.graph, known).within(1.0)
    return slack.finite and slack.within(1.0) <= SMALL * most


class Bounded:
    """What rounding some stored tensors does, as far as a bound of it says something.

    Layers are asked for from the last to the first: one whose rounding might do too much ends it, as
    what comes before reaches the outputs through more layers.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.everywhere: bool | None = None
        self.ended = False

    def __call__(self, lost: Mapping[str, Loss]) -> bool:
        """Whether stored numbers may lose so much."""
        graph = self.known.graph
        if self.everywhere is None:
            every = difference(graph, _each_rounded(graph), self.known)
            self.everywhere = tells(every, self.known)
        if self.everywhere and _of_layers(graph).issuperset(lost):
            return True
        if self.ended:
            return False
        self.ended = not tells(bound_of(self.known, lost), self.known)
        return not self.ended

    def again(self) -> None:
        """Layers are asked for from the last one on again."""
        self.ended = False


def _of_layers(graph: GraphModel) -> set[str]:
    """Stored weights and biases of layers."""
    layers = [node for node in graph.nodes if isinstance(node.op, Linear)]
    names = {name for node in layers for name in node.inputs[1:3] if name}
    return {stored_axis(graph, name, 0)[0] for name in names} & graph.constants.keys()


def _each_rounded(graph: GraphModel) -> Any:
    """Each number of each layer rounded: where that does little, no more need be asked."""
    names = _of_layers(graph)

    def deviation(name: str) -> Any:
        stored = graph.constants[name]
        precision = precision_of(stored.dtype)
        if name not in names or precision is None:
            return None
        return np.asarray(np.abs(np.asarray(stored, dtype=np.float64)) * precision)

    return deviation


def precision_of(dtype: Any) -> float | None:
    """Twice the relative error of a rounding; None of types in which no sums are stored."""
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps) if dtype.kind == "f" and dtype.itemsize > 1 else None


def bound_of(known: Known, lost: Mapping[str, Loss]) -> Slack:
    """How far outputs are apart where stored numbers lose so much."""
    stored = known.graph.constants

    def deviation(name: str) -> Any:
        return lost[name].whole(stored[name].shape) if name in lost else None

    return difference(known.graph, deviation, known)
