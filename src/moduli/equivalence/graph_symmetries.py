"""The orders of units that leave the function of a graph as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.result import Result
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphMove, after, played
from moduli.kernel.graph.ordering import commuting

from .graph_order import Exchangeable, exchangeable_units, move_to, order_of


class UnitSet(NamedTuple):
    """Units that may trade places in every way: the tensor and the axis that have them, how many they are."""

    tensor: str
    axis: int
    size: int


@dataclass(frozen=True)
class GraphElement:
    """An order of units; ``element(graph)`` is the graph in that order, the same function."""

    moves: tuple[GraphMove, ...]

    def __call__(self, graph: Graph) -> Graph:
        """The kernel checks that every node commutes with the order.

        Raises:
            CertificateRejected: the graph has other units.
        """
        moved, _ = played(graph.model, self.moves, {})
        found = graph.source.rewritten(moved, {})
        if found.digest != after(graph.model, graph.digest, self.moves):
            raise CertificateRejected("what was written is another graph")
        return found


@dataclass(frozen=True, eq=False, repr=False)
class GraphSymmetries(Result):
    """Permutations of units of a graph, each proved to keep the function.

    Signs, scales and changes of basis inside heads are not counted: there are at least so many
    symmetries.

    Attributes:
        graph: whose. units: sets of units that may trade places.
    """

    graph: Graph
    sets: tuple[Exchangeable, ...]
    kind: ClassVar[str] = "symmetries"

    @staticmethod
    def of(graph: Graph) -> GraphSymmetries:
        return GraphSymmetries("bounded", graph, tuple(exchangeable_units(graph.model)))

    @property
    def units(self) -> tuple[UnitSet, ...]:
        return tuple(UnitSet(*units.seed, len(members)) for units, members in self.sets)

    @property
    def log_order(self) -> float:
        """The logarithm of how many orders there are, in nats."""
        return sum(math.lgamma(part.size + 1) for part in self.units)

    @property
    def dimension(self) -> int:
        """Of continuous symmetries: none are counted."""
        return 0

    def random(self, seed: int | np.random.Generator = 0) -> GraphElement:
        """A random order of all units."""
        rng = np.random.default_rng(seed)
        drawn = [move_to(part, rng.permutation(part.members)) for part in self.sets]
        return GraphElement(tuple(move for move in drawn if move is not None))

    def check(self) -> bool:
        """That two units of each set may trade places, and all of them in a circle."""
        for units, members in self.sets:
            own = members.tolist()
            for moved in ([own[1], own[0], *own[2:]], [*own[1:], own[0]]):
                commuting(self.graph.model, units, order_of(units, own, moved))
        return True

    @property
    def glyph(self) -> str:
        return ">="

    @property
    def statement(self) -> str:
        count = sum(part.size for part in self.units)
        return f"permutations of {count} units in {len(self.sets)} sets: at least e^{self.log_order:.6g} symmetries"

    def asked(self) -> list[tuple[str, str]]:
        return [("graph", repr(self.graph))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [("log order", f">= {self.log_order:.6g}")]
        return rows + [
            (f"{part.tensor}, axis {part.axis}", f"{part.size} units") for part in self.units
        ]

    def data(self) -> dict[str, Any]:
        return {
            "graph": self.graph.digest, "log_order": self.log_order, "dimension": 0,
            "units": [part._asdict() for part in self.units],
        }  # fmt: skip
