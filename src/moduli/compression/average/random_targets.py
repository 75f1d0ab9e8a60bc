"""Experiments with wide random ReLU targets: what the simplified problem says of them, what is true, and
how fast the one becomes the other.

A target is sum_i a_i relu(w_i . x), x ~ N(0, I_d), with N independent units: w_i uniform on the unit sphere,
a_i uniform between 1/2 and 3/2, over N. Students are M rows without biases, with their best outgoing weights.

**Finite N, in closed form** (`expected_loss`). For the rows u_j of a simplex, chosen before the target, the
cross terms B_j = sum_i a_i k(u_j . w_i) have, with m = E a, q = E a^2 and kappa = E k (`isotropic`),

    E B_j B_l = N (N - 1) m^2 kappa^2 + N q c(u_j . u_l),        c(u . u') = E_w k(u . w) k(u' . w),
    E |f|^2   = N (N - 1) m^2 kappa + N q / 2,

so E (B^T K^-1 B) = N (N - 1) m^2 kappa^2 S + N q T, with K the kernel of the rows, S = 1^T K^-1 1 and T = trace
K^-1 C. The ratio of what is left to E |f|^2, both in the mean, is the limit 1 - kappa S plus a term of
the order 1/N. c comes from k(t) = sum_l a_l P_l(t), P_l the Legendre polynomials of d dimensions with P_l(1)
= 1: their mean over the sphere is E_w P_l(u . w) P_l'(u' . w) = P_l(u . u') / N(d, l) for l = l', else 0 (Funk
and Hecke; N(d, l) the number of harmonics of degree l). A frame that is turned after the target is seen
leaves less: `MeanField.loss(M, "S2")` predicts that for one network.

Nothing here is the paper's: of that the abstract was read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from moduli.common.domains import Gaussian
from moduli.kernel.errors import ArgumentError, Asked
from moduli.kernel.network import Network

from .fit import Goal, Population, project, simplex
from .gaussian_expectations import UnitLaw
from .mean_field_limit import MeanField, angular, isotropic, mean_field, strength

Array = np.ndarray[Any, np.dtype[np.float64]]
Measured = Literal["frame", "turned", "copies", "S-iso", "S1", "S2"]
MEAN = 1.0  # of a_i, times N: uniform between 1/2 and 3/2
SQUARE = 13 / 12
DEGREES = 80  # of harmonics
NODES = 240
LOSSES: tuple[Measured, ...] = ("frame", "turned", "copies")
LEVELS: tuple[Measured, ...] = ("S-iso", "S1", "S2")


class Estimate(NamedTuple):
    """A mean over draws and its standard error."""

    value: float
    error: float


class Exponent(NamedTuple):
    """A power law fitted to means over draws: value ~ size^power.

    Attributes:
        error: standard error of the power, from those of the means; larger by the root of `misfit` where
            that is above 1. misfit: mean square deviation of the means from the law, in their standard
            errors, by degree of freedom: far above 1 where there is no such law. sizes: how many.
    """

    power: float
    error: float
    misfit: float
    sizes: int


def random_target(units: int, inputs: int, seed: int | np.random.Generator = 0) -> Network:
    """A target as above: without biases, one output."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((units, inputs))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    outer = rng.uniform(0.5, 1.5, (1, units)) / units
    return Network.mlp(rows, np.zeros(units), outer, [0.0], activation="relu")


def limit_loss(inputs: int, students: int) -> float:
    """What a simplex leaves of very wide targets: 1 - `isotropic` `strength`."""
    return 1 - isotropic(inputs) * strength(students)


def expected_loss(units: int, inputs: int, students: int) -> float:
    """What a simplex that is chosen before the target leaves of one with `units` units: E |f - student|^2 over
    E |f|^2, both over all targets. Exact up to rounding and 80 harmonics.

    Raises:
        ArgumentError: numbers for which there are no targets or no simplex.

    >>> [round(expected_loss(n, 10, 5), 4) for n in (100, 1000, 10**6)], round(limit_loss(10, 5), 4)
    ([0.0917, 0.0788, 0.0773], 0.0773)
    """
    _accept(units, inputs, students)
    off = -1 / (students - 1) if students > 1 else 0.0
    same, other = _products(inputs, 1.0), _products(inputs, off)
    # K and C have one number on the diagonal and one beside it: (1, ..., 1) and what is across are eigenspaces
    own, cross = 0.5, float(angular(off))
    trace = (same + (students - 1) * other) / (own + (students - 1) * cross)
    if students > 1:
        trace += (students - 1) * (same - other) / (own - cross)
    many, one = (units - 1) * MEAN**2, SQUARE
    kappa = isotropic(inputs)
    explained = many * kappa**2 * strength(students) + one * trace
    return 1 - explained / (many * kappa + one / 2)


