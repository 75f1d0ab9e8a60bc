"""How far a quantised graph is from the one in floats that it was made of, and what is to blame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.result import Result
from moduli.compression.box.bisection import BoxSearch
from moduli.compression.box.stable_units import bisection_budget
from moduli.compression.certify import BREATH
from moduli.compression.graph_results import ranges_of
from moduli.kernel import fields
from moduli.kernel.bounds import propagation
from moduli.kernel.bounds.decision import margins
from moduli.kernel.bounds.input_splits import leaves
from moduli.kernel.bounds.output_gap import Measure, Measured, worst
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, Undecided
from moduli.kernel.exact_numbers import above
from moduli.kernel.graph.chains import box_of_vectors
from moduli.kernel.graph.differences import slack_of_outputs
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import rebuilt
from moduli.kernel.graph.quantised import Chains, Compared, Quantised, chains_of, compared
from moduli.kernel.graph.shapes import sound
from moduli.kernel.graph.slicewise import BY_ITS_RANGE
from moduli.kernel.network import Network
from moduli.kernel.slack import Slack

from .box_gap import Search
from .graphs import GraphDistance, Inputs, matched_inputs, require_witness, witness_between

Array = np.ndarray[Any, np.dtype[np.float64]]
SHARES = 64  # boxes with the largest bounds, for what sources contribute
SHOWN = 12  # lines of a table
NARROW = {"float16", "bfloat16"}
ROUNDS = ("quantise", "dequantise", BY_ITS_RANGE)
SAMPLES = 33  # inputs at which decisions are compared


class Source(NamedTuple):
    """Something that rounds, or was rounded.

    Attributes:
        name: of the node that rounds a value, or of a stored tensor. stored: whether it is the latter.
        step: the largest distance of two numbers that it may give; of a stored tensor how far its numbers
            are off at most. clipped: how far the value may be beyond its integers. alone: how far the
            outputs are off at most, if it alone rounds. inside: the same of what the last operator
            reads, where that bounds all outputs alike, as a softmax does.
    """

    name: str
    stored: bool
    step: float
    clipped: float
    alone: float
    inside: float


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
        found = pair.sources(self.tree)
        return tuple(sorted(found, key=lambda source: (-source.alone, -source.inside)))

    def check(self) -> bool:
        """Bound the difference again, on all parts of the box."""
        with fields.made_by_hand("result"):
            upper = fields.real(self.upper, "upper", least=0.0)
            tree = tuple(self.tree)
            if type(self.on) is not Box or type(self.bound) is not Slack:
                raise TypeError("another class than Box or Slack")
        if self.status != "bounded" or self.bound.growth != 0:
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
            cut = f", cut off by up to {above(source.clipped, 3)}" if source.clipped else ""
            alone = above(source.alone, 3) if math.isfinite(source.alone) else "no bound"
            if source.inside > source.alone:
                alone += f" ({above(source.inside, 3)} before the last operator)"
            rows.append((source.name, f"{what} {above(source.step, 3)}{cut}; alone: {alone}"))
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
            self.box = box_of_vectors(found.twin, found.ranges, self.chains.a.widths[0])

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
            gaps = one.bounds()
            chains = None if boxes is None else chains_of(one)
            if boxes is not None and chains is not None:
                alone = float(chains.measure(*boxes, 0.0, 0.0).top.max())
            else:
                alone = slack_of_outputs(gaps).everywhere
            point = points.get(name)
            step = self._off(name) if point is None else float(point.scale.max())
            step = bounds.steps.get(name, step)
            clipped = 0.0 if point is None else bounds.clipped.get(name, 0.0)
            said = self.pair.bare.sources.get(name, name)
            found.append(Source(said, point is None, step, clipped, alone, _inside(gaps)))
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

    def margin(self, winner: int) -> Measure:
        """See `_ahead`."""
        if self.chains is None or not self.whole:
            raise CertificateRejected("decisions are proved of chains of dense layers alone")
        outputs = self.chains.a.widths[-1]
        if not 0 <= winner < outputs or outputs < 2:
            raise CertificateRejected(f"there is no output {winner} among {outputs}")
        return partial(_ahead, self.chains, margins(self.chains.a, winner))

    def points(self, seed: Any) -> list[Inputs]:
        """Inputs of one sample: the middle of the box, corners, and some within."""
        rng = np.random.default_rng(seed)
        ranges = ranges_of(self.a.model, self.on)
        found = list[Inputs]()
        for k in range(SAMPLES):
            feeds = dict[str, Any]()
            for name, (low, high) in ranges.items():
                shape = tuple(
                    n if isinstance(n, int) else 1 for n in self.a.model.shapes[name] or ()
                )
                share = rng.random(shape) if k % 2 else np.rint(rng.random(shape))
                share = np.full(shape, 0.5) if k == 0 else share
                x = np.asarray(low + (np.asarray(high) - low) * share)
                feeds[name] = np.clip(x, low, high)
            found.append(feeds)
        return found

    def winners(self, feeds: Inputs) -> tuple[int | None, int | None]:
        """The largest output of each at an input, as far as bounds tell."""
        return _winner(self.a, feeds), _winner(self.b, matched_inputs(self.a, self.b, feeds))

    def parts(self, witness: Parted | None) -> bool:
        """Whether both decide as is said, in different ways, at an input of the box."""
        if witness is None or witness.first == witness.second:
            return False
        feeds = dict[str, Any]()
        for name, (low, high) in ranges_of(self.a.model, self.on).items():
            x = np.array(witness.inputs[name], dtype=np.float64)
            shape = self.a.model.shapes[name] or ()
            fits = x.ndim == len(shape) and all(
                not isinstance(n, int) or n == m for n, m in zip(shape, x.shape, strict=True)
            )
            if not fits or not ((x >= low) & (x <= high)).all():
                return False
            feeds[name] = x
        return self.winners(feeds) == (witness.first, witness.second)


def _inside(gaps: Quantised) -> float:
    """How far what the nodes of outputs read is off at most."""
    graph, worst_of = gaps.graph, 0.0
    for name in graph.outputs:
        node = graph.makers.get(name)
        for x in () if node is None else node.inputs:
            if x and graph.array(x) is None:
                gap = gaps.pair(x)[1]
                worst_of = max(
                    worst_of, 0.0 if gap is None else float(gap[..., 0].max(initial=0.0))
                )
    return worst_of


def _winner(graph: Graph, feeds: Inputs) -> int | None:
    """The entry of the only output that bounds show to be above all others."""
    model = sound(graph.model)
    shape = model.shapes.get(model.outputs[0])
    if len(model.outputs) != 1 or not shape or not isinstance(shape[-1], int) or shape[-1] < 2:
        return None
    points = {name: np.asarray(x, dtype=np.float64) for name, x in feeds.items()}
    facts = Known(model, {name: (x, x) for name, x in points.items()})
    ends = facts.of((model.outputs[0], len(shape) - 1))
    best = int(ends.low.argmax())
    return best if (np.delete(ends.high, best) < ends.low[best]).all() else None


def rounds_values(graph: Graph) -> bool:
    """Whether it rounds values on the way to integers."""
    return any(
        getattr(node.op, "kind", "") in ("quantise", BY_ITS_RANGE) for node in graph.model.nodes
    )


def rounds(graph: Graph) -> bool:
    """Whether it rounds values on the way to integers, or holds numbers of few bits."""
    kinds = {getattr(node.op, "kind", "") for node in graph.model.nodes}
    return not kinds.isdisjoint(ROUNDS) or bool(NARROW & graph.source.formats)


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
    upper = pair.upper(tree) * BREATH
    status = "bounded" if math.isfinite(upper) else "undecided"
    bound = Slack(upper, 0.0)
    return QuantisedDistance(status, pair.a, pair.b, bound, pair.on, witness, seen, tree=tree)


def _nothing(x: Array) -> Array:
    """Searches look at points; both are run elsewhere."""
    return np.full(len(x), -1.0)


# Decisions ------------------------------------------------------------------------------------------------------


class Parted(NamedTuple):
    """An input, by name, at which the first network has one largest output and the second another."""

    inputs: dict[str, Any]
    first: int
    second: int


@dataclass(frozen=True, eq=False, repr=False)
class QuantisedDecision(Result):
    """Whether a network and its quantised form have one and the same largest output on all of a box.

    Attributes:
        winner: that output. tree: how the box was halved. witness: where they decide in different ways.
        reason: why neither is known.
    """

    a: Graph
    b: Graph
    on: Box
    winner: int = -1
    tree: tuple[int, ...] = (-1,)
    witness: Parted | None = None
    reason: str = ""
    kind: ClassVar[str] = "equal"

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(f"{self.statement}: {self.reason}")
        return self.status == "proved"

    def check(self) -> bool:
        """Prove the answer again; raises `CertificateRejected`."""
        if self.status not in ("proved", "refuted"):
            return super().check()
        with fields.made_by_hand("result"):
            if type(self.on) is not Box:
                raise TypeError("another class than Box")
            pair = QuantisedPair(self.a, self.b, self.on)
            apart = self.status == "refuted" and pair.parts(self.witness)
        if self.status == "refuted":
            if not apart:
                raise CertificateRejected("the networks do not decide in different ways there")
            return True
        with fields.made_by_hand("result"):
            winner, tree = fields.whole(self.winner, 0, 2**20, "the winner"), tuple(self.tree)
        if not worst(pair.margin(winner), pair.box, tree) <= 0:
            raise CertificateRejected(f"output {winner} is not proved to be above all others")
        return True

    @property
    def statement(self) -> str:
        if self.witness is not None:
            return (
                f"decisions differ on {self.on!r}: at the witness output {self.witness.first} of the first "
                f"is the largest, and {self.witness.second} of the second"
            )
        if self.status == "proved":
            return f"output {self.winner} is the largest of both, everywhere on {self.on!r}"
        return f"whether decisions differ on {self.on!r} is not known"

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a)), ("b", repr(self.b)), ("on", repr(self.on))]

    def facts(self) -> list[tuple[str, str]]:
        return [("decision", self.status), *([("why", self.reason)] if self.reason else [])]

    def data(self) -> dict[str, Any]:
        found = self.witness
        return {
            "a": self.a.digest, "b": self.b.digest, "on": self.on.to_json(), "decision": True,
            "winner": self.winner if self.status == "proved" else None, "reason": self.reason,
            "witness": found and {
                "inputs": {name: np.asarray(x).tolist() for name, x in found.inputs.items()},
                "first": found.first, "second": found.second,
            },
        }  # fmt: skip


def decisions(pair: QuantisedPair, seed: Any, search: Search) -> QuantisedDecision:
    """A proof that one output is the largest of both on all of the box, or an input where they decide
    in different ways, or neither.
    """
    feeds = pair.points(seed)
    seen = [pair.winners(feed) for feed in feeds]
    for feed, (first, second) in zip(feeds, seen, strict=True):
        if first is not None and second is not None and first != second:
            witness = Parted(dict(feed), first, second)
            return QuantisedDecision("refuted", pair.a, pair.b, pair.on, witness=witness)
    winners = {first for first, _ in seen if first is not None}
    reason = ""
    if pair.chains is None or not pair.whole:
        reason = "only chains of dense layers are compared, before a softmax"
    elif len(winners) != 1:
        reason = "the largest output changes on the box, and no input was found where both differ"
    if reason:
        return QuantisedDecision("undecided", pair.a, pair.b, pair.on, reason=reason)
    winner = winners.pop()
    parts = BoxSearch({"margin": pair.margin(winner)}, _nothing, pair.box, 1, search.executor)
    parts.run(bisection_budget(len(pair.box.low), search.budget), eps=0.0, progress=search.progress)
    tree = parts.preorder()
    if parts.top.max() <= 0:
        return QuantisedDecision("proved", pair.a, pair.b, pair.on, winner, tree)
    reason = f"output {winner} is the largest of both at {len(feeds)} inputs, which is not proved"
    return QuantisedDecision("undecided", pair.a, pair.b, pair.on, reason=reason)


def _ahead(
    chains: Chains, ahead: Network, low: Array, high: Array, enough: float, far: float
) -> Measured:
    """Twice the difference of both less the least margin of the first: below zero where one output is
    above all others in both.
    """
    found = chains.measure(low, high, enough, far)
    margin = propagation.linear(ahead.layers[:-1], low, high)[-1][0].min(axis=1)
    with np.errstate(all="ignore"):
        top = np.nextafter(2.0 * found.top - margin, np.inf)
    return Measured(np.where(np.isnan(top), np.inf, top), found.blame)
