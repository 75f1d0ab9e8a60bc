"""The least radius within which some parameter needs at most a given number of hidden units: the
inverse of the curve of proximate ranks.

By the characterisation in `kernel.radius.cover_bound`, a parameter within a radius r that needs M units
exists iff some plan with M paid groups fits r: a fate for each unit, where

    a constant unit needs r >= max_k |b_ik|,
    each group r >= max over its pairs and coordinates of |s_i p_ik - s_j p_jk| / 2,
    a free group also r >= max_k |sum s_i a_ik| / size,

and paid groups nothing more. So each plan has a least radius of its own, the largest of these numbers,
and the least radius for M units is the smallest of those: it is one of

    max_k |b_ik|,  max_k |p_ik - p_jk| / 2,  max_k |p_ik + p_jk| / 2,  max_k |sum s_i a_ik| / size.

The first three kinds are at most h^2: they are listed, sorted, and searched by bisection with proximate
ranks. Between two neighbours of them the boxes are the same, and only free groups come and go, too many
to list: there the search goes by the radii of the plans that are found, and ends where the rank at the
float below is proved to be larger. Radii are floats, as those of `rank` are: the answer is the least
one that does.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.exact import reduce
from moduli.kernel.certificate import ball
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected, Undecided
from moduli.kernel.exact_numbers import Array, above, below, ceiling, exact_sum, two_sum
from moduli.kernel.network import Network
from moduli.kernel.radius.compatibility import ParameterBall, SignedBox

from . import branch_and_bound, reduce_within
from .cover_heuristics import Plan
from .reduce_within import ProximateRank

QUERIES = 64  # radii between two neighbours of the list at most


@dataclass(frozen=True, eq=False, repr=False)
class LeastRadius(Result):
    """The least radius within which some parameter needs at most `units` hidden units.

    ``float(answer)`` is the radius, or raises `Undecided` where the bounds differ.

    Attributes:
        units: wanted. lower, upper: bounds of the least float that is such a radius; equal where it
            is known.
        at: the proximate rank at `upper`, at most `units`, with its witness. below: at the largest
            radius where more are proved necessary, the float before `lower`; None where `lower` is
            0. nodes: search nodes, all together.
    """

    original: Network
    units: int
    lower: float
    upper: float
    at: ProximateRank | None
    below: ProximateRank | None
    nodes: int
    kind: ClassVar[str] = "radius_for"

    @property
    def exact(self) -> bool:
        """Whether the bounds are equal."""
        return self.lower == self.upper

    @property
    def witness(self) -> Network | None:
        """A parameter within `upper` that needs at most `units`; None where it is no float vector."""
        return self.original if self.at is None else self.at.witness

    def __float__(self) -> float:
        if not self.exact:
            raise Undecided(self.statement, lower=self.lower, upper=self.upper)
        return self.upper

    def check(self) -> bool:
        """Check both proofs again: enough units at `upper`, too many needed below `lower`."""
        if self.at is None:
            fits = reduce.rank(self.original).upper <= self.units
        else:
            fits = self.at.check() and self.at.upper <= self.units
        if self.below is None:
            return fits and self.lower == 0
        needs = self.below.check() and self.below.lower > self.units
        return fits and needs and math.nextafter(self.below.radius, math.inf) == self.lower

    @property
    def statement(self) -> str:
        units = f"at most {self.units} of {self.original.units} hidden units"
        if self.upper == 0:
            return f"the function itself needs no more than {self.units} hidden units"
        if self.exact:
            return f"parameters that need {units} are within radius {self.upper!r}, and for no smaller float"
        ends = f"between {below(self.lower, 6)} and {above(self.upper, 6)} (raise the budget)"
        return f"the least radius within which parameters need {units} is {ends}"

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.original)), ("hidden units", f"at most {self.units}")]

    def facts(self) -> list[tuple[str, str]]:
        ends = f"= {self.upper!r}" if self.exact else f"{self.lower!r} <= . <= {self.upper!r}"
        facts = [("radius", ends)]
        if self.below is not None:
            facts.append(("below it", f"at least {self.below.lower} units, checked by the kernel"))
        return [*facts, ("nodes", str(self.nodes))]

    def data(self) -> dict[str, Any]:
        return {
            "network": self.original.digest, "units": self.units, "lower": self.lower,
            "upper": self.upper, "exact": self.exact, "nodes": self.nodes,
            "needed_below": None if self.below is None else self.below.lower,
        }  # fmt: skip


class _Found(NamedTuple):
    """At one radius: proved bounds of the proximate rank, and the least radius of the plan."""

    lower: int
    upper: int
    reach: float


def radius_for(
    net: Network,
    units: int,
    budget: int = 10_000,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> LeastRadius:
    """The least radius within which some parameter needs at most `units` hidden units."""
    try:
        ball(net, 0.0)
    except CertificateRejected as error:
        raise ArgumentError(f"{error}; `rank` with a radius gives an upper bound") from None
    if not isinstance(units, (int, np.integer)) or units < 0:
        raise ArgumentError(Asked("units", units), ": a whole number of at least 0")
    units = int(units)
    if reduce.rank(net).upper <= units:
        return LeastRadius("proved", net, units, 0.0, 0.0, None, None, 0)
    return _Bisection(net, units, budget, executor, progress).answer()


class _Bisection:
    """Radii that are enough (`high`) and radii that are proved too small (`low`), moved together."""

    def __init__(
        self,
        net: Network,
        units: int,
        budget: int,
        executor: Executor | None,
        progress: Progress | None,
    ) -> None:
        self.net, self.units, self.budget = net, units, budget
        self.executor, self.progress = executor, progress
        self.known: dict[float, _Found] = {}
        self.nodes = 0
        self.low = 0.0  # the function itself needs more
        whole = ball(net, 0.0)
        self.steps = thresholds(whole)
        sizes = np.minimum(
            np.abs(whole.rows[:, :-1]).max(axis=1), np.abs(whole.outgoing).max(axis=1)
        )
        self.high = float(sizes.max())  # every unit can be made constant or null

    def answer(self) -> LeastRadius:
        self._bisect_steps()
        self._bisect_floats()
        # The bounds with their proofs. Searches are deterministic: these find what was found before.
        at = reduce_within.rank(self.net, self.high, self.budget, self.executor)
        below = None
        if self.low > 0 or self.high == math.nextafter(0.0, 1.0):
            below = reduce_within.rank(self.net, self.low, self.budget, self.executor)
        if below is not None and below.lower <= self.units:
            below = None
        lower = 0.0 if below is None else math.nextafter(self.low, math.inf)
        status = "proved" if lower == self.high else "bounded"
        return LeastRadius(status, self.net, self.units, lower, self.high, at, below, self.nodes)

    def _bisect_steps(self) -> None:
        """Among the listed radii: those where boxes change."""
        enough, small = len(self.steps), -1
        while True:
            enough = min(enough, int(np.searchsorted(self.steps, self.high)))
            if enough - small <= 1:
                break
            middle = (enough + small) // 2
            if self._try(float(self.steps[middle])):
                enough = middle
            else:
                small = middle
        if small >= 0 and self.low < self.steps[small]:  # open there: the last one that is proved
            proved, open_ = int(np.searchsorted(self.steps, self.low, side="right")) - 1, small
            while open_ - proved > 1:
                middle = (open_ + proved) // 2
                if self._found(float(self.steps[middle])).lower > self.units:
                    self.low, proved = max(self.low, float(self.steps[middle])), middle
                else:
                    open_ = middle

    def _bisect_floats(self) -> None:
        """Between two of them: the float below the best, then the middle."""
        next_to_high = True
        for _ in range(QUERIES):
            before = math.nextafter(self.high, 0.0)
            if before <= self.low:
                return
            radius = before if next_to_high else self.low + (self.high - self.low) / 2
            radius = min(before, max(radius, math.nextafter(self.low, math.inf)))
            if self._try(radius):
                next_to_high = not next_to_high
            elif self.low < radius:  # open: no more can be said with this budget
                return
            else:
                next_to_high = True

    def _try(self, radius: float) -> bool:
        """Whether `units` are enough at a radius, as far as the search finds; moves the bounds."""
        found = self._found(radius)
        if found.upper > self.units:
            if found.lower > self.units:
                self.low = max(self.low, radius)
            return False
        self.high = min(self.high, radius)
        if found.reach < self.high and self._found(found.reach).upper <= self.units:
            self.high = found.reach
        return True

    def _found(self, radius: float) -> _Found:
        if radius not in self.known:
            layer = ball(self.net, radius)
            answer = branch_and_bound.solve(layer, self.budget, self.executor)
            bound = reduce_within.verified(answer.bound, layer, self.budget)
            self.nodes += answer.nodes
            reach = _reach(layer, answer.plan)
            self.known[radius] = _Found(bound.lower, len(answer.plan.paid), reach)
            if self.progress is not None:
                found = self.known[radius]
                told = f"rank in [{found.lower}, {found.upper}] at radius {radius:.6g}"
                self.progress(len(self.known), None, told)
        return self.known[radius]


def _rounded_up(x: Array, y: Array) -> Array:
    """The least floats >= |x - y| / 2."""
    gap, error = two_sum(np.maximum(x, y), -np.minimum(x, y))
    gap = np.where(error > 0, np.nextafter(gap, np.inf), gap)
    half = gap / 2  # rounded for subnormal numbers only
    return np.asarray(np.where(2 * half < gap, np.nextafter(half, np.inf), half))


def thresholds(layer: ParameterBall) -> Array:
    """The radii, as floats, at which units become constant or null, or pairs of them compatible:
    increasing.
    """
    found: list[Any] = [
        np.abs(layer.rows[:, :-1]).max(axis=1),
        np.abs(layer.outgoing).max(axis=1),
    ]
    for u, row in enumerate(layer.rows):
        for sign in (1.0, -1.0) if layer.signed else (1.0,):
            found.append(_rounded_up(layer.rows[u + 1 :], sign * row).max(axis=1, initial=0.0))
    every = np.unique(np.concatenate(found))
    return np.asarray(every[every > 0])


def _reach(layer: ParameterBall, plan: Plan) -> float:
    """The least float radius that a plan fits."""
    most = 0.0
    for unit in plan.constant:
        most = max(most, float(np.abs(layer.rows[unit, :-1]).max()))
    for unit in plan.null:
        most = max(most, float(np.abs(layer.outgoing[unit]).max()))
    for group in (*plan.paid, *plan.free):
        if len(group.units) > 1:
            same = layer.rows[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
            most = max(most, float(_rounded_up(same.max(axis=0), same.min(axis=0)).max()))
    for group in plan.free:
        most = max(most, _lent(layer, group))
    return most


def _lent(layer: ParameterBall, group: SignedBox) -> float:
    """|sum s_i a_i| / size, in the largest output, rounded up."""
    signed = layer.outgoing[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
    sums: list[Fraction] = [Fraction(exact_sum(column)) for column in signed.T.tolist()]
    return ceiling(max(map(abs, sums)) / len(group.units))
