"""Rank and compression within a radius: the answers. What `branch_and_bound` plans is carried out
on the parameters here.

One hidden layer of tanh, sigmoid or erf: bounds from both sides, often equal. Deeper networks, and
other activations: layer by layer, an upper bound alone. In either case the kernel checks the
parameter that is found, entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.exact_values import exact_arrays
from moduli.common.progress import Progress
from moduli.common.result import TableResult
from moduli.compression.box.linear_programs import PRODUCTS
from moduli.compression.certify import certify
from moduli.compression.exact import reduce
from moduli.compression.results import NEXT_NEARBY, Compression, Rank
from moduli.kernel.certificate import ball
from moduli.kernel.errors import BudgetExhausted, CertificateRejected
from moduli.kernel.exact_numbers import Array, ExactArray, above, up
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.radius.compatibility import Effort, Ints, ParameterBall, SignedBox, at_most
from moduli.kernel.radius.cover_bound import Bound, Change, Near
from moduli.kernel.rules import replay
from moduli.kernel.slack import difference
from moduli.kernel.state import State

from . import branch_and_bound
from .cover_heuristics import Plan, greedy
from .multiples import Bundle, bundles

ROWS = 2**7  # multiplications that a comparison of two numbers of rows counts as


class Approach(NamedTuple):
    """A parameter in the ball, what is proved of the ball, the paper's greedy bound (one hidden
    layer), nodes spent.
    """

    near: Near
    greedy: int | None
    nodes: int


class Approached(NamedTuple):
    """The best parameter found, with the moves that reduce it."""

    found: Approach
    state: State
    moves: tuple[Move, ...]


def approached(
    net: Network, radius: float, budget: int, executor: Executor | None, progress: Progress | None
) -> Approached:
    """The most compressible parameter found within a radius, by the units that are left of it.

    Where positive factors pass through an activation, rows become multiples of each other, too;
    once more with negative factors where those leave two units on one hyperplane, which helps if
    others can be turned.
    """
    best: Approached | None = None
    kinds = [False]
    if any(s.homogeneous and not s.symmetric for s in net.activations):
        kinds.append(True)
    for opposite in kinds:
        found = approach(net, radius, budget, executor, progress, opposite=opposite)
        if found is None:
            continue
        state, moves = reduce.reduce(net, near=found.near)
        if best is None or sum(state.widths[1:-1]) < sum(best.state.widths[1:-1]):
            nodes = found.nodes if best is None else best.found.nodes
            best = Approached(found._replace(nodes=nodes), state, moves)
    assert best is not None
    return best


def approach(
    net: Network,
    radius: float,
    budget: int,
    executor: Executor | None,
    progress: Progress | None,
    *,
    opposite: bool = False,
) -> Approach | None:
    """A compressible parameter within a radius of a network.

    Args:
        opposite: whether rows of layers through which factors pass may become negative multiples
            (None if none do); then groups of units with nearly the same row are not searched for.
    """
    try:
        whole: ParameterBall | None = ball(net, radius)
    except CertificateRejected:
        whole = None
    moved = _Moved(net, radius)
    coordinates = [Coordinate((j,), (Fraction(1),)) for j in range(net.widths[0])]
    bound, by_greed, nodes, negative = None, None, 0, False
    for l in range(1, len(net.layers)):
        layer, activation = whole or moved.ball(l, coordinates), net.activations[l - 1]
        scaled: list[Bundle] | None = None
        if activation.homogeneous:
            symmetric = activation.symmetric
            most = budget * PRODUCTS // ROWS
            scaled = bundles(layer, opposite=opposite or symmetric, symmetric=symmetric, most=most)
        if scaled is not None and opposite:
            negative |= any(t < 0 for b in scaled for t in b.ratios)
            coordinates = moved.carry_out_scaled(l, coordinates, layer, scaled)
            continue
        found = branch_and_bound.solve(layer, budget, executor, progress)
        nodes += found.nodes
        if scaled is not None and sum(not b.free for b in scaled) < len(found.plan.paid):
            coordinates = moved.carry_out_scaled(l, coordinates, layer, scaled)
        else:
            coordinates = moved.carry_out(l, coordinates, layer, found.plan)
        if whole is not None:
            bound, by_greed = found.bound, len(found.greedy.paid)
            try:
                bound.verify(
                    whole, effort=Effort(branch_and_bound.NODES * budget * len(bound.parts))
                )
            except (
                BudgetExhausted,
                CertificateRejected,
            ):  # what the kernel does not accept is not claimed
                bound = Bound(0, ())
    if opposite and not negative:
        return None
    return Approach(Near(float(radius), moved.changes(), bound), by_greed, nodes)


class Coordinate(NamedTuple):
    """What the next layer sees of units that became one: the sum of its weights on them, each times
    a ratio.
    """

    units: tuple[int, ...]
    ratios: tuple[Fraction, ...]

    @property
    def size(self) -> Fraction:
        """By how many radii the sum can move."""
        return sum(map(abs, self.ratios), Fraction(0))

    def sides(self) -> list[Coordinate]:
        """The units of positive and those of negative ratio, which are units of their own."""
        out = []
        for side in (1, -1):
            some = [
                (unit, side * t)
                for unit, t in zip(self.units, self.ratios, strict=True)
                if side * t > 0
            ]
            out.append(Coordinate(tuple(unit for unit, _ in some), tuple(t for _, t in some)))
        return out

    @staticmethod
    def of(group: SignedBox) -> Coordinate:
        return Coordinate(group.units, tuple(map(Fraction, group.signs)))


class _Moved:
    """Parameters on their way to a more compressible place in the ball, entry by entry."""

    def __init__(self, net: Network, radius: float) -> None:
        self.net, self.radius = net, radius
        self.weights = [ExactArray(layer.weight) for layer in net.layers]
        self.biases = [ExactArray(layer.bias) for layer in net.layers]

    def ball(self, l: int, coordinates: Sequence[Coordinate]) -> ParameterBall:
        """A layer as it looks behind merged units: the sum of k weights can move by k times the
        radius, so it is divided by k.

        Rounded: this only guides the search.
        """
        rows = np.column_stack([*self._sums(l, coordinates), self.net.layers[l - 1].bias])
        law = self.net.layers[l - 1].activation.under(Fraction(-1))
        signed = law is not None and law[0] == -1 and law[1] == 0
        return ParameterBall(
            rows, np.ascontiguousarray(self.net.layers[l].weight.T), self.radius, signed
        )

    def _sums(self, l: int, coordinates: Sequence[Coordinate]) -> list[Array]:
        w = self.weights[l - 1].hi
        return [
            w[:, list(c.units)] @ np.array(c.ratios, dtype=float) / float(c.size)
            for c in coordinates
        ]

    def carry_out(
        self, l: int, coordinates: Sequence[Coordinate], layer: ParameterBall, plan: Plan
    ) -> list[Coordinate]:
        """Give every unit of layer l its fate; the units that stay, as coordinates of the next
        layer.
        """
        self.weights[l].write((slice(None), list(plan.null)), 0.0, 0.0)
        for group in plan.free:
            for k in range(self.net.widths[l + 1]):
                self._balance(l, k, Coordinate.of(group), Fraction(0))
        if all(len(c.units) == 1 for c in coordinates):
            columns = [c.units[0] for c in coordinates]
            self.weights[l - 1].write(
                np.ix_(np.array(plan.constant, np.intp), np.array(columns, np.intp)), 0.0, 0.0
            )
            self._join(l, columns, layer, [g for g in (*plan.paid, *plan.free) if len(g.units) > 1])
        else:
            self._join_sums(l, coordinates, layer, plan)
        return [
            *map(Coordinate.of, plan.paid),
            *(Coordinate((i,), (Fraction(1),)) for i in plan.constant),
        ]

    def carry_out_scaled(
        self,
        l: int,
        coordinates: Sequence[Coordinate],
        layer: ParameterBall,
        scaled: Sequence[Bundle],
    ) -> list[Coordinate]:
        """The same where units become multiples of each other."""
        optional = layer.constant | layer.null
        constant = np.flatnonzero(optional & layer.constant).tolist()
        self.weights[l].write((slice(None), np.flatnonzero(optional & ~layer.constant)), 0.0, 0.0)
        zero = (Fraction(0),) * len(coordinates)
        for unit in constant:
            self._bring(l, unit, coordinates, zero)
        out = [Coordinate((i,), (Fraction(1),)) for i in constant]
        for bundle in scaled:
            own = Coordinate(bundle.units, bundle.ratios)
            if bundle.free:
                for k in range(self.net.widths[l + 1]):
                    self._balance(l, k, own, Fraction(0))
            elif any(t < 0 for t in bundle.ratios) and not layer.signed:
                out += own.sides()
            else:
                out.append(own)
            for unit, ratio in zip(*own, strict=True) if len(own.units) > 1 else ():
                self._bring(l, unit, coordinates, [ratio * x for x in bundle.row[:-1]])
                self.biases[l - 1].put((unit,), ratio * bundle.row[-1])
        return out

    def _bring(
        self, l: int, unit: int, coordinates: Sequence[Coordinate], row: Sequence[Fraction]
    ) -> None:
        """Bring what a unit of layer l reads from each coordinate to a number times its size."""
        plain, values = list[int](), list[float]()
        for coordinate, x in zip(coordinates, row, strict=True):
            if len(coordinate.units) > 1 or coordinate.ratios[0] != 1:
                self._balance(l - 1, unit, coordinate, coordinate.size * x)
            elif (value := float(x)) == x:
                plain.append(coordinate.units[0])
                values.append(value)
            else:
                self.weights[l - 1].put((unit, coordinate.units[0]), x)
        self.weights[l - 1].write((unit, plain), values, 0.0)

    def _join(
        self, l: int, columns: list[int], layer: ParameterBall, groups: list[SignedBox]
    ) -> None:
        """Give the units of each group one row, up to sign."""
        if not groups:
            return
        units = np.concatenate([g.units for g in groups])
        signs = np.concatenate([g.signs for g in groups]).astype(float)[:, None]
        start = np.cumsum([0, *(len(g.units) for g in groups[:-1])])
        centre, ties = _centres(
            layer.rows[units] * signs, np.abs(layer.outgoing[units]).max(axis=1), start, self.radius
        )
        which = np.repeat(np.arange(len(groups)), np.diff(start, append=len(units)))
        new = centre[which] * signs + 0.0
        self.weights[l - 1].write(np.ix_(units, np.array(columns)), new[:, :-1], 0.0)
        self.biases[l - 1].write(units, new[:, -1], 0.0)
        for (g, k), number in ties.items():
            for unit, sign in zip(*groups[g], strict=True):
                place = (unit, columns[k]) if k < len(columns) else (unit,)
                (self.weights if k < len(columns) else self.biases)[l - 1].put(place, sign * number)

    def _join_sums(
        self, l: int, coordinates: Sequence[Coordinate], layer: ParameterBall, plan: Plan
    ) -> None:
        """The same behind merged units: of each coordinate the sum of a unit's weights is brought
        to a common value.
        """
        tasks = [(SignedBox((i,), (1,)), np.zeros(layer.rows.shape[1])) for i in plan.constant]
        for group in (*plan.paid, *plan.free):
            if len(group.units) > 1:
                units, signs = list(group.units), np.array(group.signs, dtype=float)[:, None]
                size = np.abs(layer.outgoing[units]).max(axis=1)
                centre, _ = _centres(layer.rows[units] * signs, size, np.array([0]), self.radius)
                tasks.append((group, centre[0]))
        for group, centre in tasks:
            for unit, sign in zip(*group, strict=True):
                for coordinate, x in zip(coordinates, centre[:-1].tolist(), strict=True):
                    self._balance(l - 1, unit, coordinate, sign * coordinate.size * _short(x))
            if group.units[0] not in plan.constant:
                self.biases[l - 1].write(
                    list(group.units), np.array(group.signs) * centre[-1] + 0.0, 0.0
                )

    def _balance(self, l: int, row: int, group: Coordinate, target: Fraction) -> None:
        """Move the weights of a row so that their sum with ratios is the target, as far as the ball
        allows.
        """
        units = list(group.units)
        old = self.net.layers[l].weight[row, units]
        new = _with_sum(old, group.ratios, target, self.radius)
        for unit, number in zip(units, new, strict=True):
            self.weights[l].put((row, unit), number)

    def changes(self) -> tuple[Change, ...]:
        out = []
        for l, layer in enumerate(self.net.layers):
            for part, array, old in (
                ("weight", self.weights[l], layer.weight),
                ("bias", self.biases[l], layer.bias),
            ):
                moved = array.hi != old
                if array.lo is not None:
                    moved |= array.lo != 0
                for place in array.rest:  # a remainder below the least float shows in neither
                    moved[place] = True
                at = np.flatnonzero(moved.ravel())
                if len(at):
                    to = ExactArray(array.hi.ravel()[at])
                    for k in _inexact(array, old.shape, at):
                        to.put(
                            (k,),
                            array.get(tuple(int(x) for x in np.unravel_index(at[k], old.shape))),
                        )
                    out.append(Change(l + 1, part, at, to))
        return tuple(out)


def _inexact(array: ExactArray, shape: tuple[int, ...], at: Ints) -> list[int]:
    """Which of some places hold no float."""
    odd = np.zeros(shape, dtype=bool)
    if array.lo is not None:
        odd |= array.lo != 0
    for place in array.rest:
        odd[place] = True
    return [int(k) for k in np.flatnonzero(odd.ravel()[at])]


def _centres(
    rows: Array, size: Array, start: Ints, radius: float
) -> tuple[Array, dict[tuple[int, int], Fraction]]:
    """For each group of rows one row within the radius of all: near their mean weighted by size, so
    that little changes.

    Returns:
        ``[groups, coordinates]``, and rationals for the entries where no float is near enough.
    """
    high, low = np.maximum.reduceat(rows, start, axis=0), np.minimum.reduceat(rows, start, axis=0)
    share = np.ldexp(size, -int(np.frexp(size.max(initial=1e-300))[1])) + 1e-9
    with np.errstate(over="ignore", invalid="ignore"):
        mean = (
            np.add.reduceat(rows * share[:, None], start, axis=0)
            / np.add.reduceat(share, start)[:, None]
        )
        middle = low / 2 + high / 2
        clipped = np.clip(mean, np.nextafter(high - radius, high), np.nextafter(low + radius, low))
    out, waiting = np.where(high == low, high, 0.0), high != low
    for guess in (clipped, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)):
        with np.errstate(invalid="ignore"):
            good = (
                waiting
                & np.isfinite(guess)
                & at_most(high, guess, radius)
                & at_most(guess, low, radius)
            )
        out[good] = guess[good]
        waiting &= ~good
    ties = {}  # no float is within the radius of both ends: the middle, as a rational
    for g, k in np.argwhere(waiting).tolist():
        ties[g, k] = (Fraction(float(high[g, k])) + Fraction(float(low[g, k]))) / 2
        out[g, k] = float(ties[g, k])
    return out, ties


def _short(x: float) -> Fraction:
    """A float cut to 40 bits, so that sums around it stay floats."""
    mantissa, exponent = np.frexp(x)
    return Fraction(round(float(mantissa) * 2.0**40)) * Fraction(2) ** (int(exponent) - 40)


def _with_sum(
    values: Array, ratios: Sequence[Fraction], target: Fraction, radius: float
) -> list[Fraction]:
    """Numbers within the radius of values whose sum with ratios is the target; floats where
    possible; unchanged out of reach.

    All move by one shift, with the sign of their ratio.
    """
    old = [Fraction(v) for v in values.tolist()]
    signs = [1 if t > 0 else -1 for t in ratios]
    total = sum((t * v for t, v in zip(ratios, old, strict=True)), Fraction(0))
    shift = (total - target) / sum(map(abs, ratios), Fraction(0))
    if shift == 0 or abs(shift) > Fraction(radius):
        return old
    # 2^exponent is above |value| + radius: numbers on a grid of 2^-50 of that have 50 bits and are
    # floats. What the grid leaves over goes to the last one. Where that takes one out of the ball,
    # all move as rationals.
    exponent = int(np.frexp(max(float(np.abs(values).max()) / 2 + radius / 2, 1e-300))[1]) + 1
    step = Fraction(2) ** max(exponent - 50, -1074)
    new = [round((v - s * shift) / step) * step for v, s in zip(old, signs, strict=True)]
    new[-1] += (target - sum(t * x for t, x in zip(ratios, new, strict=True))) / ratios[-1]
    if all(abs(x - v) <= Fraction(radius) for x, v in zip(new, old, strict=True)):
        return new
    return [v - s * shift for v, s in zip(old, signs, strict=True)]


# Answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class NearCompression(Compression):
    """A smaller network with the function of a parameter within a radius of the original.

    Attributes:
        network: the smaller network; `slack` is what rounding it did to the function of that
            parameter.
        optimal: whether no parameter within the radius needs fewer units.
    """

    nodes: int = 0
    next_step: ClassVar[str] = NEXT_NEARBY

    @property
    def near(self) -> Near:
        assert self.proof.near is not None
        return self.proof.near

    @property
    def radius(self) -> float:
        return self.near.radius

    @property
    def lower(self) -> int:
        """Hidden units that every parameter within the radius needs."""
        return self.near.bound.lower if self.near.bound else 0

    @property
    def optimal(self) -> bool:
        return self.lower == self.network.units

    def within(self, radius: float) -> float:
        """Certified sup of |network - original|_inf over inputs with |x|_inf <= radius."""
        moved = State(self.original, self.near).arrays()
        far = difference(
            exact_arrays(self.original), moved, self.original.activations, radius=radius
        ).constant
        return float(up(np.array([far + self.proof.slack.within(radius)]))[0])

    def rounded(self, dtype: str) -> NearCompression:
        """The same with parameters rounded; rows of the first layer are rounded inside the ball,
        where they fit.
        """
        small = self.network.rounded(dtype)
        if small == self.network:
            return self
        proof = certify(self.original, self.proof.large_moves, small, near=self.near)
        changes = tuple(_rounded(c, dtype) if c.layer == 1 else c for c in self.near.changes)
        try:
            near = replace(self.near, changes=changes)
            state, moves = reduce.reduce(self.original, near=near)
            other = _compression(self.original, near, moves, self.nodes, state)
            if other.network.units == small.units:
                small = other.network.rounded(dtype)
                proof = certify(self.original, moves, small, near=near)
        except CertificateRejected:  # a rounded entry leaves the ball
            pass
        return replace(self, network=small, proof=proof)

    @property
    def statement(self) -> str:
        units = f"{self.original.units} -> {self.network.units} hidden units"
        return f"{units} by changes of at most {self.radius:g}{self.fewest}"

    def rows(self) -> list[tuple[str, str]]:
        table = dict(super().rows())
        del table["same function"]
        if self.near.bound is not None:
            table["needed"] = f"{'=' if self.optimal else '>='} {self.lower} within the radius"
        return [
            *table.items(),
            ("original - smaller", f"<= {above(self.within(1.0), 3)} where |x| <= 1"),
        ]

    def data(self) -> dict[str, Any]:
        near = {
            "radius": self.radius,
            "lower": self.lower,
            "nodes": self.nodes,
            "deviation": self.within(1.0),
        }
        return {**super().data(), **near}


@dataclass(frozen=True, eq=False, repr=False)
class ProximateRank(Rank):
    """How many hidden units the most compressible parameter within a radius needs.

    Attributes:
        lower, upper: proved bounds. greedy: the paper's bound, units in stored order (one hidden
            layer, else None).
        near: a parameter in the ball and what is proved of the ball. nodes: search nodes spent.
    """

    near: Near = field(default=Near(0.0))
    greedy: int | None = None
    nodes: int = 0

    @property
    def radius(self) -> float:
        return self.near.radius

    @cached_property
    def compression(self) -> NearCompression:
        return _compression(self.original, self.near, self.moves, self.nodes)

    @property
    def witness(self) -> Network | None:  # type: ignore[override]
        """A parameter in the ball whose exact rank is `upper`; None where it is no float vector
        (see the certificate).
        """
        state = State(self.original, self.near)
        exact = all(x.is_float() for pair in state.arrays() for x in pair)
        return state.network() if exact else None

    def check(self) -> bool:
        bound = self.near.bound
        return super().check() and self.lower == (bound.lower if bound else 0)

    @property
    def statement(self) -> str:
        return f"proximate {super().statement} within radius {self.radius:g}"

    def rows(self) -> list[tuple[str, str]]:
        greedy = [] if self.greedy is None else [("greedy bound", str(self.greedy))]
        return [*super().rows(), *greedy, ("nodes", str(self.nodes))]

    def data(self) -> dict[str, Any]:
        return {**super().data(), "radius": self.radius, "greedy": self.greedy, "nodes": self.nodes}


def _rounded(change: Change, dtype: str) -> Change:
    if not change.to.is_float():
        return change
    return replace(change, to=ExactArray(change.to.hi.astype(dtype).astype(np.float64)))


def _compression(
    net: Network, near: Near, moves: tuple[Move, ...], nodes: int, state: State | None = None
) -> NearCompression:
    state = state or replay(net, moves, near)
    small = state.network()
    proof = certify(net, moves, small, state=state, near=near)
    lower = near.bound.lower if near.bound else 0
    status = "proved" if lower == small.units else "bounded"
    return NearCompression(status, small, net, proof, nodes)


def compress(
    net: Network,
    radius: float,
    budget: int,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> NearCompression:
    """The smallest network found whose function some parameter within the radius has."""
    found, state, moves = approached(net, radius, budget, executor, progress)
    return _compression(net, found.near, moves, found.nodes, state)


def rank(
    net: Network,
    radius: float,
    budget: int,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> ProximateRank:
    """The least rank within the radius."""
    (near, by_greed, nodes), state, moves = approached(net, radius, budget, executor, progress)
    lower, upper = near.bound.lower if near.bound else 0, sum(state.widths[1:-1])
    status = "proved" if lower == upper else "bounded"
    return ProximateRank(
        status,
        lower,
        upper,
        net.units,
        net,
        moves,
        _reason(net, near, upper),
        near,
        by_greed,
        nodes,
    )


def _reason(net: Network, near: Near, upper: int) -> str:
    if upper == 0:
        return "all units can vanish"
    if near.bound is None:
        what = (
            f"{len(net.layers) - 1} hidden layers"
            if len(net.layers) != 2
            else str(net.activations[0])
        )
        return (
            f"lower bounds are known for one hidden layer of tanh, sigmoid or erf, not for {what}"
        )
    if near.bound.lower == upper:
        return "no cover by fewer signed boxes and free groups, checked by the kernel"
    return "the search stopped before the bounds met (raise the budget)"


# The curve ------------------------------------------------------------------------------------------------------


class RankAtRadius(NamedTuple):
    """A line of a `RankCurve`: bounds of the proximate rank, and the paper's greedy bound."""

    radius: float
    lower: float
    upper: float
    greedy: float


