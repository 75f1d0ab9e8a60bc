"""How far what a runtime computes is from the function of a network over the reals, on a box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.box.bisection import BoxSearch
from moduli.compression.box.stable_units import bisection_budget
from moduli.compression.graph_results import ranges_of
from moduli.kernel import fields
from moduli.kernel.bounds.output_gap import worst
from moduli.kernel.bounds.runtime_errors import measured, runtime_errors
from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected, ShapeError, Undecided
from moduli.kernel.exact_numbers import above
from moduli.kernel.graph.chains import Start, box_of_vectors, start_of
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.model import rebuilt as rebuilt_graph
from moduli.kernel.graph.runtime_errors import RuntimeErrors
from moduli.kernel.network import Network, rebuilt
from moduli.kernel.runtime import FORMATS, Runtime

Array = np.ndarray[Any, np.dtype[np.float64]]
SHARES = 64  # boxes with the largest bounds, for what layers contribute
POINTS = 4096  # inputs that are computed in floats
SHOWN = 12  # lines of a table
ANY = "any"


class LayerRounding(NamedTuple):
    """What rounding does at one layer of a chain, or one node of a graph.

    Attributes:
        name: of the layer, or of the value that a node gives. made: the largest error that its own
            roundings make. carried: the largest error of its values, before the activation. alone: the
            largest error at the end of the chain if it alone rounded. Of a chain all three are on the
            boxes where bounds are largest; of other nodes there is no `alone`, and they are on the box.
    """

    name: str
    made: float
    carried: float
    alone: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Rounding(Result):
    """A bound of |what a runtime computes - the function over the reals|, of any output on a box.

    `check` proves `upper`. What `by_layer` says is bounded too, but not checked again, and what was seen
    depends on the order in which NumPy adds.

    Attributes:
        network: what is meant. Of a `Network` one sum a unit and then the activation; of a `Graph` one
            operator after the other. on: the box; inputs are numbers of the format within it.
        runtime: what is assumed of it, see `moduli.kernel.runtime`. upper: the bound, before the output
            map; infinite where there is none.
        by_layer: what each layer, or each node that rounds, adds.
        seen: the largest error of one such runtime, in float arithmetic of NumPy, at the input `at`;
            None where it cannot be imitated here, or in float64. tree: how the box was halved.
        stopped: the first node of a graph without a bound, and why.
    """

    network: Network | Graph
    on: Box
    runtime: Runtime
    upper: float
    by_layer: tuple[LayerRounding, ...]
    seen: float | None
    at: tuple[float, ...] | None
    tree: tuple[int, ...]
    stopped: tuple[str, str] | None = None
    kind: ClassVar[str] = "rounding"

    @property
    def dtype(self) -> str:
        return self.runtime.dtype

    @property
    def order(self) -> str | int:
        """Of sums: any, or how many a term passes through at most."""
        return ANY if self.runtime.chain is None else self.runtime.chain

    @property
    def factor(self) -> float | None:
        """How many times the bound is above what was seen; None where nothing was."""
        return self.upper / self.seen if self.seen else None

    def check(self) -> bool:
        """Bound all errors again.

        Raises:
            CertificateRejected: the bound is larger. Undecided: none is claimed.
        """
        if self.status != "bounded":
            return super().check()
        with fields.made_by_hand("result"):
            upper = fields.real(self.upper, "upper", least=0.0)
            if type(self.runtime) is not Runtime or type(self.on) is not Box:
                raise TypeError("another class than Runtime or Box")
            runtime = Runtime(self.runtime.dtype, self.runtime.chain, self.runtime.ulps)
            box, tree, model = _again(self.on), tuple(self.tree), _model(self.network)
        require_format(self.network, runtime)
        question = _Question(model, runtime, box)
        found = question.bound(tree)
        if self.seen is not None and not (0 <= self.seen <= upper and question.holds(self.at)):
            raise CertificateRejected(f"an error of {self.seen} is said to be seen, at {self.at}")
        if not found.upper <= upper:
            raise CertificateRejected(
                f"an error up to {upper} is claimed, but only {found.upper} is proved"
            )
        return True

    @property
    def statement(self) -> str:
        if self.stopped is not None and not math.isfinite(self.upper):
            return f"no bound of the rounding in {self.dtype}: {self.stopped[0]}: {self.stopped[1]}"
        seen = "" if self.seen is None else f"; {self.seen:.2g} seen"
        chain = self.runtime.chain
        order = "any order of sums" if chain is None else f"at most {chain} sums for a term"
        return (
            f"what a {self.dtype} runtime computes is within {_above(self.upper)} of the function on "
            f"{self.on!r}, {order}{seen}"
        )

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.network)), ("on", repr(self.on))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [("at most", _above(self.upper))]
        if self.seen is not None:
            factor = "" if self.factor is None else f", {self.factor:.3g} times less"
            rows.append(("seen", f"{self.seen:.3g}{factor}"))
        rows.append(("assumed", _assumed(self.runtime)))
        if isinstance(self.network, Network) and self.network.output_map != "identity":
            rows.append(("before", f"the output map, {self.network.output_map}"))
        rows += [(row.name, _row(row)) for row in self._largest()]
        return rows

    def _largest(self) -> list[LayerRounding]:
        """The rows that matter, in their order: those that make most."""
        order = sorted(
            self.by_layer, key=lambda row: -(row.made if row.alone is None else row.alone)
        )
        kept = {row.name for row in order[:SHOWN]}
        return [row for row in self.by_layer if row.name in kept]

    def data(self) -> dict[str, Any]:
        return {
            "network": self.network.digest, "on": self.on.to_json(), "dtype": self.dtype,
            "order": self.order, "ulps": self.runtime.ulps, "upper": self.upper, "seen": self.seen,
            "at": self.at, "by_layer": [row._asdict() for row in self.by_layer],
            "stopped": self.stopped,
        }  # fmt: skip

    def plot_data(self) -> dict[str, Any]:
        """Names of layers, or of nodes, and their numbers, see `LayerRounding`."""
        rows = self._largest()
        return {
            "names": [row.name for row in rows], "made": [row.made for row in rows],
            "carried": [row.carried for row in rows], "alone": [row.alone for row in rows],
        }  # fmt: skip

    def plot(self, ax: Any = None) -> Any:
        """A bar for each layer: how much of the bound is due to it."""
        from moduli.common.figures import rounding_figure

        return rounding_figure(self.plot_data(), ax)


def _above(x: float) -> str:
    return above(x, 3) if math.isfinite(x) else "any number"


def _assumed(runtime: Runtime) -> str:
    chain = runtime.chain
    order = "in any order" if chain is None else f"with at most {chain} sums for a term"
    return (
        f"sums {order}, fused or not; subnormal numbers kept or flushed; activations within "
        f"{runtime.ulps:g} ulps of max(1, |f|)"
    )


def _row(row: LayerRounding) -> str:
    alone = "" if row.alone is None else f"; alone, {above(row.alone, 2)} at the outputs"
    return f"makes {above(row.made, 2)}, carries {above(row.carried, 2)}{alone}"


# The bound ------------------------------------------------------------------------------------------------------


class Bounded(NamedTuple):
    """What is proved: of all outputs, of values of a graph, and where it stopped."""

    upper: float
    nodes: RuntimeErrors | None


class _Question:
    """A network or a graph, a runtime and a box."""

    def __init__(self, model: Network | GraphModel, runtime: Runtime, box: Box) -> None:
        self.model, self.runtime = model, runtime
        self.chain: Start | None
        if isinstance(model, Network):
            names = tuple(f"layer {l}" for l in range(1, len(model.layers) + 1))
            self.chain, self.box = Start(model, names), box.of_dimension(model.widths[0])
            return
        self.ranges = ranges_of(model, box)
        self.chain = start_of(model)
        if self.chain is not None:
            self.box = box_of_vectors(model, self.ranges, self.chain.network.widths[0])

    @cached_property
    def measure(self) -> Any:
        assert self.chain is not None
        return partial(measured, self.chain.network, self.runtime)

    def search(self, executor: Executor | None) -> BoxSearch | None:
        """For smaller boxes of the chain, or of the start of a graph that is one."""
        if self.chain is None:
            return None
        value = partial(_errors, self.chain.network, self.runtime)
        price = max(1, self.chain.network.parameters * self.chain.network.units >> 20)
        return BoxSearch({"runtime": self.measure}, value, self.box, price, executor)

    def bound(self, tree: Sequence[int]) -> Bounded:
        """The bound, by the leaves of a tree."""
        near = dict[str, float]()
        if self.chain is not None:
            upper = worst(self.measure, self.box, tree)
            near[self.chain.value] = upper
        if isinstance(self.model, Network):
            return Bounded(upper, None)
        nodes = RuntimeErrors(self.model, self.runtime, self.ranges, near)
        return Bounded(nodes.upper, nodes)

    def holds(self, at: Any) -> bool:
        """Whether an input lies in the box."""
        x = np.asarray(at, dtype=np.float64)
        if self.chain is None or x.shape != self.box.low.shape:
            return False
        return bool(((x >= self.box.low) & (x <= self.box.high)).all())


def _model(network: Network | Graph) -> Network | GraphModel:
    return rebuilt(network) if isinstance(network, Network) else rebuilt_graph(network.model)


def _again(box: Box) -> Box:
    """A box made anew from its ends."""
    if box.named:
        parts = {str(name): (_ends(part)) for name, part in box.named.items()}
        return Box(parts)
    return Box(*_ends(box))


def _ends(box: Box) -> tuple[Array, Array]:
    shape = tuple(box.shape) or np.shape(box.low)
    low, high = (np.array(end, dtype=np.float64).reshape(shape) for end in (box.low, box.high))
    return low, high


def _errors(net: Network, runtime: Runtime, x: Array) -> Array:
    """|computed - function| at inputs that are rounded first, as one runtime has it: wide sums."""
    x = runtime.format.nearest(x)
    return np.asarray(np.abs(computed(net, runtime, x) - net.logits(x)).max(axis=1))


def computed(net: Network, runtime: Runtime, x: Array) -> Array:
    """Outputs before the output map as NumPy computes them in float32, rounded to the format after each
    layer.
    """
    h: Any = np.asarray(x, dtype=np.float32)
    for layer in runtime.layers(net.layers):
        z = h @ layer.weight.astype(np.float32).T + layer.bias.astype(np.float32)
        h = layer.activation(runtime.format.nearest(z.astype(np.float64)))
        h = runtime.format.nearest(h).astype(np.float32)
    return np.asarray(h, dtype=np.float64)


def require_format(network: Network | Graph, runtime: Runtime) -> None:
    """Refuse a format where the file of a graph computes in one that has not all of its numbers."""
    if isinstance(network, Network):
        return
    if network.source.sums:
        names = ", ".join(sorted(network.source.sums))
        raise Undecided(f"{network.source.where}: nobody says how a runtime computes {names}")
    mine = runtime.format
    for name in sorted(network.source.formats):
        other = FORMATS.get(name, mine)
        if other.digits < mine.digits or other.lowest > mine.lowest or other.highest < mine.highest:
            raise ArgumentError(
                Asked("dtype", runtime.dtype), f": {network.source.where} computes in {name}"
            )


def rounding(
    network: Network | Graph,
    on: Box,
    runtime: Runtime,
    budget: int,
    seed: int | np.random.Generator,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Rounding:
    """The bound, by halving the box where the network is a chain or starts as one.

    Raises:
        ShapeError: the box does not fit, or says nothing of an input.
        Undecided: the runtime has no number for a stored one.
    """
    require_format(network, runtime)
    if isinstance(network, Graph):
        missing = [name for name in network.inputs if on.of_input(name) is None]
        if missing:
            raise ShapeError(f"the box says nothing of input {missing[0]!r}")
    question = _Question(_model(network), runtime, on)
    search = question.search(executor)
    tree: tuple[int, ...] = (-1,)
    seen, at = None, None
    if search is not None:
        low, high = search.box.low, search.box.high
        rng = np.random.default_rng(seed)
        search.look(np.where(rng.random((POINTS, len(low))) < 0.5, low, high))
        share = rng.random((POINTS, len(low)))
        search.look(low * (1.0 - share) + high * share)
        search.run(bisection_budget(len(low), budget), progress=progress)
        tree = search.preorder()
        all_of_it = isinstance(network, Network) or _searched_all(question, network)
        if all_of_it and runtime.dtype != "float64":
            seen, at = max(search.seen, 0.0), tuple(search.at.tolist())
    found = question.bound(tree)
    layers = _layers(question, search, found)
    status = "bounded" if math.isfinite(found.upper) else "undecided"
    stopped = None if found.nodes is None or status == "bounded" else found.nodes.stopped
    if stopped is None and status == "undecided":
        stopped = _first_stop(layers, runtime)
    return Rounding(
        status, network, on, runtime, found.upper, layers, seen, at, tree, stopped
    )  # fmt: skip


def evaluated_within(graph: Graph, on: Box, ulps: float) -> float:
    """How far what float64 makes of a graph, operator by operator, is from its function on a box, whatever
    a runtime of its file computes in.

    Raises:
        Undecided: nothing is known; names the first node without a bound. ShapeError: the box does not fit.
    """
    if graph.source.sums:
        names = ", ".join(sorted(graph.source.sums))
        raise Undecided(f"{graph.source.where}: nobody says how {names} are added")
    found = _Question(_model(graph), Runtime("float64", None, ulps), on).bound((-1,))
    if not math.isfinite(found.upper):
        where, why = (found.nodes and found.nodes.stopped) or ("a sum", "it may overflow")
        raise Undecided(f"{graph.source.where}: no bound of rounding in float64: {where}: {why}")
    return found.upper


def _searched_all(question: _Question, graph: Graph) -> bool:
    """Whether the chain that was searched gives the only output."""
    chain = question.chain
    return chain is not None and len(graph.outputs) == 1 and graph.outputs[0] in chain.gives[-1]


def _first_stop(layers: Sequence[LayerRounding], runtime: Runtime) -> tuple[str, str]:
    name = next((row.name for row in layers if not math.isfinite(row.made)), layers[-1].name)
    return name, f"a sum or value may exceed the largest number of {runtime.dtype}"


def _layers(
    question: _Question, search: BoxSearch | None, found: Bounded
) -> tuple[LayerRounding, ...]:
    """Layers of the chain, then nodes of what is none."""
    rows = list[LayerRounding]()
    if search is not None and question.chain is not None:
        rows = _layers_of(question.chain, question.runtime, search)
    if found.nodes is None:
        return tuple(rows)
    nodes = [*found.nodes.fresh.items()]
    if rows:  # all up to the end of the chain are in it
        names = [name for name, _ in nodes]
        nodes = nodes[names.index(rows[-1].name) + 1 :]
    for name, made in nodes:
        if made > question.runtime.flushed:
            rows.append(LayerRounding(name, made, found.nodes.gap(name), None))
    return tuple(rows)


def _layers_of(chain: Start, runtime: Runtime, search: BoxSearch) -> list[LayerRounding]:
    """On the boxes with the largest bounds."""
    pick = np.argsort(-search.top, kind="stable")[:SHARES]
    low, high = search.low[pick], search.high[pick]
    whole = runtime_errors(chain.network, runtime, low, high)
    rows = []
    for l, name in enumerate(chain.values):
        alone = runtime_errors(chain.network, runtime, low, high, alone=l).top
        numbers = [float(part.max()) for part in (whole.fresh[l], whole.layers[l], alone)]
        rows.append(LayerRounding(name, *numbers))
    return rows