def _products(inputs: int, rho: float) -> float:
    """c(rho) = E_w k(u . w) k(u' . w) for u . u' = rho."""
    return float(np.dot(_spectrum(inputs), _legendre(inputs, np.array([rho]))[:, 0]))


@cache
def _spectrum(inputs: int) -> Array:
    """N(d, l) b_l^2, b_l = E k(t) P_l(t) with t = u . w."""
    from scipy.special import roots_jacobi

    power = (inputs - 3) / 2
    nodes, weight = roots_jacobi(NODES, power, power)
    b = _legendre(inputs, nodes) @ (weight / weight.sum() * angular(nodes))
    degrees = np.arange(1, DEGREES)
    count = [1.0] + [
        (2 * l + inputs - 2) / l * math.comb(l + inputs - 3, l - 1) for l in degrees.tolist()
    ]
    return np.asarray(np.array(count) * b**2)


def _legendre(inputs: int, t: Array) -> Array:
    """P_l(t) for l below DEGREES, ``[degrees, len(t)]``."""
    found = [np.ones(len(t)), t]
    for l in range(1, DEGREES - 1):
        found.append(((2 * l + inputs - 2) * t * found[l] - l * found[l - 1]) / (l + inputs - 2))
    return np.stack(found)


@dataclass(frozen=True)
class Cell:
    """Targets of one size, drawn: what students of one size leave of them.

    Attributes:
        units, inputs, students: N, d, M. limit: `limit_loss`. expected: `expected_loss`. square: ``[draws]``
            E |f|^2. left: ``[draws]`` E |f - student|^2 of three students: "frame", the simplex chosen before;
            "turned", the simplex along main directions of the target; "copies", the M - 1 units of largest
            weight and one along the sum of the others. off: ``[draws]`` how far levels of the simplified problem
            are off in the cross term (`MeanField.off`).
    """

    units: int
    inputs: int
    students: int
    limit: float
    expected: float
    square: Array
    left: dict[Measured, Array]
    off: dict[Measured, Array]

    def loss(self, student: Measured) -> Estimate:
        """E |f - student|^2 over E |f|^2, both means over draws, and the standard error of the ratio."""
        left, square = self.left[student], self.square
        ratio = float(left.sum() / square.sum())
        rest = (left - ratio * square) / square.mean()
        return Estimate(ratio, _standard_error(rest))

    def gap(self) -> Estimate:
        """What the simplex chosen before leaves, less the limit."""
        value, error = self.loss("frame")
        return Estimate(value - self.limit, error)

    def level(self, level: Measured) -> Estimate:
        """How far a level is off."""
        return Estimate(float(self.off[level].mean()), _standard_error(self.off[level]))

    @property
    def winner(self) -> Measured | None:
        """ "turned" or "copies", whichever leaves less, by more than three standard errors of the difference;
        None where that is not seen.
        """
        rest = (self.left["turned"] - self.left["copies"]) / self.square.mean()
        value, error = float(rest.mean()), _standard_error(rest)
        if abs(value) <= 3 * error:
            return None
        return "copies" if value > 0 else "turned"


@dataclass(frozen=True)
class Experiment:
    """Cells of a grid of sizes."""

    cells: tuple[Cell, ...]

    def exponent(
        self, of: Measured | Literal["gap"], along: Literal["units", "inputs"]
    ) -> Exponent:
        """A power law in N or d: of `gap`, of a loss, or of how far a level is off. All cells are used, so
        the other sizes should be the same in all.
        """
        laws = ("gap", *LOSSES, *LEVELS)
        if of not in laws:
            raise ArgumentError(Asked("of", of), f": one of {', '.join(laws)}")
        if along not in ("units", "inputs"):
            raise ArgumentError(Asked("along", along), ": units or inputs")
        if of in LEVELS and not all(of in c.off for c in self.cells):
            raise ArgumentError(Asked("of", of), ": levels were not measured; ask with levels=True")
        others = "inputs" if along == "units" else "units"
        if len({(getattr(c, others), c.students) for c in self.cells}) != 1:
            raise ArgumentError(
                Asked("along", along),
                f": fitted where {others} and students are the same in all cells",
            )
        found = []
        for cell in self.cells:
            if of == "gap":
                found.append(cell.gap())
            else:
                found.append(cell.loss(of) if of in LOSSES else cell.level(of))
        return exponent([getattr(c, along) for c in self.cells], found)