@dataclass(frozen=True, eq=False, repr=False)
class RankCurve(TableResult):
    """Proximate rank against radius, of one network or the mean of several.

    Attributes:
        radii: ``[k]``, increasing. of: hidden units of each network.
        lowers, uppers, greedies: ``[networks, k]``; bounds carried to the radii where they hold
            too, and the running minimum of the paper's greedy bound (which may grow with the
            radius).
        nodes: search nodes, all together.
    """

    radii: Array
    of: tuple[int, ...]
    lowers: Ints
    uppers: Ints
    greedies: Ints
    nodes: int
    kind: ClassVar[str] = "curve"
    head: ClassVar[tuple[str, ...]] = ("radius", "rank", "greedy bound")
    numbers: ClassVar[tuple[str, ...]] = head

    @property
    def lower(self) -> Array:
        """``[k]``, mean over the networks."""
        return np.asarray(self.lowers.mean(axis=0))

    @property
    def upper(self) -> Array:
        """``[k]``, mean over the networks."""
        return np.asarray(self.uppers.mean(axis=0))

    @property
    def greedy(self) -> Array:
        """``[k]``, mean over the networks."""
        return np.asarray(self.greedies.mean(axis=0))

    @property
    def statement(self) -> str:
        closed = int((self.lowers == self.uppers).sum())
        what = "a network" if len(self.of) == 1 else f"{len(self.of)} networks"
        count = f"{closed} of {self.lowers.size} exact"
        return (
            f"proximate rank of {what} at {len(self.radii)} radii up to {self.radii[-1]:g}: {count}"
        )

    def rows(self) -> list[RankAtRadius]:  # type: ignore[override]
        """Means over the networks."""
        columns = (self.radii, self.lower, self.upper, self.greedy)
        return [RankAtRadius(*map(float, row)) for row in zip(*columns, strict=True)]

    def cells(self) -> list[list[str]]:
        found = []
        for row in self.rows():
            low, high = f"{row.lower:g}", f"{row.upper:g}"
            bounds = f"= {high}" if low == high else f"{low} <= . <= {high}"
            found.append([f"{row.radius:.4g}", bounds, f"{row.greedy:g}"])
        return found

    def notes(self) -> list[tuple[str, str]]:
        means = [("ranks", f"means of {len(self.of)} networks")] if len(self.of) > 1 else []
        return [*means, ("hidden units", ", ".join(map(str, sorted(set(self.of)))))]

    def data(self) -> dict[str, Any]:
        table = {"lower": self.lowers, "upper": self.uppers, "greedy": self.greedies}
        return {
            "radii": self.radii.tolist(), "of": list(self.of), "nodes": self.nodes,
            **{name: values.tolist() for name, values in table.items()},
        }  # fmt: skip

    def plot_data(self) -> dict[str, Any]:
        """Curves of the picture: radii, lower, upper, greedy (means), of (mean width)."""
        return {
            "radii": self.radii, "lower": self.lower, "upper": self.upper, "greedy": self.greedy,
            "of": float(np.mean(self.of))
        }  # fmt: skip

    def plot(self, ax: Any = None) -> Any:
        """Rank against radius: the exact curve, or the band between its bounds, beside the greedy
        bound.
        """
        from moduli.common.figures import curve_figure

        return curve_figure(self.plot_data(), ax)


