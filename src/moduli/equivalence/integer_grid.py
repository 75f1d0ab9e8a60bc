"""A network of integers beside another one, at every input that it can be given.

A device that computes in integers has finitely many inputs: x = scale (q - zero) for the integers q of a
type. Where they are few, all are tried. What the device computes is exact, by declared rules
(`IntegerNetwork`). The other network is another such file, or a function over the reals, which is enclosed
at each input: a chain of dense layers by the kernel's bounds at a point, and in rational arithmetic where
it matters; any other graph in float64, with a bound of all its roundings (`rounding`). So the largest
difference is a number, or lies between two that are close.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from moduli.common.domains import Grid
from moduli.common.exact_values import evaluate
from moduli.common.graph import Graph
from moduli.common.integer_network import Array, IntegerInput, IntegerNetwork, Ints
from moduli.common.progress import Progress
from moduli.common.result import Result, counted
from moduli.kernel.bounds.propagation import propagate
from moduli.kernel.box import Box
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    BudgetExhausted,
    CertificateRejected,
    ShapeError,
    Undecided,
    UnsupportedModel,
)
from moduli.kernel.exact_numbers import Interval, above, below, ceiling, two_sum
from moduli.kernel.graph.entrywise import Elementwise, PerUnit
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Linear,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.runtime_errors import MEANS
from moduli.kernel.graph.slicewise import MAXIMA, SOFTMAX
from moduli.kernel.network import Network

from . import quantised_graphs
from .computed import evaluated_within

REFINED = 64  # inputs at which differences are worked out in rational arithmetic
PIECE = 2**19  # entries of a tensor for a piece of the inputs
MOST_PIECE = 4096  # inputs of a piece
ULPS = 16.0  # of NumPy's functions in float64, see `rounding`; it claims 4
SHOWN = 8  # entries of an input that are shown
MOST_TRIED = 10**9  # inputs; nobody waits for more
Answer = TypeVar("Answer", "GridDistance", "GridDecision")

# Inputs ---------------------------------------------------------------------------------------------------------


class Points:
    """All integers that inputs may hold within real ends, in order.

    Attributes:
        counts: of the integers of each entry, of all inputs one after another. count: of all inputs.

    Raises:
        ShapeError: ends that do not fit, or between which an entry has no integer.
    """

    def __init__(self, inputs: Sequence[IntegerInput], on: Grid) -> None:
        self.inputs = inputs
        names = [given.name for given in inputs]
        for name in on.box.named if on.box is not None else ():
            if name not in names:
                raise ShapeError(f"a grid of input {name!r}; inputs are {', '.join(names)}")
        ends = [_integers_within(given, on.box) for given in inputs]
        self.low = np.concatenate([low for low, _ in ends])
        self.high = np.concatenate([high for _, high in ends])
        self.counts = self.high - self.low + 1
        self.count = math.prod(self.counts.tolist())

    def at(self, start: int, stop: int) -> dict[str, Ints]:
        """Integers ``[points, *shape]`` of inputs with these numbers, by name."""
        rest = np.arange(start, stop, dtype=np.int64)
        whole = np.repeat(self.low[None], len(rest), axis=0)
        for entry in np.flatnonzero(self.counts > 1)[::-1]:
            rest, step = np.divmod(rest, self.counts[entry])
            whole[:, entry] += step
        return self._named(whole)

    def real(self, integers: Mapping[str, Ints]) -> list[Array]:
        """What integers stand for, exactly, in the order of inputs."""
        return [
            given.scale * (np.asarray(integers[given.name], dtype=np.float64) - given.zero)
            for given in self.inputs
        ]

    @property
    def hull(self) -> list[tuple[Array, Array]]:
        """The real ends of each input."""
        ends = self.real(self._named(np.stack([self.low, self.high])))
        return [(end[0], end[1]) for end in ends]

    def _named(self, whole: Ints) -> dict[str, Ints]:
        """All entries of each point, ``[points, entries]``, input by input."""
        cuts = np.cumsum([math.prod(given.shape) for given in self.inputs])[:-1]
        parts = np.split(whole, cuts, axis=1)
        return {
            given.name: part.reshape(-1, *given.shape)
            for given, part in zip(self.inputs, parts, strict=True)
        }

    @property
    def said(self) -> str:
        """How many inputs there are, as a product where that is short."""
        sizes = [n for n in self.counts.tolist() if n > 1]
        product = f" ({' x '.join(map(str, sizes))})" if 1 < len(sizes) <= SHOWN else ""
        return f"{counted(self.count, 'integer input', 'integer inputs')}{product}"


def _integers_within(given: IntegerInput, box: Box | None) -> tuple[Ints, Ints]:
    """The least and the largest integer of each entry of an input, flattened."""
    size = math.prod(given.shape)
    part = None if box is None else box.of_input(given.name)
    if part is None:
        return np.full(size, given.least), np.full(size, given.most)
    try:
        shape = part.shape or np.shape(part.low)
        wide = [
            np.broadcast_to(np.reshape(end, shape if np.size(end) > 1 else ()), given.shape)
            for end in (part.low, part.high)
        ]
    except ValueError:
        raise ShapeError(
            f"a grid of shape {tuple(part.shape or np.shape(part.low))} for input {given.name!r} of "
            f"shape {given.shape}"
        ) from None
    step = Fraction(given.scale)
    low, high = (end.ravel().tolist() for end in wide)
    first = [max(given.least, math.ceil(Fraction(x) / step) + given.zero) for x in low]
    last = [min(given.most, math.floor(Fraction(x) / step) + given.zero) for x in high]
    for entry, (a, b) in enumerate(zip(first, last, strict=True)):
        if a > b:
            ends = [float(step * (k - given.zero)) for k in (given.least, given.most)]
            raise ShapeError(
                f"input {given.name!r}, entry {entry}: no integer stands for a number from {low[entry]:g} to "
                f"{high[entry]:g}; they are {given.scale:g} apart, from {ends[0]:g} to {ends[1]:g}"
            )
    return np.array(first, dtype=np.int64), np.array(last, dtype=np.int64)


# Both networks --------------------------------------------------------------------------------------------------


Ends = list[tuple[Array, Array]]  # of outputs: least and largest numbers, at each of many points


class _Side(ABC):
    """A network at inputs."""

    said: str

    @abstractmethod
    def ends(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> Ends:
        """Of each output the ends ``[points, *shape]`` between which its numbers are; of a chain of dense
        layers, which knows no shape, ``[points, entries]``.
        """

    @abstractmethod
    def exact(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> list[Interval] | None:
        """All entries of all outputs at one input, in rationals; None where `ends` are all there is."""


class _Device(_Side):
    def __init__(self, network: IntegerNetwork, names: Sequence[str], where: str) -> None:
        self.network, self.names = network, names
        self.said = f"{where} in integers, as {network.rules} compute"

    def ends(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> Ends:
        own = zip(self.network.inputs, self.names, strict=True)
        found = self.network.run({given.name: integers[name] for given, name in own})
        return [(values, values) for values in found]

    def exact(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> list[Interval] | None:
        parts = [low[0].ravel().tolist() for low, _ in self.ends(integers, real)]
        return [(Fraction(x), Fraction(x)) for part in parts for x in part]


class _Chain(_Side):
    """Dense layers: enclosed by the kernel's intervals at each input."""

    def __init__(self, net: Network, where: str) -> None:
        self.net, self.said = net, f"{where} over the reals"

    def ends(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> Ends:
        x = real[0].reshape(len(real[0]), -1)
        return [propagate(self.net.layers, x, x, linear=False).bounds[-1]]

    def exact(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> list[Interval] | None:
        return evaluate(self.net, [Fraction(x) for x in real[0].ravel().tolist()])


WIDE = {  # of entries: what an evaluator has in float64, too, and not in float32 alone
    "identity", "neg", "abs", "relu", "clip", "add", "sub", "mul", "div", "max", "min", "leaky_relu",
    "prelu", "tanh", "sigmoid", "exp", "sqrt", "batchnorm",
}  # fmt: skip
MOVES = (Broadcast, Concat, Contract, Linear, Reshape, Take, Transpose)


def _require_wide(graph: Graph) -> None:
    """Refuse operators that an evaluator may compute in float32 whatever it is given."""
    for node in graph.model.live().nodes:
        op, kind = node.op, getattr(node.op, "kind", type(node.op).__name__)
        entrywise = isinstance(op, (Elementwise, PerUnit)) and kind in WIDE
        slicewise = isinstance(op, Slicewise) and kind in (*MAXIMA, *MEANS, *SOFTMAX)
        if not (isinstance(op, MOVES) or entrywise or slicewise):
            raise Undecided(
                f"{graph.source.where}: {kind!r} ({node.name or node.output}) is not enclosed at an input here"
            )


class _Operators(_Side):
    """Any other graph: float64, and a bound of what all its roundings do."""

    def __init__(self, graph: Graph, points: Points) -> None:
        _require_wide(graph)
        self.graph, self.said = graph, f"{graph.source.where} over the reals"
        names = dict(zip(graph.inputs, points.hull, strict=True))
        box = Box({name: (low[0], high[0]) for name, (low, high) in names.items()})
        self.off = evaluated_within(graph, box, ULPS)

    def ends(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> Ends:
        rows = [
            self.graph.source.run(dict(zip(self.graph.inputs, inputs, strict=True)))
            for inputs in zip(*real, strict=True)
        ]
        found = []
        for name in self.graph.outputs:
            values = np.stack([np.asarray(row[name], dtype=np.float64) for row in rows])
            if not np.isfinite(values).all():
                raise Undecided(f"output {name!r} is not finite at some input, in float64")
            found.append(
                (
                    np.nextafter(values - self.off, -np.inf),
                    np.nextafter(values + self.off, np.inf),
                )
            )
        return found

    def exact(self, integers: Mapping[str, Ints], real: Sequence[Array]) -> list[Interval] | None:
        return None


class Pair:
    """Both networks and the inputs at which they are compared.

    Raises:
        UnsupportedModel: neither is computed in integers here; names what is in the way. ShapeError:
            inputs or outputs do not agree. BudgetExhausted: inputs are too many.
    """

    def __init__(self, a: Network | Graph, b: Network | Graph, on: Grid, budget: int) -> None:
        self.nets, self.on = (a, b), on
        devices = _devices(self.nets, on)
        first = next(device for device in devices if device is not None)
        self.points = Points(first.inputs, on)
        if self.points.count > budget:
            raise _too_many(self.points, budget)
        for net, device in zip(self.nets, devices, strict=True):
            _require_inputs(net, device, first.inputs)
        widest = max(device.widest for device in devices if device is not None)
        self.step = max(1, min(MOST_PIECE, PIECE // max(1, widest)))
        sides = list[_Side]()
        for net, device in zip(self.nets, devices, strict=True):
            if device is not None:
                names = [given.name for given in first.inputs]
                sides.append(_Device(device, names, _where(net)))
            else:
                sides.append(_reals(net, self.points))
        self.sides = sides

    def inputs(self, progress: Progress | None) -> Iterator[_Inputs]:
        """All inputs, piece by piece."""
        for start in range(0, self.points.count, self.step):
            stop = min(start + self.step, self.points.count)
            integers = self.points.at(start, stop)
            yield _Inputs(start, integers, self.points.real(integers))
            if progress is not None:
                progress(stop, self.points.count, "integer inputs")

    def pieces(self, progress: Progress | None) -> Iterator[_Gaps]:
        """Bounds of the difference of all outputs, piece by piece."""
        for given in self.inputs(progress):
            yield _Gaps(given.start, *_apart(*self.outputs(given)))

    def outputs(self, given: _Inputs) -> tuple[Ends, Ends]:
        """Bounds of the outputs of both, ``[points, entries]``.

        Raises:
            ShapeError: they have other outputs.
        """
        first, second = (side.ends(given.integers, given.real) for side in self.sides)
        shapes = [
            [None if isinstance(side, _Chain) else low.shape[1:] for low, _ in ends]
            for side, ends in zip(self.sides, (first, second), strict=True)
        ]
        _require_outputs(_flat(first), _flat(second), shapes)
        return _flat(first), _flat(second)

    def exact(self, number: int) -> list[Interval] | None:
        """Enclosures of the differences of all entries at an input, in rationals."""
        integers = self.points.at(number, number + 1)
        real = self.points.real(integers)
        found = [side.exact(integers, real) for side in self.sides]
        if found[0] is None or found[1] is None:
            return None
        return [_difference(p, q) for p, q in zip(found[0], found[1], strict=True)]


class _Inputs(NamedTuple):
    """Inputs from the one with a number on: integers by name, and the real numbers of each."""

    start: int
    integers: dict[str, Ints]
    real: list[Array]


class _Gaps(NamedTuple):
    """Bounds ``[points, entries]`` of the difference of outputs, from an input on."""

    start: int
    low: Array
    high: Array


def _too_many(points: Points, budget: int) -> BudgetExhausted:
    """Why so many inputs are not tried, and the way out."""
    ways: list[str | Asked] = ["fewer inputs, ", Asked("on", Grid(0, 1))]
    number = f"about 10^{math.log10(points.count):.0f} integer inputs"
    if points.count <= MOST_TRIED:
        number, ways = points.said, [Asked("budget", points.count), ", or ", *ways]
    return BudgetExhausted(
        f"there are {number}, and ", Asked("budget", budget), " allows fewer: give ", *ways
    )


def _flat(ends: Ends) -> Ends:
    return [(low.reshape(len(low), -1), high.reshape(len(high), -1)) for low, high in ends]


def _require_outputs(
    first: Ends, second: Ends, shapes: Sequence[Sequence[tuple[int, ...] | None]]
) -> None:
    sizes = [[low.shape[1] for low, _ in side] for side in (first, second)]
    if sizes[0] != sizes[1]:
        raise ShapeError(f"outputs of {sizes[0]} and of {sizes[1]} entries are not compared")
    for one, other in zip(*shapes, strict=True):
        # axes of size one change no order of entries
        if one is not None and other is not None and _long(one) != _long(other):
            raise ShapeError(
                f"outputs of shapes {one} and {other} are not compared: their entries have other orders"
            )


def _long(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def _apart(first: Ends, second: Ends) -> tuple[Array, Array]:
    if not all(np.isfinite(end).all() for side in (first, second) for ends in side for end in ends):
        raise Undecided("an output is without a bound at some input: numbers are too large")
    lows, highs = [], []
    for (a_low, a_high), (b_low, b_high) in zip(first, second, strict=True):
        least = np.maximum(_less(a_low, b_high, -np.inf), _less(b_low, a_high, -np.inf))
        most = np.maximum(_less(a_high, b_low, np.inf), _less(b_high, a_low, np.inf))
        lows.append(np.maximum(least, 0.0))
        highs.append(most)
    return np.concatenate(lows, axis=1), np.concatenate(highs, axis=1)


def _less(a: Array, b: Array, towards: float) -> Array:
    """a - b, moved outward where floats do not have it."""
    total, rest = two_sum(a, -b)
    return np.asarray(np.where(rest == 0, total, np.nextafter(total, towards)))


def _difference(p: Interval, q: Interval) -> Interval:
    """|x - y| for x in one interval and y in another."""
    least = max(p[0] - q[1], q[0] - p[1], Fraction(0))
    return least, max(p[1] - q[0], q[1] - p[0])


def _where(net: Network | Graph) -> str:
    return net.source.where if isinstance(net, Graph) else repr(net)


def _devices(nets: Sequence[Network | Graph], on: Grid) -> list[IntegerNetwork | None]:
    """Those that are computed in integers.

    Raises:
        UnsupportedModel: one rounds to integers and is not understood, or none does.
    """
    found = list[IntegerNetwork | None]()
    refused = list[UnsupportedModel]()
    for net in nets:
        if isinstance(net, Network):
            found.append(None)
            continue
        try:
            found.append(net.source.on_device(on.kernels))
        except UnsupportedModel as error:
            if quantised_graphs.rounds_values(net):
                raise
            refused.append(error)
            found.append(None)
    known = [device for device in found if device is not None]
    if not known:
        why = f": {refused[-1]}" if refused else ""
        raise UnsupportedModel(
            "neither network computes in integers, and ", Asked("on", Grid()), f" is about one that does{why}"
        )  # fmt: skip
    if on.kernels is not None and all(device.kernels != on.kernels for device in known):
        raise ArgumentError(
            f"kernels={on.kernels!r}: neither file is computed by these; known here are "
            "'tflite-micro' and 'litert' of .tflite, 'onnxruntime' of .onnx"
        )
    return found


def _require_inputs(
    net: Network | Graph, device: IntegerNetwork | None, inputs: Sequence[IntegerInput]
) -> None:
    names = [given.name for given in inputs]
    own = (
        [given.name for given in device.inputs]
        if device is not None
        else getattr(net, "inputs", names)
    )
    if list(own) != names and sorted(own) == sorted(names):
        raise ShapeError(
            f"inputs {', '.join(names)} and {', '.join(own)}: they are matched by their places, and the same "
            "names stand at other ones; write one file with the inputs in the other order"
        )
    if device is not None:
        ours = [(x.shape, x.scale, x.zero, x.least, x.most) for x in device.inputs]
        if ours != [(x.shape, x.scale, x.zero, x.least, x.most) for x in inputs]:
            raise ShapeError(
                "the inputs of both files are integers of other shapes, types or scales"
            )
        return
    if isinstance(net, Network):
        sizes = [math.prod(given.shape) for given in inputs]
        if sizes != [net.widths[0]]:
            raise ShapeError(f"inputs of {sizes} numbers for a network with {net.widths[0]}")
        return
    shapes = [net.model.shapes.get(name) for name in net.inputs]
    fits = len(shapes) == len(inputs) and all(
        shape is None or (len(shape) == len(given.shape) and _sizes_fit(shape, given.shape))
        for shape, given in zip(shapes, inputs, strict=False)
    )
    if not fits:
        raise ShapeError(
            f"inputs of shapes {[given.shape for given in inputs]} for a network with {shapes}"
        )


def _sizes_fit(shape: Sequence[Any], own: Sequence[int]) -> bool:
    return all(not isinstance(n, int) or n == m for n, m in zip(shape, own, strict=True))


def _reals(net: Network | Graph, points: Points) -> _Side:
    """A network over the reals, as dense layers where it is a chain of them."""
    where = _where(net)
    if isinstance(net, Graph):
        try:
            chain = net.chain()
        except UnsupportedModel:
            chain = None
        sizes = [math.prod(given.shape) for given in points.inputs]
        if chain is None or chain.output_map != "identity" or sizes != [chain.widths[0]]:
            return _Operators(net, points)
        return _Chain(chain, where)
    return _Chain(net, where)


# The largest difference -----------------------------------------------------------------------------------------


class Largest(NamedTuple):
    """The largest difference of outputs, and where.

    Attributes:
        low, high: exact bounds of it. number: of an input at which it is at least `low`. entry: of all
            outputs, one after another.
    """

    low: Fraction
    high: Fraction
    number: int
    entry: int


def largest(pair: Pair, progress: Progress | None = None) -> Largest:
    """By bounds at all inputs, and in rational arithmetic at those that may be the worst."""
    best, number, entry = -1.0, 0, 0
    most = list[tuple[float, int]]()  # upper bounds that are above the best lower one
    for gaps in pair.pieces(progress):
        tops, bottoms = gaps.high.max(axis=1), gaps.low.max(axis=1)
        k = int(bottoms.argmax())
        if bottoms[k] > best:
            best, number = float(bottoms[k]), gaps.start + k
            entry = int(gaps.low[k].argmax())
        open_ = np.flatnonzero(tops >= best)
        most = [pair_ for pair_ in most if pair_[0] >= best]
        most += [(float(tops[i]), gaps.start + int(i)) for i in open_]
    return _refined(pair, Largest(Fraction(best), Fraction(best), number, entry), most)


def _refined(pair: Pair, found: Largest, most: list[tuple[float, int]]) -> Largest:
    """Differences at the inputs with the largest bounds, exactly, as far as that is possible."""
    most = sorted(most, key=lambda bound: (-bound[0], bound[1]))
    low, number, entry = found.low, found.number, found.entry
    high = low
    for k, (top, at) in enumerate(most):
        if Fraction(top) <= low:
            break
        gaps = pair.exact(at) if k < REFINED else None
        if gaps is None:
            high = max(high, Fraction(top))
            break  # what follows is no larger
        bounds = [gap[0] for gap in gaps]
        worst = max(range(len(gaps)), key=bounds.__getitem__)
        if bounds[worst] > low or (bounds[worst] == low and at < number):
            low, number, entry = bounds[worst], at, worst
        high = max(high, *(gap[1] for gap in gaps))
    return Largest(low, max(low, high), number, entry)


def _again(answer: Answer, ask: Callable[..., Answer]) -> Answer:
    """The same question, at no more inputs than the answer is said to be about."""
    on = Grid(answer.on.low, answer.on.high, kernels=answer.on.kernels)
    try:
        return ask(answer.a, answer.b, on, answer.points)
    except BudgetExhausted as error:
        raise CertificateRejected(f"an answer about {answer.points} inputs: {error}") from None


def _same_inputs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether inputs by name are the same."""
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in other
    )


def _float_ends(found: Largest) -> tuple[float, float]:
    lower = float(found.low)
    if Fraction(lower) > found.low:
        lower = math.nextafter(lower, 0.0)
    return lower, ceiling(found.high)


@dataclass(frozen=True, eq=False, repr=False)
class GridDistance(Result):
    """The largest difference of any output of two networks at all integer inputs of a device.

    Attributes:
        a, b: as they were given; at least one is computed in integers. points: how many inputs there
            are. lower, upper: floats around the largest difference; exact: it, as a rational, where it
            is known. argmax: the real inputs, by name, at which it is at least `lower`; integers: the
            integers that stand for them. entry: of all outputs, one after another, the one that differs.
        rules: how each of both is computed, in words.
    """

    a: Network | Graph
    b: Network | Graph
    on: Grid
    points: int
    lower: float
    upper: float
    exact: Fraction | None
    argmax: Mapping[str, Any]
    integers: Mapping[str, Any]
    entry: int
    rules: tuple[str, str]
    said: str
    kind: ClassVar[str] = "distance"

    def check(self) -> bool:
        """Run both at all inputs again."""
        again = _again(self, distance)
        bracket = again.lower, again.upper
        within = self.lower <= again.lower <= again.upper <= self.upper
        if not (self.points == again.points and within):
            raise CertificateRejected(
                f"at {self.points} inputs outputs are said to be {self.lower} to {self.upper} apart; they are "
                f"{bracket[0]} to {bracket[1]}, at {again.points}"
            )
        if self.exact is not None and self.exact != again.exact:
            raise CertificateRejected(f"the largest difference is not {self.exact}")
        same = _same_inputs(self.integers, again.integers)
        if not same or self.entry != again.entry or not _same_inputs(self.argmax, again.argmax):
            raise CertificateRejected("the largest difference is said to be at another input")
        words = [(x.status, x.rules, x.said) for x in (self, again)]
        if words[0] != words[1]:
            raise CertificateRejected(f"said is {words[0]}, found {words[1]}")
        return True

    @property
    def statement(self) -> str:
        if self.upper == 0:
            return f"the same outputs at all {self.said}; {'; '.join(self.rules)}"
        size = f"at most {above(self.upper, 6)}"
        if self.exact is None:
            size += f" and at least {below(self.lower, 6)}"
        return f"outputs differ by {size} at all {self.said}; {'; '.join(self.rules)}"

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a)), ("b", repr(self.b)), ("on", repr(self.on))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [("inputs", self.said), ("at most", above(self.upper, 6))]
        if self.exact is None:
            rows.append(("at least", below(self.lower, 6)))
        else:
            text = str(self.exact)
            rows.append(("exactly", text if len(text) <= 60 else f"known, of {len(text)} digits"))
        if self.upper:
            rows.append(("of output", str(self.entry)))
            for name, q in self.integers.items():
                shown = _short(q)
                rows.append((f"at {name}", f"{_short(self.argmax[name])}, integers {shown}"))
        return [*rows, ("first computed", self.rules[0]), ("second computed", self.rules[1])]

    def data(self) -> dict[str, Any]:
        exact = (
            None if self.exact is None else [str(self.exact.numerator), str(self.exact.denominator)]
        )
        return {
            "a": self.a.digest, "b": self.b.digest, "on": self.on.to_json(), "points": self.points,
            "lower": self.lower, "upper": self.upper, "exact": exact, "entry": self.entry,
            "argmax": {name: np.asarray(x).tolist() for name, x in self.argmax.items()},
            "integers": {name: np.asarray(q).tolist() for name, q in self.integers.items()},
            "rules": list(self.rules),
        }  # fmt: skip


def _short(x: Any) -> str:
    flat = np.ravel(x)
    shown = ", ".join(f"{v:g}" for v in flat[:SHOWN].tolist())
    return f"[{shown}]" if flat.size <= SHOWN else f"[{shown}, ...]"


def distance(
    a: Network | Graph,
    b: Network | Graph,
    on: Grid,
    budget: int,
    progress: Progress | None = None,
) -> GridDistance:
    """The largest difference at all integer inputs; see `Pair` for what is refused."""
    pair = Pair(a, b, on, budget)
    found = largest(pair, progress)
    lower, upper = _float_ends(found)
    exact = found.low if found.low == found.high else None
    integers = pair.points.at(found.number, found.number + 1)
    real = pair.points.real(integers)
    names = [given.name for given in pair.points.inputs]
    return GridDistance(
        "bounded" if exact is None else "proved", a, b, on, pair.points.count, lower, upper, exact,
        {name: x[0] for name, x in zip(names, real, strict=True)},
        {name: q[0] for name, q in integers.items()},
        found.entry, (pair.sides[0].said, pair.sides[1].said), pair.points.said,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class GridEquivalence(Result):
    """Whether two networks agree within `eps` at all integer inputs of a device.

    Attributes:
        distance: the largest difference, and where it is.
    """

    distance: GridDistance
    eps: float
    kind: ClassVar[str] = "equal"

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(self.statement, lower=self.distance.lower, upper=self.distance.upper)
        return self.status == "proved"

    @property
    def witness(self) -> Mapping[str, Any] | None:
        """An input at which they differ by more, where that is refuted."""
        return self.distance.argmax if self.status == "refuted" else None

    def check(self) -> bool:
        """Run both at all inputs again."""
        if self.status == "undecided":
            return super().check()
        self.distance.check()
        if self.status != _decided(self.distance, self.eps):
            raise CertificateRejected(f"{self.status} does not follow for eps={self.eps}")
        return True

    @property
    def statement(self) -> str:
        within = f"within {self.eps:g}" if self.eps else "exactly"
        answer = {"proved": "yes", "refuted": "no"}.get(self.status, "not known")
        return f"equal {within}: {answer}: {self.distance.statement}"

    def asked(self) -> list[tuple[str, str]]:
        return self.distance.asked()

    def facts(self) -> list[tuple[str, str]]:
        return self.distance.facts()

    def data(self) -> dict[str, Any]:
        witness = self.witness
        shown = witness and {name: np.asarray(x).tolist() for name, x in witness.items()}
        return {**self.distance.data(), "eps": self.eps, "witness": shown}


def _decided(found: GridDistance, eps: float) -> str:
    if found.exact is not None:
        return "proved" if found.exact <= Fraction(eps) else "refuted"
    if found.upper <= eps:
        return "proved"
    return "refuted" if found.lower > eps else "undecided"


def equivalent(
    a: Network | Graph,
    b: Network | Graph,
    on: Grid,
    eps: float,
    budget: int,
    progress: Progress | None = None,
) -> GridEquivalence:
    """Whether the largest difference is within `eps`."""
    found = distance(a, b, on, budget, progress)
    return GridEquivalence(_decided(found, eps), found, float(eps))


# Decisions ------------------------------------------------------------------------------------------------------


class Decided(NamedTuple):
    """At how many inputs both decide in different ways, or may.

    Attributes:
        differ: inputs at which they do. open: at which nothing is known. number: of the first at which
            they do; winners: the entries that are the largest there.
    """

    differ: int
    open: int
    number: int
    winners: tuple[int, int]


def decided(pair: Pair, progress: Progress | None = None) -> Decided:
    """The largest entry of the only output of both, of equal ones the first, input by input."""
    differ, unknown, number, winners, refined = 0, 0, -1, (-1, -1), 0
    for given in pair.inputs(progress):
        start = given.start
        found = [_winners(outputs) for outputs in pair.outputs(given)]
        for k in np.flatnonzero((found[0] < 0) | (found[1] < 0)):
            if refined < REFINED:
                refined += 1
                for side, who in zip(pair.sides, found, strict=True):
                    who[k] = _winner_at(side, pair.points, start + int(k)) if who[k] < 0 else who[k]
        known = (found[0] >= 0) & (found[1] >= 0)
        apart = np.flatnonzero(known & (found[0] != found[1]))
        unknown += int((~known).sum())
        differ += len(apart)
        if number < 0 and len(apart):
            number = start + int(apart[0])
            winners = int(found[0][apart[0]]), int(found[1][apart[0]])
    return Decided(differ, unknown, number, winners)


def _winners(outputs: Ends) -> Ints:
    """The first of the largest entries at each input; -1 where bounds do not tell."""
    if len(outputs) != 1 or outputs[0][0].shape[1] < 2:
        raise ArgumentError(
            Asked("decision", True), ": networks of one output with several entries decide"
        )
    low, high = outputs[0]
    best = low.argmax(axis=1)
    rows = np.arange(len(low))
    others = high.copy()
    others[rows, best] = -np.inf
    sure = low[rows, best] > others.max(axis=1)
    exact = (low == high).all(axis=1)  # then the first of equal ones is
    return np.asarray(np.where(sure | exact, best, -1))


def _winner_at(side: _Side, points: Points, number: int) -> int:
    """The same at one input in rational arithmetic."""
    integers = points.at(number, number + 1)
    found = side.exact(integers, points.real(integers))
    if found is None:
        return -1
    best = max(range(len(found)), key=lambda k: found[k][0])
    rest = [ends[1] for k, ends in enumerate(found) if k != best]
    if all(low == high for low, high in found) or found[best][0] > max(rest):
        return best
    return -1


@dataclass(frozen=True, eq=False, repr=False)
class GridDecision(Result):
    """Whether two networks have the same largest output at all integer inputs of a device; of equal ones
    the first counts, as in an argmax.

    Attributes:
        points: how many inputs there are. differ: at how many they decide in different ways. open: of
            how many that is not known. witness: the first input at which they do, by name, and winners:
            the outputs that are the largest there.
    """

    a: Network | Graph
    b: Network | Graph
    on: Grid
    points: int
    differ: int
    open: int
    witness: Mapping[str, Any] | None
    winners: tuple[int, int]
    rules: tuple[str, str]
    said: str
    kind: ClassVar[str] = "equal"

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(self.statement)
        return self.status == "proved"

    def check(self) -> bool:
        """Run both at all inputs again."""
        again = _again(self, decisions)
        ours, theirs = (
            (x.status, x.points, x.differ, x.open, x.winners, x.rules, x.said)
            for x in (self, again)
        )
        if ours != theirs:
            raise CertificateRejected(f"said is {ours}, found {theirs}")
        if not _same_inputs(self.witness or {}, again.witness or {}):
            raise CertificateRejected("they are said to decide in different ways at another input")
        if self.status == "undecided":
            return super().check()
        return True

    @property
    def statement(self) -> str:
        if self.differ:
            counts = f"different largest outputs at {self.differ} of all {self.said}"
        elif self.open:
            counts = f"undecided at {self.open} of all {self.said}"
        else:
            counts = f"the same largest output at all {self.said}"
        unsure = f", not known at {self.open}" if self.differ and self.open else ""
        return f"{counts}{unsure}; {'; '.join(self.rules)}"

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a)), ("b", repr(self.b)), ("on", repr(self.on))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [("inputs", self.said), ("decided in different ways", str(self.differ))]
        if self.open:
            rows.append(("not known", str(self.open)))
        if self.witness is not None:
            rows += [(f"at {name}", _short(x)) for name, x in self.witness.items()]
            rows.append(("largest there", f"output {self.winners[0]}, and {self.winners[1]}"))
        return [*rows, ("first computed", self.rules[0]), ("second computed", self.rules[1])]

    def data(self) -> dict[str, Any]:
        shown = self.witness and {name: np.asarray(x).tolist() for name, x in self.witness.items()}
        return {
            "a": self.a.digest, "b": self.b.digest, "on": self.on.to_json(), "decision": True,
            "points": self.points, "differ": self.differ, "open": self.open, "witness": shown,
            "winners": list(self.winners) if self.witness is not None else None, "rules": list(self.rules),
        }  # fmt: skip


def decisions(
    a: Network | Graph, b: Network | Graph, on: Grid, budget: int, progress: Progress | None = None
) -> GridDecision:
    """Whether both decide alike at all integer inputs."""
    pair = Pair(a, b, on, budget)
    found = decided(pair, progress)
    status = "refuted" if found.differ else ("undecided" if found.open else "proved")
    witness = None
    if found.number >= 0:
        real = pair.points.real(pair.points.at(found.number, found.number + 1))
        names = [given.name for given in pair.points.inputs]
        witness = {name: x[0] for name, x in zip(names, real, strict=True)}
    return GridDecision(
        status, a, b, on, pair.points.count, found.differ, found.open, witness, found.winners,
        (pair.sides[0].said, pair.sides[1].said), pair.points.said,
    )  # fmt: skip