def experiment(
    units: Sequence[int],
    inputs: Sequence[int],
    students: Sequence[int],
    *,
    draws: int = 20,
    seed: int = 0,
    levels: bool = True,
) -> Experiment:
    """Random targets of all these sizes, and what students leave of them.

    Args:
        units, inputs, students: sizes N, d and M; all combinations with M <= d + 1. draws: targets of each, at
            least 2. levels: whether `off` of the simplified problem is measured as well.

    Raises:
        ArgumentError: no such sizes, fewer draws.

    >>> found = experiment([100], [10], [5], draws=8)
    >>> cell = found.cells[0]
    >>> near, error = cell.loss("frame")
    >>> abs(near - cell.expected) < 6 * error, round(cell.limit, 3), cell.winner
    (True, 0.077, 'turned')
    """
    if draws < 2:
        raise ArgumentError(Asked("draws", draws), ": at least 2, for a standard error")
    sizes = [(n, d, m) for n in units for d in inputs for m in students if m <= d + 1]
    if not sizes:
        raise ArgumentError(
            Asked("students", list(students)), ": none is at most one more than the inputs"
        )
    # a target depends on its own size and number alone, whatever else is asked
    return Experiment(tuple(_cell(n, d, m, draws, seed, levels) for n, d, m in sizes))


def _cell(units: int, inputs: int, students: int, draws: int, seed: int, levels: bool) -> Cell:
    _accept(units, inputs, students)
    square, before = list[float](), simplex(students, inputs)
    left: dict[Measured, list[float]] = {name: [] for name in LOSSES}
    off: dict[Measured, list[float]] = {name: [] for name in LEVELS if levels}
    for k in range(draws):
        target = random_target(units, inputs, np.random.default_rng([seed, units, inputs, k]))
        field = mean_field(target, Gaussian())
        goal = Population(field._target, biases=False)
        square.append(goal.variance)
        rows = {
            "frame": before,
            "turned": field.frame(students),
            "copies": _copies(field, students),
        }
        for name in LOSSES:
            left[name].append(_left(goal, rows[name]))
        for name in off:
            off[name].append(field.off(name, seed=k))  # type: ignore[arg-type]
    return Cell(
        units, inputs, students, limit_loss(inputs, students),
        expected_loss(units, inputs, students), np.array(square),
        {name: np.array(values) for name, values in left.items()},
        {name: np.array(values) for name, values in off.items()},
    )  # fmt: skip


def _left(goal: Goal, rows: Array) -> float:
    return project(goal, UnitLaw(np.zeros(len(rows)), rows)).square


def _copies(field: MeanField, students: int) -> Array:
    """Rows of the M - 1 units of largest weight, and one along the weighted sum of the others."""
    rows, outer = field._target.units.row, field._target.outer[:, 0]
    order = np.argsort(-np.abs(outer), kind="stable")
    if len(order) <= students:
        return rows[order]
    kept, rest = order[: students - 1], order[students - 1 :]
    return np.concatenate([rows[kept], (outer[rest] @ rows[rest])[None]])


def exponent(sizes: Sequence[int | float], values: Sequence[Estimate]) -> Exponent:
    """The power law through positive means with standard errors: a line through their logarithms, weighted.

    Raises:
        ArgumentError: fewer than three sizes, means that are not positive, or without error.

    >>> law = exponent([1, 2, 4], [Estimate(8, 0.1), Estimate(4, 0.1), Estimate(2, 0.1)])
    >>> round(law.power, 6), round(law.misfit, 6)
    (-1.0, 0.0)
    """
    if len(set(sizes)) < 3 or len(sizes) != len(values):
        raise ArgumentError(Asked("sizes", list(sizes)), ": at least three, one for each value")
    if not all(v.value > 0 and v.error > 0 for v in values):
        raise ArgumentError(
            Asked("values", list(values)), ": a power law needs positive means and errors"
        )
    x = np.log(np.array(sizes, dtype=np.float64))
    y = np.log([v.value for v in values])
    weight = np.array([(v.value / v.error) ** 2 for v in values])
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    spread = float(weight @ x**2)
    power = float(weight @ (x * y)) / spread
    misfit = float(weight @ (y - power * x) ** 2) / (len(x) - 2)
    return Exponent(power, math.sqrt(max(1.0, misfit) / spread), misfit, len(x))


def _standard_error(values: Array) -> float:
    from scipy.stats import sem

    return float(sem(values))


def _accept(units: int, inputs: int, students: int) -> None:
    if units < 1 or inputs < 2 or not 1 <= students <= inputs + 1:
        raise ArgumentError(
            Asked("units", units), " ", Asked("inputs", inputs), " ", Asked("students", students),
            ": at least one unit, two inputs, and one student up to one more than the inputs",
        )  # fmt: skip