def curve(
    nets: Sequence[Network],
    radii: Sequence[float] | None,
    budget: int,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> RankCurve:
    """Proximate rank of every network at every radius."""
    if not nets:
        raise ValueError("no networks: a curve needs at least one")
    for net in nets:
        try:
            ball(net, 0.0)
        except CertificateRejected as error:
            raise ValueError(f"{error}; `rank` with a radius gives an upper bound") from None
    if radii is None:
        radii = np.linspace(0.0, max(_vanishing(net) for net in nets), 25).tolist()
    steps = np.unique(np.asarray(radii, dtype=np.float64))
    jobs = [(net, float(r)) for net in nets for r in steps]
    if not jobs:
        raise ValueError("no radii: a curve needs at least one")
    run = map if executor is None else _mapper(executor, len(jobs))
    points = np.empty((len(jobs), 4), dtype=np.intp)
    for k, point in enumerate(run(_point, *zip(*jobs, strict=True), [budget] * len(jobs))):
        points[k] = point
        if progress is not None:
            progress(
                k + 1, len(jobs), f"rank in [{point[0]}, {point[1]}] at radius {jobs[k][1]:.4g}"
            )
    lowers, uppers, greedies, nodes = points.T.reshape(4, len(nets), len(steps))
    lowers = np.maximum.accumulate(lowers[:, ::-1], axis=1)[:, ::-1]
    uppers, greedies = (
        np.minimum.accumulate(uppers, axis=1),
        np.minimum.accumulate(greedies, axis=1),
    )
    status = "proved" if (lowers == uppers).all() else "bounded"
    return RankCurve(
        status, steps, tuple(net.units for net in nets), lowers, uppers, greedies, int(nodes.sum())
    )


def _mapper(executor: Executor, jobs: int) -> Callable[..., Iterator[Any]]:
    return partial(executor.map, chunksize=max(1, jobs // 64))


def _point(net: Network, radius: float, budget: int) -> tuple[int, int, int, int]:
    if radius == 0:
        exact = reduce.rank(net)
        return exact.lower, exact.upper, len(greedy(ball(net, 0.0)).paid), 0
    found = rank(net, radius, budget)
    assert found.greedy is not None
    return found.lower, found.upper, found.greedy, found.nodes


def _vanishing(net: Network) -> float:
    """The radius from which on every unit can be made constant or null."""
    whole = ball(net, 0.0)
    incoming, outgoing = (
        np.abs(whole.rows[:, :-1]).max(axis=1),
        np.abs(whole.outgoing).max(axis=1, initial=0.0),
    )
    return float(np.minimum(incoming, outgoing).max(initial=0.0))
