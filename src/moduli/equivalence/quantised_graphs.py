"""How far a quantised graph is from the one in floats that it was made of, and what is to blame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.compression.box.bisection import BoxSearch
from moduli.compression.box.stable_units import bisection_budget
from moduli.compression.graph_results import ranges_of
from moduli.kernel import fields
from moduli.kernel.bounds.input_splits import leaves
from moduli.kernel.bounds.output_gap import worst
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.differences import slack_of_outputs
from moduli.kernel.graph.entrywise import PerUnit
from moduli.kernel.graph.model import rebuilt
from moduli.kernel.graph.quantised import Chains, Compared, chains_of, compared
from moduli.kernel.slack import Slack

from .box_gap import Search
from .graphs import GraphDistance, require_witness, witness_between

Array = np.ndarray[Any, np.dtype[np.float64]]
SHARES = 64  # boxes with the largest bounds, for what sources contribute
SHOWN = 12  # lines of a table
SPARE = 2.0**-30  # of a bound: it may end in other digits elsewhere


class Source(NamedTuple):
    """Something that rounds, or was rounded.

    Attributes:
        name: of the node that rounds a value, or of a stored tensor. stored: whether it is the latter.
        step: the largest distance of two numbers that it may give; of a stored tensor how far its numbers
            are off at most. clipped: how far the value may be beyond its integers. alone: how far the
            outputs are off at most, if it alone rounds.
    """

    name: str
    stored: bool
    step: float
    clipped: float
    alone: float


@dataclass(frozen=True, eq=False, repr=False)
class QuantisedDistance(GraphDistance):
    """How far outputs of a graph and of one that is it quantised are apart on a box.

    Attributes:
        a, b: as they were given; one of them is quantised. tree: how the box was halved, where both are
            chains of dense layers.
    """

    tree: tuple[int, ...] = (-1,)
    kind: ClassVar[str] = "distance"

    @cached_property
    def by_layer(self) -> tuple[Source, ...]:
        """All that rounds, or was rounded, the worst first: what to mend."""
        assert self.on is not None
        pair = QuantisedPair(self.a, self.b, self.on)
        return tuple(sorted(pair.sources(self.tree), key=lambda source: -source.alone))

    def check(self) -> bool:
        """Bound the difference again, on all parts of the box."""
        with fields.made_by_hand("result"):
            upper = fields.real(self.upper, "upper", least=0.0)
            tree = tuple(self.tree)
        if type(self.on) is not Box or not math.isfinite(upper):
            return super().check()
        found = QuantisedPair(self.a, self.b, self.on).upper(tree)
        if not found <= upper:
            raise CertificateRejected(
                f"a difference up to {upper} is claimed, but only {found} is proved"
            )
        if self.witness is not None:
            require_witness(self.a, self.b, self.on, self.witness, 0.0)
        return True

    def facts(self) -> list[tuple[str, str]]:
        rows = super().facts()
        for source in self.by_layer[:SHOWN]:
            what = "stored, off by" if source.stored else "rounds in steps of"
            cut = f", cut off by up to {source.clipped:.3g}" if source.clipped else ""
            alone = f"{source.alone:.3g}" if math.isfinite(source.alone) else "no bound"
            rows.append((source.name, f"{what} {source.step:.3g}{cut}; alone: {alone}"))
        return rows

    def data(self) -> dict[str, Any]:
        return {**super().data(), "by_layer": [source._asdict() for source in self.by_layer]}

    def plot_data(self) -> dict[str, Any]:
        """Names of what rounds, the worst first, and their numbers, see `Source`."""
        rows = self.by_layer[: 2 * SHOWN]
        return {
            "names": [row.name for row in rows], "steps": [row.step for row in rows],
            "clipped": [row.clipped for row in rows], "alone": [row.alone for row in rows],
        }  # fmt: skip

    def plot(self, ax: Any = None) -> Any:
        """For each that rounds: its step, what is cut off, and what it alone does to the outputs."""
        from moduli.common.figures import sources_figure

        return sources_figure(self.plot_data(), ax)


class QuantisedPair:
    """Both graphs and a box, whichever of them is quantised.

    Raises:
        CertificateRejected: neither is the other one quantised.
    """

    def __init__(self, a: Graph, b: Graph, on: Box) -> None:
        self.a, self.b, self.on = a, b, on
        first, second = rebuilt(a.model), rebuilt(b.model)
        ranges = ranges_of(first, on)
        found, self.swapped = compared(first, second, ranges), False
        if found is None:
            names = dict(zip(first.inputs, second.inputs, strict=True))
            turned = {names[name]: ends for name, ends in ranges.items()}
            found, self.swapped = compared(second, first, turned), True
        if found is None:
            raise CertificateRejected("neither graph is the other one quantised")
        self.pair: Compared = found
        self.chains: Chains | None = chains_of(found)
        self.whole = self.chains is not None and found.bare.graph.outputs == (self.chains.value,)
        if self.chains is not None:
            self.box = self._vectors(self.chains.a.widths[0])

    def _vectors(self, width: int) -> Box:
        """The box of the only input, as vectors: for each index of its first axis."""
        graph = self.pair.twin
        name = graph.inputs[0]
        shape = tuple(int(n) for n in (graph.shapes[name] or ())[1:])
        ends = []
        for end, least in zip(self.pair.ranges[name], (np.minimum, np.maximum), strict=True):
            wide = np.asarray(end, dtype=np.float64)
            if wide.ndim > len(shape):
                wide = least.reduce(wide, axis=0)
            ends.append(np.broadcast_to(wide, shape).reshape(width))
        return Box(*ends)

    def upper(self, tree: tuple[int, ...]) -> float:
        """By the leaves of a tree as far as both are chains, then by sizes."""
        near = None
        if self.chains is not None:
            top = worst(self.chains.measure, self.box, tree)
            if self.whole:
                return top
            near = {self.chains.value: top}
        return slack_of_outputs(self.pair.bounds(near)).everywhere

    def sources(self, tree: tuple[int, ...]) -> list[Source]:
        bounds = self.pair.bounds()
        points = {point.name: point for point in self.pair.bare.points}
        boxes = None
        if self.whole and self.chains is not None:
            boxes = self._worst(tree)
        found = []
        for name in self.pair.sources():
            one = self.pair.only(name)
            chains = None if boxes is None else chains_of(one)
            if boxes is not None and chains is not None:
                alone = float(chains.measure(*boxes, 0.0, 0.0).top.max())
            else:
                alone = slack_of_outputs(one.bounds()).everywhere
            point = points.get(name)
            step = self._off(name) if point is None else float(point.scale.max())
            clipped = 0.0 if point is None else bounds.clipped.get(name, 0.0)
            found.append(Source(name, point is None, step, clipped, alone))
        return found

    def _off(self, name: str) -> float:
        parts = (self.pair.twin.constants[name], self.pair.bare.graph.constants[name])
        a, b = (np.asarray(part, dtype=np.float64) for part in parts)
        return float(np.abs(a - b).max(initial=0.0))

    def _worst(self, tree: tuple[int, ...]) -> tuple[Array, Array]:
        assert self.chains is not None
        low, high = leaves(self.box, tree)
        top = self.chains.measure(low, high, 0.0, 0.0).top
        pick = np.argsort(-top, kind="stable")[:SHARES]
        return low[pick], high[pick]


def rounds(graph: Graph) -> bool:
    """Whether it rounds values on the way to integers."""
    return any(isinstance(n.op, PerUnit) and n.op.kind == "quantise" for n in graph.model.nodes)


def pair_of(a: Graph, b: Graph, on: Box) -> QuantisedPair | None:
    """Both and the box, where one is the other one quantised."""
    try:
        return QuantisedPair(a, b, on)
    except CertificateRejected:
        return None


def distance(pair: QuantisedPair, seed: Any, search: Search) -> QuantisedDistance:
    """Bounds of how far a graph and its quantised form are apart on a box; chains of dense layers by
    halving it.
    """
    witness, seen = witness_between(pair.a, pair.b, pair.on, 0.0, seed)
    tree: tuple[int, ...] = (-1,)
    if pair.whole and pair.chains is not None:
        n = pair.chains.a.widths[0]
        measures = {"quantised": pair.chains.measure}
        parts = BoxSearch(measures, _nothing, pair.box, 1, search.executor)
        parts.run(
            bisection_budget(n, search.budget), tol=search.tol, seen=-1.0 if seen is None else seen,
            progress=search.progress,
        )  # fmt: skip
        tree = parts.preorder()
    upper = pair.upper(tree) * (1 + SPARE)
    status = "bounded" if math.isfinite(upper) else "undecided"
    bound = Slack(upper, 0.0)
    return QuantisedDistance(status, pair.a, pair.b, bound, pair.on, witness, seen, tree=tree)


def _nothing(x: Array) -> Array:
    """Searches look at points; both are run elsewhere."""
    return np.full(len(x), -1.0)
