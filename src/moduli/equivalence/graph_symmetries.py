"""The symmetries of a graph that are found and proved: orders, signs and scales of its units."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.result import Result
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import after, factors_of
from moduli.kernel.graph.mixing import require_mixed
from moduli.kernel.graph.ordering import commuting
from moduli.kernel.graph.scaling import require_laws

from .graph_normal_form import moved
from .graph_scales import Gauge, free_numbers, gauges, held
from .graph_units import Exchangeable, Rounds, UnitSets, move_to, order_of

SPREAD = 3  # random scales are powers of two up to this power, up or down


class UnitSet(NamedTuple):
    """Units that may trade places in every way.

    Attributes:
        tensor, axis: which have them. size: how many they are. signs, scales: numbers that they may be
            multiplied by are -1, or any positive ones. mixed: whether any invertible matrix may mix them.
    """

    tensor: str
    axis: int
    size: int
    signs: int
    scales: int
    mixed: bool


@dataclass(frozen=True)
class GraphElement:
    """Numbers and an order of units; ``element(graph)`` is the graph with these, the same function."""

    rounds: Rounds

    def __call__(self, graph: Graph) -> Graph:
        """The kernel checks that every node commutes with them.

        Raises:
            CertificateRejected: the graph has other units, or would be rounded.
        """
        found = graph.source.rewritten(moved(graph.model, self.rounds), {})
        if found.digest != after(graph.model, graph.digest, self.rounds):
            raise CertificateRejected("what was written is another graph")
        return found


@dataclass(frozen=True, eq=False, repr=False)
class GraphSymmetries(Result):
    """Orders of units of a graph, and numbers that multiply them, each proved to keep the function.

    There are at least so many: of units that any invertible matrix may mix only the dimension is counted.
    The dimension is that of the group; where units outnumber what they read and send, parameters with the
    same function have less, as some elements leave them where they are.

    Attributes:
        graph: whose. found: the sets. gauges: what may multiply their units.
    """

    graph: Graph
    found: UnitSets
    gauges: tuple[Gauge, ...]
    kind: ClassVar[str] = "symmetries"

    @staticmethod
    def of(graph: Graph) -> GraphSymmetries:
        found = UnitSets.of(graph.model)
        return GraphSymmetries("proved", graph, found, tuple(gauges(found)))

    @property
    def units(self) -> tuple[UnitSet, ...]:
        def count(part: Exchangeable, *, sign: bool) -> int:
            return sum(gauge.part is part and gauge.sign == sign for gauge in self.gauges)

        return tuple(
            UnitSet(
                *part.units.seed,
                len(part.members),
                count(part, sign=True),
                count(part, sign=False),
                any(part is mixed for mixed in self._mixed),
            )
            for part in self.found.sets
        )

    @cached_property
    def mixing(self) -> tuple[Gauge, ...]:
        return mixing(self.found, self.gauges)

    @property
    def _mixed(self) -> list[Exchangeable]:
        """Sets of units that any matrix may mix, once for each way of it."""
        return [gauge.part for gauge in self.mixing]

    @cached_property
    def log_order(self) -> float:
        """The logarithm of how many orders and signs there are, in nats."""
        orders = sum(math.lgamma(part.size + 1) for part in self.units)
        return orders + free_numbers(self.gauges, sign=True) * math.log(2)

    @cached_property
    def dimension(self) -> int:
        """Of what is continuous: a free scale each, and for n units that any matrix may mix n^2, of which
        their scales are n.
        """
        bases = [len(part.members) for part in self._mixed]
        return free_numbers(self.gauges, sign=False) + sum(n * n - n for n in bases)

    def random(self, seed: int | np.random.Generator = 0) -> GraphElement:
        """Random signs, powers of two (others would round) and a random order of all units."""
        rng = np.random.default_rng(seed)
        scales = list[tuple[Exchangeable, Any]]()
        for gauge in self.gauges:
            drawn = rng.integers(-SPREAD, SPREAD + 1, gauge.free)
            numbers = rng.choice([-1.0, 1.0], gauge.free) if gauge.sign else 2.0**drawn
            scales.append((gauge.part, gauge.move(held(self.graph.model, {}, gauge, numbers))))
        orders = [(part, move_to(part, rng.permutation(part.members))) for part in self.found.sets]
        return GraphElement((*self.found.rounds(scales), *self.found.rounds(orders)))

    def check(self) -> bool:
        """Find all again, as many; and that two units of each set may trade places, and all of them in a
        circle; that one of them may be multiplied by a number, and so each; and what may be mixed.
        """
        again = GraphSymmetries.of(self.graph)
        if self.data() != again.data():
            raise CertificateRejected(f"found again are {again.statement}")
        for part in again.found.sets:
            units, own = part.units, part.members.tolist()
            for other in ([own[1], own[0], *own[2:]], [*own[1:], own[0]]):
                commuting(again.found.model(part), units, order_of(units, own, other))
        for gauge in again.gauges:
            numbers = np.ones(gauge.free)
            numbers[0] = -1.0 if gauge.sign else 2.0
            move, model = gauge.move(numbers), again.found.model(gauge.part)
            assert move is not None
            require_laws(model, factors_of(model, move))
        return True

    @property
    def statement(self) -> str:
        count = sum(part.size for part in self.units)
        return (
            f"{count} units in {len(self.found.sets)} sets: at least e^{self.log_order:.6g} orders and signs, "
            f"dimension {self.dimension}"
        )

    def asked(self) -> list[tuple[str, str]]:
        return [("graph", repr(self.graph))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [("log order", f">= {self.log_order:.6g}"), ("dimension", f">= {self.dimension}")]
        return rows + [(f"{part.tensor}, axis {part.axis}", _said(part)) for part in self.units]

    def data(self) -> dict[str, Any]:
        return {
            "graph": self.graph.digest, "log_order": self.log_order, "dimension": self.dimension,
            "units": [part._asdict() for part in self.units],
        }  # fmt: skip


def mixing(found: UnitSets, own: Iterable[Gauge]) -> tuple[Gauge, ...]:
    """Numbers by which units may be multiplied that any invertible matrix may take the place of."""
    each = [gauge for gauge in own if not gauge.sign and not gauge.joint]
    return tuple(gauge for gauge in each if _mixes(found, gauge))


def _mixes(found: UnitSets, gauge: Gauge) -> bool:
    units, members, _ = gauge.part
    try:
        require_mixed(found.model(gauge.part), units, members.tolist(), gauge.powers)
    except CertificateRejected:
        return False
    return True


def _said(part: UnitSet) -> str:
    own = ("signs", part.signs), ("scales", part.scales), ("any basis", part.mixed)
    more = [word for word, there in own if there]
    return f"{part.size} units" + (f", with {' and '.join(more)}" if more else "")
