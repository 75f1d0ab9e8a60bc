"""Move one graph onto another by symmetries: orders, signs and scales of units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.graph import Graph
from moduli.common.result import Result
from moduli.kernel.errors import ArgumentError, Asked, ShapeError, Undecided
from moduli.kernel.graph.certificate import GraphCertificate, played
from moduli.kernel.graph.facts import Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.slack import NO_SLACK

from .alignment import Barrier, drawn_inputs
from .graph_activations import correlations
from .graph_matching import Matching, Problem, holds_floats, matched, wide
from .graph_normal_form import moved
from .graph_order import in_order_of_use
from .graph_scales import gauges, near
from .graph_statistics import renewed
from .graph_units import Rounds, UnitSets, move_to

Array = np.ndarray[Any, np.dtype[Any]]
ONLY = "only graphs of one architecture are aligned; for graphs that may be equal ask equivalent"
AT_ONCE = 64  # samples whose activations are in memory
NEAR = 2.0**-20  # a scale so near a power of two is taken for it: it rounds nothing


def align(
    a: Graph, b: Graph, by: str = "weights", on: Domain = None, seed: int | np.random.Generator = 0
) -> GraphAlignment:
    """See `api.align`."""
    if by not in ("weights", "activations"):
        raise ArgumentError(Asked("by", by), ": 'weights' or 'activations'")
    if by == "weights" and on is not None:
        raise ArgumentError(
            Asked("on", type(on)), " goes with ", Asked("by", "activations"),
            "; weights are matched without data",
        )  # fmt: skip
    model = a.model.live()
    names = _same_architecture(a, model, b)
    other = replace(model, constants={n: b.model.constants[m] for n, m in names.items()})
    sets = UnitSets.of(model)
    problem = Problem.of(sets, other, gauges(sets))
    if by == "activations":
        feeds = _batches(a, on, seed, AT_ONCE)
        problem.preferred = correlations(a, b, sets, problem.gauges, feeds)
    rounds = _rounds(sets, problem, matched(problem, seed))
    network = a.source.rewritten(moved(model, rounds), {})
    return GraphAlignment("estimated", a, b, network, rounds, names, by)


def _same_architecture(a: Graph, model: GraphModel, b: Graph) -> dict[str, str]:
    """The name in the second graph of each stored tensor of the first.

    Raises:
        ShapeError: operators, wiring, shapes, or stored numbers that are no parameters differ.
    """
    theirs = b.model.live()
    names = in_order_of_use(model), in_order_of_use(theirs)
    if len(names[0]) != len(names[1]):
        raise ShapeError(f"{a!r} and {b!r} do not store as many tensors; {ONLY}")
    found = dict(zip(*names, strict=True))
    for name, other in found.items():
        x, y = model.constants[name], theirs.constants[other]
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise ShapeError(
                f"{name!r} is {x.dtype} of shape {x.shape}, and {other!r} of the other {y.dtype} of shape "
                f"{y.shape}; {ONLY}"
            )
    # without constants that nothing reads
    swapped = replace(model, constants={n: theirs.constants[m] for n, m in found.items()})
    if swapped.digest != theirs.digest:
        raise ShapeError(f"{a!r} and {b!r} have other operators, wiring or whole numbers; {ONLY}")
    return found


def _rounds(sets: UnitSets, problem: Problem, at: Matching) -> Rounds:
    """Scales of members where they stand, then orders."""
    scales, orders = [], []
    for which in range(len(sets.sets)):
        former, order = problem.former(which, at), at.orders[which]
        pairs = zip(problem.gauges_of(which), problem.gauges_of(former), strict=True)
        for here, there in pairs:
            gauge = problem.gauges[there]
            numbers, come = np.ones(gauge.free), np.arange(1) if gauge.joint else order
            if gauge.sign:
                numbers[come] = at.signs[here]
            else:
                numbers[come] = _rounded(problem.scales[there][0][come] / problem.scales[here][1])
            scales.append((gauge.part, gauge.move(numbers)))
        moving = sets.sets[former]
        orders.append((moving, move_to(moving, moving.members[order])))
    return (*sets.rounds(scales), *sets.rounds(orders))


def _rounded(numbers: Array) -> Array:
    numbers = near(numbers)
    powers = 2.0 ** np.round(np.log2(numbers))
    return np.where(np.abs(numbers / powers - 1) < NEAR, powers, numbers)


@dataclass(frozen=True, eq=False, repr=False)
class GraphAlignment(Result):
    """One graph moved onto another by a symmetry, so that both can be compared and averaged unit by
    unit.

    Attributes:
        a, b: the graphs. network: `a` moved onto `b`, the function of `a` (see `certificate`).
        rounds: of moves that make it. by: weights or activations.
    """

    a: Graph
    b: Graph
    network: Graph
    rounds: Rounds
    names: dict[str, str]
    by: str = "weights"
    kind: ClassVar[str] = "align"

    @property
    def certificate(self) -> Any:
        return self.proof

    @cached_property
    def proof(self) -> GraphCertificate:
        """That `network` computes the function of `a`, up to the rounding of its parameters.

        Raises:
            Undecided: no bound of what was rounded is known.
        """
        return self.proof_on({})

    def proof_on(self, ranges: Ranges) -> GraphCertificate:
        """The same for inputs between bounds."""
        model, slack = self.a.model.live(), NO_SLACK
        for moves in self.rounds:
            model, further = played(model, moves, ranges)
            slack += further
        if not slack.finite:
            raise Undecided(
                "scales rounded stored numbers, and no bound of what that changes is known"
            )
        return GraphCertificate(self.a.digest, self.network.digest, self.rounds, ranges, slack)

    def check(self) -> bool:
        self.proof.verify(self.network.model, self.a.model)
        return True

    def _distance(self, graph: Graph) -> float:
        return math.sqrt(sum(float(np.square(x - y).sum()) for x, y in self._pairs(graph)))

    def _pairs(self, graph: Graph) -> Iterator[tuple[Array, Array]]:
        """Stored floats of a graph of the first architecture and of b."""
        for name, other in self.names.items():
            if holds_floats(self.b.model.constants[other]):
                yield wide(graph.model, name), wide(self.b.model, other)

    @cached_property
    def before(self) -> float:
        """Euclidean distance of the stored numbers of `a` and `b`."""
        return self._distance(self.a)

    @cached_property
    def after(self) -> float:
        """Euclidean distance of the stored numbers of `network` and `b`."""
        return self._distance(self.network)

    def merge(self, t: float = 0.5, *, statistics: Samples | Gaussian | None = None) -> Graph:
        """The graph on the straight line from `network` (t = 0) to `b` (t = 1).

        Args:
            statistics: inputs on which means and variances of its batch norms are computed again, one norm after
                another; without them they are on the line, too, which fits neither graph.

        Raises:
            UnsupportedModel: there is no batch norm whose statistics could be renewed (`graph_statistics`).
        """
        feeds = None if statistics is None else _batches(self.b, statistics, 0, AT_ONCE)
        return self._between(self.network, t, feeds)

    def _between(self, start: Graph, t: float, feeds: list[Array] | None = None) -> Graph:
        model = self.b.model.live()
        constants = dict(model.constants)
        for name, other in self.names.items():
            stored = model.constants[other]
            if holds_floats(stored):
                mean = (1 - t) * wide(start.model, name) + t * wide(model, other)
                constants[other] = np.asarray(mean, dtype=stored.dtype)
        found = self.b.source.rewritten(replace(model, constants=constants), {})
        return found if feeds is None else renewed(found, feeds)

    def barrier(
        self,
        on: Samples | Gaussian,
        targets: Any = None,
        *,
        points: int = 25,
        seed: int | np.random.Generator = 0,
        statistics: Samples | Gaussian | None = None,
    ) -> Barrier:
        """How much worse the graphs on the line are than its ends, with and without the alignment.

        Args:
            on: inputs, each flattened row by row. targets: class numbers (cross-entropy), or values (mean
                square error), for the first output. Without them: the mean square distance from the
                outputs on the line to the line between the outputs, as a share of the variance of b's.
            statistics: as in `merge`, of all graphs on both lines.

        Raises:
            ShapeError: not as many targets as inputs, or inputs that do not fit.
        """
        feeds = _batches(self.b, on, seed)
        renew = None if statistics is None else _batches(self.b, statistics, seed, AT_ONCE)
        return Barrier.along(
            lambda t: _outputs(self._between(self.network, t, renew), feeds),
            lambda t: _outputs(self._between(self.a, t, renew), feeds),
            targets, points,
        )  # fmt: skip

    @property
    def statement(self) -> str:
        size = math.sqrt(sum(float(np.square(y).sum()) for _, y in self._pairs(self.b))) or 1.0
        return (
            f"matched by {self.by}: the parameters are {self.after / size:.3g} of their norm apart, "
            f"{self.before / size:.3g} before"
        )

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a)), ("b", repr(self.b))]

    def facts(self) -> list[tuple[str, str]]:
        moves = [move for moves in self.rounds for move in moves]
        placed = sum(len(move.units) for move in moves if move.kind == "order")
        numbers = [x for move in moves for x in move.coefficients]
        turned, sized = sum(x < 0 for x in numbers), sum(abs(x) != 1 for x in numbers)
        return [
            ("distance of parameters", f"{self.before:.6g} before, {self.after:.6g} after"),
            ("units in sets that moved", str(placed)),
            ("turned, scaled", f"{turned}, {sized}"),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "before": self.before, "after": self.after, "by": self.by, "a": self.a.digest,
            "b": self.b.digest, "network": self.network.digest,
            "rounds": [[move.plain() for move in moves] for moves in self.rounds],
        }  # fmt: skip


def _batches(
    graph: Graph, on: Domain, seed: int | np.random.Generator, most: int | None = None
) -> list[Array]:
    """Rows of samples in the shape of the only input, as many at a time as that has, or at most as many
    where it has any number.
    """
    name = graph.inputs[0]
    shape = graph.model.shapes.get(name)
    if len(graph.inputs) != 1 or not shape or not all(isinstance(n, int) for n in shape[1:]):
        raise ShapeError(
            f"{graph!r}: samples are rows for one input of known size; {name!r} has {shape}"
        )
    sizes = tuple(int(n) for n in shape[1:])
    x = drawn_inputs(on, math.prod(sizes), seed)
    if not isinstance(shape[0], int):
        step = most or max(1, len(x))
        return [x[k : k + step].reshape(-1, *sizes) for k in range(0, len(x), step)]
    if len(x) % shape[0]:
        raise ShapeError(f"{len(x)} samples: {name!r} of shape {shape} takes {shape[0]} at a time")
    return list(x.reshape(-1, shape[0], *sizes))


def first_outputs(graph: Graph, x: Array) -> Array:
    """Of samples, rows of the only input: the first output, a row each.

    Raises:
        ShapeError: the graph has other inputs, or samples do not fit.
    """
    return _outputs(graph, _batches(graph, Samples(x), 0, AT_ONCE))


def _outputs(graph: Graph, feeds: list[Array]) -> Array:
    found = [graph({graph.inputs[0]: x})[graph.outputs[0]] for x in feeds]
    whole = np.concatenate([np.asarray(y, dtype=np.float64) for y in found])
    return whole.reshape(sum(map(len, feeds)), -1)
